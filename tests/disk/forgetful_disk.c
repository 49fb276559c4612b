/* A disk that forgets what was not synced: a FUSE file system over a folder (libfuse3).
 *
 *     forgetful_disk FOLDER MOUNTPOINT       stays in the foreground; root, or where fusermount3 may mount
 *
 * An error that a test injects by skipping fdatasync leaves the pages dirty, and the next sync writes them:
 * it proves nothing. ext4 and XFS mark the pages of a failed write-back clean: the next sync has nothing to
 * write and succeeds, readers see the bytes in the page cache, and the disk does not have them. This disk
 * does just that.
 *
 *     page cache of the kernel ── write, write-back ──► blocks in our memory ── fsync ──► FOLDER
 *                                                       (kept over close, open)
 *                                                              └─ failed fsync: dropped ──► nowhere
 *
 * Loss of power is SIGKILL to this process, an unmount and another mount: the kernel's pages go with the
 * mount, ours with the process. Names, sizes and preallocation reach FOLDER at once, which a disk may do: so
 * a file that loses its power has its newest size and zeros or old bytes in it.
 *
 * The file .control in the root, which no listing shows, takes one line a write:
 *     fail SUFFIX       the next fsync of a file whose path ends so fails with EIO and drops its blocks
 * and reads as "syncs N failed N dirty N\n": fsyncs that succeeded, that failed, and blocks in memory.
 *
 * One thread: the order of requests is the order in which they take effect. */
#define FUSE_USE_VERSION 31
#include <fuse.h>

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <uthash.h>

enum { BLOCK = 4096, SUFFIX_MAX = 64 };
static const char CONTROL[] = "/.control";

/* A block that FOLDER does not have yet. */
struct block {
    uint64_t number;
    uint8_t bytes[BLOCK];
    UT_hash_handle hh;
};

/* A file that is open or has blocks. */
struct file {
    ino_t ino;
    int fd;
    unsigned opens;
    bool unlinked;
    struct block *blocks;
    UT_hash_handle hh;
};

static int root;
static struct file *files;
static char fail_suffix[SUFFIX_MAX];
static bool fail_armed;
static unsigned long long syncs, failed, dirty;

/* "/a/b" → "a/b", relative to the folder; the root is ".". */
static const char *below(const char *path) {
    return path[1] ? path + 1 : ".";
}

static int result(int r) {
    return r < 0 ? -errno : 0;
}

static bool is_control(const char *path) {
    return path && strcmp(path, CONTROL) == 0;
}

/* ---- blocks ---- */

static void drop(struct file *f, struct block *b) {
    HASH_DEL(f->blocks, b);
    free(b);
    dirty--;
}

static void drop_all(struct file *f) {
    struct block *b, *next;
    HASH_ITER (hh, f->blocks, b, next) drop(f, b);
}

static void forget_file(struct file *f) {
    if (f->opens > 0 || (f->blocks && !f->unlinked)) return;
    drop_all(f);
    close(f->fd);
    HASH_DEL(files, f);
    free(f);
}

static ssize_t read_folder(struct file *f, uint8_t *to, size_t n, off_t at) {
    size_t got = 0;
    while (got < n) {
        ssize_t r = pread(f->fd, to + got, n - got, at + (off_t)got);
        if (r < 0) return -errno;
        if (r == 0) break;
        got += (size_t)r;
    }
    return (ssize_t)got;
}

/* The block to write to: as it was so far. */
static struct block *block_of(struct file *f, uint64_t number) {
    struct block *b;
    HASH_FIND(hh, f->blocks, &number, sizeof number, b);
    if (b) return b;
    b = calloc(1, sizeof *b);
    if (!b) return NULL;
    b->number = number;
    if (read_folder(f, b->bytes, BLOCK, (off_t)(number * BLOCK)) < 0) {
        free(b);
        return NULL;
    }
    HASH_ADD(hh, f->blocks, number, sizeof b->number, b);
    dirty++;
    return b;
}

/* A sync that succeeds: all blocks reach the folder, but nothing past the file's end. */
static int reach_folder(struct file *f) {
    struct stat st;
    struct block *b, *next;
    if (fstat(f->fd, &st)) return -errno;
    HASH_ITER (hh, f->blocks, b, next) {
        off_t at = (off_t)(b->number * BLOCK);
        size_t n = at >= st.st_size ? 0 : st.st_size - at < BLOCK ? (size_t)(st.st_size - at) : BLOCK;
        if (n > 0 && pwrite(f->fd, b->bytes, n, at) != (ssize_t)n) return -EIO;
        drop(f, b);
    }
    return 0;
}

/* ---- files ---- */

static struct file *file_of(struct fuse_file_info *fi) {
    return (struct file *)(uintptr_t)fi->fh;
}

/* The object of a file in the folder, one for each inode; takes the descriptor. */
static int file_for(int fd, struct file **out) {
    struct stat st;
    struct file *f;
    if (fd < 0 || fstat(fd, &st)) return -errno;
    HASH_FIND(hh, files, &st.st_ino, sizeof st.st_ino, f);
    if (f) {
        close(fd);
    } else {
        f = calloc(1, sizeof *f);
        if (!f) {
            close(fd);
            return -ENOMEM;
        }
        f->ino = st.st_ino;
        f->fd = fd;
        HASH_ADD(hh, files, ino, sizeof f->ino, f);
    }
    f->opens++;
    *out = f;
    return 0;
}

static int disk_open(const char *path, struct fuse_file_info *fi) {
    struct file *f;
    if (is_control(path)) {
        fi->direct_io = 1;
        return 0;
    }
    int e = file_for(openat(root, below(path), O_RDWR), &f);
    if (!e) fi->fh = (uintptr_t)f;
    return e;
}

static int disk_create(const char *path, mode_t mode, struct fuse_file_info *fi) {
    struct file *f;
    int e = file_for(openat(root, below(path), O_RDWR | O_CREAT, mode), &f);
    if (!e) fi->fh = (uintptr_t)f;
    return e;
}

static int disk_release(const char *path, struct fuse_file_info *fi) {
    (void)path;
    struct file *f = file_of(fi);
    if (!f) return 0;
    f->opens--;
    forget_file(f);
    return 0;
}

static int read_control(char *to, size_t n, off_t offset) {
    char text[100];
    int size = snprintf(text, sizeof text, "syncs %llu failed %llu dirty %llu\n", syncs, failed, dirty);
    if (offset >= size) return 0;
    if (n > (size_t)(size - offset)) n = (size_t)(size - offset);
    memcpy(to, text + offset, n);
    return (int)n;
}

static int write_control(const char *from, size_t n) {
    static const char word[] = "fail ";
    size_t skip = sizeof word - 1;
    if (n <= skip || n - skip >= SUFFIX_MAX || memcmp(from, word, skip) != 0) return -EINVAL;
    memcpy(fail_suffix, from + skip, n - skip);
    fail_suffix[n - skip] = 0;
    fail_suffix[strcspn(fail_suffix, "\n")] = 0;
    fail_armed = true;
    return (int)n;
}

static int disk_read(const char *path, char *to, size_t n, off_t offset, struct fuse_file_info *fi) {
    struct file *f = file_of(fi);
    if (!f) return is_control(path) ? read_control(to, n, offset) : -EBADF;
    ssize_t got = read_folder(f, (uint8_t *)to, n, offset);
    for (ssize_t at = 0; at < got;) {
        uint64_t number = (uint64_t)(offset + at) / BLOCK;
        size_t from = (size_t)((uint64_t)(offset + at) % BLOCK), part = BLOCK - from;
        if (part > (size_t)(got - at)) part = (size_t)(got - at);
        struct block *b;
        HASH_FIND(hh, f->blocks, &number, sizeof number, b);
        if (b) memcpy(to + at, b->bytes + from, part);
        at += (ssize_t)part;
    }
    return (int)got;
}

static int disk_write(const char *path, const char *from, size_t n, off_t offset, struct fuse_file_info *fi) {
    struct file *f = file_of(fi);
    if (!f) return is_control(path) ? write_control(from, n) : -EBADF;
    struct stat st;
    if (fstat(f->fd, &st)) return -errno;
    off_t end = offset + (off_t)n;
    if (end > st.st_size && ftruncate(f->fd, end)) return -errno;
    for (size_t at = 0; at < n;) {
        uint64_t number = ((uint64_t)offset + at) / BLOCK;
        size_t into = (size_t)(((uint64_t)offset + at) % BLOCK), part = BLOCK - into;
        if (part > n - at) part = n - at;
        struct block *b = block_of(f, number);
        if (!b) return -EIO;
        memcpy(b->bytes + into, from + at, part);
        at += part;
    }
    return (int)n;
}

static bool ends_so(const char *path, const char *suffix) {
    size_t n = strlen(path), wanted = strlen(suffix);
    return n >= wanted && strcmp(path + n - wanted, suffix) == 0;
}

static int disk_fsync(const char *path, int only_data, struct fuse_file_info *fi) {
    (void)only_data;
    struct file *f = file_of(fi);
    if (!f) return 0;
    if (fail_armed && path && ends_so(path, fail_suffix)) {
        fail_armed = false;
        failed++;
        drop_all(f);
        return -EIO;
    }
    int e = reach_folder(f);
    syncs += e == 0;
    return e;
}

static int cut_file(struct file *f, off_t size) {
    struct block *b, *next;
    if (ftruncate(f->fd, size)) return -errno;
    HASH_ITER (hh, f->blocks, b, next) {
        off_t at = (off_t)(b->number * BLOCK);
        if (at >= size)
            drop(f, b);
        else if (size - at < BLOCK)
            memset(b->bytes + (size - at), 0, (size_t)(BLOCK - (size - at)));
    }
    return 0;
}

static int disk_truncate(const char *path, off_t size, struct fuse_file_info *fi) {
    struct file *f = fi ? file_of(fi) : NULL;
    if (f) return cut_file(f, size);
    if (is_control(path)) return 0;
    int e = file_for(openat(root, below(path), O_RDWR), &f);
    if (e) return e;
    e = cut_file(f, size);
    f->opens--;
    forget_file(f);
    return e;
}

static int disk_fallocate(const char *path, int mode, off_t offset, off_t n, struct fuse_file_info *fi) {
    (void)path;
    if (mode != 0 || !file_of(fi)) return -EOPNOTSUPP;
    return -posix_fallocate(file_of(fi)->fd, offset, n);
}

/* ---- names ---- */

static int disk_getattr(const char *path, struct stat *st, struct fuse_file_info *fi) {
    if (is_control(path)) {
        *st = (struct stat){.st_mode = S_IFREG | 0600, .st_nlink = 1};
        return 0;
    }
    if (fi && file_of(fi)) return result(fstat(file_of(fi)->fd, st));
    return result(fstatat(root, below(path), st, AT_SYMLINK_NOFOLLOW));
}

static int disk_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t offset,
                        struct fuse_file_info *fi, enum fuse_readdir_flags flags) {
    (void)offset, (void)fi, (void)flags;
    int fd = openat(root, below(path), O_RDONLY | O_DIRECTORY);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) return -errno;
    struct dirent *d;
    while ((d = readdir(dir))) (void)fill(buf, d->d_name, NULL, 0, (enum fuse_fill_dir_flags)0);
    closedir(dir);
    return 0;
}

/* What a name meant is gone with it, once nobody has it open. */
static void name_goes(const char *path) {
    struct stat st;
    struct file *f;
    if (fstatat(root, below(path), &st, AT_SYMLINK_NOFOLLOW) || st.st_nlink > 1) return;
    HASH_FIND(hh, files, &st.st_ino, sizeof st.st_ino, f);
    if (!f) return;
    f->unlinked = true;
    forget_file(f);
}

static int disk_unlink(const char *path) {
    name_goes(path);
    return result(unlinkat(root, below(path), 0));
}

static int disk_rename(const char *from, const char *to, unsigned flags) {
    if (flags) return -EINVAL;
    name_goes(to);
    return result(renameat(root, below(from), root, below(to)));
}

static int disk_mkdir(const char *path, mode_t mode) {
    return result(mkdirat(root, below(path), mode));
}

static int disk_rmdir(const char *path) {
    return result(unlinkat(root, below(path), AT_REMOVEDIR));
}

static int disk_fsyncdir(const char *path, int only_data, struct fuse_file_info *fi) {
    (void)path, (void)only_data, (void)fi;
    return 0; /* names are in the folder at once */
}

static int disk_statfs(const char *path, struct statvfs *st) {
    (void)path;
    return result(fstatvfs(root, st));
}

/* The kernel keeps its pages from one open to the next, as a file system on a disk does. */
static void *disk_init(struct fuse_conn_info *conn, struct fuse_config *config) {
    conn->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_WRITEBACK_CACHE);
    config->kernel_cache = 1;
    config->hard_remove = 1;
    config->attr_timeout = config->entry_timeout = 3600;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = disk_init,
    .getattr = disk_getattr,
    .readdir = disk_readdir,
    .open = disk_open,
    .create = disk_create,
    .release = disk_release,
    .read = disk_read,
    .write = disk_write,
    .truncate = disk_truncate,
    .fallocate = disk_fallocate,
    .fsync = disk_fsync,
    .fsyncdir = disk_fsyncdir,
    .unlink = disk_unlink,
    .rename = disk_rename,
    .mkdir = disk_mkdir,
    .rmdir = disk_rmdir,
    .statfs = disk_statfs,
};

int main(int argc, char **argv) {
    if (argc != 3) {
        (void)fprintf(stderr, "usage: forgetful_disk FOLDER MOUNTPOINT\n");
        return 2;
    }
    root = open(argv[1], O_RDONLY | O_DIRECTORY);
    if (root < 0) {
        perror(argv[1]);
        return 1;
    }
    char foreground[] = "-f", single[] = "-s";
    char *arguments[] = {argv[0], foreground, single, argv[2], NULL};
    return fuse_main(4, arguments, &operations, NULL);
}
