/* Maps under threads: many read one map, guarded, while its file is cut short and grows again under their hands; each thread
 * has its own error; a window in a shared heap is one thread's at a time. No signal reaches the program. */
#include "public.h"

#include <fcntl.h>
#include <stdatomic.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

enum { READERS = 4, FILE_BYTES = 1 << 18, RECORD = 5000 };

static char path[600];
static int fd = -1;
static volatile sig_atomic_t bus_errors;
static atomic_bool over;
static atomic_int wrong;
static atomic_ullong good, cut; /* guarded reads that got all, that met the end */

static unsigned char byte_at(uint64_t i) { return (unsigned char)((i * 0x9E3779B97F4A7C15u) >> 56); }

static void on_bus(int number) {
    (void)number;
    bus_errors = 1;
    _exit(3); /* returning would meet it again */
}

static void fill(void) {
    unsigned char *bytes = malloc(FILE_BYTES);
    for (size_t i = 0; i < FILE_BYTES; i++) bytes[i] = byte_at(i);
    assert_int_equal(pwrite(fd, bytes, FILE_BYTES, 0), FILE_BYTES);
    free(bytes);
}

static int setup(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/sagemem-map-XXXXXX", base != NULL && *base != '\0' ? base : "/tmp");
    fd = mkstemp(path);
    if (fd < 0) return 1;
    fill();
    atomic_store(&over, false);
    atomic_store(&wrong, 0);
    atomic_store(&good, 0);
    atomic_store(&cut, 0);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    sagemem_heap_stats s;
    sagemem_heap_get_stats(NULL, &s);
    close(fd);
    return unlink(path) != 0 || bus_errors != 0 || s.mapped != 0;
}

static uint64_t chance(uint64_t *state, uint64_t n) { /* splitmix64 */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (z ^ z >> 31) % n;
}

typedef struct reader {
    pthread_t thread;
    sagemem_map *map;
    uint64_t seed;
} reader;

/* A byte is the file's, or 0 where it was cut off and has grown again. */
static bool plausible(const unsigned char *got, size_t at, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (got[i] != byte_at(at + i) && got[i] != 0) return false;
    return true;
}

static void *read_guarded(void *ctx) {
    reader *r = ctx;
    unsigned char got[RECORD];
    while (!atomic_load(&over)) {
        size_t at = (size_t)chance(&r->seed, FILE_BYTES), n = 1 + (size_t)chance(&r->seed, RECORD);
        bool inside = n <= FILE_BYTES - at;
        sagemem_status status = sagemem_map_read(r->map, at, got, n);
        const sagemem_error *error = sagemem_last_error();
        if (!inside) atomic_fetch_add(&wrong, status != SAGEMEM_E_ARGUMENT);
        else if (status == SAGEMEM_OK) atomic_fetch_add(&good, 1), atomic_fetch_add(&wrong, !plausible(got, at, n));
        else
            atomic_fetch_add(&cut, 1),
                atomic_fetch_add(&wrong, status != SAGEMEM_E_IO || strstr(error->message, "sagemem_map_refresh") == NULL);
        if (status != SAGEMEM_OK) atomic_fetch_add(&wrong, error->status != status);
        sagemem_map_prefetch(r->map, at, n);
        if (sagemem_map_size(r->map) != FILE_BYTES) atomic_fetch_add(&wrong, 1);
    }
    return NULL;
}

/* By another process or another thread of this one: to the readers it is the same. Ends when `stop` is set. */
static void cut_and_grow(const atomic_bool *stop) {
    uint64_t seed = 5;
    for (int i = 0; !atomic_load(stop); i++) {
        if (ftruncate(fd, (off_t)chance(&seed, FILE_BYTES)) != 0) _exit(4);
        if (i % 3 == 0) usleep(50);
        if (ftruncate(fd, FILE_BYTES) != 0) _exit(4);
        if (i % 2 == 0) usleep(50);
    }
}
static void *cut_in_thread(void *stop) {
    cut_and_grow(stop);
    return NULL;
}

/* However busy the machine is: until the readers have met enough of both. */
static void wait_for_reads(unsigned enough) {
    for (int i = 0; i < 1000 * CHILD_SECONDS && (atomic_load(&good) < enough || atomic_load(&cut) < enough); i++) usleep(1000);
}

static void guarded(sagemem_map_mode mode, uint64_t window, bool other_process) {
    reader readers[READERS];
    sagemem_map_desc desc = {0};
    desc.path = path;
    desc.mode = mode;
    desc.window = window;
    desc.no_fallback = true;
    fflush(NULL);
    signal(SIGBUS, on_bus); /* here: cmocka has set its own before the test */
    sagemem_map *map = sagemem_map_open(&desc);
    assert_non_null(map);
    atomic_bool *stop = mmap(NULL, sizeof *stop, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(stop != MAP_FAILED);
    pid_t child = other_process ? fork() : -1;
    if (child == 0) {
        alarm(2 * CHILD_SECONDS);
        cut_and_grow(stop);
        _exit(0);
    }
    pthread_t cutter;
    if (!other_process) assert_int_equal(pthread_create(&cutter, NULL, cut_in_thread, stop), 0);
    for (int i = 0; i < READERS; i++) {
        readers[i].map = map;
        readers[i].seed = (uint64_t)i;
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_guarded, &readers[i]), 0);
    }
    unsigned enough = getenv("SAGEMEM_TEST_SLOW") != NULL ? 300 : 5000;
    wait_for_reads(enough);
    atomic_store(stop, true);
    atomic_store(&over, true);
    int status = 0;
    if (other_process) assert_int_equal(waitpid(child, &status, 0), child);
    else pthread_join(cutter, NULL);
    for (int i = 0; i < READERS; i++) pthread_join(readers[i].thread, NULL);
    munmap(stop, sizeof *stop);
    assert_int_equal(status, 0);
    assert_int_equal(atomic_load(&wrong), 0);
    assert_int_equal(bus_errors, 0);
    assert_true(atomic_load(&good) >= enough && atomic_load(&cut) >= enough);
    assert_int_equal(sagemem_map_close(map), SAGEMEM_OK);
}

static void test_read(void **state) {
    (void)state;
    guarded(SAGEMEM_MAP_READ, 0, false);
}
static void test_read_other_process(void **state) {
    (void)state;
    guarded(SAGEMEM_MAP_READ, 0, true);
}
static void test_window(void **state) {
    (void)state;
    guarded(SAGEMEM_MAP_READ, 10000, false);
}
/* Without this call, a moment is left in which a private map can be cut under a read: see MAPS in the manual. */
static bool kernel_copies(void) {
#if defined(__linux__) && defined(SYS_process_vm_readv)
    char from = 'x', to = 0;
    struct {
        void *base;
        size_t size;
    } here = {&to, 1}, there = {&from, 1};
    return syscall(SYS_process_vm_readv, (long)getpid(), &here, 1L, &there, 1L, 0L) == 1;
#else
    return false;
#endif
}
static void test_private(void **state) {
    (void)state;
    if (!kernel_copies()) skip();
    guarded(SAGEMEM_MAP_PRIVATE, 0, false);
}
static void test_private_other_process(void **state) {
    (void)state;
    if (!kernel_copies()) skip();
    guarded(SAGEMEM_MAP_PRIVATE, 0, true);
}
static void test_write(void **state) {
    (void)state;
    guarded(SAGEMEM_MAP_WRITE, 0, false);
}

/* -- Views by many threads ------------------------------------------------------------------------------------- */

static void *view_all(void *ctx) {
    reader *r = ctx;
    for (int i = 0; i < 300; i++) {
        size_t at = (size_t)chance(&r->seed, FILE_BYTES - RECORD);
        const unsigned char *view = sagemem_map_view(r->map, at, RECORD), *data = sagemem_map_data(r->map);
        if (view == NULL || view != data + at || view[RECORD - 1] != byte_at(at + RECORD - 1)) atomic_fetch_add(&wrong, 1);
        if (sagemem_map_data_writable(r->map) != data) atomic_fetch_add(&wrong, 1);
    }
    return NULL;
}

static void test_views(void **state) {
    (void)state;
    for (int read = 0; read < 2; read++) {
        reader readers[READERS];
        sagemem_map_desc desc = {0};
        desc.path = path;
        desc.mode = SAGEMEM_MAP_WRITE;
        desc.no_mapping = read == 1;
        sagemem_map *map = sagemem_map_open(&desc);
        assert_non_null(map);
        for (int i = 0; i < READERS; i++) {
            memset(&readers[i], 0, sizeof readers[i]);
            readers[i].map = map;
            readers[i].seed = (uint64_t)i;
            assert_int_equal(pthread_create(&readers[i].thread, NULL, view_all, &readers[i]), 0);
        }
        for (int i = 0; i < READERS; i++) pthread_join(readers[i].thread, NULL);
        assert_int_equal(atomic_load(&wrong), 0);
        assert_int_equal(sagemem_map_close(map), SAGEMEM_OK);
    }
}

/* Threads open, slide and close maps of their own in one shared heap: the books of mapped bytes come out even. */
static void *own_map(void *ctx) {
    reader *r = ctx;
    for (int round = 0; round < 30; round++) {
        sagemem_map_desc desc = {0};
        desc.path = path;
        desc.window = 1 + chance(&r->seed, 20000);
        desc.no_mapping = round % 2 == 0;
        desc.heap = (sagemem_heap *)(void *)r->map;
        sagemem_map *map = sagemem_map_open(&desc);
        for (int i = 0; map != NULL && i < 20; i++) {
            size_t at = (size_t)chance(&r->seed, FILE_BYTES - 1);
            const unsigned char *view = sagemem_map_view(map, at, 1);
            if (view == NULL || *view != byte_at(at)) atomic_fetch_add(&wrong, 1);
        }
        if (map == NULL || sagemem_map_refresh(map) != SAGEMEM_OK || sagemem_map_close(map) != SAGEMEM_OK)
            atomic_fetch_add(&wrong, 1);
    }
    return NULL;
}

static void test_shared_heap(void **state) {
    (void)state;
    reader readers[READERS];
    sagemem_heap_desc desc = {0};
    desc.flags = SAGEMEM_HEAP_SHARED;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    for (int i = 0; i < READERS; i++) {
        memset(&readers[i], 0, sizeof readers[i]);
        readers[i].map = (sagemem_map *)(void *)heap;
        readers[i].seed = (uint64_t)i;
        assert_int_equal(pthread_create(&readers[i].thread, NULL, own_map, &readers[i]), 0);
    }
    for (int i = 0; i < READERS; i++) pthread_join(readers[i].thread, NULL);
    assert_int_equal(atomic_load(&wrong), 0);
    sagemem_heap_stats s;
    sagemem_heap_get_stats(heap, &s);
    assert_int_equal(s.mapped + s.used, 0);
    assert_int_equal(sagemem_heap_check(heap), 0);
    sagemem_heap_destroy(heap);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_read),    TEST(test_read_other_process),    TEST(test_window),
        TEST(test_private), TEST(test_private_other_process), TEST(test_write),
        TEST(test_views),   TEST(test_shared_heap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
