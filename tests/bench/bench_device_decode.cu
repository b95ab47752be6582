/* SPDX-License-Identifier: Apache-2.0 */
/* bench_device_decode.cu - attention of a decode step on the card: microseconds a layer, bytes read a second
 * and their share of the measured read limit, over formats, contexts, rows and retrieval heads. Records are
 * random codes; a recorded step goes over layers that together are far larger than the card's cache.
 *
 * bench_device_decode [tokens [format]]  - all contexts and formats without arguments
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_device.h"

extern "C" int lectern_cuda_open(struct device **out, int index, uint64_t abi, struct err *e);

enum { LAYERS = 4, CALLS = 16, RUNS = 7, HK = 8, RING = 7, SINKS = 1 };

struct shape {
    size_t tokens, hr, G, D, T;
    int format;
};

struct setup {
    struct device *d;
    struct device_kv kv;
    uint32_t hr[LAYERS], hr_before[LAYERS], hs_before[LAYERS], heads[LAYERS * HK];
    void *slab, *blocks, *tail, *stream, *heads_d, *steps, *step, *qkv, *out, *failed, *scratch;
    size_t scratch_bytes;
};

static void must(int rc, const struct err *e)
{
    if (!rc)
        return;
    fprintf(stderr, "bench_device_decode: %s\n", e->text);
    exit(1);
}

static void *take(struct device *d, size_t bytes)
{
    struct err e = {};
    void *p;
    must(d->ops->alloc(d, bytes, &p, &e), &e);
    return p;
}

static uint32_t mixed(uint64_t x)
{
    x = (x + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 31) * 0x94d049bb133111ebu;
    return (uint32_t)(x >> 32);
}

static __device__ uint32_t mixed_there(uint64_t x)
{
    x = (x + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 31) * 0x94d049bb133111ebu;
    return (uint32_t)(x >> 32);
}

/* Every word: random bits that are two halfs of about +-0.01..2, so that codes, params and raw rows are fit.
 */
static __global__ void fill(uint32_t *to, size_t words)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i < words; i += (size_t)gridDim.x * blockDim.x)
        to[i] = (mixed_there(i) & 0x87ff87ffu) | 0x28002800u;
}

static void random_words(struct device *d, void *to, size_t bytes)
{
    fill<<<2048, 256, 0, cuda_compute(d)>>>((uint32_t *)to, bytes / 4);
    cuda_check(d, "fill");
}

static void open_kv(struct setup *s, const struct shape *w)
{
    struct device_kv *kv = &s->kv;
    *kv = (struct device_kv){};
    kv->L = LAYERS;
    kv->H = HK * w->G;
    kv->HK = HK;
    kv->D = w->D;
    kv->S = 64;
    kv->R = 256;
    for (size_t l = 0; l < LAYERS; l++) {
        s->hr[l] = (uint32_t)w->hr;
        s->hr_before[l] = (uint32_t)kv->HR;
        s->hs_before[l] = (uint32_t)kv->HS;
        kv->HR += w->hr;
        kv->HS += HK - w->hr;
        for (size_t h = 0; h < HK; h++)
            s->heads[l * HK + h] = (uint32_t)h;
    }
    kv->format = w->format;
    kv->record_bytes = kv_page_bytes(w->format, w->D);
    kv->scan_bytes = kv_scan_bytes(w->D);
    kv->raw_bytes = kv_page_bytes(KV_RAW, w->D);
    kv->block_bytes = DEVICE_BLOCK_PAGES * kv->HR * (kv->record_bytes + kv->scan_bytes);
    kv->sink_pages = SINKS;
    kv->ring_pages = RING;
    kv->hr = s->hr;
    kv->hr_before = s->hr_before;
    kv->hs_before = s->hs_before;
    kv->heads_host = s->heads;
    kv->cap_blocks = w->tokens / 1024 + 1;
}

static void open_setup(struct setup *s, const struct shape *w)
{
    struct device *d = s->d;
    struct err e = {};
    open_kv(s, w);
    struct device_kv *kv = &s->kv;
    size_t stride = (kv->block_bytes + 255) / 256 * 256, tail = kv->HR * 2 * kv->raw_bytes;
    size_t stream = kv->HS * (SINKS + RING) * kv->raw_bytes, ldqkv = (kv->H + 2 * HK) * kv->D;
    s->slab = take(d, kv->cap_blocks * stride);
    random_words(d, s->slab, kv->cap_blocks * stride);
    s->blocks = take(d, kv->cap_blocks * 8);
    uint64_t *table = (uint64_t *)calloc(kv->cap_blocks, 8), steps[64];
    if (!table)
        exit(1);
    for (size_t b = 0; b < kv->cap_blocks; b++)
        table[b] = (uint64_t)(uintptr_t)s->slab + b * stride;
    for (int i = 0; i < 64; i++)
        steps[i] = (uint64_t)mixed((uint64_t)i) << 24;
    struct device_step step = {};
    step.position = w->tokens - 32;
    d->ops->upload(d, DEVICE_COMPUTE, s->blocks, table, kv->cap_blocks * 8);
    random_words(d, s->tail = take(d, tail), tail);
    random_words(d, s->stream = take(d, stream), stream);
    random_words(d, s->qkv = take(d, DEVICE_DECODE_T * ldqkv * 4), DEVICE_DECODE_T * ldqkv * 4);
    d->ops->upload(d, DEVICE_COMPUTE, s->heads_d = take(d, sizeof s->heads), s->heads, sizeof s->heads);
    d->ops->upload(d, DEVICE_COMPUTE, s->steps = take(d, sizeof steps), steps, sizeof steps);
    d->ops->upload(d, DEVICE_COMPUTE, s->step = take(d, sizeof step), &step, sizeof step);
    s->out = take(d, DEVICE_DECODE_T * kv->H * kv->D * 2);
    s->failed = take(d, 4);
    kv->blocks = (const uint64_t *)s->blocks;
    kv->tail = (uint8_t *)s->tail;
    kv->stream = (uint8_t *)s->stream;
    kv->heads = (const uint32_t *)s->heads_d;
    s->scratch_bytes = d->ops->attend_decode_scratch_bytes(d, kv, w->tokens, 0);
    s->scratch = take(d, s->scratch_bytes);
    must(d->ops->sync(d, DEVICE_COMPUTE, &e), &e);
    free(table);
}

static void close_setup(struct setup *s)
{
    void *all[] = {s->slab, s->blocks, s->tail, s->stream, s->heads_d, s->steps,
                   s->step, s->qkv,    s->out,  s->failed, s->scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        s->d->ops->release(s->d, all[i]);
}

static void call(struct setup *s, const struct shape *w, size_t layer)
{
    struct device_attend_decode_args a = {};
    a.kv = &s->kv;
    a.layer = layer;
    a.qkv = (const float *)s->qkv;
    a.ldqkv = (s->kv.H + 2 * HK) * s->kv.D;
    a.step = (const struct device_step *)s->step;
    a.T = w->T;
    a.rope.steps = (const uint64_t *)s->steps;
    a.rope.half = w->D / 2;
    a.rope.kind = ROPE_HALVES;
    a.rope.attn_factor = 1;
    a.scale = 0.1f;
    a.out = (uint16_t *)s->out;
    a.ldout = s->kv.H * s->kv.D;
    a.failed = (uint32_t *)s->failed;
    a.scratch = s->scratch;
    a.scratch_bytes = s->scratch_bytes;
    s->d->ops->attend_decode(s->d, &a);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void row(struct device *d, struct shape w, double limit)
{
    struct setup s = {};
    struct err e = {};
    struct device_graph *g;
    struct device_event *from, *to;
    double ms[RUNS];
    s.d = d;
    open_setup(&s, &w);
    call(&s, &w, 0); /* loads the kernels */
    must(d->ops->sync(d, DEVICE_COMPUTE, &e), &e);
    must(d->ops->capture_begin(d, &e), &e);
    for (size_t i = 0; i < CALLS; i++)
        call(&s, &w, i % LAYERS);
    must(d->ops->capture_end(d, &g, &e), &e);
    must(d->ops->event_create(d, &from, &e), &e);
    must(d->ops->event_create(d, &to, &e), &e);
    d->ops->graph_launch(d, g);
    for (int i = 0; i < RUNS; i++) {
        d->ops->event_record(d, DEVICE_COMPUTE, from);
        d->ops->graph_launch(d, g);
        d->ops->event_record(d, DEVICE_COMPUTE, to);
        must(d->ops->event_sync(d, to, &e), &e);
        ms[i] = d->ops->event_ms(d, from, to);
    }
    must(d->ops->sync(d, DEVICE_COMPUTE, &e), &e);
    qsort(ms, RUNS, sizeof *ms, by_size);
    double us = ms[RUNS / 2] * 1000 / CALLS;
    double bytes = (double)((w.tokens - 32) / 64 * w.hr * s.kv.record_bytes + w.hr * s.kv.raw_bytes / 2 +
                            (HK - w.hr) * (SINKS + 4.5) * s.kv.raw_bytes);
    printf("%-5s D %3zu G %zu T %zu heads %zu of %d  %8zu tokens  %8.2f us (%.2f..%.2f)  %8.2f MB  %6.3f "
           "TB/s  %5.1f %% "
           "of reading\n",
           kv_format_name(w.format), w.D, w.G, w.T, w.hr, HK, w.tokens, us, ms[0] * 1000 / CALLS,
           ms[RUNS - 1] * 1000 / CALLS, bytes / 1e6, bytes / us / 1e6, 100 * bytes / us * 1e6 / limit);
    fflush(stdout);
    d->ops->event_free(d, from);
    d->ops->event_free(d, to);
    d->ops->graph_free(d, g);
    close_setup(&s);
}

int main(int argc, char **argv)
{
    static const int formats[] = {KV_4, KV_8, KV_K8V4, KV_RAW};
    static const size_t contexts[] = {8192, 131072, 1 << 20};
    struct device *d;
    struct err e = {};
    struct device_info info;
    double limit = 1;
    must(lectern_cuda_open(&d, 0, DEVICE_ABI, &e), &e);
    d->ops->info(d, &info);
    must(d->ops->measure(d, DEVICE_LIMIT_READ, &limit, &e), &e);
    printf("%s, reads %.3f TB/s\n", info.name, limit / 1e12);
    size_t only = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    int format = argc > 2 ? kv_format_parse(argv[2]) : 0;
    for (size_t f = 0; f < 4; f++)
        for (size_t c = 0; c < 3; c++) {
            if ((only && contexts[c] != only) || (format && formats[f] != format))
                continue;
            for (size_t T = 1; T <= 4; T += 3)
                row(d, (struct shape){contexts[c], 4, 4, 128, T, formats[f]}, limit);
            if (formats[f] == KV_4 || formats[f] == KV_8) {
                row(d, (struct shape){contexts[c], 1, 4, 128, 1, formats[f]}, limit);
                row(d, (struct shape){contexts[c], 8, 4, 128, 1, formats[f]}, limit);
                row(d, (struct shape){contexts[c], 4, 7, 128, 1, formats[f]}, limit);
                row(d, (struct shape){contexts[c], 4, 3, 64, 1, formats[f]}, limit);
            }
        }
    d->ops->close(d);
    return 0;
}
