/* Inside client/: a producer and its check thread. */
#ifndef CLIENT_PRODUCER_H
#define CLIENT_PRODUCER_H

#include "client.h"

struct checks;

/* Starts the thread that reads holdfast.check.<group> and asks `check`. HF_ENOMEM, HF_EINVAL. */
HF_CHECK enum hf_err checks_open(hf_producer *p, const char *group, hf_checker *check, void *arg,
                                 struct checks **out);

/* Ends it after the check under way. NULL is allowed. */
void checks_close(struct checks *c);

hf_client *producer_client(hf_producer *p);

/* Blocks until the decision is durable; does not ask what came of it. receipt may be NULL. */
HF_CHECK enum hf_err producer_send_decision(hf_producer *p, const char *id, hf_decision decision,
                                            hf_receipt *receipt);

#endif
