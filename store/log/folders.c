/* Folders of partitions, what lies in them beside segments, and the trash.
 *
 *     topics/<topic>-<partition>/partition.metadata        whose it is [L14]
 *     topics/<topic>-<partition>/leader-epoch-checkpoint   for Kafka's tools and people
 *     trash/<16 hex digits>/                               what nobody owns any more
 *
 * A folder says whose it is, as Kafka's do: a deleted topic's folder is never taken for that of a new one with
 * the same name. A folder to be deleted is first renamed into the trash, then emptied, a few files in each
 * step. */
#include "log_internal.h"

#include <stdio.h>
#include <stdlib.h>

enum { METADATA_MAX = 128 };

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void base64url(const uint8_t b[16], char out[24]) {
    size_t n = 0;
    for (int i = 0; i < 16; i += 3) {
        uint32_t v = (uint32_t)b[i] << 16;
        if (i + 1 < 16) v |= (uint32_t)b[i + 1] << 8;
        if (i + 2 < 16) v |= b[i + 2];
        for (int k = 0; k < 4; k++)
            if (n < 22) out[n++] = digits[v >> (18 - 6 * k) & 63];
    }
    out[n] = 0;
}

void topic_folder_path(const struct topic *t, int32_t number, char out[LOG_PATH]) {
    int n = snprintf(out, LOG_PATH, "topics/%s-%d", t->name, number);
    assert(n > 0 && n < LOG_PATH);
}

/* ---- partition.metadata ---- */

static int metadata_text(const struct topic *t, char out[METADATA_MAX]) {
    char id[24];
    base64url(t->id.b, id);
    return snprintf(out, METADATA_MAX, "version: 0\ntopic_id: %s\n", id);
}

static void metadata_path(const struct log_partition *p, char out[LOG_PATH]) {
    int n = snprintf(out, LOG_PATH, "topics/%s-%d/partition.metadata", p->topic->name, p->number);
    assert(n < LOG_PATH);
}

/* Where the text of a file and what it must be differ; UINT64_MAX: nowhere. A missing file differs at 0. */
static enum hf_err differs_at(struct log *l, const char *path, hf_str want, uint64_t *at) {
    struct hf_file *f = NULL;
    char got[LOG_PAGE];
    size_t have = 0, n = 0;
    *at = UINT64_MAX;
    enum hf_err e = env_open(l->env, path, ENV_READ, &f);
    do {
        if (!e) e = env_read(f, n, got, sizeof got, &have);
        if (e == HF_ENOTFOUND) e = HF_OK;
        if (e) break;
        size_t i = 0;
        while (i < have && n + i < want.n && got[i] == want.p[n + i]) i++;
        n += i;
        if (i < have || (have < sizeof got && n < want.n)) *at = n;
    } while (*at == UINT64_MAX && have == sizeof got);
    if (f) env_close(f);
    return e;
}

static bool from_base64url(hf_str text, uint8_t out[16]) {
    uint32_t bits = 0;
    int have = 0, n = 0;
    for (size_t i = 0; i < text.n; i++) {
        const char *d = text.p[i] ? strchr(digits, text.p[i]) : NULL;
        if (!d) return false;
        bits = bits << 6 | (uint32_t)(d - digits);
        have += 6;
        if (have < 8) continue;
        have -= 8;
        out[n++] = (uint8_t)(bits >> have);
    }
    return text.n == 22;
}

/* HF_ECORRUPT: not of the form that is written. */
enum hf_err topic_metadata_read(struct log *l, hf_str name, int32_t number, struct log_uuid *id) {
    static const char head[] = "version: 0\ntopic_id: ";
    char path[LOG_PATH], text[METADATA_MAX];
    struct hf_file *f;
    size_t n = 0;
    snprintf(path, sizeof path, "topics/%.*s-%d/partition.metadata", (int)name.n, name.p, number);
    enum hf_err e = env_open(l->env, path, ENV_READ, &f);
    if (e) return e;
    e = env_read(f, 0, text, sizeof text, &n);
    env_close(f);
    if (e) return e;
    bool whole = n == sizeof head - 1 + 22 + 1 && memcmp(text, head, sizeof head - 1) == 0;
    return whole && from_base64url(hf_str_make(text + sizeof head - 1, 22), id->b) ? HF_OK : HF_ECORRUPT;
}

/* Whether partition.metadata is this topic's; told if not. */
enum hf_err topic_folder_is(struct log_partition *p, bool *is) {
    char path[LOG_PATH], want[METADATA_MAX];
    uint64_t at;
    metadata_path(p, path);
    int n = metadata_text(p->topic, want);
    enum hf_err e = differs_at(p->log, path, hf_str_make(want, (size_t)n), &at);
    if (e) return e;
    *is = at == UINT64_MAX;
    if (!*is)
        damage_tell(p->log, &(struct log_damage){.file = path,
                                                 .byte = at,
                                                 .offset = -1,
                                                 .what = "the file is missing, or another topic's"});
    return HF_OK;
}

/* Written again: a sync of its folder is to follow. */
enum hf_err topic_metadata_write(struct log_partition *p) {
    char path[LOG_PATH], text[METADATA_MAX];
    struct hf_file *f;
    metadata_path(p, path);
    int n = metadata_text(p->topic, text);
    enum hf_err e = env_open(p->log->env, path, ENV_CREATE, &f);
    if (e) return e;
    e = env_truncate(f, 0);
    if (!e) e = env_write(f, 0, text, (size_t)n);
    if (!e) e = env_sync_wait(p->log->env, f, NULL);
    env_close(f);
    return e;
}

/* An empty folder with its metadata and first segment. The metadata's file stays open to be synced. */
enum hf_err topic_folder_create(struct log_partition *p, struct hf_file **metadata) {
    struct hf_env *env = p->log->env;
    char path[LOG_PATH], text[METADATA_MAX];
    topic_folder_path(p->topic, p->number, path);
    enum hf_err e = env_mkdir(env, path);
    if (e == HF_EEXIST) {
        trash_folder(p->log, path);
        e = env_mkdir(env, path);
    }
    if (e) return e;
    metadata_path(p, path);
    int n = metadata_text(p->topic, text);
    struct segment *s;
    e = segment_first(p, &s);
    if (e) return e;
    p->end = p->journaled = p->durable = p->high = p->synced = (struct place){s, 0, 0};
    struct hf_file *f;
    e = env_open(env, path, ENV_CREATE, &f);
    if (e) return e;
    e = env_write(f, 0, text, (size_t)n);
    if (e) {
        env_close(f);
        return e;
    }
    topic_epochs_write(p);
    *metadata = f;
    return HF_OK;
}

/* ---- leader-epoch-checkpoint: the epochs themselves are facts of the snapshot ---- */

static void epochs_path(const struct log_partition *p, char out[LOG_PATH]) {
    int n = snprintf(out, LOG_PATH, "topics/%s-%d/leader-epoch-checkpoint", p->topic->name, p->number);
    assert(n < LOG_PATH);
}

static void epochs_text(const struct log_partition *p, struct hf_buf *out) {
    hf_buf_init(out, 1 << 20);
    hf_buf_printf(out, "0\n%zu\n", p->epoch_count);
    for (size_t i = 0; i < p->epoch_count; i++)
        hf_buf_printf(out, "%d %lld\n", p->epochs[i].epoch, (long long)p->epochs[i].start);
}

/* A full disk leaves it as it was. */
void topic_epochs_write(struct log_partition *p) {
    char path[LOG_PATH];
    struct hf_buf text;
    struct hf_file *f;
    epochs_path(p, path);
    epochs_text(p, &text);
    enum hf_err e = hf_buf_failed(&text);
    if (!e) e = env_open(p->log->env, path, ENV_CREATE, &f);
    if (!e) {
        uint64_t size = 0; /* a file that was cut to nothing is written back when it is closed, by ext4 */
        e = env_write(f, 0, text.p, text.n);
        if (!e) e = env_size(f, &size);
        if (!e && size > text.n) e = env_truncate(f, text.n);
        env_close(f);
    }
    hf_buf_fini(&text);
    if (e && e != HF_ENOSPC && e != HF_ENOMEM && e != HF_ELIMIT) log_fail(p->log, e, path);
}

/* What the small file says is known, so it is made again. It is written without a sync, so after a crash it
 * may be anything. */
enum hf_err topic_folder_prove(struct log_partition *p) {
    struct hf_buf text;
    char path[LOG_PATH];
    uint64_t at = UINT64_MAX;
    epochs_path(p, path);
    epochs_text(p, &text);
    enum hf_err e = hf_buf_failed(&text);
    if (!e) e = differs_at(p->log, path, hf_buf_view(&text), &at);
    hf_buf_fini(&text);
    if (e || at == UINT64_MAX) return e;
    topic_epochs_write(p);
    if (!p->log->clean) return HF_OK;
    damage_tell(p->log, &(struct log_damage){.file = path,
                                             .byte = at,
                                             .offset = -1,
                                             .what = "not what was written; made again",
                                             .rebuilt = true});
    return HF_OK;
}

/* ---- the trash ---- */

static bool note_trash(void *arg, const char *name) {
    struct log *l = arg;
    struct trash *t = calloc(1, sizeof *t);
    if (!t) return false;
    snprintf(t->path, sizeof t->path, "trash/%s", name);
    t->next = l->trash;
    l->trash = t;
    return true;
}

void trash_folder(struct log *l, const char *path) {
    char name[64], to[LOG_PATH];
    snprintf(name, sizeof name, "%016llx", (unsigned long long)env_random(l->env));
    snprintf(to, sizeof to, "trash/%s", name);
    enum hf_err e = env_rename(l->env, path, to);
    if (e) log_fail(l, e, path);
    if (!e) (void)note_trash(l, name);
}

struct sweep {
    struct log *l;
    const char *dir;
    size_t left;
};

static bool sweep_one(void *arg, const char *name) {
    struct sweep *s = arg;
    char path[LOG_PATH * 2];
    snprintf(path, sizeof path, "%s/%s", s->dir, name);
    enum hf_err e = env_unlink(s->l->env, path);
    if (e && e != HF_ENOTFOUND) log_fail(s->l, e, path);
    return --s->left > 0;
}

/* A few files at a time. */
void trash_step(struct log *l) {
    struct trash *t = l->trash;
    if (!t) return;
    struct sweep s = {l, t->path, 4};
    enum hf_err e = env_list(l->env, t->path, sweep_one, &s);
    if (!e && s.left > 0) e = env_rmdir(l->env, t->path);
    if (e && e != HF_ENOTFOUND) {
        log_fail(l, e, t->path);
        return;
    }
    if (s.left == 0) return;
    l->trash = t->next;
    free(t);
}

enum hf_err trash_load(struct log *l) {
    return env_list(l->env, "trash", note_trash, l);
}
