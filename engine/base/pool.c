/* SPDX-License-Identifier: Apache-2.0 */
/* pool.c - workers take task numbers from one atomic counter.
 *
 * A step opens a new generation in `state`; a worker that sees it joins, and sleeps in a futex-backed
 * condition when it has waited for SPIN_ROUNDS without news. The spin covers the microseconds between two ops
 * of one forward pass, so that a decode step does not pay a wake-up per op; it ends by itself, so an idle
 * program uses no processor.
 *
 * state = generation << 32 | CLOSED | workers inside. The caller closes the generation when no task is left,
 * and waits for those inside alone: a worker that the system has not let run in time costs nothing.
 */
#include "engine/base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

enum { SPIN_ROUNDS = 20000, THREADS_MAX = 256, CLOSED = 1 << 16, INSIDE = CLOSED - 1 };

struct pool {
    int threads;
    pthread_t *workers; /* [threads - 1] */
    int started;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_uint_fast64_t state;
    atomic_int sleeping;
    atomic_int next; /* next task number */
    atomic_int stop;
    int tasks; /* this and what follows change only while a generation is closed and nobody inside */
    void (*task)(void *arg, int index, int thread);
    void *arg;
};

struct start {
    struct pool *pool;
    int thread;
};

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void take_tasks(struct pool *p, int thread)
{
    for (;;) {
        int i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= p->tasks)
            return;
        p->task(p->arg, i, thread);
    }
}

static uint32_t generation_of(uint_fast64_t state)
{
    return (uint32_t)(state >> 32);
}

static uint_fast64_t wait_for_news(struct pool *p, uint32_t seen)
{
    uint_fast64_t now;
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        now = atomic_load_explicit(&p->state, memory_order_acquire);
        if (generation_of(now) != seen)
            return now;
        cpu_relax();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleeping, 1);
    while (generation_of(now = atomic_load(&p->state)) == seen)
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleeping, 1);
    pthread_mutex_unlock(&p->lock);
    return now;
}

/* Non-zero when the generation of `now` is still open and this worker counts as inside. */
static int join(struct pool *p, uint_fast64_t now)
{
    uint32_t generation = generation_of(now);
    while (generation_of(now) == generation && !(now & CLOSED))
        if (atomic_compare_exchange_weak_explicit(&p->state, &now, now + 1, memory_order_acq_rel,
                                                  memory_order_acquire))
            return 1;
    return 0;
}

static void *worker(void *arg)
{
    struct start *s = arg;
    struct pool *p = s->pool;
    int thread = s->thread;
    free(s);
    uint32_t seen = 0;
    for (;;) {
        uint_fast64_t now = wait_for_news(p, seen);
        if (atomic_load(&p->stop))
            return NULL;
        seen = generation_of(now);
        if (!join(p, now))
            continue;
        take_tasks(p, thread);
        atomic_fetch_sub_explicit(&p->state, 1, memory_order_release);
    }
}

int pool_create(struct pool **out, int threads, struct err *e)
{
    *out = NULL;
    if (threads < 0 || threads > THREADS_MAX)
        return err_set(e, ERR_USAGE, "%d threads asked for; choose 1 to %d", threads, THREADS_MAX);
    if (!threads) {
        cpu_set_t set;
        threads = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
        threads = threads > THREADS_MAX ? THREADS_MAX : threads;
    }
    struct pool *p = calloc(1, sizeof *p);
    if (!p)
        return err_memory(e, "threads");
    p->threads = threads;
    atomic_init(&p->state, CLOSED);
    p->workers = calloc((size_t)threads, sizeof *p->workers);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (int i = 1; p->workers && i < threads; i++) {
        struct start *s = malloc(sizeof *s);
        if (!s)
            break;
        *s = (struct start){.pool = p, .thread = i};
        if (pthread_create(&p->workers[p->started], NULL, worker, s)) {
            free(s);
            break;
        }
        p->started++;
    }
    if (!p->workers || p->started != threads - 1) {
        pool_free(p);
        return err_set(e, ERR_MEMORY, "cannot start %d threads; ask for fewer with --threads", threads);
    }
    *out = p;
    return 0;
}

/* Opens the next generation; only while the last one is closed and empty. */
static void announce(struct pool *p)
{
    uint32_t next = generation_of(atomic_load_explicit(&p->state, memory_order_relaxed)) + 1;
    atomic_store(&p->state, (uint_fast64_t)next << 32);
    if (atomic_load(&p->sleeping)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, 1);
    announce(p);
    for (int i = 0; i < p->started; i++)
        pthread_join(p->workers[i], NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p);
}

int pool_threads(const struct pool *p)
{
    return p ? p->threads : 1;
}

void pool_run(struct pool *p, int tasks, void (*task)(void *arg, int index, int thread), void *arg)
{
    if (!p || p->threads == 1 || tasks <= 1) {
        for (int i = 0; i < tasks; i++)
            task(arg, i, 0);
        return;
    }
    p->tasks = tasks;
    p->task = task;
    p->arg = arg;
    atomic_store(&p->next, 0);
    announce(p);
    take_tasks(p, 0);
    atomic_fetch_or_explicit(&p->state, CLOSED, memory_order_acq_rel);
    /* Those inside finish within one task's time. */
    for (unsigned spins = 0; atomic_load_explicit(&p->state, memory_order_acquire) & INSIDE; spins++) {
        if (spins > SPIN_ROUNDS)
            sched_yield();
        else
            cpu_relax();
    }
}
