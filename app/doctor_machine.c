/* SPDX-License-Identifier: Apache-2.0 */
/* doctor_machine.c - processor, memory, disk and libraries. */
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "app/doctor.h"
#include "app/output.h"
#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "kernels/kernels.h"
#include "ui/human.h"

/* The rest of the first line of a /proc file that begins with `name`, without blanks and colon; "" if none.
 */
static void proc_line(const char *path, const char *name, char *out, size_t cap)
{
    char *text = NULL, *line;
    size_t n;
    struct err ignored;
    out[0] = '\0';
    if (file_read(path, 1 << 22, &text, &n, &ignored))
        return;
    for (char *rest = text; (line = strsep(&rest, "\n"));) {
        size_t length = strlen(name);
        if (strncmp(line, name, length) != 0)
            continue;
        line += length;
        line += strspn(line, " \t:");
        snprintf(out, cap, "%s", line);
        break;
    }
    free(text);
}

static void add_word(struct buf *text, json_t *array, const char *word)
{
    buf_printf(text, "%s%s", text->len ? " " : "", word);
    json_array_append_new(array, json_string(word));
}

static void features(struct buf *text, json_t *array)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
#define FEATURE(name)                                                                                        \
    if (__builtin_cpu_supports(name))                                                                        \
    add_word(text, array, name)
    FEATURE("avx2");
    FEATURE("fma");
    FEATURE("avx512f");
    FEATURE("avx512bw");
    FEATURE("avx512vl");
    FEATURE("avx512dq");
    FEATURE("avx512vnni");
    FEATURE("avx512bf16");
#undef FEATURE
#else
    (void)text;
    (void)array;
#endif
}

void doctor_processor(struct doctor *d, const struct config *c)
{
    static const char *const names[] = {"ref", "avx2", "avx512", "avx512vnni"};
    char model[200];
    cpu_set_t set;
    struct buf text = {0};
    proc_line("/proc/cpuinfo", "model name", model, sizeof model);
    doctor_add(d, "processor", "model", DOCTOR_FINE, model[0] ? doctor_string(model) : json_null(), "%s",
               model[0] ? model : "unknown");
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int usable = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)online;
    doctor_add(d, "processor", "cores_usable", DOCTOR_FINE, json_integer(usable), "%d of %ld", usable,
               online);
    json_t *list = json_array();
    features(&text, list);
    doctor_add(d, "processor", "features", DOCTOR_FINE, list, "%s",
               text.len ? text.data : "none that is used");
    buf_clear(&text);
    list = json_array();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (kernels_get(names[i]))
            add_word(&text, list, names[i]);
    doctor_add(d, "processor", "kernels_here", DOCTOR_FINE, list, "%s", text.len ? text.data : "none");
    const struct kernels *k = kernels_get(c->kernels);
    doctor_add(d, "processor", "kernels", k ? DOCTOR_FINE : DOCTOR_PROBLEM,
               k ? json_string(k->name) : json_null(), "%s",
               k ? k->name : "those asked for do not run on this processor");
    buf_free(&text);
}

static void bytes_line(struct doctor *d, const char *group, const char *key, uint64_t bytes)
{
    struct buf text = {0};
    human_bytes(&text, bytes);
    doctor_add(d, group, key, DOCTOR_FINE, json_integer((json_int_t)bytes), "%s", text.data ? text.data : "");
    buf_free(&text);
}

void doctor_memory(struct doctor *d)
{
    char total[64], available[64];
    proc_line("/proc/meminfo", "MemTotal", total, sizeof total);
    proc_line("/proc/meminfo", "MemAvailable", available, sizeof available);
    bytes_line(d, "memory", "total", strtoull(total, NULL, 10) * 1024);
    bytes_line(d, "memory", "available", strtoull(available, NULL, 10) * 1024);
}

/* ---- disk ---- */

#define PROBE_BLOCK ((size_t)1 << 20)
enum { PROBE_BLOCKS = 64 };

struct probe {
    double write, read; /* bytes/s, 0 = not measured */
};

/* Writes blocks, each synced, for 80 ms or PROBE_BLOCKS; reads them back, past the cache where the system
 * lets go of it, for 50 ms. The file has no name. */
static int probe_disk(int fd, struct probe *p)
{
    char *block = malloc(PROBE_BLOCK);
    struct err e;
    size_t written = 0, got = 0;
    if (!block)
        return -1;
    for (size_t i = 0; i < PROBE_BLOCK; i++)
        block[i] = (char)(i * 2654435761u >> 13); /* nothing that a file system would compress away */
    double begun = clock_seconds(), now = begun;
    while (written < PROBE_BLOCKS && now - begun < 0.08) {
        if (file_pwrite_all(fd, block, PROBE_BLOCK, written * PROBE_BLOCK, "", &e) || fdatasync(fd))
            break;
        written++;
        now = clock_seconds();
    }
    if (written)
        p->write = (double)(written * PROBE_BLOCK) / (now - begun + 1e-9);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    begun = now = clock_seconds();
    while (got < written && now - begun < 0.05) {
        if (pread(fd, block, PROBE_BLOCK, (off_t)(got * PROBE_BLOCK)) != (ssize_t)PROBE_BLOCK)
            break;
        got++;
        now = clock_seconds();
    }
    if (got)
        p->read = (double)(got * PROBE_BLOCK) / (now - begun + 1e-9);
    free(block);
    return written ? 0 : -1;
}

static int open_probe(const char *folder)
{
    char *name = path_join(folder, ".probe.XXXXXX");
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && name && (fd = mkostemp(name, O_CLOEXEC)) >= 0)
        unlink(name);
    free(name);
    return fd;
}

/* The folder itself or the nearest one above it that exists; the caller frees. */
static char *existing_folder(const char *path)
{
    char *at = path[0] == '/' ? strdup(path) : path_join(".", path);
    while (at && access(at, F_OK) != 0) {
        char *slash = strrchr(at, '/');
        if (!slash)
            break;
        slash[slash == at] = '\0';
    }
    return at;
}

static void speed_line(struct doctor *d, const char *key, double bytes_per_second, const char *note)
{
    struct buf text = {0};
    if (bytes_per_second > 0) {
        human_bytes(&text, (uint64_t)bytes_per_second);
        doctor_add(d, "disk", key, DOCTOR_FINE, json_integer((json_int_t)bytes_per_second), "%s/s, %s",
                   text.data ? text.data : "", note);
    } else {
        doctor_add(d, "disk", key, DOCTOR_FINE, json_null(), "not measured");
    }
    buf_free(&text);
}

void doctor_disk(struct doctor *d, const struct config *c)
{
    struct statvfs fs;
    struct probe p = {0};
    char *folder = existing_folder(c->data_dir);
    int exists = access(c->data_dir, F_OK) == 0;
    int fd = folder ? open_probe(folder) : -1;
    doctor_add(d, "disk", "data_folder", fd >= 0 ? DOCTOR_FINE : DOCTOR_PROBLEM, doctor_string(c->data_dir),
               "%s%s", c->data_dir,
               fd < 0    ? " (cannot be written; choose another with --data-dir)"
               : !exists ? " (will be made)"
                         : "");
    if (folder && statvfs(folder, &fs) == 0)
        bytes_line(d, "disk", "free", (uint64_t)fs.f_bavail * fs.f_frsize);
    if (fd >= 0) {
        probe_disk(fd, &p);
        close(fd);
    }
    speed_line(d, "write_speed", p.write, "synced every 1 MB");
    speed_line(d, "read_speed", p.read, "as far as the cache lets us see");
    free(folder);
}

/* ---- libraries ---- */

/* The library that was really loaded is asked, by name: app/ includes no header of the others' libraries. */
static void *symbol(const char *name)
{
    return dlsym(RTLD_DEFAULT, name);
}

static void text_version(struct doctor *d, const char *library, const char *function, int skip_words)
{
    const char *(*ask)(void) = NULL;
    void *found = symbol(function);
    memcpy(&ask, &found, sizeof ask);
    const char *v = ask ? ask() : NULL;
    for (int i = 0; v && i < skip_words; i++)
        v = strchr(v, ' ') ? strchr(v, ' ') + 1 : v;
    doctor_add(d, "libraries", library, DOCTOR_FINE, v ? doctor_string(v) : json_null(), "%s",
               v ? v : "not linked");
}

static void pcre2_version(struct doctor *d)
{
    enum { PCRE2_VERSION_REQUEST = 11 };
    int (*ask)(uint32_t, void *) = NULL;
    void *found = symbol("pcre2_config_8");
    char text[64] = "";
    memcpy(&ask, &found, sizeof ask);
    int n = ask ? ask(PCRE2_VERSION_REQUEST, NULL) : -1;
    int known = n > 0 && (size_t)n <= sizeof text && ask(PCRE2_VERSION_REQUEST, text) > 0;
    doctor_add(d, "libraries", "pcre2", DOCTOR_FINE, known ? doctor_string(text) : json_null(), "%s",
               known ? text : "not linked");
}

static void xxhash_version(struct doctor *d)
{
    unsigned (*ask)(void) = NULL;
    void *found = symbol("XXH_versionNumber");
    char text[48] = "";
    memcpy(&ask, &found, sizeof ask);
    if (ask)
        snprintf(text, sizeof text, "%u.%u.%u", ask() / 10000, ask() / 100 % 100, ask() % 100);
    doctor_add(d, "libraries", "xxhash", DOCTOR_FINE, ask ? doctor_string(text) : json_null(), "%s",
               ask ? text : "built in");
}

void doctor_libraries(struct doctor *d)
{
    text_version(d, "sqlite3", "sqlite3_libversion", 0);
    text_version(d, "ncurses", "curses_version", 1);
    text_version(d, "utf8proc", "utf8proc_version", 0);
    text_version(d, "jansson", "jansson_version_str", 0);
    pcre2_version(d);
    xxhash_version(d);
}
