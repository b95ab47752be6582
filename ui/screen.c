/* SPDX-License-Identifier: Apache-2.0 */
/* screen.c - see screen.h. Invariant: whatever path leads out, screen_close restores the terminal's modes,
 * the signals' handlers and the paste and mouse settings.
 *
 * A signal may be delivered to any thread, so a poll(2) here would not always be interrupted by it: the
 * handler writes a byte to a pipe that is polled.
 */
#include "ui/screen.h"

#include <curses.h>
#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

#include "engine/base/buf.h"
#include "engine/base/clock.h"

enum {
    ESC_DELAY_MS = 25,
    PASTE_PATIENCE_MS = 2000,  /* a paste whose end never comes is taken as it is after this long */
    CODE_PASTE_BEGIN = 0x7000, /* beyond the codes that curses gives to keys of its own from KEY_MAX on */
    CODE_WORD_LEFT,
    CODE_WORD_RIGHT,
    CODE_HOME,
    CODE_END,
};

struct screen {
    SCREEN *curses;
    struct frame shown;
    int colours;
    int pasting;
    double last_paste_byte;
    struct buf paste;
    utf8proc_uint8_t partial[4]; /* of a character that is arriving */
    size_t n_partial;
    int signal_pipe[2];
    struct sigaction old_winch, old_term, old_hup;
};

/* The signal flags: set by the handler alone, cleared by screen_read. */
static volatile sig_atomic_t signal_size, signal_end, signal_fd = -1;

static void on_signal(int number)
{
    int saved = errno;
    if (number == SIGWINCH)
        signal_size = 1;
    else
        signal_end = 1;
    if (signal_fd >= 0) {
        ssize_t written = write((int)signal_fd, "", 1);
        (void)written; /* a full pipe wakes as well */
    }
    errno = saved;
}

static void send_mode(const char *sequence)
{
    fputs(sequence, stdout);
    fflush(stdout);
}

static void take_signals(struct screen *s)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    signal_size = signal_end = 0;
    signal_fd = s->signal_pipe[1];
    sigaction(SIGWINCH, &action, &s->old_winch);
    sigaction(SIGTERM, &action, &s->old_term);
    sigaction(SIGHUP, &action, &s->old_hup);
}

static void define_keys(void)
{
    static const struct {
        const char *sequence;
        int code;
    } extra[] = {
        {"\033[200~", CODE_PASTE_BEGIN},
        {"\033[1;5D", CODE_WORD_LEFT},
        {"\033[1;5C", CODE_WORD_RIGHT},
        {"\033[1;3D", CODE_WORD_LEFT},
        {"\033[1;3C", CODE_WORD_RIGHT},
        {"\033[5D", CODE_WORD_LEFT},
        {"\033[5C", CODE_WORD_RIGHT},
        {"\033[H", CODE_HOME},
        {"\033[A", KEY_UP},
        {"\033[B", KEY_DOWN},
        {"\033[C", KEY_RIGHT},
        {"\033[D", KEY_LEFT},
        {"\033[F", CODE_END},
        {"\033[1~", CODE_HOME},
        {"\033[4~", CODE_END},
    };
    for (size_t i = 0; i < sizeof extra / sizeof *extra; i++)
        define_key(extra[i].sequence, extra[i].code);
}

/* Characters are drawn and read as UTF-8 whatever the environment says about the rest. */
static void want_utf8(void)
{
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0 && !setlocale(LC_CTYPE, ""))
        setlocale(LC_CTYPE, "C");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0 && !setlocale(LC_CTYPE, "C.UTF-8"))
        setlocale(LC_CTYPE, "en_US.UTF-8");
}

int screen_open(struct screen **out, int no_color, struct err *e)
{
    *out = NULL;
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return err_set(e, ERR_USAGE, "the reading room needs a terminal; use \"lectern ask\" in scripts");
    struct screen *s = calloc(1, sizeof *s);
    if (!s)
        return err_memory(e, "the screen");
    if (pipe2(s->signal_pipe, O_CLOEXEC | O_NONBLOCK) != 0) {
        int saved = errno;
        free(s);
        return err_errno(e, saved, "cannot make a pipe for signals");
    }
    want_utf8();
    s->curses = newterm(NULL, stdout, stdin);
    if (!s->curses) {
        const char *term = getenv("TERM");
        close(s->signal_pipe[0]);
        close(s->signal_pipe[1]);
        free(s);
        return err_set(e, ERR_UNSUPPORTED,
                       "unknown terminal type \"%s\"; set TERM, for example to xterm-256color",
                       term ? term : "");
    }
    set_term(s->curses);
    raw();
    noecho();
    nonl();
    keypad(stdscr, TRUE);
    nodelay(stdscr, TRUE);
    set_escdelay(ESC_DELAY_MS);
    define_keys();
    mouseinterval(0);
    mousemask(BUTTON1_PRESSED | BUTTON1_CLICKED | BUTTON4_PRESSED | BUTTON5_PRESSED, NULL);
    s->colours = !no_color && has_colors() && start_color() == OK && use_default_colors() == OK;
    draw_start(s->colours);
    take_signals(s);
    send_mode("\033[?2004h");
    *out = s;
    return 0;
}

void screen_close(struct screen *s)
{
    if (!s)
        return;
    send_mode("\033[?2004l");
    mousemask(0, NULL);
    endwin();
    sigaction(SIGWINCH, &s->old_winch, NULL);
    sigaction(SIGTERM, &s->old_term, NULL);
    sigaction(SIGHUP, &s->old_hup, NULL);
    signal_fd = -1;
    delscreen(s->curses);
    close(s->signal_pipe[0]);
    close(s->signal_pipe[1]);
    frame_free(&s->shown);
    buf_free(&s->paste);
    free(s);
}

void screen_size(const struct screen *s, int *rows, int *columns)
{
    (void)s;
    getmaxyx(stdscr, *rows, *columns);
    if (*rows < 1)
        *rows = 1;
    if (*columns < 1)
        *columns = 1;
}

int screen_signal_fd(const struct screen *s)
{
    return s->signal_pipe[0];
}

int screen_colours(const struct screen *s)
{
    return s->colours;
}

struct frame *screen_shown(struct screen *s)
{
    return &s->shown;
}

void screen_forget(struct screen *s)
{
    frame_free(&s->shown);
    clearok(curscr, TRUE);
}

void screen_suspend(struct screen *s)
{
    send_mode("\033[?2004l");
    def_prog_mode();
    endwin();
    kill(getpid(), SIGTSTP);
    reset_prog_mode();
    refresh();
    send_mode("\033[?2004h");
    signal_size = 1; /* the window may have changed meanwhile */
    screen_forget(s);
}

int screen_patience(const struct screen *s)
{
    return s->pasting ? PASTE_PATIENCE_MS : -1;
}

static int paste_done(struct screen *s, struct ui_key *out)
{
    s->pasting = 0;
    keypad(stdscr, TRUE);
    if (s->paste.failed) { /* too large for memory: nothing is better than a part */
        buf_free(&s->paste);
        return 0;
    }
    *out = (struct ui_key){
        .code = UIK_PASTE, .text = s->paste.data ? s->paste.data : "", .n_text = s->paste.len};
    return 1;
}

static void paste_begin(struct screen *s)
{
    keypad(stdscr, FALSE); /* until its end every byte is text, whatever keys it looks like */
    s->pasting = 1;
    buf_clear(&s->paste);
    s->paste.failed = 0;
    s->last_paste_byte = clock_seconds();
}

static int paste_byte(struct screen *s, int byte, struct ui_key *out)
{
    static const char end[] = "\033[201~";
    size_t n = sizeof end - 1;
    buf_putc(&s->paste, byte);
    s->last_paste_byte = clock_seconds();
    if (s->paste.failed ? byte != '~'
                        : s->paste.len < n || memcmp(s->paste.data + s->paste.len - n, end, n) != 0)
        return 0;
    if (!s->paste.failed) {
        s->paste.len -= n;
        s->paste.data[s->paste.len] = 0;
    }
    return paste_done(s, out);
}

static int read_resize(struct ui_key *out)
{
    struct winsize size;
    signal_size = 0;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0)
        resizeterm(size.ws_row, size.ws_col);
    out->code = UIK_RESIZE;
    return 1;
}

static int read_mouse(struct ui_key *out)
{
    MEVENT event;
    if (getmouse(&event) != OK)
        return 0;
    out->row = event.y;
    out->column = event.x;
    if (event.bstate & BUTTON4_PRESSED)
        out->code = UIK_WHEEL_UP;
    else if (event.bstate & BUTTON5_PRESSED)
        out->code = UIK_WHEEL_DOWN;
    else if (event.bstate & (BUTTON1_PRESSED | BUTTON1_CLICKED))
        out->code = UIK_CLICK;
    else
        return 0;
    return 1;
}

static uint32_t function_key(int c)
{
    static const struct {
        int curses;
        uint32_t ours;
    } map[] = {
        {KEY_UP, UIK_UP},
        {KEY_DOWN, UIK_DOWN},
        {KEY_LEFT, UIK_LEFT},
        {KEY_RIGHT, UIK_RIGHT},
        {KEY_HOME, UIK_HOME},
        {CODE_HOME, UIK_HOME},
        {KEY_END, UIK_END},
        {CODE_END, UIK_END},
        {KEY_PPAGE, UIK_PAGE_UP},
        {KEY_NPAGE, UIK_PAGE_DOWN},
        {KEY_BACKSPACE, UIK_BACKSPACE},
        {KEY_DC, UIK_DELETE},
        {CODE_WORD_LEFT, UIK_WORD_LEFT},
        {CODE_WORD_RIGHT, UIK_WORD_RIGHT},
        {KEY_F(1), UIK_F1},
        {KEY_F(2), UIK_F2},
        {KEY_ENTER, UIK_ENTER},
    };
    for (size_t i = 0; i < sizeof map / sizeof *map; i++)
        if (map[i].curses == c)
            return map[i].ours;
    return 0;
}

static uint32_t plain_key(int c)
{
    if (c == 127 || c == 8)
        return UIK_BACKSPACE;
    return c == '\n' ? UIK_ENTER : (uint32_t)c;
}

/* After ESC: nothing more is the Esc key; a character is Alt with it; an unknown sequence is swallowed. */
static uint32_t after_escape(void)
{
    int c = getch();
    if (c == ERR)
        return UIK_ESC;
    if (c == UIK_ESC || c >= 0x80) { /* two keys in a row */
        if (c < KEY_MIN || !function_key(c)) {
            ungetch(c);
            return UIK_ESC;
        }
        return UIK_ALT(function_key(c));
    }
    if (c != '[' && c != 'O')
        return UIK_ALT(plain_key(c));
    for (int i = 0; i < 32 && (c = getch()) != ERR; i++)
        if (c >= 0x40 && c <= 0x7E)
            return 0;
    return 0;
}

/* A byte of a character; 0 until the character is whole. Bytes that form none become U+FFFD. curses' own
 * reader is not used because it forgets the first bytes of a character that arrives in two pieces. */
static uint32_t text_byte(struct screen *s, int c)
{
    utf8proc_int32_t cp;
    if (s->n_partial == 0 && c < 0x80)
        return plain_key(c);
    if (s->n_partial && (c & 0xC0) != 0x80) { /* the one before was cut short */
        s->n_partial = 0;
        ungetch(c);
        return 0xFFFD;
    }
    s->partial[s->n_partial++] = (utf8proc_uint8_t)c;
    int lead = s->partial[0];
    size_t need = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 1;
    if (s->n_partial < need)
        return 0;
    size_t n = s->n_partial;
    s->n_partial = 0;
    return utf8proc_iterate(s->partial, (utf8proc_ssize_t)n, &cp) > 0 ? (uint32_t)cp : 0xFFFD;
}

/* One curses key; 1 when *out was filled, 0 when it meant nothing, -1 when there is none. */
static int read_one(struct screen *s, struct ui_key *out)
{
    int c = getch();
    if (c == ERR)
        return -1;
    if (c == KEY_RESIZE)
        out->code = UIK_RESIZE; /* the echo of resizeterm, which must not be called for it again */
    else if (s->pasting && c < KEY_MIN)
        return paste_byte(s, c, out);
    else if (c == CODE_PASTE_BEGIN)
        paste_begin(s);
    else if (c == KEY_MOUSE)
        return read_mouse(out);
    else if (c >= KEY_MIN)
        out->code = function_key(c);
    else if (c == UIK_ESC)
        out->code = after_escape();
    else
        out->code = text_byte(s, c);
    return out->code != 0;
}

/* getch cannot tell "nothing yet" from "the terminal is gone". */
static int is_gone(void)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR | POLLNVAL));
}

int screen_read(struct screen *s, struct ui_key *out)
{
    char bytes[64];
    memset(out, 0, sizeof *out);
    while (read(s->signal_pipe[0], bytes, sizeof bytes) > 0)
        ;
    if (signal_end) {
        out->code = UIK_END_OF_INPUT;
        return 1;
    }
    if (signal_size)
        return read_resize(out);
    for (;;) {
        int got = read_one(s, out);
        if (got > 0)
            return 1;
        if (got < 0)
            break;
    }
    if (is_gone()) {
        out->code = UIK_END_OF_INPUT;
        return 1;
    }
    if (s->pasting && clock_seconds() - s->last_paste_byte >= PASTE_PATIENCE_MS / 1000.0)
        return paste_done(s, out);
    return 0;
}
