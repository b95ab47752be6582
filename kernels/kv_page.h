/* SPDX-License-Identifier: Apache-2.0 */
/* kv_page.h - the formats of a KV page: 64 tokens of one (layer, kv head) as one record, the same bytes in
 * memory, in files and on a card. README.md draws the layouts.
 *
 * A coded record is K codes, V codes, K params (scale fp16[D], min fp16[D]), V params (scale fp16[64],
 * min fp16[64]); value = min + scale * code. Keys are coded per channel over the page, values per token.
 * Invariants: every backend packs the very same bytes, and reads the very same values.
 */
#ifndef LECTERN_KERNELS_KV_PAGE_H
#define LECTERN_KERNELS_KV_PAGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { KV_PAGE_TOKENS = 64 };

/* These numbers are kept in files: never renumber them. */
enum kv_format {
    KV_RAW = 16,  /* K then V, fp16 [64][D] each */
    KV_8 = 8,     /* 8-bit keys and values */
    KV_4 = 4,     /* 4-bit keys and values */
    KV_K8V4 = 84, /* 8-bit keys, 4-bit values */
    KV_K4V2 = 42, /* 4-bit keys, 2-bit values; experimental */
    KV_3 = 3,     /* 3-bit keys and values: a plane of 2 bits, then one of 1 bit; experimental */
};

/* Bytes of one record, a multiple of 64; 0 when the pair is not handled. `format` may be any number that a
 * file contained. D is at most 256 and a multiple of 16 (raw: of 8). */
size_t kv_page_bytes(int format, size_t D);

/* "raw", "kv8", "kv4", "k8v4", "k4v2", "kv3"; NULL for an unknown number. */
const char *kv_format_name(int format);

/* The number of a name, or of "16", "8", "4", "3"; 0 when unknown. */
int kv_format_parse(const char *name);

/* All formats, raw first, then the larger before the smaller. Static storage. */
const int *kv_formats(size_t *n);

/* Scan summary of one page: int8 mean[D], fp16 scale, fp16 radius, 12 zero bytes. scale * mean[c] is about
 * the mean of channel c over the 64 raw keys; no key is further from that point than radius (infinity when
 * fp16 cannot hold it). */
size_t kv_scan_bytes(size_t D);

/* One record out of 64 rows of fp16 keys and values. Non-finite inputs are the caller's to refuse. */
struct kv_page_pack_args {
    const uint16_t *k; /* [64][ldk] fp16 */
    size_t ldk;
    const uint16_t *v; /* [64][ldv] fp16 */
    size_t ldv;
    size_t D;
    int format;
    void *record; /* kv_page_bytes(format, D), 64-byte aligned; every byte is written */
    void *scan;   /* kv_scan_bytes(D), 2-byte aligned, or NULL */
};
/* min + scale * code, one fma each, exactly what attend sees. */
struct kv_page_unpack_args {
    const void *record;
    int format;
    size_t D;
    float *k; /* [64][D] */
    float *v; /* [64][D] */
};

#ifdef __cplusplus
}
#endif
#endif
