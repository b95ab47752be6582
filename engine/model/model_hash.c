/* SPDX-License-Identifier: Apache-2.0 */
/* model_hash.c - the identity of a model file, with a note so that a large file is hashed once.
 *
 * Note: $XDG_CACHE_HOME/lectern/hashes/<XXH3-64 of the real path>, one line "size dev ino mtime ctime hash".
 * It is believed only when all five match; the time of last status change cannot be set back by a program.
 */
#include "engine/model/model_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "engine/base/file.h"

/* Below this, hashing takes less time than is worth a note. */
#define NOTE_FROM ((size_t)1 << 28)

static void hex(const uint8_t *bytes, size_t n, char *out)
{
    for (size_t i = 0; i < n; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

/* The path of the note and the part of its line that must match; NULL when there can be none. */
static char *note_path(const char *path, size_t n, char expected[200])
{
    struct stat st;
    if (n < NOTE_FROM || stat(path, &st) || (uint64_t)st.st_size != n)
        return NULL;
    snprintf(expected, 200, "%zu %ju %ju %jd.%09ld %jd.%09ld ", n, (uintmax_t)st.st_dev, (uintmax_t)st.st_ino,
             (intmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, (intmax_t)st.st_ctim.tv_sec,
             st.st_ctim.tv_nsec);
    char *real = realpath(path, NULL);
    char *cache = path_xdg("XDG_CACHE_HOME", ".cache");
    char *dir = cache ? path_join(cache, "hashes") : NULL;
    char *note = NULL;
    if (real && dir && dir_make(dir, NULL) == 0) {
        char file[32];
        snprintf(file, sizeof file, "%016" PRIx64, (uint64_t)XXH3_64bits(real, strlen(real)));
        note = path_join(dir, file);
    }
    free(real);
    free(cache);
    free(dir);
    return note;
}

static int read_note(const char *note, const char *expected, uint8_t out[16])
{
    char *text = NULL;
    size_t size = 0;
    if (file_read(note, 400, &text, &size, NULL))
        return 0;
    size_t head = strlen(expected);
    int ok = size == head + 33 && memcmp(text, expected, head) == 0 && text[size - 1] == '\n';
    for (size_t i = 0; ok && i < 16; i++) {
        unsigned byte = 0;
        ok = strspn(text + head + 2 * i, "0123456789abcdef") >= 2 &&
             sscanf(text + head + 2 * i, "%2x", &byte) == 1;
        out[i] = (uint8_t)byte;
    }
    free(text);
    return ok;
}

void model_hash_file(const char *path, const uint8_t *bytes, size_t n, uint8_t out[16])
{
    char expected[200], line[256], digits[33];
    char *note = note_path(path, n, expected);
    if (note && read_note(note, expected, out)) {
        free(note);
        return;
    }
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, n));
    memcpy(out, canonical.digest, 16);
    if (note) {
        hex(out, 16, digits);
        int len = snprintf(line, sizeof line, "%s%s\n", expected, digits);
        /* A note that cannot be written costs time at the next opening, nothing else. */
        if (len > 0 && (size_t)len < sizeof line && file_write(note, line, (size_t)len, NULL))
            remove(note);
    }
    free(note);
}
