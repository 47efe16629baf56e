/* Limits, reserves, reclaimers, what the system says, pressure and trim through the public interface. */
#include "public.h"

static struct {
    int count;
    sagemem_error error;
} fault;
static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    fault.count++;
    fault.error = *error;
}

static int setup(void **state) {
    (void)state;
    static const char *const reclaimers[] = {"first", "second", "last", "liar", "another", "allocates", "one", "two"};
    for (size_t i = 0; i < sizeof reclaimers / sizeof reclaimers[0]; i++)
        sagemem_reclaimer_remove(reclaimers[i]); /* of a test that failed */
    memset(&fault, 0, sizeof fault);
    sagemem_set_fault_handler(on_fault, NULL);
    return 0;
}

static void assert_failed(sagemem_status got, sagemem_status status, const char *remedy) {
    const sagemem_error *error = sagemem_last_error();
    assert_int_equal(got, status);
    assert_int_equal(error->status, status);
    if (strstr(error->message, remedy) == NULL) fail_msg("'%s' does not say '%s'", error->message, remedy);
}

static sagemem_heap_stats stats_of(const sagemem_heap *heap) {
    sagemem_heap_stats s;
    assert_int_equal(sagemem_heap_get_stats(heap, &s), SAGEMEM_OK);
    return s;
}
static uint64_t held_by(const sagemem_heap *heap) { return stats_of(heap).held; }

static sagemem_heap *heap_below(sagemem_heap *parent, const char *name, uint64_t limit) {
    sagemem_heap_desc desc = {0};
    desc.name = name;
    desc.parent = parent;
    desc.limit = limit;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    return heap;
}

/* The wait status of a child that runs fn; what it finds wrong ends it with status 2. */
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
    if (WIFSIGNALED(status)) fail_msg("the child was killed by signal %d", WTERMSIG(status));
    if (on_valgrind() && WEXITSTATUS(status) == 1) return; /* it does not like what the child left behind */
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* -- Limits --------------------------------------------------------------------------------------------- */

/* Fills a heap up to its limit with blocks of one size; held never passes the limit on the way. */
static int fill(sagemem_heap *heap, size_t size, const sagemem_heap *limited, uint64_t limit) {
    int blocks = 0;
    while (sagemem_alloc(heap, size, 1) != NULL) {
        blocks++;
        assert_true(held_by(limited) <= limit);
        assert_true(blocks < 100000);
    }
    assert_failed(sagemem_last_error()->status, SAGEMEM_E_LIMIT, "raise it with sagemem_limit_set");
    return blocks;
}

static void limit_is_never_passed(void **state) {
    (void)state;
    static const size_t sizes[] = {16, 100, 3000, 20000, 300000};
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED};
    for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            sagemem_heap_desc desc = {0};
            desc.name = "the limited one";
            desc.limit = MIB;
            desc.flags = flags[f];
            sagemem_heap *heap = sagemem_heap_create(&desc);
            fill(heap, sizes[i], heap, MIB);
            assert_non_null(strstr(sagemem_last_error()->message, "the limited one"));
            if (sizes[i] < 1000 && flags[f] == 0) assert_true(stats_of(heap).used > MIB * 3 / 4); /* and it is used well */
            assert_true(stats_of(heap).held_peak <= MIB);
            sagemem_heap_destroy(heap);
        }
    }
}

static void limit_of_a_parent_binds_its_children(void **state) {
    (void)state;
    sagemem_heap *top = heap_below(NULL, "top", 2 * MIB), *middle = heap_below(top, "middle", 0),
                 *low = heap_below(middle, "low", MIB);
    fill(low, 20000, low, MIB);
    assert_non_null(strstr(sagemem_last_error()->message, "'low'"));
    assert_int_equal(held_by(middle), held_by(low));
    assert_int_equal(held_by(top), held_by(low));
    fill(middle, 20000, top, 2 * MIB);
    assert_non_null(strstr(sagemem_last_error()->message, "'top'"));
    assert_true(held_by(top) == held_by(middle));
    assert_true(held_by(middle) > held_by(low));
    sagemem_heap_reset(low);
    assert_non_null(sagemem_alloc(middle, 500000, 1)); /* what one has given back another may have */
    sagemem_heap_destroy(low);
    sagemem_heap_destroy(middle);
    assert_int_equal(held_by(top), 0);
    sagemem_heap_destroy(top);
    assert_int_equal(fault.count, 0);
}

static void limit_that_refuses_changes_nothing(void **state) {
    (void)state;
    sagemem_heap *heap = heap_below(NULL, "refusing", 512 * KIB);
    char *block = sagemem_alloc(heap, 1000, 1), *large = sagemem_alloc(heap, 300000, 1);
    memset(block, 7, 1000);
    sagemem_heap_stats before = stats_of(heap);
    assert_null(sagemem_alloc(heap, MIB, 1));
    assert_null(sagemem_aligned_alloc(heap, 65536, 400000, 1));
    assert_null(sagemem_calloc(heap, 1000, 1000, 1));
    assert_null(sagemem_realloc(heap, block, MIB, SAGEMEM_TAG_SAME));
    assert_null(sagemem_realloc(heap, large, MIB, SAGEMEM_TAG_SAME));
    assert_null(sagemem_realloc(heap, large, 20 * MIB, 2));
    sagemem_heap_stats after = stats_of(heap);
    assert_memory_equal(&before, &after, sizeof before);
    for (int i = 0; i < 1000; i++) assert_int_equal(block[i], 7);
    assert_int_equal(sagemem_limit_set(heap, 0), SAGEMEM_OK);
    assert_non_null(sagemem_realloc(heap, large, MIB, SAGEMEM_TAG_SAME));
    sagemem_heap_destroy(heap);
}

static void limit_below_what_is_held(void **state) {
    (void)state;
    sagemem_heap *heap = heap_below(NULL, "lowered", 0);
    void *blocks[20];
    for (int i = 0; i < 20; i++) blocks[i] = sagemem_alloc(heap, 300000, 1);
    uint64_t held = held_by(heap);
    assert_int_equal(sagemem_limit_set(heap, held / 2), SAGEMEM_OK); /* accepted */
    assert_int_equal(held_by(heap), held);
    assert_null(sagemem_alloc(heap, 300000, 1));
    assert_failed(sagemem_last_error()->status, SAGEMEM_E_LIMIT, "free memory");
    for (int i = 0; i < 5; i++) sagemem_free(blocks[i]);
    assert_null(sagemem_alloc(heap, 300000, 1)); /* still above */
    for (int i = 5; i < 12; i++) sagemem_free(blocks[i]);
    assert_true(held_by(heap) < held / 2);
    assert_non_null(sagemem_alloc(heap, 300000, 1));
    sagemem_heap_desc desc;
    assert_int_equal(sagemem_heap_get_desc(heap, &desc), SAGEMEM_OK);
    assert_int_equal(desc.limit, held / 2);
    sagemem_heap_destroy(heap);
}

static void limit_gets_what_a_heap_keeps(void **state) {
    (void)state;
    sagemem_heap *heap = heap_below(NULL, "keeps", 0);
    void *blocks[9000];
    for (int i = 0; i < 9000; i++) blocks[i] = sagemem_alloc(heap, 100, 1);
    for (int i = 0; i < 9000; i++) sagemem_free(blocks[i]);
    sagemem_scope_begin(heap, "spare", 0);
    for (int i = 0; i < 30; i++) assert_non_null(sagemem_alloc(heap, 10000, 1));
    sagemem_scope_end(heap);
    assert_true(held_by(heap) > 256 * KIB); /* kept for later */
    assert_int_equal(sagemem_limit_set(heap, 128 * KIB), SAGEMEM_OK);
    assert_true(held_by(heap) <= 128 * KIB); /* but given up for a limit */
    assert_non_null(sagemem_alloc(heap, 100000, 1));
    sagemem_heap_destroy(heap);
}

static void limit_the_process(void) {
    void *block = sagemem_alloc(NULL, MIB, 1);
    sagemem_trim();
    uint64_t held = held_by(NULL);
    child_check(sagemem_limit_set(NULL, held + 4 * MIB) == SAGEMEM_OK);
    child_check(sagemem_alloc(NULL, 6 * MIB, 1) == NULL);
    child_check(sagemem_last_error()->status == SAGEMEM_E_LIMIT && strstr(sagemem_last_error()->message, "process") != NULL);
    /* pages in the cache are held: they go before anybody is refused */
    for (int i = 0; i < 20; i++) {
        void *large = sagemem_alloc(NULL, (size_t)(2 * MIB + i * 100000), 1);
        child_check(large != NULL);
        sagemem_free(large);
    }
    child_check(held_by(NULL) <= held + 4 * MIB);
    child_check(sagemem_limit_set(NULL, 0) == SAGEMEM_OK);
    child_check(sagemem_alloc(NULL, 6 * MIB, 1) != NULL);
    sagemem_free(block);
}
static void limit_of_the_process(void **state) {
    (void)state;
    assert_child_well(in_child(limit_the_process));
}

static void limit_calls_refuse_what_is_no_heap(void **state) {
    (void)state;
    sagemem_heap *ended = heap_below(NULL, "ended", 0);
    sagemem_heap_destroy(ended);
    assert_int_equal(sagemem_limit_set(ended, 1), SAGEMEM_E_STALE);
    assert_int_equal(sagemem_reserve(ended, 1), SAGEMEM_E_STALE);
    sagemem_heap_stats s;
    assert_int_equal(sagemem_heap_get_stats(ended, &s), SAGEMEM_E_STALE);
    assert_int_equal(fault.count, 3);
    assert_int_equal(sagemem_heap_get_stats(NULL, NULL), SAGEMEM_E_ARGUMENT);
}

enum { RACERS = 4 };
static void *race_to_the_limit(void *ctx) {
    sagemem_heap *parent = ctx, *heap = heap_below(parent, "racer", 0);
    uintptr_t over = 0;
    for (int round = 0; round < 200; round++) {
        while (sagemem_alloc(heap, 70000, 1) != NULL) {
        }
        sagemem_heap_stats s;
        over |= sagemem_heap_get_stats(parent, &s) != SAGEMEM_OK || s.held > 4 * MIB;
        sagemem_heap_reset(heap);
    }
    sagemem_heap_destroy(heap);
    return (void *)over;
}
static void limit_is_not_passed_by_many_threads(void **state) {
    (void)state;
    sagemem_heap *parent = heap_below(NULL, "raced", 4 * MIB);
    pthread_t threads[RACERS];
    for (int i = 0; i < RACERS; i++) assert_int_equal(pthread_create(&threads[i], NULL, race_to_the_limit, parent), 0);
    for (int i = 0; i < RACERS; i++) {
        void *over = NULL;
        pthread_join(threads[i], &over);
        assert_null(over);
    }
    assert_int_equal(held_by(parent), 0);
    assert_true(stats_of(parent).held_peak <= 4 * MIB);
    sagemem_heap_destroy(parent);
}

/* -- Reserves ------------------------------------------------------------------------------------------- */

static void reserve_is_held_and_shrinks(void **state) {
    (void)state;
    sagemem_heap *parent = heap_below(NULL, "reserving parent", 8 * MIB), *heap = heap_below(parent, "reserving", 0),
                 *other = heap_below(parent, "other", 0);
    assert_int_equal(sagemem_reserve(heap, 4 * MIB), SAGEMEM_OK);
    assert_int_equal(stats_of(heap).reserved, 4 * MIB);
    assert_int_equal(held_by(heap), 4 * MIB);
    assert_int_equal(held_by(parent), 4 * MIB);
    assert_null(sagemem_alloc(other, 5 * MIB, 1)); /* it is spoken for */
    void *block = sagemem_alloc(heap, MIB, 1);
    assert_int_equal(held_by(heap), 4 * MIB);
    uint64_t taken = 4 * MIB - stats_of(heap).reserved; /* the block's pages; a little more where a tool watches */
    assert_in_range(taken, MIB, MIB + 64 * KIB);
    assert_int_equal(sagemem_reserve(heap, MIB), SAGEMEM_OK); /* sets, does not add */
    assert_int_equal(stats_of(heap).reserved, MIB);
    assert_int_equal(held_by(heap), MIB + taken);
    assert_int_equal(held_by(parent), MIB + taken);
    assert_int_equal(sagemem_reserve(heap, 0), SAGEMEM_OK);
    assert_int_equal(held_by(heap), taken);
    sagemem_free(block);
    assert_int_equal(held_by(heap), 0);
    sagemem_heap_destroy(heap);
    sagemem_heap_destroy(other);
    sagemem_heap_destroy(parent);
}

static void reserve_that_does_not_fit_changes_nothing(void **state) {
    (void)state;
    sagemem_heap *parent = heap_below(NULL, "parent", 4 * MIB), *heap = heap_below(parent, "child", 0);
    assert_int_equal(sagemem_reserve(heap, MIB), SAGEMEM_OK);
    sagemem_heap_stats before = stats_of(heap), above = stats_of(parent), after;
    static const uint64_t sizes[] = {5 * MIB, (uint64_t)1 << 60, UINT64_MAX, UINT64_MAX - MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_failed(sagemem_reserve(heap, sizes[i]), SAGEMEM_E_LIMIT, "raise it");
        after = stats_of(heap);
        assert_int_equal(after.held, before.held);
        assert_int_equal(after.reserved, before.reserved);
        assert_int_equal(after.held_peak, before.held_peak);
        after = stats_of(parent);
        assert_memory_equal(&after, &above, sizeof above);
    }
    sagemem_heap_destroy(heap);
    assert_int_equal(held_by(parent), 0); /* the claim goes with the heap */
    sagemem_heap_destroy(parent);
}

static void reserve_makes_allocation_sure(void **state) {
    (void)state;
    sagemem_heap *parent = heap_below(NULL, "parent", 4 * MIB), *sure = heap_below(parent, "sure", 0),
                 *greedy = heap_below(parent, "greedy", 0);
    assert_int_equal(sagemem_reserve(sure, 2 * MIB), SAGEMEM_OK);
    fill(greedy, 50000, parent, 4 * MIB);
    for (int i = 0; i < 4; i++) assert_non_null(sagemem_alloc(sure, 500000, 1));
    assert_true(held_by(parent) <= 4 * MIB);
    assert_null(sagemem_alloc(sure, 500000, 1));
    assert_int_equal(sagemem_reserve(parent, 0), SAGEMEM_OK);
    sagemem_heap_destroy(sure);
    sagemem_heap_destroy(greedy);
    sagemem_heap_destroy(parent);
}

static void reserve_in_the_process(void) {
    uint64_t held = held_by(NULL);
    child_check(sagemem_reserve(NULL, 16 * MIB) == SAGEMEM_OK);
    child_check(held_by(NULL) == held + 16 * MIB && stats_of(NULL).reserved == 16 * MIB);
    child_check(sagemem_limit_set(NULL, held + 16 * MIB) == SAGEMEM_OK);
    void *blocks[7];
    for (int round = 0; round < 3; round++) { /* from the claim, then from the cache */
        for (int i = 0; i < 7; i++) child_check((blocks[i] = sagemem_alloc(NULL, 2 * MIB, 1)) != NULL);
        child_check(held_by(NULL) <= held + 16 * MIB);
        child_check(sagemem_alloc(NULL, 8 * MIB, 1) == NULL);
        for (int i = 0; i < 7; i++) sagemem_free(blocks[i]);
    }
    child_check(sagemem_reserve(NULL, 0) == SAGEMEM_OK);
    child_check(stats_of(NULL).reserved == 0);
    sagemem_trim();
    child_check(held_by(NULL) <= held + MIB);
}
static void reserve_of_the_process(void **state) {
    (void)state;
    assert_child_well(in_child(reserve_in_the_process));
}

/* -- Reclaimers ----------------------------------------------------------------------------------------- */

static struct cache {
    sagemem_heap *heap;
    void *block[8];
    int count, calls;
    uint64_t wanted;
    bool allocates, lies;
} caches[3];
static char called[64];

static uint64_t give_back(void *ctx, uint64_t wanted) {
    struct cache *c = ctx;
    c->calls++;
    c->wanted = wanted;
    if (strlen(called) < sizeof called - 2) called[strlen(called)] = (char)('0' + (c - caches));
    if (c->lies) return 1;
    if (c->allocates) sagemem_free(sagemem_alloc(c->heap, 100, 2));
    if (c->count == 0) return 0;
    c->count--;
    uint64_t size = sagemem_size(c->block[c->count]);
    sagemem_free(c->block[c->count]);
    return size;
}

static void start_caches(sagemem_heap *heap) {
    memset(caches, 0, sizeof caches);
    memset(called, 0, sizeof called);
    for (int i = 0; i < 3; i++) caches[i].heap = heap;
}

static void reclaimers_run_by_priority_until_it_is_enough(void **state) {
    (void)state;
    sagemem_heap *heap = heap_below(NULL, "cached", 4 * MIB);
    start_caches(heap);
    for (int i = 0; i < 3; i++)
        for (int b = 0; b < 2; b++) caches[i].block[caches[i].count++] = sagemem_alloc(heap, 600000, 2);
    /* priorities: 2 first, then 0, then 1 */
    assert_int_equal(sagemem_reclaimer_add("second", 5, give_back, &caches[0]), SAGEMEM_OK);
    assert_int_equal(sagemem_reclaimer_add("last", 9, give_back, &caches[1]), SAGEMEM_OK);
    assert_int_equal(sagemem_reclaimer_add("first", -3, give_back, &caches[2]), SAGEMEM_OK);
    caches[2].allocates = true;
    void *block = sagemem_alloc(heap, MIB, 1);
    assert_non_null(block);
    assert_int_equal(called[0], '2');
    assert_true(caches[2].wanted >= MIB);
    size_t asked = strlen(called);
    assert_non_null(sagemem_alloc(heap, 20000, 1)); /* there is room: nobody is asked */
    assert_int_equal(strlen(called), asked);
    assert_int_equal(sagemem_reclaimer_remove("second"), SAGEMEM_OK);
    memset(called, 0, sizeof called);
    assert_null(sagemem_alloc(heap, 8 * MIB, 1)); /* all give, and it is not enough */
    assert_failed(sagemem_last_error()->status, SAGEMEM_E_LIMIT, "add a reclaimer");
    assert_null(strchr(called, '0'));
    assert_non_null(strchr(called, '1'));
    assert_int_equal(sagemem_reclaimer_remove("first"), SAGEMEM_OK);
    assert_int_equal(sagemem_reclaimer_remove("last"), SAGEMEM_OK);
    sagemem_heap_destroy(heap);
    assert_int_equal(fault.count, 0);
}

static void reclaimer_that_lies_does_not_hang(void **state) {
    (void)state;
    sagemem_heap *heap = heap_below(NULL, "lied to", MIB);
    start_caches(heap);
    caches[0].lies = caches[1].lies = true;
    sagemem_reclaimer_add("liar", 0, give_back, &caches[0]);
    sagemem_reclaimer_add("another", 0, give_back, &caches[1]);
    assert_null(sagemem_alloc(heap, 2 * MIB, 1));
    assert_failed(sagemem_last_error()->status, SAGEMEM_E_LIMIT, "raise it");
    assert_true(caches[0].calls >= 1 && caches[0].calls < 10);
    sagemem_reclaimer_remove("liar");
    sagemem_reclaimer_remove("another");
    sagemem_heap_destroy(heap);
}

static void reclaimer_is_not_entered_again(void **state) {
    (void)state;
    sagemem_heap *heap = heap_below(NULL, "recursive", 64 * KIB);
    start_caches(heap);
    caches[0].allocates = true; /* which meets the limit itself */
    while (sagemem_alloc(heap, 90, 1) != NULL) {
    }
    sagemem_reclaimer_add("allocates", 0, give_back, &caches[0]);
    assert_null(sagemem_alloc(heap, 90, 1));
    assert_int_equal(caches[0].calls, 1);
    sagemem_reclaimer_remove("allocates");
    sagemem_heap_destroy(heap);
}

static void reclaimers_run_when_a_limit_is_lowered(void **state) {
    (void)state;
    sagemem_heap *heap = heap_below(NULL, "lowered", 0);
    start_caches(heap);
    for (int b = 0; b < 4; b++) caches[0].block[caches[0].count++] = sagemem_alloc(heap, 600000, 2);
    for (int b = 0; b < 4; b++) caches[1].block[caches[1].count++] = sagemem_alloc(heap, 600000, 2);
    sagemem_reclaimer_add("one", 0, give_back, &caches[0]);
    sagemem_reclaimer_add("two", 1, give_back, &caches[1]);
    uint64_t held = held_by(heap);
    assert_int_equal(sagemem_limit_set(heap, held - MIB), SAGEMEM_OK);
    assert_true(held_by(heap) <= held - MIB);
    sagemem_reclaimer_remove("one");
    sagemem_reclaimer_remove("two");
    sagemem_heap_destroy(heap);
}

static void reclaimer_calls_refuse_bad_arguments(void **state) {
    (void)state;
    assert_failed(sagemem_reclaimer_add(NULL, 0, give_back, NULL), SAGEMEM_E_ARGUMENT, "needs a name and a function");
    assert_failed(sagemem_reclaimer_add("name", 0, NULL, NULL), SAGEMEM_E_ARGUMENT, "needs a name and a function");
    assert_failed(sagemem_reclaimer_remove("nobody"), SAGEMEM_E_NOT_FOUND, "nobody");
    assert_failed(sagemem_reclaimer_remove(NULL), SAGEMEM_E_NOT_FOUND, "NULL");
    char name[32];
    for (int i = 0; i < 64; i++) {
        snprintf(name, sizeof name, "reclaimer %d", i);
        assert_int_equal(sagemem_reclaimer_add(name, i % 7, give_back, &caches[0]), SAGEMEM_OK);
    }
    assert_failed(sagemem_reclaimer_add("too many", 0, give_back, NULL), SAGEMEM_E_FULL, "remove one");
    for (int i = 0; i < 64; i++) {
        snprintf(name, sizeof name, "reclaimer %d", i);
        assert_int_equal(sagemem_reclaimer_remove(name), SAGEMEM_OK);
    }
    assert_int_equal(sagemem_reclaimer_remove("reclaimer 1"), SAGEMEM_E_NOT_FOUND);
}

/* -- What the system says ------------------------------------------------------------------------------- */

static void limit_detect_is_plausible(void **state) {
    (void)state;
    uint64_t limit = sagemem_limit_detect();
    uint64_t ram = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    assert_true(limit > 16 * MIB);
    assert_true(limit <= ram);
}

static void set_address_limit(void) {
    struct rlimit limit = {(rlim_t)3 << 29, (rlim_t)3 << 29};
    uint64_t before = sagemem_limit_detect();
    if (setrlimit(RLIMIT_AS, &limit) != 0) _exit(0);
    uint64_t expected = before < (uint64_t)limit.rlim_cur ? before : (uint64_t)limit.rlim_cur;
    child_check(sagemem_limit_detect() == expected);
    sagemem_system_memory m;
    child_check(sagemem_system_memory_get(&m) == SAGEMEM_OK && m.limit == expected);
}
static void limit_detect_sees_the_address_limit(void **state) {
    (void)state;
    assert_child_well(in_child(set_address_limit));
}

static void system_memory_adds_up(void **state) {
    (void)state;
    sagemem_system_memory m;
    memset(&m, 0xAA, sizeof m);
    assert_int_equal(sagemem_system_memory_get(&m), SAGEMEM_OK);
    assert_int_equal(m.total, (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
    assert_true(m.available <= m.total && m.used == m.total - m.available);
    assert_true(m.resident > 0 && m.resident < m.total);
    assert_int_equal(m.limit, sagemem_limit_detect());
    assert_true(m.usage_percent > 0 && m.usage_percent <= 100);
    double used = 100.0 * (double)m.used / (double)m.total, own = 100.0 * (double)m.resident / (double)m.limit;
    assert_true(m.usage_percent > (used > own ? used : own) - 0.01 && m.usage_percent < (used > own ? used : own) + 0.01);
    assert_failed(sagemem_system_memory_get(NULL), SAGEMEM_E_ARGUMENT, "pass the address");
}

/* -- Pressure ------------------------------------------------------------------------------------------- */

static struct {
    int calls;
    sagemem_pressure last;
    pthread_t thread;
} pressure;
static void on_pressure(void *ctx, const sagemem_system_memory *now) {
    assert_ptr_equal(ctx, &pressure);
    pressure.last = now->pressure;
    pressure.thread = pthread_self();
    __atomic_fetch_add(&pressure.calls, 1, __ATOMIC_RELEASE);
}
static int pressure_calls(void) { return __atomic_load_n(&pressure.calls, __ATOMIC_ACQUIRE); }

/* Takes pages, so that a heap has reason to look. */
static void take_pages(void) {
    sagemem_heap *heap = heap_below(NULL, "looks", 0);
    for (int i = 0; i < 10; i++) assert_non_null(sagemem_alloc(heap, 300000, 0));
    sagemem_heap_destroy(heap);
}

static void pressure_is_looked_at_when_pages_are_taken(void **state) {
    (void)state;
    memset(&pressure, 0, sizeof pressure);
    assert_int_equal(sagemem_pressure_watch(0.0001, 0.0002, on_pressure, &pressure, 0), SAGEMEM_OK);
    assert_int_equal(pressure_calls(), 0); /* no thread, no page: nobody has looked */
    take_pages();
    assert_int_equal(pressure_calls(), 1);
    assert_int_equal(pressure.last, SAGEMEM_PRESSURE_CRITICAL);
    assert_true(pthread_equal(pressure.thread, pthread_self()));
    take_pages(); /* the level is the same */
    assert_int_equal(pressure_calls(), 1);
    assert_int_equal(sagemem_pressure_watch(0.0001, 100, on_pressure, &pressure, 0), SAGEMEM_OK);
    take_pages();
    assert_int_equal(pressure_calls(), 2);
    assert_int_equal(pressure.last, SAGEMEM_PRESSURE_WARNING);
    sagemem_system_memory m;
    sagemem_system_memory_get(&m);
    assert_int_equal(m.pressure, SAGEMEM_PRESSURE_WARNING); /* by the same thresholds */
    assert_int_equal(sagemem_pressure_watch(0, 0, NULL, NULL, 0), SAGEMEM_OK);
    take_pages();
    assert_int_equal(pressure_calls(), 2);
}

static void pressure_thread_looks_by_itself(void **state) {
    (void)state;
    memset(&pressure, 0, sizeof pressure);
    assert_int_equal(sagemem_pressure_watch(0.0001, 0.0002, on_pressure, &pressure, 5), SAGEMEM_OK);
    for (int waited = 0; pressure_calls() == 0 && waited < 2000; waited++) usleep(1000);
    usleep(40000); /* it has looked again: the level is the same */
    assert_int_equal(pressure_calls(), 1);
    assert_int_equal(sagemem_pressure_watch(0.0001, 100, on_pressure, &pressure, 5), SAGEMEM_OK); /* another in its place */
    for (int waited = 0; pressure_calls() == 1 && waited < 2000; waited++) usleep(1000);
    assert_int_equal(pressure_calls(), 2);
    assert_int_equal(sagemem_pressure_watch(0, 0, NULL, NULL, 0), SAGEMEM_OK);
    int calls = pressure_calls(); /* the thread was waited for */
    usleep(30000);
    assert_int_equal(pressure_calls(), calls);
    assert_false(pthread_equal(pressure.thread, pthread_self()));
    assert_int_equal(sagemem_pressure_watch(0, 0, NULL, NULL, 0), SAGEMEM_OK);
}

static void pressure_thresholds_are_checked(void **state) {
    (void)state;
    static const double bad[][2] = {{0, 50}, {-1, 50}, {60, 50}, {50, 101}, {101, 102}};
    volatile double zero = 0;
    memset(&pressure, 0, sizeof pressure);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_failed(sagemem_pressure_watch(bad[i][0], bad[i][1], on_pressure, &pressure, 0), SAGEMEM_E_ARGUMENT, "0 < warning");
    assert_failed(sagemem_pressure_watch(zero / zero, 50, on_pressure, &pressure, 0), SAGEMEM_E_ARGUMENT, "0 < warning");
    assert_failed(sagemem_pressure_watch(50, zero / zero, on_pressure, &pressure, 0), SAGEMEM_E_ARGUMENT, "0 < warning");
    take_pages();
    assert_int_equal(pressure_calls(), 0);
}

/* -- Trim ----------------------------------------------------------------------------------------------- */

static void trim_of_heaps_of_this_thread(void **state) {
    (void)state;
    sagemem_heap *heap = heap_below(NULL, "trimmed", 0);
    void *blocks[9000];
    for (int i = 0; i < 9000; i++) blocks[i] = sagemem_alloc(heap, 100, 1);
    for (int i = 0; i < 9000; i++) sagemem_free(blocks[i]);
    uint64_t held = held_by(NULL);
    assert_true(held_by(heap) > 0);
    uint64_t given = sagemem_trim();
    assert_true(given > 0);
    assert_int_equal(held_by(NULL), held - given);
    assert_true(held_by(heap) <= 64 * KIB);
    assert_non_null(sagemem_alloc(heap, 100, 1));
    sagemem_heap_destroy(heap);
}

struct other_thread {
    pthread_mutex_t lock;
    pthread_cond_t step;
    int at;
    uint64_t held_before, held_after;
};
static void wait_for(struct other_thread *t, int at) {
    pthread_mutex_lock(&t->lock);
    while (t->at < at) pthread_cond_wait(&t->step, &t->lock);
    pthread_mutex_unlock(&t->lock);
}
static void go_to(struct other_thread *t, int at) {
    pthread_mutex_lock(&t->lock);
    t->at = at;
    pthread_cond_broadcast(&t->step);
    pthread_mutex_unlock(&t->lock);
}
static void *keep_and_be_trimmed(void *ctx) {
    struct other_thread *t = ctx;
    static void *blocks[9000];
    sagemem_heap *heap = heap_below(NULL, "other", 0);
    for (int i = 0; i < 9000; i++) blocks[i] = sagemem_alloc(heap, 100, 1);
    for (int i = 0; i < 9000; i++) sagemem_free(blocks[i]);
    t->held_before = held_by(heap);
    go_to(t, 1);
    wait_for(t, 2);
    sagemem_free(sagemem_alloc(heap, 300000, 1)); /* a slow path */
    t->held_after = held_by(heap);
    sagemem_heap_destroy(heap);
    return NULL;
}
static void trim_reaches_other_threads_on_their_slow_path(void **state) {
    (void)state;
    struct other_thread t = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, keep_and_be_trimmed, &t), 0);
    wait_for(&t, 1);
    sagemem_trim();
    go_to(&t, 2);
    pthread_join(thread, NULL);
    assert_true(t.held_before > 256 * KIB);
    assert_true(t.held_after <= 64 * KIB);
}

/* With an argument: only the tests whose names match it (* and ?). */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
#define T(name) cmocka_unit_test_setup(name, setup)
    static const struct CMUnitTest tests[] = {
        T(limit_is_never_passed),
        T(limit_of_a_parent_binds_its_children),
        T(limit_that_refuses_changes_nothing),
        T(limit_below_what_is_held),
        T(limit_gets_what_a_heap_keeps),
        T(limit_of_the_process),
        T(limit_calls_refuse_what_is_no_heap),
        T(limit_is_not_passed_by_many_threads),
        T(reserve_is_held_and_shrinks),
        T(reserve_that_does_not_fit_changes_nothing),
        T(reserve_makes_allocation_sure),
        T(reserve_of_the_process),
        T(reclaimers_run_by_priority_until_it_is_enough),
        T(reclaimer_that_lies_does_not_hang),
        T(reclaimer_is_not_entered_again),
        T(reclaimers_run_when_a_limit_is_lowered),
        T(reclaimer_calls_refuse_bad_arguments),
        T(limit_detect_is_plausible),
        T(limit_detect_sees_the_address_limit),
        T(system_memory_adds_up),
        T(pressure_is_looked_at_when_pages_are_taken),
        T(pressure_thread_looks_by_itself),
        T(pressure_thresholds_are_checked),
        T(trim_of_heaps_of_this_thread),
        T(trim_reaches_other_threads_on_their_slow_path),
    };
    return cmocka_run_group_tests_name("public_budget", tests, NULL, NULL);
}
