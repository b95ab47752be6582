/* SPDX-License-Identifier: Apache-2.0 */
/* bench_scratch.c - see bench_scratch.h. */
#include "app/bench_scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"

#define PREFIX "bench-"
enum { SUFFIX = 6, TRIES = 10, OPEN_FOLDERS = 16 };

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    return remove(path) && errno != ENOENT ? -1 : 0;
}

/* Never through a link, never into another file system. */
static int remove_tree(const char *path, struct err *e)
{
    if (nftw(path, remove_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) && errno != ENOENT)
        return err_errno(e, errno, "cannot delete %s; delete it by hand", path);
    return 0;
}

/* -1 when somebody has it, or it is no folder. */
static int lock_folder(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static int remove_stale(const char *data_dir, struct err *e)
{
    DIR *dir = opendir(data_dir);
    if (!dir)
        return err_errno(e, errno, "cannot list %s", data_dir);
    int rc = 0;
    for (const struct dirent *entry; !rc && (entry = readdir(dir));) {
        if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) != 0 ||
            strlen(entry->d_name) != strlen(PREFIX) + SUFFIX)
            continue;
        char *path = path_join(data_dir, entry->d_name);
        if (!path) {
            rc = err_memory(e, "a path");
            break;
        }
        int fd = lock_folder(path);
        if (fd >= 0) {
            rc = remove_tree(path, e);
            close(fd);
        }
        free(path);
    }
    closedir(dir);
    return rc;
}

int bench_scratch_make(struct bench_scratch *out, const char *data_dir, struct err *e)
{
    *out = (struct bench_scratch){.lock = -1};
    int rc = dir_make(data_dir, e);
    if (!rc)
        rc = remove_stale(data_dir, e);
    for (int i = 0; !rc && !out->path; i++) {
        char *path = path_join(data_dir, PREFIX "XXXXXX");
        if (!path)
            return err_memory(e, "a path");
        if (!mkdtemp(path)) {
            rc = err_errno(e, errno, "cannot make a folder in %s", data_dir);
            free(path);
            break;
        }
        /* Another benchmark that is just tidying up may have taken it before it was locked. */
        struct stat opened, named;
        out->lock = lock_folder(path);
        if (out->lock >= 0 && !fstat(out->lock, &opened) && !stat(path, &named) &&
            opened.st_ino == named.st_ino) {
            out->path = path;
            break;
        }
        if (out->lock >= 0)
            close(out->lock);
        out->lock = -1;
        rc = i + 1 < TRIES ? 0 : err_set(e, ERR_BUSY, "cannot lock %s; try again", path);
        free(path);
    }
    return rc;
}

int bench_scratch_remove(struct bench_scratch *s, struct err *e)
{
    int rc = s->path ? remove_tree(s->path, e) : 0;
    if (s->path)
        close(s->lock);
    free(s->path);
    *s = (struct bench_scratch){.lock = -1};
    return rc;
}

int bench_free_bytes(const char *path, uint64_t *out, struct err *e)
{
    struct statvfs fs;
    if (statvfs(path, &fs))
        return err_errno(e, errno, "cannot ask for the free space of %s", path);
    *out = (uint64_t)fs.f_bavail * fs.f_frsize;
    return 0;
}

/* Adds a file's pages and those of them in the cache. */
static int count_cached(int fd, uint64_t size, uint64_t *pages, uint64_t *cached)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = (size_t)((size + page - 1) / page);
    unsigned char *flags = malloc(n ? n : 1);
    void *map = size ? mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    int known = flags && map != MAP_FAILED && !mincore(map, (size_t)size, flags);
    for (size_t i = 0; known && i < n; i++)
        *cached += flags[i] & 1;
    *pages += known ? n : 0;
    if (map != MAP_FAILED)
        munmap(map, (size_t)size);
    free(flags);
    return known || !size;
}

static int drop_file(int folder, const char *name, uint64_t *pages, uint64_t *cached, struct err *e)
{
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    int rc = 0;
    if (fd < 0 && (errno == ENOENT || errno == ELOOP))
        return 0;
    if (fd < 0 || fstat(fd, &st))
        rc = err_errno(e, errno, "cannot open %s", name);
    if (!rc && S_ISREG(st.st_mode)) {
        if (fdatasync(fd)) /* only clean pages can be dropped */
            rc = err_errno(e, errno, "cannot sync %s", name);
        int failed = rc ? 0 : posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        if (failed)
            rc = err_errno(e, failed, "cannot drop the cached pages of %s", name);
        if (!rc && !count_cached(fd, (uint64_t)st.st_size, pages, cached))
            rc = err_errno(e, errno, "cannot ask which pages of %s are cached", name);
    }
    if (fd >= 0)
        close(fd);
    return rc;
}

int bench_cache_drop(const char *folder, double *left, struct err *e)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return err_errno(e, errno, "cannot list %s", folder);
    uint64_t pages = 0, cached = 0;
    int rc = 0;
    for (const struct dirent *entry; !rc && (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            rc = drop_file(dirfd(dir), entry->d_name, &pages, &cached, e);
    closedir(dir);
    *left = pages ? (double)cached / (double)pages : 0;
    return rc;
}

double bench_cpu_seconds(void)
{
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u))
        return 0; /* it cannot fail with these arguments */
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, int n)
{
    if (n <= 0)
        return 0;
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}
