/* SPDX-License-Identifier: Apache-2.0 */
/* store_fixture.h - a store in a temporary folder, and spans whose bytes follow from a number.
 *
 * Span i has the key, the size and the bytes that span_* compute from i, so that any process can check any
 * span without having seen it written.
 */
#ifndef LECTERN_TESTS_SUPPORT_STORE_FIXTURE_H
#define LECTERN_TESTS_SUPPORT_STORE_FIXTURE_H

#include "data/store/store.h"

/* A new folder under $TMPDIR or /tmp, by malloc; NULL on failure. */
char *fixture_dir_make(void);
/* Deletes it with all it holds and frees the name. */
void fixture_dir_remove(char *dir);
/* DIR/segments/NNNNNN.seg, by malloc. */
char *fixture_segment(const char *dir, int number);
/* Runs statements on DIR/lectern.db by sqlite3 itself; returns its status. */
int fixture_sql(const char *dir, const char *statements);

void fixture_key(unsigned i, uint8_t key[STORE_KEY_BYTES]);
size_t fixture_size(unsigned i);                /* 0 bytes to 1.3 MB, often about a group's border */
void fixture_bytes(unsigned i, uint8_t *bytes); /* [fixture_size(i)] */
int fixture_put(struct store *s, unsigned i, struct err *e);
/* 0 = maps and every byte is right; else the error of map, or -1 for wrong bytes. */
int fixture_check(struct store *s, unsigned i, struct err *e);

#endif
