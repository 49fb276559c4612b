/* Zones by ICU: the offset at a time, and where it changes.
 *
 * ICU's calendar object is set to a time and asked; it never looks at the clock in this use. Times before
 * 1970 do not occur. Changes that leave the offset as it is (a name changes, or how much of it is called
 * daylight saving) are passed on to the caller, whom they do not disturb. */
#include "cron.h"

#include <stdlib.h>
#include <unicode/ucal.h>
#include <unicode/ustring.h>

struct cron_zone {
    UCalendar *calendar;
};

const char *cron_zone_data(void) {
    UErrorCode status = U_ZERO_ERROR;
    const char *edition = ucal_getTZDataVersion(&status);
    return U_SUCCESS(status) ? edition : "unknown";
}

/* In ICU's letters; false: no name of the database, which is ASCII. */
static bool name_of(hf_str name, UChar out[CRON_ZONE_MAX + 1]) {
    if (name.n == 0 || name.n > CRON_ZONE_MAX) return false;
    for (size_t i = 0; i < name.n; i++) {
        if (name.p[i] <= ' ' || name.p[i] > '~') return false;
        out[i] = (UChar)name.p[i];
    }
    out[name.n] = 0;
    return true;
}

enum hf_err cron_zone_open(hf_str name, struct cron_zone **out) {
    UChar text[CRON_ZONE_MAX + 1], canonical[CRON_ZONE_MAX * 2];
    UBool known = false;
    UErrorCode status = U_ZERO_ERROR;
    if (!name_of(name, text)) return HF_ENOTFOUND;
    (void)ucal_getCanonicalTimeZoneID(text, (int32_t)name.n, canonical, CRON_ZONE_MAX * 2, &known, &status);
    if (U_FAILURE(status) || !known) return HF_ENOTFOUND;
    struct cron_zone *z = calloc(1, sizeof *z);
    if (!z) return HF_ENOMEM;
    z->calendar = ucal_open(text, (int32_t)name.n, "en", UCAL_GREGORIAN, &status);
    if (U_FAILURE(status)) {
        free(z);
        return status == U_MEMORY_ALLOCATION_ERROR ? HF_ENOMEM : HF_EIO;
    }
    *out = z;
    return HF_OK;
}

void cron_zone_close(struct cron_zone *z) {
    if (!z) return;
    ucal_close(z->calendar);
    free(z);
}

enum hf_err cron_zone_offset(struct cron_zone *z, int64_t at_ms, int64_t *out) {
    UErrorCode status = U_ZERO_ERROR;
    ucal_setMillis(z->calendar, (UDate)at_ms, &status);
    int32_t zone = ucal_get(z->calendar, UCAL_ZONE_OFFSET, &status);
    int32_t daylight = ucal_get(z->calendar, UCAL_DST_OFFSET, &status);
    if (U_FAILURE(status)) return HF_EIO;
    *out = (int64_t)zone + daylight;
    return HF_OK;
}

static enum hf_err change(struct cron_zone *z, int64_t at_ms, UTimeZoneTransitionType which, int64_t none,
                          int64_t *out) {
    UErrorCode status = U_ZERO_ERROR;
    UDate at = 0;
    ucal_setMillis(z->calendar, (UDate)at_ms, &status);
    UBool found = ucal_getTimeZoneTransitionDate(z->calendar, which, &at, &status);
    if (U_FAILURE(status)) return HF_EIO;
    *out = found ? (int64_t)at : none;
    return HF_OK;
}

enum hf_err cron_zone_change_after(struct cron_zone *z, int64_t at_ms, int64_t *out) {
    return change(z, at_ms, UCAL_TZ_TRANSITION_NEXT, INT64_MAX, out);
}

enum hf_err cron_zone_change_before(struct cron_zone *z, int64_t at_ms, int64_t *out) {
    return change(z, at_ms, UCAL_TZ_TRANSITION_PREVIOUS_INCLUSIVE, INT64_MIN, out);
}
