/* SPDX-License-Identifier: Apache-2.0 */
/* reader_internal.h - what the reader_*.c files share. */
#ifndef LECTERN_APP_READER_INTERNAL_H
#define LECTERN_APP_READER_INTERNAL_H

#include "app/reader.h"
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

struct reader {
    struct reader_options o;
    struct store_lock *lock;
    struct store_session row;
    char *name;
    struct chat *chat;
    struct store_document_list documents;
    struct reader_text *texts; /* [documents.n] */
    struct token_list corpus;  /* opening and documents; ends are meaningless here */
    size_t opening;            /* tokens before the first document */
    struct session *timeline;
    struct session_mark *end; /* of the corpus, once it is read */
    int adopting;             /* a restore takes another session's reading over: its spans are referenced */
    int in_conversation, answer_ended;
};

/* Loads the documents' texts, ids and maps from the store and joins the corpus anew. */
int reader_load(struct reader *r, struct err *e);
void reader_text_fini(struct reader_text *t);

/* Brings the timeline back to the corpus' end when it is behind it in a conversation. */
int reader_leave_conversation(struct reader *r, struct err *e);

void reader_notice(const struct reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
