/* Makes system calls of the library fail. The C library's functions are defined here once more, so that the library's calls come
 * this way; each is counted, fails if the plan says so, and is passed on otherwise. What the C library calls itself (stdio,
 * realpath, readdir) does not come this way, and what the test does between aside_begin() and aside_end() is left alone. */
#ifndef TESTS_FAULT_CALLS_H
#define TESTS_FAULT_CALLS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* RTLD_NEXT */
#endif
#undef _FORTIFY_SOURCE /* it would define some of them inline */
#include "../writers.h"

#include <dlfcn.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/syscall.h>

typedef enum call {
    OPEN,
    CLOSE,
    READ,
    PREAD,
    WRITE,
    PWRITE,
    FTRUNCATE,
    FSYNC,
    RENAME,
    UNLINK,
    STAT,
    FSTAT,
    FCNTL,
    LSEEK,
    FLOCK,
    FCHMOD,
    OPENDIR,
    POLL,
    MMAP,
    MUNMAP,
    MREMAP,
    MADVISE,
    MSYNC,
    MPROTECT,
    FADVISE,
    VM_READ,
    CALLS
} call;
static const char *const call_names[CALLS] = {
    "open",   "close",  "read",   "pread",   "write", "pwrite",   "ftruncate", "fsync",           "rename",
    "unlink", "stat",   "fstat",  "fcntl",   "lseek", "flock",    "fchmod",    "opendir",         "poll",
    "mmap",   "munmap", "mremap", "madvise", "msync", "mprotect", "fadvise",   "process_vm_readv"};

/* The at-th `call` fails, and `times` of them in a row; once it has, so do as many of `also`, which may only be made then [CALLS:
 * none]. error 0: it moves at most `most` bytes; `begins`: the first does, and those after it fail. */
typedef struct plan {
    call call, also;
    uint64_t at, times;
    int error;
    size_t most;
    bool begins;
} plan;

static plan now;
static bool armed;
static uint64_t seen[CALLS], met, met_also;
static __thread int on_the_side;
__attribute__((unused)) static void aside_begin(void) { on_the_side++; }
__attribute__((unused)) static void aside_end(void) { on_the_side--; }

static void arm(plan next) {
    for (int i = 0; i < CALLS; i++) __atomic_store_n(&seen[i], 0, __ATOMIC_RELAXED);
    __atomic_store_n(&met, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&met_also, 0, __ATOMIC_RELAXED);
    now = next;
    __atomic_store_n(&armed, true, __ATOMIC_RELEASE);
}
static void disarm(void) { __atomic_store_n(&armed, false, __ATOMIC_RELEASE); }
static bool was_met(void) { return __atomic_load_n(&met, __ATOMIC_RELAXED) > 0; }

/* A hook for each call, before and after it: the kill test's. */
__attribute__((unused)) static void (*at_each_call)(void);

static bool is_due(call which, bool *first) {
    *first = false;
    if (on_the_side > 0 || !__atomic_load_n(&armed, __ATOMIC_ACQUIRE)) return false;
    if (at_each_call != NULL) at_each_call();
    uint64_t n = __atomic_add_fetch(&seen[which], 1, __ATOMIC_RELAXED);
    if (which == now.also && was_met()) return __atomic_fetch_add(&met_also, 1, __ATOMIC_RELAXED) < now.times;
    if (which != now.call || n < now.at || n - now.at >= now.times) return false;
    *first = n == now.at;
    __atomic_add_fetch(&met, 1, __ATOMIC_RELAXED);
    return true;
}
static bool fails(call which) {
    bool first;
    if (!is_due(which, &first)) return false;
    errno = now.error;
    return true;
}
/* A call that moves bytes: it fails, or gets fewer to move. */
static bool moves(call which, size_t *size) {
    bool first;
    if (!is_due(which, &first)) return true;
    bool is_short = now.error == 0 || (now.begins && first);
    if (is_short && *size > now.most) *size = now.most;
    errno = now.error;
    return is_short;
}

#define NEXT(type, name) ((type)(uintptr_t)dlsym(RTLD_NEXT, name))
#define THEN(result)                                                                                                               \
    do {                                                                                                                           \
        if (at_each_call != NULL && on_the_side == 0 && armed) at_each_call();                                                     \
        return result;                                                                                                             \
    } while (0)

int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    int permissions = (flags & O_CREAT) != 0 ? va_arg(args, int) : 0;
    va_end(args);
    if (fails(OPEN)) return -1;
    int fd = NEXT(int (*)(const char *, int, ...), "open")(path, flags, permissions);
    THEN(fd);
}
/* The handle is gone, whatever close says: so it is on Linux. */
int close(int fd) {
    bool failed = fails(CLOSE);
    int result = NEXT(int (*)(int), "close")(fd);
    if (failed) errno = now.error;
    THEN(failed ? -1 : result);
}
ssize_t read(int fd, void *to, size_t size) {
    if (!moves(READ, &size)) return -1;
    return NEXT(ssize_t(*)(int, void *, size_t), "read")(fd, to, size);
}
ssize_t pread(int fd, void *to, size_t size, off_t at) {
    if (!moves(PREAD, &size)) return -1;
    return NEXT(ssize_t(*)(int, void *, size_t, off_t), "pread")(fd, to, size, at);
}
ssize_t write(int fd, const void *data, size_t size) {
    if (!moves(WRITE, &size)) return -1;
    ssize_t n = size == 0 ? 0 : NEXT(ssize_t(*)(int, const void *, size_t), "write")(fd, data, size);
    THEN(n);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    if (!moves(PWRITE, &size)) return -1;
    ssize_t n = size == 0 ? 0 : NEXT(ssize_t(*)(int, const void *, size_t, off_t), "pwrite")(fd, data, size, at);
    THEN(n);
}
int ftruncate(int fd, off_t size) {
    if (fails(FTRUNCATE)) return -1;
    int result = NEXT(int (*)(int, off_t), "ftruncate")(fd, size);
    THEN(result);
}
int fsync(int fd) {
    if (fails(FSYNC)) return -1;
    int result = NEXT(int (*)(int), "fsync")(fd);
    THEN(result);
}
int rename(const char *from, const char *to) {
    if (fails(RENAME)) return -1;
    int result = NEXT(int (*)(const char *, const char *), "rename")(from, to);
    THEN(result);
}
int unlink(const char *path) {
    if (fails(UNLINK)) return -1;
    int result = NEXT(int (*)(const char *), "unlink")(path);
    THEN(result);
}
int stat(const char *path, struct stat *found) {
    return fails(STAT) ? -1 : NEXT(int (*)(const char *, struct stat *), "stat")(path, found);
}
int fstat(int fd, struct stat *found) { return fails(FSTAT) ? -1 : NEXT(int (*)(int, struct stat *), "fstat")(fd, found); }
int fcntl(int fd, int what, ...) {
    va_list args;
    va_start(args, what);
    long value = va_arg(args, long);
    va_end(args);
    return fails(FCNTL) ? -1 : NEXT(int (*)(int, int, ...), "fcntl")(fd, what, value);
}
off_t lseek(int fd, off_t at, int whence) { return fails(LSEEK) ? -1 : NEXT(off_t(*)(int, off_t, int), "lseek")(fd, at, whence); }
int flock(int fd, int how) {
    if (fails(FLOCK)) return -1;
    int result = NEXT(int (*)(int, int), "flock")(fd, how);
    THEN(result);
}
int fchmod(int fd, mode_t mode) {
    if (fails(FCHMOD)) return -1;
    int result = NEXT(int (*)(int, mode_t), "fchmod")(fd, mode);
    THEN(result);
}
DIR *opendir(const char *path) { return fails(OPENDIR) ? NULL : NEXT(DIR * (*)(const char *), "opendir")(path); }
int poll(struct pollfd *set, nfds_t count, int ms) {
    return fails(POLL) ? -1 : NEXT(int (*)(struct pollfd *, nfds_t, int), "poll")(set, count, ms);
}
void *mmap(void *at, size_t size, int access, int flags, int fd, off_t from) {
    return fails(MMAP) ? MAP_FAILED
                       : NEXT(void *(*)(void *, size_t, int, int, int, off_t), "mmap")(at, size, access, flags, fd, from);
}
int munmap(void *at, size_t size) { return fails(MUNMAP) ? -1 : NEXT(int (*)(void *, size_t), "munmap")(at, size); }
int madvise(void *at, size_t size, int advice) {
    return fails(MADVISE) ? -1 : NEXT(int (*)(void *, size_t, int), "madvise")(at, size, advice);
}
int msync(void *at, size_t size, int flags) {
    return fails(MSYNC) ? -1 : NEXT(int (*)(void *, size_t, int), "msync")(at, size, flags);
}
int mprotect(void *at, size_t size, int access) {
    return fails(MPROTECT) ? -1 : NEXT(int (*)(void *, size_t, int), "mprotect")(at, size, access);
}
int posix_fadvise(int fd, off_t at, off_t size, int advice) {
    return fails(FADVISE) ? now.error : NEXT(int (*)(int, off_t, off_t, int), "posix_fadvise")(fd, at, size, advice);
}
long syscall(long number, ...) {
    long a[6];
    va_list args;
    va_start(args, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(args, long);
    va_end(args);
#ifdef SYS_mremap
    if (number == SYS_mremap && fails(MREMAP)) return -1;
#endif
#ifdef SYS_process_vm_readv
    if (number == SYS_process_vm_readv && fails(VM_READ)) return -1;
#endif
    return NEXT(long (*)(long, ...), "syscall")(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* -- The sweep: each call, each way to fail, each time that it is made. */

typedef struct kind {
    const char *name;
    int error;
    size_t most;
    uint64_t times;
    bool begins;
} kind;
static const kind kinds[] = {
    {"EINTR once", EINTR, 0, 1, false},
    {"EINTR 50 times", EINTR, 0, 50, false},
    {"EIO once", EIO, 0, 1, false},
    {"EIO for ever", EIO, 0, UINT64_MAX, false},
    {"ENOSPC once", ENOSPC, 0, 1, false},
    {"ENOSPC for ever", ENOSPC, 0, UINT64_MAX, false},
    {"ENOMEM for ever", ENOMEM, 0, UINT64_MAX, false},
    {"97 bytes and then EIO", EIO, 97, 2, true},
    {"one byte and then ENOSPC for ever", ENOSPC, 1, UINT64_MAX, true},
    {"EDQUOT once", EDQUOT, 0, 1, false},
    {"one byte once", 0, 1, 1, false},
    {"97 bytes each", 0, 97, UINT64_MAX, false},
    {"no byte once", 0, 0, 1, false},
    {"no byte for ever", 0, 0, UINT64_MAX, false},
};

static bool is_write(call which) { return which == WRITE || which == PWRITE; }
static bool applies(call which, const kind *k) {
    if (slow() && k->times == 1 && k->error != EIO && k->error != EINTR) return false;
    if (k->error != 0 && !k->begins) return k->error != EDQUOT || is_write(which);
    if (which != READ && which != PREAD && !is_write(which)) return false;
    return k->most > 0 || is_write(which); /* a read of no bytes is the end of the file */
}
/* What nobody may notice: an interrupted call is made again, and one that was short is gone on with. */
__attribute__((unused)) static bool is_hidden(void) {
    if (now.error == 0) return now.most > 0;
    return now.error == EINTR && (now.call == OPEN || now.call == READ || now.call == PREAD || is_write(now.call) ||
                                  now.call == FTRUNCATE || now.call == FSYNC || now.call == POLL || now.call == CLOSE);
}

/* The reason that a call gives for what the plan did. */
__attribute__((unused)) static bool is_the_reason(int os_error) { return os_error == (now.error != 0 ? now.error : EIO); }

static char doing[200];
#undef check
#define check(condition)                                                                                                           \
    do {                                                                                                                           \
        if (!(condition)) {                                                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold; %s; last error: %s; last fault: %s; last log: %s\n", __FILE__, __LINE__,     \
                    #condition, doing, sagemem_last_error()->message, last_fault.message, last_log);                               \
            _exit(2);                                                                                                              \
        }                                                                                                                          \
    } while (0)

/* Runs it with every failure there can be, of `also` in addition; what the run finds wrong it says. */
__attribute__((unused)) static void sweep(const char *name, call also, void (*run)(void *ctx), void *ctx) {
    static const plan none = {CALLS, CALLS, 0, 0, 0, 0, false};
    static uint64_t made[CALLS];
    uint64_t runs = 0;
    snprintf(doing, sizeof doing, "%s, nothing fails", name);
    arm(none);
    run(ctx);
    memcpy(made, seen, sizeof made);
    for (int which = 0; which < CALLS; which++)
        for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
            if (made[which] == 0 || !applies((call)which, &kinds[k])) continue;
            for (uint64_t at = 1;; at += slow() ? 1 + at / 2 : 1, runs++) {
                plan p = {(call)which, also, at, kinds[k].times, kinds[k].error, kinds[k].most, kinds[k].begins};
                snprintf(doing, sizeof doing, "%s, %s of %s number %llu%s%s", name, kinds[k].name, call_names[which], UINT(at),
                         also < CALLS ? ", then of " : "", also < CALLS ? call_names[also] : "");
                arm(p);
                run(ctx);
                disarm();
                if (!was_met()) break;
            }
        }
    printf("%s: %llu runs of", name, UINT(runs));
    for (int which = 0; which < CALLS; which++)
        if (made[which] > 0) printf(" %s %llu", call_names[which], UINT(made[which]));
    printf("\n");
}

#endif
