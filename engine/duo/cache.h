/* SPDX-License-Identifier: Apache-2.0 */
/* cache.h - the two KV caches of a DuoAttention timeline and where each row of them lies.
 *
 * Retrieval heads: `blocks` of 16 pages, each [L][16 pages][HR(l)] records of kernels' page format, then
 * [L][16 pages][HR(l)] scan summaries of the same pages, the same bytes in memory and on disk; plus `tail`,
 * the raw fp16 record of the last page that holds a token, full or not, of every retrieval head (the own-page
 * rule). Streaming heads: raw records of the first sink_pages pages and a ring of ring_pages records, page b
 * in slot b % ring_pages.
 *
 *   retrieval   [ block 0 ][ block 1 ] ... [ block, in part filled ]   tail: page (P-1)/64, raw
 *     block     [ records: L, page, head ][ scan summaries: L, page, head ]
 *   streaming   [ sink pages ]  [ ring: the last R tokens and a chunk ]
 *
 * Invariant: block records of pages < P/64 are final. A block that came from a store is read-only. The ring
 * has room for R tokens and a whole chunk, so a chunk that is given up half-way has destroyed nothing that
 * the timeline needs; for the same reason there are two tails, and `cur` flips when a chunk is done.
 */
#ifndef LECTERN_ENGINE_DUO_CACHE_H
#define LECTERN_ENGINE_DUO_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "kernels/kernels.h"

enum {
    CACHE_BLOCK_PAGES = 16,
    CACHE_CHUNK = 512,
    CACHE_CHUNK_PAGES = CACHE_CHUNK / KV_PAGE_TOKENS + 1,
    CACHE_REPLAY = 8 /* tokens that a proof computes again, at most */
};

/* Immutable; derived once from the model's shape and the head split. */
struct cache_layout {
    size_t L, HK, D, S, R;
    int format;          /* of block records */
    uint8_t *retrieval;  /* [L][HK] */
    size_t *slot;        /* [L][HK]: number of a head among those of its kind in its layer */
    size_t *hr;          /* [L]: retrieval heads of the layer */
    size_t *hr_before;   /* [L]: retrieval heads of earlier layers */
    size_t *hs_before;   /* [L]: streaming heads of earlier layers */
    size_t HR, HS;       /* totals over layers */
    size_t hr_max;       /* largest hr[l] */
    size_t record_bytes; /* of a block record */
    size_t scan_bytes;   /* of a page's scan summary */
    size_t raw_bytes;    /* of a raw record: K [64][D] then V [64][D], fp16 */
    size_t block_bytes;  /* 16 * HR * (record_bytes + scan_bytes) */
    size_t sink_pages, ring_pages;
};

int cache_layout_init(struct cache_layout *y, size_t L, size_t HK, size_t D, size_t S, size_t R, int format,
                      const uint8_t *retrieval, struct err *e);
void cache_layout_fini(struct cache_layout *y);

struct cache_block {
    uint8_t *data; /* [block_bytes]; written only while handle is NULL */
    void *handle;  /* what the source's unmap wants, or NULL for memory of ours */
    int stored;    /* the sink has it */
};

struct cache {
    const struct cache_layout *layout;
    struct cache_block *blocks;
    size_t n_blocks, cap_blocks;
    uint8_t *tail[2]; /* [HR] raw records each */
    int cur;
    uint8_t *sinks;  /* [HS][sink_pages] raw records */
    uint8_t *ring;   /* [HS][ring_pages] raw records */
    size_t ring_low; /* pages from here on that the timeline has filled are still in the ring */
};

int cache_init(struct cache *c, const struct cache_layout *y, struct err *e);
/* `unmap` is called for each block with a handle; it may be NULL when there is none. */
void cache_fini(struct cache *c, void (*unmap)(void *arg, void *handle), void *arg);

/* Makes sure that pages up to and including `page` have memory. */
int cache_grow(struct cache *c, size_t page, struct err *e);

/* Exactly n blocks without memory, which are elsewhere: for a cache that is the form of one on a device. */
int cache_hollow(struct cache *c, size_t n, struct err *e);

/* Takes a mapped block as the next one. On failure it has been given back. */
int cache_adopt(struct cache *c, uint8_t *data, void *handle, void (*unmap)(void *arg, void *handle),
                void *arg, struct err *e);

/* Record of retrieval head number `slot` of layer l in page `page`. */
uint8_t *cache_record(const struct cache *c, size_t l, size_t page, size_t slot);

/* Its scan summary. */
uint8_t *cache_scan(const struct cache *c, size_t l, size_t page, size_t slot);

/* Raw tail record `which` (0/1) of a retrieval head. */
uint8_t *cache_tail(const struct cache *c, int which, size_t l, size_t slot);

/* Raw record of page `page` of streaming head number `slot` of layer l: in the sinks or in the ring. */
uint8_t *cache_stream(const struct cache *c, size_t l, size_t slot, size_t page);

/* To be called before a chunk that writes pages up to `page`: older ones may leave the ring. */
void cache_ring_advance(struct cache *c, size_t page);

/* How many of the last tokens of P >= 1 a proof computes again: they lie in one page. */
size_t cache_replay(size_t P);

/* First page that a timeline of P >= 1 tokens still needs from the ring, so that its last cache_replay(P)
 * tokens can be computed again (>= sink_pages). Pages cache_ring_first..(P-1)/64 are what a checkpoint keeps.
 */
size_t cache_ring_first(const struct cache_layout *y, size_t P);

/* Forgets what lies past P tokens: mapped blocks there go back to `unmap`; a mapped block in whose middle P
 * lies becomes memory of ours. On failure nothing has changed. */
int cache_truncate(struct cache *c, size_t P, void (*unmap)(void *arg, void *handle), void *arg,
                   struct err *e);

/* Bytes of, writes, and reads back the state at P tokens that is not in whole blocks: records, then scan
 * summaries, of the full pages of the unfilled block ([page][L][HR(l)]); then tail, sinks, ring pages. Rows
 * that hold no token yet are zeros, so equal timelines give equal bytes. Reading checks the size. With
 * `blocks_too` 0 the state begins after the summaries (they are still in memory: another place of the same
 * timeline). */
size_t cache_state_bytes(const struct cache_layout *y, size_t P, int blocks_too);
void cache_state_write(const struct cache *c, size_t P, int blocks_too, uint8_t *out);
int cache_state_read(struct cache *c, size_t P, int blocks_too, const uint8_t *in, size_t n, struct err *e);

#endif
