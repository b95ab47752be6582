/* SPDX-License-Identifier: Apache-2.0 */
/* eval.h - what the measurements of `lectern eval` share. */
#ifndef LECTERN_APP_EVAL_H
#define LECTERN_APP_EVAL_H

#include <stddef.h>

#include "app/config.h"
#include "engine/base/err.h"
#include "engine/token/tokenizer.h"

/* The tokens of text file c->args[0], with BOS before them where the model wants one, as llama.cpp encodes a
 * prompt. ERR_USAGE when they do not fill one window of c->ctx. */
int eval_encode(const struct config *c, const struct tokenizer *t, struct token_list *list, struct err *e);

/* Window w of N tokens, borrowed; its first token becomes BOS where the model wants one. */
const uint32_t *eval_window(const struct tokenizer *t, struct token_list *list, size_t N, size_t w);

/* log of the sum of e^row[i]; not finite when a logit is not. */
double eval_log_total(const float *row, size_t V);

#endif
