/* How late delayed messages are, and what a burst of them does to others.
 *
 *     bench_precise steady --port P --topic T [--rate 50000] [--seconds 10] [--from 500] [--to 2000]
 *     bench_precise burst  --port P --topic T [--messages 1000000] [--ahead 10000]
 *     bench_precise feed   --port P --topic T [--rate 50000] [--seconds 10] [--from 500] [--to 2000]
 *     bench_precise watch  --port P --topic T [--seconds 10]
 *     bench_precise check  --port P --topic T [--messages 1000000]
 *
 * steady   accepts --rate messages of 100 bytes a second, in batches of five milliseconds, acks=all, due
 * --from to --to ms later at random, while a consumer reads what is fired: so the due rate is --rate too.
 * burst    accepts messages that are all due in the same millisecond, --ahead ms after the start; meanwhile
 *          and until all are in their topic, another client sends one message at a time (acks=all) to a topic
 *          of its own and fetches it.
 * feed     only the sending of steady.
 * watch    only the consumer.
 * check    reads the whole of partition 0 and counts by hf-message-id what of the first --messages offsets of
 *          holdfast.delay is there once, more than once, or not at all, and what is out of order or early.
 *
 * Lateness is against hf-due: `stamp` of the record's timestamp, `seen` of the moment at which the consumer
 * has it. Both clocks are the machine's. */
#include "lean.h"
#include "store/engine/batch.h"

#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct options {
    int port;
    long rate, messages, ahead, from, to;
    double seconds;
    const char *topic;
};

static int64_t wall_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static uint64_t rnd(uint64_t *s) { /* splitmix64 */
    uint64_t z = *s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* ---- a histogram of tenths of milliseconds ---- */

enum { TENTHS = 1000000 };

struct histogram {
    uint64_t count, early;
    int64_t max_us;
    uint64_t tenths[TENTHS];
};

static void note(struct histogram *h, int64_t us) {
    h->count++;
    if (us < 0) h->early++;
    if (us > h->max_us) h->max_us = us;
    int64_t tenth = us < 0 ? 0 : us / 100;
    h->tenths[tenth < TENTHS ? tenth : TENTHS - 1]++;
}

static double quantile_ms(const struct histogram *h, double q) {
    uint64_t below = 0, want = (uint64_t)((double)h->count * q);
    for (int i = 0; i < TENTHS; i++)
        if ((below += h->tenths[i]) > want) return i / 10.0;
    return (double)h->max_us / 1000;
}

static void show(const char *what, const struct histogram *h) {
    printf(" %s_early=%llu %s_p50_ms=%.1f %s_p99_ms=%.1f %s_p999_ms=%.1f %s_max_ms=%.1f", what,
           (unsigned long long)h->early, what, quantile_ms(h, 0.5), what, quantile_ms(h, 0.99), what,
           quantile_ms(h, 0.999), what, (double)h->max_us / 1000);
}

/* ---- the consumer: a thread that reads the topic and notes how late each record is ---- */

struct consumer {
    const struct options *o;
    pthread_t thread;
    int64_t offset;
    struct hf_buf request;
    struct batch_iter *it;
    struct histogram stamp, seen;
    atomic_bool stop;
    atomic_llong read;
    struct checked *checked; /* NULL: not asked for */
};

struct checked {
    int64_t end; /* of the partition */
    int64_t messages, once, more, strange, unordered;
    int64_t last_due, last_source;
    uint64_t *there; /* a bit for each */
};

static int64_t due_of(const struct batch_record *r) {
    int64_t due = -1;
    for (size_t i = 0; i < r->header_count; i++)
        if (hf_str_is(r->headers[i].key, "hf-due") && hf_str_int(r->headers[i].value, &due))
            lean_die("a record's hf-due is no number");
    return due;
}

static int64_t number(hf_str s, size_t *at) {
    int64_t n = 0;
    for (; *at < s.n && s.p[*at] >= '0' && s.p[*at] <= '9'; ++*at) n = n * 10 + (s.p[*at] - '0');
    return n;
}

/* The offset in holdfast.delay and the time of acceptance, from <topic>/0/<offset>@<timestamp>; -1: none. */
static int64_t source_of(const struct batch_record *r, int64_t *accepted_ms) {
    static const char before[] = "holdfast.delay/0/";
    for (size_t i = 0; i < r->header_count; i++) {
        hf_str value = r->headers[i].value;
        size_t at = sizeof before - 1;
        if (!hf_str_is(r->headers[i].key, "hf-message-id")) continue;
        if (value.n <= at || memcmp(value.p, before, at) != 0) return -1;
        int64_t offset = number(value, &at);
        if (at == value.n || value.p[at++] != '@') return -1;
        *accepted_ms = number(value, &at);
        return at == value.n ? offset : -1;
    }
    return -1;
}

/* In order: by effective due, which is the acceptance if that was later, then by source. */
static void check_record(struct checked *k, const struct batch_record *r, int64_t due) {
    int64_t accepted_ms = 0, source = source_of(r, &accepted_ms);
    if (accepted_ms > due) due = accepted_ms;
    if (source < 0 || source >= k->messages) {
        k->strange++;
        return;
    }
    uint64_t *word = &k->there[source / 64], bit = UINT64_C(1) << (source % 64);
    *(*word & bit ? &k->more : &k->once) += 1;
    *word |= bit;
    if (due < k->last_due || (due == k->last_due && source < k->last_source)) k->unordered++;
    k->last_due = due;
    k->last_source = source;
}

static void note_batch(struct consumer *c, const uint8_t *p, size_t n, int64_t now_us) {
    struct batch_info b;
    struct batch_record r;
    if (batch_parse(p, n, &b) || batch_iter_begin(c->it, p, &b)) lean_die("a batch cannot be read");
    while (batch_iter_next(c->it, &r) == HF_OK) {
        int64_t due = due_of(&r);
        if (due < 0) continue;
        note(&c->stamp, (r.timestamp_ms - due) * 1000);
        note(&c->seen, now_us - due * 1000);
        atomic_fetch_add(&c->read, 1);
        if (c->checked) check_record(c->checked, &r, due);
    }
}

static int64_t consumed(struct lean_connection *connection, hf_str body, void *arg) {
    struct consumer *c = arg;
    int error;
    int64_t now_us = wall_us();
    hf_str records = lean_fetch_records(body, &c->offset, &error);
    if (error) lean_die("fetch at %lld: error %d", (long long)c->offset, error);
    for (size_t at = 0; at + BATCH_HEADER <= records.n;) {
        size_t size = BATCH_OVERHEAD + hf_get_be32(records.p + at + BATCH_LENGTH_AT);
        if (at + size > records.n) break;
        note_batch(c, (const uint8_t *)records.p + at, size, now_us);
        at += size;
    }
    hf_buf_reset(&c->request);
    lean_fetch(&c->request, c->o->topic, 0, c->offset, 1 << 20);
    connection->request = hf_buf_view(&c->request);
    bool at_end = c->checked && c->offset >= c->checked->end;
    return at_end || atomic_load(&c->stop) ? -1 : 1;
}

static void *consume(void *arg) {
    struct consumer *c = arg;
    struct lean l;
    struct lean_result ignored;
    lean_open(&l, c->o->port, 1);
    lean_fetch(&c->request, c->o->topic, 0, c->offset, 1 << 20);
    lean_run(&l,
             &(struct lean_load){.request = hf_buf_view(&c->request),
                                 .window = 1,
                                 .seconds = 36000,
                                 .on_answer = consumed,
                                 .arg = c},
             &ignored);
    lean_close(&l);
    return NULL;
}

static struct consumer *consumer_new(const struct options *o) {
    struct consumer *c = calloc(1, sizeof *c);
    if (!c || batch_iter_open(64 << 20, &c->it)) lean_die("no memory");
    c->o = o;
    hf_buf_init(&c->request, 4096);
    return c;
}

static void consumer_free(struct consumer *c) {
    hf_buf_fini(&c->request);
    batch_iter_close(c->it);
    free(c);
}

static struct consumer *consumer_start(const struct options *o, struct lean *l) {
    struct consumer *c = consumer_new(o);
    lean_make_topic(l, o->topic);
    c->offset = lean_end(l, o->topic, 0);
    if (pthread_create(&c->thread, NULL, consume, c)) lean_die("no thread");
    return c;
}

/* Waits until `messages` have been read, for half a minute without a new one at most. */
static void consumer_end(struct consumer *c, int64_t messages) {
    double moved = lean_now();
    for (int64_t before = -1, now; (now = atomic_load(&c->read)) < messages; usleep(1000)) {
        if (now != before) moved = lean_now();
        before = now;
        if (lean_now() - moved > 30)
            lean_die("only %lld of %lld were fired", (long long)now, (long long)messages);
    }
    atomic_store(&c->stop, true);
    pthread_join(c->thread, NULL);
    printf(" fired=%llu", (unsigned long long)c->stamp.count);
    show("stamp", &c->stamp);
    show("seen", &c->seen);
    putchar('\n');
    consumer_free(c);
}

static void check(const struct options *o) {
    struct lean l;
    struct checked k = {.messages = o->messages};
    k.there = calloc((size_t)o->messages / 64 + 1, sizeof *k.there);
    if (!k.there) lean_die("no memory");
    lean_open(&l, o->port, 1);
    k.end = lean_end(&l, o->topic, 0);
    lean_close(&l);
    struct consumer *c = consumer_new(o);
    c->checked = &k;
    if (k.end > 0) consume(c);
    printf("check messages=%lld once=%lld missing=%lld more_than_once=%lld strange=%lld unordered=%lld",
           (long long)k.messages, (long long)k.once, (long long)(k.messages - k.once), (long long)k.more,
           (long long)k.strange, (long long)k.unordered);
    show("stamp", &c->stamp);
    putchar('\n');
    consumer_free(c);
    free(k.there);
}

/* ---- sending ---- */

struct sender {
    const struct options *o;
    struct lean l;
    struct batch_builder builder;
    struct hf_buf request;
    uint64_t random;
    char value[100];
};

static void sender_open(struct sender *s, const struct options *o) {
    *s = (struct sender){.o = o, .random = (uint64_t)wall_us()};
    memset(s->value, 'x', sizeof s->value);
    lean_open(&s->l, o->port, 1);
    batch_builder_init(&s->builder, 64 << 20);
    hf_buf_init(&s->request, 64 << 20);
}

static void sender_close(struct sender *s) {
    hf_buf_fini(&s->request);
    batch_builder_fini(&s->builder);
    lean_close(&s->l);
}

static void add(struct sender *s, int64_t due_ms) {
    char due[32];
    snprintf(due, sizeof due, "%lld", (long long)due_ms);
    struct hf_header headers[] = {{HF_STR("hf-topic"), hf_str_of(s->o->topic)},
                                  {HF_STR("hf-due"), hf_str_of(due)}};
    hf_str value = hf_str_make(s->value, sizeof s->value);
    if (batch_builder_add(&s->builder, (hf_str){NULL, 0}, value, due_ms ? headers : NULL, due_ms ? 2 : 0))
        lean_die("the batch is too large");
}

static int64_t sent(struct lean_connection *c, hf_str body, void *arg) {
    (void)c, (void)arg;
    int64_t offset;
    int error = lean_produce_error(body, &offset);
    if (error) lean_die("produce: error %d", error);
    return 1;
}

/* Sends the batch that was built and waits for its answer. */
static void send_batch(struct sender *s, const char *topic) {
    hf_str batch;
    struct lean_result ignored;
    if (batch_builder_finish(&s->builder, &batch)) lean_die("the batch cannot be built");
    hf_buf_reset(&s->request);
    lean_produce(&s->request, topic, 0, -1, batch);
    lean_run(&s->l,
             &(struct lean_load){.request = hf_buf_view(&s->request),
                                 .window = 1,
                                 .seconds = 60,
                                 .requests = 1,
                                 .on_answer = sent},
             &ignored);
}

/* Accepts at the rate; returns how many. */
static int64_t send_at_rate(struct sender *s) {
    enum { TICK_US = 5000, MOST = 5000 };
    const struct options *o = s->o;
    double start = lean_now(), now;
    int64_t accepted = 0;
    while ((now = lean_now() - start) < o->seconds) {
        int64_t owed = (int64_t)(now * (double)o->rate) - accepted;
        if (owed > MOST) owed = MOST;
        if (owed > 0) {
            batch_builder_begin(&s->builder, 0);
            for (int64_t i = 0; i < owed; i++)
                add(s, wall_us() / 1000 + o->from + (int64_t)(rnd(&s->random) % (uint64_t)(o->to - o->from)));
            send_batch(s, "holdfast.delay");
            accepted += owed;
        }
        usleep(TICK_US);
    }
    printf("accepted=%lld accepted_per_second=%.0f", (long long)accepted, (double)accepted / now);
    return accepted;
}

static void steady(const struct options *o) {
    struct sender s;
    sender_open(&s, o);
    struct consumer *c = consumer_start(o, &s.l);
    printf("steady ");
    int64_t accepted = send_at_rate(&s);
    consumer_end(c, accepted);
    sender_close(&s);
}

static void feed(const struct options *o) {
    struct sender s;
    sender_open(&s, o);
    lean_make_topic(&s.l, o->topic);
    printf("feed ");
    send_at_rate(&s);
    putchar('\n');
    sender_close(&s);
}

static void watch(const struct options *o) {
    struct lean l;
    lean_open(&l, o->port, 1);
    struct consumer *c = consumer_start(o, &l);
    usleep((useconds_t)(o->seconds * 1e6));
    printf("watch fired_per_second=%.0f", (double)atomic_load(&c->read) / o->seconds);
    consumer_end(c, 0);
    lean_close(&l);
}

/* ---- the burst, and the others ---- */

struct others {
    const struct options *o;
    pthread_t thread;
    int64_t from_us; /* what began before counts as quiet */
    atomic_bool stop;
    struct histogram produce[2], fetch[2]; /* quiet, in the burst */
};

static void *live_on(void *arg) {
    struct others *x = arg;
    struct sender s;
    struct hf_buf request;
    struct lean_result ignored;
    sender_open(&s, x->o);
    hf_buf_init(&request, 4096);
    lean_make_topic(&s.l, "others");
    for (int64_t offset = lean_end(&s.l, "others", 0); !atomic_load(&x->stop); offset++) {
        int64_t began = wall_us();
        batch_builder_begin(&s.builder, 0);
        add(&s, 0);
        send_batch(&s, "others");
        int64_t answered = wall_us();
        hf_buf_reset(&request);
        lean_fetch(&request, "others", 0, offset, 4096);
        lean_run(
            &s.l,
            &(struct lean_load){.request = hf_buf_view(&request), .window = 1, .seconds = 60, .requests = 1},
            &ignored);
        int64_t fetched = wall_us();
        note(&x->produce[answered >= x->from_us], answered - began);
        note(&x->fetch[fetched >= x->from_us], fetched - answered);
    }
    hf_buf_fini(&request);
    sender_close(&s);
    return NULL;
}

static void burst(const struct options *o) {
    enum { BATCH = 1000 };
    struct sender s;
    sender_open(&s, o);
    lean_make_topic(&s.l, o->topic);
    int64_t before = lean_end(&s.l, o->topic, 0), due_ms = wall_us() / 1000 + o->ahead;
    for (int64_t left = o->messages; left > 0; left -= BATCH) {
        batch_builder_begin(&s.builder, 0);
        for (int i = 0; i < BATCH && i < left; i++) add(&s, due_ms);
        send_batch(&s, "holdfast.delay");
    }
    struct others *x = calloc(1, sizeof *x);
    if (!x) lean_die("no memory");
    x->o = o;
    x->from_us = due_ms * 1000;
    if (wall_us() > due_ms * 1000 - 1000000) lean_die("accepting took too long: more --ahead");
    if (pthread_create(&x->thread, NULL, live_on, x)) lean_die("no thread");
    int64_t end, first_us = 0;
    while ((end = lean_end(&s.l, o->topic, 0)) < before + o->messages) {
        if (end > before && !first_us) first_us = wall_us();
        if (wall_us() > due_ms * 1000 + 60000000) lean_die("only %lld were fired", (long long)(end - before));
        usleep(2000);
    }
    int64_t done_us = wall_us();
    atomic_store(&x->stop, true);
    pthread_join(x->thread, NULL);
    printf("burst messages=%ld first_after_ms=%.1f all_after_ms=%.1f others:", o->messages,
           (double)(first_us - due_ms * 1000) / 1000, (double)(done_us - due_ms * 1000) / 1000);
    show("quiet_produce", &x->produce[0]);
    show("quiet_fetch", &x->fetch[0]);
    printf(" in_burst=%llu", (unsigned long long)x->produce[1].count);
    show("produce", &x->produce[1]);
    show("fetch", &x->fetch[1]);
    putchar('\n');
    free(x);
    sender_close(&s);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(const struct options *o);
    } modes[] = {{"steady", steady}, {"burst", burst}, {"feed", feed}, {"watch", watch}, {"check", check}};
    static const struct option flags[] = {
        {"port", 1, NULL, 'p'},     {"topic", 1, NULL, 't'},   {"rate", 1, NULL, 'r'},
        {"messages", 1, NULL, 'm'}, {"seconds", 1, NULL, 's'}, {"ahead", 1, NULL, 'a'},
        {"from", 1, NULL, 'f'},     {"to", 1, NULL, 'o'},      {0}};
    struct options o = {.rate = 50000,
                        .messages = 1000000,
                        .ahead = 10000,
                        .from = 500,
                        .to = 2000,
                        .seconds = 10,
                        .topic = "fired"};
    for (int flag; (flag = getopt_long(argc, argv, "", flags, NULL)) != -1;) {
        switch (flag) {
        case 'p': o.port = atoi(optarg); break;
        case 't': o.topic = optarg; break;
        case 'r': o.rate = atol(optarg); break;
        case 'm': o.messages = atol(optarg); break;
        case 's': o.seconds = atof(optarg); break;
        case 'a': o.ahead = atol(optarg); break;
        case 'f': o.from = atol(optarg); break;
        case 'o': o.to = atol(optarg); break;
        default: return 2;
        }
    }
    for (size_t i = 0; optind + 1 == argc && i < sizeof modes / sizeof modes[0]; i++) {
        if (strcmp(argv[optind], modes[i].name) != 0) continue;
        modes[i].run(&o);
        return 0;
    }
    fputs("usage: bench_precise steady|burst|feed|watch|check --port P: see the top of bench/precise.c\n",
          stderr);
    return 2;
}
