// Sends datagrams of one byte on a flow that has been answered once, and prints how long a send takes, in
// nanoseconds: the lower quartile. Over a pair of virtual links the whole way to the receiver's socket is in it.
//
//     packet_cost ADDRESS PORT COUNT

#define _DEFAULT_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static int rising(const void *a, const void *b) {
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &to.sin_addr);
    int count = atoi(argv[3]), fd = socket(AF_INET, SOCK_DGRAM, 0);
    long *taken = calloc(count, sizeof *taken);
    if (!taken || connect(fd, (struct sockaddr *)&to, sizeof to)) return 1;
    struct pollfd answer = {.fd = fd, .events = POLLIN};
    char byte = 1;
    int answered = 0;
    for (int tries = 0; tries < 100 && !answered; tries++) {
        send(fd, &byte, 1, 0);  // refused while nobody listens yet
        answered = poll(&answer, 1, 100) == 1 && recv(fd, &byte, 1, MSG_DONTWAIT) == 1;
        if (!answered) usleep(20000);
    }
    if (!answered) return 1;
    byte = 2;
    for (int i = 0; i < count; i++) {
        long began = now();
        if (send(fd, &byte, 1, 0) != 1) return 1;
        taken[i] = now() - began;
    }
    qsort(taken, count, sizeof *taken, rising);
    printf("%ld\n", taken[count / 4]);
    return 0;
}
