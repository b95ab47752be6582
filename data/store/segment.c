/* SPDX-License-Identifier: Apache-2.0 */
/* segment.c - segment files: header, locks and readers. Layout and the two locks are in store_internal.h. */
#include "data/store/store_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { HEADER_VERSION = 1, HEADER_SUMMED = SEGMENT_HEADER - 8 };
static const char magic[8] = {'L', 'E', 'C', 'T', 'S', 'E', 'G', '1'};

char *segment_path(const struct store *s, int64_t id)
{
    struct buf name = {0};
    buf_printf(&name, "%s/%06lld.seg", s->segments_dir, (long long)id);
    return name.failed ? NULL : buf_take(&name);
}

void segment_header_make(uint8_t header[SEGMENT_HEADER], const uint8_t uuid[16], int64_t id)
{
    memset(header, 0, SEGMENT_HEADER);
    memcpy(header, magic, 8);
    header[8] = HEADER_VERSION;
    header[12] = (uint8_t)(SEGMENT_HEADER & 0xff);
    header[13] = (uint8_t)(SEGMENT_HEADER >> 8);
    memcpy(header + 16, uuid, 16);
    for (int i = 0; i < 8; i++)
        header[32 + i] = (uint8_t)((uint64_t)id >> (8 * i));
    uint64_t sum = XXH3_64bits(header, HEADER_SUMMED);
    for (int i = 0; i < 8; i++)
        header[HEADER_SUMMED + i] = (uint8_t)(sum >> (8 * i));
}

/* The header is a function of (uuid, id), so it is compared whole. */
int segment_header_check(int fd, const char *path, const uint8_t uuid[16], int64_t id, struct err *e)
{
    uint8_t want[SEGMENT_HEADER], have[SEGMENT_HEADER];
    size_t got = 0;
    ssize_t n = 1;
    while (n && got < sizeof have) {
        n = pread(fd, have + got, sizeof have - got, (off_t)got);
        if (n < 0 && errno != EINTR)
            return err_errno(e, errno, "cannot read %s", path);
        got += n > 0 ? (size_t)n : 0;
    }
    segment_header_make(want, uuid, id);
    if (got != SEGMENT_HEADER || memcmp(want, have, SEGMENT_HEADER) != 0)
        return err_set(e, ERR_FORMAT, "%s has a damaged header; it will be read again from the document",
                       path);
    return 0;
}

int segment_open_file(const char *path, int flags, struct err *e, int *fd)
{
    *fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK);
    if (*fd < 0 && errno == ENOENT)
        return err_set(e, ERR_FORMAT, "%s is missing; it will be read again from the document", path);
    if (*fd < 0)
        return err_errno(e, errno, "cannot open %s", path);
    struct stat st;
    if (fstat(*fd, &st) || !S_ISREG(st.st_mode)) {
        close(*fd);
        *fd = -1;
        return err_set(e, ERR_FORMAT, "%s is not a file; it will be read again from the document", path);
    }
    return 0;
}

int segment_range_lock(int fd, short type, uint64_t offset, uint64_t length)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)offset, .l_len = (off_t)length};
    int status;
    do
        status = fcntl(fd, F_OFD_SETLK, &lock);
    while (status && errno == EINTR);
    return status ? errno : 0;
}

/* ---- readers --------------------------------------------------------------------------------------------
 */

int segment_borrow(struct store *s, int64_t id, const uint8_t uuid[16], struct segment **out, struct err *e)
{
    *out = NULL;
    for (struct segment *seg = s->segments; seg; seg = seg->next) {
        if (seg->id != id || memcmp(seg->uuid, uuid, 16) != 0)
            continue;
        seg->refs++;
        *out = seg;
        return 0;
    }
    struct segment *seg = calloc(1, sizeof *seg);
    char *path = segment_path(s, id);
    if (!seg || !path) {
        free(seg);
        free(path);
        return err_memory(e, "a segment");
    }
    *seg = (struct segment){.id = id, .fd = -1, .refs = 1, .path = path, .next = s->segments};
    memcpy(seg->uuid, uuid, 16);
    s->segments = seg;
    int rc = segment_open_file(path, O_RDONLY, e, &seg->fd);
    if (!rc)
        rc = segment_header_check(seg->fd, path, uuid, id, e);
    if (rc) {
        segment_return(s, seg);
        return rc;
    }
    *out = seg;
    return 0;
}

void segment_return(struct store *s, struct segment *seg)
{
    if (!seg || --seg->refs)
        return;
    for (struct segment **at = &s->segments; *at; at = &(*at)->next)
        if (*at == seg) {
            *at = seg->next;
            break;
        }
    if (seg->fd >= 0)
        close(seg->fd); /* read only: nothing to lose; the range locks end with it */
    free(seg->path);
    free(seg);
}

int segment_range_hold(struct segment *seg, uint64_t offset, uint64_t size, int *gone, struct err *e)
{
    *gone = 0;
    int failed = size ? segment_range_lock(seg->fd, F_RDLCK, offset, size) : 0;
    *gone = failed == EAGAIN || failed == EACCES;
    return failed && !*gone ? err_errno(e, failed, "cannot lock %s", seg->path) : 0;
}

void segment_range_release(struct segment *seg, uint64_t offset, uint64_t size)
{
    if (size) /* unlocking what is locked cannot fail in a way that matters: closing ends it too */
        (void)segment_range_lock(seg->fd, F_UNLCK, offset, size);
}
