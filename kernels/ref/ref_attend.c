/* SPDX-License-Identifier: Apache-2.0 */
/* ref_attend.c - attention over blocks in plain C: the specification. One row at a time inside a block, all
 * sums ascending, the running maximum of "online softmax". */
#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

#include "kernels/attend.h"
#include "kernels/half.h"

/* k, v [64][D]; rows outside [lo, hi) of a raw block are not read. */
static void load_block(const struct attend_block *b, size_t D, float *k, float *v)
{
    if (b->format != KV_RAW) {
        ref_kv_page_unpack(
            &(struct kv_page_unpack_args){.record = b->data, .format = b->format, .D = D, .k = k, .v = v});
        return;
    }
    const uint16_t *raw = b->data;
    for (size_t i = (size_t)b->lo * D; i < (size_t)b->hi * D; i++) {
        k[i] = half_to_float(raw[i]);
        v[i] = half_to_float(raw[KV_PAGE_TOKENS * D + i]);
    }
}

static struct attend_share attend_row(const struct attend_args *a, const struct attend_room *room, size_t row,
                                      uint64_t mask)
{
    size_t D = a->D, t = row / a->G, g = row % a->G;
    const float *q = a->q + t * a->ldq + g * D;
    float *out = a->out + t * a->ldout + g * D;
    float score[KV_PAGE_TOKENS], m = room->m[row], sum = 0;
    for (size_t i = 0; i < KV_PAGE_TOKENS; i++) {
        if (!(mask >> i & 1))
            continue;
        float s = 0;
        for (size_t d = 0; d < D; d++)
            s = fmaf(q[d], room->k[i * D + d], s);
        score[i] = s * a->scale;
        m = score[i] > m ? score[i] : m;
    }
    float factor = room->m[row] == m ? 1 : expf(room->m[row] - m);
    for (size_t d = 0; d < D; d++)
        out[d] *= factor;
    for (size_t i = 0; i < KV_PAGE_TOKENS; i++) {
        if (!(mask >> i & 1))
            continue;
        float p = expf(score[i] - m);
        sum += p;
        for (size_t d = 0; d < D; d++)
            out[d] = fmaf(p, room->v[i * D + d], out[d]);
    }
    room->l[row] = room->l[row] * factor + sum;
    room->m[row] = m;
    return (struct attend_share){.sum = sum, .max = m};
}

static void start(const struct attend_args *a, const struct attend_room *room)
{
    for (size_t row = 0; row < a->T * a->G; row++) {
        room->m[row] = -INFINITY;
        room->l[row] = 0;
        memset(a->out + row / a->G * a->ldout + row % a->G * a->D, 0, a->D * sizeof(float));
    }
}

void ref_attend(const struct attend_args *a)
{
    struct attend_room room = attend_carve(a);
    size_t rows = a->T * a->G;
    start(a, &room);
    for (size_t b = 0; b < a->n_blocks; b++) {
        uint64_t any = 0;
        for (size_t row = 0; row < rows; row++) {
            room.masks[row] = attend_mask(a, &a->blocks[b], a->pos0 + row / a->G);
            any |= room.masks[row];
        }
        if (any)
            load_block(&a->blocks[b], a->D, room.k, room.v);
        for (size_t row = 0; row < rows; row++) {
            struct attend_share share = {0};
            if (room.masks[row])
                share = attend_row(a, &room, row, room.masks[row]);
            if (room.shares)
                room.shares[b * rows + row] = share;
        }
    }
    for (size_t row = 0; row < rows; row++) {
        float *out = a->out + row / a->G * a->ldout + row % a->G * a->D, l = room.l[row];
        for (size_t d = 0; l > 0 && d < a->D; d++)
            out[d] = out[d] / l + 0.0f; /* never -0 */
    }
    if (a->mass)
        attend_add_mass(a, &room, expf);
}
