/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_weight.cu - weights in the card's memory: packed by the host in slabs and uploaded, or made up there.
 */
#include <cuda_fp16.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/weight_layout.h"
#include "kernels/weight_code.h"

enum { SLAB_BYTES = 64 << 20 };

static int weight_new(struct device *d, enum device_weight_format format, size_t N, size_t K,
                      struct device_weight **out, struct err *e)
{
    *out = NULL;
    if (!N || !K || N > 1u << 30 || K > 1u << 24 || format == DEVICE_W_AUTO ||
        (unsigned)format > DEVICE_W_W4G32)
        return err_set(e, ERR_UNSUPPORTED, "a weight of format %d and shape %zu x %zu is not handled",
                       (int)format, N, K);
    struct device_weight *w = (struct device_weight *)calloc(1, sizeof *w);
    if (!w)
        return err_memory(e, "a weight");
    w->format = format;
    w->N = N;
    w->K = K;
    w->units = (K + UNIT_COLS - 1) / UNIT_COLS;
    w->tiles = (N + TILE_ROWS - 1) / TILE_ROWS;
    w->unit_bytes = (size_t)layout_unit_bytes(format);
    void *data = NULL, *row_scale = NULL; /* below 2^26 tiles * 2^17 units * 2^12 bytes: no overflow */
    int rc = cuda_alloc(d, w->tiles * w->units * w->unit_bytes, &data, e);
    if (!rc && layout_has_row_scale(format))
        rc = cuda_alloc(d, w->tiles * TILE_ROWS * sizeof(float), &row_scale, e);
    w->data = (uint8_t *)data;
    w->row_scale = (float *)row_scale;
    if (rc) {
        cuda_weight_free(d, w);
        return rc;
    }
    *out = w;
    return 0;
}

static int upload_tiles(struct device *d, struct device_weight *w, const struct device_weight_part *parts,
                        enum device_weight_order order, size_t slab, uint8_t *bytes, float *row_scale,
                        struct err *e)
{
    size_t tile_bytes = w->units * w->unit_bytes;
    for (size_t at = 0; at < w->tiles; at += slab) {
        size_t end = w->tiles - at < slab ? w->tiles : at + slab;
        int rc = weight_pack_tiles(w, parts, order, at, end, bytes, row_scale, e);
        if (rc)
            return rc;
        cuda_upload(d, DEVICE_COPY_IN, w->data + at * tile_bytes, bytes, (end - at) * tile_bytes);
        if (w->row_scale)
            cuda_upload(d, DEVICE_COPY_IN, w->row_scale + at * TILE_ROWS, row_scale,
                        (end - at) * TILE_ROWS * sizeof(float));
        rc = cuda_sync(d, DEVICE_COPY_IN, e);
        if (rc)
            return rc;
    }
    return 0;
}

int cuda_weight_create(struct device *d, enum device_weight_format format, size_t K,
                       const struct device_weight_part *parts, size_t n_parts, enum device_weight_order order,
                       struct device_weight **out, struct err *e)
{
    size_t N = 0;
    *out = NULL;
    int rc = weight_parts_rows(format, K, parts, n_parts, order, &N, e);
    if (rc)
        return rc;
    struct device_weight *w;
    rc = weight_new(d, weight_format_of(format, parts, n_parts), N, K, &w, e);
    if (rc)
        return rc;
    size_t tile_bytes = w->units * w->unit_bytes, slab = SLAB_BYTES / tile_bytes + 1;
    slab = slab > w->tiles ? w->tiles : slab;
    uint8_t *bytes = (uint8_t *)malloc(slab * tile_bytes);
    float *row_scale = (float *)calloc(slab * TILE_ROWS, sizeof *row_scale);
    rc = bytes && row_scale ? upload_tiles(d, w, parts, order, slab, bytes, row_scale, e)
                            : err_memory(e, "packing a weight");
    free(bytes);
    free(row_scale);
    if (rc) {
        cuda_weight_free(d, w);
        return rc;
    }
    *out = w;
    return 0;
}

static __device__ uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Codes: random bits; 16-bit ones a uniform value; E4M3 without its NaNs. */
static __global__ void random_codes(uint8_t *data, size_t units, int format, int code_bytes, int unit_bytes,
                                    uint64_t seed, float spread)
{
    size_t words = (size_t)code_bytes / 4, n = units * words;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        uint32_t v = (uint32_t)(mix(seed + (i + 1) * 0x9e3779b97f4a7c15u) >> 32);
        if (layout_bits(format) == 16) {
            uint32_t both = 0;
            for (int s = 0; s < 32; s += 16) {
                float f = (float)(int16_t)(v >> s) * spread;
                uint32_t bits = __float_as_uint(f);
                both |=
                    (format == DEVICE_W_BF16 ? bits >> 16 : (uint32_t)__half_as_ushort(__float2half_rn(f)))
                    << s;
            }
            v = both;
        } else if (format == DEVICE_W_FP8) {
            v ^= (v & v >> 1 & v >> 2 & v >> 3 & v >> 4 & v >> 5 & v >> 6) & 0x01010101u; /* x7f -> x7e */
        }
        memcpy(data + i / words * unit_bytes + i % words * 4, &v, 4);
    }
}

static __global__ void random_scales(uint8_t *data, size_t units, int format, int code_bytes, int unit_bytes,
                                     uint32_t scale_and_min)
{
    size_t words = (size_t)(unit_bytes - code_bytes) / 4, n = units * words;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        memcpy(data + i / words * unit_bytes + code_bytes + i % words * 4, &scale_and_min, 4);
}

static __global__ void random_row_scales(float *to, size_t n, float scale)
{
    size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (i < n)
        to[i] = scale;
}

/* Root mean square of the format's codes when their bits are random. */
static float code_deviation(enum device_weight_format format)
{
    double sum = 0;
    if (layout_bits(format) == 4)
        return 4.6098f;
    if (format != DEVICE_W_FP8)
        return 73.9f;
    for (unsigned c = 0; c < 127; c++)
        sum += (double)e4m3_to_float(c) * e4m3_to_float(c);
    return (float)sqrt(sum / 127);
}

int cuda_weight_random(struct device *d, enum device_weight_format format, size_t N, size_t K, uint64_t seed,
                       struct device_weight **out, struct err *e)
{
    if (format == DEVICE_W_AUTO)
        format = DEVICE_W_F16;
    int rc = weight_new(d, format, N, K, out, e);
    if (rc)
        return rc;
    struct device_weight *w = *out;
    int code = layout_code_bytes(format), unit = (int)w->unit_bytes;
    float deviation = 1.0f / sqrtf((float)K), scale = deviation / code_deviation(format);
    cudaStream_t s = cuda_compute(d);
    random_codes<<<1024, 256, 0, s>>>(w->data, w->tiles * w->units, format, code, unit, seed,
                                      deviation * 1.7320508f / 32768);
    uint32_t params = half_from_float(scale);
    params |= (layout_bits(format) == 4 ? (uint32_t)half_from_float(-7.5f * scale) : params) << 16;
    if (unit > code)
        random_scales<<<256, 256, 0, s>>>(w->data, w->tiles * w->units, format, code, unit, params);
    size_t rows = w->tiles * TILE_ROWS;
    if (w->row_scale)
        random_row_scales<<<(unsigned)((rows + 255) / 256), 256, 0, s>>>(w->row_scale, rows, scale);
    cuda_check(d, "random weights");
    rc = cuda_sync(d, DEVICE_COMPUTE, e);
    if (rc) {
        cuda_weight_free(d, w);
        *out = NULL;
    }
    return rc;
}

void cuda_weight_free(struct device *d, struct device_weight *w)
{
    if (!w)
        return;
    cuda_release(d, w->data);
    cuda_release(d, w->row_scale);
    free(w);
}

size_t cuda_weight_bytes(const struct device_weight *w)
{
    return w->tiles * (w->units * w->unit_bytes + (w->row_scale ? TILE_ROWS * sizeof(float) : 0));
}
