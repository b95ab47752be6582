/* SPDX-License-Identifier: Apache-2.0 */
/* engine_load.h - which model, adapter and head pattern a command uses: the program's policy.
 *
 *   adapter auto   the shipped one for the default model (by file name and shape), none for others
 *   heads auto     the adapter's own pattern; without an adapter: none for the default model, the shipped
 *                  pattern of the same name for another (general.name or the file's name), else none
 *   sparsity       as given; else with a pattern 0.5 (0.75 when each query head has its own KV head), without
 * 0
 */
#ifndef LECTERN_APP_ENGINE_LOAD_H
#define LECTERN_APP_ENGINE_LOAD_H

#include "app/config.h"
#include "engine/base/err.h"
#include "engine/model/gguf.h"
#include "engine/session.h"
#include "engine/token/tokenizer.h"

/* Owned; app_choice_free. */
struct app_choice {
    char *model;     /* path of the GGUF file, which exists */
    char *adapter;   /* folder or NULL */
    char *heads;     /* folder or NULL */
    double sparsity; /* 0..1 */
    size_t L, HK, C; /* of the model file, 0 where it does not say */
};

/* The model's path alone; the caller frees. ERR_NOT_FOUND with the remedy when it is not there. */
int app_model_path(const struct config *c, char **path, struct err *e);

/* Decides everything and loads nothing. *gguf (may be NULL) gets the open file, to be closed by the caller.
 */
int app_choose(const struct config *c, struct app_choice *out, struct gguf **gguf, struct err *e);
void app_choice_free(struct app_choice *choice);

/* enum device_weight_format of --weights. */
int app_weights(const struct config *c);

/* Loads the engine that c asks for. On a card, a notice says which and what has room. */
int app_engine_open(const struct config *c, struct engine **out, struct err *e);

/* The tokenizer of c's model alone, without its weights. */
int app_tokenizer_open(const struct config *c, struct tokenizer **out, struct err *e);

/* ERR_LIMIT, with the numbers and the choices, when `tokens` are more than the engine's model was trained
 * for and --long is not given. */
int app_context_check(const struct config *c, const struct engine *g, size_t tokens, struct err *e);

#endif
