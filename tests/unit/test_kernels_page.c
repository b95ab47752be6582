/* SPDX-License-Identifier: Apache-2.0 */
/* test_kernels_page.c - the KV records of every format: error bound on ordinary and hostile pages, the
 * written layout, the scan summary, names and sizes, and equal bytes from every backend. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/kernels_support.h"

enum { D_MAX = 256, KINDS = 9 };
static const size_t widths[] = {16, 48, 64, 80, 128, 240};
enum { N_WIDTHS = sizeof widths / sizeof *widths };

/* One value of a page of the given temper. */
static float sample(struct random *r, int kind, size_t t, size_t c)
{
    switch (kind) {
    case 0:
        return random_normal(r);
    case 1:
        return random_float(r) * 60000;
    case 2:
        return (t + c) % 2 ? 65504 : -65504;
    case 3:
        return c % 3 ? 5.25f : random_normal(r); /* constant channels */
    case 4:
        return t % 3 ? -0.0f : 0; /* zeros of both signs */
    case 5:
        return (float)(random_u64(r) % 4) * 0x1p-24f; /* the smallest subnormals */
    case 6:
        return 60000 + random_float(r) * 100;
    case 7:
        return t == 17 && c == 3 ? 60000 : random_float(r) * 1e-3f; /* one outlier */
    default:
        return random_float(r) * 0.01f; /* scales near the subnormal range */
    }
}

static void fill(struct random *r, int kind, size_t D, size_t ld, uint16_t *k, uint16_t *v)
{
    for (size_t t = 0; t < 64; t++)
        for (size_t c = 0; c < ld; c++) {
            k[t * ld + c] = c < D ? half_from_float(sample(r, kind, t, c)) : 0x7e00;
            v[t * ld + c] = c < D ? half_from_float(sample(r, kind, t, c)) : 0x7e00;
        }
}

/* |x - y| <= step / 2 and a rounding, where `step` is an upper bound of the fp16 scale over 2^bits - 1 steps;
 * equal when the range is 0. */
static void check_run(const uint16_t *x, size_t stride, const float *y, size_t y_stride, size_t n, int bits)
{
    float lo = INFINITY, hi = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        lo = fminf(lo, half_to_float(x[i * stride]));
        hi = fmaxf(hi, half_to_float(x[i * stride]));
    }
    double step = (double)(hi - lo) / ((1 << bits) - 1) * (1 + 0x1p-9) + 0x1p-24;
    if (!(hi > lo))
        step = 0;
    for (size_t i = 0; i < n; i++) {
        double want = (double)half_to_float(x[i * stride]);
        assert_true(fabs((double)y[i * y_stride] - want) <= step / 2 + fabs(want) * 0x1p-22);
    }
}

static const struct {
    int format, k_bits, v_bits;
} coded[] = {{KV_8, 8, 8}, {KV_K8V4, 8, 4}, {KV_4, 4, 4}, {KV_K4V2, 4, 2}, {KV_3, 3, 3}};
enum { CODED = sizeof coded / sizeof *coded };

/* A page of keys and values with room on the right, and its record. */
struct page {
    size_t D, ld, bytes;
    uint16_t *k, *v;
    uint8_t *record, *scan;
};

static struct page page_make(struct random *r, int kind, int format, size_t D)
{
    struct page p = {.D = D, .ld = D + 8, .bytes = kv_page_bytes(format, D)};
    p.k = malloc(64 * p.ld * 2);
    p.v = malloc(64 * p.ld * 2);
    assert_non_null(p.k);
    assert_non_null(p.v);
    fill(r, kind, D, p.ld, p.k, p.v);
    p.record = aligned_zero(p.bytes + 64);
    p.scan = aligned_zero(kv_scan_bytes(D) + 64);
    memset(p.record, 0xee, p.bytes + 64); /* every byte must be written, and none behind the last */
    memset(p.scan, 0xee, kv_scan_bytes(D) + 64);
    return p;
}

static void page_pack(const struct kernels *k, const struct page *p, int format)
{
    k->kv_page_pack(&(struct kv_page_pack_args){.k = p->k,
                                                .ldk = p->ld,
                                                .v = p->v,
                                                .ldv = p->ld,
                                                .D = p->D,
                                                .format = format,
                                                .record = p->record,
                                                .scan = p->scan});
    for (size_t i = 0; i < 64; i++) {
        assert_int_equal(p->record[p->bytes + i], 0xee);
        assert_int_equal(p->scan[kv_scan_bytes(p->D) + i], 0xee);
    }
}

static void page_free(struct page *p)
{
    free(p->k);
    free(p->v);
    free(p->record);
    free(p->scan);
}

static void bounded(const struct kernels *k)
{
    struct random r = {11};
    for (size_t i = 0; i < N_WIDTHS * KINDS * CODED; i++) {
        size_t D = widths[i % N_WIDTHS], f = i / N_WIDTHS % CODED;
        struct page p = page_make(&r, (int)(i / N_WIDTHS / CODED), coded[f].format, D);
        page_pack(k, &p, coded[f].format);
        float *kf = malloc(64 * D * 4), *vf = malloc(64 * D * 4);
        poison(kf, 64 * D);
        poison(vf, 64 * D);
        k->kv_page_unpack(&(struct kv_page_unpack_args){
            .record = p.record, .format = coded[f].format, .D = D, .k = kf, .v = vf});
        for (size_t c = 0; c < D; c++)
            check_run(p.k + c, p.ld, kf + c, D, 64, coded[f].k_bits);
        for (size_t t = 0; t < 64; t++)
            check_run(p.v + t * p.ld, 1, vf + t * D, 1, D, coded[f].v_bits);
        free(kf);
        free(vf);
        page_free(&p);
    }
}

static void test_bounded(void **state)
{
    (void)state;
    each_backend(bounded);
}

static void same_bytes(const struct kernels *k)
{
    size_t n;
    const int *formats = kv_formats(&n);
    for (size_t i = 0; i < N_WIDTHS * KINDS * n; i++) {
        size_t D = widths[i % N_WIDTHS];
        int format = formats[i / N_WIDTHS % n], kind = (int)(i / N_WIDTHS / n);
        struct random r = {12 + i}, again = r;
        struct page a = page_make(&r, kind, format, D), b = page_make(&again, kind, format, D);
        page_pack(kernels_get("ref"), &a, format);
        page_pack(k, &b, format);
        assert_memory_equal(a.record, b.record, a.bytes);
        assert_memory_equal(a.scan, b.scan, kv_scan_bytes(D));
        page_free(&a);
        page_free(&b);
    }
}

static void test_same_bytes(void **state)
{
    (void)state;
    each_fast_backend(same_bytes);
}

/* The same values give the same unpacked floats everywhere. */
static void same_values(const struct kernels *k)
{
    struct random r = {14};
    for (size_t i = 0; i < N_WIDTHS * CODED; i++) {
        size_t D = widths[i % N_WIDTHS], n = 64 * D * sizeof(float);
        int format = coded[i / N_WIDTHS].format;
        struct page p = page_make(&r, 0, format, D);
        page_pack(k, &p, format);
        float *a = malloc(2 * n), *b = malloc(2 * n);
        struct kv_page_unpack_args u = {
            .record = p.record, .format = format, .D = D, .k = a, .v = a + 64 * D};
        kernels_get("ref")->kv_page_unpack(&u);
        u.k = b;
        u.v = b + 64 * D;
        k->kv_page_unpack(&u);
        assert_memory_equal(a, b, 2 * n);
        free(a);
        free(b);
        page_free(&p);
    }
}

static void test_same_values(void **state)
{
    (void)state;
    each_fast_backend(same_values);
}

static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

/* The layout as the README words it, restated: pages whose codes name their own place. Channel c of K holds
 * c + code with codes from 0 (one token) to the last (another), so that scale is 1 and min c; token t of V
 * holds t + 2 * code. */
struct codes {
    int k_top, v_top;
    unsigned k[64][D_MAX], v[64][D_MAX];
};

static void name_places(struct codes *w, struct page *p, int k_bits, int v_bits)
{
    w->k_top = (1 << k_bits) - 1;
    w->v_top = (1 << v_bits) - 1;
    for (unsigned t = 0; t < 64; t++)
        for (unsigned c = 0; c < p->D; c++) {
            w->k[t][c] = (t * 7 + t / 16 + 3 * c + c / 16) & (unsigned)w->k_top;
            w->v[t][c] = (5 * t + t / 16 + c + c / 16) & (unsigned)w->v_top;
            if (t >= 62)
                w->k[t][c] = t == 62 ? 0 : (unsigned)w->k_top;
            if (c >= p->D - 2)
                w->v[t][c] = c == p->D - 2 ? 0 : (unsigned)w->v_top;
            p->k[t * p->ld + c] = half_from_float((float)w->k[t][c] + (float)c);
            p->v[t * p->ld + c] = half_from_float((float)w->v[t][c] * 2 + (float)t);
        }
}

/* `bits` bits of the little-endian 32-bit word at p, from bit `shift` on. */
static unsigned bits_at(const uint8_t *p, unsigned shift, unsigned bits)
{
    uint32_t w = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    return w >> shift & ((1u << bits) - 1);
}

/* K plane of 8, 4 or 2 bits: line (t16, cg), word of a token, 32 / bits channels. */
static void check_k_plane(const uint8_t *plane, size_t D, unsigned bits, const struct codes *w, unsigned low)
{
    size_t per = 32 / bits, lines = D / per;
    for (size_t t16 = 0; t16 < 4; t16++)
        for (size_t cg = 0; cg < lines; cg++)
            for (size_t tok = 0; tok < 16; tok++) {
                size_t at = (t16 * lines + cg) * 64 + ((tok * 4) ^ (((cg >> 1) & 1) * 32));
                for (unsigned i = 0; i < per; i++)
                    assert_int_equal(bits_at(plane + at, i * bits, bits),
                                     w->k[16 * t16 + tok][cg * per + i] >> low & ((1u << bits) - 1));
            }
}

/* K plane of 1 bit: line (t32, cg), word of tokens t and t + 16, 16 channels each. */
static void check_k_plane_1(const uint8_t *plane, size_t D, const struct codes *w, unsigned low)
{
    for (size_t t32 = 0; t32 < 2; t32++)
        for (size_t cg = 0; cg < D / 16; cg++)
            for (size_t tok = 0; tok < 16; tok++) {
                size_t at = (t32 * (D / 16) + cg) * 64 + ((tok * 4) ^ (((cg >> 1) & 1) * 32));
                for (unsigned i = 0; i < 32; i++)
                    assert_int_equal(bits_at(plane + at, i, 1),
                                     w->k[32 * t32 + tok + i / 16 * 16][cg * 16 + i % 16] >> low & 1);
            }
}

/* The order of the 16 tokens of column j. */
static size_t v_token(size_t j, size_t i)
{
    static const size_t order[8] = {0, 1, 16, 17, 2, 3, 18, 19};
    return 32 * (i / 8) + 4 * j + order[i % 8];
}

/* V plane of 8, 4, 2 or 1 bits: `number` is the line of code i of column j. */
static void check_v_plane(const uint8_t *plane, size_t D, unsigned bits, const struct codes *w, unsigned low)
{
    for (size_t mt = 0; mt < D / 16; mt++)
        for (size_t j = 0; j < 4; j++)
            for (unsigned i = 0; i < 16; i++) {
                size_t u = i / 8, h = i / 4 % 2, line;
                unsigned shift = i * bits % 32;
                if (bits == 8)
                    line = ((u * (D / 16) + mt) * 2 + h) * 4 + j;
                else if (bits == 4)
                    line = (u * (D / 16) + mt) * 4 + j;
                else if (bits == 2)
                    line = mt * 4 + j;
                else {
                    line = mt * 2 + j / 2;
                    shift = (unsigned)(j % 2) * 16 + i;
                }
                for (size_t ch = 0; ch < 16; ch++) {
                    size_t at = line * 64 + ((ch * 4) ^ (((line >> 1) & 1) * 32));
                    assert_int_equal(bits_at(plane + at, shift, bits),
                                     w->v[v_token(j, i)][16 * mt + ch] >> low & ((1u << bits) - 1));
                }
            }
}

/* What the grid of values from 0 * step to top * step, on `base`, must be. */
static void check_params(const uint8_t *kp, size_t D)
{
    size_t n = 0;
    for (size_t j = 0; j < 4; j++)
        for (size_t i = 0; i < D / 16; i++)
            for (size_t c = 0; c < 4; c++, n++) {
                size_t channel = 4 * (4 * i + j) + c;
                assert_int_equal(u16_at(kp + 2 * n), half_from_float(1));
                assert_int_equal(u16_at(kp + 2 * (D + n)), half_from_float((float)channel));
            }
    const uint8_t *vp = kp + 4 * D;
    for (size_t r = 0; r < 8; r++)
        for (size_t mt = 0; mt < 4; mt++)
            for (size_t half = 0; half < 2; half++) {
                size_t at = r * 8 + mt * 2 + half, token = 16 * mt + 2 * r + half;
                assert_int_equal(u16_at(vp + 2 * at), half_from_float(2));
                assert_int_equal(u16_at(vp + 2 * (64 + at)), half_from_float((float)token));
            }
}

static void layout(const struct kernels *k)
{
    struct random r = {15};
    static struct codes w;
    for (size_t f = 0; f < CODED; f++)
        for (size_t n = 0; n < 2; n++) {
            size_t D = n ? 80 : 64;
            unsigned kb = (unsigned)coded[f].k_bits, vb = (unsigned)coded[f].v_bits;
            struct page p = page_make(&r, 0, coded[f].format, D);
            name_places(&w, &p, coded[f].k_bits, coded[f].v_bits);
            page_pack(k, &p, coded[f].format);
            if (kb == 3) {
                check_k_plane(p.record, D, 2, &w, 0);
                check_k_plane_1(p.record + 16 * D, D, &w, 2);
            } else {
                check_k_plane(p.record, D, kb, &w, 0);
            }
            const uint8_t *values = p.record + 8 * kb * D;
            check_v_plane(values, D, vb == 3 ? 2 : vb, &w, 0);
            if (vb == 3)
                check_v_plane(values + 16 * D, D, 1, &w, 2);
            check_params(values + 8 * vb * D, D);
            page_free(&p);
        }
}

static void test_layout(void **state)
{
    (void)state;
    each_backend(layout);
}

/* The summary: the mean within a step of it, and no key further from the stored point than the radius. */
static void scan(const struct kernels *k)
{
    struct random r = {16};
    for (size_t i = 0; i < N_WIDTHS * KINDS; i++) {
        size_t D = widths[i % N_WIDTHS];
        struct page p = page_make(&r, (int)(i / N_WIDTHS), KV_4, D);
        page_pack(k, &p, KV_4);
        double step = (double)half_to_float(u16_at(p.scan + D)), furthest = 0, top = 0;
        for (size_t c = 0; c < D; c++) {
            double sum = 0;
            for (size_t t = 0; t < 64; t++)
                sum += (double)half_to_float(p.k[t * p.ld + c]);
            assert_true(fabs(sum / 64 - step * (int8_t)p.scan[c]) <= step * 0.51 + 1e-3 * step);
            top = fmax(top, fabs(sum / 64));
        }
        assert_true(step <= top / 127 * (1 + 0x1p-9) + 0x1p-24);
        for (size_t t = 0; t < 64; t++) {
            double sum = 0;
            for (size_t c = 0; c < D; c++) {
                double d = (double)half_to_float(p.k[t * p.ld + c]) - step * (int8_t)p.scan[c];
                sum += d * d;
            }
            furthest = fmax(furthest, sqrt(sum));
        }
        double radius = (double)half_to_float(u16_at(p.scan + D + 2));
        assert_true(radius >= furthest);
        assert_true(furthest > 65504 ? isinf(radius) : radius <= furthest * (1 + 0x1p-9) + 0x1p-23);
        for (size_t n = D + 4; n < D + 16; n++)
            assert_int_equal(p.scan[n], 0);
        uint8_t *before = malloc(p.bytes);
        memcpy(before, p.record, p.bytes);
        k->kv_page_pack(&(struct kv_page_pack_args){
            .k = p.k, .ldk = p.ld, .v = p.v, .ldv = p.ld, .D = D, .format = KV_4, .record = p.record});
        assert_memory_equal(before, p.record, p.bytes); /* without a scan: the same record */
        free(before);
        page_free(&p);
    }
}

static void test_scan(void **state)
{
    (void)state;
    each_backend(scan);
}

static uint64_t fnv(uint64_t h, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}

/* Files have these bytes: a change of a number here is a new format and needs a number of its own. */
static void frozen(const struct kernels *k)
{
    static const struct {
        int format;
        size_t D;
        uint64_t record, scan;
    } want[] = {
        {KV_RAW, 64, UINT64_C(0x155ee210d1194016), UINT64_C(0x6449354ebc62c083)},
        {KV_RAW, 80, UINT64_C(0x69bdcee50df2a7f6), UINT64_C(0x2b2e009bf7ffc7d7)},
        {KV_RAW, 128, UINT64_C(0x409987322780a910), UINT64_C(0x65f0675355f79200)},
        {KV_8, 64, UINT64_C(0x61e9671e8d87a9d2), UINT64_C(0x6449354ebc62c083)},
        {KV_8, 80, UINT64_C(0x7e878d6825f965b8), UINT64_C(0x2b2e009bf7ffc7d7)},
        {KV_8, 128, UINT64_C(0xa7eccbc0fd82995), UINT64_C(0x65f0675355f79200)},
        {KV_K8V4, 64, UINT64_C(0xaa213a81f59086d3), UINT64_C(0x6449354ebc62c083)},
        {KV_K8V4, 80, UINT64_C(0x1e1dfab45d249515), UINT64_C(0x2b2e009bf7ffc7d7)},
        {KV_K8V4, 128, UINT64_C(0x39daa209e7b40b81), UINT64_C(0x65f0675355f79200)},
        {KV_4, 64, UINT64_C(0x4e1ca2dcf1d1ffce), UINT64_C(0x6449354ebc62c083)},
        {KV_4, 80, UINT64_C(0x2338383202b8e59e), UINT64_C(0x2b2e009bf7ffc7d7)},
        {KV_4, 128, UINT64_C(0xe3c2a3220996bdd2), UINT64_C(0x65f0675355f79200)},
        {KV_K4V2, 64, UINT64_C(0x85324a855fe52e60), UINT64_C(0x6449354ebc62c083)},
        {KV_K4V2, 80, UINT64_C(0xc93f41b9c3bf3856), UINT64_C(0x2b2e009bf7ffc7d7)},
        {KV_K4V2, 128, UINT64_C(0x5c5cc43394c79a50), UINT64_C(0x65f0675355f79200)},
        {KV_3, 64, UINT64_C(0x4759fc1ab7867a1f), UINT64_C(0x6449354ebc62c083)},
        {KV_3, 80, UINT64_C(0xd20d395050eacd4a), UINT64_C(0x2b2e009bf7ffc7d7)},
        {KV_3, 128, UINT64_C(0x5ab5d8ef84d4d319), UINT64_C(0x65f0675355f79200)},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct random r = {77};
        struct page p = page_make(&r, 0, want[i].format, want[i].D);
        page_pack(k, &p, want[i].format);
        assert_true(fnv(UINT64_C(0xcbf29ce484222325), p.record, p.bytes) == want[i].record);
        assert_true(fnv(UINT64_C(0xcbf29ce484222325), p.scan, kv_scan_bytes(p.D)) == want[i].scan);
        page_free(&p);
    }
}

static void test_frozen(void **state)
{
    (void)state;
    each_backend(frozen);
}

static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int format;
    } want[] = {{"raw", 16}, {"kv8", 8}, {"k8v4", 84}, {"kv4", 4}, {"k4v2", 42}, {"kv3", 3}};
    size_t n;
    const int *all = kv_formats(&n);
    assert_int_equal(n, 6);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(all[i], want[i].format);
        assert_string_equal(kv_format_name(all[i]), want[i].name);
        assert_int_equal(kv_format_parse(want[i].name), want[i].format);
        if (i)
            assert_true(kv_page_bytes(all[i], 128) <= kv_page_bytes(all[i - 1], 128));
    }
    assert_int_equal(kv_format_parse("16"), KV_RAW);
    assert_int_equal(kv_format_parse("8"), KV_8);
    assert_int_equal(kv_format_parse("4"), KV_4);
    assert_int_equal(kv_format_parse("3"), KV_3);
    static const char *const bad[] = {"", "kv", "kv44", "KV4", "84", "42", " kv4", "kv4 ", "0", "-8"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(kv_format_parse(bad[i]), 0);
    for (int f = -100; f < 300; f++)
        if (kv_format_name(f))
            assert_int_equal(kv_format_parse(kv_format_name(f)), f);
        else
            assert_int_equal(kv_page_bytes(f, 64), 0);
}

static void test_sizes(void **state)
{
    (void)state;
    assert_int_equal(kv_page_bytes(16, 64), 16384);
    assert_int_equal(kv_page_bytes(8, 64), 8704);
    assert_int_equal(kv_page_bytes(8, 128), 17152);
    assert_int_equal(kv_page_bytes(16, 72), 18432);
    assert_int_equal(kv_page_bytes(8, 72), 0);
    assert_int_equal(kv_page_bytes(KV_4, 64), 4608);
    assert_int_equal(kv_page_bytes(KV_4, 128), 8960);
    assert_int_equal(kv_page_bytes(KV_K8V4, 128), 13056);
    assert_int_equal(kv_page_bytes(KV_K4V2, 128), 6912);
    assert_int_equal(kv_page_bytes(KV_3, 128), 6912);
    assert_int_equal(kv_page_bytes(KV_3, 16), 1088);
    assert_int_equal(kv_page_bytes(KV_4, 72), 0);
    assert_int_equal(kv_page_bytes(5, 64), 0);
    assert_int_equal(kv_scan_bytes(128), 144);
    assert_int_equal(kv_page_bytes(8, 0), 0);
    assert_int_equal(kv_page_bytes(8, 512), 0);
}

static void raw_unpacks(const struct kernels *k)
{
    enum { D = 24 };
    struct random r = {13};
    uint16_t raw[2 * 64 * D];
    float kf[64 * D], vf[64 * D];
    for (size_t i = 0; i < 2 * 64 * D; i++)
        raw[i] = half_from_float(random_normal(&r));
    k->kv_page_unpack(&(struct kv_page_unpack_args){.record = raw, .format = 16, .D = D, .k = kf, .v = vf});
    for (size_t i = 0; i < 64 * D; i++) {
        assert_true(kf[i] == half_to_float(raw[i]));
        assert_true(vf[i] == half_to_float(raw[64 * D + i]));
    }
}

static void test_raw(void **state)
{
    (void)state;
    each_backend(raw_unpacks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),       cmocka_unit_test(test_names), cmocka_unit_test(test_layout),
        cmocka_unit_test(test_bounded),     cmocka_unit_test(test_scan),  cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_same_values), cmocka_unit_test(test_raw),   cmocka_unit_test(test_frozen),
    };
    return cmocka_run_group_tests_name("kernels_page", tests, NULL, NULL);
}
