/* SPDX-License-Identifier: Apache-2.0 */
/* fault_io.c - an LD_PRELOAD object that makes the n-th call to the system fail.
 *
 * It stands between a program with all its libraries (SQLite, libarchive, ...) and the C library, so what it
 * fails is what a full disk, a dying disk or a tired machine would. Calls that the C library makes inside
 * itself (stdio's writes) are not seen. Nothing happens without the environment:
 *
 *   FAULT_PROGRAM  act in the program of this name only (not in the children that inherit the environment)
 *   FAULT_COUNTS   file of FAULT_CLASSES + 1 u64 that is mapped and counted into: how many calls of the
 * chosen classes there were, then how many of each class; survives SIGKILL FAULT_CLASS    chosen classes,
 * joined by commas FAULT_AT       the n-th chosen call (from 1) fails FAULT_TIMES    so many calls from there
 * on (default 1; 0: all of them) FAULT_EVERY    instead: every k-th chosen call FAULT_HOW      name of an
 * errno; SHORT (half the bytes); KILL (SIGKILL before the call), TORN (half the bytes, then SIGKILL)
 *   FAULT_UNDER    only paths that begin so, and file descriptors that were opened by such a path
 *
 * Invariant: a call that is not to fail is passed on unchanged.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/support/fault_io/fault_class.h"

#define OUT __attribute__((visibility("default")))

/* The C library's own allocator, by the names that never lead back here. */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);

enum { FDS = 4096 };
enum way { WAY_ERRNO, WAY_SHORT, WAY_KILL, WAY_TORN };

static struct {
    int armed;
    unsigned chosen; /* bit per class */
    enum way way;
    int error;
    uint64_t at, times, every;
    char under[512];
    size_t under_bytes;
    _Atomic uint64_t *counts; /* [0] chosen ones, [1 + class] */
    _Atomic uint64_t own[FAULT_CLASSES + 1];
    _Atomic unsigned char fds[FDS];
} g = {.times = 1};

static const char *const class_names[FAULT_CLASSES] = FAULT_CLASS_NAMES;

static const struct {
    const char *name;
    int value;
} errors[] = {{"ENOSPC", ENOSPC}, {"EIO", EIO},       {"EINTR", EINTR},   {"ENOMEM", ENOMEM},
              {"EMFILE", EMFILE}, {"EACCES", EACCES}, {"EAGAIN", EAGAIN}, {"EDQUOT", EDQUOT},
              {"ENFILE", ENFILE}, {"EROFS", EROFS},   {"ENOLCK", ENOLCK}, {"EOPNOTSUPP", EOPNOTSUPP}};

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

static unsigned choose(const char *list)
{
    unsigned chosen = 0;
    for (const char *p = list; p && *p;) {
        size_t n = strcspn(p, ",");
        for (unsigned c = 0; c < FAULT_CLASSES; c++)
            if (strlen(class_names[c]) == n && !memcmp(class_names[c], p, n))
                chosen |= 1u << c;
        p += n + (p[n] == ',');
    }
    return chosen;
}

static void choose_way(const char *how)
{
    g.way = WAY_ERRNO;
    g.error = EIO;
    if (!how)
        return;
    if (!strcmp(how, "SHORT"))
        g.way = WAY_SHORT;
    if (!strcmp(how, "KILL"))
        g.way = WAY_KILL;
    if (!strcmp(how, "TORN"))
        g.way = WAY_TORN;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (!strcmp(how, errors[i].name))
            g.error = errors[i].value;
}

static void map_counts(const char *path)
{
    g.counts = g.own;
    long fd = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0)
        return;
    size_t size = sizeof g.own;
    if (!syscall(SYS_ftruncate, fd, size)) {
        long at = syscall(SYS_mmap, NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at != -1)
            g.counts = (_Atomic uint64_t *)at;
    }
    syscall(SYS_close, fd);
}

__attribute__((constructor)) static void arm(void)
{
    const char *program = getenv("FAULT_PROGRAM");
    if (!program || strcmp(program, program_invocation_short_name) != 0)
        return;
    g.chosen = choose(getenv("FAULT_CLASS"));
    choose_way(getenv("FAULT_HOW"));
    g.at = number("FAULT_AT", 0);
    g.times = number("FAULT_TIMES", 1);
    g.every = number("FAULT_EVERY", 0);
    const char *under = getenv("FAULT_UNDER");
    if (under && strlen(under) < sizeof g.under) {
        g.under_bytes = strlen(under);
        memcpy(g.under, under, g.under_bytes);
    }
    map_counts(getenv("FAULT_COUNTS"));
    g.armed = 1;
}

static int path_counts(const char *path)
{
    return !g.under_bytes || (path && !strncmp(path, g.under, g.under_bytes));
}

static int fd_counts(int fd)
{
    return !g.under_bytes || (fd >= 0 && fd < FDS && atomic_load(&g.fds[fd]));
}

static int opened(int fd, const char *path)
{
    if (g.armed && fd >= 0 && fd < FDS)
        atomic_store(&g.fds[fd], g.under_bytes && path && path_counts(path));
    return fd;
}

/* Counts a call; 1 when it is to fail (errno is set), or is only to do half when `half` is not NULL. */
static int fails(enum fault_class class, int concerned, int *half)
{
    if (half)
        *half = 0;
    if (!g.armed || !concerned)
        return 0;
    atomic_fetch_add(&g.counts[1 + class], 1);
    if (!(g.chosen & 1u << class))
        return 0;
    uint64_t n = atomic_fetch_add(&g.counts[0], 1) + 1;
    int now = g.every ? n % g.every == 0 : g.at && n >= g.at && (!g.times || n - g.at < g.times);
    if (!now)
        return 0;
    if (g.way == WAY_KILL || (g.way == WAY_TORN && !half))
        kill(getpid(), SIGKILL);
    if (g.way == WAY_SHORT || g.way == WAY_TORN) {
        if (half)
            *half = 1;
        return 0;
    }
    errno = g.error;
    return 1;
}

static size_t cut(size_t n, int half)
{
    return half && n > 1 ? n / 2 : n;
}

static void torn(int half)
{
    if (half && g.way == WAY_TORN)
        kill(getpid(), SIGKILL);
}

/* ---- opening and closing ------------------------------------------------------------------------------- */

static int open_any(int at, const char *path, int flags, mode_t mode)
{
    if (fails(FAULT_OPEN, path_counts(path), NULL))
        return -1;
    return opened((int)syscall(SYS_openat, at, path, flags, mode), path);
}

static mode_t mode_of(int flags, va_list args)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
}

#define OPEN(name)                                                                                           \
    OUT int name(const char *path, int flags, ...);                                                          \
    OUT int name(const char *path, int flags, ...)                                                           \
    {                                                                                                        \
        va_list args;                                                                                        \
        va_start(args, flags);                                                                               \
        mode_t mode = mode_of(flags, args);                                                                  \
        va_end(args);                                                                                        \
        return open_any(AT_FDCWD, path, flags, mode);                                                        \
    }
#define OPENAT(name)                                                                                         \
    OUT int name(int at, const char *path, int flags, ...);                                                  \
    OUT int name(int at, const char *path, int flags, ...)                                                   \
    {                                                                                                        \
        va_list args;                                                                                        \
        va_start(args, flags);                                                                               \
        mode_t mode = mode_of(flags, args);                                                                  \
        va_end(args);                                                                                        \
        return open_any(at, path, flags, mode);                                                              \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* What _FORTIFY_SOURCE makes of open without a mode. */
OUT int __open_2(const char *path, int flags);
OUT int __open_2(const char *path, int flags)
{
    return open_any(AT_FDCWD, path, flags, 0);
}
OUT int __open64_2(const char *path, int flags);
OUT int __open64_2(const char *path, int flags)
{
    return open_any(AT_FDCWD, path, flags, 0);
}
OUT int __openat_2(int at, const char *path, int flags);
OUT int __openat_2(int at, const char *path, int flags)
{
    return open_any(at, path, flags, 0);
}

/* Looks a function of the C library up once; the cast through memcpy keeps to the standard. */
#define NEXT(type, variable, name)                                                                           \
    static __typeof__(type) variable;                                                                        \
    if (!variable) {                                                                                         \
        void *symbol_ = dlsym(RTLD_NEXT, name);                                                              \
        memcpy(&variable, &symbol_, sizeof variable);                                                        \
    }

OUT FILE *fopen(const char *restrict path, const char *restrict mode)
{
    NEXT(FILE * (*)(const char *, const char *), next, "fopen");
    return fails(FAULT_OPEN, path_counts(path), NULL) ? NULL : next(path, mode);
}
OUT FILE *fopen64(const char *restrict path, const char *restrict mode)
{
    return fopen(path, mode);
}

OUT int mkostemp(char *path, int flags)
{
    NEXT(int (*)(char *, int), next, "mkostemp");
    return fails(FAULT_OPEN, path_counts(path), NULL) ? -1 : opened(next(path, flags), path);
}
OUT int mkstemp(char *path)
{
    return mkostemp(path, 0);
}

OUT DIR *opendir(const char *path)
{
    NEXT(DIR * (*)(const char *), next, "opendir");
    return fails(FAULT_OPEN, path_counts(path), NULL) ? NULL : next(path);
}

OUT int close(int fd)
{
    int concerned = fd_counts(fd);
    if (g.armed && fd >= 0 && fd < FDS)
        atomic_store(&g.fds[fd], 0);
    int bad = fails(FAULT_CLOSE, concerned, NULL), saved = errno;
    int rc = (int)syscall(SYS_close, fd); /* on Linux it is closed whatever close says */
    if (!bad)
        return rc;
    errno = saved;
    return -1;
}

/* ---- reading and writing ------------------------------------------------------------------------------- */

OUT ssize_t read(int fd, void *to, size_t n)
{
    int half;
    return fails(FAULT_READ, fd_counts(fd), &half) ? -1 : syscall(SYS_read, fd, to, cut(n, half));
}

static ssize_t pread_any(int fd, void *to, size_t n, off_t at)
{
    int half;
    return fails(FAULT_READ, fd_counts(fd), &half) ? -1 : syscall(SYS_pread64, fd, to, cut(n, half), at);
}
OUT ssize_t pread(int fd, void *to, size_t n, off_t at)
{
    return pread_any(fd, to, n, at);
}
OUT ssize_t pread64(int fd, void *to, size_t n, off64_t at)
{
    return pread_any(fd, to, n, at);
}

OUT ssize_t write(int fd, const void *from, size_t n)
{
    int half;
    if (fails(FAULT_WRITE, fd_counts(fd), &half))
        return -1;
    ssize_t done = syscall(SYS_write, fd, from, cut(n, half));
    torn(half);
    return done;
}

static ssize_t pwrite_any(int fd, const void *from, size_t n, off_t at)
{
    int half;
    if (fails(FAULT_WRITE, fd_counts(fd), &half))
        return -1;
    ssize_t done = syscall(SYS_pwrite64, fd, from, cut(n, half), at);
    torn(half);
    return done;
}
OUT ssize_t pwrite(int fd, const void *from, size_t n, off_t at)
{
    return pwrite_any(fd, from, n, at);
}
OUT ssize_t pwrite64(int fd, const void *from, size_t n, off64_t at)
{
    return pwrite_any(fd, from, n, at);
}

/* Half of several parts: the first of them, or half of the only one. */
static ssize_t pwritev_any(int fd, const struct iovec *parts, int n, off_t at, int with_offset)
{
    int half;
    if (fails(FAULT_WRITE, fd_counts(fd), &half))
        return -1;
    struct iovec first;
    if (half && n > 0) {
        first = parts[0];
        first.iov_len = n == 1 ? cut(first.iov_len, 1) : first.iov_len;
        parts = &first;
        n = 1;
    }
    ssize_t done =
        with_offset ? syscall(SYS_pwritev, fd, parts, n, at, (long)0) : syscall(SYS_writev, fd, parts, n);
    torn(half);
    return done;
}
OUT ssize_t writev(int fd, const struct iovec *parts, int n)
{
    return pwritev_any(fd, parts, n, 0, 0);
}
OUT ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t at)
{
    return pwritev_any(fd, parts, n, at, 1);
}
OUT ssize_t pwritev64(int fd, const struct iovec *parts, int n, off64_t at)
{
    return pwritev_any(fd, parts, n, at, 1);
}

/* ---- what a file system does besides --------------------------------------------------------------------
 */

OUT int fsync(int fd)
{
    return fails(FAULT_SYNC, fd_counts(fd), NULL) ? -1 : (int)syscall(SYS_fsync, fd);
}
OUT int fdatasync(int fd)
{
    return fails(FAULT_SYNC, fd_counts(fd), NULL) ? -1 : (int)syscall(SYS_fdatasync, fd);
}
OUT int sync_file_range(int fd, off64_t at, off64_t n, unsigned flags)
{
    return fails(FAULT_SYNC, fd_counts(fd), NULL) ? -1 : (int)syscall(SYS_sync_file_range, fd, at, n, flags);
}

OUT int ftruncate(int fd, off_t n)
{
    return fails(FAULT_SPACE, fd_counts(fd), NULL) ? -1 : (int)syscall(SYS_ftruncate, fd, n);
}
OUT int ftruncate64(int fd, off64_t n)
{
    return ftruncate(fd, n);
}
OUT int fallocate(int fd, int mode, off_t at, off_t n)
{
    return fails(FAULT_SPACE, fd_counts(fd), NULL) ? -1 : (int)syscall(SYS_fallocate, fd, mode, at, n);
}
OUT int fallocate64(int fd, int mode, off64_t at, off64_t n)
{
    return fallocate(fd, mode, at, n);
}
/* Returns the error instead of setting errno. */
OUT int posix_fallocate(int fd, off_t at, off_t n)
{
    NEXT(int (*)(int, off_t, off_t), next, "posix_fallocate");
    return fails(FAULT_SPACE, fd_counts(fd), NULL) ? errno : next(fd, at, n);
}
OUT int posix_fallocate64(int fd, off64_t at, off64_t n)
{
    return posix_fallocate(fd, at, n);
}

static void *map_any(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    /* Memory without a file is the allocator's affair. */
    int anonymous = (flags & MAP_ANONYMOUS) != 0;
    if (fails(anonymous ? FAULT_MEMORY : FAULT_MAP, anonymous ? !g.under_bytes : fd_counts(fd), NULL))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, offset);
}
OUT void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    return map_any(at, n, protection, flags, fd, offset);
}
OUT void *mmap64(void *at, size_t n, int protection, int flags, int fd, off64_t offset)
{
    return map_any(at, n, protection, flags, fd, offset);
}

OUT int rename(const char *from, const char *to)
{
    return fails(FAULT_NAME, path_counts(to), NULL)
               ? -1
               : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0u);
}
OUT int unlink(const char *path)
{
    return fails(FAULT_NAME, path_counts(path), NULL) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
OUT int unlinkat(int at, const char *path, int flags)
{
    int concerned = at == AT_FDCWD ? path_counts(path) : fd_counts(at);
    return fails(FAULT_NAME, concerned, NULL) ? -1 : (int)syscall(SYS_unlinkat, at, path, flags);
}
OUT int mkdir(const char *path, mode_t mode)
{
    return fails(FAULT_NAME, path_counts(path), NULL) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

OUT int flock(int fd, int operation)
{
    return fails(FAULT_LOCK, fd_counts(fd), NULL) ? -1 : (int)syscall(SYS_flock, fd, operation);
}

/* Giving a lock back is never refused by a system, so it is not refused here. */
static int fcntl_any(int fd, int command, long arg)
{
    int takes =
        command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
    if (takes) {
        struct flock lock;
        memcpy(&lock, (const void *)arg, sizeof lock);
        if (lock.l_type != F_UNLCK && fails(FAULT_LOCK, fd_counts(fd), NULL))
            return -1;
    }
    return (int)syscall(SYS_fcntl, fd, command, arg);
}
#define FCNTL(name)                                                                                          \
    OUT int name(int fd, int command, ...);                                                                  \
    OUT int name(int fd, int command, ...)                                                                   \
    {                                                                                                        \
        va_list args;                                                                                        \
        va_start(args, command);                                                                             \
        long arg = va_arg(args, long);                                                                       \
        va_end(args);                                                                                        \
        return fcntl_any(fd, command, arg);                                                                  \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

#define STAT(name, type)                                                                                     \
    OUT int name(const char *restrict path, struct type *restrict out)                                       \
    {                                                                                                        \
        NEXT(int (*)(const char *, struct type *), next, #name);                                             \
        return fails(FAULT_STAT, path_counts(path), NULL) ? -1 : next(path, out);                            \
    }
#define FSTAT(name, type)                                                                                    \
    OUT int name(int fd, struct type *out)                                                                   \
    {                                                                                                        \
        NEXT(int (*)(int, struct type *), next, #name);                                                      \
        return fails(FAULT_STAT, fd_counts(fd), NULL) ? -1 : next(fd, out);                                  \
    }
STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)
STAT(statvfs, statvfs)
FSTAT(fstat, stat)
FSTAT(fstat64, stat64)

/* ---- processes, threads, pipes ---------------------------------------------------------------------------
 */

OUT pid_t fork(void)
{
    NEXT(pid_t(*)(void), next, "fork");
    return fails(FAULT_PROCESS, !g.under_bytes, NULL) ? -1 : next();
}
/* These two return the error. */
OUT int posix_spawn(pid_t *restrict pid, const char *restrict path, const posix_spawn_file_actions_t *actions,
                    const posix_spawnattr_t *restrict attributes, char *const argv[restrict],
                    char *const envp[restrict])
{
    NEXT(int (*)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                 char *const *, char *const *),
         next, "posix_spawn");
    return fails(FAULT_PROCESS, !g.under_bytes, NULL) ? errno
                                                      : next(pid, path, actions, attributes, argv, envp);
}
OUT int pthread_create(pthread_t *restrict thread, const pthread_attr_t *restrict attributes,
                       void *(*start)(void *), void *restrict arg)
{
    NEXT(int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *), next, "pthread_create");
    return fails(FAULT_PROCESS, !g.under_bytes, NULL) ? errno : next(thread, attributes, start, arg);
}
OUT int pipe2(int ends[2], int flags)
{
    return fails(FAULT_PROCESS, !g.under_bytes, NULL) ? -1 : (int)syscall(SYS_pipe2, ends, flags);
}

/* ---- memory ---------------------------------------------------------------------------------------------
 */

OUT void *malloc(size_t n)
{
    return fails(FAULT_MEMORY, !g.under_bytes, NULL) ? NULL : __libc_malloc(n);
}
OUT void *calloc(size_t n, size_t size)
{
    return fails(FAULT_MEMORY, !g.under_bytes, NULL) ? NULL : __libc_calloc(n, size);
}
OUT void *realloc(void *p, size_t n)
{
    return n && fails(FAULT_MEMORY, !g.under_bytes, NULL) ? NULL : __libc_realloc(p, n);
}
OUT void *aligned_alloc(size_t align, size_t n)
{
    return fails(FAULT_MEMORY, !g.under_bytes, NULL) ? NULL : __libc_memalign(align, n);
}
OUT void *memalign(size_t align, size_t n);
OUT void *memalign(size_t align, size_t n)
{
    return aligned_alloc(align, n);
}
OUT int posix_memalign(void **out, size_t align, size_t n)
{
    if (fails(FAULT_MEMORY, !g.under_bytes, NULL))
        return ENOMEM;
    void *p = __libc_memalign(align, n);
    if (!p)
        return ENOMEM;
    *out = p;
    return 0;
}
