/* SPDX-License-Identifier: Apache-2.0 */
/* split.c - pre-tokenizers by PCRE2.
 *
 * The expressions are those that llama.cpp pairs with each name of `tokenizer.ggml.pre`; with two things
 * spelt out so that the words do not depend on the version of PCRE2: white space (PCRE2's \s has U+180E,
 * theirs has not), and the letters and digits that Unicode 15 added (llama.cpp's tables are of Unicode 15,
 * older PCRE2 has 14). Every expression here takes time linear in the text: after an unbounded run nothing
 * can fail but a look at one more character.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/token/split.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define SPACE                                                                                                \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define LETTER                                                                                               \
    "\\p{L}\\x{1123f}-\\x{11240}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}"              \
    "\\x{13441}-\\x{13446}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}"                    \
    "\\x{1e4d0}-\\x{1e4eb}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"
#define NUMBER "\\p{N}\\x{11f50}-\\x{11f59}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}"
#define PUNCT "\\p{P}\\x{11b00}-\\x{11b09}\\x{11f43}-\\x{11f4f}"

#define DIGIT_ALONE "[" NUMBER "]"
#define GPT2                                                                                                 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?[" LETTER "]+| ?[" NUMBER "]+| ?[^" SPACE LETTER NUMBER "]+|[" SPACE          \
    "]+(?![^" SPACE "])|[" SPACE "]+"
#define NEWER(DIGITS)                                                                                        \
    "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n" LETTER NUMBER "]?[" LETTER          \
    "]+|" DIGITS "| ?[^" SPACE LETTER NUMBER "]+[\\r\\n]*|[" SPACE "]*[\\r\\n]+|[" SPACE "]+(?![^" SPACE     \
    "])|[" SPACE "]+"

enum { MAX_STEPS = 4 };

static const struct pre {
    const char *name;
    int ignore_merges, adds_bos;
    const char *steps[MAX_STEPS];
} pres[] = {
    {"smollm", 0, 0, {DIGIT_ALONE, GPT2}},
    {"llama-bpe", 1, 1, {NEWER("[" NUMBER "]{1,3}")}},
    {"llama3", 1, 1, {NEWER("[" NUMBER "]{1,3}")}},
    {"llama-v3", 1, 1, {NEWER("[" NUMBER "]{1,3}")}},
    {"qwen2", 0, 0, {NEWER("[" NUMBER "]")}},
    {"deepseek-r1-qwen", 0, 0, {NEWER("[" NUMBER "]")}},
    {"gpt-2", 0, 0, {GPT2}},
    {"gpt2", 0, 0, {GPT2}},
    {"default", 0, 0, {"[" PUNCT "$+<=>^~|]+", GPT2, "[" NUMBER "]+", "[0-9][0-9][0-9]"}},
    {"", 0, 0, {"[" PUNCT "$+<=>^~|]+", GPT2, "[" NUMBER "]+", "[0-9][0-9][0-9]"}},
};

struct split {
    const struct pre *pre;
    pcre2_code *code[MAX_STEPS];
    int steps;
};

struct split_scratch {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

int split_create(struct gguf_str pre, struct split **out, struct err *e)
{
    *out = NULL;
    const struct pre *found = NULL;
    for (size_t i = 0; i < sizeof pres / sizeof *pres && !found; i++)
        if (gguf_str_is(pre, pres[i].name))
            found = &pres[i];
    if (!found)
        return err_set(
            e, ERR_UNSUPPORTED,
            "the vocabulary is cut by pre-tokenizer '%.*s', which Lectern does not know; known are smollm, "
            "llama-bpe, qwen2 and gpt-2: choose another model",
            (int)(pre.len > 100 ? 100 : pre.len), pre.data);
    struct split *s = calloc(1, sizeof *s);
    if (!s)
        return err_memory(e, "the pre-tokenizer");
    s->pre = found;
    for (; s->steps < MAX_STEPS && found->steps[s->steps]; s->steps++) {
        int code;
        PCRE2_SIZE at;
        pcre2_code *c = pcre2_compile((PCRE2_SPTR)found->steps[s->steps], PCRE2_ZERO_TERMINATED,
                                      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
        if (!c) {
            split_free(s);
            return err_set(
                e, ERR_UNSUPPORTED,
                "PCRE2 refuses the pre-tokenizer %s (error %d at %zu); install PCRE2 10.30 or newer",
                found->name, code, (size_t)at);
        }
        s->code[s->steps] = c;
        /* Without JIT (a hardened kernel, another processor) the same matches are found, only slower. */
        (void)pcre2_jit_compile(c, PCRE2_JIT_COMPLETE);
    }
    *out = s;
    return 0;
}

void split_free(struct split *s)
{
    if (!s)
        return;
    for (int i = 0; i < MAX_STEPS; i++)
        pcre2_code_free(s->code[i]);
    free(s);
}

int split_ignores_merges(const struct split *s)
{
    return s->pre->ignore_merges;
}

int split_adds_bos(const struct split *s)
{
    return s->pre->adds_bos;
}

int split_scratch_create(struct split_scratch **out, struct err *e)
{
    struct split_scratch *scratch = calloc(1, sizeof *scratch);
    *out = scratch;
    if (scratch) {
        scratch->match = pcre2_match_data_create(1, NULL);
        scratch->context = pcre2_match_context_create(NULL);
        scratch->stack = pcre2_jit_stack_create(32 * 1024, 16 * 1024 * 1024, NULL);
    }
    if (!scratch || !scratch->match || !scratch->context) {
        split_scratch_free(scratch);
        *out = NULL;
        return err_memory(e, "the pre-tokenizer");
    }
    /* The expressions are linear, so a run of 100 MB may take its 100 million steps. */
    pcre2_set_match_limit(scratch->context, UINT32_MAX);
    pcre2_set_depth_limit(scratch->context, UINT32_MAX);
    pcre2_set_heap_limit(scratch->context, 1024 * 1024); /* KiB */
    if (scratch->stack)                                  /* NULL where PCRE2 was built without JIT */
        pcre2_jit_stack_assign(scratch->context, NULL, scratch->stack);
    return 0;
}

void split_scratch_free(struct split_scratch *scratch)
{
    if (!scratch)
        return;
    pcre2_match_data_free(scratch->match);
    pcre2_match_context_free(scratch->context);
    pcre2_jit_stack_free(scratch->stack);
    free(scratch);
}

struct run {
    const struct split *split;
    struct split_scratch *scratch;
    const char *text;
    split_word *word;
    void *arg;
    struct err *e;
};

/* Cuts text[from..to) by expression `step` and all after it. Recursion is at most MAX_STEPS deep. */
static int cut(const struct run *run, int step, size_t from, size_t to)
{
    if (from == to)
        return 0;
    if (step == run->split->steps)
        return run->word(run->arg, from, to);
    const PCRE2_SIZE *found = pcre2_get_ovector_pointer(run->scratch->match);
    int rc = 0;
    while (!rc && from < to) {
        int n = pcre2_match(run->split->code[step], (PCRE2_SPTR)run->text, to, from, PCRE2_NO_UTF_CHECK,
                            run->scratch->match, run->scratch->context);
        if (n == PCRE2_ERROR_NOMATCH)
            break;
        if (n < 0)
            return err_set(run->e, ERR_LIMIT, "the text at byte %zu is too much for PCRE2 (error %d)", from,
                           n);
        size_t begin = found[0], end = found[1];
        if (begin < from || end <= begin || end > to) /* no expression matches the empty text */
            return err_set(run->e, ERR_LIMIT, "PCRE2 gave a strange match at byte %zu", from);
        rc = cut(run, step + 1, from, begin);
        if (!rc)
            rc = cut(run, step + 1, begin, end);
        from = end;
    }
    return rc ? rc : cut(run, step + 1, from, to);
}

int split_run(const struct split *s, struct split_scratch *scratch, const char *text, size_t from, size_t to,
              split_word *word, void *arg, struct err *e)
{
    struct run run = {.split = s, .scratch = scratch, .text = text, .word = word, .arg = arg, .e = e};
    return cut(&run, 0, from, to);
}
