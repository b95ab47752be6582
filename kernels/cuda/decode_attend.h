/* SPDX-License-Identifier: Apache-2.0 */
/* decode_attend.h - what the kernels of one decode step's attention share: their arguments, how the pages are
 * shared out, and where partial sums lie.
 *
 * Two kernels a layer. The first is one persistent grid: its blocks take equal runs of the line (retrieval
 * slot, full page), and beside it one unit a KV head: a streaming head as a whole, or the own page of a
 * retrieval head. Each run of one slot gives one partial sum. The second kernel merges a head's partials in
 * the order of the line and closes pages that are full. What a block does depends on the position's page, the
 * layer and the card, never on the number of rows.
 */
#ifndef LECTERN_KERNELS_CUDA_DECODE_ATTEND_H
#define LECTERN_KERNELS_CUDA_DECODE_ATTEND_H

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"

namespace decode
{

enum {
    COLUMNS_MAX = 16,   /* query rows of one pass */
    HEADS_MAX = 256,    /* KV heads of a layer */
    GRID_MAX = 1024,    /* blocks */
    MERGE_THREADS = 256 /* of the second kernel */
};

struct args {
    const float *qkv;
    size_t ldqkv;
    const struct device_step *step;
    const uint64_t *rope_steps;
    int rope_half, rope_pairs;
    float rope_factor, q_scale;       /* of scores, times log2(e) */
    int T, G, H, HK, hr, hs, columns; /* columns = T * G */
    uint16_t *out;
    size_t ldout;
    const uint32_t *heads; /* of this layer */
    const uint64_t *blocks;
    size_t cap_blocks;
    size_t record_bytes, raw_bytes;
    size_t first_record, first_summary, scan_bytes; /* of this layer in a block: an index, a byte offset */
    int format;
    uint8_t *tail, *stream; /* of this layer */
    int sink_pages, ring_pages;
    int64_t S, R;
    const uint32_t *list, *list_counts; /* NULL: all pages */
    size_t list_stride;
    uint32_t *failed;
    int grid, stages;
    int stream_cost, own_cost; /* of a unit, in full pages */
    float *partial;            /* [grid + 2 hr][columns][D] */
    float *partial_ml;         /* [grid + 2 hr][columns][2]: maximum, sum */
    float *lse;                /* [hr][lse_pages][columns] or NULL: log2 of each page's sum */
    size_t lse_pages;
    float *head_lse; /* [hr][columns], with lse */
};

/* Where block c's run begins, of `pages` in all. */
static __host__ __device__ inline int run_begin(const struct args &a, int c, int pages)
{
    int units = a.hs + a.hr, grid = a.grid, qs = 0, qo = 0, qn;
    if (units >= grid) /* a small card: no head for heads of its own */
        return (int)((int64_t)pages * c / grid);
    qn = (pages + a.hs * a.stream_cost + a.hr * a.own_cost + grid - 1) / grid;
    if (qn >= a.stream_cost && qn >= a.own_cost) {
        qs = qn - a.stream_cost;
        qo = qn - a.own_cost;
    } else {
        qn = (pages + a.hr * a.own_cost + grid - a.hs - 1) / (grid - a.hs);
        if (qn >= a.own_cost)
            qo = qn - a.own_cost;
        else
            qn = (pages + grid - units - 1) / (grid - units);
    }
    int64_t at = c <= a.hs    ? (int64_t)c * qs
                 : c <= units ? (int64_t)a.hs * qs + (int64_t)(c - a.hs) * qo
                              : (int64_t)a.hs * qs + (int64_t)a.hr * qo + (int64_t)(c - units) * qn;
    return at < pages && c < grid ? (int)at : pages;
}

/* Slots of partials: of block c's run of head h (unique, ascending along the line), and of an own page. */
static __host__ __device__ inline int run_slot(int c, int h)
{
    return c + h;
}
static __host__ __device__ inline int own_slot(const struct args &a, int h)
{
    return a.grid + a.hr + h;
}

/* One file a format. D is 64 or 128. smem_block: what a block may have. They choose stages and the number of
 * threads, and launch on the stream; a->grid and the rest are set. */
cudaError_t attend_kv4(struct args *a, int D, size_t smem_block, int hopper, cudaStream_t stream);
cudaError_t attend_kv8(struct args *a, int D, size_t smem_block, int hopper, cudaStream_t stream);
cudaError_t attend_k8v4(struct args *a, int D, size_t smem_block, int hopper, cudaStream_t stream);
cudaError_t attend_raw(struct args *a, int D, size_t smem_block, int hopper, cudaStream_t stream);

/* Merges, writes retrieval heads' rows, closes pages. */
cudaError_t finish(const struct args &a, int D, int hopper, cudaStream_t stream);
/* Shares, after finish, of what a.lse holds; either may be NULL. */
cudaError_t shares(const struct args &a, float *mass, size_t mass_stride,
                   const struct device_page_list *audit, float *visited, cudaStream_t stream);

} // namespace decode

#endif
