/* HTTP beside the protocol on the same loop: routes, limits, connections. */
#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *http(const char *text, size_t extra) {
    static char out[4096];
    int fd = dial(broker_http_address(f->broker));
    send_all(fd, text, strlen(text));
    char *zeros = calloc(1, extra + 1);
    if (extra) (void)!send(fd, zeros, extra, MSG_NOSIGNAL);
    free(zeros);
    size_t n = 0;
    for (ssize_t r; n < sizeof(out) - 1 && (r = recv(fd, out + n, sizeof(out) - 1 - n, 0)) > 0;)
        n += (size_t)r;
    out[n] = 0;
    close(fd);
    return out;
}

static void http_routes_and_limits(void **state) {
    (void)state;
    start((struct broker_options){.http_body_max = 1000});
#define TAIL " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    assert_non_null(strstr(http("GET /hello/a%20b/c?q=1%262" TAIL "\r\n", 0), "rest=a b/c q=1&2 body=0"));
    assert_non_null(strstr(http("POST /hello/x" TAIL "Content-Length: 3\r\n\r\nabc", 0), "rest=x q= body=3"));
    assert_non_null(strstr(http("GET /nothing" TAIL "\r\n", 0), " 404 "));
    const char *not_allowed = http("PUT /hello/x" TAIL "Content-Length: 0\r\n\r\n", 0);
    assert_non_null(strstr(not_allowed, " 405 "));
    assert_non_null(strstr(not_allowed, "\r\nAllow: GET, HEAD, POST\r\n"));
    const char *head = http("HEAD /hello/x HTTP/1.1\r\nHost: x\r\n\r\nGET /hello/y" TAIL "\r\n", 0);
    assert_memory_equal(head, "HTTP/1.1 200 ", 13);
    assert_null(strstr(head, "rest=x"));
    assert_non_null(strstr(head, "rest=y"));
    assert_non_null(strstr(http("POST /hello/x" TAIL "Content-Length: 2000\r\n\r\n", 2000), " 413 "));
    char *long_header = calloc(1, 40000);
    strcpy(long_header, "GET /hello/x" TAIL "X: ");
    memset(long_header + strlen(long_header), 'x', 30000);
    strcat(long_header, "\r\n\r\n");
    assert_null(strstr(http(long_header, 0), " 200 "));
    free(long_header);
    stop();
}

static void a_misspelt_query_parameter_is_refused_where_they_are_named(void **state) {
    (void)state;
    static const char *const fine[] = {"", "?", "?q=1", "?q=1&prefix=", "?prefix=%2500"};
    static const char *const refused[] = {"?prefx=1",     "?q=1&q=2", "?q=1&prefix", "?q=a%00b",
                                          "?prefix=1&=2", "?Q=1",     "?pre=1",      "?q%20prefix=1"};
    char text[200];
    start((struct broker_options){0});
    for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++) {
        (void)snprintf(text, sizeof(text), "GET /strict/x%s" TAIL "\r\n", fine[i]);
        if (!strstr(http(text, 0), " 200 ")) fail_msg("%s", fine[i]);
    }
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        (void)snprintf(text, sizeof(text), "GET /strict/x%s" TAIL "\r\n", refused[i]);
        const char *answer = http(text, 0);
        if (!strstr(answer, " 400 ") ||
            !strstr(answer, "{\"error\":\"query parameters: q prefix; each once\"}"))
            fail_msg("%s: %s", refused[i], answer);
    }
    assert_non_null(strstr(http("GET /hello/x?anything=1" TAIL "\r\n", 0), " 200 "));
    stop();
}

static void http_connections_past_the_limit_wait_until_one_is_closed(void **state) {
    (void)state;
    static const char ask[] = "GET /hello/x HTTP/1.1\r\nHost: x\r\n\r\n";
    char answer[4096];
    start((struct broker_options){.http_connections_max = 2});
    int idle = dial(broker_http_address(f->broker)), kept = dial(broker_http_address(f->broker));
    send_all(kept, ask, strlen(ask));
    assert_true(recv(kept, answer, sizeof(answer), 0) > 0);
    AWAIT(stats().http_connections == 2);
    int third = dial(broker_http_address(f->broker));
    send_all(third, ask, strlen(ask));
    assert_int_equal(poll(&(struct pollfd){.fd = third, .events = POLLIN}, 1, 1500), 0);
    send_all(kept, ask, strlen(ask));
    assert_true(recv(kept, answer, sizeof(answer), 0) > 0);
    close(idle);
    assert_true(recv(third, answer, sizeof(answer), 0) > 0);
    close(third);
    close(kept);
    AWAIT(stats().http_connections == 0);
    stop();
}

/* Whose descriptor has the number of the HTTP connection that was closed just before. */
static void an_http_connection_that_was_closed_takes_nothing_from_the_next_one(void **state) {
    (void)state;
    start((struct broker_options){0});
    for (int round = 0; round < 8; round++) {
        assert_non_null(strstr(http("GET /hello/x" TAIL "\r\n", 0), " 200 "));
        int fd = connect_kafka();
        for (int i = 0; i < 60; i++) request(fd, KAFKA_API_metadata, 1, i, &all_topics, 30000);
        for (int i = 0; i < 60; i++) assert_int_equal(read_answer(fd), i);
        close(fd);
    }
    stop();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(http_routes_and_limits),
        cmocka_unit_test(a_misspelt_query_parameter_is_refused_where_they_are_named),
        cmocka_unit_test(http_connections_past_the_limit_wait_until_one_is_closed),
        cmocka_unit_test(an_http_connection_that_was_closed_takes_nothing_from_the_next_one),
    };
    return cmocka_run_group_tests(tests, fixture_begin, fixture_end);
}
