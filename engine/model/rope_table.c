/* SPDX-License-Identifier: Apache-2.0 */
/* rope_table.c - frequencies of rotary position embedding and of the four ways to stretch them.
 *
 * n rotated dimensions, pair i of n/2, freq_i = base^(-2i/n) radians per token. Sources: RoFormer
 * (2104.09864), linear interpolation (2306.15595), YaRN (2309.00071; the ramp is taken over the dimension
 * index, as in the public implementations), Llama 3.1's piecewise scaling by wavelength.
 */
#include "engine/model/rope_table.h"

#include <math.h>

#define TWO_PI 6.283185307179586476925286766559

/* Dimension pair whose wavelength fits `rotations` times into the original context. */
static double yarn_pair(const struct model_rope *r, double base, double rotations)
{
    return (double)r->dims * log(r->original_context / (rotations * TWO_PI)) / (2 * log(base));
}

static double yarn_frequency(const struct model_rope *r, double base, double freq, size_t i)
{
    double low = fmax(0, floor(yarn_pair(r, base, r->beta_fast)));
    double high = fmin((double)r->dims - 1, ceil(yarn_pair(r, base, r->beta_slow)));
    double y = ((double)i - low) / fmax(0.001, high - low);
    double keep = 1 - fmin(1, fmax(0, y)); /* 1: extrapolate (fast pairs), 0: interpolate (slow pairs) */
    return freq / r->scale * (1 - keep) + freq * keep;
}

static double llama3_frequency(const struct model_rope *r, double freq)
{
    double turns = r->original_context * freq / TWO_PI; /* rotations within the original context */
    if (turns > r->high_freq_factor)
        return freq;
    if (turns < r->low_freq_factor)
        return freq / r->scale;
    double smooth = (turns - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
    return (1 - smooth) * freq / r->scale + smooth * freq;
}

double rope_frequency(const struct model_rope *r, double base, size_t i)
{
    double n = (double)r->dims;
    if (r->scaling == MODEL_SCALING_NTK && r->dims > 2)
        base *= pow(r->scale, n / (n - 2));
    double freq = pow(base, -2 * (double)i / n);
    if (r->factors)
        freq /= (double)r->factors[i];
    switch (r->scaling) {
    case MODEL_SCALING_LINEAR:
        return freq / r->scale;
    case MODEL_SCALING_YARN:
        return yarn_frequency(r, base, freq, i);
    case MODEL_SCALING_LLAMA3:
        return llama3_frequency(r, freq);
    case MODEL_SCALING_NONE:
    case MODEL_SCALING_NTK:
        break;
    }
    return freq;
}

static int bad_scaling(const struct model_rope *r)
{
    if (r->scaling != MODEL_SCALING_NONE && !(r->scale > 0 && r->scale < 1e9))
        return 1;
    if (r->scaling == MODEL_SCALING_YARN)
        return !(r->scale >= 1) || !(r->original_context >= 1) || !(r->beta_fast > 0) ||
               !(r->beta_slow > 0) || !(r->attn_factor >= 0);
    if (r->scaling == MODEL_SCALING_LLAMA3)
        return !(r->original_context >= 1) || !(r->low_freq_factor > 0) ||
               !(r->high_freq_factor > r->low_freq_factor);
    return 0;
}

int rope_table_make(const struct model_rope *rope, double base_override, struct rope_table *out,
                    struct err *e)
{
    *out = (struct rope_table){.kind = rope->kind, .pairs = rope->dims / 2, .attn_factor = 1};
    double base = base_override > 0 ? base_override : rope->base;
    if (!(base > 1 && base < 1e18) || rope->dims < 2 || rope->dims % 2 || out->pairs > ROPE_MAX_PAIRS ||
        bad_scaling(rope))
        return err_set(e, ERR_FORMAT, "RoPE parameters make no rotation (base %g, %zu dimensions, scale %g)",
                       base, rope->dims, rope->scale);
    if (rope->scaling == MODEL_SCALING_YARN) {
        double own = 1 + 0.1 * log(rope->scale);
        out->attn_factor = (float)(own * (rope->attn_factor > 0 ? rope->attn_factor : 1));
    }
    for (size_t i = 0; i < out->pairs; i++) {
        double turns = rope_frequency(rope, base, i) / TWO_PI;
        /* A turn or more per token would alias; NaN fails the test too. */
        if (!(turns > 0 && turns < 1))
            return err_set(e, ERR_FORMAT, "RoPE pair %zu turns by %g per token", i, turns);
        double scaled = nearbyint(ldexp(turns, 64));
        out->steps[i] = scaled >= 0x1p64 ? UINT64_MAX : (uint64_t)scaled;
    }
    return 0;
}
