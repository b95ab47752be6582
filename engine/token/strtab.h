/* SPDX-License-Identifier: Apache-2.0 */
/* strtab.h - numbered distinct byte strings: number to string and back in O(1).
 *
 * Numbers are given in order of arrival from 0 and never change. Strings may hold any bytes, NUL too.
 */
#ifndef LECTERN_ENGINE_TOKEN_STRTAB_H
#define LECTERN_ENGINE_TOKEN_STRTAB_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/model/gguf.h"

#define STRTAB_NONE UINT32_MAX

struct strtab {
    struct buf bytes; /* all strings, back to back */
    size_t *start;    /* [n+1] where each begins; start[n] is the end */
    uint32_t n, cap;
    uint32_t *slots; /* [mask+1] numbers or STRTAB_NONE, open addressing, at most half full */
    size_t mask;
};

void strtab_fini(struct strtab *s); /* legal on a zeroed one */

/* The number of the string, new or (then *fresh is 0) there already. */
int strtab_intern(struct strtab *s, const char *bytes, size_t n, uint32_t *number, int *fresh, struct err *e);

uint32_t strtab_find(const struct strtab *s, const char *bytes, size_t n); /* STRTAB_NONE when missing */

struct gguf_str strtab_get(const struct strtab *s, uint32_t number); /* number < s->n */

#endif
