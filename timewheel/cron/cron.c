/* Which time comes next.
 *
 * A zone is a row of stretches with one offset each, divided by changes. Within a stretch local time runs
 * evenly, so the next local minute that fits is found by calendar arithmetic alone, and its time is that
 * minute less the offset. Only if a change lies in between does the zone matter:
 *
 *     gap       clocks go forward, 02:00 becomes 03:00: local times of [02:00, 03:00) do not exist
 *     overlap   clocks go back, 03:00 becomes 02:00: local times of [02:00, 03:00) come twice
 *
 * A schedule that names hours ("30 2 * * *") means a time of day, so each of its times fires once: one that
 * falls into the gap at the gap's end (several of them together, once), one that comes twice at its first.
 * A schedule of every hour ("30 * * * *") means an interval: it follows elapsed time, so its
 * times in the gap do not exist and those in the overlap come both times. cron(8) of Debian and the BSDs
 * draws the same line.
 *
 * Local time is counted in minutes since 1970 as if it were UTC. A walk passes at most two changes a year
 * and CRON_YEARS years. */
#include "cron.h"

enum { MINUTE_MS = 60000, DAY_MINUTES = 1440, MINUTES = 60 };

#define LAST_MINUTE (INT64_C(253402300799999) / MINUTE_MS) /* of the year 9999 */

/* ---- the calendar ---- */

struct date {
    int64_t year;
    int month, day; /* from 1 */
};

/* Days since 1970 and dates of the proleptic Gregorian calendar, by eras of 400 years that begin in March. */
static struct date date_of(int64_t days) {
    int64_t z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097;
    int64_t of_era = z - era * 146097;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100), march = (5 * of_year + 2) / 153;
    int month = (int)(march < 10 ? march + 3 : march - 9);
    return (struct date){year + era * 400 + (month <= 2), month, (int)(of_year - (153 * march + 2) / 5 + 1)};
}

static int64_t days_of(struct date d) {
    int64_t y = d.year - (d.month <= 2), era = (y >= 0 ? y : y - 399) / 400, of_era = y - era * 400;
    int64_t of_year = (153 * (d.month > 2 ? d.month - 3 : d.month + 9) + 2) / 5 + d.day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static int month_length(int64_t year, int month) {
    static const uint8_t lengths[] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return lengths[month] + (leap && month == 2);
}

static bool day_fits(const struct cron *c, struct date d, int64_t days) {
    int left = month_length(d.year, d.month) - d.day; /* days after this one */
    int weekday = (int)((days % 7 + 11) % 7);         /* day 0 was a Thursday */
    bool of_month = (c->days >> d.day & 1) || (c->days_from_end >> left & 1);
    bool of_week = (c->weekdays >> weekday & 1) || (left < 7 && (c->last_weekdays >> weekday & 1));
    return c->either ? of_month || of_week : of_month && of_week;
}

/* The first bit at or after `from`, or -1. */
static int bit_from(uint64_t bits, int from) {
    bits = from < 64 ? bits >> from << from : 0;
    return bits ? __builtin_ctzll(bits) : -1;
}

/* Minutes of the day at or after `from` that fit, or -1. */
static int time_from(const struct cron *c, int from) {
    int hour = bit_from(c->hours, from / MINUTES);
    if (hour < 0) return -1;
    int minute = bit_from(c->minutes, hour == from / MINUTES ? from % MINUTES : 0);
    if (minute >= 0) return hour * MINUTES + minute;
    hour = bit_from(c->hours, from / MINUTES + 1);
    return hour < 0 ? -1 : hour * MINUTES + bit_from(c->minutes, 0);
}

static int64_t floor_div(int64_t a, int64_t b) {
    return a / b - (a % b < 0);
}

/* The first local minute at or after `from` that fits; INT64_MAX: none in CRON_YEARS. */
static int64_t local_from(const struct cron *c, int64_t from) {
    int64_t days = floor_div(from, DAY_MINUTES);
    int time = time_from(c, (int)(from - days * DAY_MINUTES));
    struct date d = date_of(days);
    int64_t end = d.year + CRON_YEARS;
    if (time < 0) d = date_of(++days);
    while (d.year <= end && !((c->months >> d.month & 1) && day_fits(c, d, days))) {
        days++;
        if (!(c->months >> d.month & 1)) /* to the next month at once */
            days = days_of((struct date){d.year + (d.month == 12), d.month % 12 + 1, 1});
        d = date_of(days);
        time = -1;
    }
    if (d.year > end) return INT64_MAX;
    if (time < 0 || days * DAY_MINUTES > from) time = time_from(c, 0);
    return days * DAY_MINUTES + time;
}

/* ---- the zone ---- */

struct walk {
    const struct cron *c;
    struct cron_zone *zone;
    int64_t at_ms;     /* everything before and including has been looked at */
    int64_t offset_ms; /* from at_ms to the next change */
    int64_t least;     /* local minute below which nothing counts any more */
};

static int64_t minutes_up(int64_t ms) {
    return -floor_div(-ms, MINUTE_MS);
}

/* If at_ms lies in the second pass of an overlap: its local times have been. */
static enum hf_err begin(struct walk *w, int64_t after_ms) {
    int64_t change = 0, before = 0;
    w->at_ms = after_ms;
    enum hf_err e = cron_zone_offset(w->zone, after_ms, &w->offset_ms);
    if (e) return e;
    w->least = floor_div(after_ms + w->offset_ms, MINUTE_MS) + 1;
    if (w->c->every_hour) return HF_OK;
    if ((e = cron_zone_change_before(w->zone, after_ms, &change)) || change == INT64_MIN) return e;
    if ((e = cron_zone_offset(w->zone, change - 1, &before))) return e;
    int64_t passed = minutes_up(change + before);
    if (passed > w->least) w->least = passed;
    return HF_OK;
}

/* Over the change that comes next. *out: a time of the gap fires at its end. */
static enum hf_err cross(struct walk *w, int64_t change_ms, int64_t local, int64_t *out) {
    int64_t offset_ms = 0;
    enum hf_err e = cron_zone_offset(w->zone, change_ms, &offset_ms);
    if (e) return e;
    int64_t old_local = minutes_up(change_ms + w->offset_ms), new_local = minutes_up(change_ms + offset_ms);
    bool in_gap = local >= old_local && local < new_local;
    if (in_gap && !w->c->every_hour) *out = change_ms;
    w->at_ms = change_ms;
    w->offset_ms = offset_ms;
    w->least = w->c->every_hour || new_local > old_local ? new_local : old_local;
    return HF_OK;
}

enum hf_err cron_next(const struct cron *c, struct cron_zone *z, int64_t after_ms, int64_t *out) {
    struct walk w = {.c = c, .zone = z};
    enum hf_err e = begin(&w, after_ms);
    int64_t found = INT64_MIN;
    while (!e && found == INT64_MIN) {
        int64_t change = 0, local = local_from(c, w.least);
        if (local > LAST_MINUTE) return HF_EEND;
        int64_t at_ms = local * MINUTE_MS - w.offset_ms;
        e = cron_zone_change_after(z, w.at_ms, &change);
        if (e) break;
        if (at_ms < change)
            found = at_ms;
        else
            e = cross(&w, change, local, &found);
    }
    if (!e) *out = found;
    return e;
}
