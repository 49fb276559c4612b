/* A hierarchical timing wheel: holds 64-bit payloads until their tick, gives them back in the order of
 * (due, insertion).
 *
 *     struct wheel *w;
 *     wheel_open(&(struct wheel_options){.start = now_ms, .max_bytes = 64 << 20}, &w);
 *     e = wheel_insert(w, now_ms + 1500, payload);
 *     …
 *     struct wheel_timer due[256];
 *     size_t n = wheel_expire(w, now_ms, due, 256);      // again while n == 256
 *     sleep until wheel_next(w);
 *
 * Pure data structure: time is an argument, ticks mean what the caller wants (milliseconds, here and in txn).
 * One object, one thread at a time. Cancelling is the owner's: it marks what the payload names as dead and
 * drops it when it comes out, or has all dead ones swept out when they have become many. */
#ifndef TIMEWHEEL_WHEEL_WHEEL_H
#define TIMEWHEEL_WHEEL_WHEEL_H

#include "base/bytes.h"

struct wheel;

/* Ticks lie in [0, WHEEL_TICK_MAX]: as milliseconds two million years. */
#define WHEEL_TICK_MAX ((INT64_C(1) << 56) - 1)
#define WHEEL_NEVER    INT64_MAX

struct wheel_options {
    int64_t start;    /* the first tick that may expire */
    size_t max_bytes; /* memory for timers; 0: no limit but the machine's */
    size_t sort_max;  /* so many can be sorted at once, at 32 bytes each; 0: 16384 */
};

struct wheel_timer {
    int64_t due;
    uint64_t payload;
};

/* HF_ENOMEM, HF_ERANGE (start outside the ticks). */
HF_CHECK enum hf_err wheel_open(const struct wheel_options *options, struct wheel **out);
void wheel_close(struct wheel *w);

/* O(1). A due tick that has passed is taken as the wheel's present one. HF_ERANGE: beyond WHEEL_TICK_MAX;
 * HF_ELIMIT: max_bytes; HF_ENOMEM. On failure nothing changed. */
HF_CHECK enum hf_err wheel_insert(struct wheel *w, int64_t due, uint64_t payload);

/* Takes up to max timers with due <= now, in order of due, equal ones in order of insertion. Fewer than max:
 * the wheel's present is now `now`. A now before the present takes what is due at the present, as if time had
 * not gone back. */
size_t wheel_expire(struct wheel *w, int64_t now, struct wheel_timer *out, size_t max);

/* A tick at or before the earliest due one, so that sleeping until it is safe and expiring at it makes
 * progress (at most six times before the timer itself); WHEEL_NEVER when empty. */
int64_t wheel_next(const struct wheel *w);

/* Takes out every timer whose payload is dead, tells how many, and gives memory back that is then not needed.
 * It visits all timers: done whenever a quarter of them is dead it costs a few tens of nanoseconds for each.
 */
size_t wheel_sweep(struct wheel *w, bool (*dead)(void *arg, uint64_t payload), void *arg);

size_t wheel_count(const struct wheel *w);
size_t wheel_bytes(const struct wheel *w); /* memory held */

/* Forgets all timers and gives their memory back. */
void wheel_clear(struct wheel *w);

/* Asserts the invariants of wheel.c; walks everything. */
void wheel_check(const struct wheel *w);

#endif
