/* SPDX-License-Identifier: Apache-2.0 */
/* state.h - inside ui/ only: the interface's whole state, and what a view is.
 *
 * Views are tables of functions. They hold data and write into the frame; none touches curses. Requests leave
 * through the ui_ask_* functions, so that a full queue is handled in one place.
 *
 *   row 0            title
 *   rows 1..         the view (struct place)
 *   then             message, 0 to a third of the rows
 *   row n-2          input line (conversation and prompts)
 *   row n-1          status
 */
#ifndef LECTERN_UI_STATE_H
#define LECTERN_UI_STATE_H

#include "engine/base/buf.h"
#include "ui/edit.h"
#include "ui/frame.h"
#include "ui/keys.h"
#include "ui/port.h"
#include "ui/screen.h"
#include "ui/ui.h"
#include "ui/wrap.h"

struct ui;

/* The rows of the frame that belong to the view. */
struct place {
    int top, rows, columns;
};

struct view {
    const char *name;
    unsigned context;             /* of enum keys_context */
    void (*enter)(struct ui *ui); /* may be NULL */
    void (*run)(struct ui *ui, enum keys_command command, const struct ui_key *key);
    void (*draw)(struct ui *ui, struct place place);
    void (*hints)(const struct ui *ui, struct buf *out); /* the right end of the status line */
};

extern const struct view view_library, view_talk, view_source, view_help;

/* ---- library (view_library.c) ---- */
struct library {
    struct ui_library_row *rows;
    size_t n_rows;
    size_t chosen, top;
    int arrived;            /* the first LIBRARY event came */
    int first_row, n_drawn; /* where the rows stand on the screen, for clicks */
};

/* ---- conversation (view_talk.c, transcript.c) ---- */
enum talk_state { TURN_WAITING, TURN_DONE, TURN_FAILED };

struct talk_turn {
    int64_t ordinal; /* -1 until the answer is done */
    char *question;
    struct buf answer;
    char *trouble; /* why it failed */
    enum talk_state state;
    int cancelled;
    struct ui_citation *citations;
    size_t n_citations;
    char **citation_texts; /* as shown, [n_citations] */
    size_t line_first;     /* of the transcript's lines */
};

enum line_kind {
    LINE_BLANK,
    LINE_DOCUMENT,
    LINE_QUESTION,
    LINE_ANSWER,
    LINE_CITATION,
    LINE_NOTE,
    LINE_TROUBLE
};

struct talk_line {
    enum line_kind kind;
    int starts; /* the first line of its paragraph */
    size_t turn, citation;
    const char *text; /* into the turn's strings; refreshed whenever they change */
    size_t n;
};

struct talk {
    char *session; /* NULL: none is open */
    struct ui_document *documents;
    char **document_texts;
    size_t n_documents;
    struct talk_turn *turns;
    size_t n_turns, cap_turns;
    struct talk_line *lines;
    size_t n_lines, cap_lines;
    struct wrap wrap;   /* scratch */
    int columns;        /* that the lines were made for */
    size_t clean, laid; /* see transcript.c */
    int header_clean;
    size_t top; /* line at the top of the view while not following */
    int follow; /* the end is in view */
    int rows;   /* of the view when last drawn */
    int first_row;
    int has_chosen;
    size_t chosen_turn, chosen_citation;
    struct edit edit;
};

/* transcript.c. Those that return int: -1 when memory ran out. */
int transcript_open(struct talk *t, struct ui_event *event); /* takes what it needs out of the event */
void transcript_free(struct talk *t);
int transcript_ask(struct talk *t, const char *question); /* a new waiting turn */
int transcript_token(struct talk *t, const char *text, size_t n);
/* Ends the oldest waiting turn: with an answer (citations taken from the event) or with a line of trouble.
 * Returns the turn, or NULL when none waits. */
struct talk_turn *transcript_answer(struct talk *t, struct ui_event *event);
struct talk_turn *transcript_fail(struct talk *t, const char *line);
void transcript_drop_last(struct talk *t);
size_t transcript_waiting(const struct talk *t);      /* turns without an answer */
int transcript_layout(struct talk *t, int columns);   /* brings lines up to date */
size_t transcript_top(const struct talk *t);          /* the line shown first, given rows and follow */
void transcript_scroll(struct talk *t, long lines);   /* > 0: towards the end */
int transcript_choose(struct talk *t, int direction); /* +1, -1; 0 when there is no citation at all */
void transcript_show_chosen(struct talk *t);
const struct talk_turn *transcript_turn(const struct talk *t, int64_t ordinal);

/* ---- source (view_source.c) ---- */
struct source {
    int64_t turn;
    int number;
    char *title, *text;
    size_t n_text, mark_first, mark_last;
    struct wrap wrap;
    int columns;
    size_t top;
    int rows;
    int shows_mark; /* scrolled to the mark already */
};

/* ---- help (view_help.c) ---- */
struct help {
    struct buf text;
    size_t top, n_lines;
    int rows;
    const struct view *back;
};

enum prompt { PROMPT_NONE, PROMPT_ADD, PROMPT_RENAME, PROMPT_DELETE };

enum { UI_STEPS = 256 };

struct ui {
    struct ui_port *port;
    const struct ui_options *options;
    struct screen *screen;
    struct frame frame;
    const struct view *view;
    struct library library;
    struct talk talk;
    struct source source;
    struct help help;

    enum prompt prompt;
    struct edit prompt_edit;
    char *prompt_name;               /* the session that it is about; NULL: a new one */
    char *renamed_from, *renamed_to; /* asked for, not yet seen in a LIBRARY event */

    struct buf message;
    int message_alarm;
    double message_until; /* clock_seconds; 0: until dismissed */

    /* what runs, from STATUS and PROGRESS */
    struct buf running, note; /* note: how the context came to be */
    int is_progress;
    uint64_t done, total, tokens, tokens_limit, kv_bytes;
    double rate, progress_rate, eta_seconds;
    int turn_ended;                       /* the ASK being served has had its ANSWER or ERROR */
    enum ui_request_kind steps[UI_STEPS]; /* asked for and not yet ended, oldest first; served in order */
    size_t n_steps;

    double last_interrupt;
    int quit;
    int dirty;
    int out_of_memory;
    int to_talk; /* the next SESSION event brings the conversation up */
};

/* ui.c */
void ui_draw(struct ui *ui);
void ui_view(struct ui *ui, const struct view *view);
void ui_message(struct ui *ui, int alarm, const char *text);
int ui_memory(struct ui *ui, int failed); /* notes the end of memory; returns `failed` */
int ui_busy(const struct ui *ui);         /* something runs that Esc would stop */
int ui_opening(const struct ui *ui);      /* a session is on its way */

/* events.c: takes in what the app tells */
void events_take(struct ui *ui, struct ui_event *event);

/* requests.c; 0 when sent, else a message is shown */
int ui_ask(struct ui *ui, const char *question);
int ui_ask_list(struct ui *ui);
int ui_ask_named(struct ui *ui, enum ui_request_kind kind, const char *name, const char *text);
int ui_ask_add(struct ui *ui, const char *session, const char *const *paths, size_t n); /* expands "~/" */
int ui_ask_source(struct ui *ui, int64_t turn, int number);
void ui_ask_cancel(struct ui *ui);

void ui_step_finished(struct ui *ui); /* the oldest one */

/* prompt.c: the line that asks for a path, a name or a yes */
void prompt_open(struct ui *ui, enum prompt kind, const char *session);
void prompt_run(struct ui *ui, enum keys_command command, const struct ui_key *key);
void prompt_close(struct ui *ui);
void prompt_draw(struct ui *ui, int row);

/* status.c */
void status_draw(struct ui *ui, int row);
void status_title(struct ui *ui);

/* Writes an input line: label, then the visible part of the edited text with the cursor. */
void prompt_draw_line(struct ui *ui, int row, const char *label, struct edit *edit);

#endif
