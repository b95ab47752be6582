/* SPDX-License-Identifier: Apache-2.0 */
/* device.h - the ops of a forward pass that runs in a card's memory, behind one table.
 *
 * Two devices: "cuda" (liblectern_cuda.so, loaded at run time) and "host", the same ops in plain C over
 * ordinary memory: the specification, and what runs the device engine in tests where there is no card.
 *
 * Letters as in kernels.h: T tokens of this call, K columns and N rows of a weight, L layers, H query heads,
 * HK KV heads, G = H / HK, D head width, C hidden width, F ffn width, V vocabulary.
 *
 * Invariants:
 *  - every pointer in an op's arguments is device memory unless its comment says "host"; argument structs
 *    are host memory and are read before the call returns;
 *  - ops are queued in order on DEVICE_COMPUTE and return at once; nothing waits but what says so. A failure
 *    is kept by the device and comes back from the next device call that returns an int (the first wins);
 *  - nothing is allocated by an op: scratch is the caller's, 256-byte aligned, of ..._scratch_bytes;
 *  - a row's result is a function of that row alone, never of T, as long as T stays on one side of
 *    DEVICE_DECODE_T; across it rounding differs within the op's tolerance. Two runs give the same bits;
 *  - one thread at a time uses a device.
 * Activations between ops: the residual is f32, everything that feeds a matrix product is fp16 (more than
 * bf16 keeps of 4-bit weights' products; values are clamped to +-65504).
 */
#ifndef LECTERN_KERNELS_DEVICE_H
#define LECTERN_KERNELS_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    DEVICE_DECODE_T = 4,    /* up to so many tokens an op takes the decode path */
    DEVICE_CHUNK_T = 8192,  /* no op takes more */
    DEVICE_BLOCK_PAGES = 16 /* pages of a block of retrieval KV, as in files */
};

struct device;
struct device_event;
struct device_graph;

enum device_queue { DEVICE_COMPUTE, DEVICE_COPY_IN, DEVICE_COPY_OUT };

struct device_info {
    char name[128];       /* "NVIDIA H100 80GB HBM3", or "host" */
    int major, minor;     /* compute capability; 0, 0 for the host */
    int processors;       /* SMs */
    uint64_t memory;      /* bytes in all */
    uint64_t memory_free; /* at the time of the question */
    int driver, runtime;  /* CUDA versions, 13000 = 13.0 */
    int hopper;           /* the sm_90a kernels are in use */
};

/* ---- weights ---------------------------------------------------------------------------------------- */

/* How a matrix lies in device memory. AUTO keeps what the file says: Q4_0, Q4_1 -> W4G32, Q8_0 -> W8G32,
 * F32 and F16 -> F16, BF16 -> BF16. */
enum device_weight_format {
    DEVICE_W_AUTO,
    DEVICE_W_F16,
    DEVICE_W_BF16,
    DEVICE_W_FP8,   /* E4M3, one f32 scale a row */
    DEVICE_W_W8,    /* 8 bits, one fp16-representable scale a row, symmetric */
    DEVICE_W_W8G32, /* 8 bits, a scale for each 32 columns: Q8_0 exactly */
    DEVICE_W_W4,    /* 4 bits, scale and min for each 128 columns */
    DEVICE_W_W4G32, /* 4 bits, scale and min for each 32 columns: Q4_0 and Q4_1 exactly */
};

struct device_weight; /* [N][K], immutable */

/* Rows of one or more matrices of equal K that become one weight: q, k, v one after the other. */
struct device_weight_part {
    enum tensor_type type;
    size_t rows;
    const void *raw; /* host; rows * tensor_row_bytes(type, K), any alignment */
};

enum device_weight_order {
    DEVICE_ROWS_APPENDED,
    DEVICE_ROWS_INTERLEAVED /* exactly two parts of equal rows: rows 2i and 2i+1 of the weight are row i of
                             * each (gate and up, for the SiLU epilogue) */
};

/* ---- linear ----------------------------------------------------------------------------------------- */

enum device_epilogue {
    DEVICE_STORE_F32, /* y f32 [T][ldy] = acc (+ bias) */
    DEVICE_ADD_F32,   /* y f32 [T][ldy] += acc (+ bias) */
    DEVICE_STORE_F16, /* y fp16 [T][ldy] = acc (+ bias) */
    DEVICE_SILU_MUL   /* interleaved weight of 2F rows: y fp16 [T][ldy], F columns = silu(gate) * up */
};

/* y = epilogue(x' . W^T + bias), accumulated in f32. x' is the fp16 input, or RMSNorm of an f32 input rounded
 * to fp16 (norm_w set): x' = x * norm_w / sqrt(mean(x^2) + eps). For T > DEVICE_DECODE_T x' is rounded further
 * with FP8 weights, to E4M3 with one scale a row, and with BF16 weights, to bf16. ldx and ldy in elements. */
struct device_linear_args {
    const struct device_weight *w;
    const void *x; /* fp16 [T][ldx]; f32 [T][ldx] when norm_w is set */
    size_t ldx;
    size_t T;
    const float *norm_w; /* [K] or NULL */
    float eps;
    const float *bias; /* [N] or NULL */
    enum device_epilogue epilogue;
    void *y;
    size_t ldy;
    void *scratch;
    size_t scratch_bytes;
};

/* ---- small ops -------------------------------------------------------------------------------------- */

/* What a step needs from the host; 64 bytes in device memory, written by an upload at the head of a step. */
struct device_step {
    uint64_t position; /* of row 0 */
    uint64_t reserved;
    uint32_t ids[DEVICE_DECODE_T];
    uint32_t pad[8];
};

/* y f32 [T][ldy] = rows ids[t] of a raw table [V][C] in its file's type. Ids are < V. */
struct device_embed_args {
    enum tensor_type type;
    const void *raw; /* V rows of tensor_row_bytes(type, C) */
    size_t V, C;
    const uint32_t *ids; /* [T] */
    size_t T;
    float *y;
    size_t ldy;
};

/* best[t] = index of the largest of row t, the lower one among equals; NaN counts as -infinity. */
struct device_argmax_args {
    const float *x; /* [T][ldx] */
    size_t ldx, T, N;
    uint32_t *best; /* [T] */
};

/* ---- attention -------------------------------------------------------------------------------------- */

/* RoPE in 64-bit fixed point: phase = position * steps[i] mod 2^64 (kernels.h). */
struct device_rope {
    const uint64_t *steps; /* [half] */
    size_t half;
    enum rope_kind kind;
    float attn_factor;
};

/* The caches of one timeline. Layer l has hr[l] retrieval heads (slots 0..hr-1) and HK - hr[l] streaming
 * ones (slots from 0 again). Record and summary of retrieval slot s of layer l in page p:
 *   block = blocks[p / 16]; i = hr_before[l] * 16 + (p % 16) * hr[l] + s
 *   record = block + i * record_bytes; summary = block + 16 * HR * record_bytes + i * scan_bytes
 * so a block is the bytes of a stored block. Addresses in `blocks` are device memory or host memory that the
 * device can read (alloc_host). Raw records (K [64][D] then V [64][D], fp16): */
struct device_kv {
    size_t L, H, HK, D, S, R, HR, HS;
    int format; /* enum kv_format of records */
    size_t record_bytes, scan_bytes, raw_bytes, block_bytes;
    size_t sink_pages;                          /* ceil(S / 64) */
    size_t ring_pages;                          /* >= R / 64 + 3 */
    const uint32_t *hr, *hr_before, *hs_before; /* host [L] */
    const uint32_t *heads_host;                 /* host [L][HK]: KV head of each slot, retrieval first */
    const uint32_t *heads;                      /* the same in device memory */
    const uint64_t *blocks;                     /* [cap_blocks] addresses, in device memory */
    size_t cap_blocks;
    uint8_t *tail;   /* [HR][2] raw records: page p of head hr_before[l] + slot at [p & 1] */
    uint8_t *stream; /* [HS][sink_pages + ring_pages] raw records of head hs_before[l] + slot: page p at p
                      * when p < sink_pages, else at sink_pages + p % ring_pages */
};

/* Which pages retrieval heads visit in a decode step instead of all: made by `select`, ascending, shared by
 * the G query heads of a KV head and by the T rows. */
struct device_page_list {
    const uint32_t *pages;  /* [HK][stride]: by slot of this layer */
    const uint32_t *counts; /* [HK] */
    size_t stride;
};

/* T <= DEVICE_DECODE_T tokens that lie in one page of 64, at step->position. In this order: RoPE of q and k;
 * k and v as fp16 into tail and stream; attention (visibility and own-page rule of kernels.h: full earlier
 * pages as records, the own page raw); when the own page is full, its record and summary are written. */
struct device_attend_decode_args {
    const struct device_kv *kv;
    size_t layer;
    const float *qkv; /* [T][ldqkv]: H*D query, HK*D key, HK*D value columns, before RoPE */
    size_t ldqkv;
    const struct device_step *step;
    size_t T;
    struct device_rope rope;
    float scale;   /* of scores, usually 1 / sqrt(D) */
    uint16_t *out; /* fp16 [T][ldout], H*D columns */
    size_t ldout;
    float *mass; /* [16 * cap_blocks] or NULL: += each page's share of the softmax, summed over this layer's
                  * retrieval heads, their G query heads and the T rows */
    size_t mass_stride; /* 0, or >= 16 * cap_blocks: row t adds to mass + t * mass_stride instead */
    const struct device_page_list *list; /* host struct or NULL: all pages */
    /* Both or neither, without `list`: a dense step that also tells what a list would have seen. visited[0]
     * += the share of the softmax on its pages and the own page, visited[1] += on all; summed as mass is. */
    const struct device_page_list *audit; /* host struct */
    float *visited;
    uint32_t *failed; /* set to 1 when a key or value is not finite in fp16 */
    void *scratch;
    size_t scratch_bytes;
};

/* 1 <= T <= DEVICE_CHUNK_T tokens at pos0. Same meaning; but kv->tail and kv->stream are only read, and their
 * new content (whole: what stays is copied) goes to tail_next and stream_next, so that a chunk can be given
 * up. Tail pages: those of the last two pages of the chunk's end. Closed pages go to their records at once.
 */
struct device_attend_prefill_args {
    const struct device_kv *kv;
    size_t layer;
    const float *qkv;
    size_t ldqkv;
    size_t pos0, T;
    struct device_rope rope;
    float scale;
    uint16_t *out;
    size_t ldout;
    uint8_t *tail_next, *stream_next; /* as kv->tail and kv->stream */
    uint32_t *failed;
    void *scratch;
    size_t scratch_bytes;
};

/* Page selection for one layer of a decode step, before attend_decode appends: scores full pages < position /
 * 64 by their summaries, max over the G query heads and T rows of (q . mean), q rotated (host_select.c has
 * the arithmetic); keeps the sink pages (page 0 at least), the `recent` last full pages and the best others
 * up to `budget` pages in all (ties: the lower page), ascending. A budget of at least the full pages keeps
 * all. */
struct device_select_args {
    const struct device_kv *kv;
    size_t layer;
    const float *qkv;
    size_t ldqkv;
    const struct device_step *step;
    size_t T;
    struct device_rope rope;
    size_t budget, recent;
    uint32_t *pages;  /* [HK][stride], stride >= budget */
    uint32_t *counts; /* [HK] */
    size_t stride;
    void *scratch;
    size_t scratch_bytes;
};

/* ---- what a card can do, measured -------------------------------------------------------------------- */

enum device_limit {
    DEVICE_LIMIT_COPY,    /* device to device, bytes read and written a second */
    DEVICE_LIMIT_READ,    /* bytes read a second */
    DEVICE_LIMIT_TO_CARD, /* pinned host memory to device */
    DEVICE_LIMIT_FROM_CARD,
    DEVICE_LIMIT_F16, /* FLOP/s of an 8192^3 product */
    DEVICE_LIMIT_BF16,
    DEVICE_LIMIT_FP8,
};

struct device_ops {
    const char *name; /* "cuda" or "host" */

    void (*close)(struct device *d);
    void (*info)(struct device *d, struct device_info *out);
    int (*measure)(struct device *d, enum device_limit what, double *per_second, struct err *e);

    /* Memory, 256-byte aligned, contents undefined. ERR_MEMORY names what was asked and what is free. */
    int (*alloc)(struct device *d, size_t bytes, void **out, struct err *e);
    void (*release)(struct device *d, void *p); /* NULL is legal; waits for queued work */
    /* Host memory that the device reads and writes, and that copies run at full speed from; *device_view is
     * its address in device code. */
    int (*alloc_host)(struct device *d, size_t bytes, void **host, void **device_view, struct err *e);
    void (*release_host)(struct device *d, void *host);

    /* Copies are queued. Host memory must stay until they are done; only alloc_host's overlaps. */
    void (*upload)(struct device *d, enum device_queue q, void *to, const void *from_host, size_t bytes);
    void (*download)(struct device *d, enum device_queue q, void *to_host, const void *from, size_t bytes);
    void (*copy)(struct device *d, enum device_queue q, void *to, const void *from, size_t bytes);
    void (*fill)(struct device *d, enum device_queue q, void *to, int byte, size_t bytes);

    int (*event_create)(struct device *d, struct device_event **out, struct err *e);
    void (*event_free)(struct device *d, struct device_event *v);
    void (*event_record)(struct device *d, enum device_queue q, struct device_event *v);
    void (*event_wait)(struct device *d, enum device_queue q,
                       struct device_event *v);                                 /* q waits, not the host */
    int (*event_done)(struct device *d, struct device_event *v);                /* 1 or 0 */
    int (*event_sync)(struct device *d, struct device_event *v, struct err *e); /* the host waits */
    double (*event_ms)(struct device *d, struct device_event *from, struct device_event *to); /* both done */

    /* Waits for a queue; returns the kept failure, if any, and forgets it. */
    int (*sync)(struct device *d, enum device_queue q, struct err *e);

    /* Between begin and end, ops on DEVICE_COMPUTE (and uploads from and downloads to alloc_host memory
     * there) are recorded instead of run. */
    int (*capture_begin)(struct device *d, struct err *e);
    int (*capture_end)(struct device *d, struct device_graph **out, struct err *e);
    void (*graph_launch)(struct device *d, struct device_graph *g);
    void (*graph_free)(struct device *d, struct device_graph *g); /* NULL is legal */

    /* Packs and uploads; the call waits. ERR_UNSUPPORTED, ERR_LIMIT, ERR_MEMORY. */
    int (*weight_create)(struct device *d, enum device_weight_format format, size_t K,
                         const struct device_weight_part *parts, size_t n_parts,
                         enum device_weight_order order, struct device_weight **out, struct err *e);
    /* A weight of pseudo-random values of about N(0, 1/K), for benches of a shape. `interleaved` marks it for
     * DEVICE_SILU_MUL. */
    int (*weight_random)(struct device *d, enum device_weight_format format, size_t N, size_t K,
                         uint64_t seed, struct device_weight **out, struct err *e);
    void (*weight_free)(struct device *d, struct device_weight *w); /* NULL is legal */
    size_t (*weight_bytes)(const struct device_weight *w);
    size_t (*linear_scratch_bytes)(struct device *d, size_t T, size_t K_max, size_t N_max);
    void (*linear)(struct device *d, const struct device_linear_args *a);

    void (*embed)(struct device *d, const struct device_embed_args *a);
    void (*argmax)(struct device *d, const struct device_argmax_args *a);

    /* For any position below `tokens`. */
    size_t (*attend_decode_scratch_bytes)(struct device *d, const struct device_kv *kv, size_t tokens,
                                          int mass);
    void (*attend_decode)(struct device *d, const struct device_attend_decode_args *a);
    size_t (*attend_prefill_scratch_bytes)(struct device *d, const struct device_kv *kv, size_t T);
    void (*attend_prefill)(struct device *d, const struct device_attend_prefill_args *a);
    size_t (*select_scratch_bytes)(struct device *d, const struct device_kv *kv, size_t tokens);
    void (*select)(struct device *d, const struct device_select_args *a);
};

/* Every device begins with its table. */
struct device {
    const struct device_ops *ops;
};

/* Follows the structs above: a program refuses a library that was built from another device.h. */
#define DEVICE_ABI                                                                                           \
    ((uint64_t)sizeof(struct device_ops) << 48 ^ (uint64_t)sizeof(struct device_kv) << 40 ^                  \
     (uint64_t)sizeof(struct device_linear_args) << 32 ^                                                     \
     (uint64_t)sizeof(struct device_attend_decode_args) << 24 ^                                              \
     (uint64_t)sizeof(struct device_attend_prefill_args) << 16 ^                                             \
     (uint64_t)sizeof(struct device_select_args) << 8 ^ (uint64_t)sizeof(struct device_info))

/* "cuda": loads liblectern_cuda.so from beside the program, ../lib, or the path in `library` (NULL: search),
 * and opens card number `index`. ERR_UNSUPPORTED says in one line why there is none: not built, no driver, no
 * card, too old. "host": never fails but for memory. */
int device_open(struct device **out, const char *name, const char *library, int index, struct err *e);
void device_close(struct device *d); /* NULL is legal */

#ifdef __cplusplus
}
#endif
#endif
