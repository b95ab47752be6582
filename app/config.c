/* SPDX-License-Identifier: Apache-2.0 */
/* config.c - the defaults, and where things are.
 *
 * Lectern's own data lies beside the program: PREFIX/share/lectern when installed, data/ in the source tree
 * when run from build/. The folder that was named at build time is the last resort.
 */
#include "app/config.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "kernels/kv_page.h"

#ifndef LECTERN_DATA
#define LECTERN_DATA "/usr/local/share/lectern"
#endif

void config_init(struct config *c)
{
    *c = (struct config){.adapter = "auto",
                         .heads = "auto",
                         .device = "auto",
                         .weights = "auto",
                         .sparsity = -1,
                         .sink = -1,
                         .recent = -1,
                         .kv_format = KV_4,
                         .top_p = 1,
                         .seed = 1,
                         .max_tokens = 512,
                         .ctx = 512,
                         .budget = CONFIG_NOT_GIVEN,
                         .leave_free = CONFIG_NOT_GIVEN};
}

/* The folder of the running program. */
static char *program_folder(void)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0)
        return NULL;
    path[n] = '\0';
    char *slash = strrchr(path, '/');
    if (!slash)
        return NULL;
    slash[slash == path] = '\0';
    return strdup(path);
}

static int exists_below(const char *folder, const char *inside, int mode)
{
    char *path = path_join(folder, inside);
    int yes = path && access(path, mode) == 0;
    free(path);
    return yes;
}

static char *find_shipped(const char *program)
{
    static const char *const places[] = {"../share/lectern", "../../data", "../data", "../../../data"};
    for (size_t i = 0; program && i < sizeof places / sizeof places[0]; i++) {
        char *folder = path_join(program, places[i]);
        if (folder && exists_below(folder, "models/manifest.json", R_OK)) {
            char *real = realpath(folder, NULL);
            free(folder);
            return real;
        }
        free(folder);
    }
    return strdup(LECTERN_DATA);
}

static char *find_worker(const char *program)
{
    if (!program)
        return strdup("lectern-ingest");
    /* A test program lies one folder below the worker. */
    if (!exists_below(program, "lectern-ingest", X_OK) && exists_below(program, "../lectern-ingest", X_OK))
        return path_join(program, "../lectern-ingest");
    return path_join(program, "lectern-ingest");
}

/* What the command line left open, from the settings file. */
static int take_settings(struct config *c, struct err *e)
{
    struct config kept;
    config_init(&kept);
    char *folder = path_xdg("XDG_CONFIG_HOME", ".config");
    char *path = folder ? path_join(folder, CONFIG_FILE) : NULL;
    int rc = path ? config_file_read(path, &kept, e) : 0; /* without a home there is no such file */
    if (folder && !path)
        rc = err_memory(e, "paths");
    free(path);
    free(folder);
    if (rc)
        return rc;
    if (c->budget == CONFIG_NOT_GIVEN)
        c->budget = kept.budget;
    if (c->leave_free == CONFIG_NOT_GIVEN)
        c->leave_free = kept.leave_free == CONFIG_NOT_GIVEN ? 0 : kept.leave_free;
    return 0;
}

int config_resolve(struct config *c, struct err *e)
{
    char *program = program_folder();
    char *cache = path_xdg("XDG_CACHE_HOME", ".cache");
    c->data_dir = c->data_dir_option ? strdup(c->data_dir_option) : path_xdg("XDG_DATA_HOME", ".local/share");
    c->models_dir = cache ? path_join(cache, "models") : NULL;
    c->shipped = find_shipped(program);
    c->worker = find_worker(program);
    free(cache);
    free(program);
    if (!c->data_dir || !c->models_dir)
        return err_set(e, ERR_NOT_FOUND, "HOME is not set; set it, or XDG_DATA_HOME and XDG_CACHE_HOME");
    if (!c->shipped || !c->worker)
        return err_memory(e, "paths");
    return take_settings(c, e);
}

void config_fini(struct config *c)
{
    free(c->args_memory);
    free(c->data_dir);
    free(c->models_dir);
    free(c->shipped);
    free(c->worker);
    *c = (struct config){0};
}

char *app_data_path(const struct config *c, const char *inside)
{
    return path_join(c->shipped, inside);
}

const char *app_worker_path(const struct config *c)
{
    return c->worker;
}
