/* From what is on disk to a log that serves. The plan is drawn in docs/storage.md, "Recovery".
 *
 * First the state comes back, then with its catalogue all other partitions: each is brought forward
 * (forward.c) from the facts of the newest whole checkpoint, with the journal's entries. Then everything is
 * synced by an ordinary checkpoint, under a new incarnation of the journal, before the first answer [L10].
 *
 * Running it twice is running it once: it changes nothing in the journal, and writes to segments what is there
 * or follows from the journal. */
#include "log_internal.h"

#include <stdio.h>

/* ---- entries of the journal ---- */

struct pass {
    struct log *l;
    bool state; /* the state partition's entries only, or all others */
};

static enum hf_err replay_entry(void *arg, const struct replay_entry *x) {
    struct pass *pass = arg;
    struct topic *t = topic_find_id(pass->l, &x->id);
    if (!t || x->partition < 0 || x->partition >= t->partitions) return HF_OK; /* deleted since */
    if ((t == pass->l->state_topic) != pass->state) return HF_OK;
    struct log_partition *p = t->partition[x->partition];
    enum hf_err e = segment_settle(pass->l);
    if (e) return e;
    switch (x->type) {
    case ENTRY_BYTES: return forward_replay(p, x);
    case ENTRY_CEILING:
        if (x->offset > p->ceiling) p->ceiling = p->ceiling_asked = x->offset;
        return HF_OK;
    case ENTRY_START:
        if (x->offset > p->start) p->start = x->offset;
        return HF_OK;
    case ENTRY_SWAP: return swap_again(p, x->offset, hf_str_make(x->bytes, x->n));
    default: return HF_EUNSUPPORTED;
    }
}

/* ---- the whole ---- */

static enum hf_err take_facts(struct log *l, const struct facts *f, bool state) {
    struct topic *t = topic_find_id(l, &f->id);
    if (!t || f->partition < 0 || f->partition >= t->partitions) return HF_OK;
    if ((t == l->state_topic) != state) return HF_OK;
    struct log_partition *p = t->partition[f->partition];
    enum hf_err e = facts_apply(p, f);
    if (!e) e = forward_load(p, f, l->clean);
    return e ? e : segment_settle(l);
}

static enum hf_err take_state_facts(struct log *l, const struct facts *f) {
    return take_facts(l, f, true);
}
static enum hf_err take_other_facts(struct log *l, const struct facts *f) {
    return take_facts(l, f, false);
}

static enum hf_err each_other(struct log *l, enum hf_err (*fn)(struct log_partition *p)) {
    for (struct topic *t = l->topics; t; t = t->hh.next) {
        if (t == l->state_topic) continue;
        for (int32_t i = 0; i < t->partitions; i++) {
            enum hf_err e = fn(t->partition[i]);
            if (!e) e = segment_settle(l);
            if (e) return e;
        }
    }
    return HF_OK;
}

/* A topic that came after the checkpoint. */
static enum hf_err load_new(struct log_partition *p) {
    struct facts none = {0};
    none.max_ts = -1;
    return p->tail ? HF_OK : forward_load(p, &none, p->log->clean);
}

static enum hf_err replay_pass(struct log *l, const struct superblock *sb, bool state) {
    struct pass pass = {l, state};
    struct replay r = {.lsn = sb->lsn,
                       .chain = sb->chain,
                       .incarnation = sb->incarnation,
                       .tell = state && sb->lsn > 0 && !sb->clean,
                       .entry = replay_entry,
                       .arg = &pass};
    if (l->clean) return HF_OK;
    enum hf_err e = replay_run(l, &r);
    if (!e && state && !rescue_on(l)) e = replay_judge(l, &r);
    return e;
}

/* What the start is in must be there; readers are told the same. */
static enum hf_err look_for_first(struct log_partition *p) {
    char path[LOG_PATH];
    if (p->segments->base <= p->start) return HF_OK;
    topic_folder_path(p->topic, p->number, path);
    damage_tell(p->log, &(struct log_damage){.file = path,
                                             .offset = p->start,
                                             .what = "the segment that holds this offset is missing"});
    return HF_OK;
}

static enum hf_err recover(struct log *l, const struct superblock *sb, const struct hf_buf *snapshot) {
    l->opening = "replaying the state";
    enum hf_err e = snapshot_each(l, snapshot, take_state_facts);
    if (!e && !l->state.p->tail) e = rescue_on(l) ? load_new(l->state.p) : HF_ECORRUPT;
    if (!e) e = replay_pass(l, sb, true);
    if (!e && !l->clean) e = forward_finish(l->state.p);
    env_point(l->env, "recovery.state_replayed");
    if (!e && rescue_on(l)) e = salvage_partition(l->state.p);
    if (!e) e = state_load(l);
    if (!e) e = topics_load(l);
    if (!e && rescue_on(l)) e = rescue_topics(l);
    if (e) return e;
    l->opening = "replaying the journal into the segments";
    if (!e) e = snapshot_each(l, snapshot, take_other_facts);
    if (!e) e = each_other(l, load_new);
    if (!e) e = replay_pass(l, sb, false);
    env_point(l->env, "recovery.replayed");
    if (e) return e;
    l->opening = "cutting what the crash left of the segments";
    if (!l->clean) e = each_other(l, forward_finish);
    env_point(l->env, "recovery.cut");
    return e ? e : each_other(l, look_for_first);
}

static bool other_folder(void *arg, const char *name) {
    struct log *l = arg;
    const char *dash = strrchr(name, '-');
    int64_t number = -1;
    if (dash && hf_str_int(hf_str_of(dash + 1), &number) == HF_OK && number <= INT32_MAX) {
        struct log_partition *p =
            topic_partition(l, hf_str_make(name, (size_t)(dash - name)), (int32_t)number);
        if (p) return true;
    }
    char path[LOG_PATH];
    snprintf(path, sizeof path, "topics/%s", name);
    if (!rescue_on(l)) {
        trash_folder(l, path);
        return true;
    }
    rescue_tell(l, path, "no topic's: set aside");
    enum hf_err e = aside_move(l, path);
    if (e) log_fail(l, e, path);
    return !e;
}

/* ---- start ---- */

/* After a clean stop the files are ready for use. After a crash their names may be lost (a failed sync): they
 * are unlinked when the first checkpoint has ended, and new ones are made. */
static uint64_t sort_journal(struct log *l, const struct superblock *sb) {
    struct journal *j = &l->journal;
    struct journal_file *f, *next;
    uint64_t top = sb->lsn >> 32;
    DL_FOREACH_SAFE(j->files, f, next) {
        if (f->seq > top) top = f->seq;
        if (!l->clean || f->size != l->o.journal_file_bytes) continue;
        DL_DELETE(j->files, f);
        f->seq = 0;
        DL_APPEND(j->spares, f);
    }
    return top;
}

static bool checkpointed(struct log *l) {
    return checkpoint_idle(l);
}

static enum hf_err begin_incarnation(struct log *l, uint64_t top) {
    l->opening = "making a journal file and the first checkpoint";
    enum hf_err e = journal_open(l, top + 1);
    if (e) return e;
    env_point(l->env, "recovery.journal_begun");
    if (hf_mutate(29)) return HF_OK;
    uint64_t before = l->checkpoint.generation;
    checkpoint_begin(l, false);
    e = log_settle(l, checkpointed);
    if (!e && l->checkpoint.generation == before)
        e = HF_ENOSPC; /* put off: nothing can be answered without */
    return e;
}

/* Folders that every store has. */
static enum hf_err is_missing(struct log *l, const char *folder, enum hf_err e) {
    if (e != HF_ENOTFOUND) return e;
    damage_tell(l, &(struct log_damage){.file = folder, .offset = -1, .what = "the folder is missing"});
    return HF_ECORRUPT;
}

/* The newest superblock and its snapshot. */
static enum hf_err read_base(struct log *l, struct superblock *sb, struct hf_buf *snapshot) {
    if (rescue_on(l)) return snapshot_rescue(l, sb, snapshot);
    enum hf_err e = superblock_read(l, sb);
    if (e == HF_ENOTFOUND) {
        damage_tell(l, &(struct log_damage){.file = "superblock-0",
                                            .offset = -1,
                                            .what = "neither it nor superblock-1 is whole"});
        return HF_ECORRUPT;
    }
    if (!e && sb->clean) e = snapshot_look_at_spare(l, sb);
    if (!e) e = snapshot_read(l, sb, snapshot);
    if (e) return e;
    l->clean = sb->clean;
    l->checkpoint.generation = sb->generation;
    return HF_OK;
}

static enum hf_err open_old(struct log *l) {
    struct superblock sb;
    struct hf_buf snapshot;
    l->opening = "reading superblock and snapshot";
    enum hf_err e = read_base(l, &sb, &snapshot);
    if (e) return e;
    l->opening = "reading the journal";
    e = is_missing(l, "journal", replay_scan(l));
    if (!e) e = recover(l, &sb, &snapshot);
    hf_buf_fini(&snapshot);
    if (e) return e;
    l->opening = "looking through topics, trash and runs";
    e = env_list(l->env, "topics", other_folder, l);
    if (!e) e = is_missing(l, "trash", trash_load(l));
    if (!e) e = is_missing(l, "runs", runs_load(l));
    return e ? e : begin_incarnation(l, sort_journal(l, &sb));
}

enum hf_err recovery_run(struct log *l) {
    l->opening = "reading LOCK and meta";
    enum hf_err e = meta_lock(l);
    if (!e && rescue_on(l)) e = rescue_begin(l);
    if (!e) e = meta_read(l);
    if (rescue_on(l) && (e == HF_ECORRUPT || e == HF_ENOTFOUND)) {
        rescue_tell(l, "meta", "the cluster has a new id");
        e = HF_OK;
    }
    if (e && e != HF_ENOTFOUND) return e;
    if (!e) {
        e = open_old(l);
    } else {
        e = store_make(l);
        env_point(l->env, "store.made");
        struct superblock none = {0};
        if (!e) e = replay_scan(l);
        l->clean = true;
        if (!e) e = begin_incarnation(l, sort_journal(l, &none));
    }
    if (!e) l->opening = "writing meta";
    if (!e) e = meta_write(l);
    for (struct topic *t = l->topics; t; t = t->hh.next)
        for (int32_t i = 0; i < t->partitions; i++) forward_forget(t->partition[i]);
    return e ? e : l->failed;
}
