/* What the benchmarks share: clocks, random numbers, rows and goals, allocators that are loaded, JSON, SVG.
 *
 * A row is one workload with its goals; a side is one allocator in it. A file of benchmarks exports a bench_group (its rows and
 * its sides) and is named in compare.c: new rows need nothing else. A workload is a function that runs once and
 * returns its figure, as a rule ns per operation: it prepares what it needs and looks at the clock itself.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "sagemem.h"

#ifdef __cplusplus
extern "C" {
#endif

/* -- Measuring ------------------------------------------------------------------------------------------- */

double bench_cpu_ns(void);        /* CPU time of this thread: what others do on the machine is not in it */
double bench_process_ns(void);    /* CPU time of all threads of this process */
double bench_wall_ns(void);       /* for what two threads do at the same time, and for the disk */
double bench_resident(void);      /* bytes of this process in memory; 0: the system does not tell */
double bench_peak_resident(void); /* most of them at once so far */

/* BENCH_QUICK in the environment: everything runs, on a hundredth of the work, and no figure means anything. */
bool bench_quick(void);
uint64_t bench_count(uint64_t full); /* full; a hundredth of it, at least 64, when quick */
/* BENCH_ONLY in the environment: beginnings of the names of rows that are wanted, commas between. Not given: all. */
bool bench_wanted(const char *row);

double bench_median(const double *values, size_t count);
double bench_min(const double *values, size_t count);

/* Zeroed memory that no allocator under test has seen; back with bench_scratch_free. Never NULL: the program ends instead. */
void *bench_scratch(size_t bytes);
void bench_scratch_free(void *scratch, size_t bytes);

/* BENCH_FULL in the environment: files of the size that rows are about, not of a part of it. Bytes; a hundredth when quick. */
uint64_t bench_file_size(uint64_t full, uint64_t part);
/* A new file that nobody else sees and that goes with its descriptor, also if the program is killed: in the directory
 * BENCH_FILES [.], or in memory where the system has a place for that; if not, in the directory. */
int bench_file(bool in_memory);

/* Says why and ends the program. */
void bench_die(const char *why, const char *of) __attribute__((__noreturn__));

/* One multiplication: Knuth's MMIX generator, whose high half is good enough for sizes and slots. */
static inline uint32_t bench_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}
static inline uint32_t bench_below(uint64_t *state, uint32_t limit) {
    return (uint32_t)((uint64_t)bench_random(state) * limit >> 32);
}

/* The least that a program does with a block: its first word is written. It also keeps the compiler from removing the block. */
static inline void bench_use(void *block) { *(volatile uint64_t *)block = 1; }

/* -- Rows and sides -------------------------------------------------------------------------------------- */

typedef enum bench_goal_kind { AT_MOST, AT_LEAST, FASTER } bench_goal_kind;

/* AT_MOST, AT_LEAST: the library's figure over that of `of`; FASTER: the figure of `of` over the library's, at least. `of` is
 * the name of a side, "the best" of all peers that can do the work, or NULL: the figure itself. */
typedef struct bench_goal {
    bench_goal_kind kind;
    double bound;
    const char *of;
} bench_goal;

enum { BENCH_GOALS = 4, BENCH_SIDES = 16, BENCH_WORKS = 8, BENCH_REPETITIONS = 99 };

/* ISOLATED: each run in a process of its own, as the memory of the process counts, or a fresh start. COARSE: a call more or less
 * does not matter, so that the library and glibc are not called through pointers as well. STEADY: nothing is left to
 * chance, and a few turns are enough. ANY_POLICY: what memory is kept makes no difference, so it runs under the default alone. */
enum { ISOLATED = 1, COARSE = 2, STEADY = 4, ANY_POLICY = 8 };

typedef struct bench_row {
    const char *name, *text, *unit;
    unsigned work;   /* index into the sides' works */
    const void *arg; /* for the workload */
    bench_goal goals[BENCH_GOALS];
    unsigned flags;
} bench_row;

/* A malloc that was loaded, or the C library's. */
typedef struct bench_calls {
    void *(*alloc)(size_t size);
    void *(*calloc)(size_t count, size_t size);
    void *(*realloc)(void *block, size_t size);
    void (*free)(void *block);
    void *(*heap_new)(void);
    void *(*heap_alloc)(void *heap, size_t size);
    void (*heap_destroy)(void *heap);
} bench_calls;

typedef double bench_work(const bench_row *row);

enum { POINTERS = 1, LIMITED = 2 };

typedef struct bench_side {
    const char *name;         /* "sagemem" is the library; "sagemem, ..." a variant of it, and no peer */
    unsigned flags;           /* POINTERS: called through function pointers; LIMITED: never among the best, as it cannot free
                                   single blocks */
    const char *peer;         /* the loaded allocator that bench_peer is to hold; NULL: none */
    bench_work *const *works; /* by number; NULL: the side has no such thing */
} bench_side;

typedef struct bench_group {
    const bench_row *rows;
    size_t row_count;
    const bench_side *sides;
    size_t side_count;
    void (*tell_peers)(void); /* by bench_peer_tell; may be NULL */
} bench_group;

/* Set before each run. bench_heap follows the retention policy. */
extern bench_calls bench_peer;
extern sagemem_heap *bench_heap;
extern struct bench_sagemem_calls {
    void *(*alloc)(sagemem_heap *heap, size_t size, sagemem_tag tag);
    void *(*calloc)(sagemem_heap *heap, size_t count, size_t size, sagemem_tag tag);
    void *(*realloc)(sagemem_heap *heap, void *block, size_t size, sagemem_tag tag);
    void (*free)(void *block);
    sagemem_status (*scope_begin)(sagemem_heap *heap, const char *kind, uint64_t id);
    sagemem_status (*scope_end)(sagemem_heap *heap);
} bench_sagemem;

/* Another heap of the same policy. */
sagemem_heap *bench_heap_make(void);

/* -- Peers and policy (peers.c) -------------------------------------------------------------------------- */

/* "default", or "keep": nothing is given back to the system. It is set before peers are loaded, for all of them. */
void bench_policy_set(const char *policy, char **argv);
const char *bench_policy(void);

/* Loads mimalloc, jemalloc and tcmalloc; glibc is there. */
void bench_peers_load(void);
/* NULL: not installed. */
const bench_calls *bench_peer_named(const char *name);
/* A peer that a file of benchmarks is linked with, for the next; version NULL: it is not installed. The texts are not copied. */
void bench_peer_tell(const char *name, const char *version);
/* Names and versions; those that are missing are named as such. */
const char *bench_peers_text(void);

/* -- Results --------------------------------------------------------------------------------------------- */

typedef struct bench_figures {
    const bench_side *side;
    double values[BENCH_REPETITIONS], median, min;
} bench_figures;

typedef struct bench_verdict {
    const bench_goal *goal;
    const bench_figures *peer; /* NULL: the figure itself; see known */
    double got;
    bool known, met; /* not known: the peer is not here */
} bench_verdict;

typedef struct bench_result {
    const bench_row *row;
    bench_figures sides[BENCH_SIDES];
    size_t side_count, repetitions, verdict_count;
    bench_verdict verdicts[BENCH_GOALS];
} bench_result;

/* The library's figure over a peer's, both called in the same way: the median of the turns. */
double bench_ratio(const bench_result *result, const bench_figures *peer);
bool bench_is_library(const bench_side *side);
/* Draws the ratios to all peers (plot.c). */
void bench_plot(const bench_result *results, size_t count, const char *path);

/* -- JSON: keys are NULL inside of arrays. A number that is none becomes null. ----------------------------- */

typedef struct bench_json {
    FILE *file;
    bool filled; /* a comma goes before what comes next */
} bench_json;

void bench_json_open(bench_json *json, const char *path);
void bench_json_begin(bench_json *json, const char *key, char bracket); /* '{' or '[' */
void bench_json_end(bench_json *json, char bracket);                    /* '}' or ']' */
void bench_json_number(bench_json *json, const char *key, double value);
void bench_json_text(bench_json *json, const char *key, const char *value);
void bench_json_bool(bench_json *json, const char *key, bool value);
void bench_json_close(bench_json *json);

/* The machine, the compiler, the commit, the load and the policy: as an object "machine", and in lines. */
void bench_json_machine(bench_json *json);
void bench_print_machine(FILE *out);

/* -- SVG: lengths in pixels; colours as CSS has them. Text is escaped. ------------------------------------- */

typedef enum bench_anchor { BENCH_START, BENCH_MIDDLE, BENCH_END } bench_anchor;

FILE *bench_svg_open(const char *path, double width, double height);
void bench_svg_rect(FILE *svg, double x, double y, double width, double height, const char *fill);
void bench_svg_dot(FILE *svg, double x, double y, double radius, const char *fill);
void bench_svg_line(FILE *svg, double x1, double y1, double x2, double y2, const char *stroke, double width);
void bench_svg_text(FILE *svg, double x, double y, bench_anchor anchor, const char *fill, const char *text);
void bench_svg_close(FILE *svg, const char *path);

#ifdef __cplusplus
}
#endif
#endif
