/* A reminder service: once, again and again, later, never mind.
 *
 *     cc reminders.c $(pkg-config --cflags --libs holdfast) -o reminders
 *     export HOLDFAST_SERVER=127.0.0.1:9092 HOLDFAST_API=127.0.0.1:8092
 *     ./reminders once   ada dentist 90000 "the dentist, at three"       in 90 seconds
 *     ./reminders every  ada standup "0 9 * * MON-FRI" Europe/Berlin "stand-up"
 *     ./reminders snooze ada standup 600000                              its next run in ten minutes
 *     ./reminders forget ada dentist
 *     ./reminders forget ada                                             all of them
 *     ./reminders run                                                    tells whom it is due; ends by
 * SIGTERM
 *
 * A reminder is a message held for topic "reminders" under the name USER/WHAT. Its own name makes it
 * replaceable (the same again changes it), the common beginning makes all of a user's one filter. The user is
 * the key, so the reminders of one user are told one after the other. */
#include <holdfast/holdfast.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TOPIC "reminders"
enum { NAME = 512 };

static int fail(void) {
    fprintf(stderr, "reminders: %s\n", hf_errmsg());
    return 1;
}

static int say(enum hf_err e, hf_outcome o) {
    return e ? fail() : printf("%s\n", hf_outcome_text(o)) < 0;
}

static const char *from(const char *variable, const char *otherwise) {
    const char *value = getenv(variable);
    return value ? value : otherwise;
}

static const char *name_of(char out[NAME], const char *user, const char *what) {
    (void)snprintf(out, NAME, "%s/%s", user, what);
    return out;
}

static hf_message reminder(const char *name, const char *user, const char *text) {
    return (hf_message){
        .topic = TOPIC, .key = {user, strlen(user)}, .value = {text, strlen(text)}, .id = name};
}

/* USER WHAT MILLISECONDS TEXT */
static int once(hf_client *c, char **a) {
    char name[NAME];
    hf_outcome o = HF_OUTCOME_UNKNOWN;
    hf_message m = reminder(name_of(name, a[0], a[1]), a[0], a[3]);
    m.delay_ms = atoll(a[2]);
    enum hf_err e = hf_replace(c, &m, &o);
    return say(e, o);
}

/* USER WHAT CRON ZONE TEXT */
static int every(hf_client *c, char **a) {
    char name[NAME];
    hf_message m = reminder(name_of(name, a[0], a[1]), a[0], a[4]);
    m.cron = a[2];
    m.tz = a[3];
    if (hf_send(c, &m, NULL)) return fail();
    printf("scheduled\n");
    return 0;
}

/* USER WHAT MILLISECONDS */
static int snooze(hf_client *c, char **a) {
    char name[NAME];
    struct timespec now;
    hf_outcome o = HF_OUTCOME_UNKNOWN;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    int64_t due_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + atoll(a[2]);
    enum hf_err e = hf_move(c, TOPIC, name_of(name, a[0], a[1]), due_ms, &o);
    return say(e, o);
}

/* USER WHAT, or USER: a whole series is forgotten, not its next run alone. */
static int forget(hf_client *c, char **a) {
    char name[NAME];
    hf_outcome o = HF_OUTCOME_UNKNOWN;
    if (a[1]) {
        enum hf_err e = hf_cancel(c, TOPIC, name_of(name, a[0], a[1]), &o);
        return say(e, o);
    }
    hf_sums sums = {0};
    hf_filter all = {.topic = TOPIC, .id_prefix = name_of(name, a[0], "")};
    if (hf_cancel_all(c, &all, &sums)) return fail();
    printf("cancelled %lld\n", (long long)sums.done);
    return 0;
}

static hf_verdict tell(hf_delivery *d, void *arg) {
    (void)arg;
    hf_str user = hf_delivery_key(d);
    printf("%s: %s\n", user.p, hf_delivery_value(d).p);
    fflush(stdout);
    return HF_DONE;
}

static int run(void) {
    hf_worker *w;
    hf_worker_options o = {HF_WORKER_DEFAULTS, .server = from("HOLDFAST_SERVER", "127.0.0.1:9092"),
                           .group = "reminders", .topics = TOPIC, .handler = tell};
    if (hf_worker_open(&o, &w) || hf_worker_stop_on_signals(w)) return fail();
    enum hf_err e = hf_worker_run(w);
    if (e) (void)fail();
    hf_worker_close(w);
    return e ? 1 : 0;
}

static const struct command {
    const char *name;
    int least, most; /* arguments */
    int (*run)(hf_client *c, char **a);
} commands[] = {
    {"once", 4, 4, once}, {"every", 5, 5, every}, {"snooze", 3, 3, snooze}, {"forget", 1, 2, forget}};

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "run") == 0) return run();
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        const struct command *command = &commands[i];
        if (strcmp(name, command->name) != 0 || argc - 2 < command->least || argc - 2 > command->most)
            continue;
        hf_client_options o = {HF_CLIENT_DEFAULTS, .api = from("HOLDFAST_API", "127.0.0.1:8092")};
        hf_client *c;
        if (hf_connect(from("HOLDFAST_SERVER", "127.0.0.1:9092"), &o, &c)) return fail();
        int status = command->run(c, argv + 2);
        hf_close(c);
        return status;
    }
    fprintf(stderr, "usage: reminders once USER WHAT MS TEXT | every USER WHAT CRON ZONE TEXT | "
                    "snooze USER WHAT MS | forget USER [WHAT] | run\n");
    return 2;
}
