/* SPDX-License-Identifier: Apache-2.0 */
/* status.c - the first and the last row: where one is; what runs and what is held. */
#include <inttypes.h>
#include <string.h>

#include "engine/base/clock.h"
#include "ui/filter.h"
#include "ui/human.h"
#include "ui/state.h"

void status_title(struct ui *ui)
{
    struct frame *f = &ui->frame;
    frame_fill(f, 0, FRAME_BAR);
    int column = frame_puts(f, 0, 1, FRAME_BAR, "Lectern");
    const char *what = ui->view == &view_talk && ui->talk.session ? ui->talk.session : ui->view->name;
    column = frame_puts(f, 0, column + 2, FRAME_BAR, what);
    const char *model = ui->options->model;
    int width = model ? (int)filter_width(model, strlen(model)) : 0;
    if (width && column + 2 + width < f->columns)
        frame_puts(f, 0, f->columns - width - 1, FRAME_BAR, model);
}

static void separate(struct buf *b)
{
    if (b->len)
        buf_puts(b, " | ");
}

/* Independent of the locale's decimal point. */
static void add_rate(struct buf *b, double rate)
{
    if (!(rate > 0 && rate < 1e9))
        return;
    uint64_t tenths = (uint64_t)(rate * 10 + 0.5);
    separate(b);
    if (tenths >= 1000)
        human_count(b, tenths / 10);
    else
        buf_printf(b, "%" PRIu64 ".%" PRIu64, tenths / 10, tenths % 10);
    buf_puts(b, " tokens/s");
}

static void add_running(const struct ui *ui, struct buf *b)
{
    if (ui->running.len)
        buf_add(b, ui->running.data, ui->running.len);
    else if (transcript_waiting(&ui->talk))
        buf_puts(b, "answering");
    else if (ui_opening(ui))
        buf_puts(b, "opening");
    if (!ui->is_progress)
        return;
    if (ui->total) {
        double share = (double)ui->done / (double)ui->total;
        buf_printf(b, " %d %%", (int)(100 * (share < 1 ? share : 1)));
    } else if (ui->done) {
        buf_putc(b, ' ');
        human_count(b, ui->done);
    }
    add_rate(b, ui->progress_rate);
    if (ui->eta_seconds >= 0) {
        separate(b);
        human_duration(b, ui->eta_seconds);
        buf_puts(b, " left");
    }
}

void status_draw(struct ui *ui, int row)
{
    struct frame *f = &ui->frame;
    struct buf left = {0}, hints = {0};
    add_running(ui, &left);
    if (ui->tokens || ui->talk.session) {
        separate(&left);
        human_count(&left, ui->tokens);
        if (ui->tokens_limit) {
            buf_puts(&left, " of ");
            human_count(&left, ui->tokens_limit);
        }
        buf_puts(&left, " tokens");
    }
    if (ui->kv_bytes) {
        separate(&left);
        buf_puts(&left, "KV ");
        human_bytes(&left, ui->kv_bytes);
    }
    if (ui->note.len && !ui->running.len) {
        separate(&left);
        buf_add(&left, ui->note.data, ui->note.len);
    }
    if (!ui->is_progress)
        add_rate(&left, ui->rate);
    ui->view->hints(ui, &hints);
    frame_fill(f, row, FRAME_BAR);
    if (!ui_memory(ui, left.failed || hints.failed)) {
        int column = frame_puts(f, row, 1, FRAME_BAR, left.data ? left.data : "");
        const char *shown = hints.data ? hints.data : "";
        if (column + 2 + (int)filter_width(shown, hints.len) >= f->columns)
            shown = "F1 help"; /* from there everything can be found */
        int width = (int)filter_width(shown, strlen(shown));
        if (column + 2 + width < f->columns)
            frame_puts(f, row, f->columns - width - 1, FRAME_BAR, shown);
    }
    buf_free(&left);
    buf_free(&hints);
}
