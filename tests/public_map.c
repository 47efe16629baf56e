/* Maps through the public interface, beside fread and a copy of what the file should hold. */
#include "public.h"

#include <errno.h>
#include <fcntl.h>

enum { TAG = 7, OTHER = 8 };

static size_t page; /* of the system */
static char place[512];

static bool slow(void) { return UNDER_ASAN || getenv("SAGEMEM_TEST_SLOW") != NULL; }

/* -- What the library said ------------------------------------------------------------------------------ */

static struct {
    int count;
    sagemem_error error;
} fault;
static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx;
    assert_int_equal(kind, SAGEMEM_MISUSE);
    fault.count++;
    fault.error = *error;
}

static struct {
    int count;
    char last[400];
} logged;
static void on_log(void *ctx, sagemem_log_level level, const char *message) {
    (void)ctx;
    assert_int_equal(level, SAGEMEM_LOG_ERROR);
    logged.count++;
    snprintf(logged.last, sizeof logged.last, "%s", message);
}

static void assert_says(const char *message, const char *part) {
    if (strstr(message, part) == NULL) fail_msg("'%s' does not say '%s'", message, part);
}
static void assert_failed(sagemem_status status, const char *call, const char *part) {
    const sagemem_error *error = sagemem_last_error();
    if (error->status != status)
        fail_msg("%s instead of %s: %s", sagemem_status_name(error->status), sagemem_status_name(status), error->message);
    assert_string_equal(error->call, call);
    assert_says(error->message, part);
    assert_true(strlen(error->message) < sizeof error->message - 1); /* nothing was cut off */
}
static void assert_faulted(sagemem_status status, const char *call) {
    assert_int_equal(fault.count, 1);
    fault.count = 0;
    assert_int_equal(fault.error.status, status);
    assert_string_equal(fault.error.call, call);
}

/* -- Files ------------------------------------------------------------------------------------------------ */

static unsigned char byte_at(uint64_t i) { return (unsigned char)((i * 0x9E3779B97F4A7C15u) >> 56); }

static const char *path_of(const char *name) {
    static char path[4][700];
    static unsigned turn;
    char *at = path[turn++ % 4];
    snprintf(at, sizeof path[0], "%s/%s", place, name);
    return at;
}

static const char *file_of(const char *name, size_t size) {
    const char *path = path_of(name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (size_t i = 0; i < size; i++) putc(byte_at(i), f);
    assert_int_equal(fclose(f), 0);
    return path;
}

/* What a file holds, by the C library alone; *size of them. */
static unsigned char *contents(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    unsigned char *all = malloc(1 << 22);
    assert_non_null(all);
    *size = fread(all, 1, 1 << 22, f);
    fclose(f);
    return all;
}
static bool file_has(const char *path, size_t at, const void *bytes, size_t n) {
    size_t size;
    unsigned char *all = contents(path, &size);
    bool same = at + n <= size && memcmp(all + at, bytes, n) == 0;
    free(all);
    return same;
}

static int descriptors(void) {
    int open = 0;
    for (int fd = 0; fd < 256; fd++) open += fcntl(fd, F_GETFD) >= 0;
    return open;
}

static sagemem_heap *heap_named(const char *name, uint32_t flags) {
    sagemem_heap_desc desc = {0};
    desc.name = name;
    desc.flags = flags;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    return heap;
}
static uint64_t mapped_of(const sagemem_heap *heap) {
    sagemem_heap_stats s;
    assert_int_equal(sagemem_heap_get_stats(heap, &s), SAGEMEM_OK);
    return s.mapped;
}
static uint64_t used_of(const sagemem_heap *heap) {
    sagemem_tag_stats s;
    assert_int_equal(sagemem_tag_get_stats(heap, TAG, &s), SAGEMEM_OK);
    return s.used;
}

static sagemem_map_desc desc_of(const char *path, sagemem_map_mode mode, bool read) {
    sagemem_map_desc desc = {0};
    desc.path = path;
    desc.mode = mode;
    desc.no_mapping = read;
    desc.tag = TAG;
    return desc;
}
static sagemem_map *map_of(const char *path, sagemem_map_mode mode, bool read, sagemem_heap *heap) {
    sagemem_map_desc desc = desc_of(path, mode, read);
    desc.heap = heap;
    sagemem_map *map = sagemem_map_open(&desc);
    if (map == NULL) fail_msg("%s", sagemem_last_error()->message);
    return map;
}
static void close_ok(sagemem_map *map) { assert_int_equal(sagemem_map_close(map), SAGEMEM_OK); }

static int open_before;
static uint64_t mapped_before, used_before;

static int setup(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    page = (size_t)sysconf(_SC_PAGESIZE);
    memset(&fault, 0, sizeof fault);
    memset(&logged, 0, sizeof logged);
    sagemem_set_fault_handler(on_fault, NULL);
    sagemem_set_logger(on_log, NULL);
    snprintf(place, sizeof place, "%s/sagemem-map-XXXXXX", base != NULL && *base != '\0' ? base : "/tmp");
    if (mkdtemp(place) == NULL) return 1;
    open_before = descriptors();
    mapped_before = mapped_of(NULL);
    used_before = used_of(NULL);
    return 0;
}

/* After each test: nothing mapped, used or open, nothing said that was not looked at, no file left. */
static int teardown(void **state) {
    (void)state;
    static const char *const names[] = {"a", "b", "fifo", "sparse"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) unlink(path_of(names[i]));
    sagemem_heap_stats s;
    sagemem_tag_stats t;
    sagemem_heap_get_stats(NULL, &s);
    sagemem_tag_get_stats(NULL, TAG, &t);
    bool clean =
        s.mapped == mapped_before && t.used == used_before && fault.count == 0 && logged.count == 0 && descriptors() == open_before;
    if (!clean)
        print_error("left: mapped %" PRIu64 ", used %" PRIu64 ", faults %d, logged %d, descriptors %d of %d\n", s.mapped, t.used,
                    fault.count, logged.count, descriptors(), open_before);
    return rmdir(place) != 0 || !clean;
}

/* -- The same bytes --------------------------------------------------------------------------------------- */

/* All views and reads of a map against the file's bytes from `offset` on. */
static void assert_map_is(sagemem_map *map, const unsigned char *bytes, uint64_t offset, size_t size, size_t window) {
    unsigned char got[64];
    assert_int_equal(sagemem_map_size(map), size);
    if (size == 0) assert_null(sagemem_map_data(map));
    const unsigned char *data = sagemem_map_data(map);
    assert_int_equal(data != NULL, size > 0 && window == 0);
    if (data != NULL) {
        assert_memory_equal(data, bytes + offset, size);
        assert_int_equal((uintptr_t)data % 64, offset % 64);
    }
    size_t step = window != 0 && window < 97 ? window : 97;
    for (size_t at = 0; at < size; at += 1 + (window != 0 && window < 200 ? 331 : step / 2 + 150)) {
        size_t n = step < size - at ? step : size - at;
        const unsigned char *view = sagemem_map_view(map, at, n);
        if (view == NULL) fail_msg("%s", sagemem_last_error()->message);
        assert_memory_equal(view, bytes + offset + at, n);
        assert_int_equal((uintptr_t)view % 64, (offset + at) % 64);
    }
    size_t largest = window != 0 && window < size ? window : size;
    const size_t ats[] = {size - largest, 0, size / 2, size - size / 3, size};
    for (size_t i = 0; i < sizeof ats / sizeof ats[0]; i++) {
        size_t n = largest < size - ats[i] ? largest : size - ats[i], m = n < sizeof got ? n : sizeof got;
        const unsigned char *view = sagemem_map_view(map, ats[i], n);
        assert_non_null(view);
        if (n > 0) assert_memory_equal(view, bytes + offset + ats[i], n);
        assert_int_equal(sagemem_map_read(map, ats[i], got, m), SAGEMEM_OK);
        if (m > 0) assert_memory_equal(got, bytes + offset + ats[i], m);
        assert_int_equal(sagemem_map_prefetch(map, ats[i], UINT64_MAX), SAGEMEM_OK);
    }
    assert_null(sagemem_map_view(map, size, 1));
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_map_view", "are not all in a map of");
    assert_null(sagemem_map_view(map, size + 1, 0));
    assert_null(sagemem_map_view(map, 1, SIZE_MAX));
    assert_int_equal(sagemem_map_read(map, UINT64_MAX, got, 2), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_map_read", "ask for fewer");
    assert_int_equal(sagemem_map_prefetch(map, UINT64_MAX, 1), SAGEMEM_OK);
}

static void test_same_bytes(void **state) {
    (void)state;
    size_t size;
    const char *path = file_of("a", 3 * page + 123);
    unsigned char *bytes = contents(path, &size);
    const uint64_t offsets[] = {0, 1, 63, 64, page - 1, page, page + 1, size - 1, size, size + 1, size + page};
    const uint64_t lengths[] = {0, 1, 100, page - 1, page, page + 1, 2 * page, UINT64_MAX};
    const uint64_t windows[] = {0, 1, 100, page - 1, page, page + 1, 2 * page + 5, 1 << 20};
    for (size_t o = 0; o < sizeof offsets / sizeof offsets[0]; o++)
        for (size_t l = 0; l < sizeof lengths / sizeof lengths[0]; l++)
            for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++)
                for (int how = 0; how < 4; how++) {
                    if (slow() && (o + l + w) % 4 != 0) continue;
                    uint64_t rest = offsets[o] < size ? size - offsets[o] : 0;
                    uint64_t expected = lengths[l] != 0 && lengths[l] < rest ? lengths[l] : rest;
                    sagemem_map_desc desc = desc_of(path, SAGEMEM_MAP_READ, how == 1);
                    desc.offset = offsets[o];
                    desc.length = lengths[l];
                    desc.window = windows[w];
                    if (how >= 2) desc.threshold = expected + (how == 2); /* too small by one byte; large enough */
                    sagemem_map *map = sagemem_map_open(&desc);
                    assert_non_null(map);
                    bool mapped = expected > 0 && (how == 0 || how == 3);
                    assert_int_equal(sagemem_map_is_mapped(map), mapped);
                    assert_map_is(map, bytes, offsets[o], (size_t)expected, (size_t)windows[w]);
                    assert_int_equal(sagemem_map_is_mapped(map), mapped);
                    assert_int_equal(mapped_of(NULL) > 0, mapped);
                    assert_int_equal(used_of(NULL) > 0, expected > 0 && !mapped);
                    assert_int_equal(sagemem_heap_check(NULL), 0);
                    close_ok(map);
                    assert_int_equal(mapped_of(NULL) + used_of(NULL), 0);
                }
    free(bytes);
}

static void test_view_larger_than_window(void **state) {
    (void)state;
    const char *path = file_of("a", 3 * page);
    for (int read = 0; read < 2; read++) {
        sagemem_map_desc desc = desc_of(path, SAGEMEM_MAP_READ, read == 1);
        desc.window = 1000;
        sagemem_map *map = sagemem_map_open(&desc);
        const unsigned char *view = sagemem_map_view(map, page - 500, 1000);
        assert_non_null(view);
        assert_null(sagemem_map_view(map, 0, 1001));
        assert_failed(SAGEMEM_E_TOO_BIG, "sagemem_map_view", "1001 bytes");
        assert_failed(SAGEMEM_E_TOO_BIG, "sagemem_map_view", "window of 1000");
        assert_int_equal(view[999], byte_at(page + 499));
        assert_null(sagemem_map_data_writable(map));
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_map_data_writable", "_PRIVATE");
        close_ok(map);
    }
}

/* Small steps through a window: what is counted as mapped never exceeds it, and steps inside it cost no system call. */
static void test_window_slides(void **state) {
    (void)state;
    size_t size = 64 * page, window = 8 * page;
    const char *path = file_of("a", size);
    sagemem_map_desc desc = desc_of(path, SAGEMEM_MAP_READ, false);
    desc.window = window;
    sagemem_map *map = sagemem_map_open(&desc);
    const unsigned char *last = NULL;
    int slides = 0;
    for (size_t at = 0; at + 40 <= size; at += 40) {
        const unsigned char *view = sagemem_map_view(map, at, 40);
        assert_non_null(view);
        assert_int_equal(view[0], byte_at(at));
        assert_int_equal(view[39], byte_at(at + 39));
        slides += last != NULL && view != last + 40;
        last = view;
        assert_true(mapped_of(NULL) <= window);
    }
    assert_true(slides <= 9);
    close_ok(map);
    desc.no_mapping = true;
    desc.access = SAGEMEM_ACCESS_RANDOM;
    map = sagemem_map_open(&desc);
    for (size_t at = size - 40; at > 40; at -= 1000 < at ? 1000 : at)
        assert_int_equal(*(const unsigned char *)sagemem_map_view(map, at, 40), byte_at(at));
    assert_true(used_of(NULL) < window + page);
    assert_int_equal(mapped_of(NULL), 0);
    close_ok(map);
}

/* A window that is read: what is behind is dropped, but what lies in it is not read twice. The file changes meanwhile, which shows. */
static void test_window_reads_ahead(void **state) {
    (void)state;
    const char *path = file_of("a", 1 << 20);
    sagemem_map_desc desc = desc_of(path, SAGEMEM_MAP_READ, true);
    for (int access = 0; access < 4; access++) {
        desc.window = 600000;
        desc.access = access < 3 ? (sagemem_map_access)access : SAGEMEM_ACCESS_NORMAL;
        desc.populate = access == 3;
        file_of("a", 1 << 20);
        sagemem_map *map = sagemem_map_open(&desc);
        assert_non_null(sagemem_map_view(map, 0, 10));
        int fd = open(path, O_RDWR);
        char new_bytes[4] = {1, 2, 3, 4};
        assert_int_equal(pwrite(fd, new_bytes, 4, 10), 4);
        assert_int_equal(pwrite(fd, new_bytes, 4, 500000), 4);
        const unsigned char *view = sagemem_map_view(map, 0, 14);
        assert_int_equal(memcmp(view + 10, new_bytes, 4) == 0, access == SAGEMEM_ACCESS_RANDOM); /* ahead: old; random: just read */
        assert_int_equal(view[0], byte_at(0));
        view = sagemem_map_view(map, 500000, 4);
        assert_int_equal(memcmp(view, new_bytes, 4) == 0, access != 3); /* populate has all of the window at once */
        close(fd);
        close_ok(map);
    }
}

/* -- Writing ---------------------------------------------------------------------------------------------- */

static void test_write_reaches_file(void **state) {
    (void)state;
    for (int read = 0; read < 2; read++)
        for (uint64_t offset = 0; offset < 3; offset++) {
            const char *path = file_of("a", 2 * page + 77);
            sagemem_map_desc desc = desc_of(path, SAGEMEM_MAP_WRITE, read == 1);
            desc.offset = offset * 50;
            desc.length = offset == 2 ? page : 0;
            sagemem_map *map = sagemem_map_open(&desc);
            assert_non_null(map);
            assert_int_equal(sagemem_map_is_mapped(map), read == 0);
            size_t size = (size_t)sagemem_map_size(map);
            assert_int_equal(sagemem_map_flush(map), SAGEMEM_OK);
            assert_true(file_has(path, 0, &(unsigned char){byte_at(0)}, 1)); /* nothing was touched yet */
            char *data = sagemem_map_data_writable(map);
            assert_ptr_equal(data, sagemem_map_data(map));
            memcpy(data, "first", 5);
            memcpy(data + size - 4, "last", 4);
            assert_int_equal(sagemem_map_flush(map), SAGEMEM_OK);
            assert_true(file_has(path, (size_t)desc.offset, "first", 5));
            assert_true(file_has(path, (size_t)desc.offset + size - 4, "last", 4));
            memcpy(data + page / 2, "middle", 6); /* the pointer is still good after a flush, and so is what comes through it */
            char got[6];
            assert_int_equal(sagemem_map_read(map, page / 2, got, 6), SAGEMEM_OK);
            assert_memory_equal(got, "middle", 6);
            close_ok(map);
            assert_true(file_has(path, (size_t)desc.offset + page / 2, "middle", 6));
            size_t whole;
            unsigned char *all = contents(path, &whole); /* and nothing else has changed */
            assert_int_equal(whole, 2 * page + 77);
            for (size_t i = 0; i < whole; i++) {
                size_t at = i - (size_t)desc.offset;
                bool ours = at < 5 || (at >= size - 4 && at < size) || (at >= page / 2 && at < page / 2 + 6);
                if (!ours) assert_int_equal(all[i], byte_at(i));
            }
            free(all);
        }
}

/* A map that ends with its scope, or with its heap, is flushed. */
static void test_write_ends_with_owner(void **state) {
    (void)state;
    for (int read = 0; read < 2; read++)
        for (int how = 0; how < 3; how++) {
            const char *path = file_of("a", page + 5);
            sagemem_heap *heap = heap_named("owner", 0);
            if (how == 0) assert_int_equal(sagemem_scope_begin(heap, "forest", 1), SAGEMEM_OK);
            sagemem_map *map = map_of(path, SAGEMEM_MAP_WRITE, read == 1, heap);
            memcpy((char *)sagemem_map_data_writable(map) + page, "kept", 4);
            if (how == 0) assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
            if (how == 1) sagemem_heap_reset(heap);
            if (how < 2) assert_int_equal(mapped_of(heap) + used_of(heap), 0);
            if (how < 2) assert_int_equal(sagemem_map_close(map), SAGEMEM_E_STALE);
            if (how < 2) assert_faulted(SAGEMEM_E_STALE, "sagemem_map_close");
            sagemem_heap_destroy(heap);
            assert_true(file_has(path, page, "kept", 4));
        }
}

/* The file may not grow past what it is allowed: the write-back of a map that was read fails, and can be repeated. */
static void test_flush_fails(void **state) {
    (void)state;
    struct rlimit old, small;
    const char *path = file_of("a", 3 * page);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = page;
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    sagemem_map *map = map_of(path, SAGEMEM_MAP_WRITE, true, NULL);
    char *data = sagemem_map_data_writable(map);
    memcpy(data + 2 * page, "late", 4);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(sagemem_map_close(map), SAGEMEM_E_IO);
        assert_failed(SAGEMEM_E_IO, "sagemem_map_close", "could not be written");
        assert_int_equal(sagemem_last_error()->os_error, EFBIG);
        assert_int_equal(sagemem_map_flush(map), SAGEMEM_E_IO);
        assert_int_equal(sagemem_map_refresh(map), SAGEMEM_E_IO);
        assert_memory_equal(data + 2 * page, "late", 4);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    close_ok(map);
    assert_true(file_has(path, 2 * page, "late", 4));

    assert_int_equal(sagemem_scope_begin(NULL, "forest", 2), SAGEMEM_OK);
    map = map_of(path, SAGEMEM_MAP_WRITE, true, NULL);
    memcpy((char *)sagemem_map_data_writable(map) + 2 * page, "lost", 4);
    sagemem_map_view(map, 9 * page, 1);
    sagemem_error last = *sagemem_last_error();
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(sagemem_scope_end(NULL), SAGEMEM_OK);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(logged.count, 1);
    logged.count = 0;
    assert_says(logged.last, "/a ended");
    assert_says(logged.last, "is lost");
    assert_int_equal(sagemem_last_error()->status, last.status); /* the scope's end itself did not fail */
    assert_string_equal(sagemem_last_error()->message, last.message);
    signal(SIGXFSZ, before);
}

static void test_private_stays(void **state) {
    (void)state;
    for (int read = 0; read < 2; read++) {
        const char *path = file_of("a", 2 * page);
        sagemem_map *map = map_of(path, SAGEMEM_MAP_PRIVATE, read == 1, NULL);
        char *data = sagemem_map_data_writable(map), got[5];
        memcpy(data + page - 2, "mine!", 5);
        assert_int_equal(sagemem_map_read(map, page - 2, got, 5), SAGEMEM_OK); /* what was written, not the file */
        assert_memory_equal(got, "mine!", 5);
        assert_memory_equal(sagemem_map_view(map, page - 2, 5), "mine!", 5);
        assert_int_equal(sagemem_map_flush(map), SAGEMEM_OK);
        assert_int_equal(sagemem_map_refresh(map), SAGEMEM_OK); /* a new look at the file: gone */
        assert_int_equal(*(const unsigned char *)sagemem_map_view(map, page - 2, 1), byte_at(page - 2));
        memcpy(sagemem_map_data_writable(map), "mine!", 5);
        close_ok(map);
        assert_false(file_has(path, 0, "mine!", 5));
        assert_false(file_has(path, page - 2, "mine!", 5));
    }
}

/* -- Errors of open ----------------------------------------------------------------------------------------- */

static void refused(const sagemem_map_desc *desc, sagemem_status status, const char *part) {
    int handles = descriptors();
    sagemem_heap_stats before, after;
    sagemem_heap_get_stats(NULL, &before);
    assert_null(sagemem_map_open(desc));
    assert_failed(status, "sagemem_map_open", part);
    sagemem_heap_get_stats(NULL, &after);
    assert_int_equal(descriptors(), handles);
    assert_int_equal(after.mapped, before.mapped);
    assert_int_equal(after.used, before.used);
}

static void test_arguments(void **state) {
    (void)state;
    const char *path = file_of("a", 100);
    sagemem_map_desc d = {0}, good = desc_of(path, SAGEMEM_MAP_READ, false);
    refused(NULL, SAGEMEM_E_ARGUMENT, "which file");
    refused(&d, SAGEMEM_E_ARGUMENT, "which file");
    d = good, d.fd_plus_one = 1;
    refused(&d, SAGEMEM_E_ARGUMENT, "one of them");
    d = good, d.path = NULL, d.fd_plus_one = -1;
    refused(&d, SAGEMEM_E_ARGUMENT, "which file");
    d = good, d.mode = (sagemem_map_mode)3;
    refused(&d, SAGEMEM_E_ARGUMENT, "mode 3");
    d = good, d.access = (sagemem_map_access)-1;
    refused(&d, SAGEMEM_E_ARGUMENT, "access -1");
    d = good, d.tag = SAGEMEM_TAG_MAX + 1;
    refused(&d, SAGEMEM_E_ARGUMENT, "4096");
    d = good, d.numa_node_plus_one = -1;
    refused(&d, SAGEMEM_E_ARGUMENT, "-1");
    d = good, d.numa_node_plus_one = 1025;
    refused(&d, SAGEMEM_E_ARGUMENT, "1025");
    d = good, d.no_mapping = d.no_fallback = true;
    refused(&d, SAGEMEM_E_ARGUMENT, "no_fallback");
    d = good, d.window = 4096, d.mode = SAGEMEM_MAP_WRITE;
    refused(&d, SAGEMEM_E_ARGUMENT, "4096");
    d = good, d.window = UINT64_MAX, d.mode = SAGEMEM_MAP_PRIVATE;
    refused(&d, SAGEMEM_E_ARGUMENT, "leave window 0");
    d = good, d.heap = (sagemem_heap *)&d;
    assert_null(sagemem_map_open(&d));
    assert_faulted(SAGEMEM_E_FOREIGN, "sagemem_map_open");
}

static void test_not_a_file(void **state) {
    (void)state;
    sagemem_map_desc d = desc_of(path_of("absent"), SAGEMEM_MAP_READ, false);
    refused(&d, SAGEMEM_E_NOT_FOUND, "absent");
    d.mode = SAGEMEM_MAP_WRITE; /* a map makes no file */
    refused(&d, SAGEMEM_E_NOT_FOUND, "must be there");
    d.path = "";
    refused(&d, SAGEMEM_E_NOT_FOUND, "");
    d.path = file_of("a", 100);
    char below[800];
    snprintf(below, sizeof below, "%s/b", d.path);
    d.path = below;
    refused(&d, SAGEMEM_E_NOT_FOUND, "/a/b");
    for (int mode = 0; mode < 3; mode++) {
        d = desc_of(place, (sagemem_map_mode)mode, mode == 1);
        refused(&d, SAGEMEM_E_IO, "name a file in it");
        assert_int_equal(sagemem_last_error()->os_error, EISDIR);
        d.path = NULL;
        int fd = open(place, O_RDONLY);
        d.fd_plus_one = fd + 1;
        refused(&d, SAGEMEM_E_IO, "descriptor is a directory");
        assert_int_equal(sagemem_last_error()->os_error, EISDIR);
        close(fd);
        d.fd_plus_one = fd + 1;
        refused(&d, SAGEMEM_E_IO, "1 more");
        assert_int_equal(sagemem_last_error()->os_error, EBADF);
        d = desc_of("/dev/null", (sagemem_map_mode)mode, false);
        refused(&d, SAGEMEM_E_UNSUPPORTED, "sagemem_reader_open");
        int both[2];
        assert_int_equal(pipe(both), 0);
        d.path = NULL;
        d.fd_plus_one = both[0] + 1;
        refused(&d, SAGEMEM_E_UNSUPPORTED, "sagemem_reader_open");
        close(both[0]);
        close(both[1]);
    }
    if (geteuid() != 0) {
        d = desc_of(file_of("a", 100), SAGEMEM_MAP_READ, false);
        chmod(d.path, 0);
        refused(&d, SAGEMEM_E_IO, "may be read");
        assert_int_equal(sagemem_last_error()->os_error, EACCES);
    }
    char deep[5000];
    memset(deep, 'x', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    d = desc_of(deep, SAGEMEM_MAP_READ, false);
    refused(&d, SAGEMEM_E_IO, "...xxx");
    assert_int_equal(sagemem_last_error()->os_error, ENAMETOOLONG);
}

/* A FIFO is refused without waiting for its other end, and whoever waits there goes on waiting, for its true reader. */
static void test_fifo(void **state) {
    (void)state;
    const char *path = path_of("fifo");
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(CHILD_SECONDS);
    for (int mode = 0; mode < 3; mode++) {
        sagemem_map_desc d = desc_of(path, (sagemem_map_mode)mode, false);
        refused(&d, SAGEMEM_E_UNSUPPORTED, "sagemem_reader_open");
    }
    pid_t child = fork();
    if (child == 0) {
        int fd = open(path, O_WRONLY); /* woken by a reader that goes away at once, the write would be a SIGPIPE */
        usleep(20000);
        _exit(fd >= 0 && write(fd, "x", 1) == 1 ? 0 : 1);
    }
    usleep(20000);
    sagemem_map_desc d = desc_of(path, SAGEMEM_MAP_READ, false);
    refused(&d, SAGEMEM_E_UNSUPPORTED, "sagemem_reader_open");
    usleep(40000);
    int fd = open(path, O_RDONLY), status;
    char got = 0;
    assert_int_equal(read(fd, &got, 1), 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close(fd);
    alarm(0);
}

static void test_descriptor(void **state) {
    (void)state;
    const char *path = file_of("a", 2 * page);
    for (int read_it = 0; read_it < 2; read_it++) {
        int fd = open(path, O_RDWR);
        assert_int_equal(lseek(fd, 17, SEEK_SET), 17);
        sagemem_map_desc d = desc_of(NULL, SAGEMEM_MAP_WRITE, read_it == 1), out;
        d.fd_plus_one = fd + 1;
        sagemem_map *map = sagemem_map_open(&d);
        assert_non_null(map);
        assert_int_equal(sagemem_map_get_desc(map, &out), SAGEMEM_OK);
        assert_int_equal(out.fd_plus_one, fd + 1);
        assert_null(out.path);
        assert_int_equal(*(const unsigned char *)sagemem_map_data(map), byte_at(0)); /* not from its position on */
        assert_int_equal(lseek(fd, 0, SEEK_CUR), 17);
        assert_int_equal(ftruncate(fd, (off_t)(3 * page)), 0);
        close(fd);
        assert_int_equal(sagemem_map_refresh(map), SAGEMEM_OK);
        assert_int_equal(sagemem_map_size(map), 3 * page);
        memcpy(sagemem_map_data_writable(map), "through", 7);
        close_ok(map);
        assert_true(file_has(path, 0, "through", 7));
        file_of("a", 2 * page);
    }
    /* Writing needs a descriptor that reads and writes, and at positions: found when it is opened, mapped or read. */
    static const int wrong[] = {O_RDONLY, O_WRONLY, O_RDWR | O_APPEND};
    for (int i = 0; i < 6; i++) {
        int fd = open(path, wrong[i % 3]);
        sagemem_map_desc d = desc_of(NULL, SAGEMEM_MAP_WRITE, i >= 3);
        d.fd_plus_one = fd + 1;
        refused(&d, SAGEMEM_E_IO, "not for appending");
        assert_int_equal(sagemem_last_error()->os_error, EBADF);
        close(fd);
    }
    int fd = open(path, O_WRONLY);
    sagemem_map_desc d = desc_of(NULL, SAGEMEM_MAP_READ, false);
    d.fd_plus_one = fd + 1;
    refused(&d, SAGEMEM_E_IO, "could not be read");
    d.no_fallback = true;
    refused(&d, SAGEMEM_E_UNSUPPORTED, "without no_fallback");
    assert_int_equal(sagemem_last_error()->os_error, EACCES);
    close(fd);
    fd = open(path, O_RDONLY); /* a private map writes nothing */
    d.mode = SAGEMEM_MAP_PRIVATE;
    d.fd_plus_one = fd + 1;
    sagemem_map *map = sagemem_map_open(&d);
    assert_non_null(map);
    memcpy(sagemem_map_data_writable(map), "private", 7);
    close_ok(map);
    close(fd);
}

static void test_get_desc(void **state) {
    (void)state;
    char path[800];
    snprintf(path, sizeof path, "%s", file_of("a", 1000));
    sagemem_map_desc d = desc_of(path, SAGEMEM_MAP_READ, false), out;
    d.offset = 900;
    d.length = 5000;
    d.window = 50;
    d.threshold = 10;
    sagemem_map *map = sagemem_map_open(&d);
    memset(path, 'x', sizeof path - 1);
    assert_int_equal(sagemem_map_get_desc(map, &out), SAGEMEM_OK);
    assert_string_equal(out.path, path_of("a"));
    assert_int_equal(out.offset, 900);
    assert_int_equal(out.length, 100);
    assert_int_equal(out.window, 50);
    assert_int_equal(out.threshold, 10);
    assert_int_equal(out.tag, TAG);
    assert_ptr_equal(out.heap, sagemem_heap_default());
    assert_int_equal(sagemem_map_get_desc(map, NULL), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_map_get_desc", "out");
    close_ok(map);
}

/* -- Files that change ---------------------------------------------------------------------------------------- */

static void set_size(const char *path, size_t size) {
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(ftruncate(fileno(f), (off_t)size), 0);
    fclose(f);
}

static void test_refresh(void **state) {
    (void)state;
    const uint64_t windows[] = {0, 3000};
    for (int w = 0; w < 2; w++)
        for (int read = 0; read < 2; read++) {
            const char *path = file_of("a", 0);
            sagemem_map_desc d = desc_of(path, SAGEMEM_MAP_READ, read == 1);
            d.window = windows[w];
            d.offset = 10;
            d.length = 3 * page;
            sagemem_map *map = sagemem_map_open(&d);
            assert_non_null(map);
            const size_t sizes[] = {10, 11, 10 + page, 2 * page, 9 * page, 5, 0, 3000};
            for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
                size_t before = (size_t)sagemem_map_size(map);
                file_of("a", sizes[i]);
                assert_int_equal(sagemem_map_size(map), before); /* a map does not look by itself */
                assert_int_equal(sagemem_map_refresh(map), SAGEMEM_OK);
                size_t expected = sizes[i] > 10 ? sizes[i] - 10 : 0, whole;
                if (expected > 3 * page) expected = 3 * page;
                unsigned char *all = contents(path, &whole);
                assert_map_is(map, all, 10, expected, (size_t)d.window);
                free(all);
            }
            close_ok(map);
        }
}

static void test_refresh_flushes(void **state) {
    (void)state;
    for (int read = 0; read < 2; read++) {
        const char *path = file_of("a", page);
        sagemem_map *map = map_of(path, SAGEMEM_MAP_WRITE, read == 1, NULL);
        memcpy(sagemem_map_data_writable(map), "flushed", 7);
        set_size(path, 3 * page);
        assert_int_equal(sagemem_map_refresh(map), SAGEMEM_OK);
        assert_true(file_has(path, 0, "flushed", 7));
        assert_int_equal(sagemem_map_size(map), 3 * page);
        assert_memory_equal(sagemem_map_data(map), "flushed", 7);
        assert_int_equal(*((const char *)sagemem_map_data(map) + 3 * page - 1), 0);
        close_ok(map);
    }
}

static volatile sig_atomic_t bus_errors;
static void on_bus(int number) {
    (void)number;
    bus_errors++;
    _exit(3); /* returning would meet it again */
}

/* A guarded read of a file that was cut short names the byte where it ends now, in the middle of a page, too. */
static void test_guarded_read(void **state) {
    (void)state;
    void (*before)(int) = signal(SIGBUS, on_bus);
    const size_t cuts[] = {0, 1, page - 1, page, page + 100, 3 * page - 1};
    unsigned char *got = malloc(4 * page);
    for (int mode = 0; mode < 3; mode++)
        for (int window = 0; window < 2; window++)
            for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
                if (window == 1 && mode != SAGEMEM_MAP_READ) continue;
                const char *path = file_of("a", 4 * page);
                sagemem_map_desc d = desc_of(path, (sagemem_map_mode)mode, false);
                d.window = window == 1 ? page : 0;
                d.offset = 7;
                sagemem_map *map = sagemem_map_open(&d);
                size_t size = (size_t)sagemem_map_size(map);
                assert_int_equal(sagemem_map_read(map, 0, got, size), SAGEMEM_OK);
                assert_int_equal(got[size - 1], byte_at(size + 6));
                set_size(path, cuts[i]);
                assert_int_equal(sagemem_map_read(map, 0, got, size), SAGEMEM_E_IO);
                char where[60];
                if (cuts[i] >= 7 || mode == SAGEMEM_MAP_PRIVATE) {
                    snprintf(where, sizeof where, "ends at byte %zu, ", cuts[i]);
                    assert_failed(SAGEMEM_E_IO, "sagemem_map_read", where);
                }
                assert_failed(SAGEMEM_E_IO, "sagemem_map_read", "sagemem_map_refresh");
                if (cuts[i] > 7) {
                    assert_int_equal(sagemem_map_read(map, 0, got, cuts[i] - 7), SAGEMEM_OK);
                    assert_int_equal(got[cuts[i] - 8], byte_at(cuts[i] - 1));
                    assert_int_equal(sagemem_map_read(map, cuts[i] - 8, got, 2), SAGEMEM_E_IO); /* one byte too many */
                }
                assert_int_equal(sagemem_map_refresh(map), SAGEMEM_OK);
                assert_int_equal(sagemem_map_size(map), cuts[i] > 7 ? cuts[i] - 7 : 0);
                close_ok(map);
            }
    /* A window that is read meets the end in a view. */
    const char *path = file_of("a", 4 * page);
    sagemem_map_desc d = desc_of(path, SAGEMEM_MAP_READ, true);
    d.window = page;
    sagemem_map *map = sagemem_map_open(&d);
    set_size(path, page + 5);
    assert_non_null(sagemem_map_view(map, 0, 10));
    assert_null(sagemem_map_view(map, page, 6));
    assert_failed(SAGEMEM_E_IO, "sagemem_map_view", "sagemem_map_refresh");
    const unsigned char *view = sagemem_map_view(map, page, 5); /* what is there is still to be had */
    assert_non_null(view);
    assert_int_equal(view[4], byte_at(page + 4));
    close_ok(map);
    /* A copy is a copy. */
    map = map_of(file_of("a", page), SAGEMEM_MAP_READ, true, NULL);
    set_size(path, 0);
    assert_int_equal(sagemem_map_read(map, 0, got, page), SAGEMEM_OK);
    assert_int_equal(got[page - 1], byte_at(page - 1));
    assert_int_equal(sagemem_map_read(map, 0, NULL, 1), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_map_read", "room for 1");
    assert_int_equal(sagemem_map_read(map, 0, NULL, 0), SAGEMEM_OK);
    close_ok(map);
    free(got);
    assert_int_equal(bus_errors, 0);
    signal(SIGBUS, before);
}

static void test_empty(void **state) {
    (void)state;
    for (int mode = 0; mode < 3; mode++) {
        sagemem_map *map = map_of(file_of("a", 0), (sagemem_map_mode)mode, false, NULL);
        char got;
        assert_int_equal(sagemem_map_size(map), 0);
        assert_null(sagemem_map_data(map));
        assert_false(sagemem_map_is_mapped(map));
        assert_non_null(sagemem_map_view(map, 0, 0));
        assert_null(sagemem_map_view(map, 0, 1));
        assert_int_equal(sagemem_map_read(map, 0, &got, 0), SAGEMEM_OK);
        assert_int_equal(sagemem_map_prefetch(map, 0, 100), SAGEMEM_OK);
        assert_null(sagemem_map_data_writable(map));
        assert_int_equal(sagemem_map_flush(map), SAGEMEM_OK);
        assert_int_equal(sagemem_heap_check(NULL), 0);
        close_ok(map);
    }
}

/* -- Whose it is ------------------------------------------------------------------------------------------------ */

/* Every function on a map that has ended, or on what is none. */
static void misused(sagemem_map *map, sagemem_status status) {
    char got[1];
    sagemem_map_desc out;
    assert_null(sagemem_map_data(map));
    assert_faulted(status, "sagemem_map_data");
    assert_int_equal(sagemem_map_size(map), 0);
    assert_faulted(status, "sagemem_map_size");
    assert_false(sagemem_map_is_mapped(map));
    assert_faulted(status, "sagemem_map_is_mapped");
    assert_null(sagemem_map_view(map, 0, 1));
    assert_faulted(status, "sagemem_map_view");
    assert_null(sagemem_map_data_writable(map));
    assert_faulted(status, "sagemem_map_data_writable");
    assert_int_equal(sagemem_map_read(map, 0, got, 1), status);
    assert_faulted(status, "sagemem_map_read");
    assert_int_equal(sagemem_map_prefetch(map, 0, 1), status);
    assert_faulted(status, "sagemem_map_prefetch");
    assert_int_equal(sagemem_map_get_desc(map, &out), status);
    assert_faulted(status, "sagemem_map_get_desc");
    assert_int_equal(sagemem_map_flush(map), status);
    assert_faulted(status, "sagemem_map_flush");
    assert_int_equal(sagemem_map_refresh(map), status);
    assert_faulted(status, "sagemem_map_refresh");
    if (map == NULL) return;
    assert_int_equal(sagemem_map_close(map), status);
    assert_faulted(status, "sagemem_map_close");
}

static void test_misuse(void **state) {
    (void)state;
    uint64_t none[32] = {0};
    sagemem_map *map = map_of(file_of("a", 100), SAGEMEM_MAP_READ, false, NULL);
    close_ok(map);
    misused(map, SAGEMEM_E_STALE);
    misused((sagemem_map *)(void *)none, SAGEMEM_E_FOREIGN);
    misused(NULL, SAGEMEM_E_FOREIGN);
    assert_int_equal(sagemem_map_close(NULL), SAGEMEM_OK);
}

/* Made in the outer scope and grown in the inner one: it stays the outer one's, and ends with it. */
static void test_scopes(void **state) {
    (void)state;
    for (int read = 0; read < 2; read++) {
        const char *path = file_of("a", 100);
        sagemem_heap *heap = heap_named("scopes", 0);
        assert_int_equal(sagemem_scope_begin(heap, "run", 1), SAGEMEM_OK);
        sagemem_map *map = map_of(path, SAGEMEM_MAP_READ, read == 1, heap);
        assert_int_equal(sagemem_scope_begin(heap, "forest", 1), SAGEMEM_OK);
        sagemem_map *inner = map_of(path, SAGEMEM_MAP_READ, read == 1, heap);
        file_of("a", 5 * page);
        assert_int_equal(sagemem_map_refresh(map), SAGEMEM_OK);
        assert_int_equal(sagemem_heap_check(heap), 0);
        assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
        misused(inner, SAGEMEM_E_STALE);
        assert_int_equal(((const unsigned char *)sagemem_map_data(map))[5 * page - 1], byte_at(5 * page - 1));
        assert_int_equal(mapped_of(heap) > 0, read == 0);
        assert_int_equal(used_of(heap) > 0, read == 1);
        assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
        assert_int_equal(mapped_of(heap) + used_of(heap), 0);
        misused(map, SAGEMEM_E_STALE);
        sagemem_heap_destroy(heap);
    }
}

static void *elsewhere(void *ctx) {
    sagemem_map *map = ctx; /* with a window */
    char got[4];
    sagemem_map_desc out;
    bool fine = sagemem_map_size(map) == page && sagemem_map_data(map) == NULL && sagemem_map_is_mapped(map) &&
                sagemem_map_read(map, 0, got, 4) == SAGEMEM_OK && sagemem_map_prefetch(map, 0, 10) == SAGEMEM_OK &&
                sagemem_map_get_desc(map, &out) == SAGEMEM_OK && fault.count == 0;
    bool busy = sagemem_map_view(map, 0, 1) == NULL && sagemem_last_error()->status == SAGEMEM_E_BUSY &&
                sagemem_map_flush(map) == SAGEMEM_E_BUSY && sagemem_map_refresh(map) == SAGEMEM_E_BUSY &&
                sagemem_map_close(map) == SAGEMEM_E_BUSY && fault.count == 4;
    return fine && busy ? ctx : NULL;
}
static void *anywhere(void *ctx) {
    sagemem_map *map = ctx;
    bool fine = sagemem_map_view(map, 0, 100) != NULL && sagemem_map_flush(map) == SAGEMEM_OK &&
                sagemem_map_refresh(map) == SAGEMEM_OK && sagemem_map_view(map, page - 1, 1) != NULL && fault.count == 0;
    return fine && sagemem_map_close(map) == SAGEMEM_OK ? ctx : NULL;
}

static void test_other_threads(void **state) {
    (void)state;
    pthread_t thread;
    void *result;
    sagemem_map_desc d = desc_of(file_of("a", page), SAGEMEM_MAP_READ, false);
    d.window = 100;
    sagemem_map *map = sagemem_map_open(&d);
    pthread_create(&thread, NULL, elsewhere, map);
    pthread_join(thread, &result);
    assert_ptr_equal(result, map);
    fault.count = 0;
    assert_non_null(sagemem_map_view(map, 0, 1));
    close_ok(map);
    d.heap = heap_named("shared", SAGEMEM_HEAP_SHARED);
    for (int read = 0; read < 2; read++) {
        d.no_mapping = read == 1;
        map = sagemem_map_open(&d);
        assert_non_null(map);
        pthread_create(&thread, NULL, anywhere, map);
        pthread_join(thread, &result);
        assert_ptr_equal(result, map);
        misused(map, SAGEMEM_E_STALE);
    }
    d.path = path_of("absent"); /* the heap is not left locked */
    assert_null(sagemem_map_open(&d));
    pthread_t other;
    d.path = path_of("a");
    map = sagemem_map_open(&d);
    pthread_create(&other, NULL, anywhere, map);
    pthread_join(other, &result);
    assert_ptr_equal(result, map);
    sagemem_heap_destroy(d.heap);
}

static void test_kinds_of_heaps(void **state) {
    (void)state;
    static const uint32_t flags[] = {
        0, SAGEMEM_HEAP_ZERO, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED, SAGEMEM_HEAP_SITES};
    const char *path = file_of("a", 300000);
    size_t size;
    unsigned char *bytes = contents(path, &size);
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
        for (int read = 0; read < 2; read++)
            for (size_t window = 0; window < 2; window++) {
                sagemem_map_desc d = desc_of(path, SAGEMEM_MAP_READ, read == 1);
                d.heap = heap_named("kind", flags[i]);
                d.window = window * 70000;
                sagemem_map *map = sagemem_map_open(&d), *left = sagemem_map_open(&d);
                assert_non_null(left);
                assert_map_is(map, bytes, 0, size, (size_t)d.window);
                assert_int_equal(sagemem_heap_check(d.heap), 0);
                assert_int_equal(sagemem_map_refresh(map), SAGEMEM_OK);
                assert_map_is(map, bytes, 0, size, (size_t)d.window);
                close_ok(map);
                assert_map_is(left, bytes, 0, size, (size_t)d.window);
                assert_int_equal(sagemem_heap_check(d.heap), 0);
                sagemem_heap_destroy(d.heap);
            }
    free(bytes);
}

/* Exact: mapped counts from the page of the first byte to the last byte, a block counts as any other. */
static void test_accounting(void **state) {
    (void)state;
    const char *path = file_of("a", 10 * page);
    sagemem_heap *heap = heap_named("books", 0);
    sagemem_map_desc d = desc_of(path, SAGEMEM_MAP_READ, false);
    d.heap = heap;
    d.offset = page + 100;
    d.length = 2 * page;
    sagemem_map *map = sagemem_map_open(&d), *read = NULL;
    assert_int_equal(mapped_of(heap), 2 * page + 100);
    assert_int_equal(mapped_of(NULL), 2 * page + 100);
    assert_int_equal(used_of(heap), 0);
    d.no_mapping = true;
    read = sagemem_map_open(&d);
    assert_int_equal(mapped_of(heap), 2 * page + 100);
    sagemem_tag_stats t;
    sagemem_tag_get_stats(heap, TAG, &t);
    assert_int_equal(t.blocks, 1);
    assert_true(t.used >= 2 * page && t.used < 2 * page + 1024);
    file_of("a", page + 200);
    assert_int_equal(sagemem_map_refresh(map), SAGEMEM_OK);
    assert_int_equal(sagemem_map_refresh(read), SAGEMEM_OK);
    assert_int_equal(mapped_of(heap), 200);
    assert_true(used_of(heap) < 1024);
    close_ok(map);
    assert_int_equal(mapped_of(heap), 0);
    close_ok(read);
    assert_int_equal(used_of(heap), 0);
    sagemem_heap_destroy(heap);
}

static void test_limit(void **state) {
    (void)state;
    const char *path = file_of("a", 1 << 20);
    sagemem_map_desc d = desc_of(path, SAGEMEM_MAP_READ, true);
    d.heap = heap_named("small", 0);
    assert_int_equal(sagemem_limit_set(d.heap, 512 * KIB), SAGEMEM_OK);
    assert_null(sagemem_map_open(&d));
    assert_failed(SAGEMEM_E_LIMIT, "sagemem_map_open", "sagemem_limit_set");
    d.no_mapping = false; /* what is mapped needs no pages of the heap */
    sagemem_map *map = sagemem_map_open(&d);
    assert_non_null(map);
    close_ok(map);
    d.no_mapping = true;
    d.window = 100 * KIB; /* nor does a window need more than its size */
    map = sagemem_map_open(&d);
    assert_non_null(map);
    close_ok(map);
    d.window = 0;
    d.length = 400 * KIB;
    d.offset = 1;
    file_of("a", 300 * KIB + 1);
    map = sagemem_map_open(&d);
    assert_non_null(map);
    const unsigned char *data = sagemem_map_data(map);
    file_of("a", 1 << 20);
    assert_int_equal(sagemem_map_refresh(map), SAGEMEM_E_LIMIT); /* old and new at once; the old is as it was */
    assert_failed(SAGEMEM_E_LIMIT, "sagemem_map_refresh", "sagemem_limit_set");
    assert_ptr_equal(sagemem_map_data(map), data);
    assert_int_equal(sagemem_map_size(map), 300 * KIB);
    assert_int_equal(data[300 * KIB - 1], byte_at(300 * KIB));
    assert_int_equal(sagemem_heap_check(d.heap), 0);
    assert_int_equal(sagemem_limit_set(d.heap, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_map_refresh(map), SAGEMEM_OK);
    assert_int_equal(sagemem_map_size(map), 400 * KIB);
    close_ok(map);
    sagemem_heap_destroy(d.heap);
}

/* The walker sees a map whose structure was written over. */
static void test_walker(void **state) {
    (void)state;
    sagemem_map *map = map_of(file_of("a", 54321), SAGEMEM_MAP_READ, false, NULL);
    uint64_t *words = (uint64_t *)(void *)map;
    size_t at = 0;
    while (words[at] != 54321) at++; /* the first place where its size is kept is for reports, */
    do at++;
    while (words[at] != 54321); /* the second is the map's */
    words[at]++;
    assert_int_equal(sagemem_heap_check(NULL), 1);
    assert_int_equal(logged.count, 1);
    assert_says(logged.last, "is damaged");
    logged.count = 0;
    words[at]--;
    assert_int_equal(sagemem_heap_check(NULL), 0);
    close_ok(map);
}

/* What failures say: where a file ends now although the read begins behind that, and why there is no data. */
static void test_messages(void **state) {
    (void)state;
    const char *path = file_of("a", 100000);
    sagemem_map *map = map_of(path, SAGEMEM_MAP_READ, false, NULL);
    char bytes[64];
    set_size(path, 1000);
    assert_int_equal(sagemem_map_read(map, 50000, bytes, sizeof bytes), SAGEMEM_E_IO);
    assert_failed(SAGEMEM_E_IO, "sagemem_map_read", "ends at byte 1000,");
    close_ok(map);
    sagemem_map_desc d = desc_of(path, SAGEMEM_MAP_READ, false);
    d.window = 500;
    map = sagemem_map_open(&d);
    assert_non_null(map);
    assert_null(sagemem_map_data(map));
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_map_data", "window");
    close_ok(map);
}

/* -- Fork --------------------------------------------------------------------------------------------------------- */

/* A mapping is the file's in the child, too. A copy is the parent's to write back: the child's ends without. */
static int in_child(sagemem_map *mapped, sagemem_map *copy) {
    sagemem_set_fault_handler(NULL, NULL);
    memcpy(sagemem_map_data_writable(mapped), "child", 5);
    memcpy(sagemem_map_data_writable(copy), "child", 5);
    if (sagemem_map_flush(mapped) != SAGEMEM_OK) return 1;
    if (sagemem_map_flush(copy) != SAGEMEM_E_UNSUPPORTED) return 2;
    if (strstr(sagemem_last_error()->message, "fork") == NULL) return 3;
    if (sagemem_map_close(mapped) != SAGEMEM_OK || sagemem_map_close(copy) != SAGEMEM_OK) return 4;
    return sagemem_scope_end(NULL) == SAGEMEM_OK ? 0 : 5;
}

static void test_fork(void **state) {
    (void)state;
    const char *a = file_of("a", page), *b = file_of("b", page);
    assert_int_equal(sagemem_scope_begin(NULL, "fork", 0), SAGEMEM_OK);
    sagemem_map *mapped = map_of(a, SAGEMEM_MAP_WRITE, false, NULL), *copy = map_of(b, SAGEMEM_MAP_WRITE, true, NULL);
    sagemem_map *left = map_of(b, SAGEMEM_MAP_WRITE, true, NULL);
    memcpy(sagemem_map_data_writable(left), "left!", 5);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) _exit(in_child(mapped, copy));
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_memory_equal(sagemem_map_data(mapped), "child", 5);
    assert_int_equal(*(const unsigned char *)sagemem_map_data(copy), byte_at(0));
    assert_false(file_has(b, 0, "child", 5));
    assert_false(file_has(b, 0, "left!", 5));
    memcpy(sagemem_map_data_writable(copy), "owner", 5);
    assert_int_equal(sagemem_map_flush(copy), SAGEMEM_OK);
    assert_true(file_has(b, 0, "owner", 5));
    assert_int_equal(sagemem_scope_end(NULL), SAGEMEM_OK);
}

/* -- Failures on purpose --------------------------------------------------------------------------------------------- */

static struct {
    sagemem_map_desc desc;
    size_t size;
    bool was_read, refused; /* some run met a mapping that failed: the bytes were read; or no_fallback said no */
} life;

static bool starts_with(const unsigned char *got, const char *text, uint64_t from, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (got[i] != (i < 4 ? (unsigned char)text[i] : byte_at(from + i))) return false;
    return true;
}

/* A whole life. Whatever fails, the bytes are right, and what follows the failure works. */
static sagemem_status lives(sagemem_map *map) {
    unsigned char got[300];
    const char *text = "\0\0\0\0";
    char old[4] = {(char)byte_at(0), (char)byte_at(1), (char)byte_at(2), (char)byte_at(3)};
    text = old;
    sagemem_status status = SAGEMEM_OK, step;
    const unsigned char *view = sagemem_map_view(map, 0, 300);
    if (view == NULL) status = sagemem_last_error()->status;
    else assert_true(starts_with(view, text, 0, 300));
    if (life.desc.mode != SAGEMEM_MAP_READ) {
        text = "abcd";
        memcpy(sagemem_map_data_writable(map), text, 4);
    }
    step = sagemem_map_read(map, 0, got, 300);
    if (step == SAGEMEM_OK) assert_true(starts_with(got, text, 0, 300));
    else status = step;
    sagemem_map_prefetch(map, 0, UINT64_MAX);
    step = sagemem_map_flush(map);
    if (step != SAGEMEM_OK) status = step;
    view = sagemem_map_view(map, life.size - 300, 300);
    if (view == NULL) status = sagemem_last_error()->status;
    else assert_true(starts_with(view, (const char *)view, life.size - 300, 300));
    if (!sagemem_map_is_mapped(map)) life.was_read = true;
    uint64_t size = sagemem_map_size(map);
    const void *data = sagemem_map_data(map);
    step = sagemem_map_refresh(map);
    if (step != SAGEMEM_OK) {
        assert_ptr_equal(sagemem_map_data(map), data);
        status = step;
    }
    assert_int_equal(sagemem_map_size(map), size);
    if (!sagemem_map_is_mapped(map)) life.was_read = true;
    return status;
}

static sagemem_status run_life(void *ctx) {
    (void)ctx;
    int handles = descriptors();
    uint64_t used = used_of(NULL), mapped = mapped_of(NULL);
    sagemem_map *map = sagemem_map_open(&life.desc);
    sagemem_status status = map != NULL ? lives(map) : sagemem_last_error()->status;
    if (status == SAGEMEM_E_UNSUPPORTED) life.refused = true;
    if (map != NULL && sagemem_map_close(map) != SAGEMEM_OK) {
        status = sagemem_last_error()->status;
        close_ok(map); /* only one call fails */
    }
    assert_int_equal(descriptors(), handles);
    assert_int_equal(used_of(NULL), used);
    assert_int_equal(mapped_of(NULL), mapped);
    int fd = life.desc.mode == SAGEMEM_MAP_WRITE ? open(life.desc.path, O_RDWR) : -1;
    char old[4] = {(char)byte_at(0), (char)byte_at(1), (char)byte_at(2), (char)byte_at(3)};
    if (fd >= 0) {
        char got[4];
        assert_int_equal(pread(fd, got, 4, 0), 4);
        if (map != NULL) assert_memory_equal(got, "abcd", 4);
        assert_int_equal(pwrite(fd, old, 4, 0), 4);
        close(fd);
    }
    return status;
}

static void test_failures(void **state) {
    (void)state;
    const char *path = file_of("a", 3 * page);
    for (int mode = 0; mode < 3; mode++)
        for (int how = 0; how < 6; how++) {
            memset(&life, 0, sizeof life);
            life.desc = desc_of(path, (sagemem_map_mode)mode, how == 1 || how == 3);
            life.desc.window = how == 2 || how == 3 || how == 5 ? 1000 : 0;
            life.desc.no_fallback = how >= 4;
            if (life.desc.window != 0 && mode != SAGEMEM_MAP_READ) continue;
            life.size = 3 * page;
            uint64_t points = 0;
            assert_int_equal(sagemem_check_failures(run_life, NULL, &points), SAGEMEM_OK);
            assert_true(points >= 6);
            assert_int_equal(life.refused, how >= 4);
            if (how < 4) assert_true(life.was_read); /* also where it should have been mapped */
            else assert_false(life.was_read);
        }
    assert_int_equal(logged.count, 0);
}

/* -- Against a model ----------------------------------------------------------------------------------------------------- */

static uint64_t chance_state;
static uint64_t chance(uint64_t n) { /* splitmix64 */
    uint64_t z = chance_state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (z ^ z >> 31) % n;
}

/* `file` is what the file holds, `own` what the map shows: the same but for a private map, and for copies. */
typedef struct model {
    sagemem_map_desc desc;
    sagemem_map *map;
    int fd;
    unsigned char file[40000], own[40000];
    size_t file_size, size; /* own: map's bytes */
    bool copy, touched;
} model;

static void model_look(model *m) {
    size_t rest = m->file_size > m->desc.offset ? m->file_size - (size_t)m->desc.offset : 0;
    m->size = m->desc.length != 0 && m->desc.length < rest ? (size_t)m->desc.length : rest;
    memcpy(m->own, m->file + (m->size > 0 ? m->desc.offset : 0), m->size);
    m->touched = false;
}
static void model_flush(model *m) {
    if (m->desc.mode == SAGEMEM_MAP_WRITE && m->touched && m->size > 0) {
        memcpy(m->file + m->desc.offset, m->own, m->size);
        if (m->file_size < m->desc.offset + m->size) m->file_size = (size_t)m->desc.offset + m->size;
    }
}
static void model_open(model *m) {
    static const uint64_t windows[] = {0, 0, 1, 500, 4096, 10000, 100000};
    m->desc = desc_of(path_of("a"), (sagemem_map_mode)chance(3), chance(2) == 0);
    m->desc.offset = chance(3) == 0 ? 0 : chance(9000);
    m->desc.length = chance(2) == 0 ? 0 : 1 + chance(20000);
    if (m->desc.mode == SAGEMEM_MAP_READ) m->desc.window = windows[chance(7)];
    m->desc.access = (sagemem_map_access)chance(3);
    m->desc.populate = chance(4) == 0;
    m->desc.threshold = chance(3) == 0 ? chance(20000) : 0;
    m->map = sagemem_map_open(&m->desc);
    assert_non_null(m->map);
    model_look(m);
    m->copy = m->desc.no_mapping || m->size < m->desc.threshold;
}
static void model_view(model *m) {
    if (m->size == 0 || m->copy) return;
    if (m->file_size < m->desc.offset + m->size) return; /* cut: what is behind the end would be a signal */
    size_t at = (size_t)chance(m->size), n = (size_t)chance(m->size - at + 1);
    if (m->desc.window != 0 && n > m->desc.window) n = (size_t)m->desc.window;
    const void *view = sagemem_map_view(m->map, at, n);
    assert_non_null(view);
    if (n > 0) assert_memory_equal(view, m->desc.mode == SAGEMEM_MAP_PRIVATE ? m->own + at : m->file + m->desc.offset + at, n);
}
/* Guarded: the file now, the private copy, or the bytes that were read. */
static void model_read(model *m) {
    unsigned char got[40000];
    if (m->size == 0) return;
    size_t at = (size_t)chance(m->size), n = (size_t)chance(m->size - at + 1);
    bool there = (m->copy && m->desc.window == 0) || m->file_size >= m->desc.offset + at + n || n == 0;
    assert_int_equal(sagemem_map_read(m->map, at, got, n), there ? SAGEMEM_OK : SAGEMEM_E_IO);
    if (!there || n == 0) return;
    bool own = m->desc.mode == SAGEMEM_MAP_PRIVATE || (m->copy && m->desc.window == 0);
    assert_memory_equal(got, own ? m->own + at : m->file + m->desc.offset + at, n);
}
static void model_write(model *m) {
    if (m->desc.mode == SAGEMEM_MAP_READ || m->size == 0) return;
    if (m->file_size < m->desc.offset + m->size) return;
    size_t at = (size_t)chance(m->size), n = 1 + (size_t)chance(m->size - at < 200 ? m->size - at : 200);
    unsigned char *data = sagemem_map_data_writable(m->map);
    assert_non_null(data);
    m->touched = true;
    for (size_t i = 0; i < n && at + i < m->size; i++) m->own[at + i] = data[at + i] = (unsigned char)chance(256);
    if (m->desc.mode == SAGEMEM_MAP_WRITE && !m->copy)
        memcpy(m->file + m->desc.offset + at, data + at, n < m->size - at ? n : m->size - at);
}
/* Someone else writes or cuts. Only while the map has nothing of its own: what a private mapping shows of it is not defined. */
static void model_others(model *m) {
    if (m->desc.mode != SAGEMEM_MAP_READ) return;
    if (chance(3) == 0) {
        size_t size = (size_t)chance(30000);
        assert_int_equal(ftruncate(m->fd, (off_t)size), 0);
        if (size > m->file_size) memset(m->file + m->file_size, 0, size - m->file_size);
        m->file_size = size;
    } else if (m->file_size > 0) {
        size_t at = (size_t)chance(m->file_size);
        unsigned char value = (unsigned char)chance(256);
        assert_int_equal(pwrite(m->fd, &value, 1, (off_t)at), 1);
        m->file[at] = value;
    }
}
static void model_refresh(model *m) {
    model_flush(m);
    assert_int_equal(sagemem_map_refresh(m->map), SAGEMEM_OK);
    model_look(m);
    m->copy = m->desc.no_mapping || m->size < m->desc.threshold;
    assert_int_equal(sagemem_map_size(m->map), m->size);
    assert_int_equal(sagemem_map_is_mapped(m->map), m->size > 0 && !m->copy);
}

static void test_model(void **state) {
    (void)state;
    const char *given = getenv("SAGEMEM_SEED");
    chance_state = given != NULL && *given != '\0' ? strtoull(given, NULL, 0) : 20240229;
    print_message("seed: %" PRIu64 " (SAGEMEM_SEED sets it)\n", chance_state);
    static model m;
    memset(&m, 0, sizeof m);
    m.file_size = 25000;
    const char *path = file_of("a", m.file_size);
    for (size_t i = 0; i < m.file_size; i++) m.file[i] = byte_at(i);
    m.fd = open(path, O_RDWR);
    for (int life_count = slow() ? 60 : 600; life_count > 0; life_count--) {
        model_open(&m);
        for (int step = 0; step < 40; step++) {
            switch (chance(8)) {
            case 0: model_write(&m); break;
            case 1: model_others(&m); break;
            case 2: model_read(&m); break;
            case 3:
                if (chance(4) == 0) model_refresh(&m);
                break;
            case 4:
                assert_int_equal(sagemem_map_prefetch(m.map, chance(30000), chance(30000)), SAGEMEM_OK);
                model_flush(&m);
                assert_int_equal(sagemem_map_flush(m.map), SAGEMEM_OK);
                break;
            default: model_view(&m);
            }
        }
        assert_int_equal(sagemem_heap_check(NULL), 0);
        model_flush(&m);
        close_ok(m.map);
        size_t size;
        unsigned char *all = contents(path, &size);
        assert_int_equal(size, m.file_size);
        if (size > 0) assert_memory_equal(all, m.file, size);
        free(all);
    }
    close(m.fd);
}

/* -- Wishes, and files larger than memory -------------------------------------------------------------------------------- */

/* What the system keeps about the mapping that has this address: the line of /proc/self/smaps that begins so. */
static bool smaps_line(const void *address, const char *begin, char *line, size_t size) {
    FILE *f = fopen("/proc/self/smaps", "r");
    bool here = false, found = false;
    while (f != NULL && !found && fgets(line, (int)size, f) != NULL) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) here = from <= (uintptr_t)address && (uintptr_t)address < to;
        else found = here && strncmp(line, begin, strlen(begin)) == 0;
    }
    if (f != NULL) fclose(f);
    return found;
}

static void test_wishes(void **state) {
    (void)state;
    char line[400];
    const char *path = file_of("a", 64 * page);
    size_t size;
    unsigned char *bytes = contents(path, &size);
    for (int i = 0; i < 8; i++)
        for (int read = 0; read < 2; read++) {
            sagemem_map_desc d = desc_of(path, SAGEMEM_MAP_READ, read == 1);
            d.access = i == 1 ? SAGEMEM_ACCESS_SEQUENTIAL : i == 2 ? SAGEMEM_ACCESS_RANDOM : SAGEMEM_ACCESS_NORMAL;
            d.populate = i == 3;
            d.huge_pages = i == 4;
            d.numa_node_plus_one = i == 5 ? 1 : i == 6 ? 1024 : 0;
            d.mode = i == 7 ? SAGEMEM_MAP_PRIVATE : SAGEMEM_MAP_READ;
            sagemem_map *map = sagemem_map_open(&d);
            assert_non_null(map);
            const void *data = sagemem_map_data(map);
            if (read == 0 && !on_valgrind() && smaps_line(data, "VmFlags:", line, sizeof line)) {
                assert_int_equal(strstr(line, " sr") != NULL, i == 1);
                assert_int_equal(strstr(line, " rr") != NULL, i == 2);
                assert_true(i != 4 || strstr(line, " hg") != NULL || access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0);
            }
            if (read == 0 && !on_valgrind() && (i == 2 || i == 3) && smaps_line(data, "Rss:", line, sizeof line))
                assert_int_equal(strtoul(line + 4, NULL, 10) * KIB == size, i == 3); /* all of it, before it was touched */
            assert_map_is(map, bytes, 0, size, 0);
            close_ok(map);
        }
    free(bytes);
}

static uint64_t resident(void) {
    unsigned long all = 0, here = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL || fscanf(f, "%lu %lu", &all, &here) != 2) here = 0;
    if (f != NULL) fclose(f);
    return (uint64_t)here * page;
}

/* 16 GiB of mostly nothing, with a mark every 256 MiB: more than a window, less than a disk. */
static void test_sparse(void **state) {
    (void)state;
    const uint64_t total = (uint64_t)16 << 30, window = 64 * MIB, stride = 256 * MIB, step = 16 * MIB;
    const char *path = path_of("sparse");
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (sizeof(off_t) < 8 || ftruncate(fd, (off_t)total) != 0) {
        close(fd);
        skip();
    }
    for (uint64_t at = 0; at < total; at += stride) assert_int_equal(pwrite(fd, &at, sizeof at, (off_t)(at + 8)), sizeof at);
    close(fd);
    for (int read = 0; read < 2; read++) {
        sagemem_map_desc d = desc_of(path, SAGEMEM_MAP_READ, read == 1);
        d.window = window;
        d.access = SAGEMEM_ACCESS_RANDOM;
        sagemem_map *map = sagemem_map_open(&d);
        if (sizeof(void *) == 8) assert_non_null(map);
        assert_int_equal(sagemem_map_size(map), total);
        uint64_t before = resident(), most = 0, marks = 0;
        for (uint64_t at = 0; at < total; at += step) {
            uint64_t mark;
            const char *view = sagemem_map_view(map, at, 4096);
            assert_non_null(view);
            memcpy(&mark, view + 8, sizeof mark);
            assert_int_equal(mark, at % stride == 0 ? at : 0);
            marks += mark != 0;
            assert_true(mapped_of(NULL) <= window);
            if (at % (1 << 30) == 0 && resident() > most) most = resident();
        }
        assert_int_equal(marks, total / stride - 1);
        if (!slow() && most > before) assert_true(most - before < 16 * MIB);
        close_ok(map);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_same_bytes),
        TEST(test_view_larger_than_window),
        TEST(test_window_slides),
        TEST(test_window_reads_ahead),
        TEST(test_write_reaches_file),
        TEST(test_write_ends_with_owner),
        TEST(test_flush_fails),
        TEST(test_private_stays),
        TEST(test_arguments),
        TEST(test_not_a_file),
        TEST(test_fifo),
        TEST(test_descriptor),
        TEST(test_get_desc),
        TEST(test_refresh),
        TEST(test_refresh_flushes),
        TEST(test_guarded_read),
        TEST(test_empty),
        TEST(test_misuse),
        TEST(test_scopes),
        TEST(test_other_threads),
        TEST(test_kinds_of_heaps),
        TEST(test_accounting),
        TEST(test_limit),
        TEST(test_walker),
        TEST(test_messages),
        TEST(test_fork),
        TEST(test_failures),
        TEST(test_model),
        TEST(test_wishes),
        TEST(test_sparse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
