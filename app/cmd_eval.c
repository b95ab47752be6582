/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_eval.c - perplexity of a text, by the method of llama-perplexity, so that the figures can be compared:
 *
 *   the text (without one newline at its end) is encoded once; windows of N tokens do not overlap and each is
 *   read in a fresh session; its first token is replaced by BOS where the model wants one; positions N/2 to
 *   N-2 predict the token after them. A last window that is not full is left out.
 *   perplexity = exp(mean nll), error = perplexity * sqrt((mean nll^2 - (mean nll)^2) / (count - 1)).
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

struct score {
    const uint32_t *ids; /* of the window */
    size_t N, V;
    size_t count;
    double sum, sum2; /* of nll and its square */
    int broken;       /* a logit was not a number */
};

double eval_log_total(const float *row, size_t V)
{
    float most = row[0];
    for (size_t i = 1; i < V; i++)
        most = row[i] > most ? row[i] : most;
    double total = 0;
    for (size_t i = 0; i < V; i++)
        total += (double)expf(row[i] - most);
    return log(total) + (double)most;
}

static int score_row(void *arg, size_t position, const float *row)
{
    struct score *s = arg;
    if (position + 1 >= s->N)
        return 0;
    double nll = eval_log_total(row, s->V) - (double)row[s->ids[position + 1]];
    if (!isfinite(nll)) {
        s->broken = 1;
        return 1;
    }
    s->sum += nll;
    s->sum2 += nll * nll;
    s->count++;
    return 0;
}

/* Only the second half needs logits; appending in two pieces gives the same bits as in one. */
static int score_window(const struct engine *g, struct score *score, struct err *e)
{
    struct session *s = NULL;
    size_t half = score->N / 2;
    struct append_options first = {.cancel = interrupt_watch()};
    struct append_options second = {.cancel = first.cancel, .logits = score_row, .arg = score};
    int rc = session_create(&s, g, e);
    if (!rc)
        rc = session_append(s, score->ids, half, &first, e);
    if (!rc)
        rc = session_append(s, score->ids + half, score->N - half, &second, e);
    if (score->broken)
        rc = err_set(e, ERR_FORMAT, "the model gave a logit that is not a number");
    session_free(s);
    return rc;
}

static int score_text(const struct config *c, const struct engine *g, struct token_list *list,
                      struct score *score, struct err *e)
{
    const struct tokenizer *t = engine_tokenizer(g);
    size_t windows = list->n / score->N;
    struct progress_line line;
    progress_line_begin(&line, c, "tokens");
    struct progress port = progress_line_port(&line);
    int rc = 0;
    for (size_t w = 0; w < windows && !rc; w++) {
        progress_report(&port, "scoring", w * score->N, windows * score->N);
        score->ids = eval_window(t, list, score->N, w);
        rc = score_window(g, score, e);
    }
    progress_line_end(&line);
    return rc == ERR_CANCELLED ? err_set(e, rc, "stopped; a part of the windows gives no figure") : rc;
}

static int put_result(const struct config *c, const struct score *s, size_t tokens, double seconds,
                      struct err *e)
{
    double mean = s->sum / (double)s->count, perplexity = exp(mean);
    double variance = s->sum2 / (double)s->count - mean * mean;
    double error = s->count > 1 && variance > 0 ? perplexity * sqrt(variance / (double)(s->count - 1)) : 0;
    if (c->json)
        return output_json(json_pack("{s:I, s:f, s:f, s:I, s:i, s:I, s:f}", "scored", (json_int_t)s->count,
                                     "perplexity", perplexity, "standard_error", error, "tokens",
                                     (json_int_t)tokens, "ctx", c->ctx, "windows",
                                     (json_int_t)(tokens / s->N), "seconds", seconds),
                           e);
    return output_printf(e,
                         "tokens scored   %zu of %zu, in %zu windows of %zu\nperplexity      %.4f\n"
                         "standard error  %.5f\n",
                         s->count, tokens, tokens / s->N, s->N, perplexity, error);
}

const uint32_t *eval_window(const struct tokenizer *t, struct token_list *list, size_t N, size_t w)
{
    if (tokenizer_adds_bos(t) && tokenizer_bos(t) != TOKEN_NONE)
        list->ids[w * N] = tokenizer_bos(t);
    return list->ids + w * N;
}

int eval_encode(const struct config *c, const struct tokenizer *t, struct token_list *list, struct err *e)
{
    char *text = NULL;
    size_t n;
    int rc = input_text(c, c->args[0], &text, &n, e);
    if (!rc && n && text[n - 1] == '\n')
        n--;
    if (!rc && tokenizer_adds_bos(t) && tokenizer_bos(t) != TOKEN_NONE)
        rc = token_list_add(list, tokenizer_bos(t), 0, e);
    if (!rc)
        rc = tokenizer_encode(t, text, n, 0, list, interrupt_watch(), e);
    free(text);
    if (!rc && list->n < (size_t)c->ctx)
        rc = err_set(e, ERR_USAGE, "%s has %zu tokens, fewer than one window of %d; choose a smaller --ctx",
                     c->args[0], list->n, c->ctx);
    return rc;
}

int cmd_eval(const struct config *c, struct err *e)
{
    if (c->sub && !strcmp(c->sub, "kv"))
        return cmd_eval_kv(c, e);
    struct engine *g = NULL;
    struct token_list list = {0};
    struct score score = {.N = (size_t)c->ctx};
    double begun = clock_seconds();
    int rc = app_engine_open(c, &g, e);
    if (!rc)
        rc = app_context_check(c, g, score.N, e);
    if (!rc)
        rc = eval_encode(c, engine_tokenizer(g), &list, e);
    if (!rc) {
        score.V = engine_params(g)->V;
        rc = score_text(c, g, &list, &score, e);
    }
    if (!rc)
        rc = put_result(c, &score, list.n, clock_seconds() - begun, e);
    token_list_fini(&list);
    engine_close(g);
    return rc;
}
