/* SPDX-License-Identifier: Apache-2.0 */
/* test_real_needles.c - with the default page format, facts planted in real text (the guide, then English
 * prose) are found again by the default model, at three lengths and three depths: with the default split of
 * heads and with all of them.
 *
 * Each length is read once with its three facts in it, one at each depth; each question is a branch of its
 * own behind that text, so no answer can help another.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/model/model.h"
#include "engine/sample.h"
#include "engine/session.h"
#include "engine/token/chat.h"

enum { LENGTHS = 3, DEPTHS = 3, CASES = LENGTHS * DEPTHS, ANSWER_TOKENS = 40, NEEDED = 7 };

static const size_t LENGTH[LENGTHS] = {2048, 8192, 16384};
static const int DEPTH[DEPTHS] = {15, 50, 85}; /* percent */

/* What each place hides; no two share a word of the answer, and none occurs in the text. */
static const struct needle {
    const char *fact, *question, *answer;
} NEEDLES[CASES] = {
    {"The secret passphrase of the north gate is amber falcon.",
     "What is the secret passphrase of the north gate?", "amber falcon"},
    {"Professor Lindqvist keeps a pet tortoise called Barnaby.",
     "What is the name of Professor Lindqvist's pet tortoise?", "Barnaby"},
    {"The annual regatta of Port Orlay was won by the yacht Nightjar.",
     "Which yacht won the annual regatta of Port Orlay?", "Nightjar"},
    {"The password of the observatory's dome is velvet comet.",
     "What is the password of the observatory's dome?", "velvet comet"},
    {"The bridge at Kilmore was designed by the engineer Agnes Whitlock.",
     "Who designed the bridge at Kilmore?", "Whitlock"},
    {"The favourite dessert of Captain Moreau is rhubarb crumble.",
     "What is the favourite dessert of Captain Moreau?", "rhubarb"},
    {"The spare key of the boathouse hangs behind the brass trumpet.",
     "Where does the spare key of the boathouse hang?", "trumpet"},
    {"The secret code word of the southern tower is silver otter.",
     "What is the secret code word of the southern tower?", "silver otter"},
    {"The violin of Madame Duclos was made in the city of Cremona.",
     "In which city was the violin of Madame Duclos made?", "Cremona"},
};

struct bench {
    struct engine *g;
    struct chat *chat;
    struct session *s;
    struct token_list text; /* the opening, then the text */
    size_t opening;
};

static char *model, *adapter;

static int setup(void **state)
{
    (void)state;
    const char *given = getenv("LECTERN_TEST_MODEL"), *root = getenv("LECTERN_ROOT");
    char *cache = path_xdg("XDG_CACHE_HOME", ".cache");
    model = given ? strdup(given) : cache ? path_join(cache, "models/SmolLM2-135M-Instruct.Q4_1.gguf") : NULL;
    free(cache);
    adapter = path_join(root ? root : ".", "data/adapters/SmolLM2-135M-Instruct-128k");
    return !model || !adapter;
}

static int teardown(void **state)
{
    (void)state;
    free(model);
    free(adapter);
    return 0;
}

static void add_file(struct buf *text, const char *path)
{
    char *bytes;
    size_t n;
    struct err e = {0};
    if (file_read(path, 1 << 20, &bytes, &n, &e))
        fail_msg("%s", e.text);
    buf_add(text, bytes, n);
    buf_puts(text, "\n\n");
    free(bytes);
}

static void read_texts(struct buf *text)
{
    const char *root = getenv("LECTERN_ROOT");
    char pattern[4096];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/data/sample/guide/*.md", root ? root : ".");
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++)
        add_file(text, found.gl_pathv[i]);
    globfree(&found);
    snprintf(pattern, sizeof pattern, "%s/tests/golden/text/prose.txt", root ? root : ".");
    add_file(text, pattern);
    assert_false(text->failed);
    for (int i = 0; i < CASES; i++)
        assert_null(strcasestr(text->data, NEEDLES[i].answer));
}

static void bench_open(struct bench *b, double sparsity)
{
    struct err e = {0};
    struct buf text = {0};
    struct engine_options options = {.model_path = model,
                                     .adapter_path = adapter,
                                     .heads_path = adapter,
                                     .sparsity = sparsity,
                                     .sink = -1,
                                     .recent = -1}; /* and the default page format, which has to hold here */
    *b = (struct bench){.g = NULL};
    if (engine_open(&b->g, &options, &e) ||
        chat_open(engine_tokenizer(b->g), engine_gguf(b->g), &b->chat, &e) ||
        chat_corpus_open(b->chat, NULL, &b->text, &e))
        fail_msg("%s", e.text);
    b->opening = b->text.n;
    read_texts(&text);
    if (tokenizer_encode(engine_tokenizer(b->g), text.data, text.len, 0, &b->text, NULL, &e))
        fail_msg("%s", e.text);
    assert_true(b->text.n > LENGTH[LENGTHS - 1]);
    /* Where each token's text ends is not needed any more, only whether a line ends there. */
    for (size_t i = b->opening; i < b->text.n; i++)
        b->text.ends[i] = b->text.ends[i] && text.data[b->text.ends[i] - 1] == '\n';
    buf_free(&text);
}

static void bench_close(struct bench *b)
{
    session_free(b->s);
    chat_close(b->chat);
    token_list_fini(&b->text);
    engine_close(b->g);
}

static void append(struct bench *b, const uint32_t *ids, size_t n)
{
    struct err e = {0};
    struct append_options options = {.progress = NULL};
    if (n && session_append(b->s, ids, n, &options, &e))
        fail_msg("%s", e.text);
}

static void append_text(struct bench *b, const char *before, const char *text, const char *after)
{
    struct err e = {0};
    struct buf all = {0};
    struct token_list ids = {0};
    buf_printf(&all, "%s%s%s", before, text, after);
    if (all.failed || tokenizer_encode(engine_tokenizer(b->g), all.data, all.len, 0, &ids, NULL, &e))
        fail_msg("%s", e.text);
    append(b, ids.ids, ids.n);
    token_list_fini(&ids);
    buf_free(&all);
}

/* The end of a line at or before position `at`. */
static size_t line_end(const struct bench *b, size_t at)
{
    while (at > b->opening && !b->text.ends[at - 1])
        at--;
    return at;
}

static void ask(struct bench *b, const char *question, struct buf *answer)
{
    struct err e = {0};
    struct token_list ids = {0};
    if (chat_question(b->chat, 1, 0, question, strlen(question), &ids, &e))
        fail_msg("%s", e.text);
    append(b, ids.ids, ids.n);
    token_list_fini(&ids);
    for (int i = 0; i < ANSWER_TOKENS; i++) {
        uint32_t id = (uint32_t)sample_greedy(session_logits(b->s), engine_params(b->g)->V);
        if (chat_is_stop(b->chat, id))
            return;
        char piece[256];
        size_t n = tokenizer_piece(engine_tokenizer(b->g), id, piece, sizeof piece, 0);
        buf_add(answer, piece, n);
        append(b, &id, 1);
    }
}

/* Reads one length of text with its three facts in it, ending as a document does. */
static void read_planted(struct bench *b, int l)
{
    size_t at = 0;
    for (int d = 0; d < DEPTHS; d++) {
        size_t place = line_end(b, LENGTH[l] * (size_t)DEPTH[d] / 100);
        append(b, b->text.ids + at, place - at);
        append_text(b, "\n", NEEDLES[l * DEPTHS + d].fact, "\n\n");
        at = place;
    }
    append(b, b->text.ids + at, LENGTH[l] - at);
}

/* One question on a branch of its own; 1 when the answer has what it asks for. */
static int find(struct bench *b, int index)
{
    struct session_mark *mark;
    struct err e = {0};
    struct buf answer = {0};
    if (session_mark(b->s, &mark, &e))
        fail_msg("%s", e.text);
    ask(b, NEEDLES[index].question, &answer);
    buf_putc(&answer, 0);
    assert_false(answer.failed);
    int found = strcasestr(answer.data, NEEDLES[index].answer) != NULL;
    print_message("%5zu tokens, %2d %%: %s \"%s\"\n", LENGTH[index / DEPTHS], DEPTH[index % DEPTHS],
                  found ? "found " : "MISSED", answer.data);
    if (session_return(b->s, mark, &e))
        fail_msg("%s", e.text);
    session_mark_free(mark);
    buf_free(&answer);
    return found;
}

static void search(double sparsity, const char *name)
{
    if (access(model, R_OK)) {
        print_message("the default model is not here: run make model\n");
        skip();
    }
    struct bench b;
    struct err e = {0};
    int found = 0;
    double begun = clock_seconds();
    bench_open(&b, sparsity);
    for (int l = 0; l < LENGTHS; l++) {
        if (session_create(&b.s, b.g, &e))
            fail_msg("%s", e.text);
        read_planted(&b, l);
        for (int d = 0; d < DEPTHS; d++)
            found += find(&b, l * DEPTHS + d);
        session_free(b.s);
        b.s = NULL;
    }
    print_message("%s: %d of %d found, %.0f s\n", name, found, CASES, clock_seconds() - begun);
    bench_close(&b);
    assert_true(found >= NEEDED);
}

static void half_of_the_heads(void **state)
{
    (void)state;
    search(-1, "default split");
}

static void all_heads(void **state)
{
    (void)state;
    search(0, "every head retrieves");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(half_of_the_heads), cmocka_unit_test(all_heads)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
