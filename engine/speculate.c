/* SPDX-License-Identifier: Apache-2.0 */
/* speculate.c - chains of equal pairs of tokens, newest first.
 *
 *   head [2^bits]  the last place whose pair has this hash
 *   before [n]     of each place, the one before it in its chain
 *
 * A place is the number of the token after its pair. Invariant: before[i] < i, and chains hold the places
 * 2..n of ids[0..n) and no others, so that taking the last place away is putting its predecessor at the head.
 */
#include "engine/speculate.h"

#include <stdlib.h>
#include <string.h>

enum {
    PAIR = 2,
    BITS_FIRST = 12,
    CHAIN_MAX = 128, /* places looked at for a guess */
    AGREE_MAX = 24,  /* tokens of agreement that are as good as any */
    LONG_AGREE = 64, /* follow: compared at once */
    NONE = 0         /* no place: a pair ends at 2 at the earliest */
};

struct guesser {
    uint32_t *ids, *before; /* [cap]; place i lies at before[i - 1] */
    size_t n, cap;
    uint32_t *head; /* [1 << bits] */
    int bits;
};

int guesser_create(struct guesser **out, struct err *e)
{
    *out = NULL;
    struct guesser *g = calloc(1, sizeof *g);
    if (!g)
        return err_memory(e, "the index of guesses");
    g->bits = BITS_FIRST;
    g->head = calloc((size_t)1 << g->bits, sizeof *g->head);
    if (!g->head) {
        free(g);
        return err_memory(e, "the index of guesses");
    }
    *out = g;
    return 0;
}

void guesser_free(struct guesser *g)
{
    if (!g)
        return;
    free(g->ids);
    free(g->before);
    free(g->head);
    free(g);
}

/* Of the pair that ends before `place`. */
static uint32_t *head_of(const struct guesser *g, size_t place)
{
    uint64_t pair = (uint64_t)g->ids[place - 2] << 32 | g->ids[place - 1];
    return &g->head[pair * 0x9e3779b97f4a7c15u >> (64 - g->bits)];
}

static void link_place(struct guesser *g, size_t place)
{
    uint32_t *head = head_of(g, place);
    g->before[place - 1] = *head;
    *head = (uint32_t)place;
}

/* More room than tokens in the heads, so that chains are of equal pairs mostly. */
static int widen(struct guesser *g, size_t n, struct err *e)
{
    int bits = g->bits;
    while (((size_t)1 << bits) < n)
        bits++;
    if (bits == g->bits)
        return 0;
    uint32_t *head = calloc((size_t)1 << bits, sizeof *head);
    if (!head)
        return err_memory(e, "the index of guesses");
    free(g->head);
    g->head = head;
    g->bits = bits;
    for (size_t place = PAIR; place <= g->n; place++)
        link_place(g, place);
    return 0;
}

static int reserve(struct guesser *g, size_t n, struct err *e)
{
    if (n >= UINT32_MAX)
        return err_set(e, ERR_LIMIT, "%zu tokens are too many for the index of guesses", n);
    if (n <= g->cap)
        return widen(g, n, e);
    size_t cap = n + g->cap / 4 + 1024;
    uint32_t *ids = realloc(g->ids, cap * sizeof *ids);
    if (!ids)
        return err_memory(e, "the index of guesses");
    g->ids = ids;
    uint32_t *before = realloc(g->before, cap * sizeof *before);
    if (!before)
        return err_memory(e, "the index of guesses");
    g->before = before;
    g->cap = cap;
    return widen(g, n, e);
}

static void append(struct guesser *g, uint32_t id)
{
    g->ids[g->n++] = id;
    if (g->n >= PAIR)
        link_place(g, g->n);
}

static void cut(struct guesser *g, size_t n)
{
    for (; g->n > n; g->n--)
        if (g->n >= PAIR)
            *head_of(g, g->n) = g->before[g->n - 1];
}

int guesser_follow(struct guesser *g, const uint32_t *ids, size_t n, struct err *e)
{
    size_t most = n < g->n ? n : g->n, same = 0;
    while (same + LONG_AGREE <= most && !memcmp(ids + same, g->ids + same, LONG_AGREE * sizeof *ids))
        same += LONG_AGREE;
    while (same < most && ids[same] == g->ids[same])
        same++;
    cut(g, same);
    int rc = reserve(g, n, e);
    for (size_t i = same; !rc && i < n; i++)
        append(g, ids[i]);
    return rc;
}

int guesser_add(struct guesser *g, uint32_t id, struct err *e)
{
    int rc = reserve(g, g->n + 1, e);
    if (!rc)
        append(g, id);
    return rc;
}

/* How many tokens before `place` are those at the end. */
static size_t agreement(const struct guesser *g, size_t place)
{
    size_t k = 0;
    while (k < AGREE_MAX && k < place && g->ids[place - 1 - k] == g->ids[g->n - 1 - k])
        k++;
    return k;
}

size_t guesser_guess(const struct guesser *g, uint32_t *guesses, size_t most)
{
    if (g->n < PAIR + 1)
        return 0;
    size_t best = 0, from = 0;
    uint32_t place = g->before[g->n - 1];
    for (int i = 0; i < CHAIN_MAX && place != NONE && best < AGREE_MAX; i++) {
        size_t k = agreement(g, place);
        if (k > best) { /* the newest of equals stays */
            best = k;
            from = place;
        }
        place = g->before[place - 1];
    }
    if (best < PAIR)
        return 0;
    /* a short agreement is often chance: one guess for two tokens, two for three, ... */
    size_t n = 0;
    most = most < best - 1 ? most : best - 1;
    for (; n < most; n++) /* what repeats itself goes on into its own guesses */
        guesses[n] = from + n < g->n ? g->ids[from + n] : guesses[from + n - g->n];
    return n;
}
