/* Settings of a command: one table of options, each of which is a flag, an environment variable and a key of
 * the config file.
 *
 *     struct serve { const char *data; int64_t partitions; bool insecure; };
 *     static const struct hf_option rows[] = {
 *         {"data", HF_OPTION_TEXT, offsetof(struct serve, data), .fallback = "data", .help = "…"},
 *         {"num.partitions", HF_OPTION_INT, offsetof(struct serve, partitions), .fallback = "1", …},
 *     };
 *     static const struct hf_options options = {"serve", rows, 2};
 *     struct hf_config c; struct serve s;
 *     if (hf_config_load(&c, &options, argc - 1, argv + 1, &s)) …c.error…   exit status 2
 *
 * A later source wins: fallback, config file (--config FILE, or HOLDFAST_CONFIG), environment, flag. The
 * option "num.partitions" is the flag --num.partitions, the variable HOLDFAST_NUM_PARTITIONS and the key
 * num.partitions; '.', '-' and '_' are the same letter in a name. Flags are "--name value" or "--name=value";
 * a switch may stand alone and means true. What does not begin with "--", and all after a lone "--", is left
 * to the command. Unknown flags and keys are errors; unknown variables are not (other commands have theirs).
 * Keys stand in no section, or in one named after the command; sections of other commands are skipped.
 *
 * Reads a file and the environment; for the start of a program, one thread. */
#ifndef BASE_CONFIG_H
#define BASE_CONFIG_H

#include "base/arena.h"

#include <stdio.h>

enum hf_option_type {
    HF_OPTION_TEXT,   /* const char *; NULL if there is no fallback */
    HF_OPTION_INT,    /* int64_t */
    HF_OPTION_BYTES,  /* int64_t: 4096, 64KiB, 256MiB, 1GiB */
    HF_OPTION_MS,     /* int64_t: a duration, 250ms 30s 15m 2h 7d */
    HF_OPTION_SWITCH, /* bool: true or false */
};

struct hf_option {
    const char *name;
    enum hf_option_type type;
    size_t at;            /* where the value goes in the command's struct */
    const char *fallback; /* as text; NULL only for texts and switches */
    int64_t min, max;     /* of numbers; both 0: any that is not negative */
    const char *value;    /* what the usage calls it: "DIR"; NULL for switches */
    const char *help;     /* one line */
};

struct hf_options {
    const char *command; /* its section in the config file */
    const struct hf_option *rows;
    size_t count;
};

enum { HF_CONFIG_ERROR = 400, HF_CONFIG_REST = 256 };

struct hf_config {
    struct hf_arena arena; /* holds the texts */
    char error[HF_CONFIG_ERROR];
    bool check, print, help;              /* --check-config, --print-config, --help */
    const char *rest[HF_CONFIG_REST + 1]; /* what is left to the command, in order; NULL ends it */
    size_t rest_count;
    bool dashes; /* a lone "--" was there: rest from rest[dashes_at] on came behind it */
    size_t dashes_at;
};

/* Fills target. HF_EINVAL: error says what, where and what is allowed. HF_ENOMEM. Texts in target are
 * borrowed from c; call hf_config_fini in any case. */
HF_CHECK enum hf_err hf_config_load(struct hf_config *c, const struct hf_options *options, int argc,
                                    char *const *argv, void *target);
void hf_config_fini(struct hf_config *c);

/* Every option with its value, as a config file that gives the same settings. */
void hf_config_print(const struct hf_options *options, const void *target, FILE *to);

/* The options with their help and fallbacks, two lines each. */
void hf_config_usage(const struct hf_options *options, FILE *to);

#endif
