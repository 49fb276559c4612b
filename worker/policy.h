/* What becomes of a message whose handler has ended: settled, again later, or the dead-letter topic; and
 * whether the failures are the messages' or an outage.
 *
 *     struct policy p;
 *     policy_init(&p, &options);
 *     if (policy_may_start(&p, running, now_ms, &probe)) …
 *     struct judgement j = policy_judge(&p, &result, now_ms, random);
 *
 * Pure: time and randomness are arguments. One object, one thread. */
#ifndef WORKER_POLICY_H
#define WORKER_POLICY_H

#include "base/err.h"

struct policy_options {
    int32_t attempts;    /* 0: 16 */
    int64_t first_ms;    /* 0: 1 s */
    int64_t longest_ms;  /* 0: 10 min */
    int32_t concurrency; /* handlers at once */
};

enum {
    POLICY_OUTAGE_FAILURES = 20, /* in a row, without a success … */
    POLICY_OUTAGE_KEYS = 3,      /* … over so many keys */
    POLICY_PROBE_FIRST_MS = 1000,
    POLICY_PROBE_LONGEST_MS = 60000,
    POLICY_RECOVERY_MS = 10000,
    POLICY_UNAVAILABLE_MS = 1000 /* the dedup store is away: come back so much later */
};

enum ended {
    ENDED_DONE,
    ENDED_DUPLICATE,
    ENDED_FAILED,      /* the handler asked for a retry, or broke */
    ENDED_TIMEOUT,     /* likewise, after its time was up */
    ENDED_REJECTED,    /* the handler says: never */
    ENDED_CONFLICT,    /* same identity, another content */
    ENDED_EXPIRED,     /* older than what deduplication remembers */
    ENDED_UNDECODABLE, /* the worker cannot make a delivery of it */
    ENDED_BUSY,        /* somebody else is at it: no attempt */
    ENDED_UNAVAILABLE, /* the dedup store is away, or a database asks to try again: no attempt */
    ENDED_HANDED_BACK  /* the worker is ending, or the handler stops it: no attempt */
};

struct result {
    enum ended how;
    int64_t
        delay_ms; /* FAILED, TIMEOUT: what the handler asked for, -1: by policy. BUSY: when to come back */
    uint64_t key_hash; /* whose failure it was */
    int32_t attempts;  /* counted before this one */
    bool probe;        /* was started as a probe */
};

enum fate { FATE_SETTLE, FATE_RETRY, FATE_DEAD, FATE_HAND_BACK };

struct judgement {
    enum fate fate;
    int32_t attempts;   /* counted now */
    int64_t delay_ms;   /* RETRY */
    const char *reason; /* DEAD: hf-dlq-reason */
};

enum policy_state { POLICY_NORMAL, POLICY_PROBING, POLICY_RECOVERING };

struct policy {
    struct policy_options options;
    enum policy_state state;
    int32_t failures;                  /* in a row */
    uint64_t keys[POLICY_OUTAGE_KEYS]; /* the first different ones of them */
    int32_t key_count;
    int64_t pause_ms;   /* PROBING, RECOVERING: between probes */
    int64_t next_ms;    /* no probe before */
    int64_t healthy_ms; /* RECOVERING: first success */
    bool probing_now;   /* a probe is under way */
};

void policy_init(struct policy *p, const struct policy_options *options);

/* May one more handler start now? *probe: it is a probe; policy_judge must follow with it.
 */
bool policy_may_start(struct policy *p, int32_t running, int64_t now_ms, bool *probe);

/* When policy_may_start may change its mind by time alone; INT64_MAX: never. */
int64_t policy_next(const struct policy *p);

struct judgement policy_judge(struct policy *p, const struct result *r, int64_t now_ms, uint64_t random);

/* Exponential with full jitter: uniform in [1, min(longest, first * 2^(attempt - 1))]. attempt >= 1. */
int64_t policy_backoff(const struct policy *p, int32_t attempt, uint64_t random);

void policy_check(const struct policy *p);

#endif
