/* SPDX-License-Identifier: Apache-2.0 */
/* pool.h - a fixed set of worker threads that share out numbered tasks; idle workers sleep.
 *
 * Which thread runs a task never changes what the task computes: callers split work so that each task writes
 * its own output. One pool belongs to one session; pool_run is not re-entrant.
 */
#ifndef LECTERN_ENGINE_BASE_POOL_H
#define LECTERN_ENGINE_BASE_POOL_H

#include "engine/base/err.h"

struct pool;

/* `threads` >= 1 counts the calling thread; 0 takes the number of processors this process may use. */
int pool_create(struct pool **out, int threads, struct err *e);
void pool_free(struct pool *p); /* NULL is legal */

int pool_threads(const struct pool *p);

/* Runs task(arg, index, thread) for index 0..tasks-1 on all threads, the caller's too, and returns when all
 * are done. `thread` is 0..pool_threads-1, for per-thread scratch. p NULL runs everything here (thread 0). */
void pool_run(struct pool *p, int tasks, void (*task)(void *arg, int index, int thread), void *arg);

#endif
