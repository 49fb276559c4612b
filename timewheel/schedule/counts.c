/* How much pends for each destination: for limits, and for those who look.
 *
 * What pends cannot be counted anew at a start without reading every run, and runs do not say which of their
 * messages are whose. So the counts are durable, and each step of a message is counted in the commit that
 * takes it, once:
 *
 *     log --read--> active --freeze--> frozen --commit of the checkpoint--> base <--commit of moves-- fired
 *
 * active   taken in less cancelled, since the last freeze: lost in a crash, and counted again when the log is
 *          read again; what an operation does is a function of the log alone (accept.c), so the count is the
 *          same, also for messages that have been fired meanwhile
 * frozen   the same, of the records between the durable base of the log and the next one
 * base     "delay/topic/<topic>": messages i64, bytes i64, big-endian: taken in less cancelled of all records
 *          before the base of the log, less all that was fired. It is negative when more was fired of what
 *          was accepted after the base than is left of what was accepted before it. Zero and zero: no key.
 *
 * So pending = active + frozen + base. Commits are durable in the order in which they were started: `base`
 * holds what the last started one says, and when one fails the schedule starts again from durable state.
 *
 * A "next" record takes the place of a run that has been fired: it takes nothing off, even where it finds its
 * forerunner pending (recurring.c). */
#include "schedule_state.h"

#define PREFIX "delay/topic/"

struct topic_count {
    UT_hash_handle hh; /* by topic */
    struct amount active, frozen, base;
    struct amount firing;     /* of the commit being put together */
    bool in_firing, touched;  /* touched: counted in `active` since the freeze */
    struct topic_count *next; /* of those in it */
    size_t n;
    char topic[];
};

static void add(struct amount *to, struct amount what) {
    to->messages += what.messages;
    to->bytes += what.bytes;
}

static struct amount minus(struct amount a) {
    return (struct amount){-a.messages, -a.bytes};
}

static bool is_nothing(struct amount a) {
    return a.messages == 0 && a.bytes == 0;
}

static struct topic_count *find(const struct counts *t, hf_str topic) {
    struct topic_count *c = t->last;
    if (c && c->n == topic.n && memcmp(c->topic, topic.p, topic.n) == 0) return c;
    HASH_FIND(hh, t->all, topic.p, topic.n, c);
    return c;
}

static struct topic_count *find_or_make(struct counts *t, hf_str topic) {
    struct topic_count *c = find(t, topic);
    if (!c) {
        c = calloc(1, sizeof *c + topic.n);
        if (!c) return NULL;
        c->n = topic.n;
        memcpy(c->topic, topic.p, topic.n);
        HASH_ADD_KEYPTR(hh, t->all, c->topic, c->n, c);
        if (!c->hh.tbl) {
            free(c);
            return NULL;
        }
    }
    t->last = c;
    return c;
}

/* ---- records that are read ---- */

enum hf_err counts_add(struct counts *t, hf_str topic, int64_t messages, int64_t bytes) {
    struct topic_count *c = find_or_make(t, topic);
    if (!c) return HF_ENOMEM;
    if (!c->touched) t->touched++;
    c->touched = true;
    add(&c->active, (struct amount){messages, bytes});
    add(&t->total, (struct amount){messages, bytes});
    return HF_OK;
}

void counts_freeze(struct counts *t) {
    for (struct topic_count *c = t->all; c; c = c->hh.next) {
        c->frozen = c->active;
        c->active = (struct amount){0, 0};
        c->touched = false;
    }
    t->touched = 0;
}

/* ---- commits ---- */

static enum hf_err put(struct put_list *p, const struct topic_count *c, struct amount value) {
    if (p->count == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 16;
        struct engine_put *more = realloc(p->puts, cap * sizeof *more);
        if (!more) return HF_ENOMEM;
        p->puts = more;
        p->cap = cap;
    }
    size_t key_size = sizeof PREFIX - 1 + c->n;
    char *text = hf_arena_alloc(&p->texts, key_size + 16);
    if (!text) return HF_ENOMEM;
    memcpy(text, PREFIX, sizeof PREFIX - 1);
    memcpy(text + sizeof PREFIX - 1, c->topic, c->n);
    hf_put_be64(text + key_size, (uint64_t)value.messages);
    hf_put_be64(text + key_size + 8, (uint64_t)value.bytes);
    hf_str v = is_nothing(value) ? (hf_str){NULL, 0} : hf_str_make(text + key_size, 16);
    p->puts[p->count++] = (struct engine_put){hf_str_make(text, key_size), v};
    return HF_OK;
}

void put_list_begin(struct put_list *p) {
    enum { TEXTS_MAX = 64 << 20 };
    hf_arena_fini(&p->texts);
    hf_arena_init(&p->texts, TEXTS_MAX);
    p->count = 0;
}

void put_list_fini(struct put_list *p) {
    hf_arena_fini(&p->texts);
    free(p->puts);
    *p = (struct put_list){0};
}

enum hf_err put_list_add(struct put_list *p, hf_str key, hf_str value) {
    struct topic_count none = {.n = 0};
    enum hf_err e = put(p, &none, (struct amount){0, 0});
    if (!e) p->puts[p->count - 1] = (struct engine_put){key, value};
    return e;
}

void counts_fire_none(struct counts *t) {
    for (; t->firing; t->firing = t->firing->next) {
        t->firing->firing = (struct amount){0, 0};
        t->firing->in_firing = false;
    }
}

enum hf_err counts_fire(struct counts *t, hf_str topic, size_t bytes) {
    struct topic_count *c = find_or_make(t, topic);
    if (!c) return HF_ENOMEM;
    if (!c->in_firing) {
        c->next = t->firing;
        c->in_firing = true;
        t->firing = c;
    }
    add(&c->firing, (struct amount){1, (int64_t)bytes});
    return HF_OK;
}

enum hf_err counts_put_fired(const struct counts *t, struct put_list *out) {
    enum hf_err e = HF_OK;
    for (const struct topic_count *c = t->firing; c && !e; c = c->next) {
        struct amount left = c->base;
        add(&left, minus(c->firing));
        e = put(out, c, left);
    }
    return e;
}

void counts_fired(struct counts *t) {
    for (struct topic_count *c = t->firing; c; c = c->next) {
        add(&c->base, minus(c->firing));
        add(&t->total, minus(c->firing));
    }
    counts_fire_none(t);
}

enum hf_err counts_put_frozen(const struct counts *t, struct put_list *out) {
    enum hf_err e = HF_OK;
    for (const struct topic_count *c = t->all; c && !e; c = c->hh.next) {
        struct amount sum = c->base;
        add(&sum, c->frozen);
        if (hf_mutate(113)) add(&sum, c->active);
        if (!is_nothing(c->frozen)) e = put(out, c, sum);
    }
    return e;
}

void counts_settle(struct counts *t) {
    for (struct topic_count *c = t->all, *next; c; c = next) {
        next = c->hh.next;
        add(&c->base, c->frozen);
        c->frozen = (struct amount){0, 0};
        if (c->in_firing || c->touched || !is_nothing(c->base)) continue;
        if (t->last == c) t->last = NULL;
        HASH_DEL(t->all, c);
        free(c);
    }
}

/* ---- start and end ---- */

struct loading {
    struct counts *t;
    enum hf_err e;
};

static void load_one(void *arg, hf_str key, hf_str value) {
    struct loading *l = arg;
    hf_str topic = hf_str_make(key.p + sizeof PREFIX - 1, key.n - (sizeof PREFIX - 1));
    struct topic_count *c = l->e || value.n != 16 ? NULL : find_or_make(l->t, topic);
    if (!c) {
        if (!l->e) l->e = value.n == 16 ? HF_ENOMEM : HF_ECORRUPT;
        return;
    }
    c->base = (struct amount){(int64_t)hf_get_be64(value.p), (int64_t)hf_get_be64(value.p + 8)};
    add(&l->t->total, c->base);
}

enum hf_err counts_load(struct counts *t, struct engine *e) {
    struct loading l = {t, HF_OK};
    engine_state_each(e, HF_STR(PREFIX), load_one, &l);
    return l.e;
}

void counts_unload(struct counts *t) {
    for (struct topic_count *c = t->all, *next; c; c = next) {
        next = c->hh.next;
        HASH_DEL(t->all, c);
        free(c);
    }
    *t = (struct counts){0};
}

/* ---- looking ---- */

static struct schedule_pending shown(struct amount a) {
    return (struct schedule_pending){a.messages > 0 ? (uint64_t)a.messages : 0,
                                     a.bytes > 0 ? (uint64_t)a.bytes : 0};
}

static struct amount sum_of(const struct topic_count *c) {
    struct amount sum = c->base;
    add(&sum, c->frozen);
    add(&sum, c->active);
    return sum;
}

struct schedule_pending schedule_pending(const struct schedule *s, hf_str topic) {
    if (topic.n == 0) return shown(s->counts.total);
    const struct topic_count *c = find(&s->counts, topic);
    return shown(c ? sum_of(c) : (struct amount){0, 0});
}

void counts_check(const struct counts *t) {
    struct amount sum = {0, 0};
    for (const struct topic_count *c = t->all; c; c = c->hh.next) add(&sum, sum_of(c));
    assert(sum.messages == t->total.messages && sum.bytes == t->total.bytes);
}

void schedule_topics_each(const struct schedule *s,
                          void (*fn)(void *arg, hf_str topic, const struct schedule_pending *p), void *arg) {
    for (const struct topic_count *c = s->counts.all; c; c = c->hh.next) {
        struct schedule_pending p = shown(sum_of(c));
        if (p.messages) fn(arg, hf_str_make(c->topic, c->n), &p);
    }
}
