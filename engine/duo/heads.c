/* SPDX-License-Identifier: Apache-2.0 */
/* heads.c - reads a head pattern and splits it at a wanted sparsity.
 *
 * The gates lie in [0, 1]; files made by gradient steps overshoot a little, so values are clipped there, as
 * the authors of the format do on reading. Many gates are then exactly 0 or 1, and the rule for ties matters.
 */
#include "engine/duo/heads.h"

#include <jansson.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/bytes.h"
#include "engine/base/file.h"

enum { DEFAULT_SINK = 64, DEFAULT_RECENT = 256, MAX_TOKENS = 1 << 20 };

static int heads_new(size_t L, size_t HK, struct heads **out, struct err *e)
{
    *out = NULL;
    if (L < 1 || HK < 1 || L > 4096 || HK > 4096)
        return err_set(e, ERR_USAGE, "a head pattern of %zu layers and %zu heads", L, HK);
    struct heads *h = calloc(1, sizeof *h);
    if (!h)
        return err_memory(e, "the head pattern");
    *h = (struct heads){.L = L, .HK = HK, .S = DEFAULT_SINK, .R = DEFAULT_RECENT};
    *out = h;
    return 0;
}

/* ---- the table ---- */

/* One line [at, end) of exactly HK numbers, whatever decimal point the user's locale has. strtof stops at the
 * NUL or newline that ends it. */
static int read_row(locale_t c, const char *path, size_t row, const char *at, const char *end, size_t HK,
                    float *alpha, struct err *e)
{
    size_t n = 0;
    for (;;) {
        while (at < end && strchr(" \t\r", *at))
            at++;
        if (at >= end)
            break;
        char *stop;
        float v = strtof_l(at, &stop, c);
        if (stop == at || stop > end || (stop < end && !strchr(" \t\r", *stop)) || !isfinite(v) || v < -1 ||
            v > 2)
            return err_set(e, ERR_FORMAT, "%s: line %zu, column %zu is not a gate between 0 and 1", path,
                           row + 1, n + 1);
        if (n < HK)
            alpha[n] = fminf(1, fmaxf(0, v)) + 0.0f; /* + 0: no negative zero */
        n++;
        at = stop;
    }
    if (n != HK)
        return err_set(e, ERR_FORMAT, "%s: line %zu has %zu columns, the model has %zu KV heads", path,
                       row + 1, n, HK);
    return 0;
}

static int is_blank(const char *at, const char *end)
{
    while (at < end && strchr(" \t\r", *at))
        at++;
    return at == end;
}

static int read_table(struct heads *h, const char *path, struct err *e)
{
    char *text = NULL;
    size_t size = 0, row = 0;
    int rc = file_read(path, (size_t)64 << 20, &text, &size, e);
    if (rc)
        return rc;
    h->alpha = calloc(h->L * h->HK, sizeof *h->alpha);
    locale_t c = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    if (!h->alpha || !c)
        rc = err_memory(e, "the head pattern");
    else if (memchr(text, 0, size))
        rc = err_set(e, ERR_FORMAT, "%s: is not a text file", path);
    const char *at = text, *end = text + size;
    while (!rc && at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at)), *stop = newline ? newline : end;
        if (!is_blank(at, stop)) {
            if (row == h->L)
                rc = err_set(e, ERR_FORMAT, "%s: has more than the model's %zu lines", path, h->L);
            else
                rc = read_row(c, path, row, at, stop, h->HK, h->alpha + row * h->HK, e);
            row++;
        }
        at = newline ? newline + 1 : end;
    }
    if (!rc && row != h->L)
        rc = err_set(e, ERR_FORMAT, "%s: has %zu lines, the model has %zu layers", path, row, h->L);
    if (c)
        freelocale(c);
    free(text);
    return rc;
}

/* ---- the configuration ---- */

/* The deployed size when it is given and not null, else the trained one, else what *out holds. */
static int read_size(const json_t *root, const char *path, const char *deployed, const char *trained,
                     size_t lo, size_t *out, struct err *e)
{
    const char *keys[2] = {deployed, trained};
    for (int i = 0; i < 2; i++) {
        const json_t *v = json_object_get(root, keys[i]);
        if (!v || json_is_null(v))
            continue;
        if (!json_is_integer(v) || json_integer_value(v) < (json_int_t)lo ||
            json_integer_value(v) > MAX_TOKENS)
            return err_set(e, ERR_FORMAT, "%s: %s must be a count of tokens from %zu to %d", path, keys[i],
                           lo, MAX_TOKENS);
        *out = (size_t)json_integer_value(v);
        return 0;
    }
    return 0;
}

static int read_config(struct heads *h, const char *path, struct err *e)
{
    char *text = NULL;
    size_t size = 0;
    int rc = file_read(path, (size_t)1 << 20, &text, &size, e);
    if (rc)
        return rc;
    json_error_t why;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    free(text);
    if (!json_is_object(root))
        rc = err_set(e, ERR_FORMAT, "%s: is not a JSON object", path);
    /* R counts the token itself, so it is at least 1. */
    if (!rc)
        rc = read_size(root, path, "deploy_sink_size", "sink_size", 0, &h->S, e);
    if (!rc)
        rc = read_size(root, path, "deploy_recent_size", "recent_size", 1, &h->R, e);
    json_decref(root);
    return rc;
}

int heads_open(const char *dir, size_t L, size_t HK, struct heads **out, struct err *e)
{
    struct heads *h = NULL;
    *out = NULL;
    int rc = heads_new(L, HK, &h, e);
    if (rc)
        return rc;
    char *table = path_join(dir, "full_attention_heads.tsv"), *config = path_join(dir, "config.json");
    rc = table && config ? 0 : err_memory(e, "the head pattern");
    if (!rc)
        rc = read_table(h, table, e);
    if (!rc)
        rc = read_config(h, config, e);
    free(table);
    free(config);
    if (rc) {
        heads_close(h);
        return rc;
    }
    *out = h;
    return 0;
}

int heads_all_retrieval(size_t L, size_t HK, struct heads **out, struct err *e)
{
    return heads_new(L, HK, out, e);
}

void heads_close(struct heads *h)
{
    if (!h)
        return;
    free(h->alpha);
    free(h);
}

/* ---- splitting ---- */

struct ranked {
    float alpha;
    uint32_t index; /* layer * HK + head */
};

static int by_alpha(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->alpha != y->alpha)
        return x->alpha < y->alpha ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

int heads_split(const struct heads *h, double sparsity, uint8_t *is_retrieval, struct err *e)
{
    size_t n = h->L * h->HK;
    if (!(sparsity >= 0 && sparsity <= 1))
        return err_set(e, ERR_USAGE, "sparsity %g is not between 0 and 1", sparsity);
    memset(is_retrieval, 1, n);
    size_t streaming = (size_t)llround(sparsity * (double)n);
    if (streaming == 0)
        return 0;
    if (!h->alpha && streaming < n)
        return err_set(e, ERR_NOT_FOUND, "sparsity %g needs a head pattern; name one with --heads", sparsity);
    struct ranked *order = calloc(n, sizeof *order);
    if (!order)
        return err_memory(e, "the order of the heads");
    for (size_t i = 0; i < n; i++)
        order[i] = (struct ranked){.alpha = h->alpha ? h->alpha[i] : 0, .index = (uint32_t)i};
    qsort(order, n, sizeof *order, by_alpha);
    for (size_t i = 0; i < streaming; i++)
        is_retrieval[order[i].index] = 0;
    free(order);
    return 0;
}

void heads_hash(const uint8_t *is_retrieval, size_t L, size_t HK, size_t S, size_t R, uint8_t out[16])
{
    size_t n = L * HK;
    int streams = memchr(is_retrieval, 0, n) != NULL;
    uint64_t numbers[4] = {L, HK, streams ? S : 0, streams ? R : 0};
    uint8_t head[32];
    for (size_t i = 0; i < 32; i++)
        head[i] = (uint8_t)(numbers[i / 8] >> (8 * (i % 8)));
    /* Two hashes chained by the seed: no allocation that could fail. */
    XXH128_hash_t h = XXH3_128bits_withSeed(is_retrieval, n, XXH3_64bits(head, sizeof head));
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, h);
    memcpy(out, canonical.digest, 16);
}
