/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cuda.h - what `lectern bench cuda` measures: a model of a shape with made-up weights on a card, run
 * over the ops of kernels/device.h as the engine runs them.
 *
 * A plan is one setting (weights, KV format, share of retrieval heads) with its contexts; it gives rows.
 * Plans run in a child process that is started anew after a failure, so that a plan that fails or hangs loses
 * nobody else's rows. Every row is handed over when it is known. Nothing is projected: a number was measured,
 * or the row says why not.
 */
#ifndef LECTERN_APP_BENCH_CUDA_H
#define LECTERN_APP_BENCH_CUDA_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "engine/base/err.h"
#include "kernels/device.h"

/* Letters as in device.h. */
struct card_shape {
    const char *name;
    size_t L, H, HK, D, C, F, V;
    double rope_base;
    int halves;   /* RoPE rotates halves of a head, not pairs */
    int qkv_bias; /* q, k and v have a bias */
    double share; /* of KV heads that retrieve under DuoAttention */
    int g32;      /* rows are no multiple of 128: quantised in groups of 32 */
};
const struct card_shape *card_shapes(size_t *n);
const struct card_shape *card_shape_find(const char *name); /* NULL: there is none */

/* Retrieval heads of layer l when a share of all heads retrieves: as in the shape's own pattern, else spread
 * evenly over the layers. */
size_t card_shape_retrieval(const struct card_shape *s, double share, size_t l);

/* Multiply-adds * 2 of a token's matrix products, without the output matrix; and of attention of T tokens
 * from pos0 on. */
double card_shape_flops(const struct card_shape *s);
double card_attention_flops(const struct card_shape *s, double share, uint64_t pos0, uint64_t T);

enum card_work {
    CARD_LIMITS,
    CARD_DECODE,
    CARD_ATTENTION,
    CARD_LINEAR,
    CARD_PREFILL,
    CARD_PREFILL_ATTENTION,
    CARD_CAPACITY,
    CARD_VERIFY,
    CARD_SELECTION,
    CARD_RESTORE,
    CARD_ENGINE,
    CARD_WORKS
};

enum { CARD_CONTEXTS = 8, CARD_LIMIT_KINDS = 7, CARD_PLANS = 64 };

struct card_plan {
    enum card_work work;
    const char *weights;              /* "w8", "w4", "f16", "bf16", "fp8" */
    int kv;                           /* enum kv_format */
    double share;                     /* of retrieval heads: 1 all; negative: the shape's own, times -share */
    uint64_t contexts[CARD_CONTEXTS]; /* ascending, 0 ends; capacity: at most so many */
    int minutes;                      /* only with options.minutes */
    double seconds;                   /* what it takes on an H100 at Llama-3-8B's shape, about */
    int main_shape;                   /* only for Llama-3-8B, unless named in full */
};

/* One result; plain data, it goes through a pipe. */
struct card_row {
    char work[24], shape[24], weights[8], kv[8], heads[12];
    char plan[48];
    uint64_t context;
    uint32_t T;             /* tokens of a step or a chunk */
    uint32_t n;             /* measurements */
    double ms, low, high;   /* median, 10 % and 90 % */
    double device_ms;       /* of a step queued without waiting; 0: not measured */
    double bytes, flops;    /* moved and computed in that time */
    double limit;           /* bytes or FLOP a second that the card was measured to do; 0: none */
    double tokens_a_second; /* 0: no such thing */
    double memory;          /* bytes taken on the card: weights, KV and scratch */
    double value;           /* selection: visited share; 0 else */
    int failed;             /* note says why */
    char note[160];
};

struct card_options {
    const char *device;  /* "cuda", or "host" in tests */
    const char *library; /* NULL: searched */
    const char *rows;    /* comma-separated beginnings of plan names, NULL: all */
    const struct card_shape *shape;
    int minutes;
    size_t chunk; /* tokens of a prefill chunk; 0: DEVICE_CHUNK_T */
    struct cancel *cancel;
    const struct card_plan *plans; /* [n_plans], or NULL: card_plans() */
    size_t n_plans;
};

struct card_result {
    struct device_info info;
    double limits[CARD_LIMIT_KINDS]; /* by enum device_limit; 0: not measured */
    struct card_row *rows;           /* [n_rows], owned */
    size_t n_rows, cap_rows;
    double seconds; /* of the whole */
};

const struct card_plan *card_plans(size_t *n);
void card_plan_name(const struct card_plan *p, const struct card_shape *s, char out[48]);
int card_plan_wanted(const struct card_plan *p, const struct card_options *o);
const char *card_work_name(enum card_work w);

/* Runs the plans that the options name. `put` is called for every row as it comes, in order. ERR_UNSUPPORTED
 * when there is no card. A row that failed is no failure of the run. */
struct card_listener {
    void (*limits)(void *arg, const struct card_result *r); /* when they are known */
    void (*row)(void *arg, const struct card_result *r, const struct card_row *row);
    void *arg;
};
int card_bench_run(const struct card_options *o, const struct card_listener *listener, struct card_result *r,
                   struct err *e);
void card_result_fini(struct card_result *r);

/* ---- inside a run (bench_cuda_measure.c) -------------------------------------------------------------- */

struct card_run {
    struct device *d;
    const char *device, *library; /* as it was opened */
    const struct card_shape *shape;
    size_t chunk;
    const double *limits; /* [CARD_LIMIT_KINDS] */
    void (*emit)(struct card_run *run, const struct card_row *row);
    void *arg;
};
int card_measure(struct card_run *run, const struct card_plan *p, struct err *e);
int card_measure_limits(struct device *d, double limits[CARD_LIMIT_KINDS], struct err *e);

/* ---- text (bench_cuda_report.c) ----------------------------------------------------------------------- */

/* The same work with all heads retrieving and raw KV, measured already, or NULL. */
const struct card_row *card_full(const struct card_result *r, const struct card_row *row);

void card_text_head(const struct card_result *r, const char *date, struct buf *out);
void card_text_columns(struct buf *out);
void card_text_row(const struct card_result *r, const struct card_row *row, struct buf *out);
void card_text_others(const struct card_result *r, struct buf *out); /* llama.cpp and the paper, cited */
void card_csv(const struct card_result *r, const char *date, struct buf *out);
void card_svg(const struct card_result *r, const char *date, struct buf *out);
const char *card_commit(void); /* of the build, or "unknown" */

#endif
