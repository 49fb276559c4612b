/* The journal: groups of what must be durable, and how they are read back.
 *
 *     journal.c form, write, sync, recycle    replay.c reads it back, judges its end */
#ifndef STORE_LOG_JOURNAL_H
#define STORE_LOG_JOURNAL_H

#include "commit.h"

/* ---- journal ---- */

struct journal_file {
    struct journal_file *prev, *next;
    uint32_t slot;
    uint64_t seq; /* 0: spare */
    struct hf_file *file;
    uint64_t size;
};

struct group_entry {
    struct log_partition *p;
    int64_t end;     /* BYTES: durable may go there */
    struct place to; /* its place */
    int64_t ceiling; /* CEILING, else 0 */
};

enum journal_phase { JOURNAL_IDLE, JOURNAL_FORMED, JOURNAL_SYNCING };

struct journal {
    struct log *log;
    enum journal_phase phase;
    uint64_t incarnation;
    struct journal_file *files; /* in use, ascending by seq; the last one is written to */
    struct journal_file *spares;
    struct journal_file *growing; /* being filled with zeros */
    uint64_t grown;
    int64_t grow_next_us;
    struct env_sync grow_sync, grow_dir;
    uint32_t next_slot;
    uint64_t next_seq;
    uint64_t at;            /* where the next group goes in the last file */
    uint64_t durable;       /* LSN below which all is synced and applied */
    uint32_t chain;         /* header checksum of the last group */
    uint32_t durable_chain; /* the same at `durable` */
    struct hf_buf group;
    uint32_t group_entries;
    struct group_entry *entries;
    size_t entry_count, entry_cap;
    struct commit *commits, *commits_last; /* in the group */
    struct env_sync sync;
    uint64_t end_lsn; /* after the group being synced */
    uint64_t since_checkpoint;
};

/* journal.c */
HF_CHECK enum hf_err journal_open(struct log *l, uint64_t next_seq);
void journal_close(struct log *l);
void journal_kick(struct log *l);
bool journal_idle(const struct log *l);
int64_t journal_wait(const struct log *l);
void journal_prepare(struct log *l);
void journal_recycle(struct log *l, uint64_t lsn);
size_t journal_payload_max(const struct log *l);
uint64_t journal_next_lsn(const struct journal *j);
void journal_path(uint32_t slot, char out[LOG_PATH]);

enum { ENTRY_BYTES = 1, ENTRY_CEILING = 2, ENTRY_START = 3, ENTRY_SWAP = 4 };
enum { GROUP_HEADER = 64, ENTRY_HEADER = 8, ENTRY_PLACE = 28, SWAP_BODY = 16 };

/* What a journal file's first sector says. */
struct journal_head {
    uint64_t seq, size, incarnation;
};
bool journal_head_decode(const uint8_t *p, struct journal_head *out);

struct group_head {
    uint32_t payload, chain, payload_crc, entries, crc;
    uint64_t lsn, incarnation, durable;
};
bool group_head_decode(const uint8_t *p, struct group_head *out);
static inline uint64_t group_size(uint64_t payload) {
    return (GROUP_HEADER + payload + HF_SECTOR - 1) / HF_SECTOR * HF_SECTOR;
}

/* replay.c */
struct replay_entry {
    uint8_t type;
    struct log_uuid id;
    int32_t partition;
    int64_t offset;
    const uint8_t *bytes;
    size_t n;
};
struct replay {
    uint64_t lsn;
    uint32_t chain;
    uint64_t incarnation;
    uint64_t end; /* out: LSN behind the last whole group */
    bool tell;    /* rescue: of breaks in the chain */
    enum hf_err (*entry)(void *arg, const struct replay_entry *e);
    void *arg;
};
HF_CHECK enum hf_err replay_scan(struct log *l); /* finds the files and their sequence numbers */
HF_CHECK enum hf_err replay_run(struct log *l, struct replay *r);
HF_CHECK enum hf_err replay_judge(struct log *l, const struct replay *r);

#endif
