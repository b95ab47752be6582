/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_heads.c - the map of retrieval and streaming heads at the sparsity in use. Loads no weights. */
#include <stdlib.h>
#include <string.h>

#include "app/commands.h"
#include "app/engine_load.h"
#include "app/output.h"
#include "engine/base/bytes.h"
#include "engine/duo/heads.h"
#include "ingest/utf8_repair.h"

enum { ALPHAS_WIDE = 8 }; /* more heads than this and a gate is shown as one digit, in tenths */

struct view {
    struct app_choice choice;
    struct heads *heads;
    uint8_t *retrieval; /* [L][HK] */
    size_t L, HK, S, R, n_retrieval;
    char hash[65];
};

static int look(const struct config *c, struct view *v, struct err *e)
{
    int rc = app_choose(c, &v->choice, NULL, e);
    if (rc)
        return rc;
    v->L = v->choice.L;
    v->HK = v->choice.HK;
    size_t n;
    if (!v->L || !v->HK || v->L > 1024 || v->HK > 1024 || size_mul(v->L, v->HK, &n))
        return err_set(e, ERR_FORMAT, "%s does not say how many layers and KV heads it has", v->choice.model);
    rc = v->choice.heads ? heads_open(v->choice.heads, v->L, v->HK, &v->heads, e)
                         : heads_all_retrieval(v->L, v->HK, &v->heads, e);
    if (rc)
        return rc;
    v->S = c->sink >= 0 ? (size_t)c->sink : v->heads->S;
    v->R = c->recent >= 0 ? (size_t)c->recent : v->heads->R;
    v->retrieval = calloc(n, 1);
    if (!v->retrieval)
        return err_memory(e, "the heads");
    rc = heads_split(v->heads, v->choice.sparsity, v->retrieval, e);
    for (size_t i = 0; i < n && !rc; i++)
        v->n_retrieval += v->retrieval[i];
    uint8_t hash[16];
    heads_hash(v->retrieval, v->L, v->HK, v->S, v->R, hash);
    output_hex(hash, sizeof hash, v->hash);
    return rc;
}

static void draw_layer(const struct view *v, size_t layer, int color, struct buf *out)
{
    const uint8_t *kinds = v->retrieval + layer * v->HK;
    const float *alpha = v->heads->alpha ? v->heads->alpha + layer * v->HK : NULL;
    size_t count = 0;
    buf_printf(out, "%5zu  ", layer);
    for (size_t h = 0; h < v->HK; h++) {
        count += kinds[h];
        if (color)
            buf_puts(out, kinds[h] ? "\x1b[1;32m#\x1b[0m" : "\x1b[2m.\x1b[0m");
        else
            buf_putc(out, kinds[h] ? '#' : '.');
    }
    buf_printf(out, "%*s  %8zu ", v->HK < 4 ? 4 - (int)v->HK : 0, "", count);
    for (size_t h = 0; h < v->HK && alpha; h++) {
        if (v->HK <= ALPHAS_WIDE)
            buf_printf(out, " %.3f", (double)alpha[h]);
        else
            buf_printf(out, "%s%d", h ? "" : " ", alpha[h] >= 1 ? 9 : (int)(alpha[h] * 10));
    }
    buf_putc(out, '\n');
}

static int put_map(const struct config *c, const struct view *v, struct err *e)
{
    struct buf out = {0};
    buf_puts(&out, "model     ");
    utf8_clean_label(&out, v->choice.model, 400);
    buf_puts(&out, "\npattern   ");
    utf8_clean_label(&out, v->choice.heads ? v->choice.heads : "none: every head retrieves", 400);
    buf_printf(&out, "\nheads     %zu layers x %zu KV heads\nsparsity  %g: %zu of %zu heads retrieve\n", v->L,
               v->HK, v->choice.sparsity, v->n_retrieval, v->L * v->HK);
    buf_printf(&out, "streaming sink %zu, recent %zu tokens\nsplit     %s\n\n", v->S, v->R, v->hash);
    int wide = v->HK > 4 ? (int)v->HK : 4;
    buf_printf(&out, "layer  %-*s  retrieve  %s\n", wide, "head",
               !v->heads->alpha       ? ""
               : v->HK <= ALPHAS_WIDE ? "gates"
                                      : "gates in tenths");
    for (size_t l = 0; l < v->L; l++)
        draw_layer(v, l, output_color(c), &out);
    buf_puts(&out,
             "\n# retrieval head: sees everything   . streaming head: sees the sink and the recent tokens\n");
    int rc = out.failed ? err_memory(e, "the map") : output_bytes(out.data, out.len, e);
    buf_free(&out);
    return rc;
}

static json_t *rows_json(const struct view *v, int gates)
{
    json_t *rows = json_array();
    for (size_t l = 0; l < v->L; l++) {
        json_t *row = json_array();
        for (size_t h = 0; h < v->HK; h++) {
            size_t i = l * v->HK + h;
            json_array_append_new(row, gates ? json_real((double)v->heads->alpha[i])
                                             : json_boolean(v->retrieval[i]));
        }
        json_array_append_new(rows, row);
    }
    return rows;
}

static int put_json(const struct view *v, struct err *e)
{
    json_t *o = json_pack(
        "{s:o?, s:o?, s:I, s:I, s:f, s:I, s:I, s:I, s:s, s:o, s:o}", "model",
        output_json_text(v->choice.model, strlen(v->choice.model)), "pattern",
        v->choice.heads ? output_json_text(v->choice.heads, strlen(v->choice.heads)) : json_null(), "layers",
        (json_int_t)v->L, "kv_heads", (json_int_t)v->HK, "sparsity", v->choice.sparsity, "sink",
        (json_int_t)v->S, "recent", (json_int_t)v->R, "retrieval_heads", (json_int_t)v->n_retrieval, "hash",
        v->hash, "retrieval", rows_json(v, 0), "gates", v->heads->alpha ? rows_json(v, 1) : json_null());
    return output_json(o, e);
}

int cmd_heads(const struct config *c, struct err *e)
{
    struct view v = {0};
    int rc = look(c, &v, e);
    if (!rc)
        rc = c->json ? put_json(&v, e) : put_map(c, &v, e);
    free(v.retrieval);
    heads_close(v.heads);
    app_choice_free(&v.choice);
    return rc;
}
