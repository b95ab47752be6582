/* SPDX-License-Identifier: Apache-2.0 */
/* view_talk.c - the conversation: questions, streamed answers, their citations, and the input line.
 *
 * Nothing written is lost: the draft survives every change of view and of session, and a question that was
 * stopped before its answer began comes back into an empty input line.
 */
#include <string.h>

#include "ui/state.h"

enum { WHEEL_LINES = 3 };

static void open_citation(struct ui *ui, const struct talk_turn *turn, size_t index)
{
    if (ui_ask_source(ui, turn->ordinal, turn->citations[index].number) == 0 && ui_busy(ui))
        ui_message(ui, 0, "The source opens as soon as the running step lets go.");
}

static void open_chosen(struct ui *ui)
{
    struct talk *t = &ui->talk;
    if (!t->has_chosen && !transcript_choose(t, 1)) {
        ui_message(ui, 0, "There is no citation yet.");
        return;
    }
    open_citation(ui, &t->turns[t->chosen_turn], t->chosen_citation);
}

/* The citation numbered so in the turn of the chosen one, or in the newest answer that has any. */
static void open_number(struct ui *ui, int number)
{
    struct talk *t = &ui->talk;
    size_t turn = t->n_turns;
    while (turn > 0 && t->turns[turn - 1].n_citations == 0)
        turn--;
    if (t->has_chosen)
        turn = t->chosen_turn + 1;
    for (size_t i = 0; turn > 0 && i < t->turns[turn - 1].n_citations; i++) {
        if (t->turns[turn - 1].citations[i].number != number)
            continue;
        t->has_chosen = 1;
        t->chosen_turn = turn - 1;
        t->chosen_citation = i;
        transcript_show_chosen(t);
        open_citation(ui, &t->turns[turn - 1], i);
        return;
    }
    ui_message(ui, 0, "No citation has that number.");
}

static void ask(struct ui *ui)
{
    struct talk *t = &ui->talk;
    if (edit_is_blank(&t->edit))
        return;
    if (!t->session && !ui_opening(ui)) {
        ui_message(ui, 1, "No session is open: choose one in the library (Tab) or add a file there.");
        return;
    }
    const char *question = edit_text(&t->edit);
    if (ui_memory(ui, transcript_ask(t, question)))
        return;
    if (ui_ask(ui, question)) { /* the queue is full: everything stays as it was */
        transcript_drop_last(t);
        return;
    }
    if (ui_memory(ui, edit_remember(&t->edit, question)))
        return;
    edit_clear(&t->edit);
    t->has_chosen = 0;
}

static void click(struct ui *ui, int row)
{
    struct talk *t = &ui->talk;
    size_t at = transcript_top(t) + (size_t)(row - t->first_row);
    if (row < t->first_row || row >= t->first_row + t->rows || at >= t->n_lines)
        return;
    const struct talk_line *line = &t->lines[at];
    if (line->kind != LINE_CITATION)
        return;
    t->has_chosen = 1;
    t->chosen_turn = line->turn;
    t->chosen_citation = line->citation;
    open_chosen(ui);
}

static void choose(struct ui *ui, int direction)
{
    if (!transcript_choose(&ui->talk, direction))
        ui_message(ui, 0, "There is no citation yet.");
}

static void run(struct ui *ui, enum keys_command command, const struct ui_key *key)
{
    struct talk *t = &ui->talk;
    int page = t->rows > 1 ? t->rows - 1 : 1;
    if (command >= DO_LEFT) {
        ui_memory(ui, edit_do(&t->edit, (enum edit_command)(command - DO_LEFT)));
        return;
    }
    switch (command) {
    case DO_ASK:
        ask(ui);
        break;
    case DO_OPEN_CHOSEN:
        if (t->has_chosen)
            open_chosen(ui);
        break;
    case DO_SOURCE:
        open_chosen(ui);
        break;
    case DO_NEXT:
        choose(ui, 1);
        break;
    case DO_PREVIOUS:
        choose(ui, -1);
        break;
    case DO_NUMBER:
        open_number(ui, (int)(key->code - UIK_ALT('0')));
        break;
    case DO_ADD:
        prompt_open(ui, PROMPT_ADD, t->session);
        break;
    case DO_REFRESH:
        if (t->session)
            ui_ask_named(ui, UI_REQUEST_REFRESH, t->session, NULL);
        break;
    case DO_PAGE_UP:
        transcript_scroll(t, -page);
        break;
    case DO_PAGE_DOWN:
        transcript_scroll(t, page);
        break;
    case DO_WHEEL_UP:
        transcript_scroll(t, -WHEEL_LINES);
        break;
    case DO_WHEEL_DOWN:
        transcript_scroll(t, WHEEL_LINES);
        break;
    case DO_CLICK:
        click(ui, key->row);
        break;
    default:
        break;
    }
}

static void draw_line(struct ui *ui, int row, int columns, const struct talk_line *line)
{
    static const struct {
        enum frame_style style;
        int indent;
        const char *mark; /* before the first line */
    } kinds[] = {
        [LINE_BLANK] = {FRAME_PLAIN, 0, ""},       [LINE_DOCUMENT] = {FRAME_FAINT, 2, "# "},
        [LINE_QUESTION] = {FRAME_STRONG, 2, "> "}, [LINE_ANSWER] = {FRAME_PLAIN, 2, ""},
        [LINE_CITATION] = {FRAME_LINK, 2, ""},     [LINE_NOTE] = {FRAME_FAINT, 2, ""},
        [LINE_TROUBLE] = {FRAME_ALARM, 2, "! "},
    };
    const struct talk *t = &ui->talk;
    enum frame_style style = kinds[line->kind].style;
    int indent = kinds[line->kind].indent;
    if (line->kind == LINE_CITATION) {
        if (t->has_chosen && t->chosen_turn == line->turn && t->chosen_citation == line->citation)
            style = FRAME_SELECTED;
        indent = line->starts ? 2 : 6;
    }
    if (line->starts)
        frame_puts(&ui->frame, row, 0, style, kinds[line->kind].mark);
    frame_put(&ui->frame, row, indent, columns, style, line->text, line->n);
}

static void draw(struct ui *ui, struct place place)
{
    struct talk *t = &ui->talk;
    t->first_row = place.top;
    t->rows = place.rows;
    if (ui_memory(ui, transcript_layout(t, place.columns)))
        return;
    if (!t->n_lines) {
        const char *text = ui_opening(ui) ? "Opening..."
                           : t->session   ? "Ask something about what was read."
                                          : "No session is open. Tab shows the library.";
        frame_puts(&ui->frame, place.top + 1, 2, FRAME_FAINT, text);
        return;
    }
    size_t top = transcript_top(t);
    for (int i = 0; i < place.rows && top + (size_t)i < t->n_lines; i++)
        draw_line(ui, place.top + i, place.columns, &t->lines[top + (size_t)i]);
}

static void hints(const struct ui *ui, struct buf *out)
{
    if (!ui->talk.follow)
        buf_puts(out, "PgDn more  F1 help");
    else
        buf_puts(out, ui_busy(ui) ? "Esc stop  F1 help" : "Tab library  F1 help");
}

const struct view view_talk = {
    .name = "conversation", .context = IN_TALK, .run = run, .draw = draw, .hints = hints};
