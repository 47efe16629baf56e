/* Exact accounting, one thing at a time: peaks step by step, what scopes leave to read, limits, reserves, reclaimers,
 * failures. By the public interface only, against sums that the test keeps itself. Other threads only lend a hand. */
#include "oracle.h"

#include <sched.h>
#include <stdatomic.h>

static chance luck;

static int begin(void **state) {
    (void)state;
    luck.state = oracle_seed();
    printf("seed: %llu\n", UINT(luck.state));
    return 0;
}

static sagemem_heap *heap_new(uint32_t flags, sagemem_heap *parent, uint64_t limit) {
    sagemem_heap_desc desc = {0};
    desc.flags = flags;
    desc.parent = parent;
    desc.limit = limit;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    REQUIRE(heap != NULL, "no heap");
    return heap;
}

static sagemem_heap_stats stats_of(const sagemem_heap *heap) {
    sagemem_heap_stats stats;
    REQUIRE(sagemem_heap_get_stats(heap, &stats) == SAGEMEM_OK, "no statistics");
    return stats;
}
static sagemem_tag_stats tag_stats_of(const sagemem_heap *heap, sagemem_tag tag) {
    sagemem_tag_stats stats;
    REQUIRE(sagemem_tag_get_stats(heap, tag, &stats) == SAGEMEM_OK, "no statistics");
    return stats;
}
static uint64_t composition_of(const sagemem_heap *heap) {
    uint64_t sum = 0;
    for (unsigned tag = 0; tag <= SAGEMEM_TAG_MAX; tag++) {
        uint64_t part;
        REQUIRE(sagemem_peak_get_stats(heap, (sagemem_tag)tag, &part) == SAGEMEM_OK, "no composition");
        sum += part;
    }
    return sum;
}

static void *free_main(void *block) {
    sagemem_free(block);
    return NULL;
}
/* Freed by another thread, which is done when this returns. */
static void free_elsewhere(void *block) {
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, free_main, block) == 0, "no thread");
    pthread_join(thread, NULL);
}

/* -- Peaks ----------------------------------------------------------------------------------------------------- */

/* The books of one heap or scope, step by step. A block that moves is there twice for a moment, and that counts. */
enum { LEVELS = 5, BLOCKS = 600 };
typedef struct level {
    uint64_t used, peak, total_blocks;
    uint64_t tag_used[ORACLE_TAGS], tag_peak[ORACLE_TAGS], tag_blocks[ORACLE_TAGS], tag_blocks_peak[ORACLE_TAGS];
    uint64_t tag_total[ORACLE_TAGS], tag_total_blocks[ORACLE_TAGS], at_peak[ORACLE_TAGS];
} level;
static level levels[LEVELS]; /* [0] the heap, then its scopes */
static int depth;
static struct {
    char *at;
    size_t size;
    int tag, level;
} blocks[BLOCKS];
static int block_count;

/* A change in a scope is one in everything around it. grown: bytes that came without a new block. */
static void level_add(int at, int tag, uint64_t size, bool grown) {
    for (int i = at; i >= 0; i--) {
        level *l = &levels[i];
        l->used += size;
        l->tag_used[tag] += size;
        l->tag_total[tag] += size;
        l->tag_blocks[tag] += !grown;
        l->tag_total_blocks[tag] += !grown;
        l->total_blocks += !grown;
        if (l->tag_used[tag] > l->tag_peak[tag]) l->tag_peak[tag] = l->tag_used[tag];
        if (l->tag_blocks[tag] > l->tag_blocks_peak[tag]) l->tag_blocks_peak[tag] = l->tag_blocks[tag];
        if (l->used <= l->peak) continue;
        l->peak = l->used;
        memcpy(l->at_peak, l->tag_used, sizeof l->at_peak);
    }
}
static void level_subtract(int at, int tag, uint64_t size, bool shrunk) {
    for (int i = at; i >= 0; i--) {
        levels[i].used -= size;
        levels[i].tag_used[tag] -= size;
        levels[i].tag_blocks[tag] -= !shrunk;
    }
}

static void same_tag(const char *what, int tag, const sagemem_tag_stats *got, const level *want) {
    REQUIRE(got->peak == want->tag_peak[tag] && got->peak_blocks == want->tag_blocks_peak[tag] &&
                got->total_blocks == want->tag_total_blocks[tag] && got->total_bytes == want->tag_total[tag],
            "%s, tag %u: peak %llu bytes, %llu blocks, ever %llu in %llu; should be %llu, %llu, %llu in %llu", what,
            oracle_tags[tag], UINT(got->peak), UINT(got->peak_blocks), UINT(got->total_bytes), UINT(got->total_blocks),
            UINT(want->tag_peak[tag]), UINT(want->tag_blocks_peak[tag]), UINT(want->tag_total[tag]),
            UINT(want->tag_total_blocks[tag]));
}

static void scope_ends(sagemem_heap *heap) {
    for (int i = block_count; i-- > 0;) {
        if (blocks[i].level != depth) continue;
        level_subtract(depth - 1, blocks[i].tag, blocks[i].size, false);
        blocks[i] = blocks[--block_count];
    }
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    const level *l = &levels[depth];
    sagemem_scope_stats last;
    assert_int_equal(sagemem_scope_get_last(heap, &last), SAGEMEM_OK);
    REQUIRE(last.used_peak == l->peak && last.total_blocks == l->total_blocks && last.id == (uint64_t)depth,
            "the scope's peak is %llu and not %llu, its blocks %llu and not %llu", UINT(last.used_peak), UINT(l->peak),
            UINT(last.total_blocks), UINT(l->total_blocks));
    for (int t = 0; t < ORACLE_TAGS; t++) {
        sagemem_tag_stats tag;
        assert_int_equal(sagemem_scope_tag_get_last(heap, oracle_tags[t], &tag), SAGEMEM_OK);
        same_tag("scope", t, &tag, l);
    }
    depth--;
}

/* One allocation, resize, free, keep, or scope, in the library and in the books. */
static void peak_step(sagemem_heap *heap) {
    uint64_t what = chance_below(&luck, 100);
    int i = block_count > 0 ? (int)chance_below(&luck, (uint64_t)block_count) : -1;
    if (what < 42 && block_count < BLOCKS) {
        int t = (int)chance_below(&luck, ORACLE_TAGS);
        blocks[block_count].at = (char *)sagemem_alloc(heap, chance_size(&luck), oracle_tags[t]);
        assert_non_null(blocks[block_count].at);
        blocks[block_count].size = sagemem_size(blocks[block_count].at);
        blocks[block_count].tag = t;
        blocks[block_count].level = depth;
        level_add(depth, t, blocks[block_count++].size, false);
    } else if (what < 68 && i >= 0) {
        level_subtract(blocks[i].level, blocks[i].tag, blocks[i].size, false);
        if (what < 46) free_elsewhere(blocks[i].at);
        else sagemem_free(blocks[i].at);
        blocks[i] = blocks[--block_count];
    } else if (what < 80 && i >= 0) {
        int t = chance_below(&luck, 4) == 0 ? (int)chance_below(&luck, ORACLE_TAGS) : blocks[i].tag;
        size_t was = blocks[i].size, wanted = was / 2 + (size_t)chance_below(&luck, was + 100);
        char *at = (char *)sagemem_realloc(heap, blocks[i].at, wanted, oracle_tags[t]);
        assert_non_null(at);
        size_t now = sagemem_size(at);
        if (at != blocks[i].at) {
            level_add(blocks[i].level, t, now, false);
            level_subtract(blocks[i].level, blocks[i].tag, was, false);
        } else if (now > was) {
            level_add(blocks[i].level, t, now - was, true);
        } else {
            level_subtract(blocks[i].level, t, was - now, true);
        }
        blocks[i].at = at;
        blocks[i].size = now;
        blocks[i].tag = t;
    } else if (what < 86 && i >= 0 && blocks[i].level > 0) {
        int to = blocks[i].level - 1;
        char *at = (char *)sagemem_keep(blocks[i].at);
        assert_non_null(at);
        bool stays = at == blocks[i].at; /* with its pages: it is not there twice */
        if (stays) level_subtract(blocks[i].level, blocks[i].tag, blocks[i].size, false);
        level_add(to, blocks[i].tag, sagemem_size(at), false);
        if (!stays) level_subtract(blocks[i].level, blocks[i].tag, blocks[i].size, false);
        blocks[i].at = at;
        blocks[i].size = sagemem_size(at);
        blocks[i].level = to;
    } else if (what < 93 && depth < LEVELS - 1) {
        memset(&levels[++depth], 0, sizeof levels[0]);
        assert_int_equal(sagemem_scope_begin(heap, "step", (uint64_t)depth), SAGEMEM_OK);
    } else if (what >= 93 && depth > 0) {
        scope_ends(heap);
    }
}

static void peaks_step_by_step(sagemem_heap *heap, bool exact, unsigned steps) {
    memset(levels, 0, sizeof levels);
    depth = block_count = 0;
    for (unsigned i = 0; i < steps; i++) peak_step(heap);
    while (depth > 0) scope_ends(heap);
    const level *l = &levels[0];
    uint64_t recorded = stats_of(heap).used_peak;
    REQUIRE(recorded <= l->peak, "the recorded peak is %llu, there never were more than %llu", UINT(recorded), UINT(l->peak));
    for (int t = 0; t < ORACLE_TAGS && exact; t++) {
        sagemem_tag_stats tag = tag_stats_of(heap, oracle_tags[t]);
        uint64_t part;
        same_tag("heap", t, &tag, l);
        assert_int_equal(sagemem_peak_get_stats(heap, oracle_tags[t], &part), SAGEMEM_OK);
        REQUIRE(part == l->at_peak[t], "tag %u had %llu bytes at the peak, not %llu", oracle_tags[t], UINT(l->at_peak[t]),
                UINT(part));
    }
    if (exact) REQUIRE(recorded == l->peak, "the recorded peak is %llu, the true one %llu", UINT(recorded), UINT(l->peak));
    assert_int_equal(composition_of(heap), recorded);
    assert_int_equal(composition_of(NULL), stats_of(NULL).used_peak);
    for (int i = 0; i < block_count; i++) sagemem_free(blocks[i].at);
}

static void peaks_of_scopes(void **state) {
    (void)state;
    sagemem_heap *heap = heap_new(0, NULL, 0);
    peaks_step_by_step(heap, false, oracle_steps(6000, 800));
    sagemem_heap_destroy(heap);
}
static void peaks_of_checked_heaps(void **state) {
    (void)state;
    static const uint32_t flags[] = {SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SITES, SAGEMEM_HEAP_SYSTEM};
    for (int i = 0; i < 3; i++) {
        sagemem_heap *heap = heap_new(flags[i], NULL, 0);
        peaks_step_by_step(heap, true, oracle_steps(2000, 400));
        sagemem_heap_destroy(heap);
    }
}

/* Growing in place is an allocation too: what another thread has freed before must not count beside it. */
static void peak_of_growth_in_place(void **state) {
    (void)state;
    sagemem_heap *heap = heap_new(0, NULL, 0);
    sagemem_scope_stats last;
    assert_int_equal(sagemem_scope_begin(heap, "growth", 1), SAGEMEM_OK);
    void *other = sagemem_alloc(heap, 100000, 1), *grows = sagemem_alloc(heap, 20000, 1);
    uint64_t peak = sagemem_size(other) + sagemem_size(grows);
    free_elsewhere(other);
    grows = sagemem_realloc(heap, grows, 30000, SAGEMEM_TAG_SAME);
    assert_non_null(grows);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_int_equal(sagemem_scope_get_last(heap, &last), SAGEMEM_OK);
    REQUIRE(last.used_peak == peak, "%llu instead of %llu", UINT(last.used_peak), UINT(peak));
    sagemem_heap_destroy(heap);
}

/* The bound of an ordinary heap: page events are looked at now and then, so a peak between two looks may be missed. */
static void peak_within_bound(const sagemem_heap *heap, uint64_t truly, unsigned classes, const char *what) {
    sagemem_heap_stats stats = stats_of(heap);
    uint64_t slack = stats.held_peak / 32 + (uint64_t)classes * 65536 + (1 << 20);
    REQUIRE(stats.used_peak <= truly, "%s: the recorded peak %llu is above the true one %llu", what, UINT(stats.used_peak),
            UINT(truly));
    REQUIRE(truly - stats.used_peak <= slack, "%s: the recorded peak %llu is %llu below the true one; allowed are %llu", what,
            UINT(stats.used_peak), UINT(truly - stats.used_peak), UINT(slack));
    assert_int_equal(composition_of(heap), stats.used_peak);
}

static void bound_with_small_blocks(void **state) {
    (void)state;
    sagemem_heap *heap = heap_new(0, NULL, 0);
    enum { COUNT = 20000 };
    static void *block[COUNT];
    static const size_t sizes[] = {16, 80, 400, 2000, 8000};
    uint64_t used = 0, truly = 0;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < COUNT; i++) {
            block[i] = sagemem_alloc(heap, sizes[chance_below(&luck, 5)], (sagemem_tag)(1 + chance_below(&luck, 3)));
            used += sagemem_size(block[i]);
        }
        if (used > truly) truly = used;
        for (int i = 0; i < COUNT; i++) {
            used -= sagemem_size(block[i]);
            sagemem_free(block[i]);
        }
    }
    peak_within_bound(heap, truly, 15, "small blocks");
    sagemem_heap_destroy(heap);
}

/* Many pages and one large block for a moment: the block is most of the peak. */
static void bound_with_one_large_block(void **state) {
    (void)state;
    sagemem_heap *heap = heap_new(0, NULL, 0);
    uint64_t used = 0;
    for (int i = 0; i < 6000; i++) {
        void *block = sagemem_alloc(heap, 8000, 1);
        used += sagemem_size(block);
    }
    void *large = sagemem_alloc(heap, 64 << 20, 2);
    uint64_t truly = used + sagemem_size(large);
    sagemem_free(large);
    peak_within_bound(heap, truly, 2, "one large block");
    sagemem_heap_destroy(heap);
}

/* Holes in chunks fill and empty again without a page changing hands. */
static void bound_with_holes_in_chunks(void **state) {
    (void)state;
    sagemem_heap *heap = heap_new(0, NULL, 0);
    enum { COUNT = 400 };
    void *hole[COUNT], *pin[COUNT];
    uint64_t pins = 0, holes = 0;
    for (int i = 0; i < COUNT; i++) {
        hole[i] = sagemem_alloc(heap, 50000, 1);
        pin[i] = sagemem_alloc(heap, 9000, 1);
        pins += sagemem_size(pin[i]);
    }
    for (int i = 0; i < COUNT; i++) sagemem_free(hole[i]);
    void *large = sagemem_alloc(heap, 16 << 20, 2);
    uint64_t beside = pins + sagemem_size(large);
    for (int i = 0; i < COUNT; i++) {
        hole[i] = sagemem_alloc(heap, 50000, 1);
        holes += sagemem_size(hole[i]);
    }
    for (int i = 0; i < COUNT; i++) sagemem_free(hole[i]);
    sagemem_free(large);
    peak_within_bound(heap, beside + holes, 0, "holes in chunks");
    sagemem_heap_destroy(heap);
}

/* The peak of a scope and what its heap gains later in it were never there together. */
static void bound_with_blocks_kept(void **state) {
    (void)state;
    sagemem_heap *heap = heap_new(0, NULL, 0);
    assert_int_equal(sagemem_scope_begin(heap, "keeps", 1), SAGEMEM_OK);
    void *first = sagemem_alloc(heap, 4 << 20, 1);
    sagemem_free(first);
    void *second = sagemem_keep(sagemem_alloc(heap, 4 << 20, 1));
    assert_non_null(second);
    assert_int_equal(stats_of(heap).used, 4 << 20); /* a look, too, brings peaks up to date */
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    peak_within_bound(heap, 4 << 20, 0, "a kept block");
    sagemem_heap_destroy(heap);
}

/* A block that is kept was seen in its scope already: those above must not see it twice. */
static void bound_of_a_parent_with_a_block_kept(void **state) {
    (void)state;
    sagemem_heap *heap = heap_new(0, NULL, 0), *child = heap_new(0, heap, 0);
    void *first = sagemem_alloc(heap, 100 << 20, 1);
    uint64_t truly = sagemem_size(first);
    sagemem_free(first);
    assert_int_equal(stats_of(heap).used_peak, truly);
    assert_int_equal(sagemem_scope_begin(heap, "keeps", 1), SAGEMEM_OK);
    void *kept = sagemem_alloc(heap, 30 << 20, 1);
    kept = sagemem_keep(kept);
    assert_non_null(kept);
    assert_non_null(sagemem_alloc(child, 50 << 20, 1));
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    peak_within_bound(heap, truly, 0, "a block kept beside a child");
    sagemem_heap_destroy(child);
    sagemem_heap_destroy(heap);
}

/* What a scope had is gone for those above, too, when another heap grows next. */
static void bound_of_a_parent_with_scopes(void **state) {
    (void)state;
    static const size_t sizes[] = {100 << 20, 1000};
    for (int i = 0; i < 2; i++) {
        sagemem_heap *parent = heap_new(0, NULL, 0), *one = heap_new(0, parent, 0), *other = heap_new(0, parent, 0);
        uint64_t truly = 0;
        assert_int_equal(sagemem_scope_begin(one, "forest", 1), SAGEMEM_OK);
        for (size_t bytes = 0; bytes < (size_t)(100 << 20); bytes += sizes[i]) {
            void *block = sagemem_alloc(one, sizes[i], 1);
            assert_non_null(block);
            truly += sagemem_size(block);
        }
        assert_int_equal(sagemem_scope_end(one), SAGEMEM_OK);
        void *block = sagemem_alloc(other, 90 << 20, 1);
        assert_non_null(block);
        uint64_t peak = stats_of(parent).used_peak;
        REQUIRE(peak <= truly, "blocks of %zu: the recorded peak %llu is above the true one %llu", sizes[i], UINT(peak),
                UINT(truly));
        sagemem_heap_destroy(other);
        sagemem_heap_destroy(one);
        sagemem_heap_destroy(parent);
    }
}

/* What another thread freed before the scope began is room again with the scope's first block. */
static void freed_elsewhere_before_a_scope(void **state) {
    (void)state;
    sagemem_heap *heap = heap_new(0, NULL, 0);
    for (int i = 0; i < 3; i++) {
        void *large = sagemem_alloc(heap, 64 << 20, 1);
        assert_non_null(large);
        if (i == 1) assert_int_equal(sagemem_scope_begin(heap, "open already", 1), SAGEMEM_OK);
        if (i == 1) assert_non_null(sagemem_alloc(heap, 100, 1));
        free_elsewhere(large);
        if (i != 1) assert_int_equal(sagemem_scope_begin(heap, "begun then", 1), SAGEMEM_OK);
        assert_non_null(sagemem_alloc(heap, 100, 1));
        uint64_t held = stats_of(heap).held;
        REQUIRE(held < 32 << 20, "case %d: %llu bytes are held", i, UINT(held));
        assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    }
    sagemem_heap_destroy(heap);
}

/* -- Totals ------------------------------------------------------------------------------------------------------ */

/* What ended heaps had stays in the totals above, also through a heap that had nothing of that tag itself. */
static void totals_outlive_heaps(void **state) {
    (void)state;
    sagemem_tag_stats before = tag_stats_of(NULL, 77);
    sagemem_heap *root = heap_new(0, NULL, 0), *middle = heap_new(0, root, 0), *leaf = heap_new(0, middle, 0);
    uint64_t bytes = 0;
    for (int i = 0; i < 100; i++) bytes += sagemem_size(sagemem_alloc(leaf, 1000, 77));
    sagemem_heap *each[] = {leaf, middle, root};
    for (int i = 0; i < 4; i++) {
        sagemem_tag_stats now = tag_stats_of(NULL, 77);
        REQUIRE(now.total_blocks == before.total_blocks + 100 && now.total_bytes == before.total_bytes + bytes,
                "after %d heaps have ended there were %llu blocks, not 100", i, UINT(now.total_blocks - before.total_blocks));
        if (i < 3) sagemem_heap_destroy(each[i]);
    }
}

/* realloc of blocks with mappings of their own: the address may change although nothing is copied. */
static void totals_of_large_blocks(void **state) {
    (void)state;
    sagemem_heap *heap = heap_new(0, NULL, 0);
    char *at = (char *)sagemem_alloc(heap, 20 << 20, 1);
    assert_non_null(at);
    at[0] = at[(20 << 20) - 1] = 'x';
    for (size_t size = 24 << 20; size <= 40 << 20; size += 4 << 20) {
        sagemem_tag_stats before = tag_stats_of(heap, 1);
        uint64_t was = sagemem_size(at);
        at = (char *)sagemem_realloc(heap, at, size, 1);
        assert_non_null(at);
        assert_true(at[0] == 'x' && at[(20 << 20) - 1] == 'x' && (uintptr_t)at % 64 == 0);
        sagemem_tag_stats after = tag_stats_of(heap, 1);
        uint64_t grown = after.total_bytes - before.total_bytes, now = sagemem_size(at);
        /* As one that grew, or, where the system or a tool wants a copy, as a new block. */
        assert_true((after.total_blocks == before.total_blocks && grown == now - was) ||
                    (after.total_blocks == before.total_blocks + 1 && grown == now));
        assert_int_equal(after.used, now);
    }
    sagemem_heap_destroy(heap);
}

/* -- Threads that touch a heap's blocks while its owner works ------------------------------------------------------ */

enum { RING = 64 };
static struct {
    _Atomic(char *) slot[RING];
    atomic_bool stop;
} ring;

static void *ring_free_main(void *ctx) {
    (void)ctx;
    for (bool stop = false; !stop;) {
        stop = atomic_load(&ring.stop); /* before the last look */
        for (int i = 0; i < RING; i++) {
            char *block = atomic_exchange(&ring.slot[i], NULL);
            if (block == NULL) continue;
            REQUIRE(sagemem_size(block) >= (unsigned char)block[0], "the block has shrunk");
            sagemem_free(block);
        }
        sched_yield();
    }
    return NULL;
}

/* The owner goes from chunk to chunk and from page to page while another thread gives the blocks back at once. */
static void freed_elsewhere_at_once(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM};
    for (int f = 0; f < 3; f++) {
        sagemem_heap *heap = heap_new(flags[f], NULL, 0);
        uint64_t count = 0, bytes = 0;
        pthread_t thread;
        atomic_store(&ring.stop, false);
        REQUIRE(pthread_create(&thread, NULL, ring_free_main, NULL) == 0, "no thread");
        for (unsigned i = 0; i < oracle_steps(30000, 3000); i++) {
            size_t size =
                chance_below(&luck, 4) == 0 ? 8193 + (size_t)chance_below(&luck, 20000) : 1 + (size_t)chance_below(&luck, 250);
            char *block = (char *)sagemem_alloc(heap, size, 5);
            assert_non_null(block);
            block[0] = 1;
            count++;
            bytes += sagemem_size(block);
            char *none = NULL;
            if (!atomic_compare_exchange_strong(&ring.slot[i % RING], &none, block)) sagemem_free(block);
        }
        atomic_store(&ring.stop, true);
        pthread_join(thread, NULL);
        sagemem_tag_stats tag = tag_stats_of(heap, 5);
        REQUIRE(tag.used == 0 && tag.blocks == 0 && tag.total_blocks == count && tag.total_bytes == bytes,
                "%llu bytes in %llu blocks are left", UINT(tag.used), UINT(tag.blocks));
        assert_int_equal(sagemem_heap_check(heap), 0);
        sagemem_heap_destroy(heap);
    }
}

/* Blocks of an outer scope are freed elsewhere while an inner scope with live blocks ends. */
static void freed_elsewhere_while_scopes_end(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM};
    for (int f = 0; f < 3; f++) {
        sagemem_heap *heap = heap_new(flags[f], NULL, 0);
        pthread_t thread;
        atomic_store(&ring.stop, false);
        REQUIRE(pthread_create(&thread, NULL, ring_free_main, NULL) == 0, "no thread");
        for (unsigned i = 0; i < oracle_steps(6000, 600); i++) {
            char *block = (char *)sagemem_alloc(heap, 100, 5);
            assert_non_null(block);
            block[0] = 1;
            assert_int_equal(sagemem_scope_begin(heap, "short", i), SAGEMEM_OK);
            char *none = NULL;
            if (!atomic_compare_exchange_strong(&ring.slot[i % RING], &none, block)) sagemem_free(block);
            for (int k = 0; k < 3; k++) assert_non_null(sagemem_alloc(heap, 200, 5));
            assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
        }
        atomic_store(&ring.stop, true);
        pthread_join(thread, NULL);
        sagemem_tag_stats tag = tag_stats_of(heap, 5);
        REQUIRE(tag.used == 0 && tag.blocks == 0, "%llu bytes in %llu blocks are left", UINT(tag.used), UINT(tag.blocks));
        sagemem_heap_destroy(heap);
    }
}

/* -- Limits ------------------------------------------------------------------------------------------------------ */

enum { CLIMBERS = 5 };
static struct {
    sagemem_heap *parent;
    uint64_t parent_limit, process_limit;
    atomic_bool stop;
    atomic_uint failed;
} climb;

static void *climber_main(void *ctx) {
    chance c = {*(uint64_t *)ctx};
    enum { HAVE = 200 };
    void *have[HAVE] = {NULL};
    sagemem_heap *heap = heap_new(0, climb.parent, 0);
    for (unsigned i = 0; i < oracle_steps(20000, 2000); i++) {
        int k = (int)chance_below(&c, HAVE);
        if (have[k] != NULL && chance_below(&c, 3) == 0) {
            sagemem_free(have[k]);
            have[k] = NULL;
        } else if (have[k] == NULL) {
            size_t size = chance_size(&c);
            have[k] = sagemem_alloc(heap, size, 3);
            if (have[k] != NULL) continue;
            REQUIRE(sagemem_last_error()->status == SAGEMEM_E_LIMIT, "another failure");
            atomic_fetch_add(&climb.failed, 1);
            /* With half of it given back the same call may be made again. */
            for (int j = 0; j < HAVE; j += 2) {
                sagemem_free(have[j]);
                have[j] = NULL;
            }
        }
    }
    uint64_t used = 0, count = 0;
    for (int k = 0; k < HAVE; k++)
        if (have[k] != NULL) {
            used += sagemem_size(have[k]);
            count++;
        }
    sagemem_heap_stats stats = stats_of(heap);
    REQUIRE(stats.used == used && stats.blocks == count, "failures were counted: %llu bytes, not %llu", UINT(stats.used),
            UINT(used));
    sagemem_heap_destroy(heap);
    return NULL;
}

static void *climb_observer_main(void *ctx) {
    (void)ctx;
    while (!atomic_load(&climb.stop)) {
        sagemem_heap_stats of_parent = stats_of(climb.parent), of_process = stats_of(NULL);
        REQUIRE(of_parent.held <= climb.parent_limit && of_parent.held_peak <= climb.parent_limit, "the parent holds %llu of %llu",
                UINT(of_parent.held_peak), UINT(climb.parent_limit));
        REQUIRE(of_process.held <= climb.process_limit, "the process holds %llu of %llu", UINT(of_process.held),
                UINT(climb.process_limit));
        sched_yield();
    }
    return NULL;
}

static void limits_are_never_overshot(void **state) {
    (void)state;
    (void)sagemem_trim();
    for (int by_process = 0; by_process < 2; by_process++) {
        climb.parent_limit = 6 << 20;
        climb.process_limit = stats_of(NULL).held + (by_process ? 3u << 20 : 64u << 20);
        climb.parent = heap_new(0, NULL, climb.parent_limit);
        assert_int_equal(sagemem_limit_set(NULL, climb.process_limit), SAGEMEM_OK);
        atomic_store(&climb.stop, false);
        atomic_store(&climb.failed, 0);
        pthread_t observer, thread[CLIMBERS];
        uint64_t seed[CLIMBERS];
        REQUIRE(pthread_create(&observer, NULL, climb_observer_main, NULL) == 0, "no thread");
        for (int i = 0; i < CLIMBERS; i++) {
            seed[i] = chance_next(&luck);
            REQUIRE(pthread_create(&thread[i], NULL, climber_main, &seed[i]) == 0, "no thread");
        }
        for (int i = 0; i < CLIMBERS; i++) pthread_join(thread[i], NULL);
        atomic_store(&climb.stop, true);
        pthread_join(observer, NULL);
        assert_true(atomic_load(&climb.failed) > 0);
        assert_int_equal(stats_of(climb.parent).held, 0);
        assert_int_equal(sagemem_limit_set(NULL, 0), SAGEMEM_OK);
        sagemem_heap_destroy(climb.parent);
    }
}

/* Everything claimed under a process limit can be taken: small pages, chunks, blocks with pages of their own, and the
 * library's own structures for them. */
static void reserve_is_a_promise(void **state) {
    (void)state;
    const uint64_t claim = 48 << 20;
    static const size_t sizes[] = {8000, 60000, 1 << 20};
    for (int s = 0; s < 3; s++) {
        sagemem_heap *heap = heap_new(0, NULL, 0), *other = heap_new(0, NULL, 0);
        (void)sagemem_trim();
        assert_int_equal(sagemem_limit_set(NULL, stats_of(NULL).held + claim + (4 << 20)), SAGEMEM_OK);
        assert_int_equal(sagemem_reserve(heap, claim), SAGEMEM_OK);
        assert_int_equal(stats_of(heap).reserved, claim);
        assert_int_equal(stats_of(heap).held, claim);
        /* Somebody else takes all that is not claimed. */
        for (size_t size = 1 << 20; size > 4000; size /= 2)
            while (sagemem_alloc(other, size, 1) != NULL) {
            }
        assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_LIMIT);
        /* 7 of 8 parts: what page sizes round up is not the budget's fault. */
        for (uint64_t used = 0; used < claim / 8 * 7; used += sizes[s])
            REQUIRE(sagemem_alloc(heap, sizes[s], (sagemem_tag)(used / sizes[s] % 40)) != NULL,
                    "%llu bytes of %llu, in blocks of %zu", UINT(used), UINT(claim), sizes[s]);
        assert_true(stats_of(heap).held <= claim);
        assert_int_equal(sagemem_limit_set(NULL, 0), SAGEMEM_OK);
        assert_int_equal(sagemem_reserve(heap, 0), SAGEMEM_OK);
        assert_int_equal(stats_of(heap).reserved, 0);
        sagemem_heap_destroy(heap);
        sagemem_heap_destroy(other);
    }
}

/* What cannot be claimed changes nothing. */
static void reserve_that_fails(void **state) {
    (void)state;
    sagemem_heap *parent = heap_new(0, NULL, 8 << 20), *heap = heap_new(0, parent, 0);
    assert_int_equal(sagemem_reserve(heap, 2 << 20), SAGEMEM_OK);
    sagemem_heap_stats before = stats_of(heap), above = stats_of(parent);
    assert_int_equal(sagemem_reserve(heap, 9 << 20), SAGEMEM_E_LIMIT);
    sagemem_heap_stats after = stats_of(heap), above_after = stats_of(parent);
    assert_true(before.held == after.held && before.reserved == after.reserved && above.held == above_after.held);
    assert_int_equal(sagemem_reserve(heap, 1 << 20), SAGEMEM_OK);
    assert_int_equal(stats_of(parent).held, 1 << 20);
    sagemem_heap_destroy(heap);
    assert_int_equal(stats_of(parent).held, 0);
    sagemem_heap_destroy(parent);
}

static void scope_limit_holds(void **state) {
    (void)state;
    sagemem_heap *heap = heap_new(0, NULL, 0);
    assert_int_equal(sagemem_scope_limit(heap, 1 << 20), SAGEMEM_E_ARGUMENT);
    void *before = sagemem_alloc(heap, 3 << 20, 1); /* not the scope's: not under its limit */
    assert_int_equal(sagemem_scope_begin(heap, "limited", 1), SAGEMEM_OK);
    assert_int_equal(sagemem_scope_limit(heap, 1 << 20), SAGEMEM_OK);
    assert_int_equal(sagemem_scope_begin(heap, "inner", 2), SAGEMEM_OK);
    uint64_t got = 0;
    while (sagemem_alloc(heap, 10000, 1) != NULL) got += 10000;
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_LIMIT);
    assert_true(got > 700000 && got < 1 << 20);
    assert_null(sagemem_alloc(heap, 1 << 20, 1));
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_non_null(sagemem_alloc(heap, 10000, 1)); /* the inner one's are free again */
    assert_int_equal(sagemem_scope_limit(heap, 0), SAGEMEM_OK);
    assert_non_null(sagemem_alloc(heap, 4 << 20, 1));
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    sagemem_scope_stats last;
    assert_int_equal(sagemem_scope_get_last(heap, &last), SAGEMEM_OK);
    assert_true(last.held_peak > 4 << 20);
    sagemem_free(before);
    sagemem_heap_destroy(heap);
}

/* -- Reclaimers ----------------------------------------------------------------------------------------------------- */

static struct {
    sagemem_heap *heap;
    void *cache[3];
    int order[16], calls;
} reclaims;

/* Locks are free: it allocates, frees, reads statistics, opens a scope, and even meets the limit itself. */
static uint64_t reclaim(void *ctx, uint64_t wanted) {
    int which = (int)(intptr_t)ctx;
    (void)wanted;
    reclaims.order[reclaims.calls++] = which;
    void *small = sagemem_alloc(NULL, 100, 9);
    assert_non_null(small);
    sagemem_free(small);
    assert_null(sagemem_alloc(reclaims.heap, 64 << 20, 9)); /* the chain is not entered again */
    sagemem_heap *own = heap_new(0, NULL, 0);
    sagemem_heap_destroy(own);
    (void)stats_of(NULL);
    void *cached = reclaims.cache[which];
    reclaims.cache[which] = NULL;
    uint64_t size = cached != NULL ? sagemem_size(cached) : 0;
    sagemem_free(cached);
    return size;
}

static void reclaimers_in_order(void **state) {
    (void)state;
    reclaims.heap = heap_new(0, NULL, 8 << 20);
    reclaims.calls = 0;
    for (int i = 0; i < 3; i++) assert_non_null(reclaims.cache[i] = sagemem_alloc(reclaims.heap, 2 << 20, 1));
    assert_int_equal(sagemem_reclaimer_add("second", 5, reclaim, (void *)1), SAGEMEM_OK);
    assert_int_equal(sagemem_reclaimer_add("third", 9, reclaim, (void *)2), SAGEMEM_OK);
    assert_int_equal(sagemem_reclaimer_add("first", -1, reclaim, NULL), SAGEMEM_OK);
    assert_non_null(sagemem_alloc(reclaims.heap, 3 << 20, 1)); /* one cache has to go */
    assert_int_equal(reclaims.calls, 1);
    assert_int_equal(reclaims.order[0], 0);
    assert_non_null(sagemem_alloc(reclaims.heap, 4 << 20, 1)); /* the first has nothing left, both others go */
    assert_int_equal(reclaims.calls, 4);
    for (int i = 0; i < 3; i++) assert_int_equal(reclaims.order[1 + i], i);
    assert_null(sagemem_alloc(reclaims.heap, 4 << 20, 1));
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_LIMIT);
    assert_int_equal(reclaims.calls, 7);
    static const char *const names[] = {"first", "second", "third"};
    for (int i = 0; i < 3; i++) assert_int_equal(sagemem_reclaimer_remove(names[i]), SAGEMEM_OK);
    assert_int_equal(sagemem_reclaimer_remove("first"), SAGEMEM_E_NOT_FOUND);
    sagemem_heap_destroy(reclaims.heap);
}

/* keep needs room outside of the scope: the chain makes some, as for any other allocation. */
static void reclaimers_help_keep(void **state) {
    (void)state;
    reclaims.heap = heap_new(0, NULL, 3 << 20);
    reclaims.calls = 0;
    assert_non_null(reclaims.cache[0] = sagemem_alloc(reclaims.heap, 2 << 20, 1));
    assert_int_equal(sagemem_reclaimer_add("only", 0, reclaim, NULL), SAGEMEM_OK);
    assert_int_equal(sagemem_scope_begin(reclaims.heap, "kept", 1), SAGEMEM_OK);
    void *block = NULL, *last;
    while (reclaims.calls == 0 && (last = sagemem_alloc(reclaims.heap, 200000, 1)) != NULL) {
        if (stats_of(reclaims.heap).held > (3 << 20) - 220000) {
            block = last;
            break;
        }
    }
    assert_non_null(block);
    assert_int_equal(reclaims.calls, 0);
    assert_non_null(sagemem_keep(block));
    assert_int_equal(reclaims.calls, 1);
    assert_int_equal(sagemem_reclaimer_remove("only"), SAGEMEM_OK);
    sagemem_heap_destroy(reclaims.heap);
}

/* -- Failures on purpose ---------------------------------------------------------------------------------------------- */

/* A failed call has changed nothing: neither the counters nor, of these, what is held. */
static void unchanged(const sagemem_heap *heap, const sagemem_heap_stats *before, const char *call) {
    sagemem_heap_stats now = stats_of(heap);
    REQUIRE(sagemem_last_error()->status == SAGEMEM_E_NOMEM, "%s fails with %s", call,
            sagemem_status_name(sagemem_last_error()->status));
    REQUIRE(now.used == before->used && now.blocks == before->blocks && now.scopes == before->scopes &&
                now.reserved == before->reserved && now.total_blocks == before->total_blocks && now.held <= before->held,
            "%s failed and left used %llu (was %llu), blocks %llu (%llu), held %llu (%llu), reserved %llu (%llu)", call,
            UINT(now.used), UINT(before->used), UINT(now.blocks), UINT(before->blocks), UINT(now.held), UINT(before->held),
            UINT(now.reserved), UINT(before->reserved));
}

typedef struct failing {
    uint32_t flags;
    uint64_t reserve;
    unsigned tag; /* a new one each time, so that its records have to be made */
} failing;

/* TRY: the step succeeded, or it failed and nothing has changed; then the run ends. */
#define TRY(expression, call)                                                                                                      \
    do {                                                                                                                           \
        sagemem_heap_stats before = stats_of(heap);                                                                                \
        (void)sagemem_scope_get_last(fresh, &last); /* an older failure of another kind must not be taken for this one */          \
        if (!(expression)) {                                                                                                       \
            unchanged(heap, &before, call);                                                                                        \
            goto end;                                                                                                              \
        }                                                                                                                          \
    } while (0)

static void cleanup_counts(void *ctx) { ++*(int *)ctx; }

static sagemem_status every_call(void *ctx) {
    failing *f = (failing *)ctx;
    sagemem_heap_stats start = stats_of(NULL);
    sagemem_scope_stats last;
    sagemem_status status = SAGEMEM_E_NOMEM;
    int cleanups = 0, deferred = 0;
    char *block[4] = {NULL, NULL, NULL, NULL};
    /* Large enough for a mapping of its own, where nothing fills or copies it. */
    size_t large = f->flags == 0 ? 18 << 20 : 500000;
    f->tag = f->tag < 4000 ? f->tag + 17 : 130;
    sagemem_tag tag = (sagemem_tag)f->tag;
    sagemem_heap_desc desc = {0};
    desc.flags = f->flags;
    sagemem_heap *heap = sagemem_heap_create(&desc), *fresh = heap, *child = NULL;
    if (heap == NULL) return sagemem_last_error()->status;
    if (f->reserve > 0) TRY(sagemem_reserve(heap, f->reserve) == SAGEMEM_OK, "reserve");
    TRY(block[0] = (char *)sagemem_alloc(heap, 100, tag), "alloc");
    memset(block[0], 'a', 100);
    TRY(block[1] = (char *)sagemem_calloc(heap, 300, 100, tag), "calloc");
    TRY(block[2] = (char *)sagemem_aligned_alloc(heap, 4096, 300000, tag), "aligned_alloc");
    TRY(block[3] = sagemem_strdup(heap, "text", tag), "strdup");
    TRY(sagemem_memdup(heap, "data", 4, tag), "memdup");
    TRY(sagemem_alloc_array(heap, large, 1, tag), "alloc_array");
    for (int i = 0; i < 3; i++) {
        const size_t sizes[] = {9000, 300000, large};
        size_t keep = i == 0 ? 100 : 9000;
        char *moved;
        TRY(moved = (char *)sagemem_realloc(heap, block[0], sizes[i], SAGEMEM_TAG_SAME), "realloc");
        block[0] = moved;
        for (size_t k = 0; k < keep && k < 100; k++) REQUIRE(block[0][k] == 'a', "not after a failure");
    }
    char *moved;
    TRY(moved = (char *)sagemem_realloc(heap, block[0], large + (2 << 20), SAGEMEM_TAG_SAME), "realloc of a mapping");
    block[0] = moved;
    TRY(moved = (char *)sagemem_realloc(heap, block[3], 10, (sagemem_tag)(tag + 16)), "realloc with another tag");
    block[3] = moved;
    REQUIRE(strcmp(block[3], "text") == 0, "contents are lost");
    desc.parent = heap;
    TRY(child = sagemem_heap_create(&desc), "heap_create");
    TRY(moved = (char *)sagemem_move(child, block[3]), "move");
    block[3] = moved;
    REQUIRE(strcmp(block[3], "text") == 0, "contents are lost");
    TRY(sagemem_scope_begin(heap, "fails", 1) == SAGEMEM_OK, "scope_begin");
    TRY(sagemem_scope_defer(heap, cleanup_counts, &cleanups) == SAGEMEM_OK, "scope_defer");
    deferred = 1;
    TRY(moved = (char *)sagemem_alloc(heap, 50, tag), "alloc in a scope");
    TRY(sagemem_scope_begin(heap, "within", 2) == SAGEMEM_OK, "scope_begin");
    for (int i = 0; i < 2; i++) {
        char *inner, *kept;
        TRY(inner = (char *)sagemem_alloc(heap, i == 0 ? 70000 : 400000, tag), "alloc in a scope");
        inner[69999] = 'k';
        TRY(kept = (char *)sagemem_keep(inner), "keep");
        REQUIRE(kept[69999] == 'k', "not after a failure");
    }
    TRY(sagemem_allocator_for(heap, tag).alloc_fn != NULL, "allocator_for");
    REQUIRE(sagemem_scope_end(heap) == SAGEMEM_OK, "not after a failure");
    REQUIRE(sagemem_scope_end(heap) == SAGEMEM_OK, "not after a failure");
    REQUIRE(cleanups == 1, "%d clean-ups ran", cleanups);
    status = SAGEMEM_OK;
end:
    if (child != NULL) sagemem_heap_destroy(child);
    sagemem_heap_destroy(heap);
    REQUIRE(cleanups == deferred, "%d clean-ups ran", cleanups);
    sagemem_heap_stats now = stats_of(NULL);
    REQUIRE(now.used == start.used && now.blocks == start.blocks, "%llu bytes in %llu blocks leaked", UINT(now.used - start.used),
            UINT(now.blocks - start.blocks));
    return status;
}

static void every_failure_changes_nothing(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_ZERO, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED};
    for (int reserve = 0; reserve < 2; reserve++)
        for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
            failing f = {flags[i], reserve ? 64 << 20 : 0, 0};
            uint64_t points = 0;
            assert_int_equal(sagemem_check_failures(every_call, &f, &points), SAGEMEM_OK);
            assert_true(points > 10);
        }
    sagemem_heap_stats stats = stats_of(NULL);
    REQUIRE(stats.used_peak < (uint64_t)1 << 40, "the peak is %llu", UINT(stats.used_peak));
    assert_int_equal(composition_of(NULL), stats.used_peak);
}

/* The library's own structures meet the process limit too, at the worst moments. Later all adds up again. */
static void peaks_survive_a_full_process(void **state) {
    (void)state;
    enum { HEAPS = 40, COUNT = 250 };
    static void *block[HEAPS][COUNT];
    sagemem_heap *heap[HEAPS];
    uint64_t truly = 0;
    int heaps = 0, failed = 0;
    for (int h = 0; h < HEAPS; h++) {
        heap[h] = heap_new(0, NULL, 0);
        truly += sagemem_size(sagemem_alloc(heap[h], 16, 1)); /* from its page come the others */
    }
    truly += stats_of(NULL).used_peak;
    assert_int_equal(sagemem_limit_set(NULL, stats_of(NULL).held), SAGEMEM_OK);
    /* Heap after heap needs records for every tag, until no more can be made. */
    for (; heaps < HEAPS && failed == 0; heaps++)
        for (int i = 0; i < COUNT; i++) {
            block[heaps][i] = sagemem_alloc(heap[heaps], 16, (sagemem_tag)(i * 16 + 5));
            if (block[heaps][i] != NULL) truly += sagemem_size(block[heaps][i]);
            else failed++;
        }
    assert_true(failed > 0);
    (void)stats_of(NULL); /* what the process is told now, it may have no room to note */
    assert_int_equal(sagemem_limit_set(NULL, 0), SAGEMEM_OK);
    while (heaps-- > 0)
        for (int i = 0; i < COUNT; i++) sagemem_free(block[heaps][i]);
    sagemem_heap_stats stats = stats_of(NULL);
    REQUIRE(stats.used_peak <= truly, "the peak is %llu, there never were more than %llu", UINT(stats.used_peak), UINT(truly));
    for (int i = 0; i < COUNT; i++) {
        sagemem_tag_stats tag = tag_stats_of(NULL, (sagemem_tag)(i * 16 + 5));
        REQUIRE(tag.peak < (uint64_t)1 << 40, "the peak of tag %d is %llu", i * 16 + 5, UINT(tag.peak));
    }
    assert_int_equal(composition_of(NULL), stats.used_peak);
    for (int h = 0; h < HEAPS; h++) sagemem_heap_destroy(heap[h]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(peaks_of_scopes, begin),
        cmocka_unit_test_setup(peaks_of_checked_heaps, begin),
        cmocka_unit_test_setup(peak_of_growth_in_place, begin),
        cmocka_unit_test_setup(bound_with_small_blocks, begin),
        cmocka_unit_test_setup(bound_with_one_large_block, begin),
        cmocka_unit_test_setup(bound_with_holes_in_chunks, begin),
        cmocka_unit_test_setup(bound_with_blocks_kept, begin),
        cmocka_unit_test_setup(bound_of_a_parent_with_a_block_kept, begin),
        cmocka_unit_test_setup(bound_of_a_parent_with_scopes, begin),
        cmocka_unit_test_setup(freed_elsewhere_before_a_scope, begin),
        cmocka_unit_test_setup(totals_outlive_heaps, begin),
        cmocka_unit_test_setup(totals_of_large_blocks, begin),
        cmocka_unit_test_setup(freed_elsewhere_at_once, begin),
        cmocka_unit_test_setup(freed_elsewhere_while_scopes_end, begin),
        cmocka_unit_test_setup(limits_are_never_overshot, begin),
        cmocka_unit_test_setup(reserve_is_a_promise, begin),
        cmocka_unit_test_setup(reserve_that_fails, begin),
        cmocka_unit_test_setup(scope_limit_holds, begin),
        cmocka_unit_test_setup(reclaimers_in_order, begin),
        cmocka_unit_test_setup(reclaimers_help_keep, begin),
        cmocka_unit_test_setup(every_failure_changes_nothing, begin),
        cmocka_unit_test_setup(peaks_survive_a_full_process, begin),
    };
    /* SAGEMEM_ONLY: one test by a part of its name. */
    const char *only = getenv("SAGEMEM_ONLY");
    if (only != NULL) cmocka_set_test_filter(only);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
