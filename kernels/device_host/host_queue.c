/* SPDX-License-Identifier: Apache-2.0 */
/* host_queue.c - copies and events of the host device. Copies on DEVICE_COMPUTE can be recorded; the other
 * queues are always at their end, so waiting for one is nothing. */
#include "kernels/device_host/device_host.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct device_event {
    struct timespec at;
};

struct move {
    void *to;
    const void *from; /* NULL: fill */
    int byte;
    size_t bytes;
};

static void run_move(struct device *d, const void *args)
{
    (void)d;
    const struct move *m = args;
    if (!m->bytes)
        return;
    if (m->from)
        memmove(m->to, m->from, m->bytes);
    else
        memset(m->to, m->byte, m->bytes);
}

static void move(struct device *d, enum device_queue q, const struct move *m)
{
    if (q == DEVICE_COMPUTE)
        host_run(d, run_move, m, sizeof *m);
    else
        run_move(d, m);
}

void host_upload(struct device *d, enum device_queue q, void *to, const void *from_host, size_t bytes)
{
    move(d, q, &(struct move){.to = to, .from = from_host, .bytes = bytes});
}

void host_download(struct device *d, enum device_queue q, void *to_host, const void *from, size_t bytes)
{
    move(d, q, &(struct move){.to = to_host, .from = from, .bytes = bytes});
}

void host_copy(struct device *d, enum device_queue q, void *to, const void *from, size_t bytes)
{
    move(d, q, &(struct move){.to = to, .from = from, .bytes = bytes});
}

void host_fill(struct device *d, enum device_queue q, void *to, int byte, size_t bytes)
{
    move(d, q, &(struct move){.to = to, .byte = byte, .bytes = bytes});
}

int host_event_create(struct device *d, struct device_event **out, struct err *e)
{
    (void)d;
    *out = calloc(1, sizeof **out);
    return *out ? 0 : err_memory(e, "an event");
}

void host_event_free(struct device *d, struct device_event *v)
{
    (void)d;
    free(v);
}

void host_event_record(struct device *d, enum device_queue q, struct device_event *v)
{
    (void)d;
    (void)q;
    clock_gettime(CLOCK_MONOTONIC, &v->at);
}

void host_event_wait(struct device *d, enum device_queue q, struct device_event *v)
{
    (void)d;
    (void)q;
    (void)v;
}

int host_event_done(struct device *d, struct device_event *v)
{
    (void)d;
    (void)v;
    return 1;
}

int host_event_sync(struct device *d, struct device_event *v, struct err *e)
{
    (void)v;
    return host_kept(d, e);
}

double host_event_ms(struct device *d, struct device_event *from, struct device_event *to)
{
    (void)d;
    return 1e3 * (double)(to->at.tv_sec - from->at.tv_sec) +
           1e-6 * (double)(to->at.tv_nsec - from->at.tv_nsec);
}
