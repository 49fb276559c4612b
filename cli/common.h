/* What the client commands share: settings, connection, errors, messages as JSON. One thread. */
#ifndef CLI_COMMON_H
#define CLI_COMMON_H

#include "base/config.h"
#include "client/client.h"
#include "command.h"

#include <jansson.h>

/* Every client command's struct begins with these, and its table with CLI_SERVER_ROWS(struct …). */
struct cli_server {
    const char *server;
    const char *api;
};
#define CLI_SERVER_ROWS(type)                                                                                \
    {"server",                                                                                               \
     HF_OPTION_TEXT,                                                                                         \
     offsetof(type, at.server),                                                                              \
     .fallback = "127.0.0.1:9092",                                                                           \
     .value = "HOST:PORT",                                                                                   \
     .help = "where the server speaks Kafka's protocol"},                                                    \
    {                                                                                                        \
        "api", HF_OPTION_TEXT, offsetof(type, at.api),                                                       \
            .value = "HOST:PORT", .help = "where it speaks HTTP: else on that host, port 8092"               \
    }

/* A failed command, on stderr: "holdfast send: why". Returns the status. */
int cli_fail(const char *command, enum hf_err e) __attribute__((nonnull));
int cli_usage(const char *command, const char *fmt, ...) HF_PRINTF(2, 3);

/* Settings into target. CLI_DONE: go on; else what the command returns (the usage was printed: *stop). usage
 * is the line behind "usage: ". */
int cli_settings(struct hf_config *c, const struct hf_options *options, const char *usage, int argc,
                 char **argv, void *target, bool *stop);

/* Takes every "--name value" and "--name=value" out of argv; *count of them, at most max, are put into out.
 * The other arguments close up. false: one has no value, or there are too many. */
bool cli_take_repeated(int *argc, char **argv, const char *name, const char **out, size_t max, size_t *count);

HF_CHECK enum hf_err cli_connect(const struct cli_server *at, hf_client **out);

/* A consumer that belongs to no group as long as it does not subscribe; group may be NULL. */
HF_CHECK enum hf_err cli_consumer(const struct cli_server *at, const char *group, bool end_events,
                                  rd_kafka_t **out);

/* All partitions of a topic. HF_ENOTFOUND. The caller destroys the list. */
HF_CHECK enum hf_err cli_partitions(rd_kafka_t *rk, const char *topic, rd_kafka_topic_partition_list_t **out);

/* On stdout, with control characters as \xNN: a key or an id may hold line ends, or move a terminal's cursor. */
void cli_put_text(hf_str s);

/* One message as the object that tail --json prints and send --jsonl reads; bytes that are no UTF-8 travel as
 * key_base64, value_base64. */
json_t *cli_message_json(const rd_kafka_message_t *m);

/* Base64 (RFC 4648) as malloc'ed bytes; NULL: out of memory, or no base64. */
char *cli_from_base64(const char *s, size_t *n);

/* "2026-03-01T12:00:00.250Z", "earliest", "latest", or digits (an offset, the same in each partition; never a
 * time in milliseconds), as offsets in list. HF_EINVAL. Blocks. */
HF_CHECK enum hf_err cli_resolve(rd_kafka_t *rk, rd_kafka_topic_partition_list_t *list, const char *from);

enum { CLI_TIMEOUT_MS = 10000 };

#endif
