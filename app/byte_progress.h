/* SPDX-License-Identifier: Apache-2.0 */
/* byte_progress.h - the progress line of a step that counts bytes: in MB, and only after a second. */
#ifndef LECTERN_APP_BYTE_PROGRESS_H
#define LECTERN_APP_BYTE_PROGRESS_H

#include "app/output.h"

struct byte_progress {
    struct progress_line line;
    double begun;
};

/* The port borrows p until byte_progress_end, which may be called more than once. */
struct progress byte_progress_begin(struct byte_progress *p, const struct config *c);
void byte_progress_end(struct byte_progress *p);

#endif
