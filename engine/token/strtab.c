/* SPDX-License-Identifier: Apache-2.0 */
/* strtab.c - see strtab.h. */
#include "engine/token/strtab.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

void strtab_fini(struct strtab *s)
{
    buf_free(&s->bytes);
    free(s->start);
    free(s->slots);
    *s = (struct strtab){0};
}

struct gguf_str strtab_get(const struct strtab *s, uint32_t number)
{
    return (struct gguf_str){s->bytes.data + s->start[number], s->start[number + 1] - s->start[number]};
}

/* The slot that holds the string, or the empty one where it belongs. */
static size_t slot_of(const struct strtab *s, const char *bytes, size_t n)
{
    size_t at = (size_t)XXH3_64bits(bytes, n) & s->mask;
    for (; s->slots[at] != STRTAB_NONE; at = (at + 1) & s->mask) {
        struct gguf_str have = strtab_get(s, s->slots[at]);
        if (have.len == n && !memcmp(have.data, bytes, n))
            break;
    }
    return at;
}

static int grow(struct strtab *s, struct err *e)
{
    uint32_t cap = s->cap ? s->cap * 2 : 1024;
    if (cap > UINT32_MAX / 4)
        return err_set(e, ERR_LIMIT, "the vocabulary is too large");
    size_t *start = realloc(s->start, ((size_t)cap + 1) * sizeof *start);
    if (!start)
        return err_memory(e, "the vocabulary");
    s->start = start;
    start[0] = 0;
    size_t size = (size_t)cap * 2;
    uint32_t *slots = malloc(size * sizeof *slots);
    if (!slots)
        return err_memory(e, "the vocabulary");
    free(s->slots);
    s->slots = slots;
    s->mask = size - 1;
    s->cap = cap;
    memset(slots, 0xff, size * sizeof *slots);
    for (uint32_t i = 0; i < s->n; i++) {
        struct gguf_str have = strtab_get(s, i);
        slots[slot_of(s, have.data, have.len)] = i;
    }
    return 0;
}

int strtab_intern(struct strtab *s, const char *bytes, size_t n, uint32_t *number, int *fresh, struct err *e)
{
    if (s->n == s->cap) {
        int rc = grow(s, e);
        if (rc)
            return rc;
    }
    size_t at = slot_of(s, bytes, n);
    *fresh = s->slots[at] == STRTAB_NONE;
    if (*fresh) {
        buf_add(&s->bytes, bytes, n);
        if (s->bytes.failed)
            return err_memory(e, "the vocabulary");
        s->slots[at] = s->n;
        s->start[++s->n] = s->bytes.len;
    }
    *number = s->slots[at];
    return 0;
}

uint32_t strtab_find(const struct strtab *s, const char *bytes, size_t n)
{
    return s->n ? s->slots[slot_of(s, bytes, n)] : STRTAB_NONE;
}
