/* SPDX-License-Identifier: Apache-2.0 */
/* test_kernels_attend.c - attention over blocks: against a softmax in double that applies the rule of
 * visibility key by key, and bit for bit against itself under other tilings and block lists. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/kernels_support.h"

enum { PAGES = 6, TOKENS = PAGES * 64 };

static const int formats[] = {KV_RAW, KV_8, KV_4, KV_K8V4, KV_K4V2, KV_3};
enum { FORMATS = sizeof formats / sizeof *formats };

/* Random keys and values of one KV head as records of every format, raw first. */
struct world {
    size_t G, D;
    uint8_t *records[FORMATS][PAGES]; /* NULL where the width is not handled */
    float *k, *v;                     /* [FORMATS][TOKENS][D] as attend must see them */
    float *q;                         /* [TOKENS][G * D] */
};

static void world_page(struct world *w, size_t f, size_t p)
{
    const struct kernels *ref = kernels_get("ref");
    size_t D = w->D, at = (f * TOKENS + p * 64) * D;
    const uint16_t *raw = (const uint16_t *)(const void *)w->records[0][p];
    if (!kv_page_bytes(formats[f], D))
        return;
    if (f) {
        w->records[f][p] = aligned_zero(kv_page_bytes(formats[f], D));
        ref->kv_page_pack(&(struct kv_page_pack_args){.k = raw,
                                                      .ldk = D,
                                                      .v = raw + 64 * D,
                                                      .ldv = D,
                                                      .D = D,
                                                      .format = formats[f],
                                                      .record = w->records[f][p]});
    }
    ref->kv_page_unpack(&(struct kv_page_unpack_args){
        .record = w->records[f][p], .format = formats[f], .D = D, .k = w->k + at, .v = w->v + at});
}

static void world_make(struct world *w, size_t G, size_t D, uint64_t seed, float size)
{
    struct random r = {seed};
    *w = (struct world){.G = G, .D = D};
    w->k = malloc(FORMATS * TOKENS * D * sizeof(float));
    w->v = malloc(FORMATS * TOKENS * D * sizeof(float));
    w->q = malloc(TOKENS * G * D * sizeof(float));
    for (size_t i = 0; i < TOKENS * G * D; i++)
        w->q[i] = random_normal(&r) * size;
    for (size_t p = 0; p < PAGES; p++) {
        w->records[0][p] = aligned_zero(kv_page_bytes(KV_RAW, D));
        uint16_t *raw = (uint16_t *)(void *)w->records[0][p];
        for (size_t i = 0; i < 2 * 64 * D; i++)
            raw[i] = half_from_float(random_normal(&r) * size + (i % D == 5 ? 3 : 0));
        for (size_t f = 0; f < FORMATS; f++)
            world_page(w, f, p);
    }
}

static void world_free(struct world *w)
{
    for (size_t f = 0; f < FORMATS; f++)
        for (size_t p = 0; p < PAGES; p++)
            free(w->records[f][p]);
    free(w->k);
    free(w->v);
    free(w->q);
}

/* One head's job over the world: blocks whose bit of `coded` is set are in format number f. */
struct job {
    struct attend_block blocks[PAGES];
    size_t f[PAGES];
    size_t n_blocks;
    size_t pos0, T;
    int streaming;
    size_t S, R;
};

static void job_block(const struct world *w, struct job *j, size_t p, size_t f)
{
    size_t left = j->pos0 + j->T - p * 64;
    j->f[p] = w->records[f][p] ? f : 0;
    j->blocks[p] = (struct attend_block){.data = w->records[j->f[p]][p],
                                         .format = formats[j->f[p]],
                                         .base = p * 64,
                                         .hi = left < 64 ? (int)left : 64};
}

static struct job job_make(const struct world *w, size_t pos0, size_t T, unsigned coded, size_t f)
{
    struct job j = {.pos0 = pos0, .T = T, .n_blocks = (pos0 + T + 63) / 64};
    for (size_t p = 0; p < j.n_blocks; p++)
        job_block(w, &j, p, coded >> p & 1 ? f : 0);
    return j;
}

static void attend(const struct kernels *k, const struct world *w, const struct job *j, float *out,
                   float *mass)
{
    size_t bytes = attend_scratch_bytes(j->T, w->G, w->D, mass ? j->n_blocks : 0);
    void *scratch = aligned_zero(bytes);
    memset(scratch, 0xff, bytes);
    poison(out, j->T * w->G * w->D);
    k->attend(&(struct attend_args){.q = w->q + j->pos0 * w->G * w->D,
                                    .ldq = w->G * w->D,
                                    .out = out,
                                    .ldout = w->G * w->D,
                                    .T = j->T,
                                    .pos0 = j->pos0,
                                    .G = w->G,
                                    .D = w->D,
                                    .scale = 1 / sqrtf((float)w->D),
                                    .blocks = j->blocks,
                                    .n_blocks = j->n_blocks,
                                    .streaming = j->streaming,
                                    .S = j->S,
                                    .R = j->R,
                                    .mass = mass,
                                    .scratch = scratch,
                                    .scratch_bytes = bytes});
    free(scratch);
}

/* The rule, key by key, in double. */
static void plain(const struct world *w, const struct job *j, float *out, double *mass)
{
    size_t D = w->D;
    for (size_t row = 0; row < j->T * w->G; row++) {
        size_t p = j->pos0 + row / w->G;
        const float *q = w->q + (p * w->G + row % w->G) * D;
        double score[TOKENS], top = -INFINITY, sum = 0, acc[256] = {0}, share[PAGES] = {0};
        for (int pass = 0; pass < 2; pass++)
            for (size_t b = 0; b < j->n_blocks; b++)
                for (size_t i = (size_t)j->blocks[b].lo; i < (size_t)j->blocks[b].hi; i++) {
                    size_t key = j->blocks[b].base + i;
                    if (key > p || (j->streaming && key >= j->S && p - key >= j->R))
                        continue;
                    size_t at = (j->f[b] * TOKENS + key) * D;
                    if (pass == 0) {
                        score[key] = 0;
                        for (size_t d = 0; d < D; d++)
                            score[key] += (double)q[d] * (double)w->k[at + d];
                        score[key] /= sqrt((double)D);
                        top = fmax(top, score[key]);
                        continue;
                    }
                    double e = exp(score[key] - top);
                    sum += e;
                    share[b] += e;
                    for (size_t d = 0; d < D; d++)
                        acc[d] += e * (double)w->v[at + d];
                }
        for (size_t d = 0; d < D; d++)
            out[row * D + d] = sum > 0 ? (float)(acc[d] / sum) : 0;
        for (size_t b = 0; mass && sum > 0 && b < j->n_blocks; b++)
            mass[b] += share[b] / sum;
    }
}

static void compare(const struct kernels *k, const struct world *w, const struct job *j)
{
    size_t n = j->T * w->G * w->D;
    float *got = malloc(n * sizeof *got), *want = malloc(n * sizeof *want), mass[PAGES];
    double want_mass[PAGES] = {0};
    for (size_t b = 0; b < PAGES; b++)
        mass[b] = 0.25f; /* it accumulates */
    attend(k, w, j, got, mass);
    plain(w, j, want, want_mass);
    assert_true(worst(got, want, n) <= 5e-5); /* scores reach 60: their last float bit is 4e-6 of exp */
    for (size_t b = 0; b < j->n_blocks; b++)
        assert_true(fabs((double)mass[b] - 0.25 - want_mass[b]) <= 1e-4 * (1 + want_mass[b]));
    attend(k, w, j, want, NULL); /* asking for mass changes nothing */
    assert_memory_equal(got, want, n * sizeof *got);
    free(got);
    free(want);
}

static void match_spans(const struct kernels *k, const struct world *w, size_t f)
{
    static const size_t spans[][2] = {{0, 1},   {0, 64},  {5, 7},   {63, 1},   {64, 1},
                                      {64, 64}, {130, 2}, {200, 5}, {320, 64}, {383, 1}};
    for (size_t i = 0; i < sizeof spans / sizeof *spans; i++) {
        struct job j = job_make(w, spans[i][0], spans[i][1], i % 3 ? 0x1f : 0, f);
        job_block(w, &j, j.n_blocks - 1, 0); /* the own page is raw */
        compare(k, w, &j);
        j.streaming = 1;
        static const size_t sinks[][2] = {{4, 20}, {64, 100}, {0, 1}, {70, 64}, {1000, 1}};
        for (size_t n = 0; n < sizeof sinks / sizeof *sinks; n++) {
            j.S = sinks[n][0];
            j.R = sinks[n][1];
            if (f == 1 || n == i % 5) /* one of them will do for most formats */
                compare(k, w, &j);
        }
        j.blocks[0].lo = 3; /* usable rows cut on both sides, and an empty block */
        j.blocks[0].hi = j.blocks[0].hi < 40 ? j.blocks[0].hi : 40;
        if (j.blocks[0].lo > j.blocks[0].hi)
            j.blocks[0].lo = j.blocks[0].hi;
        compare(k, w, &j);
    }
}

/* Decode over pages of all formats in one list. */
static void match_mixed(const struct kernels *k, const struct world *w)
{
    for (size_t i = 0; i < 12; i++) {
        struct job j = job_make(w, 320 + 5 * i, 1 + i / 4, 0, 0);
        for (size_t p = 0; p + 1 < j.n_blocks; p++)
            job_block(w, &j, p, (p + i) % FORMATS);
        compare(k, w, &j);
    }
}

static void matches_double(const struct kernels *k)
{
    static const size_t shapes[][2] = {{1, 64}, {3, 64},  {4, 128}, {9, 64}, {2, 80}, {1, 16},
                                       {7, 24}, {1, 256}, {2, 112}, {4, 96}, {3, 48}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        struct world w;
        world_make(&w, shapes[s][0], shapes[s][1], 20 + s, s % 2 ? 1.0f : 2.5f);
        for (size_t f = 1; f < FORMATS; f++)
            if (f == 1 + s % (FORMATS - 1) || (f == 2 && s < 4))
                match_spans(k, &w, f);
        match_mixed(k, &w);
        world_free(&w);
    }
}

static void test_matches_double(void **state)
{
    (void)state;
    each_backend(matches_double);
}

/* A row in a tile of T = the row alone, whether it is fused or not; blocks it does not see, and rows beyond
 * it, change no bit. */
static void rows_alone(const struct kernels *k)
{
    static const size_t shapes[][3] = {{3, 64, 1}, {4, 128, 1}, {1, 48, 1},  {3, 64, 2},  {4, 128, 2},
                                       {1, 48, 2}, {2, 80, 2},  {3, 64, 3},  {4, 112, 3}, {1, 16, 3},
                                       {3, 64, 4}, {1, 48, 5},  {2, 256, 2}, {9, 64, 2}};
    size_t n_shapes = strcmp(k->name, "ref") != 0 ? sizeof shapes / sizeof *shapes : 3;
    for (size_t s = 0; s < n_shapes; s++)
        for (int streaming = 0; streaming < 2; streaming++) {
            size_t f = shapes[s][2];
            struct world w;
            world_make(&w, shapes[s][0], shapes[s][1], 40 + s, 2);
            size_t row = w.G * w.D;
            float *whole = malloc(64 * row * sizeof *whole), *one = malloc(64 * row * sizeof *one);
            struct job all = job_make(&w, 320, 64, 0x1f, f);
            all.streaming = streaming;
            all.S = 10;
            all.R = 90;
            attend(k, &w, &all, whole, NULL);
            for (size_t t = 0; t < 64; t += t % 7 ? 1 : 3) {
                struct job j = job_make(&w, 320 + t, 1, 0x1f, f);
                j.streaming = streaming;
                j.S = 10;
                j.R = 90;
                attend(k, &w, &j, one, NULL);
                assert_memory_equal(one, whole + t * row, row * sizeof *one);
                if (streaming) { /* pages 1 and 2 lie in the hole of every query here */
                    j.blocks[1] = j.blocks[3];
                    j.blocks[2] = j.blocks[4];
                    j.blocks[3] = j.blocks[5];
                    j.n_blocks = 4;
                    attend(k, &w, &j, one, NULL);
                    assert_memory_equal(one, whole + t * row, row * sizeof *one);
                }
            }
            for (size_t n = 2; n <= 63; n += 13) {
                struct job j = job_make(&w, 384 - n, n, 0x1f, f);
                j.streaming = streaming;
                j.S = 10;
                j.R = 90;
                attend(k, &w, &j, one, NULL);
                assert_memory_equal(one, whole + (64 - n) * row, n * row * sizeof *one);
            }
            free(whole);
            free(one);
            world_free(&w);
        }
}

static void test_rows_alone(void **state)
{
    (void)state;
    each_backend(rows_alone);
}

/* Rows outside [lo, hi) may hold anything; a row that sees nothing is zero; scores far apart do not break. */
static void hostile(const struct kernels *k)
{
    struct world w;
    world_make(&w, 3, 64, 60, 1);
    float out[8 * 3 * 64], want[8 * 3 * 64];
    struct job j = job_make(&w, 64 + 10, 8, 0, 0);
    attend(k, &w, &j, want, NULL);
    uint16_t *raw = (uint16_t *)(void *)w.records[0][1];
    for (size_t t = 18; t < 64; t++)
        for (size_t d = 0; d < 64; d++)
            raw[t * 64 + d] = raw[64 * 64 + t * 64 + d] = d % 2 ? 0x7e00 : 0x7c00; /* NaN, infinity */
    attend(k, &w, &j, out, NULL);
    assert_memory_equal(out, want, sizeof out);
    j.blocks[0].lo = j.blocks[0].hi = j.blocks[1].lo = j.blocks[1].hi = 0;
    attend(k, &w, &j, out, NULL);
    for (size_t i = 0; i < 8 * 3 * 64; i++)
        assert_true(out[i] == 0);
    world_free(&w);
    world_make(&w, 1, 64, 61, 60); /* scores of tens of thousands: one key takes all */
    j = job_make(&w, 320, 8, 0x1f, 2);
    attend(k, &w, &j, out, NULL);
    plain(&w, &j, want, NULL);
    assert_true(worst(out, want, 8 * 64) <= 5e-2); /* near ties feel the float scores' rounding */
    world_free(&w);
}

/* A record of any bytes, its params infinite or no numbers, harms nothing but the rows that see it. */
static void any_bytes(const struct kernels *k)
{
    struct random r = {70};
    float out[8 * 2 * 80], want[8 * 2 * 80];
    for (size_t f = 1; f < FORMATS; f++) {
        struct world w;
        world_make(&w, 2, 80, 62, 1);
        struct job j = job_make(&w, 128, 8, 0, f);
        j.streaming = 1; /* page 1 is seen, page 0 is not */
        j.R = 60;
        job_block(&w, &j, 0, f);
        attend(k, &w, &j, want, NULL);
        for (size_t p = 0; p < 2; p++)
            for (size_t i = 0; i < kv_page_bytes(formats[f], 80); i++)
                w.records[f][p][i] = (uint8_t)random_u64(&r);
        attend(k, &w, &j, out, NULL);
        assert_memory_equal(out, want, sizeof out);
        job_block(&w, &j, 1, f);
        attend(k, &w, &j, out, NULL);
        assert_true(memcmp(out, want, sizeof out) != 0);
        for (j.T = 1; j.T <= 8; j.T += 7) { /* fused and in tiles */
            j.streaming = 0;
            attend(k, &w, &j, out, NULL);
        }
        world_free(&w);
    }
}

static void test_any_bytes(void **state)
{
    (void)state;
    each_backend(any_bytes);
}

static void test_hostile(void **state)
{
    (void)state;
    each_backend(hostile);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matches_double),
        cmocka_unit_test(test_rows_alone),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_any_bytes),
    };
    return cmocka_run_group_tests_name("kernels_attend", tests, NULL, NULL);
}
