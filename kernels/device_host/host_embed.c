/* SPDX-License-Identifier: Apache-2.0 */
/* host_embed.c - rows of a raw table by token id: the CPU reference does the decoding. */
#include "kernels/device_host/device_host.h"

#include "kernels/ref/ref.h"

static void run(struct device *d, const void *args)
{
    const struct device_embed_args *a = args;
    for (size_t t = 0; t < a->T; t++)
        if (a->ids[t] >= a->V) {
            host_keep(d, ERR_USAGE, "embed: an id is not below V");
            return;
        }
    ref_embed(&(struct embed_args){
        .type = a->type, .raw = a->raw, .C = a->C, .ids = a->ids, .T = a->T, .y = a->y, .ldy = a->ldy});
}

void host_embed(struct device *d, const struct device_embed_args *a)
{
    if (!tensor_row_bytes(a->type, a->C) || a->T > DEVICE_CHUNK_T || a->ldy < a->C) {
        host_keep(d, ERR_USAGE, "embed: a shape that it does not take");
        return;
    }
    host_run(d, run, a, sizeof *a);
}
