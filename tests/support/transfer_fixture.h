/* SPDX-License-Identifier: Apache-2.0 */
/* transfer_fixture.h - stores with a session worth sending, and what a failed import must leave: nothing. */
#ifndef LECTERN_TESTS_SUPPORT_TRANSFER_FIXTURE_H
#define LECTERN_TESTS_SUPPORT_TRANSFER_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

#include "data/store/store.h"

struct transfer_world {
    char *dir;
    struct store *s;
    int64_t id;         /* transfer_fill: its session */
    unsigned spans;     /* that it references */
    uint8_t digest[16]; /* of that session */
};

/* Opens a store in a new folder, in memory where there is such a file system: these tests are about bytes,
 * and every import syncs. Failures end the test. */
void transfer_world_open(struct transfer_world *w);
void transfer_world_close(struct transfer_world *w);
void transfer_world_shut(struct transfer_world *w); /* closes the store, keeps the folder */
void transfer_world_reopen(struct transfer_world *w);

/* The session "a book, read": spans with parents, meta, positions; documents (one has so
 * many bytes of text) and turns with awkward bytes. */
void transfer_fill(struct transfer_world *w, unsigned spans, size_t text);

void transfer_expect_digest(struct transfer_world *w, int64_t id, const uint8_t want[16]);
void transfer_expect_clean(struct transfer_world *w);   /* store_verify finds no problem */
void transfer_expect_nothing(struct transfer_world *w); /* no session, document, turn, span */

void transfer_overwrite(const char *path, const void *bytes, size_t n); /* no sync */
void transfer_flip(const char *path, long at, int mask);
/* Flips a bit of these bytes, which some segment file of the folder has. */
void transfer_damage(const char *dir, const void *bytes, size_t n);

#endif
