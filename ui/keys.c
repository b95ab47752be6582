/* SPDX-License-Identifier: Apache-2.0 */
/* keys.c - looks keys up in the table and writes it out for people (ui_keys_text of ui.h). */
#include "ui/keys.h"

#include <string.h>

#include "ui/edit.h"
#include "ui/ui.h"

_Static_assert((int)DO_NEWER - (int)DO_LEFT == (int)EDIT_NEWER &&
                   (int)DO_KILL_WORD - (int)DO_LEFT == (int)EDIT_KILL_WORD,
               "line commands follow enum edit_command");

struct row {
    unsigned contexts;
    enum keys_command command;
    uint32_t codes[3];
    const char *label, *meaning;
};

static const struct row table[] = {
#define ROW(contexts, command, a, b, c, label, meaning) {contexts, DO_##command, {a, b, c}, label, meaning},
    KEYS_TABLE(ROW)
#undef ROW
};

enum { ROWS = sizeof table / sizeof *table };

enum keys_command keys_find(unsigned contexts, uint32_t code)
{
    if ((contexts & IN_TALK) && code >= UIK_ALT('1') && code <= UIK_ALT('9'))
        return DO_NUMBER;
    for (int i = 0; i < ROWS; i++)
        for (int k = 0; k < 3; k++)
            if (code && table[i].codes[k] == code && (table[i].contexts & contexts))
                return table[i].command;
    return DO_NOTHING;
}

void ui_keys_text(struct buf *out)
{
    static const struct {
        unsigned any_of, none_of; /* a row is in the first group that takes it */
        const char *name;
    } groups[] = {
        {IN_HELP | IN_TALK_EMPTY, 0, "Everywhere"},
        {IN_LIBRARY, IN_SOURCE, "Library"},
        {IN_TALK, IN_PROMPT, "Conversation"},
        {IN_SOURCE, 0, "Source"},
        {IN_LINE, 0, "Input line"},
    };
    unsigned char used[ROWS] = {0};
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        buf_printf(out, "# %s\n", groups[g].name);
        for (int i = 0; i < ROWS; i++) {
            const struct row *r = &table[i];
            int takes = (r->contexts & groups[g].any_of) && !(r->contexts & groups[g].none_of);
            /* the pages' own keys belong with the source, one-place keys with their place */
            if (g == 0 && (r->contexts == IN_PAGES || r->contexts == IN_TALK_EMPTY ||
                           r->contexts == (IN_LIBRARY | IN_PAGES)))
                takes = r->contexts == (IN_LIBRARY | IN_PAGES);
            if (g == 2 && r->contexts == IN_TALK_EMPTY)
                takes = 1;
            if (!takes || used[i] || !*r->label)
                continue;
            used[i] = 1;
            buf_printf(out, "%s\t%s\n", r->label, r->meaning);
        }
    }
}
