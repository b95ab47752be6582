/* llama_dump.c - golden data from llama.cpp: token ids and logits.
 *
 * Build, with LLAMA = llama.cpp's source and BUILD = its CMake build folder:
 *   cc -std=c11 -O2 -Wall -Wextra -isystem $LLAMA/include -isystem $LLAMA/ggml/include \
 *      -o llama_dump llama_dump.c -L$BUILD/bin -lllama -lggml -lggml-base \
 *      -Wl,-rpath,$BUILD/bin
 *
 * llama_dump tokenize MODEL TEXTFILE [--special]
 *     Token ids of the whole file, one a line; nothing added at either end.
 *     With --special the text of special tokens becomes those tokens.
 * llama_dump logits MODEL IDSFILE OUT [--lora FILE] [--rope-freq-base F] [--ctx N]
 *                   [--fa 0|1] [--no-repack]
 *     Evaluates the ids (decimal, white space between) as one sequence from
 *     position 0: f16 KV cache, flash attention on, batches of 512, 2 threads.
 *     Writes float32 logits [T][V], native (little) endian.
 */
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama.h"

enum { N_BATCH = 512, N_THREADS = 2 };

static void die(const char *what, const char *arg)
{
    fprintf(stderr, "llama_dump: %s%s%s\n", what, arg ? ": " : "", arg ? arg : "");
    exit(1);
}

static void log_errors(enum ggml_log_level level, const char *text, void *user)
{
    static bool printing;   /* whether a GGML_LOG_LEVEL_CONT line goes on */
    (void)user;
    if (level != GGML_LOG_LEVEL_CONT)
        printing = level == GGML_LOG_LEVEL_ERROR;
    if (printing)
        fputs(text, stderr);
}

static char *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        die("cannot open", path);
    size_t cap = 1 << 16, n = 0, got;
    char *buf = malloc(cap + 1);
    while (buf && (got = fread(buf + n, 1, cap - n, f)) > 0) {
        n += got;
        if (n == cap)
            buf = realloc(buf, (cap *= 2) + 1);
    }
    if (!buf || ferror(f))
        die("cannot read", path);
    fclose(f);
    buf[n] = 0;
    *len = n;
    return buf;
}

static struct llama_model *load(const char *path, bool vocab_only, bool repack)
{
    struct llama_model_params mp = llama_model_default_params();
    mp.vocab_only = vocab_only;
    mp.use_extra_bufts = repack;
    struct llama_model *model = llama_model_load_from_file(path, mp);
    if (!model)
        die("cannot load the model", path);
    return model;
}

static int cmd_tokenize(const char *model_path, const char *text_path, bool special)
{
    struct llama_model *model = load(model_path, true, false);
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    size_t len;
    char *text = read_file(text_path, &len);
    if (len > INT_MAX / 2)
        die("too long", text_path);
    int32_t cap = (int32_t)len + 1;
    llama_token *ids = malloc((size_t)cap * sizeof *ids);
    if (!ids)
        die("out of memory", NULL);
    int32_t n = llama_tokenize(vocab, text, (int32_t)len, ids, cap, false, special);
    if (n < 0)
        die("more tokens than bytes", text_path);
    for (int32_t i = 0; i < n; i++)
        printf("%d\n", ids[i]);
    free(ids);
    free(text);
    llama_model_free(model);
    return 0;
}

static llama_token *read_ids(const char *path, int32_t n_vocab, int32_t *count)
{
    size_t len;
    char *text = read_file(path, &len), *p = text, *end;
    llama_token *ids = malloc((len / 2 + 1) * sizeof *ids);
    int32_t n = 0;
    if (!ids)
        die("out of memory", NULL);
    for (;; p = end) {
        long id = strtol(p, &end, 10);
        if (end == p)
            break;
        if (id < 0 || id >= n_vocab)
            die("token id out of range", path);
        ids[n++] = (llama_token)id;
    }
    if (n == 0 || p[strspn(p, " \t\r\n")] != 0)
        die("not a list of token ids", path);
    free(text);
    *count = n;
    return ids;
}

static int cmd_logits(int argc, char **argv)
{
    const char *lora = NULL;
    float rope_freq_base = 0;
    int n_ctx = 0, fa = 1;
    bool repack = true;
    for (int i = 3; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--no-repack") == 0) {
            repack = false;
            continue;
        }
        if (!value)
            die("bad option", argv[i]);
        if (strcmp(argv[i], "--lora") == 0)
            lora = value;
        else if (strcmp(argv[i], "--rope-freq-base") == 0)
            rope_freq_base = strtof(value, NULL);
        else if (strcmp(argv[i], "--ctx") == 0)
            n_ctx = atoi(value);
        else if (strcmp(argv[i], "--fa") == 0)
            fa = atoi(value);
        else
            die("bad option", argv[i]);
        i++;
    }

    struct llama_model *model = load(argv[0], false, repack);
    int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model)), n_ids;
    llama_token *ids = read_ids(argv[1], n_vocab, &n_ids);

    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = (uint32_t)(n_ctx > 0 ? n_ctx : (n_ids + 255) / 256 * 256);
    cp.n_batch = cp.n_ubatch = N_BATCH;
    cp.n_threads = cp.n_threads_batch = N_THREADS;
    cp.flash_attn_type = fa ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    cp.type_k = cp.type_v = GGML_TYPE_F16;
    cp.rope_freq_base = rope_freq_base;
    struct llama_context *ctx = llama_init_from_model(model, cp);
    if (!ctx)
        die("cannot make a context", NULL);
    if ((uint32_t)n_ids > llama_n_ctx(ctx))
        die("more ids than --ctx", argv[1]);
    if (lora) {
        struct llama_adapter_lora *adapter = llama_adapter_lora_init(model, lora);
        float scale = 1;
        if (!adapter || llama_set_adapters_lora(ctx, &adapter, 1, &scale) != 0)
            die("cannot use the adapter", lora);
    }

    FILE *out = fopen(argv[2], "wb");
    if (!out)
        die("cannot create", argv[2]);
    struct llama_batch batch = llama_batch_init(N_BATCH, 0, 1);
    for (int32_t done = 0; done < n_ids; done += batch.n_tokens) {
        batch.n_tokens = n_ids - done < N_BATCH ? n_ids - done : N_BATCH;
        for (int32_t i = 0; i < batch.n_tokens; i++) {
            batch.token[i] = ids[done + i];
            batch.pos[i] = done + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = 1;
        }
        if (llama_decode(ctx, batch) != 0)
            die("llama_decode failed", NULL);
        for (int32_t i = 0; i < batch.n_tokens; i++)
            if (fwrite(llama_get_logits_ith(ctx, i), sizeof(float), (size_t)n_vocab, out) !=
                (size_t)n_vocab)
                die("cannot write", argv[2]);
    }
    if (fclose(out) != 0)
        die("cannot write", argv[2]);
    printf("T %d V %d ctx %u\n", n_ids, n_vocab, llama_n_ctx(ctx));
    llama_batch_free(batch);
    llama_free(ctx);
    llama_model_free(model);
    free(ids);
    return 0;
}

int main(int argc, char **argv)
{
    llama_log_set(log_errors, NULL);
    llama_backend_init();
    if (argc >= 4 && argc <= 5 && strcmp(argv[1], "tokenize") == 0 &&
        (argc == 4 || strcmp(argv[4], "--special") == 0))
        return cmd_tokenize(argv[2], argv[3], argc == 5);
    if (argc >= 5 && strcmp(argv[1], "logits") == 0)
        return cmd_logits(argc - 2, argv + 2);
    fprintf(stderr, "usage: llama_dump tokenize MODEL TEXTFILE [--special]\n"
                    "       llama_dump logits MODEL IDSFILE OUT [--lora FILE] "
                    "[--rope-freq-base F] [--ctx N] [--fa 0|1] [--no-repack]\n");
    return 2;
}
