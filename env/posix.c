/* The machine itself. Files are reached relative to a descriptor of the root folder, so a renamed data folder
 * stays the same folder. Calls go on after EINTR and after short reads and writes; the system's error
 * numbers end here (hf_err_from_errno).
 *
 * CLOCK_BOOTTIME is the monotonic clock: a laptop's sleep must count towards a delay. Its base is the boot,
 * which the kernel names in /proc/sys/kernel/random/boot_id.
 *
 * A line of the log is one write of at most LINE_MAX bytes, so lines of two threads do not mix; control
 * characters in values become '?', so a client cannot forge a line. */
#include "posix_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum { LOG_LINE_MAX = 4096, IO_MAX = 1 << 30 };

static struct posix_env *posix_of(struct hf_env *env) {
    return (struct posix_env *)env;
}

static int fd_of(struct hf_file *f) {
    return ((struct posix_file *)f)->fd;
}

static enum hf_err last_error(void) {
    return hf_err_from_errno(errno);
}

/* ---- time, random, log lines ---- */

static int64_t posix_wall_us(struct hf_env *env) {
    (void)env;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int64_t posix_mono_us(struct hf_env *env) {
    (void)env;
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static uint64_t posix_boot_id(struct hf_env *env) {
    return posix_of(env)->boot_id;
}

static uint64_t posix_random(struct hf_env *env) {
    struct posix_env *p = posix_of(env);
    if (p->random_left == 0) {
        /* Up to 256 bytes come whole, and block only before the kernel's pool was seeded once. */
        while (getrandom(p->random, sizeof p->random, 0) != sizeof p->random) {}
        p->random_left = sizeof p->random / sizeof p->random[0];
    }
    return p->random[--p->random_left];
}

static size_t line_begin(char *line, enum env_level level, const char *event, int64_t now_ms) {
    time_t seconds = (time_t)(now_ms / 1000);
    struct tm utc;
    gmtime_r(&seconds, &utc);
    size_t n = strftime(line, LOG_LINE_MAX, "%Y-%m-%dT%H:%M:%S", &utc);
    int more = snprintf(line + n, LOG_LINE_MAX - n, ".%03dZ %s %.64s ", (int)(now_ms % 1000),
                        env_level_names[level], event);
    return n + (size_t)more;
}

static void posix_log(struct hf_env *env, enum env_level level, const char *event, const char *fmt,
                      va_list values) {
    struct posix_env *p = posix_of(env);
    if (level > p->level) return;
    char line[LOG_LINE_MAX + 1];
    size_t n = line_begin(line, level, event, posix_wall_us(env) / 1000);
    int more = vsnprintf(line + n, LOG_LINE_MAX - n, fmt, values);
    if (more > 0) n += (size_t)more < LOG_LINE_MAX - n ? (size_t)more : LOG_LINE_MAX - n - 1;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)line[i] < ' ' || line[i] == 127) line[i] = '?';
    line[n++] = '\n';
    while (write(p->log_fd, line, n) < 0 && errno == EINTR) {}
}

/* ---- files ---- */

static int open_at(int root_fd, const char *path, int how) {
    int fd;
    do fd = openat(root_fd, path, how, 0640);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static enum hf_err posix_open(struct hf_env *env, const char *path, unsigned flags, struct hf_file **out) {
    int how = O_CLOEXEC | (flags & (ENV_WRITE | ENV_CREATE) ? O_RDWR : O_RDONLY);
    if (flags & ENV_CREATE) how |= O_CREAT;
    if (flags & ENV_EXCL) how |= O_EXCL;
    int direct = flags & ENV_DIRECT ? O_DIRECT : 0;
    int fd = open_at(posix_of(env)->root_fd, path, how | direct);
    /* A file system that knows no direct reads (tmpfs) has no disk behind its pages either; the file may
     * have been created before the flag was refused. */
    if (fd < 0 && errno == EINVAL && direct) fd = open_at(posix_of(env)->root_fd, path, how & ~O_EXCL);
    if (fd < 0) return last_error();
    struct posix_file *f = malloc(sizeof *f);
    if (!f) {
        close(fd);
        return HF_ENOMEM;
    }
    *f = (struct posix_file){.base = {env}, .fd = fd};
    *out = &f->base;
    return HF_OK;
}

/* The last to close a deleted file gives its blocks back: some ten milliseconds for 32 MiB. */
static bool gives_blocks_back(int fd) {
    enum { MANY = 2048 }; /* of 512 bytes */
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_nlink == 0 && st.st_blocks > MANY;
}

static void posix_close(struct hf_file *file) {
    struct posix_file *f = (struct posix_file *)file;
    if (gives_blocks_back(f->fd)) {
        posix_close_later(file->env, f);
        return;
    }
    close(f->fd);
    free(f);
}

static enum hf_err posix_size(struct hf_file *f, uint64_t *size) {
    struct stat st;
    if (fstat(fd_of(f), &st)) return last_error();
    *size = (uint64_t)st.st_size;
    return HF_OK;
}

enum hf_err posix_read_all(int fd, uint64_t offset, void *p, size_t n, size_t *got) {
    size_t at = 0;
    while (at < n) {
        size_t part = n - at < IO_MAX ? n - at : IO_MAX;
        ssize_t r = pread(fd, (char *)p + at, part, (off_t)(offset + at));
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return last_error();
        if (r == 0) break;
        at += (size_t)r;
    }
    *got = at;
    return HF_OK;
}

static enum hf_err posix_read(struct hf_file *f, uint64_t offset, void *p, size_t n, size_t *got) {
    return posix_read_all(fd_of(f), offset, p, n, got);
}

static enum hf_err write_all(int fd, uint64_t offset, const void *p, size_t n) {
    for (size_t at = 0; at < n;) {
        size_t part = n - at < IO_MAX ? n - at : IO_MAX;
        ssize_t r = pwrite(fd, (const char *)p + at, part, (off_t)(offset + at));
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return last_error();
        at += (size_t)r;
    }
    return HF_OK;
}

static enum hf_err posix_write(struct hf_file *f, uint64_t offset, const void *p, size_t n) {
    return write_all(fd_of(f), offset, p, n);
}

static enum hf_err posix_allocate(struct hf_file *f, uint64_t offset, uint64_t length) {
    int e;
    do e = posix_fallocate(fd_of(f), (off_t)offset, (off_t)length);
    while (e == EINTR);
    return hf_err_from_errno(e);
}

static enum hf_err cut(int fd, uint64_t size) {
    int failed;
    do failed = ftruncate(fd, (off_t)size);
    while (failed && errno == EINTR);
    return failed ? last_error() : HF_OK;
}

static enum hf_err posix_truncate(struct hf_file *f, uint64_t size) {
    return cut(fd_of(f), size);
}

static void posix_writeback(struct hf_file *f, uint64_t offset, uint64_t n) {
    (void)sync_file_range(fd_of(f), (off_t)offset, (off_t)n, SYNC_FILE_RANGE_WRITE);
}

/* ---- names ---- */

static enum hf_err posix_rename(struct hf_env *env, const char *from, const char *to) {
    int root = posix_of(env)->root_fd;
    return renameat(root, from, root, to) ? last_error() : HF_OK;
}

static enum hf_err posix_unlink(struct hf_env *env, const char *path) {
    return unlinkat(posix_of(env)->root_fd, path, 0) ? last_error() : HF_OK;
}

static enum hf_err posix_mkdir(struct hf_env *env, const char *path) {
    return mkdirat(posix_of(env)->root_fd, path, 0750) ? last_error() : HF_OK;
}

static enum hf_err posix_rmdir(struct hf_env *env, const char *path) {
    if (unlinkat(posix_of(env)->root_fd, path, AT_REMOVEDIR) == 0) return HF_OK;
    return errno == ENOENT ? HF_ENOTFOUND : HF_EIO; /* a full folder may give EEXIST or ENOTEMPTY */
}

static int no_dots(const struct dirent *d) {
    return strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static enum hf_err posix_list(struct hf_env *env, const char *dir, bool (*fn)(void *arg, const char *name),
                              void *arg) {
    struct dirent **names;
    int n = scandirat(posix_of(env)->root_fd, dir, &names, no_dots, by_bytes);
    if (n < 0) return last_error();
    bool more = true;
    for (int i = 0; i < n; i++) {
        more = more && fn(arg, names[i]->d_name);
        free(names[i]);
    }
    free(names);
    return HF_OK;
}

/* The lock belongs to the open file, so a second open in the same process is refused like any other. The pid
 * is written over the old one before the file is cut, so a reader finds one or the other, never nothing. */
static enum hf_err posix_lock(struct hf_env *env, const char *path, int64_t *pid) {
    struct posix_env *p = posix_of(env);
    int fd = open_at(p->root_fd, path, O_RDWR | O_CREAT | O_CLOEXEC);
    if (fd < 0) return last_error();
    char text[32] = {0};
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock)) {
        bool held = errno == EAGAIN || errno == EACCES;
        size_t got = 0;
        if (held && posix_read_all(fd, 0, text, sizeof text - 1, &got)) got = 0;
        if (held) *pid = got > 0 ? strtoll(text, NULL, 10) : 0;
        close(fd);
        return held ? HF_EAGAIN : HF_EIO;
    }
    int n = snprintf(text, sizeof text, "%lld\n", (long long)getpid());
    enum hf_err e = write_all(fd, 0, text, (size_t)n);
    if (!e) e = cut(fd, (uint64_t)n);
    if (e) {
        close(fd);
        return e;
    }
    if (p->lock_fd >= 0) close(p->lock_fd);
    p->lock_fd = fd;
    return HF_OK;
}

static enum hf_err posix_space(struct hf_env *env, uint64_t *free_bytes) {
    struct statvfs st;
    if (fstatvfs(posix_of(env)->root_fd, &st)) return last_error();
    *free_bytes = (uint64_t)st.f_bavail * st.f_frsize;
    return HF_OK;
}

static int posix_poll_fd(struct hf_env *env) {
    return posix_of(env)->sync.event_fd;
}

/* ---- open and close ---- */

static void posix_end(struct hf_env *env) {
    struct posix_env *p = posix_of(env);
    posix_sync_fini(&p->sync);
    if (p->lock_fd >= 0) close(p->lock_fd);
    close(p->root_fd);
    free(p);
}

static const struct env_ops posix_ops = {
    .wall_us = posix_wall_us,
    .mono_us = posix_mono_us,
    .boot_id = posix_boot_id,
    .random = posix_random,
    .log = posix_log,
    .open = posix_open,
    .close = posix_close,
    .size = posix_size,
    .read = posix_read,
    .write = posix_write,
    .allocate = posix_allocate,
    .truncate = posix_truncate,
    .writeback = posix_writeback,
    .fd = fd_of,
    .rename = posix_rename,
    .unlink = posix_unlink,
    .discard = posix_discard,
    .mkdir = posix_mkdir,
    .rmdir = posix_rmdir,
    .list = posix_list,
    .lock = posix_lock,
    .space = posix_space,
    .sync_begin = posix_sync_begin,
    .load_begin = posix_load_begin,
    .load_cancel = posix_load_cancel,
    .poll = posix_poll,
    .wait = posix_wait,
    .poll_fd = posix_poll_fd,
    .end = posix_end,
};

/* The first 16 hexadecimal digits of the kernel's boot id; 0 where there is none. */
static uint64_t read_boot_id(void) {
    char text[64] = {0};
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    uint64_t id = 0;
    for (ssize_t i = 0, digits = 0; i < n && digits < 16; i++) {
        const char *hex = "0123456789abcdef", *at = strchr(hex, text[i]);
        if (!at || text[i] == 0) continue;
        id = id << 4 | (uint64_t)(at - hex);
        digits++;
    }
    return id;
}

/* Makes the folder if it is missing; its own entry is made durable with it. */
static enum hf_err open_root(const char *root, int *fd) {
    bool made = mkdir(root, 0750) == 0;
    if (!made && errno != EEXIST) return last_error();
    *fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*fd < 0) return last_error();
    int parent = made ? openat(*fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (parent < 0) return HF_OK;
    enum hf_err e = fsync(parent) ? last_error() : HF_OK;
    close(parent);
    if (e) close(*fd);
    return e;
}

enum hf_err env_posix_open(const struct env_posix_options *options, struct hf_env **out) {
    struct posix_env *p = calloc(1, sizeof *p);
    if (!p) return HF_ENOMEM;
    p->base.ops = &posix_ops;
    p->lock_fd = -1;
    p->log_fd = options->log_fd ? options->log_fd : STDERR_FILENO;
    p->level = options->level;
    p->boot_id = read_boot_id();
    enum hf_err e = open_root(options->root, &p->root_fd);
    if (e) {
        free(p);
        return e;
    }
    e = posix_sync_init(&p->sync, p->root_fd);
    if (e) {
        close(p->root_fd);
        free(p);
        return e;
    }
    *out = &p->base;
    return HF_OK;
}
