/* SPDX-License-Identifier: Apache-2.0 */
/* store_move.c - a session out to one file, and in again. */
#include <inttypes.h>

#include "app/byte_progress.h"
#include "app/cmd_store.h"
#include "app/columns.h"
#include "app/interrupt.h"
#include "app/output.h"
#include "data/transfer/transfer.h"
#include "ui/human.h"

static json_t *moved_json(const struct transfer_result *r, const char *path)
{
    return json_pack("{s:I, s:o, s:o, s:I, s:I, s:I, s:I, s:I}", "id", (json_int_t)r->session, "name",
                     column_json(r->name), "file", column_json(path), "file_bytes", (json_int_t)r->file_bytes,
                     "documents", (json_int_t)r->documents, "turns", (json_int_t)r->turns, "spans",
                     (json_int_t)r->spans, "span_bytes", (json_int_t)r->span_bytes);
}

/* " 1 document, 3 turns, 94.7 MB of readings" */
static void moved_text(struct buf *out, const struct transfer_result *r)
{
    human_count(out, r->documents);
    buf_puts(out, r->documents == 1 ? " document, " : " documents, ");
    human_count(out, r->turns);
    buf_puts(out, r->turns == 1 ? " turn, " : " turns, ");
    if (r->spans) {
        human_bytes(out, r->span_bytes);
        buf_puts(out, " of readings");
    } else {
        buf_puts(out, r->documents ? "no readings: the text is read again when it is asked" : "no readings");
    }
}

static int exported(const struct config *c, const struct transfer_result *r, struct err *e)
{
    const char *path = c->args[1];
    struct buf out = {0};
    if (c->json)
        return output_json(moved_json(r, path), e);
    column_text(&out, path, 0, 0);
    buf_puts(&out, ": ");
    human_bytes(&out, r->file_bytes);
    buf_puts(&out, "; ");
    moved_text(&out, r);
    buf_putc(&out, '\n');
    return columns_put(&out, e);
}

int store_move_export(const struct config *c, struct store *s, struct err *e)
{
    struct store_session session = {0};
    struct transfer_result r = {0};
    struct byte_progress line;
    int rc = store_named(s, c->args[0], &session, e);
    if (!rc) {
        struct progress port = byte_progress_begin(&line, c);
        struct transfer_options o = {
            .without_kv = c->without_kv, .progress = &port, .cancel = interrupt_watch()};
        rc = transfer_export(s, session.id, c->args[1], &o, &r, e);
        byte_progress_end(&line);
        if (rc == ERR_CANCELLED)
            rc = err_set(e, rc, "stopped; %.300s was not written", c->args[1]);
    }
    if (!rc)
        rc = exported(c, &r, e);
    store_session_free(&session);
    return rc;
}

static int imported(const struct config *c, const struct transfer_result *r, struct err *e)
{
    struct buf out = {0};
    if (c->json) {
        json_t *o = moved_json(r, c->args[0]);
        if (o && json_object_set_new(o, "new_spans", json_integer((json_int_t)r->new_spans))) {
            json_decref(o);
            o = NULL;
        }
        return output_json(o, e);
    }
    column_text(&out, r->name, 0, 0);
    buf_puts(&out, ": imported; ");
    moved_text(&out, r);
    if (r->spans > r->new_spans)
        buf_printf(&out, ", %s of it here already", r->new_spans ? "a part" : "all");
    buf_putc(&out, '\n');
    return columns_put(&out, e);
}

int store_move_import(const struct config *c, struct store *s, struct err *e)
{
    struct transfer_result r = {0};
    struct byte_progress line;
    struct progress port = byte_progress_begin(&line, c);
    struct transfer_options o = {.without_kv = c->without_kv, .progress = &port, .cancel = interrupt_watch()};
    int rc = transfer_import(s, c->args[0], c->n_args > 1 ? c->args[1] : NULL, &o, &r, e);
    byte_progress_end(&line);
    if (rc == ERR_CANCELLED)
        rc = err_set(e, rc, "stopped; nothing was imported");
    return rc ? rc : imported(c, &r, e);
}
