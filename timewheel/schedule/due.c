/* What is due when: sums that are shown, and limits that are kept.
 *
 * Everything here comes from what is in memory: the items of the gatherings one by one, and of each run the
 * index, which counts messages and tombstones a block. Those of a block, less what has passed, are taken to lie
 * evenly between its first place, or the one that is fired next, and the first of the block behind it: a block
 * may span weeks. So nothing is shown as late unless the next one to be fired is. */
#include "schedule_state.h"

#include "timewheel/cron/cron.h"

#define MINUTE_MS INT64_C(60000)
#define DAY_MS    INT64_C(86400000)

static const int64_t bounds_ms[SCHEDULE_DUE_BUCKETS - 1] = {
    0,          MINUTE_MS,  10 * MINUTE_MS, 60 * MINUTE_MS, 360 * MINUTE_MS,
    1 * DAY_MS, 7 * DAY_MS, 30 * DAY_MS,    90 * DAY_MS,    365 * DAY_MS};

const char *const schedule_due_names[SCHEDULE_DUE_BUCKETS] = {"late", "1m",  "10m", "1h",   "6h",   "1d",
                                                              "7d",   "30d", "90d", "365d", "later"};

size_t due_bucket(const struct schedule *s, int64_t due_ms) {
    size_t i = 0;
    while (i < SCHEDULE_DUE_BUCKETS - 1 && due_ms - s->clock.inside_ms > bounds_ms[i]) i++;
    return i;
}

const char *schedule_time_zones(void) {
    return cron_zone_data();
}

struct adding {
    const struct schedule *s;
    int64_t *due;
};

static void add_item(void *arg, struct item *i) {
    const struct adding *a = arg;
    a->due[due_bucket(a->s, i->place.due)]++;
}

static void add_gathering(const struct gather *g, struct adding *a) {
    if (!g) return;
    gather_each(g, add_item, a);
    for (const struct tombstone *t = g->tombstones; t; t = t->hh.next)
        if (place_before(a->s->taken, t->victim)) a->due[due_bucket(a->s, t->victim.due)]--;
}

/* n of them are due from `from` until `to`. */
static void spread(struct adding *a, int64_t n, int64_t from, int64_t to) {
    int64_t told = 0;
    size_t i = due_bucket(a->s, from), last = due_bucket(a->s, to);
    for (; i < last; i++) {
        double share = (double)(a->s->clock.inside_ms + bounds_ms[i] - from) / (double)(to - from);
        int64_t up_to = (int64_t)((double)n * share);
        a->due[i] += up_to - told;
        told = up_to;
    }
    a->due[i] += n - told;
}

static void add_run(const struct source *source, struct adding *a) {
    const struct run *r = source->run;
    int64_t next_due = source->cursor.head.due;
    uint64_t passed[2] = {source->cursor.before[0], source->cursor.before[1]};
    for (uint32_t i = 0; i < r->block_count; i++) {
        const struct run_block *b = &r->blocks[i];
        uint64_t messages = b->messages < passed[0] ? b->messages : passed[0];
        uint64_t tombstones = b->tombstones < passed[1] ? b->tombstones : passed[1];
        int64_t left = (int64_t)(b->messages - messages) - (int64_t)(b->tombstones - tombstones);
        passed[0] -= messages;
        passed[1] -= tombstones;
        int64_t to = i + 1 < r->block_count ? r->blocks[i + 1].first.due : r->last.due;
        if (left) spread(a, left, next_due > b->first.due && next_due <= to ? next_due : b->first.due, to);
    }
}

void schedule_due(const struct schedule *s, uint64_t out[SCHEDULE_DUE_BUCKETS]) {
    int64_t due[SCHEDULE_DUE_BUCKETS] = {0};
    struct adding a = {s, due};
    for (size_t i = 0; i < s->batch.count; i++) due[due_bucket(s, s->batch.fired[i].place.due)]++;
    if (s->active) add_gathering(s->active, &a);
    add_gathering(s->frozen, &a);
    for (size_t i = 0; i < s->run_count; i++)
        if (s->runs[i].run->kind == RUN_MESSAGES) add_run(&s->runs[i], &a);
    for (size_t i = 0; i < SCHEDULE_DUE_BUCKETS; i++) out[i] = due[i] > 0 ? (uint64_t)due[i] : 0;
}

/* The rate of the last seconds: firings of a window of WINDOW_MS, and of the one before it. */
void due_count_fired(struct schedule *s, uint64_t n) {
    enum { WINDOW_MS = 5000 };
    struct rate *r = &s->rate;
    int64_t age = s->clock.mono_ms - r->since_mono;
    if (age >= WINDOW_MS) {
        r->before = age < 2 * WINDOW_MS ? r->now * 1000 / (uint64_t)age : 0;
        r->now = 0;
        r->since_mono = s->clock.mono_ms;
    }
    r->now += n;
}

uint64_t due_fired_per_second(const struct schedule *s) {
    enum { SOON_MS = 1000, STALE_MS = 10000 };
    int64_t age = s->clock.mono_ms - s->rate.since_mono;
    if (age > STALE_MS) return 0;
    return age < SOON_MS ? s->rate.before : s->rate.now * 1000 / (uint64_t)age;
}
