/* A message goes one of two ways: straight to its topic, or, if it has a delay, a due time or an id, to
 * holdfast.delay with its destination in headers. Half messages and decisions go to holdfast.txn, where the
 * record's key is the transaction's id and the message's own key travels as hf-key.
 *
 * What is wrong in form is refused here, with the field's name, before a byte is sent: librdkafka drops the
 * server's text for a refused record, so this is the user's only chance to learn which header was meant.
 *
 * Headers of ours come first, then the caller's in their order. A caller's hf- header is refused: it could
 * contradict ours, and copying headers from an input to an output must not copy the input's identity. */
#include "compose.h"

#include "base/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum hf_err compose_init(struct composed *c, size_t headers) {
    hf_header *h = calloc(headers + COMPOSE_OWN_HEADERS, sizeof *h);
    if (!h) return client_error(HF_ENOMEM, "message: %s", hf_err_text(HF_ENOMEM));
    *c = (struct composed){.headers = h, .room = headers + COMPOSE_OWN_HEADERS};
    c->record.partition = -1;
    return HF_OK;
}

void compose_fini(struct composed *c) {
    free(c->headers);
    c->headers = NULL;
}

static void add(struct composed *c, const char *name, hf_str value) {
    if (c->count == c->room) abort(); /* COMPOSE_OWN_HEADERS is the number of add() calls on any path */
    c->headers[c->count++] = (hf_header){hf_str_of(name), value};
}

static void add_text(struct composed *c, const char *name, const char *value) {
    if (value) add(c, name, hf_str_of(value));
}

static void add_int(struct composed *c, const char *name, int64_t value) {
    char *at = c->text + c->text_used;
    int n = snprintf(at, sizeof c->text - c->text_used, "%" PRId64, value);
    c->text_used += (size_t)n + 1;
    add(c, name, hf_str_make(at, (size_t)n));
}

static void add_level(struct composed *c, int32_t level) {
    char *at = c->text + c->text_used;
    int n = snprintf(at, sizeof c->text - c->text_used, "level%" PRId32, level);
    c->text_used += (size_t)n + 1;
    add(c, HF_HDR_DELAY, hf_str_make(at, (size_t)n));
}

static bool has_time(const hf_message *m) {
    return m->delay_ms > 0 || m->due_ms > 0 || m->delay_level > 0 || m->cron;
}

static enum hf_err check_headers(const hf_message *m) {
    if (m->header_count > 0 && !m->headers)
        return client_error(HF_EINVAL, "message to \"%s\": header_count without headers", m->topic);
    for (size_t i = 0; i < m->header_count; i++) {
        hf_str name = m->headers[i].key;
        if (name.n == 0)
            return client_error(HF_EINVAL, "message to \"%s\": header %zu has no name", m->topic, i);
        if (hf_str_starts(name, HF_STR("hf-")) && !hf_str_is(name, HF_HDR_VERSION))
            return client_error(HF_EINVAL,
                                "message to \"%s\": header \"%.*s\": names that begin with hf- are set by "
                                "the message's fields",
                                m->topic, (int)name.n, name.p);
    }
    return HF_OK;
}

static enum hf_err check_message(const hf_message *m) {
    if (!m || !m->topic) return client_error(HF_EINVAL, "message: topic is missing");
    hf_str topic = hf_str_of(m->topic);
    if (!hf_topic_name_ok(topic))
        return client_error(HF_EINVAL,
                            "message: topic \"%s\": 1 to %d of letters, digits, '.', '_' and '-' are allowed",
                            m->topic, HF_TOPIC_NAME_MAX);
    if (hf_topic_is_ours(topic))
        return client_error(
            HF_EINVAL, "message: topic \"%s\" belongs to the server; use delay_ms, due_ms or hf_transact",
            m->topic);
    if (m->delay_ms < 0 || m->due_ms < 0 || (m->delay_ms > 0 && m->due_ms > 0))
        return client_error(HF_EINVAL,
                            "message to \"%s\": delay_ms and due_ms: one of them at most, and not negative",
                            m->topic);
    if (m->delay_level < 0 || (m->delay_level > 0 && (m->delay_ms > 0 || m->due_ms > 0)))
        return client_error(
            HF_EINVAL, "message to \"%s\": delay_level, delay_ms and due_ms: one of them at most", m->topic);
    if (m->cron && (!m->id || m->delay_ms > 0 || m->due_ms > 0 || m->delay_level > 0))
        return client_error(HF_EINVAL, "message to \"%s\": cron needs an id, and no time of its own",
                            m->topic);
    if (!m->cron && (m->tz || m->cron_group))
        return client_error(HF_EINVAL, "message to \"%s\": tz and cron_group go with cron", m->topic);
    if ((unsigned)m->on_conflict > HF_CONFLICT_ONCE || (m->on_conflict != HF_CONFLICT_REPLACE && !m->id))
        return client_error(HF_EINVAL, "message to \"%s\": on_conflict: replace, keep or once, with an id",
                            m->topic);
    if (m->partition < 0)
        return client_error(HF_EINVAL, "message to \"%s\": partition: use HF_PARTITION(n)", m->topic);
    if ((m->id && !*m->id) || (m->message_id && !*m->message_id))
        return client_error(HF_EINVAL, "message to \"%s\": an id or message_id that is empty", m->topic);
    return check_headers(m);
}

/* What holdfast.delay and holdfast.txn have in common: destination and time. */
static void add_destination(struct composed *c, const hf_message *m) {
    static const char *const conflict[] = {NULL, "keep", "once"};
    add_text(c, HF_HDR_TOPIC, m->topic);
    if (m->due_ms > 0) add_int(c, HF_HDR_DUE, m->due_ms);
    if (m->delay_ms > 0) add_int(c, HF_HDR_DELAY, m->delay_ms);
    if (m->delay_level > 0) add_level(c, m->delay_level);
    if (m->partition > 0) add_int(c, HF_HDR_PARTITION, m->partition - 1);
    add_text(c, HF_HDR_ID, m->id);
    if (m->id) add_text(c, HF_HDR_ON_CONFLICT, conflict[m->on_conflict]);
    add_text(c, HF_HDR_CRON, m->cron);
    add_text(c, HF_HDR_TZ, m->tz);
    if (m->cron_group) {
        add_text(c, HF_HDR_OVERLAP, "skip");
        add_text(c, HF_HDR_GROUP, m->cron_group);
    }
}

static void add_callers(struct composed *c, const hf_message *m) {
    for (size_t i = 0; i < m->header_count; i++) c->headers[c->count++] = m->headers[i];
    c->record.headers = c->headers;
    c->record.header_count = c->count;
}

enum hf_err compose_message(struct composed *out, const hf_message *m) {
    enum hf_err e = check_message(m);
    if (!e) e = compose_init(out, m->header_count);
    if (e) return e;
    out->record.key = m->key;
    out->record.value = m->value;
    if (has_time(m) || m->id) {
        out->record.topic = HF_TOPIC_DELAY;
        out->record.move = true;
        add_destination(out, m);
        if (!has_time(m)) add_int(out, HF_HDR_DELAY, 0);
    } else {
        out->record.topic = m->topic;
        out->record.partition = m->partition - 1;
    }
    add_text(out, HF_HDR_MESSAGE_ID, m->message_id);
    add_callers(out, m);
    return HF_OK;
}

static enum hf_err compose_txn(struct composed *out, const char *group, const char *id, const char *op,
                               size_t headers) {
    if (!id || !*id) return client_error(HF_EINVAL, "transaction: the id is missing");
    enum hf_err e = compose_init(out, headers);
    if (e) return e;
    out->record.topic = HF_TOPIC_TXN;
    out->record.move = true;
    out->record.key = hf_str_of(id);
    add_text(out, HF_HDR_OP, op);
    add_text(out, HF_HDR_GROUP, group);
    out->record.headers = out->headers;
    out->record.header_count = out->count;
    return HF_OK;
}

enum hf_err compose_half(struct composed *out, const char *group, const char *id, const hf_message *m,
                         const char *message_id, int64_t check_after_ms) {
    enum hf_err e = check_message(m);
    if (!e && m->cron)
        e = client_error(HF_EINVAL, "transaction \"%s\": a recurring schedule cannot be part of it", id);
    if (!e) e = compose_txn(out, group, id, "prepare", m->header_count);
    if (e) return e;
    out->record.value = m->value;
    add_destination(out, m);
    if (m->key.p) add(out, HF_HDR_KEY, m->key);
    if (check_after_ms > 0) add_int(out, HF_HDR_CHECK_AFTER, check_after_ms);
    add_text(out, HF_HDR_MESSAGE_ID, m->message_id ? m->message_id : message_id);
    add_callers(out, m);
    return HF_OK;
}

enum hf_err compose_decision(struct composed *out, const char *group, const char *id, bool commit) {
    return compose_txn(out, group, id, commit ? "commit" : "rollback", 0);
}

enum hf_err compose_cancel(struct composed *out, const char *topic, const char *id) {
    if (!topic || !id || !*id) return client_error(HF_EINVAL, "cancel: topic and id are required");
    enum hf_err e = compose_init(out, 0);
    if (e) return e;
    out->record.topic = HF_TOPIC_DELAY;
    out->record.move = true;
    add_text(out, HF_HDR_OP, "cancel");
    add_text(out, HF_HDR_TOPIC, topic);
    add_text(out, HF_HDR_ID, id);
    out->record.headers = out->headers;
    out->record.header_count = out->count;
    return HF_OK;
}
