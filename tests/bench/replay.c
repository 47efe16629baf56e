/* Every allocation of a real program, once more: a galaxy model over 1,000 merger trees. Each line of the trace is
 * `m ID BYTES`, `c ID BYTES`, `r ID OLD NEW` or `f ID`.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench.h"

#include <stdlib.h>
#include <string.h>

typedef struct event {
    size_t size;
    uint32_t slot;
    char kind;
} event;

typedef struct trace {
    event *events;
    void **blocks; /* by slot */
    size_t count;
} trace;

enum { EVENTS = 1 << 16 };

static bool read_event(const char *line, event *e) {
    unsigned long long id = 0, first = 0, second = 0;
    int found = sscanf(line, "%c %llu %llu %llu", &e->kind, &id, &first, &second);
    if (found < 2 || strchr("mcrf", e->kind) == NULL || id >= EVENTS) return false;
    if (found < (e->kind == 'f' ? 2 : e->kind == 'r' ? 4 : 3)) return false;
    e->slot = (uint32_t)id;
    e->size = (size_t)(e->kind == 'r' ? second : first);
    return true;
}

/* What is live at the end of the trace is freed, so that it can be played again. */
static void free_the_rest(trace *run) {
    bool *live = (bool *)bench_scratch(EVENTS);
    for (size_t i = 0; i < run->count; i++) live[run->events[i].slot] = run->events[i].kind != 'f';
    for (uint32_t slot = 0; slot < EVENTS; slot++) {
        if (!live[slot]) continue;
        if (run->count == EVENTS) bench_die("the trace", "too long");
        run->events[run->count++] = (event){0, slot, 'f'};
    }
    bench_scratch_free(live, EVENTS);
}

/* Read once in each process that needs it. */
static const trace *trace_read(const char *path) {
    static trace run;
    char line[128], command[256];
    if (run.events != NULL) return &run;
    run.events = (event *)bench_scratch(EVENTS * sizeof *run.events);
    run.blocks = (void **)bench_scratch(EVENTS * sizeof *run.blocks);
    snprintf(command, sizeof command, "gzip -dc '%s'", path);
    FILE *pipe = popen(command, "r");
    if (pipe == NULL) bench_die("cannot read", path);
    while (fgets(line, sizeof line, pipe) != NULL) {
        if (run.count == EVENTS || !read_event(line, &run.events[run.count++]))
            bench_die("the trace has a line that is none", line);
    }
    if (pclose(pipe) != 0 || run.count == 0) bench_die("cannot read", path);
    free_the_rest(&run);
    return &run;
}

#define SIDE(name) name##_sagemem
#define ALLOC(size) sagemem_alloc(bench_heap, size, 1)
#define CALLOC(size) sagemem_calloc(bench_heap, 1, size, 1)
#define RESIZE(block, size) sagemem_realloc(bench_heap, block, size, 1)
#define FREE(block) sagemem_free(block)
#include "replay_side.h"

#define SIDE(name) name##_sagemem_pointers
#define ALLOC(size) bench_sagemem.alloc(bench_heap, size, 1)
#define CALLOC(size) bench_sagemem.calloc(bench_heap, 1, size, 1)
#define RESIZE(block, size) bench_sagemem.realloc(bench_heap, block, size, 1)
#define FREE(block) bench_sagemem.free(block)
#include "replay_side.h"

#define SIDE(name) name##_glibc
#define ALLOC(size) malloc(size)
#define CALLOC(size) calloc(1, size)
#define RESIZE(block, size) realloc(block, size)
#define FREE(block) free(block)
#include "replay_side.h"

#define SIDE(name) name##_peer
#define ALLOC(size) bench_peer.alloc(size)
#define CALLOC(size) bench_peer.calloc(1, size)
#define RESIZE(block, size) bench_peer.realloc(block, size)
#define FREE(block) bench_peer.free(block)
#include "replay_side.h"

static const bench_side sides[] = {
    {"sagemem", 0, NULL, works_sagemem},
    {"glibc", 0, NULL, works_glibc},
    {"sagemem", POINTERS, NULL, works_sagemem_pointers},
    {"glibc", POINTERS, "glibc", works_peer},
    {"mimalloc", POINTERS, "mimalloc", works_peer},
    {"jemalloc", POINTERS, "jemalloc", works_peer},
    {"tcmalloc", POINTERS, "tcmalloc", works_peer},
};

static const bench_row rows[] = {
    {"replay",
     "every allocation of a galaxy model over 1,000 trees",
     "ns an event",
     0,
     "tests/data/sage_small.trace.gz",
     {{AT_MOST, 1.0, "the best"}},
     0},
};

const bench_group bench_replay = {rows, sizeof rows / sizeof *rows, sides, sizeof sides / sizeof *sides, NULL};
