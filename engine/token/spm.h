/* SPDX-License-Identifier: Apache-2.0 */
/* spm.h - the sentencepiece library behind a C face, and the model file (a protobuf) that it reads.
 *
 *   tokenizer.model ---------------------------.
 *   GGUF `llama` vocabulary -> spm_proto_from_gguf -> proto bytes -> spm_load -> ids and offsets
 *                                                         `-> spm_proto_read: names, types, settings
 */
#ifndef LECTERN_ENGINE_TOKEN_SPM_H
#define LECTERN_ENGINE_TOKEN_SPM_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/model/gguf.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ModelProto.SentencePiece.Type; GGUF's token types have the same numbers. */
enum spm_type {
    SPM_NORMAL = 1,
    SPM_UNKNOWN = 2,
    SPM_CONTROL = 3,
    SPM_USER_DEFINED = 4,
    SPM_UNUSED = 5,
    SPM_BYTE = 6,
};

struct spm_facts {
    int model_type; /* 1 unigram, 2 BPE, 3 word, 4 char */
    int dummy_prefix, whitespace_suffix;
    uint32_t bos, eos; /* from the trainer's settings; UINT32_MAX: none */
};

/* Appends a ModelProto that makes the library encode as the GGUF vocabulary means. types [V] has been read
 * and checked by the caller; scores come from g. */
int spm_proto_from_gguf(const struct gguf *g, const struct gguf_array *names, const uint8_t *types,
                        struct buf *proto, struct err *e);

/* Reads the fields that Lectern needs out of a ModelProto, hostile bytes allowed. `piece` is called for every
 * piece in order of id; non-zero stops and is returned. */
int spm_proto_read(const void *proto, size_t n, struct spm_facts *facts,
                   int (*piece)(void *arg, struct gguf_str name, float score, int type), void *arg,
                   struct err *e);

/* The library's processor; immutable, for any number of threads. */
struct spm;
int spm_load(const void *proto, size_t n, struct spm **out, struct err *e);
void spm_free(struct spm *s); /* NULL is legal */

/* Calls `token` for each token of the text with the offset just past it (never descending, <= n); non-zero
 * stops and is returned. */
int spm_encode(const struct spm *s, const char *text, size_t n,
               int (*token)(void *arg, uint32_t id, size_t end), void *arg, struct err *e);

#ifdef __cplusplus
}
#endif
#endif
