#include "schedule_model.h"

#include "base/names.h"

#include <stdio.h>
#include <stdlib.h>

const char *const model_topics[TOPICS] = {"alpha", "beta", "gamma"};
const int32_t model_partitions[TOPICS] = {1, 3, 2};
const char *const model_groups[GROUPS] = {"early", "late"};

uint64_t model_random(uint64_t *s) { /* splitmix64 */
    uint64_t z = *s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

bool model_chance(struct model *m, unsigned percent) {
    return model_random(&m->random) % 100 < percent;
}

static struct op *last_of(struct model *m, const struct op *o) {
    for (size_t i = m->op_accepted; i-- > 0;) {
        struct op *p = m->by_seq[i];
        bool schedules = p->end != NONE;
        if (schedules && p->topic == o->topic && p->id == o->id) return p;
    }
    return NULL;
}

/* ---- recurring schedules: every minute is looked at ---- */

enum { HOUR = 60, DAY = 24 * HOUR }; /* in minutes */
static const int64_t MINUTE_MS = 60000;

/* Zones as they are in 2026, in minutes: one stretch of daylight saving, or one of none (Lord Howe). */
struct zone {
    const char *name;
    int64_t from, to; /* minutes since 1970, UTC */
    int outside, within;
};
static const struct zone utc = {NULL, 0, 0, 0, 0};
static const struct zone berlin = {"Europe/Berlin", 29579100, 29881500, 60, 120}; /* 29 March, 25 October */
static const struct zone lord_howe = {"Australia/Lord_Howe", 29588580, 29850690, 660, 630}; /* half an hour */

/* A minute of the day fits if it is `at` and so many times `every`, within its hours. */
struct series {
    const char *cron;
    const struct zone *zone;
    int every, at;
    int first_hour, last_hour;
    bool named; /* names hours: each time of day once */
};
static const struct series series[] = {
    {"* * * * *", &utc, 1, 0, 0, 23, false},
    {"* * * * *", &utc, 1, 0, 0, 23, false},
    {"*/5 * * * *", &utc, 5, 0, 0, 23, false},
    {"0,20,40 * * * *", &utc, 20, 0, 0, 23, false},
    {"@hourly", &utc, 60, 0, 0, 23, false},
    {"0 0-23/6 * * *", &utc, 360, 0, 0, 23, true},
    {"*/10 * * * *", &lord_howe, 10, 0, 0, 23, false},
    {"15,45 1-2 * * *", &lord_howe, 30, 15, 1, 2, true},
    {"*/20 1-3 * * *", &berlin, 20, 0, 1, 3, true},
    {"30 2 * * *", &berlin, DAY, 150, 0, 23, true},
};
enum { SERIES = sizeof series / sizeof series[0] };

static int64_t local_of(const struct zone *z, int64_t minute) {
    return minute + (minute >= z->from && minute < z->to ? z->within : z->outside);
}

static bool fits(const struct series *s, int64_t local) {
    int of_day = (int)(local % DAY), hour = of_day / HOUR;
    return hour >= s->first_hour && hour <= s->last_hour && (of_day - s->at + DAY) % s->every == 0;
}

/* Of one that names hours. Clocks that went forward left local minutes out: those that fit are run at the
 * gap's end. Clocks that went back show minutes again: they have been run. */
static bool runs_once_at(const struct series *s, int64_t minute) {
    enum { CHANGE_MAX = HOUR };
    int64_t local = local_of(s->zone, minute), before = local_of(s->zone, minute - 1);
    for (int64_t left_out = before + 1; left_out < local; left_out++)
        if (fits(s, left_out)) return true;
    if (!fits(s, local)) return false;
    for (int64_t m = minute - CHANGE_MAX; m < minute; m++)
        if (local_of(s->zone, m) == local) return false;
    return true;
}

/* The first time after `after` at which it is to run. */
static int64_t run_after(int number, int64_t after) {
    const struct series *s = &series[number - 1];
    int64_t minute = after / MINUTE_MS + 1;
    while (s->named ? !runs_once_at(s, minute) : !fits(s, local_of(s->zone, minute))) minute++;
    return minute * MINUTE_MS;
}

int64_t model_clock_change(uint64_t random) {
    const int64_t changes[] = {berlin.from, berlin.to, lord_howe.from, lord_howe.to};
    return changes[random % 4] * MINUTE_MS;
}

/* last: cancelled or delivered. */
static bool is_forgotten(const struct model *m, const struct op *last, bool cancelled, int64_t now_ms) {
    int64_t finished_ms = cancelled ? last->ended_ms : last->place_due;
    return m->memory_ms && finished_ms < now_ms - m->memory_ms;
}

static void decide(struct model *m, struct op *o) {
    o->end = o->kind == CANCEL ? NONE : LIVE;
    o->outcome = SCHEDULE_SCHEDULED;
    bool reckoned = o->series && o->kind != MOVE && o->kind != NEXT;
    o->asked_ms = reckoned ? run_after(o->series, o->at_ms) : o->delay >= 0 ? o->at_ms + o->delay : o->due;
    o->place_due = o->asked_ms > o->at_ms ? o->asked_ms : o->at_ms;
    if (o->id < 0) return;
    struct op *last = last_of(m, o);
    bool cancelled = last && (last->end == DEAD || last->over);
    bool pending = last && !cancelled && last->place_due > o->at_ms;
    bool running = last && !cancelled && !pending && last->series;
    bool delivered = last && !cancelled && !pending && !running;
    if (o->kind == NEXT) {
        if (last && (cancelled || last->seq != o->expect)) o->end = NONE;
        return;
    }
    if ((cancelled || delivered) && is_forgotten(m, last, cancelled, o->at_ms)) {
        last = NULL;
        cancelled = delivered = false;
    }
    if (o->kind == CANCEL || o->kind == MOVE) {
        o->end = NONE;
        o->outcome = delivered                ? SCHEDULE_ALREADY_DELIVERED
                     : cancelled              ? SCHEDULE_CANCELLED
                     : !last                  ? SCHEDULE_UNKNOWN
                     : o->kind == CANCEL      ? SCHEDULE_CANCELLED
                     : running                ? SCHEDULE_CHANGED
                     : last->seq != o->expect ? SCHEDULE_CHANGED
                                              : SCHEDULE_MOVED;
        if (o->outcome == SCHEDULE_MOVED) o->end = LIVE;
        if (o->outcome == SCHEDULE_MOVED && o->root != o) {
            o->before = last->before;
            last->next = o;
        }
        if (pending && o->outcome != SCHEDULE_CHANGED) last->end = DEAD;
        if (pending || running) last->ended_ms = o->at_ms;
        if (running && o->kind == CANCEL) last->over = true;
        return;
    }
    if ((pending || running) && o->kind != PLAIN) {
        o->end = NONE;
        o->outcome = SCHEDULE_KEPT;
    } else if (last && o->kind == ONCE) {
        o->end = NONE;
        o->outcome = SCHEDULE_FINISHED;
    } else if (pending || running) {
        if (pending) last->end = DEAD;
        o->outcome = SCHEDULE_REPLACED;
    }
}

static int32_t destination(const struct op *o) {
    char key[16];
    (void)snprintf(key, sizeof key, "k%d", o->key);
    return o->partition >= 0 ? o->partition : hf_partition_of_key(hf_str_of(key), model_partitions[o->topic]);
}

void model_accept(struct model *m, struct op *o) {
    decide(m, o);
    o->destination = destination(o);
    m->by_seq[m->op_accepted++] = o;
}

/* ---- operations ---- */

int64_t model_delay(struct model *m) {
    static const int64_t scales[] = {1, 20, 300, 5000, 100000, 40000000};
    int64_t scale = scales[model_random(&m->random) % 6];
    return (int64_t)(model_random(&m->random) % (uint64_t)scale);
}

static struct op *new_op(struct model *m) {
    if (m->op_count == OPS_MAX) return NULL;
    struct op *o = &m->ops[m->op_count++];
    *o = (struct op){.id = -1, .due = -1, .delay = -1, .partition = -1, .arrived = -1, .root = o};
    return o;
}

/* The series that a new operation begins. */
static void begin_series(struct model *m, struct op *o) {
    if (!m->recurs || o->id < 0 || o->kind == CANCEL || !model_chance(m, 20)) return;
    o->series = 1 + (int)(model_random(&m->random) % SERIES);
    if (model_chance(m, 60)) o->group = 1 + (int)(model_random(&m->random) % GROUPS);
}

/* A run of a series moves with all that it has, as the server builds such a record; anything else, and now and
 * then a run, too, as an ordinary message that takes its place. */
static void move(struct model *m, struct op *o, struct op *last) {
    bool missed = model_chance(m, 20);
    o->expect = last ? last->seq + missed : 7;
    if (!last || !last->series || missed || model_chance(m, 20)) return;
    o->root = last->root;
    o->series = last->series;
    o->group = last->group;
    o->last = last->last;
    o->key = last->key;
    o->partition = last->partition;
}

struct op *model_end_series(struct model *m) {
    for (size_t i = 0; i < m->op_accepted; i++) {
        struct op *o = m->by_seq[i];
        if (!o->series || o->end != LIVE || o->over || last_of(m, o) != o) continue;
        struct op *end = new_op(m);
        if (!end) return NULL;
        end->kind = CANCEL;
        end->topic = o->topic;
        end->id = o->id;
        return end;
    }
    return NULL;
}

struct op *model_act(struct model *m, int64_t wall_ms) {
    static const enum kind kinds[] = {PLAIN, PLAIN, PLAIN, KEEP, ONCE, CANCEL, CANCEL, MOVE, MOVE};
    struct op *o = m->acts < ACTS_MAX ? new_op(m) : NULL;
    uint64_t *s = &m->random;
    if (!o) return NULL;
    m->acts++;
    o->topic = (int)(model_random(s) % TOPICS);
    if (model_chance(m, 60)) {
        o->id = (int)(model_random(s) % IDS);
        o->kind = kinds[model_random(s) % (sizeof kinds / sizeof kinds[0])];
    }
    o->key = (int)(model_random(s) % 5);
    if (model_chance(m, 10)) o->partition = (int32_t)(model_random(s) % (uint64_t)model_partitions[o->topic]);
    if (model_chance(m, 50) && !m->absolute)
        o->delay = model_delay(m);
    else
        o->due = wall_ms + model_delay(m) - (model_chance(m, 10) ? 1000 : 0);
    if (model_chance(m, 30) && o->due >= 0) o->due += 500 - o->due % 500; /* many at once, or very many */
    if (model_chance(m, 30) && o->due >= 0) o->due = wall_ms + 20000 - wall_ms % 20000;
    struct op *last = o->id >= 0 ? last_of(m, o) : NULL;
    if (o->kind == MOVE)
        move(m, o, last);
    else
        begin_series(m, o);
    return o;
}

static void add(struct op_record *r, const char *name, const char *text) {
    r->headers[r->header_count++] = (struct hf_header){hf_str_of(name), hf_str_of(text)};
}

static const char *number(struct op_record *r, int slot, const char *prefix, int64_t v) {
    (void)snprintf(r->texts[slot], sizeof r->texts[slot], "%s%lld", prefix, (long long)v);
    return r->texts[slot];
}

static void add_series(const struct op *o, struct op_record *r) {
    const struct series *s = &series[o->series - 1];
    add(r, HF_HDR_CRON, s->cron);
    if (s->zone->name) add(r, HF_HDR_TZ, s->zone->name);
    if (o->group) {
        add(r, HF_HDR_OVERLAP, "skip");
        add(r, HF_HDR_GROUP, model_groups[o->group - 1]);
    }
    if (!o->last.known) return;
    (void)snprintf(r->texts[6], sizeof r->texts[6], "%lld/%lld/%lld", (long long)o->last.partition,
                   (long long)o->last.end, (long long)o->last.due_ms);
    add(r, HF_HDR_LAST_RUN, r->texts[6]);
}

static int identity_of(const struct op *root, char *text, size_t size) {
    return snprintf(text, size, "holdfast.delay/%d/%lld@%lld", root->source, (long long)root->offset,
                    (long long)root->at_ms);
}

/* A run that is moved keeps its value and its identity. */
static void add_move(const struct model *m, const struct op *o, struct op_record *r) {
    add(r, HF_HDR_OP, "move");
    add(r, HF_HDR_EXPECT, number(r, 4, "", (int64_t)o->expect));
    if (o->root == o) return;
    (void)identity_of(o->root, r->texts[7], sizeof r->texts[7]);
    add(r, HF_HDR_MESSAGE_ID, r->texts[7]);
    add(r, HF_HDR_CREATED_AT, number(r, 8, "", o->root->at_ms));
    add(r, "x-op", number(r, 9, "", o - m->ops));
}

void model_record(const struct model *m, const struct op *o, struct op_record *r) {
    static const char *const conflicts[] = {[KEEP] = "keep", [ONCE] = "once"};
    r->header_count = 0;
    r->key = hf_str_of(number(r, 0, "k", o->key));
    r->value = hf_str_of(number(r, 1, "", o->root - m->ops));
    add(r, "x-own", "kept");
    add(r, HF_HDR_TOPIC, model_topics[o->topic]);
    if (o->id >= 0) add(r, HF_HDR_ID, number(r, 2, "id-", o->id));
    if (o->kind == CANCEL) add(r, HF_HDR_OP, "cancel");
    if (o->series) add_series(o, r);
    bool timed = o->kind == MOVE || (o->kind != CANCEL && !o->series);
    if (timed && o->delay >= 0) add(r, HF_HDR_DELAY, number(r, 3, "", o->delay));
    if (timed && o->delay < 0) add(r, HF_HDR_DUE, number(r, 3, "", o->due));
    if (o->kind == KEEP || o->kind == ONCE) add(r, HF_HDR_ON_CONFLICT, conflicts[o->kind]);
    if (o->kind == MOVE) add_move(m, o, r);
    if (o->partition >= 0) add(r, HF_HDR_PARTITION, number(r, 5, "", o->partition));
}

/* ---- records that are read ---- */

hf_str model_header(const struct hf_header *headers, size_t n, const char *name) {
    hf_str found = {NULL, 0};
    for (size_t i = 0; i < n; i++) {
        if (!hf_str_is(headers[i].key, name)) continue;
        if (found.p) return (hf_str){NULL, 0};
        found = headers[i].value;
    }
    return found;
}

int64_t model_header_number(const struct hf_header *headers, size_t n, const char *name) {
    int64_t v = -1;
    return hf_str_int(model_header(headers, n, name), &v) ? -1 : v;
}

static hf_str header(const struct engine_record *r, const char *name) {
    return model_header(r->headers, r->header_count, name);
}

static int64_t header_number(const struct engine_record *r, const char *name) {
    return model_header_number(r->headers, r->header_count, name);
}

struct op *model_op_of(struct model *m, hf_str value) {
    int64_t i;
    if (hf_str_int(value, &i) || i < 0 || (size_t)i >= m->op_count) return NULL;
    return &m->ops[i];
}

struct op *model_sent(struct model *m, const struct engine_record *r) {
    hf_str number = header(r, "x-op");
    return model_op_of(m, number.p && hf_str_is(header(r, HF_HDR_OP), "move") ? number : r->value);
}

struct op *model_of_sequence(struct model *m, uint64_t seq) {
    size_t low = 0, high = m->op_accepted;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (m->by_seq[middle]->seq < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low < m->op_accepted && m->by_seq[low]->seq == seq ? m->by_seq[low] : NULL;
}

/* ---- the runs of a series ---- */

static struct last_run last_run_of(hf_str text) {
    struct last_run last = {0};
    char copy[64], end;
    if (!text.p || text.n >= sizeof copy) return last;
    memcpy(copy, text.p, text.n);
    copy[text.n] = 0;
    long long partition, offset, due_ms;
    if (sscanf(copy, "%lld/%lld/%lld%c", &partition, &offset, &due_ms, &end) != 3) return last;
    return (struct last_run){true, partition, offset, due_ms};
}

static bool same_run(const struct last_run *a, const struct last_run *b) {
    return a->known && b->known && a->partition == b->partition && a->end == b->end && a->due_ms == b->due_ms;
}

/* What the next run says of its own run and those before; NULL: that may be so. */
static const char *check_last_run(const struct op *run, const struct engine_record *r,
                                  const struct last_run *last) {
    hf_str group = run->group ? hf_str_of(model_groups[run->group - 1]) : (hf_str){NULL, 0};
    hf_str overlap = header(r, HF_HDR_OVERLAP);
    if ((run->group != 0) != (overlap.p && hf_str_is(overlap, "skip")))
        return "a next run overlaps as it likes";
    if (run->group && !hf_str_eq(header(r, HF_HDR_GROUP), group)) return "a next run of another group";
    if (!run->group) return last->known ? "a next run names a run that nobody asks for" : NULL;
    if (!last->known) return "a next run does not say where the one before is";
    bool this_one = last->due_ms == run->asked_ms && last->partition == run->destination;
    return this_one || same_run(last, &run->last) ? NULL : "a next run says that the one before is another";
}

struct op *model_next_run(struct model *m, const struct engine_record *r, const char **why) {
    /* The log's clock may be ahead of the one that decided: a little, or by what the wall clock was set back.
     */
    enum { AHEAD_MS = 5000, SET_BACK_MS = 120000 };
    *why = NULL;
    if (!hf_str_is(header(r, HF_HDR_OP), "next")) return NULL;
    int64_t expect = header_number(r, HF_HDR_EXPECT), due = header_number(r, HF_HDR_DUE);
    struct op *run = model_of_sequence(m, (uint64_t)expect), *root = model_op_of(m, r->value);
    *why = "a next run of none";
    if (!run || !run->series || run->end != LIVE || run->root != root) return NULL;
    *why = "a run has two successors";
    if (run->next) return NULL;
    int64_t now_ms = r->timestamp_ms, since = now_ms - (m->absolute ? SET_BACK_MS : AHEAD_MS);
    *why = "a next run at another time";
    if (due < run_after(run->series, run->asked_ms > since ? run->asked_ms : since)) return NULL;
    if (due > run_after(run->series, run->asked_ms > now_ms ? run->asked_ms : now_ms)) return NULL;
    struct last_run last = last_run_of(header(r, HF_HDR_LAST_RUN));
    if ((*why = check_last_run(run, r, &last))) return NULL;
    struct op *o = new_op(m);
    *why = o ? NULL : "too many runs for the model";
    if (!o) return NULL;
    run->left_out = same_run(&last, &run->last);
    o->group = run->group;
    o->last = last;
    o->before = !run->group ? NULL : run->left_out ? run->before : run;
    o->kind = NEXT;
    o->topic = run->topic;
    o->id = run->id;
    o->key = run->key;
    o->partition = run->partition;
    o->series = run->series;
    o->due = due;
    o->expect = run->seq;
    o->root = root;
    run->next = o;
    return o;
}

struct op *model_delivered(struct model *m, const struct engine_record *r) {
    struct op *o = model_op_of(m, r->value);
    int64_t due = header_number(r, HF_HDR_DUE);
    for (; o && o->series; o = o->next) {
        bool another = o->delivered && o->arrived != r->offset; /* moved to where one had been */
        if (o->end == LIVE && !o->left_out && o->asked_ms == due && !another) return o;
    }
    return o;
}

static const char *check_overlap(const struct op *o) {
    bool running = o->before && o->committed <= o->before->arrived;
    if (!o->decided) return "a run was decided in no commit";
    if (running && !o->left_out) return "a run was delivered, and the one before was not done";
    if (!running && o->left_out) return "a run was left out, and the one before was done";
    if (!o->left_out && o->next->last.end > o->arrived) return "a run lies before where it is looked for";
    return NULL;
}

const char *model_check_runs(const struct model *m) {
    for (size_t i = 0; i < m->op_accepted; i++) {
        const struct op *o = m->by_seq[i];
        if (!o->series || o->end != LIVE) continue;
        if (o->delivered && !o->next) return "a run was delivered, and the next one is not scheduled";
        if (o->next && !o->delivered && !o->left_out)
            return "the next run is scheduled, and this one was not delivered";
        const char *wrong = o->group && o->next ? check_overlap(o) : NULL;
        if (wrong) return wrong;
    }
    return NULL;
}

static bool is_to_come(const struct op *o) {
    return o->series && o->end == LIVE && !o->next;
}

const struct op *model_run_to_come(const struct model *m, int64_t by_ms) {
    for (size_t i = 0; i < m->op_accepted; i++)
        if (is_to_come(m->by_seq[i]) && m->by_seq[i]->place_due <= by_ms) return m->by_seq[i];
    return NULL;
}

int64_t model_last_run_due(const struct model *m) {
    int64_t last_ms = -1;
    for (size_t i = 0; i < m->op_accepted; i++)
        if (is_to_come(m->by_seq[i]) && m->by_seq[i]->place_due > last_ms) last_ms = m->by_seq[i]->place_due;
    return last_ms;
}

/* ---- destinations ---- */

static int by_place(const void *a, const void *b) {
    const struct op *x = *(struct op *const *)a, *y = *(struct op *const *)b;
    if (x->place_due != y->place_due) return x->place_due < y->place_due ? -1 : 1;
    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

void model_sort(struct op **ops, size_t n) {
    qsort(ops, n, sizeof ops[0], by_place);
}

size_t model_expected(struct model *m, int topic, int32_t partition, struct op **out) {
    size_t n = 0;
    for (size_t i = 0; i < m->op_accepted; i++) {
        struct op *o = m->by_seq[i];
        if (o->end == LIVE && !o->left_out && o->topic == topic && o->destination == partition) out[n++] = o;
    }
    model_sort(out, n);
    return n;
}

const char *model_check_moved(const struct op *o, const struct engine_record *r) {
    char identity[100];
    int64_t due = header_number(r, HF_HDR_DUE);
    const struct op *root = o->root;
    int n = identity_of(root, identity, sizeof identity);
    if (o->series) (void)snprintf(identity + n, sizeof identity - (size_t)n, "#%lld", (long long)o->asked_ms);
    if (due != o->asked_ms) return "hf-due";
    if (r->timestamp_ms < due || r->timestamp_ms < o->place_due) return "early";
    if (header_number(r, HF_HDR_CREATED_AT) != root->at_ms) return "hf-created-at";
    if (!hf_str_is(header(r, HF_HDR_MESSAGE_ID), identity)) return "hf-message-id";
    if (!hf_str_is(header(r, "x-own"), "kept")) return "own header";
    static const char *const taken_off[] = {HF_HDR_TOPIC,   HF_HDR_ID,    HF_HDR_CRON,
                                            HF_HDR_OVERLAP, HF_HDR_GROUP, HF_HDR_LAST_RUN};
    for (size_t i = 0; i < sizeof taken_off / sizeof taken_off[0]; i++)
        if (header(r, taken_off[i]).p) return "control header left";
    return NULL;
}
