/* The bytes of superblocks and snapshots (formats: docs/storage.md).
 *
 * Generation g writes snapshot-(g mod 2), syncs it, then superblock-(g mod 2). So while one pair is being
 * written the other stands untouched, and a superblock that is whole always names a snapshot that is whole:
 * if it does not, that is damage. */
#include "log_internal.h"

#include "base/crc32c.h"

#include <stdio.h>
#include <stdlib.h>

enum { VERSION = 1, SNAPSHOT_VERSION = 3, SNAPSHOT_HEAD = 20, SNAPSHOT_MAX = 1 << 30 };

void superblock_encode(const struct superblock *s, uint8_t out[HF_SECTOR]) {
    memset(out, 0, HF_SECTOR);
    memcpy(out, "HFSB", 4);
    hf_put_be32(out + 4, VERSION);
    hf_put_be64(out + 8, s->generation);
    hf_put_be64(out + 16, s->lsn);
    hf_put_be32(out + 24, s->chain);
    hf_put_be32(out + 28, s->clean ? 1 : 0);
    hf_put_be64(out + 32, s->incarnation);
    hf_put_be64(out + 40, s->snapshot_bytes);
    hf_put_be32(out + 48, s->snapshot_crc);
    hf_put_be32(out + 508, hf_crc32c(0, out, 508));
}

static bool superblock_decode(const uint8_t *p, struct superblock *out) {
    if (memcmp(p, "HFSB", 4) != 0 || hf_get_be32(p + 508) != hf_crc32c(0, p, 508)) return false;
    *out = (struct superblock){
        .generation = hf_get_be64(p + 8),
        .lsn = hf_get_be64(p + 16),
        .chain = hf_get_be32(p + 24),
        .clean = hf_get_be32(p + 28) & 1,
        .incarnation = hf_get_be64(p + 32),
        .snapshot_bytes = hf_get_be64(p + 40),
        .snapshot_crc = hf_get_be32(p + 48),
    };
    return hf_get_be32(p + 4) == VERSION && out->snapshot_bytes <= SNAPSHOT_MAX;
}

/* As the disk has it, for the same reason as the journal [L9]: the other one is overwritten next. */
static enum hf_err read_one(struct log *l, const char *path, uint8_t sector[HF_SECTOR], bool *longer) {
    struct hf_file *f;
    enum hf_err e = env_open(l->env, path, ENV_WRITE, &f);
    if (e) return e;
    e = env_sync_wait(l->env, f, NULL);
    env_close(f);
    if (!e) e = env_open(l->env, path, ENV_READ | ENV_DIRECT, &f);
    if (e) return e;
    size_t got = 0;
    uint8_t *page = aligned_alloc(LOG_PAGE, LOG_PAGE);
    e = page ? env_read(f, 0, page, LOG_PAGE, &got) : HF_ENOMEM;
    if (!e && got < HF_SECTOR) e = HF_ENOTFOUND;
    if (!e) memcpy(sector, page, HF_SECTOR);
    *longer = got > HF_SECTOR;
    free(page);
    env_close(f);
    return e;
}

/* Superblocks and snapshots are written again and again: what is wrong with the older pair is told, and is
 * nobody's loss. */
static void tell_spare(struct log *l, const char *path, const char *what) {
    damage_tell(l, &(struct log_damage){.file = path, .offset = -1, .what = what, .rebuilt = true});
}

static bool is_zero(const uint8_t *p, size_t n) {
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

/* The newest that is whole. One that is nothing but zeros was never written. */
enum hf_err superblock_read(struct log *l, struct superblock *out) {
    bool found = false;
    for (int i = 0; i < 2; i++) {
        char path[32];
        uint8_t sector[HF_SECTOR];
        struct superblock s;
        bool longer = false;
        snprintf(path, sizeof path, "superblock-%d", i);
        enum hf_err e = read_one(l, path, sector, &longer);
        bool whole = !e && superblock_decode(sector, &s) && (s.generation & 1) == (uint64_t)i;
        if (e && e != HF_ENOTFOUND) return e;
        if (e || (!whole && !is_zero(sector, sizeof sector)))
            tell_spare(l, path, "not whole: the other one counts");
        if (longer) tell_spare(l, path, "the superblock ends here, but not the file");
        if (!whole || (found && s.generation < out->generation)) continue;
        *out = s;
        found = true;
    }
    return found ? HF_OK : HF_ENOTFOUND;
}

/* ---- snapshots ---- */

/* Of segments below it recovery opens none before it has replayed the journal: compaction may change them. */
static int64_t settled_below(struct log_partition *p, const struct segment *at) {
    int64_t unlisted = manifest_missing_from(p);
    return unlisted < at->base ? unlisted : at->base;
}

/* The ceiling of a partition that is synced up to its end is forgotten, by the log too: whoever comes next
 * waits for a new one, which lies behind this checkpoint in the journal. So no partition that has rested jumps
 * [L6]. */
static int64_t settle_ceiling(struct log_partition *p, bool clean) {
    bool rests = p->synced.offset == p->end.offset && p->ceiling_asked == p->ceiling;
    if (!clean && !rests) return p->ceiling;
    if (!hf_mutate(35)) p->ceiling = p->ceiling_asked = 0;
    return 0;
}

static void encode_partition(struct log_partition *p, bool clean, struct hf_buf *out) {
    struct place at = partition_applied(p);
    if (partition_jumped(p)) at.offset = at.seg->next_offset; /* its last epoch tells where it goes on */
    size_t from = out->n;
    p->noted_base = at.seg->base;
    hf_buf_be32(out, 0);
    hf_buf_put(out, p->topic->id.b, sizeof p->topic->id.b);
    hf_buf_be32(out, (uint32_t)p->number);
    hf_buf_be64(out, (uint64_t)p->start);
    hf_buf_be64(out, (uint64_t)at.seg->base);
    hf_buf_be64(out, at.pos);
    hf_buf_be64(out, (uint64_t)at.offset);
    hf_buf_be64(out, (uint64_t)settle_ceiling(p, clean));
    hf_buf_be64(out, (uint64_t)p->last_time_ms);
    hf_buf_be64(out, p->topic->next_sequence);
    hf_buf_be64(out, (uint64_t)at.seg->max_ts);
    hf_buf_be64(out, (uint64_t)at.seg->max_ts_offset);
    p->noted_settled = settled_below(p, at.seg);
    hf_buf_be64(out, (uint64_t)p->listed_below);
    hf_buf_be64(out, (uint64_t)p->cleaned);
    hf_buf_be32(out, p->parts ? p->parts->chain : at.seg->chain);
    for (int i = 0; i < INDEX_FILES; i++) {
        struct index_file *file = index_file_of(at.seg, i);
        uint32_t n = p->parts ? p->parts->index_count[i] : clean ? file->written : file->entries;
        struct index_sum sum = index_sum_at(at.seg, file, n); /* a full disk may have left some in memory */
        hf_buf_be32(out, sum.entries);
        hf_buf_be32(out, sum.crc);
    }
    hf_buf_be32(out, (uint32_t)p->epoch_count);
    for (size_t i = 0; i < p->epoch_count; i++) {
        hf_buf_be32(out, (uint32_t)p->epochs[i].epoch);
        hf_buf_be64(out, (uint64_t)p->epochs[i].start);
    }
    producer_encode(p, at.offset, out);
    if (!hf_buf_failed(out)) hf_put_be32(out->p + from, (uint32_t)(out->n - from - 4));
}

/* The facts of every partition as they are now. */
void snapshot_encode(struct log *l, uint64_t generation, bool clean, struct hf_buf *out) {
    hf_buf_init(out, SNAPSHOT_MAX);
    hf_buf_put(out, "HFSN", 4);
    hf_buf_be32(out, SNAPSHOT_VERSION);
    hf_buf_be64(out, generation);
    hf_buf_be32(out, 0);
    uint32_t n = 0;
    for (const struct topic *t = l->topics; t; t = t->hh.next) {
        if (t->phase != TOPIC_LIVE && t->phase != TOPIC_DELETING) continue;
        for (int32_t i = 0; i < t->partitions; i++, n++) encode_partition(t->partition[i], clean, out);
    }
    if (!hf_buf_failed(out)) hf_put_be32(out->p + 16, n);
}

/* HF_ECORRUPT: not what the superblock says. */
static enum hf_err read_snapshot(struct log *l, const char *path, const struct superblock *s,
                                 struct hf_buf *out) {
    hf_buf_init(out, SNAPSHOT_MAX);
    struct hf_file *f;
    enum hf_err e = env_open(l->env, path, ENV_READ, &f);
    if (e) return e == HF_ENOTFOUND ? HF_ECORRUPT : e;
    size_t got = 0;
    uint8_t *p = hf_buf_room(out, (size_t)s->snapshot_bytes);
    e = p ? env_read(f, 0, p, (size_t)s->snapshot_bytes, &got) : HF_ENOMEM;
    env_close(f);
    if (e) return e;
    out->n = got;
    bool whole = got == s->snapshot_bytes && got >= SNAPSHOT_HEAD &&
                 hf_crc32c(0, p, got) == s->snapshot_crc && memcmp(p, "HFSN", 4) == 0;
    return whole ? HF_OK : HF_ECORRUPT;
}

enum hf_err snapshot_read(struct log *l, const struct superblock *s, struct hf_buf *out) {
    char path[32];
    snprintf(path, sizeof path, "snapshot-%d", (int)(s->generation & 1));
    enum hf_err e = read_snapshot(l, path, s, out);
    const char *what = "not what the superblock says by length and checksum";
    if (e == HF_ECORRUPT) damage_tell(l, &(struct log_damage){.file = path, .offset = -1, .what = what});
    if (e) hf_buf_fini(out);
    return e;
}

/* The newest pair of superblock and snapshot that is whole, for a start that may not be refused; a superblock of
 * zeros and an empty snapshot if none is. */
enum hf_err snapshot_rescue(struct log *l, struct superblock *sb, struct hf_buf *out) {
    struct superblock found[2];
    int count = 0;
    for (int i = 0; i < 2; i++) {
        char path[32];
        uint8_t sector[HF_SECTOR];
        bool longer;
        snprintf(path, sizeof path, "superblock-%d", i);
        enum hf_err e = read_one(l, path, sector, &longer);
        if (e && e != HF_ENOTFOUND) return e;
        bool whole =
            !e && superblock_decode(sector, &found[count]) && (found[count].generation & 1) == (uint64_t)i;
        if (!whole && (e || !is_zero(sector, sizeof sector))) {
            rescue_tell(l, path, "not whole");
            l->rescue.unsure = true; /* it may have been the newest */
        }
        count += whole;
    }
    if (count == 2 && found[1].generation > found[0].generation) {
        struct superblock newest = found[1];
        found[1] = found[0];
        found[0] = newest;
    }
    *sb = count > 0 ? found[0] : (struct superblock){0};
    l->checkpoint.generation = sb->generation;
    for (int i = 0; i < count; i++) {
        enum hf_err e = snapshot_read(l, &found[i], out);
        if (!e) *sb = found[i];
        if (!e) l->rescue.exact = sb->clean && !l->rescue.unsure;
        if (e != HF_ECORRUPT) return e;
        l->rescue.unsure = true;
    }
    l->rescue.unsure = true;
    rescue_tell(l, "snapshot-0", "no snapshot is whole: starts, epochs and ends are what the folders show");
    static const uint8_t none[SNAPSHOT_HEAD];
    hf_buf_init(out, SNAPSHOT_MAX);
    hf_buf_put(out, none, sizeof none);
    return hf_buf_failed(out);
}

/* After a clean stop the checkpoint before the last is whole, too; unless a start since then was cut off
 * while it wrote its own, which looks the same. */
enum hf_err snapshot_look_at_spare(struct log *l, const struct superblock *newest) {
    int i = (int)((newest->generation + 1) & 1);
    struct hf_buf bytes;
    struct superblock s;
    uint8_t sector[HF_SECTOR];
    bool longer;
    char path[32];
    snprintf(path, sizeof path, "superblock-%d", i);
    enum hf_err e = read_one(l, path, sector, &longer);
    if (e || !superblock_decode(sector, &s)) return e == HF_ENOTFOUND ? HF_OK : e; /* told before */
    snprintf(path, sizeof path, "snapshot-%d", i);
    e = read_snapshot(l, path, &s, &bytes);
    hf_buf_fini(&bytes);
    if (e != HF_ECORRUPT) return e;
    tell_spare(l, path, "the older snapshot is not whole: damaged, or a start was cut off while it wrote it");
    return HF_OK;
}

static void decode_facts(struct hf_reader *r, struct facts *f) {
    uint32_t n = hf_read_be32(r);
    hf_str all = hf_read_bytes(r, n);
    struct hf_reader x = hf_reader_of(all.p, all.n);
    hf_str id = hf_read_bytes(&x, sizeof f->id.b);
    if (id.p) memcpy(f->id.b, id.p, sizeof f->id.b);
    f->partition = (int32_t)hf_read_be32(&x);
    f->start = (int64_t)hf_read_be64(&x);
    f->base = (int64_t)hf_read_be64(&x);
    f->pos = hf_read_be64(&x);
    f->next = (int64_t)hf_read_be64(&x);
    f->ceiling = (int64_t)hf_read_be64(&x);
    f->last_time_ms = (int64_t)hf_read_be64(&x);
    f->next_sequence = hf_read_be64(&x);
    f->max_ts = (int64_t)hf_read_be64(&x);
    f->max_ts_offset = (int64_t)hf_read_be64(&x);
    f->unlisted = (int64_t)hf_read_be64(&x);
    f->cleaned = (int64_t)hf_read_be64(&x);
    f->chain = hf_read_be32(&x);
    for (int i = 0; i < INDEX_FILES; i++) {
        f->sums[i].entries = hf_read_be32(&x);
        f->sums[i].crc = hf_read_be32(&x);
    }
    f->epoch_count = hf_read_be32(&x);
    f->epochs = hf_read_bytes(&x, (size_t)f->epoch_count * 12);
    f->producers = hf_str_make(x.p, hf_reader_left(&x));
    if (x.bad || f->epoch_count == 0) r->bad = true;
}

enum hf_err snapshot_each(struct log *l, const struct hf_buf *snapshot,
                          enum hf_err (*fn)(struct log *l, const struct facts *f)) {
    struct hf_reader r = hf_reader_of(snapshot->p + 16, snapshot->n - 16);
    uint32_t n = hf_read_be32(&r);
    for (uint32_t i = 0; i < n; i++) {
        struct facts f;
        decode_facts(&r, &f);
        if (r.bad) return HF_ECORRUPT;
        enum hf_err e = fn(l, &f);
        if (e) return e;
    }
    return HF_OK;
}

/* All but the segments. */
enum hf_err facts_apply(struct log_partition *p, const struct facts *f) {
    p->start = f->start;
    p->cleaned = f->cleaned;
    p->ceiling = p->ceiling_asked = f->ceiling;
    p->last_time_ms = f->last_time_ms;
    if (f->last_time_ms > p->topic->last_time_ms) p->topic->last_time_ms = f->last_time_ms;
    if (f->next_sequence > p->topic->next_sequence) p->topic->next_sequence = f->next_sequence;
    struct hf_reader r = hf_reader_of(f->epochs.p, f->epochs.n);
    p->epoch_count = 0;
    for (uint32_t i = 0; i < f->epoch_count; i++) {
        int32_t epoch = (int32_t)hf_read_be32(&r);
        enum hf_err e = partition_epoch_add(p, epoch, (int64_t)hf_read_be64(&r));
        if (e) return e;
    }
    return producer_decode(p, f->producers);
}
