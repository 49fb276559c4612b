/* Syncs without waiting. The core thread puts a request into one of two queues; threads take from it, call
 * fdatasync (fsync for a folder), and put the request into the queue of those that ended, which an eventfd
 * announces to the loop. Completions run on the core thread, in env_poll.
 *
 *     core            queues[urgent]      lanes              ended            core
 *     sync_begin  →   ▢ ▢ ▢           →   fdatasync     →    ▢ ▢    eventfd → env_poll → done(s, e)
 *
 * The journal has a thread of its own, so that an answer never waits behind a segment of 256 MiB. More
 * urgent threads would gain nothing: the log has one journal and puts all who wait into one sync. Segments
 * and folders get as many threads as wait at a time, within a limit: a file system makes the files of all who
 * call fsync together durable by one commit of its own journal, so 64 cost little more than one. A deleted
 * file is closed by a background thread too: whoever closes it last gives its blocks back, which takes as
 * long as a sync.
 *
 * Linux writes back a file's pages by fdatasync of any of its descriptors, and reports a write-back error to
 * each descriptor that was open when it happened, once: that is why the log keeps open the descriptor that
 * dirtied a file until a sync through it succeeded. */
#include "posix_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { STACK = 256 << 10 };

static void queue_init(struct sync_queue *q) {
    q->first = NULL;
    q->last = &q->first;
}

static void queue_put(struct sync_queue *q, struct env_sync *s) {
    s->next = NULL;
    *q->last = s;
    q->last = &s->next;
}

static struct env_sync *queue_take(struct sync_queue *q) {
    struct env_sync *s = q->first;
    if (!s) return NULL;
    q->first = s->next;
    if (!q->first) q->last = &q->first;
    return s;
}

static enum hf_err sync_dir(int root_fd, const char *dir) {
    int fd, failed;
    do fd = openat(root_fd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) return hf_err_from_errno(errno);
    do failed = fsync(fd);
    while (failed && errno == EINTR);
    enum hf_err e = failed ? hf_err_from_errno(errno) : HF_OK;
    close(fd);
    return e;
}

static enum hf_err sync_file(struct hf_file *f) {
    int fd = ((struct posix_file *)f)->fd, failed;
    do failed = fdatasync(fd);
    while (failed && errno == EINTR);
    return failed ? hf_err_from_errno(errno) : HF_OK;
}

static void close_file(struct hf_file *file) {
    struct posix_file *f = (struct posix_file *)file; /* the request is in it */
    close(f->fd);
    free(f);
}

static void announce(struct posix_sync *s) {
    uint64_t one = 1;
    while (write(s->event_fd, &one, sizeof one) < 0 && errno == EINTR) {}
}

static void *lane_run(void *arg) {
    struct posix_lane *lane = arg;
    struct posix_sync *s = lane->sync;
    struct sync_queue *q = &s->queues[lane->urgent];
    pthread_mutex_lock(&s->lock);
    for (;;) {
        struct env_sync *request = queue_take(q);
        if (!request && s->stop) break;
        if (!request) {
            if (!lane->urgent) s->idle++;
            pthread_cond_wait(&s->wanted[lane->urgent], &s->lock);
            if (!lane->urgent) s->idle--;
            continue;
        }
        if (!lane->urgent) s->background--;
        pthread_mutex_unlock(&s->lock);
        bool closes = !request->done;
        if (closes)
            close_file(request->file);
        else
            request->result = request->file ? sync_file(request->file) : sync_dir(s->root_fd, request->dir);
        pthread_mutex_lock(&s->lock);
        if (closes) continue;
        bool first = s->ended.first == NULL;
        queue_put(&s->ended, request);
        if (first) announce(s);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* Signals belong to the loop's thread: the lanes start with all of them blocked. Only the core thread starts
 * lanes. */
static enum hf_err start_lane(struct posix_sync *s) {
    struct posix_lane *lane = &s->lanes[s->lane_count];
    *lane = (struct posix_lane){.sync = s, .urgent = s->lane_count == 0};
    sigset_t all, before;
    pthread_attr_t small;
    sigfillset(&all);
    pthread_attr_init(&small);
    (void)pthread_attr_setstacksize(&small, STACK);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&lane->thread, &small, lane_run, lane);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&small);
    if (!failed) s->lane_count++;
    return failed ? hf_err_from_errno(failed) : HF_OK;
}

enum hf_err posix_sync_init(struct posix_sync *s, int root_fd) {
    *s = (struct posix_sync){.root_fd = root_fd};
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->event_fd < 0) return hf_err_from_errno(errno);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wanted[false], NULL);
    pthread_cond_init(&s->wanted[true], NULL);
    queue_init(&s->queues[false]);
    queue_init(&s->queues[true]);
    queue_init(&s->ended);
    enum hf_err e = HF_OK;
    while (!e && s->lane_count < POSIX_THREADS_FIRST) e = start_lane(s);
    if (e) posix_sync_fini(s);
    return e;
}

void posix_sync_fini(struct posix_sync *s) {
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->wanted[false]);
    pthread_cond_broadcast(&s->wanted[true]);
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < s->lane_count; i++) pthread_join(s->lanes[i].thread, NULL);
    pthread_cond_destroy(&s->wanted[false]);
    pthread_cond_destroy(&s->wanted[true]);
    pthread_mutex_destroy(&s->lock);
    close(s->event_fd);
}

static void ask(struct posix_sync *s, struct env_sync *request) {
    pthread_mutex_lock(&s->lock);
    queue_put(&s->queues[request->urgent], request);
    if (!request->urgent) s->background++;
    bool more = s->background > s->idle && s->lane_count < POSIX_THREADS_MAX;
    pthread_cond_signal(&s->wanted[request->urgent]);
    pthread_mutex_unlock(&s->lock);
    if (more) (void)start_lane(s); /* without it, it takes longer */
}

void posix_sync_begin(struct hf_env *env, struct env_sync *request) {
    struct posix_sync *s = &((struct posix_env *)env)->sync;
    s->under_way++;
    ask(s, request);
}

void posix_close_later(struct hf_env *env, struct posix_file *f) {
    f->closing = (struct env_sync){.file = &f->base};
    ask(&((struct posix_env *)env)->sync, &f->closing);
}

size_t posix_poll(struct hf_env *env) {
    struct posix_sync *s = &((struct posix_env *)env)->sync;
    struct env_sync *ended = NULL;
    uint64_t count;
    pthread_mutex_lock(&s->lock);
    if (s->ended.first) {
        ended = s->ended.first;
        queue_init(&s->ended);
        while (read(s->event_fd, &count, sizeof count) < 0 && errno == EINTR) {}
    }
    pthread_mutex_unlock(&s->lock);
    size_t ran = 0;
    while (ended) {
        struct env_sync *request = ended;
        ended = request->next; /* done may free the request, or begin it again */
        assert(s->under_way > 0);
        s->under_way--;
        request->done(request, request->result);
        ran++;
    }
    return ran;
}

size_t posix_wait(struct hf_env *env) {
    struct posix_sync *s = &((struct posix_env *)env)->sync;
    for (;;) {
        size_t ran = posix_poll(env);
        if (ran > 0 || s->under_way == 0) return ran;
        struct pollfd ready = {.fd = s->event_fd, .events = POLLIN};
        if (poll(&ready, 1, -1) < 0) assert(errno == EINTR);
    }
}
