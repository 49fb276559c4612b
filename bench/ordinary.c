/* What an ordinary client reaches: librdkafka's producer, pipelined, acks=all, its batches as they come.
 *
 *     bench_ordinary --port P [--topic T] [--messages 2000000] [--size 100] [--delay MS] [--ids] [--pid SERVER]
 *
 * Without --delay the messages go to the topic itself, with the same headers, so that the client has the same to do; with it to
 * holdfast.delay. --ids gives each an hf-id of its own. Prints one line: rate, the client's CPU, and with --pid the server's, for
 * each message. Every message must be acknowledged, or it fails. */
#include "lean.h"

#include <librdkafka/rdkafka.h>

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct options {
    const char *port, *topic, *delay;
    long messages, size, pid;
    bool ids;
};

static long refused;

static void delivered(rd_kafka_t *k, const rd_kafka_message_t *m, void *arg) {
    (void)k;
    long *answered = arg;
    ++*answered;
    if (m->err && refused++ == 0) fprintf(stderr, "refused: %s\n", rd_kafka_err2str(m->err));
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
    char why[256];
    if (rd_kafka_conf_set(conf, name, value, why, sizeof why) != RD_KAFKA_CONF_OK) lean_die("%s", why);
}

/* One thread sends, librdkafka's own do the rest; its defaults but for the queue, which would else be the limit. */
static rd_kafka_t *producer(const struct options *o, long *answered) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char servers[64], why[256];
    snprintf(servers, sizeof servers, "127.0.0.1:%s", o->port);
    set(conf, "bootstrap.servers", servers);
    set(conf, "acks", "all");
    set(conf, "queue.buffering.max.messages", "1000000");
    rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    rd_kafka_conf_set_opaque(conf, answered);
    rd_kafka_t *k = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    if (!k) lean_die("%s", why);
    return k;
}

static rd_kafka_headers_t *headers(const struct options *o, long n) {
    rd_kafka_headers_t *h = rd_kafka_headers_new(3);
    char id[32];
    rd_kafka_header_add(h, "hf-topic", -1, o->topic, -1);
    rd_kafka_header_add(h, "hf-delay", -1, o->delay ? o->delay : "3600000ms", -1);
    if (o->ids)
        rd_kafka_header_add(h, "hf-id", -1, id, snprintf(id, sizeof id, "message-%ld-%d", n, (int)getpid()));
    return h;
}

static void send_one(rd_kafka_t *k, const struct options *o, long n, char *value) {
    rd_kafka_headers_t *h = headers(o, n);
    const char *topic = o->delay ? "holdfast.delay" : o->topic;
    for (;;) {
        rd_kafka_resp_err_t e = rd_kafka_producev(
            k, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_VALUE(value, (size_t)o->size), RD_KAFKA_V_HEADERS(h),
            RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
        if (!e) return;
        if (e != RD_KAFKA_RESP_ERR__QUEUE_FULL) lean_die("%s", rd_kafka_err2str(e));
        rd_kafka_poll(k, 10);
    }
}

static void parse(int argc, char **argv, struct options *o) {
    static const struct option names[] = {
        {"port", 1, NULL, 'p'},  {"topic", 1, NULL, 't'}, {"messages", 1, NULL, 'm'}, {"size", 1, NULL, 's'},
        {"delay", 1, NULL, 'd'}, {"ids", 0, NULL, 'i'},   {"pid", 1, NULL, 'c'},      {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (c) {
        case 'p': o->port = optarg; break;
        case 't': o->topic = optarg; break;
        case 'm': o->messages = atol(optarg); break;
        case 's': o->size = atol(optarg); break;
        case 'd': o->delay = optarg; break;
        case 'i': o->ids = true; break;
        case 'c': o->pid = atol(optarg); break;
        default: exit(2);
        }
    if (!o->port || o->messages < 1 || o->size < 1 || o->size > 1000000)
        lean_die("usage: see the head of bench/ordinary.c");
}

int main(int argc, char **argv) {
    struct options o = {.topic = "ordinary", .messages = 2000000, .size = 100};
    parse(argc, argv, &o);
    long answered = 0;
    rd_kafka_t *k = producer(&o, &answered);
    char *value = calloc(1, (size_t)o.size);
    if (!value) lean_die("no memory");
    memset(value, 'x', (size_t)o.size);
    double own = lean_cpu_of(getpid()), server = o.pid ? lean_cpu_of(o.pid) : 0, began = lean_now();
    for (long i = 0; i < o.messages; i++) {
        send_one(k, &o, i, value);
        if (i % 1000 == 0) rd_kafka_poll(k, 0);
    }
    if (rd_kafka_flush(k, 120000)) lean_die("not all were answered within two minutes");
    double seconds = lean_now() - began;
    if (refused > 0 || answered != o.messages)
        lean_die("%ld of %ld answered, %ld refused", answered, o.messages, refused);
    printf("ordinary messages=%ld seconds=%.2f per_second=%.0f client_cpu_us=%.3f", o.messages, seconds,
           (double)o.messages / seconds, (lean_cpu_of(getpid()) - own) * 1e6 / (double)o.messages);
    if (o.pid) printf(" cpu_us_per_message=%.3f", (lean_cpu_of(o.pid) - server) * 1e6 / (double)o.messages);
    putchar('\n');
    free(value);
    rd_kafka_destroy(k);
    return 0;
}
