/* SPDX-License-Identifier: Apache-2.0 */
/* doctor_card.c - the graphics card: its name and memory, whether it is used and if not why, and how many
 * tokens of the chosen model have room. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/doctor.h"
#include "app/engine_load.h"
#include "engine/base/file.h"
#include "engine/device/device_plan.h"
#include "engine/duo/heads.h"
#include "ui/human.h"

static void driver_line(struct doctor *d)
{
    char *text = NULL;
    size_t n;
    struct err ignored;
    const char *version = NULL;
    if (file_read("/proc/driver/nvidia/version", 1 << 16, &text, &n, &ignored) == 0) {
        text[strcspn(text, "\n")] = '\0';
        version = strchr(text, ':');
        version = version ? version + 1 + strspn(version + 1, " \t") : text;
    }
    doctor_add(d, "gpu", "nvidia_driver", DOCTOR_FINE, version ? doctor_string(version) : json_null(), "%s",
               version ? version : "not present");
    free(text);
}

static void card_lines(struct doctor *d, const struct device_info *i)
{
    struct buf total = {0}, left = {0};
    human_bytes(&total, i->memory);
    human_bytes(&left, i->memory_free);
    doctor_add(d, "gpu", "card", DOCTOR_FINE, doctor_string(i->name),
               "%s, compute capability %d.%d, %d processors", i->name, i->major, i->minor, i->processors);
    doctor_add(d, "gpu", "memory", DOCTOR_FINE, json_integer((json_int_t)i->memory), "%s",
               total.data ? total.data : "");
    doctor_add(d, "gpu", "memory_free", DOCTOR_FINE, json_integer((json_int_t)i->memory_free), "%s",
               left.data ? left.data : "");
    doctor_add(d, "gpu", "kernels", DOCTOR_FINE, json_string(i->hopper ? "sm_90a" : "sm_80"),
               "%s (driver for CUDA %d.%d, built with %d.%d)", i->hopper ? "sm_90a" : "sm_80",
               i->driver / 1000, i->driver % 1000 / 10, i->runtime / 1000, i->runtime % 1000 / 10);
    buf_free(&total);
    buf_free(&left);
}

/* ---- what fits ---- */

static size_t number(const struct gguf *g, const char *what, size_t fallback)
{
    struct gguf_str arch = {0};
    uint64_t v = fallback;
    char key[96];
    if (!gguf_str(g, "general.architecture", &arch) || arch.len > 32)
        return 0;
    snprintf(key, sizeof key, "%.*s.%s", (int)arch.len, arch.data, what);
    gguf_u64(g, key, &v);
    return v <= 1 << 30 ? (size_t)v : 0;
}

/* The shape as far as sizes go; 0 when the file does not say all of it. */
static int shape_of(const struct gguf *g, struct device_shape *s)
{
    const struct gguf_tensor *embed = gguf_tensor(g, "token_embd.weight");
    *s = (struct device_shape){
        .name = "", .L = number(g, "block_count", 0), .C = number(g, "embedding_length", 0)};
    s->H = number(g, "attention.head_count", 0);
    s->HK = number(g, "attention.head_count_kv", s->H);
    s->F = number(g, "feed_forward_length", 0);
    s->D = number(g, "attention.key_length", s->H ? s->C / s->H : 0);
    s->V = embed && embed->dims[1] <= 1 << 30 ? (size_t)embed->dims[1] : 0;
    s->qkv_bias = gguf_tensor(g, "blk.0.attn_q.bias") != NULL;
    return s->L && s->L <= 4096 && s->C && s->H && s->HK && s->HK <= 4096 && s->H % s->HK == 0 && s->F &&
           s->D && s->V;
}

static int layout_of(const struct config *c, const struct app_choice *choice, const struct device_shape *s,
                     struct cache_layout *y, struct err *e)
{
    struct heads *heads = NULL;
    uint8_t *retrieval = calloc(s->L, s->HK);
    int rc = retrieval ? 0 : err_memory(e, "the head pattern");
    if (!rc)
        rc = choice->heads ? heads_open(choice->heads, s->L, s->HK, &heads, e)
                           : heads_all_retrieval(s->L, s->HK, &heads, e);
    if (!rc)
        rc = heads_split(heads, choice->sparsity, retrieval, e);
    if (!rc)
        rc = cache_layout_init(y, s->L, s->HK, s->D, c->sink >= 0 ? (size_t)c->sink : heads->S,
                               c->recent >= 0 ? (size_t)c->recent : heads->R, c->kv_format, retrieval, e);
    heads_close(heads);
    free(retrieval);
    return rc;
}

static void tokens_word(struct buf *text, size_t tokens)
{
    if (tokens == SIZE_MAX)
        buf_puts(text, "any number");
    else
        human_count(text, tokens);
}

static void plan_lines(struct doctor *d, const struct config *c, const struct device_plan_input *in,
                       const struct device_plan *p)
{
    struct err e = {0};
    struct buf card = {0}, all = {0}, weights = {0}, block = {0};
    human_bytes(&weights, p->weights);
    human_bytes(&block, p->block_bytes);
    doctor_add(d, "gpu", "weights", DOCTOR_FINE, json_integer((json_int_t)p->weights), "%s (--weights %s)",
               weights.data ? weights.data : "", c->weights);
    tokens_word(&card, p->fit_card);
    tokens_word(&all, p->fit_all);
    if (device_plan_check(in, p, &e))
        doctor_add(d, "gpu", "tokens_that_fit", DOCTOR_PROBLEM, json_integer(0), "%s", e.text);
    else
        doctor_add(d, "gpu", "tokens_that_fit", DOCTOR_FINE,
                   p->fit_card < SIZE_MAX ? json_integer((json_int_t)p->fit_card) : json_null(),
                   "%s on the card, %s with host memory; %s for each 1,024", card.data ? card.data : "",
                   all.data ? all.data : "", block.data ? block.data : "");
    buf_free(&card);
    buf_free(&all);
    buf_free(&weights);
    buf_free(&block);
}

/* A model that cannot be read is doctor_model's to report. */
static void fit_lines(struct doctor *d, const struct config *c, struct device *device)
{
    struct app_choice choice;
    struct gguf *g = NULL;
    struct err e = {0};
    struct device_shape shape;
    struct cache_layout layout = {0};
    if (app_choose(c, &choice, &g, &e))
        return;
    if (shape_of(g, &shape) && layout_of(c, &choice, &shape, &layout, &e) == 0) {
        enum device_weight_format format = (enum device_weight_format)app_weights(c);
        struct device_plan_input in = {.shape = shape,
                                       .layout = &layout,
                                       .weights = plan_weights_of_file(g, &shape, format),
                                       .context = (size_t)c->context};
        struct device_plan plan;
        if (device_plan_ask(device, &in, &plan, &e) == 0)
            plan_lines(d, c, &in, &plan);
    }
    cache_layout_fini(&layout);
    gguf_close(g);
    app_choice_free(&choice);
}

void doctor_gpu(struct doctor *d, const struct config *c)
{
    struct device *device;
    struct device_info info;
    struct err e = {0};
    driver_line(d);
    int rc = device_open(&device, "cuda", NULL, 0, &e);
    if (rc) {
        static const char prefix[] = "CUDA is not used: ";
        const char *why = strncmp(e.text, prefix, strlen(prefix)) ? e.text : e.text + strlen(prefix);
        int asked = strcmp(c->device, "cuda") == 0;
        doctor_add(d, "gpu", "cuda", asked ? DOCTOR_PROBLEM : DOCTOR_FINE, json_null(), "not used: %s", why);
        return;
    }
    device->ops->info(device, &info);
    card_lines(d, &info);
    int used = strcmp(c->device, "cpu") != 0 && strcmp(c->device, "host") != 0;
    doctor_add(d, "gpu", "cuda", DOCTOR_FINE, json_string(used ? "used" : "not used"), "%s%s",
               used ? "used" : "not used: --device ", used ? "" : c->device);
    fit_lines(d, c, device);
    device_close(device);
}
