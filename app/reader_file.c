/* SPDX-License-Identifier: Apache-2.0 */
/* reader_file.c - is a document's file still the one that was read?
 *
 * A stamp is size, time of change and XXH3-128 of the bytes. Size and time are looked at first; the bytes are
 * read only when the time alone differs. A folder's stamp is taken over the files that gave its text, in
 * their order, so files that came later are not seen here. A time so near to the look that a later change
 * could hide behind it is kept as 0, and the next look reads the bytes.
 */
#include "app/reader_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/base/buf.h"

enum { READ_BYTES = 1 << 16 };

static const int64_t TICK_NS = 20000000; /* file times step by the kernel's tick, not by nanoseconds */

static int64_t time_ns(struct timespec t)
{
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* What is at `path` goes into the stamp: 0, or an errno. `sum` NULL leaves the bytes unread. */
static int add_file(const char *path, struct reader_stamp *stamp, XXH3_state_t *sum)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int rc = fd < 0 || fstat(fd, &st) ? errno : S_ISREG(st.st_mode) ? 0 : EINVAL;
    if (!rc) {
        int64_t changed = time_ns(st.st_mtim);
        stamp->size += (uint64_t)st.st_size;
        stamp->mtime_ns = changed > stamp->mtime_ns ? changed : stamp->mtime_ns;
    }
    char *bytes = !rc && sum ? malloc(READ_BYTES) : NULL;
    if (!rc && sum && !bytes)
        rc = ENOMEM;
    while (!rc && sum) {
        ssize_t n = read(fd, bytes, READ_BYTES);
        if (n > 0)
            XXH3_128bits_update(sum, bytes, (size_t)n);
        else if (!n)
            break;
        else if (errno != EINTR)
            rc = errno;
    }
    free(bytes);
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Every file that gave text, in the order of the text. */
static int add_folder(const char *folder, const struct source_map *map, const char *text,
                      struct reader_stamp *stamp, XXH3_state_t *sum)
{
    uint64_t bytes = source_map_text_bytes(map), first, end;
    int rc = 0;
    for (uint64_t at = 0; !rc && at < bytes; at = end) {
        struct source_place place;
        struct err ignored;
        if (source_map_lookup(map, text, at, &place, &ignored) ||
            source_map_page(map, at, &first, &end, &ignored) || end <= at)
            return EINVAL;
        struct buf path = {0};
        buf_printf(&path, "%s/%s", folder, place.file);
        rc = path.failed ? ENOMEM : place.file[0] ? add_file(path.data, stamp, sum) : 0;
        buf_free(&path);
    }
    return rc;
}

static int add_all(const char *path, const struct source_map *map, const char *text,
                   struct reader_stamp *stamp, XXH3_state_t *sum)
{
    struct stat st;
    if (stat(path, &st))
        return errno;
    return S_ISDIR(st.st_mode) ? map ? add_folder(path, map, text, stamp, sum) : 0
                               : add_file(path, stamp, sum);
}

int reader_stamp_take(const char *path, const struct source_map *map, const char *text,
                      struct reader_stamp *out)
{
    *out = (struct reader_stamp){.size = 0};
    XXH3_state_t *sum = XXH3_createState();
    if (!sum)
        return ENOMEM;
    struct timespec now = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    XXH3_128bits_reset(sum);
    int rc = add_all(path, map, text, out, sum);
    XXH128_canonical_t digest;
    XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(sum));
    memcpy(out->hash, digest.digest, sizeof out->hash);
    XXH3_freeState(sum);
    if (out->mtime_ns > time_ns(now) - TICK_NS)
        out->mtime_ns = 0;
    return rc;
}

enum reader_file reader_file_state(const struct store_document *d, const struct source_map *map,
                                   const char *text)
{
    struct reader_stamp now = {.size = 0};
    struct stat st;
    if (stat(d->path, &st))
        return READER_FILE_MISSING;
    if (add_all(d->path, map, text, &now, NULL))
        return S_ISDIR(st.st_mode) ? READER_FILE_CHANGED : READER_FILE_MISSING;
    if (now.size != d->size)
        return READER_FILE_CHANGED;
    if (now.mtime_ns == d->mtime_ns)
        return READER_FILE_SAME;
    if (reader_stamp_take(d->path, map, text, &now))
        return READER_FILE_MISSING;
    return memcmp(now.hash, d->hash, sizeof now.hash) ? READER_FILE_CHANGED : READER_FILE_SAME;
}
