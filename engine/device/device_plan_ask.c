/* SPDX-License-Identifier: Apache-2.0 */
/* device_plan_ask.c - a plan for a device that is open: free memory, and scratch by the ops' own word. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/device/device_internal.h"
#include "engine/device/device_plan.h"

struct asked {
    struct device *d;
    struct device_kv kv;
    size_t chunk;
    uint64_t linear;
};

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* The largest of what the ops want; one piece serves all. */
static uint64_t scratch(void *arg, size_t tokens)
{
    struct asked *a = arg;
    const struct device_ops *o = a->d->ops;
    struct device_kv kv = a->kv;
    kv.cap_blocks = tokens / BLOCK_TOKENS + (tokens % BLOCK_TOKENS != 0);
    tokens = kv.cap_blocks * BLOCK_TOKENS;
    uint64_t most = a->linear;
    if (o->attend_decode_scratch_bytes)
        most = larger(most, o->attend_decode_scratch_bytes(a->d, &kv, tokens, 1));
    if (o->attend_prefill_scratch_bytes)
        most = larger(most, o->attend_prefill_scratch_bytes(a->d, &kv, a->chunk));
    if (o->select_scratch_bytes)
        most = larger(most, o->select_scratch_bytes(a->d, &kv, tokens));
    return most;
}

static uint64_t linear_scratch(struct device *d, const struct device_shape *s, size_t chunk)
{
    const struct device_ops *o = d->ops;
    if (!o->linear_scratch_bytes)
        return 0;
    size_t attended = s->H * s->D, widest = larger(larger(s->C, s->F), attended);
    size_t most = larger(larger(2 * s->F, s->V), larger(s->C, (s->H + 2 * s->HK) * s->D));
    return larger(o->linear_scratch_bytes(d, chunk, widest, larger(2 * s->F, s->C)),
                  o->linear_scratch_bytes(d, 32, s->C, most));
}

/* Three quarters of what the system says is available: pinned pages are lost to everybody else. */
static uint64_t host_room(void)
{
    char *text = NULL;
    size_t n;
    struct err ignored;
    uint64_t bytes = 0;
    if (file_read("/proc/meminfo", 1 << 16, &text, &n, &ignored))
        return 0;
    const char *line = strstr(text, "MemAvailable:");
    if (line)
        bytes = strtoull(line + strlen("MemAvailable:"), NULL, 10) * 1024;
    free(text);
    return bytes / 4 * 3;
}

int device_plan_ask(struct device *d, struct device_plan_input *in, struct device_plan *out, struct err *e)
{
    const struct cache_layout *y = in->layout;
    struct device_info info;
    d->ops->info(d, &info);
    uint32_t *tables = calloc(3 * y->L + 1, sizeof *tables);
    if (!tables)
        return err_memory(e, "a plan");
    for (size_t l = 0; l < y->L; l++) {
        tables[l] = (uint32_t)y->hr[l];
        tables[y->L + l] = (uint32_t)y->hr_before[l];
        tables[2 * y->L + l] = (uint32_t)y->hs_before[l];
    }
    struct asked a = {.d = d, .chunk = in->chunk ? in->chunk : DEVICE_CHUNK_T};
    device_kv_shape(&a.kv, y, in->shape.H, tables);
    a.linear = linear_scratch(d, &in->shape, a.chunk);
    in->card_free = info.memory_free;
    in->host_free = host_room();
    in->scratch = scratch;
    in->scratch_arg = &a;
    device_plan_make(in, out);
    in->scratch = NULL;
    in->scratch_arg = NULL;
    free(tables);
    return 0;
}
