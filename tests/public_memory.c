/* Memory goes back to the system: what the system says of it, and when the library asks for that. Through the public interface.
 *
 * The program has its own madvise and munmap, which count: the library, linked statically, calls these. */
#include "public.h"

#include <sys/syscall.h>

static bool watched(void) { return UNDER_ASAN || on_valgrind(); }

static struct { uint64_t advised, unmapped, bytes; /* calls that give pages back, and their bytes */ } calls;
#ifdef __linux__
int madvise(void *at, size_t size, int advice) {
    if (advice == MADV_DONTNEED || advice == MADV_REMOVE) {
        calls.advised++;
        calls.bytes += size;
    }
    return (int)syscall(SYS_madvise, at, size, advice);
}
int munmap(void *at, size_t size) {
    calls.unmapped++;
    calls.bytes += size;
    return (int)syscall(SYS_munmap, at, size);
}
enum { COUNTS_CALLS = 1 };
#else
enum { COUNTS_CALLS = 0 };
#endif
static void forget_calls(void) { memset(&calls, 0, sizeof calls); }
static uint64_t calls_made(void) { return calls.advised + calls.unmapped; }

/* Bytes in memory; 0: the system does not tell. */
static size_t resident(void) {
    unsigned long pages = 0, total = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL) return 0;
    if (fscanf(file, "%lu %lu", &total, &pages) != 2) pages = 0;
    fclose(file);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}
#define SKIP_UNLESS(condition, why)                                                                                                \
    do {                                                                                                                           \
        if (!(condition)) {                                                                                                        \
            print_message("skipped: %s\n", why);                                                                                   \
            skip();                                                                                                                \
        }                                                                                                                          \
    } while (0)
#define SKIP_UNLESS_TOLD()                                                                                                         \
    do {                                                                                                                           \
        SKIP_UNLESS(!watched(), "under a tool that watches memory, what is resident is the tool's");                               \
        SKIP_UNLESS(resident() != 0, "the system does not tell what is resident");                                                 \
    } while (0)

static int faults;
static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    fprintf(stderr, "fault: %s\n", error->message);
    faults++;
}
static uint64_t seed;
/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t chance(void) {
    uint64_t z = (seed += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
static int setup(void **state) {
    (void)state;
    const char *given = getenv("SAGEMEM_SEED");
    seed = given != NULL ? strtoull(given, NULL, 0) : 20261121u;
    print_message("seed: %llu (SAGEMEM_SEED sets it)\n", (unsigned long long)seed);
    faults = 0;
    sagemem_set_fault_handler(on_fault, NULL);
    sagemem_trim();
    return 0;
}

static sagemem_heap *heap_of(uint32_t flags, uint32_t purge_delay_ms, const sagemem_source *source) {
    sagemem_heap_desc desc = {0};
    desc.flags = flags;
    desc.purge_delay_ms = purge_delay_ms;
    desc.source = source;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    return heap;
}
static sagemem_heap_stats stats_of(const sagemem_heap *heap) {
    sagemem_heap_stats s;
    assert_int_equal(sagemem_heap_get_stats(heap, &s), SAGEMEM_OK);
    return s;
}

/* Blocks of one size, 16 MiB of them, all written to; the table of them is not the library's. */
enum { FILLED = 16 * MIB, SLACK = 5 * MIB }; /* slack: what a heap may keep, structures of pages */
typedef struct filling {
    void **block;
    size_t count, size;
} filling;
static filling fill(sagemem_heap *heap, size_t size) {
    filling f = {NULL, FILLED / size + 1, size};
    f.block = malloc(f.count * sizeof *f.block);
    assert_non_null(f.block);
    for (size_t i = 0; i < f.count; i++) {
        f.block[i] = sagemem_alloc(heap, size, (sagemem_tag)(i % 3));
        assert_non_null(f.block[i]);
        memset(f.block[i], 1, size);
    }
    return f;
}
static const size_t sizes[] = {64, 700, 20000, 200000, 300000, 3 * MIB, 17 * MIB};
#define SIZES (sizeof sizes / sizeof sizes[0])

/* -- Resident memory ------------------------------------------------------------------------------------ */

static const uint32_t kinds[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SHARED, SAGEMEM_HEAP_ZERO};
#define KINDS (sizeof kinds / sizeof kinds[0])

static void assert_filled(size_t before) {
    if (resident() < before + FILLED - MIB) fail_msg("%zu bytes resident, %zu before filling", resident(), before);
}
static void assert_fallen(size_t before, size_t size, const char *after) {
    if (resident() > before + SLACK)
        fail_msg("blocks of %zu bytes: %zu bytes are resident after %s, %zu before", size, resident(), after, before);
}

static void resident_falls_after_a_scope(void **state) {
    (void)state;
    SKIP_UNLESS_TOLD();
    for (size_t k = 0; k < KINDS; k++) {
        sagemem_heap *heap = heap_of(kinds[k], (uint32_t)SAGEMEM_PURGE_NEVER, NULL);
        for (size_t i = k % 2; i < SIZES; i += 2) {
            sagemem_trim();
            size_t before = resident();
            assert_int_equal(sagemem_scope_begin(heap, "filled", i), SAGEMEM_OK);
            filling f = fill(heap, sizes[i]);
            assert_filled(before);
            assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
            free(f.block);
            assert_true(sagemem_trim() >= FILLED / 2);
            assert_fallen(before, sizes[i], "the scope and a trim");
        }
        sagemem_heap_destroy(heap);
    }
    assert_int_equal(faults, 0);
}

static void resident_falls_after_a_heap(void **state) {
    (void)state;
    SKIP_UNLESS_TOLD();
    for (size_t k = 0; k < KINDS; k++)
        for (size_t i = k % 2; i < SIZES; i += 2)
            for (int reset = 0; reset < 2; reset++) {
                sagemem_trim();
                size_t before = resident();
                sagemem_heap *heap = heap_of(kinds[k], (uint32_t)SAGEMEM_PURGE_NEVER, NULL);
                filling f = fill(heap, sizes[i]);
                assert_filled(before);
                if (reset) sagemem_heap_reset(heap);
                else sagemem_heap_destroy(heap);
                free(f.block);
                sagemem_trim();
                assert_fallen(before, sizes[i], reset ? "reset and a trim" : "destroy and a trim");
                if (reset) sagemem_heap_destroy(heap);
            }
    assert_int_equal(faults, 0);
}

/* A heap that is asked to keep nothing does not need the trim, but the end of one of its scopes waits for the next page. */
static void resident_falls_at_once_where_asked(void **state) {
    (void)state;
    SKIP_UNLESS_TOLD();
    for (size_t i = 0; i < SIZES; i++) {
        size_t before = resident();
        sagemem_heap *heap = heap_of(0, (uint32_t)SAGEMEM_PURGE_NOW, NULL);
        filling f = fill(heap, sizes[i]);
        for (size_t b = 0; b < f.count; b++) sagemem_free(f.block[b]);
        free(f.block);
        assert_fallen(before, sizes[i], "every free");
        assert_int_equal(sagemem_scope_begin(heap, "filled", i), SAGEMEM_OK);
        f = fill(heap, sizes[i]);
        assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
        free(f.block);
        sagemem_free(sagemem_alloc(heap, 300000, 0));
        assert_fallen(before, sizes[i], "the scope and one more page");
        f = fill(heap, sizes[i]);
        sagemem_heap_destroy(heap);
        free(f.block);
        assert_fallen(before, sizes[i], "destroy");
    }
}

/* Frees four blocks in five: any, or the ones that were allocated first. The table is the caller's to free. */
static void free_four_fifths(filling *f, bool any) {
    size_t keep = f->count / 5;
    for (size_t left = f->count; left > keep; left--) {
        size_t i = any ? (size_t)(chance() % left) : f->count - left;
        sagemem_free(f->block[i]);
        f->block[i] = any ? f->block[left - 1] : NULL;
        if (any) f->block[left - 1] = NULL;
    }
}

/* A page goes when no block is left in it, so of small blocks that go at random nothing need fall: one in five is in every
 * page. From some system pages on, what lies between the blocks that are left goes. In a scope small ones wait for its end. */
static void resident_falls_when_four_fifths_are_freed(void **state) {
    (void)state;
    SKIP_UNLESS_TOLD();
    for (size_t i = 0; i < SIZES; i++)
        for (int any = 0; any < 2; any++)
            for (size_t k = 0; k < 2; k++) {
                if ((any || k) && sizes[i] < 20000) continue;
                sagemem_heap *heap = heap_of(0, (uint32_t)SAGEMEM_PURGE_NEVER, NULL);
                sagemem_trim();
                size_t before = resident();
                if (k) assert_int_equal(sagemem_scope_begin(heap, "filled", i), SAGEMEM_OK);
                filling f = fill(heap, sizes[i]);
                assert_filled(before);
                free_four_fifths(&f, any);
                sagemem_trim();
                before += f.count * sizeof *f.block;
                assert_fallen(before + FILLED * 3 / 10, sizes[i], any ? "freeing at random" : "freeing the oldest");
                assert_int_equal(sagemem_heap_check(heap), 0);
                for (size_t b = 0; b < f.count; b++) {
                    if (f.block[b] == NULL) continue;
                    for (size_t at = 0; at < f.size; at += 509) assert_int_equal(((char *)f.block[b])[at], 1);
                    sagemem_free(f.block[b]);
                }
                free(f.block);
                if (k) assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
                assert_int_equal(stats_of(heap).used, 0);
                sagemem_heap_destroy(heap);
            }
    assert_int_equal(faults, 0);
}

/* What goes from inside free blocks is zero afterwards, or lost: neither may show, whatever the heap does with it next. */
static void trim_between_random_use_changes_nothing(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_ZERO, SAGEMEM_HEAP_SITES};
    enum { SLOTS = 60 };
    int steps = getenv("SAGEMEM_TEST_SLOW") != NULL ? 60 : 600;
    for (size_t k = 0; k < sizeof flags / sizeof flags[0]; k++) {
        sagemem_heap *heap = heap_of(flags[k], 0, NULL);
        struct {
            unsigned char *block, byte;
            size_t size;
        } slot[SLOTS];
        memset(slot, 0, sizeof slot);
        for (int step = 0; step < steps; step++) {
            size_t i = (size_t)(chance() % SLOTS), size = (size_t)(chance() % 100000);
            for (size_t b = 0; b < slot[i].size; b++) assert_int_equal(slot[i].block[b], slot[i].byte);
            bool move = chance() % 3 == 0;
            if (!move) sagemem_free(slot[i].block);
            slot[i].block = move ? sagemem_realloc(heap, slot[i].block, size, 1) : sagemem_alloc(heap, size, 1);
            assert_non_null(slot[i].block);
            for (size_t b = 0; flags[k] == SAGEMEM_HEAP_ZERO && !move && b < size; b++) assert_int_equal(slot[i].block[b], 0);
            slot[i].size = size;
            slot[i].byte = (unsigned char)chance();
            memset(slot[i].block, slot[i].byte, size);
            if (step % 50 == 0) sagemem_trim();
            if (step % 150 == 0) assert_int_equal(sagemem_heap_check(heap), 0);
        }
        for (int i = 0; i < SLOTS; i++) sagemem_free(slot[i].block);
        assert_int_equal(sagemem_heap_check(heap), 0);
        sagemem_heap_destroy(heap);
    }
    assert_int_equal(faults, 0);
}

/* -- When the system is asked --------------------------------------------------------------------------- */

static void *freed_in_the_end;
static void free_it(void *ctx) {
    (void)ctx;
    sagemem_free(freed_in_the_end);
}
static void *free_all(void *filled) {
    filling *f = filled;
    for (size_t i = 0; i < f->count; i++) sagemem_free(f->block[i]);
    sagemem_trim(); /* the heap is another thread's: that one does its part later */
    return NULL;
}

/* Blocks of every kind, 4 MiB of each, in the scope and, before it, in the heap; an array with addresses set aside. */
static void fill_scope(sagemem_heap *heap, sagemem_array *array) {
    assert_int_equal(sagemem_scope_begin(heap, "filled", 0), SAGEMEM_OK);
    for (size_t i = 0; i < SIZES; i++)
        for (size_t n = 4 * MIB / sizes[i] + 1; n > 0; n--) assert_non_null(sagemem_alloc(heap, sizes[i], 1));
    sagemem_array_desc desc = {0};
    desc.heap = heap;
    desc.element_size = 1;
    desc.stable_max = 64 * MIB;
    assert_int_equal(sagemem_array_init(array, &desc), SAGEMEM_OK);
    assert_int_equal(sagemem_array_resize(array, 5 * MIB), SAGEMEM_OK);
    freed_in_the_end = sagemem_alloc(heap, 18 * MIB, 1); /* by a clean-up: that is inside, too */
    assert_int_equal(sagemem_scope_defer(heap, free_it, NULL), SAGEMEM_OK);
}

/* Whatever is due then: the delay over, blocks that another thread has freed, a trim that it wants. */
static void end_quietly(uint32_t flags, uint32_t purge_delay_ms, const sagemem_source *source) {
    sagemem_heap *heap = heap_of(flags, purge_delay_ms, source);
    for (int round = 0; round < 2; round++) {
        filling f = {NULL, 200, 20000};
        f.block = malloc(f.count * sizeof *f.block);
        assert_non_null(f.block);
        for (size_t i = 0; i < f.count; i++) assert_non_null(f.block[i] = sagemem_alloc(heap, i % 2 ? 300000 : 20000, 1));
        sagemem_array array;
        fill_scope(heap, &array);
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, free_all, &f), 0);
        pthread_join(thread, NULL);
        usleep(20000);
        forget_calls();
        assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
        if (calls_made() != 0)
            fail_msg("flags %u, delay %d: the end of a scope gave back %" PRIu64 " bytes in %" PRIu64 " calls", flags,
                     (int)purge_delay_ms, calls.bytes, calls_made());
        free(f.block);
        sagemem_free(sagemem_alloc(heap, 400000, 1)); /* the next pages: what is due goes */
        assert_true(calls_made() > 0);
    }
    forget_calls();
    sagemem_heap_destroy(heap);
    sagemem_trim();
    assert_true(calls_made() > 0);
    assert_int_equal(faults, 0);
}
static void scope_end_asks_for_nothing(void **state) {
    (void)state;
    SKIP_UNLESS(COUNTS_CALLS, "calls are counted on Linux alone");
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SHARED};
    static const uint32_t delays[] = {0, 1, (uint32_t)SAGEMEM_PURGE_NOW, (uint32_t)SAGEMEM_PURGE_NEVER};
    sagemem_source huge = sagemem_source_huge(0), numa = sagemem_source_numa(0, SAGEMEM_NUMA_PREFERRED);
    for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++)
        for (size_t d = f % 2; d < sizeof delays / sizeof delays[0]; d += 1 + f % 2) end_quietly(flags[f], delays[d], NULL);
    end_quietly(0, 0, &huge);
    end_quietly(0, 0, &numa);
}

/* The process holds what a scope left till it goes, nobody else does; where a limit is met it goes at once. */
static void what_a_scope_left_is_in_nobodys_way(void **state) {
    (void)state;
    SKIP_UNLESS(COUNTS_CALLS, "calls are counted on Linux alone");
    sagemem_heap *heap = heap_of(0, (uint32_t)SAGEMEM_PURGE_NEVER, NULL);
    assert_int_equal(sagemem_scope_begin(heap, "large", 0), SAGEMEM_OK);
    assert_non_null(sagemem_alloc(heap, 100 * MIB, 1));
    uint64_t full = stats_of(NULL).held;
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_true(stats_of(heap).held < MIB);
    assert_int_equal(stats_of(NULL).held, full);
    assert_int_equal(sagemem_limit_set(NULL, full + MIB), SAGEMEM_OK);
    char *block = sagemem_alloc(heap, 99 * MIB, 1);
    assert_non_null(block);
    assert_true(stats_of(NULL).held <= full + MIB);
    sagemem_free(block);
    assert_int_equal(sagemem_limit_set(NULL, 0), SAGEMEM_OK);
    sagemem_heap_destroy(heap);
    assert_int_equal(faults, 0);
}

/* A source of the program's: all that it gave comes back before its heap is gone, and is told which parts may be lost. */
static struct {
    int64_t mapped;
    uint64_t purged, unmapped;
} own;
static void *own_map(void *ctx, size_t size, size_t alignment) {
    (void)ctx;
    void *at = NULL;
    if (posix_memalign(&at, alignment, size) != 0) return NULL;
    memset(at, 0, size);
    own.mapped += (int64_t)size;
    return at;
}
static void own_unmap(void *ctx, void *pages, size_t size) {
    (void)ctx;
    own.mapped -= (int64_t)size;
    own.unmapped++;
    free(pages);
}
static void own_purge(void *ctx, void *pages, size_t size) {
    (void)ctx;
    own.purged += size;
    memset(pages, 0xEE, size);
}
static void source_gets_its_pages_back_after_the_scope(void **state) {
    (void)state;
    sagemem_source source = {own_map, own_unmap, own_purge, 65536, NULL};
    for (int reset = 0; reset < 2; reset++) {
        memset(&own, 0, sizeof own);
        sagemem_heap *heap = heap_of(0, 0, &source);
        assert_int_equal(sagemem_scope_begin(heap, "on a source", 0), SAGEMEM_OK);
        for (int i = 0; i < 20; i++) assert_non_null(sagemem_alloc(heap, MIB, 1));
        int64_t full = own.mapped;
        uint64_t unmapped = own.unmapped;
        assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
        assert_int_equal(own.unmapped, unmapped);
        assert_int_equal(own.mapped, full);
        assert_non_null(sagemem_alloc(heap, MIB, 1));
        assert_true(own.mapped < full / 2);
        assert_int_equal(sagemem_scope_begin(heap, "on a source", 1), SAGEMEM_OK);
        assert_non_null(sagemem_alloc(heap, 3 * MIB, 1));
        if (reset) sagemem_heap_reset(heap); /* ends the scope, too */
        else sagemem_heap_destroy(heap);
        assert_int_equal(own.mapped, 0);
        if (reset) sagemem_heap_destroy(heap);
    }
    assert_int_equal(faults, 0);
}

static void source_is_told_what_may_be_lost(void **state) {
    (void)state;
    if (watched()) skip();
    sagemem_source source = {own_map, own_unmap, own_purge, 65536, NULL};
    memset(&own, 0, sizeof own);
    sagemem_heap *heap = heap_of(SAGEMEM_HEAP_ZERO, 0, &source);
    void *blocks[20];
    for (int i = 0; i < 20; i++) memset(blocks[i] = sagemem_alloc(heap, 50000, 1), 1, 50000);
    for (int i = 0; i < 20; i += 2) sagemem_free(blocks[i]);
    sagemem_trim();
    if (own.purged < 9 * 40000 || own.purged > 10 * 50000) fail_msg("%" PRIu64 " bytes were purged", own.purged);
    assert_int_equal(sagemem_heap_check(heap), 0);
    for (int i = 0; i < 20; i += 2) {
        blocks[i] = sagemem_alloc(heap, 50000, 1);
        for (int b = 0; b < 50000; b++) assert_int_equal(((char *)blocks[i])[b], 0);
    }
    for (int i = 1; i < 20; i += 2)
        for (int b = 0; b < 50000; b++) assert_int_equal(((char *)blocks[i])[b], 1);
    sagemem_heap_destroy(heap);
    assert_int_equal(own.mapped, 0);
}

/* What `size` bytes of blocks cost in calls when freed, a moment later, and with the next page after that. */
static void policy_calls(uint32_t delay, uint32_t wait_ms, uint64_t after[3]) {
    sagemem_heap *heap = heap_of(0, delay, NULL);
    void *blocks[40], *last = sagemem_alloc(heap, 100, 1);
    for (int i = 0; i < 40; i++) memset(blocks[i] = sagemem_alloc(heap, 300000, 1), 1, 300000);
    forget_calls();
    for (int i = 0; i < 40; i++) sagemem_free(blocks[i]);
    after[0] = calls.bytes;
    usleep(wait_ms * 1000);
    after[1] = calls.bytes;
    last = sagemem_alloc(heap, 300000, 1);
    after[2] = calls.bytes;
    assert_non_null(last);
    sagemem_heap_destroy(heap);
    sagemem_trim();
    assert_true(calls.bytes >= 40 * 300000); /* in the end all of it went */
}
static void policies_differ_in_when(void **state) {
    (void)state;
    SKIP_UNLESS(COUNTS_CALLS, "calls are counted on Linux alone");
    uint64_t after[3];
    policy_calls((uint32_t)SAGEMEM_PURGE_NOW, 0, after);
    assert_true(after[0] >= 40 * 300000);
    policy_calls((uint32_t)SAGEMEM_PURGE_NEVER, 60, after);
    assert_int_equal(after[2], 0);
    policy_calls(60000, 60, after);
    assert_int_equal(after[2], 0);
    policy_calls(1000 * (uint32_t)CHILD_SECONDS, 0, after);
    assert_int_equal(after[2], 0);
    policy_calls(40, 80, after);
    assert_int_equal(after[1], after[0]); /* nobody looks meanwhile */
    assert_true(after[2] >= 30 * 300000);
}

/* Two heaps share a region: the earlier wish counts, and NEVER is no wish. */
static void the_earliest_wish_counts(void **state) {
    (void)state;
    SKIP_UNLESS(COUNTS_CALLS, "calls are counted on Linux alone");
    sagemem_heap *never = heap_of(0, (uint32_t)SAGEMEM_PURGE_NEVER, NULL), *soon = heap_of(0, 40, NULL);
    void *a = sagemem_alloc(never, 8 * MIB, 1), *b = sagemem_alloc(soon, MIB, 1), *stays = sagemem_alloc(never, MIB, 1);
    forget_calls();
    sagemem_free(a);
    sagemem_free(b);
    assert_int_equal(calls.bytes, 0);
    usleep(80000);
    sagemem_free(stays);
    assert_true(calls.bytes >= 9 * MIB);
    sagemem_heap_destroy(soon);
    sagemem_heap_destroy(never);
}

static void trim_twice_gives_back_once(void **state) {
    (void)state;
    sagemem_heap *heap = heap_of(0, 0, NULL);
    void *blocks[100];
    for (int i = 0; i < 100; i++) blocks[i] = sagemem_alloc(heap, 50000, 1);
    for (int i = 0; i < 100; i += 2) sagemem_free(blocks[i]);
    uint64_t held = stats_of(NULL).held, given = sagemem_trim();
    assert_int_equal(stats_of(NULL).held, held - given);
    assert_int_equal(sagemem_trim(), 0);
    sagemem_heap_destroy(heap);
}

/* -- Huge pages ----------------------------------------------------------------------------------------- */

/* What smaps says of the mapping that an address lies in; UINT64_MAX: nothing. */
static uint64_t smaps_of(const void *at, const char *key) {
    FILE *file = fopen("/proc/self/smaps", "r");
    char line[512];
    bool here = false;
    uint64_t found = UINT64_MAX;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        uint64_t first, last, kib;
        char colon[32];
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &first, &last) == 2) here = first <= (uintptr_t)at && (uintptr_t)at < last;
        else if (here && strncmp(line, key, strlen(key)) == 0 && sscanf(line, "%31[^:]: %" SCNu64, colon, &kib) == 2)
            found = kib * 1024;
    }
    if (file != NULL) fclose(file);
    return found;
}

/* Whatever the system gives: pages of its pool, ordinary ones that it makes huge, or neither. */
static void huge_pages_are_what_the_system_says(void **state) {
    (void)state;
    SKIP_UNLESS_TOLD();
    sagemem_source source = sagemem_source_huge((size_t)2 * MIB);
    sagemem_heap_desc desc = {0};
    desc.source = &source;
    sagemem_heap *parent = heap_of(0, 0, NULL);
    desc.parent = parent;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    assert_int_equal(stats_of(heap).huge_page_bytes, 0);
    char *block = sagemem_alloc(heap, 32 * MIB, 1), *ordinary = sagemem_alloc(parent, 20 * MIB, 1);
    assert_non_null(block);
    uint64_t pool = smaps_of(block, "Private_Hugetlb"), anonymous = smaps_of(block, "AnonHugePages");
    SKIP_UNLESS(anonymous != UINT64_MAX, "the system does not tell of huge pages");
    if (pool == 0) assert_int_equal(stats_of(heap).huge_page_bytes, 0); /* nothing was touched yet */
    memset(block, 1, 32 * MIB);
    memset(ordinary, 1, 20 * MIB);
    anonymous = smaps_of(block, "AnonHugePages");
    uint64_t told = stats_of(heap).huge_page_bytes;
    print_message("%" PRIu64 " bytes of 32 MiB are on huge pages, the system says %" PRIu64 " (and %" PRIu64 " from its pool)\n",
                  told, anonymous, smaps_of(block, "Private_Hugetlb"));
    if (smaps_of(block, "Private_Hugetlb") >= 32 * MIB) assert_true(told >= 32 * MIB);
    else assert_true(told <= anonymous && told + 2 * MIB >= (anonymous < 32 * MIB ? anonymous : 32 * MIB));
    assert_true(told <= stats_of(heap).held);
    assert_int_equal(stats_of(parent).huge_page_bytes, told); /* the sum of those below; its own pages are not asked for */
    assert_true(stats_of(NULL).huge_page_bytes >= told);
    /* of two heaps with such pages each has its own, wherever they lie */
    sagemem_heap *other = heap_of(0, 0, &source);
    for (int i = 0; i < 6; i++) {
        char *part = sagemem_alloc(other, 4 * MIB, 1);
        assert_non_null(part);
        memset(part, 1, 4 * MIB);
    }
    assert_true(stats_of(other).huge_page_bytes <= 24 * MIB && stats_of(heap).huge_page_bytes <= 32 * MIB);
    assert_true(stats_of(NULL).huge_page_bytes <= stats_of(other).huge_page_bytes + stats_of(heap).huge_page_bytes);
    sagemem_free(block);
    assert_int_equal(stats_of(heap).huge_page_bytes, 0);
    sagemem_heap_destroy(other);
    sagemem_heap_destroy(heap);
    sagemem_heap_destroy(parent);
    assert_int_equal(stats_of(NULL).huge_page_bytes, 0);
}

/* -- Addresses ------------------------------------------------------------------------------------------ */

/* One block of 4 TiB, grown to 5, of which a few pages are used; and a heap that holds it and small ones. */
static void block_of_4_tib(void **state) {
    (void)state;
    if (sizeof(void *) < 8 || watched()) skip();
    const uint64_t tib = (uint64_t)1 << 40;
    sagemem_heap *heap = heap_of(0, 0, NULL);
    size_t before = resident();
    char *block = sagemem_alloc(heap, (size_t)(4 * tib), 1);
    SKIP_UNLESS(block != NULL, "the system sets no 4 TiB of addresses aside");
    for (uint64_t at = 0; at < 4 * tib; at += tib / 4) block[at] = (char)(at / (tib / 4) + 1);
    block[4 * tib - 1] = 99;
    assert_true(sagemem_size(block) >= 4 * tib && stats_of(heap).used >= 4 * tib && stats_of(heap).held >= 4 * tib);
    char *grown = sagemem_realloc(heap, block, (size_t)(5 * tib), SAGEMEM_TAG_SAME);
    if (grown != NULL) block = grown;
    for (uint64_t at = 0; at < 4 * tib; at += tib / 4) assert_int_equal(block[at], (char)(at / (tib / 4) + 1));
    assert_int_equal(block[4 * tib - 1], 99);
    if (before != 0) assert_true(resident() < before + 4 * MIB);
    assert_int_equal(sagemem_check(block), SAGEMEM_OK);
    assert_true(sagemem_owns(block) && !sagemem_owns(block + tib));
    void *small = sagemem_alloc(heap, 100, 1);
    assert_int_equal(sagemem_heap_check(heap), 0);
    sagemem_free(block);
    assert_int_equal(stats_of(heap).used, sagemem_size(small));
    assert_true(stats_of(heap).used_peak >= 4 * tib);
    sagemem_heap_destroy(heap);
    assert_int_equal(faults, 0);
}

/* With an argument: only the tests whose names match it (* and ?). */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
#define T(name) cmocka_unit_test_setup(name, setup)
    static const struct CMUnitTest tests[] = {
        T(resident_falls_after_a_scope),
        T(resident_falls_after_a_heap),
        T(resident_falls_at_once_where_asked),
        T(resident_falls_when_four_fifths_are_freed),
        T(trim_between_random_use_changes_nothing),
        T(scope_end_asks_for_nothing),
        T(what_a_scope_left_is_in_nobodys_way),
        T(source_gets_its_pages_back_after_the_scope),
        T(source_is_told_what_may_be_lost),
        T(policies_differ_in_when),
        T(the_earliest_wish_counts),
        T(trim_twice_gives_back_once),
        T(huge_pages_are_what_the_system_says),
        T(block_of_4_tib),
    };
    return cmocka_run_group_tests_name("public_memory", tests, NULL, NULL);
}
