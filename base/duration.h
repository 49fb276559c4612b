/* Durations (250ms 30s 15m 2h 7d, a bare integer is ms) and times (integer ms since the epoch, or
 * RFC 3339). Any thread; pure. */
#ifndef BASE_DURATION_H
#define BASE_DURATION_H

#include "bytes.h"

/* HF_EINVAL: no such form; HF_ERANGE: does not fit. Negative durations are HF_EINVAL. */
HF_CHECK enum hf_err hf_duration_parse(hf_str text, int64_t *ms);

/* Integer ms since the epoch, or RFC 3339 ("2026-03-01T12:00:00.250Z", "+01:00"; digits past the
 * millisecond are rounded up, so that a due time is never early). HF_EINVAL, HF_ERANGE. */
HF_CHECK enum hf_err hf_time_parse(hf_str text, int64_t *ms);

enum { HF_TIME_TEXT = 32 };
/* "2026-03-01T12:00:00.250Z". Years 0000 to 9999; times outside are clamped. */
void hf_time_format(int64_t ms, char out[HF_TIME_TEXT]);

#endif
