/* What takes its time and nobody waits for, one after the other on a thread of its own: reads for the scrubber, and files
 * that go.
 *
 * A disk that is busy with the journal's syncs takes tens of milliseconds for a read. Taking a file's name away waits for
 * the file system's own journal, some milliseconds, and whoever closes a deleted file last gives its blocks back, some ten
 * for 32 MiB: the end of a merge drops hundreds of them. One thread, so that they do not crowd out the syncs that somebody
 * waits for.
 *
 * A load that has ended goes the way of a sync that has: into `ended`, which env_poll empties (posix_sync.c, whose lock
 * this is under, too). So a load is in one of three places, and a cancel looks for it in each: in the queue, with the
 * thread (then it waits), in `ended`. */
#include "posix_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct removal {
    struct env_sync chore; /* neither done nor file */
    char path[];
};

void posix_chores_init(struct posix_chores *c) {
    pthread_cond_init(&c->wanted, NULL);
    pthread_cond_init(&c->ended, NULL);
    sync_queue_init(&c->queue);
}

/* ---- the thread ---- */

static enum hf_err load(struct env_load *r) {
    return posix_read_all(((struct posix_file *)r->file)->fd, r->offset, r->p, r->n, &r->got);
}

static void close_file(struct hf_file *file) {
    struct posix_file *f = (struct posix_file *)file; /* the chore is in it */
    close(f->fd);
    free(f);
}

static void take_away(struct posix_sync *s, struct env_sync *chore) {
    struct removal *r = (struct removal *)chore;
    struct hf_env *env = &((struct posix_env *)((char *)s - offsetof(struct posix_env, sync)))->base;
    if (unlinkat(s->root_fd, r->path, 0) && errno != ENOENT)
        env_log(env, ENV_WARN, "file_left_behind", "file=%s reason=\"%s\"", r->path,
                hf_err_text(hf_err_from_errno(errno)));
    free(r);
}

static void do_chore(struct posix_sync *s, struct env_sync *chore) {
    if (chore->done)
        chore->result = load(env_load_of(chore));
    else if (chore->file)
        close_file(chore->file);
    else
        take_away(s, chore);
}

/* Called with the lock, which it lets go of meanwhile. */
static void serve(struct posix_sync *s, struct env_sync *chore) {
    struct posix_chores *c = &s->chores;
    bool tells = chore->done != NULL; /* else it is freed */
    c->serving = chore;
    pthread_mutex_unlock(&s->lock);
    do_chore(s, chore);
    pthread_mutex_lock(&s->lock);
    c->serving = NULL;
    pthread_cond_broadcast(&c->ended);
    if (tells) posix_sync_ended(s, chore);
}

static void *run(void *arg) {
    struct posix_sync *s = arg;
    struct posix_chores *c = &s->chores;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        struct env_sync *chore = sync_queue_take(&c->queue);
        if (!chore && s->stop) break;
        if (!chore)
            pthread_cond_wait(&c->wanted, &s->lock);
        else if (!s->stop || !chore->done) /* in the end nobody wants to read */
            serve(s, chore);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

void posix_chores_fini(struct posix_sync *s) {
    struct posix_chores *c = &s->chores;
    pthread_mutex_lock(&s->lock);
    pthread_cond_signal(&c->wanted);
    pthread_mutex_unlock(&s->lock);
    if (c->started) pthread_join(c->thread, NULL);
    pthread_cond_destroy(&c->wanted);
    pthread_cond_destroy(&c->ended);
}

/* ---- asking for it ---- */

/* Without a thread it is done here and now after all. */
static void ask(struct posix_sync *s, struct env_sync *chore) {
    struct posix_chores *c = &s->chores;
    bool tells = chore->done != NULL;
    if (!c->started) c->started = posix_thread_start(&c->thread, run, s) == HF_OK;
    if (!c->started) do_chore(s, chore);
    pthread_mutex_lock(&s->lock);
    if (c->started)
        sync_queue_put(&c->queue, chore);
    else if (tells)
        posix_sync_ended(s, chore);
    pthread_mutex_unlock(&s->lock);
    if (c->started) pthread_cond_signal(&c->wanted);
}

void posix_load_begin(struct hf_env *env, struct env_load *r) {
    struct posix_sync *s = &((struct posix_env *)env)->sync;
    s->under_way++;
    ask(s, &r->sync);
}

void posix_close_later(struct hf_env *env, struct posix_file *f) {
    f->closing = (struct env_sync){.file = &f->base};
    ask(&((struct posix_env *)env)->sync, &f->closing);
}

void posix_discard(struct hf_env *env, const char *path) {
    struct posix_sync *s = &((struct posix_env *)env)->sync;
    size_t n = strlen(path) + 1;
    struct removal *r = malloc(sizeof *r + n);
    if (!r) {
        (void)unlinkat(s->root_fd, path, 0);
        return;
    }
    r->chore = (struct env_sync){0};
    memcpy(r->path, path, n);
    ask(s, &r->chore);
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
    struct posix_chores *c = &s->chores;
    pthread_mutex_lock(&s->lock);
    while (c->serving == &r->sync) pthread_cond_wait(&c->ended, &s->lock);
    bool found = take_out(&c->queue, &r->sync);
    if (!found && (found = take_out(&s->ended, &r->sync)) && !s->ended.first) s->unheard++;
    if (found) s->under_way--;
    pthread_mutex_unlock(&s->lock);
}
