/* SPDX-License-Identifier: Apache-2.0 */
/* misc_avx512.c - misc_body.h for AVX-512 (F, BW, VL, DQ). */
#if defined(__x86_64__)
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/misc_body.h"
#endif
