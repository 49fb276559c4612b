/* What the files of server/ share: the server itself, and how an API family plugs in.
 *
 * A part is a family of handlers and routes with a state of its own. To add one: a file with a
 * `const struct server_part`, and its name in parts.c. */
#ifndef SERVER_INTERNAL_H
#define SERVER_INTERNAL_H

#include "base/control.h"
#include "broker/broker.h"
#include "server.h"
#include "store/log/log.h"

enum {
    SERVER_NODE_ID = 1,
    SERVER_HOST = 256,
    SERVER_PARTS_MAX = 24,
    SERVER_PARTITIONS_MAX = 10000,
    /* Topics that one request may create or delete: what is done for each is not free. */
    SERVER_TOPICS_MAX = 1000
};

struct server_handler {
    int16_t key; /* KAFKA_API_… */
    void (*handle)(void *state, struct broker_request *rq);
};

struct server_route {
    const char *method, *path; /* as in broker_route, and so is query */
    void (*handle)(void *state, struct broker_http *rq);
    const char *query;
};

struct server_part {
    const char *name;
    /* The part's state, which its handlers and the functions below get; the server itself if open is NULL.
     * Log and engine are open, our topics exist; the broker is not there yet. */
    enum hf_err (*open)(struct server *s, void **state);
    /* Moves it on. Returns the wall clock time of the next call at the latest; INT64_MAX: not before
     * something else happens. May be NULL, as all that follow. */
    int64_t (*step)(void *state, int64_t now_ms);
    /* The broker is closed, the log still open. */
    void (*close)(void *state);
    /* Appends lines in Prometheus' text format. */
    void (*metrics)(void *state, struct hf_buf *out);
    const struct server_handler *handlers;
    size_t handler_count;
    const struct server_route *routes;
    size_t route_count;
};

extern const struct server_part *const server_parts[];
extern const size_t server_part_count;

struct server {
    const struct server_settings *settings;
    struct hf_env *env;
    struct log *log;
    struct engine *engine;
    struct broker *broker;
    struct log_settings settings_of_topics; /* for those that were told nothing */
    char host[SERVER_HOST];                 /* advertised */
    int32_t port;
    void *states[SERVER_PARTS_MAX]; /* of the parts, in their order */
    size_t opened;
    bool ready;
    enum hf_err failure; /* the disk's */
    struct broker_handler handlers[64];
    struct broker_route routes[128];
};

/* The state of another part; NULL if it is not open. */
void *server_state(const struct server *s, const struct server_part *part);

/* ---- answers that wait for several completions (wait.c) ---- */

/* Counts what a request waits for. The request may end earlier (its client goes away): then `rq` is NULL and
 * completions must not touch anything of it. */
struct server_wait {
    struct broker_request *rq;
    size_t left;
    void (*finish)(struct server_wait *w); /* rq is there: fills in what is missing and answers */
    void *arg;
};

/* One count is the caller's own: end it with server_wait_done after the last server_wait_more. NULL without
 * memory. */
struct server_wait *server_wait_begin(struct broker_request *rq, void (*finish)(struct server_wait *w),
                                      void *arg);
void server_wait_more(struct server_wait *w);
void server_wait_done(struct server_wait *w);

/* For calls of the log that end with a log_done: counts one more, and puts what it ended with where the
 * answer has it. NULL without memory. */
struct server_result;
struct server_result *server_wait_result(struct server_wait *w, int16_t *error);
void server_wait_ended(void *result, enum hf_err e);   /* the log_done */
void server_wait_forget(struct server_result *result); /* the call did not begin */

/* ---- shared by families ---- */

/* The answer takes more memory than a request may: the connection ends. */
void server_no_memory(struct broker_request *rq);
/* Answers if the answer could be laid out whole. */
void server_answer(struct broker_request *rq, bool whole);

/* Of all topics, in order; the names are the log's. NULL: no memory. */
hf_str *server_topic_names(struct server *s, struct hf_arena *a, size_t *count);

/* "counter" or "gauge", in Prometheus' text format. */
void server_metric(struct hf_buf *out, const char *name, const char *type, uint64_t value);

/* Fetch, ListOffsets, OffsetForLeaderEpoch: what the client believes about the leader's epoch, -1: nothing.
 */
int16_t server_check_epoch(const struct log_bounds *bounds, int32_t epoch);

/* May a client create this topic by naming it? Starts it: HF_OK: done will be called; HF_EEXIST: it is there
 * already; HF_ENOTFOUND: not allowed; HF_EINVAL: no legal name. */
HF_CHECK enum hf_err server_auto_create(struct server *s, hf_str topic, log_done *done, void *arg);

/* A topic is to be deleted: fn gets each state key of its committed offsets, to be dropped in the same
 * record; and when that is on its way, the coordinator forgets them. */
void server_offset_keys(struct server *s, hf_str topic, void (*fn)(void *arg, hf_str key), void *arg);
void server_offsets_deleted(struct server *s, hf_str topic);

/* What a group has committed of a partition; false: nothing. The metadata stays until the next call. */
bool server_offset_get(struct server *s, hf_str group, hf_str topic, int32_t partition, int64_t *offset,
                       hf_str *metadata);
/* Commits for a group that has no members; nobody hears how it ends. */
void server_offset_put(struct server *s, hf_str group, hf_str topic, int32_t partition, int64_t offset,
                       hf_str metadata);

/* What --retention.ms and so on say. HF_EINVAL: *wrong is the setting whose text cannot be read. */
HF_CHECK enum hf_err server_settings_of_topics(const struct server_settings *s, struct log_settings *out,
                                               enum log_setting *wrong);

/* A setting that a client tells to a topic: into `to`, or a Kafka error and *why in the arena, which names
 * setting, value and what is allowed. */
int16_t server_setting_take(struct hf_arena *a, hf_str topic, hf_str name, hf_str value,
                            struct log_settings *to, hf_str *why);

/* What only the schedule knows of a record of holdfast.delay that is right in form (broker/door.h, admit). */
HF_CHECK enum hf_err server_delay_admit(struct server *s, const struct hf_control *c, size_t bytes,
                                        struct hf_control_error *why);

extern const struct server_part server_produce, server_fetch, server_metadata, server_topics, server_offsets,
    server_configs, server_records, server_log_dirs, server_producers, server_groups, server_delay,
    server_txn, server_health;

#endif
