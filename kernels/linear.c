/* SPDX-License-Identifier: Apache-2.0 */
/* linear.c - the driver of linear that all backends share: scratch, quantisation, tasks; and lora on top.
 *
 * Tasks never share an output element and an element's sum lives in one task from first to last, so threads
 * and cuts cannot change a bit. Scratch:  codes [T][2][K] | act_block [T][K/32] | [threads][32 * K]
 * expansion.
 */
#include "kernels/linear.h"

#include <assert.h>
#include <float.h>
#include <math.h>

enum {
    TOKENS_PER_TASK = 126,  /* a multiple of the widest tile (6): the codes of a range stay in the L2 cache */
    TASK_BYTES = 48 * 1024, /* of weights, when few tokens make the work a matter of bandwidth */
    INLINE_BYTES = 40 * 1024, /* below this much work waking the pool costs more than it brings */
    ROWS_PER_QUANTISE = 16,
};

static size_t round64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

size_t linear_scratch_bytes(size_t T, size_t K, int threads)
{
    size_t padded = (K + 31) / 32 * 32;
    return round64(2 * T * padded) + round64(T * (padded / 32) * sizeof(struct act_block)) +
           (size_t)(threads > 0 ? threads : 1) * 32 * padded;
}

size_t lora_scratch_bytes(size_t T, size_t K, size_t r, int threads)
{
    return round64(T * r * sizeof(float)) + linear_scratch_bytes(T, K > r ? K : r, threads);
}

struct act_scale act_scale_of(float amax)
{
    if (!(amax <= FLT_MAX))
        return (struct act_scale){.d = NAN, .inverse = 0};
    if (amax < 1e-30f) /* its factor would not be finite */
        return (struct act_scale){.d = 0, .inverse = 0};
    return (struct act_scale){.d = amax / ACT_MAX, .inverse = ACT_MAX / amax};
}

struct job {
    const struct linear_isa *isa;
    const struct linear_args *a;
    struct acts acts;
    uint8_t *expanded;
    size_t pairs;  /* pairs of panels over all outs */
    size_t group;  /* pairs per task */
    size_t groups; /* tasks per token range */
    size_t tokens; /* per task */
};

static void quantise_task(void *arg, int index, int thread)
{
    (void)thread;
    const struct job *j = arg;
    size_t K = j->acts.K, t0 = (size_t)index * ROWS_PER_QUANTISE;
    for (size_t t = t0; t < j->a->T && t < t0 + ROWS_PER_QUANTISE; t++)
        j->isa->quantise(j->a->x + t * j->a->ldx, K, j->acts.codes + t * 2 * K, j->acts.block + t * (K / 32));
}

static size_t pairs_of(const struct weight *w)
{
    return (w->panels + 1) / 2;
}

/* The out and the pair inside it that the running number `pair` means. */
static const struct linear_out *find_pair(const struct linear_args *a, size_t *pair)
{
    const struct linear_out *out = a->outs;
    while (*pair >= pairs_of(out->w)) {
        *pair -= pairs_of(out->w);
        out++;
    }
    return out;
}

static void tile_task(void *arg, int index, int thread)
{
    const struct job *j = arg;
    size_t range = (size_t)index / j->groups, group = (size_t)index % j->groups;
    size_t t0 = range * j->tokens, t1 = t0 + j->tokens < j->a->T ? t0 + j->tokens : j->a->T;
    for (size_t i = group * j->group; i < j->pairs && i < (group + 1) * j->group; i++) {
        size_t pair = i;
        const struct linear_out *out = find_pair(j->a, &pair);
        struct linear_tile tile = {
            .out = out,
            .panel0 = 2 * pair,
            .panel1 = 2 * pair + 2 < out->w->panels ? 2 * pair + 2 : out->w->panels,
            .t0 = t0,
            .t1 = t1,
            .acts = &j->acts,
            .x = j->a->x,
            .ldx = j->a->ldx,
            .expanded = j->expanded + (size_t)thread * 32 * j->acts.K,
        };
        if (type_is_quantised(out->w->type))
            j->isa->tile_quantised(&tile);
        else
            j->isa->tile_float(&tile);
    }
}

static void carve(struct job *j, size_t K)
{
    const struct linear_args *a = j->a;
    size_t padded = (K + 31) / 32 * 32;
    uint8_t *scratch = a->scratch;
    j->acts.K = padded; /* K itself whenever anything is quantised */
    j->acts.codes = (int8_t *)scratch;
    scratch += round64(2 * a->T * padded);
    j->acts.block = (struct act_block *)(void *)scratch;
    scratch += round64(a->T * (padded / 32) * sizeof(struct act_block));
    j->expanded = scratch;
}

void linear_run(const struct linear_isa *isa, const struct linear_args *a)
{
    if (!a->T || !a->n_outs)
        return;
    struct job j = {.isa = isa, .a = a};
    size_t K = a->outs[0].w->cols, bytes = 0;
    int quantised = 0;
    for (size_t i = 0; i < a->n_outs; i++) {
        const struct weight *w = a->outs[i].w;
        assert(w->cols == K && a->outs[i].ldy >= w->rows);
        quantised |= type_is_quantised(w->type);
        bytes += weight_bytes(w);
        j.pairs += pairs_of(w);
    }
    assert(a->ldx >= K || a->T == 1);
    assert(a->scratch_bytes >= linear_scratch_bytes(a->T, K, pool_threads(a->pool)));
    assert(((uintptr_t)a->scratch & 63) == 0);
    carve(&j, K);
    struct pool *pool = bytes >= INLINE_BYTES || a->T >= 16 ? a->pool : NULL;
    if (quantised) {
        size_t tasks = (a->T + ROWS_PER_QUANTISE - 1) / ROWS_PER_QUANTISE;
        pool_run(pool, (int)tasks, quantise_task, &j);
    }
    size_t per_pair = bytes / j.pairs;
    j.tokens = TOKENS_PER_TASK;
    j.group = a->T >= 16 ? 1 : per_pair >= TASK_BYTES ? 1 : (TASK_BYTES + per_pair) / (per_pair + 1);
    j.groups = (j.pairs + j.group - 1) / j.group;
    size_t ranges = (a->T + j.tokens - 1) / j.tokens;
    pool_run(pool, (int)(ranges * j.groups), tile_task, &j);
}

void lora_run(void (*linear)(const struct linear_args *a), const struct lora_args *a)
{
    size_t r = a->a->rows, head = round64(a->T * r * sizeof(float));
    assert(a->b->cols == r && a->scratch_bytes > head);
    float *middle = a->scratch; /* [T][r] */
    struct linear_out down = {.w = a->a, .y = middle, .ldy = r};
    struct linear_out up = {.w = a->b, .y = a->y, .ldy = a->ldy, .accumulate = 1};
    struct linear_args step = {.pool = a->pool,
                               .x = a->x,
                               .ldx = a->ldx,
                               .T = a->T,
                               .outs = &down,
                               .n_outs = 1,
                               .scratch = (uint8_t *)a->scratch + head,
                               .scratch_bytes = a->scratch_bytes - head};
    linear(&step);
    step.x = middle;
    step.ldx = r;
    step.outs = &up;
    linear(&step);
}
