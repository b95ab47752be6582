/* SPDX-License-Identifier: Apache-2.0 */
/* sample.c - greedy choice, and drawing from the softmax cut at top-p.
 *
 * Generator: xoshiro256** (Blackman and Vigna, public domain algorithm), its state filled by SplitMix64 from
 * the seed. A draw takes the upper 53 bits. Probabilities are double; candidates are ordered by probability,
 * then id, so nothing depends on the sort.
 */
#include "engine/sample.h"

#include <math.h>
#include <stdlib.h>

struct candidate {
    double p;
    uint32_t id;
};

struct sampler {
    struct sample_options options;
    size_t V;
    uint64_t state[4];
    struct candidate *candidates; /* [V] */
};

static uint64_t rotate_left(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

static uint64_t next_u64(uint64_t s[4])
{
    uint64_t result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

static void seed_state(uint64_t s[4], uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        seed += 0x9e3779b97f4a7c15u;
        uint64_t z = seed;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        s[i] = z ^ (z >> 31);
    }
}

/* Uniform in [0, 1). */
static double next_unit(uint64_t s[4])
{
    return (double)(next_u64(s) >> 11) * 0x1p-53;
}

int sampler_create(const struct sample_options *options, size_t V, struct sampler **out, struct err *e)
{
    *out = NULL;
    if (!(options->temperature >= 0 && options->temperature <= 100))
        return err_set(e, ERR_USAGE, "temperature %g is not between 0 and 100", options->temperature);
    if (!(options->top_p > 0 && options->top_p <= 1))
        return err_set(e, ERR_USAGE, "top-p %g is not above 0 and at most 1", options->top_p);
    if (V < 1 || V > UINT32_MAX)
        return err_set(e, ERR_USAGE, "a vocabulary of %zu tokens", V);
    struct sampler *s = calloc(1, sizeof *s);
    if (s)
        s->candidates = calloc(V, sizeof *s->candidates);
    if (!s || !s->candidates) {
        sampler_free(s);
        return err_memory(e, "the sampler");
    }
    s->options = *options;
    s->V = V;
    seed_state(s->state, options->seed);
    *out = s;
    return 0;
}

void sampler_free(struct sampler *s)
{
    if (!s)
        return;
    free(s->candidates);
    free(s);
}

size_t sample_greedy(const float *logits, size_t V)
{
    size_t best = V;
    float top = -INFINITY;
    for (size_t i = 0; i < V; i++)
        if (logits[i] > top) { /* false for NaN */
            top = logits[i];
            best = i;
        }
    return best;
}

static int by_probability(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->p != y->p)
        return x->p > y->p ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Probabilities, not normalised, of all numbers among the logits, by ascending id; returns how many. */
static size_t weigh(struct sampler *s, const float *logits, double top, double *sum)
{
    size_t n = 0;
    *sum = 0;
    for (size_t i = 0; i < s->V; i++) {
        double p = exp(((double)logits[i] - top) / s->options.temperature);
        if (!(p > 0)) /* NaN, -inf or too small to be drawn */
            continue;
        s->candidates[n++] = (struct candidate){.p = p, .id = (uint32_t)i};
        *sum += p;
    }
    return n;
}

/* Keeps the fewest likeliest candidates whose share reaches top_p; *sum becomes theirs. */
static size_t cut(struct sampler *s, size_t n, double *sum)
{
    /* Tokens below (1 - top_p) / n sum to less than 1 - top_p, so none of them is in the nucleus, and only
     * the rest, a few in practice, has to be sorted. */
    double floor_p = *sum * (1 - s->options.top_p) / (double)n, kept = 0;
    size_t m = 0, k = 0;
    for (size_t i = 0; i < n; i++)
        if (s->candidates[i].p >= floor_p)
            s->candidates[m++] = s->candidates[i];
    qsort(s->candidates, m, sizeof *s->candidates, by_probability);
    while (k < m && (k == 0 || kept < s->options.top_p * *sum))
        kept += s->candidates[k++].p;
    *sum = kept;
    return k;
}

size_t sampler_next(struct sampler *s, const float *logits)
{
    size_t best = sample_greedy(logits, s->V);
    if (s->options.temperature == 0 || best == s->V)
        return best;
    double unit = next_unit(s->state), sum;
    if (isinf(logits[best])) /* +inf: certain, and no number to subtract */
        return best;
    size_t n = weigh(s, logits, (double)logits[best], &sum);
    if (s->options.top_p < 1)
        n = cut(s, n, &sum);
    double want = unit * sum;
    for (size_t i = 0; i + 1 < n; i++) {
        want -= s->candidates[i].p;
        if (want < 0)
            return s->candidates[i].id;
    }
    return s->candidates[n - 1].id;
}
