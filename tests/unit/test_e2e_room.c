/* SPDX-License-Identifier: Apache-2.0 */
/* test_e2e_room.c - a person's evening, through a pseudo-terminal: the real program, model and sample PDF.
 *
 * The guide is read by `lectern add` first, so the room must restore it. Then: ask, watch the answer stream,
 * open its source, resize, look at the help, stop an answer, quit; the terminal must be as it was.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "tests/support/temp.h"
#include "tests/support/vt.h"

#define QUESTION "How many volumes does the Harbour Library of Vesterholm keep?"
#define FACT "41,872"

static const double PATIENCE = 120; /* seconds for any one thing to show */

struct terminal {
    int master, slave; /* the slave stays open here, so that its settings can be read afterwards */
    pid_t child;
    struct vt *vt;
    struct termios before;
    int streamed; /* a part of an answer was on the screen before its citations were */
};

static char *folder, *program, *guide, *model;

static void room_environment(void)
{
    setenv("TERM", "xterm", 1);
    setenv("LC_ALL", "C.UTF-8", 1);
    setenv("ESCDELAY", "25", 1);
    unsetenv("NO_COLOR");
}

static pid_t start(const struct terminal *t, const char *const *argv)
{
    pid_t child = fork();
    if (child)
        return child;
    room_environment();
    if (t) {
        setsid();
        ioctl(t->slave, TIOCSCTTY, 0);
        dup2(t->slave, 0);
        dup2(t->slave, 1);
        dup2(t->slave, 2);
    }
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static void resize(struct terminal *t, int rows, int columns)
{
    struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
    assert_int_equal(ioctl(t->master, TIOCSWINSZ, &size), 0);
    if (t->vt)
        vt_resize(t->vt, rows, columns);
}

static void open_terminal(struct terminal *t)
{
    *t = (struct terminal){.master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)};
    assert_true(t->master >= 0 && !grantpt(t->master) && !unlockpt(t->master));
    t->slave = open(ptsname(t->master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(t->slave >= 0);
    resize(t, 24, 80);
    assert_int_equal(tcgetattr(t->slave, &t->before), 0);
    assert_non_null(t->vt = vt_create(24, 80));
}

static int shows(struct terminal *t, const char *text)
{
    return vt_find(t->vt, 0, text) >= 0;
}

/* Takes what the program writes for a moment; 0 when it has gone. */
static int listen(struct terminal *t, int milliseconds)
{
    char bytes[4096];
    struct pollfd p = {.fd = t->master, .events = POLLIN};
    if (poll(&p, 1, milliseconds) <= 0)
        return 1;
    ssize_t n = read(t->master, bytes, sizeof bytes);
    if (n <= 0)
        return n < 0 && errno == EINTR;
    vt_feed(t->vt, bytes, (size_t)n);
    if (shows(t, FACT) && !shows(t, "[1] "))
        t->streamed = 1;
    return 1;
}

static void print_screen(struct terminal *t)
{
    for (int i = 0; i < vt_rows(t->vt); i++)
        print_message("|%s\n", vt_row(t->vt, i));
}

static void wait_for(struct terminal *t, const char *text)
{
    double end = clock_seconds() + PATIENCE;
    while (!shows(t, text)) {
        if (!listen(t, 100) || clock_seconds() > end) {
            print_screen(t);
            fail_msg("the screen never showed \"%s\"", text);
        }
    }
}

/* A frame comes in pieces, and the one before it may show the text unmarked: only the mark says it is there.
 */
static void wait_marked(struct terminal *t, const char *text)
{
    double end = clock_seconds() + PATIENCE;
    for (;;) {
        int row = vt_find(t->vt, 2, text);
        if (row >= 0 && vt_marked(t->vt, row, (int)(strstr(vt_row(t->vt, row), text) - vt_row(t->vt, row)))) {
            print_message("source: %s\n", vt_row(t->vt, row));
            return;
        }
        if (!listen(t, 100) || clock_seconds() > end) {
            print_screen(t);
            fail_msg("the screen never showed \"%s\" marked", text);
        }
    }
}

static void wait_gone(struct terminal *t, const char *text)
{
    double end = clock_seconds() + PATIENCE;
    while (shows(t, text)) {
        if (!listen(t, 100) || clock_seconds() > end) {
            print_screen(t);
            fail_msg("the screen went on showing \"%s\"", text);
        }
    }
}

/* The status is the last row, whatever the size. */
static void wait_last_row(struct terminal *t, const char *text)
{
    double end = clock_seconds() + PATIENCE;
    while (!strstr(vt_row(t->vt, vt_rows(t->vt) - 1), text)) {
        if (!listen(t, 100) || clock_seconds() > end) {
            print_screen(t);
            fail_msg("the last row never showed \"%s\"", text);
        }
    }
}

static void type(struct terminal *t, const char *keys)
{
    assert_int_equal(write(t->master, keys, strlen(keys)), strlen(keys));
}

/* Exit status of the child, which must end of itself. */
static int wait_end(struct terminal *t, pid_t child, double patience)
{
    int status = 0;
    double end = clock_seconds() + patience;
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (clock_seconds() > end) {
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
            fail_msg("the program did not end");
        }
        if (t)
            listen(t, 20);
        else
            usleep(20000);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- */

static int setup(void **state)
{
    (void)state;
    const char *root = getenv("LECTERN_ROOT"), *build = getenv("LECTERN_BUILD");
    const char *given = getenv("LECTERN_TEST_MODEL");
    char *cache = path_xdg("XDG_CACHE_HOME", ".cache");
    model = given ? strdup(given) : cache ? path_join(cache, "models/SmolLM2-135M-Instruct.Q4_1.gguf") : NULL;
    free(cache);
    program = path_join(build ? build : "build", "lectern");
    guide = path_join(root ? root : ".", "data/sample/guide.pdf");
    folder = temp_folder();
    return !model || !program || !guide;
}

static int teardown(void **state)
{
    (void)state;
    free(model);
    free(program);
    free(guide);
    temp_remove(folder);
    return 0;
}

static void ask_and_see(struct terminal *t)
{
    type(t, QUESTION "\r");
    wait_for(t, FACT);
    wait_for(t, "[1] guide.pdf, page 2");
    assert_true(t->streamed);
    print_message("answered: %s\n", vt_row(t->vt, vt_find(t->vt, 0, FACT)));
}

static void open_source(struct terminal *t)
{
    type(t, "\x0f"); /* Ctrl-O */
    wait_for(t, "page 2 (sheet 6)");
    wait_marked(t, FACT); /* the quoted words stand out */

    resize(t, 40, 120);
    wait_last_row(t, "of 131,072");
    wait_for(t, FACT);
    resize(t, 24, 80);
    wait_last_row(t, "of 131,072");
    type(t, "\x1b[6~"); /* PgDn: the smaller screen begins at the line that the larger one began at */
    wait_for(t, FACT);
    type(t, "\x1b");
    wait_gone(t, "page 2 (sheet 6)");
    wait_for(t, "[1] guide.pdf");
}

static void look_at_help(struct terminal *t)
{
    type(t, "?");
    wait_for(t, "stop the running step");
    type(t, "\x1b");
    wait_gone(t, "stop the running step");
}

/* Esc in the middle of an answer; the next question is answered all the same. */
static void stop_an_answer(struct terminal *t)
{
    type(t, "Describe every chapter of the guide at length.\r");
    wait_for(t, "> Describe every chapter");
    wait_for(t, "answering");
    type(t, "\x1b");
    wait_for(t, "stopped"); /* with a part of the answer, or before it began */
    type(t, "\x15What is the name of the library's cat?\r"); /* Ctrl-U: a question that failed is kept */
    wait_for(t, "Quire");
    wait_for(t, "[1] guide.pdf, page 10");
}

static void an_evening(void **state)
{
    (void)state;
    if (access(model, R_OK)) {
        print_message("the default model is not here: run make model\n");
        skip();
    }
    const char *const add[] = {program, "add",     "--quiet", "--data-dir", folder,
                               guide,   "--model", model,     NULL};
    double begun = clock_seconds();
    assert_int_equal(wait_end(NULL, start(NULL, add), 900), 0);
    print_message("the guide was read in %.1f s\n", clock_seconds() - begun);

    struct terminal t;
    open_terminal(&t);
    const char *const room[] = {program, "--data-dir", folder, guide, "--model", model, NULL};
    begun = clock_seconds();
    t.child = start(&t, room);
    wait_last_row(&t, " of 131,072 tokens | KV ");
    double open = clock_seconds() - begun;
    print_message("the room stood open after %.1f s\n", open);
    assert_true(vt_mode(t.vt, 1049)); /* on the alternative screen */
    ask_and_see(&t);
    open_source(&t);
    look_at_help(&t);
    stop_an_answer(&t);
    print_screen(&t);
    type(&t, "\x11"); /* Ctrl-Q */
    assert_int_equal(wait_end(&t, t.child, PATIENCE), 0);
    while (listen(&t, 100) && !vt_cursor_shown(t.vt))
        ;
    assert_false(vt_mode(t.vt, 1049));
    assert_true(vt_cursor_shown(t.vt));
    assert_int_equal(vt_unknown(t.vt), 0);
    struct termios after;
    assert_int_equal(tcgetattr(t.slave, &after), 0);
    assert_int_equal(after.c_lflag, t.before.c_lflag);
    assert_int_equal(after.c_iflag, t.before.c_iflag);
    assert_int_equal(after.c_oflag, t.before.c_oflag);
    close(t.slave);
    close(t.master);
    vt_free(t.vt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(an_evening)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
