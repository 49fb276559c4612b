/* holdfast COMMAND …: a table of commands. */
#include "command.h"

#include <holdfast/holdfast.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    cli_command *run;
    const char *help;
} commands[] = {
    {"serve", cli_serve, "run the server"},
    {"send", cli_send, "send messages, now or later"},
    {"tail", cli_tail, "print a topic's messages"},
    {"work", cli_work, "run a program for each message"},
    {"schedule", cli_schedule, "held messages: list, show, cancel, move"},
    {"txn", cli_txn, "transactions: list, show, commit, rollback"},
    {"check", cli_check, "answer check-backs by a program"},
    {"dlq", cli_dlq, "dead letters: list, show, replay, drop"},
    {"rejected", cli_rejected, "held messages that could not be delivered: list, show, replay, drop"},
    {"topic", cli_topic, "topics: list, create, delete, describe"},
    {"verify", cli_verify, "a data folder: what is damaged"},
    {"group", cli_group, "consumer groups: list, describe, reset"},
};

static void usage(FILE *to) {
    (void)fprintf(to, "usage: holdfast COMMAND [FLAGS]\n\n");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        (void)fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].help);
    (void)fprintf(to, "\nholdfast COMMAND --help tells more; holdfast --version.\n");
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    char flag[] = "--help", *help[] = {argv[0], argv[argc - 1], flag, NULL};
    if (argc == 3 && strcmp(name, "help") == 0) { /* help COMMAND is COMMAND --help */
        name = argv[2];
        argv = help;
    }
    if (strcmp(name, "--version") == 0) {
        (void)printf("holdfast %s\n", hf_version());
        return CLI_DONE;
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (strcmp(name, commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
    bool asked = strcmp(name, "help") == 0 || strcmp(name, "--help") == 0;
    if (!asked && *name) (void)fprintf(stderr, "holdfast: unknown command \"%s\"\n", name);
    usage(asked ? stdout : stderr);
    return asked ? CLI_DONE : CLI_USAGE;
}
