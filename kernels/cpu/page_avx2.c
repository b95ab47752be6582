/* SPDX-License-Identifier: Apache-2.0 */
/* page_avx2.c - page_body.h for AVX2, FMA and F16C. */
#if defined(__x86_64__)
#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/page_body.h"
#endif
