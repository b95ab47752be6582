/* SPDX-License-Identifier: Apache-2.0 */
/* text_cut.c - a text file to blocks, one pass, one block in memory. */
#include "ingest/text_cut.h"

#include <string.h>

#include "engine/base/buf.h"
#include "ingest/utf8_repair.h"

_Static_assert(3 * TEXT_PIECE_MAX <= INGEST_BLOCK_MAX, "a repaired piece must fit a block");

enum mode {
    MODE_ANY, /* no line end in it: the same bytes under LF and under CRLF */
    MODE_LF,
    MODE_CRLF,
    MODE_WHOLE, /* repaired or mixed: only the range as a whole is known */
};

struct cutter {
    const uint8_t *bytes;
    size_t n;
    const struct ingest_block *like;
    int (*emit)(void *arg, const struct ingest_block *block, struct err *e);
    void *arg;
    struct text_cut_result *result;
    struct buf text; /* of the block being made */
    enum mode mode;
    size_t first, end; /* its source bytes */
    uint32_t line_first;
    uint32_t switches;
};

/* Where the piece that starts at `at` ends: behind its line end, or at a character's edge in a long line. */
static size_t piece_end(const struct cutter *c, size_t at)
{
    size_t most = c->n - at < TEXT_PIECE_MAX ? c->n - at : TEXT_PIECE_MAX;
    const uint8_t *newline = memchr(c->bytes + at, '\n', most);
    if (newline)
        return (size_t)(newline - c->bytes) + 1;
    size_t end = at + most;
    if (end == c->n)
        return end;
    if (c->bytes[end] == '\n' && c->bytes[end - 1] == '\r')
        return end - 1;
    for (size_t back = 0; back < 4; back++)
        if ((c->bytes[end - back] & 0xc0) != 0x80)
            return end - back;
    return end; /* four continuation bytes: no character goes across this edge */
}

static int flush(struct cutter *c, struct err *e)
{
    if (c->text.failed)
        return err_memory(e, "a block of text");
    if (c->text.len == 0)
        return 0;
    struct ingest_block block = *c->like;
    block.text = c->text.data;
    block.n = c->text.len;
    block.line_first = c->line_first;
    block.byte_first = c->first;
    block.byte_len = c->end - c->first;
    block.flags = c->mode == MODE_WHOLE ? 0 : c->mode == MODE_CRLF ? INGEST_CRLF : INGEST_EXACT;
    int rc = c->emit(c->arg, &block, e);
    c->line_first = c->result->lines + 1;
    buf_clear(&c->text);
    return rc;
}

static enum mode piece_mode(const uint8_t *p, size_t n)
{
    if (utf8_valid_prefix(p, n) != n)
        return MODE_WHOLE;
    if (p[n - 1] != '\n')
        return MODE_ANY;
    return n >= 2 && p[n - 2] == '\r' ? MODE_CRLF : MODE_LF;
}

/* Makes the open block one that can take a piece of this mode and source size, and settles its mode. */
static int make_room(struct cutter *c, enum mode mode, size_t size, struct err *e)
{
    int rc = 0;
    size_t most = mode == MODE_WHOLE ? 3 * size : size;
    if (c->text.len + most > INGEST_BLOCK_MAX)
        rc = flush(c, e);
    int agree = mode != MODE_WHOLE && c->mode != MODE_WHOLE &&
                (mode == c->mode || mode == MODE_ANY || c->mode == MODE_ANY);
    if (!rc && c->text.len && !agree && c->switches < TEXT_SWITCHES_MAX) {
        c->switches++;
        rc = flush(c, e);
    }
    if (c->text.len == 0)
        c->mode = mode;
    else if (!agree)
        c->mode = MODE_WHOLE;
    else if (c->mode == MODE_ANY)
        c->mode = mode;
    return rc;
}

static int add_piece(struct cutter *c, size_t at, size_t end, struct err *e)
{
    const uint8_t *p = c->bytes + at;
    size_t n = end - at;
    int rc = make_room(c, piece_mode(p, n), n, e);
    if (rc)
        return rc;
    if (c->text.len == 0)
        c->first = at;
    int newline = p[n - 1] == '\n';
    size_t body = newline ? n - 1 : n;
    if (newline && body && p[body - 1] == '\r')
        body--;
    c->result->replaced += utf8_repair(&c->text, p, body);
    if (newline)
        buf_putc(&c->text, '\n');
    if (newline && c->result->lines == UINT32_MAX - 1)
        return err_set(e, ERR_LIMIT, "%s has more than 4 billion lines; split it", c->like->file);
    c->result->lines += newline ? 1u : 0u;
    c->result->ends_in_line = !newline;
    c->end = end;
    return 0;
}

int text_cut(const uint8_t *bytes, size_t n, const struct ingest_block *like,
             int (*emit)(void *arg, const struct ingest_block *block, struct err *e), void *arg,
             struct text_cut_result *result, struct err *e)
{
    *result = (struct text_cut_result){0};
    struct cutter c = {.bytes = bytes, .n = n, .like = like, .emit = emit, .arg = arg, .result = result};
    c.line_first = 1;
    size_t at = n >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    int rc = 0;
    while (!rc && at < n) {
        size_t end = piece_end(&c, at);
        rc = add_piece(&c, at, end, e);
        at = end;
    }
    if (!rc)
        rc = flush(&c, e);
    buf_free(&c.text);
    return rc;
}
