/* Messages as records: which topic, key and headers a send, a delay, a half message, a decision or a cancel
 * is on the wire (design of the topics holdfast.delay and holdfast.txn). Pure; any thread. */
#ifndef CLIENT_COMPOSE_H
#define CLIENT_COMPOSE_H

#include "client.h"

enum { COMPOSE_OWN_HEADERS = 12, COMPOSE_TEXT = 512 };

/* Borrows from the message and from itself: must not be copied or moved while record is used. */
struct composed {
    struct client_record record;
    hf_header *headers;
    size_t count, room;
    char text[COMPOSE_TEXT]; /* formatted header values */
    size_t text_used;
};

/* Each answers HF_EINVAL with a text, or HF_ENOMEM; on HF_OK the caller calls compose_fini. */
HF_CHECK enum hf_err compose_message(struct composed *out, const hf_message *m);
/* message_id is used if the message has none. check_after_ms <= 0: the server's. */
HF_CHECK enum hf_err compose_half(struct composed *out, const char *group, const char *id,
                                  const hf_message *m, const char *message_id, int64_t check_after_ms);
HF_CHECK enum hf_err compose_decision(struct composed *out, const char *group, const char *id, bool commit);
HF_CHECK enum hf_err compose_cancel(struct composed *out, const char *topic, const char *id);
void compose_fini(struct composed *c);

#endif
