/* What operators ask: is it alive, may it be used, how is it. Metrics in Prometheus' text format. */
#include "server_internal.h"

#include <inttypes.h>

#define TEXT "text/plain; charset=utf-8"

static void on_health(void *state, struct broker_http *rq) {
    (void)state;
    broker_http_reply(rq, 200, TEXT, HF_STR("ok\n"));
}

static void on_ready(void *state, struct broker_http *rq) {
    const struct server *s = state;
    if (s->ready)
        broker_http_reply(rq, 200, TEXT, HF_STR("ready\n"));
    else
        broker_http_reply(rq, 503, TEXT, HF_STR("not ready\n"));
}

void server_metric(struct hf_buf *out, const char *name, const char *type, uint64_t value) {
    hf_buf_printf(out, "# TYPE %s %s\n%s %" PRIu64 "\n", name, type, name, value);
}

static void broker_metrics(const struct server *s, struct hf_buf *out) {
    struct broker_stats b;
    broker_stats_get(s->broker, &b);
    server_metric(out, "holdfast_connections", "gauge", b.connections);
    server_metric(out, "holdfast_connections_total", "counter", b.connections_total);
    server_metric(out, "holdfast_connections_refused_total", "counter", b.connections_refused);
    server_metric(out, "holdfast_http_connections", "gauge", b.http_connections);
    server_metric(out, "holdfast_frames_refused_total", "counter", b.frames_refused);
    server_metric(out, "holdfast_frame_bytes", "gauge", b.frame_bytes);
    server_metric(out, "holdfast_received_bytes_total", "counter", b.bytes_in);
    server_metric(out, "holdfast_sent_bytes_total", "counter", b.bytes_out);
    hf_buf_printf(out, "# TYPE holdfast_requests_total counter\n");
    for (size_t i = 0; i < kafka_api_count; i++)
        hf_buf_printf(out, "holdfast_requests_total{api=\"%s\"} %" PRIu64 "\n", kafka_apis[i].name,
                      b.requests[kafka_apis[i].key]);
}

static void log_metrics(const struct server *s, struct hf_buf *out) {
    struct log_stats l;
    log_stats(s->log, &l);
    server_metric(out, "holdfast_log_appended_batches_total", "counter", l.appended_batches);
    server_metric(out, "holdfast_log_appended_bytes_total", "counter", l.appended_bytes);
    server_metric(out, "holdfast_journal_bytes_total", "counter", l.journal_bytes);
    server_metric(out, "holdfast_journal_syncs_total", "counter", l.journal_syncs);
    server_metric(out, "holdfast_checkpoints_total", "counter", l.checkpoints);
    server_metric(out, "holdfast_segment_rolls_total", "counter", l.rolls);
    server_metric(out, "holdfast_compactions_total", "counter", l.compactions);
    server_metric(out, "holdfast_topics", "gauge", l.topics);
    server_metric(out, "holdfast_partitions", "gauge", l.partitions);
    server_metric(out, "holdfast_segments", "gauge", l.segments);
    server_metric(out, "holdfast_log_damages_total", "counter", l.damages);
    server_metric(out, "holdfast_log_rebuilt_total", "counter", l.rebuilt);
    server_metric(out, "holdfast_log_scrubs_total", "counter", l.scrubs);
    server_metric(out, "holdfast_log_scrubbed_bytes_total", "counter", l.scrubbed_bytes);
    server_metric(out, "holdfast_disk_free_bytes", "gauge", l.free_bytes);
    server_metric(out, "holdfast_open_segment_files", "gauge", l.open_files);
}

static void on_metrics(void *state, struct broker_http *rq) {
    enum { METRICS_MAX = 4 << 20 };
    struct server *s = state;
    struct hf_buf out;
    hf_buf_init(&out, METRICS_MAX);
    broker_metrics(s, &out);
    log_metrics(s, &out);
    for (size_t i = 0; i < s->opened; i++)
        if (server_parts[i]->metrics) server_parts[i]->metrics(s->states[i], &out);
    if (hf_buf_failed(&out))
        broker_http_reply(rq, 500, TEXT, HF_STR("the metrics do not fit\n"));
    else
        broker_http_reply(rq, 200, "text/plain; version=0.0.4; charset=utf-8", hf_buf_view(&out));
    hf_buf_fini(&out);
}

static const struct server_route routes[] = {
    {"GET", "/healthz", on_health, NULL},
    {"GET", "/readyz", on_ready, NULL},
    {"GET", "/metrics", on_metrics, NULL},
};

const struct server_part server_health = {
    .name = "health", .routes = routes, .route_count = sizeof(routes) / sizeof(routes[0])};
