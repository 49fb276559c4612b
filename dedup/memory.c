/* The two-phase store in this process's memory: for tests, trials and `holdfast work` without Redis. It
 * forgets at exit, so its guarantee ends with the process.
 *
 * One hash table from the key's bytes to a dedup_entry, one lock. Entries stay in order of insertion
 * (uthash's own list), so that expire, which walks from the oldest, sees nothing that depends on hashes. The
 * table has a limit: when it is full, claims of new keys answer UNAVAILABLE rather than forget a horizon
 * early. */
#include "state.h"
#include "store.h"

#include "base/bytes.h"

#include <pthread.h>
#include <stdlib.h>
#include <uthash.h>

enum { MEMORY_ENTRIES_MAX = 1000000 };

struct item {
    struct dedup_entry entry;
    UT_hash_handle hh;
    size_t n;
    char key[]; /* group ':' origin ':' id */
};

struct dedup_store {
    struct dedup_options options;
    pthread_mutex_t lock;
    struct item *items;
    uint64_t last_fence;
};

static enum hf_err memory_open(const struct dedup_options *o, struct dedup_store **out) {
    struct dedup_store *s = calloc(1, sizeof *s);
    if (!s) return HF_ENOMEM;
    s->options = *o;
    pthread_mutex_init(&s->lock, NULL);
    *out = s;
    return HF_OK;
}

static void item_remove(struct dedup_store *s, struct item *i) {
    HASH_DELETE(hh, s->items, i);
    free(i);
}

static void memory_close(struct dedup_store *s) {
    struct item *i, *next;
    HASH_ITER (hh, s->items, i, next) item_remove(s, i);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static enum dedup_answer memory_start(struct dedup_store *s, struct dedup_detail *detail) {
    (void)s;
    (void)detail;
    return DEDUP_RUN;
}

/* ---- entries ---- */

enum { KEY_MAX = DEDUP_GROUP_MAX + DEDUP_ORIGIN_MAX + DEDUP_ID_MAX + 2 };

static size_t key_bytes(const struct dedup_key *key, char out[KEY_MAX]) {
    struct hf_str parts[] = {key->group, HF_STR(":"), key->origin, HF_STR(":"), key->id};
    size_t n = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        memcpy(out + n, parts[i].p, parts[i].n);
        n += parts[i].n;
    }
    return n;
}

/* NULL: not there, and (if create) no room. */
static struct item *find(struct dedup_store *s, const struct dedup_key *key, bool create) {
    char bytes[KEY_MAX];
    size_t n = key_bytes(key, bytes);
    struct item *i;
    HASH_FIND(hh, s->items, bytes, n, i);
    if (i || !create || HASH_COUNT(s->items) >= MEMORY_ENTRIES_MAX) return i;
    i = calloc(1, sizeof *i + n);
    if (!i) return NULL;
    i->n = n;
    memcpy(i->key, bytes, n);
    HASH_ADD_KEYPTR(hh, s->items, i->key, n, i);
    return i;
}

static enum dedup_answer full(struct dedup_detail *detail) {
    return dedup_say(detail, DEDUP_UNAVAILABLE, "the memory store is full (%d entries)", MEMORY_ENTRIES_MAX);
}

static enum dedup_answer memory_claim(struct dedup_store *s, const struct dedup_key *key,
                                      uint64_t fingerprint, int64_t now_ms, struct dedup_detail *detail) {
    pthread_mutex_lock(&s->lock);
    enum dedup_answer a = DEDUP_UNAVAILABLE;
    struct item *i = find(s, key, true);
    if (i) {
        a = dedup_entry_claim(&i->entry, fingerprint, s->last_fence + 1, now_ms, s->options.lease_ms,
                              &detail->retry_ms);
        if (a == DEDUP_RUN) detail->fence = ++s->last_fence;
    }
    pthread_mutex_unlock(&s->lock);
    return i ? a : full(detail);
}

static enum dedup_answer memory_renew(struct dedup_store *s, const struct dedup_key *key, uint64_t fence,
                                      int64_t now_ms, struct dedup_detail *detail) {
    (void)detail;
    pthread_mutex_lock(&s->lock);
    struct item *i = find(s, key, false);
    enum dedup_answer a = i ? dedup_entry_renew(&i->entry, fence, now_ms, s->options.lease_ms) : DEDUP_LOST;
    pthread_mutex_unlock(&s->lock);
    return a;
}

static enum dedup_answer memory_release(struct dedup_store *s, const struct dedup_key *key, uint64_t fence,
                                        int64_t now_ms, struct dedup_detail *detail) {
    (void)detail;
    pthread_mutex_lock(&s->lock);
    struct item *i = find(s, key, false);
    enum dedup_answer a = i ? dedup_entry_release(&i->entry, fence, now_ms) : DEDUP_LOST;
    if (a == DEDUP_RUN) item_remove(s, i);
    pthread_mutex_unlock(&s->lock);
    return a;
}

static enum dedup_answer memory_done(struct dedup_store *s, const struct dedup_key *key, uint64_t fingerprint,
                                     int64_t now_ms, struct dedup_detail *detail) {
    pthread_mutex_lock(&s->lock);
    struct item *i = find(s, key, true);
    if (i) dedup_entry_done(&i->entry, fingerprint, now_ms, s->options.horizon_ms);
    pthread_mutex_unlock(&s->lock);
    return i ? DEDUP_RUN : full(detail);
}

/* Walks from the oldest insertion and stops after limit looks, so that the lock is held for a bounded time.
 * An entry that is looked at and stays goes to the end: the next call goes on behind it. */
static enum dedup_answer memory_expire(struct dedup_store *s, int64_t before_ms, int64_t now_ms, size_t limit,
                                       size_t *removed, struct dedup_detail *detail) {
    (void)before_ms;
    (void)detail;
    pthread_mutex_lock(&s->lock);
    size_t looks = HASH_COUNT(s->items) < limit ? HASH_COUNT(s->items) : limit;
    while (looks-- > 0) {
        struct item *i = s->items;
        if (dedup_entry_spent(&i->entry, now_ms)) {
            item_remove(s, i);
            ++*removed;
            continue;
        }
        HASH_DELETE(hh, s->items, i);
        HASH_ADD_KEYPTR(hh, s->items, i->key, i->n, i);
    }
    pthread_mutex_unlock(&s->lock);
    return DEDUP_RUN;
}

const struct dedup_ops dedup_memory_ops = {
    .name = "memory",
    .kind = DEDUP_EXTERNAL,
    .open = memory_open,
    .close = memory_close,
    .start = memory_start,
    .expire = memory_expire,
    .claim = memory_claim,
    .renew = memory_renew,
    .release = memory_release,
    .done = memory_done,
};
