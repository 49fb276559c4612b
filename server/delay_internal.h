/* What the files of the schedule's part of the server share. */
#ifndef SERVER_DELAY_INTERNAL_H
#define SERVER_DELAY_INTERNAL_H

#include "server_internal.h"

#include "timewheel/schedule/schedule.h"

#include <jansson.h>

enum { DELAY_EVENTS = SCHEDULE_DAMAGED + 1, DELAY_WHY_BYTES = SCHEDULE_CRON_ERROR_BYTES + 64 };

struct change;

struct delay {
    struct server *server;
    struct schedule *schedule;
    size_t levels;          /* how many delay levels there are */
    struct change *changes; /* delay_change.c */
    size_t change_count;
    int64_t told_ms[DELAY_EVENTS]; /* when such a line was last logged */
    uint64_t events[DELAY_EVENTS];
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
void delay_on_stats(void *state, struct broker_http *rq);
void delay_metrics(void *state, struct hf_buf *out);

/* ---- changing (delay_change.c) ---- */

void delay_on_cancel(void *state, struct broker_http *rq);
void delay_on_move(void *state, struct broker_http *rq);
void delay_answer_changes(struct delay *d, int64_t mono_ms);
bool delay_is_appending(const struct delay *d);
void delay_forget_changes(struct delay *d);

#endif
