/* The edge to Kafka: a member of the group that fetches into the core, commits what the core says, and gives
 * partitions up in an orderly way.
 *
 * Both rebalance protocols are served. Cooperative-sticky, under which partitions that stay go on, is the
 * default where librdkafka has it right; before 2.3 a member that leaves before its first assignment aborts
 * the process (its issue 4312), so there the default is round robin. All members of a group must use the
 * same.
 *
 * The rebalance callback runs inside consumer_poll, on the run thread. Assigned: the committed offset and its
 * metadata are read, so that the core knows what is settled above. Revoked: what runs is drained up to a
 * limit while the rest goes on, then positions are committed, then the partition is given back. Lost:
 * everything runs on as orphans and nothing is committed, since somebody else owns it already.
 *
 * Commits are asynchronous and carry the whole state, so a lost one is made good by the next; one that failed
 * marks its partition as changed. */
#include "worker_internal.h"

#include "base/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COMMITTED_TIMEOUT_MS = 5000, FETCH_TURN = 500, COOPERATIVE_SINCE = 0x02030000 };

/* ---- assignment ---- */

static void assign_parts(hf_worker *w, rd_kafka_topic_partition_list_t *list) {
    rd_kafka_resp_err_t err = rd_kafka_committed(w->consumer, list, COMMITTED_TIMEOUT_MS);
    if (err)
        worker_log(w, 1, "committed_unknown",
                   "why=\"%s\" note=\"goes on without what was settled above the offset\"",
                   rd_kafka_err2str(err));
    for (int i = 0; i < list->cnt; i++) {
        rd_kafka_topic_partition_t *p = &list->elems[i];
        int64_t at = !err && !p->err && p->offset >= 0 ? p->offset : -1;
        struct core_part *part;
        if (core_assign(w->core, p->topic, p->partition, at, at < 0 ? "" : p->metadata,
                        at < 0 ? 0 : p->metadata_size, &part)) {
            w->failed = HF_ENOMEM;
            snprintf(w->failed_text, sizeof w->failed_text, "assignment: %s", hf_err_text(HF_ENOMEM));
        }
        p->offset = at < 0 ? RD_KAFKA_OFFSET_INVALID : at; /* invalid: the library asks again, then resets */
        worker_log(w, 2, "assigned", "topic=%s partition=%" PRId32 " position=%" PRId64, p->topic,
                   p->partition, at);
    }
}

static void on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t err, rd_kafka_topic_partition_list_t *list,
                         void *opaque) {
    hf_worker *w = opaque;
    bool cooperative = strcmp(rd_kafka_rebalance_protocol(rk), "COOPERATIVE") == 0;
    rd_kafka_error_t *e = NULL;
    rd_kafka_resp_err_t r = RD_KAFKA_RESP_ERR_NO_ERROR;
    if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
        assign_parts(w, list);
        if (cooperative)
            e = rd_kafka_incremental_assign(rk, list);
        else
            r = rd_kafka_assign(rk, list);
    } else {
        worker_give_up(w, list, rd_kafka_assignment_lost(rk));
        if (cooperative)
            e = rd_kafka_incremental_unassign(rk, list);
        else
            r = rd_kafka_assign(rk, NULL);
    }
    if (e || r)
        worker_log(w, 0, "assignment_failed", "why=\"%s\"",
                   e ? rd_kafka_error_string(e) : rd_kafka_err2str(r));
    rd_kafka_error_destroy(e);
}

/* ---- fetching ---- */

/* *out is to be freed; NULL without headers. false: out of memory. */
static bool headers_of(const rd_kafka_message_t *m, hf_header **out, size_t *count) {
    rd_kafka_headers_t *h;
    *out = NULL;
    *count = 0;
    if (rd_kafka_message_headers(m, &h)) return true;
    size_t n = rd_kafka_header_cnt(h);
    *out = calloc(n ? n : 1, sizeof **out);
    if (!*out) return false;
    for (size_t i = 0; i < n; i++) {
        const char *name;
        const void *value;
        size_t size;
        if (rd_kafka_header_get_all(h, i, &name, &value, &size)) break;
        (*out)[i] = (hf_header){hf_str_of(name), hf_str_make(value, size)};
        *count = i + 1;
    }
    return true;
}

static struct hf_delivery *delivery_from(hf_worker *w, const rd_kafka_message_t *m) {
    size_t count;
    hf_header *headers;
    if (!headers_of(m, &headers, &count)) return NULL;
    struct delivery_source s = {.topic = rd_kafka_topic_name(m->rkt),
                                .partition = m->partition,
                                .offset = m->offset,
                                .timestamp_ms = rd_kafka_message_timestamp(m, NULL),
                                .key = hf_str_make(m->key, m->key_len),
                                .value = hf_str_make(m->payload, m->len),
                                .headers = headers,
                                .header_count = count,
                                .retry_topic = w->retry_topic};
    struct hf_delivery *d = delivery_new(&s);
    if (d) d->worker = w;
    free(headers);
    return d;
}

/* The topic was deleted and created again: what is held belongs to a log that is gone. */
static struct core_part *begin_anew(hf_worker *w, const rd_kafka_message_t *m) {
    const char *topic = rd_kafka_topic_name(m->rkt);
    worker_log(w, 1, "log_was_reset", "topic=%s partition=%" PRId32 " offset=%" PRId64, topic, m->partition,
               m->offset);
    rd_kafka_topic_partition_list_t *one = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(one, topic, m->partition);
    worker_give_up(w, one, true);
    rd_kafka_topic_partition_list_destroy(one);
    struct core_part *part;
    return core_assign(w->core, topic, m->partition, m->offset, "", 0, &part) == HF_OK ? part : NULL;
}

static void take(hf_worker *w, const rd_kafka_message_t *m) {
    struct core_part *part = core_find(w->core, rd_kafka_topic_name(m->rkt), m->partition);
    if (!part) return; /* fetched before the partition was given up */
    if (core_behind(part, m->offset)) part = begin_anew(w, m);
    if (part && !core_wanted(part, m->offset)) return;
    struct hf_delivery *d = part ? delivery_from(w, m) : NULL;
    if (d && core_add(w->core, part, &d->message) == HF_OK) return;
    /* Out of memory: to go on would pass over this message, and so would a commit. */
    delivery_free(d);
    if (part) core_not_taken(part, m->offset);
    w->failed = HF_ENOMEM;
    snprintf(w->failed_text, sizeof w->failed_text, "fetch from %s: %s", rd_kafka_topic_name(m->rkt),
             hf_err_text(HF_ENOMEM));
}

static void tell_error(hf_worker *w, const rd_kafka_message_t *m) {
    if (m->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || m->err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC) {
        worker_log(w, 3, "topic_missing", "topic=%s", m->rkt ? rd_kafka_topic_name(m->rkt) : "?");
        return;
    }
    worker_log(w, 1, "consumer_error", "why=\"%s: %s\"", rd_kafka_err2str(m->err),
               rd_kafka_message_errstr(m));
}

bool consumer_poll(hf_worker *w) {
    int taken = 0;
    for (rd_kafka_message_t *m; taken < FETCH_TURN && (m = rd_kafka_consumer_poll(w->consumer, 0)); taken++) {
        if (m->err)
            tell_error(w, m);
        else
            take(w, m);
        rd_kafka_message_destroy(m);
        if (w->failed) break;
    }
    char text[256];
    rd_kafka_resp_err_t fatal = rd_kafka_fatal_error(w->consumer, text, sizeof text);
    if (fatal && !w->failed) {
        w->failed = HF_EFENCED;
        snprintf(w->failed_text, sizeof w->failed_text, "group \"%s\": %s", w->options.group, text);
    }
    return taken == FETCH_TURN;
}

/* ---- back-pressure ---- */

void consumer_throttle(hf_worker *w) {
    for (struct core_part *p = core_first(w->core); p; p = core_next_part(p)) {
        bool full = core_full(p);
        if (full == core_paused(p)) continue;
        rd_kafka_topic_partition_list_t *one = rd_kafka_topic_partition_list_new(1);
        rd_kafka_topic_partition_list_add(one, core_part_topic(p), core_part_number(p));
        rd_kafka_resp_err_t e =
            full ? rd_kafka_pause_partitions(w->consumer, one) : rd_kafka_resume_partitions(w->consumer, one);
        if (!e && !one->elems[0].err) core_set_paused(p, full);
        rd_kafka_topic_partition_list_destroy(one);
    }
}

/* ---- committing ---- */

static void add_position(rd_kafka_topic_partition_list_t *list, struct core_part *p) {
    char text[MARKS_TEXT_SIZE];
    int64_t offset;
    if (!core_dirty(p) || !core_position(p, &offset, text)) return;
    rd_kafka_topic_partition_t *t =
        rd_kafka_topic_partition_list_add(list, core_part_topic(p), core_part_number(p));
    t->offset = offset;
    size_t n = strlen(text);
    if (n == 0 || !(t->metadata = malloc(n)))
        return; /* freed by the list; without it settled ones run again */
    memcpy(t->metadata, text, n);
    t->metadata_size = n;
}

static void on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t err, rd_kafka_topic_partition_list_t *list,
                      void *opaque) {
    (void)rk;
    hf_worker *w = opaque;
    for (int i = 0; list && i < list->cnt; i++) {
        rd_kafka_topic_partition_t *t = &list->elems[i];
        if (!err && !t->err) continue;
        struct core_part *p = core_find(w->core, t->topic, t->partition);
        if (p) core_touch(p);
        worker_log(w, 3, "commit_failed", "topic=%s partition=%" PRId32 " why=\"%s\"", t->topic, t->partition,
                   rd_kafka_err2str(err ? err : t->err));
    }
}

void consumer_commit(hf_worker *w, bool wait) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(8);
    for (struct core_part *p = core_first(w->core); p; p = core_next_part(p)) add_position(list, p);
    if (list->cnt > 0) {
        rd_kafka_resp_err_t e = rd_kafka_commit(w->consumer, list, wait ? 0 : 1);
        if (e) on_commit(w->consumer, e, list, w);
    }
    rd_kafka_topic_partition_list_destroy(list);
}

/* ---- opening ---- */

static enum hf_err create(hf_worker *w) {
    char session[24], heartbeat[24];
    bool cooperative = rd_kafka_version() >= COOPERATIVE_SINCE;
    snprintf(session, sizeof session, "%" PRId64, w->options.session_ms);
    snprintf(heartbeat, sizeof heartbeat, "%" PRId64, w->options.heartbeat_ms);
    const char *const pairs[] = {"group.id",
                                 w->options.group,
                                 "enable.auto.commit",
                                 "false",
                                 "enable.auto.offset.store",
                                 "false",
                                 "auto.offset.reset",
                                 w->options.from_latest ? "latest" : "earliest",
                                 "allow.auto.create.topics",
                                 "false",
                                 "topic.metadata.refresh.interval.ms",
                                 "2000",
                                 "partition.assignment.strategy",
                                 cooperative ? "cooperative-sticky" : "roundrobin",
                                 "session.timeout.ms",
                                 session,
                                 "heartbeat.interval.ms",
                                 heartbeat,
                                 "queued.min.messages",
                                 "2000",
                                 "queued.max.messages.kbytes",
                                 "16384",
                                 "fetch.error.backoff.ms",
                                 "100",
                                 NULL};
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_rebalance_cb(conf, on_rebalance);
    rd_kafka_conf_set_offset_commit_cb(conf, on_commit);
    rd_kafka_conf_set_opaque(conf, w);
    return client_consumer(conf, w->options.server, "holdfast-worker", pairs, w->options.config,
                           &w->consumer);
}

static enum hf_err subscribe(hf_worker *w) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(4);
    for (char **t = w->topics; *t; t++) rd_kafka_topic_partition_list_add(list, *t, RD_KAFKA_PARTITION_UA);
    rd_kafka_topic_partition_list_add(list, w->retry_topic, RD_KAFKA_PARTITION_UA);
    rd_kafka_resp_err_t err = rd_kafka_subscribe(w->consumer, list);
    rd_kafka_topic_partition_list_destroy(list);
    if (!err) return HF_OK;
    return client_error(client_err_of(err), "worker: subscribe: %s", rd_kafka_err2str(err));
}

enum hf_err consumer_open(hf_worker *w) {
    enum hf_err e = create(w);
    if (e) return e;
    w->queue = rd_kafka_queue_get_consumer(w->consumer);
    static const uint64_t one = 1; /* what an eventfd wants to be written */
    rd_kafka_queue_io_event_enable(w->queue, w->wake_fd, &one, sizeof one);
    return subscribe(w);
}

void consumer_close(hf_worker *w) {
    if (!w->consumer) return;
    rd_kafka_queue_io_event_enable(w->queue, -1, NULL, 0);
    rd_kafka_queue_destroy(w->queue);
    rd_kafka_consumer_close(w->consumer);
    rd_kafka_destroy(w->consumer);
    w->consumer = NULL;
}
