#include "duration.h"

#include <stdio.h>

enum { MS_PER_DAY = 86400000 };

enum hf_err hf_duration_parse(hf_str text, int64_t *ms) {
    static const struct {
        const char *unit;
        int64_t ms;
    } units[] = {{"", 1}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", MS_PER_DAY}};
    size_t digits = 0;
    while (digits < text.n && text.p[digits] >= '0' && text.p[digits] <= '9') digits++;
    if (digits == 0) return HF_EINVAL;
    hf_str unit = hf_str_make(text.p + digits, text.n - digits);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (!hf_str_is(unit, units[i].unit)) continue;
        int64_t n, v;
        enum hf_err e = hf_str_int(hf_str_make(text.p, digits), &n);
        if (e) return e;
        if (__builtin_mul_overflow(n, units[i].ms, &v)) return HF_ERANGE;
        *ms = v;
        return HF_OK;
    }
    return HF_EINVAL;
}

/* Days since 1970-01-01 of a proleptic Gregorian date: years start in March, so that the leap day is
 * the last of its year, and an era of 400 years has 146097 days. */
static int64_t days_from_date(int64_t year, unsigned month, unsigned day) {
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    unsigned in_era = (unsigned)(y - era * 400);
    unsigned in_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    unsigned days = in_era * 365 + in_era / 4 - in_era / 100 + in_year;
    return era * 146097 + (int64_t)days - 719468;
}

static void date_from_days(int64_t days, int64_t *year, unsigned *month, unsigned *day) {
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    unsigned in_era = (unsigned)(days - era * 146097);
    unsigned y = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
    unsigned in_year = in_era - (365 * y + y / 4 - y / 100);
    unsigned m = (5 * in_year + 2) / 153;
    *day = in_year - (153 * m + 2) / 5 + 1;
    *month = m < 10 ? m + 3 : m - 9;
    *year = (int64_t)y + era * 400 + (*month <= 2);
}

static unsigned days_in_month(int64_t year, unsigned month) {
    static const unsigned days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return month == 2 && leap ? 29 : days[month - 1];
}

/* n digits, then the character `after` (0: nothing). */
static bool number(hf_str *s, size_t n, char after, unsigned *out) {
    if (s->n < n + (after ? 1 : 0)) return false;
    unsigned v = 0;
    for (size_t i = 0; i < n; i++) {
        if (s->p[i] < '0' || s->p[i] > '9') return false;
        v = v * 10 + (unsigned)(s->p[i] - '0');
    }
    if (after && s->p[n] != after) return false;
    *s = hf_str_make(s->p + n + (after ? 1 : 0), s->n - n - (after ? 1 : 0));
    *out = v;
    return true;
}

/* ".250", of any length; rounded up to the millisecond. */
static bool fraction(hf_str *s, int64_t *ms) {
    *ms = 0;
    if (s->n == 0 || s->p[0] != '.') return true;
    size_t i = 1;
    int64_t scale = 100;
    bool rest = false;
    for (; i < s->n && s->p[i] >= '0' && s->p[i] <= '9'; i++) {
        *ms += scale * (s->p[i] - '0');
        if (scale == 0 && s->p[i] != '0') rest = true;
        scale /= 10;
    }
    if (i == 1) return false;
    if (rest) *ms += 1;
    *s = hf_str_make(s->p + i, s->n - i);
    return true;
}

static bool zone(hf_str s, int64_t *offset_ms) {
    if (s.n == 1 && (s.p[0] == 'Z' || s.p[0] == 'z')) {
        *offset_ms = 0;
        return true;
    }
    if (s.n != 6 || (s.p[0] != '+' && s.p[0] != '-')) return false;
    hf_str rest = hf_str_make(s.p + 1, 5);
    unsigned hours, minutes;
    if (!number(&rest, 2, ':', &hours) || !number(&rest, 2, 0, &minutes)) return false;
    if (hours > 23 || minutes > 59) return false;
    *offset_ms = (int64_t)(hours * 60 + minutes) * 60000 * (s.p[0] == '-' ? -1 : 1);
    return true;
}

enum hf_err hf_time_parse(hf_str text, int64_t *ms) {
    int64_t plain;
    enum hf_err e = hf_str_int(text, &plain);
    if (e == HF_OK && plain < 0) return HF_EINVAL;
    if (e != HF_EINVAL) {
        if (e == HF_OK) *ms = plain;
        return e;
    }
    unsigned year, month, day, hour, minute, second;
    int64_t part, offset;
    hf_str s = text;
    if (!number(&s, 4, '-', &year) || !number(&s, 2, '-', &month) || !number(&s, 2, 0, &day))
        return HF_EINVAL;
    if (s.n == 0 || (s.p[0] != 'T' && s.p[0] != 't' && s.p[0] != ' ')) return HF_EINVAL;
    s = hf_str_make(s.p + 1, s.n - 1);
    if (!number(&s, 2, ':', &hour) || !number(&s, 2, ':', &minute) || !number(&s, 2, 0, &second))
        return HF_EINVAL;
    if (!fraction(&s, &part) || !zone(s, &offset)) return HF_EINVAL;
    if (month < 1 || month > 12 || day < 1 || day > days_in_month(year, month)) return HF_EINVAL;
    if (hour > 23 || minute > 59 || second > 60) return HF_EINVAL;
    int64_t in_day = ((int64_t)(hour * 60 + minute) * 60 + second) * 1000 + part;
    *ms = days_from_date(year, month, day) * MS_PER_DAY + in_day - offset;
    return HF_OK;
}

void hf_time_format(int64_t ms, char out[HF_TIME_TEXT]) {
    const int64_t first = -62167219200000, last = 253402300799999; /* 0000-01-01 and the end of 9999 */
    if (ms < first) ms = first;
    if (ms > last) ms = last;
    int64_t days = ms / MS_PER_DAY, in_day = ms % MS_PER_DAY, year;
    if (in_day < 0) {
        in_day += MS_PER_DAY;
        days--;
    }
    unsigned month, day, t = (unsigned)in_day;
    date_from_days(days, &year, &month, &day);
    snprintf(out, HF_TIME_TEXT, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", (unsigned)year % 10000, month % 100,
             day % 100, t / 3600000 % 100, t / 60000 % 60, t / 1000 % 60, t % 1000);
}
