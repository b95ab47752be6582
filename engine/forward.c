/* SPDX-License-Identifier: Apache-2.0 */
/* forward.c - one chunk of tokens through the Llama-family layers with DuoAttention caches.
 *
 * Per layer: norm, q k v (+ adapter), RoPE, keys and values into the caches, attention, output (+ adapter),
 * residual; norm, gate and up, SiLU, down, residual. Attention of one KV head is cut into query tiles that
 * never cross a page: a tile of page p sees the packed records of pages < p and the raw rows of page p
 * (retrieval), or raw sink and ring pages (streaming). So a token's bits depend on the tokens before it
 * alone, not on the chunk that carried it.
 */
#include "engine/session_internal.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/bytes.h"

struct layer_job {
    struct session *s;
    size_t l, T, pos0;
    size_t first_page, last_page; /* of the chunk */
    const struct model_layer *w;
    atomic_int failed;  /* a key or value that fp16 cannot hold */
    atomic_int differs; /* under proof */
    struct cancel *cancel;
};

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void *take_aligned(size_t count, size_t bytes)
{
    size_t total;
    if (size_mul(count, bytes, &total) || total > SIZE_MAX - 64)
        return NULL;
    return aligned_alloc(64, (total + 64) / 64 * 64);
}

int workspace_init(struct workspace *w, const struct engine *g, struct err *e)
{
    const struct model_params *p = model_params(g->model);
    const struct cache_layout *y = &g->layout;
    int threads = pool_threads(g->pool);
    size_t widest = max_size(max_size(p->C, p->F), p->H * p->D);
    size_t rank = g->lora ? lora_max_rank(g->lora) : 0;
    w->x = take_aligned(KV_CHUNK * p->C, sizeof(float));
    w->norm = take_aligned(KV_CHUNK * p->C, sizeof(float));
    w->q = take_aligned(KV_CHUNK * p->H * p->D, sizeof(float));
    w->attended = take_aligned(KV_CHUNK * p->H * p->D, sizeof(float));
    w->k = take_aligned(KV_CHUNK * p->HK * p->D, sizeof(float));
    w->v = take_aligned(KV_CHUNK * p->HK * p->D, sizeof(float));
    w->gate = take_aligned(KV_CHUNK * p->F, sizeof(float));
    w->up = take_aligned(KV_CHUNK * p->F, sizeof(float));
    w->cos = take_aligned(KV_CHUNK * g->rope.pairs, sizeof(float));
    w->sin = take_aligned(KV_CHUNK * g->rope.pairs, sizeof(float));
    w->logits = take_aligned(LOGIT_ROWS * p->V, sizeof(float));
    w->raw = take_aligned(y->hr_max * CACHE_CHUNK_PAGES, y->raw_bytes);
    w->proof_record = take_aligned(y->hr_max, y->record_bytes);
    w->proof_scan = take_aligned(y->hr_max, y->scan_bytes);
    w->scratch_bytes = linear_scratch_bytes(KV_CHUNK, widest, threads);
    if (rank)
        w->scratch_bytes = max_size(w->scratch_bytes, lora_scratch_bytes(KV_CHUNK, widest, rank, threads));
    w->scratch = take_aligned(w->scratch_bytes, 1);
    if (w->x && w->norm && w->q && w->attended && w->k && w->v && w->gate && w->up && w->cos && w->sin &&
        w->logits && w->raw && w->proof_record && w->proof_scan && w->scratch)
        return 0;
    workspace_fini(w);
    return err_memory(e, "the work buffers");
}

void workspace_fini(struct workspace *w)
{
    void *all[] = {w->x,
                   w->norm,
                   w->q,
                   w->attended,
                   w->k,
                   w->v,
                   w->gate,
                   w->up,
                   w->cos,
                   w->sin,
                   w->logits,
                   w->raw,
                   w->scratch,
                   w->lists,
                   w->mass,
                   w->attend_scratch,
                   w->proof_record,
                   w->proof_scan};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    *w = (struct workspace){0};
}

/* Room for attention over `pages` pages: block lists, mass rows, scratch. Grows by half, so rarely. */
static int workspace_reserve(struct session *s, size_t pages, struct err *e)
{
    struct workspace *w = &s->work;
    const struct model_params *p = model_params(s->engine->model);
    size_t threads = (size_t)pool_threads(s->engine->pool);
    size_t need = pages + s->engine->layout.sink_pages + 2;
    if (need <= w->list_cap && (w->mass || !s->watching))
        return 0;
    size_t cap = max_size(need + need / 2 + 64, w->list_cap);
    free(w->lists);
    free(w->mass);
    free(w->attend_scratch);
    w->attend_bytes =
        (attend_scratch_bytes(KV_PAGE, p->H / p->HK, p->D, s->watching ? cap : 0) + 63) / 64 * 64;
    w->lists = take_aligned(threads * cap, sizeof *w->lists);
    w->attend_scratch = take_aligned(threads, w->attend_bytes);
    w->mass = s->watching ? take_aligned(p->HK * SESSION_GUESSES * cap, sizeof(float)) : NULL;
    w->list_cap = cap;
    if (w->lists && w->attend_scratch && (w->mass || !s->watching))
        return 0;
    w->list_cap = 0;
    return err_memory(e, "attention");
}

static void linear_lora(struct session *s, const float *x, size_t K, size_t T, const struct linear_out *outs,
                        size_t n_outs)
{
    const struct engine *g = s->engine;
    g->kernels->linear(&(struct linear_args){.pool = g->pool,
                                             .x = x,
                                             .ldx = K,
                                             .T = T,
                                             .outs = outs,
                                             .n_outs = n_outs,
                                             .scratch = s->work.scratch,
                                             .scratch_bytes = s->work.scratch_bytes});
}

static void adapter(struct session *s, size_t l, enum lora_target target, const float *x, size_t K, size_t T,
                    float *y, size_t N)
{
    const struct engine *g = s->engine;
    if (!g->lora)
        return;
    const struct lora_pair *pair = lora_pair(g->lora, l, target);
    if (!pair || !pair->a)
        return;
    g->kernels->lora(&(struct lora_args){.pool = g->pool,
                                         .x = x,
                                         .ldx = K,
                                         .T = T,
                                         .a = pair->a,
                                         .b = pair->b,
                                         .y = y,
                                         .ldy = N,
                                         .scratch = s->work.scratch,
                                         .scratch_bytes = s->work.scratch_bytes});
}

static void norm(struct session *s, const float *x, const float *weight, size_t T, float *y)
{
    const struct model_params *p = model_params(s->engine->model);
    s->engine->kernels->rms_norm(&(struct rms_norm_args){.pool = s->engine->pool,
                                                         .x = x,
                                                         .ldx = p->C,
                                                         .w = weight,
                                                         .T = T,
                                                         .C = p->C,
                                                         .eps = p->norm_eps,
                                                         .y = y,
                                                         .ldy = p->C});
}

static void rotate(struct session *s, float *x, size_t heads, size_t T)
{
    const struct engine *g = s->engine;
    const struct model_params *p = model_params(g->model);
    g->kernels->rope_apply(&(struct rope_apply_args){.pool = g->pool,
                                                     .kind = g->rope.kind,
                                                     .x = x,
                                                     .ldx = heads * p->D,
                                                     .T = T,
                                                     .heads = heads,
                                                     .D = p->D,
                                                     .half = g->rope.pairs,
                                                     .cos = s->work.cos,
                                                     .sin = s->work.sin});
}

static void attention_inputs(struct layer_job *j)
{
    struct session *s = j->s;
    struct workspace *w = &s->work;
    const struct model_params *p = model_params(s->engine->model);
    norm(s, w->x, j->w->attn_norm, j->T, w->norm);
    struct linear_out outs[] = {
        {.w = j->w->q, .bias = j->w->bq, .y = w->q, .ldy = p->H * p->D},
        {.w = j->w->k, .bias = j->w->bk, .y = w->k, .ldy = p->HK * p->D},
        {.w = j->w->v, .bias = j->w->bv, .y = w->v, .ldy = p->HK * p->D},
    };
    linear_lora(s, w->norm, p->C, j->T, outs, 3);
    adapter(s, j->l, LORA_Q, w->norm, p->C, j->T, w->q, p->H * p->D);
    adapter(s, j->l, LORA_K, w->norm, p->C, j->T, w->k, p->HK * p->D);
    adapter(s, j->l, LORA_V, w->norm, p->C, j->T, w->v, p->HK * p->D);
    rotate(s, w->q, p->H, j->T);
    rotate(s, w->k, p->HK, j->T);
}

/* Row r of a raw record from token t's key and value; non-zero when fp16 cannot hold them. */
static int store_row(struct layer_job *j, uint8_t *record, size_t r, size_t t, size_t head)
{
    const struct model_params *p = model_params(j->s->engine->model);
    const struct kernels *kernels = j->s->engine->kernels;
    size_t at = t * p->HK * p->D + head * p->D;
    uint16_t *k = (uint16_t *)(void *)record + r * p->D, *v = k + KV_PAGE * p->D;
    kernels->half_encode(&(struct half_encode_args){.x = j->s->work.k + at, .y = k, .n = p->D});
    kernels->half_encode(&(struct half_encode_args){.x = j->s->work.v + at, .y = v, .n = p->D});
    unsigned bad = 0;
    for (size_t d = 0; d < p->D; d++)
        bad |= ((k[d] & 0x7c00u) == 0x7c00u) | ((v[d] & 0x7c00u) == 0x7c00u);
    return bad != 0;
}

static uint8_t *own_page(const struct layer_job *j, size_t slot, size_t page)
{
    return j->s->work.raw +
           (slot * CACHE_CHUNK_PAGES + page - j->first_page) * j->s->engine->layout.raw_bytes;
}

/* Packs a page that this chunk has filled into its block; under proof into scratch, to be compared. */
static void close_page(struct layer_job *j, size_t slot, size_t page)
{
    struct session *s = j->s;
    const struct cache_layout *y = &s->engine->layout;
    const uint16_t *k = (const uint16_t *)(const void *)own_page(j, slot, page);
    uint8_t *record = cache_record(&s->cache, j->l, page, slot);
    uint8_t *scan = cache_scan(&s->cache, j->l, page, slot);
    uint8_t *to = s->proving ? s->work.proof_record + slot * y->record_bytes : record;
    uint8_t *scan_to = s->proving ? s->work.proof_scan + slot * y->scan_bytes : scan;
    s->engine->kernels->kv_page_pack(&(struct kv_page_pack_args){.k = k,
                                                                 .ldk = y->D,
                                                                 .v = k + KV_PAGE * y->D,
                                                                 .ldv = y->D,
                                                                 .D = y->D,
                                                                 .format = y->format,
                                                                 .record = to,
                                                                 .scan = scan_to});
    if (s->proving && (memcmp(to, record, y->record_bytes) != 0 || memcmp(scan_to, scan, y->scan_bytes) != 0))
        atomic_store(&j->differs, 1);
}

/* Task: all rows of one KV head into its cache. */
static void store_head(void *arg, int index, int thread)
{
    (void)thread;
    struct layer_job *j = arg;
    struct session *s = j->s;
    const struct cache_layout *y = &s->engine->layout;
    size_t head = (size_t)index, slot = y->slot[j->l * y->HK + head];
    int retrieval = y->retrieval[j->l * y->HK + head], bad = 0;
    if (retrieval && j->pos0 % KV_PAGE)
        memcpy(own_page(j, slot, j->first_page), cache_tail(&s->cache, s->cache.cur, j->l, slot),
               y->raw_bytes);
    for (size_t t = 0; t < j->T; t++) {
        size_t position = j->pos0 + t, page = position / KV_PAGE;
        uint8_t *record = retrieval ? own_page(j, slot, page) : cache_stream(&s->cache, j->l, slot, page);
        bad |= store_row(j, record, position % KV_PAGE, t, head);
        if (retrieval && position % KV_PAGE == KV_PAGE - 1 && !bad)
            close_page(j, slot, page);
    }
    if (bad)
        atomic_store(&j->failed, 1);
    if (retrieval)
        memcpy(cache_tail(&s->cache, !s->cache.cur, j->l, slot), own_page(j, slot, j->last_page),
               y->raw_bytes);
}

static size_t retrieval_list(const struct layer_job *j, size_t slot, size_t page, struct attend_block *list)
{
    const struct cache_layout *y = &j->s->engine->layout;
    for (size_t p = 0; p < page; p++)
        list[p] = (struct attend_block){.data = cache_record(&j->s->cache, j->l, p, slot),
                                        .format = y->format,
                                        .base = p * KV_PAGE,
                                        .hi = KV_PAGE};
    size_t rows = j->pos0 + j->T - page * KV_PAGE;
    list[page] = (struct attend_block){.data = own_page(j, slot, page),
                                       .format = KV_RAW,
                                       .base = page * KV_PAGE,
                                       .hi = rows < KV_PAGE ? (int)rows : KV_PAGE};
    return page + 1;
}

static size_t streaming_list(const struct layer_job *j, size_t slot, size_t page, size_t q0,
                             struct attend_block *list)
{
    const struct cache_layout *y = &j->s->engine->layout;
    size_t oldest = q0 + 1 > y->R ? (q0 + 1 - y->R) / KV_PAGE : 0, n = 0;
    oldest = max_size(oldest, y->sink_pages);
    for (size_t p = 0; p <= page; p++) {
        if (p >= y->sink_pages && p < oldest)
            p = oldest; /* oldest <= page here: a query sees its own page */
        size_t rows = j->pos0 + j->T - p * KV_PAGE;
        list[n++] = (struct attend_block){.data = cache_stream(&j->s->cache, j->l, slot, p),
                                          .format = KV_RAW,
                                          .base = p * KV_PAGE,
                                          .hi = rows < KV_PAGE ? (int)rows : KV_PAGE};
    }
    return n;
}

/* [list_cap] sums of a head: of the whole chunk in row 0, or of guess t. */
static float *mass_row(const struct session *s, size_t head, size_t t)
{
    return s->work.mass + (t * model_params(s->engine->model)->HK + head) * s->work.list_cap;
}

/* Task: one query tile (the chunk's tokens of one page) of one KV head; late pages, the longest, come first.
 */
static void attend_tile(void *arg, int index, int thread)
{
    struct layer_job *j = arg;
    struct session *s = j->s;
    struct workspace *w = &s->work;
    const struct model_params *p = model_params(s->engine->model);
    const struct cache_layout *y = &s->engine->layout;
    if (cancel_requested(j->cancel))
        return;
    size_t head = (size_t)index % p->HK, page = j->last_page - (size_t)index / p->HK;
    size_t G = p->H / p->HK, slot = y->slot[j->l * y->HK + head];
    int retrieval = y->retrieval[j->l * y->HK + head];
    size_t q0 = max_size(page * KV_PAGE, j->pos0), end = (page + 1) * KV_PAGE;
    end = end < j->pos0 + j->T ? end : j->pos0 + j->T;
    struct attend_block *list = w->lists + (size_t)thread * w->list_cap;
    size_t n = retrieval ? retrieval_list(j, slot, page, list) : streaming_list(j, slot, page, q0, list);
    size_t column = (q0 - j->pos0) * p->H * p->D + head * G * p->D;
    struct attend_args a = {.q = w->q + column,
                            .ldq = p->H * p->D,
                            .out = w->attended + column,
                            .ldout = p->H * p->D,
                            .T = end - q0,
                            .pos0 = q0,
                            .G = G,
                            .D = p->D,
                            .scale = 1.0f / sqrtf((float)p->D),
                            .blocks = list,
                            .n_blocks = n,
                            .streaming = !retrieval,
                            .S = y->S,
                            .R = y->R,
                            .mass = s->watching && retrieval ? mass_row(s, head, 0) : NULL,
                            .scratch = w->attend_scratch + (size_t)thread * w->attend_bytes,
                            .scratch_bytes = w->attend_bytes};
    if (!s->guessing || !a.mass) {
        s->engine->kernels->attend(&a);
        return;
    }
    /* Which rows count is known when their logits are, so each has its own sums. */
    size_t rows = a.T;
    a.T = 1;
    for (size_t t = 0; t < rows; t++) {
        a.mass = mass_row(s, head, t);
        s->engine->kernels->attend(&a);
        a.q += a.ldq;
        a.out += a.ldout;
        a.pos0++;
    }
}

/* What the layer's attention gave the chunk's last tokens, into their hashes. */
static void witness(struct layer_job *j)
{
    struct session *s = j->s;
    const struct model_params *p = model_params(s->engine->model);
    for (size_t t = j->T > CACHE_REPLAY ? j->T - CACHE_REPLAY : 0; t < j->T; t++) {
        uint64_t *hash = &s->witness_now[(j->pos0 + t) % CACHE_REPLAY];
        *hash = XXH3_64bits_withSeed(s->work.attended + t * p->H * p->D, p->H * p->D * sizeof(float),
                                     j->l ? *hash : 0);
    }
}

static int layer_attention(struct layer_job *j, struct err *e)
{
    struct session *s = j->s;
    struct workspace *w = &s->work;
    const struct model_params *p = model_params(s->engine->model);
    attention_inputs(j);
    pool_run(s->engine->pool, (int)p->HK, store_head, j);
    if (atomic_load(&j->failed))
        return err_set(e, ERR_UNSUPPORTED,
                       "layer %zu makes keys or values that 16 bits cannot hold; use another model file",
                       j->l);
    pool_run(s->engine->pool, (int)(p->HK * (j->last_page - j->first_page + 1)), attend_tile, j);
    witness(j);
    struct linear_out out = {.w = j->w->o, .y = w->x, .ldy = p->C, .accumulate = 1};
    linear_lora(s, w->attended, p->H * p->D, j->T, &out, 1);
    adapter(s, j->l, LORA_O, w->attended, p->H * p->D, j->T, w->x, p->C);
    return 0;
}

static void layer_ffn(struct layer_job *j)
{
    struct session *s = j->s;
    struct workspace *w = &s->work;
    const struct model_params *p = model_params(s->engine->model);
    norm(s, w->x, j->w->ffn_norm, j->T, w->norm);
    struct linear_out outs[] = {{.w = j->w->gate, .y = w->gate, .ldy = p->F},
                                {.w = j->w->up, .y = w->up, .ldy = p->F}};
    linear_lora(s, w->norm, p->C, j->T, outs, 2);
    s->engine->kernels->silu_mul(&(struct silu_mul_args){.pool = s->engine->pool,
                                                         .gate = w->gate,
                                                         .up = w->up,
                                                         .y = w->gate,
                                                         .ld = p->F,
                                                         .T = j->T,
                                                         .F = p->F});
    struct linear_out out = {.w = j->w->down, .y = w->x, .ldy = p->C, .accumulate = 1};
    linear_lora(s, w->gate, p->F, j->T, &out, 1);
}

static void logits_of(struct session *s, const float *rows, size_t n, float *logits)
{
    const struct model_weights *m = model_weights(s->engine->model);
    const struct model_params *p = model_params(s->engine->model);
    norm(s, rows, m->output_norm, n, s->work.norm);
    struct linear_out out = {.w = m->output, .y = logits, .ldy = p->V};
    linear_lora(s, s->work.norm, p->C, n, &out, 1);
}

static int report_logits(struct session *s, size_t T, const struct append_options *o, struct err *e)
{
    const struct model_params *p = model_params(s->engine->model);
    if (!o || !o->logits) {
        logits_of(s, s->work.x + (T - 1) * p->C, 1, s->last_logits);
        s->have_logits = 1;
        return 0;
    }
    size_t last = 0;
    for (size_t t = 0; t < T; t += LOGIT_ROWS) {
        size_t n = T - t < LOGIT_ROWS ? T - t : LOGIT_ROWS;
        logits_of(s, s->work.x + t * p->C, n, s->work.logits);
        for (size_t i = 0; i < n; i++)
            if (o->logits(o->arg, s->position + t + i, s->work.logits + i * p->V))
                return err_set(e, ERR_CANCELLED, "stopped by the reader of the logits");
        last = n - 1;
    }
    memcpy(s->last_logits, s->work.logits + last * p->V, p->V * sizeof(float));
    s->have_logits = 1;
    return 0;
}

int forward_chunk(struct session *s, const uint32_t *ids, size_t T, const struct append_options *options,
                  struct err *e)
{
    const struct engine *g = s->engine;
    const struct model_params *p = model_params(g->model);
    const struct model_weights *m = model_weights(g->model);
    struct cancel *cancel = options ? options->cancel : NULL;
    struct layer_job j = {.s = s, .T = T, .pos0 = s->position, .cancel = cancel};
    j.first_page = s->position / KV_PAGE;
    j.last_page = (s->position + T - 1) / KV_PAGE;
    int rc = cache_grow(&s->cache, j.last_page, e);
    if (!rc)
        rc = workspace_reserve(s, j.last_page + 1, e);
    if (rc)
        return rc;
    cache_ring_advance(&s->cache, j.last_page);
    if (s->watching)
        memset(s->work.mass, 0, (s->guessing ? T : 1) * p->HK * s->work.list_cap * sizeof(float));
    g->kernels->embed(&(struct embed_args){.pool = g->pool,
                                           .type = m->embed_type,
                                           .raw = m->embed,
                                           .C = p->C,
                                           .ids = ids,
                                           .T = T,
                                           .y = s->work.x,
                                           .ldy = p->C});
    g->kernels->rope_table(&(struct rope_table_args){.pos0 = s->position,
                                                     .T = T,
                                                     .steps = g->rope.steps,
                                                     .half = g->rope.pairs,
                                                     .attn_factor = g->rope.attn_factor,
                                                     .cos = s->work.cos,
                                                     .sin = s->work.sin});
    for (j.l = 0; j.l < p->L; j.l++) {
        j.w = &m->layers[j.l];
        if ((rc = layer_attention(&j, e)))
            return rc;
        if (cancel_requested(cancel))
            return err_set(e, ERR_CANCELLED, "stopped; what was read is kept");
        layer_ffn(&j);
    }
    s->proof_differs |= atomic_load(&j.differs);
    return report_logits(s, T, options, e);
}

void forward_keep_witness(struct session *s, size_t first, size_t T)
{
    for (size_t t = T > CACHE_REPLAY ? T - CACHE_REPLAY : 0; t < T; t++)
        s->witness[(first + t) % CACHE_REPLAY] = s->witness_now[(first + t) % CACHE_REPLAY];
}

void forward_commit(struct session *s, size_t T)
{
    forward_keep_witness(s, s->position, T);
    const struct cache_layout *y = &s->engine->layout;
    s->cache.cur = !s->cache.cur;
    if (s->watching && s->mass_total && y->HR) {
        const struct model_params *p = model_params(s->engine->model);
        double share = 1.0 / ((double)y->HR * (double)(p->H / p->HK));
        for (size_t h = 0; h < p->HK * (s->guessing ? T : 1); h++) /* row by row */
            for (size_t page = 0; page <= (s->position + T - 1) / KV_PAGE && page < s->mass_pages; page++)
                s->mass_total[page] += share * (double)s->work.mass[h * s->work.list_cap + page];
    }
}
