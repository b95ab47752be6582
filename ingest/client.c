/* SPDX-License-Identifier: Apache-2.0 */
/* client.c - runs lectern-ingest on one document and hands on what it says.
 *
 * The child gets file descriptors 0, 1 and 2 alone, resource limits, no way to new privileges, a short list
 * of environment variables and a process group of its own. However this function ends, the group is dead and
 * reaped by then. Between fork and exec only async-signal-safe calls are made: the parent has threads.
 */
#include "ingest/ingest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "ingest/frame.h"
#include "ingest/utf8_repair.h"

#define STDERR_KEPT ((size_t)4096)
#define READ_BYTES ((size_t)64 * 1024)
#define POLL_MS 100
#define EXIT_GRACE_S 2.0

extern char **environ;

struct run {
    const struct ingest_options *options;
    struct ingest_limits limits;
    struct buf name; /* the document's path, clean, for texts */
    pid_t pid;
    int out, err, status; /* our ends; -1 = closed */
    struct buf complaint; /* first bytes of the child's stderr */
    char *envp[16];
    struct frame_stream stream;
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* A pipe above the standard descriptors, so that the child's dup2 never meets its own source. */
static int make_pipe(int ends[2], struct err *e)
{
    if (pipe2(ends, O_CLOEXEC)) {
        ends[0] = ends[1] = -1;
        return err_errno(e, errno, "cannot make a pipe for lectern-ingest");
    }
    for (int i = 0; i < 2; i++) {
        if (ends[i] > 2)
            continue;
        int higher = fcntl(ends[i], F_DUPFD_CLOEXEC, 3);
        if (higher < 0)
            return err_errno(e, errno, "cannot make a pipe for lectern-ingest");
        close(ends[i]);
        ends[i] = higher;
    }
    return 0;
}

/* What a parser needs of the environment, and what sanitizers do; no tokens, no proxies, no preloads. */
static void choose_environment(struct run *r)
{
    static const char *const kept[] = {
        "PATH=", "HOME=", "TZ=", "LD_LIBRARY_PATH=", "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "LSAN_OPTIONS="};
    size_t n = 0;
    r->envp[n++] = (char *)(uintptr_t) "LC_ALL=C.UTF-8";
    for (char **v = environ; v && *v; v++)
        for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
            if (strncmp(*v, kept[i], strlen(kept[i])) == 0 && n + 1 < sizeof r->envp / sizeof r->envp[0])
                r->envp[n++] = *v;
    r->envp[n] = NULL;
}

/* ---- in the child, async-signal-safe only ---- */

/* `beyond`: how far the hard limit (SIGKILL for processor time) lies above the soft one (SIGXCPU). */
static void lower_limit(int which, uint64_t value, uint64_t beyond)
{
    struct rlimit l;
    if (getrlimit((__rlimit_resource_t)which, &l))
        return;
    if (l.rlim_max == RLIM_INFINITY || l.rlim_max > value + beyond)
        l.rlim_max = (rlim_t)(value + beyond);
    l.rlim_cur = l.rlim_max < value ? l.rlim_max : (rlim_t)value;
    setrlimit((__rlimit_resource_t)which, &l);
}

static void mark_all_close_on_exec(void)
{
#if defined(SYS_close_range)
    if (syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */) == 0)
        return;
#endif
    struct rlimit l;
    int most = getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < 65536 ? (int)l.rlim_cur : 65536;
    for (int fd = 3; fd < most; fd++)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void default_signals(void)
{
    for (int s = 1; s < NSIG; s++)
        signal(s, SIG_DFL); /* refusals (SIGKILL, SIGSTOP) do not matter */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void limit_child(const struct ingest_limits *l)
{
    lower_limit(RLIMIT_CORE, 0, 0);
    lower_limit(RLIMIT_CPU, l->cpu_seconds, 5);
#if !defined(__SANITIZE_ADDRESS__) &&                                                                        \
    !defined(__SANITIZE_THREAD__) /* their shadow is terabytes of address space */
    lower_limit(RLIMIT_AS, l->memory_bytes, 0);
#endif
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static _Noreturn void child(const struct run *r, pid_t parent, int out, int err, int status,
                            char *const argv[])
{
    setpgid(0, 0);
    default_signals();
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int failed = getppid() != parent || null < 0;
    if (null == 0) /* standard input was closed: this is it */
        fcntl(0, F_SETFD, 0);
    else if (!failed)
        failed = dup2(null, 0) < 0;
    failed = failed || dup2(out, 1) < 0 || dup2(err, 2) < 0;
    if (!failed) {
        mark_all_close_on_exec();
        limit_child(&r->limits);
        execve(argv[0], argv, r->envp);
    }
    int why = errno;
    ssize_t n = write(status, &why, sizeof why);
    _exit(n == (ssize_t)sizeof why ? 127 : 126);
}

/* ---- in the parent ---- */

/* Waits for the exec: its errno comes through the status pipe, or the pipe closes by itself. */
static int confirm_start(struct run *r, struct err *e)
{
    int why = 0;
    ssize_t n;
    do
        n = read(r->status, &why, sizeof why);
    while (n < 0 && errno == EINTR);
    close_fd(&r->status);
    if (n == (ssize_t)sizeof why)
        return err_set(e, ERR_CHILD,
                       "cannot start the document reader %s: %s; install lectern-ingest beside lectern",
                       r->options->worker, strerror(why));
    return 0;
}

static int start(struct run *r, struct err *e)
{
    int out[2] = {-1, -1}, err[2] = {-1, -1}, status[2] = {-1, -1};
    /* path behind "--": a name that begins with a dash is no option */
    char *argv[] = {(char *)(uintptr_t)r->options->worker, (char *)(uintptr_t) "--frames",
                    (char *)(uintptr_t) "--", (char *)(uintptr_t)r->options->path, NULL};
    choose_environment(r);
    int rc = make_pipe(out, e);
    if (!rc)
        rc = make_pipe(err, e);
    if (!rc)
        rc = make_pipe(status, e);
    if (!rc) {
        pid_t parent = getpid();
        r->pid = fork();
        if (r->pid == 0)
            child(r, parent, out[1], err[1], status[1], argv);
        if (r->pid < 0)
            rc = err_errno(e, errno, "cannot start lectern-ingest");
        else
            setpgid(r->pid, r->pid); /* here too: whoever comes first */
    }
    close_fd(&out[1]);
    close_fd(&err[1]);
    close_fd(&status[1]);
    r->out = out[0];
    r->err = err[0];
    r->status = status[0];
    return rc ? rc : confirm_start(r, e);
}

/* Reads what there is; *n = 0 and the descriptor closed at the end. */
static int read_some(int *fd, char *into, size_t size, size_t *n, const struct run *r, struct err *e)
{
    ssize_t got = read(*fd, into, size);
    *n = got > 0 ? (size_t)got : 0;
    if (got == 0)
        close_fd(fd);
    if (got < 0 && errno != EINTR && errno != EAGAIN)
        return err_errno(e, errno, "%s: cannot hear lectern-ingest", r->name.data);
    return 0;
}

static int hear_stderr(struct run *r, char *scratch, struct err *e)
{
    size_t n;
    int rc = read_some(&r->err, scratch, READ_BYTES, &n, r, e);
    size_t room = STDERR_KEPT - r->complaint.len;
    buf_add(&r->complaint, scratch, n < room ? n : room); /* the rest is drained: a full pipe would stop it */
    return rc;
}

/* Hands on frames until the child closes its output. */
static int hear(struct run *r, struct err *e)
{
    char *scratch = malloc(READ_BYTES);
    if (!scratch)
        return err_memory(e, "reading a document");
    int rc = 0;
    uint64_t frames = 0;
    double since = clock_seconds();
    while (!rc && r->out >= 0) {
        struct pollfd fds[2] = {{.fd = r->out, .events = POLLIN}, {.fd = r->err, .events = POLLIN}};
        int ready = poll(fds, 2, POLL_MS);
        if (cancel_requested(r->options->cancel)) {
            rc = err_set(e, ERR_CANCELLED, "%s: reading was stopped", r->name.data);
        } else if (ready < 0 && errno != EINTR) {
            rc = err_errno(e, errno, "%s: cannot wait for lectern-ingest", r->name.data);
        } else if (ready > 0) {
            size_t n = 0;
            if (fds[1].revents)
                rc = hear_stderr(r, scratch, e);
            if (!rc && fds[0].revents)
                rc = read_some(&r->out, scratch, READ_BYTES, &n, r, e);
            if (!rc && n)
                rc = frame_stream_feed(&r->stream, scratch, n, e);
        }
        double now = clock_seconds(); /* behind the sink: its time is not the worker's */
        if (r->stream.frames != frames) {
            frames = r->stream.frames;
            since = now;
        }
        if (!rc && r->out >= 0 && now - since > r->limits.idle_seconds)
            rc = err_set(e, ERR_CHILD, "%s: lectern-ingest gave no sign for %u s and was stopped",
                         r->name.data, r->limits.idle_seconds);
    }
    free(scratch);
    return rc;
}

/* Lets the child exit by itself within `grace` seconds, then kills its group and reaps it. */
static int reap(struct run *r, double grace)
{
    double end = clock_seconds() + grace;
    siginfo_t info = {0};
    while (grace > 0 && clock_seconds() < end) {
        info.si_pid = 0;
        if (waitid(P_PID, (id_t)r->pid, &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid == r->pid)
            break;
        struct timespec nap = {.tv_nsec = 2000000};
        nanosleep(&nap, NULL);
    }
    kill(-r->pid, SIGKILL); /* still ours: not reaped yet, so the number cannot be another's */
    kill(r->pid, SIGKILL);
    int status = 0;
    while (waitpid(r->pid, &status, 0) < 0)
        if (errno != EINTR)
            return 0; /* somebody ignores SIGCHLD: then frames alone decide */
    return status;
}

/* What a dead child still had in its stderr pipe; never waits. */
static void drain_stderr(struct run *r)
{
    char last[STDERR_KEPT];
    struct pollfd fd = {.fd = r->err, .events = POLLIN};
    size_t n = 1;
    while (r->err >= 0 && n && r->complaint.len < STDERR_KEPT && poll(&fd, 1, 0) > 0) {
        if (read_some(&r->err, last, STDERR_KEPT - r->complaint.len, &n, r, NULL))
            break; /* only a better text is lost */
        buf_add(&r->complaint, last, n);
    }
}

/* ": " and the first telling line of the child's stderr, clean; "" without one. */
static void complaint_line(const struct run *r, struct buf *out)
{
    const char *p = r->complaint.data ? r->complaint.data : "";
    while (*p && !((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z')))
        p++;
    size_t n = strcspn(p, "\n");
    struct buf line = {0};
    buf_add(&line, p, n);
    if (n && !line.failed) {
        buf_puts(out, ": ");
        utf8_clean_label(out, line.data, 200);
    }
    buf_add(out, "", 0);
    buf_free(&line);
}

/* What the end of a child that said all it had to say means. */
static int judge(struct run *r, int status, struct err *e)
{
    if (r->stream.verdict)
        return frame_stream_finish(&r->stream, e);
    drain_stderr(r);
    struct buf why = {0};
    complaint_line(r, &why);
    const char *said = why.failed ? "" : why.data;
    int rc = 0;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU)
        rc = err_set(e, ERR_CHILD, "%s: lectern-ingest used up its %u s of processor time", r->name.data,
                     r->limits.cpu_seconds);
    else if (WIFSIGNALED(status))
        rc = err_set(e, ERR_CHILD, "%s: lectern-ingest crashed (%s)%s", r->name.data,
                     strsignal(WTERMSIG(status)), said);
    else if (WEXITSTATUS(status) != 0)
        rc = err_set(e, ERR_CHILD, "%s: lectern-ingest failed (exit %d)%s", r->name.data, WEXITSTATUS(status),
                     said);
    else
        rc = frame_stream_finish(&r->stream, e);
    buf_free(&why);
    return rc;
}

static int run_child(struct run *r, const struct ingest_sink *sink, struct err *e)
{
    int rc = start(r, e);
    if (!rc)
        rc = hear(r, e);
    int status = r->pid > 0 ? reap(r, rc ? 0 : EXIT_GRACE_S) : 0;
    if (!rc)
        rc = judge(r, status, e);
    if (!rc && sink->finished)
        rc = sink->finished(sink->arg, &r->stream.seen, e);
    return rc;
}

int ingest_run(const struct ingest_options *options, const struct ingest_sink *sink, struct err *e)
{
    if (!options->worker || !options->path || !*options->path)
        return err_set(e, ERR_USAGE, "no document or no document reader is named");
    struct run r = {.options = options, .pid = -1, .out = -1, .err = -1, .status = -1};
    r.limits = frame_limits(&options->limits);
    utf8_clean_label(&r.name, options->path, 300);
    int rc = r.name.failed ? err_memory(e, "a path") : 0;
    if (!rc) {
        frame_stream_init(&r.stream, r.name.data, sink, &r.limits);
        rc = run_child(&r, sink, e);
    }
    close_fd(&r.out);
    close_fd(&r.err);
    close_fd(&r.status);
    frame_stream_fini(&r.stream);
    buf_free(&r.complaint);
    buf_free(&r.name);
    return rc;
}
