/* SPDX-License-Identifier: Apache-2.0 */
/* fault_book.h - the program's insides in one process: a tiny model, a session with documents and a question
 * asked, and what a person would see of a data folder whose bytes somebody changed.
 */
#ifndef LECTERN_TESTS_SUPPORT_FAULT_BOOK_H
#define LECTERN_TESTS_SUPPORT_FAULT_BOOK_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/session.h"

enum { BOOK_DOCUMENTS = 3, BOOK_ITEMS = 16 };

/* Everything a session shows, as hashes in order. */
struct look {
    size_t documents, turns;
    uint64_t document[BOOK_ITEMS], turn[BOOK_ITEMS];
};

struct book {
    char *root, *model, *heads;
    char *documents[BOOK_DOCUMENTS];
    char *whole;   /* data folder as a closed store leaves it */
    char *running; /* as one that died with its log not yet in the database */
    char *exported;
    struct look look;
    char *answer; /* to book_answer's question, with its citations */
    uint8_t digest[16];
};

/* Texts of about 1,300 tokens: one block and a checkpoint at every document's end. NULL: a line says why. */
struct book *book_make(void);
void book_free(struct book *b);

int book_engine(const struct book *b, const char *model, const char *heads, struct engine **out,
                struct err *e);

/* Session x of the folder: its rows, every document's parts, its turns. */
int book_look(const char *data, struct look *out, struct err *e);

/* Asks x a question, from the stored reading or (part of) the text. The caller frees *answer. */
int book_answer(const struct engine *g, const char *data, char **answer, struct err *e);

/* Problems that store_verify finds. */
int book_verify(const char *data, uint64_t *problems, struct err *e);

/* a begins like b and has no more. */
int look_is_prefix(const struct look *a, const struct look *b);
int look_is_equal(const struct look *a, const struct look *b);

/* Changes a file by the random numbers: flips a bit (three times of four), else cuts it short, overwrites a
 * run with zeros, ones or another part of itself. Says what it did. Bytes in [first, end) are hit; end 0: the
 * file's. */
void file_damage(const char *path, uint64_t first, uint64_t end, uint64_t *random, char *what, size_t size);

/* An error that a person can use: a code, a text of one line. */
int err_is_named(const struct err *e);

#endif
