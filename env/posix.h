/* The real machine as an hf_env: files below one root folder, a thread that syncs what somebody waits for,
 * others for the background. Any thread may take the time and log; the rest is the core thread's. */
#ifndef ENV_POSIX_H
#define ENV_POSIX_H

#include "env.h"

struct env_posix_options {
    const char *root;     /* created if missing (its parent must exist) */
    int log_fd;           /* where log lines go; 0 means 2 */
    enum env_level level; /* lines above it are dropped; zero (ENV_ERROR) shows errors only */
};

/* HF_EIO, HF_ENOTFOUND (the parent of root), HF_ENOMEM. Close with hf_env_close. */
HF_CHECK enum hf_err env_posix_open(const struct env_posix_options *options, struct hf_env **out);

#endif
