/* Topics: the catalogue, and the folders of partitions.
 *
 * The catalogue is state: key `topic/<name>`. Folders come first and names after:
 *
 *   CREATING   folders made ─► folders synced ─► `topics/` synced ─► commit of the key ─► LIVE
 *   LIVE ─► DELETING   commit that drops the key and the groups' offsets ─► GONE, folders to the trash
 *
 * so whatever the catalogue names is there after any crash, and whatever a crash leaves that the catalogue
 * does not name is nobody's. A folder says whose it is in `partition.metadata`, as Kafka's do [L14]: a
 * deleted topic's folder is never taken for that of a new one with the same name.
 *
 * A deleted topic's object lives until the last commit, sync or reader's pin has let go of its partitions. */
#include "log_internal.h"

#include "base/names.h"

#include <stdio.h>
#include <stdlib.h>

enum { METADATA_MAX = 128, CREATE_AT_A_TIME = 16 };

void base64url(const uint8_t b[16], char out[24]) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    size_t n = 0;
    for (int i = 0; i < 16; i += 3) {
        uint32_t v = (uint32_t)b[i] << 16;
        if (i + 1 < 16) v |= (uint32_t)b[i + 1] << 8;
        if (i + 2 < 16) v |= b[i + 2];
        for (int k = 0; k < 4; k++)
            if (n < 22) out[n++] = digits[v >> (18 - 6 * k) & 63];
    }
    out[n] = 0;
}

void topic_folder_path(const struct topic *t, int32_t number, char out[LOG_PATH]) {
    int n = snprintf(out, LOG_PATH, "topics/%s-%d", t->name, number);
    assert(n > 0 && n < LOG_PATH);
}

/* ---- look-ups ---- */

struct topic *topic_find(struct log *l, hf_str name) {
    struct topic *t;
    HASH_FIND(hh, l->topics, name.p, name.n, t);
    return t;
}

struct topic *topic_find_id(struct log *l, const struct log_uuid *id) {
    struct topic *t;
    HASH_FIND(hh_id, l->topics_by_id, id->b, sizeof id->b, t);
    return t;
}

struct log_partition *topic_partition(struct log *l, hf_str name, int32_t number) {
    struct topic *t = topic_find(l, name);
    return t && number >= 0 && number < t->partitions ? t->partition[number] : NULL;
}

bool topic_shown(const struct log *l, const struct topic *t) {
    return t && t->phase == TOPIC_LIVE && t != l->state_topic;
}

static void describe(const struct topic *t, struct log_topic_info *out) {
    *out = (struct log_topic_info){hf_str_of(t->name), t->id,   t->partitions, t->config.internal,
                                   t->config.settings, t->asked};
}

struct log_partition *log_partition(struct log *l, hf_str topic, int32_t partition) {
    struct log_partition *p = topic_partition(l, topic, partition);
    return p && topic_shown(l, p->topic) ? p : NULL;
}

enum hf_err log_topic(struct log *l, hf_str name, struct log_topic_info *out) {
    const struct topic *t = topic_find(l, name);
    if (!topic_shown(l, t)) return HF_ENOTFOUND;
    describe(t, out);
    return HF_OK;
}

enum hf_err log_topic_by_id(struct log *l, struct log_uuid id, struct log_topic_info *out) {
    const struct topic *t = topic_find_id(l, &id);
    if (!topic_shown(l, t)) return HF_ENOTFOUND;
    describe(t, out);
    return HF_OK;
}

static int by_name(const struct topic *a, const struct topic *b) {
    return hf_str_cmp(hf_str_of(a->name), hf_str_of(b->name));
}

void log_topic_each(struct log *l, void (*fn)(void *arg, const struct log_topic_info *t), void *arg) {
    if (!l->topics_sorted) HASH_SORT(l->topics, by_name);
    l->topics_sorted = true;
    struct topic *t, *next;
    HASH_ITER (hh, l->topics, t, next) {
        struct log_topic_info info;
        if (!topic_shown(l, t)) continue;
        describe(t, &info);
        fn(arg, &info);
    }
}

hf_str log_partition_topic(const struct log_partition *p) {
    return hf_str_of(p->topic->name);
}

int32_t log_partition_number(const struct log_partition *p) {
    return p->number;
}

/* ---- objects ---- */

static void topic_drop(struct topic *t) {
    t->phase = TOPIC_GONE;
    int32_t n = t->partitions;
    for (int32_t i = 0; i < n; i++) partition_unref(t->partition[i]); /* the last one frees the topic */
}

static enum hf_err index_topic(struct log *l, struct topic *t) {
    HASH_ADD(hh, l->topics, name, strlen(t->name), t);
    HASH_ADD(hh_id, l->topics_by_id, id, sizeof t->id, t);
    HASH_ADD(hh_folded, l->topics_folded, folded, strlen(t->folded), t);
    if (!t->hh.tbl || !t->hh_id.tbl || !t->hh_folded.tbl) return HF_ENOMEM;
    l->topics_sorted = false;
    l->stats.topics++;
    l->stats.partitions += (uint64_t)t->partitions;
    l->partition_count += (size_t)t->partitions;
    return HF_OK;
}

static void unindex_topic(struct log *l, struct topic *t) {
    HASH_DELETE(hh, l->topics, t);
    HASH_DELETE(hh_id, l->topics_by_id, t);
    HASH_DELETE(hh_folded, l->topics_folded, t);
    l->stats.topics--;
    l->stats.partitions -= (uint64_t)t->partitions;
    l->partition_count -= (size_t)t->partitions;
}

static void fold(const char *name, char out[256]) {
    size_t i = 0;
    for (; name[i] && i < 255; i++) out[i] = name[i] == '.' ? '_' : name[i];
    out[i] = 0;
}

static enum hf_err topic_new(struct log *l, hf_str name, const struct log_topic_config *config,
                             const struct log_uuid *id, struct topic **out) {
    struct topic *t = calloc(1, sizeof *t);
    if (!t) return HF_ENOMEM;
    memcpy(t->name, name.p, name.n);
    fold(t->name, t->folded);
    t->config.internal = config->internal;
    topic_configure(l, t, &config->settings);
    t->id = *id;
    t->next_sequence = 1;
    t->last_time_ms = -1;
    t->partition = calloc((size_t)config->partitions, sizeof(struct log_partition *));
    enum hf_err e = t->partition ? HF_OK : HF_ENOMEM;
    for (; !e && t->partitions < config->partitions; t->partitions++) {
        struct log_partition *p = partition_new(l, t, t->partitions);
        if (!p) {
            e = HF_ENOMEM;
            break;
        }
        t->partition[t->partitions] = p;
    }
    if (!e) e = index_topic(l, t);
    if (!e) {
        *out = t;
        return HF_OK;
    }
    for (int32_t i = 0; i < t->partitions; i++) partition_free(t->partition[i]);
    free(t->partition);
    free(t);
    return e;
}

enum hf_err topics_init(struct log *l) {
    static const struct log_uuid id = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}};
    struct log_topic_config config = {.partitions = 1, .internal = true};
    uint64_t size = l->o.segment_bytes < (16 << 20) ? l->o.segment_bytes : (16 << 20);
    log_settings_put(&config.settings, LOG_MESSAGE_MAX, (int64_t)ENGINE_COMMIT_BYTES * 2);
    log_settings_put(&config.settings, LOG_SEGMENT_BYTES, (int64_t)size);
    enum hf_err e = topic_new(l, HF_STR(LOG_STATE_TOPIC), &config, &id, &l->state_topic);
    if (e) return e;
    l->state_topic->phase = TOPIC_LIVE;
    l->state.p = l->state_topic->partition[0];
    return HF_OK;
}

void topics_free(struct log *l) {
    struct topic *t, *next;
    HASH_ITER (hh, l->topics, t, next) {
        unindex_topic(l, t);
        topic_drop(t);
    }
}

/* ---- what the catalogue says ---- */

struct loading {
    struct log *l;
    enum hf_err e;
};

static void load_one(void *arg, hf_str key, hf_str value) {
    struct loading *x = arg;
    if (x->e) return;
    struct log_uuid id;
    struct log_topic_config c;
    x->e = catalogue_read(value, &id, &c);
    hf_str name = hf_str_make(key.p + 6, key.n - 6);
    if (x->e || !hf_topic_name_ok(name)) {
        env_log(x->l->env, ENV_ERROR, "catalogue_damaged", "key=\"%.*s\"", (int)key.n, key.p);
        x->e = HF_ECORRUPT;
        return;
    }
    struct topic *t;
    x->e = topic_new(x->l, name, &c, &id, &t);
    if (!x->e) t->phase = TOPIC_LIVE;
}

enum hf_err topics_load(struct log *l) {
    struct loading x = {.l = l};
    state_each(l, HF_STR("topic/"), load_one, &x);
    return x.e;
}

/* ---- folders ---- */

static int metadata_text(const struct topic *t, char out[METADATA_MAX]) {
    char id[24];
    base64url(t->id.b, id);
    return snprintf(out, METADATA_MAX, "version: 0\ntopic_id: %s\n", id);
}

static void metadata_path(const struct log_partition *p, char out[LOG_PATH]) {
    int n = snprintf(out, LOG_PATH, "topics/%s-%d/partition.metadata", p->topic->name, p->number);
    assert(n < LOG_PATH);
}

/* Where the text of a file and what it must be differ; UINT64_MAX: nowhere. A missing file differs at 0. */
static enum hf_err differs_at(struct log *l, const char *path, hf_str want, uint64_t *at) {
    struct hf_file *f = NULL;
    char got[LOG_PAGE];
    size_t have = 0, n = 0;
    *at = UINT64_MAX;
    enum hf_err e = env_open(l->env, path, ENV_READ, &f);
    do {
        if (!e) e = env_read(f, n, got, sizeof got, &have);
        if (e == HF_ENOTFOUND) e = HF_OK;
        if (e) break;
        size_t i = 0;
        while (i < have && n + i < want.n && got[i] == want.p[n + i]) i++;
        n += i;
        if (i < have || (have < sizeof got && n < want.n)) *at = n;
    } while (*at == UINT64_MAX && have == sizeof got);
    if (f) env_close(f);
    return e;
}

/* Whether partition.metadata is this topic's; told if not. */
enum hf_err topic_folder_is(struct log_partition *p, bool *is) {
    char path[LOG_PATH], want[METADATA_MAX];
    uint64_t at;
    metadata_path(p, path);
    int n = metadata_text(p->topic, want);
    enum hf_err e = differs_at(p->log, path, hf_str_make(want, (size_t)n), &at);
    if (e) return e;
    *is = at == UINT64_MAX;
    if (!*is)
        damage_tell(p->log, &(struct log_damage){.file = path,
                                                 .byte = at,
                                                 .offset = -1,
                                                 .what = "the file is missing, or another topic's"});
    return HF_OK;
}

/* An empty folder with its metadata and first segment. The metadata's file stays open to be synced. */
enum hf_err topic_folder_create(struct log_partition *p, struct hf_file **metadata) {
    struct hf_env *env = p->log->env;
    char path[LOG_PATH], text[METADATA_MAX];
    topic_folder_path(p->topic, p->number, path);
    enum hf_err e = env_mkdir(env, path);
    if (e == HF_EEXIST) {
        trash_folder(p->log, path);
        e = env_mkdir(env, path);
    }
    if (e) return e;
    metadata_path(p, path);
    int n = metadata_text(p->topic, text);
    struct segment *s;
    e = segment_first(p, &s);
    if (e) return e;
    p->end = p->journaled = p->durable = p->high = p->synced = (struct place){s, 0, 0};
    struct hf_file *f;
    e = env_open(env, path, ENV_CREATE, &f);
    if (e) return e;
    e = env_write(f, 0, text, (size_t)n);
    if (e) {
        env_close(f);
        return e;
    }
    topic_epochs_write(p);
    *metadata = f;
    return HF_OK;
}

/* ---- leader-epoch-checkpoint: for Kafka's tools and people; the epochs themselves are facts of the snapshot
 * ---- */

static void epochs_path(const struct log_partition *p, char out[LOG_PATH]) {
    int n = snprintf(out, LOG_PATH, "topics/%s-%d/leader-epoch-checkpoint", p->topic->name, p->number);
    assert(n < LOG_PATH);
}

static void epochs_text(const struct log_partition *p, struct hf_buf *out) {
    hf_buf_init(out, 1 << 20);
    hf_buf_printf(out, "0\n%zu\n", p->epoch_count);
    for (size_t i = 0; i < p->epoch_count; i++)
        hf_buf_printf(out, "%d %lld\n", p->epochs[i].epoch, (long long)p->epochs[i].start);
}

/* A full disk leaves it as it was. */
void topic_epochs_write(struct log_partition *p) {
    char path[LOG_PATH];
    struct hf_buf text;
    struct hf_file *f;
    epochs_path(p, path);
    epochs_text(p, &text);
    enum hf_err e = hf_buf_failed(&text);
    if (!e) e = env_open(p->log->env, path, ENV_CREATE, &f);
    if (!e) {
        e = env_truncate(f, 0);
        if (!e) e = env_write(f, 0, text.p, text.n);
        env_close(f);
    }
    hf_buf_fini(&text);
    if (e && e != HF_ENOSPC && e != HF_ENOMEM && e != HF_ELIMIT) log_fail(p->log, e, path);
}

/* What the small file says is known, so it is made again. It is written without a sync, so after a crash it
 * may be anything. */
enum hf_err topic_folder_prove(struct log_partition *p) {
    struct hf_buf text;
    char path[LOG_PATH];
    uint64_t at = UINT64_MAX;
    epochs_path(p, path);
    epochs_text(p, &text);
    enum hf_err e = hf_buf_failed(&text);
    if (!e) e = differs_at(p->log, path, hf_buf_view(&text), &at);
    hf_buf_fini(&text);
    if (e || at == UINT64_MAX) return e;
    topic_epochs_write(p);
    if (!p->log->clean) return HF_OK;
    damage_tell(p->log, &(struct log_damage){.file = path,
                                             .byte = at,
                                             .offset = -1,
                                             .what = "not what was written; made again",
                                             .rebuilt = true});
    return HF_OK;
}

/* ---- the trash ---- */

static bool note_trash(void *arg, const char *name) {
    struct log *l = arg;
    struct trash *t = calloc(1, sizeof *t);
    if (!t) return false;
    snprintf(t->path, sizeof t->path, "trash/%s", name);
    t->next = l->trash;
    l->trash = t;
    return true;
}

void trash_folder(struct log *l, const char *path) {
    char name[64], to[LOG_PATH];
    snprintf(name, sizeof name, "%016llx", (unsigned long long)env_random(l->env));
    snprintf(to, sizeof to, "trash/%s", name);
    enum hf_err e = env_rename(l->env, path, to);
    if (e) log_fail(l, e, path);
    if (!e) (void)note_trash(l, name);
}

struct sweep {
    struct log *l;
    const char *dir;
    size_t left;
};

static bool sweep_one(void *arg, const char *name) {
    struct sweep *s = arg;
    char path[LOG_PATH * 2];
    snprintf(path, sizeof path, "%s/%s", s->dir, name);
    enum hf_err e = env_unlink(s->l->env, path);
    if (e && e != HF_ENOTFOUND) log_fail(s->l, e, path);
    return --s->left > 0;
}

/* A few files at a time. */
void trash_step(struct log *l) {
    struct trash *t = l->trash;
    if (!t) return;
    struct sweep s = {l, t->path, 4};
    enum hf_err e = env_list(l->env, t->path, sweep_one, &s);
    if (!e && s.left > 0) e = env_rmdir(l->env, t->path);
    if (e && e != HF_ENOTFOUND) {
        log_fail(l, e, t->path);
        return;
    }
    if (s.left == 0) return;
    l->trash = t->next;
    free(t);
}

enum hf_err trash_load(struct log *l) {
    return env_list(l->env, "trash", note_trash, l);
}

/* ---- create ---- */

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
    int32_t made;    /* partitions whose folder was begun */
    int32_t waiting; /* and is not yet durable */
    struct folder folders[CREATE_AT_A_TIME];
    struct env_sync of_topics;
    log_done *done;
    void *arg;
    struct completion failed;
    enum hf_err e;
};

static void creation_free(struct creation *x) {
    DL_DELETE(x->l->creations, x);
    for (int i = 0; i < CREATE_AT_A_TIME; i++)
        if (x->folders[i].metadata) env_close(x->folders[i].metadata);
    free(x);
}

/* The folders that were made are nobody's. */
static void undo(struct log *l, struct topic *t) {
    unindex_topic(l, t);
    for (int32_t i = 0; i < t->partitions; i++) {
        struct log_partition *p = t->partition[i];
        char path[LOG_PATH];
        p->gone = true;
        partition_mark_clean(p);
        psync_leave(p);
        checkpoint_leave(p);
        topic_folder_path(t, i, path);
        if (p->segments) trash_folder(l, path);
    }
    topic_drop(t);
}

static void creation_failed(struct completion *c, bool tell) {
    struct creation *x = (struct creation *)((char *)c - offsetof(struct creation, failed));
    if (!tell) return; /* creations_forget has it */
    log_done *done = x->done;
    void *arg = x->arg;
    enum hf_err e = x->e;
    struct topic *t = x->t;
    struct log *l = x->l;
    creation_free(x);
    undo(l, t);
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
    x->t->phase = TOPIC_LIVE;
    watches_attach(x->t, x->l);
}

static void commit_topic(struct creation *x) {
    env_point(x->l->env, "topic.folders_synced");
    struct hf_buf key, value;
    catalogue_key(x->t, &key);
    catalogue_value(x->t, x->t->partitions, &x->t->asked, &value);
    enum hf_err e = hf_buf_failed(&key) ? hf_buf_failed(&key) : hf_buf_failed(&value);
    struct engine_put put = {hf_buf_view(&key), hf_buf_view(&value)};
    struct engine_commit c = {.now_ms = env_wall_ms(x->l->env), .puts = &put, .put_count = 1};
    if (!e) e = commit_start(x->l, &c, live, x, created, x);
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
    struct log_partition *p = x->t->partition[x->made];
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
    for (int i = 0; i < CREATE_AT_A_TIME && !x->e && x->made < x->t->partitions; i++)
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
    char zero_ended[256] = {0}, folded[256];
    if (name.n >= sizeof zero_ended) return HF_EINVAL;
    memcpy(zero_ended, name.p, name.n);
    fold(zero_ended, folded);
    struct topic *t;
    HASH_FIND(hh_folded, l->topics_folded, folded, strlen(folded), t);
    return t ? HF_EINVAL : HF_OK;
}

enum hf_err log_topic_create(struct log *l, hf_str name, const struct log_topic_config *config,
                             log_done *done, void *arg) {
    struct log_topic_config c = *config;
    enum hf_err e = settle_config(l, name, &c);
    if (!e) e = may_create(l, name);
    if (e) return e;
    struct log_uuid id;
    for (size_t i = 0; i < sizeof id.b; i += 8) hf_put_be64(id.b + i, env_random(l->env));
    struct creation *x = calloc(1, sizeof *x);
    if (!x) return HF_ENOMEM;
    x->done = done;
    x->arg = arg;
    x->l = l;
    e = topic_new(l, name, &c, &id, &x->t);
    if (e) {
        free(x);
        return e;
    }
    DL_APPEND(l->creations, x);
    make_folders(x);
    return HF_OK;
}

/* The log is thrown away: nobody is told. */
void creations_forget(struct log *l) {
    while (l->creations) creation_free(l->creations);
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
    unindex_topic(l, t);
    for (int32_t i = 0; i < t->partitions; i++) partition_gone(t->partition[i]);
    topic_drop(t);
}

enum hf_err log_topic_delete(struct log *l, hf_str name, const hf_str *drop_keys, size_t drop_count,
                             log_done *done, void *arg) {
    struct topic *t = topic_find(l, name);
    if (!topic_shown(l, t)) return HF_ENOTFOUND;
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
