/* Recurring schedules: a message that fires again and again.
 *
 *     record with hf-cron --accepted--> pending, due at the first time
 *           due --one commit--> the run, in its topic, as <identity>#<due>
 *                               the same record again in holdfast.delay, hf-op: next, hf-due: the next time
 *           --read--> pending, due at the next time …
 *
 * The next run is an ordinary record of the log. So a cancel or a replacement that was accepted before it
 * finds the run before, one that was accepted after it finds it, and what each does is a function of the log,
 * as everything (accept.c). A record "next" is a condition too: it counts only if the id still belongs to the
 * message that fired (hf-expect); else the series has ended or is another one by now.
 *
 * The next time is reckoned when a run fires: the first one after both its due time and the present. So runs
 * missed in an outage are one run, the one that was pending. It is written down, so that another edition of
 * the time zones cannot change it between a crash and the start; only the first time of a series is reckoned
 * when its record is read, and there a "next" that finds its forerunner pending after all takes its place.
 *
 * Overlap. What becomes of a message is its consumers' business; what a broker knows is which offsets a group
 * has committed. So with hf-cron-overlap: skip and hf-group a run is left out as long as that group has not
 * committed past the run before: an empty group, too, has not done it. Where the run before lies is not known
 * when its commit begins, only that it lies at or behind the end of its partition then; so partition, that
 * end, and its due time travel along (hf-cron-last), and the record with its identity is looked for from there
 * on, in at most SCAN_MAX records: usually it is the first. A run whose record is gone (rejected, deleted,
 * retention, another topic of that name) is done. If it is not among so many it lies behind them: the group has
 * not done it before it has committed past those. A skipped run moves the series on like a fired one.
 *
 * Headers of the entry: hf-cron, hf-tz, hf-cron-overlap, hf-group, hf-cron-last stay among the others
 * (message.c), with ENTRY_CRON. */
#include "schedule_state.h"

#include "base/names.h"

#include <inttypes.h>
#include <stdio.h>

enum { SCAN_MAX = 20000 };

/* ---- zones ---- */

static enum hf_err zone_of(struct schedule *s, hf_str name, struct cron_zone **out) {
    hf_str wanted = name.p ? name : HF_STR("UTC");
    for (size_t i = 0; i < ZONES_MAX; i++) {
        if (!s->zones[i].zone || !hf_str_is(wanted, s->zones[i].name)) continue;
        *out = s->zones[i].zone;
        return HF_OK;
    }
    struct cron_zone *z;
    if (wanted.n > HF_ZONE_MAX) return HF_ENOTFOUND;
    enum hf_err e = cron_zone_open(wanted, &z);
    if (e) return e;
    struct zone_slot *slot = &s->zones[s->zone_next++ % ZONES_MAX];
    cron_zone_close(slot->zone);
    slot->zone = z;
    memcpy(slot->name, wanted.p, wanted.n);
    slot->name[wanted.n] = 0;
    *out = z;
    return HF_OK;
}

void recurring_close(struct schedule *s) {
    for (size_t i = 0; i < ZONES_MAX; i++) cron_zone_close(s->zones[i].zone);
}

enum hf_err recurring_next(struct schedule *s, hf_str cron, hf_str tz, int64_t after_ms, int64_t *out) {
    struct cron c;
    struct cron_error why;
    struct cron_zone *z;
    if (cron_parse(cron, &c, &why)) return HF_EINVAL;
    enum hf_err e = zone_of(s, tz, &z);
    if (e) return e == HF_ENOTFOUND ? HF_EINVAL : e;
    c.every_hour |= hf_mutate(119);
    return cron_next(&c, z, after_ms, out);
}

enum hf_err schedule_check_cron(struct schedule *s, hf_str cron, hf_str tz,
                                char why[SCHEDULE_CRON_ERROR_BYTES], bool *about_tz) {
    struct cron c;
    struct cron_error error;
    struct cron_zone *z;
    *about_tz = false;
    if (cron_parse(cron, &c, &error)) {
        (void)snprintf(why, SCHEDULE_CRON_ERROR_BYTES, "%s", error.text);
        return HF_EINVAL;
    }
    enum hf_err e = zone_of(s, tz, &z);
    if (!e) return HF_OK;
    *about_tz = true;
    (void)snprintf(why, SCHEDULE_CRON_ERROR_BYTES,
                   "\"%.*s\" is no zone of the IANA database such as Europe/Berlin",
                   (int)(tz.n < HF_ZONE_MAX ? tz.n : HF_ZONE_MAX), tz.p ? tz.p : "");
    return HF_EINVAL;
}

enum hf_err schedule_upcoming(struct schedule *s, const struct schedule_item *item, int64_t *out, size_t n,
                              size_t *found) {
    int64_t at = item->due_ms > s->clock.inside_ms ? item->due_ms : s->clock.inside_ms;
    *found = 0;
    if (!item->cron.p || n == 0) return HF_OK;
    if (item->due_ms > 0) out[(*found)++] = item->due_ms;
    while (*found < n) {
        enum hf_err e = recurring_next(s, item->cron, item->tz, at, &at);
        if (e) return e == HF_EEND ? HF_OK : e;
        out[(*found)++] = at;
    }
    return HF_OK;
}

/* ---- headers ---- */

bool recurring_header(hf_str name) {
    return hf_str_is(name, HF_HDR_CRON) || hf_str_is(name, HF_HDR_TZ) || hf_str_is(name, HF_HDR_OVERLAP) ||
           hf_str_is(name, HF_HDR_GROUP) || (hf_str_is(name, HF_HDR_LAST_RUN) && !hf_mutate(127));
}

size_t recurring_split(struct hf_header *headers, size_t n, struct recurring *out) {
    size_t kept = 0;
    *out = (struct recurring){0};
    for (size_t i = 0; i < n; i++) {
        const struct hf_header h = headers[i];
        if (hf_str_is(h.key, HF_HDR_CRON))
            out->cron = h.value;
        else if (hf_str_is(h.key, HF_HDR_TZ))
            out->tz = h.value;
        else if (hf_str_is(h.key, HF_HDR_GROUP))
            out->group = h.value;
        else if (hf_str_is(h.key, HF_HDR_LAST_RUN))
            out->last_run = h.value;
        else if (hf_str_is(h.key, HF_HDR_OVERLAP))
            out->skips = hf_str_is(h.value, "skip");
        else
            headers[kept++] = h;
    }
    return kept;
}

/* ---- the run before ---- */

struct last_run {
    int64_t partition, end, due_ms;
};

/* "PARTITION/END/DUE" */
static bool last_run_of(hf_str text, struct last_run *out) {
    int64_t *parts[] = {&out->partition, &out->end, &out->due_ms};
    for (size_t i = 0; i < 3; i++) {
        const char *slash = text.n ? memchr(text.p, '/', text.n) : NULL;
        size_t n = slash ? (size_t)(slash - text.p) : text.n;
        if ((i < 2) != (slash != NULL) || hf_str_int(hf_str_make(text.p, n), parts[i])) return false;
        text = slash ? hf_str_make(slash + 1, text.n - n - 1) : (hf_str){NULL, 0};
    }
    return true;
}

static bool has_identity(const struct engine_record *r, hf_str identity) {
    for (size_t i = 0; i < r->header_count; i++)
        if (hf_str_is(r->headers[i].key, HF_HDR_MESSAGE_ID) && hf_str_eq(r->headers[i].value, identity))
            return true;
    return false;
}

/* Looks for the record with this identity in [from, to): *at is where it lies, or if it is not found (or
 * cannot be read) how far the search came. */
static bool find_run(struct schedule *s, hf_str topic, int32_t partition, int64_t from, int64_t to,
                     hf_str identity, int64_t *at) {
    struct engine_cursor *c;
    struct engine_record r;
    enum hf_err e = HF_OK;
    bool found = false;
    *at = from;
    if (engine_cursor_open(s->engine, topic, partition, &c)) return false;
    engine_cursor_seek(c, from);
    while (!found && *at < to && !(e = engine_cursor_next(c, &r))) {
        found = r.offset < to && has_identity(&r, identity);
        *at = found ? r.offset : r.offset < to ? r.offset + 1 : to;
    }
    if (e == HF_EEND) *at = to;
    engine_cursor_close(c);
    return found;
}

bool recurring_is_running(struct schedule *s, hf_str topic, const struct recurring *r, hf_str identity) {
    struct last_run last;
    int64_t start, end, at;
    char text[HF_ID_MAX + 32];
    if (!r->last_run.p || !last_run_of(r->last_run, &last) || last.partition < 0 ||
        last.partition > INT32_MAX)
        return false;
    int32_t partition = (int32_t)last.partition;
    if (engine_bounds(s->engine, topic, partition, &start, &end)) return false; /* the topic is gone */
    if (end <= last.end) return false; /* another topic of that name: it held more */
    int64_t from = start > last.end ? start : last.end, to = end - from > SCAN_MAX ? from + SCAN_MAX : end;
    int n = snprintf(text, sizeof text, "%.*s#%" PRId64, (int)identity.n, identity.p, last.due_ms);
    bool found = find_run(s, topic, partition, from, to, hf_str_make(text, (size_t)n), &at);
    bool is_gone = !found && (at == end || start > last.end);
    if (hf_mutate(121)) at = last.end;
    int64_t committed = engine_committed(s->engine, r->group, topic, partition) + hf_mutate(122);
    return !is_gone && committed <= at && !hf_mutate(120);
}
