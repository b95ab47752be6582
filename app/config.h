/* SPDX-License-Identifier: Apache-2.0 */
/* config.h - everything the command line decided, and the paths that follow from it.
 *
 * argv -> cli_parse -> struct config -> config_resolve -> the command. A command reads the config and changes
 * nothing of it. Strings that point into argv are borrowed; those under "paths" are owned.
 */
#ifndef LECTERN_APP_CONFIG_H
#define LECTERN_APP_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

#define DEFAULT_MODEL_FILE "SmolLM2-135M-Instruct.Q4_1.gguf"
#define CONFIG_NOT_GIVEN UINT64_MAX
#define CONFIG_FILE "config"

struct config {
    /* What to do. */
    int help, version, man;  /* flags: print and end */
    const char *completion;  /* bash, zsh or fish, or NULL */
    const char *sub;         /* name of the subcommand out of the table, NULL for commands without */
    const char *const *args; /* [n_args], positional, without command and subcommand */
    size_t n_args;
    const char **args_memory; /* the array that args points into; owned */

    /* Options; the defaults are those of config_init. */
    const char *session;         /* NULL: not given */
    const char *data_dir_option; /* NULL: not given */
    const char *model_option;    /* NULL: not given; a path, or a file name within models_dir */
    const char *adapter;         /* "auto", "none" or a folder */
    const char *heads;           /* "auto", "none" or a folder */
    double sparsity;             /* 0..1, negative: not given */
    int sink, recent;            /* tokens, negative: not given */
    int kv_format;               /* enum kv_format of kernels/kv_page.h */
    int threads;                 /* 0: all processors */
    const char *kernels;         /* NULL: the fastest here */
    const char *device;          /* "auto", "cpu", "cuda" or "host" */
    const char *weights;         /* "auto", or a format of kernels/device.h by its name */
    uint64_t context;            /* tokens that there has to be room for, 0: not given */
    double temperature;          /* 0 = greedy */
    double top_p;                /* (0, 1] */
    uint64_t seed;
    int max_tokens;           /* of an answer */
    int no_drafts;            /* one token a pass */
    int select;               /* pages that a retrieval head visits in a step, 0: all */
    int ctx;                  /* tokens of a perplexity window */
    const char *tokens, *out; /* files of `logits`, NULL: not given */
    int json, long_context, quiet, no_color, special, yes;
    uint64_t budget;     /* bytes that readings may take, CONFIG_NOT_GIVEN: no limit */
    uint64_t leave_free; /* bytes of the disk to leave to others; NOT_GIVEN becomes 0 in config_resolve */
    int repair, without_kv, changed;
    int count;                       /* tokens of a bench, 0: not given */
    const char *rows, *shape, *save; /* of `bench cuda`, NULL: not given */
    int minutes, others;

    /* Paths, owned, filled by config_resolve. */
    char *data_dir;   /* what lasts: the store; need not exist */
    char *models_dir; /* models by name; need not exist */
    char *shipped;    /* Lectern's own data folder (adapters, heads, models, sample) */
    char *worker;     /* the lectern-ingest program beside this one */
};

void config_init(struct config *c);

/* Fills the paths, and from the settings file (CONFIG_FILE below XDG_CONFIG_HOME/lectern) what the command
 * line left open. ERR_NOT_FOUND when neither HOME nor what replaces it is set. */
int config_resolve(struct config *c, struct err *e);

/* Sets in `kept` what the file says; a missing file is an empty one. Errors name the line. */
int config_file_read(const char *path, struct config *kept, struct err *e);

void config_fini(struct config *c); /* legal on an initialised config in any state */

/* A file of Lectern's own data folder, e.g. "sample/guide.pdf"; the caller frees, NULL when out of memory. It
 * need not exist. */
char *app_data_path(const struct config *c, const char *inside);

/* The ingest worker; borrowed from the config. */
const char *app_worker_path(const struct config *c);

#endif
