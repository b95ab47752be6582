/* SPDX-License-Identifier: Apache-2.0 */
/* host_kv.h - where a page lies in the caches of a timeline (device.h draws them), and RoPE of a call's rows:
 * what the ops of attention and selection share. */
#ifndef LECTERN_KERNELS_DEVICE_HOST_HOST_KV_H
#define LECTERN_KERNELS_DEVICE_HOST_HOST_KV_H

#include <string.h>

#include "kernels/device.h"

/* Number of a record in its block. */
static inline size_t host_kv_index(const struct device_kv *kv, size_t layer, size_t page, size_t slot)
{
    return kv->hr_before[layer] * DEVICE_BLOCK_PAGES + page % DEVICE_BLOCK_PAGES * kv->hr[layer] + slot;
}

static inline uint8_t *host_kv_block(const struct device_kv *kv, size_t page)
{
    return (uint8_t *)(uintptr_t)kv->blocks[page / DEVICE_BLOCK_PAGES];
}

static inline uint8_t *host_kv_record(const struct device_kv *kv, size_t layer, size_t page, size_t slot)
{
    return host_kv_block(kv, page) + host_kv_index(kv, layer, page, slot) * kv->record_bytes;
}

static inline uint8_t *host_kv_summary(const struct device_kv *kv, size_t layer, size_t page, size_t slot)
{
    return host_kv_block(kv, page) + DEVICE_BLOCK_PAGES * kv->HR * kv->record_bytes +
           host_kv_index(kv, layer, page, slot) * kv->scan_bytes;
}

/* Offset of a page of a retrieval slot in a tail. */
static inline size_t host_kv_tail_at(const struct device_kv *kv, size_t layer, size_t page, size_t slot)
{
    return ((kv->hr_before[layer] + slot) * 2 + (page & 1)) * kv->raw_bytes;
}

/* Offset of a page of a streaming slot in a stream. */
static inline size_t host_kv_stream_at(const struct device_kv *kv, size_t layer, size_t page, size_t slot)
{
    size_t at = page < kv->sink_pages ? page : kv->sink_pages + page % kv->ring_pages;
    return ((kv->hs_before[layer] + slot) * (kv->sink_pages + kv->ring_pages) + at) * kv->raw_bytes;
}

/* qk [T][(H + HK) * D] = the query and key columns of qkv, rotated for positions from pos0 on. cos and sin
 * have room for [T][rope->half]. */
static inline void host_rotate(const struct kernels *k, const struct device_kv *kv, const float *qkv,
                               size_t ldqkv, size_t pos0, size_t T, const struct device_rope *rope,
                               float *cos, float *sin, float *qk)
{
    size_t heads = kv->H + kv->HK, columns = heads * kv->D;
    for (size_t t = 0; t < T; t++)
        memcpy(qk + t * columns, qkv + t * ldqkv, columns * sizeof(float));
    k->rope_table(&(struct rope_table_args){.pos0 = pos0,
                                            .T = T,
                                            .steps = rope->steps,
                                            .half = rope->half,
                                            .attn_factor = rope->attn_factor,
                                            .cos = cos,
                                            .sin = sin});
    k->rope_apply(&(struct rope_apply_args){.kind = rope->kind,
                                            .x = qk,
                                            .ldx = columns,
                                            .T = T,
                                            .heads = heads,
                                            .D = kv->D,
                                            .half = rope->half,
                                            .cos = cos,
                                            .sin = sin});
}

#endif
