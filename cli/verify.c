/* holdfast verify: reads a data folder that nobody serves, and says what is damaged.
 *
 *     holdfast verify --data DIR
 *     holdfast verify --data DIR --salvage
 *     holdfast verify --data DIR --adopt FOLDER [--adopt FOLDER]...
 *
 * The store's own start and scrubber run on the folder, with one difference: what they write stays in memory
 * (env/overlay.h). So it is found what a server would find, and nothing is changed. One line on stdout for each
 * damage, and one at the end:
 *
 *     damaged file=topics/orders-0/00000000000000000000.log byte=5120 offset=71 what="..."
 *     rebuilt file=...     what a server makes again at its next start: nothing is lost
 *
 * --salvage cuts what is damaged out of the partitions, so that the rest is served again (store/log/salvage.c), and
 * says what is gone:
 *
 *     lost topic=orders partition=0 from=71 to=74      offsets 71, 72 and 73
 *     given_up what="run/0000000000000007" because="..."
 *
 * A folder with which a server does not start is first brought to one with which it does (store/log/rescue.c); what
 * it could not rely on is given up. Of all that is changed or left out a copy stays in DIR/salvaged/<n>.
 *
 * --adopt copies what a Kafka broker left in FOLDER, which is named <topic>-<partition>, into the store as a topic
 * that is not there yet, at the same offsets; given again for each partition. FOLDER is only read, a store is made in
 * DIR if there is none. The topic keeps everything (retention.ms and retention.bytes are -1) until it is told otherwise.
 * What did not end with status 0 leaves a topic that is to be deleted.
 *
 * Exit status: 0 all is right, 1 something is not, or could not be read or done, 2 wrong usage. */
#include "common.h"
#include "env/overlay.h"
#include "env/posix.h"
#include "store/log/log.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { FOLDERS_MAX = 10000 };

struct verify_command {
    const char *data;
    const char *folders[FOLDERS_MAX]; /* --adopt */
    size_t folder_count;
    bool salvage;
    uint64_t damaged, rebuilt, lost, given_up;
    bool silent; /* damage is not printed */
};

static const struct hf_option rows[] = {
    {"data", HF_OPTION_TEXT, offsetof(struct verify_command, data), .value = "DIR",
     .help = "the data folder"},
    {"salvage", HF_OPTION_SWITCH, offsetof(struct verify_command, salvage), .fallback = "false",
     .help = "cut out what is damaged: it is lost for good, and told"},
};
static const struct hf_options options = {"verify", rows, sizeof rows / sizeof *rows};

static void print_damage(void *arg, const struct log_damage *d) {
    struct verify_command *c = arg;
    if (d->rebuilt)
        c->rebuilt++;
    else
        c->damaged++;
    if (c->silent) return;
    (void)printf("%s file=%s byte=%" PRIu64, d->rebuilt ? "rebuilt" : "damaged", d->file, d->byte);
    if (d->offset >= 0) (void)printf(" offset=%" PRId64, d->offset);
    (void)printf(" what=\"%s\"\n", d->what);
}

/* Everything that a start and the scrubber look at. */
static enum hf_err look(struct verify_command *c, struct hf_env *env) {
    struct log_options o = {
        .journal_file_bytes = 1 << 20, .scrub_interval_ms = -1, .damaged = print_damage, .damaged_arg = c};
    struct log *l;
    struct log_stats stats;
    enum hf_err e = log_open(env, &o, &l);
    if (e) return e;
    e = log_scrub(l);
    log_stats(l, &stats);
    (void)printf("read topics=%" PRIu64 " partitions=%" PRIu64 " segments=%" PRIu64 " bytes=%" PRIu64
                 " damaged=%" PRIu64 " rebuilt=%" PRIu64 "\n",
                 stats.topics, stats.partitions, stats.segments, stats.scrubbed_bytes, c->damaged,
                 c->rebuilt);
    log_abandon(l);
    return e;
}

/* One of these files is there, whatever became of the others. */
static bool is_store(struct hf_env *env) {
    static const char *const files[] = {"superblock-0", "superblock-1", "snapshot-0", "snapshot-1",
                                        "topics/__holdfast_state-0/partition.metadata"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct hf_file *f;
        if (env_open(env, files[i], ENV_READ, &f)) continue;
        env_close(f);
        return true;
    }
    return false;
}

static int no_store(const struct verify_command *c) {
    return cli_usage("verify", "%s is no data folder: it has neither superblocks nor snapshots", c->data);
}

static int verify(struct verify_command *c) {
    struct hf_env *disk = NULL, *copy = NULL;
    struct stat st;
    if (stat(c->data, &st) || !S_ISDIR(st.st_mode)) return cli_usage("verify", "%s is no folder", c->data);
    enum hf_err e = env_posix_open(&(struct env_posix_options){.root = c->data}, &disk);
    if (!e && !is_store(disk)) {
        hf_env_close(disk);
        return no_store(c);
    }
    if (!e) e = env_overlay_open(disk, &copy);
    if (!e) e = look(c, copy);
    hf_env_close(copy);
    hf_env_close(disk);
    if (e == HF_ECORRUPT && c->damaged > 0)
        (void)printf("refused: a server does not start with this. holdfast verify --salvage gives up what is "
                     "damaged, keeps a copy of it, and says what is lost by it\n");
    else if (e)
        return cli_fail("verify", e);
    return c->damaged + c->rebuilt > 0 ? CLI_FAILED : CLI_DONE;
}

/* ---- --salvage ---- */

static void print_lost(void *arg, const struct log_lost *x) {
    struct verify_command *c = arg;
    c->lost += (uint64_t)(x->to - x->from);
    (void)printf("lost topic=%s partition=%d from=%" PRId64 " to=%" PRId64 "\n", x->topic, (int)x->partition,
                 x->from, x->to);
}

static void print_given_up(void *arg, const char *file, const char *what) {
    struct verify_command *c = arg;
    c->given_up++;
    (void)printf("given_up what=\"%s\" because=\"%s\"\n", file, what);
}

/* Whether a start would be refused for damage: tried on a copy in memory. */
static enum hf_err is_refused(struct verify_command *c, bool *refused) {
    struct hf_env *disk = NULL, *copy = NULL; /* with a lock of its own */
    struct log_options o = {
        .journal_file_bytes = 1 << 20, .scrub_interval_ms = -1, .damaged = print_damage, .damaged_arg = c};
    struct log *l;
    enum hf_err e = env_posix_open(&(struct env_posix_options){.root = c->data}, &disk);
    if (!e) e = env_overlay_open(disk, &copy);
    c->silent = true;
    if (!e) e = log_open(copy, &o, &l);
    c->silent = false;
    if (!e) log_abandon(l);
    hf_env_close(copy);
    hf_env_close(disk);
    *refused = e == HF_ECORRUPT;
    return *refused ? HF_OK : e;
}

static int salvage(struct verify_command *c) {
    struct hf_env *env;
    struct stat st;
    struct log *l = NULL;
    struct log_options o = {.scrub_interval_ms = -1, .damaged = print_damage, .damaged_arg = c};
    struct log_rescue rescue = {.lost = print_lost, .gave_up = print_given_up, .arg = c};
    bool refused = false;
    if (stat(c->data, &st)) return cli_usage("verify", "%s is no folder", c->data);
    enum hf_err e = env_posix_open(&(struct env_posix_options){.root = c->data}, &env), closed = HF_OK;
    if (e) return cli_fail("verify", e);
    bool store = is_store(env);
    hf_env_close(env);
    if (!store) return no_store(c);
    e = is_refused(c, &refused);
    if (!e) e = env_posix_open(&(struct env_posix_options){.root = c->data}, &env);
    if (e) return cli_fail("verify", e);
    if (refused) o.rescue = &rescue;
    e = log_open(env, &o, &l);
    if (!e) e = log_salvage(l, &rescue);
    if (!e) e = log_scrub(l); /* what can be made again is */
    if (l) closed = log_close(l);
    hf_env_close(env);
    if (!e) e = closed;
    (void)printf("salvaged lost=%" PRIu64 " given_up=%" PRIu64 "\n", c->lost, c->given_up);
    return e ? cli_fail("verify", e) : CLI_DONE;
}

/* ---- --adopt ---- */

/* A folder's last part as topic and partition. */
static bool name_of(const char *folder, hf_str *topic, int32_t *partition) {
    size_t n = strlen(folder), from;
    int64_t number;
    while (n > 0 && folder[n - 1] == '/') n--;
    for (from = n; from > 0 && folder[from - 1] != '/'; from--) {}
    const char *dash = memrchr(folder + from, '-', n - from);
    if (!dash || dash == folder + from) return false;
    hf_str digits = hf_str_make(dash + 1, n - (size_t)(dash + 1 - folder));
    if (hf_str_int(digits, &number) || number < 0 || number >= FOLDERS_MAX) return false;
    *topic = hf_str_make(folder + from, (size_t)(dash - folder) - from);
    *partition = (int32_t)number;
    return true;
}

/* Of a topic: one more than the highest partition given. 0: a folder has no such name. */
static int32_t partitions_of(const struct verify_command *c, hf_str topic) {
    int32_t most = 0;
    for (size_t i = 0; i < c->folder_count; i++) {
        hf_str name;
        int32_t number;
        if (!name_of(c->folders[i], &name, &number)) return 0;
        if (hf_str_eq(name, topic) && number >= most) most = number + 1;
    }
    return most;
}

struct outcome {
    bool ended;
    enum hf_err e;
};

static void created(void *arg, enum hf_err e) {
    *(struct outcome *)arg = (struct outcome){true, e};
}

/* The topic, made with the first of its folders; one that was there before is refused. */
static enum hf_err topic_for(const struct verify_command *c, size_t i, struct log *l, struct hf_env *env,
                             hf_str topic) {
    for (size_t before = 0; before < i; before++) {
        hf_str name;
        int32_t number;
        if (name_of(c->folders[before], &name, &number) && hf_str_eq(name, topic)) return HF_OK;
    }
    struct outcome o = {0};
    struct log_topic_config config = {.partitions = partitions_of(c, topic)};
    log_settings_put(&config.settings, LOG_RETENTION_MS, -1); /* old records are what it is about */
    log_settings_put(&config.settings, LOG_RETENTION_BYTES, -1);
    enum hf_err e = log_topic_create(l, topic, &config, created, &o);
    while (!e && !o.ended) {
        (void)log_step(l);
        (void)env_wait(env);
        e = log_failed(l);
    }
    return e ? e : o.e;
}

static enum hf_err adopt_one(const struct verify_command *c, size_t i, struct log *l, struct hf_env *env) {
    struct hf_env *folder = NULL;
    struct log_adopted got = {0};
    hf_str topic;
    int32_t number;
    struct stat st;
    if (!name_of(c->folders[i], &topic, &number)) return HF_EINVAL;
    if (stat(c->folders[i], &st) || !S_ISDIR(st.st_mode)) return HF_ENOTFOUND;
    enum hf_err e = topic_for(c, i, l, env, topic);
    if (!e) e = env_posix_open(&(struct env_posix_options){.root = c->folders[i]}, &folder);
    if (!e) e = log_adopt(l, log_partition(l, topic, number), folder, &got);
    hf_env_close(folder);
    if (e && got.why)
        (void)printf("damaged file=%s/%s byte=%" PRIu64 " what=\"%s\"\n", c->folders[i], got.file, got.byte,
                     got.why);
    if (!e)
        (void)printf("adopted topic=%.*s partition=%d start=%" PRId64 " end=%" PRId64 " records=%" PRIu64
                     " batches=%" PRIu64 " bytes=%" PRIu64 " left_out=%" PRIu64 "\n",
                     (int)topic.n, topic.p, (int)number, got.start, got.end, got.records, got.batches,
                     got.bytes, got.left_out);
    return e;
}

static int adopt(struct verify_command *c) {
    struct hf_env *env;
    struct log *l = NULL;
    struct log_options o = {.scrub_interval_ms = -1};
    enum hf_err e = env_posix_open(&(struct env_posix_options){.root = c->data}, &env);
    if (e) return cli_fail("verify", e);
    e = log_open(env, &o, &l);
    for (size_t i = 0; !e && i < c->folder_count; i++) {
        e = adopt_one(c, i, l, env);
        if (e) (void)fprintf(stderr, "holdfast verify: %s: %s\n", c->folders[i], hf_err_text(e));
    }
    enum hf_err closed = l ? log_close(l) : HF_OK;
    hf_env_close(env);
    if (closed || (e && !l)) return cli_fail("verify", closed ? closed : e);
    return e ? CLI_FAILED : CLI_DONE;
}

/* ---- the command ---- */

/* Each segment and its indexes is a descriptor. */
static void raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

int cli_verify(int argc, char **argv) {
    static struct verify_command c; /* large; the program runs one command */
    struct hf_config config;
    bool stop;
    if (!cli_take_repeated(&argc, argv, "adopt", c.folders, FOLDERS_MAX, &c.folder_count))
        return cli_usage("verify", "--adopt wants a folder");
    int status = cli_settings(&config, &options, "holdfast verify --data DIR [--salvage | --adopt FOLDER…]",
                              argc, argv, &c, &stop);
    if (!stop && (!c.data || config.rest_count > 0)) {
        status = c.data ? cli_usage("verify", "what is %s?", config.rest[0])
                        : cli_usage("verify", "--data DIR is missing");
        stop = true;
    }
    if (!stop && c.salvage && c.folder_count > 0) {
        status = cli_usage("verify", "--salvage and --adopt are two commands");
        stop = true;
    }
    if (!stop) {
        raise_descriptor_limit();
        status = c.folder_count > 0 ? adopt(&c) : c.salvage ? salvage(&c) : verify(&c);
    }
    hf_config_fini(&config);
    return status;
}
