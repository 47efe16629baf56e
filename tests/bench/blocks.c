/* Single blocks: pairs, batches, churn (each figure is an allocation and a free), growth by realloc, and what is held. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

enum { PAIR, BATCHES, CHURN, HELD, GROW, TAGS };
enum { BATCH = 1000 };

typedef enum free_order { IN_ORDER, REVERSED, RANDOM } free_order;
typedef struct batch {
    size_t size;
    free_order order;
} batch;
/* `sizes` different ones, `apart` bytes from one to the next. */
typedef struct churn {
    uint32_t live, least, sizes, apart, tags;
    uint64_t steps;
} churn;

static size_t random_size(const churn *what, uint64_t *random) {
    return what->least + bench_below(random, what->sizes) * what->apart;
}

/* In which order a batch is freed; the random one is always the same. */
static const uint32_t *order_of(free_order wanted) {
    static uint32_t places[BATCH];
    uint64_t random = 7;
    for (uint32_t i = 0; i < BATCH; i++) places[i] = wanted == REVERSED ? BATCH - 1 - i : i;
    for (uint32_t i = BATCH - 1; wanted == RANDOM && i > 0; i--) {
        uint32_t other = bench_below(&random, i + 1), place = places[i];
        places[i] = places[other];
        places[other] = place;
    }
    return places;
}

#define SIDE(name) name##_sagemem
#define ALLOC(size) sagemem_alloc(bench_heap, size, 1)
#define TAGGED(size, tag) sagemem_alloc(bench_heap, size, (sagemem_tag)(tag))
#define RESIZE(block, size) sagemem_realloc(bench_heap, block, size, SAGEMEM_TAG_SAME)
#define FREE(block) sagemem_free(block)
#include "blocks_side.h"

#define SIDE(name) name##_sagemem_pointers
#define ALLOC(size) bench_sagemem.alloc(bench_heap, size, 1)
#define TAGGED(size, tag) bench_sagemem.alloc(bench_heap, size, (sagemem_tag)(tag))
#define RESIZE(block, size) bench_sagemem.realloc(bench_heap, block, size, SAGEMEM_TAG_SAME)
#define FREE(block) bench_sagemem.free(block)
#include "blocks_side.h"

#define SIDE(name) name##_glibc
#define ALLOC(size) malloc(size)
#define TAGGED(size, tag) ((void)(tag), malloc(size))
#define RESIZE(block, size) realloc(block, size)
#define FREE(block) free(block)
#include "blocks_side.h"

#define SIDE(name) name##_peer
#define ALLOC(size) bench_peer.alloc(size)
#define TAGGED(size, tag) ((void)(tag), bench_peer.alloc(size))
#define RESIZE(block, size) bench_peer.realloc(block, size)
#define FREE(block) bench_peer.free(block)
#include "blocks_side.h"

/* The library once more, with fewer tags. */
static double churn_with_tags(const bench_row *row, uint32_t tags) {
    churn what = *(const churn *)row->arg;
    bench_row fewer = *row;
    what.tags = tags;
    fewer.arg = &what;
    return churn_sagemem(&fewer);
}
static double churn_8_tags(const bench_row *row) { return churn_with_tags(row, 8); }

static bench_work *const works_8_tags[BENCH_WORKS] = {[TAGS] = churn_8_tags};

static const bench_side sides[] = {
    {"sagemem", 0, NULL, works_sagemem},
    {"glibc", 0, NULL, works_glibc},
    {"sagemem", POINTERS, NULL, works_sagemem_pointers},
    {"glibc", POINTERS, "glibc", works_peer},
    {"mimalloc", POINTERS, "mimalloc", works_peer},
    {"jemalloc", POINTERS, "jemalloc", works_peer},
    {"tcmalloc", POINTERS, "tcmalloc", works_peer},
    {"sagemem, 8 tags", 0, NULL, works_8_tags},
};

static const char ns_a_block[] = "ns a block", held_for_live[] = "resident bytes for each live one";
enum { MEMORY = ISOLATED | COARSE | STEADY };
static const size_t small = 64;
static const batch batches[3][3] = {{{64, IN_ORDER}, {64, REVERSED}, {64, RANDOM}},
                                    {{300, IN_ORDER}, {300, REVERSED}, {300, RANDOM}},
                                    {{700, IN_ORDER}, {700, REVERSED}, {700, RANDOM}}};
static const churn churn_10k = {10000, 16, 1009, 1, 1, 400000}, churn_100k = {100000, 16, 1009, 1, 1, 400000},
                   churn_1m = {1000000, 16, 1009, 1, 1, 500000}, tags_few_sizes = {50000, 64, 8, 64, 256, 150000},
                   tags_any_size = {50000, 16, 1009, 1, 256, 150000}, held_mixed = {200000, 16, 1009, 1, 1, 1000000},
                   held_small = {1000000, 16, 113, 1, 1, 2000000}, held_few = {5000, 16, 1009, 1, 8, 0};
static const bool touched = true, untouched = false;

#define BATCH_GOALS                                                                                                                \
    {                                                                                                                              \
        {AT_MOST, 1.0, "the best"}, { AT_MOST, 0.35, "glibc" }                                                                     \
    }
#define BATCH_ROW(bytes, what, text, i, j)                                                                                         \
    { "batch" #bytes "-" #what, "1,000 blocks of " #bytes " B, freed " text, ns_a_block, BATCHES, &batches[i][j], BATCH_GOALS, 0 }

static const bench_row rows[] = {
    {"pair", "pair of 64 B", ns_a_block, PAIR, &small, {{AT_MOST, 1.1, "the best"}, {AT_MOST, 0.6, "glibc"}}, 0},
    BATCH_ROW(64, order, "in order", 0, 0),
    BATCH_ROW(64, reverse, "in reverse", 0, 1),
    BATCH_ROW(64, random, "at random", 0, 2),
    BATCH_ROW(300, order, "in order", 1, 0),
    BATCH_ROW(300, reverse, "in reverse", 1, 1),
    BATCH_ROW(300, random, "at random", 1, 2),
    BATCH_ROW(700, order, "in order", 2, 0),
    BATCH_ROW(700, reverse, "in reverse", 2, 1),
    BATCH_ROW(700, random, "at random", 2, 2),
    {"churn10k", "churn, 10 k live blocks of 16-1024 B", ns_a_block, CHURN, &churn_10k, {{AT_MOST, 1.0, "the best"}}, 0},
    {"churn100k", "churn, 100 k live blocks of 16-1024 B", ns_a_block, CHURN, &churn_100k, {{AT_MOST, 1.0, "the best"}}, COARSE},
    {"churn1m", "churn, 1 M live blocks of 16-1024 B", ns_a_block, CHURN, &churn_1m, {{AT_MOST, 1.0, "the best"}}, COARSE},
    {"tags-sizes",
     "churn of 8 sizes, 256 tags in use",
     ns_a_block,
     TAGS,
     &tags_few_sizes,
     {{AT_MOST, 1.1, "sagemem, 8 tags"}},
     COARSE},
    {"tags-any",
     "churn of 16-1024 B, 256 tags in use",
     ns_a_block,
     TAGS,
     &tags_any_size,
     {{AT_MOST, 1.1, "sagemem, 8 tags"}},
     COARSE},
    {"held-mixed", "held after churn, 16-1024 B", held_for_live, HELD, &held_mixed, {{AT_MOST, 1.06, "glibc"}}, MEMORY},
    {"held-small", "held after churn, 16-128 B", held_for_live, HELD, &held_small, {{AT_MOST, 0.95, "glibc"}}, MEMORY},
    {"held-few", "held by 5,000 blocks in 8 tags", held_for_live, HELD, &held_few, {{AT_MOST, 1.1, "glibc"}}, MEMORY},
    {"realloc-touched", "realloc, 16 B to 256 MB, touched", "us", GROW, &touched, {{AT_MOST, 1.0, "the best"}}, ISOLATED | COARSE},
    {"realloc-untouched",
     "realloc, 16 B to 256 MB, untouched",
     "us",
     GROW,
     &untouched,
     {{AT_MOST, 1.0, "the best"}},
     ISOLATED | COARSE},
};

const bench_group bench_blocks = {rows, sizeof rows / sizeof *rows, sides, sizeof sides / sizeof *sides, NULL};
