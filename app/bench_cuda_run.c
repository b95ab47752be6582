/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cuda_run.c - runs the plans in a child process and collects its rows.
 *
 * A card that met a bad access is lost to the process that caused it, and a kernel may hang. So the parent
 * never opens the device: a child runs plan after plan and sends each row through a pipe; when it dies, says
 * that a plan failed, or is silent for too long, the plan gets a row that says so and a new child goes on
 * with the next. The limits come from the first child that could measure them.
 */
#include "app/bench_cuda_measure.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum message_kind { MESSAGE_INFO, MESSAGE_LIMITS, MESSAGE_ROW, MESSAGE_DONE, MESSAGE_REFUSED };

struct message { /* below PIPE_BUF, so it arrives whole */
    enum message_kind kind;
    int again; /* of MESSAGE_DONE: the child goes on */
    union {
        struct device_info info;
        double limits[CARD_LIMIT_KINDS];
        struct card_row row;
        struct err e;
    } u;
};

/* ---- the child -------------------------------------------------------------------------------------------
 */

static void send_message(int fd, const struct message *m)
{
    const char *p = (const char *)m;
    for (size_t done = 0; done < sizeof *m;) {
        ssize_t n = write(fd, p + done, sizeof *m - done);
        if (n < 0 && errno != EINTR)
            _exit(3); /* nobody listens */
        done += n > 0 ? (size_t)n : 0;
    }
}

static void emit(struct card_run *run, const struct card_row *row)
{
    struct message m = {.kind = MESSAGE_ROW, .u.row = *row};
    send_message(*(int *)run->arg, &m);
}

static void fail_plan(struct card_run *run, const struct card_plan *p, const struct err *e)
{
    struct card_row row;
    card_row_begin(&row, run, p, p->contexts[0]);
    card_row_fail(run, &row, e);
}

/* What leaves the card as it was: the next plan may go on in this process. */
static int harmless(int rc)
{
    return rc == ERR_MEMORY || rc == ERR_LIMIT || rc == ERR_UNSUPPORTED;
}

static int open_card(const struct card_options *o, int fd, struct device **d)
{
    struct message m = {.kind = MESSAGE_REFUSED};
    int rc = device_open(d, o->device, o->library, 0, &m.u.e);
    if (rc) {
        send_message(fd, &m);
        return rc;
    }
    m.kind = MESSAGE_INFO;
    (*d)->ops->info(*d, &m.u.info);
    send_message(fd, &m);
    return 0;
}

static void send_limits(struct device *d, int fd, double limits[CARD_LIMIT_KINDS])
{
    struct message m = {.kind = MESSAGE_LIMITS};
    struct err e;
    card_measure_limits(d, m.u.limits, &e); /* what could not be measured is 0 */
    memcpy(limits, m.u.limits, sizeof m.u.limits);
    send_message(fd, &m);
}

static int child(const struct card_options *o, const struct card_result *r, size_t first, int fd)
{
    struct device *d;
    double limits[CARD_LIMIT_KINDS];
    memcpy(limits, r->limits, sizeof limits);
    if (open_card(o, fd, &d))
        return 0;
    if (!(limits[DEVICE_LIMIT_READ] > 0))
        send_limits(d, fd, limits);
    size_t chunk = o->chunk ? o->chunk : DEVICE_CHUNK_T;
    struct card_run run = {.d = d,
                           .device = o->device,
                           .library = o->library,
                           .shape = o->shape,
                           .chunk = chunk,
                           .limits = limits,
                           .emit = emit,
                           .arg = &fd};
    for (size_t i = first; i < o->n_plans; i++) {
        if (!card_plan_wanted(&o->plans[i], o))
            continue;
        struct err e = {0};
        int rc = card_measure(&run, &o->plans[i], &e);
        struct message done = {.kind = MESSAGE_DONE, .again = !rc || harmless(rc)};
        if (rc)
            fail_plan(&run, &o->plans[i], &e);
        send_message(fd, &done);
        if (!done.again)
            return 0;
    }
    device_close(d);
    return 0;
}

/* ---- the parent ------------------------------------------------------------------------------------------
 */

struct watch {
    const struct card_options *o;
    const struct card_listener *listener;
    struct card_result *r;
    size_t plan; /* the one that runs */
    int refused;
    struct err why;
};

static int keep_row(struct watch *w, const struct card_row *row, struct err *e)
{
    struct card_result *r = w->r;
    if (r->n_rows == r->cap_rows) {
        size_t cap = r->cap_rows ? 2 * r->cap_rows : 64;
        struct card_row *rows = realloc(r->rows, cap * sizeof *rows);
        if (!rows)
            return err_memory(e, "a row");
        r->rows = rows;
        r->cap_rows = cap;
    }
    r->rows[r->n_rows++] = *row;
    if (w->listener && w->listener->row)
        w->listener->row(w->listener->arg, r, &r->rows[r->n_rows - 1]);
    return 0;
}

static size_t next_wanted(const struct card_options *o, size_t i)
{
    while (i < o->n_plans && !card_plan_wanted(&o->plans[i], o))
        i++;
    return i;
}

static int take_message(struct watch *w, const struct message *m, struct err *e)
{
    switch (m->kind) {
    case MESSAGE_INFO:
        w->r->info = m->u.info;
        return 0;
    case MESSAGE_LIMITS:
        memcpy(w->r->limits, m->u.limits, sizeof w->r->limits);
        if (w->listener && w->listener->limits)
            w->listener->limits(w->listener->arg, w->r);
        return 0;
    case MESSAGE_ROW:
        return keep_row(w, &m->u.row, e);
    case MESSAGE_DONE:
        w->plan = next_wanted(w->o, w->plan + 1);
        return 0;
    default:
        w->refused = 1;
        w->why = m->u.e;
        return 0;
    }
}

/* 1 a message, 0 the end, -1 nothing for too long or stopped by the person. */
static int receive(int fd, struct message *m, double seconds, struct cancel *cancel)
{
    size_t have = 0;
    double until = clock_seconds() + seconds;
    while (have < sizeof *m) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (cancel_requested(cancel) || clock_seconds() > until)
            return -1;
        if (poll(&p, 1, 200) <= 0)
            continue;
        ssize_t n = read(fd, (char *)m + have, sizeof *m - have);
        if (n == 0)
            return 0;
        have += n > 0 ? (size_t)n : 0;
    }
    return 1;
}

static int lost_plan(struct watch *w, const char *why, struct err *e)
{
    if (w->plan >= w->o->n_plans)
        return 0;
    const struct card_plan *p = &w->o->plans[w->plan];
    struct card_run run = {.shape = w->o->shape};
    struct card_row row;
    card_row_begin(&row, &run, p, p->contexts[0]);
    row.failed = 1;
    snprintf(row.note, sizeof row.note, "%s", why);
    w->plan = next_wanted(w->o, w->plan + 1);
    return keep_row(w, &row, e);
}

static double patience(const struct watch *w)
{
    return 90 + (w->plan < w->o->n_plans ? 4 * w->o->plans[w->plan].seconds : 0);
}

/* Listens to one child until it ends. */
static int hear(struct watch *w, int fd, pid_t pid, struct err *e)
{
    struct message m;
    size_t before = w->plan;
    int rc = 0, got, failed = 0, status = 0;
    while ((got = receive(fd, &m, patience(w), w->o->cancel)) > 0 && !rc) {
        rc = take_message(w, &m, e);
        failed = m.kind == MESSAGE_DONE && !m.again;
    }
    if (got < 0 || rc)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (rc || w->refused)
        return rc;
    if (cancel_requested(w->o->cancel))
        return err_set(e, ERR_CANCELLED, "stopped");
    if (got < 0)
        return lost_plan(w, "gave up: no result for too long", e);
    if (WIFSIGNALED(status) || WEXITSTATUS(status))
        return lost_plan(w, "the process that measured it died", e);
    if (!failed && w->plan == before)
        return lost_plan(w, "the process that measured it ended early", e);
    return 0;
}

static int one_child(struct watch *w, struct err *e)
{
    int ends[2];
    fflush(NULL); /* or the child would write it again */
    if (pipe(ends))
        return err_errno(e, errno, "a pipe");
    pid_t pid = fork();
    if (pid < 0) {
        int saved = errno;
        close(ends[0]);
        close(ends[1]);
        return err_errno(e, saved, "a child process");
    }
    if (!pid) {
        close(ends[0]);
        _exit(child(w->o, w->r, w->plan, ends[1]));
    }
    close(ends[1]);
    int rc = hear(w, ends[0], pid, e);
    close(ends[0]);
    return rc;
}

int card_bench_run(const struct card_options *options, const struct card_listener *listener,
                   struct card_result *r, struct err *e)
{
    struct card_options o = *options;
    memset(r, 0, sizeof *r);
    if (!o.plans)
        o.plans = card_plans(&o.n_plans);
    struct watch w = {.o = &o, .listener = listener, .r = r, .plan = next_wanted(&o, 0)};
    if (w.plan == o.n_plans)
        return err_set(e, ERR_USAGE, "no row is called %s; lectern bench cuda --rows list names them",
                       o.rows ? o.rows : "so");
    double begun = clock_seconds();
    int rc = 0;
    while (!rc && !w.refused && w.plan < o.n_plans)
        rc = one_child(&w, e);
    r->seconds = clock_seconds() - begun;
    if (!rc && w.refused) {
        *e = w.why;
        rc = w.why.code ? (int)w.why.code : ERR_UNSUPPORTED;
    }
    return rc;
}

void card_result_fini(struct card_result *r)
{
    free(r->rows);
    memset(r, 0, sizeof *r);
}
