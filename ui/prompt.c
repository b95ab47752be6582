/* SPDX-License-Identifier: Apache-2.0 */
/* prompt.c - the line that asks for a path, a new name, or a yes. While it is open it takes all keys. */
#include <stdlib.h>
#include <string.h>

#include "ui/filter.h"
#include "ui/state.h"

void prompt_open(struct ui *ui, enum prompt kind, const char *session)
{
    free(ui->prompt_name);
    ui->prompt_name = session ? strdup(session) : NULL;
    if (ui_memory(ui, session && !ui->prompt_name))
        return;
    edit_clear(&ui->prompt_edit);
    if (kind == PROMPT_RENAME)
        ui_memory(ui, edit_set(&ui->prompt_edit, session ? session : ""));
    ui->prompt = kind;
}

void prompt_close(struct ui *ui)
{
    ui->prompt = PROMPT_NONE;
    free(ui->prompt_name);
    ui->prompt_name = NULL;
}

/* What was typed or dropped, without white space around it and without the quotes that terminals add. */
static char *clean_path(const char *text)
{
    text += strspn(text, " \t\n");
    size_t n = strlen(text);
    while (n && strchr(" \t\n", text[n - 1]))
        n--;
    if (n >= 2 && (text[0] == '\'' || text[0] == '"') && text[n - 1] == text[0]) {
        text++;
        n -= 2;
    }
    return strndup(text, n);
}

static void accept_path(struct ui *ui)
{
    char *path = clean_path(edit_text(&ui->prompt_edit));
    if (ui_memory(ui, !path))
        return;
    if (*path) {
        const char *const paths[] = {path};
        if (ui_ask_add(ui, ui->prompt_name, paths, 1) == 0) {
            ui->to_talk = ui->view == &view_library;
            ui_memory(ui, edit_remember(&ui->prompt_edit, path));
            prompt_close(ui);
        }
    } else {
        prompt_close(ui);
    }
    free(path);
}

static void accept_name(struct ui *ui)
{
    const char *name = edit_text(&ui->prompt_edit);
    if (edit_is_blank(&ui->prompt_edit) || strcmp(name, ui->prompt_name) == 0) {
        prompt_close(ui);
        return;
    }
    char *from = strdup(ui->prompt_name), *to = strdup(name);
    if (ui_memory(ui, !from || !to) || ui_ask_named(ui, UI_REQUEST_RENAME, ui->prompt_name, name)) {
        free(from);
        free(to);
        return;
    }
    free(ui->renamed_from);
    free(ui->renamed_to);
    ui->renamed_from = from;
    ui->renamed_to = to;
    prompt_close(ui);
}

void prompt_run(struct ui *ui, enum keys_command command, const struct ui_key *key)
{
    if (ui->prompt == PROMPT_DELETE) { /* one key decides */
        if (key->code == 'y' || key->code == 'Y')
            ui_ask_named(ui, UI_REQUEST_DELETE_SESSION, ui->prompt_name, NULL);
        prompt_close(ui);
        return;
    }
    if (command >= DO_LEFT)
        ui_memory(ui, edit_do(&ui->prompt_edit, (enum edit_command)(command - DO_LEFT)));
    else if (command == DO_ACCEPT && ui->prompt == PROMPT_ADD)
        accept_path(ui);
    else if (command == DO_ACCEPT)
        accept_name(ui);
}

void prompt_draw_line(struct ui *ui, int row, const char *label, struct edit *edit)
{
    size_t first;
    int cursor, columns = ui->frame.columns;
    int column = frame_put(&ui->frame, row, 0, columns / 2, FRAME_STRONG, label, strlen(label));
    const char *text = edit_text(edit);
    edit_view(edit, columns - column, &first, &cursor);
    frame_put(&ui->frame, row, column, columns, FRAME_PLAIN, text + first, edit->text.len - first);
    ui->frame.cursor_row = row;
    ui->frame.cursor_column = column + cursor;
}

void prompt_draw(struct ui *ui, int row)
{
    struct buf label = {0};
    if (ui->prompt == PROMPT_DELETE) {
        buf_printf(&label, "Delete \"%s\", its text and what was read of it? y/n ", ui->prompt_name);
        if (!ui_memory(ui, label.failed))
            frame_puts(&ui->frame, row, 0, FRAME_ALARM, label.data);
        buf_free(&label);
        return;
    }
    prompt_draw_line(ui, row,
                     ui->prompt == PROMPT_ADD ? "Add file or folder: " : "New name: ", &ui->prompt_edit);
}
