/* SPDX-License-Identifier: Apache-2.0 */
/* progress.h - how a long step tells its caller how far it is. */
#ifndef LECTERN_ENGINE_BASE_PROGRESS_H
#define LECTERN_ENGINE_BASE_PROGRESS_H

#include <stdint.h>

/* `report` may be called often and from the thread that runs the step; `what` is a short word for people
 * ("reading"), done and total in the step's own unit (total 0 = unknown). A NULL struct progress is legal
 * wherever one is taken. */
struct progress {
    void (*report)(void *arg, const char *what, uint64_t done, uint64_t total);
    void *arg;
};

static inline void progress_report(const struct progress *p, const char *what, uint64_t done, uint64_t total)
{
    if (p && p->report)
        p->report(p->arg, what, done, total);
}

#endif
