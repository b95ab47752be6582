/* SPDX-License-Identifier: Apache-2.0 */
/* workbench.c - opens and closes what the reading commands share. */
#include "app/workbench.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/engine_load.h"

int workbench_open(struct workbench *w, const struct config *c, struct err *e)
{
    *w = (struct workbench){.config = c};
    int rc = store_open(c->data_dir, &w->store, e);
    if (!rc)
        rc = app_engine_open(c, &w->engine, e);
    if (rc)
        workbench_close(w);
    return rc;
}

void workbench_close(struct workbench *w)
{
    reader_close(w->reader);
    engine_close(w->engine);
    store_close(w->store);
    *w = (struct workbench){0};
}

int workbench_session(struct workbench *w, const char *name, int create, const struct progress *progress,
                      struct cancel *cancel, void (*notice)(void *arg, const char *line),
                      void (*restored)(void *arg, const struct reader_usage *usage), void *arg, struct err *e)
{
    reader_close(w->reader);
    w->reader = NULL;
    struct reader_options options = {.engine = w->engine,
                                     .store = w->store,
                                     .worker = app_worker_path(w->config),
                                     .name = name,
                                     .create = create,
                                     .allow_long = w->config->long_context,
                                     .notice = notice,
                                     .progress = progress,
                                     .cancel = cancel,
                                     .restored = restored,
                                     .arg = arg};
    return reader_open(&w->reader, &options, e);
}

int workbench_name(const struct config *c, const char *const *paths, size_t n, char **name, struct err *e)
{
    *name = NULL;
    if (!c->session && !n)
        return err_set(e, ERR_USAGE,
                       "name a session (-s NAME) or a document; lectern sessions lists what there is");
    if (!c->session)
        return reader_default_name(paths, n, name, e);
    *name = strdup(c->session);
    return *name ? 0 : err_memory(e, "a name");
}

/* No fault of this document: the next one would fail too, and what is added later would stand in another
 * order than the one asked for. */
static int is_machine(int rc, const char *path)
{
    return (rc == ERR_IO || rc == ERR_MEMORY || rc == ERR_BUSY) && !access(path, R_OK);
}

int workbench_add(struct workbench *w, const char *const *paths, size_t n, const struct progress *progress,
                  struct cancel *cancel, void (*notice)(void *arg, const char *line), void *arg,
                  struct err *left, struct err *e)
{
    int last = 0;
    size_t failed = 0;
    for (size_t i = 0; i < n; i++) {
        struct err one = {0};
        int rc = reader_add(w->reader, paths[i], progress, cancel, NULL, &one);
        if (!rc)
            continue;
        *e = one;
        if (rc == ERR_CANCELLED || is_machine(rc, paths[i]))
            return rc;
        last = rc;
        failed++;
        if (notice && n > 1)
            notice(arg, one.text);
    }
    if (n && failed == n)
        return last;
    if (failed && left) {
        *left = *e;
        err_prefix(left, "%zu of %zu documents could not be added", failed, n);
    }
    return 0;
}
