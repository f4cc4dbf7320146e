/*
 * Kills the process group just before its N-th change of the kernel or of a file. Preloaded by test_crash.py.
 *
 * What counts as a change: a netlink message that is no question, bytes written to a regular file (sysctls are such),
 * a file or folder made, removed, renamed, linked or cut, a TAP device made. Standard output does not count.
 * CRASH_COUNTER names a file of two 64-bit numbers, shared by the process and its children: the changes so far, and
 * the one before which to die (0: never).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static volatile uint64_t *counter;

/* When it is loaded; and on request in a process that was forked from one that had loaded it (warm.py). */
__attribute__((constructor)) void crash_count(void)
{
    const char *path = getenv("CRASH_COUNTER");
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd >= 0) {
        void *memory = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory != MAP_FAILED)
            counter = memory;
        close(fd);
    }
}

static void change(const char *what)
{
    if (counter == NULL)
        return;
    uint64_t number = __sync_add_and_fetch(&counter[0], 1);
    if (getenv("CRASH_TRACE") != NULL)
        dprintf(2, "change %d: %s\n", (int)number, what);
    if (counter[1] != 0 && number == counter[1]) {
        kill(0, SIGKILL);
        for (;;)
            pause();
    }
}

static int regular(int fd)
{
    struct stat status;
    return counter != NULL && fd > 2 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

/* Route netlink asks with types 2 mod 4 and netfilter with its own numbers; dumps of both carry a flag. */
static int question(int fd, const void *data, size_t length)
{
    if (counter == NULL)
        return 1;
    const struct nlmsghdr *header = data;
    int domain = 0, protocol = 0;
    socklen_t size = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 || domain != AF_NETLINK)
        return 1;
    if (length < sizeof *header || (header->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP)
        return 1;
    size = sizeof protocol;
    getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size);
    if (protocol == NETLINK_ROUTE)
        return header->nlmsg_type % 4 == 2;
    /* nf_tables changes come in batches, which begin with this type; conntrack (1) changes are deletions (2). */
    return header->nlmsg_type != NLMSG_MIN_TYPE && header->nlmsg_type != (1 << 8 | 2);
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (real == NULL) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t length)
{
    REAL(write);
    if (regular(fd))
        change("write");
    return real(fd, data, length);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
    REAL(pwrite64);
    if (regular(fd))
        change("pwrite");
    return real(fd, data, length, offset);
}

ssize_t send(int fd, const void *data, size_t length, int flags)
{
    REAL(send);
    if (!question(fd, data, length))
        change("send");
    return real(fd, data, length, flags);
}

ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t size)
{
    REAL(sendto);
    if (!question(fd, data, length))
        change("sendto");
    return real(fd, data, length, flags, to, size);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(sendmsg);
    if (message->msg_iovlen > 0 && !question(fd, message->msg_iov[0].iov_base, message->msg_iov[0].iov_len))
        change("sendmsg");
    return real(fd, message, flags);
}

/* Of a TAP device: TUNSETIFF, TUNSETPERSIST, TUNSETOWNER, TUNSETGROUP (linux/if_tun.h). */
int ioctl(int fd, unsigned long request, ...)
{
    REAL(ioctl);
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (request >= 0x400454CA && request <= 0x400454CE)
        change("ioctl");
    return real(fd, request, argument);
}

static int creates(int at, const char *path, int flags)
{
    struct stat status;
    return counter != NULL && (flags & O_CREAT) != 0 && fstatat(at, path, &status, 0) != 0 && errno == ENOENT;
}

#define MODE(flags, last) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list list; \
        va_start(list, last); \
        mode = va_arg(list, mode_t); \
        va_end(list); \
    }

int open64(const char *path, int flags, ...)
{
    REAL(open64);
    MODE(flags, flags)
    if (creates(AT_FDCWD, path, flags))
        change("create");
    return real(path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...)
{
    REAL(openat64);
    MODE(flags, flags)
    if (creates(at, path, flags))
        change("create");
    return real(at, path, flags, mode);
}

#define WRAP(name, parameters, arguments) \
    int name parameters \
    { \
        REAL(name); \
        change(#name); \
        return real arguments; \
    }

WRAP(unlink, (const char *path), (path))
WRAP(unlinkat, (int at, const char *path, int flags), (at, path, flags))
WRAP(rename, (const char *from, const char *to), (from, to))
WRAP(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP(rmdir, (const char *path), (path))
WRAP(mkdir, (const char *path, mode_t mode), (path, mode))
WRAP(mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))
WRAP(ftruncate64, (int fd, off64_t length), (fd, length))
WRAP(link, (const char *from, const char *to), (from, to))
WRAP(linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
WRAP(symlink, (const char *from, const char *to), (from, to))
