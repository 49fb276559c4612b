/* holdfast serve: settings, one ready line, the server until a signal.
 *
 * stdout gets exactly one line, when clients are served:
 *     ready listen=127.0.0.1:9092 http=127.0.0.1:8092 pid=4711
 * Log lines go to stderr. Exit status: 0 stopped by a signal, 1 failed, 2 wrong settings. */
#include "command.h"
#include "server/server.h"

#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* As many descriptors as the system lets us have: one for each connection and segment. */
static void raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* sd_notify(3): one datagram to the socket that systemd names; "@" begins an abstract name. */
static void notify_ready(void) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t n = path ? strlen(path) : 0;
    if (n < 2 || n >= sizeof(to.sun_path)) return;
    memcpy(to.sun_path, path, n);
    if (to.sun_path[0] == '@') to.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    static const char state[] = "READY=1";
    if (sendto(fd, state, sizeof(state) - 1, MSG_NOSIGNAL, (struct sockaddr *)&to, size) < 0)
        (void)fprintf(stderr, "holdfast serve: NOTIFY_SOCKET %s does not answer\n", path);
    close(fd);
}

static int serve(const struct server_settings *settings) {
    struct server *server;
    if (server_open(settings, &server)) return CLI_FAILED; /* a log line has said why */
    const char *http = server_http_address(server);
    (void)printf("ready listen=%s http=%s pid=%ld\n", server_kafka_address(server), *http ? http : "-",
                 (long)getpid());
    (void)fflush(stdout);
    notify_ready();
    enum hf_err ran = server_run(server);
    enum hf_err closed = server_close(server);
    if (!ran && !closed) return CLI_DONE;
    (void)fprintf(stderr, "holdfast serve: stopped: %s\n", hf_err_text(ran ? ran : closed));
    return CLI_FAILED;
}

static void help(void) {
    (void)printf("usage: holdfast serve [FLAGS]\n\nRuns the server until SIGTERM or SIGINT.\n\n");
    hf_config_usage(&server_options, stdout);
}

int cli_serve(int argc, char **argv) {
    struct hf_config config;
    struct server_settings settings;
    enum hf_err e = hf_config_load(&config, &server_options, argc - 1, argv + 1, &settings);
    if (!e && config.rest_count > 0) {
        (void)snprintf(config.error, sizeof(config.error), "unexpected argument \"%s\"", config.rest[0]);
        e = HF_EINVAL;
    }
    if (!e && !config.help) e = server_settings_check(&settings, config.error, sizeof(config.error));
    int status = CLI_DONE;
    if (e) {
        (void)fprintf(stderr, "holdfast serve: %s\n", config.error);
        status = CLI_USAGE;
    } else if (config.help) {
        help();
    } else if (config.print || config.check) {
        if (config.print) hf_config_print(&server_options, &settings, stdout);
    } else {
        (void)signal(SIGPIPE, SIG_IGN);
        raise_descriptor_limit();
        status = serve(&settings);
    }
    hf_config_fini(&config);
    return status;
}
