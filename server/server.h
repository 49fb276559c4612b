/* The server: log, groups, schedule and transactions behind the Kafka protocol and HTTP, as one process.
 *
 *     struct server_settings settings;                 // filled by hf_config_load(…, &server_options, …)
 *     if (server_settings_check(&settings, why, size)) …    // exit status 2
 *     server_open(&settings, &server);
 *     printf("ready listen=%s …", server_kafka_address(server));
 *     server_run(server);                              // until SIGTERM or SIGINT, or a failure of the disk
 *     server_close(server);
 *
 * One thread. The one place that wires the libraries together; each API family is a part (server_internal.h).
 */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "base/config.h"

struct server;

struct server_settings {
    const char *data, *listen, *http, *advertise;
    bool insecure_bind;
    int64_t num_partitions, segment_bytes, message_max, connections_max, http_connections_max, request_max;
    /* Of topics that were told nothing; as text, since "-1", "7d" and "compact" are among them. */
    const char *cleanup_policy, *retention_ms, *retention_bytes, *segment_ms, *delete_retention_ms,
        *dirty_ratio, *compaction_lag_ms, *timestamp_type;
    int64_t retention_check_ms, compaction_memory, scrub_interval_ms, scrub_bytes_s;
    bool auto_create;
    const char *log_level;
    int64_t id_memory_ms, id_memory_bytes, offsets_retention_ms;
    int64_t schedule_memory;
    int64_t pending_max, pending_bytes, topic_pending_max, topic_pending_bytes; /* 0: none */
    const char *partitioner, *delay_levels;
    int64_t txn_check_after_ms, txn_check_interval_ms, txn_check_attempts, txn_live_max,
        txn_destination_wait_ms, txn_id_memory_bytes;
};

/* Flags, variables and keys of `holdfast serve`. */
extern const struct hf_options server_options;

/* What the table of options cannot show: a public address without insecure-bind, a level that is none.
 * HF_EINVAL: why tells which setting, its value and what it may be. */
HF_CHECK enum hf_err server_settings_check(const struct server_settings *settings, char *why, size_t size);

/* Opens and recovers the data folder, creates our topics, listens. A log line says what failed. settings are
 * borrowed until server_close. */
HF_CHECK enum hf_err server_open(const struct server_settings *settings, struct server **out);

/* HF_OK: stopped by a signal. Else the disk failed: the process must exit. */
HF_CHECK enum hf_err server_run(struct server *s);

/* A clean stop: the next start scans nothing. */
HF_CHECK enum hf_err server_close(struct server *s);

const char *server_kafka_address(const struct server *s);
const char *server_http_address(const struct server *s);

#endif
