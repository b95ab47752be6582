/* SPDX-License-Identifier: Apache-2.0 */
/* ui.c - the loop of the reading room: sleep in poll(2), take keys and events, draw what changed.
 *
 * Invariants: only this thread touches struct ui; every way out of ui_run closes the screen first and sends
 * QUIT. Events are drawn at most 30 times a second, keys at once.
 */
#include "ui/ui.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>

#include "engine/base/clock.h"
#include "ui/state.h"

enum {
    ROWS_MIN = 8,
    COLUMNS_MIN = 40,
    EVENTS_AT_ONCE = 1000, /* then keys get their turn */
};

static const double frame_seconds = 1.0 / 30, notice_seconds = 8, interrupt_seconds = 2;

void ui_view(struct ui *ui, const struct view *view)
{
    if (view == &view_help && ui->view != &view_help)
        ui->help.back = ui->view;
    ui->view = view;
    ui->dirty = 1;
    if (view->enter)
        view->enter(ui);
}

void ui_message(struct ui *ui, int alarm, const char *text)
{
    buf_clear(&ui->message);
    buf_puts(&ui->message, text);
    ui->message_alarm = alarm;
    ui->message_until = alarm ? 0 : clock_seconds() + notice_seconds;
    ui->dirty = 1;
    ui_memory(ui, ui->message.failed);
}

int ui_memory(struct ui *ui, int failed)
{
    if (failed)
        ui->out_of_memory = ui->quit = 1;
    return failed;
}

/* ---- drawing ---- */

/* The message takes what it needs, up to a third of the rows; returns the rows taken above `bottom`. */
static int draw_message(struct ui *ui, int bottom)
{
    struct wrap wrap = {0};
    if (!ui->message.len ||
        ui_memory(ui, wrap_text(&wrap, ui->message.data, ui->message.len, ui->frame.columns - 2)))
        return 0;
    int most = ui->frame.rows / 3, rows = wrap.n < (size_t)most ? (int)wrap.n : most;
    enum frame_style style = ui->message_alarm ? FRAME_ALARM : FRAME_FAINT;
    for (int i = 0; i < rows; i++) {
        struct wrap_line line = wrap.lines[i];
        frame_put(&ui->frame, bottom - rows + i, 1, ui->frame.columns, style, ui->message.data + line.first,
                  line.last - line.first);
    }
    wrap_free(&wrap);
    return rows;
}

void ui_draw(struct ui *ui)
{
    struct frame *f = &ui->frame;
    int rows, columns;
    screen_size(ui->screen, &rows, &columns);
    if (ui_memory(ui, frame_size(f, rows, columns)))
        return;
    if (rows < ROWS_MIN || columns < COLUMNS_MIN) {
        char text[96];
        snprintf(text, sizeof text, "%dx%d is too small: Lectern needs %dx%d", columns, rows, COLUMNS_MIN,
                 ROWS_MIN);
        struct wrap wrap = {0};
        ui_memory(ui, wrap_text(&wrap, text, strlen(text), columns));
        for (size_t i = 0; i < wrap.n; i++)
            frame_put(f, (int)i, 0, columns, FRAME_PLAIN, text + wrap.lines[i].first,
                      wrap.lines[i].last - wrap.lines[i].first);
        wrap_free(&wrap);
    } else {
        int bottom = rows - 1;
        status_title(ui);
        status_draw(ui, bottom);
        if (ui->prompt != PROMPT_NONE)
            prompt_draw(ui, --bottom);
        else if (ui->view == &view_talk)
            prompt_draw_line(ui, --bottom, "> ", &ui->talk.edit);
        bottom -= draw_message(ui, bottom);
        ui->view->draw(ui, (struct place){.top = 1, .rows = bottom - 1, .columns = columns});
    }
    ui_memory(ui, draw_frame(ui->screen, f));
    ui->dirty = 0;
}

/* ---- keys ---- */

static struct edit *line_in_use(struct ui *ui)
{
    if (ui->prompt == PROMPT_ADD || ui->prompt == PROMPT_RENAME)
        return &ui->prompt_edit;
    return ui->prompt == PROMPT_NONE && ui->view == &view_talk ? &ui->talk.edit : NULL;
}

static void go_back(struct ui *ui)
{
    if (ui->view == &view_help || ui->view == &view_source)
        ui->view->run(ui, DO_BACK, NULL);
    else if (ui_busy(ui))
        ui_ask_cancel(ui);
    else if (ui->message.len)
        buf_clear(&ui->message);
    else if (ui->view == &view_talk) {
        ui->talk.has_chosen = 0;
        ui->talk.follow = 1;
    }
}

static void interrupt(struct ui *ui)
{
    double now = clock_seconds();
    if (ui_busy(ui)) {
        ui_ask_cancel(ui);
    } else if (ui->last_interrupt > 0 && now - ui->last_interrupt <= interrupt_seconds) {
        ui->quit = 1;
    } else {
        ui->last_interrupt = now;
        ui_message(ui, 0, "Press Ctrl-C again to quit.");
    }
}

static void switch_view(struct ui *ui)
{
    if (ui->view != &view_library)
        ui_view(ui, &view_library);
    else if (ui->talk.session || ui_opening(ui))
        ui_view(ui, &view_talk);
    else
        ui_message(ui, 0, "No session is open yet.");
}

/* Commands that mean the same everywhere; 1 when this was one. */
static int run_common(struct ui *ui, enum keys_command command)
{
    switch (command) {
    case DO_HELP:
        ui_view(ui, &view_help);
        return 1;
    case DO_SWITCH:
        switch_view(ui);
        return 1;
    case DO_STOP:
    case DO_INTERRUPT:
        if (ui->prompt != PROMPT_NONE)
            prompt_close(ui);
        else if (command == DO_STOP)
            go_back(ui);
        else
            interrupt(ui);
        return 1;
    case DO_QUIT:
        ui->quit = 1;
        return 1;
    case DO_REDRAW:
        screen_forget(ui->screen);
        return 1;
    case DO_SUSPEND:
        screen_suspend(ui->screen);
        return 1;
    default:
        return 0;
    }
}

static void take_text(struct ui *ui, const char *text, size_t n)
{
    struct edit *edit = line_in_use(ui);
    if (!edit && ui->prompt == PROMPT_NONE && ui->view == &view_library) { /* a file dropped on the window */
        prompt_open(ui, PROMPT_ADD, NULL);
        edit = &ui->prompt_edit;
    }
    if (edit)
        ui_memory(ui, edit_insert(edit, text, n));
}

static void take_key(struct ui *ui, const struct ui_key *key)
{
    ui->dirty = 1;
    if (key->code == UIK_END_OF_INPUT) {
        ui->quit = 1;
        return;
    }
    if (key->code == UIK_RESIZE)
        return;
    if (key->code == UIK_PASTE) {
        take_text(ui, key->text, key->n_text);
        return;
    }
    unsigned context = ui->prompt != PROMPT_NONE ? IN_PROMPT : ui->view->context;
    if (context == IN_TALK && ui->talk.edit.text.len == 0)
        context |= IN_TALK_EMPTY;
    enum keys_command command = keys_find(context, key->code);
    if (command == DO_ASK || command == DO_OPEN || command == DO_ACCEPT)
        buf_clear(&ui->message);
    if (run_common(ui, command))
        return;
    int prints = key->code >= 0x20 && key->code != 0x7F && key->code < UIK_UP;
    if (command == DO_NOTHING && prints && line_in_use(ui)) {
        utf8proc_uint8_t bytes[4];
        utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)key->code, bytes);
        take_text(ui, (const char *)bytes, (size_t)n);
    } else if (ui->prompt != PROMPT_NONE) {
        prompt_run(ui, command, key);
    } else if (command != DO_NOTHING) {
        ui->view->run(ui, command, key);
    }
}

/* ---- the loop ---- */

static void take_waiting(struct ui *ui)
{
    struct ui_key key;
    struct ui_event event;
    while (!ui->quit && screen_read(ui->screen, &key))
        take_key(ui, &key);
    for (int i = 0; i < EVENTS_AT_ONCE && !ui->quit && port_poll_event(ui->port, &event); i++)
        events_take(ui, &event);
    if (ui->message.len && ui->message_until > 0 && clock_seconds() >= ui->message_until) {
        buf_clear(&ui->message);
        ui->dirty = 1;
    }
}

/* Milliseconds until something is due without any input; -1: nothing is. */
static int patience(const struct ui *ui, double next_frame)
{
    double now = clock_seconds(), due = -1;
    int ms = screen_patience(ui->screen);
    if (ms >= 0)
        due = now + ms / 1000.0;
    if (ui->message.len && ui->message_until > 0 && (due < 0 || ui->message_until < due))
        due = ui->message_until;
    if (ui->dirty && (due < 0 || next_frame < due))
        due = next_frame;
    if (due < 0)
        return -1;
    return due <= now ? 0 : (int)((due - now) * 1000) + 1;
}

static int loop(struct ui *ui, struct err *e)
{
    double next_frame = 0;
    struct pollfd fds[] = {
        {.fd = STDIN_FILENO, .events = POLLIN},
        {.fd = port_wake_fd(ui->port), .events = POLLIN},
        {.fd = screen_signal_fd(ui->screen), .events = POLLIN},
    };
    while (!ui->quit) {
        int typed = fds[0].revents != 0 || fds[2].revents != 0;
        take_waiting(ui);
        if (ui->quit)
            break;
        if (ui->dirty && (typed || clock_seconds() >= next_frame)) {
            ui_draw(ui);
            next_frame = clock_seconds() + frame_seconds;
        }
        for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
            fds[i].revents = 0;
        if (poll(fds, sizeof fds / sizeof *fds, patience(ui, next_frame)) < 0 && errno != EINTR)
            return err_errno(e, errno, "cannot wait for the terminal");
    }
    return ui->out_of_memory ? err_memory(e, "the interface") : 0;
}

static void start(struct ui *ui)
{
    const struct ui_options *o = ui->options;
    ui->view = &view_library;
    if (o->session && ui_ask_named(ui, UI_REQUEST_OPEN_SESSION, o->session, NULL) == 0)
        ui->to_talk = 1;
    if (o->n_paths && ui_ask_add(ui, o->session, o->paths, o->n_paths) == 0)
        ui->to_talk = 1;
    ui_view(ui, ui->to_talk ? &view_talk : &view_library);
}

static void ui_fini(struct ui *ui)
{
    ui_rows_free(ui->library.rows, ui->library.n_rows);
    transcript_free(&ui->talk);
    edit_free(&ui->talk.edit);
    free(ui->source.title);
    free(ui->source.text);
    wrap_free(&ui->source.wrap);
    buf_free(&ui->help.text);
    edit_free(&ui->prompt_edit);
    free(ui->prompt_name);
    free(ui->renamed_from);
    free(ui->renamed_to);
    buf_free(&ui->message);
    buf_free(&ui->running);
    buf_free(&ui->note);
    frame_free(&ui->frame);
}

int ui_run(struct ui_port *port, const struct ui_options *options, struct err *e)
{
    struct ui_request quit = {.kind = UI_REQUEST_QUIT};
    const char *no_color = getenv("NO_COLOR");
    struct ui *ui = calloc(1, sizeof *ui);
    int status;
    if (!ui) {
        status = err_memory(e, "the interface");
        goto out;
    }
    ui->port = port;
    ui->options = options;
    ui->talk.follow = 1;
    status = screen_open(&ui->screen, options->no_color || (no_color && *no_color), e);
    if (status == 0) {
        start(ui);
        status = loop(ui, e);
        screen_close(ui->screen);
    }
    ui_fini(ui);
    free(ui);
out:
    (void)port_send_request(port, &quit, NULL); /* QUIT always succeeds */
    return status;
}
