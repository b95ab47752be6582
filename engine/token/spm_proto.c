/* SPDX-License-Identifier: Apache-2.0 */
/* spm_proto.c - sentencepiece's ModelProto written and read by hand: a handful of fields of
 * sentencepiece_model.proto do not justify a protobuf compiler.
 *
 *   ModelProto      1 pieces { 1 piece, 2 score, 3 type }   2 trainer_spec   3 normalizer_spec
 *   TrainerSpec     3 model_type  4 vocab_size  24 treat_whitespace_as_suffix  35 byte_fallback
 *                   41 bos_id  42 eos_id  45 unk_piece
 *   NormalizerSpec  1 name  3 add_dummy_prefix  4 remove_extra_whitespaces  5 escape_whitespaces
 */
#include "engine/token/spm.h"

#include <string.h>

#include "engine/base/bytes.h"

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

static void put_varint(struct buf *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        put_u8(b, (uint8_t)(v | 0x80));
    put_u8(b, (uint8_t)v);
}

static void put_number(struct buf *b, unsigned field, uint64_t v)
{
    put_varint(b, field << 3 | WIRE_VARINT);
    put_varint(b, v);
}

static void put_string(struct buf *b, unsigned field, const char *bytes, size_t n)
{
    put_varint(b, field << 3 | WIRE_BYTES);
    put_varint(b, n);
    buf_add(b, bytes, n);
}

static void put_piece(struct buf *proto, struct buf *scratch, struct gguf_str name, float score, int type)
{
    buf_clear(scratch);
    put_string(scratch, 1, name.data, name.len);
    put_varint(scratch, 2 << 3 | WIRE_32);
    put_f32(scratch, score);
    put_number(scratch, 3, (uint64_t)type);
    put_string(proto, 1, scratch->data, scratch->len);
}

static void put_settings(const struct gguf *g, struct buf *proto, struct buf *scratch, size_t V,
                         int byte_fallback, struct gguf_str unknown)
{
    int prefix = 1, squeeze = 0;
    gguf_bool(g, "tokenizer.ggml.add_space_prefix", &prefix);
    gguf_bool(g, "tokenizer.ggml.remove_extra_whitespaces", &squeeze);
    buf_clear(scratch);
    put_number(scratch, 3, 2); /* BPE */
    put_number(scratch, 4, V);
    put_number(scratch, 35, (uint64_t)byte_fallback);
    put_string(scratch, 45, unknown.data, unknown.len);
    put_string(proto, 2, scratch->data, scratch->len);
    buf_clear(scratch);
    put_string(scratch, 1, "identity", 8);
    put_number(scratch, 3, (uint64_t)prefix);
    put_number(scratch, 4, (uint64_t)squeeze);
    put_number(scratch, 5, 1);
    put_string(proto, 3, scratch->data, scratch->len);
}

int spm_proto_from_gguf(const struct gguf *g, const struct gguf_array *names, const uint8_t *types,
                        struct buf *proto, struct err *e)
{
    struct gguf_array scores;
    if (!gguf_array(g, "tokenizer.ggml.scores", &scores) || scores.type == GGUF_STRING || scores.n < names->n)
        return err_set(e, ERR_FORMAT, "%s: the vocabulary has no scores; download the model again",
                       gguf_path(g));
    struct buf scratch = {0};
    struct gguf_str unknown = {"<unk>", 5};
    size_t unknowns = 0, bytes = 0;
    for (size_t i = 0; i < names->n; i++) {
        struct gguf_str name = gguf_array_str(names, i);
        if (types[i] == SPM_UNKNOWN) {
            unknown = name;
            unknowns++;
        }
        bytes += types[i] == SPM_BYTE;
        put_piece(proto, &scratch, name, (float)gguf_array_f64(&scores, i), types[i]);
    }
    put_settings(g, proto, &scratch, names->n, bytes == 256, unknown);
    int failed = proto->failed || scratch.failed;
    buf_free(&scratch);
    if (failed)
        return err_memory(e, "the vocabulary");
    if (unknowns != 1)
        return err_set(e, ERR_FORMAT,
                       "%s: the vocabulary has %zu unknown tokens, not one; download the model again",
                       gguf_path(g), unknowns);
    return 0;
}

static uint64_t read_varint(struct reader *r)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = read_u8(r);
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return v;
    }
    r->bad = 1;
    return 0;
}

/* One field: its number, and its value as a number or as bytes. 0 at the end or at damage (then r->bad). */
static unsigned read_field(struct reader *r, uint64_t *number, struct reader *bytes)
{
    *number = 0;
    *bytes = reader_over("", 0);
    if (!r->left)
        return 0;
    uint64_t tag = read_varint(r);
    switch (tag & 7) {
    case WIRE_VARINT:
        *number = read_varint(r);
        break;
    case WIRE_64:
        *number = read_u64(r);
        break;
    case WIRE_32:
        *number = read_u32(r);
        break;
    case WIRE_BYTES: {
        uint64_t n = read_varint(r);
        if (n > r->left) {
            r->bad = 1;
            break;
        }
        *bytes = reader_over(r->at, (size_t)n);
        read_bytes(r, (size_t)n);
        break;
    }
    default:
        r->bad = 1;
    }
    if (!(tag >> 3) || tag >> 3 > 536870911)
        r->bad = 1;
    return r->bad ? 0 : (unsigned)(tag >> 3);
}

static void read_piece(struct reader *r, struct gguf_str *name, float *score, int *type)
{
    uint64_t v;
    struct reader bytes;
    *name = (struct gguf_str){"", 0};
    *score = 0;
    *type = SPM_NORMAL;
    for (unsigned field; (field = read_field(r, &v, &bytes)) != 0;) {
        if (field == 1)
            *name = (struct gguf_str){(const char *)bytes.at, bytes.left};
        else if (field == 2) {
            uint32_t bits = (uint32_t)v;
            memcpy(score, &bits, sizeof bits);
        } else if (field == 3)
            *type = v >= SPM_NORMAL && v <= SPM_BYTE ? (int)v : SPM_NORMAL;
    }
}

static void read_settings(struct reader *r, int normalizer, struct spm_facts *facts)
{
    uint64_t v;
    struct reader bytes;
    for (unsigned field; (field = read_field(r, &v, &bytes)) != 0;) {
        if (normalizer) {
            if (field == 3)
                facts->dummy_prefix = v != 0;
        } else if (field == 3)
            facts->model_type = v <= 4 ? (int)v : 0;
        else if (field == 24)
            facts->whitespace_suffix = v != 0;
        else if (field == 41) /* int32: a missing one is -1, ten bytes long */
            facts->bos = (uint32_t)v;
        else if (field == 42)
            facts->eos = (uint32_t)v;
    }
}

int spm_proto_read(const void *proto, size_t n, struct spm_facts *facts,
                   int (*piece)(void *arg, struct gguf_str name, float score, int type), void *arg,
                   struct err *e)
{
    *facts =
        (struct spm_facts){.model_type = 1, .dummy_prefix = 1, .bos = 1, .eos = 2}; /* the .proto's own */
    struct reader r = reader_over(proto, n);
    struct reader part;
    uint64_t v;
    int bad = 0;
    for (unsigned field; (field = read_field(&r, &v, &part)) != 0;) {
        if (field == 1) {
            struct gguf_str name;
            float score;
            int type;
            read_piece(&part, &name, &score, &type);
            int rc = part.bad ? 0 : piece(arg, name, score, type);
            if (rc)
                return rc;
        } else if (field == 2 || field == 3) {
            read_settings(&part, field == 3, facts);
        }
        bad |= part.bad;
    }
    if (r.bad || bad)
        return err_set(e, ERR_FORMAT, "the SentencePiece model is damaged; download it again");
    return 0;
}
