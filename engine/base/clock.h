/* SPDX-License-Identifier: Apache-2.0 */
/* clock.h - seconds, and the flag by which a person stops a long step. */
#ifndef LECTERN_ENGINE_BASE_CLOCK_H
#define LECTERN_ENGINE_BASE_CLOCK_H

#include <stdatomic.h>

/* Monotonic seconds since an arbitrary start. */
double clock_seconds(void);

/* Unix time in seconds. */
long long clock_unix(void);

/* Set to non-zero by another thread or a signal handler to stop a step; owned by the caller of the step. NULL
 * where a pointer to one is taken means "cannot be cancelled". */
struct cancel {
    atomic_int requested;
};

static inline int cancel_requested(struct cancel *c)
{
    return c && atomic_load_explicit(&c->requested, memory_order_relaxed);
}

#endif
