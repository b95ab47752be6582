/* SPDX-License-Identifier: Apache-2.0 */
/* device_lab.h - small models whose heads a card's kernels have, engines on either side, and comparisons of
 * logits, for tests of sessions on devices. Failures fail the running test. */
#ifndef LECTERN_TESTS_SUPPORT_DEVICE_LAB_H
#define LECTERN_TESTS_SUPPORT_DEVICE_LAB_H

#include "engine/session.h"
#include "tests/support/session_fixture.h"

/* One a program. */
struct device_lab {
    struct lab lab;
    char *model, *model_q4, *model_bias; /* F32; Q4_1; Q8_0 with biases and an output matrix of its own */
    int has[2];                          /* the devices of device_names */
};
extern struct device_lab device_lab;
extern const char *const device_names[2]; /* "host", "cuda" */

/* For cmocka's group: says which device is left out; the host must be there. */
int device_lab_setup(void **state);
int device_lab_teardown(void **state);

/* device NULL: the processor. Passes of 512 tokens. */
struct engine *device_lab_engine(const char *device, const char *path, double sparsity, int format);

float *device_lab_logits(const struct session *s, const struct engine *g); /* a copy, the caller frees */

/* Difference by the spread of the wanted ones; NaN when either has one. */
double device_lab_distance(const float *want, const float *got, size_t V);
void device_lab_close(const float *want, const struct session *s, const struct engine *g, double bound,
                      const char *what, size_t at);
void device_lab_same(const float *want, const struct session *s, const struct engine *g);

/* How far the two sides may be apart: fp16 between the layers moves a code of a 4-bit page now and then. */
double device_lab_bound(int format);

#endif
