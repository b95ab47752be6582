/* SPDX-License-Identifier: Apache-2.0 */
/* speculate.h - guesses of the next tokens, looked up in the tokens before: an answer that quotes its sources
 * goes on as the source did.
 *
 * An index of every place of every pair of tokens, in a timeline that grows at its end and is sometimes cut
 * back. A guess is what followed the earlier place whose text agrees longest with the end; nothing but time
 * depends on it, for whoever uses a guess holds it against the model (session_append_guesses).
 */
#ifndef LECTERN_ENGINE_SPECULATE_H
#define LECTERN_ENGINE_SPECULATE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

struct guesser;

int guesser_create(struct guesser **out, struct err *e);
void guesser_free(struct guesser *g); /* NULL is legal */

/* Makes it know exactly ids[0..n); what both share is not read anew. Some 10 ns and 12 to 18 bytes for
 * each further token (n < 2^32 - 1). On failure it knows a part. */
int guesser_follow(struct guesser *g, const uint32_t *ids, size_t n, struct err *e);

/* One token more. */
int guesser_add(struct guesser *g, uint32_t id, struct err *e);

/* Up to `most` guesses of what follows the tokens known; returns how many: fewer the shorter the text that
 * agrees. */
size_t guesser_guess(const struct guesser *g, uint32_t *guesses, size_t most);

#endif
