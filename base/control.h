/* What the hf- headers of one record say. One parser for the door (which refuses what is wrong in form), the
 * schedule and the coordinator (which act on it), so that the three cannot disagree.
 *
 *     struct hf_control c; struct hf_control_error why;
 *     if (hf_control_delay(headers, n, &c, &why)) … why.header, why.reason …
 *
 * Form only, never state: whether a topic exists or an id is pending is not asked here. Pure; any thread. */
#ifndef BASE_CONTROL_H
#define BASE_CONTROL_H

#include "bytes.h"

enum hf_op {
    HF_OP_SCHEDULE,
    HF_OP_CANCEL,
    HF_OP_MOVE,
    HF_OP_NEXT,   /* the next run of a recurring schedule: written by the schedule, refused from clients */
    HF_OP_LEVELS, /* the table of delay levels from here on: likewise, by the server */
    HF_OP_PREPARE,
    HF_OP_COMMIT,
    HF_OP_ROLLBACK
};

enum hf_on_conflict { HF_REPLACE, HF_KEEP, HF_ONCE };

enum {
    HF_ID_MAX = 1000,           /* bytes of hf-id, hf-message-id */
    HF_CRON_MAX = 256,          /* bytes of hf-cron */
    HF_ZONE_MAX = 64,           /* bytes of hf-tz */
    HF_DELAY_HEADERS_MAX = 240, /* of a record that clients send to a topic of ours: moves add some */
    HF_DELAY_LEVELS_MAX = 99,
};

/* Due times and delays end where RFC 3339 does, at the last millisecond of 9999: the sum of a time and a
 * delay fits. */
#define HF_TIME_MAX_MS INT64_C(253402300799999)

struct hf_control {
    enum hf_op op;
    hf_str topic;      /* hf-topic; {NULL, 0} if absent, as all strings here. Borrowed from the headers */
    hf_str group;      /* hf-group */
    hf_str key;        /* hf-key */
    hf_str id;         /* hf-id */
    hf_str message_id; /* hf-message-id */
    hf_str cron, tz;   /* hf-cron, hf-tz: looked into by timewheel/cron */
    hf_str last_run;   /* hf-cron-last */
    bool skips;        /* hf-cron-overlap: skip */
    enum hf_on_conflict on_conflict;
    int64_t due_ms;         /* hf-due; -1: absent; before 1970: 0 */
    int64_t delay_ms;       /* hf-delay; -1: absent, or a level */
    int delay_level;        /* hf-delay: level1 and up; 0: none */
    int64_t check_after_ms; /* hf-check-after; -1: absent */
    int64_t expect;    /* hf-expect: sequence of the message that a move or cancel is about; -1: absent */
    int32_t partition; /* hf-partition; -1: absent */
};

struct hf_control_error {
    const char *header; /* which header, or "key" for the record's key */
    const char *reason; /* static text */
};

/* A record of holdfast.delay. HF_EINVAL and *why: no destination, both hf-due and hf-delay, neither (unless
 * cancel), a value that does not parse or overflows, an unknown op, a control header twice, a destination of
 * ours, a bad name, a cancel without an id, hf-on-conflict without an id, a negative partition, hf-cron
 * without an id or with a time of its own, hf-tz or hf-cron-overlap without hf-cron, hf-cron-overlap: skip
 * without hf-group. What hf-cron and hf-tz say is not looked into.
 *
 * HF_OP_MOVE is how the HTTP API changes a due time: the same message again with its new time, which takes
 * the place of the pending one only if that still has sequence hf-expect. */
HF_CHECK enum hf_err hf_control_delay(const struct hf_header *headers, size_t n, struct hf_control *out,
                                      struct hf_control_error *why);

/* A record of holdfast.txn; key is the record's (the transaction's id; must not be null or empty). A prepare
 * may have hf-due or hf-delay, and an hf-id only with one of them. */
HF_CHECK enum hf_err hf_control_txn(hf_str key, const struct hf_header *headers, size_t n,
                                    struct hf_control *out, struct hf_control_error *why);

/* Is this header one of the control headers, which a move takes off? (hf-message-id, hf-due, hf-created-at,
 * hf-version and headers that are not ours stay.) */
bool hf_header_is_control(hf_str name);

/* Of a message in holdfast.rejected: is this one a header that a replay takes off? What it was rejected for,
 * where it was to go and when, and the control headers. */
bool hf_header_is_of_rejection(hf_str name);

#endif
