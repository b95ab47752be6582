/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_store.c - what lasts on the disk: numbers, proof, room, and sessions as files. */
#include "app/cmd_store.h"

#include <string.h>

#include "app/commands.h"

int store_named(struct store *s, const char *name, struct store_session *out, struct err *e)
{
    int rc = store_session_get(s, name, out, e);
    if (rc == ERR_NOT_FOUND)
        rc = err_set(e, rc, "there is no session ‘%.100s’; `lectern sessions` lists them", name);
    return rc;
}

int cmd_store(const struct config *c, struct err *e)
{
    struct store *s = NULL;
    int rc = store_open(c->data_dir, &s, e);
    if (rc)
        return rc;
    if (strcmp(c->sub, "stats") == 0)
        rc = c->n_args ? store_show_session(c, s, e) : store_show_all(c, s, e);
    else if (strcmp(c->sub, "verify") == 0)
        rc = store_tend_verify(c, s, e);
    else if (strcmp(c->sub, "gc") == 0)
        rc = store_tend_gc(c, s, e);
    else if (strcmp(c->sub, "strip") == 0)
        rc = store_tend_strip(c, s, e);
    else if (strcmp(c->sub, "export") == 0)
        rc = store_move_export(c, s, e);
    else if (strcmp(c->sub, "import") == 0)
        rc = store_move_import(c, s, e);
    else
        rc = store_tend_pin(c, s, strcmp(c->sub, "pin") == 0, e);
    store_close(s);
    return rc;
}
