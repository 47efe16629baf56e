/* Slices through the public interface: copies, taken blocks, wrapped memory, parts; what is caught when one outlives its bytes. */
#include "public.h"

#include "oracle.h"

enum { TAG_TEXT = 3 };

/* -- What the library said ------------------------------------------------------------------------------ */

static struct {
    int count;
    sagemem_error error;
} fault;

static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx;
    assert_int_equal(kind, SAGEMEM_MISUSE);
    fault.count++;
    fault.error = *error;
}

static int setup(void **state) {
    (void)state;
    memset(&fault, 0, sizeof fault);
    sagemem_set_fault_handler(on_fault, NULL);
    return 0;
}

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
}

/* -- Helpers -------------------------------------------------------------------------------------------- */

static const sagemem_slice none = {NULL, 0, NULL, 0};

static void assert_none(sagemem_slice slice) {
    assert_null(slice.data);
    assert_null(slice.owner);
    assert_int_equal(slice.size, 0);
    assert_int_equal(slice.serial, 0);
}

static sagemem_tag_stats text_stats(const sagemem_heap *heap) {
    sagemem_tag_stats s;
    assert_int_equal(sagemem_tag_get_stats(heap, TAG_TEXT, &s), SAGEMEM_OK);
    return s;
}

static sagemem_heap *heap_with(uint32_t flags) {
    sagemem_heap_desc desc = {0};
    desc.flags = flags;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    return heap;
}

static uint64_t overhead(void) {
    sagemem_heap_stats s;
    assert_int_equal(sagemem_heap_get_stats(NULL, &s), SAGEMEM_OK);
    return s.overhead;
}

/* What release_fn was told. */
static struct {
    int count;
    void *ctx;
    const void *data;
} released;

static void on_release(void *ctx, const void *data) {
    released.count++;
    released.ctx = ctx;
    released.data = data;
}

static void assert_every_call_is_stale(sagemem_slice slice, const char *part) {
    sagemem_slice out = {&out, 1, NULL, 1};
    assert_none(sagemem_slice_retain(slice));
    assert_faulted(SAGEMEM_E_STALE, "sagemem_slice_retain", part);
    assert_int_equal(sagemem_slice_sub(slice, 0, slice.size, &out), SAGEMEM_E_STALE);
    assert_none(out);
    assert_faulted(SAGEMEM_E_STALE, "sagemem_slice_sub", part);
    assert_null(sagemem_slice_at(slice, 0, slice.size));
    assert_faulted(SAGEMEM_E_STALE, "sagemem_slice_at", part);
    assert_int_equal(sagemem_slice_count(slice), 0);
    sagemem_slice_release(slice);
    assert_faulted(SAGEMEM_E_STALE, "sagemem_slice_release", part);
}

/* -- Tests ---------------------------------------------------------------------------------------------- */

static void a_copy_lives_as_long_as_its_last_slice(void **state) {
    (void)state;
    static const uint32_t flags[] = {
        0, SAGEMEM_HEAP_ZERO, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SITES, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED};
    static const size_t sizes[] = {0, 1, 16, 5000, 70000, 500000};
    for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++) {
        sagemem_heap *heap = heap_with(flags[f]);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            char *text = (char *)malloc(sizes[i] + 1);
            for (size_t k = 0; k < sizes[i]; k++) text[k] = (char)('a' + k % 26);
            sagemem_slice a = sagemem_slice_copy(heap, sizes[i] == 0 ? NULL : text, sizes[i], TAG_TEXT),
                          b = sagemem_slice_retain(a), c;
            assert_non_null(a.data);
            assert_ptr_not_equal(a.data, text);
            assert_int_equal(a.size, sizes[i]);
            assert_memory_equal(&a, &b, sizeof a);
            assert_true(sagemem_owns(a.data));
            assert_int_equal(sagemem_tag_of(a.data), TAG_TEXT);
            assert_int_equal(sagemem_slice_sub(a, sizes[i] / 3, sizes[i] / 2, &c), SAGEMEM_OK);
            assert_ptr_equal(c.data, (const char *)a.data + sizes[i] / 3);
            assert_int_equal(c.size, sizes[i] / 2 - sizes[i] / 3);
            assert_int_equal(sagemem_slice_count(a), 3);
            assert_int_equal(sagemem_slice_count(c), 3);
            assert_int_equal(text_stats(heap).blocks, 1);
            const void *data = a.data;
            sagemem_slice_release(a);
            sagemem_slice_release(b);
            assert_true(sagemem_owns(data));
            assert_memory_equal(sagemem_slice_at(c, 0, c.size), text + sizes[i] / 3, c.size);
            assert_int_equal(sagemem_slice_count(c), 1);
            sagemem_slice_release(c);
            assert_false(sagemem_owns(data));
            assert_int_equal(text_stats(heap).blocks, 0);
            assert_int_equal(text_stats(heap).used, 0);
            assert_int_equal(fault.count, 0);
            free(text);
        }
        sagemem_heap_destroy(heap);
    }
}

static void what_cannot_be_copied_leaves_nothing(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    assert_none(sagemem_slice_copy(heap, NULL, 1, TAG_TEXT));
    assert_failed(SAGEMEM_E_ARGUMENT, "data is NULL, but 1 bytes");
    assert_none(sagemem_slice_copy(heap, "a", 1, SAGEMEM_TAG_MAX + 1));
    assert_failed(SAGEMEM_E_ARGUMENT, "SAGEMEM_TAG_MAX");
    volatile size_t most = SIZE_MAX;
    assert_none(sagemem_slice_copy(heap, "a", most, TAG_TEXT));
    assert_failed(SAGEMEM_E_ARGUMENT, "more than an object can have");
    assert_int_equal(sagemem_limit_set(heap, 64 * KIB), SAGEMEM_OK);
    char *large = (char *)calloc(1, MIB);
    assert_none(sagemem_slice_copy(heap, large, MIB, TAG_TEXT));
    assert_failed(SAGEMEM_E_LIMIT, "over its limit");
    assert_int_equal(text_stats(heap).total_blocks, 0);
    assert_int_equal(sagemem_limit_set(heap, 0), SAGEMEM_OK);
    sagemem_slice slice = sagemem_slice_copy(heap, large, MIB, TAG_TEXT);
    assert_int_equal(slice.size, MIB);
    sagemem_slice_release(slice);
    free(large);
    sagemem_heap_destroy(heap);
    assert_none(sagemem_slice_copy(heap, "a", 1, TAG_TEXT));
    assert_faulted(SAGEMEM_E_STALE, "sagemem_slice_copy", "has ended");
}

static void a_block_is_taken_over(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    static const size_t sizes[] = {10, 3000, 20000, 400000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *block = (char *)sagemem_alloc(heap, sizes[i], TAG_TEXT);
        assert_non_null(block);
        assert_none(sagemem_slice_take(block, sagemem_size(block) + 1));
        assert_failed(SAGEMEM_E_ARGUMENT, "see sagemem_size");
        assert_true(sagemem_owns(block));
        sagemem_slice all = sagemem_slice_take(block, sagemem_size(block));
        assert_ptr_equal(all.data, block);
        assert_int_equal(all.size, sagemem_size(block));
        sagemem_slice_release(all);
        assert_false(sagemem_owns(block));
        assert_none(sagemem_slice_take(block, 1));
        assert_faulted(SAGEMEM_E_STALE, "sagemem_slice_take", "freed");
    }
    assert_int_equal(text_stats(heap).blocks, 0);

    char *block = (char *)sagemem_alloc(heap, 100, TAG_TEXT), local = 'x';
    sagemem_slice empty = sagemem_slice_take(block, 0);
    assert_int_equal(empty.size, 0);
    assert_ptr_equal(sagemem_slice_at(empty, 0, 0), block);
    sagemem_slice_release(empty);
    assert_none(sagemem_slice_take(NULL, 0));
    assert_failed(SAGEMEM_E_ARGUMENT, "block is NULL");
    assert_none(sagemem_slice_take(&local, 1));
    assert_faulted(SAGEMEM_E_FOREIGN, "sagemem_slice_take", "does not come from sagemem");
    block = (char *)sagemem_alloc(heap, 100, TAG_TEXT);
    assert_none(sagemem_slice_take(block + 16, 1));
    assert_faulted(SAGEMEM_E_FOREIGN, "sagemem_slice_take", "only the start of a block");

    /* Freed behind the slice's back: found by the last release. */
    sagemem_slice slice = sagemem_slice_take(block, 100);
    sagemem_free(block);
    sagemem_slice_release(slice);
    assert_faulted(SAGEMEM_E_STALE, "sagemem_slice_release", "freed");
    assert_int_equal(sagemem_heap_check(heap), 0);
    sagemem_heap_destroy(heap);
}

static void foreign_bytes_are_given_back_once(void **state) {
    (void)state;
    char text[] = "ACGTACGT";
    int ctx;
    released.count = 0;
    sagemem_slice a = sagemem_slice_wrap(text, 8, on_release, &ctx), b;
    assert_ptr_equal(a.data, text);
    assert_int_equal(sagemem_slice_sub(a, 2, 5, &b), SAGEMEM_OK);
    sagemem_slice_release(a);
    assert_int_equal(released.count, 0);
    assert_memory_equal(sagemem_slice_at(b, 0, 3), "GTA", 3);
    sagemem_slice_release(b);
    assert_int_equal(released.count, 1);
    assert_ptr_equal(released.ctx, &ctx);
    assert_ptr_equal(released.data, text); /* all of it, not the part that was released last */

    sagemem_slice_release(sagemem_slice_wrap(text, 8, NULL, NULL));
    sagemem_slice nothing = sagemem_slice_wrap(NULL, 0, on_release, &ctx);
    assert_non_null(nothing.owner);
    assert_null(sagemem_slice_at(nothing, 0, 0));
    assert_int_equal(sagemem_slice_sub(nothing, 0, 0, &b), SAGEMEM_OK);
    sagemem_slice_release(b);
    sagemem_slice_release(nothing);
    assert_int_equal(released.count, 2);
    assert_null(released.data);
    assert_int_equal(fault.count, 0);

    assert_none(sagemem_slice_wrap(NULL, 1, on_release, &ctx));
    assert_failed(SAGEMEM_E_ARGUMENT, "no 1 bytes");
    volatile size_t most = SIZE_MAX;
    assert_none(sagemem_slice_wrap(text, most, on_release, &ctx));
    assert_failed(SAGEMEM_E_ARGUMENT, "check both");
    assert_int_equal(released.count, 2);
}

static sagemem_slice made_in_release;
static void on_release_wrap(void *ctx, const void *data) {
    made_in_release = sagemem_slice_wrap(data, 1, NULL, NULL);
    sagemem_slice_release(*(sagemem_slice *)ctx); /* another one goes with it */
}

static void release_fn_may_use_slices(void **state) {
    (void)state;
    char text[] = "x";
    released.count = 0;
    sagemem_slice inner = sagemem_slice_wrap(text, 1, on_release, NULL);
    sagemem_slice_release(sagemem_slice_wrap(text, 1, on_release_wrap, &inner));
    assert_int_equal(released.count, 1);
    assert_int_equal(sagemem_slice_count(made_in_release), 1);
    sagemem_slice_release(made_in_release);
    assert_int_equal(fault.count, 0);
}

static void parts_are_within_the_whole(void **state) {
    (void)state;
    volatile size_t most = SIZE_MAX;
    sagemem_slice s = sagemem_slice_copy(NULL, "0123456789", 10, TAG_TEXT), part;
    for (size_t start = 0; start <= 11; start++)
        for (size_t end = 0; end <= 11; end++) {
            memset(&part, 'x', sizeof part);
            sagemem_status status = sagemem_slice_sub(s, start, end, &part);
            assert_int_equal(status, start <= end && end <= 10 ? SAGEMEM_OK : SAGEMEM_E_ARGUMENT);
            if (status != SAGEMEM_OK) {
                assert_none(part);
                assert_failed(SAGEMEM_E_ARGUMENT, "keep start <= end <= size");
                assert_int_equal(sagemem_slice_count(s), 1);
            } else {
                assert_int_equal(part.size, end - start);
                assert_memory_equal(part.data, &"0123456789"[start], part.size);
                sagemem_slice_release(part);
            }
            const void *at = sagemem_slice_at(s, start, end);
            if (start + end <= 10) assert_ptr_equal(at, (const char *)s.data + start);
            else assert_null(at);
        }
    assert_int_equal(sagemem_slice_sub(s, 0, most, &part), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_slice_sub(s, most, most, &part), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_slice_sub(s, most, 1, &part), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_slice_sub(s, 0, 1, NULL), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "out is NULL");
    assert_null(sagemem_slice_at(s, 5, most));
    assert_null(sagemem_slice_at(s, most, 5));
    assert_null(sagemem_slice_at(s, most - 2, 5));
    assert_failed(SAGEMEM_E_ARGUMENT, "reach past the end of a slice of 10");
    assert_int_equal(sagemem_slice_count(s), 1);

    /* A part of a part, into its own variable: the one that was in it is to be released still. */
    sagemem_slice keep = s;
    assert_int_equal(sagemem_slice_sub(s, 2, 9, &s), SAGEMEM_OK);
    assert_int_equal(sagemem_slice_sub(s, 2, 4, &part), SAGEMEM_OK);
    assert_memory_equal(part.data, "45", 2);
    assert_int_equal(sagemem_slice_sub(s, 0, 8, &part), SAGEMEM_E_ARGUMENT); /* within the whole, but not within the part */
    assert_int_equal(sagemem_slice_count(keep), 3);
    for (int i = 0; i < 3; i++) sagemem_slice_release(keep);
    assert_int_equal(text_stats(NULL).blocks, 0);
    assert_int_equal(fault.count, 0);
}

static void no_slice_is_taken_everywhere(void **state) {
    (void)state;
    sagemem_slice part = {&part, 1, NULL, 0};
    assert_none(sagemem_slice_retain(none));
    sagemem_slice_release(none);
    assert_int_equal(sagemem_slice_count(none), 0);
    assert_null(sagemem_slice_at(none, 0, 0));
    assert_int_equal(sagemem_slice_sub(none, 0, 0, &part), SAGEMEM_OK);
    assert_none(part);
    assert_int_equal(fault.count, 0);
    assert_null(sagemem_slice_at(none, 0, 1));
    assert_failed(SAGEMEM_E_ARGUMENT, "past the end of a slice of 0");
    assert_int_equal(sagemem_slice_sub(none, 0, 1, &part), SAGEMEM_E_ARGUMENT);
    assert_none(part);
}

static void a_slice_that_outlived_its_bytes_is_caught(void **state) {
    (void)state;
    released.count = 0;
    char text[64] = "";
    sagemem_slice old = sagemem_slice_wrap(text, 64, on_release, NULL);
    sagemem_slice_release(old);
    assert_every_call_is_stale(old, "released with the last one");

    /* The owner of its bytes serves others now, again and again: never mistaken for its own. */
    for (int i = 0; i < 100; i++) {
        sagemem_slice later = i % 2 == 0 ? sagemem_slice_wrap(text, 64, on_release, NULL) : sagemem_slice_copy(NULL, text, 64, 0);
        assert_ptr_equal(later.owner, old.owner);
        assert_int_not_equal(later.serial, old.serial);
        assert_every_call_is_stale(old, "released with the last one");
        assert_int_equal(sagemem_slice_count(later), 1);
        sagemem_slice_release(later);
        assert_every_call_is_stale(later, "released with the last one");
    }
    assert_int_equal(released.count, 51);
}

static void a_slice_that_no_call_made_is_caught(void **state) {
    (void)state;
    sagemem_slice made = sagemem_slice_copy(NULL, "abcd", 4, TAG_TEXT), wrong = made;
    void *owners[] = {&wrong,
                      (char *)made.owner + 64,
                      (char *)made.owner + 8,
                      (void *)(uintptr_t)made.data,
                      (void *)(uintptr_t)1,
                      (void *)(UINTPTR_MAX - 63),
                      sagemem_heap_default()};
    for (size_t i = 0; i < sizeof owners / sizeof owners[0]; i++) {
        memcpy(&wrong.owner, &owners[i], sizeof wrong.owner);
        assert_none(sagemem_slice_retain(wrong));
        assert_faulted(SAGEMEM_E_FOREIGN, "sagemem_slice_retain", "no owner");
        sagemem_slice_release(wrong);
        assert_faulted(SAGEMEM_E_FOREIGN, "sagemem_slice_release", "no owner");
        assert_int_equal(sagemem_slice_count(wrong), 0);
        assert_faulted(SAGEMEM_E_FOREIGN, "sagemem_slice_count", "no owner");
        assert_null(sagemem_slice_at(wrong, 0, 1));
        assert_faulted(SAGEMEM_E_FOREIGN, "sagemem_slice_at", "no owner");
    }
    wrong = made;
    wrong.serial++;
    sagemem_slice_release(wrong);
    assert_faulted(SAGEMEM_E_STALE, "sagemem_slice_release", "released");
    wrong.serial += UINT64_C(1) << 32;
    sagemem_slice_release(wrong);
    assert_faulted(SAGEMEM_E_STALE, "sagemem_slice_release", "released");
    sagemem_slice_release(made);
    assert_int_equal(fault.count, 0);
}

static void blocks_belong_to_the_open_scope(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED};
    for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++)
        for (size_t size = 100; size < 1000000; size *= 60) {
            sagemem_heap *heap = heap_with(flags[f]);
            char *text = (char *)calloc(1, size);
            sagemem_slice outer = sagemem_slice_copy(heap, text, size, TAG_TEXT), part;
            assert_int_equal(sagemem_scope_begin(heap, "forest", 1), SAGEMEM_OK);
            assert_int_equal(sagemem_slice_sub(outer, 1, 2, &part), SAGEMEM_OK);
            sagemem_slice inner = sagemem_slice_copy(heap, text, size, TAG_TEXT), second = sagemem_slice_retain(inner);
            sagemem_slice good = sagemem_slice_copy(heap, text, size, TAG_TEXT);
            sagemem_slice_release(good);
            sagemem_slice_release(outer);
            sagemem_scope_end(heap);
            assert_int_equal(fault.count, 0);
            assert_int_equal(*(const char *)sagemem_slice_at(part, 0, 1), 0);

            assert_null(sagemem_slice_at(inner, 0, 1));
            assert_faulted(SAGEMEM_E_STALE, "sagemem_slice_at", "outlives the scope or heap");
            /* Another scope's block lies where it was: it is not the slice's to free. */
            assert_int_equal(sagemem_scope_begin(heap, "forest", 2), SAGEMEM_OK);
            sagemem_slice same = sagemem_slice_copy(heap, text, size, TAG_TEXT);
            assert_none(sagemem_slice_retain(inner));
            assert_faulted(SAGEMEM_E_STALE, "sagemem_slice_retain", "outlives the scope or heap");
            sagemem_slice_release(inner);
            assert_int_equal(fault.count, 0); /* the count goes down, and there is one more */
            sagemem_slice_release(second);
            assert_faulted(SAGEMEM_E_STALE, "sagemem_slice_release", "outlives the scope or heap");
            assert_every_call_is_stale(second, "released with the last one");
            assert_true(sagemem_owns(same.data));
            assert_int_equal(text_stats(heap).blocks, 2);
            sagemem_slice_release(same);
            sagemem_scope_end(heap);
            sagemem_slice_release(part);
            assert_int_equal(text_stats(heap).blocks, 0);

            for (int i = 0; i < 2; i++) { /* reset, then destroyed */
                sagemem_slice lost = sagemem_slice_copy(heap, text, size, TAG_TEXT);
                if (i == 0) sagemem_heap_reset(heap);
                else sagemem_heap_destroy(heap);
                assert_int_equal(sagemem_slice_count(lost), 0);
                sagemem_slice_release(lost);
                assert_faulted(SAGEMEM_E_STALE, "sagemem_slice_release", "outlives the scope or heap");
            }
            free(text);
        }
}

static void owners_are_used_again(void **state) {
    (void)state;
    enum { MOST = 6000 };
    static sagemem_slice slices[MOST];
    uint64_t peak = 0;
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < MOST; i++) {
            slices[i] = sagemem_slice_wrap("x", 1, NULL, NULL);
            assert_non_null(slices[i].owner);
        }
        if (round == 0) peak = overhead();
        for (int i = 0; i < MOST; i++) sagemem_slice_release(slices[i]);
    }
    assert_int_equal(overhead(), peak);
    for (int i = 0; i < 3 * MOST; i++) assert_none(sagemem_slice_copy(NULL, "a", 1, SAGEMEM_TAG_MAX + 1));
    assert_int_equal(overhead(), peak);
}

/* Without memory for an owner, nothing is made and nothing is called. */
static void the_limit_of_the_process_is_an_ordinary_failure(void **state) {
    (void)state;
    enum { MOST = 20000 };
    static sagemem_slice slices[MOST];
    sagemem_heap *heap = heap_with(0);
    void *block = sagemem_alloc(heap, 100, TAG_TEXT);
    char *room = (char *)sagemem_alloc(heap, 100, TAG_TEXT); /* so that there is room in a page for the copy */
    sagemem_free(room);
    sagemem_heap_stats s;
    assert_int_equal(sagemem_heap_get_stats(NULL, &s), SAGEMEM_OK);
    sagemem_trim();
    assert_int_equal(sagemem_limit_set(NULL, 1), SAGEMEM_OK);
    released.count = 0;
    int made = 0;
    while (made < MOST && (slices[made] = sagemem_slice_wrap("x", 1, on_release, NULL)).owner != NULL) made++;
    assert_in_range(made, 0, MOST - 1);
    assert_failed(SAGEMEM_E_LIMIT, "over its limit");
    assert_none(slices[made]);
    assert_int_equal(released.count, 0);
    assert_none(sagemem_slice_take(block, 100));
    assert_failed(SAGEMEM_E_LIMIT, "over its limit");
    assert_true(sagemem_owns(block));
    uint64_t total = text_stats(heap).total_blocks;
    assert_none(sagemem_slice_copy(heap, "abc", 3, TAG_TEXT));
    assert_failed(SAGEMEM_E_LIMIT, "over its limit");
    assert_int_equal(text_stats(heap).total_blocks, total);
    assert_int_equal(sagemem_limit_set(NULL, 0), SAGEMEM_OK);
    sagemem_slice taken = sagemem_slice_take(block, 100);
    assert_ptr_equal(taken.data, block);
    sagemem_slice_release(taken);
    for (int i = 0; i < made; i++) sagemem_slice_release(slices[i]);
    assert_int_equal(released.count, made);
    sagemem_heap_destroy(heap);
}

/* -- Every failure ---------------------------------------------------------------------------------------- */

static sagemem_status whole_life(void *ctx) {
    sagemem_heap *heap = *(sagemem_heap **)ctx;
    sagemem_tag_stats before = text_stats(heap);
    sagemem_status status = SAGEMEM_E_NOMEM;
    sagemem_slice copy = none, taken = none, part = none, wrapped = none;
    released.count = 0;
    void *block = sagemem_alloc(heap, 300000, TAG_TEXT);
    if (block == NULL) goto end;
    copy = sagemem_slice_copy(heap, "0123456789", 10, TAG_TEXT);
    if (copy.owner == NULL) goto end;
    taken = sagemem_slice_take(block, 300000);
    if (taken.owner == NULL) goto end;
    block = NULL;
    wrapped = sagemem_slice_wrap("x", 1, on_release, NULL);
    if (wrapped.owner == NULL) goto end;
    if (sagemem_slice_sub(copy, 3, 6, &part) != SAGEMEM_OK) goto end;
    REQUIRE(memcmp(sagemem_slice_at(part, 0, 3), "345", 3) == 0, "wrong bytes");
    status = SAGEMEM_OK;
end:
    if (status != SAGEMEM_OK) status = sagemem_last_error()->status;
    REQUIRE(released.count == 0, "released too early");
    sagemem_slice_release(copy);
    sagemem_slice_release(taken);
    sagemem_slice_release(part);
    sagemem_free(block);
    bool was = wrapped.owner != NULL;
    sagemem_slice_release(wrapped);
    REQUIRE(released.count == was, "%d calls of release_fn", released.count);
    sagemem_tag_stats after = text_stats(heap);
    REQUIRE(after.blocks == before.blocks && after.used == before.used, "something is left");
    return status;
}

static void every_failure_changes_nothing(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        sagemem_heap *heap = heap_with(flags[i]);
        uint64_t points = 0;
        assert_int_equal(sagemem_check_failures(whole_life, &heap, &points), SAGEMEM_OK);
        assert_true(points >= 5);
        assert_int_equal(fault.count, 0);
        assert_int_equal(sagemem_heap_check(heap), 0);
        sagemem_heap_destroy(heap);
    }
}

/* -- At random, beside a second set of books ---------------------------------------------------------------- */

enum { TEXTS = 64, VIEWS = 512 };

typedef struct book_text {
    bool live, wrapped;
    int views, gone; /* slices that are out; calls of release_fn */
    size_t size;
    unsigned char bytes[600]; /* what it must read; wrapped: the memory itself */
} book_text;
typedef struct book_view {
    sagemem_slice slice;
    int text; /* -1: none */
    size_t start;
} book_view;

static book_text texts[TEXTS];
static book_view views[VIEWS];
static sagemem_slice stale[VIEWS]; /* the last of its text, as it was released */

static void on_text_gone(void *ctx, const void *data) {
    book_text *t = (book_text *)ctx;
    REQUIRE(data == t->bytes, "other memory is given back");
    t->gone++;
}

static void view_release(book_view *v, size_t place) {
    book_text *t = &texts[v->text];
    REQUIRE(sagemem_slice_count(v->slice) == (uint64_t)t->views, "%d slices share the text", t->views);
    REQUIRE(memcmp(sagemem_slice_at(v->slice, 0, v->slice.size), t->bytes + v->start, v->slice.size) == 0, "the bytes changed");
    sagemem_slice_release(v->slice);
    v->text = -1;
    if (--t->views > 0) return;
    REQUIRE(t->gone == (t->wrapped ? 1 : 0), "release_fn ran %d times", t->gone);
    t->live = false;
    stale[place] = v->slice;
}

static sagemem_slice text_make(sagemem_heap *heap, book_text *t, chance *c) {
    memset(t, 0, sizeof *t);
    t->live = true;
    t->size = (size_t)chance_below(c, sizeof t->bytes + 1);
    for (size_t i = 0; i < t->size; i++) t->bytes[i] = (unsigned char)chance_next(c);
    switch (chance_below(c, 3)) {
    case 0: t->wrapped = true; return sagemem_slice_wrap(t->bytes, t->size, on_text_gone, t);
    case 1: return sagemem_slice_copy(heap, t->bytes, t->size, TAG_TEXT);
    default: return sagemem_slice_take(sagemem_memdup(heap, t->bytes, t->size, TAG_TEXT), t->size);
    }
}

static void random_step(sagemem_heap *heap, chance *c) {
    size_t place = (size_t)chance_below(c, VIEWS), other = (size_t)chance_below(c, VIEWS);
    book_view *v = &views[place], *from = &views[other];
    int kind = (int)chance_below(c, 10);
    if (v->text >= 0) {
        view_release(v, place);
    } else if (kind < 3) {
        int text = (int)chance_below(c, TEXTS);
        if (texts[text].live) return;
        v->slice = text_make(heap, &texts[text], c);
        REQUIRE(v->slice.owner != NULL, "no slice");
        v->text = text;
        v->start = 0;
        texts[text].views = 1;
    } else if (from->text >= 0) {
        size_t start = (size_t)chance_below(c, from->slice.size + 1),
               end = start + (size_t)chance_below(c, from->slice.size + 1 - start);
        if (kind == 3) start = 0, end = from->slice.size, v->slice = sagemem_slice_retain(from->slice);
        else REQUIRE(sagemem_slice_sub(from->slice, start, end, &v->slice) == SAGEMEM_OK, "no part");
        REQUIRE(v->slice.size == end - start, "a part of another size");
        v->text = from->text;
        v->start = from->start + start;
        texts[v->text].views++;
    } else if (stale[other].owner != NULL) {
        fault.count = 0;
        sagemem_slice_release(stale[other]);
        REQUIRE(fault.count == 1 && fault.error.status == SAGEMEM_E_STALE, "an old slice passes");
    }
}

static void at_random_everything_agrees(void **state) {
    (void)state;
    uint64_t seed = oracle_seed();
    print_message("SAGEMEM_SEED=%llu\n", UINT(seed));
    chance c = {seed};
    sagemem_heap *heap = heap_with(0);
    for (int i = 0; i < VIEWS; i++) views[i].text = -1;
    for (unsigned step = 0; step < oracle_steps(200000, 20000); step++) {
        random_step(heap, &c);
        if (step % 1000 != 0) continue;
        uint64_t blocks = 0;
        for (int t = 0; t < TEXTS; t++) blocks += texts[t].live && !texts[t].wrapped;
        assert_int_equal(text_stats(heap).blocks, blocks);
    }
    for (size_t i = 0; i < VIEWS; i++)
        if (views[i].text >= 0) view_release(&views[i], i);
    assert_int_equal(text_stats(heap).blocks, 0);
    assert_int_equal(text_stats(heap).used, 0);
    assert_int_equal(sagemem_heap_check(heap), 0);
    sagemem_heap_destroy(heap);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_copy_lives_as_long_as_its_last_slice, setup),
        cmocka_unit_test_setup(what_cannot_be_copied_leaves_nothing, setup),
        cmocka_unit_test_setup(a_block_is_taken_over, setup),
        cmocka_unit_test_setup(foreign_bytes_are_given_back_once, setup),
        cmocka_unit_test_setup(release_fn_may_use_slices, setup),
        cmocka_unit_test_setup(parts_are_within_the_whole, setup),
        cmocka_unit_test_setup(no_slice_is_taken_everywhere, setup),
        cmocka_unit_test_setup(a_slice_that_outlived_its_bytes_is_caught, setup),
        cmocka_unit_test_setup(a_slice_that_no_call_made_is_caught, setup),
        cmocka_unit_test_setup(blocks_belong_to_the_open_scope, setup),
        cmocka_unit_test_setup(owners_are_used_again, setup),
        cmocka_unit_test_setup(the_limit_of_the_process_is_an_ordinary_failure, setup),
        cmocka_unit_test_setup(every_failure_changes_nothing, setup),
        cmocka_unit_test_setup(at_random_everything_agrees, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
