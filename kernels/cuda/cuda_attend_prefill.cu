/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_attend_prefill.cu - attention of a layer over a chunk: rows (RoPE, fp16), full pages into records,
 * what stays raw, streaming heads, and retrieval heads piece by piece: records expanded into scratch, then
 * the hot kernel over them; the last piece brings the chunk's own raw rows.
 *
 * Pieces begin at multiples of a size that the model's shape alone decides; the last begins at the one at or
 * below pos0 and ends with the chunk. So the pieces of a row never depend on T; only the shares of a piece
 * that short chunks spread over the card (prefill_core.h) do.
 */
#include "kernels/cuda/prefill_core.h"
#include "kernels/cuda/prefill_op.h"

enum { PAGE = PREFILL_ROW_PAGE, PIECE = 65536, PIECE_LEAST = 8192, SPLIT_T = 1024 };

static const char WHAT[] = "attend_prefill";

static size_t most_retrieval(const struct device_kv *kv)
{
    size_t most = 0;
    for (size_t l = 0; l < kv->L; l++)
        most = kv->hr[l] > most ? kv->hr[l] : most;
    return most;
}

/* Tokens of a piece: a quarter of a gigabyte of keys and values, at most. */
static size_t piece_of(const struct device_kv *kv)
{
    size_t piece = PIECE, heads = most_retrieval(kv);
    while (piece > PIECE_LEAST && piece * heads * kv->D > (size_t)PIECE * 8 * 128)
        piece /= 2;
    return piece;
}

static void *take(uint8_t *base, size_t *at, size_t bytes)
{
    void *p = base ? base + *at : NULL;
    *at += (bytes + 255) / 256 * 256;
    return p;
}

/* Cuts the scratch for a chunk that has `rows` rows from its first page's start on, over `expanded` tokens
 * at a time; returns the bytes of it all. With base NULL nothing but that means something. */
static size_t carve(const struct device_kv *kv, size_t rows, size_t expanded, int state, uint8_t *base,
                    prefill_op *p, void **split)
{
    size_t at = 0, D = kv->D, G = kv->H / kv->HK, hr = most_retrieval(kv);
    p->Tp = (rows + 127) / 128 * 128;
    p->ld = (expanded + 127) / 128 * 128;
    p->q = (__half *)take(base, &at, kv->H * p->Tp * D * 2);
    p->k = (__half *)take(base, &at, kv->HK * p->Tp * D * 2);
    p->v = (__half *)take(base, &at, kv->HK * p->Tp * D * 2);
    p->ke = (__half *)take(base, &at, hr * p->ld * D * 2);
    p->ve = (__half *)take(base, &at, hr * p->ld * D * 2);
    p->o = p->lse = NULL;
    if (state) {
        p->o = (float *)take(base, &at, hr * G * p->Tp * D * 4);
        p->lse = (float *)take(base, &at, hr * G * p->Tp * 4);
    }
    *split = rows <= SPLIT_T + PAGE ? take(base, &at, PREFILL_SPLIT_BYTES) : NULL;
    return at;
}

size_t cuda_attend_prefill_scratch_bytes(struct device *d, const struct device_kv *kv, size_t T)
{
    const size_t piece = piece_of(kv), past = kv->cap_blocks * DEVICE_BLOCK_PAGES * PAGE;
    const size_t rows = T + PAGE - 1, most = piece + (rows + PAGE - 1) / PAGE * PAGE;
    prefill_op p;
    void *split;
    const size_t all = carve(kv, rows, most < past ? most : past, past > piece, NULL, &p, &split);
    /* a smaller chunk may want what a larger one does not */
    return T > SPLIT_T ? all + PREFILL_SPLIT_BYTES : all;
}

/* The layer, for the kernels. */
static void fill(prefill_op *p, const struct device_attend_prefill_args *a)
{
    const struct device_kv *kv = a->kv;
    const size_t per_stream = kv->sink_pages + kv->ring_pages;
    p->qkv = a->qkv;
    p->ldqkv = a->ldqkv;
    p->pos0 = a->pos0;
    p->T = a->T;
    p->base = a->pos0 / PAGE * PAGE;
    p->H = (uint32_t)kv->H;
    p->HK = (uint32_t)kv->HK;
    p->D = (uint32_t)kv->D;
    p->G = (uint32_t)(kv->H / kv->HK);
    p->hr = kv->hr[a->layer];
    p->rope = a->rope;
    p->q_scale = a->scale * 1.4426950408889634f;
    p->out = (__half *)a->out;
    p->ldout = a->ldout;
    p->failed = a->failed;
    p->heads = kv->heads + a->layer * kv->HK;
    p->blocks = kv->blocks;
    p->record_at = (size_t)kv->hr_before[a->layer] * DEVICE_BLOCK_PAGES;
    p->scan_offset = DEVICE_BLOCK_PAGES * kv->HR * kv->record_bytes;
    p->record_bytes = (uint32_t)kv->record_bytes;
    p->scan_bytes = (uint32_t)kv->scan_bytes;
    p->raw_bytes = (uint32_t)kv->raw_bytes;
    p->format = kv->format;
    p->S = (uint32_t)kv->S;
    p->R = (uint32_t)kv->R;
    p->sink_pages = (uint32_t)kv->sink_pages;
    p->ring_pages = (uint32_t)kv->ring_pages;
    const size_t tail = 2 * (size_t)kv->hr_before[a->layer] * kv->raw_bytes;
    const size_t stream = (size_t)kv->hs_before[a->layer] * per_stream * kv->raw_bytes;
    p->tail = kv->tail + tail;
    p->stream = kv->stream + stream;
    p->tail_next = a->tail_next + tail;
    p->stream_next = a->stream_next + stream;
}

static cudaError_t core(struct device *d, const prefill_op &p, void *split, size_t first, size_t tokens,
                        int last, cudaStream_t stream)
{
    prefill_core c = {};
    c.heads = (int)p.hr;
    c.G = (int)p.G;
    c.D = (int)p.D;
    c.q = p.q;
    c.k = p.ke;
    c.v = p.ve;
    c.ld_tokens = p.ld;
    c.first = first;
    c.tokens = tokens;
    c.k_raw = p.k;
    c.v_raw = p.v;
    c.pos0 = p.pos0;
    c.T = p.T;
    c.Tp = p.Tp;
    c.begin = !first;
    c.last = last;
    c.o = p.o;
    c.lse = p.lse;
    c.out = p.out;
    c.ldout = p.ldout;
    c.heads_of = p.heads;
    c.split = split;
    c.split_bytes = split ? PREFILL_SPLIT_BYTES : 0;
    cudaError_t rc = prefill_expand(p, first, tokens, stream);
    if (rc == cudaSuccess)
        rc = cuda_of(d)->hopper ? prefill_core_sm90(&c, stream) : prefill_core_sm80(&c, stream);
    return rc;
}

static const char *refusal(const struct device_attend_prefill_args *a)
{
    const struct device_kv *kv = a->kv;
    if (!a->T || a->T > DEVICE_CHUNK_T || a->layer >= kv->L)
        return "no such layer, or a chunk of a size that is not handled";
    if ((kv->D != 64 && kv->D != 128) || kv->H % kv->HK || a->rope.half * 2 > kv->D ||
        a->ldqkv < (kv->H + 2 * kv->HK) * kv->D)
        return "a shape that is not handled (heads are 64 or 128 wide)";
    if (a->ldqkv % 4 || (uintptr_t)a->qkv % 16 || a->ldout % 2)
        return "rows that do not begin at a multiple of 16 bytes";
    if (kv->hr[a->layer] && a->pos0 + a->T > kv->cap_blocks * DEVICE_BLOCK_PAGES * PAGE)
        return "no blocks for these positions";
    if (kv->ring_pages < kv->R / PAGE + 3)
        return "the ring of streaming heads is too short";
    return NULL;
}

static cudaError_t run(struct device *d, const prefill_op &p, void *split, size_t piece)
{
    const cudaStream_t stream = cuda_compute(d);
    cudaError_t rc = prefill_rows(p, stream);
    if (rc == cudaSuccess)
        rc = prefill_close(p, stream);
    if (rc == cudaSuccess)
        rc = prefill_keep(p, stream);
    if (rc == cudaSuccess)
        rc = prefill_stream(p, stream);
    const size_t end = prefill_last_page(p) * PAGE, last = p.base / piece * piece;
    for (size_t first = 0; p.hr && first < last && rc == cudaSuccess; first += piece)
        rc = core(d, p, split, first, piece, 0, stream);
    if (p.hr && rc == cudaSuccess)
        rc = core(d, p, split, last, end - last, 1, stream);
    return rc;
}

void cuda_attend_prefill(struct device *d, const struct device_attend_prefill_args *a)
{
    const char *why = refusal(a);
    if (why) {
        cuda_refuse(d, WHAT, why);
        return;
    }
    const size_t piece = piece_of(a->kv);
    prefill_op p = {};
    fill(&p, a);
    const size_t end = prefill_last_page(p) * PAGE, last = p.base / piece * piece;
    const size_t expanded = last && piece > end - last ? piece : end - last;
    void *split;
    if (carve(a->kv, a->pos0 - p.base + a->T, expanded, last > 0, (uint8_t *)a->scratch, &p, &split) >
        a->scratch_bytes) {
        cuda_refuse(d, WHAT, "too little scratch");
        return;
    }
    cuda_keep(d, run(d, p, split, piece), WHAT);
}
