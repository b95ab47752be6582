/* SPDX-License-Identifier: Apache-2.0 */
/* span_check.c - holds a payload against its checksums, by several threads when it is long.
 *
 * By pread, not through a mapping: a bad sector is then an error and not a signal. One thread cannot sum as
 * fast as a good disk delivers, so up to WORKERS take pieces in turn, and one more asks for the span behind
 * this one, which is mostly the next of its chain. Threads that are not to be had are done without.
 * Invariant: pieces are taken in order and each one taken is finished, so the damage that is told is the
 * first.
 */
#include "data/store/store_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/base/bytes.h"

/* The step is what every kernel grants whole; it cuts larger hints short without a word. */
enum {
    WORKERS = 3,
    PIECE = 4 * SEGMENT_GROUP,
    LONG = 4 << 20,
    AHEAD_LEAST = 1 << 20,
    AHEAD_STEP = 256 * 1024
};

struct check {
    const struct span_row *row;
    int fd;
    atomic_uint_least64_t next,
        bad; /* byte of the payload: where the next piece begins; first damaged group */
};

static void found_bad(struct check *c, uint64_t at)
{
    uint64_t known = atomic_load(&c->bad);
    while (at < known && !atomic_compare_exchange_weak(&c->bad, &known, at))
        ;
}

static void check_piece(struct check *c, uint64_t at, size_t n, uint8_t *bytes)
{
    size_t have = 0;
    while (have < n) {
        ssize_t got = pread(c->fd, bytes + have, n - have, (off_t)(c->row->offset + at + have));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    for (size_t i = 0; i < n; i += SEGMENT_GROUP) {
        size_t size = n - i < SEGMENT_GROUP ? n - i : SEGMENT_GROUP;
        struct reader sum = reader_over(c->row->sums + 8 * ((at + i) / SEGMENT_GROUP), 8);
        if (have < i + size || XXH3_64bits(bytes + i, size) != read_u64(&sum)) {
            found_bad(c, at + i);
            return;
        }
    }
}

/* Non-zero: no memory for it. */
static int check_some(struct check *c)
{
    uint64_t size = c->row->info.size;
    uint8_t *bytes = malloc(size < PIECE ? (size_t)size + 1 : PIECE);
    if (!bytes)
        return 1;
    for (;;) {
        uint64_t at = atomic_fetch_add(&c->next, PIECE);
        if (at >= size || at > atomic_load(&c->bad))
            break;
        check_piece(c, at, size - at < PIECE ? (size_t)(size - at) : PIECE, bytes);
    }
    free(bytes);
    return 0;
}

static void *help(void *arg)
{
    (void)check_some(arg);
    return NULL;
}

static int start(pthread_t *thread, void *(*run)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all); /* signals are the program's, not the helper's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

/* ---- reading ahead --------------------------------------------------------------------------------------
 */

struct ahead {
    int fd, on;
    uint64_t from, end;
    pthread_t thread;
};

static void *read_ahead(void *arg)
{
    const struct ahead *a = arg;
    for (uint64_t at = a->from; at < a->end; at += AHEAD_STEP) /* hints: what fails is read later */
        (void)posix_fadvise(a->fd, (off_t)at, AHEAD_STEP, POSIX_FADV_WILLNEED);
    return NULL;
}

/* Asks for what was not asked for yet of [from, end). */
static void ahead_start(struct ahead *a, struct segment *seg, uint64_t from, uint64_t end)
{
    from = seg->asked > from && seg->asked <= end ? seg->asked : from;
    *a = (struct ahead){.fd = seg->fd, .from = from, .end = end};
    a->on = end > from && end - from >= AHEAD_LEAST && !start(&a->thread, read_ahead, a);
    if (a->on)
        seg->asked = end;
}

void span_row_ahead(const struct span_row *r, struct segment *seg)
{
    struct ahead a;
    ahead_start(&a, seg, r->offset, r->offset + 2 * r->info.size);
    if (a.on)
        pthread_join(a.thread, NULL);
}

int span_row_payload(const struct span_row *r, struct segment *seg, struct err *e)
{
    struct check c = {.row = r, .fd = seg->fd};
    atomic_init(&c.next, 0);
    atomic_init(&c.bad, UINT64_MAX);
    pthread_t helpers[WORKERS - 1];
    int n = 0;
    struct ahead ahead;
    uint64_t end = r->offset + r->info.size;
    while (r->info.size >= LONG && n < WORKERS - 1 && !start(&helpers[n], help, &c))
        n++;
    ahead_start(&ahead, seg, end, end + r->info.size);
    int no_memory = check_some(&c);
    for (int i = 0; i < n; i++)
        pthread_join(helpers[i], NULL);
    if (ahead.on)
        pthread_join(ahead.thread, NULL);
    uint64_t bad = atomic_load(&c.bad);
    if (bad != UINT64_MAX)
        return err_set(e, ERR_FORMAT, "%s is damaged at byte %llu; it will be read again from the document",
                       seg->path, (unsigned long long)(r->offset + bad));
    return no_memory ? err_memory(e, "a page group") : 0;
}
