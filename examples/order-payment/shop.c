#include "shop.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

void die(const char *what, const char *why) {
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, why);
    exit(1);
}

const char *setting(const char *name, const char *default_) {
    const char *value = getenv(name);
    if (!value && !default_) die(name, "must be set");
    return value ? value : default_;
}

int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- orders ---- */

hf_str order_text(const struct order *o) {
    static _Thread_local char text[200];
    int n = snprintf(text, sizeof text, "{\"order\":\"%s\",\"sku\":\"%s\",\"quantity\":%d,\"coupon\":\"%s\"}",
                     o->id, o->sku, o->quantity, o->coupon);
    return (hf_str){text, (size_t)n};
}

bool order_parse(hf_str text, struct order *out) {
    const char *id, *sku, *coupon;
    json_t *j = json_loadb(text.p, text.n, 0, NULL);
    bool ok = j && json_unpack(j, "{s:s, s:s, s:i, s:s}", "order", &id, "sku", &sku, "quantity",
                               &out->quantity, "coupon", &coupon) == 0;
    if (ok) {
        (void)snprintf(out->id, sizeof out->id, "%s", id);
        (void)snprintf(out->sku, sizeof out->sku, "%s", sku);
        (void)snprintf(out->coupon, sizeof out->coupon, "%s", coupon);
    }
    json_decref(j);
    return ok;
}

/* ---- SQL ---- */

sqlite3 *orders_open(void) {
    sqlite3 *db;
    if (sqlite3_open(setting("SHOP_ORDERS", NULL), &db)) die("orders", sqlite3_errmsg(db));
    sqlite3_busy_timeout(db, 10000);
    return db;
}

int run(sqlite3 *db, const char *sql, ...) {
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL)) return -1;
    va_list values;
    va_start(values, sql);
    const char *value;
    for (int i = 1; (value = va_arg(values, const char *)); i++)
        sqlite3_bind_text(s, i, value, -1, SQLITE_STATIC);
    va_end(values);
    int rc;
    do rc = sqlite3_step(s);
    while (rc == SQLITE_ROW);
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? sqlite3_changes(db) : -1;
}

int pg_run(PGconn *pg, const char *sql, ...) {
    const char *values[8];
    int n = 0;
    va_list list;
    va_start(list, sql);
    while (n < 8 && (values[n] = va_arg(list, const char *))) n++;
    va_end(list);
    PGresult *r = PQexecParams(pg, sql, n, NULL, values, NULL, NULL, 0);
    int changed = PQresultStatus(r) == PGRES_COMMAND_OK ? atoi(PQcmdTuples(r)) : -1;
    if (changed < 0) fprintf(stderr, "%s: %s", program_invocation_short_name, PQerrorMessage(pg));
    PQclear(r);
    return changed;
}

static pthread_key_t own_key;
static pthread_once_t own_once = PTHREAD_ONCE_INIT;

static void own_close(void *pg) {
    PQfinish(pg);
}

static void own_create(void) {
    pthread_key_create(&own_key, own_close);
}

PGconn *own_postgres(void) {
    pthread_once(&own_once, own_create);
    PGconn *pg = pthread_getspecific(own_key);
    if (pg && PQstatus(pg) == CONNECTION_OK) return pg;
    PQfinish(pg);
    pg = PQconnectdb(setting("SHOP_POSTGRES", NULL));
    if (PQstatus(pg) != CONNECTION_OK) fprintf(stderr, "points service: %s", PQerrorMessage(pg));
    pthread_setspecific(own_key, pg);
    return pg;
}

/* ---- workers ---- */

bool dedup_wanted(void) {
    return strcmp(setting("SHOP_DEDUP", "1"), "0") != 0;
}

/* Warnings to stderr; what the worker recognised as done before, to the trace. */
static void log_line(int level, const char *event, const char *text, void *arg) {
    const char *group = arg;
    if (level < 2) fprintf(stderr, "%s: %s %s\n", group, event, text);
    if (strcmp(event, "duplicate") != 0) return;
    char plain[400]; /* without the quotes of the text: it goes into JSON */
    size_t n = 0;
    for (; *text && n < sizeof plain - 1; text++)
        if (*text != '"') plain[n++] = *text;
    plain[n] = 0;
    trace("\"event\":\"duplicate\",\"group\":\"%s\",\"text\":\"%s\"", group, plain);
}

/* The demo's own settings: in life, the defaults are longer. */
int run_worker(hf_worker_options o) {
    o.size = sizeof o;
    o.arg = (void *)o.group;
    o.log = log_line;
    o.server = setting("SHOP_SERVER", NULL);
    o.order = HF_ORDER_KEY;
    o.concurrency = 4;
    o.attempts = 6;
    o.retry_first_ms = 100;
    o.retry_max_ms = HF_SECONDS(1);
    o.lease_ms = HF_SECONDS(2);
    o.session_ms = HF_SECONDS(6);
    o.heartbeat_ms = HF_SECONDS(1);
    o.drain_ms = HF_SECONDS(5);

    hf_worker *w;
    if (hf_worker_open(&o, &w)) die("open", hf_errmsg());
    if (hf_worker_stop_on_signals(w)) die("signals", hf_errmsg());
    enum hf_err e = hf_worker_run(w);
    hf_worker_stats s = {.size = sizeof s};
    hf_worker_get_stats(w, &s);
    trace("\"event\":\"stats\",\"group\":\"%s\",\"delivered\":%" PRId64 ",\"done\":%" PRId64
          ",\"duplicates\":%" PRId64 ",\"stale\":%" PRId64 ",\"retried\":%" PRId64 ",\"dead\":%" PRId64
          ",\"busy\":%" PRId64,
          o.group, s.delivered, s.done, s.duplicates, s.stale, s.retried, s.dead, s.busy);
    if (e) fprintf(stderr, "%s: %s\n", o.group, hf_errmsg());
    hf_worker_close(w);
    return e ? 1 : 0;
}

void trace(const char *format, ...) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int fd = -1;
    char line[600];
    int n = snprintf(line, sizeof line, "{\"at\":%" PRId64 ",\"pid\":%d,", now_ms(), (int)getpid());
    va_list args;
    va_start(args, format);
    n += vsnprintf(line + n, sizeof line - (size_t)n - 2, format, args);
    va_end(args);
    if (n > (int)sizeof line - 3) n = (int)sizeof line - 3;
    line[n++] = '}';
    line[n++] = '\n';
    pthread_mutex_lock(&lock);
    if (fd < 0)
        fd = open(setting("SHOP_TRACE", "/dev/null"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (write(fd, line, (size_t)n) != n) perror("trace");
    pthread_mutex_unlock(&lock);
}

/* ---- faults ---- */

/* Stops for as long as the demo needs to kill this process; at most 20 s. Whoever can rename the file is the
 * one. The other handlers then stop at the same place, and those past it get time to end: so the kill finds
 * every handler before its effect. (After an external effect and before its record is the one place where a
 * crash repeats it: the guarantee says so, and the demo must not depend on luck.) */
static void stall_once(const hf_delivery *d) {
    static atomic_bool stalled;
    const char *file = setting("SHOP_STALL", "");
    char taken[400];
    (void)snprintf(taken, sizeof taken, "%s.taken", file);
    if (!*file) return;
    if (rename(file, taken) == 0) {
        atomic_store(&stalled, true);
        usleep(300000);
        trace("\"event\":\"stalled\",\"id\":\"%s\"", hf_delivery_message_id(d));
    }
    if (!atomic_load(&stalled)) return;
    sleep(20);
    trace("\"event\":\"resumed\",\"id\":\"%s\"", hf_delivery_message_id(d));
}

static bool unlucky(void) {
    unsigned n = 0;
    return getrandom(&n, sizeof n, 0) == sizeof n && n % 100 < (unsigned)atoi(setting("SHOP_FAIL", "0"));
}

hf_verdict faults(hf_delivery *d, const char *group, struct order *o) {
    trace("\"event\":\"run\",\"group\":\"%s\",\"topic\":\"%s\",\"partition\":%" PRId32 ",\"offset\":%" PRId64
          ",\"attempt\":%" PRId32 ",\"id\":\"%s\"",
          group, hf_delivery_topic(d), hf_delivery_partition(d), hf_delivery_offset(d),
          hf_delivery_attempt(d), hf_delivery_message_id(d));
    hf_str value = hf_delivery_value(d);
    if (!order_parse(value, o)) {
        bool reject = strstr(value.p ? value.p : "", "reject") != NULL;
        return hf_fail(d, reject ? HF_REJECT : HF_RETRY, "poison: this is no order");
    }
    stall_once(d);
    return unlucky() ? hf_fail(d, HF_RETRY, "bad luck") : HF_DONE;
}
