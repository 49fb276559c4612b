/* Reads the journal back.
 *
 * The chain is followed from the superblock's LSN: each group must lie where its LSN says, be of the
 * superblock's incarnation, name its predecessor's checksum, and be whole. Behind a group the next one lies
 * either at the next sector, or first in the next file. Where neither is right the journal ends: normally
 * what the crash tore, never something that was answered. Whether that is so is judged by what lies beyond
 * [L8]: each group says how much was durable when it was written, so a whole group that says "beyond here"
 * proves that the break is damage.
 *
 * The files are synced and then read past the page cache [L9]: what is applied from them must still be there
 * if recovery is interrupted and starts over. */
#include "log_internal.h"

#include "base/crc32c.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- files ---- */

static int by_seq(const struct journal_file *a, const struct journal_file *b) {
    return a->seq < b->seq ? -1 : a->seq > b->seq;
}

struct scanning {
    struct log *l;
    enum hf_err e;
};

static bool scan_file(void *arg, const char *name) {
    struct scanning *x = arg;
    struct journal *j = &x->l->journal;
    unsigned slot;
    int length = 0;
    if (sscanf(name, "%5u.journal%n", &slot, &length) != 1 || name[length]) return true;
    struct journal_file *f = calloc(1, sizeof *f);
    char path[LOG_PATH];
    journal_path(slot, path);
    x->e = f ? env_open(x->l->env, path, ENV_WRITE, &f->file) : HF_ENOMEM;
    uint8_t sector[HF_SECTOR] = {0};
    size_t got;
    if (!x->e) x->e = env_read(f->file, 0, sector, sizeof sector, &got);
    if (!x->e) x->e = env_size(f->file, &f->size);
    if (x->e) {
        if (f && f->file) env_close(f->file);
        free(f);
        return false;
    }
    struct journal_head h;
    f->slot = slot;
    if (journal_head_decode(sector, &h)) f->seq = h.seq;
    if (slot >= j->next_slot) j->next_slot = slot + 1;
    DL_APPEND(j->files, f);
    return true;
}

enum hf_err replay_scan(struct log *l) {
    struct scanning x = {.l = l};
    enum hf_err e = env_list(l->env, "journal", scan_file, &x);
    if (e || x.e) return e ? e : x.e;
    DL_SORT(l->journal.files, by_seq);
    return HF_OK;
}

static enum hf_err sync_files(struct log *l) {
    struct journal_file *f;
    DL_FOREACH (l->journal.files, f) {
        if (hf_mutate(8)) break;
        enum hf_err e = env_sync_wait(l->env, f->file, NULL);
        if (e) return e;
    }
    return HF_OK;
}

/* One file in memory, as the disk has it. */
struct image {
    struct log *l;
    uint8_t *p; /* of the size of the largest file, whole pages */
    size_t cap, n;
    const struct journal_file *file;
    uint64_t incarnation; /* what its header says; 0: no header */
};

static enum hf_err image_open(struct image *m, struct log *l) {
    size_t most = LOG_PAGE;
    struct journal_file *f;
    DL_FOREACH (l->journal.files, f) {
        if (f->size > most) most = (size_t)f->size;
    }
    most = (most + LOG_PAGE - 1) / LOG_PAGE * LOG_PAGE;
    *m = (struct image){.l = l, .cap = most, .p = aligned_alloc(LOG_PAGE, most)};
    return m->p ? HF_OK : HF_ENOMEM;
}

static enum hf_err image_load(struct image *m, const struct journal_file *f) {
    if (m->file == f) return HF_OK;
    char path[LOG_PATH];
    journal_path(f->slot, path);
    struct hf_file *direct;
    enum hf_err e = env_open(m->l->env, path, ENV_READ | ENV_DIRECT, &direct);
    if (e) return e;
    e = env_read(direct, 0, m->p, m->cap, &m->n);
    env_close(direct);
    if (e) return e;
    m->file = f;
    struct journal_head h;
    m->incarnation = m->n >= HF_SECTOR && journal_head_decode(m->p, &h) ? h.incarnation : 0;
    return HF_OK;
}

static bool head_at(const struct image *m, uint64_t at, struct group_head *h) {
    return at + HF_SECTOR <= m->n && group_head_decode(m->p + at, h) && (h->lsn & UINT32_MAX) == at;
}

/* ---- the chain ---- */

static const struct journal_file *file_of(const struct log *l, uint64_t seq) {
    const struct journal_file *f;
    DL_FOREACH (l->journal.files, f) {
        if (f->seq == seq) return f;
    }
    return NULL;
}

static bool whole_at(const struct image *m, uint64_t lsn, const struct replay *r, struct group_head *h) {
    uint64_t at = lsn & UINT32_MAX;
    if (!head_at(m, at, h) || h->lsn != lsn) return false;
    if (h->incarnation != r->incarnation || h->chain != r->chain) return false;
    if (at + group_size(h->payload) > m->n) return false;
    return hf_crc32c(0, m->p + at + GROUP_HEADER, h->payload) == h->payload_crc;
}

static enum hf_err give_entries(const struct image *m, const struct group_head *h, const struct replay *r) {
    struct hf_reader x = hf_reader_of(m->p + (h->lsn & UINT32_MAX) + GROUP_HEADER, h->payload);
    for (uint32_t i = 0; i < h->entries; i++) {
        struct replay_entry e = {.type = hf_read_u8(&x)};
        (void)hf_read_bytes(&x, 3);
        uint32_t n = hf_read_be32(&x);
        hf_str body = hf_read_bytes(&x, n);
        struct hf_reader b = hf_reader_of(body.p, body.n);
        hf_str id = hf_read_bytes(&b, sizeof e.id.b);
        e.partition = (int32_t)hf_read_be32(&b);
        e.offset = (int64_t)hf_read_be64(&b);
        if (x.bad || b.bad) return HF_ECORRUPT;
        memcpy(e.id.b, id.p, sizeof e.id.b);
        e.bytes = b.p;
        e.n = hf_reader_left(&b);
        enum hf_err err = r->entry(r->arg, &e);
        if (err) return err;
    }
    return HF_OK;
}

/* Finds the group behind r->end: next in this file, or first in the next one. */
static enum hf_err next_group(struct image *m, struct replay *r, struct group_head *h) {
    uint64_t places[2] = {r->end, ((r->end >> 32) + 1) << 32 | HF_SECTOR};
    for (int i = 0; i < 2; i++) {
        const struct journal_file *f = file_of(m->l, places[i] >> 32);
        if (!f) continue;
        enum hf_err e = image_load(m, f);
        if (e) return e;
        if (whole_at(m, places[i], r, h)) return HF_OK;
    }
    return HF_EEND;
}

static uint64_t lsn_at(uint64_t seq, uint64_t at) {
    return seq << 32 | at;
}

static void tell(struct log *l, uint64_t lsn, const char *what) {
    const struct journal_file *f = file_of(l, lsn >> 32);
    char path[LOG_PATH] = "journal";
    if (f) journal_path(f->slot, path);
    damage_tell(l, &(struct log_damage){.file = path, .byte = lsn & UINT32_MAX, .offset = -1, .what = what});
}

/* ---- rescue: groups behind a break ---- */

static bool whole_by_itself(const struct image *m, uint64_t at, struct group_head *h) {
    if (!head_at(m, at, h) || h->lsn != lsn_at(m->file->seq, at)) return false;
    if (at + group_size(h->payload) > m->n) return false;
    return hf_crc32c(0, m->p + at + GROUP_HEADER, h->payload) == h->payload_crc;
}

/* A file whose first sector is damaged says by its first group which one it is. */
static enum hf_err name_files(struct image *m) {
    struct log *l = m->l;
    struct journal_file *f;
    DL_FOREACH (l->journal.files, f) {
        struct group_head h;
        if (f->seq > 0) continue;
        enum hf_err e = image_load(m, f);
        if (e) return e;
        if (head_at(m, HF_SECTOR, &h)) f->seq = h.lsn >> 32;
    }
    DL_SORT(l->journal.files, by_seq);
    return HF_OK;
}

/* The next group behind r->end that is whole, of whatever incarnation. */
static enum hf_err group_further_on(struct image *m, struct replay *r, struct group_head *h) {
    struct journal_file *f;
    DL_FOREACH (m->l->journal.files, f) {
        if (f->seq == 0 || f->seq < r->end >> 32) continue;
        enum hf_err e = image_load(m, f);
        if (e) return e;
        uint64_t at = f->seq == r->end >> 32 ? r->end & UINT32_MAX : HF_SECTOR;
        for (at = at < HF_SECTOR ? HF_SECTOR : at; at < m->n; at += HF_SECTOR) {
            if (!whole_by_itself(m, at, h)) continue;
            m->l->rescue.unsure = true;
            r->incarnation = h->incarnation;
            return HF_OK;
        }
    }
    return HF_EEND;
}

/* ---- the whole ---- */

static enum hf_err begin(struct log *l, struct image *m, struct replay *r) {
    r->end = r->lsn;
    enum hf_err e = image_open(m, l);
    if (!e && rescue_on(l)) e = name_files(m);
    if (e || rescue_on(l) || file_of(l, r->lsn >> 32)) return e ? e : sync_files(l);
    tell(l, r->lsn, "the file that the last checkpoint names is missing, or its first sector damaged");
    return HF_ECORRUPT;
}

enum hf_err replay_run(struct log *l, struct replay *r) {
    struct image m = {0};
    struct group_head h;
    enum hf_err e = begin(l, &m, r);
    while (!e) {
        e = next_group(&m, r, &h);
        if (e == HF_EEND && rescue_on(l)) {
            e = group_further_on(&m, r, &h);
            if (!e && r->tell) tell(l, r->end, "groups of the journal are damaged from here on");
        }
        if (!e) e = give_entries(&m, &h, r);
        if (e) break;
        r->chain = h.crc;
        r->end = h.lsn + group_size(h.payload);
    }
    free(m.p);
    return e == HF_EEND ? HF_OK : e;
}

/* ---- torn or rotten ---- */

/* Bytes of batches may look like a group; only the server knows its incarnations. */
static bool proves(const struct image *m, uint64_t at, const struct replay *r) {
    struct group_head h;
    if (!head_at(m, at, &h)) return false;
    if (h.incarnation != r->incarnation && (m->incarnation == 0 || h.incarnation != m->incarnation))
        return false;
    return h.lsn >= r->end && h.durable > r->end;
}

enum hf_err replay_judge(struct log *l, const struct replay *r) {
    struct image m;
    enum hf_err e = image_open(&m, l);
    struct journal_file *f;
    DL_FOREACH (l->journal.files, f) {
        if (e) break;
        e = image_load(&m, f);
        for (uint64_t at = HF_SECTOR; !e && at < m.n; at += HF_SECTOR) {
            if (!proves(&m, at, r)) continue;
            const char *why = "the chain of groups ends here, and a later group says that more was durable";
            tell(l, r->end, why);
            e = HF_ECORRUPT;
        }
    }
    free(m.p);
    return e;
}
