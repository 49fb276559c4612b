/* One batch comes in.
 *
 * Everything that can be refused is refused before an offset is assigned: form, size, a producer's sequence,
 * room on the disk [L15], memory. The batch gets its offset and epoch (and on LogAppendTime topics its time)
 * and is written behind the end of the segment. If that fails, any part of it may be there, all of it too,
 * and a recovery would keep that: so it can be neither refused nor acknowledged, and the log has failed
 * [L12]. From there nothing fails: the batch either has what was asked for or stands in its partition's row.
 *
 * acks≤1 costs one write to the page cache. Only now and then it asks the journal for a higher ceiling, ahead
 * of need [L6]. */
#include "log_internal.h"

enum { SPACE_EVERY_US = 1000000, SPACE_EVERY_BYTES = 16 << 20 };

static void answered(struct completion *c, bool tell) {
    struct pending *w = (struct pending *)c;
    log_append_done *done = w->done;
    void *arg = w->arg;
    struct log_appended result = w->result;
    pending_free(w);
    if (tell && done) done(arg, &result);
}

/* ---- space ---- */

/* Whether clients' appends must stop. The file system is asked now and then. */
static bool below_reserve(struct log *l, size_t n) {
    int64_t now = env_mono_us(l->env);
    l->free_used += n;
    if (now - l->free_checked_us >= SPACE_EVERY_US || l->free_used >= SPACE_EVERY_BYTES ||
        l->free_bytes < l->o.reserve_bytes + n) {
        uint64_t bytes;
        if (env_space(l->env, &bytes) == HF_OK) l->free_bytes = bytes;
        l->free_checked_us = now;
        l->free_used = 0;
    }
    return l->free_bytes < l->o.reserve_bytes + l->free_used + n;
}

/* ---- ceilings ---- */

static void ask_ceiling(struct log_partition *p) {
    int64_t end = p->end.offset;
    if (end <= p->ceiling_asked - LOG_CEILING_STEP / 2) return;
    p->ceiling_asked = end + LOG_CEILING_STEP;
    if (p->asking) return;
    p->asking = true;
    partition_ref(p);
    p->asking_next = p->log->ceilings;
    p->log->ceilings = p;
}

/* ---- the batch ---- */

static enum hf_err judge(struct log *l, struct log_partition *p, const uint8_t *batch, size_t n,
                         struct batch_info *b) {
    if (l->failed) return l->failed;
    if (l->closing) return HF_ECLOSED;
    if (p->gone || p->topic->phase != TOPIC_LIVE) return HF_ENOTFOUND;
    if (n > p->topic->config.message_max) return HF_ELIMIT;
    if (p->topic->config.internal && n + GROUP_HEADER > journal_payload_max(l)) return HF_ELIMIT;
    enum hf_err e = batch_parse(batch, n, b);
    if (e) return e == HF_EEND ? HF_EINVAL : e;
    if (b->size != n) return HF_EINVAL;
    return l->waiting >= LOG_WAITING_MAX || segments_crowded(p) ? HF_EAGAIN : HF_OK;
}

/* Fields that the log fills in. */
static void stamp(struct log_partition *p, uint8_t *batch, struct batch_info *b) {
    struct topic *t = p->topic;
    if (t->config.internal || t->config.append_time) {
        int64_t now = log_time_ms(p->log);
        if (now < p->last_time_ms) now = p->last_time_ms;
        if (t->config.internal) {
            if (now < t->last_time_ms) now = t->last_time_ms;
            hf_put_be64(batch + 27, t->next_sequence); /* baseTimestamp: docs/storage.md */
            t->next_sequence += (uint64_t)b->last_offset_delta + 1;
        }
        batch_set_append_time(batch, now);
        b->max_timestamp = now;
        b->attributes |= BATCH_ATTR_APPEND_TIME;
    }
    batch_set_place(batch, p->end.offset, partition_epoch(p));
}

static enum pending_kind kind_of(const struct log_partition *p, enum log_ack ack) {
    return ack == LOG_ACK_DURABLE || p->topic->config.internal ? PENDING_DURABLE : PENDING_WRITTEN;
}

static void wait_or_go(struct log_partition *p, struct pending *w) {
    bool now =
        w->kind == PENDING_WRITTEN && (!p->parts || hf_mutate(4)) && (p->ceiling >= w->end || hf_mutate(5));
    if (now)
        log_ready(p->log, &w->c);
    else
        partition_wait(p, w);
    if (w->kind == PENDING_DURABLE) partition_want(p, w->need);
    if (w->kind == PENDING_WRITTEN) ask_ceiling(p);
    partition_settle(p);
}

/* The original is there: its offset is the answer, when it is as safe as this retry asks. */
static enum hf_err answer_duplicate(struct log_partition *p, const struct producer_verdict *v,
                                    enum pending_kind kind, log_append_done *done, void *arg) {
    struct pending *w = pending_new(p->log);
    if (!w) return HF_ENOMEM;
    w->c.run = answered;
    w->kind = kind;
    w->done = done;
    w->arg = arg;
    w->result = (struct log_appended){
        .base_offset = v->base, .append_time_ms = -1, .log_start = p->start, .duplicate = true};
    if (p->topic->config.internal || p->topic->config.append_time) w->result.append_time_ms = v->timestamp;
    w->at = p->end;
    w->need = w->end = v->last + 1;
    w->time_ms = p->last_time_ms;
    wait_or_go(p, w);
    return HF_OK;
}

static void place(struct log_partition *p, uint8_t *batch, struct batch_info *b, struct pending *w) {
    stamp(p, batch, b);
    enum hf_err e = segment_write(p->end.seg, p->end.pos, batch, b->size);
    if (e) log_fail(p->log, e, "write of a segment");
    w->at = p->end;
    w->need = w->end = p->end.offset + b->last_offset_delta + 1;
    w->result = (struct log_appended){
        .base_offset = p->end.offset,
        .append_time_ms = b->attributes & BATCH_ATTR_APPEND_TIME ? b->max_timestamp : -1,
        .log_start = p->start,
    };
    w->time_ms = b->max_timestamp;
    if (b->producer_id >= 0) producer_took(p, b, p->end.offset);
    partition_took(p, batch, b, w->end - 1);
    p->log->stats.appended_batches++;
    p->log->stats.appended_bytes += b->size;
}

enum hf_err log_append(struct log *l, struct log_partition *p, uint8_t *batch, size_t n, enum log_ack ack,
                       log_append_done *done, void *arg) {
    struct batch_info b;
    enum hf_err e = judge(l, p, batch, n, &b);
    if (e) return e;
    enum pending_kind kind = kind_of(p, ack);
    struct producer_verdict v = {0};
    if (b.producer_id >= 0) {
        e = producer_judge(p, &b, &v);
        if (e) return e;
        if (v.duplicate) return answer_duplicate(p, &v, kind, done, arg);
        e = producer_room(p, b.producer_id);
        if (e) return e;
    }
    if (below_reserve(l, n)) return HF_ENOSPC;
    e = partition_room(p, n, (int64_t)b.last_offset_delta + 1);
    if (e) return e;
    struct pending *w = pending_new(l);
    if (!w) return HF_ENOMEM;
    w->c.run = answered;
    w->kind = kind;
    w->done = done;
    w->arg = arg;
    place(p, batch, &b, w);
    wait_or_go(p, w);
    return HF_OK;
}
