/* Writers through the public interface: files, pipes and sinks against a plain array of bytes, and every way to fail. */
#include "writers.h"

/* -- Opening -------------------------------------------------------------------------------------------------- */

static sagemem_status refuse(sagemem_writer_desc desc) {
    desc.tag = desc.tag != 0 ? desc.tag : TAG;
    assert_null(sagemem_writer_open(&desc));
    assert_string_equal(sagemem_last_error()->call, "sagemem_writer_open");
    assert_true(strlen(sagemem_last_error()->message) > 20);
    return sagemem_last_error()->status;
}

static void a_bad_desc_opens_nothing(void **state) {
    (void)state;
    memory_sink m = {0};
    sagemem_sink sink = sink_of(&m), empty = {0};
    sagemem_writer_desc d = {0}, good = {0};
    good.path = in_place("bad");
    put_file(good.path, "as it was");
    assert_null(sagemem_writer_open(NULL));
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_ARGUMENT);
    assert_int_equal(refuse(d), SAGEMEM_E_ARGUMENT);
#define BAD(field, value) (d = good, d.field = (value), assert_int_equal(refuse(d), SAGEMEM_E_ARGUMENT))
    BAD(fd_plus_one, 2);
    BAD(sink, &sink);
    BAD(tag, SAGEMEM_TAG_MAX + 1);
    BAD(tag, SAGEMEM_TAG_SAME);
    BAD(sync, (sagemem_sync)3);
    BAD(offset, (uint64_t)INT64_MAX + 1);
    d = good, d.min_bytes = 9 * MIB, d.max_bytes = 8 * MIB;
    assert_int_equal(refuse(d), SAGEMEM_E_ARGUMENT);
    d = good, d.initial_bytes = 10, d.max_bytes = 9;
    assert_int_equal(refuse(d), SAGEMEM_E_ARGUMENT);
    d = good, d.initial_bytes = 10, d.min_bytes = 11;
    assert_int_equal(refuse(d), SAGEMEM_E_ARGUMENT);
    d = good, d.atomic = true, d.offset = 1;
    assert_int_equal(refuse(d), SAGEMEM_E_ARGUMENT);
    good.path = NULL;
    BAD(fd_plus_one, -1);
    BAD(fd_plus_one, INT32_MIN);
    BAD(sink, &empty);
    d = good, d.sink = &sink, d.atomic = true;
    assert_int_equal(refuse(d), SAGEMEM_E_ARGUMENT);
    d = good, d.sink = &sink, d.sync = SAGEMEM_SYNC_AT_CLOSE;
    assert_int_equal(refuse(d), SAGEMEM_E_ARGUMENT);
#undef BAD
    assert_true(file_says(in_place("bad"), "as it was"));
    assert_int_equal(m.calls + m.closed, 0);
}

static void what_cannot_be_opened_says_why(void **state) {
    (void)state;
    static char path[5001];
    sagemem_writer_desc d = {0};
    for (int atomic = 0; atomic < 2; atomic++) {
        d.atomic = atomic != 0;
        d.path = in_place("nowhere/file");
        assert_int_equal(refuse(d), SAGEMEM_E_NOT_FOUND);
        assert_int_equal(sagemem_last_error()->os_error, ENOENT);
        assert_non_null(strstr(sagemem_last_error()->message, "nowhere/file"));
        d.path = place;
        assert_int_equal(refuse(d), d.atomic ? SAGEMEM_E_UNSUPPORTED : SAGEMEM_E_IO);
        d.path = "";
        assert_int_equal(refuse(d), d.atomic ? SAGEMEM_E_ARGUMENT : SAGEMEM_E_NOT_FOUND);
        memset(path, 'x', 5000);
        d.path = path;
        assert_int_equal(refuse(d), SAGEMEM_E_IO);
        assert_int_equal(sagemem_last_error()->os_error, ENAMETOOLONG);
        mkdir(in_place("shut"), 0500);
        d.path = in_place("shut/file");
        if (geteuid() != 0) {
            assert_int_equal(refuse(d), SAGEMEM_E_IO);
            assert_int_equal(sagemem_last_error()->os_error, EACCES);
        }
        rmdir(in_place("shut"));
    }
    memset(&d, 0, sizeof d);
    d.fd_plus_one = 1000;
    assert_int_equal(refuse(d), SAGEMEM_E_IO);
    assert_int_equal(sagemem_last_error()->os_error, EBADF);
    int fd = open(place, O_RDONLY);
    d.fd_plus_one = fd + 1;
    assert_int_equal(refuse(d), SAGEMEM_E_ARGUMENT);
    close(fd);
}

static void defaults_can_be_read_back(void **state) {
    (void)state;
    sagemem_writer_desc d = {0}, got;
    char path[100];
    snprintf(path, sizeof path, "%s", in_place("defaults"));
    d.path = path;
    d.tag = TAG;
    sagemem_writer *w = sagemem_writer_open(&d);
    assert_non_null(w);
    path[0] = 'x'; /* it was copied */
    assert_int_equal(sagemem_writer_get_desc(w, &got), SAGEMEM_OK);
    assert_string_equal(got.path, in_place("defaults"));
    assert_int_equal(got.initial_bytes, MIB);
    assert_int_equal(got.min_bytes, 64 * KIB);
    assert_int_equal(got.max_bytes, 8 * MIB);
    assert_int_equal(got.tag, TAG);
    assert_ptr_equal(got.heap, sagemem_heap_default());
    assert_int_equal(sagemem_writer_get_desc(w, NULL), SAGEMEM_E_ARGUMENT);
    sagemem_tag_stats t;
    sagemem_tag_get_stats(NULL, TAG, &t);
    assert_true(t.used >= MIB && t.used < MIB + 64 * KIB);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    static const size_t given[][3] = {{1000, 0, 0}, {0, 0, 1000}, {0, 20 * MIB, 0}, {20 * MIB, 0, 0}};
    static const size_t wanted[][3] = {
        {1000, 1000, 8 * MIB}, {1000, 1000, 1000}, {20 * MIB, 20 * MIB, 20 * MIB}, {20 * MIB, 64 * KIB, 20 * MIB}};
    d.path = in_place("defaults");
    for (size_t i = 0; i < 4; i++) {
        d.initial_bytes = given[i][0], d.min_bytes = given[i][1], d.max_bytes = given[i][2];
        w = sagemem_writer_open(&d);
        assert_non_null(w);
        sagemem_writer_get_desc(w, &got);
        assert_int_equal(got.initial_bytes, wanted[i][0]);
        assert_int_equal(got.min_bytes, wanted[i][1]);
        assert_int_equal(got.max_bytes, wanted[i][2]);
        sagemem_writer_abandon(w);
    }
}

/* -- Targets -------------------------------------------------------------------------------------------------- */

static void a_path_is_emptied_or_kept(void **state) {
    (void)state;
    sagemem_writer_desc d = {0};
    d.path = in_place("kept");
    d.tag = TAG;
    put_file(d.path, "0123456789");
    sagemem_writer *w = sagemem_writer_open(&d);
    assert_true(file_says(d.path, ""));
    assert_int_equal(sagemem_write(w, "abc", 3), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_accepted(w), 3);
    assert_int_equal(sagemem_writer_written(w), 0);
    assert_true(file_says(d.path, ""));
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    assert_true(file_says(d.path, "abc"));
    put_file(d.path, "0123456789");
    d.offset = 4;
    w = sagemem_writer_open(&d);
    assert_int_equal(sagemem_write(w, "abc", 3), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_accepted(w), 3); /* counted from the offset; */
    assert_int_equal(sagemem_writer_patch(w, 3, "x", 1), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_writer_patch(w, 4, "A", 1), SAGEMEM_OK); /* positions are the file's */
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    assert_true(file_says(d.path, "0123Abc789"));
    d.offset = 12; /* past the end: a hole */
    w = sagemem_writer_open(&d);
    assert_int_equal(sagemem_write(w, "z", 1), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    assert_true(file_is(d.path, "0123Abc789\0\0z", 13));
}

static void the_umask_decides_on_permissions(void **state) {
    (void)state;
    struct stat s;
    mode_t before = umask(027);
    for (int atomic = 0; atomic < 2; atomic++) {
        sagemem_writer_desc d = {0};
        d.path = in_place(atomic != 0 ? "mode_atomic" : "mode");
        d.tag = TAG;
        d.atomic = atomic != 0;
        sagemem_writer *w = sagemem_writer_open(&d);
        assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
        assert_int_equal(stat(d.path, &s), 0);
        assert_int_equal(s.st_mode & 0777, 0640);
    }
    umask(before);
}

static void a_descriptor_keeps_its_position(void **state) {
    (void)state;
    const char *path = in_place("descriptor");
    put_file(path, "----------");
    sagemem_writer_desc d = {0};
    int fd = open(path, O_RDWR);
    lseek(fd, 7, SEEK_SET);
    d.fd_plus_one = fd + 1;
    d.offset = 2;
    d.tag = TAG;
    sagemem_writer *w = sagemem_writer_open(&d);
    assert_non_null(w);
    assert_int_equal(sagemem_write(w, "abc", 3), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_flush(w), SAGEMEM_OK);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), 7);
    assert_int_equal(sagemem_write(w, "d", 1), SAGEMEM_OK);
    int moved = dup(fd); /* the writer has its own */
    close(fd);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    assert_int_equal(lseek(moved, 0, SEEK_CUR), 7);
    close(moved);
    assert_true(file_says(path, "--abcd----"));
    fd = open(path, O_WRONLY | O_APPEND);
    d.fd_plus_one = fd + 1;
    d.offset = 0;
    w = sagemem_writer_open(&d);
    assert_int_equal(sagemem_write(w, "123", 3), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_flush(w), SAGEMEM_OK);
    assert_int_equal(write(fd, "+", 1), 1);
    assert_int_equal(sagemem_writer_patch(w, 0, "x", 1), SAGEMEM_E_UNSUPPORTED);
    assert_int_equal(sagemem_write(w, "456", 3), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    close(fd);
    assert_true(file_says(path, "--abcd----123+456"));
}

static void a_pipe_is_written_in_order(void **state) {
    (void)state;
    int ends[2];
    char got[32];
    assert_int_equal(pipe(ends), 0);
    sagemem_writer_desc d = {0};
    d.fd_plus_one = ends[1] + 1;
    d.tag = TAG;
    d.sync = SAGEMEM_SYNC_EVERY_FLUSH; /* nothing to sync there */
    sagemem_writer *w = sagemem_writer_open(&d);
    close(ends[1]);
    assert_int_equal(sagemem_write(w, "hello ", 6), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_patch(w, 0, "H", 1), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_flush(w), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_written(w), 6);
    assert_int_equal(sagemem_write(w, "world", 5), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_patch(w, 5, "-W", 2), SAGEMEM_E_UNSUPPORTED);
    assert_int_equal(sagemem_writer_patch(w, 6, "W", 1), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    assert_int_equal(read(ends[0], got, sizeof got), 11);
    assert_memory_equal(got, "Hello World", 11);
    assert_int_equal(read(ends[0], got, sizeof got), 0); /* closed */
    close(ends[0]);
}

static void a_sink_gets_absolute_positions_and_is_closed_once(void **state) {
    (void)state;
    memory_sink m = {0};
    sagemem_sink sink = sink_of(&m);
    sagemem_writer_desc d = {0};
    m.origin = 1000;
    d.sink = &sink;
    d.offset = 1000;
    d.tag = TAG;
    sagemem_writer *w = sagemem_writer_open(&d);
    memset(&sink, 0, sizeof sink); /* it was copied */
    sagemem_writer_desc got;
    sagemem_writer_get_desc(w, &got);
    assert_ptr_equal(got.sink->ctx, &m);
    assert_null(got.path);
    assert_int_equal(sagemem_write(w, "abc", 3), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_flush(w), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_patch(w, 1001, "B", 1), SAGEMEM_OK);
    assert_int_equal(m.closed, 0);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    assert_int_equal(m.closed, 1);
    assert_int_equal(m.size, 3);
    assert_memory_equal(m.at, "aBc", 3);
    sink = sink_of(&m);
    w = sagemem_writer_open(&d);
    sagemem_write(w, "lost", 4);
    sagemem_writer_abandon(w);
    assert_int_equal(m.closed, 2);
    assert_int_equal(log_errors, 0); /* asked for */
    m.close_with = SAGEMEM_E_FULL;   /* a close_fn that fails is not called again, and the writer stays */
    w = sagemem_writer_open(&d);
    assert_int_equal(sagemem_write(w, "xyz", 3), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_E_FULL);
    assert_int_equal(sagemem_writer_written(w), 3);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_E_FULL);
    assert_int_equal(sagemem_write(w, "no", 2), SAGEMEM_E_FULL);
    assert_int_equal(m.closed, 3);
    sagemem_writer_abandon(w);
    assert_int_equal(m.closed, 3);
    free(m.at);
}

/* -- Writing -------------------------------------------------------------------------------------------------- */

static void what_is_larger_than_the_buffer_passes_through(void **state) {
    (void)state;
    memory_sink m = {0};
    sagemem_sink sink = sink_of(&m);
    sagemem_writer_desc d = {0};
    d.sink = &sink;
    d.initial_bytes = 100;
    d.tag = TAG;
    static char big[1000];
    memset(big, 'b', sizeof big);
    sagemem_writer *w = sagemem_writer_open(&d);
    assert_int_equal(sagemem_write(w, NULL, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_write(w, NULL, 1), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_write(w, big, SIZE_MAX), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_write(w, "abc", 3), SAGEMEM_OK);
    assert_int_equal(m.calls, 0);
    assert_int_equal(sagemem_write(w, big, sizeof big), SAGEMEM_OK);
    assert_int_equal(m.calls, 2); /* what was pending, whole; then the record, whole */
    assert_int_equal(sagemem_writer_written(w), 1003);
    assert_int_equal(sagemem_write(w, big, 60), SAGEMEM_OK);
    assert_int_equal(sagemem_write(w, big, 41), SAGEMEM_OK); /* records are not split */
    assert_int_equal(sagemem_writer_written(w), 1063);
    assert_int_equal(sagemem_writer_accepted(w), 1104);
    sagemem_writers_stats s;
    sagemem_writers_get_stats(&s);
    assert_true(s.writers == 1 && s.buffered == 41 && s.buffer_bytes == 100 && s.budget == 0);
    assert_int_equal(sagemem_writers_get_stats(NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    assert_int_equal(m.size, 1104);
    free(m.at);
}

static void records_are_built_in_the_buffer(void **state) {
    (void)state;
    sagemem_heap_desc hd = {0};
    hd.flags = SAGEMEM_HEAP_ZERO;
    sagemem_heap *heap = sagemem_heap_create(&hd);
    sagemem_writer_desc d = {0}, got;
    d.path = in_place("built");
    d.heap = heap;
    d.tag = TAG;
    d.initial_bytes = 64;
    d.max_bytes = 4096;
    sagemem_writer *w = sagemem_writer_open(&d);
    char *room = (char *)sagemem_write_begin(w, 10);
    assert_non_null(room);
    memcpy(room, "0123456789", 10);
    sagemem_write_end(w, 5);
    room = (char *)sagemem_write_begin(w, 8);
    for (int i = 0; i < 8; i++) assert_int_equal(room[i], 0); /* the heap's promise */
    sagemem_write_end(w, 0);
    assert_int_equal(sagemem_writer_accepted(w), 5);
    assert_non_null(sagemem_write_begin(w, 0));
    sagemem_write_end(w, 0);
    assert_null(sagemem_write_begin(w, 4097));
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_TOO_BIG);
    room = (char *)sagemem_write_begin(w, 4096); /* grows */
    assert_non_null(room);
    memset(room, 'x', 4096);
    sagemem_write_end(w, 4096);
    sagemem_writer_get_desc(w, &got);
    assert_int_equal(got.initial_bytes, 4096);
    assert_int_equal(sagemem_writer_written(w), 5);
    assert_int_equal(faults, 0);
    sagemem_write_end(w, 1); /* not begun */
    assert_int_equal(faults, 1);
    assert_int_equal(last_fault.status, SAGEMEM_E_ARGUMENT);
    assert_non_null(sagemem_write_begin(w, 10));
    assert_int_equal(sagemem_write(w, "y", 1), SAGEMEM_OK); /* ends what was begun */
    sagemem_write_end(w, 10);
    assert_int_equal(faults, 2);
    assert_non_null(sagemem_write_begin(w, 10));
    sagemem_write_end(w, 11); /* more than there was room for */
    assert_int_equal(faults, 3);
    assert_int_equal(sagemem_writer_accepted(w), 4102);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    bytes b = slurp(in_place("built"));
    assert_int_equal(b.size, 4102);
    assert_memory_equal(b.at, "01234x", 6);
    assert_int_equal(b.at[4101], 'y');
    free(b.at);
    sagemem_heap_destroy(heap);
}

static void patches_reach_what_was_accepted(void **state) {
    (void)state;
    sagemem_writer_desc d = {0};
    d.path = in_place("patched");
    d.tag = TAG;
    sagemem_writer *w = sagemem_writer_open(&d);
    assert_int_equal(sagemem_writer_patch(w, 0, NULL, 0), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_patch(w, 0, "x", 1), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_write(w, "aaaaa", 5), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_flush(w), SAGEMEM_OK);
    assert_int_equal(sagemem_write(w, "bbbbb", 5), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_patch(w, 3, "1234", 4), SAGEMEM_OK); /* across */
    assert_int_equal(sagemem_writer_patch(w, 0, "0", 1), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_patch(w, 9, "9", 1), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_patch(w, 9, "99", 2), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_writer_patch(w, 10, "x", 1), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_writer_patch(w, 10, "x", 0), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_patch(w, 11, "x", 0), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_writer_patch(w, 1, NULL, 1), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_writer_patch(w, 1, "x", SIZE_MAX), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_writer_patch(w, UINT64_MAX, "x", 1), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_writer_accepted(w), 10);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    assert_true(file_says(in_place("patched"), "0aa1234bb9"));
}

static size_t buffer_of(const sagemem_writer *w) {
    sagemem_writer_desc got;
    ok(sagemem_writer_get_desc(w, &got));
    return got.initial_bytes;
}

static void an_adaptive_buffer_grows_and_shrinks(void **state) {
    (void)state;
    static char data[1000];
    sagemem_writer_desc d = {0};
    d.path = in_place("adaptive");
    d.tag = TAG;
    d.initial_bytes = 4096, d.min_bytes = 2048, d.max_bytes = 10000;
    for (int adaptive = 0; adaptive < 2; adaptive++) {
        d.adaptive = adaptive != 0;
        sagemem_writer *w = sagemem_writer_open(&d);
        for (int i = 0; i < 200; i++) assert_int_equal(sagemem_write(w, data, sizeof data), SAGEMEM_OK);
        assert_int_equal(buffer_of(w), d.adaptive ? 10000 : 4096);
        for (int i = 0; i < 40; i++) {
            assert_int_equal(sagemem_write(w, data, 10), SAGEMEM_OK);
            assert_int_equal(sagemem_writer_flush(w), SAGEMEM_OK);
        }
        assert_int_equal(buffer_of(w), d.adaptive ? 2048 : 4096);
        assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    }
}

/* -- Against the oracle --------------------------------------------------------------------------------------- */

typedef struct drainer { /* of a pipe, in a thread */
    int fd;
    bytes got;
} drainer;
static void *drain(void *ctx) {
    drainer *r = (drainer *)ctx;
    char part[5000];
    for (ssize_t n; (n = read(r->fd, part, sizeof part)) > 0;) {
        r->got.at = (char *)realloc(r->got.at, r->got.size + (size_t)n);
        check(r->got.at != NULL);
        memcpy(r->got.at + r->got.size, part, (size_t)n);
        r->got.size += (size_t)n;
    }
    return NULL;
}

enum { TO_PATH, TO_ATOMIC, TO_OFFSET, TO_DESCRIPTOR, TO_SINK, TO_PIPE, TARGETS };

static void one_life(int target, uint32_t flags, bool background, uint64_t life, int steps) {
    sagemem_heap_desc hd = {0};
    hd.flags = flags;
    sagemem_heap *heap = sagemem_heap_create(&hd);
    check(heap != NULL);
    oracle o = {0};
    o.luck.state = seed ^ life << 8;
    o.buffer = (size_t)1 << chance_below(&o.luck, 13);
    if (o.buffer < 4) o.buffer = 4;
    o.patches_all = target != TO_PIPE;
    memory_sink m = {0};
    m.luck.state = life;
    m.one_in = 5;
    sagemem_sink sink = sink_of(&m);
    int ends[2] = {-1, -1};
    drainer reader = {-1, {NULL, 0}};
    pthread_t thread;
    char path[100];
    snprintf(path, sizeof path, "%s", in_place("oracle"));
    sagemem_writer_desc d = {0};
    d.tag = TAG, d.heap = heap, d.background = background;
    d.initial_bytes = o.buffer, d.min_bytes = 1 + chance_below(&o.luck, o.buffer), d.max_bytes = 2 * o.buffer;
    d.adaptive = chance_below(&o.luck, 2) == 0;
    d.atomic = target == TO_ATOMIC;
    if (target == TO_PATH || target == TO_ATOMIC || target == TO_OFFSET) d.path = path;
    if (target == TO_OFFSET || target == TO_DESCRIPTOR || target == TO_SINK)
        d.offset = o.origin = m.origin = chance_below(&o.luck, 5000);
    if (target == TO_OFFSET) put_file(path, "");
    if (target == TO_DESCRIPTOR) d.fd_plus_one = (ends[1] = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600)) + 1;
    if (target == TO_SINK) d.sink = &sink;
    if (target == TO_PIPE) {
        check(pipe(ends) == 0);
        d.fd_plus_one = ends[1] + 1;
        reader.fd = ends[0];
        check(pthread_create(&thread, NULL, drain, &reader) == 0);
    }
    sagemem_writer *w = sagemem_writer_open(&d);
    check(w != NULL);
    if (ends[1] >= 0) close(ends[1]);
    for (int i = 0; i < steps; i++) {
        one_step(&o, w);
        if (i % 64 == 0) check(sagemem_heap_check(heap) == 0);
    }
    while (sagemem_writer_close(w) != SAGEMEM_OK) o.fails++;
    check(o.fails == 0 || target == TO_SINK || target == TO_PIPE);
    if (target == TO_SINK) {
        check(m.size == o.size && memcmp(m.at, o.at, o.size) == 0 && m.closed == 1);
    } else if (target == TO_PIPE) {
        pthread_join(thread, NULL);
        close(ends[0]);
        check(reader.got.size == o.size && memcmp(reader.got.at, o.at, o.size) == 0);
    } else {
        bytes b = slurp(path);
        check(b.size == (o.size > 0 ? o.origin + o.size : b.size) && memcmp(b.at + o.origin, o.at, o.size) == 0);
        for (size_t i = 0; i < o.origin && o.size > 0; i++) check(b.at[i] == 0);
        free(b.at);
    }
    sagemem_tag_stats t;
    ok(sagemem_tag_get_stats(heap, TAG, &t));
    check(t.used == 0 && sagemem_heap_check(heap) == 0);
    sagemem_heap_destroy(heap);
    free(m.at);
    free(o.at);
    free(reader.got.at);
}

static void all_targets_are_as_the_oracle_says(void **state) {
    (void)state;
    static const uint32_t flags[] = {
        0, SAGEMEM_HEAP_ZERO, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED, SAGEMEM_HEAP_SITES};
    uint64_t life = 0;
    for (int round = 0; round < (slow() ? 1 : 6); round++)
        for (int target = 0; target < TARGETS; target++)
            for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++, life++)
                one_life(target, flags[f], life % 3 == 1, life, slow() ? 100 : 300);
}

/* -- Failures ------------------------------------------------------------------------------------------------- */

static void a_failed_write_accepts_nothing_and_can_be_repeated(void **state) {
    (void)state;
    memory_sink m = {0};
    sagemem_sink sink = sink_of(&m);
    sagemem_writer_desc d = {0};
    d.sink = &sink, d.initial_bytes = 10, d.tag = TAG;
    m.with = SAGEMEM_E_FULL;
    sagemem_writer *w = sagemem_writer_open(&d);
    assert_int_equal(sagemem_write(w, "12345678", 8), SAGEMEM_OK);
    m.refuse = 2;
    assert_int_equal(sagemem_write(w, "abc", 3), SAGEMEM_E_FULL); /* the sink's own status */
    assert_string_equal(sagemem_last_error()->call, "sagemem_write");
    assert_non_null(strstr(sagemem_last_error()->message, "SAGEMEM_E_FULL"));
    assert_int_equal(sagemem_writer_accepted(w), 8);
    assert_null(sagemem_write_begin(w, 3));
    assert_int_equal(sagemem_write(w, "90", 2), SAGEMEM_OK); /* there was room for it all along */
    assert_int_equal(sagemem_write(w, "abc", 3), SAGEMEM_OK);
    m.refuse = 1;
    assert_int_equal(sagemem_write(w, "a record larger than the buffer", 31), SAGEMEM_E_FULL);
    assert_int_equal(sagemem_writer_accepted(w), 13);
    m.refuse = 3;
    assert_int_equal(sagemem_writer_flush(w), SAGEMEM_E_FULL);
    assert_int_equal(sagemem_writer_patch(w, 0, "!", 1), SAGEMEM_E_FULL);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_E_FULL);
    assert_int_equal(m.closed, 0);
    assert_int_equal(sagemem_writer_patch(w, 0, "!", 1), SAGEMEM_OK);
    assert_int_equal(sagemem_write(w, "d", 1), SAGEMEM_OK); /* still open */
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    assert_int_equal(m.size, 14);
    assert_memory_equal(m.at, "!234567890abcd", 14);
    free(m.at);
}

static void in_child(void (*fn)(void)) {
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
    if (WIFSIGNALED(status)) fail_msg("the child was killed by signal %d", WTERMSIG(status));
    if (on_valgrind() && WEXITSTATUS(status) == 1) return; /* it does not like what the child left behind */
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void limit_files(rlim_t most) {
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = most;
    check(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static sagemem_writer_desc full_desc;
static void meet_a_full_disk(void) {
    char data[1500], want[12000];
    size_t accepted = 0, count = 0;
    bool large = full_desc.initial_bytes < sizeof data;
    limit_files(5000);
    sagemem_writer *w = sagemem_writer_open(&full_desc);
    check(w != NULL);
    for (size_t i = 0; i < sizeof want; i++) want[i] = (char)('a' + i % 26);
    /* Until the disk is full: short writes, then EFBIG. */
    while (sagemem_write(w, want + accepted, 1500) == SAGEMEM_OK) check((accepted += 1500) <= 9000);
    check(sagemem_last_error()->status == SAGEMEM_E_IO && sagemem_last_error()->os_error == EFBIG);
    check(sagemem_writer_accepted(w) == accepted);
    for (int i = 0; i < 3; i++) check(sagemem_write(w, want + accepted, 1500) == SAGEMEM_E_IO);
    check(sagemem_writer_close(w) == (large ? SAGEMEM_OK : SAGEMEM_E_IO));
    if (large) { /* everything accepted was written; what the failed record left is cut off */
        check(file_is(full_desc.path, want, accepted));
        return;
    }
    check(sagemem_writer_written(w) == 5000 && sagemem_writer_accepted(w) == accepted);
    check(sagemem_writer_patch(w, 4990, "0123456789ABCDEFGHIJ", 20) == SAGEMEM_OK); /* across the place where it stopped */
    memcpy(want + 4990, "0123456789ABCDEFGHIJ", 20);
    if (full_desc.min_bytes == 1) { /* abandoned: exactly what was written */
        sagemem_writer_abandon(w);
        if (full_desc.atomic) check(file_says(full_desc.path, "old"));
        else check(file_is(full_desc.path, want, 5000));
        check(names_with(".sagemem-") == 0);
        return;
    }
    if (full_desc.atomic) check(file_says(full_desc.path, "old"));
    limit_files(RLIM_INFINITY);
    memset(data, 'z', sizeof data);
    for (; count < 2; count++) ok(sagemem_write(w, data, 10));
    memset(want + accepted, 'z', 20);
    ok(sagemem_writer_close(w));
    check(file_is(full_desc.path, want, accepted + 20));
}
/* The thread goes on behind what a flush wrote before the disk was full. */
static void resume_in_background(void) {
    char want[7500];
    for (size_t i = 0; i < sizeof want; i++) want[i] = (char)('a' + i % 26);
    limit_files(5000);
    sagemem_writer *w = sagemem_writer_open(&full_desc);
    ok(sagemem_write(w, want, 3000));
    ok(sagemem_writer_flush(w));
    ok(sagemem_write(w, want + 3000, 3000));
    check(sagemem_writer_flush(w) == SAGEMEM_E_IO && sagemem_writer_written(w) == 5000);
    limit_files(RLIM_INFINITY);
    ok(sagemem_write(w, want + 6000, 1500));
    ok(sagemem_writer_close(w));
    check(file_is(full_desc.path, want, sizeof want));
}

static void after_room_was_made_the_file_is_complete(void **state) {
    (void)state;
    memset(&full_desc, 0, sizeof full_desc);
    full_desc.path = in_place("full");
    full_desc.tag = TAG;
    full_desc.initial_bytes = 4000;
    full_desc.background = true;
    in_child(resume_in_background);
    for (int variant = 0; variant < 16; variant++) {
        memset(&full_desc, 0, sizeof full_desc);
        full_desc.path = in_place("full");
        full_desc.tag = TAG;
        full_desc.initial_bytes = full_desc.max_bytes = (variant & 1) != 0 ? 1000 : 4000;
        full_desc.atomic = (variant & 2) != 0;
        full_desc.background = (variant & 4) != 0;
        full_desc.min_bytes = (variant & 8) != 0 ? 1 : 0;
        put_file(full_desc.path, "old");
        in_child(meet_a_full_disk);
    }
}

static void dev_full_is_enospc(void **state) {
    (void)state;
    if (access("/dev/full", W_OK) != 0) return;
    for (int background = 0; background < 2; background++) {
        sagemem_writer_desc d = {0};
        d.path = "/dev/full";
        d.tag = TAG;
        d.background = background != 0;
        d.initial_bytes = 100;
        sagemem_writer *w = sagemem_writer_open(&d);
        assert_non_null(w);
        assert_int_equal(sagemem_write(w, "abc", 3), SAGEMEM_OK);
        assert_int_equal(sagemem_writer_flush(w), SAGEMEM_E_IO);
        assert_int_equal(sagemem_last_error()->os_error, ENOSPC);
        assert_non_null(strstr(sagemem_last_error()->message, "/dev/full"));
        assert_int_equal(sagemem_writer_written(w), 0);
        assert_int_equal(sagemem_writer_close(w), SAGEMEM_E_IO);
        sagemem_writer_abandon(w);
    }
}

static volatile sig_atomic_t signals_got;
static void on_signal(int signal) { (void)signal, signals_got++; }

static void write_to_a_closed_pipe(void) {
    int ends[2];
    check(pipe(ends) == 0);
    sagemem_writer_desc d = {0};
    d.fd_plus_one = ends[1] + 1;
    d.tag = TAG;
    sagemem_writer *w = sagemem_writer_open(&d);
    close(ends[1]);
    close(ends[0]);
    signal(SIGPIPE, SIG_DFL);
    ok(sagemem_write(w, "abc", 3));
    check(sagemem_writer_flush(w) == SAGEMEM_E_IO && sagemem_last_error()->os_error == EPIPE);
    signal(SIGPIPE, on_signal);
    check(sagemem_writer_close(w) == SAGEMEM_E_IO && sagemem_last_error()->os_error == EPIPE);
    sigset_t pipe_only, waiting;
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    check(pthread_sigmask(SIG_BLOCK, &pipe_only, NULL) == 0);
    check(sagemem_writer_flush(w) == SAGEMEM_E_IO);
    check(sigpending(&waiting) == 0 && sigismember(&waiting, SIGPIPE) == 0);
    raise(SIGPIPE); /* the program's own stays */
    check(sagemem_writer_flush(w) == SAGEMEM_E_IO);
    check(sigpending(&waiting) == 0 && sigismember(&waiting, SIGPIPE) == 1 && signals_got == 0);
    pthread_sigmask(SIG_UNBLOCK, &pipe_only, NULL);
    check(signals_got == 1);
    sagemem_writer_abandon(w);
}
static void a_closed_pipe_is_an_error_and_no_signal(void **state) {
    (void)state;
    in_child(write_to_a_closed_pipe);
}

static void a_pipe_that_is_full_accepts_a_leading_part(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    size_t size = 3 * MIB, got = 0;
    char *data = (char *)malloc(size), part[50000];
    for (size_t i = 0; i < size; i++) data[i] = (char)(i * 31 >> 3);
    sagemem_writer_desc d = {0};
    d.fd_plus_one = ends[1] + 1;
    d.tag = TAG;
    sagemem_writer *w = sagemem_writer_open(&d);
    close(ends[1]);
    while (got < size) {
        size_t accepted = (size_t)sagemem_writer_accepted(w);
        if (accepted == size) {
            if (sagemem_writer_flush(w) == SAGEMEM_OK) assert_int_equal(sagemem_writer_written(w), size);
        } else if (sagemem_write(w, data + accepted, size - accepted) != SAGEMEM_OK) {
            assert_int_equal(sagemem_last_error()->os_error, EAGAIN);
            assert_true(sagemem_writer_accepted(w) >= accepted && sagemem_writer_written(w) == sagemem_writer_accepted(w));
        }
        ssize_t n = read(ends[0], part, sizeof part);
        assert_true(n > 0 && memcmp(part, data + got, (size_t)n) == 0);
        got += (size_t)n;
    }
    assert_int_equal(sagemem_writer_accepted(w), size);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    close(ends[0]);
    free(data);
}

static void abandon_leaves_what_was_written(void **state) {
    (void)state;
    sagemem_writer *w = open_path(in_place("abandoned"));
    assert_int_equal(sagemem_write(w, "safe", 4), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_flush(w), SAGEMEM_OK);
    assert_int_equal(sagemem_write(w, "dropped", 7), SAGEMEM_OK);
    sagemem_writer_abandon(w);
    assert_true(file_says(in_place("abandoned"), "safe"));
    assert_int_equal(log_errors, 0);
    sagemem_writer_abandon(NULL);
    assert_int_equal(faults, 0);
}

/* -- Atomic files --------------------------------------------------------------------------------------------- */

static sagemem_writer *open_atomic(const char *path) {
    sagemem_writer_desc d = {0};
    d.path = path;
    d.atomic = true;
    d.tag = TAG;
    return sagemem_writer_open(&d);
}

static void an_atomic_file_is_the_old_one_until_close(void **state) {
    (void)state;
    char path[100], link[100];
    struct stat s;
    snprintf(path, sizeof path, "%s", in_place("atomic"));
    snprintf(link, sizeof link, "%s", in_place("link"));
    put_file(path, "old");
    chmod(path, 0622); /* more than the umask leaves */
    assert_int_equal(symlink("atomic", link), 0);
    sagemem_writer *w = open_atomic(link);
    assert_non_null(w);
    assert_int_equal(names_with(".sagemem-"), 1);
    assert_int_equal(sagemem_write(w, "new", 3), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_flush(w), SAGEMEM_OK);
    assert_true(file_says(path, "old"));
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    assert_true(file_says(path, "new"));
    assert_int_equal(lstat(link, &s), 0);
    assert_true(S_ISLNK(s.st_mode)); /* its target was replaced */
    assert_int_equal(stat(path, &s), 0);
    assert_int_equal(s.st_mode & 0777, 0622);
    assert_int_equal(names_with(".sagemem-"), 0);
    w = open_atomic(path);
    assert_int_equal(sagemem_write(w, "dropped", 7), SAGEMEM_OK);
    sagemem_writer_abandon(w);
    assert_true(file_says(path, "new"));
    assert_int_equal(names_with(".sagemem-"), 0);
    unlink(link);
    unlink(path);
    w = open_atomic(path); /* abandoned: still none */
    sagemem_writer_abandon(w);
    assert_int_equal(access(path, F_OK), -1);
}

static void an_atomic_writer_outlasts_chdir_and_long_names(void **state) {
    (void)state;
    char here[1024], name[256];
    assert_non_null(getcwd(here, sizeof here));
    memset(name, 'n', 255);
    name[255] = '\0';
    assert_int_equal(chdir(place), 0);
    sagemem_writer *w = open_atomic(name);
    assert_non_null(w);
    assert_int_equal(sagemem_write(w, "x", 1), SAGEMEM_OK);
    assert_int_equal(chdir(here), 0);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    assert_true(file_says(in_place(name), "x"));
    unlink(in_place(name));
}

static void only_dead_writers_are_cleaned_up(void **state) {
    (void)state;
    char path[100], name[64];
    snprintf(path, sizeof path, "%s", in_place("cleaned"));
    sagemem_writer *first = open_atomic(path), *second;
    assert_int_equal(sagemem_write(first, "first", 5), SAGEMEM_OK);
    put_file(in_place(".cleaned.sagemem-1-1"), "nobody holds it");
    snprintf(name, sizeof name, ".cleaned.sagemem-%d-4000000000", (int)getpid()); /* of one with our number, before us */
    put_file(in_place(name), "");
    put_file(in_place(".cleaned.sagemem-x-1"), "");
    put_file(in_place(".cleaned.sagemem-1-1x"), "");
    put_file(in_place(".cleaned.sagemem-1"), "");
    put_file(in_place(".other.sagemem-1-1"), "");
    mkdir(in_place(".cleaned.sagemem-1-2"), 0700);
    second = open_atomic(path);
    assert_non_null(second);
    assert_int_equal(names_with("cleaned.sagemem-"), 6); /* two writers, three names that are none, one directory */
    assert_int_equal(names_with(".other.sagemem-"), 1);
    assert_int_equal(sagemem_write(second, "second", 6), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_close(second), SAGEMEM_OK);
    assert_true(file_says(path, "second"));
    assert_int_equal(sagemem_writer_close(first), SAGEMEM_OK);
    assert_true(file_says(path, "first"));
    static const char *const left[] = {".cleaned.sagemem-x-1", ".cleaned.sagemem-1-1x", ".cleaned.sagemem-1", ".other.sagemem-1-1"};
    for (size_t i = 0; i < 4; i++) assert_int_equal(unlink(in_place(left[i])), 0);
    rmdir(in_place(".cleaned.sagemem-1-2"));
}

/* -- Scopes, heaps, threads, forks ---------------------------------------------------------------------------- */

static void a_writer_ends_with_its_scope_and_says_so(void **state) {
    (void)state;
    sagemem_heap *heap = sagemem_heap_create(NULL);
    sagemem_writer_desc d = {0};
    d.heap = heap, d.tag = TAG, d.initial_bytes = 100, d.max_bytes = 100000;
    d.path = in_place("scoped");
    assert_int_equal(sagemem_scope_begin(heap, "outer", 1), SAGEMEM_OK);
    sagemem_writer *w = sagemem_writer_open(&d);
    assert_int_equal(sagemem_scope_begin(heap, "inner", 2), SAGEMEM_OK);
    char *room = (char *)sagemem_write_begin(w, 50000); /* grows in its own scope */
    assert_non_null(room);
    memset(room, 'x', 50000);
    sagemem_write_end(w, 50000);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_flush(w), SAGEMEM_OK);
    assert_int_equal(sagemem_write(w, "lost", 4), SAGEMEM_OK);
    assert_int_equal(log_errors, 0);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    assert_int_equal(log_errors, 1);
    assert_non_null(strstr(last_log, "scoped"));
    assert_non_null(strstr(last_log, "4 of 50004 bytes"));
    assert_int_equal(faults, 0);
    assert_int_equal(sagemem_write(w, "x", 1), SAGEMEM_E_STALE);
    assert_int_equal(faults, 1);
    bytes b = slurp(in_place("scoped"));
    assert_int_equal(b.size, 50000);
    free(b.at);
    w = sagemem_writer_open(&d); /* everything written: nothing to say */
    assert_int_equal(sagemem_write(w, "all", 3), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_flush(w), SAGEMEM_OK);
    sagemem_heap_reset(heap);
    assert_int_equal(log_errors, 1);
    assert_true(file_says(in_place("scoped"), "all"));
    d.atomic = true; /* but not if the file is not in its place */
    w = sagemem_writer_open(&d);
    assert_int_equal(sagemem_write(w, "none", 4), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_flush(w), SAGEMEM_OK);
    sagemem_heap_destroy(heap);
    assert_int_equal(log_errors, 2);
    assert_non_null(strstr(last_log, "4 of 4 bytes"));
    assert_true(file_says(in_place("scoped"), "all"));
    assert_int_equal(names_with(".sagemem-"), 0);
}

static char ended_order[8];
static sagemem_status note_close(void *ctx) {
    strcat(ended_order, (const char *)ctx);
    return SAGEMEM_OK;
}
static sagemem_status take_all(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)ctx, (void)data, (void)size, (void)offset;
    return SAGEMEM_OK;
}
static void the_last_made_ends_first(void **state) {
    (void)state;
    static const char *const names[] = {"a", "b", "c"};
    sagemem_scope_begin(NULL, "scope", 0);
    for (size_t i = 0; i < 3; i++) {
        sagemem_sink sink = {take_all, note_close, (void *)(uintptr_t)names[i]};
        sagemem_writer_desc d = {0};
        d.sink = &sink, d.tag = TAG, d.background = i == 1;
        assert_non_null(sagemem_writer_open(&d));
    }
    sagemem_scope_end(NULL);
    assert_string_equal(ended_order, "cba");
}

/* A sink that uses its own writer, whose buffer is empty: there would be room. */
static sagemem_status write_to_own(void *ctx, const void *data, size_t size, uint64_t offset) {
    sagemem_writer *w = *(sagemem_writer *const *)ctx;
    (void)data, (void)size, (void)offset;
    check(sagemem_write(w, "x", 1) == SAGEMEM_E_BUSY);
    check(sagemem_write_begin(w, 1) == NULL);
    sagemem_write_end(w, 1);
    return SAGEMEM_OK;
}
static void a_sink_is_kept_from_its_own_writer(void **state) {
    (void)state;
    static const char big[2000] = {0};
    sagemem_writer *w = NULL;
    sagemem_sink sink = {write_to_own, NULL, &w};
    sagemem_writer_desc d = {0};
    d.sink = &sink;
    d.initial_bytes = 1000;
    w = sagemem_writer_open(&d);
    assert_non_null(w);
    assert_int_equal(sagemem_write(w, big, sizeof big), SAGEMEM_OK);
    assert_int_equal(faults, 3);
    assert_int_equal(sagemem_write(w, "after", 5), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_accepted(w), 2005);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    assert_int_equal(faults, 6);
}

static void *use_from_elsewhere(void *writer) {
    sagemem_writer *w = (sagemem_writer *)writer;
    check(sagemem_write(w, "x", 1) == SAGEMEM_E_BUSY);
    check(sagemem_write_begin(w, 1) == NULL);
    sagemem_write_end(w, 1);
    check(sagemem_writer_patch(w, 0, "x", 1) == SAGEMEM_E_BUSY);
    check(sagemem_writer_flush(w) == SAGEMEM_E_BUSY);
    check(sagemem_writer_close(w) == SAGEMEM_E_BUSY);
    sagemem_writer_abandon(w);
    check(sagemem_writer_accepted(w) == 0 && sagemem_writer_written(w) == 0);
    sagemem_writer_desc d;
    check(sagemem_writer_get_desc(w, &d) == SAGEMEM_E_BUSY);
    return NULL;
}
static void misuse_is_caught(void **state) {
    (void)state;
    pthread_t thread;
    _Alignas(64) char local[1024] = {0};
    sagemem_writer *w = open_path(in_place("misused"));
    assert_int_equal(sagemem_write(w, "abc", 3), SAGEMEM_OK);
    assert_int_equal(pthread_create(&thread, NULL, use_from_elsewhere, w), 0);
    pthread_join(thread, NULL);
    assert_int_equal(faults, 10);
    assert_int_equal(sagemem_writer_accepted(w), 3);
    assert_int_equal(sagemem_writer_close(NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(faults, 10);
    assert_int_equal(sagemem_write((sagemem_writer *)(void *)local, "x", 1), SAGEMEM_E_FOREIGN);
    assert_int_equal(sagemem_write(NULL, "x", 1), SAGEMEM_E_FOREIGN);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    faults = 0;
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_E_STALE);
    sagemem_writer_abandon(w);
    assert_int_equal(sagemem_writer_accepted(w), 0);
    assert_int_equal(faults, 3);
    assert_true(file_says(in_place("misused"), "abc"));
}

static sagemem_writer *inherited[4];
static void be_a_child(void) {
    sagemem_writers_stats s;
    for (int i = 0; i < 4; i++) {
        sagemem_writer *w = inherited[i];
        check(sagemem_write(w, "child", 5) == SAGEMEM_E_BUSY);
        check(sagemem_write(w, "c", 1) == SAGEMEM_E_BUSY); /* there would be room */
        check(sagemem_write_begin(w, 5) == NULL && sagemem_last_error()->status == SAGEMEM_E_BUSY);
        sagemem_write_end(w, 5);
        check(sagemem_writer_patch(w, 0, "x", 1) == SAGEMEM_E_BUSY);
        check(sagemem_writer_flush(w) == SAGEMEM_E_BUSY);
        check(sagemem_writer_close(w) == SAGEMEM_E_BUSY);
        check(sagemem_writer_accepted(w) == 6);
        if (i < 3) sagemem_writer_abandon(w);
    }
    sagemem_writer *own = open_atomic(in_place("forked1")); /* the parent's file beside stays: it lives */
    ok(sagemem_write(own, "child", 5));
    ok(sagemem_writer_close(own));
    sagemem_heap_destroy(NULL); /* a fault: so it is for NULL; what is left ends with the process */
    ok(sagemem_writers_get_stats(&s));
    check(s.writers == 1 && log_errors == 0);
}
static void the_child_of_a_fork_leaves_the_writers_alone(void **state) {
    (void)state;
    memory_sink m = {0};
    sagemem_sink sink = sink_of(&m);
    sagemem_writer_desc d[4] = {{0}};
    char paths[4][100];
    for (int i = 0; i < 4; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/forked%d", place, i);
        d[i].path = paths[i];
        d[i].tag = TAG;
        d[i].initial_bytes = 4;
    }
    d[1].atomic = true;
    d[2].background = true;
    d[3].path = NULL;
    d[3].sink = &sink;
    for (int i = 0; i < 4; i++) {
        inherited[i] = sagemem_writer_open(&d[i]);
        assert_int_equal(sagemem_write(inherited[i], "par", 3), SAGEMEM_OK);
        assert_int_equal(sagemem_write(inherited[i], "ent", 3), SAGEMEM_OK);
    }
    in_child(be_a_child);
    assert_true(file_says(paths[1], "child"));
    for (int i = 0; i < 4; i++) assert_int_equal(sagemem_writer_close(inherited[i]), SAGEMEM_OK);
    for (int i = 0; i < 3; i++) assert_true(file_says(paths[i], "parent"));
    assert_true(m.size == 6 && m.closed == 1);
    free(m.at);
}

static int exit_pipe;
static void log_to_pipe(void *ctx, sagemem_log_level level, const char *message) {
    (void)ctx, (void)level;
    check(write(exit_pipe, message, strlen(message)) > 0);
}
static void forget_to_close(void) {
    sagemem_set_logger(log_to_pipe, NULL);
    sagemem_writer *w = open_path(in_place("forgotten"));
    ok(sagemem_write(w, "twelve bytes", 12));
    fclose(stdout); /* the parent's buffers are the parent's */
    exit(0);
}
static void what_was_not_closed_at_exit_is_reported(void **state) {
    (void)state;
    int ends[2];
    char text[500] = "";
    if (on_valgrind() || UNDER_ASAN) return; /* they have their own say about such an end */
    assert_int_equal(pipe(ends), 0);
    exit_pipe = ends[1];
    in_child(forget_to_close);
    assert_true(read(ends[0], text, sizeof text - 1) > 0);
    assert_non_null(strstr(text, "forgotten"));
    assert_non_null(strstr(text, "12 bytes"));
    close(ends[0]);
    close(ends[1]);
}

/* -- Memory --------------------------------------------------------------------------------------------------- */

static void little_memory_makes_a_smaller_buffer_or_an_error(void **state) {
    (void)state;
    sagemem_heap_desc hd = {0};
    hd.limit = 400 * KIB;
    sagemem_heap *heap = sagemem_heap_create(&hd);
    sagemem_writer_desc d = {0};
    d.heap = heap, d.tag = TAG, d.path = in_place("little");
    sagemem_writer *w = sagemem_writer_open(&d);
    assert_non_null(w);
    assert_true(buffer_of(w) >= 128 * KIB && buffer_of(w) <= 400 * KIB);
    size_t before = buffer_of(w);
    assert_null(sagemem_write_begin(w, 2 * MIB)); /* the buffer cannot grow: nothing happened */
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_LIMIT);
    assert_int_equal(buffer_of(w), before);
    assert_int_equal(sagemem_write(w, "abc", 3), SAGEMEM_OK);
    put_file(in_place("untouched"), "as it was");
    d.path = in_place("untouched");
    d.min_bytes = d.initial_bytes = 512 * KIB;
    assert_null(sagemem_writer_open(&d)); /* and the file is not emptied for it */
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_LIMIT);
    assert_true(file_says(in_place("untouched"), "as it was"));
    assert_int_equal(sagemem_limit_set(heap, 0), SAGEMEM_OK);
    assert_non_null(sagemem_write_begin(w, 2 * MIB));
    sagemem_write_end(w, 0);
    sagemem_writer *other = sagemem_writer_open(&d);
    assert_non_null(other);
    sagemem_writer_abandon(other);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    assert_true(file_says(in_place("little"), "abc"));
    sagemem_heap_destroy(heap);
}

static uint64_t buffers_of_all(void) {
    sagemem_writers_stats s;
    ok(sagemem_writers_get_stats(&s));
    return s.buffer_bytes;
}
static void the_budget_holds_at_every_moment(void **state) {
    (void)state;
    enum { WRITERS = 64, RECORDS = 20000 };
    static sagemem_writer *w[WRITERS];
    static size_t counts[WRITERS];
    chance luck = {seed};
    sagemem_writers_set_budget(MIB);
    for (int i = 0; i < WRITERS; i++) {
        char name[32];
        snprintf(name, sizeof name, "shared%d", i);
        w[i] = open_path(in_place(name));
        assert_non_null(w[i]);
        counts[i] = 0;
        assert_true(buffers_of_all() <= MIB);
    }
    assert_int_equal(buffer_of(w[0]), 64 * KIB); /* the least, so that others find something, too */
    assert_int_equal(buffer_of(w[15]), 64 * KIB);
    assert_int_equal(buffer_of(w[16]), 0); /* nothing left: it writes through */
    for (int k = 0; k < (slow() ? RECORDS / 10 : RECORDS); k++) {
        int i = (int)chance_below(&luck, WRITERS);
        char record[32];
        int length = snprintf(record, sizeof record, "%d %zu\n", i, counts[i]++);
        assert_int_equal(sagemem_write(w[i], record, (size_t)length), SAGEMEM_OK);
        assert_true(buffers_of_all() <= MIB);
    }
    for (int i = 0; i < WRITERS; i++) assert_int_equal(buffer_of(w[i]), MIB / WRITERS);
    sagemem_writers_set_budget(512 * KIB); /* lower: each at its next call */
    for (int i = 0; i < WRITERS; i++) assert_int_equal(sagemem_write(w[i], "", 0), SAGEMEM_OK);
    for (int i = 0; i < WRITERS; i++) assert_int_equal(sagemem_writer_flush(w[i]), SAGEMEM_OK);
    assert_int_equal(buffers_of_all(), 512 * KIB);
    sagemem_writers_set_budget(0); /* none: as large as they were to be */
    for (int i = 0; i < WRITERS; i++) assert_int_equal(sagemem_writer_flush(w[i]), SAGEMEM_OK);
    assert_int_equal(buffer_of(w[63]), MIB);
    for (int i = 0; i < WRITERS; i++) {
        assert_int_equal(sagemem_writer_close(w[i]), SAGEMEM_OK);
        char name[32], record[32];
        snprintf(name, sizeof name, "shared%d", i);
        bytes b = slurp(in_place(name));
        const char *at = b.at;
        for (size_t n = 0; n < counts[i]; n++) {
            int length = snprintf(record, sizeof record, "%d %zu\n", i, n);
            assert_memory_equal(at, record, (size_t)length);
            at += length;
        }
        assert_int_equal(*at, '\0');
        free(b.at);
    }
}

/* 64 files whose records are built in place: each finds room at its first record, whichever comes first. */
static void a_budget_has_room_for_records_of_all(void **state) {
    (void)state;
    enum { WRITERS = 64 };
    sagemem_writer *w[WRITERS];
    sagemem_writers_set_budget(4 * MIB);
    for (int i = 0; i < WRITERS; i++) {
        char name[32];
        snprintf(name, sizeof name, "record%d", i);
        w[i] = open_path(in_place(name));
        assert_non_null(w[i]);
    }
    for (int i = WRITERS - 1; i >= 0; i--) {
        char *room = (char *)sagemem_write_begin(w[i], 100);
        assert_non_null(room);
        memset(room, 'x', 100);
        sagemem_write_end(w[i], 100);
        assert_true(buffers_of_all() <= 4 * MIB);
    }
    for (int i = 0; i < WRITERS; i++) assert_int_equal(sagemem_writer_close(w[i]), SAGEMEM_OK);
    sagemem_writers_set_budget(0);
}

static void without_a_buffer_it_writes_through(void **state) {
    (void)state;
    sagemem_writers_set_budget(1); /* less than any buffer */
    sagemem_writer *w = open_path(in_place("through"));
    assert_non_null(w);
    assert_int_equal(buffer_of(w), 0);
    assert_int_equal(sagemem_write(w, "abc", 3), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_written(w), 3);
    assert_null(sagemem_write_begin(w, 2));
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_LIMIT);
    assert_int_equal(sagemem_writer_patch(w, 1, "B", 1), SAGEMEM_OK);
    sagemem_writers_set_budget(10000);
    assert_int_equal(sagemem_write(w, "def", 3), SAGEMEM_OK);
    assert_int_equal(buffer_of(w), 10000);
    assert_int_equal(sagemem_writer_written(w), 3);
    assert_null(sagemem_write_begin(w, 10001));
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_LIMIT);
    char *room = (char *)sagemem_write_begin(w, 9000);
    assert_non_null(room);
    memcpy(room, "gh", 2);
    sagemem_write_end(w, 2);
    assert_int_equal(sagemem_writer_close(w), SAGEMEM_OK);
    assert_true(file_says(in_place("through"), "aBcdefgh"));
}

/* -- Every call fails in turn --------------------------------------------------------------------------------- */

static sagemem_writer_desc life_desc;
static sagemem_status a_life(void *ctx) {
    (void)ctx;
    static char big[3000];
    memset(big, 'b', sizeof big);
    put_file(in_place("life"), "old");
    sagemem_writer *w = sagemem_writer_open(&life_desc);
    if (w == NULL) {
        bool emptied = access(in_place("life"), F_OK) == 0;
        check(emptied && names_with(".life.sagemem-") == 0);
        if (!life_desc.atomic) return sagemem_last_error()->status;
        check(file_says(in_place("life"), "old"));
        return sagemem_last_error()->status;
    }
    sagemem_status status = SAGEMEM_OK, met = SAGEMEM_OK;
    for (int step = 0; step < 8; step++) {
        do { /* what fails has changed nothing: again */
            uint64_t before = sagemem_writer_accepted(w);
            char *room;
            switch (step) {
            case 0: status = sagemem_write(w, "header--", 8); break;
            case 1: status = sagemem_write(w, big, 900); break;
            case 2: status = sagemem_write(w, big, 900); break;
            case 3: status = sagemem_write(w, big, 3000); break;
            case 4:
                room = (char *)sagemem_write_begin(w, 2000);
                status = room == NULL ? sagemem_last_error()->status : SAGEMEM_OK;
                if (room != NULL) memset(room, 'r', 2000), sagemem_write_end(w, 2000);
                break;
            case 5: status = sagemem_writer_patch(w, 0, "HEADER", 6); break;
            case 6: status = sagemem_writer_flush(w); break;
            default: status = sagemem_write(w, "end", 3); break;
            }
            if (status != SAGEMEM_OK) {
                met = status;
                check(sagemem_writer_accepted(w) == before);
            }
        } while (status != SAGEMEM_OK);
    }
    while ((status = sagemem_writer_close(w)) != SAGEMEM_OK) {
        met = status;
        check(names_with(".life.sagemem-") <= (life_desc.atomic ? 1 : 0));
    }
    bytes b = slurp(in_place("life"));
    check(b.size == 8 + 900 + 900 + 3000 + 2000 + 3 && memcmp(b.at, "HEADER--b", 9) == 0 && memcmp(b.at + 6808, "end", 3) == 0);
    free(b.at);
    check(names_with(".life.sagemem-") == 0);
    return met;
}
static void every_failure_changes_nothing(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_SHARED | SAGEMEM_HEAP_CHECKED};
    for (int variant = 0; variant < 12; variant++) {
        sagemem_heap_desc hd = {0};
        hd.flags = flags[variant % 2];
        sagemem_heap *heap = sagemem_heap_create(&hd);
        memset(&life_desc, 0, sizeof life_desc);
        char path[100];
        snprintf(path, sizeof path, "%s", in_place("life"));
        life_desc.path = path;
        life_desc.heap = heap;
        life_desc.tag = TAG;
        life_desc.initial_bytes = 1000, life_desc.max_bytes = 4000;
        life_desc.atomic = variant / 2 % 2 != 0;
        life_desc.background = variant / 4 == 1;
        life_desc.sync = variant / 4 == 2 ? SAGEMEM_SYNC_EVERY_FLUSH : SAGEMEM_SYNC_NONE;
        uint64_t points = 0;
        assert_int_equal(sagemem_check_failures(a_life, NULL, &points), SAGEMEM_OK);
        printf("variant %d: %llu points\n", variant, UINT(points));
        assert_true(points >= 10);
        sagemem_tag_stats t;
        sagemem_tag_get_stats(heap, TAG, &t);
        assert_int_equal(t.used, 0);
        assert_int_equal(sagemem_heap_check(heap), 0);
        sagemem_heap_destroy(heap);
    }
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, before_each, after_each)
    const struct CMUnitTest tests[] = {
        TEST(a_bad_desc_opens_nothing),
        TEST(what_cannot_be_opened_says_why),
        TEST(defaults_can_be_read_back),
        TEST(a_path_is_emptied_or_kept),
        TEST(the_umask_decides_on_permissions),
        TEST(a_descriptor_keeps_its_position),
        TEST(a_pipe_is_written_in_order),
        TEST(a_sink_gets_absolute_positions_and_is_closed_once),
        TEST(what_is_larger_than_the_buffer_passes_through),
        TEST(records_are_built_in_the_buffer),
        TEST(patches_reach_what_was_accepted),
        TEST(an_adaptive_buffer_grows_and_shrinks),
        TEST(all_targets_are_as_the_oracle_says),
        TEST(a_failed_write_accepts_nothing_and_can_be_repeated),
        TEST(after_room_was_made_the_file_is_complete),
        TEST(dev_full_is_enospc),
        TEST(a_closed_pipe_is_an_error_and_no_signal),
        TEST(a_pipe_that_is_full_accepts_a_leading_part),
        TEST(abandon_leaves_what_was_written),
        TEST(an_atomic_file_is_the_old_one_until_close),
        TEST(an_atomic_writer_outlasts_chdir_and_long_names),
        TEST(only_dead_writers_are_cleaned_up),
        TEST(a_writer_ends_with_its_scope_and_says_so),
        TEST(the_last_made_ends_first),
        TEST(misuse_is_caught),
        TEST(a_sink_is_kept_from_its_own_writer),
        TEST(the_child_of_a_fork_leaves_the_writers_alone),
        TEST(what_was_not_closed_at_exit_is_reported),
        TEST(little_memory_makes_a_smaller_buffer_or_an_error),
        TEST(the_budget_holds_at_every_moment),
        TEST(a_budget_has_room_for_records_of_all),
        TEST(without_a_buffer_it_writes_through),
        TEST(every_failure_changes_nothing),
    };
    return cmocka_run_group_tests(tests, begin, finish);
}
