/* SPDX-License-Identifier: Apache-2.0 */
/* read_document.c - which reader a path gets, and the reader of one text or Markdown file. */
#include "ingest/worker/readers.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "engine/base/file.h"
#include "ingest/text_cut.h"
#include "ingest/utf8_repair.h"

#define TEXT_FILE_MAX ((size_t)1 << 30)
#define TITLE_WITHIN ((size_t)4096) /* a Markdown title is looked for this far */

int looks_like_pdf(const uint8_t *bytes, size_t n)
{
    return n >= 5 && memcmp(bytes, "%PDF-", 5) == 0;
}

static int is_markdown(const char *name)
{
    static const char *const endings[] = {".md", ".markdown", ".mkd", ".mdown"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof endings / sizeof endings[0]; i++)
        if (strcasecmp(dot, endings[i]) == 0)
            return 1;
    return 0;
}

/* The first "# heading" of a Markdown text near its start; else the file's name. */
static void find_title(struct buf *title, const uint8_t *bytes, size_t n, const char *name, int markdown)
{
    const char *p = (const char *)bytes;
    const char *end = p + (n < TITLE_WITHIN ? n : TITLE_WITHIN);
    if (n >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0)
        p += 3;
    while (markdown && p && p < end) {
        const char *line_end = memchr(p, '\n', (size_t)(end - p));
        if (line_end && line_end - p > 2 && p[0] == '#' && p[1] == ' ') {
            struct buf line = {0};
            const char *last = line_end;
            while (last > p + 2 && strchr(" \t\r", last[-1]))
                last--;
            buf_add(&line, p + 2, (size_t)(last - (p + 2)));
            if (!line.failed)
                utf8_clean_label(title, line.data, 300);
            buf_free(&line);
            break;
        }
        p = line_end ? line_end + 1 : NULL;
    }
    if (title->len == 0)
        utf8_clean_label(title, path_base(name), 300);
}

static int refuse_binary(const uint8_t *bytes, size_t n, const char *name, struct err *e)
{
    if (n >= 2 && ((bytes[0] == 0xff && bytes[1] == 0xfe) || (bytes[0] == 0xfe && bytes[1] == 0xff)))
        return err_set(e, ERR_UNSUPPORTED,
                       "%s is UTF-16 text; convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8)", name);
    if (n && memchr(bytes, 0, n))
        return err_set(e, ERR_UNSUPPORTED,
                       "%s is a binary file; Lectern reads PDF, UTF-8 text, Markdown and folders of these",
                       name);
    if (n == 0)
        return err_set(e, ERR_FORMAT, "%s is empty; there is nothing to read", name);
    if (n > TEXT_FILE_MAX)
        return err_set(e, ERR_LIMIT, "%s has more than 1 GiB of text; split it", name);
    return 0;
}

int read_text(struct emit *m, const uint8_t *bytes, size_t n, const char *name, struct err *e)
{
    int rc = refuse_binary(bytes, n, name, e);
    if (rc)
        return rc;
    int markdown = is_markdown(name);
    struct buf title = {0};
    find_title(&title, bytes, n, name, markdown);
    if (title.failed) {
        buf_free(&title);
        return err_memory(e, "a title");
    }
    struct ingest_document document = {
        .kind = markdown ? "markdown" : "text", .title = title.data, .author = "", .source_bytes = n};
    rc = emit_document(m, &document, e);
    buf_free(&title);
    struct ingest_block like = {.file = name, .page_index = -1, .page_label = ""};
    struct text_cut_result cut = {0};
    if (!rc)
        rc = text_cut(bytes, n, &like, emit_block, m, &cut, e);
    m->totals.files = 1;
    m->totals.replaced = cut.replaced;
    if (!rc && cut.replaced)
        emit_warning(m, "%s is not clean UTF-8: %llu invalid sequence%s shown as U+FFFD", name,
                     (unsigned long long)cut.replaced, cut.replaced == 1 ? " is" : "s are");
    return rc;
}

int read_document(struct emit *m, const char *path, const char *name, struct err *e)
{
    struct stat st;
    if (stat(path, &st))
        return err_errno(e, errno, "cannot open %s", name);
    if (S_ISDIR(st.st_mode))
        return read_folder(m, path, name, e);
    struct mapping map;
    int rc = mapping_open(&map, path, e);
    if (rc)
        return rc;
    const char *dot = strrchr(name, '.');
    if (looks_like_pdf(map.data, map.size) || (dot && strcasecmp(dot, ".pdf") == 0))
        rc = read_pdf(m, map.data, map.size, name, e);
    else
        rc = read_text(m, map.data, map.size, name, e);
    mapping_close(&map);
    return rc;
}
