/* SPDX-License-Identifier: Apache-2.0 */
/* cli.c - argv into struct config by the table. Nothing is guessed: what is not understood is refused, with
 * the nearest word. Options may stand anywhere before `--`; the last of equal ones wins. */
#include "app/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/kv_page.h"

enum { WORD_MAX = 64, OPTIONS_MAX = 64 };

struct parse {
    int argc;
    char *const *argv;
    int at; /* next argument */
    struct config *c;
    const char **args; /* positional ones, [n] */
    size_t n;
    size_t plain; /* how many of them came before `--` */
    unsigned char seen[OPTIONS_MAX];
};

/* ---- the nearest word ---- */

static int lower(int ch)
{
    return ch >= 'A' && ch <= 'Z' ? ch - 'A' + 'a' : ch;
}

static size_t smallest(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Insertions, deletions, replacements and swapped neighbours between two short words. */
static size_t distance(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    size_t row[3][WORD_MAX + 1];
    if (na > WORD_MAX || nb > WORD_MAX)
        return SIZE_MAX;
    for (size_t j = 0; j <= nb; j++)
        row[0][j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t *now = row[i % 3];
        const size_t *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            int ca = lower(a[i - 1]), cb = lower(b[j - 1]);
            now[j] = smallest(last[j - 1] + (ca != cb), smallest(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && ca == lower(b[j - 2]) && lower(a[i - 2]) == cb)
                now[j] = smallest(now[j], before[j - 2] + 1);
        }
    }
    return row[na % 3][nb];
}

const char *cli_nearest(const char *word, struct cli_words among)
{
    size_t length = strlen(word);
    const char *best = NULL;
    size_t best_distance = SIZE_MAX;
    for (size_t i = 0; i < among.n && length; i++) {
        const char *w = among.words[i];
        size_t d = distance(word, w);
        if (length >= 3 && strncmp(word, w, length) == 0)
            d = 1; /* an abbreviation */
        size_t near = smallest(length, strlen(w)) / 3 + 1;
        if (d <= near && d < smallest(length, strlen(w)) && d < best_distance) {
            best = w;
            best_distance = d;
        }
    }
    return best;
}

/* ERR_USAGE "no WHAT ‘word’", with the nearest or with `else_say`. */
static int not_known(const char *what, const char *word, struct cli_words among, const char *else_say,
                     struct err *e)
{
    const char *near = cli_nearest(word, among);
    if (near)
        return err_set(e, ERR_USAGE, "%s ‘%.80s’; did you mean ‘%s’?", what, word, near);
    return err_set(e, ERR_USAGE, "%s ‘%.80s’; %s", what, word, else_say);
}

/* ---- options ---- */

static int option_named(const char *name, size_t length, char letter)
{
    size_t n;
    const struct cli_option *o = cli_options(&n);
    for (size_t i = 0; i < n; i++)
        if (letter ? o[i].letter == letter
                   : strlen(o[i].name) == length && memcmp(o[i].name, name, length) == 0)
            return (int)i;
    return -1;
}

static int unknown_option(const char *name, size_t length, struct err *e)
{
    size_t n;
    const struct cli_option *o = cli_options(&n);
    char typed[WORD_MAX + 1];
    const char *words[OPTIONS_MAX];
    length = smallest(length, WORD_MAX);
    memcpy(typed, name, length);
    typed[length] = '\0';
    for (size_t i = 0; i < n; i++)
        words[i] = o[i].name;
    const char *near = cli_nearest(typed, (struct cli_words){words, n});
    if (near)
        return err_set(e, ERR_USAGE, "unknown option ‘--%s’; did you mean ‘--%s’?", typed, near);
    return err_set(e, ERR_USAGE, "unknown option ‘--%s’; lectern --help lists them", typed);
}

static int bad_value(const struct cli_option *o, const char *value, const char *wanted, struct err *e)
{
    return err_set(e, ERR_USAGE, "--%s wants %s, not ‘%.80s’", o->name, wanted, value);
}

static int set_int(const struct cli_option *o, const char *value, int *to, struct err *e)
{
    char *end, wanted[80];
    errno = 0;
    long v = strtol(value, &end, 10);
    if (errno || end == value || *end || (double)v < o->lo || (double)v > o->hi) {
        snprintf(wanted, sizeof wanted, "a whole number from %.0f to %.0f", o->lo, o->hi);
        return bad_value(o, value, wanted, e);
    }
    *to = (int)v;
    return 0;
}

static int set_real(const struct cli_option *o, const char *value, double *to, struct err *e)
{
    char *end, wanted[80];
    errno = 0;
    double v = strtod(value, &end);
    /* NaN fails both comparisons. */
    if (errno || end == value || *end || !(v >= o->lo && v <= o->hi) || (o->above && v == o->lo)) {
        snprintf(wanted, sizeof wanted, "a number %s %g %s %g", o->above ? "above" : "from", o->lo,
                 o->above ? "and up to" : "to", o->hi);
        return bad_value(o, value, wanted, e);
    }
    *to = v;
    return 0;
}

static int set_u64(const struct cli_option *o, const char *value, uint64_t *to, struct err *e)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(value, &end, 10);
    if (errno || end == value || *end || value[0] < '0' || value[0] > '9')
        return bad_value(o, value, "a whole number from 0 to 18446744073709551615", e);
    *to = v;
    return 0;
}

/* What follows the number: K, M, G, T are powers of ten as in all that is printed, Ki and so on of two. */
static int unit_of(const char *unit, double *factor)
{
    static const char letters[] = "KMGT";
    const char *at = unit[0] ? strchr(letters, unit[0] == 'k' ? 'K' : unit[0]) : NULL;
    *factor = 1;
    if (at) {
        double step = unit[1] == 'i' ? 1024 : 1000;
        for (const char *l = letters; l <= at; l++)
            *factor *= step;
        unit += unit[1] == 'i' ? 2 : 1;
    }
    return strcmp(unit, "") == 0 || strcmp(unit, "B") == 0;
}

static int set_size(const struct cli_option *o, const char *value, uint64_t *to, struct err *e)
{
    static const char wanted[] = "a size such as 50G, 1.5T, 800MiB or 0";
    size_t digits = strspn(value, "0123456789"), all = digits;
    double factor, number = 0, place = 1;
    if (value[digits] == '.')
        all += 1 + strspn(value + digits + 1, "0123456789");
    if (digits == 0 || digits > 15 || value[all - 1] == '.' || !unit_of(value + all, &factor))
        return bad_value(o, value, wanted, e);
    if (all > digits && factor == 1) /* no half bytes */
        return bad_value(o, value, wanted, e);
    for (size_t i = 0; i < all; i++) {
        if (i > digits)
            place /= 10;
        if (value[i] != '.')
            number = i < digits ? number * 10 + (value[i] - '0') : number + (value[i] - '0') * place;
    }
    if (number * factor > 1e18)
        return bad_value(o, value, wanted, e);
    *to = (uint64_t)(number * factor + 0.5);
    return 0;
}

static int set_tokens(const struct cli_option *o, const char *value, uint64_t *to, struct err *e)
{
    uint64_t n = 0;
    const char *p = value;
    for (; *p >= '0' && *p <= '9' && n < UINT64_C(1) << 40; p++) /* room for M */
        n = n * 10 + (uint64_t)(*p - '0');
    int digits = p > value;
    if (*p == 'K' || *p == 'k' || *p == 'M' || *p == 'm') {
        n <<= *p == 'K' || *p == 'k' ? 10 : 20;
        p++;
    }
    if (!digits || *p || (double)n < o->lo || (double)n > o->hi)
        return bad_value(o, value, "a number of tokens such as 100000, 128K or 2M", e);
    *to = n;
    return 0;
}

static int set_choice(const struct cli_option *o, const char *value, void *to, struct err *e)
{
    size_t n = 0;
    for (; o->choices[n]; n++)
        if (o->kind != CLI_KV && strcmp(o->choices[n], value) == 0) {
            *(const char **)to = o->choices[n];
            return 0;
        }
    int format = o->kind == CLI_KV ? kv_format_parse(value) : 0;
    if (format) {
        *(int *)to = format;
        return 0;
    }
    struct buf wanted = {0};
    for (size_t i = 0; i < n; i++)
        buf_printf(&wanted, "%s%s", i == 0 ? "" : i + 1 == n ? " or " : ", ", o->choices[i]);
    int rc = bad_value(o, value, wanted.data ? wanted.data : "another value", e);
    buf_free(&wanted);
    return rc;
}

static int set_option(struct parse *p, const struct cli_option *o, const char *value, struct err *e)
{
    void *to = (char *)p->c + o->offset;
    switch (o->kind) {
    case CLI_FLAG:
        *(int *)to = 1;
        return 0;
    case CLI_TEXT:
        if (!value[0])
            return err_set(e, ERR_USAGE, "--%s wants %s, not an empty word", o->name, o->value);
        *(const char **)to = value;
        return 0;
    case CLI_INT:
        return set_int(o, value, to, e);
    case CLI_U64:
        return set_u64(o, value, to, e);
    case CLI_REAL:
        return set_real(o, value, to, e);
    case CLI_SIZE:
        return set_size(o, value, to, e);
    case CLI_TOKENS:
        return set_tokens(o, value, to, e);
    case CLI_CHOICE:
    case CLI_KV:
        return set_choice(o, value, to, e);
    }
    return err_set(e, ERR_USAGE, "--%s is not handled", o->name);
}

int cli_set(struct config *c, const char *name, const char *value, struct err *e)
{
    size_t n, known = 0;
    const struct cli_option *o = cli_options(&n);
    const char *words[OPTIONS_MAX];
    struct parse p = {.c = c};
    for (size_t i = 0; i < n; i++) {
        if (o[i].kept && strcmp(o[i].name, name) == 0)
            return set_option(&p, &o[i], value, e);
        if (o[i].kept)
            words[known++] = o[i].name;
    }
    return not_known("there is no setting", name, (struct cli_words){words, known},
                     "lectern --man lists them under FILES", e);
}

/* argv[at] is "--name", "--name=value", "-l", "-lvalue" or "-l value". */
static int take_option(struct parse *p, struct err *e)
{
    size_t n;
    const struct cli_option *table = cli_options(&n);
    const char *word = p->argv[p->at++], *value = NULL;
    int index;
    if (word[1] == '-') {
        const char *equals = strchr(word, '=');
        size_t length = equals ? (size_t)(equals - word) - 2 : strlen(word + 2);
        index = option_named(word + 2, length, 0);
        if (index < 0)
            return unknown_option(word + 2, length, e);
        value = equals ? equals + 1 : NULL;
    } else {
        index = option_named(NULL, 0, word[1]);
        if (index < 0)
            return err_set(e, ERR_USAGE, "unknown option ‘%.80s’; lectern --help lists them", word);
        value = word[2] ? word + 2 : NULL;
    }
    const struct cli_option *o = &table[index];
    if (o->kind == CLI_FLAG && value)
        return err_set(e, ERR_USAGE, "--%s takes no value", o->name);
    if (o->kind != CLI_FLAG && !value) {
        if (p->at >= p->argc)
            return err_set(e, ERR_USAGE, "--%s wants %s after it", o->name, o->value);
        value = p->argv[p->at++];
    }
    p->seen[index] = 1;
    return set_option(p, o, value, e);
}

/* ---- the whole line ---- */

static int check_options(const struct parse *p, const struct cli_command *command, struct err *e)
{
    size_t n;
    const struct cli_option *o = cli_options(&n);
    for (size_t i = 0; i < n; i++)
        if (p->seen[i] && !cli_takes(command, &o[i]))
            return err_set(e, ERR_USAGE, "--%s means nothing to ‘lectern%s%s’; see lectern help%s%s",
                           o[i].name, command->name[0] ? " " : "", command->name, command->name[0] ? " " : "",
                           command->name);
    return 0;
}

static int check_count(const char *name, const char *args, int lo, int hi, size_t n, struct err *e)
{
    if (n >= (size_t)lo && (hi < 0 || n <= (size_t)hi))
        return 0;
    if (n < (size_t)lo)
        return err_set(e, ERR_USAGE, "%s wants %s", name, args);
    return err_set(e, ERR_USAGE, "%s wants %s, and got %zu %s", name, args[0] ? args : "nothing more", n,
                   n == 1 ? "word" : "words");
}

/* An option of another subcommand is refused as one of another command is. */
static int check_sub_options(const struct parse *p, const struct cli_command *command,
                             const struct cli_sub *sub, struct err *e)
{
    size_t n;
    const struct cli_option *o = cli_options(&n);
    unsigned others = 0;
    for (size_t i = 0; i < command->n_subs; i++)
        others |= command->subs[i].groups;
    for (size_t i = 0; i < n; i++)
        if (p->seen[i] && (o[i].group & others) && !(o[i].group & sub->groups))
            return err_set(e, ERR_USAGE, "--%s means nothing to ‘lectern %s %s’; see lectern help %s",
                           o[i].name, command->name, sub->name, command->name);
    return 0;
}

static int choose_sub(const struct parse *p, struct config *c, const struct cli_command *command,
                      struct err *e)
{
    const char *words[16];
    char name[80];
    const struct cli_sub *sub = NULL;
    for (size_t i = 0; i < command->n_subs; i++) {
        words[i] = command->subs[i].name;
        if (c->n_args && strcmp(c->args[0], words[i]) == 0)
            sub = &command->subs[i];
    }
    if (sub) {
        c->args++;
        c->n_args--;
    } else if (c->n_args || command->sub_needed) {
        struct buf say = {0};
        for (size_t i = 0; i < command->n_subs; i++)
            buf_printf(&say, "%s%s", i ? ", " : "there is ", words[i]);
        int rc;
        if (c->n_args) {
            snprintf(name, sizeof name, "lectern %s has no", command->name);
            rc = not_known(name, c->args[0], (struct cli_words){words, command->n_subs},
                           say.data ? say.data : "see its help", e);
        } else {
            rc = err_set(e, ERR_USAGE, "lectern %s wants a further word: %s", command->name,
                         say.data ? say.data : "see its help");
        }
        buf_free(&say);
        return rc;
    } else {
        sub = &command->subs[0];
    }
    c->sub = sub->name;
    snprintf(name, sizeof name, "lectern %s %s", command->name, sub->name);
    int rc = check_sub_options(p, command, sub, e);
    return rc ? rc : check_count(name, sub->args, sub->min_args, sub->max_args, c->n_args, e);
}

/* For the reading room every word is a path, and a path that is not there may be a mistyped command. */
static int check_paths(const struct parse *p, struct err *e)
{
    const char *words[CLI_COMMANDS];
    size_t n = 0;
    for (size_t i = 0; i < CLI_COMMANDS; i++)
        if (cli_commands()[i].name[0])
            words[n++] = cli_commands()[i].name;
    for (size_t i = 0; i < p->n; i++) {
        if (access(p->args[i], F_OK) == 0)
            continue;
        if (i == 0 && p->plain > 0 && !strchr(p->args[i], '/'))
            return not_known("no command or file", p->args[i], (struct cli_words){words, n},
                             "lectern --help lists the commands", e);
        return err_set(e, ERR_USAGE, "no file ‘%.300s’", p->args[i]);
    }
    return 0;
}

static int check_command(struct parse *p, const struct cli_command *command, struct err *e)
{
    struct config *c = p->c;
    char name[80];
    int rc = check_options(p, command, e);
    if (rc)
        return rc;
    if (command->n_subs)
        return choose_sub(p, c, command, e);
    if (command->id == CLI_READ)
        return check_paths(p, e);
    if (command->id == CLI_HELP && c->n_args && !cli_command(c->args[0])) {
        const char *words[CLI_COMMANDS];
        for (size_t i = 1; i < CLI_COMMANDS; i++)
            words[i - 1] = cli_commands()[i].name;
        return not_known("no command", c->args[0], (struct cli_words){words, CLI_COMMANDS - 1},
                         "lectern --help lists them", e);
    }
    snprintf(name, sizeof name, "lectern %s", command->name);
    if (command->id == CLI_LOGITS && (!c->tokens || !c->out))
        return err_set(e, ERR_USAGE, "%s wants --tokens FILE and --out FILE", name);
    if (command->id == CLI_ADD && c->changed)
        return check_count("lectern add --changed", "", 0, 0, c->n_args, e);
    return check_count(name, command->args, command->min_args, command->max_args, c->n_args, e);
}

static int collect(struct parse *p, struct err *e)
{
    int rc = 0, ended = 0;
    while (!rc && p->at < p->argc) {
        const char *word = p->argv[p->at];
        if (!ended && strcmp(word, "--") == 0) {
            ended = 1;
            p->at++;
        } else if (!ended && word[0] == '-' && word[1]) {
            rc = take_option(p, e);
        } else {
            p->args[p->n++] = word;
            p->plain += !ended;
            p->at++;
        }
    }
    return rc;
}

int cli_parse(int argc, char *const *argv, struct config *c, const struct cli_command **command,
              struct err *e)
{
    struct parse p = {.argc = argc, .argv = argv, .at = 1, .c = c};
    *command = &cli_commands()[CLI_READ];
    p.args = c->args_memory = calloc((size_t)(argc > 0 ? argc : 0) + 1, sizeof *p.args);
    if (!p.args)
        return err_memory(e, "the command line");
    int rc = collect(&p, e);
    c->args = p.args;
    c->n_args = p.n;
    if (p.plain > 0 && cli_command(p.args[0])) {
        *command = cli_command(p.args[0]);
        c->args++;
        c->n_args--;
    }
    if (rc || c->help || c->version || c->man || c->completion)
        return rc;
    return check_command(&p, *command, e);
}
