/* SPDX-License-Identifier: Apache-2.0 */
/* input.c - reads whole inputs; every number of a list is checked. */
#include "app/input.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/output.h"
#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "ingest/utf8_repair.h"

#define INPUT_MAX ((size_t)4000 * 1000 * 1000)

static int read_stdin(char **out, size_t *n, struct err *e)
{
    struct buf b = {0};
    int rc = 0;
    for (;;) {
        char *to = buf_reserve(&b, 1 << 16);
        ssize_t got = to ? read(STDIN_FILENO, to, 1 << 16) : 0;
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            rc = err_errno(e, errno, "cannot read the standard input");
        if (got <= 0)
            break;
        b.len += (size_t)got;
        if (b.len > INPUT_MAX) {
            rc = err_set(e, ERR_LIMIT, "the standard input has more than the %zu bytes allowed here",
                         INPUT_MAX);
            break;
        }
    }
    *n = b.len;
    if (!rc && !(*out = buf_take(&b)))
        rc = err_memory(e, "the standard input");
    buf_free(&b);
    if (!rc)
        (*out)[*n] = '\0';
    return rc;
}

int input_read(const char *path, char **out, size_t *n, struct err *e)
{
    *out = NULL;
    *n = 0;
    return strcmp(path, "-") == 0 ? read_stdin(out, n, e) : file_read(path, INPUT_MAX, out, n, e);
}

int input_text(const struct config *c, const char *path, char **out, size_t *n, struct err *e)
{
    int rc = input_read(path, out, n, e);
    if (rc || utf8_valid_prefix(*out, *n) == *n)
        return rc;
    struct buf clean = {0};
    uint64_t replaced = utf8_repair(&clean, *out, *n);
    free(*out);
    *n = clean.len;
    if (!(*out = buf_take(&clean))) {
        buf_free(&clean);
        *n = 0;
        return err_memory(e, path);
    }
    output_notice(c, "%s is not all UTF-8; U+FFFD stands in %" PRIu64 " places", path, replaced);
    return 0;
}

static int is_space(char ch)
{
    return ch == ' ' || ch == '\n' || ch == '\r' || ch == '\t';
}

static int parse_ids(const char *path, const char *text, size_t n, uint32_t vocab, struct token_list *out,
                     struct err *e)
{
    size_t line = 1, i = 0;
    int rc = 0;
    while (!rc) {
        for (; i < n && is_space(text[i]); i++)
            line += text[i] == '\n';
        if (i == n)
            return 0;
        uint64_t v = 0;
        size_t begin = i;
        for (; i < n && text[i] >= '0' && text[i] <= '9' && i - begin < 10; i++)
            v = 10 * v + (uint64_t)(text[i] - '0');
        if (i == begin || (i < n && !is_space(text[i])))
            return err_set(e, ERR_FORMAT, "%s, line %zu: not a token id", path, line);
        if (v >= vocab)
            return err_set(e, ERR_FORMAT, "%s, line %zu: token %" PRIu64 ", but the model has only %" PRIu32,
                           path, line, v, vocab);
        rc = token_list_add(out, (uint32_t)v, 0, e);
    }
    return rc;
}

int input_ids(const char *path, uint32_t vocab, struct token_list *out, struct err *e)
{
    char *text;
    size_t n;
    int rc = input_read(path, &text, &n, e);
    if (!rc)
        rc = parse_ids(strcmp(path, "-") == 0 ? "the standard input" : path, text, n, vocab, out, e);
    free(text);
    return rc;
}
