/* What this machine does at best: absolute figures mean something only beside these, from the same run. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CLOCK, SYSTEM_CALL, FIRST_TOUCH, COPY, PING_PONG };

static double clock_call(const bench_row *row) {
    uint64_t count = bench_count(100000);
    double start = bench_cpu_ns(), last = start;
    (void)row;
    for (uint64_t i = 0; i < count; i++) last = bench_cpu_ns();
    return (last - start) / (double)count;
}

static double system_call(const bench_row *row) {
    uint64_t count = bench_count(200000);
    double start = bench_cpu_ns();
    (void)row;
    for (uint64_t i = 0; i < count; i++) {
        if (syscall(SYS_getppid) < 0) return 0;
    }
    return (bench_cpu_ns() - start) / (double)count;
}

static double first_touch(const bench_row *row) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (size_t)bench_count(16384) * page;
    (void)row;
    double start = bench_cpu_ns();
    void *pages = bench_scratch(bytes); /* writes all of it */
    double took = bench_cpu_ns() - start;
    bench_scratch_free(pages, bytes);
    return took / (double)(bytes / page);
}

/* GB/s, read and written counted once. */
static double copy(const bench_row *row) {
    size_t bytes = *(const size_t *)row->arg;
    uint64_t rounds = bench_count(((size_t)1 << 30) / bytes) + 1;
    char *from = (char *)bench_scratch(bytes), *to = (char *)bench_scratch(bytes);
    double start = bench_cpu_ns();
    for (uint64_t i = 0; i < rounds; i++) {
        memcpy(to, from, bytes);
        __asm__ volatile("" : : "r"(to) : "memory"); /* each copy is wanted */
    }
    double took = bench_cpu_ns() - start;
    bench_scratch_free(from, bytes);
    bench_scratch_free(to, bytes);
    return (double)(rounds * bytes) / took;
}

static uint64_t ball;

/* Waits for the ball to have the number, then sends it back with the next. A thread that shares its processor gives way. */
static void play(uint64_t first, uint64_t rounds) {
    for (uint64_t i = 0; i < rounds; i++) {
        for (int spins = 0; __atomic_load_n(&ball, __ATOMIC_ACQUIRE) != first + 2 * i; spins++) {
            if (spins == 2000) sched_yield(), spins = 0;
        }
        __atomic_store_n(&ball, first + 2 * i + 1, __ATOMIC_RELEASE);
    }
}
static void *play_back(void *ctx) {
    play(1, *(const uint64_t *)ctx);
    return NULL;
}

static double ping_pong(const bench_row *row) {
    uint64_t rounds = bench_count(50000);
    pthread_t other;
    (void)row;
    ball = 0;
    if (pthread_create(&other, NULL, play_back, &rounds) != 0) bench_die("threads", "pthread_create failed");
    double start = bench_wall_ns();
    play(0, rounds);
    pthread_join(other, NULL);
    return (bench_wall_ns() - start) / (double)rounds;
}

static bench_work *const works[BENCH_WORKS] = {clock_call, system_call, first_touch, copy, ping_pong};
static const bench_side sides[] = {{"this machine", LIMITED, NULL, works}};
static const size_t in_cache = 16 << 10, in_memory = 64 << 20;

#define NO_GOAL                                                                                                                    \
    {                                                                                                                              \
        { AT_MOST, 0, NULL }                                                                                                       \
    }
static const bench_row rows[] = {
    {"yard-clock", "yardstick: the clock of a thread's CPU time", "ns a call", CLOCK, NULL, NO_GOAL, 0},
    {"yard-call", "yardstick: an empty system call", "ns a call", SYSTEM_CALL, NULL, NO_GOAL, 0},
    {"yard-touch", "yardstick: first write to a page of the system", "ns a page", FIRST_TOUCH, NULL, NO_GOAL, 0},
    {"yard-copy-l1", "yardstick: memcpy in the first cache", "GB/s", COPY, &in_cache, NO_GOAL, 0},
    {"yard-copy", "yardstick: memcpy in memory", "GB/s", COPY, &in_memory, NO_GOAL, 0},
    {"yard-line", "yardstick: a cache line to the other thread and back", "ns", PING_PONG, NULL, NO_GOAL, 0},
};

const bench_group bench_yardsticks = {rows, sizeof rows / sizeof *rows, sides, sizeof sides / sizeof *sides, NULL};
