/* SPDX-License-Identifier: Apache-2.0 */
/* session_device.c - what a session does otherwise when its layers run on a device.
 *
 * The device holds the caches; s->cache is their form in host memory (engine/device/device_engine.h,
 * "shadow"), filled when state is written or compared. Tokens, logits, marks, chain keys and checkpoints stay
 * the session's, so what a session is does not hang on where it runs.
 */
#include "engine/session_internal.h"

#include <string.h>

int session_device_open(struct session *s, struct err *e)
{
    return device_session_create(&s->device, s->engine->device, e);
}

/* Which of the next steps visit all pages: the first, and every audit_every-th. */
static void choose_pages(struct session *s)
{
    struct session_selection *p = &s->selection;
    int audit = p->pages && (p->audit_every < 2 || p->steps % p->audit_every == 0);
    p->steps++;
    device_session_select(
        s->device, &(struct device_selection){.budget = p->pages, .recent = p->recent, .audit = audit});
}

/* `rows`: how many count in the sums, or NULL: all. */
static int run_pass(struct session *s, const uint32_t *ids, size_t T, const struct append_options *o,
                    const size_t *rows, struct err *e)
{
    struct session_selection *select = &s->selection;
    if (!s->proving && device_session_position(s->device) != s->position)
        return err_set(e, ERR_REBUILD, "the device lost its place after a failure; read the document again");
    double visited[2] = {0, 0};
    struct device_pass pass = {.cancel = o ? o->cancel : NULL,
                               .logits = o ? o->logits : NULL,
                               .arg = o ? o->arg : NULL,
                               .last = s->last_logits,
                               .mass = s->watching && !s->proving ? s->mass_total : NULL,
                               .rows = rows,
                               .visited = visited};
    if (T <= DEVICE_DECODE_T)
        choose_pages(s);
    cache_ring_advance(&s->cache, (device_session_position(s->device) + T - 1) / KV_PAGE);
    int rc = device_session_pass(s->device, ids, T, &pass, e);
    if (rc)
        return rc;
    s->have_logits = 1;
    if (visited[1] > 0) {
        select->visited[0] += visited[0];
        select->visited[1] += visited[1];
        select->audits++;
    }
    return 0;
}

int session_device_pass(struct session *s, const uint32_t *ids, size_t T, const struct append_options *o,
                        struct err *e)
{
    return run_pass(s, ids, T, o, NULL, e);
}

int session_device_guesses(struct session *s, const uint32_t *ids, size_t n, const struct append_options *o,
                           const size_t *kept, struct err *e)
{
    int rc = run_pass(s, ids, n, o, kept, e);
    if (rc)
        return rc;
    memcpy(s->last_logits, device_session_row(s->device, *kept - 1),
           model_params(s->engine->model)->V * sizeof *s->last_logits);
    device_session_truncate(s->device, s->position + *kept);
    return 0;
}

int session_device_repeat(struct session *s, size_t first, size_t n, struct err *e)
{
    struct session_selection kept = s->selection;
    s->selection = (struct session_selection){.pages = 0};
    s->proving = 1;
    int rc = device_session_replay(s->device, first, e);
    for (size_t at = first; !rc && at < first + n;) {
        size_t T = device_session_next(s->device, first + n - at, 0);
        rc = session_device_pass(s, s->tokens + at, T, NULL, e);
        at += T;
    }
    struct err second; /* the first failure is the one to tell */
    int back = device_session_replayed(s->device, first + n, rc ? &second : e);
    s->proving = 0;
    s->selection = kept;
    return rc ? rc : back;
}

int session_select(struct session *s, size_t pages, size_t recent, size_t audit_every, struct err *e)
{
    if (!s->device && pages)
        return err_set(e, ERR_UNSUPPORTED, "pages are selected on a device alone; --device names one");
    if (pages && pages < s->engine->layout.sink_pages + recent + 1)
        return err_set(e, ERR_USAGE, "%zu pages do not hold the sink and %zu recent ones; choose more", pages,
                       recent);
    s->selection = (struct session_selection){.pages = pages, .recent = recent, .audit_every = audit_every};
    return 0;
}

double session_visited(const struct session *s, size_t *audits)
{
    if (audits)
        *audits = s->selection.audits;
    return s->selection.visited[1] > 0 ? s->selection.visited[0] / s->selection.visited[1] : 1;
}
