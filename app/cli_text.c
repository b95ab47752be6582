/* SPDX-License-Identifier: Apache-2.0 */
/* cli_text.c - the tables as people and shells read them: help, manual page, completion scripts. */
#include "app/cli.h"

#include <string.h>

enum { COLUMNS = 80, HELP_AT = 24 };

/* ---- help ---- */

/* Appends `text` in lines that end before COLUMNS, each but the first indented; `at` is the present column.
 */
static void wrap(struct buf *out, const char *text, size_t at, size_t indent)
{
    while (*text) {
        size_t word = strcspn(text, " ");
        if (at > indent && at + 1 + word > COLUMNS) {
            buf_printf(out, "\n%*s", (int)indent, "");
            at = indent;
        } else if (at > indent) {
            buf_putc(out, ' ');
            at++;
        }
        buf_add(out, text, word);
        at += word;
        text += word;
        text += strspn(text, " ");
    }
    buf_putc(out, '\n');
}

/* "  NAME        text", the text on a line of its own when the name is long. */
static void entry(struct buf *out, const char *name, const char *text)
{
    size_t length = strlen(name) + 2;
    buf_printf(out, "  %s", name);
    if (length + 2 > HELP_AT)
        buf_printf(out, "\n%*s", HELP_AT, "");
    else
        buf_printf(out, "%*s", (int)(HELP_AT - length), "");
    wrap(out, text, HELP_AT, HELP_AT);
}

static void option_name(struct buf *out, const struct cli_option *o)
{
    if (o->letter)
        buf_printf(out, "-%c, ", o->letter);
    buf_printf(out, "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
}

/* "(verify, gc) " when only these subcommands take the option. */
static void option_subs(struct buf *out, const struct cli_command *command, const struct cli_option *o)
{
    size_t named = 0;
    for (size_t i = 0; i < command->n_subs; i++)
        if (command->subs[i].groups & o->group)
            buf_printf(out, "%s%s", named++ ? ", " : "(", command->subs[i].name);
    buf_puts(out, named ? ") " : "");
}

static void help_options(struct buf *out, const struct cli_command *command)
{
    size_t n;
    const struct cli_option *o = cli_options(&n);
    buf_puts(out, "\nOptions:\n");
    for (size_t i = 0; i < n; i++) {
        if (!cli_takes(command, &o[i]))
            continue;
        struct buf name = {0}, text = {0};
        option_name(&name, &o[i]);
        option_subs(&text, command, &o[i]);
        buf_puts(&text, o[i].help);
        entry(out, name.data ? name.data : o[i].name, text.data ? text.data : o[i].help);
        out->failed |= name.failed | text.failed;
        buf_free(&name);
        buf_free(&text);
    }
}

static void usage_line(struct buf *out, const struct cli_command *command, const char *args)
{
    buf_printf(out, "lectern%s%s [OPTIONS]%s%s\n", command->name[0] ? " " : "", command->name,
               args[0] ? " " : "", args);
}

static void help_program(struct buf *out)
{
    const struct cli_command *all = cli_commands();
    buf_puts(out, "Lectern reads long documents once and answers questions with sources.\n\n"
                  "Usage: ");
    usage_line(out, &all[CLI_READ], all[CLI_READ].args);
    buf_puts(out, "       lectern COMMAND ...\n\nWithout a command:");
    wrap(out, all[CLI_READ].summary, strlen("Without a command:"), 0);
    wrap(out, all[CLI_READ].text, 0, 0);
    buf_puts(out, "\nCommands (lectern help COMMAND says more):\n");
    for (size_t i = 1; i < CLI_COMMANDS; i++)
        entry(out, all[i].name, all[i].summary);
    help_options(out, &all[CLI_READ]);
    buf_puts(out, "\nA word that is no command is a path; after -- every word is.\n"
                  "Exit status: 0 done, 1 failed, 2 the command line was not understood.\n");
}

void cli_help(struct buf *out, const struct cli_command *command)
{
    if (command->id == CLI_READ) {
        help_program(out);
        return;
    }
    buf_puts(out, "Usage: ");
    if (!command->n_subs)
        usage_line(out, command, command->args);
    for (size_t i = 0; i < command->n_subs; i++)
        buf_printf(out, "%slectern %s %s%s%s [OPTIONS]\n", i ? "       " : "", command->name,
                   command->subs[i].name, command->subs[i].args[0] ? " " : "", command->subs[i].args);
    buf_puts(out, "\n");
    struct buf line = {0};
    buf_puts(&line, command->summary);
    buf_puts(&line, ".");
    if (line.data) {
        if (line.data[0] >= 'a' && line.data[0] <= 'z')
            line.data[0] = (char)(line.data[0] - 'a' + 'A');
        wrap(out, line.data, 0, 0);
    }
    out->failed |= line.failed;
    buf_free(&line);
    if (command->text[0])
        wrap(out, command->text, 0, 0);
    if (command->n_subs)
        buf_puts(out, "\n");
    for (size_t i = 0; i < command->n_subs; i++)
        entry(out, command->subs[i].name, command->subs[i].summary);
    help_options(out, command);
}

/* ---- manual ---- */

/* Roff text: backslashes and dashes escaped, no line that begins with a control character. */
static void roff(struct buf *out, const char *text, size_t n)
{
    if (n && (text[0] == '.' || text[0] == '\''))
        buf_puts(out, "\\&");
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\\')
            buf_puts(out, "\\e");
        else if (text[i] == '-')
            buf_puts(out, "\\-");
        else if (text[i] == '`')
            buf_puts(out, "\\(oq");
        else if (text[i] == '"') /* would end a macro's argument */
            buf_puts(out, "\\(dq");
        else if (text[i] == '\n')
            buf_puts(out, "\n");
        else
            buf_putc(out, text[i]);
    }
}

static void roff_line(struct buf *out, const char *text)
{
    roff(out, text, strlen(text));
    buf_putc(out, '\n');
}

static void man_tag(struct buf *out, const char *tag, const char *text)
{
    buf_puts(out, ".TP\n.B ");
    roff_line(out, tag);
    roff_line(out, text);
}

static void man_commands(struct buf *out)
{
    const struct cli_command *all = cli_commands();
    buf_puts(out, ".SH COMMANDS\n");
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        struct buf usage = {0};
        if (!all[i].n_subs)
            buf_printf(&usage, "lectern%s%s%s%s", all[i].name[0] ? " " : "", all[i].name,
                       all[i].args[0] ? " " : "", all[i].args);
        else
            buf_printf(&usage, "lectern %s", all[i].name);
        man_tag(out, usage.data ? usage.data : all[i].name, all[i].summary);
        if (all[i].text[0]) {
            buf_puts(out, ".br\n");
            roff_line(out, all[i].text);
        }
        for (size_t j = 0; j < all[i].n_subs; j++) {
            const struct cli_sub *sub = &all[i].subs[j];
            buf_puts(out, ".RS\n");
            buf_clear(&usage);
            buf_printf(&usage, "%s %s%s%s", all[i].name, sub->name, sub->args[0] ? " " : "", sub->args);
            man_tag(out, usage.data ? usage.data : sub->name, sub->summary);
            buf_puts(out, ".RE\n");
        }
        out->failed |= usage.failed;
        buf_free(&usage);
    }
}

static void man_options(struct buf *out)
{
    size_t n;
    const struct cli_option *o = cli_options(&n);
    const struct cli_command *all = cli_commands();
    buf_puts(out, ".SH OPTIONS\n");
    for (size_t i = 0; i < n; i++) {
        struct buf name = {0}, text = {0};
        option_name(&name, &o[i]);
        buf_printf(&text, "%s.", o[i].help);
        if (o[i].group != CLI_ANY && o[i].group != CLI_TOP) {
            buf_puts(&text, " For:");
            for (size_t k = 0; k < CLI_COMMANDS; k++)
                if (cli_takes(&all[k], &o[i]))
                    buf_printf(&text, " %s", all[k].name[0] ? all[k].name : "(reading room)");
            buf_puts(&text, ".");
        }
        man_tag(out, name.data ? name.data : o[i].name, text.data ? text.data : o[i].help);
        out->failed |= name.failed | text.failed;
        buf_free(&name);
        buf_free(&text);
    }
}

static void man_files(struct buf *out)
{
    size_t n, named = 0;
    const struct cli_option *o = cli_options(&n);
    struct buf text = {0};
    buf_puts(&text,
             "Settings, one a line as NAME = VALUE; # begins a comment. The options that may stand there:");
    for (size_t i = 0; i < n; i++)
        if (o[i].kept)
            buf_printf(&text, "%s %s", named++ ? "," : "", o[i].name);
    buf_puts(&text, ". The command line comes before them.");
    buf_puts(out, ".SH FILES\n");
    man_tag(out, "~/.config/lectern/" CONFIG_FILE, text.data ? text.data : "Settings.");
    man_tag(out, "~/.local/share/lectern", "Sessions: texts, turns and what was read.");
    out->failed |= text.failed;
    buf_free(&text);
}

static void man_keys(struct buf *out, const char *keys)
{
    if (!keys[0])
        return;
    buf_puts(out, ".SH KEYS OF THE READING ROOM\n");
    while (*keys) {
        size_t line = strcspn(keys, "\n"), tab = strcspn(keys, "\t\n");
        if (keys[0] == '#') {
            size_t skip = 1 + strspn(keys + 1, " ");
            buf_puts(out, ".SS ");
            roff(out, keys + skip, line > skip ? line - skip : 0);
            buf_putc(out, '\n');
        } else if (tab < line) {
            buf_puts(out, ".TP\n.B ");
            roff(out, keys, tab);
            buf_putc(out, '\n');
            roff(out, keys + tab + 1, line - tab - 1);
            buf_putc(out, '\n');
        }
        keys += line + (keys[line] == '\n');
    }
}

void cli_man(struct buf *out, const char *keys)
{
    buf_puts(out, ".\\\" SPDX-License-Identifier: Apache-2.0\n.\\\" Made by lectern --man.\n"
                  ".TH LECTERN 1 \"\" \"Lectern " LECTERN_VERSION "\" \"User Commands\"\n"
                  ".SH NAME\nlectern \\- read long documents once, ask for ever\n"
                  ".SH SYNOPSIS\n.B lectern\n");
    roff_line(out, "[OPTIONS] [PATH...]");
    buf_puts(out, ".br\n.B lectern\n");
    roff_line(out, "COMMAND [OPTIONS] [ARGUMENTS]");
    buf_puts(out, ".SH DESCRIPTION\n");
    roff_line(out, "Lectern reads documents into the context of a language model that runs on this machine, "
                   "keeps what the model remembers of them on disk, and answers questions with sources that "
                   "can be checked. What was read once is not read again.");
    roff_line(out, "Results go to the standard output, progress and messages to the standard error. A word "
                   "that is no command is a path; after \"--\" every word is.");
    man_commands(out);
    man_options(out);
    man_keys(out, keys);
    buf_puts(out, ".SH EXIT STATUS\n");
    man_tag(out, "0", "Done.");
    man_tag(out, "1", "Failed, or stopped by the person; a line on the standard error says why.");
    man_tag(out, "2", "The command line was not understood.");
    man_files(out);
    buf_puts(out, ".SH ENVIRONMENT\n");
    man_tag(out, "XDG_DATA_HOME", "Sessions and readings are in lectern below it (~/.local/share).");
    man_tag(out, "XDG_CACHE_HOME", "Models are in lectern/models below it (~/.cache).");
    man_tag(out, "XDG_CONFIG_HOME", "Settings are in lectern/config below it (~/.config).");
    man_tag(out, "NO_COLOR", "When not empty: no colours.");
    buf_puts(out, ".SH EXAMPLES\n");
    man_tag(out, "lectern book.pdf", "Open a book in the reading room.");
    man_tag(out, "lectern ask -s book book.pdf \"Who is the narrator?\"",
            "Read it, and answer one question.");
    man_tag(out, "lectern ask -s book \"Where was she born?\"", "Another question, without reading again.");
    man_tag(out, "lectern store gc --budget 50G",
            "Keep the readings within 50 GB; texts and conversations stay.");
}

/* ---- completion ---- */

static void words_of(struct buf *out, const char *const *words)
{
    for (size_t i = 0; words && words[i]; i++)
        buf_printf(out, "%s%s", i ? " " : "", words[i]);
}

static void command_words(struct buf *out)
{
    for (size_t i = 1; i < CLI_COMMANDS; i++)
        buf_printf(out, "%s%s", i > 1 ? " " : "", cli_commands()[i].name);
}

static void sub_words(struct buf *out, const struct cli_command *command)
{
    for (size_t i = 0; i < command->n_subs; i++)
        buf_printf(out, "%s%s", i ? " " : "", command->subs[i].name);
}

static void option_words(struct buf *out, const struct cli_command *command)
{
    size_t n, shown = 0;
    const struct cli_option *o = cli_options(&n);
    for (size_t i = 0; i < n; i++) {
        if (!cli_takes(command, &o[i]))
            continue;
        if (o[i].letter)
            buf_printf(out, "%s-%c", shown++ ? " " : "", o[i].letter);
        buf_printf(out, "%s--%s", shown++ ? " " : "", o[i].name);
    }
}

/* The case arms that complete an option's value. */
static void bash_values(struct buf *out)
{
    size_t n;
    const struct cli_option *o = cli_options(&n);
    for (size_t i = 0; i < n; i++) {
        if (o[i].kind == CLI_FLAG)
            continue;
        buf_puts(out, "    ");
        if (o[i].letter)
            buf_printf(out, "-%c|", o[i].letter);
        buf_printf(out, "--%s) ", o[i].name);
        if (o[i].choices) {
            buf_puts(out, "COMPREPLY=($(compgen -W '");
            words_of(out, o[i].choices);
            buf_puts(out, "' -- \"$cur\")); ");
        } else if (o[i].complete != CLI_COMPLETE_NOTHING) {
            buf_printf(out, "COMPREPLY=($(compgen -%c -- \"$cur\")); ",
                       o[i].complete == CLI_COMPLETE_FILE ? 'f' : 'd');
        }
        buf_puts(out, "return ;;\n");
    }
}

static void bash(struct buf *out)
{
    const struct cli_command *all = cli_commands();
    buf_puts(out, "# SPDX-License-Identifier: Apache-2.0\n# Made by lectern --completion bash.\n"
                  "_lectern() {\n  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                  "  local command= options= subs= i\n  COMPREPLY=()\n  case $prev in\n");
    bash_values(out);
    buf_puts(out, "  esac\n  for ((i = 1; i < COMP_CWORD; i++)); do\n    case ${COMP_WORDS[i]} in\n    ");
    for (size_t i = 1; i < CLI_COMMANDS; i++)
        buf_printf(out, "%s%s", i > 1 ? "|" : "", all[i].name);
    buf_puts(out, ") command=${COMP_WORDS[i]}; break ;;\n    esac\n  done\n  case $command in\n");
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        buf_printf(out, "    %s) options='", i ? all[i].name : "''");
        option_words(out, &all[i]);
        buf_puts(out, "' subs='");
        if (i == CLI_READ || i == CLI_HELP)
            command_words(out);
        else
            sub_words(out, &all[i]);
        buf_puts(out, "' ;;\n");
    }
    buf_puts(out, "  esac\n  if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W \"$options\" -- \"$cur\"))\n"
                  "  else COMPREPLY=($(compgen -W \"$subs\" -- \"$cur\") $(compgen -f -- \"$cur\")); fi\n}\n"
                  "complete -o filenames -F _lectern lectern\n");
}

/* Text inside single quotes: a quote ends them, is escaped and begins them anew. `also`: other characters to
 * put a backslash before. */
static void quoted(struct buf *out, const char *text, const char *also)
{
    for (; *text; text++) {
        if (*text == '\'')
            buf_puts(out, "'\\''");
        else if (strchr(also, *text))
            buf_printf(out, "\\%c", *text);
        else
            buf_putc(out, *text);
    }
}

static void zsh_option(struct buf *out, const struct cli_option *o)
{
    if (o->letter)
        buf_printf(out, "      '(-%c --%s)'{-%c,--%s", o->letter, o->name, o->letter, o->name);
    else
        buf_printf(out, "      '--%s", o->name);
    if (o->letter)
        buf_puts(out, "}'");
    buf_puts(out, "[");
    quoted(out, o->help, "[]:\\");
    buf_puts(out, "]");
    if (o->kind != CLI_FLAG) {
        buf_puts(out, ":");
        quoted(out, o->value, "[]:\\");
        buf_puts(out, ":");
        if (o->choices) {
            buf_puts(out, "(");
            words_of(out, o->choices);
            buf_puts(out, ")");
        } else if (o->complete != CLI_COMPLETE_NOTHING) {
            buf_puts(out, o->complete == CLI_COMPLETE_FILE ? "_files" : "_files -/");
        } else {
            buf_puts(out, " ");
        }
    }
    buf_puts(out, "' \\\n");
}

/* What may follow a command word, beside options. */
static void zsh_words(struct buf *out, const struct cli_command *command)
{
    buf_printf(out, "_lectern_%s() { compadd -- ", command->id == CLI_READ ? "start" : command->name);
    if (command->n_subs)
        sub_words(out, command);
    else
        command_words(out);
    buf_puts(out, command->id == CLI_HELP ? "; }\n" : "; _files; }\n");
}

static void zsh(struct buf *out)
{
    const struct cli_command *all = cli_commands();
    size_t n;
    const struct cli_option *o = cli_options(&n);
    buf_puts(out, "#compdef lectern\n# SPDX-License-Identifier: Apache-2.0\n"
                  "# Made by lectern --completion zsh.\n");
    for (size_t i = 0; i < CLI_COMMANDS; i++)
        if (i == CLI_READ || i == CLI_HELP || all[i].n_subs)
            zsh_words(out, &all[i]);
    buf_puts(out, "_lectern() {\n  local command= i\n"
                  "  for ((i = 2; i < CURRENT; i++)); do\n    case ${words[i]} in\n    ");
    for (size_t i = 1; i < CLI_COMMANDS; i++)
        buf_printf(out, "%s%s", i > 1 ? "|" : "", all[i].name);
    buf_puts(out, ") command=${words[i]}; break ;;\n    esac\n  done\n  case $command in\n");
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        buf_printf(out, "  %s) _arguments \\\n", i ? all[i].name : "''");
        for (size_t k = 0; k < n; k++)
            if (cli_takes(&all[i], &o[k]))
                zsh_option(out, &o[k]);
        if (i == CLI_READ || i == CLI_HELP || all[i].n_subs)
            buf_printf(out, "      '*: :_lectern_%s' ;;\n", i ? all[i].name : "start");
        else
            buf_puts(out, "      '*:file:_files' ;;\n");
    }
    buf_puts(out, "  esac\n}\n_lectern \"$@\"\n");
}

/* fish takes \' inside single quotes. */
static void fish_text(struct buf *out, const char *text)
{
    buf_puts(out, " -d '");
    for (; *text; text++)
        buf_printf(out, "%s%c", *text == '\'' || *text == '\\' ? "\\" : "", *text);
    buf_puts(out, "'\n");
}

static void fish_option(struct buf *out, const char *condition, const struct cli_option *o)
{
    buf_printf(out, "complete -c lectern -n '%s' -l %s", condition, o->name);
    if (o->letter)
        buf_printf(out, " -s %c", o->letter);
    if (o->choices) {
        buf_puts(out, " -x -a '");
        words_of(out, o->choices);
        buf_puts(out, "'");
    } else if (o->kind != CLI_FLAG) {
        buf_puts(out, o->complete == CLI_COMPLETE_NOTHING ? " -x" : " -r -F");
    }
    fish_text(out, o->help);
}

static void fish(struct buf *out)
{
    const struct cli_command *all = cli_commands();
    size_t n;
    const struct cli_option *o = cli_options(&n);
    buf_puts(out, "# SPDX-License-Identifier: Apache-2.0\n# Made by lectern --completion fish.\n");
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        struct buf condition = {0};
        if (i)
            buf_printf(&condition, "__fish_seen_subcommand_from %s", all[i].name);
        else
            buf_puts(&condition, "__fish_use_subcommand");
        const char *when = condition.data ? condition.data : "";
        if (i) {
            buf_printf(out, "complete -c lectern -n __fish_use_subcommand -a %s", all[i].name);
            fish_text(out, all[i].summary);
        }
        for (size_t k = 0; k < all[i].n_subs; k++)
            buf_printf(out, "complete -c lectern -n '%s' -a %s\n", when, all[i].subs[k].name);
        for (size_t k = 0; k < n; k++)
            if (cli_takes(&all[i], &o[k]))
                fish_option(out, when, &o[k]);
        out->failed |= condition.failed;
        buf_free(&condition);
    }
}

int cli_completion(struct buf *out, const char *shell, struct err *e)
{
    if (strcmp(shell, "bash") == 0)
        bash(out);
    else if (strcmp(shell, "zsh") == 0)
        zsh(out);
    else if (strcmp(shell, "fish") == 0)
        fish(out);
    else
        return err_set(e, ERR_USAGE, "--completion wants bash, zsh or fish, not ‘%.80s’", shell);
    return out->failed ? err_memory(e, "the completion script") : 0;
}
