/* SPDX-License-Identifier: Apache-2.0 */
/* device_pass.c - one pass of tokens through the layers.
 *
 * Up to DEVICE_DECODE_T tokens of one page are a decode step: everything that hangs on the position is read
 * by the device from `step`, so one recorded graph for each number of rows and mode serves every length.
 * More tokens are a prefill pass: ops are queued layer by layer, one or two ahead of the device, so that a
 * cancel is seen soon; it writes the other tails and streams, and those become the present ones when
 * all is done.
 */
#include "engine/device/device_internal.h"

#include <math.h>
#include <string.h>

/* ---- layers ------------------------------------------------------------------------------------------ */

struct queue {
    struct device_session *s;
    const struct device_shared *g;
    size_t T;
    int decode;
    unsigned mode; /* PASS_..., of a decode step */
};

static void product(const struct queue *q, struct device_linear_args a)
{
    a.T = a.T ? a.T : q->T;
    a.eps = q->g->shape.norm_eps;
    a.scratch = q->g->work.scratch;
    a.scratch_bytes = q->g->work.scratch_bytes;
    q->g->ops->linear(q->g->device, &a);
}

/* y += B (the columns of `low`) for each target of [first, end). */
static void adapters(const struct queue *q, const struct device_layer *y, size_t ld_low, int first, int end,
                     float *out, size_t ldout)
{
    for (int i = first; i < end; i++)
        if (y->lora[i].b)
            product(q, (struct device_linear_args){.w = y->lora[i].b,
                                                   .x = q->g->work.low + y->lora[i].from,
                                                   .ldx = ld_low,
                                                   .epilogue = DEVICE_ADD_F32,
                                                   .y = out + y->lora[i].to,
                                                   .ldy = ldout});
}

static void attention_inputs(const struct queue *q, const struct device_layer *y)
{
    const struct device_shape *p = &q->g->shape;
    const struct device_work *w = &q->g->work;
    size_t columns = (p->H + 2 * p->HK) * p->D;
    product(q, (struct device_linear_args){.w = y->qkv,
                                           .x = w->x,
                                           .ldx = p->C,
                                           .norm_w = y->attn_norm,
                                           .bias = y->bias,
                                           .epilogue = DEVICE_STORE_F32,
                                           .y = w->qkv,
                                           .ldy = columns});
    if (!y->lora_a)
        return;
    product(q, (struct device_linear_args){.w = y->lora_a,
                                           .x = w->x,
                                           .ldx = p->C,
                                           .norm_w = y->attn_norm,
                                           .epilogue = DEVICE_STORE_F16,
                                           .y = w->low,
                                           .ldy = y->lora_rank});
    adapters(q, y, y->lora_rank, LORA_Q, LORA_O, w->qkv, columns);
}

static void attend_decode(const struct queue *q, size_t l)
{
    struct device_session *s = q->s;
    const struct device_shape *p = &q->g->shape;
    const struct device_work *w = &q->g->work;
    size_t columns = (p->H + 2 * p->HK) * p->D;
    struct device_page_list list = {.pages = s->pages, .counts = s->counts, .stride = s->list_stride};
    int selecting = (q->mode & PASS_SELECT) && s->kv.hr[l], audit = (q->mode & PASS_AUDIT) != 0;
    if (selecting)
        q->g->ops->select(q->g->device, &(struct device_select_args){.kv = &s->kv,
                                                                     .layer = l,
                                                                     .qkv = w->qkv,
                                                                     .ldqkv = columns,
                                                                     .step = w->step,
                                                                     .T = q->T,
                                                                     .rope = q->g->rope,
                                                                     .budget = s->selection.budget,
                                                                     .recent = s->selection.recent,
                                                                     .pages = s->pages,
                                                                     .counts = s->counts,
                                                                     .stride = s->list_stride,
                                                                     .scratch = w->scratch,
                                                                     .scratch_bytes = w->scratch_bytes});
    struct device_attend_decode_args a = {.kv = &s->kv,
                                          .layer = l,
                                          .qkv = w->qkv,
                                          .ldqkv = columns,
                                          .step = w->step,
                                          .T = q->T,
                                          .rope = q->g->rope,
                                          .scale = 1.0f / sqrtf((float)p->D),
                                          .out = w->attended,
                                          .ldout = p->H * p->D,
                                          .mass = q->mode & PASS_MASS ? s->mass : NULL,
                                          .mass_stride = s->mass_pages,
                                          .list = selecting && !audit ? &list : NULL,
                                          .audit = selecting && audit ? &list : NULL,
                                          .visited = selecting && audit ? w->visited : NULL,
                                          .failed = w->failed,
                                          .scratch = w->scratch,
                                          .scratch_bytes = w->scratch_bytes};
    q->g->ops->attend_decode(q->g->device, &a);
}

static void attend_prefill(const struct queue *q, size_t l)
{
    struct device_session *s = q->s;
    const struct device_shape *p = &q->g->shape;
    const struct device_work *w = &q->g->work;
    q->g->ops->attend_prefill(q->g->device,
                              &(struct device_attend_prefill_args){.kv = &s->kv,
                                                                   .layer = l,
                                                                   .qkv = w->qkv,
                                                                   .ldqkv = (p->H + 2 * p->HK) * p->D,
                                                                   .pos0 = s->position,
                                                                   .T = q->T,
                                                                   .rope = q->g->rope,
                                                                   .scale = 1.0f / sqrtf((float)p->D),
                                                                   .out = w->attended,
                                                                   .ldout = p->H * p->D,
                                                                   .tail_next = s->tail[!s->cur],
                                                                   .stream_next = s->stream[!s->cur],
                                                                   .failed = w->failed,
                                                                   .scratch = w->scratch,
                                                                   .scratch_bytes = w->scratch_bytes});
}

static void queue_layer(const struct queue *q, size_t l)
{
    const struct device_layer *y = &q->g->layers[l];
    const struct device_shape *p = &q->g->shape;
    const struct device_work *w = &q->g->work;
    attention_inputs(q, y);
    q->decode ? attend_decode(q, l) : attend_prefill(q, l);
    struct device_linear_args o = {
        .w = y->o, .x = w->attended, .ldx = p->H * p->D, .epilogue = DEVICE_ADD_F32, .y = w->x, .ldy = p->C};
    product(q, o);
    if (y->lora_o) {
        o.w = y->lora_o;
        o.epilogue = DEVICE_STORE_F16;
        o.y = w->low;
        o.ldy = y->lora_o_rank;
        product(q, o);
        adapters(q, y, y->lora_o_rank, LORA_O, LORA_TARGETS, w->x, p->C);
    }
    product(q, (struct device_linear_args){.w = y->gate_up,
                                           .x = w->x,
                                           .ldx = p->C,
                                           .norm_w = y->ffn_norm,
                                           .epilogue = DEVICE_SILU_MUL,
                                           .y = w->act,
                                           .ldy = p->F});
    product(q,
            (struct device_linear_args){
                .w = y->down, .x = w->act, .ldx = p->F, .epilogue = DEVICE_ADD_F32, .y = w->x, .ldy = p->C});
}

static void queue_embed(const struct queue *q, const uint32_t *ids)
{
    const struct device_shape *p = &q->g->shape;
    q->g->ops->embed(q->g->device, &(struct device_embed_args){.type = q->g->embed_type,
                                                               .raw = q->g->embed,
                                                               .V = p->V,
                                                               .C = p->C,
                                                               .ids = ids,
                                                               .T = q->T,
                                                               .y = q->g->work.x,
                                                               .ldy = p->C});
}

/* Logits of rows [from, from + n) of x. */
static void queue_logits(const struct queue *q, size_t from, size_t n)
{
    const struct device_shape *p = &q->g->shape;
    const struct device_work *w = &q->g->work;
    product(q, (struct device_linear_args){.w = q->g->output,
                                           .x = w->x + from * p->C,
                                           .ldx = p->C,
                                           .T = n,
                                           .norm_w = q->g->output_norm,
                                           .epilogue = DEVICE_STORE_F32,
                                           .y = w->logits,
                                           .ldy = w->ld_logits});
}

/* ---- decode ------------------------------------------------------------------------------------------ */

static void download(const struct device_shared *g, void *to, const void *from, size_t bytes)
{
    g->ops->download(g->device, DEVICE_COMPUTE, to, from, bytes);
}

static void queue_step(const struct queue *q)
{
    const struct device_shared *g = q->g;
    const struct device_work *w = &g->work;
    g->ops->upload(g->device, DEVICE_COMPUTE, w->step, w->step_host, sizeof *w->step);
    g->ops->fill(g->device, DEVICE_COMPUTE, w->failed, 0, sizeof *w->failed);
    if (q->mode & PASS_MASS)
        g->ops->fill(g->device, DEVICE_COMPUTE, q->s->mass, 0, q->T * q->s->mass_pages * sizeof *q->s->mass);
    if (q->mode & PASS_AUDIT)
        g->ops->fill(g->device, DEVICE_COMPUTE, w->visited, 0, 2 * sizeof *w->visited);
    queue_embed(q, w->step->ids);
    for (size_t l = 0; l < g->shape.L; l++)
        queue_layer(q, l);
    queue_logits(q, 0, q->T);
    g->ops->argmax(g->device,
                   &(struct device_argmax_args){
                       .x = w->logits, .ldx = w->ld_logits, .T = q->T, .N = g->shape.V, .best = w->best});
    download(g, w->best_host, w->best, q->T * sizeof *w->best);
    download(g, w->failed_host, w->failed, sizeof *w->failed);
    if (q->mode & PASS_AUDIT)
        download(g, w->visited_host, w->visited, 2 * sizeof *w->visited);
    if (!(q->mode & PASS_QUIET))
        download(g, w->logits_host, w->logits, q->T * w->ld_logits * sizeof *w->logits);
}

static int record_step(const struct queue *q, struct device_graph **out, struct err *e)
{
    int rc = q->g->ops->capture_begin(q->g->device, e);
    if (rc)
        return rc;
    queue_step(q);
    return q->g->ops->capture_end(q->g->device, out, e);
}

/* A prefill pass may have left the second pair of tails and streams as the present one; steps are recorded
 * over the first. */
static void use_first_rows(struct device_session *s)
{
    const struct device_shared *g = s->g->shared;
    if (!s->cur)
        return;
    g->ops->copy(g->device, DEVICE_COMPUTE, s->tail[0], s->tail[1], s->tail_bytes);
    g->ops->copy(g->device, DEVICE_COMPUTE, s->stream[0], s->stream[1], s->stream_bytes);
    s->cur = 0;
    s->kv.tail = s->tail[0];
    s->kv.stream = s->stream[0];
}

static int ready_mass(struct device_session *s, struct err *e)
{
    const struct device_shared *g = s->g->shared;
    size_t pages = s->kv.cap_blocks * DEVICE_BLOCK_PAGES, bytes = DEVICE_DECODE_T * pages * sizeof *s->mass;
    if (s->mass_pages == pages)
        return 0;
    session_drop_graphs(s);
    g->ops->release(g->device, s->mass);
    if (s->mass_host)
        g->ops->release_host(g->device, s->mass_host);
    s->mass = s->mass_host = NULL;
    s->mass_pages = 0;
    void *mass, *host, *view;
    int rc = g->ops->alloc(g->device, bytes, &mass, e);
    s->mass = mass;
    if (!rc)
        rc = g->ops->alloc_host(g->device, bytes, &host, &view, e);
    if (rc)
        return rc;
    s->mass_host = host;
    s->mass_pages = pages;
    return 0;
}

static int ready_list(struct device_session *s, struct err *e)
{
    const struct device_shared *g = s->g->shared;
    size_t stride = (s->selection.budget + 63) / 64 * 64;
    if (s->list_stride >= stride)
        return 0;
    session_drop_graphs(s);
    g->ops->release(g->device, s->pages);
    g->ops->release(g->device, s->counts);
    s->pages = s->counts = NULL;
    s->list_stride = 0;
    void *pages, *counts = NULL;
    int rc = g->ops->alloc(g->device, s->kv.HK * stride * sizeof *s->pages, &pages, e);
    if (!rc)
        rc = g->ops->alloc(g->device, s->kv.HK * sizeof *s->counts, &counts, e);
    s->pages = pages;
    s->counts = counts;
    if (!rc)
        s->list_stride = stride;
    return rc;
}

const float *device_session_row(const struct device_session *s, size_t t)
{
    return s->g->shared->work.logits_host + t * s->g->shared->work.ld_logits;
}

void device_session_select(struct device_session *s, const struct device_selection *selection)
{
    if (s->selection.budget != selection->budget || s->selection.recent != selection->recent)
        session_drop_graphs(s); /* both are in the recorded calls */
    s->selection = *selection;
}

static unsigned step_mode(const struct device_session *s, const struct device_pass *p)
{
    unsigned mode = p->mass && s->kv.HR ? PASS_MASS : 0;
    if (s->selection.budget && s->kv.HR)
        mode |= s->selection.audit ? PASS_SELECT | PASS_AUDIT : PASS_SELECT;
    return mode | (p->logits || p->last ? 0 : PASS_QUIET);
}

/* What a step left in pinned memory, to the caller. */
static int give_step(struct device_session *s, size_t T, unsigned mode, const struct device_pass *p,
                     struct err *e)
{
    const struct device_shared *g = s->g->shared;
    const struct device_work *w = &g->work;
    size_t pages = (s->position + T + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    for (size_t t = 0; p->logits && t < T; t++)
        if (p->logits(p->arg, s->position + t, w->logits_host + t * w->ld_logits))
            return err_set(e, ERR_CANCELLED, "stopped by the reader of the logits");
    if (p->last)
        memcpy(p->last, w->logits_host + (T - 1) * w->ld_logits, g->shape.V * sizeof *p->last);
    if (p->best)
        memcpy(p->best, w->best_host, T * sizeof *p->best);
    double share = 1.0 / ((double)s->kv.HR * (double)(g->shape.H / g->shape.HK));
    for (size_t t = 0; (mode & PASS_MASS) && t < (p->rows ? *p->rows : T); t++)
        for (size_t i = 0; i < pages; i++)
            p->mass[i] += share * (double)s->mass_host[t * s->mass_pages + i];
    for (size_t i = 0; (mode & PASS_AUDIT) && p->visited && i < 2; i++)
        p->visited[i] += (double)w->visited_host[i];
    return 0;
}

static int not_finite(struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED,
                   "a layer makes keys or values that 16 bits cannot hold; use another model file");
}

static int decode(struct device_session *s, const uint32_t *ids, size_t T, const struct device_pass *p,
                  struct err *e)
{
    const struct device_shared *g = s->g->shared;
    const struct device_work *w = &g->work;
    unsigned mode = step_mode(s, p);
    int rc = mode & PASS_MASS ? ready_mass(s, e) : 0;
    if (!rc && (mode & PASS_SELECT))
        rc = ready_list(s, e);
    if (rc)
        return rc;
    use_first_rows(s);
    if (s->generation != g->generation)
        session_drop_graphs(s);
    s->generation = g->generation;
    struct queue q = {.s = s, .g = g, .T = T, .decode = 1, .mode = mode};
    struct device_graph **graph = &s->graphs[mode][T - 1];
    if (!*graph && (rc = record_step(&q, graph, e)))
        return rc;
    *w->step_host = (struct device_step){.position = s->position};
    memcpy(w->step_host->ids, ids, T * sizeof *ids);
    g->ops->graph_launch(g->device, *graph);
    for (size_t t = 0; (mode & PASS_MASS) && t < T; t++)
        download(g, s->mass_host + t * s->mass_pages, s->mass + t * s->mass_pages,
                 (s->position + T + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS * sizeof *s->mass);
    rc = g->ops->sync(g->device, DEVICE_COMPUTE, e);
    if (!rc && *w->failed_host)
        rc = not_finite(e);
    return rc ? rc : give_step(s, T, mode, p, e);
}

/* ---- prefill ----------------------------------------------------------------------------------------- */

static int give_logits(const struct queue *q, const struct device_pass *p, struct err *e)
{
    const struct device_shared *g = q->g;
    const struct device_work *w = &g->work;
    for (size_t t = 0; p->logits && t < q->T; t += LOGIT_SLICE) {
        size_t n = q->T - t < LOGIT_SLICE ? q->T - t : LOGIT_SLICE;
        queue_logits(q, t, n);
        download(g, w->logits_host, w->logits, n * w->ld_logits * sizeof *w->logits);
        int rc = g->ops->sync(g->device, DEVICE_COMPUTE, e);
        if (rc)
            return rc;
        for (size_t i = 0; i < n; i++)
            if (p->logits(p->arg, q->s->position + t + i, w->logits_host + i * w->ld_logits))
                return err_set(e, ERR_CANCELLED, "stopped by the reader of the logits");
    }
    return 0;
}

/* Past so many tokens a layer of a whole chunk takes long enough to be waited for, and long enough to be felt
 * by whoever cancels; and past so many more the chunks are halved. */
enum { ONE_AHEAD = 1 << 18, HALF_CHUNKS = 1 << 20 };

/* All layers, with the host one or two ahead. */
static int queue_layers(const struct queue *q, struct cancel *cancel, struct err *e)
{
    const struct device_shared *g = q->g;
    struct device_event *done[2] = {NULL, NULL};
    int rc = g->ops->event_create(g->device, &done[0], e);
    if (!rc)
        rc = g->ops->event_create(g->device, &done[1], e);
    size_t ahead = q->s->position < ONE_AHEAD ? 2 : 1;
    for (size_t l = 0; !rc && l < g->shape.L; l++) {
        if (l >= ahead)
            rc = g->ops->event_sync(g->device, done[(l - ahead) & 1], e);
        if (!rc && cancel_requested(cancel))
            rc = err_set(e, ERR_CANCELLED, "stopped; what was read is kept");
        if (rc)
            break;
        queue_layer(q, l);
        g->ops->event_record(g->device, DEVICE_COMPUTE, done[l & 1]);
        mirror_one(q->s);
    }
    for (int i = 0; i < 2; i++)
        if (done[i])
            g->ops->event_free(g->device, done[i]);
    return rc;
}

static int prefill(struct device_session *s, const uint32_t *ids, size_t T, const struct device_pass *p,
                   struct err *e)
{
    const struct device_shared *g = s->g->shared;
    const struct device_work *w = &g->work;
    struct queue q = {.s = s, .g = g, .T = T};
    int rc = g->ops->sync(g->device, DEVICE_COMPUTE, e); /* a cancelled pass may still read ids_host */
    if (rc)
        return rc;
    memcpy(w->ids_host, ids, T * sizeof *ids);
    g->ops->upload(g->device, DEVICE_COMPUTE, w->ids, w->ids_host, T * sizeof *ids);
    g->ops->fill(g->device, DEVICE_COMPUTE, w->failed, 0, sizeof *w->failed);
    queue_embed(&q, w->ids);
    rc = queue_layers(&q, p->cancel, e);
    if (!rc)
        rc = give_logits(&q, p, e);
    if (rc)
        return rc;
    if (p->last) {
        queue_logits(&q, T - 1, 1);
        download(g, w->logits_host, w->logits, g->shape.V * sizeof *w->logits);
    }
    download(g, w->failed_host, w->failed, sizeof *w->failed);
    rc = g->ops->sync(g->device, DEVICE_COMPUTE, e);
    if (!rc && *w->failed_host)
        rc = not_finite(e);
    if (rc)
        return rc;
    if (p->last)
        memcpy(p->last, w->logits_host, g->shape.V * sizeof *p->last);
    s->cur = !s->cur;
    s->kv.tail = s->tail[s->cur];
    s->kv.stream = s->stream[s->cur];
    return 0;
}

/* ---- both -------------------------------------------------------------------------------------------- */

/* A prefill pass expands weights and, over a long past, all records anew, whatever it reads: so few tokens
 * are sooner done in decode steps. */
static size_t few_tokens(size_t position)
{
    return position < (size_t)1 << 17 ? 8 : 24;
}

size_t device_session_next(const struct device_session *s, size_t left, int watching)
{
    size_t page = KV_PAGE_TOKENS - s->position % KV_PAGE_TOKENS, chunk = s->g->shared->chunk;
    if (s->position >= HALF_CHUNKS && chunk / 2 % KV_PAGE_TOKENS == 0)
        chunk /= 2;
    size_t grid = chunk - s->position % chunk, T = left < grid ? left : grid;
    if ((watching || left <= few_tokens(s->position)) && T > DEVICE_DECODE_T)
        T = DEVICE_DECODE_T;
    return T <= DEVICE_DECODE_T && T > page ? page : T;
}

int device_session_pass(struct device_session *s, const uint32_t *ids, size_t T, const struct device_pass *p,
                        struct err *e)
{
    struct device_shared *g = s->g->shared;
    int small = T <= DEVICE_DECODE_T && s->position % KV_PAGE_TOKENS + T <= KV_PAGE_TOKENS;
    if (!T || T > g->chunk || (!small && (p->best || p->mass)))
        return err_set(e, ERR_USAGE, "a pass of %zu tokens is not possible here", T);
    for (size_t t = 0; t < T; t++)
        if (ids[t] >= g->shape.V)
            return err_set(e, ERR_USAGE, "token id %u is not below the model's %zu", ids[t], g->shape.V);
    int rc = work_scratch(g, 0, e); /* there, but after a failure to make it larger */
    if (!rc)
        rc = device_session_reserve(s, s->position + T, e);
    if (!rc)
        rc = small ? decode(s, ids, T, p, e) : prefill(s, ids, T, p, e);
    if (rc)
        return rc;
    size_t before = s->position / BLOCK_TOKENS;
    s->position += T;
    struct err later; /* the pass is done; what is not copied now is asked for again by borrow_block */
    if (small && !s->holding) /* a prefill pass leaves its blocks to the next one */
        (void)mirror_finished(s, before, &later);
    return 0;
}
