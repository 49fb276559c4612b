/* DATA/LOCK and DATA/meta: who serves, and what this folder is.
 *
 *     format=3
 *     cluster.id=<22 characters>
 *     node.id=1
 *     crc32c=<8 hex digits over the lines above>
 *
 * meta is written again by each start, since its name may be readable and lost if a sync failed, and last
 * when a store is made: a folder without it is not a store yet, and whatever a crash left of the making is
 * made again. */
#include "log_internal.h"

#include "base/crc32c.h"

#include <stdio.h>

enum { FORMAT = 3, META_MAX = 512 };

enum hf_err meta_lock(struct log *l) {
    int64_t pid = 0;
    enum hf_err e = env_lock(l->env, "LOCK", &pid);
    if (e == HF_EAGAIN)
        env_log(l->env, ENV_ERROR, "data_locked", "pid=%lld hint=\"another server uses this folder\"",
                (long long)pid);
    return e;
}

static hf_str line_value(hf_str text, const char *key) {
    size_t k = strlen(key);
    const char *p = text.p, *end = text.p + text.n;
    while (p < end) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        if (!stop) stop = end;
        if ((size_t)(stop - p) > k && memcmp(p, key, k) == 0 && p[k] == '=')
            return hf_str_make(p + k + 1, (size_t)(stop - p) - k - 1);
        p = stop + 1;
    }
    return (hf_str){0};
}

/* Its last line is right for the lines above it. */
static bool sum_ok(hf_str text) {
    char line[32];
    hf_str last = line_value(text, "crc32c");
    if (!last.p) return false;
    size_t n = (size_t)(last.p - text.p) - strlen("crc32c=");
    snprintf(line, sizeof line, "crc32c=%08x\n", (unsigned)hf_crc32c(0, text.p, n));
    return text.n == n + strlen(line) && memcmp(text.p + n, line, strlen(line)) == 0;
}

static enum hf_err understand(struct log *l, hf_str text) {
    int64_t format = 0;
    hf_str id = line_value(text, "cluster.id");
    enum hf_err e = hf_str_int(line_value(text, "format"), &format);
    bool summed = line_value(text, "crc32c").p || format == FORMAT; /* format 1 was not */
    if (e || id.n == 0 || id.n >= sizeof l->cluster_id || (summed && !sum_ok(text))) {
        const char *what = "no format and cluster id, or not what its checksum says";
        damage_tell(l, &(struct log_damage){.file = "meta", .offset = -1, .what = what});
        return HF_ECORRUPT;
    }
    if (format != FORMAT) {
        env_log(l->env, ENV_ERROR, "format_unknown", "file=meta format=%lld understood=%d", (long long)format,
                FORMAT);
        return HF_EUNSUPPORTED;
    }
    memcpy(l->cluster_id, id.p, id.n);
    return HF_OK;
}

enum hf_err meta_read(struct log *l) {
    struct hf_file *f;
    enum hf_err e = env_open(l->env, "meta", ENV_READ, &f);
    if (e) return e;
    char text[META_MAX];
    size_t n;
    e = env_read(f, 0, text, sizeof text, &n);
    env_close(f);
    return e ? e : understand(l, hf_str_make(text, n));
}

enum hf_err meta_write(struct log *l) {
    uint8_t id[16];
    hf_put_be64(id, env_random(l->env));
    hf_put_be64(id + 8, env_random(l->env));
    if (!l->cluster_id[0]) base64url(id, l->cluster_id);
    char text[META_MAX];
    int n = snprintf(text, sizeof text, "format=%d\ncluster.id=%s\nnode.id=1\n", FORMAT, l->cluster_id);
    uint32_t crc = hf_crc32c(0, text, (size_t)n);
    n += snprintf(text + n, sizeof text - (size_t)n, "crc32c=%08x\n", (unsigned)crc);
    struct hf_file *f;
    enum hf_err e = env_open(l->env, "meta.new", ENV_CREATE, &f);
    if (e) return e;
    e = env_truncate(f, 0);
    if (!e) e = env_write(f, 0, text, (size_t)n);
    if (!e) e = env_sync_wait(l->env, f, NULL);
    env_close(f);
    if (!e) e = env_rename(l->env, "meta.new", "meta");
    if (!e) e = env_sync_wait(l->env, NULL, ".");
    return e;
}
