/* Load on a Kafka server (or a floor program) by the lean client; one line of figures.
 *
 *     load produce --port P --topic T [--connections 64] [--window 1] [--records 1] [--size 1024]
 *                  [--acks -1|1] [--partitions 1] [--seconds 10] [--messages N] [--pid SERVER] [--floor]
 *     load fetch   --port P --topic T [--bytes 1048576] [--seconds 10] [--pid SERVER] [--floor]
 *     load delay   … as produce, to holdfast.delay: --delay MS, destination --topic; then waits for the last
 *                  one fired
 *     load pending … as produce, to holdfast.delay: --messages N, numbered from --first, every --ids'th with
 *                  an id, due --from to --to ms after now, or after --at (ms since the epoch)
 *     load txn     … one half message and one commit at a time on each connection
 *
 * --pid adds the CPU seconds which that process used meanwhile: per GB of record values, and per message. */
#include "lean.h"
#include "store/engine/batch.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct options {
    int port, connections, window, records, size, acks, bytes, partitions;
    double seconds;
    long pid, delay, messages, from, to, first, ids, at;
    bool floor;
    const char *topic;
};

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Stamped with the present: old records would be retention.ms's prey at its next look. */
static void make_batch(struct batch_builder *b, int records, int size, const struct hf_header *headers,
                       size_t n, hf_str key, hf_str *out) {
    char *value = malloc((size_t)size + 1);
    if (!value) lean_die("no memory");
    for (int i = 0; i < size; i++) value[i] = (char)('a' + (i * 7 + i / 26) % 26);
    batch_builder_begin(b, now_ms());
    for (int i = 0; i < records; i++)
        if (batch_builder_add(b, key, hf_str_make(value, (size_t)size), headers, n))
            lean_die("the batch is too large");
    if (batch_builder_finish(b, out)) lean_die("the batch cannot be built");
    free(value);
}

static void report(const char *what, const struct options *o, const struct lean_result *r, double cpu,
                   double bytes) {
    printf("%s messages=%lld seconds=%.2f per_second=%.0f mb_per_second=%.1f p50_ms=%.3f p99_ms=%.3f "
           "p999_ms=%.3f max_ms=%.3f",
           what, (long long)r->messages, r->seconds, (double)r->messages / r->seconds,
           bytes / r->seconds / 1e6, r->p50_ms, r->p99_ms, r->p999_ms, r->max_ms);
    if (o->pid)
        printf(" server_cpu_s=%.2f cpu_us_per_message=%.3f cpu_s_per_gb=%.3f", cpu,
               cpu * 1e6 / (double)r->messages, cpu * 1e9 / bytes);
    putchar('\n');
}

/* Connection i begins with partition i of those there are; with one request in flight it then takes turns. */
struct produce_arg {
    const struct options *o;
    struct lean *lean;
    struct hf_buf *requests; /* one for each partition */
    int *at;                 /* of each connection: its partition */
};

static int64_t produced(struct lean_connection *c, hf_str body, void *arg) {
    struct produce_arg *a = arg;
    int64_t offset;
    int error = a->o->floor ? 0 : lean_produce_error(body, &offset);
    if (error) lean_die("produce: error %d", error);
    if (a->o->window == 1 && a->o->partitions > 1) {
        int *at = &a->at[c - a->lean->connections];
        *at = (*at + a->o->connections) % a->o->partitions;
        c->request = hf_buf_view(&a->requests[*at]);
    }
    return a->o->records;
}

static void make_requests(struct produce_arg *a, const char *to, hf_str batch) {
    a->requests = calloc((size_t)a->o->partitions, sizeof *a->requests);
    a->at = calloc((size_t)a->o->connections, sizeof *a->at);
    if (!a->requests || !a->at) lean_die("no memory");
    for (int i = 0; i < a->o->partitions; i++) {
        hf_buf_init(&a->requests[i], 64 << 20);
        lean_produce(&a->requests[i], to, i, (int16_t)a->o->acks, batch);
    }
    for (int i = 0; i < a->o->connections; i++) {
        a->at[i] = i % a->o->partitions;
        a->lean->connections[i].request = hf_buf_view(&a->requests[a->at[i]]);
    }
}

static void free_requests(struct produce_arg *a) {
    for (int i = 0; i < a->o->partitions; i++) hf_buf_fini(&a->requests[i]);
    free(a->requests);
    free(a->at);
}

static void produce(const struct options *o, const char *to, const struct hf_header *headers, size_t n,
                    struct lean_result *result) {
    struct lean l;
    struct batch_builder builder;
    struct produce_arg arg = {.o = o, .lean = &l};
    hf_str batch;
    lean_open(&l, o->port, o->connections);
    if (!o->floor) lean_make_topic(&l, o->topic);
    batch_builder_init(&builder, 64 << 20);
    make_batch(&builder, o->records, o->size, headers, n, (hf_str){NULL, 0}, &batch);
    make_requests(&arg, to, batch);
    double cpu = o->pid ? lean_cpu_of(o->pid) : 0;
    lean_run(&l,
             &(struct lean_load){.window = o->window,
                                 .seconds = o->seconds,
                                 .requests = o->messages / o->records,
                                 .on_answer = produced,
                                 .arg = &arg},
             result);
    if (o->pid) cpu = lean_cpu_of(o->pid) - cpu;
    report(n ? "delay" : "produce", o, result, cpu, (double)result->messages * o->size);
    free_requests(&arg);
    batch_builder_fini(&builder);
    lean_close(&l);
}

static void run_produce(const struct options *o) {
    struct lean_result result;
    produce(o, o->topic, NULL, 0, &result);
}

/* Accepts delayed messages, then waits until all of them have reached their topic. */
static void run_delay(const struct options *o) {
    char delay[32];
    snprintf(delay, sizeof delay, "%ld", o->delay);
    struct hf_header headers[] = {{HF_STR("hf-topic"), hf_str_of(o->topic)},
                                  {HF_STR("hf-delay"), hf_str_of(delay)}};
    struct lean l;
    struct lean_result result;
    lean_open(&l, o->port, 1);
    lean_make_topic(&l, o->topic);
    int64_t before = lean_end(&l, o->topic, 0);
    double start = lean_now();
    produce(o, "holdfast.delay", headers, 2, &result);
    double cpu = o->pid ? lean_cpu_of(o->pid) : 0, deadline = lean_now() + (double)o->delay / 1000 + 60;
    int64_t fired = 0;
    while ((fired = lean_end(&l, o->topic, 0) - before) < result.messages) {
        if (lean_now() > deadline)
            lean_die("only %lld of %lld were fired", (long long)fired, (long long)result.messages);
        usleep(2000);
    }
    printf("fired messages=%lld seconds_from_first=%.2f after_last_answer=%.3f", (long long)fired,
           lean_now() - start, lean_now() - start - result.seconds);
    if (o->pid) printf(" server_cpu_s=%.2f", lean_cpu_of(o->pid) - cpu);
    putchar('\n');
    lean_close(&l);
}

struct fetcher {
    const struct options *o;
    int64_t offset, bytes, last;
    struct hf_buf request;
};

static int64_t fetched(struct lean_connection *c, hf_str body, void *arg) {
    struct fetcher *f = arg;
    if (f->o->floor) {
        f->bytes += (int64_t)body.n;
        return 1;
    }
    int error;
    int64_t next = f->offset;
    hf_str records = lean_fetch_records(body, &next, &error);
    if (error) lean_die("fetch at %lld: error %d", (long long)f->offset, error);
    f->bytes += (int64_t)records.n;
    /* From the start again before the end is met, where the server would rightly wait. */
    f->offset = next >= f->last ? 0 : next;
    hf_buf_reset(&f->request);
    lean_fetch(&f->request, f->o->topic, 0, f->offset, f->o->bytes);
    c->request = hf_buf_view(&f->request);
    return 1;
}

static void run_fetch(const struct options *o) {
    struct lean l;
    struct lean_result result;
    struct fetcher f = {.o = o};
    lean_open(&l, o->port, 1);
    hf_buf_init(&f.request, 4096);
    lean_fetch(&f.request, o->topic, 0, 0, o->bytes);
    if (!o->floor) f.last = lean_end(&l, o->topic, 0);
    double cpu = o->pid ? lean_cpu_of(o->pid) : 0;
    lean_run(&l,
             &(struct lean_load){.request = hf_buf_view(&f.request),
                                 .window = 1,
                                 .seconds = o->seconds,
                                 .on_answer = fetched,
                                 .arg = &f},
             &result);
    if (o->pid) cpu = lean_cpu_of(o->pid) - cpu;
    report("fetch", o, &result, cpu, (double)f.bytes);
    hf_buf_fini(&f.request);
    lean_close(&l);
}

/* ---- pending: every record with a due time of its own, every ids-th with an id of its own ---- */

struct pending {
    const struct options *o;
    struct batch_builder builder;
    char *value;
    uint64_t random; /* splitmix64 (Steele, Lea, Flood 2014), a fixed seed */
    int64_t next, end, start_ms;
    uint64_t encoded; /* bytes of all batches */
};

static int64_t pending_due(struct pending *p) {
    uint64_t z = p->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return p->start_ms + p->o->from + (int64_t)((z ^ z >> 31) % (uint64_t)(p->o->to - p->o->from));
}

static void add_pending(struct pending *p) {
    char due[32], id[32];
    snprintf(due, sizeof due, "%lld", (long long)pending_due(p));
    snprintf(id, sizeof id, "order-%lld", (long long)p->next);
    const struct hf_header headers[] = {{HF_STR("hf-topic"), hf_str_of(p->o->topic)},
                                        {HF_STR("hf-due"), hf_str_of(due)},
                                        {HF_STR("hf-id"), hf_str_of(id)}};
    size_t n = p->o->ids && p->next % p->o->ids == 0 ? 3 : 2;
    hf_str value = hf_str_make(p->value, (size_t)p->o->size);
    if (batch_builder_add(&p->builder, (hf_str){NULL, 0}, value, headers, n))
        lean_die("the batch is too large");
    p->next++;
}

/* The connection's next request. */
static void next_pending(struct pending *p, struct lean_connection *c) {
    hf_str batch;
    struct hf_buf *request = c->user;
    int64_t first = p->next, left = p->end - first;
    batch_builder_begin(&p->builder, p->start_ms);
    for (int64_t i = 0; i < left && i < p->o->records; i++) add_pending(p);
    if (batch_builder_finish(&p->builder, &batch)) lean_die("the batch cannot be built");
    p->encoded += batch.n;
    hf_buf_reset(request);
    lean_produce(request, "holdfast.delay", 0, -1, batch);
    c->request = hf_buf_view(request);
}

static int64_t accepted(struct lean_connection *c, hf_str body, void *arg) {
    struct pending *p = arg;
    int64_t offset;
    int error = lean_produce_error(body, &offset);
    if (error) lean_die("produce: error %d", error);
    if (p->next < p->end) next_pending(p, c);
    return p->o->records;
}

/* --messages in whole requests: a connection that has nothing left to say repeats nothing, because the run
 * ends by count when all have been answered. */
static void run_pending(const struct options *o) {
    struct lean l;
    struct lean_result result;
    struct pending p = {.o = o,
                        .random = (uint64_t)o->first,
                        .next = o->first,
                        .end = o->first + o->messages,
                        .start_ms = o->at ? o->at : now_ms()};
    int64_t requests = o->messages / o->records;
    if (o->window != 1 || o->messages % o->records || requests < o->connections)
        lean_die("pending: --window 1; --messages a multiple of --records, enough for all connections");
    p.value = calloc(1, (size_t)o->size + 1);
    struct hf_buf *buffers = calloc((size_t)o->connections, sizeof *buffers);
    if (!p.value || !buffers) lean_die("no memory");
    lean_open(&l, o->port, o->connections);
    lean_make_topic(&l, o->topic);
    batch_builder_init(&p.builder, 64 << 20);
    for (int i = 0; i < o->connections; i++) {
        hf_buf_init(&buffers[i], 64 << 20);
        l.connections[i].user = &buffers[i];
        next_pending(&p, &l.connections[i]);
    }
    double cpu = o->pid ? lean_cpu_of(o->pid) : 0;
    lean_run(&l,
             &(struct lean_load){
                 .window = 1, .seconds = 36000, .requests = requests, .on_answer = accepted, .arg = &p},
             &result);
    if (o->pid) cpu = lean_cpu_of(o->pid) - cpu;
    printf("encoded_bytes=%llu ", (unsigned long long)p.encoded);
    report("pending", o, &result, cpu, (double)result.messages * o->size);
    for (int i = 0; i < o->connections; i++) hf_buf_fini(&buffers[i]);
    batch_builder_fini(&p.builder);
    free(buffers);
    free(p.value);
    lean_close(&l);
}

/* ---- transactions: each connection prepares one half, then commits it, under an id of its own ---- */

struct txn_user {
    int number;
    int64_t count;
    bool prepared;
    struct hf_buf request;
};

static void next_request(struct lean_connection *c, struct txn_user *u, const struct options *o) {
    char id[48];
    struct batch_builder b;
    hf_str batch;
    snprintf(id, sizeof id, "%d-%lld-%d", (int)getpid(), (long long)u->count, u->number);
    struct hf_header prepare[] = {{HF_STR("hf-op"), HF_STR("prepare")},
                                  {HF_STR("hf-group"), HF_STR("bench")},
                                  {HF_STR("hf-topic"), hf_str_of(o->topic)}};
    struct hf_header commit[] = {{HF_STR("hf-op"), HF_STR("commit")}, {HF_STR("hf-group"), HF_STR("bench")}};
    batch_builder_init(&b, 1 << 20);
    make_batch(&b, 1, o->size, u->prepared ? commit : prepare, u->prepared ? 2 : 3, hf_str_of(id), &batch);
    hf_buf_reset(&u->request);
    lean_produce(&u->request, "holdfast.txn", 0, -1, batch);
    c->request = hf_buf_view(&u->request);
    batch_builder_fini(&b);
}

static int64_t decided(struct lean_connection *c, hf_str body, void *arg) {
    struct txn_user *u = c->user;
    int64_t offset, done = u->prepared;
    int error = lean_produce_error(body, &offset);
    if (error) lean_die("transaction: error %d", error);
    u->count += u->prepared;
    u->prepared = !u->prepared;
    next_request(c, u, arg);
    return done;
}

static void run_txn(const struct options *o) {
    struct lean l;
    struct lean_result result;
    lean_open(&l, o->port, o->connections);
    lean_make_topic(&l, o->topic);
    int64_t before = lean_end(&l, o->topic, 0);
    struct txn_user *users = calloc((size_t)o->connections, sizeof *users);
    if (!users) lean_die("no memory");
    for (int i = 0; i < o->connections; i++) {
        users[i].number = i;
        hf_buf_init(&users[i].request, 1 << 20);
        l.connections[i].user = &users[i];
        next_request(&l.connections[i], &users[i], o);
    }
    double cpu = o->pid ? lean_cpu_of(o->pid) : 0, start = lean_now();
    lean_run(&l,
             &(struct lean_load){
                 .window = 1, .seconds = o->seconds, .on_answer = decided, .arg = (void *)(uintptr_t)o},
             &result);
    while (lean_end(&l, o->topic, 0) - before < result.messages) {
        if (lean_now() - start > o->seconds + 60) lean_die("committed messages are missing");
        usleep(2000);
    }
    if (o->pid) cpu = lean_cpu_of(o->pid) - cpu;
    report("txn", o, &result, cpu, (double)result.messages * o->size);
    for (int i = 0; i < o->connections; i++) hf_buf_fini(&users[i].request);
    free(users);
    lean_close(&l);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(const struct options *o);
    } modes[] = {{"produce", run_produce},
                 {"fetch", run_fetch},
                 {"delay", run_delay},
                 {"pending", run_pending},
                 {"txn", run_txn}};
    static const struct option flags[] = {{"port", 1, NULL, 'p'},        {"topic", 1, NULL, 't'},
                                          {"connections", 1, NULL, 'c'}, {"window", 1, NULL, 'w'},
                                          {"records", 1, NULL, 'r'},     {"size", 1, NULL, 's'},
                                          {"acks", 1, NULL, 'a'},        {"seconds", 1, NULL, 'S'},
                                          {"pid", 1, NULL, 'P'},         {"bytes", 1, NULL, 'b'},
                                          {"delay", 1, NULL, 'd'},       {"messages", 1, NULL, 'm'},
                                          {"from", 1, NULL, 'F'},        {"to", 1, NULL, 'T'},
                                          {"first", 1, NULL, 'i'},       {"ids", 1, NULL, 'I'},
                                          {"at", 1, NULL, 'A'},          {"floor", 0, NULL, 'f'},
                                          {"partitions", 1, NULL, 'N'},  {0}};
    struct options o = {.connections = 64,
                        .window = 1,
                        .records = 1,
                        .size = 1024,
                        .acks = -1,
                        .bytes = 1 << 20,
                        .seconds = 10,
                        .delay = 1000,
                        .partitions = 1,
                        .from = 3600000,
                        .to = 86400000,
                        .topic = "bench"};
    for (int flag; (flag = getopt_long(argc, argv, "", flags, NULL)) != -1;) {
        switch (flag) {
        case 'p': o.port = atoi(optarg); break;
        case 't': o.topic = optarg; break;
        case 'c': o.connections = atoi(optarg); break;
        case 'w': o.window = atoi(optarg); break;
        case 'r': o.records = atoi(optarg); break;
        case 's': o.size = atoi(optarg); break;
        case 'a': o.acks = atoi(optarg); break;
        case 'S': o.seconds = atof(optarg); break;
        case 'P': o.pid = atol(optarg); break;
        case 'b': o.bytes = atoi(optarg); break;
        case 'd': o.delay = atol(optarg); break;
        case 'f': o.floor = true; break;
        case 'm': o.messages = atol(optarg); break;
        case 'F': o.from = atol(optarg); break;
        case 'T': o.to = atol(optarg); break;
        case 'i': o.first = atol(optarg); break;
        case 'I': o.ids = atol(optarg); break;
        case 'N': o.partitions = atoi(optarg); break;
        case 'A': o.at = atol(optarg); break;
        default: return 2;
        }
    }
    for (size_t i = 0; optind + 1 == argc && i < sizeof modes / sizeof modes[0]; i++) {
        if (strcmp(argv[optind], modes[i].name) != 0) continue;
        modes[i].run(&o);
        return 0;
    }
    fputs("usage: load produce|fetch|delay|pending|txn --port P [--topic T] …: see the top of bench/load.c\n",
          stderr);
    return 2;
}
