/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_read.c - the reading room: the interface on this thread, the engine on one of its own, requests
 * between.
 *
 * The interface knows nothing of engines and stores; room.c answers its requests one at a time, in order. The
 * person's cancel flag is the port's; every long step looks at it.
 */
#include "app/commands.h"

#include <stdlib.h>
#include <unistd.h>

#include "app/room.h"
#include "app/workbench.h"
#include "ui/ui.h"

int cmd_read(const struct config *c, struct err *e)
{
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return err_set(e, ERR_USAGE,
                       "the reading room needs a terminal; in scripts use: lectern ask FILE \"QUESTION\"");
    struct ui_port *port = NULL;
    struct room *room = NULL;
    char *name = NULL;
    int rc = 0;
    if (c->session || c->n_args)
        rc = workbench_name(c, c->args, c->n_args, &name, e);
    if (!rc)
        rc = port_create(&port, 0, e);
    if (!rc)
        rc = room_start(&room, c, port, name, e);
    if (!rc) {
        struct ui_options options = {
            .no_color = c->no_color, .session = name, .paths = c->args, .n_paths = c->n_args};
        rc = ui_run(port, &options, e);
        struct err late = {0};
        int room_rc = room_stop(room, &late);
        if (!rc && room_rc) {
            *e = late;
            rc = room_rc;
        }
    }
    port_free(port);
    free(name);
    return rc;
}
