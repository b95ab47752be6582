/* SPDX-License-Identifier: Apache-2.0 */
/* segment_tidy.c - gives back the space of segment files that no row names.
 *
 * Invariant: holes and tails are cut under the file's flock and the range lock, never under a reader. Each
 * deleted span counts up its segment's `untidy` (a trigger); it goes to 0 only when all of the file's free
 * space was given back, so what a crash, a reader or a writer left is found again.
 */
#include "data/store/store_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"

static int extent_add(struct extent **list, size_t *n, size_t *cap, struct extent one, struct err *e)
{
    if (*n == *cap) {
        size_t grown_cap = *cap ? 2 * *cap : 64;
        struct extent *grown = realloc(*list, grown_cap * sizeof *grown);
        if (!grown)
            return err_memory(e, "a list of spans");
        *list = grown;
        *cap = grown_cap;
    }
    (*list)[(*n)++] = one;
    return 0;
}

int segment_extents(struct store *s, int64_t id, struct extent **out, size_t *n, struct err *e)
{
    *out = NULL;
    *n = 0;
    struct extent *list = NULL;
    size_t cap = 0;
    sqlite3_stmt *st;
    int more = 1;
    int rc = sql_query(s, &st, "SELECT offset, size FROM spans WHERE segment=?1 ORDER BY offset",
                       SQL_ARGS(sql_int(id)), e);
    while (!rc && !(rc = sql_step(s, st, &more, e)) && more) {
        int64_t offset = sqlite3_column_int64(st, 0), size = sqlite3_column_int64(st, 1);
        if (offset < SEGMENT_HEADER || offset > INT64_MAX / 2 || size < 0 || (uint64_t)size > SPAN_MAX)
            rc = err_set(e, ERR_FORMAT, "%s names impossible bytes of segment %lld", s->db_path,
                         (long long)id);
        else if (size) /* an empty one takes no room */
            rc = extent_add(&list, n, &cap, (struct extent){(uint64_t)offset, (uint64_t)(offset + size)}, e);
    }
    sqlite3_finalize(st);
    if (rc) {
        free(list);
        *n = 0;
        return rc;
    }
    *out = list;
    return 0;
}

/* Where a file system has no holes, the bytes still go. */
static int zero(int fd, const char *path, uint64_t from, uint64_t length, struct err *e)
{
    static const uint8_t zeros[SEGMENT_ALIGN];
    int rc = 0;
    for (uint64_t at = 0; !rc && at < length; at += sizeof zeros) {
        size_t n = length - at < sizeof zeros ? (size_t)(length - at) : sizeof zeros;
        rc = file_pwrite_all(fd, zeros, n, from + at, path, e);
    }
    return rc;
}

/* Length 0 cuts the tail. *left is set when a reader is in the range: the space waits for later. */
static int cut(int fd, const char *path, uint64_t from, uint64_t length, int *left, struct err *e)
{
    int failed = segment_range_lock(fd, F_WRLCK, from, length);
    if (failed == EAGAIN || failed == EACCES) {
        *left = 1;
        return 0;
    }
    if (failed)
        return err_errno(e, failed, "cannot lock %s", path);
    int status;
    do
        status = length
                     ? fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)length)
                     : ftruncate(fd, (off_t)from);
    while (status && errno == EINTR);
    int saved = status ? errno : 0, rc = 0;
    if (saved && length && (saved == EOPNOTSUPP || saved == ENOSYS))
        rc = zero(fd, path, from, length, e);
    else if (saved)
        rc = err_errno(e, saved, "cannot give back space of %s", path);
    (void)segment_range_lock(fd, F_UNLCK, from, length);
    return rc;
}

/* A reader inside [from, to), if there is one: its range, cut to blocks. */
static int reader_in(int fd, uint64_t from, uint64_t to, struct extent *range)
{
    struct flock asked = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)from, .l_len = (off_t)(to - from)};
    if (fcntl(fd, F_OFD_GETLK, &asked) || asked.l_type == F_UNLCK)
        return 0; /* who cannot be asked is met by the lock itself */
    uint64_t start = (uint64_t)asked.l_start, end = asked.l_len ? start + (uint64_t)asked.l_len : to;
    start = start / SEGMENT_ALIGN * SEGMENT_ALIGN;
    end = (end + SEGMENT_ALIGN - 1) / SEGMENT_ALIGN * SEGMENT_ALIGN;
    range->offset = start > from ? start : from;
    range->end = end < to ? end : to;
    return range->end > range->offset;
}

/* All of [from, to) but what readers hold. `tail`: nothing comes behind, the file may become shorter. */
static int cut_around(int fd, const char *path, uint64_t from, uint64_t to, int tail, int *left,
                      struct err *e)
{
    struct extent held;
    int rc = 0;
    while (!rc && from < to && reader_in(fd, from, to, &held)) {
        *left = 1;
        /* The system tells any reader of the range, and most often the first one. */
        if (held.offset > from)
            rc = cut_around(fd, path, from, held.offset, 0, left, e);
        from = held.end;
    }
    if (rc || from >= to)
        return rc;
    return cut(fd, path, from, tail ? 0 : to - from, left, e);
}

static int remove_segment(struct store *s, int64_t id, const char *path, struct err *e)
{
    int rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = sql_run(s, "DELETE FROM segments WHERE id=?1 AND NOT EXISTS(SELECT 1 FROM spans WHERE segment=?1)",
                 SQL_ARGS(sql_int(id)), e);
    int removed = sqlite3_changes(s->db);
    rc = sql_end(s, rc, e);
    if (!rc && removed && unlink(path) && errno != ENOENT)
        rc = err_errno(e, errno, "cannot delete %s", path);
    return rc;
}

/* The file's space between and behind `used`. A writer's own reserve goes too: it takes it again. */
static int cut_free(struct store *s, int fd, const char *path, const struct extent *used, size_t n, int *left,
                    struct err *e)
{
    int rc = 0;
    uint64_t at = SEGMENT_HEADER;
    for (size_t i = 0; !rc && i < n; i++) {
        if (used[i].offset >= at + SEGMENT_ALIGN)
            rc = cut_around(fd, path, at, used[i].offset, 0, left, e);
        uint64_t end = (used[i].end + SEGMENT_ALIGN - 1) / SEGMENT_ALIGN * SEGMENT_ALIGN;
        at = end > at ? end : at;
    }
    struct stat st;
    if (!rc && fstat(fd, &st))
        rc = err_errno(e, errno, "cannot look at %s", path);
    uint64_t size = rc ? 0 : (uint64_t)st.st_size;
    int mine = fd == s->writer.fd;
    /* Cutting a file at its own end gives back blocks reserved behind it. A file shorter than its rows is
     * damaged and must not grow. */
    if (!rc && (size > at || !mine) && n && size >= used[n - 1].end)
        rc = size > at ? cut_around(fd, path, at, size, 1, left, e) : cut(fd, path, size, 0, left, e);
    if (mine && size > at)
        s->writer.reserved = 0;
    return rc;
}

/* With the flock held on fd. */
static int tidy_locked(struct store *s, int fd, int64_t id, const char *path, struct err *e)
{
    struct extent *used;
    size_t n;
    int64_t untidy;
    int rc = sql_number(s, &untidy, "SELECT untidy FROM segments WHERE id=?1", SQL_ARGS(sql_int(id)), e);
    if (rc == ERR_NOT_FOUND)
        return 0; /* somebody else has just removed it */
    if (!rc)
        rc = segment_extents(s, id, &used, &n, e);
    if (rc)
        return rc == ERR_FORMAT ? 0 : rc; /* impossible rows: the readers report them */
    int mine = fd == s->writer.fd, left = 0;
    if (n)
        rc = cut_free(s, fd, path, used, n, &left, e);
    free(used);
    if (!rc && n && !left && untidy) /* unless more was deleted meanwhile */
        rc = sql_run(s, "UPDATE segments SET untidy=0 WHERE id=?1 AND untidy=?2",
                     SQL_ARGS(sql_int(id), sql_int(untidy)), e);
    if (rc || n)
        return rc;
    rc = remove_segment(s, id, path, e);
    if (mine)
        segment_writer_close(s);
    return rc;
}

int segment_tidy(struct store *s, int64_t id, struct err *e)
{
    if (s->writer.fd >= 0 && s->writer.id == id)
        return tidy_locked(s, s->writer.fd, id, s->writer.path, e);
    char *path = segment_path(s, id);
    if (!path)
        return err_memory(e, "a segment's path");
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK);
    int rc = 0;
    if (fd < 0 && errno == ENOENT)
        rc = remove_segment(s, id, path, e);
    else if (fd < 0)
        rc = err_errno(e, errno, "cannot open %s", path);
    else if (!flock(fd, LOCK_EX | LOCK_NB))
        rc = tidy_locked(s, fd, id, path, e);
    else if (errno != EWOULDBLOCK)
        rc = err_errno(e, errno, "cannot lock %s", path);
    if (fd >= 0)
        close(fd);
    free(path);
    return rc;
}

int segment_tidy_all(struct store *s, const int64_t *ids, size_t n, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < n; i++) {
        struct err one = {0};
        int failed = segment_tidy(s, ids[i], &one);
        if (failed && !rc) {
            rc = failed;
            if (e)
                *e = one;
        }
    }
    return rc;
}

/* The number of "NNNNNN.seg", or 0. */
static int64_t number_of(const char *name)
{
    int64_t id = 0;
    size_t i = 0;
    for (; name[i] >= '0' && name[i] <= '9' && i < 18; i++)
        id = 10 * id + (name[i] - '0');
    return i >= 6 && strcmp(name + i, ".seg") == 0 ? id : 0;
}

int segment_remove_orphans(struct store *s, struct err *e)
{
    DIR *dir = opendir(s->segments_dir);
    if (!dir)
        return err_errno(e, errno, "cannot list %s", s->segments_dir);
    int rc = 0;
    for (const struct dirent *entry; !rc && (entry = readdir(dir));) {
        int64_t id = number_of(entry->d_name), known = 0;
        if (!id)
            continue;
        rc = sql_number(s, &known, "SELECT count(*) FROM segments WHERE id=?1", SQL_ARGS(sql_int(id)), e);
        if (!rc && !known && unlinkat(dirfd(dir), entry->d_name, 0) && errno != ENOENT)
            rc = err_errno(e, errno, "cannot delete %s/%s", s->segments_dir, entry->d_name);
    }
    closedir(dir);
    return rc;
}
