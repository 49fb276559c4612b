/* HTTP for operators and the command: evhttp on the broker's loop, a table of routes, limits on headers and
 * bodies.
 *
 * The number of connections is limited too; at the limit no more are accepted, and further clients wait in
 * the kernel's queue until one is closed. evhttp does not tell when it closes a connection. So each
 * connection's bufferevent gets a second reference, which is given back once evhttp has taken its callbacks
 * off: it does that when it frees the connection, and never before. Until then the bufferevent goes on to
 * read: so the descriptor is closed by it (BEV_OPT_CLOSE_ON_FREE), not by evhttp, which would let the next
 * connection have the number while these events still watch it, and lose its bytes to them.
 *
 * A request may be answered later (its outcome has to be durable first). Its client may leave meanwhile;
 * evhttp then frees its request, so ours forgets it (on_closed) and drops the answer. */
#include "broker_internal.h"

#include <errno.h>
#include <event2/bufferevent.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <stdlib.h>
#include <sys/queue.h>

enum { HTTP_HEADERS_MAX = 16 * 1024, HTTP_TIMEOUT_S = 60, HTTP_ARENA_MAX = 4 << 20 };

struct broker_http_server {
    struct broker *broker;
    struct evhttp *http;
    struct evconnlistener *listener; /* evhttp's */
    struct bufferevent **connections;
    size_t connection_count;
    struct broker_http *first; /* unanswered */
};

struct broker_http {
    struct broker_http_server *server;
    struct evhttp_request *rq; /* NULL: the client has gone */
    struct broker_http *next, **previous;
    struct hf_arena arena;
    hf_str path, rest, body;
    struct evkeyvalq query;
    bool query_is_bad; /* malformed, or with a NUL byte, which evhttp takes for the end of a value */
};

static const struct {
    enum evhttp_cmd_type type;
    const char *name;
} methods[] = {{EVHTTP_REQ_GET, "GET"}, {EVHTTP_REQ_POST, "POST"},     {EVHTTP_REQ_HEAD, "HEAD"},
               {EVHTTP_REQ_PUT, "PUT"}, {EVHTTP_REQ_DELETE, "DELETE"}, {EVHTTP_REQ_PATCH, "PATCH"}};

static const char *method_of(struct evhttp_request *rq) {
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
        if (methods[i].type == evhttp_request_get_command(rq)) return methods[i].name;
    return "";
}

/* ---- a request's life ---- */

static void on_closed(struct evhttp_connection *connection, void *arg) {
    (void)connection;
    struct broker_http *h = arg;
    h->rq = NULL;
}

static void end(struct broker_http *h) {
    if (h->rq) evhttp_connection_set_closecb(evhttp_request_get_connection(h->rq), NULL, NULL);
    *h->previous = h->next;
    if (h->next) h->next->previous = h->previous;
    evhttp_clear_headers(&h->query);
    hf_arena_fini(&h->arena);
    free(h);
}

/* An answer to HEAD says how long the body would be, and has none (RFC 9110, 9.3.2); evhttp would send it. */
static void put_body(struct evhttp_request *rq, hf_str body) {
    char length[24];
    if (evhttp_request_get_command(rq) != EVHTTP_REQ_HEAD) {
        (void)evbuffer_add(evhttp_request_get_output_buffer(rq), body.p, body.n);
        return;
    }
    (void)snprintf(length, sizeof(length), "%zu", body.n);
    (void)evhttp_add_header(evhttp_request_get_output_headers(rq), "Content-Length", length);
}

void broker_http_reply(struct broker_http *h, int status, const char *content_type, hf_str body) {
    struct evhttp_request *rq = h->rq;
    if (rq) {
        (void)evhttp_add_header(evhttp_request_get_output_headers(rq), "Content-Type", content_type);
        put_body(rq, body);
    }
    end(h);
    if (rq) evhttp_send_reply(rq, status, NULL, NULL);
}

static void reply_text(struct broker_http *h, int status, const char *text) {
    broker_http_reply(h, status, "text/plain; charset=utf-8", hf_str_of(text));
}

/* ---- what a handler sees ---- */

hf_str broker_http_rest(const struct broker_http *h) {
    return h->rest;
}

hf_str broker_http_body(const struct broker_http *h) {
    return h->body;
}

hf_str broker_http_query(const struct broker_http *h, const char *name) {
    return hf_str_of(evhttp_find_header(&h->query, name));
}

struct hf_arena *broker_http_arena(struct broker_http *h) {
    return &h->arena;
}

/* ---- routes ---- */

/* Whether the path fits the pattern; *rest is what its "*" stands for. */
static bool path_fits(const char *pattern, hf_str path, hf_str *rest) {
    size_t n = strlen(pattern);
    *rest = (hf_str){path.p + path.n, 0};
    if (n == 0 || pattern[n - 1] != '*') return hf_str_is(path, pattern);
    if (!hf_str_starts(path, hf_str_make(pattern, n - 1))) return false;
    *rest = hf_str_make(path.p + n - 1, path.n - (n - 1));
    return true;
}

/* Whether `name` is among words that are separated by spaces. */
static bool is_word_of(const char *words, const char *name) {
    size_t n = strlen(name);
    for (const char *w = words; *w;) {
        size_t length = strcspn(w, " ");
        if (length == n && memcmp(w, name, n) == 0) return true;
        w += length + strspn(w + length, " ");
    }
    return false;
}

static bool query_fits(const struct broker_http *h, const char *names) {
    if (h->query_is_bad) return false;
    const struct evkeyval *at, *other;
    TAILQ_FOREACH(at, &h->query, next) {
        if (!is_word_of(names, at->key)) return false;
        for (other = TAILQ_NEXT(at, next); other; other = TAILQ_NEXT(other, next))
            if (strcmp(other->key, at->key) == 0) return false;
    }
    return true;
}

static void reply_query(struct broker_http *h, const char *names) {
    char text[256];
    (void)snprintf(text, sizeof(text), "{\"error\":\"query parameters: %s; each once\"}", names);
    if (!*names) (void)snprintf(text, sizeof(text), "{\"error\":\"no query parameters are taken here\"}");
    broker_http_reply(h, 400, "application/json", hf_str_of(text));
}

/* What the path takes instead (RFC 9110, 15.5.6). */
static void reply_allowed(struct broker_http *h, const char *methods_of_path) {
    (void)evhttp_add_header(evhttp_request_get_output_headers(h->rq), "Allow", methods_of_path);
    reply_text(h, 405, "method not allowed\n");
}

static void note_allowed(char *list, size_t size, const char *method) {
    size_t n = strlen(list);
    const char *head = strcmp(method, "GET") == 0 ? ", HEAD" : "";
    (void)snprintf(list + n, size - n, "%s%s%s", n ? ", " : "", method, head);
}

/* HEAD is a GET whose body is left out. */
static void dispatch(struct broker_http *h, const char *method) {
    const struct broker_options *o = &h->server->broker->options;
    char allowed[64] = "";
    if (strcmp(method, "HEAD") == 0) method = "GET";
    for (size_t i = 0; i < o->route_count; i++) {
        if (!path_fits(o->routes[i].path, h->path, &h->rest)) continue;
        note_allowed(allowed, sizeof(allowed), o->routes[i].method);
        if (strcmp(method, o->routes[i].method) != 0) continue;
        const char *query = o->routes[i].query;
        if (query && !query_fits(h, query))
            reply_query(h, query);
        else
            o->routes[i].handle(o->routes[i].ctx, h);
        return;
    }
    if (*allowed)
        reply_allowed(h, allowed);
    else
        reply_text(h, 404, "not found\n");
}

/* Copies what the handler may look at, since evhttp's request may go before it does. false: no memory. */
static bool copy_request(struct broker_http *h) {
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(h->rq);
    const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
    size_t n = 0;
    char *decoded = path ? evhttp_uridecode(path, 0, &n) : NULL;
    h->path = decoded ? hf_arena_str(&h->arena, hf_str_make(decoded, n)) : HF_STR("/");
    free(decoded);
    const char *query = uri ? evhttp_uri_get_query(uri) : NULL;
    h->query_is_bad = query && (strstr(query, "%00") || (*query && evhttp_parse_query_str(query, &h->query)));
    if (h->query_is_bad) TAILQ_INIT(&h->query);
    struct evbuffer *in = evhttp_request_get_input_buffer(h->rq);
    size_t body_n = evbuffer_get_length(in);
    char *body = hf_arena_alloc(&h->arena, body_n);
    if (!body || !h->path.p) return false;
    (void)evbuffer_remove(in, body, body_n);
    h->body = hf_str_make(body, body_n);
    return true;
}

static void on_request(struct evhttp_request *rq, void *arg) {
    struct broker_http_server *server = arg;
    struct broker_http *h = calloc(1, sizeof(*h));
    if (!h) {
        evhttp_send_error(rq, HTTP_INTERNAL, NULL);
        return;
    }
    h->server = server;
    h->rq = rq;
    h->previous = &server->first;
    h->next = server->first;
    if (h->next) h->next->previous = &h->next;
    server->first = h;
    TAILQ_INIT(&h->query);
    hf_arena_init(&h->arena, HTTP_ARENA_MAX + server->broker->options.http_body_max);
    evhttp_connection_set_closecb(evhttp_request_get_connection(rq), on_closed, h);
    if (copy_request(h))
        dispatch(h, method_of(rq));
    else
        reply_text(h, 500, "out of memory\n");
}

/* ---- connections ---- */

static bool is_freed(struct bufferevent *b) {
    bufferevent_data_cb read, write;
    bufferevent_event_cb event;
    bufferevent_getcb(b, &read, &write, &event, NULL);
    return !read && !write && !event;
}

static void forget_freed(struct broker_http_server *server) {
    size_t kept = 0;
    for (size_t i = 0; i < server->connection_count; i++) {
        struct bufferevent *b = server->connections[i];
        if (is_freed(b))
            (void)bufferevent_decref(b);
        else
            server->connections[kept++] = b;
    }
    server->connection_count = kept;
}

/* evhttp asks for the bufferevent of a connection that it has accepted. */
static struct bufferevent *on_connection(struct event_base *base, void *arg) {
    struct broker_http_server *server = arg;
    const struct broker_options *o = &server->broker->options;
    struct bufferevent *b = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
    if (server->connection_count + 1 >= o->http_connections_max) forget_freed(server);
    if (!b || server->connection_count == o->http_connections_max) return b;
    bufferevent_incref(b);
    server->connections[server->connection_count++] = b;
    if (server->connection_count == o->http_connections_max) {
        (void)evconnlistener_disable(server->listener);
        env_log(o->env, ENV_WARN, "http_full", "connections=%zu note=\"further ones wait\"",
                server->connection_count);
    }
    return b;
}

/* Out of descriptors, most likely. */
static void on_accept_error(struct evconnlistener *l, void *arg) {
    (void)arg;
    (void)evconnlistener_disable(l);
}

void http_sweep(struct broker_http_server *server) {
    forget_freed(server);
    server->broker->stats.http_connections = server->connection_count;
    if (server->connection_count < server->broker->options.http_connections_max)
        (void)evconnlistener_enable(server->listener);
}

/* ---- open and close ---- */

static enum hf_err bind_http(struct broker *b, struct broker_http_server *server) {
    struct sockaddr_storage a;
    int n;
    if (broker_parse_address(b->options.http, &a, &n)) {
        env_log(b->options.env, ENV_ERROR, "listen_failed", "address=%s error=\"not ADDRESS:PORT\"",
                b->options.http);
        return HF_EINVAL;
    }
    unsigned flags = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE;
    struct evconnlistener *l =
        evconnlistener_new_bind(b->base, NULL, NULL, flags, -1, (struct sockaddr *)&a, n);
    if (!l) {
        int e = errno;
        env_log(b->options.env, ENV_ERROR, "listen_failed", "address=%s error=\"%s\"", b->options.http,
                strerror(e));
        return e == EADDRINUSE ? HF_EEXIST : HF_EIO;
    }
    struct evhttp_bound_socket *bound = evhttp_bind_listener(server->http, l);
    if (!bound) {
        evconnlistener_free(l);
        return HF_ENOMEM;
    }
    evconnlistener_set_error_cb(l, on_accept_error);
    server->listener = l;
    socklen_t size = sizeof(a);
    if (getsockname(evhttp_bound_socket_get_fd(bound), (struct sockaddr *)&a, &size)) return HF_EIO;
    broker_format_address((struct sockaddr *)&a, b->http_address);
    return HF_OK;
}

enum hf_err http_open(struct broker *b, struct broker_http_server **out) {
    struct broker_http_server *server = calloc(1, sizeof(*server));
    if (!server) return HF_ENOMEM;
    server->broker = b;
    server->http = evhttp_new(b->base);
    server->connections = calloc(b->options.http_connections_max, sizeof(struct bufferevent *));
    enum hf_err e = server->http && server->connections ? bind_http(b, server) : HF_ENOMEM;
    if (e) {
        http_close(server);
        return e;
    }
    evhttp_set_allowed_methods(server->http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD |
                                                 EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE | EVHTTP_REQ_PATCH);
    evhttp_set_max_headers_size(server->http, HTTP_HEADERS_MAX);
    evhttp_set_max_body_size(server->http, (ev_ssize_t)b->options.http_body_max);
    evhttp_set_timeout(server->http, HTTP_TIMEOUT_S);
    evhttp_set_gencb(server->http, on_request, server);
    evhttp_set_bevcb(server->http, on_connection, server);
    *out = server;
    return HF_OK;
}

void http_close(struct broker_http_server *server) {
    if (server->http) evhttp_free(server->http); /* calls on_closed for what is unanswered */
    while (server->first) end(server->first);
    forget_freed(server);
    free(server->connections);
    free(server);
}
