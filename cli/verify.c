/* holdfast verify: reads a data folder that nobody serves, and says what is damaged.
 *
 *     holdfast verify DATA
 *
 * The store's own start and scrubber run on the folder, with one difference: what they write stays in memory
 * (env/overlay.h). So it is found what a server would find, and nothing is changed. One line on stdout for
 * each damage: damaged file=topics/orders-0/00000000000000000000.log byte=5120 offset=71 what="…" rebuilt
 * file=…     what a server makes again at its next start: nothing is lost and one at the end. Exit status: 0
 * all is right, 1 something is not, or could not be read, 2 wrong usage. */
#include "common.h"
#include "env/overlay.h"
#include "env/posix.h"
#include "store/log/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>

struct verify_command {
    const char *data;
    uint64_t damaged, rebuilt;
};

static const struct hf_options options = {"verify", NULL, 0};

static void print_damage(void *arg, const struct log_damage *d) {
    struct verify_command *c = arg;
    if (d->rebuilt)
        c->rebuilt++;
    else
        c->damaged++;
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

static bool is_store(struct hf_env *env) {
    struct hf_file *f;
    enum hf_err e = env_open(env, "superblock-0", ENV_READ, &f);
    if (!e) env_close(f);
    return !e;
}

static int verify(struct verify_command *c) {
    struct hf_env *disk = NULL, *copy = NULL;
    struct stat st;
    if (stat(c->data, &st) || !S_ISDIR(st.st_mode)) return cli_usage("verify", "%s is no folder", c->data);
    enum hf_err e = env_posix_open(&(struct env_posix_options){.root = c->data}, &disk);
    if (!e && !is_store(disk)) {
        hf_env_close(disk);
        return cli_usage("verify", "%s is no data folder: it has no superblock-0", c->data);
    }
    if (!e) e = env_overlay_open(disk, &copy);
    if (!e) e = look(c, copy);
    hf_env_close(copy);
    hf_env_close(disk);
    if (e == HF_ECORRUPT && c->damaged > 0)
        (void)printf("refused: a server does not start with this\n");
    else if (e)
        return cli_fail("verify", e);
    return c->damaged + c->rebuilt > 0 ? CLI_FAILED : CLI_DONE;
}

/* Each segment and its indexes is a descriptor. */
static void raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

int cli_verify(int argc, char **argv) {
    struct hf_config config;
    struct verify_command c = {0};
    bool stop;
    int status = cli_settings(&config, &options, "holdfast verify DATA", argc, argv, &c, &stop);
    if (!stop && config.rest_count != 1) {
        status = cli_usage("verify", "the data folder is missing");
        stop = true;
    }
    if (!stop) {
        c.data = config.rest[0];
        raise_descriptor_limit();
        status = verify(&c);
    }
    hf_config_fini(&config);
    return status;
}
