/* SPDX-License-Identifier: Apache-2.0 */
/* special.c - see special.h. Every occurrence is found in one pass (few bytes begin a special token), then
 * they are taken in order of priority and place where nothing taken before overlaps. That equals looking for
 * one token after the other, without a pass over the text for each.
 */
#include "engine/token/special.h"

#include <stdlib.h>
#include <string.h>

struct found {
    size_t from, to;
    uint32_t priority, id;
};

static int by_priority(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    if (x->priority != y->priority)
        return x->priority < y->priority ? -1 : 1;
    return (x->from > y->from) - (x->from < y->from);
}

static int by_place(const void *a, const void *b)
{
    const struct special_hit *x = a, *y = b;
    return (x->from > y->from) - (x->from < y->from);
}

struct ranked {
    struct gguf_str name;
    uint32_t id, priority;
};

static int longest_first(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->name.len != y->name.len)
        return x->name.len > y->name.len ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static int by_first_byte(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    unsigned char p = (unsigned char)x->name.data[0], q = (unsigned char)y->name.data[0];
    if (p != q)
        return p < q ? -1 : 1;
    return (x->priority > y->priority) - (x->priority < y->priority);
}

int special_init(struct special *s, const struct strtab *names, const uint32_t *ids, size_t n, struct err *e)
{
    *s = (struct special){.names = names};
    if (!n)
        return 0;
    struct ranked *ranked = calloc(n, sizeof *ranked);
    s->ids = calloc(n, sizeof *s->ids);
    s->priority = calloc(n, sizeof *s->priority);
    if (!ranked || !s->ids || !s->priority) {
        free(ranked);
        return err_memory(e, "the special tokens");
    }
    for (size_t i = 0; i < n; i++) {
        struct gguf_str name = strtab_get(names, ids[i]);
        if (name.len)
            ranked[s->n++] = (struct ranked){.name = name, .id = ids[i]};
    }
    qsort(ranked, s->n, sizeof *ranked, longest_first);
    for (size_t i = 0; i < s->n; i++)
        ranked[i].priority = (uint32_t)i;
    qsort(ranked, s->n, sizeof *ranked, by_first_byte);
    for (size_t i = 0; i < s->n; i++) {
        s->ids[i] = ranked[i].id;
        s->priority[i] = ranked[i].priority;
        s->first[(unsigned char)ranked[i].name.data[0] + 1]++;
    }
    for (size_t byte = 0; byte < 256; byte++)
        s->first[byte + 1] += s->first[byte];
    free(ranked);
    return 0;
}

void special_fini(struct special *s)
{
    free(s->ids);
    free(s->priority);
    *s = (struct special){0};
}

/* Every occurrence, overlapping ones too, into `all` (struct found, back to back). */
static void find_all(const struct special *s, const char *text, size_t size, struct buf *all)
{
    for (size_t at = 0; at < size; at++) {
        unsigned char byte = (unsigned char)text[at];
        for (size_t i = s->first[byte]; i < s->first[byte + 1]; i++) {
            struct gguf_str name = strtab_get(s->names, s->ids[i]);
            if (name.len > size - at || memcmp(name.data, text + at, name.len) != 0)
                continue;
            struct found found = {at, at + name.len, s->priority[i], s->ids[i]};
            buf_add(all, &found, sizeof found);
        }
    }
}

/* Marks [from, to) in a bitmap unless some of it is marked. */
static int take(uint8_t *taken, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        if (taken[i / 8] >> (i % 8) & 1)
            return 0;
    for (size_t i = from; i < to; i++)
        taken[i / 8] |= (uint8_t)(1 << (i % 8));
    return 1;
}

int special_find(const struct special *s, const char *text, size_t size, struct special_hit **hits, size_t *n,
                 struct err *e)
{
    *hits = NULL;
    *n = 0;
    struct buf all = {0};
    if (s->n)
        find_all(s, text, size, &all);
    if (!all.len && !all.failed)
        return 0;
    struct found *found = (struct found *)(void *)all.data;
    size_t count = all.len / sizeof *found;
    uint8_t *taken = calloc(size / 8 + 1, 1);
    *hits = all.failed ? NULL : malloc(count * sizeof **hits);
    if (!taken || !*hits) {
        free(taken);
        free(*hits);
        *hits = NULL;
        buf_free(&all);
        return err_memory(e, "the special tokens of a text");
    }
    qsort(found, count, sizeof *found, by_priority);
    for (size_t i = 0; i < count; i++)
        if (take(taken, found[i].from, found[i].to))
            (*hits)[(*n)++] = (struct special_hit){found[i].from, found[i].to, found[i].id};
    qsort(*hits, *n, sizeof **hits, by_place);
    free(taken);
    buf_free(&all);
    return 0;
}
