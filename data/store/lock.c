/* SPDX-License-Identifier: Apache-2.0 */
/* lock.c - one writer per session: flock on locks/N.lock, whose text is the pid of whoever has it.
 *
 * The kernel ends the lock with the process, so a crash leaves no stale lock; the text is for people alone.
 */
#include "data/store/store_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct store_lock {
    struct store *store;
    int64_t session;
    int fd;
    char *path;
    struct store_lock *next;
};

static int busy(int fd, int64_t session, struct err *e)
{
    char text[32];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    long pid = strtol(text, NULL, 10);
    if (pid > 0)
        return err_set(e, ERR_BUSY, "session %lld is in use by process %ld; close it there or wait",
                       (long long)session, pid);
    return err_set(e, ERR_BUSY, "session %lld is in use by another process; close it there or wait",
                   (long long)session);
}

/* flock keeps others out; the same lock on the first byte lets lock_in_use ask without taking anything. */
static void mark(int fd)
{
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    (void)fcntl(fd, F_OFD_SETLK, &all); /* nobody else can have it: it is taken under the flock alone */
}

/* *again: the file was unlinked between open and flock, so the lock is on nothing. */
static int try_lock(struct store_lock *lock, int *again, struct err *e)
{
    lock->fd = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK, 0600);
    if (lock->fd < 0)
        return err_errno(e, errno, "cannot open %s", lock->path);
    if (flock(lock->fd, LOCK_EX | LOCK_NB)) {
        int saved = errno;
        int rc = saved == EWOULDBLOCK ? busy(lock->fd, lock->session, e)
                                      : err_errno(e, saved, "cannot lock %s", lock->path);
        close(lock->fd);
        lock->fd = -1;
        return rc;
    }
    mark(lock->fd);
    struct stat have, named;
    *again = fstat(lock->fd, &have) || stat(lock->path, &named) || have.st_ino != named.st_ino ||
             have.st_dev != named.st_dev;
    if (*again) {
        close(lock->fd);
        lock->fd = -1;
    }
    return 0;
}

static void write_pid(int fd)
{
    char text[32];
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    /* A full disk must not keep a session shut: without the text the message has no pid, that is all. */
    if (!ftruncate(fd, 0))
        (void)!pwrite(fd, text, (size_t)n, 0);
}

int store_session_lock(struct store *s, int64_t id, struct store_lock **out, struct err *e)
{
    *out = NULL;
    struct store_lock *lock = calloc(1, sizeof *lock);
    struct buf path = {0};
    buf_printf(&path, "%s/%lld.lock", s->locks_dir, (long long)id);
    if (!lock || path.failed) {
        free(lock);
        buf_free(&path);
        return err_memory(e, "a lock");
    }
    *lock =
        (struct store_lock){.store = s, .session = id, .fd = -1, .path = buf_take(&path), .next = s->locks};
    s->locks = lock;
    int again = 1;
    int rc = 0;
    while (!rc && again)
        rc = try_lock(lock, &again, e);
    if (!rc)
        write_pid(lock->fd);
    if (!rc && (rc = session_exists(s, id, e)) == ERR_NOT_FOUND) {
        lock_remove(lock);
        return rc;
    }
    if (rc)
        store_session_unlock(lock);
    else
        *out = lock;
    return rc;
}

void store_session_unlock(struct store_lock *lock)
{
    if (!lock)
        return;
    for (struct store_lock **at = &lock->store->locks; *at; at = &(*at)->next)
        if (*at == lock) {
            *at = lock->next;
            break;
        }
    if (lock->fd >= 0)
        close(lock->fd);
    free(lock->path);
    free(lock);
}

void lock_remove(struct store_lock *lock)
{
    unlink(lock->path); /* a file left behind locks nothing: ids are never used again */
    store_session_unlock(lock);
}

int lock_held_here(const struct store *s, int64_t session)
{
    for (const struct store_lock *lock = s->locks; lock; lock = lock->next)
        if (lock->session == session && lock->fd >= 0)
            return 1;
    return 0;
}

int lock_in_use(const struct store *s, int64_t session)
{
    struct buf path = {0};
    buf_printf(&path, "%s/%lld.lock", s->locks_dir, (long long)session);
    if (path.failed)
        return 1; /* who cannot be asked is spared */
    int fd = open(path.data, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK);
    int used = fd < 0 && errno != ENOENT;
    buf_free(&path);
    if (fd < 0)
        return used;
    struct flock asked = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    used = fcntl(fd, F_OFD_GETLK, &asked) || asked.l_type != F_UNLCK;
    close(fd);
    return used;
}
