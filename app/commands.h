/* SPDX-License-Identifier: Apache-2.0 */
/* commands.h - the commands, one file each. Results go to stdout, progress to stderr. Each returns 0 or the
 * code of the error it left in e; main prints it and turns it into the exit status. */
#ifndef LECTERN_APP_COMMANDS_H
#define LECTERN_APP_COMMANDS_H

#include "app/config.h"
#include "engine/base/err.h"

int cmd_read(const struct config *c, struct err *e); /* the reading room */
int cmd_add(const struct config *c, struct err *e);
int cmd_ask(const struct config *c, struct err *e);
int cmd_sessions(const struct config *c, struct err *e);
int cmd_store(const struct config *c, struct err *e);
int cmd_models(const struct config *c, struct err *e);
int cmd_heads(const struct config *c, struct err *e);
int cmd_doctor(const struct config *c, struct err *e);
int cmd_tokenize(const struct config *c, struct err *e);
int cmd_detokenize(const struct config *c, struct err *e);
int cmd_logits(const struct config *c, struct err *e);
int cmd_bench(const struct config *c, struct err *e);
int cmd_bench_cuda(const struct config *c, struct err *e); /* reached through cmd_bench */
int cmd_eval(const struct config *c, struct err *e);
int cmd_eval_kv(const struct config *c, struct err *e); /* reached through cmd_eval */

#endif
