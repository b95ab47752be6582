/* SPDX-License-Identifier: Apache-2.0 */
/* hopper.cuh - what sm_90a adds, as thin inline functions: mbarriers, bulk tensor copies into swizzled shared
 * memory, warpgroup matrix products and the hand-over of registers between warpgroups.
 *
 * Tiles are rows of 64 halfs (128 bytes) in the 128-byte swizzle, the tile's start aligned to 1,024 bytes:
 * piece c of 16 bytes of row r lies at r * 128 + ((c ^ (r & 7)) * 16). Wider rows are several such tiles, one
 * after the other.
 */
#ifndef LECTERN_KERNELS_CUDA_HOPPER_CUH
#define LECTERN_KERNELS_CUDA_HOPPER_CUH

#include <cuda.h>
#include <cuda_fp16.h>
#include <stdint.h>

__device__ __forceinline__ uint32_t hopper_shared(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- mbarriers: the k-th phase of a barrier is over when all arrivals and bytes of it are in -------- */

__device__ __forceinline__ void hopper_barrier_init(uint32_t bar, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}

/* Makes the initialised barriers known to the copy engine; a block barrier must follow. */
__device__ __forceinline__ void hopper_barrier_init_done()
{
    asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void hopper_expect(uint32_t bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

__device__ __forceinline__ void hopper_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

/* Returns when the phase of this parity is over. */
__device__ __forceinline__ void hopper_wait(uint32_t bar, uint32_t parity)
{
    asm volatile("{\n\t.reg .pred p;\n\t"
                 "again:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n\t"
                 "@p bra done;\n\tbra again;\n\tdone:\n\t}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}

/* ---- copies ----------------------------------------------------------------------------------------- */

/* A box of the tensor at (x, y, z) to shared memory, its bytes counted at bar; out of bounds is zero. */
__device__ __forceinline__ void hopper_copy(uint32_t to, const CUtensorMap *map, int x, int y, int z,
                                            uint32_t bar)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, "
                 "{%2, %3, %4}], "
                 "[%5];" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(bar)
                 : "memory");
}

/* ---- warpgroup products ----------------------------------------------------------------------------- */

/* Operand whose rows run along k (k of q k^T): 8-row groups 1,024 bytes apart. 16 columns on: + 2 in
 * the descriptor. */
__device__ __forceinline__ uint64_t hopper_operand(uint32_t tile)
{
    return (uint64_t)((tile & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)64 << 32 | (uint64_t)1 << 62;
}

/* Operand whose rows are the k index (v of p v), `wide` bytes from one block of 64 columns to the next. 16
 * rows on: + 128 in the descriptor. */
__device__ __forceinline__ uint64_t hopper_operand_rows(uint32_t tile, uint32_t wide)
{
    return (uint64_t)((tile & 0x3ffff) >> 4) | (uint64_t)(wide >> 4) << 16 | (uint64_t)64 << 32 |
           (uint64_t)1 << 62;
}

__device__ __forceinline__ void hopper_products_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void hopper_products_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int LEFT> __device__ __forceinline__ void hopper_products_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

#define HOPPER_ACC4(c, i) "+f"(c[i]), "+f"(c[(i) + 1]), "+f"(c[(i) + 2]), "+f"(c[(i) + 3])
#define HOPPER_ACC8(c, i) HOPPER_ACC4(c, i), HOPPER_ACC4(c, (i) + 4)
#define HOPPER_ACC16(c, i) HOPPER_ACC8(c, i), HOPPER_ACC8(c, (i) + 8)
#define HOPPER_ACC32(c, i) HOPPER_ACC16(c, i), HOPPER_ACC16(c, (i) + 16)
#define HOPPER_ACC64(c, i) HOPPER_ACC32(c, i), HOPPER_ACC32(c, (i) + 32)
#define HOPPER_REGS32                                                                                        \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                                 \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define HOPPER_REGS64                                                                                        \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                                 \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"                                       \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                                       \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define HOPPER_REGS96                                                                                        \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                                 \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"                                       \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                                       \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"                                       \
    "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"                                       \
    "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"

/* c (+)= a b, 64 x N: a (16 columns) in registers, b in shared memory with rows along k. ZERO: c starts from
 * 0. */
template <int N, bool ZERO>
__device__ __forceinline__ void hopper_product(float (&c)[N / 2], uint32_t a0, uint32_t a1, uint32_t a2,
                                               uint32_t a3, uint64_t b)
{
    if constexpr (N == 128)
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %69, "
                     "0;\n\twgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" HOPPER_REGS64
                     "}, {%64,%65,%66,%67}, %68, p, 1, 1, 0;\n\t}"
                     : HOPPER_ACC64(c, 0)
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "n"(ZERO ? 0 : 1));
    else if constexpr (N == 192)
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %101, "
                     "0;\n\twgmma.mma_async.sync.aligned.m64n192k16.f32.f16.f16 {" HOPPER_REGS96
                     "}, {%96,%97,%98,%99}, %100, p, 1, 1, 0;\n\t}"
                     : HOPPER_ACC64(c, 0), HOPPER_ACC32(c, 64)
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "n"(ZERO ? 0 : 1));
    else
        static_assert(N == 128, "no product of this width");
}

/* c += a b, 64 x N: a in registers, b in shared memory with rows as the k index. */
template <int N>
__device__ __forceinline__ void hopper_product_rows(float (&c)[N / 2], uint32_t a0, uint32_t a1, uint32_t a2,
                                                    uint32_t a3, uint64_t b)
{
    if constexpr (N == 64)
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, 1, "
                     "0;\n\twgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" HOPPER_REGS32
                     "}, {%32,%33,%34,%35}, %36, p, 1, 1, 1;\n\t}"
                     : HOPPER_ACC32(c, 0)
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
    else if constexpr (N == 128)
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, 1, "
                     "0;\n\twgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" HOPPER_REGS64
                     "}, {%64,%65,%66,%67}, %68, p, 1, 1, 1;\n\t}"
                     : HOPPER_ACC64(c, 0)
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
    else
        static_assert(N == 64, "no product of this width");
}

/* Nothing reads or writes these registers across this point: a product in flight owns them until its wait. */
template <int N> __device__ __forceinline__ void hopper_hold(float (&c)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(c[i])::"memory");
}

/* ---- products of one warp --------------------------------------------------------------------------- */

__device__ __forceinline__ void hopper_load_matrices(uint32_t (&r)[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* c += a b, 16 x 8, 16 deep. */
__device__ __forceinline__ void hopper_warp_product(float *c, const uint32_t *a, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* ---- registers and named barriers ------------------------------------------------------------------- */

template <int REGS> __device__ __forceinline__ void hopper_registers_less()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGS));
}

template <int REGS> __device__ __forceinline__ void hopper_registers_more()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGS));
}

/* Named barrier `id` of `threads` threads: some arrive and go on, the others wait for all. */
__device__ __forceinline__ void hopper_named_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void hopper_named_wait(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#endif
