/* The names are a tree of nodes, read from below when the overlay is opened; from then on names change only
 * in it. A node of a file knows its path below, how many of the bytes there still count, and the pages that
 * were written since:
 *
 *     byte i of a file    in a page of ours     that
 *                         else, i < below       what the file below has
 *                         else, i < size        0
 *
 * `below` shrinks when the file is cut and never grows again. A file that is unlinked, or replaced by a
 * rename, lives on for those who have it open. */
#include "overlay.h"

#include "env_ops.h"

#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum { PAGE = 4096, PATH_MAX_BYTES = 1024, DEPTH_MAX = 8 };

struct page {
    uint64_t number;
    UT_hash_handle hh;
    uint8_t bytes[PAGE];
};

struct node {
    struct node *parent, *children, *prev, *next; /* children: by name, ascending */
    bool dir;
    uint32_t opens;
    char *source; /* path below; NULL: ours alone */
    uint64_t below, size;
    struct page *pages;
    char name[256];
};

struct overlay_file {
    struct hf_file base;
    struct node *node;
    struct hf_file *under; /* opened by the first read that needs it */
    unsigned flags;
};

struct overlay {
    struct hf_env base;
    struct hf_env *under;
    struct node *root;
    struct env_sync *syncs, *syncs_last;
};

static struct overlay *overlay_of(struct hf_env *env) {
    return (struct overlay *)env;
}
static struct overlay_file *file_of(struct hf_file *f) {
    return (struct overlay_file *)f;
}

/* ---- nodes ---- */

static int by_name(const struct node *a, const struct node *b) {
    return strcmp(a->name, b->name);
}

static void attach(struct node *parent, struct node *n) {
    n->parent = parent;
    struct node *last = parent->children ? parent->children->prev : NULL;
    if (!last || by_name(last, n) < 0) /* as they come from below */
        DL_APPEND(parent->children, n);
    else
        DL_INSERT_INORDER(parent->children, n, by_name);
}

static void free_node(struct node *n) {
    struct page *p, *next;
    HASH_ITER (hh, n->pages, p, next) {
        HASH_DEL(n->pages, p);
        free(p);
    }
    free(n->source);
    free(n);
}

static void detach(struct node *n) {
    DL_DELETE(n->parent->children, n);
    n->parent = NULL;
}

static void drop(struct node *n) {
    detach(n);
    if (n->opens == 0) free_node(n);
}

static void free_tree(struct node *n) {
    while (n->children) {
        struct node *c = n->children;
        detach(c);
        free_tree(c);
    }
    free_node(n);
}

static enum hf_err new_node(struct node *parent, const char *name, size_t length, bool dir,
                            struct node **out) {
    if (length >= sizeof parent->name) return HF_EINVAL;
    struct node *n = calloc(1, sizeof *n);
    if (!n) return HF_ENOMEM;
    memcpy(n->name, name, length);
    n->dir = dir;
    if (parent) attach(parent, n);
    *out = n;
    return HF_OK;
}

static struct node *child(const struct node *parent, const char *name, size_t length) {
    struct node *n;
    DL_FOREACH (parent->children, n) {
        if (strlen(n->name) == length && memcmp(n->name, name, length) == 0) return n;
    }
    return NULL;
}

/* The folder that path lies in, and its last part. HF_ENOTFOUND. */
static enum hf_err folder_of(struct overlay *o, const char *path, struct node **folder, const char **last) {
    struct node *at = o->root;
    for (const char *slash; (slash = strchr(path, '/')); path = slash + 1) {
        at = child(at, path, (size_t)(slash - path));
        if (!at || !at->dir) return HF_ENOTFOUND;
    }
    *folder = at;
    *last = path;
    return HF_OK;
}

static struct node *find(struct overlay *o, const char *path) {
    struct node *folder;
    const char *last;
    if (strcmp(path, ".") == 0) return o->root;
    return folder_of(o, path, &folder, &last) ? NULL : child(folder, last, strlen(last));
}

/* ---- the tree below, read once ---- */

struct reading {
    struct overlay *o;
    struct node *folder;
    const char *path;
    int depth;
    enum hf_err e;
};

static enum hf_err read_folder(struct overlay *o, struct node *folder, const char *path, int depth);

static enum hf_err read_file_node(struct overlay *o, struct node *n, const char *path) {
    struct hf_file *f;
    enum hf_err e = env_open(o->under, path, ENV_READ, &f);
    if (e) return e;
    e = env_size(f, &n->size);
    env_close(f);
    n->below = n->size;
    n->source = strdup(path);
    return e ? e : n->source ? HF_OK : HF_ENOMEM;
}

static bool is_folder(void *arg, const char *name) {
    (void)arg;
    (void)name;
    return false;
}

static bool read_entry(void *arg, const char *name) {
    struct reading *x = arg;
    char path[PATH_MAX_BYTES];
    struct node *n;
    int length = snprintf(path, sizeof path, "%s%s%s", x->path, *x->path ? "/" : "", name);
    x->e = length < PATH_MAX_BYTES ? HF_OK : HF_ELIMIT;
    bool dir = !x->e && env_list(x->o->under, path, is_folder, NULL) == HF_OK;
    if (!x->e) x->e = new_node(x->folder, name, strlen(name), dir, &n);
    if (!x->e) x->e = dir ? read_folder(x->o, n, path, x->depth + 1) : read_file_node(x->o, n, path);
    return x->e == HF_OK;
}

static enum hf_err read_folder(struct overlay *o, struct node *folder, const char *path, int depth) {
    struct reading x = {o, folder, path, depth, HF_OK};
    if (depth > DEPTH_MAX) return HF_ELIMIT;
    enum hf_err e = env_list(o->under, *path ? path : ".", read_entry, &x);
    return e ? e : x.e;
}

/* ---- bytes ---- */

static struct page *page_at(const struct node *n, uint64_t number) {
    struct page *p;
    HASH_FIND(hh, n->pages, &number, sizeof number, p);
    return p;
}

static enum hf_err from_below(struct overlay_file *f, uint64_t at, uint8_t *to, size_t n) {
    struct node *node = f->node;
    size_t got = 0;
    enum hf_err e = HF_OK;
    if (at < node->below && !f->under)
        e = env_open(overlay_of(f->base.env)->under, node->source, f->flags & ENV_DIRECT, &f->under);
    if (!e && at < node->below) e = env_read(f->under, at, to, n, &got);
    if (e) return e;
    if (at + got > node->below) got = at < node->below ? (size_t)(node->below - at) : 0;
    memset(to + got, 0, n - got);
    return HF_OK;
}

static enum hf_err overlay_read(struct hf_file *base, uint64_t offset, void *out, size_t n, size_t *got) {
    struct overlay_file *f = file_of(base);
    uint64_t size = f->node->size, end = offset + n;
    uint8_t *to = out;
    for (uint64_t at = offset, stop; at < end && at < size; at = stop) {
        const struct page *p = page_at(f->node, at / PAGE);
        stop = (at / PAGE + 1) * PAGE;
        while (!p && stop < end && stop < size && !page_at(f->node, stop / PAGE)) stop += PAGE;
        if (stop > end) stop = end;
        enum hf_err e = HF_OK;
        if (p)
            memcpy(to + (at - offset), p->bytes + at % PAGE, (size_t)(stop - at));
        else
            e = from_below(f, at, to + (at - offset), (size_t)(stop - at));
        if (e) return e;
    }
    *got = offset >= size ? 0 : end > size ? (size_t)(size - offset) : n;
    return HF_OK;
}

static enum hf_err own_page(struct overlay_file *f, uint64_t number, struct page **out) {
    *out = page_at(f->node, number);
    if (*out) return HF_OK;
    struct page *p = calloc(1, sizeof *p);
    if (!p) return HF_ENOMEM;
    p->number = number;
    enum hf_err e = from_below(f, number * PAGE, p->bytes, PAGE);
    if (!e) HASH_ADD(hh, f->node->pages, number, sizeof p->number, p);
    if (!e && !p->hh.tbl) e = HF_ENOMEM;
    if (e)
        free(p);
    else
        *out = p;
    return e;
}

static enum hf_err overlay_write(struct hf_file *base, uint64_t offset, const void *from, size_t n) {
    struct overlay_file *f = file_of(base);
    const uint8_t *p = from;
    if (!(f->flags & (ENV_WRITE | ENV_CREATE))) return HF_EINVAL;
    for (uint64_t at = offset; at < offset + n;) {
        size_t in = (size_t)(at % PAGE), part = PAGE - in;
        if (part > offset + n - at) part = (size_t)(offset + n - at);
        struct page *page;
        enum hf_err e = own_page(f, at / PAGE, &page);
        if (e) return e;
        memcpy(page->bytes + in, p + (at - offset), part);
        at += part;
    }
    if (offset + n > f->node->size) f->node->size = offset + n;
    return HF_OK;
}

static enum hf_err overlay_truncate(struct hf_file *base, uint64_t size) {
    struct node *n = file_of(base)->node;
    struct page *p, *next;
    HASH_ITER (hh, n->pages, p, next) {
        uint64_t from = p->number * PAGE;
        if (from >= size) {
            HASH_DEL(n->pages, p);
            free(p);
        } else if (from + PAGE > size) {
            memset(p->bytes + (size - from), 0, (size_t)(from + PAGE - size));
        }
    }
    if (size < n->below) n->below = size;
    n->size = size;
    return HF_OK;
}

static enum hf_err overlay_allocate(struct hf_file *base, uint64_t offset, uint64_t length) {
    struct node *n = file_of(base)->node;
    if (offset + length > n->size) n->size = offset + length;
    return HF_OK;
}

static enum hf_err overlay_size(struct hf_file *f, uint64_t *size) {
    *size = file_of(f)->node->size;
    return HF_OK;
}

static void overlay_writeback(struct hf_file *f, uint64_t offset, uint64_t n) {
    (void)f;
    (void)offset;
    (void)n;
}

static int overlay_fd(struct hf_file *f) {
    (void)f;
    return -1;
}

/* ---- names ---- */

static enum hf_err overlay_open(struct hf_env *env, const char *path, unsigned flags, struct hf_file **out) {
    struct overlay *o = overlay_of(env);
    struct node *folder, *n;
    const char *last;
    enum hf_err e = folder_of(o, path, &folder, &last);
    if (e) return e;
    n = child(folder, last, strlen(last));
    if (n && (flags & ENV_EXCL)) return HF_EEXIST;
    if (n && n->dir) return HF_EIO;
    if (!n && !(flags & ENV_CREATE)) return HF_ENOTFOUND;
    struct overlay_file *f = calloc(1, sizeof *f);
    if (!f) return HF_ENOMEM;
    if (!n) e = new_node(folder, last, strlen(last), false, &n);
    if (e) {
        free(f);
        return e;
    }
    *f = (struct overlay_file){.base = {env}, .node = n, .flags = flags};
    n->opens++;
    *out = &f->base;
    return HF_OK;
}

static void overlay_close(struct hf_file *base) {
    struct overlay_file *f = file_of(base);
    if (f->under) env_close(f->under);
    if (--f->node->opens == 0 && !f->node->parent) free_node(f->node);
    free(f);
}

static enum hf_err overlay_rename(struct hf_env *env, const char *from, const char *to) {
    struct overlay *o = overlay_of(env);
    struct node *n = find(o, from), *folder, *old;
    const char *last;
    if (!n || !n->parent) return HF_ENOTFOUND;
    enum hf_err e = folder_of(o, to, &folder, &last);
    if (e) return e;
    size_t length = strlen(last);
    if (length >= sizeof n->name) return HF_EINVAL;
    old = child(folder, last, length);
    if (old == n) return HF_OK;
    if (old && (old->dir != n->dir || old->children)) return HF_EIO;
    if (old) drop(old);
    detach(n);
    memcpy(n->name, last, length + 1);
    attach(folder, n);
    return HF_OK;
}

static enum hf_err overlay_unlink(struct hf_env *env, const char *path) {
    struct node *n = find(overlay_of(env), path);
    if (!n) return HF_ENOTFOUND;
    if (n->dir) return HF_EIO;
    drop(n);
    return HF_OK;
}

static void overlay_discard(struct hf_env *env, const char *path) {
    (void)overlay_unlink(env, path);
}

static enum hf_err overlay_mkdir(struct hf_env *env, const char *path) {
    struct node *folder, *n;
    const char *last;
    enum hf_err e = folder_of(overlay_of(env), path, &folder, &last);
    if (e) return e;
    if (child(folder, last, strlen(last))) return HF_EEXIST;
    return new_node(folder, last, strlen(last), true, &n);
}

static enum hf_err overlay_rmdir(struct hf_env *env, const char *path) {
    struct node *n = find(overlay_of(env), path);
    if (!n) return HF_ENOTFOUND;
    if (!n->dir || n->children || !n->parent) return HF_EIO;
    drop(n);
    return HF_OK;
}

/* fn may change the folder: it is given the names that were there. */
static enum hf_err overlay_list(struct hf_env *env, const char *dir, bool (*fn)(void *arg, const char *name),
                                void *arg) {
    struct node *folder = find(overlay_of(env), dir), *n;
    if (!folder) return HF_ENOTFOUND;
    if (!folder->dir) return HF_EIO;
    size_t count = 0, i = 0;
    DL_COUNT(folder->children, n, count);
    char(*names)[sizeof n->name] = malloc((count + 1) * sizeof *names);
    if (!names) return HF_ENOMEM;
    DL_FOREACH (folder->children, n) {
        memcpy(names[i++], n->name, sizeof n->name);
    }
    for (i = 0; i < count && fn(arg, names[i]); i++) {}
    free(names);
    return HF_OK;
}

static enum hf_err overlay_lock(struct hf_env *env, const char *path, int64_t *pid) {
    return env_lock(overlay_of(env)->under, path, pid);
}

static enum hf_err overlay_space(struct hf_env *env, uint64_t *free_bytes) {
    (void)env;
    *free_bytes = INT64_MAX;
    return HF_OK;
}

/* ---- syncs and loads: they end with the next poll ---- */

static void overlay_sync_begin(struct hf_env *env, struct env_sync *s) {
    struct overlay *o = overlay_of(env);
    if (o->syncs)
        o->syncs_last->next = s;
    else
        o->syncs = s;
    o->syncs_last = s;
}

static void overlay_load_begin(struct hf_env *env, struct env_load *r) {
    r->sync.result = env_read(r->file, r->offset, r->p, r->n, &r->got);
    overlay_sync_begin(env, &r->sync);
}

static void overlay_load_cancel(struct hf_env *env, struct env_load *r) {
    struct overlay *o = overlay_of(env);
    struct env_sync **at = &o->syncs, *before = NULL;
    for (; *at && *at != &r->sync; at = &(*at)->next) before = *at;
    if (!*at) return;
    *at = r->sync.next;
    if (o->syncs_last == &r->sync) o->syncs_last = before;
}

static size_t overlay_poll(struct hf_env *env) {
    struct overlay *o = overlay_of(env);
    const struct env_sync *last = o->syncs_last; /* those that begin meanwhile end with the next one */
    size_t n = 0;
    for (bool more = last != NULL; more && o->syncs; n++) {
        struct env_sync *s = o->syncs;
        o->syncs = s->next;
        if (!o->syncs) o->syncs_last = NULL;
        more = s != last;
        s->done(s, s->result);
    }
    return n;
}

static int overlay_poll_fd(struct hf_env *env) {
    (void)env;
    return -1;
}

/* ---- the machine below ---- */

static int64_t overlay_wall_us(struct hf_env *env) {
    return env_wall_us(overlay_of(env)->under);
}
static int64_t overlay_mono_us(struct hf_env *env) {
    return env_mono_us(overlay_of(env)->under);
}
static uint64_t overlay_boot_id(struct hf_env *env) {
    return env_boot_id(overlay_of(env)->under);
}
static uint64_t overlay_random(struct hf_env *env) {
    return env_random(overlay_of(env)->under);
}
static void overlay_log(struct hf_env *env, enum env_level level, const char *event, const char *fmt,
                        va_list values) {
    struct hf_env *under = overlay_of(env)->under;
    under->ops->log(under, level, event, fmt, values);
}

static void overlay_end(struct hf_env *env) {
    free_tree(overlay_of(env)->root);
    free(env);
}

static const struct env_ops ops = {
    .wall_us = overlay_wall_us,
    .mono_us = overlay_mono_us,
    .boot_id = overlay_boot_id,
    .random = overlay_random,
    .log = overlay_log,
    .open = overlay_open,
    .close = overlay_close,
    .size = overlay_size,
    .read = overlay_read,
    .write = overlay_write,
    .allocate = overlay_allocate,
    .truncate = overlay_truncate,
    .writeback = overlay_writeback,
    .fd = overlay_fd,
    .rename = overlay_rename,
    .unlink = overlay_unlink,
    .discard = overlay_discard,
    .mkdir = overlay_mkdir,
    .rmdir = overlay_rmdir,
    .list = overlay_list,
    .lock = overlay_lock,
    .space = overlay_space,
    .sync_begin = overlay_sync_begin,
    .load_begin = overlay_load_begin,
    .load_cancel = overlay_load_cancel,
    .poll = overlay_poll,
    .wait = overlay_poll,
    .poll_fd = overlay_poll_fd,
    .end = overlay_end,
};

enum hf_err env_overlay_open(struct hf_env *under, struct hf_env **out) {
    struct overlay *o = calloc(1, sizeof *o);
    if (!o) return HF_ENOMEM;
    o->base.ops = &ops;
    o->under = under;
    enum hf_err e = new_node(NULL, "", 0, true, &o->root);
    if (!e) e = read_folder(o, o->root, "", 0);
    if (e) {
        if (o->root) free_tree(o->root);
        free(o);
        return e;
    }
    *out = &o->base;
    return HF_OK;
}
