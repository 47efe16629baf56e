/* What a trace costs while it runs: an event more, and the forest example as a whole. Files are in memory: the disk apart. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench.h"

#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ADDED, FOREST };
enum { LIVE = 1000, RUNS = 5 };

extern char **environ;

/* -- Events ---------------------------------------------------------------------------------------------- */

typedef uint64_t events_of(sagemem_heap *heap, uint64_t steps);

/* A random block is freed and another takes its place: of one of so many sizes. */
static uint64_t replace(sagemem_heap *heap, uint64_t steps, uint32_t sizes) {
    static void *live[LIVE];
    uint64_t random = 1;
    for (uint64_t i = 0; i < steps; i++) {
        uint32_t slot = bench_below(&random, LIVE);
        sagemem_free(live[slot]);
        live[slot] = sagemem_alloc(heap, 16 + 16 * bench_below(&random, sizes), (sagemem_tag)(1 + i % 4));
        bench_use(live[slot]);
    }
    for (uint32_t slot = 0; slot < LIVE; slot++) {
        sagemem_free(live[slot]);
        live[slot] = NULL;
    }
    return 2 * steps;
}
static uint64_t few_sizes(sagemem_heap *heap, uint64_t steps) { return replace(heap, steps, 4); }
static uint64_t many_sizes(sagemem_heap *heap, uint64_t steps) { return replace(heap, steps, 63); }

/* Scopes of some hundred blocks, one in four of which is freed before the end. */
static uint64_t scopes(sagemem_heap *heap, uint64_t steps) {
    uint64_t random = 1, events = 0;
    for (uint64_t i = 0; i < steps; i++) {
        if (i % 128 == 0 && sagemem_scope_begin(heap, "tree", i) != SAGEMEM_OK) bench_die("a scope", "traces");
        void *block = sagemem_alloc(heap, 16 + bench_below(&random, 200), (sagemem_tag)(1 + i % 8));
        bench_use(block);
        if (i % 4 == 0) sagemem_free(block);
        events += i % 4 == 0 ? 2 : 1;
        if (i % 128 != 127 && i + 1 != steps) continue;
        if (sagemem_scope_end(heap) != SAGEMEM_OK) bench_die("a scope", "traces");
        events += 2;
    }
    return events;
}

static double event_ns(events_of *work, sagemem_heap *heap) {
    double start = bench_cpu_ns();
    uint64_t events = work(heap, bench_count(500000));
    return (bench_cpu_ns() - start) / (double)events;
}

/* In turns, the best of each: half of a difference would be what others do on the machine. */
static double added(const bench_row *row) {
    events_of *work = *(events_of *const *)row->arg;
    sagemem_heap *heap = bench_heap_make();
    char path[32];
    int file = bench_file(true);
    double without = 0, with = 0;
    snprintf(path, sizeof path, "/dev/fd/%d", file);
    sagemem_trace_desc desc = {path, SAGEMEM_TRACE_BINARY, 0};
    (void)event_ns(work, heap); /* so that pages are there */
    for (int i = 0; i < RUNS; i++) {
        double took = event_ns(work, heap);
        if (i == 0 || took < without) without = took;
        if (sagemem_trace_begin(&desc) != SAGEMEM_OK) bench_die("a trace", sagemem_last_error()->message);
        took = event_ns(work, heap);
        if (sagemem_trace_end() != SAGEMEM_OK) bench_die("a trace", sagemem_last_error()->message);
        if (i == 0 || took < with) with = took;
    }
    sagemem_heap_destroy(heap);
    close(file);
    return with - without;
}

static double system_call(const bench_row *row) {
    uint64_t count = bench_count(200000);
    double start = bench_cpu_ns();
    (void)row;
    for (uint64_t i = 0; i < count; i++)
        if (syscall(SYS_getppid) < 0) return 0;
    return (bench_cpu_ns() - start) / (double)count;
}

/* -- The forest example, as a user runs it --------------------------------------------------------------- */

static double children_ms(void) {
    struct rusage use;
    getrusage(RUSAGE_CHILDREN, &use);
    return 1e3 * (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) + 1e-3 * (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

/* CPU time, the best of some runs. BENCH_FOREST in the environment is the program; what it writes lies beside it. */
static double forest_ms(bool traced) {
    const char *program = getenv("BENCH_FOREST");
    char command[4096], output[4096], trace[4096];
    if (program == NULL) bench_die("BENCH_FOREST does not name the forest example", "trace-forest");
    snprintf(command, sizeof command, "%s", program);
    snprintf(output, sizeof output, "%s.galaxies", program);
    snprintf(trace, sizeof trace, "%s.trace", program);
    char *words[] = {command, "--quiet", "--output", output, "tests/data/trees_063.0", traced ? "--trace" : NULL, trace, NULL};
    double best = 0;
    for (int i = 0; i < RUNS; i++) {
        pid_t child;
        int status = 1;
        double start = children_ms();
        if (posix_spawn(&child, program, NULL, NULL, words, environ) != 0) bench_die("cannot be started", program);
        if (waitpid(child, &status, 0) != child || status != 0) bench_die("did not end well", program);
        double took = children_ms() - start;
        if (i == 0 || took < best) best = took;
    }
    return best;
}
static double forest(const bench_row *row) {
    (void)row;
    return forest_ms(false);
}
static double forest_traced(const bench_row *row) {
    (void)row;
    return forest_ms(true);
}

static bench_work *const works[BENCH_WORKS] = {added, forest_traced};
static bench_work *const works_untraced[BENCH_WORKS] = {NULL, forest};
static bench_work *const works_system[BENCH_WORKS] = {system_call, NULL};
static const bench_side sides[] = {
    {"sagemem", 0, NULL, works},
    {"without a trace", LIMITED, NULL, works_untraced},
    {"an empty system call", LIMITED, NULL, works_system},
};

static events_of *const few = few_sizes, *const many = many_sizes, *const in_scopes = scopes;

static const bench_row rows[] = {
    {"trace", "a trace: what it adds to each allocation and free", "ns an event", ADDED, &few, {{AT_MOST, 20, NULL}}, ANY_POLICY},
    {"trace-scopes", "a trace: in scopes of 128 blocks", "ns an event", ADDED, &in_scopes, {{AT_MOST, 20, NULL}}, ANY_POLICY},
    {"trace-sizes", "a trace: of sizes that rarely recur", "ns an event", ADDED, &many, {{AT_MOST, 20, NULL}}, ANY_POLICY},
    {"trace-forest", "the forest example with a trace", "ms", FOREST, NULL, {{AT_MOST, 1.15, "without a trace"}}, ANY_POLICY},
};

const bench_group bench_traces = {rows, sizeof rows / sizeof *rows, sides, sizeof sides / sizeof *sides, NULL};
