/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_sessions.c - list, show, rename, fork and delete sessions of the store. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/columns.h"
#include "app/commands.h"
#include "app/output.h"
#include "data/store/store.h"
#include "engine/base/clock.h"
#include "ui/filter.h"
#include "ui/human.h"

/* JSON that the program itself kept; a string where it cannot be read. NULL: out of memory. Read twice,
 * because jansson's reader leaves out characters, and succeeds, when it cannot grow its buffer. */
static json_t *kept_json(const char *text)
{
    if (!text || !text[0])
        return json_null();
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL), *again = json_loads(text, JSON_DECODE_ANY, NULL);
    int unread = !value && !again, same = value && again && json_equal(value, again);
    json_decref(again);
    if (same)
        return value;
    json_decref(value);
    return unread ? column_json(text) : NULL;
}

static json_t *session_json(const struct store_session *s)
{
    char hash[65];
    output_hex(s->model_hash, sizeof s->model_hash, hash);
    return json_pack("{s:I, s:o, s:I, s:I, s:o, s:s, s:o, s:I, s:I, s:I, s:I, s:I, s:b, s:b}", "id",
                     (json_int_t)s->id, "name", column_json(s->name), "created", (json_int_t)s->created,
                     "opened", (json_int_t)s->opened, "model", column_json(s->model_path), "model_hash", hash,
                     "options", kept_json(s->options), "tokens", (json_int_t)s->tokens, "documents",
                     (json_int_t)s->documents, "pages", (json_int_t)s->pages, "turns", (json_int_t)s->turns,
                     "kv_bytes", (json_int_t)s->kv_bytes, "pinned", s->pinned, "damaged", s->damaged);
}

/* ---- list ---- */

static int list_json(const struct store_session_list *list, struct err *e)
{
    json_t *all = json_array();
    for (size_t i = 0; i < list->n; i++)
        if (json_array_append_new(all, session_json(&list->items[i]))) {
            json_decref(all);
            return err_memory(e, "JSON");
        }
    return output_json(all, e);
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static int list_text(const struct store_session_list *list, struct err *e)
{
    size_t width = 7;
    int pins = 0;
    struct buf out = {0};
    for (size_t i = 0; i < list->n; i++) {
        width = column_width(width, list->items[i].name ? list->items[i].name : "", SIZE_MAX);
        pins |= list->items[i].pinned;
    }
    if (list->n) {
        column_text(&out, "SESSION", width, 0);
        buf_puts(&out, "  DOCS   PAGES      TOKENS         KV  TURNS  OPENED");
        buf_puts(&out, pins ? "        PINNED\n" : "\n");
    }
    for (size_t i = 0; i < list->n; i++) {
        const struct store_session *s = &list->items[i];
        column_text(&out, s->name, width, 0);
        if (s->damaged) {
            buf_puts(&out, "  damaged; `lectern store verify` says more, or delete it\n");
            continue;
        }
        column_number(&out, human_count, s->documents, 6);
        column_number(&out, human_count, s->pages, 8);
        column_number(&out, human_count, s->tokens, 12);
        column_number(&out, human_bytes, s->kv_bytes, 11);
        column_number(&out, human_count, s->turns, 7);
        buf_puts(&out, "  ");
        size_t at = out.len;
        human_when(&out, s->opened, clock_unix());
        if (s->pinned)
            buf_printf(&out, "%*spinned", (int)(14 - smaller(out.len - at, 12)), "");
        buf_putc(&out, '\n');
    }
    return columns_put(&out, e);
}

static int list_sessions(const struct config *c, struct store *store, struct err *e)
{
    struct store_session_list list = {0};
    int rc = store_session_list(store, &list, e);
    if (!rc)
        rc = c->json ? list_json(&list, e) : list_text(&list, e);
    if (!rc && !c->json && !list.n)
        output_notice(c, "there is no session yet; make one with `lectern add -s NAME FILE`");
    store_session_list_free(&list);
    return rc;
}

/* ---- show ---- */

struct shown {
    struct store_session session;
    struct store_document_list documents;
    struct store_turn_list turns;
};

static int show_json(const struct shown *v, struct err *e)
{
    json_t *o = session_json(&v->session), *documents = json_array(), *turns = json_array();
    int bad = 0;
    for (size_t i = 0; i < v->documents.n; i++) {
        const struct store_document *d = &v->documents.items[i];
        char hash[65];
        output_hex(d->hash, sizeof d->hash, hash);
        bad |= json_array_append_new(
            documents,
            json_pack("{s:i, s:o, s:o, s:o, s:I, s:I, s:s, s:I, s:I, s:I, s:I}", "ordinal", d->ordinal,
                      "path", column_json(d->path), "title", column_json(d->title), "kind",
                      column_json(d->kind), "size", (json_int_t)d->size, "mtime_ns", (json_int_t)d->mtime_ns,
                      "hash", hash, "pages", (json_int_t)d->pages, "token_start", (json_int_t)d->token_start,
                      "token_count", (json_int_t)d->token_count, "text_bytes",
                      (json_int_t)d->part_bytes[STORE_TEXT]));
    }
    for (size_t i = 0; i < v->turns.n; i++) {
        const struct store_turn *t = &v->turns.items[i];
        bad |= json_array_append_new(
            turns, json_pack("{s:i, s:I, s:o, s:o, s:o, s:b}", "ordinal", t->ordinal, "time",
                             (json_int_t)t->time, "question", column_json(t->question), "answer",
                             column_json(t->answer), "details", kept_json(t->json), "damaged", t->damaged));
    }
    bad |= !o || json_object_set(o, "documents", documents) || json_object_set(o, "turns", turns);
    json_decref(documents);
    json_decref(turns);
    if (bad) {
        json_decref(o);
        return err_memory(e, "JSON");
    }
    return output_json(o, e);
}

static void show_head(const struct store_session *s, struct buf *out)
{
    buf_puts(out, "session   ");
    column_text(out, s->name, 0, 0);
    buf_puts(out, "\ncreated   ");
    human_when(out, s->created, clock_unix());
    buf_puts(out, "\nopened    ");
    human_when(out, s->opened, clock_unix());
    if (s->model_path[0]) {
        buf_puts(out, "\nmodel     ");
        column_text(out, s->model_path, 0, 0);
    }
    buf_puts(out, "\ncontext   ");
    human_count(out, s->tokens);
    buf_puts(out, " tokens read, ");
    human_bytes(out, s->kv_bytes);
    buf_puts(out, s->pinned ? " of memory kept, pinned\n" : " of memory kept\n");
}

static int show_text(const struct shown *v, struct err *e)
{
    struct buf out = {0};
    show_head(&v->session, &out);
    if (v->documents.n)
        buf_puts(&out, "\ndocuments\n");
    for (size_t i = 0; i < v->documents.n; i++) {
        const struct store_document *d = &v->documents.items[i];
        buf_printf(&out, "%4d  ", d->ordinal + 1);
        column_text(&out, d->path, 0, 0);
        buf_puts(&out, "\n      ");
        if (d->title[0]) {
            column_text(&out, d->title, 0, 0);
            buf_puts(&out, "; ");
        }
        column_text(&out, d->kind, 0, 0);
        buf_puts(&out, ", ");
        if (d->pages) {
            human_count(&out, d->pages);
            buf_puts(&out, d->pages == 1 ? " page, " : " pages, ");
        }
        human_count(&out, d->token_count);
        buf_puts(&out, " tokens\n");
    }
    for (size_t i = 0; i < v->turns.n; i++) {
        const struct store_turn *t = &v->turns.items[i];
        buf_printf(&out, "\n%d. ", t->ordinal + 1);
        human_when(&out, t->time, clock_unix());
        buf_puts(&out, "\nQ: ");
        buf_puts(&out, t->question);
        buf_puts(&out, "\nA: ");
        buf_puts(&out, t->answer);
        if (t->damaged)
            buf_puts(&out, "\n(damaged: this is not what was written)");
        buf_putc(&out, '\n');
    }
    return columns_put(&out, e);
}

static int show_session(const struct config *c, struct store *store, struct err *e)
{
    struct shown v = {0};
    int rc = store_session_get(store, c->args[0], &v.session, e);
    if (!rc)
        rc = store_document_list(store, v.session.id, &v.documents, e);
    if (!rc)
        rc = store_turn_list(store, v.session.id, &v.turns, e);
    if (!rc)
        rc = c->json ? show_json(&v, e) : show_text(&v, e);
    store_turn_list_free(&v.turns);
    store_document_list_free(&v.documents);
    store_session_free(&v.session);
    return rc;
}

/* ---- changes ---- */

/* A session got (or is) another name. */
static int say(const struct config *c, const char *key, const char *verb, int64_t id, struct err *e)
{
    if (c->json)
        return output_json(json_pack("{s:I, s:o, s:o}", "id", (json_int_t)id, "name", column_json(c->args[1]),
                                     key, column_json(c->args[0])),
                           e);
    output_notice(c, "‘%s’ %s ‘%s’", c->args[0], verb, c->args[1]);
    return 0;
}

static int rename_session(const struct config *c, struct store *store, struct err *e)
{
    struct store_session s = {0};
    int rc = store_session_get(store, c->args[0], &s, e);
    if (!rc)
        rc = store_session_rename(store, s.id, c->args[1], e);
    if (!rc)
        rc = say(c, "renamed_from", "is now called", s.id, e);
    store_session_free(&s);
    return rc;
}

static int fork_session(const struct config *c, struct store *store, struct err *e)
{
    struct store_session s = {0};
    int64_t id = 0;
    int rc = store_session_get(store, c->args[0], &s, e);
    if (!rc)
        rc = store_session_fork(store, s.id, c->args[1], &id, e);
    if (!rc)
        rc = say(c, "forked_from", "goes on separately as", id, e);
    store_session_free(&s);
    return rc;
}

/* A yes on the terminal; everything else is no. */
static int person_agrees(const char *wanted, const struct store_session *s)
{
    struct buf name = {0};
    char answer[16];
    filter_text(&name, wanted, strlen(wanted), 1);
    const char *shown = name.data ? name.data : "";
    if (s->damaged)
        fprintf(stderr, "Delete session ‘%s’, which is damaged? [y/N] ", shown);
    else
        fprintf(stderr, "Delete session ‘%s’ with %" PRIu64 " documents and %" PRIu64 " turns? [y/N] ", shown,
                s->documents, s->turns);
    buf_free(&name);
    return fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

/* A row that is damaged can be deleted, too; then only its id is known. */
static int find_for_delete(struct store *store, const char *name, struct store_session *out, struct err *e)
{
    int rc = store_session_get(store, name, out, e);
    if (rc != ERR_FORMAT)
        return rc;
    *out = (struct store_session){.damaged = 1};
    return store_session_find(store, name, &out->id, e);
}

static int delete_one(const struct config *c, struct store *store, const char *name, struct err *e)
{
    struct store_session s = {0};
    int rc = find_for_delete(store, name, &s, e);
    if (!rc && !c->yes && !isatty(STDIN_FILENO))
        rc = err_set(e, ERR_USAGE, "nobody can be asked here whether to delete ‘%s’; give --yes", name);
    else if (!rc && !c->yes && !person_agrees(name, &s))
        rc = err_set(e, ERR_CANCELLED, "‘%s’ was kept", name);
    if (!rc)
        rc = store_session_delete(store, s.id, e);
    if (!rc && !c->json)
        output_notice(c, "deleted ‘%s’", name);
    store_session_free(&s);
    return rc;
}

static int delete_sessions(const struct config *c, struct store *store, struct err *e)
{
    json_t *names = json_array();
    int rc = 0;
    for (size_t i = 0; i < c->n_args && !rc; i++) {
        rc = delete_one(c, store, c->args[i], e);
        if (!rc && json_array_append_new(names, column_json(c->args[i])))
            rc = err_memory(e, "JSON");
    }
    if (!rc && c->json)
        return output_json(json_pack("{s:o}", "deleted", names), e);
    json_decref(names);
    return rc;
}

int cmd_sessions(const struct config *c, struct err *e)
{
    struct store *store = NULL;
    int rc = store_open(c->data_dir, &store, e);
    if (rc)
        return rc;
    if (strcmp(c->sub, "list") == 0)
        rc = list_sessions(c, store, e);
    else if (strcmp(c->sub, "show") == 0)
        rc = show_session(c, store, e);
    else if (strcmp(c->sub, "rename") == 0)
        rc = rename_session(c, store, e);
    else if (strcmp(c->sub, "fork") == 0)
        rc = fork_session(c, store, e);
    else
        rc = delete_sessions(c, store, e);
    store_close(store);
    return rc;
}
