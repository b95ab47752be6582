/* SPDX-License-Identifier: Apache-2.0 */
/* special.h - finds the tokens whose text is taken whole before anything else is cut.
 *
 * The rule is llama.cpp's: the longest special text is looked for first, over the whole text from the left;
 * then the next longest in what is left; equal lengths in order of id. (Not leftmost-longest: of "ab" and
 * "bcd" in "abcd" the second is found.)
 */
#ifndef LECTERN_ENGINE_TOKEN_SPECIAL_H
#define LECTERN_ENGINE_TOKEN_SPECIAL_H

#include "engine/token/strtab.h"

struct special {
    const struct strtab *names; /* borrowed */
    uint32_t *ids;              /* [n] by first byte, then longest first, then id */
    uint32_t *priority;         /* [n] order in which they are looked for, parallel to ids */
    size_t n;
    size_t first[257]; /* ids[first[b]..first[b+1]) begin with byte b */
};

struct special_hit {
    size_t from, to;
    uint32_t id;
};

/* ids is copied; names of length 0 are left out. special_fini is legal after failure and on a zeroed one. */
int special_init(struct special *s, const struct strtab *names, const uint32_t *ids, size_t n, struct err *e);
void special_fini(struct special *s);

/* The hits in text, ascending and apart, in *hits (freed by the caller; NULL when *n is 0). */
int special_find(const struct special *s, const char *text, size_t size, struct special_hit **hits, size_t *n,
                 struct err *e);

#endif
