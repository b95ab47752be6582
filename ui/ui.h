/* SPDX-License-Identifier: Apache-2.0 */
/* ui.h - the reading room: library, conversation, source and help on a terminal.
 *
 * ui_run owns the terminal and the calling thread until the person leaves; everything else happens on the
 * thread that serves the port (ui/port.h). It sleeps in poll(2) and uses no processor time while nothing
 * happens. Whatever way it ends, the terminal is restored and QUIT was sent through the port.
 */
#ifndef LECTERN_UI_UI_H
#define LECTERN_UI_UI_H

#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "ui/port.h"

struct ui_options {
    int no_color;             /* also set by a non-empty NO_COLOR in the environment */
    const char *session;      /* opened at the start (OPEN_SESSION); NULL: the library, or `paths` */
    const char *const *paths; /* then added to it (ADD_PATHS; with session NULL a new one is made) */
    size_t n_paths;
    const char *model; /* shown in the title line; may be NULL */
};

/* Runs until the person quits, the terminal goes away, or SIGTERM/SIGHUP arrives (then also returns 0).
 * Needs a terminal on stdin and stdout, ERR_USAGE otherwise; ERR_UNSUPPORTED when its type is unknown. Sets
 * LC_CTYPE to a UTF-8 locale when the one in force is not (call setlocale before starting threads). */
int ui_run(struct ui_port *port, const struct ui_options *options, struct err *e);

/* Appends the table of keys as text, one "KEY<tab>MEANING" a line, with a heading line "# NAME" before each
 * group: for the manual page and --help. */
void ui_keys_text(struct buf *out);

#endif
