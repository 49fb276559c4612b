/* Which time it is inside.
 *
 * The wall clock may step in both directions; due times are wall clock times, and nobody forgives a message
 * that came early. The monotonic clock tells steps from the passing of time (both are slewed alike): what it
 * should show is constant is delta = wall - monotonic.
 *
 *     back                     inside time stands until the wall clock has caught up: late, never early
 *     ahead by at most 60 s    inside time goes along
 *     ahead by more            believed by nobody until the clock returns, or an operator accepts it:
 *                              inside time stands, nothing is fired
 *
 * A relative delay promises an interval, not a wall clock time. For it we remember epochs, (first sequence,
 * delta) for each delta that was seen in this boot: a message of sequence q, due at d by the wall clock, has
 * its monotonic deadline at d - delta(q). If the wall clock has jumped ahead since, the deadline lies in the
 * future when d comes; the message then waits the rest. Epochs are durable, with the boot's id; another boot
 * forgets them. Differences up to CLOCK_JITTER_MS are two clocks not read in the same instant.
 *
 * The oldest of more than EPOCHS_MAX epochs is forgotten: its messages follow the wall clock alone. */
#include "schedule_state.h"

static void add_epoch(struct schedule *s, int64_t delta_ms) {
    struct clock *c = &s->clock;
    if (c->epoch_count == EPOCHS_MAX) {
        memmove(c->epochs, c->epochs + 1, (EPOCHS_MAX - 1) * sizeof c->epochs[0]);
        c->epoch_count--;
    }
    c->epochs[c->epoch_count++] = (struct epoch){s->read_seq + 1, delta_ms};
    c->dirty = true;
}

static void follow_epoch(struct schedule *s, int64_t delta_ms) {
    struct clock *c = &s->clock;
    if (!s->caught_up) return; /* which sequence comes next is not known yet */
    int64_t last = c->epoch_count ? c->epochs[c->epoch_count - 1].delta_ms : 0;
    if (c->epoch_count == 0 || delta_ms > last + CLOCK_JITTER_MS || delta_ms < last - CLOCK_JITTER_MS)
        add_epoch(s, delta_ms);
}

void inside_step(struct schedule *s, int64_t wall_ms, int64_t mono_ms) {
    struct clock *c = &s->clock;
    int64_t delta = wall_ms - mono_ms;
    c->wall_ms = wall_ms;
    c->mono_ms = mono_ms;
    if (!c->started) c->trusted_delta_ms = delta;
    c->started = true;
    bool leapt = delta > c->trusted_delta_ms + ENGINE_CLOCK_LEAP_MS;
    if (leapt != c->leapt) {
        c->leapt = leapt;
        schedule_tell(s, leapt ? SCHEDULE_CLOCK_LEAPT : SCHEDULE_CLOCK_BACK,
                      leapt ? "the wall clock leapt ahead by more than 60 s: nothing is fired" : "");
    }
    if (leapt) return;
    if (delta > c->trusted_delta_ms) c->trusted_delta_ms = delta;
    if (wall_ms > c->inside_ms) c->inside_ms = wall_ms;
    follow_epoch(s, delta);
}

void schedule_accept_clock(struct schedule *s) {
    s->clock.trusted_delta_ms = s->clock.wall_ms - s->clock.mono_ms;
    engine_accept_clock(s->engine);
}

int64_t inside_hold(const struct schedule *s, struct place p) {
    const struct clock *c = &s->clock;
    for (size_t i = c->epoch_count; i-- > 0;) {
        if (c->epochs[i].first_seq > p.seq) continue;
        if (c->wall_ms - c->mono_ms <= c->epochs[i].delta_ms + CLOCK_JITTER_MS) return 0;
        int64_t rest = p.due - c->epochs[i].delta_ms - c->mono_ms;
        return rest > CLOCK_JITTER_MS ? rest : 0;
    }
    return 0;
}

/* boot u64, then for each epoch: first sequence u64, delta i64. */
void inside_epochs_encode(const struct schedule *s, struct hf_buf *b) {
    hf_buf_be64(b, s->o.boot_id);
    for (size_t i = 0; i < s->clock.epoch_count; i++) {
        hf_buf_be64(b, s->clock.epochs[i].first_seq);
        hf_buf_be64(b, (uint64_t)s->clock.epochs[i].delta_ms);
    }
}

void inside_epochs_restore(struct schedule *s, hf_str value) {
    struct hf_reader r = hf_reader_of(value.p, value.n);
    s->clock.epoch_count = 0;
    if (value.n < 8 || hf_read_be64(&r) != s->o.boot_id) return;
    while (hf_reader_left(&r) >= 16 && s->clock.epoch_count < EPOCHS_MAX) {
        struct epoch *e = &s->clock.epochs[s->clock.epoch_count++];
        e->first_seq = hf_read_be64(&r);
        e->delta_ms = (int64_t)hf_read_be64(&r);
    }
}
