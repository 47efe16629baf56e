/* Places that do not take what is written, for real: a full file system, one that is read-only, a directory that may not be
 * written to, a FIFO, a descriptor that somebody else has closed. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* unshare */
#endif
#include "../writers.h"

#ifdef __linux__
#include <sched.h>
#include <sys/mount.h>
#endif

enum { MOST = 512 * KIB, RECORD = 1500 };
static char want[2 * MOST];

/* Runs it in a child. False: it says that it cannot be tried here. */
static bool in_child(int (*fn)(void)) {
    fflush(NULL);
    pid_t pid = fork();
    check(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_SECONDS);
        _exit(fn());
    }
    int status = 0;
    check(waitpid(pid, &status, 0) == pid);
    if (WIFSIGNALED(status)) fail_msg("the child was killed by signal %d", WTERMSIG(status));
    if (WEXITSTATUS(status) == 77) printf("cannot be tried here: no file system may be mounted\n");
    else if (!on_valgrind() || WEXITSTATUS(status) != 1) assert_int_equal(WEXITSTATUS(status), 0);
    return WEXITSTATUS(status) != 77;
}

/* A file system of the child's own, with so many bytes, at `place`. */
static bool own_file_system(const char *options, unsigned long flags) {
#ifdef __linux__
    if (unshare(geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER) != 0) return false;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return false;
    return mount("none", place, "tmpfs", flags, options) == 0;
#else
    (void)options, (void)flags;
    return false;
#endif
}

static bool failed_with(int os_error) {
    return sagemem_last_error()->status == SAGEMEM_E_IO && sagemem_last_error()->os_error == os_error;
}

/* Takes all room but so many bytes. */
static void fill(const char *path, size_t but) {
    static char block[4096];
    FILE *file = fopen(path, "wb");
    check(file != NULL);
    setvbuf(file, NULL, _IONBF, 0);
    memset(block, 'f', sizeof block);
    for (size_t size = 0; size + but < MOST && fwrite(block, 1, sizeof block, file) == sizeof block;) size += sizeof block;
    fclose(file);
}

/* -- A full file system */

static sagemem_writer_desc full;
static void write_till_full(void) {
    size_t accepted = 0;
    fill(in_place("filler"), 100 * KIB);
    put_file(in_place("file"), "old");
    full.path = in_place("file");
    sagemem_writer *w = sagemem_writer_open(&full);
    check(w != NULL);
    while (sagemem_write(w, want + accepted, RECORD) == SAGEMEM_OK) check((accepted += RECORD) < 400 * KIB);
    check(failed_with(ENOSPC) && sagemem_writer_accepted(w) == accepted);
    for (int i = 0; i < 3; i++) {
        check(sagemem_write(w, want + accepted, RECORD) == SAGEMEM_E_IO && failed_with(ENOSPC));
        check(sagemem_writer_flush(w) == SAGEMEM_E_IO && sagemem_writer_close(w) == SAGEMEM_E_IO && failed_with(ENOSPC));
    }
    size_t written = (size_t)sagemem_writer_written(w);
    check(written > 50 * KIB && written < accepted);
    if (full.atomic) {
        check(file_says(full.path, "old"));
    } else {
        bytes b = slurp(full.path);
        check(b.size >= written && memcmp(b.at, want, written) == 0);
        free(b.at);
    }
    check(unlink(in_place("filler")) == 0); /* room */
    ok(sagemem_write(w, want + accepted, RECORD));
    ok(sagemem_writer_close(w));
    check(file_is(full.path, want, accepted + RECORD));
    check(names_with(".sagemem-") == 0);
    check(unlink(full.path) == 0);
}
/* Not a byte is left for what a map has read and changed; the file system is full of holes' promises. */
static void flush_till_full(void) {
    enum { PAGES = 30 };
    sagemem_map_desc d = {0};
    d.path = in_place("sparse");
    d.mode = SAGEMEM_MAP_WRITE;
    d.no_mapping = true;
    put_file(d.path, "");
    check(truncate(d.path, PAGES * 4096) == 0);
    fill(in_place("filler"), 40 * KIB);
    sagemem_map *map = sagemem_map_open(&d);
    check(map != NULL);
    memset(sagemem_map_data_writable(map), 'm', PAGES * 4096);
    for (int i = 0; i < 3; i++) check(sagemem_map_flush(map) == SAGEMEM_E_IO && failed_with(ENOSPC));
    check(sagemem_map_close(map) == SAGEMEM_E_IO && failed_with(ENOSPC));
    check(unlink(in_place("filler")) == 0);
    ok(sagemem_map_close(map));
    bytes b = slurp(d.path);
    check(b.size == PAGES * 4096);
    for (size_t i = 0; i < b.size; i++) check(b.at[i] == 'm');
    free(b.at);
}
static int meet_a_full_file_system(void) {
    if (!own_file_system("size=512k", 0)) return 77;
    for (int variant = 0; variant < 8; variant++) {
        memset(&full, 0, sizeof full);
        full.initial_bytes = full.max_bytes = 20 * KIB;
        full.atomic = (variant & 1) != 0;
        full.background = (variant & 2) != 0;
        full.sync = (variant & 4) != 0 ? SAGEMEM_SYNC_EVERY_FLUSH : SAGEMEM_SYNC_NONE;
        write_till_full();
    }
    flush_till_full();
    return 0;
}
static void a_full_file_system_takes_the_rest_later(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof want; i++) want[i] = (char)(i * 31 / 7);
    in_child(meet_a_full_file_system);
}

/* -- Places that are read-only */

static int meet_a_read_only_file_system(void) {
    if (!own_file_system("size=512k", 0)) return 77;
#ifdef __linux__
    put_file(in_place("file"), "as it was");
    check(mount(NULL, place, NULL, MS_REMOUNT | MS_RDONLY, "size=512k") == 0);
#endif
    sagemem_writer_desc w = {0};
    for (int atomic = 0; atomic < 2; atomic++) {
        w.atomic = atomic != 0;
        w.path = in_place("file");
        check(sagemem_writer_open(&w) == NULL && failed_with(EROFS));
        w.path = in_place("none");
        check(sagemem_writer_open(&w) == NULL && failed_with(EROFS));
    }
    sagemem_map_desc m = {0};
    m.path = in_place("file");
    m.mode = SAGEMEM_MAP_WRITE;
    check(sagemem_map_open(&m) == NULL && failed_with(EROFS));
    m.mode = SAGEMEM_MAP_PRIVATE;
    sagemem_map *map = sagemem_map_open(&m);
    check(map != NULL && memcmp(sagemem_map_data(map), "as it was", 9) == 0);
    ok(sagemem_map_close(map));
    check(file_says(in_place("file"), "as it was"));
    return 0;
}
static void a_read_only_file_system_is_said_at_open(void **state) {
    (void)state;
    in_child(meet_a_read_only_file_system);
}

/* The file may be written, its directory not: the new one cannot be made beside it. */
static int meet_a_shut_directory(void) {
    if (geteuid() == 0 && setuid(65534) != 0) return 77;
    sagemem_writer_desc w = {0};
    w.path = in_place("shut/file");
    w.atomic = true;
    check(sagemem_writer_open(&w) == NULL && failed_with(EACCES));
    check(file_says(w.path, "as it was"));
    w.atomic = false;
    sagemem_writer *writer = sagemem_writer_open(&w);
    check(writer != NULL);
    ok(sagemem_write(writer, "new", 3));
    ok(sagemem_writer_close(writer));
    check(file_says(w.path, "new"));
    w.path = in_place("shut/other");
    check(sagemem_writer_open(&w) == NULL && failed_with(EACCES));
    return 0;
}
static void a_shut_directory_refuses_the_atomic_alone(void **state) {
    (void)state;
    check(mkdir(in_place("shut"), 0755) == 0);
    put_file(in_place("shut/file"), "as it was");
    check(chmod(place, 0755) == 0 && chmod(in_place("shut/file"), 0666) == 0 && chmod(in_place("shut"), 0555) == 0);
    in_child(meet_a_shut_directory);
    check(chmod(in_place("shut"), 0755) == 0 && unlink(in_place("shut/file")) == 0 && rmdir(in_place("shut")) == 0);
}

/* -- A FIFO */

static void a_fifo_is_written_or_refused(void **state) {
    (void)state;
    char got[10];
    sagemem_writer_desc w = {0};
    w.path = in_place("fifo");
    w.tag = TAG;
    check(mkfifo(w.path, 0600) == 0);
    w.atomic = true; /* nobody reads: refused without waiting */
    assert_null(sagemem_writer_open(&w));
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_UNSUPPORTED);
    w.atomic = false;
    int fd = open(w.path, O_RDONLY | O_NONBLOCK);
    sagemem_writer *writer = sagemem_writer_open(&w);
    assert_non_null(writer);
    assert_int_equal(sagemem_write(writer, "in order", 8), SAGEMEM_OK);
    assert_int_equal(sagemem_writer_close(writer), SAGEMEM_OK);
    assert_int_equal(read(fd, got, sizeof got), 8);
    assert_memory_equal(got, "in order", 8);
    close(fd);
    unlink(w.path);
}

/* -- A descriptor of the library's that somebody closes */

/* The number that the next open gets, which is the library's then. */
static int next_handle(void) {
    int fd = fcntl(0, F_DUPFD, 3);
    close(fd);
    return fd;
}

static void a_closed_descriptor_loses_nothing(void **state) {
    (void)state;
    sagemem_writer_desc w = {0};
    w.tag = TAG;
    w.initial_bytes = 100;
    for (int variant = 0; variant < 2; variant++) {
        w.path = in_place("closed");
        w.background = variant == 1;
        int handle = next_handle();
        sagemem_writer *writer = sagemem_writer_open(&w);
        assert_non_null(writer);
        assert_int_equal(sagemem_write(writer, "0123456789", 10), SAGEMEM_OK);
        assert_int_equal(sagemem_writer_flush(writer), SAGEMEM_OK);
        assert_int_equal(sagemem_write(writer, "abcdefghij", 10), SAGEMEM_OK);
        close(handle);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(sagemem_writer_flush(writer), SAGEMEM_E_IO);
            assert_true(failed_with(EBADF));
            assert_int_equal(sagemem_writer_close(writer), SAGEMEM_E_IO);
            assert_int_equal(sagemem_writer_written(writer), 10);
            assert_int_equal(sagemem_writer_accepted(writer), 20);
        }
        assert_int_equal(open(w.path, O_WRONLY), handle); /* mended */
        assert_int_equal(sagemem_writer_close(writer), SAGEMEM_OK);
        assert_true(file_says(w.path, "0123456789abcdefghij"));
    }
    sagemem_reader_desc r = {0};
    r.path = w.path;
    r.no_mapping = true;
    r.buffer_bytes = 4;
    r.tag = TAG;
    for (int variant = 0; variant < 2; variant++) {
        char got[20];
        size_t n;
        r.read_ahead = variant == 1;
        int handle = next_handle();
        sagemem_reader *reader = sagemem_reader_open(&r);
        assert_non_null(reader);
        assert_int_equal(sagemem_read(reader, got, 1, &n), SAGEMEM_OK);
        close(handle);
        size_t done = 1;
        while (sagemem_read(reader, got + done, 4, &n) == SAGEMEM_OK && n > 0) done += n;
        assert_true(r.read_ahead || failed_with(EBADF)); /* the thread may have had it all */
        done += n;
        if (done < 20) assert_int_equal(open(w.path, O_RDONLY), handle);
        while (done < 20 && sagemem_read(reader, got + done, 20 - done, &n) == SAGEMEM_OK && n > 0) done += n;
        assert_int_equal(done, 20);
        assert_memory_equal(got, "0123456789abcdefghij", 20);
        assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
    }
    sagemem_map_desc m = {0};
    m.path = w.path;
    m.tag = TAG;
    int handle = next_handle();
    sagemem_map *map = sagemem_map_open(&m);
    assert_non_null(map);
    close(handle);
    char got[20];
    assert_int_equal(sagemem_map_read(map, 0, got, 20), SAGEMEM_E_IO);
    assert_true(failed_with(EBADF));
    assert_int_equal(sagemem_map_refresh(map), SAGEMEM_E_IO);
    assert_memory_equal(sagemem_map_view(map, 0, 20), "0123456789abcdefghij", 20); /* what is mapped stays */
    assert_int_equal(open(w.path, O_RDONLY), handle);
    assert_int_equal(sagemem_map_refresh(map), SAGEMEM_OK);
    assert_int_equal(sagemem_map_read(map, 0, got, 20), SAGEMEM_OK);
    assert_int_equal(sagemem_map_close(map), SAGEMEM_OK);
    unlink(w.path);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, before_each, after_each)
    const struct CMUnitTest tests[] = {
        TEST(a_full_file_system_takes_the_rest_later),   TEST(a_read_only_file_system_is_said_at_open),
        TEST(a_shut_directory_refuses_the_atomic_alone), TEST(a_fifo_is_written_or_refused),
        TEST(a_closed_descriptor_loses_nothing),
    };
    return cmocka_run_group_tests(tests, begin, finish);
}
