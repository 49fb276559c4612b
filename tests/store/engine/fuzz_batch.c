/* A batch made of any bytes at all: read as far as it goes, then given an append time, a place and a good
 * checksum as the door would do. The entry has libFuzzer's shape; test_batch feeds it damaged batches. */
#include "store/engine/batch.h"

#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static volatile unsigned sink; /* so that no read is optimised away */

static void touch(hf_str s) {
    for (size_t i = 0; i < s.n; i++) sink = (unsigned char)s.p[i];
}

static void read_all(struct batch_iter *it) {
    struct batch_record r;
    enum hf_err e;
    while (!(e = batch_iter_next(it, &r))) {
        touch(r.key);
        touch(r.value);
        for (size_t i = 0; i < r.header_count; i++) {
            touch(r.headers[i].key);
            touch(r.headers[i].value);
        }
    }
    assert(e == HF_EEND || e == HF_ECORRUPT || e == HF_ELIMIT);
    assert(batch_iter_next(it, &r) == e); /* an end is an end */
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    enum { OUTPUT_MAX = 256 << 10 };
    struct batch_info info;
    enum hf_err e = batch_parse(p, n, &info);
    assert(e == HF_OK || e == HF_EEND || e == HF_ECORRUPT);
    if (e) return 0;
    assert(info.size <= n && info.size >= BATCH_HEADER);
    uint8_t *own = malloc(info.size); /* exactly as long as the batch: a sanitizer sees one byte too far */
    struct batch_iter *it;
    if (!own || batch_iter_open(OUTPUT_MAX, &it)) abort();
    memcpy(own, p, info.size);
    if (!batch_iter_begin(it, own, &info)) read_all(it);
    batch_set_place(own, 77, 5);
    batch_set_append_time(own, 123456789);
    e = batch_parse(own, info.size, &info);
    assert(!e && batch_crc_ok(own, &info) && info.base_offset == 77 && info.leader_epoch == 5);
    assert(info.max_timestamp == 123456789 && (info.attributes & BATCH_ATTR_APPEND_TIME));
    batch_iter_close(it);
    free(own);
    return 0;
}
