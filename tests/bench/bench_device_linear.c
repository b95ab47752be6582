/* SPDX-License-Identifier: Apache-2.0 */
/* bench_device_linear.c - speed of the card's linear op: one row and four over weights of every format,
 * against the measured copy; the chain of a decoder layer's products in one graph; large products in TFLOP/s.
 *
 *   bench_device_linear [cuda|host] [limits|few|many|chain ...] [w8|w4|...]     (nothing named: all)
 *
 * Weights rotate so that no run finds them in the card's cache.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"

enum { WARM = 6, RUNS = 21, ROTATE_MAX = 64 };

static const struct {
    const char *name;
    enum device_weight_format format;
} formats[] = {{"w8", DEVICE_W_W8},      {"w4", DEVICE_W_W4},     {"f16", DEVICE_W_F16},
               {"fp8", DEVICE_W_FP8},    {"bf16", DEVICE_W_BF16}, {"w4g32", DEVICE_W_W4G32},
               {"w8g32", DEVICE_W_W8G32}};
enum { FORMATS = sizeof formats / sizeof *formats };

struct bench {
    struct device *d;
    const struct device_ops *ops;
    struct device_event *from, *to;
    double copy; /* bytes a second */
};

static void must(int rc, const struct err *e)
{
    if (rc) {
        fprintf(stderr, "%s\n", e->text);
        exit(1);
    }
}

static void *take(struct bench *b, size_t bytes, int byte)
{
    void *p;
    struct err e = {0};
    must(b->ops->alloc(b->d, bytes, &p, &e), &e);
    b->ops->fill(b->d, DEVICE_COMPUTE, p, byte, bytes);
    return p;
}

/* Small values of either sign, in fp16 or f32. */
static void *activations(struct bench *b, size_t n, int half)
{
    uint32_t *words = malloc(n * 4);
    struct err e = {0};
    if (!words)
        exit(1);
    for (size_t i = 0, x = 1; i < n; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint32_t r = (uint32_t)(x >> 33);
        words[i] = half ? (r & 0x83ff83ffu) | 0x38003800u : (r & 0x807fffffu) | 0x3f000000u;
    }
    size_t bytes = half ? (n + 1) / 2 * 4 : n * 4;
    void *p = take(b, bytes, 0);
    b->ops->upload(b->d, DEVICE_COMPUTE, p, words, bytes);
    must(b->ops->sync(b->d, DEVICE_COMPUTE, &e), &e);
    free(words);
    return p;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median milliseconds of a captured run of `n` ops. */
static double time_graph(struct bench *b, const struct device_linear_args *args, size_t n)
{
    struct device_graph *g;
    struct err e = {0};
    double ms[RUNS];
    must(b->ops->capture_begin(b->d, &e), &e);
    for (size_t i = 0; i < n; i++)
        b->ops->linear(b->d, &args[i]);
    must(b->ops->capture_end(b->d, &g, &e), &e);
    for (int i = -WARM; i < RUNS; i++) {
        b->ops->event_record(b->d, DEVICE_COMPUTE, b->from);
        b->ops->graph_launch(b->d, g);
        b->ops->event_record(b->d, DEVICE_COMPUTE, b->to);
        must(b->ops->sync(b->d, DEVICE_COMPUTE, &e), &e);
        if (i >= 0)
            ms[i] = b->ops->event_ms(b->d, b->from, b->to);
    }
    b->ops->graph_free(b->d, g);
    qsort(ms, RUNS, sizeof *ms, ascending);
    return ms[RUNS / 2];
}

static struct device_weight *weight(struct bench *b, enum device_weight_format f, size_t N, size_t K,
                                    size_t seed)
{
    struct device_weight *w;
    struct err e = {0};
    must(b->ops->weight_random(b->d, f, N, K, seed, &w, &e), &e);
    return w;
}

/* One shape, one row count: GB/s of the weight. */
static void few(struct bench *b, size_t f, size_t N, size_t K, size_t T)
{
    struct device_weight *w[ROTATE_MAX];
    struct device_linear_args args[ROTATE_MAX];
    w[0] = weight(b, formats[f].format, N, K, 1);
    size_t bytes = b->ops->weight_bytes(w[0]), n = (size_t)400000000 / bytes + 1;
    n = n < 4 ? 4 : n > ROTATE_MAX ? ROTATE_MAX : n;
    void *x = activations(b, T * K, 1), *y = take(b, T * N * 4, 0);
    for (size_t i = 0; i < n; i++) {
        if (i)
            w[i] = weight(b, formats[f].format, N, K, i + 1);
        args[i] = (struct device_linear_args){
            .w = w[i], .x = x, .ldx = K, .T = T, .epilogue = DEVICE_STORE_F32, .y = y, .ldy = N};
    }
    double ms = time_graph(b, args, n) / (double)n, rate = (double)bytes / ms * 1e3;
    printf("few   %-6s %6zu x %5zu  T %zu  %8.2f us  %6.3f TB/s  %5.1f %% of copy\n", formats[f].name, N, K,
           T, ms * 1e3, rate / 1e12, 100 * rate / b->copy);
    for (size_t i = 0; i < n; i++)
        b->ops->weight_free(b->d, w[i]);
    b->ops->release(b->d, x);
    b->ops->release(b->d, y);
}

/* The four products of eight layers of the Llama-3-8B shape, one after the other. */
static void chain(struct bench *b, size_t f, size_t T)
{
    enum { LAYERS = 8, C = 4096, F = 14336, QKV = 6144 };
    static const size_t shape[4][2] = {{QKV, C}, {C, C}, {2 * F, C}, {C, F}};
    struct device_weight *w[LAYERS * 4];
    struct device_linear_args args[LAYERS * 4];
    float *residual = activations(b, T * C, 0), *norm = activations(b, C, 0);
    float *qkv = take(b, T * QKV * 4, 0);
    void *half = activations(b, T * C, 1), *act = take(b, T * F * 2, 0);
    size_t bytes = 0;
    for (size_t i = 0; i < LAYERS * 4; i++) {
        size_t kind = i % 4;
        w[i] = weight(b, formats[f].format, shape[kind][0], shape[kind][1], i);
        bytes += b->ops->weight_bytes(w[i]);
        args[i] = (struct device_linear_args){.w = w[i], .x = residual, .ldx = C, .T = T, .eps = 1e-5f};
        args[i].norm_w = kind % 2 ? NULL : norm;
        args[i].epilogue = kind % 2 ? DEVICE_ADD_F32 : kind ? DEVICE_SILU_MUL : DEVICE_STORE_F32;
        args[i].y = kind % 2 ? (void *)residual : kind ? act : qkv;
        args[i].ldy = kind % 2 ? C : kind ? F : QKV;
        if (kind % 2) {
            args[i].x = kind == 1 ? half : act;
            args[i].ldx = kind == 1 ? C : F;
        }
    }
    double ms = time_graph(b, args, LAYERS * 4), rate = (double)bytes / ms * 1e3;
    printf("chain %-6s 32 products of 8 layers  T %zu  %8.1f us a layer  %6.3f TB/s  %5.1f %% of copy\n",
           formats[f].name, T, ms * 1e3 / LAYERS, rate / 1e12, 100 * rate / b->copy);
    for (size_t i = 0; i < LAYERS * 4; i++)
        b->ops->weight_free(b->d, w[i]);
    void *all[] = {residual, norm, qkv, half, act};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        b->ops->release(b->d, all[i]);
}

static void many(struct bench *b, size_t f, size_t N, size_t K, size_t T, enum device_epilogue epilogue)
{
    static const char *const names[] = {"store", "add", "half", "silu"};
    struct device_weight *w = weight(b, formats[f].format, N, K, 1);
    size_t scratch = b->ops->linear_scratch_bytes(b->d, T, K, N);
    int norm = epilogue == DEVICE_SILU_MUL;
    struct device_linear_args a = {.w = w, .ldx = K, .T = T, .eps = 1e-5f, .epilogue = epilogue, .ldy = N};
    a.x = activations(b, T * K, !norm);
    a.norm_w = norm ? activations(b, K, 0) : NULL;
    a.y = take(b, T * N * 4, 0);
    a.scratch = take(b, scratch, 0);
    a.scratch_bytes = scratch;
    struct err e = {0};
    double ms[RUNS];
    for (int i = -WARM; i < RUNS; i++) {
        b->ops->event_record(b->d, DEVICE_COMPUTE, b->from);
        b->ops->linear(b->d, &a);
        b->ops->event_record(b->d, DEVICE_COMPUTE, b->to);
        must(b->ops->sync(b->d, DEVICE_COMPUTE, &e), &e);
        if (i >= 0)
            ms[i] = b->ops->event_ms(b->d, b->from, b->to);
    }
    qsort(ms, RUNS, sizeof *ms, ascending);
    printf("many  %-6s %6zu x %5zu  T %4zu %-5s  %8.3f ms  %7.1f TFLOP/s\n", formats[f].name, N, K, T,
           names[epilogue], ms[RUNS / 2], 2e-9 * (double)N * (double)K * (double)T / ms[RUNS / 2]);
    b->ops->weight_free(b->d, w);
    void *all[] = {(void *)a.x, (void *)a.norm_w, a.y, a.scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        b->ops->release(b->d, all[i]);
}

/* The copy always, which the others are compared with. */
static void limits(struct bench *b, int every)
{
    static const struct {
        const char *name;
        enum device_limit what;
    } all[] = {{"copy TB/s", DEVICE_LIMIT_COPY},
               {"read TB/s", DEVICE_LIMIT_READ},
               {"fp16 TFLOP/s", DEVICE_LIMIT_F16},
               {"bf16 TFLOP/s", DEVICE_LIMIT_BF16},
               {"fp8 TFLOP/s", DEVICE_LIMIT_FP8}};
    for (size_t i = 0; i < (every ? sizeof all / sizeof *all : 1); i++) {
        struct err e = {0};
        double v = 0;
        if (b->ops->measure(b->d, all[i].what, &v, &e))
            printf("limit %s: %s\n", all[i].name, e.text);
        else
            printf("limit %s: %.3f\n", all[i].name, v / 1e12);
        if (i == 0)
            b->copy = v > 0 ? v : 1;
    }
}

/* `word` is named, or none of the `n` words of its kind is. */
static int asked(int argc, char **argv, const char *word, const char *const *kind, size_t n)
{
    int others = 0;
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], word))
            return 1;
        for (size_t k = 0; k < n; k++)
            others |= !strcmp(argv[i], kind[k]);
    }
    return !others;
}

static void run_format(struct bench *b, size_t f, int chains, int fews, int manys)
{
    static const size_t shapes[][2] = {
        {4096, 4096}, {6144, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}};
    static const size_t tokens[] = {5, 16, 64, 512, 2048, 8192};
    for (size_t T = 1; chains && T <= DEVICE_DECODE_T; T += 3)
        chain(b, f, T);
    for (size_t s = 0; fews && s < sizeof shapes / sizeof *shapes; s++)
        for (size_t T = 1; T <= DEVICE_DECODE_T; T += 3)
            few(b, f, shapes[s][0], shapes[s][1], T);
    for (size_t t = 0; manys && t < sizeof tokens / sizeof *tokens; t++) {
        many(b, f, 6144, 4096, tokens[t], DEVICE_STORE_F32);
        many(b, f, 28672, 4096, tokens[t], DEVICE_SILU_MUL);
        many(b, f, 4096, 14336, tokens[t], DEVICE_ADD_F32);
    }
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    struct err e = {0};
    struct device_info info;
    must(device_open(&b.d, argc > 1 ? argv[1] : "cuda", NULL, 0, &e), &e);
    b.ops = b.d->ops;
    b.ops->info(b.d, &info);
    printf("card %s, %d SMs\n", info.name, info.processors);
    must(b.ops->event_create(b.d, &b.from, &e), &e);
    must(b.ops->event_create(b.d, &b.to, &e), &e);
    static const char *const kinds[] = {"limits", "chain", "few", "many"};
    const char *names[FORMATS];
    int wanted[4];
    for (size_t i = 0; i < 4; i++)
        wanted[i] = asked(argc, argv, kinds[i], kinds, 4);
    for (size_t f = 0; f < FORMATS; f++)
        names[f] = formats[f].name;
    limits(&b, wanted[0]);
    for (size_t f = 0; f < FORMATS; f++)
        if (asked(argc, argv, names[f], names, FORMATS))
            run_format(&b, f, wanted[1], wanted[2], wanted[3]);
    b.ops->event_free(b.d, b.from);
    b.ops->event_free(b.d, b.to);
    device_close(b.d);
    return 0;
}
