/* SPDX-License-Identifier: Apache-2.0 */
/* output.c - checked writes to stdout, lines on stderr, the progress line. */
#include "app/output.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "ingest/utf8_repair.h"
#include "ui/filter.h"
#include "ui/human.h"

/* ---- stdout ---- */

static int write_failed(struct err *e)
{
    return err_errno(e, errno, "cannot write to the standard output");
}

int output_bytes(const void *bytes, size_t n, struct err *e)
{
    return fwrite(bytes, 1, n, stdout) == n ? 0 : write_failed(e);
}

int output_puts(const char *text, struct err *e)
{
    return output_bytes(text, strlen(text), e);
}

int output_printf(struct err *e, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vprintf(format, args);
    va_end(args);
    return n < 0 ? write_failed(e) : 0;
}

/* Writes the harmless form; *used is less than n only when the text ends inside a character before `final`.
 */
static int put_filtered(const char *text, size_t n, int final, size_t *used, struct err *e)
{
    struct buf safe = {0};
    *used = filter_text(&safe, text, n, final);
    int rc = safe.failed ? err_memory(e, "text") : 0;
    if (!rc && safe.len)
        rc = output_bytes(safe.data, safe.len, e);
    buf_free(&safe);
    return rc;
}

int output_text(const char *text, size_t n, struct err *e)
{
    size_t used;
    if (!isatty(STDOUT_FILENO))
        return output_bytes(text, n, e);
    return put_filtered(text, n, 1, &used, e);
}

int output_stream(struct output_stream *s, const char *text, size_t n, int final, struct err *e)
{
    int rc = 0;
    if (!isatty(STDOUT_FILENO)) {
        rc = output_bytes(text, n, e);
    } else {
        buf_add(&s->pending, text, n);
        rc = s->pending.failed ? err_memory(e, "text") : 0;
        size_t used = 0;
        if (!rc && s->pending.len)
            rc = put_filtered(s->pending.data, s->pending.len, final, &used, e);
        if (!rc && used) {
            memmove(s->pending.data, s->pending.data + used, s->pending.len - used);
            s->pending.len -= used;
        }
    }
    if (final)
        buf_free(&s->pending);
    return rc ? rc : output_flush(e);
}

int output_flush(struct err *e)
{
    return fflush(stdout) || ferror(stdout) ? write_failed(e) : 0;
}

int output_closed(void)
{
    struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLERR | POLLHUP));
}

static int put_json(const char *bytes, size_t n, void *arg)
{
    (void)arg;
    return fwrite(bytes, 1, n, stdout) == n ? 0 : -1;
}

int output_json(json_t *value, struct err *e)
{
    if (!value)
        return err_memory(e, "JSON");
    errno = 0;
    int failed = json_dump_callback(value, put_json, NULL, JSON_INDENT(2) | JSON_ENCODE_ANY);
    json_decref(value);
    if (failed && !ferror(stdout))
        return err_memory(e, "JSON");
    if (failed)
        return write_failed(e);
    return output_puts("\n", e);
}

json_t *output_json_text(const char *text, size_t n)
{
    struct buf clean = {0};
    utf8_repair(&clean, text, n);
    json_t *value = clean.failed ? NULL : json_stringn(clean.data ? clean.data : "", clean.len);
    buf_free(&clean);
    return value;
}

void output_hex(const uint8_t *bytes, size_t n, char out[65])
{
    static const char digits[] = "0123456789abcdef";
    n = n > 32 ? 32 : n;
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = '\0';
}

int output_color(const struct config *c)
{
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    return !c->no_color && !(no && no[0]) && isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0;
}

/* ---- stderr ---- */

static void put_line(const char *text)
{
    struct buf safe = {0};
    if (isatty(STDERR_FILENO))
        filter_text(&safe, text, strlen(text), 1);
    fprintf(stderr, "lectern: %s\n", safe.data && !safe.failed ? safe.data : text);
    buf_free(&safe);
}

void output_error(const char *text)
{
    put_line(text);
}

void output_notice(const struct config *c, const char *format, ...)
{
    if (c->quiet)
        return;
    char *line = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&line, format, args);
    va_end(args);
    if (n >= 0) {
        put_line(line);
        free(line);
    }
}

/* ---- progress ---- */

enum { EVERY_TERMINAL_MS = 100, EVERY_LOG_MS = 10000 };

void progress_line_begin(struct progress_line *p, const struct config *c, const char *unit)
{
    *p = (struct progress_line){.on = !c->quiet, .terminal = isatty(STDERR_FILENO), .unit = unit};
}

static void line_of(const struct progress_line *p, uint64_t done, uint64_t total, double now, struct buf *out)
{
    double seconds = now - p->begun;
    double rate = seconds > 0 && done > p->first ? (double)(done - p->first) / seconds : 0;
    buf_printf(out, "%s  ", p->what);
    human_count(out, done);
    if (total) {
        buf_puts(out, " of ");
        human_count(out, total);
    }
    buf_printf(out, " %s", p->unit);
    if (rate > 0 && seconds > 0.5) {
        buf_puts(out, "  ");
        if (rate >= 10)
            human_count(out, (uint64_t)(rate + 0.5));
        else
            buf_printf(out, "%.1f", rate);
        buf_printf(out, " %s/s", p->unit);
        if (total > done) {
            buf_puts(out, "  ");
            human_duration(out, (double)(total - done) / rate);
            buf_puts(out, " left");
        }
    }
}

static void report(void *arg, const char *what, uint64_t done, uint64_t total)
{
    struct progress_line *p = arg;
    double now = clock_seconds();
    if (!p->on)
        return;
    if (strncmp(p->what, what, sizeof p->what - 1) != 0 || done < p->first) {
        snprintf(p->what, sizeof p->what, "%s", what);
        p->begun = now;
        p->drawn = p->terminal ? 0 : now;
        p->first = done;
    }
    double every = (p->terminal ? EVERY_TERMINAL_MS : EVERY_LOG_MS) / 1000.0;
    if (now - p->drawn < every && !(p->terminal && total && done == total))
        return;
    p->drawn = now;
    struct buf line = {0};
    line_of(p, done, total, now, &line);
    if (line.data && !line.failed)
        fprintf(stderr, "%s%s%s", p->terminal ? "\r" : "", line.data, p->terminal ? "\x1b[K" : "\n");
    p->shown = p->terminal;
    buf_free(&line);
}

struct progress progress_line_port(struct progress_line *p)
{
    return (struct progress){.report = report, .arg = p};
}

void progress_line_end(struct progress_line *p)
{
    if (p->shown)
        fputs("\r\x1b[K", stderr);
    p->shown = 0;
    p->what[0] = '\0';
}
