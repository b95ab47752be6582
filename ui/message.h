/* SPDX-License-Identifier: Apache-2.0 */
/* message.h - what the reading room asks (requests) and what it is told (events): plain owned data.
 *
 * Every pointer inside a message is heap memory that the message owns; NULL strings are legal everywhere and
 * read as "". Texts may hold any bytes: the interface filters what it shows. The add and set functions copy
 * their arguments.
 */
#ifndef LECTERN_UI_MESSAGE_H
#define LECTERN_UI_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum ui_request_kind {
    UI_REQUEST_NONE = 0,
    UI_REQUEST_LIST,           /* -> LIBRARY */
    UI_REQUEST_OPEN_SESSION,   /* name -> SESSION */
    UI_REQUEST_ADD_PATHS,      /* name (NULL: make a session), paths -> PROGRESS..., SESSION */
    UI_REQUEST_REFRESH,        /* name of the open session: read changed files again -> as ADD_PATHS */
    UI_REQUEST_ASK,            /* text, of the open session -> TOKEN..., then ANSWER (or ERROR) */
    UI_REQUEST_CANCEL,         /* the flag of port_cancel is set already; nothing more has to be done */
    UI_REQUEST_SOURCE,         /* turn, number -> SOURCE */
    UI_REQUEST_DELETE_SESSION, /* name -> LIBRARY */
    UI_REQUEST_RENAME,         /* name, text = the new name -> LIBRARY */
    UI_REQUEST_QUIT,           /* the interface has ended; the cancel flag is set too */
};

struct ui_request {
    enum ui_request_kind kind;
    char *name;
    char *text;
    char **paths; /* as typed; a leading "~/" is expanded */
    size_t n_paths;
    int64_t turn; /* the ordinal that the app gave the turn */
    int number;   /* of the citation, as the app numbered it */
};

enum ui_citation_state {
    UI_CITATION_VERIFIED, /* the words stand there */
    UI_CITATION_MOVED,    /* they stand elsewhere in the file */
    UI_CITATION_MISSING,  /* they were not found */
    UI_CITATION_PASSAGE,  /* a passage the answer came from; no quoted words to compare */
};

struct ui_citation {
    int number;
    char *file;
    int32_t page_index;             /* from 0; -1: the source has no pages */
    char *page_label;               /* as printed, may be NULL */
    uint32_t line_first, line_last; /* from 1; 0: unknown */
    char *quote;
    double score;
    enum ui_citation_state state;
};

struct ui_turn {
    int64_t ordinal;
    char *question;
    char *answer;
    struct ui_citation *citations;
    size_t n_citations;
    int cancelled; /* the answer was stopped before its end */
};

struct ui_document {
    char *title;
    char *path;
    uint32_t pages; /* 0: not a paged document */
    uint32_t pages_without_text;
    uint64_t tokens;
};

struct ui_library_row {
    char *name; /* of the session, unique */
    char *title;
    uint32_t documents;
    uint32_t pages;
    uint64_t tokens;
    uint64_t kv_bytes;
    int64_t last_opened; /* Unix seconds; 0: never */
};

enum ui_event_kind {
    UI_EVENT_NONE = 0,
    UI_EVENT_LIBRARY,  /* rows: the whole library */
    UI_EVENT_SESSION,  /* name, documents, turns: this session is open now (again: replaces what is shown) */
    UI_EVENT_PROGRESS, /* text = what, done, total (0: unknown), rate, eta_seconds (< 0: unknown) */
    UI_EVENT_TOKEN,    /* text: the next piece of the running answer; may end inside a character */
    UI_EVENT_ANSWER,   /* turn, citations, rate, cancelled: the oldest unanswered ASK is done */
    UI_EVENT_SOURCE,   /* turn, number, name = title, text, mark_first..mark_last (bytes, half open) */
    UI_EVENT_STATUS,   /* tokens, tokens_limit, kv_bytes, rate, text = what runs; NULL or "": idle;
                        * name = how the context came to be (restored, read), or NULL */
    UI_EVENT_ERROR,    /* text, one line: the request ends with it. What costs only itself is a NOTICE */
    UI_EVENT_NOTICE,   /* text, one line */
    UI_EVENT_FINISHED, /* sent by the port itself: the request `about` has been served to its end */
};

struct ui_event {
    enum ui_event_kind kind;
    enum ui_request_kind about; /* set by the port: the request that was being served */
    char *name;
    char *text;
    size_t n_text; /* bytes of text; text is NUL-terminated as well. 0 with text set: strlen counts */
    struct ui_library_row *rows;
    size_t n_rows;
    struct ui_document *documents;
    size_t n_documents;
    struct ui_turn *turns;
    size_t n_turns;
    struct ui_citation *citations;
    size_t n_citations;
    int64_t turn;
    int number;
    int cancelled;
    size_t mark_first, mark_last;
    uint64_t done, total;          /* tokens, or whatever `text` says */
    uint64_t tokens, tokens_limit; /* in context, and the most that it takes (0: unknown) */
    uint64_t kv_bytes;
    double rate;        /* tokens a second; 0: unknown */
    double eta_seconds; /* < 0: unknown */
};

/* All of these return 0, or -1 when memory ran out (the message is then unchanged and still to be freed). */
int ui_event_text(struct ui_event *event, const char *text, size_t n); /* sets text and n_text */
int ui_event_name(struct ui_event *event, const char *name);
int ui_event_add_row(struct ui_event *event, const struct ui_library_row *row);
int ui_event_add_document(struct ui_event *event, const struct ui_document *document);
int ui_event_add_citation(struct ui_event *event, const struct ui_citation *citation);
int ui_event_add_turn(struct ui_event *event, const struct ui_turn *turn); /* with its citations */
int ui_request_text(struct ui_request *request, const char *text);
int ui_request_name(struct ui_request *request, const char *name);
int ui_request_add_path(struct ui_request *request, const char *path);

/* Free what a message owns and zero it; legal on a zeroed one. */
void ui_event_fini(struct ui_event *event);
void ui_request_fini(struct ui_request *request);

/* The same for parts, for those who took them out of an event. */
void ui_citations_free(struct ui_citation *citations, size_t n);
void ui_turns_free(struct ui_turn *turns, size_t n);
void ui_documents_free(struct ui_document *documents, size_t n);
void ui_rows_free(struct ui_library_row *rows, size_t n);

#ifdef __cplusplus
}
#endif
#endif
