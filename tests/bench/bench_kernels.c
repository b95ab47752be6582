/* SPDX-License-Identifier: Apache-2.0 */
/* bench_kernels.c - what the kernels do on this machine, beside the limits measured in the same run.
 *
 *   bench_kernels [BACKEND [THREADS]]
 *
 * Shapes are SmolLM2-135M's: width 576, 9 query and 3 KV heads of 64, ffn 1536, 30 layers, vocabulary 49152.
 * One line a case: name, time, the figure that limits it (GOP/s of multiply-adds, or GB/s of weights or KV).
 * Times are the best of several; a loaded machine shows in the spread between runs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "kernels/half.h"
#include "kernels/kernels.h"

enum { C = 576, F = 1536, KV = 192, V = 49152, LAYERS = 30, D = 64, G = 3, T = 512, ROUNDS = 5 };

struct bench {
    const struct kernels *k;
    struct pool *pool;
    struct weight *q, *kv, *o, *gate, *down, *head;
    float *x, *y;
    void *scratch;
    size_t scratch_bytes;
};

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "bench_kernels: out of memory\n");
        exit(1);
    }
    return p;
}

static struct weight *make(enum tensor_type type, size_t rows, size_t cols)
{
    size_t bytes = rows * tensor_row_bytes(type, cols), unit = tensor_row_bytes(type, 32);
    uint8_t *raw = must(malloc(bytes));
    for (size_t i = 0; i < bytes; i++)
        raw[i] = (uint8_t)(i * 2654435761u >> 13);
    uint16_t d = half_from_float(0.01f);
    for (size_t b = 0; b < bytes; b += unit) {
        memcpy(raw + b, &d, 2);
        if (type == TENSOR_Q4_1)
            memcpy(raw + b + 2, &d, 2);
    }
    struct weight *w = NULL;
    struct err e;
    if (weight_pack(NULL, type, rows, cols, raw, &w, &e)) {
        fprintf(stderr, "bench_kernels: %s\n", e.text);
        exit(1);
    }
    free(raw);
    return w;
}

static void linear(const struct bench *b, const struct linear_out *outs, size_t n, size_t tokens)
{
    size_t K = weight_cols(outs[0].w);
    b->k->linear(&(struct linear_args){.pool = b->pool,
                                       .x = b->x,
                                       .ldx = K,
                                       .T = tokens,
                                       .outs = outs,
                                       .n_outs = n,
                                       .scratch = b->scratch,
                                       .scratch_bytes = b->scratch_bytes});
}

/* The linears of one layer. */
static void layer(const struct bench *b, size_t tokens)
{
    float *y = b->y;
    linear(b,
           (struct linear_out[]){{.w = b->q, .y = y, .ldy = C},
                                 {.w = b->kv, .y = y + T * C, .ldy = KV},
                                 {.w = b->kv, .y = y + T * (C + KV), .ldy = KV}},
           3, tokens);
    linear(b, &(struct linear_out){.w = b->o, .y = y, .ldy = C}, 1, tokens);
    linear(b,
           (struct linear_out[]){{.w = b->gate, .y = y, .ldy = F}, {.w = b->gate, .y = y + T * F, .ldy = F}},
           2, tokens);
    linear(b, &(struct linear_out){.w = b->down, .y = y, .ldy = C}, 1, tokens);
}

static size_t layer_bytes(const struct bench *b)
{
    return weight_bytes(b->q) + 2 * weight_bytes(b->kv) + weight_bytes(b->o) + 2 * weight_bytes(b->gate) +
           weight_bytes(b->down);
}

static void report(const char *name, double seconds, double amount, const char *unit)
{
    printf("%-34s %10.3f ms  %8.1f %s\n", name, seconds * 1e3, amount / seconds / 1e9, unit);
}

static void bench_linear(const struct bench *b)
{
    const double ops = 2.0 * C * (2 * C + 2 * KV + 3 * F); /* per token and layer */
    static const size_t counts[] = {1, 8, 64, T};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        double best = 1e9;
        for (int r = 0; r < ROUNDS; r++) {
            double t0 = clock_seconds();
            for (int l = 0; l < LAYERS; l++)
                layer(b, counts[i]);
            double t = clock_seconds() - t0;
            best = t < best ? t : best;
        }
        char name[64];
        snprintf(name, sizeof name, "30 layers' linears, T = %zu", counts[i]);
        report(name, best, ops * LAYERS * (double)counts[i], "GOP/s");
        if (counts[i] == 1)
            report("  the same, as weights (in cache)", best, (double)(layer_bytes(b) * LAYERS), "GB/s");
    }
    double best = 1e9;
    for (int r = 0; r < ROUNDS; r++) {
        double t0 = clock_seconds();
        linear(b, &(struct linear_out){.w = b->head, .y = b->y, .ldy = V}, 1, 1);
        double t = clock_seconds() - t0;
        best = t < best ? t : best;
    }
    report("output head Q8_0, T = 1", best, (double)weight_bytes(b->head), "GB/s");
}

/* `pages` records of random halves; packed ones when the format is coded. */
static uint8_t *make_pages(const struct bench *b, int format, size_t pages)
{
    size_t raw_bytes = kv_page_bytes(KV_RAW, D), bytes = kv_page_bytes(format, D);
    uint16_t *raw = must(aligned_alloc(64, raw_bytes));
    uint8_t *data = must(aligned_alloc(64, pages * bytes));
    for (size_t p = 0; p < pages; p++) {
        for (size_t i = 0; i < raw_bytes / 2; i++)
            raw[i] = (uint16_t)(0x3800 + ((i + p) * 2654435761u >> 20 & 0x3ff));
        b->k->kv_page_pack(&(struct kv_page_pack_args){.k = raw,
                                                       .ldk = D,
                                                       .v = raw + 64 * D,
                                                       .ldv = D,
                                                       .D = D,
                                                       .format = format,
                                                       .record = data + p * bytes});
    }
    free(raw);
    return data;
}

static void bench_attend(const struct bench *b, int format, size_t pages, size_t tokens)
{
    size_t bytes = kv_page_bytes(format, D), room = attend_scratch_bytes(tokens, G, D, 0);
    uint8_t *data = make_pages(b, format, pages);
    struct attend_block *blocks = must(calloc(pages, sizeof *blocks));
    void *scratch = must(aligned_alloc(64, room));
    for (size_t p = 0; p < pages; p++)
        blocks[p] =
            (struct attend_block){.data = data + p * bytes, .format = format, .base = p * 64, .hi = 64};
    double best = 1e9;
    for (int r = 0; r < 4 * ROUNDS; r++) {
        double t0 = clock_seconds();
        b->k->attend(&(struct attend_args){.q = b->x,
                                           .ldq = G * D,
                                           .out = b->y,
                                           .ldout = G * D,
                                           .T = tokens,
                                           .pos0 = pages * 64,
                                           .G = G,
                                           .D = D,
                                           .scale = 0.125f,
                                           .blocks = blocks,
                                           .n_blocks = pages,
                                           .scratch = scratch,
                                           .scratch_bytes = room});
        double t = clock_seconds() - t0;
        best = t < best ? t : best;
    }
    printf("attend %-4s %5zu pages, T = %-2zu %10.1f ns/page %8.1f GFLOP/s %7.1f GB/s (1 thread)\n",
           kv_format_name(format), pages, tokens, best / (double)pages * 1e9,
           4.0 * D * 64 * (double)(pages * tokens * G) / best / 1e9, (double)(pages * bytes) / best / 1e9);
    free(data);
    free(blocks);
    free(scratch);
}

static void bench_pack(const struct bench *b, int format)
{
    enum { PAGES = 64 };
    uint8_t *raw = make_pages(b, KV_RAW, PAGES), scan[D + 16];
    uint8_t *record = must(aligned_alloc(64, kv_page_bytes(KV_RAW, D)));
    double best = 1e9;
    for (int r = 0; r < 4 * ROUNDS; r++) {
        double t0 = clock_seconds();
        for (size_t p = 0; p < PAGES; p++) {
            const uint16_t *k = (const uint16_t *)(const void *)(raw + p * kv_page_bytes(KV_RAW, D));
            b->k->kv_page_pack(&(struct kv_page_pack_args){.k = k,
                                                           .ldk = D,
                                                           .v = k + 64 * D,
                                                           .ldv = D,
                                                           .D = D,
                                                           .format = format,
                                                           .record = record,
                                                           .scan = scan});
        }
        double t = clock_seconds() - t0;
        best = t < best ? t : best;
    }
    printf("pack %-4s with scan %27.1f ns/page\n", kv_format_name(format), best / PAGES * 1e9);
    free(raw);
    free(record);
}

struct copy {
    uint8_t *from;
    size_t each;
    uint64_t sums[256];
};

static void read_task(void *arg, int index, int thread)
{
    struct copy *c = arg;
    (void)thread;
    const uint64_t *p = (const uint64_t *)(const void *)(c->from + (size_t)index * c->each);
    uint64_t s[8] = {0};
    for (size_t i = 0; i < c->each / 8; i += 8)
        for (int j = 0; j < 8; j++)
            s[j] += p[i + (size_t)j];
    c->sums[index] = s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

/* Reading 256 MB: what no decode can beat. */
static void bench_read(const struct bench *b)
{
    struct copy c = {.each = (size_t)1 << 20};
    c.from = must(aligned_alloc(64, 256 * c.each));
    memset(c.from, 1, 256 * c.each);
    double best = 1e9;
    for (int r = 0; r < ROUNDS; r++) {
        double t0 = clock_seconds();
        pool_run(b->pool, 256, read_task, &c);
        double t = clock_seconds() - t0;
        best = t < best ? t : best;
    }
    report("limit: reading 256 MiB", best, 256.0 * (double)c.each, "GB/s");
    free(c.from);
}

int main(int argc, char **argv)
{
    int threads = argc > 2 ? atoi(argv[2]) : 0;
    struct bench b = {.k = kernels_get(argc > 1 ? argv[1] : NULL)};
    struct err e;
    if (!b.k || pool_create(&b.pool, threads, &e)) {
        fprintf(stderr, "usage: bench_kernels [ref|avx2|avx512|avx512vnni [THREADS]]\n");
        return 2;
    }
    b.q = make(TENSOR_Q4_1, C, C);
    b.kv = make(TENSOR_Q4_1, KV, C);
    b.o = make(TENSOR_Q4_1, C, C);
    b.gate = make(TENSOR_Q4_1, F, C);
    b.down = make(TENSOR_Q4_1, C, F);
    b.head = make(TENSOR_Q8_0, V, C);
    b.x = must(calloc((size_t)T * F, sizeof(float)));
    for (size_t i = 0; i < (size_t)T * F; i++)
        b.x[i] = (float)(i * 2654435761u % 1000) * 0.002f - 1;
    b.y = must(calloc((size_t)T * F * 2, sizeof(float)));
    b.scratch_bytes = linear_scratch_bytes(T, F, pool_threads(b.pool));
    b.scratch = must(aligned_alloc(64, (b.scratch_bytes + 63) & ~(size_t)63));
    printf("backend %s, %d threads\n", b.k->name, pool_threads(b.pool));
    bench_read(&b);
    bench_linear(&b);
    size_t n;
    const int *formats = kv_formats(&n);
    static const size_t cases[][2] = {{64, 1}, {8192, 1}, {64, 64}}; /* in cache, out of it, prefill */
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (size_t i = 0; i < n; i++)
            bench_attend(&b, formats[i], cases[c][0], cases[c][1]);
    for (size_t i = 0; i < n; i++)
        bench_pack(&b, formats[i]);
    struct weight *all[] = {b.q, b.kv, b.o, b.gate, b.down, b.head};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        weight_free(all[i]);
    free(b.x);
    free(b.y);
    free(b.scratch);
    pool_free(b.pool);
    return 0;
}
