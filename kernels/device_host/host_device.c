/* SPDX-License-Identifier: Apache-2.0 */
/* host_device.c - the host device itself: memory, kept failures, and graphs as lists of calls.
 *
 * A queue here is the calling thread: what is queued has happened when the call returns, unless a graph is
 * being recorded. Then DEVICE_COMPUTE keeps each call with a copy of its arguments, and a launch makes the
 * same calls in the same order.
 */
#include "kernels/device_host/device_host.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* One recorded call; its arguments follow, aligned as malloc aligns. */
struct call {
    struct call *next;
    void (*op)(struct device *d, const void *args);
    _Alignas(16) unsigned char args[];
};

struct device_graph {
    struct call *first, **end;
};

struct host_device {
    struct device base;
    struct device_graph *recording; /* NULL: calls run at once */
    int failed;
    struct err kept;
};

static struct host_device *host_of(struct device *d)
{
    return (struct host_device *)d;
}

int host_open(struct device **out, struct err *e)
{
    *out = NULL;
    struct host_device *h = calloc(1, sizeof *h);
    if (!h)
        return err_memory(e, "the host device");
    h->base.ops = &host_ops;
    *out = &h->base;
    return 0;
}

void host_close(struct device *d)
{
    if (!d)
        return;
    host_graph_free(d, host_of(d)->recording);
    free(host_of(d));
}

void host_keep(struct device *d, enum err_code code, const char *what)
{
    struct host_device *h = host_of(d);
    if (h->failed)
        return;
    h->failed = 1;
    err_set(&h->kept, code, "%s", what);
}

int host_kept(struct device *d, struct err *e)
{
    struct host_device *h = host_of(d);
    if (!h->failed)
        return 0;
    h->failed = 0;
    return err_set(e, h->kept.code, "%s", h->kept.text);
}

static uint64_t pages_to_bytes(int name)
{
    long pages = sysconf(name), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
}

void host_info(struct device *d, struct device_info *out)
{
    (void)d;
    *out = (struct device_info){.name = "host", .processors = 1};
    out->memory = pages_to_bytes(_SC_PHYS_PAGES);
    out->memory_free = pages_to_bytes(_SC_AVPHYS_PAGES);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* All four limits of copies are the one of this memory; products have no meaning here. */
int host_measure(struct device *d, enum device_limit what, double *per_second, struct err *e)
{
    enum { BYTES = 16 << 20 };
    *per_second = 0;
    if (what > DEVICE_LIMIT_FROM_CARD)
        return err_set(e, ERR_UNSUPPORTED, "the host device has no such limit to measure");
    void *a, *b = NULL;
    if (host_alloc(d, BYTES, &a, e))
        return e ? (int)e->code : ERR_MEMORY;
    if (host_alloc(d, BYTES, &b, e)) {
        host_release(d, a);
        return e ? (int)e->code : ERR_MEMORY;
    }
    memset(a, 1, BYTES);
    memset(b, 2, BYTES);
    double best = 0;
    for (int i = 0; i < 3; i++) {
        double t0 = seconds();
        memcpy(i % 2 ? a : b, i % 2 ? b : a, BYTES);
        double rate = BYTES * (what == DEVICE_LIMIT_COPY ? 2.0 : 1.0) / (seconds() - t0);
        best = rate > best ? rate : best;
    }
    host_release(d, a);
    host_release(d, b);
    *per_second = best;
    return 0;
}

/* Contents are undefined by contract: the first megabytes of a block are NaN in f32 and in fp16, so that
 * whoever reads what nobody wrote sees it. */
int host_alloc(struct device *d, size_t bytes, void **out, struct err *e)
{
    enum { POISON = 4 << 20 };
    *out = NULL;
    int rc = host_kept(d, e);
    if (rc)
        return rc;
    size_t padded = bytes ? (bytes + 255) & ~(size_t)255 : 256;
    void *p = padded < bytes ? NULL : aligned_alloc(256, padded);
    if (!p)
        return err_set(e, ERR_MEMORY, "no memory for %zu MB on the host device (%llu MB are free)",
                       bytes >> 20, (unsigned long long)pages_to_bytes(_SC_AVPHYS_PAGES) >> 20);
    memset(p, 0xff, padded < POISON ? padded : POISON);
    *out = p;
    return 0;
}

void host_release(struct device *d, void *p)
{
    (void)d;
    free(p);
}

int host_alloc_host(struct device *d, size_t bytes, void **host, void **device_view, struct err *e)
{
    int rc = host_alloc(d, bytes, host, e);
    *device_view = *host;
    return rc;
}

void host_release_host(struct device *d, void *host)
{
    (void)d;
    free(host);
}

int host_sync(struct device *d, enum device_queue q, struct err *e)
{
    (void)q;
    return host_kept(d, e);
}

void host_run(struct device *d, void (*op)(struct device *d, const void *args), const void *args,
              size_t bytes)
{
    struct device_graph *g = host_of(d)->recording;
    if (!g) {
        op(d, args);
        return;
    }
    struct call *c = malloc(sizeof *c + bytes);
    if (!c) {
        host_keep(d, ERR_MEMORY, "no memory to record a step");
        return;
    }
    c->next = NULL;
    c->op = op;
    memcpy(c->args, args, bytes);
    *g->end = c;
    g->end = &c->next;
}

int host_capture_begin(struct device *d, struct err *e)
{
    struct host_device *h = host_of(d);
    int rc = host_kept(d, e);
    if (rc)
        return rc;
    if (h->recording)
        return err_set(e, ERR_USAGE, "a step is being recorded already");
    struct device_graph *g = malloc(sizeof *g);
    if (!g)
        return err_memory(e, "a recorded step");
    g->first = NULL;
    g->end = &g->first;
    h->recording = g;
    return 0;
}

int host_capture_end(struct device *d, struct device_graph **out, struct err *e)
{
    struct host_device *h = host_of(d);
    struct device_graph *g = h->recording;
    *out = NULL;
    h->recording = NULL;
    int rc = host_kept(d, e);
    if (!rc && !g)
        rc = err_set(e, ERR_USAGE, "no step is being recorded");
    if (rc) {
        host_graph_free(d, g);
        return rc;
    }
    *out = g;
    return 0;
}

void host_graph_launch(struct device *d, struct device_graph *g)
{
    if (host_of(d)->recording) {
        host_keep(d, ERR_USAGE, "a recorded step was launched while another is being recorded");
        return;
    }
    for (const struct call *c = g->first; c; c = c->next)
        c->op(d, c->args);
}

void host_graph_free(struct device *d, struct device_graph *g)
{
    (void)d;
    if (!g)
        return;
    for (struct call *c = g->first, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(g);
}
