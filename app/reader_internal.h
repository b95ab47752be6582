/* SPDX-License-Identifier: Apache-2.0 */
/* reader_internal.h - what the reader_*.c files share. */
#ifndef LECTERN_APP_READER_INTERNAL_H
#define LECTERN_APP_READER_INTERNAL_H

#include <pthread.h>

#include "app/reader.h"
#include "engine/base/buf.h"
#include "engine/speculate.h"
#include "engine/token/chat.h"
#include "engine/token/tokenizer.h"
#include "ingest/source_map.h"

struct reader_text {
    char *text;
    size_t bytes;
    uint32_t *ids;  /* [tokens]: what joins it to the document before, then the text */
    uint32_t *ends; /* [tokens] */
    size_t tokens;
    struct source_map *map;
};

/* A checkpoint that the next durable save may make superfluous. */
struct reader_last {
    uint8_t key[KV_KEY_BYTES];
    int droppable;
};

/* The one save in flight (reader_save.c); `save` is NULL when there is none. */
struct reader_saver {
    struct session_save *save;
    pthread_t thread;
    int threaded;
    double token_seconds; /* what reading a token took, lately */
    struct reader_last last;
    int rc;
    struct err err;
};

struct reader_mapped {
    int kind;
    uint8_t key[KV_KEY_BYTES];
};

struct reader {
    struct reader_options o;
    struct store_lock *lock;
    struct store_session row;
    char *name;
    struct chat *chat;
    struct store_document_list documents;
    struct reader_text *texts; /* [documents.n] */
    enum reader_file *files;   /* [documents.n] */
    struct token_list corpus;  /* opening and documents; ends are meaningless here */
    size_t opening;            /* tokens before the first document */
    size_t edited;             /* the corpus is not what it was from this token on; 0: it is */
    int remade;                /* from the text, for another model's tokenizer, and not yet read */
    struct session *timeline;
    struct session_mark *end; /* of the corpus, once it is read */
    struct guesser *guesser;  /* of the timeline's tokens; NULL until an answer wants it */
    struct reader_saver saver;
    struct buf mapped, doubted; /* struct reader_mapped: of the running restore, of one without proof */
    int in_conversation, answer_ended;
};

/* Loads the documents' texts, ids and maps from the store and joins the corpus anew. */
int reader_load(struct reader *r, struct err *e);
/* The text of `d` and its map, which fit together. What is in *t is freed by reader_text_fini, after a
 * failure too. */
int reader_load_words(struct reader *r, const struct store_document *d, struct reader_text *t, struct err *e);
void reader_text_fini(struct reader_text *t);

/* ERR_LIMIT when a timeline of so many tokens has no room on a card and in the memory beside it. */
int reader_room(const struct reader *r, size_t tokens, struct err *e);

/* Brings the timeline back to the corpus' end when it is behind it in a conversation. */
int reader_leave_conversation(struct reader *r, struct err *e);

void reader_notice(const struct reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- reader_model.c ---- */

/* Names the engine's model as the one that reads the session. When its tokenizer is not the one that made the
 * ids, they are made anew from the text and what was read of the old ones goes. The chat is open and nothing
 * is loaded. */
int reader_take_model(struct reader *r, struct err *e);

/* ---- reader_file.c ---- */

struct reader_stamp {
    uint64_t size;
    int64_t mtime_ns;
    uint8_t hash[16];
};

/* Of the file, or of a folder's files that gave its text (map NULL: not known yet, all zeros). 0 or an errno.
 */
int reader_stamp_take(const char *path, const struct source_map *map, const char *text,
                      struct reader_stamp *out);
enum reader_file reader_file_state(const struct store_document *d, const struct source_map *map,
                                   const char *text);

/* ---- reader_add.c ---- */

/* Appends the tokens of a document at place `at` to `out` (empty): what joins it to the one before, then its
 * text. */
int reader_encode(const struct reader *r, size_t at, const char *path, const char *text, size_t bytes,
                  struct token_list *out, struct cancel *cancel, struct err *e);

/* Adds document i with r->texts[i] behind what the store now has; stamp NULL: as it was. */
int reader_store_again(struct reader *r, size_t i, const struct reader_stamp *stamp, size_t token_start,
                       struct err *e);

/* ---- reader_save.c ---- */

struct kv_source reader_source_port(struct reader *r);

int reader_is_document_end(const struct reader *r, size_t position);
/* Does a checkpoint there stay when later ones are durable? */
int reader_keeps(const struct reader *r, size_t position);

/* Saves the timeline as it is, on a thread; waits for the save before it. A failure of the writing is told by
 * the next call. Until reader_save_wait the caller leaves store and row alone. */
int reader_save_begin(struct reader *r, double token_seconds, struct err *e);
int reader_save_wait(struct reader *r, struct err *e); /* legal when there is none; e may be NULL */

/* Saves another timeline of the same corpus, here and now, without moving the row; `last` as in the saver. */
int reader_save_aside(struct reader *r, struct session *s, struct reader_last *last, struct err *e);

/* The row's checkpoint is the one that the next save makes superfluous. */
void reader_save_last(struct reader *r);

/* ---- reader_restore.c ---- */

/* Makes the new, empty timeline the longest prefix of the corpus that the store has, or leaves it empty. Only
 * a failure that is no miss is an error. */
int reader_restore(struct reader *r, const struct progress *progress, struct cancel *cancel,
                   struct reader_usage *usage, struct err *e);

/* ---- reader_decode.c ---- */

/* Decodes behind the question until a stop token, max_tokens or the person ends it; text goes to `text` and
 * to q->token. `begun`: when the question was asked. */
int reader_decode(struct reader *r, const struct reader_question *q, const struct append_options *options,
                  struct buf *text, struct reader_answer *out, double begun, struct err *e);

/* ---- reader_read.c ---- */

/* Progress of a part: `done` counts from `base`, of `total`. */
struct reader_shifted {
    const struct progress *to;
    size_t base, total;
};
struct progress reader_shifted_port(struct reader_shifted *s);

#endif
