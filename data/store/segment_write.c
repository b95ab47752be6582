/* SPDX-License-Identifier: Apache-2.0 */
/* segment_write.c - appends payloads to segment files: big sequential writes into room that was reserved.
 *
 * Invariant: bytes that a row names are never written again. A writer holds the file's flock and writes only
 * behind `writer.end`, which is behind every row. Room is reserved in steps behind the file's end (its size
 * says only what was written), so small spans do not fragment the file; what was not used is given back on
 * closing.
 */
#include "data/store/store_internal.h"

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

enum { ADOPT_TRIES = 64 };

/* ---- the writer -----------------------------------------------------------------------------------------
 */

/* Nobody reads behind the end, unless it is a span that was dropped: then the space waits. */
static void cut_tail(struct store *s)
{
    if (segment_range_lock(s->writer.fd, F_WRLCK, s->writer.end, 0))
        return;
    (void)!ftruncate(s->writer.fd, (off_t)s->writer.end);
    (void)segment_range_lock(s->writer.fd, F_UNLCK, s->writer.end, 0);
}

void segment_writer_close(struct store *s)
{
    if (s->writer.fd >= 0) {
        /* What was reserved and not used goes back; failing that, the next one to adopt or tidy does it. */
        if (s->writer.reserved > s->writer.end)
            cut_tail(s);
        close(s->writer.fd); /* all that counts was synced before */
    }
    free(s->writer.path);
    memset(&s->writer, 0, sizeof s->writer);
    s->writer.fd = -1;
}

/* `how` is fsync or fdatasync. */
static int sync_file(int fd, int (*how)(int fd))
{
    int status;
    do
        status = how(fd);
    while (status && errno == EINTR);
    return status;
}

static int sync_folder(const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || sync_file(fd, fsync) ? err_errno(e, errno, "cannot sync %s", path) : 0;
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
    segment_header_make(header, uuid, id);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = fd < 0 ? err_errno(e, errno, "cannot make %s", path) : 0;
    if (!rc && flock(fd, LOCK_EX | LOCK_NB))
        rc = err_errno(e, errno, "cannot lock %s", path);
    if (!rc)
        rc = file_pwrite_all(fd, header, sizeof header, 0, path, e);
    if (!rc && sync_file(fd, fsync))
        rc = err_errno(e, errno, "cannot sync %s", path);
    if (!rc)
        rc = sync_folder(s->segments_dir, e);
    s->writer.fd = fd;
    s->writer.id = id;
    s->writer.path = path;
    s->writer.end = s->writer.reserved = SEGMENT_HEADER;
    s->put_inside |= s->depth > 0;
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
    if (!segment_open_file(path, O_RDWR, &miss, &fd) && !flock(fd, LOCK_EX | LOCK_NB) && !fstat(fd, &st) &&
        !stat(path, &named) && named.st_ino == st.st_ino && named.st_dev == st.st_dev &&
        !segment_header_check(fd, path, uuid, id, &miss) && !(rc = segment_known(s, id, e)) &&
        !(rc = segment_extents(s, id, &used, &n, e))) {
        uint64_t end = SEGMENT_HEADER;
        for (size_t i = 0; i < n; i++)
            end = used[i].end > end ? used[i].end : end;
        /* A file shorter than its rows is damaged; writing on would hide that under other bytes. */
        if (end < s->segment_limit && end <= (uint64_t)st.st_size &&
            !segment_range_lock(fd, F_WRLCK, end, 0)) {
            int failed = ftruncate(fd, (off_t)end);
            (void)segment_range_lock(fd, F_UNLCK, end, 0);
            *taken = !failed;
        }
        if (*taken) {
            s->writer.fd = fd;
            s->writer.id = id;
            s->writer.path = path;
            s->writer.end = s->writer.reserved = end;
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

/* Makes sure of blocks up to `end`, and of some more. A file system that cannot is found full by the write.
 */
static int reserve(struct store *s, uint64_t end, struct err *e)
{
    uint64_t from = s->writer.reserved > s->writer.end ? s->writer.reserved : s->writer.end;
    if (end <= from)
        return 0;
    uint64_t most = s->segment_limit > end ? s->segment_limit : end; /* nothing comes behind the limit */
    uint64_t more = end + s->segment_reserve < most ? end + s->segment_reserve : most;
    for (;;) {
        int status;
        do
            status = fallocate(s->writer.fd, FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)(more - from));
        while (status && errno == EINTR);
        if (!status) {
            s->writer.reserved = more;
            return 0;
        }
        if (errno == EOPNOTSUPP || errno == ENOSYS)
            return 0;
        if (more == end)
            return err_errno(e, errno, "%s cannot grow by %llu bytes; free disk space and try again",
                             s->writer.path, (unsigned long long)(end - from));
        more = end; /* a disk that is nearly full */
    }
}

/* ---- payloads --------------------------------------------------------------------------------------------
 */

/* Writes one part and adds it to the running group's checksum; `fill` is the bytes in the group. Group by
 * group, so that what was summed is still near when it is copied. */
static int write_part(struct stream *w, XXH3_state_t *state, size_t *fill, const struct iovec *part,
                      struct buf *sums, struct err *e)
{
    const uint8_t *at = part->iov_base;
    size_t left = part->iov_len;
    int rc = 0;
    size_t borrowed = stream_borrow(w, at, left, &rc, e); /* is written while it is summed */
    while (!rc && left) {
        size_t take = SEGMENT_GROUP - *fill < left ? SEGMENT_GROUP - *fill : left;
        if (take == SEGMENT_GROUP) {
            put_u64(sums, XXH3_64bits(at, take));
        } else {
            XXH3_64bits_update(state, at, take);
            *fill += take;
        }
        if (*fill == SEGMENT_GROUP) {
            put_u64(sums, XXH3_64bits_digest(state));
            XXH3_64bits_reset(state);
            *fill = 0;
        }
        size_t skip = borrowed < take ? borrowed : take;
        borrowed -= skip;
        if (skip < take)
            rc = stream_add(w, at + skip, take - skip, e);
        at += take;
        left -= take;
    }
    return rc;
}

static int write_payload(struct stream *w, XXH3_state_t *state, const struct span_put *put, struct buf *sums,
                         struct err *e)
{
    XXH3_64bits_reset(state);
    size_t fill = 0;
    int rc = 0;
    for (int i = 0; !rc && i < put->n; i++)
        rc = write_part(w, state, &fill, &put->parts[i], sums, e);
    if (fill)
        put_u64(sums, XXH3_64bits_digest(state));
    return !rc && sums->failed ? err_memory(e, "checksums") : rc;
}

/* [start, end) is where they go. */
static int write_all(struct store *s, const struct span_put *puts, size_t n, struct placed *placed,
                     const struct extent *range, struct buf *sums, struct err *e)
{
    static const uint8_t gap[SEGMENT_ALIGN];
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        return err_memory(e, "a checksum");
    struct stream *w;
    int direct = range->end - range->offset >= s->segment_direct;
    int rc = stream_open(&w, s->writer.fd, s->writer.path, range->offset, direct, e);
    uint64_t at = range->offset;
    for (size_t i = 0; !rc && i < n; i++) {
        struct placed *p = &placed[i];
        if (p->skip)
            continue;
        if (p->size && p->offset > at)
            rc = stream_add(w, gap, (size_t)(p->offset - at), e);
        p->sums_at = sums->len;
        if (!rc)
            rc = write_payload(w, state, &puts[i], sums, e);
        p->sums_bytes = sums->len - p->sums_at;
        at = p->size ? p->offset + p->size : at;
    }
    rc = stream_close(w, rc, e);
    XXH3_freeState(state);
    if (!rc && sync_file(s->writer.fd, fdatasync))
        rc = err_errno(e, errno, "cannot sync %s; check the disk", s->writer.path);
    return rc;
}

static uint64_t aligned(uint64_t offset)
{
    return (offset + SEGMENT_ALIGN - 1) / SEGMENT_ALIGN * SEGMENT_ALIGN;
}

int segment_append(struct store *s, const struct span_put *puts, size_t n, struct placed *placed,
                   struct buf *sums, uint64_t *end, struct err *e)
{
    int rc = writer_ready(s, e);
    if (rc)
        return rc;
    uint64_t start = aligned(s->writer.end), at = start, last = s->writer.end;
    for (size_t i = 0; i < n; i++) {
        if (placed[i].skip)
            continue;
        placed[i].offset = at;
        last = at + placed[i].size; /* an empty payload takes no room, and may stand behind the end */
        at = aligned(last);
    }
    if (at > INT64_MAX / 4)
        return err_set(e, ERR_LIMIT, "too many bytes at once; put them in smaller batches");
    rc = reserve(s, last, e);
    if (!rc)
        rc = write_all(s, puts, n, placed, &(struct extent){.offset = start, .end = at}, sums, e);
    if (rc) {
        segment_writer_close(s); /* cuts what was written; failing that, the next writer does */
        return rc;
    }
    *end = last;
    return 0;
}

void segment_advance(struct store *s, uint64_t end)
{
    s->writer.end = end;
}
