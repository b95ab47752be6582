/* SPDX-License-Identifier: Apache-2.0 */
/* byte_progress.c - see byte_progress.h. What ends within a second is not worth a line. */
#include "app/byte_progress.h"

#include "engine/base/clock.h"

enum { MEGABYTE = 1000000 };

static void report(void *arg, const char *what, uint64_t done, uint64_t total)
{
    struct byte_progress *p = arg;
    struct progress line = progress_line_port(&p->line);
    if (clock_seconds() - p->begun >= 1)
        progress_report(&line, what, done / MEGABYTE, total / MEGABYTE);
}

struct progress byte_progress_begin(struct byte_progress *p, const struct config *c)
{
    progress_line_begin(&p->line, c, "MB");
    p->begun = clock_seconds();
    return (struct progress){.report = report, .arg = p};
}

void byte_progress_end(struct byte_progress *p)
{
    progress_line_end(&p->line);
}
