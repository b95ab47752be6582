/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_store.h - the parts of `lectern store`, split by topic; cmd_store.c chooses. */
#ifndef LECTERN_APP_CMD_STORE_H
#define LECTERN_APP_CMD_STORE_H

#include "app/config.h"
#include "data/store/store.h"
#include "engine/base/err.h"

/* store_show.c */
int store_show_all(const struct config *c, struct store *s, struct err *e);
int store_show_session(const struct config *c, struct store *s, struct err *e);
/* store_tend.c: verify, gc, strip, pin, unpin */
int store_tend_verify(const struct config *c, struct store *s, struct err *e);
int store_tend_gc(const struct config *c, struct store *s, struct err *e);
int store_tend_strip(const struct config *c, struct store *s, struct err *e);
int store_tend_pin(const struct config *c, struct store *s, int on, struct err *e);
/* store_move.c */
int store_move_export(const struct config *c, struct store *s, struct err *e);
int store_move_import(const struct config *c, struct store *s, struct err *e);

/* cmd_store.c: store_session_get that says what to do when there is none of that name. */
int store_named(struct store *s, const char *name, struct store_session *out, struct err *e);

#endif
