/* Any damage to any file is found and named, and nothing that is damaged is given out as good.
 *
 *     any_damage [--seed S] [--count N] [--all] [--crashed]
 *
 * A store with topics, state, a run and many segments is stopped cleanly, or with --crashed killed. Then one
 * damage after the other is done to it, each in an overlay that is thrown away: one bit flipped, a file cut,
 * extended or removed, two segments swapped, both superblocks or both snapshots damaged. N random ones by
 * default; --all flips every bit of every file. The store is opened, scrubbed, and read to its end. What must
 * hold:
 *
 *   D1  something was told, or the start was refused with something told
 *   D2  of a flipped, cut or extended file, that very file was named
 *   D3  every batch, state key and run that is given out is what it was
 *   D4  if only things that can be made again were told, nothing is missing
 *   D5  damage to indexes, manifests and the like loses nothing
 *   D6  after a salvage nothing is damaged any more, and exactly those batches are missing that it told as lost
 *   D7  a start that was refused succeeds when what is damaged is given up, and all is there that was not told
 *   D8  what a salvage changes or leaves out lies in salvaged/ as it was, but for what can be made again
 *
 * D1 and D2 leave out bytes that mean nothing: LOCK, journal files after a clean stop, what lies behind the
 * end of a snapshot. After a kill a damage may pass for a torn tail and need not be found: then D4 and D5
 * ask for what was answered as durable, and D6 is left out. */
#include "world.h"

#include "env/overlay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILES = 256, PATH = 300 };

static bool crashed; /* the store that is damaged was */

/* ---- files ---- */

static bool begins(const char *s, const char *with) {
    return strncmp(s, with, strlen(with)) == 0;
}
static bool ends(const char *s, const char *with) {
    size_t n = strlen(s), k = strlen(with);
    return n >= k && strcmp(s + n - k, with) == 0;
}

static struct files {
    char path[FILES][PATH];
    uint64_t size[FILES];
    size_t count;
    struct hf_env *env;
    const char *folder;
} files;

static bool note_file(void *arg, const char *name) {
    struct files *x = arg;
    const char *folder = x->folder;
    char path[PATH];
    snprintf(path, sizeof path, "%s%s%s", folder, *folder ? "/" : "", name);
    x->folder = path;
    if (env_list(x->env, path, note_file, x) == HF_OK) {
        x->folder = folder;
        return true;
    }
    x->folder = folder;
    struct hf_file *f;
    assert_true(x->count < FILES);
    memcpy(x->path[x->count], path, PATH);
    assert_int_equal(env_open(x->env, path, ENV_READ, &f), HF_OK);
    assert_int_equal(env_size(f, &x->size[x->count++]), HF_OK);
    env_close(f);
    return true;
}

/* What lies behind it was never anything, or is of an earlier one. */
static uint64_t snapshot_size(struct hf_env *env, char parity) {
    char path[] = "superblock-?";
    struct hf_file *f;
    uint8_t sector[HF_SECTOR];
    size_t got;
    path[sizeof path - 2] = parity;
    assert_int_equal(env_open(env, path, ENV_READ, &f), HF_OK);
    assert_int_equal(env_read(f, 0, sector, sizeof sector, &got), HF_OK);
    env_close(f);
    return hf_get_be64(sector + 40);
}

static void list_files(struct hf_env *env) {
    files.env = env;
    files.folder = "";
    files.count = 0;
    assert_int_equal(env_list(env, ".", note_file, &files), HF_OK);
    for (size_t i = 0; i < files.count; i++) {
        const char *path = files.path[i];
        if (begins(path, "snapshot-")) files.size[i] = snapshot_size(env, path[strlen("snapshot-")]);
    }
}

/* ---- damages ---- */

enum kind { FLIP, CUT, EXTEND, REMOVE, SWAP, BOTH, KINDS };
static const char *const kind_names[KINDS] = {"flip", "cut", "extend", "remove", "swap", "both"};

struct damage {
    enum kind kind;
    size_t file, other;
    uint64_t at; /* FLIP: the bit; CUT: the new size; EXTEND: how much more; BOTH: how */
};

static bool means_nothing(const struct damage *d) {
    const char *path = files.path[d->file];
    if (begins(path, "journal/") || strcmp(path, "LOCK") == 0) return true;
    if (d->kind == EXTEND && begins(path, "snapshot-")) return true;
    return d->kind == REMOVE && files.size[d->file] == 0; /* an index without entries */
}

static bool can_be_made_again(const struct damage *d) {
    const char *path = files.path[d->file];
    return ends(path, "index") || ends(path, ".manifest") || ends(path, "-checkpoint");
}

static void put_bytes(struct hf_env *env, const struct damage *d) {
    const char *path = files.path[d->file];
    struct hf_file *f;
    uint8_t byte = 0, more[64];
    size_t got;
    memset(more, 0x5a, sizeof more);
    assert_int_equal(env_open(env, path, ENV_WRITE, &f), HF_OK);
    if (d->kind == FLIP) {
        assert_int_equal(env_read(f, d->at / 8, &byte, 1, &got), HF_OK);
        byte = (uint8_t)(byte ^ 1u << d->at % 8);
        assert_int_equal(env_write(f, d->at / 8, &byte, 1), HF_OK);
    } else if (d->kind == CUT) {
        assert_int_equal(env_truncate(f, d->at), HF_OK);
    } else {
        assert_int_equal(env_write(f, files.size[d->file], more, (size_t)d->at), HF_OK);
    }
    env_close(f);
}

static void do_damage(struct hf_env *env, const struct damage *d) {
    const char *path = files.path[d->file], *other = files.path[d->other];
    if (d->kind == REMOVE) {
        assert_int_equal(env_unlink(env, path), HF_OK);
    } else if (d->kind == SWAP) {
        assert_int_equal(env_rename(env, path, "swapping"), HF_OK);
        assert_int_equal(env_rename(env, other, path), HF_OK);
        assert_int_equal(env_rename(env, "swapping", other), HF_OK);
    } else if (d->kind == BOTH) {
        static const enum kind how[] = {FLIP, CUT, REMOVE};
        struct damage one = {.kind = how[d->at % 3], .file = d->file, .other = d->file};
        one.at = one.kind == FLIP ? d->at % (files.size[d->file] * 8) : 0;
        do_damage(env, &one);
        one.file = one.other = d->other;
        one.at = one.kind == FLIP ? d->at % (files.size[d->other] * 8) : 0;
        do_damage(env, &one);
    } else {
        put_bytes(env, d);
    }
}

/* The other superblock of a superblock, the other snapshot of a snapshot. */
static bool is_pair(size_t a, size_t b) {
    const char *x = files.path[a], *y = files.path[b];
    size_t n = strlen(x) - 1;
    bool kept_twice = begins(x, "superblock-") || begins(x, "snapshot-");
    return kept_twice && a != b && strncmp(x, y, n) == 0 && files.size[a] > 0 && files.size[b] > 0;
}

static uint64_t below(struct hf_sim *sim, uint64_t n) {
    return hf_sim_random(sim) % n;
}

static bool is_segment(size_t i) {
    return ends(files.path[i], ".log");
}

/* Any kind at any file where it can be done. */
static struct damage draw(struct hf_sim *sim) {
    for (;;) {
        struct damage d = {.kind = (enum kind)below(sim, KINDS), .file = (size_t)below(sim, files.count)};
        uint64_t size = files.size[d.file];
        if (d.kind == FLIP && size > 0) {
            d.at = below(sim, size * 8);
            return d;
        }
        if (d.kind == CUT && size > 0) {
            d.at = below(sim, 4) ? below(sim, size) : 0;
            return d;
        }
        if (d.kind == EXTEND) {
            d.at = 1 + below(sim, 64);
            return d;
        }
        if (d.kind == REMOVE) return d;
        d.other = (size_t)below(sim, files.count);
        if (d.kind == BOTH) { /* few files have another: any of them will do */
            while (!is_pair(d.file, d.other)) {
                d.file = (size_t)below(sim, files.count);
                d.other = (size_t)below(sim, files.count);
            }
            d.at = below(sim, 1 << 20);
            return d;
        }
        if (d.kind == SWAP && !crashed && d.other != d.file && is_segment(d.file) && is_segment(d.other))
            return d;
    }
}

/* ---- what was told, and what must hold ---- */

static struct {
    int damages, rebuilt;
    const char *file, *other; /* looked for */
    bool named;
    char first[400];
} told;

static void note(void *arg, const struct log_damage *d) {
    (void)arg;
    told.damages += !d->rebuilt;
    told.rebuilt += d->rebuilt;
    told.named = told.named || strcmp(d->file, told.file) == 0 || strcmp(d->file, told.other) == 0;
    if (!*told.first) snprintf(told.first, sizeof told.first, "%s: %s", d->file, d->what);
}

static int wrong;

static void broken(const struct damage *d, const char *rule, const char *why) {
    wrong++;
    printf("%s %s %s at %llu (of %llu): %s [%s]\n", rule, kind_names[d->kind], files.path[d->file],
           (unsigned long long)d->at, (unsigned long long)files.size[d->file], why, told.first);
}

static void compare(const struct damage *d, const struct world *was, const struct world *is) {
    bool all = strcmp(was->state, is->state) == 0 && was->run_read == is->run_read;
    if (strcmp(was->state, is->state) != 0 && !(crashed && told.damages > 0))
        broken(d, "D3", "the state is another");
    if (is->run_read && is->run != was->run) broken(d, "D3", "a run is another");
    for (int p = 0; p < WORLD_PARTITIONS; p++) {
        for (int64_t i = 0; i < WORLD_OFFSETS; i++) {
            if (is->batch[p][i] != 0 && is->batch[p][i] != was->batch[p][i]) {
                broken(d, "D3", "a batch is another");
                return;
            }
            all = all && is->batch[p][i] == was->batch[p][i];
        }
    }
    if (crashed) {
        all = true;
        for (int p = 0; p < WORLD_PARTITIONS; p++)
            for (int64_t i = 0; i < WORLD_OFFSETS; i++)
                all = all && (!world_durable[p][i] || is->batch[p][i] != 0);
    }
    if (!all && told.damages == 0) broken(d, "D4", "something is missing, and nobody said so");
    if (!all && can_be_made_again(d)) broken(d, "D5", "something is missing");
}

/* ---- what a salvage sets aside ---- */

struct content {
    uint8_t *bytes; /* NULL: no such file */
    size_t n;       /* without the zeros at the end */
};

static struct content content_of(struct hf_env *env, const char *path) {
    struct content c = {0};
    struct hf_file *f;
    uint64_t size;
    if (env_open(env, path, ENV_READ, &f)) return c;
    assert_int_equal(env_size(f, &size), HF_OK);
    c.bytes = malloc((size_t)size + 1);
    assert_non_null(c.bytes);
    assert_int_equal(env_read(f, 0, c.bytes, (size_t)size, &c.n), HF_OK);
    env_close(f);
    while (c.n > 0 && c.bytes[c.n - 1] == 0) c.n--;
    return c;
}

static bool same_content(const struct content *a, const struct content *b) {
    return a->bytes && b->bytes && a->n == b->n && memcmp(a->bytes, b->bytes, a->n) == 0;
}

/* Was it changed, or left out, and is nowhere as it was? */
static void check_set_aside(struct hf_env *env, const struct damage *d, size_t file,
                            const struct content *before) {
    char path[PATH + 16];
    struct content now = content_of(env, files.path[file]);
    int n = snprintf(path, sizeof path, "salvaged/1/%s", files.path[file]);
    for (int i = (int)strlen("salvaged/1/"); i < n; i++)
        if (path[i] == '/') path[i] = '+';
    struct content aside = content_of(env, path);
    if (before->n > 0 && !same_content(before, &now) && !same_content(before, &aside))
        broken(d, "D8", "it is another now, and not set aside");
    free(now.bytes);
    free(aside.bytes);
}

/* ---- salvage ---- */

static bool gone[WORLD_PARTITIONS][WORLD_OFFSETS];

static void note_lost(void *arg, const struct log_lost *x) {
    (void)arg;
    for (int p = 0; p < WORLD_PARTITIONS; p++) {
        if (strcmp(world_places[p].topic, x->topic) != 0 || world_places[p].partition != x->partition)
            continue;
        for (int64_t i = x->from; i < x->to && i < WORLD_OFFSETS; i++) gone[p][i] = true;
    }
}

static void note_given_up(void *arg, const char *file, const char *what) {
    (void)arg;
    (void)file;
    if (!*told.first) snprintf(told.first, sizeof told.first, "given up: %s", what);
}

static void check_salvaged(const struct damage *d, const struct world *was, const struct world *is) {
    for (int p = 0; p < WORLD_PARTITIONS; p++) {
        for (int64_t i = 0; i < WORLD_OFFSETS; i++) {
            uint64_t want = gone[p][i] ? 0 : was->batch[p][i];
            if (is->batch[p][i] == want) continue;
            broken(d, "D6",
                   want == 0         ? "told as lost, but there"
                   : is->batch[p][i] ? "another"
                                     : "missing, not told");
            return;
        }
    }
}

static void try_salvage(struct fixture *f, struct hf_env *copy, const struct damage *d,
                        const struct world *was) {
    static struct world is;
    struct log *l;
    static const struct log_rescue to = {.lost = note_lost, .gave_up = note_given_up};
    struct content before[2] = {content_of(copy, files.path[d->file]),
                                content_of(copy, files.path[d->other])};
    hf_sim_restart(f->sim);
    assert_int_equal(log_open(copy, &f->options, &l), HF_OK);
    memset(gone, 0, sizeof gone);
    enum hf_err e = log_salvage(l, &to), closed = log_close(l);
    if (e || closed) broken(d, "D6", hf_err_text(e ? e : closed));
    /* Every start writes to the state, over what was put behind its end. */
    bool states = begins(files.path[d->file], "topics/__holdfast_state") && d->kind == EXTEND;
    if (!states) check_set_aside(copy, d, d->file, &before[0]);
    if (d->kind == SWAP) check_set_aside(copy, d, d->other, &before[1]);
    free(before[0].bytes);
    free(before[1].bytes);
    hf_sim_restart(f->sim);
    told.damages = 0;
    assert_int_equal(log_open(copy, &f->options, &l), HF_OK);
    if (log_scrub(l) || told.damages > 0) broken(d, "D6", "still damaged");
    world_see(l, &is);
    log_abandon(l);
    check_salvaged(d, was, &is);
}

static bool state_lost;

static void note_rescued(void *arg, const struct log_lost *x) {
    note_lost(arg, x);
    state_lost = state_lost || strcmp(x->topic, "__holdfast_state") == 0;
}

static void check_rescued(const struct damage *d, const struct world *was, const struct world *is) {
    char keys[WORLD_STATE], *rest = keys;
    bool run_given_up = begins(files.path[d->file], "runs/");
    if (!crashed) check_salvaged(d, was, is);
    for (int p = 0; p < WORLD_PARTITIONS; p++) {
        for (int64_t i = 0; i < WORLD_OFFSETS; i++) {
            uint64_t b = is->batch[p][i];
            bool lost = b == 0 && (crashed ? world_durable[p][i] : was->batch[p][i] != 0);
            if ((lost && !gone[p][i]) || (b != 0 && b != was->batch[p][i])) {
                broken(d, "D7", lost ? "a batch is missing, not told" : "a batch is another");
                return;
            }
        }
    }
    if (is->run_read && is->run != was->run) broken(d, "D7", "a run is another");
    if (!state_lost && !run_given_up && strcmp(was->state, is->state) != 0)
        broken(d, "D7", "the state is another");
    memcpy(keys, is->state, sizeof keys);
    for (char *key; (key = strtok_r(rest, " ", &rest));) {
        if (strstr(was->state, key) || begins(key, "topic/")) continue; /* taken back, with other settings */
        broken(d, "D7", key);
    }
}

/* A start is refused: with what must be given up it is not, and all else is there. */
static void try_rescue(struct fixture *f, struct hf_env *copy, const struct damage *d,
                       const struct world *was) {
    static struct world is;
    static const struct log_rescue rescue = {.lost = note_rescued, .gave_up = note_given_up};
    struct log_options o = f->options;
    struct log *l;
    o.rescue = &rescue;
    struct content before[2] = {content_of(copy, files.path[d->file]),
                                content_of(copy, files.path[d->other])};
    memset(gone, 0, sizeof gone);
    state_lost = false;
    hf_sim_restart(f->sim);
    enum hf_err e = log_open(copy, &o, &l);
    if (e) {
        broken(d, "D7", hf_err_text(e));
        return;
    }
    e = log_salvage(l, &rescue);
    enum hf_err closed = log_close(l);
    if (e || closed) broken(d, "D7", hf_err_text(e ? e : closed));
    if (!can_be_made_again(d)) check_set_aside(copy, d, d->file, &before[0]);
    if (d->kind == SWAP || d->kind == BOTH) check_set_aside(copy, d, d->other, &before[1]);
    free(before[0].bytes);
    free(before[1].bytes);
    hf_sim_restart(f->sim);
    told.damages = 0;
    e = log_open(copy, &f->options, &l);
    if (e) {
        broken(d, "D7", "refused again");
        return;
    }
    if (log_scrub(l) || told.damages > 0) broken(d, "D7", "still damaged");
    world_see(l, &is);
    log_abandon(l);
    check_rescued(d, was, &is);
}

static void try_one(struct fixture *f, const struct damage *d, const struct world *was) {
    static struct world is;
    struct hf_env *copy;
    struct log *l;
    memset(&told, 0, sizeof told);
    told.file = files.path[d->file];
    told.other = files.path[d->other];
    assert_int_equal(env_overlay_open(f->env, &copy), HF_OK);
    do_damage(copy, d);
    enum hf_err e = log_open(copy, &f->options, &l);
    if (!e) {
        if (log_scrub(l)) broken(d, "D1", "the scrubber fails");
        world_see(l, &is);
        log_abandon(l);
        compare(d, was, &is);
    } else if (told.damages == 0) {
        broken(d, "D1", hf_err_text(e));
    }
    int damages = told.damages;
    if (!e && !crashed && damages > 0 && (is_segment(d->file) || d->kind == SWAP))
        try_salvage(f, copy, d, was);
    if (e) try_rescue(f, copy, d, was);
    told.damages = damages;
    hf_env_close(copy);
    hf_sim_restart(f->sim);
    if (means_nothing(d) || crashed) return;
    if (told.damages + told.rebuilt == 0) broken(d, "D1", "not found");
    if (d->kind <= EXTEND && told.damages + told.rebuilt > 0 && !told.named)
        broken(d, "D2", "found, but the file was not named");
    if (can_be_made_again(d) && told.damages > 0) broken(d, "D5", "told as lost");
}

static void see_undamaged(struct fixture *f, struct world *was) {
    struct hf_env *copy;
    struct log *l;
    told.file = told.other = "";
    assert_int_equal(env_overlay_open(f->env, &copy), HF_OK);
    assert_int_equal(log_open(copy, &f->options, &l), HF_OK);
    world_see(l, was);
    world_check_filled(was);
    log_abandon(l);
    hf_env_close(copy);
    hf_sim_restart(f->sim);
    assert_int_equal(told.damages + told.rebuilt, 0);
}

int main(int argc, char **argv) {
    static struct world was;
    uint64_t seed = 1, count = 1500;
    bool all = false;
    struct fixture f;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--all") == 0)
            all = true;
        else if (strcmp(argv[i], "--crashed") == 0)
            crashed = true;
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--count") == 0 && i + 1 < argc)
            count = strtoull(argv[++i], NULL, 10);
        else
            return fprintf(stderr, "usage: any_damage [--seed S] [--count N] [--all] [--crashed]\n"), 2;
    }
    world_build(&f, seed, crashed);
    f.options.damaged = note;
    f.options.scrub_interval_ms = -1;
    list_files(f.env);
    see_undamaged(&f, &was);
    uint64_t tried = 0;
    for (; !all && tried < count; tried++) {
        struct damage d = draw(f.sim);
        try_one(&f, &d, &was);
    }
    for (size_t i = 0; all && i < files.count; i++) {
        struct damage d = {.kind = FLIP, .file = i, .other = i};
        if (means_nothing(&d)) continue;
        for (d.at = 0; d.at < files.size[i] * 8; d.at++, tried++) try_one(&f, &d, &was);
        printf("%s: %llu bits\n", files.path[i], (unsigned long long)d.at);
    }
    printf("seed %llu: %llu damages to %zu files, %d wrong\n", (unsigned long long)seed,
           (unsigned long long)tried, files.count, wrong);
    fixture_close(&f);
    return wrong > 0;
}
