/* What the files of the schedule's part of the server share. */
#ifndef SERVER_DELAY_INTERNAL_H
#define SERVER_DELAY_INTERNAL_H

#include "server_internal.h"

#include "timewheel/schedule/schedule.h"

#include <jansson.h>

enum { DELAY_EVENTS = SCHEDULE_DAMAGED + 1, DELAY_WHY_BYTES = SCHEDULE_CRON_ERROR_BYTES + 64 };

struct delay_wait;
struct batch_builder;

/* When a moved message is to be due. */
struct delay_time {
    hf_str header, value; /* hf-due or hf-delay, as a record has it */
    bool by;              /* hf-due, so much from what it was: value is not there */
    int64_t by_ms;
};

struct delay_limits { /* delay_limits.c */
    struct incoming *topics;
    struct schedule_pending now, before; /* admitted and perhaps not read yet, in all */
    uint64_t turn;
    int64_t boundary;
};

struct delay {
    struct server *server;
    struct schedule *schedule;
    size_t levels;            /* how many delay levels there are */
    struct delay_wait *waits; /* requests that are not answered yet (delay_wait.h) */
    struct delay_limits limits;
    int64_t told_ms[DELAY_EVENTS]; /* when such a line was last logged */
    uint64_t events[DELAY_EVENTS];
    uint64_t refused;          /* batches, since there was no room */
    char why[DELAY_WHY_BYTES]; /* of the last record that was not admitted */
};

/* ---- answers (delay_look.c) ---- */

/* Takes body. */
void delay_reply_json(struct broker_http *rq, int status, json_t *body);
void delay_reply_error(struct broker_http *rq, int status, const char *why);
void delay_reply_failure(struct broker_http *rq, enum hf_err e);
/* 200: it is as was asked; 404: no such id; 409: it is otherwise. */
void delay_reply_outcome(struct broker_http *rq, enum schedule_outcome o, enum schedule_outcome asked);

/* "TOPIC/ID" of the path; an id may have slashes. */
bool delay_topic_and_id(struct broker_http *rq, hf_str *topic, hf_str *id);

/* ---- looking (delay_look.c) ---- */

void delay_on_list(void *state, struct broker_http *rq);
void delay_on_show(void *state, struct broker_http *rq);
void delay_on_next(void *state, struct broker_http *rq);
void delay_on_outcome(void *state, struct broker_http *rq);
void delay_on_count(void *state, struct broker_http *rq);
json_t *delay_due_json(const uint64_t due[SCHEDULE_DUE_BUCKETS]);

#define DELAY_FILTER_USAGE                                                                                   \
    "from, to: ms since 1970 (to above 0) or RFC 3339; limit: 1 to 1000; after: the next of the page before"
#define DELAY_NAME_USAGE "the path is /v1/schedule/TOPIC/ID, each percent-encoded"

/* topic, prefix, from, to and limit of a query. */
bool delay_filter_of(struct broker_http *rq, int64_t limit, struct schedule_query *q);
/* "DUE-SEQUENCE", as "next" of the page before; true without. */
bool delay_place_of(hf_str text, struct schedule_place *out);

/* ---- numbers (delay_stats.c) ---- */

void delay_on_stats(void *state, struct broker_http *rq);
void delay_metrics(void *state, struct hf_buf *out);

/* ---- limits (delay_limits.c) ---- */

/* May one more message for this destination pend? HF_EAGAIN: not now, d->why. */
HF_CHECK enum hf_err delay_limits_admit(struct delay *d, hf_str topic, size_t bytes);
void delay_limits_step(struct delay *d);
void delay_limits_fini(struct delay *d);

/* ---- many at once (delay_bulk.c) ---- */

void delay_on_bulk_cancel(void *state, struct broker_http *rq);
void delay_on_bulk_move(void *state, struct broker_http *rq);

/* ---- what was rejected (delay_replay.c) ---- */

void delay_on_replay(void *state, struct broker_http *rq);

/* ---- changing (delay_change.c) ---- */

/* The body's "due" or "delay", or "by" if shift is set. NULL: fine; else why not. Strings live in the
 * request, the reason lives until the next one. */
const char *delay_parse_time(struct delay *d, struct broker_http *rq, bool shift, struct delay_time *out);
/* The record that moves a message. HF_ELIMIT: too many headers. */
HF_CHECK enum hf_err delay_build_move(struct batch_builder *b, const struct schedule_item *item,
                                      const struct delay_time *time);

void delay_on_cancel(void *state, struct broker_http *rq);
void delay_on_move(void *state, struct broker_http *rq);

#endif
