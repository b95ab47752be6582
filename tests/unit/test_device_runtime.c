/* SPDX-License-Identifier: Apache-2.0 */
/* test_device_runtime.c - a device itself, host and (where there is one) card: memory, copies on the three
 * queues, events, recorded steps, kept failures, embed and argmax against plain C. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/device.h"
#include "tests/support/kernels_support.h"

static void on_host(void (*test)(struct device *d))
{
    struct err e = {0};
    struct device *d;
    assert_int_equal(device_open(&d, "host", NULL, 0, &e), 0);
    test(d);
    assert_int_equal(d->ops->sync(d, DEVICE_COMPUTE, &e), 0);
    device_close(d);
}

static void on_card(void (*test)(struct device *d))
{
    struct err e = {0};
    struct device *d;
    if (device_open(&d, "cuda", NULL, 0, &e)) {
        assert_null(d);
        assert_int_equal(e.code, ERR_UNSUPPORTED);
        print_message("%s\n", e.text);
        skip();
    }
    test(d);
    assert_int_equal(d->ops->sync(d, DEVICE_COMPUTE, &e), 0);
    device_close(d);
}

static void *take(struct device *d, size_t bytes)
{
    struct err e = {0};
    void *p;
    if (d->ops->alloc(d, bytes, &p, &e))
        fail_msg("%s", e.text);
    assert_int_equal((uintptr_t)p % 256, 0);
    return p;
}

static void settle(struct device *d, enum device_queue q)
{
    struct err e = {0};
    if (d->ops->sync(d, q, &e))
        fail_msg("%s", e.text);
}

static void memory(struct device *d)
{
    enum { N = 100001 };
    struct err e = {0};
    const struct device_ops *o = d->ops;
    void *host, *view;
    assert_int_equal(o->alloc_host(d, N, &host, &view, &e), 0);
    uint8_t *bytes = host, *a = take(d, N), *b = take(d, N);
    void *empty = take(d, 0);
    struct device_event *done;
    assert_int_equal(o->event_create(d, &done, &e), 0);
    for (size_t i = 0; i < N; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 251);
    /* in by one queue, across by another, out by the third */
    o->upload(d, DEVICE_COPY_IN, a, bytes, N);
    o->event_record(d, DEVICE_COPY_IN, done);
    o->event_wait(d, DEVICE_COMPUTE, done);
    o->fill(d, DEVICE_COMPUTE, b, 0x5a, N);
    o->copy(d, DEVICE_COMPUTE, b + 1, a + 1, N - 2);
    o->copy(d, DEVICE_COMPUTE, b, a, 0); /* nothing */
    o->event_record(d, DEVICE_COMPUTE, done);
    o->event_wait(d, DEVICE_COPY_OUT, done);
    uint8_t *back = malloc(N);
    assert_non_null(back);
    o->download(d, DEVICE_COPY_OUT, back, b, N);
    settle(d, DEVICE_COPY_OUT);
    assert_int_equal(back[0], 0x5a);
    assert_int_equal(back[N - 1], 0x5a);
    assert_memory_equal(back + 1, bytes + 1, N - 2);
    /* pinned memory by its device view */
    o->copy(d, DEVICE_COMPUTE, a, b, N);
    o->copy(d, DEVICE_COMPUTE, view, a, N);
    settle(d, DEVICE_COMPUTE);
    assert_memory_equal(back, bytes, N);
    free(back);
    o->event_free(d, done);
    o->release(d, a);
    o->release(d, b);
    o->release(d, empty);
    o->release(d, NULL);
    o->release_host(d, host);
}

static void too_much(struct device *d)
{
    struct err e = {0};
    void *p = d, *view;
    assert_int_equal(d->ops->alloc(d, (size_t)1 << 62, &p, &e), ERR_MEMORY);
    assert_null(p);
    assert_non_null(strstr(e.text, "MB"));
    assert_int_equal(d->ops->alloc(d, SIZE_MAX, &p, &e), ERR_MEMORY);
    assert_int_equal(d->ops->alloc_host(d, (size_t)1 << 62, &p, &view, &e), ERR_MEMORY);
    d->ops->release(d, take(d, 1000)); /* the failure is gone with its report */
}

static void about(struct device *d)
{
    struct device_info i;
    d->ops->info(d, &i);
    assert_true(i.name[0] && i.processors > 0 && i.memory >= i.memory_free);
    int card = !strcmp(d->ops->name, "cuda");
    assert_int_equal(card, i.major >= 8);
    double rate = 0;
    struct err e = {0};
    for (int l = DEVICE_LIMIT_COPY; l <= DEVICE_LIMIT_FROM_CARD; l++) {
        assert_int_equal(d->ops->measure(d, (enum device_limit)l, &rate, &e), 0);
        assert_true(rate > 1e6);
    }
    print_message("%s: %d processors, %llu of %llu MB free, driver %d, runtime %d\n", i.name, i.processors,
                  (unsigned long long)i.memory_free >> 20, (unsigned long long)i.memory >> 20, i.driver,
                  i.runtime);
}

static void events(struct device *d)
{
    struct err e = {0};
    const struct device_ops *o = d->ops;
    struct device_event *from, *to;
    assert_int_equal(o->event_create(d, &from, &e), 0);
    assert_int_equal(o->event_create(d, &to, &e), 0);
    void *p = take(d, 32 << 20);
    o->event_record(d, DEVICE_COMPUTE, from);
    for (int i = 0; i < 4; i++)
        o->fill(d, DEVICE_COMPUTE, p, i, 32 << 20);
    o->event_record(d, DEVICE_COMPUTE, to);
    assert_int_equal(o->event_sync(d, to, &e), 0);
    assert_int_equal(o->event_done(d, to), 1);
    assert_true(o->event_ms(d, from, to) > 0);
    o->release(d, p);
    o->event_free(d, from);
    o->event_free(d, to);
}

/* A step that embeds the id which an upload brings and takes the greatest of the row: launched three times
 * with other ids in the same place. */
static void recorded(struct device *d)
{
    enum { V = 5, C = 70 };
    struct err e = {0};
    const struct device_ops *o = d->ops;
    float table[V * C];
    for (size_t i = 0; i < V * C; i++)
        table[i] = (float)((i * 37 + i / C * 11) % 101);
    void *host, *view, *raw = take(d, sizeof table);
    assert_int_equal(o->alloc_host(d, 64, &host, &view, &e), 0);
    uint32_t *word = host, *ids = take(d, 64), *best = take(d, 64);
    float *row = take(d, C * sizeof *row);
    o->upload(d, DEVICE_COMPUTE, raw, table, sizeof table);
    settle(d, DEVICE_COMPUTE);
    struct device_graph *g = NULL;
    assert_int_equal(o->capture_begin(d, &e), 0);
    o->upload(d, DEVICE_COMPUTE, ids, word, 4);
    o->embed(d, &(struct device_embed_args){
                    .type = TENSOR_F32, .raw = raw, .V = V, .C = C, .ids = ids, .T = 1, .y = row, .ldy = C});
    o->argmax(d, &(struct device_argmax_args){.x = row, .ldx = C, .T = 1, .N = C, .best = best});
    o->download(d, DEVICE_COMPUTE, word + 1, best, 4);
    if (o->capture_end(d, &g, &e))
        fail_msg("%s", e.text);
    for (uint32_t id = 0; id < V; id += 2) {
        word[0] = id;
        word[1] = UINT32_MAX;
        o->graph_launch(d, g);
        settle(d, DEVICE_COMPUTE);
        size_t want = 0;
        for (size_t c = 1; c < C; c++)
            if (table[id * C + c] > table[id * C + want])
                want = c;
        assert_int_equal(word[1], want);
    }
    o->graph_free(d, g);
    o->graph_free(d, NULL);
    o->release(d, raw);
    o->release(d, ids);
    o->release(d, best);
    o->release(d, row);
    o->release_host(d, host);
}

/* A wrong shape is kept, comes back once from the next call that can say it, and then all is well. */
static void failures(struct device *d)
{
    struct err e = {0};
    const struct device_ops *o = d->ops;
    float *x = take(d, 400);
    uint32_t *best = take(d, 16);
    o->argmax(d, &(struct device_argmax_args){.x = x, .ldx = 10, .T = 1, .N = 100, .best = best});
    o->embed(d, &(struct device_embed_args){.type = TENSOR_Q4_0, .C = 33, .T = 1});
    assert_int_equal(o->sync(d, DEVICE_COMPUTE, &e), ERR_USAGE);
    assert_non_null(strstr(e.text, "argmax"));
    assert_int_equal(o->sync(d, DEVICE_COMPUTE, &e), 0);
    struct device_graph *g = (struct device_graph *)d;
    assert_int_equal(o->capture_begin(d, &e), 0);
    o->argmax(d, &(struct device_argmax_args){.x = x, .ldx = 10, .T = 1, .N = 100, .best = best});
    assert_int_equal(o->capture_end(d, &g, &e), ERR_USAGE);
    assert_null(g);
    assert_int_equal(o->sync(d, DEVICE_COMPUTE, &e), 0);
    o->release(d, x);
    o->release(d, best);
}

static void embed_one(struct device *d, enum tensor_type type, size_t C, size_t T)
{
    enum { V = 9 };
    const struct kernels *ref = kernels_get("ref");
    const struct device_ops *o = d->ops;
    size_t row = tensor_row_bytes(type, C);
    struct random r = {type * 100 + C};
    uint8_t *raw = malloc(row * V);
    uint32_t ids[70];
    float *want = malloc(T * C * 4), *got = malloc(T * C * 4);
    assert_true(raw && want && got && T <= 70);
    for (size_t i = 0; i < row * V; i++)
        raw[i] = (uint8_t)random_u64(&r);
    for (size_t i = 0; i + 2 <= row * V; i += 2) /* no fp16 NaN or infinity, whichever bytes are scales */
        raw[i + 1] &= 0x3f;
    for (size_t t = 0; t < T; t++)
        ids[t] = (uint32_t)(random_u64(&r) % V);
    ref->embed(
        &(struct embed_args){.type = type, .raw = raw, .C = C, .ids = ids, .T = T, .y = want, .ldy = C});
    void *draw = take(d, row * V), *dids = take(d, sizeof ids);
    float *y = take(d, T * C * 4);
    o->upload(d, DEVICE_COMPUTE, draw, raw, row * V);
    o->upload(d, DEVICE_COMPUTE, dids, ids, T * 4);
    o->fill(d, DEVICE_COMPUTE, y, 0xff, T * C * 4);
    o->embed(d, &(struct device_embed_args){
                    .type = type, .raw = draw, .V = V, .C = C, .ids = dids, .T = T, .y = y, .ldy = C});
    o->download(d, DEVICE_COMPUTE, got, y, T * C * 4);
    settle(d, DEVICE_COMPUTE);
    assert_memory_equal(got, want, T * C * 4);
    o->release(d, draw);
    o->release(d, dids);
    o->release(d, y);
    free(raw);
    free(want);
    free(got);
}

static void embeds(struct device *d)
{
    static const enum tensor_type types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16,
                                             TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q8_0};
    static const size_t tokens[] = {1, 2, 4, 5, 63, 64, 65};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++)
            embed_one(d, types[i], t % 2 ? 96 : 576, tokens[t]);
}

static void argmax_one(struct device *d, size_t N, size_t T, uint64_t seed)
{
    const struct device_ops *o = d->ops;
    struct random r = {seed + N};
    size_t ldx = N + 3;
    float *x = malloc(T * ldx * 4);
    uint32_t *got = malloc(T * 4);
    assert_true(x && got);
    for (size_t i = 0; i < T * ldx; i++)
        x[i] = i % ldx >= N ? 1e30f : (float)(int)(random_float(&r) * 40); /* equals abound, -0 too */
    for (size_t t = 0; t < T; t++) {
        if (t % 3 == 1) /* all NaN but for some -infinity */
            for (size_t i = 0; i < N; i++)
                x[t * ldx + i] = i % 5 ? NAN : -INFINITY;
        if (t % 3 == 2)
            x[t * ldx] = NAN;
    }
    float *dx = take(d, T * ldx * 4);
    uint32_t *best = take(d, T * 4);
    o->upload(d, DEVICE_COMPUTE, dx, x, T * ldx * 4);
    o->argmax(d, &(struct device_argmax_args){.x = dx, .ldx = ldx, .T = T, .N = N, .best = best});
    o->download(d, DEVICE_COMPUTE, got, best, T * 4);
    settle(d, DEVICE_COMPUTE);
    for (size_t t = 0; t < T; t++) {
        size_t want = 0;
        for (size_t i = 1; i < N; i++) {
            float a = x[t * ldx + i], b = x[t * ldx + want];
            if ((isnan(a) ? -INFINITY : a) > (isnan(b) ? -INFINITY : b))
                want = i;
        }
        assert_int_equal(got[t], want);
    }
    o->release(d, dx);
    o->release(d, best);
    free(x);
    free(got);
}

static void argmaxes(struct device *d)
{
    static const size_t sizes[] = {1, 2, 31, 33, 1000, 1025, 8191, 8192, 8193, 49152, 128256};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        argmax_one(d, sizes[i], i % 2 ? 4 : 1, i);
    argmax_one(d, 100, 65, 77);
}

static void test_names(void **state)
{
    (void)state;
    struct err e = {0};
    struct device *d;
    assert_int_equal(device_open(&d, "tpu", NULL, 0, &e), ERR_USAGE);
    assert_int_equal(device_open(&d, "cuda", "/nowhere/liblectern_cuda.so", 0, &e), ERR_UNSUPPORTED);
    assert_null(d);
    assert_non_null(strstr(e.text, "nowhere"));
    assert_int_equal(device_open(&d, "cuda", NULL, 12345, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "CUDA is not used: "));
    assert_null(strchr(e.text, '\n'));
    device_close(NULL);
}

#define BOTH(name)                                                                                           \
    static void test_##name##_host(void **state)                                                             \
    {                                                                                                        \
        (void)state;                                                                                         \
        on_host(name);                                                                                       \
    }                                                                                                        \
    static void test_##name##_cuda(void **state)                                                             \
    {                                                                                                        \
        (void)state;                                                                                         \
        on_card(name);                                                                                       \
    }
BOTH(memory)
BOTH(too_much)
BOTH(about)
BOTH(events)
BOTH(recorded)
BOTH(failures)
BOTH(embeds)
BOTH(argmaxes)

#define TESTS(name) cmocka_unit_test(test_##name##_host), cmocka_unit_test(test_##name##_cuda)
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        TESTS(memory),
        TESTS(too_much),
        TESTS(about),
        TESTS(events),
        TESTS(recorded),
        TESTS(failures),
        TESTS(embeds),
        TESTS(argmaxes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
