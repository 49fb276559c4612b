/* What the files of this folder share. */
#ifndef BROKER_INTERNAL_H
#define BROKER_INTERNAL_H

#include "broker.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/listener.h>

enum {
    BROKER_ADDRESS = 64,
    BROKER_SCRATCH = 64 * 1024, /* one read */
    BROKER_PREFIX = 4,          /* a frame's length field */
    BROKER_SIGNALS = 4,
#ifdef __SANITIZE_ADDRESS__
    BROKER_SPARES = 0, /* a request that is touched after its end shall be seen */
#else
    BROKER_SPARES = 64, /* some 4 KiB each */
#endif
};

struct broker_http_server;

struct broker {
    struct broker_options options;
    struct event_base *base;
    struct evconnlistener *listener;
    struct event *timer, *wake;
    int timer_fd;
    int64_t armed_us; /* when the timer rings; INT64_MAX: it does not */
    struct broker_http_server *http;
    char address[BROKER_ADDRESS], http_address[BROKER_ADDRESS];
    bool stopping;
    bool held; /* produce requests are not started */

    /* Connections in the order of their last activity, oldest first. */
    struct broker_connection *oldest, *newest;
    /* Closed ones whose requests have not ended. */
    struct broker_connection *closed;
    /* Those with answers to write or requests to start when the batch of events is over. */
    struct broker_connection *dirty;
    /* Those that wait until frames_held falls. */
    struct broker_connection *starved, **starved_last;
    size_t frames_held;
    size_t producing; /* requests at work that a stop waits for */
    struct event *signals[BROKER_SIGNALS];
    size_t signal_count;
    int64_t swept_us;
    int64_t turn_us; /* the time, as far as this turn of the loop has asked for it; 0: not yet */

    /* Ended ones, with the first block of their arenas: as many come again as are worked on at a time. */
    struct broker_request *spare;
    size_t spare_count;

    uint8_t scratch[BROKER_SCRATCH];
    struct hf_buf encoded; /* one answer at a time */
    struct broker_stats stats;
    struct broker_limiter refused, crowded;
};

/* connection.c */
void connection_open(struct broker *b, evutil_socket_t fd, const char *address);
/* Frees it, or as soon as its last request has ended. */
void connection_close(struct broker_connection *c);
/* The same, with one log line (rate-limited) and counted. */
void connection_refuse(struct broker_connection *c, const char *why);
void connection_mark_dirty(struct broker_connection *c);
/* Ends what handlers never answered: at the end of all. */
void connections_drop(struct broker *b);
/* Starts requests and writes answers of all dirty connections; lets starved ones read. */
void connections_settle(struct broker *b);
/* All of them may have a request that was held back. */
void connections_resume(struct broker *b);
/* Closes what has been idle or stalled for too long. */
void connections_sweep(struct broker *b);
const char *connection_address(const struct broker_connection *c);

/* request.c */
/* Takes the frame (malloc'ed, without its length field). NULL: refused; *why says so. */
struct broker_request *request_of_frame(struct broker *b, struct broker_connection *c, uint8_t *frame,
                                        size_t n, const char **why);
/* Decodes the body and calls the handler. false: malformed; *why says so, the caller ends the request. */
bool request_start(struct broker *b, struct broker_request *rq, const char **why);
/* Releases ranges that were not sent. */
void request_free(struct broker *b, struct broker_request *rq);
/* The memory of ended ones. */
void requests_fini(struct broker *b);
/* Encodes the answer into b->encoded, in which the ranges have their places; false: it could not be encoded. */
bool request_encode(struct broker *b, struct broker_request *rq, struct kafka_splices *ranges);
/* Appends it to out, without the first bytes that were sent; false: no memory. */
bool request_append(const struct hf_buf *encoded, const struct kafka_splices *ranges, size_t sent,
                    struct evbuffer *out);

/* http.c */
HF_CHECK enum hf_err http_open(struct broker *b, struct broker_http_server **out);
void http_close(struct broker_http_server *h);
/* Once a second: looks which connections are gone. */
void http_sweep(struct broker_http_server *h);

/* broker.c */
HF_CHECK enum hf_err broker_parse_address(const char *text, struct sockaddr_storage *out, int *n);
void broker_format_address(const struct sockaddr *a, char out[BROKER_ADDRESS]);

#endif
