/* SPDX-License-Identifier: Apache-2.0 */
/* The default model and its adapter, as shipped: hyper-parameters, shapes, identity. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/base/file.h"
#include "engine/model/lora.h"
#include "engine/model/rope_table.h"
#include "tests/support/temp.h"

static char *model_file(void)
{
    const char *given = getenv("LECTERN_TEST_MODEL");
    if (given)
        return strdup(given);
    char *cache = path_xdg("XDG_CACHE_HOME", ".cache");
    char *path = cache ? path_join(cache, "models/SmolLM2-135M-Instruct.Q4_1.gguf") : NULL;
    free(cache);
    return path;
}

static void default_model_and_adapter(void **state)
{
    (void)state;
    char *path = model_file();
    if (!path || access(path, R_OK)) {
        free(path);
        skip();
    }
    struct pool *pool;
    struct model *m;
    struct lora *l;
    struct err e = {0};
    assert_int_equal(pool_create(&pool, 2, &e), 0);
    if (model_open(path, kernels_get(NULL), pool, NULL, &m, &e))
        fail_msg("%s", e.text);
    const struct model_params *p = model_params(m);
    assert_int_equal(p->L, 30);
    assert_int_equal(p->C, 576);
    assert_int_equal(p->H, 9);
    assert_int_equal(p->HK, 3);
    assert_int_equal(p->D, 64);
    assert_int_equal(p->F, 1536);
    assert_int_equal(p->V, 49152);
    assert_int_equal(p->context_train, 8192);
    assert_true(p->tied_output && !p->has_qkv_bias && p->rope.kind == ROPE_PAIRS);
    assert_true(p->rope.base == 100000 && p->rope.scaling == MODEL_SCALING_NONE && p->rope.dims == 64);
    assert_int_equal(model_weights(m)->embed_type, TENSOR_Q8_0);
    assert_int_equal(model_bytes(m), 98362432);

    struct mapping map;
    uint8_t hash[16];
    assert_int_equal(mapping_open(&map, path, &e), 0);
    XXH128_canonical_t want;
    XXH128_canonicalFromHash(&want, XXH3_128bits(map.data, map.size));
    mapping_close(&map);
    model_hash(m, hash);
    assert_memory_equal(hash, want.digest, 16);

    const char *root = getenv("LECTERN_ROOT");
    char *adapter = temp_path(root ? root : ".", "data/adapters/SmolLM2-135M-Instruct-128k");
    if (lora_open(adapter, m, kernels_get(NULL), &l, &e))
        fail_msg("%s", e.text);
    assert_true(lora_rope_base(l) == 8600000);
    assert_int_equal(lora_context(l), 131072);
    assert_int_equal(lora_max_rank(l), 32);
    for (size_t i = 0; i < 30; i++)
        for (int t = 0; t < LORA_TARGETS; t++) {
            const struct lora_pair *x = lora_pair(l, i, (enum lora_target)t);
            assert_int_equal(x->rank, 32);
            assert_int_equal(weight_cols(x->a), 576);
            assert_int_equal(weight_rows(x->b), t == LORA_K || t == LORA_V ? 192 : 576);
        }
    lora_close(l);
    model_close(m);
    pool_free(pool);
    free(adapter);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(default_model_and_adapter)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
