/* Reads without waiting, for the scrubber: a disk that is busy with the journal's syncs takes tens of milliseconds for a
 * read, and the loop has other things to do meanwhile.
 *
 * One thread serves one load after the other. A load that has ended goes the way of a sync that has: into `ended`, which
 * env_poll empties (posix_sync.c, whose lock this is under, too). So a load is in one of three places, and a cancel looks
 * for it in each: in the queue, with the thread (then it waits), in `ended`. */
#include "posix_internal.h"

void posix_loads_init(struct posix_loads *l) {
    pthread_cond_init(&l->wanted, NULL);
    pthread_cond_init(&l->ended, NULL);
    sync_queue_init(&l->queue);
}

static enum hf_err load(struct env_load *r) {
    return posix_read_all(((struct posix_file *)r->file)->fd, r->offset, r->p, r->n, &r->got);
}

static void *run(void *arg) {
    struct posix_sync *s = arg;
    struct posix_loads *l = &s->loads;
    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        struct env_sync *request = sync_queue_take(&l->queue);
        if (!request) {
            pthread_cond_wait(&l->wanted, &s->lock);
            continue;
        }
        l->serving = request;
        pthread_mutex_unlock(&s->lock);
        request->result = load(env_load_of(request));
        pthread_mutex_lock(&s->lock);
        l->serving = NULL;
        pthread_cond_broadcast(&l->ended);
        posix_sync_ended(s, request);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

void posix_loads_fini(struct posix_sync *s) {
    struct posix_loads *l = &s->loads;
    pthread_mutex_lock(&s->lock);
    pthread_cond_signal(&l->wanted);
    pthread_mutex_unlock(&s->lock);
    if (l->started) pthread_join(l->thread, NULL);
    pthread_cond_destroy(&l->wanted);
    pthread_cond_destroy(&l->ended);
}

/* Without a thread it blocks after all. */
void posix_load_begin(struct hf_env *env, struct env_load *r) {
    struct posix_sync *s = &((struct posix_env *)env)->sync;
    struct posix_loads *l = &s->loads;
    if (!l->started) l->started = posix_thread_start(&l->thread, run, s) == HF_OK;
    s->under_way++;
    if (!l->started) r->sync.result = load(r);
    pthread_mutex_lock(&s->lock);
    if (l->started)
        sync_queue_put(&l->queue, &r->sync);
    else
        posix_sync_ended(s, &r->sync);
    pthread_mutex_unlock(&s->lock);
    if (l->started) pthread_cond_signal(&l->wanted);
}

static bool take_out(struct sync_queue *q, const struct env_sync *request) {
    struct env_sync **at = &q->first;
    while (*at && *at != request) at = &(*at)->next;
    if (!*at) return false;
    *at = request->next;
    if (!*at) q->last = at;
    return true;
}

void posix_load_cancel(struct hf_env *env, struct env_load *r) {
    struct posix_sync *s = &((struct posix_env *)env)->sync;
    struct posix_loads *l = &s->loads;
    pthread_mutex_lock(&s->lock);
    while (l->serving == &r->sync) pthread_cond_wait(&l->ended, &s->lock);
    bool found = take_out(&l->queue, &r->sync);
    if (!found && (found = take_out(&s->ended, &r->sync)) && !s->ended.first) s->unheard++;
    if (found) s->under_way--;
    pthread_mutex_unlock(&s->lock);
}
