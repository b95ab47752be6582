/* SPDX-License-Identifier: Apache-2.0 */
/* bench_store.c - see bench_store.h.
 *
 * Span i is a block or a checkpoint: blocks come in batches of 4, and a checkpoint follows every `every`
 * blocks. Keys are as scattered as the hashes of a real chain, so the index is filled in no helpful order.
 */
#include "app/bench_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "app/bench_scratch.h"
#include "data/store/store.h"
#include "engine/base/bytes.h"
#include "engine/base/file.h"
#include "engine/session.h"
#include "kernels/kernels.h"

enum {
    BATCH = 4,               /* blocks: 4,096 tokens, as a reading saves them */
    LEAST_INTERVAL = 4096,   /* tokens */
    CHECKPOINT_HEADER = 384, /* magic, identity, the logits' digest and the largest of them */
    STAMP = 4096,
    OPENINGS = 5,
    SHARE = 10 /* checkpoints take at most 1/SHARE of the blocks' bytes */
};

static const char session_name[] = "bench";

const struct bench_shape bench_llama_8b = {
    .L = 32, .HK = 8, .HR = 128, .D = 128, .S = 64, .R = 256, .format = KV_4};

/* ---- the shape ------------------------------------------------------------------------------------------
 */

size_t bench_block_bytes(const struct bench_shape *s)
{
    size_t record = kv_page_bytes(s->format, s->D);
    return record ? KV_BLOCK / KV_PAGE * s->HR * (record + kv_scan_bytes(s->D)) : 0;
}

size_t bench_checkpoint_bytes(const struct bench_shape *s)
{
    size_t row = 2 * s->D * sizeof(uint16_t), streaming = s->L * s->HK - s->HR;
    return CHECKPOINT_HEADER + s->HR * KV_PAGE * row + streaming * (s->S + s->R + KV_PAGE) * row;
}

/* In blocks. */
static size_t every(const struct bench_shape *s)
{
    size_t block = bench_block_bytes(s), least = LEAST_INTERVAL / KV_BLOCK;
    size_t n = (SHARE * bench_checkpoint_bytes(s) + block - 1) / block;
    return n > least ? n : least;
}

size_t bench_interval(const struct bench_shape *s)
{
    return every(s) * KV_BLOCK;
}

uint64_t bench_session_bytes(const struct bench_shape *s, uint64_t tokens)
{
    uint64_t blocks = (tokens + KV_BLOCK - 1) / KV_BLOCK;
    return blocks * bench_block_bytes(s) + blocks / every(s) * bench_checkpoint_bytes(s);
}

/* ---- spans ----------------------------------------------------------------------------------------------
 */

struct span {
    enum kv_kind kind;
    uint64_t number; /* of its kind */
    size_t size;
    uint8_t key[STORE_KEY_BYTES];
};

static uint64_t scatter(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static struct span span_of(const struct bench_shape *shape, enum kv_kind kind, uint64_t number)
{
    struct span s = {.kind = kind, .number = number};
    s.size = kind == KV_KIND_BLOCK ? bench_block_bytes(shape) : bench_checkpoint_bytes(shape);
    for (uint64_t half = 0; half < 2; half++) {
        uint64_t word = scatter(4 * number + half + (kind == KV_KIND_CHECKPOINT ? 2 : 0));
        memcpy(s.key + 8 * half, &word, sizeof word);
    }
    return s;
}

/* What every STAMP bytes of a span begin with. */
static uint64_t stamp_of(const struct span *s, size_t at)
{
    return scatter(s->number << 28 ^ (uint64_t)at << 1 ^ (s->kind == KV_KIND_BLOCK));
}

static void stamp(const struct span *s, uint8_t *data)
{
    for (size_t at = 0; at + sizeof(uint64_t) <= s->size; at += STAMP) {
        uint64_t mark = stamp_of(s, at);
        memcpy(data + at, &mark, sizeof mark);
    }
}

/* Touches every line of 64 bytes, as attention would, and looks at the stamps. */
static int check(const struct span *s, const uint8_t *data, size_t size, volatile uint64_t *sink,
                 struct err *e)
{
    uint64_t sum = 0, word;
    size_t wrong = size != s->size;
    for (size_t at = 0; !wrong && at + sizeof word <= size; at += 64) {
        memcpy(&word, data + at, sizeof word);
        sum += word;
        if (at % STAMP == 0)
            wrong = word != stamp_of(s, at);
    }
    *sink = sum;
    return wrong ? err_set(e, ERR_FORMAT, "the store gave back other bytes than were put; this is a bug") : 0;
}

static int stopped(const struct bench_store *b, struct err *e)
{
    return cancel_requested(b->cancel) ? err_set(e, ERR_CANCELLED, "stopped; nothing is kept") : 0;
}

/* ---- writing --------------------------------------------------------------------------------------------
 */

/* Random bytes: nothing on the way to the disk can make them fewer. */
static void fill(uint8_t *memory, size_t n)
{
    uint64_t x = 1;
    for (size_t at = 0; at + sizeof x <= n; at += sizeof x) {
        x = scatter(x);
        memcpy(memory + at, &x, sizeof x);
    }
}

static size_t memory_bytes(const struct bench_shape *s)
{
    size_t n = BATCH * bench_block_bytes(s) + bench_checkpoint_bytes(s);
    return (n + STAMP - 1) / STAMP * STAMP;
}

int bench_store_begin(struct bench_store *b, struct err *e)
{
    struct store *store = NULL;
    b->blocks = b->tokens = 0;
    if (!bench_block_bytes(&b->shape))
        return err_set(e, ERR_UNSUPPORTED, "there are no %s pages of heads of width %zu",
                       kv_format_name(b->shape.format) ? kv_format_name(b->shape.format) : "such",
                       b->shape.D);
    void *memory = NULL;
    if (posix_memalign(&memory, STAMP, memory_bytes(&b->shape)))
        return err_memory(e, "blocks to write");
    b->memory = memory;
    fill(b->memory, memory_bytes(&b->shape));
    int rc = store_open(b->folder, &store, e);
    if (!rc)
        rc = store_session_create(store, session_name, NULL, &b->session, e);
    store_close(store);
    return rc;
}

void bench_store_end(struct bench_store *b)
{
    free(b->memory);
    b->memory = NULL;
}

/* References, bytes and the session's row in one transaction, as a reading saves. */
static int put_batch(struct bench_store *b, struct store *store, const struct span_put *puts, size_t n,
                     struct err *e)
{
    int rc = store_begin(store, e);
    if (rc)
        return rc;
    for (size_t i = 0; !rc && i < n; i++)
        rc = store_session_ref(store, b->session, puts[i].kind, puts[i].key, e);
    if (!rc)
        rc = store_spans_put(store, puts, n, e);
    struct store_session row = {.id = b->session, .has_chain = 1, .tokens = puts[n - 1].position};
    if (!rc) {
        memcpy(row.chain, puts[n - 1].key, sizeof row.chain);
        rc = store_session_update(store, &row, e);
    }
    return store_end(store, rc, e);
}

struct batch {
    size_t n, bytes;
    struct span spans[BATCH + 1];
    struct iovec parts[BATCH + 1];
    struct span_put puts[BATCH + 1];
    uint8_t parent[STORE_KEY_BYTES]; /* of the first */
};

static void add(struct bench_store *b, struct batch *to, enum kv_kind kind, uint64_t number,
                uint64_t position)
{
    struct span *s = &to->spans[to->n];
    *s = span_of(&b->shape, kind, number);
    stamp(s, b->memory + to->bytes);
    to->parts[to->n] = (struct iovec){.iov_base = b->memory + to->bytes, .iov_len = s->size};
    to->puts[to->n] = (struct span_put){
        .kind = (int)kind, .key = s->key, .parts = &to->parts[to->n], .n = 1, .position = position};
    if (kind == KV_KIND_BLOCK && number) {
        struct span before = span_of(&b->shape, kind, number - 1);
        memcpy(to->parent, before.key, sizeof to->parent);
        to->puts[to->n].parent = to->n ? s[-1].key : to->parent;
    }
    to->bytes += s->size;
    to->n++;
}

/* The next blocks, and the checkpoint that is due behind them. */
static int write_batch(struct bench_store *b, struct store *store, uint64_t blocks, struct bench_pass *pass,
                       struct err *e)
{
    struct batch batch = {0};
    uint64_t gap = every(&b->shape), due = (b->blocks / gap + 1) * gap;
    uint64_t end = b->blocks + BATCH < blocks ? b->blocks + BATCH : blocks;
    end = end < due ? end : due;
    for (uint64_t i = b->blocks; i < end; i++)
        add(b, &batch, KV_KIND_BLOCK, i, (i + 1) * KV_BLOCK);
    if (end == due)
        add(b, &batch, KV_KIND_CHECKPOINT, end / gap - 1, end * KV_BLOCK);
    double begun = clock_seconds(), cpu = bench_cpu_seconds();
    int rc = put_batch(b, store, batch.puts, batch.n, e);
    pass->seconds += clock_seconds() - begun;
    pass->cpu += bench_cpu_seconds() - cpu;
    if (rc)
        return rc;
    pass->bytes += batch.bytes;
    b->blocks = end;
    b->tokens = end * KV_BLOCK;
    return 0;
}

int bench_store_write(struct bench_store *b, uint64_t tokens, struct bench_stage *out, struct err *e)
{
    uint64_t blocks = (tokens + KV_BLOCK - 1) / KV_BLOCK;
    struct store *store = NULL;
    uint64_t before = b->tokens;
    out->write = (struct bench_pass){0};
    int rc = store_open(b->folder, &store, e);
    while (!rc && b->blocks < blocks) {
        rc = stopped(b, e);
        if (!rc)
            rc = write_batch(b, store, blocks, &out->write, e);
        progress_report(b->progress, "writing", b->tokens, tokens);
    }
    double begun = clock_seconds();
    store_close(store); /* which moves the log into the database */
    out->write.seconds += clock_seconds() - begun;
    out->tokens = b->tokens;
    out->written = b->tokens - before;
    return rc;
}

/* ---- opening --------------------------------------------------------------------------------------------
 */

static int drop_caches(const struct bench_store *b, double *left, struct err *e)
{
    double index = 0;
    char *segments = path_join(b->folder, "segments");
    int rc = segments ? bench_cache_drop(segments, left, e) : err_memory(e, "a path");
    if (!rc)
        rc = bench_cache_drop(b->folder, &index, e);
    free(segments);
    return rc;
}

/* *last is the mapping before this one, which is given up only now: a reading keeps its segments open. */
static int map_span(struct store *store, const struct span *s, struct span_map *last, struct err *e)
{
    struct span_map map;
    volatile uint64_t sink;
    int rc = store_span_map(store, (int)s->kind, s->key, &map, e);
    if (!rc)
        rc = check(s, map.data, map.size, &sink, e);
    store_span_unmap(store, last);
    *last = map;
    return rc;
}

/* What must be done before the first token of a question, but for the blocks that attention then reads. */
static int open_once(const struct bench_store *b, double *seconds, struct err *e)
{
    struct store *store = NULL;
    struct store_session row = {0};
    uint64_t last = b->blocks / every(&b->shape);
    double begun = clock_seconds();
    int rc = store_open(b->folder, &store, e);
    if (!rc)
        rc = store_session_open(store, session_name, &row, e);
    if (!rc && row.tokens != b->tokens)
        rc = err_set(e, ERR_FORMAT, "the session came back with %llu tokens; this is a bug",
                     (unsigned long long)row.tokens);
    if (!rc && last) {
        struct span s = span_of(&b->shape, KV_KIND_CHECKPOINT, last - 1);
        struct span_map map = {0};
        rc = map_span(store, &s, &map, e);
        store_span_unmap(store, &map);
    }
    *seconds = clock_seconds() - begun;
    store_session_free(&row);
    store_close(store);
    return rc;
}

static int find_blocks(const struct bench_store *b, double *seconds, struct err *e)
{
    struct store *store = NULL;
    int rc = store_open(b->folder, &store, e);
    double begun = clock_seconds();
    for (uint64_t i = 0; !rc && i < b->blocks; i++) {
        struct span s = span_of(&b->shape, KV_KIND_BLOCK, i);
        rc = store_span_find(store, (int)s.kind, s.key, NULL, e);
    }
    *seconds = clock_seconds() - begun;
    store_close(store);
    return rc;
}

static int look_at_index(const struct bench_store *b, struct bench_stage *out, struct err *e)
{
    struct store *store = NULL;
    struct store_stats stats = {0};
    int rc = store_open(b->folder, &store, e);
    if (!rc)
        rc = store_stats(store, &stats, e);
    store_close(store);
    out->rows = stats.spans;
    out->index_bytes = stats.db_bytes;
    out->segment_files = stats.segment_files;
    out->disk_bytes = stats.segment_disk_bytes;
    return rc;
}

int bench_store_open(struct bench_store *b, struct bench_stage *out, struct err *e)
{
    double cold[OPENINGS], warm[OPENINGS], left;
    int rc = look_at_index(b, out, e);
    for (int i = 0; !rc && i < OPENINGS; i++) {
        progress_report(b->progress, "opening", b->tokens, b->tokens);
        rc = drop_caches(b, &left, e);
        if (!rc)
            rc = open_once(b, &cold[i], e);
        if (!rc)
            rc = open_once(b, &warm[i], e);
        if (!rc)
            rc = stopped(b, e);
    }
    if (!rc)
        rc = find_blocks(b, &out->find, e);
    if (rc)
        return rc;
    out->open_cold = bench_median(cold, OPENINGS);
    out->open_warm = bench_median(warm, OPENINGS);
    return 0;
}

/* ---- reading and deleting -------------------------------------------------------------------------------
 */

/* Every span in the order of writing. */
static int read_all(struct bench_store *b, struct store *store, const char *what, struct bench_pass *pass,
                    struct err *e)
{
    size_t gap = every(&b->shape);
    *pass = (struct bench_pass){0};
    int rc = drop_caches(b, &pass->cached, e);
    struct span_map last = {0};
    double begun = clock_seconds(), cpu = bench_cpu_seconds();
    for (uint64_t i = 0; !rc && i < b->blocks; i++) {
        struct span s = span_of(&b->shape, KV_KIND_BLOCK, i);
        rc = map_span(store, &s, &last, e);
        pass->bytes += s.size;
        if (!rc && (i + 1) % gap == 0) {
            s = span_of(&b->shape, KV_KIND_CHECKPOINT, i / gap);
            rc = map_span(store, &s, &last, e);
            pass->bytes += s.size;
        }
        progress_report(b->progress, what, (i + 1) * KV_BLOCK, b->tokens);
        if (!rc)
            rc = stopped(b, e);
    }
    store_span_unmap(store, &last);
    pass->seconds = clock_seconds() - begun;
    pass->cpu = bench_cpu_seconds() - cpu;
    return rc;
}

int bench_store_read(struct bench_store *b, struct bench_stage *out, struct err *e)
{
    struct store *store = NULL;
    int rc = store_open(b->folder, &store, e);
    if (!rc)
        rc = read_all(b, store, "reading and checking", &out->checked, e);
    if (!rc)
        rc = read_all(b, store, "reading", &out->unchecked, e);
    store_close(store);
    return rc;
}

int bench_store_delete(struct bench_store *b, double *seconds, uint64_t *left, struct err *e)
{
    struct store *store = NULL;
    struct store_stats stats = {0};
    int rc = store_open(b->folder, &store, e);
    double begun = clock_seconds();
    if (!rc)
        rc = store_session_delete(store, b->session, e);
    *seconds = clock_seconds() - begun;
    if (!rc)
        rc = store_stats(store, &stats, e);
    store_close(store);
    *left = stats.segment_disk_bytes;
    return rc;
}
