/* A lean Kafka client for benchmarks: one thread, epoll, requests prepared once and sent again and again.
 * librdkafka costs tens of microseconds a message with one in flight, which would hide the server; this costs
 * a few.
 *
 *     lean_open(&l, "127.0.0.1", port, connections);
 *     lean_run(&l, &(struct lean_load){.request = …, .window = 1, .seconds = 10, .on_answer = check});
 *
 * Speaks to the floor programs too: a frame is four bytes of length, then a correlation id; they answer the
 * same. */
#ifndef BENCH_LEAN_H
#define BENCH_LEAN_H

#include "base/bytes.h"

struct lean_connection {
    int fd;
    int in_flight;
    size_t sent; /* bytes of the request under way that are out */
    bool sending;
    uint8_t head[4]; /* length of the answer, as far as it has come */
    size_t got;      /* bytes of head, then of body */
    size_t length;   /* of the body; 0 while the head is incomplete */
    uint8_t *body;
    size_t body_cap;
    int64_t started[64]; /* when each request in flight was sent, oldest first (ring) */
    unsigned first, next;
    void *user;
    hf_str request;
};

enum { LEAN_WINDOW_MAX = 64 };

struct lean {
    struct lean_connection *connections;
    int count;
    int epoll;
};

struct lean_load {
    hf_str request; /* the frame without its length, sent by every connection */
    int window;     /* requests in flight on each connection */
    double seconds;
    int64_t requests; /* stop after so many; 0: by time alone */
    /* Looks at an answer; may set c->request to the next one. Returns how many messages it stands for, or -1:
     * stop. */
    int64_t (*on_answer)(struct lean_connection *c, hf_str body, void *arg);
    void *arg;
};

struct lean_result {
    int64_t messages, answers;
    double seconds;
    double p50_ms, p99_ms, p999_ms, max_ms;
};

/* Blocking connects; TCP_NODELAY, and cubic as the congestion control, since BBR halves loopback. Exits with
 * a line on failure: these are benchmarks. */
void lean_open(struct lean *l, int port, int connections);
void lean_close(struct lean *l);
void lean_run(struct lean *l, const struct lean_load *load, struct lean_result *out);

/* Kafka frames, appended to out. */
void lean_produce(struct hf_buf *out, const char *topic, int32_t partition, int16_t acks, hf_str batch);
void lean_fetch(struct hf_buf *out, const char *topic, int32_t partition, int64_t offset, int32_t max_bytes);
/* Creates the topic by asking for its metadata until each of its partitions has a leader that serves; at most a
 * minute. */
void lean_make_topic(struct lean *l, const char *topic);
/* Next offset of a partition. */
int64_t lean_end(struct lean *l, const char *topic, int32_t partition);

/* The error code in a Produce v7 answer, and where its batch went. */
int lean_produce_error(hf_str body, int64_t *offset);
/* Record bytes in a Fetch v11 answer, and the offset after them (unchanged if there are none). */
hf_str lean_fetch_records(hf_str body, int64_t *next_offset, int *error);

/* CPU seconds (user and system) that a process has used, from /proc. */
double lean_cpu_of(long pid);
double lean_now(void);
_Noreturn void lean_die(const char *fmt, ...) HF_PRINTF(1, 2);

#endif
