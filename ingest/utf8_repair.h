/* SPDX-License-Identifier: Apache-2.0 */
/* utf8_repair.h - strict UTF-8: checking, and making invalid bytes visible as U+FFFD.
 *
 * Strict means Unicode's table 3-7: no surrogates, no overlong forms, nothing above U+10FFFF. Each maximal
 * invalid subpart becomes one U+FFFD, so that every decoder that follows the standard counts alike.
 */
#ifndef LECTERN_INGEST_UTF8_REPAIR_H
#define LECTERN_INGEST_UTF8_REPAIR_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"

/* Length of the well-formed sequence at `p` (n >= 1 bytes left), or 0; then *bad is the length of the maximal
 * invalid subpart, at least 1. */
size_t utf8_sequence(const uint8_t *p, size_t n, size_t *bad);

/* Bytes of well-formed UTF-8 from the start; n when all is. */
size_t utf8_valid_prefix(const void *text, size_t n);

/* Appends the text with invalid subparts replaced; returns how many there were. */
uint64_t utf8_repair(struct buf *out, const void *text, size_t n);

/* As utf8_repair for labels, titles and paths: at most `limit` bytes (whole sequences), and C0, C1 and DEL
 * become U+FFFD, too. */
void utf8_clean_label(struct buf *out, const char *text, size_t limit);

#endif
