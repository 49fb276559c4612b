/* A failed message on its way elsewhere: round by holdfast.delay to retry.<group>, or to dlq.<group>. Pure.
 */
#ifndef WORKER_MOVES_H
#define WORKER_MOVES_H

#include "client/client.h"
#include "delivery.h"

enum move_kind { MOVE_RETRY, MOVE_DEAD };

struct move {
    struct client_record record;
    hf_header *headers;
    size_t count;
    char *text; /* formatted values */
    size_t used, room;
    char topic[256];
};

/* scheduled: through holdfast.delay, idempotent by name; else (MOVE_DEAD only) straight to its topic.
 * HF_ENOMEM. On HF_OK the caller calls move_fini. */
HF_CHECK enum hf_err move_compose(struct move *out, const struct hf_delivery *d, const char *group,
                                  enum move_kind kind, bool scheduled, int64_t now_ms);
void move_fini(struct move *m);

#endif
