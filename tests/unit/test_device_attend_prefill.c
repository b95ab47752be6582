/* SPDX-License-Identifier: Apache-2.0 */
/* test_device_attend_prefill.c - attention of a chunk on the host device, and on a card when there is one:
 * outputs against a softmax in double that applies the rule of visibility key by key to the very values of
 * the records; records, summaries, tails and streams byte for byte against the plain C kernels. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/prefill_world.h"

/* ---- a device's copy of the timeline ------------------------------------------------------------------ */

struct side {
    struct device *d;
    const struct world *w;
    double tolerance;
    struct device_kv kv;
    void *blocks[128], *table, *heads, *steps, *qkv, *out, *scratch, *failed;
    uint8_t *tail[2], *stream[2];
    int cur;
    size_t out_bytes, scratch_bytes, tail_bytes, stream_bytes;
};

static void *side_alloc(struct side *x, size_t bytes, const void *from)
{
    struct err e = {0};
    void *p = NULL;
    assert_int_equal(x->d->ops->alloc(x->d, bytes ? bytes : 1, &p, &e), 0);
    if (from)
        x->d->ops->upload(x->d, DEVICE_COMPUTE, p, from, bytes);
    else
        x->d->ops->fill(x->d, DEVICE_COMPUTE, p, 0xff, bytes);
    assert_int_equal(x->d->ops->sync(x->d, DEVICE_COMPUTE, &e), 0);
    return p;
}

static void read_back(struct side *x, void *to, const void *from, size_t bytes)
{
    struct err e = {0};
    x->d->ops->download(x->d, DEVICE_COMPUTE, to, from, bytes);
    if (x->d->ops->sync(x->d, DEVICE_COMPUTE, &e))
        fail_msg("%s", e.text);
}

static size_t record_at(const struct side *x, size_t page, size_t slot)
{
    return x->kv.hr_before[x->w->layer] * DEVICE_BLOCK_PAGES +
           page % DEVICE_BLOCK_PAGES * x->kv.hr[x->w->layer] + slot;
}

static size_t stream_at(const struct side *x, size_t slot, size_t page)
{
    size_t sinks = x->kv.sink_pages, rings = x->kv.ring_pages;
    return (x->kv.hs_before[x->w->layer] + slot) * (sinks + rings) +
           (page < sinks ? page : sinks + page % rings);
}

/* Blocks, tail and stream as `past` tokens leave them; all else is NaN. */
static void side_past(struct side *x)
{
    const struct world *w = x->w;
    const struct device_kv *kv = &x->kv;
    size_t past = w->s.past, rb = kv->record_bytes, sb = kv->scan_bytes, hr = kv->hr[w->layer];
    uint8_t *block = malloc(kv->block_bytes + 1), *tail = malloc(x->tail_bytes + 1),
            *stream = malloc(x->stream_bytes + 1);
    for (size_t b = 0; b < kv->cap_blocks; b++) {
        memset(block, 0xff, kv->block_bytes);
        for (size_t page = b * 16; page < past / PAGE && page < b * 16 + 16; page++)
            for (size_t slot = 0; slot < hr; slot++) {
                size_t i = record_at(x, page, slot), from = slot * w->pages + page;
                memcpy(block + i * rb, w->record + from * rb, rb);
                memcpy(block + 16 * kv->HR * rb + i * sb, w->scan + from * sb, sb);
            }
        x->blocks[b] = side_alloc(x, kv->block_bytes, block);
    }
    memset(tail, 0xff, x->tail_bytes);
    memset(stream, 0xff, x->stream_bytes);
    for (size_t page = 0; page < (past + PAGE - 1) / PAGE; page++)
        for (size_t slot = 0; slot < kv->HK; slot++) {
            size_t rows = past - page * PAGE < PAGE ? past - page * PAGE : PAGE, n = rows * kv->D * 2;
            uint8_t *to = slot < hr
                              ? tail + ((kv->hr_before[w->layer] + slot) * 2 + (page & 1)) * kv->raw_bytes
                              : stream + stream_at(x, slot - hr, page) * kv->raw_bytes;
            memcpy(to, raw_row(w, slot, page * PAGE, 0), n);
            memcpy(to + kv->raw_bytes / 2, raw_row(w, slot, page * PAGE, 1), n);
        }
    x->tail[0] = side_alloc(x, x->tail_bytes, tail);
    x->stream[0] = side_alloc(x, x->stream_bytes, stream);
    x->tail[1] = side_alloc(x, x->tail_bytes, NULL);
    x->stream[1] = side_alloc(x, x->stream_bytes, NULL);
    free(block);
    free(tail);
    free(stream);
}

static void side_open(struct side *x, struct device *d, const struct world *w, double tolerance)
{
    const struct shape *s = &w->s;
    uint32_t zero = 0;
    *x = (struct side){.d = d, .w = w, .tolerance = tolerance};
    struct device_kv *kv = &x->kv;
    *kv = (struct device_kv){.L = LAYERS, .H = s->H, .HK = s->HK, .D = s->D, .S = s->S, .R = s->R};
    kv->HR = w->HR;
    kv->HS = w->HS;
    kv->format = s->format;
    kv->record_bytes = record_bytes(w);
    kv->scan_bytes = kv_scan_bytes(s->D);
    kv->raw_bytes = kv_page_bytes(KV_RAW, s->D);
    kv->block_bytes = 16 * kv->HR * (kv->record_bytes + kv->scan_bytes);
    kv->sink_pages = (s->S + PAGE - 1) / PAGE;
    kv->ring_pages = s->R / PAGE + 3;
    kv->hr = s->hr;
    kv->hr_before = w->hr_before;
    kv->hs_before = w->hs_before;
    uint32_t heads[LAYERS * 64];
    for (size_t i = 0; i < LAYERS * s->HK; i++)
        heads[i] = w->heads[i / s->HK][i % s->HK];
    x->heads = side_alloc(x, LAYERS * s->HK * sizeof *heads, heads);
    uint32_t *host = malloc(sizeof heads);
    memcpy(host, heads, sizeof heads);
    kv->heads_host = host;
    kv->heads = x->heads;
    kv->cap_blocks = (s->N + 1023) / 1024;
    assert_true(kv->cap_blocks <= 128);
    x->tail_bytes = kv->HR * 2 * kv->raw_bytes;
    x->stream_bytes = kv->HS * (kv->sink_pages + kv->ring_pages) * kv->raw_bytes;
    side_past(x);
    uint64_t addresses[128];
    for (size_t b = 0; b < kv->cap_blocks; b++)
        addresses[b] = (uint64_t)(uintptr_t)x->blocks[b];
    x->table = side_alloc(x, kv->cap_blocks * sizeof *addresses, addresses);
    kv->blocks = x->table;
    x->steps = side_alloc(x, s->half * sizeof(uint64_t), w->steps);
    x->qkv = side_alloc(x, (s->N - s->past) * (s->H + 2 * s->HK) * s->D * sizeof(float), w->qkv);
    x->failed = side_alloc(x, sizeof zero, &zero);
    x->out_bytes = (s->N - s->past) * s->H * s->D * 2;
    x->out = side_alloc(x, x->out_bytes, NULL);
    x->scratch_bytes = d->ops->attend_prefill_scratch_bytes(d, kv, s->N - s->past);
    x->scratch = side_alloc(x, x->scratch_bytes, NULL);
}

static void side_close(struct side *x)
{
    void *all[] = {x->table,  x->heads,   x->steps,   x->qkv,       x->out,      x->scratch,
                   x->failed, x->tail[0], x->tail[1], x->stream[0], x->stream[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        x->d->ops->release(x->d, all[i]);
    for (size_t b = 0; b < x->kv.cap_blocks; b++)
        x->d->ops->release(x->d, x->blocks[b]);
    free((void *)(uintptr_t)x->kv.heads_host);
}

static void chunk(struct side *x, size_t pos0, size_t T)
{
    const struct shape *s = &x->w->s;
    size_t cols = (s->H + 2 * s->HK) * s->D, row = pos0 - s->past;
    x->kv.tail = x->tail[x->cur];
    x->kv.stream = x->stream[x->cur];
    x->d->ops->attend_prefill(
        x->d, &(struct device_attend_prefill_args){
                  .kv = &x->kv,
                  .layer = x->w->layer,
                  .qkv = (const float *)x->qkv + row * cols,
                  .ldqkv = cols,
                  .pos0 = pos0,
                  .T = T,
                  .rope = {.steps = x->steps, .half = s->half, .kind = s->kind, .attn_factor = 1.25f},
                  .scale = x->w->scale,
                  .out = (uint16_t *)x->out + row * s->H * s->D,
                  .ldout = s->H * s->D,
                  .tail_next = x->tail[!x->cur],
                  .stream_next = x->stream[!x->cur],
                  .failed = x->failed,
                  .scratch = x->scratch,
                  .scratch_bytes = x->scratch_bytes});
    x->cur = !x->cur;
}

/* ---- what must hold after a chunk --------------------------------------------------------------------- */

static void expect_bytes(const char *what, size_t page, size_t slot, const void *got, const void *want,
                         size_t n)
{
    const uint8_t *a = got, *b = want;
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i])
            fail_msg("%s of page %zu, slot %zu: byte %zu of %zu is %u, not %u", what, page, slot, i, n, a[i],
                     b[i]);
}

static void check_rows(const struct side *x, const char *what, size_t slot, size_t page, size_t rows,
                       const uint8_t *got)
{
    size_t n = rows * x->kv.D * 2;
    expect_bytes(what, page, slot, got, raw_row(x->w, slot, page * PAGE, 0), n);
    expect_bytes(what, page, slot, got + x->kv.raw_bytes / 2, raw_row(x->w, slot, page * PAGE, 1), n);
}

static void check_state(struct side *x, size_t P)
{
    const struct world *w = x->w;
    const struct device_kv *kv = &x->kv;
    size_t hr = kv->hr[w->layer], rb = kv->record_bytes, sb = kv->scan_bytes, last = (P - 1) / PAGE;
    uint8_t *block = malloc(kv->block_bytes + 1), *tail = malloc(x->tail_bytes + 1),
            *stream = malloc(x->stream_bytes + 1);
    for (size_t page = 0; page < P / PAGE && hr; page++) {
        if (page % 16 == 0)
            read_back(x, block, x->blocks[page / 16], kv->block_bytes);
        for (size_t slot = 0; slot < hr; slot++) {
            size_t i = record_at(x, page, slot), from = slot * w->pages + page;
            expect_bytes("record", page, slot, block + i * rb, w->record + from * rb, rb);
            expect_bytes("summary", page, slot, block + 16 * kv->HR * rb + i * sb, w->scan + from * sb, sb);
        }
    }
    read_back(x, tail, x->tail[x->cur], x->tail_bytes);
    read_back(x, stream, x->stream[x->cur], x->stream_bytes);
    for (size_t page = 0; page <= last; page++) {
        size_t rows = P - page * PAGE < PAGE ? P - page * PAGE : PAGE;
        for (size_t slot = 0; slot < kv->HK; slot++)
            if (slot < hr && page + 2 > last)
                check_rows(x, "tail", slot, page, rows,
                           tail + ((kv->hr_before[w->layer] + slot) * 2 + (page & 1)) * kv->raw_bytes);
            else if (slot >= hr && (page < kv->sink_pages || page + kv->ring_pages > last))
                check_rows(x, "stream", slot, page, rows,
                           stream + stream_at(x, slot - hr, page) * kv->raw_bytes);
    }
    free(block);
    free(tail);
    free(stream);
}

/* Every `step`th row's output; prints the first few that are wrong. */
static void check_out(struct side *x, size_t step)
{
    const struct world *w = x->w;
    size_t D = w->s.D, rows = w->s.N - w->s.past, bad = 0;
    uint16_t *got = malloc(x->out_bytes);
    double *score = malloc(w->s.N * sizeof *score), want[256], top = 0;
    read_back(x, got, x->out, x->out_bytes);
    for (size_t t = 0; t < rows; t = t + step < rows || t == rows - 1 ? t + step : rows - 1)
        for (size_t h = 0; h < w->s.H; h++) {
            size_t slot = h / w->G, g = h % w->G;
            const uint16_t *row = got + (t * w->s.H + w->heads[w->layer][slot] * w->G + g) * D;
            double off = 0, size = 0;
            plain(w, slot, g, w->s.past + t, score, want);
            for (size_t d = 0; d < D; d++) {
                double by = (double)half_to_float(row[d]) - want[d];
                off += by * by;
                size += want[d] * want[d];
            }
            off = sqrt(off / (size + 1e-12));
            if (!(off <= x->tolerance) && bad++ < 8)
                print_message("position %zu, slot %zu, query %zu: off by %g (%g %g.., want %g %g..)\n",
                              w->s.past + t, slot, g, off, (double)half_to_float(row[0]),
                              (double)half_to_float(row[1]), want[0], want[1]);
            top = off > top ? off : top;
        }
    print_message("%s: D %zu G %zu format %d past %zu: worst row %.2e\n", x->d->ops->name, D, w->G,
                  w->s.format, w->s.past, top);
    if (bad)
        fail_msg("%zu rows are wrong", bad);
    free(got);
    free(score);
}

static void check_failed(struct side *x, uint32_t want)
{
    uint32_t failed;
    read_back(x, &failed, x->failed, sizeof failed);
    assert_int_equal(failed, want);
}

/* The whole of a world in chunks of sizes[i % n], then a second time, to equal bits. */
static void walk(struct device *d, const struct world *w, const size_t *sizes, size_t n, size_t step,
                 double tolerance)
{
    uint16_t *first = NULL, *again = NULL;
    for (int run = 0; run < 2; run++) {
        struct side x;
        side_open(&x, d, w, tolerance);
        size_t i = 0;
        for (size_t P = w->s.past; P < w->s.N;) {
            size_t T = sizes[i++ % n] < w->s.N - P ? sizes[(i - 1) % n] : w->s.N - P;
            chunk(&x, P, T);
            P += T;
            if (!run)
                check_state(&x, P);
        }
        check_failed(&x, 0);
        if (!run)
            check_out(&x, step);
        uint16_t **out = run ? &again : &first;
        *out = malloc(x.out_bytes);
        read_back(&x, *out, x.out, x.out_bytes);
        if (run)
            assert_memory_equal(first, again, x.out_bytes);
        side_close(&x);
    }
    free(first);
    free(again);
}

static const double tolerances[] = {2e-3, 5e-3};
static const char *const names[] = {"host", "cuda"};

/* Calls test on the host device and on the card. */
static void each_device(void (*test)(struct device *d, double tolerance))
{
    for (size_t i = 0; i < 2; i++) {
        struct device *d = NULL;
        struct err e = {0};
        int rc = device_open(&d, names[i], NULL, 0, &e);
        if (rc && i) {
            print_message("no card: %s\n", e.text);
            break;
        }
        assert_int_equal(rc, 0);
        if (d->ops->attend_prefill)
            test(d, tolerances[i]);
        device_close(d);
    }
}

static void formats_on(struct device *d, double tolerance)
{
    static const int formats[] = {KV_RAW, KV_8, KV_4, KV_K8V4, KV_K4V2, KV_3};
    static const size_t sizes[] = {65, 1, 64, 63, 2, 130, 5, 200};
    for (size_t f = 0; f < 6; f++)
        for (size_t D = 64; D <= 128; D += 64) {
            struct shape s = {.H = D == 64 ? 6 : 4,
                              .HK = D == 64 ? 3 : 2,
                              .D = D,
                              .S = 16,
                              .R = 96,
                              .format = formats[f],
                              .hr = {2, D == 64 ? 2 : 1},
                              .kind = f & 1 ? ROPE_PAIRS : ROPE_HALVES,
                              .half = D / 2,
                              .N = 350};
            struct world w;
            world_make(&w, s, f % 2, 100 * f + D);
            walk(d, &w, sizes, sizeof sizes / sizeof *sizes, 11, tolerance);
            world_free(&w);
        }
}

static void formats_and_chunks(void **state)
{
    (void)state;
    each_device(formats_on);
}

/* Groups of 1, 3, 4, 7, 8; all retrieval, all streaming; windows and sinks at page edges; partial RoPE; a
 * start in the middle of a page and past the ring. */
static void shapes_on(struct device *d, double tolerance)
{
    static const struct shape shapes[] = {
        {.H = 3, .HK = 3, .D = 64, .S = 64, .R = 256, .format = KV_4, .hr = {3, 3}, .half = 32, .N = 200},
        {.H = 9, .HK = 3, .D = 64, .S = 64, .R = 256, .format = KV_8, .hr = {0, 0}, .half = 24, .N = 700},
        {.H = 8,
         .HK = 2,
         .D = 128,
         .S = 0,
         .R = 64,
         .format = KV_4,
         .hr = {1, 1},
         .half = 64,
         .past = 63,
         .N = 330},
        {.H = 14,
         .HK = 2,
         .D = 128,
         .S = 65,
         .R = 1,
         .format = KV_K8V4,
         .hr = {2, 1},
         .half = 64,
         .past = 1000,
         .N = 1200},
        {.H = 16,
         .HK = 2,
         .D = 64,
         .S = 128,
         .R = 127,
         .format = KV_4,
         .hr = {0, 1},
         .half = 32,
         .past = 1100,
         .N = 1300},
    };
    static const size_t sizes[] = {100, 64, 28, 700};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct world w;
        world_make(&w, shapes[i], 1, 7000 + i);
        walk(d, &w, sizes + i % 4, 4 - i % 4, 9, tolerance);
        world_free(&w);
    }
}

static void shapes(void **state)
{
    (void)state;
    each_device(shapes_on);
}

/* Past the 65,536 tokens that a card expands at a time. */
static void far_on(struct device *d, double tolerance)
{
    static const size_t sizes[] = {40, 65};
    struct shape s = {.H = 2,
                      .HK = 1,
                      .D = 64,
                      .S = 64,
                      .R = 64,
                      .format = KV_4,
                      .hr = {1, 1},
                      .half = 32,
                      .past = 65536 + 8192 - 50,
                      .N = 65536 + 8192 + 40};
    struct world w;
    world_make(&w, s, 1, 11);
    walk(d, &w, sizes, 2, 60, tolerance);
    world_free(&w);
}

static void far(void **state)
{
    (void)state;
    each_device(far_on);
}

/* A key that fp16 cannot hold is told, in every kind of head. */
static void too_large_on(struct device *d, double tolerance)
{
    struct shape s = {
        .H = 4, .HK = 2, .D = 64, .S = 64, .R = 64, .format = KV_4, .hr = {1, 1}, .half = 32, .N = 70};
    for (int i = 0; i < 4; i++) {
        struct world w;
        struct side x;
        world_make(&w, s, 0, 5);
        w.qkv[(size_t)(i & 1 ? 69 : 0) * 8 * 64 + (i & 2 ? 5 : 6) * 64 + 63] = i == 3 ? NAN : 70000;
        side_open(&x, d, &w, tolerance);
        chunk(&x, 0, 70);
        check_failed(&x, 1);
        side_close(&x);
        world_free(&w);
    }
}

static void too_large(void **state)
{
    (void)state;
    each_device(too_large_on);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats_and_chunks),
        cmocka_unit_test(shapes),
        cmocka_unit_test(far),
        cmocka_unit_test(too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
