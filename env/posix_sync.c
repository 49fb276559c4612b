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
 * call fsync together durable by one commit of its own journal, so 64 cost little more than one.
 *
 * Where thousands wait at once (the start and the stop of a log with that many partitions) a commit for each
 * 64 is still too many: requests that are patient wait for all the others, then one thread takes all that
 * wait and calls syncfs, while the other threads rest. That is believed only where it is a sync of each of
 * those files: ext4 and XFS, from Linux 5.17 on, which reports failed write-back (5.8) and the file system's
 * own failure (5.17). Two gaps are closed by an fdatasync of one of the files behind it: XFS flushes the
 * disk's cache with its log only, if there is any; and ext4 that was shut down said nothing for long.
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
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { STACK = 256 << 10, EXT4_MAGIC = 0xEF53, XFS_MAGIC = 0x58465342 };

void sync_queue_init(struct sync_queue *q) {
    q->first = NULL;
    q->last = &q->first;
}

void sync_queue_put(struct sync_queue *q, struct env_sync *s) {
    s->next = NULL;
    *q->last = s;
    q->last = &s->next;
}

struct env_sync *sync_queue_take(struct sync_queue *q) {
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

/* That `ended` is not empty any more. Called with the lock, which it lets go of meanwhile: the core thread, which it
 * wakes, would only wait for it. */
static void announce(struct posix_sync *s) {
    uint64_t one = 1;
    pthread_mutex_unlock(&s->lock);
    while (write(s->event_fd, &one, sizeof one) < 0 && errno == EINTR) {}
    pthread_mutex_lock(&s->lock);
}

void posix_sync_ended(struct posix_sync *s, struct env_sync *request) {
    bool first = s->ended.first == NULL;
    sync_queue_put(&s->ended, request);
    if (first) announce(s);
}

/* ---- one at a time ---- */

static enum hf_err sync_one(const struct posix_sync *s, const struct env_sync *request) {
    return request->file ? sync_file(request->file) : sync_dir(s->root_fd, request->dir);
}

/* Called with the lock, which it lets go of meanwhile. */
static void serve(struct posix_sync *s, struct env_sync *request) {
    pthread_mutex_unlock(&s->lock);
    request->result = sync_one(s, request);
    pthread_mutex_lock(&s->lock);
    posix_sync_ended(s, request);
}

/* ---- or many by one call ---- */

static bool can_together(int root_fd) {
    struct statfs fs;
    struct utsname machine;
    int major = 0, minor = 0;
    if (fstatfs(root_fd, &fs) || uname(&machine)) return false;
    if (fs.f_type != EXT4_MAGIC && fs.f_type != XFS_MAGIC) return false;
    if (sscanf(machine.release, "%d.%d", &major, &minor) != 2) return false;
    return major > 5 || (major == 5 && minor >= 17);
}

static enum hf_err sync_all(int root_fd) {
    int failed;
    do failed = syncfs(root_fd);
    while (failed && errno == EINTR);
    return failed ? hf_err_from_errno(errno) : HF_OK;
}

/* Somebody may have mounted another disk below. */
static bool beside_root(const struct posix_sync *s, const struct env_sync *request) {
    struct stat root, its;
    const struct posix_file *f = (const struct posix_file *)request->file;
    int failed = f ? fstat(f->fd, &its) : fstatat(s->root_fd, request->dir, &its, 0);
    return !failed && !fstat(s->root_fd, &root) && its.st_dev == root.st_dev;
}

/* Called without the lock. */
static void sync_together(const struct posix_sync *s, struct env_sync *first) {
    const struct env_sync *last = NULL;
    enum hf_err e = sync_all(s->root_fd);
    for (struct env_sync *r = first; r; r = r->next)
        if (beside_root(s, r) && (!last || r->file)) last = r;
    if (!e && last) e = sync_one(s, last);
    for (struct env_sync *r = first; r; r = r->next) r->result = beside_root(s, r) ? e : sync_one(s, r);
}

/* All that wait in the background; called with the lock, which it lets go of meanwhile. What is asked for from
 * here on was not covered, and waits. */
static void serve_together(struct posix_sync *s) {
    struct sync_queue *q = &s->queues[false], syncs;
    struct env_sync *request;
    sync_queue_init(&syncs);
    s->together = true;
    while ((request = sync_queue_take(q))) {
        s->background--;
        s->patient -= request->patient;
        sync_queue_put(&syncs, request);
    }
    pthread_mutex_unlock(&s->lock);
    sync_together(s, syncs.first);
    pthread_mutex_lock(&s->lock);
    s->together = false;
    bool first = s->ended.first == NULL;
    while ((request = sync_queue_take(&syncs))) sync_queue_put(&s->ended, request);
    pthread_cond_broadcast(&s->wanted[false]);
    if (first) announce(s);
}

/* ---- threads ---- */

static void rest(struct posix_lane *lane) {
    struct posix_sync *s = lane->sync;
    if (!lane->urgent) s->idle++;
    pthread_cond_wait(&s->wanted[lane->urgent], &s->lock);
    if (!lane->urgent) s->idle--;
}

static bool together(const struct posix_sync *s) {
    return s->can_together && s->background >= POSIX_TOGETHER;
}

/* Nothing of the background begins now. */
static bool held(const struct posix_sync *s) {
    return s->together || (s->patient > 0 && !s->waits && !s->stop);
}

static void *lane_run(void *arg) {
    struct posix_lane *lane = arg;
    struct posix_sync *s = lane->sync;
    struct sync_queue *q = &s->queues[lane->urgent];
    pthread_mutex_lock(&s->lock);
    for (;;) {
        if (!q->first && s->stop) break;
        if (!q->first || (!lane->urgent && held(s))) {
            rest(lane);
            continue;
        }
        if (!lane->urgent && together(s)) {
            serve_together(s);
            continue;
        }
        struct env_sync *request = sync_queue_take(q);
        if (!lane->urgent) s->background--;
        s->patient -= request->patient;
        serve(s, request);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* Signals belong to the loop's thread: ours start with all of them blocked. */
enum hf_err posix_thread_start(pthread_t *thread, void *(*run)(void *arg), void *arg) {
    sigset_t all, before;
    pthread_attr_t small;
    sigfillset(&all);
    pthread_attr_init(&small);
    (void)pthread_attr_setstacksize(&small, STACK);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(thread, &small, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&small);
    return failed ? hf_err_from_errno(failed) : HF_OK;
}

/* Only the core thread starts lanes. */
static enum hf_err start_lane(struct posix_sync *s) {
    struct posix_lane *lane = &s->lanes[s->lane_count];
    *lane = (struct posix_lane){.sync = s, .urgent = s->lane_count == 0};
    enum hf_err e = posix_thread_start(&lane->thread, lane_run, lane);
    if (!e) s->lane_count++;
    return e;
}

enum hf_err posix_sync_init(struct posix_sync *s, int root_fd) {
    *s = (struct posix_sync){.root_fd = root_fd, .can_together = can_together(root_fd)};
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
    if (s->event_fd < 0) return hf_err_from_errno(errno);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wanted[false], NULL);
    pthread_cond_init(&s->wanted[true], NULL);
    sync_queue_init(&s->queues[false]);
    sync_queue_init(&s->queues[true]);
    sync_queue_init(&s->ended);
    posix_chores_init(&s->chores);
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
    posix_chores_fini(s);
    pthread_cond_destroy(&s->wanted[false]);
    pthread_cond_destroy(&s->wanted[true]);
    pthread_mutex_destroy(&s->lock);
    close(s->event_fd);
}

static void ask(struct posix_sync *s, struct env_sync *request) {
    pthread_mutex_lock(&s->lock);
    sync_queue_put(&s->queues[request->urgent], request);
    if (!request->urgent) s->background++;
    s->patient += request->patient;
    bool more = s->background > s->idle && s->lane_count < POSIX_THREADS_MAX && !request->patient;
    bool begins = !request->patient, urgent = request->urgent;
    pthread_mutex_unlock(&s->lock);
    if (begins) pthread_cond_signal(&s->wanted[urgent]); /* who wakes up finds the lock free */
    if (more) (void)start_lane(s);                       /* without it, it takes longer */
}

/* Begins what was patient, with threads for it. */
static void wait_begins(struct posix_sync *s) {
    pthread_mutex_lock(&s->lock);
    s->waits = true;
    size_t more = s->patient > s->idle && !together(s) ? s->patient - s->idle : 0;
    if (s->patient > 0) pthread_cond_broadcast(&s->wanted[false]);
    pthread_mutex_unlock(&s->lock);
    while (more-- > 0 && s->lane_count < POSIX_THREADS_MAX && start_lane(s) == HF_OK) {}
}

static void wait_ends(struct posix_sync *s) {
    pthread_mutex_lock(&s->lock);
    s->waits = false;
    pthread_mutex_unlock(&s->lock);
}

void posix_sync_begin(struct hf_env *env, struct env_sync *request) {
    struct posix_sync *s = &((struct posix_env *)env)->sync;
    s->under_way++;
    ask(s, request);
}

/* Each list that was taken out of `ended` was announced once, or will be: then it is heard the next time. One
 * event stands for one list, whichever, so none of those that are to come goes unheard. */
static void hear(struct posix_sync *s) {
    uint64_t one;
    ssize_t n = sizeof one;
    while (s->unheard > 0 && n == sizeof one) {
        do n = read(s->event_fd, &one, sizeof one);
        while (n < 0 && errno == EINTR);
        if (n == sizeof one) s->unheard--;
    }
}

size_t posix_poll(struct hf_env *env) {
    struct posix_sync *s = &((struct posix_env *)env)->sync;
    pthread_mutex_lock(&s->lock);
    struct env_sync *ended = s->ended.first;
    sync_queue_init(&s->ended);
    pthread_mutex_unlock(&s->lock);
    if (ended) s->unheard++;
    hear(s);
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
        wait_begins(s);
        if (poll(&ready, 1, -1) < 0) assert(errno == EINTR);
        wait_ends(s);
    }
}
