/* SPDX-License-Identifier: Apache-2.0 */
/* spm_trainer.h - trains a SentencePiece model in memory and asks the library itself for ids: what the tests
 * of our wrapper compare with. */
#ifndef LECTERN_TESTS_UNIT_SPM_TRAINER_H
#define LECTERN_TESTS_UNIT_SPM_TRAINER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Trains on the lines with the library's command-line options ("--vocab_size=300 --model_type=bpe") and
 * writes the model file. 0 when all went well. */
int spm_trainer_train(const char *const *lines, size_t n, const char *options, const char *path);

/* The library's ids for a text, at most cap of them into ids; returns how many there are, or -1. */
long spm_trainer_encode(const char *path, const char *text, size_t n, uint32_t *ids, size_t cap);

#ifdef __cplusplus
}
#endif
#endif
