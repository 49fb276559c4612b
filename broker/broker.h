/* The network side of the server: one libevent loop that accepts Kafka connections, frames, bounds and
 * decodes requests, hands them to handlers, and sends answers in order; and HTTP on the same loop.
 *
 *     static const struct broker_handler handlers[] = {{KAFKA_API_metadata, on_metadata, server}, …};
 *     static const struct broker_route routes[] = {{"GET", "/healthz", on_health, server}, …};
 *     broker_open(&(struct broker_options){.env = env, .listen = "127.0.0.1:9092", …}, &b);
 *     broker_run(b);            // until broker_stop
 *     broker_close(b);
 *
 *     static void on_metadata(void *ctx, struct broker_request *rq) {
 *         const struct kafka_metadata_request *q = rq->body;
 *         struct kafka_metadata_response *a = rq->answer;      // every field at its fallback
 *         a->cluster_id = …;                                   // allocate from &rq->arena
 *         broker_answer(rq);                                   // now or later, once
 *     }
 *
 * Threads: everything runs on the thread of broker_run. It steps the cores too (options.step). The only home
 * of libevent: its types do not show.
 *
 * The program must ignore SIGPIPE: sendfile knows no other way.
 *
 * What it does not do: decide anything about topics, groups or records. */
#ifndef BROKER_BROKER_H
#define BROKER_BROKER_H

#include "broker/codec.h"
#include "broker/kafka_errors.h"
#include "env/env.h"

struct broker;
struct broker_connection;

struct broker_range {
    struct kafka_range range;
    struct broker_range *next;
};

/* ---- Kafka requests ---- */

struct broker_request {
    const struct kafka_api *api;
    int16_t version;
    int32_t correlation_id;
    hf_str client_id;      /* null if the client gave none */
    const char *client;    /* "127.0.0.1:53412" */
    struct hf_arena arena; /* ends with the request */
    const void *body;      /* struct kafka_<api>_request; its strings lie in the frame and may be changed */
    void *answer;          /* struct kafka_<api>_response, blank */
    bool gone;             /* the client has gone: the answer will be dropped */
    void *state;           /* the handler's own */
    /* Set by a handler that keeps the request: called once when the client goes away. It may answer at once
     * or later, or not be set at all; the request lives until it is answered. */
    void (*on_gone)(struct broker_request *rq);

    /* The broker's own. */
    struct broker_connection *connection;
    struct broker_request *next;
    uint8_t *frame;
    size_t frame_size;
    struct broker_range *ranges;
    enum broker_request_state { BROKER_QUEUED, BROKER_STARTED, BROKER_ANSWERED } progress;
    bool silent;       /* no answer is to be sent */
    int16_t encode_as; /* the version of the answer */
};

/* A range of a file for the answer, blank: set its fields and point a records field at it. release is called
 * once, when the range was sent or dropped, whatever becomes of the request. NULL without memory. */
struct kafka_range *broker_range(struct broker_request *rq);

/* Releases all ranges made so far: the answer must not name them. Their structs stay until the request ends.
 */
void broker_drop_ranges(struct broker_request *rq);

/* Ends the request. rq->answer is encoded at the end of the loop's turn at the earliest, and sent when all
 * earlier requests of the connection have their answers: what it points to must live as long as the request
 * (its arena, its frame). If the answer cannot be encoded (limit, memory), the connection is closed. */
void broker_answer(struct broker_request *rq);

/* Ends the request without an answer (acks=0). */
void broker_answer_nothing(struct broker_request *rq);

/* Ends the request and closes its connection with one log line. */
void broker_refuse(struct broker_request *rq, const char *why);

struct broker_handler {
    int16_t key; /* KAFKA_API_… */
    void (*handle)(void *ctx, struct broker_request *rq);
    void *ctx;
};

/* ---- HTTP requests ---- */

struct broker_http;

/* method "GET", "POST", "DELETE" …; path is exact, or ends in "/" + "*" and takes everything below. The first
 * row that fits wins. query names the parameters there are, separated by spaces: a request with another, with
 * one twice, or with a NUL byte in one is answered 400, since a misspelt filter must not become no filter.
 * NULL: parameters are not looked at. */
struct broker_route {
    const char *method;
    const char *path;
    void (*handle)(void *ctx, struct broker_http *rq);
    void *ctx;
    const char *query;
};

/* What the route's "*" stands for: decoded, may be empty. */
hf_str broker_http_rest(const struct broker_http *rq);
/* A query parameter, decoded; {NULL, 0} if absent. */
hf_str broker_http_query(const struct broker_http *rq, const char *name);
hf_str broker_http_body(const struct broker_http *rq);

/* Memory that ends with the request. */
struct hf_arena *broker_http_arena(struct broker_http *rq);

/* Ends the request; now or later, once. The body is copied. A client that has gone is no error. */
void broker_http_reply(struct broker_http *rq, int status, const char *content_type, hf_str body);

/* ---- the loop ---- */

/* Zero means the default in parentheses. */
struct broker_options {
    struct hf_env *env;
    const char *listen; /* "127.0.0.1:9092", "[::1]:9092", "0.0.0.0:0": port 0 is any free one */
    const char *http;   /* likewise; NULL: none */
    const struct broker_handler *handlers;
    size_t handler_count;
    const struct broker_route *routes;
    size_t route_count;

    /* Called after each batch of events, with the microseconds after which it wants to be called again. */
    int64_t (*step)(void *ctx);
    void *step_ctx;
    int wake_fd; /* becoming readable ends a wait (env_poll_fd); -1: none */

    size_t connections_max; /* (4096) further ones are closed at once */
    size_t frame_max;       /* (64 MiB) bytes of one request */
    size_t frames_max;      /* (256 MiB) bytes of all requests being received and worked on; larger ones than
                             * 64 KiB wait beyond it */
    size_t pipeline_max;    /* (64) requests of one connection worked on side by side */
    size_t answers_max;     /* (1 MiB) unsent bytes above which a connection's next request waits */
    size_t answer_max;      /* (64 MiB) bytes of one answer, file ranges not counted */
    size_t arena_max;       /* (64 MiB) of one request */
    int64_t idle_ms;        /* (10 min) a connection without a request is closed */
    int64_t stall_ms;       /* (60 s) one in the middle of a frame, or that does not read its answers, too */
    size_t http_connections_max; /* (1,024) further ones wait until one is closed */
    size_t http_body_max;        /* (1 MiB) */
};

/* Binds and listens; nothing is served before broker_run. HF_EINVAL: an address does not parse; HF_EEXIST: it
 * is in use; HF_EIO, HF_ENOMEM. A log line tells more. */
HF_CHECK enum hf_err broker_open(const struct broker_options *options, struct broker **out);

/* Serves until broker_stop; then accepts and reads nothing more, and returns when producers at work have
 * their answers, at most 2 s later. HF_OK, or HF_EIO if the loop itself failed. */
HF_CHECK enum hf_err broker_run(struct broker *b);
void broker_stop(struct broker *b);

/* This signal means broker_stop. HF_ELIMIT, HF_ENOMEM, HF_EIO. */
HF_CHECK enum hf_err broker_stop_on_signal(struct broker *b, int number);

/* Closes all connections: requests at work get on_gone; those that are not answered in it end here, and must
 * not be touched again; so do HTTP requests without a reply. Pins of ranges are released, so the log is
 * closed after the broker. */
void broker_close(struct broker *b);

/* Where it listens: "127.0.0.1:9092". "" if it does not. */
const char *broker_kafka_address(const struct broker *b);
const char *broker_http_address(const struct broker *b);

/* No produce request is started while it is held; they queue, and their connections are not read. */
void broker_hold(struct broker *b, bool held);

/* Ends the wait now, so that step is called. From the loop's thread. */
void broker_wake(struct broker *b);

struct broker_stats {
    uint64_t connections, connections_total, connections_refused, frames_refused;
    uint64_t http_connections; /* a second ago */
    uint64_t bytes_in, bytes_out, frame_bytes;
    uint64_t requests[64]; /* by key */
};
void broker_stats_get(const struct broker *b, struct broker_stats *out);

/* ---- log lines of which there may be too many ---- */

/* At most ten a second for each limiter; the next line that passes tells how many did not. */
struct broker_limiter {
    int64_t window_us;
    uint32_t lines;
    uint64_t suppressed;
};
bool broker_limiter_pass(struct broker_limiter *l, int64_t now_us, uint64_t *suppressed);

#endif
