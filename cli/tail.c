/* holdfast tail: prints a topic's messages as they come. */
#include "base/names.h"
#include "common.h"

#include <inttypes.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>

struct tail {
    struct cli_server at;
    const char *from, *group;
    int64_t count;
    bool json, exit_at_end;
};

static const struct hf_option rows[] = {
    CLI_SERVER_ROWS(struct tail),
    {"from", HF_OPTION_TEXT, offsetof(struct tail, from), .fallback = "latest", .value = "WHERE",
     .help = "earliest, latest, a time (2026-03-01T12:00:00Z), or digits: an offset in each partition"},
    {"group", HF_OPTION_TEXT, offsetof(struct tail, group), .value = "G",
     .help = "as a member of this consumer group, whose offsets move; --from does not count then"},
    {"count", HF_OPTION_INT, offsetof(struct tail, count), .fallback = "0", .value = "N",
     .help = "end after so many; 0: never"},
    {"exit", HF_OPTION_SWITCH, offsetof(struct tail, exit_at_end), .help = "end at the end of the topic"},
    {"json", HF_OPTION_SWITCH, offsetof(struct tail, json),
     .help = "an object a line, as send --jsonl reads it"},
};
static const struct hf_options options = {"tail", rows, sizeof rows / sizeof *rows};

static volatile sig_atomic_t stopped;

static void on_signal(int number) {
    (void)number;
    stopped = 1;
}

static void print_text(const rd_kafka_message_t *m) {
    if (m->key) (void)printf("%.*s\t", (int)m->key_len, (const char *)m->key);
    (void)fwrite(m->payload, 1, m->len, stdout);
    (void)putchar('\n');
}

static void print_json(const rd_kafka_message_t *m) {
    json_t *o = cli_message_json(m);
    (void)json_dumpf(o, stdout, JSON_COMPACT);
    (void)putchar('\n');
    json_decref(o);
}

static enum hf_err begin(rd_kafka_t *rk, const struct tail *t, const char *topic, int *partitions) {
    rd_kafka_topic_partition_list_t *list;
    enum hf_err e = cli_partitions(rk, topic, &list);
    if (e) return e;
    *partitions = list->cnt;
    rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;
    if (t->group) {
        rd_kafka_topic_partition_list_destroy(list);
        list = rd_kafka_topic_partition_list_new(1);
        rd_kafka_topic_partition_list_add(list, topic, RD_KAFKA_PARTITION_UA);
        err = rd_kafka_subscribe(rk, list);
    } else {
        e = cli_resolve(rk, list, t->from);
        if (!e) err = rd_kafka_assign(rk, list);
    }
    rd_kafka_topic_partition_list_destroy(list);
    return err ? client_error(client_err_of(err), "tail of \"%s\": %s", topic, rd_kafka_err2str(err)) : e;
}

static enum hf_err follow(rd_kafka_t *rk, const struct tail *t, const char *topic) {
    int partitions = 0, ended = 0;
    enum hf_err e = begin(rk, t, topic, &partitions);
    for (int64_t n = 0; !e && !stopped && (t->count == 0 || n < t->count);) {
        if (t->exit_at_end && ended >= partitions) break;
        rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 100);
        if (!m) {
            (void)fflush(stdout);
            continue;
        }
        if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            ended++;
        } else if (m->err) {
            e = client_err_of(m->err);
            if (hf_err_class_of(e) == HF_CLASS_RETRY || m->err == RD_KAFKA_RESP_ERR__TRANSPORT)
                e = HF_OK; /* the library connects again */
            else
                (void)client_error(e, "tail of \"%s\": %s", topic, rd_kafka_message_errstr(m));
        } else {
            (t->json ? print_json : print_text)(m);
            n++;
            if (t->group) rd_kafka_commit_message(rk, m, 1);
        }
        rd_kafka_message_destroy(m);
        if (ferror(stdout)) break;
    }
    (void)fflush(stdout);
    rd_kafka_consumer_close(rk);
    return e;
}

int cli_tail(int argc, char **argv) {
    struct hf_config c = {0};
    struct tail t;
    bool stop;
    int status = cli_settings(&c, &options, "holdfast tail TOPIC [FLAGS]", argc, argv, &t, &stop);
    if (!stop && c.rest_count != 1) {
        status = cli_usage("tail", "one topic is required");
        stop = true;
    }
    if (!stop) {
        rd_kafka_t *rk = NULL;
        (void)signal(SIGINT, on_signal);
        (void)signal(SIGTERM, on_signal);
        enum hf_err e = cli_consumer(&t.at, t.group, t.exit_at_end, &rk);
        if (!e) e = follow(rk, &t, c.rest[0]);
        if (rk) rd_kafka_destroy(rk);
        if (e) status = e == HF_EINVAL ? cli_usage("tail", "%s", hf_errmsg()) : cli_fail("tail", e);
    }
    hf_config_fini(&c);
    return status;
}
