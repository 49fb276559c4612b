/* From text to sets of bits.
 *
 *     expression = "@" name | field SP field SP field SP field SP field
 *     field      = item { "," item }
 *     item       = ( "*" | "?" | value | value "-" value ) [ "/" step ]    a single value with a step: to the end
 *                | "L" [ "-" number ]                                      day of month
 *                | value "L"                                               day of week
 *
 * Names are three letters in any case. A position is that of the first character that cannot stand there, so
 * that the text says where to look. Ranges do not wrap: "FRI-MON" is refused, since crons disagree on it. */
#include "cron.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct field {
    const char *name;
    int least, most;
    const char *const *names; /* from `least` on; NULL: none */
    const char *allowed;
};

static const char *const months[] = {"JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL",
                                     "AUG", "SEP", "OCT", "NOV", "DEC", NULL};
static const char *const weekdays[] = {"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", NULL};

enum { MINUTE, HOUR, DAY, MONTH, WEEKDAY, FIELDS };

static const struct field fields[FIELDS] = {
    {"minute", 0, 59, NULL, "0-59"},
    {"hour", 0, 23, NULL, "0-23"},
    {"day of month", 1, 31, NULL, "1-31, L or L-0 to L-30"},
    {"month", 1, 12, months, "1-12 or JAN-DEC"},
    {"day of week", 0, 7, weekdays, "0-7 or SUN-SAT (0 and 7 are Sunday)"},
};

struct parser {
    hf_str text;
    size_t at;
    const struct field *field;
    struct cron_error *why;
    uint64_t bits, from_end; /* from_end: L-n of days, nL of weekdays */
};

static enum hf_err refuse(struct parser *p, size_t at, const char *fmt, ...) HF_PRINTF(3, 4);
static enum hf_err refuse(struct parser *p, size_t at, const char *fmt, ...) {
    struct cron_error *why = p->why;
    va_list args;
    why->field = p->field ? p->field->name : "expression";
    why->position = at + 1;
    int n = snprintf(why->text, sizeof why->text, "%s, character %zu: ", why->field, why->position);
    va_start(args, fmt);
    (void)vsnprintf(why->text + n, sizeof why->text - (size_t)n, fmt, args);
    va_end(args);
    return HF_EINVAL;
}

static char peek(const struct parser *p) {
    return p->at < p->text.n ? p->text.p[p->at] : '\0';
}

static char upper(char c) {
    return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_letter(char c) {
    return upper(c) >= 'A' && upper(c) <= 'Z';
}

static bool take(struct parser *p, char c) {
    if (upper(peek(p)) != c || p->at >= p->text.n) return false;
    p->at++;
    return true;
}

/* ---- values ---- */

/* The offending item, for the message: up to the next separator. */
static hf_str word_at(const struct parser *p, size_t at) {
    size_t end = at;
    while (end < p->text.n && end < at + 20 && !strchr(" \t,-/", p->text.p[end])) end++;
    return hf_str_make(p->text.p + at, end - at);
}

static enum hf_err refuse_value(struct parser *p, size_t at) {
    hf_str word = word_at(p, at);
    if (word.n == 0) return refuse(p, at, "a value is missing; allowed is %s", p->field->allowed);
    return refuse(p, at, "\"%.*s\"; allowed is %s", (int)word.n, word.p, p->field->allowed);
}

static bool take_name(struct parser *p, int *out) {
    enum { LETTERS = 3 };
    for (int i = 0; p->field->names && p->field->names[i] && p->at + LETTERS <= p->text.n; i++) {
        const char *name = p->field->names[i], *at = p->text.p + p->at;
        if (upper(at[0]) != name[0] || upper(at[1]) != name[1] || upper(at[2]) != name[2]) continue;
        char behind = p->at + LETTERS < p->text.n ? upper(at[LETTERS]) : '\0';
        bool last = behind == 'L' && p->field == &fields[WEEKDAY];
        if (is_letter(behind) && !last) return false;
        p->at += LETTERS;
        *out = p->field->least + i;
        return true;
    }
    return false;
}

static bool take_number(struct parser *p, int *out) {
    int v = 0;
    size_t digits = 0;
    for (; is_digit(peek(p)); p->at++, digits++)
        if (v < 100000) v = v * 10 + (peek(p) - '0');
    *out = v;
    return digits > 0;
}

static enum hf_err value(struct parser *p, int *out) {
    size_t at = p->at;
    int v = 0;
    if (!take_name(p, &v) && (!take_number(p, &v) || v < p->field->least || v > p->field->most))
        return refuse_value(p, at);
    *out = v;
    return HF_OK;
}

static enum hf_err step(struct parser *p, int *out) {
    size_t at = p->at;
    if (!take_number(p, out) || *out < 1 || *out > p->field->most)
        return refuse(p, at, "step \"%.*s\"; allowed is 1-%d", (int)word_at(p, at).n, word_at(p, at).p,
                      p->field->most);
    return HF_OK;
}

/* ---- items and fields ---- */

static enum hf_err last_day(struct parser *p) {
    enum { BEFORE_MAX = 30 };
    int before = 0;
    if (take(p, '-')) {
        size_t at = p->at;
        if (!take_number(p, &before) || before > BEFORE_MAX) return refuse_value(p, at);
    }
    p->from_end |= UINT64_C(1) << before;
    return HF_OK;
}

static enum hf_err span(struct parser *p, int *from, int *to, bool *single) {
    bool day = p->field == &fields[DAY] || p->field == &fields[WEEKDAY];
    *single = false;
    *from = p->field->least;
    *to = p->field == &fields[WEEKDAY] ? 6 : p->field->most;
    if (take(p, '*') || (day && take(p, '?'))) return HF_OK;
    size_t at = p->at;
    enum hf_err e = value(p, from);
    if (e) return e;
    *single = true;
    if (take(p, '-')) {
        *single = false;
        if ((e = value(p, to))) return e;
        if (*to < *from)
            return refuse(p, at, "the range \"%.*s\" runs backwards; allowed is %s", (int)(p->at - at),
                          p->text.p + at, p->field->allowed);
    }
    return HF_OK;
}

static enum hf_err item(struct parser *p) {
    int from, to, by = 1;
    bool single;
    if (p->field == &fields[DAY] && take(p, 'L')) return last_day(p);
    enum hf_err e = span(p, &from, &to, &single);
    if (e) return e;
    if (single && p->field == &fields[WEEKDAY] && take(p, 'L')) {
        p->from_end |= UINT64_C(1) << from % 7;
        return HF_OK;
    }
    bool stepped = take(p, '/');
    if (stepped && (e = step(p, &by))) return e;
    if (single && !stepped) to = from;
    for (int v = from; v <= to; v += by) p->bits |= UINT64_C(1) << v;
    return HF_OK;
}

static bool is_space(char c) {
    return c == ' ' || c == '\t';
}

/* One field and the space behind it. *restricted: it does not begin with * or ?. */
static enum hf_err field(struct parser *p, bool *restricted) {
    p->bits = p->from_end = 0;
    if (p->at == p->text.n) return refuse(p, p->at, "missing; five fields are needed");
    *restricted = peek(p) != '*' && peek(p) != '?';
    do {
        enum hf_err e = item(p);
        if (e) return e;
    } while (take(p, ','));
    if (p->at < p->text.n && !is_space(peek(p))) {
        hf_str rest = word_at(p, p->at);
        return refuse(p, p->at, "\"%.*s\" cannot stand here; allowed is %s", (int)(rest.n ? rest.n : 1),
                      p->text.p + p->at, p->field->allowed);
    }
    while (is_space(peek(p))) p->at++;
    return HF_OK;
}

/* ---- the whole ---- */

static hf_str nickname(struct parser *p, hf_str text) {
    static const struct {
        const char *name, *means;
    } nicknames[] = {{"@YEARLY", "0 0 1 1 *"}, {"@ANNUALLY", "0 0 1 1 *"}, {"@MONTHLY", "0 0 1 * *"},
                     {"@WEEKLY", "0 0 * * 0"}, {"@DAILY", "0 0 * * *"},    {"@MIDNIGHT", "0 0 * * *"},
                     {"@HOURLY", "0 * * * *"}};
    for (size_t i = 0; i < sizeof nicknames / sizeof nicknames[0]; i++) {
        size_t n = strlen(nicknames[i].name), k = 0;
        while (k < n && k < text.n && upper(text.p[k]) == nicknames[i].name[k]) k++;
        if (k == n && k == text.n) return hf_str_of(nicknames[i].means);
    }
    (void)refuse(p, 0,
                 "\"%.*s\"; allowed are @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly",
                 (int)(text.n < 20 ? text.n : 20), text.p);
    return (hf_str){NULL, 0};
}

static hf_str trim(hf_str text) {
    while (text.n && is_space(text.p[text.n - 1])) text.n--;
    return text;
}

/* Some day of some month is meant. Weekdays alone always come. */
static bool comes_true(const struct cron *c) {
    static const uint8_t longest[] = {0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    if (c->either) return true;
    for (int month = 1; month <= 12; month++) {
        if (!(c->months >> month & 1)) continue;
        uint32_t days = (UINT32_C(2) << longest[month]) - 2; /* bits 1 to the last */
        uint32_t from_end = (UINT32_C(1) << longest[month]) - 1;
        if ((c->days & days) || (c->days_from_end & from_end)) return true;
    }
    return false;
}

static void fill(struct cron *c, const struct parser *p, size_t which) {
    switch (which) {
    case MINUTE: c->minutes = p->bits; break;
    case HOUR: c->hours = (uint32_t)p->bits; break;
    case DAY:
        c->days = (uint32_t)p->bits;
        c->days_from_end = (uint32_t)p->from_end;
        break;
    case MONTH: c->months = (uint16_t)p->bits; break;
    default:
        c->weekdays = (uint8_t)((p->bits | p->bits >> 7) & 0x7f);
        c->last_weekdays = (uint8_t)p->from_end;
    }
}

enum hf_err cron_parse(hf_str text, struct cron *out, struct cron_error *why) {
    struct cron c = {0};
    struct parser p = {.text = trim(text), .why = why};
    bool restricted[FIELDS];
    if (text.n > CRON_TEXT_MAX) return refuse(&p, CRON_TEXT_MAX, "longer than %d bytes", CRON_TEXT_MAX);
    while (p.at < p.text.n && is_space(p.text.p[p.at])) p.at++;
    if (p.at == p.text.n)
        return refuse(&p, 0, "empty; five fields are needed: minute hour day month weekday");
    if (peek(&p) == '@') {
        hf_str means = nickname(&p, hf_str_make(p.text.p + p.at, p.text.n - p.at));
        if (!means.p) return HF_EINVAL;
        p.text = means;
        p.at = 0;
    }
    for (size_t i = 0; i < FIELDS; i++) {
        p.field = &fields[i];
        enum hf_err e = field(&p, &restricted[i]);
        if (e) return e;
        fill(&c, &p, i);
    }
    p.field = NULL;
    if (p.at < p.text.n) return refuse(&p, p.at, "more than five fields");
    c.either = restricted[DAY] && restricted[WEEKDAY];
    c.every_hour = c.hours == 0xffffff;
    if (!comes_true(&c)) return refuse(&p, 0, "never comes true: none of the months has such a day");
    *out = c;
    return HF_OK;
}
