/* SPDX-License-Identifier: Apache-2.0 */
/* schema.c - opens the database: schema, versions, migration, pragmas.
 *
 * Durability: WAL with synchronous=FULL, so a commit that returned is on the disk. A database that is not
 * ours or newer than this program is refused before anything is written to it.
 */
#include "data/store/store_internal.h"

#include <unistd.h>

enum { SCHEMA_VERSION = 2, APPLICATION_ID = 0x4c454354 /* "LECT" */, BUSY_MS = 10000, WAL_TRIES = 200 };

/* Format 1. AUTOINCREMENT everywhere an id is remembered outside of the row: ids are never used again.
 * References do not point at span rows, so that a session may name a span before it is written and after it
 * was found damaged. */
static const char schema_1[] =
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

/* Format 1 -> 2, run on new databases too, so that there is one schema. Seals: a flipped bit in a row is
 * found. untidy: how many spans were deleted since the file's free space was last given back. debts: how many
 * rows with text were deleted since the database was last written anew (gc.c). */
static const char upgrade_2[] =
    "ALTER TABLE segments ADD COLUMN untidy INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE spans ADD COLUMN position INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE spans ADD COLUMN seconds REAL NOT NULL DEFAULT 0;"
    "ALTER TABLE sessions ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE sessions ADD COLUMN seal INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE documents ADD COLUMN seal INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE session_documents ADD COLUMN seal INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE turns ADD COLUMN seal INTEGER NOT NULL DEFAULT 0;"
    "CREATE TRIGGER spans_deleted AFTER DELETE ON spans BEGIN"
    " UPDATE segments SET untidy=untidy+1 WHERE id=OLD.segment; END;"
    "CREATE TABLE debts(name TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;"
    "INSERT INTO debts VALUES('text', 0);"
    "CREATE TRIGGER sessions_deleted AFTER DELETE ON sessions BEGIN UPDATE debts SET n=n+1; END;"
    "CREATE TRIGGER documents_deleted AFTER DELETE ON documents BEGIN UPDATE debts SET n=n+1; END;"
    "CREATE TRIGGER turns_deleted AFTER DELETE ON turns BEGIN UPDATE debts SET n=n+1; END;"
    "UPDATE spans SET seal=lectern_seal_migrate(seal);"
    "UPDATE sessions SET seal=" SEAL_OF_SESSION ";"
    "UPDATE documents SET seal=" SEAL_OF_DOCUMENT ";"
    "UPDATE session_documents SET seal=" SEAL_OF_LINK ";"
    "UPDATE turns SET seal=" SEAL_OF_TURN ";";

static int refuse_foreign(struct store *s, int64_t version, int64_t application, int64_t tables,
                          struct err *e)
{
    if (application == APPLICATION_ID && version > SCHEMA_VERSION)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s was written by a newer lectern (format %lld, this one knows %d); use that one",
                       s->db_path, (long long)version, SCHEMA_VERSION);
    int ours = application == APPLICATION_ID && version >= 1 && version <= SCHEMA_VERSION;
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

/* Makes the schema, or brings it to this version: all or nothing. */
static int bring_up(struct store *s, struct err *e)
{
    int rc = sql_begin(s, e);
    if (rc)
        return rc;
    int64_t version = 0;
    rc = read_version(s, &version, e); /* another process may have been faster */
    if (!rc && version < SCHEMA_VERSION) {
        struct buf all = {0};
        buf_printf(&all, "%s%sPRAGMA application_id=%d;PRAGMA user_version=%d;", version ? "" : schema_1,
                   upgrade_2, APPLICATION_ID, SCHEMA_VERSION);
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

int schema_open(struct store *s, struct err *e)
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
    if (!rc)
        rc = sql_functions(s, e);
    return rc || version == SCHEMA_VERSION ? rc : bring_up(s, e);
}
