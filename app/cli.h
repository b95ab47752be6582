/* SPDX-License-Identifier: Apache-2.0 */
/* cli.h - one table of commands and options, and what is made of it: the parser, the help, the shell
 * completions and the manual page.
 *
 * Invariant: nothing about a command or an option is said outside cli_table.c, so the four never disagree.
 * This module prints nothing and runs nothing; main.c does.
 */
#ifndef LECTERN_APP_CLI_H
#define LECTERN_APP_CLI_H

#include <stddef.h>

#include "app/config.h"
#include "engine/base/buf.h"
#include "engine/base/err.h"

#define LECTERN_VERSION "0.1.0"

enum cli_id {
    CLI_READ, /* no command word: the reading room */
    CLI_ADD,
    CLI_ASK,
    CLI_SESSIONS,
    CLI_STORE,
    CLI_MODELS,
    CLI_HEADS,
    CLI_DOCTOR,
    CLI_TOKENIZE,
    CLI_DETOKENIZE,
    CLI_LOGITS,
    CLI_EVAL,
    CLI_BENCH,
    CLI_HELP,
    CLI_COMMANDS
};

/* What a command understands; an option belongs to one group, a command names those it takes. */
enum cli_group {
    CLI_ANY = 1 << 0,   /* every command */
    CLI_TOP = 1 << 1,   /* the program itself, before any command */
    CLI_NAMED = 1 << 2, /* --session */
    CLI_MODEL = 1 << 3, /* which model and how its memory is kept */
    CLI_SAMPLE = 1 << 4,
    CLI_JSON = 1 << 5,
    CLI_LONG = 1 << 6,
    CLI_SPECIAL = 1 << 7,
    CLI_FILES = 1 << 8, /* --tokens, --out */
    CLI_CTX = 1 << 9,
    CLI_YES = 1 << 10,
    CLI_KVONLY = 1 << 11, /* --kv alone; CLI_MODEL has it too */
    CLI_BUDGET = 1 << 12, /* --budget, --leave-free */
    CLI_REPAIR = 1 << 13,
    CLI_WITHOUT_KV = 1 << 14,
    CLI_CHANGED = 1 << 15,
    CLI_COUNT = 1 << 16,
    CLI_CARD = 1 << 20, /* of `bench cuda` */
};

enum cli_kind {
    CLI_FLAG,   /* int = 1 */
    CLI_TEXT,   /* const char * */
    CLI_INT,    /* int in [lo, hi] */
    CLI_U64,    /* uint64_t */
    CLI_REAL,   /* double in [lo, hi]; lo itself only without `above` */
    CLI_CHOICE, /* const char *, one of choices */
    CLI_KV,     /* int: enum kv_format by its name, or by its number for old scripts */
    CLI_TOKENS, /* uint64_t in [lo, hi]; "128K" is 131,072 and "1M" 1,048,576, as contexts are named */
    CLI_SIZE,   /* uint64_t bytes: "50G", "1.5 TB" without the blank, "512MiB" */
};

enum cli_complete { CLI_COMPLETE_NOTHING, CLI_COMPLETE_FILE, CLI_COMPLETE_FOLDER };

struct cli_option {
    const char *name; /* without the dashes */
    char letter;      /* or 0 */
    enum cli_kind kind;
    const char *value; /* its name in the help, NULL for a flag */
    size_t offset;     /* in struct config */
    unsigned group;
    double lo, hi;
    int above;                  /* lo is excluded */
    const char *const *choices; /* NULL-terminated, or NULL; also what a completion offers */
    enum cli_complete complete;
    int kept; /* may stand in the settings file */
    const char *help;
};

struct cli_sub {
    const char *name;
    const char *args; /* for the help, "" for none */
    const char *summary;
    int min_args, max_args; /* max -1: any number */
    unsigned groups;        /* options that of the command's subs only those take that name them */
};

struct cli_command {
    enum cli_id id;
    const char *name; /* "" for the reading room */
    const char *args; /* for the help; commands with subcommands have theirs there */
    const char *summary;
    const char *text; /* further lines of help, or "" */
    unsigned groups;  /* options it takes; CLI_ANY is implied */
    int min_args, max_args;
    const struct cli_sub *subs; /* [n_subs]; the first is the default unless sub_needed */
    size_t n_subs;
    int sub_needed;
};

/* The tables: [CLI_COMMANDS], indexed by id, and [*n]. */
const struct cli_command *cli_commands(void);
const struct cli_option *cli_options(size_t *n);
int cli_takes(const struct cli_command *command, const struct cli_option *option);

/* NULL when there is no such command. */
const struct cli_command *cli_command(const char *name);

/* Fills c (config_init was called) and *command. ERR_USAGE with a line that names the nearest word when
 * something is not understood; with --help, --version, --man or --completion nothing but the options is
 * checked. */
int cli_parse(int argc, char *const *argv, struct config *c, const struct cli_command **command,
              struct err *e);

/* Sets the option of that name, if it is one that may be kept in the settings file. ERR_USAGE as cli_parse.
 */
int cli_set(struct config *c, const char *name, const char *value, struct err *e);

/* The word nearest to `word`, or NULL when none is near. */
struct cli_words {
    const char *const *words;
    size_t n;
};
const char *cli_nearest(const char *word, struct cli_words among);

/* Each appends text. help: of one command, or of the whole program for CLI_READ. */
void cli_help(struct buf *out, const struct cli_command *command);
/* Roff with the man macros. `keys`: lines "KEY<tab>MEANING" with headings "# NAME", as ui_keys_text gives. */
void cli_man(struct buf *out, const char *keys);
/* shell: one of the choices of --completion. */
int cli_completion(struct buf *out, const char *shell, struct err *e);

#endif
