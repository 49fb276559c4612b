/* Error codes as text and class. The codes are declared in include/holdfast/base.h.
 *
 * Any thread; pure. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <holdfast/base.h>
#include <stdbool.h>

/* Put before a function whose result must be looked at. */
#define HF_CHECK __attribute__((warn_unused_result))

/* printf-like functions: the format is argument f, the first value argument v. */
#define HF_PRINTF(f, v) __attribute__((format(printf, f, v)))

enum hf_err_class { HF_CLASS_FINAL, HF_CLASS_RETRY, HF_CLASS_CORRUPT };

/* hf_err_text and hf_err_name are public: holdfast/base.h. Unknown numbers give "unknown error". */

enum hf_err_class hf_err_class_of(enum hf_err e);

/* A system errno as our code: ENOENT, EEXIST, ENOSPC and EDQUOT, ENOMEM, EAGAIN …; the rest is HF_EIO. */
enum hf_err hf_err_from_errno(int errno_value);

#endif
