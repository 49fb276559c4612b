/* One Kafka connection: bytes in, frames, requests in order, answers in order, bytes out.
 *
 *   socket ──recv──► scratch ──► frame ──► queue of requests
 *                                           QUEUED → STARTED → ANSWERED
 *   socket ◄──────────send────────────── encoded, in the order of the queue
 *          ◄─writev, sendfile── out ◄──┘ what must wait, and ranges of files
 *
 * A frame is `int32 length, bytes`. Whole small frames are cut out of one shared scratch buffer, so an idle
 * connection holds no buffer; a large frame is read directly into its own memory.
 *
 * Order. Answers leave in the order of their requests (invariant 1: only the queue's head is encoded). A
 * request is started when all before it are answered, as in Kafka, but for produce requests, which start side
 * by side, so that one client with several in flight shares one sync.
 *
 * Bounds, and what happens there:
 *   frame_max     a longer frame closes the connection before anything is allocated
 *   frames_max    bytes of all frames together: a connection that would pass it waits (`starved`); stalled
 *                 frames are closed by the sweep, so the wait ends
 *   pipeline_max, answers_max
 *                 the next request is not started, and while one is waiting to be started nothing is read.
 *                 At most pipeline_max requests queue; what one read brought beyond them (64 KiB at most) is
 *                 kept as bytes (`stash`)
 *
 * A client that goes away ends its waits: the end of its stream is noticed even when nothing is read
 * (EPOLLRDHUP). What it sent before is still worked on (acks=0 producers close right after sending), but
 * nothing waits any more, and answers are dropped when they cannot be written.
 *
 * Closing. The socket goes at once; the object stays until its last request has ended (handlers hold pointers
 * to requests, requests to their connection). Invariant 2: a closed connection has no events, and its
 * requests have `gone` set. */
#include "broker_internal.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_TURNS = 16 };

struct broker_connection {
    struct broker *broker;
    int fd;                   /* -1: closed */
    struct event *io;         /* edge-triggered: readable, writable, hung up */
    bool can_read, can_write; /* until the socket says otherwise */
    bool corked;              /* TCP_CORK is on */
    char address[BROKER_ADDRESS];
    int64_t active_us;
    struct broker_connection *older, *newer; /* the broker's list by activity */
    struct broker_connection *next_dirty, *next_starved;
    bool dirty, starved;
    bool leaving; /* the client has shut down its side: nothing waits for it any more */
    bool ended;   /* all that it sent was read */

    uint8_t prefix[BROKER_PREFIX];
    size_t prefix_n;
    uint8_t *frame; /* being received; NULL: none */
    size_t frame_size, frame_n;
    bool frame_admitted; /* counted in frames_held */

    uint8_t *stash; /* bytes read, but not cut into frames yet; NULL: none */
    size_t stash_at, stash_n;

    struct broker_request *first, **last; /* unanswered, in order of arrival */
    size_t count, started;                /* started ones stand before queued ones */
    bool side_by_side;                    /* those started are all pipelined */
    struct evbuffer *out;
};

/* ---- the broker's lists: open ones by activity, and closed ones ---- */

static void unlink_from(struct broker_connection *c, struct broker_connection **head,
                        struct broker_connection **tail) {
    *(c->older ? &c->older->newer : head) = c->newer;
    if (c->newer)
        c->newer->older = c->older;
    else if (tail)
        *tail = c->older;
    c->older = c->newer = NULL;
}

static void unlink_open(struct broker_connection *c) {
    unlink_from(c, &c->broker->oldest, &c->broker->newest);
}

static void link_newest(struct broker_connection *c) {
    struct broker *b = c->broker;
    c->older = b->newest;
    *(b->newest ? &b->newest->newer : &b->oldest) = c;
    b->newest = c;
}

static void link_closed(struct broker_connection *c) {
    struct broker *b = c->broker;
    c->newer = b->closed;
    if (b->closed) b->closed->older = c;
    b->closed = c;
}

static void touch(struct broker_connection *c) {
    struct broker *b = c->broker;
    if (b->turn_us == 0) b->turn_us = env_mono_us(b->options.env);
    c->active_us = b->turn_us;
    unlink_open(c);
    link_newest(c);
}

/* ---- open and close ---- */

static void on_io(evutil_socket_t fd, short what, void *arg);

static void free_connection(struct broker_connection *c) {
    assert(c->fd < 0 && !c->first && !c->dirty && !c->starved);
    unlink_from(c, &c->broker->closed, NULL);
    free(c);
}

void connection_open(struct broker *b, evutil_socket_t fd, const char *address) {
    struct broker_connection *c = calloc(1, sizeof(*c));
    if (!c) {
        close(fd);
        return;
    }
    c->broker = b;
    c->fd = fd;
    c->last = &c->first;
    (void)snprintf(c->address, sizeof(c->address), "%s", address);
    c->can_write = true;
    c->io = event_new(b->base, fd, EV_READ | EV_WRITE | EV_CLOSED | EV_ET | EV_PERSIST, on_io, c);
    c->out = evbuffer_new();
    if (!c->io || !c->out || event_add(c->io, NULL)) {
        if (c->io) event_free(c->io);
        if (c->out) evbuffer_free(c->out);
        free(c);
        close(fd);
        return;
    }
    /* Lets evbuffer_write use sendfile for file segments. */
    (void)evbuffer_set_flags(c->out, EVBUFFER_FLAG_DRAINS_TO_FD);
    link_newest(c);
    touch(c);
    b->stats.connections++;
    b->stats.connections_total++;
}

static void drop_frame(struct broker_connection *c) {
    if (!c->frame) return;
    if (c->frame_admitted) c->broker->frames_held -= c->frame_size;
    free(c->frame);
    c->frame = NULL;
}

/* Tells waiting handlers that nobody listens. A handler may answer inside its callback, which takes the
 * request off the queue in connections_settle only, so the walk is safe. */
static void tell_gone(struct broker_connection *c) {
    for (struct broker_request *rq = c->first; rq; rq = rq->next) {
        if (rq->gone) continue;
        rq->gone = true;
        if (rq->progress == BROKER_STARTED && rq->on_gone) rq->on_gone(rq);
    }
}

void connection_close(struct broker_connection *c) {
    if (c->fd < 0) return;
    event_free(c->io);
    c->io = NULL;
    close(c->fd);
    c->fd = -1;
    evbuffer_free(c->out); /* releases the pins of unsent ranges */
    c->out = NULL;
    drop_frame(c);
    free(c->stash);
    c->stash = NULL;
    unlink_open(c);
    link_closed(c);
    c->broker->stats.connections--;
    tell_gone(c);
    connection_mark_dirty(c);
}

void connection_refuse(struct broker_connection *c, const char *why) {
    if (c->fd < 0) return;
    struct broker *b = c->broker;
    b->stats.frames_refused++;
    uint64_t suppressed;
    if (broker_limiter_pass(&b->refused, env_mono_us(b->options.env), &suppressed))
        env_log(b->options.env, ENV_WARN, "frame_refused", "client=%s reason=\"%s\" suppressed=%llu",
                c->address, why, (unsigned long long)suppressed);
    connection_close(c);
}

void connection_mark_dirty(struct broker_connection *c) {
    if (c->dirty) return;
    c->dirty = true;
    c->next_dirty = c->broker->dirty;
    c->broker->dirty = c;
}

const char *connection_address(const struct broker_connection *c) {
    return c->address;
}

/* ---- bytes in ---- */

static bool may_read(const struct broker_connection *c) {
    return c->fd >= 0 && !c->broker->stopping && !c->ended && !c->starved && c->count == c->started &&
           c->count < c->broker->options.pipeline_max;
}

/* The frame in c->frame is whole. */
static void take_frame(struct broker_connection *c) {
    uint8_t *frame = c->frame;
    c->frame = NULL;
    const char *why = NULL;
    struct broker_request *rq = request_of_frame(c->broker, c, frame, c->frame_size, &why);
    if (!rq) {
        connection_refuse(c, why);
        return;
    }
    rq->gone = c->leaving;
    *c->last = rq;
    c->last = &rq->next;
    c->count++;
    connection_mark_dirty(c);
}

static bool frame_fits(const struct broker_connection *c) {
    const struct broker *b = c->broker;
    return b->frames_held == 0 || b->frames_held + c->frame_size <= b->options.frames_max;
}

static void admit_frame(struct broker_connection *c) {
    c->frame_admitted = true;
    c->broker->frames_held += c->frame_size;
}

/* The frame's memory is untouched but for what one read brought, and stays so until there is room for it. */
static void starve(struct broker_connection *c) {
    c->frame_admitted = false;
    c->starved = true;
    c->next_starved = NULL;
    *c->broker->starved_last = c;
    c->broker->starved_last = &c->next_starved;
}

/* The length field is whole: memory for the frame. false: refused. */
static bool begin_frame(struct broker_connection *c) {
    struct broker *b = c->broker;
    int32_t n = (int32_t)hf_get_be32(c->prefix);
    if (n <= 0 || (size_t)n > b->options.frame_max) {
        connection_refuse(c, n <= 0 ? "frame length is not positive" : "frame is longer than the limit");
        return false;
    }
    c->frame = malloc((size_t)n);
    if (!c->frame) {
        connection_refuse(c, "no memory for the frame");
        return false;
    }
    c->frame_size = (size_t)n;
    c->frame_n = 0;
    c->prefix_n = 0;
    if (c->frame_size <= BROKER_SCRATCH || frame_fits(c))
        admit_frame(c);
    else
        starve(c);
    return true;
}

/* Cuts bytes into frames, as long as requests may queue; a frame that is not whole stays in c->frame. Returns
 * how many bytes were used. */
static size_t cut_frames(struct broker_connection *c, const uint8_t *p, size_t n) {
    size_t used = 0;
    while (c->fd >= 0 && used < n && c->count < c->broker->options.pipeline_max) {
        if (!c->frame) {
            size_t k = BROKER_PREFIX - c->prefix_n;
            if (k > n - used) k = n - used;
            memcpy(c->prefix + c->prefix_n, p + used, k);
            c->prefix_n += k;
            used += k;
            if (c->prefix_n < BROKER_PREFIX || !begin_frame(c)) break;
        }
        size_t k = c->frame_size - c->frame_n;
        if (k > n - used) k = n - used;
        memcpy(c->frame + c->frame_n, p + used, k);
        c->frame_n += k;
        used += k;
        if (c->frame_n == c->frame_size) take_frame(c);
    }
    return used;
}

static void cut_stash(struct broker_connection *c) {
    c->stash_at += cut_frames(c, c->stash + c->stash_at, c->stash_n - c->stash_at);
    if (c->fd < 0 || c->stash_at < c->stash_n) return; /* closing has freed it, or the rest waits */
    free(c->stash);
    c->stash = NULL;
}

/* What is in the scratch buffer belongs to this connection. */
static void cut_scratch(struct broker_connection *c, size_t n) {
    const uint8_t *scratch = c->broker->scratch;
    size_t used = cut_frames(c, scratch, n);
    if (c->fd < 0 || used == n) return;
    c->stash = malloc(n - used);
    if (!c->stash) {
        connection_refuse(c, "no memory for what was received");
        return;
    }
    memcpy(c->stash, scratch + used, n - used);
    c->stash_at = 0;
    c->stash_n = n - used;
}

/* A large frame takes what it lacks directly; all else goes through the scratch buffer. Less than was asked for
 * means that there is no more: the next bytes raise a new event, and so does the stream's end (EV_CLOSED). */
static ssize_t read_some(struct broker_connection *c) {
    struct broker *b = c->broker;
    size_t lacking = c->frame ? c->frame_size - c->frame_n : 0;
    bool direct = lacking >= BROKER_SCRATCH;
    size_t most = direct ? lacking : sizeof(b->scratch);
    ssize_t n = recv(c->fd, direct ? c->frame + c->frame_n : b->scratch, most, 0);
    if (n <= 0) return n;
    b->stats.bytes_in += (uint64_t)n;
    if ((size_t)n < most && !c->leaving) c->can_read = false;
    if (!direct) {
        cut_scratch(c, (size_t)n);
    } else {
        c->frame_n += (size_t)n;
        if (c->frame_n == c->frame_size) take_frame(c);
    }
    return n;
}

/* The other side has shut down its sending half, or is gone altogether. What it sent is still read and worked
 * on, but nobody waits for what is not there yet. */
static void begin_leaving(struct broker_connection *c) {
    if (c->leaving) return;
    c->leaving = true;
    tell_gone(c);
}

static bool something_to_read(const struct broker_connection *c) {
    return c->can_read || c->stash;
}

/* Reads as much as may be read, but lets others have their turn: the event is then raised again. */
static void read_on(struct broker_connection *c) {
    for (int turns = 0; something_to_read(c) && may_read(c); turns++) {
        if (turns == READ_TURNS) {
            event_active(c->io, EV_READ, 0);
            return;
        }
        if (c->stash) {
            cut_stash(c);
            continue;
        }
        ssize_t n = read_some(c);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) {
            c->can_read = false;
        } else if (n < 0) {
            connection_close(c);
        } else if (n == 0) {
            c->ended = true; /* settle closes when all is answered */
            begin_leaving(c);
        }
    }
}

static void on_io(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    struct broker_connection *c = arg;
    connection_mark_dirty(c);
    if (what & EV_WRITE) c->can_write = true;
    if (what & EV_CLOSED) begin_leaving(c);
    if (!(what & (EV_READ | EV_CLOSED))) return;
    c->can_read = true;
    touch(c);
    read_on(c);
}

/* ---- requests in order ---- */

static bool may_start(const struct broker_connection *c, const struct broker_request *rq) {
    const struct broker_options *o = &c->broker->options;
    if (c->fd >= 0 && evbuffer_get_length(c->out) > o->answers_max) return false;
    if (c->broker->held && rq->api->traits & KAFKA_PIPELINED) return false;
    if (c->started == 0) return true;
    return (rq->api->traits & KAFKA_PIPELINED) && c->side_by_side && c->started < o->pipeline_max;
}

static struct broker_request *next_queued(const struct broker_connection *c) {
    struct broker_request *rq = c->first;
    while (rq && rq->progress != BROKER_QUEUED) rq = rq->next;
    return rq;
}

/* Takes the head off the queue. */
static void end_first(struct broker_connection *c) {
    struct broker_request *rq = c->first;
    c->first = rq->next;
    if (!c->first) c->last = &c->first;
    c->count--;
    if (rq->progress != BROKER_QUEUED) {
        c->started--;
        if (rq->api->traits & KAFKA_PIPELINED) c->broker->producing--;
    }
    c->broker->frames_held -= rq->frame_size;
    request_free(c->broker, rq);
}

static void start_requests(struct broker_connection *c) {
    struct broker_request *rq;
    while (c->fd >= 0 && (rq = next_queued(c)) && may_start(c, rq)) {
        rq->progress = BROKER_STARTED;
        c->started++;
        c->side_by_side = (rq->api->traits & KAFKA_PIPELINED) != 0;
        if (c->side_by_side) c->broker->producing++;
        const char *why = NULL;
        if (!request_start(c->broker, rq, &why)) {
            rq->progress = BROKER_ANSWERED;
            rq->silent = true;
            connection_refuse(c, why);
        }
    }
}

/* Of an answer with several ranges of files, what comes between them shall not leave as packets of its own. */
static void cork(struct broker_connection *c, bool on) {
    int value = on;
    if (c->corked == on || setsockopt(c->fd, IPPROTO_TCP, TCP_CORK, &value, sizeof value)) return;
    c->corked = on;
}

/* Whether nothing is in front of this answer, and no other one comes right behind it, with which it could share a
 * call. */
static bool goes_alone(const struct broker_connection *c, const struct broker_request *rq) {
    bool another = rq->next && rq->next->progress == BROKER_ANSWERED;
    return c->can_write && !another && evbuffer_get_length(c->out) == 0;
}

/* How many of the bytes the socket took at once. What is wrong with it shows again when the rest is written. */
static size_t send_now(struct broker_connection *c, const uint8_t *p, size_t n, bool more_follows) {
    ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL | (more_follows ? MSG_MORE : 0));
    if (sent <= 0) return 0;
    c->broker->stats.bytes_out += (uint64_t)sent;
    touch(c);
    return (size_t)sent;
}

/* false: it is larger than the limit, or there is no memory. */
static bool send_answer(struct broker_connection *c, struct broker_request *rq) {
    const struct hf_buf *encoded = &c->broker->encoded;
    struct kafka_splices ranges;
    if (!request_encode(c->broker, rq, &ranges)) return false;
    const struct kafka_splice *first = ranges.first;
    size_t sent = 0;
    if (goes_alone(c, rq)) sent = send_now(c, encoded->p, first ? first->at : encoded->n, first != NULL);
    if (sent == encoded->n && !first) return true;
    if (first && first->next) cork(c, true);
    return request_append(encoded, &ranges, sent, c->out);
}

/* Invariant 1: answers leave in order. What was not started when the connection closed ends unseen. */
static void collect_answers(struct broker_connection *c) {
    while (c->first) {
        struct broker_request *rq = c->first;
        if (rq->progress == BROKER_STARTED || (rq->progress == BROKER_QUEUED && c->fd >= 0)) return;
        if (c->fd >= 0 && !rq->silent && !send_answer(c, rq))
            connection_refuse(c, "the answer is larger than the limit");
        end_first(c);
    }
}

/* ---- bytes out ---- */

static void write_some(struct broker_connection *c) {
    while (c->fd >= 0 && c->can_write && evbuffer_get_length(c->out) > 0) {
        errno = 0;
        int n = evbuffer_write(c->out, c->fd); /* 0 with EAGAIN, too: from sendfile */
        if (n > 0) {
            c->broker->stats.bytes_out += (uint64_t)n;
            touch(c);
        } else if (errno == EAGAIN) {
            c->can_write = false;
        } else if (errno != EINTR) {
            connection_close(c); /* gone, or a file range that ended early */
        }
    }
    if (c->corked && c->fd >= 0 && evbuffer_get_length(c->out) == 0) cork(c, false);
}

/* ---- after each batch of events ---- */

/* While reading is held back, a reset shows only here. */
static bool reset_by_client(const struct broker_connection *c) {
    int e = 0;
    socklen_t n = sizeof(e);
    return getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &n) == 0 && e != 0;
}

/* An answer may let the next request start, which may be answered at once, and let more be read. */
static void settle(struct broker_connection *c) {
    do {
        collect_answers(c);
        write_some(c);
        start_requests(c);
    } while (c->first && c->first->progress == BROKER_ANSWERED);
    if (something_to_read(c) && may_read(c)) event_active(c->io, EV_READ, 0);
    if (c->fd >= 0 && c->first && !may_read(c) && reset_by_client(c)) connection_close(c);
    if (c->ended && c->fd >= 0 && !c->first && evbuffer_get_length(c->out) == 0) connection_close(c);
}

static void unstarve(struct broker *b) {
    while (b->starved && (b->starved->fd < 0 || frame_fits(b->starved))) {
        struct broker_connection *c = b->starved;
        b->starved = c->next_starved;
        if (!b->starved) b->starved_last = &b->starved;
        c->starved = false;
        if (c->fd >= 0) admit_frame(c);
        connection_mark_dirty(c);
    }
}

void connections_settle(struct broker *b) {
    while (b->dirty) {
        struct broker_connection *c = b->dirty;
        b->dirty = c->next_dirty;
        c->dirty = false;
        settle(c);
        if (c->fd < 0 && !c->first && !c->dirty && !c->starved) free_connection(c);
        if (!b->dirty) unstarve(b);
    }
}

void connections_resume(struct broker *b) {
    for (struct broker_connection *c = b->oldest; c; c = c->newer)
        if (c->first) connection_mark_dirty(c);
}

void connections_drop(struct broker *b) {
    for (struct broker_connection *c = b->closed, *next; c; c = next) {
        next = c->newer;
        while (c->first) end_first(c);
        free_connection(c);
    }
}

void connections_sweep(struct broker *b) {
    int64_t now = env_mono_us(b->options.env);
    struct broker_connection *c = b->oldest;
    while (c && now - c->active_us > b->options.stall_ms * 1000) {
        struct broker_connection *newer = c->newer;
        bool stalled = c->frame || c->prefix_n || evbuffer_get_length(c->out) > 0;
        if (stalled && !c->starved)
            connection_refuse(c, "stalled in the middle of a frame or of an answer");
        else if (!c->first && now - c->active_us > b->options.idle_ms * 1000)
            connection_close(c);
        c = newer;
    }
}
