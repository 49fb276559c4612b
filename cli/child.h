/* A handler in another language: one child process for each message. */
#ifndef CLI_CHILD_H
#define CLI_CHILD_H

#include <holdfast/holdfast.h>

enum { CHILD_GRACE_MS = 5000 }; /* between SIGTERM and SIGKILL */

/* Runs argv (NULL ends it; no shell) with the message: its value on stdin, the rest in the environment.
 * Blocks until the child has ended. Exit status 0 done, 65 reject, 75 retry, 126 and 127 stop the worker,
 * others retry. When the delivery is cancelled the child's process group gets SIGTERM, then SIGKILL. Any
 * thread that outlives the call. */
hf_verdict child_run(char *const argv[], hf_delivery *d);

#endif
