/* SPDX-License-Identifier: Apache-2.0 */
/* view_help.c - the key table as a page. It is ui_keys_text, so help and manual cannot disagree. */
#include <string.h>

#include "ui/state.h"

enum { MEANING_COLUMN = 22, WHEEL_LINES = 3 };

static void enter(struct ui *ui)
{
    struct help *h = &ui->help;
    buf_clear(&h->text);
    ui_keys_text(&h->text);
    h->n_lines = h->top = 0;
    if (ui_memory(ui, h->text.failed))
        return;
    for (size_t i = 0; i < h->text.len; i++)
        h->n_lines += h->text.data[i] == '\n';
}

static void scroll(struct help *h, long lines)
{
    size_t last = h->n_lines > (size_t)h->rows ? h->n_lines - (size_t)h->rows : 0;
    if (lines < 0)
        h->top = h->top > (size_t)-lines ? h->top - (size_t)-lines : 0;
    else
        h->top = h->top + (size_t)lines < last ? h->top + (size_t)lines : last;
}

static void run(struct ui *ui, enum keys_command command, const struct ui_key *key)
{
    struct help *h = &ui->help;
    int page = h->rows > 1 ? h->rows - 1 : 1;
    (void)key;
    switch (command) {
    case DO_UP:
        scroll(h, -1);
        break;
    case DO_DOWN:
        scroll(h, 1);
        break;
    case DO_PAGE_UP:
        scroll(h, -page);
        break;
    case DO_PAGE_DOWN:
        scroll(h, page);
        break;
    case DO_WHEEL_UP:
        scroll(h, -WHEEL_LINES);
        break;
    case DO_WHEEL_DOWN:
        scroll(h, WHEEL_LINES);
        break;
    case DO_TOP:
        h->top = 0;
        break;
    case DO_BOTTOM:
        scroll(h, (long)h->n_lines);
        break;
    case DO_BACK:
        ui_view(ui, h->back ? h->back : &view_library);
        break;
    default:
        break;
    }
}

static void draw(struct ui *ui, struct place place)
{
    struct help *h = &ui->help;
    const char *at = h->text.data ? h->text.data : "";
    h->rows = place.rows;
    scroll(h, 0);
    for (size_t i = 0; *at && i < h->top + (size_t)place.rows; i++) {
        size_t n = strcspn(at, "\n"), key = strcspn(at, "\t\n");
        int row = place.top + (int)(i - h->top);
        if (i >= h->top && at[0] == '#' && n > 2)
            frame_put(&ui->frame, row, 1, place.columns, FRAME_STRONG, at + 2, n - 2);
        else if (i >= h->top) {
            frame_put(&ui->frame, row, 3, MEANING_COLUMN, FRAME_LINK, at, key);
            if (key < n)
                frame_put(&ui->frame, row, MEANING_COLUMN, place.columns, FRAME_PLAIN, at + key + 1,
                          n - key - 1);
        }
        at += n + (at[n] == '\n');
    }
}

static void hints(const struct ui *ui, struct buf *out)
{
    (void)ui;
    buf_puts(out, "Space more  Esc back");
}

const struct view view_help = {
    .name = "help", .context = IN_HELP, .enter = enter, .run = run, .draw = draw, .hints = hints};
