/* SPDX-License-Identifier: Apache-2.0 */
/* emit.c - frames or text to standard output, each frame written at once so that the parent sees life. */
#include "ingest/worker/emit.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ingest/frame.h"
#include "ingest/utf8_repair.h"

static void write_out(struct emit *m)
{
    if (m->out.failed && !m->failed)
        m->failed = ENOMEM;
    const char *p = m->out.data;
    size_t left = m->out.len;
    while (left && !m->failed) {
        ssize_t n = write(STDOUT_FILENO, p, left);
        if (n < 0 && errno != EINTR)
            m->failed = errno;
        if (n > 0) {
            p += n;
            left -= (size_t)n;
        }
    }
    buf_clear(&m->out);
}

static int status(const struct emit *m, struct err *e)
{
    return m->failed ? err_errno(e, m->failed, "cannot write what was read") : 0;
}

void emit_init(struct emit *m, int as_text)
{
    *m = (struct emit){.as_text = as_text, .page = -1};
    m->to_terminal = as_text && isatty(STDOUT_FILENO);
    if (!as_text)
        frame_put_hello(&m->out);
    write_out(m);
}

void emit_fini(struct emit *m)
{
    buf_free(&m->out);
}

int emit_document(struct emit *m, const struct ingest_document *document, struct err *e)
{
    if (!m->as_text)
        frame_put_document(&m->out, document);
    write_out(m);
    return status(m, e);
}

/* A document must not drive the terminal it is shown on: controls become U+FFFD there. */
static void put_shown(struct emit *m, const char *text, size_t n)
{
    const unsigned char *p = (const unsigned char *)text;
    for (size_t i = 0; i < n; i++) {
        int c1 = p[i] == 0xc2 && i + 1 < n && p[i + 1] < 0xa0;
        if (c1 || (p[i] < 0x20 && p[i] != '\n' && p[i] != '\t') || p[i] == 0x7f)
            buf_puts(&m->out, "\xef\xbf\xbd");
        else
            buf_putc(&m->out, p[i]);
        i += c1 ? 1 : 0;
    }
}

static void show_block(struct emit *m, const struct ingest_block *block)
{
    if (block->page_index >= 0 && block->page_index != m->page) {
        m->page = block->page_index;
        buf_printf(&m->out, "---- page %ld", (long)block->page_index + 1);
        if (*block->page_label)
            buf_printf(&m->out, " [%s]", block->page_label);
        buf_puts(&m->out, " ----\n");
    }
    if (m->to_terminal)
        put_shown(m, block->text, block->n);
    else
        buf_add(&m->out, block->text, block->n);
}

int emit_block(void *arg, const struct ingest_block *block, struct err *e)
{
    struct emit *m = arg;
    m->totals.blocks++;
    m->totals.text_bytes += block->n;
    if (m->as_text)
        show_block(m, block);
    else
        frame_put_block(&m->out, block);
    write_out(m);
    return status(m, e);
}

int emit_made(struct emit *m, const char *file, const char *text, size_t n, uint32_t line, struct err *e)
{
    struct ingest_block block = {.text = text,
                                 .n = n,
                                 .file = file,
                                 .page_index = -1,
                                 .page_label = "",
                                 .line_first = line,
                                 .flags = INGEST_MADE};
    return emit_block(m, &block, e);
}

static void warn_line(struct emit *m, const char *line)
{
    struct buf clean = {0};
    utf8_clean_label(&clean, line, FRAME_STRING_MAX);
    if (clean.failed)
        m->failed = ENOMEM;
    else if (m->as_text)
        fprintf(stderr, "lectern-ingest: %s\n", clean.data);
    else
        frame_put_warning(&m->out, clean.data);
    buf_free(&clean);
    write_out(m);
}

void emit_warning(struct emit *m, const char *format, ...)
{
    if (++m->warnings > EMIT_WARNINGS_MAX)
        return;
    char line[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    warn_line(m, n < 0 ? "a warning that cannot be shown" : line);
}

void emit_progress(struct emit *m, uint64_t done, uint64_t total)
{
    if (m->as_text)
        return;
    frame_put_progress(&m->out, done, total);
    write_out(m);
}

int emit_end(struct emit *m, struct err *e)
{
    if (m->warnings > EMIT_WARNINGS_MAX) {
        char line[80];
        snprintf(line, sizeof line, "%u more warnings are not shown", m->warnings - EMIT_WARNINGS_MAX);
        warn_line(m, line);
    }
    if (!m->as_text)
        frame_put_end(&m->out, &m->totals);
    write_out(m);
    return status(m, e);
}

void emit_error(struct emit *m, const struct err *error)
{
    struct buf clean = {0};
    utf8_clean_label(&clean, error->text, sizeof error->text);
    if (clean.failed)
        return;
    if (m->as_text)
        fprintf(stderr, "lectern-ingest: %s\n", clean.data);
    else
        frame_put_error(&m->out, error->code, clean.data);
    buf_free(&clean);
    write_out(m);
}
