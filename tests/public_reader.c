/* Readers: what each call promises, what is refused, what failures leave behind. Mixes of calls and threads: see
 * public_reader_threads.c. */
#include "public.h"
#include <errno.h>
#include <fcntl.h>

enum { TAG = 7, BYTES = 200000, BUFFER = 4096 };

static volatile size_t most = SIZE_MAX;

static unsigned char data[BYTES];
static char directory[64], path[80], empty[80], missing[80], fifo[80];

static int faults;
static sagemem_error fault;
static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    faults++;
    fault = *error;
}
static int warnings;
static void on_log(void *ctx, sagemem_log_level level, const char *message) {
    (void)ctx, (void)message;
    if (level >= SAGEMEM_LOG_WARNING) warnings++;
}

static int setup(void **state) {
    (void)state;
    faults = warnings = 0;
    sagemem_set_fault_handler(on_fault, NULL);
    sagemem_set_logger(on_log, NULL);
    return 0;
}
/* No test leaves bytes or faults behind. */
static int teardown(void **state) {
    (void)state;
    sagemem_tag_stats stats;
    if (sagemem_tag_get_stats(NULL, TAG, &stats) != SAGEMEM_OK || stats.used != 0 || stats.blocks != 0) return 1;
    sagemem_heap_stats all;
    if (sagemem_heap_get_stats(NULL, &all) != SAGEMEM_OK || all.mapped != 0) return 1;
    return faults != 0;
}

static void assert_failed(sagemem_status status, const char *part) {
    const sagemem_error *error = sagemem_last_error();
    if (error->status != status)
        fail_msg("%s instead of %s: %s", sagemem_status_name(error->status), sagemem_status_name(status), error->message);
    if (strstr(error->message, part) == NULL) fail_msg("'%s' does not say '%s'", error->message, part);
}
static void assert_faulted(sagemem_status status, const char *part) {
    assert_int_equal(faults, 1);
    faults = 0;
    assert_int_equal(fault.status, status);
    if (strstr(fault.message, part) == NULL) fail_msg("'%s' does not say '%s'", fault.message, part);
}

static sagemem_reader_desc desc_of(const char *name) {
    sagemem_reader_desc desc = {0};
    desc.path = name;
    desc.no_mapping = true;
    desc.buffer_bytes = BUFFER;
    desc.tag = TAG;
    return desc;
}
static sagemem_reader *open_desc(const sagemem_reader_desc *desc) {
    sagemem_reader *reader = sagemem_reader_open(desc);
    if (reader == NULL) fail_msg("%s", sagemem_last_error()->message);
    return reader;
}
static sagemem_reader *open_path(const char *name) {
    sagemem_reader_desc desc = desc_of(name);
    return open_desc(&desc);
}
static sagemem_reader *open_mapped(const char *name) {
    sagemem_reader_desc desc = desc_of(name);
    desc.no_mapping = false;
    return open_desc(&desc);
}
static void well_closed(sagemem_reader *reader) { assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK); }

static uint64_t used_now(void) {
    sagemem_tag_stats stats;
    assert_int_equal(sagemem_tag_get_stats(NULL, TAG, &stats), SAGEMEM_OK);
    return stats.used;
}

/* Descriptors that are open, by what the next one would be. */
static int next_fd(void) {
    int fd = open("/dev/null", O_RDONLY);
    assert_true(fd >= 0);
    close(fd);
    return fd;
}

static unsigned char room[2 * BYTES];

/* Reads to the end, piece by piece, and compares. */
static void assert_reads(sagemem_reader *reader, size_t from, size_t piece) {
    for (size_t at = from, got = 1; got > 0; at += got) {
        assert_int_equal(sagemem_read(reader, room, piece, &got), SAGEMEM_OK);
        assert_int_equal(got, piece < BYTES - at ? piece : BYTES - at);
        assert_memory_equal(room, data + at, got);
    }
}

/* -- Opening -------------------------------------------------------------------------------------------- */

static void desc_is_refused(void **state) {
    (void)state;
    sagemem_input source = {0};
    sagemem_reader_desc desc = {0};
    assert_null(sagemem_reader_open(NULL));
    assert_failed(SAGEMEM_E_ARGUMENT, "desc is NULL");
    assert_null(sagemem_reader_open(&desc));
    assert_failed(SAGEMEM_E_ARGUMENT, "give one");
    desc = desc_of(path);
    desc.fd_plus_one = 1;
    assert_null(sagemem_reader_open(&desc));
    assert_failed(SAGEMEM_E_ARGUMENT, "2 of path");
    desc.source = &source;
    assert_null(sagemem_reader_open(&desc));
    assert_failed(SAGEMEM_E_ARGUMENT, "3 of path");
    desc.path = NULL;
    desc.fd_plus_one = 0;
    assert_null(sagemem_reader_open(&desc));
    assert_failed(SAGEMEM_E_ARGUMENT, "read_fn is NULL");
    desc.source = NULL;
    desc.fd_plus_one = -3;
    assert_null(sagemem_reader_open(&desc));
    assert_failed(SAGEMEM_E_ARGUMENT, "fd_plus_one is -3");
    static const int buffers[] = {-1, 1, 1025, INT32_MAX};
    for (size_t i = 0; i < 4; i++) {
        desc = desc_of(path);
        desc.read_ahead = true;
        desc.buffers = buffers[i];
        assert_null(sagemem_reader_open(&desc));
        assert_failed(SAGEMEM_E_ARGUMENT, "buffers");
    }
    desc = desc_of(path);
    desc.tag = SAGEMEM_TAG_MAX + 1;
    assert_null(sagemem_reader_open(&desc));
    assert_failed(SAGEMEM_E_ARGUMENT, "SAGEMEM_TAG_MAX");
    for (int ahead = 0; ahead < 2; ahead++) {
        desc = desc_of(path);
        desc.buffer_bytes = most;
        desc.read_ahead = ahead;
        assert_null(sagemem_reader_open(&desc));
        assert_true(sagemem_last_error()->status == SAGEMEM_E_ARGUMENT || sagemem_last_error()->status == SAGEMEM_E_NOMEM);
    }
    desc = desc_of(path);
    desc.heap = (sagemem_heap *)(void *)room;
    assert_null(sagemem_reader_open(&desc));
    assert_faulted(SAGEMEM_E_FOREIGN, "not a heap");
}

static void what_cannot_be_opened(void **state) {
    (void)state;
    int fd = next_fd();
    sagemem_reader_desc desc = desc_of(missing);
    for (int mapped = 0; mapped < 2; mapped++) {
        desc.no_mapping = mapped == 0;
        desc.path = missing;
        assert_null(sagemem_reader_open(&desc));
        assert_failed(SAGEMEM_E_NOT_FOUND, "missing");
        assert_int_equal(sagemem_last_error()->os_error, ENOENT);
        desc.path = "";
        assert_null(sagemem_reader_open(&desc));
        assert_failed(SAGEMEM_E_NOT_FOUND, "name a file");
        desc.path = directory;
        assert_null(sagemem_reader_open(&desc));
        assert_failed(SAGEMEM_E_IO, "directory");
        assert_int_equal(sagemem_last_error()->os_error, EISDIR);
    }
    char longest[5001];
    memset(longest, 'x', 5000);
    memcpy(longest, "/tmp/", 5);
    longest[5000] = '\0';
    desc.path = longest;
    assert_null(sagemem_reader_open(&desc));
    assert_failed(SAGEMEM_E_IO, "...xxx");
    assert_int_equal(sagemem_last_error()->os_error, ENAMETOOLONG);
    desc.path = NULL;
    desc.fd_plus_one = 1000 + 1;
    assert_null(sagemem_reader_open(&desc));
    assert_failed(SAGEMEM_E_IO, "descriptor");
    assert_int_equal(sagemem_last_error()->os_error, EBADF);
    if (getuid() != 0) {
        chmod(path, 0);
        desc = desc_of(path);
        assert_null(sagemem_reader_open(&desc));
        assert_failed(SAGEMEM_E_IO, "ermission");
        chmod(path, 0600);
    }
    assert_int_equal(next_fd(), fd);
}

/* Many names for "here": a path of 4,000 characters is opened and kept whole. */
static void long_path_is_kept(void **state) {
    (void)state;
    char name[4096] = "";
    size_t at = (size_t)snprintf(name, sizeof name, "%s", directory);
    while (at < 3990) at += (size_t)snprintf(name + at, sizeof name - at, "/.");
    snprintf(name + at, sizeof name - at, "/input");
    for (int mapped = 0; mapped < 2; mapped++) {
        sagemem_reader_desc desc = desc_of(name), out;
        desc.no_mapping = mapped == 0;
        sagemem_reader *reader = open_desc(&desc);
        assert_int_equal(sagemem_reader_get_desc(reader, &out), SAGEMEM_OK);
        assert_ptr_not_equal(out.path, name);
        assert_string_equal(out.path, name);
        well_closed(reader);
    }
}

static void descriptor_for_writing_only(void **state) {
    (void)state;
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    sagemem_reader_desc desc = desc_of(NULL);
    desc.fd_plus_one = fd + 1;
    desc.no_mapping = false; /* mapping fails, and so does every read */
    assert_null(sagemem_reader_open(NULL));
    sagemem_reader *reader = open_desc(&desc);
    assert_failed(SAGEMEM_E_ARGUMENT, "desc is NULL"); /* a success leaves the last error as it was */
    assert_false(sagemem_reader_is_mapped(reader));
    size_t got = 5;
    assert_int_equal(sagemem_read(reader, room, 10, &got), SAGEMEM_E_IO);
    assert_int_equal(got, 0);
    assert_failed(SAGEMEM_E_IO, "reading at byte 0");
    assert_int_equal(sagemem_last_error()->os_error, EBADF);
    assert_null(sagemem_read_view(reader, 10));
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_IO);
    assert_int_equal(sagemem_read_at(reader, 0, room, 10), SAGEMEM_E_IO);
    well_closed(reader);
    close(fd);
}

static sagemem_status read_nothing(void *ctx, void *to, size_t size, uint64_t offset, size_t *got) {
    (void)ctx, (void)to, (void)size, (void)offset, (void)got;
    return SAGEMEM_OK;
}

static void desc_is_resolved(void **state) {
    (void)state;
    sagemem_reader_desc desc = {0}, out;
    desc.path = path;
    sagemem_reader *reader = open_desc(&desc);
    assert_true(sagemem_reader_is_mapped(reader));
    assert_int_equal(sagemem_reader_get_desc(reader, &out), SAGEMEM_OK);
    assert_ptr_equal(out.heap, sagemem_heap_default());
    assert_string_equal(out.path, path);
    assert_int_equal(sagemem_reader_get_desc(reader, NULL), SAGEMEM_E_ARGUMENT);
    well_closed(reader);

    desc.no_mapping = true;
    reader = open_desc(&desc);
    assert_int_equal(sagemem_reader_get_desc(reader, &out), SAGEMEM_OK);
    assert_int_equal(out.buffer_bytes, 256 * KIB); /* the file fits, and its end is found with it */
    well_closed(reader);
    desc.read_ahead = true;
    desc.map_threshold = 5;
    reader = open_desc(&desc);
    assert_int_equal(sagemem_reader_get_desc(reader, &out), SAGEMEM_OK);
    assert_int_equal(out.buffers, 3);
    assert_true(out.read_ahead && out.no_mapping);
    assert_int_equal(out.map_threshold, 5);
    well_closed(reader);

    sagemem_input source = {read_nothing, NULL, room, false};
    memset(&desc, 0, sizeof desc);
    desc.source = &source;
    reader = open_desc(&desc);
    assert_int_equal(sagemem_reader_get_desc(reader, &out), SAGEMEM_OK);
    assert_ptr_not_equal(out.source, &source);
    assert_ptr_equal(out.source->ctx, room);
    assert_int_equal(out.buffer_bytes, MIB);
    assert_null(out.path);
    well_closed(reader);
}

static void threshold_decides_about_mapping(void **state) {
    (void)state;
    static const struct {
        uint64_t threshold;
        bool mapped;
    } cases[] = {{0, true}, {BYTES, true}, {BYTES + 1, false}, {UINT64_MAX, false}};
    for (size_t i = 0; i < 4; i++) {
        sagemem_reader_desc desc = desc_of(path);
        desc.no_mapping = false;
        desc.map_threshold = cases[i].threshold;
        sagemem_reader *reader = open_desc(&desc);
        assert_int_equal(sagemem_reader_is_mapped(reader), cases[i].mapped);
        assert_int_equal(used_now() >= BUFFER, !cases[i].mapped);
        assert_int_equal(sagemem_reader_size(reader), BYTES);
        assert_reads(reader, 0, 777);
        well_closed(reader);
    }
}

/* -- Reading -------------------------------------------------------------------------------------------- */

static void null_and_nothing(void **state) {
    (void)state;
    for (int mapped = 0; mapped < 2; mapped++) {
        sagemem_reader *reader = mapped ? open_mapped(path) : open_path(path);
        size_t got = 5;
        assert_int_equal(sagemem_read(reader, NULL, 0, &got), SAGEMEM_OK);
        assert_int_equal(got, 0);
        assert_int_equal(sagemem_read(reader, NULL, 0, NULL), SAGEMEM_OK);
        assert_int_equal(sagemem_read(reader, NULL, 5, &got), SAGEMEM_E_ARGUMENT);
        assert_failed(SAGEMEM_E_ARGUMENT, "to is NULL");
        assert_int_equal(sagemem_read_at(reader, 0, NULL, 5), SAGEMEM_E_ARGUMENT);
        assert_int_equal(sagemem_read_at(reader, UINT64_MAX, NULL, 0), SAGEMEM_OK);
        assert_non_null(sagemem_read_view(reader, 0));
        assert_int_equal(sagemem_reader_skip(reader, 0), SAGEMEM_OK);
        assert_int_equal(sagemem_reader_position(reader), 0);
        assert_reads(reader, 0, 3000);
        assert_non_null(sagemem_read_view(reader, 0)); /* at the end, too */
        well_closed(reader);
    }
    assert_int_equal(sagemem_reader_close(NULL), SAGEMEM_OK);
}

static void end_of_the_input(void **state) {
    (void)state;
    for (int mapped = 0; mapped < 2; mapped++) {
        sagemem_reader *reader = mapped ? open_mapped(path) : open_path(path);
        size_t got;
        assert_int_equal(sagemem_reader_skip(reader, BYTES - 100), SAGEMEM_OK);
        assert_null(sagemem_read_view(reader, 101));
        assert_failed(SAGEMEM_E_EMPTY, "100 are left");
        assert_null(sagemem_read_view(reader, 10 * MIB)); /* does not grow the buffer to find out */
        assert_int_equal(sagemem_reader_position(reader), BYTES - 100);
        const void *view = sagemem_read_view(reader, 40);
        assert_non_null(view);
        assert_memory_equal(view, data + BYTES - 100, 40);
        assert_int_equal(sagemem_read(reader, room, 100, NULL), SAGEMEM_E_EMPTY); /* but what there was is read */
        assert_failed(SAGEMEM_E_EMPTY, "60 of 100");
        assert_memory_equal(room, data + BYTES - 60, 60);
        assert_int_equal(sagemem_reader_position(reader), BYTES);
        assert_int_equal(sagemem_read(reader, room, 100, &got), SAGEMEM_OK);
        assert_int_equal(got, 0);
        assert_null(sagemem_read_view(reader, 1));
        assert_int_equal(sagemem_reader_skip(reader, 1), SAGEMEM_E_EMPTY);
        well_closed(reader);
        reader = mapped ? open_mapped(path) : open_path(path);
        assert_int_equal(sagemem_reader_skip(reader, UINT64_MAX), SAGEMEM_E_EMPTY);
        assert_failed(SAGEMEM_E_EMPTY, "200000");
        assert_int_equal(sagemem_reader_position(reader), BYTES);
        well_closed(reader);
    }
}

static void huge_views(void **state) {
    (void)state;
    sagemem_input source = {read_nothing, NULL, NULL, false};
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    close(ends[1]);
    for (int what = 0; what < 5; what++) {
        sagemem_reader_desc desc = desc_of(what < 3 ? path : NULL);
        desc.no_mapping = what > 0;
        desc.read_ahead = what == 2;
        if (what == 3) desc.source = &source;
        if (what == 4) desc.fd_plus_one = ends[0] + 1;
        sagemem_reader *reader = open_desc(&desc);
        if (what < 3) assert_int_equal(sagemem_read(reader, room, 10, NULL), SAGEMEM_OK);
        for (size_t less = 0; less < 3; less++) {
            assert_null(sagemem_read_view(reader, most - less * 40000));
            sagemem_status status = sagemem_last_error()->status;
            assert_true(status == SAGEMEM_E_EMPTY || status == SAGEMEM_E_NOMEM || status == SAGEMEM_E_ARGUMENT);
        }
        if (what < 3) {
            assert_int_equal(sagemem_reader_position(reader), 10);
            assert_reads(reader, 10, 999);
        }
        assert_int_equal(sagemem_read_at(reader, UINT64_MAX, room, 1), what < 3 ? SAGEMEM_E_EMPTY : SAGEMEM_E_UNSUPPORTED);
        if (what < 3) {
            assert_int_equal(sagemem_read_at(reader, UINT64_MAX - 5, room, 5), SAGEMEM_E_EMPTY);
            assert_int_equal(sagemem_read_at(reader, 0, room, BYTES), SAGEMEM_OK);
            assert_int_equal(sagemem_read_at(reader, 1, room, BYTES), SAGEMEM_E_EMPTY);
            assert_int_equal(sagemem_read_at(reader, BYTES, room, 0), SAGEMEM_OK);
        }
        well_closed(reader);
    }
    close(ends[0]);
}

/* What is larger than the buffer goes to the caller without it, and a view makes it grow. */
static void large_reads_and_views(void **state) {
    (void)state;
    sagemem_reader *reader = open_path(path);
    sagemem_reader_desc out;
    assert_int_equal(sagemem_read(reader, room, 100, NULL), SAGEMEM_OK);
    size_t got;
    assert_int_equal(sagemem_read(reader, room, 50000, &got), SAGEMEM_OK);
    assert_int_equal(got, 50000);
    assert_memory_equal(room, data + 100, 50000);
    assert_int_equal(sagemem_reader_get_desc(reader, &out), SAGEMEM_OK);
    assert_int_equal(out.buffer_bytes, BUFFER);
    const void *view = sagemem_read_view(reader, 70000);
    assert_non_null(view);
    assert_memory_equal(view, data + 50100, 70000);
    assert_int_equal(sagemem_reader_get_desc(reader, &out), SAGEMEM_OK);
    assert_int_equal(out.buffer_bytes, 2 * 65536);
    assert_reads(reader, 120100, 5000);
    well_closed(reader);
}

static void mapped_views_stay(void **state) {
    (void)state;
    for (int ahead = 0; ahead < 2; ahead++) {
        sagemem_reader_desc desc = desc_of(path);
        desc.no_mapping = false;
        desc.read_ahead = ahead;
        int fd = next_fd();
        sagemem_reader *reader = open_desc(&desc);
        assert_true(next_fd() <= fd + 1); /* the map's */
        sagemem_heap_stats stats;
        assert_int_equal(sagemem_heap_get_stats(NULL, &stats), SAGEMEM_OK);
        assert_true(stats.mapped >= BYTES);
        assert_int_equal(used_now(), 0); /* no buffer */
        const unsigned char *first = sagemem_read_view(reader, 100), *last = NULL;
        for (size_t at = 100; at < BYTES; at += 1850) {
            size_t left = BYTES - at < 1850 ? BYTES - at : 1850;
            last = sagemem_read_view(reader, left);
            assert_ptr_equal(last, first + at); /* where it lies in the file */
        }
        assert_memory_equal(first, data, BYTES);
        well_closed(reader);
    }
}

static void empty_inputs(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    close(ends[1]);
    sagemem_input source = {read_nothing, NULL, NULL, true};
    for (int what = 0; what < 8; what++) {
        sagemem_reader_desc desc = desc_of(what < 2 ? empty : what < 4 ? "/dev/null" : NULL);
        desc.no_mapping = false;
        desc.read_ahead = what % 2 == 1;
        if (what / 2 == 2) desc.fd_plus_one = ends[0] + 1;
        if (what / 2 == 3) desc.source = &source;
        sagemem_reader *reader = open_desc(&desc);
        size_t got = 3;
        assert_int_equal(sagemem_reader_size(reader), what < 2 ? 0 : UINT64_MAX);
        assert_int_equal(sagemem_read(reader, room, 10, &got), SAGEMEM_OK);
        assert_int_equal(got, 0);
        assert_int_equal(sagemem_reader_size(reader), 0);
        assert_null(sagemem_read_view(reader, 1));
        assert_failed(SAGEMEM_E_EMPTY, "0 are left");
        assert_int_equal(sagemem_reader_skip(reader, 1), SAGEMEM_E_EMPTY);
        assert_int_equal(sagemem_read_at(reader, 0, room, 1),
                         what / 2 == 0 || what / 2 == 3 ? SAGEMEM_E_EMPTY : SAGEMEM_E_UNSUPPORTED);
        assert_int_equal(sagemem_reader_position(reader), 0);
        well_closed(reader);
    }
    close(ends[0]);
}

static void devices_are_read_in_order(void **state) {
    (void)state;
    for (int ahead = 0; ahead < 2; ahead++) {
        sagemem_reader_desc desc = desc_of("/dev/zero");
        desc.read_ahead = ahead;
        sagemem_reader *reader = open_desc(&desc);
        assert_false(sagemem_reader_is_mapped(reader));
        memset(room, 1, sizeof room);
        assert_int_equal(sagemem_read(reader, room, 300000, NULL), SAGEMEM_OK);
        for (size_t i = 0; i < 300000; i++) assert_int_equal(room[i], 0);
        const unsigned char *view = sagemem_read_view(reader, 20000);
        assert_non_null(view);
        assert_true(view[0] == 0 && view[19999] == 0);
        assert_int_equal(sagemem_reader_skip(reader, 100000), SAGEMEM_OK);
        assert_int_equal(sagemem_reader_position(reader), 420000);
        assert_int_equal(sagemem_reader_size(reader), UINT64_MAX);
        well_closed(reader);
    }
}

/* The system says of such files that they have 0 bytes. */
static void files_of_unknown_size(void **state) {
    (void)state;
    static unsigned char expected[65536];
    FILE *file = fopen("/proc/version", "rb");
    if (file == NULL) skip();
    size_t size = fread(expected, 1, sizeof expected, file);
    fclose(file);
    for (int ahead = 0; ahead < 2; ahead++) {
        sagemem_reader_desc desc = desc_of("/proc/version");
        desc.no_mapping = false;
        desc.buffer_bytes = 16;
        desc.read_ahead = ahead;
        sagemem_reader *reader = open_desc(&desc);
        assert_int_equal(sagemem_reader_skip(reader, 10), SAGEMEM_OK);
        const void *view = sagemem_read_view(reader, size - 10);
        assert_non_null(view);
        assert_memory_equal(view, expected + 10, size - 10);
        assert_null(sagemem_read_view(reader, 1));
        well_closed(reader);
    }
}

static void file_that_grows_is_followed(void **state) {
    (void)state;
    char name[100];
    snprintf(name, sizeof name, "%s/grows", directory);
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    sagemem_reader_desc desc = desc_of(name);
    desc.no_mapping = false; /* it is empty, and read */
    sagemem_reader *reader = open_desc(&desc);
    size_t got;
    for (size_t at = 0; at < 50000; at += 5000) {
        assert_int_equal(sagemem_read(reader, room, 1, &got), SAGEMEM_OK);
        assert_int_equal(got, 0);
        assert_null(sagemem_read_view(reader, 1));
        assert_int_equal(write(fd, data + at, 5000), 5000);
        assert_int_equal(sagemem_reader_size(reader), at + 5000);
        assert_int_equal(sagemem_read(reader, room, 6000, &got), SAGEMEM_OK);
        assert_int_equal(got, 5000);
        assert_memory_equal(room, data + at, 5000);
    }
    /* And one that is cut short has ended. */
    assert_int_equal(ftruncate(fd, 100), 0);
    assert_int_equal(sagemem_read(reader, room, 10, &got), SAGEMEM_OK);
    assert_int_equal(got, 0);
    assert_int_equal(sagemem_read_at(reader, 90, room, 20), SAGEMEM_E_EMPTY);
    assert_int_equal(sagemem_reader_size(reader), 100);
    assert_int_equal(sagemem_reader_skip(reader, 1), SAGEMEM_E_EMPTY);
    well_closed(reader);
    close(fd);
    unlink(name);
}

/* -- Descriptors ---------------------------------------------------------------------------------------- */

static void descriptor_stays_the_callers(void **state) {
    (void)state;
    int fd = open(path, O_RDONLY), before;
    assert_true(fd >= 0);
    assert_int_equal(lseek(fd, 777, SEEK_SET), 777);
    before = next_fd();
    for (int how = 0; how < 3; how++) {
        sagemem_reader_desc desc = desc_of(NULL);
        desc.fd_plus_one = fd + 1;
        desc.no_mapping = how > 0;
        desc.read_ahead = how == 2;
        sagemem_reader *reader = open_desc(&desc);
        assert_reads(reader, 0, 1234); /* from the start */
        assert_int_equal(lseek(fd, 0, SEEK_CUR), 777);
        well_closed(reader);
        assert_int_equal(next_fd(), before);
        assert_int_equal(read(fd, room, 0), 0);
    }
    sagemem_reader_desc desc = desc_of(NULL);
    desc.fd_plus_one = fd + 1;
    sagemem_reader *reader = open_desc(&desc);
    close(fd); /* the reader has its own */
    assert_reads(reader, 0, 1234);
    well_closed(reader);
}

static void nonblocking_pipe(void **state) {
    (void)state;
    int ends[2];
    size_t got;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    sagemem_reader_desc desc = desc_of(NULL);
    desc.fd_plus_one = ends[0] + 1;
    sagemem_reader *reader = open_desc(&desc);
    for (size_t at = 0; at < 9000; at += 3000) {
        assert_int_equal(sagemem_read(reader, room, 1000, &got), SAGEMEM_E_IO);
        assert_int_equal(got, 0);
        assert_failed(SAGEMEM_E_IO, "poll");
        assert_int_equal(sagemem_last_error()->os_error, EAGAIN);
        assert_int_equal(write(ends[1], data + at, 1500), 1500);
        assert_int_equal(sagemem_read(reader, room, 2000, &got), SAGEMEM_E_IO);
        assert_int_equal(got, 1500); /* what came is here; */
        assert_memory_equal(room, data + at, 1500);
        assert_int_equal(write(ends[1], data + at + 1500, 1000), 1000);
        assert_null(sagemem_read_view(reader, 1500)); /* and of what comes nothing is lost */
        assert_int_equal(sagemem_last_error()->os_error, EAGAIN);
        assert_int_equal(sagemem_reader_position(reader), at + 1500);
        assert_int_equal(write(ends[1], data + at + 2500, 500), 500);
        const void *view = sagemem_read_view(reader, 1500);
        assert_non_null(view);
        assert_memory_equal(view, data + at + 1500, 1500);
    }
    assert_int_equal(sagemem_read_at(reader, 0, room, 1), SAGEMEM_E_UNSUPPORTED);
    assert_failed(SAGEMEM_E_UNSUPPORTED, "in order");
    assert_int_equal(sagemem_reader_skip(reader, 1), SAGEMEM_E_IO);
    assert_int_equal(write(ends[1], data, 10), 10);
    assert_int_equal(sagemem_reader_skip(reader, 20), SAGEMEM_E_IO);
    assert_int_equal(sagemem_reader_position(reader), 9010);
    assert_int_equal(sagemem_reader_size(reader), UINT64_MAX);
    close(ends[1]);
    assert_int_equal(sagemem_reader_skip(reader, 10), SAGEMEM_E_EMPTY);
    assert_int_equal(sagemem_reader_size(reader), 9010);
    well_closed(reader);
    close(ends[0]);
}

static void *write_fifo(void *ctx) {
    int fd = open(fifo, O_WRONLY); /* waits for the reader */
    for (size_t at = 0; at < BYTES;) {
        ssize_t n = write(fd, data + at, BYTES - at < 7777 ? BYTES - at : 7777);
        if (n <= 0) return NULL;
        at += (size_t)n;
    }
    close(fd);
    return ctx;
}
static void fifo_by_its_name(void **state) {
    (void)state;
    for (int ahead = 0; ahead < 2; ahead++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, write_fifo, NULL), 0);
        sagemem_reader_desc desc = desc_of(fifo);
        desc.no_mapping = false;
        desc.read_ahead = ahead;
        sagemem_reader *reader = open_desc(&desc);
        assert_false(sagemem_reader_is_mapped(reader));
        assert_reads(reader, 0, 5000);
        assert_int_equal(sagemem_reader_size(reader), BYTES);
        pthread_join(thread, NULL);
        well_closed(reader);
    }
}

/* -- Sources -------------------------------------------------------------------------------------------- */

typedef struct source {
    sagemem_status next; /* returned once, instead of bytes */
    size_t piece;
    bool lies;
    int calls, closed;
    sagemem_status closing;
    uint64_t offset;
} source;
static sagemem_status source_read(void *ctx, void *to, size_t size, uint64_t offset, size_t *got) {
    source *s = ctx;
    s->calls++;
    s->offset = offset;
    sagemem_status status = s->next;
    s->next = SAGEMEM_OK;
    *got = 7; /* means nothing where it fails */
    if (status != SAGEMEM_OK) return status;
    if (s->lies) {
        s->lies = false;
        *got = size + 1;
        return SAGEMEM_OK;
    }
    size_t n = offset < BYTES ? BYTES - (size_t)offset : 0;
    if (n > size) n = size;
    if (s->piece > 0 && n > s->piece) n = s->piece;
    memcpy(to, data + offset, n);
    *got = n;
    return SAGEMEM_OK;
}
static sagemem_status source_close(void *ctx) {
    ((source *)ctx)->closed++;
    return ((source *)ctx)->closing;
}

static void failures_of_a_source(void **state) {
    (void)state;
    source s = {SAGEMEM_OK, 1000, false, 0, 0, SAGEMEM_E_FULL, 0};
    sagemem_input input = {source_read, source_close, &s, true};
    sagemem_reader_desc desc = desc_of(NULL);
    desc.source = &input;
    sagemem_reader *reader = open_desc(&desc);
    memset(&input, 0xEE, sizeof input); /* it was copied */
    size_t got;
    static const sagemem_status statuses[] = {SAGEMEM_E_TIMEOUT, SAGEMEM_E_IO, (sagemem_status)1234};
    size_t at = 0;
    for (size_t i = 0; i < 3; i++) {
        s.next = statuses[i];
        assert_int_equal(sagemem_read(reader, room, 10, &got), statuses[i]);
        assert_int_equal(got, 0);
        assert_failed(statuses[i], "read_fn returned");
        s.next = statuses[i];
        assert_null(sagemem_read_view(reader, 10));
        assert_int_equal(sagemem_last_error()->status, statuses[i]);
        s.next = statuses[i];
        assert_int_equal(sagemem_reader_skip(reader, 10), statuses[i]);
        s.next = statuses[i];
        assert_int_equal(sagemem_read_at(reader, 5, room, 10), statuses[i]);
        assert_int_equal(sagemem_reader_position(reader), at);
        assert_int_equal(sagemem_read(reader, room, 1000, NULL), SAGEMEM_OK);
        assert_int_equal(s.offset, at); /* the same bytes were asked for again */
        assert_memory_equal(room, data + at, 1000);
        at += 1000;
    }
    /* A success leaves the last error as it was. */
    assert_null(sagemem_reader_open(NULL));
    assert_int_equal(sagemem_read(reader, room, 2000, NULL), SAGEMEM_OK);
    assert_failed(SAGEMEM_E_ARGUMENT, "desc is NULL");
    s.lies = true;
    assert_int_equal(sagemem_read(reader, room, 10, &got), SAGEMEM_E_CORRUPT);
    assert_failed(SAGEMEM_E_CORRUPT, "must not put more");
    assert_int_equal(got, 0);
    assert_reads(reader, 5000, 7000);
    assert_int_equal(sagemem_reader_size(reader), BYTES);
    assert_int_equal(s.closed, 0);
    assert_int_equal(sagemem_reader_close(reader), SAGEMEM_E_FULL); /* what it says is returned, */
    assert_int_equal(s.closed, 1);                                  /* and it is closed */
}

static sagemem_status read_endlessly(void *ctx, void *to, size_t size, uint64_t offset, size_t *got) {
    (void)ctx, (void)offset;
    *got = size > 3 ? 3 : size;
    memset(to, 0, *got);
    return SAGEMEM_OK;
}
static void positions_do_not_wrap(void **state) {
    (void)state;
    sagemem_input input = {read_endlessly, NULL, NULL, true};
    sagemem_reader_desc desc = desc_of(NULL);
    desc.source = &input;
    sagemem_reader *reader = open_desc(&desc);
    assert_int_equal(sagemem_read_at(reader, UINT64_MAX - 10, room, 10), SAGEMEM_OK);
    assert_int_equal(sagemem_read_at(reader, UINT64_MAX - 10, room, 12), SAGEMEM_E_EMPTY);
    assert_int_equal(sagemem_read_at(reader, UINT64_MAX, room, 2), SAGEMEM_E_EMPTY);
    well_closed(reader);
}

static void source_is_closed_once_or_never(void **state) {
    (void)state;
    source s = {SAGEMEM_OK, 1000, false, 0, 0, SAGEMEM_OK, 0};
    sagemem_input input = {source_read, source_close, &s, true};
    sagemem_reader_desc desc = desc_of(NULL);
    desc.source = &input;
    desc.buffer_bytes = most;
    assert_null(sagemem_reader_open(&desc));
    desc.read_ahead = true;
    assert_null(sagemem_reader_open(&desc));
    assert_int_equal(s.closed, 0); /* not opened, so not closed */
    assert_int_equal(s.calls, 0);
    desc.buffer_bytes = BUFFER;
    for (int ahead = 0; ahead < 2; ahead++) {
        desc.read_ahead = ahead;
        s.closed = 0;
        assert_int_equal(sagemem_scope_begin(NULL, "reading", 1), SAGEMEM_OK);
        open_desc(&desc);
        assert_int_equal(sagemem_scope_end(NULL), SAGEMEM_OK);
        assert_int_equal(s.closed, 1);
    }
    assert_int_equal(warnings, 0);
    s.closing = SAGEMEM_E_IO;
    assert_int_equal(sagemem_scope_begin(NULL, "reading", 2), SAGEMEM_OK);
    open_desc(&desc);
    assert_int_equal(sagemem_scope_end(NULL), SAGEMEM_OK);
    assert_int_equal(s.closed, 2);
    assert_int_equal(warnings, 1); /* nobody else is told */
}

/* -- Scopes, owners, limits ----------------------------------------------------------------------------- */

static void reader_belongs_to_its_scope(void **state) {
    (void)state;
    int fd = next_fd();
    for (int mapped = 0; mapped < 2; mapped++) {
        assert_int_equal(sagemem_scope_begin(NULL, "outer", 1), SAGEMEM_OK);
        sagemem_reader *reader = mapped ? open_mapped(path) : open_path(path);
        assert_int_equal(sagemem_scope_begin(NULL, "inner", 2), SAGEMEM_OK);
        assert_int_equal(sagemem_reader_skip(reader, 10), SAGEMEM_OK);
        const void *view = sagemem_read_view(reader, 50000); /* grows while an inner scope is open */
        assert_non_null(view);
        assert_int_equal(sagemem_scope_end(NULL), SAGEMEM_OK);
        assert_memory_equal(view, data + 10, 50000);
        view = sagemem_read_view(reader, 50000);
        assert_memory_equal(view, data + 50010, 50000);
        assert_int_equal(sagemem_scope_end(NULL), SAGEMEM_OK);
        assert_int_equal(next_fd(), fd);
        assert_int_equal(used_now(), 0);
        size_t got;
        assert_int_equal(sagemem_read(reader, room, 1, &got), SAGEMEM_E_STALE);
        assert_faulted(SAGEMEM_E_STALE, "reader");
        assert_null(sagemem_read_view(reader, 1));
        assert_faulted(SAGEMEM_E_STALE, "has ended");
        assert_int_equal(sagemem_reader_close(reader), SAGEMEM_E_STALE);
        assert_faulted(SAGEMEM_E_STALE, "has ended");
    }
}

static void ended_foreign_and_null(void **state) {
    (void)state;
    sagemem_reader *reader = open_path(path);
    well_closed(reader);
    sagemem_reader *wrong[] = {reader, (sagemem_reader *)(void *)room, NULL};
    for (int i = 0; i < 3; i++) {
        sagemem_status status = i == 0 ? SAGEMEM_E_STALE : SAGEMEM_E_FOREIGN;
        sagemem_reader_desc out;
        size_t got = 4;
        assert_int_equal(sagemem_read(wrong[i], room, 1, &got), status);
        assert_int_equal(got, 0);
        assert_faulted(status, "reader");
        assert_null(sagemem_read_view(wrong[i], 1));
        assert_faulted(status, "reader");
        assert_int_equal(sagemem_read_at(wrong[i], 0, room, 1), status);
        assert_faulted(status, "reader");
        assert_int_equal(sagemem_reader_skip(wrong[i], 1), status);
        assert_faulted(status, "reader");
        assert_int_equal(sagemem_reader_position(wrong[i]), 0);
        assert_faulted(status, "reader");
        assert_int_equal(sagemem_reader_size(wrong[i]), 0);
        assert_faulted(status, "reader");
        assert_false(sagemem_reader_is_mapped(wrong[i]));
        assert_faulted(status, "reader");
        assert_int_equal(sagemem_reader_get_desc(wrong[i], &out), status);
        assert_faulted(status, "reader");
        if (wrong[i] == NULL) continue;
        assert_int_equal(sagemem_reader_close(wrong[i]), status);
        assert_faulted(status, "reader");
    }
}

static void *use_anothers(void *ctx) {
    size_t got;
    bool refused = sagemem_read(ctx, room, 1, &got) == SAGEMEM_E_BUSY && sagemem_reader_close(ctx) == SAGEMEM_E_BUSY;
    return refused ? ctx : NULL;
}
static void another_threads_reader(void **state) {
    (void)state;
    sagemem_reader *reader = open_path(path);
    pthread_t thread;
    void *refused;
    assert_int_equal(pthread_create(&thread, NULL, use_anothers, reader), 0);
    pthread_join(thread, &refused);
    assert_non_null(refused);
    assert_int_equal(faults, 2);
    faults = 0;
    assert_int_equal(fault.status, SAGEMEM_E_BUSY);
    assert_reads(reader, 0, 3000);
    well_closed(reader);
}

static void limits_are_met_and_lifted(void **state) {
    (void)state;
    sagemem_heap_desc heap_desc = {0};
    heap_desc.limit = 256 * KIB;
    sagemem_heap *heap = sagemem_heap_create(&heap_desc);
    assert_non_null(heap);
    int fd = next_fd();
    sagemem_reader_desc desc = desc_of(path);
    desc.heap = heap;
    desc.buffer_bytes = MIB;
    for (int ahead = 0; ahead < 2; ahead++) {
        desc.read_ahead = ahead;
        assert_null(sagemem_reader_open(&desc));
        assert_failed(SAGEMEM_E_LIMIT, "limit");
        assert_int_equal(next_fd(), fd);
    }
    sagemem_heap_destroy(heap);
    desc.buffer_bytes = BUFFER;
    for (int ahead = 0; ahead < 2; ahead++) {
        heap = sagemem_heap_create(&heap_desc);
        assert_non_null(heap);
        desc.heap = heap;
        desc.read_ahead = ahead;
        sagemem_reader *reader = open_desc(&desc);
        assert_int_equal(sagemem_read(reader, room, 100, NULL), SAGEMEM_OK);
        assert_null(sagemem_read_view(reader, 199000));
        assert_failed(SAGEMEM_E_LIMIT, "limit");
        assert_int_equal(sagemem_reader_position(reader), 100);
        const void *view = sagemem_read_view(reader, 50);
        assert_memory_equal(view, data + 100, 50);
        assert_int_equal(sagemem_limit_set(heap, 0), SAGEMEM_OK);
        view = sagemem_read_view(reader, 199000);
        assert_non_null(view);
        assert_memory_equal(view, data + 150, 199000);
        assert_reads(reader, 199150, 100);
        well_closed(reader);
        sagemem_heap_destroy(heap);
    }
}

static void heaps_of_every_kind(void **state) {
    (void)state;
    static const uint32_t flags[] = {
        0, SAGEMEM_HEAP_ZERO, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SITES, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        sagemem_heap_desc heap_desc = {0};
        heap_desc.flags = flags[i];
        sagemem_heap *heap = sagemem_heap_create(&heap_desc);
        assert_non_null(heap);
        for (int how = 0; how < 3; how++) {
            sagemem_reader_desc desc = desc_of(path);
            desc.heap = heap;
            desc.no_mapping = how > 0;
            desc.read_ahead = how == 2;
            sagemem_reader *reader = open_desc(&desc);
            assert_int_equal(sagemem_read(reader, room, 1000, NULL), SAGEMEM_OK);
            const void *view = sagemem_read_view(reader, 100000);
            assert_non_null(view);
            assert_memory_equal(view, data + 1000, 100000);
            assert_int_equal(sagemem_heap_check(heap), 0);
            assert_reads(reader, 101000, 999);
            well_closed(reader);
            assert_int_equal(sagemem_heap_check(heap), 0);
            open_desc(&desc);
        }
        if (i % 2 == 0) sagemem_heap_reset(heap);
        sagemem_heap_destroy(heap);
    }
}

static void accounts_are_exact(void **state) {
    (void)state;
    sagemem_heap *heap = sagemem_heap_create(NULL);
    assert_non_null(heap);
    sagemem_reader_desc desc = desc_of(path);
    desc.heap = heap;
    desc.buffer_bytes = 300000;
    sagemem_tag_stats stats;
    sagemem_reader *reader = open_desc(&desc);
    assert_int_equal(sagemem_tag_get_stats(heap, TAG, &stats), SAGEMEM_OK);
    assert_int_equal(stats.blocks, 1);
    assert_true(stats.used >= 300000);
    well_closed(reader);
    desc.read_ahead = true;
    desc.buffers = 5;
    reader = open_desc(&desc);
    assert_int_equal(sagemem_tag_get_stats(heap, TAG, &stats), SAGEMEM_OK);
    assert_int_equal(stats.blocks, 5);
    well_closed(reader);
    sagemem_heap_stats all;
    assert_int_equal(sagemem_heap_get_stats(heap, &all), SAGEMEM_OK);
    assert_int_equal(all.used, 0);
    assert_int_equal(all.mapped, 0);
    sagemem_heap_destroy(heap);
}

/* -- Failures on purpose -------------------------------------------------------------------------------- */

typedef struct life {
    int how; /* 0 mapped, 1 read, 2 ahead, 3 pipe, 4 pipe ahead, 5 source, 6 source ahead */
} life;
static sagemem_status live(void *ctx) {
    const life *l = ctx;
    int ends[2] = {-1, -1}, fd = next_fd();
    source s = {SAGEMEM_OK, 3000, false, 0, 0, SAGEMEM_OK, 0};
    sagemem_input input = {source_read, source_close, &s, true};
    sagemem_heap *heap = sagemem_heap_create(NULL);
    if (heap == NULL) return sagemem_last_error()->status;
    sagemem_reader_desc desc = desc_of(l->how < 3 ? path : NULL);
    desc.heap = heap;
    desc.no_mapping = l->how > 0;
    desc.read_ahead = l->how == 2 || l->how == 4 || l->how == 6;
    if (l->how >= 5) desc.source = &input;
    if (l->how == 3 || l->how == 4) {
        assert_int_equal(pipe(ends), 0);
        assert_int_equal(write(ends[1], data, 30000), 30000);
        close(ends[1]);
        desc.fd_plus_one = ends[0] + 1;
    }
    sagemem_status status = SAGEMEM_OK;
    sagemem_reader *reader = sagemem_reader_open(&desc);
    if (reader == NULL) status = sagemem_last_error()->status;
    size_t got;
    if (status == SAGEMEM_OK) {
        status = sagemem_read(reader, room, 100, &got);
        assert_memory_equal(room, data, got);
    }
    if (status == SAGEMEM_OK) {
        status = sagemem_read(reader, room, 9000, &got);
        assert_memory_equal(room, data + 100, got);
        assert_int_equal(sagemem_reader_position(reader), 100 + got);
    }
    if (status == SAGEMEM_OK) {
        const void *view = sagemem_read_view(reader, 9000);
        if (view != NULL) assert_memory_equal(view, data + 9100, 9000);
        else status = sagemem_last_error()->status;
        assert_int_equal(sagemem_reader_position(reader), view != NULL ? 18100 : 9100);
    }
    if (status == SAGEMEM_OK) status = sagemem_reader_skip(reader, 900);
    if (status == SAGEMEM_OK && ends[0] < 0) {
        status = sagemem_read_at(reader, 33333, room, 5000);
        if (status == SAGEMEM_OK) assert_memory_equal(room, data + 33333, 5000);
    }
    if (status == SAGEMEM_OK) {
        status = sagemem_read(reader, room, 1000, &got);
        assert_memory_equal(room, data + 19000, got);
    }
    assert_int_equal(sagemem_heap_check(heap), 0);
    bool opened = reader != NULL;
    assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
    if (l->how >= 5) assert_int_equal(s.closed, opened);
    sagemem_heap_stats stats;
    assert_int_equal(sagemem_heap_get_stats(heap, &stats), SAGEMEM_OK);
    assert_int_equal(stats.used, 0);
    assert_int_equal(stats.mapped, 0);
    sagemem_heap_destroy(heap);
    if (ends[0] >= 0) close(ends[0]);
    assert_int_equal(next_fd(), fd);
    return status;
}

static void every_failure_is_survived(void **state) {
    (void)state;
    for (int how = 0; how < 7; how++) {
        life l = {how};
        uint64_t points;
        assert_int_equal(sagemem_check_failures(live, &l, &points), SAGEMEM_OK);
        assert_true(points >= 3);
    }
}

/* -- Fork ----------------------------------------------------------------------------------------------- */

static void both_read_on_after_fork(void **state) {
    (void)state;
    for (int mapped = 0; mapped < 2; mapped++) {
        sagemem_reader *reader = mapped ? open_mapped(path) : open_path(path);
        assert_int_equal(sagemem_read(reader, room, 1000, NULL), SAGEMEM_OK);
        fflush(NULL);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            alarm(CHILD_SECONDS);
            const void *view = sagemem_read_view(reader, 50000);
            bool well = view != NULL && memcmp(view, data + 1000, 50000) == 0 && sagemem_reader_close(reader) == SAGEMEM_OK;
            _exit(well ? 0 : 2);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || (on_valgrind() && WEXITSTATUS(status) == 1)));
        assert_reads(reader, 1000, 3000);
        well_closed(reader);
    }
}

/* -- All of it ------------------------------------------------------------------------------------------ */

static int make_file(const char *name, const void *bytes, size_t size) {
    FILE *file = fopen(name, "wb");
    if (file == NULL) return 1;
    size_t n = fwrite(bytes, 1, size, file);
    return fclose(file) != 0 || n != size;
}
static int begin(void **state) {
    (void)state;
    uint32_t x = 1;
    for (size_t i = 0; i < BYTES; i++) data[i] = (unsigned char)((x = x * 1664525u + 1013904223u) >> 24);
    snprintf(directory, sizeof directory, "/tmp/sagemem-reader-XXXXXX");
    if (mkdtemp(directory) == NULL) return 1;
    snprintf(path, sizeof path, "%s/input", directory);
    snprintf(empty, sizeof empty, "%s/empty", directory);
    snprintf(missing, sizeof missing, "%s/missing", directory);
    snprintf(fifo, sizeof fifo, "%s/fifo", directory);
    return make_file(path, data, BYTES) != 0 || make_file(empty, "", 0) != 0 || mkfifo(fifo, 0600) != 0;
}
static int end(void **state) {
    (void)state;
    unlink(path);
    unlink(empty);
    unlink(fifo);
    return rmdir(directory);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        test(desc_is_refused),
        test(what_cannot_be_opened),
        test(long_path_is_kept),
        test(descriptor_for_writing_only),
        test(desc_is_resolved),
        test(threshold_decides_about_mapping),
        test(null_and_nothing),
        test(end_of_the_input),
        test(huge_views),
        test(large_reads_and_views),
        test(mapped_views_stay),
        test(empty_inputs),
        test(devices_are_read_in_order),
        test(files_of_unknown_size),
        test(file_that_grows_is_followed),
        test(descriptor_stays_the_callers),
        test(nonblocking_pipe),
        test(fifo_by_its_name),
        test(failures_of_a_source),
        test(positions_do_not_wrap),
        test(source_is_closed_once_or_never),
        test(reader_belongs_to_its_scope),
        test(ended_foreign_and_null),
        test(another_threads_reader),
        test(limits_are_met_and_lifted),
        test(heaps_of_every_kind),
        test(accounts_are_exact),
        test(every_failure_is_survived),
        test(both_read_on_after_fork),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
