/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_models.c - the models folder: what is in it, what a file says about itself, fetching the default one.
 *
 * Files are opened through the checked GGUF reader and never loaded; a damaged one is listed as such. The
 * download is data/models/fetch.sh, which checks the hash; this is the one command that uses the network.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/commands.h"
#include "app/engine_load.h"
#include "app/output.h"
#include "engine/base/file.h"
#include "engine/model/gguf.h"
#include "engine/token/chat.h"
#include "ingest/utf8_repair.h"
#include "kernels/kernels.h"
#include "ui/filter.h"
#include "ui/human.h"

extern char **environ;

/* ---- reading a file's own words ---- */

static struct gguf_str text_of(const struct gguf *g, const char *key)
{
    struct gguf_str s = {.data = "", .len = 0};
    gguf_str(g, key, &s);
    return s;
}

/* "llama.block_count" and kin; 0 when it is not said. */
static uint64_t arch_u64(const struct gguf *g, const char *what)
{
    struct gguf_str arch = text_of(g, "general.architecture");
    char key[128];
    uint64_t v = 0;
    snprintf(key, sizeof key, "%.*s.%s", (int)(arch.len > 40 ? 40 : arch.len), arch.data, what);
    gguf_u64(g, key, &v);
    return v;
}

static double arch_f64(const struct gguf *g, const char *what)
{
    struct gguf_str arch = text_of(g, "general.architecture");
    char key[128];
    double v = 0;
    snprintf(key, sizeof key, "%.*s.%s", (int)(arch.len > 40 ? 40 : arch.len), arch.data, what);
    gguf_f64(g, key, &v);
    return v;
}

static struct gguf_str arch_text(const struct gguf *g, const char *what)
{
    struct gguf_str arch = text_of(g, "general.architecture");
    char key[128];
    snprintf(key, sizeof key, "%.*s.%s", (int)(arch.len > 40 ? 40 : arch.len), arch.data, what);
    return text_of(g, key);
}

/* ---- list ---- */

struct listed {
    char *name;
    uint64_t size;
    char arch[41];
    uint64_t layers, context;
    struct err err; /* why it cannot be opened */
};

struct listing {
    struct listed *items;
    size_t n;
};

static int is_gguf(const struct dirent *d)
{
    size_t n = strlen(d->d_name);
    return d->d_name[0] != '.' && n > 5 && strcmp(d->d_name + n - 5, ".gguf") == 0;
}

static void examine(const char *folder, struct listed *m)
{
    struct gguf *g = NULL;
    struct stat st;
    char *path = path_join(folder, m->name);
    if (!path || stat(path, &st)) {
        err_set(&m->err, ERR_IO, "cannot be examined");
    } else {
        m->size = (uint64_t)st.st_size;
        if (!gguf_open(path, &g, &m->err)) {
            struct gguf_str arch = text_of(g, "general.architecture");
            snprintf(m->arch, sizeof m->arch, "%.*s", (int)(arch.len > 40 ? 40 : arch.len), arch.data);
            m->layers = arch_u64(g, "block_count");
            m->context = arch_u64(g, "context_length");
        }
    }
    gguf_close(g);
    free(path);
}

static int scan(const struct config *c, struct listing *out, struct err *e)
{
    struct dirent **names = NULL;
    int n = scandir(c->models_dir, &names, is_gguf, alphasort);
    if (n < 0 && errno == ENOENT)
        return 0;
    if (n < 0)
        return err_errno(e, errno, "cannot read %s", c->models_dir);
    out->items = calloc((size_t)n + 1, sizeof *out->items);
    for (int i = 0; i < n; i++) {
        struct listed *m = out->items ? &out->items[out->n] : NULL;
        if (m && (m->name = strdup(names[i]->d_name))) {
            examine(c->models_dir, m);
            out->n++;
        }
        free(names[i]);
    }
    free(names);
    return out->items && out->n == (size_t)n ? 0 : err_memory(e, "the list of models");
}

static int list_json(const struct config *c, const struct listing *l, struct err *e)
{
    json_t *models = json_array();
    for (size_t i = 0; i < l->n; i++) {
        const struct listed *m = &l->items[i];
        json_t *o = json_pack("{s:o?, s:I, s:b}", "file", output_json_text(m->name, strlen(m->name)), "size",
                              (json_int_t)m->size, "default", strcmp(m->name, DEFAULT_MODEL_FILE) == 0);
        if (m->err.code)
            json_object_set_new(o, "error", output_json_text(m->err.text, strlen(m->err.text)));
        else
            json_object_update_new(o, json_pack("{s:o?, s:I, s:I}", "architecture",
                                                output_json_text(m->arch, strlen(m->arch)), "layers",
                                                (json_int_t)m->layers, "context", (json_int_t)m->context));
        if (json_array_append_new(models, o)) {
            json_decref(models);
            return err_memory(e, "JSON");
        }
    }
    return output_json(json_pack("{s:o?, s:o}", "folder",
                                 output_json_text(c->models_dir, strlen(c->models_dir)), "models", models),
                       e);
}

static int list_text(const struct config *c, const struct listing *l, struct err *e)
{
    struct buf out = {0};
    for (size_t i = 0; i < l->n; i++) {
        const struct listed *m = &l->items[i];
        size_t at = out.len;
        utf8_clean_label(&out, m->name, 200);
        size_t used = out.data ? filter_width(out.data + at, out.len - at) : 0;
        buf_printf(&out, "%*s", used < 40 ? (int)(40 - used) : 0, "");
        struct buf size = {0};
        human_bytes(&size, m->size);
        buf_printf(&out, "  %9s  ", size.data ? size.data : "");
        buf_free(&size);
        if (m->err.code) {
            utf8_clean_label(&out, m->err.text, 400);
        } else {
            utf8_clean_label(&out, m->arch, 40);
            buf_printf(&out, ", %" PRIu64 " layers, ", m->layers);
            human_count(&out, m->context);
            buf_puts(&out, " tokens");
        }
        buf_puts(&out, strcmp(m->name, DEFAULT_MODEL_FILE) == 0 ? "  (default)\n" : "\n");
    }
    int rc = out.failed ? err_memory(e, "the list") : 0;
    if (!rc && out.len)
        rc = output_text(out.data, out.len, e);
    if (!rc && !l->n)
        output_notice(c, "there is no model in %s; fetch the default one with `lectern models get`",
                      c->models_dir);
    buf_free(&out);
    return rc;
}

static int list_models(const struct config *c, struct err *e)
{
    struct listing l = {0};
    int rc = scan(c, &l, e);
    if (!rc)
        rc = c->json ? list_json(c, &l, e) : list_text(c, &l, e);
    for (size_t i = 0; i < l.n; i++)
        free(l.items[i].name);
    free(l.items);
    return rc;
}

/* ---- show ---- */

struct facts {
    uint64_t L, C, H, HK, D, F, V, context, size, parameters;
    double rope_base, norm_eps, rope_factor;
    struct gguf_str arch, name, scaling, tokenizer, pre;
    const char *template_kind;
    size_t kv4, kv8, raw; /* bytes of a token when every head retrieves; 0 = such heads are not handled */
};

/* The names and order of JSON and text are one table's. */
struct fact {
    const char *label, *key;
    uint64_t number;
    struct gguf_str text;
    double real;
    enum { FACT_NUMBER, FACT_BYTES, FACT_TEXT, FACT_REAL } kind;
};

static void count_tensors(const struct gguf *g, uint64_t by_type[64], uint64_t *parameters)
{
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        *parameters += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        if (t->type < 64)
            by_type[t->type]++;
    }
}

/* Of every layer and head, with the scan summary. */
static size_t token_bytes(const struct facts *f, int format)
{
    size_t page = kv_page_bytes(format, (size_t)f->D);
    return page ? (size_t)(f->L * f->HK) * (page + kv_scan_bytes((size_t)f->D)) / KV_PAGE_TOKENS : 0;
}

static int gather(const struct gguf *g, struct facts *f, struct err *e)
{
    struct tokenizer *t = NULL;
    struct chat *chat = NULL;
    struct gguf_array tokens = {0};
    *f = (struct facts){.L = arch_u64(g, "block_count"),
                        .C = arch_u64(g, "embedding_length"),
                        .H = arch_u64(g, "attention.head_count"),
                        .HK = arch_u64(g, "attention.head_count_kv"),
                        .D = arch_u64(g, "attention.key_length"),
                        .F = arch_u64(g, "feed_forward_length"),
                        .context = arch_u64(g, "context_length"),
                        .rope_base = arch_f64(g, "rope.freq_base"),
                        .rope_factor = arch_f64(g, "rope.scaling.factor"),
                        .norm_eps = arch_f64(g, "attention.layer_norm_rms_epsilon"),
                        .arch = text_of(g, "general.architecture"),
                        .name = text_of(g, "general.name"),
                        .scaling = arch_text(g, "rope.scaling.type"),
                        .tokenizer = text_of(g, "tokenizer.ggml.model"),
                        .pre = text_of(g, "tokenizer.ggml.pre")};
    size_t size;
    gguf_bytes(g, &size);
    f->size = size;
    if (gguf_array(g, "tokenizer.ggml.tokens", &tokens))
        f->V = tokens.n;
    f->HK = f->HK ? f->HK : f->H;
    f->D = f->D ? f->D : f->H ? f->C / f->H : 0;
    if (f->L <= 1024 && f->HK <= 1024 && f->D <= 1024) {
        f->kv4 = token_bytes(f, KV_4);
        f->kv8 = token_bytes(f, KV_8);
        f->raw = token_bytes(f, KV_RAW);
    }
    int rc = tokenizer_open(g, &t, e);
    if (!rc)
        rc = chat_open(t, g, &chat, e);
    if (!rc)
        f->template_kind = chat_kind_name(chat_kind(chat));
    chat_close(chat);
    tokenizer_close(t);
    return rc;
}

static struct gguf_str as_text(const char *text)
{
    return (struct gguf_str){.data = text, .len = strlen(text)};
}

enum { FACTS = 21 };

static size_t table_of(const struct facts *f, struct fact out[FACTS])
{
#define NUMBER(l, k, v)                                                                                      \
    {                                                                                                        \
        .label = l, .key = k, .number = v, .kind = FACT_NUMBER                                               \
    }
#define BYTES(l, k, v)                                                                                       \
    {                                                                                                        \
        .label = l, .key = k, .number = v, .kind = FACT_BYTES                                                \
    }
#define TEXT(l, k, v)                                                                                        \
    {                                                                                                        \
        .label = l, .key = k, .text = v, .kind = FACT_TEXT                                                   \
    }
#define REAL(l, k, v)                                                                                        \
    {                                                                                                        \
        .label = l, .key = k, .real = v, .kind = FACT_REAL                                                   \
    }
    const struct fact table[] = {
        TEXT("name", "name", f->name),
        TEXT("architecture", "architecture", f->arch),
        BYTES("file", "size", f->size),
        NUMBER("parameters", "parameters", f->parameters),
        NUMBER("layers", "layers", f->L),
        NUMBER("hidden width", "hidden_width", f->C),
        NUMBER("query heads", "query_heads", f->H),
        NUMBER("KV heads", "kv_heads", f->HK),
        NUMBER("head width", "head_width", f->D),
        NUMBER("ffn width", "ffn_width", f->F),
        NUMBER("vocabulary", "vocabulary", f->V),
        NUMBER("context trained", "context", f->context),
        REAL("norm epsilon", "norm_eps", f->norm_eps),
        REAL("RoPE base", "rope_base", f->rope_base),
        TEXT("RoPE scaling", "rope_scaling", f->scaling.len ? f->scaling : as_text("none")),
        TEXT("tokenizer", "tokenizer", f->tokenizer),
        TEXT("pre-tokenizer", "pre_tokenizer", f->pre),
        TEXT("template", "template", as_text(f->template_kind ? f->template_kind : "none")),
        BYTES("KV of a token, kv4", "kv_bytes_per_token_kv4", f->kv4),
        BYTES("KV of a token, kv8", "kv_bytes_per_token_kv8", f->kv8),
        BYTES("KV of a token, raw", "kv_bytes_per_token_raw", f->raw),
    };
#undef NUMBER
#undef BYTES
#undef TEXT
#undef REAL
    _Static_assert(sizeof table / sizeof table[0] == FACTS, "FACTS counts the table");
    memcpy(out, table, sizeof table);
    return FACTS;
}

static int show_json(const char *path, const struct fact *facts, size_t n, const uint64_t by_type[64],
                     struct err *e)
{
    json_t *o = json_object(), *types = json_object();
    int bad = json_object_set_new(o, "path", output_json_text(path, strlen(path)));
    for (size_t i = 0; i < n; i++) {
        const struct fact *f = &facts[i];
        json_t *v = f->kind == FACT_TEXT   ? output_json_text(f->text.data, f->text.len)
                    : f->kind == FACT_REAL ? json_real(f->real)
                                           : json_integer((json_int_t)f->number);
        bad |= json_object_set_new(o, f->key, v);
    }
    for (uint32_t t = 0; t < 64; t++) {
        char room[24];
        if (by_type[t])
            bad |= json_object_set_new(types, gguf_tensor_type_name(t, room),
                                       json_integer((json_int_t)by_type[t]));
    }
    bad |= json_object_set_new(o, "tensors", types);
    if (bad) {
        json_decref(o);
        return err_memory(e, "JSON");
    }
    return output_json(o, e);
}

static int show_text(const char *path, const struct fact *facts, size_t n, const uint64_t by_type[64],
                     struct err *e)
{
    struct buf out = {0};
    buf_printf(&out, "%-22s  ", "path");
    utf8_clean_label(&out, path, 400);
    for (size_t i = 0; i < n; i++) {
        const struct fact *f = &facts[i];
        if (f->kind == FACT_TEXT && !f->text.len)
            continue;
        buf_printf(&out, "\n%-22s  ", f->label);
        if (f->kind == FACT_NUMBER || (f->kind == FACT_BYTES && f->number < 10000000))
            human_count(&out, f->number);
        if (f->kind == FACT_BYTES)
            f->number < 10000000 ? buf_puts(&out, " bytes") : human_bytes(&out, f->number);
        if (f->kind == FACT_REAL)
            buf_printf(&out, "%.9g", f->real);
        if (f->kind == FACT_TEXT) {
            struct buf text = {0};
            buf_add(&text, f->text.data, f->text.len);
            if (text.data)
                utf8_clean_label(&out, text.data, 200);
            out.failed |= text.failed;
            buf_free(&text);
        }
    }
    buf_printf(&out, "\n%-22s ", "tensors");
    for (uint32_t t = 0; t < 64; t++) {
        char room[24];
        if (by_type[t])
            buf_printf(&out, " %" PRIu64 " %s", by_type[t], gguf_tensor_type_name(t, room));
    }
    buf_putc(&out, '\n');
    int rc = out.failed ? err_memory(e, "the text") : output_text(out.data, out.len, e);
    buf_free(&out);
    return rc;
}

static int show_model(const struct config *given, struct err *e)
{
    struct config c = *given; /* borrowed strings only; not finished here */
    struct gguf *g = NULL;
    struct facts facts;
    struct fact table[FACTS];
    uint64_t by_type[64] = {0};
    char *path = NULL;
    if (given->n_args)
        c.model_option = given->args[0];
    int rc = app_model_path(&c, &path, e);
    if (!rc)
        rc = gguf_open(path, &g, e);
    if (!rc)
        rc = gather(g, &facts, e);
    if (!rc) {
        count_tensors(g, by_type, &facts.parameters);
        size_t n = table_of(&facts, table);
        rc = c.json ? show_json(path, table, n, by_type, e) : show_text(path, table, n, by_type, e);
    }
    gguf_close(g);
    free(path);
    return rc;
}

/* ---- get ---- */

/* The one model that can be fetched goes by its name, its file's name, or nothing. */
static int check_fetchable(const char *manifest, const char *wanted, struct err *e)
{
    json_error_t je;
    json_t *m = json_load_file(manifest, 0, &je);
    const char *name = NULL, *file = NULL;
    if (!m || json_unpack(m, "{s:[{s:s, s:s}]}", "models", "name", &name, "file", &file)) {
        json_decref(m);
        return err_set(e, ERR_FORMAT, "%s is missing or damaged; install Lectern again", manifest);
    }
    int rc = 0;
    if (wanted && strcmp(wanted, name) != 0 && strcmp(wanted, file) != 0)
        rc =
            err_set(e, ERR_NOT_FOUND,
                    "only ‘%s’ can be fetched; put the GGUF file of another model into the models folder, or "
                    "name its path with --model",
                    name);
    json_decref(m);
    return rc;
}

static int run_script(const char *script, struct err *e)
{
    char *argv[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t)script, NULL};
    posix_spawnattr_t attr;
    sigset_t pipe_signal;
    pid_t pid;
    int status = 0;
    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE); /* ignored here; the script's own children expect the default */
    if (posix_spawnattr_init(&attr))
        return err_memory(e, "a process");
    posix_spawnattr_setsigdefault(&attr, &pipe_signal);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF);
    int failed = posix_spawn(&pid, "/bin/sh", NULL, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    if (failed)
        return err_errno(e, failed, "cannot run %s", script);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return err_errno(e, errno, "cannot wait for %s", script);
    if (WIFSIGNALED(status))
        return err_set(e, ERR_CANCELLED, "fetching was stopped by signal %d; nothing was kept",
                       WTERMSIG(status));
    if (WEXITSTATUS(status))
        return err_set(e, ERR_IO, "the model was not fetched; the lines above say why");
    return 0;
}

static int get_model(const struct config *c, struct err *e)
{
    char *script = app_data_path(c, "models/fetch.sh"), *manifest = app_data_path(c, "models/manifest.json");
    int rc = script && manifest ? 0 : err_memory(e, "a path");
    if (!rc && access(script, R_OK))
        rc = err_errno(e, errno, "cannot read %s; install Lectern again", script);
    if (!rc)
        rc = check_fetchable(manifest, c->n_args ? c->args[0] : NULL, e);
    if (!rc)
        rc = run_script(script, e);
    if (!rc)
        output_notice(c, "%s/%s is there, and its hash is right", c->models_dir, DEFAULT_MODEL_FILE);
    free(script);
    free(manifest);
    return rc;
}

int cmd_models(const struct config *c, struct err *e)
{
    if (strcmp(c->sub, "get") == 0)
        return get_model(c, e);
    return strcmp(c->sub, "show") == 0 ? show_model(c, e) : list_models(c, e);
}
