/* A broker in a thread, with handlers of the test's own, and a client on blocking sockets.
 *
 * Produce and fetch requests are kept on a list until the test orders the loop's thread to answer one, through
 * wake_fd and step. Metadata is answered at once. */
#ifndef TESTS_BROKER_FIXTURE_H
#define TESTS_BROKER_FIXTURE_H

#include "broker/broker.h"
#include "env/posix.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

enum { KEPT_MAX = 4096, DEADLINE_MS = 60000 };

struct fixture {
    struct hf_env *env;
    struct broker *broker;
    pthread_t thread;
    pthread_mutex_t lock;
    struct broker_request *kept[KEPT_MAX]; /* in the order of their start; NULL: answered */
    int kept_count;
    atomic_int started, gone, released, handled;
    int wake;
    int order; /* under lock: which of kept to answer next; -1 none */
    bool stop;
    bool heedless; /* handlers take no notice of clients that leave */
    struct broker_stats stats;
    int file;
    int big;       /* bytes of each metadata answer */
    int range;     /* bytes of each fetch answer's range */
    uint8_t *body; /* of the last answer that was read */
    size_t body_n;
};

extern struct fixture *f; /* between start and stop */

/* Around a group of tests: the folder that they share. */
int fixture_begin(void **state);
int fixture_end(void **state);

void start(struct broker_options o);
void stop(void);
/* The loop's thread takes a step. */
void wake(void);
/* Answers the i-th request that was kept, and waits until that is done. */
void answer(int i);

void await(atomic_int *counter, int value);
#define AWAIT(condition)                                                                                     \
    do {                                                                                                     \
        for (int i_ = 0; i_ < DEADLINE_MS && !(condition); i_++) (void)poll(NULL, 0, 1);                     \
        assert_true(condition);                                                                              \
    } while (0)

struct broker_stats stats(void);

/* ---- a client ---- */

int dial(const char *address);
int connect_kafka(void);
void send_all(int fd, const void *p, size_t n);
/* A request with the body encoded by our codec, padded with a client id of `pad` bytes. */
void request(int fd, int16_t key, int16_t version, int32_t correlation, const void *body, int16_t pad);
void ask_metadata(int fd, int32_t correlation);
/* Reads one answer; its correlation id. The rest stays in f->body. */
int32_t read_answer(int fd);
/* The other side closed it; then so do we. */
void assert_closed(int fd);

extern const struct kafka_metadata_request all_topics;
extern const struct kafka_produce_request produce;
extern const struct kafka_fetch_request fetch;

#endif
