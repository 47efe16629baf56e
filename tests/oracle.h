/* A second set of books, kept apart from the library: what is live, where, how large, whose. In plain malloc
 * memory, under one lock, by rules that are written down here and not taken from the library's counters:
 *
 *   new block (alloc, a realloc that moves, keep out of a scope, move)   blocks + 1, bytes + its usable size
 *   realloc that stays at its address                                    bytes + what it grew by; shrinking adds nothing
 *   used, blocks                                                          sums over what is live
 */
#ifndef ORACLE_H
#define ORACLE_H

#include "sagemem.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A failed check ends the process: cmocka's own assertions jump, which only the thread that runs the test may do. */
#define REQUIRE(condition, ...)                                                                                                    \
    do {                                                                                                                           \
        if (!(condition)) oracle_stop(__FILE__, __LINE__, #condition, __VA_ARGS__);                                                \
    } while (0)

__attribute__((format(printf, 4, 5), noreturn, unused)) static void oracle_stop(const char *file, int line, const char *condition,
                                                                                const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s:%d: not so: %s: ", file, line, condition);
    vfprintf(stderr, format, args);
    fprintf(stderr, "; last error: %s\n", sagemem_last_error()->message);
    va_end(args);
    abort();
}

#define UINT(x) ((unsigned long long)(x))

/* -- Chance ------------------------------------------------------------------------------------------------ */

typedef struct chance {
    uint64_t state;
} chance;

/* splitmix64 (Steele, Lea, Flood 2014): every seed is as good as any other. */
static inline uint64_t chance_next(chance *c) {
    uint64_t z = c->state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
static inline uint64_t chance_below(chance *c, uint64_t n) { return chance_next(c) % n; }

/* Most blocks are small; each kind of page of the library gets its share. */
static inline size_t chance_size(chance *c) {
    uint64_t kind = chance_below(c, 200);
    if (kind < 130) return (size_t)chance_below(c, 600);
    if (kind < 170) return (size_t)chance_below(c, 8300);
    if (kind < 190) return (size_t)chance_below(c, 100000);
    if (kind < 198) return (size_t)chance_below(c, 400000);
    return (size_t)chance_below(c, 2000000);
}

static inline uint64_t oracle_number(const char *variable, uint64_t otherwise) {
    const char *text = getenv(variable);
    return text != NULL && *text != '\0' ? strtoull(text, NULL, 0) : otherwise;
}
static inline uint64_t oracle_seed(void) { return oracle_number("SAGEMEM_SEED", 20240229); }

/* Fewer where everything takes longer: sanitizers, Valgrind. */
static inline unsigned oracle_steps(unsigned plain, unsigned slow) {
    return (unsigned)oracle_number("SAGEMEM_STEPS", getenv("SAGEMEM_TEST_SLOW") != NULL ? slow : plain);
}

/* -- The books --------------------------------------------------------------------------------------------- */

enum { ORACLE_TAGS = 8, ORACLE_HEAPS = 4096, ORACLE_SLOTS = 1 << 14, ORACLE_DEPTH = 8 };

/* Tags of one group, of several, the first that names make, the last there is. */
static const sagemem_tag oracle_tags[ORACLE_TAGS] = {SAGEMEM_UNTAGGED, 1, 2, 15, 16, 127, 128, SAGEMEM_TAG_MAX};

typedef struct oracle_count {
    uint64_t used, blocks, total_bytes, total_blocks;
} oracle_count;

struct oracle_heap;

typedef struct oracle_block {
    struct oracle_block *chain; /* the hash table's */
    unsigned char *at;
    size_t size, asked;
    int tag; /* index of oracle_tags */
    struct oracle_heap *heap;
    uint64_t scope; /* 0: in none */
    uint64_t seed;  /* of the contents */
    size_t place;   /* in the heap's array, while it is in it */
    bool seen;      /* by the visit that is going on */
} oracle_block;

typedef struct oracle_heap {
    sagemem_heap *heap; /* NULL: has ended */
    struct oracle_heap *parent;
    uint32_t flags;
    oracle_count count[ORACLE_TAGS]; /* its own; totals also of the children that have ended */
    uint64_t scope[ORACLE_DEPTH];    /* open, outermost first */
    int depth;
    pthread_mutex_t lock; /* of the array */
    oracle_block **block; /* what whoever holds the heap may use: everything but the blocks that are on their way */
    size_t blocks, room;
    int in_flight; /* blocks that other threads are giving back right now; under the mailbox's lock */
} oracle_heap;

typedef struct oracle {
    pthread_mutex_t lock;
    oracle_block *slot[ORACLE_SLOTS];
    oracle_heap *heap[ORACLE_HEAPS];
    int heaps;
    oracle_count ended[ORACLE_TAGS]; /* totals of the heaps without parent that have ended */
    uint64_t *outer;                 /* by scope: the one it was opened in */
    uint64_t scopes, scopes_room;
} oracle;

static oracle oracle_books = {.lock = PTHREAD_MUTEX_INITIALIZER};

static inline size_t oracle_slot(const void *at) { return (size_t)((uintptr_t)at / 16 * 0x9E3779B97F4A7C15u >> 40) % ORACLE_SLOTS; }

/* Under the lock. */
static inline oracle_block *oracle_find(const void *at) {
    oracle_block *b = oracle_books.slot[oracle_slot(at)];
    while (b != NULL && b->at != at) b = b->chain;
    return b;
}

static inline oracle_heap *oracle_heap_new(sagemem_heap *heap, oracle_heap *parent, uint32_t flags) {
    REQUIRE(heap != NULL, "no heap was made");
    oracle_heap *h = (oracle_heap *)calloc(1, sizeof *h);
    h->heap = heap;
    h->parent = parent;
    h->flags = flags;
    pthread_mutex_init(&h->lock, NULL);
    pthread_mutex_lock(&oracle_books.lock);
    REQUIRE(oracle_books.heaps < ORACLE_HEAPS, "too many heaps for this test");
    oracle_books.heap[oracle_books.heaps++] = h;
    pthread_mutex_unlock(&oracle_books.lock);
    return h;
}

static inline oracle_heap *oracle_heap_of(const sagemem_heap *heap) {
    oracle_heap *found = NULL;
    pthread_mutex_lock(&oracle_books.lock);
    for (int i = 0; i < oracle_books.heaps; i++)
        if (oracle_books.heap[i]->heap == heap) found = oracle_books.heap[i];
    pthread_mutex_unlock(&oracle_books.lock);
    return found;
}

static inline void oracle_enter(oracle_block *b, bool fresh) {
    pthread_mutex_lock(&oracle_books.lock);
    REQUIRE(oracle_find(b->at) == NULL, "%p is handed out twice", (void *)b->at);
    b->chain = oracle_books.slot[oracle_slot(b->at)];
    oracle_books.slot[oracle_slot(b->at)] = b;
    oracle_count *c = &b->heap->count[b->tag];
    c->used += b->size;
    c->blocks++;
    if (fresh) {
        c->total_bytes += b->size;
        c->total_blocks++;
    }
    pthread_mutex_unlock(&oracle_books.lock);
}

/* Before the block is given back: from then on its address may be another's. */
static inline void oracle_leave(oracle_block *b) {
    pthread_mutex_lock(&oracle_books.lock);
    oracle_block **link = &oracle_books.slot[oracle_slot(b->at)];
    while (*link != b) link = &(*link)->chain;
    *link = b->chain;
    b->heap->count[b->tag].used -= b->size;
    b->heap->count[b->tag].blocks--;
    pthread_mutex_unlock(&oracle_books.lock);
}

static inline void oracle_grown(const oracle_block *b, size_t more) {
    pthread_mutex_lock(&oracle_books.lock);
    b->heap->count[b->tag].total_bytes += more;
    pthread_mutex_unlock(&oracle_books.lock);
}

static inline void oracle_put(oracle_block *b) {
    oracle_heap *h = b->heap;
    pthread_mutex_lock(&h->lock);
    if (h->blocks == h->room) {
        h->room = h->room * 2 + 64;
        h->block = (oracle_block **)realloc(h->block, h->room * sizeof(void *));
    }
    b->place = h->blocks;
    h->block[h->blocks++] = b;
    pthread_mutex_unlock(&h->lock);
}

/* Any of the heap's blocks, out of its array; NULL: it has none. */
static inline oracle_block *oracle_pick(oracle_heap *h, chance *c) {
    oracle_block *b = NULL;
    pthread_mutex_lock(&h->lock);
    if (h->blocks > 0) {
        size_t i = (size_t)chance_below(c, h->blocks);
        b = h->block[i];
        h->block[i] = h->block[--h->blocks];
        h->block[i]->place = i;
    }
    pthread_mutex_unlock(&h->lock);
    return b;
}

static inline uint64_t oracle_used(const oracle_heap *h) {
    uint64_t used = 0;
    pthread_mutex_lock(&oracle_books.lock);
    for (int t = 0; t < ORACLE_TAGS; t++) used += h->count[t].used;
    pthread_mutex_unlock(&oracle_books.lock);
    return used;
}

/* -- Contents ---------------------------------------------------------------------------------------------- */

/* Every byte has a value of its own, but of a large block only some are written: the ends, and one in 1024. */
static inline unsigned char oracle_byte(uint64_t seed, size_t i) {
    return (unsigned char)((seed ^ i / 8 * 0x9E3779B97F4A7C15u) >> (8 * (i % 8)));
}
static inline size_t oracle_step(size_t i, size_t size) {
    return i < 256 || i + 64 >= size ? i + 1 : i / 1024 * 1024 + 1024 < size - 64 ? i / 1024 * 1024 + 1024 : size - 64;
}

static inline void oracle_fill(const oracle_block *b) {
    for (size_t i = 0; i < b->size; i = oracle_step(i, b->size)) b->at[i] = oracle_byte(b->seed, i);
}
/* at: where the contents of a block that was `size` bytes are now; the first `keep` bytes are still there. */
static inline void oracle_same(const oracle_block *b, const unsigned char *at, size_t size, size_t keep, const char *after) {
    for (size_t i = 0; i < size && i < keep; i = oracle_step(i, size))
        REQUIRE(at[i] == oracle_byte(b->seed, i), "byte %zu of %zu of block %p (tag %u) changed: %s", i, size, (const void *)at,
                oracle_tags[b->tag], after);
}
static inline void oracle_zero(const unsigned char *at, size_t from, size_t to, const char *after) {
    for (size_t i = from; i < to; i++)
        REQUIRE(at[i] == 0, "byte %zu of %zu of block %p in a zeroing heap is %u: %s", i, to, (const void *)at, at[i], after);
}

static inline void oracle_fresh(oracle_block *b, void *at, size_t asked) {
    b->at = (unsigned char *)at;
    b->asked = asked;
    b->size = sagemem_size(at);
    REQUIRE(b->size >= asked, "%zu bytes were asked for, %zu can be used", asked, b->size);
    REQUIRE((uintptr_t)at % 16 == 0 && (asked < 65536 || (uintptr_t)at % 64 == 0), "%p (%zu bytes) is not aligned", at, asked);
}

/* -- Calls, and what they mean for the books ----------------------------------------------------------------- */

static inline uint64_t oracle_scope(const oracle_heap *h) { return h->depth > 0 ? h->scope[h->depth - 1] : 0; }

/* A new block by one of the ways there are; not yet in the heap's array. */
static inline oracle_block *oracle_alloc(oracle_heap *h, chance *c, size_t size) {
    oracle_block *b = (oracle_block *)calloc(1, sizeof *b);
    b->tag = (int)chance_below(c, ORACLE_TAGS);
    b->heap = h;
    b->scope = oracle_scope(h);
    b->seed = chance_next(c);
    sagemem_tag tag = oracle_tags[b->tag];
    void *at = NULL;
    switch (chance_below(c, 12)) {
    case 0: at = sagemem_calloc(h->heap, 1, size, tag); break;
    case 1: at = sagemem_realloc(h->heap, NULL, size, tag); break;
    case 2: at = sagemem_alloc_array(h->heap, size, 1, tag); break;
    case 3: {
        size_t alignment = (size_t)1 << chance_below(c, chance_below(c, 30) == 0 ? 19 : 13);
        at = sagemem_aligned_alloc(h->heap, alignment, size, tag);
        REQUIRE(at != NULL && (uintptr_t)at % alignment == 0, "%p is not at a multiple of %zu", at, alignment);
        break;
    }
    case 4: {
        char text[] = "as long as this";
        size = sizeof text;
        at = sagemem_strdup(h->heap, text, tag);
        REQUIRE(at != NULL && strcmp((char *)at, text) == 0, "the copy of a string is another");
        break;
    }
    default: at = sagemem_alloc(h->heap, size, tag); break;
    }
    REQUIRE(at != NULL, "%zu bytes", size);
    oracle_fresh(b, at, size);
    if ((h->flags & SAGEMEM_HEAP_ZERO) != 0)
        oracle_zero(b->at, memcmp(at, "as long as this", size < 16 ? size : 16) == 0 && size == 16 ? 16 : 0, b->size, "new");
    oracle_fill(b);
    oracle_enter(b, true);
    return b;
}

static inline void oracle_free(oracle_block *b) {
    oracle_same(b, b->at, b->size, b->size, "before it is freed");
    oracle_leave(b);
    sagemem_free(b->at);
    free(b);
}

static inline void oracle_realloc(oracle_block *b, chance *c) {
    size_t size = chance_below(c, 4) == 0 ? chance_size(c) : (size_t)(b->asked * (50 + chance_below(c, 120)) / 100), was = b->size;
    int tag = chance_below(c, 5) == 0 ? (int)chance_below(c, ORACLE_TAGS) : b->tag;
    sagemem_tag new_tag = tag == b->tag ? (sagemem_tag)SAGEMEM_TAG_SAME : oracle_tags[tag];
    unsigned char *before = b->at;
    oracle_leave(b);
    void *at = sagemem_realloc(NULL, b->at, size, new_tag);
    REQUIRE(at != NULL, "%zu bytes instead of %zu", size, was);
    oracle_fresh(b, at, size);
    oracle_same(b, b->at, was, size < b->size ? size : b->size, "after realloc");
    if ((b->heap->flags & SAGEMEM_HEAP_ZERO) != 0 && size > was) oracle_zero(b->at, was, b->size, "grown tail");
    b->tag = tag;
    bool moved = b->at != before;
    oracle_fill(b);
    oracle_enter(b, moved);
    if (!moved && b->size > was) oracle_grown(b, b->size - was);
}

static inline void oracle_keep(oracle_block *b) {
    size_t was = b->size;
    unsigned char *before = b->at;
    oracle_leave(b);
    void *at = sagemem_keep(b->at);
    REQUIRE(at != NULL, "a block of %zu bytes cannot be kept", was);
    oracle_fresh(b, at, b->asked);
    oracle_same(b, b->at, was, was, "after keep");
    if (b->scope == 0) {
        REQUIRE(b->at == before && b->size == was, "a block in no scope was moved by keep");
        oracle_enter(b, false);
        return;
    }
    if ((b->heap->flags & SAGEMEM_HEAP_ZERO) != 0) oracle_zero(b->at, was, b->size, "behind what was kept");
    pthread_mutex_lock(&oracle_books.lock);
    b->scope = oracle_books.outer[b->scope];
    pthread_mutex_unlock(&oracle_books.lock);
    oracle_fill(b);
    oracle_enter(b, true);
}

static inline void oracle_move(oracle_block *b, oracle_heap *to) {
    size_t was = b->size;
    oracle_leave(b);
    void *at = sagemem_move(to->heap, b->at);
    REQUIRE(at != NULL, "a block of %zu bytes cannot be moved", was);
    oracle_fresh(b, at, b->asked);
    oracle_same(b, b->at, was, was, "after move");
    b->heap = to;
    b->scope = oracle_scope(to);
    oracle_fill(b);
    oracle_enter(b, true);
}

static inline void oracle_scope_begin(oracle_heap *h) {
    pthread_mutex_lock(&oracle_books.lock);
    oracle *o = &oracle_books;
    if (++o->scopes >= o->scopes_room) {
        o->scopes_room = o->scopes_room * 2 + 1024;
        o->outer = (uint64_t *)realloc(o->outer, o->scopes_room * sizeof *o->outer);
    }
    uint64_t id = o->scopes;
    o->outer[id] = oracle_scope(h);
    pthread_mutex_unlock(&oracle_books.lock);
    REQUIRE(sagemem_scope_begin(h->heap, id % 2 != 0 ? "odd" : "even", id) == SAGEMEM_OK, "no scope");
    h->scope[h->depth++] = id;
}

/* Strikes out every block of the heap (scope 0), or of one scope. Nothing of it may be on its way elsewhere. */
static inline void oracle_strike(oracle_heap *h, bool all, uint64_t scope) {
    for (size_t i = h->blocks; i-- > 0;) {
        oracle_block *b = h->block[i];
        if (!all && b->scope != scope) continue;
        oracle_same(b, b->at, b->size, b->size, "before its scope or heap ends");
        oracle_leave(b);
        h->block[i] = h->block[--h->blocks];
        free(b);
    }
}

static inline void oracle_scope_end(oracle_heap *h) {
    uint64_t id = oracle_scope(h);
    oracle_strike(h, false, id);
    REQUIRE(sagemem_scope_end(h->heap) == SAGEMEM_OK, "the scope does not end");
    h->depth--;
    sagemem_scope_stats last;
    REQUIRE(sagemem_scope_get_last(h->heap, &last) == SAGEMEM_OK && last.id == id, "the last scope is another");
}

static inline void oracle_heap_reset(oracle_heap *h) {
    oracle_strike(h, true, 0);
    sagemem_heap_reset(h->heap);
    h->depth = 0;
}

static inline void oracle_heap_destroy(oracle_heap *h) {
    oracle_strike(h, true, 0);
    sagemem_heap_destroy(h->heap);
    h->depth = 0;
    pthread_mutex_lock(&oracle_books.lock);
    h->heap = NULL;
    for (int t = 0; t < ORACLE_TAGS; t++) {
        oracle_count *to = h->parent != NULL ? &h->parent->count[t] : &oracle_books.ended[t];
        to->total_bytes += h->count[t].total_bytes;
        to->total_blocks += h->count[t].total_blocks;
        h->count[t].total_bytes = h->count[t].total_blocks = 0;
    }
    pthread_mutex_unlock(&oracle_books.lock);
}

/* -- Comparing: only while nobody allocates or frees ---------------------------------------------------------- */

static inline bool oracle_below(const oracle_heap *h, const oracle_heap *above) {
    for (; h != NULL; h = h->parent)
        if (h == above) return true;
    return false;
}

/* What a heap (NULL: the process) should say. */
static inline oracle_count oracle_expect(const oracle_heap *heap, int tag, uint64_t *scopes) {
    oracle_count sum = {0, 0, 0, 0};
    if (heap == NULL) sum = oracle_books.ended[tag];
    *scopes = 0;
    for (int i = 0; i < oracle_books.heaps; i++) {
        const oracle_heap *h = oracle_books.heap[i];
        if (h->heap == NULL || (heap != NULL && !oracle_below(h, heap))) continue;
        sum.used += h->count[tag].used;
        sum.blocks += h->count[tag].blocks;
        sum.total_bytes += h->count[tag].total_bytes;
        sum.total_blocks += h->count[tag].total_blocks;
        *scopes += (uint64_t)h->depth;
    }
    return sum;
}

static inline void oracle_compare_heap(const oracle_heap *h) {
    const sagemem_heap *heap = h != NULL ? h->heap : NULL;
    oracle_count sum = {0, 0, 0, 0};
    uint64_t scopes = 0, at_peak = 0;
    sagemem_heap_stats stats;
    REQUIRE(sagemem_heap_get_stats(heap, &stats) == SAGEMEM_OK, "no statistics");
    for (int t = 0; t < ORACLE_TAGS; t++) {
        oracle_count want = oracle_expect(h, t, &scopes);
        sagemem_tag_stats got;
        uint64_t part;
        REQUIRE(sagemem_tag_get_stats(heap, oracle_tags[t], &got) == SAGEMEM_OK, "no statistics of a tag");
        REQUIRE(got.used == want.used && got.blocks == want.blocks,
                "%s with flags %u, tag %u has %llu bytes in %llu blocks, not %llu in %llu", h == NULL ? "the process" : "a heap",
                h == NULL ? 0 : h->flags, oracle_tags[t], UINT(got.used), UINT(got.blocks), UINT(want.used), UINT(want.blocks));
        REQUIRE(got.total_blocks == want.total_blocks && got.total_bytes == want.total_bytes,
                "tag %u had %llu blocks with %llu bytes, not %llu with %llu", oracle_tags[t], UINT(got.total_blocks),
                UINT(got.total_bytes), UINT(want.total_blocks), UINT(want.total_bytes));
        REQUIRE(got.peak >= got.used && got.peak_blocks >= got.blocks, "tag %u: a peak below what there is", oracle_tags[t]);
        REQUIRE(sagemem_peak_get_stats(heap, oracle_tags[t], &part) == SAGEMEM_OK, "no composition");
        at_peak += part;
        sum.used += want.used;
        sum.blocks += want.blocks;
        sum.total_blocks += want.total_blocks;
    }
    REQUIRE(stats.used == sum.used && stats.blocks == sum.blocks && stats.total_blocks == sum.total_blocks,
            "%llu bytes in %llu blocks of %llu, not %llu in %llu of %llu", UINT(stats.used), UINT(stats.blocks),
            UINT(stats.total_blocks), UINT(sum.used), UINT(sum.blocks), UINT(sum.total_blocks));
    REQUIRE(stats.scopes == scopes, "%llu scopes are open, not %llu", UINT(stats.scopes), UINT(scopes));
    REQUIRE(stats.used <= stats.held && stats.held <= stats.held_peak && stats.used <= stats.used_peak &&
                stats.overhead <= stats.held,
            "used %llu (peak %llu), held %llu (peak %llu), overhead %llu", UINT(stats.used), UINT(stats.used_peak),
            UINT(stats.held), UINT(stats.held_peak), UINT(stats.overhead));
    REQUIRE(at_peak == stats.used_peak, "%s: the tags' parts of the peak are %llu together, the peak is %llu",
            h == NULL       ? "process"
            : h->flags != 0 ? "a heap with flags"
                            : "a heap",
            UINT(at_peak), UINT(stats.used_peak));
}

static inline void oracle_compare_all(void) {
    for (int i = 0; i < oracle_books.heaps; i++)
        if (oracle_books.heap[i]->heap != NULL) oracle_compare_heap(oracle_books.heap[i]);
    oracle_compare_heap(NULL);
}

static inline int oracle_by_address(const void *a, const void *b) {
    const oracle_block *x = *(oracle_block *const *)a, *y = *(oracle_block *const *)b;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* Every block is there, holds what was written, and lies apart from every other. */
static inline void oracle_compare_blocks(void) {
    size_t count = 0, room = 1;
    for (int i = 0; i < oracle_books.heaps; i++)
        for (int t = 0; t < ORACLE_TAGS; t++) room += (size_t)oracle_books.heap[i]->count[t].blocks;
    oracle_block **all = (oracle_block **)malloc(room * sizeof *all);
    for (int s = 0; s < ORACLE_SLOTS; s++)
        for (oracle_block *b = oracle_books.slot[s]; b != NULL; b = b->chain) all[count++] = b;
    REQUIRE(count == room - 1, "the books themselves are wrong: %zu blocks listed, %zu counted", count, room - 1);
    qsort(all, count, sizeof *all, oracle_by_address);
    for (size_t i = 0; i < count; i++) {
        const oracle_block *b = all[i];
        REQUIRE(i == 0 || all[i - 1]->at + all[i - 1]->size <= b->at, "block %p lies in the one before", (void *)b->at);
        REQUIRE(sagemem_owns(b->at), "%p is a live block (%zu bytes)", (void *)b->at, b->size);
        REQUIRE(!sagemem_owns(b->at + 8) && !sagemem_owns(b->at + 1), "a pointer into block %p passes for one", (void *)b->at);
        REQUIRE(sagemem_size(b->at) == b->size && sagemem_tag_of(b->at) == oracle_tags[b->tag] &&
                    sagemem_heap_of(b->at) == b->heap->heap,
                "block %p has another size, tag or heap", (void *)b->at);
        REQUIRE(sagemem_check(b->at) == SAGEMEM_OK, "block %p is damaged", (void *)b->at);
        oracle_same(b, b->at, b->size, b->size, "where everything rests");
    }
    free(all);
}

typedef struct oracle_visitor {
    const oracle_heap *heap;
    uint64_t blocks;
} oracle_visitor;

static inline void oracle_visited(void *ctx, const sagemem_block_info *info) {
    oracle_visitor *v = (oracle_visitor *)ctx;
    pthread_mutex_lock(&oracle_books.lock);
    oracle_block *b = oracle_find(info->block);
    pthread_mutex_unlock(&oracle_books.lock);
    REQUIRE(b != NULL, "the visit shows %p (%zu bytes, tag %u), which is no live block", info->block, info->size, info->tag);
    REQUIRE(!b->seen && b->heap == v->heap && info->heap == b->heap->heap, "the visit shows %p twice, or in the wrong heap",
            info->block);
    REQUIRE(info->size == b->size && info->tag == oracle_tags[b->tag] && info->scope_id == b->scope &&
                (info->scope_kind == NULL) == (b->scope == 0),
            "the visit shows %p with %zu bytes, tag %u, scope %llu instead of %zu, %u, %llu", info->block, info->size, info->tag,
            UINT(info->scope_id), b->size, oracle_tags[b->tag], UINT(b->scope));
    b->seen = true;
    v->blocks++;
}

/* Owner. Sees exactly what the books hold of the heap. */
static inline void oracle_compare_visit(oracle_heap *h) {
    oracle_visitor v = {h, 0};
    uint64_t blocks = 0;
    sagemem_heap_visit(h->heap, oracle_visited, &v);
    for (int t = 0; t < ORACLE_TAGS; t++) blocks += h->count[t].blocks;
    REQUIRE(v.blocks == blocks, "the visit showed %llu blocks, there are %llu", UINT(v.blocks), UINT(blocks));
    REQUIRE(sagemem_heap_check(h->heap) == 0, "the heap is damaged");
    pthread_mutex_lock(&oracle_books.lock);
    for (int s = 0; s < ORACLE_SLOTS; s++)
        for (oracle_block *b = oracle_books.slot[s]; b != NULL; b = b->chain)
            if (b->heap == h) b->seen = false;
    pthread_mutex_unlock(&oracle_books.lock);
}

#endif /* ORACLE_H */
