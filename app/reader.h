/* SPDX-License-Identifier: Apache-2.0 */
/* reader.h - one session opened for reading: its documents, its context, its questions.
 *
 * This is where the modules meet: documents come in through ingest, become token ids once, lie in the store,
 * and are read into an engine timeline that the store gives back tomorrow. The corpus is the chat frame's
 * opening, then each document's tokens in the order added; a conversation is a branch behind it and never
 * changes it.
 *
 * A reader holds the session's lock; one thread uses it at a time.
 */
#ifndef LECTERN_APP_READER_H
#define LECTERN_APP_READER_H

#include <stddef.h>
#include <stdint.h>

#include "data/store/store.h"
#include "engine/base/clock.h"
#include "engine/base/err.h"
#include "engine/base/progress.h"
#include "engine/session.h"

struct reader;

struct reader_usage;

struct reader_options {
    const struct engine *engine;                 /* borrowed */
    struct store *store;                         /* borrowed */
    const char *worker;                          /* path of lectern-ingest, borrowed */
    const char *name;                            /* of the session */
    int create;                                  /* make it when it is missing, else ERR_NOT_FOUND */
    int allow_long;                              /* go past the context that the model was trained for */
    void (*notice)(void *arg, const char *line); /* what the person should know; may be NULL */
    /* Of reader_open alone, may be NULL; bytes of text. */
    const struct progress *progress;
    struct cancel *cancel;
    /* After every reading: what came from the store and what had to be read. Not called when the context was
     * in memory already. May be NULL. */
    void (*restored)(void *arg, const struct reader_usage *usage);
    void *arg; /* of both */
};

/* ERR_BUSY when another process has the session. One that was made with another tokenizer is made anew from
 * its kept text, in one change of the store; a notice tells. ERR_CANCELLED: it is as it was. */
int reader_open(struct reader **out, const struct reader_options *options, struct err *e);
void reader_close(struct reader *r); /* NULL is legal */

int64_t reader_session(const struct reader *r); /* the store's id */
int reader_is_named(const struct reader *r, const char *name);
size_t reader_documents(const struct reader *r);
const struct store_document *reader_document(const struct reader *r, size_t i); /* borrowed */
size_t reader_corpus_tokens(const struct reader *r);
size_t reader_position(const struct reader *r); /* tokens in the timeline now */
size_t reader_kv_bytes(const struct reader *r);

/* Whether a document's file is still the one that was read; as it was when the session was opened or the
 * document taken in. Of a folder the files that gave its text count. */
enum reader_file { READER_FILE_SAME, READER_FILE_CHANGED, READER_FILE_MISSING };
enum reader_file reader_file(const struct reader *r, size_t i);

/* Takes in again every document whose file has changed, and with it what is new in its text; a document that
 * cannot be had is told and stays as it was. All of it is one change of the store. *taken (may be NULL): how
 * many had another text. */
int reader_refresh(struct reader *r, const struct progress *progress, struct cancel *cancel, size_t *taken,
                   struct err *e);

/* A line through `notice` when files have changed. */
void reader_tell_changed(const struct reader *r);

/* Takes a document in (ingest, tokenise, store) unless the session has it already, unchanged. One that
 * changed on disk is taken in again at its place, and later ones follow it. *added (may be NULL) tells
 * whether anything is new. */
int reader_add(struct reader *r, const char *path, const struct progress *progress, struct cancel *cancel,
               int *added, struct err *e);

struct reader_usage {
    size_t restored, prefilled; /* tokens of the corpus: from the store, from the text */
    size_t replayed;            /* tokens computed again as the proof of the restore */
    size_t question, generated; /* tokens */
    size_t passes, appended;    /* of the answer: passes through the model, and tokens that they appended */
    size_t audits;  /* with selected pages: passes that saw all, to tell what the list would have */
    double visited; /* share of the softmax that it would have seen, 0..1 */
    double restore_seconds, prefill_seconds, first_token_seconds, decode_seconds;
    const char *proof; /* "verified", "close" (other kernels: within rounding), or "none": nothing restored */
    char reason[160];  /* why tokens had to be read, "" when none: "new", "block at 98304 was damaged" */
};

/* "restored 98304, verified, 0.3 s; read 32768 (block at 98304 was damaged), 40 s"; "" when neither. */
void reader_usage_line(const struct reader_usage *u, char *line, size_t n);

/* Brings the timeline to the corpus' end: restores what the store has, reads the rest, saves as it goes.
 * After ERR_CANCELLED what was read is saved, and the next call goes on from there. Adds to *usage (may be
 * NULL). */
int reader_read(struct reader *r, const struct progress *progress, struct cancel *cancel,
                struct reader_usage *usage, struct err *e);

struct reader_citation {
    size_t document;    /* ordinal */
    char *file;         /* path */
    char *name;         /* short, for people: the path inside a folder, else the file's base name */
    int32_t page_index; /* -1: no pages */
    char *page_label;
    uint32_t line_first, line_last;
    uint64_t byte_first, byte_length; /* in the source file; length 0: not known (PDF) */
    uint64_t text_first, text_end;    /* in the document's extracted text */
    char *quote;
    double score;
};

struct reader_answer {
    char *text;
    struct reader_citation *citations;
    size_t n_citations;
    int cancelled; /* stopped by the person or by max_tokens of 0 */
    int truncated; /* max_tokens was reached */
    int turn;      /* its ordinal in the session */
    struct reader_usage usage;
};

struct reader_question {
    const char *text;
    double temperature, top_p;
    uint64_t seed;
    int max_tokens;
    int follow_up;  /* goes on with the conversation; 0: answered from the corpus alone */
    int one_by_one; /* one token a pass, no guesses: the same answer */
    size_t select;  /* pages that a retrieval head visits in a step, on a device alone; 0: all */
    int (*token)(void *arg, const char *piece, size_t n); /* each piece of text as it comes; non-zero stops */
    void *arg;
};

/* Reads the corpus first if need be, answers, cites, keeps the turn. `out` is freed with reader_answer_fini
 * whatever is returned. A cancelled answer is kept as far as it went and is no error. */
int reader_ask(struct reader *r, const struct reader_question *q, const struct progress *progress,
               struct cancel *cancel, struct reader_answer *out, struct err *e);
void reader_answer_fini(struct reader_answer *a);

/* The text of the page (or file) around text bytes [first, end) of a document. *text is freed by the caller;
 * the bytes in question are [*mark_first, *mark_end) of it. */
int reader_source(struct reader *r, size_t document, uint64_t first, uint64_t end, char **text, size_t *bytes,
                  size_t *mark_first, size_t *mark_end, struct err *e);

/* Session name for a set of paths when none is given: the first one's base name and a hash of all absolute
 * paths. The caller frees. */
int reader_default_name(const char *const *paths, size_t n, char **name, struct err *e);

/* The object that `ask --json` prints; NULL when out of memory. What a turn keeps has no times and no counts
 * of what was restored, so that equal work is kept as equal bytes. */
struct json_t;
struct json_t *reader_answer_json(const struct reader_answer *a);
struct json_t *reader_turn_json(const struct reader_answer *a);

/* "restore": what reader_usage says of it. "changed" and "missing": arrays of paths. */
struct json_t *reader_restore_json(const struct reader_usage *u);
struct json_t *reader_files_json(const struct reader *r, enum reader_file state);

/* Citations out of a kept turn's JSON; a damaged one yields none. Freed with reader_citations_free. */
void reader_citations_parse(const char *json, struct reader_citation **out, size_t *n);
void reader_citations_free(struct reader_citation *citations, size_t n);

#endif
