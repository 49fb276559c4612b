/* A machine over another one whose changes stay in memory: what is below is read, never written.
 *
 *     struct hf_env *copy;
 *     e = env_overlay_open(env, &copy);   // the tree of names is read once
 *     …run anything on it, a recovery say, and see what would come of it…
 *     hf_env_close(copy);                 // forgets all; env stays
 *
 * Time, random numbers, log lines and locks are those of the machine below; a lock does write its file there.
 * Syncs succeed at once. Memory grows with what is written: 4 KiB for each page touched. */
#ifndef ENV_OVERLAY_H
#define ENV_OVERLAY_H

#include "env/env.h"

HF_CHECK enum hf_err env_overlay_open(struct hf_env *under, struct hf_env **out);

#endif
