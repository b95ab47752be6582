/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_gemm.cu - the linear op, and its products of many rows through cublasLt.
 *
 * A plan (descriptors and algorithm) is made once per shape and kept with the device. The algorithm is the
 * library's first proposal without split reductions, so it hangs on the shape alone and two runs agree bit
 * for bit. Weights go in slabs of rows, epilogues that cublasLt lacks in slabs of tokens, which bounds the
 * scratch.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/linear.h"

enum {
    PLANS = 64,
    WEIGHT_SLAB = 32768, /* rows of W expanded at a time */
    TOKEN_SLAB = 2048,   /* rows of fp16 sums at a time; half as many of f32 */
    SLICED_T = 16        /* so many rows go through the skinny kernel, four at a time */
};

/* D [rows][ldd] (+)= X [rows][ldx] . W[N][ldw]^T, all row after row. */
struct gemm_key {
    int type, out_is_half, add, scaled; /* scaled: a scale for each row of X and of W */
    uint32_t rows, N, K;
    size_t ldx, ldw, ldd;
    uint32_t align_x, align_d;
};

struct gemm_plan {
    struct gemm_key key;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algo;
};

struct gemm_plans {
    struct gemm_plan plan[PLANS];
    size_t used, next;
};

static void plan_fini(struct gemm_plan *p)
{
    if (p->y)
        cublasLtMatrixLayoutDestroy(p->y);
    if (p->x)
        cublasLtMatrixLayoutDestroy(p->x);
    if (p->w)
        cublasLtMatrixLayoutDestroy(p->w);
    if (p->op)
        cublasLtMatmulDescDestroy(p->op);
    memset(p, 0, sizeof *p);
}

static int set(cublasLtMatmulDesc_t op, cublasLtMatmulDescAttributes_t what, const void *value, size_t bytes)
{
    return cublasLtMatmulDescSetAttribute(op, what, value, bytes) == CUBLAS_STATUS_SUCCESS;
}

static int set_preference(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t what,
                          const void *value, size_t bytes)
{
    return cublasLtMatmulPreferenceSetAttribute(p, what, value, bytes) == CUBLAS_STATUS_SUCCESS;
}

static int choose(struct cuda_device *c, struct gemm_plan *p)
{
    cublasLtMatmulPreference_t wish = NULL;
    cublasLtMatmulHeuristicResult_t best;
    uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE, big = 256;
    int found = 0;
    memset(&best, 0, sizeof best);
    int ok = cublasLtMatmulPreferenceCreate(&wish) == CUBLAS_STATUS_SUCCESS &&
             set_preference(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &c->lt_workspace_bytes,
                            sizeof c->lt_workspace_bytes) &&
             set_preference(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none, sizeof none) &&
             set_preference(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &big, sizeof big) &&
             set_preference(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &p->key.align_x, sizeof big) &&
             set_preference(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &p->key.align_d, sizeof big) &&
             set_preference(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &p->key.align_d, sizeof big) &&
             cublasLtMatmulAlgoGetHeuristic(c->lt, p->op, p->w, p->x, p->y, p->y, wish, 1, &best, &found) ==
                 CUBLAS_STATUS_SUCCESS &&
             found > 0;
    if (wish)
        cublasLtMatmulPreferenceDestroy(wish);
    p->algo = best.algo;
    return ok;
}

/* cublasLt sees columns after columns: D^T = W X^T with W [N][K] read transposed. */
static int plan_init(struct cuda_device *c, struct gemm_plan *p, const struct gemm_key *k)
{
    static const cudaDataType_t types[] = {CUDA_R_16F, CUDA_R_16BF, CUDA_R_8F_E4M3};
    cudaDataType_t out = k->out_is_half ? CUDA_R_16F : CUDA_R_32F;
    cublasOperation_t yes = CUBLAS_OP_T, no = CUBLAS_OP_N;
    int8_t fast = 1;
    p->key = *k;
    int ok = cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
             set(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &yes, sizeof yes) &&
             set(p->op, CUBLASLT_MATMUL_DESC_TRANSB, &no, sizeof no) &&
             cublasLtMatrixLayoutCreate(&p->w, types[k->type], k->K, k->N, (int64_t)k->ldw) ==
                 CUBLAS_STATUS_SUCCESS &&
             cublasLtMatrixLayoutCreate(&p->x, types[k->type], k->K, k->rows, (int64_t)k->ldx) ==
                 CUBLAS_STATUS_SUCCESS &&
             cublasLtMatrixLayoutCreate(&p->y, out, k->N, k->rows, (int64_t)k->ldd) == CUBLAS_STATUS_SUCCESS;
    if (ok && k->type == GEMM_FP8)
        ok = set(p->op, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast);
    if (ok && k->scaled) {
        cublasLtMatmulMatrixScale_t each = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
        /* the pointers change with every call; without any the library proposes nothing */
        ok = set(p->op, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &each, sizeof each) &&
             set(p->op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &each, sizeof each) &&
             set(p->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &c->lt_workspace, sizeof c->lt_workspace) &&
             set(p->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &c->lt_workspace, sizeof c->lt_workspace);
    }
    ok = ok && choose(c, p);
    if (!ok)
        plan_fini(p);
    return ok;
}

/* NULL: the library has nothing for this shape, or no memory. */
static struct gemm_plan *plan_for(struct cuda_device *c, const struct gemm_key *k)
{
    struct gemm_plans *all = (struct gemm_plans *)c->gemm_plans;
    if (!all)
        c->gemm_plans = all = (struct gemm_plans *)calloc(1, sizeof *all);
    if (!all)
        return NULL;
    for (size_t i = 0; i < all->used; i++)
        if (!memcmp(&all->plan[i].key, k, sizeof *k))
            return &all->plan[i];
    struct gemm_plan made;
    memset(&made, 0, sizeof made);
    if (!plan_init(c, &made, k))
        return NULL;
    size_t at = all->used < PLANS ? all->used++ : all->next++ % PLANS;
    plan_fini(&all->plan[at]);
    all->plan[at] = made;
    return &all->plan[at];
}

void cuda_gemm_plans_free(struct cuda_device *c)
{
    struct gemm_plans *all = (struct gemm_plans *)c->gemm_plans;
    for (size_t i = 0; all && i < all->used; i++)
        plan_fini(&all->plan[i]);
    free(all);
    c->gemm_plans = NULL;
}

static uint32_t alignment(const void *p)
{
    uintptr_t low = (uintptr_t)p | 256;
    return (uint32_t)(low & (0 - low));
}

/* 0 when the library cannot. The key's alignments are filled in here. */
static int multiply(struct cuda_device *c, struct gemm_key *k, const void *x, const float *x_scales,
                    const void *w, const float *w_scales, void *y)
{
    k->align_x = alignment(x);
    k->align_d = alignment(y);
    struct gemm_plan *p = plan_for(c, k);
    float one = 1, beta = k->add ? 1.0f : 0.0f;
    if (!p)
        return 0;
    if (k->scaled && !(set(p->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &w_scales, sizeof w_scales) &&
                       set(p->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &x_scales, sizeof x_scales)))
        return 0;
    return cublasLtMatmul(c->lt, p->op, &one, w, p->w, x, p->x, &beta, y, p->y, y, p->y, &p->algo,
                          c->lt_workspace, c->lt_workspace_bytes,
                          c->stream[DEVICE_COMPUTE]) == CUBLAS_STATUS_SUCCESS;
}

/* ---- the op ----------------------------------------------------------------------------------------------
 */

static size_t round256(size_t n)
{
    return (n + 255) / 256 * 256;
}

/* Where a large product's parts lie in the scratch. */
struct rooms {
    size_t w, x, scales, sums, total;
};

static struct rooms rooms_of(size_t T, size_t K, size_t N)
{
    struct rooms r = {};
    size_t ld = gemm_columns(K), rows = N < WEIGHT_SLAB ? N : (size_t)WEIGHT_SLAB;
    r.x = round256(rows * ld * 2);
    r.scales = r.x + round256(T * ld * 2);
    r.sums = r.scales + round256(T * sizeof(float));
    r.total = r.sums + round256((4 * T < 2 * TOKEN_SLAB ? 4 * T : 2 * (size_t)TOKEN_SLAB) * rows);
    return r;
}

size_t cuda_linear_scratch_bytes(struct device *d, size_t T, size_t K_max, size_t N_max)
{
    (void)d;
    return T <= DEVICE_DECODE_T ? 256 : rooms_of(T, K_max, N_max).total;
}

struct product {
    const struct device_linear_args *a;
    enum gemm_type type;
    size_t ld, ldx;
    const void *x; /* of the product's type */
    const float *scales;
    uint8_t *scratch;
    struct rooms rooms;
};

/* Rows [n0, n1) of the weight, which lie expanded in the scratch. */
static int multiply_slab(struct device *d, const struct product *p, size_t n0, size_t n1)
{
    const struct device_linear_args *a = p->a;
    int direct = a->epilogue == DEVICE_STORE_F32 || a->epilogue == DEVICE_ADD_F32;
    int half_sums = a->epilogue == DEVICE_SILU_MUL && p->type != GEMM_BF16;
    size_t slab = direct      ? a->T
                  : half_sums ? TOKEN_SLAB
                              : TOKEN_SLAB / 2,
           element = p->type == GEMM_FP8 ? 1 : 2;
    for (size_t t = 0; t < a->T; t += slab) {
        struct gemm_key k;
        memset(&k, 0, sizeof k);
        k.type = p->type;
        k.out_is_half = !direct && half_sums;
        k.add = a->epilogue == DEVICE_ADD_F32;
        k.scaled = p->type == GEMM_FP8;
        k.rows = (uint32_t)(a->T - t < slab ? a->T - t : slab);
        k.N = (uint32_t)(n1 - n0);
        k.K = (uint32_t)p->ld;
        k.ldx = p->ldx;
        k.ldw = p->ld;
        k.ldd = direct ? a->ldy : k.N;
        void *y = direct ? (void *)((float *)a->y + n0) : p->scratch + p->rooms.sums;
        if (!multiply(cuda_of(d), &k, (const uint8_t *)p->x + t * p->ldx * element,
                      p->scales ? p->scales + t : NULL, p->scratch + p->rooms.w,
                      a->w->row_scale ? a->w->row_scale + n0 : NULL, y))
            return 0;
        gemm_finish(d, a, direct ? NULL : y, k.out_is_half, t, k.rows, n0, n1);
    }
    return 1;
}

static int multiply_as(struct device *d, const struct device_linear_args *a, enum gemm_type type)
{
    const struct device_weight *w = a->w;
    struct product p = {};
    p.a = a;
    p.type = type;
    p.ld = gemm_columns(w->K);
    p.scratch = (uint8_t *)a->scratch;
    p.rooms = rooms_of(a->T, w->K, w->N);
    p.x = p.scratch + p.rooms.x;
    p.ldx = p.ld;
    if (type == GEMM_FP8)
        p.scales = (const float *)(p.scratch + p.rooms.scales);
    if (type == GEMM_F16 && !a->norm_w && w->K == p.ld && a->ldx % 8 == 0 && (uintptr_t)a->x % 16 == 0) {
        p.x = a->x;
        p.ldx = a->ldx;
    } else {
        gemm_rows(d, a, type, p.ld, p.scratch + p.rooms.x, (float *)(p.scratch + p.rooms.scales));
    }
    for (size_t n = 0; n < w->N; n += WEIGHT_SLAB) {
        size_t end = w->N - n < WEIGHT_SLAB ? w->N : n + WEIGHT_SLAB;
        gemm_expand(d, w, n, end, type, p.ld, p.scratch + p.rooms.w);
        if (!multiply_slab(d, &p, n, end))
            return 0;
    }
    return 1;
}

static void multiply_large(struct device *d, const struct device_linear_args *a)
{
    enum gemm_type type = GEMM_F16;
    if (a->w->format == DEVICE_W_BF16)
        type = GEMM_BF16;
    else if (a->w->format == DEVICE_W_FP8 && cuda_of(d)->hopper && a->w->N % 16 == 0)
        type = GEMM_FP8;
    int done = multiply_as(d, a, type);
    if (!done && type == GEMM_FP8) /* a library without scaled rows for this shape: the first slab says so */
        done = multiply_as(d, a, GEMM_F16);
    if (!done)
        cuda_refuse(d, "linear", "cublasLt has no product for this shape");
}

/* A few rows more than the skinny kernel takes: cheaper four at a time than to expand the weight. */
static void multiply_slices(struct device *d, const struct device_linear_args *a)
{
    size_t x_bytes = a->norm_w ? sizeof(float) : sizeof(uint16_t);
    size_t y_bytes =
        a->epilogue == DEVICE_STORE_F32 || a->epilogue == DEVICE_ADD_F32 ? sizeof(float) : sizeof(uint16_t);
    for (size_t t = 0; t < a->T; t += DEVICE_DECODE_T) {
        struct device_linear_args slice = *a;
        slice.T = a->T - t < DEVICE_DECODE_T ? a->T - t : (size_t)DEVICE_DECODE_T;
        slice.x = (const uint8_t *)a->x + t * a->ldx * x_bytes;
        slice.y = (uint8_t *)a->y + t * a->ldy * y_bytes;
        linear_skinny(d, &slice);
    }
}

void cuda_linear(struct device *d, const struct device_linear_args *a)
{
    int rounds =
        a->w->format == DEVICE_W_BF16 || a->w->format == DEVICE_W_FP8; /* x', beyond the decode path */
    if (!a->T || a->T > DEVICE_CHUNK_T || (a->epilogue == DEVICE_SILU_MUL && a->w->N % 2))
        cuda_refuse(d, "linear", "no rows, too many, or an odd number of interleaved ones");
    else if (a->T <= DEVICE_DECODE_T)
        linear_skinny(d, a);
    else if (a->scratch_bytes < rooms_of(a->T, a->w->K, a->w->N).total || (uintptr_t)a->scratch % 256)
        cuda_refuse(d, "linear", "the scratch is too small or not aligned");
    else if (a->T <= SLICED_T && !rounds)
        multiply_slices(d, a);
    else
        multiply_large(d, a);
}

/* ---- the card's own limit --------------------------------------------------------------------------------
 */

static __global__ void random_operand(uint32_t *to, size_t words, int type, uint32_t seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < words;
         i += (size_t)gridDim.x * blockDim.x) {
        uint32_t v = (uint32_t)i * 2654435761u + seed;
        v = (v ^ v >> 15) * 2246822519u;
        v = (v ^ v >> 13) * 3266489917u;
        v ^= v >> 16;
        /* exponents of values around one, all signs and mantissas */
        to[i] = type == GEMM_F16    ? (v & 0x8fff8fff) | 0x30003000
                : type == GEMM_BF16 ? (v & 0x80ff80ff) | 0x3f003f00
                                    : (v & 0x9f9f9f9f) | 0x20202020;
    }
}

static double timed(struct device *d, struct gemm_key *k, uint8_t *x, uint8_t *w, uint8_t *y)
{
    enum { WARM = 3, RUNS = 10 };
    struct device_event *from = NULL, *to = NULL;
    struct err e;
    double best = 0;
    int ok = !cuda_event_create(d, &from, &e) && !cuda_event_create(d, &to, &e);
    for (int i = 0; ok && i < WARM + RUNS; i++) {
        cuda_event_record(d, DEVICE_COMPUTE, from);
        ok = multiply(cuda_of(d), k, x, NULL, w, NULL, y);
        cuda_event_record(d, DEVICE_COMPUTE, to);
        ok = ok && !cuda_event_sync(d, to, &e);
        double ms = ok ? cuda_event_ms(d, from, to) : 0;
        if (i >= WARM && ms > 0 && (best == 0 || ms < best))
            best = ms;
    }
    cuda_event_free(d, from);
    cuda_event_free(d, to);
    return ok ? best : 0;
}

int cuda_gemm_measure(struct cuda_device *c, enum device_limit limit, double *per_second, struct err *e)
{
    const size_t side = 8192, count = side * side;
    struct device *d = &c->base;
    struct gemm_key k;
    void *room = NULL;
    memset(&k, 0, sizeof k);
    *per_second = 0;
    k.type = limit == DEVICE_LIMIT_F16 ? GEMM_F16 : limit == DEVICE_LIMIT_BF16 ? GEMM_BF16 : GEMM_FP8;
    k.out_is_half = k.type != GEMM_BF16;
    k.rows = k.N = k.K = (uint32_t)side;
    k.ldx = k.ldw = k.ldd = side;
    if (k.type == GEMM_FP8 && !c->hopper)
        return err_set(e, ERR_UNSUPPORTED, "this card has no fp8 products");
    int rc = cuda_alloc(d, 8 * count, &room, e);
    if (rc)
        return rc;
    uint8_t *x = (uint8_t *)room, *w = x + 2 * count, *y = w + 2 * count;
    random_operand<<<1024, 256, 0, c->stream[DEVICE_COMPUTE]>>>((uint32_t *)x, count / 2, k.type, 1);
    random_operand<<<1024, 256, 0, c->stream[DEVICE_COMPUTE]>>>((uint32_t *)w, count / 2, k.type, 2);
    cuda_check(d, "measuring products");
    double ms = timed(d, &k, x, w, y);
    rc = cuda_sync(d, DEVICE_COMPUTE, e);
    cuda_release(d, room);
    if (!rc && ms <= 0)
        rc = err_set(e, ERR_UNSUPPORTED, "cublasLt has no product of this type on this card");
    if (!rc)
        *per_second = 2.0 * (double)side * (double)side * (double)side / (ms * 1e-3);
    return rc;
}
