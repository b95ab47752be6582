/* SPDX-License-Identifier: Apache-2.0 */
/* test_app_cli.c - the command line: every option's good and bad values, commands, nearest words, and that
 * help, manual and completions name everything that the table has. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/cli.h"
#include "app/config.h"
#include "kernels/kv_page.h"
#include "engine/base/file.h"

struct parsed {
    struct config c;
    const struct cli_command *command;
    struct err e;
    int rc;
};

/* Words separated by '|' (so that values may have blanks); "lectern" is put before them. */
static void parse(struct parsed *p, char *line)
{
    char *argv[60] = {(char *)(uintptr_t) "lectern"};
    int argc = 1;
    for (char *word; line && (word = strsep(&line, "|")) && argc < 60;)
        argv[argc++] = word;
    memset(p, 0, sizeof *p);
    config_init(&p->c);
    p->rc = cli_parse(argc, argv, &p->c, &p->command, &p->e);
}

/* The parsed strings point into `room`, a local array. */
#define PARSE(p, text)                                                                                       \
    char room[] = text;                                                                                      \
    struct parsed p;                                                                                         \
    parse(&p, room[0] ? room : NULL)

static void refused(const char *line, const char *expected)
{
    char room[400];
    struct parsed p;
    snprintf(room, sizeof room, "%s", line);
    parse(&p, room);
    if (p.rc != ERR_USAGE || !strstr(p.e.text, expected))
        fail_msg("%s: %d ‘%s’, expected ‘%s’", line, p.rc, p.e.text, expected);
    config_fini(&p.c);
}

static void nothing_is_the_reading_room(void **state)
{
    (void)state;
    PARSE(p, "");
    assert_int_equal(p.rc, 0);
    assert_int_equal(p.command->id, CLI_READ);
    assert_int_equal(p.c.n_args, 0);
    assert_int_equal(p.c.kv_format, KV_4);
    assert_string_equal(p.c.adapter, "auto");
    assert_true(p.c.sparsity < 0 && p.c.sink < 0 && p.c.recent < 0);
    assert_null(p.c.session);
    config_fini(&p.c);
}

static void options_of_every_kind(void **state)
{
    (void)state;
    PARSE(
        p,
        "ask|-s|my book|--temp=0.7|--top-p|0.9|--seed|18446744073709551615|--max-tokens|64|--json|--kv|raw|"
        "--sparsity|0.25|--sink|0|--recent|512|--threads=2|--kernels|avx2|--model|m.gguf|--adapter|none|"
        "--heads|none|--device|host|--weights|w4|--context|2M|--long|--quiet|--data-dir|/d|a.pdf|Who is it?");
    assert_int_equal(p.rc, 0);
    assert_int_equal(p.command->id, CLI_ASK);
    assert_string_equal(p.c.session, "my book");
    assert_true(p.c.temperature == 0.7 && p.c.top_p == 0.9 && p.c.sparsity == 0.25);
    assert_true(p.c.seed == UINT64_MAX);
    assert_int_equal(p.c.max_tokens, 64);
    assert_int_equal(p.c.kv_format, KV_RAW);
    assert_int_equal(p.c.sink, 0);
    assert_int_equal(p.c.recent, 512);
    assert_int_equal(p.c.threads, 2);
    assert_string_equal(p.c.kernels, "avx2");
    assert_string_equal(p.c.model_option, "m.gguf");
    assert_string_equal(p.c.adapter, "none");
    assert_string_equal(p.c.heads, "none");
    assert_string_equal(p.c.device, "host");
    assert_string_equal(p.c.weights, "w4");
    assert_true(p.c.context == 2 << 20);
    assert_true(p.c.json && p.c.long_context && p.c.quiet);
    assert_int_equal(p.c.n_args, 2);
    assert_string_equal(p.c.args[0], "a.pdf");
    assert_string_equal(p.c.args[1], "Who is it?");
    config_fini(&p.c);
}

static void options_before_the_command(void **state)
{
    (void)state;
    PARSE(p, "--data-dir|/d|-sX|add|f");
    assert_int_equal(p.rc, 0);
    assert_int_equal(p.command->id, CLI_ADD);
    assert_string_equal(p.c.session, "X");
    assert_string_equal(p.c.data_dir_option, "/d");
    assert_int_equal(p.c.n_args, 1);
    config_fini(&p.c);
}

static void the_last_of_equal_options_wins(void **state)
{
    (void)state;
    PARSE(p, "ask|--temp|1|--temp|0.5|q");
    assert_int_equal(p.rc, 0);
    assert_true(p.c.temperature == 0.5);
    config_fini(&p.c);
}

static void a_double_dash_ends_options_and_commands(void **state)
{
    (void)state;
    PARSE(p, "ask|--|--json");
    assert_int_equal(p.rc, 0);
    assert_int_equal(p.c.json, 0);
    assert_string_equal(p.c.args[0], "--json");
    config_fini(&p.c);
    refused("--|add", "no file ‘add’");
}

static void a_single_dash_is_a_word(void **state)
{
    (void)state;
    PARSE(p, "tokenize|-");
    assert_int_equal(p.rc, 0);
    assert_string_equal(p.c.args[0], "-");
    config_fini(&p.c);
}

static void bad_values_are_refused(void **state)
{
    (void)state;
    refused("ask|--temp|warm|q", "--temp wants a number from 0 to 100, not ‘warm’");
    refused("ask|--temp|nan|q", "--temp wants");
    refused("ask|--temp|-1|q", "--temp wants");
    refused("ask|--temp|1x|q", "--temp wants");
    refused("ask|--temp||q", "--temp wants");
    refused("ask|--top-p|0|q", "--top-p wants a number above 0 and up to 1");
    refused("ask|--top-p|1.01|q", "--top-p wants");
    refused("ask|--sparsity|1.5|q", "--sparsity wants");
    refused("ask|--seed|-1|q", "--seed wants");
    refused("ask|--seed|18446744073709551616|q", "--seed wants");
    refused("ask|--seed|+1|q", "--seed wants");
    refused("ask|--max-tokens|0|q", "--max-tokens wants");
    refused("ask|--max-tokens|1e3|q", "--max-tokens wants");
    refused("ask|--max-tokens|99999999999999999999|q", "--max-tokens wants");
    refused("ask|--recent|0|q", "--recent wants");
    refused("ask|--threads|0|q", "--threads wants");
    refused("ask|--kv|5|q", "--kv wants raw, kv8, k8v4, kv4, k4v2 or kv3, not ‘5’");
    refused("ask|--kernels|sse|q", "--kernels wants ref, avx2, avx512 or avx512vnni, not ‘sse’");
    refused("ask|--device|tpu|q", "--device wants auto, cpu, cuda or host, not ‘tpu’");
    refused("ask|--weights|w3|q", "--weights wants auto, f16");
    refused("ask|--context|63|q", "--context wants a number of tokens");
    refused("ask|--context|1.5M|q", "--context wants a number of tokens");
    refused("ask|--context|99999999999999999999K|q", "--context wants a number of tokens");
    refused("ask|--context|K|q", "--context wants a number of tokens");
    refused("ask|--json=1|q", "--json takes no value");
    refused("ask|q|--model", "--model wants MODEL after it");
    refused("ask|-s", "--session wants NAME after it");
    refused("ask|--session=|q", "--session wants NAME, not an empty word");
    refused("--completion|tcsh", "--completion wants bash, zsh or fish, not ‘tcsh’");
}

static void unknown_words_name_the_nearest(void **state)
{
    (void)state;
    refused("adf", "no command or file ‘adf’; did you mean ‘add’?");
    refused("sesions", "did you mean ‘sessions’?");
    refused("doctro", "did you mean ‘doctor’?");
    refused("tok", "did you mean ‘tokenize’?");
    refused("qqqq", "no command or file ‘qqqq’; lectern --help lists the commands");
    refused("no/such/file.pdf", "no file ‘no/such/file.pdf’");
    refused("ask|--jsno|q", "unknown option ‘--jsno’; did you mean ‘--json’?");
    refused("ask|--sed=4|q", "unknown option ‘--sed’; did you mean ‘--seed’?");
    refused("ask|--zzzzzz|q", "unknown option ‘--zzzzzz’; lectern --help lists them");
    refused("ask|-z|q", "unknown option ‘-z’");
    refused("sessions|lst", "lectern sessions has no ‘lst’; did you mean ‘list’?");
    refused("models|fly", "lectern models has no ‘fly’; there is list, get, show");
    refused("help|adn", "no command ‘adn’; did you mean ‘add’?");
    char longest[300];
    memset(longest, 'x', sizeof longest - 1);
    longest[0] = longest[1] = '-';
    longest[sizeof longest - 1] = '\0';
    refused(longest, "unknown option");
}

static void counts_of_words(void **state)
{
    (void)state;
    refused("ask", "lectern ask wants");
    refused("tokenize", "lectern tokenize wants FILE");
    refused("tokenize|a|b", "and got 2 words");
    refused("doctor|x", "lectern doctor wants nothing more, and got 1 word");
    refused("sessions|rename|a", "lectern sessions rename wants SESSION NEW");
    refused("sessions|list|a", "wants nothing more");
    refused("sessions|delete", "wants SESSION...");
    refused("eval", "lectern eval wants a further word: there is perplexity, kv");
    refused("eval|perplexity", "wants FILE");
    refused("eval|kv", "lectern eval kv wants FILE");
    refused("logits|--out|x", "lectern logits wants --tokens FILE and --out FILE");
}

static void options_that_mean_nothing_there(void **state)
{
    (void)state;
    refused("doctor|--temp|1", "--temp means nothing to ‘lectern doctor’; see lectern help doctor");
    refused("add|--yes|f", "--yes means nothing to ‘lectern add’; see lectern help add");
}

static void formats_of_keys_and_values(void **state)
{
    (void)state;
    size_t n, named = 0;
    const int *formats = kv_formats(&n);
    const struct cli_option *o = cli_options(&named), *kv = NULL;
    for (size_t i = 0; i < named; i++)
        kv = strcmp(o[i].name, "kv") == 0 ? &o[i] : kv;
    assert_non_null(kv);
    for (size_t i = 0; i < n; i++) { /* what is offered is what there is */
        char line[80];
        struct parsed p;
        assert_non_null(kv->choices[i]);
        assert_int_equal(kv_format_parse(kv->choices[i]), formats[i]);
        snprintf(line, sizeof line, "ask|--kv|%s|q", kv->choices[i]);
        parse(&p, line);
        assert_int_equal(p.rc, 0);
        assert_int_equal(p.c.kv_format, formats[i]);
        config_fini(&p.c);
    }
    assert_null(kv->choices[n]);
    PARSE(p, "ask|--kv|8|q");
    assert_int_equal(p.c.kv_format, KV_8);
    config_fini(&p.c);
    refused("ask|--kv|84|q", "--kv wants raw, kv8");
}

static void sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"1048576", 1048576},
                {"7B", 7},
                {"50G", 50000000000},
                {"50GB", 50000000000},
                {"1.5T", 1500000000000},
                {"2k", 2000},
                {"2Ki", 2048},
                {"0.5MiB", 524288},
                {"12.25K", 12250},
                {"3GiB", 3221225472}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        char line[80];
        struct parsed p;
        snprintf(line, sizeof line, "store|gc|--budget|%s|--leave-free=%s", good[i].text, good[i].text);
        parse(&p, line);
        if (p.rc || p.c.budget != good[i].bytes || p.c.leave_free != good[i].bytes)
            fail_msg("%s: %d, %llu bytes", good[i].text, p.rc, (unsigned long long)p.c.budget);
        config_fini(&p.c);
    }
    static const char *const bad[] = {
        "",    "G",   "-1",  "+1",  " 1",   "1 G", "1.",  ".5G",  "1.5",      "1.5B",
        "50X", "5GG", "5Gb", "5iB", "0x10", "1e9", "nan", "1,5G", "9999999T", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char line[80];
        snprintf(line, sizeof line, "store|gc|--budget|%s", bad[i]);
        refused(line, "--budget wants a size such as 50G, 1.5T, 800MiB or 0, not");
    }
}

/* What reads documents in keeps the budget. */
static void reading_takes_a_budget(void **state)
{
    (void)state;
    char lines[][80] = {"--session=x|--budget|2k|--leave-free=2k", "add|a.txt|--budget|2k|--leave-free=2k",
                        "ask|--budget|2k|--leave-free=2k|a.txt|Why?"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct parsed p;
        parse(&p, lines[i]);
        if (p.rc || p.c.budget != 2000 || p.c.leave_free != 2000)
            fail_msg("line %zu: %d, %llu bytes", i, p.rc, (unsigned long long)p.c.budget);
        config_fini(&p.c);
    }
}

static void options_of_one_subcommand(void **state)
{
    (void)state;
    refused("store|gc|--repair", "--repair means nothing to ‘lectern store gc’; see lectern help store");
    refused("store|pin|s|--budget|1G", "--budget means nothing to ‘lectern store pin’");
    refused("store|verify|--without-kv", "--without-kv means nothing");
    refused("sessions|--budget|1G", "--budget means nothing to ‘lectern sessions’");
    refused("store|export|s", "lectern store export wants SESSION FILE");
    refused("store|import|a|b|c", "and got 3 words");
    refused("store|verfy", "did you mean ‘verify’?");
    PARSE(p, "store|import|--json|a.lectern|new name|--without-kv");
    assert_int_equal(p.rc, 0);
    assert_int_equal(p.command->id, CLI_STORE);
    assert_string_equal(p.c.sub, "import");
    assert_true(p.c.json && p.c.without_kv && p.c.n_args == 2);
    config_fini(&p.c);
    char more[] = "store";
    parse(&p, more);
    assert_int_equal(p.rc, 0);
    assert_string_equal(p.c.sub, "stats");
    assert_true(p.c.budget == CONFIG_NOT_GIVEN && p.c.leave_free == CONFIG_NOT_GIVEN);
    config_fini(&p.c);
}

static void asking_for_text_checks_nothing_else(void **state)
{
    (void)state;
    PARSE(p, "add|--help");
    assert_int_equal(p.rc, 0);
    assert_int_equal(p.command->id, CLI_ADD);
    assert_true(p.c.help);
    config_fini(&p.c);
    char more[] = "--version";
    parse(&p, more);
    assert_int_equal(p.rc, 0);
    assert_true(p.c.version);
    config_fini(&p.c);
    char man[] = "--man";
    parse(&p, man);
    assert_true(p.rc == 0 && p.c.man);
    config_fini(&p.c);
}

static void subcommands_and_their_default(void **state)
{
    (void)state;
    PARSE(p, "sessions");
    assert_int_equal(p.rc, 0);
    assert_string_equal(p.c.sub, "list");
    config_fini(&p.c);
    char more[] = "sessions|rename|a|b";
    parse(&p, more);
    assert_int_equal(p.rc, 0);
    assert_string_equal(p.c.sub, "rename");
    assert_int_equal(p.c.n_args, 2);
    assert_string_equal(p.c.args[1], "b");
    config_fini(&p.c);
    char third[] = "eval|perplexity|--ctx|256|f";
    parse(&p, third);
    assert_int_equal(p.rc, 0);
    assert_int_equal(p.c.ctx, 256);
    config_fini(&p.c);
}

static void a_file_is_a_path(void **state)
{
    (void)state;
    char name[] = "/tmp/lectern-cli-XXXXXX", line[100];
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    close(fd);
    snprintf(line, sizeof line, "%s|-s|b", name);
    struct parsed p;
    parse(&p, line);
    assert_int_equal(p.rc, 0);
    assert_int_equal(p.command->id, CLI_READ);
    assert_string_equal(p.c.args[0], name);
    config_fini(&p.c);
    unlink(name);
}

/* ---- texts ---- */

static void the_table_is_sound(void **state)
{
    (void)state;
    size_t n;
    const struct cli_option *o = cli_options(&n);
    for (size_t i = 0; i < n; i++) {
        assert_true(o[i].help && o[i].help[0]);
        assert_true((o[i].kind == CLI_FLAG) == (o[i].value == NULL));
        int taken = 0;
        for (size_t k = 0; k < CLI_COMMANDS; k++)
            taken += cli_takes(&cli_commands()[k], &o[i]);
        assert_true(taken > 0);
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(o[i].name, o[j].name);
            assert_true(!o[i].letter || o[i].letter != o[j].letter);
            assert_true(o[i].offset != o[j].offset);
        }
    }
    for (size_t k = 0; k < CLI_COMMANDS; k++) {
        const struct cli_command *c = &cli_commands()[k];
        assert_int_equal(c->id, k);
        assert_true(c->name && c->summary && c->text && (c->args || c->n_subs));
        assert_true(k == CLI_READ || cli_command(c->name) == c);
    }
}

static void has(const struct buf *text, const char *word)
{
    if (!text->data || !strstr(text->data, word))
        fail_msg("nothing about ‘%s’", word);
}

static void help_lists_every_option_and_command(void **state)
{
    (void)state;
    size_t n;
    const struct cli_option *o = cli_options(&n);
    for (size_t k = 0; k < CLI_COMMANDS; k++) {
        const struct cli_command *c = &cli_commands()[k];
        struct buf text = {0};
        cli_help(&text, c);
        for (size_t i = 0; i < n; i++) {
            char dashed[64];
            snprintf(dashed, sizeof dashed, "  --%s", o[i].name);
            char lettered[64];
            snprintf(lettered, sizeof lettered, "-%c, --%s", o[i].letter ? o[i].letter : '?', o[i].name);
            int there = text.data && (strstr(text.data, dashed) || strstr(text.data, lettered));
            assert_int_equal(there, cli_takes(c, &o[i]));
        }
        for (size_t j = 0; j < c->n_subs; j++)
            has(&text, c->subs[j].name);
        for (char *line = text.data, *end; line && *line; line = end + 1) {
            end = strchr(line, '\n');
            assert_non_null(end);
            assert_true(end - line <= 80);
        }
        buf_free(&text);
    }
    struct buf text = {0};
    cli_help(&text, &cli_commands()[CLI_READ]);
    for (size_t k = 1; k < CLI_COMMANDS; k++)
        has(&text, cli_commands()[k].name);
    buf_free(&text);
}

static void manual_and_completions_name_everything(void **state)
{
    (void)state;
    static const char *const shells[] = {"bash", "zsh", "fish"};
    size_t n;
    const struct cli_option *o = cli_options(&n);
    struct err e;
    for (size_t s = 0; s < 4; s++) {
        struct buf text = {0};
        if (s == 3)
            cli_man(&text, "# Moving\nDown\tone line\n.x\t'quoted\n");
        else
            assert_int_equal(cli_completion(&text, shells[s], &e), 0);
        assert_false(text.failed);
        for (size_t i = 0; i < n; i++) {
            char name[64] = "";
            for (const char *p = o[i].name; *p; p++) /* roff escapes dashes */
                snprintf(name + strlen(name), sizeof name - strlen(name), s == 3 && *p == '-' ? "\\%c" : "%c",
                         *p);
            has(&text, name);
        }
        for (size_t k = 1; k < CLI_COMMANDS; k++) {
            has(&text, cli_commands()[k].name);
            for (size_t j = 0; j < cli_commands()[k].n_subs; j++)
                has(&text, cli_commands()[k].subs[j].name);
        }
        if (s == 3) {
            has(&text, ".SS Moving\n.TP\n.B Down\none line\n");
            has(&text, ".B \\&.x\n\\&'quoted\n");
        }
        buf_free(&text);
    }
    struct buf none = {0};
    assert_int_equal(cli_completion(&none, "tcsh", &e), ERR_USAGE);
    buf_free(&none);
}

static void nearest_word(void **state)
{
    (void)state;
    static const char *const words[] = {"add", "ask", "sessions", "tokenize", "detokenize"};
    const struct cli_words among = {words, 5};
    assert_string_equal(cli_nearest("sesssions", among), "sessions");
    assert_string_equal(cli_nearest("SESSIONS", among), "sessions");
    assert_string_equal(cli_nearest("detoken", among), "detokenize");
    assert_string_equal(cli_nearest("aks", among), "ask");
    assert_null(cli_nearest("", among));
    assert_null(cli_nearest("x", among));
    assert_null(cli_nearest("completely-different", among));
    assert_null(cli_nearest("add", (struct cli_words){NULL, 0}));
}

static void paths_follow_the_environment(void **state)
{
    (void)state;
    struct config c;
    struct err e;
    setenv("XDG_DATA_HOME", "/x/data", 1);
    setenv("XDG_CACHE_HOME", "/x/cache", 1);
    config_init(&c);
    assert_int_equal(config_resolve(&c, &e), 0);
    assert_string_equal(c.data_dir, "/x/data/lectern");
    assert_string_equal(c.models_dir, "/x/cache/lectern/models");
    char *sample = app_data_path(&c, "sample/guide.pdf");
    assert_non_null(strstr(sample, "/sample/guide.pdf"));
    free(sample);
    assert_non_null(strstr(app_worker_path(&c), "lectern-ingest"));
    config_fini(&c);
    config_init(&c);
    c.data_dir_option = "here";
    assert_int_equal(config_resolve(&c, &e), 0);
    assert_string_equal(c.data_dir, "here");
    config_fini(&c);
}

/* The settings file: `text` in XDG_CONFIG_HOME, and what a command line makes of it. */
static int resolved(const char *text, struct config *c, struct err *e)
{
    char folder[] = "/tmp/lectern-cli-XXXXXX", path[200];
    assert_non_null(mkdtemp(folder));
    setenv("XDG_CONFIG_HOME", folder, 1);
    snprintf(path, sizeof path, "%s/lectern", folder);
    assert_int_equal(dir_make(path, e), 0);
    snprintf(path, sizeof path, "%s/lectern/config", folder);
    assert_int_equal(file_write(path, text, strlen(text), e), 0);
    int rc = config_resolve(c, e);
    unlink(path);
    snprintf(path, sizeof path, "%s/lectern", folder);
    rmdir(path);
    rmdir(folder);
    unsetenv("XDG_CONFIG_HOME");
    return rc;
}

static void settings_come_after_the_command_line(void **state)
{
    (void)state;
    static const char text[] = "# kept small\n\n  budget =\t50G  # of readings\r\nleave-free=1GiB\n";
    struct err e;
    struct config c;
    config_init(&c);
    assert_int_equal(resolved(text, &c, &e), 0);
    assert_true(c.budget == 50000000000 && c.leave_free == 1 << 30);
    config_fini(&c);
    config_init(&c);
    c.budget = 7;
    assert_int_equal(resolved(text, &c, &e), 0);
    assert_true(c.budget == 7 && c.leave_free == 1 << 30);
    config_fini(&c);
    config_init(&c);
    assert_int_equal(resolved("", &c, &e), 0);
    assert_true(c.budget == CONFIG_NOT_GIVEN && c.leave_free == 0);
    config_fini(&c);
}

static void bad_settings_name_their_line(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"budget = 50G\nbudget 50G\n",
         "config, line 2: ‘budget 50G’ is no setting; a line reads NAME = VALUE"},
        {"bugdet = 50G", "line 1: there is no setting ‘bugdet’; did you mean ‘budget’?"},
        {"json = 1", "there is no setting ‘json’; lectern --man lists them under FILES"},
        {"\n\nleave-free = much", "line 3: --leave-free wants a size"},
        {"budget =", "--budget wants a size"},
        {"= 5", "there is no setting ‘’"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e;
        struct config c;
        config_init(&c);
        assert_int_equal(resolved(bad[i][0], &c, &e), ERR_FORMAT);
        if (!strstr(e.text, bad[i][1]))
            fail_msg("‘%s’, expected ‘%s’", e.text, bad[i][1]);
        config_fini(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_the_reading_room),
        cmocka_unit_test(options_of_every_kind),
        cmocka_unit_test(options_before_the_command),
        cmocka_unit_test(the_last_of_equal_options_wins),
        cmocka_unit_test(a_double_dash_ends_options_and_commands),
        cmocka_unit_test(a_single_dash_is_a_word),
        cmocka_unit_test(bad_values_are_refused),
        cmocka_unit_test(unknown_words_name_the_nearest),
        cmocka_unit_test(counts_of_words),
        cmocka_unit_test(options_that_mean_nothing_there),
        cmocka_unit_test(formats_of_keys_and_values),
        cmocka_unit_test(sizes),
        cmocka_unit_test(reading_takes_a_budget),
        cmocka_unit_test(options_of_one_subcommand),
        cmocka_unit_test(asking_for_text_checks_nothing_else),
        cmocka_unit_test(subcommands_and_their_default),
        cmocka_unit_test(a_file_is_a_path),
        cmocka_unit_test(the_table_is_sound),
        cmocka_unit_test(help_lists_every_option_and_command),
        cmocka_unit_test(manual_and_completions_name_everything),
        cmocka_unit_test(nearest_word),
        cmocka_unit_test(paths_follow_the_environment),
        cmocka_unit_test(settings_come_after_the_command_line),
        cmocka_unit_test(bad_settings_name_their_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
