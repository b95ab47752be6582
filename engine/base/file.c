/* SPDX-License-Identifier: Apache-2.0 */
/* file.c - files and paths on POSIX. */
#include "engine/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/buf.h"

static int open_regular(const char *path, struct stat *st, int *fd, struct err *e)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (*fd < 0)
        return err_errno(e, errno, "cannot open %s", path);
    if (fstat(*fd, st) || !S_ISREG(st->st_mode)) {
        close(*fd);
        return err_set(e, ERR_IO, "%s is not a regular file; name a file", path);
    }
    return 0;
}

int mapping_open(struct mapping *m, const char *path, struct err *e)
{
    *m = (struct mapping){0};
    struct stat st;
    int fd;
    int rc = open_regular(path, &st, &fd, e);
    if (rc)
        return rc;
    size_t size = (size_t)st.st_size;
    void *data = size ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    int saved = errno;
    close(fd);
    if (data == MAP_FAILED)
        return err_errno(e, saved, "cannot map %s", path);
    m->data = data;
    m->size = size;
    return 0;
}

void mapping_close(struct mapping *m)
{
    if (m->data)
        munmap((void *)(uintptr_t)m->data, m->size);
    *m = (struct mapping){0};
}

int file_read(const char *path, size_t limit, char **out, size_t *size, struct err *e)
{
    *out = NULL;
    *size = 0;
    struct stat st;
    int fd;
    int rc = open_regular(path, &st, &fd, e);
    if (rc)
        return rc;
    if ((uint64_t)st.st_size > limit) {
        close(fd);
        return err_set(e, ERR_LIMIT, "%s has %lld bytes, more than the %zu allowed here", path,
                       (long long)st.st_size, limit);
    }
    struct buf b = {0};
    for (;;) {
        char *to = buf_reserve(&b, 1 << 16);
        ssize_t n = to ? read(fd, to, 1 << 16) : 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = err_errno(e, errno, "cannot read %s", path);
        if (n <= 0)
            break;
        b.len += (size_t)n;
        b.data[b.len] = '\0';
        if (b.len > limit) {
            rc = err_set(e, ERR_LIMIT, "%s grew past the %zu bytes allowed here", path, limit);
            break;
        }
    }
    close(fd);
    *size = b.len;
    if (!rc && !(*out = buf_take(&b)))
        rc = err_memory(e, path);
    if (rc) {
        buf_free(&b);
        *size = 0;
    }
    return rc;
}

int file_pwrite_all(int fd, const void *bytes, size_t n, uint64_t offset, const char *path, struct err *e)
{
    const char *at = bytes;
    while (n) {
        ssize_t w = pwrite(fd, at, n, (off_t)offset);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            return err_errno(e, w ? errno : ENOSPC, "cannot write %s; free disk space and try again", path);
        at += w;
        n -= (size_t)w;
        offset += (uint64_t)w;
    }
    return 0;
}

int file_write(const char *path, const void *bytes, size_t n, struct err *e)
{
    struct buf name = {0};
    buf_printf(&name, "%s.XXXXXX", path);
    if (name.failed)
        return err_memory(e, path);
    int fd = mkostemp(name.data, O_CLOEXEC);
    if (fd < 0) {
        int rc = err_errno(e, errno, "cannot create a file beside %s", path);
        buf_free(&name);
        return rc;
    }
    int rc = file_pwrite_all(fd, bytes, n, 0, path, e);
    if (!rc && fsync(fd))
        rc = err_errno(e, errno, "cannot sync %s", path);
    if (close(fd) && !rc)
        rc = err_errno(e, errno, "cannot close %s", path);
    if (!rc && rename(name.data, path))
        rc = err_errno(e, errno, "cannot rename to %s", path);
    if (rc)
        unlink(name.data);
    buf_free(&name);
    return rc;
}

int dir_make(const char *path, struct err *e)
{
    char *copy = strdup(path);
    if (!copy)
        return err_memory(e, path);
    int rc = 0;
    for (char *p = copy + 1; !rc; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        char c = *p;
        *p = '\0';
        if (mkdir(copy, 0700) && errno != EEXIST)
            rc = err_errno(e, errno, "cannot make the folder %s", copy);
        *p = c;
        if (c == '\0')
            break;
    }
    free(copy);
    struct stat st;
    if (!rc && (stat(path, &st) || !S_ISDIR(st.st_mode)))
        rc = err_set(e, ERR_IO, "%s is not a folder", path);
    return rc;
}

char *path_join(const char *a, const char *b)
{
    struct buf out = {0};
    size_t n = strlen(a);
    while (n > 1 && a[n - 1] == '/')
        n--;
    buf_add(&out, a, n);
    if (n && a[n - 1] != '/')
        buf_putc(&out, '/');
    while (*b == '/')
        b++;
    buf_puts(&out, b);
    return buf_take(&out);
}

char *path_xdg(const char *variable, const char *fallback)
{
    const char *set = getenv(variable);
    if (set && set[0] == '/')
        return path_join(set, "lectern");
    const char *home = getenv("HOME");
    if (!home || home[0] != '/')
        return NULL;
    char *base = path_join(home, fallback);
    char *full = base ? path_join(base, "lectern") : NULL;
    free(base);
    return full;
}

const char *path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}
