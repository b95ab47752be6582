/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_tokenize.c - tokenize and detokenize: what the model is given, for checking. Loads no weights.
 *
 * tokenize puts no BOS before the text: it shows how documents are encoded.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "app/commands.h"
#include "app/engine_load.h"
#include "app/input.h"
#include "app/interrupt.h"
#include "app/output.h"

static int put_ids(const struct token_list *list, struct err *e)
{
    struct buf lines = {0};
    int rc = 0;
    for (size_t i = 0; i < list->n && !rc; i++) {
        buf_printf(&lines, "%" PRIu32 "\n", list->ids[i]);
        if (lines.len < 60000 && i + 1 < list->n)
            continue;
        rc = lines.failed ? err_memory(e, "the ids") : output_bytes(lines.data, lines.len, e);
        buf_clear(&lines);
    }
    buf_free(&lines);
    return rc;
}

int cmd_tokenize(const struct config *c, struct err *e)
{
    struct tokenizer *t = NULL;
    struct token_list list = {0};
    char *text = NULL;
    size_t n;
    int rc = app_tokenizer_open(c, &t, e);
    if (!rc)
        rc = input_text(c, c->args[0], &text, &n, e);
    if (!rc)
        rc = tokenizer_encode(t, text, n, c->special, &list, interrupt_watch(), e);
    if (!rc)
        rc = put_ids(&list, e);
    free(text);
    token_list_fini(&list);
    tokenizer_close(t);
    return rc;
}

int cmd_detokenize(const struct config *c, struct err *e)
{
    struct tokenizer *t = NULL;
    struct token_list list = {0};
    struct buf text = {0};
    int rc = app_tokenizer_open(c, &t, e);
    if (!rc)
        rc = input_ids(c->n_args ? c->args[0] : "-", tokenizer_vocab(t), &list, e);
    if (!rc) {
        tokenizer_decode(t, list.ids, list.n, c->special, &text);
        rc = text.failed ? err_memory(e, "the text") : 0;
    }
    if (!rc && text.len)
        rc = output_text(text.data, text.len, e);
    buf_free(&text);
    token_list_fini(&list);
    tokenizer_close(t);
    return rc;
}
