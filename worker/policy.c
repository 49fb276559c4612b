/* A poison message fails alone; in an outage everything fails. Sixteen attempts with growing pauses deal with
 * the first. In the second they would put a whole backlog on the dead-letter topic, so a member of the group
 * that sees nothing but failures stops and probes: one message in flight, further and further apart, and only
 * the probe's attempt counts.
 *
 *              20 failures in a row, 3 keys            a success
 *     NORMAL ───────────────────────────────▶ PROBING ──────────▶ RECOVERING
 *        ▲                                     ▲   │ failure:       │  │ success: pause / 2
 *        │                                     │   ▼ pause * 2      │  │
 *        │                                     └────────────────────┘  │
 *        │                                            failure          │
 *        └─────────────────────────────────────────────────────────────┘
 *                         10 s after the first success, or pause below 1/16 s
 *
 *                    success                      failure                    time
 *     NORMAL         failures = 0                 count; maybe → PROBING     —
 *     PROBING        → RECOVERING, pause / 2      of the probe: pause * 2    a probe each pause
 *     RECOVERING     pause / 2; maybe → NORMAL    of the probe: → PROBING    a probe each pause; 10 s: → NORMAL
 *
 * Failures of messages that were under way when the outage was seen, or that are no probes, neither count as
 * attempts nor change the pause. A success of any message ends the probing, since it shows that effects
 * happen. A duplicate, a rejection or a busy lease say nothing about it either way.
 *
 * Invariant: probing_now and pause_ms are 0 exactly as long as NORMAL, but for a probe that outlives the
 * recovery. */
#include "policy.h"

#include <assert.h>

enum { PAUSE_NEGLIGIBLE_MS = 62 };

void policy_init(struct policy *p, const struct policy_options *options) {
    *p = (struct policy){.options = *options};
    if (!p->options.attempts) p->options.attempts = 16;
    if (!p->options.first_ms) p->options.first_ms = HF_SECONDS(1);
    if (!p->options.longest_ms) p->options.longest_ms = HF_MINUTES(10);
}

void policy_check(const struct policy *p) {
    assert(p->failures >= 0 && p->key_count <= POLICY_OUTAGE_KEYS);
    assert((p->state == POLICY_NORMAL) == (p->pause_ms == 0));
    assert(p->pause_ms <= POLICY_PROBE_LONGEST_MS);
}

static void enter(struct policy *p, enum policy_state state, int64_t pause_ms, int64_t now_ms) {
    p->state = state;
    p->pause_ms = pause_ms;
    p->next_ms = now_ms + pause_ms;
    p->failures = p->key_count = 0;
}

static int64_t clamp(int64_t v, int64_t low, int64_t high) {
    return v < low ? low : v > high ? high : v;
}

/* ---- outage ---- */

static void success(struct policy *p, int64_t now_ms) {
    p->failures = p->key_count = 0;
    if (p->state == POLICY_NORMAL) return;
    if (p->state == POLICY_PROBING) p->healthy_ms = now_ms;
    int64_t pause = p->pause_ms / 2;
    if (pause < PAUSE_NEGLIGIBLE_MS)
        enter(p, POLICY_NORMAL, 0, now_ms);
    else
        enter(p, POLICY_RECOVERING, pause, now_ms);
}

static void count_failure(struct policy *p, uint64_t key_hash, int64_t now_ms) {
    p->failures++;
    int32_t i = 0;
    while (i < p->key_count && p->keys[i] != key_hash) i++;
    if (i == p->key_count && i < POLICY_OUTAGE_KEYS) p->keys[p->key_count++] = key_hash;
    if (p->failures >= POLICY_OUTAGE_FAILURES && p->key_count == POLICY_OUTAGE_KEYS)
        enter(p, POLICY_PROBING, POLICY_PROBE_FIRST_MS, now_ms);
}

/* Does the attempt count? */
static bool failure(struct policy *p, const struct result *r, int64_t now_ms) {
    if (p->state == POLICY_NORMAL) {
        count_failure(p, r->key_hash, now_ms);
        return true;
    }
    if (!r->probe) return false;
    enter(p, POLICY_PROBING, clamp(p->pause_ms * 2, POLICY_PROBE_FIRST_MS, POLICY_PROBE_LONGEST_MS), now_ms);
    return true;
}

bool policy_may_start(struct policy *p, int32_t running, int64_t now_ms, bool *probe) {
    if (running >= p->options.concurrency) return false;
    if (p->state == POLICY_RECOVERING && now_ms - p->healthy_ms >= POLICY_RECOVERY_MS)
        enter(p, POLICY_NORMAL, 0, now_ms);
    *probe = false;
    if (p->state == POLICY_NORMAL) return true;
    if (p->probing_now || now_ms < p->next_ms) return false;
    p->probing_now = *probe = true;
    p->next_ms = now_ms + p->pause_ms;
    return true;
}

int64_t policy_next(const struct policy *p) {
    if (p->state == POLICY_NORMAL) return INT64_MAX;
    int64_t recovered = p->state == POLICY_RECOVERING ? p->healthy_ms + POLICY_RECOVERY_MS : INT64_MAX;
    int64_t probe = p->probing_now ? INT64_MAX : p->next_ms;
    return probe < recovered ? probe : recovered;
}

/* ---- a message ---- */

int64_t policy_backoff(const struct policy *p, int32_t attempt, uint64_t random) {
    int64_t most = p->options.first_ms;
    for (int32_t i = 1; i < attempt && most < p->options.longest_ms; i++) most *= 2;
    most = clamp(most, 1, p->options.longest_ms);
    return 1 + (int64_t)(random % (uint64_t)most);
}

static struct judgement dead(int32_t attempts, const char *reason) {
    return (struct judgement){.fate = FATE_DEAD, .attempts = attempts, .reason = reason};
}

static struct judgement later(int32_t attempts, int64_t delay_ms) {
    return (struct judgement){
        .fate = FATE_RETRY, .attempts = attempts, .delay_ms = delay_ms < 1 ? 1 : delay_ms};
}

static struct judgement failed(struct policy *p, const struct result *r, int64_t now_ms, uint64_t random) {
    int32_t attempts = r->attempts + (failure(p, r, now_ms) ? 1 : 0);
    if (attempts >= p->options.attempts)
        return dead(attempts, r->how == ENDED_TIMEOUT ? "timeout" : "exhausted");
    if (r->delay_ms >= 0) return later(attempts, r->delay_ms);
    return later(attempts, policy_backoff(p, attempts < 1 ? 1 : attempts, random));
}

struct judgement policy_judge(struct policy *p, const struct result *r, int64_t now_ms, uint64_t random) {
    if (r->probe) p->probing_now = false;
    switch (r->how) {
    case ENDED_DONE:
        success(p, now_ms);
        return (struct judgement){.fate = FATE_SETTLE, .attempts = r->attempts};
    case ENDED_DUPLICATE: return (struct judgement){.fate = FATE_SETTLE, .attempts = r->attempts};
    case ENDED_REJECTED: return dead(r->attempts + 1, "rejected");
    case ENDED_CONFLICT: return dead(r->attempts, "identity-conflict");
    case ENDED_EXPIRED: return dead(r->attempts, "dedup-expired");
    case ENDED_UNDECODABLE: return dead(r->attempts, "undecodable");
    case ENDED_BUSY: return later(r->attempts, r->delay_ms);
    case ENDED_UNAVAILABLE: (void)failure(p, r, now_ms); return later(r->attempts, POLICY_UNAVAILABLE_MS);
    case ENDED_HANDED_BACK: return (struct judgement){.fate = FATE_HAND_BACK, .attempts = r->attempts};
    case ENDED_FAILED:
    case ENDED_TIMEOUT: break;
    }
    return failed(p, r, now_ms, random);
}
