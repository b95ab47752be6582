/* SPDX-License-Identifier: Apache-2.0 */
/* bench_report.c - see bench_report.h. One table of rows makes the text and the JSON. */
#include "app/bench_report.h"

#include <stdio.h>
#include <string.h>

#include "app/columns.h"
#include "engine/session.h"
#include "kernels/kernels.h"
#include "ui/human.h"

enum { LABEL = 36, COLUMN = 18 };

/* ---- rows -----------------------------------------------------------------------------------------------
 */

enum unit { COUNT, BYTES, SPEED_WRITE, SPEED_READ, MILLISECONDS, REAL, PERCENT };

struct row {
    const char *label, *key;
    enum unit unit; /* a speed is also shown as a share of the disk's own */
    double (*value)(const struct bench_stage *s);
};

static double over(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static double rate(const struct bench_pass *p)
{
    return over((double)p->bytes, p->seconds);
}

static double per_million(uint64_t n, uint64_t tokens)
{
    return over(1e6 * (double)n, (double)tokens);
}

static double stage_tokens(const struct bench_stage *s)
{
    return (double)s->tokens;
}
static double stage_bytes(const struct bench_stage *s)
{
    return (double)s->checked.bytes;
}
static double write_rate(const struct bench_stage *s)
{
    return rate(&s->write);
}
static double write_tokens(const struct bench_stage *s)
{
    return over((double)s->written, s->write.seconds);
}
static double write_cpu(const struct bench_stage *s)
{
    return over(s->write.cpu * 1e9, (double)s->write.bytes);
}
static double open_cold(const struct bench_stage *s)
{
    return s->open_cold * 1e3;
}
static double open_warm(const struct bench_stage *s)
{
    return s->open_warm * 1e3;
}
static double find(const struct bench_stage *s)
{
    return s->find * 1e3;
}
static double checked_rate(const struct bench_stage *s)
{
    return rate(&s->checked);
}
static double checked_cpu(const struct bench_stage *s)
{
    return over(s->checked.cpu * 1e9, (double)s->checked.bytes);
}
static double unchecked_rate(const struct bench_stage *s)
{
    return rate(&s->unchecked);
}
static double still_cached(const struct bench_stage *s)
{
    return 100 * (s->checked.cached > s->unchecked.cached ? s->checked.cached : s->unchecked.cached);
}
static double rows(const struct bench_stage *s)
{
    return (double)s->rows;
}
static double rows_per_million(const struct bench_stage *s)
{
    return per_million(2 * s->rows, s->tokens);
}
static double index_per_million(const struct bench_stage *s)
{
    return per_million(s->index_bytes, s->tokens);
}
static double files(const struct bench_stage *s)
{
    return (double)s->segment_files;
}

static const struct row table[] = {
    {"tokens", "tokens", COUNT, stage_tokens},
    {"bytes", "bytes", BYTES, stage_bytes},
    {"write, synced, GB/s (of the disk)", "write", SPEED_WRITE, write_rate},
    {"  tokens a second", "write_tokens_per_second", COUNT, write_tokens},
    {"  CPU seconds a GB", "write_cpu_seconds_per_gb", REAL, write_cpu},
    {"open, nothing cached, ms", "open_cold_ms", MILLISECONDS, open_cold},
    {"open, cached, ms", "open_warm_ms", MILLISECONDS, open_warm},
    {"find the rows of all blocks, ms", "find_blocks_ms", MILLISECONDS, find},
    {"read, checked, GB/s (of the disk)", "read_checked", SPEED_READ, checked_rate},
    {"  CPU seconds a GB", "read_checked_cpu_seconds_per_gb", REAL, checked_cpu},
    {"read, not checked again", "read_unchecked", SPEED_READ, unchecked_rate},
    {"  still cached before, %", "cached_before_percent", PERCENT, still_cached},
    {"spans", "spans", COUNT, rows},
    {"index rows a million tokens", "index_rows_per_million_tokens", COUNT, rows_per_million},
    {"index bytes a million tokens", "index_bytes_per_million_tokens", BYTES, index_per_million},
    {"segment files", "segment_files", COUNT, files},
};
enum { ROWS = sizeof table / sizeof table[0] };

static double disk_of(const struct bench_result *r, enum unit unit)
{
    return unit == SPEED_WRITE ? bench_disk_write(&r->disk) : bench_disk_read(&r->disk);
}

/* ---- text -----------------------------------------------------------------------------------------------
 */

static void put_cell(const struct bench_result *r, const struct row *row, double value, struct buf *out)
{
    char cell[40] = "";
    switch (row->unit) {
    case COUNT:
        column_number(out, human_count, (uint64_t)(value + 0.5), COLUMN);
        return;
    case BYTES:
        column_number(out, human_bytes, (uint64_t)(value + 0.5), COLUMN);
        return;
    case SPEED_WRITE:
    case SPEED_READ:
        snprintf(cell, sizeof cell, "%.2f (%.0f %%)", value / 1e9, 100 * over(value, disk_of(r, row->unit)));
        break;
    case MILLISECONDS:
        snprintf(cell, sizeof cell, "%.1f", value);
        break;
    case REAL:
        snprintf(cell, sizeof cell, "%.2f", value);
        break;
    case PERCENT:
        snprintf(cell, sizeof cell, "%.1f", value);
        break;
    }
    buf_printf(out, "%*s", COLUMN, cell);
}

static void put_shape(const struct bench_result *r, struct buf *out)
{
    const struct bench_shape *s = &r->shape;
    buf_printf(
        out, "Made-up pages of Llama-3-8B's shape: %zu layers, %zu of %zu KV heads retrieve, width %zu, %s\n",
        s->L, s->HR, s->L * s->HK, s->D, kv_format_name(s->format));
    column_number(out, human_count, bench_block_bytes(s) / KV_BLOCK, 0);
    buf_puts(out, " bytes a token, in blocks of 1,024 tokens (");
    human_bytes(out, bench_block_bytes(s));
    buf_puts(out, "); a checkpoint (");
    human_bytes(out, bench_checkpoint_bytes(s));
    buf_puts(out, ") every ");
    human_count(out, bench_interval(s));
    buf_puts(out, " tokens\n");
    if (r->tokens >= r->wanted)
        return;
    human_count(out, r->wanted);
    buf_puts(out, " tokens do not fit in the ");
    human_bytes(out, r->free_bytes);
    buf_puts(out, " that are free: scaled to ");
    human_count(out, r->tokens);
    buf_putc(out, '\n');
}

static void put_way(const struct bench_result *r, const char *verb, enum bench_disk_way direct,
                    enum bench_disk_way cached, const char *how, struct buf *out)
{
    double speed = bench_disk_speed(&r->disk, direct);
    buf_printf(out, "  %-6s ", verb);
    if (speed > 0)
        buf_printf(out, "%.2f GB/s with O_DIRECT, ", speed / 1e9);
    else
        buf_puts(out, "no O_DIRECT here, ");
    buf_printf(out, "%.2f GB/s %s\n", bench_disk_speed(&r->disk, cached) / 1e9, how);
}

static void put_disk(const struct bench_result *r, struct buf *out)
{
    buf_printf(out, "\nThe disk itself: medians of %d rounds before, between and after, a file of ",
               r->disk.rounds[DISK_WRITE_CACHED]);
    human_bytes(out, r->disk.bytes);
    buf_puts(out, " each\n");
    put_way(r, "write", DISK_WRITE_DIRECT, DISK_WRITE_CACHED, "through the cache, synced at the end", out);
    put_way(r, "read", DISK_READ_DIRECT, DISK_READ_CACHED,
            "through the cache, emptied with POSIX_FADV_DONTNEED", out);
    buf_puts(
        out,
        "The faster of the two is 100 %. The store's files are dropped from the cache in the same way\n\n");
}

void bench_report_text(const struct bench_result *r, struct buf *out)
{
    put_shape(r, out);
    put_disk(r, out);
    for (size_t i = 0; i < ROWS; i++) {
        buf_printf(out, "%-*s", LABEL, table[i].label);
        for (int s = 0; s < r->n_stages; s++)
            put_cell(r, &table[i], table[i].value(&r->stages[s]), out);
        buf_putc(out, '\n');
    }
    buf_printf(out, "\nDeleting the session took %.2f s and left ", r->delete_seconds);
    human_bytes(out, r->deleted_left);
    buf_puts(out, " of it on the disk\n");
}

/* ---- JSON -----------------------------------------------------------------------------------------------
 */

static json_t *stage_json(const struct bench_result *r, const struct bench_stage *s)
{
    json_t *o = json_object();
    int failed = !o;
    for (size_t i = 0; i < ROWS && !failed; i++) {
        const struct row *row = &table[i];
        double value = row->value(s);
        if (row->unit == SPEED_WRITE || row->unit == SPEED_READ)
            failed = json_object_set_new(o, row->key,
                                         json_pack("{s:f, s:f}", "gb_per_second", value / 1e9, "of_disk",
                                                   over(value, disk_of(r, row->unit)))) != 0;
        else if (row->unit == COUNT || row->unit == BYTES)
            failed = json_object_set_new(o, row->key, json_integer((json_int_t)(value + 0.5))) != 0;
        else
            failed = json_object_set_new(o, row->key, json_real(value)) != 0;
    }
    if (failed)
        json_decref(o);
    return failed ? NULL : o;
}

static json_t *disk_json(const struct bench_disk *d)
{
    static const char *const names[DISK_WAYS] = {[DISK_WRITE_DIRECT] = "write_direct",
                                                 [DISK_WRITE_CACHED] = "write_cached",
                                                 [DISK_READ_DIRECT] = "read_direct",
                                                 [DISK_READ_CACHED] = "read_cached"};
    json_t *o = json_pack("{s:I}", "file_bytes", (json_int_t)d->bytes);
    int failed = !o;
    for (int way = 0; way < DISK_WAYS && !failed; way++) {
        json_t *list = json_array();
        failed = !list || json_object_set_new(o, names[way], list);
        for (int i = 0; i < d->rounds[way] && !failed; i++)
            failed = json_array_append_new(list, json_real(d->speed[way][i] / 1e9)) != 0;
    }
    if (failed)
        json_decref(o);
    return failed ? NULL : o;
}

json_t *bench_report_json(const struct bench_result *r)
{
    const struct bench_shape *s = &r->shape;
    json_t *list = json_array();
    int failed = !list;
    for (int i = 0; i < r->n_stages && !failed; i++)
        failed = json_array_append_new(list, stage_json(r, &r->stages[i])) != 0;
    if (failed) {
        json_decref(list);
        return NULL;
    }
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:f, s:f, s:o, s:f, s:I}", "format",
                     kv_format_name(s->format), "wanted_tokens", (json_int_t)r->wanted, "tokens",
                     (json_int_t)r->tokens, "free_bytes", (json_int_t)r->free_bytes, "block_bytes",
                     (json_int_t)bench_block_bytes(s), "checkpoint_bytes",
                     (json_int_t)bench_checkpoint_bytes(s), "checkpoint_interval",
                     (json_int_t)bench_interval(s), "disk_gb_per_second", disk_json(&r->disk), "disk_write",
                     bench_disk_write(&r->disk) / 1e9, "disk_read", bench_disk_read(&r->disk) / 1e9, "stages",
                     list, "delete_seconds", r->delete_seconds, "bytes_left", (json_int_t)r->deleted_left);
}
