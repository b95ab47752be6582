/* SPDX-License-Identifier: Apache-2.0 */
/* page_avx512.c - page_body.h for AVX-512 F, BW, VL and DQ. */
#if defined(__x86_64__)
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/page_body.h"
#endif
