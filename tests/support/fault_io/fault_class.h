/* SPDX-License-Identifier: Apache-2.0 */
/* fault_class.h - the kinds of calls that fault_io.c counts and fails, and their names in FAULT_CLASS. */
#ifndef LECTERN_TESTS_SUPPORT_FAULT_CLASS_H
#define LECTERN_TESTS_SUPPORT_FAULT_CLASS_H

enum fault_class {
    FAULT_OPEN,    /* open, openat, fopen, opendir, mkostemp */
    FAULT_READ,    /* read, pread */
    FAULT_WRITE,   /* write, pwrite, writev, pwritev */
    FAULT_SYNC,    /* fsync, fdatasync, sync_file_range */
    FAULT_SPACE,   /* fallocate, posix_fallocate, ftruncate */
    FAULT_MAP,     /* mmap of a file */
    FAULT_NAME,    /* rename, unlink, mkdir */
    FAULT_LOCK,    /* flock, fcntl locks */
    FAULT_CLOSE,   /* close */
    FAULT_STAT,    /* stat, fstat, lstat, statvfs */
    FAULT_PROCESS, /* fork, posix_spawn, pthread_create, pipe2 */
    FAULT_MEMORY,  /* malloc and its kin, mmap without a file */
    FAULT_CLASSES
};

#define FAULT_CLASS_NAMES                                                                                    \
    {                                                                                                        \
        "open", "read", "write", "sync", "space", "map", "name", "lock", "close", "stat", "process",         \
            "memory"                                                                                         \
    }

#endif
