/* The child's environment is the worker's and
 *
 *     HF_TOPIC HF_PARTITION HF_OFFSET HF_KEY HF_MESSAGE_ID HF_ATTEMPT HF_FENCE
 *     HF_HEADER_<NAME>      upper case, other characters than letters and digits as '_';
 *                           the last one of a name counts
 *
 * A value is cut at its first zero byte, which an environment cannot carry. The message's value goes through
 * a pipe, as the child reads it: a child that does not read it is not waited for.
 *
 * Everything that allocates happens before fork; between fork and exec only async-signal-safe calls are made,
 * since other threads may hold locks. The child leads a process group of its own, so that a time-out reaches
 * its children too, and asks to be killed when the worker dies. An exec that fails for want of the program
 * ends with 126 or 127, which stops the worker: a typo must not dead-letter a backlog. One that fails because
 * of this message's headers (E2BIG) rejects the message. */
#include "child.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_REJECT = 65, EXIT_RETRY = 75, EXIT_CANNOT_RUN = 126, EXIT_NOT_FOUND = 127, TICK_MS = 50 };

extern char **environ;

struct environment {
    char **list;
    size_t count, room;
    size_t own; /* list[own …] are ours to free */
    bool failed;
};

static void put_env(struct environment *e, char *text) {
    if (!text || e->count + 1 >= e->room) {
        free(text);
        e->failed = true;
        return;
    }
    /* The last of a name counts. */
    size_t name = (size_t)(strchr(text, '=') - text) + 1;
    for (size_t i = e->own; i < e->count; i++) {
        if (strncmp(e->list[i], text, name) != 0) continue;
        free(e->list[i]);
        e->list[i] = text;
        return;
    }
    e->list[e->count++] = text;
}

static __attribute__((format(printf, 2, 3))) void put_envf(struct environment *e, const char *fmt, ...) {
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0) text = NULL;
    va_end(ap);
    put_env(e, text);
}

static void put_header(struct environment *e, hf_header h) {
    char *text = malloc(sizeof "HF_HEADER_=" + h.key.n + h.value.n);
    if (!text) {
        e->failed = true;
        return;
    }
    char *at = stpcpy(text, "HF_HEADER_");
    for (size_t i = 0; i < h.key.n; i++) {
        unsigned char c = (unsigned char)h.key.p[i];
        *at++ = isalnum(c) ? (char)toupper(c) : '_';
    }
    *at++ = '=';
    if (h.value.n) memcpy(at, h.value.p, h.value.n);
    at[h.value.n] = 0;
    put_env(e, text);
}

static void environment_of(struct environment *e, const hf_delivery *d) {
    size_t had = 0, headers = hf_delivery_header_count(d);
    while (environ[had]) had++;
    *e = (struct environment){.room = had + headers + 10};
    e->list = calloc(e->room, sizeof *e->list);
    if (!e->list) {
        e->failed = true;
        return;
    }
    /* What the worker itself got as HF_… is not the message's. */
    for (size_t i = 0; i < had; i++)
        if (strncmp(environ[i], "HF_", 3) != 0) e->list[e->count++] = environ[i];
    e->own = e->count;
    hf_str key = hf_delivery_key(d);
    put_envf(e, "HF_TOPIC=%s", hf_delivery_topic(d));
    put_envf(e, "HF_PARTITION=%" PRId32, hf_delivery_partition(d));
    put_envf(e, "HF_OFFSET=%" PRId64, hf_delivery_offset(d));
    if (key.p) put_envf(e, "HF_KEY=%.*s", (int)key.n, key.p);
    put_envf(e, "HF_MESSAGE_ID=%s", hf_delivery_message_id(d));
    put_envf(e, "HF_ATTEMPT=%" PRId32, hf_delivery_attempt(d));
    put_envf(e, "HF_FENCE=%" PRIu64, hf_delivery_fence(d));
    for (size_t i = 0; i < headers; i++) put_header(e, hf_delivery_header_at(d, i));
}

static void environment_fini(struct environment *e) {
    for (size_t i = e->own; i < e->count; i++) free(e->list[i]);
    free(e->list);
}

/* In the child: never returns. */
static void become(char *const argv[], char **envp, int in, pid_t parent) {
    struct sigaction usual = {.sa_handler = SIG_DFL};
    sigset_t none;
    sigemptyset(&none);
    sigaction(SIGTERM, &usual, NULL);
    sigaction(SIGINT, &usual, NULL);
    sigaction(SIGPIPE, &usual, NULL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(EXIT_RETRY); /* the worker died before the line above */
    dup2(in, STDIN_FILENO);
    syscall(SYS_close_range, 3u, ~0u, 0u); /* an old kernel leaves what libraries forgot to mark */
    execvpe(argv[0], argv, envp);
    if (errno == E2BIG) _exit(EXIT_REJECT);
    _exit(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN);
}

/* Writes what the pipe takes; closes it when all is written or nobody reads. */
static void feed(int *out, hf_str *left) {
    ssize_t n = left->n ? write(*out, left->p, left->n) : 0;
    if (n > 0) {
        left->p += n;
        left->n -= (size_t)n;
    }
    if (left->n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        close(*out);
        *out = -1;
    }
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Until the child has ended; returns its wait status. */
static int attend(pid_t pid, int pidfd, int out, hf_delivery *d) {
    hf_str left = hf_delivery_value(d);
    int64_t term_ms = 0;
    for (;;) {
        struct pollfd fds[] = {{.fd = pidfd, .events = POLLIN}, {.fd = out, .events = POLLOUT}};
        poll(fds, 2, TICK_MS);
        int status;
        if (waitpid(pid, &status, WNOHANG) == pid) {
            if (out >= 0) close(out);
            if (term_ms) kill(-pid, SIGKILL); /* what is left of its group */
            return status;
        }
        if (out >= 0 && fds[1].revents) feed(&out, &left);
        if (!hf_delivery_cancelled(d)) continue;
        if (!term_ms) {
            term_ms = now_ms();
            kill(-pid, SIGTERM);
        } else if (now_ms() - term_ms >= CHILD_GRACE_MS) {
            kill(-pid, SIGKILL);
        }
    }
}

static hf_verdict verdict_of(int status, hf_delivery *d) {
    char text[80];
    if (WIFSIGNALED(status)) {
        (void)snprintf(text, sizeof text, "the program was ended by signal %d%s", WTERMSIG(status),
                       hf_delivery_cancelled(d) ? ", after its time was up" : "");
        return hf_fail(d, HF_RETRY, text);
    }
    int code = WEXITSTATUS(status);
    (void)snprintf(text, sizeof text, "the program's exit status was %d", code);
    switch (code) {
    case 0: return HF_DONE;
    case EXIT_REJECT: return hf_fail(d, HF_REJECT, text);
    case EXIT_CANNOT_RUN:
    case EXIT_NOT_FOUND: return hf_fail(d, HF_STOP, text);
    default: return hf_fail(d, HF_RETRY, text);
    }
}

hf_verdict child_run(char *const argv[], hf_delivery *d) {
    struct environment e;
    environment_of(&e, d);
    int in[2] = {-1, -1};
    pid_t parent = getpid(), pid = -1;
    if (!e.failed && pipe2(in, O_CLOEXEC) == 0) {
        fcntl(in[1], F_SETFL, O_NONBLOCK);
        pid = fork();
        if (pid == 0) become(argv, e.list, in[0], parent);
    }
    environment_fini(&e);
    if (in[0] >= 0) close(in[0]);
    if (pid < 0) {
        if (in[1] >= 0) close(in[1]);
        return hf_fail(d, HF_RETRY, "no process could be started");
    }
    setpgid(pid, pid); /* both sides do: whoever comes first */
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    int status = attend(pid, pidfd, in[1], d);
    if (pidfd >= 0) close(pidfd);
    return verdict_of(status, d);
}
