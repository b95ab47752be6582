/* SPDX-License-Identifier: Apache-2.0 */
/* block_body.h - reading a coded KV block in vectors: into float tiles, or fused with the arithmetic of
 * decode; included once by attend_body.h.
 *
 * Each value is min + scale * code in one fma, on every path. Lanes are tokens for keys and channels for
 * values; a fused loop does the same operations on each element in the same order as a tile, so its results
 * are the tile's very bits.
 *
 * Functions with `const int bits` are compiled for each width.
 */

enum { LINE_PARTS = 16 / VW, FUSED_ROWS = 4 };

/* Up to FUSED_VECTORS vectors of tokens of one channel group. */
struct key_words {
    vi low[KV_PAGE_TOKENS / VW];
    vi high[KV_PAGE_TOKENS / VW]; /* of 3 bits: the plane of 1 */
};

INLINE size_t key_channels(const int bits) /* of a word */
{
    return bits == 8 ? 4 : bits == 4 ? 8 : 16;
}

/* Words of group `group` for token vectors first .. first + n - 1. */
INLINE struct key_words key_words_load(const int bits, const uint8_t *record, size_t D, size_t group,
                                       size_t first, const size_t n)
{
    struct key_words w;
    const int low = bits == 3 ? 2 : bits;
#pragma GCC unroll 8
    for (size_t i = 0; i < n; i++) {
        size_t t16 = (first + i) / LINE_PARTS, part = (first + i) % LINE_PARTS, swap = group >> 1 & 1;
        w.low[i] = vi_line(record + page_k_line(D, low, t16, group) * 64, swap, part);
        if (bits == 3) {
            const uint8_t *plane = record + page_plane_bytes(D, 2);
            vi high = vi_line(plane + page_k_line(D, 1, t16, group) * 64, swap, part);
            w.high[i] = vi_left(vi_right(high, (int)(t16 % 2) * 16), 2);
        }
    }
    return w;
}

/* The words' lowest code of vector i, and moves on to the next channel. */
INLINE vi key_words_next(const int bits, struct key_words *w, size_t i)
{
    vi code = w->low[i];
    w->low[i] = vi_right(w->low[i], bits == 3 ? 2 : bits);
    if (bits == 3) {
        code = vi_or(vi_and(code, 3), vi_and(w->high[i], 4));
        w->high[i] = vi_right(w->high[i], 1);
    }
    return code;
}

static void load_params(const uint8_t *raw, size_t n, float *params)
{
    for (size_t i = 0; i < n; i += VW)
        vf_store(params + i, vf_load_half((const uint16_t *)(const void *)raw + i));
}

/* k[D][64] */
INLINE void load_keys(const int bits, const struct page_layout *y, const uint8_t *record, size_t D, float *k)
{
    float params[2 * HEAD_DIM_MAX];
    load_params(record + y->k_params, 2 * D, params);
    const size_t per = key_channels(bits);
    for (size_t group = 0; group < D / per; group++) {
        struct key_words w = key_words_load(bits, record, D, group, 0, KV_PAGE_TOKENS / VW);
        for (size_t c = 0; c < per; c++) {
            const float *at = params + page_k_param_index(D, group * per + c);
            struct grid g = grid_make(bits, at[0], at[D]);
#pragma GCC unroll 8
            for (size_t i = 0; i < KV_PAGE_TOKENS / VW; i++)
                vf_store(k + (group * per + c) * KV_PAGE_TOKENS + i * VW,
                         grid_value(bits, key_words_next(bits, &w, i), g));
        }
    }
}

/* Words whose lowest code is number i of column j for channel vector x. */
INLINE vi value_words(const int bits, const uint8_t *codes, size_t D, size_t x, size_t j, size_t i)
{
    const int low = bits == 3 ? 2 : bits;
    size_t mt = x / LINE_PARTS, part = x % LINE_PARTS, line = page_v_line(D, low, mt, j, i);
    vi words = vi_right(vi_line(codes + line * 64, line >> 1 & 1, part), page_v_shift(low, j, i));
    if (bits == 3) {
        size_t number = page_v_line(D, 1, mt, j, i);
        vi high = vi_line(codes + page_plane_bytes(D, 2) + number * 64, number >> 1 & 1, part);
        high = vi_left(vi_right(high, page_v_shift(1, j, i)), 2);
        words = vi_or(vi_and(words, 3), vi_and(high, 4));
    }
    return words;
}

/* v[64][D] */
INLINE void load_values(const int bits, const struct page_layout *y, const uint8_t *record, size_t D,
                        float *v)
{
    float params[2 * KV_PAGE_TOKENS];
    load_params(record + y->v_params, 2 * KV_PAGE_TOKENS, params);
    for (size_t j = 0; j < 4; j++)
        for (size_t i = 0; i < 16; i++) {
            size_t token = page_v_token(j, i);
            const float *at = params + page_v_param_index(token);
            struct grid g = grid_make(bits, at[0], at[KV_PAGE_TOKENS]);
            for (size_t x = 0; x < D / VW; x++)
                vf_store(v + token * D + x * VW,
                         grid_value(bits, value_words(bits, record + y->v_codes, D, x, j, i), g));
        }
}

static void load_coded(const struct attend_block *b, size_t D, float *k, float *v)
{
    struct page_layout y = page_layout(b->format, D);
    switch (y.k_bits) {
    case 8:
        load_keys(8, &y, b->data, D, k);
        break;
    case 4:
        load_keys(4, &y, b->data, D, k);
        break;
    default:
        load_keys(3, &y, b->data, D, k);
    }
    switch (y.v_bits) {
    case 8:
        load_values(8, &y, b->data, D, v);
        break;
    case 4:
        load_values(4, &y, b->data, D, v);
        break;
    case 3:
        load_values(3, &y, b->data, D, v);
        break;
    default:
        load_values(2, &y, b->data, D, v);
    }
}

/* A page as decode reads it. */
struct fused_page {
    const uint8_t *record;
    struct page_layout y;
    size_t D;
};

/* scores[r][64] = factor * q[r] . key for n <= FUSED_ROWS rows */
INLINE void fused_scores(const int bits, const int n, const struct fused_page *f, const float *const *q,
                         float factor, float (*scores)[KV_PAGE_TOKENS])
{
    const size_t D = f->D, per = key_channels(bits);
    float params[2 * HEAD_DIM_MAX];
    load_params(f->record + f->y.k_params, 2 * D, params);
    for (size_t first = 0; first < KV_PAGE_TOKENS / VW; first += FUSED_VECTORS) {
        vf acc[FUSED_ROWS][FUSED_VECTORS];
#pragma GCC unroll 4
        for (int r = 0; r < n; r++)
#pragma GCC unroll 4
            for (size_t i = 0; i < FUSED_VECTORS; i++)
                acc[r][i] = vf_zero();
        for (size_t group = 0; group < D / per; group++) {
            struct key_words w = key_words_load(bits, f->record, D, group, first, FUSED_VECTORS);
#pragma GCC unroll 8
            for (size_t c = 0; c < per; c++) {
                const float *at = params + page_k_param_index(D, group * per + c);
                struct grid g = grid_make(bits, at[0], at[D]);
                vf key[FUSED_VECTORS];
#pragma GCC unroll 4
                for (size_t i = 0; i < FUSED_VECTORS; i++)
                    key[i] = grid_value(bits, key_words_next(bits, &w, i), g);
#pragma GCC unroll 4
                for (int r = 0; r < n; r++) {
                    vf value = vf_set1(q[r][group * per + c]);
#pragma GCC unroll 4
                    for (size_t i = 0; i < FUSED_VECTORS; i++)
                        acc[r][i] = vf_fma(value, key[i], acc[r][i]);
                }
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < n; r++)
#pragma GCC unroll 4
            for (size_t i = 0; i < FUSED_VECTORS; i++)
                vf_store(scores[r] + (first + i) * VW, vf_mul(acc[r][i], vf_set1(factor)));
    }
}

/* Rows of decode: out[r] = out[r] * factor[r] + sum over tokens of p[r][token] * value */
struct fused_rows {
    float *const *out;
    const float *factor;
    const float (*p)[KV_PAGE_TOKENS];
};

/* Channel vectors x .. x + nv - 1; params are V's. */
INLINE void fused_columns(const int bits, const int n, const size_t nv, const struct fused_page *f,
                          const float *params, size_t x, const struct fused_rows *rows)
{
    const uint8_t *codes = f->record + f->y.v_codes;
    vf acc[FUSED_ROWS][FUSED_VECTORS];
#pragma GCC unroll 4
    for (int r = 0; r < n; r++)
#pragma GCC unroll 4
        for (size_t i = 0; i < nv; i++)
            acc[r][i] = vf_mul(vf_load(rows->out[r] + (x + i) * VW), vf_set1(rows->factor[r]));
    /* tokens ascending: number 8u + 4h + 2 high + odd of column j is token 32u + 16 high + 4j + 2h + odd */
    for (size_t sixteen = 0; sixteen < 4; sixteen++)
#pragma GCC unroll 16
        for (size_t in = 0; in < 16; in++) {
            const size_t j = in / 4, h = in / 2 % 2, odd = in % 2;
            size_t token = sixteen * 16 + in, number = sixteen / 2 * 8 + h * 4 + sixteen % 2 * 2 + odd;
            const float *at = params + page_v_param_index(token);
            struct grid g = grid_make(bits, at[0], at[KV_PAGE_TOKENS]);
            vf value[FUSED_VECTORS];
#pragma GCC unroll 4
            for (size_t i = 0; i < nv; i++)
                value[i] = grid_value(bits, value_words(bits, codes, f->D, x + i, j, number), g);
#pragma GCC unroll 4
            for (int r = 0; r < n; r++) {
                vf p = vf_set1(rows->p[r][token]);
#pragma GCC unroll 4
                for (size_t i = 0; i < nv; i++)
                    acc[r][i] = vf_fma(p, value[i], acc[r][i]);
            }
        }
#pragma GCC unroll 4
    for (int r = 0; r < n; r++)
#pragma GCC unroll 4
        for (size_t i = 0; i < nv; i++)
            vf_store(rows->out[r] + (x + i) * VW, acc[r][i]);
}

INLINE void fused_values(const int bits, const int n, const struct fused_page *f,
                         const struct fused_rows *rows)
{
    float params[2 * KV_PAGE_TOKENS];
    load_params(f->record + f->y.v_params, 2 * KV_PAGE_TOKENS, params);
    size_t x = 0;
    for (; (x + FUSED_VECTORS) * VW <= f->D; x += FUSED_VECTORS)
        fused_columns(bits, n, FUSED_VECTORS, f, params, x, rows);
    for (; x * VW < f->D; x++)
        fused_columns(bits, n, 1, f, params, x, rows);
}

/* The widths that have a fused path; others go through tiles. */
static int fused_format(int format)
{
    return format == KV_8 || format == KV_4 || format == KV_K8V4;
}

static void fused_score_rows(int n, const struct fused_page *f, const float *const *q, float factor,
                             float (*scores)[KV_PAGE_TOKENS])
{
    switch (n * 16 + f->y.k_bits) {
    case 1 * 16 + 8:
        fused_scores(8, 1, f, q, factor, scores);
        break;
    case 2 * 16 + 8:
        fused_scores(8, 2, f, q, factor, scores);
        break;
    case 3 * 16 + 8:
        fused_scores(8, 3, f, q, factor, scores);
        break;
    case 4 * 16 + 8:
        fused_scores(8, 4, f, q, factor, scores);
        break;
    case 1 * 16 + 4:
        fused_scores(4, 1, f, q, factor, scores);
        break;
    case 2 * 16 + 4:
        fused_scores(4, 2, f, q, factor, scores);
        break;
    case 3 * 16 + 4:
        fused_scores(4, 3, f, q, factor, scores);
        break;
    default:
        fused_scores(4, 4, f, q, factor, scores);
    }
}

static void fused_value_rows(int n, const struct fused_page *f, const struct fused_rows *rows)
{
    switch (n * 16 + f->y.v_bits) {
    case 1 * 16 + 8:
        fused_values(8, 1, f, rows);
        break;
    case 2 * 16 + 8:
        fused_values(8, 2, f, rows);
        break;
    case 3 * 16 + 8:
        fused_values(8, 3, f, rows);
        break;
    case 4 * 16 + 8:
        fused_values(8, 4, f, rows);
        break;
    case 1 * 16 + 4:
        fused_values(4, 1, f, rows);
        break;
    case 2 * 16 + 4:
        fused_values(4, 2, f, rows);
        break;
    case 3 * 16 + 4:
        fused_values(4, 3, f, rows);
        break;
    default:
        fused_values(4, 4, f, rows);
    }
}
