/* The commands of the holdfast program: one file each, one line in main.c's table. */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

/* What every command returns to the shell. */
enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

/* argv[0] is the command's name. */
typedef int cli_command(int argc, char **argv);

cli_command cli_check, cli_dlq, cli_group, cli_rejected, cli_schedule, cli_send, cli_serve, cli_tail,
    cli_topic, cli_txn, cli_verify, cli_work;

#endif
