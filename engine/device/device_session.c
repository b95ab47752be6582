/* SPDX-License-Identifier: Apache-2.0 */
/* device_session.c - one timeline's caches on a device: creation, growth, cuts, and what they take.
 *
 *   blocks    slabs of some blocks each, in device memory while the budget lasts, then in host memory that
 *             the device reads; the device finds each by the table of addresses
 *   tail, stream   twice: a prefill pass writes the other pair, which becomes the present one when all is
 * done
 *
 * Invariant: blocks of pages below position / 64 are final; a pass that is given up has written later ones
 * alone. Recorded steps hold addresses and sizes: whatever changes one of these drops them.
 */
#include "engine/device/device_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    SLAB_BYTES = 64 << 20,    /* at least, when more than one block fits */
    CARD_RESERVE = 768 << 20, /* left to drivers and libraries when there is no budget */
    HOST_DEVICE_RESERVE = 1 << 20,
    BLOCK_ALIGN = 256
};

static size_t block_stride(const struct device_session *s)
{
    return (s->kv.block_bytes + BLOCK_ALIGN - 1) / BLOCK_ALIGN * BLOCK_ALIGN;
}

static uint8_t *block_at(const struct device_session *s, size_t b, size_t offset)
{
    return s->blocks[b].address + offset;
}

uint8_t *block_record(const struct device_session *s, size_t b, size_t l, size_t page)
{
    const struct cache_layout *y = s->g->layout;
    return block_at(s, b, (y->hr_before[l] * DEVICE_BLOCK_PAGES + page * y->hr[l]) * y->record_bytes);
}

uint8_t *block_scan(const struct device_session *s, size_t b, size_t l, size_t page)
{
    const struct cache_layout *y = s->g->layout;
    return block_at(s, b,
                    DEVICE_BLOCK_PAGES * y->HR * y->record_bytes +
                        (y->hr_before[l] * DEVICE_BLOCK_PAGES + page * y->hr[l]) * y->scan_bytes);
}

void session_drop_graphs(struct device_session *s)
{
    const struct device_shared *g = s->g->shared;
    for (size_t i = 0; i < PASS_MODES; i++)
        for (size_t t = 0; t < DEVICE_DECODE_T; t++) {
            g->ops->graph_free(g->device, s->graphs[i][t]);
            s->graphs[i][t] = NULL;
        }
}

/* ---- creation ---------------------------------------------------------------------------------------- */

void device_kv_shape(struct device_kv *kv, const struct cache_layout *y, size_t H, const uint32_t *counts)
{
    *kv = (struct device_kv){.L = y->L,
                             .H = H,
                             .HK = y->HK,
                             .D = y->D,
                             .S = y->S,
                             .R = y->R,
                             .HR = y->HR,
                             .HS = y->HS,
                             .format = y->format,
                             .record_bytes = y->record_bytes,
                             .scan_bytes = y->scan_bytes,
                             .raw_bytes = y->raw_bytes,
                             .block_bytes = y->block_bytes,
                             .sink_pages = y->sink_pages,
                             .ring_pages = y->ring_pages,
                             .hr = counts,
                             .hr_before = counts + y->L,
                             .hs_before = counts + 2 * y->L};
}

static void init_kv(struct device_session *s)
{
    const struct device_engine *g = s->g;
    const struct cache_layout *y = g->layout;
    device_kv_shape(&s->kv, y, g->shared->shape.H, g->heads);
    s->kv.heads_host = g->heads + 3 * y->L;
    s->kv.heads = g->heads_device;
    s->tail_bytes = 2 * y->HR * y->raw_bytes;
    s->stream_bytes = y->HS * (y->sink_pages + y->ring_pages) * y->raw_bytes;
}

static int take_rows(struct device_session *s, struct err *e)
{
    const struct device_shared *g = s->g->shared;
    int rc = 0;
    for (int i = 0; !rc && i < 2; i++) {
        void *tail = NULL, *stream = NULL;
        rc = g->ops->alloc(g->device, s->tail_bytes + 1, &tail, e);
        if (!rc)
            rc = g->ops->alloc(g->device, s->stream_bytes + 1, &stream, e);
        s->tail[i] = tail;
        s->stream[i] = stream;
        if (rc)
            break;
        g->ops->fill(g->device, DEVICE_COMPUTE, tail, 0, s->tail_bytes);
        g->ops->fill(g->device, DEVICE_COMPUTE, stream, 0, s->stream_bytes);
    }
    s->kv.tail = s->tail[0];
    s->kv.stream = s->stream[0];
    s->card_bytes = 2 * (uint64_t)(s->tail_bytes + s->stream_bytes);
    return rc;
}

int device_session_create(struct device_session **out, const struct device_engine *g, struct err *e)
{
    *out = NULL;
    struct device_session *s = calloc(1, sizeof *s);
    if (!s)
        return err_memory(e, "a session");
    s->g = g;
    init_kv(s);
    int rc = take_rows(s, e);
    if (!rc)
        rc = staging_create(&s->staging, g->shared->device, e);
    if (!rc)
        rc = table_reserve(s, (g->shared->context + BLOCK_TOKENS - 1) / BLOCK_TOKENS, e);
    if (!rc)
        rc = g->shared->ops->sync(g->shared->device, DEVICE_COMPUTE, e);
    if (rc) {
        device_session_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void device_session_free(struct device_session *s)
{
    if (!s)
        return;
    const struct device_shared *g = s->g->shared;
    struct err ignored; /* a failure of work that nobody waits for any more */
    (void)g->ops->sync(g->device, DEVICE_COMPUTE, &ignored);
    session_drop_graphs(s);
    mirror_fini(s);
    staging_free(s->staging);
    blocks_free(s);
    void *all[] = {s->tail[0], s->tail[1], s->stream[0], s->stream[1], s->addresses_device,
                   s->mass,    s->pages,   s->counts,    s->held};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        g->ops->release(g->device, all[i]);
    if (s->mass_host)
        g->ops->release_host(g->device, s->mass_host);
    free(s->addresses);
    free(s->blocks);
    free(s);
}

void device_session_reset(struct device_session *s)
{
    device_session_truncate(s, 0);
}

/* ---- blocks ------------------------------------------------------------------------------------------ */

int table_reserve(struct device_session *s, size_t blocks, struct err *e)
{
    struct device_shared *g = s->g->shared;
    if (blocks <= s->kv.cap_blocks)
        return 0;
    size_t before = s->kv.cap_blocks, cap = blocks + (before ? blocks / 2 : 0);
    struct device_block *list = realloc(s->blocks, cap * sizeof *list);
    if (list)
        s->blocks = list;
    uint64_t *addresses = realloc(s->addresses, cap * sizeof *addresses);
    if (addresses)
        s->addresses = addresses;
    if (!list || !addresses)
        return err_memory(e, "the KV cache");
    void *table = NULL;
    int rc = g->ops->alloc(g->device, cap * sizeof *addresses, &table, e);
    if (rc)
        return rc;
    memset(s->addresses + s->n_blocks, 0, (cap - s->n_blocks) * sizeof *addresses);
    g->ops->upload(g->device, DEVICE_COMPUTE, table, s->addresses, cap * sizeof *addresses);
    rc = g->ops->sync(g->device, DEVICE_COMPUTE, e);
    g->ops->release(g->device, s->addresses_device);
    s->addresses_device = table;
    s->kv.blocks = table;
    s->kv.cap_blocks = cap;
    session_drop_graphs(s);
    size_t tokens = cap * BLOCK_TOKENS;
    if (!rc)
        rc = work_scratch(g, g->ops->attend_decode_scratch_bytes(g->device, &s->kv, tokens, 1), e);
    if (!rc)
        rc = work_scratch(g, g->ops->attend_prefill_scratch_bytes(g->device, &s->kv, g->chunk), e);
    if (!rc && g->ops->select_scratch_bytes)
        rc = work_scratch(g, g->ops->select_scratch_bytes(g->device, &s->kv, tokens), e);
    if (rc) /* the next call tries again */
        s->kv.cap_blocks = before;
    return rc;
}

/* How many of `want` blocks still go into device memory. */
static size_t card_room(const struct device_session *s, size_t want)
{
    const struct device_shared *g = s->g->shared;
    uint64_t stride = block_stride(s), used = s->card_bytes - 2 * (uint64_t)(s->tail_bytes + s->stream_bytes);
    uint64_t room;
    if (g->kv_bytes) {
        room = g->kv_bytes > used ? g->kv_bytes - used : 0;
    } else {
        struct device_info info;
        g->ops->info(g->device, &info);
        uint64_t reserve = info.major ? CARD_RESERVE : HOST_DEVICE_RESERVE;
        room = info.memory_free > reserve ? info.memory_free - reserve : 0;
    }
    return room / stride < want ? (size_t)(room / stride) : want;
}

static int keep_slab(struct device_session *s, void *memory, int is_host, struct err *e)
{
    if (s->n_slabs == s->cap_slabs) {
        size_t cap = s->cap_slabs * 2 + 16;
        struct device_slab *slabs = realloc(s->slabs, cap * sizeof *slabs);
        if (!slabs)
            return err_memory(e, "the KV cache");
        s->slabs = slabs;
        s->cap_slabs = cap;
    }
    s->slabs[s->n_slabs++] = (struct device_slab){.memory = memory, .is_host = is_host};
    return 0;
}

/* Appends up to `want` blocks in one piece of memory; at least one. */
static int add_slab(struct device_session *s, size_t want, struct err *e)
{
    struct device_shared *g = s->g->shared;
    /* An eighth of what there is: many slabs would waste a piece of 2 MiB each. */
    uint64_t least = s->card_bytes / 8 > SLAB_BYTES ? s->card_bytes / 8 : SLAB_BYTES;
    size_t stride = block_stride(s), some = least / stride ? (size_t)(least / stride) : 1;
    size_t n = want > some ? want : some, left = s->kv.cap_blocks - s->n_blocks;
    n = n > left ? left : n;
    void *memory = NULL, *view = NULL;
    size_t on_card = card_room(s, n);
    int rc = on_card ? g->ops->alloc(g->device, on_card * stride, &memory, e) : ERR_MEMORY, is_host = 0;
    if (on_card)
        n = on_card;
    if (rc == ERR_MEMORY) {                                   /* the card is full */
        some = SLAB_BYTES / stride ? SLAB_BYTES / stride : 1; /* pinning takes its time */
        n = n > some ? some : n;
        is_host = 1;
        rc = g->ops->alloc_host(g->device, n * stride, &memory, &view, e);
    }
    if (rc)
        return rc;
    rc = keep_slab(s, memory, is_host, e);
    if (rc) {
        is_host ? g->ops->release_host(g->device, memory) : g->ops->release(g->device, memory);
        return rc;
    }
    *(is_host ? &s->host_bytes : &s->card_bytes) += n * stride;
    for (size_t i = 0; i < n; i++) {
        struct device_block *b = &s->blocks[s->n_blocks];
        *b = (struct device_block){.address = (uint8_t *)(is_host ? view : memory) + i * stride};
        b->host = is_host ? (uint8_t *)memory + i * stride : NULL;
        s->addresses[s->n_blocks++] = (uint64_t)(uintptr_t)b->address;
    }
    return 0;
}

int device_session_reserve(struct device_session *s, size_t tokens, struct err *e)
{
    struct device_shared *g = s->g->shared;
    size_t need = (tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS, before = s->n_blocks;
    int rc = table_reserve(s, need, e);
    while (!rc && s->n_blocks < need) {
        if (s->kv.block_bytes) {
            rc = add_slab(s, need - s->n_blocks, e);
        } else {
            s->blocks[s->n_blocks] = (struct device_block){.address = NULL};
            s->addresses[s->n_blocks++] = 0;
        }
    }
    if (s->n_blocks > before) {
        g->ops->upload(g->device, DEVICE_COMPUTE, s->addresses_device + before, s->addresses + before,
                       (s->n_blocks - before) * sizeof *s->addresses);
        int synced = g->ops->sync(g->device, DEVICE_COMPUTE, rc ? &(struct err){.code = ERR_NONE} : e);
        rc = rc ? rc : synced;
    }
    return rc;
}

void blocks_free(struct device_session *s)
{
    const struct device_shared *g = s->g->shared;
    for (size_t i = 0; i < s->n_slabs; i++)
        s->slabs[i].is_host ? g->ops->release_host(g->device, s->slabs[i].memory)
                            : g->ops->release(g->device, s->slabs[i].memory);
    free(s->slabs);
    s->slabs = NULL;
    s->n_slabs = s->n_blocks = 0;
}

void device_session_truncate(struct device_session *s, size_t position)
{
    size_t from = position / BLOCK_TOKENS;
    mirror_drop(s, from);
    for (size_t b = from; b < s->n_blocks; b++)
        s->blocks[b].stored = 0;
    s->position = position;
}

int device_session_repeat(struct device_session *s, size_t tokens, struct err *e)
{
    const struct device_shared *g = s->g->shared;
    size_t whole = s->position / BLOCK_TOKENS;
    if (!whole || s->position % BLOCK_TOKENS || tokens % BLOCK_TOKENS || tokens < s->position)
        return err_set(e, ERR_USAGE, "only whole blocks are repeated");
    int rc = device_session_reserve(s, tokens, e);
    for (size_t b = whole; !rc && s->kv.block_bytes && b < tokens / BLOCK_TOKENS; b++)
        g->ops->copy(g->device, DEVICE_COMPUTE, s->blocks[b].address, s->blocks[b % whole].address,
                     s->kv.block_bytes);
    if (!rc)
        rc = g->ops->sync(g->device, DEVICE_COMPUTE, e);
    if (!rc)
        s->position = tokens;
    return rc;
}

/* ---- a page whose tokens are computed again ---------------------------------------------------------- */

/* Records and summaries of the page that ends at `position`, to `held` or back. */
static void copy_held(struct device_session *s, size_t position, int back)
{
    const struct device_shared *g = s->g->shared;
    const struct cache_layout *y = s->g->layout;
    size_t page = position / KV_PAGE_TOKENS - 1, b = page / DEVICE_BLOCK_PAGES, i = page % DEVICE_BLOCK_PAGES;
    uint8_t *at = s->held;
    for (size_t l = 0; l < y->L; l++)
        for (int scan = 0; scan < 2; scan++) {
            uint8_t *here = scan ? block_scan(s, b, l, i) : block_record(s, b, l, i);
            size_t bytes = y->hr[l] * (scan ? y->scan_bytes : y->record_bytes);
            if (bytes)
                g->ops->copy(g->device, DEVICE_COMPUTE, back ? here : at, back ? at : here, bytes);
            at += bytes;
        }
}

int device_session_replay(struct device_session *s, size_t first, struct err *e)
{
    const struct device_shared *g = s->g->shared;
    const struct cache_layout *y = s->g->layout;
    s->holding = 0;
    if (s->position % KV_PAGE_TOKENS == 0 && y->HR) {
        void *held = s->held;
        int rc = held ? 0 : g->ops->alloc(g->device, y->HR * (y->record_bytes + y->scan_bytes), &held, e);
        if (rc)
            return rc;
        s->held = held;
        s->holding = 1;
        copy_held(s, s->position, 0);
    }
    s->position = first;
    return 0;
}

int device_session_replayed(struct device_session *s, size_t position, struct err *e)
{
    const struct device_shared *g = s->g->shared;
    if (s->holding)
        copy_held(s, position, 1);
    s->holding = 0;
    s->position = position;
    return g->ops->sync(g->device, DEVICE_COMPUTE, e);
}

/* ---- what it takes ----------------------------------------------------------------------------------- */

size_t device_session_position(const struct device_session *s)
{
    return s->position;
}
const struct device_kv *device_session_kv(const struct device_session *s)
{
    return &s->kv;
}
uint64_t device_session_card_bytes(const struct device_session *s)
{
    return s->card_bytes;
}
uint64_t device_session_host_bytes(const struct device_session *s)
{
    return s->host_bytes;
}
