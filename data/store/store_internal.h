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
 * under an exclusive lock of the range, so a mapping never changes under its reader. A reader locks the range
 * and *then* looks whether the row is still there; a dropper deletes the row and *then* tries the range. One
 * of the two always sees the other.
 */
#ifndef LECTERN_DATA_STORE_STORE_INTERNAL_H
#define LECTERN_DATA_STORE_STORE_INTERNAL_H

#include <sqlite3.h>

#include "data/store/store.h"
#include "engine/base/buf.h"

enum { SEGMENT_HEADER = 4096, SEGMENT_ALIGN = 4096, SEGMENT_GROUP = 256 * 1024 };
#define SEGMENT_LIMIT ((uint64_t)256 << 20)  /* a file this long takes no further span */
#define SEGMENT_RESERVE ((uint64_t)64 << 20) /* room is taken from the file system in steps of this */
#define SEGMENT_DIRECT ((uint64_t)32 << 20)  /* a batch this large is written around the page cache */
#define SPAN_MAX ((uint64_t)1 << 34)         /* bytes of one span */

/* Bytes of span row p; a damaged size counts nothing. */
#define SPAN_BYTES(p) "(CASE WHEN " #p ".size BETWEEN 0 AND 17179869184 THEN " #p ".size ELSE 0 END)"
/* The columns that a row's seal covers; times order lists, nothing more, and are left out. */
#define SEAL_OF_SESSION "lectern_seal(id, name, model_path, model_hash, options, chain, tokens, pinned)"
#define SEAL_OF_DOCUMENT "lectern_seal(path, title, kind, size, mtime_ns, hash, pages, token_count)"
#define SEAL_OF_LINK "lectern_seal(session, ordinal, document, token_start)"
#define SEAL_OF_TURN "lectern_seal(session, ordinal, question, answer, json, time)"

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
    uint64_t asked; /* the system was asked to read up to here */
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
    uint64_t segment_reserve;        /* SEGMENT_RESERVE; tests make it small */
    uint64_t segment_direct;         /* SEGMENT_DIRECT; tests make it small */
    int depth;                       /* of open transactions */
    int put_inside;                  /* one of them wrote a span or made a segment */
    int owes_space, owes_text;       /* store_settle has to do: segments, the database */
    struct {
        int fd; /* -1: none; else flocked */
        int64_t id;
        char *path;
        uint64_t end;      /* everything a row names lies before it */
        uint64_t reserved; /* blocks are there up to here */
    } writer;
};

/* ---- sql.c: every statement of the store passes here ----------------------------------------------------
 */

enum sql_type { SQL_NULL, SQL_INT, SQL_REAL, SQL_BLOB, SQL_TEXT };

struct sql_arg {
    enum sql_type type;
    int64_t value;
    double real;
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
static inline struct sql_arg sql_real(double value)
{
    return (struct sql_arg){.type = SQL_REAL, .real = value};
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
/* As store_begin and store_end, but what is owed afterwards (store_settle) is the caller's. */
int sql_begin(struct store *s, struct err *e); /* takes the write lock at once */
int sql_end(struct store *s, int rc, struct err *e);
int sql_functions(struct store *s, struct err *e); /* makes lectern_seal and its kin known */
/* One line for an SQLite status; returns the code. */
int sql_fail(struct store *s, int status, struct err *e);
/* A malloc'd copy of a text column ("" for NULL); NULL when out of memory. */
char *sql_text_copy(sqlite3_stmt *st, int column);
/* 1 and the 16 bytes when the column is a blob of 16 bytes, else 0 and zeros. */
int sql_key_copy(sqlite3_stmt *st, int column, uint8_t out[16]);

/* ---- segment.c ------------------------------------------------------------------------------------------
 */

/* NULL when out of memory; the caller frees. */
char *segment_path(const struct store *s, int64_t id);
void segment_header_make(uint8_t header[SEGMENT_HEADER], const uint8_t uuid[16], int64_t id);
int segment_header_check(int fd, const char *path, const uint8_t uuid[16], int64_t id, struct err *e);
int segment_open_file(const char *path, int flags, struct err *e, int *fd); /* ERR_FORMAT: missing, no file */
/* Length 0 = to the end of all files. Returns 0, or errno (EAGAIN, EACCES: somebody else has it). */
int segment_range_lock(int fd, short type, uint64_t offset, uint64_t length);

/* The checked segment, shared inside the handle; ERR_FORMAT when missing, foreign or damaged. */
int segment_borrow(struct store *s, int64_t id, const uint8_t uuid[16], struct segment **out, struct err *e);
void segment_return(struct store *s, struct segment *seg);

/* Shared lock over a payload; *gone = 1 when somebody is taking it away. */
int segment_range_hold(struct segment *seg, uint64_t offset, uint64_t size, int *gone, struct err *e);
void segment_range_release(struct segment *seg, uint64_t offset, uint64_t size);

/* ---- segment_write.c ------------------------------------------------------------------------------------
 */

/* Where one payload of a batch went. */
struct placed {
    uint64_t size, offset;
    size_t sums_at, sums_bytes; /* in the buffer of checksums */
    int skip;                   /* in: nothing to write */
};

/* Writes the payloads behind the writer's end (opening, adopting or making a segment), syncs, and appends one
 * little-endian u64 checksum per group to `sums`. Nothing exists before the rows. On failure the file is as
 * before. */
int segment_append(struct store *s, const struct span_put *puts, size_t n, struct placed *placed,
                   struct buf *sums, uint64_t *end, struct err *e);
void segment_advance(struct store *s, uint64_t end); /* before the commit: it may reach the disk and fail */
void segment_writer_close(struct store *s);          /* the next append looks at the rows again */

/* ---- segment_stream.c -----------------------------------------------------------------------------------
 */

/* Bytes one behind another from `offset` on; `direct` asks for O_DIRECT, which needs an offset at a multiple
 * of SEGMENT_ALIGN and pads the last block with zeros. Added bytes must live until stream_close, which waits
 * for all writes, frees w (NULL is legal) and returns rc or what failed. No sync. */
struct stream;
int stream_open(struct stream **out, int fd, const char *path, uint64_t offset, int direct, struct err *e);
int stream_add(struct stream *w, const void *bytes, size_t n, struct err *e);
/* Begins to write the first bytes of these without copying them, when their memory and what came before is
 * aligned: returns how many (0: none). *rc as from stream_add. */
size_t stream_borrow(struct stream *w, const void *bytes, size_t n, int *rc, struct err *e);
int stream_close(struct stream *w, int rc, struct err *e);

/* ---- segment_tidy.c -------------------------------------------------------------------------------------
 */

struct extent {
    uint64_t offset, end;
};

/* The payloads that rows name, by offset. ERR_FORMAT when a row makes no sense: such a file is left alone. */
int segment_extents(struct store *s, int64_t id, struct extent **out, size_t *n, struct err *e);
/* Gives back what no row names: the file itself, holes, the tail. What cannot be had now (somebody appends, a
 * reader is there) stays marked in the row's `untidy`. Not inside a transaction. */
int segment_tidy(struct store *s, int64_t id, struct err *e);
/* All of these; the first error is told. */
int segment_tidy_all(struct store *s, const int64_t *ids, size_t n, struct err *e);
/* Unlinks files without a row. Inside sql_begin: nobody can be making a segment then. */
int segment_remove_orphans(struct store *s, struct err *e);

/* ---- span.c ---------------------------------------------------------------------------------------------
 */

/* A row as read, before any of it is believed but the types. */
struct span_row {
    int64_t id, segment;
    uint64_t offset;
    uint8_t uuid[16];
    struct span_info info;
    uint8_t *sums; /* [groups] u64 little-endian; owned */
    size_t sums_bytes;
};

/* Types, bounds and seal checked. ERR_NOT_FOUND, or ERR_FORMAT with r->id set. span_row_free afterwards in
 * every case. */
int span_row_of_key(struct store *s, int kind, const uint8_t *key, struct span_row *r, struct err *e);
int span_row_of_id(struct store *s, int64_t id, struct span_row *r, struct err *e);
void span_row_free(struct span_row *r);
int span_row_fits(const struct span_row *r, const struct segment *seg, struct err *e); /* inside the file */
/* Reads all of the payload and compares checksums. */
int span_row_payload(const struct span_row *r, struct segment *seg, struct err *e);
/* Asks the system to read a payload, and as much behind it, before it is touched. A hint. */
void span_row_ahead(const struct span_row *r, struct segment *seg);
/* XXH3 over what a row says, and checksums. *failed: out of memory. */
int64_t span_seal(const struct span_info *info, int64_t segment, uint64_t offset, const void *sums,
                  size_t sums_bytes, int *failed);
/* SQL function of the migration: the seal of format 1 -> that of format 2, position and seconds 0. */
void span_seal_migrate(sqlite3_context *context, int n, sqlite3_value **values);
void span_release_all(struct store *s);

/* ---- schema.c, gc.c, store_session.c, document.c, lock.c ------------------------------------------- */

int schema_open(struct store *s, struct err *e); /* opens s->db; makes or migrates the schema */

/* Inside sql_begin: deletes the spans that `session` (0: nobody at all) alone references. */
int span_drop_unshared(struct store *s, int64_t session, struct err *e);
/* Inside sql_begin. */
int document_drop_unlinked(struct store *s, struct err *e);
/* After the outermost transaction: gives back what the deleted rows took. Inside one it does nothing, since
 * store_end comes here. Truncating the log is best effort: what cannot be had now is tried again. */
int store_settle(struct store *s, struct err *e);
void store_settle_text(struct store *s); /* that part alone */
int lock_held_here(const struct store *s, int64_t session);
/* Has a living process this session locked (this one too)? Takes no lock itself. */
int lock_in_use(const struct store *s, int64_t session);
/* As store_session_unlock, and the file goes. */
void lock_remove(struct store_lock *lock);
int session_exists(struct store *s, int64_t id, struct err *e);

#endif
