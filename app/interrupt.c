/* SPDX-License-Identifier: Apache-2.0 */
/* interrupt.c - the signal flag. */
#include "app/interrupt.h"

#include <signal.h>
#include <stddef.h>

static struct cancel stop;

static void on_signal(int number)
{
    (void)number;
    atomic_store_explicit(&stop.requested, 1, memory_order_relaxed);
}

struct cancel *interrupt_watch(void)
{
    /* SA_RESETHAND: the second signal has its default effect. SA_RESTART: no read is cut short. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)(SA_RESETHAND | SA_RESTART)};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return &stop;
}
