/* What every env does alike: one suite, run against posix in a temporary folder and against the simulator. */
#ifndef TESTS_ENV_CONTRACT_H
#define TESTS_ENV_CONTRACT_H

#include "env/env.h"

/* A fresh machine with an empty root folder. */
struct contract_machine {
    struct hf_env *env;
    void *more;
};

struct contract_subject {
    const char *name;
    void (*open)(struct contract_machine *m);
    void (*close)(struct contract_machine *m);
};

/* Runs the suite; returns how many tests failed. */
int contract_run(const struct contract_subject *subject);

#endif
