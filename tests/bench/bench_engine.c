/* SPDX-License-Identifier: Apache-2.0 */
/* bench_engine.c - tokens a second of reading and answering, whole model.
 *
 *   bench_engine MODEL [ADAPTER_FOLDER] [THREADS]
 *
 * Rows: prefill of 512 and of 4,096 tokens, and decoding of 48 tokens behind 0 and 4,096; every head a
 * retrieval head without an adapter (what llama-bench does on the same file), and with the adapter and its
 * pattern at 50 %. Each figure is the median of RUNS runs. Compare with llama-bench in turns, never with
 * another day's figure.
 */
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/model/model.h"
#include "engine/session.h"

enum { RUNS = 5, DECODE = 48, DEEP = 4096 };

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void fill(uint32_t *ids, size_t n, size_t V)
{
    uint32_t x = 12345;
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        ids[i] = (x >> 8) % (uint32_t)(V - 100) + 50;
    }
}

/* Seconds to append ids[from..to), in pieces of `step`, to a session that holds ids[0..from). */
static int timed(const struct engine *g, const uint32_t *ids, size_t from, size_t to, size_t step,
                 double *seconds, struct err *e)
{
    struct session *s = NULL;
    int rc = session_create(&s, g, e);
    if (!rc && from)
        rc = session_append(s, ids, from, NULL, e);
    double begun = clock_seconds();
    for (size_t at = from; !rc && at < to; at += step)
        rc = session_append(s, ids + at, at + step < to ? step : to - at, NULL, e);
    *seconds = clock_seconds() - begun;
    session_free(s);
    return rc;
}

static int row(const struct engine *g, const char *what, const uint32_t *ids, size_t from, size_t n,
               size_t step, struct err *e)
{
    double seconds[RUNS];
    for (int i = 0; i < RUNS; i++) {
        int rc = timed(g, ids, from, from + n, step, &seconds[i], e);
        if (rc)
            return rc;
    }
    qsort(seconds, RUNS, sizeof seconds[0], by_value);
    printf("%-28s %5zu tokens behind %5zu  median %8.1f  best %8.1f tokens/s\n", what, n, from,
           (double)n / seconds[RUNS / 2], (double)n / seconds[0]);
    fflush(stdout);
    return 0;
}

static int bench(const char *model, const char *adapter, int threads, struct err *e)
{
    struct engine *g = NULL;
    struct engine_options o = {.model_path = model,
                               .adapter_path = adapter,
                               .heads_path = adapter,
                               .sparsity = -1,
                               .sink = -1,
                               .recent = -1,
                               .kv_format = 8,
                               .threads = threads};
    int rc = engine_open(&g, &o, e);
    if (rc)
        return rc;
    const char *what = adapter ? "adapter, half the heads" : "plain, all heads";
    uint32_t *ids = malloc((DEEP + DECODE) * sizeof *ids);
    if (!ids)
        rc = err_memory(e, "token ids");
    else
        fill(ids, DEEP + DECODE, engine_params(g)->V);
    printf("%s, %d threads, %s\n", engine_kernels(g), engine_threads(g), what);
    if (!rc)
        rc = row(g, "prefill", ids, 0, 512, 512, e);
    if (!rc)
        rc = row(g, "prefill", ids, 0, DEEP, DEEP, e);
    if (!rc)
        rc = row(g, "decode", ids, 1, DECODE, 1, e);
    if (!rc)
        rc = row(g, "decode", ids, DEEP, DECODE, 1, e);
    free(ids);
    engine_close(g);
    return rc;
}

int main(int argc, char **argv)
{
    struct err e = {0};
    if (argc < 2) {
        fprintf(stderr, "usage: bench_engine MODEL [ADAPTER_FOLDER] [THREADS]\n");
        return 2;
    }
    int threads = argc > 3 ? atoi(argv[3]) : 0;
    int rc = bench(argv[1], NULL, threads, &e);
    if (!rc && argc > 2)
        rc = bench(argv[1], argv[2], threads, &e);
    if (rc)
        fprintf(stderr, "bench_engine: %s\n", e.text);
    return rc ? 1 : 0;
}
