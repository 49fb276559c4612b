/* Folders of the simulated machine. A folder has the entries that the process sees (`now`), those known to be
 * on the disk (`kept`), and between them the row of changes in their order. A sync of the folder that ends
 * applies the changes it covers to `kept`. Power loss applies any subset of the rest, in order: each change
 * by itself is there or not, a rename as one change; and goes on with what that gives.
 *
 *     kept + changes, all, in order = now                               (N1)
 *
 * A change removes a name only where it still means the file it meant: with an earlier change lost it must
 * not take away another file. A rename between folders belongs to the folder it goes to. A file whose every
 * name was lost is gone when its handles are. */
#include "sim_internal.h"

#include <assert.h>
#include <stdlib.h>

/* ---- sorted entries ---- */

/* Where the name is, or belongs. */
static size_t find(const struct sim_entries *e, const char *name, bool *there) {
    size_t low = 0, high = e->n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        int c = strcmp(e->v[mid].name, name);
        if (c == 0) {
            *there = true;
            return mid;
        }
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    *there = false;
    return low;
}

static void entries_set(struct hf_sim *sim, struct sim_entries *e, const char *name,
                        struct sim_inode *child) {
    bool there;
    size_t at = find(e, name, &there);
    sim_inode_ref(child);
    if (there) {
        struct sim_inode *old = e->v[at].child;
        e->v[at].child = child;
        sim_inode_unref(sim, old);
        return;
    }
    e->v = sim_grow(e->v, e->n, &e->cap, sizeof *e->v);
    memmove(e->v + at + 1, e->v + at, (e->n - at) * sizeof *e->v);
    e->v[at] = (struct sim_entry){strdup(name), child};
    assert(e->v[at].name);
    e->n++;
}

/* Removes the name if it means this child. */
static void entries_drop(struct hf_sim *sim, struct sim_entries *e, const char *name,
                         struct sim_inode *child) {
    bool there;
    size_t at = find(e, name, &there);
    if (!there || e->v[at].child != child) return;
    free(e->v[at].name);
    e->n--;
    memmove(e->v + at, e->v + at + 1, (e->n - at) * sizeof *e->v);
    sim_inode_unref(sim, child);
}

static void entries_clear(struct hf_sim *sim, struct sim_entries *e) {
    for (size_t i = 0; i < e->n; i++) {
        free(e->v[i].name);
        sim_inode_unref(sim, e->v[i].child);
    }
    free(e->v);
    *e = (struct sim_entries){0};
}

static void entries_copy(struct hf_sim *sim, struct sim_entries *to, const struct sim_entries *from) {
    entries_clear(sim, to);
    for (size_t i = 0; i < from->n; i++) entries_set(sim, to, from->v[i].name, from->v[i].child);
}

/* ---- paths ---- */

struct sim_inode *sim_entry_get(const struct sim_inode *dir, const char *name) {
    bool there;
    size_t at = find(&dir->now, name, &there);
    return there ? dir->now.v[at].child : NULL;
}

bool sim_walk(struct hf_sim *sim, const char *path, struct sim_inode **dir, const char **name) {
    struct sim_inode *at = sim->root;
    for (const char *slash; (slash = strchr(path, '/')); path = slash + 1) {
        char part[256];
        size_t n = (size_t)(slash - path);
        if (n >= sizeof part) return false;
        memcpy(part, path, n);
        part[n] = 0;
        at = sim_entry_get(at, part);
        if (!at || !at->is_dir) return false;
    }
    *dir = at;
    *name = path;
    return true;
}

struct sim_inode *sim_lookup(struct hf_sim *sim, const char *path) {
    struct sim_inode *dir;
    const char *name;
    if (strcmp(path, ".") == 0) return sim->root;
    return sim_walk(sim, path, &dir, &name) ? sim_entry_get(dir, name) : NULL;
}

/* ---- changes ---- */

static char *copied(const char *name) {
    char *s = name ? strdup(name) : NULL;
    assert(s || !name);
    return s;
}

static void change_add(struct hf_sim *sim, struct sim_inode *dir, struct sim_inode *child,
                       struct sim_inode *from_dir, const char *from, const char *to) {
    dir->changes = sim_grow(dir->changes, dir->change_count, &dir->change_cap, sizeof *dir->changes);
    dir->changes[dir->change_count++] =
        (struct sim_change){++sim->stamp, from_dir, child, copied(from), copied(to)};
    sim_inode_ref(child);
    if (from_dir && from_dir != dir) sim_inode_ref(from_dir);
}

static void change_apply(struct hf_sim *sim, struct sim_inode *dir, const struct sim_change *c) {
    if (c->from) entries_drop(sim, &c->from_dir->kept, c->from, c->child);
    if (c->to) entries_set(sim, &dir->kept, c->to, c->child);
}

static void change_end(struct hf_sim *sim, struct sim_inode *dir, struct sim_change *c) {
    free(c->from);
    free(c->to);
    sim_inode_unref(sim, c->child);
    if (c->from_dir && c->from_dir != dir) sim_inode_unref(sim, c->from_dir);
}

void sim_link(struct hf_sim *sim, struct sim_inode *dir, const char *name, struct sim_inode *child) {
    change_add(sim, dir, child, NULL, NULL, name);
    entries_set(sim, &dir->now, name, child);
}

void sim_unlink_name(struct hf_sim *sim, struct sim_inode *dir, const char *name) {
    struct sim_inode *child = sim_entry_get(dir, name);
    change_add(sim, dir, child, dir, name, NULL);
    entries_drop(sim, &dir->now, name, child);
}

void sim_move(struct hf_sim *sim, struct sim_inode *from_dir, const char *from, struct sim_inode *to_dir,
              const char *to) {
    struct sim_inode *child = sim_entry_get(from_dir, from);
    change_add(sim, to_dir, child, from_dir, from, to);
    entries_set(sim, &to_dir->now, to, child);
    if (from_dir != to_dir || strcmp(from, to) != 0) entries_drop(sim, &from_dir->now, from, child);
}

/* Applies what the stamp covers. A failed sync of a folder decides nothing: a file system whose own journal
 * fails stops altogether, so there is no folder that is clean, readable and lost. */
void sim_dir_synced(struct hf_sim *sim, struct sim_inode *dir, uint64_t stamp, bool ok) {
    size_t seen = 0;
    while (ok && seen < dir->change_count && dir->changes[seen].stamp <= stamp) {
        struct sim_change *c = &dir->changes[seen++];
        change_apply(sim, dir, c);
        change_end(sim, dir, c);
    }
    dir->change_count -= seen;
    if (seen) memmove(dir->changes, dir->changes + seen, dir->change_count * sizeof *dir->changes);
}

/* Makes what is kept what is seen. Folders may lose their last reference on the way, so all are held first.
 */
static void settle_dirs(struct hf_sim *sim) {
    struct sim_inode **dirs = NULL;
    size_t n = 0, cap = 0;
    for (struct sim_inode *i = sim->first; i; i = i->next) {
        if (!i->is_dir) continue;
        dirs = sim_grow(dirs, n, &cap, sizeof(struct sim_inode *));
        dirs[n++] = i;
        sim_inode_ref(i);
    }
    for (size_t k = 0; k < n; k++) {
        size_t changes = dirs[k]->change_count;
        for (size_t c = 0; c < changes; c++) change_end(sim, dirs[k], &dirs[k]->changes[c]);
        dirs[k]->change_count = 0;
        entries_copy(sim, &dirs[k]->now, &dirs[k]->kept);
    }
    for (size_t k = 0; k < n; k++) sim_inode_unref(sim, dirs[k]);
    free(dirs);
}

void sim_dirs_power_loss(struct hf_sim *sim) {
    for (struct sim_inode *i = sim->first; i; i = i->next) {
        if (!i->is_dir) continue;
        enum sim_luck luck = sim_luck(sim);
        for (size_t k = 0; k < i->change_count; k++)
            if (sim_pick(sim, luck, 2)) change_apply(sim, i, &i->changes[k]);
    }
    settle_dirs(sim);
}

void sim_dir_free(struct hf_sim *sim, struct sim_inode *dir) {
    for (size_t k = 0; k < dir->change_count; k++) change_end(sim, dir, &dir->changes[k]);
    free(dir->changes);
    entries_clear(sim, &dir->now);
    entries_clear(sim, &dir->kept);
}
