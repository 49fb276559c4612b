/* Appending in one process, without a network: the log itself against the least that any log could do.
 *
 *     append log   DIR [--seconds 10] [--size 16384]
 *         batches of 16 KiB, acks=1, one partition: checksum looked at, log_append; a step of the loop for 16
 *     append floor DIR [--seconds 10] [--size 16384]
 *         checksum, memcpy into preallocated mapped files
 *
 * Both go through fresh space, 256 MiB a file, and keep the last 8 GiB. Prints one line; max_ms and p999_ms
 * are of one append with its share of the loop, so a stall at a roll or a checkpoint shows there. DIR must be
 * empty. */
#include "base/crc32c.h"
#include "env/posix.h"
#include "store/engine/batch.h"
#include "store/log/log.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { FILE_BYTES = 256 << 20, FILES_KEPT = 32, TURN = 16, BUCKETS = 1 << 16, BUCKET_US = 10 };

static _Noreturn void die(const char *what) {
    fprintf(stderr, "append: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double clock_s(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- latencies, in buckets of 10 us; the last one takes all that is longer ---- */

static uint64_t buckets[BUCKETS], counted;
static double longest_s;

static void note(double s) {
    size_t i = (size_t)(s * 1e6 / BUCKET_US);
    buckets[i < BUCKETS ? i : BUCKETS - 1]++;
    counted++;
    if (s > longest_s) longest_s = s;
}

static double quantile_ms(double q) {
    uint64_t below = 0;
    for (size_t i = 0; i < BUCKETS; i++)
        if ((double)(below += buckets[i]) >= q * (double)counted) return (double)(i + 1) * BUCKET_US / 1000;
    return longest_s * 1000;
}

/* ---- the batch ---- */

static void make_batch(struct batch_builder *b, size_t size, hf_str *out) {
    char value[1024];
    memset(value, 'v', sizeof value);
    batch_builder_init(b, 64 << 20);
    batch_builder_begin(b, (int64_t)(clock_s(CLOCK_REALTIME) * 1000)); /* young: retention.ms takes none */
    do {
        if (batch_builder_add(b, (hf_str){NULL, 0}, hf_str_make(value, sizeof value), NULL, 0)) die("batch");
    } while (b->buf.n + sizeof value + 32 < size);
    if (batch_builder_finish(b, out)) die("batch");
}

/* ---- the two ---- */

struct side {
    void (*open)(const char *dir);
    void (*append)(uint8_t *batch, size_t n);
    void (*turn)(void);
    void (*report)(void);
    void (*close)(void);
};

static struct hf_env *env;
static struct log *store;
static struct log_partition *partition;
static uint64_t answered;

static void created(void *arg, enum hf_err e) {
    if (e) die("topic");
    *(bool *)arg = true;
}

static void appended(void *arg, const struct log_appended *result) {
    (void)arg;
    if (result->e) die("append");
    answered++;
}

static void log_turn(void) {
    env_poll(env);
    log_step(store);
    if (log_failed(store)) die("the log has failed");
}

static void log_begin(const char *dir) {
    bool made = false;
    struct log_topic_config config = {.partitions = 1};
    log_settings_put(&config.settings, LOG_RETENTION_BYTES, (int64_t)FILE_BYTES * FILES_KEPT);
    if (env_posix_open(&(struct env_posix_options){.root = dir}, &env)) die(dir);
    if (log_open(env, &(struct log_options){.retention_check_ms = 1000}, &store)) die("open");
    if (log_topic_create(store, HF_STR("bench"), &config, created, &made)) die("topic");
    while (!made) log_turn();
    partition = log_partition(store, HF_STR("bench"), 0);
}

static void log_one(uint8_t *batch, size_t n) {
    struct batch_info info;
    if (batch_parse(batch, n, &info) || !batch_crc_ok(batch, &info)) die("checksum");
    if (log_append(store, partition, batch, n, LOG_ACK_WRITTEN, appended, NULL)) die("append");
}

static void log_report(void) {
    struct log_stats s;
    log_stats(store, &s);
    printf(" checkpoints=%llu rolls=%llu", (unsigned long long)s.checkpoints, (unsigned long long)s.rolls);
}

static void log_end(void) {
    if (log_close(store)) die("close");
    hf_env_close(env);
}

static const char *folder;
static uint8_t *map;
static size_t map_at = FILE_BYTES;
static int files;

static void floor_path(int number, char *out, size_t n) {
    snprintf(out, n, "%s/%d", folder, number);
}

static void floor_file(void) {
    char path[4096];
    if (map) munmap(map, FILE_BYTES);
    floor_path(files - FILES_KEPT, path, sizeof path);
    if (files >= FILES_KEPT) unlink(path);
    floor_path(files++, path, sizeof path);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || posix_fallocate(fd, 0, FILE_BYTES)) die(path);
    map = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) die("mmap");
    close(fd);
    map_at = 0;
}

static void floor_begin(const char *dir) {
    folder = dir;
}

static void floor_one(uint8_t *batch, size_t n) {
    if (map_at + n > FILE_BYTES) floor_file();
    hf_put_be32(batch, hf_crc32c(0, batch + 4, n - 4));
    memcpy(map + map_at, batch, n);
    map_at += n;
    answered++;
}

static void floor_turn(void) {}

static void floor_report(void) {
    printf(" files=%d", files);
}

static void floor_end(void) {
    char path[4096];
    for (int i = files > FILES_KEPT ? files - FILES_KEPT : 0; i < files; i++) {
        floor_path(i, path, sizeof path);
        unlink(path);
    }
}

static const struct side sides[] = {{log_begin, log_one, log_turn, log_report, log_end},
                                    {floor_begin, floor_one, floor_turn, floor_report, floor_end}};

static void run(const struct side *side, double seconds, uint8_t *batch, size_t n) {
    double began = clock_s(CLOCK_MONOTONIC), cpu = clock_s(CLOCK_PROCESS_CPUTIME_ID), now = began;
    uint64_t sent = 0;
    while (now - began < seconds) {
        double before = now;
        for (int i = 0; i < TURN; i++) side->append(batch, n);
        side->turn();
        sent += TURN;
        now = clock_s(CLOCK_MONOTONIC);
        note(now - before);
    }
    double gb = (double)sent * (double)n / 1e9;
    cpu = clock_s(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("seconds=%.2f gb_per_second=%.3f cpu_s_per_gb=%.3f p50_ms=%.2f p999_ms=%.2f max_ms=%.2f (of %d "
           "appends)",
           now - began, gb / (now - began), cpu / gb, quantile_ms(0.5), quantile_ms(0.999), longest_s * 1000,
           TURN);
}

int main(int argc, char **argv) {
    static const struct option flags[] = {{"seconds", 1, NULL, 'S'}, {"size", 1, NULL, 's'}, {0}};
    double seconds = 10;
    size_t size = 16384;
    for (int flag; (flag = getopt_long(argc, argv, "", flags, NULL)) != -1;) {
        if (flag == 'S') seconds = atof(optarg);
        if (flag == 's') size = strtoul(optarg, NULL, 10);
        if (flag == '?') return 2;
    }
    const struct side *side = NULL;
    if (optind + 2 == argc && strcmp(argv[optind], "log") == 0) side = &sides[0];
    if (optind + 2 == argc && strcmp(argv[optind], "floor") == 0) side = &sides[1];
    if (!side) {
        fputs("usage: append log|floor DIR [--seconds N] [--size BYTES]\n", stderr);
        return 2;
    }
    struct batch_builder builder;
    hf_str batch;
    make_batch(&builder, size, &batch);
    side->open(argv[optind + 1]);
    run(side, seconds, (uint8_t *)(uintptr_t)batch.p, batch.n);
    side->report();
    putchar('\n');
    side->close();
    batch_builder_fini(&builder);
    return 0;
}
