/* Cron expressions: what is refused and how, tables of daylight-saving changes, and random expressions
 * against a walk over every minute with the C library's idea of local time.
 *
 *     test_cron [--seeds N] [--seed S]
 *
 * The walk shares no code with cron.c and no data with ICU: it asks localtime_r. Times lie before 2022, where
 * all editions of the time zone database agree. */
#include "timewheel/cron/cron.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static uint64_t first_seed = 1, seeds = 400, running;

static const char *const zones[] = {
    "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "UTC", "Asia/Kolkata"};
enum { ZONES = sizeof zones / sizeof zones[0] };

/* "2021-03-28 03:00" in that zone, as the C library has it; the first pass of an overlap unless `second`. */
static int64_t local_ms(const char *zone, const char *text, bool second) {
    struct tm tm = {0};
    (void)setenv("TZ", zone, 1);
    tzset();
    assert_non_null(strptime(text, "%Y-%m-%d %H:%M", &tm));
    tm.tm_isdst = second ? 0 : -1;
    if (!second) {
        struct tm summer = tm, winter = tm;
        summer.tm_isdst = 1;
        winter.tm_isdst = 0;
        time_t s = mktime(&summer), w = mktime(&winter);
        struct tm back;
        localtime_r(&s, &back);
        bool is_summer = back.tm_hour == tm.tm_hour && back.tm_min == tm.tm_min && back.tm_isdst == 1;
        return (int64_t)(is_summer ? s : w) * 1000;
    }
    return (int64_t)mktime(&tm) * 1000;
}

static int64_t next_of(const char *text, const char *zone, int64_t after_ms) {
    struct cron c;
    struct cron_error why;
    struct cron_zone *z;
    int64_t next = 0;
    if (cron_parse(hf_str_of(text), &c, &why)) fail_msg("\"%s\": %s", text, why.text);
    assert_int_equal(cron_zone_open(hf_str_of(zone), &z), HF_OK);
    enum hf_err e = cron_next(&c, z, after_ms, &next);
    cron_zone_close(z);
    if (e) fail_msg("\"%s\": %s", text, hf_err_name(e));
    return next;
}

/* ---- what is refused ---- */

static void says_which_field_where_and_what_is_allowed(void **state) {
    (void)state;
    static const struct {
        const char *text, *field;
        size_t position;
        const char *allowed;
    } rows[] = {
        {"61 * * * *", "minute", 1, "0-59"},
        {"* 24 * * *", "hour", 3, "0-23"},
        {"0 0 0 * *", "day of month", 5, "1-31"},
        {"0 0 32 * *", "day of month", 5, "1-31"},
        {"0 0 1 13 *", "month", 7, "1-12"},
        {"0 0 1 FOO *", "month", 7, "JAN-DEC"},
        {"0 0 * * 8", "day of week", 9, "0-7"},
        {"0 0 * * MONDAY", "day of week", 9, "SUN-SAT"},
        {"*/0 * * * *", "minute", 3, "1-59"},
        {"*/x * * * *", "minute", 3, "1-59"},
        {"5-1 * * * *", "minute", 1, "backwards"},
        {"0 0 * * FRI-MON", "day of week", 9, "backwards"},
        {"1,,2 * * * *", "minute", 3, "missing"},
        {"1, * * * *", "minute", 3, "missing"},
        {"0 L * * *", "hour", 3, "0-23"},
        {"0 0 L-31 * *", "day of month", 7, "1-31"},
        {"5x * * * *", "minute", 2, "0-59"},
        {"0 0 * *", "day of week", 8, "five fields"},
        {"0 0 * * * *", "expression", 11, "five fields"},
        {"", "expression", 1, "five fields"},
        {"   ", "expression", 1, "five fields"},
        {"@reboot", "expression", 1, "@daily"},
        {"@dailyy", "expression", 1, "@daily"},
        {"0 0 30 2 *", "expression", 1, "never"},
        {"0 0 31 4,6,9,11 *", "expression", 1, "never"},
        {"0 0 31 2 */2", "expression", 1, "never"},
        {"99999999999999999999 * * * *", "minute", 1, "0-59"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct cron c = {.minutes = 7};
        struct cron_error why = {0};
        assert_int_equal(cron_parse(hf_str_of(rows[i].text), &c, &why), HF_EINVAL);
        bool right = strcmp(why.field, rows[i].field) == 0 && why.position == rows[i].position &&
                     strstr(why.text, rows[i].allowed) && strstr(why.text, why.field);
        if (!right) fail_msg("\"%s\": %s at %zu: %s", rows[i].text, why.field, why.position, why.text);
        assert_int_equal(c.minutes, 7);
    }
}

static void random_bytes_are_parsed_or_refused(void **state) {
    (void)state;
    static const char letters[] = "0123456789*?,-/L @ \tJANSUNFRI";
    uint64_t random = first_seed;
    for (int i = 0; i < 20000; i++) {
        char text[40];
        size_t n = 0;
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint64_t bits = random;
        for (; n < bits % sizeof text; n++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            text[n] = letters[(random >> 33) % (sizeof letters - 1)];
        }
        char *exact = malloc(n ? n : 1); /* an overrun is seen by the sanitizer */
        memcpy(exact, text, n);
        struct cron c;
        struct cron_error why;
        if (cron_parse(hf_str_make(exact, n), &c, &why))
            assert_true(why.position >= 1 && why.position <= n + 1 && why.text[0]);
        free(exact);
    }
}

static void unknown_zones_are_refused(void **state) {
    (void)state;
    static const char *const names[] = {"Europe/Nowhere",
                                        "",
                                        " ",
                                        "GMT+3:17",
                                        "Europe/Berl\xc3\xadn",
                                        "\n",
                                        "a name that is far longer than any zone of the database may be, so"};
    struct cron_zone *z = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_int_equal(cron_zone_open(hf_str_of(names[i]), &z), HF_ENOTFOUND);
    assert_null(z);
    assert_true(strlen(cron_zone_data()) >= 5);
}

/* ---- tables ---- */

struct run {
    const char *text, *zone;
    const char *after;
    const char *fires[6]; /* local; "+" in front: the second pass of an overlap; NULL ends it */
};

static void check_run(const struct run *r) {
    bool late = r->after[0] == '+';
    int64_t at = local_ms(r->zone, r->after + late, late);
    for (size_t i = 0; i < 6 && r->fires[i]; i++) {
        bool second = r->fires[i][0] == '+';
        int64_t expected = local_ms(r->zone, r->fires[i] + second, second);
        at = next_of(r->text, r->zone, at);
        if (at != expected)
            fail_msg("\"%s\" in %s: run %zu is at %lld, not %s (%lld)", r->text, r->zone, i,
                     (long long)at / 1000, r->fires[i], (long long)expected / 1000);
    }
}

static void gaps_and_overlaps_fire_once(void **state) {
    (void)state;
    static const struct run runs[] = {
        /* Berlin: 2021-03-28 02:00 -> 03:00, 2021-10-31 03:00 -> 02:00 */
        {"30 2 * * *", "Europe/Berlin", "2021-03-27 12:00", {"2021-03-28 03:00", "2021-03-29 02:30"}},
        {"0,15,30 2 * * *", "Europe/Berlin", "2021-03-27 12:00", {"2021-03-28 03:00", "2021-03-29 02:00"}},
        {"0 2,3 * * *", "Europe/Berlin", "2021-03-27 12:00", {"2021-03-28 03:00", "2021-03-29 02:00"}},
        {"30 2 * * *", "Europe/Berlin", "2021-10-30 12:00", {"2021-10-31 02:30", "2021-11-01 02:30"}},
        {"0 3 * * *", "Europe/Berlin", "2021-10-30 12:00", {"2021-10-31 03:00", "2021-11-01 03:00"}},
        {"*/30 * * * *",
         "Europe/Berlin",
         "2021-03-28 01:15",
         {"2021-03-28 01:30", "2021-03-28 03:00", "2021-03-28 03:30"}},
        {"30 * * * *", "Europe/Berlin", "2021-03-28 01:00", {"2021-03-28 01:30", "2021-03-28 03:30"}},
        {"30 * * * *",
         "Europe/Berlin",
         "2021-10-31 01:00",
         {"2021-10-31 01:30", "2021-10-31 02:30", "+2021-10-31 02:30", "2021-10-31 03:30"}},
        {"30 2 * * *", "Europe/Berlin", "+2021-10-31 02:10", {"2021-11-01 02:30"}}, /* it has been */
        /* New York: 2021-03-14 02:00 -> 03:00, 2021-11-07 02:00 -> 01:00 */
        {"15 2 * * SUN", "America/New_York", "2021-03-13 12:00", {"2021-03-14 03:00", "2021-03-21 02:15"}},
        {"30 1 * * *", "America/New_York", "2021-11-06 12:00", {"2021-11-07 01:30", "2021-11-08 01:30"}},
        /* Lord Howe, half an hour: 2021-10-03 02:00 -> 02:30, 2021-04-04 02:00 -> 01:30 */
        {"15 2 * * *", "Australia/Lord_Howe", "2021-10-02 12:00", {"2021-10-03 02:30", "2021-10-04 02:15"}},
        {"30 2 * * *", "Australia/Lord_Howe", "2021-10-02 12:00", {"2021-10-03 02:30", "2021-10-04 02:30"}},
        {"45 1 * * *", "Australia/Lord_Howe", "2021-04-03 12:00", {"2021-04-04 01:45", "2021-04-05 01:45"}},
        {"15 1 * * *", "Australia/Lord_Howe", "2021-04-03 12:00", {"2021-04-04 01:15", "2021-04-05 01:15"}},
        /* Cairo, at midnight: 2010-04-30 00:00 -> 01:00, 2010-09-30 24:00 -> 23:00 */
        {"0 0 * * *", "Africa/Cairo", "2010-04-29 12:00", {"2010-04-30 01:00", "2010-05-01 00:00"}},
        {"30 23 * * *", "Africa/Cairo", "2010-09-30 12:00", {"2010-09-30 23:30", "2010-10-01 23:30"}},
        {"@daily", "Africa/Cairo", "2010-09-30 12:00", {"2010-10-01 00:00", "2010-10-02 00:00"}},
    };
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) check_run(&runs[i]);
}

static void knows_the_calendar(void **state) {
    (void)state;
    static const struct run runs[] = {
        {"0 0 29 2 *", "UTC", "2016-03-01 00:00", {"2020-02-29 00:00", "2024-02-29 00:00"}},
        {"0 12 L * *",
         "UTC",
         "2020-01-31 12:00",
         {"2020-02-29 12:00", "2020-03-31 12:00", "2020-04-30 12:00"}},
        {"0 12 L 2 *", "UTC", "2018-12-31 00:00", {"2019-02-28 12:00", "2020-02-29 12:00"}},
        {"0 0 L-2 * *", "UTC", "2021-02-01 00:00", {"2021-02-26 00:00", "2021-03-29 00:00"}},
        {"0 0 1,L * *",
         "UTC",
         "2021-02-15 00:00",
         {"2021-02-28 00:00", "2021-03-01 00:00", "2021-03-31 00:00"}},
        {"0 0 * * FRIL", "UTC", "2021-01-01 00:00", {"2021-01-29 00:00", "2021-02-26 00:00"}},
        {"0 0 * * 7", "UTC", "2021-01-01 00:00", {"2021-01-03 00:00", "2021-01-10 00:00"}},
        {"0 0 * * sun,Tue", "UTC", "2021-01-01 00:00", {"2021-01-03 00:00", "2021-01-05 00:00"}},
        {"0 0 13 * FRI", "UTC", "2021-08-08 00:00", {"2021-08-13 00:00", "2021-08-20 00:00"}},  /* either */
        {"0 0 */2 * MON", "UTC", "2021-03-01 00:00", {"2021-03-15 00:00", "2021-03-29 00:00"}}, /* both */
        {"50/5 23 31 dec ?", "UTC", "2021-01-01 00:00", {"2021-12-31 23:50", "2021-12-31 23:55"}},
        {"0 9-17/4 * * 1-5",
         "UTC",
         "2021-01-01 00:00",
         {"2021-01-01 09:00", "2021-01-01 13:00", "2021-01-01 17:00", "2021-01-04 09:00"}},
        {"@hourly", "UTC", "2021-12-31 22:59", {"2021-12-31 23:00", "2022-01-01 00:00"}},
        {"@weekly", "UTC", "2021-01-01 00:00", {"2021-01-03 00:00"}},
        {"@monthly", "UTC", "2021-01-01 00:00", {"2021-02-01 00:00"}},
        {"@Yearly", "UTC", "2021-01-01 00:00", {"2022-01-01 00:00"}},
        {"  5\t4 * * *  ", "UTC", "2021-01-01 00:00", {"2021-01-01 04:05"}},
    };
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) check_run(&runs[i]);
    /* 2100 is no leap year: eight years without a 29 February. */
    assert_int_equal(next_of("0 0 29 2 *", "UTC", INT64_C(3981312000000)), INT64_C(4233686400000));
}

static void ends_with_the_year_9999(void **state) {
    (void)state;
    struct cron c;
    struct cron_error why;
    struct cron_zone *z;
    int64_t next = 5;
    assert_int_equal(cron_parse(HF_STR("@yearly"), &c, &why), HF_OK);
    assert_int_equal(cron_zone_open(HF_STR("Europe/Berlin"), &z), HF_OK);
    assert_int_equal(cron_next(&c, z, INT64_C(253402300799999), &next), HF_EEND);
    assert_int_equal(next, 5);
    cron_zone_close(z);
}

/* ---- random expressions ---- */

struct spec {
    bool minutes[60], hours[24], days[32], last, months[13], weekdays[7];
    bool every_hour, either;
    char text[320];
};

static uint64_t random_state;

static unsigned below(unsigned n) { /* splitmix64 */
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (unsigned)((z ^ z >> 31) % n);
}

/* Writes one field in one of the forms and marks what it means. Returns whether it restricts. */
static bool draw_field(char *text, bool *set, int least, int most) {
    int form = (int)below(5), n = 0;
    if (form == 0) {
        for (int v = least; v <= most; v++) set[v] = true;
        strcpy(text, "*");
        return false;
    }
    if (form == 1) {
        int by = 1 + (int)below((unsigned)most);
        for (int v = least; v <= most; v += by) set[v] = true;
        (void)sprintf(text, "*/%d", by);
        return false;
    }
    for (int items = 1 + (int)below(3); items > 0; items--) {
        int a = least + (int)below((unsigned)(most - least + 1)),
            b = a + (int)below((unsigned)(most - a + 1));
        int by = form == 4 ? 1 + (int)below(4) : 1;
        if (form == 2) b = a;
        for (int v = a; v <= b; v += by) set[v] = true;
        n += sprintf(text + n,
                     form == 2   ? "%s%d"
                     : form == 3 ? "%s%d-%d"
                                 : "%s%d-%d/%d",
                     n ? "," : "", a, b, by);
    }
    return true;
}

static void draw(struct spec *s) {
    char minute[60], hour[60], day[60], month[60], weekday[60];
    memset(s, 0, sizeof *s);
    draw_field(minute, s->minutes, 0, 59);
    draw_field(hour, s->hours, 0, 23);
    bool by_day = draw_field(day, s->days, 1, 31);
    if (by_day && below(4) == 0) {
        strcat(day, ",L");
        s->last = true;
    }
    draw_field(month, s->months, 1, 12);
    bool by_weekday = draw_field(weekday, s->weekdays, 0, 6);
    s->either = by_day && by_weekday;
    s->every_hour = true;
    for (int h = 0; h < 24; h++) s->every_hour &= s->hours[h];
    (void)snprintf(s->text, sizeof s->text, "%s %s %s %s %s", minute, hour, day, month, weekday);
}

static bool is_last_day(const struct tm *t) {
    struct tm next = {.tm_year = t->tm_year, .tm_mon = t->tm_mon, .tm_mday = t->tm_mday + 1};
    time_t at = timegm(&next);
    gmtime_r(&at, &next);
    return next.tm_mon != t->tm_mon;
}

static bool fits(const struct spec *s, const struct tm *t) {
    bool day = s->days[t->tm_mday] || (s->last && is_last_day(t)), weekday = s->weekdays[t->tm_wday];
    return s->minutes[t->tm_min] && s->hours[t->tm_hour] && s->months[t->tm_mon + 1] &&
           (s->either ? day || weekday : day && weekday);
}

/* Local time as a number that runs on. */
static int64_t reading(time_t at, struct tm *t) {
    localtime_r(&at, t);
    struct tm copy = *t;
    return timegm(&copy);
}

static bool fires_at(const struct spec *s, time_t at) {
    struct tm t, other;
    int64_t local = reading(at, &t);
    if (s->every_hour) return fits(s, &t);
    int64_t before = reading(at - 60, &other);
    for (int64_t skipped = before + 60; skipped < local; skipped += 60) { /* the end of a gap */
        time_t then = (time_t)skipped;
        gmtime_r(&then, &other);
        if (fits(s, &other)) return true;
    }
    if (!fits(s, &t)) return false;
    for (time_t earlier = at - 60; earlier > at - 3 * 3600; earlier -= 60)
        if (reading(earlier, &other) == local) return false; /* the second pass */
    return true;
}

/* Starts near a change more often than not. */
static time_t draw_start(const char *zone) {
    static const time_t changes[] = {1616893200, 1635642000, 1615705200, 1636264800, 1633188600,
                                     1617462000, 1272578400, 1285880400, 1582934400, 1609459200};
    (void)setenv("TZ", zone, 1);
    tzset();
    time_t at = below(3) ? changes[below(sizeof changes / sizeof changes[0])] - (time_t)below(7200 * 2)
                         : (time_t)1104537600 + (time_t)below(16 * 365 * 86400u);
    return at - at % 60;
}

static void agrees_with_a_walk_over_every_minute(void **state) {
    (void)state;
    enum { DAYS = 3, MINUTES = DAYS * 1440 };
    for (running = first_seed; running < first_seed + seeds; running++) {
        random_state = running;
        struct spec s;
        struct cron c;
        struct cron_error why;
        struct cron_zone *z;
        const char *zone = zones[below(ZONES)];
        draw(&s);
        time_t start = draw_start(zone);
        if (cron_parse(hf_str_of(s.text), &c, &why)) {
            assert_non_null(strstr(why.text, "never")); /* 31 November */
            continue;
        }
        assert_int_equal(cron_zone_open(hf_str_of(zone), &z), HF_OK);
        int64_t next = (int64_t)start * 1000 + (int64_t)below(60000);
        enum hf_err e = cron_next(&c, z, next, &next);
        for (time_t at = start + 60; at < start + MINUTES * 60; at += 60) {
            bool expected = fires_at(&s, at), fires = !e && next == (int64_t)at * 1000;
            if (fires != expected || (!e && next < (int64_t)at * 1000))
                fail_msg("seed %llu: \"%s\" in %s at %lld: %s", (unsigned long long)running, s.text, zone,
                         (long long)at, expected ? "missed" : "too many");
            if (fires) e = cron_next(&c, z, next, &next);
        }
        cron_zone_close(z);
    }
}

int main(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seeds")) seeds = strtoull(argv[i + 1], NULL, 10);
        if (!strcmp(argv[i], "--seed")) first_seed = strtoull(argv[i + 1], NULL, 10);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_which_field_where_and_what_is_allowed),
        cmocka_unit_test(random_bytes_are_parsed_or_refused),
        cmocka_unit_test(unknown_zones_are_refused),
        cmocka_unit_test(gaps_and_overlaps_fire_once),
        cmocka_unit_test(knows_the_calendar),
        cmocka_unit_test(ends_with_the_year_9999),
        cmocka_unit_test(agrees_with_a_walk_over_every_minute),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
