/* SPDX-License-Identifier: Apache-2.0 */
/* transfer_tar.c - a tar file member by member, through libarchive.
 *
 * Reading takes plain tar alone, no filter and no other format. A member counts only as a regular file with
 * the name and size that are expected next, so no name of the file is ever used.
 */
#include "data/transfer/transfer_internal.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/progress.h"

enum { BLOCK = 1 << 20 };

struct tar_writer {
    struct archive *archive;
    struct archive_entry *entry;
    struct tar_care care;
    int fd;
    int failed; /* errno of the system's refusal */
    int over;   /* nothing is written any more */
    uint64_t done;
};

struct tar_reader {
    struct archive *archive;
    struct tar_care care;
    int fd;
    int failed;
    uint64_t done;
    char block[BLOCK];
};

/* What libarchive or, behind it, the system said. */
static int tar_fail(struct archive *a, const struct tar_care *care, int failed, int reading, struct err *e)
{
    if (failed)
        return err_errno(e, failed,
                         reading ? "cannot read %s" : "cannot write %s; free disk space or check it",
                         care->path);
    const char *said = archive_error_string(a);
    if (archive_errno(a) == ENOMEM)
        return err_memory(e, "a part of the file");
    return err_set(e, reading ? ERR_FORMAT : ERR_IO, "%s is %s: %s", care->path,
                   reading ? "not a whole session file" : "not written", said ? said : "unknown failure");
}

static int stopped(const struct tar_care *care, struct err *e)
{
    return cancel_requested(care->cancel)
               ? err_set(e, ERR_CANCELLED, "stopped before %s was done", care->path)
               : 0;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

/* Never refuses: libarchive does not free what it has after a refusal. Whoever writes asks w->failed. */
static la_ssize_t write_block(struct archive *a, void *arg, const void *bytes, size_t n)
{
    struct tar_writer *w = arg;
    size_t done = 0;
    (void)a;
    while (!w->failed && !w->over && done < n) {
        ssize_t k = write(w->fd, (const char *)bytes + done, n - done);
        if (k < 0 && errno != EINTR)
            w->failed = errno;
        else if (k == 0)
            w->failed = ENOSPC;
        else if (k > 0)
            done += (size_t)k;
    }
    w->done += done;
    return (la_ssize_t)n;
}

int tar_writer_open(struct tar_writer **out, int fd, const struct tar_care *care, struct err *e)
{
    *out = NULL;
    struct tar_writer *w = calloc(1, sizeof *w);
    if (!w)
        return err_memory(e, "a tar file");
    *w = (struct tar_writer){
        .archive = archive_write_new(), .entry = archive_entry_new(), .care = *care, .fd = fd};
    if (!w->archive || !w->entry) {
        tar_writer_free(w);
        return err_memory(e, "a tar file");
    }
    if (archive_write_set_format_ustar(w->archive) || archive_write_add_filter_none(w->archive) ||
        archive_write_set_bytes_per_block(w->archive, BLOCK) ||
        archive_write_set_bytes_in_last_block(w->archive, 1) ||
        archive_write_open(w->archive, w, NULL, write_block, NULL)) {
        int rc = tar_fail(w->archive, care, w->failed, 0, e);
        tar_writer_free(w);
        return rc;
    }
    *out = w;
    return 0;
}

int tar_write(struct tar_writer *w, const char *name, const void *bytes, size_t n, struct err *e)
{
    archive_entry_clear(w->entry);
    archive_entry_set_pathname(w->entry, name);
    archive_entry_set_filetype(w->entry, AE_IFREG);
    archive_entry_set_perm(w->entry, 0600);
    archive_entry_set_mtime(w->entry, 0, 0);
    archive_entry_set_size(w->entry, (la_int64_t)n);
    if (archive_write_header(w->archive, w->entry) || w->failed)
        return tar_fail(w->archive, &w->care, w->failed, 0, e);
    for (size_t at = 0; at < n;) {
        size_t take = n - at < BLOCK ? n - at : BLOCK;
        int rc = stopped(&w->care, e);
        if (rc)
            return rc;
        if (archive_write_data(w->archive, (const char *)bytes + at, take) != (la_ssize_t)take || w->failed)
            return tar_fail(w->archive, &w->care, w->failed, 0, e);
        at += take;
        progress_report(w->care.progress, w->care.what, w->done, w->care.total);
    }
    return 0;
}

int tar_writer_finish(struct tar_writer *w, uint64_t *bytes, struct err *e)
{
    *bytes = 0;
    if (archive_write_close(w->archive) || w->failed)
        return tar_fail(w->archive, &w->care, w->failed, 0, e);
    *bytes = w->done;
    progress_report(w->care.progress, w->care.what, w->done, w->care.total);
    return 0;
}

void tar_writer_free(struct tar_writer *w)
{
    if (!w)
        return;
    w->over = 1; /* freeing would write what is left */
    if (w->archive)
        archive_write_free(w->archive);
    archive_entry_free(w->entry);
    free(w);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static la_ssize_t read_block(struct archive *a, void *arg, const void **bytes)
{
    struct tar_reader *r = arg;
    ssize_t n;
    do
        n = read(r->fd, r->block, BLOCK);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        r->failed = errno;
        archive_set_error(a, errno, "the system refused");
        return -1;
    }
    *bytes = r->block;
    r->done += (uint64_t)n;
    progress_report(r->care.progress, r->care.what, r->done, r->care.total);
    return n;
}

int tar_reader_open(struct tar_reader **out, int fd, const struct tar_care *care, struct err *e)
{
    *out = NULL;
    struct tar_reader *r = calloc(1, sizeof *r);
    if (!r)
        return err_memory(e, "a tar file");
    r->care = *care;
    r->fd = fd;
    r->archive = archive_read_new();
    if (!r->archive) {
        tar_reader_free(r);
        return err_memory(e, "a tar file");
    }
    if (archive_read_support_format_tar(r->archive) ||
        archive_read_open(r->archive, r, NULL, read_block, NULL)) {
        int rc = tar_fail(r->archive, care, r->failed, 1, e);
        tar_reader_free(r);
        return rc;
    }
    *out = r;
    return 0;
}

static int read_member(struct tar_reader *r, uint64_t size, struct buf *to, struct err *e)
{
    while (to->len < size) {
        size_t take = size - to->len < BLOCK ? (size_t)(size - to->len) : BLOCK;
        int rc = stopped(&r->care, e);
        if (rc)
            return rc;
        char *at = buf_reserve(to, take);
        if (!at)
            return err_memory(e, "a part of the file");
        la_ssize_t n = archive_read_data(r->archive, at, take);
        if (n < 0)
            return tar_fail(r->archive, &r->care, r->failed, 1, e);
        if (n == 0)
            return err_set(e, ERR_FORMAT, "%s is cut short; make it again", r->care.path);
        to->len += (size_t)n;
    }
    return 0;
}

int tar_read(struct tar_reader *r, const char *name, int exact, uint64_t *size, char **bytes, struct err *e)
{
    *bytes = NULL;
    struct archive_entry *entry;
    int status = archive_read_next_header(r->archive, &entry);
    if (status == ARCHIVE_EOF)
        return err_set(e, ERR_FORMAT, "%s ends before %s; make it again", r->care.path, name);
    if (status)
        return tar_fail(r->archive, &r->care, r->failed, 1, e);
    const char *have = archive_entry_pathname(entry);
    if (!have || strcmp(have, name) != 0 || archive_entry_filetype(entry) != AE_IFREG ||
        archive_entry_hardlink(entry) || archive_entry_symlink(entry) || !archive_entry_size_is_set(entry))
        return err_set(e, ERR_FORMAT, "%s is no session file of lectern: %s is missing", r->care.path, name);
    la_int64_t n = archive_entry_size(entry);
    if (n < 0 || (exact ? (uint64_t)n != *size : (uint64_t)n > *size))
        return err_set(e, ERR_FORMAT, "%s is damaged: %s has the wrong size", r->care.path, name);
    struct buf all = {0};
    int rc = read_member(r, (uint64_t)n, &all, e);
    if (!rc && !buf_reserve(&all, 1)) /* not NULL for an empty member */
        rc = err_memory(e, "a part of the file");
    if (rc) {
        buf_free(&all);
        return rc;
    }
    *size = (uint64_t)n;
    all.data[all.len] = '\0';
    *bytes = all.data;
    return 0;
}

int tar_reader_end(struct tar_reader *r, struct err *e)
{
    struct archive_entry *entry;
    int status = archive_read_next_header(r->archive, &entry);
    if (status == ARCHIVE_EOF)
        return 0;
    return status ? tar_fail(r->archive, &r->care, r->failed, 1, e)
                  : err_set(e, ERR_FORMAT, "%s has more than its manifest says", r->care.path);
}

void tar_reader_free(struct tar_reader *r)
{
    if (!r)
        return;
    archive_read_free(r->archive);
    free(r);
}
