/* SPDX-License-Identifier: Apache-2.0 */
/* store.h - what lasts: spans of bytes by key, sessions, documents and turns, in one data folder.
 *
 *   DIR/lectern.db              SQLite: the only thing that says what exists
 *   DIR/segments/NNNNNN.seg     append-only payload of spans, named by rows of the database
 *   DIR/locks/N.lock            one writer per session
 *
 * Invariant: bytes are written and synced before the row that names them is committed, so what a row names is
 * whole, and a crash loses at most what no row names. Every byte read back is checked against its checksum;
 * damage is ERR_FORMAT (a miss, to be computed again), never a wrong answer. Knows no tensor and no token.
 *
 * One handle is used by one thread at a time and never across fork(); any number of processes may have one.
 * Lists and strings that are handed out belong to the caller, who frees them with the function named.
 */
#ifndef LECTERN_DATA_STORE_STORE_H
#define LECTERN_DATA_STORE_STORE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "engine/base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { STORE_KEY_BYTES = 16, STORE_META_MAX = 4096, STORE_NAME_MAX = 100 };

struct store;
struct cancel;   /* engine/base/clock.h */
struct progress; /* engine/base/progress.h */

/* Makes the folder (0700) and the database (0600) when they are missing. ERR_UNSUPPORTED for a database of a
 * newer program, ERR_FORMAT for a damaged or foreign one. */
int store_open(const char *dir, struct store **out, struct err *e);
void store_close(struct store *s); /* NULL is legal; every span_map must have been unmapped */

/* One transaction around several changes of rows, so that a crash leaves all of them or none. Nestable: an
 * inner pair that ends with rc != 0 undoes its own part, the outer one decides about the whole. Others cannot
 * write meanwhile: compute first, then begin. store_end commits when rc is 0, else rolls back; it returns rc
 * or the commit's error. What a rolled back put wrote is given back later. Not around store_gc,
 * store_collect. */
int store_begin(struct store *s, struct err *e);
int store_end(struct store *s, int rc, struct err *e);

/* ---- spans: immutable bytes by (kind, key) ------------------------------------------------------------- */

struct span_put {
    int kind;              /* >= 0, the caller's own numbering */
    const uint8_t *key;    /* [16] */
    const uint8_t *parent; /* [16] or NULL */
    const void *meta;      /* small, kept in the row; at most STORE_META_MAX bytes */
    size_t meta_size;
    const struct iovec *parts; /* payload = the parts in order; may be empty */
    int n;
    uint64_t position; /* the caller's units (tokens) before its end; gc takes the deepest first */
    double seconds;    /* what computing it again costs; finite, >= 0 */
};

struct span_info {
    int kind;
    int has_parent;
    uint8_t key[STORE_KEY_BYTES];
    uint8_t parent[STORE_KEY_BYTES];
    uint64_t size; /* payload bytes */
    uint64_t position;
    double seconds;
    size_t meta_size;
    uint8_t meta[STORE_META_MAX];
};

struct span_map {
    const uint8_t *data; /* at a page boundary; NULL when size is 0 */
    size_t size;
    void *hold; /* the store's */
};

/* Durable when it returns 0. An existing key is success without writing, unless this handle found the old
 * span damaged: then it is replaced. Full disk: ERR_IO, nothing changed. Reference the key from its session
 * (store_session_ref) before the put, so that no clean-up of another process takes the span away. */
int store_span_put(struct store *s, const struct span_put *put, struct err *e);

/* As n puts, but all or none: one sequential write, one sync, one commit. They go to one file, so keep a
 * batch within some hundred MB. A key that comes twice counts once. */
int store_spans_put(struct store *s, const struct span_put *puts, size_t n, struct err *e);

/* Reads the row alone. `out` may be NULL. ERR_NOT_FOUND, or ERR_FORMAT for a damaged row. */
int store_span_find(struct store *s, int kind, const uint8_t *key, struct span_info *out, struct err *e);

/* Maps the payload read-only, after checking all of it on the first map of this handle. ERR_NOT_FOUND or
 * ERR_FORMAT are misses: compute again and put. A mapped span keeps its bytes even if the span is dropped. */
int store_span_map(struct store *s, int kind, const uint8_t *key, struct span_map *out, struct err *e);
void store_span_unmap(struct store *s, struct span_map *m); /* legal on a zeroed map */

/* Deletes the row, then gives the disk space back. ERR_NOT_FOUND when there is none. */
int store_span_drop(struct store *s, int kind, const uint8_t *key, struct err *e);

/* Calls visit for every span of `kind` (-1 = all) in the order they were put; a non-zero return stops the
 * walk and is returned. visit must not change spans. Damaged rows are passed over. */
int store_span_list(struct store *s, int kind, int (*visit)(void *arg, const struct span_info *info),
                    void *arg, struct err *e);

/* Drops spans that no session references, files that no row names, and gives back the space of holes. */
int store_collect(struct store *s, struct err *e);

/* ---- room ---------------------------------------------------------------------------------------------- */

#define STORE_NO_LIMIT UINT64_MAX

struct store_budget {
    uint64_t bytes;      /* of payload, at most; STORE_NO_LIMIT */
    uint64_t leave_free; /* of the file system; 0 = no matter */
};

struct store_gc_result {
    uint64_t spans; /* dropped */
    uint64_t bytes_before, bytes_after;
    uint64_t seconds_to_rebuild; /* of what was dropped, rounded up */
    uint64_t kept_because_open;  /* payload bytes that were no candidates */
    uint64_t kept_because_pinned;
};

/* Drops unreferenced spans (as store_collect), then by least recently opened chain, deepest first, until the
 * budget (NULL: none) holds; never a span of a pinned session, nor of one that a living process has locked
 * (this one included). Sessions keep their references: a dropped span is a miss, to be computed again and
 * put. A budget that cannot be met is no error: compare bytes_after. Several short transactions;
 * ERR_CANCELLED and other failures keep what was done, *out (may be NULL) says how much. */
int store_gc(struct store *s, const struct store_budget *b, const struct progress *p, struct cancel *c,
             struct store_gc_result *out, struct err *e);

struct store_usage {
    uint64_t spans, bytes;
    uint64_t shared_bytes; /* of bytes: other sessions have them too */
    double seconds;        /* to compute it again */
    uint64_t position;     /* the deepest */
};

/* Of the spans that exist and that the session references, those with from < position <= to. */
int store_session_usage(struct store *s, int64_t id, uint64_t from, uint64_t to, struct store_usage *out,
                        struct err *e);

/* Sessions that end in the same key have one chain. */
struct store_chain {
    uint8_t key[STORE_KEY_BYTES]; /* of its end; zeros for a session that has spans but no chain yet */
    uint64_t position;            /* of its deepest span */
    uint64_t bytes, spans;        /* a span of several chains counts in each */
    uint64_t sessions;
    int64_t opened; /* by the last of them, Unix seconds */
    double seconds;
    int pinned;
};

struct store_chain_list {
    struct store_chain *items;
    size_t n;
};

/* Last opened first. */
int store_chain_list(struct store *s, struct store_chain_list *out, struct err *e);
void store_chain_list_free(struct store_chain_list *list);

/* ---- sessions ------------------------------------------------------------------------------------------ */

struct store_session {
    int64_t id;              /* never used again after a delete */
    char *name;              /* 1..100 bytes, no control byte, no '/' */
    int64_t created, opened; /* Unix seconds */
    char *model_path;        /* "" when unset, as options */
    uint8_t model_hash[16];
    char *options; /* JSON of the caller */
    int has_chain;
    uint8_t chain[STORE_KEY_BYTES]; /* key of the last token that was read */
    uint64_t tokens;                /* tokens read so far */
    int pinned;                     /* gc leaves its spans alone */
    int damaged;                    /* set by store_session_list alone: the row is not as it was written */
    /* Counted on reading: */
    uint64_t documents, pages, turns;
    uint64_t kv_bytes; /* payload of the spans it references, shared ones too */
};

struct store_session_list {
    struct store_session *items;
    size_t n;
};

/* ERR_USAGE for a bad or taken name. `out` may be NULL. model_path and options of `from` (may be NULL) are
 * taken. */
int store_session_create(struct store *s, const char *name, const struct store_session *from, int64_t *id,
                         struct err *e);
/* ERR_FORMAT for a row that is not as it was written: it can be deleted (store_session_find). */
int store_session_get(struct store *s, const char *name, struct store_session *out, struct err *e);
int store_session_get_id(struct store *s, int64_t id, struct store_session *out, struct err *e);
/* As store_session_get, but counts nothing: its cost does not grow with what was read. */
int store_session_open(struct store *s, const char *name, struct store_session *out, struct err *e);
void store_session_free(struct store_session *out); /* legal on a zeroed one */
/* The id alone, of damaged rows too. */
int store_session_find(struct store *s, const char *name, int64_t *id, struct err *e);

/* Last opened first. */
int store_session_list(struct store *s, struct store_session_list *out, struct err *e);
void store_session_list_free(struct store_session_list *list);

/* Writes model_path, model_hash, options, chain and tokens of `row` to session row->id. */
int store_session_update(struct store *s, const struct store_session *row, struct err *e);
int store_session_touch(struct store *s, int64_t id, struct err *e); /* opened = now */
int store_session_rename(struct store *s, int64_t id, const char *name, struct err *e);
int store_session_pin(struct store *s, int64_t id, int on, struct err *e);

/* A new session with the same documents (shared), turns (copied) and references. */
int store_session_fork(struct store *s, int64_t id, const char *name, int64_t *out, struct err *e);

/* Deletes it with its turns and with the documents and spans that no other session has. ERR_BUSY while
 * another process has it locked. */
int store_session_delete(struct store *s, int64_t id, struct err *e);

/* Forgets its KV (spans that no other session has go); text and turns stay. *bytes (may be NULL): payload
 * that went. has_chain = 0, tokens = 0. ERR_BUSY while another process has it locked. */
int store_session_strip(struct store *s, int64_t id, uint64_t *bytes, struct err *e);

/* The session needs this span. The span need not exist yet; twice is the same as once. */
int store_session_ref(struct store *s, int64_t id, int kind, const uint8_t *key, struct err *e);

/* Forgets one reference. The span goes when no other session has it. */
int store_session_unref(struct store *s, int64_t id, int kind, const uint8_t *key, struct err *e);

/* Forgets the references to spans that end after `position` (the text became another from there), and those
 * to spans that are gone. Spans that no other session has go. */
int store_session_unref_after(struct store *s, int64_t id, uint64_t position, struct err *e);

/* Forgets all references (the chain became another), dropping spans that no other session has. */
int store_session_unref_all(struct store *s, int64_t id, struct err *e);

/* One writer per session. ERR_BUSY names the pid that has it, this handle included. */
struct store_lock;
int store_session_lock(struct store *s, int64_t id, struct store_lock **out, struct err *e);
void store_session_unlock(struct store_lock *lock); /* NULL is legal; before store_close */

/* ---- documents of a session ---------------------------------------------------------------------------- */

enum store_part { STORE_TEXT, STORE_MAP, STORE_TOKENS, STORE_ENDS, STORE_PARTS };

struct store_document {
    int ordinal; /* 0.. in the order added */
    char *path, *title, *kind;
    uint64_t size; /* of the source file */
    int64_t mtime_ns;
    uint8_t hash[16]; /* of the source's content */
    uint64_t pages, token_start, token_count;
    uint64_t part_bytes[STORE_PARTS]; /* filled on reading */
};

struct store_document_list {
    struct store_document *items;
    size_t n;
};

/* Adds after the last one; parts[STORE_PARTS] are text, source map, u32 token ids, u32 ends. d->ordinal and
 * d->part_bytes are not read. *ordinal may be NULL. A part has at most 900 MB (ERR_LIMIT). */
int store_document_add(struct store *s, int64_t session, const struct store_document *d,
                       const struct iovec *parts, int *ordinal, struct err *e);
int store_document_list(struct store *s, int64_t session, struct store_document_list *out, struct err *e);
void store_document_list_free(struct store_document_list *list);

/* One part, checked; *bytes (never NULL on success, a NUL follows) is freed with free(). */
int store_document_read(struct store *s, int64_t session, int ordinal, enum store_part part, void **bytes,
                        size_t *size, struct err *e);

/* Takes documents `from` and later away from the session; text that no other session has is deleted. */
int store_document_drop_from(struct store *s, int64_t session, int from, struct err *e);

/* ---- turns --------------------------------------------------------------------------------------------- */

struct store_turn {
    int ordinal;
    char *question, *answer, *json; /* json: citations and usage, the caller's */
    int64_t time;                   /* Unix seconds */
    int damaged;                    /* set on reading: not as it was written, so no longer to be believed */
};

struct store_turn_list {
    struct store_turn *items;
    size_t n;
};

/* Adds after the last one; t->ordinal is not read, t->time 0 means now. *ordinal may be NULL. */
int store_turn_add(struct store *s, int64_t session, const struct store_turn *t, int *ordinal, struct err *e);
int store_turn_list(struct store *s, int64_t session, struct store_turn_list *out, struct err *e);
void store_turn_list_free(struct store_turn_list *list);

/* ---- verify (verify.c) --------------------------------------------------------------------------------- */

struct store_verify_options {
    int repair; /* drops damaged spans (to be read again from the text), malformed references, orphan files */
    void (*problem)(void *arg, const char *line); /* one line for each, may be NULL */
    void *arg;
    const struct progress *progress; /* in bytes */
    struct cancel *cancel;
};

struct store_verify_result {
    uint64_t spans, bytes; /* looked at */
    uint64_t sessions, documents, turns;
    uint64_t problems, repaired;
    uint64_t missing; /* no damage: references to spans that are not there, spans whose parent is not there */
    uint64_t orphans; /* no damage: segment files that no row names; collecting takes them */
};

/* Reads and checks everything that lasts: the database itself, every row, all of every span's payload, its
 * parent, every reference, document part and turn. Returns 0 when it could look at everything, whatever it
 * found: out->problems says. Never touches text or turns. ERR_CANCELLED between two spans. `o` may be NULL.
 */
int store_verify(struct store *s, const struct store_verify_options *o, struct store_verify_result *out,
                 struct err *e);

/* XXH3-128 over what the session consists of: its spans (kind, key, parent, size, meta, checksums), documents
 * (title, content, tokens) and turns (question, answer), without ages, paths and the caller's json. Equal
 * work gives equal digests in any store. Spans that are referenced but not there do not count. ERR_FORMAT
 * when a row of it is damaged. */
int store_session_digest(struct store *s, int64_t id, uint8_t out[16], struct err *e);

/* Calls visit for every span that the session references and that is there, in the order they were put.
 * `digest` is store_payload_digest of its payload by the row's word. ERR_FORMAT for a damaged row. visit may
 * map spans, not change them; non-zero stops the walk and is returned. */
int store_session_spans(struct store *s, int64_t id,
                        int (*visit)(void *arg, const struct span_info *info, const uint8_t digest[16]),
                        void *arg, struct err *e);

/* XXH3-128 of the little-endian XXH3-64 of every 256 KiB. */
int store_payload_digest(const void *bytes, size_t n, uint8_t out[16], struct err *e);

/* ---- numbers ------------------------------------------------------------------------------------------- */

struct store_stats {
    uint64_t sessions, documents, turns, spans;
    uint64_t span_bytes;                        /* payload */
    uint64_t segment_files, segment_disk_bytes; /* blocks really used */
    uint64_t db_bytes;                          /* lectern.db and its log */
    uint64_t free_bytes;                        /* of the file system, for this user */
};

int store_stats(struct store *s, struct store_stats *out, struct err *e);

#ifdef __cplusplus
}
#endif
#endif
