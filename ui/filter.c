/* SPDX-License-Identifier: Apache-2.0 */
/* filter.c - see filter.h. Invariant: every glyph consumes at least one byte and holds no byte below 0x20. */
#include "ui/filter.h"

#include <string.h>
#include <utf8proc.h>

enum verdict { SHOW, LEAVE_OUT, REPLACE, CARET, NEWLINE, TAB };

enum { MARKS_MAX = 4, REPLACEMENT = 0xFFFD };

/* Decodes one code point of text[0..n), n >= 1; returns its bytes. *cp is -1 for a byte that is no UTF-8. */
static size_t decode(const char *text, size_t n, utf8proc_int32_t *cp)
{
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    utf8proc_ssize_t used = utf8proc_iterate(bytes, n > 4 ? 4 : (utf8proc_ssize_t)n, cp);
    if (used < 1) {
        *cp = -1;
        return 1;
    }
    return (size_t)used;
}

static enum verdict judge(utf8proc_int32_t cp)
{
    if (cp < 0)
        return REPLACE;
    if (cp == '\n' || cp == 0x2028 || cp == 0x2029)
        return NEWLINE;
    if (cp == '\t')
        return TAB;
    if (cp < 0x20 || cp == 0x7F)
        return CARET;
    if (cp < 0x7F)
        return SHOW;
    /* soft hyphen, zero-width space and joiners, word joiner, byte order mark, variation selectors */
    if (cp == 0xAD || (cp >= 0x200B && cp <= 0x200D) || cp == 0x2060 || cp == 0xFEFF ||
        (cp >= 0xFE00 && cp <= 0xFE0F) || (cp >= 0xE0100 && cp <= 0xE01EF))
        return LEAVE_OUT;
    switch (utf8proc_category(cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF: /* bidirectional controls and tags among them */
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return REPLACE;
    default:
        return SHOW;
    }
}

/* A shown character that takes no column of its own. */
static int is_mark(utf8proc_int32_t cp)
{
    return cp >= 0x80 && judge(cp) == SHOW && utf8proc_charwidth(cp) == 0;
}

static void put(struct glyph *g, const char *text, int width)
{
    g->n_text = strlen(text);
    memcpy(g->text, text, g->n_text + 1);
    g->width = width;
}

/* Adds the marks that follow a shown character, and skips what is left out among them. */
static void take_marks(const char *text, size_t n, struct glyph *g)
{
    for (int marks = 0; g->bytes < n;) {
        utf8proc_int32_t cp;
        size_t used = decode(text + g->bytes, n - g->bytes, &cp);
        if (cp < 0x80)
            return;
        if (is_mark(cp)) {
            if (marks++ == MARKS_MAX)
                return;
            memcpy(g->text + g->n_text, text + g->bytes, used);
            g->n_text += used;
            g->text[g->n_text] = 0;
        } else if (judge(cp) != LEAVE_OUT) {
            return;
        }
        g->bytes += used;
    }
}

void filter_glyph(const char *text, size_t n, struct glyph *g)
{
    utf8proc_int32_t cp;
    memset(g, 0, sizeof *g);
    g->bytes = decode(text, n, &cp);
    g->codepoint = cp < 0 ? REPLACEMENT : (uint32_t)cp;
    if (cp == '\r' && n > 1 && text[1] == '\n') {
        cp = '\n';
        g->bytes = 2;
    }
    switch (judge(cp)) {
    case LEAVE_OUT:
        break;
    case NEWLINE:
        put(g, "\xE2\x86\xB5", 1);
        g->newline = 1;
        break;
    case TAB:
        put(g, "    ", 4);
        break;
    case CARET: {
        char caret[3] = {'^', (char)(cp ^ 0x40), 0};
        put(g, caret, 2);
        break;
    }
    case REPLACE:
        put(g, "\xEF\xBF\xBD", 1);
        g->codepoint = REPLACEMENT;
        break;
    case SHOW:
        if (cp >= 0x80 && utf8proc_charwidth(cp) == 0)
            put(g, "\xE2\x97\x8C", 1); /* a mark without a base stands on a dotted circle */
        else
            g->width = cp < 0x80 ? 1 : utf8proc_charwidth(cp);
        memcpy(g->text + g->n_text, text, g->bytes);
        g->n_text += g->bytes;
        g->text[g->n_text] = 0;
        take_marks(text, n, g);
        break;
    }
}

size_t filter_width(const char *text, size_t n)
{
    size_t width = 0;
    struct glyph g;
    for (size_t at = 0; at < n; at += g.bytes) {
        filter_glyph(text + at, n - at, &g);
        width += (size_t)g.width;
    }
    return width;
}

/* 1 when text[0..n) is the beginning of a valid character that needs more bytes. */
static int is_cut(const char *text, size_t n)
{
    unsigned char lead = (unsigned char)text[0];
    size_t need = lead >= 0xF0 && lead <= 0xF4 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 1;
    if (lead > 0xF4 || n >= need)
        return 0;
    for (size_t i = 1; i < n; i++)
        if (((unsigned char)text[i] & 0xC0) != 0x80)
            return 0;
    return 1;
}

size_t filter_text(struct buf *out, const char *text, size_t n, int final)
{
    size_t at = 0;
    while (at < n) {
        utf8proc_int32_t cp;
        size_t used = decode(text + at, n - at, &cp);
        if (!final && (cp < 0 ? is_cut(text + at, n - at) : cp == '\r' && at + 1 == n))
            break;
        if (cp == '\r' && at + 1 < n && text[at + 1] == '\n') {
            at++;
            continue;
        }
        switch (judge(cp)) {
        case LEAVE_OUT:
            break;
        case NEWLINE:
            buf_putc(out, '\n');
            break;
        case TAB:
        case SHOW:
            buf_add(out, text + at, used);
            break;
        case CARET:
            buf_putc(out, '^');
            buf_putc(out, cp ^ 0x40);
            break;
        case REPLACE:
            buf_puts(out, "\xEF\xBF\xBD");
            break;
        }
        at += used;
    }
    return at;
}
