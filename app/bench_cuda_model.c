/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cuda_model.c - see bench_cuda_model.h: what is taken on the device, and what it is filled with. */
#include "app/bench_cuda_model.h"

#include <stdlib.h>
#include <string.h>

#include "engine/model/rope_table.h"
#include "kernels/half.h"
#include "kernels/page.h"

enum { SINK = 64, RECENT = 256 };
static const size_t slab_bytes = (size_t)1 << 30;

void card_model_init(struct card_model *m, struct device *d, const struct card_shape *s, double share,
                     size_t L)
{
    memset(m, 0, sizeof *m);
    m->d = d;
    m->s = s;
    m->share = share;
    m->L = L ? L : s->L;
    m->ldqkv = (s->H + 2 * s->HK) * s->D;
}

/* ---- memory ---------------------------------------------------------------------------------------------
 */

int card_take(struct card_model *m, size_t bytes, void *out, struct err *e)
{
    void *p;
    if (m->n_owned == CARD_OWNED)
        return err_set(e, ERR_LIMIT, "too many pieces of device memory");
    int rc = m->d->ops->alloc(m->d, bytes ? bytes : 1, &p, e);
    if (rc)
        return rc;
    m->owned[m->n_owned++] = p;
    m->bytes += bytes;
    memcpy(out, &p, sizeof p);
    return 0;
}

int card_take_host(struct card_model *m, size_t bytes, void *out, struct err *e)
{
    void *host, *view;
    if (m->n_host == sizeof m->owned_host / sizeof m->owned_host[0])
        return err_set(e, ERR_LIMIT, "too many pieces of host memory");
    int rc = m->d->ops->alloc_host(m->d, bytes, &host, &view, e);
    if (rc)
        return rc;
    m->owned_host[m->n_host++] = host;
    memset(host, 0, bytes);
    memcpy(out, &host, sizeof host);
    return 0;
}

/* The bytes of `have` at p again and again, until `bytes` are there. */
static void repeat(struct card_model *m, uint8_t *p, size_t have, size_t bytes)
{
    while (have < bytes) {
        size_t n = have < bytes - have ? have : bytes - have;
        m->d->ops->copy(m->d, DEVICE_COMPUTE, p + have, p, n);
        have += n;
    }
}

void card_model_close(struct card_model *m)
{
    if (!m->d)
        return;
    while (m->n_owned)
        m->d->ops->release(m->d, m->owned[--m->n_owned]);
    while (m->n_host)
        m->d->ops->release_host(m->d, m->owned_host[--m->n_host]);
    free(m->heads_host);
    for (size_t l = 0; l < m->L; l++)
        for (int i = 0; i < CARD_MATRICES; i++)
            m->d->ops->weight_free(m->d, m->w[l][i]);
    m->d->ops->weight_free(m->d, m->output);
    m->d = NULL;
}

/* ---- made-up values --------------------------------------------------------------------------------------
 */

static uint64_t random64(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

static void random_bytes(uint8_t *p, size_t n, uint64_t *state)
{
    for (size_t i = 0; i < n; i += 8) {
        uint64_t x = random64(state);
        memcpy(p + i, &x, n - i < 8 ? n - i : 8);
    }
}

/* Of variance 1, evenly spread. */
static float random_real(uint64_t *state)
{
    return ((float)(random64(state) >> 40) / 16777216.0f - 0.5f) * 3.4641f;
}

static void random_halves(uint8_t *p, size_t n, uint64_t *state)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h = half_from_float(random_real(state));
        memcpy(p + 2 * i, &h, 2);
    }
}

/* Codes evenly spread over grids of variance about 1. */
static void random_record(uint8_t *record, int format, size_t D, size_t bytes, uint64_t *state)
{
    if (format == KV_RAW) {
        random_halves(record, bytes / 2, state);
        return;
    }
    struct page_layout y = page_layout(format, D);
    random_bytes(record, y.k_params, state);
    uint16_t min = half_from_float(-1.7320f);
    for (size_t i = 0; i < 2 * D + 2 * KV_PAGE_TOKENS; i++) {
        int key = i < 2 * D, is_min = key ? i >= D : i >= 2 * D + KV_PAGE_TOKENS;
        float levels = (float)((1 << (key ? y.k_bits : y.v_bits)) - 1);
        float wobble = 0.9f + 0.2f * (float)(random64(state) >> 48) / 65536.0f;
        uint16_t h = is_min ? min : half_from_float(3.4641f * wobble / levels);
        memcpy(record + (key ? y.k_params + 2 * i : y.v_params + 2 * (i - 2 * D)), &h, 2);
    }
}

static void random_scan(uint8_t *scan, size_t D, uint64_t *state)
{
    random_bytes(scan, D, state);
    uint16_t scale = half_from_float(0.2f / 127), radius = half_from_float(12);
    memset(scan + D, 0, kv_scan_bytes(D) - D);
    memcpy(scan + D, &scale, 2);
    memcpy(scan + D + 2, &radius, 2);
}

/* ---- weights ---------------------------------------------------------------------------------------------
 */

enum device_weight_format card_weight_format(const struct card_shape *s, const char *name)
{
    static const struct {
        const char *name;
        enum device_weight_format format, g32;
    } names[] = {
        {"f16", DEVICE_W_F16, DEVICE_W_F16}, {"bf16", DEVICE_W_BF16, DEVICE_W_BF16},
        {"fp8", DEVICE_W_FP8, DEVICE_W_FP8}, {"w8", DEVICE_W_W8, DEVICE_W_W8G32},
        {"w4", DEVICE_W_W4, DEVICE_W_W4G32},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(names[i].name, name))
            return s->g32 ? names[i].g32 : names[i].format;
    return DEVICE_W_AUTO;
}

/* The output matrix keeps 8 bits where the layers have 4. */
static enum device_weight_format output_format(enum device_weight_format format)
{
    return format == DEVICE_W_W4 ? DEVICE_W_W8 : format == DEVICE_W_W4G32 ? DEVICE_W_W8G32 : format;
}

static double format_bits(enum device_weight_format format)
{
    switch (format) {
    case DEVICE_W_W4:
        return 4.25;
    case DEVICE_W_W4G32:
        return 5;
    case DEVICE_W_W8G32:
        return 8.5;
    case DEVICE_W_W8:
    case DEVICE_W_FP8:
        return 8;
    default:
        return 16;
    }
}

uint64_t card_weights_bytes(const struct card_shape *s, enum device_weight_format format)
{
    double table = (double)(s->V * s->C);
    double bits = card_shape_flops(s) / 2 * format_bits(format) + table * format_bits(output_format(format));
    return (uint64_t)(bits / 8 + table * 34 / 32);
}

static void matrix_shape(const struct card_model *m, enum card_matrix which, size_t *N, size_t *K)
{
    const struct card_shape *s = m->s;
    *N = which == CARD_QKV ? m->ldqkv : which == CARD_GATE_UP ? 2 * s->F : s->C;
    *K = which == CARD_O ? s->H * s->D : which == CARD_DOWN ? s->F : s->C;
}

/* The embedding: rows of Q8_0, or of fp16 where 32 does not divide the width. */
static int make_embed(struct card_model *m, struct err *e)
{
    m->embed_type = m->s->C % 32 ? TENSOR_F16 : TENSOR_Q8_0;
    size_t row = tensor_row_bytes(m->embed_type, m->s->C), bytes = row * m->s->V, some = row * 64;
    uint8_t *host;
    int rc = card_take(m, bytes, &m->embed, e);
    if (!rc)
        rc = card_take_host(m, some, &host, e);
    if (rc)
        return rc;
    uint64_t state = 77;
    if (m->embed_type == TENSOR_F16)
        random_halves(host, some / 2, &state);
    else
        for (size_t at = 0; at < some; at += 34) {
            uint16_t scale = half_from_float(1.0f / 64);
            random_bytes(host + at, 34, &state);
            memcpy(host + at, &scale, 2);
        }
    if (some > bytes)
        some = bytes;
    m->d->ops->upload(m->d, DEVICE_COMPUTE, m->embed, host, some);
    repeat(m, m->embed, some, bytes);
    return m->d->ops->sync(m->d, DEVICE_COMPUTE, e);
}

static int make_small(struct card_model *m, struct err *e)
{
    size_t n = m->s->C > m->ldqkv ? m->s->C : m->ldqkv;
    struct model_rope rope = {.dims = m->s->D, .base = m->s->rope_base, .scale = 1};
    struct rope_table table;
    float *host;
    int rc = rope_table_make(&rope, 0, &table, e);
    if (!rc)
        rc = card_take(m, m->s->C * sizeof(float), &m->norm, e);
    if (!rc && m->s->qkv_bias)
        rc = card_take(m, m->ldqkv * sizeof(float), &m->bias, e);
    if (!rc)
        rc = card_take(m, table.pairs * sizeof(uint64_t), &m->steps, e);
    if (!rc)
        rc = card_take_host(m, n * sizeof(float), &host, e);
    if (rc)
        return rc;
    for (size_t i = 0; i < m->s->C; i++)
        host[i] = 1;
    m->d->ops->upload(m->d, DEVICE_COMPUTE, m->norm, host, m->s->C * sizeof(float));
    if (m->bias)
        m->d->ops->fill(m->d, DEVICE_COMPUTE, m->bias, 0, m->ldqkv * sizeof(float));
    m->d->ops->upload(m->d, DEVICE_COMPUTE, m->steps, table.steps, table.pairs * sizeof(uint64_t));
    return m->d->ops->sync(m->d, DEVICE_COMPUTE, e);
}

int card_model_weights(struct card_model *m, enum device_weight_format format, struct err *e)
{
    const struct device_ops *ops = m->d->ops;
    m->format = format;
    if (m->L > CARD_LAYERS_MAX)
        return err_set(e, ERR_LIMIT, "the shape has more than %d layers", CARD_LAYERS_MAX);
    for (size_t l = 0; l < m->L; l++)
        for (int i = 0; i < CARD_MATRICES; i++) {
            size_t N, K;
            matrix_shape(m, (enum card_matrix)i, &N, &K);
            int rc =
                ops->weight_random(m->d, format, N, K, l * CARD_MATRICES + (size_t)i + 1, &m->w[l][i], e);
            if (rc)
                return rc;
            m->bytes += ops->weight_bytes(m->w[l][i]);
        }
    int rc = ops->weight_random(m->d, output_format(format), m->s->V, m->s->C, 999, &m->output, e);
    if (rc)
        return rc;
    m->bytes += ops->weight_bytes(m->output);
    return make_embed(m, e);
}

uint64_t card_matrix_bytes(const struct card_model *m)
{
    uint64_t bytes = m->output ? m->d->ops->weight_bytes(m->output) : 0;
    for (size_t l = 0; l < m->L; l++)
        for (int i = 0; i < CARD_MATRICES; i++)
            bytes += m->w[l][i] ? m->d->ops->weight_bytes(m->w[l][i]) : 0;
    return bytes;
}

/* ---- caches ----------------------------------------------------------------------------------------------
 */

void card_shape_kv(struct card_model *m, int kv_format)
{
    const struct card_shape *s = m->s;
    struct device_kv *kv = &m->kv;
    *kv = (struct device_kv){.L = m->L,
                             .H = s->H,
                             .HK = s->HK,
                             .D = s->D,
                             .S = SINK,
                             .R = RECENT,
                             .format = kv_format,
                             .sink_pages = (SINK + 63) / 64,
                             .ring_pages = RECENT / 64 + 3};
    for (size_t l = 0; l < m->L; l++) {
        m->hr[l] = (uint32_t)card_shape_retrieval(s, m->share, l);
        m->hr_before[l] = (uint32_t)kv->HR;
        m->hs_before[l] = (uint32_t)kv->HS;
        kv->HR += m->hr[l];
        kv->HS += s->HK - m->hr[l];
    }
    kv->hr = m->hr;
    kv->hr_before = m->hr_before;
    kv->hs_before = m->hs_before;
    kv->record_bytes = kv_page_bytes(kv_format, s->D);
    kv->scan_bytes = kv_scan_bytes(s->D);
    kv->raw_bytes = kv_page_bytes(KV_RAW, s->D);
    kv->block_bytes = DEVICE_BLOCK_PAGES * kv->HR * (kv->record_bytes + kv->scan_bytes);
}

static uint64_t blocks_of(uint64_t tokens)
{
    uint64_t per = DEVICE_BLOCK_PAGES * KV_PAGE_TOKENS;
    return (tokens + per - 1) / per;
}

uint64_t card_kv_bytes(const struct card_model *m, int kv_format, uint64_t tokens)
{
    struct card_model *t = calloc(1, sizeof *t); /* of the shape alone */
    if (!t)
        return 0;
    t->s = m->s, t->share = m->share, t->L = m->L;
    card_shape_kv(t, kv_format);
    const struct device_kv *kv = &t->kv;
    uint64_t bytes = blocks_of(tokens) * kv->block_bytes +
                     (2 * kv->HR + (kv->sink_pages + kv->ring_pages) * kv->HS) * kv->raw_bytes;
    free(t);
    return bytes;
}

static int make_heads(struct card_model *m, struct err *e)
{
    size_t n = m->L * m->s->HK;
    uint32_t *on_device;
    m->heads_host = malloc(n * sizeof *m->heads_host);
    if (!m->heads_host)
        return err_memory(e, "the heads");
    for (size_t i = 0; i < n; i++)
        m->heads_host[i] = (uint32_t)(i % m->s->HK);
    int rc = card_take(m, n * sizeof *on_device, &on_device, e);
    if (rc)
        return rc;
    m->kv.heads_host = m->heads_host;
    m->kv.heads = on_device;
    m->d->ops->upload(m->d, DEVICE_COMPUTE, on_device, m->heads_host, n * sizeof *on_device);
    return 0;
}

uint8_t *card_made_up_block(const struct device_kv *kv)
{
    uint64_t state = 4242;
    size_t n = DEVICE_BLOCK_PAGES * kv->HR;
    uint8_t *block = malloc(kv->block_bytes);
    for (size_t i = 0; block && i < n; i++) {
        random_record(block + i * kv->record_bytes, kv->format, kv->D, kv->record_bytes, &state);
        random_scan(block + n * kv->record_bytes + i * kv->scan_bytes, kv->D, &state);
    }
    return block;
}

/* Blocks in pieces of about a gigabyte; each piece is the made-up block again and again. */
static int make_blocks(struct card_model *m, uint64_t n, const uint8_t *block, uint64_t *addresses,
                       struct err *e)
{
    size_t bytes = m->kv.block_bytes, stride = (bytes + 255) / 256 * 256;
    uint64_t per = slab_bytes / stride ? slab_bytes / stride : 1;
    for (uint64_t first = 0; first < n; first += per) {
        uint64_t some = n - first < per ? n - first : per;
        uint8_t *slab;
        int rc = card_take(m, some * stride, &slab, e);
        if (rc)
            return rc;
        m->kv_bytes += some * stride;
        if (block) {
            m->d->ops->upload(m->d, DEVICE_COMPUTE, slab, block, bytes);
            repeat(m, slab, stride, some * stride);
        }
        for (uint64_t i = 0; i < some; i++)
            addresses[first + i] = (uint64_t)(uintptr_t)(slab + i * stride);
    }
    return 0;
}

/* Other summaries for each block of some hundreds, so that pages differ where a selection looks: with one
 * block repeated they would all be equal, which no text is. */
static int vary_summaries(struct card_model *m, const uint64_t *addresses, uint64_t n, struct err *e)
{
    enum { KINDS = 256 };
    const struct device_kv *kv = &m->kv;
    size_t records = DEVICE_BLOCK_PAGES * kv->HR, bytes = records * kv->scan_bytes;
    uint64_t state = 777;
    void *all = NULL;
    uint8_t *host = malloc(KINDS * bytes);
    if (!host)
        return err_memory(e, "summaries");
    for (size_t i = 0; i < KINDS * records; i++)
        random_scan(host + i * kv->scan_bytes, kv->D, &state);
    int rc = m->d->ops->alloc(m->d, KINDS * bytes, &all, e);
    if (!rc) {
        m->d->ops->upload(m->d, DEVICE_COMPUTE, all, host, KINDS * bytes);
        for (uint64_t b = 0; b < n; b++)
            m->d->ops->copy(m->d, DEVICE_COMPUTE,
                            (uint8_t *)(uintptr_t)addresses[b] + records * kv->record_bytes,
                            (uint8_t *)all + b % KINDS * bytes, bytes);
        rc = m->d->ops->sync(m->d, DEVICE_COMPUTE, e);
        m->d->ops->release(m->d, all);
    }
    free(host);
    return rc;
}

/* Raw records of tails or streaming heads. */
static int make_raw(struct card_model *m, size_t records, int past, uint8_t **out, struct err *e)
{
    size_t bytes = records * m->kv.raw_bytes, some = m->kv.raw_bytes;
    int rc = card_take(m, bytes, out, e);
    if (rc)
        return rc;
    m->kv_bytes += bytes;
    if (!bytes)
        return 0;
    if (!past) {
        m->d->ops->fill(m->d, DEVICE_COMPUTE, *out, 0, bytes);
        return 0;
    }
    uint8_t *host = malloc(some);
    if (!host)
        return err_memory(e, "a record");
    uint64_t state = 31;
    random_halves(host, some / 2, &state);
    m->d->ops->upload(m->d, DEVICE_COMPUTE, *out, host, some);
    repeat(m, *out, some, bytes);
    rc = m->d->ops->sync(m->d, DEVICE_COMPUTE, e);
    free(host);
    return rc;
}

int card_model_kv(struct card_model *m, int kv_format, uint64_t tokens, enum card_past past, struct err *e)
{
    card_shape_kv(m, kv_format);
    struct device_kv *kv = &m->kv;
    uint64_t n = blocks_of(tokens);
    uint64_t *addresses = calloc(n ? n : 1, sizeof *addresses), *on_device = NULL;
    uint8_t *block = past && kv->HR ? card_made_up_block(kv) : NULL;
    int rc = !addresses || (past && kv->HR && !block) ? err_memory(e, "a block") : 0;
    if (!rc)
        rc = make_heads(m, e);
    if (!rc && !m->steps)
        rc = make_small(m, e);
    if (!rc && kv->HR)
        rc = make_blocks(m, n, block, addresses, e);
    if (!rc && kv->HR && past == CARD_PAST_VARIED)
        rc = vary_summaries(m, addresses, n, e);
    if (!rc)
        rc = card_take(m, n * sizeof *on_device, &on_device, e);
    if (!rc) {
        m->d->ops->upload(m->d, DEVICE_COMPUTE, on_device, addresses, n * sizeof *on_device);
        kv->blocks = on_device;
        kv->cap_blocks = n;
        m->tokens = n * DEVICE_BLOCK_PAGES * KV_PAGE_TOKENS;
        rc = make_raw(m, 2 * kv->HR, past, &kv->tail, e);
    }
    if (!rc)
        rc = make_raw(m, (kv->sink_pages + kv->ring_pages) * kv->HS, past, &kv->stream, e);
    struct err second;
    int sync = m->d->ops->sync(m->d, DEVICE_COMPUTE, rc ? &second : e); /* before the host memory goes */
    free(block);
    free(addresses);
    return rc ? rc : sync;
}

uint64_t card_past_bytes(const struct card_model *m, uint64_t position)
{
    const struct device_kv *kv = &m->kv;
    uint64_t row = 4 * kv->D, own = position % KV_PAGE_TOKENS * row;
    uint64_t window = position < kv->S + kv->R ? position : kv->S + kv->R;
    return kv->HR * (position / KV_PAGE_TOKENS * kv->record_bytes + own) + kv->HS * window * row;
}

double card_memory_at(const struct card_model *m, uint64_t tokens)
{
    int format = m->kv.format;
    return (double)(m->bytes - card_kv_bytes(m, format, m->tokens) + card_kv_bytes(m, format, tokens));
}
