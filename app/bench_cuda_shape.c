/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cuda_shape.c - the shapes of known models, and what a token of them costs. */
#include "app/bench_cuda.h"

#include <string.h>

/* Retrieval heads of each layer in the patterns of data/heads, split as heads_split does it: of
 * Llama-3-8B-Instruct-Gradient-1048k, Mistral-7B-Instruct-v0.3 and Llama-2-7B-32K-Instruct. */
static const uint8_t llama3_half[] = {1, 1, 2, 2, 2, 4, 2, 4, 6, 4, 5, 3, 2, 6, 5, 5,
                                      5, 6, 3, 5, 6, 3, 3, 6, 4, 4, 3, 4, 6, 5, 8, 3};
static const uint8_t llama3_quarter[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 3, 2, 6, 2, 5,
                                         4, 4, 1, 4, 3, 2, 1, 3, 1, 1, 2, 2, 2, 5, 3, 0};
static const uint8_t mistral_half[] = {2, 3, 5, 2, 3, 4, 3, 4, 1, 2, 3, 5, 5, 1, 5, 5,
                                       4, 2, 7, 5, 5, 6, 3, 4, 4, 3, 6, 3, 4, 7, 6, 6};
static const uint8_t llama2_quarter[] = {2,  10, 2, 5, 3,  4, 9,  8, 9,  5, 8,  10, 4, 6, 12, 9,
                                         12, 9,  9, 6, 11, 7, 14, 5, 12, 8, 12, 3,  6, 7, 12, 17};

static const struct {
    const char *shape;
    double share;
    const uint8_t *heads; /* [L] */
} patterns[] = {
    {"llama-3-8b", 0.5, llama3_half},
    {"llama-3-8b", 0.25, llama3_quarter},
    {"mistral-7b", 0.5, mistral_half},
    {"llama-2-7b", 0.25, llama2_quarter},
};

static const struct card_shape shapes[] = {
    {"llama-3-8b", 32, 32, 8, 128, 4096, 14336, 128256, 500000, 0, 0, 0.5, 0},
    {"llama-2-7b", 32, 32, 32, 128, 4096, 11008, 32000, 10000, 0, 0, 0.25, 0},
    {"mistral-7b", 32, 32, 8, 128, 4096, 14336, 32000, 1000000, 0, 0, 0.5, 0},
    {"qwen2.5-7b", 28, 28, 4, 128, 3584, 18944, 152064, 1000000, 1, 1, 0.5, 0},
    {"smollm2-135m", 30, 9, 3, 64, 576, 1536, 49152, 100000, 0, 0, 0.5, 1},
};

const struct card_shape *card_shapes(size_t *n)
{
    *n = sizeof shapes / sizeof shapes[0];
    return shapes;
}

const struct card_shape *card_shape_find(const char *name)
{
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        if (!strcmp(shapes[i].name, name))
            return &shapes[i];
    return NULL;
}

size_t card_shape_retrieval(const struct card_shape *s, double share, size_t l)
{
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++)
        if (share == patterns[i].share && l < s->L && !strcmp(s->name, patterns[i].shape))
            return patterns[i].heads[l];
    double each = share * (double)s->HK;
    return (size_t)((double)(l + 1) * each + 1e-9) - (size_t)((double)l * each + 1e-9);
}

double card_shape_flops(const struct card_shape *s)
{
    double q = (double)(s->H * s->D), kv = (double)(s->HK * s->D), C = (double)s->C, F = (double)s->F;
    return 2 * (double)s->L * (C * (q + 2 * kv) + q * C + 3 * C * F);
}

double card_attention_flops(const struct card_shape *s, double share, uint64_t pos0, uint64_t T)
{
    size_t HR = 0;
    for (size_t l = 0; l < s->L; l++)
        HR += card_shape_retrieval(s, share, l);
    double keys = (double)T * (double)pos0 + (double)T * (double)(T + 1) / 2;
    return 4 * (double)s->D * (double)HR * (double)(s->H / s->HK) * keys;
}
