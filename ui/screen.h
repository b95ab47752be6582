/* SPDX-License-Identifier: Apache-2.0 */
/* screen.h - the terminal: opening and restoring it, its keys, its size. With draw.c the only user of curses.
 *
 * One screen per process at a time (curses and signals leave no choice). SIGWINCH, SIGTERM and SIGHUP are
 * taken while it is open: they wake screen_signal_fd and come out of screen_read as keys.
 */
#ifndef LECTERN_UI_SCREEN_H
#define LECTERN_UI_SCREEN_H

#include "engine/base/err.h"
#include "ui/frame.h"
#include "ui/keys.h"

struct screen;

/* ERR_USAGE without a terminal, ERR_UNSUPPORTED for an unknown one. */
int screen_open(struct screen **out, int no_color, struct err *e);
void screen_close(struct screen *s); /* restores the terminal; NULL is legal */

void screen_size(const struct screen *s, int *rows, int *columns);

/* Readable when a signal came; for poll(2), beside stdin. */
int screen_signal_fd(const struct screen *s);

/* The next key without waiting: 1, or 0 when there is none. Bracketed pastes come whole as UIK_PASTE. */
int screen_read(struct screen *s, struct ui_key *out);

/* Milliseconds after which screen_read should be called although nothing arrived, or -1. */
int screen_patience(const struct screen *s);

/* Gives the terminal back to the shell until the process is continued. */
void screen_suspend(struct screen *s);

/* Everything is drawn afresh by the next draw_frame. */
void screen_forget(struct screen *s);

/* ---- between screen.c and draw.c ---- */
int screen_colours(const struct screen *s);   /* 1: colour pairs may be used */
struct frame *screen_shown(struct screen *s); /* what the terminal shows now */

/* draw.c: carries the frame to the terminal, changed rows only. Returns -1 when memory ran out. */
int draw_frame(struct screen *s, const struct frame *f);
void draw_start(int colours); /* once, after the terminal was opened */

#endif
