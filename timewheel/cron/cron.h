/* Cron expressions: which times they name, and which of them comes next in a time zone.
 *
 *     struct cron c; struct cron_error why;
 *     if (cron_parse(HF_STR("0 9 * * MON-FRI"), &c, &why)) …why.text…
 *     struct cron_zone *z;
 *     e = cron_zone_open(HF_STR("Europe/Berlin"), &z);
 *     e = cron_next(&c, z, now_ms, &next_ms);
 *
 * Pure: time is an argument; zones come from ICU. One zone object, one thread at a time.
 *
 *     field          allowed             also
 *     minute         0-59                *  lists 1,15  ranges 1-5  steps 0-30/10, 7/20 (from 7 on)
 *     hour           0-23
 *     day of month   1-31                L: the last day; L-3: three days before it; ?: as *
 *     month          1-12, JAN-DEC
 *     day of week    0-7, SUN-SAT        0 and 7 are Sunday; FRIL or 5L: the last Friday; ?: as *
 *
 *     @yearly @annually @monthly @weekly @daily @midnight @hourly
 *
 * If both days are restricted (neither field begins with * or ?), a day that fits either is meant, as in
 * every cron since Vixie's; else a day must fit both. */
#ifndef TIMEWHEEL_CRON_CRON_H
#define TIMEWHEEL_CRON_CRON_H

#include "base/bytes.h"

enum {
    CRON_TEXT_MAX = 256, /* bytes of an expression */
    CRON_ZONE_MAX = 64,  /* bytes of a zone's name */
    CRON_ERROR_BYTES = 200,
    CRON_YEARS = 40, /* a schedule that names no time in so many years is none */
};

struct cron {
    uint64_t minutes; /* bit n: minute n */
    uint32_t hours;
    uint32_t days;          /* of the month, bits 1 to 31 */
    uint32_t days_from_end; /* bit n: n days before the last */
    uint16_t months;        /* bits 1 to 12 */
    uint8_t weekdays;       /* bit 0: Sunday */
    uint8_t last_weekdays;  /* bit n: the last weekday n of the month */
    bool either;            /* both days are restricted */
    bool every_hour;        /* all 24: it follows elapsed time (cron.c) */
};

struct cron_error {
    const char *field; /* "hour"; "expression" if it is about the whole */
    size_t position;   /* of the offending character in the text, from 1 */
    char text[CRON_ERROR_BYTES];
};

/* HF_EINVAL: why->text names field, position and what is allowed. An expression that never comes true (30
 * February) is refused too. */
HF_CHECK enum hf_err cron_parse(hf_str text, struct cron *out, struct cron_error *why);

struct cron_zone;

/* A zone of the IANA database ("Europe/Berlin", "UTC"). HF_ENOTFOUND: there is none of this name. HF_ENOMEM.
 */
HF_CHECK enum hf_err cron_zone_open(hf_str name, struct cron_zone **out);
void cron_zone_close(struct cron_zone *z);

/* Which edition of the IANA database the zones come from: "2022e". */
const char *cron_zone_data(void);

/* The first time strictly after after_ms. HF_EEND: none before the year 9999 ends. HF_EIO: the zone fails. */
HF_CHECK enum hf_err cron_next(const struct cron *c, struct cron_zone *z, int64_t after_ms, int64_t *out);

/* ---- what a zone is, for cron.c ---- */

/* Milliseconds to add to UTC at that time. */
HF_CHECK enum hf_err cron_zone_offset(struct cron_zone *z, int64_t at_ms, int64_t *out);
/* The first change of the offset after at_ms, INT64_MAX if there is none; the last one at or before,
 * INT64_MIN. */
HF_CHECK enum hf_err cron_zone_change_after(struct cron_zone *z, int64_t at_ms, int64_t *out);
HF_CHECK enum hf_err cron_zone_change_before(struct cron_zone *z, int64_t at_ms, int64_t *out);

#endif
