/* SPDX-License-Identifier: Apache-2.0 */
/* bench_saving.c - what keeping a reading costs: the share of saving in a real prefill.
 *
 *   bench_saving MODEL ADAPTER_FOLDER TEXT_FILE DATA_DIR [RUNS]
 *
 * Reads the text in pieces of 4,096 tokens, with and without saving in turns: a save goes to a store in
 * DATA_DIR (deleted before and after each run) on a thread of its own while the next piece is computed, as
 * the program does. Printed: medians of wall and CPU seconds either way, and the CPU seconds of the saves
 * alone (the writing threads' and the copies on the reading thread), which a busy machine does not blur.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "app/bench_scratch.h"
#include "data/store/store.h"
#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/session.h"
#include "engine/token/tokenizer.h"

enum { PIECE = 4096, RUNS = 5, MOST_RUNS = 50 };

static double cpu_of_thread(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct run {
    double wall, cpu, saving; /* seconds */
    uint64_t bytes;
};

struct saver {
    struct store *store;
    int64_t session;
    struct session_save *save;
    pthread_t thread;
    int rc;
    double cpu;
    uint64_t bytes;
    struct err err;
};

static int put(void *arg, const struct kv_put *puts, size_t n, struct err *e)
{
    struct saver *v = arg;
    struct span_put spans[64];
    int rc = n <= sizeof spans / sizeof spans[0] ? 0 : err_set(e, ERR_LIMIT, "too many blocks at once");
    for (size_t i = 0; !rc && i < n; i++) {
        spans[i] = (struct span_put){.kind = (int)puts[i].kind,
                                     .key = puts[i].key,
                                     .parent = puts[i].parent,
                                     .parts = puts[i].parts,
                                     .n = puts[i].n,
                                     .position = puts[i].position};
        rc = store_session_ref(v->store, v->session, spans[i].kind, spans[i].key, e);
    }
    return rc ? rc : store_spans_put(v->store, spans, n, e);
}

static void *write_save(void *arg)
{
    struct saver *v = arg;
    struct kv_sink sink = {.put = put, .arg = v};
    double begun = cpu_of_thread();
    v->rc = store_begin(v->store, &v->err);
    if (!v->rc)
        v->rc = store_end(v->store, session_save_put(v->save, &sink, &v->err), &v->err);
    v->cpu += cpu_of_thread() - begun;
    return NULL;
}

static int wait_for_save(struct session *s, struct saver *v, struct err *e)
{
    if (!v->save)
        return 0;
    pthread_join(v->thread, NULL);
    session_save_end(s, v->save, v->rc);
    v->save = NULL;
    if (v->rc)
        *e = v->err;
    return v->rc;
}

static int begin_save(struct session *s, struct saver *v, struct err *e)
{
    int rc = wait_for_save(s, v, e);
    double begun = cpu_of_thread();
    if (!rc)
        rc = session_save_begin(s, &v->save, e);
    if (rc)
        return rc;
    v->bytes += session_save_bytes(v->save);
    v->cpu += cpu_of_thread() - begun;
    if (pthread_create(&v->thread, NULL, write_save, v))
        return err_set(e, ERR_MEMORY, "no thread to be had");
    return 0;
}

static int read_text(const struct engine *g, const struct token_list *ids, struct saver *v, struct err *e)
{
    struct session *s = NULL;
    int rc = session_create(&s, g, e);
    for (size_t at = 0; !rc && at < ids->n; at += PIECE) {
        size_t n = ids->n - at < PIECE ? ids->n - at : PIECE;
        rc = session_append(s, ids->ids + at, n, NULL, e);
        if (!rc && v)
            rc = begin_save(s, v, e);
    }
    struct err second;
    int failed = v ? wait_for_save(s, v, rc ? &second : e) : 0;
    session_free(s);
    return rc ? rc : failed;
}

/* One run; `saves`: with saving. */
static int one(const struct engine *g, const struct token_list *ids, const char *data_dir, int saves,
               struct run *out, struct err *e)
{
    struct bench_scratch scratch = {.lock = -1};
    struct saver v = {.store = NULL};
    int rc = saves ? bench_scratch_make(&scratch, data_dir, e) : 0;
    if (!rc && saves)
        rc = store_open(scratch.path, &v.store, e);
    if (!rc && saves)
        rc = store_session_create(v.store, "text", NULL, &v.session, e);
    double wall = clock_seconds(), cpu = bench_cpu_seconds();
    if (!rc)
        rc = read_text(g, ids, saves ? &v : NULL, e);
    *out = (struct run){
        .wall = clock_seconds() - wall, .cpu = bench_cpu_seconds() - cpu, .saving = v.cpu, .bytes = v.bytes};
    store_close(v.store);
    struct err second;
    int failed = bench_scratch_remove(&scratch, rc ? &second : e);
    return rc ? rc : failed;
}

static void put_row(const char *what, struct run *runs, int n, size_t tokens)
{
    double wall[MOST_RUNS], cpu[MOST_RUNS], saving[MOST_RUNS];
    for (int i = 0; i < n; i++) {
        wall[i] = runs[i].wall;
        cpu[i] = runs[i].cpu;
        saving[i] = runs[i].saving;
    }
    double w = bench_median(wall, n), c = bench_median(cpu, n), s = bench_median(saving, n);
    printf("%-16s %8.2f s %8.0f tokens/s %8.2f CPU s", what, w, (double)tokens / w, c);
    if (runs[0].bytes)
        printf("   saves: %.1f MB, %.3f CPU s, %.2f %% of the CPU time", (double)runs[0].bytes / 1e6, s,
               100 * s / c);
    putchar('\n');
}

static int bench(char **argv, int runs, struct err *e)
{
    struct engine *g = NULL;
    struct engine_options o = {.model_path = argv[1],
                               .adapter_path = argv[2],
                               .heads_path = argv[2],
                               .sparsity = -1,
                               .sink = -1,
                               .recent = -1};
    struct token_list ids = {0};
    struct run with[MOST_RUNS], without[MOST_RUNS];
    char *text = NULL;
    size_t n = 0;
    int rc = engine_open(&g, &o, e);
    if (!rc)
        rc = file_read(argv[3], (size_t)1 << 28, &text, &n, e);
    if (!rc)
        rc = tokenizer_encode(engine_tokenizer(g), text, n, 0, &ids, NULL, e);
    for (int i = 0; !rc && i < runs; i++) {
        rc = one(g, &ids, argv[4], 0, &without[i], e);
        if (!rc)
            rc = one(g, &ids, argv[4], 1, &with[i], e);
    }
    if (!rc) {
        printf("%zu tokens, %zu bytes of KV a token, %s, %d threads, medians of %d runs in turns\n", ids.n,
               engine_kv_bytes_per_token(g), engine_kernels(g), engine_threads(g), runs);
        put_row("without saving", without, runs, ids.n);
        put_row("with saving", with, runs, ids.n);
    }
    free(text);
    token_list_fini(&ids);
    engine_close(g);
    return rc;
}

int main(int argc, char **argv)
{
    struct err e = {0};
    int runs = argc > 5 ? atoi(argv[5]) : RUNS;
    if (argc < 5 || runs < 1 || runs > MOST_RUNS) {
        fprintf(stderr, "usage: bench_saving MODEL ADAPTER_FOLDER TEXT_FILE DATA_DIR [RUNS]\n");
        return 2;
    }
    int rc = bench(argv, runs, &e);
    if (rc)
        fprintf(stderr, "bench_saving: %s\n", e.text);
    return rc ? 1 : 0;
}
