/* Kafka's codecs: gzip (RFC 1952), snappy (raw, and the xerial framing of the Java client), lz4 (frame
 * format), zstd. Pure; any thread.
 *
 * The output never grows past out->max: HF_ELIMIT. Damaged input: HF_ECORRUPT. */
#ifndef STORE_ENGINE_COMPRESS_H
#define STORE_ENGINE_COMPRESS_H

#include "base/bytes.h"

/* codec: a batch_codec number. HF_EUNSUPPORTED: no such codec. HF_ENOMEM. Appends to out; after a failure
 * out holds what it held. */
HF_CHECK enum hf_err hf_decompress(int codec, hf_str in, struct hf_buf *out);

/* The same way back, for batches that compaction writes again. HF_ELIMIT: out would pass its max. */
HF_CHECK enum hf_err hf_compress(int codec, hf_str in, struct hf_buf *out);

#endif
