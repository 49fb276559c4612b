/* A broken program may abort, exit or run for ever: each rule is broken in a child process, which reports
 * every seed it begins and, if it can, what was wrong. A seed that does not come to an end by itself counts as
 * noticed: the child is killed by a signal. */
#include "mutations.h"

#include "env/sim.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SEED_SECONDS = 60 }; /* thousands of times what one takes */

struct report { /* at most PIPE_BUF bytes: written whole */
    uint64_t seed;
    char why[400];
};

static void try_seed(struct report *r, uint64_t seed, mutations_run *run, int to) {
    r->seed = seed;
    (void)alarm(SEED_SECONDS);
    if (write(to, r, sizeof *r) != sizeof *r) _exit(3);
    if (run(seed, r->why, sizeof r->why)) return;
    if (write(to, r, sizeof *r) != sizeof *r) _exit(3);
    _exit(1);
}

static void child(int rule, uint64_t seeds, mutations_run *run, int to) {
    struct report r = {0};
    if (!freopen("/dev/null", "w", stderr) || !freopen("/dev/null", "w", stdout)) _exit(3);
    signal(SIGABRT, SIG_DFL);
    hf_sim_set_mutation(rule);
    for (uint64_t seed = 1; seed <= seeds; seed++) try_seed(&r, seed, run, to);
    _exit(0);
}

static bool noticed(int rule, uint64_t seeds, mutations_run *run) {
    int ends[2];
    if (fflush(stdout) || pipe(ends)) return false;
    pid_t pid = fork();
    if (pid < 0) return false;
    if (pid == 0) {
        close(ends[0]);
        child(rule, seeds, run, ends[1]);
    }
    close(ends[1]);
    struct report r = {0}, next;
    while (read(ends[0], &next, sizeof next) == sizeof next) r = next;
    close(ends[0]);
    int status = 0;
    if (waitpid(pid, &status, 0) != pid) return false;
    bool found = !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    const char *how = WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : r.why[0] ? r.why : "it stopped";
    printf("mutation %3d: %s seed %llu%s%s\n", rule, found ? "noticed by" : "NOT noticed up to",
           (unsigned long long)r.seed, found ? ", " : "", found ? how : "");
    return found;
}

int mutations_missed(const int *rules, uint64_t seeds, mutations_run *run) {
    int missed = 0;
    for (; *rules; rules++) missed += !noticed(*rules, seeds, run);
    if (missed) printf("%d mutations were not noticed\n", missed);
    return missed;
}
