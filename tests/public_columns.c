/* Columns that grow together, through the public interface, against plain copies that the test keeps. */
#include "oracle.h"
#include "public.h"

enum { TAG = 6, COLUMNS = 4 };

#include "rows.h"

static const sagemem_column halo[COLUMNS] = {{"mass", 8}, {"flag", 1}, {NULL, 24}, {"id", 4}};

static sagemem_columns *columns_of(sagemem_heap *heap, size_t initial_capacity) {
    sagemem_columns_desc desc = {heap, TAG, "halos", halo, COLUMNS, initial_capacity, 0};
    sagemem_columns *c = sagemem_columns_create(&desc);
    REQUIRE(c != NULL, "no columns");
    return c;
}
static volatile size_t most = SIZE_MAX;

static void create_refuses(void **state) {
    (void)state;
    const char *call = "sagemem_columns_create";
    sagemem_heap *heap = heap_with(0, 64 * KIB);
    sagemem_columns_desc desc = {heap, TAG, NULL, halo, COLUMNS, 0, 0};
    assert_null(sagemem_columns_create(NULL));
    assert_error(SAGEMEM_E_ARGUMENT, call, "no columns");
    desc.columns = NULL;
    assert_null(sagemem_columns_create(&desc));
    desc.columns = halo;
    desc.column_count = 0;
    assert_null(sagemem_columns_create(&desc));
    assert_error(SAGEMEM_E_ARGUMENT, call, "no columns");
    desc.column_count = COLUMNS;
    desc.growth = 1;
    assert_null(sagemem_columns_create(&desc));
    assert_error(SAGEMEM_E_ARGUMENT, call, "more than 1");
    desc.growth = 0;
    desc.tag = SAGEMEM_TAG_MAX + 1;
    assert_null(sagemem_columns_create(&desc));
    assert_error(SAGEMEM_E_ARGUMENT, call, "SAGEMEM_TAG_MAX");
    desc.tag = TAG;
    sagemem_column bad[3] = {{"a", 8}, {"b", 0}, {"a", 8}};
    desc.columns = bad;
    desc.column_count = 3;
    assert_null(sagemem_columns_create(&desc));
    assert_error(SAGEMEM_E_ARGUMENT, call, "column 1 'b' has no element_size");
    bad[1].element_size = 8;
    assert_null(sagemem_columns_create(&desc));
    assert_error(SAGEMEM_E_ARGUMENT, call, "columns 0 and 2 are both named 'a'");
    bad[2].name = NULL;
    bad[2].element_size = most - 20;
    assert_null(sagemem_columns_create(&desc));
    assert_error(SAGEMEM_E_ARGUMENT, call, "larger than an object");
    bad[2].element_size = most / 3;
    assert_null(sagemem_columns_create(&desc));
    desc.columns = halo;
    desc.initial_capacity = most;
    assert_null(sagemem_columns_create(&desc));
    assert_error(SAGEMEM_E_ARGUMENT, call, "more than an address can count");
    desc.initial_capacity = most / 37 / 2;
    assert_null(sagemem_columns_create(&desc));
    desc.initial_capacity = 100000;
    assert_null(sagemem_columns_create(&desc));
    assert_error(SAGEMEM_E_LIMIT, call, "may hold");
    assert_int_equal(stats_of(heap).used, 0);
    desc.initial_capacity = 100;
    sagemem_columns *c = sagemem_columns_create(&desc);
    assert_non_null(c);
    sagemem_columns_destroy(c);
    assert_int_equal(tag_of(heap).used, 0);
    assert_int_equal(fault.count, 0);
    sagemem_heap_destroy(heap);
}

static void one_table(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 0);
    char name[100];
    memset(name, 'n', 99);
    name[99] = '\0';
    sagemem_column own[COLUMNS];
    memcpy(own, halo, sizeof own);
    own[1].name = name; /* longer than a tag's may be, and gone after the call */
    own[2].name = "";
    sagemem_columns_desc desc = {heap, TAG, "halos", own, COLUMNS, 0, 2};
    sagemem_columns *c = sagemem_columns_create(&desc);
    assert_non_null(c);
    memset(own, 0, sizeof own);
    assert_int_equal(tag_of(heap).blocks, 0);
    for (size_t i = 0; i < COLUMNS; i++) assert_null(sagemem_columns_data(c, i));
    assert_int_equal(sagemem_columns_find(c, "mass"), 0);
    assert_int_equal(sagemem_columns_find(c, name), 1);
    assert_int_equal(sagemem_columns_find(c, "id"), 3);
    static const char *const no[] = {"", NULL, "mas", "masses", "ID"};
    for (size_t i = 0; i < 5; i++) {
        assert_true(sagemem_columns_find(c, no[i]) == SIZE_MAX);
        assert_error(SAGEMEM_E_NOT_FOUND, "sagemem_columns_find", "none of the 4 columns");
    }
    assert_null(sagemem_columns_data(c, COLUMNS));
    assert_error(SAGEMEM_E_ARGUMENT, "sagemem_columns_data", "there is no column 4");
    assert_null(sagemem_columns_data(c, most));
    assert_int_equal(sagemem_columns_get_desc(c, NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_columns_get_desc(c, &desc), SAGEMEM_OK);
    assert_true(desc.heap == heap && desc.tag == TAG && desc.growth == 2 && desc.column_count == COLUMNS &&
                desc.initial_capacity == 0);
    assert_string_equal(desc.name, "halos");
    assert_true(desc.columns[2].element_size == 24 && strcmp(desc.columns[1].name, name) == 0);
    assert_int_equal(sagemem_columns_add(c, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_columns_add(c, 10), SAGEMEM_OK);
    assert_int_equal(tag_of(heap).blocks, 1);
    for (size_t i = 0; i < COLUMNS; i++) {
        char *data = sagemem_columns_data(c, i);
        assert_true(data != NULL && (uintptr_t)data % 64 == 0);
        memset(data, 'a' + (int)i, 10 * halo[i].element_size);
    }
    assert_int_equal(sagemem_columns_reserve(c, 50), SAGEMEM_OK);
    assert_int_equal(sagemem_columns_capacity(c), 50);
    assert_int_equal(sagemem_columns_reserve(c, 5), SAGEMEM_OK);
    double *mass = sagemem_columns_data(c, 0);
    assert_int_equal(sagemem_columns_resize(c, 50), SAGEMEM_OK);
    assert_ptr_equal(sagemem_columns_data(c, 0), mass);
    mass[49] = 5;
    sagemem_columns_remove_swap(c, 0);
    assert_true(mass[0] == 5 && sagemem_columns_count(c) == 49);
    sagemem_columns_remove_swap(c, 49);
    assert_error(SAGEMEM_E_ARGUMENT, "sagemem_columns_remove_swap", "there is no row 49");
    assert_int_equal(sagemem_columns_count(c), 49);
    sagemem_columns_remove_swap(c, 48);
    assert_int_equal(sagemem_columns_resize(c, 10), SAGEMEM_OK);
    assert_int_equal(sagemem_columns_shrink(c), SAGEMEM_OK);
    assert_int_equal(sagemem_columns_capacity(c), 10);
    assert_int_equal(((char *)sagemem_columns_data(c, 3))[39], 'd');
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 5, SIZE_MAX / 37, SIZE_MAX / 74};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(sagemem_columns_add(c, sizes[i]), SAGEMEM_E_ARGUMENT);
        assert_error(SAGEMEM_E_ARGUMENT, "sagemem_columns_add", "check how");
        assert_int_equal(sagemem_columns_resize(c, sizes[i]), SAGEMEM_E_ARGUMENT);
        assert_int_equal(sagemem_columns_reserve(c, sizes[i]), SAGEMEM_E_ARGUMENT);
    }
    assert_int_equal(sagemem_columns_count(c), 10);
    assert_int_equal(sagemem_columns_resize(c, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_columns_shrink(c), SAGEMEM_OK);
    assert_null(sagemem_columns_data(c, 0));
    assert_int_equal(tag_of(heap).used, 0);
    assert_int_equal(sagemem_columns_shrink(c), SAGEMEM_OK);
    assert_int_equal(sagemem_columns_add(c, 3), SAGEMEM_OK);
    sagemem_columns_destroy(c);
    sagemem_columns_destroy(NULL);
    assert_int_equal(tag_of(heap).used + tag_of(heap).blocks, 0);
    assert_int_equal(fault.count, 0);
    sagemem_heap_destroy(heap);
}

/* In the scope open at its creation, whatever is open when it grows; it ends with it, and says so. */
static void scopes_and_ends(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 0);
    sagemem_columns *outside = columns_of(heap, 0);
    assert_int_equal(sagemem_scope_begin(heap, "run", 1), SAGEMEM_OK);
    sagemem_columns *c = columns_of(heap, 5);
    assert_int_equal(sagemem_scope_begin(heap, "forest", 2), SAGEMEM_OK);
    sagemem_columns *inner = columns_of(heap, 5);
    assert_int_equal(sagemem_columns_add(c, 20000), SAGEMEM_OK);
    assert_int_equal(sagemem_columns_add(outside, 300), SAGEMEM_OK);
    memset(sagemem_columns_data(c, 2), 'x', 20000 * 24);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_int_equal(((char *)sagemem_columns_data(c, 2))[20000 * 24 - 1], 'x');
    assert_int_equal(sagemem_columns_add(inner, 1), SAGEMEM_E_STALE);
    assert_fault(SAGEMEM_E_STALE, "sagemem_columns_add", "the columns halos has ended");
    assert_int_equal(sagemem_columns_count(inner), 0);
    assert_fault(SAGEMEM_E_STALE, "sagemem_columns_count", "ended");
    sagemem_columns_destroy(inner);
    assert_fault(SAGEMEM_E_STALE, "sagemem_columns_destroy", "ended");
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_true(sagemem_columns_find(c, "id") == SIZE_MAX);
    assert_fault(SAGEMEM_E_STALE, "sagemem_columns_find", "ended");
    assert_int_equal(sagemem_columns_count(outside), 300);
    assert_int_equal(tag_of(heap).blocks, 1);
    sagemem_heap_reset(heap);
    assert_int_equal(tag_of(heap).blocks, 0);
    assert_null(sagemem_columns_data(outside, 0));
    assert_fault(SAGEMEM_E_STALE, "sagemem_columns_data", "ended");
    c = columns_of(heap, 100);
    sagemem_columns_destroy(c);
    assert_int_equal(sagemem_columns_capacity(c), 0);
    assert_fault(SAGEMEM_E_STALE, "sagemem_columns_capacity", "ended");
    c = columns_of(heap, 100);
    sagemem_heap_destroy(heap);
    assert_int_equal(sagemem_columns_shrink(c), SAGEMEM_E_STALE);
    assert_fault(SAGEMEM_E_STALE, "sagemem_columns_shrink", "ended");
}

static void not_columns(void **state) {
    (void)state;
    char *block = sagemem_alloc(NULL, 100, TAG);
    const void *volatile pointers[] = {NULL, block, &state, (const void *)8};
    for (size_t i = 0; i < 4; i++) {
        sagemem_columns *c = (sagemem_columns *)(uintptr_t)pointers[i];
        sagemem_columns_desc desc;
        assert_int_equal(sagemem_columns_add(c, 1), SAGEMEM_E_FOREIGN);
        assert_fault(SAGEMEM_E_FOREIGN, "sagemem_columns_add", "is no columns");
        assert_int_equal(sagemem_columns_resize(c, 1), SAGEMEM_E_FOREIGN);
        assert_fault(SAGEMEM_E_FOREIGN, "sagemem_columns_resize", "is no");
        assert_int_equal(sagemem_columns_reserve(c, 1), SAGEMEM_E_FOREIGN);
        assert_fault(SAGEMEM_E_FOREIGN, "sagemem_columns_reserve", "is no");
        assert_int_equal(sagemem_columns_get_desc(c, &desc), SAGEMEM_E_FOREIGN);
        assert_fault(SAGEMEM_E_FOREIGN, "sagemem_columns_get_desc", "is no");
        sagemem_columns_remove_swap(c, 0);
        assert_fault(SAGEMEM_E_FOREIGN, "sagemem_columns_remove_swap", "is no");
    }
    sagemem_free(block);
}

static void *add_elsewhere(void *columns) {
    for (int i = 0; i < 1000; i++)
        if (sagemem_columns_add(columns, 7) != SAGEMEM_OK) return NULL;
    return columns;
}
static void threads(void **state) {
    (void)state;
    sagemem_heap *own = heap_with(0, 0), *shared = heap_with(SAGEMEM_HEAP_SHARED, 0);
    sagemem_columns *mine = columns_of(own, 0), *ours = columns_of(shared, 0);
    pthread_t thread[2];
    void *result;
    assert_int_equal(pthread_create(&thread[0], NULL, add_elsewhere, mine), 0);
    pthread_join(thread[0], &result);
    assert_null(result);
    assert_fault(SAGEMEM_E_BUSY, "sagemem_columns_add", "another thread");
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&thread[i], NULL, add_elsewhere, ours), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(thread[i], &result);
        assert_non_null(result);
    }
    assert_int_equal(sagemem_columns_count(ours), 14000);
    sagemem_columns_destroy(ours);
    assert_int_equal(tag_of(shared).used, 0);
    sagemem_heap_destroy(own);
    sagemem_heap_destroy(shared);
}

static void limits(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 4 * MIB);
    sagemem_columns *c = columns_of(heap, 0);
    size_t rows = 0;
    sagemem_tag_named(NULL); /* leaves an error of its own */
    while (sagemem_columns_add(c, 100) == SAGEMEM_OK) {
        for (size_t i = 0; i < 100; i++) ((double *)sagemem_columns_data(c, 0))[rows + i] = (double)(rows + i);
        rows += 100;
        if (rows == 40000) assert_error(SAGEMEM_E_ARGUMENT, "sagemem_tag_named", "");
    }
    assert_error(SAGEMEM_E_LIMIT, "sagemem_columns_add", "may hold");
    assert_true(rows * 37 > 1700 * KIB && stats_of(heap).held <= 4 * MIB); /* old and new have room together */
    assert_int_equal(sagemem_columns_count(c), rows);
    const double *mass = sagemem_columns_data(c, 0);
    for (size_t i = 0; i < rows; i++) assert_true(mass[i] == (double)i);
    assert_int_equal(sagemem_columns_shrink(c), SAGEMEM_OK); /* also where there is no memory for a copy */
    assert_int_equal(sagemem_limit_set(heap, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_columns_add(c, 100), SAGEMEM_OK);
    sagemem_columns_destroy(c);
    sagemem_heap_destroy(heap);
    static const sagemem_column wide = {"wide", 1000};
    sagemem_columns_desc desc = {NULL, TAG, NULL, &wide, 1, 0, 1e300}; /* no memory satisfies that: what is needed does */
    desc.heap = heap_with(0, 1 * MIB);
    c = sagemem_columns_create(&desc);
    assert_int_equal(sagemem_columns_get_desc(c, &desc), SAGEMEM_OK);
    assert_string_equal(desc.name, "columns");
    assert_int_equal(sagemem_columns_add(c, 1), SAGEMEM_OK);
    assert_int_equal(sagemem_columns_add(c, 100), SAGEMEM_OK);
    assert_int_equal(sagemem_columns_count(c), 101);
    sagemem_heap_destroy(desc.heap);
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
    sagemem_heap *heap = heap_with(SAGEMEM_HEAP_ABORT_ON_NOMEM, MIB);
    sagemem_columns_desc desc = {heap, TAG, NULL, halo, COLUMNS, 0, 1e6};
    sagemem_columns *c = sagemem_columns_create(&desc);
    for (int i = 0; i < 5000; i++) assert_int_equal(sagemem_columns_add(c, 1), SAGEMEM_OK);
    assert_int_equal(sagemem_limit_set(heap, 1), SAGEMEM_OK);
    calls = 0;
    assert_int_equal(sagemem_columns_shrink(c), SAGEMEM_OK);
    assert_int_equal(calls, 0);
    sagemem_heap_destroy(heap);
    assert_int_equal(sagemem_reclaimer_remove("count"), SAGEMEM_OK);
}

static uint64_t shrink_them(void *ctx, uint64_t wanted) {
    sagemem_columns *c = (sagemem_columns *)ctx;
    sagemem_columns_desc desc;
    assert_int_equal(sagemem_columns_get_desc(c, &desc), SAGEMEM_OK);
    assert_int_equal(sagemem_limit_set(desc.heap, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_columns_shrink(c), SAGEMEM_OK);
    return wanted;
}
static uint64_t fill_them(void *ctx, uint64_t wanted) {
    sagemem_columns *c = (sagemem_columns *)ctx;
    shrink_them(c, wanted);
    assert_int_equal(sagemem_columns_add(c, 50000), SAGEMEM_OK);
    return wanted;
}

/* A reclaimer that changes the very columns that memory is asked for. */
static void reclaimers_may_use_the_columns(void **state) {
    (void)state;
    sagemem_reclaim_fn reclaim[] = {shrink_them, fill_them};
    for (size_t i = 0; i < 2; i++)
        for (int adds = 0; adds < 2; adds++) {
            sagemem_heap *heap = heap_with(0, 0);
            sagemem_columns *c = columns_of(heap, 1000);
            assert_int_equal(sagemem_columns_add(c, 10), SAGEMEM_OK);
            memset(sagemem_columns_data(c, 0), 7, 10 * sizeof(double));
            assert_int_equal(sagemem_limit_set(heap, MIB), SAGEMEM_OK);
            assert_int_equal(sagemem_reclaimer_add("columns", 0, reclaim[i], c), SAGEMEM_OK);
            if (adds == 1) assert_int_equal(sagemem_columns_add(c, 40000), SAGEMEM_OK);
            else assert_int_equal(sagemem_columns_reserve(c, 40000), SAGEMEM_OK);
            assert_int_equal(sagemem_reclaimer_remove("columns"), SAGEMEM_OK);
            size_t rows = 10 + (size_t)i * 50000 + (size_t)adds * 40000;
            assert_int_equal(sagemem_columns_count(c), rows);
            assert_true(sagemem_columns_capacity(c) >= rows);
            for (size_t column = 0; column < COLUMNS; column++)
                memset(sagemem_columns_data(c, column), 7, rows * halo[column].element_size);
            assert_int_equal(tag_of(heap).blocks, 1);
            assert_int_equal(sagemem_heap_check(heap), 0);
            assert_int_equal(fault.count, 0);
            sagemem_heap_destroy(heap);
        }
}

/* The library's own structures are used again, also those of columns that could not be made. */
static void nothing_is_left(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 64 * KIB);
    char name[3000];
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = '\0';
    const sagemem_column column = {name, 8};
    sagemem_columns_desc desc = {heap, TAG, NULL, &column, 1, 0, 0};
    uint64_t before = 0;
    for (int i = 0; i < 300; i++) {
        desc.initial_capacity = i % 2 == 0 ? 100000 : 10;
        sagemem_columns *c = sagemem_columns_create(&desc);
        assert_int_equal(c != NULL, i % 2);
        sagemem_columns_destroy(c);
        if (i == 20) before = stats_of(NULL).overhead;
    }
    assert_int_equal(stats_of(NULL).overhead, before);
    assert_int_equal(stats_of(heap).used, 0);
    sagemem_heap_destroy(heap);
}

/* The block taken from under the columns. */
static void check_finds(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0, 0);
    sagemem_columns *c = columns_of(heap, 10);
    assert_int_equal(sagemem_heap_check(heap), 0);
    void *block = sagemem_columns_data(c, 0);
    sagemem_free(block);
    assert_int_equal(sagemem_heap_check(heap), 1);
    assert_non_null(strstr(logged.last, "columns 'halos' have lost their block"));
    sagemem_heap_destroy(heap);
    assert_fault(SAGEMEM_E_STALE, "sagemem_columns_destroy", "freed already");
    if (UNDER_ASAN || on_valgrind()) return; /* they would find the next at once */
    heap = heap_with(SAGEMEM_HEAP_CHECKED, 0);
    c = columns_of(heap, 1);
    ((char *)sagemem_columns_data(c, 3))[64] = 'x'; /* behind the last column */
    assert_int_equal(sagemem_heap_check(heap), 1);
    sagemem_heap_destroy(heap);
    fault.count = 0;
}

/* -- Failures, one after the other ----------------------------------------------------------------------------- */

#define AGAIN(step)                                                                                                                \
    do {                                                                                                                           \
        uint64_t used = tag_of(heap).used;                                                                                         \
        size_t rows_before = c != NULL ? sagemem_columns_count(c) : 0, room_before = c != NULL ? sagemem_columns_capacity(c) : 0;  \
        if (!(step)) {                                                                                                             \
            REQUIRE(sagemem_last_error()->status == SAGEMEM_E_NOMEM, "another status");                                            \
            REQUIRE(tag_of(heap).used == used, "used changed");                                                                    \
            REQUIRE(c == NULL || (sagemem_columns_count(c) == rows_before && sagemem_columns_capacity(c) == room_before),          \
                    "columns changed");                                                                                            \
            REQUIRE(step, "failed twice");                                                                                         \
        }                                                                                                                          \
    } while (0)

static sagemem_status live(void *ctx) {
    sagemem_heap *heap = ctx;
    sagemem_columns *c = NULL;
    sagemem_columns_desc desc = {heap, TAG, "halos", halo, COLUMNS, 100, 0};
    AGAIN((c = sagemem_columns_create(&desc)) != NULL);
    for (size_t rows = 1; rows < 20000; rows *= 4) {
        AGAIN(sagemem_columns_add(c, rows) == SAGEMEM_OK);
        ((int *)sagemem_columns_data(c, 3))[rows - 1] = (int)rows;
    }
    AGAIN(sagemem_columns_resize(c, 1024) == SAGEMEM_OK);
    REQUIRE(sagemem_columns_shrink(c) == SAGEMEM_OK, "shrinking failed");
    AGAIN(sagemem_columns_reserve(c, 3000) == SAGEMEM_OK);
    for (int rows = 1; rows <= 1024; rows *= 4)
        REQUIRE(((int *)sagemem_columns_data(c, 3))[rows - 1] == rows, "an element changed");
    sagemem_columns_destroy(c);
    REQUIRE(tag_of(heap).used == 0 && sagemem_heap_check(heap) == 0, "something is left");
    return SAGEMEM_OK;
}

static void failures(void **state) {
    (void)state;
    static const uint32_t kinds[] = {0, SAGEMEM_HEAP_ZERO, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_CHECKED};
    for (size_t k = 0; k < 4; k++) {
        sagemem_heap *heap = heap_with(kinds[k], 0);
        uint64_t points;
        assert_int_equal(sagemem_check_failures(live, heap, &points), SAGEMEM_OK);
        assert_true(points > 5);
        sagemem_heap_destroy(heap);
    }
    assert_int_equal(fault.count, 0);
}

/* -- Anything at all --------------------------------------------------------------------------------------------- */

typedef struct model {
    sagemem_heap *heap;
    sagemem_columns *columns;
    unsigned char *copy[COLUMNS];
    size_t rows;
    bool zero;
} model;

static void same(const model *m) {
    REQUIRE(sagemem_columns_count(m->columns) == m->rows && sagemem_columns_capacity(m->columns) >= m->rows, "the count");
    for (size_t i = 0; i < COLUMNS && m->rows > 0; i++) {
        const char *data = sagemem_columns_data(m->columns, i);
        REQUIRE((uintptr_t)data % 64 == 0, "column %zu is not aligned", i);
        REQUIRE(memcmp(data, m->copy[i], m->rows * halo[i].element_size) == 0, "column %zu is another", i);
    }
    const void *block = sagemem_columns_data(m->columns, 0);
    REQUIRE(tag_of(m->heap).used == (block != NULL ? sagemem_size(block) : 0), "counted wrongly");
}

static void fresh(model *m, chance *c, size_t to) {
    for (size_t i = 0; i < COLUMNS; i++) {
        size_t size = halo[i].element_size;
        unsigned char *data = sagemem_columns_data(m->columns, i);
        m->copy[i] = realloc(m->copy[i], to * size + 1);
        for (size_t at = m->rows * size; at < to * size; at++) {
            REQUIRE(!m->zero || data[at] == 0, "a new row is not zero");
            m->copy[i][at] = data[at] = (unsigned char)chance_next(c);
        }
    }
    m->rows = to;
}

static void model_step(model *m, chance *c) {
    size_t n = m->rows;
    switch (chance_below(c, 6)) {
    case 0:
    case 1: {
        size_t more = (size_t)chance_below(c, chance_below(c, 5) == 0 && n < 4000 ? 2000 : 20);
        REQUIRE(sagemem_columns_add(m->columns, more) == SAGEMEM_OK, "add");
        fresh(m, c, n + more);
        break;
    }
    case 2: {
        size_t to = (size_t)chance_below(c, n + n / 2 + 2);
        REQUIRE(sagemem_columns_resize(m->columns, to) == SAGEMEM_OK, "resize");
        if (to > n) fresh(m, c, to);
        else m->rows = to;
        break;
    }
    case 3:
        if (n == 0) break;
        for (size_t i = 0, row = (size_t)chance_below(c, n); i < COLUMNS; i++) {
            size_t size = halo[i].element_size;
            memmove(m->copy[i] + row * size, m->copy[i] + (n - 1) * size, size);
            if (i == 0) sagemem_columns_remove_swap(m->columns, row);
        }
        m->rows--;
        break;
    case 4: REQUIRE(sagemem_columns_reserve(m->columns, (size_t)chance_below(c, 2 * n + 1)) == SAGEMEM_OK, "reserve"); break;
    default: REQUIRE(sagemem_columns_shrink(m->columns) == SAGEMEM_OK, "shrink"); break;
    }
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
                                     SAGEMEM_HEAP_SITES | SAGEMEM_HEAP_ZERO};
    unsigned steps = oracle_steps(200, 30);
    for (int round = 0; round < 18; round++) {
        uint32_t flags = kinds[round % 6];
        model m = {heap_with(flags, 0), NULL, {NULL}, 0, (flags & SAGEMEM_HEAP_ZERO) != 0};
        bool scoped = round / 6 % 2 != 0;
        if (scoped) assert_int_equal(sagemem_scope_begin(m.heap, "forest", 1), SAGEMEM_OK);
        m.columns = columns_of(m.heap, (size_t)chance_below(&c, 10));
        if (scoped) assert_int_equal(sagemem_scope_begin(m.heap, "subtree", 2), SAGEMEM_OK);
        for (unsigned i = 0; i < steps; i++) {
            model_step(&m, &c);
            same(&m);
        }
        REQUIRE(sagemem_heap_check(m.heap) == 0, "damaged");
        if (round % 3 != 0) sagemem_columns_destroy(m.columns);
        else sagemem_heap_reset(m.heap);
        REQUIRE(tag_of(m.heap).used == 0 && tag_of(m.heap).blocks == 0, "something is left");
        sagemem_heap_destroy(m.heap);
        for (size_t i = 0; i < COLUMNS; i++) free(m.copy[i]);
    }
    assert_int_equal(fault.count, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(create_refuses, setup),
        cmocka_unit_test_setup(one_table, setup),
        cmocka_unit_test_setup(scopes_and_ends, setup),
        cmocka_unit_test_setup(not_columns, setup),
        cmocka_unit_test_setup(threads, setup),
        cmocka_unit_test_setup(limits, setup),
        cmocka_unit_test_setup(less_rather_than_reclaim, setup),
        cmocka_unit_test_setup(reclaimers_may_use_the_columns, setup),
        cmocka_unit_test_setup(nothing_is_left, setup),
        cmocka_unit_test_setup(check_finds, setup),
        cmocka_unit_test_setup(failures, setup),
        cmocka_unit_test_setup(anything, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
