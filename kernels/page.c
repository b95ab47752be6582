/* SPDX-License-Identifier: Apache-2.0 */
/* page.c - names and sizes of the KV formats, and the scalar decisions that every backend shares, so that
 * all of them pack the same bytes: the grid of a run of values and the roundings of the scan summary. */
#include "kernels/page.h"

#include <math.h>
#include <string.h>

#include "kernels/half.h"

static const struct {
    int format, k_bits, v_bits;
    const char *name, *number;
} table[] = {
    {KV_RAW, 0, 0, "raw", "16"}, {KV_8, 8, 8, "kv8", "8"},      {KV_K8V4, 8, 4, "k8v4", NULL},
    {KV_4, 4, 4, "kv4", "4"},    {KV_K4V2, 4, 2, "k4v2", NULL}, {KV_3, 3, 3, "kv3", "3"},
};
enum { FORMATS = sizeof table / sizeof *table };

struct page_layout page_layout(int format, size_t D)
{
    struct page_layout y = {0};
    for (size_t i = 0; i < FORMATS; i++)
        if (table[i].format == format) {
            y.k_bits = table[i].k_bits;
            y.v_bits = table[i].v_bits;
        }
    y.v_codes = page_plane_bytes(D, y.k_bits);
    y.k_params = y.v_codes + page_plane_bytes(D, y.v_bits);
    y.v_params = y.k_params + 4 * D;
    y.bytes = y.v_params + 4 * KV_PAGE_TOKENS;
    return y;
}

size_t kv_page_bytes(int format, size_t D)
{
    if (!D || D > HEAD_DIM_MAX)
        return 0;
    if (format == KV_RAW)
        return D % 8 ? 0 : 2 * KV_PAGE_TOKENS * D * 2;
    struct page_layout y = page_layout(format, D);
    return y.k_bits && D % 16 == 0 ? y.bytes : 0;
}

const char *kv_format_name(int format)
{
    for (size_t i = 0; i < FORMATS; i++)
        if (table[i].format == format)
            return table[i].name;
    return NULL;
}

int kv_format_parse(const char *name)
{
    for (size_t i = 0; i < FORMATS; i++)
        if (!strcmp(name, table[i].name) || (table[i].number && !strcmp(name, table[i].number)))
            return table[i].format;
    return 0;
}

const int *kv_formats(size_t *n)
{
    static const int all[FORMATS] = {KV_RAW, KV_8, KV_K8V4, KV_4, KV_K4V2, KV_3};
    *n = FORMATS;
    return all;
}

size_t kv_scan_bytes(size_t D)
{
    return D + 16;
}

uint16_t page_half_up(float x)
{
    uint16_t h = half_from_float(x);
    while (half_to_float(h) < x)
        h++;
    return h;
}

struct page_grid page_grid(float lo, float hi, int bits)
{
    struct page_grid g = {.min = half_from_float(lo)};
    float steps = (float)((1 << bits) - 1), range = hi - lo;
    if (!(range > 0))
        return g;
    g.scale = half_from_float(range / steps);
    while (half_to_float(g.scale) * steps < range)
        g.scale++;
    return g;
}

uint8_t page_code(float x, float scale, float min, int bits)
{
    float top = (float)((1 << bits) - 1), c = scale > 0 ? rintf((x - min) / scale) : 0;
    return (uint8_t)(c > top ? top : c > 0 ? c : 0);
}

void page_scan_means(const float *mean, size_t D, uint8_t *scan, float *point)
{
    float top = 0;
    for (size_t c = 0; c < D; c++)
        top = fabsf(mean[c]) > top ? fabsf(mean[c]) : top;
    uint16_t scale = page_half_up(top / 127);
    float step = half_to_float(scale);
    for (size_t c = 0; c < D; c++) {
        float code = step > 0 ? rintf(mean[c] / step) : 0;
        code = code > 127 ? 127 : code < -127 ? -127 : code;
        scan[c] = (uint8_t)(int8_t)code;
        point[c] = step * code;
    }
    memset(scan + D, 0, kv_scan_bytes(D) - D);
    memcpy(scan + D, &scale, 2);
}

void page_scan_radius(float squared, size_t D, uint8_t *scan)
{
    /* one part in 2^16 more covers the rounding of the sum, so that it is a bound indeed */
    uint16_t radius = page_half_up(sqrtf(squared) * (1 + 0x1p-16f));
    memcpy(scan + D + 2, &radius, 2);
}
