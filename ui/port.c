/* SPDX-License-Identifier: Apache-2.0 */
/* port.c - two bounded queues under one mutex, and a pipe that wakes the interface.
 *
 * Invariants: a message is in exactly one place (sender, queue, receiver). `ended` never goes back to 0; when
 * it is set nobody waits any more. Every event puts a byte into the pipe, which is emptied only while the
 * queue is empty, under the same mutex: a wake-up too many costs one empty poll, none is ever missing.
 */
#include "ui/port.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    DEFAULT_CAPACITY = 128,
    TOKEN_MELT_LIMIT = 1 << 16, /* bytes: so that a stalled terminal holds the engine back in the end */
};

struct queued_request {
    struct ui_request request;
    uint64_t sequence;
};

struct ui_port {
    pthread_mutex_t lock;
    pthread_cond_t request_there; /* or ended */
    pthread_cond_t event_room;    /* or ended */
    struct queued_request *requests;
    size_t first_request, n_requests;
    struct ui_event *events;
    size_t first_event, n_events;
    size_t capacity;
    enum ui_request_kind serving; /* taken by the engine and not finished */
    uint64_t sequence;            /* of the last request sent */
    uint64_t cancelled; /* the sequence when the last cancel came: these and earlier ones are stopped */
    int ended;
    int wake[2];
    struct cancel cancel;
};

int port_create(struct ui_port **out, size_t capacity, struct err *e)
{
    *out = NULL;
    if (capacity == 0)
        capacity = DEFAULT_CAPACITY;
    struct ui_port *p = calloc(1, sizeof *p);
    if (!p)
        return err_memory(e, "the interface's port");
    p->capacity = capacity;
    p->requests = calloc(capacity, sizeof *p->requests);
    p->events = calloc(capacity, sizeof *p->events);
    if (!p->requests || !p->events) {
        err_memory(e, "the interface's queues");
        goto fail;
    }
    if (pipe2(p->wake, O_CLOEXEC | O_NONBLOCK) != 0) {
        err_errno(e, errno, "cannot make a pipe for the interface");
        goto fail;
    }
    pthread_condattr_t monotonic;
    if (pthread_condattr_init(&monotonic) != 0) {
        close(p->wake[0]);
        close(p->wake[1]);
        err_memory(e, "the interface's port");
        goto fail;
    }
    /* On Linux none of these can fail once their arguments are valid. */
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->request_there, &monotonic);
    pthread_cond_init(&p->event_room, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *out = p;
    return 0;
fail:
    free(p->requests);
    free(p->events);
    free(p);
    return e ? (int)e->code : ERR_MEMORY;
}

void port_free(struct ui_port *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n_requests; i++)
        ui_request_fini(&p->requests[(p->first_request + i) % p->capacity].request);
    for (size_t i = 0; i < p->n_events; i++)
        ui_event_fini(&p->events[(p->first_event + i) % p->capacity]);
    close(p->wake[0]);
    close(p->wake[1]);
    pthread_cond_destroy(&p->request_there);
    pthread_cond_destroy(&p->event_room);
    pthread_mutex_destroy(&p->lock);
    free(p->requests);
    free(p->events);
    free(p);
}

struct cancel *port_cancel(struct ui_port *p)
{
    return &p->cancel;
}

int port_wake_fd(const struct ui_port *p)
{
    return p->wake[0];
}

static struct timespec deadline_after(double seconds)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    if (seconds > 1e6)
        seconds = 1e6;
    time_t whole = (time_t)seconds;
    t.tv_sec += whole;
    t.tv_nsec += (long)((seconds - (double)whole) * 1e9);
    if (t.tv_nsec >= 1000000000L) {
        t.tv_nsec -= 1000000000L;
        t.tv_sec++;
    }
    return t;
}

/* Appends `more` to the waiting TOKEN event, or leaves both alone (0). */
static int melt_token(struct ui_event *waiting, const struct ui_event *more)
{
    size_t n = waiting->n_text + more->n_text;
    if (n > TOKEN_MELT_LIMIT)
        return 0;
    char *joined = realloc(waiting->text, n + 1);
    if (!joined)
        return 0;
    if (more->n_text)
        memcpy(joined + waiting->n_text, more->text, more->n_text);
    joined[n] = 0;
    waiting->text = joined;
    waiting->n_text = n;
    return 1;
}

/* Tries to unite a new event with the one that waits last; 1 when nothing more has to be queued. */
static int melt(struct ui_port *p, struct ui_event *event)
{
    if (p->n_events == 0)
        return 0;
    struct ui_event *last = &p->events[(p->first_event + p->n_events - 1) % p->capacity];
    if (last->kind != event->kind || last->about != event->about)
        return 0;
    if (event->kind == UI_EVENT_TOKEN)
        return melt_token(last, event);
    if (event->kind != UI_EVENT_PROGRESS && event->kind != UI_EVENT_STATUS)
        return 0;
    ui_event_fini(last);
    *last = *event;
    memset(event, 0, sizeof *event);
    return 1;
}

/* Under the lock: puts the event into the queue, waiting for room; what could not be sent stays in *event. */
static void enqueue(struct ui_port *p, struct ui_event *event)
{
    event->about = p->serving;
    while (!p->ended && !melt(p, event)) {
        if (p->n_events == p->capacity) {
            pthread_cond_wait(&p->event_room, &p->lock);
            continue;
        }
        p->events[(p->first_event + p->n_events) % p->capacity] = *event;
        memset(event, 0, sizeof *event);
        p->n_events++;
        break;
    }
    /* A full pipe already wakes: only "would block" can come back here. */
    ssize_t written = write(p->wake[1], "", 1);
    (void)written;
}

int port_next_request(struct ui_port *p, double timeout_seconds, struct ui_request *out)
{
    memset(out, 0, sizeof *out);
    struct timespec deadline = {0};
    if (timeout_seconds >= 0)
        deadline = deadline_after(timeout_seconds);
    int got = 0, waited = 0;
    pthread_mutex_lock(&p->lock);
    if (p->serving != UI_REQUEST_NONE) {
        struct ui_event finished = {.kind = UI_EVENT_FINISHED};
        enqueue(p, &finished);
        p->serving = UI_REQUEST_NONE;
    }
    while (!p->ended && p->n_requests == 0 && waited != ETIMEDOUT) {
        if (timeout_seconds < 0)
            pthread_cond_wait(&p->request_there, &p->lock);
        else
            waited = pthread_cond_timedwait(&p->request_there, &p->lock, &deadline);
    }
    if (p->ended) {
        out->kind = UI_REQUEST_QUIT;
        got = 1;
    } else if (p->n_requests) {
        struct queued_request *q = &p->requests[p->first_request];
        *out = q->request;
        p->first_request = (p->first_request + 1) % p->capacity;
        p->n_requests--;
        if (q->sequence > p->cancelled)
            atomic_store(&p->cancel.requested, 0);
        p->serving = out->kind;
        got = 1;
    }
    pthread_mutex_unlock(&p->lock);
    return got;
}

int port_send_request(struct ui_port *p, struct ui_request *request, struct err *e)
{
    int status = 0;
    enum ui_request_kind kind = request->kind;
    pthread_mutex_lock(&p->lock);
    uint64_t sequence = ++p->sequence;
    if (kind == UI_REQUEST_CANCEL || kind == UI_REQUEST_QUIT) {
        p->cancelled = sequence;
        atomic_store(&p->cancel.requested, 1);
    }
    if (kind == UI_REQUEST_QUIT) {
        p->ended = 1;
        pthread_cond_broadcast(&p->request_there);
        pthread_cond_broadcast(&p->event_room);
    } else if (p->n_requests < p->capacity) {
        struct queued_request *q = &p->requests[(p->first_request + p->n_requests) % p->capacity];
        q->request = *request;
        q->sequence = sequence;
        memset(request, 0, sizeof *request);
        p->n_requests++;
        pthread_cond_signal(&p->request_there);
    } else if (kind != UI_REQUEST_CANCEL) {
        status = err_set(e, ERR_BUSY, "too much is waiting already; try again when the running step is done");
    }
    pthread_mutex_unlock(&p->lock);
    ui_request_fini(request);
    return status;
}

int port_send_event(struct ui_port *p, struct ui_event *event, struct err *e)
{
    int status = 0;
    if (event->text && event->n_text == 0)
        event->n_text = strlen(event->text);
    pthread_mutex_lock(&p->lock);
    enqueue(p, event);
    if (p->ended)
        status = err_set(e, ERR_CANCELLED, "the interface has ended");
    pthread_mutex_unlock(&p->lock);
    ui_event_fini(event);
    return status;
}

int port_poll_event(struct ui_port *p, struct ui_event *out)
{
    memset(out, 0, sizeof *out);
    int got = 0;
    pthread_mutex_lock(&p->lock);
    if (p->n_events) {
        struct ui_event *slot = &p->events[p->first_event];
        *out = *slot;
        memset(slot, 0, sizeof *slot);
        p->first_event = (p->first_event + 1) % p->capacity;
        p->n_events--;
        pthread_cond_signal(&p->event_room);
        got = 1;
    } else {
        char bytes[256];
        while (read(p->wake[0], bytes, sizeof bytes) > 0)
            ;
    }
    pthread_mutex_unlock(&p->lock);
    return got;
}

static int send_line(struct ui_port *p, enum ui_event_kind kind, const char *text, size_t n, struct err *e)
{
    struct ui_event event = {.kind = kind};
    if (ui_event_text(&event, text, n))
        return err_memory(e, "a message to the interface");
    return port_send_event(p, &event, e);
}

int port_send_token(struct ui_port *p, const char *text, size_t n, struct err *e)
{
    return n ? send_line(p, UI_EVENT_TOKEN, text, n, e) : 0;
}

int port_send_progress(struct ui_port *p, const char *what, uint64_t done, uint64_t total, double rate,
                       double eta_seconds, struct err *e)
{
    struct ui_event event = {
        .kind = UI_EVENT_PROGRESS, .done = done, .total = total, .rate = rate, .eta_seconds = eta_seconds};
    if (what && ui_event_text(&event, what, strlen(what)))
        return err_memory(e, "a message to the interface");
    return port_send_event(p, &event, e);
}

int port_send_error(struct ui_port *p, const char *line, struct err *e)
{
    return send_line(p, UI_EVENT_ERROR, line ? line : "", line ? strlen(line) : 0, e);
}

int port_send_notice(struct ui_port *p, const char *line, struct err *e)
{
    return send_line(p, UI_EVENT_NOTICE, line ? line : "", line ? strlen(line) : 0, e);
}
