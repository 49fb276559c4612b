/* Shared by sim.c (the machine), sim_calls.c (what env.h asks of it), sim_disk.c (bytes and their versions) and
 * sim_names.c (folders). */
#ifndef ENV_SIM_INTERNAL_H
#define ENV_SIM_INTERNAL_H

#include "env_ops.h"
#include "sim.h"

enum {
    SIM_FILE_MAX = 512 << 20, /* bytes of one file */
    SIM_VERSIONS = 4,         /* unforced versions kept of a sector, beside first and last */
    SIM_SIZES = 16,           /* likewise of a file's size */
    SIM_SYNCS_MAX = 8192,     /* syncs under way at once */
    SIM_SUFFIX = 16,
    SIM_SPARE_MAX = 256, /* slabs of memory kept for later files */
};

/* One 512-byte sector that the disk may hold, written at `stamp`. */
struct sim_version {
    struct sim_version *next;
    uint64_t stamp;
    uint8_t bytes[HF_SECTOR];
};

/* Versions go from the oldest to the newest; the one before them all is in `disk`, the one after in `cache`.
 */
struct sim_sector {
    struct sim_version *first, *last;
    uint64_t wrote; /* stamp of the cache's bytes; 0: clean */
    uint32_t count; /* of versions */
    bool listed;    /* in the inode's list of unclean sectors */
};

/* Memory of one file: one reservation, cut in three. */
struct sim_slab {
    uint8_t *cache, *disk; /* SIM_FILE_MAX each */
    struct sim_sector *sectors;
    uint64_t touched; /* bytes of cache and disk that are not zero lie below */
    struct sim_slab *next;
};

struct sim_size {
    uint64_t stamp, bytes, allocated;
};

struct sim_inode;

struct sim_entry {
    char *name;
    struct sim_inode *child; /* holds a reference */
};

struct sim_entries { /* sorted by name */
    struct sim_entry *v;
    size_t n, cap;
};

/* `to` begins to mean child (child kept) or, from its old place, ends to (from_dir kept): a link has no
 * from, an unlink no to, a rename both. */
struct sim_change {
    uint64_t stamp;
    struct sim_inode *from_dir, *child; /* references; from_dir NULL: a new file */
    char *from, *to;
};

struct sim_inode {
    struct sim_inode *next, *prev; /* of the machine's list, in the order of creation */
    uint64_t number;
    uint32_t refs; /* handles, entries, changes, syncs under way */
    bool is_dir;
    bool lost;        /* a failed sync: some clean sectors of the cache are not on the disk */
    uint64_t synced;  /* stamp of the last sync begun */
    uint32_t syncing; /* syncs under way */
    /* file */
    struct sim_slab *slab;
    uint64_t size, disk_size;
    uint64_t allocated;      /* stores are legal below: no hole, no end of space */
    uint64_t disk_allocated; /* goes with disk_size: a size that comes back brings its blocks */
    uint64_t charged;        /* bytes of the disk's capacity taken */
    struct sim_size *sizes;
    size_t size_count, size_cap;
    uint32_t *unclean; /* numbers of sectors whose cache differs from the disk, or may */
    size_t unclean_count, unclean_cap;
    /* folder */
    struct sim_entries now, kept;
    struct sim_change *changes;
    size_t change_count, change_cap;
};

struct sim_sync {
    struct env_sync *request;
    struct sim_inode *inode;
    uint64_t stamp;
    int64_t due_us;
    enum hf_err result;
};

struct sim_random {
    uint64_t s;
};

struct hf_sim {
    struct hf_env env;
    struct hf_sim_options options;
    struct sim_random random, env_random, test_random;
    int64_t now_us, boot_us, wall_ahead_ms; /* wall = now + ahead */
    uint64_t boot_id;
    uint64_t stamp; /* order of everything that changes the disk's state */
    uint64_t trace, operations, errors_logged;
    /* crash */
    uint64_t crash_in;
    const char *crash_point; /* NULL: any operation counts */
    enum hf_sim_crash crash_kind;
    bool dead;
    const char *crashed_at;
    /* fault */
    uint64_t fail_in;
    bool fail_syncs;         /* and nothing else counts */
    bool fail_stays;         /* the calls after it fail too */
    const char *fail_suffix; /* NULL: every sync counts */
    enum hf_err fail_with;
    bool failed;
    /* disk */
    uint64_t capacity, used;
    struct sim_inode *root, *first, *last;
    uint64_t inodes;
    struct sim_sync syncs[SIM_SYNCS_MAX];
    size_t sync_count;
    size_t open_files;
    bool locked;
    /* files to be discarded, the earliest first */
    struct sim_discard {
        struct sim_discard *next;
        char path[];
    } * discards;
    uint64_t discard_odds; /* against the next one at each poll */
    struct sim_random discard_random;
};

struct sim_file {
    struct hf_file base;
    struct sim_inode *inode;
    unsigned flags;
    char suffix[SIM_SUFFIX]; /* the end of the path it was opened by */
};

static inline struct hf_sim *sim_of(struct hf_env *env) {
    return (struct hf_sim *)env;
}

/* ---- sim_calls.c ---- */

void sim_discards_forget(struct hf_sim *sim);

/* ---- sim.c ---- */

/* An operation begins: true if the machine crashes in it. The caller does a part of it and calls no more. */
bool sim_strike(struct hf_sim *sim, const char *point, uint64_t what);

/* Counts a call that can fail; the error with which this one does. */
enum sim_call { SIM_CALL_PLAIN, SIM_CALL_TAKES_SPACE, SIM_CALL_SYNC };
enum hf_err sim_fault(struct hf_sim *sim, enum sim_call call);

uint64_t sim_scramble(uint64_t z);
uint64_t sim_next(struct sim_random *r);
/* Below n; n > 0. */
uint64_t sim_below(struct hf_sim *sim, uint64_t n);
static inline bool sim_one_in(struct hf_sim *sim, uint64_t n) {
    return sim_below(sim, n) == 0;
}

/* Which of several things that may be on the disk, oldest first, are. Drawn once for a file or folder: if
 * every choice were made for itself, "all but one" and "none but one", which find most bugs, would be rare.
 */
enum sim_luck { SIM_OLDEST, SIM_NEWEST, SIM_MOSTLY_NEWEST, SIM_ANY, SIM_LUCKS };
enum sim_luck sim_luck(struct hf_sim *sim);
uint64_t sim_pick(struct hf_sim *sim, enum sim_luck luck, uint64_t n); /* below n */
void *sim_grow(void *v, size_t n, size_t *cap, size_t size);           /* room for one more; never fails */

/* ---- sim_calls.c ---- */

extern const struct env_ops sim_ops;
/* Index of the sync that ends first; sync_count if there is none. */
size_t sim_sync_first(const struct hf_sim *sim);
void sim_sync_forget(struct hf_sim *sim, size_t k);

/* ---- sim_disk.c ---- */

struct sim_inode *sim_inode_make(struct hf_sim *sim, bool is_dir);
void sim_inode_ref(struct sim_inode *i);
void sim_inode_unref(struct hf_sim *sim, struct sim_inode *i);
void sim_store(struct hf_sim *sim, struct sim_inode *i, uint64_t offset, const void *p, uint64_t n);
void sim_set_size(struct hf_sim *sim, struct sim_inode *i, uint64_t size);
/* Bytes [offset, end) have blocks now; those of a hole in front of them still have none. */
void sim_set_allocated(struct sim_inode *i, uint64_t offset, uint64_t end);
/* Takes capacity for `end` bytes; false: no room, nothing changed. */
bool sim_charge(struct hf_sim *sim, struct sim_inode *i, uint64_t end);
/* What a direct read of a sector shows. */
const uint8_t *sim_direct(struct sim_inode *i, uint64_t sector);
/* A sync that began at `stamp` ends: with success or with its pages dropped. */
void sim_file_synced(struct hf_sim *sim, struct sim_inode *i, uint64_t stamp, bool ok);
void sim_file_power_loss(struct hf_sim *sim, struct sim_inode *i);
/* The process died: clean pages may leave the cache. */
void sim_file_evict(struct hf_sim *sim, struct sim_inode *i);
void sim_disk_check(const struct hf_sim *sim);

/* ---- sim_names.c ---- */

/* The folder and last name of a path; false if a folder on the way is missing. */
bool sim_walk(struct hf_sim *sim, const char *path, struct sim_inode **dir, const char **name);
/* The inode a path names; NULL if none. "." is the root. */
struct sim_inode *sim_lookup(struct hf_sim *sim, const char *path);
struct sim_inode *sim_entry_get(const struct sim_inode *dir, const char *name);
void sim_link(struct hf_sim *sim, struct sim_inode *dir, const char *name, struct sim_inode *child);
void sim_unlink_name(struct hf_sim *sim, struct sim_inode *dir, const char *name);
void sim_move(struct hf_sim *sim, struct sim_inode *from_dir, const char *from, struct sim_inode *to_dir,
              const char *to);
void sim_dir_synced(struct hf_sim *sim, struct sim_inode *dir, uint64_t stamp, bool ok);
void sim_dirs_power_loss(struct hf_sim *sim);
void sim_dir_free(struct hf_sim *sim, struct sim_inode *dir);

#endif
