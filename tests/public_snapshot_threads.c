/* Reports from any thread, while others allocate, free for each other, open scopes and files, and end. */
#include "reports.h"

enum { WORKERS = 3, SLOTS = 64, FORMATS = SAGEMEM_FORMAT_HTML + 1 };

static void *shared_slots[SLOTS]; /* whoever comes by frees what lies there, and leaves something */
static int stop;
static sagemem_heap *shared;

static uint32_t random_of(uint32_t *state) { return *state = *state * 1664525u + 1013904223u; }
static int rounds(void) { return getenv("SAGEMEM_TEST_SLOW") || on_valgrind() ? 20 : 100; }

static sagemem_status nowhere(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)ctx, (void)data, (void)size, (void)offset;
    return SAGEMEM_OK;
}

static void open_and_close_files(void) {
    sagemem_sink sink = {nowhere, NULL, NULL};
    sagemem_writer_desc desc = {0};
    desc.sink = &sink;
    sagemem_writer *writer = sagemem_writer_open(&desc);
    if (writer == NULL || sagemem_write(writer, "x", 1) != SAGEMEM_OK || sagemem_writer_close(writer) != SAGEMEM_OK) abort();
}

static void *work(void *argument) {
    uint32_t random = (uint32_t)(uintptr_t)argument * 77u + 1;
    sagemem_heap_desc sites = {0};
    sites.name = "worker";
    sites.flags = SAGEMEM_HEAP_SITES;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        sagemem_heap *heap = sagemem_heap_create(&sites);
        for (int i = 0; i < 50; i++) {
            void **slot = &shared_slots[random_of(&random) >> 16 & (SLOTS - 1)];
            void *block = sagemem_alloc(NULL, random_of(&random) >> 20, (sagemem_tag)(1 + (random >> 9 & 7)));
            sagemem_free(__atomic_exchange_n(slot, block, __ATOMIC_ACQ_REL));
            sagemem_free(sagemem_alloc(shared, 100, 9));
            if (sagemem_scope_begin(heap, "work", (uint64_t)i) != SAGEMEM_OK) abort();
            if (sagemem_alloc_at(heap, 50, 10, "worker.c", i % 5) == NULL) abort();
            if (i % 10 == 0) open_and_close_files();
            if (sagemem_scope_end(heap) != SAGEMEM_OK) abort();
        }
        sagemem_heap_destroy(heap);
    }
    return NULL;
}

static pthread_t workers[WORKERS];
static void begin(void) {
    sagemem_heap_desc desc = {0};
    desc.name = "shared";
    desc.flags = SAGEMEM_HEAP_SHARED | SAGEMEM_HEAP_SITES;
    shared = sagemem_heap_create(&desc);
    assert_non_null(shared);
    stop = 0;
    for (uintptr_t i = 0; i < WORKERS; i++) assert_int_equal(pthread_create(&workers[i], NULL, work, (void *)(i + 1)), 0);
}
static void end(void) {
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < WORKERS; i++) assert_int_equal(pthread_join(workers[i], NULL), 0);
    for (int i = 0; i < SLOTS; i++) sagemem_free(shared_slots[i]);
    memset(shared_slots, 0, sizeof shared_slots);
    sagemem_heap_destroy(shared);
}

/* Whatever moment it was: all forms tell of the same. */
static void reports_agree_while_others_allocate(void **state) {
    (void)state;
    kept_report out;
    memset(&out, 0, sizeof out);
    begin();
    for (int i = 0; i < rounds(); i++) {
        sagemem_snapshot *s = sagemem_snapshot_take(NULL);
        assert_non_null(s);
        sagemem_sink sink = kept_sink(&out);
        assert_int_equal(sagemem_snapshot_report(s, SAGEMEM_FORMAT_JSON, &sink), SAGEMEM_OK);
        uint64_t used = json_sum(out.text, "process", "used"), blocks = json_sum(out.text, "process", "blocks");
        assert_int_equal(json_sum(out.text, "rows", "used"), used);
        assert_int_equal(json_sum(out.text, "tags", "used"), used);
        assert_true(json_sum(out.text, "process", "peak") >= used);
        sink = kept_sink(&out);
        assert_int_equal(sagemem_snapshot_report(s, SAGEMEM_FORMAT_CSV, &sink), SAGEMEM_OK);
        assert_int_equal(csv_sum(out.text, "used", NULL, NULL), used);
        assert_int_equal(csv_sum(out.text, "blocks", NULL, NULL), blocks);
        sink = kept_sink(&out);
        assert_int_equal(sagemem_snapshot_report(s, SAGEMEM_FORMAT_PROMETHEUS, &sink), SAGEMEM_OK);
        assert_int_equal(metric_sum(out.text, "sagemem_used_bytes"), used);
        sink = kept_sink(&out);
        assert_int_equal(sagemem_snapshot_report(s, SAGEMEM_FORMAT_FOLDED, &sink), SAGEMEM_OK);
        assert_int_equal(out.text ? folded_sum(out.text, "", 1, 0) : 0, used);
        sink = kept_sink(&out);
        assert_int_equal(sagemem_snapshot_report(s, SAGEMEM_FORMAT_HTML, &sink), SAGEMEM_OK);
        assert_int_equal(html_sum(out.text, "id=\"tags\"", "</table>", "data-used"), used);
        sagemem_snapshot_free(s);
    }
    end();
    kept_free(&out);
}

/* Several threads report, also from within a sink, and look at one snapshot. */
static sagemem_snapshot *common;
static sagemem_status report_inside(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)data, (void)size, (void)offset;
    sagemem_sink sink = {nowhere, NULL, NULL};
    if (ctx != NULL) return SAGEMEM_OK;
    return sagemem_report(NULL, SAGEMEM_FORMAT_BRIEF, &sink);
}
static void *report_all(void *argument) {
    sagemem_sink sink = {report_inside, NULL, NULL}, quiet = {nowhere, NULL, NULL};
    (void)argument;
    for (int i = 0; i < rounds() / 5; i++) {
        for (int f = 0; f < FORMATS; f++) {
            if (sagemem_report(NULL, (sagemem_format)f, &sink) != SAGEMEM_OK) abort();
            if (sagemem_snapshot_report(common, (sagemem_format)f, &quiet) != SAGEMEM_OK) abort();
        }
        sagemem_leaks(NULL, &quiet);
        sagemem_snapshot *s = sagemem_snapshot_take(NULL);
        if (s == NULL || sagemem_snapshot_diff(common, s, SAGEMEM_FORMAT_TEXT, &quiet) != SAGEMEM_OK) abort();
        sagemem_snapshot_free(s);
    }
    return NULL;
}
static void many_report_at_once(void **state) {
    (void)state;
    pthread_t reporters[2];
    begin();
    common = sagemem_snapshot_take(NULL);
    assert_non_null(common);
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&reporters[i], NULL, report_all, NULL), 0);
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_join(reporters[i], NULL), 0);
    sagemem_snapshot_free(common);
    end();
}

/* When all is quiet, the snapshot is exact, whoever freed whose blocks. */
static void quiet_again_it_is_exact(void **state) {
    (void)state;
    begin();
    usleep(20000);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < WORKERS; i++) assert_int_equal(pthread_join(workers[i], NULL), 0);
    uint64_t used = 0, blocks = 0;
    for (int i = 0; i < SLOTS; i++) {
        used += shared_slots[i] ? sagemem_size(shared_slots[i]) : 0;
        blocks += shared_slots[i] != NULL;
    }
    kept_report out;
    memset(&out, 0, sizeof out);
    sagemem_sink sink = kept_sink(&out);
    assert_int_equal(sagemem_report(NULL, SAGEMEM_FORMAT_CSV, &sink), SAGEMEM_OK);
    assert_int_equal(csv_sum(out.text, "used", NULL, NULL), used);
    assert_int_equal(csv_sum(out.text, "blocks", NULL, NULL), blocks);
    assert_int_equal(sagemem_leaks(NULL, NULL), blocks);
    kept_free(&out);
    for (int i = 0; i < SLOTS; i++) sagemem_free(shared_slots[i]);
    memset(shared_slots, 0, sizeof shared_slots);
    sagemem_heap_destroy(shared);
}

/* With an argument: only the tests whose names match it (* and ?). */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(reports_agree_while_others_allocate),
        cmocka_unit_test(many_report_at_once),
        cmocka_unit_test(quiet_again_it_is_exact),
    };
    return cmocka_run_group_tests_name("public_snapshot_threads", tests, NULL, NULL);
}
