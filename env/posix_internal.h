/* Shared by posix.c (clocks, files, names), posix_sync.c (threads that sync) and posix_chores.c (one for the rest). */
#ifndef ENV_POSIX_INTERNAL_H
#define ENV_POSIX_INTERNAL_H

#include "env_ops.h"
#include "posix.h"

#include <pthread.h>

enum {
    POSIX_THREADS_FIRST = 3, /* one for the journal, two for segments and folders */
    POSIX_THREADS_MAX = 64, /* further ones are started for segments and folders when all of those are busy */
    POSIX_TOGETHER = 256,   /* so many that wait in the background are synced by one call */
};

/* First in, first out, linked through env_sync.next. */
struct sync_queue {
    struct env_sync *first, **last;
};

void sync_queue_init(struct sync_queue *q);
void sync_queue_put(struct sync_queue *q, struct env_sync *s);
struct env_sync *sync_queue_take(struct sync_queue *q);

/* Loads, closes and removals, and their thread: it starts with the first one. */
struct posix_chores {
    pthread_cond_t wanted, ended;
    struct sync_queue queue;
    const struct env_sync *serving;
    pthread_t thread;
    bool started;
};

struct posix_sync {
    int root_fd;
    int event_fd; /* counts the lists that `ended` has held: each is announced once, when it begins */
    pthread_mutex_t lock;
    pthread_cond_t wanted[2]; /* [urgent] */
    struct sync_queue queues[2];
    struct sync_queue ended;
    struct posix_chores chores;
    size_t background, idle; /* requests in the second queue, and threads that wait for one */
    size_t patient;          /* of those requests: those that env_wait begins */
    bool waits;              /* the core thread is in env_wait */
    bool can_together;       /* syncfs is a sync of every file, and says so if it failed */
    bool together;           /* a thread is at it: what waits in the background goes with the next one */
    bool stop;
    size_t under_way; /* begun and not yet completed: the core thread's own, as is: */
    size_t unheard;   /* lists that it took out of `ended` before it read the event that announces them */
    struct posix_lane {
        struct posix_sync *sync;
        bool urgent;
        pthread_t thread;
    } lanes[POSIX_THREADS_MAX];
    size_t lane_count;
};

struct posix_file {
    struct hf_file base;
    int fd;
    struct env_sync closing; /* a chore: the file is closed and freed */
};

struct posix_env {
    struct hf_env base;
    int root_fd, lock_fd, log_fd;
    enum env_level level;
    uint64_t boot_id;
    uint64_t random[32]; /* drawn from the kernel at once, used from the end */
    size_t random_left;
    struct posix_sync sync;
};

HF_CHECK enum hf_err posix_sync_init(struct posix_sync *s, int root_fd);
/* Ends the threads after what they were asked for; completions not yet polled, and loads not yet begun, are
 * forgotten. */
void posix_sync_fini(struct posix_sync *s);
void posix_sync_begin(struct hf_env *env, struct env_sync *s);
size_t posix_poll(struct hf_env *env);
size_t posix_wait(struct hf_env *env);
/* Called with the lock, which it lets go of meanwhile: the request's completion is due. */
void posix_sync_ended(struct posix_sync *s, struct env_sync *request);
/* A thread of ours: signals are the loop's. */
HF_CHECK enum hf_err posix_thread_start(pthread_t *thread, void *(*run)(void *arg), void *arg);
HF_CHECK enum hf_err posix_read_all(int fd, uint64_t offset, void *p, size_t n, size_t *got);

/* posix_chores.c */
void posix_chores_init(struct posix_chores *c);
void posix_chores_fini(struct posix_sync *s); /* after `stop`; what is to go is gone then */
/* Closes and frees the file beside all else; nobody is told. */
void posix_close_later(struct hf_env *env, struct posix_file *f);
void posix_discard(struct hf_env *env, const char *path);
void posix_load_begin(struct hf_env *env, struct env_load *r);
void posix_load_cancel(struct hf_env *env, struct env_load *r);

#endif
