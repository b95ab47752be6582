/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cuda_prefill.c - measures of reading: whole prefills, each told at several lengths; a chunk's
 * attention alone; how many tokens fit, by filling the card; bringing a session back from host memory. */
#include "app/bench_cuda_measure.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/clock.h"

/* ---- whole prefills --------------------------------------------------------------------------------------
 */

static double prefill_flops(const struct card_run *run, const struct card_plan *p, uint64_t n)
{
    return card_shape_flops(run->shape) * (double)n +
           card_attention_flops(run->shape, card_plan_share(p, run->shape), 0, n);
}

static uint64_t random_ids(struct card_model *m, uint32_t *host, size_t T, uint64_t state)
{
    for (size_t t = 0; t < T; t++) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
        host[t] = (uint32_t)((state >> 33) % m->s->V);
    }
    return state;
}

static void prefill_row(struct card_run *run, const struct card_plan *p, struct card_model *m, uint64_t n,
                        double seconds)
{
    struct card_row row;
    card_row_begin(&row, run, p, n);
    row.T = (uint32_t)m->T;
    row.n = 1;
    row.ms = row.low = row.high = seconds * 1e3;
    row.flops = prefill_flops(run, p, n);
    row.limit = run->limits[strcmp(p->weights, "fp8") ? DEVICE_LIMIT_F16 : DEVICE_LIMIT_FP8];
    row.tokens_a_second = (double)n / seconds;
    row.memory = card_memory_at(m, n);
    run->emit(run, &row);
}

/* One reading from an empty session on; the seconds at each of the plan's lengths, up to its last token's
 * logits there. Each chunk is waited for, so nothing is counted before it is done. */
static int read_on(struct card_run *run, const struct card_plan *p, struct card_model *m, uint64_t longest,
                   struct err *e)
{
    uint32_t *ids;
    uint64_t state = 99, n = 0;
    int at = 0;
    int rc = card_take_host(m, m->T * sizeof *ids, &ids, e);
    if (rc)
        return rc;
    card_queue_chunk(m, 0, m->T < longest ? m->T : (size_t)longest, 1); /* plans of products are made once */
    rc = m->d->ops->sync(m->d, DEVICE_COMPUTE, e);
    double begun = clock_seconds();
    while (!rc && n < longest) {
        size_t T = longest - n < m->T ? (size_t)(longest - n) : m->T;
        int mark = n + T >= p->contexts[at];
        state = random_ids(m, ids, T, state);
        m->d->ops->upload(m->d, DEVICE_COMPUTE, m->ids, ids, T * sizeof *ids);
        card_queue_chunk(m, n, T, mark);
        rc = m->d->ops->sync(m->d, DEVICE_COMPUTE, e);
        n += T;
        if (!rc && mark) {
            prefill_row(run, p, m, n, clock_seconds() - begun);
            at++;
        }
    }
    return rc;
}

static int failed_rows(struct card_model *m, struct err *e)
{
    uint32_t *failed;
    int rc = card_take_host(m, sizeof *failed, &failed, e);
    if (rc)
        return rc;
    m->d->ops->download(m->d, DEVICE_COMPUTE, failed, m->failed, sizeof *failed);
    rc = m->d->ops->sync(m->d, DEVICE_COMPUTE, e);
    if (!rc && *failed)
        rc = err_set(e, ERR_FORMAT, "a key or value of the made-up model is not finite");
    return rc;
}

int card_measure_prefill(struct card_run *run, const struct card_plan *p, struct err *e)
{
    struct card_model m;
    enum device_weight_format format = card_weight_format(run->shape, p->weights);
    card_model_init(&m, run->d, run->shape, card_plan_share(p, run->shape), 0);
    uint64_t longest = card_longest(run, p, &m, card_weights_bytes(run->shape, format), (uint64_t)2500 << 20);
    int rc = longest ? card_model_weights(&m, format, e) : 0;
    if (!rc && longest)
        rc = card_model_kv(&m, p->kv, longest, CARD_PAST_NONE, e);
    if (!rc && longest)
        rc = card_model_room(&m, run->chunk, 0, e);
    if (!rc && longest)
        rc = read_on(run, p, &m, longest, e);
    if (!rc && longest)
        rc = failed_rows(&m, e);
    card_model_close(&m);
    return rc;
}

/* ---- a chunk's attention alone ---------------------------------------------------------------------------
 */

struct chunk {
    uint64_t pos0;
    size_t T;
};

static void queue_chunk(struct card_model *m, const void *arg)
{
    const struct chunk *c = arg;
    card_queue_chunk_attention(m, 0, c->pos0, c->T);
}

static int chunk_row(struct card_run *run, const struct card_plan *p, struct card_model *m, uint64_t context,
                     struct err *e)
{
    struct card_row row;
    struct card_samples s = {0};
    struct device_graph *g;
    size_t T = m->T < context ? m->T : (size_t)context;
    struct chunk chunk = {context - T, T};
    int rc = card_capture(m, (struct card_capture){queue_chunk, &chunk}, &g, e);
    if (rc)
        return rc;
    rc = card_time_graph(m, g, 1, 5, &s, e);
    m->d->ops->graph_free(m->d, g);
    if (rc)
        return rc;
    card_row_begin(&row, run, p, context);
    card_row_samples(&row, &s);
    row.T = (uint32_t)T;
    row.flops = card_attention_flops(run->shape, 1, chunk.pos0, T) / (double)run->shape->L;
    row.limit = run->limits[DEVICE_LIMIT_F16];
    row.memory = (double)m->bytes;
    snprintf(row.note, sizeof row.note,
             "the last chunk, a layer of %zu retrieval heads; RoPE, coding, "
             "expansion and merging included",
             run->shape->HK);
    run->emit(run, &row);
    return 0;
}

int card_measure_prefill_attention(struct card_run *run, const struct card_plan *p, struct err *e)
{
    struct card_model m;
    card_model_init(&m, run->d, run->shape, card_plan_share(p, run->shape), 1);
    uint64_t longest = card_longest(run, p, &m, 0, (uint64_t)1500 << 20);
    int rc = longest ? card_model_kv(&m, p->kv, longest, CARD_PAST, e) : 0;
    if (!rc && longest)
        rc = card_model_room(&m, run->chunk, 0, e);
    for (int i = 0; i < CARD_CONTEXTS && !rc && p->contexts[i] && p->contexts[i] <= longest; i++)
        rc = chunk_row(run, p, &m, p->contexts[i], e);
    card_model_close(&m);
    return rc;
}

/* ---- how much fits ---------------------------------------------------------------------------------------
 */

static void queue_step(struct card_model *m, const void *arg)
{
    card_queue_step(m, arg);
}

/* Tokens whose caches fit in `free` bytes together with the room for chunks and for a step at their end. */
static uint64_t tokens_in(struct card_model *m, int kv_format, uint64_t free, size_t chunk)
{
    uint64_t lo = 0, hi = (uint64_t)1 << 16; /* blocks */
    while (lo < hi) {
        uint64_t mid = lo + (hi - lo + 1) / 2, tokens = mid * DEVICE_BLOCK_PAGES * KV_PAGE_TOKENS;
        if (card_kv_bytes(m, kv_format, tokens) + card_room_bytes(m, kv_format, tokens, chunk) <= free)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo * DEVICE_BLOCK_PAGES * KV_PAGE_TOKENS;
}

static int fill_card(struct card_run *run, const struct card_plan *p, struct card_model *m, struct err *e)
{
    struct device_info info;
    uint64_t spare = (uint64_t)256 << 20; /* pieces are rounded up, graphs and libraries take some */
    run->d->ops->info(run->d, &info);
    uint64_t tokens =
        info.memory_free > spare ? tokens_in(m, p->kv, info.memory_free - spare, run->chunk) : 0;
    if (p->contexts[0] && tokens > p->contexts[0])
        tokens = p->contexts[0];
    if (tokens < 2048)
        return err_set(e, ERR_MEMORY, "the weights leave no room");
    int rc = card_model_kv(m, p->kv, tokens, CARD_PAST, e);
    if (!rc)
        rc = card_model_room(m, run->chunk, 0, e);
    return rc;
}

/* All of it is taken: weights, caches, scratch of prefill chunks and steps; then a step runs at the very end.
 */
static int capacity(struct card_run *run, const struct card_plan *p, struct card_model *m, struct err *e)
{
    struct card_row row;
    struct card_samples wall = {0};
    struct card_step step = {.T = 1};
    struct device_graph *g;
    int rc = card_model_weights(m, card_weight_format(run->shape, p->weights), e);
    if (!rc)
        rc = fill_card(run, p, m, e);
    if (!rc)
        rc = card_capture(m, (struct card_capture){queue_step, &step}, &g, e);
    if (rc)
        return rc;
    card_row_begin(&row, run, p, m->tokens);
    rc = card_time_steps(m, g, m->tokens - KV_PAGE_TOKENS, 1, &wall, e);
    m->d->ops->graph_free(m->d, g);
    if (rc)
        return rc;
    card_row_samples(&row, &wall);
    row.memory = (double)m->bytes;
    row.bytes = (double)(card_matrix_bytes(m) + card_past_bytes(m, m->tokens - KV_PAGE_TOKENS));
    row.limit = run->limits[DEVICE_LIMIT_READ];
    row.tokens_a_second = 1e3 / row.ms;
    snprintf(row.note, sizeof row.note, "taken in full with room for chunks of %zu; a step at the end of it",
             run->chunk);
    run->emit(run, &row);
    return 0;
}

int card_measure_capacity(struct card_run *run, const struct card_plan *p, struct err *e)
{
    struct card_model m;
    card_model_init(&m, run->d, run->shape, card_plan_share(p, run->shape), 0);
    int rc = capacity(run, p, &m, e);
    card_model_close(&m);
    return rc ? rc : card_measure_promise(run, p, e);
}
