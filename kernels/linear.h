/* SPDX-License-Identifier: Apache-2.0 */
/* linear.h - what a backend supplies to the shared driver of linear (linear.c), known to kernels/ alone.
 *
 * The driver lays out the scratch, quantises x once for all outputs, and cuts the work into tasks of
 * (token range) x (pairs of panels). A backend's tile functions must give each output the value of this
 * formula, whatever the ranges:
 *
 *   quantised   acc = 0; for b ascending: acc = fma((float)(sum(code * q) - offset * sum(q)), scale * d,
 * acc); with a min: acc = fma(min, s, acc) float       acc = 0; for k ascending: acc = fma(x[k], w[k], acc)
 *   then        y = acc (+ bias), or y = y + (acc (+ bias))
 */
#ifndef LECTERN_KERNELS_LINEAR_H
#define LECTERN_KERNELS_LINEAR_H

#include "kernels/weight.h"

/* Activations are taken as whole numbers q of 15 bits with sign, |q| <= ACT_MAX, a scale for each block of
 * 32: q = 128 * high + low, high in -127..127 and low in -64..63, so that two rounds of 8-bit products give
 * the exact 16-bit one. With 8 bits alone (as llama.cpp has them) the noise of the activations outweighs that
 * of 4-bit weights. */
enum { ACT_MAX = 127 * 128 };

/* What is known of one block of 32 activations beside its codes. */
struct act_block {
    float d;      /* scale */
    float s;      /* d * sum */
    int32_t sum;  /* of the q */
    int32_t zero; /* pads to 16 bytes */
};

struct acts {
    int8_t *codes;           /* [T][2][K]: high, then low */
    struct act_block *block; /* [T][K/32] */
    size_t K;
};

/* Rows [t0, t1) of y, panels [panel0, panel1), at most two of them. */
struct linear_tile {
    const struct linear_out *out;
    size_t panel0, panel1;
    size_t t0, t1;
    const struct acts *acts; /* quantised */
    const float *x;          /* float: [T][ldx] */
    size_t ldx;
    uint8_t *expanded; /* this thread's room for two panels of 8-bit lines: 32 * K bytes, 64-byte aligned */
};

struct linear_isa {
    void (*quantise)(const float *x, size_t K, int8_t *codes, struct act_block *block); /* one row */
    void (*tile_quantised)(const struct linear_tile *t);
    void (*tile_float)(const struct linear_tile *t);
};

void linear_run(const struct linear_isa *isa, const struct linear_args *a);

/* lora as two linears of the same backend. */
void lora_run(void (*linear)(const struct linear_args *a), const struct lora_args *a);

/* The block's scale by its largest magnitude, and the factor to the codes (0 when all codes are 0). amax is
 * NaN or infinite when any value was; then d is NaN. Blocks below 1e-30 count as zero. */
struct act_scale {
    float d, inverse;
};
struct act_scale act_scale_of(float amax);

#endif
