/* SPDX-License-Identifier: Apache-2.0 */
/* bench_scratch.h - a folder of a benchmark's own below the data folder, and the page cache of its files.
 *
 * Invariant: the folder is locked while its benchmark lives; what a killed one left is removed by the next.
 */
#ifndef LECTERN_APP_BENCH_SCRATCH_H
#define LECTERN_APP_BENCH_SCRATCH_H

#include <stdint.h>

#include "engine/base/err.h"

struct bench_scratch {
    char *path; /* owned; NULL when there is none */
    int lock;   /* the folder, open and flocked */
};

/* Removes what dead benchmarks left below `data_dir` (made when missing), then makes DATA_DIR/bench-XXXXXX.
 */
int bench_scratch_make(struct bench_scratch *out, const char *data_dir, struct err *e);

/* Deletes the folder with all that is in it. Legal on a zeroed one; frees it in every case. */
int bench_scratch_remove(struct bench_scratch *s, struct err *e);

/* Bytes that this user may still write to the file system of `path`. */
int bench_free_bytes(const char *path, uint64_t *out, struct err *e);

/* Syncs every file of a folder (not of those below) and asks the system to forget its cached pages. *left:
 * share of their pages that it still holds, 0..1. */
int bench_cache_drop(const char *folder, double *left, struct err *e);

/* CPU seconds of this process so far, in all threads, user and system. */
double bench_cpu_seconds(void);

/* The median, which sorts `values`; 0 when n is 0. */
double bench_median(double *values, int n);

#endif
