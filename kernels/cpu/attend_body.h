/* SPDX-License-Identifier: Apache-2.0 */
/* attend_body.h - attention over blocks in vectors; included once by attend_avx2.c and attend_avx512.c.
 *
 * Per block: K as floats transposed [D][64] and V [64][D] in scratch (32 KiB for D = 64), then tiles of up to
 * ROWS_TILE query rows x TILE_VECTORS vectors. Lanes are keys for the scores and channels for the values, so
 * each is one ascending fma chain; the sum of exp over 64 keys is one fixed tree. A tile gathers rows that
 * see the block, and a row's arithmetic does not depend on its neighbours. Keys that a row does not see have
 * exp = 0 exactly and change nothing but the sign of a zero, which the end removes.
 *
 * Decode (at most FUSED_ROWS rows in all) reads coded lines straight into registers instead (block_body.h):
 * the same operations on each element in the same order, without the 32 KiB in between.
 *
 * Cost of a block: 4 * 64 * D * rows flop, plus unpacking once for all rows of the call.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/attend.h"
#include "kernels/cpu/cpu.h"
#include "kernels/ref/ref.h"

#include "kernels/cpu/block_body.h"

enum { ROWS_TILE = 6 };

struct tile {
    int n; /* rows, 1..ROWS_TILE */
    size_t row[ROWS_TILE];
    const float *q[ROWS_TILE];                                       /* [D] each */
    float *out[ROWS_TILE];                                           /* [D] each, unnormalised */
    float factor[ROWS_TILE];                                         /* exp(old maximum - new) */
    float p[ROWS_TILE][KV_PAGE_TOKENS] __attribute__((aligned(64))); /* scores, then their exp */
};

/* Tokens [lo, hi) of a raw block; other columns of k become 0, other rows of v stay as they are. */
static void load_raw(const uint16_t *raw, size_t D, size_t lo, size_t hi, float *k, float *v)
{
    for (size_t t0 = lo / VW * VW; t0 < hi; t0 += VW)
        for (size_t d = 0; d < D; d += VW) {
            vf block[VW];
#pragma GCC unroll 16
            for (size_t i = 0; i < VW; i++) {
                size_t t = t0 + i;
                block[i] = t >= lo && t < hi ? vf_load_half(raw + t * D + d) : vf_zero();
            }
            vf_transpose(block);
#pragma GCC unroll 16
            for (size_t i = 0; i < VW; i++)
                vf_store(k + (d + i) * KV_PAGE_TOKENS + t0, block[i]);
        }
    for (size_t i = lo * D; i < hi * D; i += VW)
        vf_store(v + i, vf_load_half(raw + KV_PAGE_TOKENS * D + i));
}

INLINE void scores(struct tile *a, const int n, const float *k, size_t D, float scale)
{
    for (size_t col = 0; col < KV_PAGE_TOKENS; col += TILE_VECTORS * VW) {
        vf acc[ROWS_TILE][TILE_VECTORS];
#pragma GCC unroll 6
        for (int r = 0; r < n; r++)
#pragma GCC unroll 4
            for (int c = 0; c < TILE_VECTORS; c++)
                acc[r][c] = vf_zero();
        for (size_t d = 0; d < D; d++) {
            vf key[TILE_VECTORS];
#pragma GCC unroll 4
            for (int c = 0; c < TILE_VECTORS; c++)
                key[c] = vf_load(k + d * KV_PAGE_TOKENS + col + (size_t)c * VW);
#pragma GCC unroll 6
            for (int r = 0; r < n; r++) {
                vf q = vf_set1(a->q[r][d]);
#pragma GCC unroll 4
                for (int c = 0; c < TILE_VECTORS; c++)
                    acc[r][c] = vf_fma(q, key[c], acc[r][c]);
            }
        }
#pragma GCC unroll 6
        for (int r = 0; r < n; r++)
#pragma GCC unroll 4
            for (int c = 0; c < TILE_VECTORS; c++)
                vf_store(a->p[r] + col + c * VW, vf_mul(acc[r][c], vf_set1(scale)));
    }
}

/* Columns [col, col + nv * VW) of out = out * factor + p . v over tokens [lo, hi). */
INLINE void values(struct tile *a, const int n, const int nv, const float *v, size_t D, size_t col, size_t lo,
                   size_t hi)
{
    vf acc[ROWS_TILE][TILE_VECTORS];
#pragma GCC unroll 6
    for (int r = 0; r < n; r++)
#pragma GCC unroll 4
        for (int c = 0; c < nv; c++)
            acc[r][c] = vf_mul(vf_load(a->out[r] + col + (size_t)c * VW), vf_set1(a->factor[r]));
    for (size_t t = lo; t < hi; t++) {
        vf value[TILE_VECTORS];
#pragma GCC unroll 4
        for (int c = 0; c < nv; c++)
            value[c] = vf_load(v + t * D + col + (size_t)c * VW);
#pragma GCC unroll 6
        for (int r = 0; r < n; r++) {
            vf p = vf_set1(a->p[r][t]);
#pragma GCC unroll 4
            for (int c = 0; c < nv; c++)
                acc[r][c] = vf_fma(p, value[c], acc[r][c]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < n; r++)
#pragma GCC unroll 4
        for (int c = 0; c < nv; c++)
            vf_store(a->out[r] + col + (size_t)c * VW, acc[r][c]);
}

INLINE void all_values(struct tile *a, const int n, const float *v, size_t D, size_t lo, size_t hi)
{
    size_t col = 0;
    for (; col + TILE_VECTORS * VW <= D; col += TILE_VECTORS * VW)
        values(a, n, TILE_VECTORS, v, D, col, lo, hi);
    for (; col < D; col += VW)
        values(a, n, 1, v, D, col, lo, hi);
}

static void score_tile(struct tile *a, const float *k, size_t D, float scale)
{
    switch (a->n) {
    case 1:
        scores(a, 1, k, D, scale);
        break;
    case 2:
        scores(a, 2, k, D, scale);
        break;
    case 3:
        scores(a, 3, k, D, scale);
        break;
    case 4:
        scores(a, 4, k, D, scale);
        break;
    case 5:
        scores(a, 5, k, D, scale);
        break;
    default:
        scores(a, 6, k, D, scale);
    }
}

static void value_tile(struct tile *a, const float *v, size_t D, size_t lo, size_t hi)
{
    switch (a->n) {
    case 1:
        all_values(a, 1, v, D, lo, hi);
        break;
    case 2:
        all_values(a, 2, v, D, lo, hi);
        break;
    case 3:
        all_values(a, 3, v, D, lo, hi);
        break;
    case 4:
        all_values(a, 4, v, D, lo, hi);
        break;
    case 5:
        all_values(a, 5, v, D, lo, hi);
        break;
    default:
        all_values(a, 6, v, D, lo, hi);
    }
}

/* Scores of one row -> exp(score - running maximum) in place; moves m, l and factor on. */
static struct attend_share soften(struct tile *a, int r, const struct attend_room *room)
{
    enum { PARTS = KV_PAGE_TOKENS / VW };
    size_t row = a->row[r];
    uint64_t mask = room->masks[row];
    float *p = a->p[r];
    vf part[PARTS], top = vf_set1(-INFINITY);
    for (int i = 0; i < PARTS; i++) {
        part[i] = vf_keep(vf_load(p + i * VW), mask >> (i * VW));
        top = vf_max(top, part[i]);
    }
    float old = room->m[row], block = vf_top(top), m = block > old ? block : old;
    vf sum = vf_zero(), shift = vf_set1(m > -INFINITY ? m : 0);
    for (int i = 0; i < PARTS; i++) {
        part[i] = vf_exp(vf_sub(part[i], shift));
        vf_store(p + i * VW, part[i]);
        sum = vf_add(sum, part[i]);
    }
    a->factor[r] = old == m ? 1 : vf_first(vf_exp(vf_set1(old - m)));
    struct attend_share share = {.sum = vf_sum(sum), .max = m};
    room->l[row] = room->l[row] * a->factor[r] + share.sum;
    room->m[row] = m;
    return share;
}

static int is_fused(const struct attend_args *a, const struct attend_block *b)
{
    return fused_format(b->format) && a->T * a->G <= FUSED_ROWS;
}

static void run_tile(const struct attend_args *a, const struct attend_room *room, struct tile *tile, size_t b,
                     size_t lo, size_t hi)
{
    if (!tile->n)
        return;
    int fused = is_fused(a, &a->blocks[b]);
    struct fused_page page = {.record = a->blocks[b].data, .D = a->D};
    if (fused) {
        page.y = page_layout(a->blocks[b].format, a->D);
        fused_score_rows(tile->n, &page, tile->q, a->scale, tile->p);
    } else {
        score_tile(tile, room->k, a->D, a->scale);
    }
    for (int r = 0; r < tile->n; r++) {
        struct attend_share share = soften(tile, r, room);
        if (room->shares)
            room->shares[b * a->T * a->G + tile->row[r]] = share;
    }
    if (fused)
        fused_value_rows(
            tile->n, &page,
            &(struct fused_rows){.out = tile->out, .factor = tile->factor, .p = (const float(*)[64])tile->p});
    else
        value_tile(tile, room->v, a->D, lo, hi);
    tile->n = 0;
}

static void load_block(const struct attend_args *a, const struct attend_room *room,
                       const struct attend_block *b, size_t lo, size_t hi)
{
    if (b->format == KV_RAW)
        load_raw(b->data, a->D, lo, hi, room->k, room->v);
    else
        load_coded(b, a->D, room->k, room->v);
}

/* Decode waits for memory more than it computes: asks for the record of the block after b. */
static void fetch_next(const struct attend_args *a, size_t b)
{
    if (b + 1 >= a->n_blocks || a->T > 1)
        return;
    const char *next = a->blocks[b + 1].data;
    size_t bytes = kv_page_bytes(a->blocks[b + 1].format, a->D);
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch(next + i, _MM_HINT_T0);
}

static void attend_block(const struct attend_args *a, const struct attend_room *room, size_t b)
{
    uint64_t any = 0;
    for (size_t t = 0; t < a->T; t++) {
        uint64_t mask = attend_mask(a, &a->blocks[b], a->pos0 + t);
        any |= mask;
        for (size_t g = 0; g < a->G; g++)
            room->masks[t * a->G + g] = mask;
    }
    if (!any)
        return;
    fetch_next(a, b);
    size_t lo = (size_t)__builtin_ctzll(any), hi = 64 - (size_t)__builtin_clzll(any);
    if (!is_fused(a, &a->blocks[b]))
        load_block(a, room, &a->blocks[b], lo, hi);
    struct tile tile;
    tile.n = 0;
    for (size_t row = 0; row < a->T * a->G; row++) {
        if (!room->masks[row])
            continue;
        tile.row[tile.n] = row;
        tile.q[tile.n] = a->q + row / a->G * a->ldq + row % a->G * a->D;
        tile.out[tile.n] = a->out + row / a->G * a->ldout + row % a->G * a->D;
        if (++tile.n == ROWS_TILE)
            run_tile(a, room, &tile, b, lo, hi);
    }
    run_tile(a, room, &tile, b, lo, hi);
}

static float exponential(float x)
{
    return vf_first(vf_exp(vf_set1(x)));
}

void OP(attend)(const struct attend_args *a)
{
    if (a->D % 16) {
        ref_attend(a);
        return;
    }
    struct attend_room room = attend_carve(a);
    size_t rows = a->T * a->G;
    for (size_t row = 0; row < rows; row++) {
        room.m[row] = -INFINITY;
        room.l[row] = 0;
        memset(a->out + row / a->G * a->ldout + row % a->G * a->D, 0, a->D * sizeof(float));
    }
    if (room.shares)
        memset(room.shares, 0, rows * a->n_blocks * sizeof *room.shares);
    for (size_t b = 0; b < a->n_blocks; b++)
        attend_block(a, &room, b);
    for (size_t row = 0; row < rows; row++) {
        float *out = a->out + row / a->G * a->ldout + row % a->G * a->D, l = room.l[row];
        for (size_t d = 0; l > 0 && d < a->D; d += VW)
            vf_store(out + d, vf_add(vf_div(vf_load(out + d), vf_set1(l)), vf_zero())); /* never -0 */
    }
    if (a->mass)
        attend_add_mass(a, &room, exponential);
}
