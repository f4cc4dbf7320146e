/*
 * The floor of the executor: what a task costs when there is nothing but its system calls.
 *
 * Standard input is a socket to whoever measures.  One byte each way stands for a message:
 *
 *     S  ->        started (SUBSCRIBE)
 *        <- L      LAUNCH: fork, exec of `sh -c "exec sleep 1000"`, its pidfd
 *     R  ->        and four bytes of its pid (RUNNING)
 *     E  ->        the task has ended (its update)
 *        <- A      ACKNOWLEDGED: the end
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static void say(const char *data, size_t length)
{
    if (send(STDIN_FILENO, data, length, MSG_NOSIGNAL) < 0)
        _exit(1);
}

static void hear(char wanted)
{
    char byte;
    if (recv(STDIN_FILENO, &byte, 1, 0) != 1 || byte != wanted)
        _exit(1);
}

int main(void)
{
    char running[5] = "R";
    siginfo_t ended;
    say("S", 1);
    hear('L');
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", "exec sleep 1000", (char *)NULL);
        _exit(127);
    }
    int handle = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pid < 0 || handle < 0)
        return 1;
    int32_t number = pid;
    memcpy(running + 1, &number, sizeof number);
    say(running, sizeof running);
    struct pollfd waiting = {handle, POLLIN, 0};
    while (poll(&waiting, 1, -1) < 0 && errno == EINTR)
        continue;
    if (waitid((idtype_t)P_PIDFD, (id_t)handle, &ended, WEXITED) < 0)
        return 1;
    say("E", 1);
    hear('A');
    return 0;
}
