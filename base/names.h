/* Every name of ours that travels: hf- headers, holdfast. topics, once. Pure. */
#ifndef BASE_NAMES_H
#define BASE_NAMES_H

#include "bytes.h"

#include <inttypes.h>

/* Headers that a producer sets. */
#define HF_HDR_TOPIC       "hf-topic"
#define HF_HDR_DUE         "hf-due"
#define HF_HDR_DELAY       "hf-delay"
#define HF_HDR_PARTITION   "hf-partition"
#define HF_HDR_ID          "hf-id"
#define HF_HDR_ON_CONFLICT "hf-on-conflict"
#define HF_HDR_OP          "hf-op"
#define HF_HDR_CRON        "hf-cron"
#define HF_HDR_TZ          "hf-tz"
#define HF_HDR_OVERLAP     "hf-cron-overlap"
#define HF_HDR_GROUP       "hf-group"
#define HF_HDR_KEY         "hf-key"
#define HF_HDR_CHECK_AFTER "hf-check-after"
#define HF_HDR_MESSAGE_ID  "hf-message-id"
#define HF_HDR_VERSION     "hf-version"
#define HF_HDR_EXPECT      "hf-expect" /* set by the HTTP API's move, and by the next run of a recurring one */

/* Headers that a move adds. */
#define HF_HDR_CREATED_AT "hf-created-at"
#define HF_HDR_ORIGIN     "hf-origin"
#define HF_HDR_REASON     "hf-reason"
#define HF_HDR_ATTEMPT    "hf-attempt"
#define HF_HDR_HALVES     "hf-halves"
#define HF_HDR_LAST_RUN   "hf-cron-last" /* of a next run: where the one before went */

/* Headers of a dead letter; the first six are KIP-1191's. */
#define HF_HDR_DLQ_TOPIC           "__dlq.errors.topic"
#define HF_HDR_DLQ_PARTITION       "__dlq.errors.partition"
#define HF_HDR_DLQ_OFFSET          "__dlq.errors.offset"
#define HF_HDR_DLQ_GROUP           "__dlq.errors.group"
#define HF_HDR_DLQ_DELIVERY_COUNT  "__dlq.errors.delivery.count"
#define HF_HDR_DLQ_MESSAGE         "__dlq.errors.message"
#define HF_HDR_DLQ_REASON          "hf-dlq-reason"
#define HF_HDR_DLQ_FIRST_FAILED_AT "hf-dlq-first-failed-at"
#define HF_HDR_DLQ_REPLAYS         "hf-dlq-replays"

/* Topics. */
#define HF_TOPIC_PREFIX   "holdfast."
#define HF_TOPIC_DELAY    "holdfast.delay"
#define HF_TOPIC_TXN      "holdfast.txn"
#define HF_TOPIC_REJECTED "holdfast.rejected"
#define HF_TOPIC_CHECK    "holdfast.check." /* + group */
#define HF_TOPIC_RETRY    "retry."          /* + group */
#define HF_TOPIC_DLQ      "dlq."            /* + group */

/* The name under which a rejected message is scheduled again: partition, offset, time. As it is one name for
 * command line and HTTP, it goes once whoever asks. */
#define HF_REJECTED_ID "rejected/%" PRId32 "/%" PRId64 "@%" PRId64

enum { HF_TOPIC_NAME_MAX = 249 };

/* Kafka's rule for topic names: 1 to 249 of [a-zA-Z0-9._-], neither "." nor "..". */
bool hf_topic_name_ok(hf_str name);

/* Belongs to the scheduler and the coordinator: starts with "holdfast.". */
bool hf_topic_is_ours(hf_str name);

/* May be put behind "dlq.", "retry." and "holdfast.check." to give a legal topic name. */
bool hf_group_suffix_ok(hf_str group);

/* Partition of a key as the Java client chooses it: murmur2 (Austin Appleby's MurmurHash2, seed
 * 0x9747b28c), sign bit cleared, modulo partitions. */
uint32_t hf_murmur2(const void *p, size_t n);
int32_t hf_partition_of_key(hf_str key, int32_t partitions);

#endif
