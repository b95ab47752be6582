/* SPDX-License-Identifier: Apache-2.0 */
/* Adapters: pairs, RoPE base, identity, and that half or foreign adapters are refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bytes.h"
#include "engine/model/lora.h"
#include "tests/support/temp.h"
#include "tests/support/tiny_model.h"

static char *folder;
static struct model *model; /* L 3, H 4, HK 2, D 32, C 64 */

static int setup(void **state)
{
    (void)state;
    folder = temp_folder();
    char *path = temp_path(folder, "tiny.gguf");
    struct tiny_model t = tiny_model_default();
    int rc = tiny_model_write(&t, path) || model_open(path, kernels_get("ref"), NULL, NULL, &model, NULL);
    free(path);
    return rc;
}

static int teardown(void **state)
{
    (void)state;
    model_close(model);
    temp_remove(folder);
    return 0;
}

struct part {
    const char *name;
    const char *dtype;
    size_t rows, cols;
    uint32_t bits; /* of every element */
};

static void write_adapter(const struct part *parts, size_t n, const char *config)
{
    struct buf header = {0}, data = {0}, all = {0};
    buf_puts(&header, "{");
    for (size_t i = 0; i < n; i++) {
        size_t begin = data.len, bytes = strcmp(parts[i].dtype, "F32") ? 2 : 4;
        for (size_t k = 0; k < parts[i].rows * parts[i].cols; k++)
            put_le(&data, parts[i].bits, bytes);
        buf_printf(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%zu,%zu],\"data_offsets\":[%zu,%zu]}",
                   i ? "," : "", parts[i].name, parts[i].dtype, parts[i].rows, parts[i].cols, begin,
                   data.len);
    }
    buf_puts(&header, "}");
    put_u64(&all, header.len);
    buf_add(&all, header.data, header.len);
    if (data.len)
        buf_add(&all, data.data, data.len);
    assert_false(header.failed || data.failed || all.failed);
    temp_write(folder, "adapter.safetensors", all.data, all.len);
    temp_text(folder, "config.json", config);
    buf_free(&header);
    buf_free(&data);
    buf_free(&all);
}

static int open_adapter(struct lora **l, struct err *e)
{
    *e = (struct err){0};
    *l = (struct lora *)folder;
    int rc = lora_open(folder, model, kernels_get("ref"), l, e);
    assert_int_equal(rc != 0, *l == NULL);
    return rc;
}

enum { BF16_ONE = 0x3f80, F16_ONE = 0x3c00, F32_ONE = 0x3f800000 };

static const struct part good[] = {
    {"blk.0.attn_q.weight.lora_a", "BF16", 8, 64, BF16_ONE},
    {"blk.0.attn_q.weight.lora_b", "BF16", 128, 8, BF16_ONE},
    {"blk.2.attn_k.weight.lora_a", "F16", 3, 64, F16_ONE},
    {"blk.2.attn_k.weight.lora_b", "F32", 64, 3, F32_ONE},
    {"blk.2.attn_output.weight.lora_a", "BF16", 1, 128, BF16_ONE},
    {"blk.2.attn_output.weight.lora_b", "BF16", 64, 1, BF16_ONE},
};
enum { GOOD = sizeof good / sizeof *good };

static void an_adapter_opens(void **state)
{
    (void)state;
    struct lora *l;
    struct err e;
    write_adapter(good, GOOD, "{\"rope_theta\": 500000.0, \"context_length\": 131072, \"other\": null}");
    if (open_adapter(&l, &e))
        fail_msg("%s", e.text);
    assert_int_equal(lora_max_rank(l), 8);
    assert_true(lora_rope_base(l) == 500000);
    assert_int_equal(lora_context(l), 131072);
    const struct lora_pair *q = lora_pair(l, 0, LORA_Q), *k = lora_pair(l, 2, LORA_K),
                           *o = lora_pair(l, 2, LORA_O);
    assert_int_equal(q->rank, 8);
    assert_int_equal(weight_rows(q->a), 8);
    assert_int_equal(weight_cols(q->a), 64);
    assert_int_equal(weight_rows(q->b), 128);
    assert_int_equal(weight_cols(q->b), 8);
    assert_int_equal(k->rank, 3);
    assert_int_equal(o->rank, 1);
    assert_null(lora_pair(l, 1, LORA_V)->a);
    assert_int_equal(lora_pair(l, 1, LORA_V)->rank, 0);
    lora_close(l);
    lora_close(NULL);
}

static void it_adds_what_it_should(void **state)
{
    (void)state;
    struct lora *l;
    struct err e;
    write_adapter(good, GOOD, "{}");
    assert_int_equal(open_adapter(&l, &e), 0);
    const struct kernels *ref = kernels_get("ref");
    const struct lora_pair *k = lora_pair(l, 2, LORA_K);
    float x[64], y[64];
    for (int i = 0; i < 64; i++) {
        x[i] = 1;
        y[i] = 0.5f;
    }
    size_t size = lora_scratch_bytes(1, 64, 3, 1);
    void *scratch = aligned_alloc(64, (size + 63) / 64 * 64);
    assert_non_null(scratch);
    ref->lora(&(struct lora_args){.x = x,
                                  .ldx = 64,
                                  .T = 1,
                                  .a = k->a,
                                  .b = k->b,
                                  .y = y,
                                  .ldy = 64,
                                  .scratch = scratch,
                                  .scratch_bytes = size});
    free(scratch);
    for (int i = 0; i < 64; i++)
        assert_true(y[i] == 0.5f + 3 * 64);
    lora_close(l);
}

static void identity_is_tensors_and_base(void **state)
{
    (void)state;
    static const char *const configs[4] = {"{}", "{\"context_length\": 99, \"note\": 1}",
                                           "{\"rope_theta\": 500000}", "{}"};
    uint8_t hash[4][16];
    struct part parts[GOOD];
    memcpy(parts, good, sizeof good);
    for (int i = 0; i < 4; i++) {
        struct lora *l;
        struct err e;
        if (i == 3)
            parts[5].bits++;
        write_adapter(parts, GOOD, configs[i]);
        assert_int_equal(open_adapter(&l, &e), 0);
        lora_hash(l, hash[i]);
        lora_close(l);
    }
    assert_memory_equal(hash[0], hash[1], 16);
    assert_memory_not_equal(hash[0], hash[2], 16);
    assert_memory_not_equal(hash[0], hash[3], 16);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    struct lora *l;
    struct err e;
    for (size_t n = 1; n < GOOD; n += 2) { /* half a pair */
        write_adapter(good, n, "{}");
        assert_int_equal(open_adapter(&l, &e), ERR_FORMAT);
    }
    write_adapter(good, 0, "{}");
    assert_int_equal(open_adapter(&l, &e), ERR_FORMAT);
    static const struct part bad[] = {
        {"blk.3.attn_q.weight.lora_a", "BF16", 8, 64, BF16_ONE},  /* no such layer */
        {"blk.00.attn_q.weight.lora_a", "BF16", 8, 64, BF16_ONE}, /* not how it is written */
        {"blk.-1.attn_q.weight.lora_a", "BF16", 8, 64, BF16_ONE},
        {"blk.0.ffn_up.weight.lora_a", "BF16", 8, 64, BF16_ONE}, /* would be left out of the sum */
        {"blk.0.attn_q.weight.lora_c", "BF16", 8, 64, BF16_ONE},
        {"blk.0.attn_q.weight.lora_ab", "BF16", 8, 64, BF16_ONE},
        {"blk.0.attn_q.weight.lora_a", "BF16", 8, 65, BF16_ONE}, /* columns */
        {"blk.0.attn_q.weight.lora_a", "BF16", 4, 64, BF16_ONE}, /* another rank than lora_b */
        {"blk.0.attn_q.weight.lora_a", "BF16", 0, 64, BF16_ONE}, /* rank 0 */
        {"blk.0.attn_q.weight.lora_a", "BF16", 2000, 64, BF16_ONE},
        {"blk.0.attn_q.weight.lora_a", "I16", 8, 64, BF16_ONE},
        {"blk.0.attn_q.weight.lora_a", "BF16", 8, 64, 0x7f80}, /* infinity */
        {"blk.0.attn_q.weight.lora_a", "BF16", 8, 64, 0xffc0}, /* NaN */
        {"blk.0.attn_q.weight.lora_a", "F16", 8, 64, 0x7c00},  /* infinity */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct part parts[2] = {bad[i], good[1]};
        write_adapter(parts, 2, "{}");
        int rc = open_adapter(&l, &e);
        if (rc != ERR_FORMAT && rc != ERR_UNSUPPORTED)
            fail_msg("case %zu gave %d", i, rc);
    }
    static const char *const configs[] = {"",
                                          "[]",
                                          "{\"rope_theta\": 1}",
                                          "{\"rope_theta\": \"x\"}",
                                          "{\"rope_theta\": -5}",
                                          "{\"context_length\": 0}",
                                          "{\"context_length\": 1e5}",
                                          "{\"context_length\": 99999999999}"};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        write_adapter(good, GOOD, configs[i]);
        if (open_adapter(&l, &e) != ERR_FORMAT)
            fail_msg("taken: %s", configs[i]);
    }
    assert_int_equal(lora_open("/nonexistent", model, kernels_get("ref"), &l, &e), ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_adapter_opens),
        cmocka_unit_test(it_adds_what_it_should),
        cmocka_unit_test(identity_is_tensors_and_base),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
