/* SPDX-License-Identifier: Apache-2.0 */
/* events.c - what comes through the port changes the state here; views only look at the state. */
#include <stdlib.h>
#include <string.h>

#include "ui/state.h"

/* A rename that was asked for shows by the list: the old name is gone and the new one is there. */
static void follow_rename(struct ui *ui)
{
    struct talk *t = &ui->talk;
    int has_old = 0, has_new = 0;
    if (!ui->renamed_from || !ui->renamed_to)
        return;
    for (size_t i = 0; i < ui->library.n_rows; i++) {
        const char *name = ui->library.rows[i].name;
        has_old |= name && strcmp(name, ui->renamed_from) == 0;
        has_new |= name && strcmp(name, ui->renamed_to) == 0;
    }
    if (has_old || !has_new)
        return;
    if (t->session && strcmp(t->session, ui->renamed_from) == 0) {
        free(t->session);
        t->session = ui->renamed_to;
        ui->renamed_to = NULL;
    }
    free(ui->renamed_from);
    free(ui->renamed_to);
    ui->renamed_from = ui->renamed_to = NULL;
}

static void take_library(struct ui *ui, struct ui_event *event)
{
    struct library *l = &ui->library;
    char *chosen = NULL;

    if (l->n_rows && l->rows[l->chosen].name)
        chosen = strdup(l->rows[l->chosen].name);
    ui_rows_free(l->rows, l->n_rows);
    l->rows = event->rows;
    l->n_rows = event->n_rows;
    event->rows = NULL;
    event->n_rows = 0;
    l->arrived = 1;
    follow_rename(ui);
    int is_open = 0;
    for (size_t i = 0; i < l->n_rows; i++) {
        const char *name = l->rows[i].name ? l->rows[i].name : "";
        if (chosen && strcmp(name, chosen) == 0)
            l->chosen = i;
        is_open |= ui->talk.session && strcmp(name, ui->talk.session) == 0;
    }
    if (l->chosen >= l->n_rows)
        l->chosen = l->n_rows ? l->n_rows - 1 : 0;
    if (event->about != UI_REQUEST_NONE && ui->talk.session && !is_open) { /* the open session was deleted */
        transcript_free(&ui->talk);
        ui->tokens = ui->kv_bytes = 0;
        buf_clear(&ui->note);
    }
    free(chosen);
}

static void take_session(struct ui *ui, struct ui_event *event)
{
    struct talk *t = &ui->talk;
    int same = t->session && event->name && strcmp(t->session, event->name) == 0;

    if (ui_memory(ui, transcript_open(t, event)))
        return;
    if ((ui->to_talk || !same) && ui->view != &view_talk)
        ui_view(ui, &view_talk);
    ui->to_talk = 0;
}

static void take_answer(struct ui *ui, struct ui_event *event)
{
    struct talk *t = &ui->talk;
    ui->turn_ended = 1;
    if (event->rate > 0)
        ui->rate = event->rate;
    struct talk_turn *turn = transcript_answer(t, event);
    if (turn && turn->cancelled && turn->answer.len == 0 && t->edit.text.len == 0)
        ui_memory(ui, edit_set(&t->edit, turn->question));
}

static void take_source(struct ui *ui, struct ui_event *event)
{
    struct source *s = &ui->source;

    free(s->title);
    free(s->text);
    wrap_free(&s->wrap);
    *s = (struct source){.turn = event->turn,
                         .number = event->number,
                         .title = event->name,
                         .text = event->text,
                         .n_text = event->n_text,
                         .mark_first = event->mark_first,
                         .mark_last = event->mark_last};
    event->name = event->text = NULL;
    if (s->mark_last > s->n_text)
        s->mark_last = s->n_text;
    if (s->mark_first > s->mark_last)
        s->mark_first = s->mark_last;
    if (ui->view != &view_source)
        ui_view(ui, &view_source);
}

static void set_running(struct ui *ui, const struct ui_event *event)
{
    buf_clear(&ui->running);
    if (event->text)
        buf_puts(&ui->running, event->text);
    ui_memory(ui, ui->running.failed);
}

static void take_progress(struct ui *ui, const struct ui_event *event)
{
    set_running(ui, event);
    ui->is_progress = ui->running.len > 0;
    ui->done = event->done;
    ui->total = event->total;
    ui->progress_rate = event->rate;
    ui->eta_seconds = event->eta_seconds;
}

static void take_status(struct ui *ui, const struct ui_event *event)
{
    ui->tokens = event->tokens;
    ui->tokens_limit = event->tokens_limit;
    ui->kv_bytes = event->kv_bytes;
    buf_clear(&ui->note);
    if (event->name)
        buf_puts(&ui->note, event->name);
    ui_memory(ui, ui->note.failed);
    if (event->rate > 0)
        ui->rate = event->rate;
    int idle = !event->text || !*event->text;
    if (idle || !ui->is_progress) /* while a progress is shown it says more */
        set_running(ui, event);
    if (idle)
        ui->is_progress = 0;
}

/* The question goes back into the input line if nothing came of it and nothing else is written there. */
static void fail_turn(struct ui *ui, const char *line)
{
    struct talk_turn *turn = transcript_fail(&ui->talk, line);
    ui->turn_ended = 1;
    if (turn && turn->answer.len == 0 && ui->talk.edit.text.len == 0)
        ui_memory(ui, edit_set(&ui->talk.edit, turn->question));
}

static void take_error(struct ui *ui, const struct ui_event *event)
{
    const char *line = event->text ? event->text : "";
    if (event->about == UI_REQUEST_OPEN_SESSION || event->about == UI_REQUEST_ADD_PATHS)
        ui->to_talk = 0;
    if (event->about == UI_REQUEST_ASK)
        fail_turn(ui, line);
    ui_message(ui, 1, line);
}

/* The port says that a request was served to its end: nothing of it runs any more. */
static void take_finished(struct ui *ui, const struct ui_event *event)
{
    if (event->about == UI_REQUEST_CANCEL)
        return;
    ui_step_finished(ui);
    buf_clear(&ui->running);
    ui->is_progress = 0;
    if (event->about == UI_REQUEST_ASK && !ui->turn_ended)
        fail_turn(ui, "No answer came.");
    ui->turn_ended = 0;
}

void events_take(struct ui *ui, struct ui_event *event)
{
    ui->dirty = 1;
    switch (event->kind) {
    case UI_EVENT_LIBRARY:
        take_library(ui, event);
        break;
    case UI_EVENT_SESSION:
        take_session(ui, event);
        break;
    case UI_EVENT_PROGRESS:
        take_progress(ui, event);
        break;
    case UI_EVENT_TOKEN:
        ui->is_progress = 0; /* the question has been read; now it answers */
        buf_clear(&ui->running);
        ui_memory(ui, transcript_token(&ui->talk, event->text, event->n_text));
        break;
    case UI_EVENT_ANSWER:
        take_answer(ui, event);
        break;
    case UI_EVENT_SOURCE:
        take_source(ui, event);
        break;
    case UI_EVENT_STATUS:
        take_status(ui, event);
        break;
    case UI_EVENT_ERROR:
        take_error(ui, event);
        break;
    case UI_EVENT_NOTICE:
        ui_message(ui, 0, event->text ? event->text : "");
        break;
    case UI_EVENT_FINISHED:
        take_finished(ui, event);
        break;
    case UI_EVENT_NONE:
        break;
    }
    ui_event_fini(event);
}
