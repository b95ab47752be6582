/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_logits.c - the model's numbers for every token of a list, as float32 little-endian [T][V].
 *
 * Rows are written as they are made, into a temporary file that takes the wanted name only when it is whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "app/commands.h"
#include "app/engine_load.h"
#include "app/input.h"
#include "app/interrupt.h"
#include "app/output.h"
#include "engine/base/file.h"
#include "engine/model/model.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "logits are written as they lie in memory: little-endian"
#endif

struct rows {
    int fd;
    const char *path;
    size_t bytes; /* of a row */
    struct err err;
};

static int put_row(void *arg, size_t position, const float *row)
{
    struct rows *r = arg;
    return file_pwrite_all(r->fd, row, r->bytes, (uint64_t)position * r->bytes, r->path, &r->err);
}

static int compute(const struct config *c, const struct engine *g, const struct token_list *list,
                   struct rows *rows, struct err *e)
{
    struct session *s = NULL;
    struct progress_line line;
    progress_line_begin(&line, c, "tokens");
    struct progress port = progress_line_port(&line);
    struct append_options options = {
        .progress = &port, .cancel = interrupt_watch(), .logits = put_row, .arg = rows};
    int rc = session_create(&s, g, e);
    if (!rc)
        rc = session_append(s, list->ids, list->n, &options, e);
    if (rows->err.code) {
        *e = rows->err;
        rc = e->code;
    } else if (rc == ERR_CANCELLED) {
        rc = err_set(e, ERR_CANCELLED, "stopped; %s was not written", c->out);
    }
    session_free(s);
    progress_line_end(&line);
    return rc;
}

/* Makes, fills, syncs and renames; nothing is left behind on failure. */
static int write_file(const struct config *c, const struct engine *g, const struct token_list *list,
                      struct err *e)
{
    struct buf name = {0};
    buf_printf(&name, "%s.XXXXXX", c->out);
    if (name.failed)
        return err_memory(e, c->out);
    struct rows rows = {.path = c->out, .bytes = engine_params(g)->V * sizeof(float)};
    rows.fd = mkostemp(name.data, O_CLOEXEC);
    if (rows.fd < 0) {
        int rc = err_errno(e, errno, "cannot create a file beside %s", c->out);
        buf_free(&name);
        return rc;
    }
    int rc = compute(c, g, list, &rows, e);
    if (!rc && fsync(rows.fd))
        rc = err_errno(e, errno, "cannot sync %s", c->out);
    if (close(rows.fd) && !rc)
        rc = err_errno(e, errno, "cannot close %s", c->out);
    if (!rc && rename(name.data, c->out))
        rc = err_errno(e, errno, "cannot rename to %s", c->out);
    if (rc)
        unlink(name.data);
    buf_free(&name);
    return rc;
}

int cmd_logits(const struct config *c, struct err *e)
{
    struct engine *g = NULL;
    struct token_list list = {0};
    int rc = app_engine_open(c, &g, e);
    if (!rc)
        rc = input_ids(c->tokens, (uint32_t)engine_params(g)->V, &list, e);
    if (!rc && !list.n)
        rc = err_set(e, ERR_USAGE, "%s holds no token", c->tokens);
    if (!rc)
        rc = app_context_check(c, g, list.n, e);
    if (!rc)
        rc = write_file(c, g, &list, e);
    if (!rc)
        output_notice(c, "%s: %zu rows of %zu numbers", c->out, list.n, engine_params(g)->V);
    token_list_fini(&list);
    engine_close(g);
    return rc;
}
