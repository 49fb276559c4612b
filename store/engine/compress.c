/* Kafka's codecs, read side. Holdfast stores compressed batches as they came; only compaction writes them
 * again (compress_write.c).
 *
 * The input is a stranger's. So the output grows in steps of at most CHUNK and never past out->max, whatever
 * a header claims; and no codec gets memory for a window that the stranger chose:
 *
 *   gzip    32 KiB of window; several members one behind the other are one stream, as in Java
 *   snappy  the length at the front is believed only if that many bytes can come out of the input (one copy
 *           element of 3 bytes gives at most 64)
 *   lz4     blocks of at most 4 MiB, so the format says
 *   zstd    decoded in one go into the output, which then is the window; an output that is too small is
 *           doubled and the frame decoded again, at twice the cost at worst
 *
 * What the frames carry as checksums is checked by the libraries. The lz4 frame with the wrong header
 * checksum that Kafka 0.8 wrote exists only in message formats 0 and 1, which are refused before they come
 * here. */
#include "compress.h"

#include "batch.h"

#include <lz4frame.h>
#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

enum { CHUNK = 64 << 10 };

/* Room for the next piece of output: at least one byte, at most CHUNK. When out is full the piece is one byte
 * of `spill`: if the codec puts something there, the output is too large. */
struct piece {
    uint8_t *p;
    size_t n;
    uint8_t spill;
};

static enum hf_err piece_open(struct piece *piece, struct hf_buf *out) {
    size_t left = out->max - out->n;
    piece->p = &piece->spill;
    piece->n = 1;
    if (left == 0) return HF_OK;
    size_t spare = out->cap - out->n;
    size_t want = spare > 0 ? spare : left;
    piece->n = want < CHUNK ? want : CHUNK;
    piece->p = hf_buf_room(out, piece->n);
    return hf_buf_failed(out);
}

static enum hf_err piece_close(struct piece *piece, struct hf_buf *out, size_t used) {
    if (piece->p != &piece->spill) {
        out->n += used;
        return HF_OK;
    }
    return used ? HF_ELIMIT : HF_OK;
}

/* ---- gzip ---- */

static enum hf_err gunzip_step(z_stream *z, struct hf_buf *out, bool *ended) {
    struct piece piece;
    enum hf_err e = piece_open(&piece, out);
    if (e) return e;
    z->next_out = piece.p;
    z->avail_out = (uInt)piece.n;
    int r = inflate(z, Z_NO_FLUSH);
    e = piece_close(&piece, out, piece.n - z->avail_out);
    if (e) return e;
    if (r == Z_MEM_ERROR) return HF_ENOMEM;
    if (r != Z_OK && r != Z_STREAM_END) return HF_ECORRUPT; /* Z_BUF_ERROR: input ends too early */
    *ended = false;
    if (r == Z_OK) return HF_OK;
    *ended = z->avail_in == 0;
    return *ended || inflateReset(z) == Z_OK ? HF_OK : HF_ECORRUPT;
}

static enum hf_err gunzip(hf_str in, struct hf_buf *out) {
    if (in.n > UINT32_MAX) return HF_ELIMIT;
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in.p, .avail_in = (uInt)in.n};
    int gzip_only = 16 + MAX_WBITS;
    if (inflateInit2(&z, gzip_only) != Z_OK) return HF_ENOMEM;
    enum hf_err e = HF_OK;
    for (bool ended = false; !e && !ended;) e = gunzip_step(&z, out, &ended);
    inflateEnd(&z);
    return e;
}

/* ---- snappy ---- */

static enum hf_err unsnappy_raw(hf_str in, struct hf_buf *out) {
    size_t n;
    if (snappy_uncompressed_length(in.p, in.n, &n) != SNAPPY_OK) return HF_ECORRUPT;
    if (n > out->max - out->n) return HF_ELIMIT;
    if (n / 22 > in.n) return HF_ECORRUPT;
    uint8_t *to = hf_buf_room(out, n);
    if (!to) return hf_buf_failed(out);
    if (snappy_uncompress(in.p, in.n, (char *)to, &n) != SNAPPY_OK) return HF_ECORRUPT;
    out->n += n;
    return HF_OK;
}

/* The Java library's framing:
 *    0  0x82 "SNAPPY" 0x00
 *    8  version     int32
 *   12  compatible  int32
 *   16  blocks: length int32, raw snappy of that length. A whole header may follow again.
 * No raw snappy begins like that: 0x82 0x53 would be the length, and 'N' a copy before the first byte. */
static const char xerial_magic[8] = {(char)0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0};
enum { XERIAL_HEADER = 16 };

static bool xerial_header_at(const struct hf_reader *r) {
    return hf_reader_left(r) >= XERIAL_HEADER && memcmp(r->p, xerial_magic, sizeof xerial_magic) == 0;
}

static enum hf_err unsnappy(hf_str in, struct hf_buf *out) {
    struct hf_reader r = hf_reader_of(in.p, in.n);
    if (!xerial_header_at(&r)) return unsnappy_raw(in, out);
    enum hf_err e = HF_OK;
    while (!e && hf_reader_left(&r) > 0) {
        if (xerial_header_at(&r)) {
            hf_read_bytes(&r, XERIAL_HEADER);
            continue;
        }
        hf_str block = hf_read_bytes(&r, hf_read_be32(&r));
        e = r.bad ? HF_ECORRUPT : unsnappy_raw(block, out);
    }
    return e;
}

/* ---- lz4 ---- */

static enum hf_err unlz4_step(LZ4F_dctx *ctx, struct hf_reader *in, struct hf_buf *out, bool *frame_ended) {
    struct piece piece;
    enum hf_err e = piece_open(&piece, out);
    if (e) return e;
    size_t made = piece.n, eaten = hf_reader_left(in);
    size_t hint = LZ4F_decompress(ctx, piece.p, &made, in->p, &eaten, NULL);
    if (LZ4F_isError(hint)) return HF_ECORRUPT;
    e = piece_close(&piece, out, made);
    in->p += eaten;
    *frame_ended = hint == 0;
    if (!e && !*frame_ended && made == 0 && eaten == 0) return HF_ECORRUPT; /* input ends too early */
    return e;
}

static enum hf_err unlz4(hf_str in, struct hf_buf *out) {
    LZ4F_dctx *ctx;
    if (LZ4F_isError(LZ4F_createDecompressionContext(&ctx, LZ4F_VERSION))) return HF_ENOMEM;
    struct hf_reader r = hf_reader_of(in.p, in.n);
    enum hf_err e = HF_OK;
    for (bool ended = false; !e && !(ended && hf_reader_left(&r) == 0);) e = unlz4_step(ctx, &r, out, &ended);
    LZ4F_freeDecompressionContext(ctx);
    return e;
}

/* ---- zstd ---- */

static enum hf_err unzstd_into(ZSTD_DCtx *ctx, hf_str in, struct hf_buf *out, size_t room, bool *too_small) {
    uint8_t *to = hf_buf_room(out, room);
    if (!to && room > 0) return hf_buf_failed(out);
    size_t n = ZSTD_decompressDCtx(ctx, to, room, in.p, in.n);
    *too_small = ZSTD_isError(n) && ZSTD_getErrorCode(n) == ZSTD_error_dstSize_tooSmall;
    if (*too_small) return HF_OK;
    if (ZSTD_isError(n))
        return ZSTD_getErrorCode(n) == ZSTD_error_memory_allocation ? HF_ENOMEM : HF_ECORRUPT;
    out->n += n;
    return HF_OK;
}

static enum hf_err unzstd(hf_str in, struct hf_buf *out) {
    if (in.n == 0) return HF_ECORRUPT;
    ZSTD_DCtx *ctx = ZSTD_createDCtx();
    if (!ctx) return HF_ENOMEM;
    size_t left = out->max - out->n;
    size_t room = in.n < CHUNK / 4 ? CHUNK : in.n * 4;
    enum hf_err e = HF_OK;
    for (bool too_small = true; !e && too_small; room *= 2) {
        if (room > left) room = left;
        e = unzstd_into(ctx, in, out, room, &too_small);
        if (!e && too_small && room == left) e = HF_ELIMIT;
    }
    ZSTD_freeDCtx(ctx);
    return e;
}

static enum hf_err copy(hf_str in, struct hf_buf *out) {
    if (in.n > out->max - out->n) return HF_ELIMIT;
    hf_buf_str(out, in);
    return hf_buf_failed(out);
}

enum hf_err hf_decompress(int codec, hf_str in, struct hf_buf *out) {
    static enum hf_err (*const codecs[])(hf_str, struct hf_buf *) = {[BATCH_NONE] = copy,
                                                                     [BATCH_GZIP] = gunzip,
                                                                     [BATCH_SNAPPY] = unsnappy,
                                                                     [BATCH_LZ4] = unlz4,
                                                                     [BATCH_ZSTD] = unzstd};
    if (codec < 0 || (size_t)codec >= sizeof codecs / sizeof codecs[0]) return HF_EUNSUPPORTED;
    if (out->err) return out->err;
    size_t before = out->n;
    enum hf_err e = codecs[codec](in, out);
    if (e) out->n = before;
    out->err = HF_OK; /* running out of memory once is no reason to fail the next batch */
    return e;
}
