/* SPDX-License-Identifier: Apache-2.0 */
/* transcript.c - the conversation as data and as lines; no drawing.
 *
 * Lines are made once per turn and width. Turns before `laid` have lines, those before `clean` have right
 * ones: clean <= laid <= n_turns outside of a layout. A line's text points into its turn's (or document's)
 * strings, and every change of those lowers `clean` first.
 */
#include "ui/state.h"

#include <stdlib.h>
#include <string.h>

#include "ui/human.h"

enum { INDENT = 2, CITATION_INDENT = 6 };

static void touch(struct talk *t, size_t turn)
{
    if (turn < t->clean)
        t->clean = turn;
}

static void texts_free(char **texts, size_t n)
{
    for (size_t i = 0; texts && i < n; i++)
        free(texts[i]);
    free(texts);
}

static void turn_fini(struct talk_turn *turn)
{
    free(turn->question);
    buf_free(&turn->answer);
    free(turn->trouble);
    texts_free(turn->citation_texts, turn->n_citations);
    ui_citations_free(turn->citations, turn->n_citations);
}

void transcript_free(struct talk *t)
{
    for (size_t i = 0; i < t->n_turns; i++)
        turn_fini(&t->turns[i]);
    free(t->turns);
    free(t->lines);
    texts_free(t->document_texts, t->n_documents);
    ui_documents_free(t->documents, t->n_documents);
    free(t->session);
    wrap_free(&t->wrap);
    struct edit edit = t->edit; /* what is being written outlives the session shown */
    memset(t, 0, sizeof *t);
    t->edit = edit;
    t->follow = 1;
}

static const char *state_word(enum ui_citation_state state)
{
    switch (state) {
    case UI_CITATION_VERIFIED:
        return "verified";
    case UI_CITATION_MOVED:
        return "moved";
    case UI_CITATION_MISSING:
        return "not found";
    case UI_CITATION_PASSAGE:
        return "passage";
    }
    return "";
}

static char *citation_text(const struct ui_citation *c)
{
    struct buf b = {0};
    buf_printf(&b, "[%d] %s", c->number, c->file ? c->file : "");
    if (c->page_label && *c->page_label)
        buf_printf(&b, ", page %s", c->page_label);
    else if (c->page_index >= 0)
        buf_printf(&b, ", page %ld", (long)c->page_index + 1);
    if (c->line_first && c->line_last > c->line_first)
        buf_printf(&b, ", lines %u-%u", (unsigned)c->line_first, (unsigned)c->line_last);
    else if (c->line_first)
        buf_printf(&b, ", line %u", (unsigned)c->line_first);
    buf_printf(&b, " (%s)", state_word(c->state));
    if (c->quote && *c->quote)
        buf_puts(&b, ": \xE2\x80\x9C");
    for (const char *q = c->quote; q && *q; q++)
        buf_putc(&b, *q == '\n' || *q == '\r' ? ' ' : *q);
    if (c->quote && *c->quote)
        buf_puts(&b, "\xE2\x80\x9D");
    return buf_take(&b);
}

static int make_citation_texts(struct talk_turn *turn)
{
    if (!turn->n_citations)
        return 0;
    turn->citation_texts = calloc(turn->n_citations, sizeof *turn->citation_texts);
    if (!turn->citation_texts)
        return -1;
    for (size_t i = 0; i < turn->n_citations; i++)
        if (!(turn->citation_texts[i] = citation_text(&turn->citations[i])))
            return -1;
    return 0;
}

static char *document_text(const struct ui_document *d)
{
    struct buf b = {0};
    buf_puts(&b, d->title && *d->title ? d->title : d->path ? d->path : "");
    if (d->pages)
        buf_printf(&b, ", %u pages", (unsigned)d->pages);
    if (d->pages_without_text)
        buf_printf(&b, " (%u without text)", (unsigned)d->pages_without_text);
    if (d->tokens) {
        buf_puts(&b, ", ");
        human_count(&b, d->tokens);
        buf_puts(&b, " tokens");
    }
    return buf_take(&b);
}

static struct talk_turn *add_turn(struct talk *t)
{
    if (t->n_turns == t->cap_turns) {
        size_t cap = t->cap_turns ? t->cap_turns * 2 : 16;
        struct talk_turn *larger = realloc(t->turns, cap * sizeof *larger);
        if (!larger)
            return NULL;
        t->turns = larger;
        t->cap_turns = cap;
    }
    struct talk_turn *turn = &t->turns[t->n_turns++];
    *turn = (struct talk_turn){.ordinal = -1};
    return turn;
}

static int take_turn(struct talk *t, struct ui_turn *from)
{
    struct talk_turn *turn = add_turn(t);
    if (!turn)
        return -1;
    turn->ordinal = from->ordinal;
    turn->state = TURN_DONE;
    turn->cancelled = from->cancelled;
    turn->question = from->question ? from->question : strdup("");
    from->question = NULL;
    turn->citations = from->citations;
    turn->n_citations = from->n_citations;
    from->citations = NULL;
    from->n_citations = 0;
    if (from->answer)
        buf_puts(&turn->answer, from->answer);
    return !turn->question || turn->answer.failed || make_citation_texts(turn) ? -1 : 0;
}

/* The same session opened again (after an ADD_PATHS) keeps the turns that still wait for their answer. */
static int keep_waiting(struct talk *t, struct talk *old)
{
    for (size_t i = 0; i < old->n_turns; i++) {
        if (old->turns[i].state != TURN_WAITING)
            continue;
        struct talk_turn *turn = add_turn(t);
        if (!turn)
            return -1;
        *turn = old->turns[i];
        old->turns[i] = (struct talk_turn){0};
    }
    return 0;
}

int transcript_open(struct talk *t, struct ui_event *event)
{
    struct talk old = *t;
    memset(t, 0, sizeof *t);
    t->edit = old.edit;
    memset(&old.edit, 0, sizeof old.edit);
    t->follow = 1;
    t->session = event->name ? event->name : strdup("");
    event->name = NULL;
    t->documents = event->documents;
    t->n_documents = event->n_documents;
    event->documents = NULL;
    event->n_documents = 0;
    int failed = !t->session;
    t->document_texts = calloc(t->n_documents + 1, sizeof *t->document_texts);
    failed |= !t->document_texts;
    for (size_t i = 0; !failed && i < t->n_documents; i++)
        failed |= !(t->document_texts[i] = document_text(&t->documents[i]));
    for (size_t i = 0; !failed && i < event->n_turns; i++)
        failed |= take_turn(t, &event->turns[i]) != 0;
    int again = !failed && old.session && strcmp(old.session, t->session) == 0;
    if (again)
        failed |= keep_waiting(t, &old) != 0;
    for (size_t i = 0; !failed && !again && i < t->n_turns; i++)
        failed |= edit_remember(&t->edit, t->turns[i].question) != 0;
    transcript_free(&old);
    return failed ? -1 : 0;
}

int transcript_ask(struct talk *t, const char *question)
{
    struct talk_turn *turn = add_turn(t);
    if (!turn)
        return -1;
    turn->question = strdup(question);
    t->follow = 1;
    return turn->question ? 0 : -1;
}

static struct talk_turn *oldest_waiting(struct talk *t)
{
    for (size_t i = 0; i < t->n_turns; i++)
        if (t->turns[i].state == TURN_WAITING)
            return &t->turns[i];
    return NULL;
}

size_t transcript_waiting(const struct talk *t)
{
    size_t n = 0;
    for (size_t i = t->n_turns; i > 0 && t->turns[i - 1].state == TURN_WAITING; i--)
        n++;
    return n;
}

int transcript_token(struct talk *t, const char *text, size_t n)
{
    struct talk_turn *turn = oldest_waiting(t);
    if (!turn)
        return 0; /* of a session that is no longer shown */
    touch(t, (size_t)(turn - t->turns));
    buf_add(&turn->answer, text, n);
    return turn->answer.failed ? -1 : 0;
}

struct talk_turn *transcript_answer(struct talk *t, struct ui_event *event)
{
    struct talk_turn *turn = oldest_waiting(t);
    if (!turn)
        return NULL;
    touch(t, (size_t)(turn - t->turns));
    turn->state = TURN_DONE;
    turn->ordinal = event->turn;
    turn->cancelled = event->cancelled;
    turn->citations = event->citations;
    turn->n_citations = event->n_citations;
    event->citations = NULL;
    event->n_citations = 0;
    if (make_citation_texts(turn)) {
        texts_free(turn->citation_texts, turn->n_citations);
        ui_citations_free(turn->citations, turn->n_citations);
        turn->citation_texts = NULL;
        turn->citations = NULL;
        turn->n_citations = 0;
    }
    return turn;
}

struct talk_turn *transcript_fail(struct talk *t, const char *line)
{
    struct talk_turn *turn = oldest_waiting(t);
    if (!turn)
        return NULL;
    touch(t, (size_t)(turn - t->turns));
    turn->state = TURN_FAILED;
    turn->trouble = strdup(line);
    return turn;
}

void transcript_drop_last(struct talk *t)
{
    if (!t->n_turns)
        return;
    struct talk_turn *turn = &t->turns[--t->n_turns];
    touch(t, t->n_turns);
    if (t->laid > t->n_turns) {
        t->n_lines = turn->line_first;
        t->laid = t->n_turns;
    }
    turn_fini(turn);
}

const struct talk_turn *transcript_turn(const struct talk *t, int64_t ordinal)
{
    for (size_t i = t->n_turns; i > 0; i--)
        if (t->turns[i - 1].ordinal == ordinal && t->turns[i - 1].state == TURN_DONE)
            return &t->turns[i - 1];
    return NULL;
}

/* ---- lines ---- */

static int add_line(struct talk *t, struct talk_line line)
{
    if (t->n_lines == t->cap_lines) {
        size_t cap = t->cap_lines ? t->cap_lines * 2 : 64;
        struct talk_line *larger = realloc(t->lines, cap * sizeof *larger);
        if (!larger)
            return -1;
        t->lines = larger;
        t->cap_lines = cap;
    }
    t->lines[t->n_lines++] = line;
    return 0;
}

static int add_paragraph(struct talk *t, struct talk_line like, const char *text, size_t n)
{
    int indent = like.kind == LINE_CITATION ? CITATION_INDENT : INDENT;
    if (wrap_text(&t->wrap, text, n, t->columns - indent))
        return -1;
    for (size_t i = 0; i < t->wrap.n; i++) {
        like.starts = i == 0;
        like.text = text + t->wrap.lines[i].first;
        like.n = t->wrap.lines[i].last - t->wrap.lines[i].first;
        if (add_line(t, like))
            return -1;
    }
    return 0;
}

static int add_turn_lines(struct talk *t, size_t index)
{
    struct talk_turn *turn = &t->turns[index];
    struct talk_line line = {.turn = index};
    turn->line_first = t->n_lines;
    if (t->n_lines && add_line(t, line))
        return -1;
    line.kind = LINE_QUESTION;
    if (add_paragraph(t, line, turn->question, strlen(turn->question)))
        return -1;
    line.kind = LINE_ANSWER;
    if (turn->answer.len && add_paragraph(t, line, turn->answer.data, turn->answer.len))
        return -1;
    line.kind = LINE_NOTE;
    const char *note = turn->cancelled ? "(stopped)" : NULL;
    if (turn->state == TURN_WAITING && !turn->answer.len)
        note = "...";
    if (note && add_paragraph(t, line, note, strlen(note)))
        return -1;
    line.kind = LINE_TROUBLE;
    if (turn->trouble && add_paragraph(t, line, turn->trouble, strlen(turn->trouble)))
        return -1;
    line.kind = LINE_CITATION;
    for (size_t i = 0; i < turn->n_citations; i++) {
        line.citation = i;
        if (add_paragraph(t, line, turn->citation_texts[i], strlen(turn->citation_texts[i])))
            return -1;
    }
    return 0;
}

int transcript_layout(struct talk *t, int columns)
{
    size_t anchor_turn = 0, anchor_line = 0;
    int moved = columns != t->columns;
    if (moved && !t->follow && t->top < t->n_lines) { /* keep what is at the top there after a resize */
        anchor_turn = t->lines[t->top].turn;
        anchor_line = t->top - (anchor_turn < t->n_turns ? t->turns[anchor_turn].line_first : 0);
    }
    if (moved || !t->header_clean) {
        t->columns = columns;
        t->n_lines = t->clean = t->laid = 0;
        for (size_t i = 0; i < t->n_documents; i++)
            if (add_paragraph(t, (struct talk_line){.kind = LINE_DOCUMENT}, t->document_texts[i],
                              strlen(t->document_texts[i])))
                return -1;
        t->header_clean = 1;
    }
    if (t->clean < t->laid)
        t->n_lines = t->turns[t->clean].line_first;
    for (t->laid = t->clean; t->clean < t->n_turns; t->laid = ++t->clean)
        if (add_turn_lines(t, t->clean))
            return -1;
    if (moved && !t->follow && anchor_turn < t->n_turns) {
        struct talk_turn *turn = &t->turns[anchor_turn];
        size_t end = anchor_turn + 1 < t->n_turns ? turn[1].line_first : t->n_lines;
        t->top = turn->line_first + anchor_line < end ? turn->line_first + anchor_line : turn->line_first;
    }
    return 0;
}

static size_t last_top(const struct talk *t)
{
    return t->n_lines > (size_t)t->rows ? t->n_lines - (size_t)t->rows : 0;
}

size_t transcript_top(const struct talk *t)
{
    size_t last = last_top(t);
    return t->follow || t->top > last ? last : t->top;
}

void transcript_scroll(struct talk *t, long lines)
{
    size_t top = transcript_top(t), last = last_top(t);
    if (lines < 0)
        t->top = top > (size_t)-lines ? top - (size_t)-lines : 0;
    else
        t->top = last - top > (size_t)lines ? top + (size_t)lines : last;
    t->follow = t->top >= last;
}

int transcript_choose(struct talk *t, int direction)
{
    size_t turn = t->chosen_turn, citation = t->chosen_citation;
    if (!t->has_chosen) { /* begin with the newest answer: its first, or going back its last */
        turn = t->n_turns;
        while (turn > 0 && t->turns[turn - 1].n_citations == 0)
            turn--;
        if (turn == 0)
            return 0;
        turn--;
        citation = direction > 0 ? 0 : t->turns[turn].n_citations - 1;
    } else if (direction > 0 && citation + 1 < t->turns[turn].n_citations) {
        citation++;
    } else if (direction > 0) {
        size_t i = turn + 1;
        while (i < t->n_turns && t->turns[i].n_citations == 0)
            i++;
        if (i >= t->n_turns)
            return 1; /* the last one stays chosen */
        turn = i;
        citation = 0;
    } else if (citation > 0) {
        citation--;
    } else {
        size_t i = turn;
        while (i > 0 && t->turns[i - 1].n_citations == 0)
            i--;
        if (i == 0)
            return 1;
        turn = i - 1;
        citation = t->turns[turn].n_citations - 1;
    }
    t->has_chosen = 1;
    t->chosen_turn = turn;
    t->chosen_citation = citation;
    transcript_show_chosen(t);
    return 1;
}

void transcript_show_chosen(struct talk *t)
{
    size_t first = 0, last = 0, top = transcript_top(t);
    for (size_t i = 0; i < t->n_lines; i++) {
        const struct talk_line *l = &t->lines[i];
        if (l->kind != LINE_CITATION || l->turn != t->chosen_turn || l->citation != t->chosen_citation)
            continue;
        first = l->starts ? i : first;
        last = i;
    }
    if (first < top)
        transcript_scroll(t, (long)first - (long)top);
    else if (t->rows > 0 && last >= top + (size_t)t->rows)
        transcript_scroll(t, (long)(last - top) - t->rows + 1);
}
