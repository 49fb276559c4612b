/* The schedule's numbers: as JSON for `holdfast schedule stats`, and in Prometheus' text format.
 *
 * Of destinations for which something pends at most TOPICS_SHOWN are named: a label for each of ten thousand
 * topics helps nobody. */
#include "delay_internal.h"

#include <inttypes.h>

enum { TOPICS_SHOWN = 1000 };

static void set(json_t *o, const char *name, uint64_t value) {
    json_object_set_new(o, name, json_integer((json_int_t)value));
}

static json_t *lateness_json(const struct schedule_stats *s) {
    json_t *o = json_object();
    for (size_t i = 0; i < SCHEDULE_LATENESS_BUCKETS; i++) {
        char name[32] = "later";
        if (i + 1 < SCHEDULE_LATENESS_BUCKETS)
            (void)snprintf(name, sizeof(name), "%" PRId64 "ms", schedule_lateness_ms[i]);
        set(o, name, s->lateness[i]);
    }
    return o;
}

static json_t *outcomes_json(const struct schedule_stats *s) {
    json_t *o = json_object();
    for (int i = 0; i <= SCHEDULE_UNKNOWN; i++)
        set(o, schedule_outcome_text((enum schedule_outcome)i), s->outcomes[i]);
    return o;
}

static json_t *limits_json(const struct server_settings *s) {
    return json_pack("{s:I, s:I, s:I, s:I}", "pending", (json_int_t)s->pending_max, "pending_bytes",
                     (json_int_t)s->pending_bytes, "topic_pending", (json_int_t)s->topic_pending_max,
                     "topic_pending_bytes", (json_int_t)s->topic_pending_bytes);
}

static void topic_json(void *arg, hf_str topic, const struct schedule_pending *p) {
    json_t *o = arg;
    if (json_object_size(o) == TOPICS_SHOWN) return;
    json_object_setn_new(
        o, topic.p, topic.n,
        json_pack("{s:I, s:I}", "pending", (json_int_t)p->messages, "bytes", (json_int_t)p->bytes));
}

static json_t *topics_json(const struct schedule *s) {
    json_t *o = json_object();
    schedule_topics_each(s, topic_json, o);
    return o;
}

void delay_on_stats(void *state, struct broker_http *rq) {
    const struct delay *d = state;
    struct schedule_stats s;
    uint64_t due[SCHEDULE_DUE_BUCKETS];
    schedule_stats(d->schedule, &s);
    schedule_due(d->schedule, due);
    json_t *o = json_object();
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {{"pending", s.pending},
                {"pending_bytes", s.pending_bytes},
                {"late", due[0]},
                {"late_ms", (uint64_t)s.late_ms},
                {"due_next_minute", due[1]},
                {"fired_per_second", s.fired_per_second},
                {"accepted", s.accepted},
                {"fired", s.fired},
                {"rejected", s.rejected},
                {"skipped", s.skipped},
                {"refused", d->refused},
                {"memory_bytes", s.memory_bytes},
                {"runs", s.runs},
                {"run_bytes", s.run_bytes},
                {"id_runs", s.id_runs},
                {"id_bytes", s.id_bytes},
                {"id_index_bytes", s.id_index_bytes},
                {"id_memory_bytes", (uint64_t)d->server->settings->id_memory_bytes},
                {"id_memory_ms", (uint64_t)d->server->settings->id_memory_ms},
                {"id_horizon_ms", (uint64_t)s.id_horizon_ms}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) set(o, rows[i].name, rows[i].value);
    json_object_set_new(o, "limits", limits_json(d->server->settings));
    json_object_set_new(o, "topics", topics_json(d->schedule));
    if (s.next_due_ms < INT64_MAX) json_object_set_new(o, "next_due_ms", json_integer(s.next_due_ms));
    json_object_set_new(o, "due", delay_due_json(due));
    json_object_set_new(o, "lateness", lateness_json(&s));
    json_object_set_new(o, "outcomes", outcomes_json(&s));
    json_object_set_new(o, "clock_leapt", json_boolean(s.clock_leapt));
    json_object_set_new(o, "caught_up", json_boolean(s.caught_up));
    json_object_set_new(o, "time_zones", json_string(schedule_time_zones()));
    delay_reply_json(rq, 200, o);
}

/* ---- metrics ---- */

static void lateness_metrics(const struct schedule_stats *s, struct hf_buf *out) {
    uint64_t sum = 0;
    hf_buf_printf(out, "# TYPE holdfast_schedule_lateness_ms histogram\n");
    for (size_t i = 0; i < SCHEDULE_LATENESS_BUCKETS; i++) {
        sum += s->lateness[i];
        if (i + 1 < SCHEDULE_LATENESS_BUCKETS)
            hf_buf_printf(out, "holdfast_schedule_lateness_ms_bucket{le=\"%" PRId64 "\"} %" PRIu64 "\n",
                          schedule_lateness_ms[i], sum);
    }
    hf_buf_printf(out, "holdfast_schedule_lateness_ms_bucket{le=\"+Inf\"} %" PRIu64 "\n", sum);
    hf_buf_printf(out,
                  "holdfast_schedule_lateness_ms_sum %" PRId64
                  "\nholdfast_schedule_lateness_ms_count %" PRIu64 "\n",
                  s->lateness_sum_ms, sum);
}

struct topic_lines {
    struct hf_buf *out;
    const char *what;
    bool bytes;
    size_t shown;
};

static void topic_line(void *arg, hf_str topic, const struct schedule_pending *p) {
    struct topic_lines *l = arg;
    if (l->shown++ >= TOPICS_SHOWN) return;
    hf_buf_printf(l->out, "holdfast_schedule_%s{topic=\"%.*s\"} %" PRIu64 "\n", l->what, (int)topic.n,
                  topic.p, l->bytes ? p->bytes : p->messages);
}

static void topic_metrics(const struct schedule *s, struct hf_buf *out) {
    struct topic_lines lines[] = {{out, "topic_pending", false, 0}, {out, "topic_pending_bytes", true, 0}};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        hf_buf_printf(out, "# TYPE holdfast_schedule_%s gauge\n", lines[i].what);
        schedule_topics_each(s, topic_line, &lines[i]);
    }
}

void delay_metrics(void *state, struct hf_buf *out) {
    const struct delay *d = state;
    struct schedule_stats s;
    uint64_t due[SCHEDULE_DUE_BUCKETS];
    schedule_stats(d->schedule, &s);
    schedule_due(d->schedule, due);
    server_metric(out, "holdfast_schedule_pending", "gauge", s.pending);
    server_metric(out, "holdfast_schedule_pending_bytes", "gauge", s.pending_bytes);
    server_metric(out, "holdfast_schedule_late", "gauge", due[0]);
    server_metric(out, "holdfast_schedule_late_ms", "gauge", (uint64_t)s.late_ms);
    server_metric(out, "holdfast_schedule_due_next_minute", "gauge", due[1]);
    server_metric(out, "holdfast_schedule_fired_per_second", "gauge", s.fired_per_second);
    server_metric(out, "holdfast_schedule_accepted_total", "counter", s.accepted);
    server_metric(out, "holdfast_schedule_fired_total", "counter", s.fired);
    server_metric(out, "holdfast_schedule_rejected_total", "counter", s.rejected);
    server_metric(out, "holdfast_schedule_skipped_total", "counter", s.skipped);
    server_metric(out, "holdfast_schedule_refused_total", "counter", d->refused);
    server_metric(out, "holdfast_schedule_pending_limit", "gauge",
                  (uint64_t)d->server->settings->pending_max);
    server_metric(out, "holdfast_schedule_pending_bytes_limit", "gauge",
                  (uint64_t)d->server->settings->pending_bytes);
    server_metric(out, "holdfast_schedule_id_bytes", "gauge", s.id_bytes);
    server_metric(out, "holdfast_schedule_id_bytes_limit", "gauge",
                  (uint64_t)d->server->settings->id_memory_bytes);
    server_metric(out, "holdfast_schedule_id_index_bytes", "gauge", s.id_index_bytes);
    server_metric(out, "holdfast_schedule_memory_bytes", "gauge", s.memory_bytes);
    server_metric(out, "holdfast_schedule_runs", "gauge", s.runs + s.id_runs);
    server_metric(out, "holdfast_schedule_run_bytes", "gauge", s.run_bytes + s.id_bytes);
    server_metric(out, "holdfast_schedule_checkpoints_total", "counter", s.checkpoints);
    server_metric(out, "holdfast_schedule_merges_total", "counter", s.merges);
    server_metric(out, "holdfast_schedule_rewinds_total", "counter", s.rewinds);
    server_metric(out, "holdfast_schedule_id_horizon_ms", "gauge", (uint64_t)s.id_horizon_ms);
    server_metric(out, "holdfast_schedule_clock_leapt", "gauge", s.clock_leapt);
    hf_buf_printf(out, "# TYPE holdfast_schedule_outcomes_total counter\n");
    for (int o = 0; o <= SCHEDULE_UNKNOWN; o++)
        hf_buf_printf(out, "holdfast_schedule_outcomes_total{outcome=\"%s\"} %" PRIu64 "\n",
                      schedule_outcome_text((enum schedule_outcome)o), s.outcomes[o]);
    lateness_metrics(&s, out);
    topic_metrics(d->schedule, out);
}
