/* SPDX-License-Identifier: Apache-2.0 */
/* columns.c - see columns.h. Widths are what a terminal shows, not bytes. */
#include "app/columns.h"

#include <string.h>

#include "app/output.h"
#include "ingest/utf8_repair.h"
#include "ui/filter.h"
#include "ui/human.h"

/* Cuts what was added from `at` on to `most` columns, the last one being an ellipsis. */
static size_t cut(struct buf *out, size_t at, size_t most)
{
    size_t used = 0, keep = at;
    while (keep < out->len) {
        struct glyph g;
        filter_glyph(out->data + keep, out->len - keep, &g);
        if (used + (size_t)g.width > most - 1)
            break;
        used += (size_t)g.width;
        keep += g.bytes;
    }
    out->len = keep;
    buf_puts(out, "…");
    return used + 1;
}

void column_text(struct buf *out, const char *text, size_t width, size_t most)
{
    size_t at = out->len;
    utf8_clean_label(out, text, 400);
    size_t used = out->data ? filter_width(out->data + at, out->len - at) : 0;
    if (most && used > most)
        used = cut(out, at, most);
    if (used < width)
        buf_printf(out, "%*s", (int)(width - used), "");
}

void column_number(struct buf *out, void (*write)(struct buf *, uint64_t), uint64_t n, size_t width)
{
    struct buf text = {0};
    write(&text, n);
    if (text.data)
        buf_printf(out, "%*s", (int)width, text.data);
    out->failed |= text.failed;
    buf_free(&text);
}

void column_seconds(struct buf *out, double seconds, size_t width)
{
    struct buf text = {0};
    if (seconds > 0)
        human_duration(&text, seconds);
    else
        buf_puts(&text, "-");
    if (text.data)
        buf_printf(out, "%*s", (int)width, text.data);
    out->failed |= text.failed;
    buf_free(&text);
}

size_t column_width(size_t width, const char *text, size_t most)
{
    size_t w = filter_width(text, strlen(text));
    w = w > most ? most : w;
    return w > width ? w : width;
}

int columns_put(struct buf *out, struct err *e)
{
    int rc = out->failed ? err_memory(e, "the text") : 0;
    if (!rc && out->len)
        rc = output_text(out->data, out->len, e);
    buf_free(out);
    return rc;
}

json_t *column_json(const char *text)
{
    return output_json_text(text ? text : "", text ? strlen(text) : 0);
}
