/* Recyclers through the public interface: which buffer comes back, how much is kept, what is caught; beside a second set of books. */
#include "heard.h"

#include "oracle.h"

#include <math.h>

enum { TAG_READ = 5 };

static const uint32_t all_flags[] = {0,
                                     SAGEMEM_HEAP_ZERO,
                                     SAGEMEM_HEAP_CHECKED,
                                     SAGEMEM_HEAP_SITES,
                                     SAGEMEM_HEAP_SYSTEM,
                                     SAGEMEM_HEAP_SHARED,
                                     SAGEMEM_HEAP_CHECKED | SAGEMEM_HEAP_ZERO};
enum { FLAGS = sizeof all_flags / sizeof all_flags[0] };

/* -- What the library said ------------------------------------------------------------------------------ */

static void assert_failed(sagemem_status status, const char *part) {
    const sagemem_error *error = sagemem_last_error();
    if (error->status != status || strstr(error->message, part) == NULL)
        fail_msg("%s '%s' instead of %s '%s'", sagemem_status_name(error->status), error->message, sagemem_status_name(status),
                 part);
    assert_int_equal(fault.count, 0);
}

static void assert_faulted(sagemem_status status, const char *call, const char *part) {
    assert_int_equal(fault.count, 1);
    fault.count = 0;
    if (fault.error.status != status || strstr(fault.error.message, part) == NULL)
        fail_msg("%s '%s' instead of %s '%s'", sagemem_status_name(fault.error.status), fault.error.message,
                 sagemem_status_name(status), part);
    assert_string_equal(fault.error.call, call);
    assert_int_equal(fault.kind, status == SAGEMEM_E_CORRUPT ? SAGEMEM_CORRUPTION : SAGEMEM_MISUSE);
}

/* -- Helpers -------------------------------------------------------------------------------------------- */

static sagemem_heap *heap_with(uint32_t flags) {
    sagemem_heap_desc desc = {0};
    desc.flags = flags;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    return heap;
}

static sagemem_recycler *recycler_in(sagemem_heap *heap) {
    sagemem_recycler_desc desc = {0};
    desc.heap = heap;
    desc.tag = TAG_READ;
    desc.name = "lines";
    sagemem_recycler *r = sagemem_recycler_create(&desc);
    assert_non_null(r);
    return r;
}

static sagemem_recycler_stats stats_of(const sagemem_recycler *r) {
    sagemem_recycler_stats s;
    assert_int_equal(sagemem_recycler_get_stats(r, &s), SAGEMEM_OK);
    return s;
}

static sagemem_tag_stats tag_of(const sagemem_heap *heap) {
    sagemem_tag_stats s;
    assert_int_equal(sagemem_tag_get_stats(heap, TAG_READ, &s), SAGEMEM_OK);
    return s;
}

static char *acquire(sagemem_recycler *r, size_t size) {
    char *buffer = (char *)sagemem_recycler_acquire(r, size);
    assert_non_null(buffer);
    assert_true(sagemem_size(buffer) >= size);
    memset(buffer, 'x', sagemem_size(buffer));
    return buffer;
}

/* The heap's books and the recycler's say the same, and so do they when nothing is idle. */
static void assert_accounted(sagemem_heap *heap, const sagemem_recycler *r) {
    sagemem_recycler_stats s = stats_of(r);
    assert_int_equal(tag_of(heap).blocks, s.idle_buffers + s.out_buffers);
    assert_int_equal(tag_of(heap).used, s.idle_bytes + s.out_bytes);
    assert_int_equal(sagemem_heap_check(heap), 0);
}

/* -- Tests ---------------------------------------------------------------------------------------------- */

static void defaults_are_told(void **state) {
    (void)state;
    sagemem_recycler_desc out;
    sagemem_recycler *r = sagemem_recycler_create(NULL);
    assert_non_null(r);
    assert_int_equal(sagemem_recycler_get_desc(r, &out), SAGEMEM_OK);
    assert_ptr_equal(out.heap, sagemem_heap_default());
    assert_int_equal(out.tag, SAGEMEM_UNTAGGED);
    assert_string_equal(out.name, "recycler");
    assert_int_equal(out.max_idle_bytes, 0);
    assert_int_equal(out.max_idle_count, 1024);
    assert_true(out.slack == 2.0);
    assert_int_equal(out.alignment, 16);
    sagemem_recycler_destroy(r);

    char name[] = "frames";
    sagemem_heap *heap = heap_with(0);
    sagemem_recycler_desc desc = {heap, TAG_READ, name, 1000, 7, 1.0, 256};
    r = sagemem_recycler_create(&desc);
    name[0] = 'F';
    assert_int_equal(sagemem_recycler_get_desc(r, &out), SAGEMEM_OK);
    assert_string_equal(out.name, "frames");
    assert_ptr_equal(out.heap, heap);
    assert_int_equal(out.max_idle_bytes, 1000);
    assert_int_equal(out.max_idle_count, 7);
    assert_int_equal(out.alignment, 256);
    assert_int_equal(sagemem_recycler_get_desc(r, NULL), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "out is NULL");
    assert_int_equal(sagemem_recycler_get_stats(r, NULL), SAGEMEM_E_ARGUMENT);
    sagemem_heap_destroy(heap);
}

static void a_desc_that_cannot_be_is_refused(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    const struct {
        sagemem_recycler_desc desc;
        const char *says;
    } wrong[] = {
        {{heap, SAGEMEM_TAG_MAX + 1, NULL, 0, 0, 0, 0}, "SAGEMEM_TAG_MAX"},
        {{heap, 0, NULL, 0, 0, 0.5, 0}, "slack is 0.5"},
        {{heap, 0, NULL, 0, 0, -2, 0}, "slack is -2"},
        {{heap, 0, NULL, 0, 0, (double)NAN, 0}, "slack is"},
        {{heap, 0, NULL, 0, 0, 0, 24}, "alignment 24"},
        {{heap, 0, NULL, 0, 0, 0, 3}, "alignment 3"},
        {{heap, 0, NULL, 0, 0, 0, 8192}, "alignment 8192"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_null(sagemem_recycler_create(&wrong[i].desc));
        assert_failed(SAGEMEM_E_ARGUMENT, wrong[i].says);
    }
    for (size_t alignment = 1; alignment <= 4096; alignment *= 2) {
        sagemem_recycler_desc desc = {heap, TAG_READ, NULL, 0, 0, (double)INFINITY, alignment};
        sagemem_recycler *r = sagemem_recycler_create(&desc);
        for (size_t size = 1; size < 1000000; size *= 7) {
            char *buffer = acquire(r, size);
            assert_int_equal((uintptr_t)buffer % (alignment < 16 ? 16 : alignment), 0);
            sagemem_recycler_release(r, buffer);
        }
        sagemem_recycler_destroy(r);
    }
    assert_int_equal(tag_of(heap).blocks, 0);
    sagemem_heap_destroy(heap);
    sagemem_recycler_desc desc = {0};
    desc.heap = heap;
    assert_null(sagemem_recycler_create(&desc));
    assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_create", "has ended");
}

static void the_best_fit_comes_back(void **state) {
    (void)state;
    for (int f = 0; f < FLAGS; f++) {
        sagemem_heap *heap = heap_with(all_flags[f]);
        sagemem_recycler *r = recycler_in(heap);
        char *a = acquire(r, 4000), *b = acquire(r, 6000), *c = acquire(r, 6000), *d = acquire(r, 20000);
        assert_int_equal(stats_of(r).misses, 4);
        sagemem_recycler_release(r, c);
        sagemem_recycler_release(r, a);
        sagemem_recycler_release(r, d);
        sagemem_recycler_release(r, b);
        assert_accounted(heap, r);
        assert_int_equal(stats_of(r).idle_buffers, 4);
        assert_ptr_equal(acquire(r, 4500), b); /* of two equals the last released */
        assert_ptr_equal(acquire(r, 4500), c);
        char *e = acquire(r, 4500); /* 20000 is too large */
        assert_ptr_not_equal(e, d);
        assert_ptr_equal(acquire(r, 3000), a);
        assert_ptr_equal(acquire(r, sagemem_size(d)), d);
        assert_int_equal(stats_of(r).hits, 4);
        assert_int_equal(stats_of(r).misses, 5);
        assert_int_equal(stats_of(r).idle_buffers, 0);
        assert_int_equal(stats_of(r).idle_bytes, 0);
        assert_int_equal(stats_of(r).out_buffers, 5);
        assert_accounted(heap, r);
        sagemem_recycler_destroy(r);
        assert_int_equal(tag_of(heap).blocks, 0);
        assert_int_equal(tag_of(heap).used, 0);
        assert_int_equal(fault.count, 0);
        sagemem_heap_destroy(heap);
    }
}

/* Whatever the heap rounds up: what was asked for once serves for the same again, even without slack. */
static void every_size_is_good_for_itself(void **state) {
    (void)state;
    for (int f = 0; f < FLAGS; f++) {
        sagemem_heap *heap = heap_with(all_flags[f]);
        sagemem_recycler_desc desc = {heap, TAG_READ, NULL, 0, 0, 1.0, 0};
        sagemem_recycler *r = sagemem_recycler_create(&desc);
        size_t most = oracle_steps(3000000, 400000), part = oracle_steps(5, 1);
        for (size_t size = 0; size < most; size += size / part + 1) {
            char *buffer = acquire(r, size);
            sagemem_recycler_release(r, buffer);
            assert_ptr_equal(acquire(r, size), buffer);
            sagemem_recycler_release(r, buffer);
            sagemem_recycler_trim(r);
        }
        char *buffer = acquire(r, 10000);
        sagemem_recycler_release(r, buffer);
        assert_ptr_not_equal(acquire(r, 9000), buffer); /* but not for much less */
        sagemem_heap_destroy(heap);
    }
}

static void no_more_is_kept_than_may_be(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_recycler_desc desc = {heap, TAG_READ, NULL, 0, 3, 0, 0};
    sagemem_recycler *r = sagemem_recycler_create(&desc);
    char *buffer[5];
    for (size_t i = 0; i < 5; i++) buffer[i] = acquire(r, 1000 * (i + 1));
    for (size_t i = 0; i < 5; i++) sagemem_recycler_release(r, buffer[i]);
    assert_int_equal(stats_of(r).idle_buffers, 3);
    for (size_t i = 0; i < 5; i++) assert_int_equal(sagemem_owns(buffer[i]), i >= 2); /* the oldest went */
    assert_accounted(heap, r);
    sagemem_recycler_destroy(r);

    desc.max_idle_count = 0;
    desc.max_idle_bytes = 10000;
    r = sagemem_recycler_create(&desc);
    for (size_t i = 0; i < 5; i++) buffer[i] = acquire(r, i == 4 ? 10001 : 3000);
    for (size_t i = 0; i < 4; i++) sagemem_recycler_release(r, buffer[i]);
    assert_int_equal(stats_of(r).idle_buffers, 3);
    assert_false(sagemem_owns(buffer[0]));
    sagemem_recycler_release(r, buffer[4]); /* alone too much: goes at once, the others stay */
    assert_false(sagemem_owns(buffer[4]));
    assert_int_equal(stats_of(r).idle_buffers, 3);
    assert_accounted(heap, r);
    sagemem_recycler_stats s = stats_of(r);
    assert_int_equal(sagemem_recycler_trim(r), s.idle_bytes);
    assert_int_equal(sagemem_recycler_trim(r), 0);
    assert_int_equal(stats_of(r).idle_buffers, 0);
    assert_int_equal(stats_of(r).idle_bytes, 0);
    assert_int_equal(tag_of(heap).blocks, 0);
    sagemem_heap_destroy(heap);
}

static void buffers_are_as_the_heap_says(void **state) {
    (void)state;
    for (int f = 0; f < FLAGS; f++) {
        sagemem_heap *heap = heap_with(all_flags[f]);
        sagemem_recycler *r = recycler_in(heap);
        for (size_t size = 50; size < 1000000; size *= 90) {
            char *buffer = acquire(r, size);
            assert_int_equal(sagemem_tag_of(buffer), TAG_READ);
            assert_ptr_equal(sagemem_heap_of(buffer), heap);
            sagemem_recycler_release(r, buffer);
            buffer = (char *)sagemem_recycler_acquire(r, size);
            if ((all_flags[f] & SAGEMEM_HEAP_ZERO) != 0)
                assert_true(buffer[0] == 0 && memcmp(buffer, buffer + 1, sagemem_size(buffer) - 1) == 0);
            memset(buffer, 'y', sagemem_size(buffer));
            sagemem_recycler_release(r, buffer);
        }
        assert_int_equal(sagemem_heap_check(heap), 0);
        sagemem_recycler_destroy(r);
        assert_int_equal(fault.count, 0);
        sagemem_heap_destroy(heap);
    }
}

static void it_belongs_to_the_scope_it_was_made_in(void **state) {
    (void)state;
    for (int f = 0; f < FLAGS; f++) {
        sagemem_heap *heap = heap_with(all_flags[f]);
        sagemem_recycler *outer = recycler_in(heap);
        assert_int_equal(sagemem_scope_begin(heap, "forest", 1), SAGEMEM_OK);
        sagemem_recycler *inner = recycler_in(heap);
        char *idle = acquire(inner, 300), *out = acquire(inner, 300000);
        sagemem_recycler_release(inner, idle);
        char *kept[40];
        assert_int_equal(sagemem_scope_begin(heap, "tree", 2), SAGEMEM_OK);
        for (size_t i = 0; i < 40; i++) kept[i] = acquire(outer, 100 + i * 500); /* grows in two scopes that are not its own */
        assert_ptr_equal(acquire(inner, 299), idle);
        char *deep = acquire(inner, 5000);
        sagemem_scope_end(heap);
        memset(deep, 'd', 5000);
        memset(out, 'o', 300000);
        sagemem_scope_end(heap);
        for (size_t i = 0; i < 40; i++) {
            assert_int_equal(kept[i][sagemem_size(kept[i]) - 1], 'x');
            if (i % 2 == 0) sagemem_recycler_release(outer, kept[i]);
        }
        assert_accounted(heap, outer);
        assert_int_equal(tag_of(heap).blocks, 40);
        assert_int_equal(fault.count, 0);
        assert_null(sagemem_recycler_acquire(inner, 1));
        assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_acquire", "lines has ended");
        sagemem_recycler_release(inner, out);
        assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_release", "lines has ended");
        assert_int_equal(sagemem_recycler_trim(inner), 0);
        assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_trim", "lines has ended");
        sagemem_recycler_stats s;
        assert_int_equal(sagemem_recycler_get_stats(inner, &s), SAGEMEM_E_STALE);
        assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_get_stats", "lines has ended");
        sagemem_recycler_desc d;
        assert_int_equal(sagemem_recycler_get_desc(inner, &d), SAGEMEM_E_STALE);
        assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_get_desc", "lines has ended");
        sagemem_recycler_destroy(inner);
        assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_destroy", "lines has ended");
        sagemem_heap_reset(heap);
        assert_int_equal(tag_of(heap).blocks, 0);
        assert_null(sagemem_recycler_acquire(outer, 1));
        assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_acquire", "lines has ended");
        sagemem_recycler *last = recycler_in(heap);
        sagemem_recycler_release(last, acquire(last, 100));
        sagemem_heap_destroy(heap);
        assert_int_equal(fault.count, 0);
    }
}

static void misuse_is_caught(void **state) {
    (void)state;
    for (int f = 0; f < FLAGS; f++) {
        sagemem_heap *heap = heap_with(all_flags[f]);
        sagemem_recycler *r = recycler_in(heap), *other = recycler_in(heap);
        char local[64] = "", *block = (char *)sagemem_alloc(heap, 100, TAG_READ), *a = acquire(r, 100), *b = acquire(r, 100000);
        sagemem_recycler_release(r, NULL);
        sagemem_recycler_destroy(NULL);
        assert_int_equal(fault.count, 0);
        void *foreign[] = {local, block, a + 16, a + 1, (void *)(uintptr_t)8, (void *)(UINTPTR_MAX - 15), r};
        for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
            sagemem_recycler_release(r, foreign[i]);
            assert_faulted(SAGEMEM_E_FOREIGN, "sagemem_recycler_release", "no buffer of recycler 'lines'");
        }
        sagemem_recycler_release(other, a);
        assert_faulted(SAGEMEM_E_FOREIGN, "sagemem_recycler_release", "no buffer of recycler 'lines'");
        sagemem_recycler_release(r, a);
        sagemem_recycler_release(r, a);
        assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_release", "released already");
        assert_int_equal(stats_of(r).idle_buffers, 1);
        sagemem_recycler_release(r, b);
        sagemem_recycler_trim(r);
        sagemem_recycler_release(r, b);
        if ((all_flags[f] & SAGEMEM_HEAP_SYSTEM) != 0) assert_faulted(SAGEMEM_E_FOREIGN, "sagemem_recycler_release", "no buffer");
        else assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_release", "");
        assert_null(sagemem_recycler_acquire((sagemem_recycler *)(void *)local, 1));
        assert_faulted(SAGEMEM_E_FOREIGN, "sagemem_recycler_acquire", "no recycler");
        assert_null(sagemem_recycler_acquire(NULL, 1));
        assert_faulted(SAGEMEM_E_FOREIGN, "sagemem_recycler_acquire", "no recycler");
        sagemem_free(block);
        assert_accounted(heap, r);
        sagemem_heap_destroy(heap);
    }
}

/* Buffers that another call freed: at release, at reuse, when the address comes back, by the walker. */
static void what_others_free_is_caught(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_recycler *r = recycler_in(heap);
    char *a = acquire(r, 1000);
    sagemem_free(a);
    assert_int_equal(sagemem_heap_check(heap), 1);
    sagemem_recycler_release(r, a);
    assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_release", "freed");
    assert_accounted(heap, r);

    a = acquire(r, 1000);
    sagemem_recycler_release(r, a);
    sagemem_free(a);
    assert_int_equal(sagemem_heap_check(heap), 1);
    assert_null(sagemem_recycler_acquire(r, 1000));
    assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_acquire", "freed");
    assert_accounted(heap, r);

    a = acquire(r, 1000);
    sagemem_recycler_release(r, a);
    sagemem_free(a);
    sagemem_recycler_trim(r);
    assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_trim", "freed");
    assert_accounted(heap, r);

    a = acquire(r, 300000);
    void *mine = a;
    sagemem_free(a);
    for (int i = 0; i < 50 && fault.count == 0; i++) mine = sagemem_recycler_acquire(r, 300000);
    assert_null(mine);
    assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_acquire", "freed by another call");
    assert_accounted(heap, r);
    assert_non_null(sagemem_recycler_acquire(r, 300000));

    a = acquire(r, 200000); /* resized where it lies: its size is what it has now */
    char *less = (char *)sagemem_realloc(NULL, a, 90000, SAGEMEM_TAG_SAME);
    if (less == a) {
        sagemem_recycler_release(r, a);
        assert_accounted(heap, r);
        less = (char *)sagemem_realloc(NULL, a, 50000, SAGEMEM_TAG_SAME); /* but not while it is idle */
        if (less == a) {
            assert_null(sagemem_recycler_acquire(r, 90000));
            assert_faulted(SAGEMEM_E_STALE, "sagemem_recycler_acquire", "freed or resized after it was released");
        }
    }
    fault.count = 0;
    sagemem_heap_destroy(heap);
}

static void writes_to_idle_buffers_are_caught(void **state) {
    (void)state;
    if (UNDER_ASAN || on_valgrind()) return; /* which catch them themselves: watched_test.sh */
    sagemem_heap *heap = heap_with(SAGEMEM_HEAP_CHECKED);
    sagemem_recycler *r = recycler_in(heap);
    char *a = acquire(r, 1000);
    sagemem_recycler_release(r, a);
    a[17] = 'z';
    assert_int_equal(sagemem_heap_check(heap), 1);
    assert_non_null(strstr(logged.last, "recycler 'lines' was written to at byte 17 after it was released"));
    assert_null(sagemem_recycler_acquire(r, 1000));
    assert_faulted(SAGEMEM_E_CORRUPT, "sagemem_recycler_acquire", "at byte 17 after it was released");
    assert_ptr_not_equal(acquire(r, 1000), a); /* which is leaked */

    a = acquire(r, 300000);
    sagemem_recycler_release(r, a);
    a[299999] = 'z';
    sagemem_recycler_trim(r);
    assert_faulted(SAGEMEM_E_CORRUPT, "sagemem_recycler_trim", "at byte 299999 after it was released");
    assert_int_equal(stats_of(r).idle_buffers, 0);

    a = acquire(r, 100);
    a[100] = 'o'; /* an overflow is the heap's to find, when the buffer is released: then it is out still */
    sagemem_recycler_release(r, a);
    assert_faulted(SAGEMEM_E_CORRUPT, "sagemem_recycler_release", "overflow");
    assert_int_equal(sagemem_heap_check(heap), 1);
    a[100] = (char)0xFB;
    sagemem_recycler_release(r, a);
    assert_int_equal(sagemem_heap_check(heap), 0);
    assert_int_equal(fault.count, 0);
    sagemem_heap_destroy(heap);
}

static void limits_are_ordinary_failures(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_recycler *r = recycler_in(heap);
    char *idle[6];
    for (int i = 0; i < 6; i++) idle[i] = acquire(r, 300000);
    for (int i = 0; i < 6; i++) sagemem_recycler_release(r, idle[i]);
    sagemem_heap_stats before;
    assert_int_equal(sagemem_limit_set(heap, 2 * MIB), SAGEMEM_OK);
    char *large = acquire(r, MIB + MIB / 2); /* only once the idle ones have gone */
    assert_int_equal(stats_of(r).idle_buffers, 0);
    assert_null(sagemem_recycler_acquire(r, MIB));
    assert_failed(SAGEMEM_E_LIMIT, "over its limit");
    assert_int_equal(stats_of(r).out_buffers, 1);
    assert_int_equal(stats_of(r).misses, 7);
    assert_accounted(heap, r);
    assert_int_equal(sagemem_limit_set(heap, 0), SAGEMEM_OK);
    sagemem_recycler_release(r, acquire(r, MIB));
    volatile size_t most = SIZE_MAX;
    sagemem_heap_stats now;
    assert_int_equal(sagemem_heap_get_stats(NULL, &before), SAGEMEM_OK);
    for (int i = 0; i < 10000; i++) assert_null(sagemem_recycler_acquire(r, most));
    assert_failed(SAGEMEM_E_ARGUMENT, "more than an object can have");
    assert_int_equal(sagemem_heap_get_stats(NULL, &now), SAGEMEM_OK);
    assert_int_equal(now.overhead, before.overhead);
    assert_int_equal(stats_of(r).idle_buffers, 1); /* no amount of memory would do */
    assert_null(sagemem_recycler_acquire(r, most / 2 - MIB));
    assert_failed(SAGEMEM_E_NOMEM, "the system gave no");
    assert_int_equal(stats_of(r).idle_buffers, 0);
    sagemem_recycler_release(r, large);
    assert_accounted(heap, r);
    sagemem_heap_destroy(heap);
}

static uint64_t trim_it(void *ctx, uint64_t wanted) {
    (void)wanted;
    return sagemem_recycler_trim((sagemem_recycler *)ctx);
}

/* A reclaimer that trims this very recycler, and one that trims another for it. */
static void reclaimers_may_trim(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    sagemem_recycler *r = recycler_in(heap), *other = recycler_in(heap);
    assert_int_equal(sagemem_reclaimer_add("recycler", 1, trim_it, r), SAGEMEM_OK);
    assert_int_equal(sagemem_reclaimer_add("other", 2, trim_it, other), SAGEMEM_OK);
    assert_int_equal(sagemem_limit_set(heap, 4 * MIB), SAGEMEM_OK);
    sagemem_recycler_release(other, acquire(other, 2 * MIB));
    sagemem_recycler_release(r, acquire(r, MIB));
    char *large = acquire(r, 3 * MIB);
    assert_int_equal(stats_of(r).idle_buffers, 0);
    assert_int_equal(stats_of(other).idle_buffers, 0);
    sagemem_recycler_release(r, large);
    assert_non_null(sagemem_alloc(heap, 3 * MIB, 0)); /* and for what the recycler knows nothing of */
    assert_int_equal(stats_of(r).idle_buffers, 0);
    assert_int_equal(sagemem_reclaimer_remove("recycler"), SAGEMEM_OK);
    assert_int_equal(sagemem_reclaimer_remove("other"), SAGEMEM_OK);
    sagemem_heap_destroy(heap);
}

/* Idle buffers go before a heap that aborts does so. */
static void a_heap_that_aborts_asks_first(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(SAGEMEM_HEAP_ABORT_ON_NOMEM);
    sagemem_recycler *r = recycler_in(heap);
    assert_int_equal(sagemem_limit_set(heap, 2 * MIB), SAGEMEM_OK);
    sagemem_recycler_release(r, acquire(r, MIB));
    assert_non_null(sagemem_recycler_acquire(r, MIB + MIB / 2 + MIB / 4));
    sagemem_heap_destroy(heap);
}

/* -- Other threads ------------------------------------------------------------------------------------------ */

typedef struct elsewhere {
    sagemem_recycler *recycler;
    char *buffer;
    sagemem_recycler_stats stats;
} elsewhere;

static void *use_elsewhere(void *ctx) {
    elsewhere *e = (elsewhere *)ctx;
    REQUIRE(sagemem_recycler_acquire(e->recycler, 10) == NULL, "another thread's recycler");
    sagemem_recycler_release(e->recycler, e->buffer);
    REQUIRE(sagemem_recycler_trim(e->recycler) == 0, "another thread's recycler");
    REQUIRE(sagemem_recycler_get_stats(e->recycler, &e->stats) == SAGEMEM_E_BUSY, "another thread's recycler");
    sagemem_recycler_destroy(e->recycler);
    return NULL;
}

static void *use_shared(void *ctx) {
    sagemem_recycler *r = ((elsewhere *)ctx)->recycler;
    for (int i = 0; i < 2000; i++) {
        char *buffer = (char *)sagemem_recycler_acquire(r, (size_t)(i * 37 % 3000));
        REQUIRE(buffer != NULL, "no buffer");
        size_t size = sagemem_size(buffer);
        memset(buffer, i, size);
        REQUIRE(buffer[size - 1] == (char)i, "somebody else writes here");
        sagemem_recycler_release(r, buffer);
    }
    return NULL;
}

static void threads_are_told_apart(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    pthread_t thread[4];
    elsewhere e = {recycler_in(heap), NULL, {0, 0, 0, 0, 0, 0}};
    e.buffer = acquire(e.recycler, 100);
    assert_int_equal(pthread_create(&thread[0], NULL, use_elsewhere, &e), 0);
    pthread_join(thread[0], NULL);
    assert_int_equal(fault.count, 5);
    assert_int_equal(fault.error.status, SAGEMEM_E_BUSY);
    assert_int_equal(stats_of(e.recycler).out_buffers, 1);
    fault.count = 0;
    sagemem_heap_destroy(heap);

    heap = heap_with(SAGEMEM_HEAP_SHARED);
    e.recycler = recycler_in(heap);
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&thread[i], NULL, use_shared, &e), 0);
    for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
    sagemem_recycler_stats s = stats_of(e.recycler);
    assert_int_equal(s.hits + s.misses, 8000);
    assert_int_equal(s.out_buffers, 0);
    assert_accounted(heap, e.recycler);
    sagemem_recycler_destroy(e.recycler);
    assert_int_equal(tag_of(heap).blocks, 0);
    assert_int_equal(fault.count, 0);
    sagemem_heap_destroy(heap);
}

/* -- Every failure ---------------------------------------------------------------------------------------- */

static sagemem_status whole_life(void *ctx) {
    sagemem_heap *heap = *(sagemem_heap **)ctx;
    sagemem_status status = SAGEMEM_E_NOMEM;
    sagemem_recycler_desc desc = {heap, TAG_READ, NULL, 0, 0, 0, 0};
    uint64_t used = tag_of(heap).used;
    sagemem_recycler *r = sagemem_recycler_create(&desc);
    if (r == NULL) return sagemem_last_error()->status;
    void *buffer[40];
    for (int i = 0; i < 40; i++) {
        if (i == 20)
            for (int k = 0; k < 20; k += 2) sagemem_recycler_release(r, buffer[k]);
        sagemem_recycler_stats before = stats_of(r);
        buffer[i] = sagemem_recycler_acquire(r, i < 30 ? (size_t)(100 + i * i * 50) : (size_t)(300000 + i));
        sagemem_recycler_stats after = stats_of(r);
        if (buffer[i] == NULL) {
            REQUIRE(after.out_bytes == before.out_bytes && after.out_buffers == before.out_buffers, "a failure took a buffer");
            REQUIRE(after.hits == before.hits && after.misses == before.misses, "a failure was counted");
            goto end;
        }
        REQUIRE(after.out_buffers == before.out_buffers + 1, "a buffer was not counted");
        memset(buffer[i], i, sagemem_size(buffer[i]));
    }
    for (int i = 21; i < 40; i++) REQUIRE(*(char *)buffer[i] == i, "contents changed");
    status = SAGEMEM_OK;
end:
    if (status != SAGEMEM_OK) status = sagemem_last_error()->status;
    sagemem_recycler_stats s = stats_of(r);
    REQUIRE(tag_of(heap).used == s.idle_bytes + s.out_bytes, "the books differ");
    sagemem_recycler_destroy(r);
    REQUIRE(tag_of(heap).used == used, "something is left");
    return status;
}

static void every_failure_changes_nothing(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        sagemem_heap *heap = heap_with(flags[i]);
        uint64_t points = 0;
        assert_int_equal(sagemem_check_failures(whole_life, &heap, &points), SAGEMEM_OK);
        assert_true(points >= 40);
        assert_int_equal(fault.count, 0);
        assert_int_equal(sagemem_heap_check(heap), 0);
        sagemem_heap_destroy(heap);
    }
}

/* -- At random, beside a second set of books ---------------------------------------------------------------- */

enum { OUT = 200, IDLE = 300 };

typedef struct model_buffer {
    char *at;
    size_t size;
    char byte;
} model_buffer;

/* Idle buffers in the order of their release, searched one by one. */
typedef struct model {
    sagemem_recycler_desc desc;
    sagemem_recycler *recycler;
    model_buffer out[OUT], idle[IDLE];
    size_t outs, idles;
    uint64_t idle_bytes, out_bytes, hits, misses;
} model;

static model_buffer model_take(model *m, size_t i) {
    model_buffer b = m->idle[i];
    memmove(&m->idle[i], &m->idle[i + 1], (--m->idles - i) * sizeof b);
    m->idle_bytes -= b.size;
    return b;
}

static char *model_fit(const model *m, size_t size, size_t *where) {
    const model_buffer *best = NULL;
    for (size_t i = 0; i < m->idles; i++)
        if (m->idle[i].size >= size && (best == NULL || m->idle[i].size <= best->size)) best = &m->idle[i];
    double most = m->desc.slack * (double)size, rounded = (double)size * 17 / 16 + 64;
    if (best == NULL || (double)best->size > (most > rounded ? most : rounded)) return NULL;
    *where = (size_t)(best - m->idle);
    return best->at;
}

static void model_acquire(model *m, chance *c) {
    size_t size = (size_t)chance_below(c, chance_below(c, 20) == 0 ? 400000 : chance_below(c, 3) == 0 ? 40 : 5000), where = 0;
    char *expected = model_fit(m, size, &where);
    model_buffer b;
    b.at = (char *)sagemem_recycler_acquire(m->recycler, size);
    REQUIRE(b.at != NULL, "no buffer of %zu bytes", size);
    b.size = sagemem_size(b.at);
    if (expected != NULL) {
        REQUIRE(b.at == expected, "for %zu bytes: %p of %zu bytes, not %p of %zu", size, (void *)b.at, b.size, (void *)expected,
                m->idle[where].size);
        model_take(m, where);
        m->hits++;
    } else {
        for (size_t i = 0; i < m->idles; i++) REQUIRE(m->idle[i].at != b.at, "an idle buffer that does not fit (%zu)", size);
        m->misses++;
    }
    b.byte = (char)chance_next(c);
    memset(b.at, b.byte, b.size);
    m->out_bytes += b.size;
    m->out[m->outs++] = b;
}

static void model_release(model *m, chance *c) {
    size_t i = (size_t)chance_below(c, m->outs);
    model_buffer b = m->out[i], gone;
    m->out[i] = m->out[--m->outs];
    m->out_bytes -= b.size;
    REQUIRE(b.size == 0 || (b.at[0] == b.byte && memcmp(b.at, b.at + 1, b.size - 1) == 0),
            "somebody wrote to a buffer that was out");
    sagemem_recycler_release(m->recycler, b.at);
    if (m->desc.max_idle_bytes != 0 && b.size > m->desc.max_idle_bytes) {
        REQUIRE(!sagemem_owns(b.at), "a buffer that is too large was kept");
        return;
    }
    m->idle[m->idles++] = b;
    m->idle_bytes += b.size;
    while (m->idles > m->desc.max_idle_count || (m->desc.max_idle_bytes != 0 && m->idle_bytes > m->desc.max_idle_bytes)) {
        gone = model_take(m, 0);
        REQUIRE(!sagemem_owns(gone.at), "the oldest was kept");
    }
}

static void model_compare(const model *m) {
    sagemem_recycler_stats s = stats_of(m->recycler);
    REQUIRE(s.idle_buffers == m->idles && s.idle_bytes == m->idle_bytes, "%llu idle buffers of %llu bytes, not %zu of %llu",
            UINT(s.idle_buffers), UINT(s.idle_bytes), m->idles, UINT(m->idle_bytes));
    REQUIRE(s.out_buffers == m->outs && s.out_bytes == m->out_bytes, "%llu buffers of %llu bytes out, not %zu of %llu",
            UINT(s.out_buffers), UINT(s.out_bytes), m->outs, UINT(m->out_bytes));
    REQUIRE(s.hits == m->hits && s.misses == m->misses, "%llu hits, %llu misses", UINT(s.hits), UINT(s.misses));
    sagemem_tag_stats t = tag_of(m->desc.heap);
    REQUIRE(t.blocks == m->idles + m->outs && t.used == m->idle_bytes + m->out_bytes, "the heap's books differ");
}

static void model_run(sagemem_recycler_desc desc, chance *c, unsigned steps) {
    static model m;
    memset(&m, 0, sizeof m);
    m.desc = desc;
    m.recycler = sagemem_recycler_create(&desc);
    assert_non_null(m.recycler);
    bool growing = true;
    for (unsigned step = 0; step < steps; step++) {
        if (m.outs == OUT || (m.outs == 0 && !growing) || chance_below(c, 200) == 0) growing = !growing;
        if (m.outs == 0 || (m.outs < OUT && chance_below(c, 4) < (growing ? 3u : 1u))) model_acquire(&m, c);
        else model_release(&m, c);
        model_compare(&m);
        if (chance_below(c, 2000) == 0) {
            REQUIRE(sagemem_recycler_trim(m.recycler) == m.idle_bytes, "other bytes were freed");
            m.idles = 0;
            m.idle_bytes = 0;
        }
    }
    assert_int_equal(sagemem_heap_check(desc.heap), 0);
    sagemem_recycler_destroy(m.recycler);
}

static void at_random_everything_agrees(void **state) {
    (void)state;
    uint64_t seed = oracle_seed();
    print_message("SAGEMEM_SEED=%llu\n", UINT(seed));
    chance c = {seed};
    for (int f = 0; f < FLAGS; f++) {
        sagemem_heap *heap = heap_with(all_flags[f]);
        const sagemem_recycler_desc descs[] = {
            {heap, TAG_READ, NULL, 0, IDLE - 1, 2.0, 0},
            {heap, TAG_READ, NULL, 200000, IDLE - 1, 1.0, 0},
            {heap, TAG_READ, NULL, 0, 20, 1000.0, 64},
        };
        bool slow = (all_flags[f] & (SAGEMEM_HEAP_CHECKED | SAGEMEM_HEAP_SYSTEM | SAGEMEM_HEAP_ZERO)) != 0;
        for (size_t i = 0; i < sizeof descs / sizeof descs[0]; i++) {
            model_run(descs[i], &c, oracle_steps(slow ? 1000 : 10000, 500));
            assert_int_equal(tag_of(heap).blocks, 0);
            assert_int_equal(tag_of(heap).used, 0);
        }
        assert_int_equal(fault.count, 0);
        sagemem_heap_destroy(heap);
    }
}

/* Ten thousand buffers: all are found again, in time that is no matter of their number. */
static void many_buffers_are_no_matter(void **state) {
    (void)state;
    enum { MANY = 10000 };
    size_t many = getenv("SAGEMEM_TEST_SLOW") != NULL ? MANY / 10 : MANY;
    static char *buffer[MANY];
    sagemem_heap *heap = heap_with(0);
    sagemem_recycler_desc desc = {heap, TAG_READ, NULL, 0, MANY, 0, 0};
    sagemem_recycler *r = sagemem_recycler_create(&desc);
    for (size_t i = 0; i < many; i++) buffer[i] = acquire(r, i / 8); /* rising sizes, the worst order for a tree */
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < many; i++) sagemem_recycler_release(r, buffer[round == 1 ? many - 1 - i : i]);
        assert_int_equal(stats_of(r).idle_buffers, many);
        for (size_t i = many; i-- > 0;) buffer[i] = acquire(r, i / 8);
        assert_int_equal(stats_of(r).out_buffers, many);
        assert_int_equal(stats_of(r).misses, many);
    }
    assert_accounted(heap, r);
    sagemem_recycler_destroy(r);
    assert_int_equal(tag_of(heap).blocks, 0);
    sagemem_heap_destroy(heap);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(defaults_are_told, setup),
        cmocka_unit_test_setup(a_desc_that_cannot_be_is_refused, setup),
        cmocka_unit_test_setup(the_best_fit_comes_back, setup),
        cmocka_unit_test_setup(every_size_is_good_for_itself, setup),
        cmocka_unit_test_setup(no_more_is_kept_than_may_be, setup),
        cmocka_unit_test_setup(buffers_are_as_the_heap_says, setup),
        cmocka_unit_test_setup(it_belongs_to_the_scope_it_was_made_in, setup),
        cmocka_unit_test_setup(misuse_is_caught, setup),
        cmocka_unit_test_setup(what_others_free_is_caught, setup),
        cmocka_unit_test_setup(writes_to_idle_buffers_are_caught, setup),
        cmocka_unit_test_setup(limits_are_ordinary_failures, setup),
        cmocka_unit_test_setup(reclaimers_may_trim, setup),
        cmocka_unit_test_setup(a_heap_that_aborts_asks_first, setup),
        cmocka_unit_test_setup(threads_are_told_apart, setup),
        cmocka_unit_test_setup(every_failure_changes_nothing, setup),
        cmocka_unit_test_setup(at_random_everything_agrees, setup),
        cmocka_unit_test_setup(many_buffers_are_no_matter, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
