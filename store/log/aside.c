/* Setting aside: what a salvage changes, cuts or leaves out stays somewhere else as it was.
 *
 *     salvaged/<n>/topics+orders-0+00000000000000000000.log       a copy, or the file itself under another name
 *
 * One folder for each salvage, made when the first thing goes there. A name is the path with '+' for '/', which no
 * topic's name has. Copies are synced, and their names, before what they are copies of is touched. Nobody reads
 * them but people; who has looked at them removes the folder. */
#include "log_internal.h"

#include <stdio.h>
#include <stdlib.h>

enum { PIECE = 1 << 20, FOLDERS_MAX = 100000 };

static enum hf_err make_folder(struct log *l) {
    struct rescue *r = &l->rescue;
    if (r->folder[0]) return HF_OK;
    enum hf_err e = env_mkdir(l->env, "salvaged");
    if (e == HF_EEXIST) e = HF_OK;
    if (!e) e = env_sync_wait(l->env, NULL, ".");
    char path[sizeof r->folder];
    for (int i = 1; !e && i < FOLDERS_MAX; i++) {
        snprintf(path, sizeof path, "salvaged/%d", i);
        e = env_mkdir(l->env, path);
        if (e != HF_EEXIST) break;
        e = i + 1 < FOLDERS_MAX ? HF_OK : HF_ELIMIT;
    }
    if (!e) e = env_sync_wait(l->env, NULL, "salvaged");
    if (!e) memcpy(r->folder, path, sizeof path);
    return e;
}

static enum hf_err place_for(struct log *l, const char *path, char out[LOG_PATH * 2]) {
    enum hf_err e = make_folder(l);
    if (e) return e;
    int n = snprintf(out, LOG_PATH * 2, "%s/", l->rescue.folder);
    snprintf(out + n, LOG_PATH * 2 - (size_t)n, "%s", path);
    for (char *c = out + n; *c; c++)
        if (*c == '/') *c = '+';
    return HF_OK;
}

static enum hf_err copy_bytes(struct hf_file *from, struct hf_file *to) {
    uint8_t *piece = malloc(PIECE);
    uint64_t at = 0;
    size_t got = PIECE;
    enum hf_err e = piece ? HF_OK : HF_ENOMEM;
    for (; !e && got == PIECE; at += got) {
        e = env_read(from, at, piece, PIECE, &got);
        if (!e && got > 0) e = env_write(to, at, piece, got);
    }
    free(piece);
    return e;
}

/* The first copy counts: what is copied again in the same salvage has been changed by it since. */
enum hf_err aside_copy(struct log *l, const char *path) {
    char place[LOG_PATH * 2];
    struct hf_file *from, *to = NULL;
    enum hf_err e = env_open(l->env, path, ENV_READ, &from);
    if (e) return e == HF_ENOTFOUND ? HF_OK : e;
    e = place_for(l, path, place);
    if (!e) e = env_open(l->env, place, ENV_CREATE | ENV_EXCL, &to);
    if (!e) e = copy_bytes(from, to);
    if (!e) e = env_sync_wait(l->env, to, NULL);
    if (!e) e = env_sync_wait(l->env, NULL, l->rescue.folder);
    if (to) env_close(to);
    env_close(from);
    return e == HF_EEXIST ? HF_OK : e;
}

/* Files and folders. The folder that it was in is synced by whoever changes that. */
enum hf_err aside_move(struct log *l, const char *path) {
    char place[LOG_PATH * 2];
    enum hf_err e = place_for(l, path, place);
    if (!e) e = env_rename(l->env, path, place);
    return e ? e : env_sync_wait(l->env, NULL, l->rescue.folder);
}
