/* SPDX-License-Identifier: Apache-2.0 */
/* config_file.c - the settings file: lines "NAME = VALUE" of options that the table says may be kept there.
 *
 * Nothing is guessed here either: a line that is not understood is an error with its number. What the command
 * line says comes before it.
 */
#include <stdlib.h>
#include <string.h>

#include "app/cli.h"
#include "app/config.h"
#include "engine/base/file.h"

enum { FILE_MAX = 64 << 10 };

/* The text without blanks at both ends; cuts it in place. */
static char *trimmed(char *text)
{
    text += strspn(text, " \t");
    size_t n = strlen(text);
    while (n && strchr(" \t\r", text[n - 1]))
        text[--n] = '\0';
    return text;
}

static int take_line(struct config *kept, char *line, struct err *e)
{
    char *comment = strchr(line, '#');
    if (comment)
        *comment = '\0';
    line = trimmed(line);
    if (!line[0])
        return 0;
    char *equals = strchr(line, '=');
    if (!equals)
        return err_set(e, ERR_USAGE, "‘%.80s’ is no setting; a line reads NAME = VALUE", line);
    *equals = '\0';
    return cli_set(kept, trimmed(line), trimmed(equals + 1), e);
}

int config_file_read(const char *path, struct config *kept, struct err *e)
{
    char *text = NULL;
    size_t size = 0;
    int rc = file_read(path, FILE_MAX, &text, &size, e), line = 0;
    if (rc == ERR_NOT_FOUND)
        return 0;
    if (!rc && strlen(text) != size)
        rc = err_set(e, ERR_FORMAT, "%s is no text", path);
    for (char *rest = text, *one; !rc && (one = strsep(&rest, "\n"));) {
        line++;
        struct err why;
        if (take_line(kept, one, &why))
            rc = err_set(e, ERR_FORMAT, "%s, line %d: %s", path, line, why.text);
    }
    free(text);
    return rc;
}
