/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_bench.c - `lectern bench store`: the store beside the disk it lies on, on pages of Llama-3-8B's shape.
 *
 * Made-up pages, real files: the session grows from 100,000 to 1,000,000 tokens and on, as far as --count and
 * the free disk let it, and is opened and read back at each of these sizes. The disk's own speed is measured
 * before, between and after, so that a disk that tires is seen in both. All of it is deleted at the end.
 */
#include <stdlib.h>
#include <string.h>

#include "app/bench_report.h"
#include "app/bench_scratch.h"
#include "app/commands.h"
#include "app/interrupt.h"
#include "app/output.h"
#include "engine/base/file.h"

enum { BLOCK_TOKENS = 1024, STAMP_BYTES = 4096 };
static const uint64_t stage_tokens[BENCH_STAGES - 1] = {100000, 1000000};
static const uint64_t disk_least = (uint64_t)64 << 20,
                      disk_most = (uint64_t)2 << 30; /* of the disk's own file */
static const uint64_t leave = (uint64_t)1 << 30;     /* bytes: never fill a disk to the brim */

struct bench {
    const struct config *c;
    struct bench_scratch scratch;
    char *store_dir, *disk_dir;
    struct bench_store store;
    struct bench_result result;
};

/* ---- what fits ------------------------------------------------------------------------------------------
 */

static uint64_t disk_bytes(uint64_t session, size_t request)
{
    uint64_t n = session / 8 < disk_least ? disk_least : session / 8;
    n = (n < disk_most ? n : disk_most) / request;
    return (n ? n : 1) * request;
}

/* The session, its index (far below a hundredth) and the disk's own file, with a tenth left free. */
static int fits(const struct bench_result *r, uint64_t tokens)
{
    uint64_t session = bench_session_bytes(&r->shape, tokens);
    uint64_t usable = r->free_bytes - r->free_bytes / 10;
    return session + session / 100 + disk_bytes(session, r->disk.request) + leave <= usable;
}

static int plan(struct bench *b, struct err *e)
{
    struct bench_result *r = &b->result;
    r->wanted = b->c->count > 0 ? (uint64_t)b->c->count : stage_tokens[1];
    int rc = bench_free_bytes(b->scratch.path, &r->free_bytes, e);
    if (rc)
        return rc;
    uint64_t lo = 0, hi = (r->wanted + BLOCK_TOKENS - 1) / BLOCK_TOKENS; /* blocks */
    while (lo < hi) {
        uint64_t mid = lo + (hi - lo + 1) / 2;
        if (fits(r, mid * BLOCK_TOKENS))
            lo = mid;
        else
            hi = mid - 1;
    }
    if (!lo)
        return err_set(e, ERR_IO,
                       "the disk of %s has too little room; free some, or choose another --data-dir",
                       b->c->data_dir);
    r->tokens = lo * BLOCK_TOKENS;
    r->disk.bytes = disk_bytes(bench_session_bytes(&r->shape, r->tokens), r->disk.request);
    return 0;
}

/* ---- running --------------------------------------------------------------------------------------------
 */

static int run_stage(struct bench *b, uint64_t tokens, struct err *e)
{
    struct bench_result *r = &b->result;
    struct bench_stage *stage = &r->stages[r->n_stages];
    int rc = bench_store_write(&b->store, tokens, stage, e);
    if (!rc)
        rc = bench_disk_round(&r->disk, e);
    if (!rc)
        rc = bench_store_open(&b->store, stage, e);
    if (!rc)
        rc = bench_store_read(&b->store, stage, e);
    if (!rc)
        rc = bench_disk_round(&r->disk, e);
    if (!rc)
        r->n_stages++;
    return rc;
}

static int run(struct bench *b, struct err *e)
{
    struct bench_result *r = &b->result;
    int rc = bench_disk_round(&r->disk, e);
    for (int i = 0; !rc && i < BENCH_STAGES && b->store.tokens < r->tokens; i++) {
        int last = i == BENCH_STAGES - 1 || stage_tokens[i] >= r->tokens;
        rc = run_stage(b, last ? r->tokens : stage_tokens[i], e);
    }
    if (!rc)
        rc = bench_store_delete(&b->store, &r->delete_seconds, &r->deleted_left, e);
    return rc;
}

static int begin(struct bench *b, struct err *e)
{
    int rc = bench_scratch_make(&b->scratch, b->c->data_dir, e);
    if (rc)
        return rc;
    b->store_dir = path_join(b->scratch.path, "store");
    b->disk_dir = path_join(b->scratch.path, "disk");
    if (!b->store_dir || !b->disk_dir)
        return err_memory(e, "paths");
    rc = dir_make(b->disk_dir, e);
    if (!rc) {
        b->store.folder = b->store_dir;
        rc = bench_store_begin(&b->store, e);
    }
    if (rc)
        return rc;
    struct bench_disk *disk = &b->result.disk;
    disk->folder = b->disk_dir;
    disk->data = b->store.memory;
    disk->request = bench_block_bytes(&b->store.shape) / STAMP_BYTES * STAMP_BYTES;
    disk->progress = b->store.progress;
    disk->cancel = b->store.cancel;
    return plan(b, e);
}

static int put_result(const struct config *c, const struct bench_result *r, struct err *e)
{
    if (c->json)
        return output_json(bench_report_json(r), e);
    struct buf out = {0};
    bench_report_text(r, &out);
    int rc = out.failed ? err_memory(e, "the report") : output_bytes(out.data, out.len, e);
    buf_free(&out);
    return rc;
}

int cmd_bench(const struct config *c, struct err *e)
{
    if (!strcmp(c->sub, "cuda"))
        return cmd_bench_cuda(c, e);
    struct progress_line line;
    progress_line_begin(&line, c, "tokens");
    struct progress port = progress_line_port(&line);
    struct bench b = {.c = c, .scratch = {.lock = -1}};
    b.store.shape = bench_llama_8b;
    b.store.shape.format = c->kv_format;
    b.store.progress = &port;
    b.store.cancel = interrupt_watch();
    b.result.shape = b.store.shape;
    int rc = begin(&b, e);
    if (!rc)
        rc = run(&b, e);
    progress_line_end(&line);
    bench_store_end(&b.store);
    struct err second = {0};
    int failed =
        bench_scratch_remove(&b.scratch, rc ? &second : e); /* the first failure is the one to tell */
    free(b.store_dir);
    free(b.disk_dir);
    if (rc || failed)
        return rc ? rc : failed;
    return put_result(c, &b.result, e);
}
