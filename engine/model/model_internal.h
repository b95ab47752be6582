/* SPDX-License-Identifier: Apache-2.0 */
/* model_internal.h - what model.c, model_params.c and model_hash.c share. */
#ifndef LECTERN_ENGINE_MODEL_MODEL_INTERNAL_H
#define LECTERN_ENGINE_MODEL_MODEL_INTERNAL_H

#include "engine/model/gguf.h"
#include "engine/model/model.h"

/* Fills every number of *p; each is checked. Strings (arch, name) point into `arch` and `name`, which the
 * caller keeps. rope.factors and tied_output are the caller's to set. */
int model_read_params(const struct gguf *g, char arch[16], char name[128], struct model_params *p,
                      struct err *e);

/* XXH3-128 of n mapped bytes of the file at `path`, canonical form; uses and leaves a note in the cache
 * folder for large files. Never fails: without a cache it computes. */
void model_hash_file(const char *path, const uint8_t *bytes, size_t n, uint8_t out[16]);

#endif
