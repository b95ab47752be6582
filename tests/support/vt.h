/* SPDX-License-Identifier: Apache-2.0 */
/* vt.h - a terminal in memory: what a program wrote for TERM=xterm, as rows of text.
 *
 * Knows what terminfo's xterm, screen and vt100 entries emit: cursor motion, erasing, inserting and deleting,
 * scroll regions, attributes (reverse is kept per cell), wide and combining characters. Anything else that is
 * well-formed is skipped and counted, so that a test can insist on nothing strange being written.
 */
#ifndef LECTERN_TESTS_SUPPORT_VT_H
#define LECTERN_TESTS_SUPPORT_VT_H

#include <stddef.h>

struct vt;

struct vt *vt_create(int rows, int columns); /* NULL when out of memory */
void vt_free(struct vt *vt);
void vt_resize(struct vt *vt, int rows, int columns); /* keeps the upper left part */
void vt_feed(struct vt *vt, const char *bytes, size_t n);

int vt_rows(const struct vt *vt);
/* The row's text without blanks at the end; valid until the next call. */
const char *vt_row(struct vt *vt, int row);
/* The first row >= from that contains the text, or -1. */
int vt_find(struct vt *vt, int from, const char *text);
/* 1 when the cell is shown with any of reverse video, colours or underline. */
int vt_marked(const struct vt *vt, int row, int column);
int vt_cursor_row(const struct vt *vt);
int vt_cursor_column(const struct vt *vt);
int vt_cursor_shown(const struct vt *vt);
int vt_coloured(const struct vt *vt);         /* a colour was ever selected */
int vt_mode(const struct vt *vt, int number); /* DEC private mode, 1 when set */
int vt_unknown(const struct vt *vt);          /* sequences that were not understood */

#endif
