/* Heaps, blocks, scopes, tags, flags and sources through the public interface. */
#include "heard.h"

/* Sizes that the compiler must not see through: it would warn about them. */
static volatile size_t most = SIZE_MAX, half = SIZE_MAX / 2;

/* Where a tool watches memory, blocks move at every resize and resident memory says nothing. */
static bool watched(void) { return UNDER_ASAN || getenv("SAGEMEM_TEST_SLOW") != NULL; }

/* -- What the library said ------------------------------------------------------------------------------ */

static void assert_says(const char *message, const char *part) {
    if (strstr(message, part) != NULL) return;
    fail_msg("'%s' does not say '%s'", message, part);
}

/* The last call failed with this status, and its message names the remedy. */
static void assert_failed(sagemem_status status, const char *remedy) {
    const sagemem_error *error = sagemem_last_error();
    if (error->status != status)
        fail_msg("%s instead of %s: %s", sagemem_status_name(error->status), sagemem_status_name(status), error->message);
    assert_true(error->call[0] != '\0');
    assert_says(error->message, remedy);
}

/* The fault handler was called once since the last look. */
static void assert_faulted(sagemem_fault_kind kind, sagemem_status status, const char *part) {
    assert_int_equal(fault.count, 1);
    fault.count = 0;
    assert_int_equal(fault.kind, kind);
    if (fault.error.status != status)
        fail_msg("%s instead of %s: %s", sagemem_status_name(fault.error.status), sagemem_status_name(status), fault.error.message);
    assert_says(fault.error.message, part);
}

/* -- Helpers -------------------------------------------------------------------------------------------- */

static sagemem_heap *heap_named(const char *name, uint32_t flags) {
    sagemem_heap_desc desc = {0};
    desc.name = name;
    desc.flags = flags;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    return heap;
}

static sagemem_heap_stats stats_of(const sagemem_heap *heap) {
    sagemem_heap_stats s;
    assert_int_equal(sagemem_heap_get_stats(heap, &s), SAGEMEM_OK);
    return s;
}

static sagemem_tag_stats tag_stats_of(const sagemem_heap *heap, sagemem_tag tag) {
    sagemem_tag_stats s;
    assert_int_equal(sagemem_tag_get_stats(heap, tag, &s), SAGEMEM_OK);
    return s;
}

static void assert_same_stats(const sagemem_heap_stats *a, const sagemem_heap_stats *b) {
    assert_int_equal(a->used, b->used);
    assert_int_equal(a->used_peak, b->used_peak);
    assert_int_equal(a->held, b->held);
    assert_int_equal(a->held_peak, b->held_peak);
    assert_int_equal(a->blocks, b->blocks);
    assert_int_equal(a->total_blocks, b->total_blocks);
    assert_int_equal(a->overhead, b->overhead);
    assert_int_equal(a->reserved, b->reserved);
    assert_int_equal(a->scopes, b->scopes);
}

static bool all_bytes(const void *at, int byte, size_t size) {
    const unsigned char *p = at;
    return size == 0 || (p[0] == (unsigned char)byte && memcmp(p, p + 1, size - 1) == 0);
}

/* A pattern by which a block's bytes are known again. */
static void paint(void *at, size_t size, unsigned seed) {
    unsigned char *p = at;
    for (size_t i = 0; i < size; i++) p[i] = (unsigned char)(i * 7 + seed);
}
static bool painted(const void *at, size_t size, unsigned seed) {
    const unsigned char *p = at;
    for (size_t i = 0; i < size; i++)
        if (p[i] != (unsigned char)(i * 7 + seed)) return false;
    return true;
}

static bool aligned_to(const void *at, size_t alignment) { return ((uintptr_t)at & (alignment - 1)) == 0; }

/* The wait status of a child that runs fn. What it finds wrong ends it with status 2. */
static int in_child(void (*fn)(void)) {
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGSYS};
        for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) signal(signals[i], SIG_DFL);
        alarm(CHILD_SECONDS);
        fn();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

#define child_check(condition)                                                                                                     \
    do {                                                                                                                           \
        if (!(condition)) {                                                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold; last error: %s\n", __FILE__, __LINE__, #condition,                           \
                    sagemem_last_error()->message);                                                                                \
            _exit(2);                                                                                                              \
        }                                                                                                                          \
    } while (0)

static void assert_child_well(int status) {
    if (WIFSIGNALED(status))
        fail_msg("the child was killed by signal %d%s", WTERMSIG(status), WTERMSIG(status) == SIGALRM ? " (it hung)" : "");
    if (on_valgrind() && WEXITSTATUS(status) == 1) return; /* it does not like what the child left behind */
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void on_thread(void *(*fn)(void *ctx), void *ctx) {
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, fn, ctx), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

/* -- Tags ----------------------------------------------------------------------------------------------- */

static void tag_has_one_name(void **state) {
    (void)state;
    char name[] = "Test/First";
    sagemem_tag first = sagemem_tag_named(name);
    assert_true(first > SAGEMEM_TAG_USER_MAX && first <= SAGEMEM_TAG_MAX);
    name[0] = 'X'; /* the name was copied */
    assert_string_equal(sagemem_tag_name(first), "Test/First");
    assert_int_equal(sagemem_tag_named("Test/First"), first);
    sagemem_tag second = sagemem_tag_named("Test/Second");
    assert_int_not_equal(second, first);
    assert_int_equal(sagemem_tag_named("Test/First"), first);
    assert_int_not_equal(sagemem_tag_named("Test/Firs"), first);
}

static void tag_name_counts_63_bytes(void **state) {
    (void)state;
    char name[100];
    memset(name, 'n', sizeof name - 1);
    name[99] = '\0';
    sagemem_tag tag = sagemem_tag_named(name);
    assert_int_not_equal(tag, SAGEMEM_UNTAGGED);
    assert_int_equal(strlen(sagemem_tag_name(tag)), 63);
    name[63] = 'z'; /* past what counts */
    assert_int_equal(sagemem_tag_named(name), tag);
    name[62] = 'z';
    assert_int_not_equal(sagemem_tag_named(name), tag);
}

static void tag_without_a_name_is_refused(void **state) {
    (void)state;
    assert_int_equal(sagemem_tag_named(NULL), SAGEMEM_UNTAGGED);
    assert_failed(SAGEMEM_E_ARGUMENT, "pass text");
    assert_int_equal(sagemem_tag_named(""), SAGEMEM_UNTAGGED);
    assert_failed(SAGEMEM_E_ARGUMENT, "pass text");
}

static void tag_names_of_numbers(void **state) {
    (void)state;
    assert_string_equal(sagemem_tag_name(SAGEMEM_UNTAGGED), "untagged");
    assert_string_equal(sagemem_tag_name(97), "tag 97");
    assert_string_equal(sagemem_tag_name(97), "tag 97");
    assert_non_null(sagemem_tag_name(SAGEMEM_TAG_MAX + 1));
    assert_non_null(sagemem_tag_name(SAGEMEM_TAG_SAME));
}

static void tag_define_names_an_enum(void **state) {
    (void)state;
    assert_int_equal(sagemem_tag_define(1, "Enum/One"), SAGEMEM_OK);
    assert_string_equal(sagemem_tag_name(1), "Enum/One");
    assert_int_equal(sagemem_tag_define(1, "Enum/One"), SAGEMEM_OK);
    assert_int_equal(sagemem_tag_named("Enum/One"), 1);
    assert_int_equal(sagemem_tag_define(SAGEMEM_TAG_USER_MAX, "Enum/Last"), SAGEMEM_OK);
    assert_string_equal(sagemem_tag_name(SAGEMEM_TAG_USER_MAX), "Enum/Last");
}

static void tag_define_refuses_a_second_name(void **state) {
    (void)state;
    assert_int_equal(sagemem_tag_define(2, "Enum/Two"), SAGEMEM_OK);
    assert_int_equal(sagemem_tag_define(2, "Enum/Other"), SAGEMEM_E_BUSY);
    assert_failed(SAGEMEM_E_BUSY, "give each tag one name");
    assert_string_equal(sagemem_tag_name(2), "Enum/Two");
    assert_int_equal(sagemem_tag_define(3, "Enum/Two"), SAGEMEM_E_BUSY);
    assert_failed(SAGEMEM_E_BUSY, "give each name one tag");
    assert_string_equal(sagemem_tag_name(3), "tag 3");
    sagemem_tag made = sagemem_tag_named("Enum/Made");
    assert_int_equal(sagemem_tag_define(3, "Enum/Made"), SAGEMEM_E_BUSY);
    assert_int_equal(sagemem_tag_named("Enum/Made"), made);
}

static void tag_define_refuses_other_numbers(void **state) {
    (void)state;
    static const sagemem_tag numbers[] = {0, SAGEMEM_TAG_USER_MAX + 1, SAGEMEM_TAG_MAX, SAGEMEM_TAG_MAX + 1, SAGEMEM_TAG_SAME};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        assert_int_equal(sagemem_tag_define(numbers[i], "Enum/Outside"), SAGEMEM_E_ARGUMENT);
        assert_failed(SAGEMEM_E_ARGUMENT, "use sagemem_tag_named");
    }
    assert_int_equal(sagemem_tag_define(4, NULL), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "pass text");
    assert_int_equal(sagemem_tag_define(4, ""), SAGEMEM_E_ARGUMENT);
    assert_string_equal(sagemem_tag_name(4), "tag 4");
}

enum { TAG_THREADS = 8, TAG_NAMES = 100 };
static void *name_tags(void *ctx) {
    sagemem_tag *tags = ctx;
    for (int i = 0; i < TAG_NAMES; i++) {
        char name[32];
        snprintf(name, sizeof name, "Threads/%d", i);
        tags[i] = sagemem_tag_named(name);
    }
    return NULL;
}
static void tag_is_the_same_on_all_threads(void **state) {
    (void)state;
    static sagemem_tag tags[TAG_THREADS][TAG_NAMES];
    pthread_t threads[TAG_THREADS];
    for (int t = 0; t < TAG_THREADS; t++) assert_int_equal(pthread_create(&threads[t], NULL, name_tags, tags[t]), 0);
    for (int t = 0; t < TAG_THREADS; t++) pthread_join(threads[t], NULL);
    for (int i = 0; i < TAG_NAMES; i++) {
        for (int t = 1; t < TAG_THREADS; t++) assert_int_equal(tags[t][i], tags[0][i]);
        for (int j = 0; j < i; j++) assert_int_not_equal(tags[0][i], tags[0][j]);
    }
}

static void fill_tag_table(void) {
    sagemem_tag tag = SAGEMEM_UNTAGGED, before = 0;
    char name[32];
    int made = 0;
    for (;; made++) {
        snprintf(name, sizeof name, "Full/%d", made);
        tag = sagemem_tag_named(name);
        if (tag == SAGEMEM_UNTAGGED) break;
        child_check(tag > before);
        before = tag;
    }
    child_check(before == SAGEMEM_TAG_MAX);
    child_check(sagemem_last_error()->status == SAGEMEM_E_FULL);
    child_check(strstr(sagemem_last_error()->message, "use fewer names") != NULL);
    child_check(logged.count == 1);
    child_check(sagemem_tag_named("Full/one more") == SAGEMEM_UNTAGGED);
    child_check(logged.count == 1); /* said once */
    child_check(sagemem_tag_named("Full/0") != SAGEMEM_UNTAGGED);
    void *block = sagemem_alloc(NULL, 100, SAGEMEM_TAG_MAX);
    child_check(block != NULL && sagemem_tag_of(block) == SAGEMEM_TAG_MAX);
    sagemem_free(block);
}
static void tag_table_fills_up(void **state) {
    (void)state;
    assert_child_well(in_child(fill_tag_table));
}

/* -- Heaps ---------------------------------------------------------------------------------------------- */

static void heap_desc_defaults_are_resolved(void **state) {
    (void)state;
    sagemem_heap *heap = sagemem_heap_create(NULL);
    assert_non_null(heap);
    sagemem_heap_desc desc;
    memset(&desc, 0xAA, sizeof desc);
    assert_int_equal(sagemem_heap_get_desc(heap, &desc), SAGEMEM_OK);
    assert_string_equal(desc.name, "heap");
    assert_null(desc.parent);
    assert_int_equal(desc.limit, 0);
    assert_int_equal(desc.flags, 0);
    assert_int_equal(desc.purge_delay_ms, 1000);
    assert_null(desc.source);                        /* the system */
    sagemem_heap *same = sagemem_heap_create(&desc); /* what was read makes such a heap again */
    assert_non_null(same);
    sagemem_heap_destroy(same);
    sagemem_heap_destroy(heap);
}

static void heap_desc_is_read_back(void **state) {
    (void)state;
    sagemem_heap *parent = heap_named("parent", 0);
    sagemem_source source = sagemem_source_huge(0);
    char name[] = "child";
    sagemem_heap_desc desc = {0}, out;
    desc.name = name;
    desc.parent = parent;
    desc.limit = 123456789;
    desc.source = &source;
    desc.flags = SAGEMEM_HEAP_ZERO | SAGEMEM_HEAP_SHARED;
    desc.purge_delay_ms = (uint32_t)SAGEMEM_PURGE_NEVER;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    name[0] = 'X';
    assert_int_equal(sagemem_heap_get_desc(heap, &out), SAGEMEM_OK);
    assert_string_equal(out.name, "child");
    assert_ptr_equal(out.parent, parent);
    assert_int_equal(out.limit, 123456789);
    assert_int_equal(out.flags, desc.flags);
    assert_int_equal(out.purge_delay_ms, (uint32_t)SAGEMEM_PURGE_NEVER);
    assert_ptr_not_equal(out.source, &source);
    assert_ptr_equal(out.source->map_fn, source.map_fn);
    assert_true(out.source->page_size != 0);
    sagemem_heap_destroy(heap);
    sagemem_heap_destroy(parent);
}

static void heap_get_desc_of_the_default(void **state) {
    (void)state;
    sagemem_heap_desc desc;
    assert_int_equal(sagemem_heap_get_desc(NULL, &desc), SAGEMEM_OK);
    assert_string_equal(desc.name, "heap");
    assert_int_equal(sagemem_heap_get_desc(NULL, NULL), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "pass the address");
}

static void heap_create_refuses_bad_descs(void **state) {
    (void)state;
    sagemem_heap_stats before = stats_of(NULL);
    sagemem_heap_desc desc = {0};
    desc.flags = 64;
    assert_null(sagemem_heap_create(&desc));
    assert_failed(SAGEMEM_E_ARGUMENT, "use SAGEMEM_HEAP_*");
    desc.flags = 0x80000001u;
    assert_null(sagemem_heap_create(&desc));
    assert_failed(SAGEMEM_E_ARGUMENT, "use SAGEMEM_HEAP_*");
    desc.flags = 0;
    sagemem_source source = sagemem_source_system();
    desc.source = &source;
    source.map_fn = NULL;
    assert_null(sagemem_heap_create(&desc));
    assert_failed(SAGEMEM_E_ARGUMENT, "map_fn");
    source = sagemem_source_system();
    source.unmap_fn = NULL;
    assert_null(sagemem_heap_create(&desc));
    assert_failed(SAGEMEM_E_ARGUMENT, "unmap_fn");
    source = sagemem_source_system();
    source.page_size = 12345;
    assert_null(sagemem_heap_create(&desc));
    assert_failed(SAGEMEM_E_ARGUMENT, "power of two");
    desc.source = NULL;
    sagemem_heap *ended = heap_named("ended parent", 0);
    sagemem_heap_destroy(ended);
    desc.parent = ended;
    assert_null(sagemem_heap_create(&desc));
    assert_failed(SAGEMEM_E_STALE, "must outlive");
    assert_int_equal(fault.count, 0);
    sagemem_heap_stats after = stats_of(NULL);
    assert_same_stats(&before, &after);
}

static void heap_destroy_frees_everything(void **state) {
    (void)state;
    sagemem_heap_stats before = stats_of(NULL);
    sagemem_heap *heap = heap_named("destroyed", 0);
    for (size_t size = 1; size < 40 * MIB; size *= 3)
        for (int i = 0; i < 3; i++) assert_non_null(sagemem_alloc(heap, size, 5));
    assert_int_equal(sagemem_scope_begin(heap, "left open", 1), SAGEMEM_OK);
    assert_non_null(sagemem_alloc(heap, 1000, 5));
    assert_true(stats_of(NULL).used > before.used);
    sagemem_heap_destroy(heap);
    sagemem_heap_stats after = stats_of(NULL);
    assert_int_equal(after.used, before.used);
    assert_int_equal(after.blocks, before.blocks);
    assert_int_equal(after.scopes, before.scopes);
    assert_true(after.total_blocks > before.total_blocks);
    assert_int_equal(fault.count, 0);
}

static void heap_destroyed_is_stale(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("gone", 0);
    void *block = sagemem_alloc(heap, 100, 0);
    sagemem_heap_destroy(heap);
    assert_null(sagemem_alloc(heap, 10, 0));
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "gone");
    sagemem_heap_destroy(heap);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "gone");
    assert_false(sagemem_owns(block));
    assert_int_equal(sagemem_check(block), SAGEMEM_E_STALE);
    sagemem_free(block);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "gone");
}

static void heap_null_is_misuse_where_it_matters(void **state) {
    (void)state;
    void *block = sagemem_alloc(NULL, 100, 0);
    sagemem_heap_destroy(NULL);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_ARGUMENT, "sagemem_heap_default()");
    sagemem_heap_reset(NULL);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_ARGUMENT, "sagemem_heap_default()");
    assert_int_equal(sagemem_heap_adopt(NULL), SAGEMEM_E_ARGUMENT);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_ARGUMENT, "name the one to adopt");
    assert_true(sagemem_owns(block));
    sagemem_free(block);
}

static void heap_that_is_none_is_foreign(void **state) {
    (void)state;
    void *block = sagemem_calloc(NULL, 1, 4096, 0);
    assert_null(sagemem_alloc((sagemem_heap *)block, 10, 0));
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "sagemem_heap_create");
    sagemem_heap_destroy((sagemem_heap *)block);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "sagemem_heap_create");
    sagemem_free(block);
}

static void heap_with_children_is_not_destroyed(void **state) {
    (void)state;
    sagemem_heap *parent = heap_named("the parent", 0);
    sagemem_heap_desc desc = {0};
    desc.name = "the child";
    desc.parent = parent;
    sagemem_heap *child = sagemem_heap_create(&desc);
    void *block = sagemem_alloc(parent, 100, 0);
    sagemem_heap_destroy(parent);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_BUSY, "destroy those first");
    assert_says(fault.error.message, "the child");
    assert_true(sagemem_owns(block));
    sagemem_heap_destroy(child);
    sagemem_heap_destroy(parent);
    assert_int_equal(fault.count, 0);
}

static void heap_reset_keeps_the_heap(void **state) {
    (void)state;
    sagemem_heap_desc desc = {0}, out;
    desc.name = "reset";
    desc.limit = 64 * MIB;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    for (int round = 0; round < 3; round++) {
        for (size_t size = 1; size < 20 * MIB; size *= 5) assert_non_null(sagemem_alloc(heap, size, 7));
        assert_int_equal(sagemem_scope_begin(heap, "open", 1), SAGEMEM_OK);
        assert_non_null(sagemem_alloc(heap, 77, 7));
        uint64_t ever = stats_of(heap).total_blocks;
        sagemem_heap_reset(heap);
        sagemem_heap_stats s = stats_of(heap);
        assert_int_equal(s.used, 0);
        assert_int_equal(s.blocks, 0);
        assert_int_equal(s.scopes, 0);
        assert_int_equal(s.overhead, 0);
        assert_int_equal(s.held, 0);
        assert_int_equal(s.total_blocks, ever);
    }
    assert_int_equal(sagemem_heap_get_desc(heap, &out), SAGEMEM_OK);
    assert_string_equal(out.name, "reset");
    assert_int_equal(out.limit, 64 * MIB);
    assert_int_equal(sagemem_heap_check(heap), 0);
    sagemem_heap_destroy(heap);
}

struct handed {
    sagemem_heap *heap;
    sagemem_status adopted;
    void *block;
    int faults;
};
static void *adopt_and_alloc(void *ctx) {
    struct handed *h = ctx;
    h->adopted = sagemem_heap_adopt(h->heap);
    h->block = sagemem_alloc(h->heap, 100, 0);
    return NULL;
}
static void heap_adopt_changes_the_owner(void **state) {
    (void)state;
    struct handed h = {heap_named("travels", 0), SAGEMEM_OK, NULL, 0};
    void *mine = sagemem_alloc(h.heap, 100, 0);
    on_thread(adopt_and_alloc, &h);
    assert_int_equal(h.adopted, SAGEMEM_OK);
    assert_non_null(h.block);
    /* its thread has ended: it is nobody's now */
    assert_null(sagemem_alloc(h.heap, 100, 0));
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_BUSY, "sagemem_heap_adopt");
    assert_int_equal(sagemem_heap_adopt(h.heap), SAGEMEM_OK);
    assert_non_null(sagemem_alloc(h.heap, 100, 0));
    sagemem_free(mine);
    sagemem_free(h.block);
    assert_int_equal(stats_of(h.heap).blocks, 1);
    sagemem_heap_destroy(h.heap);
    assert_int_equal(fault.count, 0);
}

static void *adopt_only(void *ctx) {
    struct handed *h = ctx;
    h->adopted = sagemem_heap_adopt(h->heap);
    return NULL;
}
static void heap_adopt_refuses_a_living_default(void **state) {
    (void)state;
    struct handed h = {sagemem_heap_default(), SAGEMEM_OK, NULL, 0};
    on_thread(adopt_only, &h);
    assert_int_equal(h.adopted, SAGEMEM_E_BUSY);
    void *block = sagemem_alloc(NULL, 10, 0);
    assert_non_null(block);
    sagemem_free(block);
}

static void *use_another_threads_heap(void *ctx) {
    struct handed *h = ctx;
    int before = fault.count;
    h->block = sagemem_alloc(h->heap, 100, 0);
    h->adopted = sagemem_scope_begin(h->heap, "not mine", 1);
    h->faults = fault.count - before;
    return NULL;
}
static void heap_of_another_thread_is_busy(void **state) {
    (void)state;
    struct handed h = {heap_named("mine alone", 0), SAGEMEM_OK, NULL, 0};
    on_thread(use_another_threads_heap, &h);
    assert_null(h.block);
    assert_int_equal(h.adopted, SAGEMEM_E_BUSY);
    assert_int_equal(h.faults, 2);
    fault.count = 1;
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_BUSY, "mine alone");
    sagemem_heap_destroy(h.heap);
}

static void configure_default(void) {
    sagemem_heap_desc desc = {0}, out;
    char name[] = "configured";
    desc.name = name;
    desc.flags = SAGEMEM_HEAP_ZERO;
    desc.purge_delay_ms = 77;
    child_check(sagemem_heap_default_configure(&desc) == SAGEMEM_OK);
    name[0] = 'X';
    sagemem_heap_destroy(sagemem_heap_default());
    child_check(sagemem_heap_get_desc(NULL, &out) == SAGEMEM_OK);
    child_check(strcmp(out.name, "configured") == 0 && out.flags == SAGEMEM_HEAP_ZERO && out.purge_delay_ms == 77);
    desc.flags = 1u << 20;
    child_check(sagemem_heap_default_configure(&desc) == SAGEMEM_E_ARGUMENT);
    sagemem_heap_destroy(sagemem_heap_default());
    child_check(sagemem_heap_get_desc(NULL, &out) == SAGEMEM_OK && out.flags == SAGEMEM_HEAP_ZERO);
    child_check(sagemem_heap_default_configure(NULL) == SAGEMEM_OK);
    sagemem_heap_destroy(sagemem_heap_default());
    child_check(sagemem_heap_get_desc(NULL, &out) == SAGEMEM_OK && out.flags == 0 && strcmp(out.name, "heap") == 0);
}
static void heap_default_is_configured(void **state) {
    (void)state;
    assert_child_well(in_child(configure_default));
}

static void *default_of_thread(void *ctx) {
    *(sagemem_heap **)ctx = sagemem_heap_default();
    return NULL;
}
static void heap_default_is_the_threads_own(void **state) {
    (void)state;
    sagemem_heap *mine = sagemem_heap_default(), *other = NULL;
    assert_non_null(mine);
    assert_ptr_equal(sagemem_heap_default(), mine);
    void *block = sagemem_alloc(NULL, 10, 0);
    assert_ptr_equal(sagemem_heap_of(block), mine);
    sagemem_free(block);
    on_thread(default_of_thread, &other);
    assert_non_null(other);
    assert_ptr_not_equal(other, mine);
}

/* -- Blocks --------------------------------------------------------------------------------------------- */

static void alloc_every_size(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("sizes", 0);
    size_t sizes[400], count = 0;
    for (size_t size = 0; size < 200; size++) sizes[count++] = size;
    for (size_t size = 256; size <= 32 * MIB; size *= 2)
        for (size_t near = size - 1; near <= size + 1; near++) sizes[count++] = near;
    void *blocks[400];
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        void *block = blocks[i] = sagemem_alloc(heap, sizes[i], 9);
        assert_non_null(block);
        assert_true(aligned_to(block, sizes[i] >= 65536 ? 64 : 16));
        assert_true(sagemem_size(block) >= sizes[i] && sagemem_size(block) > 0);
        assert_true(sagemem_owns(block));
        assert_int_equal(sagemem_tag_of(block), 9);
        assert_ptr_equal(sagemem_heap_of(block), heap);
        size_t usable = sagemem_size(block);
        memset(block, (int)i, usable < 100000 ? usable : 100000); /* all of it may be used */
        used += usable;
    }
    assert_int_equal(stats_of(heap).used, used);
    assert_int_equal(stats_of(heap).blocks, count);
    assert_int_equal(tag_stats_of(heap, 9).used, used);
    for (size_t i = 0; i < count; i++) assert_true(all_bytes(blocks[i], (int)i, sizes[i] < 100000 ? sizes[i] : 100000));
    assert_int_equal(sagemem_heap_check(heap), 0);
    for (size_t i = 0; i < count; i++) sagemem_free(blocks[i]);
    assert_int_equal(stats_of(heap).used, 0);
    assert_int_equal(tag_stats_of(heap, 9).total_blocks, count);
    sagemem_heap_destroy(heap);
    assert_int_equal(fault.count, 0);
}

static void alloc_size_zero_is_a_block(void **state) {
    (void)state;
    void *a = sagemem_alloc(NULL, 0, 0), *b = sagemem_alloc(NULL, 0, 0), *c = sagemem_calloc(NULL, 0, 100, 0);
    assert_non_null(a);
    assert_non_null(b);
    assert_non_null(c);
    assert_ptr_not_equal(a, b);
    sagemem_free(a);
    sagemem_free(b);
    sagemem_free(c);
    sagemem_free(NULL);
}

/* Every way to ask for too much, from a heap of any kind. */
static void refuse_bad_requests(sagemem_heap *heap) {
    void *block = sagemem_alloc(heap, 100, 3);
    paint(block, 100, 1);
    sagemem_heap_stats before = stats_of(heap), after;
    for (int i = 0; i < 2; i++) { /* nothing is changed: the second time is as the first */
        assert_null(sagemem_alloc(heap, most, 0));
        assert_failed(SAGEMEM_E_ARGUMENT, "more than an object can have");
        assert_null(sagemem_alloc(heap, most - 4096, 0));
        assert_failed(SAGEMEM_E_ARGUMENT, "more than an object can have");
        assert_null(sagemem_calloc(heap, half, 4, 0));
        assert_failed(SAGEMEM_E_ARGUMENT, "check how the number was computed");
        assert_null(sagemem_calloc(heap, most, most, 0));
        assert_failed(SAGEMEM_E_ARGUMENT, "check how the number was computed");
        assert_null(sagemem_alloc_array(heap, most / 8 + 1, 8, 0));
        assert_failed(SAGEMEM_E_ARGUMENT, "check how the number was computed");
        assert_null(sagemem_aligned_alloc(heap, 4096, most - 100, 0));
        assert_failed(SAGEMEM_E_ARGUMENT, "more than an object can have");
        assert_null(sagemem_realloc(heap, block, most, SAGEMEM_TAG_SAME));
        assert_failed(SAGEMEM_E_ARGUMENT, "more than an object can have");
        assert_null(sagemem_alloc(heap, 10, SAGEMEM_TAG_MAX + 1));
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_tag_named");
        assert_null(sagemem_alloc(heap, 10, SAGEMEM_TAG_SAME));
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_tag_named");
        assert_null(sagemem_calloc(heap, 10, 10, SAGEMEM_TAG_MAX + 1));
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_tag_named");
        assert_null(sagemem_realloc(heap, block, 10, SAGEMEM_TAG_MAX + 1));
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_tag_named");
        assert_null(sagemem_strdup(heap, "text", SAGEMEM_TAG_MAX + 1));
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_tag_named");
        assert_null(sagemem_strdup(heap, NULL, 0));
        assert_failed(SAGEMEM_E_ARGUMENT, "pass a string");
        assert_null(sagemem_memdup(heap, NULL, 1, 0));
        assert_failed(SAGEMEM_E_ARGUMENT, "data is NULL");
        after = stats_of(heap);
        assert_same_stats(&before, &after);
    }
    assert_true(painted(block, 100, 1));
    assert_int_equal(sagemem_tag_of(block), 3);
    assert_int_equal(fault.count, 0);
    sagemem_free(block);
}

static void alloc_refuses_bad_requests(void **state) {
    (void)state;
    static const uint32_t flags[] = {0,
                                     SAGEMEM_HEAP_ZERO,
                                     SAGEMEM_HEAP_CHECKED,
                                     SAGEMEM_HEAP_SITES,
                                     SAGEMEM_HEAP_SYSTEM,
                                     SAGEMEM_HEAP_SHARED,
                                     SAGEMEM_HEAP_ABORT_ON_NOMEM};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        sagemem_heap *heap = heap_named("bad requests", flags[i]);
        refuse_bad_requests(heap);
        assert_int_equal(sagemem_scope_begin(heap, "bad requests", 1), SAGEMEM_OK);
        refuse_bad_requests(heap);
        sagemem_heap_destroy(heap);
    }
}

/* Half of all addresses: no overflow, but the system refuses. */
static void alloc_that_the_system_refuses_changes_nothing(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("refused", 0);
    void *block = sagemem_alloc(heap, 20 * MIB, 0);
    if (sizeof(void *) == 4) (void)!sagemem_alloc(heap, half - 4096, 0); /* there it may be had, once */
    sagemem_heap_stats before = stats_of(heap), process = stats_of(NULL), after;
    assert_null(sagemem_alloc(heap, half - 4096, 0));
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_NOMEM);
    assert_says(sagemem_last_error()->message, "free memory");
    assert_null(sagemem_realloc(heap, block, half - 4096, SAGEMEM_TAG_SAME));
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_NOMEM);
    after = stats_of(heap);
    assert_same_stats(&before, &after);
    after = stats_of(NULL);
    assert_int_equal(after.held_peak, process.held_peak);
    sagemem_heap_destroy(heap);
}

static void calloc_zeroes_memory_used_before(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 16, 40, 100, 1024, 5000, 8192, 9000, 70000, 300000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        void *blocks[50];
        for (int n = 0; n < 50; n++) memset(blocks[n] = sagemem_alloc(NULL, sizes[i], 11), 0xEE, sizes[i]);
        for (int n = 0; n < 50; n++) sagemem_free(blocks[n]);
        for (int n = 0; n < 50; n++) assert_true(all_bytes(blocks[n] = sagemem_calloc(NULL, 1, sizes[i], 11), 0, sizes[i]));
        for (int n = 0; n < 50; n++) sagemem_free(blocks[n]);
    }
}

static void aligned_alloc_every_power(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_ZERO, SAGEMEM_HEAP_SITES, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM};
    size_t largest = sizeof(void *) > 4 && !watched() ? (size_t)1 << 30 : (size_t)64 << 20;
    for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++) {
        sagemem_heap *heap = heap_named("aligned", flags[f]);
        /* in a checked heap everything in front of the block is a red zone, and written */
        size_t to = (flags[f] & SAGEMEM_HEAP_CHECKED) != 0 ? (size_t)MIB : largest;
        for (size_t alignment = 1; alignment <= to; alignment *= 2) {
            void *blocks[4];
            for (int i = 0; i < 4; i++) {
                size_t size = (size_t)i * 50 + 1;
                blocks[i] = sagemem_aligned_alloc(heap, alignment, size, 1);
                if (blocks[i] == NULL && alignment > 256 * MIB) continue; /* addresses may be scarce */
                assert_non_null(blocks[i]);
                assert_true(aligned_to(blocks[i], alignment) && aligned_to(blocks[i], 16));
                if (sagemem_size(blocks[i]) < size)
                    fail_msg("flags %u, alignment %zu: %zu bytes became %zu", flags[f], alignment, size, sagemem_size(blocks[i]));
                memset(blocks[i], i, size);
            }
            for (int i = 0; i < 4; i++)
                if (blocks[i] != NULL) assert_true(all_bytes(blocks[i], i, (size_t)i * 50 + 1));
            assert_int_equal(sagemem_heap_check(heap), 0);
            for (int i = 0; i < 4; i += 2) sagemem_free(blocks[i]);
            for (int i = 1; i < 4; i += 2) sagemem_free(blocks[i]);
        }
        assert_int_equal(stats_of(heap).used, 0);
        sagemem_heap_destroy(heap);
    }
    assert_int_equal(fault.count, 0);
}

static void aligned_alloc_refuses_others(void **state) {
    (void)state;
    sagemem_heap_stats before = stats_of(NULL), after;
    volatile size_t bad[] = {0, 3, 24, 48, 100, (size_t)3 << 20, ((size_t)1 << 30) + 1, (size_t)1 << 31, SIZE_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_null(sagemem_aligned_alloc(NULL, bad[i], 100, 0));
        assert_failed(SAGEMEM_E_ARGUMENT, "64 is a cache line");
    }
    after = stats_of(NULL);
    assert_same_stats(&before, &after);
}

static size_t resident(void) {
    unsigned long pages = 0, total = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL) return 0;
    if (fscanf(file, "%lu %lu", &total, &pages) != 2) pages = 0;
    fclose(file);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void aligned_alloc_costs_addresses_only(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_CHECKED};
    if (watched()) skip();
    for (size_t f = 0; f < 2; f++) {
        sagemem_heap *heap = heap_named("aligned", flags[f]);
        size_t before = resident();
        void *block = sagemem_aligned_alloc(heap, 64 * MIB, 100, 0);
        assert_non_null(block);
        assert_true(resident() < before + 4 * MIB);
        sagemem_free(block);
        sagemem_heap_destroy(heap);
    }
}

/* Contents and counts through a walk of sizes up and down, in heaps of every kind. */
static void walk_realloc(sagemem_heap *heap, size_t largest) {
    static const size_t sizes[] = {1,  20,    24,     100,    60,      500,      7000,    30,       9000,     20000, 9000, 100000,
                                   50, 70000, 300000, 200000, 1000000, 20 * MIB, 3 * MIB, 40 * MIB, 17 * MIB, 10,    0,    64};
    uint64_t used = stats_of(heap).used;
    size_t have = 8;
    unsigned char *block = sagemem_alloc(heap, have, 21);
    void *neighbour = NULL;
    paint(block, have, 3);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i] > largest) continue;
        size_t keep = have < sizes[i] ? have : sizes[i];
        if (i % 3 == 1) neighbour = sagemem_realloc(heap, neighbour, 40 + i, 22);
        unsigned char *moved = sagemem_realloc(heap, block, sizes[i], i % 2 == 0 ? SAGEMEM_TAG_SAME : 21);
        assert_non_null(moved);
        block = moved;
        assert_true(painted(block, keep, 3));
        assert_true(aligned_to(block, sizes[i] >= 65536 ? 64 : 16));
        have = sizes[i];
        assert_true(sagemem_size(block) >= have);
        paint(block, have, 3);
        assert_int_equal(stats_of(heap).used, used + sagemem_size(block) + (neighbour != NULL ? sagemem_size(neighbour) : 0));
        assert_int_equal(tag_stats_of(heap, 21).used, sagemem_size(block));
        assert_int_equal(sagemem_heap_check(heap), 0);
    }
    sagemem_free(block);
    sagemem_free(neighbour);
    assert_int_equal(stats_of(heap).used, used);
}

static void realloc_keeps_contents_and_counts(void **state) {
    (void)state;
    static const uint32_t flags[] = {
        0, SAGEMEM_HEAP_ZERO, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SITES, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        sagemem_heap *heap = heap_named("realloc", flags[i]);
        walk_realloc(heap, i < 3 ? (size_t)40 * MIB : MIB);
        assert_int_equal(sagemem_scope_begin(heap, "realloc", 0), SAGEMEM_OK);
        walk_realloc(heap, MIB);
        assert_int_equal(sagemem_scope_begin(heap, "realloc", 1), SAGEMEM_OK);
        walk_realloc(heap, MIB);
        sagemem_heap_destroy(heap);
    }
    assert_int_equal(fault.count, 0);
}

static void realloc_changes_the_tag(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("retag", 0);
    static const size_t sizes[] = {50, 5000, 50000, 500000, 20 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        void *block = sagemem_alloc(heap, sizes[i], 31);
        paint(block, sizes[i], 5);
        void *same = sagemem_realloc(heap, block, sizes[i], SAGEMEM_TAG_SAME);
        assert_int_equal(sagemem_tag_of(same), 31);
        void *other = sagemem_realloc(heap, same, sizes[i], 32);
        assert_int_equal(sagemem_tag_of(other), 32);
        assert_true(painted(other, sizes[i], 5));
        assert_int_equal(tag_stats_of(heap, 31).used, 0);
        assert_int_equal(tag_stats_of(heap, 32).used, sagemem_size(other));
        void *none = sagemem_realloc(heap, other, sizes[i], SAGEMEM_UNTAGGED);
        assert_int_equal(sagemem_tag_of(none), SAGEMEM_UNTAGGED);
        sagemem_free(none);
    }
    sagemem_heap_destroy(heap);
}

static void realloc_of_null_allocates(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("from null", 0);
    void *block = sagemem_realloc(heap, NULL, 100, 33);
    assert_int_equal(sagemem_tag_of(block), 33);
    assert_ptr_equal(sagemem_heap_of(block), heap);
    void *plain = sagemem_realloc(heap, NULL, 100, SAGEMEM_TAG_SAME);
    assert_int_equal(sagemem_tag_of(plain), SAGEMEM_UNTAGGED);
    void *elsewhere = sagemem_realloc(NULL, block, 5000, SAGEMEM_TAG_SAME); /* stays in its own heap */
    assert_ptr_equal(sagemem_heap_of(elsewhere), heap);
    sagemem_heap_destroy(heap);
}

static void realloc_in_place_where_it_can(void **state) {
    (void)state;
    if (watched()) skip();
    sagemem_heap *heap = heap_named("in place", 0);
    /* the end of a scope's chunk */
    assert_int_equal(sagemem_scope_begin(heap, "bump", 0), SAGEMEM_OK);
    void *last = sagemem_alloc(heap, 100, 0);
    assert_ptr_equal(sagemem_realloc(heap, last, 20000, SAGEMEM_TAG_SAME), last);
    assert_ptr_equal(sagemem_realloc(heap, last, 100, SAGEMEM_TAG_SAME), last);
    /* over a free neighbour */
    void *first = sagemem_alloc(heap, 4000, 0), *second = sagemem_alloc(heap, 4000, 0), *guard = sagemem_alloc(heap, 100, 0);
    sagemem_free(second);
    assert_ptr_equal(sagemem_realloc(heap, first, 7000, SAGEMEM_TAG_SAME), first);
    assert_true(sagemem_owns(guard));
    assert_int_equal(sagemem_heap_check(heap), 0);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    /* a huge block in a region */
    void *huge = sagemem_alloc(heap, MIB, 0);
    void *grown = sagemem_realloc(heap, huge, MIB / 2, SAGEMEM_TAG_SAME);
    assert_ptr_equal(grown, huge);
    assert_ptr_equal(sagemem_realloc(heap, huge, MIB, SAGEMEM_TAG_SAME), huge);
    /* beyond regions: contents move by page tables, far faster than a copy could be; here only that all is there */
    size_t size = 64 * MIB;
    unsigned char *large = sagemem_alloc(heap, size, 0);
    for (size_t i = 0; i < size; i += 4096) large[i] = (unsigned char)(i >> 12);
    large = sagemem_realloc(heap, large, 2 * size, SAGEMEM_TAG_SAME);
    assert_non_null(large);
    for (size_t i = 0; i < size; i += 4096) assert_int_equal(large[i], (unsigned char)(i >> 12));
    assert_int_equal(sagemem_size(large), 2 * size); /* to the page */
    assert_true(stats_of(heap).held >= 2 * size + MIB && stats_of(heap).held < 2 * size + 4 * MIB);
    large = sagemem_realloc(heap, large, size, SAGEMEM_TAG_SAME);
    for (size_t i = 0; i < size; i += 4096) assert_int_equal(large[i], (unsigned char)(i >> 12));
    sagemem_heap_destroy(heap);
}

/* From a region into a mapping of its own, with all that lies there: first over a limit, then with system calls failing. */
static sagemem_status outgrow_region(void *ctx) {
    sagemem_heap *heap = ctx;
    const size_t before = 12 * MIB, after = 20 * MIB;
    unsigned char *old = sagemem_alloc(heap, before, 30), *block = old;
    if (old == NULL) return sagemem_last_error()->status;
    for (size_t i = 0; i < before; i += 4096) old[i] = (unsigned char)(i >> 12);
    assert_int_equal(sagemem_limit_set(heap, before + MIB), SAGEMEM_OK);
    assert_null(sagemem_realloc(heap, old, after, SAGEMEM_TAG_SAME));
    assert_true(stats_of(heap).held == before && tag_stats_of(heap, 30).used == before);
    assert_int_equal(sagemem_limit_set(heap, 0), SAGEMEM_OK);
    for (int attempt = 0; attempt < 2 && block == old; attempt++) {
        unsigned char *grown = sagemem_realloc(heap, block, after, SAGEMEM_TAG_SAME);
        if (grown != NULL) block = grown;
    }
    assert_true(block != old && !sagemem_owns(old) && tag_stats_of(heap, 30).used == after);
    for (size_t i = 0; i < before; i += 4096) assert_int_equal(block[i], (unsigned char)(i >> 12));
    assert_int_equal(block[after - 1], 0);
    sagemem_free(old + 5 * MIB); /* where it was */
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "");
    void *again = sagemem_alloc(heap, before, 30); /* the region has its addresses back */
    assert_true(again == NULL || again == old);
    sagemem_free(again);
    assert_true(stats_of(heap).held == after && tag_stats_of(heap, 30).blocks == 1);
    assert_int_equal(sagemem_heap_check(heap), 0);
    sagemem_free(block);
    return SAGEMEM_OK;
}

static void realloc_outgrows_regions(void **state) {
    (void)state;
    if (watched()) skip();
    sagemem_heap *heap = heap_named("outgrows", 0);
    uint64_t points;
    assert_int_equal(sagemem_check_failures(outgrow_region, heap, &points), SAGEMEM_OK);
    assert_true(points >= 3);
    assert_int_equal(stats_of(heap).held, 0);
    sagemem_heap_destroy(heap);
}

static void realloc_of_bad_pointers(void **state) {
    (void)state;
    static char foreign[64] __attribute__((aligned(16)));
    assert_null(sagemem_realloc(NULL, foreign, 100, 0));
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "does not come from sagemem");
    char *block = sagemem_alloc(NULL, 3000, 0);
    assert_null(sagemem_realloc(NULL, block + 16, 100, 0));
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "inside");
    sagemem_free(block);
}

static void memdup_and_strdup_copy(void **state) {
    (void)state;
    char data[300];
    paint(data, sizeof data, 9);
    char *copy = sagemem_memdup(NULL, data, sizeof data, 41);
    assert_ptr_not_equal(copy, data);
    assert_memory_equal(copy, data, sizeof data);
    assert_int_equal(sagemem_tag_of(copy), 41);
    void *nothing = sagemem_memdup(NULL, NULL, 0, 41);
    assert_non_null(nothing);
    char *text = sagemem_strdup(NULL, "a text", 42), *empty = sagemem_strdup(NULL, "", 42);
    assert_string_equal(text, "a text");
    assert_string_equal(empty, "");
    assert_int_equal(sagemem_tag_of(text), 42);
    sagemem_free(copy);
    sagemem_free(nothing);
    sagemem_free(text);
    sagemem_free(empty);
}

struct halo {
    double mass;
    int id;
};
static void new_is_typed_and_zeroed(void **state) {
    (void)state;
    struct halo *one = SAGEMEM_NEW(NULL, struct halo, 43), *many = SAGEMEM_NEW_ARRAY(NULL, struct halo, 1000, 43);
    assert_true(all_bytes(one, 0, sizeof *one) && all_bytes(many, 0, 1000 * sizeof *many));
    assert_int_equal(sagemem_tag_of(many), 43);
    double *array = sagemem_alloc_array(NULL, 1000, sizeof(double), 43);
    assert_true(sagemem_size(array) >= 1000 * sizeof(double));
    sagemem_free(one);
    sagemem_free(many);
    sagemem_free(array);
}

static void allocator_is_the_heap(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("handed on", 0);
    sagemem_allocator a = sagemem_allocator_for(heap, 44), again = sagemem_allocator_for(heap, 44),
                      other = sagemem_allocator_for(heap, 45);
    char *block = a.alloc_fn(a.ctx, 100);
    assert_ptr_equal(sagemem_heap_of(block), heap);
    assert_int_equal(sagemem_tag_of(block), 44);
    paint(block, 100, 1);
    block = a.realloc_fn(again.ctx, block, 10000);
    assert_true(painted(block, 100, 1));
    assert_int_equal(sagemem_tag_of(block), 44);
    void *second = other.realloc_fn(other.ctx, NULL, 50);
    assert_int_equal(sagemem_tag_of(second), 45);
    a.free_fn(a.ctx, block);
    other.free_fn(other.ctx, second);
    assert_int_equal(stats_of(heap).blocks, 0);
    sagemem_allocator own = sagemem_allocator_for(NULL, 46);
    block = own.alloc_fn(own.ctx, 10);
    assert_ptr_equal(sagemem_heap_of(block), sagemem_heap_default());
    own.free_fn(own.ctx, block);
    sagemem_heap_destroy(heap);

    sagemem_allocator none = sagemem_allocator_for(NULL, SAGEMEM_TAG_MAX + 1);
    assert_true(none.alloc_fn == NULL && none.realloc_fn == NULL && none.free_fn == NULL);
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_tag_named");
    none = sagemem_allocator_for(heap, 1);
    assert_true(none.alloc_fn == NULL);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "handed on");
}

/* -- Blocks, looked at ---------------------------------------------------------------------------------- */

static void owns_is_never_wrong(void **state) {
    (void)state;
    static const size_t sizes[] = {16, 100, 1000, 8000, 9000, 100000, 300000, 20 * MIB};
    static char still[100] __attribute__((aligned(16)));
    char stack[64];
    assert_false(sagemem_owns(NULL));
    assert_false(sagemem_owns(still));
    assert_false(sagemem_owns(stack));
    assert_false(sagemem_owns((void *)(uintptr_t)16));
    assert_false(sagemem_owns((void *)UINTPTR_MAX));
    assert_false(sagemem_owns((void *)(UINTPTR_MAX - 15)));
    assert_false(sagemem_owns((void *)(UINTPTR_MAX / 2)));
    assert_false(sagemem_owns((void *)(uintptr_t)owns_is_never_wrong));
    void *foreign = malloc(100);
    assert_false(sagemem_owns(foreign));
    free(foreign);
    assert_false(sagemem_owns(sagemem_heap_default()));
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (int scoped = 0; scoped < 2; scoped++) {
            if (scoped) sagemem_scope_begin(NULL, "owns", 0);
            char *block = sagemem_alloc(NULL, sizes[i], 51), *fence = sagemem_alloc(NULL, sizes[i], 51);
            memset(block, 0, sizes[i]);
            assert_true(sagemem_owns(block) && sagemem_owns(fence));
            for (size_t at = 1; at < sizes[i]; at += at < 100 ? 1 : sizes[i] / 7) assert_false(sagemem_owns(block + at));
            assert_false(sagemem_owns(block - 16));
            sagemem_free(block);
            assert_false(sagemem_owns(block));
            assert_true(sagemem_owns(fence));
            sagemem_free(fence);
            if (scoped) sagemem_scope_end(NULL);
            assert_false(sagemem_owns(fence));
        }
    }
    assert_int_equal(fault.count, 0);
}

static void bad_pointers_go_to_the_handler(void **state) {
    (void)state;
    static char foreign[64] __attribute__((aligned(16)));
    assert_int_equal(sagemem_size(foreign), 0);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "malloc'ed: free");
    assert_int_equal(sagemem_tag_of(foreign), SAGEMEM_UNTAGGED);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "malloc'ed: free");
    assert_null(sagemem_heap_of(foreign));
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "malloc'ed: free");
    assert_null(sagemem_move(NULL, foreign));
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "malloc'ed: free");
    assert_null(sagemem_keep(foreign));
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "malloc'ed: free");
    sagemem_free(foreign);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "malloc'ed: free");
    assert_int_equal(sagemem_check(foreign), SAGEMEM_E_FOREIGN);
    assert_int_equal(sagemem_check(NULL), SAGEMEM_E_FOREIGN);
    assert_int_equal(fault.count, 0);
}

/* A pointer that the library gave out and that is no block. */
static void look_at_a_heap_as_a_block(void) {
    sagemem_heap *heap = sagemem_heap_default();
    child_check(sagemem_check(heap) == SAGEMEM_E_FOREIGN);
    child_check(!sagemem_owns(heap));
    sagemem_free(heap);
    child_check(fault.count == 1 && fault.error.status == SAGEMEM_E_FOREIGN);
    child_check(sagemem_size(heap) == 0);
}
static void heap_freed_as_a_block_is_foreign(void **state) {
    (void)state;
    assert_child_well(in_child(look_at_a_heap_as_a_block));
}

static void double_free_is_stale(void **state) {
    (void)state;
    static const size_t sizes[] = {16, 100, 1000, 8000, 9000, 100000, 300000, 20 * MIB};
    for (int scoped = 0; scoped < 2; scoped++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            if (scoped) sagemem_scope_begin(NULL, "twice", 0);
            void *block = sagemem_alloc(NULL, sizes[i], 52), *fence = sagemem_alloc(NULL, sizes[i], 52);
            sagemem_heap_stats before;
            sagemem_free(block);
            before = stats_of(NULL);
            sagemem_free(block);
            assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "look for");
            assert_int_equal(sagemem_check(block), SAGEMEM_E_STALE);
            sagemem_heap_stats after = stats_of(NULL);
            assert_same_stats(&before, &after);
            sagemem_free(fence);
            if (scoped) sagemem_scope_end(NULL);
        }
    }
    assert_int_equal(sagemem_heap_check(NULL), 0);
}

/* What a freed block leaves in memory is no block, also where free neighbours were merged or the memory is part of a
 * new block. */
static void freed_block_is_stale_in_merged_memory(void **state) {
    (void)state;
    for (int scoped = 0; scoped < 2; scoped++) {
        sagemem_heap *heap = heap_named("merged", 0);
        if (scoped) sagemem_scope_begin(heap, "merged", 0);
        void *blocks[5];
        for (int i = 0; i < 5; i++) blocks[i] = sagemem_alloc(heap, 20000, 1);
        sagemem_free(blocks[1]);
        sagemem_free(blocks[2]); /* merged with the one in front */
        assert_false(sagemem_owns(blocks[2]));
        assert_int_not_equal(sagemem_check(blocks[2]), SAGEMEM_OK);
        sagemem_free(blocks[2]);
        assert_int_equal(fault.count, 1);
        fault.count = 0;
        assert_int_equal(stats_of(heap).blocks, 3);
        sagemem_free(blocks[4]);
        sagemem_free(blocks[3]); /* merged with those around it */
        void *over = sagemem_alloc(heap, 39000, 2);
        for (int i = 1; i < 5; i++) {
            if (blocks[i] == over) continue;
            assert_false(sagemem_owns(blocks[i]));
            sagemem_free(blocks[i]);
            assert_int_equal(fault.count, 1);
            fault.count = 0;
        }
        assert_true(sagemem_owns(over));
        assert_int_equal(stats_of(heap).blocks, 2);
        assert_int_equal(sagemem_heap_check(heap), 0);
        sagemem_heap_destroy(heap);
    }
}

enum { FEW_TAGS = 150, FEW_BLOCKS = 6000 };
static struct few {
    unsigned char *at;
    size_t size;
} few[FEW_BLOCKS];

static uint32_t few_next(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
    return (uint32_t)(*seed >> 33);
}

static void few_replace(sagemem_heap *heap, unsigned i, size_t size) {
    if (few[i].at != NULL) assert_true(painted(few[i].at, few[i].size, i));
    sagemem_free(few[i].at);
    few[i].size = size;
    few[i].at = (unsigned char *)sagemem_alloc(heap, size, (sagemem_tag)(i % FEW_TAGS));
    assert_non_null(few[i].at);
    assert_true(aligned_to(few[i].at, 16) && sagemem_size(few[i].at) >= size);
    paint(few[i].at, size, i);
}

/* Few blocks of each of many tags and sizes lie in common chunks; freed ones wait for their size, but not for good. */
static void few_blocks_of_many_tags(void **state) {
    (void)state;
    uint64_t seed = 20240229;
    sagemem_heap *heap = heap_named("catalogue", 0);
    memset(few, 0, sizeof few);
    for (unsigned i = 0; i < FEW_BLOCKS; i++) few_replace(heap, i, few_next(&seed) % 1100);
    uint64_t held = stats_of(heap).held;
    for (int turn = 0; turn < (watched() ? 3000 : 60000); turn++)
        few_replace(heap, few_next(&seed) % FEW_BLOCKS, few_next(&seed) % 1100);
    sagemem_heap_stats stats = stats_of(heap);
    assert_int_equal(stats.blocks, FEW_BLOCKS);
    assert_true(stats.held < held + held / 4); /* of the same sizes, there are as many as before */
    assert_int_equal(sagemem_heap_check(heap), 0);
    for (unsigned i = 0; i < FEW_BLOCKS; i++) { /* in no order of addresses; every one is seen a second time */
        struct few *block = &few[i * 7 % FEW_BLOCKS];
        assert_true(painted(block->at, block->size, i * 7 % FEW_BLOCKS));
        sagemem_free(block->at);
        if (i % 10 != 0) continue;
        sagemem_free(block->at);
        assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "");
    }
    stats = stats_of(heap);
    assert_int_equal(stats.blocks, 0);
    assert_int_equal(stats.used, 0);
    assert_true(stats.held <= (512 << 10)); /* one chunk */
    sagemem_trim();
    if (stats_of(heap).held > 64 * 1024) fail_msg("%llu bytes are held", (unsigned long long)stats_of(heap).held);
    assert_int_equal(sagemem_heap_check(heap), 0);
    sagemem_heap_destroy(heap);
}

/* Nor does each of very many tags and sizes hold a page of its own. */
static void blocks_of_many_tags_share_pages(void **state) {
    (void)state;
    if (watched()) skip();
    enum { BLOCKS = 50000, TAGS = 256 };
    static void *block[BLOCKS];
    uint64_t seed = 7;
    sagemem_heap *heap = heap_named("catalogue", 0);
    for (unsigned i = 0; i < BLOCKS; i++) block[i] = sagemem_alloc(heap, 16 + few_next(&seed) % 1009, (sagemem_tag)(i % TAGS));
    for (int turn = 0; turn < 2 * BLOCKS; turn++) {
        unsigned i = few_next(&seed) % BLOCKS;
        sagemem_free(block[i]);
        block[i] = sagemem_alloc(heap, 16 + few_next(&seed) % 1009, (sagemem_tag)(i % TAGS));
        assert_non_null(block[i]);
    }
    sagemem_heap_stats stats = stats_of(heap);
    if (stats.held > stats.used + stats.used / 6)
        fail_msg("%llu bytes are held for %llu", (unsigned long long)stats.held, (unsigned long long)stats.used);
    sagemem_heap_destroy(heap);
}

/* Small blocks that wait keep no chunk when what lay around them has gone. */
static void few_blocks_pin_nothing(void **state) {
    (void)state;
    enum { LARGE = 900, MIDDLE = 400 };
    static void *large[LARGE], *small[LARGE], *middle[MIDDLE];
    sagemem_heap *heap = heap_named("catalogue", 0);
    for (unsigned i = 0; i < MIDDLE; i++)
        assert_non_null(middle[i] = sagemem_alloc(heap, 1200 + i % 60 * 100, (sagemem_tag)(1 + i % 37)));
    for (unsigned i = 0; i < LARGE; i++) {
        assert_non_null(large[i] = sagemem_alloc(heap, 100000, 1));
        assert_non_null(small[i] = sagemem_alloc(heap, 24, 2));
    }
    for (unsigned i = 0; i < LARGE; i++) sagemem_free(small[i]);
    for (unsigned i = 0; i < LARGE; i++) sagemem_free(large[i]);
    assert_true(stats_of(heap).held <= 8 * MIB); /* 1.5 are in use */
    for (unsigned i = 0; i < MIDDLE; i++) sagemem_free(middle[i]);
    assert_true(stats_of(heap).held <= 2 * MIB);
    sagemem_heap_destroy(heap);
}

/* Every free neighbour is merged, whatever waited beside it: in the end nothing is held. */
static void aligned_blocks_leave_nothing(void **state) {
    (void)state;
    for (size_t size = 200; size < 6000; size += 16) {
        sagemem_heap *heap = heap_named("catalogue", 0);
        void *first = sagemem_alloc(heap, size, 1), *aligned = sagemem_aligned_alloc(heap, 512, 24, 1);
        void *last = sagemem_alloc(heap, 40, 3);
        assert_true(first != NULL && aligned != NULL && last != NULL);
        sagemem_free(aligned);
        sagemem_free(first);
        sagemem_free(last);
        sagemem_trim();
        if (stats_of(heap).held != 0) fail_msg("beside a block of %zu", size);
        sagemem_heap_destroy(heap);
    }
}

/* A limit is not met while the heap keeps an empty chunk. */
static void limit_takes_the_empty_chunk(void **state) {
    (void)state;
    sagemem_heap_desc desc = {0};
    desc.limit = 32 * MIB;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    void *blocks[160];
    for (int i = 0; i < 160; i++) assert_non_null(blocks[i] = sagemem_alloc(heap, 100000, 1));
    for (int i = 160; i-- > 0;) sagemem_free(blocks[i]);
    assert_non_null(sagemem_alloc(heap, 32 * MIB - 4096, 1));
    sagemem_heap_destroy(heap);
}

/* What is written to a block that waits is seen by the check, and before the block is handed out. */
static void few_blocks_written_to_after_free(void **state) {
    (void)state;
    if (watched()) skip(); /* the tools see it themselves */
    for (int word = 0; word < 2; word++) {
        sagemem_heap *heap = heap_named("catalogue", 0);
        void *block[40];
        for (unsigned i = 0; i < 40; i++) assert_non_null(block[i] = sagemem_alloc(heap, 200 + 16 * (i % 8), (sagemem_tag)i));
        sagemem_free(block[8]);
        ((volatile uint64_t *)block[8])[word] ^= 1;
        assert_int_equal(sagemem_heap_check(heap), 1);
        assert_says(logged.last, "was written to after it was freed");
        void *other = sagemem_alloc(heap, 200, 3);
        assert_faulted(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, "written to after it was freed");
        if (other == NULL) other = sagemem_alloc(heap, 200, 3);
        assert_true(other != NULL && other != block[8]);
        sagemem_heap_destroy(heap);
        memset(&fault, 0, sizeof fault);
    }
}

static void block_from_before_a_reset_is_stale(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("reset", 0);
    void *old[10];
    for (int i = 0; i < 10; i++) old[i] = sagemem_alloc(heap, 20000, 1);
    sagemem_heap_reset(heap);
    void *fresh = sagemem_alloc(heap, 150000, 1); /* over the same memory, most likely */
    for (int i = 0; i < 10; i++) {
        if (old[i] == fresh) continue;
        assert_false(sagemem_owns(old[i]));
        sagemem_free(old[i]);
        assert_int_equal(fault.count, 1);
        fault.count = 0;
    }
    assert_int_equal(stats_of(heap).blocks, 1);
    sagemem_heap_destroy(heap);
}

static void interior_pointer_is_foreign(void **state) {
    (void)state;
    static const size_t sizes[] = {64, 1000, 8000, 9000, 100000, 300000, 20 * MIB};
    sagemem_heap *heap = heap_named("before", 0); /* huge blocks then lie where small ones did */
    for (int i = 0; i < 100000; i++) assert_non_null(sagemem_alloc(heap, 100, 53));
    sagemem_heap_destroy(heap);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *block = sagemem_calloc(NULL, 1, sizes[i], 53);
        for (size_t at = 1; at < sizes[i]; at = at * 3 + 13) {
            assert_int_equal(sagemem_check(block + at), SAGEMEM_E_FOREIGN);
            assert_says(sagemem_last_error()->message, "inside");
        }
        sagemem_free(block + 16);
        assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "inside");
        assert_true(sagemem_owns(block));
        sagemem_free(block);
    }
}

/* The longest names there can be: a message is cut, never written past its end. */
static void look_inside_a_block_with_long_names(void) {
    char name[64];
    memset(name, 'h', 63);
    name[63] = '\0';
    sagemem_heap_desc desc = {0};
    desc.name = name;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    memset(name, 't', 63);
    sagemem_tag tag = sagemem_tag_named(name);
    char *block = NULL;
    for (int i = 0; i < 100; i++) block = sagemem_alloc(heap, 4096, tag);
    for (int i = 1; i < 4096; i += 100) {
        child_check(sagemem_check(block + i) == SAGEMEM_E_FOREIGN);
        const char *message = sagemem_last_error()->message;
        child_check(memchr(message, '\0', sizeof sagemem_last_error()->message) != NULL);
        for (const char *c = message; *c != '\0'; c++) child_check(*c >= ' ' && *c <= '~');
    }
    sagemem_heap_destroy(heap);
}
static void message_with_long_names_is_cut(void **state) {
    (void)state;
    assert_child_well(in_child(look_inside_a_block_with_long_names));
}

static void move_changes_the_heap(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 100, 5000, 50000, 500000, 20 * MIB};
    sagemem_heap *from = heap_named("from", 0), *to = heap_named("to", 0), *limited;
    sagemem_heap_desc desc = {0};
    desc.limit = 64 * KIB;
    limited = sagemem_heap_create(&desc);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        void *block = sagemem_alloc(from, sizes[i], 61);
        paint(block, sizes[i], 2);
        if (sizes[i] > 64 * KIB) {
            assert_null(sagemem_move(limited, block));
            assert_failed(SAGEMEM_E_LIMIT, "raise it with sagemem_limit_set");
            assert_true(sagemem_owns(block) && sagemem_heap_of(block) == from);
        }
        void *moved = sagemem_move(to, block);
        assert_non_null(moved);
        assert_ptr_equal(sagemem_heap_of(moved), to);
        assert_int_equal(sagemem_tag_of(moved), 61);
        assert_true(painted(moved, sizes[i], 2));
        assert_int_equal(stats_of(from).used, 0);
        assert_int_equal(stats_of(to).used, sagemem_size(moved));
        moved = sagemem_move(NULL, moved);
        assert_ptr_equal(sagemem_heap_of(moved), sagemem_heap_default());
        sagemem_free(moved);
    }
    assert_int_equal(stats_of(limited).used, 0);
    sagemem_heap_destroy(from);
    sagemem_heap_destroy(to);
    sagemem_heap_destroy(limited);
    assert_int_equal(fault.count, 0);
}

struct visited {
    size_t blocks, bytes, tags[8], scoped;
    const void *seen[64];
};
static void on_visit(void *ctx, const sagemem_block_info *info) {
    struct visited *v = ctx;
    if (v->blocks < 64) v->seen[v->blocks] = info->block;
    v->blocks++;
    v->bytes += info->size;
    if (info->tag < 8) v->tags[info->tag]++;
    if (info->scope_kind != NULL && strcmp(info->scope_kind, "visited") == 0 && info->scope_id == 77) v->scoped++;
}
static void heap_visit_sees_every_live_block(void **state) {
    (void)state;
    static const uint32_t flags[] = {
        0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SITES, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED, SAGEMEM_HEAP_ZERO};
    for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++) {
        sagemem_heap *heap = heap_named("visited", flags[f]);
        void *blocks[60];
        for (unsigned i = 0; i < 60; i++) {
            if (i == 40) assert_int_equal(sagemem_scope_begin(heap, "visited", 77), SAGEMEM_OK);
            blocks[i] = sagemem_alloc(heap, (size_t)1 << (i % 20), (sagemem_tag)(i % 7 + 1));
        }
        for (int i = 0; i < 60; i += 5) sagemem_free(blocks[i]);
        struct visited v;
        memset(&v, 0, sizeof v);
        sagemem_heap_visit(heap, on_visit, &v);
        assert_int_equal(v.blocks, 48);
        assert_int_equal(v.scoped, 16);
        assert_int_equal(v.bytes, stats_of(heap).used);
        size_t found = 0;
        for (int i = 0; i < 60; i++)
            for (size_t s = 0; s < v.blocks; s++) found += v.seen[s] == blocks[i] && i % 5 != 0;
        assert_int_equal(found, 48);
        sagemem_heap_visit(heap, NULL, NULL);
        assert_failed(SAGEMEM_E_ARGUMENT, "pass the function");
        sagemem_heap_destroy(heap);
    }
}

/* -- Checked heaps -------------------------------------------------------------------------------------- */

__attribute__((noinline, no_sanitize("address"))) static void poke(char *at, int add) {
    volatile char *p = at;
    *p = (char)(*p + add);
}

static void checked_heap_sees_over_and_underflow(void **state) {
    (void)state;
    if (getenv("SAGEMEM_TEST_SLOW") != NULL) skip(); /* the tools see it first */
    static const size_t sizes[] = {1, 16, 24, 100, 5000, 70000, 300000, 20 * MIB};
    sagemem_heap *heap = heap_named("checked", SAGEMEM_HEAP_CHECKED);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *block = sagemem_alloc(heap, sizes[i], 71);
        assert_int_equal(sagemem_size(block), sizes[i]); /* exact in checked heaps */
        assert_int_equal(sagemem_check(block), SAGEMEM_OK);
        for (size_t past = 0; past < 16; past += 5) {
            poke(block + sizes[i] + past, 1);
            assert_int_equal(sagemem_check(block), SAGEMEM_E_CORRUPT);
            assert_says(sagemem_last_error()->message, "overflow");
            logged.count = 0;
            assert_int_equal(sagemem_heap_check(heap), 1);
            assert_int_equal(logged.count, 1);
            poke(block + sizes[i] + past, -1);
            assert_int_equal(sagemem_check(block), SAGEMEM_OK);
        }
        poke(block - 1, 1);
        assert_int_equal(sagemem_check(block), SAGEMEM_E_CORRUPT);
        assert_true(sagemem_owns(block));
        uint64_t used = stats_of(heap).used;
        sagemem_free(block);
        assert_faulted(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, "underflow");
        assert_int_equal(stats_of(heap).used, used); /* leaked, not given to anybody */
        poke(block - 1, -1);
        sagemem_free(block);
        assert_int_equal(fault.count, 0);
    }
    sagemem_heap_destroy(heap);
}

static void checked_heap_sees_late_writes(void **state) {
    (void)state;
    if (getenv("SAGEMEM_TEST_SLOW") != NULL) skip();
    sagemem_heap *heap = heap_named("quarantine", SAGEMEM_HEAP_CHECKED);
    char *block = sagemem_alloc(heap, 200, 72);
    assert_true(!all_bytes(block, 0, 200)); /* new memory is filled */
    sagemem_free(block);
    assert_int_equal(sagemem_heap_check(heap), 0);
    poke(block + 150, 1);
    assert_int_equal(sagemem_heap_check(heap), 1);
    assert_says(logged.last, "150");
    sagemem_free(block);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "freed already");
    for (int i = 0; i < 3000; i++) sagemem_free(sagemem_alloc(heap, 1000, 72)); /* it leaves the quarantine */
    assert_faulted(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, "written to at byte 150");
    sagemem_heap_destroy(heap);
}

/* -- Zeroing heaps -------------------------------------------------------------------------------------- */

static void soil(sagemem_heap *heap, size_t size, sagemem_tag tag) {
    void *blocks[100];
    for (int i = 0; i < 100; i++) {
        blocks[i] = sagemem_alloc(heap, size, tag);
        memset(blocks[i], 0xEE, sagemem_size(blocks[i]));
    }
    for (int i = 0; i < 100; i++) sagemem_free(blocks[i]);
}

static void zero_heap_gives_zeroes(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 40, 1000, 8192, 20000, 270000, 17 * MIB};
    static const uint32_t more[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED, SAGEMEM_HEAP_SITES};
    for (size_t f = 0; f < sizeof more / sizeof more[0]; f++) {
        sagemem_heap *heap = heap_named("zero", SAGEMEM_HEAP_ZERO | more[f]);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            if (sizes[i] <= 300000) soil(heap, sizes[i], 81);
            void *block = sagemem_alloc(heap, sizes[i], 81), *aligned = sagemem_aligned_alloc(heap, 256, sizes[i], 81);
            assert_true(all_bytes(block, 0, sagemem_size(block)));
            assert_true(all_bytes(aligned, 0, sagemem_size(aligned)));
            sagemem_free(block);
            sagemem_free(aligned);
        }
        sagemem_heap_destroy(heap);
    }
}

static void zero_heap_gives_zeroes_in_scopes(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("zero in scopes", SAGEMEM_HEAP_ZERO);
    for (int round = 0; round < 3; round++) {
        assert_int_equal(sagemem_scope_begin(heap, "zero", 0), SAGEMEM_OK);
        for (size_t size = 1; size < 30000; size = size * 2 + 1) {
            void *block = sagemem_alloc(heap, size, 82);
            assert_true(all_bytes(block, 0, sagemem_size(block)));
            memset(block, 0xEE, sagemem_size(block));
        }
        assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    }
    sagemem_heap_destroy(heap);
}

/* Shrinks and grows again: what the block has got since is zero, whatever lay there before. */
static void zero_heap_grows_with_zeroes(void **state) {
    (void)state;
    static const size_t walk[] = {100,      40,       100,      30,       90,       5000,   3000, 4800,    2600,
                                  70000,    40000,    60000,    200000,   150000,   190000, MIB,  MIB / 2, MIB,
                                  20 * MIB, 18 * MIB, 30 * MIB, 17 * MIB, 20 * MIB, 100,    8192, 8000,    8190};
    static const uint32_t more[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED, SAGEMEM_HEAP_SITES};
    for (size_t f = 0; f < sizeof more / sizeof more[0]; f++) {
        for (int scoped = 0; scoped < 3; scoped++) {
            sagemem_heap *heap = heap_named("zero tails", SAGEMEM_HEAP_ZERO | more[f]);
            for (int s = 0; s < scoped; s++) assert_int_equal(sagemem_scope_begin(heap, "tails", 0), SAGEMEM_OK);
            for (size_t size = 16; size < 200000; size *= 3) soil(heap, size, 83);
            size_t have = walk[0];
            unsigned char *block = sagemem_alloc(heap, have, 83);
            memset(block, 0xEE, have);
            for (size_t i = 1; i < sizeof walk / sizeof walk[0]; i++) {
                if (walk[i] > MIB && (scoped > 0 || f > 1)) continue; /* these take their time */
                block = sagemem_realloc(heap, block, walk[i], SAGEMEM_TAG_SAME);
                assert_non_null(block);
                size_t kept = have < walk[i] ? have : walk[i];
                if (!all_bytes(block, 0xEE, kept)) fail_msg("contents lost from %zu to %zu", have, walk[i]);
                if (!all_bytes(block + kept, 0, walk[i] - kept))
                    fail_msg("tail not zero from %zu to %zu, scopes %d", have, walk[i], scoped);
                memset(block, 0xEE, walk[i]);
                have = walk[i];
            }
            sagemem_heap_destroy(heap);
        }
    }
}

static void zero_heap_keeps_with_zeroes(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("zero kept", SAGEMEM_HEAP_ZERO);
    for (int i = 0; i < 10; i++) soil(heap, 48, 84);
    void *pin[600]; /* the class has slab pages now, whose free blocks are soiled */
    for (int i = 0; i < 600; i++) memset(pin[i] = sagemem_alloc(heap, 48, 84), 0xEE, 48);
    for (int i = 0; i < 600; i += 2) sagemem_free(pin[i]);
    sagemem_scope_begin(heap, "kept", 0);
    for (int i = 0; i < 20; i++) {
        unsigned char *block = sagemem_alloc(heap, 33, 84), *kept;
        memset(block, 0x11, 33);
        kept = sagemem_keep(block);
        assert_non_null(kept);
        assert_true(all_bytes(kept, 0x11, 33));
        assert_true(all_bytes(kept + 33, 0, sagemem_size(kept) - 33));
    }
    sagemem_scope_end(heap);
    sagemem_heap_destroy(heap);
}

static void zero_heap_stays_zero_when_a_shrink_cannot_move(void **state) {
    (void)state;
    sagemem_heap_desc desc = {0};
    desc.flags = SAGEMEM_HEAP_ZERO;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    unsigned char *block = sagemem_alloc(heap, 8000, 85);
    memset(block, 0xEE, 8000);
    while (sagemem_alloc(heap, 3000, 86) != NULL)
        if (stats_of(heap).held > 256 * KIB) sagemem_limit_set(heap, stats_of(heap).held);
    unsigned char *small = sagemem_realloc(heap, block, 3000, SAGEMEM_TAG_SAME);
    assert_non_null(small); /* too large is better than not at all */
    sagemem_limit_set(heap, 0);
    unsigned char *grown = sagemem_realloc(heap, small, 8000, SAGEMEM_TAG_SAME);
    assert_true(all_bytes(grown, 0xEE, 3000));
    assert_true(all_bytes(grown + 3000, 0, 5000));
    sagemem_heap_destroy(heap);
}

/* -- Scopes --------------------------------------------------------------------------------------------- */

static void scope_end_frees_what_is_in_it(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("scopes", 0);
    char *outside = sagemem_alloc(heap, 1000, 1), *freed = sagemem_alloc(heap, 1000, 1);
    paint(outside, 1000, 1);
    assert_int_equal(sagemem_scope_begin(heap, "outer", 1), SAGEMEM_OK);
    char *outer = sagemem_alloc(heap, 2000, 1);
    paint(outer, 2000, 2);
    assert_int_equal(sagemem_scope_begin(heap, "inner", 2), SAGEMEM_OK);
    char *inner = sagemem_alloc(heap, 3000, 1);
    assert_int_equal(stats_of(heap).scopes, 2);
    assert_int_equal(stats_of(heap).blocks, 4);
    sagemem_free(freed); /* from before, freed and resized inside */
    outside = sagemem_realloc(heap, outside, 50000, SAGEMEM_TAG_SAME);
    outer = sagemem_realloc(heap, outer, 60000, SAGEMEM_TAG_SAME);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_false(sagemem_owns(inner));
    assert_true(painted(outer, 2000, 2));
    assert_int_equal(stats_of(heap).blocks, 2);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_false(sagemem_owns(outer));
    assert_true(painted(outside, 1000, 1));
    assert_int_equal(stats_of(heap).blocks, 1);
    assert_int_equal(stats_of(heap).used, sagemem_size(outside));
    assert_int_equal(stats_of(heap).scopes, 0);
    sagemem_free(inner);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "inner 2");
    sagemem_heap_destroy(heap);
}

/* The end of a scope takes from every count what was in it, once. */
static void scope_end_counts_blocks_of_every_kind(void **state) {
    (void)state;
    static const uint32_t flags[] = {
        0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SITES, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED, SAGEMEM_HEAP_ZERO};
    for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++) {
        for (int depth = 1; depth <= 3; depth++) {
            sagemem_heap *heap = heap_named("counted", flags[f]);
            for (int i = 0; i < 10; i++) assert_non_null(sagemem_alloc(heap, 5000, 4));
            sagemem_heap_stats before = stats_of(heap);
            for (int i = 0; i < depth; i++) {
                assert_int_equal(sagemem_scope_begin(heap, "counted", 0), SAGEMEM_OK);
                for (size_t size = 1; size < MIB; size *= 4) assert_non_null(sagemem_alloc(heap, size, 4));
            }
            for (int i = 0; i < depth; i++) assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
            sagemem_heap_stats after = stats_of(heap);
            assert_int_equal(after.used, before.used);
            assert_int_equal(after.blocks, before.blocks);
            assert_int_equal(after.total_blocks, before.total_blocks + 10 * (uint64_t)depth);
            assert_int_equal(tag_stats_of(heap, 4).blocks, 10);
            sagemem_heap_destroy(heap);
        }
    }
}

static void scope_calls_refuse_bad_arguments(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("no scope", 0);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_E_ARGUMENT);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_ARGUMENT, "call sagemem_scope_begin first");
    assert_int_equal(sagemem_scope_begin(heap, NULL, 0), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "pass text");
    assert_int_equal(sagemem_scope_begin(heap, "", 0), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "pass text");
    assert_int_equal(sagemem_scope_defer(heap, free, NULL), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "call sagemem_scope_begin first");
    assert_int_equal(sagemem_scope_limit(heap, 1), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "call sagemem_scope_begin first");
    sagemem_scope_stats last;
    sagemem_tag_stats tag;
    assert_int_equal(sagemem_scope_get_last(heap, &last), SAGEMEM_E_NOT_FOUND);
    assert_int_equal(sagemem_scope_tag_get_last(heap, 1, &tag), SAGEMEM_E_NOT_FOUND);
    assert_int_equal(sagemem_scope_begin(heap, "one", 9), SAGEMEM_OK);
    assert_int_equal(sagemem_scope_defer(heap, NULL, NULL), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "pass the function");
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_int_equal(sagemem_scope_get_last(heap, NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_scope_tag_get_last(heap, 1, NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_scope_tag_get_last(heap, SAGEMEM_TAG_MAX + 1, &tag), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_E_ARGUMENT);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_ARGUMENT, "one 9");
    sagemem_heap_destroy(heap);
}

static void keep_goes_one_level_out(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 100, 5000, 100000, 300000, 20 * MIB};
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED};
    for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++) {
        sagemem_heap *heap = heap_named("keep", flags[f]);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            sagemem_scope_begin(heap, "outer", 1);
            sagemem_scope_begin(heap, "inner", 2);
            void *block = sagemem_alloc(heap, sizes[i], 2), *twin = sagemem_alloc(heap, sizes[i], 2);
            size_t size = sagemem_size(block);
            paint(block, sizes[i], 4);
            void *kept = sagemem_keep(block);
            assert_non_null(kept);
            /* a block with pages of its own is not copied */
            if (sizes[i] > 256 * KIB && flags[f] != SAGEMEM_HEAP_SYSTEM) assert_ptr_equal(kept, block);
            assert_int_equal(stats_of(heap).blocks, 2);
            assert_int_equal(stats_of(heap).used, sagemem_size(kept) + size);
            sagemem_scope_end(heap);
            assert_false(sagemem_owns(twin));
            assert_true(sagemem_owns(kept));
            assert_true(painted(kept, sizes[i], 4));
            kept = sagemem_keep(kept);
            assert_non_null(kept);
            sagemem_scope_end(heap);
            assert_true(painted(kept, sizes[i], 4));
            assert_int_equal(sagemem_tag_of(kept), 2);
            assert_int_equal(stats_of(heap).used, sagemem_size(kept));
            assert_ptr_equal(sagemem_keep(kept), kept); /* in no scope: unchanged */
            sagemem_free(kept);
            assert_int_equal(stats_of(heap).used, 0);
        }
        sagemem_heap_destroy(heap);
    }
    assert_int_equal(fault.count, 0);
}

static void keep_that_fails_changes_nothing(void **state) {
    (void)state;
    sagemem_heap_desc desc = {0};
    desc.limit = 192 * KIB;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    sagemem_scope_begin(heap, "full", 0);
    void *block = NULL, *more;
    while ((more = sagemem_alloc(heap, 30000, 3)) != NULL) paint(block = more, 30000, 6);
    assert_non_null(block);
    sagemem_heap_stats before = stats_of(heap), after;
    assert_null(sagemem_keep(block));
    assert_failed(SAGEMEM_E_LIMIT, "sagemem_limit_set");
    after = stats_of(heap);
    assert_same_stats(&before, &after);
    assert_true(sagemem_owns(block) && painted(block, 30000, 6));
    sagemem_scope_end(heap);
    assert_false(sagemem_owns(block));
    sagemem_heap_destroy(heap);
}

static int order[16], ordered;
static void note(void *ctx) { order[ordered++] = *(int *)ctx; }
static int numbers[8] = {0, 1, 2, 3, 4, 5, 6, 7};

static void defer_runs_last_first(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("defer", 0);
    for (int way = 0; way < 3; way++) { /* by end, reset, destroy */
        ordered = 0;
        sagemem_scope_begin(heap, "outer", 0);
        for (int i = 0; i < 3; i++) assert_int_equal(sagemem_scope_defer(heap, note, &numbers[i]), SAGEMEM_OK);
        sagemem_scope_begin(heap, "inner", 0);
        for (int i = 3; i < 6; i++) assert_int_equal(sagemem_scope_defer(heap, note, &numbers[i]), SAGEMEM_OK);
        assert_int_equal(ordered, 0);
        if (way == 0) {
            sagemem_scope_end(heap);
            assert_int_equal(ordered, 3);
            sagemem_scope_end(heap);
        } else if (way == 1) {
            sagemem_heap_reset(heap);
        } else {
            sagemem_heap_destroy(heap);
        }
        assert_int_equal(ordered, 6);
        for (int i = 0; i < 6; i++) assert_int_equal(order[i], 5 - i);
    }
}

struct cleaner {
    sagemem_heap *heap;
    char *block;
    bool intact;
};
static void clean_with_the_block(void *ctx) {
    struct cleaner *c = ctx;
    c->intact = painted(c->block, 100, 8);
    sagemem_free(c->block);
    void *fresh = sagemem_alloc(c->heap, 50, 0);
    c->intact &= fresh != NULL && sagemem_scope_defer(c->heap, note, &numbers[7]) == SAGEMEM_OK;
}
static void defer_may_use_the_scope(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("cleaned", 0);
    struct cleaner c = {heap, NULL, false};
    ordered = 0;
    sagemem_scope_begin(heap, "cleaned", 0);
    c.block = sagemem_alloc(heap, 100, 0);
    paint(c.block, 100, 8);
    sagemem_scope_defer(heap, clean_with_the_block, &c);
    sagemem_scope_end(heap);
    assert_true(c.intact);
    assert_int_equal(ordered, 1); /* what a clean-up defers runs as well */
    assert_int_equal(stats_of(heap).blocks, 0);
    sagemem_heap_destroy(heap);
    assert_int_equal(fault.count, 0);
}

static void clean_up_in_a_shared_heap(void) {
    sagemem_heap_desc desc = {0};
    desc.flags = SAGEMEM_HEAP_SHARED;
    struct cleaner c = {sagemem_heap_create(&desc), NULL, false};
    child_check(sagemem_scope_begin(c.heap, "shared", 0) == SAGEMEM_OK);
    c.block = sagemem_alloc(c.heap, 100, 0);
    paint(c.block, 100, 8);
    child_check(sagemem_scope_defer(c.heap, clean_with_the_block, &c) == SAGEMEM_OK);
    alarm(3);
    child_check(sagemem_scope_end(c.heap) == SAGEMEM_OK);
    child_check(c.intact);
    sagemem_heap_destroy(c.heap);
}
static void defer_may_use_the_scope_of_a_shared_heap(void **state) {
    (void)state;
    assert_child_well(in_child(clean_up_in_a_shared_heap));
}

struct thread_scope {
    sagemem_heap *heap;
    void *block;
};
static void *end_with_open_scopes(void *ctx) {
    struct thread_scope *t = ctx;
    t->heap = heap_named("left open", 0);
    sagemem_scope_begin(t->heap, "outer", 0);
    sagemem_scope_defer(t->heap, note, &numbers[1]);
    sagemem_scope_begin(t->heap, "inner", 0);
    sagemem_scope_defer(t->heap, note, &numbers[2]);
    t->block = sagemem_alloc(t->heap, 100, 0);
    paint(t->block, 100, 3);
    return NULL;
}
static void defer_runs_when_the_thread_ends(void **state) {
    (void)state;
    struct thread_scope t = {NULL, NULL};
    ordered = 0;
    on_thread(end_with_open_scopes, &t);
    assert_int_equal(ordered, 2);
    assert_int_equal(order[0], 2);
    assert_int_equal(order[1], 1);
    assert_true(painted(t.block, 100, 3)); /* its blocks stay */
    assert_int_equal(stats_of(t.heap).blocks, 1);
    assert_int_equal(sagemem_heap_adopt(t.heap), SAGEMEM_OK);
    assert_non_null(sagemem_alloc(t.heap, 100, 0));
    sagemem_free(t.block);
    assert_int_equal(stats_of(t.heap).blocks, 1);
    assert_int_equal(sagemem_heap_check(t.heap), 0);
    sagemem_heap_destroy(t.heap);
    assert_int_equal(ordered, 2);
    assert_int_equal(fault.count, 0);
}

static void scope_limit_holds(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("limited scope", 0);
    void *before = sagemem_alloc(heap, 2 * MIB, 0);
    sagemem_scope_begin(heap, "limited", 3);
    assert_int_equal(sagemem_scope_limit(heap, MIB), SAGEMEM_OK);
    assert_null(sagemem_alloc(heap, 2 * MIB, 0));
    assert_failed(SAGEMEM_E_LIMIT, "sagemem_scope_limit");
    assert_says(sagemem_last_error()->message, "limited");
    int blocks = 0;
    while (sagemem_alloc(heap, 10000, 0) != NULL) blocks++;
    assert_in_range(blocks, 80, 105);
    sagemem_scope_begin(heap, "inside", 4); /* counts against the one around it */
    assert_null(sagemem_alloc(heap, 300000, 0));
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    void *again = sagemem_realloc(heap, before, 4 * MIB, SAGEMEM_TAG_SAME); /* not in the scope */
    assert_non_null(again);
    assert_int_equal(sagemem_scope_limit(heap, 0), SAGEMEM_OK);
    assert_non_null(sagemem_alloc(heap, 2 * MIB, 0));
    sagemem_scope_end(heap);
    sagemem_heap_destroy(heap);
}

static void scope_last_stats(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("last", 0);
    sagemem_scope_stats last;
    sagemem_tag_stats tag;
    char kind[] = "kind";
    sagemem_scope_begin(heap, kind, 42);
    kind[0] = 'X';
    void *a = sagemem_alloc(heap, 1000, 5), *b = sagemem_alloc(heap, 5000, 6);
    uint64_t size_a = sagemem_size(a), size_b = sagemem_size(b);
    sagemem_free(a);
    void *c = sagemem_alloc(heap, 200, 5);
    uint64_t size_c = sagemem_size(c);
    sagemem_scope_end(heap);
    assert_int_equal(sagemem_scope_get_last(heap, &last), SAGEMEM_OK);
    assert_string_equal(last.kind, "kind");
    assert_int_equal(last.id, 42);
    assert_int_equal(last.used_peak, size_a + size_b);
    assert_true(last.held_peak >= last.used_peak);
    assert_int_equal(last.total_blocks, 3);
    assert_true(last.duration_ns < (uint64_t)10 * 1000000000u);
    assert_int_equal(sagemem_scope_tag_get_last(heap, 5, &tag), SAGEMEM_OK);
    assert_int_equal(tag.peak, size_a);
    assert_int_equal(tag.total_blocks, 2);
    assert_int_equal(tag.total_bytes, size_a + size_c);
    assert_int_equal(tag.peak_blocks, 1);
    assert_int_equal(sagemem_scope_tag_get_last(heap, 4000, &tag), SAGEMEM_OK);
    assert_int_equal(tag.total_blocks, 0);
    sagemem_scope_begin(heap, "empty", 43);
    sagemem_scope_end(heap);
    assert_int_equal(sagemem_scope_get_last(heap, &last), SAGEMEM_OK);
    assert_string_equal(last.kind, "empty");
    assert_int_equal(last.total_blocks + last.used_peak, 0);
    assert_int_equal(tag_stats_of(heap, 5).total_bytes, size_a + size_c); /* the heap's totals have taken over */
    sagemem_heap_destroy(heap);
}

/* -- Other flags ---------------------------------------------------------------------------------------- */

static void run_out_of_memory(void) {
    sagemem_set_logger(NULL, NULL);
    sagemem_heap_desc desc = {0};
    desc.flags = SAGEMEM_HEAP_ABORT_ON_NOMEM;
    desc.limit = MIB;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    child_check(sagemem_alloc(heap, most, 0) == NULL); /* a mistake in the arguments is no lack of memory */
    child_check(sagemem_alloc(heap, 1000, 0) != NULL);
    (void)!freopen("/dev/null", "w", stderr);
    void *block = sagemem_alloc(heap, 2 * MIB, 0);
    _exit(block == NULL ? 1 : 2);
}
static void run_out_of_memory_in_realloc(void) {
    sagemem_heap_desc desc = {0};
    desc.flags = SAGEMEM_HEAP_ABORT_ON_NOMEM;
    desc.limit = MIB;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    void *block = sagemem_alloc(heap, 1000, 0);
    block = sagemem_realloc(heap, block, 2 * MIB, SAGEMEM_TAG_SAME);
    _exit(block == NULL ? 1 : 2);
}
static void abort_on_nomem_aborts(void **state) {
    (void)state;
    int status = in_child(run_out_of_memory);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    status = in_child(run_out_of_memory_in_realloc);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void system_heap_takes_from_malloc(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("malloc", SAGEMEM_HEAP_SYSTEM);
    void *blocks[3000];
    for (size_t i = 0; i < 3000; i++) {
        blocks[i] = sagemem_alloc(heap, i, (sagemem_tag)(i % 5));
        assert_true(sagemem_size(blocks[i]) >= i && aligned_to(blocks[i], 16));
        paint(blocks[i], i, 1);
    }
    assert_int_equal(stats_of(heap).blocks, 3000);
    for (size_t i = 0; i < 3000; i += 2) sagemem_free(blocks[i]);
    for (size_t i = 1; i < 3000; i += 2) assert_true(sagemem_owns(blocks[i]) && painted(blocks[i], i, 1));
    sagemem_free(blocks[0]);
    assert_int_equal(fault.count, 1);
    fault.count = 0;
    sagemem_heap_reset(heap);
    assert_int_equal(stats_of(heap).held, 0);
    sagemem_heap_destroy(heap);
}

static void system_heap_has_many_blocks(void **state) {
    (void)state;
    enum { MANY = 600000 };
    int count = watched() ? 3000 : MANY;
    sagemem_heap *heap = heap_named("many", SAGEMEM_HEAP_SYSTEM);
    void **blocks = malloc(MANY * sizeof *blocks);
    for (int i = 0; i < count; i++) blocks[i] = sagemem_alloc(heap, 8, 1);
    for (int i = 0; i < count; i++) assert_true(sagemem_owns(blocks[i]));
    assert_int_equal(stats_of(heap).blocks, count);
    for (int i = 0; i < count; i += 2) sagemem_free(blocks[i]);
    sagemem_heap_destroy(heap);
    assert_int_equal(fault.count, 0);
    free(blocks);
}

enum { SHARED_THREADS = 4, SHARED_ROUNDS = 3000 };
static void *use_shared(void *ctx) {
    sagemem_heap *heap = ctx;
    void *blocks[50] = {NULL};
    uintptr_t bad = 0;
    for (unsigned i = 0; i < SHARED_ROUNDS; i++) {
        unsigned at = i * 7 % 50;
        size_t size = i * 131 % 5000 + 16;
        if (i % 3 == 0) blocks[at] = sagemem_realloc(heap, blocks[at], size, 5);
        else sagemem_free(blocks[at]), blocks[at] = sagemem_calloc(heap, 1, size, 6);
        if (blocks[at] == NULL) return (void *)1;
        bad |= sagemem_size(blocks[at]) < size;
        memset(blocks[at], (int)i, size);
    }
    for (int i = 0; i < 50; i++) sagemem_free(blocks[i]);
    return (void *)bad;
}
static void shared_heap_is_for_all_threads(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_ZERO};
    for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++) {
        sagemem_heap *heap = heap_named("for all", SAGEMEM_HEAP_SHARED | flags[f]);
        pthread_t threads[SHARED_THREADS];
        for (int t = 0; t < SHARED_THREADS; t++) assert_int_equal(pthread_create(&threads[t], NULL, use_shared, heap), 0);
        for (int t = 0; t < SHARED_THREADS; t++) {
            void *bad = NULL;
            pthread_join(threads[t], &bad);
            assert_null(bad);
        }
        assert_int_equal(stats_of(heap).used, 0);
        assert_int_equal(stats_of(heap).blocks, 0);
        assert_int_equal(sagemem_heap_check(heap), 0);
        sagemem_heap_destroy(heap);
    }
    assert_int_equal(fault.count, 0);
}

/* What stays resident of 24 MiB once everything is freed; the heap stays. */
static size_t left_resident(uint32_t purge_delay_ms, size_t size) {
    sagemem_trim();
    sagemem_heap_desc desc = {0};
    desc.purge_delay_ms = purge_delay_ms;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    size_t before = resident(), count = 24 * MIB / size;
    void **blocks = calloc(count, sizeof *blocks);
    for (size_t i = 0; i < count; i++) memset(blocks[i] = sagemem_alloc(heap, size, 0), 1, size);
    size_t full = resident();
    if (full != 0) assert_true(full > before + 20 * MIB);
    for (size_t i = 0; i < count; i++) sagemem_free(blocks[i]);
    free(blocks);
    size_t now = resident();
    sagemem_heap_destroy(heap);
    sagemem_trim();
    return now > before ? now - before : 0;
}
static void purge_delay_decides_when_pages_go(void **state) {
    (void)state;
    if (watched() || resident() == 0) skip();
    static const size_t sizes[] = {100, 5000, 100000, MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_true(left_resident((uint32_t)SAGEMEM_PURGE_NOW, sizes[i]) < 4 * MIB);
        assert_true(left_resident((uint32_t)SAGEMEM_PURGE_NEVER, sizes[i]) > 16 * MIB);
        assert_true(left_resident(0, sizes[i]) > 16 * MIB); /* a second has not gone by */
    }
}

static void purge_now_holds_for_shrinking(void **state) {
    (void)state;
    if (watched() || resident() == 0) skip();
    sagemem_trim();
    sagemem_heap_desc desc = {0};
    desc.purge_delay_ms = (uint32_t)SAGEMEM_PURGE_NOW;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    void *block = sagemem_alloc(heap, 12 * MIB, 0);
    memset(block, 1, 12 * MIB);
    size_t full = resident();
    block = sagemem_realloc(heap, block, MIB, SAGEMEM_TAG_SAME);
    assert_non_null(block);
    assert_true(resident() + 8 * MIB < full);
    sagemem_heap_destroy(heap);
}

static void trim_gives_pages_back(void **state) {
    (void)state;
    sagemem_trim();
    sagemem_heap_desc desc = {0};
    desc.purge_delay_ms = (uint32_t)SAGEMEM_PURGE_NEVER;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    void *block = sagemem_alloc(heap, 8 * MIB, 0);
    memset(block, 1, 8 * MIB);
    uint64_t held = stats_of(NULL).held;
    size_t full = resident();
    sagemem_free(block);
    assert_true(stats_of(NULL).held + MIB > held); /* pages in the cache are held */
    uint64_t given = sagemem_trim();
    assert_true(given >= 8 * MIB);
    assert_int_equal(stats_of(NULL).held, held - given);
    assert_int_equal(sagemem_trim(), 0);
    if (!watched() && full != 0) assert_true(resident() + 6 * MIB < full);
    sagemem_heap_destroy(heap);
}

/* -- Sources -------------------------------------------------------------------------------------------- */

/* A heap on this source is used in all ways. */
static void use_heap_on(const sagemem_source *source, sagemem_heap *(*make)(const sagemem_source *)) {
    sagemem_heap *heap = make(source);
    assert_non_null(heap);
    static const size_t sizes[] = {10, 100, 1000, 5000, 20000, 100000, 300000};
    for (int round = 0; round < 3; round++) {
        void *blocks[700];
        for (size_t i = 0; i < 700; i++) {
            size_t size = sizes[i % 4];
            blocks[i] = sagemem_alloc(heap, size, 1);
            assert_non_null(blocks[i]);
            paint(blocks[i], size, (unsigned)i);
        }
        for (size_t i = 0; i < 700; i++) assert_true(painted(blocks[i], sizes[i % 4], (unsigned)i));
        assert_int_equal(sagemem_heap_check(heap), 0);
        for (size_t i = 0; i < 700; i++) sagemem_free(blocks[i]);
        unsigned char *block = sagemem_calloc(heap, 1, 10, 2);
        assert_true(all_bytes(block, 0, 10));
        size_t have = 10;
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            block = sagemem_realloc(heap, block, sizes[i], SAGEMEM_TAG_SAME);
            assert_non_null(block);
            assert_true(all_bytes(block, 0, have));
            memset(block, 0, have = sizes[i]);
        }
        unsigned char *zeroed = sagemem_calloc(heap, 1, 300000, 2);
        assert_true(all_bytes(zeroed, 0, 300000));
        memset(zeroed, 1, 300000);
        sagemem_free(zeroed);
        sagemem_free(block);
        sagemem_scope_begin(heap, "on a source", 0);
        for (int i = 0; i < 20; i++) assert_non_null(sagemem_alloc(heap, 3000, 3));
        sagemem_scope_end(heap);
        assert_int_equal(stats_of(heap).used, 0);
        if (round == 1) sagemem_heap_reset(heap);
    }
    sagemem_heap_destroy(heap);
}

static sagemem_heap *plain_heap_on(const sagemem_source *source) {
    sagemem_heap_desc desc = {0};
    desc.source = source;
    return sagemem_heap_create(&desc);
}
static sagemem_heap *checked_heap_on(const sagemem_source *source) {
    sagemem_heap_desc desc = {0};
    desc.source = source;
    desc.flags = SAGEMEM_HEAP_CHECKED;
    return sagemem_heap_create(&desc);
}

static void source_system(void **state) {
    (void)state;
    sagemem_source source = sagemem_source_system();
    assert_true(source.page_size >= 4096);
    use_heap_on(&source, plain_heap_on);
    use_heap_on(&source, checked_heap_on);
}

static void use_huge_source_2_mib(void) {
    sagemem_source source = sagemem_source_huge((size_t)2 * MIB);
    child_check(source.page_size == 2 * MIB);
    sagemem_heap_desc desc = {0};
    desc.source = &source;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    static unsigned char *blocks[20000];
    for (unsigned i = 0; i < 20000; i++) {
        blocks[i] = sagemem_alloc(heap, 16, 1);
        child_check(blocks[i] != NULL);
        memset(blocks[i], (int)i, 16);
    }
    for (unsigned i = 0; i < 20000; i++) child_check(all_bytes(blocks[i], (int)(i & 0xFF), 16));
    child_check(sagemem_heap_check(heap) == 0);
    for (unsigned i = 0; i < 20000; i++) sagemem_free(blocks[i]);
    void *large = sagemem_calloc(heap, 1, 3 * MIB, 1);
    child_check(large != NULL && all_bytes(large, 0, 3 * MIB));
    sagemem_heap_stats s;
    child_check(sagemem_heap_get_stats(heap, &s) == SAGEMEM_OK && s.huge_page_bytes <= s.held && s.held % (2 * MIB) == 0);
    sagemem_heap_destroy(heap);
    child_check(fault.count == 0);
}
static void source_huge_2_mib(void **state) {
    (void)state;
    assert_child_well(in_child(use_huge_source_2_mib));
}

static void use_huge_source_1_gib(void) {
    sagemem_source source = sagemem_source_huge((size_t)1 << 30);
    sagemem_heap_desc desc = {0};
    desc.source = &source;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    unsigned char *a = sagemem_alloc(heap, 100, 1), *b = sagemem_alloc(heap, 5000, 2), *c = sagemem_alloc(heap, 100, 3);
    child_check(a != NULL && b != NULL && c != NULL);
    paint(a, 100, 1);
    paint(b, 5000, 2);
    paint(c, 100, 3);
    for (int i = 0; i < 2000; i++) child_check(sagemem_alloc(heap, 8, 4) != NULL);
    child_check(sagemem_heap_check(heap) == 0);
    child_check(painted(a, 100, 1) && painted(b, 5000, 2) && painted(c, 100, 3));
    sagemem_scope_begin(heap, "1 GiB", 0);
    for (int i = 0; i < 2000; i++) child_check(sagemem_alloc(heap, 5000, 4) != NULL);
    sagemem_free(sagemem_alloc(heap, 200000, 4));
    child_check(sagemem_heap_check(heap) == 0);
    sagemem_scope_end(heap);
    sagemem_heap_destroy(heap);
    child_check(fault.count == 0);
}
static void source_huge_1_gib(void **state) {
    (void)state;
    if (sizeof(void *) == 4 || watched()) skip();
    assert_child_well(in_child(use_huge_source_1_gib));
}

static void source_numa(void **state) {
    (void)state;
    sagemem_source preferred = sagemem_source_numa(0, SAGEMEM_NUMA_PREFERRED),
                   all = sagemem_source_numa(0, SAGEMEM_NUMA_INTERLEAVE);
    use_heap_on(&preferred, plain_heap_on);
    use_heap_on(&all, plain_heap_on);
    /* bound to a node: that node, or an ordinary failure */
    for (int node = 0; node <= 1023; node += 1023) {
        sagemem_source bound = sagemem_source_numa(node, SAGEMEM_NUMA_BIND);
        sagemem_heap *heap = plain_heap_on(&bound);
        void *block = sagemem_alloc(heap, 1000, 0);
        if (block != NULL) memset(block, 1, 1000);
        else assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_NOMEM);
        sagemem_heap_destroy(heap);
    }
}

static void source_buffer_at_any_address(void **state) {
    (void)state;
    size_t size = 8 * MIB;
    for (size_t shift = 0; shift < 3; shift++) {
        char *memory = malloc(size + 3);
        memset(memory, 0x77, size + 3); /* its content is undefined to the library */
        sagemem_source *source = sagemem_source_buffer(memory + shift, size);
        assert_non_null(source);
        sagemem_heap *heap = plain_heap_on(source);
        char *a = sagemem_alloc(heap, 100, 0), *b = sagemem_alloc(heap, 200000, 0), *c = sagemem_alloc(heap, MIB, 0);
        char *blocks[] = {a, b, c};
        for (int i = 0; i < 3; i++)
            assert_true(blocks[i] >= memory + shift && blocks[i] + sagemem_size(blocks[i]) <= memory + shift + size);
        sagemem_heap_destroy(heap);
        use_heap_on(source, plain_heap_on);
        use_heap_on(source, checked_heap_on);
        sagemem_source_destroy(source);
        assert_true(memory[0] == 0x77 || shift == 0);
        free(memory);
    }
    assert_int_equal(fault.count, 0);
}

/* Two pages 8 GiB apart share what the short path of sagemem_free looks at first. */
static void source_buffers_far_apart(void **state) {
    (void)state;
    enum { BLOCKS = 3000 };
    const uint64_t apart = (uint64_t)8 << 30, size = 4 * MIB;
    if (sizeof(size_t) < 8 || on_valgrind()) skip();
    char *low = (char *)mmap(NULL, (size_t)(apart + size), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (low == MAP_FAILED) skip(); /* few addresses */
    char *place[] = {low, low + apart};
    sagemem_heap *heap[2];
    sagemem_source *source[2];
    static char *block[2][BLOCKS];
    for (int h = 0; h < 2; h++) {
        assert_int_equal(mprotect(place[h], (size_t)size, PROT_READ | PROT_WRITE), 0);
        sagemem_heap_desc desc = {0};
        desc.source = source[h] = sagemem_source_buffer(place[h], (size_t)size);
        heap[h] = sagemem_heap_create(&desc);
        assert_non_null(heap[h]);
        for (int i = 0; i < BLOCKS; i++) {
            block[h][i] = (char *)sagemem_alloc(heap[h], 64, 1);
            assert_true(block[h][i] >= place[h] && block[h][i] < place[h] + size);
            memset(block[h][i], h + 1, 64);
        }
    }
    for (int i = 0; i < 2 * BLOCKS; i++) {
        assert_int_equal(block[i % 2][i / 2][63], i % 2 + 1);
        sagemem_free(block[i % 2][i / 2]);
        if (i / 2 != 7) continue;
        sagemem_free(block[i % 2][7]);
        assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, "freed already");
    }
    for (int h = 0; h < 2; h++) {
        sagemem_heap_stats stats;
        assert_int_equal(sagemem_heap_get_stats(heap[h], &stats), SAGEMEM_OK);
        assert_int_equal(stats.used, 0);
        assert_int_equal(stats.total_blocks, BLOCKS);
        assert_int_equal(sagemem_heap_check(heap[h]), 0);
        sagemem_heap_destroy(heap[h]);
        sagemem_source_destroy(source[h]);
    }
    munmap(low, (size_t)(apart + size));
}

/* An address with a bit set that no address has is told from the block's, and not read. */
static void free_of_a_damaged_pointer(void **state) {
    (void)state;
    if (sizeof(size_t) < 8) skip();
    sagemem_heap *heap = heap_named("catalogue", 0);
    for (size_t size = 16; size <= 1024; size += 16) {
        void *block = NULL;
        for (int i = 0; i < 600; i++) block = sagemem_alloc(heap, size, 1);
        for (int bit = 34; bit < 64; bit++) {
            sagemem_free((void *)((uintptr_t)block ^ (uintptr_t)((uint64_t)1 << bit)));
            assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, "does not come from sagemem");
        }
        assert_true(sagemem_owns(block));
    }
    sagemem_heap_destroy(heap);
}

static void source_buffer_is_exhausted(void **state) {
    (void)state;
    static char memory[256 * 1024];
    sagemem_source *source = sagemem_source_buffer(memory, sizeof memory);
    for (int round = 0; round < 3; round++) {
        sagemem_heap *heap = plain_heap_on(source);
        size_t blocks = 0, bytes = 0;
        void *block;
        while ((block = sagemem_alloc(heap, 1000, 1)) != NULL) {
            assert_true((char *)block >= memory && (char *)block + sagemem_size(block) <= memory + sizeof memory);
            memset(block, 1, sagemem_size(block));
            blocks++;
            bytes += sagemem_size(block);
        }
        assert_failed(SAGEMEM_E_NOMEM, "free memory");
        assert_true(bytes > sizeof memory * 3 / 4);
        assert_int_equal(stats_of(heap).blocks, blocks);
        assert_true(stats_of(heap).held <= sizeof memory);
        assert_null(sagemem_alloc(heap, sizeof memory, 1));
        assert_null(sagemem_aligned_alloc(heap, MIB, 100000, 1));
        sagemem_heap_destroy(heap);
    }
    sagemem_source_destroy(source);
    assert_int_equal(fault.count, 0);
}

static void source_buffer_aligned_blocks(void **state) {
    (void)state;
    size_t size = 4 * MIB;
    char *memory = malloc(size);
    sagemem_source *source = sagemem_source_buffer(memory, size);
    sagemem_heap *heap = plain_heap_on(source);
    for (size_t alignment = 16; alignment <= MIB; alignment *= 2) {
        void *block = sagemem_aligned_alloc(heap, alignment, 5000, 1);
        assert_non_null(block);
        assert_true(aligned_to(block, alignment));
    }
    assert_int_equal(sagemem_heap_check(heap), 0);
    sagemem_heap_destroy(heap);
    sagemem_source_destroy(source);
    free(memory);
}

/* Memory that itself comes from a heap is as good as any. */
static void make_a_source_of_a_block(void) {
    static const size_t sizes[] = {200 * KIB, MIB, 20 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *memory = sagemem_alloc(NULL, sizes[i], 1), *before = sagemem_alloc(NULL, 100000, 1);
        memset(memory, 1, sizes[i]);
        sagemem_source *source = sagemem_source_buffer(memory, sizes[i]);
        if (source == NULL && sizes[i] < MIB) { /* it may be refused where other blocks lie around it */
            child_check(sagemem_last_error()->status == SAGEMEM_E_ARGUMENT);
            sagemem_free(memory);
            sagemem_free(before);
            continue;
        }
        child_check(source != NULL);
        sagemem_heap_desc desc = {0};
        desc.source = source;
        sagemem_heap *heap = sagemem_heap_create(&desc);
        while (sagemem_alloc(heap, 1000, 2) != NULL) {
        }
        child_check(sagemem_heap_check(heap) == 0);
        sagemem_heap_destroy(heap);
        sagemem_source_destroy(source);
        child_check(sagemem_owns(memory));
        child_check(sagemem_size(memory) >= sizes[i]);
        sagemem_free(memory);
        sagemem_free(before);
        child_check(fault.count == 0);
    }
}
static void source_buffer_in_a_block(void **state) {
    (void)state;
    assert_child_well(in_child(make_a_source_of_a_block));
}

static void source_buffer_refuses_bad_memory(void **state) {
    (void)state;
    static char memory[80 * 1024];
    assert_null(sagemem_source_buffer(NULL, MIB));
    assert_failed(SAGEMEM_E_ARGUMENT, "64 KiB");
    assert_null(sagemem_source_buffer(memory, 65535));
    assert_failed(SAGEMEM_E_ARGUMENT, "64 KiB");
    assert_null(sagemem_source_buffer(memory, 0));
    assert_failed(SAGEMEM_E_ARGUMENT, "64 KiB");
    assert_null(sagemem_source_buffer(memory, most));
    assert_failed(SAGEMEM_E_ARGUMENT, "64 KiB");
}

static void source_in_use_is_not_destroyed(void **state) {
    (void)state;
    static char memory[256 * 1024];
    sagemem_source *source = sagemem_source_buffer(memory, sizeof memory);
    sagemem_heap_desc desc = {0};
    desc.name = "user of the source";
    desc.source = source;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    void *block = sagemem_alloc(heap, 100, 0);
    sagemem_source_destroy(source);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_BUSY, "user of the source");
    assert_says(fault.error.message, "destroy it first");
    assert_true(sagemem_owns(block));
    sagemem_heap_destroy(heap);
    sagemem_source_destroy(source);
    assert_int_equal(fault.count, 0);
    sagemem_source_destroy(NULL);
    sagemem_source by_value = sagemem_source_system();
    by_value.ctx = &by_value;
    sagemem_source_destroy(&by_value);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_ARGUMENT, "not destroyed");
}

static void source_file_holds_the_pages(void **state) {
    (void)state;
    char directory[] = "/tmp/sagemem-XXXXXX", path[64];
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/pages", directory);
    sagemem_source *source = sagemem_source_file(path, 8 * MIB);
    assert_non_null(source);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_true((uint64_t)info.st_size <= 8 * MIB);
    assert_int_equal(info.st_mode & 077, 0);           /* for the owner alone */
    assert_true((uint64_t)info.st_blocks * 512 < MIB); /* sparse */
    sagemem_heap *heap = plain_heap_on(source);
    void *block = sagemem_alloc(heap, 2 * MIB, 0);
    memset(block, 0x5A, 2 * MIB);
    msync((void *)((uintptr_t)block & ~(uintptr_t)4095), 4096, MS_SYNC);
    assert_int_equal(stat(path, &info), 0);
    assert_true((uint64_t)info.st_blocks * 512 >= 2 * MIB);
    FILE *file = fopen(path, "r");
    int found = 0;
    for (int c; (c = getc(file)) != EOF && found < 100;) found += c == 0x5A;
    fclose(file);
    assert_int_equal(found, 100); /* the block is in the file */
    assert_null(sagemem_alloc(heap, 8 * MIB, 0));
    assert_failed(SAGEMEM_E_NOMEM, "free memory");
    sagemem_free(block);
    sagemem_heap_destroy(heap);
    use_heap_on(source, plain_heap_on);
    sagemem_source_destroy(source);
    assert_int_not_equal(stat(path, &info), 0);
    rmdir(directory);
}

static void source_file_limit_is_exact_at_most(void **state) {
    (void)state;
    char directory[] = "/tmp/sagemem-XXXXXX", path[64];
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/pages", directory);
    sagemem_source *source = sagemem_source_file(path, 64 * KIB);
    assert_non_null(source);
    sagemem_heap *heap = plain_heap_on(source);
    uint64_t bytes = 0;
    for (void *block; (block = sagemem_alloc(heap, 1000, 0)) != NULL;) bytes += sagemem_size(block);
    assert_true(bytes <= 64 * KIB && bytes >= 44 * KIB);
    sagemem_heap_destroy(heap);
    sagemem_source_destroy(source);
    rmdir(directory);
}

static void source_file_refuses_bad_paths(void **state) {
    (void)state;
    static char long_path[1000];
    memset(long_path, 'x', sizeof long_path - 1);
    assert_null(sagemem_source_file(NULL, MIB));
    assert_failed(SAGEMEM_E_ARGUMENT, "needs a path");
    assert_null(sagemem_source_file("/tmp/x", 1000));
    assert_failed(SAGEMEM_E_ARGUMENT, "64 KiB");
    assert_null(sagemem_source_file(long_path, MIB));
    assert_failed(SAGEMEM_E_ARGUMENT, "511 bytes");
    assert_null(sagemem_source_file("/does/not/exist/pages", MIB));
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_IO);
    assert_int_not_equal(sagemem_last_error()->os_error, 0);
    assert_null(sagemem_source_file("/tmp", MIB));
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_IO);
}

struct counting {
    int maps, unmaps, fail_from, shift;
    size_t mapped, page_size, least_alignment;
};
static void *counting_map(void *ctx, size_t size, size_t alignment) {
    struct counting *c = ctx;
    if (c->fail_from != 0 && c->maps + 1 >= c->fail_from) return NULL;
    if (size % c->page_size != 0) return NULL;
    c->maps++;
    c->mapped += size;
    if (alignment < c->least_alignment) c->least_alignment = alignment;
    size_t unit = alignment > 65536 ? alignment : 65536, bytes = (size + unit) & ~(unit - 1); /* room for the shift */
    if (bytes < size + (size_t)c->shift) bytes += unit;
    char *memory = aligned_alloc(unit, bytes);
    if (memory == NULL) return NULL;
    memset(memory, 0, bytes);
    return memory + c->shift;
}
static void counting_unmap(void *ctx, void *pages, size_t size) {
    struct counting *c = ctx;
    c->unmaps++;
    c->mapped -= size;
    free((char *)pages - c->shift);
}

static void own_source_is_balanced(void **state) {
    (void)state;
    for (size_t page_size = 4096; page_size <= 65536; page_size *= 4) {
        struct counting c = {0, 0, 0, 0, 0, page_size, SIZE_MAX};
        sagemem_source source = {counting_map, counting_unmap, NULL, page_size, &c};
        use_heap_on(&source, plain_heap_on);
        assert_true(c.maps > 0);
        assert_int_equal(c.maps, c.unmaps);
        assert_int_equal(c.mapped, 0);
        assert_true(c.least_alignment >= page_size || c.least_alignment >= 16384);
        sagemem_heap *heap = plain_heap_on(&source);
        assert_non_null(sagemem_alloc(heap, MIB, 0));
        assert_int_equal(stats_of(heap).held, c.mapped);
        sagemem_heap_destroy(heap);
        assert_int_equal(c.mapped, 0);
    }
}

/* Pages larger than anything the library cuts up. */
static void use_large_pages(void) {
    for (size_t page_size = 128 * KIB; page_size <= 4 * MIB; page_size *= 2) {
        struct counting c = {0, 0, 0, 0, 0, page_size, SIZE_MAX};
        sagemem_source source = {counting_map, counting_unmap, NULL, page_size, &c};
        sagemem_heap *heap = plain_heap_on(&source);
        for (int i = 0; i < 3000; i++) {
            unsigned char *block = sagemem_alloc(heap, 16, 1);
            child_check(block != NULL);
            memset(block, 1, 16);
        }
        child_check(sagemem_heap_check(heap) == 0);
        struct visited v;
        memset(&v, 0, sizeof v);
        sagemem_heap_visit(heap, on_visit, &v);
        child_check(v.blocks == 3000);
        sagemem_heap_destroy(heap);
        child_check(c.mapped == 0 && c.maps == c.unmaps);
    }
}
static void own_source_with_large_pages(void **state) {
    (void)state;
    assert_child_well(in_child(use_large_pages));
}

static void own_source_that_fails(void **state) {
    (void)state;
    for (int from = 1; from < 6; from++) {
        struct counting c = {0, 0, from, 0, 0, 4096, SIZE_MAX};
        sagemem_source source = {counting_map, counting_unmap, NULL, 4096, &c};
        sagemem_heap *heap = plain_heap_on(&source);
        void *last = NULL;
        for (void *block; (block = sagemem_alloc(heap, 200000, 1)) != NULL;) paint(last = block, 200000, 1);
        assert_failed(SAGEMEM_E_NOMEM, "free memory");
        sagemem_heap_stats before = stats_of(heap), after;
        assert_null(sagemem_alloc(heap, 300000, 1));
        if (last != NULL) assert_null(sagemem_realloc(heap, last, 400000, SAGEMEM_TAG_SAME));
        after = stats_of(heap);
        assert_same_stats(&before, &after);
        if (last != NULL) assert_true(painted(last, 200000, 1));
        c.fail_from = 0;
        assert_non_null(sagemem_alloc(heap, 300000, 1)); /* and it can be repeated */
        sagemem_heap_destroy(heap);
        assert_int_equal(c.maps, c.unmaps);
    }
}

static void own_source_that_fails_leaves_the_reserve(void **state) {
    (void)state;
    struct counting c = {0, 0, 1, 0, 0, 4096, SIZE_MAX};
    sagemem_source source = {counting_map, counting_unmap, NULL, 4096, &c};
    sagemem_heap *heap = plain_heap_on(&source);
    assert_int_equal(sagemem_reserve(heap, MIB), SAGEMEM_OK);
    sagemem_heap_stats before = stats_of(heap), after;
    assert_null(sagemem_alloc(heap, 300000, 1));
    assert_failed(SAGEMEM_E_NOMEM, "free memory");
    after = stats_of(heap);
    assert_same_stats(&before, &after);
    sagemem_heap_destroy(heap);
}

static void own_source_that_misaligns(void **state) {
    (void)state;
    static const int shifts[] = {8, 64, 4096, 8192};
    for (size_t i = 0; i < sizeof shifts / sizeof shifts[0]; i++) {
        struct counting c = {0, 0, 0, shifts[i], 0, 4096, SIZE_MAX};
        sagemem_source source = {counting_map, counting_unmap, NULL, 4096, &c};
        sagemem_heap *heap = plain_heap_on(&source);
        sagemem_heap_stats before = stats_of(heap), after;
        assert_null(sagemem_alloc(heap, 100, 1));
        assert_failed(SAGEMEM_E_ARGUMENT, "multiple of");
        assert_null(sagemem_alloc(heap, MIB, 1));
        assert_failed(SAGEMEM_E_ARGUMENT, "multiple of");
        assert_int_equal(c.maps, c.unmaps);
        after = stats_of(heap);
        assert_int_equal(after.held, before.held);
        assert_int_equal(after.used, 0);
        sagemem_heap_destroy(heap);
        assert_int_equal(c.mapped, 0);
    }
}

/* -- File and line, from here on passed by the short calls ------------------------------------------------ */

#define SAGEMEM_SITES
#include "sagemem.h"

struct site_seen {
    int blocks, with_file, line[8];
};
static void on_site(void *ctx, const sagemem_block_info *info) {
    struct site_seen *s = ctx;
    s->blocks++;
    if (info->file == NULL || strstr(info->file, "public_heap.c") == NULL) return;
    s->with_file++;
    if (info->tag < 8) s->line[info->tag] = info->line;
}

static void sites_are_remembered(void **state) {
    (void)state;
    static const uint32_t flags[] = {SAGEMEM_HEAP_SITES, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SITES | SAGEMEM_HEAP_SYSTEM, 0};
    for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++) {
        sagemem_heap *heap = heap_named("sites", flags[f]);
        int line = __LINE__;
        void *a = sagemem_alloc(heap, 100, 1);
        void *b = sagemem_calloc(heap, 10, 10, 2);
        void *c = sagemem_realloc(heap, NULL, 100, 3);
        char *d = sagemem_strdup(heap, "text", 4);
        void *e = sagemem_alloc(heap, MIB, 5);
        void *g = sagemem_alloc(heap, 10, 6);
        g = sagemem_realloc(heap, g, 5000, SAGEMEM_TAG_SAME);
        void *plain = (sagemem_alloc)(heap, 100, 7); /* not through the macro */
        struct site_seen s;
        memset(&s, 0, sizeof s);
        sagemem_heap_visit(heap, on_site, &s);
        assert_int_equal(s.blocks, 7);
        if (flags[f] == 0) {
            assert_true(s.with_file <= 1); /* pages of its own have room for it anyway */
        } else {
            assert_int_equal(s.with_file, 6);
            for (int i = 1; i <= 5; i++) assert_int_equal(s.line[i], line + i);
            assert_int_equal(s.line[6], line + 7);
        }
        assert_true(a && b && c && d && e && g && plain);
        sagemem_heap_destroy(heap);
    }
}

static void sites_are_in_messages(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named("sites", SAGEMEM_HEAP_CHECKED);
    char *block = sagemem_alloc(heap, 100, 1);
    char at[64];
    snprintf(at, sizeof at, "public_heap.c:%d", __LINE__ - 2);
    sagemem_free(block + 16);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_FOREIGN, at);
    sagemem_free(block);
    snprintf(at, sizeof at, "public_heap.c:%d", __LINE__ - 1);
    sagemem_free(block);
    assert_faulted(SAGEMEM_MISUSE, SAGEMEM_E_STALE, at);
    sagemem_heap_destroy(heap);
}

/* With an argument: only the tests whose names match it (* and ?). */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
#define T(name) cmocka_unit_test_setup(name, setup)
    static const struct CMUnitTest tests[] = {
        T(tag_has_one_name),
        T(tag_name_counts_63_bytes),
        T(tag_without_a_name_is_refused),
        T(tag_names_of_numbers),
        T(tag_define_names_an_enum),
        T(tag_define_refuses_a_second_name),
        T(tag_define_refuses_other_numbers),
        T(tag_is_the_same_on_all_threads),
        T(tag_table_fills_up),
        T(heap_desc_defaults_are_resolved),
        T(heap_desc_is_read_back),
        T(heap_get_desc_of_the_default),
        T(heap_create_refuses_bad_descs),
        T(heap_destroy_frees_everything),
        T(heap_destroyed_is_stale),
        T(heap_null_is_misuse_where_it_matters),
        T(heap_that_is_none_is_foreign),
        T(heap_with_children_is_not_destroyed),
        T(heap_reset_keeps_the_heap),
        T(heap_adopt_changes_the_owner),
        T(heap_adopt_refuses_a_living_default),
        T(heap_of_another_thread_is_busy),
        T(heap_default_is_configured),
        T(heap_default_is_the_threads_own),
        T(alloc_every_size),
        T(alloc_size_zero_is_a_block),
        T(alloc_refuses_bad_requests),
        T(alloc_that_the_system_refuses_changes_nothing),
        T(calloc_zeroes_memory_used_before),
        T(aligned_alloc_every_power),
        T(aligned_alloc_refuses_others),
        T(aligned_alloc_costs_addresses_only),
        T(realloc_keeps_contents_and_counts),
        T(realloc_changes_the_tag),
        T(realloc_of_null_allocates),
        T(realloc_in_place_where_it_can),
        T(realloc_outgrows_regions),
        T(realloc_of_bad_pointers),
        T(memdup_and_strdup_copy),
        T(new_is_typed_and_zeroed),
        T(allocator_is_the_heap),
        T(owns_is_never_wrong),
        T(bad_pointers_go_to_the_handler),
        T(heap_freed_as_a_block_is_foreign),
        T(double_free_is_stale),
        T(freed_block_is_stale_in_merged_memory),
        T(few_blocks_of_many_tags),
        T(blocks_of_many_tags_share_pages),
        T(few_blocks_pin_nothing),
        T(aligned_blocks_leave_nothing),
        T(limit_takes_the_empty_chunk),
        T(few_blocks_written_to_after_free),
        T(block_from_before_a_reset_is_stale),
        T(interior_pointer_is_foreign),
        T(message_with_long_names_is_cut),
        T(move_changes_the_heap),
        T(heap_visit_sees_every_live_block),
        T(checked_heap_sees_over_and_underflow),
        T(checked_heap_sees_late_writes),
        T(zero_heap_gives_zeroes),
        T(zero_heap_gives_zeroes_in_scopes),
        T(zero_heap_grows_with_zeroes),
        T(zero_heap_keeps_with_zeroes),
        T(zero_heap_stays_zero_when_a_shrink_cannot_move),
        T(scope_end_frees_what_is_in_it),
        T(scope_end_counts_blocks_of_every_kind),
        T(scope_calls_refuse_bad_arguments),
        T(keep_goes_one_level_out),
        T(keep_that_fails_changes_nothing),
        T(defer_runs_last_first),
        T(defer_may_use_the_scope),
        T(defer_may_use_the_scope_of_a_shared_heap),
        T(defer_runs_when_the_thread_ends),
        T(scope_limit_holds),
        T(scope_last_stats),
        T(abort_on_nomem_aborts),
        T(system_heap_takes_from_malloc),
        T(system_heap_has_many_blocks),
        T(shared_heap_is_for_all_threads),
        T(purge_delay_decides_when_pages_go),
        T(purge_now_holds_for_shrinking),
        T(trim_gives_pages_back),
        T(source_system),
        T(source_huge_2_mib),
        T(source_huge_1_gib),
        T(source_numa),
        T(source_buffer_at_any_address),
        T(source_buffers_far_apart),
        T(free_of_a_damaged_pointer),
        T(source_buffer_is_exhausted),
        T(source_buffer_aligned_blocks),
        T(source_buffer_in_a_block),
        T(source_buffer_refuses_bad_memory),
        T(source_in_use_is_not_destroyed),
        T(source_file_holds_the_pages),
        T(source_file_limit_is_exact_at_most),
        T(source_file_refuses_bad_paths),
        T(own_source_is_balanced),
        T(own_source_with_large_pages),
        T(own_source_that_fails),
        T(own_source_that_fails_leaves_the_reserve),
        T(own_source_that_misaligns),
        T(sites_are_remembered),
        T(sites_are_in_messages),
    };
    return cmocka_run_group_tests_name("public_heap", tests, NULL, NULL);
}
