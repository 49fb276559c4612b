/* The answering side of check-back: a member of consumer group <group> on topic holdfast.check.<group>.
 *
 * One check at a time: read, ask the program's function, make its decision durable, then commit the offset. A
 * crash before the commit asks the next member again, which is harmless: the first decision wins and the same
 * again is `repeated`. HF_UNKNOWN commits the offset without a decision; the server counts the attempt and
 * asks again later. A decision that cannot be sent leaves the offset where it is and tries the same check
 * again.
 *
 * The topic appears with the group's first check, so metadata is refreshed every second; it is never created
 * from here. */
#include "producer.h"

#include "base/bytes.h"
#include "base/names.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct checks {
    hf_producer *producer;
    rd_kafka_t *rk;
    hf_checker *check;
    void *arg;
    char *group;
    pthread_t thread;
    bool started;
    atomic_bool stop;
};

struct hf_check {
    char *id;
    const char *group;
    hf_str value;
    hf_str halves;
    int32_t attempt;
};

const char *hf_check_id(const hf_check *q) {
    return q->id;
}
const char *hf_check_group(const hf_check *q) {
    return q->group;
}
hf_str hf_check_value(const hf_check *q) {
    return q->value;
}
hf_str hf_check_halves(const hf_check *q) {
    return q->halves;
}
int32_t hf_check_attempt(const hf_check *q) {
    return q->attempt;
}

/* Asks and answers. false: the answer could not be sent. */
static bool settle(struct checks *c, const rd_kafka_message_t *m) {
    struct hf_check q = {.group = c->group,
                         .value = hf_str_make(m->payload, m->len),
                         .halves = client_header(m, HF_HDR_HALVES),
                         .id = strndup(m->key ? m->key : "", m->key_len)};
    if (!q.id) return false;
    int64_t attempt = 0;
    if (hf_str_int(client_header(m, HF_HDR_ATTEMPT), &attempt) || attempt < 1 || attempt > INT32_MAX)
        attempt = 1;
    q.attempt = (int32_t)attempt;
    hf_decision d = *q.id ? c->check(&q, c->arg) : HF_UNKNOWN;
    bool sent =
        (d != HF_COMMIT && d != HF_ROLLBACK) || producer_send_decision(c->producer, q.id, d, NULL) == HF_OK;
    free(q.id);
    return sent;
}

static void answer(struct checks *c, rd_kafka_message_t *m) {
    while (!atomic_load(&c->stop)) {
        if (settle(c, m)) {
            rd_kafka_commit_message(c->rk, m, 0); /* fails: the check comes once more, see above */
            return;
        }
        struct timespec pause = {.tv_sec = 0, .tv_nsec = 200000000};
        nanosleep(&pause, NULL);
    }
}

static void *serve(void *arg) {
    struct checks *c = arg;
    while (!atomic_load(&c->stop)) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(c->rk, 100);
        if (!m) continue;
        if (!m->err) answer(c, m);
        rd_kafka_message_destroy(m);
    }
    rd_kafka_consumer_close(c->rk);
    return NULL;
}

static enum hf_err open_consumer(struct checks *c) {
    const char *const pairs[] = {"group.id",
                                 c->group,
                                 "enable.auto.commit",
                                 "false",
                                 "auto.offset.reset",
                                 "earliest",
                                 "allow.auto.create.topics",
                                 "false",
                                 "topic.metadata.refresh.interval.ms",
                                 "1000",
                                 "session.timeout.ms",
                                 "10000",
                                 "max.poll.interval.ms",
                                 "600000",
                                 NULL};
    hf_client *client = producer_client(c->producer);
    enum hf_err e = client_consumer(rd_kafka_conf_new(), client_server(client), "holdfast-check", pairs,
                                    client_options(client)->config, &c->rk);
    if (e) return e;
    char topic[HF_TOPIC_NAME_MAX + 1];
    snprintf(topic, sizeof topic, "%s%s", HF_TOPIC_CHECK, c->group);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, RD_KAFKA_PARTITION_UA);
    rd_kafka_resp_err_t err = rd_kafka_subscribe(c->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    return err ? client_error(client_err_of(err), "checks of group \"%s\": %s", c->group,
                              rd_kafka_err2str(err))
               : HF_OK;
}

enum hf_err checks_open(hf_producer *p, const char *group, hf_checker *check, void *arg,
                        struct checks **out) {
    struct checks *c = calloc(1, sizeof *c);
    if (c) c->group = strdup(group);
    if (!c || !c->group) {
        free(c);
        return client_error(HF_ENOMEM, "checks of group \"%s\": %s", group, hf_err_text(HF_ENOMEM));
    }
    c->producer = p;
    c->check = check;
    c->arg = arg;
    enum hf_err e = open_consumer(c);
    if (!e && pthread_create(&c->thread, NULL, serve, c))
        e = client_error(HF_ENOMEM, "checks of group \"%s\": no thread", group);
    else if (!e)
        c->started = true;
    if (e) {
        checks_close(c);
        return e;
    }
    *out = c;
    return HF_OK;
}

void checks_close(struct checks *c) {
    if (!c) return;
    atomic_store(&c->stop, true);
    if (c->started) pthread_join(c->thread, NULL);
    if (c->rk) rd_kafka_destroy(c->rk);
    free(c->group);
    free(c);
}
