/* SPDX-License-Identifier: Apache-2.0 */
/* test_ui_screen.c - the whole reading room on a pseudo-terminal, with a made-up app behind its port.
 *
 * The program runs itself as a child on the terminal's other end ("--child"), sends keys, and reads the
 * screen through tests/support/vt.h. The child ends by returning from main, so a leak in it fails the test as
 * well when leaks are looked for.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "tests/support/vt.h"
#include "ui/ui.h"

#define NIHAO "\xE4\xBD\xA0\xE5\xA5\xBD"

/* ---------------------------------------------------------------- the made-up app, in the child */

struct app {
    struct ui_port *port;
    int guide_gone;
    const char *guide;
    int64_t ordinal;
};

static void app_library(struct app *a)
{
    struct ui_event ev = {.kind = UI_EVENT_LIBRARY};
    struct ui_library_row guide = {.name = (char *)(uintptr_t)a->guide,
                                   .title = (char *)"A guide",
                                   .documents = 1,
                                   .pages = 24,
                                   .tokens = 12345,
                                   .kv_bytes = 45200000,
                                   .last_opened = 86400};
    struct ui_library_row hostile = {.name = (char *)"evil\033]0;owned\007\033[2J", .title = (char *)NIHAO};
    int failed = a->guide_gone ? 0 : ui_event_add_row(&ev, &guide);
    if (!failed && !ui_event_add_row(&ev, &hostile))
        port_send_event(a->port, &ev, NULL);
}

static void app_status(struct app *a, const char *what)
{
    struct ui_event ev = {
        .kind = UI_EVENT_STATUS, .tokens = 12345, .tokens_limit = 131072, .kv_bytes = 45200000, .rate = 0};
    if (!what || !ui_event_text(&ev, what, strlen(what)))
        port_send_event(a->port, &ev, NULL);
}

static const struct ui_citation citations[] = {
    {.number = 1,
     .file = (char *)"guide.pdf",
     .page_index = 6,
     .page_label = (char *)"iv",
     .line_first = 3,
     .line_last = 4,
     .quote = (char *)"the quoted words",
     .state = UI_CITATION_VERIFIED},
    {.number = 2,
     .file = (char *)"notes.md",
     .page_index = -1,
     .line_first = 9,
     .state = UI_CITATION_PASSAGE},
};

static void app_session(struct app *a, const char *name)
{
    struct ui_event ev = {.kind = UI_EVENT_SESSION};
    struct ui_document d = {
        .title = (char *)"guide.pdf", .pages = 24, .pages_without_text = 2, .tokens = 12000};
    struct ui_turn t = {.ordinal = 1,
                        .question = (char *)"An earlier question?",
                        .answer = (char *)"An earlier answer, " NIHAO ".",
                        .citations = (struct ui_citation *)(uintptr_t)citations,
                        .n_citations = 2};
    if (!ui_event_name(&ev, name) && !ui_event_add_document(&ev, &d) && !ui_event_add_turn(&ev, &t))
        port_send_event(a->port, &ev, NULL);
    app_status(a, NULL);
}

static void app_ask(struct app *a, const char *q)
{
    struct ui_event ev = {.kind = UI_EVENT_ANSWER, .turn = ++a->ordinal, .rate = 38.2};
    char text[128];
    if (strstr(q, "fail")) {
        port_send_error(a->port, "the model said no", NULL);
        return;
    }
    for (int i = 0; strstr(q, "slow") && !cancel_requested(port_cancel(a->port)) && i < 2000; i++) {
        port_send_token(a->port, i % 10 ? "word " : "line\n", 5, NULL);
        usleep(10000);
    }
    ev.cancelled = cancel_requested(port_cancel(a->port));
    for (int i = 0; strstr(q, "long") && i < 100; i++) {
        snprintf(text, sizeof text, "This is line %d.\n", i);
        port_send_token(a->port, text, strlen(text), NULL);
    }
    if (!ev.cancelled) {
        snprintf(text, sizeof text, "Received %zu bytes; " NIHAO "\033[31m", strlen(q));
        for (const char *c = text; *c; c++) { /* byte by byte: pieces end inside characters */
            port_send_token(a->port, c, 1, NULL);
            usleep(500);
        }
        for (int i = 0; i < 2; i++)
            if (ui_event_add_citation(&ev, &citations[i]))
                return;
    }
    port_send_event(a->port, &ev, NULL);
}

static void app_source(struct app *a, const struct ui_request *r)
{
    struct ui_event ev = {.kind = UI_EVENT_SOURCE, .turn = r->turn, .number = r->number};
    struct buf b = {0};
    for (int i = 0; i < 60; i++)
        buf_printf(&b, "Source %d line %d.\n", r->number, i);
    ev.mark_first = b.len;
    buf_puts(&b, "the quoted words");
    ev.mark_last = b.len;
    buf_puts(&b, " and the rest.\n");
    if (!b.failed && !ui_event_text(&ev, b.data, b.len) && !ui_event_name(&ev, "guide.pdf, page iv"))
        port_send_event(a->port, &ev, NULL);
    buf_free(&b);
}

static void app_add(struct app *a, const struct ui_request *r)
{
    int big = r->n_paths == 1 && strcmp(r->paths[0], "big book.pdf") == 0;
    for (uint64_t i = 0; big && i < 2000 && !cancel_requested(port_cancel(a->port)); i++) {
        port_send_progress(a->port, "reading big book.pdf", 450, 1000, 812, 32, NULL);
        usleep(10000);
    }
    if (big)
        port_send_error(a->port, "stopped; what was read is kept", NULL);
    else
        app_session(a, r->name ? r->name : "added");
}

static void *app_thread(void *arg)
{
    struct app *a = arg;
    for (;;) {
        struct ui_request r;
        if (!port_next_request(a->port, -1, &r))
            continue;
        enum ui_request_kind kind = r.kind;
        if (kind == UI_REQUEST_LIST)
            app_library(a);
        else if (kind == UI_REQUEST_OPEN_SESSION)
            app_session(a, r.name);
        else if (kind == UI_REQUEST_ASK)
            app_ask(a, r.text);
        else if (kind == UI_REQUEST_SOURCE)
            app_source(a, &r);
        else if (kind == UI_REQUEST_ADD_PATHS)
            app_add(a, &r);
        else if (kind == UI_REQUEST_DELETE_SESSION)
            a->guide_gone = 1;
        else if (kind == UI_REQUEST_RENAME)
            a->guide = strcmp(r.text, "manual") == 0 ? "manual" : a->guide;
        if (kind == UI_REQUEST_DELETE_SESSION || kind == UI_REQUEST_RENAME)
            app_library(a);
        ui_request_fini(&r);
        if (kind == UI_REQUEST_QUIT)
            return NULL;
    }
}

static int child_main(const char *session)
{
    struct app a = {.guide = "guide", .ordinal = 1};
    struct ui_options options = {.session = *session ? session : NULL, .model = "Tiny-1M"};
    struct err e = {0};
    pthread_t thread;
    if (port_create(&a.port, 8, &e) || pthread_create(&thread, NULL, app_thread, &a))
        return 3;
    int status = ui_run(a.port, &options, &e);
    pthread_join(thread, NULL);
    port_free(a.port);
    if (status)
        fprintf(stderr, "%s\n", e.text);
    return status ? 4 : 0;
}

/* ---------------------------------------------------------------- the person, in the parent */

struct person {
    struct vt *vt;
    int fd;
    pid_t pid;
};

static struct person sit_down(const char *session, const char *no_color, int rows, int columns)
{
    struct person p = {.vt = vt_create(rows, columns)};
    struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
    assert_non_null(p.vt);
    p.pid = forkpty(&p.fd, NULL, NULL, &size);
    assert_true(p.pid >= 0);
    if (p.pid == 0) {
        setenv("TERM", "xterm", 1);
        setenv("LC_ALL", "C", 1); /* characters are UTF-8 all the same */
        setenv("NO_COLOR", no_color, 1);
        execl("/proc/self/exe", "test_ui_screen", "--child", session, (char *)NULL);
        _exit(9);
    }
    return p;
}

/* Reads what the program wrote for so long; returns 0 once it has gone. */
static int look(struct person *p, int ms)
{
    struct pollfd fd = {.fd = p->fd, .events = POLLIN};
    char bytes[4096];
    if (poll(&fd, 1, ms) <= 0)
        return 1;
    ssize_t n = read(p->fd, bytes, sizeof bytes);
    if (n > 0)
        vt_feed(p->vt, bytes, (size_t)n);
    return n > 0;
}

static void show(struct person *p, const char *why)
{
    fprintf(stderr, "%s; the screen is:\n", why);
    for (int r = 0; r < vt_rows(p->vt); r++)
        fprintf(stderr, "%3d|%s\n", r, vt_row(p->vt, r));
}

static int seen_from(struct person *p, int from, const char *text)
{
    double until = clock_seconds() + 15;
    while (vt_find(p->vt, from, text) < 0)
        if (clock_seconds() > until || !look(p, 50)) {
            if (vt_find(p->vt, from, text) >= 0)
                break;
            show(p, text);
            fail();
        }
    return vt_find(p->vt, from, text);
}

static int seen(struct person *p, const char *text)
{
    return seen_from(p, 0, text);
}

static void gone(struct person *p, const char *text)
{
    double until = clock_seconds() + 15;
    while (vt_find(p->vt, 0, text) >= 0)
        if (clock_seconds() > until || !look(p, 50)) {
            show(p, text);
            fail();
        }
}

static void press_bytes(struct person *p, const char *bytes, size_t n)
{
    while (n) { /* the terminal's buffer is short: what it echoes must be read meanwhile */
        struct pollfd fd = {.fd = p->fd, .events = POLLIN | POLLOUT};
        assert_true(poll(&fd, 1, 15000) > 0);
        if (fd.revents & POLLIN)
            look(p, 0);
        if (!(fd.revents & POLLOUT))
            continue;
        ssize_t done = write(p->fd, bytes, n < 512 ? n : 512);
        assert_true(done > 0 || errno == EAGAIN);
        if (done > 0) {
            bytes += done;
            n -= (size_t)done;
        }
    }
}

static void press(struct person *p, const char *keys)
{
    press_bytes(p, keys, strlen(keys));
}

static void resize(struct person *p, int rows, int columns)
{
    struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
    vt_resize(p->vt, rows, columns);
    assert_int_equal(ioctl(p->fd, TIOCSWINSZ, &size), 0);
}

/* The program ends by itself, well, and leaves the terminal as it was. */
static void leave(struct person *p)
{
    int status = -1;
    double until = clock_seconds() + 15;
    while (look(p, 100) && clock_seconds() < until)
        ;
    assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
    if (!(WIFEXITED(status) && WEXITSTATUS(status) == 0))
        show(p, "the program failed");
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_false(vt_mode(p->vt, 1049)); /* the other screen */
    assert_false(vt_mode(p->vt, 2004)); /* bracketed paste */
    assert_false(vt_mode(p->vt, 1000)); /* the mouse */
    assert_int_equal(vt_unknown(p->vt), 0);
    close(p->fd);
    vt_free(p->vt);
}

#define KEY(c) ((char[]){(c)&0x1F, 0})
#define ESC "\033"

static void test_read_and_ask(void **state)
{
    (void)state;
    struct person p = sit_down("", "", 24, 80);
    int row = seen(&p, "guide  A guide");
    assert_non_null(strstr(vt_row(p.vt, row), "12,345"));
    assert_non_null(strstr(vt_row(p.vt, row), "45.2 MB"));
    assert_true(vt_marked(p.vt, row, 1)); /* chosen */
    seen(&p, NIHAO);                      /* the hostile session's title is harmless */
    seen(&p, "evil^[]0;owned^G^[[2J");
    assert_int_equal(vt_find(p.vt, 0, "Lectern  library"), 0);
    seen_from(&p, 0, "Tiny-1M");
    assert_false(vt_cursor_shown(p.vt));
    press(&p, "\r");
    seen(&p, "# guide.pdf, 24 pages (2 without text), 12,000 tokens");
    seen(&p, "> An earlier question?");
    seen(&p, "An earlier answer, " NIHAO ".");
    seen(&p, "[1] guide.pdf, page iv, lines 3-4 (verified):");
    seen(&p, "[2] notes.md, line 9 (passage)");
    seen_from(&p, 23, "12,345 of 131,072 tokens | KV 45.2 MB");
    assert_true(vt_mode(p.vt, 2004));
    press(&p, "Wh\xC3\xA4t? q");
    seen_from(&p, 22, "> Wh\xC3\xA4t? q");
    assert_int_equal(vt_cursor_row(p.vt), 22);
    assert_int_equal(vt_cursor_column(p.vt), 9);
    press(&p, "\r");
    seen(&p, "Received 8 bytes; " NIHAO "^[[31m");
    seen_from(&p, 23, "38.2 tokens/s");
    press(&p, KEY('q'));
    leave(&p);
}

static void test_source(void **state)
{
    (void)state;
    struct person p = sit_down("guide", "", 24, 80);
    int row = seen(&p, "[2] notes.md");
    press(&p, KEY('p')); /* the last citation is chosen */
    while (!vt_marked(p.vt, row, 2 + 20))
        assert_true(look(&p, 1000));
    press(&p, KEY('p'));
    press(&p, KEY('o'));
    seen(&p, "[1] guide.pdf, page iv");
    row = seen(&p, "the quoted words and the rest.");
    assert_true(vt_marked(p.vt, row, 1) && vt_marked(p.vt, row, 16));
    assert_false(vt_marked(p.vt, row, 18));
    press(&p, "]");
    seen(&p, "Source 2 line 59.");
    press(&p, "]");
    seen(&p, "This is the last citation");
    press(&p, "g");
    seen(&p, "Source 2 line 0.");
    press(&p, "q");
    seen(&p, "> An earlier question?");
    press(&p, ESC "1"); /* Alt-1 */
    seen(&p, "Source 1 line 59.");
    press(&p, "?");
    seen(&p, "show the keys");
    gone(&p, "Source 1 line 59.");
    press(&p, ESC);
    seen(&p, "Source 1 line 59.");
    press(&p, ESC);
    row = seen(&p, "[2] notes.md");
    char click[64];
    snprintf(click, sizeof click, ESC "[<0;5;%dM" ESC "[<0;5;%dm", row + 1, row + 1);
    press(&p, click);
    seen(&p, "Source 2 line 59.");
    press(&p, "q");
    seen(&p, "> An earlier question?");
    press(&p, KEY('q'));
    leave(&p);
}

static void test_sizes(void **state)
{
    (void)state;
    struct person p = sit_down("guide", "", 24, 80);
    seen(&p, "An earlier question?");
    press(&p, "a draft");
    seen_from(&p, 22, "> a draft");
    resize(&p, 20, 60);
    seen_from(&p, 18, "> a draft");
    seen_from(&p, 19, "12,345 of 131,072");
    seen(&p, "An earlier question?");
    resize(&p, 5, 20);
    seen(&p, "20x5 is too small:");
    resize(&p, 40, 120);
    seen_from(&p, 38, "> a draft");
    seen(&p, "lines 3-4 (verified): \xE2\x80\x9Cthe quoted words\xE2\x80\x9D");
    seen_from(&p, 39, "F1 help");
    press(&p, ESC "OP"); /* F1 */
    seen(&p, "a character back");
    press(&p, " ");
    seen(&p, "Ctrl-Left, Alt-B");
    seen(&p, "a word back");
    resize(&p, 24, 80);
    seen_from(&p, 23, "Space more");
    press(&p, "\t\t");
    seen_from(&p, 22, "> a draft");
    press(&p, KEY('l'));
    seen_from(&p, 22, "> a draft");
    press(&p, KEY('q'));
    leave(&p);
}

static void test_stopping(void **state)
{
    (void)state;
    struct person p = sit_down("guide", "", 24, 80);
    seen(&p, "An earlier question?");
    press(&p, "slow\r");
    seen(&p, "word word");
    seen_from(&p, 23, "answering");
    press(&p, "the next draft");
    seen_from(&p, 22, "> the next draft");
    press(&p, ESC);
    seen(&p, "(stopped)");
    seen_from(&p, 22, "> the next draft"); /* nothing is lost */
    press(&p, KEY('u'));
    press(&p, "slow again\r");
    seen(&p, "> slow again");
    press(&p, KEY('c'));
    gone(&p, "answering");
    press(&p, KEY('u'));
    press(&p, "fail please\r");
    seen(&p, "! the model said no");
    seen_from(&p, 22, "> fail please"); /* the question is back */
    press(&p, KEY('c'));
    seen(&p, "Press Ctrl-C again to quit.");
    press(&p, KEY('c'));
    leave(&p);
}

/* Questions may be written while one is answered: they are answered in turn. */
static void test_queue(void **state)
{
    (void)state;
    struct person p = sit_down("guide", "", 40, 80);
    seen(&p, "An earlier question?");
    press(&p, "1\r22\r333\r");
    seen(&p, "Received 1 bytes");
    seen(&p, "Received 2 bytes");
    seen(&p, "Received 3 bytes");
    press(&p, ESC "[A" ESC "[A");
    seen_from(&p, 38, "> 22"); /* the history */
    press(&p, ESC "[B");
    seen_from(&p, 38, "> 333");
    press(&p, KEY('q'));
    leave(&p);
}

static void test_scrolling(void **state)
{
    (void)state;
    struct person p = sit_down("guide", "", 24, 80);
    seen(&p, "An earlier question?");
    press(&p, "long\r");
    seen(&p, "Received 4 bytes");
    seen(&p, "This is line 99.");
    press(&p, ESC "[5~" ESC "[5~"); /* PgUp */
    gone(&p, "Received 4 bytes");
    seen_from(&p, 23, "PgDn more");
    press(&p, ESC "[<64;5;5M"); /* the wheel */
    for (int i = 0; i < 10; i++)
        press(&p, ESC "[5~");
    seen(&p, "# guide.pdf");
    for (int i = 0; i < 10; i++)
        press(&p, ESC "[6~");
    seen(&p, "Received 4 bytes");
    press(&p, KEY('q'));
    leave(&p);
}

static void test_paste(void **state)
{
    (void)state;
    enum { LINES = 2000 };
    struct person p = sit_down("guide", "", 24, 80);
    struct buf b = {0};
    seen(&p, "An earlier question?");
    buf_puts(&b, ESC "[200~");
    for (int i = 0; i < LINES; i++)
        buf_puts(&b, "A line of text that is pasted, " NIHAO ", with a number.\r\n");
    buf_puts(&b, "end" ESC "[201~");
    assert_false(b.failed);
    press_bytes(&p, b.data, b.len);
    seen_from(&p, 22,
              "with a number.\xE2\x86\xB5"
              "end");
    press(&p, "\r");
    char expected[64]; /* every line end is one byte then */
    snprintf(expected, sizeof expected, "Received %zu bytes", b.len - LINES - 12);
    seen(&p, expected);
    buf_free(&b);
    /* keys inside a paste are text, and a character may arrive in pieces */
    press(&p, ESC "[200~x" ESC "OA" ESC "[201" ESC "[3~y" ESC "[201~");
    seen_from(&p, 22, "> x^[OA^[[201^[[3~y");
    press(&p, KEY('u'));
    press(&p, "\xE4");
    look(&p, 100);
    press(&p, "\xBD");
    look(&p, 100);
    press(&p, "\xA0!\xFF"
              "e\xCC");
    look(&p, 100);
    press(&p, "\x81.");
    seen_from(&p, 22,
              "> \xE4\xBD\xA0!\xEF\xBF\xBD"
              "e\xCC\x81.");
    press(&p, KEY('q'));
    leave(&p);
}

static void test_library_work(void **state)
{
    (void)state;
    struct person p = sit_down("", "", 24, 80);
    seen(&p, "guide  A guide");
    press(&p, "r");
    seen(&p, "New name: guide");
    press(&p, KEY('u'));
    press(&p, "manual\r");
    seen(&p, "manual  A guide");
    press(&p, "d");
    seen(&p, "Delete \"manual\"");
    press(&p, "n");
    gone(&p, "Delete \"manual\"");
    press(&p, "a'big book.pdf'\r");
    seen(&p, "reading big book.pdf 45 % | 812 tokens/s | 0:32 left");
    press(&p, ESC);
    seen(&p, "stopped; what was read is kept");
    press(&p, "a~/other.txt\r");
    seen_from(&p, 0, "Lectern  added");
    seen(&p, "An earlier question?");
    press(&p, "\t");
    seen(&p, "manual  A guide");
    press(&p, "d");
    seen(&p, "Delete \"manual\"");
    press(&p, "y");
    gone(&p, "manual");
    press(&p, "q");
    leave(&p);
}

static void test_colour(void **state)
{
    (void)state;
    struct person p = sit_down("guide", "", 24, 80);
    seen(&p, "[2] notes.md");
    assert_true(vt_coloured(p.vt));
    press(&p, KEY('q'));
    leave(&p);
    p = sit_down("guide", "1", 24, 80);
    int row = seen(&p, "[2] notes.md");
    assert_false(vt_coloured(p.vt));
    assert_true(vt_marked(p.vt, row, 2)); /* underlined instead */
    press(&p, KEY('q'));
    leave(&p);
}

static long cpu_ticks(pid_t pid)
{
    char path[64], line[1024] = "";
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(line, 1, sizeof line - 1, f);
    fclose(f);
    assert_true(n > 0);
    long user = -1, system = -1;
    char *at = strrchr(line, ')');
    assert_non_null(at);
    assert_int_equal(sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld", &user, &system),
                     2);
    return user + system;
}

/* Nothing happens, nothing is used; and a signal ends it with the terminal restored. */
static void test_idle_and_signal(void **state)
{
    (void)state;
    struct person p = sit_down("guide", "", 24, 80);
    seen(&p, "An earlier question?");
    while (vt_find(p.vt, 23, "answering") >= 0)
        look(&p, 100);
    look(&p, 300);
    long before = cpu_ticks(p.pid);
    double until = clock_seconds() + 1.5;
    while (clock_seconds() < until)
        look(&p, 200);
    assert_true(cpu_ticks(p.pid) - before <= 2);
    kill(p.pid, SIGTERM);
    leave(&p);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--child") == 0)
        return child_main(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_and_ask), cmocka_unit_test(test_source),
        cmocka_unit_test(test_sizes),        cmocka_unit_test(test_stopping),
        cmocka_unit_test(test_queue),        cmocka_unit_test(test_scrolling),
        cmocka_unit_test(test_paste),        cmocka_unit_test(test_library_work),
        cmocka_unit_test(test_colour),       cmocka_unit_test(test_idle_and_signal),
    };
    return cmocka_run_group_tests_name("ui screen", tests, NULL, NULL);
}
