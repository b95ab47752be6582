/* SPDX-License-Identifier: Apache-2.0 */
/* prefill_core.h - the hot kernel of prefill: attention of one layer's retrieval heads over one piece of
 * expanded keys and values. Two kernels serve this contract: WGMMA and TMA on sm_90a (prefill_sm90.cu),
 * mma.sync on sm_80 and later (prefill_sm80.cu).
 *
 * Rows are counted from `base` = pos0 / 64 * 64, so a page is 64 aligned rows; rows before pos0 and from
 * pos0 + T on exist in the buffers (Tp = rows padded to 128) with any finite content, and are not written to
 * out. A query of page p sees the expanded rows (keys, values out of records) of every page < p, and of page
 * p its raw rows up to itself. A call handles expanded tokens [first, first + tokens) that some query sees
 * (tokens is a multiple of 64; all queries see those < base, the rest is masked by page); the last call of a
 * layer also handles the raw rows and writes out.
 *
 * Between the calls of a layer the running state lies in `o` (unnormalised sum / l, i.e. the normalised
 * output so far) and `lse` (log2 of the sum of 2^score; -inf: nothing seen): each call merges its piece into
 * it. A single call needs neither. Pieces come in ascending order; which pieces there are depends on pos0
 * alone.
 */
#ifndef LECTERN_KERNELS_CUDA_PREFILL_CORE_H
#define LECTERN_KERNELS_CUDA_PREFILL_CORE_H

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

struct prefill_core {
    int heads, G, D;     /* retrieval heads of this layer, query heads of each, 64 or 128 */
    const __half *q;     /* [heads * G][Tp][D], rotated and multiplied by scale * log2(e); 128-byte aligned */
    const __half *k, *v; /* [heads][ld_tokens][D] expanded; row 0 = token `first`; 128-byte aligned */
    size_t ld_tokens;    /* rows between heads */
    size_t first, tokens;        /* of this piece; tokens may be 0 when last */
    const __half *k_raw, *v_raw; /* [heads][Tp][D]: rows of this chunk from `base` on (rows of the own page
                                  * that came before pos0 included); 128-byte aligned */
    size_t pos0, T, Tp;
    int begin, last; /* first call of the layer: no state is read; last: raw rows too, and out */
    float *o;        /* [heads * G][Tp][D] or NULL when begin && last */
    float *lse;      /* [heads * G][Tp], likewise */
    __half *out;     /* fp16 [T][ldout]: query head h at column h * D */
    size_t ldout;
    const uint32_t *heads_of; /* device [heads]: KV head of each retrieval head (query head = that * G + g) */
    void *split;        /* scratch to share out the keys of few rows over the card, or NULL: they are not */
    size_t split_bytes; /* of it: PREFILL_SPLIT_BYTES, or less (not used then) */
};

/* Enough for any call: 132 blocks of up to 192 rows of D floats, their lse beside them. */
#define PREFILL_SPLIT_BYTES ((size_t)132 * 192 * (128 + 1) * 4)

cudaError_t prefill_core_sm90(const struct prefill_core *a, cudaStream_t stream);
cudaError_t prefill_core_sm80(const struct prefill_core *a, cudaStream_t stream);

#endif
