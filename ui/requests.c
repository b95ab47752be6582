/* SPDX-License-Identifier: Apache-2.0 */
/* requests.c - what leaves through the port, and which of it has not been answered yet.
 *
 * Invariant: `steps` lists what was sent and not finished, in the order sent, which is the order in which the
 * app serves it: the oldest step is the one that a FINISHED event ends.
 */
#include <stdlib.h>
#include <string.h>

#include "ui/state.h"

#define BIT(kind) (1u << (kind))
#define OPENING (BIT(UI_REQUEST_OPEN_SESSION) | BIT(UI_REQUEST_ADD_PATHS) | BIT(UI_REQUEST_REFRESH))
#define STOPPABLE (OPENING | BIT(UI_REQUEST_ASK))

static int send_step(struct ui *ui, struct ui_request *request, int failed)
{
    struct err e = {0};
    enum ui_request_kind kind = request->kind;
    if (ui_memory(ui, failed)) {
        ui_request_fini(request);
        return -1;
    }
    if (ui->n_steps == UI_STEPS) {
        ui_request_fini(request);
        ui_message(ui, 1, "Too much is waiting already.");
        return -1;
    }
    if (port_send_request(ui->port, request, &e)) {
        ui_message(ui, 1, e.text);
        return -1;
    }
    ui->steps[ui->n_steps++] = kind;
    return 0;
}

void ui_step_finished(struct ui *ui)
{
    if (ui->n_steps == 0)
        return;
    ui->n_steps--;
    memmove(ui->steps, ui->steps + 1, ui->n_steps * sizeof *ui->steps);
}

static int has_step(const struct ui *ui, unsigned kinds)
{
    for (size_t i = 0; i < ui->n_steps; i++)
        if (BIT(ui->steps[i]) & kinds)
            return 1;
    return 0;
}

int ui_opening(const struct ui *ui)
{
    return has_step(ui, OPENING);
}

int ui_busy(const struct ui *ui)
{
    return ui->running.len || ui->is_progress || has_step(ui, STOPPABLE);
}

int ui_ask(struct ui *ui, const char *question)
{
    struct ui_request request = {.kind = UI_REQUEST_ASK};
    int failed = ui_request_text(&request, question);
    return send_step(ui, &request, failed);
}

int ui_ask_list(struct ui *ui)
{
    struct ui_request request = {.kind = UI_REQUEST_LIST};
    if (has_step(ui, BIT(UI_REQUEST_LIST)))
        return 0;
    return send_step(ui, &request, 0);
}

int ui_ask_named(struct ui *ui, enum ui_request_kind kind, const char *name, const char *text)
{
    struct ui_request request = {.kind = kind};
    int failed = ui_request_name(&request, name) || ui_request_text(&request, text);
    return send_step(ui, &request, failed);
}

/* As a shell would: a leading "~/" is the home folder. */
static int add_path(struct ui_request *request, const char *path)
{
    const char *home = getenv("HOME");
    if (strncmp(path, "~/", 2) != 0 || !home)
        return ui_request_add_path(request, path);
    struct buf full = {0};
    buf_printf(&full, "%s%s", home, path + 1);
    int failed = full.failed || ui_request_add_path(request, full.data);
    buf_free(&full);
    return failed;
}

int ui_ask_add(struct ui *ui, const char *session, const char *const *paths, size_t n)
{
    struct ui_request request = {.kind = UI_REQUEST_ADD_PATHS};
    int failed = ui_request_name(&request, session);
    for (size_t i = 0; !failed && i < n; i++)
        failed = add_path(&request, paths[i]);
    return send_step(ui, &request, failed);
}

int ui_ask_source(struct ui *ui, int64_t turn, int number)
{
    struct ui_request request = {.kind = UI_REQUEST_SOURCE, .turn = turn, .number = number};
    return send_step(ui, &request, 0);
}

void ui_ask_cancel(struct ui *ui)
{
    struct ui_request request = {.kind = UI_REQUEST_CANCEL};
    if (port_send_request(ui->port, &request, NULL) == 0) /* CANCEL always succeeds */
        ui_message(ui, 0, "Stopping...");
}
