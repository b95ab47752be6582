/* SPDX-License-Identifier: Apache-2.0 */
/* store.c - opens and closes the data folder; transactions for callers. */
#include "data/store/store_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"

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

int store_open(const char *dir, struct store **out, struct err *e)
{
    *out = NULL;
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return err_memory(e, "the store");
    s->writer.fd = -1;
    s->segment_limit = SEGMENT_LIMIT;
    s->segment_direct = SEGMENT_DIRECT;
    s->segment_reserve = SEGMENT_RESERVE;
    int rc = make_folders(s, dir, e);
    if (!rc)
        rc = schema_open(s, e);
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
    if (s->db && s->depth) { /* a transaction that was left open is one that failed */
        s->depth = 1;
        (void)sql_end(s, ERR_CANCELLED, NULL);
    }
    /* What readers of this handle kept from being given back. */
    struct err ignored;
    if (s->db)
        (void)store_settle(s, &ignored);
    sqlite3_close_v2(s->db);
    free(s->verified.ids);
    free(s->damaged.ids);
    free(s->db_path);
    free(s->segments_dir);
    free(s->locks_dir);
    free(s);
}

/* ---- transactions ---------------------------------------------------------------------------------------
 */

int store_begin(struct store *s, struct err *e)
{
    return sql_begin(s, e);
}

int store_end(struct store *s, int rc, struct err *e)
{
    rc = sql_end(s, rc, e);
    struct err ignored; /* the change is committed; space that cannot be given back now is found again */
    if (!rc)
        (void)store_settle(s, &ignored);
    return rc;
}
