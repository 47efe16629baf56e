/* The workloads of the curves. Every side is called through pointers here; what counts is how the figures grow. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "growth.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static void *own_alloc(size_t size, unsigned tag) { return sagemem_alloc(bench_heap, size, (sagemem_tag)tag); }
static void *peer_alloc(size_t size, unsigned tag) {
    (void)tag;
    return bench_peer.alloc(size);
}

typedef struct calls {
    void *(*alloc)(size_t size, unsigned tag);
    void (*free)(void *block);
} calls;
static calls calls_of(growth_side side) {
    if (side != GROWTH_SAGEMEM) return (calls){peer_alloc, bench_peer.free};
    bench_heap = bench_heap_make();
    return (calls){own_alloc, sagemem_free};
}

static void *needed(void *block) {
    if (block == NULL) bench_die("a workload has no memory", sagemem_last_error()->message);
    bench_use(block);
    return block;
}

static uint32_t any_size(uint64_t *random) { return 16 + bench_below(random, 1009); }

/* n records of 256 bytes, walked three times. */
static double walk(uint64_t n, uint64_t rounds) {
    enum { WORDS = 32 };
    void ***records = (void ***)bench_scratch(n * WORDS * sizeof *records), **last = NULL;
    for (uint64_t i = 0; i + 1 < n; i++) records[i * WORDS] = (void **)&records[(i + 1) * WORDS];
    double start = bench_cpu_ns();
    for (uint64_t i = 0; i < 3 * rounds; i++)
        for (void **at = (void **)records; at != NULL; at = (void **)*at) last = at;
    bench_use(last);
    return (bench_cpu_ns() - start) / (double)rounds;
}

/* -- Live blocks ----------------------------------------------------------------------------------------- */

/* A random one of n live blocks of 16 to 1024 bytes is freed and another takes its place. */
static double churn(growth_side side, uint64_t n) {
    calls of = calls_of(side);
    void **live = (void **)bench_scratch(n * sizeof *live);
    uint64_t random = 1, steps = bench_count(300000);
    for (uint64_t i = 0; i < n; i++) live[i] = needed(of.alloc(any_size(&random), 1));
    double start = 0;
    for (uint64_t i = 0; i < 2 * steps; i++) {
        if (i == steps) start = bench_cpu_ns(); /* the first half warms up */
        uint32_t slot = bench_below(&random, (uint32_t)n);
        of.free(live[slot]);
        live[slot] = needed(of.alloc(any_size(&random), 1));
    }
    return (bench_cpu_ns() - start) / (double)steps;
}

/* n blocks of 64 bytes come and go, in order: what pages cost that change hands is in it. */
static double fill(growth_side side, uint64_t n) {
    calls of = calls_of(side);
    void **live = (void **)bench_scratch(n * sizeof *live);
    uint64_t rounds = bench_count(300000) / n + 1;
    double start = bench_cpu_ns();
    for (uint64_t round = 0; round < rounds; round++) {
        for (uint64_t i = 0; i < n; i++) live[i] = needed(of.alloc(64, 1));
        for (uint64_t i = 0; i < n; i++) of.free(live[i]);
    }
    return (bench_cpu_ns() - start) / (double)(rounds * n);
}

/* -- Tags and heaps -------------------------------------------------------------------------------------- */

/* n heaps of a side that has such; the library's are of the policy that is measured. */
static void **make_heaps(growth_side side, uint64_t n) {
    void **heaps = (void **)bench_scratch(n * sizeof *heaps);
    for (uint64_t i = 0; i < n; i++) {
        heaps[i] = side == GROWTH_SAGEMEM ? (void *)bench_heap_make() : bench_peer.heap_new();
        if (heaps[i] == NULL) bench_die("no heap", "growth");
    }
    return heaps;
}
static void *heap_alloc(growth_side side, void *heap, size_t size) {
    return needed(side == GROWTH_SAGEMEM ? sagemem_alloc((sagemem_heap *)heap, size, 1) : bench_peer.heap_alloc(heap, size));
}
static void heap_destroy(growth_side side, void *heap) {
    if (side == GROWTH_SAGEMEM) sagemem_heap_destroy((sagemem_heap *)heap);
    else bench_peer.heap_destroy(heap);
}
static void block_free(growth_side side, void *block) {
    if (side == GROWTH_SAGEMEM) sagemem_free(block);
    else bench_peer.free(block);
}

/* 100,000 live blocks of 64 bytes in n tags; what a peer has in place of a tag is a heap. */
static double tags(growth_side side, uint64_t n) {
    enum { LIVE = 100000 };
    void **heaps = side == GROWTH_SAGEMEM ? NULL : make_heaps(side, n);
    if (side == GROWTH_SAGEMEM) bench_heap = bench_heap_make();
    void **live = (void **)bench_scratch(LIVE * sizeof *live);
    uint64_t random = 1, steps = bench_count(300000);
    for (uint64_t i = 0; i < LIVE; i++)
        live[i] = heaps != NULL ? heap_alloc(side, heaps[i % n], 64) : needed(sagemem_alloc(bench_heap, 64, (sagemem_tag)(i % n)));
    double start = 0;
    for (uint64_t i = 0; i < 2 * steps; i++) {
        if (i == steps) start = bench_cpu_ns();
        uint32_t slot = bench_below(&random, LIVE);
        block_free(side, live[slot]);
        live[slot] =
            heaps != NULL ? heap_alloc(side, heaps[slot % n], 64) : needed(sagemem_alloc(bench_heap, 64, (sagemem_tag)(slot % n)));
    }
    return (bench_cpu_ns() - start) / (double)steps;
}

/* n heaps are made, get a block, and are destroyed in the order they were made in. */
static double heaps_made(growth_side side, uint64_t n) {
    uint64_t rounds = bench_count(3000) / n + 1;
    double took = 0;
    for (uint64_t round = 0; round <= rounds; round++) {
        double start = bench_cpu_ns();
        void **heaps = make_heaps(side, n);
        for (uint64_t i = 0; i < n; i++) heap_alloc(side, heaps[i], 64);
        for (uint64_t i = 0; i < n; i++) heap_destroy(side, heaps[i]);
        if (round > 0 || n > 3000) took += bench_cpu_ns() - start; /* the first of several warms up */
        bench_scratch_free(heaps, n * sizeof *heaps);
        if (n > 3000) return took / (double)n;
    }
    return took / (double)(rounds * n);
}

/* A block comes from a random one of n heaps and goes. */
static double heaps_used(growth_side side, uint64_t n) {
    void **heaps = make_heaps(side, n);
    for (uint64_t i = 0; i < 4 * n; i++) heap_alloc(side, heaps[i % n], 64);
    uint64_t random = 1, steps = bench_count(300000);
    double start = 0;
    for (uint64_t i = 0; i < 2 * steps; i++) {
        if (i == steps) start = bench_cpu_ns();
        block_free(side, heap_alloc(side, heaps[bench_below(&random, (uint32_t)n)], 64));
    }
    return (bench_cpu_ns() - start) / (double)steps;
}

static double heaps_trimmed(growth_side side, uint64_t n) {
    if (side == GROWTH_LIST) return walk(n, 1);
    void **heaps = make_heaps(side, n);
    for (uint64_t i = 0; i < n; i++) heap_alloc(side, heaps[i], 64);
    double start = bench_cpu_ns();
    (void)sagemem_trim();
    return bench_cpu_ns() - start;
}

static double heaps_counted(growth_side side, uint64_t n) {
    if (side == GROWTH_LIST) return walk(n, 1);
    void **heaps = make_heaps(side, n);
    for (uint64_t i = 0; i < n; i++) heap_alloc(side, heaps[i], 64);
    sagemem_heap_stats stats;
    double start = bench_cpu_ns();
    if (sagemem_heap_get_stats(NULL, &stats) != SAGEMEM_OK || stats.blocks < n) bench_die("wrong statistics", "heaps");
    return bench_cpu_ns() - start;
}

/* -- Threads --------------------------------------------------------------------------------------------- */

typedef struct crew {
    pthread_barrier_t warm, start;
    growth_side side;
    uint64_t steps; /* of each thread */
} crew;

/* Each thread has 1,000 live blocks of its own, and knows what is in them: another thread's would be seen. It is warm when the
 * clock starts: else it is the first steps of a heap that are compared, and more threads have more of them. */
static void *work_in_thread(void *argument) {
    crew *c = (crew *)argument;
    enum { LIVE = 1000 };
    uint64_t *live[LIVE], random = (uint64_t)(uintptr_t)&random, warm = bench_count(100000);
    memset(live, 0, sizeof live);
    for (uint64_t i = 0; i < warm + c->steps; i++) {
        if (i == warm) {
            pthread_barrier_wait(&c->warm);
            pthread_barrier_wait(&c->start);
        }
        uint32_t slot = bench_below(&random, LIVE), size = any_size(&random);
        if (live[slot] != NULL && *live[slot] != ((uintptr_t)live ^ slot)) bench_die("a block was changed", "threads");
        block_free(c->side, live[slot]);
        live[slot] = (uint64_t *)needed(c->side == GROWTH_SAGEMEM ? sagemem_alloc(NULL, size, 1) : bench_peer.alloc(size));
        *live[slot] = (uintptr_t)live ^ slot;
    }
    for (int i = 0; i < LIVE; i++) block_free(c->side, live[i]);
    return NULL;
}

/* All threads together do the same work, however many they are: wall time for each step of it. */
static double threads(growth_side side, uint64_t n) {
    enum { MOST = 4096 };
    static pthread_t ids[MOST];
    uint64_t steps = bench_count(4000000);
    crew c;
    c.side = side;
    c.steps = steps / n;
    pthread_barrier_init(&c.warm, NULL, (unsigned)n + 1);
    pthread_barrier_init(&c.start, NULL, (unsigned)n + 1);
    for (uint64_t i = 0; i < n; i++)
        if (pthread_create(&ids[i], NULL, work_in_thread, &c) != 0) bench_die("no thread", "threads");
    pthread_barrier_wait(&c.warm);
    double start = bench_wall_ns();
    pthread_barrier_wait(&c.start);
    for (uint64_t i = 0; i < n; i++) pthread_join(ids[i], NULL);
    double took = bench_wall_ns() - start;
    sagemem_heap_stats stats;
    if (sagemem_heap_get_stats(NULL, &stats) != SAGEMEM_OK || stats.used != 0) bench_die("wrong statistics", "threads");
    return took / (double)(c.steps * n);
}

/* -- Scopes ---------------------------------------------------------------------------------------------- */

/* The end of a scope with n blocks; peers: of a heap, or every block freed. */
static double end_of(growth_side side, uint64_t n, size_t size) {
    void **live = side == GROWTH_GLIBC ? (void **)bench_scratch(n * sizeof *live) : NULL;
    double best = 0;
    bench_heap = bench_heap_make();
    for (int round = 0; round < 4; round++) {
        void *heap = side == GROWTH_MIMALLOC ? bench_peer.heap_new() : bench_heap;
        if (side == GROWTH_SAGEMEM && sagemem_scope_begin(bench_heap, "growth", 0) != SAGEMEM_OK) bench_die("no scope", "growth");
        for (uint64_t i = 0; i < n; i++) {
            if (side == GROWTH_GLIBC) live[i] = needed(bench_peer.alloc(size));
            else heap_alloc(side, heap, size);
        }
        double start = bench_cpu_ns();
        if (side == GROWTH_SAGEMEM) (void)sagemem_scope_end(bench_heap);
        else if (side == GROWTH_MIMALLOC) bench_peer.heap_destroy(heap);
        else
            for (uint64_t i = 0; i < n; i++) bench_peer.free(live[i]);
        double took = bench_cpu_ns() - start;
        if (round == 1 || (round > 1 && took < best)) best = took; /* the first warms up */
    }
    return best;
}
/* 32 MiB in n blocks, a power of two, each with its word: the pages are the same. */
static double scope_blocks(growth_side side, uint64_t n) { return end_of(side, n, ((size_t)32 << 20) / n - 8); }
/* n blocks of 64 KiB, each with its word. */
static double scope_pages(growth_side side, uint64_t n) { return end_of(side, n, 65536 - 8); }

/* -- Statistics ------------------------------------------------------------------------------------------ */

static void block_in_each_tag(uint64_t n) {
    bench_heap = bench_heap_make();
    for (uint64_t i = 0; i < n; i++) needed(sagemem_alloc(bench_heap, 64, (sagemem_tag)i));
}

static double stats_heap(growth_side side, uint64_t n) {
    if (side == GROWTH_LIST) return walk(n, bench_count(20000) / n + 10);
    block_in_each_tag(n);
    sagemem_heap_stats stats;
    uint64_t rounds = bench_count(20000) / n + 10;
    double start = bench_cpu_ns();
    for (uint64_t i = 0; i < rounds; i++)
        if (sagemem_heap_get_stats(bench_heap, &stats) != SAGEMEM_OK || stats.blocks != n) bench_die("wrong statistics", "tags");
    return (bench_cpu_ns() - start) / (double)rounds;
}

static double stats_tag(growth_side side, uint64_t n) {
    if (side == GROWTH_LIST) return walk(n, bench_count(20000) / n + 10);
    block_in_each_tag(n);
    sagemem_tag_stats stats;
    uint64_t rounds = bench_count(20000) / n + 10;
    double start = bench_cpu_ns();
    for (uint64_t i = 0; i < rounds; i++)
        if (sagemem_tag_get_stats(bench_heap, (sagemem_tag)(i % n), &stats) != SAGEMEM_OK || stats.blocks != 1)
            bench_die("wrong statistics", "tags");
    return (bench_cpu_ns() - start) / (double)rounds;
}

static sagemem_status swallow(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)ctx, (void)data, (void)size, (void)offset;
    return SAGEMEM_OK;
}
static double stats_report(growth_side side, uint64_t n) {
    if (side == GROWTH_LIST) return walk(n, 3);
    block_in_each_tag(n);
    sagemem_sink sink = {swallow, NULL, NULL};
    double start = bench_cpu_ns();
    for (int i = 0; i < 3; i++)
        if (sagemem_report(bench_heap, SAGEMEM_FORMAT_JSON, &sink) != SAGEMEM_OK) bench_die("no report", "tags");
    return (bench_cpu_ns() - start) / 3;
}

/* n pages of 64 KiB with blocks of 64 bytes. */
static double stats_pages(growth_side side, uint64_t n) {
    if (side == GROWTH_LIST) return walk(n, 10);
    bench_heap = bench_heap_make();
    for (uint64_t i = 0; i < n * 1024; i++) needed(sagemem_alloc(bench_heap, 64, 1));
    sagemem_heap_stats stats;
    double start = bench_cpu_ns();
    for (int i = 0; i < 10; i++)
        if (sagemem_heap_get_stats(bench_heap, &stats) != SAGEMEM_OK || stats.blocks != n * 1024)
            bench_die("wrong statistics", "pages");
    return (bench_cpu_ns() - start) / 10;
}

/* -- Arrays ---------------------------------------------------------------------------------------------- */

static double push_all(sagemem_array *array, uint64_t n) {
    double start = bench_cpu_ns();
    for (uint64_t i = 0; i < n; i++)
        if (sagemem_array_push(array, &i) != SAGEMEM_OK) bench_die("push", sagemem_last_error()->message);
    return bench_cpu_ns() - start;
}

/* An array with n MiB of addresses set aside is made, 100,000 numbers are pushed, and it goes. */
static double array_reserved(growth_side side, uint64_t n) {
    (void)side;
    enum { PUSHES = 100000 };
    bench_heap = bench_heap_make();
    sagemem_array_desc desc = {bench_heap, 1, 8, 0, 0, (size_t)n << 17};
    double start = bench_cpu_ns();
    for (int i = 0; i < 4; i++) {
        sagemem_array array;
        if (sagemem_array_init(&array, &desc) != SAGEMEM_OK) bench_die("array", sagemem_last_error()->message);
        push_all(&array, bench_count(PUSHES));
        sagemem_array_deinit(&array);
    }
    return (bench_cpu_ns() - start) / (4 * (double)bench_count(PUSHES));
}

/* n numbers are pushed: the library's array has 64 GiB of addresses set aside, the peers' grow by realloc to twice the size. */
static double array_pushed(growth_side side, uint64_t n) {
    if (side == GROWTH_SAGEMEM) {
        bench_heap = bench_heap_make();
        sagemem_array_desc desc = {bench_heap, 1, 8, 0, 0, (size_t)64 << 27};
        sagemem_array array;
        if (sagemem_array_init(&array, &desc) != SAGEMEM_OK) bench_die("array", sagemem_last_error()->message);
        return push_all(&array, n) / (double)n;
    }
    uint64_t *data = NULL, capacity = 0;
    double start = bench_cpu_ns();
    for (uint64_t i = 0; i < n; i++) {
        if (i == capacity) {
            capacity = capacity > 0 ? 2 * capacity : 8;
            data = (uint64_t *)needed(bench_peer.realloc(data, capacity * sizeof *data));
        }
        ((volatile uint64_t *)data)[i] = i;
    }
    return (bench_cpu_ns() - start) / (double)n;
}

/* -- The curves ------------------------------------------------------------------------------------------ */

#define HALF_DECADE 3.16228
const growth_curve growth_curves[] = {
    {"churn", "one block of 16-1024 B freed, another allocated", "live blocks", 1000, 1000000000, HALF_DECADE, 700, GROWTH_ALL, 0,
     churn},
    {"fill", "a block of 64 B allocated and freed", "blocks at once", 1000, 1000000000, HALF_DECADE, 140, GROWTH_ALL, 0, fill},
    {"tags", "one of 100,000 blocks of 64 B freed, another allocated", "tags (mimalloc: heaps)", 1, 4096, 4, 0, GROWTH_HEAPS, 0,
     tags},
    {"heaps", "a heap made, one block, destroyed", "heaps at once", 1, 100000, HALF_DECADE, 40000, GROWTH_HEAPS, 0, heaps_made},
    {"heaps, used", "a block of a random heap allocated and freed", "heaps", 1, 100000, HALF_DECADE, 40000, GROWTH_HEAPS, 0,
     heaps_used},
    {"heaps, trim", "sagemem_trim", "heaps", 1, 100000, HALF_DECADE, 40000, GROWTH_WALKS, 1, heaps_trimmed},
    {"heaps, statistics", "statistics of the process", "heaps", 1, 100000, HALF_DECADE, 40000, GROWTH_WALKS, 1, heaps_counted},
    {"threads", "wall time of a step, all threads together", "threads", 1, 64, 2, 0, GROWTH_ALL, 0, threads},
    {"scope end, blocks", "end of a scope (heap, every block) of 32 MiB", "blocks", 256, 1048576, 4, 0, GROWTH_ALL, 0,
     scope_blocks},
    {"scope end, pages", "end of a scope (heap, every block)", "64 KiB blocks", 16, 32768, HALF_DECADE, 70000, GROWTH_ALL, 1,
     scope_pages},
    {"statistics, tags", "sagemem_heap_get_stats", "tags", 1, 4096, 4, 0, GROWTH_WALKS, 1, stats_heap},
    {"statistics, a tag", "sagemem_tag_get_stats", "tags", 1, 4096, 4, 0, GROWTH_WALKS, 1, stats_tag},
    {"statistics, report", "sagemem_report, JSON", "tags", 1, 4096, 4, 0, GROWTH_WALKS, 1, stats_report},
    {"statistics, pages", "sagemem_heap_get_stats", "64 KiB pages", 1, 32768, HALF_DECADE, 70000, GROWTH_WALKS, 1, stats_pages},
    {"array, reserved", "one of 100,000 elements pushed", "MiB of addresses set aside", 1, 65536, 4, 0, GROWTH_OWN, 0,
     array_reserved},
    {"array, pushed", "an element of 8 B pushed", "elements", 1000, 1000000000, HALF_DECADE, 32, GROWTH_ALL, 0, array_pushed},
};
const size_t growth_curve_count = sizeof growth_curves / sizeof *growth_curves;
