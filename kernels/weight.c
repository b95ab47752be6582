/* SPDX-License-Identifier: Apache-2.0 */
/* weight.c - sizes of raw tensor rows, and raw rows -> panels (layout in weight.h).
 *
 * Reads raw bytes only inside rows * tensor_row_bytes; every size is checked for overflow.
 */
#include "kernels/weight.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/bytes.h"
#include "kernels/half.h"

/* Bytes of a block of 32 raw values, or of one value for float types; 0 when not handled. */
static size_t unit_bytes(enum tensor_type type)
{
    switch (type) {
    case TENSOR_F32:
        return 4;
    case TENSOR_F16:
    case TENSOR_BF16:
        return 2;
    case TENSOR_Q4_0:
        return 18;
    case TENSOR_Q4_1:
        return 20;
    case TENSOR_Q8_0:
        return 34;
    }
    return 0;
}

size_t tensor_row_bytes(enum tensor_type type, size_t cols)
{
    size_t unit = unit_bytes(type), bytes;
    size_t values = type_is_quantised(type) ? QUANT_BLOCK : 1;
    if (!unit || !cols || cols % values || size_mul(cols / values, unit, &bytes))
        return 0;
    return bytes;
}

static int layout(struct weight *w, struct err *e)
{
    size_t line, total;
    w->panels = w->rows / PANEL_ROWS + (w->rows % PANEL_ROWS != 0);
    if (w->cols > SIZE_MAX / 256)
        return err_set(e, ERR_LIMIT, "a weight of %zu columns is too wide", w->cols);
    if (type_is_quantised(w->type)) {
        size_t blocks = w->cols / QUANT_BLOCK;
        w->params_at = blocks * type_block_lines(w->type) * LINE_BYTES;
        line = w->params_at + blocks * type_block_params(w->type) * 2;
    } else {
        line = w->cols * PANEL_ROWS * unit_bytes(w->type);
    }
    w->panel_bytes = (line + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES;
    if (size_mul(w->panels, w->panel_bytes, &total))
        return err_set(e, ERR_LIMIT, "a weight of %zu x %zu does not fit memory", w->rows, w->cols);
    w->data = aligned_alloc(LINE_BYTES, total);
    if (!w->data)
        return err_memory(e, "weights");
    return 0;
}

static void put_half(uint8_t *params, size_t index, const uint8_t *raw)
{
    memcpy(params + 2 * index, raw, 2);
}

static uint32_t word_at(const uint8_t *p)
{
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* One raw block of row r into its block's lines and params; four bytes of a line at a time, in any byte
 * order. */
static void pack_block(enum tensor_type type, const uint8_t *raw, size_t r, uint8_t *lines, uint8_t *params)
{
    const uint32_t low = 0x0f0f0f0fu;
    put_half(params, r, raw);
    const uint8_t *codes = raw + 2;
    if (type == TENSOR_Q8_0) {
        for (size_t i = 0; i < 8; i++) {
            uint32_t word = word_at(codes + 4 * i) ^ 0x80808080u;
            memcpy(lines + i * LINE_BYTES + 4 * r, &word, sizeof word);
        }
        return;
    }
    if (type == TENSOR_Q4_1) {
        put_half(params, PANEL_ROWS + r, raw + 2);
        codes += 2;
    }
    /* raw byte j holds column j below and column j + 16 above */
    for (size_t i = 0; i < 2; i++) {
        uint32_t a = word_at(codes + 8 * i), b = word_at(codes + 8 * i + 4);
        uint32_t first = (a & low) | (b & low) << 4, second = (a >> 4 & low) | (b & ~low);
        memcpy(lines + i * LINE_BYTES + 4 * r, &first, sizeof first);
        memcpy(lines + (i + 2) * LINE_BYTES + 4 * r, &second, sizeof second);
    }
}

static void pack_quantised(struct weight *w, const uint8_t *raw, size_t row_bytes)
{
    size_t blocks = w->cols / QUANT_BLOCK, unit = unit_bytes(w->type);
    size_t line_bytes = type_block_lines(w->type) * LINE_BYTES, params = type_block_params(w->type) * 2;
    for (size_t n = 0; n < w->rows; n++) {
        uint8_t *panel = w->data + n / PANEL_ROWS * w->panel_bytes;
        for (size_t b = 0; b < blocks; b++)
            pack_block(w->type, raw + n * row_bytes + b * unit, n % PANEL_ROWS, panel + b * line_bytes,
                       panel + w->params_at + b * params);
    }
}

static void pack_float(struct weight *w, const uint8_t *raw, size_t row_bytes)
{
    size_t unit = unit_bytes(w->type);
    for (size_t n = 0; n < w->rows; n++) {
        uint8_t *panel = w->data + n / PANEL_ROWS * w->panel_bytes;
        const uint8_t *row = raw + n * row_bytes;
        for (size_t k = 0; k < w->cols; k++)
            memcpy(panel + (k * PANEL_ROWS + n % PANEL_ROWS) * unit, row + k * unit, unit);
    }
}

int weight_pack(const struct kernels *k, enum tensor_type type, size_t rows, size_t cols, const void *raw,
                struct weight **out, struct err *e)
{
    (void)k; /* one packing serves every backend of this processor; a card's will differ */
    *out = NULL;
    size_t row_bytes = tensor_row_bytes(type, cols);
    if (!row_bytes || !rows)
        return err_set(e, ERR_UNSUPPORTED, "weights of type %d and shape %zu x %zu are not handled",
                       (int)type, rows, cols);
    struct weight *w = calloc(1, sizeof *w);
    if (!w)
        return err_memory(e, "a weight");
    *w = (struct weight){.type = type, .rows = rows, .cols = cols};
    int rc = layout(w, e);
    if (rc) {
        free(w);
        return rc;
    }
    /* Rows past the end stay zero: codes 0 with scale 0 contribute nothing. */
    memset(w->data + (w->panels - 1) * w->panel_bytes, 0, w->panel_bytes);
    if (type_is_quantised(type))
        pack_quantised(w, raw, row_bytes);
    else
        pack_float(w, raw, row_bytes);
    *out = w;
    return 0;
}

void weight_free(struct weight *w)
{
    if (!w)
        return;
    free(w->data);
    free(w);
}

size_t weight_rows(const struct weight *w)
{
    return w->rows;
}

size_t weight_cols(const struct weight *w)
{
    return w->cols;
}

enum tensor_type weight_type(const struct weight *w)
{
    return w->type;
}

size_t weight_bytes(const struct weight *w)
{
    return w->panels * w->panel_bytes;
}
