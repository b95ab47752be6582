/* SPDX-License-Identifier: Apache-2.0 */
/* rows.h - spreads rows over a pool in runs of 16; kernels/ alone. */
#ifndef LECTERN_KERNELS_ROWS_H
#define LECTERN_KERNELS_ROWS_H

#include <stddef.h>

#include "engine/base/pool.h"

enum { ROWS_PER_TASK = 16 };

/* Calls run(args, t0, t1) over [0, T); T up to one run stays on this thread. */
void rows_run(struct pool *pool, size_t T, void (*run)(const void *args, size_t t0, size_t t1),
              const void *args);

#endif
