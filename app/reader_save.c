/* SPDX-License-Identifier: Apache-2.0 */
/* reader_save.c - the bridge from a timeline to the store, and saves that are written while reading goes on.
 *
 * One save is in flight at most. From reader_save_begin to reader_save_wait the store and the session's row
 * belong to the writing thread; nobody else here touches them. A save is one transaction: the spans, their
 * references, the row that names the checkpoint, and the end of the checkpoint before it when that one was
 * only for the meantime. So a kill at any moment leaves the state of some finished save.
 */
#include "app/reader_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- the bridge ---- */

static int put_spans(void *arg, const struct kv_put *puts, size_t n, struct err *e)
{
    struct reader *r = arg;
    struct span_put *spans = calloc(n ? n : 1, sizeof *spans);
    int rc = spans ? 0 : err_memory(e, "a save");
    for (size_t i = 0; !rc && i < n; i++) {
        spans[i] = (struct span_put){.kind = puts[i].kind,
                                     .key = puts[i].key,
                                     .parent = puts[i].parent,
                                     .parts = puts[i].parts,
                                     .n = puts[i].n,
                                     .position = puts[i].position};
        if (puts[i].kind == KV_KIND_BLOCK)
            spans[i].seconds = r->saver.token_seconds * KV_BLOCK;
        rc = store_session_ref(r->o.store, r->row.id, puts[i].kind, puts[i].key, e);
    }
    if (!rc)
        rc = store_spans_put(r->o.store, spans, n, e);
    free(spans);
    return rc;
}

static int map_span(void *arg, enum kv_kind kind, const uint8_t key[KV_KEY_BYTES], const uint8_t **data,
                    size_t *size, void **handle, struct err *e)
{
    struct reader *r = arg;
    struct span_map *map = calloc(1, sizeof *map);
    if (!map)
        return err_memory(e, "a mapping");
    int rc = store_span_map(r->o.store, kind, key, map, e);
    if (!rc) {
        struct reader_mapped one = {.kind = kind};
        memcpy(one.key, key, sizeof one.key);
        buf_add(&r->mapped, &one, sizeof one);
        if (r->mapped.failed) {
            store_span_unmap(r->o.store, map);
            rc = err_memory(e, "a session's references");
        }
    }
    if (rc) {
        free(map);
        return rc;
    }
    *data = map->data;
    *size = map->size;
    *handle = map;
    return 0;
}

static void unmap_span(void *arg, void *handle)
{
    struct reader *r = arg;
    store_span_unmap(r->o.store, handle);
    free(handle);
}

struct kv_source reader_source_port(struct reader *r)
{
    return (struct kv_source){.map = map_span, .unmap = unmap_span, .arg = r};
}

/* ---- which checkpoints stay ---- */

int reader_is_document_end(const struct reader *r, size_t position)
{
    for (size_t i = 0; i < r->documents.n; i++)
        if (r->documents.items[i].token_start + r->documents.items[i].token_count == position)
            return 1;
    return 0;
}

int reader_keeps(const struct reader *r, size_t position)
{
    return position % engine_checkpoint_interval(r->o.engine) == 0 || reader_is_document_end(r, position);
}

/* ---- saves ---- */

/* In one transaction, on whatever thread. `last` is what this save makes superfluous, and becomes this save.
 */
static int write_save(struct reader *r, struct session_save *save, struct reader_last *last, int names_row,
                      struct err *e)
{
    struct kv_sink sink = {.put = put_spans, .arg = r};
    const uint8_t *key = session_save_key(save);
    size_t position = session_save_position(save);
    int rc = store_begin(r->o.store, e);
    if (rc)
        return rc;
    struct store_session row = r->row; /* borrows its strings */
    rc = session_save_put(save, &sink, e);
    if (!rc && names_row) {
        memcpy(row.chain, key, sizeof row.chain);
        row.has_chain = 1;
        row.tokens = position;
        rc = store_session_update(r->o.store, &row, e);
    }
    if (!rc && last->droppable && memcmp(last->key, key, sizeof last->key) != 0)
        rc = store_session_unref(r->o.store, row.id, KV_KIND_CHECKPOINT, last->key, e);
    rc = store_end(r->o.store, rc, e);
    if (rc)
        return rc;
    r->row = row;
    memcpy(last->key, key, sizeof last->key);
    last->droppable = !reader_keeps(r, position) && (names_row || position != (size_t)row.tokens);
    return 0;
}

static void *run(void *arg)
{
    struct reader *r = arg;
    r->saver.rc = write_save(r, r->saver.save, &r->saver.last, 1, &r->saver.err);
    return NULL;
}

int reader_save_begin(struct reader *r, double token_seconds, struct err *e)
{
    struct reader_saver *v = &r->saver;
    int rc = reader_save_wait(r, e);
    if (!rc)
        rc = session_save_begin(r->timeline, &v->save, e);
    if (rc)
        return rc;
    v->token_seconds = token_seconds;
    v->threaded = !pthread_create(&v->thread, NULL, run, r);
    if (!v->threaded) /* no thread to be had: the reading waits for it */
        run(r);
    return 0;
}

int reader_save_wait(struct reader *r, struct err *e)
{
    struct reader_saver *v = &r->saver;
    if (!v->save)
        return 0;
    if (v->threaded)
        pthread_join(v->thread, NULL);
    session_save_end(r->timeline, v->save, v->rc);
    v->save = NULL;
    int rc = v->rc;
    if (rc && e)
        *e = v->err;
    return rc;
}

int reader_save_aside(struct reader *r, struct session *s, struct reader_last *last, struct err *e)
{
    struct session_save *save = NULL;
    int rc = session_save_begin(s, &save, e);
    if (rc)
        return rc;
    rc = write_save(r, save, last, 0, e);
    session_save_end(s, save, rc);
    return rc;
}

void reader_save_last(struct reader *r)
{
    struct reader_last *last = &r->saver.last;
    memcpy(last->key, r->row.chain, sizeof last->key);
    last->droppable = r->row.has_chain && !reader_keeps(r, (size_t)r->row.tokens);
}
