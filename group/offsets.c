/* Committed offsets: where a group goes on.
 *
 * The truth is the engine's state under engine_offset_key:
 *
 *    0  offset       int64, big-endian
 *    8  leader epoch int32
 *   12  metadata     the rest
 *
 * Entries in memory are a copy of what is durable, read at the start and changed when a commit has completed.
 * A commit is answered after that, so what was answered is never forgotten, and a fetch shows nothing that a
 * crash could take back. The engine lets commits take effect in their order but may complete them in any:
 * each has a number, and an entry never goes back to a smaller one.
 *
 *     checked ──engine takes it──▶ under way ──▶ applied, answered
 *        │           ▲                 └────────▶ failed, answered GROUP_UNAVAILABLE
 *        └──engine is busy──▶ waiting (a queue with a limit; first come, first served)
 *
 * An entry exists from the moment a commit names it, so that the deletion of its topic or group finds the
 * keys of commits under way too. Since the engine keeps the order, the deletion's record then drops what they
 * wrote; a commit that still waits when the topic goes comes behind that record, and drops the key once more.
 *
 * Deleting a group is a commit that puts nothing in the place of each of its entries; of very many, some such
 * commits, one behind the other. A crash between them leaves a group with fewer offsets, and an unanswered
 * request; a member that joins between them, an answer that the group is not empty. */
#include "group_internal.h"

#include <assert.h>
#include <stdlib.h>

enum {
    VALUE_HEADER = 12,
    KEY_MAX = 4096,
    DELETE_MOST = 10000,    /* offsets dropped by one commit, */
    DELETE_BYTES = 4 << 20, /* and their keys: below the engine's limits */
    TOPIC_MOST = 300,       /* of such a key, beside the group's name */
};

struct item {
    struct entry *entry;
    bool present; /* false: the key is to be deleted */
    int64_t offset;
    int32_t leader_epoch;
    hf_str metadata;
};

struct commit {
    struct groups *gs;
    struct group *g;
    uint64_t number;
    int64_t now_ms;
    struct item *items;
    size_t item_count;
    size_t *result_of; /* items[i] answers results[result_of[i]] */
    enum group_result *results;
    group_commit_done *committed; /* one of the two */
    group_delete_done *deleted;
    void *arg;
    bool more; /* deleted: behind it comes another commit, with offsets that did not fit */
    struct commit *prev, *next;
};

/* ---- entries ---- */

static hf_str entry_topic(const struct entry *x) {
    return hf_str_make(x->key.p, x->key.n - 5);
}

static int32_t entry_partition(const struct entry *x) {
    return (int32_t)hf_get_be32(x->key.p + x->key.n - 4);
}

/* topic 0x00 partition; false: the topic's name is none. */
static bool entry_key(struct hf_buf *b, hf_str topic, int32_t partition) {
    hf_buf_str(b, topic);
    hf_buf_u8(b, 0);
    hf_buf_be32(b, (uint32_t)partition);
    return !hf_buf_failed(b);
}

static struct entry *entry_find(const struct group *g, hf_str topic, int32_t partition) {
    uint8_t room[KEY_MAX];
    struct entry *x;
    if (topic.n > KEY_MAX - 5) return NULL;
    if (topic.n) memcpy(room, topic.p, topic.n);
    room[topic.n] = 0;
    hf_put_be32(room + topic.n + 1, (uint32_t)partition);
    HASH_FIND(hh, g->offsets, room, topic.n + 5, x);
    return x;
}

static struct entry *entry_make(struct groups *gs, struct group *g, hf_str topic, int32_t partition) {
    struct entry *x = calloc(1, sizeof *x);
    struct hf_buf key;
    hf_buf_init(&key, KEY_MAX);
    bool made = x && entry_key(&key, topic, partition) && group_dup(hf_buf_view(&key), &x->key);
    hf_buf_fini(&key);
    if (made) HASH_ADD_KEYPTR(hh, g->offsets, x->key.p, x->key.n, x);
    if (!made || !x->hh.tbl) {
        if (x) group_free_str(&x->key);
        free(x);
        return NULL;
    }
    gs->offset_count++;
    return x;
}

static void entry_delete(struct groups *gs, struct group *g, struct entry *x) {
    HASH_DEL(g->offsets, x);
    gs->offset_count--;
    group_free_str(&x->key);
    group_free_str(&x->metadata);
    free(x);
}

static void entry_forget(struct groups *gs, struct group *g, struct entry *x, uint64_t number) {
    x->present = false;
    x->applied = number;
    group_free_str(&x->metadata);
    if (x->under_way == 0) entry_delete(gs, g, x);
}

static void entry_show(const struct entry *x, struct group_offset *out) {
    *out = (struct group_offset){.topic = entry_topic(x),
                                 .partition = entry_partition(x),
                                 .offset = x->offset,
                                 .leader_epoch = x->leader_epoch,
                                 .metadata = x->metadata.p ? x->metadata : HF_STR("")};
}

void offsets_free(struct groups *gs, struct group *g) {
    struct entry *x, *tmp;
    HASH_ITER (hh, g->offsets, x, tmp) {
        entry_delete(gs, g, x);
    }
}

/* ---- commits ---- */

static void commit_free(struct commit *c) {
    for (size_t i = 0; i < c->item_count; i++) group_free_str(&c->items[i].metadata);
    free(c->items);
    free(c->result_of);
    free(c->results);
    free(c);
}

static struct commit *commit_make(struct groups *gs, struct group *g, int64_t now_ms, size_t items,
                                  size_t results) {
    struct commit *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    *c = (struct commit){.gs = gs, .g = g, .now_ms = now_ms};
    c->items = calloc(items + 1, sizeof *c->items);
    c->result_of = calloc(items + 1, sizeof *c->result_of);
    c->results = calloc(results + 1, sizeof *c->results);
    if (c->items && c->result_of && c->results) return c;
    commit_free(c);
    return NULL;
}

static enum group_result from_err(enum hf_err e) {
    if (e == HF_OK) return GROUP_OK;
    return e == HF_ELIMIT ? GROUP_LIMIT : GROUP_UNAVAILABLE;
}

static void item_apply(const struct commit *c, struct item *it) {
    struct entry *x = it->entry;
    if (c->number < x->applied) return;
    x->applied = c->number;
    x->present = it->present;
    x->offset = it->offset;
    x->leader_epoch = it->leader_epoch;
    group_free_str(&x->metadata);
    x->metadata = it->metadata;
    it->metadata = (hf_str){NULL, 0};
}

/* Answers and ends a commit, whatever became of it. */
static void commit_end(struct commit *c, enum group_result outcome) {
    struct group *g = c->g;
    for (size_t i = 0; i < c->item_count; i++) {
        struct item *it = &c->items[i];
        if (outcome == GROUP_OK)
            item_apply(c, it);
        else if (c->committed)
            c->results[c->result_of[i]] = outcome;
        if (--it->entry->under_way == 0 && !it->entry->present) entry_delete(c->gs, g, it->entry);
    }
    g->commits_under_way--;
    g->empty_ms = c->now_ms;
    if (group_is_idle(g)) group_wake_at(c->gs, g, g->empty_ms + EMPTY_KEPT_MS);
    c->gs->stats.commits++;
    bool gone = c->deleted && outcome == GROUP_OK && group_is_idle(g);
    if (gone) group_free(c->gs, g);
    if (c->committed)
        c->committed(c->arg, GROUP_OK, c->results);
    else if (c->more && outcome == GROUP_OK && !gone)
        group_delete(c->gs, c->now_ms, g->id, c->deleted, c->arg);
    else
        c->deleted(c->arg, outcome);
    commit_free(c);
}

static void engine_done_with(void *arg, enum hf_err e) {
    struct commit *c = arg;
    struct groups *gs = c->gs;
    DL_DELETE(gs->started, c);
    gs->started_count--;
    commit_end(c, from_err(e));
    offsets_start_waiting(gs);
}

/* Not if its topic was deleted while the commit waited. */
static bool is_put(const struct commit *c, const struct item *it) {
    return it->present && c->number >= it->entry->applied;
}

static bool put_value(struct hf_buf *b, const struct item *it) {
    hf_buf_be64(b, (uint64_t)it->offset);
    hf_buf_be32(b, (uint32_t)it->leader_epoch);
    hf_buf_str(b, it->metadata);
    return !hf_buf_failed(b);
}

/* Where a put's key and value lie in one buffer, which moves while it grows. */
struct place {
    size_t key, value, end;
};

static enum hf_err hand_to_engine(struct commit *c, struct hf_buf *b, struct place *places,
                                  struct engine_put *puts) {
    for (size_t i = 0; i < c->item_count; i++) {
        const struct entry *x = c->items[i].entry;
        places[i].key = b->n;
        engine_offset_key(b, c->g->id, entry_topic(x), entry_partition(x));
        places[i].value = b->n;
        if (is_put(c, &c->items[i]) && !put_value(b, &c->items[i])) break;
        places[i].end = b->n;
    }
    if (hf_buf_failed(b)) return HF_ENOMEM;
    for (size_t i = 0; i < c->item_count; i++) {
        const char *base = (const char *)b->p;
        const struct place *at = &places[i];
        puts[i].key = hf_str_make(base + at->key, at->value - at->key);
        bool put = is_put(c, &c->items[i]);
        puts[i].value = put ? hf_str_make(base + at->value, at->end - at->value) : (hf_str){NULL, 0};
    }
    const struct engine_commit ec = {.now_ms = c->now_ms, .puts = puts, .put_count = c->item_count};
    return engine_commit(c->gs->engine, &ec, engine_done_with, c);
}

static enum hf_err commit_start(struct commit *c) {
    struct hf_buf b;
    hf_buf_init(&b, SIZE_MAX / 2);
    struct place *places = calloc(c->item_count, sizeof *places);
    struct engine_put *puts = calloc(c->item_count, sizeof *puts);
    enum hf_err e = places && puts ? hand_to_engine(c, &b, places, puts) : HF_ENOMEM;
    free(places);
    free(puts);
    hf_buf_fini(&b);
    return e;
}

static void commit_started(struct commit *c, enum hf_err e) {
    if (e) {
        commit_end(c, from_err(e));
        return;
    }
    DL_APPEND(c->gs->started, c);
    c->gs->started_count++;
}

void offsets_start_waiting(struct groups *gs) {
    while (gs->waiting) {
        struct commit *c = gs->waiting;
        enum hf_err e = commit_start(c);
        if (e == HF_EAGAIN) return;
        DL_DELETE(gs->waiting, c);
        gs->waiting_offsets -= c->item_count;
        commit_started(c, e);
    }
}

/* The commit's items are complete: it is on its way, or ended. */
static void commit_begin(struct commit *c) {
    struct groups *gs = c->gs;
    c->number = ++gs->commit_number;
    c->g->commits_under_way++;
    for (size_t i = 0; i < c->item_count; i++) c->items[i].entry->under_way++;
    if (c->item_count == 0) {
        commit_end(c, GROUP_OK);
        return;
    }
    enum hf_err e = gs->waiting ? HF_EAGAIN : commit_start(c);
    if (e == HF_EAGAIN && gs->waiting_offsets < gs->options.waiting_offsets_max) {
        DL_APPEND(gs->waiting, c);
        gs->waiting_offsets += c->item_count;
    } else {
        commit_started(c, e);
    }
}

static enum group_result commit_allowed(struct groups *gs, const struct group_who *who, int64_t now_ms,
                                        struct group **out) {
    if (!group_id_ok(who->group)) return GROUP_INVALID_ID;
    struct group *g = group_find(gs, who->group);
    struct member *m;
    bool outside = who->generation < 0;
    if (!g && !outside) return GROUP_ILLEGAL_GENERATION;
    if (!g && !(g = group_make(gs, now_ms, who->group))) return GROUP_LIMIT;
    *out = g;
    if (outside && g->state == GROUP_EMPTY) return GROUP_OK;
    enum group_result e = member_of(g, who, &m);
    if (e) return e;
    if (who->generation != g->generation) return GROUP_ILLEGAL_GENERATION;
    member_touch(gs, g, m, now_ms);
    return g->state == GROUP_COMPLETING ? GROUP_REBALANCING : GROUP_OK;
}

static enum group_result item_allowed(struct groups *gs, struct group *g, const struct group_offset *o,
                                      struct entry **entry) {
    if (o->metadata.n > gs->options.metadata_max) return GROUP_METADATA_TOO_LARGE;
    if (o->topic.n == 0 || o->topic.n > KEY_MAX - 5 || memchr(o->topic.p, 0, o->topic.n))
        return GROUP_INVALID_ID;
    struct entry *x = entry_find(g, o->topic, o->partition);
    if (!x && gs->offset_count >= gs->options.offsets_max) return GROUP_LIMIT;
    if (!x) x = entry_make(gs, g, o->topic, o->partition);
    if (!x) return GROUP_UNAVAILABLE;
    *entry = x;
    return GROUP_OK;
}

static void add_item(struct commit *c, size_t i, const struct group_offset *o) {
    struct entry *x = NULL;
    hf_str metadata;
    if (!group_dup(o->metadata.p ? o->metadata : HF_STR(""), &metadata)) {
        c->results[i] = GROUP_UNAVAILABLE;
        return;
    }
    c->results[i] = item_allowed(c->gs, c->g, o, &x);
    if (c->results[i]) {
        group_free_str(&metadata);
        return;
    }
    c->result_of[c->item_count] = i;
    c->items[c->item_count++] = (struct item){x, true, o->offset, o->leader_epoch, metadata};
}

void group_commit(struct groups *gs, int64_t now_ms, const struct group_commit *r, group_commit_done *done,
                  void *arg) {
    struct group *g = NULL;
    enum group_result e = commit_allowed(gs, &r->who, now_ms, &g);
    if (!e && r->offset_count > GROUP_COMMIT_MAX) e = GROUP_LIMIT;
    struct commit *c = e ? NULL : commit_make(gs, g, now_ms, r->offset_count, r->offset_count);
    if (!c) {
        done(arg, e ? e : GROUP_UNAVAILABLE, NULL);
        return;
    }
    c->committed = done;
    c->arg = arg;
    for (size_t i = 0; i < r->offset_count; i++) add_item(c, i, &r->offsets[i]);
    commit_begin(c);
}

/* ---- fetch ---- */

bool group_offset_get(struct groups *gs, hf_str group, hf_str topic, int32_t partition,
                      struct group_offset *out) {
    const struct group *g = group_find(gs, group);
    const struct entry *x = g ? entry_find(g, topic, partition) : NULL;
    if (!x || !x->present) return false;
    entry_show(x, out);
    return true;
}

static int by_topic_and_partition(const struct entry *a, const struct entry *b) {
    int c = hf_str_cmp(entry_topic(a), entry_topic(b));
    if (c) return c;
    return entry_partition(a) < entry_partition(b) ? -1 : entry_partition(a) > entry_partition(b);
}

void group_offset_each(struct groups *gs, hf_str group, void (*fn)(void *arg, const struct group_offset *o),
                       void *arg) {
    struct group *g = group_find(gs, group);
    struct entry *x, *tmp;
    if (!g) return;
    HASH_SORT(g->offsets, by_topic_and_partition);
    HASH_ITER (hh, g->offsets, x, tmp) {
        struct group_offset o;
        entry_show(x, &o);
        if (x->present) fn(arg, &o);
    }
}

/* ---- deletion ---- */

void groups_topic_keys(struct groups *gs, hf_str topic, void (*fn)(void *arg, hf_str key), void *arg) {
    struct hf_buf key;
    hf_buf_init(&key, 2 * KEY_MAX);
    struct group *g, *gtmp;
    HASH_ITER (hh, gs->groups, g, gtmp) {
        struct entry *x, *tmp;
        HASH_ITER (hh, g->offsets, x, tmp) {
            if (!hf_str_eq(entry_topic(x), topic)) continue;
            hf_buf_reset(&key);
            engine_offset_key(&key, g->id, topic, entry_partition(x));
            if (!hf_buf_failed(&key)) fn(arg, hf_buf_view(&key));
        }
    }
    hf_buf_fini(&key);
}

void groups_topic_deleted(struct groups *gs, int64_t now_ms, hf_str topic) {
    uint64_t number = ++gs->commit_number;
    struct group *g, *gtmp;
    HASH_ITER (hh, gs->groups, g, gtmp) {
        struct entry *x, *tmp;
        HASH_ITER (hh, g->offsets, x, tmp) {
            if (hf_str_eq(entry_topic(x), topic)) entry_forget(gs, g, x, number);
        }
        if (group_is_idle(g)) group_wake_at(gs, g, now_ms);
    }
}

static size_t delete_at_once(const struct group *g, size_t all) {
    size_t fit = DELETE_BYTES / (g->id.n + TOPIC_MOST);
    if (fit > DELETE_MOST) fit = DELETE_MOST;
    return all < fit ? all : fit;
}

void group_delete(struct groups *gs, int64_t now_ms, hf_str group, group_delete_done *done, void *arg) {
    struct group *g = group_find(gs, group);
    enum group_result e = !g ? GROUP_NOT_FOUND : g->state != GROUP_EMPTY ? GROUP_NOT_EMPTY : GROUP_OK;
    size_t all = e ? 0 : HASH_COUNT(g->offsets), n = e ? 0 : delete_at_once(g, all);
    struct commit *c = e ? NULL : commit_make(gs, g, now_ms, n, 0);
    if (!c) {
        done(arg, e ? e : GROUP_UNAVAILABLE);
        return;
    }
    c->deleted = done;
    c->arg = arg;
    c->more = n < all;
    struct entry *x, *tmp;
    HASH_ITER (hh, g->offsets, x, tmp) {
        if (c->item_count == n) break;
        c->items[c->item_count++] = (struct item){.entry = x};
    }
    commit_begin(c);
}

/* ---- start and end ---- */

struct restore {
    struct groups *gs;
    enum hf_err e;
};

static enum hf_err restore_entry(struct groups *gs, hf_str key, hf_str value) {
    struct hf_reader r = hf_reader_of(key.p + 7, key.n - 7);
    const char *zero = memchr(r.p, 0, hf_reader_left(&r));
    if (!zero) return HF_ECORRUPT;
    hf_str group = hf_read_bytes(&r, (size_t)(zero - (const char *)r.p));
    hf_read_u8(&r);
    zero = memchr(r.p, 0, hf_reader_left(&r));
    if (!zero) return HF_ECORRUPT;
    hf_str topic = hf_read_bytes(&r, (size_t)(zero - (const char *)r.p));
    hf_read_u8(&r);
    int64_t partition;
    if (hf_str_int(hf_str_make(r.p, hf_reader_left(&r)), &partition) || partition < 0 ||
        partition > INT32_MAX)
        return HF_ECORRUPT;
    if (value.n < VALUE_HEADER) return HF_ECORRUPT;
    struct group *g = group_find(gs, group);
    if (!g && !(g = group_make(gs, gs->options.now_ms, group))) return HF_ENOMEM;
    struct entry *x = entry_make(gs, g, topic, (int32_t)partition);
    if (!x) return HF_ENOMEM;
    x->present = true;
    x->offset = (int64_t)hf_get_be64(value.p);
    x->leader_epoch = (int32_t)hf_get_be32(value.p + 8);
    return group_dup(hf_str_make(value.p + VALUE_HEADER, value.n - VALUE_HEADER), &x->metadata) ? HF_OK
                                                                                                : HF_ENOMEM;
}

static void restore_each(void *arg, hf_str key, hf_str value) {
    struct restore *r = arg;
    if (!r->e) r->e = restore_entry(r->gs, key, value);
}

enum hf_err offsets_restore(struct groups *gs) {
    struct restore r = {.gs = gs};
    engine_state_each(gs->engine, HF_STR("offset/"), restore_each, &r);
    return r.e;
}

static void drop_list(struct commit **list) {
    struct commit *c, *tmp;
    DL_FOREACH_SAFE(*list, c, tmp) {
        DL_DELETE(*list, c);
        if (c->committed)
            c->committed(c->arg, GROUP_UNAVAILABLE, NULL);
        else
            c->deleted(c->arg, GROUP_UNAVAILABLE);
        commit_free(c);
    }
}

void offsets_close(struct groups *gs) {
    drop_list(&gs->waiting);
    drop_list(&gs->started);
}

void offsets_check(const struct groups *gs, const struct group *g) {
    struct entry *x, *tmp;
    HASH_ITER (hh, g->offsets, x, tmp) {
        assert(x->present || x->under_way > 0); /* G7 */
        assert(x->applied <= gs->commit_number);
        assert(x->under_way <= g->commits_under_way);
    }
}
