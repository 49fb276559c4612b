/* holdfast check: answers check-backs by a program in any language.
 *
 *     holdfast check --group order-service -- ./order-exists-or-void
 *
 * A member of consumer group <group> on holdfast.check.<group> (the client library's check thread). For each
 * check the program gets the first half message's value on stdin and HF_TXN_ID, HF_TXN_GROUP, HF_ATTEMPT,
 * HF_HALVES in the environment, and answers by its exit status: 0 commit, 1 rollback, 75 unknown. Anything
 * else counts as unknown and is told. The offset is committed after the decision is durable.
 *
 * The value lies in a memory file, so a program that does not read it blocks nobody. What is alloc'ed
 * is alloc'ed before fork, for other threads may hold locks. A program that cannot be run stops the command
 * before the offset is committed: a typo must not burn the attempts of every transaction. So does a stop that
 * finds a program which does not end within its grace. */
#include "common.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_COMMIT = 0, EXIT_ROLLBACK = 1, EXIT_UNKNOWN = 75, EXIT_CANNOT_RUN = 126, EXIT_NOT_FOUND = 127 };
enum { TICK_MS = 50, GRACE_MS = 5000 };

extern char **environ;

struct check_command {
    struct cli_server at;
    const char *group;
    int64_t timeout_ms;
    char *const *argv;
    atomic_bool stopping;
};

static const struct hf_option rows[] = {
    CLI_SERVER_ROWS(struct check_command),
    {"group", HF_OPTION_TEXT, offsetof(struct check_command, group), .value = "G",
     .help = "the producer group; required"},
    {"timeout", HF_OPTION_MS, offsetof(struct check_command, timeout_ms), .fallback = "5m", .min = 1,
     .max = HF_DAYS(1), .value = "TIME", .help = "then the program is ended, and the answer is unknown"},
};
static const struct hf_options options = {"check", rows, sizeof rows / sizeof *rows};

/* ---- the program ---- */

enum { OWN = 4 }; /* variables of ours */

/* The caller frees list and the first OWN texts. */
static bool environment_of(const hf_check *q, char **own, char ***list) {
    size_t had = 0, n = 0;
    while (environ[had]) had++;
    hf_str halves = hf_check_halves(q);
    *list = calloc(had + OWN + 1, sizeof **list);
    bool ok = *list && asprintf(&own[0], "HF_TXN_ID=%s", hf_check_id(q)) >= 0;
    ok = ok && asprintf(&own[1], "HF_TXN_GROUP=%s", hf_check_group(q)) >= 0;
    ok = ok && asprintf(&own[2], "HF_ATTEMPT=%" PRId32, hf_check_attempt(q)) >= 0;
    ok = ok && asprintf(&own[3], "HF_HALVES=%.*s", (int)halves.n, halves.n ? halves.p : "") >= 0;
    for (; ok && n < OWN; n++) (*list)[n] = own[n];
    for (size_t i = 0; ok && i < had; i++)
        if (strncmp(environ[i], "HF_", 3) != 0) (*list)[n++] = environ[i];
    return ok;
}

static int value_file(hf_str value) {
    int fd = memfd_create("value", MFD_CLOEXEC);
    size_t at = 0;
    while (fd >= 0 && at < value.n) {
        ssize_t n = write(fd, value.p + at, value.n - at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            close(fd);
            return -1;
        }
        at += (size_t)n;
    }
    if (fd >= 0 && lseek(fd, 0, SEEK_SET) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* In the child: never returns. */
static void become(char *const argv[], char **envp, int in, pid_t parent) {
    struct sigaction usual = {.sa_handler = SIG_DFL};
    sigset_t none;
    sigemptyset(&none);
    sigaction(SIGPIPE, &usual, NULL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(EXIT_UNKNOWN); /* the command died before the line above */
    dup2(in, STDIN_FILENO);
    execvpe(argv[0], argv, envp);
    _exit(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN);
}

static pid_t start(const struct check_command *c, const hf_check *q) {
    char *own[OWN] = {NULL}, **list = NULL;
    pid_t parent = getpid(), pid = -1;
    int in = environment_of(q, own, &list) ? value_file(hf_check_value(q)) : -1;
    if (in >= 0) {
        pid = fork();
        if (pid == 0) become(c->argv, list, in, parent);
        close(in);
    }
    for (int i = 0; i < OWN; i++) free(own[i]);
    free(list);
    if (pid > 0) setpgid(pid, pid); /* both sides do: whoever comes first */
    return pid;
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Until it has ended; returns its wait status. It gets SIGTERM when its time is up, then SIGKILL. */
static int attend(struct check_command *c, pid_t pid) {
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    int64_t until_ms = now_ms() + c->timeout_ms, kill_ms = INT64_MAX;
    bool hurried = false;
    int status;
    while (waitpid(pid, &status, WNOHANG) != pid) {
        struct pollfd fd = {.fd = pidfd, .events = POLLIN};
        poll(&fd, 1, TICK_MS);
        if (atomic_load(&c->stopping) && !hurried) {
            hurried = true;
            if (until_ms > now_ms() + GRACE_MS) until_ms = now_ms() + GRACE_MS;
        }
        if (now_ms() >= kill_ms) {
            kill(-pid, SIGKILL);
        } else if (now_ms() >= until_ms && kill_ms == INT64_MAX) {
            kill(-pid, SIGTERM);
            kill_ms = now_ms() + GRACE_MS;
        }
    }
    if (kill_ms != INT64_MAX) kill(-pid, SIGKILL); /* what is left of its group */
    if (pidfd >= 0) close(pidfd);
    return status;
}

/* Ends the command here and now, with the offset where it is: the check will be asked of another member. */
static _Noreturn void leave(const hf_check *q, const char *why, int status) {
    (void)fprintf(stderr, "holdfast check: transaction \"%s\": %s\n", hf_check_id(q), why);
    _exit(status);
}

static hf_decision check(const hf_check *q, void *arg) {
    struct check_command *c = arg;
    pid_t pid = start(c, q);
    if (pid < 0) leave(q, "no process could be started", CLI_FAILED);
    int status = attend(c, pid);
    if (WIFSIGNALED(status)) {
        if (atomic_load(&c->stopping)) leave(q, "stopped before the program had answered", CLI_DONE);
        (void)fprintf(stderr, "holdfast check: transaction \"%s\": the program was ended by signal %d\n",
                      hf_check_id(q), WTERMSIG(status));
        return HF_UNKNOWN;
    }
    switch (WEXITSTATUS(status)) {
    case EXIT_COMMIT: return HF_COMMIT;
    case EXIT_ROLLBACK: return HF_ROLLBACK;
    case EXIT_UNKNOWN: return HF_UNKNOWN;
    case EXIT_CANNOT_RUN:
    case EXIT_NOT_FOUND: leave(q, "the program cannot be run", CLI_FAILED);
    default:
        (void)fprintf(stderr, "holdfast check: transaction \"%s\": exit status %d is no answer\n",
                      hf_check_id(q), WEXITSTATUS(status));
        return HF_UNKNOWN;
    }
}

/* ---- the command ---- */

static int run(struct check_command *c) {
    sigset_t stops;
    sigemptyset(&stops);
    sigaddset(&stops, SIGTERM);
    sigaddset(&stops, SIGINT);
    sigprocmask(SIG_BLOCK, &stops, NULL); /* before there are threads, which inherit it */
    (void)signal(SIGPIPE, SIG_IGN);
    hf_client *client;
    hf_producer *producer;
    enum hf_err e = cli_connect(&c->at, &client);
    if (e) return cli_fail("check", e);
    e = hf_producer_open(client, c->group, check, c, &producer);
    if (e) {
        int status = cli_fail("check", e);
        hf_close(client);
        return e == HF_EINVAL ? CLI_USAGE : status;
    }
    int number;
    (void)sigwait(&stops, &number);
    atomic_store(&c->stopping, true);
    hf_producer_close(producer);
    hf_close(client);
    return CLI_DONE;
}

int cli_check(int argc, char **argv) {
    struct hf_config config;
    struct check_command c;
    bool stop;
    int status = cli_settings(&config, &options, "holdfast check --group G [FLAGS] -- CMD [ARG…]", argc, argv,
                              &c, &stop);
    if (!stop && (!config.dashes || config.dashes_at > 0 || config.rest_count == 0)) {
        status = cli_usage("check", "the program is missing: it stands behind a lone --");
        stop = true;
    }
    if (!stop && !c.group) {
        status = cli_usage("check", "--group is missing");
        stop = true;
    }
    if (!stop) {
        c.argv = (char *const *)(uintptr_t)config.rest;
        atomic_init(&c.stopping, false);
        status = run(&c);
    }
    hf_config_fini(&config);
    return status;
}
