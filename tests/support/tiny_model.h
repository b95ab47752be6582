/* SPDX-License-Identifier: Apache-2.0 */
/* tiny_model.h - makes a small but complete llama-architecture GGUF with random weights, for tests.
 *
 * The vocabulary is a real byte-level one (`gpt2`, pre-tokenizer `smollm`) with the ChatML control tokens:
 *   id 0 <|endoftext|> (BOS), 1 <|im_start|>, 2 <|im_end|> (EOS), 3..258 the byte values 0..255 in GPT-2's
 *   writing, then one token for each of TINY_MERGES merges ("th", "the", " t", ...).
 * So TINY_VOCAB tokens; any text can be encoded. No answer of such a model means anything. With fewer merges
 * the same text makes more tokens, with ids that are another vocabulary's.
 *
 * Norm weights are near 1; matrices are normal with deviation 1/sqrt(columns) times `gain` (queries and keys
 * then give a softmax that is neither flat nor one-hot). Equal options give equal bytes.
 */
#ifndef LECTERN_TESTS_SUPPORT_TINY_MODEL_H
#define LECTERN_TESTS_SUPPORT_TINY_MODEL_H

#include <stddef.h>
#include <stdint.h>

enum { TINY_MERGES = 24, TINY_VOCAB = 3 + 256 + TINY_MERGES };

struct tiny_model {
    int L, H, HK, D, C, F; /* H % HK == 0; C, F, H*D multiples of 32; D even */
    uint32_t type;         /* of the matrices: 0 F32, 1 F16, 3 Q4_1, 8 Q8_0 (GGUF numbers); norms are F32 */
    uint32_t embed_type;   /* of token_embd and output */
    int tied;              /* 1: no output.weight */
    int qkv_bias;          /* 1: biases, architecture qwen2; 0: llama */
    int merges;            /* the first so many of the list; vocabulary 3 + 256 + merges */
    uint32_t context;      /* tokens trained */
    float rope_base;
    float gain;
    uint64_t seed;
};

/* L 3, H 4, HK 2, D 32, C 64, F 96, F32, tied, no biases, all merges, context 4096, base 10000, gain 2,
 * seed 1. */
struct tiny_model tiny_model_default(void);

/* Writes the file; 0 when all went well. */
int tiny_model_write(const struct tiny_model *m, const char *path);

#endif
