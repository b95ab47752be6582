/* SPDX-License-Identifier: Apache-2.0 */
/* weight_layout.h - how a weight lies in a card's memory; known to the weight and linear files alone.
 *
 * A tile is 16 rows; a unit is 128 columns of a tile: its codes, then its scales. Units of a tile follow one
 * another, tiles too, so any run of units is one bulk copy. Columns are padded to 128 and rows to 16 with
 * codes that stand for anything finite.
 *
 * Codes lie as the lanes of a warp hold the A operand of mma.m16n8k16: for each 32 columns, lane 4 r + j owns
 * columns 8 j .. 8 j + 7 of rows r and r + 8, and reads 16 bytes at (chunk * 32 + lane) * 16:
 *   16 bits: chunk = half a group: words (row r: c0 c1)(row r + 8: c0 c1)(r: c2 c3)(r + 8: c2 c3), then
 * c4..c7 8 bits: chunk = a group of 32: words (r: c0..c3)(r + 8: c0..c3)(r: c4..c7)(r + 8: c4..c7) 4 bits:
 * chunk = two groups: words (r: c0..c7)(r + 8: c0..c7) of the first, the same of the second; nibbles of a
 * word from the lowest: c0 c2 c4 c6 c1 c3 c5 c7 Scales: W4, W4G32: for each group and r: (scale, min) of row
 * r, (scale, min) of row r + 8, fp16; W8G32: (scale of r, scale of r + 8). W8, FP8: row_scale, an array of
 * its own.
 */
#ifndef LECTERN_KERNELS_CUDA_WEIGHT_LAYOUT_H
#define LECTERN_KERNELS_CUDA_WEIGHT_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"

enum { TILE_ROWS = 16, UNIT_COLS = 128 };

struct device_weight {
    enum device_weight_format format; /* never AUTO */
    size_t N, K;
    size_t units, tiles; /* units of a tile */
    size_t unit_bytes;
    uint8_t *data;    /* [tiles][units][unit_bytes] */
    float *row_scale; /* [tiles * 16] or NULL */
};

#ifdef __CUDACC__
#define LAYOUT_FN static __host__ __device__ constexpr
#else
#define LAYOUT_FN static inline
#endif

LAYOUT_FN int layout_bits(int format)
{
    return format == DEVICE_W_F16 || format == DEVICE_W_BF16                             ? 16
           : format == DEVICE_W_FP8 || format == DEVICE_W_W8 || format == DEVICE_W_W8G32 ? 8
                                                                                         : 4;
}

LAYOUT_FN int layout_code_bytes(int format)
{
    return TILE_ROWS * UNIT_COLS / 8 * layout_bits(format);
}

LAYOUT_FN int layout_unit_bytes(int format)
{
    return layout_code_bytes(format) + (format == DEVICE_W_W4      ? 64
                                        : format == DEVICE_W_W4G32 ? 256
                                        : format == DEVICE_W_W8G32 ? 128
                                                                   : 0);
}

LAYOUT_FN int layout_has_row_scale(int format)
{
    return format == DEVICE_W_FP8 || format == DEVICE_W_W8;
}

/* Packs tiles [tile0, tile1) of the weight into `to` (their bytes) and row_scale (their 16-row runs, may be
 * NULL), with several threads. */
int weight_pack_tiles(const struct device_weight *w, const struct device_weight_part *parts,
                      enum device_weight_order order, size_t tile0, size_t tile1, uint8_t *to,
                      float *row_scale, struct err *e);

#endif
