/* SPDX-License-Identifier: Apache-2.0 */
/* view_library.c - the list of sessions: what they hold, what it costs on disk, when they were last read.
 *
 * Invariant: chosen < n_rows unless there is no row; a new list keeps the same session chosen.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "ui/filter.h"
#include "ui/human.h"
#include "ui/state.h"

static void enter(struct ui *ui)
{
    ui_ask_list(ui);
}

static const char *chosen_name(const struct ui *ui)
{
    const struct library *l = &ui->library;
    return l->n_rows ? l->rows[l->chosen].name : NULL;
}

static void open_chosen(struct ui *ui)
{
    const char *name = chosen_name(ui);
    if (name && ui_ask_named(ui, UI_REQUEST_OPEN_SESSION, name, NULL) == 0)
        ui->to_talk = 1;
}

static void move(struct library *l, long by)
{
    if (l->n_rows == 0)
        return;
    long at = (long)l->chosen + by, last = (long)l->n_rows - 1;
    l->chosen = (size_t)(at < 0 ? 0 : at > last ? last : at);
}

static void click(struct ui *ui, int row)
{
    struct library *l = &ui->library;
    if (row < l->first_row || row >= l->first_row + l->n_drawn)
        return;
    size_t index = l->top + (size_t)(row - l->first_row);
    if (index == l->chosen)
        open_chosen(ui);
    l->chosen = index;
}

static void run(struct ui *ui, enum keys_command command, const struct ui_key *key)
{
    struct library *l = &ui->library;
    int page = l->n_drawn > 1 ? l->n_drawn - 1 : 1;
    switch (command) {
    case DO_UP:
    case DO_WHEEL_UP:
        move(l, -1);
        break;
    case DO_DOWN:
    case DO_WHEEL_DOWN:
        move(l, 1);
        break;
    case DO_PAGE_UP:
        move(l, -page);
        break;
    case DO_PAGE_DOWN:
        move(l, page);
        break;
    case DO_TOP:
        l->chosen = 0;
        break;
    case DO_BOTTOM:
        l->chosen = l->n_rows ? l->n_rows - 1 : 0;
        break;
    case DO_OPEN:
        open_chosen(ui);
        break;
    case DO_ADD:
        prompt_open(ui, PROMPT_ADD, NULL);
        break;
    case DO_RENAME:
        if (chosen_name(ui))
            prompt_open(ui, PROMPT_RENAME, chosen_name(ui));
        break;
    case DO_DELETE:
        if (chosen_name(ui))
            prompt_open(ui, PROMPT_DELETE, chosen_name(ui));
        break;
    case DO_CLICK:
        click(ui, key->row);
        break;
    default:
        break;
    }
}

/* Right-aligned before `right`; returns nothing, numbers always fit their columns. */
static void put_right(struct ui *ui, int row, int right, enum frame_style style, const struct buf *text)
{
    int width = (int)filter_width(text->data ? text->data : "", text->len);
    if (text->len)
        frame_put(&ui->frame, row, right - width, right, style, text->data, text->len);
}

/* What does not fit ends in an ellipsis. */
static int put_fitting(struct ui *ui, int row, int column, int limit, enum frame_style style,
                       const char *text)
{
    size_t n = strlen(text);
    if (filter_width(text, n) <= (size_t)(limit - column))
        return frame_put(&ui->frame, row, column, limit, style, text, n);
    column = frame_put(&ui->frame, row, column, limit - 1, style, text, n);
    return frame_puts(&ui->frame, row, column, style, "\xE2\x80\xA6");
}

/* Columns from the right edge: last opened 17, KV 10, tokens 12, pages 8, documents 6; the rest is the name.
 */
static void draw_row(struct ui *ui, int row, int columns, const struct ui_library_row *r, int chosen)
{
    enum frame_style style = chosen ? FRAME_SELECTED : FRAME_PLAIN;
    struct buf b = {0};
    int wide = columns >= 70;
    int right = columns - 1;
    frame_fill(&ui->frame, row, style);
    human_when(&b, r->last_opened, clock_unix());
    put_right(ui, row, right, style, &b);
    buf_clear(&b);
    human_bytes(&b, r->kv_bytes);
    put_right(ui, row, right - 13, style, &b);
    if (wide) {
        buf_clear(&b);
        human_count(&b, r->tokens);
        put_right(ui, row, right - 23, style, &b);
        buf_clear(&b);
        human_count(&b, r->pages);
        put_right(ui, row, right - 35, style, &b);
        buf_clear(&b);
        human_count(&b, r->documents);
        put_right(ui, row, right - 43, style, &b);
    }
    int limit = right - (wide ? 48 : 23);
    int column = put_fitting(ui, row, 1, limit, chosen ? style : FRAME_STRONG, r->name ? r->name : "");
    if (r->title && *r->title && column + 4 < limit && (!r->name || strcmp(r->title, r->name) != 0))
        put_fitting(ui, row, column + 2, limit, chosen ? style : FRAME_FAINT, r->title);
    buf_free(&b);
}

static void draw_heading(struct ui *ui, int row, int columns)
{
    int right = columns - 1;
    frame_puts(&ui->frame, row, 1, FRAME_FAINT, "session");
    frame_puts(&ui->frame, row, right - 11, FRAME_FAINT, "last opened");
    frame_puts(&ui->frame, row, right - 13 - 2, FRAME_FAINT, "KV");
    if (columns < 70)
        return;
    frame_puts(&ui->frame, row, right - 23 - 6, FRAME_FAINT, "tokens");
    frame_puts(&ui->frame, row, right - 35 - 5, FRAME_FAINT, "pages");
    frame_puts(&ui->frame, row, right - 43 - 4, FRAME_FAINT, "docs");
}

static void draw(struct ui *ui, struct place place)
{
    struct library *l = &ui->library;
    l->first_row = place.top + 1;
    l->n_drawn = 0;
    if (!l->n_rows) {
        frame_puts(&ui->frame, place.top + 1, 2, FRAME_PLAIN,
                   l->arrived ? "Nothing has been read yet." : "Opening the library...");
        if (l->arrived)
            frame_puts(&ui->frame, place.top + 3, 2, FRAME_FAINT, "Press a to add a file or a folder.");
        return;
    }
    size_t room = place.rows > 2 ? (size_t)place.rows - 1 : 1;
    if (l->chosen < l->top)
        l->top = l->chosen;
    if (l->chosen >= l->top + room)
        l->top = l->chosen - room + 1;
    if (l->top + room > l->n_rows)
        l->top = l->n_rows > room ? l->n_rows - room : 0;
    draw_heading(ui, place.top, place.columns);
    for (size_t i = 0; i < room && l->top + i < l->n_rows; i++, l->n_drawn++)
        draw_row(ui, l->first_row + (int)i, place.columns, &l->rows[l->top + i], l->top + i == l->chosen);
}

static void hints(const struct ui *ui, struct buf *out)
{
    (void)ui;
    buf_puts(out, "Enter open  a add  ? help  q quit");
}

const struct view view_library = {
    .name = "library", .context = IN_LIBRARY, .enter = enter, .run = run, .draw = draw, .hints = hints};
