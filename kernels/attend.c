/* SPDX-License-Identifier: Apache-2.0 */
/* attend.c - what all backends' attend share: visibility, scratch, and the sum of shares. */
#include "kernels/attend.h"

#include <assert.h>

static uint64_t bits_below(size_t n)
{
    return n >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1;
}

/* Bits of the rows whose position is below `position`. */
static uint64_t rows_below(size_t base, size_t position)
{
    return position > base ? bits_below(position - base) : 0;
}

uint64_t attend_mask(const struct attend_args *a, const struct attend_block *b, size_t p)
{
    uint64_t usable = bits_below((size_t)b->hi) & ~bits_below((size_t)b->lo);
    uint64_t seen = rows_below(b->base, p + 1);
    if (a->streaming) {
        size_t first_recent = p + 1 > a->R ? p + 1 - a->R : 0; /* q - k < R */
        seen &= ~rows_below(b->base, first_recent) | rows_below(b->base, a->S);
    }
    return usable & seen;
}

static size_t round64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

size_t attend_scratch_bytes(size_t T, size_t G, size_t D, size_t n_blocks_with_mass)
{
    size_t rows = T * G;
    return 2 * KV_PAGE_TOKENS * D * sizeof(float) + 2 * round64(rows * sizeof(float)) +
           round64(rows * sizeof(uint64_t)) +
           round64(rows * n_blocks_with_mass * sizeof(struct attend_share));
}

struct attend_room attend_carve(const struct attend_args *a)
{
    size_t rows = a->T * a->G;
    assert(a->T >= 1 && a->T <= KV_PAGE_TOKENS && a->D % 8 == 0 && a->D <= HEAD_DIM_MAX);
    assert(a->pos0 / KV_PAGE_TOKENS == (a->pos0 + a->T - 1) / KV_PAGE_TOKENS);
    assert(a->scratch_bytes >= attend_scratch_bytes(a->T, a->G, a->D, a->mass ? a->n_blocks : 0));
    assert(((uintptr_t)a->scratch & 63) == 0);
    struct attend_room room = {0};
    uint8_t *at = a->scratch;
    room.k = (float *)(void *)at;
    at += KV_PAGE_TOKENS * a->D * sizeof(float);
    room.v = (float *)(void *)at;
    at += KV_PAGE_TOKENS * a->D * sizeof(float);
    room.m = (float *)(void *)at;
    at += round64(rows * sizeof(float));
    room.l = (float *)(void *)at;
    at += round64(rows * sizeof(float));
    room.masks = (uint64_t *)(void *)at;
    at += round64(rows * sizeof(uint64_t));
    if (a->mass)
        room.shares = (struct attend_share *)(void *)at;
    return room;
}

void attend_add_mass(const struct attend_args *a, const struct attend_room *room, float (*exponential)(float))
{
    size_t rows = a->T * a->G;
    for (size_t b = 0; b < a->n_blocks; b++)
        for (size_t r = 0; r < rows; r++) {
            struct attend_share s = room->shares[b * rows + r];
            if (s.sum > 0)
                a->mass[b] += s.sum * exponential(s.max - room->m[r]) / room->l[r];
        }
}
