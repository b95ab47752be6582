/* SPDX-License-Identifier: Apache-2.0 */
/* bench_disk.h - the disk's own sequential speed, as a plain program gets it: one file, one thread, requests
 * of the size of a stored block. What the store does is held against it.
 *
 *   written   O_DIRECT, and through the page cache with one sync at the end
 *   read      O_DIRECT, and through the page cache after its pages were dropped, in pieces of 256 KiB
 *
 * Neither way is the faster one on every machine; `best` is the faster median of the two.
 */
#ifndef LECTERN_APP_BENCH_DISK_H
#define LECTERN_APP_BENCH_DISK_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/clock.h"
#include "engine/base/err.h"
#include "engine/base/progress.h"

enum bench_disk_way { DISK_WRITE_DIRECT, DISK_WRITE_CACHED, DISK_READ_DIRECT, DISK_READ_CACHED, DISK_WAYS };
enum { DISK_ROUNDS = 16 };

struct bench_disk {
    const char *folder; /* of the file; borrowed */
    uint64_t bytes;     /* of the file: a multiple of request */
    size_t request;     /* bytes; a multiple of 4,096 */
    uint8_t *data;      /* [request] bytes at a page boundary, written and read over; borrowed */
    const struct progress *progress;
    struct cancel *cancel;
    double speed[DISK_WAYS][DISK_ROUNDS]; /* bytes a second */
    int rounds[DISK_WAYS];                /* 0: this file system cannot do it (O_DIRECT) */
};

/* Writes and reads the file once in each way and deletes it. ERR_CANCELLED, ERR_IO. */
int bench_disk_round(struct bench_disk *d, struct err *e);

/* Median bytes a second of a way, 0 when it cannot be had. And the faster of two. */
double bench_disk_speed(const struct bench_disk *d, enum bench_disk_way way);
double bench_disk_write(const struct bench_disk *d);
double bench_disk_read(const struct bench_disk *d);

#endif
