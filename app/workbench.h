/* SPDX-License-Identifier: Apache-2.0 */
/* workbench.h - what add, ask and the reading room open alike: engine, store, and a reader on a session. */
#ifndef LECTERN_APP_WORKBENCH_H
#define LECTERN_APP_WORKBENCH_H

#include "app/config.h"
#include "app/reader.h"
#include "engine/base/err.h"

struct workbench {
    const struct config *config; /* borrowed */
    struct engine *engine;
    struct store *store;
    struct reader *reader; /* NULL until workbench_session */
};

/* Opens engine and store. Zeroed after a failure. */
int workbench_open(struct workbench *w, const struct config *c, struct err *e);
void workbench_close(struct workbench *w); /* legal on a zeroed one */

/* Opens a reader on session `name`, closing the one before; progress (bytes of text), cancel, notice and
 * restored as in reader.h. */
int workbench_session(struct workbench *w, const char *name, int create, const struct progress *progress,
                      struct cancel *cancel, void (*notice)(void *arg, const char *line),
                      void (*restored)(void *arg, const struct reader_usage *usage), void *arg,
                      struct err *e);

/* The session for these arguments: --session, or a name made of the paths; the caller frees. */
int workbench_name(const struct config *c, const char *const *paths, size_t n, char **name, struct err *e);

/* Adds each path in turn; one that fails is told through `notice` and costs only itself. ERR_CANCELLED, or
 * the last failure when no path could be added at all; at once when the machine failed and not the document
 * (a full disk, no memory): the same command goes on from there. When some could not, *left (may be NULL)
 * gets the last failure with how many there were, for the end of the command: its work goes on without them.
 */
int workbench_add(struct workbench *w, const char *const *paths, size_t n, const struct progress *progress,
                  struct cancel *cancel, void (*notice)(void *arg, const char *line), void *arg,
                  struct err *left, struct err *e);

#endif
