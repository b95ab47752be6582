/* SPDX-License-Identifier: Apache-2.0 */
/* view_source.c - the text of a cited page with the quoted words marked; from citation to citation and back.
 */
#include <stdio.h>
#include <string.h>

#include "ui/state.h"

enum { WHEEL_LINES = 3 };

static size_t last_top(const struct source *s)
{
    return s->wrap.n > (size_t)s->rows ? s->wrap.n - (size_t)s->rows : 0;
}

static void scroll(struct source *s, long lines)
{
    size_t last = last_top(s);
    if (lines < 0)
        s->top = s->top > (size_t)-lines ? s->top - (size_t)-lines : 0;
    else
        s->top = s->top + (size_t)lines < last ? s->top + (size_t)lines : last;
}

/* The citation before or after the one shown, in the same answer. */
static void go(struct ui *ui, int direction)
{
    struct talk *t = &ui->talk;
    const struct talk_turn *turn = transcript_turn(t, ui->source.turn);
    for (size_t i = 0; turn && i < turn->n_citations; i++) {
        if (turn->citations[i].number != ui->source.number)
            continue;
        size_t to = direction > 0 ? i + 1 : i - 1; /* i - 1 wraps beyond n for the first */
        if (to >= turn->n_citations)
            break;
        t->has_chosen = 1;
        t->chosen_turn = (size_t)(turn - t->turns);
        t->chosen_citation = to;
        ui_ask_source(ui, turn->ordinal, turn->citations[to].number);
        return;
    }
    ui_message(ui, 0, direction > 0 ? "This is the last citation of the answer." : "This is the first one.");
}

static void run(struct ui *ui, enum keys_command command, const struct ui_key *key)
{
    struct source *s = &ui->source;
    int page = s->rows > 1 ? s->rows - 1 : 1;
    (void)key;
    switch (command) {
    case DO_UP:
        scroll(s, -1);
        break;
    case DO_DOWN:
        scroll(s, 1);
        break;
    case DO_PAGE_UP:
        scroll(s, -page);
        break;
    case DO_PAGE_DOWN:
        scroll(s, page);
        break;
    case DO_WHEEL_UP:
        scroll(s, -WHEEL_LINES);
        break;
    case DO_WHEEL_DOWN:
        scroll(s, WHEEL_LINES);
        break;
    case DO_TOP:
        s->top = 0;
        break;
    case DO_BOTTOM:
        s->top = last_top(s);
        break;
    case DO_NEXT:
        go(ui, 1);
        break;
    case DO_PREVIOUS:
        go(ui, -1);
        break;
    case DO_BACK:
        ui_view(ui, &view_talk);
        break;
    default:
        break;
    }
}

/* Brings the marked words a third of the way down the view. */
static void show_mark(struct source *s)
{
    size_t line = 0;
    while (line < s->wrap.n && s->wrap.lines[line].last <= s->mark_first)
        line++;
    s->top = 0;
    if (s->mark_last > s->mark_first && line < s->wrap.n)
        s->top = line > (size_t)s->rows / 3 ? line - (size_t)s->rows / 3 : 0;
    if (s->top > last_top(s))
        s->top = last_top(s);
    s->shows_mark = 1;
}

static void draw_line(struct ui *ui, int row, int columns, struct wrap_line line)
{
    const struct source *s = &ui->source;
    size_t from = s->mark_first > line.first ? s->mark_first : line.first;
    size_t to = s->mark_last < line.last ? s->mark_last : line.last;
    if (from >= to)
        from = to = line.last;
    int column = frame_put(&ui->frame, row, 1, columns, FRAME_PLAIN, s->text + line.first, from - line.first);
    column = frame_put(&ui->frame, row, column, columns, FRAME_MARK, s->text + from, to - from);
    frame_put(&ui->frame, row, column, columns, FRAME_PLAIN, s->text + to, line.last - to);
}

static void draw(struct ui *ui, struct place place)
{
    struct source *s = &ui->source;
    char number[32];
    snprintf(number, sizeof number, "[%d] ", s->number);
    int column = frame_puts(&ui->frame, place.top, 1, FRAME_LINK, number);
    frame_puts(&ui->frame, place.top, column, FRAME_STRONG, s->title);
    s->rows = place.rows > 2 ? place.rows - 2 : 1;
    if (s->columns != place.columns) {
        size_t at = s->top < s->wrap.n ? s->wrap.lines[s->top].first : 0;
        if (ui_memory(ui, wrap_text(&s->wrap, s->text ? s->text : "", s->n_text, place.columns - 2)))
            return;
        s->columns = place.columns;
        s->top = 0;
        while (s->top + 1 < s->wrap.n && s->wrap.lines[s->top + 1].first <= at)
            s->top++;
    }
    if (!s->shows_mark)
        show_mark(s);
    if (s->top > last_top(s))
        s->top = last_top(s);
    for (int i = 0; i < s->rows && s->top + (size_t)i < s->wrap.n; i++)
        draw_line(ui, place.top + 2 + i, place.columns, s->wrap.lines[s->top + (size_t)i]);
    if (!s->wrap.n)
        frame_puts(&ui->frame, place.top + 2, 1, FRAME_FAINT, "This page has no text.");
}

static void hints(const struct ui *ui, struct buf *out)
{
    (void)ui;
    buf_puts(out, "[ ] citations  Esc back  ? help");
}

const struct view view_source = {
    .name = "source", .context = IN_SOURCE, .run = run, .draw = draw, .hints = hints};
