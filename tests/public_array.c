/* Growth, arrays and arrays that never move, through the public interface, against plain copies that the test keeps. */
#include "oracle.h"
#include "public.h"

enum { TAG = 5 };

static bool watched(void) { return UNDER_ASAN || on_valgrind() || getenv("SAGEMEM_TEST_SLOW") != NULL; }

#include "rows.h"

static sagemem_array array_of(sagemem_heap *heap, size_t element_size, size_t stable_max) {
    sagemem_array_desc desc = {0};
    desc.heap = heap;
    desc.tag = TAG;
    desc.element_size = element_size;
    desc.stable_max = stable_max;
    sagemem_array array;
    assert_int_equal(sagemem_array_init(&array, &desc), SAGEMEM_OK);
    return array;
}

/* The compiler is not to know what a pointer was made of. */
static void *hidden(void *pointer) {
    void *volatile p = pointer;
    return p;
}
static volatile size_t most = SIZE_MAX;

/* -- Growth of existing code ------------------------------------------------------------------------------- */

static void grow_counts_few_reallocs(void **state) {
    (void)state;
    double *data = NULL;
    size_t capacity = 0, grown = 0;
    for (size_t n = 0; n < 1000000; n++) {
        size_t before = capacity;
        if (n == capacity) assert_int_equal(sagemem_array_grow((void **)&data, sizeof *data, &capacity, n + 1, 0), SAGEMEM_OK);
        grown += capacity != before;
        data[n] = (double)n;
    }
    assert_true(grown < 40); /* log 1e6 / log 1.5 = 34 */
    assert_true(capacity <= 1500100);
    for (size_t n = 0; n < 1000000; n++) assert_true(data[n] == (double)n);
    assert_ptr_equal(sagemem_heap_of(data), sagemem_heap_default());
    assert_int_equal(sagemem_tag_of(data), SAGEMEM_UNTAGGED);
    assert_int_equal(capacity, sagemem_size(data) / sizeof *data);
    sagemem_free(data);
}

static void grow_refuses(void **state) {
    (void)state;
    const char *call = "sagemem_array_grow";
    sagemem_heap *heap = heap_with(0, 0);
    void *data = sagemem_alloc(heap, 100, TAG), *none = NULL, *first = data;
    size_t capacity = 25, zero = 0;
    assert_int_equal(sagemem_array_grow(NULL, 4, &capacity, 30, 0), SAGEMEM_E_ARGUMENT);
    assert_error(SAGEMEM_E_ARGUMENT, call, "addresses");
    assert_int_equal(sagemem_array_grow(&data, 0, &capacity, 30, 0), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_array_grow(&data, 4, NULL, 30, 0), SAGEMEM_E_ARGUMENT);
    static const double bad[] = {1, 0.5, -2, 0.0 / 1e-300 - 1};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(sagemem_array_grow(&data, 4, &capacity, 30, bad[i]), SAGEMEM_E_ARGUMENT);
        assert_error(SAGEMEM_E_ARGUMENT, call, "more than 1");
    }
    volatile double nought = 0;
    assert_int_equal(sagemem_array_grow(&data, 4, &capacity, 30, nought / nought), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_array_grow(&none, 4, &capacity, 10, 0), SAGEMEM_E_ARGUMENT); /* a capacity without a block */
    assert_int_equal(sagemem_array_grow(&data, 4, &capacity, most, 0), SAGEMEM_E_ARGUMENT);
    assert_error(SAGEMEM_E_ARGUMENT, call, "check how the number was computed");
    assert_int_equal(sagemem_array_grow(&data, 4, &capacity, most / 4 + 2, 0), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_array_grow(&none, 4, &zero, most / 8 + 1, 0), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_array_grow(&data, 64, &capacity, 30, 0), SAGEMEM_E_ARGUMENT); /* another element_size */
    assert_error(SAGEMEM_E_ARGUMENT, call, "check element_size");
    assert_int_equal(sagemem_array_grow(&data, 4, &capacity, 25, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_array_grow(&none, 4, &zero, 0, 0), SAGEMEM_OK);
    assert_null(none);
    assert_ptr_equal(data, first);
    assert_int_equal(capacity, 25);
    assert_int_equal(fault.count, 0);
    int on_stack = 0;
    void *foreign = hidden(&on_stack);
    assert_int_equal(sagemem_array_grow(&foreign, 4, &capacity, 30, 0), SAGEMEM_E_FOREIGN);
    assert_fault(SAGEMEM_E_FOREIGN, call, "does not come from sagemem");
    sagemem_free(data);
    data = hidden(data);
    assert_int_equal(sagemem_array_grow(&data, 4, &capacity, 300, 0), SAGEMEM_E_STALE);
    assert_fault(SAGEMEM_E_STALE, call, "freed already");
    sagemem_heap_destroy(heap);
}

/* The block stays in its heap, scope and tag; a factor that no memory satisfies gives way to what is needed. */
static void grow_keeps_the_place(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 4 * MIB);
    char *data = sagemem_alloc(heap, 16, TAG);
    size_t capacity = 16;
    memset(data, 'x', 16);
    assert_int_equal(sagemem_scope_begin(heap, "forest", 1), SAGEMEM_OK);
    assert_int_equal(sagemem_array_grow((void **)&data, 1, &capacity, 1000, 2), SAGEMEM_OK);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_true(sagemem_owns(data) && sagemem_tag_of(data) == TAG && sagemem_heap_of(data) == heap && capacity >= 1000);
    static const double factors[] = {1e300, 1e18, 1000, 1.0000001};
    for (size_t i = 0; i < 4; i++) {
        size_t before = capacity;
        sagemem_tag_named(NULL); /* leaves an error of its own */
        assert_int_equal(sagemem_array_grow((void **)&data, 1, &capacity, before + 1, factors[i]), SAGEMEM_OK);
        assert_true(capacity > before && stats_of(heap).held <= 4 * MIB);
        assert_error(SAGEMEM_E_ARGUMENT, "sagemem_tag_named", ""); /* attempts that were made good are not told */
        data = sagemem_realloc(NULL, data, 1000, SAGEMEM_TAG_SAME);
        capacity = sagemem_size(data);
    }
    size_t before = capacity;
    char *old = data;
    assert_int_equal(sagemem_array_grow((void **)&data, 1, &capacity, 5 * MIB, 0), SAGEMEM_E_LIMIT);
    assert_error(SAGEMEM_E_LIMIT, "sagemem_array_grow", "may hold");
    assert_true(capacity == before && data == old);
    for (int i = 0; i < 16; i++) assert_int_equal(data[i], 'x');
    assert_int_equal(sagemem_limit_set(heap, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_array_grow((void **)&data, 1, &capacity, 5 * MIB, 0), SAGEMEM_OK);
    sagemem_free(data);
    sagemem_heap_destroy(heap);
}

/* -- Arrays ------------------------------------------------------------------------------------------------ */

static void init_refuses(void **state) {
    (void)state;
    const char *call = "sagemem_array_init";
    sagemem_array_desc desc = {0};
    sagemem_array array;
    static const sagemem_array zeroed = {0};
    memset(&array, 0xFF, sizeof array);
    assert_int_equal(sagemem_array_init(NULL, &desc), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_array_init(&array, NULL), SAGEMEM_E_ARGUMENT);
    assert_error(SAGEMEM_E_ARGUMENT, call, "element_size");
    assert_memory_equal(&array, &zeroed, sizeof array);
    memset(&array, 0xFF, sizeof array);
    assert_int_equal(sagemem_array_init(&array, &desc), SAGEMEM_E_ARGUMENT);
    assert_memory_equal(&array, &zeroed, sizeof array);
    desc.element_size = 8;
    desc.growth = 1;
    assert_int_equal(sagemem_array_init(&array, &desc), SAGEMEM_E_ARGUMENT);
    desc.growth = 0;
    desc.initial_capacity = most / 4;
    assert_int_equal(sagemem_array_init(&array, &desc), SAGEMEM_E_ARGUMENT);
    assert_error(SAGEMEM_E_ARGUMENT, call, "more than an address can count");
    desc.initial_capacity = 0;
    desc.stable_max = most / 4;
    assert_int_equal(sagemem_array_init(&array, &desc), SAGEMEM_E_ARGUMENT);
    desc.stable_max = 10;
    desc.initial_capacity = 11;
    assert_int_equal(sagemem_array_init(&array, &desc), SAGEMEM_E_ARGUMENT);
    assert_error(SAGEMEM_E_ARGUMENT, call, "stable_max");
    desc.stable_max = desc.initial_capacity = 0;
    desc.tag = SAGEMEM_TAG_MAX + 1;
    assert_int_equal(sagemem_array_init(&array, &desc), SAGEMEM_E_ARGUMENT);
    assert_memory_equal(&array, &zeroed, sizeof array);
    desc.tag = TAG;
    desc.heap = heap_with(0, 64 * KIB);
    desc.initial_capacity = 100000;
    assert_int_equal(sagemem_array_init(&array, &desc), SAGEMEM_E_LIMIT);
    assert_error(SAGEMEM_E_LIMIT, call, "may hold");
    assert_memory_equal(&array, &zeroed, sizeof array);
    desc.stable_max = 200000;
    assert_int_equal(sagemem_array_init(&array, &desc), SAGEMEM_E_LIMIT);
    assert_memory_equal(&array, &zeroed, sizeof array);
    assert_int_equal(stats_of(desc.heap).used, 0);
    sagemem_heap_destroy(desc.heap);
    assert_int_equal(fault.count, 0);
}

/* Zeroed, or NULL: no call does anything. */
static void no_array(void **state) {
    (void)state;
    sagemem_array zeroed = {0}, *arrays[] = {&zeroed, NULL};
    sagemem_array_desc desc;
    int element = 1;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(sagemem_array_push(arrays[i], &element), SAGEMEM_E_ARGUMENT);
        assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_ARGUMENT);
        assert_null(sagemem_array_add(arrays[i], 1));
        assert_error(SAGEMEM_E_ARGUMENT, "sagemem_array_add", i == 0 ? "sagemem_array_init" : "NULL");
        assert_int_equal(sagemem_array_resize(arrays[i], 0), SAGEMEM_E_ARGUMENT);
        assert_int_equal(sagemem_array_reserve(arrays[i], 0), SAGEMEM_E_ARGUMENT);
        assert_int_equal(sagemem_array_shrink(arrays[i]), SAGEMEM_E_ARGUMENT);
        assert_int_equal(sagemem_array_get_desc(arrays[i], &desc), SAGEMEM_E_ARGUMENT);
        assert_null(sagemem_array_at(arrays[i], 0));
        sagemem_array_remove_swap(arrays[i], 0);
        assert_error(SAGEMEM_E_ARGUMENT, "sagemem_array_remove_swap", "the array has 0");
        assert_int_equal(sagemem_array_count(arrays[i]) + sagemem_array_capacity(arrays[i]), 0);
        assert_null(sagemem_array_data(arrays[i]));
        sagemem_array_deinit(arrays[i]);
    }
    assert_int_equal(fault.count, 0);
}

static void one_array(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 0);
    sagemem_array a = array_of(heap, 4, 0);
    sagemem_array_desc desc;
    assert_int_equal(tag_of(heap).blocks, 1);
    assert_int_equal(sagemem_array_get_desc(&a, NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_array_get_desc(&a, &desc), SAGEMEM_OK);
    assert_true(desc.heap == heap && desc.tag == TAG && desc.element_size == 4 && desc.growth == 1.5 && desc.stable_max == 0);
    assert_true(desc.initial_capacity >= 16 && desc.initial_capacity == sagemem_array_capacity(&a));
    assert_int_equal(sagemem_array_capacity(&a), sagemem_size(sagemem_array_data(&a)) / 4);
    for (int i = 0; i < 1000; i++) assert_int_equal(sagemem_array_push(&a, &i), SAGEMEM_OK);
    assert_int_equal(sagemem_array_push(&a, NULL), SAGEMEM_E_ARGUMENT);
    assert_error(SAGEMEM_E_ARGUMENT, "sagemem_array_push", "element is NULL");
    for (int i = 0; i < 1000; i++) assert_int_equal(*(int *)sagemem_array_at(&a, (size_t)i), i);
    assert_null(sagemem_array_at(&a, 1000));
    assert_error(SAGEMEM_E_ARGUMENT, "sagemem_array_at", "there is no element 1000: the array has 1000");
    assert_null(sagemem_array_at(&a, most));
    sagemem_array_remove_swap(&a, 0);
    assert_int_equal(*(int *)sagemem_array_at(&a, 0), 999);
    sagemem_array_remove_swap(&a, 998); /* the last: nothing takes its place */
    assert_int_equal(sagemem_array_count(&a), 998);
    sagemem_array_remove_swap(&a, 998);
    assert_error(SAGEMEM_E_ARGUMENT, "sagemem_array_remove_swap", "the array has 998");
    assert_int_equal(sagemem_array_count(&a), 998);
    int *at = sagemem_array_add(&a, 2);
    assert_ptr_equal(at, sagemem_array_at(&a, 998));
    assert_non_null(sagemem_array_add(&a, 0));
    assert_int_equal(sagemem_array_reserve(&a, 5000), SAGEMEM_OK);
    size_t capacity = sagemem_array_capacity(&a);
    assert_true(capacity >= 5000);
    assert_int_equal(sagemem_array_reserve(&a, 10), SAGEMEM_OK);
    assert_int_equal(sagemem_array_capacity(&a), capacity);
    void *before = a.data;
    assert_int_equal(sagemem_array_resize(&a, 5000), SAGEMEM_OK);
    assert_ptr_equal(a.data, before);
    assert_int_equal(sagemem_array_resize(&a, 3), SAGEMEM_OK);
    assert_int_equal(sagemem_array_capacity(&a), capacity);
    assert_int_equal(sagemem_array_shrink(&a), SAGEMEM_OK);
    assert_true(sagemem_array_capacity(&a) < 100 && sagemem_array_count(&a) == 3);
    assert_int_equal(*(int *)sagemem_array_at(&a, 1), 1);
    assert_int_equal(sagemem_array_resize(&a, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_array_shrink(&a), SAGEMEM_OK);
    assert_int_equal(sagemem_array_push(&a, &capacity), SAGEMEM_OK);
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX / 4, SIZE_MAX / 8 + 1};
    for (size_t i = 0; i < 3; i++) {
        assert_null(sagemem_array_add(&a, sizes[i]));
        assert_error(SAGEMEM_E_ARGUMENT, "sagemem_array_add", "check how");
        assert_int_equal(sagemem_array_resize(&a, sizes[i]), SAGEMEM_E_ARGUMENT);
        assert_int_equal(sagemem_array_reserve(&a, sizes[i]), SAGEMEM_E_ARGUMENT);
    }
    assert_int_equal(sagemem_array_count(&a), 1);
    assert_int_equal(tag_of(heap).used, sagemem_size(a.data));
    sagemem_array_deinit(&a);
    assert_null(a.data);
    assert_int_equal(tag_of(heap).used + tag_of(heap).blocks, 0);
    assert_int_equal(sagemem_heap_check(heap), 0);
    assert_int_equal(fault.count, 0);
    sagemem_heap_destroy(heap);
}

typedef struct galaxy {
    char name[40];
    double mass;
} galaxy;
SAGEMEM_ARRAY_OF(galaxy_array, galaxy);

static void typed(void **state) {
    (void)state;
    galaxy_array a;
    assert_int_equal(galaxy_array_init(&a, NULL), SAGEMEM_OK);
    galaxy_array_deinit(&a);
    sagemem_array_desc desc = {0};
    desc.heap = heap_with(SAGEMEM_HEAP_CHECKED, 0); /* what is freed there is written over */
    desc.element_size = 1;
    assert_int_equal(galaxy_array_init(&a, &desc), SAGEMEM_OK);
    assert_int_equal(a.base.element_size, sizeof(galaxy));
    galaxy g = {"M31", 0};
    for (int i = 0; i < 3000; i++) {
        g.mass = i;
        assert_int_equal(galaxy_array_push(&a, &g), SAGEMEM_OK);
    }
    /* An element of the array itself, each time it has to grow. */
    for (int grown = 0; grown < 5;) {
        size_t capacity = galaxy_array_capacity(&a);
        assert_int_equal(galaxy_array_push(&a, galaxy_array_at(&a, 7)), SAGEMEM_OK);
        grown += galaxy_array_capacity(&a) != capacity;
        galaxy *last = galaxy_array_at(&a, galaxy_array_count(&a) - 1);
        assert_true(last->mass == 7 && strcmp(last->name, "M31") == 0);
    }
    assert_true(galaxy_array_data(&a)[2999].mass == 2999);
    assert_null(galaxy_array_at(&a, galaxy_array_count(&a)));
    assert_int_equal(galaxy_array_resize(&a, 10), SAGEMEM_OK);
    galaxy_array_remove_swap(&a, 0);
    assert_true(galaxy_array_at(&a, 0)->mass == 9);
    assert_int_equal(galaxy_array_reserve(&a, 100), SAGEMEM_OK);
    assert_int_equal(galaxy_array_shrink(&a), SAGEMEM_OK);
    galaxy_array_add(&a, 1)->mass = 5;
    assert_int_equal(galaxy_array_count(&a), 10);
    galaxy_array_deinit(&a);
    assert_int_equal(galaxy_array_push(&a, &g), SAGEMEM_E_ARGUMENT);
    sagemem_heap_destroy(desc.heap);
}

static bool all_zero(const void *at, size_t size) {
    const unsigned char *p = at;
    return size == 0 || (p[0] == 0 && memcmp(p, p + 1, size - 1) == 0);
}

static void zeroing_heaps(void **state) {
    (void)state;
    static const uint32_t kinds[] = {SAGEMEM_HEAP_ZERO, SAGEMEM_HEAP_ZERO | SAGEMEM_HEAP_SYSTEM,
                                     SAGEMEM_HEAP_ZERO | SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_ZERO | SAGEMEM_HEAP_SHARED};
    static const size_t sizes[] = {3, 8, 1000, 70000};
    for (size_t k = 0; k < 16; k++) {
        for (size_t stable = 0; stable < 2; stable++) {
            sagemem_heap *heap = heap_with(kinds[k % 4], 0);
            size_t size = sizes[k / 4];
            sagemem_array a = array_of(heap, size, stable * 200);
            for (int round = 0; round < 6; round++) {
                size_t n = a.count;
                char *at = sagemem_array_add(&a, 30);
                assert_true(all_zero(at, 30 * size));
                memset(at, 'x', 30 * size);
                for (int i = 0; i < 10; i++) sagemem_array_remove_swap(&a, n + 2);
                if (round % 2 != 0) assert_int_equal(sagemem_array_shrink(&a), SAGEMEM_OK);
                assert_int_equal(sagemem_array_resize(&a, n + 40), SAGEMEM_OK);
                assert_true(all_zero(sagemem_array_at(&a, n + 20), 20 * size));
                memset(sagemem_array_at(&a, n + 20), 'y', 20 * size);
                assert_int_equal(sagemem_array_resize(&a, n + 5), SAGEMEM_OK);
                if (round == 4) assert_int_equal(sagemem_array_reserve(&a, 190), SAGEMEM_OK);
                assert_int_equal(*(char *)sagemem_array_at(&a, n + 4), 'x');
            }
            sagemem_array_deinit(&a);
            assert_int_equal(tag_of(heap).used, 0);
            sagemem_heap_destroy(heap);
        }
    }
}

/* An array of the outer scope grows in the inner one; with its scope it is gone, and that is found. */
static void scopes(void **state) {
    (void)state;
    for (size_t stable = 0; stable < 2; stable++) {
        sagemem_heap *heap = heap_with(0, 0);
        assert_int_equal(sagemem_scope_begin(heap, "run", 1), SAGEMEM_OK);
        sagemem_array a = array_of(heap, sizeof(int), stable * 1000000);
        assert_int_equal(sagemem_scope_begin(heap, "forest", 2), SAGEMEM_OK);
        for (int i = 0; i < 200000; i++) assert_int_equal(sagemem_array_push(&a, &i), SAGEMEM_OK);
        sagemem_array inner = array_of(heap, sizeof(int), stable * 1000000);
        assert_int_equal(sagemem_array_reserve(&inner, 100000), SAGEMEM_OK);
        assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
        for (int i = 0; i < 200000; i += 997) assert_int_equal(*(int *)sagemem_array_at(&a, (size_t)i), i);
        assert_int_equal(sagemem_array_reserve(&inner, 200000), SAGEMEM_E_STALE);
        assert_fault(SAGEMEM_E_STALE, "sagemem_array_reserve", "forest 2");
        assert_int_equal(sagemem_array_shrink(&inner), SAGEMEM_E_STALE);
        assert_fault(SAGEMEM_E_STALE, "sagemem_array_shrink", "forest 2");
        sagemem_array_deinit(&inner);
        assert_fault(SAGEMEM_E_STALE, "sagemem_array_deinit", "forest 2");
        assert_null(inner.data);
        a.data = sagemem_keep(a.data); /* the elements leave the scope */
        assert_non_null(a.data);
        assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
        assert_int_equal(*(int *)sagemem_array_at(&a, 199999), 199999);
        int last = 5;
        assert_int_equal(sagemem_array_reserve(&a, 500000), SAGEMEM_OK);
        assert_int_equal(sagemem_array_push(&a, &last), SAGEMEM_OK);
        assert_int_equal(tag_of(heap).used, sagemem_size(a.data));
        sagemem_heap_reset(heap);
        assert_int_equal(tag_of(heap).used, 0);
        assert_int_equal(stats_of(heap).held, 0);
        a = array_of(heap, sizeof(int), stable * 1000000);
        sagemem_heap_destroy(heap);
        sagemem_array_deinit(&a);
        assert_fault(SAGEMEM_E_STALE, "sagemem_array_deinit", "catalogue");
    }
}

static void *push_elsewhere(void *array) {
    int one = 1;
    sagemem_array *a = array;
    while (sagemem_array_count(a) < 100000)
        if (sagemem_array_push(a, &one) != SAGEMEM_OK) return NULL;
    return array;
}
static void *deinit_elsewhere(void *array) {
    sagemem_array_deinit(array);
    return NULL;
}
static void *run_elsewhere(void *(*run)(void *), void *argument) {
    pthread_t thread;
    void *result;
    REQUIRE(pthread_create(&thread, NULL, run, argument) == 0, "no thread");
    pthread_join(thread, &result);
    return result;
}

static void threads(void **state) {
    (void)state;
    for (size_t stable = 0; stable < 2; stable++) {
        sagemem_heap *own = heap_with(0, 0), *shared = heap_with(SAGEMEM_HEAP_SHARED, 0);
        sagemem_array a = array_of(own, sizeof(int), stable * 100000), b = array_of(shared, sizeof(int), stable * 100000);
        assert_null(run_elsewhere(push_elsewhere, &a));
        assert_fault(SAGEMEM_E_BUSY, "sagemem_array_push", "another thread");
        assert_ptr_equal(run_elsewhere(push_elsewhere, &b), &b);
        run_elsewhere(deinit_elsewhere, &a); /* any thread may free */
        run_elsewhere(deinit_elsewhere, &b);
        assert_int_equal(fault.count, 0);
        assert_int_equal(tag_of(own).used + tag_of(shared).used, 0);
        sagemem_heap_destroy(own);
        sagemem_heap_destroy(shared);
    }
}

static void limits(void **state) {
    (void)state;
    for (size_t stable = 0; stable < 2; stable++) {
        sagemem_heap *heap = heap_with(0, 2 * MIB);
        sagemem_array a = array_of(heap, 8, stable * MIB);
        uint64_t i = 0;
        sagemem_status status;
        while ((status = sagemem_array_push(&a, &i)) == SAGEMEM_OK) i++;
        assert_int_equal(status, SAGEMEM_E_LIMIT);
        assert_error(SAGEMEM_E_LIMIT, "sagemem_array_push", "sagemem_limit_set");
        assert_true(stats_of(heap).held <= 2 * MIB);
        REQUIRE(i * 8 >= (stable ? 2 * MIB - 32 * KIB : 800 * KIB), "only %llu",
                UINT(i * 8)); /* all of it, or as much as fits twice */
        assert_int_equal(sagemem_array_count(&a), i);
        for (uint64_t n = 0; n < i; n += 501) assert_true(*(uint64_t *)sagemem_array_at(&a, n) == n);
        assert_int_equal(sagemem_limit_set(heap, 3 * MIB), SAGEMEM_OK);
        assert_int_equal(sagemem_array_push(&a, &i), SAGEMEM_OK);
        assert_int_equal(sagemem_limit_set(heap, 2 * MIB), SAGEMEM_OK);
        assert_int_equal(sagemem_array_shrink(&a), SAGEMEM_OK); /* also where there is no memory for a copy */
        assert_int_equal(sagemem_array_count(&a), i + 1);
        sagemem_array_deinit(&a);
        sagemem_heap_destroy(heap);
    }
}

static uint64_t reclaim_nothing(void *ctx, uint64_t wanted) {
    (void)wanted;
    ++*(int *)ctx;
    return 0;
}

/* A factor that memory is short of is no reason to ask for memory back, and none to abort. */
static void less_rather_than_reclaim(void **state) {
    (void)state;
    int calls = 0;
    assert_int_equal(sagemem_reclaimer_add("count", 0, reclaim_nothing, &calls), SAGEMEM_OK);
    for (size_t stable = 0; stable < 2; stable++) {
        sagemem_heap *heap = heap_with(SAGEMEM_HEAP_ABORT_ON_NOMEM, MIB);
        sagemem_array_desc desc = {heap, TAG, 8, 0, 1e6, stable * 100000};
        sagemem_array a;
        assert_int_equal(sagemem_array_init(&a, &desc), SAGEMEM_OK);
        for (uint64_t i = 0; i < 25000; i++) assert_int_equal(sagemem_array_push(&a, &i), SAGEMEM_OK);
        assert_int_equal(calls, 0);
        assert_int_equal(sagemem_array_shrink(&a), SAGEMEM_OK);
        assert_int_equal(sagemem_limit_set(heap, 1), SAGEMEM_OK);
        calls = 0;
        assert_int_equal(sagemem_array_shrink(&a), SAGEMEM_OK);
        assert_int_equal(sagemem_array_resize(&a, 24000), SAGEMEM_OK);
        assert_int_equal(sagemem_array_shrink(&a), SAGEMEM_OK);
        assert_int_equal(calls, 0);
        sagemem_heap_destroy(heap);
    }
    sagemem_heap *heap = heap_with(0, MIB);
    sagemem_array a = array_of(heap, 8, 0);
    assert_int_equal(sagemem_array_resize(&a, 200000), SAGEMEM_E_LIMIT);
    assert_true(calls > 0); /* but what is needed is */
    sagemem_heap_destroy(heap);
    assert_int_equal(sagemem_reclaimer_remove("count"), SAGEMEM_OK);
}

/* -- Arrays that never move --------------------------------------------------------------------------------- */

static size_t mappings(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    size_t lines = 0;
    for (int c; maps != NULL && (c = fgetc(maps)) != EOF;) lines += c == '\n';
    if (maps != NULL) fclose(maps);
    return lines;
}

/* Held is at most 1.02 of what is used once that is some MiB, the address is one, and the mappings do not pile up. */
static void stable_grows(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 0);
    size_t n = (watched() ? 2 : 64) * (size_t)MIB / 8;
    sagemem_array a = array_of(heap, 8, 4 * n);
    const void *data = a.data;
    size_t before = mappings(), steps = 0, capacity = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (sagemem_array_push(&a, &i) != SAGEMEM_OK) fail_msg("%s", sagemem_last_error()->message);
        steps += a.capacity != capacity;
        capacity = a.capacity;
        if (i % 65536 != 0) continue;
        REQUIRE(stats_of(heap).held <= (i * 8 + 131072) * 102 / 100, "held %llu for %llu", UINT(stats_of(heap).held), UINT(i * 8));
        REQUIRE(stats_of(heap).used == sagemem_size(a.data) && a.data == data, "moved, or counted wrongly");
        assert_int_equal(tag_of(heap).blocks, 1);
    }
    REQUIRE(mappings() <= before + 3, "%zu mappings, %zu before", mappings(), before);
    REQUIRE(watched() || steps < 64 + 45 * 4 + 10, "%zu steps", steps); /* as the manual says */
    assert_true(stats_of(heap).held_peak <= (n * 8 + 65536) * 102 / 100);
    for (uint64_t i = 0; i < n; i += 101) assert_true(((uint64_t *)a.data)[i] == i);
    /* Half of it goes back, and is taken again, zeroed by the system. */
    assert_int_equal(sagemem_array_resize(&a, n / 2), SAGEMEM_OK);
    assert_int_equal(sagemem_array_shrink(&a), SAGEMEM_OK);
    assert_true(stats_of(heap).held <= n * 4 + 65536 && tag_of(heap).used == sagemem_size(a.data));
    assert_int_equal(sagemem_array_reserve(&a, n), SAGEMEM_OK);
    assert_int_equal(sagemem_array_resize(&a, n), SAGEMEM_OK);
    if (!watched()) assert_true(((uint64_t *)a.data)[n - 1] == 0);
    assert_true(((uint64_t *)a.data)[n / 2 - 1] == n / 2 - 1 && a.data == data);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(sagemem_array_resize(&a, 1000), SAGEMEM_OK);
        assert_int_equal(sagemem_array_shrink(&a), SAGEMEM_OK);
        assert_int_equal(sagemem_array_resize(&a, n / 50 * (size_t)i), SAGEMEM_OK);
    }
    REQUIRE(mappings() <= before + 4, "%zu mappings, %zu before", mappings(), before);
    sagemem_array_deinit(&a);
    assert_int_equal(stats_of(heap).held + tag_of(heap).used, 0);
    sagemem_heap_destroy(heap);
}

static void stable_is_full(void **state) {
    (void)state;
    static const uint32_t kinds[] = {0, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SITES, SAGEMEM_HEAP_SHARED};
    for (size_t k = 0; k < 5; k++) {
        sagemem_heap *heap = heap_with(kinds[k], 0);
        sagemem_array a = array_of(heap, 24, 10000);
        const void *data = a.data;
        char element[24] = "a";
        for (int i = 0; i < 10000; i++) assert_int_equal(sagemem_array_push(&a, element), SAGEMEM_OK);
        assert_ptr_equal(a.data, data);
        assert_int_equal(sagemem_array_capacity(&a), 10000);
        assert_int_equal(sagemem_array_push(&a, element), SAGEMEM_E_FULL);
        assert_error(SAGEMEM_E_FULL, "sagemem_array_push", "stable_max of 10000");
        assert_null(sagemem_array_add(&a, most));
        assert_error(SAGEMEM_E_FULL, "sagemem_array_add", "stable_max");
        assert_int_equal(sagemem_array_resize(&a, 10001), SAGEMEM_E_FULL);
        assert_int_equal(sagemem_array_reserve(&a, 10001), SAGEMEM_E_FULL);
        assert_int_equal(sagemem_array_count(&a), 10000);
        assert_int_equal(sagemem_array_resize(&a, 10), SAGEMEM_OK);
        assert_int_equal(sagemem_array_shrink(&a), SAGEMEM_OK);
        assert_int_equal(sagemem_array_resize(&a, 10000), SAGEMEM_OK);
        assert_ptr_equal(a.data, data);
        assert_int_equal(sagemem_heap_check(heap), 0);
        sagemem_array_deinit(&a);
        assert_int_equal(tag_of(heap).used, 0);
        sagemem_heap_destroy(heap);
    }
    sagemem_source source = sagemem_source_numa(0, SAGEMEM_NUMA_PREFERRED);
    sagemem_heap_desc desc = {0};
    desc.source = &source;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    sagemem_array a = array_of(heap, 24, 50000);
    assert_int_equal(sagemem_array_capacity(&a), 50000); /* all at once */
    assert_true(stats_of(heap).held >= 50000 * 24);
    assert_int_equal(sagemem_array_resize(&a, 50000), SAGEMEM_OK);
    sagemem_array_deinit(&a);
    sagemem_heap_destroy(heap);
}

typedef struct seen {
    const void *block;
    size_t size, count;
} seen;
static void see(void *ctx, const sagemem_block_info *info) {
    seen *s = ctx;
    s->count++;
    if (info->block == s->block && info->tag == TAG) s->size = info->size;
}

/* For everything else it is a block of its heap like any other. */
static void stable_is_a_block(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 0), *other = heap_with(0, 0);
    assert_int_equal(sagemem_scope_begin(heap, "forest", 12), SAGEMEM_OK);
    sagemem_array a = array_of(heap, 1, 40 * MIB);
    assert_int_equal(sagemem_array_resize(&a, 3 * MIB), SAGEMEM_OK);
    memset(a.data, 'x', 3 * MIB);
    char *data = a.data;
    assert_true(sagemem_owns(data) && !sagemem_owns(data + 64) && !sagemem_owns(data + 2 * MIB) && !sagemem_owns(data + 30 * MIB));
    assert_true(sagemem_size(data) >= 3 * MIB && sagemem_tag_of(data) == TAG && sagemem_heap_of(data) == heap);
    assert_int_equal(sagemem_check(data), SAGEMEM_OK);
    assert_int_equal(sagemem_check(data + 2 * MIB), SAGEMEM_E_FOREIGN);
    assert_error(SAGEMEM_E_FOREIGN, "sagemem_check", "lies inside");
    seen s = {data, 0, 0};
    sagemem_heap_visit(heap, see, &s);
    assert_true(s.count == 1 && s.size == sagemem_size(data));
    assert_int_equal(sagemem_heap_check(heap), 0);
    sagemem_trim();
    assert_ptr_equal(sagemem_keep(data), data); /* its pages change hands, addresses included */
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_int_equal(data[3 * MIB - 1], 'x');
    assert_ptr_equal(sagemem_realloc(NULL, data, 20 * MIB, SAGEMEM_TAG_SAME), data);
    data[20 * MIB - 1] = 'y';
    assert_true(tag_of(heap).used == sagemem_size(data) && sagemem_size(data) >= 20 * MIB);
    assert_ptr_equal(sagemem_realloc(NULL, data, 100, SAGEMEM_TAG_SAME), data);
    assert_true(sagemem_size(data) < 100000 && stats_of(heap).held < 200000 && data[99] == 'x');
    assert_ptr_equal(sagemem_realloc(NULL, data, 0, SAGEMEM_TAG_SAME), data);
    assert_ptr_equal(sagemem_realloc(NULL, data, 1 * MIB, SAGEMEM_TAG_SAME), data);
    memset(data, 'z', 1 * MIB);
    char *copy = sagemem_realloc(NULL, data, 41 * MIB, SAGEMEM_TAG_SAME); /* beyond what was set aside */
    assert_true(copy != data && copy[1 * MIB - 1] == 'z' && !sagemem_owns(data));
    sagemem_free(copy);
    sagemem_array_desc desc = {heap,    TAG, 1,
                               1 * MIB, 0,   40 * MIB}; /* smaller than what the map of pages takes whole, then larger */
    assert_int_equal(sagemem_array_init(&a, &desc), SAGEMEM_OK);
    assert_int_equal(sagemem_array_resize(&a, 20 * MIB), SAGEMEM_OK);
    data = a.data;
    sagemem_array_deinit(&a);
    assert_int_equal(sagemem_check(hidden(data)), SAGEMEM_E_STALE);
    assert_int_not_equal(sagemem_check(hidden(data + 512 * KIB)), SAGEMEM_OK);
    assert_null(strstr(sagemem_last_error()->message, "inside")); /* foreign, or what lay there before */
    a = array_of(heap, 1, 40 * MIB);
    assert_int_equal(sagemem_array_resize(&a, 1 * MIB), SAGEMEM_OK);
    data = a.data;
    assert_int_equal(sagemem_check(data + 300 * KIB), SAGEMEM_E_FOREIGN);
    memset(a.data, 'q', 1 * MIB);
    char *moved = sagemem_move(other, a.data);
    assert_true(sagemem_heap_of(moved) == other && moved[1 * MIB - 1] == 'q');
    assert_int_equal(tag_of(heap).used, 0);
    sagemem_free(a.data);
    assert_fault(SAGEMEM_E_STALE, "sagemem_free", "freed already");
    sagemem_free(moved);
    assert_int_equal(stats_of(heap).held, 0);
    sagemem_heap_destroy(heap);
    sagemem_heap_destroy(other);
}

/* Only what is memory is charged, drawn from what was reserved first, and never over the limit. */
static void stable_and_budgets(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 10 * MIB);
    sagemem_array a = array_of(heap, 1, 100 * MIB);
    assert_true(stats_of(heap).held <= 64 * KIB);
    assert_int_equal(sagemem_reserve(heap, 4 * MIB), SAGEMEM_OK);
    uint64_t held = stats_of(heap).held;
    assert_int_equal(sagemem_array_resize(&a, 3 * MIB), SAGEMEM_OK);
    assert_true(stats_of(heap).held == held && stats_of(heap).reserved <= 4 * MIB - 2 * MIB);
    assert_int_equal(sagemem_reserve(heap, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_array_resize(&a, 11 * MIB), SAGEMEM_E_LIMIT);
    assert_int_equal(sagemem_array_count(&a), 3 * MIB);
    assert_true(stats_of(heap).held <= 10 * MIB);
    if (!watched()) assert_int_equal(stats_of(heap).held, sagemem_size(a.data));
    assert_int_equal(sagemem_limit_set(heap, 20 * MIB), SAGEMEM_OK);
    assert_int_equal(sagemem_array_resize(&a, 11 * MIB), SAGEMEM_OK);
    assert_true(stats_of(heap).held_peak >= 11 * MIB && stats_of(heap).used_peak >= 11 * MIB);
    sagemem_array_deinit(&a);
    sagemem_heap_destroy(heap);
}

/* A reservation far above the machine's memory; where addresses are refused, the message names it. */
static void stable_reservations(void **state) {
    (void)state;
    if (sizeof(void *) < 8) skip();
    sagemem_heap *heap = heap_with(SAGEMEM_HEAP_ZERO, 0);
    sagemem_array_desc desc = {0};
    sagemem_array a;
    desc.heap = heap;
    desc.tag = TAG;
    desc.element_size = MIB;
    desc.stable_max = (size_t)4 * MIB;                 /* 4 TiB */
    if (sagemem_array_init(&a, &desc) == SAGEMEM_OK) { /* not everywhere under tools */
        assert_true(stats_of(heap).held <= 2 * MIB);
        assert_int_equal(sagemem_array_resize(&a, 5), SAGEMEM_OK);
        assert_true(all_zero(a.data, 5 * MIB));
        sagemem_array_deinit(&a);
    } else {
        assert_true(watched());
        assert_error(SAGEMEM_E_NOMEM, "sagemem_array_init", "stable_max");
    }
    if (!watched()) {
        pid_t child = fork();
        if (child == 0) {
            struct rlimit limit = {(rlim_t)1 << 31, (rlim_t)1 << 31};
            setrlimit(RLIMIT_AS, &limit);
            bool refused = sagemem_array_init(&a, &desc) == SAGEMEM_E_NOMEM &&
                           strstr(sagemem_last_error()->message, "4398046511104 bytes of addresses") != NULL &&
                           strstr(sagemem_last_error()->message, "smaller stable_max") != NULL && a.data == NULL;
            desc.stable_max = 64;
            bool smaller = sagemem_array_init(&a, &desc) == SAGEMEM_OK && sagemem_array_resize(&a, 64) == SAGEMEM_OK;
            _exit(refused && smaller ? 0 : 1);
        }
        int status;
        assert_true(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    assert_int_equal(tag_of(heap).used, 0);
    sagemem_heap_destroy(heap);
}

/* -- Failures, one after the other --------------------------------------------------------------------------- */

typedef struct life {
    sagemem_heap *heap;
    size_t stable_max;
} life;

/* A step that fails has changed nothing, and is then repeated: its single failure is over. */
#define AGAIN(step)                                                                                                                \
    do {                                                                                                                           \
        uint64_t used = tag_of(l->heap).used, held = stats_of(l->heap).held;                                                       \
        sagemem_array old = a;                                                                                                     \
        if (!(step)) {                                                                                                             \
            REQUIRE(sagemem_last_error()->status == SAGEMEM_E_NOMEM, "another status");                                            \
            REQUIRE(memcmp(&old, &a, sizeof a) == 0, "the array changed");                                                         \
            REQUIRE(tag_of(l->heap).used == used, "used changed");                                                                 \
            REQUIRE(stats_of(l->heap).held <= held, "held grew");                                                                  \
            REQUIRE(step, "failed twice");                                                                                         \
        }                                                                                                                          \
        REQUIRE(l->stable_max == 0 || old.data == NULL || old.data == a.data, "it has moved");                                     \
    } while (0)

static sagemem_status live(void *ctx) {
    const life *l = ctx;
    sagemem_array a;
    memset(&a, 0, sizeof a);
    sagemem_array_desc desc = {0};
    desc.heap = l->heap;
    desc.tag = TAG;
    desc.element_size = 100;
    desc.stable_max = l->stable_max;
    AGAIN(sagemem_array_init(&a, &desc) == SAGEMEM_OK);
    char element[100] = "element";
    for (int i = 0; i < 50; i++) AGAIN(sagemem_array_push(&a, element) == SAGEMEM_OK);
    for (int i = 0; i < 3; i++) AGAIN(sagemem_array_add(&a, 3000) != NULL);
    AGAIN(sagemem_array_resize(&a, 60) == SAGEMEM_OK);
    REQUIRE(sagemem_array_shrink(&a) == SAGEMEM_OK, "shrinking failed");
    AGAIN(sagemem_array_reserve(&a, 9000) == SAGEMEM_OK);
    for (size_t i = 0; i < 50; i++) REQUIRE(memcmp(sagemem_array_at(&a, i), element, 100) == 0, "an element changed");
    sagemem_array_deinit(&a);
    void *data = NULL;
    size_t capacity = 0;
    for (size_t n = 1; n < 300000; n = n * 3 + 1)
        if (sagemem_array_grow(&data, 8, &capacity, n, 0) != SAGEMEM_OK) {
            REQUIRE(sagemem_last_error()->status == SAGEMEM_E_NOMEM, "another status");
            REQUIRE(sagemem_array_grow(&data, 8, &capacity, n, 0) == SAGEMEM_OK, "failed twice");
        }
    sagemem_free(data);
    REQUIRE(tag_of(l->heap).used == 0 && sagemem_heap_check(l->heap) == 0, "something is left");
    return SAGEMEM_OK;
}

static void failures(void **state) {
    (void)state;
    static const uint32_t kinds[] = {0, SAGEMEM_HEAP_ZERO, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_CHECKED};
    for (size_t k = 0; k < 8; k++) {
        life l = {heap_with(kinds[k % 4], 0), k / 4 * 10000};
        uint64_t points;
        assert_int_equal(sagemem_check_failures(live, &l, &points), SAGEMEM_OK);
        assert_true(points > 5);
        sagemem_heap_reset(l.heap);
        assert_int_equal(stats_of(l.heap).held, 0);
        sagemem_heap_destroy(l.heap);
    }
    assert_int_equal(fault.count, 0);
}

/* -- Anything at all ------------------------------------------------------------------------------------------ */

/* A plain copy beside each array, compared element by element. */
typedef struct model {
    sagemem_heap *heap;
    sagemem_array array;
    unsigned char *copy;
    size_t count;
    bool zero;
} model;

static void same(const model *m) {
    const sagemem_array *a = &m->array;
    REQUIRE(sagemem_array_count(a) == m->count && sagemem_array_capacity(a) >= m->count, "%zu elements, not %zu", a->count,
            m->count);
    REQUIRE(m->count == 0 || memcmp(a->data, m->copy, m->count * a->element_size) == 0, "the elements are others");
    REQUIRE(tag_of(m->heap).used == sagemem_size(a->data) && tag_of(m->heap).blocks == 1, "counted wrongly");
    REQUIRE(sagemem_array_capacity(a) * a->element_size <= sagemem_size(a->data), "more capacity than there is");
}

static void fresh(model *m, chance *c, size_t more) {
    size_t size = m->array.element_size, from = m->count * size;
    unsigned char *at = (unsigned char *)m->array.data + from;
    if (m->zero) REQUIRE(all_zero(at, more * size), "new elements are not zero");
    m->count += more;
    m->copy = realloc(m->copy, m->count * size + 1);
    for (size_t i = 0; i < more * size; i++) m->copy[from + i] = at[i] = (unsigned char)chance_next(c);
}

static void model_step(model *m, chance *c) {
    sagemem_array *a = &m->array;
    size_t size = a->element_size, max = a->stable_max > 0 ? a->stable_max : 3000, n = m->count;
    const void *data = a->data;
    switch (chance_below(c, 10)) {
    case 0:
    case 1:
    case 2:
        if (n == 0 || n == max) break;
        m->copy = realloc(m->copy, (n + 1) * size);
        memcpy(m->copy + n * size, m->copy + chance_below(c, n) * size, size);
        REQUIRE(sagemem_array_push(a, chance_below(c, 2) == 0 ? (void *)(m->copy + n * size) : sagemem_array_at(a, n - 1)) ==
                    SAGEMEM_OK,
                "push");
        memcpy(m->copy + n * size, sagemem_array_at(a, n), size);
        m->count++;
        break;
    case 3:
    case 4: {
        size_t more = (size_t)chance_below(c, chance_below(c, 4) == 0 ? max - n + 1 : (max - n) / 20 + 1);
        REQUIRE(sagemem_array_add(a, more) != NULL, "add");
        fresh(m, c, more);
        break;
    }
    case 5: {
        size_t to = (size_t)chance_below(c, chance_below(c, 3) == 0 ? max + 1 : n + 1);
        REQUIRE(sagemem_array_resize(a, to) == SAGEMEM_OK, "resize");
        if (to > n) fresh(m, c, to - n);
        else m->count = to;
        break;
    }
    case 6:
    case 7:
        for (uint64_t i = chance_below(c, 5); i > 0 && m->count > 0; i--) {
            size_t at = (size_t)chance_below(c, m->count);
            sagemem_array_remove_swap(a, at);
            m->count--;
            memmove(m->copy + at * size, m->copy + m->count * size, size);
        }
        break;
    case 8: REQUIRE(sagemem_array_reserve(a, (size_t)chance_below(c, max + 1)) == SAGEMEM_OK, "reserve"); break;
    default: REQUIRE(sagemem_array_shrink(a) == SAGEMEM_OK, "shrink"); break;
    }
    REQUIRE(a->stable_max == 0 || a->data == data, "it has moved");
}

static void anything(void **state) {
    (void)state;
    chance c = {oracle_seed()};
    printf("seed: %llu\n", UINT(c.state));
    static const uint32_t kinds[] = {0,
                                     SAGEMEM_HEAP_ZERO,
                                     SAGEMEM_HEAP_SYSTEM,
                                     SAGEMEM_HEAP_CHECKED,
                                     SAGEMEM_HEAP_SHARED,
                                     SAGEMEM_HEAP_SITES,
                                     SAGEMEM_HEAP_ZERO | SAGEMEM_HEAP_SITES};
    unsigned steps = oracle_steps(150, 25);
    for (int round = 0; round < 42; round++) {
        uint32_t flags = kinds[round % 7];
        model m = {heap_with(flags, 0), {0}, NULL, 0, (flags & SAGEMEM_HEAP_ZERO) != 0};
        bool scoped = round / 7 % 2 != 0;
        if (scoped) assert_int_equal(sagemem_scope_begin(m.heap, "forest", 1), SAGEMEM_OK);
        size_t size = chance_below(&c, 3) == 0 ? (size_t)chance_below(&c, 300) + 1 : (size_t)1 << chance_below(&c, 7);
        m.array = array_of(m.heap, size, round / 14 % 2 != 0 ? 1 + (size_t)chance_below(&c, 3000) : 0);
        if (scoped) assert_int_equal(sagemem_scope_begin(m.heap, "subtree", 2), SAGEMEM_OK);
        for (unsigned i = 0; i < steps; i++) {
            model_step(&m, &c);
            same(&m);
        }
        REQUIRE(sagemem_heap_check(m.heap) == 0, "damaged");
        if (round % 3 != 0) sagemem_array_deinit(&m.array);
        else sagemem_heap_reset(m.heap);
        REQUIRE(tag_of(m.heap).used == 0 && tag_of(m.heap).blocks == 0, "something is left");
        sagemem_heap_destroy(m.heap);
        free(m.copy);
    }
    assert_int_equal(fault.count, 0);
}

/* Code that starts anew at 0 for each tree keeps its block, and what is in it. */
static void grow_never_shrinks(void **state) {
    (void)state;
    int *data = (int *)sagemem_alloc(NULL, 1000 * sizeof *data, 1);
    assert_non_null(data);
    for (int i = 0; i < 1000; i++) data[i] = i;
    size_t capacity = 0, size = sagemem_size(data);
    assert_int_equal(sagemem_array_grow((void **)&data, sizeof *data, &capacity, 1, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_size(data), size);
    assert_int_equal(capacity, size / sizeof *data);
    capacity = 5;
    assert_int_equal(sagemem_array_grow((void **)&data, sizeof *data, &capacity, 3000, 0), SAGEMEM_OK);
    assert_true(capacity >= 3000);
    for (int i = 0; i < 1000; i++) assert_int_equal(data[i], i);
    sagemem_free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(grow_never_shrinks, setup),
        cmocka_unit_test_setup(grow_counts_few_reallocs, setup),
        cmocka_unit_test_setup(grow_refuses, setup),
        cmocka_unit_test_setup(grow_keeps_the_place, setup),
        cmocka_unit_test_setup(init_refuses, setup),
        cmocka_unit_test_setup(no_array, setup),
        cmocka_unit_test_setup(one_array, setup),
        cmocka_unit_test_setup(typed, setup),
        cmocka_unit_test_setup(zeroing_heaps, setup),
        cmocka_unit_test_setup(scopes, setup),
        cmocka_unit_test_setup(threads, setup),
        cmocka_unit_test_setup(limits, setup),
        cmocka_unit_test_setup(less_rather_than_reclaim, setup),
        cmocka_unit_test_setup(stable_grows, setup),
        cmocka_unit_test_setup(stable_is_full, setup),
        cmocka_unit_test_setup(stable_is_a_block, setup),
        cmocka_unit_test_setup(stable_and_budgets, setup),
        cmocka_unit_test_setup(stable_reservations, setup),
        cmocka_unit_test_setup(failures, setup),
        cmocka_unit_test_setup(anything, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
