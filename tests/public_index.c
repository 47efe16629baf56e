/* Indexes: against records found by a loop, saved and loaded, refused when stale or damaged, as slices; and every failure. */
#include "public.h"

#include "oracle.h"

#include <errno.h>
#include <fcntl.h>

enum { TAG = 7, BYTES = 120000, HEADER = 128 };

static char directory[64], path[80], saved[80], other[80];
static unsigned char text[BYTES];

static int faults;
static sagemem_error fault;
static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    faults++;
    fault = *error;
}
static int errors;
static char last_log[400];
static void on_log(void *ctx, sagemem_log_level level, const char *message) {
    (void)ctx;
    if (level < SAGEMEM_LOG_ERROR) return;
    errors++;
    snprintf(last_log, sizeof last_log, "%s", message);
}

static int setup(void **state) {
    (void)state;
    faults = errors = 0;
    sagemem_set_fault_handler(on_fault, NULL);
    sagemem_set_logger(on_log, NULL);
    return 0;
}
/* No test leaves bytes, faults or files behind. */
static int teardown(void **state) {
    (void)state;
    sagemem_tag_stats stats;
    sagemem_heap_stats all;
    if (sagemem_tag_get_stats(NULL, TAG, &stats) != SAGEMEM_OK || stats.used != 0 || stats.blocks != 0) return 1;
    if (sagemem_heap_get_stats(NULL, &all) != SAGEMEM_OK || all.mapped != 0) return 1;
    unlink(path);
    unlink(saved);
    unlink(other);
    return faults != 0 || errors != 0;
}

static void assert_failed(sagemem_status status, const char *call, const char *part) {
    const sagemem_error *e = sagemem_last_error();
    if (e->status != status || strcmp(e->call, call) != 0 || strstr(e->message, part) == NULL)
        fail_msg("%s of %s: '%s'; expected %s of %s: '%s'", sagemem_status_name(e->status), e->call, e->message,
                 sagemem_status_name(status), call, part);
}
static void assert_faulted(sagemem_status status, const char *part) {
    assert_int_equal(faults, 1);
    faults = 0;
    assert_int_equal(fault.status, status);
    if (strstr(fault.message, part) == NULL) fail_msg("'%s' does not say '%s'", fault.message, part);
}

/* -- Files ---------------------------------------------------------------------------------------------- */

/* Not emptied first: some file systems wait for the disk when such a file is closed, and here are thousands. */
static void write_file(const char *name, const void *bytes, size_t size) {
    int fd = open(name, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, size, 0), size);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(close(fd), 0);
}
static size_t read_file(const char *name, void *bytes, size_t size) {
    FILE *file = fopen(name, "rb");
    assert_non_null(file);
    size_t n = fread(bytes, 1, size, file);
    fclose(file);
    return n;
}
/* With the time of change that is given, so that nothing depends on how fine the system's clock is. */
static void write_data(const void *bytes, size_t size, long seconds) {
    struct timespec times[2] = {{seconds, 123456789}, {seconds, 123456789}};
    write_file(path, bytes, size);
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static sagemem_map *open_map(uint64_t offset, uint64_t length, uint64_t window, bool no_mapping) {
    sagemem_map_desc desc = {0};
    desc.path = path;
    desc.offset = offset;
    desc.length = length;
    desc.window = window;
    desc.no_mapping = no_mapping;
    desc.tag = TAG;
    sagemem_map *map = sagemem_map_open(&desc);
    if (map == NULL) fail_msg("%s", sagemem_last_error()->message);
    return map;
}
static sagemem_map *whole_map(void) { return open_map(0, 0, 0, false); }
static void close_map(sagemem_map *map) { assert_int_equal(sagemem_map_close(map), SAGEMEM_OK); }

static sagemem_index_desc lines(void) {
    sagemem_index_desc desc = {0};
    desc.delimiter_plus_one = '\n' + 1;
    desc.tag = TAG;
    return desc;
}
static sagemem_index *build(sagemem_map *map, const sagemem_index_desc *desc) {
    sagemem_index *index = sagemem_index_build(map, desc);
    if (index == NULL) fail_msg("%s", sagemem_last_error()->message);
    return index;
}

/* A byte says how many follow it. */
static size_t counted(void *ctx, const void *at, size_t size) {
    size_t n = (size_t) * (const unsigned char *)at + 1;
    (void)ctx;
    return n <= size ? n : 0;
}

/* -- The model ------------------------------------------------------------------------------------------ */

typedef struct place {
    uint64_t offset, size;
} place;
static place records[BYTES + 1];
static size_t record_count;

static void model(const unsigned char *at, size_t size, const sagemem_index_desc *d) {
    size_t start = SIZE_MAX;
    record_count = 0;
    for (size_t i = 0; i <= size; i++) {
        bool begins = i == 0;
        if (d->record_bytes > 0) begins = i % d->record_bytes == 0;
        if (d->delimiter_plus_one > 0) begins = begins || at[i - 1] == d->delimiter_plus_one - 1;
        if (d->fasta) begins = i < size && at[i] == '>' && (i == 0 || at[i - 1] == '\n');
        if (d->boundary_fn != NULL) begins = start == SIZE_MAX || i - start == (size_t)at[start] + 1;
        if (!begins && i < size) continue;
        if (start != SIZE_MAX && i > start) records[record_count++] = (place){start, i - start};
        start = i;
    }
}

static void assert_is_model(const sagemem_index *index, const unsigned char *at, size_t size) {
    uint64_t offset, bytes, number;
    assert_int_equal(sagemem_index_count(index), record_count);
    for (size_t i = 0; i < record_count; i++) {
        assert_int_equal(sagemem_index_get(index, i, &offset, &bytes), SAGEMEM_OK);
        assert_int_equal(offset, records[i].offset);
        assert_int_equal(bytes, records[i].size);
        assert_int_equal(sagemem_index_find(index, offset + bytes - 1, &number), SAGEMEM_OK);
        assert_int_equal(number, i);
        if (i % 64 > 1) continue;
        size_t n = 0;
        const void *view = sagemem_index_view(index, i, &n);
        assert_non_null(view);
        assert_int_equal(n, bytes);
        assert_memory_equal(view, at + offset, n);
    }
    uint64_t first = record_count > 0 ? records[0].offset : size;
    assert_int_equal(sagemem_index_find(index, size, &number), SAGEMEM_E_NOT_FOUND);
    assert_failed(SAGEMEM_E_NOT_FOUND, "sagemem_index_find", "is in no record");
    assert_int_equal(sagemem_index_find(index, UINT64_MAX, &number), SAGEMEM_E_NOT_FOUND);
    if (first > 0) assert_int_equal(sagemem_index_find(index, first - 1, &number), SAGEMEM_E_NOT_FOUND);
    assert_int_equal(sagemem_index_get(index, record_count, &offset, &bytes), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_index_get", "numbered from 0");
    assert_int_equal(sagemem_index_get(index, UINT64_MAX, &offset, &bytes), SAGEMEM_E_ARGUMENT);
    assert_null(sagemem_index_view(index, record_count, NULL));
}

static void random_text(chance *c, const sagemem_index_desc *d) {
    size_t mean = (size_t)1 << chance_below(c, 12);
    for (size_t i = 0; i < BYTES; i++) {
        text[i] = (unsigned char)chance_next(c);
        if (d->delimiter_plus_one > 0 && chance_below(c, 3) > 0) text[i] = chance_below(c, mean) == 0 ? '\n' : 'x';
        if (d->fasta) text[i] = (unsigned char)"ACGT\nACGTT>"[chance_below(c, 11)];
    }
    for (size_t i = 0; d->fasta && i + 1 < BYTES; i += 1 + (size_t)chance_below(c, mean + 1)) text[i] = '\n', text[i + 1] = '>';
    if (chance_below(c, 4) == 0) /* all lines of one length */
        for (size_t i = 0; d->delimiter_plus_one > 0 && i < BYTES; i++) text[i] = i % 61 == 60 ? '\n' : 'x';
}

/* Every kind of record, in whole maps, parts of files and windows, mapped or read; and the same again after saving. */
static void indexes_agree_with_a_loop(void **state) {
    (void)state;
    print_message("SAGEMEM_SEED=%llu\n", UINT(oracle_seed()));
    chance c = {oracle_seed()};
    for (unsigned round = 0; round < oracle_steps(80, 16); round++) {
        sagemem_index_desc d = {0};
        d.tag = TAG;
        switch (round % 4) {
        case 0: d.delimiter_plus_one = '\n' + 1; break;
        case 1: d.fasta = true; break;
        case 2: d.record_bytes = 1 + (size_t)chance_below(&c, 500); break;
        default: d.boundary_fn = counted;
        }
        random_text(&c, &d);
        size_t size = chance_below(&c, 5) == 0 ? (size_t)chance_below(&c, 3) : (size_t)chance_below(&c, BYTES);
        write_data(text, size, 1000000000 + (long)round);
        size_t offset = chance_below(&c, 3) == 0 && size > 0 ? (size_t)chance_below(&c, size) : 0;
        size_t length = chance_below(&c, 3) == 0 ? 1 + (size_t)chance_below(&c, BYTES) : 0;
        uint64_t window = chance_below(&c, 3) == 0 ? 256 + chance_below(&c, 9000) : 0;
        sagemem_map *map = open_map(offset, length, window, chance_below(&c, 2) == 0);
        model(text + offset, (size_t)sagemem_map_size(map), &d);
        sagemem_index *index = build(map, &d);
        assert_is_model(index, text + offset, (size_t)sagemem_map_size(map));
        assert_int_equal(sagemem_index_save(index, saved), SAGEMEM_OK);
        sagemem_index *loaded = sagemem_index_load(map, saved, chance_below(&c, 2) == 0 ? &d : NULL);
        if (loaded == NULL) fail_msg("%s", sagemem_last_error()->message);
        assert_is_model(loaded, text + offset, (size_t)sagemem_map_size(map));
        assert_int_equal(sagemem_index_kind(loaded), sagemem_index_kind(index));
        assert_int_equal(sagemem_heap_check(NULL), 0);
        sagemem_index_destroy(index);
        sagemem_index_destroy(loaded);
        close_map(map);
    }
}

/* Bytes a record, as the manual says. */
static void indexes_are_small(void **state) {
    (void)state;
    static const struct {
        size_t line, most; /* bytes of memory for 1000 records of lines of `line` bytes; 0: of 1 to 120, at random */
    } cases[] = {{61, 500}, {1, 500}, {0, 2700}};
    chance c = {1};
    for (size_t i = 0; i < 3; i++) {
        size_t left = 1;
        for (size_t k = 0; k < BYTES; k++) {
            text[k] = --left == 0 ? '\n' : 'x';
            if (left == 0) left = cases[i].line != 0 ? cases[i].line : 1 + (size_t)chance_below(&c, 120);
        }
        write_data(text, BYTES, 1);
        sagemem_map *map = whole_map();
        sagemem_index_desc d = lines();
        sagemem_index *index = build(map, &d);
        uint64_t bytes = sagemem_index_bytes(index), count = sagemem_index_count(index);
        print_message("%.2f bytes a record of %.1f bytes\n", (double)bytes / (double)count, BYTES / (double)count);
        assert_true(bytes * 1000 <= count * cases[i].most);
        sagemem_tag_stats stats;
        assert_int_equal(sagemem_tag_get_stats(NULL, TAG, &stats), SAGEMEM_OK);
        assert_int_equal(stats.used, bytes);
        sagemem_index_destroy(index);
        d = (sagemem_index_desc){0};
        d.record_bytes = 10;
        index = build(map, &d);
        assert_int_equal(sagemem_index_bytes(index), 0);
        sagemem_index_destroy(index);
        close_map(map);
    }
}

/* Records far apart, in a file that is larger than what is mapped of it at a time. */
static void sparse_file_of_gigabytes(void **state) {
    (void)state;
    if (UNDER_ASAN || on_valgrind() || sizeof(size_t) < 8) return;
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    static const uint64_t ends[] = {5, (uint64_t)150 << 20, ((uint64_t)150 << 20) + 1, (uint64_t)300 << 20};
    if (ftruncate(fd, ((off_t)300 << 20) + 10) != 0) skip();
    for (size_t i = 0; i < 4; i++) assert_int_equal(pwrite(fd, "\n", 1, (off_t)ends[i]), 1);
    close(fd);
    sagemem_map *map = open_map(0, 0, 1 << 20, false);
    sagemem_index_desc d = lines();
    sagemem_index *index = build(map, &d);
    assert_int_equal(sagemem_index_count(index), 5);
    uint64_t offset, size, start = 0;
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(sagemem_index_get(index, i, &offset, &size), SAGEMEM_OK);
        assert_int_equal(offset, start);
        assert_int_equal(offset + size, ends[i] + 1);
        start = ends[i] + 1;
    }
    assert_null(sagemem_index_view(index, 3, NULL)); /* larger than the window */
    assert_failed(SAGEMEM_E_TOO_BIG, "sagemem_map_view", "window");
    sagemem_index_destroy(index);
    close_map(map);
}

/* -- What is refused ------------------------------------------------------------------------------------ */

static void descs_are_refused(void **state) {
    (void)state;
    const char *call = "sagemem_index_build";
    write_data("one\ntwo\n", 8, 1);
    sagemem_map *map = whole_map();
    sagemem_index_desc d = {0};
    assert_null(sagemem_index_build(map, NULL));
    assert_failed(SAGEMEM_E_ARGUMENT, call, "0 of delimiter_plus_one");
    assert_null(sagemem_index_build(map, &d));
    assert_failed(SAGEMEM_E_ARGUMENT, call, "0 of delimiter_plus_one");
    d = lines();
    d.fasta = true;
    assert_null(sagemem_index_build(map, &d));
    assert_failed(SAGEMEM_E_ARGUMENT, call, "2 of delimiter_plus_one");
    d.record_bytes = 3;
    d.boundary_fn = counted;
    assert_null(sagemem_index_load(map, saved, &d));
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_index_load", "4 of delimiter_plus_one");
    static const int delimiters[] = {-1, 257, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < 4; i++) {
        d = lines();
        d.delimiter_plus_one = delimiters[i];
        assert_null(sagemem_index_build(map, &d));
        assert_failed(SAGEMEM_E_ARGUMENT, call, "delimiter_plus_one is");
    }
    d = lines();
    d.tag = SAGEMEM_TAG_MAX + 1;
    assert_null(sagemem_index_build(map, &d));
    assert_failed(SAGEMEM_E_ARGUMENT, call, "SAGEMEM_TAG_MAX");
    d = lines();
    assert_null(sagemem_index_build(NULL, &d));
    assert_faulted(SAGEMEM_E_FOREIGN, "no map");
    sagemem_index *index = build(map, &d);
    assert_int_equal(sagemem_index_save(index, NULL), SAGEMEM_E_ARGUMENT);
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_index_save", "path is NULL");
    assert_null(sagemem_index_load(map, NULL, &d));
    assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_index_load", "path is NULL");
    assert_int_equal(sagemem_index_get_desc(index, NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_index_find(index, 0, NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_index_get(index, 1, NULL, NULL), SAGEMEM_OK);
    sagemem_index_desc out;
    assert_int_equal(sagemem_index_get_desc(index, &out), SAGEMEM_OK);
    assert_int_equal(out.delimiter_plus_one, '\n' + 1);
    assert_ptr_equal(out.heap, sagemem_heap_default());
    assert_string_equal(out.name, "index");
    assert_int_equal(out.max_record_bytes, 64 * MIB);
    sagemem_index_destroy(index);
    sagemem_index_destroy(NULL);
    assert_int_equal(sagemem_index_count(index), 0);
    assert_faulted(SAGEMEM_E_STALE, "index has ended");
    sagemem_index_destroy(index);
    assert_faulted(SAGEMEM_E_STALE, "index has ended");
    close_map(map);
}

static size_t says_more(void *ctx, const void *at, size_t size) {
    (void)ctx;
    return *(const char *)at == 't' ? size + 1 : 4;
}
static size_t says_nothing(void *ctx, const void *at, size_t size) {
    (void)ctx;
    size_t n = (size_t)((const char *)memchr(at, '\n', size) - (const char *)at);
    return memchr(at, '\n', size) != NULL ? n + 1 : 0;
}
static void callbacks_and_limits(void **state) {
    (void)state;
    const char *call = "sagemem_index_build";
    write_data("one\ntwo\n", 8, 1);
    sagemem_map *map = whole_map();
    sagemem_index_desc d = {0};
    d.boundary_fn = says_more;
    assert_null(sagemem_index_build(map, &d));
    assert_failed(SAGEMEM_E_CORRUPT, call, "at byte 4 ");
    close_map(map);

    memset(text, 'x', 80000);
    text[9] = text[70009] = '\n';
    write_data(text, 80000, 2);
    d.boundary_fn = says_nothing;
    for (size_t most = 69999; most <= 70001; most++) {
        map = whole_map();
        d.max_record_bytes = most;
        sagemem_index *index = sagemem_index_build(map, &d);
        assert_int_equal(index != NULL, most >= 70000);
        if (index == NULL) assert_failed(SAGEMEM_E_TOO_BIG, call, "at byte 10 ");
        else assert_int_equal(sagemem_index_count(index), 3);
        sagemem_index_destroy(index);
        close_map(map);
    }
    d.max_record_bytes = 0;
    map = open_map(0, 0, 65536, false);
    assert_null(sagemem_index_build(map, &d));
    assert_failed(SAGEMEM_E_TOO_BIG, call, "larger window");
    close_map(map);
}

/* -- Files that do not fit ------------------------------------------------------------------------------ */

static void assert_not_loaded(sagemem_map *map, const sagemem_index_desc *d, sagemem_status status, const char *part) {
    assert_null(sagemem_index_load(map, saved, d));
    assert_failed(status, "sagemem_index_load", part);
}

static void stale_indexes_are_refused(void **state) {
    (void)state;
    sagemem_index_desc d = lines();
    write_data("one\ntwo\n", 8, 1000);
    sagemem_map *map = whole_map();
    sagemem_index *index = build(map, &d);
    assert_not_loaded(map, &d, SAGEMEM_E_NOT_FOUND, "build the index");
    assert_int_equal(sagemem_index_save(index, saved), SAGEMEM_OK);
    sagemem_index_destroy(index);
    close_map(map);

    write_data("one\ntwo\n", 8, 1001); /* another time */
    map = whole_map();
    assert_not_loaded(map, &d, SAGEMEM_E_STALE, "time of change");
    close_map(map);
    write_data("one\ntwo\nthree\n", 14, 1000); /* another size */
    map = whole_map();
    assert_not_loaded(map, &d, SAGEMEM_E_STALE, "the file's size was 8, and is 14");
    close_map(map);

    write_data("one\ntwo\n", 8, 1000);
    map = open_map(1, 0, 0, false);
    assert_not_loaded(map, &d, SAGEMEM_E_STALE, "the map's offset");
    close_map(map);
    map = open_map(0, 7, 0, false);
    assert_not_loaded(map, &d, SAGEMEM_E_STALE, "the map's size");
    close_map(map);
    map = whole_map();
    d.delimiter_plus_one = ' ' + 1;
    assert_not_loaded(map, &d, SAGEMEM_E_STALE, "the delimiter was 10, and is 32");
    d = (sagemem_index_desc){0};
    d.fasta = true;
    assert_not_loaded(map, &d, SAGEMEM_E_STALE, "the kind of records");
    index = sagemem_index_load(map, saved, NULL);
    assert_non_null(index);
    sagemem_index_destroy(index);
    d = (sagemem_index_desc){0};
    d.record_bytes = 3;
    index = build(map, &d);
    assert_int_equal(sagemem_index_save(index, saved), SAGEMEM_OK);
    sagemem_index_destroy(index);
    d.record_bytes = 4;
    assert_not_loaded(map, &d, SAGEMEM_E_STALE, "record_bytes was 3, and is 4");
    close_map(map);
}

static size_t changes_the_file(void *ctx, const void *at, size_t size) {
    (void)ctx, (void)at, (void)size;
    FILE *file = fopen(path, "ab");
    fputs("more", file);
    fclose(file);
    return 0;
}
static void file_that_changes_while_it_is_read(void **state) {
    (void)state;
    write_data("one\ntwo\n", 8, 1000);
    sagemem_map *map = whole_map();
    sagemem_index_desc d = {0};
    d.boundary_fn = changes_the_file;
    assert_null(sagemem_index_build(map, &d));
    assert_failed(SAGEMEM_E_STALE, "sagemem_index_build", "was changed while");
    close_map(map);
}

/* CRC-32C, bit by bit: to make files whose checksums are right. */
static uint32_t crc(uint32_t sum, const unsigned char *at, size_t size) {
    sum = ~sum;
    for (size_t i = 0; i < size; i++) {
        sum ^= at[i];
        for (int bit = 0; bit < 8; bit++) sum = sum >> 1 ^ ((sum & 1) != 0 ? 0x82F63B78u : 0);
    }
    return ~sum;
}
static void seal(unsigned char *file, size_t size) {
    uint32_t sum = crc(0, file + HEADER, size - HEADER);
    memcpy(file + HEADER - 8, &sum, 4);
    sum = crc(0, file, HEADER - 4);
    memcpy(file + HEADER - 4, &sum, 4);
}

static void damaged_files_are_refused(void **state) {
    (void)state;
    static unsigned char file[4096], bad[4200];
    sagemem_index_desc d = lines();
    for (size_t i = 0; i < 3000; i++) text[i] = i * i % 31 == 0 ? '\n' : 'x';
    write_data(text, 3000, 1000);
    sagemem_map *map = whole_map();
    sagemem_index *index = build(map, &d);
    assert_int_equal(sagemem_index_save(index, saved), SAGEMEM_OK);
    sagemem_index_destroy(index);
    size_t size = read_file(saved, file, sizeof file);
    assert_true(size > HEADER + 24 && size < sizeof file);
    for (size_t cut = 0; cut < size; cut += cut < HEADER + 30 || cut + 30 > size ? 1 : 37) { /* cut short */
        write_file(saved, file, cut);
        assert_null(sagemem_index_load(map, saved, NULL));
        assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_CORRUPT);
    }
    memcpy(bad, file, size);
    write_file(saved, bad, size + 8); /* longer */
    assert_not_loaded(map, NULL, SAGEMEM_E_CORRUPT, "something follows");
    for (size_t i = 0; i < size; i++) { /* every byte */
        memcpy(bad, file, size);
        bad[i] ^= (unsigned char)(1u << i % 8);
        write_file(saved, bad, size);
        assert_null(sagemem_index_load(map, saved, NULL));
        assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_CORRUPT);
    }
    write_file(saved, "", 0);
    assert_not_loaded(map, NULL, SAGEMEM_E_CORRUPT, "is no index");
    unlink(saved);
    assert_int_equal(mkdir(saved, 0700), 0);
    assert_not_loaded(map, NULL, SAGEMEM_E_CORRUPT, "is no file");
    assert_int_equal(rmdir(saved), 0);

    memcpy(bad, file, size); /* a newer version, the other byte order */
    bad[16] = 2;
    seal(bad, size);
    write_file(saved, bad, size);
    assert_not_loaded(map, NULL, SAGEMEM_E_UNSUPPORTED, "version 2");
    memcpy(bad, file, size);
    for (int i = 0; i < 2; i++) {
        unsigned char swap = bad[20 + i];
        bad[20 + i] = bad[23 - i];
        bad[23 - i] = swap;
    }
    seal(bad, size);
    for (int i = 0; i < 2; i++) {
        unsigned char swap = bad[HEADER - 4 + i];
        bad[HEADER - 4 + i] = bad[HEADER - 1 - i];
        bad[HEADER - 1 - i] = swap;
    }
    write_file(saved, bad, size);
    assert_not_loaded(map, NULL, SAGEMEM_E_UNSUPPORTED, "byte order");
    close_map(map);
}

/* Made by hand, with good checksums: whatever loads has only records inside of the map, in order. */
static void forged_files_do_no_harm(void **state) {
    (void)state;
    static unsigned char file[8192], bad[8192];
    print_message("SAGEMEM_SEED=%llu\n", UINT(oracle_seed()));
    chance c = {oracle_seed()};
    for (size_t i = 0; i < 6000; i++) text[i] = chance_below(&c, 9) == 0 ? '\n' : '>';
    write_data(text, 6000, 1000);
    sagemem_map *map = whole_map();
    int loaded = 0;
    for (int kind = 0; kind < 4; kind++) {
        sagemem_index_desc d = {0};
        if (kind == 0) d.delimiter_plus_one = '\n' + 1;
        if (kind == 1) d.fasta = true;
        if (kind == 2) d.record_bytes = 7;
        if (kind == 3) d.boundary_fn = counted;
        sagemem_index *index = build(map, &d);
        assert_int_equal(sagemem_index_save(index, other), SAGEMEM_OK);
        sagemem_index_destroy(index);
        size_t size = read_file(other, file, sizeof file);
        for (unsigned round = 0; round < oracle_steps(1500, 200); round++) {
            memcpy(bad, file, size);
            for (uint64_t changes = 1 + chance_below(&c, 3); changes > 0; changes--) {
                size_t at = chance_below(&c, 2) == 0 ? 64 + (size_t)chance_below(&c, 56) : (size_t)chance_below(&c, size);
                bad[at] =
                    chance_below(&c, 2) == 0 ? (unsigned char)chance_next(&c) : (unsigned char)(bad[at] + chance_below(&c, 5) - 2);
            }
            seal(bad, size);
            write_file(saved, bad, size);
            index = sagemem_index_load(map, saved, NULL);
            if (index == NULL) continue;
            loaded++;
            uint64_t offset, bytes, behind = 0;
            for (uint64_t i = 0; i < sagemem_index_count(index); i++) {
                assert_int_equal(sagemem_index_get(index, i, &offset, &bytes), SAGEMEM_OK);
                assert_true(bytes > 0 && offset >= behind && offset < 6000 && bytes <= 6000 - offset);
                assert_true(i == 0 || offset == behind);
                behind = offset + bytes;
            }
            sagemem_index_destroy(index);
        }
    }
    print_message("%d forged files were loaded\n", loaded);
    close_map(map);
}

/* -- Saving --------------------------------------------------------------------------------------------- */

static void saving_is_atomic(void **state) {
    (void)state;
    write_data("one\ntwo\n", 8, 1000);
    write_file(saved, "old", 3);
    sagemem_map *map = whole_map();
    sagemem_index_desc d = lines();
    sagemem_index *index = build(map, &d);
    char missing[100];
    snprintf(missing, sizeof missing, "%s/no/such", directory);
    assert_int_equal(sagemem_index_save(index, missing), SAGEMEM_E_NOT_FOUND);
    assert_string_equal(sagemem_last_error()->call, "sagemem_index_save");
    struct rlimit before, small = {10, 10};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(sagemem_index_save(index, saved), SAGEMEM_E_IO);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    char old[4] = "";
    assert_int_equal(read_file(saved, old, 4), 3);
    assert_memory_equal(old, "old", 3);
    assert_int_equal(sagemem_index_save(index, saved), SAGEMEM_OK);
    sagemem_index_destroy(index);
    index = sagemem_index_load(map, saved, &d);
    assert_non_null(index);
    sagemem_index_destroy(index);
    close_map(map);
}

/* -- The map, scopes, slices ---------------------------------------------------------------------------- */

static void map_may_go_first(void **state) {
    (void)state;
    write_data("one\ntwo\n", 8, 1000);
    sagemem_map *map = whole_map();
    sagemem_index_desc d = lines();
    sagemem_index *index = build(map, &d);
    assert_int_equal(sagemem_map_refresh(map), SAGEMEM_OK);
    assert_null(sagemem_index_view(index, 0, NULL));
    assert_failed(SAGEMEM_E_STALE, "sagemem_index_view", "refreshed");
    assert_null(sagemem_index_slice(index, 0).owner);
    assert_failed(SAGEMEM_E_STALE, "sagemem_index_slice", "refreshed");
    close_map(map);
    assert_null(sagemem_index_view(index, 0, NULL));
    assert_faulted(SAGEMEM_E_STALE, "map has ended");
    for (int i = 0; i < 200; i++) close_map(whole_map()); /* its structure serves again: for another map */
    uint64_t offset, size;
    assert_int_equal(sagemem_index_get(index, 1, &offset, &size), SAGEMEM_OK); /* needs no map */
    assert_int_equal(offset, 4);
    assert_int_equal(sagemem_index_save(index, saved), SAGEMEM_OK);
    sagemem_index_destroy(index);
}

static void index_belongs_to_its_scope(void **state) {
    (void)state;
    write_data("one\ntwo\n", 8, 1000);
    sagemem_map *map = whole_map();
    sagemem_index_desc d = lines();
    assert_int_equal(sagemem_scope_begin(NULL, "scope", 1), SAGEMEM_OK);
    sagemem_index *index = build(map, &d);
    assert_int_equal(sagemem_scope_end(NULL), SAGEMEM_OK);
    assert_int_equal(sagemem_index_count(index), 0);
    assert_faulted(SAGEMEM_E_STALE, "index has ended");
    close_map(map);
}

static void records_as_slices(void **state) {
    (void)state;
    write_data(">a\nAC\n>b\nGT\n", 12, 1000);
    for (int read = 0; read < 2; read++) {
        sagemem_map *map = open_map(0, 0, 0, read);
        sagemem_index_desc d = {0};
        d.fasta = true;
        sagemem_index *index = build(map, &d);
        sagemem_slice slice = sagemem_index_slice(index, 1), part;
        assert_int_equal(slice.size, 6);
        assert_ptr_equal(slice.data, (const char *)sagemem_map_data(map) + 6); /* nothing was copied */
        assert_memory_equal(sagemem_slice_at(slice, 0, 6), ">b\nGT\n", 6);
        assert_int_equal(sagemem_slice_sub(slice, 3, 5, &part), SAGEMEM_OK);
        sagemem_slice_release(slice);
        assert_null(sagemem_index_slice(index, 2).owner);
        assert_failed(SAGEMEM_E_ARGUMENT, "sagemem_index_slice", "record 2 of 2");
        sagemem_index_destroy(index); /* slices do not need it */
        assert_int_equal(sagemem_map_close(map), SAGEMEM_E_BUSY);
        assert_faulted(SAGEMEM_E_BUSY, "1 slices of the records");
        assert_int_equal(sagemem_map_refresh(map), SAGEMEM_E_BUSY);
        assert_failed(SAGEMEM_E_BUSY, "sagemem_map_refresh", "1 slices of the records");
        assert_memory_equal(part.data, "GT", 2);
        sagemem_slice_release(part);
        assert_int_equal(sagemem_map_refresh(map), SAGEMEM_OK);
        close_map(map);
    }
    sagemem_map *map = open_map(0, 0, 8, false);
    sagemem_index_desc d = {0};
    d.fasta = true;
    sagemem_index *index = build(map, &d);
    assert_null(sagemem_index_slice(index, 0).owner);
    assert_failed(SAGEMEM_E_UNSUPPORTED, "sagemem_index_slice", "window");
    sagemem_index_destroy(index);
    close_map(map);
}

static void slice_outlives_the_scope_of_the_map(void **state) {
    (void)state;
    write_data("one\ntwo\n", 8, 1000);
    assert_int_equal(sagemem_scope_begin(NULL, "scope", 1), SAGEMEM_OK);
    sagemem_map *map = whole_map();
    sagemem_index_desc d = lines();
    sagemem_slice slice = sagemem_index_slice(build(map, &d), 1);
    assert_non_null(slice.owner);
    assert_int_equal(sagemem_scope_end(NULL), SAGEMEM_OK);
    assert_int_equal(errors, 1);
    errors = 0;
    assert_non_null(strstr(last_log, "1 slices of its records were held"));
    for (int i = 0; i < 200; i++) close_map(whole_map());
    sagemem_slice_release(slice); /* does no harm, whatever has the map's place now */
}

/* -- Threads -------------------------------------------------------------------------------------------- */

static sagemem_index *shared_index;
static void *read_records(void *seed) {
    chance c = {*(uint64_t *)seed};
    for (unsigned i = 0; i < oracle_steps(20000, 2000); i++) {
        uint64_t record = chance_below(&c, record_count), number;
        size_t size;
        const void *view = sagemem_index_view(shared_index, record, &size);
        REQUIRE(view != NULL && size == records[record].size, "another record");
        REQUIRE(sagemem_index_find(shared_index, records[record].offset, &number) == SAGEMEM_OK && number == record, "not found");
        sagemem_slice slice = sagemem_index_slice(shared_index, record);
        REQUIRE(slice.data == view && slice.size == size, "another slice");
        REQUIRE(memcmp(slice.data, text + records[record].offset, size) == 0, "other bytes");
        sagemem_slice_release(slice);
    }
    char name[100];
    snprintf(name, sizeof name, "%s/saved-%llu", directory, UINT(c.state));
    REQUIRE(sagemem_index_save(shared_index, name) == SAGEMEM_OK, "not saved");
    unlink(name);
    return NULL;
}
static void many_threads_read(void **state) {
    (void)state;
    chance c = {oracle_seed()};
    sagemem_index_desc d = lines();
    random_text(&c, &d);
    write_data(text, BYTES, 1000);
    sagemem_map *map = whole_map();
    model(text, BYTES, &d);
    shared_index = build(map, &d);
    pthread_t threads[4];
    uint64_t seeds[4] = {1, 2, 3, 4};
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, read_records, &seeds[i]), 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    sagemem_index_destroy(shared_index);
    close_map(map);
}

/* -- Limits and failures on purpose --------------------------------------------------------------------- */

static void limits_are_met_and_lifted(void **state) {
    (void)state;
    sagemem_heap *heap = sagemem_heap_create(NULL);
    sagemem_index_desc d = lines();
    d.heap = heap;
    memset(text, '\n', BYTES);
    for (size_t i = 0; i < BYTES; i += 1 + i % 7) text[i] = 'x';
    text[0] = '\n';
    write_data(text, BYTES, 1000);
    sagemem_map *map = whole_map();
    assert_int_equal(sagemem_limit_set(heap, 1), SAGEMEM_OK);
    assert_null(sagemem_index_build(map, &d));
    assert_failed(SAGEMEM_E_LIMIT, "sagemem_index_build", "limit");
    assert_int_equal(sagemem_limit_set(heap, 0), SAGEMEM_OK);
    sagemem_index *index = build(map, &d);
    assert_int_equal(sagemem_index_save(index, saved), SAGEMEM_OK);
    model(text, BYTES, &d);
    assert_is_model(index, text, BYTES);
    sagemem_index_destroy(index);
    assert_int_equal(sagemem_trim() < UINT64_MAX, 1);
    assert_int_equal(sagemem_limit_set(heap, 1), SAGEMEM_OK);
    assert_null(sagemem_index_load(map, saved, &d));
    assert_failed(SAGEMEM_E_LIMIT, "sagemem_index_load", "limit");
    assert_int_equal(sagemem_limit_set(heap, 0), SAGEMEM_OK);
    index = sagemem_index_load(map, saved, &d);
    assert_non_null(index);
    assert_int_equal(sagemem_heap_check(heap), 0);
    close_map(map);
    sagemem_heap_destroy(heap); /* and the index with it */
}

static sagemem_status live(void *ctx) {
    int kind = *(const int *)ctx;
    sagemem_heap *heap = sagemem_heap_create(NULL);
    if (heap == NULL) return sagemem_last_error()->status;
    sagemem_map_desc m = {0};
    m.path = path;
    m.heap = heap;
    m.window = kind == 3 ? 4096 : 0;
    sagemem_status status = SAGEMEM_OK;
    sagemem_map *map = sagemem_map_open(&m);
    if (map == NULL) status = sagemem_last_error()->status;
    sagemem_index_desc d = {0};
    d.heap = heap;
    d.name = "catalogue";
    if (kind % 3 == 0) d.delimiter_plus_one = '\n' + 1;
    if (kind == 1) d.record_bytes = 9;
    if (kind == 2) d.boundary_fn = counted;
    sagemem_index *index = map != NULL ? sagemem_index_build(map, &d) : NULL;
    if (map != NULL && index == NULL) status = sagemem_last_error()->status;
    if (status == SAGEMEM_OK) {
        status = sagemem_index_save(index, saved);
        if (status != SAGEMEM_OK) assert_int_equal(access(saved, F_OK), -1);
    }
    sagemem_index *again = status == SAGEMEM_OK ? sagemem_index_load(map, saved, &d) : NULL;
    if (status == SAGEMEM_OK && again == NULL) status = sagemem_last_error()->status;
    if (status == SAGEMEM_OK && kind < 3) {
        sagemem_slice slice = sagemem_index_slice(again, 0);
        if (slice.owner == NULL) status = sagemem_last_error()->status;
        sagemem_slice_release(slice);
    }
    assert_int_equal(sagemem_heap_check(heap), 0);
    sagemem_index_destroy(index);
    sagemem_index_destroy(again);
    if (map != NULL) close_map(map);
    unlink(saved);
    sagemem_heap_stats stats;
    assert_int_equal(sagemem_heap_get_stats(heap, &stats), SAGEMEM_OK);
    assert_int_equal(stats.used, 0);
    sagemem_heap_destroy(heap);
    return status;
}
static void every_failure_is_survived(void **state) {
    (void)state;
    for (size_t i = 0; i < 9000; i++) text[i] = i % 11 == 0 ? '\n' : (unsigned char)(i * i);
    write_data(text, 9000, 1000);
    for (int kind = 0; kind < 4; kind++) {
        uint64_t points;
        assert_int_equal(sagemem_check_failures(live, &kind, &points), SAGEMEM_OK);
        assert_true(points >= 10);
    }
}

static int begin(void **state) {
    (void)state;
    snprintf(directory, sizeof directory, "/tmp/sagemem-index-XXXXXX");
    if (mkdtemp(directory) == NULL) return 1;
    snprintf(path, sizeof path, "%s/data", directory);
    snprintf(saved, sizeof saved, "%s/saved", directory);
    snprintf(other, sizeof other, "%s/other", directory);
    return 0;
}
static int end(void **state) {
    (void)state;
    return rmdir(directory);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        test(indexes_agree_with_a_loop),
        test(indexes_are_small),
        test(sparse_file_of_gigabytes),
        test(descs_are_refused),
        test(callbacks_and_limits),
        test(stale_indexes_are_refused),
        test(file_that_changes_while_it_is_read),
        test(damaged_files_are_refused),
        test(forged_files_do_no_harm),
        test(saving_is_atomic),
        test(map_may_go_first),
        test(index_belongs_to_its_scope),
        test(records_as_slices),
        test(slice_outlives_the_scope_of_the_map),
        test(many_threads_read),
        test(limits_are_met_and_lifted),
        test(every_failure_is_survived),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
