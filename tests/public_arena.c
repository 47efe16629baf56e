/* Arenas through the public interface: what is handed out, marks, refs, images, and all that can go wrong. */
#include "public.h"

#include "oracle.h"

enum { TAG = 7, FRONT = 16 }; /* FRONT: bytes of each chunk that are the arena's own */

/* Sizes that the compiler must not see through: it would warn about them. */
static volatile size_t most = SIZE_MAX;

/* Where a tool watches, allocations have gaps behind them, and it would report what some tests do on purpose. */
static bool watched(void) { return UNDER_ASAN || on_valgrind(); }

/* -- What the library said ------------------------------------------------------------------------------ */

static struct {
    int count;
    sagemem_fault_kind kind;
    sagemem_error error;
} fault;

static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx;
    fault.count++;
    fault.kind = kind;
    fault.error = *error;
}

static int logged;
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

static void assert_says(const char *message, const char *part) {
    if (strstr(message, part) == NULL) fail_msg("'%s' does not say '%s'", message, part);
}

static void assert_failed(sagemem_status status, const char *call, const char *remedy) {
    const sagemem_error *error = sagemem_last_error();
    if (error->status != status)
        fail_msg("%s instead of %s: %s", sagemem_status_name(error->status), sagemem_status_name(status), error->message);
    assert_string_equal(error->call, call);
    assert_says(error->message, remedy);
    assert_int_equal(fault.count, 0);
}

/* The fault handler was called once since the last look. */
static void assert_faulted(sagemem_fault_kind kind, sagemem_status status, const char *call) {
    assert_int_equal(fault.count, 1);
    fault.count = 0;
    assert_int_equal(fault.kind, kind);
    if (fault.error.status != status)
        fail_msg("%s instead of %s: %s", sagemem_status_name(fault.error.status), sagemem_status_name(status), fault.error.message);
    assert_string_equal(fault.error.call, call);
}

/* -- Helpers -------------------------------------------------------------------------------------------- */

static sagemem_heap *heap_with(uint32_t flags) {
    sagemem_heap_desc desc = {0};
    desc.name = "arenas";
    desc.flags = flags;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    return heap;
}

static sagemem_arena_desc desc_of(sagemem_heap *heap, size_t chunk_bytes, uint64_t max_bytes) {
    sagemem_arena_desc desc = {0};
    desc.heap = heap;
    desc.tag = TAG;
    desc.name = "names";
    desc.chunk_bytes = chunk_bytes;
    desc.max_bytes = max_bytes;
    return desc;
}

static sagemem_arena *arena_in(sagemem_heap *heap, size_t chunk_bytes) {
    sagemem_arena_desc desc = desc_of(heap, chunk_bytes, 0);
    sagemem_arena *arena = sagemem_arena_create(&desc);
    assert_non_null(arena);
    return arena;
}

static sagemem_arena_stats stats_of(const sagemem_arena *arena) {
    sagemem_arena_stats s;
    assert_int_equal(sagemem_arena_get_stats(arena, &s), SAGEMEM_OK);
    return s;
}

static sagemem_tag_stats tag_stats_of(const sagemem_heap *heap) {
    sagemem_tag_stats s;
    assert_int_equal(sagemem_tag_get_stats(heap, TAG, &s), SAGEMEM_OK);
    return s;
}

/* The heap has nothing of the tag any more, and goes. */
static void heap_done(sagemem_heap *heap) {
    sagemem_tag_stats s = tag_stats_of(heap);
    assert_int_equal(s.used, 0);
    assert_int_equal(s.blocks, 0);
    assert_int_equal(sagemem_heap_check(heap), 0);
    assert_int_equal(fault.count, 0);
    sagemem_heap_destroy(heap);
    assert_int_equal(fault.count, 0);
}

static void paint(void *at, size_t size, uint64_t seed) {
    for (size_t i = 0; i < size; i++) ((unsigned char *)at)[i] = oracle_byte(seed, i);
}
static bool painted(const void *at, size_t size, uint64_t seed) {
    for (size_t i = 0; i < size; i++)
        if (((const unsigned char *)at)[i] != oracle_byte(seed, i)) return false;
    return true;
}

static unsigned char scratch[1 << 20];
static sagemem_arena_ref put_painted(sagemem_arena *arena, size_t size, uint64_t seed) {
    paint(scratch, size, seed);
    sagemem_arena_ref ref = sagemem_arena_put(arena, scratch, size);
    assert_int_not_equal(ref.chunk, 0);
    assert_int_equal(ref.length, size);
    return ref;
}
static bool got_painted(const sagemem_arena *arena, sagemem_arena_ref ref, uint64_t seed) {
    size_t size = 1;
    const void *at = sagemem_arena_get(arena, ref, &size);
    return at != NULL && size == ref.length && painted(at, size, seed);
}
static void assert_ref(sagemem_arena_ref ref, uint32_t chunk, uint32_t offset, uint64_t length) {
    if (ref.chunk != chunk || ref.offset != offset || ref.length != length)
        fail_msg("ref {%u, %u, %llu} instead of {%u, %u, %llu}", ref.chunk, ref.offset, UINT(ref.length), chunk, offset,
                 UINT(length));
}

static void in_thread(void *(*fn)(void *), void *ctx) {
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, fn, ctx), 0);
    pthread_join(thread, NULL);
}

/* -- Making, and what is handed out ------------------------------------------------------------------------ */

static void desc_defaults_are_resolved(void **state) {
    (void)state;
    sagemem_arena *arena = sagemem_arena_create(NULL);
    assert_non_null(arena);
    sagemem_arena_desc desc;
    assert_int_equal(sagemem_arena_get_desc(arena, &desc), SAGEMEM_OK);
    assert_ptr_equal(desc.heap, sagemem_heap_default());
    assert_int_equal(desc.tag, SAGEMEM_UNTAGGED);
    assert_string_equal(desc.name, "arena");
    assert_int_equal(desc.chunk_bytes, 65536);
    assert_int_equal(desc.max_bytes, 0);
    assert_int_equal(stats_of(arena).chunks, 0); /* nothing until it is used */
    assert_int_equal(stats_of(arena).held, 0);
    sagemem_arena_destroy(arena);
    sagemem_arena_destroy(NULL);

    sagemem_heap *heap = heap_with(0);
    char name[] = "a name of the caller's";
    sagemem_arena_desc given = desc_of(heap, 5001, 77777);
    given.name = name;
    arena = sagemem_arena_create(&given);
    assert_non_null(arena);
    name[0] = 'X';
    assert_int_equal(sagemem_arena_get_desc(arena, &desc), SAGEMEM_OK);
    assert_ptr_equal(desc.heap, heap);
    assert_int_equal(desc.tag, TAG);
    assert_string_equal(desc.name, "a name of the caller's");
    assert_int_equal(desc.chunk_bytes, 5008);
    assert_int_equal(desc.max_bytes, 77777);
    assert_int_equal(sagemem_arena_get_desc(arena, NULL), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_arena_get_desc", "pass the address");
    assert_int_equal(sagemem_arena_get_stats(arena, NULL), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_arena_get_stats", "pass the address");
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

static void desc_that_cannot_be(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    const size_t bad[] = {1, 1023, ((size_t)1 << 30) + 1, most};
    for (int i = 0; i < 4; i++) {
        sagemem_arena_desc desc = desc_of(heap, bad[i], 0);
        assert_null(sagemem_arena_create(&desc));
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_arena_create", "1 KiB to 1 GiB");
        assert_null(sagemem_arena_load(&desc, "", 0));
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_arena_load", "1 KiB to 1 GiB");
    }
    const size_t good[] = {1024, (size_t)1 << 30};
    for (int i = 0; i < 2; i++) sagemem_arena_destroy(arena_in(heap, good[i]));
    sagemem_arena_desc desc = desc_of(heap, 0, 0);
    desc.tag = SAGEMEM_TAG_MAX + 1;
    assert_null(sagemem_arena_create(&desc));
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_arena_create", "sagemem_tag_named");
    heap_done(heap);
}

static void alloc_is_aligned_and_apart(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 8192);
    enum { COUNT = 2000 };
    static struct {
        unsigned char *at;
        size_t size;
    } item[COUNT];
    chance luck = {oracle_seed()};
    for (int i = 0; i < COUNT; i++) {
        size_t alignment = (size_t)1 << chance_below(&luck, 13), size = (size_t)chance_below(&luck, 100);
        bool plain = chance_below(&luck, 2) == 0;
        item[i].size = size;
        item[i].at = plain ? sagemem_arena_alloc(arena, size) : sagemem_arena_alloc_aligned(arena, size, alignment);
        assert_non_null(item[i].at);
        assert_int_equal((uintptr_t)item[i].at % (plain ? 16 : alignment), 0);
        if (i > 0) assert_ptr_not_equal(item[i].at, item[i - 1].at); /* also for size 0 */
        paint(item[i].at, size, (uint64_t)i);
    }
    for (int i = 0; i < COUNT; i++) assert_true(painted(item[i].at, item[i].size, (uint64_t)i));
    sagemem_arena_stats s = stats_of(arena);
    sagemem_tag_stats t = tag_stats_of(heap);
    assert_int_equal(s.chunks, t.blocks);
    assert_in_range(t.used, s.held, s.held + 64 * s.chunks); /* usable bytes are a few more than were asked for */
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

static void alloc_refuses(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 1024);
    assert_non_null(sagemem_arena_alloc(arena, 10));
    sagemem_arena_stats before = stats_of(arena);
    const size_t alignments[] = {0, 3, 48, 8192, most};
    for (int i = 0; i < 5; i++) {
        assert_null(sagemem_arena_alloc_aligned(arena, 8, alignments[i]));
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_arena_alloc_aligned", "power of two");
    }
    for (size_t less = 0; less < 70; less++) {
        assert_null(sagemem_arena_alloc(arena, most - less));
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_arena_alloc", "");
        assert_null(sagemem_arena_alloc_aligned(arena, most - less, 4096));
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_arena_alloc_aligned", "");
        assert_int_equal(sagemem_arena_put(arena, "", most - less).chunk, 0);
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_arena_put", "");
    }
    assert_null(sagemem_arena_alloc(arena, most / 4));
    sagemem_arena_stats after = stats_of(arena);
    assert_memory_equal(&before, &after, sizeof before);
    assert_non_null(sagemem_arena_alloc(arena, 10));
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

static void put_is_packed(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 4096);
    assert_ref(put_painted(arena, 1, 1), 1, 0, 1);
    assert_ref(put_painted(arena, 7, 2), 1, 1, 7);
    assert_ref(sagemem_arena_put(arena, NULL, 0), 1, 8, 0);
    assert_ref(put_painted(arena, 1000, 3), 1, 8, 1000);
    assert_int_equal(stats_of(arena).used, 1008);
    assert_int_equal(stats_of(arena).held, 4096);
    assert_int_equal(stats_of(arena).chunks, 1);
    sagemem_arena_ref none = sagemem_arena_put(arena, NULL, 3);
    assert_ref(none, 0, 0, 0);
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_arena_put", "data is NULL");
    assert_int_equal(stats_of(arena).used, 1008);

    /* Behind what is not aligned an allocation is. */
    sagemem_arena_ref ref = {1, 1008, 8};
    char *at = sagemem_arena_alloc(arena, 8);
    assert_ptr_equal(at, sagemem_arena_get(arena, ref, NULL));
    put_painted(arena, 1, 4);
    assert_int_equal((uintptr_t)sagemem_arena_alloc(arena, 1) % 16, 0);

    /* Fresh arenas: the first put may be of nothing, or of what needs a chunk of its own. */
    sagemem_arena *other = arena_in(heap, 4096);
    assert_ref(sagemem_arena_put(other, "", 0), 1, 0, 0);
    size_t size = 1;
    sagemem_arena_ref first = {1, 0, 0};
    assert_non_null(sagemem_arena_get(other, first, &size));
    assert_int_equal(size, 0);
    sagemem_arena_destroy(other);
    other = arena_in(heap, 4096);
    assert_ref(put_painted(other, 2000, 5), 1, 0, 2000);
    assert_ref(put_painted(other, 20, 6), 2, 0, 20);
    sagemem_arena_destroy(other);
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

static void get_refuses_what_is_outside(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 4096), *other = arena_in(heap, 4096);
    put_painted(arena, 100, 1);
    put_painted(arena, 3985, 2); /* a chunk of its own, as the next */
    put_painted(arena, 3990, 2);
    static const sagemem_arena_ref bad[] = {
        {0, 0, 0},   {0, 0, 1},           {4, 0, 0},          {UINT32_MAX, 0, 0},     {1, 0, 101},  {1, 101, 0},
        {1, 100, 1}, {1, 50, UINT64_MAX}, {1, UINT32_MAX, 0}, {1, 1, UINT64_MAX - 1}, {2, 0, 3986}, {3, 3990, 1}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        size_t size = 1;
        assert_null(sagemem_arena_get(arena, bad[i], &size));
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_arena_get", "names");
        assert_int_equal(size, 0);
        assert_null(sagemem_arena_get(arena, bad[i], NULL));
    }
    static const sagemem_arena_ref good[] = {{1, 100, 0}, {1, 99, 1}, {1, 0, 100}, {2, 0, 3985}, {3, 3990, 0}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) assert_non_null(sagemem_arena_get(arena, good[i], NULL));
    assert_null(sagemem_arena_get(other, good[0], NULL));
    sagemem_arena_destroy(other);
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

static void large_things_have_chunks_of_their_own(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 4096);
    assert_ref(put_painted(arena, 10, 1), 1, 0, 10);
    assert_ref(put_painted(arena, 3000, 2), 1, 10, 3000); /* large, but it fits */
    assert_ref(put_painted(arena, 1072, 3), 2, 0, 1072);  /* larger than a quarter, and does not */
    assert_int_equal(stats_of(arena).held, 4096 + 1072 + FRONT);
    assert_ref(put_painted(arena, 100000, 4), 3, 0, 100000);
    assert_ref(put_painted(arena, 1000, 5), 1, 3010, 1000); /* what was left of the first is not lost */
    assert_ref(put_painted(arena, 1024, 6), 4, 0, 1024);    /* a quarter: an ordinary chunk */
    assert_int_equal(stats_of(arena).used, 10 + 3000 + 1072 + 100000 + 1000 + 1024);
    assert_ref(put_painted(arena, 4096 - FRONT - 1024, 7), 4, 1024, 4096 - FRONT - 1024); /* to the last byte */
    assert_ref(put_painted(arena, 1, 8), 5, 0, 1);
    sagemem_arena_ref refs[] = {{1, 0, 10}, {1, 10, 3000}, {2, 0, 1072}, {3, 0, 100000}, {1, 3010, 1000}, {4, 0, 1024}};
    for (size_t i = 0; i < 6; i++) assert_true(got_painted(arena, refs[i], i + 1));

    /* The same by allocations: aligned in a chunk of its own, too. */
    for (size_t alignment = 1; alignment <= 4096; alignment *= 2) {
        uint64_t held = stats_of(arena).held;
        char *at = sagemem_arena_alloc_aligned(arena, 5000, alignment);
        assert_non_null(at);
        assert_int_equal((uintptr_t)at % alignment, 0);
        paint(at, 5000, alignment);
        assert_in_range(stats_of(arena).held - held, 5000, 5000 + alignment + 32);
        assert_true(painted(at, 5000, alignment));
    }
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

/* -- Marks --------------------------------------------------------------------------------------------------- */

static void rewind_takes_back(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 4096);
    sagemem_arena_mark start = sagemem_arena_get_mark(arena);
    sagemem_arena_ref kept = put_painted(arena, 100, 1);
    sagemem_arena_mark mark = sagemem_arena_get_mark(arena);
    for (int round = 0; round < 3; round++) {
        put_painted(arena, 50, 2);
        put_painted(arena, 20000, 3);
        sagemem_arena_ref ref = {0, 0, 0};
        for (int i = 0; i < 10; i++) ref = put_painted(arena, 1000, 4);
        assert_int_equal(ref.chunk, 4);
        sagemem_arena_stats s = stats_of(arena);
        assert_int_equal(s.used, 100 + 50 + 20000 + 10000);
        assert_int_equal(s.peak_used, s.used);
        assert_int_equal(s.chunks, 4);
        assert_int_equal(s.held, 3 * 4096 + 20000 + FRONT);
        sagemem_arena_rewind(arena, mark);
        assert_int_equal(fault.count, 0);
        s = stats_of(arena);
        assert_int_equal(s.used, 100);
        assert_int_equal(s.peak_used, 100 + 50 + 20000 + 10000);
        assert_int_equal(s.chunks, 3); /* the ordinary ones are kept, that of the large thing has gone */
        assert_int_equal(s.held, 3 * 4096);
        assert_null(sagemem_arena_get(arena, ref, NULL));
        assert_true(got_painted(arena, kept, 1));
    }
    assert_int_equal(tag_stats_of(heap).total_blocks, 3 + 3); /* the kept ones were used again */
    sagemem_arena_rewind(arena, start);
    assert_int_equal(stats_of(arena).used, 0);
    assert_null(sagemem_arena_get(arena, kept, NULL));
    assert_ref(put_painted(arena, 5, 5), 1, 0, 5);
    sagemem_arena_reset(arena);
    assert_int_equal(stats_of(arena).used, 0);
    assert_int_equal(stats_of(arena).held, 3 * 4096);
    assert_int_equal(sagemem_arena_trim(arena), 3 * 4096);
    assert_int_equal(sagemem_arena_trim(arena), 0);
    assert_int_equal(stats_of(arena).held, 0);
    assert_int_equal(tag_stats_of(heap).used, 0);
    assert_int_equal(stats_of(arena).peak_used, 30150);
    assert_ref(put_painted(arena, 5, 5), 1, 0, 5);
    sagemem_arena_destroy(arena);
    assert_int_equal(fault.count, 0);
    heap_done(heap);
}

static void trim_keeps_what_is_in_use(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 1024);
    sagemem_arena_ref first = put_painted(arena, 900, 1), second = put_painted(arena, 200, 2);
    sagemem_arena_mark mark = sagemem_arena_get_mark(arena);
    for (int i = 0; i < 20; i++) put_painted(arena, 250, 3);
    sagemem_arena_rewind(arena, mark);
    uint64_t held = stats_of(arena).held;
    assert_int_equal(sagemem_arena_trim(arena), held - 1024 - 900 - 12 - FRONT);
    assert_int_equal(stats_of(arena).chunks, 2);
    assert_true(got_painted(arena, first, 1) && got_painted(arena, second, 2));
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

static void marks_know_when_they_are_past(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 4096), *other = arena_in(heap, 4096);
    sagemem_arena_mark low = sagemem_arena_get_mark(arena);
    put_painted(arena, 10, 1);
    sagemem_arena_mark middle = sagemem_arena_get_mark(arena), again = sagemem_arena_get_mark(arena);
    put_painted(arena, 10, 2);
    sagemem_arena_mark high = sagemem_arena_get_mark(arena);
    sagemem_arena_rewind(arena, high); /* to where it is */
    sagemem_arena_rewind(arena, middle);
    sagemem_arena_rewind(arena, middle); /* stays good, and so does its twin */
    sagemem_arena_rewind(arena, again);
    assert_int_equal(fault.count, 0);
    assert_int_equal(stats_of(arena).used, 10);
    put_painted(arena, 10, 3); /* the very place where `high` was */
    sagemem_arena_rewind(arena, high);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "sagemem_arena_rewind");
    assert_says(fault.error.message, "take a new one");
    assert_int_equal(stats_of(arena).used, 20); /* nothing has changed */
    put_painted(arena, 3000, 4);
    sagemem_arena_rewind(arena, high);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "sagemem_arena_rewind");
    sagemem_arena_mark fresh = sagemem_arena_get_mark(arena);
    sagemem_arena_rewind(arena, fresh);
    sagemem_arena_rewind(arena, middle);
    assert_int_equal(fault.count, 0);
    sagemem_arena_rewind(arena, fresh);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "sagemem_arena_rewind");
    sagemem_arena_reset(arena);
    sagemem_arena_rewind(arena, middle);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "sagemem_arena_rewind");
    sagemem_arena_rewind(arena, low); /* the start is always where it was */
    assert_int_equal(fault.count, 0);

    /* Marks of another arena, and what never was one. */
    put_painted(other, 10, 1);
    const sagemem_arena_mark foreign[] = {
        {0, 0}, {0, low.serial - 1}, {0, low.serial + 1000}, {0, UINT64_MAX}, sagemem_arena_get_mark(other)};
    for (int i = 0; i < 5; i++) {
        sagemem_arena_rewind(arena, foreign[i]);
        assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "sagemem_arena_rewind");
    }
    sagemem_arena_mark beyond = sagemem_arena_get_mark(arena);
    beyond.position++;
    sagemem_arena_rewind(arena, beyond);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "sagemem_arena_rewind");
    beyond.position = UINT64_MAX;
    sagemem_arena_rewind(arena, beyond);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "sagemem_arena_rewind");
    sagemem_arena_destroy(other);
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

/* A step that keeps its result: mark, scratch, rewind, put. However often, all outer marks stay good and a stale one is seen. */
static void marks_of_many_steps(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 4096);
    sagemem_arena_mark outer = sagemem_arena_get_mark(arena), stale = outer;
    put_painted(arena, 10, 1);
    sagemem_arena_mark low = sagemem_arena_get_mark(arena);
    put_painted(arena, 10, 1);
    stale = sagemem_arena_get_mark(arena);
    sagemem_arena_rewind(arena, low);
    for (int i = 0; i < 1000; i++) {
        sagemem_arena_mark step = sagemem_arena_get_mark(arena);
        put_painted(arena, 500, 2);
        sagemem_arena_rewind(arena, step);
        put_painted(arena, 10, 3);
    }
    assert_int_equal(fault.count, 0);
    sagemem_arena_rewind(arena, stale);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "sagemem_arena_rewind");

    /* Rewinds that make marks stale at ever higher places: 32 are remembered. */
    put_painted(arena, 10, 1);
    sagemem_arena_mark below = sagemem_arena_get_mark(arena);
    put_painted(arena, 40, 1);
    stale = sagemem_arena_get_mark(arena);
    sagemem_arena_rewind(arena, below);
    for (int i = 0; i < 31; i++) {
        put_painted(arena, 100, 1);
        sagemem_arena_mark step = sagemem_arena_get_mark(arena);
        put_painted(arena, 100, 2);
        (void)sagemem_arena_get_mark(arena);
        sagemem_arena_rewind(arena, step);
    }
    assert_int_equal(fault.count, 0);
    sagemem_arena_rewind(arena, stale);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "sagemem_arena_rewind");
    sagemem_arena_rewind(arena, below);
    sagemem_arena_rewind(arena, outer);
    assert_int_equal(fault.count, 0);
    assert_int_equal(stats_of(arena).used, 0);
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

/* -- Limits -------------------------------------------------------------------------------------------------- */

static void max_bytes_is_kept(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena_desc desc = desc_of(heap, 4096, 10000);
    sagemem_arena *arena = sagemem_arena_create(&desc);
    assert_non_null(arena);
    for (int i = 0; i < 9; i++) put_painted(arena, 1000, 2); /* two chunks, and what is left of 10000 */
    assert_in_range(stats_of(arena).held, 9984, 10000);
    sagemem_arena_stats before = stats_of(arena);
    assert_null(sagemem_arena_alloc(arena, 1020));
    assert_failed(SAGEMEM_E_FULL, "sagemem_arena_alloc", "raise max_bytes");
    assert_int_equal(sagemem_arena_put(arena, scratch, 5000).chunk, 0);
    assert_failed(SAGEMEM_E_FULL, "sagemem_arena_put", "10000");
    sagemem_arena_stats after = stats_of(arena);
    assert_memory_equal(&before, &after, sizeof before);
    while (sagemem_arena_put(arena, scratch, 16).chunk != 0) continue;
    assert_int_equal(stats_of(arena).held, before.held); /* to the last room */
    /* Spare chunks make room for one large thing. */
    sagemem_arena_reset(arena);
    assert_int_equal(stats_of(arena).held, before.held);
    put_painted(arena, 9900, 3);
    assert_int_equal(stats_of(arena).chunks, 1);
    sagemem_arena_reset(arena);
    assert_null(sagemem_arena_alloc(arena, 10000 - FRONT + 1));
    assert_failed(SAGEMEM_E_FULL, "sagemem_arena_alloc", "names");
    assert_non_null(sagemem_arena_alloc(arena, 10000 - FRONT));
    assert_int_equal(stats_of(arena).held, 10000);
    sagemem_arena_destroy(arena);

    desc.max_bytes = 4096 + 48; /* a second chunk has room for 32: a spare one that is too small is passed over */
    arena = sagemem_arena_create(&desc);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 4; i++) put_painted(arena, 1000, 1);
        assert_int_equal(sagemem_arena_put(arena, scratch, 100).chunk, 0);
        assert_failed(SAGEMEM_E_FULL, "sagemem_arena_put", "max_bytes");
        put_painted(arena, 80, 1);
        assert_int_equal(put_painted(arena, 30, 1).chunk, 2);
        assert_int_equal(stats_of(arena).held, 4096 + 48);
        sagemem_arena_reset(arena);
    }
    sagemem_arena_destroy(arena);

    desc.max_bytes = 20; /* less than any chunk */
    arena = sagemem_arena_create(&desc);
    assert_null(sagemem_arena_alloc(arena, 1));
    assert_failed(SAGEMEM_E_FULL, "sagemem_arena_alloc", "max_bytes");
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

static void limit_of_the_heap(void **state) {
    (void)state;
    sagemem_heap_desc desc = {0};
    desc.limit = 256 * KIB;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    sagemem_arena *arena = arena_in(heap, 64 * KIB);
    int puts = 0;
    while (sagemem_arena_put(arena, scratch, 1000).chunk != 0) puts++;
    assert_failed(SAGEMEM_E_LIMIT, "sagemem_arena_put", "sagemem_limit_set");
    sagemem_heap_stats s;
    assert_int_equal(sagemem_heap_get_stats(heap, &s), SAGEMEM_OK);
    assert_true(s.held <= 256 * KIB);
    assert_true(puts >= 200); /* where no whole chunk is to be had, smaller ones fill what is left */
    sagemem_arena_stats before = stats_of(arena);
    assert_null(sagemem_arena_alloc(arena, 100 * KIB));
    sagemem_arena_stats after = stats_of(arena);
    assert_memory_equal(&before, &after, sizeof before);
    /* Spare chunks go before a call fails. */
    sagemem_arena_reset(arena);
    void *large = sagemem_arena_alloc(arena, 100 * KIB);
    if (large == NULL) fail_msg("%s", sagemem_last_error()->message);
    assert_int_equal(stats_of(arena).chunks, 1);
    /* What failed can be repeated when there is more. */
    assert_null(sagemem_arena_alloc(arena, 300 * KIB));
    assert_failed(SAGEMEM_E_LIMIT, "sagemem_arena_alloc", "");
    assert_int_equal(sagemem_limit_set(heap, MIB), SAGEMEM_OK);
    assert_non_null(sagemem_arena_alloc(arena, 300 * KIB));
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

/* -- Owners -------------------------------------------------------------------------------------------------- */

static uint64_t use_it(void *ctx, uint64_t wanted) {
    sagemem_arena *arena = (sagemem_arena *)ctx;
    sagemem_arena_desc desc;
    assert_int_equal(sagemem_arena_get_desc(arena, &desc), SAGEMEM_OK);
    assert_int_equal(sagemem_limit_set(desc.heap, 0), SAGEMEM_OK);
    for (int i = 0; i < 20; i++) assert_non_null(sagemem_arena_alloc(arena, desc.chunk_bytes));
    return wanted;
}

/* A reclaimer that fills the very arena that memory is asked for, whose table of chunks is full then. */
static void reclaimers_may_use_the_arena(void **state) {
    (void)state;
    for (int before = 0; before < 20; before++) {
        sagemem_heap *heap = heap_with(0);
        sagemem_arena *arena = arena_in(heap, 1024);
        for (int i = 0; i < before; i++) assert_non_null(sagemem_arena_alloc(arena, 1024));
        assert_int_equal(sagemem_reclaimer_add("arena", 0, use_it, arena), SAGEMEM_OK);
        assert_int_equal(sagemem_limit_set(heap, MIB), SAGEMEM_OK);
        assert_non_null(sagemem_arena_alloc(arena, 2 * MIB));
        assert_int_equal(sagemem_reclaimer_remove("arena"), SAGEMEM_OK);
        sagemem_arena *next = arena_in(heap, 1024); /* whose structure may lie behind the table */
        for (int i = 0; i < 100; i++) assert_non_null(sagemem_arena_alloc(arena, 1024));
        assert_int_equal(stats_of(arena).chunks, before + 121);
        assert_int_equal(stats_of(next).chunks, 0);
        sagemem_arena_destroy(next);
        sagemem_arena_destroy(arena);
        heap_done(heap);
    }
}

static void scopes_own_arenas(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    assert_int_equal(sagemem_scope_begin(heap, "outer", 1), SAGEMEM_OK);
    sagemem_arena *arena = arena_in(heap, 1024);
    assert_int_equal(sagemem_scope_begin(heap, "inner", 2), SAGEMEM_OK);
    sagemem_arena *inner = arena_in(heap, 1024);
    sagemem_arena_ref refs[50];
    for (uint64_t i = 0; i < 50; i++) refs[i] = put_painted(arena, 200 * (i % 3 + 1), i); /* grows in the inner scope */
    put_painted(inner, 10, 1);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    sagemem_scope_stats last;
    assert_int_equal(sagemem_scope_get_last(heap, &last), SAGEMEM_OK);
    assert_int_equal(last.total_blocks, 1); /* only the chunk of the inner arena was its */
    for (uint64_t i = 0; i < 50; i++) assert_true(got_painted(arena, refs[i], i));
    assert_null(sagemem_arena_alloc(inner, 1));
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "sagemem_arena_alloc");
    sagemem_arena_desc desc;
    assert_int_equal(sagemem_arena_get_desc(arena, &desc), SAGEMEM_OK);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    sagemem_arena_get(arena, refs[0], NULL);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "sagemem_arena_get");
    heap_done(heap);
}

static void heaps_own_arenas(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 1024);
    sagemem_arena_ref ref = put_painted(arena, 900, 1);
    sagemem_heap_reset(heap);
    assert_null(sagemem_arena_get(arena, ref, NULL));
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "sagemem_arena_get");
    assert_int_equal(tag_stats_of(heap).used, 0);
    arena = arena_in(heap, 1024);
    put_painted(arena, 900, 1);
    sagemem_heap_destroy(heap);
    assert_null(sagemem_arena_alloc(arena, 1));
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "sagemem_arena_alloc");
}

/* Every call on what is no arena, and what it leaves. */
static void every_call_faults(sagemem_arena *arena, sagemem_status status) {
    static const sagemem_arena_ref ref = {1, 0, 1};
    static const sagemem_arena_mark mark = {0, 0};
    sagemem_arena_desc desc;
    sagemem_arena_stats stats;
    sagemem_sink sink = {NULL, NULL, NULL};
    sink.write_fn = (sagemem_status(*)(void *, const void *, size_t, uint64_t))1; /* is not called */
    size_t size = 1;
    assert_null(sagemem_arena_alloc(arena, 1));
    assert_faulted(SAGEMEM_MISUSE, status, "sagemem_arena_alloc");
    assert_null(sagemem_arena_alloc_aligned(arena, 1, 1));
    assert_faulted(SAGEMEM_MISUSE, status, "sagemem_arena_alloc_aligned");
    assert_ref(sagemem_arena_put(arena, "x", 1), 0, 0, 0);
    assert_faulted(SAGEMEM_MISUSE, status, "sagemem_arena_put");
    if (status != SAGEMEM_E_BUSY) { /* any thread may */
        assert_null(sagemem_arena_get(arena, ref, &size));
        assert_faulted(SAGEMEM_MISUSE, status, "sagemem_arena_get");
        assert_int_equal(size, 0);
    }
    assert_int_equal(sagemem_arena_get_mark(arena).serial, 0);
    assert_faulted(SAGEMEM_MISUSE, status, "sagemem_arena_get_mark");
    sagemem_arena_rewind(arena, mark);
    assert_faulted(SAGEMEM_MISUSE, status, "sagemem_arena_rewind");
    sagemem_arena_reset(arena);
    assert_faulted(SAGEMEM_MISUSE, status, "sagemem_arena_reset");
    assert_int_equal(sagemem_arena_trim(arena), 0);
    assert_faulted(SAGEMEM_MISUSE, status, "sagemem_arena_trim");
    assert_int_equal(sagemem_arena_get_desc(arena, &desc), status);
    assert_faulted(SAGEMEM_MISUSE, status, "sagemem_arena_get_desc");
    assert_int_equal(sagemem_arena_get_stats(arena, &stats), status);
    assert_faulted(SAGEMEM_MISUSE, status, "sagemem_arena_get_stats");
    assert_int_equal(sagemem_arena_save(arena, &sink), status);
    assert_faulted(SAGEMEM_MISUSE, status, "sagemem_arena_save");
    if (arena == NULL) return;
    sagemem_arena_destroy(arena);
    assert_faulted(SAGEMEM_MISUSE, status, "sagemem_arena_destroy");
}

static void what_is_no_arena(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 1024);
    put_painted(arena, 10, 1);
    sagemem_arena_destroy(arena);
    every_call_faults(arena, SAGEMEM_E_STALE);
    every_call_faults(NULL, SAGEMEM_E_FOREIGN);
    every_call_faults((sagemem_arena *)(void *)heap, SAGEMEM_E_FOREIGN);
    every_call_faults((sagemem_arena *)(void *)scratch, SAGEMEM_E_FOREIGN);
    void *block = sagemem_alloc(heap, 100, 1);
    every_call_faults((sagemem_arena *)block, SAGEMEM_E_FOREIGN);
    sagemem_free(block);
    heap_done(heap);
}

typedef struct reader {
    sagemem_arena *arena;
    const sagemem_arena_ref *refs;
    int count;
    bool ok;
} reader;
static void *read_all(void *ctx) {
    reader *r = ctx;
    r->ok = true;
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < r->count; i++) r->ok = r->ok && got_painted(r->arena, r->refs[i], (uint64_t)i);
    return NULL;
}
static void *use_as_stranger(void *arena) {
    every_call_faults(arena, SAGEMEM_E_BUSY);
    return NULL;
}

static void other_threads_may_only_get(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 1024);
    sagemem_arena_ref refs[100];
    for (uint64_t i = 0; i < 100; i++) refs[i] = put_painted(arena, 10 * i, i);
    pthread_t threads[4];
    reader readers[4];
    for (int i = 0; i < 4; i++) {
        readers[i].arena = arena;
        readers[i].refs = refs;
        readers[i].count = 100;
        assert_int_equal(pthread_create(&threads[i], NULL, read_all, &readers[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 4; i++) assert_true(readers[i].ok);
    sagemem_arena_stats before = stats_of(arena);
    in_thread(use_as_stranger, arena);
    sagemem_arena_stats after = stats_of(arena);
    assert_memory_equal(&before, &after, sizeof before);
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

static void *adopt_and_use(void *ctx) {
    reader *r = ctx;
    sagemem_arena_desc desc;
    r->ok = sagemem_arena_get_desc(r->arena, &desc) == SAGEMEM_E_BUSY && fault.count == 1;
    fault.count = 0;
    r->ok = r->ok && sagemem_heap_adopt((sagemem_heap *)(uintptr_t)r->refs) == SAGEMEM_OK &&
            sagemem_arena_alloc(r->arena, 5000) != NULL;
    sagemem_arena_destroy(r->arena);
    sagemem_heap_destroy((sagemem_heap *)(uintptr_t)r->refs);
    return NULL;
}
static void goes_along_with_its_heap(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    reader r = {arena_in(heap, 1024), (const sagemem_arena_ref *)(const void *)heap, 0, false};
    put_painted(r.arena, 10, 1);
    in_thread(adopt_and_use, &r);
    assert_true(r.ok);
    assert_int_equal(fault.count, 0);
}

enum { SHARED_PUTS = 2000 };
static void *put_many(void *ctx) {
    reader *r = ctx;
    r->ok = true;
    for (int i = 0; i < r->count; i++) {
        unsigned char data[64];
        paint(data, sizeof data, (uint64_t)i);
        ((sagemem_arena_ref *)(uintptr_t)r->refs)[i] = sagemem_arena_put(r->arena, data, sizeof data);
        r->ok = r->ok && r->refs[i].chunk != 0;
    }
    return NULL;
}
static void *alloc_one(void *heap) {
    sagemem_free(sagemem_alloc(heap, 10, TAG));
    return NULL;
}
static void shared_heaps_lock(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(SAGEMEM_HEAP_SHARED);
    sagemem_arena *arena = arena_in(heap, 1024);
    static sagemem_arena_ref refs[4][SHARED_PUTS];
    pthread_t threads[4];
    reader readers[4];
    for (int i = 0; i < 4; i++) {
        reader r = {arena, refs[i], getenv("SAGEMEM_TEST_SLOW") != NULL ? SHARED_PUTS / 10 : SHARED_PUTS, false};
        readers[i] = r;
        assert_int_equal(pthread_create(&threads[i], NULL, put_many, &readers[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 4; i++) {
        assert_true(readers[i].ok);
        for (int k = 0; k < readers[i].count; k++) assert_true(got_painted(arena, refs[i][k], (uint64_t)k));
    }
    assert_int_equal(stats_of(arena).used, 4u * 64u * (unsigned)readers[0].count);
    sagemem_arena_reset(arena);
    sagemem_arena_destroy(arena);
    assert_null(sagemem_arena_load(&(sagemem_arena_desc){.heap = heap}, "no image", 8));
    alarm(CHILD_SECONDS); /* no call has left the lock behind: another thread can take it */
    in_thread(alloc_one, heap);
    alarm(0);
    heap_done(heap);
}

/* -- Images -------------------------------------------------------------------------------------------------- */

typedef struct image {
    unsigned char at[300000];
    size_t size;
    int calls, fail_at; /* the call that fails, counted from 1 */
    sagemem_status status;
    bool closed, says;
} image;
static image saved;

static sagemem_status image_write(void *ctx, const void *data, size_t size, uint64_t offset) {
    image *im = ctx;
    if (++im->calls == im->fail_at) {
        if (im->says) { /* as a sink that is a writer does */
            sagemem_sink none = {0};
            sagemem_arena *arena = sagemem_arena_create(NULL);
            (void)sagemem_arena_save(arena, &none);
            sagemem_arena_destroy(arena);
        }
        return im->status;
    }
    REQUIRE(offset == im->size, "position %llu after %zu bytes", UINT(offset), im->size);
    REQUIRE(size > 0 && size <= sizeof im->at - im->size, "%zu bytes", size);
    memcpy(im->at + im->size, data, size);
    im->size += size;
    return SAGEMEM_OK;
}
static sagemem_status image_close(void *ctx) {
    ((image *)ctx)->closed = true;
    return SAGEMEM_OK;
}
static sagemem_status save(const sagemem_arena *arena, int fail_at, sagemem_status status) {
    memset(&saved, 0, sizeof saved);
    saved.fail_at = fail_at;
    saved.status = status;
    sagemem_sink sink = {image_write, image_close, &saved};
    sagemem_status got = sagemem_arena_save(arena, &sink);
    assert_false(saved.closed);
    return got;
}

/* CRC-32C, bit by bit: of "123456789" it is E3069283 (RFC 3720). */
static uint32_t crc_of(uint32_t crc, const void *data, size_t size) {
    const unsigned char *p = data;
    crc = ~crc;
    for (size_t i = 0; i < size; i++)
        for (int bit = 0; bit < 8; bit++) {
            uint32_t low = (crc ^ (uint32_t)p[i] >> bit) & 1;
            crc = crc >> 1 ^ (low != 0 ? 0x82F63B78u : 0);
        }
    return ~crc;
}
static uint32_t u32_at(size_t at) {
    uint32_t value;
    memcpy(&value, saved.at + at, sizeof value);
    return value;
}
static uint64_t u64_at(size_t at) {
    uint64_t value;
    memcpy(&value, saved.at + at, sizeof value);
    return value;
}
static void u32_set(size_t at, uint32_t value) { memcpy(saved.at + at, &value, sizeof value); }
static void u64_set(size_t at, uint64_t value) { memcpy(saved.at + at, &value, sizeof value); }
static void header_sign(void) { u32_set(60, crc_of(0, saved.at, 60)); }
static void record_sign(size_t at, uint32_t number) { u32_set(at + 12, crc_of(number, saved.at + at, 12)); }

/* Loading `size` bytes of the image fails so, and leaves nothing. They lie at the end of a block of malloc's, for a tool
 * to see who reads past them. */
static void assert_refused(sagemem_heap *heap, size_t size, sagemem_status status, const char *part) {
    sagemem_arena_desc desc = desc_of(heap, 0, 0);
    unsigned char *copy = malloc(size > 0 ? size : 1);
    memcpy(copy, saved.at, size);
    sagemem_arena *arena = sagemem_arena_load(&desc, copy, size);
    if (arena != NULL) fail_msg("an image that is %s was loaded", part);
    assert_failed(status, "sagemem_arena_load", part);
    assert_int_equal(tag_stats_of(heap).used, 0);
    free(copy);
}

/* An arena with chunks of every kind: current, own, full, empty. */
static sagemem_arena *small_arena(sagemem_heap *heap, sagemem_arena_ref *refs) {
    sagemem_arena *arena = arena_in(heap, 1024);
    refs[0] = sagemem_arena_put(arena, NULL, 0);
    refs[1] = put_painted(arena, 100, 1);
    refs[2] = put_painted(arena, 1500, 2);
    char *at = sagemem_arena_alloc_aligned(arena, 40, 64);
    assert_non_null(at);
    paint(at, 40, 99);
    refs[3] = put_painted(arena, 33, 3);
    for (uint64_t i = 4; i < 10; i++) refs[i] = put_painted(arena, 200, i);
    return arena;
}
static void assert_small_arena(const sagemem_arena *arena, const sagemem_arena_ref *refs) {
    for (uint64_t i = 0; i < 10; i++) assert_true(got_painted(arena, refs[i], i));
}

static void image_is_as_documented(void **state) {
    (void)state;
    assert_int_equal(crc_of(0, "123456789", 9), 0xE3069283u);
    sagemem_heap *heap = heap_with(0);
    sagemem_arena_ref refs[10];
    sagemem_arena *arena = small_arena(heap, refs);
    assert_int_equal(save(arena, 0, SAGEMEM_OK), SAGEMEM_OK);
    sagemem_arena_stats s = stats_of(arena);
    assert_memory_equal(saved.at, "sagemem arena\0\0", 16);
    assert_int_equal(u32_at(16), 1);
    assert_int_equal(u32_at(20), 0x01020304u);
    assert_int_equal(u64_at(24), saved.size);
    assert_int_equal(u64_at(32), s.chunks);
    assert_int_equal(u64_at(40), 1024);
    for (size_t i = 48; i < 60; i++) assert_int_equal(saved.at[i], 0);
    assert_int_equal(u32_at(60), crc_of(0, saved.at, 60));
    assert_int_equal(saved.size, 64 + 16 * s.chunks + s.used);
    size_t at = 64, data[8];
    for (uint32_t number = 1; number <= s.chunks; number++) {
        size_t used = (size_t)u64_at(at);
        assert_int_equal(u32_at(at + 8), crc_of(0, saved.at + at + 16, used));
        assert_int_equal(u32_at(at + 12), crc_of(number, saved.at + at, 12));
        data[number - 1] = at + 16;
        at += 16 + used;
    }
    assert_int_equal(at, saved.size);
    /* What was put lies where its ref says, and padding is zero: from 100 to where the allocation is. */
    for (uint64_t i = 0; i < 10; i++)
        assert_true(painted(saved.at + data[refs[i].chunk - 1] + refs[i].offset, (size_t)refs[i].length, i));
    size_t padding = 100;
    while (saved.at[data[0] + padding] == 0) padding++;
    assert_int_equal(padding, 112); /* a chunk's first byte is 16 behind a multiple of 64 */
    assert_true(painted(saved.at + data[0] + 112, 40, 99));
    sagemem_arena_destroy(arena);

    /* One that holds nothing is 64 bytes. */
    arena = arena_in(heap, 2048);
    assert_int_equal(save(arena, 0, SAGEMEM_OK), SAGEMEM_OK);
    assert_int_equal(saved.size, 64);
    sagemem_arena *empty = sagemem_arena_load(NULL, saved.at, saved.size);
    assert_non_null(empty);
    sagemem_arena_desc desc;
    assert_int_equal(sagemem_arena_get_desc(empty, &desc), SAGEMEM_OK);
    assert_int_equal(desc.chunk_bytes, 2048);
    assert_int_equal(stats_of(empty).chunks, 0);
    sagemem_arena_destroy(empty);
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

/* Whatever lay in a chunk before, the same calls give the same image. */
static void images_are_reproducible(void **state) {
    (void)state;
    static image first;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 1024);
    for (int round = 0; round < 2; round++) {
        chance luck = {5};
        for (int i = 0; i < 200; i++) {
            size_t size = (size_t)chance_below(&luck, 90) + 1;
            void *at = i % 3 == 0   ? sagemem_arena_alloc(arena, size)
                       : i % 3 == 1 ? sagemem_arena_alloc_aligned(arena, size, 8)
                                    : NULL;
            if (at != NULL) paint(at, size, (uint64_t)i);
            else put_painted(arena, size, (uint64_t)i);
        }
        assert_int_equal(save(arena, 0, SAGEMEM_OK), SAGEMEM_OK);
        if (round == 0) first = saved;
        sagemem_arena_reset(arena);
        memset(scratch, 0xA5, sizeof scratch);
        for (int i = 0; i < 400; i++) (void)sagemem_arena_put(arena, scratch, 100);
        sagemem_arena_reset(arena);
    }
    assert_int_equal(first.size, saved.size);
    assert_memory_equal(first.at, saved.at, saved.size);
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

static void loaded_is_what_was_saved(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0), *other = heap_with(SAGEMEM_HEAP_CHECKED);
    sagemem_arena_ref refs[10];
    sagemem_arena *arena = small_arena(heap, refs);
    sagemem_arena_mark mark = sagemem_arena_get_mark(arena);
    assert_int_equal(save(arena, 0, SAGEMEM_OK), SAGEMEM_OK);
    uint64_t used = stats_of(arena).used, chunks = stats_of(arena).chunks;
    sagemem_arena_destroy(arena);
    sagemem_arena_desc desc = desc_of(other, 0, 0), got;
    arena = sagemem_arena_load(&desc, saved.at, saved.size);
    assert_non_null(arena);
    image copy = saved;
    memset(saved.at, 0xEE, sizeof saved.at); /* is not needed any more */
    assert_int_equal(sagemem_arena_get_desc(arena, &got), SAGEMEM_OK);
    assert_int_equal(got.chunk_bytes, 1024);
    assert_string_equal(got.name, "names");
    assert_int_equal(stats_of(arena).used, used);
    assert_int_equal(stats_of(arena).chunks, chunks);
    assert_small_arena(arena, refs);
    sagemem_arena_ref aligned = {1, 112, 40}; /* a multiple of 64 then and now */
    assert_int_equal((uintptr_t)sagemem_arena_get(arena, aligned, NULL) % 64, 0);
    assert_int_equal(save(arena, 0, SAGEMEM_OK), SAGEMEM_OK);
    assert_int_equal(saved.size, copy.size);
    assert_memory_equal(saved.at, copy.at, copy.size);

    /* It goes on from there; marks are its own. */
    sagemem_arena_rewind(arena, mark);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "sagemem_arena_rewind");
    mark = sagemem_arena_get_mark(arena);
    sagemem_arena_ref more = put_painted(arena, 10, 50);
    assert_int_equal(more.chunk, chunks + 1);
    assert_true(got_painted(arena, more, 50));
    assert_small_arena(arena, refs);
    sagemem_arena_rewind(arena, mark);
    assert_int_equal(stats_of(arena).used, used);
    assert_small_arena(arena, refs);
    sagemem_arena_reset(arena);
    assert_int_equal(stats_of(arena).chunks, 1); /* loaded chunks are of one thing each */
    sagemem_arena_destroy(arena);

    desc.chunk_bytes = 8192;
    desc.max_bytes = 100;
    assert_null(sagemem_arena_load(&desc, copy.at, copy.size));
    assert_failed(SAGEMEM_E_FULL, "sagemem_arena_load", "max_bytes");
    desc.max_bytes = 100000;
    arena = sagemem_arena_load(&desc, copy.at, copy.size);
    assert_int_equal(sagemem_arena_get_desc(arena, &got), SAGEMEM_OK);
    assert_int_equal(got.chunk_bytes, 8192);
    sagemem_arena_destroy(arena);
    assert_null(sagemem_arena_load(&desc, NULL, 100));
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_arena_load", "data is NULL");
    heap_done(heap);
    heap_done(other);
}

static void sinks_that_fail(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena_ref refs[10];
    sagemem_arena *arena = small_arena(heap, refs);
    sagemem_sink none = {NULL, NULL, NULL};
    assert_int_equal(sagemem_arena_save(arena, NULL), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_arena_save", "write_fn");
    assert_int_equal(sagemem_arena_save(arena, &none), SAGEMEM_E_ARGUMENT);
    assert_int_equal(save(arena, 0, SAGEMEM_OK), SAGEMEM_OK);
    int calls = saved.calls;
    assert_true(calls >= 1 + 2 * (int)stats_of(arena).chunks);
    for (int i = 1; i <= calls; i++) {
        assert_int_equal(save(arena, i, SAGEMEM_E_IO), SAGEMEM_E_IO);
        assert_int_equal(saved.calls, i); /* it is not asked again */
        if (i == 1) assert_failed(SAGEMEM_E_IO, "sagemem_arena_save", "save it again");
        assert_int_equal(save(arena, i, SAGEMEM_E_TIMEOUT), SAGEMEM_E_TIMEOUT);
        assert_failed(SAGEMEM_E_TIMEOUT, "sagemem_arena_save", "TIMEOUT");
    }
    /* A sink that said why itself is not talked over. */
    memset(&saved, 0, sizeof saved);
    saved.fail_at = 2;
    saved.status = SAGEMEM_E_ARGUMENT;
    saved.says = true;
    sagemem_sink sink = {image_write, NULL, &saved};
    assert_int_equal(sagemem_arena_save(arena, &sink), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_arena_save", "write_fn");
    assert_small_arena(arena, refs);
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

static void images_cut_short_or_damaged(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena_ref refs[10];
    sagemem_arena *arena = small_arena(heap, refs);
    assert_int_equal(save(arena, 0, SAGEMEM_OK), SAGEMEM_OK);
    sagemem_arena_destroy(arena);
    size_t step = getenv("SAGEMEM_TEST_SLOW") != NULL && on_valgrind() ? 7 : 1;
    for (size_t size = 0; size < saved.size; size += step) assert_refused(heap, size, SAGEMEM_E_CORRUPT, "cut short");
    saved.at[saved.size] = 0;
    assert_refused(heap, saved.size + 1, SAGEMEM_E_CORRUPT, "follows");
    static const unsigned char flips[] = {0x01, 0x80, 0xFF};
    for (size_t at = 0; at < saved.size; at += step)
        for (int i = 0; i < 3; i++) {
            saved.at[at] ^= flips[i];
            assert_refused(heap, saved.size, SAGEMEM_E_CORRUPT, at < 16 ? "no image" : at < 64 ? "header" : "chunk");
            saved.at[at] ^= flips[i];
        }
    arena = sagemem_arena_load(NULL, saved.at, saved.size); /* it still is what it was */
    assert_small_arena(arena, refs);
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

/* Images with checksums that are right, made to do harm. */
static void images_that_lie(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena_ref refs[10];
    sagemem_arena *arena = small_arena(heap, refs);
    assert_int_equal(save(arena, 0, SAGEMEM_OK), SAGEMEM_OK);
    sagemem_arena_destroy(arena);
    image good = saved;
    static const uint64_t large[] = {UINT64_MAX, UINT64_MAX - 15, (uint64_t)1 << 63, (uint64_t)1 << 32, UINT32_MAX};
    for (int i = 0; i < 5; i++) {
        saved = good;
        u64_set(24, large[i]);
        header_sign();
        assert_refused(heap, saved.size, SAGEMEM_E_CORRUPT, "cut short");
        saved = good;
        u64_set(32, large[i]);
        header_sign();
        assert_refused(heap, saved.size, SAGEMEM_E_CORRUPT, "no sense");
        saved = good;
        u64_set(40, large[i]);
        header_sign();
        assert_refused(heap, saved.size, SAGEMEM_E_CORRUPT, "no sense");
        saved = good;
        u64_set(64, large[i]);
        record_sign(64, 1);
        assert_refused(heap, saved.size, SAGEMEM_E_CORRUPT, "cut short in a chunk");
    }
    saved = good;
    u64_set(32, u64_at(32) + 1);
    header_sign();
    assert_refused(heap, saved.size, SAGEMEM_E_CORRUPT, "before a chunk");
    saved = good;
    u64_set(32, u64_at(32) - 1);
    header_sign();
    assert_refused(heap, saved.size, SAGEMEM_E_CORRUPT, "follows");
    saved = good;
    u64_set(40, 1023);
    header_sign();
    assert_refused(heap, saved.size, SAGEMEM_E_CORRUPT, "no sense");
    saved = good;
    record_sign(64, 2); /* a chunk in the wrong place */
    assert_refused(heap, saved.size, SAGEMEM_E_CORRUPT, "record");
    saved = good;
    u32_set(16, 0);
    header_sign();
    assert_refused(heap, saved.size, SAGEMEM_E_CORRUPT, "no sense");
    saved = good;
    u32_set(16, 2);
    header_sign();
    assert_refused(heap, saved.size, SAGEMEM_E_UNSUPPORTED, "version 2");

    /* As a machine of the other byte order writes it: every number is the other way round. */
    saved = good;
    u32_set(16, 0x01000000u);
    u32_set(20, 0x04030201u);
    u32_set(60, __builtin_bswap32(crc_of(0, saved.at, 60)));
    assert_refused(heap, saved.size, SAGEMEM_E_UNSUPPORTED, "byte order");
    saved.at[30] ^= 1;
    assert_refused(heap, saved.size, SAGEMEM_E_CORRUPT, "checksum");
    heap_done(heap);
}

/* -- Whatever fails, and whatever heap ------------------------------------------------------------------------ */

typedef struct life {
    sagemem_heap *heap;
    bool load_only;
} life;

/* All that an arena does. A failure leaves it as it was; here everything is given back. */
static sagemem_status live(void *ctx) {
    const life *l = ctx;
    uint64_t used = tag_stats_of(l->heap).used;
    sagemem_arena_desc desc = desc_of(l->heap, 1024, 0);
    sagemem_arena *arena = l->load_only ? sagemem_arena_load(&desc, saved.at, saved.size) : sagemem_arena_create(&desc);
    if (arena == NULL) {
        REQUIRE(tag_stats_of(l->heap).used == used, "something is left of an arena that was not made");
        return sagemem_last_error()->status;
    }
    sagemem_status status = SAGEMEM_OK;
    sagemem_arena_mark mark = {0, 0};
    for (int i = 0; status == SAGEMEM_OK && i < 30; i++) {
        if (i == 10) mark = sagemem_arena_get_mark(arena);
        if (i == 20) sagemem_arena_rewind(arena, mark);
        sagemem_arena_stats before = stats_of(arena);
        sagemem_arena_mark here = sagemem_arena_get_mark(arena);
        unsigned char data[600];
        paint(data, sizeof data, (uint64_t)i);
        sagemem_arena_ref ref = sagemem_arena_put(arena, data, 250);
        void *at = ref.chunk != 0 ? sagemem_arena_alloc_aligned(arena, 600, 128) : NULL;
        if (at != NULL) {
            paint(at, 600, 1);
            REQUIRE(got_painted(arena, ref, (uint64_t)i), "not what was put");
            continue;
        }
        status = sagemem_last_error()->status;
        if (ref.chunk == 0) {
            sagemem_arena_stats after = stats_of(arena);
            REQUIRE(after.used == before.used, "%llu bytes instead of %llu", UINT(after.used), UINT(before.used));
        }
        sagemem_arena_rewind(arena, here); /* what failed can be repeated */
        ref = sagemem_arena_put(arena, data, 250);
        REQUIRE(ref.chunk != 0 && got_painted(arena, ref, (uint64_t)i), "cannot be repeated");
    }
    REQUIRE(sagemem_heap_check(l->heap) == 0, "damaged");
    if (status == SAGEMEM_OK && !l->load_only) status = save(arena, 0, SAGEMEM_OK);
    sagemem_arena_destroy(arena);
    REQUIRE(tag_stats_of(l->heap).used == used, "something is left of an arena");
    return status;
}

static const uint32_t heap_kinds[] = {0,
                                      SAGEMEM_HEAP_ZERO,
                                      SAGEMEM_HEAP_CHECKED,
                                      SAGEMEM_HEAP_SITES,
                                      SAGEMEM_HEAP_SYSTEM,
                                      SAGEMEM_HEAP_SHARED,
                                      SAGEMEM_HEAP_ZERO | SAGEMEM_HEAP_CHECKED | SAGEMEM_HEAP_SHARED};

static void every_failure_changes_nothing(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof heap_kinds / sizeof heap_kinds[0]; k++) {
        life l = {heap_with(heap_kinds[k]), false};
        for (int i = 0; i < 2; i++) {
            uint64_t points = 0;
            l.load_only = i == 1;
            assert_int_equal(sagemem_check_failures(live, &l, &points), SAGEMEM_OK);
            assert_true(points > 20);
            assert_int_equal(fault.count, 0);
        }
        heap_done(l.heap);
    }
}

static void zeroing_heaps_zero(void **state) {
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        sagemem_heap *heap = heap_with(SAGEMEM_HEAP_ZERO | (kind == 1   ? SAGEMEM_HEAP_CHECKED
                                                            : kind == 2 ? SAGEMEM_HEAP_SHARED
                                                                        : 0));
        sagemem_arena *arena = arena_in(heap, 4096);
        for (int round = 0; round < 3; round++) {
            for (size_t size = 1; size < 6000; size = size * 3 / 2 + 1) {
                unsigned char *at = size % 2 != 0 ? sagemem_arena_alloc(arena, size) : sagemem_arena_alloc_aligned(arena, size, 4);
                assert_non_null(at);
                for (size_t i = 0; i < size; i++) assert_int_equal(at[i], 0);
                memset(at, 0xFF, size);
                put_painted(arena, 13, 1);
            }
            sagemem_arena_reset(arena);
        }
        sagemem_arena_destroy(arena);
        heap_done(heap);
    }
}

static void damage_is_found(void **state) {
    (void)state;
    if (watched()) return; /* the tool says so first */
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 1024);
    volatile char *volatile first = sagemem_arena_alloc(arena, 10); /* volatile: compilers know where it begins */
    assert_int_equal(sagemem_heap_check(heap), 0);
    char was = first[-1];
    first[-1] = (char)(was + 1);
    assert_int_equal(sagemem_heap_check(heap), 1);
    assert_int_equal(logged, 1);
    first[-1] = was;
    assert_int_equal(sagemem_heap_check(heap), 0);
    first[-16] ^= 1;
    sagemem_arena_destroy(arena);
    assert_faulted(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, "sagemem_arena_destroy");
    assert_says(fault.error.message, "names");
    heap_done(heap);
}

/* What guards a chunk does not depend on what else there is. */
static void other_heaps_make_no_difference(void **state) {
    (void)state;
    sagemem_arena *arena = sagemem_arena_create(NULL);
    assert_non_null(sagemem_arena_alloc(arena, 100));
    sagemem_heap *other = sagemem_heap_create(NULL);
    assert_non_null(other);
    assert_int_equal(sagemem_heap_check(NULL), 0);
    sagemem_arena_reset(arena);
    sagemem_heap_destroy(other);
    assert_non_null(sagemem_arena_alloc(arena, 100));
    assert_int_equal(sagemem_heap_check(NULL), 0);
    sagemem_arena_destroy(arena);
}

static void nothing_in_it_can_be_freed(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof heap_kinds / sizeof heap_kinds[0]; k++) {
        sagemem_heap *heap = heap_with(heap_kinds[k]);
        sagemem_arena *arena = arena_in(heap, 65536);
        void *items[] = {sagemem_arena_alloc(arena, 100), sagemem_arena_alloc(arena, 100), sagemem_arena_alloc(arena, 500000)};
        for (int i = 0; i < 3; i++) {
            paint(items[i], 100, 1);
            sagemem_free(items[i]);
            assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "sagemem_free");
            assert_true(painted(items[i], 100, 1));
        }
        sagemem_arena_destroy(arena);
        heap_done(heap);
    }
}

static void thousands_of_chunks(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_arena *arena = arena_in(heap, 1024);
    unsigned count = getenv("SAGEMEM_TEST_SLOW") != NULL ? 500 : 5000;
    sagemem_arena_ref *refs = calloc(count, sizeof *refs);
    for (int round = 0; round < 2; round++) {
        for (unsigned i = 0; i < count; i++) refs[i] = put_painted(arena, i % 7 == 0 ? 2000 : 250, i);
        for (unsigned i = 0; i < count; i++) assert_true(got_painted(arena, refs[i], i));
        if (round == 0) sagemem_arena_reset(arena);
    }
    assert_int_equal(stats_of(arena).chunks, (count + 6) / 7 + (count - (count + 6) / 7 + 3) / 4);
    free(refs);
    sagemem_arena_destroy(arena);
    heap_done(heap);
}

/* -- Against a simple model ------------------------------------------------------------------------------------ */

/* What is in the arena, in the order in which it came, and every mark ever taken since the last clearing. */
enum { ITEMS = 4000, MARKS = 300 };
typedef struct model {
    struct {
        const unsigned char *at;
        size_t size;
        uint64_t seed;
        sagemem_arena_ref ref; /* chunk 0: was allocated */
    } item[ITEMS];
    struct {
        sagemem_arena_mark mark;
        int items;
        bool good;
    } mark[MARKS];
    int items, marks;
} model;

static void model_compare(const sagemem_arena *arena, const model *m) {
    uint64_t least = 0;
    for (int i = 0; i < m->items; i++) {
        REQUIRE(painted(m->item[i].at, m->item[i].size, m->item[i].seed), "thing %d of %d changed", i, m->items);
        if (m->item[i].ref.chunk != 0)
            REQUIRE(sagemem_arena_get(arena, m->item[i].ref, NULL) == m->item[i].at, "the ref of %d leads elsewhere", i);
        least += m->item[i].size;
    }
    sagemem_arena_stats s = stats_of(arena);
    REQUIRE(s.used >= least && s.used <= s.held && s.peak_used >= s.used && (m->items > 0 || s.used == 0),
            "%llu bytes used, %llu held", UINT(s.used), UINT(s.held));
}

static void model_add(sagemem_arena *arena, model *m, chance *luck) {
    uint64_t how = chance_below(luck, 4), seed = chance_next(luck);
    size_t size = (size_t)(chance_below(luck, 20) == 0 ? chance_below(luck, 9000) : chance_below(luck, 120));
    sagemem_arena_ref none = {0, 0, 0};
    size += how < 2 && size == 0; /* a put of nothing may take no place: which marks it makes stale, nobody says */
    int i = m->items++;
    m->item[i].size = size;
    m->item[i].seed = seed;
    m->item[i].ref = how < 2 ? put_painted(arena, size, seed) : none;
    size_t alignment = how == 3 ? (size_t)1 << chance_below(luck, 13) : 16;
    void *at = NULL;
    if (how == 2) at = sagemem_arena_alloc(arena, size);
    if (how == 3) at = sagemem_arena_alloc_aligned(arena, size, alignment);
    if (at != NULL) paint(at, size, seed);
    REQUIRE(how < 2 || (at != NULL && (uintptr_t)at % alignment == 0), "%p for %zu bytes at %zu", at, size, alignment);
    m->item[i].at = how < 2 ? sagemem_arena_get(arena, m->item[i].ref, NULL) : at;
}

static void model_rewind(sagemem_arena *arena, model *m, int k) {
    int faults = fault.count;
    sagemem_arena_rewind(arena, m->mark[k].mark);
    REQUIRE((fault.count > faults) == !m->mark[k].good, "mark %d is %s, but the library thinks otherwise", k,
            m->mark[k].good ? "good" : "past");
    if (!m->mark[k].good) return;
    m->items = m->mark[k].items;
    for (int i = 0; i < m->marks; i++)
        if (m->mark[i].items > m->mark[k].items) m->mark[i].good = false;
}

static void same_as_the_model(void **state) {
    (void)state;
    chance luck = {oracle_seed()};
    printf("seed: %llu\n", UINT(luck.state));
    static model m;
    for (size_t k = 0; k < sizeof heap_kinds / sizeof heap_kinds[0]; k++) {
        sagemem_heap *heap = heap_with(heap_kinds[k]);
        sagemem_arena *arena = arena_in(heap, 4096);
        memset(&m, 0, sizeof m);
        int stale_since = 0; /* rewinds since the marks were cleared: more than 32 may be forgotten */
        for (unsigned step = oracle_steps(6000, 400); step > 0; step--) {
            uint64_t what = chance_below(&luck, 100);
            if (what < 70 && m.items < ITEMS) {
                model_add(arena, &m, &luck);
            } else if (what < 80 && m.marks < MARKS) {
                m.mark[m.marks].mark = sagemem_arena_get_mark(arena);
                m.mark[m.marks].items = m.items;
                m.mark[m.marks++].good = true;
            } else if (what < 96 && m.marks > 0) {
                int n = m.marks, near = n - 1 - (int)chance_below(&luck, n < 6 ? (uint64_t)n : 6);
                model_rewind(arena, &m, chance_below(&luck, 3) == 0 ? (int)chance_below(&luck, (uint64_t)n) : near);
                if (++stale_since == 32) {
                    int good = 0; /* from here on only good marks are used, and those made after */
                    for (int i = 0; i < m.marks; i++)
                        if (m.mark[i].good) m.mark[good++] = m.mark[i];
                    m.marks = good;
                    stale_since = 0;
                }
            } else if (what == 97) {
                sagemem_arena_trim(arena);
            } else if (what == 98 && chance_below(&luck, 4) == 0) {
                sagemem_arena_reset(arena);
                m.items = m.marks = stale_since = 0;
            }
            if (step % 64 == 0) model_compare(arena, &m);
        }
        model_compare(arena, &m);
        REQUIRE(sagemem_heap_check(heap) == 0, "damaged");
        fault.count = 0;
        sagemem_arena_destroy(arena);
        heap_done(heap);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(desc_defaults_are_resolved, setup),
        cmocka_unit_test_setup(desc_that_cannot_be, setup),
        cmocka_unit_test_setup(alloc_is_aligned_and_apart, setup),
        cmocka_unit_test_setup(alloc_refuses, setup),
        cmocka_unit_test_setup(put_is_packed, setup),
        cmocka_unit_test_setup(get_refuses_what_is_outside, setup),
        cmocka_unit_test_setup(large_things_have_chunks_of_their_own, setup),
        cmocka_unit_test_setup(rewind_takes_back, setup),
        cmocka_unit_test_setup(trim_keeps_what_is_in_use, setup),
        cmocka_unit_test_setup(marks_know_when_they_are_past, setup),
        cmocka_unit_test_setup(marks_of_many_steps, setup),
        cmocka_unit_test_setup(max_bytes_is_kept, setup),
        cmocka_unit_test_setup(limit_of_the_heap, setup),
        cmocka_unit_test_setup(reclaimers_may_use_the_arena, setup),
        cmocka_unit_test_setup(scopes_own_arenas, setup),
        cmocka_unit_test_setup(heaps_own_arenas, setup),
        cmocka_unit_test_setup(what_is_no_arena, setup),
        cmocka_unit_test_setup(other_threads_may_only_get, setup),
        cmocka_unit_test_setup(goes_along_with_its_heap, setup),
        cmocka_unit_test_setup(shared_heaps_lock, setup),
        cmocka_unit_test_setup(image_is_as_documented, setup),
        cmocka_unit_test_setup(images_are_reproducible, setup),
        cmocka_unit_test_setup(loaded_is_what_was_saved, setup),
        cmocka_unit_test_setup(sinks_that_fail, setup),
        cmocka_unit_test_setup(images_cut_short_or_damaged, setup),
        cmocka_unit_test_setup(images_that_lie, setup),
        cmocka_unit_test_setup(every_failure_changes_nothing, setup),
        cmocka_unit_test_setup(zeroing_heaps_zero, setup),
        cmocka_unit_test_setup(damage_is_found, setup),
        cmocka_unit_test_setup(other_heaps_make_no_difference, setup),
        cmocka_unit_test_setup(nothing_in_it_can_be_freed, setup),
        cmocka_unit_test_setup(thousands_of_chunks, setup),
        cmocka_unit_test_setup(same_as_the_model, setup),
    };
    /* SAGEMEM_ONLY: one test by a part of its name. */
    const char *only = getenv("SAGEMEM_ONLY");
    if (only != NULL) cmocka_set_test_filter(only);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
