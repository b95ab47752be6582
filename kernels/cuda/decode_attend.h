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
    MERGE_THREADS = 128 /* of the second kernel */
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
    uint8_t heads[HEADS_MAX]; /* KV head of each slot of this layer: no load is waited for */
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
    int stream_cost, own_cost, cross_cost; /* of a unit, and of going on with another slot, in full pages */
    float *partial;                        /* [grid + 2 hr][columns][D] */
    float *partial_ml;                     /* [grid + 2 hr][columns][2]: maximum, sum */
    float *lse;                            /* [hr][lse_pages][columns] or NULL: log2 of each page's sum */
    size_t lse_pages;
    float *head_lse; /* [hr][columns], with lse */
};

/* Where part i of `parts` begins in `pages` pages: equal shares, less for the first `streams` parts, which
 * have a streaming head beside, and the `owns` after them, which have an own page. */
static __host__ __device__ inline int part_begin(const struct args &a, int i, int parts, int pages,
                                                 int streams, int owns)
{
    int units = streams + owns, qs = 0, qo = 0, qn;
    if (units >= parts)
        return pages / parts * i + pages % parts * i / parts;
    qn = (pages + streams * a.stream_cost + owns * a.own_cost + parts - 1) / parts;
    if (qn >= a.stream_cost && qn >= a.own_cost) {
        qs = qn - a.stream_cost;
        qo = qn - a.own_cost;
    } else {
        qn = (pages + owns * a.own_cost + parts - streams - 1) / (parts - streams);
        if (qn >= a.own_cost)
            qo = qn - a.own_cost;
        else
            qn = (pages + parts - units - 1) / (parts - units);
    }
    int at = i <= streams ? i * qs
             : i <= units ? streams * qs + (i - streams) * qo
                          : streams * qs + owns * qo + (i - units) * qn; /* at most pages + all costs */
    return at < pages && i < parts ? at : pages;
}

/* How the line is shared out: blocks [each * h, each * (h + 1)) have slot h and no other, or, each = 0, all
 * blocks share the whole line, and one that comes to the end of a slot goes on with the next. */
static __host__ __device__ inline int blocks_each(const struct args &a, int pages)
{
    if (!a.hr)
        return 0;
    int each = a.grid / a.hr, spare = a.grid - each * a.hr;
    int streams = a.hs > spare ? (a.hs - spare + a.hr - 1) / a.hr : 0; /* of a slot's blocks */
    if (each <= streams + 1 || pages / a.hr / each > pages / a.grid + a.cross_cost)
        return 0;
    return each;
}

/* What block c does: pages [begin, end) of the line, and one unit (streaming slot, or hs + retrieval slot),
 * -1: none; with each = 0 all of unit, unit + grid... */
struct run {
    int begin, end, unit;
};

/* first(h): where slot h begins on the line; first(hr): its length. */
template <class F>
static __host__ __device__ inline struct run run_of(const struct args &a, int c, const F &first)
{
    int pages = a.hr ? first(a.hr) : 0, each = blocks_each(a, pages);
    if (!each) {
        int begin = part_begin(a, c, a.grid, pages, a.hs, a.hr),
            end = part_begin(a, c + 1, a.grid, pages, a.hs, a.hr);
        return {begin, end, c < a.hs + a.hr ? c : -1};
    }
    int spare = a.grid - each * a.hr, h = c / each, i = c % each;
    int apart = a.hs < spare ? a.hs : spare; /* streaming heads with a block of their own */
    if (h >= a.hr)
        return {0, 0, c - each * a.hr < apart ? c - each * a.hr : -1};
    int streams = (a.hs - apart - h + a.hr - 1) / a.hr, begin = first(h), n = first(h + 1) - begin;
    return {begin + part_begin(a, i, each, n, streams, 1), begin + part_begin(a, i + 1, each, n, streams, 1),
            i < streams    ? apart + i * a.hr + h
            : i == streams ? a.hs + h
                           : -1};
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
