/* hf-cron-overlap: skip in the simulation of the schedule: groups that commit offsets, and a witness who stands
 * at the engine and notes what a group had committed when a run was decided.
 *
 * The decision and the commit that carries it out are one call without a completion in between, and only
 * completions change what engine_committed says. So what the witness reads is what the schedule has read, or
 * should have: the model can say of every run whether it was to be left out (schedule_model.h), whatever was
 * being committed beside it. */
#ifndef TESTS_TIMEWHEEL_SIM_OVERLAP_H
#define TESTS_TIMEWHEEL_SIM_OVERLAP_H

#include "schedule_model.h"

enum { OVERLAP_COMMITS_MAX = 64 };

struct overlap {
    struct model *model;
    struct engine *engine;  /* in this life */
    unsigned often[GROUPS]; /* of a hundred steps, in how many a group commits */
    unsigned under_way;     /* commits of offsets */
    struct noted {          /* commits under way */
        struct overlap *o;
        engine_done *done;
        void *arg;
        bool busy, drops;
        uint64_t fired, rejected, held, left_out;
    } noted[OVERLAP_COMMITS_MAX];
    uint64_t fired, rejected, held, left_out; /* in this life */
    uint64_t drops;                           /* commits that dropped runs */
    uint64_t all_left_out, offsets;
};

void overlap_draw(struct overlap *o, struct model *m);
/* A life begins: the schedule is to be opened on the engine after that. */
void overlap_begin(struct overlap *o, struct engine *e);
void overlap_end(struct overlap *o);
/* What the groups do beside a step. HF_EAGAIN is passed over, nothing else. */
HF_CHECK enum hf_err overlap_step(struct overlap *o, int64_t now_ms);
/* Both commit the end of every partition that there is. */
HF_CHECK enum hf_err overlap_catch_up(struct overlap *o, int64_t now_ms);
/* NULL: the schedule has counted what it has done. */
const char *overlap_check(const struct overlap *o, const struct schedule_stats *stats);

#endif
