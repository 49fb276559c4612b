/* The model: see model.h. Everything is in small arrays that are searched from end to end: a seed has a few
 * hundred messages. */
#include "model.h"

#include <stdarg.h>
#include <stdio.h>

void model_init(struct model *m, uint64_t seed) {
    m->seed = seed;
    m->broken = m->syncs_failed = false;
    m->wall_max_ms = 0;
    m->message_count = m->commit_count = m->settled = m->burnt_count = m->run_count = m->id_count = 0;
    memset(m->topics, 0, sizeof m->topics);
    memset(m->state, 0, sizeof m->state);
    memset(m->topic_keys, 0, sizeof m->topic_keys);
}

void model_broken(struct model *m, const char *check, const char *fmt, ...) {
    if (m->broken) return;
    m->broken = true;
    int n = snprintf(m->violation, sizeof m->violation, "%s: ", check);
    va_list values;
    va_start(values, fmt);
    vsnprintf(m->violation + n, sizeof m->violation - (size_t)n, fmt, values);
    va_end(values);
}

/* ---- messages ---- */

struct message *model_message(struct model *m, int topic, int partition, uint32_t count, bool wants_durable) {
    if (m->message_count == MESSAGES_MAX) return NULL;
    bool timed = m->topics[topic].append_time || m->topics[topic].internal;
    struct message *x = &m->messages[m->message_count++];
    /* A deletion that is gone was either compacted or lost: so that this can be told, it is never lost. */
    for (uint32_t i = 0; i < count && m->topics[topic].compacted; i++)
        wants_durable = wants_durable || kdeletes(m->message_count, i);
    *x = (struct message){
        .id = m->message_count,
        .topic = topic,
        .partition = partition,
        .generation = m->topics[topic].generation,
        .wants_durable = wants_durable || m->topics[topic].internal,
        .base = -1,
        .count = count,
        .commit = -1,
        .producer = {.id = -1, .epoch = -1, .sequence = -1},
        .time_ms = timed ? -1 : kbatch_time(m->message_count),
    };
    return x;
}

struct message *model_find(struct model *m, uint32_t id) {
    return id >= 1 && id <= m->message_count ? &m->messages[id - 1] : NULL;
}

static bool alive(const struct model *m, const struct message *x) {
    const struct model_topic *t = &m->topics[x->topic];
    return t->phase != TOPIC_NONE && t->generation == x->generation;
}

static bool same_partition(const struct message *a, const struct message *b) {
    return a->topic == b->topic && a->partition == b->partition && a->generation == b->generation;
}

static bool overlap(int64_t a, uint32_t an, int64_t b, uint32_t bn) {
    return a < b + bn && b < a + an;
}

/* M4: the message is at this offset, or was said to be. */
static void place(struct model *m, struct message *x, int64_t base) {
    if (x->base == base) return;
    if (x->base >= 0) {
        model_broken(m, "M4", "message %u was at offset %lld and is at %lld", x->id, (long long)x->base,
                     (long long)base);
        return;
    }
    x->base = base;
    for (uint32_t i = 0; i < m->message_count; i++) {
        struct message *y = &m->messages[i];
        if (y == x || y->base < 0 || !same_partition(x, y) || !overlap(base, x->count, y->base, y->count))
            continue;
        model_broken(m, "M4", "offset %lld of %s-%d means message %u and message %u", (long long)base,
                     m->topics[x->topic].name, x->partition, y->id, x->id);
    }
    for (uint32_t i = 0; i < m->burnt_count; i++) {
        const struct burnt *b = &m->burnt[i];
        if (b->topic != x->topic || b->partition != x->partition || b->generation != x->generation) continue;
        if (!overlap(base, x->count, b->base, b->count) || (b->id == x->id && b->base == base)) continue;
        model_broken(m, "M4", "offset %lld of %s-%d meant lost message %u and means message %u",
                     (long long)base, m->topics[x->topic].name, x->partition, b->id, x->id);
    }
}

/* M5: what is durable has everything before it durable. */
static void make_durable(struct model *m, struct message *x) {
    if (x->durable) return;
    x->durable = x->expected = true;
    for (uint32_t i = 0; i < m->message_count; i++) {
        struct message *y = &m->messages[i];
        if (y->base >= 0 && same_partition(x, y) && y->base < x->base) y->durable = y->expected = true;
    }
}

void model_answered(struct model *m, struct message *x, int64_t base, bool durable) {
    place(m, x, base);
    x->fate = FATE_ANSWERED;
    x->expected = true;
    if (durable || x->wants_durable) make_durable(m, x);
}

void model_unanswered(struct message *x) {
    if (x->fate == FATE_WAITING) x->fate = FATE_UNKNOWN;
}

/* The message a record belongs to, after what holds for every record at any time was checked. */
static struct message *known(struct model *m, int topic, int partition, const struct krecord *r) {
    struct message *x = model_find(m, r->id);
    const char *name = m->topics[topic].name;
    if (!x || x->topic != topic || x->partition != partition ||
        x->generation != m->topics[topic].generation || r->index >= x->count) {
        model_broken(m, "M8", "%s-%d at %lld holds record %u of message %u, which never went there", name,
                     partition, (long long)r->offset, r->index, r->id);
        return NULL;
    }
    if (x->fate == FATE_REFUSED || x->fate == FATE_LOST) {
        model_broken(m, "M3", "%s-%d at %lld holds message %u, which was %s", name, partition,
                     (long long)r->offset, r->id, x->fate == FATE_LOST ? "lost" : "refused");
        return NULL;
    }
    place(m, x, r->offset - r->index);
    return m->broken ? NULL : x;
}

void model_shown(struct model *m, int topic, int partition, const struct krecord *r, bool durable) {
    struct message *x = known(m, topic, partition, r);
    if (!x) return;
    x->seen = x->expected = true;
    if (durable || x->wants_durable) make_durable(m, x);
}

/* M9, for one record; along the partition the caller sees that it grows. */
void model_ordered(struct model *m, const struct krecord *r, uint64_t sequence) {
    struct message *x = model_find(m, r->id);
    if (!x) return;
    uint64_t first = sequence - r->index;
    if (x->sequence && x->sequence != first)
        model_broken(m, "M9", "message %u had sequence %llu and has %llu", x->id,
                     (unsigned long long)x->sequence, (unsigned long long)first);
    x->sequence = first;
}

int64_t model_high(const struct model *m, int topic, int partition) {
    int64_t high = 0;
    for (uint32_t i = 0; i < m->message_count; i++) {
        const struct message *x = &m->messages[i];
        if (x->topic != topic || x->partition != partition || !alive(m, x) || x->base < 0) continue;
        if (x->base + x->count > high) high = x->base + x->count;
    }
    return high;
}

int64_t model_offset_at(const struct model *m, int topic, int partition, int64_t ms) {
    int64_t first = -1;
    for (uint32_t i = 0; i < m->message_count; i++) {
        const struct message *x = &m->messages[i];
        if (x->topic != topic || x->partition != partition || !alive(m, x) || !x->found) continue;
        if (x->time_ms < 0) return -2;
        int64_t start = m->topics[topic].released[partition];
        uint32_t left = x->found; /* of its records, those from the start on */
        while (left && x->base + __builtin_ctz(left) < start) left &= left - 1;
        if (!left) continue;
        int64_t at = x->base + __builtin_ctz(left);
        if (x->time_ms >= ms && (first < 0 || at < first)) first = at;
    }
    return first;
}

/* ---- commits ---- */

struct model_commit *model_commit(struct model *m) {
    if (m->commit_count == COMMITS_MAX) return NULL;
    struct model_commit *c = &m->commits[m->commit_count++];
    *c = (struct model_commit){.topic_key = -1, .low = -1, .run_added = -1, .run_dropped = -1};
    return c;
}

static void apply_puts(struct model *m, const struct model_commit *c, int32_t state[STATE_KEYS],
                       int32_t topic_keys[TOPICS]) {
    int32_t number = (int32_t)(c - m->commits) + 1;
    for (int k = 0; k < STATE_KEYS; k++)
        if (c->puts[k]) state[k] = c->puts[k] > 0 ? number : 0;
    if (c->topic_key >= 0 && m->topics[c->topic_key].generation == c->topic_generation &&
        m->topics[c->topic_key].phase != TOPIC_NONE)
        topic_keys[c->topic_key] = number;
}

/* The commit happened. Its records are durable, wherever they are. */
static void take_effect(struct model *m, struct model_commit *c) {
    apply_puts(m, c, m->state, m->topic_keys);
    for (uint32_t i = 0; i < c->count; i++) {
        struct message *x = &m->messages[c->first + i];
        if (x->fate == FATE_WAITING || x->fate == FATE_UNKNOWN) x->fate = FATE_ANSWERED;
        x->durable = x->expected = true;
    }
    if (c->low >= 0 && m->topics[c->low_topic].released[c->low_partition] < c->low)
        m->topics[c->low_topic].released[c->low_partition] = c->low;
    if (c->run_added >= 0) m->runs[c->run_added].phase = RUN_NAMED;
    if (c->run_dropped >= 0) m->runs[c->run_dropped].phase = RUN_GONE;
}

static void take_no_effect(struct model *m, struct model_commit *c, enum fate fate) {
    c->fate = fate;
    for (uint32_t i = 0; i < c->count; i++) {
        struct message *x = &m->messages[c->first + i];
        if (x->durable && alive(m, x))
            model_broken(m, "M2", "message %u of commit %d was seen, and the commit never happened", x->id,
                         (int)(c - m->commits));
        x->fate = fate;
    }
    if (c->run_added >= 0) m->runs[c->run_added].phase = fate == FATE_REFUSED ? RUN_SEALED : RUN_GONE;
    if (c->run_dropped >= 0) m->runs[c->run_dropped].phase = RUN_NAMED;
}

void model_committed(struct model *m, struct model_commit *c) {
    for (struct model_commit *before = m->commits; !c->empty && before < c; before++)
        if (before->fate == FATE_WAITING)
            model_broken(m, "M6", "commit %d was answered before commit %d", (int)(c - m->commits),
                         (int)(before - m->commits));
    c->fate = FATE_ANSWERED;
    take_effect(m, c);
}

void model_uncommitted(struct model *m, struct model_commit *c, bool refused) {
    if (refused)
        take_no_effect(m, c, FATE_REFUSED);
    else
        c->fate = FATE_UNKNOWN;
}

/* ---- after a crash ---- */

void model_crashed(struct model *m) {
    for (uint32_t i = 0; i < m->message_count; i++) model_unanswered(&m->messages[i]);
    for (uint32_t i = m->settled; i < m->commit_count; i++)
        if (m->commits[i].fate == FATE_WAITING) m->commits[i].fate = FATE_UNKNOWN;
    for (int t = 0; t < TOPICS; t++)
        if (m->topics[t].phase == TOPIC_CREATING || m->topics[t].phase == TOPIC_DELETING)
            m->topics[t].unsure = true;
    for (uint32_t i = 0; i < m->run_count; i++)
        if (m->runs[i].phase == RUN_SEALING || m->runs[i].phase == RUN_SEALED) m->runs[i].phase = RUN_GONE;
}

void model_topic_is(struct model *m, int topic, bool there, const uint8_t uuid[16]) {
    struct model_topic *t = &m->topics[topic];
    if (!t->unsure && there != (t->phase == TOPIC_LIVE))
        model_broken(m, "M10", "topic %s is %s", t->name, there ? "there" : "gone");
    bool old = t->phase == TOPIC_LIVE || t->phase == TOPIC_DELETING;
    if (there && old && t->uuid_known && memcmp(uuid, t->uuid, 16) != 0)
        model_broken(m, "M10", "topic %s has another id", t->name);
    if (there) {
        memcpy(t->uuid, uuid, 16);
        t->uuid_known = true;
    } else {
        m->topic_keys[topic] = 0;
    }
    t->phase = there ? TOPIC_LIVE : TOPIC_NONE;
    t->unsure = false;
}

static int64_t low_water(const struct model *m, int topic, int partition) {
    const struct model_topic *t = &m->topics[topic];
    return t->released[partition] > t->asked[partition] ? t->released[partition] : t->asked[partition];
}

/* Bytes of messages behind this one, at least those that were ever known to be there; records are small, so a
 * batch has some hundred bytes. */
static int64_t bytes_behind(const struct model *m, const struct message *x) {
    const struct model_topic *t = &m->topics[x->topic];
    int64_t n = 0;
    for (uint32_t i = 0; i < m->message_count; i++) {
        const struct message *y = &m->messages[i];
        uint8_t batch[KBATCH_MAX];
        if (!same_partition(x, y) || y == x || y->fate == FATE_REFUSED) continue;
        if (y->base >= 0 && y->base < x->base) continue;
        bool deletes = t->compacted && y->commit < 0; /* commits write values only */
        n += (int64_t)kbatch_make(y->id, y->count, &y->producer, deletes, batch);
    }
    return n;
}

static bool deletes(const struct message *x, uint32_t i) {
    return x->commit < 0 && kdeletes(x->id, i);
}

enum later { LATER_FOUND, LATER_ANY, LATER_DELETES, LATER_SURELY_DELETES };

/* Whether there is a record of that key behind the offset: found; or not found, one that deletes it and may
 * itself have gone; or one of those that must have been there; or any that was there once. */
static bool later_record(const struct model *m, const struct message *x, uint32_t i, enum later what) {
    for (uint32_t k = 0; k < m->message_count; k++) {
        const struct message *y = &m->messages[k];
        bool somewhere = y->base < 0 && what == LATER_ANY; /* a commit does not tell its offsets */
        if (!same_partition(x, y) || (y->base < 0 && !somewhere)) continue;
        if (y->base >= 0 && y->base + y->count <= x->base + i) continue;
        if (y->fate == FATE_LOST || y->fate == FATE_REFUSED) continue;
        for (uint32_t j = 0; j < y->count; j++) {
            if (kkey(y->id, j) != kkey(x->id, i)) continue;
            int64_t ahead = y->base + j - (x->base + i);
            if (somewhere || (ahead > 0 && (y->found & 1u << j || what == LATER_ANY))) return true;
            if (what == LATER_DELETES && ahead >= 0 && deletes(y, j)) return true;
            if (what == LATER_SURELY_DELETES && ahead > 0 && deletes(y, j) && y->durable) return true;
        }
    }
    return false;
}

/* Compaction may have taken all of it by now. */
static bool may_be_compacted(const struct model *m, const struct message *x) {
    for (uint32_t i = 0; i < x->count; i++)
        if (!deletes(x, i) && !later_record(m, x, i, LATER_ANY)) return false;
    return m->topics[x->topic].compacted;
}

/* Whether the topic's retention, as it ever was, lets a message go. Bytes count whole segments. */
static bool retention_allows(const struct model *m, const struct message *x) {
    const struct model_topic *t = &m->topics[x->topic];
    bool by_time = t->keep_ms < INT64_MAX && (x->time_ms < 0 || m->wall_max_ms - x->time_ms > t->keep_ms);
    return by_time || (t->keep_bytes < INT64_MAX && bytes_behind(m, x) >= t->keep_bytes);
}

void model_start_is(struct model *m, int topic, int partition, int64_t start) {
    struct model_topic *t = &m->topics[topic];
    int64_t low = low_water(m, topic, partition);
    if (start < t->released[partition])
        model_broken(m, "M14", "%s-%d starts at %lld again, was at %lld", t->name, partition,
                     (long long)start, (long long)t->released[partition]);
    for (uint32_t i = 0; i < m->message_count && start > low; i++) {
        const struct message *x = &m->messages[i];
        if (x->topic != topic || x->partition != partition || !alive(m, x) || x->base < low) continue;
        if (x->base < start && !retention_allows(m, x) && !may_be_compacted(m, x))
            model_broken(m, "M14", "%s-%d starts at %lld, needed from %lld, where message %u is", t->name,
                         partition, (long long)start, (long long)x->base, x->id);
    }
    if (start > low && t->internal)
        model_broken(m, "M1", "%s-%d starts at %lld, needed from %lld", t->name, partition, (long long)start,
                     (long long)low);
    if (start > m->topics[topic].released[partition]) m->topics[topic].released[partition] = start;
}

void model_partitions_are(struct model *m, int topic, int count) {
    struct model_topic *t = &m->topics[topic];
    if (count != t->partitions && count != t->grow_asked)
        model_broken(m, "M16", "topic %s has %d partitions, it had %d and was to have %d", t->name, count,
                     t->partitions, t->grow_asked);
    else
        t->partitions = count;
    t->grow_asked = 0;
}

void model_altered_is(struct model *m, int topic, int64_t number) {
    struct model_topic *t = &m->topics[topic];
    if (number < t->altered || number > t->alter_asked)
        model_broken(m, "M15", "%s has the settings of change %lld, should be %lld to %lld", t->name,
                     (long long)number, (long long)t->altered, (long long)t->alter_asked);
    t->altered = t->alter_asked = number;
}

void model_sweep_begin(struct model *m) {
    for (uint32_t i = 0; i < m->message_count; i++) m->messages[i].found = 0;
}

void model_sweep_record(struct model *m, int topic, int partition, const struct krecord *r) {
    struct message *x = known(m, topic, partition, r);
    if (!x) return;
    if (x->found & 1u << r->index) model_broken(m, "M3", "message %u is there twice", x->id);
    if (x->compacted & 1u << r->index)
        model_broken(m, "M16", "record %u of message %u came back", r->index, x->id);
    x->found |= 1u << r->index;
}

static bool whole(const struct message *x) {
    return x->found == (1u << x->count) - 1;
}

/* Its records may be gone because a commit said that nobody needs them. */
static bool released(const struct model *m, const struct message *x) {
    return (x->base >= 0 ? x->base : x->floor) < low_water(m, x->topic, x->partition);
}

/* M16: its missing records went for later ones. */
static bool compaction_took(struct model *m, struct message *x) {
    if (!m->topics[x->topic].compacted) return false;
    if (x->base < 0 && !(x->durable && x->commit >= 0)) return false; /* a commit's that nobody saw in time */
    for (uint32_t i = 0; x->base >= 0 && i < x->count; i++)
        if (!(x->found & 1u << i) && !later_record(m, x, i, LATER_DELETES)) return false;
    x->compacted = ~x->found & ((1u << x->count) - 1);
    return true;
}

/* M16: a value is there, and the record that deletes it, behind it, is not, nor anything later. */
static void no_revival(struct model *m, const struct message *x) {
    if (!m->topics[x->topic].compacted || !alive(m, x) || x->base < 0) return;
    for (uint32_t i = 0; i < x->count; i++) {
        if (!(x->found & 1u << i) || deletes(x, i) || later_record(m, x, i, LATER_FOUND)) continue;
        if (later_record(m, x, i, LATER_SURELY_DELETES))
            model_broken(m, "M16", "key %c of record %u of message %u was deleted and has a value again",
                         kkey(x->id, i), i, x->id);
    }
}

/* M5: nothing that is there lies above something lost. */
static void no_hole(struct model *m, const struct message *lost) {
    for (uint32_t i = 0; i < m->message_count; i++) {
        const struct message *y = &m->messages[i];
        if (y->found && same_partition(lost, y) && y->base > lost->base)
            model_broken(m, "M5", "message %u at %lld of %s-%d was lost, message %u at %lld was not",
                         lost->id, (long long)lost->base, m->topics[lost->topic].name, lost->partition, y->id,
                         (long long)y->base);
    }
}

static void burn(struct model *m, struct message *x) {
    if (x->base >= 0 && m->burnt_count < BURNT_MAX)
        m->burnt[m->burnt_count++] =
            (struct burnt){x->topic, x->partition, x->generation, x->base, x->count, x->id};
    x->fate = FATE_LOST;
    x->base = -1;
    x->durable = x->expected = x->seen = false;
}

static void lose(struct model *m, struct message *x) {
    if (x->base >= 0) no_hole(m, x);
    burn(m, x);
}

/* Nobody can look whether a message below the start survived. If it may be lost, so may be the memory of its
 * producer's sequence: sent again it would get another offset. */
static void forget_released(struct model *m, struct message *x, bool power) {
    if (x->found || x->durable || x->commit >= 0 || (!power && !m->syncs_failed)) return;
    burn(m, x);
}

/* M1, M2 for one message; unknown ones are decided. */
static void settle_message(struct model *m, struct message *x, bool power) {
    if (!alive(m, x) || x->fate == FATE_REFUSED || x->fate == FATE_LOST) return;
    if (released(m, x)) {
        forget_released(m, x, power);
        return;
    }
    if (!whole(x) && compaction_took(m, x)) {
        if (x->fate == FATE_UNKNOWN) x->fate = FATE_KEPT;
        x->durable = x->expected = true;
        return;
    }
    if (x->found && !whole(x)) {
        model_broken(m, "M6", "message %u of %u records is there in part", x->id, x->count);
        return;
    }
    if (x->found) {
        if (x->fate == FATE_UNKNOWN) x->fate = FATE_KEPT;
        x->durable = x->expected = true; /* recovery synced it before the first answer */
        return;
    }
    if (x->durable || (x->expected && !power && !m->syncs_failed)) {
        model_broken(m, x->seen ? "M2" : "M1", "message %u at %lld of %s-%d is gone after %s (%s)", x->id,
                     (long long)x->base, m->topics[x->topic].name, x->partition,
                     power ? "power loss" : "process death", x->durable ? "durable" : "acks<=1");
        return;
    }
    lose(m, x);
}

enum traces { TRACE_NONE, TRACE_DONE, TRACE_NOT };

static enum traces run_traces(const struct model_commit *c, model_value_of *value_of, void *arg) {
    if (c->run_added >= 0) return value_of(arg, THING_RUN, c->run_added) ? TRACE_DONE : TRACE_NOT;
    if (c->run_dropped >= 0) return value_of(arg, THING_RUN, c->run_dropped) ? TRACE_NOT : TRACE_DONE;
    return TRACE_NONE;
}

/* What runs and records of an unknown commit say about it. Those of a topic that is gone say nothing. */
static enum traces commit_traces(struct model *m, const struct model_commit *c, model_value_of *value_of,
                                 void *arg) {
    enum traces t = run_traces(c, value_of, arg);
    for (uint32_t i = 0; i < c->count; i++) {
        const struct message *x = &m->messages[c->first + i];
        if (!alive(m, x) || released(m, x) || (m->topics[x->topic].compacted && !whole(x))) continue;
        enum traces now = whole(x) ? TRACE_DONE : TRACE_NOT;
        if (t != TRACE_NONE && t != now)
            model_broken(m, "M6", "commit %d is there in part: message %u is %s", (int)(c - m->commits),
                         x->id, now == TRACE_DONE ? "there" : "not there");
        t = now;
    }
    return t;
}

/* Whether the state is what the first n of the unknown commits make of it. */
static bool state_is(struct model *m, uint32_t upto, model_value_of *value_of, void *arg, char *why,
                     size_t size) {
    int32_t state[STATE_KEYS], topic_keys[TOPICS];
    memcpy(state, m->state, sizeof state);
    memcpy(topic_keys, m->topic_keys, sizeof topic_keys);
    for (uint32_t i = m->settled; i < upto; i++)
        if (m->commits[i].fate == FATE_UNKNOWN) apply_puts(m, &m->commits[i], state, topic_keys);
    for (int k = 0; k < STATE_KEYS; k++) {
        int32_t is = value_of(arg, THING_STATE, k);
        if (is == state[k]) continue;
        snprintf(why, size, "key s/%d is commit %d's, should be %d's", k, is - 1, state[k] - 1);
        return false;
    }
    for (int t = 0; t < TOPICS; t++) {
        int32_t is = value_of(arg, THING_TOPIC_KEY, t);
        if (is == topic_keys[t]) continue;
        snprintf(why, size, "key g/%d is commit %d's, should be %d's", t, is - 1, topic_keys[t] - 1);
        return false;
    }
    return true;
}

/* M6: which unknown commits happened: a prefix [settled, upto) that records and state agree on. */
static void settle_commits(struct model *m, model_value_of *value_of, void *arg) {
    uint32_t low = m->settled, high = m->commit_count;
    for (uint32_t i = m->settled; i < m->commit_count; i++) {
        if (m->commits[i].fate != FATE_UNKNOWN) continue;
        enum traces t = commit_traces(m, &m->commits[i], value_of, arg);
        if (t == TRACE_DONE) low = i + 1;
        if (t == TRACE_NOT && high > i) high = i;
    }
    if (low > high) {
        model_broken(m, "M6", "commit %u is there, the earlier commit %u is not", low - 1, high);
        return;
    }
    char why[120] = "";
    uint32_t upto = low;
    while (upto <= high && !state_is(m, upto, value_of, arg, why, sizeof why)) upto++;
    if (upto > high) {
        model_broken(m, "M6", "no prefix of commits %u to %u makes this state: %s", low, high, why);
        return;
    }
    for (uint32_t i = m->settled; i < m->commit_count; i++) {
        struct model_commit *c = &m->commits[i];
        if (c->fate != FATE_UNKNOWN) continue;
        c->fate = i < upto ? FATE_KEPT : FATE_LOST;
        if (i < upto)
            take_effect(m, c);
        else
            take_no_effect(m, c, FATE_LOST);
    }
    m->settled = m->commit_count;
}

void model_sweep_end(struct model *m, bool power, model_value_of *value_of, void *arg) {
    /* What was asked for and not answered has moved the starts, which are known now, or never happened. */
    for (int t = 0; t < TOPICS; t++) memset(m->topics[t].asked, 0, sizeof m->topics[t].asked);
    if (!m->broken) settle_commits(m, value_of, arg);
    for (uint32_t i = 0; i < m->message_count && !m->broken; i++) no_revival(m, &m->messages[i]);
    for (uint32_t i = 0; i < m->message_count && !m->broken; i++) settle_message(m, &m->messages[i], power);
    m->syncs_failed = false;
}
