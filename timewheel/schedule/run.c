/* Runs: sorted files, written once. Messages sorted by place, or what is known of ids sorted by hash.
 *
 *     blocks    each: size of the body u32, CRC-32C of the body u32, body = entries (uvarint size, body of the
 *               entry, which begins with its place as two uvarints)
 *     index     for each block 40 bytes: first due u64, first sequence u64, offset u64, size with header u32,
 *               messages u32, tombstones u32, zero u32
 *     bloom     ids only: a blocked Bloom filter, 64 bytes a block, 14 bits a key, six probes
 *     footer    128 bytes:
 *                 0  "HFRUN001"             8  kind u8, tier u8, zero u16      12  blocks u32
 *                16  group u64             24  messages u64                    32  tombstones u64
 *                40  first due, sequence   56  last due, sequence              u64 each
 *                72  index offset u64      80  bloom bytes u32                 84  CRC-32C of index and bloom u32
 *                88  ids only: bytes of entries that pended when they were written u64
 *                96  zero                 124  CRC-32C of bytes 0 to 123 u32
 *
 * All integers big-endian. A run is valid if the footer, the index and each block that is read have the right
 * checksums; whether it exists at all is the engine's affair (a commit names it).
 *
 * In memory a run is its index: 40 bytes for 16 KiB of messages. A cursor has one block, and none before it
 * is asked for its first entry, so runs of the far future cost nothing. */
#include "internal.h"

#include "base/crc32c.h"

enum {
    BLOCK_HEADER = 8,
    INDEX_ENTRY = 40,
    FOOTER = 128,
    BLOOM_BLOCK = 64,
    BLOOM_PROBES = 6,
    BLOOM_BITS = 14,
    ID_BLOCK = 4 << 10, /* a look-up reads one */
    BLOCK_MAX = 64 << 20,
    INDEX_MAX = 256 << 20,
};
static const char magic[8] = "HFRUN001";

/* ---- bloom ---- */

static void bloom_bits(uint64_t hash, uint32_t bytes, uint32_t *block, uint32_t bits[BLOOM_PROBES]) {
    *block = (uint32_t)((hash >> 32) % (bytes / BLOOM_BLOCK)) * BLOOM_BLOCK;
    uint64_t h = hash * 0x9e3779b97f4a7c15u;
    for (int i = 0; i < BLOOM_PROBES; i++) {
        bits[i] = (uint32_t)(h >> 55); /* 0 to 511 */
        h <<= 9;
    }
}

static bool may_hold(const struct run *r, uint64_t hash) {
    return r->bloom_bytes > 0 && (int64_t)hash >= r->first.due && (int64_t)hash <= r->last.due;
}

void run_prefetch(const struct run *r, uint64_t hash) {
    uint32_t block, bits[BLOOM_PROBES];
    if (!may_hold(r, hash)) return;
    bloom_bits(hash, r->bloom_bytes, &block, bits);
    __builtin_prefetch(r->bloom + block);
}

bool run_may_have(const struct run *r, uint64_t hash) {
    if (!may_hold(r, hash)) return false;
    uint32_t block, bits[BLOOM_PROBES];
    bloom_bits(hash, r->bloom_bytes, &block, bits);
    for (int i = 0; i < BLOOM_PROBES; i++)
        if (!(r->bloom[block + bits[i] / 8] >> (bits[i] % 8) & 1)) return false;
    return true;
}

static uint32_t bloom_size(uint64_t keys) {
    uint64_t blocks = (keys * BLOOM_BITS + BLOOM_BLOCK * 8 - 1) / (BLOOM_BLOCK * 8);
    return (uint32_t)((blocks ? blocks : 1) * BLOOM_BLOCK);
}

/* ---- writing ---- */

static enum hf_err append(struct run_writer *w, const void *p, size_t n) {
    enum hf_err e = engine_run_append(w->w, p, n);
    if (e == HF_OK) w->written += n;
    return e;
}

enum hf_err run_writer_begin(struct run_writer *w, struct engine *e, enum run_kind kind, uint8_t tier,
                             uint64_t group, uint64_t bucket, size_t block_bytes) {
    *w = (struct run_writer){
        .engine = e, .kind = kind, .tier = tier, .group = group, .block_bytes = block_bytes};
    if (kind == RUN_IDS && block_bytes > ID_BLOCK) w->block_bytes = ID_BLOCK;
    enum hf_err error = engine_run_begin(e, bucket, &w->w);
    if (error) {
        w->w = NULL;
        return error;
    }
    hf_buf_init(&w->block, BLOCK_MAX);
    hf_buf_init(&w->index, INDEX_MAX);
    hf_buf_init(&w->hashes, INDEX_MAX);
    return HF_OK;
}

void run_writer_end(struct run_writer *w) {
    assert(!w->sealing);
    if (w->w) engine_run_abort(w->w);
    hf_buf_fini(&w->block);
    hf_buf_fini(&w->index);
    hf_buf_fini(&w->hashes);
    *w = (struct run_writer){0};
}

void run_writer_discard(struct run_writer *w) {
    if (w->sealed && !w->seal_result) engine_run_discard(w->engine, w->id);
    run_writer_end(w);
}

static enum hf_err end_block(struct run_writer *w) {
    if (w->block.n == 0) return HF_OK;
    uint8_t header[BLOCK_HEADER];
    hf_put_be32(header, (uint32_t)w->block.n);
    hf_put_be32(header + 4, hf_crc32c(0, w->block.p, w->block.n));
    hf_buf_be64(&w->index, (uint64_t)w->block_first.due);
    hf_buf_be64(&w->index, w->block_first.seq);
    hf_buf_be64(&w->index, w->written);
    hf_buf_be32(&w->index, (uint32_t)(BLOCK_HEADER + w->block.n));
    hf_buf_be32(&w->index, w->block_messages);
    hf_buf_be32(&w->index, w->block_tombstones);
    hf_buf_be32(&w->index, 0);
    enum hf_err e = hf_buf_failed(&w->index);
    if (!e) e = append(w, header, sizeof header);
    if (!e) e = append(w, w->block.p, w->block.n);
    hf_buf_reset(&w->block);
    w->block_messages = w->block_tombstones = 0;
    w->blocks++;
    return e;
}

enum hf_err run_writer_add(struct run_writer *w, hf_str body, uint64_t hash) {
    struct place at;
    uint8_t flags;
    bool ok = entry_head(body, &at, &flags);
    assert(ok);
    (void)ok;
    assert(w->messages + w->tombstones == 0 || !place_before(at, w->last));
    if (w->block.n >= w->block_bytes) {
        enum hf_err e = end_block(w);
        if (e) return e;
    }
    if (w->block.n == 0) w->block_first = at;
    if (w->messages + w->tombstones == 0) w->first = at;
    w->last = at;
    bool tombstone = w->kind == RUN_MESSAGES && (flags & ENTRY_TOMBSTONE);
    if (tombstone) {
        w->tombstones++;
        w->block_tombstones++;
    } else {
        w->messages++;
        w->block_messages++;
    }
    if (w->kind == RUN_IDS) hf_buf_put(&w->hashes, &hash, sizeof hash);
    hf_buf_uvarint(&w->block, body.n);
    hf_buf_str(&w->block, body);
    if (hf_buf_failed(&w->hashes)) return hf_buf_failed(&w->hashes);
    return hf_buf_failed(&w->block);
}

static void put_bloom(struct run_writer *w) {
    uint32_t size = bloom_size(w->hashes.n / sizeof(uint64_t));
    uint8_t *bloom = hf_buf_room(&w->index, size);
    if (!bloom) return;
    memset(bloom, 0, size);
    w->index.n += size;
    for (size_t i = 0; i < w->hashes.n; i += sizeof(uint64_t)) {
        uint64_t hash;
        memcpy(&hash, w->hashes.p + i, sizeof hash);
        uint32_t block, bits[BLOOM_PROBES];
        bloom_bits(hash, size, &block, bits);
        for (int k = 0; k < BLOOM_PROBES; k++) bloom[block + bits[k] / 8] |= (uint8_t)(1u << (bits[k] % 8));
    }
}

static void footer_of(const struct run_writer *w, uint64_t index_at, uint32_t bloom_bytes,
                      uint8_t f[FOOTER]) {
    memset(f, 0, FOOTER);
    memcpy(f, magic, sizeof magic);
    f[8] = (uint8_t)w->kind;
    f[9] = w->tier;
    hf_put_be32(f + 12, w->blocks);
    hf_put_be64(f + 16, w->group);
    hf_put_be64(f + 24, w->messages);
    hf_put_be64(f + 32, w->tombstones);
    hf_put_be64(f + 40, (uint64_t)w->first.due);
    hf_put_be64(f + 48, w->first.seq);
    hf_put_be64(f + 56, (uint64_t)w->last.due);
    hf_put_be64(f + 64, w->last.seq);
    hf_put_be64(f + 72, index_at);
    hf_put_be32(f + 80, bloom_bytes);
    hf_put_be32(f + 84, hf_crc32c(0, w->index.p, w->index.n));
    hf_put_be64(f + 88, w->pending_bytes);
    hf_put_be32(f + 124, hf_crc32c(0, f, 124));
}

static void sealed(void *arg, enum hf_err e) {
    struct run_writer *w = arg;
    w->sealing = false;
    w->sealed = true;
    w->seal_result = e;
    --*w->under_way;
}

enum hf_err run_writer_seal(struct run_writer *w, size_t *under_way) {
    enum hf_err e = end_block(w);
    if (e) return e;
    uint64_t index_at = w->written;
    size_t index_bytes = w->index.n;
    if (w->kind == RUN_IDS) put_bloom(w);
    if ((e = hf_buf_failed(&w->index))) return e;
    uint8_t footer[FOOTER];
    footer_of(w, index_at, (uint32_t)(w->index.n - index_bytes), footer);
    if ((e = append(w, w->index.p, w->index.n))) return e;
    if ((e = append(w, footer, sizeof footer))) return e;
    hf_buf_fini(&w->block);
    hf_buf_fini(&w->hashes);
    w->bytes = w->written;
    w->sealing = true;
    w->under_way = under_way;
    ++*under_way;
    struct engine_run_writer *writer = w->w;
    w->w = NULL; /* the engine's now */
    engine_run_seal(writer, &w->id, sealed, w);
    return HF_OK;
}

/* ---- opening ---- */

static enum hf_err parse_footer(struct run *r, const uint8_t f[FOOTER], uint64_t *index_at,
                                uint32_t *index_crc) {
    if (memcmp(f, magic, sizeof magic) != 0 || hf_get_be32(f + 124) != hf_crc32c(0, f, 124))
        return HF_ECORRUPT;
    if (f[8] != RUN_MESSAGES && f[8] != RUN_IDS) return HF_EUNSUPPORTED;
    r->kind = (enum run_kind)f[8];
    r->tier = f[9];
    r->block_count = hf_get_be32(f + 12);
    r->group = hf_get_be64(f + 16);
    r->messages = hf_get_be64(f + 24);
    r->tombstones = hf_get_be64(f + 32);
    r->first = (struct place){(int64_t)hf_get_be64(f + 40), hf_get_be64(f + 48)};
    r->last = (struct place){(int64_t)hf_get_be64(f + 56), hf_get_be64(f + 64)};
    *index_at = hf_get_be64(f + 72);
    r->bloom_bytes = hf_get_be32(f + 80);
    *index_crc = hf_get_be32(f + 84);
    r->pending_bytes = hf_get_be64(f + 88);
    if (r->pending_bytes > r->bytes) return HF_ECORRUPT;
    uint64_t index_bytes = (uint64_t)r->block_count * INDEX_ENTRY;
    bool fits = *index_at + index_bytes + r->bloom_bytes + FOOTER == r->bytes && r->block_count > 0 &&
                r->bloom_bytes % BLOOM_BLOCK == 0 && index_bytes <= INDEX_MAX;
    return fits ? HF_OK : HF_ECORRUPT;
}

static void parse_index(struct run *r, const uint8_t *p) {
    for (uint32_t i = 0; i < r->block_count; i++, p += INDEX_ENTRY)
        r->blocks[i] = (struct run_block){.first = {(int64_t)hf_get_be64(p), hf_get_be64(p + 8)},
                                          .offset = hf_get_be64(p + 16),
                                          .size = hf_get_be32(p + 24),
                                          .messages = hf_get_be32(p + 28),
                                          .tombstones = hf_get_be32(p + 32)};
}

static enum hf_err read_index(struct engine *e, struct run *r, uint64_t index_at, uint32_t crc) {
    size_t index_bytes = (size_t)r->block_count * INDEX_ENTRY;
    uint8_t *p = malloc(index_bytes + r->bloom_bytes);
    if (!p) return HF_ENOMEM;
    enum hf_err error = engine_run_read(e, r->id, index_at, p, index_bytes + r->bloom_bytes);
    if (!error && hf_crc32c(0, p, index_bytes + r->bloom_bytes) != crc) error = HF_ECORRUPT;
    if (!error) {
        r->blocks = malloc(r->block_count * sizeof *r->blocks);
        r->bloom = r->bloom_bytes ? malloc(r->bloom_bytes) : NULL;
        if (!r->blocks || (r->bloom_bytes && !r->bloom)) error = HF_ENOMEM;
    }
    if (!error) {
        parse_index(r, p);
        if (r->bloom) memcpy(r->bloom, p + index_bytes, r->bloom_bytes);
    }
    free(p);
    return error;
}

enum hf_err run_open(struct engine *e, uint64_t id, uint64_t bytes, struct run **out) {
    uint8_t footer[FOOTER];
    uint64_t index_at = 0;
    uint32_t crc = 0;
    struct run *r = calloc(1, sizeof *r);
    if (!r) return HF_ENOMEM;
    r->id = id;
    r->bytes = bytes;
    enum hf_err error = bytes < FOOTER ? HF_ECORRUPT : engine_run_read(e, id, bytes - FOOTER, footer, FOOTER);
    if (!error) error = parse_footer(r, footer, &index_at, &crc);
    if (!error) error = read_index(e, r, index_at, crc);
    if (error) {
        run_close(r);
        return error;
    }
    *out = r;
    return HF_OK;
}

void run_close(struct run *r) {
    if (!r) return;
    free(r->blocks);
    free(r->bloom);
    free(r);
}

/* ---- reading ---- */

static enum hf_err read_block(struct run_cursor *c) {
    const struct run_block *b = &c->run->blocks[c->next_block];
    if (b->size <= BLOCK_HEADER || b->size > BLOCK_MAX + BLOCK_HEADER) return HF_ECORRUPT;
    if (c->block_cap < b->size) {
        uint8_t *p = realloc(c->block, b->size);
        if (!p) return HF_ENOMEM;
        c->block = p;
        c->block_cap = b->size;
    }
    enum hf_err e = engine_run_read(c->engine, c->run->id, b->offset, c->block, b->size);
    if (e) return e;
    size_t n = hf_get_be32(c->block);
    if (n != b->size - BLOCK_HEADER || hf_get_be32(c->block + 4) != hf_crc32c(0, c->block + BLOCK_HEADER, n))
        return HF_ECORRUPT;
    c->rest = bytes_of(hf_str_make(c->block + BLOCK_HEADER, n));
    c->next_block++;
    return HF_OK;
}

/* The next entry of the block, or of the next block, becomes the head. */
static enum hf_err advance(struct run_cursor *c) {
    if (c->rest.p == c->rest.end) {
        if (c->next_block == c->run->block_count) {
            free(c->block);
            c->block = NULL;
            c->block_cap = 0;
            c->head = PLACE_END;
            c->head_flags = 0;
            return HF_OK;
        }
        enum hf_err e = read_block(c);
        if (e) return e;
    }
    uint64_t n;
    if (!take_uvarint(&c->rest, &n) || n > (size_t)(c->rest.end - c->rest.p)) return HF_ECORRUPT;
    c->body = hf_str_make(c->rest.p, n);
    c->rest.p += n;
    return entry_head(c->body, &c->head, &c->head_flags) ? HF_OK : HF_ECORRUPT;
}

enum hf_err run_cursor_load(struct run_cursor *c) {
    if (c->block || place_same(c->head, PLACE_END)) return HF_OK;
    return advance(c);
}

enum hf_err run_cursor_next(struct run_cursor *c) {
    enum hf_err e = run_cursor_load(c);
    if (e) return e;
    c->before[c->run->kind == RUN_MESSAGES && (c->head_flags & ENTRY_TOMBSTONE) ? 1 : 0]++;
    return advance(c);
}

enum hf_err run_cursor_open(struct run_cursor *c, struct engine *e, struct run *r, struct place after) {
    *c = (struct run_cursor){.engine = e, .run = r, .head = r->first};
    if (place_before(after, r->first)) return HF_OK;
    uint32_t low = 0, high = r->block_count; /* the last block whose first place is not behind `after` */
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (place_before(after, r->blocks[middle].first))
            high = middle;
        else
            low = middle;
    }
    /* Entries of one place may begin in an earlier block only in runs of ids; those seek by hash, before all.
     */
    for (uint32_t i = 0; i < low; i++) {
        c->before[0] += r->blocks[i].messages;
        c->before[1] += r->blocks[i].tombstones;
    }
    c->next_block = low;
    enum hf_err error = advance(c);
    while (!error && !place_before(after, c->head)) error = run_cursor_next(c);
    if (error) run_cursor_close(c);
    return error;
}

void run_cursor_close(struct run_cursor *c) {
    free(c->block);
    *c = (struct run_cursor){.head = PLACE_END};
}
