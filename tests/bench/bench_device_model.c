/* SPDX-License-Identifier: Apache-2.0 */
/* bench_device_model.c - a model on a device against the same model on the processor, on a text of at least
 * 4,096 tokens: the same first token at 99.5 % of the places and a mean KL of at most 5e-4; the same bits in
 * two runs; a session saved on either side restored by the other; then how fast it reads and answers.
 *
 * Coded pages make more of a difference in the last bit of a key: it moves a code by a whole step now and
 * then. So there the bound is held over the same pages (each page's tokens follow a restore of what the
 * processor saved), and the whole run is told beside the processor's own kernels in two versions.
 *
 * bench_device_model MODEL TEXT [DEVICE [ADAPTER [pages]]]; DEVICE may be "cpu": then two versions of its
 * kernels are compared. `pages`: the comparison over the same pages alone. Exit 1 when a bound is missed.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/model/model.h"
#include "engine/session.h"
#include "engine/token/tokenizer.h"
#include "kernels/device.h"
#include "tests/support/session_fixture.h"

enum { PLACES = 4096, SLICE = 512, SPEED_TOKENS = 8192, DECODE_TOKENS = 128 };

struct lane {
    float *rows; /* [SLICE][V] of the processor */
    size_t first, V, places, same;
    double kl, most;
    int broken;
};

static int failed;

static void need(int rc, const struct err *e, const char *what)
{
    if (!rc)
        return;
    printf("%s: %s\n", what, e->text);
    exit(1);
}

static void judge(int good, const char *what)
{
    printf("  %s  %s\n", good ? "ok  " : "FAIL", what);
    failed |= !good;
}

static double log_total(const float *row, size_t V, size_t *best)
{
    *best = 0;
    for (size_t i = 1; i < V; i++)
        *best = row[i] > row[*best] ? i : *best;
    double total = 0;
    for (size_t i = 0; i < V; i++)
        total += exp((double)(row[i] - row[*best]));
    return (double)row[*best] + log(total);
}

static int keep_row(void *arg, size_t position, const float *row)
{
    struct lane *w = arg;
    memcpy(w->rows + (position - w->first) * w->V, row, w->V * sizeof *row);
    return 0;
}

static int compare_row(void *arg, size_t position, const float *row)
{
    struct lane *w = arg;
    const float *want = w->rows + (position - w->first) * w->V;
    size_t a, b;
    double p = log_total(want, w->V, &a), q = log_total(row, w->V, &b), kl = 0;
    for (size_t i = 0; i < w->V; i++) {
        double x = (double)want[i] - p;
        kl += exp(x) * (x - ((double)row[i] - q));
    }
    w->places++;
    w->same += a == b;
    w->kl += kl;
    w->most = kl > w->most ? kl : w->most;
    w->broken |= !isfinite(kl);
    return 0;
}

static struct engine *open_on(const char *device, const char *const *argv, int format, const char *kernels,
                              const char *adapter)
{
    struct err e = {0};
    struct engine *g;
    struct engine_options o = {.model_path = argv[1],
                               .adapter_path = adapter,
                               .heads_path = adapter,
                               .sparsity = -1,
                               .sink = -1,
                               .recent = -1,
                               .kv_format = format,
                               .device = device,
                               .kernels = kernels,
                               .context = 16384};
    need(engine_open(&g, &o, &e), &e, device ? device : "cpu");
    return g;
}

/* Both sides read the same pieces. Step 1 on the device: token by token, through its decode path. */
static void compare(const struct engine *cpu, const struct engine *g, const uint32_t *ids, size_t first,
                    size_t step, const char *what, int bound)
{
    struct err e = {0};
    struct lane w = {.V = engine_params(cpu)->V};
    struct session *a = lab_session(cpu), *b = lab_session(g);
    struct append_options keep = {.logits = keep_row, .arg = &w}, look = {.logits = compare_row, .arg = &w};
    w.rows = malloc(SLICE * w.V * sizeof *w.rows);
    if (first) {
        need(session_append(a, ids, first, NULL, &e), &e, "cpu");
        need(session_append(b, ids, first, NULL, &e), &e, "device");
    }
    for (w.first = first; w.first < PLACES; w.first += SLICE) {
        size_t n = PLACES - w.first < SLICE ? PLACES - w.first : SLICE;
        need(session_append(a, ids + w.first, n, &keep, &e), &e, "cpu");
        for (size_t at = 0; at < n; at += step) {
            int rc = session_append(b, ids + w.first + at, n - at < step ? n - at : step, &look, &e);
            need(rc, &e, "device");
        }
    }
    double share = (double)w.same / (double)w.places, kl = w.kl / (double)w.places;
    printf("%-40s %5zu places  top-1 %7.3f %%  KL mean %.2e  max %.2e\n", what, w.places, 100 * share, kl,
           w.most);
    if (bound)
        judge(!w.broken && share >= 0.995 && kl <= 5e-4, what);
    free(w.rows);
    session_free(a);
    session_free(b);
}

/* Page by page over the pages that the processor made. */
static void same_pages(const struct engine *cpu, const struct engine *g, const uint32_t *ids,
                       const char *what)
{
    struct err e = {0};
    struct lane w = {.V = engine_params(cpu)->V};
    struct shelf shelf = {.n = 0};
    struct kv_source source = shelf_source(&shelf);
    struct session *a = lab_session(cpu), *b = lab_session(g);
    struct append_options keep = {.logits = keep_row, .arg = &w}, look = {.logits = compare_row, .arg = &w};
    w.rows = malloc(SLICE * w.V * sizeof *w.rows);
    need(session_append(a, ids, KV_PAGE, NULL, &e), &e, "cpu");
    for (w.first = KV_PAGE; w.first < PLACES + KV_PAGE; w.first += KV_PAGE) {
        lab_save(a, &shelf);
        need(session_rewind(b, NULL, 0, NULL, 0, NULL, &e), &e, "device");
        need(session_restore(b, &source, ids, w.first, NULL, &e), &e, what);
        need(session_append(a, ids + w.first, KV_PAGE, &keep, &e), &e, "cpu");
        need(session_append(b, ids + w.first, KV_PAGE, &look, &e), &e, "device");
    }
    double share = (double)w.same / (double)w.places, kl = w.kl / (double)w.places;
    printf("%-40s %5zu places  top-1 %7.3f %%  KL mean %.2e  max %.2e\n", what, w.places, 100 * share, kl,
           w.most);
    judge(!w.broken && share >= 0.995 && kl <= 5e-4, what);
    free(w.rows);
    session_free(a);
    session_free(b);
    shelf_clear(&shelf);
}

static void restores(const struct engine *from, const struct engine *to, const uint32_t *ids, size_t n,
                     const char *what)
{
    struct err e = {0};
    struct shelf shelf = {.n = 0};
    struct kv_source source = shelf_source(&shelf);
    struct session *a = lab_session(from), *b = lab_session(to);
    struct restore_report report = {.miss = RESTORE_NO_MISS};
    need(session_append(a, ids, n, NULL, &e), &e, what);
    lab_save(a, &shelf);
    double t = clock_seconds();
    int rc = session_restore(b, &source, ids, n, &report, &e);
    printf("%-40s %5zu tokens  %s in %.1f ms, proof %s\n", what, n, rc ? e.text : "restored",
           1e3 * (clock_seconds() - t), report.proof == RESTORE_VERIFIED_BITS ? "bits" : "close");
    judge(!rc, what);
    session_free(a);
    session_free(b);
    shelf_clear(&shelf);
}

static void same_twice(const struct engine *g, const uint32_t *ids)
{
    struct err e = {0};
    size_t V = engine_params(g)->V, n = 3000;
    struct session *s[2];
    for (int i = 0; i < 2; i++) {
        s[i] = lab_session(g);
        need(session_append(s[i], ids, n, NULL, &e), &e, "device");
        for (size_t at = n; at < n + 100; at++)
            need(session_append(s[i], ids + at, 1, NULL, &e), &e, "device");
    }
    judge(!memcmp(session_logits(s[0]), session_logits(s[1]), V * sizeof(float)), "two runs, the same bits");
    session_free(s[0]);
    session_free(s[1]);
}

static void speed(const struct engine *g, const uint32_t *ids, size_t n, const char *what)
{
    struct err e = {0};
    struct session *s = lab_session(g);
    need(session_append(s, ids, 512, NULL, &e), &e, what); /* plans and first use */
    need(session_rewind(s, NULL, 0, NULL, 0, NULL, &e), &e, what);
    double t0 = clock_seconds();
    need(session_append(s, ids, n, NULL, &e), &e, what);
    double t1 = clock_seconds(), t2 = t1;
    for (size_t i = 0; i < DECODE_TOKENS + 8; i++) {
        if (i == 8)
            t2 = clock_seconds(); /* the step is recorded by now */
        need(session_append(s, ids + i, 1, NULL, &e), &e, what);
    }
    double t3 = clock_seconds();
    printf("%-40s %5zu tokens  read at %.0f/s  answered at %.0f/s\n", what, n, (double)n / (t1 - t0),
           DECODE_TOKENS / (t3 - t2));
    session_free(s);
}

/* The yardstick of coded pages: the processor against itself. */
static void two_versions(const char *const *argv, const uint32_t *ids, int format, const char *adapter,
                         const char *what)
{
    char name[96];
    struct engine *best = open_on(NULL, argv, format, NULL, adapter),
                  *other = open_on(NULL, argv, format, "avx2", adapter);
    snprintf(name, sizeof name, "%s, cpu %s and avx2", what, engine_kernels(best));
    compare(best, other, ids, 0, SLICE, name, 0);
    engine_close(other);
    engine_close(best);
}

static void one(const char *const *argv, const char *device, const uint32_t *ids, int format,
                const char *adapter, int pages_alone, const char *what)
{
    char name[96];
    if (!strcmp(device, "cpu")) {
        two_versions(argv, ids, format, adapter, what);
        return;
    }
    struct engine *cpu = open_on(NULL, argv, format, NULL, adapter),
                  *g = open_on(device, argv, format, NULL, adapter);
    snprintf(name, sizeof name, "%s, the same pages", what);
    if (format != KV_RAW)
        same_pages(cpu, g, ids, name);
    if (!pages_alone) {
        snprintf(name, sizeof name, "%s, passes of 512", what);
        compare(cpu, g, ids, 0, SLICE, name, format == KV_RAW);
        snprintf(name, sizeof name, "%s, token by token", what);
        compare(cpu, g, ids, PLACES - SLICE, 1, name, 0);
        snprintf(name, sizeof name, "%s, from device to cpu", what);
        restores(g, cpu, ids, 3333, name);
        snprintf(name, sizeof name, "%s, from cpu to device", what);
        restores(cpu, g, ids, 3333, name);
        snprintf(name, sizeof name, "%s, from device to device", what);
        restores(g, g, ids, 4096, name);
        same_twice(g, ids);
        speed(g, ids, SPEED_TOKENS, what);
    }
    fflush(stdout);
    engine_close(g);
    engine_close(cpu);
}

/* The text's ids, again and again until there are enough. */
static uint32_t *read_ids(const struct engine *g, const char *path, size_t want)
{
    struct err e = {0};
    char *text;
    size_t size, n = 0;
    struct token_list list = {0};
    uint32_t *ids = malloc(want * sizeof *ids);
    need(file_read(path, (size_t)64 << 20, &text, &size, &e), &e, path);
    need(tokenizer_encode(engine_tokenizer(g), text, size, 0, &list, NULL, &e), &e, path);
    printf("%s: %zu tokens\n", path, list.n);
    while (list.n && n < want) {
        ids[n] = list.ids[n % list.n];
        n++;
    }
    token_list_fini(&list);
    free(text);
    return ids;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: bench_device_model MODEL TEXT [DEVICE [ADAPTER [pages]]]\n");
        return 2;
    }
    const char *const *args = (const char *const *)argv;
    const char *device = argc > 3 ? argv[3] : "cuda", *adapter = argc > 4 ? argv[4] : NULL;
    struct engine *g = open_on(NULL, args, 0, NULL, NULL);
    uint32_t *ids = read_ids(g, argv[2], SPEED_TOKENS);
    engine_close(g);
    int pages = argc > 5 && !strcmp(argv[5], "pages");
    if (!pages)
        one(args, device, ids, KV_RAW, NULL, 0, "raw pages, all retrieve");
    one(args, device, ids, KV_8, NULL, pages, "kv8, all retrieve");
    if (!pages || !adapter)
        one(args, device, ids, KV_4, NULL, pages, "kv4, all retrieve");
    if (adapter && !pages)
        one(args, device, ids, KV_RAW, adapter, 0, "raw, adapter, half stream");
    if (adapter)
        one(args, device, ids, KV_4, adapter, pages, "kv4, adapter, half stream");
    free(ids);
    printf("%s\n", failed ? "FAILED" : "all good");
    return failed;
}
