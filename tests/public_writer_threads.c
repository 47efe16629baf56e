/* Writers and threads: the background thread against a plain array of bytes, many writers under one budget while others look
 * on and change it, a shared heap. */
#include "writers.h"

enum { WORKERS = 8, WRITERS = 8 };
static const uint64_t budget = MIB;

/* -- The background thread ------------------------------------------------------------------------------------ */

static void a_life_in_background(uint64_t life, bool to_sink, int steps) {
    oracle o = {0};
    memory_sink m = {0};
    sagemem_sink sink = sink_of(&m);
    sagemem_writer_desc d = {0};
    o.luck.state = seed ^ life << 8;
    o.buffer = (size_t)16 << chance_below(&o.luck, 9);
    o.patches_all = true;
    o.origin = m.origin = d.offset = chance_below(&o.luck, 100);
    m.luck.state = life;
    m.one_in = 4;
    d.tag = TAG;
    d.background = true;
    d.initial_bytes = o.buffer, d.max_bytes = 2 * o.buffer;
    if (to_sink) d.sink = &sink;
    else d.path = in_place("background");
    if (!to_sink) unlink(d.path);
    sagemem_writer *w = sagemem_writer_open(&d);
    check(w != NULL);
    sagemem_writer_desc got;
    ok(sagemem_writer_get_desc(w, &got));
    check(got.background);
    for (int i = 0; i < steps; i++) one_step(&o, w);
    while (sagemem_writer_close(w) != SAGEMEM_OK) o.fails++;
    bytes b = {m.at, m.size};
    if (!to_sink) b = slurp(in_place("background"));
    size_t skip = to_sink ? 0 : (size_t)o.origin;
    check(o.size == 0 || (b.size == skip + o.size && memcmp(b.at + skip, o.at, o.size) == 0));
    free(b.at);
    free(o.at);
}
static void the_background_thread_is_as_the_oracle_says(void **state) {
    (void)state;
    for (uint64_t life = 0; life < (slow() ? 10 : 60); life++) a_life_in_background(life, life % 2 == 0, slow() ? 100 : 300);
}

typedef struct slow_sink {
    pthread_mutex_t lock;
    pthread_t seen[2]; /* who called: the writer's thread, the caller */
    int calls;
    bool fail;
} slow_sink;
static sagemem_status slow_write(void *ctx, const void *data, size_t size, uint64_t offset) {
    slow_sink *s = (slow_sink *)ctx;
    (void)data, (void)size, (void)offset;
    pthread_mutex_lock(&s->lock);
    s->seen[pthread_equal(pthread_self(), s->seen[1]) ? 1 : 0] = pthread_self();
    s->calls++;
    bool fail = s->fail;
    pthread_mutex_unlock(&s->lock);
    usleep(2000);
    return fail ? SAGEMEM_E_TIMEOUT : SAGEMEM_OK;
}
static int calls_of(slow_sink *s) {
    pthread_mutex_lock(&s->lock);
    int calls = s->calls;
    pthread_mutex_unlock(&s->lock);
    return calls;
}
static void the_caller_goes_on_while_the_thread_writes(void **state) {
    (void)state;
    char data[100] = {0};
    slow_sink s = {.lock = PTHREAD_MUTEX_INITIALIZER};
    s.seen[0] = s.seen[1] = pthread_self();
    sagemem_sink sink = {slow_write, NULL, &s};
    sagemem_writer_desc d = {0};
    d.sink = &sink, d.tag = TAG, d.background = true, d.initial_bytes = 150;
    sagemem_writer *w = sagemem_writer_open(&d);
    ok(sagemem_write(w, data, 100));
    ok(sagemem_write(w, data, 100)); /* the thread has the first */
    check(sagemem_writer_accepted(w) == 200 && sagemem_writer_written(w) <= 100);
    ok(sagemem_writer_patch(w, 150, "x", 1)); /* in the buffer: no waiting */
    ok(sagemem_writer_patch(w, 50, "x", 1));  /* in what the thread had: it has written it first */
    check(sagemem_writer_written(w) == 100);
    pthread_mutex_lock(&s.lock);
    check(!pthread_equal(s.seen[0], pthread_self()) && s.calls == 2);
    s.fail = true;
    pthread_mutex_unlock(&s.lock);
    ok(sagemem_write(w, data, 100)); /* the thread fails; */
    while (calls_of(&s) < 3) usleep(100);
    ok(sagemem_write(w, data, 50)); /* there is room, so this is accepted; */
    check(sagemem_write(w, data, 100) == SAGEMEM_E_TIMEOUT && sagemem_writer_accepted(w) == 350); /* then it is said */
    check(sagemem_writer_flush(w) == SAGEMEM_E_TIMEOUT && sagemem_writer_close(w) == SAGEMEM_E_TIMEOUT);
    check(sagemem_writer_written(w) == 100);
    pthread_mutex_lock(&s.lock);
    s.fail = false;
    pthread_mutex_unlock(&s.lock);
    ok(sagemem_write(w, data, 100));
    ok(sagemem_writer_close(w));
    sagemem_scope_begin(NULL, "scope", 1); /* ends while the thread has something in hand */
    w = sagemem_writer_open(&d);
    for (int i = 0; i < 3; i++) ok(sagemem_write(w, data, 100));
    sagemem_scope_end(NULL);
    check(log_errors == 1 && strstr(last_log, "the sink") != NULL);
}

/* -- One budget ------------------------------------------------------------------------------------------------ */

static bool going;
static void *look_on(void *ctx) {
    (void)ctx;
    while (__atomic_load_n(&going, __ATOMIC_RELAXED)) {
        sagemem_writers_stats s;
        ok(sagemem_writers_get_stats(&s));
        check(s.buffer_bytes <= budget && s.buffered <= s.buffer_bytes && s.writers <= WORKERS * WRITERS && s.budget <= budget);
        usleep(50);
    }
    return NULL;
}

static void *work(void *ctx) {
    int me = (int)(intptr_t)ctx;
    chance luck = {seed + (uint64_t)me};
    sagemem_writer *w[WRITERS];
    char path[WRITERS][128];
    size_t counts[WRITERS] = {0};
    for (int i = 0; i < WRITERS; i++) {
        sagemem_writer_desc d = {0};
        snprintf(path[i], sizeof path[i], "%s/budget-%d-%d", place, me, i);
        d.path = path[i];
        d.tag = TAG;
        d.background = i % 2 == 0;
        d.adaptive = i % 4 == 0;
        w[i] = sagemem_writer_open(&d);
        check(w[i] != NULL);
    }
    for (int k = 0; k < (slow() ? 3000 : 20000); k++) {
        int i = (int)chance_below(&luck, WRITERS);
        char record[48];
        int length = snprintf(record, sizeof record, "%02d %d %010zu record\n", me, i, counts[i]++);
        if (k % 7 == 0) {
            char *room = (char *)sagemem_write_begin(w[i], sizeof record);
            if (room != NULL) memcpy(room, record, (size_t)length), sagemem_write_end(w[i], (size_t)length);
            else ok(sagemem_write(w[i], record, (size_t)length));
        } else {
            ok(sagemem_write(w[i], record, (size_t)length));
        }
        if (k % 500 == 0) ok(sagemem_writer_flush(w[i]));
    }
    for (int i = 0; i < WRITERS; i++) {
        ok(sagemem_writer_close(w[i]));
        bytes b = slurp(path[i]);
        const char *at = b.at;
        for (size_t n = 0; n < counts[i]; n++) {
            char record[48];
            int length = snprintf(record, sizeof record, "%02d %d %010zu record\n", me, i, n);
            check(strncmp(at, record, (size_t)length) == 0);
            at += length;
        }
        check(*at == '\0');
        free(b.at);
    }
    return NULL;
}

static void many_threads_share_one_budget(void **state) {
    (void)state;
    pthread_t worker[WORKERS], looker;
    sagemem_writers_set_budget(budget);
    __atomic_store_n(&going, true, __ATOMIC_RELAXED);
    check(pthread_create(&looker, NULL, look_on, NULL) == 0);
    for (int i = 0; i < WORKERS; i++) check(pthread_create(&worker[i], NULL, work, (void *)(intptr_t)i) == 0);
    for (int i = 0; i < 20; i++) { /* below and up again, while they write: nothing is above the most there ever was */
        sagemem_writers_set_budget(i % 2 == 0 ? budget / 4 : budget);
        usleep(2000);
    }
    for (int i = 0; i < WORKERS; i++) pthread_join(worker[i], NULL);
    __atomic_store_n(&going, false, __ATOMIC_RELAXED);
    pthread_join(looker, NULL);
}

/* -- A shared heap: any thread, one at a time ------------------------------------------------------------------- */

static sagemem_writer *shared;
static void *append(void *ctx) {
    char record[8];
    for (int k = 0; k < 500; k++) {
        memset(record, 'a' + (int)(intptr_t)ctx, 7);
        record[7] = '\n';
        ok(sagemem_write(shared, record, 8));
        if (k % 50 == 0) ok(sagemem_writer_flush(shared));
    }
    return NULL;
}
static void a_writer_in_a_shared_heap_takes_whole_records(void **state) {
    (void)state;
    sagemem_heap_desc hd = {0};
    hd.flags = SAGEMEM_HEAP_SHARED;
    sagemem_heap *heap = sagemem_heap_create(&hd);
    sagemem_writer_desc d = {0};
    d.heap = heap, d.path = in_place("shared"), d.tag = TAG, d.initial_bytes = 100, d.background = true;
    shared = sagemem_writer_open(&d);
    check(shared != NULL);
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) check(pthread_create(&thread[i], NULL, append, (void *)(intptr_t)i) == 0);
    for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
    ok(sagemem_writer_close(shared));
    bytes b = slurp(in_place("shared"));
    int counts[4] = {0};
    check(b.size == 4 * 500 * 8);
    for (size_t at = 0; at < b.size; at += 8) {
        for (size_t i = 1; i < 7; i++) check(b.at[at + i] == b.at[at]);
        check(b.at[at + 7] == '\n');
        counts[b.at[at] - 'a']++;
    }
    for (int i = 0; i < 4; i++) check(counts[i] == 500);
    free(b.at);
    sagemem_heap_destroy(heap);
}

/* -- A thread that ends ----------------------------------------------------------------------------------------- */

static void *end_with_a_scope_open(void *ctx) {
    (void)ctx;
    ok(sagemem_scope_begin(NULL, "left", 1));
    sagemem_writer_desc d = {0};
    d.path = in_place("left"), d.tag = TAG, d.background = true;
    sagemem_writer *w = sagemem_writer_open(&d);
    ok(sagemem_write(w, "left", 4));
    return NULL;
}
static void a_thread_that_ends_abandons_the_writers_of_its_scopes(void **state) {
    (void)state;
    pthread_t thread;
    check(pthread_create(&thread, NULL, end_with_a_scope_open, NULL) == 0);
    pthread_join(thread, NULL);
    sagemem_writers_stats s;
    ok(sagemem_writers_get_stats(&s));
    check(s.writers == 0 && log_errors == 1 && strstr(last_log, "4 of 4 bytes") != NULL);
    check(file_says(in_place("left"), ""));
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, before_each, after_each)
    const struct CMUnitTest tests[] = {
        TEST(the_background_thread_is_as_the_oracle_says),
        TEST(the_caller_goes_on_while_the_thread_writes),
        TEST(many_threads_share_one_budget),
        TEST(a_writer_in_a_shared_heap_takes_whole_records),
        TEST(a_thread_that_ends_abandons_the_writers_of_its_scopes),
    };
    return cmocka_run_group_tests(tests, begin, finish);
}
