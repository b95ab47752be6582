/* SPDX-License-Identifier: Apache-2.0 */
/* test_ui_port.c - the queues between two threads: order, bounds, cancelling, ending. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "ui/port.h"

static struct ui_port *open_port(size_t capacity)
{
    struct ui_port *p;
    struct err e;
    assert_int_equal(port_create(&p, capacity, &e), 0);
    return p;
}

static int ask(struct ui_port *p, const char *text, struct err *e)
{
    struct ui_request r = {.kind = UI_REQUEST_ASK};
    assert_int_equal(ui_request_text(&r, text), 0);
    return port_send_request(p, &r, e);
}

static void just(struct ui_port *p, enum ui_request_kind kind)
{
    struct ui_request r = {.kind = kind};
    assert_int_equal(port_send_request(p, &r, NULL), 0);
}

static int wakes(struct ui_port *p)
{
    struct pollfd fd = {.fd = port_wake_fd(p), .events = POLLIN};
    return poll(&fd, 1, 0) == 1;
}

static void test_requests(void **state)
{
    (void)state;
    struct ui_port *p = open_port(2);
    struct ui_request r;
    struct err e = {0};
    double start = clock_seconds();
    assert_int_equal(port_next_request(p, 0.05, &r), 0);
    assert_true(clock_seconds() - start >= 0.04);
    assert_int_equal(ask(p, "one", &e), 0);
    assert_int_equal(ask(p, "two", &e), 0);
    assert_int_equal(ask(p, "three", &e), ERR_BUSY); /* bounded, and never blocks */
    assert_true(e.text[0] != 0);
    just(p, UI_REQUEST_CANCEL); /* always succeeds */
    assert_true(cancel_requested(port_cancel(p)));
    assert_int_equal(port_next_request(p, -1, &r), 1);
    assert_string_equal(r.text, "one");
    ui_request_fini(&r);
    port_free(p); /* frees "two" */
}

/* What was sent before the cancel stays cancelled, what comes after it runs. */
static void test_cancel(void **state)
{
    (void)state;
    struct ui_port *p = open_port(0);
    struct ui_request r;
    assert_int_equal(ask(p, "before", NULL), 0);
    just(p, UI_REQUEST_CANCEL);
    assert_int_equal(ask(p, "after", NULL), 0);
    assert_int_equal(port_next_request(p, -1, &r), 1);
    assert_string_equal(r.text, "before");
    ui_request_fini(&r);
    assert_true(cancel_requested(port_cancel(p)));
    assert_int_equal(port_next_request(p, -1, &r), 1);
    assert_int_equal(r.kind, UI_REQUEST_CANCEL);
    assert_true(cancel_requested(port_cancel(p)));
    assert_int_equal(port_next_request(p, -1, &r), 1);
    assert_string_equal(r.text, "after");
    assert_false(cancel_requested(port_cancel(p)));
    ui_request_fini(&r);
    just(p, UI_REQUEST_QUIT);
    assert_true(cancel_requested(port_cancel(p)));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(port_next_request(p, -1, &r), 1);
        assert_int_equal(r.kind, UI_REQUEST_QUIT);
    }
    struct err e = {0};
    assert_int_equal(port_send_notice(p, "late", &e), ERR_CANCELLED);
    port_free(p);
}

static void test_melting(void **state)
{
    (void)state;
    struct ui_port *p = open_port(3);
    struct ui_event ev;
    assert_false(wakes(p));
    assert_int_equal(port_send_token(p, "Hel", 3, NULL), 0);
    assert_int_equal(port_send_token(p, "lo \0!", 5, NULL), 0);
    assert_int_equal(port_send_token(p, "", 0, NULL), 0);
    for (uint64_t i = 1; i <= 100; i++)
        assert_int_equal(port_send_progress(p, "reading", i, 100, 10, 1, NULL), 0);
    assert_int_equal(port_send_token(p, ".", 1, NULL), 0);
    assert_true(wakes(p));
    assert_int_equal(port_poll_event(p, &ev), 1);
    assert_int_equal(ev.n_text, 8);
    assert_memory_equal(ev.text, "Hello \0!", 9);
    ui_event_fini(&ev);
    assert_int_equal(port_poll_event(p, &ev), 1);
    assert_int_equal(ev.kind, UI_EVENT_PROGRESS);
    assert_int_equal(ev.done, 100);
    ui_event_fini(&ev);
    assert_int_equal(port_poll_event(p, &ev), 1);
    assert_string_equal(ev.text, ".");
    ui_event_fini(&ev);
    assert_int_equal(port_poll_event(p, &ev), 0);
    assert_false(wakes(p));
    port_free(p);
}

/* Events name the request that was being served, and asking for the next one finishes it. */
static void test_serving(void **state)
{
    (void)state;
    struct ui_port *p = open_port(0);
    struct ui_request r;
    struct ui_event ev;
    assert_int_equal(port_send_error(p, "early", NULL), 0);
    assert_int_equal(ask(p, "q", NULL), 0);
    assert_int_equal(port_next_request(p, 0, &r), 1);
    ui_request_fini(&r);
    assert_int_equal(port_send_error(p, "late", NULL), 0);
    assert_int_equal(port_next_request(p, 0, &r), 0);
    assert_int_equal(port_next_request(p, 0, &r), 0);
    const struct {
        enum ui_event_kind kind;
        enum ui_request_kind about;
    } expected[] = {{UI_EVENT_ERROR, UI_REQUEST_NONE},
                    {UI_EVENT_ERROR, UI_REQUEST_ASK},
                    {UI_EVENT_FINISHED, UI_REQUEST_ASK}};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(port_poll_event(p, &ev), 1);
        assert_int_equal(ev.kind, expected[i].kind);
        assert_int_equal(ev.about, expected[i].about);
        ui_event_fini(&ev);
    }
    assert_int_equal(port_poll_event(p, &ev), 0);
    port_free(p);
}

/* One thread sends many events through a short queue while the other reads slowly. */
enum { MANY = 5000 };

static void *sender(void *arg)
{
    struct ui_port *p = arg;
    for (int i = 0; i < MANY; i++) {
        char line[16];
        snprintf(line, sizeof line, "%d", i);
        if (port_send_notice(p, line, NULL))
            return p;
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct ui_port *p = open_port(4);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, sender, p), 0);
    for (int i = 0; i < MANY;) {
        struct pollfd fd = {.fd = port_wake_fd(p), .events = POLLIN};
        struct ui_event ev;
        assert_int_equal(poll(&fd, 1, 10000), 1); /* a lost wake-up would hang here */
        while (port_poll_event(p, &ev)) {
            assert_int_equal(atoi(ev.text), i);
            ui_event_fini(&ev);
            i++;
        }
    }
    void *failed;
    pthread_join(thread, &failed);
    assert_null(failed);
    port_free(p);
}

/* An engine that is blocked on a full queue, and one that waits for work, both end with the interface. */
static void *waiter(void *arg)
{
    struct ui_request r;
    int got = port_next_request(arg, -1, &r);
    return got == 1 && r.kind == UI_REQUEST_QUIT ? NULL : arg;
}

static void test_ending(void **state)
{
    (void)state;
    struct ui_port *p = open_port(4);
    pthread_t a, b;
    void *failed;
    assert_int_equal(pthread_create(&a, NULL, sender, p), 0);
    assert_int_equal(pthread_create(&b, NULL, waiter, p), 0);
    usleep(50000);
    just(p, UI_REQUEST_QUIT);
    pthread_join(a, &failed);
    assert_ptr_equal(failed, p);
    pthread_join(b, &failed);
    assert_null(failed);
    port_free(p);
    port_free(NULL);
}

static void test_messages(void **state)
{
    (void)state;
    struct ui_event ev = {.kind = UI_EVENT_SESSION};
    struct ui_citation c = {.number = 1, .file = (char *)"f.pdf", .page_index = 3, .quote = (char *)"q"};
    struct ui_turn t = {
        .ordinal = 9, .question = (char *)"Q", .answer = (char *)"A", .citations = &c, .n_citations = 1};
    struct ui_document d = {.title = (char *)"T", .pages = 3};
    struct ui_library_row row = {.name = (char *)"n", .tokens = 5};
    for (int i = 0; i < 9; i++) {
        assert_int_equal(ui_event_add_turn(&ev, &t), 0);
        assert_int_equal(ui_event_add_document(&ev, &d), 0);
        assert_int_equal(ui_event_add_row(&ev, &row), 0);
        assert_int_equal(ui_event_add_citation(&ev, &c), 0);
    }
    assert_int_equal(ev.n_turns, 9);
    assert_int_equal(ev.turns[8].citations[0].page_index, 3);
    assert_string_equal(ev.turns[8].citations[0].file, "f.pdf");
    assert_null(ev.turns[8].citations[0].page_label);
    assert_ptr_not_equal(ev.turns[8].question, t.question);
    assert_int_equal(ui_event_name(&ev, "x"), 0);
    assert_int_equal(ui_event_name(&ev, NULL), 0);
    assert_null(ev.name);
    ui_event_fini(&ev);
    ui_event_fini(&ev);
    struct ui_request r = {0};
    for (int i = 0; i < 5; i++)
        assert_int_equal(ui_request_add_path(&r, "p"), 0);
    assert_int_equal(r.n_paths, 5);
    ui_request_fini(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests), cmocka_unit_test(test_cancel),  cmocka_unit_test(test_melting),
        cmocka_unit_test(test_serving),  cmocka_unit_test(test_threads), cmocka_unit_test(test_ending),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests_name("ui port", tests, NULL, NULL);
}
