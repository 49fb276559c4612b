/* Rescue: a start that would be refused goes on, gives up what it must, says so, and keeps a copy of it.
 *
 * An ordinary start stops where what it must rely on is damaged (docs/storage.md, "Damage"). With
 * log_options.rescue it takes the next best instead:
 *
 *     refused because of                    instead
 *     ------------------                    -------
 *     meta                                  a new cluster id
 *     the newest superblock or snapshot     the other pair, if it is whole; else none: what the folders show
 *     a broken chain in the journal         every group further on that is whole by itself
 *     a folder, or its partition.metadata   made again, as the catalogue says
 *     the segment in which recovery begins  the newest ones without a whole manifest, from their first byte on
 *     a hole in front of journaled bytes    the next batch that is whole goes into a segment of its own
 *     the state                             what can be proven of it (salvage.c)
 *     the catalogue                         folders that nobody names are taken back as topics
 *     a run                                 the run is dropped, its file kept aside
 *
 * Why whole groups out of order do no harm: a group is written only when all before it is durable, and offsets
 * are never given twice, so whatever a whole group says did happen. Bytes count by their offset: below the end
 * of their partition they are there already. A swap of long ago finds nothing to do.
 *
 * What was not proven to be known is not assumed: where superblock, snapshot or journal were damaged, ceilings
 * may be lost, so every partition goes on 2 * LOG_CEILING_STEP above what was found, under a new epoch [L6].
 *
 * All this happens only in a folder that an ordinary start refuses; superblocks, snapshots, journal and meta are
 * copied before anything is changed (aside.c), a segment before it is cut. The first checkpoint ends it, as
 * any recovery; a crash before that leaves a folder on which it can be run again. */
#include "log_internal.h"

#include <stdio.h>
#include <stdlib.h>

bool rescue_on(const struct log *l) {
    return l->rescue.on;
}

void rescue_tell(struct log *l, const char *file, const char *what) {
    l->rescue.to->gave_up(l->rescue.to->arg, file, what);
}

void rescue_lost(struct log_partition *p, int64_t from, int64_t to) {
    struct log *l = p->log;
    if (from >= to) return;
    if (p == l->state.p) l->rescue.state_lost = true;
    l->rescue.to->lost(l->rescue.to->arg, &(struct log_lost){p->topic->name, p->number, from, to});
}

/* ---- begin and end ---- */

struct copying {
    struct log *l;
    enum hf_err e;
};

static bool copy_journal(void *arg, const char *name) {
    struct copying *x = arg;
    char path[LOG_PATH];
    snprintf(path, sizeof path, "journal/%s", name);
    x->e = aside_copy(x->l, path);
    return x->e == HF_OK;
}

/* What every start writes anew is copied. */
enum hf_err rescue_begin(struct log *l) {
    static const char *const files[] = {"meta", "superblock-0", "superblock-1", "snapshot-0", "snapshot-1"};
    static const char *const folders[] = {"journal", "runs", "topics", "trash"};
    struct copying x = {.l = l};
    enum hf_err e = HF_OK;
    for (size_t i = 0; !e && i < sizeof files / sizeof *files; i++) e = aside_copy(l, files[i]);
    for (size_t i = 0; !e && i < sizeof folders / sizeof *folders; i++) {
        e = env_mkdir(l->env, folders[i]);
        if (!e) rescue_tell(l, folders[i], "the folder was missing, with all that was in it");
        if (e == HF_EEXIST) e = HF_OK;
    }
    if (!e) e = env_sync_wait(l->env, NULL, ".");
    if (!e) e = env_list(l->env, "journal", copy_journal, &x);
    return e ? e : x.e;
}

void rescue_forget(struct log *l) {
    free(l->rescue.runs);
    l->rescue.runs = NULL;
    l->rescue.run_count = 0;
}

/* ---- where a partition's recovery begins ---- */

/* Where the newest segments that have no whole manifest begin; the last one if all have. */
static enum hf_err first_open(struct log_partition *p, int64_t *base) {
    const struct tail *t = p->tail;
    size_t i = t->count - 1;
    for (; i > 0; i--) {
        struct manifest m;
        struct segment *s = segment_new(p, t->base[i - 1]);
        if (!s) return HF_ENOMEM;
        enum hf_err e = manifest_read(s, &m);
        index_close(s);
        p->log->stats.segments--;
        free(s);
        if (!e) break;
        if (e != HF_ENOTFOUND && e != HF_ECORRUPT) return e;
    }
    *base = t->base[i];
    return HF_OK;
}

static bool has(const struct tail *t, int64_t base) {
    for (size_t i = 0; i < t->count; i++)
        if (t->base[i] == base) return true;
    return false;
}

/* An empty file in the row of those that are there. */
static enum hf_err make_segment(struct log_partition *p, int64_t base) {
    struct segment named = {.p = p, .base = base};
    struct tail *t = p->tail;
    char path[LOG_PATH];
    struct hf_file *f;
    if (has(t, base)) return HF_OK;
    int64_t *grown = realloc(t->base, (t->count + 1) * sizeof *grown);
    if (!grown) return HF_ENOMEM;
    t->base = grown;
    size_t i = t->count++;
    for (; i > 0 && t->base[i - 1] > base; i--) t->base[i] = t->base[i - 1];
    t->base[i] = base;
    t->cap = t->count;
    segment_path(&named, "log", path);
    enum hf_err e = env_open(p->log->env, path, ENV_CREATE, &f);
    if (!e) env_close(f);
    return e;
}

static enum hf_err add_epoch(struct log_partition *p, int32_t epoch, int64_t start) {
    if (epoch <= partition_epoch(p)) return HF_OK;
    if (start <= p->epochs[p->epoch_count - 1].start) { /* the first one, or one that began nothing */
        p->epochs[p->epoch_count - 1] = (struct epoch){epoch, start};
        return HF_OK;
    }
    return partition_epoch_add(p, epoch, start);
}

/* leader-epoch-checkpoint says the same as the snapshot did, if it is whole. */
static enum hf_err epochs_of_text(struct log_partition *p) {
    char path[LOG_PATH], text[LOG_PAGE + 1];
    struct hf_file *f;
    size_t n = 0;
    int at = 0, used, count;
    topic_folder_path(p->topic, p->number, path);
    snprintf(path + strlen(path), sizeof path - strlen(path), "/leader-epoch-checkpoint");
    enum hf_err e = env_open(p->log->env, path, ENV_READ, &f);
    if (e) return e == HF_ENOTFOUND ? HF_OK : e;
    e = env_read(f, 0, text, LOG_PAGE, &n);
    env_close(f);
    if (e) return e;
    text[n] = 0;
    if (sscanf(text, "0\n%9d\n%n", &count, &at) != 1) return HF_OK;
    for (; !e && count > 0; count--, at += used) {
        int epoch;
        long long start;
        if (sscanf(text + at, "%9d %18lld\n%n", &epoch, &start, &used) != 2) break;
        e = add_epoch(p, epoch, start);
    }
    return e;
}

/* A jump began each epoch in a segment of its own: the first batch of each file tells. */
static enum hf_err epochs_of_segments(struct log_partition *p) {
    const struct tail *t = p->tail;
    enum hf_err e = HF_OK;
    for (size_t i = 0; !e && i < t->count; i++) {
        struct segment named = {.p = p, .base = t->base[i]};
        struct batch_info b;
        uint8_t head[BATCH_HEADER];
        char path[LOG_PATH];
        struct hf_file *f;
        size_t n = 0;
        segment_path(&named, "log", path);
        e = env_open(p->log->env, path, ENV_READ, &f);
        if (e) break;
        e = env_read(f, 0, head, sizeof head, &n);
        env_close(f);
        if (e || n < sizeof head || batch_parse(head, SIZE_MAX / 2, &b)) continue;
        if (b.base_offset == t->base[i]) e = add_epoch(p, b.leader_epoch, b.base_offset);
    }
    return e;
}

static enum hf_err guess(struct log_partition *p, struct facts *out) {
    const struct tail *t = p->tail;
    enum hf_err e = first_open(p, &out->base);
    if (p->start < t->base[0]) p->start = t->base[0];
    if (e || out->epoch_count > 0) return e;
    p->epochs[0] = (struct epoch){0, t->base[0]};
    p->epoch_count = 1;
    e = epochs_of_text(p);
    return e ? e : epochs_of_segments(p);
}

/* The facts that are known, if the file they speak of is there. If it is not: it begins anew where they end; or,
 * if they may be old or are missing, where the folder shows that the last checkpoint may have been. */
enum hf_err rescue_facts(struct log_partition *p, const struct facts *known, struct facts *out) {
    struct tail *t = p->tail;
    bool sure = !p->log->rescue.unsure;
    enum hf_err e = HF_OK;
    t->floor = known->next;
    *out = *known;
    if (has(t, known->base) && (sure || known->epoch_count > 0)) {
        t->exact = p->log->rescue.exact;
        return HF_OK;
    }
    *out = (struct facts){
        .max_ts = -1, .start = p->start, .base = known->next, .epoch_count = known->epoch_count};
    if (sure || t->count == 0)
        e = make_segment(p, known->next);
    else
        e = guess(p, out);
    out->next = out->unlisted = out->base;
    return e;
}

/* ---- folders ---- */

/* There, and this topic's by what partition.metadata says. Whose it is was known from its name and from what the
 * manifests in it say, which prove themselves. */
enum hf_err rescue_folder(struct log_partition *p) {
    char path[LOG_PATH];
    topic_folder_path(p->topic, p->number, path);
    enum hf_err e = env_mkdir(p->log->env, path);
    if (!e) rescue_tell(p->log, path, "the folder was missing, with all that was in it");
    if (e && e != HF_EEXIST) return e;
    snprintf(path + strlen(path), sizeof path - strlen(path), "/partition.metadata");
    e = aside_copy(p->log, path);
    if (!e) e = topic_metadata_write(p);
    if (!e) rescue_tell(p->log, path, "made again as the catalogue says");
    p->dirty_dir = true;
    return e;
}

/* ---- holes ---- */

/* What comes next in this partition begins at `offset`; what is missing in front of it is lost. */
enum hf_err rescue_gap(struct log_partition *p, int64_t offset) {
    struct segment *s;
    rescue_lost(p, p->end.offset, offset);
    enum hf_err e = segment_seal(partition_active(p), p->end.offset);
    if (!e) e = segment_create(p, offset, 0, &s);
    if (!e) p->end = (struct place){s, 0, offset};
    return e;
}

/* ---- topics that nobody names any more ---- */

struct found {
    struct log *l;
    enum hf_err e;
};

static bool find_topic(void *arg, const char *name) {
    struct found *x = arg;
    const char *dash = strrchr(name, '-');
    int64_t number = -1;
    if (!dash || hf_str_int(hf_str_of(dash + 1), &number) || number < 0 || number >= LOG_TOPIC_PARTITIONS)
        return true;
    x->e = topic_take_back(x->l, hf_str_make(name, (size_t)(dash - name)), (int32_t)number);
    return x->e == HF_OK;
}

/* Topics whose catalogue entry is lost with a part of the state. What the topic was told is lost with it: it keeps
 * everything until it is told otherwise. */
enum hf_err rescue_topics(struct log *l) {
    struct found x = {.l = l};
    if (!l->rescue.state_lost) return HF_OK;
    enum hf_err e = env_list(l->env, "topics", find_topic, &x);
    return e ? e : x.e;
}

/* ---- behind the start: what is to be said to the state ---- */

enum hf_err rescue_run(struct log *l, uint64_t id) {
    struct rescue *r = &l->rescue;
    char what[128], key[32];
    uint64_t *grown = realloc(r->runs, (r->run_count + 1) * sizeof *grown);
    if (!grown) return HF_ENOMEM;
    r->runs = grown;
    r->runs[r->run_count++] = id;
    run_key(id, key);
    snprintf(what, sizeof what, "the run is dropped, with all delayed messages that it held");
    rescue_tell(l, key, what);
    return HF_OK;
}

struct waiting {
    bool ended;
    enum hf_err e;
};

static void ended(void *arg, enum hf_err e) {
    *(struct waiting *)arg = (struct waiting){true, e};
}

static enum hf_err wait_for(struct log *l, struct waiting *w) {
    while (!w->ended && !l->failed) {
        (void)log_step(l);
        (void)env_wait(l->env);
    }
    return l->failed ? l->failed : w->e;
}

static enum hf_err drop_runs(struct log *l) {
    struct waiting w = {0};
    struct engine_commit c = {.now_ms = env_wall_ms(l->env),
                              .runs_dropped = l->rescue.runs,
                              .runs_dropped_count = l->rescue.run_count};
    if (l->rescue.run_count == 0) return HF_OK;
    enum hf_err e = commit_start(l, &c, NULL, NULL, ended, &w);
    return e ? e : wait_for(l, &w);
}

static enum hf_err name_topics(struct log *l) {
    for (struct topic *t = l->topics; t; t = t->hh.next) {
        struct waiting w = {0};
        if (!t->taken_back) continue;
        struct log_settings asked = t->asked;
        enum hf_err e = log_topic_alter(l, hf_str_of(t->name), &asked, ended, &w);
        if (!e) e = wait_for(l, &w);
        if (e) return e;
        t->taken_back = false;
    }
    return HF_OK;
}

/* The log is open: the state is told what became of runs and topics. */
enum hf_err rescue_end(struct log *l) {
    enum hf_err e = drop_runs(l);
    return e ? e : name_topics(l);
}
