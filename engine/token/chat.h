/* SPDX-License-Identifier: Apache-2.0 */
/* chat.h - the prompt's frame: where turns begin and end, in the model's own format.
 *
 *   corpus_open          documents (encoded by the caller)     question (first)        answer
 *   [system turn][user:  text of document 1, 2, ...            Question: ...] [assistant:  ...
 *   later:               [end of turn] [user: question] [assistant: ...
 *
 * Control tokens are put in as ids and everything between them is encoded with special tokens off, so neither
 * a document, a question nor a system text can forge a turn. (The INST format of Llama 2 has no such tokens:
 * its marks are text, and text can imitate them.) The tokens' `ends` are 0: they belong to no document.
 */
#ifndef LECTERN_ENGINE_TOKEN_CHAT_H
#define LECTERN_ENGINE_TOKEN_CHAT_H

#include "engine/token/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

enum chat_kind {
    CHAT_NONE,   /* a base model: "Question: ...\nAnswer:" in plain text */
    CHAT_CHATML, /* SmolLM2, Qwen: <|im_start|>role\n ... <|im_end|>\n */
    CHAT_LLAMA3, /* <|start_header_id|>role<|end_header_id|>\n\n ... <|eot_id|> */
    CHAT_LLAMA2, /* [INST] <<SYS>> ... <</SYS>> ... [/INST], text marks */
    CHAT_MISTRAL /* [INST] ... [/INST], marks as control tokens where the vocabulary has them */
};

struct chat;

/* Finds the kind from the template in g (may be NULL) and the vocabulary's control tokens. The tokenizer is
 * borrowed and must outlive the chat; g is not kept. */
int chat_open(const struct tokenizer *t, const struct gguf *g, struct chat **out, struct err *e);
void chat_close(struct chat *c); /* NULL is legal */

enum chat_kind chat_kind(const struct chat *c);
const char *chat_kind_name(enum chat_kind kind); /* "chatml", ... */

/* The system text that the model's template puts in when none is given; "" when it has none. */
const char *chat_default_system(const struct chat *c);

/* Appends what stands before the documents: BOS where the model wants one, the system turn, the start of the
 * user's turn. system NULL takes the default; "" leaves the system turn out. */
int chat_corpus_open(const struct chat *c, const char *system, struct token_list *out, struct err *e);

/* Appends a question of n bytes and the start of the answer. first: it follows the documents in the turn that
 * chat_corpus_open began ("\n\nQuestion: ..."). Otherwise it opens a new user turn after an answer, and
 * answer_ended says whether that answer's own end-of-turn token (chat_is_stop) is in the context already; if
 * not (cancelled, out of length) it is put in here. */
int chat_question(const struct chat *c, int first, int answer_ended, const char *question, size_t n,
                  struct token_list *out, struct err *e);

/* Does this token end an answer? */
int chat_is_stop(const struct chat *c, uint32_t id);

#ifdef __cplusplus
}
#endif
#endif
