/* A client: one librdkafka producer, one thread that serves its delivery reports.
 *
 * The producer is idempotent with acks=all: librdkafka numbers its batches, so a retry after a lost answer is
 * stored once, and an acknowledgement means that the message survives a power cut (on Kafka: is replicated).
 * The queue is bounded by count and bytes; past it the send answers HF_EAGAIN and nothing is kept.
 *
 * A blocking send is an asynchronous one and a wait for its report. It waits without a limit of its own,
 * because message.timeout.ms bounds every report. Keys are spread by murmur2 as the Java client does, not by
 * librdkafka's default, so that a message sent directly and one that came through the scheduler meet in one
 * partition.
 *
 * A record for the scheduler or the coordinator is believed only if the server stamped it (their topics are
 * LogAppendTime): on a Kafka cluster that creates topics by itself, holdfast.delay would be a grave.
 *
 * Locks: c->lock guards the counters only and is never held over a call of librdkafka or of a callback. */
#include "client.h"

#include "compose.h"

#include "base/names.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct hf_client {
    rd_kafka_t *rk;
    char *server;
    hf_client_options options; /* defaults filled in; strings that outlive hf_connect are copies */
    char *api;
    char **config;
    pthread_t poller;
    atomic_bool stop;
    atomic_bool scheduler_seen;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    int64_t under_way;     /* reports not yet given */
    enum hf_err failed;    /* first failure without a callback since the last flush */
    char failed_text[512]; /* its text */
};

/* One send under way: librdkafka's opaque. */
struct pending {
    hf_client *client;
    hf_sent *sent;
    void *arg;
    bool move;
};

const char *client_server(const hf_client *c) {
    return c->server;
}
const hf_client_options *client_options(const hf_client *c) {
    return &c->options;
}

const char *hf_version(void) {
    return HF_VERSION;
}

/* ---- reports ---- */

static void finish(hf_client *c, enum hf_err e, bool no_callback) {
    pthread_mutex_lock(&c->lock);
    if (e && no_callback && !c->failed) {
        c->failed = e;
        snprintf(c->failed_text, sizeof c->failed_text, "%s", hf_errmsg());
    }
    if (--c->under_way == 0) pthread_cond_broadcast(&c->idle);
    pthread_mutex_unlock(&c->lock);
}

static enum hf_err judge(const hf_client *c, const rd_kafka_message_t *m, const struct pending *p,
                         hf_receipt *r) {
    const char *topic = rd_kafka_topic_name(m->rkt);
    if (m->err)
        return client_error(client_err_of(m->err), "send to \"%s\" at %s: %s%s", topic, c->server,
                            rd_kafka_err2str(m->err), client_advice(m->err));
    rd_kafka_timestamp_type_t type;
    *r = (hf_receipt){.partition = m->partition, .offset = m->offset};
    r->timestamp_ms = rd_kafka_message_timestamp(m, &type);
    snprintf(r->topic, sizeof r->topic, "%s", topic);
    if (p->move && type != RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME)
        return client_error(
            HF_EUNSUPPORTED,
            "send to \"%s\" at %s: stored, but this server is no Holdfast: nobody will move the "
            "message on; delete that topic there",
            topic, c->server);
    return HF_OK;
}

static void on_report(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque) {
    (void)rk;
    (void)opaque;
    struct pending *p = m->_private;
    hf_client *c = p->client;
    hf_receipt r;
    enum hf_err e = judge(c, m, p, &r);
    bool no_callback = !p->sent;
    if (p->sent) p->sent(e, e ? NULL : &r, p->arg);
    free(p);
    finish(c, e, no_callback);
}

static void *poll_reports(void *arg) {
    hf_client *c = arg;
    while (!atomic_load(&c->stop)) rd_kafka_poll(c->rk, 100);
    return NULL;
}

/* ---- opening ---- */

static enum hf_err set_one(rd_kafka_conf_t *conf, const char *name, const char *value) {
    char why[256];
    if (rd_kafka_conf_set(conf, name, value, why, sizeof why) != RD_KAFKA_CONF_OK)
        return client_error(HF_EINVAL, "client property %s=%s: %s", name, value, why);
    return HF_OK;
}

static enum hf_err set_pairs(rd_kafka_conf_t *conf, const char *const *pairs) {
    for (; pairs && pairs[0]; pairs += 2) {
        if (!pairs[1]) return client_error(HF_EINVAL, "client property %s: its value is missing", pairs[0]);
        enum hf_err e = set_one(conf, pairs[0], pairs[1]);
        if (e) return e;
    }
    return HF_OK;
}

static void no_log(const rd_kafka_t *rk, int level, const char *facility, const char *line) {
    (void)rk;
    (void)level;
    (void)facility;
    (void)line;
}

static enum hf_err set_common(rd_kafka_conf_t *conf, const char *server, const char *client_id) {
    const char *const pairs[] = {"bootstrap.servers",
                                 server,
                                 "client.id",
                                 client_id,
                                 "socket.nagle.disable",
                                 "true",
                                 "topic.metadata.refresh.fast.interval.ms",
                                 "100",
                                 "reconnect.backoff.max.ms",
                                 "2000",
                                 NULL};
    rd_kafka_conf_set_log_cb(conf, no_log);
    return set_pairs(conf, pairs);
}

enum hf_err client_consumer(rd_kafka_conf_t *conf, const char *server, const char *client_id,
                            const char *const *pairs, const char *const *config, rd_kafka_t **out) {
    rd_kafka_t *rk = NULL;
    enum hf_err e = set_common(conf, server, client_id);
    if (!e) e = set_pairs(conf, pairs);
    if (!e) e = set_pairs(conf, config);
    char why[256];
    if (!e && !(rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why)))
        e = client_error(HF_EINVAL, "%s: %s", client_id, why);
    if (e) {
        rd_kafka_conf_destroy(conf);
        return e;
    }
    rd_kafka_poll_set_consumer(rk);
    *out = rk;
    return HF_OK;
}

hf_str client_header(const rd_kafka_message_t *m, const char *name) {
    rd_kafka_headers_t *h;
    const void *p;
    size_t n;
    if (rd_kafka_message_headers(m, &h) || rd_kafka_header_get_last(h, name, &p, &n))
        return (hf_str){NULL, 0};
    return hf_str_make(p, n);
}

enum hf_err client_take_options(void *to, size_t to_size, const void *from, const char *what) {
    memset(to, 0, to_size);
    if (from) {
        size_t n;
        memcpy(&n, from, sizeof n);
        if (n < sizeof n || n > to_size)
            return client_error(HF_EINVAL,
                                "%s: the size is not set: begin the initialiser with HF_…_DEFAULTS", what);
        memcpy(to, from, n);
    }
    memcpy(to, &to_size, sizeof to_size);
    return HF_OK;
}

static enum hf_err fill_options(hf_client *c, const hf_client_options *given) {
    hf_client_options *o = &c->options;
    enum hf_err e = client_take_options(o, sizeof *o, given, "client options");
    if (e) return e;
    if (o->timeout_ms < 0 || o->queue_messages < 0 || o->queue_bytes < 0 || o->linger_ms < 0)
        return client_error(HF_EINVAL, "client options: a number is negative");
    if (!o->client_id) o->client_id = "holdfast";
    if (!o->timeout_ms) o->timeout_ms = HF_SECONDS(30);
    if (!o->queue_messages) o->queue_messages = 100000;
    if (!o->queue_bytes) o->queue_bytes = 64 << 20;
    return HF_OK;
}

static enum hf_err set_number(rd_kafka_conf_t *conf, const char *name, int64_t value) {
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, value);
    return set_one(conf, name, text);
}

/* The largest max.message.bytes of a server; the least that librdkafka takes. */
enum { MESSAGE_MOST = 64 << 20, MESSAGE_LEAST = 1000 };

static enum hf_err configure(hf_client *c, rd_kafka_conf_t *conf) {
    const hf_client_options *o = &c->options;
    const char *const ours[] = {"enable.idempotence",
                                "true",
                                "partitioner",
                                "murmur2_random",
                                "topic.metadata.propagation.max.ms",
                                "5000",
                                NULL};
    /* What is too large is the server's to say, but what the queue has no room for will never be sent. */
    int64_t most = o->queue_bytes < MESSAGE_MOST ? o->queue_bytes : MESSAGE_MOST;
    enum hf_err e = set_common(conf, c->server, o->client_id);
    if (!e) e = set_pairs(conf, ours);
    if (!e) e = set_number(conf, "message.timeout.ms", o->timeout_ms);
    if (!e) e = set_number(conf, "queue.buffering.max.messages", o->queue_messages);
    if (!e) e = set_number(conf, "queue.buffering.max.kbytes", (o->queue_bytes + 1023) / 1024);
    if (!e) e = set_number(conf, "message.max.bytes", most < MESSAGE_LEAST ? MESSAGE_LEAST : most);
    if (!e) e = set_number(conf, "linger.ms", o->linger_ms);
    if (!e) e = set_pairs(conf, o->config);
    if (e) return e;
    rd_kafka_conf_set_dr_msg_cb(conf, on_report);
    return HF_OK;
}

static enum hf_err open_handle(hf_client *c) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    enum hf_err e = configure(c, conf);
    if (e) {
        rd_kafka_conf_destroy(conf);
        return e;
    }
    char why[256];
    c->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    if (c->rk) return HF_OK;
    rd_kafka_conf_destroy(conf);
    return client_error(HF_EINVAL, "connect to %s: %s", c->server, why);
}

/* A server that answers; nothing is sent before. */
static enum hf_err greet(hf_client *c) {
    const struct rd_kafka_metadata *m;
    rd_kafka_resp_err_t err = rd_kafka_metadata(c->rk, 0, NULL, &m, (int)c->options.timeout_ms);
    if (err)
        return client_error(HF_ECONNECT, "connect to %s: %s%s", c->server, rd_kafka_err2str(err),
                            client_advice(RD_KAFKA_RESP_ERR__TRANSPORT));
    rd_kafka_metadata_destroy(m);
    return HF_OK;
}

static void discard(hf_client *c) {
    if (c->rk) rd_kafka_destroy(c->rk);
    for (char **s = c->config; s && *s; s++) free(*s);
    free(c->config);
    pthread_cond_destroy(&c->idle);
    pthread_mutex_destroy(&c->lock);
    free(c->server);
    free(c->api);
    free(c);
}

static hf_client *client_new(const char *server) {
    hf_client *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->idle, &monotonic);
    pthread_condattr_destroy(&monotonic);
    c->server = strdup(server);
    if (c->server) return c;
    discard(c);
    return NULL;
}

static bool copy_config(hf_client *c, const char *const *pairs) {
    size_t n = 0;
    while (pairs && pairs[n]) n++;
    c->config = calloc(n + 1, sizeof *c->config);
    for (size_t i = 0; c->config && i < n; i++)
        if (!(c->config[i] = strdup(pairs[i]))) return false;
    return c->config != NULL;
}

/* The producer's checks open a handle of their own later, with the same properties. */
static enum hf_err take_strings(hf_client *c) {
    hf_client_options *o = &c->options;
    o->client_id = NULL; /* librdkafka has its copy */
    c->api = o->api ? strdup(o->api) : NULL;
    if ((o->api && !c->api) || !copy_config(c, o->config))
        return client_error(HF_ENOMEM, "connect: %s", hf_err_text(HF_ENOMEM));
    o->api = c->api;
    o->config = (const char *const *)c->config;
    return HF_OK;
}

enum hf_err hf_connect(const char *server, const hf_client_options *options, hf_client **out) {
    if (!server || !*server) return client_error(HF_EINVAL, "connect: the server's HOST:PORT is missing");
    hf_client *c = client_new(server);
    if (!c) return client_error(HF_ENOMEM, "connect to %s: %s", server, hf_err_text(HF_ENOMEM));
    enum hf_err e = fill_options(c, options);
    if (!e) e = open_handle(c);
    if (!e) e = take_strings(c);
    if (!e) e = greet(c);
    if (!e && pthread_create(&c->poller, NULL, poll_reports, c))
        e = client_error(HF_ENOMEM, "connect to %s: no thread", server);
    if (e) {
        discard(c);
        return e;
    }
    *out = c;
    return HF_OK;
}

/* ---- sending ---- */

static rd_kafka_headers_t *copy_headers(const struct client_record *r) {
    rd_kafka_headers_t *h = rd_kafka_headers_new(r->header_count);
    for (size_t i = 0; i < r->header_count; i++) {
        const hf_header *f = &r->headers[i];
        rd_kafka_header_add(h, f->key.p, (ssize_t)f->key.n, f->value.p, (ssize_t)f->value.n);
    }
    return h;
}

static rd_kafka_resp_err_t produce(hf_client *c, const struct client_record *r, struct pending *p) {
    rd_kafka_headers_t *headers = r->header_count ? copy_headers(r) : NULL;
    int32_t partition = r->partition < 0 ? RD_KAFKA_PARTITION_UA : r->partition;
    rd_kafka_resp_err_t err;
    if (headers)
        err = rd_kafka_producev(c->rk, RD_KAFKA_V_TOPIC(r->topic), RD_KAFKA_V_PARTITION(partition),
                                RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_KEY(r->key.p, r->key.n),
                                RD_KAFKA_V_VALUE((void *)(uintptr_t)r->value.p, r->value.n),
                                RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_OPAQUE(p), RD_KAFKA_V_END);
    else
        err = rd_kafka_producev(c->rk, RD_KAFKA_V_TOPIC(r->topic), RD_KAFKA_V_PARTITION(partition),
                                RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_KEY(r->key.p, r->key.n),
                                RD_KAFKA_V_VALUE((void *)(uintptr_t)r->value.p, r->value.n),
                                RD_KAFKA_V_OPAQUE(p), RD_KAFKA_V_END);
    if (err && headers) rd_kafka_headers_destroy(headers);
    return err;
}

enum hf_err client_send_async(hf_client *c, const struct client_record *r, hf_sent *sent, void *arg) {
    struct pending *p = malloc(sizeof *p);
    if (!p) return client_error(HF_ENOMEM, "send to \"%s\": %s", r->topic, hf_err_text(HF_ENOMEM));
    *p = (struct pending){.client = c, .sent = sent, .arg = arg, .move = r->move};
    pthread_mutex_lock(&c->lock);
    c->under_way++;
    pthread_mutex_unlock(&c->lock);
    rd_kafka_resp_err_t err = produce(c, r, p);
    if (!err) return HF_OK;
    free(p);
    finish(c, HF_OK, false);
    return client_error(client_err_of(err), "send to \"%s\" at %s: %s%s", r->topic, c->server,
                        rd_kafka_err2str(err), client_advice(err));
}

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t reported;
    bool done;
    enum hf_err e;
    hf_receipt receipt;
    char text[512];
};

static void wake(enum hf_err e, const hf_receipt *r, void *arg) {
    struct waiter *w = arg;
    pthread_mutex_lock(&w->lock);
    w->e = e;
    if (r) w->receipt = *r;
    if (e) snprintf(w->text, sizeof w->text, "%s", hf_errmsg());
    w->done = true;
    pthread_cond_signal(&w->reported);
    pthread_mutex_unlock(&w->lock);
}

enum hf_err client_send(hf_client *c, const struct client_record *r, hf_receipt *receipt) {
    struct waiter w = {.lock = PTHREAD_MUTEX_INITIALIZER, .reported = PTHREAD_COND_INITIALIZER};
    enum hf_err e = client_send_async(c, r, wake, &w);
    if (e) return e;
    pthread_mutex_lock(&w.lock);
    while (!w.done) pthread_cond_wait(&w.reported, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_cond_destroy(&w.reported);
    pthread_mutex_destroy(&w.lock);
    if (w.e) return client_error(w.e, "%s", w.text);
    if (receipt) *receipt = w.receipt;
    return HF_OK;
}

enum hf_err client_has_scheduler(hf_client *c, bool *out) {
    if (!atomic_load(&c->scheduler_seen)) {
        /* All topics: asking for one by name would create it on a server that creates topics. */
        const struct rd_kafka_metadata *m;
        rd_kafka_resp_err_t err = rd_kafka_metadata(c->rk, 1, NULL, &m, (int)c->options.timeout_ms);
        if (err)
            return client_error(client_err_of(err), "list topics at %s: %s%s", c->server,
                                rd_kafka_err2str(err), client_advice(err));
        for (int i = 0; i < m->topic_cnt; i++)
            if (strcmp(m->topics[i].topic, HF_TOPIC_DELAY) == 0) atomic_store(&c->scheduler_seen, true);
        rd_kafka_metadata_destroy(m);
    }
    *out = atomic_load(&c->scheduler_seen);
    return HF_OK;
}

static enum hf_err need_scheduler(hf_client *c, const struct client_record *r) {
    bool there = true;
    enum hf_err e = r->move ? client_has_scheduler(c, &there) : HF_OK;
    if (e || there) return e;
    return client_error(HF_EUNSUPPORTED,
                        "delays and transactions need a Holdfast server; the one at %s has no topic %s",
                        c->server, HF_TOPIC_DELAY);
}

enum hf_err hf_send(hf_client *c, const hf_message *m, hf_receipt *receipt) {
    struct composed composed;
    enum hf_err e = compose_message(&composed, m);
    if (e) return e;
    e = need_scheduler(c, &composed.record);
    if (!e) e = client_send(c, &composed.record, receipt);
    compose_fini(&composed);
    return e;
}

enum hf_err hf_send_async(hf_client *c, const hf_message *m, hf_sent *sent, void *arg) {
    struct composed composed;
    enum hf_err e = compose_message(&composed, m);
    if (e) return e;
    e = need_scheduler(c, &composed.record);
    if (!e) e = client_send_async(c, &composed.record, sent, arg);
    compose_fini(&composed);
    return e;
}

/* Waits until nothing is under way. false: time is up. */
static bool wait_idle(hf_client *c, int64_t timeout_ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (timeout_ms > HF_DAYS(365)) timeout_ms = HF_DAYS(365);
    until.tv_sec += (time_t)(timeout_ms / 1000);
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    int r = 0;
    while (c->under_way > 0 && r == 0)
        r = timeout_ms < 0 ? pthread_cond_wait(&c->idle, &c->lock)
                           : pthread_cond_timedwait(&c->idle, &c->lock, &until);
    return c->under_way == 0;
}

enum hf_err hf_flush(hf_client *c, int64_t timeout_ms) {
    pthread_mutex_lock(&c->lock);
    bool idle = wait_idle(c, timeout_ms);
    int64_t left = c->under_way;
    enum hf_err e = idle ? c->failed : HF_OK;
    char text[sizeof c->failed_text];
    memcpy(text, c->failed_text, sizeof text);
    if (idle) c->failed = HF_OK;
    pthread_mutex_unlock(&c->lock);
    if (!idle)
        return client_error(HF_ETIMEDOUT, "flush: %" PRId64 " messages are not acknowledged yet", left);
    return e ? client_error(e, "%s", text) : HF_OK;
}

void hf_close(hf_client *c) {
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    bool idle = wait_idle(c, c->options.timeout_ms);
    pthread_mutex_unlock(&c->lock);
    if (!idle) rd_kafka_purge(c->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    atomic_store(&c->stop, true);
    pthread_join(c->poller, NULL);
    while (!idle && rd_kafka_outq_len(c->rk) > 0) rd_kafka_poll(c->rk, 100);
    discard(c);
}
