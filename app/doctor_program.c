/* SPDX-License-Identifier: Apache-2.0 */
/* doctor_program.c - the program itself: its parts, its sandbox, the model, the terminal. */
#include <inttypes.h>
#include <langinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/cli.h"
#include "app/doctor.h"
#include "app/engine_load.h"
#include "app/output.h"
#include "engine/base/file.h"

void doctor_program(struct doctor *d, const struct config *c)
{
    doctor_add(d, "program", "version", DOCTOR_FINE, json_string(LECTERN_VERSION), "%s", LECTERN_VERSION);
    char *manifest = app_data_path(c, "models/manifest.json");
    int there = manifest && access(manifest, R_OK) == 0;
    doctor_add(d, "program", "own_data", there ? DOCTOR_FINE : DOCTOR_PROBLEM, doctor_string(c->shipped),
               "%s%s", c->shipped, there ? "" : " (not there; install Lectern again)");
    free(manifest);
    doctor_add(d, "program", "models_folder", DOCTOR_FINE, doctor_string(c->models_dir), "%s", c->models_dir);
}

void doctor_sandbox(struct doctor *d, const struct config *c)
{
    int there = access(app_worker_path(c), X_OK) == 0;
    doctor_add(d, "sandbox", "worker", there ? DOCTOR_FINE : DOCTOR_PROBLEM,
               doctor_string(app_worker_path(c)), "%s%s", app_worker_path(c),
               there ? "" : " (not there; documents cannot be read: run make)");
    doctor_add(d, "sandbox", "process", DOCTOR_FINE, json_boolean(there), "%s",
               there ? "yes: documents are parsed in a process of their own, with three descriptors"
                     : "without the worker nothing is parsed");
    doctor_add(d, "sandbox", "rlimits", DOCTOR_FINE, json_true(),
               "yes: address space, processor time, no core files");
    doctor_add(d, "sandbox", "no_new_privs", DOCTOR_FINE, json_true(), "yes");
    doctor_add(d, "sandbox", "seccomp", DOCTOR_FINE, json_false(), "no: not used yet");
    doctor_add(d, "sandbox", "landlock", DOCTOR_FINE, json_false(), "no: not used yet");
}

/* ---- model ---- */

/* What fetch.sh noted when it checked the file's SHA-256: "HASH SIZE MTIME.NNNNNNNNN INODE". Fills `sha` when
 * the file is still that very one. */
static int checked_hash(const char *path, char sha[65])
{
    struct stat st;
    struct err ignored;
    char state[128], *note = NULL;
    size_t n;
    const char *base = path_base(path);
    struct buf name = {0};
    buf_printf(&name, "%.*s.%s.checked", (int)(base - path), path, base);
    int ok = !name.failed && stat(path, &st) == 0 && !file_read(name.data, 4096, &note, &n, &ignored);
    if (ok) {
        snprintf(state, sizeof state, " %lld %lld.%09ld %llu", (long long)st.st_size,
                 (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, (unsigned long long)st.st_ino);
        note[strcspn(note, "\n")] = '\0';
        ok = strlen(note) > 64 && strcmp(note + 64, state) == 0;
    }
    if (ok)
        snprintf(sha, 65, "%.64s", note);
    free(note);
    buf_free(&name);
    return ok;
}

void doctor_model(struct doctor *d, const struct config *c)
{
    struct app_choice choice;
    struct err e = {0};
    char sha[65] = "";
    if (app_choose(c, &choice, NULL, &e)) {
        doctor_add(d, "model", "file", DOCTOR_PROBLEM, json_null(), "%s", e.text);
        return;
    }
    doctor_add(d, "model", "file", DOCTOR_FINE, doctor_string(choice.model), "%s", choice.model);
    if (checked_hash(choice.model, sha))
        doctor_add(d, "model", "sha256", DOCTOR_FINE, json_string(sha),
                   "%.16s..., checked when it was fetched; unchanged since", sha);
    else
        doctor_add(d, "model", "sha256", DOCTOR_FINE, json_null(),
                   "not checked; `lectern models get` checks the default model");
    doctor_add(d, "model", "adapter", DOCTOR_FINE,
               choice.adapter ? doctor_string(choice.adapter) : json_null(), "%s",
               choice.adapter ? choice.adapter : "none");
    doctor_add(d, "model", "heads", DOCTOR_FINE, choice.heads ? doctor_string(choice.heads) : json_null(),
               "%s", choice.heads ? choice.heads : "none: every head retrieves");
    doctor_add(d, "model", "sparsity", DOCTOR_FINE, json_real(choice.sparsity), "%g", choice.sparsity);
    app_choice_free(&choice);
}

/* ---- terminal ---- */

void doctor_terminal(struct doctor *d, const struct config *c)
{
    const char *term = getenv("TERM"), *codeset = nl_langinfo(CODESET);
    struct winsize size = {0};
    int terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    doctor_add(d, "terminal", "interactive", DOCTOR_FINE, json_boolean(terminal), "%s",
               terminal ? "yes" : "no: the reading room needs a terminal; ask and add do not");
    doctor_add(d, "terminal", "type", DOCTOR_FINE, term ? doctor_string(term) : json_null(), "%s",
               term ? term : "TERM is not set");
    if (terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0)
        doctor_add(d, "terminal", "size", DOCTOR_FINE, json_pack("[i, i]", size.ws_col, size.ws_row),
                   "%u columns, %u rows%s", size.ws_col, size.ws_row,
                   size.ws_col < 80 || size.ws_row < 24 ? " (80 x 24 is comfortable)" : "");
    doctor_add(d, "terminal", "characters", DOCTOR_FINE, doctor_string(codeset), "%s", codeset);
    doctor_add(d, "terminal", "colours", DOCTOR_FINE, json_boolean(output_color(c)), "%s",
               output_color(c) ? "yes" : "no");
}
