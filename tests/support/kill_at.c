/* Ends the process, as SIGKILL does, at a chosen point of what it does to its store and on the connections it made.
 *
 * KILL_AT_ORDER   a file; while it is there points are counted, anew for each number in it; the last three digits say
 *                 before which one to die (0: none)
 * KILL_AT_LOG     a file; each point's name is added to it as a line, before the point is passed
 * KILL_AT_STORE   the directory of the store
 *
 * Points: lock, create, write, fsync, rename, flush (of the directory), connect, send; and recv, after bytes came.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FDS = 65536 };
enum { NOTHING, RECORD, MADE };
static _Atomic unsigned char kind[FDS];
static atomic_int passed;
static atomic_int current;

static void is(int fd, unsigned char what) {
    if (fd >= 0 && fd < FDS) kind[fd] = what;
}

static int was(int fd, unsigned char what) {
    return fd >= 0 && fd < FDS && kind[fd] == what;
}

/* -1: nobody ordered anything. System calls themselves, so that nothing here is a point. */
static int order(void) {
    const char *path = getenv("KILL_AT_ORDER");
    if (!path) return -1;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    char text[16] = {0};
    long n = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    return n > 0 ? atoi(text) : -1;
}

static void point(const char *name) {
    int before = errno;
    int at = order();
    if (at < 0) {
        errno = before;
        return;
    }
    if (atomic_exchange(&current, at) != at) passed = 0;
    int this = ++passed;
    const char *path = getenv("KILL_AT_LOG");
    if (path) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        char line[32];
        size_t length = strlen(name);
        memcpy(line, name, length);
        line[length] = '\n';
        (void)!syscall(SYS_write, fd, line, length + 1);
        syscall(SYS_close, fd);
    }
    if (this == at % 1000) {
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
        for (;;) syscall(SYS_pause);
    }
    errno = before;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int creates(const char *path, int flags) {
    const char *store = getenv("KILL_AT_STORE");
    if (!(flags & O_CREAT) || !store || strncmp(path, store, strlen(store))) return 0;
    size_t length = strlen(path);
    int lock = length > 5 && !strcmp(path + length - 5, ".lock");
    point(lock ? "lock" : "create");
    return !lock;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list more; \
        va_start(more, flags); \
        int mode = va_arg(more, int); \
        va_end(more); \
        int ours = creates(path, flags); \
        int fd = real(path, flags, mode); \
        is(fd, ours ? RECORD : NOTHING); \
        return fd; \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *bytes, size_t length) {
    REAL(write);
    if (was(fd, RECORD)) point("write");
    if (was(fd, MADE)) point("send");
    return real(fd, bytes, length);
}

int fsync(int fd) {
    REAL(fsync);
    point(was(fd, RECORD) ? "fsync" : "flush");
    return real(fd);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    point("rename");
    return real(from, to);
}

int connect(int fd, const struct sockaddr *to, socklen_t length) {
    REAL(connect);
    if (to->sa_family == AF_INET || to->sa_family == AF_INET6) {
        point("connect");
        is(fd, MADE);
    }
    return real(fd, to, length);
}

int accept4(int listener, struct sockaddr *from, socklen_t *length, int flags) {
    REAL(accept4);
    int fd = real(listener, from, length, flags);
    is(fd, NOTHING);
    return fd;
}

ssize_t send(int fd, const void *bytes, size_t length, int flags) {
    REAL(send);
    if (was(fd, MADE)) point("send");
    return real(fd, bytes, length, flags);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    if (was(fd, MADE)) point("send");
    return real(fd, parts, count);
}

ssize_t recv(int fd, void *bytes, size_t length, int flags) {
    REAL(recv);
    ssize_t got = real(fd, bytes, length, flags);
    if (got > 0 && was(fd, MADE)) point("recv");
    return got;
}

int close(int fd) {
    REAL(close);
    is(fd, NOTHING);
    return real(fd);
}
