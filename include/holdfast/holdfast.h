/* Holdfast for C and C++ programs: send, delay, transact, work.
 *
 *     cc program.c $(pkg-config --cflags --libs holdfast)
 *
 * Everything here is a Kafka client: it talks to a Holdfast server, and, but for what needs the scheduler
 * or the coordinator (delays, transactions), to any Kafka cluster.
 *
 * Errors.     Functions answer `enum hf_err` (base.h); HF_OK is 0. hf_errmsg() has the text of the calling
 *             thread's last failure: what, where, and what to do. Out-parameters stay untouched on failure.
 * Threads.    A client and a producer may be used from any thread; a worker's functions say it each. Nothing
 *             may be used in a child after fork(): open anew there.
 * Ownership.  Strings, messages and options are borrowed for the time of the call. What an accessor returns
 *             belongs to the object asked and lives as long as it.
 * Options.    Structs are filled by designated initialisers, begin with their size, which a macro sets, and
 *             zero means the default. A program compiled against an older header goes on working.
 * Blocking.   Each function says it. Times are milliseconds; `due` times count from the epoch (UTC). */
#ifndef HOLDFAST_H
#define HOLDFAST_H

#include <holdfast/base.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The calling thread's last error text, never NULL; "" if nothing has failed yet. Valid until the thread's
 * next call of this library. Never blocks. */
HF_API const char *hf_errmsg(void);

/* "0.1.0". */
HF_API const char *hf_version(void);

/* ------------------------------------------------------------------------------------------------------
 * Client: send
 *
 *     hf_client *c;
 *     if (hf_connect("127.0.0.1:9092", NULL, &c)) die(hf_errmsg());
 *     hf_receipt r;
 *     hf_send(c, &(hf_message){ .topic = "orders.unpaid", .key = HF_STR("1042"), .value = HF_STR("{}"),
 *                               .delay_ms = HF_MINUTES(30), .id = "1042",
 *                               .message_id = "order-1042/unpaid" }, &r);
 *     hf_close(c);
 * ---------------------------------------------------------------------------------------------------- */

typedef struct hf_client hf_client;

typedef struct hf_client_options {
    size_t size;
    const char *client_id; /* default "holdfast" */
    const char *api;       /* HOST:PORT of the server's HTTP side; NULL: outcomes of cancel, move, replace and
                              decisions are not asked for (each function says what it answers then) */
    int64_t timeout_ms;    /* a message that is not acknowledged by then fails; default 30 s */
    int32_t queue_messages; /* sends under way; past it HF_EAGAIN; default 100,000 */
    int64_t queue_bytes;    /* likewise; a message must fit; default 64 MiB */
    int64_t linger_ms;      /* how long a send may wait for company; default 0 */
    const char *const
        *config; /* further librdkafka properties: name, value, name, value, …, NULL (TLS, SASL) */
} hf_client_options;

#define HF_CLIENT_DEFAULTS .size = sizeof(hf_client_options)

/* Opens a client. `server` is HOST:PORT, several separated by commas. options may be NULL. Blocks until a
 * server has answered or timeout_ms is over. HF_ECONNECT, HF_EINVAL (an option, a librdkafka property),
 * HF_ENOMEM. */
HF_API enum hf_err hf_connect(const char *server, const hf_client_options *options, hf_client **out);

/* Waits for sends under way (up to the client's time-out), then frees. NULL is allowed. */
HF_API void hf_close(hf_client *c);

/* What happens if `id` is pending for the same topic already. */
typedef enum hf_conflict {
    HF_CONFLICT_REPLACE, /* the new one takes its place */
    HF_CONFLICT_KEEP,    /* the pending one stays */
    HF_CONFLICT_ONCE /* likewise, and an id that was delivered or cancelled is not scheduled again either */
} hf_conflict;

/* A partition in hf_message: HF_PARTITION(0) is partition 0, 0 means by key. */
#define HF_PARTITION(n) ((n) + 1)

typedef struct hf_message {
    const char *topic;        /* destination; required */
    hf_str key;               /* {NULL, 0}: no key */
    hf_str value;             /* {NULL, 0}: null, which Kafka calls a tombstone */
    const hf_header *headers; /* names that begin with hf- are refused (HF_EINVAL), but hf-version */
    size_t header_count;
    int32_t partition; /* HF_PARTITION(n); 0: murmur2 of the key as the Java client, no key: random */
    int64_t delay_ms;  /* > 0: held by the server for so long after it was accepted */
    int64_t due_ms;    /* > 0: held until then; not both */
    const char *id;    /* a name for the schedule, scoped by topic; see hf_conflict, hf_cancel */
    hf_conflict on_conflict;
    const char *message_id; /* identity that survives every move and that workers deduplicate by
                               ("order-1042/paid"); NULL: where the message was accepted */
    int32_t delay_level;    /* > 0: instead of delay_ms, a level of the server's table (delay.levels) */
    const char
        *cron;      /* fires again and again: "0 9 * * MON-FRI", "@daily"; needs id, and no time of its own */
    const char *tz; /* of cron: "Europe/Berlin"; NULL: UTC */
    const char
        *cron_group; /* of cron: a run is left out while this consumer group has not done the one before */
} hf_message;

/* Where and when a message was accepted. A delayed message is accepted by topic holdfast.delay. */
typedef struct hf_receipt {
    char topic[256];
    int32_t partition;
    int64_t offset;
    int64_t timestamp_ms; /* the log's time if it keeps it, else the client's */
} hf_receipt;

/* Sends and blocks until the message is durable (acks=all, idempotent: a retry inside never doubles it).
 * receipt may be NULL. HF_EINVAL (the message, or the server refused it: its log names the header), HF_EAGAIN
 * (queue full), HF_ETIMEDOUT (not acknowledged in time: it may or may not be there; send again with the same
 * message_id), HF_ELIMIT (too large), HF_ENOTFOUND (no such topic, and the server creates none),
 * HF_EUNSUPPORTED (a delay, and the server is no Holdfast). */
HF_API enum hf_err hf_send(hf_client *c, const hf_message *m, hf_receipt *receipt);

/* Called once for each accepted hf_send_async, on a thread of the client. e and hf_errmsg() as for hf_send; r
 * is valid only in the call and only if e is HF_OK. It must not block nor call a blocking function of the
 * client. */
typedef void hf_sent(enum hf_err e, const hf_receipt *r, void *arg);

/* Queues a copy of the message and returns at once (a client's first delayed message first asks whether the
 * server has a scheduler). sent may be NULL: then hf_flush tells of a failure.
 * HF_EAGAIN: the queue is full; nothing was queued. */
HF_API enum hf_err hf_send_async(hf_client *c, const hf_message *m, hf_sent *sent, void *arg);

/* Blocks until nothing is under way, sends of other threads included; timeout_ms < 0 waits as long as it
 * takes. HF_ETIMEDOUT: some are still under way. Else the first failure since the last hf_flush of a message
 * sent without a callback. */
HF_API enum hf_err hf_flush(hf_client *c, int64_t timeout_ms);

/* ---- schedules by name ---- */

typedef enum hf_outcome {
    HF_OUTCOME_ACCEPTED,  /* the request is durable; what came of it was not asked (no `api` address) */
    HF_OUTCOME_CANCELLED, /* it was pending and will not be delivered */
    HF_OUTCOME_REPLACED,  /* it was pending; the new message took its place */
    HF_OUTCOME_MOVED,     /* it was pending and has the new due time */
    HF_OUTCOME_SCHEDULED, /* hf_replace: nothing was pending; the message is scheduled */
    HF_OUTCOME_KEPT,      /* hf_replace with HF_CONFLICT_KEEP or _ONCE: the pending one stays */
    HF_OUTCOME_FINISHED,  /* hf_replace with HF_CONFLICT_ONCE: that id is finished */
    HF_OUTCOME_DELIVERED, /* too late: it was delivered already */
    HF_OUTCOME_UNKNOWN    /* no such id is pending or remembered */
} hf_outcome;

HF_API const char *hf_outcome_text(hf_outcome o);

/* Cancels the message that was scheduled as (topic, id). Blocks until the answer is durable. Errors as
 * hf_send; HF_ECONNECT if the `api` address does not answer (the cancel itself may have been accepted). */
HF_API enum hf_err hf_cancel(hf_client *c, const char *topic, const char *id, hf_outcome *out);

/* Gives it another due time. Needs `api`: HF_EUNSUPPORTED without. Blocks. */
HF_API enum hf_err hf_move(hf_client *c, const char *topic, const char *id, int64_t due_ms, hf_outcome *out);

/* Which pending messages: all that are set must fit. */
typedef struct hf_filter {
    const char *topic;              /* required */
    const char *id_prefix;          /* NULL: any; cancel and move refuse an empty one */
    int64_t due_from_ms, due_to_ms; /* due in [from, to); 0: no bound */
} hf_filter;

typedef struct hf_sums {
    int64_t done;       /* cancelled, or moved */
    int64_t changed;    /* replaced or cancelled by somebody else meanwhile: left alone */
    int64_t delivered;  /* too late */
    int64_t without_id; /* cannot be named: left alone */
    char next[96];      /* after a failure: where to go on; "" if all is done */
} hf_sums;

/* Cancels, or moves by by_ms (which may be negative), what the filter finds pending now; page by page, each
 * durable before the next is begun. On failure *sums holds what was done so far, and the same call with it
 * goes on there; else begin with a zeroed one. Needs `api`: HF_EUNSUPPORTED without. Blocks. */
HF_API enum hf_err hf_cancel_all(hf_client *c, const hf_filter *f, hf_sums *sums);
HF_API enum hf_err hf_move_all(hf_client *c, const hf_filter *f, int64_t by_ms, hf_sums *sums);

/* hf_send of a message with an id and a due time or delay, and what it met there. Blocks. */
HF_API enum hf_err hf_replace(hf_client *c, const hf_message *m, hf_outcome *out);

/* ------------------------------------------------------------------------------------------------------
 * Producer: transactions with check-back
 *
 *     static hf_decision place(const char *id, void *db) {
 *         return orders_insert(db, id) ? HF_COMMIT : HF_ROLLBACK;
 *     }
 *     static hf_decision check(const hf_check *q, void *arg) {      // own thread: own connection
 *         switch (orders_exists_or_void(arg, hf_check_id(q))) {
 *         case 1:  return HF_COMMIT;
 *         case 0:  return HF_ROLLBACK;
 *         default: return HF_UNKNOWN;
 *         }
 *     }
 *     hf_producer_open(c, "order-service", check, "orders.db", &p);
 *     e = hf_transact(p, "1042", messages, 2, place, db);           // HF_EDECIDED: it was decided otherwise
 *
 * The messages are first stored as half messages, which nobody sees; then the local transaction runs; then
 * its decision makes all of them visible in one step, or none. If the program dies in between, the server
 * asks a living member of the same group: the check.
 * ---------------------------------------------------------------------------------------------------- */

typedef struct hf_producer hf_producer;
typedef struct hf_check hf_check;

typedef enum hf_decision {
    HF_UNKNOWN, /* cannot tell now: the server asks again later */
    HF_COMMIT,
    HF_ROLLBACK
} hf_decision;

/* The local transaction. HF_UNKNOWN: its outcome is not known (the commit's answer got lost): the check
 * decides. */
typedef hf_decision hf_local(const char *id, void *arg);

/* Looks at the local transaction. It must not answer HF_ROLLBACK just because it finds nothing: the local
 * transaction may be running still and commit later. It writes a void row under the same primary key first,
 * so that the late one fails: hf_decide_sqlite, hf_decide_postgres. Runs on a thread of the producer, one at
 * a time. */
typedef hf_decision hf_checker(const hf_check *q, void *arg);

HF_API const char *hf_check_id(const hf_check *q);    /* the transaction */
HF_API const char *hf_check_group(const hf_check *q); /* the producer group */
HF_API hf_str hf_check_value(const hf_check *q);      /* value of its first half message */
HF_API hf_str hf_check_halves(const hf_check *q);     /* count and topics of its half messages, as text */
HF_API int32_t hf_check_attempt(const hf_check *q);   /* 1 for the first check */

/* Opens a producer in a producer group. check may be NULL: another member must answer then. The client stays
 * the caller's and must outlive the producer. HF_EINVAL (a group that is no legal topic suffix), HF_ENOMEM,
 * HF_ECONNECT. */
HF_API enum hf_err hf_producer_open(hf_client *c, const char *group, hf_checker *check, void *arg,
                                    hf_producer **out);

/* How long after its last half message the server asks for an undecided transaction. Default: the server's, 6
 * s. */
HF_API void hf_producer_check_after(hf_producer *p, int64_t check_after_ms);

/* Ends the check thread (a check under way finishes) and frees. NULL is allowed. */
HF_API void hf_producer_close(hf_producer *p);

enum { HF_TRANSACT_MESSAGES_MAX = 1000 };

/* Stores n half messages under the transaction's id, runs local, decides. Blocks; local runs on this thread.
 * Each message may be delayed: its delay starts at the commit. Message ids of NULL become
 * "<group>/<id>/<index>", so a transaction tried again adds no message twice. What the server made of it is
 * asked for if the client has `api`.
 *
 *     HF_OK         decided as local said, durably; or committed earlier (a transaction tried again): then
 *                   local did not run
 *     HF_EDECIDED   rolled back earlier: local did not run, and the id is used up; or decided otherwise than
 *                   local said (a check answered first)
 *     HF_ELIMIT     beyond a limit of the server: rolled back; local did not run
 *     HF_EAGAIN     local answered HF_UNKNOWN: the check will settle it
 *     HF_ETIMEDOUT  after local ran, HF_ECONNECT too: the decision may not have arrived; the check will
 *                   settle it
 *     others        as hf_send: local did not run and a rollback was sent
 *
 * hf_errmsg() says which. */
HF_API enum hf_err hf_transact(hf_producer *p, const char *id, const hf_message *messages, size_t n,
                               hf_local *local, void *arg);

/* The same in steps, for a local transaction that is no function. Each blocks until durable. hf_prepare:
 * HF_EDECIDED if it was decided earlier, either way; HF_ELIMIT as above; and as hf_send, then the caller
 * rolls back. hf_decide answers as hf_transact does; it may also be used by an operator's tool. */
HF_API enum hf_err hf_prepare(hf_producer *p, const char *id, const hf_message *messages, size_t n);
HF_API enum hf_err hf_decide(hf_producer *p, const char *id, hf_decision decision);

/* ---- the open-transaction trap ----
 *
 * Runs `insert_void` with the id as its only parameter, then `is_real` likewise; the first column of its only
 * row is 1 for a row that the local transaction wrote, 0 for the void row:
 *
 *   insert_void  INSERT INTO orders (id, status) VALUES (?1, 'void') ON CONFLICT (id) DO NOTHING
 *   is_real      SELECT status <> 'void' FROM orders WHERE id = ?1            ($1 for PostgreSQL)
 *
 * Both statements NULL: table holdfast_local(id, real) is used, created if it is missing; the local
 * transaction marks it by hf_mark_sqlite or hf_mark_postgres.
 *
 * The connection must have no transaction open. HF_COMMIT if the row is real, HF_ROLLBACK if it is void,
 * HF_UNKNOWN on any error (hf_errmsg() says which): a lock held by the running local transaction is one.
 * Blocks on the database. */
struct sqlite3;
struct pg_conn; /* PGconn */
HF_API hf_decision hf_decide_sqlite(struct sqlite3 *db, const char *insert_void, const char *is_real,
                                    const char *id);
HF_API hf_decision hf_decide_postgres(struct pg_conn *db, const char *insert_void, const char *is_real,
                                      const char *id);

/* Inside the local transaction: writes the row that says that it is real. HF_EDECIDED: a check has put a void
 * row there: roll back. HF_EIO: the database failed. */
HF_API enum hf_err hf_mark_sqlite(struct sqlite3 *db, const char *id);
HF_API enum hf_err hf_mark_postgres(struct pg_conn *db, const char *id);

/* ------------------------------------------------------------------------------------------------------
 * Worker: every message done once
 *
 *     static hf_verdict paid(hf_delivery *d, void *arg) {
 *         sqlite3 *db = hf_delivery_sqlite(d);          // our transaction is open, the dedup row is in
 *         if (!stock_take(db, hf_delivery_value(d))) return hf_retry_in(d, HF_SECONDS(5));
 *         return HF_DONE;                               // row and effect commit together
 *     }
 *     hf_worker_open(&(hf_worker_options){ HF_WORKER_DEFAULTS, .server = "127.0.0.1:9092",
 *         .group = "inventory", .topics = "orders.paid", .effect = HF_EFFECT_DATABASE,
 *         .database = "sqlite:inventory.db", .order = HF_ORDER_KEY, .concurrency = 8, .handler = paid }, &w);
 *     hf_worker_stop_on_signals(w);
 *     e = hf_worker_run(w);                             // SIGTERM: drain, hand back, return
 *     hf_worker_close(w);
 * ---------------------------------------------------------------------------------------------------- */

typedef struct hf_worker hf_worker;
typedef struct hf_delivery hf_delivery;

/* What the handler does decides how a message delivered twice is found out. */
typedef enum hf_effect {
    HF_EFFECT_NONE,     /* not at all: at least once */
    HF_EFFECT_DATABASE, /* rows in `database`: a dedup row commits with them. Once */
    HF_EFFECT_STATE,    /* the newest version wins, in any order: hf_put_state */
    HF_EFFECT_EXTERNAL /* something outside: a lease with a fence in `redis`. Once, unless a crash, a pause or
                          a partition longer than the lease falls between the effect and its record */
} hf_effect;

typedef enum hf_order {
    HF_ORDER_KEY,       /* one at a time for a key, many keys at once; a failed message holds its key */
    HF_ORDER_PARTITION, /* one at a time for a partition */
    HF_ORDER_NONE       /* failed messages go round by holdfast.delay */
} hf_order;

typedef enum hf_verdict {
    HF_DONE,   /* settled */
    HF_RETRY,  /* again, by the retry policy or after hf_retry_in */
    HF_REJECT, /* dead letter now */
    HF_STOP    /* hand it back and stop the worker: hf_worker_run answers HF_ECLOSED */
} hf_verdict;

/* Runs on a thread of the worker, up to `concurrency` at once. */
typedef hf_verdict hf_handler(hf_delivery *d, void *arg);

/* The version of a delivery for HF_EFFECT_STATE, where it is no header. false: there is none (HF_REJECT). */
typedef bool hf_version_of(const hf_delivery *d, int64_t *version, void *arg);

/* One line of the worker's log: level 0 error, 1 warning, 2 info, 3 debug. Any thread of the worker. */
typedef void hf_log(int level, const char *event, const char *text, void *arg);

typedef struct hf_worker_options {
    size_t size;
    const char *server; /* HOST:PORT, …; required */
    const char *group;  /* required; "dlq.<group>" must be a legal topic name */
    const char *topics; /* separated by commas; required */
    hf_handler *handler;
    void *arg; /* for handler, version_of and log */
    hf_effect effect;
    hf_order order;
    int32_t concurrency;  /* handlers at once; default 16, at most 1,024 */
    const char *database; /* "sqlite:FILE" or "postgres:CONNINFO"; required for HF_EFFECT_DATABASE, allowed
                             for _STATE */
    const char *redis;    /* HOST:PORT or redis://…; required for HF_EFFECT_EXTERNAL */
    hf_version_of *version_of;  /* default: header hf-version */
    int64_t horizon_ms;         /* how long a settled message is remembered; default 7 d */
    int64_t lease_ms;           /* HF_EFFECT_EXTERNAL; default 30 s */
    int64_t handler_timeout_ms; /* hf_delivery_cancelled() turns true; default 5 min */
    int32_t attempts;           /* then the dead-letter topic; default 16 */
    int64_t retry_first_ms;     /* exponential with full jitter; default 1 s */
    int64_t retry_max_ms;       /* default 10 min */
    int32_t buffer;             /* messages held of one partition; default 1,000 */
    int64_t drain_ms;           /* at a rebalance and at the end; default 20 s */
    int64_t session_ms;         /* default 10 s */
    int64_t heartbeat_ms;       /* default 3 s */
    bool from_latest;           /* a new group starts at the end of the topic; default: at the beginning */
    /* Never use holdfast.delay. Default: use it if the server has it, which makes retries of HF_ORDER_NONE
     * and dead letters idempotent by name. Without it (plain Kafka) failed messages wait in the worker
     * whatever the order, and a dead letter goes straight to its topic: a kill before the next commit may
     * write it twice. */
    bool moves_direct;
    const char *const *config; /* further librdkafka properties, as in hf_client_options */
    hf_log *log;               /* default: one line an event on stderr, without debug */
} hf_worker_options;

#define HF_WORKER_DEFAULTS .size = sizeof(hf_worker_options)

/* Checks the options, connects, opens the database or Redis. Blocks. HF_EINVAL (hf_errmsg() names the
 * option), HF_ECONNECT, HF_ENOMEM, HF_EUNSUPPORTED. */
HF_API enum hf_err hf_worker_open(const hf_worker_options *options, hf_worker **out);

/* Works on the calling thread and the handlers' until hf_worker_stop, or a failure that no retry mends. HF_OK
 * after a stop in which everything that ran was settled or handed back. HF_ECLOSED: a handler answered
 * HF_STOP. Once. */
HF_API enum hf_err hf_worker_run(hf_worker *w);

/* Asks hf_worker_run to drain and return. Any thread, any number of times; async-signal-safe. */
HF_API void hf_worker_stop(hf_worker *w);

/* SIGTERM and SIGINT call hf_worker_stop from now until hf_worker_close. At most 16 workers in a process:
 * HF_ELIMIT. */
HF_API enum hf_err hf_worker_stop_on_signals(hf_worker *w);

/* After hf_worker_run has returned. NULL is allowed. */
HF_API void hf_worker_close(hf_worker *w);

typedef struct hf_worker_stats {
    size_t size;
    int64_t delivered;  /* handler calls */
    int64_t done;       /* settled by HF_DONE */
    int64_t duplicates; /* recognised and not run */
    int64_t stale;      /* HF_EFFECT_STATE: an older version */
    int64_t retried;    /* failed attempts that will be tried again */
    int64_t dead;       /* dead letters written */
    int64_t busy;       /* another worker holds the lease: came back later, no attempt */
    int64_t handed_back;
    int64_t running;  /* now */
    int64_t buffered; /* now, running ones included */
    bool probing;     /* an outage is assumed: one message at a time */
} hf_worker_stats;

/* Any thread. s->size is set by the caller: (hf_worker_stats){.size = sizeof s}. */
HF_API void hf_worker_get_stats(hf_worker *w, hf_worker_stats *s);

/* ---- a delivery: on the handler's thread, during the handler ---- */

HF_API hf_str hf_delivery_value(const hf_delivery *d); /* followed by a zero byte, not counted */
HF_API hf_str hf_delivery_key(const hf_delivery *d);   /* likewise */
/* Where it was first delivered from: a message that came round by retry.<group> shows its origin. */
HF_API const char *hf_delivery_topic(const hf_delivery *d);
HF_API int32_t hf_delivery_partition(const hf_delivery *d);
HF_API int64_t hf_delivery_offset(const hf_delivery *d);
HF_API int64_t hf_delivery_timestamp(const hf_delivery *d);
HF_API size_t hf_delivery_header_count(const hf_delivery *d);
HF_API hf_header hf_delivery_header_at(const hf_delivery *d, size_t i);
/* The last header of that name; {NULL, 0} if there is none. */
HF_API hf_str hf_delivery_header(const hf_delivery *d, const char *name);

/* 1 the first time. Restarts of workers do not reset it. */
HF_API int32_t hf_delivery_attempt(const hf_delivery *d);

/* Identity: hf-message-id, else "<topic>/<partition>/<offset>@<timestamp>". Survives every move. */
HF_API const char *hf_delivery_message_id(const hf_delivery *d);

/* HF_EFFECT_EXTERNAL: greater than that of any earlier claim of the same message; hand it to the effect,
 * which refuses smaller ones. 0 otherwise. */
HF_API uint64_t hf_delivery_fence(const hf_delivery *d);

/* The time is up, the lease is lost, or the worker is ending: give up soon, with HF_RETRY. */
HF_API bool hf_delivery_cancelled(const hf_delivery *d);

/* The connection of this handler thread, with the message's transaction open in it: do not begin, commit or
 * roll back. NULL if `database` is of another kind. Rolled back unless the verdict is HF_DONE. */
HF_API struct sqlite3 *hf_delivery_sqlite(hf_delivery *d);
HF_API struct pg_conn *hf_delivery_postgres(hf_delivery *d);

/* HF_EFFECT_STATE: the version that the row must be older than:
 *     INSERT INTO t (id, …, version) VALUES ($1, …, $v)
 *     ON CONFLICT (id) DO UPDATE SET …, version = excluded.version WHERE t.version < excluded.version
 * Zero rows changed: `return hf_stale(d);`. */
HF_API int64_t hf_delivery_version(const hf_delivery *d);
HF_API hf_verdict hf_stale(hf_delivery *d); /* HF_DONE, counted as stale */

/* That statement, in the transaction that is open (`database` is set): a handler can be one call.
 *
 *     hf_column columns[] = {{"status", HF_STR("used")}, {"order_id", order}};
 *     return hf_put_state(d, &(hf_state_row){.table = "coupon", .id_column = "code", .id = code,
 *                                            .columns = columns, .count = 2});
 *
 * Names are quoted as given, but "schema.table" is two; values travel as text, the column's type decides.
 * HF_DONE: written, or stale and counted so; HF_RETRY: the database is busy or failed; HF_STOP: no transaction is
 * open, a name is empty or longer than 63 bytes, or there are more than 64 columns, which no message mends. The reason
 * is told as hf_fail's. */
typedef struct hf_column {
    const char *name;
    hf_str value; /* {NULL, 0}: null */
} hf_column;
typedef struct hf_state_row {
    const char *table, *id_column;
    hf_str id;
    const char *version_column; /* NULL: "version" */
    const hf_column *columns;   /* beside id and version */
    size_t count;
} hf_state_row;
HF_API hf_verdict hf_put_state(hf_delivery *d, const hf_state_row *row);

/* Verdicts that say more; each returns what the handler is to return. */
HF_API hf_verdict hf_retry_in(hf_delivery *d, int64_t delay_ms); /* an attempt all the same */
HF_API hf_verdict hf_fail(hf_delivery *d, hf_verdict verdict,
                          const char *text); /* text: for the log and the dead letter */

#ifdef __cplusplus
}
#endif
#endif
