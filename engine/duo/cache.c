/* SPDX-License-Identifier: Apache-2.0 */
/* cache.c - addresses and memory of the two KV caches. */
#include "engine/duo/cache.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/bytes.h"

/* Large areas begin at a page of memory, so that a sink can hand them to the disk without a copy. */
static void *take_records(size_t n, size_t bytes)
{
    size_t total;
    if (size_mul(n, bytes, &total) || total > SIZE_MAX - 4096)
        return NULL;
    size_t align = total >= 1 << 20 ? 4096 : 64;
    total = total ? (total + align - 1) / align * align : align;
    void *p = aligned_alloc(align, total);
    if (p)
        memset(p, 0, total);
    return p;
}

static void count_heads(struct cache_layout *y, const uint8_t *retrieval)
{
    for (size_t l = 0; l < y->L; l++) {
        y->hr_before[l] = y->HR;
        y->hs_before[l] = y->HS;
        size_t hr = 0, hs = 0;
        for (size_t h = 0; h < y->HK; h++) {
            y->retrieval[l * y->HK + h] = retrieval[l * y->HK + h] ? 1 : 0;
            y->slot[l * y->HK + h] = retrieval[l * y->HK + h] ? hr++ : hs++;
        }
        y->hr[l] = hr;
        y->HR += hr;
        y->HS += hs;
        y->hr_max = hr > y->hr_max ? hr : y->hr_max;
    }
}

int cache_layout_init(struct cache_layout *y, size_t L, size_t HK, size_t D, size_t S, size_t R, int format,
                      const uint8_t *retrieval, struct err *e)
{
    *y = (struct cache_layout){.L = L, .HK = HK, .D = D, .S = S, .R = R, .format = format};
    if (!kv_format_name(format))
        return err_set(e, ERR_USAGE, "no KV format has the number %d", format);
    y->record_bytes = kv_page_bytes(format, D);
    y->raw_bytes = kv_page_bytes(KV_RAW, D);
    y->scan_bytes = kv_scan_bytes(D);
    if (!y->record_bytes || !y->raw_bytes)
        return err_set(e, ERR_UNSUPPORTED, "no %s pages for heads of width %zu; try --kv raw",
                       kv_format_name(format), D);
    if (R < 1 || R > (1u << 20) || S > (1u << 20))
        return err_set(e, ERR_USAGE, "--sink %zu --recent %zu: choose 0..1048576 and 1..1048576", S, R);
    y->retrieval = calloc(L * HK, 1);
    y->slot = calloc(L * HK, sizeof *y->slot);
    y->hr = calloc(L, sizeof *y->hr);
    y->hr_before = calloc(L, sizeof *y->hr_before);
    y->hs_before = calloc(L, sizeof *y->hs_before);
    if (!y->retrieval || !y->slot || !y->hr || !y->hr_before || !y->hs_before) {
        cache_layout_fini(y);
        return err_memory(e, "the cache's layout");
    }
    count_heads(y, retrieval);
    y->block_bytes = CACHE_BLOCK_PAGES * y->HR * (y->record_bytes + y->scan_bytes);
    y->sink_pages = (S + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    y->ring_pages = (R + CACHE_CHUNK) / KV_PAGE_TOKENS + 3;
    return 0;
}

void cache_layout_fini(struct cache_layout *y)
{
    free(y->retrieval);
    free(y->slot);
    free(y->hr);
    free(y->hr_before);
    free(y->hs_before);
    *y = (struct cache_layout){0};
}

int cache_init(struct cache *c, const struct cache_layout *y, struct err *e)
{
    *c = (struct cache){.layout = y};
    c->tail[0] = take_records(y->HR, y->raw_bytes);
    c->tail[1] = take_records(y->HR, y->raw_bytes);
    c->sinks = take_records(y->HS * y->sink_pages, y->raw_bytes);
    c->ring = take_records(y->HS * y->ring_pages, y->raw_bytes);
    if (c->tail[0] && c->tail[1] && c->sinks && c->ring)
        return 0;
    cache_fini(c, NULL, NULL);
    return err_memory(e, "the KV cache");
}

void cache_fini(struct cache *c, void (*unmap)(void *arg, void *handle), void *arg)
{
    for (size_t i = 0; i < c->n_blocks; i++) {
        if (!c->blocks[i].handle)
            free(c->blocks[i].data);
        else if (unmap)
            unmap(arg, c->blocks[i].handle);
    }
    free(c->blocks);
    free(c->tail[0]);
    free(c->tail[1]);
    free(c->sinks);
    free(c->ring);
    *c = (struct cache){0};
}

static int reserve_blocks(struct cache *c, size_t need, struct err *e)
{
    if (need <= c->cap_blocks)
        return 0;
    size_t cap = need + need / 2 + 8;
    struct cache_block *blocks = realloc(c->blocks, cap * sizeof *blocks);
    if (!blocks)
        return err_memory(e, "the KV cache");
    c->blocks = blocks;
    c->cap_blocks = cap;
    return 0;
}

int cache_grow(struct cache *c, size_t page, struct err *e)
{
    size_t need = page / CACHE_BLOCK_PAGES + 1;
    int rc = reserve_blocks(c, need, e);
    while (!rc && c->n_blocks < need) {
        uint8_t *data = take_records(1, c->layout->block_bytes);
        if (!data)
            return err_memory(e, "the KV cache");
        c->blocks[c->n_blocks++] = (struct cache_block){.data = data};
    }
    return rc;
}

int cache_hollow(struct cache *c, size_t n, struct err *e)
{
    int rc = reserve_blocks(c, n, e);
    if (rc)
        return rc;
    for (size_t i = 0; i < c->n_blocks; i++)
        free(c->blocks[i].data);
    for (size_t i = 0; i < n; i++)
        c->blocks[i] = (struct cache_block){.data = NULL};
    c->n_blocks = n;
    return 0;
}

int cache_adopt(struct cache *c, uint8_t *data, void *handle, void (*unmap)(void *arg, void *handle),
                void *arg, struct err *e)
{
    int rc = reserve_blocks(c, c->n_blocks + 1, e);
    if (rc) {
        unmap(arg, handle);
        return rc;
    }
    c->blocks[c->n_blocks++] = (struct cache_block){.data = data, .handle = handle, .stored = 1};
    return 0;
}

static size_t page_number(const struct cache_layout *y, size_t l, size_t page, size_t slot)
{
    return y->hr_before[l] * CACHE_BLOCK_PAGES + (page % CACHE_BLOCK_PAGES) * y->hr[l] + slot;
}

uint8_t *cache_record(const struct cache *c, size_t l, size_t page, size_t slot)
{
    return c->blocks[page / CACHE_BLOCK_PAGES].data +
           page_number(c->layout, l, page, slot) * c->layout->record_bytes;
}

uint8_t *cache_scan(const struct cache *c, size_t l, size_t page, size_t slot)
{
    const struct cache_layout *y = c->layout;
    return c->blocks[page / CACHE_BLOCK_PAGES].data + CACHE_BLOCK_PAGES * y->HR * y->record_bytes +
           page_number(y, l, page, slot) * y->scan_bytes;
}

uint8_t *cache_tail(const struct cache *c, int which, size_t l, size_t slot)
{
    return c->tail[which] + (c->layout->hr_before[l] + slot) * c->layout->raw_bytes;
}

uint8_t *cache_stream(const struct cache *c, size_t l, size_t slot, size_t page)
{
    const struct cache_layout *y = c->layout;
    size_t head = y->hs_before[l] + slot;
    if (page < y->sink_pages)
        return c->sinks + (head * y->sink_pages + page) * y->raw_bytes;
    return c->ring + (head * y->ring_pages + page % y->ring_pages) * y->raw_bytes;
}

void cache_ring_advance(struct cache *c, size_t page)
{
    size_t low = page + 1 > c->layout->ring_pages ? page + 1 - c->layout->ring_pages : 0;
    c->ring_low = c->ring_low > low ? c->ring_low : low;
}

size_t cache_replay(size_t P)
{
    size_t last = (P - 1) % KV_PAGE_TOKENS + 1;
    return last < CACHE_REPLAY ? last : CACHE_REPLAY;
}

size_t cache_ring_first(const struct cache_layout *y, size_t P)
{
    size_t seen = P ? P - cache_replay(P) + 1 : 0; /* the first replayed token sees keys >= seen - R */
    size_t first = seen > y->R ? (seen - y->R) / KV_PAGE_TOKENS : 0;
    return first > y->sink_pages ? first : y->sink_pages;
}

int cache_truncate(struct cache *c, size_t P, void (*unmap)(void *arg, void *handle), void *arg,
                   struct err *e)
{
    size_t keep = P / (CACHE_BLOCK_PAGES * KV_PAGE_TOKENS), part = P % (CACHE_BLOCK_PAGES * KV_PAGE_TOKENS);
    if (keep >= c->n_blocks)
        return 0;
    if (part && c->blocks[keep].handle) {
        uint8_t *own = take_records(1, c->layout->block_bytes);
        if (!own)
            return err_memory(e, "the KV cache");
        memcpy(own, c->blocks[keep].data, c->layout->block_bytes);
        unmap(arg, c->blocks[keep].handle);
        c->blocks[keep] = (struct cache_block){.data = own};
    }
    size_t b = keep;
    for (; b < c->n_blocks && !c->blocks[b].handle; b++) /* memory of ours is used again */
        c->blocks[b].stored = 0;
    for (size_t i = b; i < c->n_blocks; i++) {
        if (c->blocks[i].handle)
            unmap(arg, c->blocks[i].handle);
        else
            free(c->blocks[i].data);
    }
    c->n_blocks = b;
    return 0;
}

/* Pages [first, end) of the ring and [0, sinks) of the sinks that P tokens have filled. */
static void stream_pages(const struct cache_layout *y, size_t P, size_t *sinks, size_t *first, size_t *end)
{
    size_t pages = (P + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    *sinks = pages < y->sink_pages ? pages : y->sink_pages;
    *first = cache_ring_first(y, P);
    *end = pages > *first ? pages : *first;
}

size_t cache_state_bytes(const struct cache_layout *y, size_t P, int blocks_too)
{
    size_t sinks, first, end;
    stream_pages(y, P, &sinks, &first, &end);
    size_t open_pages = blocks_too ? P / KV_PAGE_TOKENS % CACHE_BLOCK_PAGES : 0;
    return open_pages * y->HR * (y->record_bytes + y->scan_bytes) + y->HR * y->raw_bytes +
           y->HS * (sinks + end - first) * y->raw_bytes;
}

/* One piece of the state to or from `bytes` at *at. */
static void copy_piece(uint8_t *memory, uint8_t *bytes, size_t n, int reading, size_t *at)
{
    if (n && reading)
        memcpy(memory, bytes + *at, n);
    else if (n)
        memcpy(bytes + *at, memory, n);
    *at += n;
}

/* Zeros in the rows of a raw record in `bytes` that come after row `rows`. */
static void clear_rows(const struct cache_layout *y, uint8_t *record, size_t rows)
{
    size_t half = y->raw_bytes / 2, used = rows * (half / KV_PAGE_TOKENS);
    memset(record + used, 0, half - used);
    memset(record + half + used, 0, half - used);
}

static void walk_open_pages(const struct cache *c, size_t P, uint8_t *bytes, int reading, size_t *at)
{
    const struct cache_layout *y = c->layout;
    size_t pages = P / KV_PAGE_TOKENS, first = pages - pages % CACHE_BLOCK_PAGES;
    for (int scans = 0; scans < 2; scans++)
        for (size_t p = first; p < pages; p++)
            for (size_t l = 0; l < y->L; l++)
                if (scans)
                    copy_piece(cache_scan(c, l, p, 0), bytes, y->hr[l] * y->scan_bytes, reading, at);
                else
                    copy_piece(cache_record(c, l, p, 0), bytes, y->hr[l] * y->record_bytes, reading, at);
}

/* Walks the state in its one order and copies each piece to or from `bytes`. */
static void state_walk(const struct cache *c, size_t P, int blocks_too, uint8_t *bytes, int reading)
{
    const struct cache_layout *y = c->layout;
    size_t at = 0, sinks, first, end, rows = P ? (P - 1) % KV_PAGE_TOKENS + 1 : 0;
    if (blocks_too)
        walk_open_pages(c, P, bytes, reading, &at);
    for (size_t h = 0; h < y->HR; h++) {
        copy_piece(c->tail[c->cur] + h * y->raw_bytes, bytes, y->raw_bytes, reading, &at);
        if (!reading)
            clear_rows(y, bytes + at - y->raw_bytes, rows);
    }
    stream_pages(y, P, &sinks, &first, &end);
    for (size_t l = 0; l < y->L; l++)
        for (size_t slot = 0; slot < y->HK - y->hr[l]; slot++)
            for (size_t p = 0; p < end; p++) {
                if (p >= sinks && p < first)
                    p = first;
                if (p >= end)
                    break;
                copy_piece(cache_stream(c, l, slot, p), bytes, y->raw_bytes, reading, &at);
                if (!reading && p == (P - 1) / KV_PAGE_TOKENS)
                    clear_rows(y, bytes + at - y->raw_bytes, rows);
            }
}

void cache_state_write(const struct cache *c, size_t P, int blocks_too, uint8_t *out)
{
    state_walk(c, P, blocks_too, out, 0);
}

int cache_state_read(struct cache *c, size_t P, int blocks_too, const uint8_t *in, size_t n, struct err *e)
{
    if (n != cache_state_bytes(c->layout, P, blocks_too))
        return err_set(e, ERR_FORMAT, "a checkpoint of %zu tokens has %zu bytes instead of %zu", P, n,
                       cache_state_bytes(c->layout, P, blocks_too));
    if (blocks_too && P / KV_PAGE_TOKENS % CACHE_BLOCK_PAGES) {
        int rc = cache_grow(c, P / KV_PAGE_TOKENS - 1, e);
        if (rc)
            return rc;
    }
    state_walk(c, P, blocks_too, (uint8_t *)(uintptr_t)in, 1);
    size_t first = cache_ring_first(c->layout, P);
    if (blocks_too || c->ring_low > first)
        c->ring_low = first;
    return 0;
}
