/* SPDX-License-Identifier: Apache-2.0 */
/* read_pdf.c - a PDF's text, page by page, by poppler-glib.
 *
 * One page = its text in poppler's reading order, lines kept, blanks at line ends and control characters
 * removed, then exactly one blank line ("\n\n"). A page without text gives no block; it is counted and said.
 * Lines are counted within the page. A page's text has no source bytes (byte_len 0).
 */
#include "ingest/worker/readers.h"

#include <limits.h>
#include <poppler.h>
#include <string.h>

#include "engine/base/file.h"
#include "ingest/text_cut.h"
#include "ingest/utf8_repair.h"

static int open_error(const GError *error, const char *name, struct err *e)
{
    if (error && g_error_matches(error, POPPLER_ERROR, POPPLER_ERROR_ENCRYPTED))
        return err_set(e, ERR_UNSUPPORTED, "%s is encrypted; save a copy without a password and add that",
                       name);
    return err_set(e, ERR_FORMAT,
                   "%s is damaged or no PDF (%s); get it again or repair it (qpdf, mutool clean)", name,
                   error ? error->message : "unknown error");
}

/* Is the character at p (of `length` bytes) one that only steers a terminal or printer? */
static int is_control(const uint8_t *p, size_t length)
{
    if (length == 1)
        return (p[0] < 0x20 && p[0] != '\n' && p[0] != '\t') || p[0] == 0x7f;
    return length == 2 && p[0] == 0xc2 && p[1] < 0xa0;
}

static void trim_blanks(struct buf *out)
{
    while (out->len && (out->data[out->len - 1] == ' ' || out->data[out->len - 1] == '\t'))
        out->len--;
}

/* Appends a page's text as described above; returns how many invalid sequences were replaced. */
static uint64_t clean_page(struct buf *out, const char *text)
{
    struct buf valid = {0};
    uint64_t replaced = utf8_repair(&valid, text, strlen(text));
    const uint8_t *p = (const uint8_t *)valid.data;
    if (valid.failed)
        out->failed = 1;
    for (size_t i = 0; !valid.failed && i < valid.len;) {
        size_t bad;
        size_t length = utf8_sequence(p + i, valid.len - i, &bad);
        if (p[i] == '\n')
            trim_blanks(out);
        if (!is_control(p + i, length))
            buf_add(out, p + i, length);
        i += length;
    }
    buf_free(&valid);
    while (out->len && strchr(" \t\n", out->data[out->len - 1]))
        out->len--;
    if (out->len)
        buf_puts(out, "\n\n");
    return replaced;
}

/* text_cut knows source bytes; a page's text has none. */
static int emit_page_block(void *arg, const struct ingest_block *block, struct err *e)
{
    struct ingest_block b = *block;
    b.byte_first = b.byte_len = 0;
    b.flags = 0;
    return emit_block(arg, &b, e);
}

/* Do a and b stand on one line with a gap that a reader sees as blank? (A third of the line's height; letters
 * of one word stand closer, columns of a table or the page numbers of a contents list farther.) */
static int apart(const PopplerRectangle *a, const PopplerRectangle *b)
{
    double height = a->y2 - a->y1;
    double top = a->y1 > b->y1 ? a->y1 : b->y1;
    double bottom = a->y2 < b->y2 ? a->y2 : b->y2;
    return height > 0 && bottom - top > height / 2 && b->x1 - a->x2 > height / 3;
}

/* The page's text; poppler joins words of one line that stand far apart ("Index27"), so a blank goes between.
 */
static void page_text(PopplerPage *page, struct buf *out)
{
    char *raw = poppler_page_get_text(page);
    PopplerRectangle *boxes = NULL;
    guint n = 0;
    if (!raw)
        return;
    /* One box for each character of the text; if ever not, the text stays as it is. */
    int known = g_utf8_validate(raw, -1, NULL) && poppler_page_get_text_layout(page, &boxes, &n) &&
                g_utf8_strlen(raw, -1) == (glong)n;
    size_t i = 0;
    for (const char *p = raw, *next; known && *p; p = next, i++) {
        next = g_utf8_next_char(p);
        int inside = i > 0 && !g_unichar_isspace(g_utf8_get_char(p)) && out->len &&
                     !g_ascii_isspace(out->data[out->len - 1]);
        if (inside && apart(&boxes[i - 1], &boxes[i]))
            buf_putc(out, ' ');
        buf_add(out, p, (size_t)(next - p));
    }
    if (!known)
        buf_puts(out, raw);
    g_free(boxes);
    g_free(raw);
}

static int read_page(struct emit *m, PopplerDocument *pdf, int index, const char *name, struct err *e)
{
    PopplerPage *page = poppler_document_get_page(pdf, index);
    if (!page) {
        m->totals.pages_without_text++;
        emit_warning(m, "page %d of %s is damaged and was left out", index + 1, name);
        return 0;
    }
    char *raw_label = poppler_page_get_label(page);
    struct buf raw = {0}, text = {0}, label = {0};
    page_text(page, &raw);
    g_object_unref(page);
    m->totals.replaced += clean_page(&text, raw.data ? raw.data : "");
    text.failed |= raw.failed;
    buf_free(&raw);
    utf8_clean_label(&label, raw_label ? raw_label : "", 64);
    g_free(raw_label);
    int rc = text.failed || label.failed ? err_memory(e, "a page's text") : 0;
    if (!rc && text.len == 0)
        m->totals.pages_without_text++;
    if (!rc && text.len) {
        struct ingest_block like = {.file = name, .page_index = index, .page_label = label.data};
        struct text_cut_result cut;
        rc = text_cut((const uint8_t *)text.data, text.len, &like, emit_page_block, m, &cut, e);
    }
    buf_free(&text);
    buf_free(&label);
    return rc;
}

static int emit_head(struct emit *m, PopplerDocument *pdf, int pages, size_t size, const char *name,
                     struct err *e)
{
    char *raw_title = poppler_document_get_title(pdf);
    char *raw_author = poppler_document_get_author(pdf);
    struct buf title = {0}, author = {0};
    utf8_clean_label(&title, raw_title && *raw_title ? raw_title : path_base(name), 300);
    utf8_clean_label(&author, raw_author ? raw_author : "", 300);
    g_free(raw_title);
    g_free(raw_author);
    int rc = title.failed || author.failed ? err_memory(e, "a title") : 0;
    if (!rc) {
        struct ingest_document document = {.kind = "pdf",
                                           .title = title.data,
                                           .author = author.data,
                                           .pages = (uint32_t)pages,
                                           .source_bytes = size};
        rc = emit_document(m, &document, e);
    }
    buf_free(&title);
    buf_free(&author);
    return rc;
}

static int read_pages(struct emit *m, PopplerDocument *pdf, size_t size, const char *name, struct err *e)
{
    int pages = poppler_document_get_n_pages(pdf);
    if (pages <= 0)
        return err_set(e, ERR_FORMAT, "%s has no pages that can be read; get it again or repair it", name);
    int rc = emit_head(m, pdf, pages, size, name, e);
    for (int i = 0; !rc && i < pages; i++) {
        rc = read_page(m, pdf, i, name, e);
        emit_progress(m, (uint64_t)i + 1, (uint64_t)pages);
    }
    m->totals.files = 1;
    uint32_t without = m->totals.pages_without_text;
    if (!rc && without == (uint32_t)pages)
        return err_set(
            e, ERR_UNSUPPORTED,
            "none of the %d pages of %s has a text layer (a scan?); run OCR on it first (ocrmypdf)", pages,
            name);
    if (!rc && without)
        emit_warning(m, "%u of %d pages %s no text layer", without, pages, without == 1 ? "has" : "have");
    return rc;
}

int read_pdf(struct emit *m, const uint8_t *bytes, size_t n, const char *name, struct err *e)
{
    if (n == 0 || n > INT_MAX) /* poppler takes sizes as int */
        return n ? err_set(e, ERR_LIMIT, "%s is larger than 2 GiB; split it", name)
                 : err_set(e, ERR_FORMAT, "%s is empty; there is nothing to read", name);
    GBytes *memory = g_bytes_new_static(bytes, n);
    GError *error = NULL;
    PopplerDocument *pdf = poppler_document_new_from_bytes(memory, NULL, &error);
    int rc = pdf ? read_pages(m, pdf, n, name, e) : open_error(error, name, e);
    if (pdf)
        g_object_unref(pdf);
    g_clear_error(&error);
    g_bytes_unref(memory);
    return rc;
}
