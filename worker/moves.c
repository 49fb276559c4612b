/* A worker may be killed between a move and the commit that makes it settled; the next owner then moves the
 * message again. Through holdfast.delay that does no harm: the move has a name,
 *
 *     w/<group>/<origin>/<message id>/<attempt | dlq>                      the first life of a message
 *     w/<group>/<origin>/<message id>/replay-<n>/<attempt | dlq>           after its n-th replay
 *
 * and hf-on-conflict "once" ignores a name that is pending or remembered. Without a scheduler (plain Kafka)
 * the dead letter goes straight to its topic by an idempotent producer: then a kill in that window writes it
 * twice, with the same identity.
 *
 * Key, value and headers travel unchanged but for what the move itself sets, and for control headers, which
 * the scheduler would obey. Where the message came from is told once, by the first move, and kept by later
 * ones. */
#include "moves.h"

#include "base/control.h"
#include "base/names.h"
#include "dedup/dedup.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OWN_HEADERS = 16, HF_ID_BYTES_MAX = 1000 };

static const char *const own[] = {
    HF_HDR_MESSAGE_ID,    HF_HDR_ORIGIN,     HF_HDR_ATTEMPT,     HF_HDR_DLQ_TOPIC,
    HF_HDR_DLQ_PARTITION, HF_HDR_DLQ_OFFSET, HF_HDR_DLQ_GROUP,   HF_HDR_DLQ_DELIVERY_COUNT,
    HF_HDR_DLQ_MESSAGE,   HF_HDR_DLQ_REASON, HF_HDR_DLQ_REPLAYS, HF_HDR_DLQ_FIRST_FAILED_AT,
};

void move_fini(struct move *m) {
    free(m->headers);
    free(m->text);
}

static void add(struct move *m, const char *name, hf_str value) {
    m->headers[m->count++] = (hf_header){hf_str_of(name), value};
}

static HF_PRINTF(3, 4) void addf(struct move *m, const char *name, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *at = m->text + m->used;
    int n = vsnprintf(at, m->room - m->used, fmt, ap);
    va_end(ap);
    assert(n >= 0 && (size_t)n < m->room - m->used); /* room counts all texts below */
    m->used += (size_t)n + 1;
    add(m, name, hf_str_make(at, (size_t)n));
}

/* As the message has it from an earlier move, else ours. */
static void keep_or(struct move *m, const struct hf_delivery *d, const char *name, const char *fmt,
                    int64_t value) {
    hf_str had = hf_delivery_header(d, name);
    if (had.n > 0)
        add(m, name, had);
    else
        addf(m, name, fmt, value);
}

static void add_history(struct move *m, const struct hf_delivery *d, int64_t now_ms) {
    int64_t first = d->message.first_failed_s > 0 ? d->message.first_failed_s * 1000 : now_ms;
    hf_str topic = hf_delivery_header(d, HF_HDR_DLQ_TOPIC);
    add(m, HF_HDR_MESSAGE_ID, hf_str_of(d->message_id));
    add(m, HF_HDR_ORIGIN, hf_str_of(d->origin));
    add(m, HF_HDR_DLQ_TOPIC, topic.n ? topic : hf_str_of(d->topic));
    keep_or(m, d, HF_HDR_DLQ_PARTITION, "%" PRId64, d->partition);
    keep_or(m, d, HF_HDR_DLQ_OFFSET, "%" PRId64, d->message.offset);
    keep_or(m, d, HF_HDR_DLQ_REPLAYS, "%" PRId64, 0);
    addf(m, HF_HDR_DLQ_FIRST_FAILED_AT, "%" PRId64, first);
}

static void add_name(struct move *m, const struct hf_delivery *d, const char *group, const char *last) {
    char replay[32] = "", id[32];
    int64_t n = 0;
    if (hf_str_int(hf_delivery_header(d, HF_HDR_DLQ_REPLAYS), &n) == HF_OK && n > 0)
        snprintf(replay, sizeof replay, "/replay-%" PRId64, n);
    const char *message_id = d->message_id;
    if (strlen(group) + strlen(d->origin) + strlen(message_id) + 64 > HF_ID_BYTES_MAX) {
        snprintf(id, sizeof id, "#%016" PRIx64,
                 dedup_fingerprint(hf_str_of(d->origin), hf_str_of(message_id)));
        message_id = id;
    }
    addf(m, HF_HDR_ID, "w/%s/%s/%s%s/%s", group, d->origin, message_id, replay, last);
    add(m, HF_HDR_ON_CONFLICT, HF_STR("once"));
}

static bool is_ours(hf_str name, bool scheduled) {
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (hf_str_is(name, own[i])) return true;
    /* The scheduler stamps these anew; hf-due beside hf-delay would be refused. */
    if (scheduled && (hf_str_is(name, HF_HDR_DUE) || hf_str_is(name, HF_HDR_CREATED_AT))) return true;
    return hf_header_is_control(name);
}

static void add_rest(struct move *m, const struct hf_delivery *d, bool scheduled) {
    for (size_t i = 0; i < d->header_count; i++)
        if (!is_ours(d->headers[i].key, scheduled)) m->headers[m->count++] = d->headers[i];
}

static void add_dead(struct move *m, const struct hf_delivery *d, const char *group) {
    add(m, HF_HDR_DLQ_GROUP, hf_str_of(group));
    addf(m, HF_HDR_DLQ_DELIVERY_COUNT, "%" PRId32, d->judgement.attempts);
    add(m, HF_HDR_DLQ_REASON, hf_str_of(d->judgement.reason));
    if (d->text[0]) add(m, HF_HDR_DLQ_MESSAGE, hf_str_of(d->text));
}

enum hf_err move_compose(struct move *m, const struct hf_delivery *d, const char *group, enum move_kind kind,
                         bool scheduled, int64_t now_ms) {
    *m = (struct move){.room = strlen(group) + strlen(d->origin) + strlen(d->message_id) + 400};
    m->headers = calloc(d->header_count + OWN_HEADERS, sizeof *m->headers);
    m->text = malloc(m->room);
    if (!m->headers || !m->text) {
        move_fini(m);
        return HF_ENOMEM;
    }
    snprintf(m->topic, sizeof m->topic, "%s%s", kind == MOVE_DEAD ? HF_TOPIC_DLQ : HF_TOPIC_RETRY, group);
    if (scheduled) {
        char last[16] = "dlq";
        if (kind == MOVE_RETRY) snprintf(last, sizeof last, "%" PRId32, d->judgement.attempts);
        add(m, HF_HDR_TOPIC, hf_str_of(m->topic));
        addf(m, HF_HDR_DELAY, "%" PRId64, kind == MOVE_RETRY ? d->judgement.delay_ms : 0);
        add_name(m, d, group, last);
    }
    add_history(m, d, now_ms);
    if (kind == MOVE_DEAD)
        add_dead(m, d, group);
    else
        addf(m, HF_HDR_ATTEMPT, "%" PRId32, d->judgement.attempts);
    add_rest(m, d, scheduled);
    m->record = (struct client_record){.topic = scheduled ? HF_TOPIC_DELAY : m->topic,
                                       .partition = -1,
                                       .key = d->message.key,
                                       .value = d->value,
                                       .headers = m->headers,
                                       .header_count = m->count,
                                       .move = scheduled};
    return HF_OK;
}
