/* SPDX-License-Identifier: Apache-2.0 */
/* edit.c - see edit.h. Invariants: 0 <= first, cursor <= text.len, both on cluster boundaries. */
#include "ui/edit.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "ui/filter.h"

enum { HISTORY_MAX = 500 };

void edit_free(struct edit *e)
{
    buf_free(&e->text);
    buf_free(&e->killed);
    for (size_t i = 0; i < e->n_history; i++)
        free(e->history[i]);
    free(e->history);
    free(e->draft);
    memset(e, 0, sizeof *e);
}

const char *edit_text(const struct edit *e)
{
    return e->text.data ? e->text.data : "";
}

int edit_is_blank(const struct edit *e)
{
    const char *text = edit_text(e);
    return text[strspn(text, " \t\n")] == 0;
}

void edit_clear(struct edit *e)
{
    buf_clear(&e->text);
    e->cursor = e->first = 0;
    e->at_history = e->n_history;
}

static size_t decode(const char *text, size_t n, utf8proc_int32_t *cp)
{
    utf8proc_ssize_t used =
        utf8proc_iterate((const utf8proc_uint8_t *)text, n > 4 ? 4 : (utf8proc_ssize_t)n, cp);
    return used < 1 ? 1 : (size_t)used;
}

/* The end of the cluster that begins at `at` < n. */
static size_t cluster_end(const char *text, size_t n, size_t at)
{
    utf8proc_int32_t before, next, state = 0;
    at += decode(text + at, n - at, &before);
    while (at < n) {
        size_t used = decode(text + at, n - at, &next);
        if (utf8proc_grapheme_break_stateful(before, next, &state))
            break;
        before = next;
        at += used;
    }
    return at;
}

/* A character that never joins a neighbour of its own sort: printable ASCII or an ideograph (U+4000..U+9FFF).
 */
static int is_simple(const char *text, size_t at)
{
    unsigned char c = (unsigned char)text[at];
    return (c >= 0x20 && c < 0x7F) || (c >= 0xE4 && c <= 0xE9);
}

static size_t codepoint_before(const char *text, size_t at)
{
    at--;
    while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80)
        at--;
    return at;
}

/* The beginning of the cluster that ends at `at` > 0: walks forward from a place that surely is a boundary,
 * the start or a point between two simple characters. */
static size_t cluster_start(const char *text, size_t at)
{
    size_t from = codepoint_before(text, at);
    while (from > 0) {
        size_t before = codepoint_before(text, from);
        if (is_simple(text, from) && is_simple(text, before))
            break;
        from = before;
    }
    for (;;) {
        size_t end = cluster_end(text, at, from);
        if (end >= at)
            return from;
        from = end;
    }
}

static int is_space(const char *text, size_t at)
{
    return text[at] == ' ' || text[at] == '\t' || text[at] == '\n';
}

static int is_word_byte(unsigned char c)
{
    return c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static size_t word_left(const struct edit *e)
{
    const char *text = edit_text(e);
    size_t at = e->cursor;
    while (at > 0 && !is_word_byte((unsigned char)text[at - 1]))
        at--;
    while (at > 0 && is_word_byte((unsigned char)text[at - 1]))
        at--;
    return at;
}

static size_t word_right(const struct edit *e)
{
    const char *text = edit_text(e);
    size_t at = e->cursor;
    while (at < e->text.len && !is_word_byte((unsigned char)text[at]))
        at++;
    while (at < e->text.len && is_word_byte((unsigned char)text[at]))
        at++;
    return at;
}

/* As in a shell: ^W takes everything back to the last white space. */
static size_t blank_word_left(const struct edit *e)
{
    const char *text = edit_text(e);
    size_t at = e->cursor;
    while (at > 0 && is_space(text, at - 1))
        at--;
    while (at > 0 && !is_space(text, at - 1))
        at--;
    return at;
}

static void erase(struct edit *e, size_t first, size_t last)
{
    if (first >= last)
        return;
    memmove(e->text.data + first, e->text.data + last, e->text.len - last + 1);
    e->text.len -= last - first;
    e->cursor = first;
    if (e->first > e->text.len)
        e->first = e->text.len;
}

static int cut(struct edit *e, size_t first, size_t last)
{
    if (first >= last)
        return 0;
    buf_clear(&e->killed);
    buf_add(&e->killed, edit_text(e) + first, last - first);
    if (e->killed.failed) {
        buf_free(&e->killed);
        return -1;
    }
    erase(e, first, last);
    return 0;
}

/* Appends a clean copy: valid UTF-8, no NUL, LF as the only line end. */
static void clean(struct buf *out, const char *bytes, size_t n)
{
    for (size_t at = 0; at < n;) {
        utf8proc_int32_t cp;
        size_t used = decode(bytes + at, n - at, &cp);
        if (cp == '\r') {
            if (at + 1 == n || bytes[at + 1] != '\n')
                buf_putc(out, '\n');
        } else if (cp <= 0) {
            buf_puts(out, "\xEF\xBF\xBD");
        } else {
            buf_add(out, bytes + at, used);
        }
        at += used;
    }
}

int edit_insert(struct edit *e, const char *bytes, size_t n)
{
    struct buf fresh = {0};
    clean(&fresh, bytes, n);
    if (fresh.failed || !buf_reserve(&e->text, fresh.len)) {
        e->text.failed = 0;
        buf_free(&fresh);
        return -1;
    }
    if (fresh.len) {
        char *at = e->text.data + e->cursor;
        memmove(at + fresh.len, at, e->text.len - e->cursor);
        memcpy(at, fresh.data, fresh.len);
        e->text.len += fresh.len;
        e->text.data[e->text.len] = 0;
        e->cursor += fresh.len;
    }
    /* What was put in may join the character after it into one cluster. */
    if (e->cursor > 0 && e->cursor < e->text.len) {
        size_t start = cluster_start(e->text.data, e->cursor);
        size_t end = cluster_end(e->text.data, e->text.len, start);
        if (end > e->cursor)
            e->cursor = end;
    }
    buf_free(&fresh);
    return 0;
}

int edit_set(struct edit *e, const char *text)
{
    struct edit fresh = {0};
    if (edit_insert(&fresh, text, strlen(text))) {
        edit_free(&fresh);
        return -1;
    }
    buf_free(&e->text);
    e->text = fresh.text;
    e->cursor = e->text.len;
    e->first = 0;
    return 0;
}

static int go_history(struct edit *e, size_t to)
{
    if (to == e->at_history)
        return 0;
    if (e->at_history == e->n_history) {
        char *draft = strdup(edit_text(e));
        if (!draft)
            return -1;
        free(e->draft);
        e->draft = draft;
    }
    const char *text = to < e->n_history ? e->history[to] : e->draft;
    if (edit_set(e, text ? text : ""))
        return -1;
    e->at_history = to;
    return 0;
}

int edit_do(struct edit *e, enum edit_command command)
{
    const char *text = edit_text(e);
    size_t n = e->text.len;
    switch (command) {
    case EDIT_LEFT:
        e->cursor = e->cursor ? cluster_start(text, e->cursor) : 0;
        return 0;
    case EDIT_RIGHT:
        e->cursor = e->cursor < n ? cluster_end(text, n, e->cursor) : n;
        return 0;
    case EDIT_WORD_LEFT:
        e->cursor = word_left(e);
        return 0;
    case EDIT_WORD_RIGHT:
        e->cursor = word_right(e);
        return 0;
    case EDIT_HOME:
        e->cursor = 0;
        return 0;
    case EDIT_END:
        e->cursor = n;
        return 0;
    case EDIT_BACKSPACE:
        if (e->cursor)
            erase(e, cluster_start(text, e->cursor), e->cursor);
        return 0;
    case EDIT_DELETE:
        if (e->cursor < n)
            erase(e, e->cursor, cluster_end(text, n, e->cursor));
        return 0;
    case EDIT_KILL_TO_END:
        return cut(e, e->cursor, n);
    case EDIT_KILL_TO_START:
        return cut(e, 0, e->cursor);
    case EDIT_KILL_WORD:
        return cut(e, blank_word_left(e), e->cursor);
    case EDIT_YANK:
        return e->killed.len ? edit_insert(e, e->killed.data, e->killed.len) : 0;
    case EDIT_OLDER:
        return e->at_history > 0 ? go_history(e, e->at_history - 1) : 0;
    case EDIT_NEWER:
        return e->at_history < e->n_history ? go_history(e, e->at_history + 1) : 0;
    }
    return 0;
}

int edit_remember(struct edit *e, const char *text)
{
    size_t newest = e->n_history;
    e->at_history = newest;
    if (!*text || (newest && strcmp(e->history[newest - 1], text) == 0))
        return 0;
    char *copy = strdup(text);
    if (!copy)
        return -1;
    if (newest == HISTORY_MAX) {
        free(e->history[0]);
        memmove(e->history, e->history + 1, (newest - 1) * sizeof *e->history);
        newest--;
    } else {
        char **larger = realloc(e->history, (newest + 1) * sizeof *larger);
        if (!larger) {
            free(copy);
            return -1;
        }
        e->history = larger;
    }
    e->history[newest] = copy;
    e->n_history = e->at_history = newest + 1;
    return 0;
}

void edit_view(struct edit *e, int columns, size_t *first, int *cursor_column)
{
    const char *text = edit_text(e);
    size_t room = columns > 1 ? (size_t)columns : 1;
    int outside = e->cursor < e->first;
    /* A part longer than this cannot fit: each cluster shown takes a column and at most some dozens of bytes.
     */
    if (!outside)
        outside =
            e->cursor - e->first > room * 64 || filter_width(text + e->first, e->cursor - e->first) >= room;
    if (outside) {
        size_t keep = e->cursor < e->first ? room / 4 : room * 3 / 4;
        size_t at = e->cursor, width = 0;
        while (at > 0) {
            size_t before = cluster_start(text, at);
            width += filter_width(text + before, at - before);
            if (width > keep)
                break;
            at = before;
        }
        e->first = at;
    }
    *first = e->first;
    size_t column = filter_width(text + e->first, e->cursor - e->first);
    *cursor_column = (int)(column < room ? column : room - 1);
}
