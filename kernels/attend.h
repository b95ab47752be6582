/* SPDX-License-Identifier: Apache-2.0 */
/* attend.h - the rule of visibility as a bit mask, and the scratch of attend; kernels/ alone. */
#ifndef LECTERN_KERNELS_ATTEND_H
#define LECTERN_KERNELS_ATTEND_H

#include "kernels/page.h"

/* Bit i: the query at position p sees row i of the block. */
uint64_t attend_mask(const struct attend_args *a, const struct attend_block *b, size_t p);

/* One (row, block) of the softmax, kept when mass is wanted. */
struct attend_share {
    float sum, max; /* sum of exp(score - max) over the block; max is the running one at that time */
};

/* Scratch: k [D][64] | v [64][D] | m, l, factor [rows] | masks [rows] | shares [n_blocks][rows].
 * (ref uses k as [64][D].) */
struct attend_room {
    float *k, *v;
    float *m, *l;
    uint64_t *masks;
    struct attend_share *shares; /* NULL without mass */
};
struct attend_room attend_carve(const struct attend_args *a);

/* Adds the shares to a->mass; room->m and l are final. expf gives the backend's exponential. */
void attend_add_mass(const struct attend_args *a, const struct attend_room *room,
                     float (*exponential)(float));

#endif
