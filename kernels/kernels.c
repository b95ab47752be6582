/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.c - the table of backends. A fast table takes the plain op where there is nothing to gain. */
#include "kernels/kernels.h"

#include <string.h>

#include "kernels/ref/ref.h"
#if defined(__x86_64__)
#include "kernels/cpu/cpu.h"
#endif

static const struct kernels backend_ref = {
    .name = "ref",
    .linear = ref_linear,
    .lora = ref_lora,
    .rms_norm = ref_rms_norm,
    .silu_mul = ref_silu_mul,
    .add = ref_add,
    .embed = ref_embed,
    .rope_table = ref_rope_table,
    .rope_apply = ref_rope_apply,
    .half_encode = ref_half_encode,
    .half_decode = ref_half_decode,
    .kv_page_pack = ref_kv_page_pack,
    .kv_page_unpack = ref_kv_page_unpack,
    .attend = ref_attend,
};

#if defined(__x86_64__)

static const struct kernels backend_avx2 = {
    .name = "avx2",
    .linear = linear_avx2,
    .lora = lora_avx2,
    .rms_norm = rms_norm_avx2,
    .silu_mul = silu_mul_avx2,
    .add = ref_add,
    .embed = ref_embed,
    .rope_table = ref_rope_table,
    .rope_apply = rope_apply_avx2,
    .half_encode = half_encode_avx2,
    .half_decode = half_decode_avx2,
    .kv_page_pack = kv_page_pack_avx2,
    .kv_page_unpack = ref_kv_page_unpack,
    .attend = attend_avx2,
};

static const struct kernels backend_avx512 = {
    .name = "avx512",
    .linear = linear_avx2, /* without VNNI wider vectors gain little on the integer dots */
    .lora = lora_avx2,
    .rms_norm = rms_norm_avx512,
    .silu_mul = silu_mul_avx512,
    .add = ref_add,
    .embed = ref_embed,
    .rope_table = ref_rope_table,
    .rope_apply = rope_apply_avx512,
    .half_encode = half_encode_avx512,
    .half_decode = half_decode_avx512,
    .kv_page_pack = kv_page_pack_avx512,
    .kv_page_unpack = ref_kv_page_unpack,
    .attend = attend_avx512,
};

static const struct kernels backend_avx512vnni = {
    .name = "avx512vnni",
    .linear = linear_avx512vnni,
    .lora = lora_avx512vnni,
    .rms_norm = rms_norm_avx512,
    .silu_mul = silu_mul_avx512,
    .add = ref_add,
    .embed = ref_embed,
    .rope_table = ref_rope_table,
    .rope_apply = rope_apply_avx512,
    .half_encode = half_encode_avx512,
    .half_decode = half_decode_avx512,
    .kv_page_pack = kv_page_pack_avx512,
    .kv_page_unpack = ref_kv_page_unpack,
    .attend = attend_avx512,
};

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static int has_avx512vnni(void)
{
    /* bf16 because the compiler may use all that these files are built for */
    return has_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}

#endif

static int has_plain_c(void)
{
    return 1;
}

const struct kernels *kernels_get(const char *name)
{
    static const struct {
        const struct kernels *table;
        int (*runs)(void);
    } backends[] = {
    /* best first */
#if defined(__x86_64__)
        {&backend_avx512vnni, has_avx512vnni},
        {&backend_avx512, has_avx512},
        {&backend_avx2, has_avx2},
#endif
        {&backend_ref, has_plain_c},
    };
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        if ((!name || !strcmp(name, backends[i].table->name)) && backends[i].runs())
            return backends[i].table;
    return NULL;
}
