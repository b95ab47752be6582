/* SPDX-License-Identifier: Apache-2.0 */
/* bench_device_prefill.cu - the prefill cores against a plain kernel in fp32, then their rate.
 *
 * Checks: random rows over many shapes, one piece or several with the state carried between them, outputs and
 * state poisoned with NaN first, each run twice (bits equal). What differs is told by head, page and warp.
 * usage: bench_device_prefill [check] [bench] [long] [sustained] [sm80] [sm90] [shape of one bench: D heads G
 * past T]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/prefill_core.h"

#define MUST(call)                                                                                           \
    do {                                                                                                     \
        const cudaError_t rc_ = (call);                                                                      \
        if (rc_ != cudaSuccess) {                                                                            \
            printf("FAILED %s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(rc_));             \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

typedef cudaError_t core_fn(const struct prefill_core *a, cudaStream_t stream);

struct shape {
    int D, heads, G;
    size_t pos0, T, piece; /* tokens of a piece, a multiple of 64 */
    int hot;               /* some keys so many times larger than the rest; -1: all about the same weight */
};

struct buffers {
    __half *q, *k, *v, *k_raw, *v_raw, *out, *twice;
    float *o, *lse, *ref;
    void *split;
    uint32_t *heads_of;
    size_t tokens, Tp, base, ldout;
};

__device__ float uniform(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    x ^= x >> 31;
    return ((float)(uint32_t)(x >> 40) + 0.5f) * (1.0f / 16777216.0f);
}

__global__ void fill_normal(__half *to, size_t n, uint64_t seed, float scale, size_t row, int hot)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        const float u = uniform(seed * 0x51ed270b35ull + 2 * i),
                    w = uniform(seed * 0x51ed270b35ull + 2 * i + 1);
        float x = sqrtf(-2.0f * logf(u)) * cospif(2.0f * w) * scale;
        if (hot > 0 && (i / row) % 97 == 41)
            x *= (float)hot;
        to[i] = __float2half(x);
    }
}

/* One warp a row: the rule as it is written, key by key in fp32. Rows are step apart. */
__global__ void reference(prefill_core a, const __half *k, const __half *v, size_t tokens, size_t step,
                          float *ref)
{
    const size_t r = ((size_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * step;
    const int lane = (int)threadIdx.x % 32, qh = (int)blockIdx.y, head = qh / a.G, n = a.D / 32;
    if (r >= a.T)
        return;
    const size_t pos = a.pos0 + r, base = a.pos0 / 64 * 64;
    const __half *q = a.q + ((size_t)qh * a.Tp + (pos - base)) * a.D;
    float acc[4] = {}, m = -INFINITY, l = 0;
    for (size_t key = 0; key <= pos; key++) {
        const bool own = key / 64 == pos / 64;
        if (!own && key >= tokens)
            continue;
        const size_t row = own ? (size_t)head * a.Tp + (key - base) : (size_t)head * tokens + key;
        const __half *kr = (own ? a.k_raw : k) + row * a.D, *vr = (own ? a.v_raw : v) + row * a.D;
        float s = 0;
        for (int i = 0; i < n; i++)
            s += __half2float(q[i * 32 + lane]) * __half2float(kr[i * 32 + lane]);
        for (int w = 16; w; w /= 2)
            s += __shfl_xor_sync(0xffffffffu, s, w);
        const float top = fmaxf(m, s), was = exp2f(m - top), p = exp2f(s - top);
        l = l * was + p;
        m = top;
        for (int i = 0; i < n; i++)
            acc[i] = acc[i] * was + p * __half2float(vr[i * 32 + lane]);
    }
    for (int i = 0; i < n; i++)
        ref[(r / step * gridDim.y + (size_t)qh) * a.D + i * 32 + lane] = acc[i] / l;
}

static void *grab(size_t bytes)
{
    void *p = NULL;
    MUST(cudaMalloc(&p, bytes ? bytes : 128));
    MUST(cudaMemset(p, 0xff, bytes ? bytes : 128)); /* NaN in fp16 and fp32 */
    return p;
}

static void random_halves(__half *to, size_t n, uint64_t seed, float scale, size_t row, int hot)
{
    if (n)
        fill_normal<<<1024, 256>>>(to, n, seed, scale, row, hot);
    MUST(cudaGetLastError());
}

static buffers make(const shape &s)
{
    buffers b = {};
    b.base = s.pos0 / 64 * 64;
    b.Tp = (s.pos0 - b.base + s.T + 127) / 128 * 128;
    b.tokens = (s.pos0 + s.T - 1) / 64 * 64; /* what the last page sees */
    b.ldout = (size_t)(s.heads + 1) * (size_t)s.G * (size_t)s.D;
    const size_t D = (size_t)s.D, qh = (size_t)(s.heads * s.G), h = (size_t)s.heads;
    b.q = (__half *)grab(qh * b.Tp * D * 2);
    b.k = (__half *)grab(h * b.tokens * D * 2);
    b.v = (__half *)grab(h * b.tokens * D * 2);
    b.k_raw = (__half *)grab(h * b.Tp * D * 2);
    b.v_raw = (__half *)grab(h * b.Tp * D * 2);
    b.out = (__half *)grab(s.T * b.ldout * 2);
    b.twice = (__half *)grab(s.T * b.ldout * 2);
    b.o = (float *)grab(qh * b.Tp * D * 4);
    b.lse = (float *)grab(qh * b.Tp * 4);
    b.split = grab(PREFILL_SPLIT_BYTES);
    b.heads_of = (uint32_t *)grab(h * 4);
    uint32_t of[64];
    for (uint32_t i = 0; i < (uint32_t)s.heads; i++)
        of[i] = i + (i > 0); /* head 1 of the layer is not ours */
    MUST(cudaMemcpy(b.heads_of, of, h * 4, cudaMemcpyHostToDevice));
    random_halves(b.q, qh * b.Tp * D, 1, (s.hot < 0 ? 0.03f : 1.44f) / sqrtf((float)D), D, 0);
    random_halves(b.k, h * b.tokens * D, 2, 1.0f, D, s.hot);
    random_halves(b.v, h * b.tokens * D, 3, 1.0f, D, 0);
    random_halves(b.k_raw, h * b.Tp * D, 4, 1.0f, D, s.hot);
    random_halves(b.v_raw, h * b.Tp * D, 5, 1.0f, D, 0);
    return b;
}

static void drop(buffers *b)
{
    void *all[] = {b->q,     b->k, b->v,   b->k_raw,    b->v_raw, b->out,
                   b->twice, b->o, b->lse, b->heads_of, b->split};
    for (void *p : all)
        MUST(cudaFree(p));
}

static prefill_core call_of(const shape &s, const buffers &b)
{
    prefill_core a = {};
    a.heads = s.heads, a.G = s.G, a.D = s.D;
    a.q = b.q, a.k_raw = b.k_raw, a.v_raw = b.v_raw;
    a.ld_tokens = b.tokens;
    a.pos0 = s.pos0, a.T = s.T, a.Tp = b.Tp;
    a.split = b.split, a.split_bytes = PREFILL_SPLIT_BYTES;
    a.o = b.o, a.lse = b.lse, a.out = b.out, a.ldout = b.ldout, a.heads_of = b.heads_of;
    return a;
}

/* All pieces of the layer. */
static cudaError_t layer(core_fn *core, const shape &s, const buffers &b, __half *out)
{
    prefill_core a = call_of(s, b);
    a.out = out;
    const size_t pieces = b.tokens ? (b.tokens + s.piece - 1) / s.piece : 1;
    for (size_t i = 0; i < pieces; i++) {
        a.first = i * s.piece;
        a.tokens = b.tokens - a.first < s.piece ? b.tokens - a.first : s.piece;
        a.k = a.tokens ? b.k + a.first * (size_t)s.D : NULL;
        a.v = a.tokens ? b.v + a.first * (size_t)s.D : NULL;
        a.begin = i == 0;
        a.last = i + 1 == pieces;
        if (pieces == 1)
            a.o = NULL, a.lse = NULL;
        const cudaError_t rc = core(&a, NULL);
        if (rc != cudaSuccess)
            return rc;
    }
    return cudaSuccess;
}

/* Where the errors are: by query head, by page parity (the group of warps), by warp, first wrong element. */
static void explain(const shape &s, const float *ref, const __half *out, size_t ldout, size_t step,
                    size_t rows)
{
    double bad[8][4] = {}; /* [head][warp] */
    size_t shown = 0;
    for (size_t i = 0; i < rows; i++)
        for (int qh = 0; qh < s.heads * s.G; qh++)
            for (int d = 0; d < s.D; d++) {
                const size_t r = i * step, in_page = (s.pos0 + r) % 64;
                const int head = qh / s.G, kv = head + (head > 0), col = (kv * s.G + qh % s.G) * s.D + d;
                const float x = __half2float(out[r * ldout + (size_t)col]);
                const float y = ref[(i * (size_t)(s.heads * s.G) + (size_t)qh) * (size_t)s.D + (size_t)d];
                if (fabsf(x - y) <= 0.02f)
                    continue;
                bad[qh % 8][in_page / 16]++;
                if (shown++ < 12)
                    printf("    row %zu (page %zu, in page %zu) query head %d d %d: %g, want %g\n", r,
                           (s.pos0 + r) / 64 - s.pos0 / 64, in_page, qh, d, (double)x, (double)y);
            }
    for (int h = 0; h < 8 && h < s.heads * s.G; h++)
        printf("    query head %d (mod 8): wrong by warp of the page: %.0f %.0f %.0f %.0f\n", h, bad[h][0],
               bad[h][1], bad[h][2], bad[h][3]);
}

static int check(const char *name, core_fn *core, const shape &s)
{
    buffers b = make(s);
    const size_t step = s.T > 1024 ? 37 : 1, rows = (s.T + step - 1) / step, qh = (size_t)(s.heads * s.G);
    const size_t n = rows * qh * (size_t)s.D;
    b.ref = (float *)grab(n * 4);
    prefill_core a = call_of(s, b);
    reference<<<dim3((unsigned)((rows + 3) / 4), (unsigned)qh), 128>>>(a, b.k, b.v, b.tokens, step, b.ref);
    MUST(cudaGetLastError());
    MUST(layer(core, s, b, b.out));
    cudaError_t rc = cudaDeviceSynchronize();
    if (rc != cudaSuccess) {
        printf("FAILED %s D %d heads %d G %d pos0 %zu T %zu: %s\n", name, s.D, s.heads, s.G, s.pos0, s.T,
               cudaGetErrorString(rc));
        exit(1);
    }
    MUST(layer(core, s, b, b.twice));
    float *ref = (float *)malloc(n * 4);
    __half *out = (__half *)malloc(s.T * b.ldout * 2), *twice = (__half *)malloc(s.T * b.ldout * 2);
    MUST(cudaMemcpy(ref, b.ref, n * 4, cudaMemcpyDeviceToHost));
    MUST(cudaMemcpy(out, b.out, s.T * b.ldout * 2, cudaMemcpyDeviceToHost));
    MUST(cudaMemcpy(twice, b.twice, s.T * b.ldout * 2, cudaMemcpyDeviceToHost));
    double err = 0, norm = 0;
    size_t strays = 0;
    for (size_t i = 0; i < rows; i++)
        for (size_t col = 0; col < b.ldout; col++) {
            const int kv = (int)(col / (size_t)s.D) / s.G, g = (int)(col / (size_t)s.D) % s.G;
            const double x = (double)__half2float(out[i * step * b.ldout + col]);
            if ((kv == 1) != (x != x)) /* the head that is not ours stays poisoned, all else is written */
                strays++;
            if (kv == 1)
                continue;
            const size_t at =
                (i * qh + (size_t)((kv - (kv > 0)) * s.G + g)) * (size_t)s.D + col % (size_t)s.D;
            err += (x - (double)ref[at]) * (x - (double)ref[at]);
            norm += (double)ref[at] * (double)ref[at];
        }
    const double rel = sqrt(err / norm);
    const int same = memcmp(out, twice, s.T * b.ldout * 2) == 0;
    const int bad = !(rel <= 2e-3) || strays || !same;
    printf("%s %s D %d heads %d G %d pos0 %zu T %zu pieces of %zu%s: error %.2e%s%s\n",
           bad ? "WRONG" : "ok   ", name, s.D, s.heads, s.G, s.pos0, s.T, s.piece,
           s.hot > 0 ? " hot"
           : s.hot   ? " flat"
                     : "",
           rel, strays ? " strays" : "", same ? "" : " DIFFERS BETWEEN RUNS");
    if (bad)
        explain(s, ref, out, b.ldout, step, rows);
    free(ref), free(out), free(twice);
    MUST(cudaFree(b.ref));
    drop(&b);
    return bad;
}

static const shape shapes[] = {
    {128, 1, 1, 0, 1, 65536, 0},        {128, 1, 1, 0, 64, 65536, 0},
    {128, 1, 2, 0, 64, 65536, 0},       {128, 1, 1, 64, 64, 65536, 0},
    {128, 1, 2, 64, 64, 65536, 0},      {128, 1, 1, 128, 64, 65536, 0},
    {128, 1, 1, 0, 128, 65536, 0},      {128, 1, 1, 0, 256, 65536, 0},
    {128, 2, 4, 0, 300, 65536, 0},      {128, 1, 4, 100, 5, 65536, 0},
    {128, 3, 3, 8191, 65, 65536, 0},    {128, 2, 7, 8191, 2, 65536, 6},
    {128, 1, 8, 8192, 63, 65536, 0},    {128, 2, 4, 4096, 1024, 2048, 0},
    {128, 2, 1, 1000, 777, 640, 0},     {128, 1, 3, 100, 2000, 192, 0},
    {128, 2, 4, 16384, 8192, 8192, 6},  {128, 1, 4, 0, 8192, 65536, 0},
    {64, 1, 1, 0, 1, 65536, 0},         {64, 1, 1, 0, 64, 65536, 0},
    {64, 1, 3, 0, 200, 65536, 0},       {64, 2, 1, 64, 321, 65536, 0},
    {64, 3, 3, 8191, 65, 65536, 6},     {64, 2, 1, 1000, 777, 640, 0},
    {64, 1, 7, 100, 2000, 192, 0},      {64, 1, 3, 8192, 4096, 4096, 6},
    {64, 2, 8, 127, 4, 64, 0},
    {128, 2, 4, 4096, 333, 1024, 99},   {64, 2, 3, 4096, 333, 1024, 99},
    {128, 1, 4, 40000, 200, 4096, -1},  {64, 1, 4, 40000, 200, 4096, -1},
    {128, 2, 2, 5000, 1500, 65536, 99},
};

static int by_size(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double flop_of(const shape &s)
{
    double pairs = 0;
    for (size_t r = 0; r < s.T; r++)
        pairs += (double)(s.pos0 + r + 1);
    return 4.0 * s.D * s.heads * s.G * pairs;
}

static void rate(const char *name, core_fn *core, const shape &s)
{
    enum { RUNS = 7 };
    buffers b = make(s);
    cudaEvent_t from, to;
    MUST(cudaEventCreate(&from));
    MUST(cudaEventCreate(&to));
    float ms[RUNS];
    for (int i = -1; i < RUNS; i++) {
        MUST(cudaEventRecord(from));
        MUST(layer(core, s, b, b.out));
        MUST(cudaEventRecord(to));
        MUST(cudaEventSynchronize(to));
        if (i >= 0)
            MUST(cudaEventElapsedTime(&ms[i], from, to));
    }
    qsort(ms, RUNS, sizeof *ms, by_size);
    const double flop = flop_of(s);
    printf("rate %s D %d heads %d G %d past %zu T %zu pieces of %zu: %.3f ms (%.3f .. %.3f), %.1f TFLOP/s\n",
           name, s.D, s.heads, s.G, s.pos0, s.T, s.piece, (double)ms[RUNS / 2], (double)ms[0],
           (double)ms[RUNS - 1], flop / (double)ms[RUNS / 2] * 1e-9);
    fflush(stdout);
    MUST(cudaEventDestroy(from));
    MUST(cudaEventDestroy(to));
    drop(&b);
}

/* For `seconds` on end, as a long document would: the card's power and warmth count. */
static void sustained(const char *name, core_fn *core, const shape &s, double seconds)
{
    buffers b = make(s);
    cudaEvent_t from, to;
    MUST(cudaEventCreate(&from));
    MUST(cudaEventCreate(&to));
    float ms = 0, total = 0;
    int runs = 0;
    for (; total < (float)(seconds * 1e3); total += ms) {
        MUST(cudaEventRecord(from));
        for (int i = 0; i < 8; i++, runs++)
            MUST(layer(core, s, b, b.out));
        MUST(cudaEventRecord(to));
        MUST(cudaEventSynchronize(to));
        MUST(cudaEventElapsedTime(&ms, from, to));
    }
    printf("sustained %s D %d heads %d G %d past %zu T %zu: %d runs, %.3f ms each, %.1f TFLOP/s\n", name, s.D,
           s.heads, s.G, s.pos0, s.T, runs, (double)total / runs, flop_of(s) * runs / (double)total * 1e-9);
    fflush(stdout);
    MUST(cudaEventDestroy(from));
    MUST(cudaEventDestroy(to));
    drop(&b);
}

int main(int argc, char **argv)
{
    int do_check = 0, do_bench = 0, do_long = 0, do_sustained = 0, use80 = 0, use90 = 0, own = 0, bad = 0;
    for (int i = 1; i < argc; i++) {
        do_check |= !strcmp(argv[i], "check");
        do_bench |= !strcmp(argv[i], "bench");
        do_long |= !strcmp(argv[i], "long");
        do_sustained |= !strcmp(argv[i], "sustained");
        use80 |= !strcmp(argv[i], "sm80");
        use90 |= !strcmp(argv[i], "sm90");
        if (argv[i][0] >= '0' && argv[i][0] <= '9' && !own)
            own = i;
    }
    if (!use80 && !use90)
        use80 = use90 = 1;
    struct {
        const char *name;
        core_fn *core;
        int on;
    } cores[] = {{"sm80", prefill_core_sm80, use80}, {"sm90", prefill_core_sm90, use90}};
    for (auto &c : cores) {
        if (!c.on)
            continue;
        for (const shape &s : shapes)
            if (do_check)
                bad += check(c.name, c.core, s);
        if (own && own + 4 < argc) {
            const shape s = {atoi(argv[own]),
                             atoi(argv[own + 1]),
                             atoi(argv[own + 2]),
                             (size_t)atoll(argv[own + 3]),
                             (size_t)atoll(argv[own + 4]),
                             65536,
                             0};
            rate(c.name, c.core, s);
        }
        for (size_t past = 0; do_bench && past <= 131072; past = past ? past * 8 : 16384)
            rate(c.name, c.core, {128, 4, 4, past, 8192, 65536, 0});
        if (do_bench) {
            rate(c.name, c.core, {64, 4, 4, 16384, 8192, 65536, 0});
            rate(c.name, c.core, {128, 4, 7, 65536, 8192, 65536, 0});
            rate(c.name, c.core, {128, 8, 1, 65536, 8192, 65536, 0});
            rate(c.name, c.core, {128, 4, 4, 131072, 64, 65536, 0});
            rate(c.name, c.core, {128, 4, 4, 131072, 512, 65536, 0});
        }
        if (do_sustained)
            sustained(c.name, c.core, {128, 4, 4, 65536, 8192, 65536, 0}, 2.0);
        if (do_long)
            rate(c.name, c.core, {128, 4, 4, 1 << 20, 8192, 65536, 0});
    }
    if (do_check)
        printf("%s: %d shapes wrong\n", bad ? "FAILED" : "passed", bad);
    return bad != 0;
}
