/* SPDX-License-Identifier: Apache-2.0 */
/* naive_llama.c - the plain forward pass. */
#include "tests/support/naive_llama.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/gguf.h"
#include "kernels/half.h"

struct shape {
    size_t L, C, H, HK, D, F;
    double eps, base;
};

static const float *tensor(const struct gguf *g, const char *format, size_t layer)
{
    char name[64];
    snprintf(name, sizeof name, format, layer);
    const struct gguf_tensor *t = gguf_tensor(g, name);
    return t ? (const float *)(const void *)t->data : NULL;
}

static void matrix(const float *w, const double *x, size_t rows, size_t columns, double *y)
{
    for (size_t r = 0; r < rows; r++) {
        y[r] = 0;
        for (size_t c = 0; c < columns; c++)
            y[r] += (double)w[r * columns + c] * x[c];
    }
}

static void norm(const float *w, const double *x, size_t C, double eps, double *y)
{
    double sum = 0;
    for (size_t c = 0; c < C; c++)
        sum += x[c] * x[c];
    for (size_t c = 0; c < C; c++)
        y[c] = x[c] * (double)w[c] / sqrt(sum / (double)C + eps);
}

static void rotate(double *x, size_t heads, const struct shape *s, size_t position)
{
    for (size_t h = 0; h < heads; h++)
        for (size_t i = 0; i < s->D / 2; i++) {
            double angle = (double)position * pow(s->base, -2.0 * (double)i / (double)s->D);
            double *p = x + h * s->D + 2 * i, a = p[0], b = p[1];
            p[0] = a * cos(angle) - b * sin(angle);
            p[1] = a * sin(angle) + b * cos(angle);
        }
}

static void round_half(double *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (double)half_to_float(half_from_float((float)x[i]));
}

static int visible(int retrieval, size_t q, size_t k, size_t S, size_t R)
{
    return k <= q && (retrieval || k < S || q - k < R);
}

static void attend(const struct shape *s, const uint8_t *retrieval, size_t S, size_t R, const double *q,
                   const double *k, const double *v, size_t n, double *out)
{
    double *p = malloc(n * sizeof *p);
    for (size_t t = 0; t < n; t++)
        for (size_t h = 0; h < s->H; h++) {
            size_t kv = h / (s->H / s->HK);
            double sum = 0, *to = out + (t * s->H + h) * s->D;
            memset(to, 0, s->D * sizeof *to);
            for (size_t j = 0; j < n; j++) {
                double dot = 0;
                for (size_t d = 0; d < s->D; d++)
                    dot += q[(t * s->H + h) * s->D + d] * k[(j * s->HK + kv) * s->D + d];
                p[j] = visible(retrieval[kv], t, j, S, R) ? exp(dot / sqrt((double)s->D)) : 0;
                sum += p[j];
            }
            for (size_t j = 0; j < n; j++)
                for (size_t d = 0; d < s->D; d++)
                    to[d] += p[j] / sum * v[(j * s->HK + kv) * s->D + d];
        }
    free(p);
}

static void layer(const struct gguf *g, const struct shape *s, size_t l, const uint8_t *retrieval, size_t S,
                  size_t R, double *x, size_t n)
{
    double *xn = calloc(n * s->C, sizeof *xn), *q = calloc(n * s->H * s->D, sizeof *q),
           *k = calloc(n * s->HK * s->D, sizeof *k), *v = calloc(n * s->HK * s->D, sizeof *v),
           *a = calloc(n * s->H * s->D, sizeof *a), *y = calloc(s->C, sizeof *y),
           *gate = calloc(s->F, sizeof *gate), *up = calloc(s->F, sizeof *up);
    for (size_t t = 0; t < n; t++) {
        norm(tensor(g, "blk.%zu.attn_norm.weight", l), x + t * s->C, s->C, s->eps, xn);
        matrix(tensor(g, "blk.%zu.attn_q.weight", l), xn, s->H * s->D, s->C, q + t * s->H * s->D);
        matrix(tensor(g, "blk.%zu.attn_k.weight", l), xn, s->HK * s->D, s->C, k + t * s->HK * s->D);
        matrix(tensor(g, "blk.%zu.attn_v.weight", l), xn, s->HK * s->D, s->C, v + t * s->HK * s->D);
        rotate(q + t * s->H * s->D, s->H, s, t);
        rotate(k + t * s->HK * s->D, s->HK, s, t);
    }
    round_half(k, n * s->HK * s->D);
    round_half(v, n * s->HK * s->D);
    attend(s, retrieval + l * s->HK, S, R, q, k, v, n, a);
    for (size_t t = 0; t < n; t++) {
        matrix(tensor(g, "blk.%zu.attn_output.weight", l), a + t * s->H * s->D, s->C, s->H * s->D, y);
        for (size_t c = 0; c < s->C; c++)
            x[t * s->C + c] += y[c];
        norm(tensor(g, "blk.%zu.ffn_norm.weight", l), x + t * s->C, s->C, s->eps, xn);
        matrix(tensor(g, "blk.%zu.ffn_gate.weight", l), xn, s->F, s->C, gate);
        matrix(tensor(g, "blk.%zu.ffn_up.weight", l), xn, s->F, s->C, up);
        for (size_t f = 0; f < s->F; f++)
            gate[f] = gate[f] / (1 + exp(-gate[f])) * up[f];
        matrix(tensor(g, "blk.%zu.ffn_down.weight", l), gate, s->C, s->F, y);
        for (size_t c = 0; c < s->C; c++)
            x[t * s->C + c] += y[c];
    }
    free(xn), free(q), free(k), free(v), free(a), free(y), free(gate), free(up);
}

static size_t number(const struct gguf *g, const char *key)
{
    uint64_t v = 0;
    gguf_u64(g, key, &v);
    return (size_t)v;
}

int naive_llama(const char *path, const uint8_t *retrieval, size_t S, size_t R, const uint32_t *ids, size_t n,
                double *logits, size_t V)
{
    struct err e;
    struct gguf *g;
    if (gguf_open(path, &g, &e))
        return -1;
    struct shape s = {.L = number(g, "llama.block_count"),
                      .C = number(g, "llama.embedding_length"),
                      .H = number(g, "llama.attention.head_count"),
                      .HK = number(g, "llama.attention.head_count_kv"),
                      .F = number(g, "llama.feed_forward_length")};
    gguf_f64(g, "llama.attention.layer_norm_rms_epsilon", &s.eps);
    gguf_f64(g, "llama.rope.freq_base", &s.base);
    const struct gguf_tensor *wq = gguf_tensor(g, "blk.0.attn_q.weight");
    const float *embed = tensor(g, "token_embd.weight", 0), *output = tensor(g, "output.weight", 0);
    if (!wq || !embed) {
        gguf_close(g);
        return -1;
    }
    s.D = (size_t)wq->dims[1] / s.H;
    double *x = calloc(n * s.C, sizeof *x), *xn = calloc(s.C, sizeof *xn);
    for (size_t t = 0; t < n; t++)
        for (size_t c = 0; c < s.C; c++)
            x[t * s.C + c] = (double)embed[ids[t] * s.C + c];
    for (size_t l = 0; l < s.L; l++)
        layer(g, &s, l, retrieval, S, R, x, n);
    for (size_t t = 0; t < n; t++) {
        norm(tensor(g, "output_norm.weight", 0), x + t * s.C, s.C, s.eps, xn);
        matrix(output ? output : embed, xn, V, s.C, logits + t * V);
    }
    free(x);
    free(xn);
    gguf_close(g);
    return 0;
}
