/* SPDX-License-Identifier: Apache-2.0 */
/* read_folder.c - a folder of source code and texts as one document, each file under its path.
 *
 *   ==== src/main.c ====\n     added, no source bytes
 *   the file's text            blocks that know its bytes
 *   \n                         added: a blank line (and the line end that the file may lack)
 *
 * No link is followed, neither at the end of a path nor inside it. A file that changes while it is read is
 * read as it was at that moment.
 */
#include "ingest/worker/readers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "ingest/text_cut.h"
#include "ingest/utf8_repair.h"
#include "ingest/worker/folder_list.h"

#define FOLDER_FILE_MAX ((size_t)2 * 1024 * 1024)
#define INNER_PATH_MAX ((size_t)4000) /* with its heading it fits a frame's string */

struct folder {
    struct emit *m;
    int fd; /* of the folder */
    size_t binaries;
};

/* Opens a file below the folder without following a link anywhere; -1 with errno. */
static int open_inner(int folder, const char *path)
{
    char part[256];
    int at = folder;
    for (;;) {
        const char *slash = strchr(path, '/');
        size_t n = slash ? (size_t)(slash - path) : strlen(path);
        if (n == 0 || n >= sizeof part || strncmp(path, "..", n > 2 ? n : 2) == 0)
            break;
        memcpy(part, path, n);
        part[n] = '\0';
        int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | (slash ? O_DIRECTORY : 0);
        int next = openat(at, part, flags);
        int saved = errno;
        if (at != folder)
            close(at);
        errno = saved;
        if (next < 0 || !slash)
            return next;
        at = next;
        path = slash + 1;
    }
    if (at != folder)
        close(at);
    errno = EINVAL;
    return -1;
}

/* The file's bytes, at most one more than the limit. */
static int read_inner(int fd, struct buf *out, struct err *e)
{
    ssize_t n = 1;
    while (n > 0 && out->len <= FOLDER_FILE_MAX) {
        char *to = buf_reserve(out, (size_t)64 * 1024);
        if (!to)
            return err_memory(e, "a file of the folder");
        n = read(fd, to, (size_t)64 * 1024);
        if (n < 0 && errno == EINTR)
            n = 1;
        else if (n > 0)
            out->len += (size_t)n;
    }
    return n < 0 ? err_errno(e, errno, "cannot read") : 0;
}

/* NUL anywhere, or more than one byte in a hundred outside valid UTF-8. */
static int is_binary(const uint8_t *bytes, size_t n)
{
    if (n && memchr(bytes, 0, n))
        return 1;
    size_t invalid = 0;
    for (size_t i = 0; i < n;) {
        i += utf8_valid_prefix(bytes + i, n - i);
        size_t bad = 0;
        if (i < n)
            utf8_sequence(bytes + i, n - i, &bad);
        i += bad;
        invalid += bad;
    }
    return invalid > n / 100;
}

static int emit_file(struct folder *f, const struct buf *bytes, const char *shown, struct err *e)
{
    struct buf heading = {0};
    buf_printf(&heading, "==== %s ====\n", shown);
    int rc = heading.failed ? err_memory(e, "a heading") : 0;
    if (!rc)
        rc = emit_made(f->m, shown, heading.data, heading.len, 1, e);
    buf_free(&heading);
    struct ingest_block like = {.file = shown, .page_index = -1, .page_label = ""};
    struct text_cut_result cut = {0};
    if (!rc && bytes->len)
        rc = text_cut((const uint8_t *)bytes->data, bytes->len, &like, emit_block, f->m, &cut, e);
    const char *after = cut.ends_in_line ? "\n\n" : "\n";
    if (!rc)
        rc = emit_made(f->m, shown, after, strlen(after), cut.lines + 1, e);
    f->m->totals.files++;
    f->m->totals.replaced += cut.replaced;
    if (!rc && cut.replaced)
        emit_warning(f->m, "%s is not clean UTF-8: %llu invalid sequence%s shown as U+FFFD", shown,
                     (unsigned long long)cut.replaced, cut.replaced == 1 ? " is" : "s are");
    return rc;
}

/* Emits the file whose bytes were read, or says (or counts) why it is left out. */
static int judge_file(struct folder *f, const struct buf *bytes, const char *shown, struct err *e)
{
    const uint8_t *p = (const uint8_t *)bytes->data;
    if (bytes->len > FOLDER_FILE_MAX)
        emit_warning(f->m, "%s is larger than 2 MiB and was left out", shown);
    else if (looks_like_pdf(p, bytes->len))
        emit_warning(f->m, "%s is a PDF and was left out; add it by itself", shown);
    else if (is_binary(p, bytes->len))
        f->binaries++;
    else
        return emit_file(f, bytes, shown, e);
    f->m->totals.files_skipped++;
    return 0;
}

static int read_one(struct folder *f, const char *path, struct err *e)
{
    struct buf shown = {0}, bytes = {0};
    utf8_clean_label(&shown, path, INNER_PATH_MAX);
    int rc = shown.failed ? err_memory(e, "a path") : 0;
    struct stat st;
    int fd = rc ? -1 : open_inner(f->fd, path);
    if (rc) {
        buf_free(&shown);
        return rc;
    }
    /* ENOENT: tracked, but deleted in the work tree; a link in place of a file: ELOOP */
    int usable = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    int said = fd >= 0 || errno == ENOENT || errno == ELOOP;
    struct err why = {0};
    if (usable && read_inner(fd, &bytes, &why)) {
        usable = said = 0;
    } else if (usable) {
        rc = judge_file(f, &bytes, shown.data, e);
    }
    if (!usable)
        f->m->totals.files_skipped++;
    if (!usable && !said)
        emit_warning(f->m, "%s cannot be read and was left out", shown.data);
    if (fd >= 0)
        close(fd);
    buf_free(&shown);
    buf_free(&bytes);
    return rc;
}

static void closing_warnings(struct folder *f, const struct folder_list *list)
{
    if (f->binaries)
        emit_warning(f->m, "%zu binary file%s left out", f->binaries, f->binaries == 1 ? " was" : "s were");
    if (list->too_deep)
        emit_warning(f->m, "%zu folders more than %d levels down were left out", list->too_deep,
                     FOLDER_DEPTH_MAX);
    if (list->unreadable)
        emit_warning(f->m, "%zu folder%s cannot be opened", list->unreadable,
                     list->unreadable == 1 ? "" : "s");
}

static int read_list(struct folder *f, const struct folder_list *list, const char *name, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < list->n; i++) {
        rc = read_one(f, list->paths[i], e);
        emit_progress(f->m, i + 1, list->n);
    }
    if (!rc)
        closing_warnings(f, list);
    if (!rc && f->m->totals.files == 0)
        rc = err_set(e, ERR_UNSUPPORTED,
                     "%s holds no text file that can be read; name files or another folder", name);
    return rc;
}

/* The folder's own name, also for "." and "..". */
static int emit_head(struct emit *m, const struct folder_list *list, const char *path, struct err *e)
{
    char *real = realpath(path, NULL);
    struct buf title = {0};
    utf8_clean_label(&title, real && real[1] ? path_base(real) : path, 300);
    free(real);
    if (title.failed) {
        buf_free(&title);
        return err_memory(e, "a title");
    }
    struct ingest_document document = {
        .kind = list->tracked ? "git" : "folder", .title = title.data, .author = ""};
    int rc = emit_document(m, &document, e);
    buf_free(&title);
    return rc;
}

int read_folder(struct emit *m, const char *path, const char *name, struct err *e)
{
    struct folder f = {.m = m};
    struct folder_list list = {0};
    f.fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f.fd < 0)
        return err_errno(e, errno, "cannot open the folder %s", name);
    int rc = folder_list_make(&list, path, name, e);
    if (!rc)
        rc = emit_head(m, &list, path, e);
    if (!rc)
        rc = read_list(&f, &list, name, e);
    folder_list_free(&list);
    close(f.fd);
    return rc;
}
