/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - argv -> config -> command -> exit status: 0 done, 1 failed, 2 not understood. */
#include <locale.h>
#include <signal.h>
#include <stdio.h>

#include "app/cli.h"
#include "app/commands.h"
#include "app/config.h"
#include "app/output.h"
#include "ui/ui.h"

static int put_help(const struct cli_command *command, struct err *e)
{
    struct buf text = {0};
    cli_help(&text, command);
    int rc = text.failed ? err_memory(e, "the help") : output_bytes(text.data, text.len, e);
    buf_free(&text);
    return rc;
}

static int put_man(struct err *e)
{
    struct buf keys = {0}, page = {0};
    ui_keys_text(&keys);
    cli_man(&page, keys.data ? keys.data : "");
    int rc = keys.failed || page.failed ? err_memory(e, "the manual") : output_bytes(page.data, page.len, e);
    buf_free(&keys);
    buf_free(&page);
    return rc;
}

static int put_completion(const char *shell, struct err *e)
{
    struct buf script = {0};
    int rc = cli_completion(&script, shell, e);
    if (!rc)
        rc = output_bytes(script.data, script.len, e);
    buf_free(&script);
    return rc;
}

static int cmd_help(const struct config *c, struct err *e)
{
    return put_help(c->n_args ? cli_command(c->args[0]) : &cli_commands()[CLI_READ], e);
}

static int run(struct config *c, const struct cli_command *command, struct err *e)
{
    static int (*const commands[CLI_COMMANDS])(const struct config *, struct err *) = {
        [CLI_READ] = cmd_read,         [CLI_ADD] = cmd_add,
        [CLI_ASK] = cmd_ask,           [CLI_SESSIONS] = cmd_sessions,
        [CLI_STORE] = cmd_store,       [CLI_MODELS] = cmd_models,
        [CLI_HEADS] = cmd_heads,       [CLI_DOCTOR] = cmd_doctor,
        [CLI_TOKENIZE] = cmd_tokenize, [CLI_DETOKENIZE] = cmd_detokenize,
        [CLI_LOGITS] = cmd_logits,     [CLI_EVAL] = cmd_eval,
        [CLI_BENCH] = cmd_bench,       [CLI_HELP] = cmd_help,
    };
    if (c->help)
        return put_help(command, e);
    if (c->version)
        return output_puts("lectern " LECTERN_VERSION "\n", e);
    if (c->man)
        return put_man(e);
    if (c->completion)
        return put_completion(c->completion, e);
    if (command->id == CLI_HELP)
        return cmd_help(c, e);
    int rc = config_resolve(c, e);
    return rc ? rc : commands[command->id](c, e);
}

int main(int argc, char **argv)
{
    struct config c;
    struct err e = {0}, flush = {0};
    const struct cli_command *command;
    setlocale(LC_CTYPE, "");
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error value like any other */
    signal(SIGXFSZ, SIG_IGN); /* so is a file-size limit */
    config_init(&c);
    int rc = cli_parse(argc, argv, &c, &command, &e);
    int status = !rc ? 0 : rc == ERR_MEMORY ? 1 : 2;
    if (!rc) {
        rc = run(&c, command, &e);
        if (!rc && output_flush(&flush)) {
            rc = flush.code;
            e = flush;
        }
        status = !rc ? 0 : rc == ERR_USAGE ? 2 : 1;
    }
    if (rc == ERR_IO && output_closed())
        status = 0; /* whoever read our output has had enough */
    else if (rc)
        output_error(e.text);
    config_fini(&c);
    return status;
}
