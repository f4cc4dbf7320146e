/*
 * The floor: what a plugin call costs when it is nothing but its system calls.
 *
 *     FLOOR_STEPS=FILE floor
 *
 * FILE holds the calls that our plugin made for one ADD or DEL (floor.py records them from a real one); they are made
 * here one after another, in the namespace that this process is in and that of CNI_NETNS.  A call that ends otherwise
 * than the real one did ends the program with status 1 and a line that says which.  One step a line:
 *
 *     place D container|host|sysctl     descriptor D of the recording is this namespace, or /proc/sys/net
 *     place D netfilter                 or a socket for netfilter netlink, bound
 *     call NAME ERRNO ARGUMENT...       any system call; ERRNO 0 is success.  Arguments: dN a descriptor of the
 *                                       recording, iN a number, sHEX bytes, o room for an answer, >N the result is
 *                                       descriptor N of the recording, =V the struct ifreq before has index V
 *     send D HEX [@OFFSET:V]...         netlink messages; the index V that was learned stands at OFFSET
 *     receive D ERRNO V                 their answer: the first error in it; V (-1: none) is the index of the link it tells
 *     apart D HEX [@OFFSET:V]...        as send, by another process that nobody waits for
 *     gone V                            wait until no link has index V
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DESCRIPTORS 256
#define INDICES 64
#define ANSWER (1 << 16)

/* linux/netlink.h and linux/rtnetlink.h, which not every C library comes with */
#define HEADER 16
#define ERROR 2
#define NEW_ADDRESS 20
#define NETFILTER 12
#define NETLINK 270
#define CAP_ACK 10

static int descriptors[DESCRIPTORS];
static uint32_t indices[INDICES];
static char answer[ANSWER] __attribute__((aligned(8)));
static int line; /* of the steps */

static const struct call {
    const char *name;
    long number;
} calls[] = {
    {"bind", SYS_bind},
    {"close", SYS_close},
    {"fgetxattr", SYS_fgetxattr},
    {"flock", SYS_flock},
    {"fsetxattr", SYS_fsetxattr},
    {"fsync", SYS_fsync},
    {"ftruncate", SYS_ftruncate},
    {"getdents64", SYS_getdents64},
    {"getsockopt", SYS_getsockopt},
    {"ioctl", SYS_ioctl},
    {"lseek", SYS_lseek},
    {"mkdirat", SYS_mkdirat},
    {"newfstatat", SYS_newfstatat},
    {"openat", SYS_openat},
    {"pread64", SYS_pread64},
    {"read", SYS_read},
    {"renameat", SYS_renameat2},
    {"setns", SYS_setns},
    {"setsockopt", SYS_setsockopt},
    {"setxattr", SYS_setxattr},
    {"socket", SYS_socket},
    {"unlinkat", SYS_unlinkat},
    {"utimensat", SYS_utimensat},
    {"write", SYS_write},
};

static void fail(const char *what, long found, long wanted)
{
    fprintf(stderr, "floor: line %d: %s %ld, and %ld in the recording\n", line, what, found, wanted);
    exit(1);
}

static int descriptor(const char *text)
{
    long number = strtol(text, NULL, 10);
    if (number == AT_FDCWD)
        return AT_FDCWD;
    if (number < 0 || number >= DESCRIPTORS)
        fail("descriptor", number, 0);
    return descriptors[number];
}

static int digit(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

/* Bytes written in hex, made in their own place: a byte needs less room than its text. */
static size_t bytes(char *text)
{
    size_t length = 0;
    for (; text[2 * length] > ' ' && text[2 * length] != '@'; length++)
        text[length] = (char)(digit(text[2 * length]) << 4 | digit(text[2 * length + 1]));
    return length;
}

/* The next word of a line, NULL when there is none. */
static char *word(char **rest) { return strtok_r(NULL, " ", rest); }

static void make_call(char *name, char **rest)
{
    long arguments[6] = {0}, number = -1, wanted = atol(word(rest)), found;
    int result = -1, learned = -1, count = 0;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (strcmp(calls[i].name, name) == 0)
            number = calls[i].number;
    if (number < 0)
        fail("no such call", 0, 0);
    for (char *each; (each = word(rest)) != NULL && count < 6;) {
        char *value = each + 1;
        switch (*each) {
        case 'd': arguments[count++] = descriptor(value); break;
        case 'i': arguments[count++] = strtol(value, NULL, 10); break;
        case 'o': arguments[count++] = (long)answer; break;
        case '>': result = atoi(value); break;
        case '=': learned = atoi(value); break;
        case 's': {
            size_t length = bytes(value);
            value[length] = 0;
            arguments[count++] = (long)value;
            break;
        }
        default: fail("argument", *each, 0);
        }
    }
    do
        found = syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
    while (found < 0 && errno == EINTR);
    if ((found < 0 ? errno : 0) != wanted)
        fail("errno", found < 0 ? errno : 0, wanted);
    if (learned >= 0)
        memcpy(&indices[learned], (char *)arguments[2] + IFNAMSIZ, sizeof *indices);
    if (result >= 0)
        descriptors[result] = (int)found;
}

static void send_messages(char **rest, int apart)
{
    int channel = descriptor(word(rest));
    char *data = word(rest);
    size_t length = bytes(data);
    for (char *each; (each = word(rest)) != NULL;) {
        char *learned;
        size_t offset = strtoul(each + 1, &learned, 10);
        memcpy(data + offset, &indices[atoi(learned + 1)], sizeof *indices);
    }
    if (apart && fork() != 0)
        return;
    if (send(channel, data, length, 0) < 0 && !apart)
        fail("errno", errno, 0);
    if (apart)
        _exit(0);
}

static void receive(char **rest)
{
    int channel = descriptor(word(rest)), wanted = atoi(word(rest)), learned = atoi(word(rest)), found = 0, asked = 0;
    ssize_t left = recv(channel, answer, sizeof answer, MSG_DONTWAIT);
    if (left < 0)
        fail("errno", errno, wanted);
    if (learned >= 0)
        memcpy(&indices[learned], answer + HEADER + 4, sizeof *indices);
    for (size_t at = 0; at + HEADER + 4 <= (size_t)left && found == 0;) {
        uint32_t length = *(uint32_t *)(answer + at);
        if (*(uint16_t *)(answer + at + 4) == ERROR) {
            found = -*(int32_t *)(answer + at + HEADER);
            asked = *(uint16_t *)(answer + at + HEADER + 8);
        }
        at += length < HEADER ? HEADER : (length + 3) & ~3U;
    }
    /* The kernel may have been quicker with an address of the link itself: the plugin takes both answers. */
    int either = asked == NEW_ADDRESS && (found == 0 || found == EEXIST) && (wanted == 0 || wanted == EEXIST);
    if (found != wanted && !either)
        fail("error", found, wanted);
}

/* As links.remove() waits, with the same pauses. */
static void gone(uint32_t index)
{
    char name[IF_NAMESIZE];
    for (long pause = 100000; if_indextoname(index, name) != NULL; pause = pause < 2500000 ? 2 * pause : 5000000)
        nanosleep(&(struct timespec){0, pause}, NULL);
}

/* As the node service's own: answers without the question. */
static int netfilter(void)
{
    uint32_t any[3] = {AF_NETLINK};
    int opened = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETFILTER), on = 1;
    if (opened < 0 || setsockopt(opened, NETLINK, CAP_ACK, &on, sizeof on) < 0 ||
        bind(opened, (struct sockaddr *)any, sizeof any) < 0)
        fail("errno", errno, 0);
    return opened;
}

static void place(int number, const char *what)
{
    const char *path = strcmp(what, "host") == 0        ? "/proc/self/ns/net"
                       : strcmp(what, "container") == 0 ? getenv("CNI_NETNS")
                                                        : "/proc/sys/net";
    int opened = strcmp(what, "netfilter") == 0 ? netfilter() : open(path, O_RDONLY | O_CLOEXEC);
    /* The number of the container's namespace stands in messages. */
    if (opened < 0 || dup3(opened, number, O_CLOEXEC) < 0)
        fail("errno", errno, 0);
    close(opened);
    descriptors[number] = number;
}

static void replay(char *steps)
{
    char *lines, *next = strtok_r(steps, "\n", &lines);
    for (; next != NULL; next = strtok_r(NULL, "\n", &lines)) {
        char *rest, *kind = strtok_r(next, " ", &rest), *first;
        line++;
        if (strcmp(kind, "place") == 0) {
            first = word(&rest);
            place(atoi(first), word(&rest));
        } else if (strcmp(kind, "call") == 0)
            make_call(word(&rest), &rest);
        else if (strcmp(kind, "receive") == 0)
            receive(&rest);
        else if (strcmp(kind, "gone") == 0)
            gone(indices[atoi(word(&rest))]);
        else
            send_messages(&rest, strcmp(kind, "apart") == 0);
    }
}

int main(void)
{
    const char *path = getenv("FLOOR_STEPS");
    struct stat status;
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0 || fstat(file, &status) < 0) {
        fprintf(stderr, "floor: FLOOR_STEPS names no file\n");
        return 2;
    }
    char *steps = malloc((size_t)status.st_size + 1);
    if (steps == NULL || read(file, steps, (size_t)status.st_size) != status.st_size)
        return 2;
    steps[status.st_size] = 0;
    close(file);
    replay(steps);
    return 0;
}
