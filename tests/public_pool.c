/* Pools through the public interface: places, hooks, limits, scopes, what is caught; beside a second set of books. */
#include "public.h"

#include "oracle.h"

#include <math.h>

enum { TAG = 9, TAG_PARTS = 10 };

static const uint32_t all_flags[] = {0,
                                     SAGEMEM_HEAP_ZERO,
                                     SAGEMEM_HEAP_CHECKED,
                                     SAGEMEM_HEAP_SITES,
                                     SAGEMEM_HEAP_SYSTEM,
                                     SAGEMEM_HEAP_SHARED,
                                     SAGEMEM_HEAP_CHECKED | SAGEMEM_HEAP_ZERO};
enum { FLAGS = sizeof all_flags / sizeof all_flags[0] };

/* Where a tool watches, it would report what some tests do on purpose, and objects lie further apart. */
static bool watched(void) { return UNDER_ASAN || on_valgrind(); }

/* -- What the library said ------------------------------------------------------------------------------ */

static struct {
    int count;
    sagemem_fault_kind kind;
    sagemem_error error;
} fault;
static int logged;

static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx;
    fault.count++;
    fault.kind = kind;
    fault.error = *error;
}
static void on_log(void *ctx, sagemem_log_level level, const char *message) {
    (void)ctx, (void)level, (void)message;
    logged++;
}

static int setup(void **state) {
    (void)state;
    memset(&fault, 0, sizeof fault);
    logged = 0;
    sagemem_set_fault_handler(on_fault, NULL);
    sagemem_set_logger(on_log, NULL);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    sagemem_limit_set(NULL, 0);
    return fault.count; /* nobody asked for these */
}

static void assert_failed(sagemem_status status, const char *call, const char *part) {
    const sagemem_error *error = sagemem_last_error();
    if (error->status != status)
        fail_msg("%s instead of %s: %s", sagemem_status_name(error->status), sagemem_status_name(status), error->message);
    assert_string_equal(error->call, call);
    if (strstr(error->message, part) == NULL) fail_msg("'%s' does not say '%s'", error->message, part);
    assert_int_equal(fault.count, 0);
}

/* The fault handler was called once since the last look. */
static void assert_faulted(sagemem_fault_kind kind, sagemem_status status, const char *call, const char *part) {
    if (fault.count != 1) fail_msg("%d faults, not 1: %s", fault.count, fault.error.message);
    fault.count = 0;
    if (fault.error.status != status)
        fail_msg("%s instead of %s: %s", sagemem_status_name(fault.error.status), sagemem_status_name(status), fault.error.message);
    assert_int_equal(fault.kind, kind);
    assert_string_equal(fault.error.call, call);
    if (strstr(fault.error.message, part) == NULL) fail_msg("'%s' does not say '%s'", fault.error.message, part);
    assert_int_equal(sagemem_last_error()->status, status);
}
#define MISUSED(status, call, part) assert_faulted(SAGEMEM_MISUSE, status, call, part)
#define CORRUPT(call, part) assert_faulted(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, call, part)

/* -- Helpers -------------------------------------------------------------------------------------------- */

static sagemem_heap *heap_with(uint32_t flags, uint64_t limit) {
    sagemem_heap_desc desc = {0};
    desc.name = "pools";
    desc.flags = flags;
    desc.limit = limit;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    return heap;
}

static sagemem_pool_desc desc_of(sagemem_heap *heap, size_t object_size) {
    sagemem_pool_desc desc = {0};
    desc.heap = heap;
    desc.tag = TAG;
    desc.object_size = object_size;
    return desc;
}
static sagemem_pool *pool_of(sagemem_heap *heap, size_t object_size) {
    sagemem_pool_desc desc = desc_of(heap, object_size);
    sagemem_pool *pool = sagemem_pool_create(&desc);
    assert_non_null(pool);
    return pool;
}

static sagemem_pool_stats stats_of(const sagemem_pool *pool) {
    sagemem_pool_stats stats;
    assert_int_equal(sagemem_pool_get_stats(pool, &stats), SAGEMEM_OK);
    return stats;
}
static uint64_t tag_used(const sagemem_heap *heap, sagemem_tag tag) {
    sagemem_tag_stats stats;
    assert_int_equal(sagemem_tag_get_stats(heap, tag, &stats), SAGEMEM_OK);
    return stats.used;
}

/* The heap is as it was made, and ends. */
static void heap_done(sagemem_heap *heap) {
    assert_int_equal(tag_used(heap, TAG), 0);
    assert_int_equal(tag_used(heap, TAG_PARTS), 0);
    assert_int_equal(sagemem_heap_check(heap), 0);
    assert_int_equal(logged, 0);
    sagemem_heap_destroy(heap);
}

typedef struct seen {
    void *object[4096];
    size_t count, stop; /* stop: after so many; 0: never */
} seen;
static bool see(void *ctx, void *object) {
    seen *s = (seen *)ctx;
    assert_true(s->count < 4096);
    s->object[s->count++] = object;
    return s->count != s->stop;
}

/* A galaxy owns a block of its heap. */
typedef struct galaxy {
    double mass[5];
    char *extension;
} galaxy;

static struct {
    sagemem_heap *heap;
    int live, fail_in; /* the fail_in-th hook from now fails */
    sagemem_status status;
    void (*inside)(sagemem_pool *pool, void *object); /* is called in each hook */
    sagemem_pool *pool;
    char *order[64]; /* of what was cleaned up */
    int cleaned;
} hooks;

static sagemem_status hook_made(galaxy *g) {
    if (hooks.inside != NULL) hooks.inside(hooks.pool, g);
    if (hooks.fail_in > 0 && --hooks.fail_in == 0) return hooks.status;
    g->extension = (char *)sagemem_alloc(hooks.heap, 40, TAG_PARTS);
    if (g->extension == NULL) return sagemem_last_error()->status;
    hooks.live++;
    return SAGEMEM_OK;
}
static sagemem_status galaxy_init(void *ctx, void *object) {
    galaxy *g = (galaxy *)object;
    memset(g, 0, sizeof *g);
    sagemem_status status = hook_made(g);
    if (status == SAGEMEM_OK) snprintf(g->extension, 40, "%s", (const char *)ctx);
    return status;
}
static sagemem_status galaxy_copy(void *ctx, void *to, const void *from) {
    (void)ctx;
    galaxy *g = (galaxy *)to;
    memcpy(to, from, sizeof *g);
    sagemem_status status = hook_made(g);
    if (status == SAGEMEM_OK) snprintf(g->extension, 40, "%s", ((const galaxy *)from)->extension);
    return status;
}
static void galaxy_cleanup(void *ctx, void *object) {
    (void)ctx;
    galaxy *g = (galaxy *)object;
    if (hooks.inside != NULL) hooks.inside(hooks.pool, g);
    sagemem_free(g->extension);
    hooks.live--;
    if (hooks.cleaned < 64) hooks.order[hooks.cleaned] = (char *)object;
    hooks.cleaned++;
}
static sagemem_pool_desc hooked_desc(sagemem_heap *heap) {
    static char text[] = "new";
    memset(&hooks, 0, sizeof hooks);
    hooks.heap = heap;
    sagemem_pool_desc desc = desc_of(heap, sizeof(galaxy));
    desc.name = "galaxies";
    desc.init_fn = galaxy_init;
    desc.copy_fn = galaxy_copy;
    desc.cleanup_fn = galaxy_cleanup;
    desc.ctx = text;
    return desc;
}

/* -- Descriptions --------------------------------------------------------------------------------------- */

static void refuses(sagemem_pool_desc desc, const char *part) {
    assert_null(sagemem_pool_create(&desc));
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_pool_create", part);
}

static void test_bad_descs(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 0);
    sagemem_heap_stats before, after;
    assert_int_equal(sagemem_heap_get_stats(heap, &before), SAGEMEM_OK);
    assert_null(sagemem_pool_create(NULL));
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_pool_create", "object_size");
    refuses(desc_of(heap, 0), "object_size is 0");
    refuses(desc_of(heap, 256 * KIB + 1), "262145");
    refuses(desc_of(heap, SIZE_MAX), "object_size");
    sagemem_pool_desc desc = desc_of(heap, 64);
    desc.alignment = 3;
    refuses(desc, "alignment 3");
    desc.alignment = 8192;
    refuses(desc, "alignment 8192");
    desc = desc_of(heap, 64);
    desc.tag = SAGEMEM_TAG_MAX + 1;
    refuses(desc, "4096");
    static const double growths[] = {0.5, -1, 1e300};
    desc = desc_of(heap, 64);
    for (int i = 0; i < 3; i++) {
        desc.growth = growths[i];
        refuses(desc, "growth");
    }
    desc.growth = (double)NAN;
    refuses(desc, "growth");
    desc = desc_of(heap, 64);
    desc.initial_count = 11;
    desc.max_count = 10;
    refuses(desc, "initial_count 11 is above max_count 10");
    desc.max_count = 0;
    desc.initial_count = SIZE_MAX / 2;
    refuses(desc, "more than an address can count");
    desc.initial_count = SIZE_MAX / 64;
    refuses(desc, "more than an address can count");
    assert_int_equal(sagemem_heap_get_stats(heap, &after), SAGEMEM_OK);
    assert_int_equal(before.held, after.held);
    heap_done(heap);
}

static void test_defaults(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 0);
    sagemem_pool_desc out, desc = desc_of(heap, 64);
    sagemem_pool *pool = sagemem_pool_create(&desc);
    assert_int_equal(sagemem_pool_get_desc(pool, &out), SAGEMEM_OK);
    assert_ptr_equal(out.heap, heap);
    assert_string_equal(out.name, "pool");
    assert_int_equal(out.tag, TAG);
    assert_int_equal(out.alignment, 16);
    assert_int_equal(out.max_count, 0);
    assert_true(out.growth == 2.0);
    assert_false(out.bypass);
    assert_in_range(out.initial_count, watched() ? 190 : 240, 256);
    assert_int_equal(stats_of(pool).blocks, 0); /* nothing is taken before it is needed */
    assert_non_null(sagemem_pool_alloc(pool));
    sagemem_heap_stats stats;
    assert_int_equal(sagemem_heap_get_stats(heap, &stats), SAGEMEM_OK);
    assert_int_equal(stats.held, 16 * KIB);
    assert_int_equal(stats_of(pool).capacity, out.initial_count);
    sagemem_pool_destroy(pool);

    char name[] = "halos"; /* copied */
    desc.name = name;
    desc.heap = NULL;
    desc.initial_count = 7;
    desc.max_count = 9;
    desc.growth = 1.5;
    desc.alignment = 64;
    pool = sagemem_pool_create(&desc);
    name[0] = 'X';
    assert_int_equal(sagemem_pool_get_desc(pool, &out), SAGEMEM_OK);
    assert_ptr_equal(out.heap, sagemem_heap_default());
    assert_string_equal(out.name, "halos");
    assert_int_equal(out.initial_count, 7);
    assert_int_equal(out.max_count, 9);
    assert_int_equal(out.alignment, 64);
    assert_true(out.growth == 1.5);
    assert_int_equal(stats_of(pool).capacity, 7); /* asked for: it is there */
    assert_int_equal(sagemem_pool_get_desc(pool, NULL), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_pool_get_desc", "out is NULL");
    assert_int_equal(sagemem_pool_get_stats(pool, NULL), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_pool_get_stats", "out is NULL");
    sagemem_pool_destroy(pool);
    sagemem_pool_destroy(NULL);
    heap_done(heap);
}

/* Every size with every alignment: in place, apart, and as close together as can be. */
static void test_sizes_and_alignments(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 24, 48, 100, 512, 704, 4095, 16384, 50000, 262143, 262144};
    static const size_t alignments[] = {0, 1, 2, 4, 8, 16, 32, 64, 256, 4096};
    sagemem_heap *heap = heap_with(0, 0);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t a = 0; a < sizeof alignments / sizeof *alignments; a++) {
            sagemem_pool_desc desc = desc_of(heap, sizes[s]);
            desc.alignment = alignments[a];
            desc.initial_count = 5;
            size_t align = alignments[a] != 0 ? alignments[a] : 16, apart = (sizes[s] + align - 1) / align * align;
            sagemem_pool *pool = sagemem_pool_create(&desc);
            assert_non_null(pool);
            unsigned char *object[9];
            for (int i = 0; i < 9; i++) {
                object[i] = (unsigned char *)sagemem_pool_alloc(pool);
                assert_non_null(object[i]);
                assert_int_equal((uintptr_t)object[i] % align, 0);
                memset(object[i], i, sizes[s]);
            }
            for (int i = 0; i < 9; i++) assert_true(object[i][0] == i && object[i][sizes[s] - 1] == i);
            for (int i = 1; i < 5 && !watched(); i++) assert_int_equal(object[i] - object[i - 1], apart);
            for (int i = 0; i < 9; i++) sagemem_pool_free(pool, object[(i * 4) % 9]);
            assert_int_equal(stats_of(pool).objects, 0);
            sagemem_pool_destroy(pool);
        }
    heap_done(heap);
}

/* -- Places --------------------------------------------------------------------------------------------- */

static void test_order(void **state) {
    (void)state;
    enum { COUNT = 4000 };
    static char *first[COUNT], *second[COUNT];
    sagemem_heap *heap = heap_with(0, 0);
    sagemem_pool_desc desc = desc_of(heap, 48);
    desc.initial_count = COUNT; /* more than one section */
    sagemem_pool *pool = sagemem_pool_create(&desc);
    for (int i = 0; i < COUNT; i++) first[i] = (char *)sagemem_pool_alloc(pool);
    for (int i = 1; i < COUNT; i++) assert_true(first[i] > first[i - 1]);
    chance luck = {oracle_seed()};
    for (int i = COUNT - 1; i > 0; i--) {
        int j = (int)chance_below(&luck, (uint64_t)i + 1);
        char *swap = first[i];
        first[i] = first[j];
        first[j] = swap;
    }
    for (int i = 0; i < COUNT; i++) sagemem_pool_free(pool, first[i]);
    int out_of_order = 0;
    for (int i = 0; i < COUNT; i++) {
        second[i] = (char *)sagemem_pool_alloc(pool);
        out_of_order += i > 0 && second[i] < second[i - 1];
    }
    assert_in_range(out_of_order, 0, 17); /* those freed lately come first */
    assert_int_equal(stats_of(pool).capacity, COUNT);
    sagemem_pool_destroy(pool);
    heap_done(heap);
}

static void test_growth(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 0);
    sagemem_pool_desc desc = desc_of(heap, 1024);
    desc.initial_count = 10;
    desc.growth = 3;
    sagemem_pool *pool = sagemem_pool_create(&desc);
    static const uint64_t capacities[] = {10, 30, 90, 270};
    uint64_t capacity = 0;
    for (int b = 0; b < 4; b++) {
        capacity += capacities[b];
        while (stats_of(pool).objects < capacity) assert_non_null(sagemem_pool_alloc(pool));
        assert_int_equal(stats_of(pool).capacity, capacity);
        assert_int_equal(stats_of(pool).blocks, b + 1);
    }
    assert_non_null(sagemem_pool_alloc(pool));
    uint64_t before = stats_of(pool).held;
    while (stats_of(pool).blocks < 6) assert_non_null(sagemem_pool_alloc(pool));
    assert_in_range(stats_of(pool).held - before, MIB - 32 * KIB, MIB); /* not above 1 MiB */
    assert_int_equal(stats_of(pool).held, tag_used(heap, TAG));
    sagemem_pool_destroy(pool);

    desc.growth = 1;
    pool = sagemem_pool_create(&desc);
    for (int i = 0; i < 35; i++) assert_non_null(sagemem_pool_alloc(pool));
    assert_int_equal(stats_of(pool).capacity, 40);
    assert_int_equal(stats_of(pool).blocks, 4);
    sagemem_pool_destroy(pool);

    desc = desc_of(heap, 1); /* very many, very small: several sections a block */
    desc.alignment = 1;
    desc.initial_count = 100000;
    pool = sagemem_pool_create(&desc);
    for (int i = 0; i < 100000; i++) assert_non_null(sagemem_pool_alloc(pool));
    assert_int_equal(stats_of(pool).blocks, 1);
    for (int i = 0; i < 100000; i++) assert_non_null(sagemem_pool_alloc(pool));
    assert_int_equal(stats_of(pool).blocks, watched() ? 3 : 2);
    sagemem_pool_destroy(pool);
    heap_done(heap);
}

/* Holes are filled before a block is taken, wherever they are. */
static void test_holes(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 0);
    sagemem_pool_desc desc = desc_of(heap, 1000);
    desc.growth = 1;
    desc.initial_count = 2; /* so that there are very many */
    sagemem_pool *pool = sagemem_pool_create(&desc);
    char *object[160];
    for (int i = 0; i < 160; i++) object[i] = (char *)sagemem_pool_alloc(pool);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 2; i++) assert_non_null(sagemem_pool_alloc(pool));
        assert_int_equal(stats_of(pool).blocks, 81 + round);
        for (int i = 30; i < 70; i++) sagemem_pool_free(pool, object[i]);
        for (int i = 30; i < 70; i++) object[i] = (char *)sagemem_pool_alloc(pool);
        assert_int_equal(stats_of(pool).blocks, 81 + round);
    }
    sagemem_pool_destroy(pool);
    heap_done(heap);
}

static void test_full(void **state) {
    (void)state;
    for (int bypass = 0; bypass < 2; bypass++) {
        sagemem_heap *heap = heap_with(0, 0);
        sagemem_pool_desc desc = desc_of(heap, 100);
        desc.name = "few";
        desc.max_count = 300;
        desc.initial_count = 250;
        desc.bypass = bypass;
        sagemem_pool *pool = sagemem_pool_create(&desc);
        void *last = NULL;
        for (int i = 0; i < 300; i++) {
            last = sagemem_pool_alloc(pool);
            assert_non_null(last);
        }
        for (int i = 0; i < 2; i++) {
            sagemem_pool_stats before = stats_of(pool), after;
            assert_null(sagemem_pool_alloc(pool));
            assert_failed(SAGEMEM_E_FULL, "sagemem_pool_alloc", "'few' has 300 objects, and its max_count is 300");
            assert_null(sagemem_pool_copy(pool, "123456789012345678901234567890123456789012345678901234567890"
                                                "12345678901234567890123456789012345678901234567890"));
            assert_failed(SAGEMEM_E_FULL, "sagemem_pool_copy", "raise max_count");
            after = stats_of(pool);
            assert_memory_equal(&before, &after, sizeof before);
            assert_int_equal(after.capacity, 300);
        }
        sagemem_pool_free(pool, last);
        assert_non_null(sagemem_pool_alloc(pool));
        assert_null(sagemem_pool_alloc(pool));
        assert_int_equal(stats_of(pool).peak_objects, 300);
        assert_int_equal(stats_of(pool).total_allocs, 301);
        sagemem_pool_destroy(pool);
        heap_done(heap);
    }
}

static void test_stats(void **state) {
    (void)state;
    for (int f = 0; f < FLAGS; f++) {
        sagemem_heap *heap = heap_with(all_flags[f], 0);
        sagemem_pool *pool = pool_of(heap, 200);
        void *object[100];
        for (int i = 0; i < 60; i++) object[i] = sagemem_pool_alloc(pool);
        for (int i = 0; i < 50; i++) sagemem_pool_free(pool, object[i]);
        for (int i = 0; i < 49; i++) object[i] = sagemem_pool_alloc(pool);
        sagemem_pool_stats stats = stats_of(pool);
        assert_int_equal(stats.objects, 59);
        assert_int_equal(stats.peak_objects, 60);
        assert_int_equal(stats.total_allocs, 109);
        assert_int_equal(stats.held, tag_used(heap, TAG));
        object[49] = sagemem_pool_alloc(pool);
        object[60] = sagemem_pool_alloc(pool);
        sagemem_pool_free(pool, object[60]);
        assert_int_equal(stats_of(pool).peak_objects, 61);
        sagemem_pool_reset(pool);
        stats = stats_of(pool);
        assert_int_equal(stats.objects, 0);
        assert_int_equal(stats.peak_objects, 61);
        assert_int_equal(stats.total_allocs, 111);
        assert_true(stats.blocks > 0 && stats.held == tag_used(heap, TAG));
        sagemem_pool_destroy(pool);
        heap_done(heap);
    }
}

static void test_zero_and_fill(void **state) {
    (void)state;
    for (int f = 0; f < FLAGS; f++)
        for (int bypass = 0; bypass < 2; bypass++) {
            sagemem_heap *heap = heap_with(all_flags[f], 0);
            sagemem_pool_desc desc = desc_of(heap, 37);
            desc.alignment = 1;
            desc.bypass = bypass;
            sagemem_pool *pool = sagemem_pool_create(&desc);
            for (int round = 0; round < 3; round++) {
                unsigned char *object[50];
                for (int i = 0; i < 50; i++) {
                    object[i] = (unsigned char *)sagemem_pool_alloc(pool);
                    for (int b = 0; b < 37 && (all_flags[f] & SAGEMEM_HEAP_ZERO) != 0; b++) assert_int_equal(object[i][b], 0);
                    memset(object[i], 0xA5, 37);
                }
                for (int i = 0; i < 50 && round == 0; i++) sagemem_pool_free(pool, object[i]);
                if (round == 1) sagemem_pool_reset(pool);
            }
            assert_int_equal(sagemem_heap_check(heap), 0);
            sagemem_pool_destroy(pool);
            heap_done(heap);
        }
}

/* -- Each, reset, trim ------------------------------------------------------------------------------------ */

static bool free_odd(void *ctx, void *object) {
    seen *s = (seen *)ctx;
    if (s->count++ % 2 == 1) sagemem_pool_free(hooks.pool, object);
    if (s->count < 20) assert_non_null(sagemem_pool_alloc(hooks.pool));
    return true;
}
static bool disturb(void *ctx, void *object) {
    (void)ctx, (void)object;
    sagemem_pool_reset(hooks.pool);
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_reset", "do this after it");
    sagemem_pool_destroy(hooks.pool);
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_destroy", "being visited");
    assert_int_equal(sagemem_pool_trim(hooks.pool), 0);
    assert_failed(SAGEMEM_E_BUSY, "sagemem_pool_trim", "trim it later");
    return false;
}

static void test_each(void **state) {
    (void)state;
    static seen s;
    for (int bypass = 0; bypass < 2; bypass++) {
        sagemem_heap *heap = heap_with(0, 0);
        sagemem_pool_desc desc = desc_of(heap, 32);
        desc.initial_count = 200;
        desc.bypass = bypass;
        sagemem_pool *pool = hooks.pool = sagemem_pool_create(&desc);
        memset(&s, 0, sizeof s);
        sagemem_pool_each(pool, see, &s);
        assert_int_equal(s.count, 0);
        char *object[300];
        for (int i = 0; i < 300; i++) object[i] = (char *)sagemem_pool_alloc(pool);
        for (int i = 0; i < 300; i += 3) sagemem_pool_free(pool, object[i]);
        sagemem_pool_each(pool, see, &s);
        assert_int_equal(s.count, 200);
        for (int i = 0, k = 0; i < 300; i++)
            if (i % 3 != 0) assert_ptr_equal(s.object[k++], object[i]);
        memset(&s, 0, sizeof s);
        s.stop = 7;
        sagemem_pool_each(pool, see, &s);
        assert_int_equal(s.count, 7);
        memset(&s, 0, sizeof s);
        sagemem_pool_each(pool, free_odd, &s);
        assert_in_range(s.count, 200, 220);
        assert_int_equal(stats_of(pool).objects, 200 - s.count / 2 + 19);
        sagemem_pool_each(pool, disturb, NULL);
        assert_true(stats_of(pool).objects > 0);
        sagemem_pool_each(pool, NULL, NULL);
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_pool_each", "visit is NULL");
        sagemem_pool_destroy(pool);
        heap_done(heap);
    }
}

/* What an allocation within a visit leaves over was never an object, and is not visited. */
static bool allocate_once(void *ctx, void *object) {
    seen *s = (seen *)ctx;
    if (s->count == 0) s->object[4095] = sagemem_pool_alloc(hooks.pool);
    return see(ctx, object);
}
static void test_allocate_in_visit(void **state) {
    (void)state;
    static seen s;
    sagemem_heap *heap = heap_with(0, 0);
    sagemem_pool *pool = hooks.pool = pool_of(heap, 64);
    char *object[200];
    for (int i = 0; i < 200; i++) object[i] = (char *)sagemem_pool_alloc(pool);
    for (int i = 130; i < 180; i++) sagemem_pool_free(pool, object[i]);     /* the visit has not come to them yet */
    for (int i = 0; i < 16; i++) assert_non_null(sagemem_pool_alloc(pool)); /* those freed lately: 34 are left */
    memset(&s, 0, sizeof s);
    sagemem_pool_each(pool, allocate_once, &s);
    assert_non_null(s.object[4095]);
    assert_in_range(s.count, 166, 167);
    assert_int_equal(stats_of(pool).objects, 167);
    sagemem_pool_destroy(pool);
    heap_done(heap);
}

static void test_reset_and_trim(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 0);
    sagemem_pool_desc desc = desc_of(heap, 1000);
    desc.growth = 1;
    desc.initial_count = 16;
    sagemem_pool *pool = sagemem_pool_create(&desc);
    char *object[160];
    for (int i = 0; i < 160; i++) object[i] = (char *)sagemem_pool_alloc(pool);
    assert_int_equal(sagemem_pool_trim(pool), 0);
    sagemem_pool_reset(pool);
    assert_int_equal(stats_of(pool).blocks, 10);
    for (int i = 0; i < 160; i++) assert_ptr_equal(sagemem_pool_alloc(pool), object[i]);
    for (int i = 30; i < 50; i++) sagemem_pool_free(pool, object[i]);
    sagemem_pool_reset(pool);
    for (int i = 0; i < 160; i++) assert_ptr_equal(sagemem_pool_alloc(pool), object[i]);
    /* One object keeps its block, whichever it is. */
    for (int i = 0; i < 160; i++)
        if (i / 16 % 2 == 0 || i % 16 != 5) sagemem_pool_free(pool, object[i]);
    uint64_t held = stats_of(pool).held, given = sagemem_pool_trim(pool);
    assert_int_equal(given, held / 2);
    assert_int_equal(stats_of(pool).held, held / 2);
    assert_int_equal(tag_used(heap, TAG), held / 2);
    assert_int_equal(stats_of(pool).blocks, 5);
    assert_int_equal(stats_of(pool).capacity, 80);
    for (int i = 0; i < 160; i++) {
        if (i / 16 % 2 != 0 && i % 16 == 5) continue;
        sagemem_pool_free(pool, object[i]);
        MISUSED(i / 16 % 2 == 0 ? SAGEMEM_E_FOREIGN : SAGEMEM_E_STALE, "sagemem_pool_free", "pool");
    }
    for (int i = 0; i < 75; i++) object[i == 21 || i == 53 ? 0 : i] = (char *)sagemem_pool_alloc(pool);
    assert_int_equal(stats_of(pool).blocks, 5);
    assert_non_null(sagemem_pool_alloc(pool));
    assert_int_equal(stats_of(pool).blocks, 6);
    sagemem_pool_reset(pool);
    assert_true(sagemem_pool_trim(pool) > 0);
    assert_int_equal(stats_of(pool).held, 0);
    assert_int_equal(stats_of(pool).capacity, 0);
    assert_int_equal(tag_used(heap, TAG), 0);
    assert_non_null(sagemem_pool_alloc(pool));
    assert_int_equal(stats_of(pool).capacity, 16);
    sagemem_pool_destroy(pool);
    desc.growth = 4;
    pool = sagemem_pool_create(&desc);
    for (int i = 0; i < 100; i++) assert_non_null(sagemem_pool_alloc(pool));
    sagemem_pool_reset(pool);
    assert_true(sagemem_pool_trim(pool) > 0);
    assert_non_null(sagemem_pool_alloc(pool));
    assert_int_equal(stats_of(pool).capacity, 16); /* it begins again */
    sagemem_pool_destroy(pool);
    heap_done(heap);
}

/* -- Hooks ------------------------------------------------------------------------------------------------ */

static void test_hooks(void **state) {
    (void)state;
    for (int f = 0; f < FLAGS; f++)
        for (int bypass = 0; bypass < 2; bypass++) {
            sagemem_heap *heap = heap_with(all_flags[f], 0);
            sagemem_pool_desc desc = hooked_desc(heap);
            desc.bypass = bypass;
            desc.initial_count = 8;
            sagemem_pool *pool = sagemem_pool_create(&desc), *plain = pool_of(heap, sizeof(galaxy));
            galaxy *a = (galaxy *)sagemem_pool_alloc(pool), unpooled = {{1, 2, 3, 4, 5}, NULL};
            char text[] = "unpooled";
            unpooled.extension = text;
            assert_string_equal(a->extension, "new");
            a->mass[3] = 42;
            snprintf(a->extension, 40, "first");
            galaxy *b = (galaxy *)sagemem_pool_copy(pool, a), *c = (galaxy *)sagemem_pool_copy(pool, &unpooled);
            assert_true(b != a && b->mass[3] == 42 && b->extension != a->extension);
            assert_string_equal(b->extension, "first");
            assert_string_equal(c->extension, "unpooled");
            assert_true(c->mass[4] == 5);
            galaxy *d = (galaxy *)sagemem_pool_copy(plain, b); /* bytes */
            assert_memory_equal(d, b, sizeof *d);
            assert_int_equal(hooks.live, 3);
            sagemem_pool_free(pool, b);
            assert_int_equal(hooks.live, 2);
            sagemem_pool_reset(pool);
            assert_int_equal(hooks.live, 0);
            assert_int_equal(hooks.cleaned, 3);
            assert_int_equal(tag_used(heap, TAG_PARTS), 0);
            for (int i = 0; i < 20; i++) assert_non_null(sagemem_pool_alloc(pool));
            hooks.cleaned = 0;
            static seen s;
            memset(&s, 0, sizeof s);
            sagemem_pool_each(pool, see, &s);
            sagemem_pool_destroy(pool);
            assert_int_equal(hooks.cleaned, 20);
            for (int i = 0; i < 20; i++) assert_ptr_equal(hooks.order[i], s.object[i]);
            assert_int_equal(hooks.live, 0);
            sagemem_pool_destroy(plain);
            heap_done(heap);
        }
}

static void test_failing_hooks(void **state) {
    (void)state;
    for (int bypass = 0; bypass < 2; bypass++) {
        sagemem_heap *heap = heap_with(0, 0);
        sagemem_pool_desc desc = hooked_desc(heap);
        desc.bypass = bypass;
        desc.max_count = 2;
        sagemem_pool *pool = sagemem_pool_create(&desc);
        galaxy *a = (galaxy *)sagemem_pool_alloc(pool), *b = NULL;
        for (int i = 0; i < 3; i++) {
            sagemem_pool_stats before = stats_of(pool), after;
            hooks.status = SAGEMEM_E_NOT_FOUND;
            hooks.fail_in = 1;
            assert_null(sagemem_pool_alloc(pool));
            assert_failed(SAGEMEM_E_NOT_FOUND, "sagemem_pool_alloc", "init_fn of pool 'galaxies' failed with SAGEMEM_E_NOT_FOUND");
            hooks.status = SAGEMEM_E_IO;
            hooks.fail_in = 1;
            assert_null(sagemem_pool_copy(pool, a));
            assert_failed(SAGEMEM_E_IO, "sagemem_pool_copy", "copy_fn of pool 'galaxies' failed with SAGEMEM_E_IO");
            after = stats_of(pool);
            assert_int_equal(hooks.live, 1);
            if (i == 0) continue; /* the first took a block */
            assert_memory_equal(&before, &after, sizeof before);
            assert_int_equal(after.peak_objects, 1);
        }
        b = (galaxy *)sagemem_pool_copy(pool, a);
        assert_non_null(b);
        assert_null(sagemem_pool_copy(pool, a));
        assert_failed(SAGEMEM_E_FULL, "sagemem_pool_copy", "max_count");
        assert_null(sagemem_pool_copy(pool, NULL));
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_pool_copy", "from is NULL");
        sagemem_pool_destroy(pool);
        assert_int_equal(hooks.live, 0);
        heap_done(heap);
    }
}

static int inside_calls;
static void call_all(sagemem_pool *pool, void *object) {
    sagemem_pool_stats stats;
    sagemem_pool_desc desc;
    inside_calls++;
    assert_null(sagemem_pool_alloc(pool));
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_alloc", "not its own pool");
    assert_null(sagemem_pool_copy(pool, object));
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_copy", "a hook of pool 'galaxies' is running");
    sagemem_pool_free(pool, object);
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_free", "hook");
    sagemem_pool_each(pool, see, NULL);
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_each", "hook");
    sagemem_pool_reset(pool);
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_reset", "hook");
    sagemem_pool_destroy(pool);
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_destroy", "hook");
    assert_int_equal(sagemem_pool_trim(pool), 0);
    assert_failed(SAGEMEM_E_BUSY, "sagemem_pool_trim", "later");
    assert_int_equal(sagemem_pool_get_stats(pool, &stats), SAGEMEM_OK); /* to look is no harm */
    assert_int_equal(sagemem_pool_get_desc(pool, &desc), SAGEMEM_OK);
    assert_int_equal(sagemem_heap_check(desc.heap), 0);
}

static void test_hooks_that_call_the_pool(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_SHARED};
    for (int i = 0; i < 4; i++) {
        sagemem_heap *heap = heap_with(flags[i / 2], 0);
        sagemem_pool_desc desc = hooked_desc(heap);
        desc.bypass = i % 2;
        sagemem_pool *pool = hooks.pool = sagemem_pool_create(&desc);
        hooks.inside = call_all;
        inside_calls = 0;
        void *a = sagemem_pool_alloc(pool), *b = sagemem_pool_copy(pool, a);
        sagemem_pool_free(pool, a);
        assert_non_null(b);
        sagemem_pool_reset(pool);
        assert_non_null(sagemem_pool_alloc(pool));
        sagemem_pool_destroy(pool);
        assert_int_equal(inside_calls, 6);
        heap_done(heap);
    }
}

/* -- Scopes, heaps, limits ---------------------------------------------------------------------------------- */

static void test_scopes(void **state) {
    (void)state;
    for (int f = 0; f < FLAGS; f++)
        for (int bypass = 0; bypass < 2; bypass++) {
            sagemem_heap *heap = heap_with(all_flags[f], 0);
            sagemem_pool_desc desc = hooked_desc(heap);
            desc.bypass = bypass;
            sagemem_scope_begin(heap, "outer", 1);
            sagemem_pool *pool = sagemem_pool_create(&desc);
            sagemem_scope_begin(heap, "inner", 2);
            sagemem_pool *inner = pool_of(heap, 64);
            galaxy *g[500];
            hooks.heap = NULL; /* what objects own, they own in the thread's heap: it outlives the inner scope */
            for (int i = 0; i < 500; i++) g[i] = (galaxy *)sagemem_pool_alloc(pool);
            assert_non_null(sagemem_pool_alloc(inner));
            sagemem_scope_stats last;
            assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
            assert_int_equal(sagemem_scope_get_last(heap, &last), SAGEMEM_OK);
            assert_int_equal(stats_of(pool).objects, 500);
            for (int i = 0; i < 500; i++) assert_string_equal(g[i]->extension, "new");
            assert_null(sagemem_pool_alloc(inner));
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_alloc", "has ended");
            for (int i = 0; i < 250; i++) sagemem_pool_free(pool, g[i]);
            assert_int_equal(hooks.live, 250);
            assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
            assert_int_equal(hooks.live, 0);
            sagemem_pool_free(pool, g[400]);
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_free", "galaxies");
            heap_done(heap);
        }
    assert_int_equal(tag_used(sagemem_heap_default(), TAG_PARTS), 0);
}

/* What was made last ends first: a pool may be used by the clean-ups of what was made after it. */
static void give_back(void *ctx) { sagemem_pool_free(hooks.pool, ctx); }
static void test_order_of_ends(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 0);
    sagemem_pool_desc desc = hooked_desc(heap);
    sagemem_scope_begin(heap, "forest", 1);
    hooks.pool = sagemem_pool_create(&desc);
    galaxy *a = (galaxy *)sagemem_pool_alloc(hooks.pool), *b = (galaxy *)sagemem_pool_alloc(hooks.pool);
    assert_true(a < b);
    assert_int_equal(sagemem_scope_defer(heap, give_back, b), SAGEMEM_OK);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_int_equal(hooks.cleaned, 2);
    assert_ptr_equal(hooks.order[0], b);
    assert_ptr_equal(hooks.order[1], a);
    heap_done(heap);
}

static void test_heap_ends(void **state) {
    (void)state;
    for (int f = 0; f < FLAGS; f++)
        for (int bypass = 0; bypass < 2; bypass++) {
            sagemem_heap *heap = heap_with(all_flags[f], 0);
            sagemem_pool_desc desc = hooked_desc(heap);
            desc.bypass = bypass;
            sagemem_pool *pool = sagemem_pool_create(&desc);
            void *object = NULL;
            for (int i = 0; i < 30; i++) object = sagemem_pool_alloc(pool);
            sagemem_heap_reset(heap);
            assert_int_equal(hooks.live, 0);
            assert_int_equal(tag_used(heap, TAG), 0);
            sagemem_pool_free(pool, object);
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_free", "ended");
            pool = sagemem_pool_create(&desc);
            for (int i = 0; i < 30; i++) assert_non_null(sagemem_pool_alloc(pool));
            sagemem_heap_destroy(heap);
            assert_int_equal(hooks.live, 0);
            assert_null(sagemem_pool_alloc(pool));
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_alloc", "ended");
            assert_null(sagemem_pool_copy(pool, "x"));
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_copy", "ended");
            sagemem_pool_each(pool, see, NULL);
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_each", "ended");
            sagemem_pool_reset(pool);
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_reset", "ended");
            assert_int_equal(sagemem_pool_trim(pool), 0);
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_trim", "ended");
            sagemem_pool_destroy(pool);
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_destroy", "ended");
            sagemem_pool_stats stats;
            assert_int_equal(sagemem_pool_get_stats(pool, &stats), SAGEMEM_E_STALE);
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_get_stats", "ended");
            assert_int_equal(sagemem_pool_get_desc(pool, &desc), SAGEMEM_E_STALE);
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_get_desc", "ended");
        }
}

/* Near a limit blocks get smaller, down to a page; then it is met, and nothing has changed. */
static void test_limits(void **state) {
    (void)state;
    for (int bypass = 0; bypass < 2; bypass++) {
        sagemem_heap *heap = heap_with(0, 512 * KIB);
        sagemem_pool_desc desc = desc_of(heap, 1000);
        desc.bypass = bypass;
        desc.initial_count = bypass ? 0 : 1000;
        if (!bypass) {
            assert_null(sagemem_pool_create(&desc));
            assert_failed(SAGEMEM_E_LIMIT, "sagemem_pool_create", "limit");
            assert_int_equal(tag_used(heap, TAG), 0);
            desc.initial_count = 10;
        }
        sagemem_pool *pool = sagemem_pool_create(&desc);
        void *object = NULL, *last = NULL;
        while ((object = sagemem_pool_alloc(pool)) != NULL) last = object;
        assert_failed(SAGEMEM_E_LIMIT, "sagemem_pool_alloc", "limit");
        sagemem_pool_stats before = stats_of(pool), after;
        assert_in_range(before.objects, 400, 512);
        for (int i = 0; i < 3; i++) assert_null(sagemem_pool_alloc(pool));
        after = stats_of(pool);
        assert_memory_equal(&before, &after, sizeof before);
        assert_int_equal(sagemem_heap_check(heap), 0);
        sagemem_pool_free(pool, last);
        assert_non_null(sagemem_pool_alloc(pool));
        assert_int_equal(sagemem_limit_set(heap, 0), SAGEMEM_OK);
        for (int i = 0; i < 2000; i++) assert_non_null(sagemem_pool_alloc(pool));
        sagemem_pool_destroy(pool);
        heap_done(heap);
    }
}

/* A call that succeeds with a smaller block leaves the last error alone. */
static void test_small_block_is_no_error(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 128 * KIB);
    sagemem_pool_desc desc = desc_of(heap, 0);
    assert_null(sagemem_pool_create(&desc));
    desc.object_size = 1000;
    desc.growth = 50;
    sagemem_pool *pool = sagemem_pool_create(&desc);
    for (int i = 0; i < 60; i++) assert_non_null(sagemem_pool_alloc(pool));
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_pool_create", "object_size is 0");
    sagemem_pool_destroy(pool);
    heap_done(heap);
}

static uint64_t reclaim_objects(void *ctx, uint64_t wanted) {
    (void)wanted;
    void **object = (void **)ctx;
    assert_int_equal(sagemem_pool_trim(hooks.pool), 0);
    sagemem_pool_destroy(hooks.pool);
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_destroy", "growing");
    if (*object == NULL) return 0;
    sagemem_pool_free(hooks.pool, *object); /* gives no page back, but a place */
    *object = NULL;
    return 0;
}
static void test_reclaimer_frees_objects(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_SHARED};
    for (int f = 0; f < 2; f++) {
        sagemem_heap *heap = heap_with(flags[f], 64 * KIB);
        sagemem_pool *pool = hooks.pool = pool_of(heap, 1000);
        void *first = sagemem_pool_alloc(pool), *same = first;
        while (sagemem_pool_alloc(pool) != NULL) {
        }
        assert_int_equal(sagemem_reclaimer_add("objects", 1, reclaim_objects, &first), SAGEMEM_OK);
        assert_ptr_equal(sagemem_pool_alloc(pool), same);
        assert_null(first);
        assert_null(sagemem_pool_alloc(pool));
        assert_failed(SAGEMEM_E_LIMIT, "sagemem_pool_alloc", "limit");
        assert_int_equal(sagemem_reclaimer_remove("objects"), SAGEMEM_OK);
        sagemem_pool_destroy(pool);
        heap_done(heap);
    }
}

/* -- What is caught ------------------------------------------------------------------------------------------- */

static void test_foreign_and_twice(void **state) {
    (void)state;
    for (int f = 0; f < FLAGS; f++) {
        sagemem_heap *heap = heap_with(all_flags[f], 0);
        sagemem_pool *pool = pool_of(heap, 100), *other = pool_of(heap, 100);
        char *object[40], stack[200], *block = (char *)sagemem_alloc(heap, 100, TAG_PARTS);
        void *others = sagemem_pool_alloc(other), *malloced = malloc(100);
        for (int i = 0; i < 40; i++) object[i] = (char *)sagemem_pool_alloc(pool);
        void *foreign[] = {others, stack, block, malloced, heap, pool, (void *)8, (void *)UINTPTR_MAX, &fault, object[0] - 64};
        for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
            sagemem_pool_free(pool, foreign[i]);
            MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_free", "is no object of pool 'pool'");
        }
        for (int at = 1; at < 100; at += 9) {
            sagemem_pool_free(pool, object[7] + at);
            MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_free", "inside object");
        }
        assert_null(sagemem_pool_copy(pool, object[7] + 4));
        MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_copy", "lies 4 bytes inside");
        /* No object is a block. */
        for (int i = 0; i < 40 && (all_flags[f] & SAGEMEM_HEAP_SYSTEM) == 0; i++) {
            sagemem_free(object[i]);
            MISUSED(SAGEMEM_E_FOREIGN, "sagemem_free", "inside");
        }
        assert_int_equal(stats_of(pool).objects, 40);
        /* All of them twice: some are the next ones to be handed out, some are not. */
        for (int i = 0; i < 40; i++) sagemem_pool_free(pool, object[i]);
        for (int i = 0; i < 40; i++) {
            sagemem_pool_free(pool, object[i]);
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_free", "was freed already");
            assert_null(sagemem_pool_copy(pool, object[i]));
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_copy", "was freed already");
        }
        sagemem_pool_free(pool, object[39] + (object[39] - object[38])); /* never handed out */
        MISUSED(SAGEMEM_E_STALE, "sagemem_pool_free", "freed already");
        assert_int_equal(stats_of(pool).objects, 0);
        sagemem_pool_free(pool, NULL);
        for (int i = 0; i < 40; i++) object[i] = (char *)sagemem_pool_alloc(pool);
        for (int i = 0; i < 40; i++)
            for (int j = 0; j < i; j++) assert_ptr_not_equal(object[i], object[j]);
        sagemem_pool_reset(pool);
        sagemem_pool_free(pool, object[3]);
        MISUSED(SAGEMEM_E_STALE, "sagemem_pool_free", "freed already");
        free(malloced);
        sagemem_free(block);
        sagemem_pool_destroy(pool);
        sagemem_pool_destroy(other);
        heap_done(heap);
    }
}

static void test_bypass_misuse(void **state) {
    (void)state;
    for (int f = 0; f < FLAGS; f++) {
        sagemem_heap *heap = heap_with(all_flags[f], 0);
        sagemem_pool_desc desc = desc_of(heap, 100);
        desc.bypass = true;
        sagemem_pool *pool = sagemem_pool_create(&desc), *other = sagemem_pool_create(&desc);
        char *object = (char *)sagemem_pool_alloc(pool), *others = (char *)sagemem_pool_alloc(other), stack[16];
        assert_true(sagemem_owns(object));
        assert_true(sagemem_size(object) >= 100);
        sagemem_pool_free(pool, others);
        MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_free", "no object of it");
        sagemem_pool_free(pool, stack);
        MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_free", "pool 'pool'");
        sagemem_pool_free(pool, object + 16);
        MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_free", "pool 'pool'");
        sagemem_pool_free(pool, object);
        sagemem_pool_free(pool, object);
        bool unknown = (all_flags[f] & SAGEMEM_HEAP_SYSTEM) != 0; /* malloc's again */
        MISUSED(unknown ? SAGEMEM_E_FOREIGN : SAGEMEM_E_STALE, "sagemem_pool_free", "pool 'pool'");
        /* Freed by another call: seen when its address comes back. */
        object = (char *)sagemem_pool_alloc(pool);
        sagemem_free(object);
        sagemem_pool_free(pool, object);
        MISUSED(unknown ? SAGEMEM_E_FOREIGN : SAGEMEM_E_STALE, "sagemem_pool_free", "");
        assert_int_equal(stats_of(pool).objects, 0);
        assert_int_equal(stats_of(pool).objects, 0);
        if (all_flags[f] == 0 && !watched()) {
            object = (char *)sagemem_pool_alloc(pool);
            sagemem_free(object);
            assert_null(sagemem_pool_alloc(pool));
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_alloc", "was freed by another call");
            assert_ptr_equal(sagemem_pool_alloc(pool), object);
            assert_int_equal(stats_of(pool).objects, 1);
            sagemem_free(object);
            sagemem_pool_destroy(pool);
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_destroy", "freed already");
            pool = sagemem_pool_create(&desc);
        }
        assert_int_equal(stats_of(other).objects, 1);
        sagemem_pool_destroy(pool);
        sagemem_pool_destroy(other);
        heap_done(heap);
    }
}

static void test_no_pool(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 0);
    static uint64_t zeros[64];
    void *wrong[] = {NULL, zeros, heap};
    sagemem_pool_stats stats;
    sagemem_pool_desc desc;
    for (int i = 0; i < 3; i++) {
        sagemem_pool *pool = (sagemem_pool *)wrong[i];
        assert_null(sagemem_pool_alloc(pool));
        MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_alloc", "is no pool");
        assert_null(sagemem_pool_copy(pool, zeros));
        MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_copy", "is no pool");
        sagemem_pool_free(pool, zeros);
        MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_free", "is no pool");
        sagemem_pool_each(pool, see, NULL);
        MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_each", "is no pool");
        sagemem_pool_reset(pool);
        MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_reset", "is no pool");
        assert_int_equal(sagemem_pool_trim(pool), 0);
        MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_trim", "is no pool");
        assert_int_equal(sagemem_pool_get_stats(pool, &stats), SAGEMEM_E_FOREIGN);
        MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_get_stats", "is no pool");
        assert_int_equal(sagemem_pool_get_desc(pool, &desc), SAGEMEM_E_FOREIGN);
        MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_get_desc", "is no pool");
        if (pool == NULL) continue;
        sagemem_pool_destroy(pool);
        MISUSED(SAGEMEM_E_FOREIGN, "sagemem_pool_destroy", "is no pool");
    }
    heap_done(heap);
}

/* Written to after free: nobody gets the place, it is told once, the rest goes on. */
static void test_late_write(void **state) {
    (void)state;
    if (watched()) skip(); /* the tool sees it first */
    for (int f = 0; f < FLAGS; f++)
        for (int lately = 0; lately < 2; lately++) {
            sagemem_heap *heap = heap_with(all_flags[f], 0);
            bool checked = (all_flags[f] & SAGEMEM_HEAP_CHECKED) != 0;
            sagemem_pool_desc desc = desc_of(heap, 72);
            desc.initial_count = 100;
            sagemem_pool *pool = sagemem_pool_create(&desc);
            char *object[100], *bad;
            for (int i = 0; i < 100; i++) object[i] = (char *)sagemem_pool_alloc(pool);
            for (int i = 0; i < 100; i++) sagemem_pool_free(pool, object[i]);
            bad = object[lately ? 15 : 60];
            bad[checked ? 71 : 7] ^= 1;
            assert_int_equal(sagemem_heap_check(heap), 1);
            assert_int_equal(logged, 1);
            logged = 0;
            int got = 0;
            for (int i = 0; i < 99; i++) {
                char *p = (char *)sagemem_pool_alloc(pool);
                if (p == NULL) {
                    CORRUPT("sagemem_pool_alloc", "was written to at");
                    p = (char *)sagemem_pool_alloc(pool);
                }
                assert_non_null(p);
                assert_ptr_not_equal(p, bad);
                got++;
            }
            assert_int_equal(got, 99);
            assert_int_equal(stats_of(pool).objects, 99);
            assert_int_equal(stats_of(pool).capacity, 99);
            sagemem_pool_free(pool, bad);
            MISUSED(SAGEMEM_E_STALE, "sagemem_pool_free", "freed already");
            static seen s;
            memset(&s, 0, sizeof s);
            sagemem_pool_each(pool, see, &s);
            assert_int_equal(s.count, 99);
            for (size_t i = 0; i < s.count; i++) assert_ptr_not_equal(s.object[i], bad);
            assert_int_equal(sagemem_heap_check(heap), 0);
            sagemem_pool_reset(pool);
            assert_int_equal(sagemem_pool_trim(pool), 0); /* somebody writes there */
            for (int i = 0; i < 99; i++) assert_ptr_not_equal(sagemem_pool_alloc(pool), bad);
            assert_int_equal(stats_of(pool).blocks, 1);
            sagemem_pool_destroy(pool);
            heap_done(heap);
        }
}

static void test_overflow_in_checked_heap(void **state) {
    (void)state;
    if (watched()) skip();
    sagemem_heap *heap = heap_with(SAGEMEM_HEAP_CHECKED, 0);
    sagemem_pool *pool = pool_of(heap, 50);
    char *object = (char *)sagemem_pool_alloc(pool), *next = (char *)sagemem_pool_alloc(pool);
    size_t room = (size_t)(next - object);
    assert_true(room >= 66);
    for (size_t at = 50; at < room; at += room - 51) {
        char was = object[at];
        object[at] = 'x';
        assert_int_equal(sagemem_heap_check(heap), 1);
        sagemem_pool_free(pool, object);
        CORRUPT("sagemem_pool_free", "past its end");
        assert_int_equal(stats_of(pool).objects, 2);
        object[at] = was;
    }
    logged = 0;
    object[50] = 'x';
    sagemem_pool_destroy(pool); /* the last chance to say so */
    CORRUPT("sagemem_pool_destroy", "at byte 50");
    heap_done(heap);
}

static void *use_from_elsewhere(void *ctx) {
    sagemem_pool *pool = (sagemem_pool *)ctx;
    sagemem_pool_stats stats;
    assert_null(sagemem_pool_alloc(pool));
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_alloc", "another thread");
    sagemem_pool_free(pool, &stats);
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_free", "another thread");
    assert_int_equal(sagemem_pool_get_stats(pool, &stats), SAGEMEM_E_BUSY);
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_get_stats", "another thread");
    sagemem_pool_destroy(pool);
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_destroy", "another thread");
    return NULL;
}
static void in_thread(void *(*run)(void *), void *ctx) {
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run, ctx), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}
static sagemem_heap *moving;
static void *take_over(void *ctx) {
    sagemem_pool *pool = (sagemem_pool *)ctx;
    REQUIRE(sagemem_heap_adopt(moving) == SAGEMEM_OK, "not adopted");
    void *object = sagemem_pool_alloc(pool);
    REQUIRE(object != NULL, "no object");
    sagemem_pool_free(pool, object);
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    sagemem_heap *heap = moving = heap_with(0, 0);
    sagemem_pool *pool = pool_of(heap, 64);
    assert_non_null(sagemem_pool_alloc(pool));
    in_thread(use_from_elsewhere, pool);
    assert_non_null(sagemem_pool_alloc(pool));
    in_thread(take_over, pool);
    assert_int_equal(sagemem_heap_adopt(heap), SAGEMEM_OK); /* its thread has ended */
    assert_non_null(sagemem_pool_alloc(pool));
    assert_int_equal(stats_of(pool).objects, 3);
    sagemem_pool_destroy(pool);
    heap_done(heap);
}

static void *adopt_only(void *ctx) {
    REQUIRE(sagemem_heap_adopt((sagemem_heap *)ctx) == SAGEMEM_OK, "not adopted");
    return NULL;
}

/* Whoever had the heap is shut out of its pools at once, also where the new owner has not used them yet. */
static void test_shut_out(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 0);
    sagemem_pool *pool = pool_of(heap, 64);
    void *object[40];
    for (int i = 0; i < 40; i++) object[i] = sagemem_pool_alloc(pool);
    for (int i = 0; i < 30; i++) sagemem_pool_free(pool, object[i]);
    in_thread(adopt_only, heap);
    assert_null(sagemem_pool_alloc(pool));
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_alloc", "another thread");
    sagemem_pool_free(pool, object[39]);
    MISUSED(SAGEMEM_E_BUSY, "sagemem_pool_free", "another thread");
    assert_int_equal(sagemem_heap_adopt(heap), SAGEMEM_OK);
    assert_int_equal(stats_of(pool).objects, 10);
    sagemem_pool_destroy(pool);
    heap_done(heap);
}

enum { WORKERS = 4 };
static void *work(void *ctx) {
    sagemem_pool *pool = (sagemem_pool *)ctx;
    unsigned *mine[50];
    for (unsigned round = 0; round < oracle_steps(100, 10); round++) {
        for (unsigned i = 0; i < 50; i++) {
            mine[i] = (unsigned *)sagemem_pool_alloc(pool);
            REQUIRE(mine[i] != NULL, "no object");
            *mine[i] = i * 1000 + round;
        }
        for (unsigned i = 0; i < 50; i++) {
            REQUIRE(*mine[i] == i * 1000 + round, "it is another thread's, too");
            sagemem_pool_free(pool, mine[i]);
        }
    }
    return NULL;
}
static void test_shared(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(SAGEMEM_HEAP_SHARED, 0);
    sagemem_pool *pool = pool_of(heap, 24);
    pthread_t thread[WORKERS];
    for (int i = 0; i < WORKERS; i++) assert_int_equal(pthread_create(&thread[i], NULL, work, pool), 0);
    for (int i = 0; i < WORKERS; i++) pthread_join(thread[i], NULL);
    assert_int_equal(stats_of(pool).objects, 0);
    assert_int_equal(stats_of(pool).total_allocs, WORKERS * 50 * oracle_steps(100, 10));
    sagemem_pool_destroy(pool);
    heap_done(heap);
}

/* -- Failures on purpose ---------------------------------------------------------------------------------------- */

typedef struct life {
    sagemem_heap *heap;
    bool bypass, hooked;
    int failures;
} life;

/* One that fails must have changed nothing: the same call is made again, and must succeed. */
static void *insist(sagemem_pool *pool, const void *from, life *l) {
    sagemem_pool_stats before = stats_of(pool);
    void *object = from != NULL ? sagemem_pool_copy(pool, from) : sagemem_pool_alloc(pool);
    if (object != NULL) return object;
    l->failures++;
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_NOMEM);
    sagemem_pool_stats after = stats_of(pool);
    assert_int_equal(after.objects, before.objects);
    assert_int_equal(after.peak_objects, before.peak_objects);
    assert_int_equal(after.total_allocs, before.total_allocs);
    assert_int_equal(after.held, tag_used(l->heap, TAG));
    object = from != NULL ? sagemem_pool_copy(pool, from) : sagemem_pool_alloc(pool);
    assert_non_null(object);
    return object;
}

static sagemem_status live_once(void *ctx) {
    life *l = (life *)ctx;
    sagemem_heap_desc heap_desc = {0};
    l->heap = sagemem_heap_create(&heap_desc);
    if (l->heap == NULL) return SAGEMEM_OK;
    sagemem_pool_desc desc = l->hooked ? hooked_desc(l->heap) : desc_of(l->heap, 56);
    desc.bypass = l->bypass;
    desc.initial_count = 20;
    sagemem_pool *pool = sagemem_pool_create(&desc);
    if (pool == NULL) {
        l->failures++;
        assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_NOMEM);
        assert_int_equal(tag_used(l->heap, TAG), 0);
        pool = sagemem_pool_create(&desc);
        assert_non_null(pool);
    }
    void *object[120];
    for (int i = 0; i < 120; i++) object[i] = insist(pool, i % 3 == 2 ? object[i - 1] : NULL, l);
    for (int i = 0; i < 120; i += 2) sagemem_pool_free(pool, object[i]);
    assert_int_equal(stats_of(pool).objects, 60);
    sagemem_pool_reset(pool);
    sagemem_pool_trim(pool);
    assert_non_null(insist(pool, NULL, l));
    assert_int_equal(sagemem_heap_check(l->heap), 0);
    sagemem_pool_destroy(pool);
    assert_int_equal(hooks.live, 0);
    assert_int_equal(tag_used(l->heap, TAG), 0);
    sagemem_heap_destroy(l->heap);
    return SAGEMEM_OK;
}

static void test_failures(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        life l = {NULL, i % 2 == 1, i / 2 == 1, 0};
        memset(&hooks, 0, sizeof hooks);
        uint64_t points = 0;
        assert_int_equal(sagemem_check_failures(live_once, &l, &points), SAGEMEM_OK);
        assert_true(points > 10);
        assert_true(l.failures > 4);
    }
}

/* -- Beside a second set of books ----------------------------------------------------------------------------------- */

enum { BOOKS = 3000 };
typedef struct books {
    unsigned char *object[BOOKS];
    unsigned char content[BOOKS];
    size_t count, freed_at; /* freed_at: entries of `freed` */
    unsigned char *freed[64];
    uint64_t peak, total;
} books;

static void books_add(books *b, unsigned char *object, size_t size, unsigned char content) {
    for (size_t i = 0; i < size; i++) object[i] = content;
    b->object[b->count] = object;
    b->content[b->count++] = content;
    b->total++;
    if (b->count > b->peak) b->peak = b->count;
}
static void books_whole(const books *b, size_t at, size_t size) {
    for (size_t i = 0; i < size; i++) REQUIRE(b->object[at][i] == b->content[at], "object %zu was overwritten at byte %zu", at, i);
}
static int by_address(const void *a, const void *b) {
    uintptr_t x = (uintptr_t) * (unsigned char *const *)a, y = (uintptr_t) * (unsigned char *const *)b;
    return x < y ? -1 : x > y;
}
static void books_compare(books *b, sagemem_pool *pool, sagemem_heap *heap, size_t size) {
    static seen s;
    static unsigned char *sorted[BOOKS];
    memset(&s, 0, sizeof s);
    sagemem_pool_each(pool, see, &s);
    REQUIRE(s.count == b->count, "%zu objects visited, %zu are live", s.count, b->count);
    qsort(s.object, s.count, sizeof s.object[0], by_address);
    memcpy(sorted, b->object, b->count * sizeof sorted[0]);
    qsort(sorted, b->count, sizeof sorted[0], by_address);
    for (size_t i = 0; i < s.count; i++) REQUIRE(s.object[i] == sorted[i], "another object was visited");
    for (size_t i = 0; i < b->count; i++) books_whole(b, i, size);
    sagemem_pool_stats stats = stats_of(pool);
    REQUIRE(stats.objects == b->count && stats.peak_objects == b->peak && stats.total_allocs == b->total,
            "objects %llu, %llu, %llu; should be %llu, %llu, %llu", UINT(stats.objects), UINT(stats.peak_objects),
            UINT(stats.total_allocs), UINT(b->count), UINT(b->peak), UINT(b->total));
    REQUIRE(stats.capacity >= b->count && stats.held == tag_used(heap, TAG), "held %llu", UINT(stats.held));
    REQUIRE(sagemem_heap_check(heap) == 0, "damaged");
}

static void books_free(books *b, sagemem_pool *pool, chance *luck, size_t size) {
    size_t at = (size_t)chance_below(luck, b->count);
    books_whole(b, at, size);
    sagemem_pool_free(pool, b->object[at]);
    b->freed[b->freed_at++ % 64] = b->object[at];
    b->object[at] = b->object[--b->count];
    b->content[at] = b->content[b->count];
}

/* Frees something that was freed some time ago: a fault, unless it is live again. */
static void books_misuse(books *b, sagemem_pool *pool, chance *luck, bool bypass) {
    unsigned char *stale = b->freed[chance_below(luck, 64)];
    for (size_t i = 0; i < b->count; i++)
        if (b->object[i] == stale) return;
    if (stale == NULL || bypass) return;
    sagemem_pool_free(pool, stale);
    REQUIRE(fault.count == 1 && (fault.error.status == SAGEMEM_E_STALE || fault.error.status == SAGEMEM_E_FOREIGN), "%d faults: %s",
            fault.count, fault.error.message);
    fault.count = 0;
}

static void random_walk(chance *luck, uint32_t flags, bool bypass, unsigned steps) {
    static const size_t sizes[] = {1, 7, 8, 13, 16, 64, 304, 704, 5000};
    static books b;
    memset(&b, 0, sizeof b);
    sagemem_heap *heap = heap_with(flags, 0);
    sagemem_pool_desc desc = desc_of(heap, sizes[chance_below(luck, 9)]);
    desc.alignment = chance_below(luck, 2) ? 0 : (size_t)1 << chance_below(luck, 8);
    desc.initial_count = chance_below(luck, 2) ? 0 : (size_t)chance_below(luck, 500);
    desc.growth = chance_below(luck, 2) ? 0 : 1 + (double)chance_below(luck, 4);
    desc.bypass = bypass;
    sagemem_pool *pool = sagemem_pool_create(&desc);
    REQUIRE(pool != NULL, "no pool");
    size_t size = desc.object_size, most = 2 + (size_t)chance_below(luck, BOOKS - 2);
    unsigned tide = 60; /* chance of an allocation, percent */
    for (unsigned step = 0; step < steps; step++) {
        if (chance_below(luck, 200) == 0) tide = 20 + 30 * (unsigned)chance_below(luck, 3);
        uint64_t dice = chance_below(luck, 100);
        unsigned char content = (unsigned char)chance_next(luck);
        if (dice < tide && b.count < most) {
            bool copy = b.count > 0 && chance_below(luck, 8) == 0;
            size_t from = copy ? (size_t)chance_below(luck, b.count) : 0;
            unsigned char *object = (unsigned char *)(copy ? sagemem_pool_copy(pool, b.object[from]) : sagemem_pool_alloc(pool));
            REQUIRE(object != NULL, "no object");
            REQUIRE(desc.alignment == 0 || bypass || (uintptr_t)object % desc.alignment == 0, "not aligned");
            for (size_t i = 0; i < size && copy; i++) REQUIRE(object[i] == b.content[from], "not a copy");
            for (size_t i = 0; i < size && !copy && (flags & SAGEMEM_HEAP_ZERO) != 0; i++) REQUIRE(object[i] == 0, "not zero");
            books_add(&b, object, size, content);
        } else if (dice >= tide && b.count > 0) {
            books_free(&b, pool, luck, size);
        }
        if (chance_below(luck, 40) == 0) books_misuse(&b, pool, luck, bypass);
        if (chance_below(luck, 500) == 0) books_compare(&b, pool, heap, size);
        if (chance_below(luck, 700) == 0) sagemem_pool_trim(pool);
        if (chance_below(luck, 3000) == 0) {
            sagemem_pool_reset(pool);
            b.count = 0;
        }
    }
    books_compare(&b, pool, heap, size);
    if (chance_below(luck, 2)) sagemem_pool_destroy(pool);
    else sagemem_heap_reset(heap);
    heap_done(heap);
}

static void test_random(void **state) {
    (void)state;
    chance luck = {oracle_seed()};
    print_message("seed: %llu\n", UINT(luck.state));
    for (int f = 0; f < FLAGS; f++)
        for (int i = 0; i < 4; i++) random_walk(&luck, all_flags[f], i == 3, oracle_steps(8000, 700));
}

/* -- Typed ------------------------------------------------------------------------------------------------------------ */

typedef struct halo {
    double position[3];
    int id;
} halo;
typedef struct line {
    char bytes[96];
} __attribute__((aligned(32))) line;
SAGEMEM_POOL_OF(halo_pool, halo);
SAGEMEM_POOL_OF(line_pool, line);

static bool add_id(void *ctx, halo *h) {
    *(int *)ctx += h->id;
    return true;
}
static void test_typed(void **state) {
    (void)state;
    sagemem_pool *pool = halo_pool_create(NULL);
    halo *a = halo_pool_alloc(pool);
    a->id = 5;
    halo *b = halo_pool_copy(pool, a), *c = halo_pool_copy(pool, a);
    b->id = 7;
    halo_pool_free(pool, c);
    int sum = 0;
    halo_pool_each(pool, add_id, &sum);
    assert_int_equal(sum, 12);
    sagemem_pool_stats stats;
    assert_int_equal(halo_pool_get_stats(pool, &stats), SAGEMEM_OK);
    assert_int_equal(stats.objects, 2);
    halo_pool_reset(pool);
    assert_int_equal(stats_of(pool).objects, 0);
    halo_pool_destroy(pool);
    sagemem_heap *heap = heap_with(0, 0);
    sagemem_pool_desc desc = desc_of(heap, 1); /* the type's size counts */
    pool = line_pool_create(&desc);
    assert_int_equal(sagemem_pool_get_desc(pool, &desc), SAGEMEM_OK);
    assert_int_equal(desc.object_size, 96);
    assert_int_equal(desc.alignment, 32);
    line *l = line_pool_alloc(pool);
    assert_int_equal((uintptr_t)l % 32, 0);
    line_pool_destroy(pool);
    heap_done(heap);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_bad_descs),
        TEST(test_defaults),
        TEST(test_sizes_and_alignments),
        TEST(test_order),
        TEST(test_growth),
        TEST(test_holes),
        TEST(test_full),
        TEST(test_stats),
        TEST(test_zero_and_fill),
        TEST(test_each),
        TEST(test_allocate_in_visit),
        TEST(test_reset_and_trim),
        TEST(test_hooks),
        TEST(test_failing_hooks),
        TEST(test_hooks_that_call_the_pool),
        TEST(test_scopes),
        TEST(test_order_of_ends),
        TEST(test_heap_ends),
        TEST(test_limits),
        TEST(test_small_block_is_no_error),
        TEST(test_reclaimer_frees_objects),
        TEST(test_foreign_and_twice),
        TEST(test_bypass_misuse),
        TEST(test_no_pool),
        TEST(test_late_write),
        TEST(test_overflow_in_checked_heap),
        TEST(test_threads),
        TEST(test_shut_out),
        TEST(test_shared),
        TEST(test_failures),
        TEST(test_random),
        TEST(test_typed),
    };
    return cmocka_run_group_tests_name("public_pool", tests, NULL, NULL);
}
