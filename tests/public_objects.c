/* What all objects made from a heap have in common, whatever they are: order of ending, late calls, calls from within. */
#include "public.h"

static struct {
    int faults;
    sagemem_status status;
    char message[240];
} seen;

static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    seen.faults++;
    seen.status = error->status;
    memcpy(seen.message, error->message, sizeof seen.message);
}

static int setup(void **state) {
    (void)state;
    memset(&seen, 0, sizeof seen);
    sagemem_set_fault_handler(on_fault, NULL);
    return 0;
}

static void assert_fault(sagemem_status status) {
    assert_int_equal(seen.faults, 1);
    assert_int_equal(seen.status, status);
    seen.faults = 0;
}

/* -- Ending -- */

static char order[16];
static void note(void *ctx) { strcat(order, (const char *)ctx); }
static void note_object(void *ctx, void *object) {
    (void)object;
    strcat(order, (const char *)ctx);
}

static sagemem_pool *noting_pool(sagemem_heap *heap, char *name) {
    sagemem_pool_desc desc = {0};
    desc.heap = heap;
    desc.object_size = 32;
    desc.cleanup_fn = note_object;
    desc.ctx = name;
    sagemem_pool *pool = sagemem_pool_create(&desc);
    assert_non_null(pool);
    assert_non_null(sagemem_pool_alloc(pool));
    return pool;
}

static void last_made_ends_first(void **state) {
    (void)state;
    static char a[] = "a", b[] = "b", c[] = "c", d[] = "d";
    sagemem_heap *heap = sagemem_heap_create(NULL);
    assert_int_equal(sagemem_scope_begin(heap, "forest", 1), SAGEMEM_OK);
    noting_pool(heap, a);
    assert_int_equal(sagemem_scope_defer(heap, note, b), SAGEMEM_OK);
    sagemem_pool *gone = noting_pool(heap, c);
    noting_pool(heap, d);
    order[0] = '\0';
    sagemem_pool_destroy(gone);
    assert_string_equal(order, "c");
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_string_equal(order, "cdba");
    noting_pool(heap, a);
    noting_pool(heap, b);
    order[0] = '\0';
    sagemem_heap_reset(heap);
    assert_string_equal(order, "ba");
    noting_pool(heap, c);
    order[0] = '\0';
    sagemem_heap_destroy(heap);
    assert_string_equal(order, "c");
}

static void what_grows_inside_stays_outside(void **state) {
    (void)state;
    sagemem_heap *heap = sagemem_heap_create(NULL);
    sagemem_arena_desc desc = {heap, 7, NULL, 4096, 0};
    sagemem_arena *arena = sagemem_arena_create(&desc);
    static char nothing[] = "";
    sagemem_pool *pool = noting_pool(heap, nothing);
    char *kept[200];
    assert_int_equal(sagemem_scope_begin(heap, "forest", 1), SAGEMEM_OK);
    for (int i = 0; i < 200; i++) {
        kept[i] = (char *)sagemem_arena_alloc(arena, 1000);
        assert_non_null(kept[i]);
        memset(kept[i], i, 1000);
        assert_non_null(sagemem_pool_alloc(pool));
    }
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    for (int i = 0; i < 200; i++) assert_int_equal(kept[i][999], (char)i);
    assert_int_equal(sagemem_heap_check(heap), 0);
    sagemem_pool_stats stats;
    assert_int_equal(sagemem_pool_get_stats(pool, &stats), SAGEMEM_OK);
    assert_int_equal(stats.objects, 201);
    sagemem_arena_destroy(arena);
    sagemem_heap_destroy(heap);
}

/* -- Late calls -- */

/* One that has ended is told from one that was made since. */
static void late_calls_are_found(void **state) {
    (void)state;
    static char name[] = "";
    sagemem_pool *first = noting_pool(NULL, name);
    sagemem_pool_destroy(first);
    sagemem_pool *second = noting_pool(NULL, name);
    assert_null(sagemem_pool_alloc(first));
    assert_fault(SAGEMEM_E_STALE);
    sagemem_pool_destroy(first);
    assert_fault(SAGEMEM_E_STALE);
    sagemem_pool_stats stats;
    assert_int_equal(sagemem_pool_get_stats(second, &stats), SAGEMEM_OK);
    assert_int_equal(stats.objects, 1);
    for (int i = 0; i < 62; i++) { /* 64 in all */
        sagemem_arena *arena = sagemem_arena_create(NULL);
        assert_non_null(arena);
        sagemem_arena_destroy(arena);
    }
    assert_null(sagemem_pool_alloc(first));
    assert_fault(SAGEMEM_E_STALE);
    sagemem_pool_destroy(second);
}

static void another_kind_is_none(void **state) {
    (void)state;
    sagemem_arena *arena = sagemem_arena_create(NULL);
    assert_null(sagemem_pool_alloc((sagemem_pool *)(void *)arena));
    assert_fault(SAGEMEM_E_FOREIGN);
    sagemem_arena_destroy(arena);
}

/* -- Calls from within -- */

static sagemem_writer *writer;
static char taken[4096];
static size_t taken_bytes;

static sagemem_status greedy_sink(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)ctx;
    assert_int_equal(sagemem_write(writer, "more", 4), SAGEMEM_E_BUSY);
    assert_fault(SAGEMEM_E_BUSY);
    assert_true(sagemem_writer_accepted(writer) >= offset); /* looking is fine */
    memcpy(taken + offset, data, size);
    taken_bytes = (size_t)offset + size;
    return SAGEMEM_OK;
}

static void a_sink_may_not_write_to_its_writer(void **state) {
    (void)state;
    sagemem_sink sink = {greedy_sink, NULL, NULL};
    sagemem_writer_desc desc = {0};
    desc.sink = &sink;
    desc.initial_bytes = desc.min_bytes = desc.max_bytes = 1000;
    writer = sagemem_writer_open(&desc);
    assert_non_null(writer);
    char expected[3000];
    for (size_t i = 0; i < sizeof expected; i++) expected[i] = (char)(i * 7);
    for (size_t i = 0; i < sizeof expected; i += 300) assert_int_equal(sagemem_write(writer, expected + i, 300), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_close(writer), SAGEMEM_OK);
    assert_int_equal(taken_bytes, sizeof expected);
    assert_memory_equal(taken, expected, sizeof expected);
}

static sagemem_reader *reader;

static sagemem_status greedy_source(void *ctx, void *to, size_t size, uint64_t offset, size_t *got) {
    (void)ctx;
    char byte;
    assert_int_equal(sagemem_read(reader, &byte, 1, NULL), SAGEMEM_E_BUSY);
    assert_fault(SAGEMEM_E_BUSY);
    *got = offset < 5000 ? (size < 700 ? size : 700) : 0;
    for (size_t i = 0; i < *got; i++) ((char *)to)[i] = (char)((offset + i) % 251);
    return SAGEMEM_OK;
}

static void a_source_may_not_read_from_its_reader(void **state) {
    (void)state;
    sagemem_input input = {greedy_source, NULL, NULL, false};
    sagemem_reader_desc desc = {0};
    desc.source = &input;
    desc.buffer_bytes = 1000;
    reader = sagemem_reader_open(&desc);
    assert_non_null(reader);
    unsigned char bytes[4000];
    size_t got = 0;
    assert_int_equal(sagemem_read(reader, bytes, sizeof bytes, &got), SAGEMEM_OK);
    assert_int_equal(got, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) assert_int_equal(bytes[i], i % 251);
    assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
}

/* -- Threads -- */

static sagemem_pool *shared_pool;
static pthread_barrier_t ready;

static void *end_it_late(void *unused) {
    pthread_barrier_wait(&ready);
    sagemem_pool_destroy(shared_pool);
    return unused;
}

/* Runs while the pool ends: the other thread has found it alive by then, and waits for the heap. */
static void let_another_wait(void *ctx, void *object) {
    (void)ctx, (void)object;
    pthread_barrier_wait(&ready);
    usleep(20000);
}

static void two_threads_end_one_object(void **state) {
    (void)state;
    sagemem_heap_desc desc = {0};
    desc.flags = SAGEMEM_HEAP_SHARED;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    sagemem_pool_desc of = {0};
    of.heap = heap;
    of.object_size = 8;
    of.cleanup_fn = let_another_wait;
    shared_pool = sagemem_pool_create(&of);
    assert_non_null(sagemem_pool_alloc(shared_pool));
    pthread_barrier_init(&ready, NULL, 2);
    pthread_t other;
    assert_int_equal(pthread_create(&other, NULL, end_it_late, NULL), 0);
    sagemem_pool_destroy(shared_pool);
    pthread_join(other, NULL);
    assert_fault(SAGEMEM_E_STALE);
    pthread_barrier_destroy(&ready);
    assert_non_null(sagemem_alloc(heap, 8, 0)); /* nobody holds it any more */
    sagemem_heap_destroy(heap);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(last_made_ends_first, setup),
        cmocka_unit_test_setup(what_grows_inside_stays_outside, setup),
        cmocka_unit_test_setup(late_calls_are_found, setup),
        cmocka_unit_test_setup(another_kind_is_none, setup),
        cmocka_unit_test_setup(a_sink_may_not_write_to_its_writer, setup),
        cmocka_unit_test_setup(a_source_may_not_read_from_its_reader, setup),
        cmocka_unit_test_setup(two_threads_end_one_object, setup),
    };
    return cmocka_run_group_tests_name("objects", tests, NULL, NULL);
}
