/* SPDX-License-Identifier: Apache-2.0 */
/* input.h - whole inputs of the checking commands: texts and lists of token ids. */
#ifndef LECTERN_APP_INPUT_H
#define LECTERN_APP_INPUT_H

#include "app/config.h"
#include "engine/base/err.h"
#include "engine/token/tokenizer.h"

/* All bytes of a file, or of the standard input for "-"; at most 4 GB. *out is never NULL on success, a NUL
 * follows; the caller frees. */
int input_read(const char *path, char **out, size_t *n, struct err *e);

/* The same as UTF-8: what is not becomes U+FFFD, and a notice on stderr says how often. */
int input_text(const struct config *c, const char *path, char **out, size_t *n, struct err *e);

/* Numbers, one a line (any white space), each below `vocab`. The list was zero-initialised by the caller, who
 * frees it. ERR_FORMAT names the line. */
int input_ids(const char *path, uint32_t vocab, struct token_list *out, struct err *e);

#endif
