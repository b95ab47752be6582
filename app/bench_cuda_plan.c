/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cuda_plan.c - the table of what is measured, and which of it was asked for.
 *
 * Full attention (raw KV, all heads) comes before what it is compared with. The seconds are for an H100.
 */
#include "app/bench_cuda.h"

#include <stdio.h>
#include <string.h>

enum { K = 1024, M = 1024 * 1024 };
#define MILLIONS_3_3 UINT64_C(3300352) /* 3.3 million in whole blocks */

static const struct card_plan plans[] = {
    {CARD_DECODE, "w8", KV_RAW, 1, {16 * K, 64 * K, 128 * K, 320 * K, 480 * K}, 0, 5, 0},
    {CARD_DECODE, "w8", KV_4, -1, {8 * K, 16 * K, 64 * K, 128 * K, 320 * K, M, MILLIONS_3_3}, 0, 6, 0},
    {CARD_DECODE, "w4", KV_RAW, 1, {128 * K, 320 * K}, 0, 3, 1},
    {CARD_DECODE, "w4", KV_4, -1, {8 * K, 128 * K, M, MILLIONS_3_3}, 0, 5, 0},
    {CARD_DECODE, "w8", KV_8, 1, {128 * K}, 0, 2, 0},
    {CARD_DECODE, "w8", KV_8, -1, {128 * K, M}, 0, 3, 1},
    {CARD_DECODE, "w8", KV_4, 1, {128 * K, M}, 0, 3, 1},
    {CARD_DECODE, "w8", KV_RAW, -1, {128 * K, 320 * K}, 0, 3, 0},
    {CARD_DECODE, "w8", KV_K8V4, -1, {128 * K, M}, 0, 3, 1},
    {CARD_DECODE, "f16", KV_RAW, 1, {128 * K, 320 * K}, 0, 3, 0},
    {CARD_DECODE, "f16", KV_RAW, -1, {128 * K, 320 * K}, 0, 3, 0},
    {CARD_DECODE, "fp8", KV_4, -1, {128 * K, M}, 0, 3, 1},
    {CARD_DECODE, "w8", KV_4, -0.5, {128 * K, M, MILLIONS_3_3}, 0, 4, 1},
    {CARD_ATTENTION, "", KV_4, -1, {128 * K, M}, 0, 2, 1},
    {CARD_ATTENTION, "", KV_8, -1, {128 * K, M}, 0, 2, 1},
    {CARD_ATTENTION, "", KV_K8V4, -1, {128 * K, M}, 0, 2, 1},
    {CARD_ATTENTION, "", KV_RAW, -1, {128 * K, 480 * K}, 0, 2, 1},
    {CARD_ATTENTION, "", KV_8, 1, {128 * K}, 0, 2, 1},
    {CARD_LINEAR, "w8", 0, 1, {0}, 0, 2, 0},
    {CARD_LINEAR, "w4", 0, 1, {0}, 0, 2, 0},
    {CARD_LINEAR, "f16", 0, 1, {0}, 0, 2, 1},
    {CARD_LINEAR, "bf16", 0, 1, {0}, 0, 2, 1},
    {CARD_LINEAR, "fp8", 0, 1, {0}, 0, 2, 1},
    {CARD_PREFILL_ATTENTION, "", KV_4, 1, {16 * K, 128 * K, M}, 0, 4, 1},
    {CARD_PREFILL_ATTENTION, "", KV_8, 1, {128 * K}, 0, 1, 1},
    {CARD_PREFILL_ATTENTION, "", KV_RAW, 1, {128 * K}, 0, 1, 1},
    {CARD_PREFILL, "w8", KV_RAW, 1, {128 * K}, 0, 14, 0},
    {CARD_PREFILL, "w8", KV_4, -1, {8 * K, 32 * K, 128 * K}, 0, 9, 0},
    {CARD_PREFILL, "fp8", KV_4, -1, {8 * K, 32 * K, 128 * K}, 0, 7, 1},
    {CARD_PREFILL, "f16", KV_RAW, 1, {128 * K}, 0, 14, 1},
    {CARD_PREFILL, "f16", KV_RAW, -1, {128 * K}, 0, 9, 1},
    {CARD_CAPACITY, "w8", KV_4, -1, {0}, 0, 2, 0},
    {CARD_CAPACITY, "w4", KV_4, -1, {0}, 0, 2, 0},
    {CARD_CAPACITY, "w8", KV_4, -0.5, {0}, 0, 3, 1},
    {CARD_CAPACITY, "w4", KV_4, -0.5, {0}, 0, 3, 1},
    {CARD_CAPACITY, "w8", KV_RAW, 1, {0}, 0, 2, 0},
    {CARD_VERIFY, "w8", KV_4, -1, {128 * K, M}, 0, 4, 1},
    {CARD_SELECTION, "w8", KV_4, -1, {M, MILLIONS_3_3}, 0, 5, 1},
    {CARD_ENGINE, "w8", KV_4, -1, {128 * K}, 0, 10, 1},
    {CARD_RESTORE, "w8", KV_4, -1, {M}, 0, 8, 1},
    {CARD_PREFILL, "w8", KV_RAW, 1, {128 * K, 320 * K}, 1, 70, 1},
    {CARD_PREFILL, "w8", KV_4, -1, {128 * K, 320 * K}, 1, 40, 1},
    {CARD_PREFILL, "w8", KV_4, -1, {128 * K, 320 * K, 512 * K, M}, 2, 300, 1},
    {CARD_PREFILL, "fp8", KV_4, -1, {128 * K, 320 * K, 512 * K, M}, 2, 280, 1},
};

const struct card_plan *card_plans(size_t *n)
{
    *n = sizeof plans / sizeof plans[0];
    return plans;
}

const char *card_work_name(enum card_work w)
{
    static const char *const names[CARD_WORKS] = {
        [CARD_LIMITS] = "limits",       [CARD_DECODE] = "decode",
        [CARD_ATTENTION] = "attention", [CARD_LINEAR] = "linear",
        [CARD_PREFILL] = "prefill",     [CARD_PREFILL_ATTENTION] = "prefill-attention",
        [CARD_CAPACITY] = "capacity",   [CARD_VERIFY] = "verify",
        [CARD_SELECTION] = "selection", [CARD_RESTORE] = "restore",
        [CARD_ENGINE] = "engine",
    };
    return names[w];
}

static const char *share_name(const struct card_plan *p, const struct card_shape *s)
{
    double share = p->share < 0 ? -p->share * s->share : p->share;
    return share >= 1 ? "all" : share >= 0.5 ? "half" : share >= 0.25 ? "quarter" : "eighth";
}

void card_plan_name(const struct card_plan *p, const struct card_shape *s, char out[48])
{
    const char *kv = kv_format_name(p->kv);
    snprintf(out, 48, "%s%s%s%s%s%s%s%s", card_work_name(p->work), *p->weights ? "." : "", p->weights,
             kv ? "." : "", kv ? kv : "", kv ? "." : "", kv ? share_name(p, s) : "",
             p->minutes ? p->minutes > 1 ? ".1m" : ".320k" : "");
}

/* `rows` is a list of names, each a whole word of a plan's name or more words from its beginning: "decode",
 * "decode.w8"; "decode" is no beginning of "decoder", nor "prefill" of "prefill-attention". */
static int named(const char *rows, const char *name, int *in_full)
{
    *in_full = 0;
    for (const char *at = rows; *at;) {
        size_t n = strcspn(at, ",");
        if (n && !strncmp(at, name, n) && (!name[n] || name[n] == '.')) {
            *in_full = !name[n];
            return 1;
        }
        at += n + (at[n] == ',');
    }
    return 0;
}

int card_plan_wanted(const struct card_plan *p, const struct card_options *o)
{
    char name[48];
    int in_full = 0;
    card_plan_name(p, o->shape, name);
    if (o->rows && !named(o->rows, name, &in_full))
        return 0;
    if (in_full)
        return 1;
    if (p->minutes > o->minutes)
        return 0;
    return !p->main_shape || !strcmp(o->shape->name, "llama-3-8b");
}
