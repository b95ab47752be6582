/* SPDX-License-Identifier: Apache-2.0 */
/* device_mirror.c - finished blocks on their way to a sink: copies in pinned memory, made on DEVICE_COPY_OUT
 * beside the passes that follow.
 *
 * Nothing is copied until somebody saves. Pinning memory takes longer than the copy (12 ms for a block of 18
 * MB), so a prefill pass takes one block a layer, while the device computes. A block in host memory is handed
 * out as it lies. Copies that come back are used again, so there are as many as were ever waiting at once.
 */
#include "engine/device/device_internal.h"

#include <stdlib.h>
#include <string.h>

/* A free copy of at least a block. */
static int take_mirror(struct device_session *s, uint8_t **out, struct err *e)
{
    const struct device_shared *g = s->g->shared;
    if (s->n_mirrors) {
        *out = s->mirrors[--s->n_mirrors];
        return 0;
    }
    if (s->cap_mirrors < s->n_blocks + 1) { /* so that giving back never needs memory */
        size_t cap = s->n_blocks * 2 + 16;
        uint8_t **mirrors = realloc(s->mirrors, cap * sizeof *mirrors);
        if (!mirrors)
            return err_memory(e, "blocks to be saved");
        s->mirrors = mirrors;
        s->cap_mirrors = cap;
    }
    void *p, *view;
    int rc = g->ops->alloc_host(g->device, s->kv.block_bytes, &p, &view, e);
    *out = p;
    return rc;
}

static int mirror_block(struct device_session *s, size_t b, struct err *e)
{
    const struct device_shared *g = s->g->shared;
    struct device_block *block = &s->blocks[b];
    if (block->stored || block->mirror || block->host || !block->address)
        return 0;
    int rc = take_mirror(s, &block->mirror, e);
    if (!rc)
        g->ops->download(g->device, DEVICE_COPY_OUT, block->mirror, block->address, s->kv.block_bytes);
    return rc;
}

int mirror_finished(struct device_session *s, size_t from, struct err *e)
{
    int rc = 0;
    for (size_t b = from; s->mirroring && !rc && b < s->position / BLOCK_TOKENS; b++)
        rc = mirror_block(s, b, e);
    return rc;
}

void mirror_one(struct device_session *s)
{
    struct err ignored; /* no memory now: whoever borrows the block asks again and is told */
    size_t whole = s->position / BLOCK_TOKENS;
    s->mirror_next = s->mirror_next < whole ? s->mirror_next : whole;
    while (s->mirroring && s->mirror_next < whole) {
        const struct device_block *block = &s->blocks[s->mirror_next];
        int wanted = !block->stored && !block->mirror && !block->host && block->address;
        if (wanted && mirror_block(s, s->mirror_next, &ignored))
            return;
        s->mirror_next++;
        if (wanted)
            return;
    }
}

static void drop(struct device_session *s, size_t b)
{
    if (s->blocks[b].mirror)
        s->mirrors[s->n_mirrors++] = s->blocks[b].mirror;
    s->blocks[b].mirror = NULL;
}

void mirror_drop(struct device_session *s, size_t from)
{
    const struct device_shared *g = s->g->shared;
    struct err ignored; /* of copies that nobody wants */
    if (s->mirroring)
        (void)g->ops->sync(g->device, DEVICE_COPY_OUT, &ignored);
    for (size_t b = from; b < s->n_blocks; b++)
        drop(s, b);
    s->mirror_next = s->mirror_next < from ? s->mirror_next : from;
}

void mirror_fini(struct device_session *s)
{
    const struct device_shared *g = s->g->shared;
    mirror_drop(s, 0);
    for (size_t i = 0; i < s->n_mirrors; i++)
        g->ops->release_host(g->device, s->mirrors[i]);
    free(s->mirrors);
    s->mirrors = NULL;
}

int device_session_stored(const struct device_session *s, size_t b)
{
    return b < s->n_blocks && s->blocks[b].stored;
}

int device_session_borrow_block(struct device_session *s, size_t b, const uint8_t **data, struct err *e)
{
    const struct device_shared *g = s->g->shared;
    *data = NULL;
    if (b >= s->position / BLOCK_TOKENS)
        return err_set(e, ERR_USAGE, "block %zu is not whole", b);
    s->mirroring = 1;
    int rc = mirror_finished(s, b, e);
    if (!rc) /* in order, so this one is there when all are; those behind it are wanted next */
        rc = g->ops->sync(g->device, DEVICE_COPY_OUT, e);
    if (!rc)
        *data = s->blocks[b].host ? s->blocks[b].host : s->blocks[b].mirror;
    return rc;
}

void device_session_give_back(struct device_session *s, size_t b, const uint8_t *data, int stored)
{
    if (b >= s->n_blocks || !data || (data != s->blocks[b].host && data != s->blocks[b].mirror))
        return;
    if (b < s->position / BLOCK_TOKENS && stored)
        s->blocks[b].stored = 1;
    if (stored)
        drop(s, b);
}
