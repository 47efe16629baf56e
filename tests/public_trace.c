/* Traces: what is in the file is what was done, for every kind of heap; and what becomes of files that cannot be written. */
#include "traces.h"

static char place[64], path[96];
static uint64_t seed;

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

static uint64_t next_random(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}
static void begin_random(void) {
    const char *text = getenv("SAGEMEM_SEED");
    seed = text ? strtoull(text, NULL, 0) : 0x9E3779B97F4A7C15u;
    print_message("SAGEMEM_SEED=0x%" PRIx64 "\n", seed);
}

static sagemem_heap *heap_of_kind(const char *name, uint32_t flags) {
    sagemem_heap_desc desc = {0};
    desc.name = name;
    desc.flags = flags;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    return heap;
}
static void *alloc(sagemem_heap *heap, size_t size, sagemem_tag tag) {
    void *block = sagemem_alloc(heap, size, tag);
    assert_non_null(block);
    return block;
}
static sagemem_status begin(sagemem_trace_format format, size_t max_bytes) {
    sagemem_trace_desc desc = {path, format, max_bytes};
    return sagemem_trace_begin(&desc);
}
static traced *end(void) {
    assert_int_equal(sagemem_trace_end(), SAGEMEM_OK);
    traced *t = traced_read(path);
    assert_true(t->finished);
    assert_int_equal(t->lost, 0);
    assert_int_equal(t->unmatched, 0);
    return t;
}
static void fails_with(sagemem_status status, sagemem_status expected, const char *word) {
    assert_int_equal(status, expected);
    assert_int_equal(sagemem_last_error()->status, expected);
    if (strstr(sagemem_last_error()->message, word) == NULL)
        fail_msg("'%s' does not say '%s'", sagemem_last_error()->message, word);
}

static void test_arguments(void **state) {
    (void)state;
    sagemem_trace_desc desc = {NULL, SAGEMEM_TRACE_BINARY, 0};
    fails_with(sagemem_trace_end(), SAGEMEM_E_NOT_FOUND, "sagemem_trace_begin");
    fails_with(sagemem_trace_begin(NULL), SAGEMEM_E_ARGUMENT, "path");
    fails_with(sagemem_trace_begin(&desc), SAGEMEM_E_ARGUMENT, "path");
    desc.path = "";
    fails_with(sagemem_trace_begin(&desc), SAGEMEM_E_ARGUMENT, "path");
    fails_with(begin((sagemem_trace_format)7, 0), SAGEMEM_E_ARGUMENT, "7");
    fails_with(begin(SAGEMEM_TRACE_BINARY, 131071), SAGEMEM_E_ARGUMENT, "131071");
    desc.path = place;
    fails_with(sagemem_trace_begin(&desc), SAGEMEM_E_IO, place);
    desc.path = "/nowhere/at/all";
    fails_with(sagemem_trace_begin(&desc), SAGEMEM_E_NOT_FOUND, "/nowhere/at/all");
    assert_int_equal(access(path, F_OK), -1);
    fails_with(sagemem_trace_end(), SAGEMEM_E_NOT_FOUND, "sagemem_trace_begin");
}

static void test_one_at_a_time(void **state) {
    (void)state;
    char other[128];
    snprintf(other, sizeof other, "%s/other", place);
    sagemem_trace_desc desc = {other, SAGEMEM_TRACE_CHROME, 0};
    assert_int_equal(begin(SAGEMEM_TRACE_BINARY, 131072), SAGEMEM_OK);
    fails_with(begin(SAGEMEM_TRACE_BINARY, 0), SAGEMEM_E_BUSY, "sagemem_trace_end");
    fails_with(sagemem_trace_begin(&desc), SAGEMEM_E_BUSY, "sagemem_trace_end");
    assert_int_equal(access(other, F_OK), -1);
    sagemem_free(alloc(NULL, 100, 1));
    traced *t = end();
    assert_int_equal(t->kinds[T_ALLOC], 1);
    assert_int_equal(t->kinds[T_FREE], 1);
    traced_free(t);
}

/* What was there before comes first, and what is freed before the trace does not. */
static void test_what_is_there(void **state) {
    (void)state;
    sagemem_heap *heap = heap_of_kind("there", 0);
    void *blocks[300], *gone = alloc(heap, 50, 2);
    for (int i = 0; i < 300; i++) blocks[i] = alloc(heap, 64, 2);
    assert_int_equal(sagemem_scope_begin(heap, "outer", 7), SAGEMEM_OK);
    void *huge = alloc(heap, MIB, 3);
    assert_int_equal(sagemem_scope_begin(heap, "inner", 8), SAGEMEM_OK);
    (void)alloc(heap, 1000, 4);
    sagemem_free(gone);
    assert_int_equal(begin(SAGEMEM_TRACE_BINARY, 0), SAGEMEM_OK);
    sagemem_free(blocks[0]);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    sagemem_free(huge);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    sagemem_tag_stats s;
    assert_int_equal(sagemem_tag_get_stats(heap, 2, &s), SAGEMEM_OK);
    traced *t = end();
    assert_int_equal(t->kinds[T_ALLOC], 302);
    assert_int_equal(t->kinds[T_SCOPE], 2);
    assert_int_equal(t->kinds[T_END], 2);
    assert_true(t->tag_used[2] == s.used && t->tag_used[3] == 0 && t->tag_used[4] == 0);
    assert_true(t->tag_peak[3] == MIB && t->tag_peak[4] >= 1000);
    assert_non_null(strstr(t->names, "there\n"));
    assert_non_null(strstr(t->names, "outer\n"));
    for (size_t i = 0; i < t->count; i++)
        if (t->events[i].kind == T_SCOPE) assert_true(t->events[i].more == 7 || t->events[i].more == 8);
    traced_free(t);
    sagemem_heap_destroy(heap);
}

/* The short paths are open again, and nothing is written any more. */
static void test_after_the_end(void **state) {
    (void)state;
    sagemem_heap *heap = heap_of_kind("after", 0);
    assert_int_equal(begin(SAGEMEM_TRACE_BINARY, 0), SAGEMEM_OK);
    void *kept = alloc(heap, 100, 1);
    traced *t = end();
    size_t bytes = t->bytes;
    traced_free(t);
    for (int i = 0; i < 5000; i++) sagemem_free(alloc(heap, 100, 1));
    sagemem_free(kept);
    sagemem_heap_stats s;
    assert_int_equal(sagemem_heap_get_stats(heap, &s), SAGEMEM_OK);
    assert_int_equal(s.blocks, 0);
    assert_int_equal(s.total_blocks, 5001);
    assert_int_equal(sagemem_heap_check(heap), 0);
    t = traced_read(path);
    assert_int_equal(t->bytes, bytes);
    traced_free(t);
    sagemem_heap_destroy(heap);
}

static void test_names(void **state) {
    (void)state;
    char text[32];
    assert_int_equal(sagemem_tag_define(40, "Trace/Before"), SAGEMEM_OK);
    assert_int_equal(begin(SAGEMEM_TRACE_BINARY, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_tag_define(41, "Trace/During"), SAGEMEM_OK);
    sagemem_tag many = 0;
    for (int i = 0; i < 1000; i++) { /* more than a block of names */
        snprintf(text, sizeof text, "Many/%d", i);
        many = sagemem_tag_named(text);
    }
    traced *t = end();
    assert_string_equal(t->tag_names[40], "Trace/Before");
    assert_string_equal(t->tag_names[41], "Trace/During");
    assert_string_equal(t->tag_names[many], "Many/999");
    traced_free(t);
}

static void test_limits_and_failures(void **state) {
    (void)state;
    sagemem_heap *heap = heap_of_kind("limited", 0);
    assert_int_equal(sagemem_limit_set(heap, 4 * MIB), SAGEMEM_OK);
    assert_int_equal(begin(SAGEMEM_TRACE_BINARY, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_limit_set(heap, 2 * MIB), SAGEMEM_OK);
    void *block = alloc(heap, MIB, 5), *other = alloc(heap, 1000, 6);
    assert_null(sagemem_alloc(heap, 3 * MIB, 6));
    assert_null(sagemem_realloc(heap, other, 5 * MIB, SAGEMEM_TAG_SAME));
    assert_int_equal(sagemem_scope_begin(heap, "s", 1), SAGEMEM_OK);
    assert_int_equal(sagemem_scope_limit(heap, 12345678), SAGEMEM_OK);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    sagemem_free(block);
    assert_non_null(block = sagemem_realloc(heap, other, MIB, SAGEMEM_TAG_SAME));
    traced *t = end();
    uint64_t failed[2] = {0, 0}, limits[3] = {0, 0, 0};
    for (size_t i = 0, f = 0, l = 0; i < t->count; i++) {
        if (t->events[i].kind == T_FAIL) failed[f++ % 2] = t->events[i].size;
        if (t->events[i].kind == T_LIMIT) limits[l++ % 3] = t->events[i].size;
    }
    assert_int_equal(t->kinds[T_FAIL], 2);
    assert_true(failed[0] == 3 * MIB && failed[1] == 5 * MIB);
    assert_int_equal(t->kinds[T_LIMIT], 3);
    assert_true(limits[0] == 4 * MIB && limits[1] == 2 * MIB && limits[2] == 12345678);
    traced_free(t);
    sagemem_heap_destroy(heap);
}

/* What a report says of the trace that runs. */
static sagemem_status keep_text(void *ctx, const void *data, size_t size, uint64_t offset) {
    char *text = (char *)ctx;
    assert_true(offset + size < 512 * KIB);
    memcpy(text + offset, data, size);
    text[offset + size] = '\0';
    return SAGEMEM_OK;
}
static char *report(sagemem_format format) {
    char *text = (char *)calloc(1, 512 * KIB);
    assert_non_null(text);
    sagemem_sink sink = {keep_text, NULL, text};
    assert_int_equal(sagemem_report(NULL, format, &sink), SAGEMEM_OK);
    return text;
}
static uint64_t reported(const char *member) {
    char *text = report(SAGEMEM_FORMAT_JSON), *at = strstr(text, "\"trace\": {");
    if (at != NULL) at = strstr(at, member);
    uint64_t value = at != NULL ? strtoull(at + strlen(member) + 2, NULL, 10) : UINT64_MAX;
    free(text);
    return value;
}
static void report_says(const char *line) {
    char *text = report(SAGEMEM_FORMAT_TEXT);
    if (strstr(text, line) == NULL) fail_msg("the report has no '%s'", line);
    free(text);
}
static void test_reported(void **state) {
    (void)state;
    char *without = report(SAGEMEM_FORMAT_TEXT);
    assert_null(strstr(without, "a trace runs"));
    free(without);
    assert_true(reported("\"memory\"") == UINT64_MAX);
    for (int format = SAGEMEM_TRACE_BINARY; format <= SAGEMEM_TRACE_CHROME; format++) {
        assert_int_equal(begin((sagemem_trace_format)format, 131072), SAGEMEM_OK);
        sagemem_free(alloc(NULL, 100, 1));
        report_says("a trace runs: ");
        report_says(" in its file, 0 events lost, ");
        report_says("(at most 128 KiB)");
        struct stat info;
        assert_int_equal(stat(path, &info), 0);
        assert_true(reported("\"file_bytes\"") == (uint64_t)info.st_size);
        assert_true(reported("\"events_lost\"") == 0 && reported("\"memory_max\"") == 131072);
        assert_true(reported("\"memory\"") >= 32 * KIB && reported("\"memory\"") <= 131072);
        char *text = report(SAGEMEM_FORMAT_JSON);
        assert_non_null(strstr(text, format == SAGEMEM_TRACE_BINARY ? "{\"format\": \"binary\"" : "{\"format\": \"chrome\""));
        free(text);
        assert_int_equal(sagemem_trace_end(), SAGEMEM_OK);
    }
    assert_true(reported("\"memory\"") == UINT64_MAX);
}

/* Everything that can happen to blocks, in heaps of a kind; what the trace adds up to is what sagemem_size and the statistics say. */
enum { SLOTS = 200, STEPS = 20000 };
typedef struct model {
    sagemem_heap *heap;
    void *blocks[SLOTS];
    int depth[SLOTS]; /* of the scope that it belongs to */
    int open;
    uint64_t used, peak;
} model;

static void model_went(model *m, int i) {
    m->used -= sagemem_size(m->blocks[i]);
    m->blocks[i] = NULL;
}
static void model_came(model *m, int i, void *block, int depth) {
    assert_non_null(block);
    m->blocks[i] = block;
    m->depth[i] = depth;
    m->used += sagemem_size(block);
    if (m->used > m->peak) m->peak = m->used;
}
static size_t model_size(void) {
    uint64_t r = next_random();
    return (size_t)(r % 100 == 0 ? 300000 + r / 100 % 100000 : r % 10 == 0 ? r / 10 % 20000 : r / 10 % 600);
}
static void model_resize(model *m, int i) {
    size_t size = model_size(), before = sagemem_size(m->blocks[i]);
    uint64_t used = m->used;
    void *old = m->blocks[i], *fresh = sagemem_realloc(m->heap, old, size, SAGEMEM_TAG_SAME);
    assert_non_null(fresh);
    m->blocks[i] = fresh;
    m->used = used - before + sagemem_size(fresh);
    if (fresh != old && used + sagemem_size(fresh) > m->peak) m->peak = used + sagemem_size(fresh); /* both were there */
    if (m->used > m->peak) m->peak = m->used;
}
static void model_end_scope(model *m) {
    for (int i = 0; i < SLOTS; i++)
        if (m->blocks[i] != NULL && m->depth[i] == m->open) model_went(m, i);
    assert_int_equal(sagemem_scope_end(m->heap), SAGEMEM_OK);
    m->open--;
}
static void model_step(model *m) {
    int i = (int)(next_random() % SLOTS), what = (int)(next_random() % 100);
    if (what < 2 && m->open < 3) {
        assert_int_equal(sagemem_scope_begin(m->heap, "model", seed), SAGEMEM_OK);
        m->open++;
    } else if (what < 4 && m->open > 0) {
        model_end_scope(m);
    } else if (m->blocks[i] == NULL) {
        size_t size = model_size();
        sagemem_tag tag = (sagemem_tag)(next_random() % 9);
        void *block = what < 60   ? sagemem_alloc(m->heap, size, tag)
                      : what < 90 ? sagemem_calloc(m->heap, 1, size, tag)
                                  : sagemem_aligned_alloc(m->heap, 64, size, tag);
        model_came(m, i, block, m->open);
    } else if (what < 30) {
        model_resize(m, i);
    } else {
        uint64_t size = sagemem_size(m->blocks[i]);
        sagemem_free(m->blocks[i]);
        m->blocks[i] = NULL;
        m->used -= size;
    }
}

static void run_model(uint32_t flags, bool traced_from_the_start) {
    model *m = (model *)calloc(1, sizeof *m);
    assert_non_null(m);
    if (traced_from_the_start) assert_int_equal(begin(SAGEMEM_TRACE_BINARY, 131072), SAGEMEM_OK);
    m->heap = heap_of_kind("model", flags);
    for (int i = 0; !traced_from_the_start && i < STEPS / 10; i++) model_step(m);
    if (!traced_from_the_start) assert_int_equal(begin(SAGEMEM_TRACE_BINARY, 0), SAGEMEM_OK);
    m->peak = m->used;
    for (int i = 0; i < STEPS; i++) model_step(m);
    sagemem_heap_stats s;
    sagemem_tag_stats by_tag[9];
    assert_int_equal(sagemem_heap_get_stats(m->heap, &s), SAGEMEM_OK);
    for (int tag = 0; tag < 9; tag++) assert_int_equal(sagemem_tag_get_stats(m->heap, (sagemem_tag)tag, &by_tag[tag]), SAGEMEM_OK);
    traced *t = end();
    assert_true(s.used == m->used && t->used == m->used);
    assert_true(t->blocks == s.blocks);
    if (t->peak != m->peak) fail_msg("the peak is %" PRIu64 ", and of the trace %" PRIu64, m->peak, t->peak);
    for (int tag = 0; tag < 9; tag++) assert_true(t->tag_used[tag] == by_tag[tag].used);
    traced_free(t);
    while (m->open > 0) model_end_scope(m);
    assert_int_equal(sagemem_heap_check(m->heap), 0);
    sagemem_heap_destroy(m->heap);
    free(m);
}

static void test_model(void **state) {
    (void)state;
    begin_random();
    const uint32_t flags[] = {0, SAGEMEM_HEAP_ZERO, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SHARED, SAGEMEM_HEAP_SYSTEM};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        run_model(flags[i], false);
        run_model(flags[i], true);
    }
}

/* Blocks that are carried about, heaps that are emptied and end, the pages of huge blocks. */
static void test_carried(void **state) {
    (void)state;
    assert_int_equal(begin(SAGEMEM_TRACE_BINARY, 0), SAGEMEM_OK);
    sagemem_heap *a = heap_of_kind("a", 0), *b = heap_of_kind("b", 0);
    assert_int_equal(sagemem_scope_begin(a, "s", 1), SAGEMEM_OK);
    char *small = (char *)alloc(a, 100, 1), *huge = (char *)alloc(a, MIB, 2);
    assert_non_null(small = (char *)sagemem_keep(small));
    assert_ptr_equal(sagemem_keep(huge), huge);
    assert_int_equal(sagemem_scope_end(a), SAGEMEM_OK);
    assert_non_null(small = (char *)sagemem_move(b, small));
    assert_non_null(huge = (char *)sagemem_realloc(a, huge, 40 * MIB, SAGEMEM_TAG_SAME));
    assert_non_null(huge = (char *)sagemem_realloc(a, huge, 80 * MIB, SAGEMEM_TAG_SAME));
    assert_non_null(huge = (char *)sagemem_realloc(a, huge, 80 * MIB, 3));
    (void)alloc(b, 5000, 4);
    assert_true(sagemem_size(small) >= 100);
    sagemem_heap_reset(b);
    (void)alloc(b, 200, 5);
    sagemem_heap_destroy(b);
    sagemem_heap_stats s;
    assert_int_equal(sagemem_heap_get_stats(a, &s), SAGEMEM_OK);
    traced *t = end();
    assert_true(t->used == s.used && s.used == sagemem_size(huge));
    assert_true(t->tag_used[3] == s.used && t->tag_peak[5] >= 200 &&
                (UNDER_ASAN || on_valgrind() || t->tag_peak[2] == sagemem_size(huge)));
    assert_true(strstr(t->names, "a\nb\n") != NULL);
    assert_int_equal(t->kinds[T_CLEAR], 2);
    assert_int_equal(t->kinds[T_END], 2);
    traced_free(t);
    sagemem_heap_destroy(a);
}

/* Slots serve again, so that there may be any number of scopes in a run. */
static void test_slots(void **state) {
    (void)state;
    sagemem_heap *heap = heap_of_kind("slots", 0);
    assert_int_equal(begin(SAGEMEM_TRACE_BINARY, 0), SAGEMEM_OK);
    for (uint64_t i = 0; i < 3000; i++) {
        assert_int_equal(sagemem_scope_begin(heap, "s", i), SAGEMEM_OK);
        (void)alloc(heap, 100, 1);
        assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    }
    traced *t = end();
    assert_true(t->largest_slot < 10);
    assert_int_equal(t->kinds[T_SCOPE], 3000);
    assert_int_equal(t->tag_used[1], 0);
    traced_free(t);
    sagemem_heap_destroy(heap);
}

/* A record is 16 bytes; what is added for order and blocks is little. */
static void test_size(void **state) {
    (void)state;
    sagemem_heap *heap = heap_of_kind("size", 0);
    assert_int_equal(begin(SAGEMEM_TRACE_BINARY, 0), SAGEMEM_OK);
    traced *none = end();
    assert_int_equal(begin(SAGEMEM_TRACE_BINARY, 0), SAGEMEM_OK);
    for (int i = 0; i < 50000; i++) sagemem_free(alloc(heap, 100, 1));
    traced *t = end();
    assert_int_equal(t->kinds[T_ALLOC], 50000);
    assert_true((double)(t->bytes - none->bytes) / (double)t->count < 17);
    traced_free(t);
    traced_free(none);
    sagemem_heap_destroy(heap);
}

/* The child's blocks are not in its parent's trace, and it may begin one of its own. */
static void test_fork(void **state) {
    (void)state;
    sagemem_heap *heap = heap_of_kind("fork", 0);
    assert_int_equal(begin(SAGEMEM_TRACE_BINARY, 0), SAGEMEM_OK);
    void *block = alloc(heap, 100, 1);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        alarm(CHILD_SECONDS);
        bool ok = sagemem_trace_end() == SAGEMEM_E_NOT_FOUND;
        for (int i = 0; i < 5000; i++) sagemem_free(alloc(heap, 300, 2));
        sagemem_free(block);
        char other[128];
        snprintf(other, sizeof other, "%s/child", place);
        sagemem_trace_desc desc = {other, SAGEMEM_TRACE_BINARY, 0};
        ok = ok && sagemem_trace_begin(&desc) == SAGEMEM_OK;
        sagemem_free(alloc(heap, 300, 2));
        ok = ok && sagemem_trace_end() == SAGEMEM_OK && unlink(other) == 0;
        _exit(ok ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    sagemem_free(block);
    traced *t = end();
    assert_int_equal(t->kinds[T_ALLOC], 1);
    assert_int_equal(t->kinds[T_FREE], 1);
    traced_free(t);
    sagemem_heap_destroy(heap);
}

/* The program goes on when the disk is full; what is in the file is whole, and the rest is counted. */
static void test_full_disk(void **state) {
    (void)state;
    struct rlimit before, limit;
    sagemem_heap *heap = heap_of_kind("full", 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    assert_int_equal(begin(SAGEMEM_TRACE_BINARY, 0), SAGEMEM_OK);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    limit.rlim_cur = (rlim_t)info.st_size + 100000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (int i = 0; i < 10000; i++) sagemem_free(alloc(heap, 100, 1));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    uint64_t lost = reported("\"events_lost\"");
    assert_true(lost >= 10000 && lost < 20200);
    for (int i = 0; i < 100; i++) sagemem_free(alloc(heap, 100, 1));
    fails_with(sagemem_trace_end(), SAGEMEM_E_IO, "events of the trace were lost");
    traced *t = traced_read(path);
    if (!t->finished || t->lost < 10000 || t->count < 4000 || t->count + t->lost < 20200 || t->count + t->lost > 20210)
        fail_msg("%zu events are in the file, %" PRIu64 " were lost", t->count, t->lost);
    traced_free(t);
    sagemem_heap_destroy(heap);
}

/* No room for the events of a thread: they are lost, nothing else. */
static void test_no_memory(void **state) {
    (void)state;
    sagemem_heap_stats s;
    assert_int_equal(begin(SAGEMEM_TRACE_BINARY, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_heap_get_stats(NULL, &s), SAGEMEM_OK);
    traced_free(end());
    assert_int_equal(sagemem_heap_get_stats(NULL, &s), SAGEMEM_OK);
    uint64_t overhead = s.overhead;
    for (int i = 0; i < 50; i++) { /* what a trace takes it gives back */
        assert_int_equal(begin((sagemem_trace_format)(i % 2), 0), SAGEMEM_OK);
        sagemem_free(alloc(NULL, 100, 1));
        assert_int_equal(sagemem_trace_end(), SAGEMEM_OK);
    }
    assert_int_equal(sagemem_heap_get_stats(NULL, &s), SAGEMEM_OK);
    assert_true(s.overhead <= overhead + 256 * KIB);
}

static sagemem_status life(void *ctx) {
    sagemem_status status = begin(*(sagemem_trace_format *)ctx, 0);
    if (status != SAGEMEM_OK) {
        assert_int_equal(sagemem_trace_end(), SAGEMEM_E_NOT_FOUND);
        return status;
    }
    sagemem_heap *heap = sagemem_heap_create(NULL);
    void *block = heap != NULL ? sagemem_alloc(heap, 100, 1) : NULL;
    bool scope = block != NULL && sagemem_scope_begin(heap, "life", 1) == SAGEMEM_OK;
    void *other = scope ? sagemem_alloc(heap, 100000, 1) : NULL;
    if (scope && sagemem_scope_end(heap) != SAGEMEM_OK) fail();
    status = other != NULL ? SAGEMEM_OK : sagemem_last_error()->status;
    if (heap != NULL) sagemem_heap_destroy(heap);
    sagemem_status ended = sagemem_trace_end();
    assert_int_equal(sagemem_trace_end(), SAGEMEM_E_NOT_FOUND);
    return status != SAGEMEM_OK ? status : ended;
}
static void test_failures(void **state) {
    (void)state;
    for (int format = SAGEMEM_TRACE_BINARY; format <= SAGEMEM_TRACE_CHROME; format++) {
        uint64_t points = 0;
        sagemem_heap_stats before, after;
        assert_int_equal(sagemem_heap_get_stats(NULL, &before), SAGEMEM_OK);
        assert_int_equal(sagemem_check_failures(life, &format, &points), SAGEMEM_OK);
        assert_true(points > 6);
        assert_int_equal(sagemem_heap_get_stats(NULL, &after), SAGEMEM_OK);
        assert_true(after.used == before.used && after.blocks == before.blocks);
    }
}

/* That it is JSON is seen in replay_test.sh. */
static size_t lines_with(const char *text, const char *word) {
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, word)) != NULL; at++) n++;
    return n;
}
/* Slow paths for so long that there has been a look, also where looks are slow: under a tool, on a busy machine. */
static void be_looked_at(void) {
    for (int i = 0; i < 60; i++) {
        usleep(1000);
        sagemem_free(alloc(NULL, 300000, 1));
    }
}
static void test_chrome(void **state) {
    (void)state;
    char *text = (char *)calloc(1, MIB);
    assert_non_null(text);
    sagemem_heap *heap = heap_of_kind("chrome \"quoted\"", 0);
    assert_int_equal(sagemem_tag_define(50, "Chrome/Tag"), SAGEMEM_OK);
    assert_int_equal(sagemem_scope_begin(heap, "before", 1), SAGEMEM_OK);
    assert_int_equal(begin(SAGEMEM_TRACE_CHROME, 0), SAGEMEM_OK);
    (void)alloc(heap, 5000, 50);
    assert_int_equal(sagemem_scope_begin(heap, "inside", 2), SAGEMEM_OK);
    be_looked_at();
    (void)alloc(heap, 300000, 50);
    be_looked_at();
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_int_equal(sagemem_limit_set(heap, MIB), SAGEMEM_OK);
    assert_null(sagemem_alloc(heap, 5 * MIB, 50));
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    sagemem_heap_destroy(heap);
    assert_int_equal(sagemem_trace_end(), SAGEMEM_OK);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_true(fread(text, 1, MIB - 1, file) > 0);
    fclose(file);
    assert_int_equal(lines_with(text, "\"ph\": \"B\""), 2);
    assert_int_equal(lines_with(text, "\"ph\": \"E\""), 2);
    assert_int_equal(lines_with(text, "\"name\": \"out of memory\""), 1);
    assert_int_equal(lines_with(text, "\"name\": \"limit\""), 1);
    assert_int_equal(lines_with(text, "chrome \\\"quoted\\\""), 2);
    assert_true(lines_with(text, "\"name\": \"Chrome/Tag\"") >= 2);
    free(text);
}

/* Pressure, a limit and an allocation that failed are in both forms. */
static void under_pressure(void *ctx, const sagemem_system_memory *now) { *(sagemem_pressure *)ctx = now->pressure; }
static void run_into_limits(sagemem_trace_format format) {
    sagemem_pressure pressure = SAGEMEM_PRESSURE_OK;
    sagemem_heap *heap = heap_of_kind("narrow", 0);
    assert_int_equal(begin(format, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_pressure_watch(0.0001, 0.0002, under_pressure, &pressure, 0), SAGEMEM_OK);
    sagemem_free(alloc(NULL, MIB, 1));
    assert_int_equal(pressure, SAGEMEM_PRESSURE_CRITICAL);
    assert_int_equal(sagemem_limit_set(heap, 2 * MIB), SAGEMEM_OK);
    assert_null(sagemem_alloc(heap, 3 * MIB, 60));
    assert_int_equal(sagemem_pressure_watch(0, 0, NULL, NULL, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_trace_end(), SAGEMEM_OK);
    sagemem_heap_destroy(heap);
}
static void test_limits_in_both_forms(void **state) {
    (void)state;
    assert_int_equal(sagemem_tag_define(60, "Too/Much"), SAGEMEM_OK);
    run_into_limits(SAGEMEM_TRACE_BINARY);
    traced *t = traced_read(path);
    for (size_t i = 0; i < t->count; i++) {
        const traced_event *e = &t->events[i];
        if (e->kind == T_PRESSURE) assert_true(e->size == SAGEMEM_PRESSURE_CRITICAL && e->slot == 0);
        if (e->kind == T_LIMIT) assert_true(e->size == 2 * MIB && e->slot != 0);
        if (e->kind == T_FAIL) assert_true(e->size == 3 * MIB && e->tag == 60 && e->slot != 0);
    }
    assert_true(t->kinds[T_PRESSURE] == 1 && t->kinds[T_LIMIT] == 1 && t->kinds[T_FAIL] == 1);
    traced_free(t);
    run_into_limits(SAGEMEM_TRACE_CHROME);
    char *text = (char *)calloc(1, MIB);
    FILE *file = fopen(path, "rb");
    assert_true(text != NULL && file != NULL && fread(text, 1, MIB - 1, file) > 0);
    fclose(file);
    static const char *const marks[] = {
        "\"name\": \"memory pressure: critical\", \"s\": \"g\"",
        "\"name\": \"limit\", \"s\": \"g\", \"args\": {\"owner\": \"narrow\", \"bytes\": 2097152}",
        "\"name\": \"out of memory\", \"s\": \"g\", \"args\": {\"tag\": \"Too/Much\", \"bytes\": 3145728}",
    };
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (lines_with(text, marks[i]) != 1) fail_msg("%s is not once in %s", marks[i], text);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_arguments, setup, clean),
        cmocka_unit_test_setup_teardown(test_one_at_a_time, setup, clean),
        cmocka_unit_test_setup_teardown(test_what_is_there, setup, clean),
        cmocka_unit_test_setup_teardown(test_after_the_end, setup, clean),
        cmocka_unit_test_setup_teardown(test_names, setup, clean),
        cmocka_unit_test_setup_teardown(test_limits_and_failures, setup, clean),
        cmocka_unit_test_setup_teardown(test_reported, setup, clean),
        cmocka_unit_test_setup_teardown(test_model, setup, clean),
        cmocka_unit_test_setup_teardown(test_carried, setup, clean),
        cmocka_unit_test_setup_teardown(test_slots, setup, clean),
        cmocka_unit_test_setup_teardown(test_size, setup, clean),
        cmocka_unit_test_setup_teardown(test_fork, setup, clean),
        cmocka_unit_test_setup_teardown(test_full_disk, setup, clean),
        cmocka_unit_test_setup_teardown(test_no_memory, setup, clean),
        cmocka_unit_test_setup_teardown(test_failures, setup, clean),
        cmocka_unit_test_setup_teardown(test_chrome, setup, clean),
        cmocka_unit_test_setup_teardown(test_limits_in_both_forms, setup, clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
