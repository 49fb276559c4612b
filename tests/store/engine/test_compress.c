/* Round trips through each library's own compressor, with sizes around the decompressor's steps. */
#include "store/engine/batch.h"
#include "store/engine/compress.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <lz4frame.h>
#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>

enum { LARGEST = 3 << 20 };

static uint8_t plain[LARGEST], packed[LARGEST + LARGEST / 4];

/* Half noise, half runs. */
static void fill(void) {
    uint32_t x = 12345;
    for (size_t i = 0; i < LARGEST; i++) {
        x = x * 1664525 + 1013904223;
        plain[i] = (i / 1000) % 2 ? (uint8_t)(x >> 24) : (uint8_t)(i / 300);
    }
}

static size_t pack(int codec, size_t n, uint8_t *to, size_t room) {
    switch (codec) {
    case BATCH_GZIP: {
        z_stream z = {.next_in = plain, .avail_in = (uInt)n, .next_out = to, .avail_out = (uInt)room};
        assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        deflateEnd(&z);
        return z.total_out;
    }
    case BATCH_SNAPPY: {
        size_t got = room;
        assert_int_equal(snappy_compress((char *)plain, n, (char *)to, &got), SNAPPY_OK);
        return got;
    }
    case BATCH_LZ4: {
        size_t got = LZ4F_compressFrame(to, room, plain, n, NULL);
        assert_false(LZ4F_isError(got));
        return got;
    }
    case BATCH_ZSTD: {
        size_t got = ZSTD_compress(to, room, plain, n, 3);
        assert_false(ZSTD_isError(got));
        return got;
    }
    default: memcpy(to, plain, n); return n;
    }
}

static void every_codec_gives_back_what_went_in_up_to_the_limit(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 100, 65535, 65536, 65537, 200000, LARGEST};
    fill();
    for (int codec = BATCH_NONE; codec <= BATCH_ZSTD; codec++)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            size_t n = pack(codec, sizes[i], packed, sizeof packed);
            struct hf_buf out;
            hf_buf_init(&out, sizes[i] + 5);
            hf_buf_put(&out, "start", 5);
            assert_int_equal(hf_decompress(codec, hf_str_make(packed, n), &out), HF_OK);
            assert_int_equal(out.n, sizes[i] + 5);
            assert_memory_equal(out.p, "start", 5);
            assert_memory_equal(out.p + 5, plain, sizes[i]);
            hf_buf_fini(&out);
            if (sizes[i] == 0) continue;
            hf_buf_init(&out, sizes[i] - 1);
            assert_int_equal(hf_decompress(codec, hf_str_make(packed, n), &out), HF_ELIMIT);
            assert_int_equal(out.n, 0);
            hf_buf_fini(&out);
        }
}

static void streams_behind_each_other_are_one_stream(void **state) {
    (void)state;
    static const int codecs[] = {BATCH_GZIP, BATCH_LZ4, BATCH_ZSTD};
    for (size_t c = 0; c < sizeof codecs / sizeof codecs[0]; c++) {
        size_t n = pack(codecs[c], 1000, packed, sizeof packed);
        n += pack(codecs[c], 500, packed + n, sizeof packed - n);
        struct hf_buf out;
        hf_buf_init(&out, 4096);
        assert_int_equal(hf_decompress(codecs[c], hf_str_make(packed, n), &out), HF_OK);
        assert_int_equal(out.n, 1500);
        assert_memory_equal(out.p + 1000, plain, 500);
        hf_buf_fini(&out);
    }
}

static void a_small_bomb_ends_at_the_limit(void **state) {
    (void)state;
    memset(plain, 0, sizeof plain);
    for (int codec = BATCH_GZIP; codec <= BATCH_ZSTD; codec++) {
        size_t n = pack(codec, LARGEST, packed, sizeof packed);
        struct hf_buf out;
        hf_buf_init(&out, 100000);
        assert_int_equal(hf_decompress(codec, hf_str_make(packed, n), &out), HF_ELIMIT);
        assert_true(out.cap <= 100000);
        hf_buf_fini(&out);
    }
}

static void a_claimed_length_alone_allocates_nothing(void **state) {
    (void)state;
    const uint8_t two_gigabytes[] = {0x80, 0x80, 0x80, 0x80, 0x08, 0x00};
    struct hf_buf out;
    hf_buf_init(&out, SIZE_MAX);
    assert_int_equal(hf_decompress(BATCH_SNAPPY, hf_str_make(two_gigabytes, 6), &out), HF_ECORRUPT);
    assert_int_equal(out.cap, 0);
    hf_buf_fini(&out);
}

static void cut_streams_and_unknown_codecs_are_refused(void **state) {
    (void)state;
    fill();
    struct hf_buf out;
    hf_buf_init(&out, 1 << 20);
    for (int codec = BATCH_GZIP; codec <= BATCH_ZSTD; codec++) {
        size_t n = pack(codec, 3000, packed, sizeof packed);
        for (size_t cut = 0; cut < n; cut++) {
            uint8_t *own = malloc(cut ? cut : 1);
            assert_non_null(own);
            memcpy(own, packed, cut);
            assert_int_equal(hf_decompress(codec, hf_str_make(own, cut), &out), HF_ECORRUPT);
            assert_int_equal(out.n, 0);
            free(own);
        }
    }
    assert_int_equal(hf_decompress(5, HF_STR("x"), &out), HF_EUNSUPPORTED);
    assert_int_equal(hf_decompress(-1, HF_STR("x"), &out), HF_EUNSUPPORTED);
    hf_buf_fini(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_codec_gives_back_what_went_in_up_to_the_limit),
        cmocka_unit_test(streams_behind_each_other_are_one_stream),
        cmocka_unit_test(a_small_bomb_ends_at_the_limit),
        cmocka_unit_test(a_claimed_length_alone_allocates_nothing),
        cmocka_unit_test(cut_streams_and_unknown_codecs_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
