/* How cost grows with size: curves, their workloads (growth_works.c), and what becomes of them (growth.c). */
#ifndef BENCH_GROWTH_H
#define BENCH_GROWTH_H

#include "bench.h"

/* LIST is a yardstick: a linked list of that many records is walked. What grows as it does grows by the caches. */
typedef enum growth_side { GROWTH_SAGEMEM, GROWTH_GLIBC, GROWTH_MIMALLOC, GROWTH_LIST, GROWTH_SIDES } growth_side;
enum {
    GROWTH_OWN = 1 << GROWTH_SAGEMEM,
    GROWTH_HEAPS = GROWTH_OWN | 1 << GROWTH_MIMALLOC,
    GROWTH_WALKS = GROWTH_OWN | 1 << GROWTH_LIST,
    GROWTH_ALL = GROWTH_HEAPS | 1 << GROWTH_GLIBC
};

typedef struct growth_curve {
    const char *name, *text; /* what is measured, in ns */
    const char *x;           /* of how many of what it is a function */
    uint64_t from, to;
    double step;  /* from one size to the next, a factor */
    double bytes; /* of memory for each of x; the curve ends where growth_memory() does */
    unsigned sides;
    double may;                                   /* exponent that is the work's own: the time of n things done is allowed 1 */
    double (*work)(growth_side side, uint64_t n); /* runs in a process of its own; bench_peer is the side's */
} growth_curve;

extern const growth_curve growth_curves[];
extern const size_t growth_curve_count;

/* Half of the machine's memory, and at most 4 GiB unless BENCH_FULL is 1 in the environment. */
double growth_memory(void);

#endif
