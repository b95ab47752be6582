/* SPDX-License-Identifier: Apache-2.0 */
/* device_work.c - the buffers of one pass. All are there before the first token is read, but scratch, which
 * grows with the context and then has another address. */
#include "engine/device/device_internal.h"

#include <string.h>

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Takes what lives as long as the engine and counts it. */
static int take(struct device_shared *g, size_t bytes, void *out, struct err *e)
{
    void *p;
    int rc = shared_take(g, bytes, &p, e);
    memcpy(out, &p, sizeof p);
    g->work.bytes += bytes;
    return rc;
}

static int take_host(struct device_shared *g, size_t bytes, void *out, struct err *e)
{
    void *p, *view;
    int rc = g->ops->alloc_host(g->device, bytes, &p, &view, e);
    memcpy(out, &p, sizeof p);
    if (!rc)
        memset(p, 0, bytes);
    return rc;
}

static size_t lora_columns(const struct device_shared *g)
{
    size_t most = 0;
    for (size_t l = 0; l < g->shape.L; l++)
        most = max_size(most, max_size(g->layers[l].lora_rank, g->layers[l].lora_o_rank));
    return most;
}

static int take_activations(struct device_shared *g, struct err *e)
{
    const struct device_shape *p = &g->shape;
    struct device_work *w = &g->work;
    size_t T = g->chunk;
    w->low_columns = lora_columns(g);
    w->ld_logits = (p->V + 7) / 8 * 8;
    int rc = take(g, T * p->C * sizeof(float), &w->x, e);
    if (!rc)
        rc = take(g, T * (p->H + 2 * p->HK) * p->D * sizeof(float), &w->qkv, e);
    if (!rc)
        rc = take(g, T * p->H * p->D * sizeof(uint16_t), &w->attended, e);
    if (!rc)
        rc = take(g, T * p->F * sizeof(uint16_t), &w->act, e);
    if (!rc && w->low_columns)
        rc = take(g, T * w->low_columns * sizeof(uint16_t), &w->low, e);
    if (!rc)
        rc = take(g, T * sizeof(uint32_t), &w->ids, e);
    if (!rc)
        rc = take(g, LOGIT_SLICE * w->ld_logits * sizeof(float), &w->logits, e);
    return rc;
}

int work_init(struct device_shared *g, struct err *e)
{
    const struct device_shape *p = &g->shape;
    struct device_work *w = &g->work;
    int rc = take_activations(g, e);
    if (!rc)
        rc = take(g, DEVICE_DECODE_T * sizeof(uint32_t), &w->best, e);
    if (!rc)
        rc = take(g, sizeof(uint32_t), &w->failed, e);
    if (!rc)
        rc = take(g, 2 * sizeof(float), &w->visited, e);
    if (!rc)
        rc = take(g, sizeof *w->step, &w->step, e);
    if (!rc)
        rc = take_host(g, g->chunk * sizeof(uint32_t), &w->ids_host, e);
    if (!rc)
        rc = take_host(g, LOGIT_SLICE * w->ld_logits * sizeof(float), &w->logits_host, e);
    if (!rc)
        rc = take_host(g, DEVICE_DECODE_T * sizeof(uint32_t), &w->best_host, e);
    if (!rc)
        rc = take_host(g, sizeof(uint32_t), &w->failed_host, e);
    if (!rc)
        rc = take_host(g, 2 * sizeof(float), &w->visited_host, e);
    if (!rc)
        rc = take_host(g, sizeof *w->step_host, &w->step_host, e);
    if (rc)
        return rc;
    size_t widest = max_size(max_size(p->C, p->F), p->H * p->D),
           most = max_size(max_size(2 * p->F, p->V), max_size(p->C, (p->H + 2 * p->HK) * p->D));
    size_t bytes = g->ops->linear_scratch_bytes(g->device, g->chunk, widest, max_size(2 * p->F, p->C));
    bytes = max_size(bytes, g->ops->linear_scratch_bytes(g->device, LOGIT_SLICE, p->C, most));
    return work_scratch(g, bytes, e);
}

int work_scratch(struct device_shared *g, size_t bytes, struct err *e)
{
    struct device_work *w = &g->work;
    bytes = max_size(bytes, w->scratch_wanted);
    if (bytes <= w->scratch_bytes)
        return 0;
    g->ops->release(g->device, w->scratch);
    w->scratch = NULL;
    w->scratch_bytes = 0;
    g->generation++;
    int rc = g->ops->alloc(g->device, bytes, &w->scratch, e);
    if (!rc)
        w->scratch_bytes = w->scratch_wanted = bytes;
    return rc;
}

void work_fini(struct device_shared *g)
{
    struct device_work *w = &g->work;
    void *host[] = {w->ids_host, w->logits_host, w->best_host, w->failed_host, w->visited_host, w->step_host};
    for (size_t i = 0; i < sizeof host / sizeof host[0]; i++)
        if (host[i])
            g->ops->release_host(g->device, host[i]);
    g->ops->release(g->device, w->scratch);
    w->scratch = NULL;
}
