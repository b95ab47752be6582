/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_eval_kv.c - what each KV page format costs and changes, in one table.
 *
 * One engine and its variants read the same windows in step, 64 tokens at a time, so that only a page of the
 * raw format's logits is held. Windows and scored positions are those of cmd_eval.c: N/2 to N-2. At each of
 * them, against raw: KL(raw || format) in nats over the whole vocabulary, whether the likeliest token is the
 * same, and the nll of the token that follows.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "app/commands.h"
#include "app/engine_load.h"
#include "app/eval.h"
#include "app/input.h"
#include "app/interrupt.h"
#include "app/output.h"
#include "engine/base/clock.h"
#include "engine/model/model.h"
#include "kernels/kernels.h"

enum { FORMATS_MAX = 16 };

struct figures {
    int format;
    double kl, kl_most; /* sum, and the largest */
    double nll;         /* sum */
    size_t same;        /* positions whose likeliest token is raw's */
};

struct lockstep {
    const struct engine *base;
    struct engine *engines[FORMATS_MAX];
    struct session *sessions[FORMATS_MAX];
    struct figures figures[FORMATS_MAX]; /* [0] is raw */
    size_t n;
    size_t N, V;
    const uint32_t *ids; /* of the window */
    size_t scored;       /* positions */
    float *rows;         /* [KV_PAGE][V]: raw's logits of this piece */
    double *totals;      /* [KV_PAGE]: their logs of the sum */
    size_t first;        /* position of rows[0] */
    struct figures *now; /* of the format whose logits come in */
    int broken;          /* a logit was not a number */
};

static size_t likeliest(const float *row, size_t V)
{
    size_t best = 0;
    for (size_t i = 1; i < V; i++)
        best = row[i] > row[best] ? i : best;
    return best;
}

/* KL(p || q) of two rows of logits whose logs of the sum are given. */
static double divergence(const float *p, double p_total, const float *q, double q_total, size_t V)
{
    double sum = 0;
    float total = (float)p_total;
    for (size_t i = 0; i < V; i++)
        sum += (double)expf(p[i] - total) * ((double)p[i] - (double)q[i]);
    double kl = sum + q_total - p_total;
    return kl > 0 ? kl : 0; /* rounding alone takes it below */
}

static int take_row(void *arg, size_t position, const float *row)
{
    struct lockstep *k = arg;
    size_t at = position - k->first;
    double total = eval_log_total(row, k->V);
    if (position + 1 >= k->N)
        return 0;
    if (!isfinite(total)) {
        k->broken = 1;
        return 1;
    }
    struct figures *f = k->now;
    f->nll += total - (double)row[k->ids[position + 1]];
    if (f == &k->figures[0]) {
        memcpy(k->rows + at * k->V, row, k->V * sizeof *row);
        k->totals[at] = total;
        f->same++;
        k->scored++;
        return 0;
    }
    const float *raw = k->rows + at * k->V;
    double kl = divergence(raw, k->totals[at], row, total, k->V);
    f->kl += kl;
    f->kl_most = kl > f->kl_most ? kl : f->kl_most;
    f->same += likeliest(raw, k->V) == likeliest(row, k->V);
    return 0;
}

/* Every format reads ids[at..at + n), raw first. */
static int read_piece(struct lockstep *k, size_t at, size_t n, int scoring, struct err *e)
{
    struct append_options options = {.cancel = interrupt_watch(), .arg = k};
    options.logits = scoring ? take_row : NULL;
    k->first = at;
    int rc = 0;
    for (size_t f = 0; !rc && f < k->n; f++) {
        k->now = &k->figures[f];
        rc = session_append(k->sessions[f], k->ids + at, n, &options, e);
        if (k->broken)
            rc = err_set(e, ERR_FORMAT, "the model gave a logit that is not a number with %s",
                         kv_format_name(k->now->format));
    }
    return rc;
}

static void free_sessions(struct lockstep *k)
{
    for (size_t f = 0; f < k->n; f++) {
        session_free(k->sessions[f]);
        k->sessions[f] = NULL;
    }
}

static int score_window(struct lockstep *k, const struct progress *port, size_t done, size_t total,
                        struct err *e)
{
    int rc = 0;
    for (size_t f = 0; !rc && f < k->n; f++)
        rc = session_create(&k->sessions[f], k->engines[f], e);
    size_t half = k->N / 2;
    for (size_t at = 0, n; !rc && at < k->N; at += n) {
        size_t room = (at < half ? half : k->N) - at;
        n = room < KV_PAGE ? room : KV_PAGE;
        progress_report(port, "comparing", done + at, total);
        rc = read_piece(k, at, n, at >= half, e);
    }
    free_sessions(k);
    return rc;
}

static int score_text(const struct config *c, struct lockstep *k, struct token_list *list, struct err *e)
{
    struct progress_line line;
    progress_line_begin(&line, c, "tokens");
    struct progress port = progress_line_port(&line);
    size_t windows = list->n / k->N;
    int rc = 0;
    for (size_t w = 0; !rc && w < windows; w++) {
        k->ids = eval_window(engine_tokenizer(k->base), list, k->N, w);
        rc = score_window(k, &port, w * k->N, windows * k->N, e);
    }
    progress_line_end(&line);
    return rc == ERR_CANCELLED ? err_set(e, rc, "stopped; a part of the windows gives no figure") : rc;
}

static int open_formats(struct lockstep *k, const struct engine *base, struct err *e)
{
    size_t n;
    const int *formats = kv_formats(&n);
    k->base = base;
    k->V = engine_params(base)->V;
    k->rows = malloc((size_t)KV_PAGE * k->V * sizeof *k->rows);
    k->totals = calloc(KV_PAGE, sizeof *k->totals);
    int rc = k->rows && k->totals ? 0 : err_memory(e, "the logits of a page");
    for (size_t i = 0; !rc && i < n && k->n < FORMATS_MAX; i++) {
        rc = engine_variant(&k->engines[k->n], base, formats[i], e);
        if (!rc)
            k->figures[k->n++].format = formats[i];
        if (rc == ERR_UNSUPPORTED) /* a card has no kernels for the experimental ones: no row of theirs */
            rc = 0;
    }
    return rc;
}

static void lockstep_fini(struct lockstep *k)
{
    for (size_t f = 0; f < k->n; f++)
        engine_close(k->engines[f]);
    free(k->rows);
    free(k->totals);
}

static json_t *format_json(const struct lockstep *k, size_t f)
{
    const struct figures *x = &k->figures[f];
    double count = (double)k->scored, perplexity = exp(x->nll / count), raw = exp(k->figures[0].nll / count);
    return json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:f}", "format", kv_format_name(x->format),
                     "bytes_per_token", (json_int_t)engine_kv_bytes_per_token(k->engines[f]), "mean_kl",
                     x->kl / count, "max_kl", x->kl_most, "same_top_1", (double)x->same / count, "perplexity",
                     perplexity, "perplexity_change", perplexity / raw - 1);
}

static int put_json(const struct config *c, const struct lockstep *k, size_t tokens, double seconds,
                    struct err *e)
{
    json_t *formats = json_array();
    for (size_t f = 0; formats && f < k->n; f++)
        if (json_array_append_new(formats, format_json(k, f))) {
            json_decref(formats);
            formats = NULL;
        }
    return output_json(json_pack("{s:o, s:I, s:I, s:i, s:I, s:f}", "formats", formats, "scored",
                                 (json_int_t)k->scored, "tokens", (json_int_t)tokens, "ctx", c->ctx,
                                 "windows", (json_int_t)(tokens / k->N), "seconds", seconds),
                       e);
}

static int put_table(const struct lockstep *k, size_t tokens, struct err *e)
{
    int rc = output_printf(e, "%-6s %11s %10s %10s %8s %11s %9s\n", "format", "bytes/token", "mean KL",
                           "max KL", "top-1 %", "perplexity", "change");
    double count = (double)k->scored, raw = exp(k->figures[0].nll / count);
    for (size_t f = 0; !rc && f < k->n; f++) {
        const struct figures *x = &k->figures[f];
        double perplexity = exp(x->nll / count);
        rc = output_printf(e, "%-6s %11zu %10.2e %10.2e %8.2f %11.4f %+8.3f%%\n", kv_format_name(x->format),
                           engine_kv_bytes_per_token(k->engines[f]), x->kl / count, x->kl_most,
                           100 * (double)x->same / count, perplexity, 100 * (perplexity / raw - 1));
    }
    return rc ? rc
              : output_printf(e, "%zu of %zu tokens scored, in %zu windows of %zu; KL in nats, against raw\n",
                              k->scored, tokens, tokens / k->N, k->N);
}

int cmd_eval_kv(const struct config *c, struct err *e)
{
    struct engine *g = NULL;
    struct token_list list = {0};
    struct lockstep k = {.N = (size_t)c->ctx};
    double begun = clock_seconds();
    int rc = app_engine_open(c, &g, e);
    if (!rc)
        rc = app_context_check(c, g, k.N, e);
    if (!rc)
        rc = eval_encode(c, engine_tokenizer(g), &list, e);
    if (!rc)
        rc = open_formats(&k, g, e);
    if (!rc)
        rc = score_text(c, &k, &list, e);
    if (!rc)
        rc = c->json ? put_json(c, &k, list.n, clock_seconds() - begun, e) : put_table(&k, list.n, e);
    lockstep_fini(&k);
    token_list_fini(&list);
    engine_close(g);
    return rc;
}
