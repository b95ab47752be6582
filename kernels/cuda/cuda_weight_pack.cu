/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_weight_pack.cu - raw rows -> tiles of weight_layout.h, on the host, by up to 16 threads. */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernels/cuda/weight_layout.h"
#include "kernels/weight_code.h"

static const size_t THREADS_MAX = 16;

struct pack_job {
    const struct device_weight *w;
    const struct device_weight_part *parts;
    enum device_weight_order order;
    size_t tile0, tile1; /* of this thread */
    uint8_t *to;         /* tile0's bytes */
    float *row_scale;
    int rc;
    struct err err;
};

static int row_init(struct weight_row *row, size_t K, struct err *e)
{
    size_t padded = K + UNIT_COLS, groups = padded / 32;
    *row = weight_row{};
    row->codes = (uint16_t *)calloc(padded, sizeof *row->codes);
    row->scale = (uint16_t *)calloc(groups, sizeof *row->scale);
    row->min = (uint16_t *)calloc(groups, sizeof *row->min);
    row->values = (float *)calloc(K, sizeof *row->values);
    return row->codes && row->scale && row->min && row->values ? 0 : err_memory(e, "a weight's row");
}

static void row_fini(struct weight_row *row)
{
    free(row->codes);
    free(row->scale);
    free(row->min);
    free(row->values);
}

static void put_u16(uint8_t *to, uint16_t v)
{
    memcpy(to, &v, 2);
}

/* Eight codes of one lane's columns (row r, or r + 8 when `upper`) of group g of a unit. */
static void put_codes(int bits, uint8_t *unit, size_t g, size_t lane, size_t upper, const uint16_t *c)
{
    if (bits == 16) {
        for (size_t i = 0; i < 8; i++)
            put_u16(unit + ((2 * g + i / 4) * 32 + lane) * 16 + (i % 4 / 2 * 2 + upper) * 4 + i % 2 * 2,
                    c[i]);
    } else if (bits == 8) {
        for (size_t i = 0; i < 8; i++)
            unit[(g * 32 + lane) * 16 + (i / 4 * 2 + upper) * 4 + i % 4] = (uint8_t)c[i];
    } else {
        uint32_t word = 0;
        for (size_t i = 0; i < 8; i++)
            word |= (uint32_t)c[i] << (4 * (i % 2 * 4 + i / 2));
        memcpy(unit + (g / 2 * 32 + lane) * 16 + (g % 2 * 2 + upper) * 4, &word, 4);
    }
}

static void put_row(const struct device_weight *w, uint8_t *tile, size_t row, const struct weight_row *from)
{
    int format = w->format, bits = layout_bits(format);
    size_t r = row % 8, upper = row / 8;
    for (size_t u = 0; u < w->units; u++) {
        uint8_t *unit = tile + u * w->unit_bytes, *params = unit + layout_code_bytes(format);
        for (size_t g = 0; g < UNIT_COLS / 32; g++)
            for (size_t j = 0; j < 4; j++)
                put_codes(bits, unit, g, 4 * r + j, upper, from->codes + u * UNIT_COLS + g * 32 + j * 8);
        size_t groups = format == DEVICE_W_W4                                  ? 1
                        : format == DEVICE_W_W4G32 || format == DEVICE_W_W8G32 ? 4
                                                                               : 0;
        for (size_t g = 0; g < groups; g++) {
            if (format == DEVICE_W_W8G32) {
                put_u16(params + g * 32 + r * 4 + upper * 2, from->scale[u * groups + g]);
            } else {
                put_u16(params + g * 64 + r * 8 + upper * 4, from->scale[u * groups + g]);
                put_u16(params + g * 64 + r * 8 + upper * 4 + 2, from->min[u * groups + g]);
            }
        }
    }
}

static void *pack_thread(void *arg)
{
    struct pack_job *j = (struct pack_job *)arg;
    const struct device_weight *w = j->w;
    struct weight_row row;
    j->rc = row_init(&row, w->K, &j->err);
    for (size_t n = j->tile0 * TILE_ROWS; !j->rc && n < j->tile1 * TILE_ROWS && n < w->N; n++) {
        size_t at = n - j->tile0 * TILE_ROWS;
        enum tensor_type type;
        const uint8_t *raw = weight_parts_row(j->parts, j->order, w->K, n, &type);
        j->rc = weight_code_row(w->format, type, raw, w->K, &row, &j->err);
        if (j->rc)
            break;
        put_row(w, j->to + at / TILE_ROWS * w->units * w->unit_bytes, at % TILE_ROWS, &row);
        if (j->row_scale)
            j->row_scale[at] = row.row_scale;
    }
    row_fini(&row);
    return NULL;
}

int weight_pack_tiles(const struct device_weight *w, const struct device_weight_part *parts,
                      enum device_weight_order order, size_t tile0, size_t tile1, uint8_t *to,
                      float *row_scale, struct err *e)
{
    struct pack_job jobs[THREADS_MAX] = {};
    pthread_t threads[THREADS_MAX];
    int started[THREADS_MAX] = {}, rc = 0;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    size_t tiles = tile1 - tile0, n = processors < 1 ? 1 : (size_t)processors;
    n = n > THREADS_MAX ? THREADS_MAX : n;
    n = n > tiles ? tiles : n;
    memset(to, 0, tiles * w->units * w->unit_bytes); /* rows past the end: codes 0 with scale 0 */
    for (size_t i = 0; i < n; i++) {
        size_t first = tiles * i / n;
        jobs[i].w = w;
        jobs[i].parts = parts;
        jobs[i].order = order;
        jobs[i].tile0 = tile0 + first;
        jobs[i].tile1 = tile0 + tiles * (i + 1) / n;
        jobs[i].to = to + first * w->units * w->unit_bytes;
        jobs[i].row_scale = row_scale ? row_scale + first * TILE_ROWS : NULL;
        started[i] = i + 1 < n && !pthread_create(&threads[i], NULL, pack_thread, &jobs[i]);
        if (!started[i])
            pack_thread(&jobs[i]);
    }
    for (size_t i = 0; i < n; i++) {
        if (started[i])
            pthread_join(threads[i], NULL);
        if (jobs[i].rc && !rc)
            rc = err_set(e, jobs[i].err.code, "%s", jobs[i].err.text);
    }
    return rc;
}
