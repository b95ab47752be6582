/* SPDX-License-Identifier: Apache-2.0 */
/* engine_load.c - the policy of engine_load.h. A shipped file that should be there and is not is an error:
 * the same command must not quietly mean another model. */
#include "app/engine_load.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/output.h"
#include "engine/base/file.h"
#include "engine/model/model.h"
#include "kernels/device.h"

#define DEFAULT_ADAPTER "SmolLM2-135M-Instruct-128k"
#define DEFAULT_STEM "SmolLM2-135M-Instruct"
#define HEADS_FILE "full_attention_heads.tsv"

/* What the default model's adapter was made for. */
enum { DEFAULT_L = 30, DEFAULT_HK = 3, DEFAULT_C = 576 };

static int is_there(const char *folder, const char *name)
{
    char *path = path_join(folder, name);
    int yes = path && access(path, R_OK) == 0;
    free(path);
    return yes;
}

/* NAME or NAME.gguf in the models folder, or NULL. */
static char *within_models(const struct config *c, const char *name)
{
    struct buf file = {0};
    for (int with = 0; with < 2; with++) {
        buf_clear(&file);
        buf_printf(&file, "%s/%s%s", c->models_dir, name, with ? ".gguf" : "");
        if (!file.failed && access(file.data, F_OK) == 0)
            return buf_take(&file);
    }
    buf_free(&file);
    return NULL;
}

int app_model_path(const struct config *c, char **path, struct err *e)
{
    const char *wanted = c->model_option ? c->model_option : DEFAULT_MODEL_FILE;
    *path = NULL;
    if (c->model_option && access(wanted, F_OK) == 0)
        *path = strdup(wanted);
    else if (!strchr(wanted, '/'))
        *path = within_models(c, wanted);
    if (*path)
        return 0;
    if (!c->model_option || strcmp(wanted, DEFAULT_MODEL_FILE) == 0)
        return err_set(
            e, ERR_NOT_FOUND,
            "the default model is not in %s; fetch it (92 MB) with `lectern models get` or `make model`",
            c->models_dir);
    if (strchr(wanted, '/'))
        return err_set(e, ERR_NOT_FOUND, "no model %s", wanted);
    return err_set(e, ERR_NOT_FOUND,
                   "no model ‘%s’ here or in %s; `lectern models` lists those that are there", wanted,
                   c->models_dir);
}

/* ---- shapes ---- */

static size_t arch_number(const struct gguf *g, const char *what, size_t fallback)
{
    struct gguf_str arch = {0};
    uint64_t v = fallback;
    char key[96];
    if (!gguf_str(g, "general.architecture", &arch) || arch.len > 32)
        return 0;
    snprintf(key, sizeof key, "%.*s.%s", (int)arch.len, arch.data, what);
    gguf_u64(g, key, &v);
    return v <= SIZE_MAX ? (size_t)v : 0;
}

static int is_default_model(const struct app_choice *choice)
{
    const char *base = path_base(choice->model);
    return strncmp(base, DEFAULT_STEM, strlen(DEFAULT_STEM)) == 0 && choice->L == DEFAULT_L &&
           choice->HK == DEFAULT_HK && choice->C == DEFAULT_C;
}

/* ---- adapter and pattern ---- */

static int choose_adapter(const struct config *c, struct app_choice *out, struct err *e)
{
    if (strcmp(c->adapter, "none") == 0)
        return 0;
    if (strcmp(c->adapter, "auto") != 0) {
        out->adapter = strdup(c->adapter);
        if (!out->adapter)
            return err_memory(e, "a path");
        if (!is_there(out->adapter, "adapter.safetensors"))
            return err_set(e, ERR_NOT_FOUND, "%s is no adapter: there is no adapter.safetensors in it",
                           c->adapter);
        return 0;
    }
    if (!is_default_model(out))
        return 0;
    out->adapter = app_data_path(c, "adapters/" DEFAULT_ADAPTER);
    if (!out->adapter)
        return err_memory(e, "a path");
    if (!is_there(out->adapter, "adapter.safetensors") || !is_there(out->adapter, HEADS_FILE))
        return err_set(e, ERR_NOT_FOUND,
                       "the default model's adapter is not in %s; install Lectern again, or go without it: "
                       "--adapter none",
                       out->adapter);
    return 0;
}

/* "Meta Llama 3.1 8B Instruct" and "meta-llama-3.1-8b-instruct.Q4_0" name the same model as far as `folder`
 * goes: equal up to its length when case and punctuation are left aside, and then a boundary. */
static int names_match(const char *folder, const char *name, size_t n)
{
    size_t i = 0;
    for (; *folder; folder++) {
        if (!isalnum((unsigned char)*folder))
            continue;
        while (i < n && !isalnum((unsigned char)name[i]))
            i++;
        if (i == n || tolower((unsigned char)name[i]) != tolower((unsigned char)*folder))
            return 0;
        i++;
    }
    return i == n || !isalnum((unsigned char)name[i]);
}

/* The longest folder name in `all` that names this model; NULL when none does. The caller frees. */
static char *matching_pattern(const char *all, const char *file, struct gguf_str name)
{
    char *best = NULL;
    DIR *d = opendir(all);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        const char *folder = entry->d_name;
        if (folder[0] == '.' || (best && strlen(best) >= strlen(folder)))
            continue;
        if (!names_match(folder, file, strlen(file)) &&
            !(name.len && names_match(folder, name.data, name.len)))
            continue;
        free(best);
        best = strdup(folder);
    }
    if (d)
        closedir(d);
    return best;
}

/* A pattern that is shipped for a model of this name. */
static int choose_named_heads(const struct config *c, const struct gguf *g, struct app_choice *out,
                              struct err *e)
{
    struct gguf_str name = {0};
    gguf_str(g, "general.name", &name);
    char *all = app_data_path(c, "heads");
    if (!all)
        return err_memory(e, "a path");
    int rc = 0;
    char *found = matching_pattern(all, path_base(out->model), name);
    if (found && !(out->heads = path_join(all, found)))
        rc = err_memory(e, "a path");
    free(found);
    free(all);
    return rc;
}

static int choose_heads(const struct config *c, const struct gguf *g, struct app_choice *out, struct err *e)
{
    int rc = 0;
    if (strcmp(c->heads, "none") == 0)
        return 0;
    if (strcmp(c->heads, "auto") != 0) {
        out->heads = strdup(c->heads);
        if (!out->heads)
            return err_memory(e, "a path");
        if (!is_there(out->heads, HEADS_FILE))
            return err_set(e, ERR_NOT_FOUND, "%s holds no head pattern: there is no " HEADS_FILE " in it",
                           c->heads);
    } else if (out->adapter) {
        if (is_there(out->adapter, HEADS_FILE) && !(out->heads = strdup(out->adapter)))
            return err_memory(e, "a path");
    } else if (!is_default_model(out)) {
        rc = choose_named_heads(c, g, out, e);
    }
    return rc;
}

int app_choose(const struct config *c, struct app_choice *out, struct gguf **gguf, struct err *e)
{
    struct gguf *g = NULL;
    size_t H = 0;
    *out = (struct app_choice){0};
    if (gguf)
        *gguf = NULL;
    int rc = app_model_path(c, &out->model, e);
    if (!rc)
        rc = gguf_open(out->model, &g, e);
    if (!rc) {
        out->L = arch_number(g, "block_count", 0);
        out->C = arch_number(g, "embedding_length", 0);
        H = arch_number(g, "attention.head_count", 0);
        out->HK = arch_number(g, "attention.head_count_kv", H);
        rc = choose_adapter(c, out, e);
    }
    if (!rc)
        rc = choose_heads(c, g, out, e);
    /* Heads that are not grouped have more to spare: the paper's section 3. */
    out->sparsity = c->sparsity >= 0 ? c->sparsity : !out->heads ? 0 : out->HK == H ? 0.75 : 0.5;
    if (rc)
        app_choice_free(out);
    if (!rc && gguf)
        *gguf = g;
    else
        gguf_close(g);
    return rc;
}

void app_choice_free(struct app_choice *choice)
{
    free(choice->model);
    free(choice->adapter);
    free(choice->heads);
    *choice = (struct app_choice){0};
}

/* ---- loading ---- */

int app_weights(const struct config *c)
{
    static const struct {
        const char *name;
        enum device_weight_format format;
    } all[] = {{"f16", DEVICE_W_F16},
               {"bf16", DEVICE_W_BF16},
               {"fp8", DEVICE_W_FP8},
               {"w8", DEVICE_W_W8},
               {"w4", DEVICE_W_W4}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strcmp(c->weights, all[i].name) == 0)
            return all[i].format;
    return DEVICE_W_AUTO;
}

int app_engine_open(const struct config *c, struct engine **out, struct err *e)
{
    struct app_choice choice;
    *out = NULL;
    int rc = app_choose(c, &choice, NULL, e);
    if (rc)
        return rc;
    struct engine_options options = {.model_path = choice.model,
                                     .adapter_path = choice.adapter,
                                     .heads_path = choice.heads,
                                     .sparsity = choice.sparsity,
                                     .sink = c->sink,
                                     .recent = c->recent,
                                     .kv_format = c->kv_format,
                                     .threads = c->threads,
                                     .kernels = c->kernels,
                                     .device = c->device,
                                     .weights = app_weights(c),
                                     .context = (size_t)c->context};
    rc = engine_open(out, &options, e);
    if ((rc == ERR_MEMORY || rc == ERR_UNSUPPORTED) && strcmp(c->device, "auto") == 0 && !options.weights &&
        !options.context) { /* nobody asked for the card */
        struct err why = *e;
        options.device = "cpu";
        rc = engine_open(out, &options, e);
        if (!rc) {
            output_notice(c, "the processor computes: %s", why.text);
            *e = (struct err){0};
        }
    }
    app_choice_free(&choice);
    if (!rc && options.weights && strcmp(engine_device(*out), "cpu") == 0)
        output_notice(
            c, "the processor computes with the weights as the file has them: --weights %s is for a card",
            c->weights);
    return rc;
}

int app_tokenizer_open(const struct config *c, struct tokenizer **out, struct err *e)
{
    struct gguf *g = NULL;
    char *path;
    *out = NULL;
    int rc = app_model_path(c, &path, e);
    if (!rc)
        rc = gguf_open(path, &g, e);
    if (!rc)
        rc = tokenizer_open(g, out, e);
    gguf_close(g);
    free(path);
    return rc;
}

int app_context_check(const struct config *c, const struct engine *g, size_t tokens, struct err *e)
{
    size_t trained = engine_context(g);
    if (tokens <= trained)
        return 0;
    if (c->long_context) {
        output_notice(c,
                      "%zu tokens are more than the %zu that the model was trained for; answers from the "
                      "part beyond may be poor",
                      tokens, trained);
        return 0;
    }
    return err_set(e, ERR_LIMIT,
                   "%zu tokens are %zu more than the %zu that the model was trained for; read less, choose a "
                   "model or an adapter with a longer context, or allow it with --long",
                   tokens, tokens - trained, trained);
}
