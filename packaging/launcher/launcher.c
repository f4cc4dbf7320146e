/*
 * The launcher: what is installed under each plugin's name.
 *
 * It hands the call to the node service and relays the answer, so that a call costs no interpreter start.  Where no
 * service listens it executes the bundled one-shot program, which does the same work in this process's place.
 *
 *     launcher                                   service
 *        | ---- request, descriptors  ------------> |   one message, see struct request
 *        | <--- 'A' (taken) or 'R' (refused) ------ |   before the first change
 *        | <--- struct reply, stdout, stderr ------ |
 *
 * What happens when the service goes away depends on how far it came:
 *   before 'A', or on 'R':    nothing was done; the call is done here, one-shot.
 *   after 'A':                the service died in mid-call.  The call is done here too, under the same call id
 *                             (MESOKIT_CALL): the record that the dead service wrote before its first change carries
 *                             that id, so that an ADD takes back, or finds finished, what was begun in its name
 *                             (MESOKIT_REPEATS tells those plugins that keep no record).
 *                             The other verbs may be repeated by their nature.
 *
 * Descriptors travel with the request, not paths: the service may live in another network or pid namespace.
 */
#include "bundle.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

#define MAGIC 0x324b534dU /* "MSK2" */
#define SOCKET_PATH "/run/mesokit/node.sock"
#define STDIN_LIMIT (16U << 20)
#define TAKEN_WITHIN_MS 5000
#define ANSWER_WITHIN_MS 90000

struct request {
    uint32_t magic;
    uint32_t strings; /* bytes of the NUL-terminated plugin name and NAME=VALUE strings that follow */
    uint32_t input;   /* bytes of standard input that follow these */
    uint32_t flags;   /* 1: the second descriptor is there, the namespace of CNI_NETNS */
    uint64_t root[2];   /* device and inode of this process's root directory, */
    uint64_t mounts[2]; /* and of its mount namespace: a service that sees other files refuses */
};

struct reply {
    uint32_t magic;
    int32_t status;
    uint32_t output;
    uint32_t errors;
};

extern char **environ;

static const char *plugin;
static char own[PATH_MAX];

static int write_all(int fd, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t done = write(fd, data, length);
        if (done < 0) {
            if (errno == EINTR)
                continue;
            return -1;
        }
        data += done;
        length -= (size_t)done;
    }
    return 0;
}

/* The one error object the launcher makes by itself.  Whoever calls chooses the name it is called by, and where it
 * lies: neither may be longer than there is room, nor end the string. */
static int fail(int code, const char *text)
{
    char message[1100], line[1200], *at;
    int length;

    snprintf(message, sizeof message, "%.100s: %.950s", plugin, text);
    for (at = message; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20 || *at == '"' || *at == '\\' || (unsigned char)*at > 0x7e)
            *at = '?';
    length = snprintf(line, sizeof line, "{\"cniVersion\":\"1.0.0\",\"code\":%d,\"msg\":\"%s\"}\n", code, message);
    write_all(STDOUT_FILENO, line, (size_t)length);
    return 1;
}

static int read_all(int fd, char **data, size_t *length)
{
    size_t room = 16384, have = 0;
    char *buffer = malloc(room);
    for (;;) {
        ssize_t got;
        if (buffer == NULL)
            return -1;
        got = read(fd, buffer + have, room - have);
        if (got == 0)
            break;
        if (got < 0) {
            if (errno == EINTR)
                continue;
            return -1;
        }
        have += (size_t)got;
        if (have > STDIN_LIMIT) {
            errno = EFBIG;
            return -1;
        }
        if (have == room)
            buffer = realloc(buffer, room *= 2);
    }
    *data = buffer;
    *length = have;
    return 0;
}

static int starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* The variables that make up a call; everything else stays out of a process that serves others as well. */
static int belongs_to_call(const char *variable)
{
    static const char *const names[] = {"CNI_", "MESOKIT_", "PATH=", "TRACEPARENT=", "TRACESTATE=", "BAGGAGE=", NULL};
    int i;
    for (i = 0; names[i] != NULL; i++)
        if (starts_with(variable, names[i]))
            return 1;
    return 0;
}

static char *collect_strings(size_t *length)
{
    size_t total = strlen(plugin) + 1;
    char **variable, *strings, *at;
    for (variable = environ; *variable != NULL; variable++)
        if (belongs_to_call(*variable))
            total += strlen(*variable) + 1;
    strings = at = malloc(total);
    if (strings == NULL)
        return NULL;
    at = stpcpy(at, plugin) + 1;
    for (variable = environ; *variable != NULL; variable++)
        if (belongs_to_call(*variable))
            at = stpcpy(at, *variable) + 1;
    *length = total;
    return strings;
}

static int service_connect(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval patience = {TAKEN_WITHIN_MS / 1000, 0};
    const char *root = getenv("MESOKIT_ROOT");
    int fd, written;

    written = snprintf(address.sun_path, sizeof address.sun_path, "%s" SOCKET_PATH, root ? root : "");
    if (written >= (int)sizeof address.sun_path)
        return -1;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/*
 * A descriptor of the network namespace at PATH that does not hold the mount there: the service may be slow, or
 * stopped, and the runtime unmounts the path as soon as we are gone.  One that is opened below /proc/self/ns is such a
 * descriptor, so this process enters the namespace for as long as that takes.  What is no network namespace is opened
 * as it is, for the service to say so.  -1 if it cannot be opened.
 */
static int open_namespace(const char *path, int home)
{
    int held = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), inside;
    if (held < 0 || setns(held, CLONE_NEWNET) != 0)
        return held;
    inside = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (setns(home, CLONE_NEWNET) != 0)
        exit(fail(5, "cannot come back from the network namespace of CNI_NETNS"));
    if (inside < 0)
        return held;
    close(held);
    return inside;
}

/* What goes with the request: this process's view of the files into HEAD, its namespace and the container's into
 * DESCRIPTORS.  Their number, 0 where they cannot be had.  Done before connecting, so that the service finds the whole
 * message when the connection wakes it, and need not wait for it beside others. */
static int prepare(struct request *head, int descriptors[2])
{
    const char *netns = getenv("CNI_NETNS");
    struct stat root, mounts;

    descriptors[0] = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (descriptors[0] < 0 || stat("/", &root) != 0 || stat("/proc/self/ns/mnt", &mounts) != 0)
        return 0;
    head->root[0] = root.st_dev;
    head->root[1] = root.st_ino;
    head->mounts[0] = mounts.st_dev;
    head->mounts[1] = mounts.st_ino;
    if (netns == NULL || *netns == '\0')
        return 1;
    descriptors[1] = open_namespace(netns, descriptors[0]);
    head->flags = descriptors[1] >= 0;
    return 1 + (int)head->flags;
}

static int send_request(int fd, struct request *head, const int descriptors[2], int count, const char *strings,
                        const char *input)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control;
    struct iovec parts[3] = {
        {head, sizeof *head}, {(void *)strings, head->strings}, {(void *)input, head->input}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3, .msg_control = control.bytes};
    struct cmsghdr *header;
    int at = 0;

    memset(&control, 0, sizeof control);
    message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
    header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    memcpy(CMSG_DATA(header), descriptors, (size_t)count * sizeof(int));

    while (at < 3) {
        ssize_t sent;
        message.msg_iov = parts + at;
        message.msg_iovlen = (size_t)(3 - at);
        sent = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            return -1;
        }
        message.msg_control = NULL;
        message.msg_controllen = 0;
        while (at < 3 && (size_t)sent >= parts[at].iov_len)
            sent -= (ssize_t)parts[at++].iov_len;
        if (at < 3) {
            parts[at].iov_base = (char *)parts[at].iov_base + sent;
            parts[at].iov_len -= (size_t)sent;
        }
    }
    return 0;
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* LENGTH bytes before DEADLINE. 1: they are here; 0: the other side is gone; -1: the time is over. */
static int receive(int fd, void *data, size_t length, int64_t deadline)
{
    char *at = data;
    while (length > 0) {
        struct pollfd waiting = {fd, POLLIN, 0};
        int64_t left = deadline - now_ms();
        ssize_t got;
        int ready = poll(&waiting, 1, left > 0 ? (int)left : 0);
        if (ready == 0)
            return -1;
        got = ready < 0 ? -1 : recv(fd, at, length, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return 0;
        at += got;
        length -= (size_t)got;
    }
    return 1;
}

enum outcome { ANSWERED, NOT_TAKEN, DIED, TOO_LATE };

static enum outcome relay(int fd, int *status)
{
    struct reply head;
    char taken, *text;
    int64_t deadline;

    switch (receive(fd, &taken, 1, now_ms() + TAKEN_WITHIN_MS)) {
    case 0:
        return NOT_TAKEN;
    case -1:
        /* After this no 'A' can be sent any more; one that was under way already is in our queue. */
        shutdown(fd, SHUT_RDWR);
        return recv(fd, &taken, 1, MSG_DONTWAIT) == 1 ? TOO_LATE : NOT_TAKEN;
    default:
        if (taken != 'A')
            return NOT_TAKEN;
    }
    deadline = now_ms() + ANSWER_WITHIN_MS;
    switch (receive(fd, &head, sizeof head, deadline)) {
    case 0:
        return DIED;
    case -1:
        return TOO_LATE;
    default:
        break;
    }
    if (head.magic != MAGIC || (text = malloc((size_t)head.output + head.errors + 1)) == NULL)
        return DIED;
    switch (receive(fd, text, (size_t)head.output + head.errors, deadline)) {
    case 0:
        return DIED;
    case -1:
        return TOO_LATE;
    default:
        break;
    }
    write_all(STDERR_FILENO, text + head.output, head.errors);
    if (write_all(STDOUT_FILENO, text, head.output) != 0)
        head.status = 1;
    *status = head.status;
    return ANSWERED;
}

/* Standard input was read; the one-shot program finds it again. */
static int restore_stdin(const char *input, size_t length)
{
    int fd = memfd_create("stdin", 0);
    if (fd < 0 || write_all(fd, input, length) != 0 || lseek(fd, 0, SEEK_SET) != 0)
        return -1;
    if (dup2(fd, STDIN_FILENO) < 0)
        return -1;
    if (fd != STDIN_FILENO)
        close(fd);
    return 0;
}

static int one_shot(char **argv)
{
    /* Beside the plugins (unpacked into a plugin directory), or where packages keep libraries. */
    static const char *const places[] = {"mesokit-cni.d", "../lib/mesokit/mesokit-cni.d", "../mesokit-cni.d", NULL};
    const char *const lead[2] = {"--plugin", plugin};
    char directory[PATH_MAX], joined[PATH_MAX + 64], text[PATH_MAX + 128];
    int i;

    for (i = 0; places[i] != NULL; i++) {
        snprintf(joined, sizeof joined, "%s/%s", own, places[i]);
        if (realpath(joined, directory) == NULL)
            continue;
        bundle_exec(directory, "mesokit", lead, argv);
        snprintf(text, sizeof text, "cannot start %.800s/mesokit: %s", directory, strerror(errno));
        return fail(5, text);
    }
    return fail(5, "no node service listens and the folder mesokit-cni.d is not beside this plugin: install the whole archive");
}

/* Standard streams that the caller closed: the socket to the service would get the number, and the answer would go back
 * there and count as told.  What stands there now can be read as little, and a result be written as little, as before. */
static void occupy_closed_streams(void)
{
    int fd;
    for (fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            open("/dev/null", fd == STDOUT_FILENO ? O_RDONLY : O_WRONLY);
}

/* A path from here says nothing to the service, nor later to who reads the record: the namespace would seem gone, and a
 * living container stale.  One that has no room stays as it is, and is refused as too long. */
static void make_namespace_absolute(void)
{
    static char here[PATH_MAX], whole[2 * PATH_MAX];
    const char *path = getenv("CNI_NETNS");
    if (path == NULL || *path == '\0' || *path == '/' || getcwd(here, sizeof here) == NULL || here[0] != '/')
        return;
    if (snprintf(whole, sizeof whole, "%s/%s", here[1] == '\0' ? "" : here, path) < (int)sizeof whole)
        setenv("CNI_NETNS", whole, 1);
}

int main(int argc, char **argv)
{
    char call[64], *input = NULL, *strings, *slash;
    size_t input_length = 0, strings_length = 0;
    struct request head = {.magic = MAGIC};
    int descriptors[2], count, sent;
    const char *command = getenv("CNI_COMMAND");
    struct timespec now;
    int fd, status = 1;

    occupy_closed_streams();
    plugin = argc > 0 ? argv[0] : "mesokit";
    slash = strrchr(plugin, '/');
    if (slash != NULL)
        plugin = slash + 1;
    if (own_directory(own) != 0)
        own[0] = '\0';
    if (command == NULL || *command == '\0' || argc > 1)
        return one_shot(argv); /* asked what it is, by a person */
    make_namespace_absolute();
    clock_gettime(CLOCK_BOOTTIME, &now);
    snprintf(call, sizeof call, "%ld-%lld%09ld", (long)getpid(), (long long)now.tv_sec, now.tv_nsec);
    setenv("MESOKIT_CALL", call, 1);
    /* Read before connecting: a caller that is slow to write must not keep a thread of the service. */
    if (strcmp(command, "VERSION") != 0 && read_all(STDIN_FILENO, &input, &input_length) != 0)
        return fail(5, "cannot read the configuration from standard input");
    strings = collect_strings(&strings_length);
    head.strings = (uint32_t)strings_length;
    head.input = (uint32_t)input_length;
    count = strings != NULL ? prepare(&head, descriptors) : 0;
    fd = count > 0 ? service_connect() : -1;
    sent = fd >= 0 && send_request(fd, &head, descriptors, count, strings, input) == 0;
    while (count > 0) /* held by nobody but the service, while this process waits */
        close(descriptors[--count]);
    if (sent) {
        switch (relay(fd, &status)) {
        case ANSWERED:
            return status;
        case TOO_LATE:
            return fail(11, "the node service does not answer; see mesokit node status, and try again");
        case DIED:
            setenv("MESOKIT_REPEATS", "1", 1);
            break;
        case NOT_TAKEN:
            break;
        }
    }
    if (fd >= 0)
        close(fd);
    if (input != NULL && restore_stdin(input, input_length) != 0)
        return fail(5, "cannot hand the configuration to the one-shot program");
    return one_shot(argv);
}
