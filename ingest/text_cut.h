/* SPDX-License-Identifier: Apache-2.0 */
/* text_cut.h - the bytes of a text file as blocks of clean UTF-8 that still know their source bytes.
 *
 * Blocks end at line ends; only a line longer than TEXT_PIECE_MAX is cut, between two characters. "\r\n"
 * becomes
 * "\n", a byte order mark is dropped, invalid UTF-8 becomes U+FFFD. All lines of one block relate to the
 * source in one way (enum ingest_block_flag), so the source bytes of every line stay exact: a line with
 * invalid bytes is a block of its own. Past TEXT_SWITCHES_MAX such changes in one file lines are mixed, and
 * their blocks name the range of bytes as a whole.
 */
#ifndef LECTERN_INGEST_TEXT_CUT_H
#define LECTERN_INGEST_TEXT_CUT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "ingest/ingest.h"

#define TEXT_PIECE_MAX ((size_t)64 * 1024) /* source bytes; three times as many when repaired */
#define TEXT_SWITCHES_MAX 100000u

struct text_cut_result {
    uint64_t replaced; /* U+FFFD put in */
    uint32_t lines;    /* "\n" seen */
    int ends_in_line;  /* the last byte is not "\n" (and there is one) */
};

/* Cuts `bytes` (without NUL; the caller has refused those) and calls `emit` for each block, whose file,
 * page_index and page_label are `like`'s. A non-zero return of emit ends the work with that code. A text of
 * nothing gives no block. */
int text_cut(const uint8_t *bytes, size_t n, const struct ingest_block *like,
             int (*emit)(void *arg, const struct ingest_block *block, struct err *e), void *arg,
             struct text_cut_result *result, struct err *e);

#endif
