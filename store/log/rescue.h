/* A folder with which a log does not start, brought to one with which it does. Only an operator asks for it.
 *
 *     aside.c  nothing is given up without a copy    rescue.c  what refuses a start, and what is done instead */
#ifndef STORE_LOG_RESCUE_H
#define STORE_LOG_RESCUE_H

#include "checkpoint.h"

struct rescue {
    const struct log_rescue *to; /* who is told */
    bool on;                     /* a start that must be refused is not */
    char folder[32];             /* where things are set aside; "": not made yet */
    bool exact;                  /* the snapshot is of a clean stop, and the newest: nothing lies behind it */
    bool unsure;                 /* ceilings may be lost: every partition goes on far above its end */
    bool state_lost;             /* some of the state's records are */
    uint64_t *runs;              /* whose files are missing or damaged, to be dropped */
    size_t run_count;
};

/* aside.c */
HF_CHECK enum hf_err aside_copy(struct log *l, const char *path); /* HF_OK also if there is no such file */
HF_CHECK enum hf_err aside_move(struct log *l, const char *path);

/* salvage.c */
HF_CHECK enum hf_err salvage_partition(struct log_partition *p);

/* rescue.c */
bool rescue_on(const struct log *l);
HF_CHECK enum hf_err rescue_begin(struct log *l);
void rescue_forget(struct log *l);
void rescue_tell(struct log *l, const char *file, const char *what);
void rescue_lost(struct log_partition *p, int64_t from, int64_t to);
HF_CHECK enum hf_err rescue_folder(struct log_partition *p);
HF_CHECK enum hf_err rescue_facts(struct log_partition *p, const struct facts *known, struct facts *out);
HF_CHECK enum hf_err rescue_gap(struct log_partition *p, int64_t offset);
HF_CHECK enum hf_err rescue_topics(struct log *l);
HF_CHECK enum hf_err rescue_run(struct log *l, uint64_t id);
HF_CHECK enum hf_err rescue_end(struct log *l);

#endif
