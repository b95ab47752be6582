/* SPDX-License-Identifier: Apache-2.0 */
/* prefill_op.h - the steps of attend_prefill around its hot kernel (prefill_core.h), and the buffers of the
 * chunk that they share.
 *
 * Rows of the buffers are counted from `base`, the start of the page of pos0, to Tp, a multiple of 128: rows
 * before pos0 have keys and values out of tail or stream and zero queries, rows from pos0 + T on are zeros.
 * Heads are by slot: the layer's retrieval heads, then its streaming ones; query head g of slot s is s * G +
 * g.
 */
#ifndef LECTERN_KERNELS_CUDA_PREFILL_OP_H
#define LECTERN_KERNELS_CUDA_PREFILL_OP_H

#include <cuda_fp16.h>

#include "kernels/cuda/cuda_device.h"

enum { PREFILL_ROW_PAGE = KV_PAGE_TOKENS };

struct prefill_op {
    /* what the kernels read of the arguments */
    const float *qkv;
    size_t ldqkv;
    size_t pos0, T, base, Tp;
    uint32_t H, HK, D, G, hr;
    struct device_rope rope;
    float q_scale; /* scale * log2(e) */
    __half *out;
    size_t ldout;
    uint32_t *failed;
    /* the layer's part of the caches */
    const uint32_t *heads;  /* [HK] KV head of each slot */
    const uint64_t *blocks; /* addresses */
    size_t record_at;       /* records of the layer begin so many records into a block's */
    size_t scan_offset;     /* bytes of a block before its summaries */
    uint32_t record_bytes, scan_bytes, raw_bytes;
    int format;
    uint32_t S, R, sink_pages, ring_pages;
    const uint8_t *tail, *stream; /* of this layer's heads, as in device_kv */
    uint8_t *tail_next, *stream_next;
    /* scratch */
    __half *q;       /* [H][Tp][D], times q_scale */
    __half *k, *v;   /* [HK][Tp][D] */
    __half *ke, *ve; /* [hr][ld][D]: a piece of expanded records */
    size_t ld;
    float *o, *lse; /* the state between pieces; NULL with one piece */
};

/* Pages of the chunk, and the position after its last row. */
__host__ __device__ inline size_t prefill_first_page(const prefill_op &p)
{
    return p.base / PREFILL_ROW_PAGE;
}

__host__ __device__ inline size_t prefill_last_page(const prefill_op &p)
{
    return (p.pos0 + p.T - 1) / PREFILL_ROW_PAGE;
}

/* q, k and v: RoPE, fp16, and the rows of the first page that came before. */
cudaError_t prefill_rows(const prefill_op &p, cudaStream_t stream);
/* Records and summaries of the pages that the chunk has filled. */
cudaError_t prefill_close(const prefill_op &p, cudaStream_t stream);
/* tail_next and stream_next. */
cudaError_t prefill_keep(const prefill_op &p, cudaStream_t stream);
/* Tokens [first, first + tokens) out of their records into ke and ve, from row 0. */
cudaError_t prefill_expand(const prefill_op &p, size_t first, size_t tokens, cudaStream_t stream);
/* Attention of the layer's streaming heads. */
cudaError_t prefill_stream(const prefill_op &p, cudaStream_t stream);

#endif
