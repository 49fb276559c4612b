/* The settings of `holdfast serve`, once: each row is a flag, a variable and a key of the config file. */
#include "server_internal.h"

#include "timewheel/schedule/schedule.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_ROOM = 4096 }; /* what a request has beside its largest message */

#define AT(field) offsetof(struct server_settings, field)

static const struct hf_option rows[] = {
    {"data", HF_OPTION_TEXT, AT(data), "holdfast-data", 0, 0, "DIR",
     "folder of all that is stored; created if missing"},
    {"listen", HF_OPTION_TEXT, AT(listen), "127.0.0.1:9092", 0, 0, "ADDRESS:PORT",
     "Kafka protocol; port 0 is any free one"},
    {"http", HF_OPTION_TEXT, AT(http), "127.0.0.1:8092", 0, 0, "ADDRESS:PORT",
     "HTTP: health, metrics, /v1; empty for none"},
    {"advertise", HF_OPTION_TEXT, AT(advertise), NULL, 0, 0, "HOST[:PORT]",
     "what clients are told to connect to, if not the address of --listen"},
    {"insecure-bind", HF_OPTION_SWITCH, AT(insecure_bind), NULL, 0, 0, NULL,
     "allow addresses that other machines reach, although there is no authentication"},
    {"num.partitions", HF_OPTION_INT, AT(num_partitions), "1", 1, 10000, "N",
     "partitions of a topic that names no number"},
    {"segment.bytes", HF_OPTION_BYTES, AT(segment_bytes), "256MiB", 1 << 20, 1 << 30, "BYTES",
     "size of a segment file"},
    {"max.message.bytes", HF_OPTION_BYTES, AT(message_max), "1MiB", 1024, 64 << 20, "BYTES",
     "largest record batch"},
    {"retention.ms", HF_OPTION_TEXT, AT(retention_ms), "7d", 0, 0, "TIME",
     "segments whose youngest record is older are deleted; -1: none"},
    {"retention.bytes", HF_OPTION_TEXT, AT(retention_bytes), "-1", 0, 0, "BYTES",
     "the oldest segments of a partition beyond this are deleted; -1: none"},
    {"segment.ms", HF_OPTION_TEXT, AT(segment_ms), "7d", 0, 0, "TIME",
     "a segment is closed after this time though it is not full"},
    {"cleanup.policy", HF_OPTION_TEXT, AT(cleanup_policy), "delete", 0, 0, "POLICY",
     "delete, compact, or both: \"delete,compact\""},
    {"delete.retention.ms", HF_OPTION_TEXT, AT(delete_retention_ms), "1d", 0, 0, "TIME",
     "how long compaction keeps a record without a value"},
    {"min.cleanable.dirty.ratio", HF_OPTION_TEXT, AT(dirty_ratio), "0.5", 0, 0, "SHARE",
     "compaction begins when this share of a partition is new since the last one"},
    {"min.compaction.lag.ms", HF_OPTION_TEXT, AT(compaction_lag_ms), "0", 0, 0, "TIME",
     "how old a record is at least before compaction takes it for a later one"},
    {"log.cleaner.dedupe.buffer.size", HF_OPTION_BYTES, AT(compaction_memory), "32MiB", 1 << 20,
     INT64_C(1) << 40, "BYTES", "memory for keys while a partition is compacted; with less, more passes"},
    {"message.timestamp.type", HF_OPTION_TEXT, AT(timestamp_type), "CreateTime", 0, 0, "TYPE",
     "CreateTime or LogAppendTime"},
    {"log.retention.check.interval.ms", HF_OPTION_MS, AT(retention_check_ms), "30s", 10, HF_DAYS(365), "TIME",
     "how often partitions are looked at for retention and compaction"},
    {"scrub.interval.ms", HF_OPTION_MS, AT(scrub_interval_ms), "7d", 0, HF_DAYS(3650), "TIME",
     "everything on the disk is read and proven so often; 0: never"},
    {"scrub.bytes.per.second", HF_OPTION_BYTES, AT(scrub_bytes_s), "8MiB", 4096, INT64_C(1) << 40, "BYTES",
     "how fast that goes"},
    {"auto.create.topics.enable", HF_OPTION_SWITCH, AT(auto_create), "true", 0, 0, NULL,
     "create topics that clients name"},
    {"max.connections", HF_OPTION_INT, AT(connections_max), "4096", 1, 1000000, "N",
     "Kafka connections; further ones are closed"},
    {"http.max.connections", HF_OPTION_INT, AT(http_connections_max), "1024", 1, 100000, "N",
     "HTTP connections; further ones wait"},
    {"socket.request.max.bytes", HF_OPTION_BYTES, AT(request_max), "64MiB", 1024, 1 << 30, "BYTES",
     "largest request"},
    {"id.memory.ms", HF_OPTION_MS, AT(id_memory_ms), "7d", 1000, HF_DAYS(3650), "TIME",
     "how long the ids of finished schedules and decided transactions are remembered"},
    {"id.memory.bytes", HF_OPTION_BYTES, AT(id_memory_bytes), "256MiB", 1 << 20, INT64_C(1) << 50, "BYTES",
     "disk for the ids of schedules: past it finished ones are forgotten earlier"},
    {"schedule.memory.bytes", HF_OPTION_BYTES, AT(schedule_memory), "8MiB", 1 << 20, 1 << 30, "BYTES",
     "memory for delayed messages not yet in a run; twice while one is written"},
    {"schedule.pending.max", HF_OPTION_INT, AT(pending_max), "1000000000", 0, INT64_C(1) << 50, "N",
     "messages that may pend; past it producers are told to try again later; 0: any number"},
    {"schedule.pending.bytes", HF_OPTION_BYTES, AT(pending_bytes), "1024GiB", 0, INT64_C(1) << 50, "BYTES",
     "the same in bytes, keys and headers included; 0: any number"},
    {"schedule.topic.pending.max", HF_OPTION_INT, AT(topic_pending_max), "0", 0, INT64_C(1) << 50, "N",
     "messages that may pend for each destination topic; 0: any number"},
    {"schedule.topic.pending.bytes", HF_OPTION_BYTES, AT(topic_pending_bytes), "0", 0, INT64_C(1) << 50,
     "BYTES", "the same in bytes; 0: any number"},
    {"destination.partitioner", HF_OPTION_TEXT, AT(partitioner), "murmur2", 0, 0, "NAME",
     "partition of a delayed message by its key: murmur2 as the Java client, crc32 as librdkafka"},
    {"delay.levels", HF_OPTION_TEXT, AT(delay_levels), SCHEDULE_LEVELS, 0, 0, "TIMES",
     "what hf-delay: level1, level2 … mean; separated by spaces"},
    {"offsets.retention.ms", HF_OPTION_MS, AT(offsets_retention_ms), "7d", 0, HF_DAYS(36500), "TIME",
     "a group without members and commits loses its offsets after so long, counted anew at each start; 0: "
     "never"},
    {"txn.check.after", HF_OPTION_MS, AT(txn_check_after_ms), "6s", 1, HF_DAYS(365), "TIME",
     "an undecided transaction's group is asked this long after its last half message"},
    {"txn.check.interval", HF_OPTION_MS, AT(txn_check_interval_ms), "30s", 1, HF_DAYS(365), "TIME",
     "and again this long after it has read the last question"},
    {"txn.check.attempts", HF_OPTION_INT, AT(txn_check_attempts), "15", 1, 1000000, "N",
     "questions, then the transaction is parked for an operator"},
    {"txn.live.max", HF_OPTION_INT, AT(txn_live_max), "100000", 1, 10000000, "N",
     "undecided transactions; further ones are refused"},
    {"txn.id.memory.bytes", HF_OPTION_BYTES, AT(txn_id_memory_bytes), "16MiB", 1 << 20, 1 << 30, "BYTES",
     "memory for the ids of decided transactions, 32 bytes each: past it they are forgotten earlier"},
    {"txn.destination.wait", HF_OPTION_MS, AT(txn_destination_wait_ms), "10m", 1, HF_DAYS(365), "TIME",
     "how long a commit waits for a topic that is gone, before it ends in holdfast.rejected"},
    {"log.level", HF_OPTION_TEXT, AT(log_level), "info", 0, 0, "LEVEL", "error, warn, info or debug"},
};

const struct hf_options server_options = {"serve", rows, sizeof(rows) / sizeof(rows[0])};

static bool is_loopback(const char *address) {
    return strncmp(address, "127.", 4) == 0 || strncmp(address, "[::1]:", 6) == 0 ||
           strncmp(address, "localhost:", 10) == 0;
}

/* HOST:PORT, [V6]:PORT; and HOST or [V6] alone if a port is not required. */
static bool is_address(const char *text, bool port_required) {
    const char *colon = strrchr(text, ':');
    if (colon && strchr(colon, ']')) colon = NULL;
    size_t host = colon ? (size_t)(colon - text) : strlen(text);
    bool v6 = host > 2 && text[0] == '[' && text[host - 1] == ']';
    if (host == 0 || host >= SERVER_HOST || (!v6 && memchr(text, ':', host))) return false;
    if (!colon) return !port_required;
    size_t digits = strspn(colon + 1, "0123456789");
    return digits >= 1 && digits <= 5 && colon[1 + digits] == 0 && atoi(colon + 1) <= UINT16_MAX;
}

/* What is wrong, for people: the setting, its value, what it may be. */
struct told {
    char *text;
    size_t size;
};

HF_PRINTF(2, 3) static enum hf_err refuse(const struct told *why, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(why->text, why->size, fmt, ap);
    va_end(ap);
    return HF_EINVAL;
}

/* listen or http. */
static enum hf_err check_address(const char *name, const char *text, bool insecure_bind,
                                 const struct told *why) {
    if (!is_address(text, true))
        return refuse(
            why,
            "%s is \"%s\"; it may be ADDRESS:PORT, such as 127.0.0.1:9092 or [::1]:9092; port 0 is any free "
            "one",
            name, text);
    if (insecure_bind || is_loopback(text)) return HF_OK;
    return refuse(why,
                  "%s is \"%s\", an address that other machines reach, and there is no authentication: bind "
                  "to 127.0.0.1, or say --insecure-bind if the network itself is trusted",
                  name, text);
}

static enum hf_err check_addresses(const struct server_settings *s, const struct told *why) {
    enum hf_err e = check_address("listen", s->listen, s->insecure_bind, why);
    if (!e && *s->http) e = check_address("http", s->http, s->insecure_bind, why);
    if (!e && s->advertise && !is_address(s->advertise, false))
        e = refuse(why, "advertise is \"%s\"; it may be HOST or HOST:PORT, such as broker.example:9092",
                   s->advertise);
    return e;
}

/* NULL: a number, or not of a topic. */
static const char *text_of(const struct server_settings *s, enum log_setting which) {
    const char *const text[LOG_SETTINGS] = {
        [LOG_CLEANUP_POLICY] = s->cleanup_policy,        [LOG_RETENTION_MS] = s->retention_ms,
        [LOG_RETENTION_BYTES] = s->retention_bytes,      [LOG_SEGMENT_MS] = s->segment_ms,
        [LOG_DELETE_RETENTION] = s->delete_retention_ms, [LOG_DIRTY_RATIO] = s->dirty_ratio,
        [LOG_TIMESTAMP_TYPE] = s->timestamp_type,        [LOG_COMPACTION_LAG] = s->compaction_lag_ms,
    };
    return text[which];
}

enum hf_err server_settings_of_topics(const struct server_settings *s, struct log_settings *out,
                                      enum log_setting *wrong) {
    struct log_settings settings = {0};
    log_settings_put(&settings, LOG_SEGMENT_BYTES, s->segment_bytes);
    log_settings_put(&settings, LOG_MESSAGE_MAX, s->message_max);
    for (enum log_setting i = 0; i < LOG_SETTINGS; i++) {
        const char *text = text_of(s, i);
        int64_t value;
        if (!text) continue;
        if (log_setting_parse(i, hf_str_of(text), &value)) {
            *wrong = i;
            return HF_EINVAL;
        }
        log_settings_put(&settings, i, value);
    }
    *out = settings;
    return HF_OK;
}

/* Those that the log reads, as of topics that were told nothing. */
static enum hf_err check_topics(const struct server_settings *s, const struct told *why) {
    struct log_settings settings;
    enum log_setting wrong;
    if (!server_settings_of_topics(s, &settings, &wrong)) return HF_OK;
    return refuse(why, "%s is \"%s\"; it may be %s", log_setting_infos[wrong].name, text_of(s, wrong),
                  log_setting_infos[wrong].allowed);
}

enum hf_err server_settings_check(const struct server_settings *s, char *text, size_t size) {
    const struct told told = {text, size}, *why = &told;
    enum env_level level;
    size_t levels;
    if (env_level_of(s->log_level, &level))
        return refuse(why, "log.level is \"%s\"; it may be error, warn, info or debug", s->log_level);
    if (schedule_check_levels(hf_str_of(s->delay_levels), &levels))
        return refuse(
            why,
            "delay.levels is \"%s\"; it may be 1 to 99 durations such as 1s, 10m or 2h, separated by spaces",
            s->delay_levels);
    if (strcmp(s->partitioner, "murmur2") != 0 && strcmp(s->partitioner, "crc32") != 0)
        return refuse(why, "destination.partitioner is \"%s\"; it may be murmur2 or crc32", s->partitioner);
    if (s->request_max < s->message_max + MESSAGE_ROOM)
        return refuse(why,
                      "socket.request.max.bytes is %" PRId64 "; it must exceed max.message.bytes, %" PRId64
                      ", by at least %d",
                      s->request_max, s->message_max, MESSAGE_ROOM);
    enum hf_err e = check_topics(s, why);
    return e ? e : check_addresses(s, why);
}
