/* Inside work*.c: what one step may do. Each draws what it needs, and does nothing if the draw fell on what cannot
 * be now. run.h has what others call. */
#ifndef TESTS_STORE_SIM_WORK_H
#define TESTS_STORE_SIM_WORK_H

#include "run.h"

hf_str work_topic_name(struct run *r, int topic);
/* Room for one call that will be answered; NULL: a life has had enough of them. */
struct attempt *work_attempt(struct run *r);
bool work_draw_partition(struct run *r, bool lazy, int *topic, int *partition);
int64_t work_end_of(struct log_partition *p);

/* ---- work_append.c ---- */

void work_append_plain(struct run *r, struct run_totals *totals);
void work_append_idempotent(struct run *r, struct run_totals *totals);
void work_producer_renew(struct producer_sim *p);
void work_producer_begin(struct run *r, struct producer_sim *p);

/* ---- work_commit.c ---- */

void work_commit(struct run *r, struct run_totals *totals);
void work_write_run(struct run *r);

/* ---- work_topics.c ---- */

void work_change_topics(struct run *r, struct run_totals *totals);
void work_alter_topic(struct run *r, struct run_totals *totals);
void work_delete_records(struct run *r, struct run_totals *totals);

#endif
