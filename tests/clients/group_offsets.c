/* What a group has committed, all of it, as librdkafka's admin client asks for it:
 *
 *     group_offsets HOST:PORT GROUP
 *
 * One line an offset on stdout: "TOPIC PARTITION OFFSET", in the order of the answer. */
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>

static void die(const char *what, const char *why) {
    (void)fprintf(stderr, "group_offsets: %s: %s\n", what, why);
    exit(1);
}

static void print(rd_kafka_event_t *event) {
    size_t n;
    const rd_kafka_ListConsumerGroupOffsets_result_t *result =
        rd_kafka_event_ListConsumerGroupOffsets_result(event);
    const rd_kafka_group_result_t **groups = rd_kafka_ListConsumerGroupOffsets_result_groups(result, &n);
    for (size_t i = 0; i < n; i++) {
        const rd_kafka_error_t *e = rd_kafka_group_result_error(groups[i]);
        if (e) die("group", rd_kafka_error_string(e));
        const rd_kafka_topic_partition_list_t *list = rd_kafka_group_result_partitions(groups[i]);
        for (int k = 0; k < list->cnt; k++)
            (void)printf("%s %d %lld\n", list->elems[k].topic, list->elems[k].partition,
                         (long long)list->elems[k].offset);
    }
}

int main(int argc, char **argv) {
    enum { WAIT_MS = 30000 };
    char why[256];
    if (argc != 3) die("usage", "HOST:PORT GROUP");
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (rd_kafka_conf_set(conf, "bootstrap.servers", argv[1], why, sizeof(why)))
        die("bootstrap.servers", why);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof(why));
    if (!rk) die("new", why);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_ListConsumerGroupOffsets_t *ask = rd_kafka_ListConsumerGroupOffsets_new(argv[2], NULL);
    rd_kafka_ListConsumerGroupOffsets(rk, &ask, 1, NULL, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, WAIT_MS);
    if (!event) die("answer", "none");
    if (rd_kafka_event_error(event)) die("answer", rd_kafka_event_error_string(event));
    print(event);
    rd_kafka_event_destroy(event);
    rd_kafka_ListConsumerGroupOffsets_destroy(ask);
    rd_kafka_queue_destroy(queue);
    rd_kafka_destroy(rk);
    return 0;
}
