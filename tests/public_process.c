/* Processes and threads through the public interface: fork, ending threads, little address space. */
#include "public.h"

static bool slow(void) { return getenv("SAGEMEM_TEST_SLOW") != NULL; }

static int faults;
static sagemem_error last_fault;
static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    faults++;
    last_fault = *error;
}
static int setup(void **state) {
    (void)state;
    faults = 0;
    sagemem_set_fault_handler(on_fault, NULL);
    return 0;
}

/* In children and threads, where a failed assertion of cmocka would jump into the parent's tests. */
#define check(condition)                                                                                                           \
    do {                                                                                                                           \
        if (!(condition)) {                                                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold; last error: %s; last fault: %s\n", __FILE__, __LINE__, #condition,           \
                    sagemem_last_error()->message, last_fault.message);                                                            \
            _exit(2);                                                                                                              \
        }                                                                                                                          \
    } while (0)

/* In the child of a fork that was made here. */
static void child_begins(void) {
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGSYS};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) signal(signals[i], SIG_DFL);
    alarm(CHILD_SECONDS);
}
static void assert_child_well(pid_t pid) {
    int status = 0;
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status))
        fail_msg("the child was killed by signal %d%s", WTERMSIG(status), WTERMSIG(status) == SIGALRM ? " (it hung)" : "");
    if (on_valgrind() && WEXITSTATUS(status) == 1) return; /* it does not like what the child left behind */
    assert_int_equal(WEXITSTATUS(status), 0);
}
static pid_t start_child(void (*fn)(void)) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid != 0) return pid;
    child_begins();
    fn();
    _exit(0);
}

static sagemem_heap_stats stats_of(const sagemem_heap *heap) {
    sagemem_heap_stats s;
    check(sagemem_heap_get_stats(heap, &s) == SAGEMEM_OK);
    return s;
}

/* Uses a heap in all ways; nothing of it is left. */
static void use(sagemem_heap *heap) {
    void *blocks[200];
    if (heap == NULL) heap = sagemem_heap_default();
    uint64_t used = stats_of(heap).used;
    for (size_t i = 0; i < 200; i++) {
        blocks[i] = sagemem_alloc(heap, (size_t)1 << (i % 19), (sagemem_tag)(i % 5));
        check(blocks[i] != NULL);
        memset(blocks[i], (int)i, (size_t)1 << (i % 19));
    }
    for (size_t i = 0; i < 200; i += 2) {
        blocks[i] = sagemem_realloc(heap, blocks[i], 3000, SAGEMEM_TAG_SAME);
        check(blocks[i] != NULL);
    }
    check(sagemem_scope_begin(heap, "used", 1) == SAGEMEM_OK);
    for (size_t i = 0; i < 100; i++) check(sagemem_alloc(heap, i * 10, 1) != NULL);
    check(sagemem_scope_end(heap) == SAGEMEM_OK);
    for (size_t i = 0; i < 200; i++) sagemem_free(blocks[i]);
    check(stats_of(heap).used == used);
    check(sagemem_heap_check(heap) == 0);
}

/* -- Fork ----------------------------------------------------------------------------------------------- */

static void *inherited[4];
static sagemem_heap *heap_of_parent;

static void use_what_was_inherited(void) {
    for (int i = 0; i < 4; i++) {
        check(sagemem_owns(inherited[i]));
        check(*(char *)inherited[i] == 'a' + i);
    }
    uint64_t blocks = stats_of(heap_of_parent).blocks;
    sagemem_free(inherited[0]);
    sagemem_free(inherited[3]);
    inherited[1] = sagemem_realloc(NULL, inherited[1], 100000, SAGEMEM_TAG_SAME);
    check(inherited[1] != NULL && *(char *)inherited[1] == 'b');
    check(stats_of(heap_of_parent).blocks == blocks - 2);
    use(heap_of_parent);
    use(NULL);
    sagemem_heap *own = sagemem_heap_create(NULL);
    use(own);
    sagemem_heap_destroy(own);
    sagemem_heap_destroy(heap_of_parent);
    sagemem_trim();
    check(faults == 0);
}
static void fork_child_goes_on_with_the_heaps_of_its_thread(void **state) {
    (void)state;
    static const size_t sizes[] = {10, 1000, 30000, 20 * MIB};
    sagemem_heap_desc desc = {0};
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED};
    for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++) {
        desc.flags = flags[f];
        heap_of_parent = sagemem_heap_create(&desc);
        for (int i = 0; i < 4; i++) {
            inherited[i] = sagemem_alloc(heap_of_parent, sizes[i], 1);
            *(char *)inherited[i] = (char)('a' + i);
        }
        pid_t pid = start_child(use_what_was_inherited);
        use(heap_of_parent);
        assert_child_well(pid);
        for (int i = 0; i < 4; i++) assert_true(*(char *)inherited[i] == 'a' + i); /* nothing of it shows here */
        assert_int_equal(stats_of(heap_of_parent).blocks, 4);
        sagemem_heap_destroy(heap_of_parent);
    }
}

static int ended;
static void count_end(void *ctx) { ended += *(int *)ctx; }
static void end_scopes_of_the_parent(void) {
    check(sagemem_scope_end(heap_of_parent) == SAGEMEM_OK);
    check(ended == 1);
    sagemem_heap_destroy(heap_of_parent);
    check(ended == 11);
}
static void fork_with_open_scopes(void **state) {
    (void)state;
    static int one = 1, ten = 10;
    ended = 0;
    heap_of_parent = sagemem_heap_create(NULL);
    sagemem_scope_begin(heap_of_parent, "outer", 0);
    sagemem_scope_defer(heap_of_parent, count_end, &ten);
    sagemem_scope_begin(heap_of_parent, "inner", 0);
    sagemem_scope_defer(heap_of_parent, count_end, &one);
    assert_non_null(sagemem_alloc(heap_of_parent, 1000, 0));
    pid_t pid = start_child(end_scopes_of_the_parent);
    assert_child_well(pid);
    assert_int_equal(ended, 0);
    sagemem_heap_destroy(heap_of_parent);
    assert_int_equal(ended, 11);
}

/* A thread that keeps a heap with blocks of every kind, and waits. */
struct holder {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ready, done;
    sagemem_heap *heap;
    void *block[4];
};
static void *hold(void *ctx) {
    static const size_t sizes[] = {10, 1000, 30000, 20 * MIB};
    struct holder *h = ctx;
    h->heap = sagemem_heap_default();
    for (int i = 0; i < 3000; i++) check(sagemem_alloc(NULL, 10, 1) != NULL); /* so that there are slab pages */
    for (int i = 0; i < 4; i++) {
        h->block[i] = sagemem_alloc(NULL, sizes[i], 1);
        memset(h->block[i], 'h', sizes[i]);
    }
    pthread_mutex_lock(&h->lock);
    h->ready = true;
    pthread_cond_broadcast(&h->changed);
    while (!h->done) pthread_cond_wait(&h->changed, &h->lock);
    pthread_mutex_unlock(&h->lock);
    sagemem_heap_reset(h->heap); /* nothing is left for the tools to call lost */
    return NULL;
}
static void start_holder(struct holder *h) {
    memset(h, 0, sizeof *h);
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->changed, NULL);
    assert_int_equal(pthread_create(&h->thread, NULL, hold, h), 0);
    pthread_mutex_lock(&h->lock);
    while (!h->ready) pthread_cond_wait(&h->changed, &h->lock);
    pthread_mutex_unlock(&h->lock);
}
static void end_holder(struct holder *h) {
    pthread_mutex_lock(&h->lock);
    h->done = true;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->thread, NULL);
}

static struct holder holder;
static void *use_default(void *ctx) {
    sagemem_heap **heap = ctx;
    *heap = sagemem_heap_default();
    use(NULL);
    return NULL;
}
static void free_what_other_threads_had(void) {
    uint64_t before = stats_of(NULL).used;
    uint64_t sizes = 0;
    for (int i = 0; i < 4; i++) {
        check(sagemem_owns(holder.block[i]));
        check(*(char *)holder.block[i] == 'h');
        sizes += sagemem_size(holder.block[i]);
        check(sagemem_heap_of(holder.block[i]) == holder.heap);
        sagemem_free(holder.block[i]);
    }
    check(faults == 0);
    check(stats_of(NULL).used == before - sizes);
    sagemem_free(holder.block[1]); /* twice */
    check(faults == 1 && last_fault.status == SAGEMEM_E_STALE);
    /* the heap is nobody's, and nobody takes it over: its thread may have stopped anywhere */
    check(sagemem_alloc(holder.heap, 10, 0) == NULL);
    check(sagemem_heap_adopt(holder.heap) == SAGEMEM_E_BUSY);
    check(strstr(sagemem_last_error()->message, "fork") != NULL);
    sagemem_heap *heap = NULL, *mine = sagemem_heap_default();
    pthread_t thread;
    check(pthread_create(&thread, NULL, use_default, &heap) == 0);
    check(pthread_join(thread, NULL) == 0);
    check(heap != NULL && heap != holder.heap && heap != mine);
    use(NULL);
}
static void fork_child_frees_blocks_of_other_threads(void **state) {
    (void)state;
    start_holder(&holder);
    pid_t pid = start_child(free_what_other_threads_had);
    assert_child_well(pid);
    for (int i = 0; i < 4; i++) assert_true(sagemem_owns(holder.block[i]));
    end_holder(&holder);
}

/* Threads that allocate, open scopes, name tags, make heaps and free each other's blocks while the parent forks. */
enum { BUSY_THREADS = 4, MAILBOXES = 64 };
static void *mailbox[MAILBOXES];
static sagemem_heap *shared_heap;
static bool stop_busy;
static void *be_busy(void *ctx) {
    unsigned random = (unsigned)(uintptr_t)ctx * 2654435761u + 1;
    char name[32];
    while (!__atomic_load_n(&stop_busy, __ATOMIC_ACQUIRE)) {
        random = random * 1664525u + 1013904223u;
        size_t size = random >> 8 & 7 ? random >> 12 & 1023 : random >> 12 & 0x3FFFF;
        void *block = sagemem_alloc(random >> 30 == 0 ? shared_heap : NULL, size, (sagemem_tag)(random >> 5 & 7));
        check(block != NULL);
        void *other = __atomic_exchange_n(&mailbox[random >> 16 & (MAILBOXES - 1)], block, __ATOMIC_ACQ_REL);
        sagemem_free(other);
        if (random >> 24 == 1) {
            snprintf(name, sizeof name, "Busy/%u", random >> 10 & 15);
            (void)sagemem_tag_named(name);
            sagemem_heap *heap = sagemem_heap_create(NULL);
            check(heap != NULL && sagemem_alloc(heap, 100, 0) != NULL);
            sagemem_heap_destroy(heap);
        } else if (random >> 24 == 2) {
            sagemem_heap *heap = random & 256 ? shared_heap : NULL;
            if (heap == NULL) {
                check(sagemem_scope_begin(heap, "busy", random) == SAGEMEM_OK);
                check(sagemem_alloc(heap, 5000, 1) != NULL);
                check(sagemem_scope_end(heap) == SAGEMEM_OK);
            }
        } else if (random >> 24 == 3) {
            (void)stats_of(NULL);
        }
    }
    return NULL;
}
static void live_on(void) {
    faults = 0; /* its parent is asked for its own */
    use(NULL);
    use(shared_heap);
    for (int i = 0; i < MAILBOXES; i++) {
        void *block = mailbox[i];
        if (block == NULL) continue;
        check(sagemem_owns(block));
        sagemem_free(block);
    }
    check(faults == 0);
    check(sagemem_tag_named("Busy/new in the child") != SAGEMEM_UNTAGGED);
    sagemem_heap *heap = NULL;
    pthread_t thread;
    check(pthread_create(&thread, NULL, use_default, &heap) == 0);
    check(pthread_join(thread, NULL) == 0);
    sagemem_trim();
    check(faults == 0);
}
static void start_busy(pthread_t *threads) {
    sagemem_heap_desc desc = {0};
    desc.flags = SAGEMEM_HEAP_SHARED;
    shared_heap = sagemem_heap_create(&desc);
    memset(mailbox, 0, sizeof mailbox);
    stop_busy = false;
    for (int i = 0; i < BUSY_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, be_busy, (void *)(uintptr_t)(i + 1)), 0);
}
/* All has come back, and nobody was accused of anything. */
static void end_busy(pthread_t *threads) {
    __atomic_store_n(&stop_busy, true, __ATOMIC_RELEASE);
    for (int i = 0; i < BUSY_THREADS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < MAILBOXES; i++) sagemem_free(mailbox[i]);
    uint64_t left = stats_of(shared_heap).blocks;
    sagemem_heap_destroy(shared_heap);
    if (faults != 0) fail_msg("%d faults, the last: %s: %s", faults, last_fault.call, last_fault.message);
    assert_int_equal(left, 0);
}

static void threads_free_the_blocks_of_others(void **state) {
    (void)state;
    pthread_t threads[BUSY_THREADS];
    start_busy(threads);
    usleep(500000);
    end_busy(threads);
}

static void fork_while_other_threads_allocate(void **state) {
    (void)state;
    pthread_t threads[BUSY_THREADS];
    start_busy(threads);
    int forks = slow() ? 5 : 25, bad = 0;
    for (int i = 0; i < forks; i++) {
        int status = 0;
        pid_t pid = start_child(live_on);
        bad += pid < 0 || waitpid(pid, &status, 0) != pid || (status != 0 && !(on_valgrind() && WEXITSTATUS(status) == 1));
    }
    end_busy(threads);
    assert_int_equal(bad, 0);
}

/* Scopes of a shared heap need the lock of the heap and, for a new kind, that of the process; so does fork. */
static void *open_shared_scopes(void *ctx) {
    (void)ctx;
    char kind[32];
    for (unsigned i = 0; !__atomic_load_n(&stop_busy, __ATOMIC_ACQUIRE); i++) {
        snprintf(kind, sizeof kind, "kind %u", i % 1000);
        check(sagemem_scope_begin(shared_heap, kind, i) == SAGEMEM_OK);
        check(sagemem_scope_end(shared_heap) == SAGEMEM_OK);
    }
    return NULL;
}
static void nothing(void) {}
static void fork_and_scope_often(void) {
    sagemem_heap_desc desc = {0};
    desc.flags = SAGEMEM_HEAP_SHARED;
    shared_heap = sagemem_heap_create(&desc);
    pthread_t thread;
    stop_busy = false;
    check(pthread_create(&thread, NULL, open_shared_scopes, NULL) == 0);
    alarm(slow() ? 20 : 3);
    for (int i = 0; i < (slow() ? 20 : 100); i++) {
        pid_t pid = start_child(nothing);
        int status = 0;
        check(pid > 0 && waitpid(pid, &status, 0) == pid && (status == 0 || on_valgrind()));
    }
    __atomic_store_n(&stop_busy, true, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
}
static void fork_while_another_thread_opens_scopes_of_a_shared_heap(void **state) {
    (void)state;
    if (on_valgrind()) skip(); /* it runs one thread at a time, and not in turn */
    pid_t pid = start_child(fork_and_scope_often);
    assert_child_well(pid);
}

static void grandchild(void) { use(heap_of_parent); }
/* A call on an object of a shared heap has the heap locked while it asks reclaimers, who are under a lock of the process. */
static uint64_t reclaim_nothing(void *ctx, uint64_t wanted) {
    (void)ctx, (void)wanted;
    return 0;
}
static void *meet_the_limit_often(void *ctx) {
    sagemem_arena_desc desc = {(sagemem_heap *)ctx, 0, NULL, 0, 0};
    sagemem_arena *arena = sagemem_arena_create(&desc);
    check(arena != NULL);
    while (!__atomic_load_n(&stop_busy, __ATOMIC_ACQUIRE)) check(sagemem_arena_alloc(arena, MIB) == NULL);
    sagemem_arena_destroy(arena);
    return NULL;
}
static void fork_and_reclaim_often(void) {
    sagemem_heap_desc desc = {0};
    desc.flags = SAGEMEM_HEAP_SHARED;
    desc.limit = 256 * KIB;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    pthread_t thread;
    stop_busy = false;
    check(sagemem_reclaimer_add("nothing", 0, reclaim_nothing, NULL) == SAGEMEM_OK);
    check(pthread_create(&thread, NULL, meet_the_limit_often, heap) == 0);
    for (int i = 0; i < (slow() ? 20 : 100); i++) {
        int status = 1;
        pid_t pid = fork();
        if (pid == 0) _exit(0);
        check(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    }
    __atomic_store_n(&stop_busy, true, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    sagemem_heap_destroy(heap);
}
static void fork_while_another_thread_asks_reclaimers_for_a_shared_heap(void **state) {
    (void)state;
    if (on_valgrind()) skip(); /* it runs one thread at a time, and not in turn */
    pid_t pid = start_child(fork_and_reclaim_often);
    assert_child_well(pid);
}

static void fork_again(void) {
    pid_t pid = start_child(grandchild);
    int status = 0;
    check(pid > 0 && waitpid(pid, &status, 0) == pid && (status == 0 || on_valgrind()));
    use(heap_of_parent);
}
static void fork_in_a_child_of_a_fork(void **state) {
    (void)state;
    heap_of_parent = sagemem_heap_create(NULL);
    pid_t pid = start_child(fork_again);
    assert_child_well(pid);
    sagemem_heap_destroy(heap_of_parent);
}

static void do_nothing(void *ctx, const sagemem_system_memory *now) { (void)ctx, (void)now; }
static void watch_in_the_child(void) {
    use(NULL);
    check(sagemem_pressure_watch(80, 90, do_nothing, NULL, 5) == SAGEMEM_OK);
    check(sagemem_pressure_watch(0, 0, NULL, NULL, 0) == SAGEMEM_OK);
}
static void fork_while_pressure_is_watched(void **state) {
    (void)state;
    assert_int_equal(sagemem_pressure_watch(80, 90, do_nothing, NULL, 1), SAGEMEM_OK);
    for (int i = 0; i < 10; i++) assert_child_well(start_child(watch_in_the_child));
    assert_int_equal(sagemem_pressure_watch(0, 0, NULL, NULL, 0), SAGEMEM_OK);
}

/* A heap in a file: the child has the pages in common with its parent. */
static void write_in_a_shared_file(void) {
    char *block = sagemem_alloc(heap_of_parent, 100, 0);
    if (block != NULL) memset(block, 'c', 100);
    sagemem_free(inherited[1]);
}
static void fork_keeps_heaps_in_files_apart(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "/tmp/sagemem-fork-%ld", (long)getpid());
    sagemem_source *source = sagemem_source_file(path, 4 * MIB);
    assert_non_null(source);
    sagemem_heap_desc desc = {0};
    desc.source = source;
    heap_of_parent = sagemem_heap_create(&desc);
    for (int i = 0; i < 3; i++) inherited[i] = sagemem_alloc(heap_of_parent, 200, 0);
    pid_t pid = start_child(write_in_a_shared_file);
    assert_child_well(pid);
    size_t damaged = sagemem_heap_check(heap_of_parent);
    bool still_ours = sagemem_owns(inherited[1]);
    sagemem_heap_destroy(heap_of_parent);
    sagemem_source_destroy(source);
    assert_int_equal(damaged, 0);
    assert_true(still_ours);
    assert_int_equal(faults, 0);
}

/* -- Threads -------------------------------------------------------------------------------------------- */

struct legacy {
    sagemem_heap *heap, *made;
    void *blocks[1000];
    sagemem_heap *taken_over;
};
static void *leave_blocks(void *ctx) {
    struct legacy *l = ctx;
    l->heap = sagemem_heap_default();
    l->made = sagemem_heap_create(NULL);
    for (size_t i = 0; i < 1000; i++) {
        l->blocks[i] = sagemem_alloc(i % 2 ? l->made : NULL, i * 9 % 20000 + 8, 1);
        check(l->blocks[i] != NULL);
        *(size_t *)l->blocks[i] = i;
    }
    return NULL;
}
static void *take_over(void *ctx) {
    struct legacy *l = ctx;
    l->taken_over = sagemem_heap_default();
    use(NULL);
    for (size_t i = 0; i < 1000; i += 4) {
        check(*(size_t *)l->blocks[i] == i);
        sagemem_free(l->blocks[i]);
    }
    return NULL;
}
static void run(void *(*fn)(void *ctx), void *ctx) {
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, fn, ctx), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void thread_that_ends_leaves_its_blocks(void **state) {
    (void)state;
    static struct legacy l;
    (void)sagemem_heap_default();
    run(leave_blocks, &l);
    assert_ptr_not_equal(l.heap, sagemem_heap_default());
    for (size_t i = 0; i < 1000; i++) {
        assert_true(sagemem_owns(l.blocks[i]));
        assert_int_equal(*(size_t *)l.blocks[i], i);
    }
    for (size_t i = 2; i < 1000; i += 4) sagemem_free(l.blocks[i]); /* nobody's heap */
    uint64_t blocks = stats_of(l.heap).blocks;
    assert_int_equal(blocks, 250);
    run(take_over, &l);
    assert_ptr_equal(l.taken_over, l.heap); /* the next thread has it */
    assert_int_equal(stats_of(l.heap).blocks, 0);
    /* a heap that was made goes to nobody by itself, and anybody may end it */
    assert_int_equal(stats_of(l.made).blocks, 500);
    sagemem_heap_destroy(l.made);
    assert_false(sagemem_owns(l.blocks[1]));
    assert_int_equal(faults, 0);
}

static void *default_only(void *ctx) {
    *(sagemem_heap **)ctx = sagemem_heap_default();
    void *block = sagemem_alloc(NULL, 100, 0);
    check(block != NULL);
    sagemem_free(block);
    return NULL;
}
static void threads_one_after_the_other_share_one_heap(void **state) {
    (void)state;
    sagemem_heap *first = NULL, *heap = NULL;
    run(default_only, &first);
    for (int i = 0; i < 200; i++) {
        run(default_only, &heap);
        assert_ptr_equal(heap, first);
    }
}

static void *destroy_own_default(void *ctx) {
    (void)ctx;
    check(sagemem_alloc(NULL, 100, 0) != NULL);
    sagemem_heap_destroy(sagemem_heap_default());
    check(sagemem_alloc(NULL, 100, 0) != NULL); /* a new one */
    sagemem_heap_destroy(sagemem_heap_default());
    return NULL;
}
static void thread_may_end_its_default_heap(void **state) {
    (void)state;
    sagemem_heap_stats before = stats_of(NULL);
    run(destroy_own_default, NULL);
    assert_int_equal(stats_of(NULL).blocks, before.blocks);
    assert_int_equal(faults, 0);
}

static pthread_key_t late_key;
static void allocate_late(void *value) {
    void *block = sagemem_alloc(NULL, 1000, 0);
    check(block != NULL);
    sagemem_free(block);
    sagemem_free(value);
}
static void *end_with_a_destructor(void *ctx) {
    (void)ctx;
    pthread_setspecific(late_key, sagemem_alloc(NULL, 500, 0));
    return NULL;
}
static void thread_may_allocate_while_it_ends(void **state) {
    (void)state;
    assert_int_equal(pthread_key_create(&late_key, allocate_late), 0);
    uint64_t blocks = stats_of(NULL).blocks;
    for (int i = 0; i < 20; i++) run(end_with_a_destructor, NULL);
    assert_int_equal(stats_of(NULL).blocks, blocks);
    pthread_key_delete(late_key);
    assert_int_equal(faults, 0);
}

/* -- Little address space ---------------------------------------------------------------------------------- */

static size_t space;
static void fill_the_address_space(void) {
    struct rlimit limit = {space, space};
    check(setrlimit(RLIMIT_AS, &limit) == 0);
    static const size_t sizes[] = {100, 5000, 100000, MIB, 20 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        sagemem_heap *heap = sagemem_heap_create(NULL);
        check(heap != NULL);
        uint64_t bytes = 0;
        unsigned char *block;
        while ((block = sagemem_alloc(heap, sizes[i], 1)) != NULL) {
            memset(block, 1, sizes[i]);
            bytes += sizes[i];
            check(bytes < space);
        }
        check(sagemem_last_error()->status == SAGEMEM_E_NOMEM);
        check(strstr(sagemem_last_error()->message, "ulimit -v") != NULL);
        if (sizes[i] <= MIB) check(bytes > space / 4); /* most of it can be used */
        check(stats_of(heap).used >= bytes);
        check(sagemem_heap_check(heap) == 0);
        check(sagemem_alloc(heap, sizes[i], 1) == NULL); /* and again */
        sagemem_heap_destroy(heap);
        sagemem_trim();
        use(NULL);
    }
    /* blocks with addresses of their own: not all have become free again */
    void *large = sagemem_alloc(NULL, space / 4, 0), *larger = NULL;
    check(large != NULL || sagemem_last_error()->status == SAGEMEM_E_NOMEM);
    if (large != NULL) larger = sagemem_realloc(NULL, large, space / 3, SAGEMEM_TAG_SAME);
    if (larger == NULL) check(sagemem_last_error()->status == SAGEMEM_E_NOMEM);
    if (larger != NULL) large = larger;
    if (large != NULL) check(sagemem_realloc(NULL, large, space * 2, SAGEMEM_TAG_SAME) == NULL && sagemem_owns(large));
    sagemem_free(large);
    check(faults == 0);
}
static void exercise_in(size_t bytes) {
    if (UNDER_ASAN || (slow() && sizeof(void *) == 8)) skip(); /* the tools need more addresses than that */
    space = bytes;
    assert_child_well(start_child(fill_the_address_space));
}
static void works_in_64_mib_of_addresses(void **state) {
    (void)state;
    exercise_in((size_t)64 * MIB);
}
static void works_in_256_mib_of_addresses(void **state) {
    (void)state;
    exercise_in((size_t)256 * MIB);
}

/* With an argument: only the tests whose names match it (* and ?). */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
#define T(name) cmocka_unit_test_setup(name, setup)
    static const struct CMUnitTest tests[] = {
        /* first, while this process has taken few addresses itself */
        T(works_in_64_mib_of_addresses),
        T(works_in_256_mib_of_addresses),
        T(fork_child_goes_on_with_the_heaps_of_its_thread),
        T(fork_with_open_scopes),
        T(fork_child_frees_blocks_of_other_threads),
        T(threads_free_the_blocks_of_others),
        T(fork_while_other_threads_allocate),
        T(fork_while_another_thread_opens_scopes_of_a_shared_heap),
        T(fork_while_another_thread_asks_reclaimers_for_a_shared_heap),
        T(fork_in_a_child_of_a_fork),
        T(fork_while_pressure_is_watched),
        T(fork_keeps_heaps_in_files_apart),
        T(thread_that_ends_leaves_its_blocks),
        T(threads_one_after_the_other_share_one_heap),
        T(thread_may_end_its_default_heap),
        T(thread_may_allocate_while_it_ends),
    };
    return cmocka_run_group_tests_name("public_process", tests, NULL, NULL);
}
