/* A folder without meta becomes a store. Meta is written last, by recovery: until then making starts over each
 * time, because an entry left by an earlier try may be readable and lost, if its sync failed. */
#include "log_internal.h"

#include <stdio.h>

struct wipe {
    struct log *l;
    const char *dir;
    int depth; /* of folders below */
    enum hf_err e;
};

static bool wipe_one(void *arg, const char *name) {
    struct wipe *w = arg;
    char path[LOG_PATH * 2];
    snprintf(path, sizeof path, "%s/%s", w->dir, name);
    struct wipe below = {w->l, path, w->depth - 1, HF_OK};
    if (w->depth == 0) {
        w->e = env_unlink(w->l->env, path);
    } else {
        w->e = env_list(w->l->env, path, wipe_one, &below);
        if (!w->e) w->e = below.e;
        if (!w->e) w->e = env_rmdir(w->l->env, path);
    }
    return w->e == HF_OK;
}

static enum hf_err make_dir(struct log *l, const char *path, int depth) {
    struct wipe w = {l, path, depth, HF_OK};
    enum hf_err e = env_list(l->env, path, wipe_one, &w);
    if (!e) e = w.e;
    if (!e) e = env_rmdir(l->env, path);
    if (e && e != HF_ENOTFOUND) return e;
    return env_mkdir(l->env, path);
}

static enum hf_err make_file(struct log *l, const char *path) {
    static const uint8_t sector[HF_SECTOR]; /* so that later writes need no room */
    struct hf_file *f;
    enum hf_err e = env_unlink(l->env, path);
    if (!e || e == HF_ENOTFOUND) e = env_open(l->env, path, ENV_CREATE, &f);
    if (e) return e;
    e = env_write(f, 0, sector, sizeof sector);
    if (!e) e = env_sync_wait(l->env, f, NULL);
    env_close(f);
    return e;
}

static bool is_foreign(void *arg, const char *name) {
    bool *foreign = arg;
    if (strcmp(name, LOG_STATE_TOPIC "-0") != 0) *foreign = true;
    return !*foreign;
}

enum hf_err store_make(struct log *l) {
    static const char *const dirs[] = {"journal", "runs", "topics", "trash"}; /* the last two hold folders */
    static const char *const files[] = {"superblock-0", "superblock-1", "snapshot-0", "snapshot-1"};
    bool foreign = false;
    l->opening = "making a new store";
    enum hf_err e = env_list(l->env, "topics", is_foreign, &foreign);
    if (e == HF_ENOTFOUND) e = HF_OK;
    if (!e && foreign) {
        const char *what = "the file is missing, but topics/ has folders";
        damage_tell(l, &(struct log_damage){.file = "meta", .offset = -1, .what = what});
        return HF_ECORRUPT;
    }
    for (int i = 0; !e && i < 4; i++) e = make_dir(l, dirs[i], i < 2 ? 0 : 1);
    for (int i = 0; !e && i < 4; i++) e = make_file(l, files[i]);
    struct hf_file *metadata = NULL;
    if (!e) e = topic_folder_create(l->state.p, &metadata);
    if (metadata) {
        if (!e) e = env_sync_wait(l->env, metadata, NULL);
        env_close(metadata);
    }
    if (!e) e = env_sync_wait(l->env, NULL, "topics/" LOG_STATE_TOPIC "-0");
    if (!e) e = env_sync_wait(l->env, NULL, "topics");
    if (!e) e = env_sync_wait(l->env, NULL, ".");
    return e;
}
