/* SPDX-License-Identifier: Apache-2.0 */
/* naive_llama.h - the Llama forward pass as a textbook has it, in double, without caches, pages or chunks.
 *
 * Every query looks at every key and asks the one rule of visibility. Slow and plain on purpose: it is what
 * the engine's caches are held against. F32 models of the `llama` architecture only.
 */
#ifndef LECTERN_TESTS_SUPPORT_NAIVE_LLAMA_H
#define LECTERN_TESTS_SUPPORT_NAIVE_LLAMA_H

#include <stddef.h>
#include <stdint.h>

/* logits [n][V] of ids[0..n). retrieval [L][HK]; keys and values are rounded to fp16 as the caches do. 0 when
 * done. */
int naive_llama(const char *path, const uint8_t *retrieval, size_t S, size_t R, const uint32_t *ids, size_t n,
                double *logits, size_t V);

#endif
