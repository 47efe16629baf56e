/* What is left, by tag, owner and site; and the exit status that says so. */
#define SAGEMEM_SITES
#include "reports.h"

static kept_report out;

static int setup(void **state) {
    (void)state;
    kept_free(&out);
    return 0;
}

static sagemem_heap *heap_with(const char *name, uint32_t flags) {
    sagemem_heap_desc desc = {0};
    desc.name = name;
    desc.flags = flags;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    return heap;
}
static const char *leaks(const sagemem_heap *heap, size_t expected) {
    sagemem_sink sink = kept_sink(&out);
    assert_int_equal(sagemem_leaks(heap, &sink), expected);
    assert_int_equal(sagemem_leaks(heap, NULL), expected);
    assert_int_equal(out.closes, 1);
    return out.text;
}
static void assert_says(const char *text, const char *what) {
    if (strstr(text, what) == NULL) fail_msg("'%s' is not in\n%s", what, text);
}
static const char *json_of(const sagemem_heap *heap) {
    sagemem_sink sink = kept_sink(&out);
    assert_int_equal(sagemem_report(heap, SAGEMEM_FORMAT_JSON, &sink), SAGEMEM_OK);
    return out.text;
}
/* The line that an allocation of a loop is in. */
static char here[32];
#define HERE (snprintf(here, sizeof here, "public_leaks.c:%d\n", __LINE__), here)

static void leaks_name_tag_scope_and_site(void **state) {
    (void)state;
    static const uint32_t kinds[] = {SAGEMEM_HEAP_SITES, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SITES | SAGEMEM_HEAP_SYSTEM,
                                     SAGEMEM_HEAP_SITES | SAGEMEM_HEAP_SHARED};
    sagemem_tag trees = sagemem_tag_named("Leaks/Trees");
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        sagemem_heap *heap = heap_with("leaking", kinds[k]);
        void *blocks[9];
        char first[32], second[32];
        for (int i = 0; i < 9; i++) {
            blocks[i] = sagemem_alloc(heap, 64, trees), snprintf(first, sizeof first, "%s", HERE);
            assert_non_null(blocks[i]);
        }
        assert_int_equal(sagemem_scope_begin(heap, "forest", 17), SAGEMEM_OK);
        void *huge = sagemem_calloc(heap, 3, 200000, 0);
        snprintf(second, sizeof second, "public_leaks.c:%d\n", __LINE__ - 1);
        assert_non_null(huge);
        for (int i = 0; i < 5; i++) sagemem_free(blocks[i]);
        const char *text = leaks(heap, 5);
        assert_says(text, "sagemem: 5 blocks with ");
        assert_says(text, " in 4 blocks of Leaks/Trees, heap leaking\n");
        assert_says(text, " in 1 block of untagged, scope forest 17 of heap leaking\n");
        assert_says(text, first);
        assert_says(text, second);
        text = json_of(heap);
        assert_int_equal(json_sum(text, "sites", "blocks"), 5);
        assert_int_equal(json_sum(text, "sites", "used"), json_sum(text, "rows", "used"));
        assert_int_equal(json_read(text, "sites", "used").count, 2);
        /* a report for people lists what has no tag */
        sagemem_sink sink = kept_sink(&out);
        assert_int_equal(sagemem_report(heap, SAGEMEM_FORMAT_TEXT, &sink), SAGEMEM_OK);
        assert_says(out.text, second);
        assert_null(strstr(out.text, first));
        sagemem_heap_destroy(heap);
    }
}

static void leaks_of_nothing(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with("empty", SAGEMEM_HEAP_SITES);
    sagemem_free(sagemem_alloc(heap, 100, 1));
    assert_string_equal(leaks(heap, 0), "sagemem: 0 blocks with 0 B left in heap 'empty'\n");
    sagemem_heap_destroy(heap);
}

/* Without sites: tag and owner. */
static void leaks_of_an_ordinary_heap(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with("ordinary", 0);
    assert_non_null(sagemem_alloc(heap, 1000, sagemem_tag_named("Leaks/Galaxies")));
    const char *text = leaks(heap, 1);
    assert_says(text, " in 1 block of Leaks/Galaxies, heap ordinary\n");
    assert_null(strstr(text, "public_leaks.c"));
    assert_int_equal(json_read(json_of(heap), "sites", "used").count, 0);
    sagemem_heap_destroy(heap);
}

static void leaks_count_when_the_sink_fails(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with("counted", 0);
    for (int i = 0; i < 7; i++) assert_non_null(sagemem_alloc(heap, 10, 1));
    sagemem_sink sink = kept_sink(&out);
    out.fail_at = 1;
    assert_int_equal(sagemem_leaks(heap, &sink), 7);
    sagemem_heap_destroy(heap);
}

/* More sites than any table begins with, all of one length, in two heaps. */
static void thousands_of_sites(void **state) {
    (void)state;
    static char files[40][16];
    sagemem_heap *heaps[2] = {heap_with("one", SAGEMEM_HEAP_SITES), heap_with("two", SAGEMEM_HEAP_SITES)};
    uint64_t used = 0;
    for (int f = 0; f < 40; f++) {
        snprintf(files[f], sizeof files[f], "f%02d.c", f);
        for (int line = 1; line <= 50; line++)
            for (int n = 0; n <= line % 3; n++) {
                void *block = sagemem_alloc_at(heaps[f % 2], 30, (sagemem_tag)(1 + line % 2), files[f], line);
                assert_non_null(block);
                used += sagemem_size(block);
            }
    }
    for (int i = 0; i < 2; i++) {
        const char *text = json_of(heaps[i]);
        assert_int_equal(json_read(text, "sites", "used").count, 20 * 50);
        used -= json_sum(text, "sites", "used");
        /* by tag, file and line */
        const char *first = strstr(text, i == 0 ? "\"f00.c\", \"line\": 2," : "\"f01.c\", \"line\": 2,");
        const char *later = strstr(text, "\"f20.c\", \"line\": 48,");
        if (i == 0) assert_true(first && later && first < later);
    }
    assert_int_equal(used, 0);
    sagemem_heap_destroy(heaps[0]);
    sagemem_heap_destroy(heaps[1]);
}

/* Of one file so many that places in the table must meet: each line stays a site of its own. */
static void many_sites_of_one_file(void **state) {
    (void)state;
    enum { LINES = 1900 };
    sagemem_heap *heap = heap_with("one file", SAGEMEM_HEAP_SITES);
    for (int i = 1; i <= LINES; i++) assert_non_null(sagemem_alloc_at(heap, 20, 1, "long.c", i * i)); /* even steps never meet */
    const char *text = json_of(heap);
    json_reader lines = json_read(text, "sites", "line");
    assert_int_equal(lines.count, LINES);
    assert_true(lines.sum == (long long)LINES * (LINES + 1) * (2 * LINES + 1) / 6);
    sagemem_heap_destroy(heap);
}

static void differences_name_the_site(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with("between", SAGEMEM_HEAP_SITES);
    void *first = sagemem_alloc_at(heap, 100, 1, "old.c", 1), *both = sagemem_alloc_at(heap, 100, 1, "same.c", 2);
    assert_true(first && both);
    sagemem_snapshot *before = sagemem_snapshot_take(heap);
    sagemem_free(first);
    for (int i = 0; i < 3; i++) assert_non_null(sagemem_alloc_at(heap, 100, 1, "new.c", 3));
    assert_non_null(sagemem_alloc_at(heap, 100, 1, "same.c", 2));
    sagemem_snapshot *after = sagemem_snapshot_take(heap);
    assert_true(before && after);
    sagemem_sink sink = kept_sink(&out);
    assert_int_equal(sagemem_snapshot_diff(before, after, SAGEMEM_FORMAT_JSON, &sink), SAGEMEM_OK);
    assert_says(out.text, "\"site\": \"new.c\", \"line\": 3, \"used\": 312, \"blocks\": 3}");
    assert_says(out.text, "\"site\": \"old.c\", \"line\": 1, \"used\": -104, \"blocks\": -1}");
    assert_says(out.text, "\"site\": \"same.c\", \"line\": 2, \"used\": 104, \"blocks\": 1}");
    assert_int_equal(json_sum(out.text, "rows", "used"), json_sum(out.text, "sites", "used"));
    assert_int_equal(json_read(out.text, "sites", "blocks").sum, 3);
    sink = kept_sink(&out);
    assert_int_equal(sagemem_snapshot_diff(before, after, SAGEMEM_FORMAT_TEXT, &sink), SAGEMEM_OK);
    assert_says(out.text, "new.c:3");
    assert_says(out.text, "old.c:1");
    sagemem_snapshot_free(before);
    sagemem_snapshot_free(after);
    sagemem_heap_destroy(heap);
}

/* -- In processes of their own ------------------------------------------------------------------------------------- */

static char errors[8192];
static int in_child(void (*fn)(void)) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_SECONDS);
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        fn();
        _exit(98);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; n < sizeof errors - 1 && (got = read(ends[0], errors + n, sizeof errors - 1 - n)) > 0;) n += (size_t)got;
    errors[n] = '\0';
    close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void *leak_in_a_thread(void *unused) {
    (void)unused;
    if (sagemem_alloc_at(NULL, 500, sagemem_tag_named("Leaks/Thread"), "thread.c", 12) == NULL) _exit(96);
    return NULL;
}
static void leak_everywhere(void) {
    pthread_t thread;
    sagemem_heap_desc desc = {0};
    desc.flags = SAGEMEM_HEAP_SITES;
    sagemem_heap_reset(sagemem_heap_default());
    if (sagemem_heap_default_configure(&desc) != SAGEMEM_OK || sagemem_report_at_exit(SAGEMEM_FORMAT_TEXT, NULL, 42) != SAGEMEM_OK)
        _exit(97);
    sagemem_heap *own = heap_with("own", SAGEMEM_HEAP_CHECKED);
    if (sagemem_alloc_at(own, 700, sagemem_tag_named("Leaks/Main"), "main.c", 5) == NULL) _exit(96);
    if (pthread_create(&thread, NULL, leak_in_a_thread, NULL) != 0 || pthread_join(thread, NULL) != 0) _exit(95);
    exit(0);
}
static void at_exit_the_sites_of_ended_threads_are_told(void **state) {
    (void)state;
    if (on_valgrind()) skip(); /* it has an exit status of its own for leaks */
    assert_int_equal(in_child(leak_everywhere), 42);
    assert_says(errors, "2 blocks with ");
    assert_says(errors, "were never freed");
    assert_says(errors, "of Leaks/Main, heap own\n");
    assert_says(errors, "from main.c:5\n");
    assert_says(errors, "of Leaks/Thread, heap heap\n");
    assert_says(errors, "from thread.c:12\n");
}

static void leak_nothing(void) {
    sagemem_heap_reset(sagemem_heap_default());
    if (sagemem_report_at_exit(SAGEMEM_FORMAT_TEXT, "", 42) != SAGEMEM_OK) _exit(97);
    sagemem_free(sagemem_alloc(NULL, 100, 1));
    exit(0);
}
static void at_exit_nothing_is_said_of_nothing(void **state) {
    (void)state;
    assert_int_equal(in_child(leak_nothing), 0);
    assert_string_equal(errors, "");
}

/* With an argument: only the tests whose names match it (* and ?). */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
#define T(name) cmocka_unit_test_setup_teardown(name, setup, setup)
    static const struct CMUnitTest tests[] = {
        T(leaks_name_tag_scope_and_site),
        T(leaks_of_nothing),
        T(leaks_of_an_ordinary_heap),
        T(leaks_count_when_the_sink_fails),
        T(thousands_of_sites),
        T(many_sites_of_one_file),
        T(differences_name_the_site),
        T(at_exit_the_sites_of_ended_threads_are_told),
        T(at_exit_nothing_is_said_of_nothing),
    };
    return cmocka_run_group_tests_name("public_leaks", tests, NULL, NULL);
}
