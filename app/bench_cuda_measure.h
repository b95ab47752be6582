/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cuda_measure.h - what the measures share: rows, samples, timing on the device, what fits. */
#ifndef LECTERN_APP_BENCH_CUDA_MEASURE_H
#define LECTERN_APP_BENCH_CUDA_MEASURE_H

#include "app/bench_cuda_model.h"

enum { CARD_SAMPLES = 64 };

struct card_samples {
    double ms[CARD_SAMPLES];
    uint32_t n;
};
void card_sample(struct card_samples *s, double ms); /* beyond CARD_SAMPLES: dropped */
void card_row_samples(struct card_row *row, struct card_samples *s);

double card_plan_share(const struct card_plan *p, const struct card_shape *s);
/* A row of the plan with nothing measured yet. */
void card_row_begin(struct card_row *row, const struct card_run *run, const struct card_plan *p,
                    uint64_t context);
void card_row_fail(struct card_run *run, struct card_row *row, const struct err *e);

/* The longest of the plan's contexts that fits, with rows for those that do not; 0: none. `weights` bytes are
 * to come, `extra` besides. */
uint64_t card_longest(struct card_run *run, const struct card_plan *p, const struct card_model *m,
                      uint64_t weights, uint64_t extra);

/* Captures what `queue` queues. */
struct card_capture {
    void (*queue)(struct card_model *m, const void *arg);
    const void *arg;
};
int card_capture(struct card_model *m, struct card_capture what, struct device_graph **out, struct err *e);

/* `n` launches of the graph after `warm` ones, each between two events. */
int card_time_graph(struct card_model *m, struct device_graph *g, uint32_t warm, uint32_t n,
                    struct card_samples *out, struct err *e);

/* One measure of each kind of work. Failures of single contexts become rows; the rest comes back. */
int card_measure_decode(struct card_run *run, const struct card_plan *p, struct err *e);
int card_measure_attention(struct card_run *run, const struct card_plan *p, struct err *e);
int card_measure_linear(struct card_run *run, const struct card_plan *p, struct err *e);
int card_measure_verify(struct card_run *run, const struct card_plan *p, struct err *e);
int card_measure_selection(struct card_run *run, const struct card_plan *p, struct err *e);
int card_measure_prefill(struct card_run *run, const struct card_plan *p, struct err *e);
int card_measure_prefill_attention(struct card_run *run, const struct card_plan *p, struct err *e);
int card_measure_capacity(struct card_run *run, const struct card_plan *p, struct err *e);
int card_measure_promise(struct card_run *run, const struct card_plan *p, struct err *e); /* of capacity */
int card_measure_restore(struct card_run *run, const struct card_plan *p, struct err *e);
int card_measure_engine(struct card_run *run, const struct card_plan *p, struct err *e);

/* Wall-clock ms of `n` steps from `position` on, each waited for as an answer's tokens are, after `warm`. */
int card_time_steps(struct card_model *m, struct device_graph *g, uint64_t position, uint32_t T,
                    struct card_samples *out, struct err *e);

#endif
