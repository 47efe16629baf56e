/* Scopes: what is allocated together and goes together. Peers that have none free each block. */
#include "bench.h"

#include <stdlib.h>
#ifdef BENCH_APR
#include <apr_general.h>
#include <apr_pools.h>
#include <apr_version.h>
#endif
#ifdef BENCH_OBSTACK
#include <obstack.h>
#endif
#ifdef BENCH_TALLOC
#include <talloc.h>
#endif

enum { FOREST, MANY };
enum { FOREST_SMALL = 50, FOREST_LARGE = 3 };

typedef struct forest {
    uint64_t cycles;
} forest;
typedef struct many {
    size_t count;
    unsigned tags;
    bool end_alone;
} many;

#define SIDE(name) name##_sagemem
#define BEGIN() (void)sagemem_scope_begin(bench_heap, "forest", 1)
#define TAKE(size, tag) sagemem_alloc(bench_heap, size, (sagemem_tag)(tag))
#define END(blocks, count) ((void)(blocks), (void)(count), (void)sagemem_scope_end(bench_heap))
#include "scopes_side.h"

#define SIDE(name) name##_sagemem_pointers
#define BEGIN() (void)bench_sagemem.scope_begin(bench_heap, "forest", 1)
#define TAKE(size, tag) bench_sagemem.alloc(bench_heap, size, (sagemem_tag)(tag))
#define END(blocks, count) ((void)(blocks), (void)(count), (void)bench_sagemem.scope_end(bench_heap))
#include "scopes_side.h"

#define SIDE(name) name##_glibc
#define BEGIN() (void)0
#define TAKE(size, tag) ((void)(tag), malloc(size))
#define END(blocks, count)                                                                                                         \
    for (size_t freed = 0; freed < (count); freed++) free((blocks)[freed])
#include "scopes_side.h"

#define SIDE(name) name##_peer
#define BEGIN() (void)0
#define TAKE(size, tag) ((void)(tag), bench_peer.alloc(size))
#define END(blocks, count)                                                                                                         \
    for (size_t freed = 0; freed < (count); freed++) bench_peer.free((blocks)[freed])
#include "scopes_side.h"

static void *peer_heap;
#define SIDE(name) name##_peer_heap
#define BEGIN() peer_heap = bench_peer.heap_new()
#define TAKE(size, tag) ((void)(tag), bench_peer.heap_alloc(peer_heap, size))
#define END(blocks, count) ((void)(blocks), (void)(count), bench_peer.heap_destroy(peer_heap))
#include "scopes_side.h"

#ifdef BENCH_APR
static apr_pool_t *apr_pool;
static void apr_begin(void) {
    static bool begun;
    if (!begun && apr_initialize() != APR_SUCCESS) bench_die("APR", "apr_initialize failed");
    begun = true;
    if (apr_pool_create(&apr_pool, NULL) != APR_SUCCESS) bench_die("APR", "apr_pool_create failed");
}
#define SIDE(name) name##_apr
#define BEGIN() apr_begin()
#define TAKE(size, tag) ((void)(tag), apr_palloc(apr_pool, size))
#define END(blocks, count) ((void)(blocks), (void)(count), apr_pool_destroy(apr_pool))
#include "scopes_side.h"
#endif

#ifdef BENCH_OBSTACK
#define obstack_chunk_alloc malloc
#define obstack_chunk_free free
static struct obstack stack;
#define SIDE(name) name##_obstack
#define BEGIN() (void)obstack_init(&stack)
#define TAKE(size, tag) ((void)(tag), obstack_alloc(&stack, (int)(size)))
#define END(blocks, count) ((void)(blocks), (void)(count), obstack_free(&stack, NULL))
#include "scopes_side.h"
#endif

#ifdef BENCH_TALLOC
static void *context;
#define SIDE(name) name##_talloc
#define BEGIN() context = talloc_new(NULL)
#define TAKE(size, tag) ((void)(tag), talloc_size(context, size))
#define END(blocks, count) ((void)(blocks), (void)(count), (void)talloc_free(context))
#include "scopes_side.h"
#endif

static const bench_side sides[] = {
    {"sagemem", 0, NULL, works_sagemem},
    {"glibc", 0, NULL, works_glibc},
#ifdef BENCH_APR
    {"APR pool", LIMITED, NULL, works_apr},
#endif
#ifdef BENCH_OBSTACK
    {"obstack", LIMITED, NULL, works_obstack},
#endif
#ifdef BENCH_TALLOC
    {"talloc", 0, NULL, works_talloc},
#endif
    {"sagemem", POINTERS, NULL, works_sagemem_pointers},
    {"mi_heap", POINTERS, "mimalloc", works_peer_heap},
    {"mimalloc", POINTERS, "mimalloc", works_peer},
    {"jemalloc", POINTERS, "jemalloc", works_peer},
    {"tcmalloc", POINTERS, "tcmalloc", works_peer},
};

static const forest forest_cycle = {2000};
static const many end_of_many = {1000000, 1, true}, tagged_many = {1000000, 8, false};

static const char ns_a_block[] = "ns a block";

static const bench_row rows[] = {
    {"forest",
     "forest: scope, 50 small and 3 of 10-100 KB, end",
     ns_a_block,
     FOREST,
     &forest_cycle,
     {{AT_MOST, 0.45, "APR pool"}, {AT_MOST, 0.5, "glibc"}, {AT_MOST, 0.12, "mi_heap"}},
     0},
    {"end", "end of a scope of 1 M blocks of 64 B", ns_a_block, MANY, &end_of_many, {{AT_MOST, 1.0, "mi_heap"}}, 0},
    {"many", "1 M blocks of 64 B over 8 tags, allocate and end", ns_a_block, MANY, &tagged_many, {{AT_MOST, 1.1, "the best"}}, 0},
};

static void tell_peers(void) {
#ifdef BENCH_APR
    bench_peer_tell("APR", apr_version_string());
#else
    bench_peer_tell("APR", NULL);
#endif
#ifdef BENCH_TALLOC
    static char version[16];
    snprintf(version, sizeof version, "%d.%d", talloc_version_major(), talloc_version_minor());
    bench_peer_tell("talloc", version);
#else
    bench_peer_tell("talloc", NULL);
#endif
#ifdef BENCH_OBSTACK
    bench_peer_tell("obstack", "(the C library's)");
#else
    bench_peer_tell("obstack", NULL);
#endif
}

const bench_group bench_scopes = {rows, sizeof rows / sizeof *rows, sides, sizeof sides / sizeof *sides, tell_peers};
