/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_add.c - lectern add: takes documents in and reads them; stopped and started again it goes on. */
#include "app/commands.h"

#include <jansson.h>
#include <stdlib.h>

#include "app/byte_progress.h"
#include "app/interrupt.h"
#include "app/output.h"
#include "app/store_care.h"
#include "app/workbench.h"
#include "ui/human.h"

static void tell(void *arg, const char *line)
{
    output_notice(arg, "%s", line);
}

static int report(const struct config *c, const struct workbench *w, const char *name,
                  const struct reader_usage *u, struct err *e)
{
    double rate = u->prefill_seconds > 0 ? (double)u->prefilled / u->prefill_seconds : 0;
    const struct reader *r = w->reader;
    if (c->json)
        return output_json(
            json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:f, s:o, s:o, s:o}", "session", name,
                      "documents", (json_int_t)reader_documents(r), "tokens",
                      (json_int_t)reader_corpus_tokens(r), "kv_bytes", (json_int_t)reader_kv_bytes(r),
                      "restored", (json_int_t)u->restored, "prefilled", (json_int_t)u->prefilled, "proof",
                      u->proof, "restore_seconds", u->restore_seconds, "prefill_tokens_per_second", rate,
                      "restore", reader_restore_json(u), "changed", reader_files_json(r, READER_FILE_CHANGED),
                      "missing", reader_files_json(r, READER_FILE_MISSING)),
            e);
    return output_printf(e, "%s: %zu document%s, %zu tokens (%zu restored, %zu read at %.0f tokens/s)\n",
                         name, reader_documents(r), reader_documents(r) == 1 ? "" : "s",
                         reader_corpus_tokens(r), u->restored, u->prefilled, rate);
}

/* What the card has room for, before hours are spent on it. */
static void tell_room(const struct config *c, const struct engine *g)
{
    size_t on_card, in_all;
    struct buf text = {0};
    engine_room(g, &on_card, &in_all);
    if (on_card == SIZE_MAX)
        return;
    human_count(&text, on_card);
    buf_puts(&text, " tokens have room on the card, ");
    human_count(&text, in_all);
    buf_puts(&text, " with the memory beside it");
    if (!text.failed)
        output_notice(c, "%s", text.data);
    buf_free(&text);
}

static int add(const struct config *c, struct workbench *w, const char *name, struct err *e)
{
    struct progress_line line;
    struct cancel *cancel = interrupt_watch();
    struct reader_usage usage = {0};
    void *arg = (void *)(uintptr_t)c;
    struct err left = {0};
    struct byte_progress bytes;
    struct progress port = byte_progress_begin(&bytes, c);
    int rc = workbench_session(w, name, c->n_args > 0, &port, cancel, tell, NULL, arg, e);
    byte_progress_end(&bytes);
    if (rc)
        return rc;
    progress_line_begin(&line, c, "parts");
    port = progress_line_port(&line);
    if (c->changed)
        rc = reader_refresh(w->reader, &port, cancel, NULL, e);
    if (!rc)
        rc = workbench_add(w, c->args, c->n_args, &port, cancel, tell, arg, &left, e);
    progress_line_end(&line);
    if (!rc)
        reader_tell_changed(w->reader);
    progress_line_begin(&line, c, "tokens");
    port = progress_line_port(&line);
    if (!rc)
        rc = reader_read(w->reader, &port, cancel, &usage, e);
    progress_line_end(&line);
    char said[400];
    reader_usage_line(&usage, said, sizeof said);
    if (!rc && said[0])
        output_notice(c, "%s", said);
    if (!rc)
        rc = store_care(c, w->store, e);
    if (!rc)
        rc = report(c, w, name, &usage, e);
    if (!rc && (rc = left.code))
        *e = left;
    return rc;
}

int cmd_add(const struct config *c, struct err *e)
{
    struct workbench w = {0};
    char *name = NULL;
    if (!c->n_args && !c->changed)
        return err_set(e, ERR_USAGE, "lectern add wants PATH... or --changed");
    int rc = workbench_name(c, c->args, c->n_args, &name, e);
    if (!rc)
        rc = workbench_open(&w, c, e);
    if (!rc) {
        tell_room(c, w.engine);
        rc = add(c, &w, name, e);
    }
    workbench_close(&w);
    free(name);
    return rc;
}
