/* SPDX-License-Identifier: Apache-2.0 */
/* rows.c - rows over a pool. */
#include "kernels/rows.h"

struct rows_job {
    size_t T;
    void (*run)(const void *args, size_t t0, size_t t1);
    const void *args;
};

static void rows_task(void *arg, int index, int thread)
{
    (void)thread;
    const struct rows_job *j = arg;
    size_t t0 = (size_t)index * ROWS_PER_TASK;
    j->run(j->args, t0, t0 + ROWS_PER_TASK < j->T ? t0 + ROWS_PER_TASK : j->T);
}

void rows_run(struct pool *pool, size_t T, void (*run)(const void *args, size_t t0, size_t t1),
              const void *args)
{
    struct rows_job job = {.T = T, .run = run, .args = args};
    pool_run(pool, (int)((T + ROWS_PER_TASK - 1) / ROWS_PER_TASK), rows_task, &job);
}
