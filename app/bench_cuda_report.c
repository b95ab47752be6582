/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cuda_report.c - the rows of `lectern bench cuda` as lines and as CSV. The drawing is in
 * bench_cuda_svg.c. */
#include "app/bench_cuda.h"

#include <stdio.h>
#include <string.h>

#include "app/columns.h"
#include "ui/human.h"

#ifndef LECTERN_COMMIT
#define LECTERN_COMMIT "unknown"
#endif

const char *card_commit(void)
{
    return LECTERN_COMMIT;
}

const struct card_row *card_full(const struct card_result *r, const struct card_row *row)
{
    if (row->failed || !strcmp(row->work, "capacity") || !strcmp(row->heads, "all"))
        return NULL;
    const char *work = !strcmp(row->work, "selection") ? "decode" : row->work;
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct card_row *x = &r->rows[i];
        if (!x->failed && !strcmp(x->work, work) && !strcmp(x->shape, row->shape) &&
            !strcmp(x->weights, row->weights) && !strcmp(x->kv, "raw") && !strcmp(x->heads, "all") &&
            x->context == row->context && (x->T == row->T || x->T > DEVICE_DECODE_T))
            return x;
    }
    return NULL;
}

static double over(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* Bytes or FLOP a second. */
static double rate(const struct card_row *row)
{
    return over(row->flops > 0 ? row->flops : row->bytes, row->ms / 1e3);
}

/* ---- lines -----------------------------------------------------------------------------------------------
 */

void card_text_head(const struct card_result *r, const char *date, struct buf *out)
{
    static const char *const names[CARD_LIMIT_KINDS] = {"copy", "read", "to the card", "from the card",
                                                        "fp16", "bf16", "fp8"};
    buf_printf(out, "%s, %d.%d, %d processors, ", r->info.name, r->info.major, r->info.minor,
               r->info.processors);
    human_bytes(out, r->info.memory);
    buf_printf(out, "; driver %d, runtime %d; Lectern %s; %s\nlimits measured now:", r->info.driver,
               r->info.runtime, card_commit(), date);
    for (int i = 0; i < CARD_LIMIT_KINDS; i++) {
        const char *sep = i ? "," : "";
        if (!(r->limits[i] > 0))
            buf_printf(out, "%s %s not measured", sep, names[i]);
        else if (i == DEVICE_LIMIT_TO_CARD || i == DEVICE_LIMIT_FROM_CARD)
            buf_printf(out, "%s %s %.1f GB/s", sep, names[i], r->limits[i] / 1e9);
        else if (i < DEVICE_LIMIT_F16)
            buf_printf(out, "%s %s %.3f TB/s", sep, names[i], r->limits[i] / 1e12);
        else
            buf_printf(out, "%s %s %.0f TFLOP/s", sep, names[i], r->limits[i] / 1e12);
    }
    buf_putc(out, '\n');
}

void card_text_columns(struct buf *out)
{
    buf_puts(out, "\nms: median (10 % .. 90 % of the samples); full: the same with raw KV in all heads, as a "
                  "multiple\n");
    buf_printf(out, "%-36s %5s %10s %11s %21s %9s %9s %7s %9s %6s  %s\n", "row", "T", "context", "ms", "",
               "tokens/s", "T/s", "limit", "memory", "full", "");
}

static void text_numbers(const struct card_result *r, const struct card_row *row, struct buf *out)
{
    char spread[40] = "", tokens[24] = "", speed[24] = "", share[24] = "", memory[24] = "", full[24] = "";
    const struct card_row *other = card_full(r, row);
    if (row->n > 1)
        snprintf(spread, sizeof spread, "(%.3f .. %.3f)", row->low, row->high);
    if (row->tokens_a_second > 0)
        snprintf(tokens, sizeof tokens, "%.1f", row->tokens_a_second);
    snprintf(speed, sizeof speed, "%.3f %s", rate(row) / 1e12, row->flops > 0 ? "F" : "B");
    if (row->limit > 0)
        snprintf(share, sizeof share, "%.1f %%", 100 * rate(row) / row->limit);
    if (row->memory > 0)
        snprintf(memory, sizeof memory, "%.2f GB", row->memory / 1e9);
    if (other)
        snprintf(full, sizeof full, "%.2fx", over(other->ms, row->ms));
    buf_printf(out, " %11.3f %21s %9s %9s %7s %9s %6s", row->ms, spread, tokens, speed, share, memory, full);
}

void card_text_row(const struct card_result *r, const struct card_row *row, struct buf *out)
{
    buf_printf(out, "%-36s %5u ", row->plan, row->T);
    if (row->context)
        column_number(out, human_count, row->context, 10);
    else
        buf_printf(out, "%10s", "");
    if (row->failed) {
        buf_printf(out, "  not measured: %s\n", row->note);
        return;
    }
    text_numbers(r, row, out);
    if (row->device_ms > 0)
        buf_printf(out, "  on the card %.3f ms", row->device_ms);
    if (*row->note)
        buf_printf(out, "  %s", row->note);
    buf_putc(out, '\n');
}

/* ---- others' figures -------------------------------------------------------------------------------------
 */

struct cited {
    const char *what, *source, *plan; /* the plan of ours that stands beside it, by name */
    uint64_t context;
    double tokens_a_second, ms; /* one of them; of a whole prefill ms */
};

static const char llama_cpp[] = "llama.cpp, Llama-3-8B Q8_0, flash attention, one H100 80 GB (llama-bench)";
static const char paper[] = "DuoAttention, arXiv 2410.10819, Llama-3-8B on an A100";
static const struct cited cited[] = {
    {"decode, f16 KV", llama_cpp, "decode.w8.raw.all", 131072, 75.3, 0},
    {"decode, q8_0 KV", llama_cpp, "decode.w8.kv8.all", 131072, 46.0, 0},
    {"decode, q4_0 KV", llama_cpp, "decode.w8.kv4.all", 131072, 45.4, 0},
    {"decode, its best", llama_cpp, "decode.w8.kv4.half", 131072, 75.3, 0},
    {"decode, its best", llama_cpp, "decode.w4.kv4.half", 131072, 75.3, 0},
    {"prefill", llama_cpp, "prefill.w8.kv4.half", 131072, 4179, 31400},
    {"decode, half, bf16", paper, "decode.w8.kv4.half", 1048576, 0, 55},
    {"prefill of 320K, half, bf16", paper, "prefill.w8.kv4.half", 327680, 0, 93000},
};

/* The plan itself, or one of its longer runs. */
static int begins(const char *plan, const char *name)
{
    size_t n = strlen(name);
    return !strncmp(plan, name, n) && (!plan[n] || plan[n] == '.');
}

void card_text_others(const struct card_result *r, struct buf *out)
{
    buf_puts(out, "\nbeside figures of others (cited, not measured in this run)\n");
    for (size_t i = 0; i < sizeof cited / sizeof cited[0]; i++)
        for (size_t k = 0; k < r->n_rows; k++) {
            const struct cited *c = &cited[i];
            const struct card_row *row = &r->rows[k];
            if (row->failed || row->context != c->context || !begins(row->plan, c->plan) ||
                strcmp(row->shape, "llama-3-8b"))
                continue;
            double theirs = c->ms > 0 ? c->ms : 1e3 / c->tokens_a_second;
            buf_printf(out, "%-26s at %7llu: %10.2f ms; %-24s %10.2f ms, %.2f times as fast  [%s]\n", c->what,
                       (unsigned long long)c->context, theirs, row->plan, row->ms, over(theirs, row->ms),
                       c->source);
        }
}

/* ---- CSV -------------------------------------------------------------------------------------------------
 */

static void csv_text(struct buf *out, const char *text)
{
    buf_putc(out, '"');
    for (; *text; text++)
        buf_puts(out, *text == '"' ? "\"\"" : (char[]){*text, 0});
    buf_puts(out, "\",");
}

static void csv_row(const struct card_result *r, const struct card_row *row, const char *date,
                    struct buf *out)
{
    const struct card_row *full = card_full(r, row);
    csv_text(out, date);
    csv_text(out, card_commit());
    csv_text(out, r->info.name);
    csv_text(out, row->plan);
    csv_text(out, row->work);
    csv_text(out, row->shape);
    csv_text(out, row->weights);
    csv_text(out, row->kv);
    csv_text(out, row->heads);
    buf_printf(out, "%llu,%u,%u,", (unsigned long long)row->context, row->T, row->n);
    if (row->failed)
        buf_puts(out, ",,,,,,,,,,,,");
    else
        buf_printf(out, "%.6g,%.6g,%.6g,%.6g,%.0f,%.6g,%.6g,%.6g,%.4f,%.6g,%.0f,%.4f,", row->ms, row->low,
                   row->high, row->device_ms, row->bytes, row->flops, rate(row), row->limit,
                   over(rate(row), row->limit), row->tokens_a_second, row->memory,
                   full ? over(full->ms, row->ms) : 0);
    buf_printf(out, "%s%.6g,", row->failed ? "failed," : "ok,", row->value);
    csv_text(out, row->note);
    out->len--; /* the last comma */
    buf_putc(out, '\n');
}

void card_csv(const struct card_result *r, const char *date, struct buf *out)
{
    buf_puts(out, "date,commit,card,row,work,shape,weights,kv,heads,context,tokens,samples,ms,ms_10,ms_90,"
                  "device_ms,bytes,flop,per_second,limit_per_second,share_of_limit,tokens_per_second,"
                  "memory_bytes,full_over_this,state,value,note\n");
    static const char *const names[CARD_LIMIT_KINDS] = {"copy", "read", "to-card", "from-card",
                                                        "fp16", "bf16", "fp8"};
    for (int i = 0; i < CARD_LIMIT_KINDS; i++) {
        struct card_row limit = {.n = 1, .limit = r->limits[i]};
        snprintf(limit.plan, sizeof limit.plan, "limits.%s", names[i]);
        snprintf(limit.work, sizeof limit.work, "limits");
        csv_row(r, &limit, date, out);
    }
    for (size_t i = 0; i < r->n_rows; i++)
        csv_row(r, &r->rows[i], date, out);
}
