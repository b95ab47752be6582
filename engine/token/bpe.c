/* SPDX-License-Identifier: Apache-2.0 */
/* bpe.c - see bpe.h. Short words (nearly all) are merged by scanning; long ones by a heap of pairs, so that a
 * megabyte without a space does not take quadratic time. Both give the same merges: lowest rank, then
 * leftmost.
 */
#include "engine/token/bpe.h"

#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

enum { SHORT_WORD = 40, CANCEL_EVERY = 1 << 16 };

struct pair_slot {
    uint64_t key; /* left << 32 | right; UINT64_MAX = empty */
    uint32_t rank, result;
};

struct bpe {
    const struct strtab *strings;
    uint32_t V;
    int ignore_merges;
    size_t longest; /* bytes of the longest name */
    uint8_t *hidden;
    uint32_t byte_symbol[256];
    char byte_name[256][2]; /* GPT-2's writing of each byte, in UTF-8 */
    uint8_t byte_name_len[256];
    struct pair_slot *pairs;
    size_t pairs_mask;
};

struct bpe_symbol {
    uint32_t id; /* NONE: merged away */
    uint32_t prev, next;
    uint32_t len; /* bytes of the word */
};

struct bpe_pair {
    uint32_t rank, left; /* the heap's order */
    uint32_t left_id, right_id;
};

/* Is this byte its own character in GPT-2's writing? The others are U+0100, U+0101, ... in order. */
static int byte_is_shown(unsigned byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

static uint32_t byte_point(unsigned byte)
{
    if (byte_is_shown(byte))
        return byte;
    uint32_t point = 256;
    for (unsigned i = 0; i < byte; i++)
        point += !byte_is_shown(i);
    return point;
}

/* All points are below U+0800: one or two bytes. */
static uint8_t byte_name(unsigned byte, char out[2])
{
    uint32_t point = byte_point(byte);
    if (point < 128) {
        out[0] = (char)point;
        return 1;
    }
    out[0] = (char)(0xc0 | point >> 6);
    out[1] = (char)(0x80 | (point & 63));
    return 2;
}

/* The byte that a character of GPT-2's writing stands for, or -1. */
static int point_byte(uint32_t point)
{
    if (point < 256)
        return byte_is_shown(point) ? (int)point : -1;
    if (point >= 256 + 68) /* there are 68 hidden bytes */
        return -1;
    /* hidden bytes in order: 0..32, 127..160, 173 */
    uint32_t i = point - 256;
    return (int)(i < 33 ? i : i < 67 ? i - 33 + 127 : 173);
}

size_t bpe_decode_name(struct gguf_str name, char *out, size_t cap)
{
    size_t n = 0;
    for (size_t i = 0; i < name.len;) {
        unsigned char c = (unsigned char)name.data[i];
        size_t len = 1;
        int byte = -1;
        if (c < 0x80) {
            byte = point_byte(c);
        } else if ((c & 0xe0) == 0xc0 && i + 1 < name.len &&
                   ((unsigned char)name.data[i + 1] & 0xc0) == 0x80) {
            len = 2;
            byte = point_byte((uint32_t)(c & 31) << 6 | ((unsigned char)name.data[i + 1] & 63));
        }
        if (byte < 0) {
            for (size_t j = 0; j < len; j++, n++)
                if (n < cap)
                    out[n] = name.data[i + j];
        } else {
            if (n < cap)
                out[n] = (char)byte;
            n++;
        }
        i += len;
    }
    return n;
}

static struct pair_slot *pair_slot(const struct bpe *b, uint32_t left, uint32_t right)
{
    uint64_t key = (uint64_t)left << 32 | right;
    size_t at = (size_t)((key * 0x9e3779b97f4a7c15u) >> 20) & b->pairs_mask;
    while (b->pairs[at].key != UINT64_MAX && b->pairs[at].key != key)
        at = (at + 1) & b->pairs_mask;
    return &b->pairs[at];
}

static const struct pair_slot *find_pair(const struct bpe *b, uint32_t left, uint32_t right)
{
    const struct pair_slot *slot = pair_slot(b, left, right);
    return slot->key == UINT64_MAX ? NULL : slot;
}

static int add_merge(struct bpe *b, struct strtab *strings, struct gguf_str merge, uint32_t rank,
                     struct buf *both, struct err *e)
{
    const char *space = merge.len > 1 ? memchr(merge.data + 1, ' ', merge.len - 1) : NULL;
    if (!space)
        return 0;
    size_t first = (size_t)(space - merge.data);
    size_t second = merge.len - first - 1;
    uint32_t left, right, result;
    int fresh;
    buf_clear(both);
    buf_add(both, merge.data, first);
    buf_add(both, space + 1, second);
    if (both->failed)
        return err_memory(e, "the merges");
    int rc = strtab_intern(strings, merge.data, first, &left, &fresh, e);
    if (!rc)
        rc = strtab_intern(strings, space + 1, second, &right, &fresh, e);
    if (!rc)
        rc = strtab_intern(strings, both->data, both->len, &result, &fresh, e);
    if (rc)
        return rc;
    if (result < b->V && b->hidden[result]) /* text must not grow into a control token */
        return 0;
    struct pair_slot *slot = pair_slot(b, left, right);
    if (slot->key == UINT64_MAX) /* the first of equal merges counts */
        *slot = (struct pair_slot){.key = (uint64_t)left << 32 | right, .rank = rank, .result = result};
    return 0;
}

static int add_merges(struct bpe *b, struct strtab *strings, const struct gguf_array *merges, struct err *e)
{
    if (merges->n > UINT32_MAX / 8)
        return err_set(e, ERR_LIMIT, "the vocabulary has too many merges");
    size_t size = 64;
    while (size < merges->n * 2)
        size *= 2;
    b->pairs = malloc(size * sizeof *b->pairs);
    if (!b->pairs)
        return err_memory(e, "the merges");
    memset(b->pairs, 0xff, size * sizeof *b->pairs);
    b->pairs_mask = size - 1;
    struct buf both = {0};
    int rc = 0;
    for (size_t i = 0; !rc && i < merges->n; i++)
        rc = add_merge(b, strings, gguf_array_str(merges, i), (uint32_t)i, &both, e);
    buf_free(&both);
    return rc;
}

int bpe_create(struct strtab *strings, const uint8_t *hidden, const struct gguf_array *merges,
               int ignore_merges, struct bpe **out, struct err *e)
{
    *out = NULL;
    struct bpe *b = calloc(1, sizeof *b);
    if (!b)
        return err_memory(e, "the vocabulary");
    b->strings = strings;
    b->V = strings->n;
    b->ignore_merges = ignore_merges;
    b->hidden = malloc(b->V ? b->V : 1);
    int rc = b->hidden ? 0 : err_memory(e, "the vocabulary");
    if (!rc)
        memcpy(b->hidden, hidden, b->V);
    for (uint32_t i = 0; i < b->V; i++) {
        size_t len = strtab_get(strings, i).len;
        b->longest = len > b->longest ? len : b->longest;
    }
    for (unsigned byte = 0; !rc && byte < 256; byte++) {
        int fresh;
        b->byte_name_len[byte] = byte_name(byte, b->byte_name[byte]);
        rc = strtab_intern(strings, b->byte_name[byte], b->byte_name_len[byte], &b->byte_symbol[byte], &fresh,
                           e);
    }
    if (!rc)
        rc = add_merges(b, strings, merges, e);
    if (rc) {
        bpe_free(b);
        return rc;
    }
    *out = b;
    return 0;
}

void bpe_free(struct bpe *b)
{
    if (!b)
        return;
    free(b->hidden);
    free(b->pairs);
    free(b);
}

void bpe_scratch_fini(struct bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    buf_free(&scratch->name);
    *scratch = (struct bpe_scratch){0};
}

static int is_token(const struct bpe *b, uint32_t id)
{
    return id < b->V && !b->hidden[id];
}

/* Appends symbol `id`, which covers word[from..from+len). */
static int emit(const struct bpe *b, const char *word, size_t from, size_t len, uint32_t id, size_t base,
                struct token_list *out, struct err *e)
{
    if (is_token(b, id))
        return token_list_add(out, id, (uint32_t)(base + from + len), e);
    for (size_t i = from; i < from + len; i++) {
        uint32_t byte = b->byte_symbol[(unsigned char)word[i]];
        int rc = 0;
        if (is_token(b, byte))
            rc = token_list_add(out, byte, (uint32_t)(base + i + 1), e);
        if (rc)
            return rc;
    }
    return 0;
}

static int merge_short(const struct bpe *b, const char *word, size_t n, size_t base, struct token_list *out,
                       struct err *e)
{
    uint32_t id[SHORT_WORD];
    uint8_t len[SHORT_WORD];
    uint32_t rank[SHORT_WORD], result[SHORT_WORD]; /* of the pair (i, i+1) */
    for (size_t i = 0; i < n; i++) {
        id[i] = b->byte_symbol[(unsigned char)word[i]];
        len[i] = 1;
    }
    for (size_t i = 0; i + 1 < n; i++) {
        const struct pair_slot *pair = find_pair(b, id[i], id[i + 1]);
        rank[i] = pair ? pair->rank : NONE;
        result[i] = pair ? pair->result : NONE;
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == NONE)
            break;
        id[best] = result[best];
        len[best] = (uint8_t)(len[best] + len[best + 1]);
        n--;
        for (size_t i = best + 1; i < n; i++) {
            id[i] = id[i + 1];
            len[i] = len[i + 1];
        }
        for (size_t i = best + 1; i + 1 < n; i++) {
            rank[i] = rank[i + 1];
            result[i] = result[i + 1];
        }
        for (size_t i = best ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const struct pair_slot *pair = find_pair(b, id[i], id[i + 1]);
            rank[i] = pair ? pair->rank : NONE;
            result[i] = pair ? pair->result : NONE;
        }
    }
    int rc = 0;
    for (size_t i = 0, at = 0; !rc && i < n; at += len[i], i++)
        rc = emit(b, word, at, len[i], id[i], base, out, e);
    return rc;
}

static int pair_before(const struct bpe_pair *a, const struct bpe_pair *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void sift_down(struct bpe_pair *heap, size_t n, size_t at)
{
    struct bpe_pair moving = heap[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && pair_before(&heap[child + 1], &heap[child]))
            child++;
        if (!pair_before(&heap[child], &moving))
            break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

/* The heap has room: every pair that is pushed comes of a merge, and each merge takes a symbol away. */
static void push_pair(const struct bpe *b, struct bpe_scratch *scratch, uint32_t left, uint32_t right,
                      int sift)
{
    if (left == NONE || right == NONE)
        return;
    const struct bpe_symbol *symbols = scratch->symbols;
    const struct pair_slot *found = find_pair(b, symbols[left].id, symbols[right].id);
    if (!found)
        return;
    struct bpe_pair pair = {found->rank, left, symbols[left].id, symbols[right].id};
    size_t at = scratch->heap_len++;
    for (size_t up; sift && at && pair_before(&pair, &scratch->heap[up = (at - 1) / 2]); at = up)
        scratch->heap[at] = scratch->heap[up];
    scratch->heap[at] = pair;
}

static int reserve_long(struct bpe_scratch *scratch, size_t n, struct err *e)
{
    if (scratch->symbols_cap < n) {
        struct bpe_symbol *symbols = realloc(scratch->symbols, n * sizeof *symbols);
        if (!symbols)
            return err_memory(e, "a very long word");
        scratch->symbols = symbols;
        scratch->symbols_cap = n;
    }
    if (scratch->heap_cap < 2 * n) {
        struct bpe_pair *heap = realloc(scratch->heap, 2 * n * sizeof *heap);
        if (!heap)
            return err_memory(e, "a very long word");
        scratch->heap = heap;
        scratch->heap_cap = 2 * n;
    }
    return 0;
}

/* Takes the best pair off the heap and merges it if both sides are still what they were. */
static void merge_one(const struct bpe *b, struct bpe_scratch *scratch)
{
    struct bpe_pair best = scratch->heap[0];
    scratch->heap[0] = scratch->heap[--scratch->heap_len];
    if (scratch->heap_len)
        sift_down(scratch->heap, scratch->heap_len, 0);
    struct bpe_symbol *left = &scratch->symbols[best.left];
    if (left->id != best.left_id || left->next == NONE)
        return;
    struct bpe_symbol *right = &scratch->symbols[left->next];
    if (right->id != best.right_id)
        return;
    left->id = find_pair(b, best.left_id, best.right_id)->result;
    left->len += right->len;
    right->id = NONE;
    left->next = right->next;
    if (left->next != NONE)
        scratch->symbols[left->next].prev = best.left;
    push_pair(b, scratch, left->prev, best.left, 1);
    push_pair(b, scratch, best.left, left->next, 1);
}

static int merge_long(const struct bpe *b, struct bpe_scratch *scratch, const char *word, size_t n,
                      size_t base, struct token_list *out, struct cancel *cancel, struct err *e)
{
    int rc = reserve_long(scratch, n, e);
    if (rc)
        return rc;
    struct bpe_symbol *symbols = scratch->symbols;
    for (size_t i = 0; i < n; i++)
        symbols[i] = (struct bpe_symbol){.id = b->byte_symbol[(unsigned char)word[i]],
                                         .prev = i ? (uint32_t)i - 1 : NONE,
                                         .next = i + 1 < n ? (uint32_t)i + 1 : NONE,
                                         .len = 1};
    scratch->heap_len = 0;
    for (size_t i = 0; i + 1 < n; i++)
        push_pair(b, scratch, (uint32_t)i, (uint32_t)i + 1, 0);
    for (size_t i = scratch->heap_len / 2; i-- > 0;)
        sift_down(scratch->heap, scratch->heap_len, i);
    for (size_t steps = 1; scratch->heap_len; steps++) {
        if (!(steps % CANCEL_EVERY) && cancel_requested(cancel))
            return err_set(e, ERR_CANCELLED, "stopped while cutting the text into tokens");
        merge_one(b, scratch);
    }
    for (size_t i = 0; !rc && i != NONE; i = symbols[i].next)
        rc = emit(b, word, i, symbols[i].len, symbols[i].id, base, out, e);
    return rc;
}

/* The token whose name is exactly this word, or NONE. */
static uint32_t whole_word(const struct bpe *b, struct bpe_scratch *scratch, const char *word, size_t n)
{
    if (n > b->longest)
        return NONE;
    buf_clear(&scratch->name);
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)word[i];
        buf_add(&scratch->name, b->byte_name[byte], b->byte_name_len[byte]);
    }
    if (scratch->name.failed)
        return NONE;
    uint32_t id = strtab_find(b->strings, scratch->name.data, scratch->name.len);
    return id != STRTAB_NONE && is_token(b, id) ? id : NONE;
}

int bpe_word(const struct bpe *b, struct bpe_scratch *scratch, const char *word, size_t n, size_t base,
             struct token_list *out, struct cancel *cancel, struct err *e)
{
    if (b->ignore_merges) {
        uint32_t id = whole_word(b, scratch, word, n);
        if (scratch->name.failed)
            return err_memory(e, "a word");
        if (id != NONE)
            return token_list_add(out, id, (uint32_t)(base + n), e);
    }
    if (n <= SHORT_WORD)
        return merge_short(b, word, n, base, out, e);
    return merge_long(b, scratch, word, n, base, out, cancel, e);
}
