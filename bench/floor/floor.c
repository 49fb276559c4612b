/* Floor programs: the same bytes moved with no broker logic, for the same lean client. What a message costs
 * here, it costs everybody; the rest is Holdfast's.
 *
 *     floor durable FILE    receive frames, append them, sync once for all that came meanwhile, answer
 *     floor copy FILE       receive frames, checksum, copy into preallocated mapped files, answer
 *     floor write FILE      the same by write, not mapped
 *     floor sendfile FILE N any frame is answered by the next N bytes of FILE, sent with sendfile; round and round, as
 *                           a consumer walks through a log: the same N again and again would be found in the caches
 *
 * A journal goes round in files that were written once before, so `durable` does. A log does not: what it
 * keeps stays where it is, and what comes goes to fresh space and fresh pages. So `copy` and `write` go on
 * from one preallocated file to the next, FILE.0, FILE.1, …, and keep the last 32 (8 GiB), as a log with
 * retention would; else they would measure stores into pages that were dirty all along, which no log has.
 *
 * Prints "ready port=…"; ends on SIGTERM. Answers have the size of a Produce v7 answer and begin with the
 * correlation id. */
#include "base/bytes.h"
#include "base/crc32c.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FRAME_MAX = 4 << 20, FILE_BYTES = 256 << 20, FILES_KEPT = 32, ANSWER = 52, CONNECTIONS_MAX = 1024 };

struct connection {
    int fd;
    uint8_t *p;
    size_t n;
    int answers; /* owed, once the sync is done */
};

enum mode { DURABLE, COPY, WRITE, SENDFILE };

struct floor {
    enum mode mode;
    const char *path;
    int file;
    int files; /* copy, write: begun so far */
    uint8_t *map;
    size_t at;
    size_t answer_bytes;
    size_t file_bytes; /* sendfile */
    bool dirty;
    int epoll;
    struct connection *owed[CONNECTIONS_MAX];
    int owed_count;
};

static _Noreturn void die(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void remove_file(const struct floor *f, int number) {
    char path[4096];
    snprintf(path, sizeof path, "%s.%d", f->path, number);
    unlink(path);
}

/* The next of the row: fresh space. */
static void next_file(struct floor *f) {
    char path[4096];
    if (f->map) munmap(f->map, FILE_BYTES);
    if (f->files > 0) close(f->file);
    if (f->files >= FILES_KEPT) remove_file(f, f->files - FILES_KEPT);
    snprintf(path, sizeof path, "%s.%d", f->path, f->files++);
    f->file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (f->file < 0) die(path);
    if (posix_fallocate(f->file, 0, FILE_BYTES)) die("fallocate");
    f->at = 0;
    if (f->mode == WRITE) return;
    f->map = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, f->file, 0);
    if (f->map == MAP_FAILED) die("mmap");
}

static void remove_files(const struct floor *f) {
    for (int i = f->files < FILES_KEPT ? 0 : f->files - FILES_KEPT; i < f->files; i++) remove_file(f, i);
}

/* Blocks are written once before use: an overwrite's sync needs no metadata. */
static void prepare_file(struct floor *f) {
    if (f->mode == COPY || f->mode == WRITE) {
        next_file(f);
        return;
    }
    f->file = open(f->path, O_RDWR | O_CREAT, 0644);
    if (f->file < 0) die(f->path);
    if (f->mode == SENDFILE) {
        off_t end = lseek(f->file, 0, SEEK_END);
        if (end < (off_t)f->answer_bytes) die("the file is shorter than an answer");
        f->file_bytes = (size_t)end;
        return;
    }
    if (posix_fallocate(f->file, 0, FILE_BYTES)) die("fallocate");
    static uint8_t zeros[1 << 20];
    for (off_t at = 0; at < FILE_BYTES; at += (off_t)sizeof zeros)
        if (pwrite(f->file, zeros, sizeof zeros, at) != (ssize_t)sizeof zeros) die("write");
    if (fsync(f->file)) die("fsync");
}

static size_t place(struct floor *f, size_t n) {
    if (f->at + n > FILE_BYTES && f->mode != DURABLE) next_file(f);
    if (f->at + n > FILE_BYTES) f->at = 0;
    size_t at = f->at;
    f->at += n;
    return at;
}

static void send_answer(struct connection *c) {
    uint8_t answer[4 + ANSWER] = {0};
    hf_put_be32(answer, ANSWER);
    if (send(c->fd, answer, sizeof answer, MSG_NOSIGNAL) != (ssize_t)sizeof answer) die("send");
}

/* Blocks when the client is slow, as it is the only one in these runs. */
static void send_range(struct floor *f, struct connection *c) {
    uint8_t head[8] = {0};
    hf_put_be32(head, (uint32_t)(4 + f->answer_bytes));
    if (send(c->fd, head, sizeof head, MSG_NOSIGNAL | MSG_MORE) != (ssize_t)sizeof head) die("send");
    if (f->at + f->answer_bytes > f->file_bytes) f->at = 0;
    off_t from = (off_t)f->at;
    f->at += f->answer_bytes;
    while (from < (off_t)f->at) {
        ssize_t n = sendfile(c->fd, f->file, &from, f->at - (size_t)from);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) die("sendfile");
    }
}

static void frame(struct floor *f, struct connection *c, const uint8_t *p, size_t n) {
    switch (f->mode) {
    case DURABLE:
        if (pwrite(f->file, p, n, (off_t)place(f, n)) != (ssize_t)n) die("write");
        f->dirty = true;
        if (c->answers++ == 0) f->owed[f->owed_count++] = c;
        break;
    case COPY: {
        uint32_t crc = hf_crc32c(0, p, n);
        size_t at = place(f, n + 4);
        memcpy(f->map + at, &crc, 4);
        memcpy(f->map + at + 4, p, n);
        send_answer(c);
        break;
    }
    case WRITE: {
        uint32_t crc = hf_crc32c(0, p, n);
        struct iovec parts[2] = {{&crc, 4}, {(void *)(uintptr_t)p, n}};
        size_t at = place(f, n + 4);
        if (pwritev(f->file, parts, 2, (off_t)at) != (ssize_t)n + 4) die("write");
        send_answer(c);
        break;
    }
    case SENDFILE: send_range(f, c); break;
    }
}

static bool receive(struct floor *f, struct connection *c) {
    ssize_t n = recv(c->fd, c->p + c->n, FRAME_MAX - c->n, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return true;
    if (n <= 0) return false;
    c->n += (size_t)n;
    size_t at = 0;
    while (c->n - at >= 4) {
        size_t length = hf_get_be32(c->p + at);
        if (length > FRAME_MAX - 4) return false;
        if (c->n - at < 4 + length) break;
        frame(f, c, c->p + at + 4, length);
        at += 4 + length;
    }
    memmove(c->p, c->p + at, c->n - at);
    c->n -= at;
    return true;
}

static void sync_and_answer(struct floor *f) {
    if (!f->dirty) return;
    if (fdatasync(f->file)) die("fdatasync");
    f->dirty = false;
    for (int i = 0; i < f->owed_count; i++)
        for (struct connection *c = f->owed[i]; c->answers > 0; c->answers--) send_answer(c);
    f->owed_count = 0;
}

static void add(struct floor *f, int fd, struct connection *c) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(f->epoll, EPOLL_CTL_ADD, fd, &e)) die("epoll_ctl");
}

static void welcome(struct floor *f, int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), one = 1;
    if (fd < 0) return;
    struct connection *c = calloc(1, sizeof *c);
    if (!c || !(c->p = malloc(FRAME_MAX))) die("malloc");
    c->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
    add(f, fd, c);
}

static void goodbye(struct connection *c) {
    close(c->fd);
    free(c->p);
    free(c);
}

static volatile sig_atomic_t stopped;

static void on_signal(int number) {
    (void)number;
    stopped = 1;
}

static void serve(struct floor *f, int listener) {
    while (!stopped) {
        struct epoll_event events[256];
        int n = epoll_wait(f->epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c)
                welcome(f, listener);
            else if (!receive(f, c) && c->answers == 0)
                goodbye(c);
        }
        sync_and_answer(f);
    }
    if (f->mode == COPY || f->mode == WRITE) remove_files(f);
}

int main(int argc, char **argv) {
    static struct floor f;
    static const char *const modes[] = {"durable", "copy", "write", "sendfile"};
    int mode = -1;
    for (int i = 0; argc >= 3 && i < 4; i++)
        if (strcmp(argv[1], modes[i]) == 0) mode = i;
    if (mode < 0 || (mode == SENDFILE && argc != 4)) {
        fputs("usage: floor durable FILE | copy FILE | write FILE | sendfile FILE BYTES\n", stderr);
        return 2;
    }
    f.mode = (enum mode)mode;
    if (mode == SENDFILE) f.answer_bytes = strtoul(argv[3], NULL, 10);
    f.path = argv[2];
    prepare_file(&f);
    (void)signal(SIGTERM, on_signal);
    f.epoll = epoll_create1(EPOLL_CLOEXEC);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof at;
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1024)) die("listen");
    getsockname(listener, (struct sockaddr *)&at, &size);
    add(&f, listener, NULL);
    printf("ready port=%d pid=%d\n", ntohs(at.sin_port), getpid());
    fflush(stdout);
    serve(&f, listener);
    return 0;
}
