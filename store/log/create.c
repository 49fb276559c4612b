/* Topics come, grow and go. Folders come first and names after:
 *
 *   CREATING   folders made ─► folders synced ─► `topics/` synced ─► commit of the key ─► LIVE
 *   LIVE, growing    the same for the partitions that are added, and the key again ─► LIVE with more of them
 *   LIVE ─► DELETING   commit that drops the key and the groups' offsets ─► GONE, folders to the trash
 *
 * so whatever the catalogue names is there after any crash, and whatever a crash leaves that the catalogue
 * does not name is nobody's.
 *
 * Partitions that are added belong to no topic's row until the key is durable: nobody finds them before. A
 * topic grows once at a time and is not deleted meanwhile.
 *
 * A deleted topic's object lives until the last commit, sync or reader's pin has let go of its partitions. */
#include "log_internal.h"

#include "base/names.h"

#include <stdlib.h>

enum { CREATE_AT_A_TIME = 16 };

/* ---- create, grow ---- */

/* Folders are made and synced a few at a time, however many partitions there are, and beside the journal: its
 * syncs do not wait for theirs. */
struct folder {
    struct creation *x;
    struct hf_file *metadata; /* open while it is synced */
    char path[LOG_PATH];
    struct env_sync of_metadata, of_folder;
    int waiting;
};

struct creation {
    struct creation *prev, *next;
    struct log *l;
    struct topic *t;
    struct log_partition **row;   /* all of a new topic, or those that are added, */
    int32_t count;                /* and how many */
    struct log_partition **grown; /* the topic's row as it will be; NULL: it does not grow */
    int32_t made;                 /* partitions whose folder was begun */
    int32_t waiting;              /* and is not yet durable */
    struct folder folders[CREATE_AT_A_TIME];
    struct env_sync of_topics;
    log_done *done;
    void *arg;
    struct completion failed;
    enum hf_err e;
};

static struct creation *creation_new(struct log *l, log_done *done, void *arg) {
    struct creation *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    x->l = l;
    x->done = done;
    x->arg = arg;
    DL_APPEND(l->creations, x);
    return x;
}

static void creation_free(struct creation *x) {
    DL_DELETE(x->l->creations, x);
    for (int i = 0; i < CREATE_AT_A_TIME; i++)
        if (x->folders[i].metadata) env_close(x->folders[i].metadata);
    free(x);
}

/* The folders that were made are nobody's. */
static void undo_folders(struct creation *x) {
    for (int32_t i = 0; i < x->count; i++) {
        struct log_partition *p = x->row[i];
        char path[LOG_PATH];
        p->gone = true;
        partition_mark_clean(p);
        psync_leave(p);
        checkpoint_leave(p);
        topic_folder_path(x->t, p->number, path);
        if (p->segments) trash_folder(x->l, path);
    }
}

static void undo(struct creation *x) {
    undo_folders(x);
    if (!x->grown) {
        topic_unindex(x->l, x->t);
        topic_drop(x->t);
        return;
    }
    for (int32_t i = 0; i < x->count; i++) partition_unref(x->row[i]);
    x->l->partition_count -= (size_t)x->count;
    x->t->growing = false;
    free(x->grown);
}

/* What was added is the topic's. */
static void join(struct creation *x) {
    struct topic *t = x->t;
    free(t->partition);
    t->partition = x->grown;
    t->partitions += x->count;
    t->growing = false;
    x->l->stats.partitions += (uint64_t)x->count;
    x->grown = NULL;
}

static void creation_failed(struct completion *c, bool tell) {
    struct creation *x = (struct creation *)((char *)c - offsetof(struct creation, failed));
    if (!tell) return; /* creations_forget has it */
    log_done *done = x->done;
    void *arg = x->arg;
    enum hf_err e = x->e;
    undo(x);
    creation_free(x);
    if (done) done(arg, e);
}

static void creation_fail(struct creation *x, enum hf_err e) {
    x->e = e;
    x->failed.run = creation_failed;
    log_ready(x->l, &x->failed);
}

static void created(void *arg, enum hf_err e) {
    struct creation *x = arg;
    log_done *done = x->done;
    void *done_arg = x->arg;
    creation_free(x);
    if (done) done(done_arg, e);
}

static void live(struct commit *c) {
    struct creation *x = c->after_arg;
    if (x->grown) {
        env_point(c->log->env, "topic.grown");
        join(x);
        return;
    }
    x->t->phase = TOPIC_LIVE;
    watches_attach(x->t, x->l);
}

static void commit_topic(struct creation *x) {
    env_point(x->l->env, "topic.folders_synced");
    struct hf_buf key, value;
    catalogue_key(x->t, &key);
    int32_t partitions = x->grown ? x->t->partitions + x->count : x->count;
    catalogue_value(x->t, partitions, &x->t->asked, &value);
    enum hf_err e = hf_buf_failed(&key) ? hf_buf_failed(&key) : hf_buf_failed(&value);
    struct engine_put put = {hf_buf_view(&key), hf_buf_view(&value)};
    struct engine_commit c = {.now_ms = env_wall_ms(x->l->env), .puts = &put, .put_count = 1};
    if (!e) e = commit_start(x->l, &c, live, x, created, x);
    if (!e) x->t->partitions_asked = partitions;
    hf_buf_fini(&key);
    hf_buf_fini(&value);
    if (e) creation_fail(x, e);
}

static void names_synced(struct env_sync *s, enum hf_err e) {
    struct creation *x = s->arg;
    x->l->syncs--;
    if (e)
        log_fail(x->l, e, "sync of topics/");
    else if (!x->l->failed)
        commit_topic(x);
}

static void make_folders(struct creation *x);

static void folder_synced(struct env_sync *s, enum hf_err e) {
    struct folder *f = s->arg;
    struct creation *x = f->x;
    struct log *l = x->l;
    l->syncs--;
    if (e) {
        log_fail(l, e, "sync of a folder");
        return;
    }
    if (l->failed || --f->waiting > 0) return;
    env_close(f->metadata);
    f->metadata = NULL;
    x->waiting--;
    make_folders(x);
}

static enum hf_err make_folder(struct creation *x, struct folder *f) {
    struct log *l = x->l;
    struct log_partition *p = x->row[x->made];
    enum hf_err e = topic_folder_create(p, &f->metadata);
    if (e) return e;
    topic_folder_path(x->t, p->number, f->path);
    f->x = x;
    f->waiting = 2;
    x->made++;
    x->waiting++;
    l->syncs += 2;
    f->of_metadata = (struct env_sync){.file = f->metadata, .done = folder_synced, .arg = f};
    f->of_folder = (struct env_sync){.dir = f->path, .done = folder_synced, .arg = f};
    env_sync_begin(l->env, &f->of_metadata);
    env_sync_begin(l->env, &f->of_folder);
    return HF_OK;
}

/* Goes on with the next folders; when all are durable, with their names. */
static void make_folders(struct creation *x) {
    for (int i = 0; i < CREATE_AT_A_TIME && !x->e && x->made < x->count; i++)
        if (!x->folders[i].metadata) x->e = make_folder(x, &x->folders[i]);
    if (x->waiting > 0) return;
    if (x->e) {
        creation_fail(x, x->e);
        return;
    }
    x->l->syncs++;
    x->of_topics = (struct env_sync){.dir = "topics", .done = names_synced, .arg = x};
    if (hf_mutate(26))
        names_synced(&x->of_topics, HF_OK);
    else
        env_sync_begin(x->l->env, &x->of_topics);
}

static enum hf_err settle_config(struct log *l, hf_str name, struct log_topic_config *c) {
    if (!hf_topic_name_ok(name) || hf_str_eq(name, HF_STR(LOG_STATE_TOPIC))) return HF_EINVAL;
    if (hf_topic_is_ours(name)) c->internal = true;
    if (c->partitions == 0) c->partitions = l->o.default_partitions;
    if (c->partitions < 1 || settings_check(&c->settings)) return HF_EINVAL;
    if (c->partitions > LOG_TOPIC_PARTITIONS) return HF_ELIMIT;
    return l->partition_count + (size_t)c->partitions > LOG_PARTITIONS_MAX ? HF_ELIMIT : HF_OK;
}

static enum hf_err may_create(struct log *l, hf_str name) {
    if (l->failed) return l->failed;
    if (l->closing) return HF_ECLOSED;
    if (topic_find(l, name)) return HF_EEXIST;
    return topic_find_alike(l, name) ? HF_EINVAL : HF_OK;
}

enum hf_err log_topic_create(struct log *l, hf_str name, const struct log_topic_config *config,
                             log_done *done, void *arg) {
    struct log_topic_config c = *config;
    enum hf_err e = settle_config(l, name, &c);
    if (!e) e = may_create(l, name);
    if (e) return e;
    struct log_uuid id;
    for (size_t i = 0; i < sizeof id.b; i += 8) hf_put_be64(id.b + i, env_random(l->env));
    struct creation *x = creation_new(l, done, arg);
    if (!x) return HF_ENOMEM;
    e = topic_new(l, name, &c, &id, &x->t);
    if (e) {
        creation_free(x);
        return e;
    }
    x->row = x->t->partition;
    x->count = x->t->partitions;
    make_folders(x);
    return HF_OK;
}

static enum hf_err may_grow(struct log *l, struct topic *t, int32_t partitions) {
    if (l->failed) return l->failed;
    if (l->closing) return HF_ECLOSED;
    if (!topic_shown(l, t)) return HF_ENOTFOUND;
    if (t->growing) return HF_EAGAIN;
    if (t->config.internal || partitions <= t->partitions) return HF_EINVAL;
    if (partitions > LOG_TOPIC_PARTITIONS) return HF_ELIMIT;
    return l->partition_count + (size_t)(partitions - t->partitions) > LOG_PARTITIONS_MAX ? HF_ELIMIT : HF_OK;
}

/* The row as it will be. */
static enum hf_err add_partitions(struct creation *x, int32_t partitions) {
    struct topic *t = x->t;
    struct log_partition **row = calloc((size_t)partitions, sizeof(struct log_partition *));
    if (!row) return HF_ENOMEM;
    memcpy(row, t->partition, (size_t)t->partitions * sizeof *row);
    for (int32_t i = t->partitions; i < partitions; i++) {
        row[i] = partition_new(x->l, t, i);
        if (row[i]) continue;
        while (--i >= t->partitions) partition_free(row[i]);
        free(row);
        return HF_ENOMEM;
    }
    x->grown = row;
    x->row = row + t->partitions;
    x->count = partitions - t->partitions;
    return HF_OK;
}

enum hf_err log_topic_grow(struct log *l, hf_str name, int32_t partitions, log_done *done, void *arg) {
    struct topic *t = topic_find(l, name);
    enum hf_err e = may_grow(l, t, partitions);
    if (e) return e;
    struct creation *x = creation_new(l, done, arg);
    if (!x) return HF_ENOMEM;
    x->t = t;
    e = add_partitions(x, partitions);
    if (e) {
        creation_free(x);
        return e;
    }
    l->partition_count += (size_t)x->count;
    t->growing = true;
    make_folders(x);
    return HF_OK;
}

/* The log is thrown away: nobody is told. */
void creations_forget(struct log *l) {
    while (l->creations) {
        if (l->creations->grown) join(l->creations);
        creation_free(l->creations);
    }
}

/* ---- delete ---- */

static void refused(struct completion *c, bool tell) {
    struct pending *w = (struct pending *)c;
    struct log_appended result = w->result;
    log_append_done *done = w->done;
    void *arg = w->arg;
    result.e = HF_ENOTFOUND;
    pending_free(w);
    if (tell && done) done(arg, &result);
}

static void partition_gone(struct log_partition *p) {
    struct log *l = p->log;
    p->gone = true;
    while (p->fifo) {
        struct pending *w = p->fifo;
        p->fifo = w->next;
        if (w->kind == PENDING_PART) continue;
        w->c.run = refused;
        log_ready(l, &w->c);
    }
    partition_mark_clean(p);
    psync_leave(p);
    checkpoint_leave(p);
    char path[LOG_PATH];
    topic_folder_path(p->topic, p->number, path);
    trash_folder(l, path);
}

static void deleted(struct commit *c) {
    struct topic *t = c->after_arg;
    struct log *l = c->log;
    env_point(l->env, "topic.deleted");
    topic_unindex(l, t);
    for (int32_t i = 0; i < t->partitions; i++) partition_gone(t->partition[i]);
    topic_drop(t);
}

enum hf_err log_topic_delete(struct log *l, hf_str name, const hf_str *drop_keys, size_t drop_count,
                             log_done *done, void *arg) {
    struct topic *t = topic_find(l, name);
    if (!topic_shown(l, t)) return HF_ENOTFOUND;
    if (t->growing) return HF_EAGAIN;
    struct engine_put *puts = calloc(drop_count + 1, sizeof *puts);
    if (!puts) return HF_ENOMEM;
    struct hf_buf key;
    catalogue_key(t, &key);
    puts[0] = (struct engine_put){hf_buf_view(&key), {0}};
    for (size_t i = 0; i < drop_count; i++) puts[i + 1] = (struct engine_put){drop_keys[i], {0}};
    struct engine_commit c = {.now_ms = env_wall_ms(l->env), .puts = puts, .put_count = drop_count + 1};
    enum hf_err e = hf_buf_failed(&key);
    if (!e) e = commit_start(l, &c, deleted, t, done, arg);
    if (!e) t->phase = TOPIC_DELETING;
    hf_buf_fini(&key);
    free(puts);
    return e;
}
