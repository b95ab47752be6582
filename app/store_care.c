/* SPDX-License-Identifier: Apache-2.0 */
/* store_care.c - see store_care.h. */
#include "app/store_care.h"

#include "app/byte_progress.h"
#include "app/interrupt.h"
#include "app/output.h"
#include "ui/human.h"

int store_has_budget(const struct config *c)
{
    return c->budget != CONFIG_NOT_GIVEN || (c->leave_free != CONFIG_NOT_GIVEN && c->leave_free > 0);
}

static int make_room(const struct config *c, struct store *s, const struct progress *progress,
                     struct cancel *cancel, struct store_gc_result *out, int *met, struct err *e)
{
    struct store_budget budget = {.bytes = c->budget == CONFIG_NOT_GIVEN ? STORE_NO_LIMIT : c->budget,
                                  .leave_free = c->leave_free == CONFIG_NOT_GIVEN ? 0 : c->leave_free};
    struct store_stats stats = {0};
    int rc = store_gc(s, &budget, progress, cancel, out, e);
    if (!rc && met)
        rc = store_stats(s, &stats, e);
    if (!rc && met)
        *met = out->bytes_after <= budget.bytes && stats.free_bytes >= budget.leave_free;
    return rc;
}

int store_make_room(const struct config *c, struct store *s, struct store_gc_result *out, int *met,
                    struct err *e)
{
    struct byte_progress line;
    struct progress port = byte_progress_begin(&line, c);
    int rc = make_room(c, s, &port, interrupt_watch(), out, met, e);
    byte_progress_end(&line);
    return rc;
}

static void say(const struct store_gc_result *r, int met, struct buf *line)
{
    size_t before = line->len;
    if (r->spans && r->bytes_before > r->bytes_after) {
        human_bytes(line, r->bytes_before - r->bytes_after);
        buf_puts(line, " of older readings dropped to keep the budget; their text stays");
    }
    if (!met)
        buf_printf(line, "%sthe budget is not met: what is left is open or pinned",
                   line->len > before ? "; " : "");
}

int store_care(const struct config *c, struct store *s, struct err *e)
{
    struct store_gc_result r = {0};
    struct buf line = {0};
    int met = 1;
    if (!store_has_budget(c))
        return 0;
    int rc = store_make_room(c, s, &r, &met, e);
    if (!rc)
        say(&r, met, &line);
    if (line.data && !line.failed)
        output_notice(c, "%s", line.data);
    buf_free(&line);
    return rc;
}

int store_care_quiet(const struct config *c, struct store *s, struct cancel *cancel, struct buf *line,
                     struct err *e)
{
    struct store_gc_result r = {0};
    int met = 1;
    if (!store_has_budget(c))
        return 0;
    int rc = make_room(c, s, NULL, cancel, &r, &met, e);
    if (!rc)
        say(&r, met, line);
    return rc;
}
