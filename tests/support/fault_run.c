/* SPDX-License-Identifier: Apache-2.0 */
/* fault_run.c - processes with faults in their way. */
#include "tests/support/fault_run.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"

enum { LIMIT_SECONDS = 120, OUTPUT_MAX = 1 << 20 };

static void die(const char *what, const char *path)
{
    fprintf(stderr, "fault_run: %s %s: %s\n", what, path ? path : "", strerror(errno));
    abort();
}

static void join(char out[PATH_MAX], const char *a, const char *b)
{
    if (snprintf(out, PATH_MAX, "%s/%s", a, b) >= PATH_MAX)
        die("too long", a);
}

static void set_number(const char *name, uint64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    setenv(name, text, 1);
}

/* In the child. */
static void set_fault(const struct fault *f, const char *build, const char *counts)
{
    char path[PATH_MAX];
    join(path, build, "tests/fault_io.so");
    if (access(path, R_OK))
        die("not built", path);
    setenv("LD_PRELOAD", path, 1);
    setenv("FAULT_PROGRAM", f->program ? f->program : "lectern", 1);
    setenv("FAULT_COUNTS", counts, 1);
    set_number("FAULT_AT", f->at);
    set_number("FAULT_TIMES", f->times);
    set_number("FAULT_EVERY", f->every);
    if (f->classes)
        setenv("FAULT_CLASS", f->classes, 1);
    if (f->how)
        setenv("FAULT_HOW", f->how, 1);
    if (f->under)
        setenv("FAULT_UNDER", f->under, 1);
}

static void start(const char *const *argv, const struct fault *f, const char *scratch, const char *counts)
{
    char path[PATH_MAX];
    const char *build = getenv("LECTERN_BUILD");
    if (!build)
        die("LECTERN_BUILD is not set", NULL);
    static const char *const names[] = {"stdin", "stdout", "stderr"};
    for (int i = 0; i < 3; i++) {
        join(path, scratch, names[i]);
        int fd = i ? open(path, O_RDWR | O_CREAT | O_TRUNC, 0600) : open("/dev/null", O_RDONLY);
        if (fd < 0 || dup2(fd, i) < 0)
            die("cannot open", path);
        close(fd);
    }
    if (f)
        set_fault(f, build, counts);
    join(path, build, argv[0]);
    execv(path, (char *const *)(uintptr_t)argv);
    die("cannot run", path);
}

static void nap(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

/* Waits in small steps: no signal handler of a test program is touched. */
static int wait_for(pid_t pid, double kill_after, double begun)
{
    int status = 0, killed = 0;
    double step = 0.0002;
    if (kill_after >= 0) {
        nap(kill_after);
        kill(pid, SIGKILL);
        killed = 1;
    }
    for (;;) {
        pid_t done = waitpid(pid, &status, killed ? 0 : WNOHANG);
        if (done == pid)
            return status;
        if (done < 0 && errno != EINTR)
            die("waitpid", NULL);
        if (clock_seconds() - begun > LIMIT_SECONDS) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return SIGALRM;
        }
        nap(step);
        step = step < 0.005 ? step * 1.2 : step;
    }
}

static char *slurp(const char *scratch, const char *name)
{
    char path[PATH_MAX];
    join(path, scratch, name);
    FILE *f = fopen(path, "r");
    char *text = calloc(1, OUTPUT_MAX + 1);
    if (!f || !text)
        die("cannot read", path);
    size_t n = fread(text, 1, OUTPUT_MAX, f);
    fclose(f);
    char *fit = realloc(text, n + 1);
    return fit ? fit : text;
}

void fault_run(const char *const *argv, const struct fault *f, const char *scratch, double kill_after,
               struct run *r)
{
    *r = (struct run){0};
    char counts[PATH_MAX];
    join(counts, scratch, "counts");
    unlink(counts);
    double begun = clock_seconds();
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        die("fork", NULL);
    if (!pid)
        start(argv, f, scratch, counts);
    r->status = wait_for(pid, kill_after, begun);
    r->seconds = clock_seconds() - begun;
    r->out = slurp(scratch, "stdout");
    r->err = slurp(scratch, "stderr");
    uint64_t all[FAULT_CLASSES + 1] = {0};
    FILE *file = f ? fopen(counts, "r") : NULL;
    if (file) {
        if (fread(all, sizeof all[0], FAULT_CLASSES + 1, file) == FAULT_CLASSES + 1) {
            r->chosen = all[0];
            memcpy(r->counts, all + 1, sizeof r->counts);
        }
        fclose(file);
    }
}

void run_free(struct run *r)
{
    free(r->out);
    free(r->err);
    *r = (struct run){0};
}

int run_exited(const struct run *r)
{
    return WIFEXITED(r->status);
}

int run_exit(const struct run *r)
{
    return WIFEXITED(r->status) ? WEXITSTATUS(r->status) : -1;
}

/* That library ends the program by itself when it has no memory. */
static const char libarchive_memory[] = "Fatal Internal Error in libarchive: Out of memory\n";

int run_is_clear(const struct run *r, char *why, size_t size)
{
    size_t n = strlen(r->err), lines = 0;
    for (size_t i = 0; i < n; i++)
        lines += r->err[i] == '\n';
    if (WIFSIGNALED(r->status))
        snprintf(why, size, "died of signal %d; %.300s", WTERMSIG(r->status), r->err);
    else if (run_exit(r) != 0 && run_exit(r) != 1)
        snprintf(why, size, "exit status %d; %.300s", run_exit(r), r->err);
    else if (run_exit(r) == 1 &&
             (lines != 1 || r->err[n - 1] != '\n' ||
              (strncmp(r->err, "lectern: ", 9) != 0 && strcmp(r->err, libarchive_memory) != 0)))
        snprintf(why, size, "failed with %zu lines of text: %.300s", lines, r->err);
    else
        return 1;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    return remove(path);
}

void tree_remove(const char *folder)
{
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void file_copy(const char *from, const char *to)
{
    static char buffer[1 << 16];
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (in < 0 || out < 0)
        die("cannot copy", from);
    for (;;) {
        ssize_t n = read(in, buffer, sizeof buffer);
        if (n < 0 || (n && write(out, buffer, (size_t)n) != n))
            die("cannot copy", from);
        if (!n)
            break;
    }
    close(in);
    close(out);
}

static void copy_into(const char *from, const char *to)
{
    if (mkdir(to, 0700))
        die("cannot make", to);
    DIR *dir = opendir(from);
    if (!dir)
        die("cannot list", from);
    for (struct dirent *d; (d = readdir(dir));) {
        char a[PATH_MAX], b[PATH_MAX];
        struct stat st;
        if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
            continue;
        join(a, from, d->d_name);
        join(b, to, d->d_name);
        if (lstat(a, &st))
            die("cannot look at", a);
        if (S_ISDIR(st.st_mode))
            copy_into(a, b);
        else
            file_copy(a, b);
    }
    closedir(dir);
}

void tree_copy(const char *from, const char *to)
{
    tree_remove(to);
    copy_into(from, to);
}

/* splitmix64 */
uint64_t fault_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

int fault_parallel(int n, int (*work)(void *arg, int k, int n), void *arg)
{
    pid_t pids[16];
    int bad = 0;
    if (n < 1 || n > 16)
        die("fault_parallel", NULL);
    fflush(NULL);
    for (int k = 0; k < n; k++) {
        pids[k] = fork();
        if (pids[k] < 0)
            die("fork", NULL);
        if (!pids[k]) {
            int rc = work(arg, k, n) != 0;
            fflush(NULL);
            _exit(rc);
        }
    }
    for (int k = 0; k < n; k++) {
        int status;
        if (waitpid(pids[k], &status, 0) != pids[k])
            die("waitpid", NULL);
        if (WIFSIGNALED(status))
            printf("worker %d died of signal %d\n", k, WTERMSIG(status));
        bad += status != 0;
    }
    return bad;
}
