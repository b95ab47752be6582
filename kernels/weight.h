/* SPDX-License-Identifier: Apache-2.0 */
/* weight.h - the packing of a weight, known to kernels/ alone.
 *
 * Rows go in panels of 16, so that a vector's lanes are outputs and no sum ever crosses lanes. Rows past the
 * end are zero (their scale too). A panel, for K columns:
 *
 *   quantised   codes   [K/32] blocks of 4 lines (4-bit) or 8 lines (8-bit), a line = 64 bytes = 16 rows x 4
 *                       8-bit line i: byte 4r+c = code of row r, column 4i+c of the block
 *                       4-bit line i: low nibble column 8i+c, high nibble column 8i+4+c
 *               params  [K/32] of scale fp16[16] (then min fp16[16] for Q4_1)
 *   float       [K][16] of F32, F16 or BF16 as stored
 *
 * Codes are unsigned: value = scale * (code - offset) (+ min), offset 8 for Q4_0, 0 for Q4_1, 128 for Q8_0.
 */
#ifndef LECTERN_KERNELS_WEIGHT_H
#define LECTERN_KERNELS_WEIGHT_H

#include "kernels/kernels.h"

enum { PANEL_ROWS = 16, QUANT_BLOCK = 32, LINE_BYTES = 64 };

struct weight {
    enum tensor_type type;
    size_t rows, cols;
    size_t panels;
    size_t panel_bytes; /* a multiple of 64 */
    size_t params_at;   /* offset of params in a panel (quantised) */
    uint8_t *data;      /* [panels][panel_bytes], 64-byte aligned */
};

static inline int type_is_quantised(enum tensor_type t)
{
    return t == TENSOR_Q4_0 || t == TENSOR_Q4_1 || t == TENSOR_Q8_0;
}

static inline int type_code_offset(enum tensor_type t)
{
    return t == TENSOR_Q4_0 ? 8 : t == TENSOR_Q8_0 ? 128 : 0;
}

static inline size_t type_block_lines(enum tensor_type t)
{
    return t == TENSOR_Q8_0 ? 8 : 4;
}

/* fp16 values per block of params. */
static inline size_t type_block_params(enum tensor_type t)
{
    return t == TENSOR_Q4_1 ? 2 * PANEL_ROWS : PANEL_ROWS;
}

static inline const uint8_t *weight_panel(const struct weight *w, size_t panel)
{
    return w->data + panel * w->panel_bytes;
}

static inline const uint16_t *weight_params(const struct weight *w, size_t panel)
{
    return (const uint16_t *)(const void *)(w->data + panel * w->panel_bytes + w->params_at);
}

#endif
