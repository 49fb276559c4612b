/* Manifests: what a closed segment must be, so that damage can be told from data.
 *
 * The manifest of a partition lies in pieces, one beside each segment: `<base>.manifest`. While the segment
 * is written to, the file holds anchors only (index.c). When the segment is closed and synced, a trailer says
 * all that can be known of it: whose it is, its length, the offsets where it ends and where the next one
 * begins, the checksum over all batch headers, base offset and epoch included (a batch's own checksum leaves
 * these two out, but lies in the header, so the chain covers every byte), and what its index files must hold.
 *
 * Why pieces and not one file: a piece is written once and goes with its segment, so nothing is rewritten
 * when retention removes the oldest, and at no moment do file and segments disagree.
 *
 * Crashes. The trailer is written only after a sync has covered the segment and its indexes, and the next one
 * covers the trailer. Torn or missing, it is made again from the batches (proof.c): it says nothing that they
 * do not say, but that they have not changed since.
 *
 *     0 "HFMF"  4 version u32 = 1  8 topic uuid 16  24 partition int32  28 gaps u32
 *    32 base int64  40 next offset int64  48 base of the segment that follows int64  56 length u64
 *    64 chain u32  68 zeros  72 entries u32 and CRC-32C u32 of: index, timeindex, anchors
 *    96 zeros  124 CRC-32C of bytes 0..123 */
#include "log_internal.h"

#include "base/crc32c.h"

enum { VERSION = 1, AT_SUMS = 72, AT_CRC = 124 };

void manifest_encode(struct segment *s, uint8_t out[MANIFEST_TRAILER]) {
    memset(out, 0, MANIFEST_TRAILER);
    memcpy(out, "HFMF", 4);
    hf_put_be32(out + 4, VERSION);
    memcpy(out + 8, s->p->topic->id.b, sizeof s->p->topic->id.b);
    hf_put_be32(out + 24, (uint32_t)s->p->number);
    hf_put_be32(out + 28, s->gaps);
    hf_put_be64(out + 32, (uint64_t)s->base);
    hf_put_be64(out + 40, (uint64_t)s->next_offset);
    hf_put_be64(out + 48, (uint64_t)(s->follows >= 0 ? s->follows : s->next->base));
    hf_put_be64(out + 56, s->size);
    hf_put_be32(out + 64, s->chain);
    for (int i = 0; i < INDEX_FILES; i++) {
        struct index_file *f = index_file_of(s, i);
        struct index_sum sum = index_sum_at(s, f, f->entries);
        hf_put_be32(out + AT_SUMS + 8 * i, sum.entries);
        hf_put_be32(out + AT_SUMS + 8 * i + 4, sum.crc);
    }
    hf_put_be32(out + AT_CRC, hf_crc32c(0, out, AT_CRC));
}

static bool decode(const struct segment *s, const uint8_t *p, struct manifest *out) {
    if (memcmp(p, "HFMF", 4) != 0 || hf_get_be32(p + AT_CRC) != hf_crc32c(0, p, AT_CRC)) return false;
    *out = (struct manifest){
        .next = (int64_t)hf_get_be64(p + 40),
        .follows = (int64_t)hf_get_be64(p + 48),
        .length = hf_get_be64(p + 56),
        .chain = hf_get_be32(p + 64),
        .gaps = hf_get_be32(p + 28),
    };
    for (int i = 0; i < INDEX_FILES; i++)
        out->sums[i] =
            (struct index_sum){hf_get_be32(p + AT_SUMS + 8 * i), hf_get_be32(p + AT_SUMS + 8 * i + 4)};
    bool ours = memcmp(p + 8, s->p->topic->id.b, sizeof s->p->topic->id.b) == 0 &&
                (int32_t)hf_get_be32(p + 24) == s->p->number && (int64_t)hf_get_be64(p + 32) == s->base;
    return ours && hf_get_be32(p + 4) == VERSION && out->length <= LOG_SEGMENT_MAX;
}

/* The trailer of a closed segment. HF_ENOTFOUND: there is no file; HF_ECORRUPT: it is not whole. */
enum hf_err manifest_read(struct segment *s, struct manifest *out) {
    struct index_file *f = &s->anchors;
    uint8_t bytes[MANIFEST_TRAILER];
    uint64_t size = 0;
    size_t got = 0;
    enum hf_err e = index_open(s, f, ENV_WRITE);
    if (!e) e = env_size(f->file, &size);
    if (!e && size < MANIFEST_TRAILER) e = HF_ECORRUPT;
    if (!e) e = env_read(f->file, size - MANIFEST_TRAILER, bytes, sizeof bytes, &got);
    if (e) return e;
    struct manifest m;
    if (got < sizeof bytes || !decode(s, bytes, &m)) return HF_ECORRUPT;
    if ((uint64_t)m.sums[INDEX_FILES - 1].entries * ANCHOR_ENTRY != size - MANIFEST_TRAILER)
        return HF_ECORRUPT;
    *out = m;
    return HF_OK;
}

static bool may_close(const struct segment *s) {
    if (!s->sealed || !s->tracked || s->listed || !s->next || s->dirty || s->index_dirty) return false;
    if (s->log->checkpoint.clean && !checkpoint_idle(s->log)) return false; /* behind the last facts */
    return s->anchors.entries == s->anchors.written;
}

/* The trailer behind the anchors, all of which are written. */
enum hf_err manifest_write(struct segment *s) {
    struct index_file *f = &s->anchors;
    uint8_t bytes[MANIFEST_TRAILER];
    char path[LOG_PATH];
    manifest_encode(s, bytes);
    index_path(s, f, path);
    enum hf_err e = HF_OK;
    if (!f->file) {
        e = index_open(s, f, ENV_CREATE);
        s->p->dirty_dir = true;
        partition_mark_dirty(s->p);
    }
    if (!e) e = env_write(f->file, (uint64_t)f->written * ANCHOR_ENTRY, bytes, sizeof bytes);
    if (e && e != HF_ENOSPC) log_fail(s->log, e, path);
    if (!e) f->unsynced = s->index_dirty = s->listed = true;
    return e;
}

/* A sync has covered all of a closed segment: its trailer is written, and the next sync covers that. On a
 * full disk it stays away, and is made at the first look of a later start. */
void manifest_close(struct segment *s) {
    if (may_close(s) && manifest_write(s) == HF_OK) partition_mark_dirty(s->p);
}

/* The first of the newest closed segments whose trailer is not written yet; the active one if there is none.
 * A checkpoint notes it: after a crash those from there on are looked at. */
int64_t manifest_missing_from(struct log_partition *p) {
    const struct segment *s = p->segments->prev;
    int64_t from = s->base;
    while (s != p->segments && s->prev->base >= p->listed_below) {
        s = s->prev;
        if (!s->listed) from = s->base;
    }
    p->listed_below = from;
    return from;
}
