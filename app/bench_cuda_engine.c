/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cuda_engine.c - measures through engine/device itself: a session that reads and answers, and one that
 * is brought back from host memory. The engine opens the card a second time; plans give all memory back. */
#include "app/bench_cuda_measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/pool.h"
#include "engine/device/device_engine.h"
#include "engine/device/device_plan.h"
#include "engine/session.h"

struct through {
    struct cache_layout layout;
    struct device_engine *g;
    struct device_session *s;
    struct pool *pool;
    uint32_t *ids;    /* [chunk] */
    uint64_t context; /* tokens that it is ready for */
};

static int make_layout(struct card_run *run, const struct card_plan *p, struct cache_layout *y, struct err *e)
{
    const struct card_shape *s = run->shape;
    uint8_t *retrieval = calloc(s->L * s->HK, 1);
    if (!retrieval)
        return err_memory(e, "the heads");
    for (size_t l = 0; l < s->L; l++)
        memset(retrieval + l * s->HK, 1, card_shape_retrieval(s, card_plan_share(p, s), l));
    int rc = cache_layout_init(y, s->L, s->HK, s->D, 64, 256, p->kv, retrieval, e);
    free(retrieval);
    return rc;
}

static struct device_shape shape_of(const struct card_shape *s)
{
    return (struct device_shape){s->name,
                                 s->L,
                                 s->C,
                                 s->H,
                                 s->HK,
                                 s->D,
                                 s->F,
                                 s->V,
                                 1e-5f,
                                 s->rope_base,
                                 s->halves ? ROPE_HALVES : ROPE_PAIRS,
                                 s->qkv_bias};
}

/* Asks the planner how many tokens fit, all on the card. */
static int promised(struct card_run *run, const struct card_plan *p, struct through *t,
                    struct device_options *o, struct err *e)
{
    struct device_plan_input in = {.shape = shape_of(run->shape), .layout = &t->layout, .chunk = run->chunk};
    struct device_plan plan;
    in.weights = plan_weights_of_shape(&in.shape, o->weights);
    int rc = device_plan_ask(o->opened, &in, &plan, e);
    if (rc)
        return rc;
    o->context = plan.fit_card / KV_BLOCK * KV_BLOCK;
    if (p->contexts[0] && o->context > p->contexts[0])
        o->context = p->contexts[0];
    if (o->context < 4 * KV_BLOCK)
        return err_set(e, ERR_MEMORY, "the planner finds no room");
    return 0;
}

/* `context` tokens to be ready for; 0: what the planner says that fits on the card. */
static int open_through(struct card_run *run, const struct card_plan *p, uint64_t context, struct through *t,
                        struct err *e)
{
    struct device_shape shape = shape_of(run->shape);
    struct device_options o = {.device = run->device,
                               .library = run->library,
                               .weights = card_weight_format(run->shape, p->weights),
                               .context = context,
                               .chunk = run->chunk};
    memset(t, 0, sizeof *t);
    int rc = make_layout(run, p, &t->layout, e);
    if (!rc) /* before the plan: it takes some memory, too */
        rc = device_open(&o.opened, run->device, run->library, 0, e);
    if (!rc && !context)
        rc = promised(run, p, t, &o, e);
    if (rc) {
        device_close(o.opened);
        return rc;
    }
    t->context = o.context;
    rc = device_engine_open_shape(&t->g, &o, &shape, &t->layout, 1, e);
    if (!rc)
        rc = pool_create(&t->pool, 0, e);
    if (!rc && !(t->ids = calloc(run->chunk, sizeof *t->ids)))
        rc = err_memory(e, "token ids");
    if (!rc)
        rc = device_session_create(&t->s, t->g, e);
    return rc;
}

static void close_through(struct through *t)
{
    device_session_free(t->s);
    device_engine_close(t->g);
    pool_free(t->pool);
    cache_layout_fini(&t->layout);
    free(t->ids);
}

static uint64_t taken(const struct through *t)
{
    return device_engine_weight_bytes(t->g) + device_engine_work_bytes(t->g) +
           device_session_card_bytes(t->s);
}

static uint64_t past_bytes(const struct through *t, uint64_t position)
{
    struct card_model m = {.kv = *device_session_kv(t->s)};
    return card_past_bytes(&m, position);
}

/* A page of steps, each token the answer to the one before. */
static int steps_row(struct card_run *run, const struct card_plan *p, struct through *t, const char *note,
                     struct err *e)
{
    struct card_row row;
    struct card_samples wall = {0};
    uint32_t id = 1;
    struct device_pass pass = {.best = &id};
    uint64_t position = device_session_position(t->s);
    int rc = 0;
    for (int i = 0; i < KV_PAGE_TOKENS && !rc; i++) {
        uint32_t last = id % (uint32_t)run->shape->V;
        double begun = clock_seconds();
        rc = device_session_pass(t->s, &last, 1, &pass, e);
        if (i >= 4) /* the first ones record the step */
            card_sample(&wall, (clock_seconds() - begun) * 1e3);
    }
    if (rc)
        return rc;
    card_row_begin(&row, run, p, position);
    card_row_samples(&row, &wall);
    row.bytes = (double)(device_engine_step_bytes(t->g) + past_bytes(t, position));
    row.limit = run->limits[DEVICE_LIMIT_READ];
    row.tokens_a_second = 1e3 / row.ms;
    row.memory = (double)taken(t);
    snprintf(row.note, sizeof row.note, "%s", note);
    run->emit(run, &row);
    return 0;
}

/* ---- reading and answering -------------------------------------------------------------------------------
 */

static int read_tokens(struct card_run *run, struct through *t, uint64_t n, struct err *e)
{
    struct device_pass pass = {0};
    uint64_t state = 5;
    int rc = 0;
    while (!rc && device_session_position(t->s) < n) {
        size_t T = device_session_next(t->s, n - device_session_position(t->s), 0);
        for (size_t i = 0; i < T; i++) {
            state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
            t->ids[i] = (uint32_t)((state >> 33) % run->shape->V);
        }
        rc = device_session_pass(t->s, t->ids, T, &pass, e);
    }
    return rc;
}

static int read_row(struct card_run *run, const struct card_plan *p, struct through *t, struct err *e)
{
    struct card_row row;
    uint64_t n = p->contexts[0];
    int rc = device_session_reserve(t->s, n, e);
    double begun = clock_seconds();
    if (!rc)
        rc = read_tokens(run, t, n, e);
    if (rc)
        return rc;
    double seconds = clock_seconds() - begun;
    card_row_begin(&row, run, p, n);
    row.T = (uint32_t)device_engine_chunk(t->g);
    row.n = 1;
    row.ms = row.low = row.high = seconds * 1e3;
    row.flops = card_shape_flops(run->shape) * (double)n +
                card_attention_flops(run->shape, card_plan_share(p, run->shape), 0, n);
    row.limit = run->limits[strcmp(p->weights, "fp8") ? DEVICE_LIMIT_F16 : DEVICE_LIMIT_FP8];
    row.tokens_a_second = (double)n / seconds;
    row.memory = (double)taken(t);
    snprintf(row.note, sizeof row.note, "prefill through the engine");
    run->emit(run, &row);
    return 0;
}

int card_measure_engine(struct card_run *run, const struct card_plan *p, struct err *e)
{
    struct through t;
    int rc = open_through(run, p, p->contexts[0] + KV_BLOCK, &t, e);
    if (!rc)
        rc = read_row(run, p, &t, e);
    if (!rc)
        rc = steps_row(run, p, &t, "decode through the engine", e);
    close_through(&t);
    return rc;
}

/* As many tokens as the planner promises, taken by the engine, with steps at their end. */
int card_measure_promise(struct card_run *run, const struct card_plan *p, struct err *e)
{
    struct through t;
    int rc = open_through(run, p, 0, &t, e);
    uint64_t end = t.context - KV_BLOCK; /* steps go on into the last block */
    if (!rc)
        rc = read_tokens(run, &t, 2 * KV_BLOCK, e);
    if (!rc)
        rc = device_session_repeat(t.s, end, e);
    if (!rc)
        rc = device_session_reserve(t.s, t.context, e);
    if (!rc && device_session_host_bytes(t.s))
        rc = err_set(e, ERR_MEMORY, "%llu bytes of what the planner promised had to go to host memory",
                     (unsigned long long)device_session_host_bytes(t.s));
    if (!rc)
        rc = steps_row(run, p, &t,
                       "through the engine, filled as the planner promises (and a block for steps)", e);
    close_through(&t);
    return rc;
}

/* ---- brought back ----------------------------------------------------------------------------------------
 */

/* Up to a gigabyte of blocks in ordinary host memory, as a mapped file that is cached. */
static uint8_t *make_source(const struct device_kv *kv, size_t blocks, size_t *n)
{
    size_t most = ((size_t)1 << 30) / kv->block_bytes;
    *n = blocks < most || !most ? (blocks && most ? blocks : 1) : most;
    uint8_t *block = card_made_up_block(kv), *all = malloc(*n * kv->block_bytes);
    for (size_t i = 0; block && all && i < *n; i++)
        memcpy(all + i * kv->block_bytes, block, kv->block_bytes);
    if (!block) {
        free(all);
        all = NULL;
    }
    free(block);
    return all;
}

static int restore(struct through *t, const uint8_t *source, size_t n, size_t blocks, struct err *e)
{
    size_t bytes = device_session_kv(t->s)->block_bytes;
    int rc = device_session_reserve(t->s, (blocks + 1) * KV_BLOCK, e);
    for (size_t b = 0; b < blocks && !rc; b++)
        rc = device_session_put_block(t->s, source + b % n * bytes, t->pool, e);
    return rc;
}

static int restore_row(struct card_run *run, const struct card_plan *p, struct through *t,
                       const uint8_t *source, size_t n, struct err *e)
{
    struct card_row row;
    uint32_t id = 1;
    struct device_pass pass = {.best = &id};
    size_t blocks = (size_t)(p->contexts[0] / KV_BLOCK);
    double begun = clock_seconds();
    int rc = restore(t, source, n, blocks, e);
    if (!rc)
        rc = device_session_put_finish(t->s, e);
    double there = clock_seconds() - begun;
    if (!rc)
        rc = device_session_pass(t->s, &(uint32_t){1}, 1, &pass, e);
    double token = clock_seconds() - begun;
    if (rc)
        return rc;
    card_row_begin(&row, run, p, p->contexts[0]);
    row.n = 1;
    row.ms = row.low = row.high = there * 1e3;
    row.bytes = (double)blocks * (double)device_session_kv(t->s)->block_bytes;
    row.limit = run->limits[DEVICE_LIMIT_TO_CARD];
    row.memory = (double)taken(t);
    snprintf(row.note, sizeof row.note,
             "out of ordinary host memory, memory on the card taken meanwhile; first token after %.3f s",
             token);
    run->emit(run, &row);
    return 0;
}

int card_measure_restore(struct card_run *run, const struct card_plan *p, struct err *e)
{
    struct through t;
    uint8_t *source = NULL;
    size_t n = 0;
    int rc = open_through(run, p, p->contexts[0] + KV_BLOCK, &t, e);
    if (!rc && !(source = make_source(device_session_kv(t.s), (size_t)(p->contexts[0] / KV_BLOCK), &n)))
        rc = err_memory(e, "blocks to bring back");
    if (!rc)
        rc = restore_row(run, p, &t, source, n, e);
    if (!rc)
        rc = steps_row(run, p, &t, "decode through the engine", e);
    close_through(&t);
    free(source);
    return rc;
}
