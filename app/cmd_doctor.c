/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_doctor.c - what there is on this machine and what the program makes of it, in well under a second (a
 * card takes one more to start).
 *
 * Every line was looked at just now; what cannot be known is said to be unknown. The probes fill one report,
 * which is printed as text or as JSON. Exit status 1 when something that Lectern needs is missing.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/cli.h"
#include "app/commands.h"
#include "app/doctor.h"
#include "app/output.h"
#include "ingest/utf8_repair.h"

/* ---- the report ---- */

void doctor_add(struct doctor *d, const char *group, const char *key, enum doctor_state state, json_t *value,
                const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    json_t *in = json_object_get(d->root, group);
    if (!in) {
        in = json_object();
        d->failed |= json_object_set_new(d->root, group, in) != 0;
        buf_printf(&d->text, "%s%s\n", d->text.len ? "\n" : "", group);
    }
    d->failed |= n < 0 || json_object_set_new(in, key, value) != 0;
    if (state == DOCTOR_PROBLEM)
        d->problems++;
    char label[20];
    snprintf(label, sizeof label, "%s", key);
    for (char *p = label; *p; p++)
        *p = *p == '_' ? ' ' : *p;
    buf_printf(&d->text, " %c %-16s ", state == DOCTOR_PROBLEM ? '!' : ' ', label);
    if (n >= 0)
        utf8_clean_label(&d->text, text, 600);
    buf_putc(&d->text, '\n');
    free(n >= 0 ? text : NULL);
}

json_t *doctor_string(const char *text)
{
    return output_json_text(text, strlen(text));
}

static int put_json(struct doctor *d, struct err *e)
{
    d->failed |= json_object_set_new(d->root, "problems", json_integer(d->problems)) != 0;
    if (d->failed)
        return err_memory(e, "the report");
    json_t *root = d->root;
    d->root = NULL;
    return output_json(root, e);
}

int cmd_doctor(const struct config *c, struct err *e)
{
    struct doctor d = {.root = json_object()};
    if (!d.root)
        return err_memory(e, "the report");
    doctor_program(&d, c);
    doctor_processor(&d, c);
    doctor_memory(&d);
    doctor_disk(&d, c);
    doctor_gpu(&d, c);
    doctor_libraries(&d);
    doctor_sandbox(&d, c);
    doctor_model(&d, c);
    doctor_terminal(&d, c);
    int rc = d.failed || d.text.failed ? err_memory(e, "the report") : 0;
    if (!rc)
        rc = c->json ? put_json(&d, e) : output_text(d.text.data, d.text.len, e);
    if (!rc && d.problems)
        rc = err_set(e, ERR_NOT_FOUND, "%d %s", d.problems,
                     d.problems == 1 ? "thing needs attention: the one marked !"
                                     : "things need attention: those marked !");
    json_decref(d.root);
    buf_free(&d.text);
    return rc;
}
