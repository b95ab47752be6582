/* SPDX-License-Identifier: Apache-2.0 */
/* room.c - answers the interface's requests with the workbench. One request at a time, in order. */
#include "app/room.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/room_events.h"
#include "app/store_care.h"
#include "app/workbench.h"

struct room {
    const struct config *config;
    struct ui_port *port;
    const char *creatable;
    struct workbench bench;
    pthread_t thread;
    struct err failed; /* at the start */
    struct room_rate rate;
    char line[400]; /* what the last reading restored and read */
};

static void send_failure(struct room *room, const struct err *e)
{
    struct err ignored; /* the interface has gone: nobody to tell */
    port_send_error(room->port, e->text, &ignored);
}

static void notice(void *arg, const char *line)
{
    struct room *room = arg;
    struct err ignored;
    port_send_notice(room->port, line, &ignored);
}

static void restored(void *arg, const struct reader_usage *u)
{
    struct room *room = arg;
    reader_usage_line(u, room->line, sizeof room->line);
}

static int send_status(struct room *room, const char *what, struct err *e)
{
    return room_send_status(room->port, room->bench.engine, room->bench.reader, what, room->line, e);
}

static int use_session(struct room *room, const char *name, int create, struct err *e)
{
    room->line[0] = '\0';
    struct progress port = room_rate_port(&room->rate, room->port);
    return workbench_session(&room->bench, name, create, &port, port_cancel(room->port), notice, restored,
                             room, e);
}

/* After something was read. The open session keeps its reading. */
static int care(struct room *room, struct err *e)
{
    struct buf line = {0};
    if (!store_has_budget(room->config))
        return 0;
    int rc = send_status(room, "making room", e);
    if (!rc)
        rc = store_care_quiet(room->config, room->bench.store, port_cancel(room->port), &line, e);
    if (line.data && !line.failed)
        notice(room, line.data);
    buf_free(&line);
    return rc;
}

/* Shows the open session, then reads it to its end. */
static int show_and_read(struct room *room, const char *name, struct err *e)
{
    struct progress port = room_rate_port(&room->rate, room->port);
    struct reader_usage usage = {0};
    reader_tell_changed(room->bench.reader);
    int rc = room_send_session(room->port, room->bench.store, room->bench.reader, name, e);
    if (!rc)
        rc = send_status(room, "reading", e);
    if (!rc && reader_documents(room->bench.reader))
        rc = reader_read(room->bench.reader, &port, port_cancel(room->port), &usage, e);
    if (rc == ERR_CANCELLED)
        err_set(e, rc, "stopped reading; what was read is kept, and the next question goes on from there");
    if (!rc && usage.prefilled)
        rc = care(room, e);
    struct err ignored;
    send_status(room, NULL, &ignored);
    return rc;
}

static int open_session(struct room *room, const char *name, struct err *e)
{
    int create = room->creatable && !strcmp(name, room->creatable);
    int rc = use_session(room, name, create, e);
    if (rc)
        return rc;
    /* With paths on the command line the documents follow in an ADD_PATHS; reading starts there. */
    if (create && room->config->n_args)
        return room_send_session(room->port, room->bench.store, room->bench.reader, name, e);
    return show_and_read(room, name, e);
}

static int add_paths(struct room *room, const struct ui_request *q, struct err *e)
{
    char *made = NULL;
    const char *name = q->name;
    const char *const *paths = (const char *const *)q->paths;
    int rc = 0;
    if (!name) {
        rc = reader_default_name(paths, q->n_paths, &made, e);
        name = made;
    }
    if (!rc && (!room->bench.reader || !reader_is_named(room->bench.reader, name)))
        rc = use_session(room, name, 1, e);
    struct progress port = room_rate_port(&room->rate, room->port);
    if (!rc)
        rc = workbench_add(&room->bench, paths, q->n_paths, &port, port_cancel(room->port), notice, room,
                           NULL, e);
    if (!rc)
        rc = show_and_read(room, name, e);
    free(made);
    return rc;
}

/* Reads again what changed on disk. */
static int refresh(struct room *room, const char *name, struct err *e)
{
    size_t taken = 0;
    if (!room->bench.reader)
        return err_set(e, ERR_USAGE, "open a session first");
    struct progress port = room_rate_port(&room->rate, room->port);
    int rc = reader_refresh(room->bench.reader, &port, port_cancel(room->port), &taken, e);
    if (!rc && !taken)
        notice(room, "no file of this session has changed since it was opened");
    return rc || !taken ? rc : show_and_read(room, name, e);
}

static int on_token(void *arg, const char *piece, size_t n)
{
    struct room *room = arg;
    struct err ignored;
    return port_send_token(room->port, piece, n, &ignored);
}

static int ask(struct room *room, const struct ui_request *q, struct err *e)
{
    if (!room->bench.reader)
        return err_set(e, ERR_USAGE, "open a session first");
    const struct config *c = room->config;
    struct reader_answer a;
    struct reader_question question = {.text = q->text,
                                       .select = (size_t)c->select,
                                       .one_by_one = c->no_drafts,
                                       .temperature = c->temperature,
                                       .top_p = c->top_p,
                                       .seed = c->seed,
                                       .max_tokens = c->max_tokens,
                                       .follow_up = 1,
                                       .token = on_token,
                                       .arg = room};
    struct progress port = room_rate_port(&room->rate, room->port);
    int rc = send_status(room, "answering", e);
    if (rc)
        return rc;
    rc = reader_ask(room->bench.reader, &question, &port, port_cancel(room->port), &a, e);
    if (!rc)
        rc = room_send_answer(room->port, &a, e);
    if (!rc && a.usage.prefilled)
        rc = care(room, e);
    reader_answer_fini(&a);
    struct err ignored;
    send_status(room, NULL, &ignored);
    return rc;
}

static int delete_session(struct room *room, const char *name, struct err *e)
{
    if (room->bench.reader && reader_is_named(room->bench.reader, name)) {
        reader_close(room->bench.reader); /* gives its lock back */
        room->bench.reader = NULL;
    }
    struct store_session row = {0};
    int rc = store_session_get(room->bench.store, name, &row, e);
    if (!rc)
        rc = store_session_delete(room->bench.store, row.id, e);
    store_session_free(&row);
    return rc ? rc : room_send_library(room->port, room->bench.store, e);
}

static int rename_session(struct room *room, const struct ui_request *q, struct err *e)
{
    struct store_session row = {0};
    int rc = store_session_get(room->bench.store, q->name, &row, e);
    if (!rc)
        rc = store_session_rename(room->bench.store, row.id, q->text, e);
    store_session_free(&row);
    return rc ? rc : room_send_library(room->port, room->bench.store, e);
}

static int serve(struct room *room, const struct ui_request *q, struct err *e)
{
    switch (q->kind) {
    case UI_REQUEST_LIST:
        return room_send_library(room->port, room->bench.store, e);
    case UI_REQUEST_OPEN_SESSION:
        return open_session(room, q->name, e);
    case UI_REQUEST_ADD_PATHS:
        return add_paths(room, q, e);
    case UI_REQUEST_REFRESH:
        return refresh(room, q->name, e);
    case UI_REQUEST_ASK:
        return ask(room, q, e);
    case UI_REQUEST_SOURCE:
        return room_send_source(room->port, room->bench.store, room->bench.reader, q->turn, q->number, e);
    case UI_REQUEST_DELETE_SESSION:
        return delete_session(room, q->name, e);
    case UI_REQUEST_RENAME:
        return rename_session(room, q, e);
    case UI_REQUEST_NONE:
    case UI_REQUEST_CANCEL:
    case UI_REQUEST_QUIT:
        break;
    }
    return 0;
}

static void *run(void *arg)
{
    struct room *room = arg;
    int rc = workbench_open(&room->bench, room->config, &room->failed);
    if (rc)
        send_failure(room, &room->failed);
    for (;;) {
        struct ui_request q = {0};
        if (!port_next_request(room->port, -1, &q))
            continue;
        enum ui_request_kind kind = q.kind;
        struct err e = {0};
        if (rc && kind != UI_REQUEST_QUIT && kind != UI_REQUEST_CANCEL)
            send_failure(room, &room->failed);
        else if (!rc && serve(room, &q, &e))
            send_failure(room, &e);
        ui_request_fini(&q);
        if (kind == UI_REQUEST_QUIT)
            break;
    }
    workbench_close(&room->bench);
    return NULL;
}

int room_start(struct room **out, const struct config *c, struct ui_port *port, const char *creatable,
               struct err *e)
{
    *out = NULL;
    struct room *room = calloc(1, sizeof *room);
    if (!room)
        return err_memory(e, "the reading room");
    room->config = c;
    room->port = port;
    room->creatable = creatable;
    if (pthread_create(&room->thread, NULL, run, room)) {
        free(room);
        return err_set(e, ERR_MEMORY, "cannot start a thread for the engine; close other programs");
    }
    *out = room;
    return 0;
}

int room_stop(struct room *room, struct err *e)
{
    pthread_join(room->thread, NULL);
    *e = room->failed;
    free(room);
    return (int)e->code;
}
