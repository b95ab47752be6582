/* SPDX-License-Identifier: Apache-2.0 */
/* attend_avx2.c - attend_body.h for AVX2, FMA and F16C. */
#if defined(__x86_64__)
#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/attend_body.h"
#endif
