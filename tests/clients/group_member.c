/* A member of a consumer group on librdkafka, for tests to start, watch and stop:
 *
 *     group_member HOST:PORT GROUP TOPIC [property=value ...]
 *
 * One line an event on stdout: "assigned 0 1", "revoked 0", "record PARTITION OFFSET VALUE". Offsets are
 * committed by librdkafka every 200 ms, at revocation and at the end. SIGTERM leaves the group, but for
 * static members, as librdkafka does. */
#include <librdkafka/rdkafka.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t stopping;

static void on_term(int number) {
    (void)number;
    stopping = 1;
}

static void die(const char *what, const char *why) {
    (void)fprintf(stderr, "group_member: %s: %s\n", what, why);
    exit(1);
}

static void print_partitions(const char *what, const rd_kafka_topic_partition_list_t *l) {
    (void)printf("%s", what);
    for (int i = 0; i < l->cnt; i++) (void)printf(" %d", l->elems[i].partition);
    (void)printf("\n");
}

/* Both ways of rebalancing: all partitions anew, or some more and some fewer (cooperative). */
static void on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t err, rd_kafka_topic_partition_list_t *l,
                         void *arg) {
    (void)arg;
    bool more = err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
    bool cooperative = strcmp(rd_kafka_rebalance_protocol(rk), "COOPERATIVE") == 0;
    print_partitions(more ? "assigned" : "revoked", l);
    if (!more) (void)rd_kafka_commit(rk, NULL, 0);
    rd_kafka_error_t *e = NULL;
    if (!cooperative)
        (void)rd_kafka_assign(rk, more ? l : NULL);
    else
        e = more ? rd_kafka_incremental_assign(rk, l) : rd_kafka_incremental_unassign(rk, l);
    if (e) die("rebalance", rd_kafka_error_string(e));
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
    char why[256];
    if (rd_kafka_conf_set(conf, name, value, why, sizeof(why)) != RD_KAFKA_CONF_OK) die(name, why);
}

static rd_kafka_t *member_of(int argc, char **argv) {
    static const char *const defaults[][2] = {{"auto.offset.reset", "earliest"},
                                              {"auto.commit.interval.ms", "200"},
                                              {"session.timeout.ms", "6000"},
                                              {"heartbeat.interval.ms", "200"},
                                              {"reconnect.backoff.max.ms", "500"}};
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "bootstrap.servers", argv[1]);
    set(conf, "group.id", argv[2]);
    for (size_t i = 0; i < sizeof(defaults) / sizeof(defaults[0]); i++)
        set(conf, defaults[i][0], defaults[i][1]);
    for (int i = 4; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) die(argv[i], "is not property=value");
        *value++ = 0;
        set(conf, argv[i], value);
    }
    rd_kafka_conf_set_rebalance_cb(conf, on_rebalance);
    char why[256];
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof(why));
    if (!rk) die("new", why);
    (void)rd_kafka_poll_set_consumer(rk);
    return rk;
}

int main(int argc, char **argv) {
    enum { POLL_MS = 100 };
    if (argc < 4) die("usage", "HOST:PORT GROUP TOPIC [property=value ...]");
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    (void)signal(SIGTERM, on_term);
    rd_kafka_t *rk = member_of(argc, argv);
    rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(topics, argv[3], RD_KAFKA_PARTITION_UA);
    rd_kafka_resp_err_t e = rd_kafka_subscribe(rk, topics);
    if (e) die("subscribe", rd_kafka_err2str(e));
    while (!stopping) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, POLL_MS);
        if (!m) continue;
        if (!m->err)
            (void)printf("record %d %lld %.*s\n", m->partition, (long long)m->offset, (int)m->len,
                         (const char *)m->payload);
        rd_kafka_message_destroy(m);
    }
    rd_kafka_topic_partition_list_destroy(topics);
    (void)rd_kafka_consumer_close(rk);
    rd_kafka_destroy(rk);
    return 0;
}
