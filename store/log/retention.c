/* Retention: old segments go, whole, from the front; and segments that are open for too long are closed.
 *
 * Now and then a pass looks at every partition of the clients' topics, a few in each step of the log, so that
 * nobody waits for it. For each it asks what the topic's settings make of its segments:
 *
 *     the active one   rolled when it is open for segment.ms, or all its records are older than retention.ms
 *     closed ones      go while their youngest record is older than retention.ms,
 *                      and while what is behind them is retention.bytes or more
 *
 * What goes is decided as an offset, the new start, and all starts of a step are one commit: the journal
 * tells before any file is touched [L17]. partition_start_trim removes the files, once recovery does not
 * begin there any more; a reader in the middle of one keeps it open.
 *
 * The youngest record of a segment is known while the process that wrote it lives. Of one that was found at
 * the start only the timeindex speaks, and entries may be missing there (index.c): before such a segment
 * goes, the headers behind the last entry are read, a limited number in each step. */
#include "log_internal.h"

#include <stdlib.h>

enum {
    LOOKS = 32,         /* partitions in a step */
    HEADERS = 2048,     /* batch headers read in a step, roughly */
    OPENING = 64,       /* what opening a file counts as */
    MOVING_COMMITS = 4, /* under way; more wait for the next pass */
};

/* ---- segments ---- */

enum hf_err retention_known_size(struct log *l, struct segment *s) {
    if (s->sized) return HF_OK;
    if (l->retention.budget <= 0) return HF_EAGAIN;
    l->retention.budget -= OPENING;
    return segment_open(s);
}

/* Reads on where the last step ended. */
static enum hf_err scan_times(struct log *l, struct segment *s) {
    struct retention *r = &l->retention;
    if (r->scan_p != s->p || r->scan_base != s->base) {
        int64_t from = s->base;
        enum hf_err e = segment_open(s);
        if (!e && s->timeindex.entries > 0) e = index_find_time(s, INT64_MAX, &from);
        if (!e) e = index_find(s, from, &r->scan_pos);
        if (e) return e;
        r->scan_p = s->p;
        r->scan_base = s->base;
    }
    while (r->scan_pos < s->size) {
        struct batch_info b;
        if (r->budget-- <= 0) return HF_EAGAIN;
        enum hf_err e = proof_at(s, r->scan_pos); /* a damaged time must not make it look old */
        if (!e) e = read_header(s, r->scan_pos, s->size, &b);
        if (e) return e;
        if (b.max_timestamp > s->max_ts) s->max_ts = b.max_timestamp;
        r->scan_pos += b.size;
    }
    s->timed = true;
    return HF_OK;
}

/* Whether all records of a segment are older than the topic keeps them. */
static enum hf_err expired(struct log *l, struct segment *s, int64_t now_ms, bool *out) {
    int64_t keep_ms = s->p->topic->config.settings.value[LOG_RETENTION_MS];
    enum hf_err e = retention_known_size(l, s);
    *out = !e && s->size == 0;
    if (e || *out || keep_ms < 0 || s->max_ts < 0 || now_ms - s->max_ts <= keep_ms) return e;
    if (!s->timed) e = scan_times(l, s);
    *out = !e && now_ms - s->max_ts > keep_ms;
    return e;
}

static enum hf_err total_size(struct log *l, struct log_partition *p, int64_t *out) {
    *out = 0;
    for (struct segment *s = p->segments; s; s = s->next) {
        enum hf_err e = retention_known_size(l, s);
        if (e) return e;
        *out += (int64_t)s->size;
    }
    return HF_OK;
}

/* ---- one partition ---- */

/* What the active segment's first batch says of its time; -1: not known. */
static int64_t first_time(struct segment *s) {
    struct batch_info b;
    if (s->first_ts < 0 && s->file && read_header(s, 0, s->size, &b) == HF_OK) s->first_ts = b.max_timestamp;
    return s->first_ts;
}

static bool open_too_long(struct segment *s, int64_t now_us) {
    int64_t most_ms = s->p->topic->config.settings.value[LOG_SEGMENT_MS], first = first_time(s);
    if ((now_us - s->since_us) / 1000 >= most_ms) return true;
    return first >= 0 && s->max_ts - first >= most_ms;
}

static bool deletes(const struct log_partition *p) {
    const struct log_settings *s = &p->topic->config.settings;
    return s->value[LOG_CLEANUP_POLICY] & LOG_CLEANUP_DELETE &&
           (s->value[LOG_RETENTION_MS] >= 0 || s->value[LOG_RETENTION_BYTES] >= 0);
}

static void roll_if_due(struct log *l, struct log_partition *p, int64_t now_ms) {
    struct segment *s = partition_active(p);
    bool old = false;
    if (s->size == 0) return;
    if (deletes(p) && expired(l, s, now_ms, &old)) old = false;
    if (!old && !open_too_long(s, env_mono_us(l->env))) return;
    if (log_crowded(l)) return; /* the next pass */
    enum hf_err e = partition_roll(p);
    if (e && e != HF_ENOSPC)
        env_log(l->env, ENV_WARN, "roll_put_off", "topic=%s partition=%d reason=\"%s\"", p->topic->name,
                p->number, hf_err_text(e));
}

/* Where the start should be. HF_EAGAIN: this step has done enough. */
static enum hf_err wanted_start(struct log *l, struct log_partition *p, int64_t now_ms, int64_t *out) {
    int64_t most = p->topic->config.settings.value[LOG_RETENTION_BYTES], left = 0;
    enum hf_err e = most >= 0 ? total_size(l, p, &left) : HF_OK;
    *out = p->start;
    for (struct segment *s = p->segments; !e && s->next && s->next->base <= p->high.offset; s = s->next) {
        bool gone = s->next->base <= p->start;
        if (!gone) e = expired(l, s, now_ms, &gone);
        if (e) break;
        left -= (int64_t)s->size;
        if (!gone && (most < 0 || left < most)) break;
        if (s->next->base > *out) *out = s->next->base;
    }
    return e;
}

/* ---- a pass ---- */

static void begin_pass(struct log *l) {
    struct retention *r = &l->retention;
    size_t n = 0;
    r->row = malloc((l->partition_count + 1) * sizeof(struct log_partition *));
    if (!r->row) return; /* the next interval */
    for (struct topic *t = l->topics; t; t = t->hh.next) {
        if (t->phase != TOPIC_LIVE || t->config.internal) continue;
        for (int32_t i = 0; i < t->partitions; i++) {
            partition_ref(t->partition[i]);
            r->row[n++] = t->partition[i];
        }
    }
    r->count = n;
    r->at = 0;
}

static void end_pass(struct log *l) {
    struct retention *r = &l->retention;
    while (r->count > 0) partition_unref(r->row[--r->count]);
    free(r->row);
    r->row = NULL;
    r->at = 0;
    r->scan_p = NULL;
    r->next_us = env_mono_us(l->env) + l->o.retention_check_ms * 1000;
}

static void moved(void *arg, enum hf_err e) {
    struct log *l = arg;
    (void)e;
    l->retention.moving--;
}

/* What cannot begin now comes with the next pass. */
static void commit_starts(struct log *l, const struct engine_low_water *starts, size_t n, int64_t now_ms) {
    struct engine_commit c = {.now_ms = now_ms, .low_waters = starts, .low_water_count = n};
    if (n > 0 && commit_start(l, &c, NULL, NULL, moved, l) == HF_OK) l->retention.moving++;
}

/* false: not done with it in this step. */
static bool look_at(struct log *l, struct log_partition *p, int64_t now_ms, struct engine_low_water *starts,
                    size_t *n) {
    int64_t offset;
    if (p->gone || p->topic->phase != TOPIC_LIVE) return true;
    roll_if_due(l, p, now_ms);
    enum hf_err e = compaction_consider(l, p, now_ms);
    if (!e && !deletes(p)) return true;
    if (!e) e = wanted_start(l, p, now_ms, &offset);
    if (e == HF_EAGAIN) return false;
    if (e)
        env_log(l->env, ENV_WARN, "retention_put_off", "topic=%s partition=%d reason=\"%s\"", p->topic->name,
                p->number, hf_err_text(e));
    else if (offset > p->start)
        starts[(*n)++] = (struct engine_low_water){hf_str_of(p->topic->name), p->number, offset};
    return true;
}

void retention_step(struct log *l) {
    struct retention *r = &l->retention;
    struct engine_low_water starts[LOOKS];
    size_t n = 0;
    if (!l->open || l->closing || l->failed) return;
    if (!r->row && env_mono_us(l->env) >= r->next_us) begin_pass(l);
    if (!r->row || r->moving >= MOVING_COMMITS) return;
    int64_t now_ms = log_time_ms(l);
    r->budget = HEADERS;
    for (int i = 0; i < LOOKS && r->at < r->count && r->budget > 0 && !l->failed; i++) {
        if (!look_at(l, r->row[r->at], now_ms, starts, &n)) break;
        r->at++;
    }
    commit_starts(l, starts, n, now_ms);
    if (r->at == r->count) end_pass(l);
}

/* Milliseconds until it has something to do. */
int64_t retention_wait(struct log *l) {
    const struct retention *r = &l->retention;
    if (r->row) return r->moving >= MOVING_COMMITS ? 1000 : 0;
    int64_t left_us = r->next_us - env_mono_us(l->env);
    return left_us > 0 ? (left_us + 999) / 1000 : 0;
}

/* The log is thrown away. */
void retention_forget(struct log *l) {
    end_pass(l);
}

/* ---- a client moves the start ---- */

enum hf_err log_start_move(struct log *l, struct log_partition *p, int64_t offset, log_done *done,
                           void *arg) {
    if (offset < 0 || offset > p->high.offset) return HF_ERANGE;
    struct engine_low_water w = {hf_str_of(p->topic->name), p->number, offset};
    struct engine_commit c = {.now_ms = env_wall_ms(l->env), .low_waters = &w, .low_water_count = 1};
    return commit_start(l, &c, NULL, NULL, done, arg);
}
