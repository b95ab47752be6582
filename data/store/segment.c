/* SPDX-License-Identifier: Apache-2.0 */
/* segment.c - segment files: header, append, readers, and giving space back. Layout and the two locks are in
 * store_internal.h.
 *
 * Invariant: bytes that a row names are never written again. A writer holds the file's flock and writes only
 * behind `writer.end`, which is behind every row; holes and tails are cut under the flock and the range lock.
 */
#include "data/store/store_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/base/bytes.h"
#include "engine/base/file.h"

enum { HEADER_VERSION = 1, HEADER_SUMMED = SEGMENT_HEADER - 8, ADOPT_TRIES = 64 };
static const char magic[8] = {'L', 'E', 'C', 'T', 'S', 'E', 'G', '1'};

char *segment_path(const struct store *s, int64_t id)
{
    struct buf name = {0};
    buf_printf(&name, "%s/%06lld.seg", s->segments_dir, (long long)id);
    return name.failed ? NULL : buf_take(&name);
}

static void header_make(uint8_t header[SEGMENT_HEADER], const uint8_t uuid[16], int64_t id)
{
    memset(header, 0, SEGMENT_HEADER);
    memcpy(header, magic, 8);
    header[8] = HEADER_VERSION;
    header[12] = (uint8_t)(SEGMENT_HEADER & 0xff);
    header[13] = (uint8_t)(SEGMENT_HEADER >> 8);
    memcpy(header + 16, uuid, 16);
    for (int i = 0; i < 8; i++)
        header[32 + i] = (uint8_t)((uint64_t)id >> (8 * i));
    uint64_t sum = XXH3_64bits(header, HEADER_SUMMED);
    for (int i = 0; i < 8; i++)
        header[HEADER_SUMMED + i] = (uint8_t)(sum >> (8 * i));
}

/* The header is a function of (uuid, id), so it is compared whole. */
static int header_check(int fd, const char *path, const uint8_t uuid[16], int64_t id, struct err *e)
{
    uint8_t want[SEGMENT_HEADER], have[SEGMENT_HEADER];
    ssize_t n;
    do
        n = pread(fd, have, sizeof have, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return err_errno(e, errno, "cannot read %s", path);
    header_make(want, uuid, id);
    if (n != SEGMENT_HEADER || memcmp(want, have, SEGMENT_HEADER) != 0)
        return err_set(e, ERR_FORMAT, "%s has a damaged header; it will be read again from the document",
                       path);
    return 0;
}

static int open_segment(const char *path, int flags, struct err *e, int *fd)
{
    *fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK);
    if (*fd < 0 && errno == ENOENT)
        return err_set(e, ERR_FORMAT, "%s is missing; it will be read again from the document", path);
    if (*fd < 0)
        return err_errno(e, errno, "cannot open %s", path);
    struct stat st;
    if (fstat(*fd, &st) || !S_ISREG(st.st_mode)) {
        close(*fd);
        *fd = -1;
        return err_set(e, ERR_FORMAT, "%s is not a file; it will be read again from the document", path);
    }
    return 0;
}

/* length 0 = to the end of all files. Returns 0, or errno. */
static int range_lock(int fd, short type, uint64_t offset, uint64_t length)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)offset, .l_len = (off_t)length};
    int status;
    do
        status = fcntl(fd, F_OFD_SETLK, &lock);
    while (status && errno == EINTR);
    return status ? errno : 0;
}

/* ---- readers --------------------------------------------------------------------------------------------
 */

int segment_borrow(struct store *s, int64_t id, const uint8_t uuid[16], struct segment **out, struct err *e)
{
    *out = NULL;
    for (struct segment *seg = s->segments; seg; seg = seg->next) {
        if (seg->id != id || memcmp(seg->uuid, uuid, 16) != 0)
            continue;
        seg->refs++;
        *out = seg;
        return 0;
    }
    struct segment *seg = calloc(1, sizeof *seg);
    char *path = segment_path(s, id);
    if (!seg || !path) {
        free(seg);
        free(path);
        return err_memory(e, "a segment");
    }
    *seg = (struct segment){.id = id, .fd = -1, .refs = 1, .path = path, .next = s->segments};
    memcpy(seg->uuid, uuid, 16);
    s->segments = seg;
    int rc = open_segment(path, O_RDONLY, e, &seg->fd);
    if (!rc)
        rc = header_check(seg->fd, path, uuid, id, e);
    if (rc) {
        segment_return(s, seg);
        return rc;
    }
    *out = seg;
    return 0;
}

void segment_return(struct store *s, struct segment *seg)
{
    if (!seg || --seg->refs)
        return;
    for (struct segment **at = &s->segments; *at; at = &(*at)->next)
        if (*at == seg) {
            *at = seg->next;
            break;
        }
    if (seg->fd >= 0)
        close(seg->fd); /* read only: nothing to lose; the range locks end with it */
    free(seg->path);
    free(seg);
}

int segment_range_hold(struct segment *seg, uint64_t offset, uint64_t size, int *gone, struct err *e)
{
    *gone = 0;
    int failed = size ? range_lock(seg->fd, F_RDLCK, offset, size) : 0;
    *gone = failed == EAGAIN || failed == EACCES;
    return failed && !*gone ? err_errno(e, failed, "cannot lock %s", seg->path) : 0;
}

void segment_range_release(struct segment *seg, uint64_t offset, uint64_t size)
{
    if (size) /* unlocking what is locked cannot fail in a way that matters: closing ends it too */
        (void)range_lock(seg->fd, F_UNLCK, offset, size);
}

/* ---- giving space back ----------------------------------------------------------------------------------
 */

struct extent {
    uint64_t offset, end;
};

/* The payloads that rows name, by offset. ERR_FORMAT when a row makes no sense: such a file is left alone. */
static int extents_of(struct store *s, int64_t id, struct extent **out, size_t *n, struct err *e)
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
        if (offset < SEGMENT_HEADER || offset > INT64_MAX / 2 || size < 0 || (uint64_t)size > SPAN_MAX) {
            rc = err_set(e, ERR_FORMAT, "%s names impossible bytes of segment %lld", s->db_path,
                         (long long)id);
            break;
        }
        if (!size) /* takes no room */
            continue;
        if (*n == cap) {
            cap = cap ? 2 * cap : 64;
            struct extent *grown = realloc(list, cap * sizeof *grown);
            if (!grown) {
                rc = err_memory(e, "a list of spans");
                break;
            }
            list = grown;
        }
        list[(*n)++] = (struct extent){(uint64_t)offset, (uint64_t)(offset + size)};
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

/* Length 0 cuts the tail. A reader in the range, or a file system without holes: the space waits for later.
 */
static int cut(int fd, const char *path, uint64_t from, uint64_t length, struct err *e)
{
    int failed = range_lock(fd, F_WRLCK, from, length);
    if (failed)
        return failed == EAGAIN || failed == EACCES ? 0 : err_errno(e, failed, "cannot lock %s", path);
    int status = length
                     ? fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)length)
                     : ftruncate(fd, (off_t)from);
    int saved = status ? errno : 0;
    (void)range_lock(fd, F_UNLCK, from, length);
    if (saved && saved != EOPNOTSUPP && saved != ENOSYS)
        return err_errno(e, saved, "cannot give back space of %s", path);
    return 0;
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

/* With the flock held on fd. */
static int tidy_locked(struct store *s, int fd, int64_t id, const char *path, struct err *e)
{
    struct extent *used;
    size_t n;
    int rc = extents_of(s, id, &used, &n, e);
    if (rc)
        return rc == ERR_FORMAT ? 0 : rc; /* impossible rows: the readers report them */
    struct stat st;
    if (fstat(fd, &st))
        rc = err_errno(e, errno, "cannot look at %s", path);
    uint64_t at = SEGMENT_HEADER;
    for (size_t i = 0; !rc && i < n; i++) {
        if (used[i].offset >= at + SEGMENT_ALIGN)
            rc = cut(fd, path, at, used[i].offset - at, e);
        uint64_t end = (used[i].end + SEGMENT_ALIGN - 1) / SEGMENT_ALIGN * SEGMENT_ALIGN;
        at = end > at ? end : at;
    }
    int mine = fd == s->writer.fd;
    if (!rc && n && (uint64_t)st.st_size > at)
        rc = cut(fd, path, at, 0, e);
    free(used);
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

/* ---- the writer -----------------------------------------------------------------------------------------
 */

void segment_writer_close(struct store *s)
{
    if (s->writer.fd >= 0)
        close(s->writer.fd); /* all that counts was synced before */
    free(s->writer.path);
    memset(&s->writer, 0, sizeof s->writer);
    s->writer.fd = -1;
}

static int sync_folder(const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) ? err_errno(e, errno, "cannot sync %s", path) : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Makes the file of a row that is not committed yet. A file of that name has no row: it is garbage. */
static int make_file(struct store *s, int64_t id, const uint8_t uuid[16], struct err *e)
{
    char *path = segment_path(s, id);
    if (!path)
        return err_memory(e, "a segment's path");
    uint8_t header[SEGMENT_HEADER];
    header_make(header, uuid, id);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = fd < 0 ? err_errno(e, errno, "cannot make %s", path) : 0;
    if (!rc && flock(fd, LOCK_EX | LOCK_NB))
        rc = err_errno(e, errno, "cannot lock %s", path);
    if (!rc)
        rc = file_pwrite_all(fd, header, sizeof header, 0, path, e);
    if (!rc && fsync(fd))
        rc = err_errno(e, errno, "cannot sync %s", path);
    if (!rc)
        rc = sync_folder(s->segments_dir, e);
    s->writer.fd = fd;
    s->writer.id = id;
    s->writer.path = path;
    s->writer.end = SEGMENT_HEADER;
    return rc;
}

static int writer_create(struct store *s, struct err *e)
{
    uint8_t uuid[16];
    if (getrandom(uuid, sizeof uuid, 0) != (ssize_t)sizeof uuid)
        return err_errno(e, errno, "cannot get random bytes from the system");
    int rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = segment_remove_orphans(s, e);
    if (!rc)
        rc = sql_run(s, "INSERT INTO segments(uuid) VALUES(?1)", SQL_ARGS(sql_blob(uuid, 16)), e);
    if (!rc)
        rc = make_file(s, sqlite3_last_insert_rowid(s->db), uuid, e);
    rc = sql_end(s, rc, e);
    if (rc && s->writer.path) {
        unlink(s->writer.path); /* else the next orphan hunt finds it */
        segment_writer_close(s);
    }
    return rc;
}

/* Asked under the flock: whoever removes a segment has it too. */
static int segment_known(struct store *s, int64_t id, struct err *e)
{
    int64_t one;
    return sql_number(s, &one, "SELECT 1 FROM segments WHERE id=?1", SQL_ARGS(sql_int(id)), e);
}

/* Takes the segment when nobody appends to it, it is whole and has room: *taken. Its tail that no row names,
 * left by a crash, goes. */
static int adopt(struct store *s, int64_t id, const uint8_t uuid[16], int *taken, struct err *e)
{
    char *path = segment_path(s, id);
    if (!path)
        return err_memory(e, "a segment's path");
    struct extent *used = NULL;
    size_t n = 0;
    struct stat st, named;
    struct err miss = {0}; /* an unusable segment is no error: another one is taken */
    int fd = -1;
    int rc = 0;
    if (!open_segment(path, O_RDWR, &miss, &fd) && !flock(fd, LOCK_EX | LOCK_NB) && !fstat(fd, &st) &&
        !stat(path, &named) && named.st_ino == st.st_ino && named.st_dev == st.st_dev &&
        !header_check(fd, path, uuid, id, &miss) && !(rc = segment_known(s, id, e)) &&
        !(rc = extents_of(s, id, &used, &n, e))) {
        uint64_t end = SEGMENT_HEADER;
        for (size_t i = 0; i < n; i++)
            end = used[i].end > end ? used[i].end : end;
        /* A file shorter than its rows is damaged; writing on would hide that under other bytes. */
        if (end < s->segment_limit && end <= (uint64_t)st.st_size && !range_lock(fd, F_WRLCK, end, 0)) {
            int failed = ftruncate(fd, (off_t)end);
            (void)range_lock(fd, F_UNLCK, end, 0);
            *taken = !failed;
        }
        if (*taken) {
            s->writer.fd = fd;
            s->writer.id = id;
            s->writer.path = path;
            s->writer.end = end;
        }
    }
    free(used);
    if (*taken)
        return 0;
    if (fd >= 0)
        close(fd);
    free(path);
    return rc == ERR_FORMAT || rc == ERR_NOT_FOUND ? 0 : rc;
}

static int writer_adopt(struct store *s, struct err *e)
{
    int64_t *ids;
    size_t n;
    int rc = sql_numbers(s, &ids, &n, "SELECT id FROM segments ORDER BY id DESC LIMIT ?1",
                         SQL_ARGS(sql_int(ADOPT_TRIES)), e);
    int taken = 0;
    for (size_t i = 0; !rc && !taken && i < n; i++) {
        sqlite3_stmt *st;
        int more = 0;
        uint8_t uuid[16];
        rc = sql_query(s, &st, "SELECT uuid FROM segments WHERE id=?1", SQL_ARGS(sql_int(ids[i])), e);
        if (!rc)
            rc = sql_step(s, st, &more, e);
        int known = !rc && more && sql_key_copy(st, 0, uuid);
        sqlite3_finalize(st); /* before the rows are read: no old snapshot */
        if (known)
            rc = adopt(s, ids[i], uuid, &taken, e);
    }
    free(ids);
    return rc;
}

static int writer_ready(struct store *s, struct err *e)
{
    if (s->writer.fd >= 0 && s->writer.end < s->segment_limit)
        return 0;
    segment_writer_close(s);
    int rc = writer_adopt(s, e);
    return rc || s->writer.fd >= 0 ? rc : writer_create(s, e);
}

/* Adds one part to the running group's checksum; `fill` is the bytes in the group. */
static void sum_part(XXH3_state_t *state, size_t *fill, const struct iovec *part, struct buf *sums)
{
    const uint8_t *at = part->iov_base;
    size_t left = part->iov_len;
    while (left) {
        size_t take = SEGMENT_GROUP - *fill < left ? SEGMENT_GROUP - *fill : left;
        XXH3_64bits_update(state, at, take);
        at += take;
        left -= take;
        *fill += take;
        if (*fill == SEGMENT_GROUP) {
            put_u64(sums, XXH3_64bits_digest(state));
            XXH3_64bits_reset(state);
            *fill = 0;
        }
    }
}

static int write_parts(struct store *s, const struct span_put *put, uint64_t offset, struct buf *sums,
                       struct err *e)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        return err_memory(e, "a checksum");
    XXH3_64bits_reset(state);
    size_t fill = 0;
    int rc = 0;
    for (int i = 0; !rc && i < put->n; i++) {
        rc = file_pwrite_all(s->writer.fd, put->parts[i].iov_base, put->parts[i].iov_len, offset,
                             s->writer.path, e);
        offset += put->parts[i].iov_len;
        sum_part(state, &fill, &put->parts[i], sums);
    }
    if (fill)
        put_u64(sums, XXH3_64bits_digest(state));
    XXH3_freeState(state);
    return !rc && sums->failed ? err_memory(e, "checksums") : rc;
}

int segment_append(struct store *s, const struct span_put *put, uint64_t size, struct buf *sums,
                   uint64_t *offset, struct err *e)
{
    int rc = writer_ready(s, e);
    if (rc)
        return rc;
    uint64_t start = (s->writer.end + SEGMENT_ALIGN - 1) / SEGMENT_ALIGN * SEGMENT_ALIGN;
    int failed = size ? posix_fallocate(s->writer.fd, (off_t)start, (off_t)size) : 0;
    if (failed)
        rc = err_errno(e, failed, "%s cannot grow by %llu bytes; free disk space and try again",
                       s->writer.path, (unsigned long long)size);
    if (!rc)
        rc = write_parts(s, put, start, sums, e);
    if (!rc && fdatasync(s->writer.fd))
        rc = err_errno(e, errno, "cannot sync %s; check the disk", s->writer.path);
    if (rc) {
        /* Whether or not the cut works, the rows decide where the next writer goes on. */
        (void)!ftruncate(s->writer.fd, (off_t)s->writer.end);
        segment_writer_close(s);
        return rc;
    }
    *offset = start;
    return 0;
}

void segment_advance(struct store *s, uint64_t end)
{
    s->writer.end = end;
}
