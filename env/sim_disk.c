/* Files of the simulated machine: the bytes the process sees, and the bytes the disk may have.
 *
 * Of each 512-byte sector there is a row of versions in the order in which they were written:
 *
 *     disk          version …  version          cache
 *     last known    seen by a sync under way,   what the process sees
 *     to be there   or written back unasked
 *
 * A sector is clean if only `disk` and `cache` exist for it. A store makes the cache's bytes newer; the bytes
 * it replaces are kept as a version if a sync under way covers them (then the disk may soon hold just
 * them), and now and then otherwise: a write-back nobody asked for. A sync that ends makes the newest
 * bytes it covers the ones of `disk` and forgets all before. Power loss picks one of the row, for each sector
 * by itself. Sizes are kept alike.
 *
 * A failed sync does what Linux does: the pages count as clean, so later syncs skip them; the cache shows
 * them still; the disk has any of the versions up to there. Sectors are then clean with cache ≠ disk, until
 * stored to again, or evicted. Sizes go through the file system's own journal and stay undecided: if that
 * fails, the file system stops.
 *
 * Memory: each file has a slab, a reservation of address space in which only touched pages cost anything; so
 * it grows without a copy. Slabs are kept for later files and machines: a seed costs no
 * system call.
 *
 * Invariants (sim_disk_check):
 *   D1  wrote = 0 ⇒ no versions; wrote ≠ 0 ⇒ the sector is in the inode's list of unclean ones
 *   D2  stamps grow along the row and end below or at wrote
 *   D3  size ≤ touched ≤ SIM_FILE_MAX; allocated ≤ size; bytes at and past `size` are zero in the cache
 *   D4  used = the sum of what inodes were charged */
#include "sim_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { BLOCK = 4096 };

static struct sim_slab *spare_slabs;
static size_t spare_count;
static struct sim_version *spare_versions;

static const uint64_t SECTORS_MAX = SIM_FILE_MAX / HF_SECTOR;

static struct sim_slab *slab_take(void) {
    struct sim_slab *s = spare_slabs;
    if (s) {
        spare_slabs = s->next;
        spare_count--;
        return s;
    }
    size_t bytes = 2 * (size_t)SIM_FILE_MAX + SECTORS_MAX * sizeof(struct sim_sector);
    uint8_t *p =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    s = calloc(1, sizeof *s);
    assert(p != MAP_FAILED && s);
    s->cache = p;
    s->disk = p + SIM_FILE_MAX;
    s->sectors = (struct sim_sector *)(void *)(p + 2 * (size_t)SIM_FILE_MAX);
    return s;
}

static void version_free(struct sim_version *v) {
    v->next = spare_versions;
    spare_versions = v;
}

static struct sim_version *version_make(uint64_t stamp, const uint8_t *bytes) {
    struct sim_version *v = spare_versions;
    if (v)
        spare_versions = v->next;
    else
        v = malloc(sizeof *v);
    assert(v);
    v->next = NULL;
    v->stamp = stamp;
    memcpy(v->bytes, bytes, HF_SECTOR);
    return v;
}

/* Forgets the versions up to the stamp. */
static void drop_until(struct sim_sector *s, uint64_t stamp) {
    while (s->first && s->first->stamp <= stamp) {
        struct sim_version *v = s->first;
        s->first = v->next;
        s->count--;
        version_free(v);
    }
    if (!s->first) s->last = NULL;
}

static void slab_give(struct sim_slab *s) {
    uint64_t sectors = (s->touched + HF_SECTOR - 1) / HF_SECTOR;
    for (uint64_t k = 0; k < sectors; k++) drop_until(&s->sectors[k], UINT64_MAX);
    if (spare_count == SIM_SPARE_MAX) {
        munmap(s->cache, 2 * (size_t)SIM_FILE_MAX + SECTORS_MAX * sizeof(struct sim_sector));
        free(s);
        return;
    }
    memset(s->cache, 0, s->touched);
    memset(s->disk, 0, s->touched);
    memset(s->sectors, 0, sectors * sizeof *s->sectors);
    s->touched = 0;
    s->next = spare_slabs;
    spare_slabs = s;
    spare_count++;
}

/* ---- inodes ---- */

struct sim_inode *sim_inode_make(struct hf_sim *sim, bool is_dir) {
    struct sim_inode *i = calloc(1, sizeof *i);
    assert(i);
    i->number = ++sim->inodes;
    i->is_dir = is_dir;
    if (!is_dir) i->slab = slab_take();
    i->prev = sim->last;
    *(sim->last ? &sim->last->next : &sim->first) = i;
    sim->last = i;
    return i;
}

void sim_inode_ref(struct sim_inode *i) {
    i->refs++;
}

void sim_inode_unref(struct hf_sim *sim, struct sim_inode *i) {
    assert(i->refs > 0);
    if (--i->refs > 0) return;
    *(i->prev ? &i->prev->next : &sim->first) = i->next;
    *(i->next ? &i->next->prev : &sim->last) = i->prev;
    if (i->is_dir) {
        sim_dir_free(sim, i);
    } else {
        sim->used -= i->charged;
        slab_give(i->slab);
        free(i->sizes);
        free(i->unclean);
    }
    free(i);
}

/* ---- storing ---- */

static void list_unclean(struct sim_inode *i, uint64_t sector) {
    struct sim_sector *s = &i->slab->sectors[sector];
    if (s->listed) return;
    i->unclean = sim_grow(i->unclean, i->unclean_count, &i->unclean_cap, sizeof *i->unclean);
    i->unclean[i->unclean_count++] = (uint32_t)sector;
    s->listed = true;
}

/* The cache's bytes of a sector are about to be replaced: keep them if the disk may hold them. */
static void before_store(struct hf_sim *sim, struct sim_inode *i, uint64_t sector) {
    struct sim_sector *s = &i->slab->sectors[sector];
    if (s->wrote) {
        bool forced = i->syncing > 0 && s->wrote <= i->synced;
        if (forced || (s->count < SIM_VERSIONS && sim_one_in(sim, 3))) {
            struct sim_version *v = version_make(s->wrote, i->slab->cache + sector * HF_SECTOR);
            *(s->last ? &s->last->next : &s->first) = v;
            s->last = v;
            s->count++;
        }
    }
    list_unclean(i, sector);
    s->wrote = sim->stamp;
}

/* p == NULL stores zeros. */
void sim_store(struct hf_sim *sim, struct sim_inode *i, uint64_t offset, const void *p, uint64_t n) {
    if (n == 0) return;
    assert(offset <= SIM_FILE_MAX && n <= SIM_FILE_MAX - offset);
    sim->stamp++;
    for (uint64_t k = offset / HF_SECTOR; k <= (offset + n - 1) / HF_SECTOR; k++) before_store(sim, i, k);
    if (p)
        memcpy(i->slab->cache + offset, p, n);
    else
        memset(i->slab->cache + offset, 0, n);
    uint64_t end = (offset + n + HF_SECTOR - 1) / HF_SECTOR * HF_SECTOR;
    if (end > i->slab->touched) i->slab->touched = end;
}

/* Each size since the last sync may be the one on the disk. Where there are many, those that no sync has
 * seen make room for their successors. */
void sim_set_size(struct hf_sim *sim, struct sim_inode *i, uint64_t size) {
    if (size == i->size) return;
    if (size < i->size) sim_store(sim, i, size, NULL, i->size - size);
    i->size = size;
    if (i->allocated > size) i->allocated = size;
    if (size > i->slab->touched) i->slab->touched = (size + HF_SECTOR - 1) / HF_SECTOR * HF_SECTOR;
    bool unseen = i->size_count > 0 && i->sizes[i->size_count - 1].stamp > i->synced;
    if (!(unseen && i->size_count >= SIM_SIZES)) {
        i->sizes = sim_grow(i->sizes, i->size_count, &i->size_cap, sizeof *i->sizes);
        i->size_count++;
    }
    i->sizes[i->size_count - 1] = (struct sim_size){++sim->stamp, size, i->allocated};
}

/* Blocks are metadata as the size is, and come back with it: a cut that power loss undoes leaves no hole. */
void sim_set_allocated(struct sim_inode *i, uint64_t offset, uint64_t end) {
    if (offset > i->allocated || end <= i->allocated) return;
    i->allocated = end;
    if (i->size_count > 0) i->sizes[i->size_count - 1].allocated = end;
}

static uint64_t blocks(uint64_t bytes) {
    return (bytes + BLOCK - 1) / BLOCK * BLOCK;
}

bool sim_charge(struct hf_sim *sim, struct sim_inode *i, uint64_t end) {
    uint64_t wanted = blocks(end);
    if (wanted > i->charged) {
        uint64_t more = wanted - i->charged;
        if (sim->used >= sim->capacity || more > sim->capacity - sim->used) return false;
    }
    sim->used = sim->used - i->charged + wanted;
    i->charged = wanted;
    return true;
}

const uint8_t *sim_direct(struct sim_inode *i, uint64_t sector) {
    const uint8_t *bytes = i->slab->sectors[sector].wrote ? i->slab->cache : i->slab->disk;
    return bytes + sector * HF_SECTOR;
}

/* ---- syncs ---- */

/* Some version up to the stamp; the disk's own as well. The cache's counts if it is that old. */
static void settle(struct hf_sim *sim, enum sim_luck luck, struct sim_sector *s, uint8_t *disk,
                   const uint8_t *cache, uint64_t stamp) {
    uint64_t old = 0, pick;
    for (struct sim_version *v = s->first; v && v->stamp <= stamp; v = v->next) old++;
    pick = sim_pick(sim, luck, old + 1 + (s->wrote <= stamp));
    if (pick > old) {
        memcpy(disk, cache, HF_SECTOR);
    } else if (pick > 0) {
        struct sim_version *v = s->first;
        while (--pick > 0) v = v->next;
        memcpy(disk, v->bytes, HF_SECTOR);
    }
    drop_until(s, stamp);
}

static void settle_sizes(struct hf_sim *sim, enum sim_luck luck, struct sim_inode *i, uint64_t stamp) {
    size_t seen = 0;
    while (seen < i->size_count && i->sizes[seen].stamp <= stamp) seen++;
    size_t pick = (size_t)sim_pick(sim, luck, seen + 1);
    if (pick > 0) {
        i->disk_size = i->sizes[pick - 1].bytes;
        i->disk_allocated = i->sizes[pick - 1].allocated;
    }
    i->size_count -= seen;
    if (i->size_count) memmove(i->sizes, i->sizes + seen, i->size_count * sizeof *i->sizes);
}

void sim_file_synced(struct hf_sim *sim, struct sim_inode *i, uint64_t stamp, bool ok) {
    size_t left = 0;
    enum sim_luck luck = ok ? SIM_NEWEST : sim_luck(sim);
    for (size_t k = 0; k < i->unclean_count; k++) {
        uint32_t sector = i->unclean[k];
        struct sim_sector *s = &i->slab->sectors[sector];
        uint8_t *disk = i->slab->disk + (size_t)sector * HF_SECTOR;
        const uint8_t *cache = i->slab->cache + (size_t)sector * HF_SECTOR;
        settle(sim, luck, s, disk, cache, stamp);
        if (s->wrote > stamp) {
            i->unclean[left++] = sector;
            continue;
        }
        drop_until(s, UINT64_MAX);
        s->wrote = 0;
        s->listed = false;
    }
    i->unclean_count = left;
    if (ok)
        settle_sizes(sim, SIM_NEWEST, i, stamp);
    else
        i->lost = true;
    if (ok && i->size_count == 0) i->disk_allocated = i->allocated; /* a hole may have been filled */
}

/* ---- crashes ---- */

/* From the disk's size on nothing was kept, so a size that grows again shows zeros there. */
static void cut_to_size(struct sim_inode *i, uint64_t size) {
    if (size < i->slab->touched) {
        memset(i->slab->cache + size, 0, i->slab->touched - size);
        memset(i->slab->disk + size, 0, i->slab->touched - size);
    }
    i->size = i->disk_size = size;
    i->allocated = i->disk_allocated = i->disk_allocated < size ? i->disk_allocated : size;
}

void sim_file_power_loss(struct hf_sim *sim, struct sim_inode *i) {
    struct sim_slab *slab = i->slab;
    enum sim_luck luck = sim_luck(sim);
    for (size_t k = 0; k < i->unclean_count; k++) {
        uint32_t sector = i->unclean[k];
        struct sim_sector *s = &slab->sectors[sector];
        size_t at = (size_t)sector * HF_SECTOR;
        settle(sim, luck, s, slab->disk + at, slab->cache + at, UINT64_MAX);
        s->wrote = 0;
        s->listed = false;
        memcpy(slab->cache + at, slab->disk + at, HF_SECTOR);
    }
    i->unclean_count = 0;
    if (i->lost) memcpy(slab->cache, slab->disk, slab->touched);
    i->lost = false;
    settle_sizes(sim, sim_luck(sim), i, UINT64_MAX);
    cut_to_size(i, i->disk_size);
    sim->used -= i->charged;
    i->charged = blocks(i->size);
    sim->used += i->charged;
}

void sim_file_evict(struct hf_sim *sim, struct sim_inode *i) {
    if (!i->lost || sim_one_in(sim, 2)) return;
    for (uint64_t k = 0; k * HF_SECTOR < i->slab->touched; k++)
        if (!i->slab->sectors[k].wrote)
            memcpy(i->slab->cache + k * HF_SECTOR, i->slab->disk + k * HF_SECTOR, HF_SECTOR);
    if (i->size < i->slab->touched) memset(i->slab->cache + i->size, 0, i->slab->touched - i->size);
}

/* ---- invariants ---- */

static void inode_check(const struct hf_sim *sim, const struct sim_inode *i) {
    assert(i->refs > 0 && i->size <= i->slab->touched && i->slab->touched <= SIM_FILE_MAX); /* D3 */
    assert(i->allocated <= i->size);
    for (uint64_t k = 0; k * HF_SECTOR < i->slab->touched; k++) {
        const struct sim_sector *s = &i->slab->sectors[k];
        assert(s->wrote ? s->listed : !s->first && !s->listed); /* D1 */
        uint64_t stamp = 0, count = 0;
        for (const struct sim_version *v = s->first; v; v = v->next, count++) {
            assert(v->stamp > stamp && v->stamp <= s->wrote); /* D2 */
            stamp = v->stamp;
        }
        assert(count == s->count && s->wrote <= sim->stamp);
    }
    for (uint64_t at = i->size; at < i->slab->touched; at++) assert(i->slab->cache[at] == 0);
}

void sim_disk_check(const struct hf_sim *sim) {
    uint64_t used = 0;
    for (const struct sim_inode *i = sim->first; i; i = i->next) {
        if (!i->is_dir) inode_check(sim, i);
        used += i->charged;
    }
    assert(used == sim->used); /* D4 */
}
