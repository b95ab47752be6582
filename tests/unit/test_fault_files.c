/* SPDX-License-Identifier: Apache-2.0 */
/* test_fault_files.c - random bit flips, cuts and overwritten runs over what comes from outside: model files,
 * head patterns, exported sessions; and stored payloads that are wrong although their checksums are right.
 *
 * A model file or pattern that is another one gives an error or another identity, under which no stored
 * reading is found; an export gives an error and no session, or the very same session. None crashes.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "data/store/store.h"
#include "data/transfer/transfer.h"
#include "engine/base/file.h"
#include "engine/model/model.h"
#include "tests/support/fault_book.h"
#include "tests/support/fault_run.h"
#include "tests/support/temp.h"

enum { WORKERS = 2, TELL_MAX = 4, WHY = 700 };
enum outcome { REFUSED, DIFFERENT, SAME, WRONG };

struct plan {
    const struct book *b;
    enum outcome (*once)(const struct plan *plan, const char *folder, uint64_t *random, char *why);
    unsigned times;
    uint64_t seed, end;
    uint8_t identity[KV_KEY_BYTES], split[64];
    size_t splits;
    const void *arg;
    atomic_uint *tally; /* [3], shared */
};

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

static int work(void *arg, int k, int n)
{
    const struct plan *plan = arg;
    char name[16];
    int bad = 0;
    uint64_t random = plan->seed + 1000003 * (uint64_t)k;
    snprintf(name, sizeof name, "worker%d", k);
    char *folder = temp_path(plan->b->root, name);
    for (unsigned i = (unsigned)k; i < plan->times && bad < TELL_MAX; i += (unsigned)n) {
        char why[WHY] = "";
        tree_copy(plan->b->heads, folder); /* an empty folder but for the pattern */
        enum outcome o = plan->once(plan, folder, &random, why);
        if (o == WRONG)
            bad++, printf("%s\n", why);
        else
            atomic_fetch_add(&plan->tally[o], 1);
    }
    tree_remove(folder);
    free(folder);
    return bad;
}

static void damaged(struct plan *plan, const char *name)
{
    plan->seed = from_environment("LECTERN_FAULT_SEED", 20240607);
    plan->times = (unsigned)(plan->times * from_environment("LECTERN_FAULT_SCALE", 100) / 100);
    size_t size = 3 * sizeof *plan->tally;
    plan->tally = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(plan->tally != MAP_FAILED);
    int bad = fault_parallel(WORKERS, work, plan);
    printf("%s: %u times damaged: %u refused, %u something else, %u no difference; seed %llu\n", name,
           plan->times, plan->tally[REFUSED], plan->tally[DIFFERENT], plan->tally[SAME],
           (unsigned long long)plan->seed);
    munmap(plan->tally, size);
    assert_int_equal(bad, 0);
}

static void copy_file(const char *from, const char *to)
{
    struct err e;
    char *bytes;
    size_t n;
    if (file_read(from, 1 << 26, &bytes, &n, &e) || file_write(to, bytes, n, &e))
        abort();
    free(bytes);
}

static enum outcome named(const struct err *e, const char *what, char *why)
{
    if (err_is_named(e))
        return REFUSED;
    snprintf(why, WHY, "%s: an error without a name: %d, %.300s", what, e->code, e->text);
    return WRONG;
}

/* ---- models and patterns
 * ----------------------------------------------------------------------------------- */

/* A few tokens, so that damaged numbers are computed with too. */
static int read_some(const struct engine *g, struct err *e)
{
    struct session *s;
    uint32_t ids[70];
    for (unsigned i = 0; i < 70; i++)
        ids[i] = 3 + i;
    int rc = session_create(&s, g, e);
    if (!rc)
        rc = session_append(s, ids, 70, NULL, e);
    session_free(s);
    return rc;
}

static enum outcome model_once(const struct plan *plan, const char *folder, uint64_t *random, char *why)
{
    char what[200];
    uint8_t identity[KV_KEY_BYTES];
    struct engine *g;
    struct err e = {0};
    enum outcome o = DIFFERENT;
    char *path = temp_path(folder, "tiny.gguf");
    copy_file(plan->b->model, path);
    file_damage(path, 0, plan->end, random, what, sizeof what);
    if (book_engine(plan->b, path, plan->b->heads, &g, &e)) {
        o = named(&e, what, why);
    } else {
        engine_identity(g, identity);
        if (!memcmp(identity, plan->identity, sizeof identity)) {
            o = WRONG;
            snprintf(why, WHY, "%s: another model file under the same identity", what);
        } else if (read_some(g, &e)) {
            o = named(&e, what, why);
        }
        engine_close(g);
    }
    free(path);
    return o;
}

/* A change that leaves the split of heads, the sink and the window the same is none. */
static enum outcome pattern_once(const struct plan *plan, const char *folder, uint64_t *random, char *why)
{
    char what[200];
    uint8_t identity[KV_KEY_BYTES];
    struct engine *g;
    struct err e = {0};
    char *path = temp_path(folder, fault_random(random) % 2 ? "full_attention_heads.tsv" : "config.json");
    file_damage(path, 0, 0, random, what, sizeof what);
    enum outcome o = DIFFERENT;
    if (book_engine(plan->b, plan->b->model, folder, &g, &e)) {
        o = named(&e, what, why);
    } else {
        engine_identity(g, identity);
        int same_split = engine_sink(g) == 16 && engine_recent(g) == 64 &&
                         !memcmp(engine_heads(g), plan->split, plan->splits);
        int same = !memcmp(identity, plan->identity, sizeof identity);
        o = same ? SAME : DIFFERENT;
        if (same != same_split) {
            o = WRONG;
            snprintf(why, WHY, "%s, %s: another split under the same identity", path_base(path), what);
        } else if (read_some(g, &e)) {
            o = named(&e, what, why);
        }
        engine_close(g);
    }
    free(path);
    return o;
}

static void take_identity(struct plan *plan)
{
    struct engine *g;
    struct err e = {0};
    if (book_engine(plan->b, plan->b->model, plan->b->heads, &g, &e))
        fail_msg("%s", e.text);
    engine_identity(g, plan->identity);
    plan->splits = 4; /* layers times heads */
    memcpy(plan->split, engine_heads(g), plan->splits);
    engine_close(g);
}

static void damaged_models(void **state)
{
    struct plan plan = {.b = *state, .once = model_once, .times = 160};
    take_identity(&plan);
    damaged(&plan, "model file");
    plan.end = 2048; /* where the header and the metadata are */
    damaged(&plan, "model file's header");
}

static void damaged_patterns(void **state)
{
    struct plan plan = {.b = *state, .once = pattern_once, .times = 160};
    take_identity(&plan);
    damaged(&plan, "head pattern");
}

/* ---- exports
 * ------------------------------------------------------------------------------------------------- */

static enum outcome export_once(const struct plan *plan, const char *folder, uint64_t *random, char *why)
{
    char what[200];
    struct store *s;
    struct store_session row = {0};
    struct transfer_result result;
    struct err e = {0}, none;
    uint8_t digest[16];
    enum outcome o = SAME;
    char *path = temp_path(folder, "x.lectern"), *data = temp_path(folder, "data");
    copy_file(plan->b->exported, path);
    file_damage(path, 0, plan->end, random, what, sizeof what);
    if (store_open(data, &s, &e))
        abort();
    if (transfer_import(s, path, NULL, NULL, &result, &e)) {
        o = named(&e, what, why);
        struct store_session_list all;
        if (store_session_list(s, &all, &none) || all.n) {
            o = WRONG;
            snprintf(why, WHY, "%s: refused, and yet there is a session", what);
        }
        store_session_list_free(&all);
    } else if (store_session_get(s, result.name, &row, &e) || store_session_digest(s, row.id, digest, &e) ||
               memcmp(digest, plan->b->digest, 16) != 0 || strcmp(result.name, "x") != 0) {
        o = WRONG;
        snprintf(why, WHY, "%s: imported as something else", what);
    }
    store_session_free(&row);
    store_close(s);
    free(path);
    free(data);
    return o;
}

static void damaged_exports(void **state)
{
    struct plan plan = {.b = *state, .once = export_once, .times = 200};
    damaged(&plan, "export");
    plan.end = 6000; /* manifest and first headers */
    plan.times = 100;
    damaged(&plan, "export's head");
}

/* ---- payloads whose checksums are right -------------------------------------------------------------------
 */

enum { IDS = 1150, KEPT = 4 };

struct kept {
    enum kv_kind kind;
    uint8_t key[KV_KEY_BYTES];
    uint8_t *bytes;
    size_t n;
};

/* What a session put, in memory. */
struct shelf {
    struct engine *g;
    uint32_t ids[IDS];
    struct kept kept[KEPT];
    size_t n;
    float *logits; /* after one more token */
    size_t V;
};

struct wrong_source {
    const struct shelf *shelf;
    uint64_t *random;
    size_t change; /* the kept span that is damaged */
};

static uint8_t *aligned_copy(const void *bytes, size_t n)
{
    uint8_t *copy = aligned_alloc(64, (n + 64) / 64 * 64);
    if (!copy)
        abort();
    memcpy(copy, bytes, n);
    return copy;
}

static int keep(void *arg, const struct kv_put *puts, size_t n, struct err *e)
{
    struct shelf *shelf = arg;
    (void)e;
    for (size_t i = 0; i < n && shelf->n < KEPT; i++) {
        struct kept *k = &shelf->kept[shelf->n++];
        uint8_t *all = NULL;
        size_t at = 0;
        for (int j = 0; j < puts[i].n; j++) {
            size_t part = puts[i].parts[j].iov_len;
            if (!part)
                continue;
            if (!(all = realloc(all, at + part)))
                abort();
            memcpy(all + at, puts[i].parts[j].iov_base, part);
            at += part;
        }
        k->kind = puts[i].kind;
        memcpy(k->key, puts[i].key, KV_KEY_BYTES);
        k->bytes = aligned_copy(all, at);
        k->n = at;
        free(all);
    }
    return 0;
}

static int map_wrong(void *arg, enum kv_kind kind, const uint8_t key[KV_KEY_BYTES], const uint8_t **data,
                     size_t *size, void **handle, struct err *e)
{
    struct wrong_source *w = arg;
    for (size_t i = 0; i < w->shelf->n; i++) {
        const struct kept *k = &w->shelf->kept[i];
        if (k->kind != kind || memcmp(k->key, key, KV_KEY_BYTES) != 0)
            continue;
        uint8_t *copy = aligned_copy(k->bytes, k->n);
        *size = k->n;
        if (i == w->change) {
            uint64_t way = fault_random(w->random) % 8, at = fault_random(w->random) % k->n;
            if (kind == KV_KIND_CHECKPOINT && way % 2)
                at %= 400; /* its header */
            if (way == 7)
                *size = (size_t)at;
            else
                copy[at] ^= (uint8_t)(1u << fault_random(w->random) % 8);
        }
        *data = *handle = copy;
        return 0;
    }
    return err_set(e, ERR_NOT_FOUND, "no such span is on the shelf");
}

static void unmap_wrong(void *arg, void *handle)
{
    (void)arg;
    free(handle);
}

/* The proof may overlook what does not touch the last tokens: that is the checksums' part. Nothing crashes.
 */
static enum outcome payload_once(const struct plan *plan, const char *folder, uint64_t *random, char *why)
{
    const struct shelf *shelf = plan->arg;
    struct wrong_source w = {.shelf = shelf, .random = random, .change = fault_random(random) % shelf->n};
    struct kv_source source = {.map = map_wrong, .unmap = unmap_wrong, .arg = &w};
    struct session *s;
    struct err e = {0};
    enum outcome o;
    (void)folder;
    if (session_create(&s, shelf->g, &e))
        abort();
    const uint32_t next = 5;
    if (session_restore(s, &source, shelf->ids, IDS, NULL, &e)) {
        o = named(&e, "payload", why);
        if (session_position(s) != 0) {
            o = WRONG;
            snprintf(why, WHY, "payload: refused, and yet the session is not empty");
        }
    } else if (session_append(s, &next, 1, NULL, &e)) {
        o = named(&e, "payload", why);
    } else {
        o = memcmp(session_logits(s), shelf->logits, shelf->V * sizeof(float)) ? DIFFERENT : SAME;
    }
    session_free(s);
    return o;
}

static void wrong_payloads(void **state)
{
    struct shelf shelf = {0};
    struct plan plan = {.b = *state, .once = payload_once, .times = 300, .arg = &shelf};
    struct kv_sink sink = {.put = keep, .arg = &shelf};
    struct session *s;
    struct err e = {0};
    uint8_t key[KV_KEY_BYTES];
    const uint32_t next = 5;
    for (uint32_t i = 0; i < IDS; i++)
        shelf.ids[i] = 3 + i * i % 200;
    assert_int_equal(book_engine(plan.b, plan.b->model, plan.b->heads, &shelf.g, &e), 0);
    assert_int_equal(session_create(&s, shelf.g, &e), 0);
    assert_int_equal(session_append(s, shelf.ids, IDS, NULL, &e), 0);
    assert_int_equal(session_save(s, &sink, key, &e), 0);
    assert_int_equal(shelf.n, 2); /* a block and a checkpoint */
    assert_int_equal(session_append(s, &next, 1, NULL, &e), 0);
    shelf.V = (size_t)engine_params(shelf.g)->V;
    shelf.logits = (float *)aligned_copy(session_logits(s), shelf.V * sizeof(float));
    session_free(s);
    damaged(&plan, "payload with right checksums");
    for (size_t i = 0; i < shelf.n; i++)
        free(shelf.kept[i].bytes);
    free(shelf.logits);
    engine_close(shelf.g);
}

static int setup(void **state)
{
    return !(*state = book_make());
}

static int teardown(void **state)
{
    book_free(*state);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_models),
        cmocka_unit_test(damaged_patterns),
        cmocka_unit_test(damaged_exports),
        cmocka_unit_test(wrong_payloads),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
