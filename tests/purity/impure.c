/* Reaches the machine in five ways, so that the check can show that it sees. Never run. */
#include <pthread.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

int impure(void *(*run)(void *));

int impure(void *(*run)(void *)) {
    struct timespec t;
    pthread_t thread;
    char c;
    int failed = clock_gettime(CLOCK_MONOTONIC, &t) || pthread_create(&thread, NULL, run, NULL);
    return failed || getrandom(&c, 1, 0) != 1 || socket(AF_INET, SOCK_STREAM, 0) < 0 || !fopen("x", "r");
}
