/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.h - every arithmetic op of the forward pass, behind one table per backend.
 *
 * Letters: T tokens of this call, K columns (inputs), N rows (outputs) of a weight, G query heads of one KV
 * head, D head width, F ffn width. All leading dimensions (ld...) are in elements.
 *
 * Invariants of every op of every backend:
 *  - a row's result is a function of that row alone: never of T, of its place in a tile or of the thread
 * count;
 *  - nothing is allocated, printed or kept; scratch is the caller's, 64-byte aligned, of the size that the
 *    ..._scratch_bytes function gave, and its content is meaningless before and after;
 *  - shapes are the caller's duty (checked once at load), wrong ones are programmer errors (assert).
 * Bits may differ between backends; the tests bound by how much.
 */
#ifndef LECTERN_KERNELS_KERNELS_H
#define LECTERN_KERNELS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/base/pool.h"
#include "kernels/kv_page.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Storage types by their GGUF numbers. */
enum tensor_type {
    TENSOR_F32 = 0,
    TENSOR_F16 = 1,
    TENSOR_Q4_0 = 2,
    TENSOR_Q4_1 = 3,
    TENSOR_Q8_0 = 8,
    TENSOR_BF16 = 30,
};

/* Bytes of one raw row; 0 when the type is not handled, cols is 0 or not a whole number of blocks, or the
 * size does not fit. `type` may be any number that a file contained. */
size_t tensor_row_bytes(enum tensor_type type, size_t cols);

/* A matrix [rows][cols] packed for the backends (every backend reads the same packing). Immutable. */
struct weight;
struct kernels;

/* Copies `raw` (rows * tensor_row_bytes, any alignment) into a new *out, NULL on failure. Safe to call from
 * several threads. ERR_UNSUPPORTED, ERR_LIMIT (a size that does not fit), ERR_MEMORY. */
int weight_pack(const struct kernels *k, enum tensor_type type, size_t rows, size_t cols, const void *raw,
                struct weight **out, struct err *e);
void weight_free(struct weight *w); /* NULL is legal */
size_t weight_rows(const struct weight *w);
size_t weight_cols(const struct weight *w);
enum tensor_type weight_type(const struct weight *w);
size_t weight_bytes(const struct weight *w); /* memory held */

/* y[T][N] = x[T][K] . W^T (+ bias) or += with `accumulate`. Several weights that read the same x (q, k, v;
 * gate and up) go in one call: x is quantised once and the pool is woken once. y must not overlap x.
 * Quantised W: per block of 32, d = amax / 16256, codes rint(x * 16256 / amax); integer dot products; one
 * f32 accumulator per output over ascending blocks. Float W: one f32 fma chain over ascending k. bias, then
 * the old y, are added last. A row of x with a NaN or an infinity yields NaN. */
struct linear_out {
    const struct weight *w; /* [N][K] */
    const float *bias;      /* [N] or NULL */
    float *y;               /* [T][ldy] */
    size_t ldy;
    int accumulate; /* y += instead of y = */
};
struct linear_args {
    struct pool *pool; /* NULL: this thread alone */
    const float *x;    /* [T][ldx] */
    size_t ldx;
    size_t T;
    const struct linear_out *outs;
    size_t n_outs;
    void *scratch;
    size_t scratch_bytes;
};
/* Enough for every call with at most T rows, at most K columns and at most `threads` threads. */
size_t linear_scratch_bytes(size_t T, size_t K, int threads);

/* y[T][N] += B (A x): A [r][K], B [N][r], F32, F16 or BF16. The adapter's alpha / r is folded into B by its
 * loader. */
struct lora_args {
    struct pool *pool;
    const float *x; /* [T][ldx] */
    size_t ldx;
    size_t T;
    const struct weight *a, *b;
    float *y; /* [T][ldy] */
    size_t ldy;
    void *scratch;
    size_t scratch_bytes;
};
size_t lora_scratch_bytes(size_t T, size_t K, size_t r, int threads);

/* y = x * w / sqrt(mean(x^2) + eps) per row; y may be x. */
struct rms_norm_args {
    struct pool *pool;
    const float *x; /* [T][ldx] */
    size_t ldx;
    const float *w; /* [C] */
    size_t T, C;
    float eps;
    float *y; /* [T][ldy] */
    size_t ldy;
};

/* y = gate / (1 + exp(-gate)) * up; y may be gate or up. */
struct silu_mul_args {
    struct pool *pool;
    const float *gate; /* [T][ld] */
    const float *up;   /* [T][ld] */
    float *y;          /* [T][ld] */
    size_t ld;
    size_t T, F;
};

/* y = a + b, n elements; y may be a or b. */
struct add_args {
    struct pool *pool;
    const float *a, *b;
    float *y;
    size_t n;
};

/* Rows ids[t] of a raw tensor [V][C] as f32. Every id must be < V. */
struct embed_args {
    struct pool *pool;
    enum tensor_type type;
    const void *raw; /* V rows of tensor_row_bytes(type, C), any alignment */
    size_t C;
    const uint32_t *ids; /* [T] */
    size_t T;
    float *y; /* [T][ldy] */
    size_t ldy;
};

/* Angles of positions pos0..pos0+T-1: phase = pos * step[i] mod 2^64 in turns / 2^64, so that no position is
 * too large; cos and sin are right to 1e-6 rad + float rounding, times attn_factor. */
struct rope_table_args {
    uint64_t pos0;
    size_t T;
    const uint64_t *steps; /* [half]: round(2^64 * freq / (2 pi)) */
    size_t half;           /* rotated dimensions / 2 */
    float attn_factor;
    float *cos; /* [T][half] */
    float *sin; /* [T][half] */
};

enum rope_kind {
    ROPE_PAIRS,  /* rotates (2i, 2i+1) */
    ROPE_HALVES, /* rotates (i, i + half) */
};

/* Rotates the first 2*half of the D values of each of `heads` heads of each row in place. */
struct rope_apply_args {
    struct pool *pool;
    enum rope_kind kind;
    float *x; /* [T][ldx], head h at column h*D */
    size_t ldx;
    size_t T, heads, D, half;
    const float *cos; /* [T][half] */
    const float *sin; /* [T][half] */
};

/* n floats -> IEEE halves (nearest even) and back. */
struct half_encode_args {
    const float *x;
    uint16_t *y;
    size_t n;
};
struct half_decode_args {
    const uint16_t *x;
    float *y;
    size_t n;
};

/* Attention of G query heads of one KV head over a list of 64-token blocks, by the one rule of visibility:
 * key k is seen by query q when k is a usable row, k <= q, and (not streaming, or k < S, or q - k < R).
 * Blocks come in ascending base order; per block: scores (ascending d), running maximum, exp, values
 * (ascending token). A block that a row does not see leaves that row alone, and a row that sees nothing
 * yields zeros. Runs on the calling thread; the caller spreads heads and query tiles over its pool. */
struct attend_block {
    const void *data; /* a record; only rows [lo, hi) of a raw one are read; coded ones are read whole */
    int format;       /* enum kv_format */
    size_t base;      /* absolute position of row 0 */
    int lo, hi;       /* 0 <= lo <= hi <= 64 */
};
struct attend_args {
    const float *q; /* [T][ldq], head g at column g*D */
    size_t ldq;
    float *out; /* [T][ldout], head g at column g*D */
    size_t ldout;
    size_t T;    /* 1..64, all inside one page of 64 */
    size_t pos0; /* absolute position of row 0 of q */
    size_t G, D;
    float scale; /* usually 1 / sqrt(D) */
    const struct attend_block *blocks;
    size_t n_blocks;
    int streaming;
    size_t S, R; /* used when streaming */
    float *mass; /* [n_blocks] or NULL: += each block's share of the softmax, summed over rows and heads */
    void *scratch;
    size_t scratch_bytes;
};
/* n_blocks counts only when mass is wanted; give 0 otherwise. */
size_t attend_scratch_bytes(size_t T, size_t G, size_t D, size_t n_blocks_with_mass);

struct kernels {
    const char *name;
    void (*linear)(const struct linear_args *a);
    void (*lora)(const struct lora_args *a);
    void (*rms_norm)(const struct rms_norm_args *a);
    void (*silu_mul)(const struct silu_mul_args *a);
    void (*add)(const struct add_args *a);
    void (*embed)(const struct embed_args *a);
    void (*rope_table)(const struct rope_table_args *a);
    void (*rope_apply)(const struct rope_apply_args *a);
    void (*half_encode)(const struct half_encode_args *a);
    void (*half_decode)(const struct half_decode_args *a);
    void (*kv_page_pack)(const struct kv_page_pack_args *a);
    void (*kv_page_unpack)(const struct kv_page_unpack_args *a);
    void (*attend)(const struct attend_args *a);
};

/* "ref", "avx2", "avx512", "avx512vnni", or NULL for the best that this processor runs. NULL when the name is
 * unknown or the processor lacks the instructions. Static storage. */
const struct kernels *kernels_get(const char *name);

#ifdef __cplusplus
}
#endif
#endif
