/* The door: what a produced batch must be before it may enter the log.
 *
 *     door_open(16 * message_max, &door);
 *     struct door_refusal no = {0};
 *     if (door_check(door, &target, bytes, n, &no)) … answer no.error, no.reason …
 *
 * Form only; state only through the target's questions. Plain topics: one whole batch of format 2 whose
 * checksum matches. Topics of ours besides: every record obeys the rules of its topic (base/control.h); a
 * topic that clients may not write to refuses all. Pure but for the scratch memory; one thread at a time. */
#ifndef BROKER_DOOR_H
#define BROKER_DOOR_H

#include "base/control.h"
#include "broker/kafka_errors.h"
#include "store/engine/batch.h"

struct door;

/* Decompressed records never take more than decompressed_max. HF_ENOMEM. */
HF_CHECK enum hf_err door_open(size_t decompressed_max, struct door **out);
void door_close(struct door *d);

/* Where a batch wants to go, and what the door may ask about the destinations of its records. */
struct door_target {
    hf_str topic;
    int16_t version; /* of the produce request */
    size_t message_max;
    bool keyed; /* its topic is compacted: a record needs a key */
    /* May records be sent to this topic (it exists, or may be created and is now), and how many partitions
     * has it or will it have? HF_OK, HF_ENOTFOUND. */
    enum hf_err (*destination)(void *arg, hf_str topic, int32_t *partitions);
    /* What only the schedule knows of a record of holdfast.delay, or of a delayed half message, that is right
     * in form: whether its time has a meaning, and whether there is room. bytes: of key and value. HF_OK;
     * HF_EINVAL; HF_EAGAIN: not now (the producer's client tries again). *why: text that lives until the next
     * call. NULL: all are admitted. */
    enum hf_err (*admit)(void *arg, const struct hf_control *c, size_t bytes, struct hf_control_error *why);
    void *arg;
};

struct door_refusal {
    int16_t error;      /* Kafka's number */
    int32_t record;     /* index in the batch; -1: the batch as a whole */
    const char *header; /* which header, or "key"; NULL: none in particular */
    const char *reason; /* lives until the next check */
};

/* HF_OK: may enter. HF_EINVAL: *no says why. */
HF_CHECK enum hf_err door_check(struct door *d, const struct door_target *target, const uint8_t *batch,
                                size_t n, struct door_refusal *no);

#endif
