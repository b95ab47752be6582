/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_spm.c - long texts through the sentencepiece library.
 *
 * The library takes a whole text as one problem and some hundred bytes of memory for each byte of it. Where
 * no piece of the vocabulary continues over a space, the text is handed over in parts that are cut at a space
 * between two ASCII letters: the pieces are the same, since no merge can cross the cut. The part after the
 * cut begins behind the space, because the library puts a space before every text.
 */
#include "engine/token/tokenizer_internal.h"

#include <string.h>

enum { PART = 1 << 20 };

static const char mark[] = "\xe2\x96\x81"; /* U+2581, sentencepiece's space */

/* Is there a space after something else in this name? */
static int continues_over_space(struct gguf_str name)
{
    size_t i = 0;
    while (i + 3 <= name.len && !memcmp(name.data + i, mark, 3))
        i += 3;
    return memmem(name.data + i, name.len - i, mark, 3) || memchr(name.data + i, ' ', name.len - i);
}

int tokenizer_spm_cuttable(const struct tokenizer *t)
{
    int known = t->facts.model_type == 1 || t->facts.model_type == 2;
    if (!known || !t->facts.dummy_prefix || t->facts.whitespace_suffix)
        return 0;
    for (uint32_t i = 0; i < t->V; i++)
        if (t->types[i] != SPM_CONTROL && t->types[i] != SPM_BYTE && t->types[i] != SPM_UNKNOWN &&
            continues_over_space(strtab_get(&t->names, i)))
            return 0;
    return 1;
}

static int is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

struct sink {
    struct token_list *out;
    size_t base;
    struct err *e;
};

static int take_token(void *arg, uint32_t id, size_t end)
{
    struct sink *sink = arg;
    return token_list_add(sink->out, id, (uint32_t)(sink->base + end), sink->e);
}

int tokenizer_spm_run(const struct tokenizer *t, const char *text, size_t from, size_t to,
                      struct token_list *out, struct cancel *cancel, struct err *e)
{
    while (from < to) {
        if (cancel_requested(cancel))
            return err_set(e, ERR_CANCELLED, "stopped while cutting the text into tokens");
        size_t cut = to;
        if (t->cuttable && to - from > PART) {
            cut = from + PART;
            while (cut + 1 < to &&
                   !(text[cut] == ' ' && is_letter(text[cut - 1]) && is_letter(text[cut + 1])))
                cut++;
            if (cut + 1 >= to)
                cut = to;
        }
        struct sink sink = {.out = out, .base = from, .e = e};
        int rc = spm_encode(t->spm, text + from, cut - from, take_token, &sink, e);
        if (rc)
            return rc;
        from = cut < to ? cut + 1 : to;
    }
    return 0;
}
