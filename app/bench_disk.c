/* SPDX-License-Identifier: Apache-2.0 */
/* bench_disk.c - see bench_disk.h. */
#include "app/bench_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/bench_scratch.h"
#include "engine/base/file.h"

enum { PIECE = 256 * 1024, STAMP = 4096 };
static const char file_name[] = "disk.bin";

/* Every page of every request is another one, so that nothing below us can store it once. */
static void stamp(const struct bench_disk *d, uint64_t at)
{
    for (size_t i = 0; i < d->request; i += STAMP) {
        uint64_t place = at + i;
        memcpy(d->data + i, &place, sizeof place);
    }
}

static int stopped(const struct bench_disk *d, struct err *e)
{
    return cancel_requested(d->cancel) ? err_set(e, ERR_CANCELLED, "stopped") : 0;
}

static int write_file(const struct bench_disk *d, int fd, const char *path, double *seconds, struct err *e)
{
    double spent = 0;
    int rc = 0;
    for (uint64_t at = 0; !rc && at < d->bytes; at += d->request) {
        stamp(d, at);
        double begun = clock_seconds();
        rc = file_pwrite_all(fd, d->data, d->request, at, path, e);
        spent += clock_seconds() - begun;
        progress_report(d->progress, "measuring the disk", 0, 0);
        if (!rc)
            rc = stopped(d, e);
    }
    double begun = clock_seconds();
    if (!rc && fdatasync(fd))
        rc = err_errno(e, errno, "cannot sync %s; check the disk", path);
    *seconds = spent + clock_seconds() - begun;
    return rc;
}

static int read_file(const struct bench_disk *d, int fd, size_t piece, const char *path, double *seconds,
                     struct err *e)
{
    double begun = clock_seconds();
    int rc = 0;
    for (uint64_t at = 0; !rc && at < d->bytes;) {
        size_t want = d->bytes - at < piece ? (size_t)(d->bytes - at) : piece;
        ssize_t n = pread(fd, d->data, want, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            rc = n < 0 ? err_errno(e, errno, "cannot read %s; check the disk", path)
                       : err_set(e, ERR_IO, "%s became shorter while it was read", path);
            break;
        }
        at += (uint64_t)n;
        progress_report(d->progress, "measuring the disk", 0, 0);
        rc = stopped(d, e);
    }
    *seconds = clock_seconds() - begun;
    return rc;
}

/* A file system without O_DIRECT is passed over: no round of that way. */
static int one_way(struct bench_disk *d, enum bench_disk_way way, const char *path, struct err *e)
{
    size_t piece = PIECE < d->request ? PIECE : d->request;
    int direct = way == DISK_WRITE_DIRECT || way == DISK_READ_DIRECT ? O_DIRECT : 0;
    int writes = way == DISK_WRITE_DIRECT || way == DISK_WRITE_CACHED;
    double seconds = 0, left = 0;
    int rc = 0;
    if (writes && unlink(path) && errno != ENOENT)
        return err_errno(e, errno, "cannot delete %s", path);
    if (!writes)
        rc = bench_cache_drop(d->folder, &left, e);
    if (rc)
        return rc;
    int fd = open(path, (writes ? O_RDWR | O_CREAT | O_EXCL : O_RDONLY) | O_CLOEXEC | direct, 0600);
    if (fd < 0)
        return direct && errno == EINVAL ? 0 : err_errno(e, errno, "cannot open %s", path);
    rc = writes ? write_file(d, fd, path, &seconds, e)
                : read_file(d, fd, direct ? d->request : piece, path, &seconds, e);
    if (close(fd) && !rc)
        rc = err_errno(e, errno, "cannot close %s", path);
    if (!rc && seconds > 0 && d->rounds[way] < DISK_ROUNDS)
        d->speed[way][d->rounds[way]++] = (double)d->bytes / seconds;
    return rc;
}

int bench_disk_round(struct bench_disk *d, struct err *e)
{
    char *path = path_join(d->folder, file_name);
    if (!path)
        return err_memory(e, "a path");
    int rc = 0;
    for (int way = 0; !rc && way < DISK_WAYS; way++)
        rc = one_way(d, (enum bench_disk_way)way, path, e);
    if (unlink(path) && errno != ENOENT && !rc)
        rc = err_errno(e, errno, "cannot delete %s", path);
    free(path);
    return rc;
}

double bench_disk_speed(const struct bench_disk *d, enum bench_disk_way way)
{
    double sorted[DISK_ROUNDS];
    memcpy(sorted, d->speed[way], sizeof sorted);
    return bench_median(sorted, d->rounds[way]);
}

static double faster(double a, double b)
{
    return a > b ? a : b;
}

double bench_disk_write(const struct bench_disk *d)
{
    return faster(bench_disk_speed(d, DISK_WRITE_DIRECT), bench_disk_speed(d, DISK_WRITE_CACHED));
}

double bench_disk_read(const struct bench_disk *d)
{
    return faster(bench_disk_speed(d, DISK_READ_DIRECT), bench_disk_speed(d, DISK_READ_CACHED));
}
