/* SPDX-License-Identifier: Apache-2.0 */
/* bench_device_select.c - what page selection of one layer takes on a card: microseconds a call out of a
 * graph of calls over layers that lie apart, bytes of summaries a second, beside the card's read limit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"
#include "kernels/half.h"

enum { LAYERS = 16, ROUNDS = 10, D = 128, RECORD = 64 };

struct bench {
    struct device *d;
    struct device_kv kv;
    uint32_t hr[LAYERS], before[LAYERS], heads[LAYERS * 8];
    void *memory, *table, *step, *qkv, *steps, *heads_memory, *scratch;
    uint32_t *pages, *counts;
    size_t pages_max, stride;
};

static int fail(const struct err *e)
{
    fprintf(stderr, "%s\n", e->text);
    return 1;
}

static void *take(struct bench *b, size_t bytes)
{
    struct err e = {0};
    void *p = NULL;
    if (b->d->ops->alloc(b->d, bytes, &p, &e))
        exit(fail(&e));
    return p;
}

static void shape(struct bench *b, uint32_t hr, size_t pages)
{
    size_t HR = (size_t)hr * LAYERS;
    for (uint32_t l = 0; l < LAYERS; l++) {
        b->hr[l] = hr;
        b->before[l] = l * hr;
        for (uint32_t h = 0; h < 8; h++)
            b->heads[l * 8 + h] = h;
    }
    b->kv = (struct device_kv){.L = LAYERS,
                               .H = 32,
                               .HK = 8,
                               .D = D,
                               .HR = HR,
                               .format = KV_4,
                               .record_bytes = RECORD,
                               .scan_bytes = D + 16,
                               .block_bytes = DEVICE_BLOCK_PAGES * HR * (RECORD + D + 16),
                               .sink_pages = 1,
                               .hr = b->hr,
                               .hr_before = b->before,
                               .heads_host = b->heads};
    b->kv.cap_blocks = pages / DEVICE_BLOCK_PAGES + 1;
    b->pages_max = pages;
}

/* Random bytes for the summaries; their scales are made sane. */
static void fill(struct bench *b)
{
    size_t bytes = b->kv.block_bytes;
    uint8_t *block = malloc(bytes);
    uint64_t *table = malloc(b->kv.cap_blocks * sizeof *table), x = 1;
    float *qkv = malloc(4 * 48 * D * sizeof *qkv);
    if (!block || !table || !qkv)
        exit(1);
    for (size_t i = 0; i < 4 * 48 * D; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        qkv[i] = (float)(x >> 40) / 0x1p23f - 1;
    }
    for (size_t i = 0; i < b->kv.cap_blocks; i++) {
        for (size_t k = 0; k < bytes; k++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            block[k] = (uint8_t)(x >> 40);
        }
        for (size_t k = DEVICE_BLOCK_PAGES * b->kv.HR * RECORD; k < bytes; k += D + 16) {
            uint16_t scale = half_from_float(0.01f + (float)(block[k + D] & 15) * 0.001f);
            memcpy(block + k + D, &scale, 2);
        }
        table[i] = (uint64_t)(uintptr_t)b->memory + i * bytes;
        b->d->ops->upload(b->d, DEVICE_COMPUTE, (uint8_t *)b->memory + i * bytes, block, bytes);
        struct err e;
        if (b->d->ops->sync(b->d, DEVICE_COMPUTE, &e))
            exit(fail(&e));
    }
    b->d->ops->upload(b->d, DEVICE_COMPUTE, b->table, table, b->kv.cap_blocks * sizeof *table);
    b->d->ops->upload(b->d, DEVICE_COMPUTE, b->qkv, qkv, 4 * 48 * D * sizeof *qkv);
    b->d->ops->upload(b->d, DEVICE_COMPUTE, b->heads_memory, b->heads, sizeof b->heads);
    b->d->ops->fill(b->d, DEVICE_COMPUTE, b->steps, 0x35, 64 * sizeof(uint64_t));
    struct err e;
    if (b->d->ops->sync(b->d, DEVICE_COMPUTE, &e))
        exit(fail(&e));
    free(block);
    free(table);
    free(qkv);
}

static struct device_graph *record(struct bench *b, size_t T, size_t budget)
{
    struct err e = {0};
    struct device_graph *g = NULL;
    size_t bytes = b->d->ops->select_scratch_bytes(b->d, &b->kv, b->pages_max * KV_PAGE_TOKENS);
    if (b->d->ops->capture_begin(b->d, &e))
        exit(fail(&e));
    for (size_t l = 0; l < LAYERS; l++)
        b->d->ops->select(
            b->d, &(struct device_select_args){
                      .kv = &b->kv,
                      .layer = l,
                      .qkv = b->qkv,
                      .ldqkv = 48 * D,
                      .step = b->step,
                      .T = T,
                      .rope = {.steps = b->steps, .half = D / 2, .kind = ROPE_HALVES, .attn_factor = 1},
                      .budget = budget,
                      .recent = 4,
                      .pages = b->pages,
                      .counts = b->counts,
                      .stride = b->stride,
                      .scratch = b->scratch,
                      .scratch_bytes = bytes});
    if (b->d->ops->capture_end(b->d, &g, &e))
        exit(fail(&e));
    return g;
}

static void time_one(struct bench *b, size_t pages, size_t T, size_t budget, double limit)
{
    const struct device_ops *ops = b->d->ops;
    struct err e = {0};
    struct device_step step = {.position = pages * KV_PAGE_TOKENS + 3};
    struct device_event *from, *to;
    struct device_graph *g = record(b, T, budget);
    if (ops->event_create(b->d, &from, &e) || ops->event_create(b->d, &to, &e))
        exit(fail(&e));
    ops->upload(b->d, DEVICE_COMPUTE, b->step, &step, sizeof step);
    double best = 1e9;
    for (int i = 0; i < ROUNDS; i++) {
        ops->event_record(b->d, DEVICE_COMPUTE, from);
        ops->graph_launch(b->d, g);
        ops->event_record(b->d, DEVICE_COMPUTE, to);
        if (ops->event_sync(b->d, to, &e) || ops->sync(b->d, DEVICE_COMPUTE, &e))
            exit(fail(&e));
        double ms = ops->event_ms(b->d, from, to);
        best = ms < best ? ms : best;
    }
    double us = best * 1e3 / LAYERS, bytes = (double)pages * b->hr[0] * (D + 16);
    printf("%8zu tokens  %u heads  T %zu  budget %5zu  %7.1f us a layer  %.2f TB/s of summaries (read limit "
           "%.2f)\n",
           pages * KV_PAGE_TOKENS, b->hr[0], T, budget, us, bytes / us * 1e-6, limit * 1e-12);
    ops->event_free(b->d, from);
    ops->event_free(b->d, to);
    ops->graph_free(b->d, g);
}

int main(void)
{
    static struct bench b;
    struct err e = {0};
    double limit = 0;
    if (device_open(&b.d, "cuda", NULL, 0, &e) || b.d->ops->measure(b.d, DEVICE_LIMIT_READ, &limit, &e))
        return fail(&e);
    static const size_t lengths[] = {1024, 16384, 52428};
    shape(&b, 4, lengths[2]);
    b.stride = 2048;
    b.memory = take(&b, b.kv.cap_blocks * b.kv.block_bytes);
    b.table = take(&b, b.kv.cap_blocks * 8);
    b.step = take(&b, sizeof(struct device_step));
    b.qkv = take(&b, 4 * 48 * D * sizeof(float));
    b.steps = take(&b, D / 2 * 8);
    b.heads_memory = take(&b, sizeof b.heads);
    b.pages = take(&b, 8 * b.stride * 4);
    b.counts = take(&b, 32);
    b.kv.blocks = b.table;
    b.kv.heads = b.heads_memory;
    b.scratch = take(&b, b.d->ops->select_scratch_bytes(b.d, &b.kv, b.pages_max * KV_PAGE_TOKENS) + 256);
    fill(&b);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t T = 1; T <= 4; T *= 4) {
            time_one(&b, lengths[i], T, 64, limit);
            time_one(&b, lengths[i], T, 528, limit);
        }
    device_close(b.d);
    return 0;
}
