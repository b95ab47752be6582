/* SPDX-License-Identifier: Apache-2.0 */
/* keys.h - the key table: where a key counts, what it does, and what help and the manual say about it.
 *
 * One table makes the commands, their keys, the help view and ui_keys_text(). Key codes are our own, so that
 * views know no curses: a Unicode code point, a control code, or one of the names below.
 */
#ifndef LECTERN_UI_KEYS_H
#define LECTERN_UI_KEYS_H

#include <stddef.h>
#include <stdint.h>

/* Where the keyboard's input goes. TALK_EMPTY holds in addition to TALK while the input line is empty. */
enum keys_context {
    IN_LIBRARY = 1,
    IN_TALK = 2,
    IN_TALK_EMPTY = 4,
    IN_SOURCE = 8,
    IN_HELP = 16,
    IN_PROMPT = 32,
};
#define IN_VIEWS (IN_LIBRARY | IN_TALK | IN_SOURCE | IN_HELP)
#define IN_LINE (IN_TALK | IN_PROMPT)
#define IN_PAGES (IN_SOURCE | IN_HELP)

#define UIK_CTRL(letter) ((uint32_t)(letter)&0x1F)
#define UIK_ALT(ch) (0x20000000u | (uint32_t)(ch))

enum keys_code {
    UIK_ESC = 27,
    UIK_ENTER = 13,
    UIK_TAB = 9,
    UIK_UP = 0x110000, /* beyond Unicode */
    UIK_DOWN,
    UIK_LEFT,
    UIK_RIGHT,
    UIK_HOME,
    UIK_END,
    UIK_PAGE_UP,
    UIK_PAGE_DOWN,
    UIK_BACKSPACE,
    UIK_DELETE,
    UIK_WORD_LEFT,
    UIK_WORD_RIGHT,
    UIK_F1,
    UIK_F2,
    UIK_PASTE,
    UIK_WHEEL_UP,
    UIK_WHEEL_DOWN,
    UIK_CLICK,
    UIK_RESIZE,
    UIK_END_OF_INPUT, /* the terminal is gone */
};

struct ui_key {
    uint32_t code;
    int row, column;  /* of a click */
    const char *text; /* of a paste, borrowed until the next key is read */
    size_t n_text;
};

/* X(contexts, command, key, key, key, how it is written, what it does); key 0: none. The order is that of
 * the help; the first row that fits wins. */
#define KEYS_TABLE(X)                                                                                        \
    X(IN_VIEWS, HELP, UIK_F1, 0, 0, "F1", "show the keys")                                                   \
    X(IN_LIBRARY | IN_SOURCE | IN_TALK_EMPTY, HELP, '?', 0, 0, "?", "show the keys (input line empty)")      \
    X(IN_VIEWS, SWITCH, UIK_TAB, UIK_F2, 0, "Tab, F2", "go from the library to the conversation and back")   \
    X(IN_VIEWS | IN_PROMPT, STOP, UIK_ESC, 0, 0, "Esc", "stop the running step, or go back")                 \
    X(IN_VIEWS | IN_PROMPT, INTERRUPT, UIK_CTRL('C'), 0, 0, "Ctrl-C", "stop the running step; twice: quit")  \
    X(IN_VIEWS | IN_PROMPT, QUIT, UIK_CTRL('Q'), 0, 0, "Ctrl-Q", "quit")                                     \
    X(IN_VIEWS | IN_PROMPT, REDRAW, UIK_CTRL('L'), 0, 0, "Ctrl-L", "draw the screen again")                  \
    X(IN_VIEWS | IN_PROMPT, SUSPEND, UIK_CTRL('Z'), 0, 0, "Ctrl-Z", "suspend; fg comes back")                \
    X(IN_LIBRARY, OPEN, UIK_ENTER, 'o', 0, "Enter, o", "open the session")                                   \
    X(IN_LIBRARY, ADD, 'a', UIK_CTRL('T'), 0, "a", "add a file or folder as a new session")                  \
    X(IN_LIBRARY, RENAME, 'r', 0, 0, "r", "rename the session")                                              \
    X(IN_LIBRARY, DELETE, 'd', UIK_DELETE, 0, "d", "delete the session (asks first)")                        \
    X(IN_LIBRARY, QUIT, 'q', 0, 0, "q", "quit")                                                              \
    X(IN_TALK_EMPTY, OPEN_CHOSEN, UIK_ENTER, 0, 0, "Enter", "open the chosen citation (input line empty)")   \
    X(IN_TALK, ASK, UIK_ENTER, 0, 0, "Enter", "ask")                                                         \
    X(IN_TALK, SOURCE, UIK_CTRL('O'), 0, 0, "Ctrl-O", "open the source of the citation")                     \
    X(IN_TALK, NEXT, UIK_CTRL('N'), 0, 0, "Ctrl-N", "choose the next citation")                              \
    X(IN_TALK, PREVIOUS, UIK_CTRL('P'), 0, 0, "Ctrl-P", "choose the citation before")                        \
    X(IN_TALK, NUMBER, 0, 0, 0, "Alt-1 ... Alt-9", "open the citation with that number")                     \
    X(IN_TALK, ADD, UIK_CTRL('T'), 0, 0, "Ctrl-T", "add a file or folder to this session")                   \
    X(IN_TALK, REFRESH, UIK_CTRL('R'), 0, 0, "Ctrl-R", "read files again that changed on disk")              \
    X(IN_VIEWS, PAGE_UP, UIK_PAGE_UP, 0, 0, "PgUp", "scroll back a page")                                    \
    X(IN_VIEWS, PAGE_DOWN, UIK_PAGE_DOWN, 0, 0, "PgDn", "scroll on a page")                                  \
    X(IN_VIEWS, WHEEL_UP, UIK_WHEEL_UP, 0, 0, "wheel", "scroll; a click chooses, a second click opens")      \
    X(IN_VIEWS, WHEEL_DOWN, UIK_WHEEL_DOWN, 0, 0, "", "")                                                    \
    X(IN_VIEWS, CLICK, UIK_CLICK, 0, 0, "", "")                                                              \
    X(IN_PAGES, PAGE_DOWN, ' ', 0, 0, "Space", "scroll on a page")                                           \
    X(IN_LIBRARY | IN_PAGES, UP, UIK_UP, 'k', 0, "Up, k", "up")                                              \
    X(IN_LIBRARY | IN_PAGES, DOWN, UIK_DOWN, 'j', 0, "Down, j", "down")                                      \
    X(IN_LIBRARY | IN_PAGES, TOP, UIK_HOME, 'g', 0, "Home, g", "to the beginning")                           \
    X(IN_LIBRARY | IN_PAGES, BOTTOM, UIK_END, 'G', 0, "End, G", "to the end")                                \
    X(IN_SOURCE, NEXT, ']', 'n', UIK_CTRL('N'), "], n", "the next citation")                                 \
    X(IN_SOURCE, PREVIOUS, '[', 'p', UIK_CTRL('P'), "[, p", "the citation before")                           \
    X(IN_PAGES, BACK, 'q', UIK_ENTER, 0, "q, Enter", "back")                                                 \
    X(IN_LINE, LEFT, UIK_LEFT, UIK_CTRL('B'), 0, "Left, Ctrl-B", "a character back")                         \
    X(IN_LINE, RIGHT, UIK_RIGHT, UIK_CTRL('F'), 0, "Right, Ctrl-F", "a character on")                        \
    X(IN_LINE, WORD_LEFT, UIK_WORD_LEFT, UIK_ALT('b'), 0, "Ctrl-Left, Alt-B", "a word back")                 \
    X(IN_LINE, WORD_RIGHT, UIK_WORD_RIGHT, UIK_ALT('f'), 0, "Ctrl-Right, Alt-F", "a word on")                \
    X(IN_LINE, LINE_HOME, UIK_HOME, UIK_CTRL('A'), 0, "Home, Ctrl-A", "to the start of the line")            \
    X(IN_LINE, LINE_END, UIK_END, UIK_CTRL('E'), 0, "End, Ctrl-E", "to the end of the line")                 \
    X(IN_LINE, ERASE, UIK_BACKSPACE, 0, 0, "Backspace", "erase the character before the cursor")             \
    X(IN_LINE, ERASE_NEXT, UIK_DELETE, UIK_CTRL('D'), 0, "Delete, Ctrl-D", "erase the one at the cursor")    \
    X(IN_LINE, KILL_END, UIK_CTRL('K'), 0, 0, "Ctrl-K", "cut to the end of the line")                        \
    X(IN_LINE, KILL_START, UIK_CTRL('U'), 0, 0, "Ctrl-U", "cut to the start of the line")                    \
    X(IN_LINE, KILL_WORD, UIK_CTRL('W'), UIK_ALT(UIK_BACKSPACE), 0, "Ctrl-W", "cut the word before")         \
    X(IN_LINE, YANK, UIK_CTRL('Y'), 0, 0, "Ctrl-Y", "put back what was cut")                                 \
    X(IN_LINE, OLDER, UIK_UP, 0, 0, "Up", "the line entered before")                                         \
    X(IN_LINE, NEWER, UIK_DOWN, 0, 0, "Down", "the line entered after")                                      \
    X(IN_PROMPT, ACCEPT, UIK_ENTER, 0, 0, "Enter", "accept")

/* The commands; several rows may name one, so they are listed once here and checked by the compiler there. */
enum keys_command {
    DO_NOTHING,
    DO_HELP,
    DO_SWITCH,
    DO_STOP,
    DO_INTERRUPT,
    DO_QUIT,
    DO_REDRAW,
    DO_SUSPEND,
    DO_OPEN,
    DO_ADD,
    DO_REFRESH,
    DO_RENAME,
    DO_DELETE,
    DO_OPEN_CHOSEN,
    DO_ASK,
    DO_SOURCE,
    DO_NEXT,
    DO_PREVIOUS,
    DO_NUMBER, /* Alt and a digit; keys_find gives it for all nine */
    DO_PAGE_UP,
    DO_PAGE_DOWN,
    DO_WHEEL_UP,
    DO_WHEEL_DOWN,
    DO_CLICK,
    DO_UP,
    DO_DOWN,
    DO_TOP,
    DO_BOTTOM,
    DO_BACK,
    DO_ACCEPT,
    DO_LEFT, /* from here on in the order of enum edit_command */
    DO_RIGHT,
    DO_WORD_LEFT,
    DO_WORD_RIGHT,
    DO_LINE_HOME,
    DO_LINE_END,
    DO_ERASE,
    DO_ERASE_NEXT,
    DO_KILL_END,
    DO_KILL_START,
    DO_KILL_WORD,
    DO_YANK,
    DO_OLDER,
    DO_NEWER,
};

/* What a key does in these contexts (bits of enum keys_context); DO_NOTHING when it has no meaning there. */
enum keys_command keys_find(unsigned contexts, uint32_t code);

#endif
