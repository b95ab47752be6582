/* SPDX-License-Identifier: Apache-2.0 */
/* store_tend.c - verify, gc, strip, pin: what a person does to keep a store sound and small. */
#include <inttypes.h>
#include <string.h>

#include "app/byte_progress.h"
#include "app/cmd_store.h"
#include "app/columns.h"
#include "app/interrupt.h"
#include "app/output.h"
#include "app/store_care.h"
#include "ui/human.h"

/* "12 spans", "1 span". */
static void counted(struct buf *out, uint64_t n, const char *one)
{
    human_count(out, n);
    buf_printf(out, " %s%s", one, n == 1 ? "" : "s");
}

/* ---- verify ---- */

struct problems {
    const struct config *c;
    json_t *lines; /* with --json, else NULL */
    struct byte_progress *progress;
    struct err err; /* of the output */
};

static void take_problem(void *arg, const char *line)
{
    struct problems *p = arg;
    struct buf out = {0};
    if (p->err.code)
        return;
    if (p->lines) {
        if (json_array_append_new(p->lines, column_json(line)))
            err_memory(&p->err, "JSON");
        return;
    }
    byte_progress_end(p->progress); /* the line makes place */
    buf_printf(&out, "%s\n", line);
    if (!columns_put(&out, &p->err))
        output_flush(&p->err);
}

/* "5 spans (1.2 GB), 3 sessions, 4 documents and 12 turns" */
static void what_was_read(struct buf *out, const struct store_verify_result *r)
{
    counted(out, r->spans, "span");
    buf_puts(out, " (");
    human_bytes(out, r->bytes);
    buf_puts(out, "), ");
    counted(out, r->sessions, "session");
    buf_puts(out, ", ");
    counted(out, r->documents, "document");
    buf_puts(out, " and ");
    counted(out, r->turns, "turn");
}

static int put_verified(const struct config *c, const struct store_verify_result *r, struct problems *p,
                        struct err *e)
{
    if (c->json) {
        json_t *o = json_pack("{s:O, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "lines", p->lines,
                              "problems", (json_int_t)r->problems, "repaired", (json_int_t)r->repaired,
                              "spans", (json_int_t)r->spans, "bytes", (json_int_t)r->bytes, "sessions",
                              (json_int_t)r->sessions, "documents", (json_int_t)r->documents, "turns",
                              (json_int_t)r->turns, "missing", (json_int_t)r->missing, "orphans",
                              (json_int_t)r->orphans);
        return output_json(o, e);
    }
    struct buf out = {0};
    if (!r->problems)
        buf_puts(&out, "sound: ");
    else
        buf_puts(&out, "looked at ");
    what_was_read(&out, r);
    buf_putc(&out, '\n');
    if (r->missing) {
        counted(&out, r->missing, "reference");
        buf_puts(&out, " to spans that were given up; the text is read again when they are needed\n");
    }
    if (r->orphans) {
        counted(&out, r->orphans, "file");
        buf_puts(&out, " that nothing needs; `lectern store gc` takes them away\n");
    }
    return columns_put(&out, e);
}

/* The line for the person when something is, or was, wrong. */
static int judge(const struct config *c, const struct store_verify_result *r, struct err *e)
{
    uint64_t left = r->problems > r->repaired ? r->problems - r->repaired : 0;
    if (left && !c->repair)
        return err_set(e, ERR_FORMAT,
                       "%" PRIu64 " of these problems are still there; `lectern store verify --repair` drops "
                       "damaged readings, which are then read again from the text",
                       left);
    if (left)
        return err_set(e, ERR_FORMAT,
                       "%" PRIu64 " of these problems cannot be repaired: text and turns are never dropped; "
                       "delete the sessions that are named, or bring the data folder back from a copy",
                       left);
    if (r->repaired)
        output_notice(c,
                      "%" PRIu64 " repaired; what was dropped is read again from the text when it is needed",
                      r->repaired);
    return 0;
}

int store_tend_verify(const struct config *c, struct store *s, struct err *e)
{
    struct byte_progress line;
    struct progress port = byte_progress_begin(&line, c);
    struct problems found = {.c = c, .lines = c->json ? json_array() : NULL, .progress = &line};
    struct store_verify_options o = {.repair = c->repair,
                                     .problem = take_problem,
                                     .arg = &found,
                                     .progress = &port,
                                     .cancel = interrupt_watch()};
    struct store_verify_result r = {0};
    int rc = c->json && !found.lines ? err_memory(e, "JSON") : store_verify(s, &o, &r, e);
    byte_progress_end(&line);
    if (!rc && found.err.code) {
        *e = found.err;
        rc = e->code;
    }
    if (rc == ERR_CANCELLED)
        rc = err_set(e, rc, "stopped; %" PRIu64 " spans were looked at, %" PRIu64 " problems found", r.spans,
                     r.problems);
    if (!rc)
        rc = put_verified(c, &r, &found, e);
    if (!rc)
        rc = judge(c, &r, e);
    json_decref(found.lines);
    return rc;
}

/* ---- gc ---- */

static json_t *limit_json(uint64_t limit)
{
    return limit == CONFIG_NOT_GIVEN ? json_null() : json_integer((json_int_t)limit);
}

static int gc_json(const struct config *c, const struct store_gc_result *r, int met, struct err *e)
{
    return output_json(
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:I, s:b}", "dropped_spans", (json_int_t)r->spans,
                  "dropped_bytes",
                  (json_int_t)(r->bytes_before > r->bytes_after ? r->bytes_before - r->bytes_after : 0),
                  "bytes_before", (json_int_t)r->bytes_before, "bytes_after", (json_int_t)r->bytes_after,
                  "seconds_to_rebuild", (json_int_t)r->seconds_to_rebuild, "kept_because_open",
                  (json_int_t)r->kept_because_open, "kept_because_pinned", (json_int_t)r->kept_because_pinned,
                  "budget", limit_json(c->budget), "leave_free", (json_int_t)c->leave_free, "met", met),
        e);
}

static void gc_kept(struct buf *out, const struct store_gc_result *r)
{
    if (r->kept_because_open) {
        human_bytes(out, r->kept_because_open);
        buf_puts(out, " in sessions that are open");
    }
    if (r->kept_because_pinned) {
        buf_puts(out, r->kept_because_open ? ", " : "");
        human_bytes(out, r->kept_because_pinned);
        buf_puts(out, " in pinned ones");
    }
}

static int gc_text(const struct config *c, const struct store_gc_result *r, int met, struct err *e)
{
    struct buf out = {0}, kept = {0};
    if (r->spans) {
        buf_puts(&out, "dropped ");
        counted(&out, r->spans, "span");
        buf_puts(&out, ", ");
        human_bytes(&out, r->bytes_before > r->bytes_after ? r->bytes_before - r->bytes_after : 0);
        buf_puts(&out, "; ");
    } else {
        buf_puts(&out, "nothing to drop; ");
    }
    human_bytes(&out, r->bytes_after);
    buf_puts(&out, r->spans ? " remain\n" : " in use\n");
    if (r->spans && r->seconds_to_rebuild) {
        buf_puts(&out, "to read what was dropped again takes about ");
        human_duration(&out, (double)r->seconds_to_rebuild);
        buf_putc(&out, '\n');
    }
    gc_kept(&kept, r);
    const char *remedy = !r->kept_because_pinned ? "close them"
                         : r->kept_because_open  ? "close them, or `lectern store unpin SESSION`"
                                                 : "`lectern store unpin SESSION` frees them";
    if (!met && kept.data)
        output_notice(c, "the budget is not met: %s stay; %s", kept.data, remedy);
    else if (!met)
        output_notice(c, "the budget is not met, and nothing is left to drop: other files fill the disk");
    out.failed |= kept.failed;
    buf_free(&kept);
    return columns_put(&out, e);
}

int store_tend_gc(const struct config *c, struct store *s, struct err *e)
{
    struct store_gc_result r = {0};
    int met = 1;
    int rc = store_make_room(c, s, &r, &met, e);
    if (rc == ERR_CANCELLED)
        return err_set(e, rc, "stopped; %" PRIu64 " spans were dropped, and the same command goes on",
                       r.spans);
    if (rc)
        return rc;
    return c->json ? gc_json(c, &r, met, e) : gc_text(c, &r, met, e);
}

/* ---- strip, pin ---- */

int store_tend_strip(const struct config *c, struct store *s, struct err *e)
{
    struct store_session session = {0};
    struct store_usage usage = {0};
    struct buf out = {0};
    uint64_t bytes = 0;
    int rc = store_named(s, c->args[0], &session, e);
    if (!rc)
        rc = store_session_usage(s, session.id, 0, UINT64_MAX, &usage, e);
    if (!rc)
        rc = store_session_strip(s, session.id, &bytes, e);
    if (!rc && c->json) {
        rc = output_json(json_pack("{s:I, s:o, s:I, s:f}", "id", (json_int_t)session.id, "name",
                                   column_json(session.name), "freed_bytes", (json_int_t)bytes,
                                   "rebuild_seconds", usage.seconds),
                         e);
    } else if (!rc) {
        column_text(&out, session.name, 0, 0);
        buf_puts(&out, ": ");
        human_bytes(&out, bytes);
        buf_puts(&out, " of readings dropped, text and turns kept");
        if (session.kv_bytes > bytes) {
            buf_puts(&out, "; ");
            human_bytes(&out, session.kv_bytes - bytes);
            buf_puts(&out, " stay for other sessions");
        }
        if (usage.seconds > 0) {
            buf_puts(&out, "; to read it again takes about ");
            human_duration(&out, usage.seconds);
        }
        buf_putc(&out, '\n');
        rc = columns_put(&out, e);
    }
    store_session_free(&session);
    return rc;
}

int store_tend_pin(const struct config *c, struct store *s, int on, struct err *e)
{
    struct store_session session = {0};
    struct buf out = {0};
    int rc = store_named(s, c->args[0], &session, e);
    if (!rc)
        rc = store_session_pin(s, session.id, on, e);
    if (!rc && c->json) {
        rc = output_json(json_pack("{s:I, s:o, s:b}", "id", (json_int_t)session.id, "name",
                                   column_json(session.name), "pinned", on),
                         e);
    } else if (!rc) {
        column_text(&out, session.name, 0, 0);
        buf_puts(&out, on ? ": pinned; no clean-up drops its reading\n"
                          : ": no longer pinned; a clean-up may drop its reading\n");
        rc = columns_put(&out, e);
    }
    store_session_free(&session);
    return rc;
}
