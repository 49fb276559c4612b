#include "delay_wait.h"

#include "base/names.h"

#include <stdlib.h>
#include <utlist.h>

enum { RECORD_MAX = 64 << 20 }; /* of a batch with one record */

static size_t how_many(const struct delay *d, const struct delay_wait_kind *kind) {
    size_t n = 0;
    const struct delay_wait *w;
    DL_FOREACH (d->waits, w) n += w->kind == kind;
    return n;
}

struct delay_wait *delay_wait_begin(struct delay *d, struct broker_http *rq,
                                    const struct delay_wait_kind *kind) {
    if (how_many(d, kind) == kind->most) {
        delay_reply_error(rq, 503, kind->too_many);
        return NULL;
    }
    struct delay_wait *w = calloc(1, kind->size);
    if (!w) {
        delay_reply_failure(rq, HF_ENOMEM);
        return NULL;
    }
    w->d = d;
    w->rq = rq;
    w->kind = kind;
    w->until_ms = env_mono_us(d->server->env) / 1000 + kind->wait_ms;
    w->offset = -1;
    DL_APPEND(d->waits, w);
    return w;
}

void delay_wait_end(struct delay_wait *w) {
    DL_DELETE(w->d->waits, w);
    if (w->kind->fini) w->kind->fini(w);
    free(w);
}

static void appended(void *arg, const struct log_appended *result) {
    struct delay_wait *w = arg;
    w->appending = false;
    w->failed = result->e;
    w->offset = result->base_offset;
}

enum hf_err delay_wait_append(struct delay_wait *w, struct batch_builder *b) {
    struct log *log = w->d->server->log;
    struct log_partition *p = log_partition(log, HF_STR(HF_TOPIC_DELAY), 0);
    hf_str bytes;
    enum hf_err e = p ? batch_builder_finish(b, &bytes) : HF_ENOTFOUND;
    if (!e) e = log_append(log, p, b->buf.p, bytes.n, LOG_ACK_DURABLE, appended, w);
    w->appending = !e;
    return e;
}

enum hf_err delay_wait_append_one(struct delay_wait *w, delay_build *build, void *arg) {
    struct batch_builder b;
    batch_builder_init(&b, RECORD_MAX);
    batch_builder_begin(&b, env_wall_ms(w->d->server->env));
    enum hf_err e = build(arg, &b);
    if (!e) e = delay_wait_append(w, &b);
    batch_builder_fini(&b);
    return e;
}

void delay_wait_send(struct delay_wait *w, delay_build *build, void *arg) {
    enum hf_err e = delay_wait_append_one(w, build, arg);
    if (!e) return;
    delay_reply_failure(w->rq, e);
    delay_wait_end(w);
}

enum hf_err delay_wait_outcome(const struct delay_wait *w, int64_t i, enum schedule_outcome *out) {
    return schedule_outcome_of(w->d->schedule, 0, w->offset + i, out);
}

/* True: answered. */
static bool step(struct delay_wait *w, int64_t mono_ms) {
    if (w->failed) {
        delay_reply_failure(w->rq, w->failed);
        return true;
    }
    if (w->kind->go_on(w)) return true;
    if (w->appending || mono_ms < w->until_ms) return false;
    if (w->offset < 0)
        delay_reply_error(w->rq, 503, "the schedule is still reading what was accepted: ask again");
    else
        delay_reply_error(w->rq, 504, w->kind->late);
    return true;
}

void delay_waits_step(struct delay *d, int64_t mono_ms) {
    struct delay_wait *w, *next;
    DL_FOREACH_SAFE(d->waits, w, next) {
        if (!w->appending && step(w, mono_ms)) delay_wait_end(w);
    }
}

bool delay_waits_append(const struct delay *d) {
    const struct delay_wait *w;
    DL_FOREACH (d->waits, w) {
        if (w->appending) return true;
    }
    return false;
}

void delay_waits_forget(struct delay *d) {
    while (d->waits) delay_wait_end(d->waits);
}
