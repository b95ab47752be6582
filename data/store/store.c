/* SPDX-License-Identifier: Apache-2.0 */
/* store.c - opens the data folder: schema, pragmas, versions; and the numbers over all of it.
 *
 * Durability: WAL with synchronous=FULL, so a commit that returned is on the disk. A database that is not
 * ours or newer than this program is refused before anything is written to it.
 */
#include "data/store/store_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "engine/base/file.h"

enum { SCHEMA_VERSION = 1, APPLICATION_ID = 0x4c454354 /* "LECT" */, BUSY_MS = 10000, WAL_TRIES = 200 };

/* AUTOINCREMENT everywhere an id is remembered outside of the row: ids are never used again. References do
 * not point at span rows, so that a session may name a span before it is written and after it was found
 * damaged. */
static const char schema[] =
    "CREATE TABLE segments(id INTEGER PRIMARY KEY AUTOINCREMENT, uuid BLOB NOT NULL);"
    "CREATE TABLE spans(id INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL, key BLOB NOT NULL,"
    " parent BLOB, segment INTEGER NOT NULL REFERENCES segments(id), offset INTEGER NOT NULL,"
    " size INTEGER NOT NULL, meta BLOB NOT NULL, sums BLOB NOT NULL, seal INTEGER NOT NULL,"
    " created INTEGER NOT NULL, UNIQUE(kind, key));"
    "CREATE INDEX spans_segment ON spans(segment, offset);"
    "CREATE TABLE sessions(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,"
    " created INTEGER NOT NULL, opened INTEGER NOT NULL, model_path TEXT NOT NULL, model_hash BLOB NOT NULL,"
    " options TEXT NOT NULL, chain BLOB, tokens INTEGER NOT NULL);"
    "CREATE TABLE session_refs(session INTEGER NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,"
    " kind INTEGER NOT NULL, key BLOB NOT NULL, PRIMARY KEY(session, kind, key)) WITHOUT ROWID;"
    "CREATE INDEX session_refs_key ON session_refs(kind, key);"
    "CREATE TABLE documents(id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL, title TEXT NOT NULL,"
    " kind TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, hash BLOB NOT NULL,"
    " pages INTEGER NOT NULL, token_count INTEGER NOT NULL);"
    "CREATE INDEX documents_hash ON documents(hash);"
    "CREATE TABLE document_parts(document INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,"
    " part INTEGER NOT NULL, size INTEGER NOT NULL, sum INTEGER NOT NULL, data BLOB NOT NULL,"
    " PRIMARY KEY(document, part));"
    "CREATE TABLE session_documents(session INTEGER NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,"
    " ordinal INTEGER NOT NULL, document INTEGER NOT NULL REFERENCES documents(id),"
    " token_start INTEGER NOT NULL, PRIMARY KEY(session, ordinal)) WITHOUT ROWID;"
    "CREATE INDEX session_documents_document ON session_documents(document);"
    "CREATE TABLE turns(session INTEGER NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,"
    " ordinal INTEGER NOT NULL, question TEXT NOT NULL, answer TEXT NOT NULL, json TEXT NOT NULL,"
    " time INTEGER NOT NULL, PRIMARY KEY(session, ordinal));";

int id_set_has(const struct id_set *set, int64_t id)
{
    size_t lo = 0, hi = set->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (set->ids[mid] == id)
            return 1;
        if (set->ids[mid] < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return 0;
}

int id_set_add(struct id_set *set, int64_t id)
{
    if (id_set_has(set, id))
        return 0;
    if (set->n == set->cap) {
        size_t cap = set->cap ? 2 * set->cap : 64;
        int64_t *grown = realloc(set->ids, cap * sizeof *grown);
        if (!grown)
            return 1;
        set->ids = grown;
        set->cap = cap;
    }
    size_t at = set->n++;
    for (; at && set->ids[at - 1] > id; at--)
        set->ids[at] = set->ids[at - 1];
    set->ids[at] = id;
    return 0;
}

static int make_folders(struct store *s, const char *dir, struct err *e)
{
    s->db_path = path_join(dir, "lectern.db");
    s->segments_dir = path_join(dir, "segments");
    s->locks_dir = path_join(dir, "locks");
    if (!s->db_path || !s->segments_dir || !s->locks_dir)
        return err_memory(e, "the data folder's paths");
    int rc = dir_make(dir, e);
    if (!rc)
        rc = dir_make(s->segments_dir, e);
    if (!rc)
        rc = dir_make(s->locks_dir, e);
    if (rc)
        return rc;
    /* Made here, since SQLite would make it readable by others; its log files take the mode of this one. */
    int fd = open(s->db_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
    if (fd < 0)
        return err_errno(e, errno, "cannot open %s; check who owns it and its folder", s->db_path);
    return close(fd) ? err_errno(e, errno, "cannot close %s", s->db_path) : 0;
}

static int refuse_foreign(struct store *s, int64_t version, int64_t application, int64_t tables,
                          struct err *e)
{
    if (application == APPLICATION_ID && version > SCHEMA_VERSION)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s was written by a newer lectern (format %lld, this one knows %d); use that one",
                       s->db_path, (long long)version, SCHEMA_VERSION);
    int ours = application == APPLICATION_ID && version == SCHEMA_VERSION;
    int empty = application == 0 && version == 0 && tables == 0;
    if (!ours && !empty)
        return err_set(e, ERR_FORMAT,
                       "%s is not a database of lectern; move it away or use another --data-dir", s->db_path);
    return 0;
}

/* *version = 0 for an empty database. Inside a transaction, so that another process that is just making the
 * schema is seen before or after, never halfway. */
static int read_version(struct store *s, int64_t *version, struct err *e)
{
    int64_t application = 0, tables = 0;
    int rc = sql_number(s, &tables, "SELECT count(*) FROM sqlite_master", SQL_NO_ARGS, e);
    if (!rc)
        rc = sql_number(s, version, "PRAGMA user_version", SQL_NO_ARGS, e);
    if (!rc)
        rc = sql_number(s, &application, "PRAGMA application_id", SQL_NO_ARGS, e);
    return rc ? rc : refuse_foreign(s, *version, application, tables, e);
}

static int make_schema(struct store *s, struct err *e)
{
    int rc = sql_begin(s, e);
    if (rc)
        return rc;
    int64_t version = 0;
    rc = read_version(s, &version, e); /* another process may have been faster */
    if (!rc && !version) {
        struct buf all = {0};
        buf_printf(&all, "%sPRAGMA application_id=%d;PRAGMA user_version=%d;", schema, APPLICATION_ID,
                   SCHEMA_VERSION);
        int status = all.failed ? SQLITE_NOMEM : sqlite3_exec(s->db, all.data, NULL, NULL, NULL);
        rc = status ? sql_fail(s, status, e) : 0;
        buf_free(&all);
    }
    return sql_end(s, rc, e);
}

/* SQLite does not wait for others here, so we do. */
static int use_wal(struct store *s, struct err *e)
{
    for (int i = 0;; i++) {
        int rc = sql_run(s, "PRAGMA journal_mode=WAL", SQL_NO_ARGS, e);
        if (rc != ERR_BUSY || i == WAL_TRIES)
            return rc;
        usleep(20000);
    }
}

static int open_database(struct store *s, struct err *e)
{
    int status = sqlite3_open_v2(s->db_path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, NULL);
    if (status)
        return sql_fail(s, status, e);
    sqlite3_extended_result_codes(s->db, 1);
    sqlite3_busy_timeout(s->db, BUSY_MS);
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    int rc = sql_run(s, "BEGIN", SQL_NO_ARGS, e);
    int64_t version = 0;
    if (!rc)
        rc = sql_end(s, read_version(s, &version, e), e);
    /* Only counts for a database without pages, so before WAL, which writes the first one. */
    if (!rc && !version)
        rc = sql_run(s, "PRAGMA auto_vacuum=INCREMENTAL", SQL_NO_ARGS, e);
    if (!rc)
        rc = use_wal(s, e);
    /* secure_delete: a deleted document's text does not stay in free pages. */
    static const char *const pragmas[] = {"PRAGMA synchronous=FULL",           "PRAGMA foreign_keys=ON",
                                          "PRAGMA trusted_schema=OFF",         "PRAGMA cell_size_check=ON",
                                          "PRAGMA secure_delete=ON",           "PRAGMA temp_store=MEMORY",
                                          "PRAGMA journal_size_limit=16777216"};
    for (size_t i = 0; !rc && i < sizeof pragmas / sizeof pragmas[0]; i++)
        rc = sql_run(s, pragmas[i], SQL_NO_ARGS, e);
    return rc || version ? rc : make_schema(s, e);
}

int store_open(const char *dir, struct store **out, struct err *e)
{
    *out = NULL;
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return err_memory(e, "the store");
    s->writer.fd = -1;
    s->segment_limit = SEGMENT_LIMIT;
    int rc = make_folders(s, dir, e);
    if (!rc)
        rc = open_database(s, e);
    if (rc) {
        store_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    while (s->locks)
        store_session_unlock(s->locks);
    span_release_all(s);
    segment_writer_close(s);
    sqlite3_close_v2(s->db);
    free(s->verified.ids);
    free(s->damaged.ids);
    free(s->db_path);
    free(s->segments_dir);
    free(s->locks_dir);
    free(s);
}

void store_shrink(struct store *s)
{
    /* Best effort on purpose: the delete is committed, another process may just be reading. */
    sqlite3_exec(s->db, "PRAGMA incremental_vacuum", NULL, NULL, NULL);
    sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
}

int store_collect(struct store *s, struct err *e)
{
    int64_t *dropped = NULL, *all = NULL;
    size_t n = 0, n_all = 0;
    int rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = span_drop_unshared(s, 0, &dropped, &n, e);
    if (!rc)
        rc = document_drop_unlinked(s, e);
    if (!rc)
        rc = segment_remove_orphans(s, e);
    rc = sql_end(s, rc, e);
    free(dropped); /* all segments are looked at anyway */
    if (!rc)
        rc = sql_numbers(s, &all, &n_all, "SELECT id FROM segments", SQL_NO_ARGS, e);
    if (!rc)
        rc = span_tidy_all(s, all, n_all, e);
    free(all);
    if (!rc)
        store_shrink(s);
    return rc;
}

static uint64_t file_bytes(const char *path, const char *suffix)
{
    struct buf name = {0};
    buf_printf(&name, "%s%s", path, suffix);
    struct stat st;
    uint64_t size = !name.failed && !stat(name.data, &st) ? (uint64_t)st.st_size : 0;
    buf_free(&name);
    return size;
}

static int count_segments(struct store *s, struct store_stats *out, struct err *e)
{
    int64_t *ids;
    size_t n;
    int rc = sql_numbers(s, &ids, &n, "SELECT id FROM segments", SQL_NO_ARGS, e);
    for (size_t i = 0; !rc && i < n; i++) {
        char *path = segment_path(s, ids[i]);
        struct stat st;
        if (!path)
            rc = err_memory(e, "a segment's path");
        else if (!stat(path, &st)) { /* a missing file is the reader's to report */
            out->segment_files++;
            out->segment_disk_bytes += (uint64_t)st.st_blocks * 512;
        }
        free(path);
    }
    free(ids);
    return rc;
}

int store_stats(struct store *s, struct store_stats *out, struct err *e)
{
    memset(out, 0, sizeof *out);
    const struct {
        uint64_t *to;
        const char *text;
    } counts[] = {
        {&out->sessions, "SELECT count(*) FROM sessions"},
        {&out->documents, "SELECT count(*) FROM documents"},
        {&out->turns, "SELECT count(*) FROM turns"},
        {&out->spans, "SELECT count(*) FROM spans"},
        {&out->span_bytes, "SELECT coalesce(sum(size), 0) FROM spans WHERE size BETWEEN 0 AND 17179869184"},
    };
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof counts / sizeof counts[0]; i++) {
        int64_t value = 0;
        rc = sql_number(s, &value, counts[i].text, SQL_NO_ARGS, e);
        *counts[i].to = (uint64_t)value;
    }
    if (!rc)
        rc = count_segments(s, out, e);
    out->db_bytes = file_bytes(s->db_path, "") + file_bytes(s->db_path, "-wal");
    struct statvfs fs;
    if (!rc && statvfs(s->segments_dir, &fs))
        rc = err_errno(e, errno, "cannot ask for the free space of %s", s->segments_dir);
    else if (!rc)
        out->free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    return rc;
}
