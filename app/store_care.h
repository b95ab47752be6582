/* SPDX-License-Identifier: Apache-2.0 */
/* store_care.h - the budget of the command line or the settings file, kept. */
#ifndef LECTERN_APP_STORE_CARE_H
#define LECTERN_APP_STORE_CARE_H

#include "app/config.h"
#include "data/store/store.h"
#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "engine/base/err.h"

/* Is there a limit to keep (config_resolve was called)? */
int store_has_budget(const struct config *c);

/* store_gc with c's limits; *met (may be NULL): do they hold now? Stops on Ctrl-C with ERR_CANCELLED, *out
 * saying what was done. Shows progress. */
int store_make_room(const struct config *c, struct store *s, struct store_gc_result *out, int *met,
                    struct err *e);

/* After something was read: makes room when a limit is set, else nothing. Sessions that are open and those
 * that are pinned keep their readings. Says in a notice what was dropped, or that the limit is not met. */
int store_care(const struct config *c, struct store *s, struct err *e);

/* The same where the terminal is somebody else's: what is to be said is added to `line`, nothing is shown. */
int store_care_quiet(const struct config *c, struct store *s, struct cancel *cancel, struct buf *line,
                     struct err *e);

#endif
