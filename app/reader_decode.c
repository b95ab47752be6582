/* SPDX-License-Identifier: Apache-2.0 */
/* reader_decode.c - an answer, token by token: chosen, told, appended.
 *
 * An answer that quotes goes on as its source did, so each pass through the model also tries what followed
 * the like of it in the timeline (engine/speculate.h). A guess counts only when the very token that the
 * logits before it choose is the same, so answer, timeline and attention are those of one token a pass.
 */
#include "app/reader_internal.h"

#include "engine/model/model.h"
#include "engine/sample.h"
#include "engine/speculate.h"

enum { PIECE_BYTES = 512 };

struct decoding {
    struct reader *r;
    const struct reader_question *q;
    struct reader_answer *out;
    struct buf *text;
    struct sampler *sampler;
    double begun, first; /* seconds; first: of the first token, 0 before it */
    uint32_t id;         /* the last one chosen, told to the person */
    int pending;         /* it is not in the timeline and will be */
    int ended;           /* by a stop token, the person, or a failure */
    uint32_t ids[SESSION_GUESSES];
    int rc;
    struct err *e;
};

/* The text of d->id, to buffer and person. */
static void tell(struct decoding *d)
{
    char piece[PIECE_BYTES];
    size_t n = tokenizer_piece(engine_tokenizer(d->r->o.engine), d->id, piece, sizeof piece, 0), skip = 0;
    while (!d->text->len && skip < n && (piece[skip] == ' ' || piece[skip] == '\n'))
        skip++;
    buf_add(d->text, piece + skip, n - skip);
    d->out->usage.generated++;
    if (!d->first) {
        d->first = clock_seconds();
        d->out->usage.first_token_seconds = d->first - d->begun;
    }
    if (d->q->token && n > skip && d->q->token(d->q->arg, piece + skip, n - skip)) {
        d->out->cancelled = 1;
        d->ended = 1;
    }
}

/* Chooses and tells the next token; 0 when there is none to append. */
static int choose(struct decoding *d, const float *logits)
{
    size_t id = sampler_next(d->sampler, logits);
    d->ended = 1;
    if (id >= engine_params(d->r->o.engine)->V) {
        d->rc = err_set(d->e, ERR_FORMAT,
                        "the model's output is not a number; its file may be damaged: download it again");
        return 0;
    }
    if (chat_is_stop(d->r->chat, (uint32_t)id)) {
        d->out->truncated = 0;
        return 0;
    }
    d->ended = 0;
    d->id = (uint32_t)id;
    if (!d->q->one_by_one)
        d->rc = guesser_add(d->r->guesser, d->id, d->e);
    tell(d);
    d->ended |= d->rc != 0;
    return !d->ended;
}

/* session_append_guesses asks whether guess i + 1 is what the model says, too. */
static int right(void *arg, size_t i, const float *logits)
{
    struct decoding *d = arg;
    if (!choose(d, logits))
        return 0;
    d->pending = d->id != d->ids[i + 1];
    return !d->pending;
}

/* One pass: the chosen token, and guesses behind it as far as the answer may still go. */
static int pass(struct decoding *d, const struct append_options *options)
{
    size_t left = (size_t)d->q->max_tokens - d->out->usage.generated, n = 1, kept;
    d->ids[0] = d->id;
    if (!d->q->one_by_one)
        n +=
            guesser_guess(d->r->guesser, d->ids + 1, left < SESSION_GUESSES - 1 ? left : SESSION_GUESSES - 1);
    d->pending = 0;
    int rc = session_append_guesses(d->r->timeline, d->ids, n, options, right, d, &kept, d->e);
    d->out->usage.passes++;
    d->out->usage.appended += kept;
    return rc ? rc : d->rc;
}

static int begin_guesses(struct reader *r, struct err *e)
{
    int rc = r->guesser ? 0 : guesser_create(&r->guesser, e);
    return rc ? rc
              : guesser_follow(r->guesser, session_tokens(r->timeline), session_position(r->timeline), e);
}

int reader_decode(struct reader *r, const struct reader_question *q, const struct append_options *options,
                  struct buf *text, struct reader_answer *out, double begun, struct err *e)
{
    struct decoding d = {.r = r, .q = q, .out = out, .text = text, .begun = begun, .e = e};
    struct sample_options how = {.temperature = q->temperature, .top_p = q->top_p, .seed = q->seed};
    int rc = sampler_create(&how, engine_params(r->o.engine)->V, &d.sampler, e);
    if (!rc && !q->one_by_one)
        rc = begin_guesses(r, e);
    r->answer_ended = 0;
    out->truncated = q->max_tokens > 0;
    while (!rc && !d.ended) {
        if (!d.pending) {
            if (out->usage.generated >= (size_t)q->max_tokens || !choose(&d, session_logits(r->timeline)))
                break;
        }
        rc = pass(&d, options);
    }
    rc = rc ? rc : d.rc;
    if (rc == ERR_CANCELLED) {
        out->cancelled = 1;
        rc = 0;
    }
    out->truncated = out->truncated && !out->cancelled;
    out->usage.decode_seconds = d.first ? clock_seconds() - d.first : 0;
    sampler_free(d.sampler);
    return rc;
}
