/* SPDX-License-Identifier: Apache-2.0 */
/* store_internal.h - what the files of data/store share: the handle, the SQL helper, segment files.
 *
 * Segment file:  [0, 4096) header | payload of span | gap to 4096 | payload of span | ...
 * Header:  magic "LECTSEG1" | u32 version | u32 4096 | uuid[16] | u64 number | zeros | u64 XXH3 of the first
 * 4088
 *
 * Two locks on a segment file, both of the open file, so that they hold between handles of one process too:
 *   flock               exclusive, for whoever appends, truncates, punches holes or unlinks
 *   OFD range, shared   over a span's payload while it is mapped; a hole is punched and a tail is cut only
 * under an exclusive lock of the range, so a mapping never changes under its reader A reader locks the range
 * and *then* looks whether the row is still there; a dropper deletes the row and *then* tries the range. One
 * of the two always sees the other.
 */
#ifndef LECTERN_DATA_STORE_STORE_INTERNAL_H
#define LECTERN_DATA_STORE_STORE_INTERNAL_H

#include <sqlite3.h>

#include "data/store/store.h"
#include "engine/base/buf.h"

enum { SEGMENT_HEADER = 4096, SEGMENT_ALIGN = 4096, SEGMENT_GROUP = 256 * 1024 };
#define SEGMENT_LIMIT ((uint64_t)256 << 20) /* a file this long takes no further span */
#define SPAN_MAX ((uint64_t)1 << 34)        /* bytes of one span */

/* A set of row ids, sorted. */
struct id_set {
    int64_t *ids;
    size_t n, cap;
};
int id_set_has(const struct id_set *set, int64_t id);
int id_set_add(struct id_set *set, int64_t id); /* non-zero: out of memory */

/* A segment file open for reading; lives while a span of it is in use. */
struct segment {
    int64_t id;
    uint8_t uuid[16];
    int fd;
    int refs;
    char *path;
    struct segment *next;
};

struct store {
    sqlite3 *db;
    char *db_path, *segments_dir, *locks_dir;
    struct segment *segments;
    struct hold *holds; /* live mappings (span.c) */
    struct store_lock *locks;
    struct id_set verified, damaged; /* span rows; ids are never used again */
    uint64_t segment_limit;          /* SEGMENT_LIMIT; tests make it small */
    struct {
        int fd; /* -1: none; else flocked */
        int64_t id;
        char *path;
        uint64_t end; /* everything a row names lies before it */
    } writer;
};

/* ---- sql.c: every statement of the store passes here ----------------------------------------------------
 */

enum sql_type { SQL_NULL, SQL_INT, SQL_BLOB, SQL_TEXT };

struct sql_arg {
    enum sql_type type;
    int64_t value;
    const void *bytes;
    size_t n;
};

static inline struct sql_arg sql_null(void)
{
    return (struct sql_arg){.type = SQL_NULL};
}
static inline struct sql_arg sql_int(int64_t value)
{
    return (struct sql_arg){.type = SQL_INT, .value = value};
}
static inline struct sql_arg sql_blob(const void *bytes, size_t n)
{
    return (struct sql_arg){.type = SQL_BLOB, .bytes = bytes, .n = n};
}
static inline struct sql_arg sql_key(const uint8_t *key)
{
    return (struct sql_arg){.type = SQL_BLOB, .bytes = key, .n = STORE_KEY_BYTES};
}
static inline struct sql_arg sql_text(const char *text) /* NULL is "" */
{
    return (struct sql_arg){.type = SQL_TEXT, .bytes = text};
}

/* The arguments of a statement, as the two parameters (args, n). */
#define SQL_ARGS(...)                                                                                        \
    (const struct sql_arg[]){__VA_ARGS__},                                                                   \
        (int)(sizeof((const struct sql_arg[]){__VA_ARGS__}) / sizeof(struct sql_arg))
#define SQL_NO_ARGS NULL, 0

/* Prepares and binds (argument i is ?i+1); *st is finalised by the caller with sqlite3_finalize. Blobs and
 * texts must live until then. */
int sql_query(struct store *s, sqlite3_stmt **st, const char *text, const struct sql_arg *args, int n,
              struct err *e);
/* The next row: *more is 1, or 0 at the end. */
int sql_step(struct store *s, sqlite3_stmt *st, int *more, struct err *e);
/* Runs a statement to its end. */
int sql_run(struct store *s, const char *text, const struct sql_arg *args, int n, struct err *e);
/* The first column of the first row as an integer; ERR_NOT_FOUND when there is no row. */
int sql_number(struct store *s, int64_t *out, const char *text, const struct sql_arg *args, int n,
               struct err *e);
/* All of the first column. *ids is freed by the caller. */
int sql_numbers(struct store *s, int64_t **ids, size_t *count, const char *text, const struct sql_arg *args,
                int n, struct err *e);
int sql_begin(struct store *s, struct err *e); /* takes the write lock at once */
/* Commits when rc is 0, else rolls back; returns rc or the commit's error. */
int sql_end(struct store *s, int rc, struct err *e);
/* One line for an SQLite status; returns the code. */
int sql_fail(struct store *s, int status, struct err *e);
/* A malloc'd copy of a text column ("" for NULL); NULL when out of memory. */
char *sql_text_copy(sqlite3_stmt *st, int column);
/* 1 and the 16 bytes when the column is a blob of 16 bytes, else 0 and zeros. */
int sql_key_copy(sqlite3_stmt *st, int column, uint8_t out[16]);

/* ---- segment.c ------------------------------------------------------------------------------------------
 */

/* Writes the parts behind the writer's end (opening, adopting or making a segment), syncs, and appends one
 * little-endian u64 checksum per group to `sums`. Nothing exists before segment_advance. On failure the file
 * is as before. */
int segment_append(struct store *s, const struct span_put *put, uint64_t size, struct buf *sums,
                   uint64_t *offset, struct err *e);
void segment_advance(struct store *s, uint64_t end); /* after the commit */
void segment_writer_close(struct store *s);          /* the next append looks at the rows again */

/* The checked segment, shared inside the handle; ERR_FORMAT when missing, foreign or damaged. */
int segment_borrow(struct store *s, int64_t id, const uint8_t uuid[16], struct segment **out, struct err *e);
void segment_return(struct store *s, struct segment *seg);

/* Shared lock over a payload; *gone = 1 when somebody is taking it away. */
int segment_range_hold(struct segment *seg, uint64_t offset, uint64_t size, int *gone, struct err *e);
void segment_range_release(struct segment *seg, uint64_t offset, uint64_t size);

/* Gives back what no row names: the file itself, holes, the tail. Does nothing while somebody else appends.
 */
int segment_tidy(struct store *s, int64_t id, struct err *e);
/* Unlinks files without a row. Inside sql_begin: nobody can be making a segment then. */
int segment_remove_orphans(struct store *s, struct err *e);
/* NULL when out of memory; the caller frees. */
char *segment_path(const struct store *s, int64_t id);

/* ---- span.c, store_session.c, document.c, lock.c --------------------------------------------------- */

void span_release_all(struct store *s);
/* Inside sql_begin: deletes the spans that `session` (0: nobody at all) alone references; the segments
 * concerned go to *segments (freed by the caller) for segment_tidy after the commit. */
int span_drop_unshared(struct store *s, int64_t session, int64_t **segments, size_t *n, struct err *e);
int span_tidy_all(struct store *s, const int64_t *segments, size_t n, struct err *e);
/* Inside sql_begin. */
int document_drop_unlinked(struct store *s, struct err *e);
/* Gives pages of the database back after a large delete; what cannot be had now comes later. */
void store_shrink(struct store *s);
int lock_held_here(const struct store *s, int64_t session);
/* As store_session_unlock, and the file goes. */
void lock_remove(struct store_lock *lock);
int session_exists(struct store *s, int64_t id, struct err *e);

#endif
