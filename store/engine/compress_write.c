/* Kafka's codecs, write side: for compaction only, which writes a batch again with fewer records. Each codec
 * at its library's usual level, in the framing that Kafka's Java client writes. */
#include "compress.h"

#include "batch.h"

#include <lz4frame.h>
#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>

enum { SNAPPY_BLOCK = 32 << 10 };

static enum hf_err gzip(hf_str in, struct hf_buf *out) {
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in.p, .avail_in = (uInt)in.n};
    int gzip_only = 16 + MAX_WBITS;
    if (in.n > UINT32_MAX / 2) return HF_ELIMIT;
    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, gzip_only, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return HF_ENOMEM;
    size_t most = deflateBound(&z, (uLong)in.n);
    z.next_out = hf_buf_room(out, most);
    z.avail_out = (uInt)most;
    enum hf_err e = z.next_out ? HF_OK : hf_buf_failed(out);
    if (!e && deflate(&z, Z_FINISH) != Z_STREAM_END) e = HF_ELIMIT;
    if (!e) out->n += most - z.avail_out;
    deflateEnd(&z);
    return e;
}

/* The Java library's framing (compress.c): a header, then blocks with their lengths. */
static enum hf_err snappy(hf_str in, struct hf_buf *out) {
    static const uint8_t header[16] = {0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1};
    hf_buf_put(out, header, sizeof header);
    for (size_t at = 0; at < in.n; at += SNAPPY_BLOCK) {
        size_t n = in.n - at < SNAPPY_BLOCK ? in.n - at : SNAPPY_BLOCK;
        size_t most = snappy_max_compressed_length(n);
        uint8_t *to = hf_buf_room(out, 4 + most);
        if (!to) break;
        if (snappy_compress(in.p + at, n, (char *)to + 4, &most) != SNAPPY_OK) return HF_ELIMIT;
        hf_put_be32(to, (uint32_t)most);
        out->n += 4 + most;
    }
    return hf_buf_failed(out);
}

static enum hf_err lz4(hf_str in, struct hf_buf *out) {
    size_t most = LZ4F_compressFrameBound(in.n, NULL);
    uint8_t *to = hf_buf_room(out, most);
    if (!to) return hf_buf_failed(out);
    size_t n = LZ4F_compressFrame(to, most, in.p, in.n, NULL);
    if (LZ4F_isError(n)) return HF_ENOMEM;
    out->n += n;
    return HF_OK;
}

static enum hf_err zstd(hf_str in, struct hf_buf *out) {
    size_t most = ZSTD_compressBound(in.n);
    uint8_t *to = hf_buf_room(out, most);
    if (!to) return hf_buf_failed(out);
    size_t n = ZSTD_compress(to, most, in.p, in.n, ZSTD_CLEVEL_DEFAULT);
    if (ZSTD_isError(n)) return HF_ENOMEM;
    out->n += n;
    return HF_OK;
}

static enum hf_err plain(hf_str in, struct hf_buf *out) {
    hf_buf_str(out, in);
    return hf_buf_failed(out);
}

enum hf_err hf_compress(int codec, hf_str in, struct hf_buf *out) {
    static enum hf_err (*const write[])(hf_str in, struct hf_buf * out) = {
        [BATCH_NONE] = plain, [BATCH_GZIP] = gzip, [BATCH_SNAPPY] = snappy,
        [BATCH_LZ4] = lz4,    [BATCH_ZSTD] = zstd,
    };
    if (codec < 0 || codec > BATCH_ZSTD) return HF_EUNSUPPORTED;
    size_t before = out->n;
    enum hf_err e = write[codec](in, out);
    if (e) {
        out->n = before;
        out->err = HF_OK;
    }
    return e;
}
