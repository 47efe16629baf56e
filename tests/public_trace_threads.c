/* Traces of several threads: what one allocates and another frees, heaps that all use or that change hands, threads that end. */
#include "traces.h"

enum { THREADS = 4, ROUNDS = 3000, HELD = 64 };

static char place[64], path[96];

static int setup(void **state) {
    (void)state;
    strcpy(place, "/tmp/sagemem-XXXXXX");
    if (mkdtemp(place) == NULL) return 1;
    snprintf(path, sizeof path, "%s/trace", place);
    return 0;
}
static int clean(void **state) {
    (void)state;
    (void)sagemem_trace_end();
    unlink(path);
    return rmdir(place);
}

static int rounds(void) { return getenv("SAGEMEM_TEST_SLOW") != NULL || on_valgrind() ? ROUNDS / 10 : ROUNDS; }

static sagemem_status begin(size_t max_bytes) {
    sagemem_trace_desc desc = {path, SAGEMEM_TRACE_BINARY, max_bytes};
    return sagemem_trace_begin(&desc);
}

/* A place where each thread leaves blocks for the next. */
static void *volatile left[THREADS][HELD];
static pthread_barrier_t barrier;
static sagemem_heap *shared;
static int number_of[THREADS];

static void *pass_on(void *ctx) {
    int me = *(int *)ctx, next = (me + 1) % THREADS;
    sagemem_heap *heap = sagemem_heap_create(NULL);
    if (heap == NULL) abort();
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < rounds(); i++) {
        sagemem_heap *from = i % 3 == 0 ? shared : heap;
        size_t size = (size_t)(i % 7 == 0 ? 9000 : i % 5 == 0 ? 300000 : 40 + i % 400);
        void *block = sagemem_alloc(from, size, (sagemem_tag)(1 + i % 5));
        if (block == NULL) abort();
        sagemem_free(__atomic_exchange_n(&left[next][i % HELD], block, __ATOMIC_ACQ_REL));
        if (i % 50 != 0) continue;
        if (sagemem_scope_begin(heap, "pass", (uint64_t)i) != SAGEMEM_OK || sagemem_alloc(heap, 3000, 6) == NULL) abort();
        if (sagemem_scope_end(heap) != SAGEMEM_OK) abort();
    }
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < HELD; i++) sagemem_free(__atomic_exchange_n(&left[me][i], NULL, __ATOMIC_ACQ_REL));
    pthread_barrier_wait(&barrier);
    sagemem_heap_destroy(heap);
    return NULL;
}

static void run_threads(void *(*main_fn)(void *ctx)) {
    pthread_t threads[THREADS];
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (int i = 0; i < THREADS; i++) {
        number_of[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, main_fn, &number_of[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&barrier);
}

static void test_passed_on(void **state) {
    (void)state;
    sagemem_heap_desc desc = {0};
    desc.name = "shared";
    desc.flags = SAGEMEM_HEAP_SHARED;
    assert_non_null(shared = sagemem_heap_create(&desc));
    assert_int_equal(begin(0), SAGEMEM_OK);
    run_threads(pass_on);
    assert_int_equal(sagemem_trace_end(), SAGEMEM_OK);
    traced *t = traced_read(path);
    assert_true(t->finished && t->lost == 0);
    if (t->unmatched != 0 || t->used != 0)
        fail_msg("%" PRIu64 " events do not match, %" PRIu64 " bytes are left", t->unmatched, t->used);
    assert_int_equal(t->kinds[T_ALLOC], THREADS * (rounds() + (rounds() + 49) / 50));
    traced_free(t);
    sagemem_heap_destroy(shared);
}

/* A trace begins and ends while threads are at work: each of its files is whole. */
static volatile bool stop;
static void *work(void *unused) {
    sagemem_heap *heap = sagemem_heap_create(NULL);
    void *held[HELD] = {NULL};
    (void)unused;
    if (heap == NULL) abort();
    for (int i = 0; !__atomic_load_n(&stop, __ATOMIC_ACQUIRE); i++) {
        sagemem_free(held[i % HELD]);
        held[i % HELD] = sagemem_alloc(i % 2 == 0 ? heap : NULL, (size_t)(i % 2000), (sagemem_tag)(i % 4));
        if (i % 100 == 0 && (sagemem_scope_begin(heap, "w", 1) != SAGEMEM_OK || sagemem_alloc(heap, 500, 7) == NULL ||
                             sagemem_scope_end(heap) != SAGEMEM_OK))
            abort();
    }
    for (int i = 0; i < HELD; i++) sagemem_free(held[i]);
    sagemem_heap_destroy(heap);
    return NULL;
}
static void test_begun_and_ended_at_work(void **state) {
    (void)state;
    pthread_t threads[THREADS];
    stop = false;
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, work, NULL), 0);
    for (int i = 0; i < 20; i++) {
        sagemem_trace_desc desc = {path, (sagemem_trace_format)(i % 4 == 3), 0};
        assert_int_equal(sagemem_trace_begin(&desc), SAGEMEM_OK);
        usleep(3000);
        assert_int_equal(sagemem_trace_end(), SAGEMEM_OK);
        if (desc.format == SAGEMEM_TRACE_CHROME) continue;
        traced *t = traced_read(path);
        assert_true(t->finished);
        traced_free(t);
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    sagemem_heap_stats s;
    assert_int_equal(sagemem_heap_get_stats(NULL, &s), SAGEMEM_OK);
    assert_int_equal(s.blocks, 0);
}

/* A heap that is handed over goes on in its new thread's records, behind the old one's. */
static void *take_over(void *ctx) {
    sagemem_heap *heap = (sagemem_heap *)ctx;
    if (sagemem_heap_adopt(heap) != SAGEMEM_OK) abort();
    for (int i = 0; i < 200; i++) sagemem_free(sagemem_alloc(heap, 200, 2));
    return sagemem_alloc(heap, 200, 3);
}
static void test_handed_over(void **state) {
    (void)state;
    assert_int_equal(begin(0), SAGEMEM_OK);
    sagemem_heap *heap = sagemem_heap_create(NULL);
    assert_non_null(heap);
    for (int i = 0; i < 30; i++) {
        pthread_t thread;
        void *block = NULL;
        for (int k = 0; k < 50; k++) sagemem_free(sagemem_alloc(heap, 200, 1));
        assert_int_equal(pthread_create(&thread, NULL, take_over, heap), 0);
        pthread_join(thread, &block);
        assert_int_equal(sagemem_heap_adopt(heap), SAGEMEM_OK);
        sagemem_free(block);
    }
    assert_int_equal(sagemem_trace_end(), SAGEMEM_OK);
    traced *t = traced_read(path);
    assert_true(t->unmatched == 0 && t->used == 0 && t->lost == 0);
    assert_int_equal(t->kinds[T_ALLOC], 30 * 251);
    traced_free(t);
    sagemem_heap_destroy(heap);
}

/* More threads at once than there is memory for: their events are lost and counted, and end with E_LIMIT. */
static void *alone(void *ctx) {
    (void)ctx;
    sagemem_heap *heap = sagemem_heap_create(NULL);
    if (heap == NULL) abort();
    for (int i = 0; i < 100; i++) sagemem_free(sagemem_alloc(heap, 100, 1));
    pthread_barrier_wait(&barrier);
    sagemem_heap_destroy(heap);
    return NULL;
}
static void test_bound(void **state) {
    (void)state;
    assert_int_equal(begin(131072), SAGEMEM_OK);
    sagemem_free(sagemem_alloc(NULL, 100, 1));
    run_threads(alone);
    assert_int_equal(sagemem_trace_end(), SAGEMEM_E_LIMIT);
    assert_non_null(strstr(sagemem_last_error()->message, "max_bytes"));
    traced *t = traced_read(path);
    assert_true(t->finished && t->unmatched == 0);
    assert_in_range(t->lost, 3 * 200, 3 * 210); /* there is room for two threads: this one and one of the others */
    traced_free(t);
}

/* Many threads, one after the other, that only free: each gives back what the trace had for it. */
static void *free_all(void *ctx) {
    void **blocks = (void **)ctx;
    for (int i = 0; i < 50; i++) sagemem_free(blocks[i]);
    return NULL;
}
static void test_threads_without_a_heap(void **state) {
    (void)state;
    assert_int_equal(begin(131072), SAGEMEM_OK);
    for (int n = 0; n < 60; n++) {
        void *blocks[50];
        pthread_t thread;
        for (int i = 0; i < 50; i++) assert_non_null(blocks[i] = sagemem_alloc(NULL, 100, 1));
        assert_int_equal(pthread_create(&thread, NULL, free_all, blocks), 0);
        pthread_join(thread, NULL);
    }
    assert_int_equal(sagemem_trace_end(), SAGEMEM_OK);
    traced *t = traced_read(path);
    assert_true(t->finished && t->unmatched == 0 && t->lost == 0);
    traced_free(t);
}

/* Who begins and who ends is decided once: what says OK has left a whole file. */
static void *begin_and_end(void *ctx) {
    (void)ctx;
    for (int i = 0; i < rounds() / 10; i++) {
        sagemem_trace_desc desc = {path, i % 2 == 0 ? SAGEMEM_TRACE_BINARY : SAGEMEM_TRACE_CHROME, 0};
        (void)sagemem_trace_begin(&desc);
        sagemem_free(sagemem_alloc(NULL, 100, 1));
        (void)sagemem_trace_end();
    }
    pthread_barrier_wait(&barrier);
    return NULL;
}
static void test_begun_by_all(void **state) {
    (void)state;
    run_threads(begin_and_end);
    (void)sagemem_trace_end();
    assert_int_equal(begin(0), SAGEMEM_OK);
    sagemem_free(sagemem_alloc(NULL, 100, 1));
    assert_int_equal(sagemem_trace_end(), SAGEMEM_OK);
    traced *t = traced_read(path);
    assert_true(t->finished && t->unmatched == 0 && t->lost == 0);
    traced_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_passed_on, setup, clean),
        cmocka_unit_test_setup_teardown(test_begun_and_ended_at_work, setup, clean),
        cmocka_unit_test_setup_teardown(test_handed_over, setup, clean),
        cmocka_unit_test_setup_teardown(test_bound, setup, clean),
        cmocka_unit_test_setup_teardown(test_threads_without_a_heap, setup, clean),
        cmocka_unit_test_setup_teardown(test_begun_by_all, setup, clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
