/* SPDX-License-Identifier: Apache-2.0 */
/* tiny_model.c - see tiny_model.h. */
#include "tests/support/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bytes.h"
#include "kernels/half.h"
#include "tests/support/gguf_writer.h"

static const char *const merges[TINY_MERGES] = {
    "t h",  "Ġ th",  "th e", "Ġth e", "i n", "a n", "Ġ a", "e r", "o n", "Ġ Ġ", "ĠĠ ĠĠ", "r e",
    "an d", "Ġ and", "in g", "Ġ s",   "s t", "e n", "o r", "Ġ w", "a t", "Ċ Ċ", "e s",   "Ġ in",
};

struct tiny_model tiny_model_default(void)
{
    return (struct tiny_model){.L = 3,
                               .H = 4,
                               .HK = 2,
                               .D = 32,
                               .C = 64,
                               .F = 96,
                               .type = 0,
                               .embed_type = 0,
                               .tied = 1,
                               .merges = TINY_MERGES,
                               .context = 4096,
                               .rope_base = 10000,
                               .gain = 2,
                               .seed = 1};
}

static int vocabulary(const struct tiny_model *m)
{
    return 3 + 256 + m->merges;
}

/* splitmix64 */
static uint64_t next_random(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static float next_normal(uint64_t *s)
{
    double u = ((double)(next_random(s) >> 11) + 0.5) * 0x1p-53;
    double v = (double)(next_random(s) >> 11) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

/* 32 floats as one Q8_0 block: scale fp16, then 32 signed bytes. */
static void put_q8_0(struct buf *b, const float *x)
{
    float amax = 0;
    for (int i = 0; i < 32; i++)
        amax = fmaxf(amax, fabsf(x[i]));
    float d = amax / 127;
    put_u16(b, half_from_float(d));
    for (int i = 0; i < 32; i++)
        put_u8(b, (uint8_t)(int8_t)lrintf(d > 0 ? x[i] / d : 0));
}

/* 32 floats as one Q4_1 block: scale and minimum fp16, then 16 bytes, value i in the low and 16+i in the high
 * half of byte i. */
static void put_q4_1(struct buf *b, const float *x)
{
    float lo = x[0], hi = x[0];
    for (int i = 1; i < 32; i++) {
        lo = fminf(lo, x[i]);
        hi = fmaxf(hi, x[i]);
    }
    float d = (hi - lo) / 15;
    put_u16(b, half_from_float(d));
    put_u16(b, half_from_float(lo));
    uint8_t code[32];
    for (int i = 0; i < 32; i++) {
        long q = lrintf(d > 0 ? (x[i] - lo) / d : 0);
        code[i] = (uint8_t)(q < 0 ? 0 : q > 15 ? 15 : q);
    }
    for (int i = 0; i < 16; i++)
        put_u8(b, (uint8_t)(code[i] | code[i + 16] << 4));
}

static void add_matrix(struct gguf_writer *w, const char *name, uint32_t type, int rows, int cols, float gain,
                       uint64_t *seed)
{
    struct buf b = {0};
    float x[32];
    float sigma = gain / sqrtf((float)cols);
    for (long i = 0; i < (long)rows * cols / 32; i++) {
        for (int j = 0; j < 32; j++)
            x[j] = sigma * next_normal(seed);
        if (type == 8)
            put_q8_0(&b, x);
        else if (type == 3)
            put_q4_1(&b, x);
        else
            for (int j = 0; j < 32; j++) {
                if (type == 1)
                    put_u16(&b, half_from_float(x[j]));
                else
                    put_f32(&b, x[j]);
            }
    }
    gguf_writer_add_tensor(w, name, type, 2, (uint64_t[]){(uint64_t)cols, (uint64_t)rows}, b.data, b.len);
    buf_free(&b);
}

static void add_vector(struct gguf_writer *w, const char *name, int n, float mean, float sigma,
                       uint64_t *seed)
{
    struct buf b = {0};
    for (int i = 0; i < n; i++)
        put_f32(&b, mean + sigma * next_normal(seed));
    gguf_writer_add_tensor(w, name, 0, 1, (uint64_t[]){(uint64_t)n}, b.data, b.len);
    buf_free(&b);
}

static void add_layer(struct gguf_writer *w, const struct tiny_model *m, int l, uint64_t *seed)
{
    struct {
        const char *name;
        int rows, cols;
    } const matrices[] = {
        {"attn_q", m->H * m->D, m->C},      {"attn_k", m->HK * m->D, m->C}, {"attn_v", m->HK * m->D, m->C},
        {"attn_output", m->C, m->H * m->D}, {"ffn_gate", m->F, m->C},       {"ffn_up", m->F, m->C},
        {"ffn_down", m->C, m->F},
    };
    char name[64];
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", l, matrices[i].name);
        add_matrix(w, name, m->type, matrices[i].rows, matrices[i].cols, m->gain, seed);
        if (m->qkv_bias && i < 3) {
            snprintf(name, sizeof name, "blk.%d.%s.bias", l, matrices[i].name);
            add_vector(w, name, matrices[i].rows, 0, 0.1f, seed);
        }
    }
    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", l);
    add_vector(w, name, m->C, 1, 0.1f, seed);
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", l);
    add_vector(w, name, m->C, 1, 0.1f, seed);
}

/* GPT-2's writing of a byte: itself when printable, else U+0100 and up in order. */
static void byte_name(int byte, char out[4])
{
    int shown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    int point = byte;
    if (!shown) {
        point = 256;
        for (int i = 0; i < byte; i++)
            point += !((i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174);
    }
    if (point < 128) {
        out[0] = (char)point;
        out[1] = 0;
    } else {
        out[0] = (char)(0xc0 | point >> 6);
        out[1] = (char)(0x80 | (point & 63));
        out[2] = 0;
    }
}

static void add_vocabulary(struct gguf_writer *w, const struct tiny_model *m)
{
    size_t V = (size_t)vocabulary(m), n = (size_t)m->merges;
    static const char *const control[3] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    char text[TINY_VOCAB][16];
    const char *names[TINY_VOCAB];
    int32_t types[TINY_VOCAB];
    for (int i = 0; i < (int)V; i++) {
        names[i] = text[i];
        types[i] = i < 3 ? 3 : 1;
        if (i < 3) {
            snprintf(text[i], sizeof text[i], "%s", control[i]);
        } else if (i < 259) {
            byte_name(i - 3, text[i]);
        } else {
            const char *merge = merges[i - 259];
            const char *space = strchr(merge, ' ');
            snprintf(text[i], sizeof text[i], "%.*s%s", (int)(space - merge), merge, space + 1);
        }
    }
    gguf_writer_add_str(w, "tokenizer.ggml.model", "gpt2");
    gguf_writer_add_str(w, "tokenizer.ggml.pre", "smollm");
    gguf_writer_add_arr_str(w, "tokenizer.ggml.tokens", names, V);
    gguf_writer_add_arr_i32(w, "tokenizer.ggml.token_type", types, V);
    gguf_writer_add_arr_str(w, "tokenizer.ggml.merges", merges, n);
    gguf_writer_add_u32(w, "tokenizer.ggml.bos_token_id", 0);
    gguf_writer_add_u32(w, "tokenizer.ggml.eos_token_id", 2);
    gguf_writer_add_bool(w, "tokenizer.ggml.add_bos_token", 0);
    gguf_writer_add_str(w, "tokenizer.chat_template",
                        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
                        "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}");
}

static void add_params(struct gguf_writer *w, const struct tiny_model *m)
{
    const char *arch = m->qkv_bias ? "qwen2" : "llama";
    char key[64];
    struct {
        const char *name;
        uint32_t v;
    } const numbers[] = {
        {"block_count", (uint32_t)m->L},          {"context_length", m->context},
        {"embedding_length", (uint32_t)m->C},     {"feed_forward_length", (uint32_t)m->F},
        {"attention.head_count", (uint32_t)m->H}, {"attention.head_count_kv", (uint32_t)m->HK},
        {"attention.key_length", (uint32_t)m->D}, {"attention.value_length", (uint32_t)m->D},
        {"rope.dimension_count", (uint32_t)m->D}, {"vocab_size", (uint32_t)vocabulary(m)},
    };
    gguf_writer_add_str(w, "general.architecture", arch);
    gguf_writer_add_str(w, "general.name", "tiny");
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, numbers[i].name);
        gguf_writer_add_u32(w, key, numbers[i].v);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    gguf_writer_add_f32(w, key, 1e-5f);
    snprintf(key, sizeof key, "%s.rope.freq_base", arch);
    gguf_writer_add_f32(w, key, m->rope_base);
}

int tiny_model_write(const struct tiny_model *m, const char *path)
{
    struct gguf_writer *w = gguf_writer_open(path);
    if (!w)
        return 1;
    uint64_t seed = m->seed;
    add_params(w, m);
    add_vocabulary(w, m);
    add_matrix(w, "token_embd.weight", m->embed_type, vocabulary(m), m->C, 1, &seed);
    for (int l = 0; l < m->L; l++)
        add_layer(w, m, l, &seed);
    add_vector(w, "output_norm.weight", m->C, 1, 0.1f, &seed);
    if (!m->tied)
        add_matrix(w, "output.weight", m->embed_type, vocabulary(m), m->C, 1, &seed);
    return gguf_writer_close(w);
}
