/* Limits: how many messages may pend, and how many bytes, in all and for each destination.
 *
 *     schedule.pending.max, schedule.pending.bytes, schedule.topic.pending.max, schedule.topic.pending.bytes
 *
 * The door asks before a batch enters the log. Past a limit its producer gets an error that every client
 * tries again after a pause; batches for other destinations, cancels, moves, next runs of recurring schedules
 * and what fires are not touched. A decided transaction is not refused either: its messages are asked about
 * when they are prepared.
 *
 * The schedule knows what pends of what it has read (schedule_pending); what has been admitted and not been
 * read yet must count, too, or a fast producer gets past any limit. An admitted record may still come to
 * nothing (a later one of its batch is refused, its producer is fenced, it was sent twice), so nobody can say
 * when to take it off again; instead everything admitted is forgotten when all that could have come of it has
 * been read, in two turns:
 *
 *     now       admitted in this turn
 *     before    admitted in the turn before: lies below `boundary`, the end of the log when this turn began
 *
 * When the schedule has read up to the boundary, `before` is forgotten, and the next turn begins. So for some
 * milliseconds a record may count twice, never not at all: near a limit a batch may be refused that would
 * have had room, and comes again.
 *
 * A limit is never passed by clients of the door. Counts are by destination only if one is limited. */
#include "delay_internal.h"

#include "base/names.h"

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include <inttypes.h>
#include <stdlib.h>

enum { SWEEP_ABOVE = 1024 };

struct incoming { /* of one destination */
    UT_hash_handle hh;
    uint64_t turn; /* of `now` */
    struct schedule_pending now, before;
    size_t n;
    char topic[];
};

static void add(struct schedule_pending *to, const struct schedule_pending *what) {
    to->messages += what->messages;
    to->bytes += what->bytes;
}

/* What an entry says may be of an earlier turn. */
static void bring_up_to(struct incoming *i, uint64_t turn) {
    static const struct schedule_pending none;
    if (i->turn == turn) return;
    i->before = i->turn + 1 == turn ? i->now : none;
    i->now = none;
    i->turn = turn;
}

static struct incoming *incoming_of(struct delay_limits *l, hf_str topic) {
    struct incoming *i;
    HASH_FIND(hh, l->topics, topic.p, topic.n, i);
    if (!i) {
        i = calloc(1, sizeof(*i) + topic.n);
        if (!i) return NULL;
        i->turn = l->turn;
        i->n = topic.n;
        memcpy(i->topic, topic.p, topic.n);
        HASH_ADD_KEYPTR(hh, l->topics, i->topic, i->n, i);
        if (!i->hh.tbl) {
            free(i);
            return NULL;
        }
    }
    bring_up_to(i, l->turn);
    return i;
}

/* ---- the question ---- */

struct limit {
    uint64_t messages, bytes; /* 0: none */
    const char *setting;      /* the beginning of its name */
};

static bool is_past(struct delay *d, const struct limit *limit, struct schedule_pending p, hf_str topic) {
    bool many = limit->messages && p.messages > limit->messages;
    bool large = limit->bytes && p.bytes > limit->bytes;
    if (!many && !large) return false;
    (void)snprintf(d->why, sizeof(d->why), "no room now: %s.%s is %" PRIu64 " and would be passed%s%.*s",
                   limit->setting, many ? "max" : "bytes", many ? limit->messages : limit->bytes,
                   topic.n ? " for " : "", (int)topic.n, topic.n ? topic.p : "");
    return true;
}

static struct schedule_pending sum(const struct delay *d, hf_str topic, const struct schedule_pending *now,
                                   const struct schedule_pending *before,
                                   const struct schedule_pending *more) {
    struct schedule_pending p = schedule_pending(d->schedule, topic);
    add(&p, now);
    add(&p, before);
    add(&p, more);
    return p;
}

enum hf_err delay_limits_admit(struct delay *d, hf_str topic, size_t bytes) {
    const struct server_settings *s = d->server->settings;
    struct delay_limits *l = &d->limits;
    const struct schedule_pending one = {1, bytes};
    const struct limit all = {(uint64_t)s->pending_max, (uint64_t)s->pending_bytes, "schedule.pending"};
    const struct limit each = {(uint64_t)s->topic_pending_max, (uint64_t)s->topic_pending_bytes,
                               "schedule.topic.pending"};
    const hf_str none = {NULL, 0};
    bool past = is_past(d, &all, sum(d, none, &l->now, &l->before, &one), none);
    struct incoming *i = NULL;
    if (!past && (each.messages || each.bytes)) {
        i = incoming_of(l, topic);
        past = !i || is_past(d, &each, sum(d, topic, &i->now, &i->before, &one), topic);
        if (!i) (void)snprintf(d->why, sizeof(d->why), "no memory now");
    }
    if (past) {
        d->refused++;
        return HF_EAGAIN;
    }
    add(&l->now, &one);
    if (i) add(&i->now, &one);
    return HF_OK;
}

/* ---- turns ---- */

static void forget_topics(struct delay_limits *l, bool all) {
    for (struct incoming *i = l->topics, *next; i; i = next) {
        next = i->hh.next;
        bool stale = i->turn + 1 < l->turn;
        if (!stale && !all) continue;
        HASH_DEL(l->topics, i);
        free(i);
    }
}

void delay_limits_step(struct delay *d) {
    struct delay_limits *l = &d->limits;
    if (l->now.messages + l->before.messages == 0) return;
    struct log_partition *p = log_partition(d->server->log, HF_STR(HF_TOPIC_DELAY), 0);
    if (!p || schedule_read_offset(d->schedule, 0) < l->boundary) return;
    struct log_bounds bounds;
    log_bounds(p, &bounds);
    l->boundary = bounds.end;
    l->before = l->now;
    l->now = (struct schedule_pending){0, 0};
    l->turn++;
    if (HASH_COUNT(l->topics) > SWEEP_ABOVE) forget_topics(l, false);
}

void delay_limits_fini(struct delay *d) {
    forget_topics(&d->limits, true);
}
