/* SPDX-License-Identifier: Apache-2.0 */
/* bench_report.h - what `lectern bench store` found, as a table and as JSON. */
#ifndef LECTERN_APP_BENCH_REPORT_H
#define LECTERN_APP_BENCH_REPORT_H

#include <jansson.h>

#include "app/bench_disk.h"
#include "app/bench_store.h"
#include "engine/base/buf.h"

enum { BENCH_STAGES = 3 };

struct bench_result {
    struct bench_shape shape;
    struct bench_disk disk;
    struct bench_stage stages[BENCH_STAGES];
    int n_stages;
    uint64_t wanted, tokens; /* asked for, and what the free disk lets be measured */
    uint64_t free_bytes;     /* before */
    double delete_seconds;
    uint64_t deleted_left; /* bytes still on the disk after the session was deleted */
};

void bench_report_text(const struct bench_result *r, struct buf *out);
json_t *bench_report_json(const struct bench_result *r); /* NULL: out of memory */

#endif
