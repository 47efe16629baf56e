/* Datasets of HDF5 behind writers and readers, looked at through HDF5 itself. Built where pkg-config finds HDF5. */
#include "writers.h"

struct record { /* with gaps */
    char kind;
    double mass;
    float position[3];
    int64_t id;
    short snapshot;
};
enum { RECORD = sizeof(struct record), PACKED = 1 + 8 + 12 + 8 + 2 };
static const char *const units[] = {NULL, "1e10 Msun/h", "Mpc/h", "", NULL};

static hid_t file, type;
static char file_path[100];

static hid_t type_of_record(void) {
    hsize_t three = 3;
    hid_t t = H5Tcreate(H5T_COMPOUND, RECORD), position = H5Tarray_create2(H5T_NATIVE_FLOAT, 1, &three);
    check(H5Tinsert(t, "kind", offsetof(struct record, kind), H5T_NATIVE_CHAR) >= 0);
    check(H5Tinsert(t, "mass", offsetof(struct record, mass), H5T_NATIVE_DOUBLE) >= 0);
    check(H5Tinsert(t, "position", offsetof(struct record, position), position) >= 0);
    check(H5Tinsert(t, "id", offsetof(struct record, id), H5T_NATIVE_INT64) >= 0);
    check(H5Tinsert(t, "snapshot", offsetof(struct record, snapshot), H5T_NATIVE_SHORT) >= 0);
    H5Tclose(position);
    return t;
}
static struct record nth(uint64_t n) {
    struct record r;
    memset(&r, 0, sizeof r); /* the gaps are not in the file: they read as they were */
    r.kind = (char)('a' + n % 26);
    r.mass = 1.5 * (double)n - 7;
    for (int i = 0; i < 3; i++) r.position[i] = (float)n / (float)(i + 2);
    r.id = (int64_t)n * 1000000007 - 5;
    r.snapshot = (short)(n % 64);
    return r;
}

static int with_file(void **state) {
    before_each(state);
    snprintf(file_path, sizeof file_path, "%s", in_place("file.h5"));
    file = H5Fcreate(file_path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    type = type_of_record();
    return file < 0 || type < 0;
}
/* HDF5 has nothing open any more: what was opened was closed. */
static int without_file(void **state) {
    H5Tclose(type);
    ssize_t open_now = H5Fget_obj_count(file, H5F_OBJ_ALL | H5F_OBJ_LOCAL);
    if (open_now != 1) fprintf(stderr, "%d objects of HDF5 are still open\n", (int)open_now - 1);
    H5Fclose(file);
    unlink(file_path);
    return open_now != 1 || after_each(state);
}

static sagemem_hdf5_desc desc_of(const char *name) {
    sagemem_hdf5_desc d = {0};
    d.location = file;
    d.name = name;
    d.type = type;
    d.tag = TAG;
    return d;
}
static sagemem_writer *writer_of(const sagemem_hdf5_desc *d, size_t buffer, bool background) {
    sagemem_sink sink;
    ok(sagemem_hdf5_sink(d, &sink));
    sagemem_writer_desc w = {0};
    w.sink = &sink;
    w.initial_bytes = buffer;
    w.background = background;
    w.tag = TAG;
    w.heap = d->heap;
    sagemem_writer *writer = sagemem_writer_open(&w);
    check(writer != NULL);
    return writer;
}
static void write_records(sagemem_writer *w, uint64_t first, uint64_t count) {
    for (uint64_t n = first; n < first + count; n++) {
        struct record r = nth(n);
        ok(sagemem_write(w, &r, sizeof r));
    }
}
/* Through HDF5 alone: the dataset has these records and no others. */
static void dataset_has(const char *name, uint64_t count) {
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(set);
    check(set >= 0 && (uint64_t)H5Sget_simple_extent_npoints(space) == count);
    struct record *got = (struct record *)calloc((size_t)count + 1, sizeof *got);
    check(got != NULL && H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, got) >= 0);
    for (uint64_t n = 0; n < count; n++) {
        struct record r = nth(n);
        check(got[n].kind == r.kind && got[n].id == r.id && got[n].snapshot == r.snapshot);
        check(memcmp(&got[n].mass, &r.mass, sizeof r.mass) == 0 && memcmp(got[n].position, r.position, sizeof r.position) == 0);
    }
    free(got);
    H5Sclose(space);
    H5Dclose(set);
}
static bool is_there(const char *name) { return H5Lexists(file, name, H5P_DEFAULT) > 0; }

/* -- What is refused ------------------------------------------------------------------------------------------ */

static sagemem_status refused(sagemem_hdf5_desc d) {
    sagemem_sink sink = {NULL, NULL, NULL};
    sagemem_status status = sagemem_hdf5_sink(&d, &sink);
    check(status != SAGEMEM_OK && sink.write_fn == NULL && sagemem_last_error()->status == status);
    H5G_info_t info;
    check(H5Gget_info(file, &info) >= 0 && info.nlinks == 0); /* nothing was made */
    return status;
}

static void a_bad_desc_makes_nothing(void **state) {
    (void)state;
    const sagemem_hdf5_desc good = desc_of("set");
    static char longest[1100];
    sagemem_hdf5_desc d;
    sagemem_sink sink;
    sagemem_input source;
    memset(longest, 'n', sizeof longest - 1);
    assert_int_equal(sagemem_hdf5_sink(NULL, &sink), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_hdf5_sink(&good, NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_hdf5_source(NULL, &source), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_hdf5_source(&good, NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_hdf5_source(&good, &source), SAGEMEM_E_NOT_FOUND);
#define BAD(field, value, status)                                                                                                  \
    d = good, d.field = value;                                                                                                     \
    assert_int_equal(refused(d), status)
    BAD(name, NULL, SAGEMEM_E_ARGUMENT);
    BAD(name, "", SAGEMEM_E_ARGUMENT);
    BAD(name, "//", SAGEMEM_E_ARGUMENT);
    BAD(name, longest, SAGEMEM_E_ARGUMENT);
    BAD(location, 0, SAGEMEM_E_ARGUMENT);
    BAD(location, -1, SAGEMEM_E_ARGUMENT);
    BAD(location, type, SAGEMEM_E_ARGUMENT);
    BAD(type, 0, SAGEMEM_E_ARGUMENT);
    BAD(type, file, SAGEMEM_E_ARGUMENT);
    BAD(file_type, file, SAGEMEM_E_ARGUMENT);
    BAD(deflate, 10, SAGEMEM_E_ARGUMENT);
    BAD(deflate, -1, SAGEMEM_E_ARGUMENT);
    BAD(chunk_records, (uint64_t)1 << 32, SAGEMEM_E_ARGUMENT);
    BAD(chunk_records, UINT64_MAX, SAGEMEM_E_ARGUMENT);
    BAD(tag, SAGEMEM_TAG_MAX + 1, SAGEMEM_E_ARGUMENT);
    BAD(heap, (sagemem_heap *)longest, SAGEMEM_E_FOREIGN);
#undef BAD
    assert_int_equal(faults, 1);
}

static void types_with_pointers_are_refused(void **state) {
    (void)state;
    hsize_t two = 2;
    sagemem_hdf5_desc d = desc_of("set");
    hid_t text = H5Tcopy(H5T_C_S1), sequence = H5Tvlen_create(H5T_NATIVE_INT), outer = H5Tcreate(H5T_COMPOUND, 64);
    H5Tset_size(text, H5T_VARIABLE);
    hid_t pair = H5Tarray_create2(text, 1, &two);
    H5Tinsert(outer, "pair", 0, pair);
    hid_t bad[] = {text, sequence, pair, outer, H5T_STD_REF_OBJ};
    for (size_t i = 0; i < 5; i++) {
        d.type = bad[i];
        assert_int_equal(refused(d), SAGEMEM_E_UNSUPPORTED);
        d.type = type;
        d.file_type = bad[i];
        assert_int_equal(refused(d), SAGEMEM_E_UNSUPPORTED);
        d.file_type = 0;
    }
    d.type = H5T_NATIVE_DOUBLE;
    d.file_type = type; /* no way from one to the other: found at the first record */
    sagemem_writer *w = writer_of(&d, 0, false);
    double one = 1;
    ok(sagemem_write(w, &one, sizeof one));
    assert_int_equal(sagemem_writer_flush(w), SAGEMEM_E_IO);
    sagemem_writer_abandon(w);
    H5Ldelete(file, "set", H5P_DEFAULT);
    for (size_t i = 0; i < 4; i++) H5Tclose(bad[i]);
}

static void what_is_there_is_refused_or_continued(void **state) {
    (void)state;
    sagemem_hdf5_desc d = desc_of("a/b/set");
    sagemem_sink sink;
    sagemem_writer *w = writer_of(&d, 0, false);
    write_records(w, 0, 10);
    ok(sagemem_writer_close(w));
    assert_int_equal(sagemem_hdf5_sink(&d, &sink), SAGEMEM_E_ARGUMENT);
    assert_non_null(strstr(sagemem_last_error()->message, "a/b/set"));
    dataset_has("a/b/set", 10);
    d.append = true;
    for (uint64_t n = 10; n < 40; n += 10) { /* and may be patched, but not those before */
        struct record r = nth(n);
        w = writer_of(&d, 70, false);
        write_records(w, n, 1);
        write_records(w, 3, 9);
        for (uint64_t i = 1; i < 10; i++) {
            r = nth(n + i);
            ok(sagemem_writer_patch(w, i * RECORD, &r, sizeof r));
        }
        ok(sagemem_writer_close(w));
        dataset_has("a/b/set", n + 10);
    }
    d.name = "new"; /* append makes it, too */
    w = writer_of(&d, 0, false);
    write_records(w, 0, 3);
    ok(sagemem_writer_close(w));
    dataset_has("new", 3);
    d.type = H5T_NATIVE_DOUBLE;
    assert_int_equal(sagemem_hdf5_sink(&d, &sink), SAGEMEM_E_UNSUPPORTED);
    hsize_t four[] = {4, 4};
    for (int dimensions = 0; dimensions <= 2; dimensions++) {
        hid_t space = dimensions == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(dimensions, four, NULL);
        hid_t set = H5Dcreate2(file, "fixed", H5T_NATIVE_DOUBLE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        H5Dclose(set);
        H5Sclose(space);
        d.name = "fixed";
        assert_int_equal(sagemem_hdf5_sink(&d, &sink), SAGEMEM_E_UNSUPPORTED);
        H5Ldelete(file, "fixed", H5P_DEFAULT);
    }
    d.name = "a"; /* a group */
    assert_int_equal(sagemem_hdf5_sink(&d, &sink), SAGEMEM_E_IO);
    d.name = "new/below"; /* no group */
    assert_int_equal(sagemem_hdf5_sink(&d, &sink), SAGEMEM_E_IO);
}

/* -- Writing -------------------------------------------------------------------------------------------------- */

static void records_arrive_with_their_units(void **state) {
    (void)state;
    H5E_auto2_t print_before, print_after;
    void *ctx_before, *ctx_after;
    H5Eget_auto2(H5E_DEFAULT, &print_before, &ctx_before);
    sagemem_hdf5_desc d = desc_of("snapshot_063/galaxies");
    d.units = units;
    sagemem_sink sink;
    ok(sagemem_hdf5_sink(&d, &sink));
    sagemem_hdf5_info info;
    ok(sagemem_hdf5_get_info(sink.ctx, &info));
    assert_int_equal(info.record_bytes, RECORD);
    assert_int_equal(info.records, 0);
    assert_int_equal(info.chunk_records, 65536 / PACKED);
    double scale_factor = 0.5;
    ok(sagemem_hdf5_attribute(info.dataset, "scale factor", H5T_NATIVE_DOUBLE, &scale_factor));
    sagemem_writer_desc wd = {0};
    wd.sink = &sink;
    wd.initial_bytes = 10000;
    sagemem_writer *w = sagemem_writer_open(&wd);
    write_records(w, 0, 5000);
    ok(sagemem_hdf5_get_info(sink.ctx, &info));
    assert_true(info.records > 4000 && info.records < 5000);
    ok(sagemem_writer_close(w));
    assert_true(H5Iis_valid(info.type) == 0 && H5Iis_valid(info.dataset) == 0); /* closed with its writer */
    assert_int_equal(sagemem_hdf5_get_info(sink.ctx, &info), SAGEMEM_E_STALE);
    assert_int_equal(faults, 1);
    H5Eget_auto2(H5E_DEFAULT, &print_after, &ctx_after);
    assert_true(print_before == print_after && ctx_before == ctx_after);
    dataset_has("snapshot_063/galaxies", 5000);

    hid_t set = H5Dopen2(file, "snapshot_063/galaxies", H5P_DEFAULT), t = H5Dget_type(set);
    assert_int_equal(H5Tget_size(t), PACKED);
    H5Tclose(t);
    hid_t attribute = H5Aopen(set, "units", H5P_DEFAULT);
    t = H5Aget_type(attribute);
    assert_int_equal(H5Tget_nmembers(t), 2);
    char text[100];
    assert_true(H5Tget_size(t) <= sizeof text && H5Aread(attribute, t, text) >= 0);
    for (unsigned i = 0; i < 2; i++) {
        char *name = H5Tget_member_name(t, i);
        assert_string_equal(name, i == 0 ? "mass" : "position");
        assert_string_equal(text + H5Tget_member_offset(t, i), i == 0 ? "1e10 Msun/h" : "Mpc/h");
        H5free_memory(name);
    }
    H5Tclose(t);
    H5Aclose(attribute);
    H5Dclose(set);
}

/* Anything of fixed size is a record: the unit is a text then. */
static void plain_numbers_are_records_too(void **state) {
    (void)state;
    static const char *const unit[] = {"km/s"};
    sagemem_hdf5_desc d = desc_of("speeds");
    d.type = H5T_NATIVE_DOUBLE;
    d.file_type = H5T_IEEE_F32BE;
    d.units = unit;
    d.chunk_records = 7;
    sagemem_writer *w = writer_of(&d, 100, false);
    for (int i = 0; i < 1000; i++) {
        double v = 0.25 * i;
        ok(sagemem_write(w, &v, sizeof v));
    }
    ok(sagemem_writer_close(w));
    hid_t set = H5Dopen2(file, "speeds", H5P_DEFAULT), attribute = H5Aopen(set, "units", H5P_DEFAULT), t = H5Aget_type(attribute);
    char text[10];
    double got[1000];
    assert_true(H5Aread(attribute, t, text) >= 0 && H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, got) >= 0);
    assert_string_equal(text, "km/s");
    for (int i = 0; i < 1000; i++) assert_true(got[i] >= 0.25 * i && got[i] <= 0.25 * i);
    H5Tclose(t);
    H5Aclose(attribute);
    H5Dclose(set);
}

/* Whatever the writer's buffer and the dataset's chunks are, and wherever records are patched. */
static void one_model(size_t buffer, uint64_t chunk, int deflate, bool background, uint64_t luck) {
    sagemem_hdf5_desc d = desc_of("model");
    d.type = H5T_NATIVE_UINT8; /* records of 13 bytes, all of which count */
    hsize_t thirteen = 13, records;
    d.type = H5Tarray_create2(H5T_NATIVE_UINT8, 1, &thirteen);
    d.chunk_records = chunk;
    d.deflate = deflate;
    d.shuffle = deflate > 0;
    oracle o = {0};
    o.luck.state = luck;
    o.buffer = buffer;
    o.patches_all = true;
    sagemem_writer *w = writer_of(&d, buffer, background);
    for (int i = 0; i < (slow() ? 40 : 100); i++) one_step(&o, w);
    bool whole = o.size % 13 == 0;
    assert_int_equal(sagemem_writer_close(w), whole ? SAGEMEM_OK : SAGEMEM_E_ARGUMENT);
    if (!whole) {
        assert_non_null(strstr(sagemem_last_error()->message, "a record of 13"));
        sagemem_writer_abandon(w);
    }
    hid_t set = H5Dopen2(file, "model", H5P_DEFAULT), space = H5Dget_space(set);
    H5Sget_simple_extent_dims(space, &records, NULL);
    assert_int_equal(records, o.size / 13);
    char *got = (char *)malloc(o.size + 1);
    assert_true(H5Dread(set, d.type, H5S_ALL, H5S_ALL, H5P_DEFAULT, got) >= 0);
    assert_memory_equal(got, o.at, records * 13);
    free(got);
    free(o.at);
    H5Sclose(space);
    H5Dclose(set);
    H5Tclose(d.type);
    H5Ldelete(file, "model", H5P_DEFAULT);
}
static void all_writers_are_as_the_oracle_says(void **state) {
    (void)state;
    static const size_t buffers[] = {1, 13, 100, 1000};
    static const uint64_t chunks[] = {1, 10, 0};
    uint64_t life = seed;
    for (size_t b = 0; b < 4; b++)
        for (size_t c = 0; c < 3; c++)
            for (int how = 0; how < 3; how++, life++)
                one_model(buffers[b], chunks[c], how == 1 ? 1 + (int)(life % 9) : 0, how == 2, life);
}

/* -- Failures ------------------------------------------------------------------------------------------------- */

static sagemem_status a_life(void *ctx) {
    sagemem_hdf5_desc d = desc_of("group/life");
    d.heap = (sagemem_heap *)ctx;
    d.units = units;
    sagemem_sink sink;
    sagemem_status met = SAGEMEM_OK, status = sagemem_hdf5_sink(&d, &sink);
    if (status != SAGEMEM_OK) {
        check(!is_there("group") || H5Lexists(file, "group/life", H5P_DEFAULT) == 0);
        return status;
    }
    sagemem_writer_desc wd = {0};
    wd.sink = &sink;
    wd.initial_bytes = 300;
    wd.heap = (sagemem_heap *)ctx;
    wd.tag = TAG;
    sagemem_writer *w = sagemem_writer_open(&wd);
    if (w == NULL) {
        status = sagemem_last_error()->status;
        (void)sink.close_fn(sink.ctx);
    }
    for (uint64_t n = 0; w != NULL && n < 30; n++) {
        struct record r = nth(n);
        while ((status = sagemem_write(w, &r, sizeof r)) != SAGEMEM_OK) met = status;
        r = nth(n / 2);
        while ((status = sagemem_writer_patch(w, n / 2 * RECORD, &r, sizeof r)) != SAGEMEM_OK) met = status;
    }
    while (w != NULL && (status = sagemem_writer_flush(w)) != SAGEMEM_OK) met = status;
    if (w != NULL) dataset_has("group/life", 30);
    if (w != NULL && (status = sagemem_writer_close(w)) != SAGEMEM_OK) {
        met = status;
        check(strstr(sagemem_last_error()->message, "bringing records") != NULL);
        sagemem_writer_abandon(w);
    }
    sagemem_input source;
    if (w != NULL && met == SAGEMEM_OK) {
        met = sagemem_hdf5_source(&d, &source);
        sagemem_reader_desc rd = {0};
        rd.source = &source;
        rd.heap = (sagemem_heap *)ctx;
        sagemem_reader *reader = met == SAGEMEM_OK ? sagemem_reader_open(&rd) : NULL;
        if (met == SAGEMEM_OK && reader == NULL) {
            met = sagemem_last_error()->status;
            (void)source.close_fn(source.ctx);
        }
        for (uint64_t n = 0; reader != NULL && n < 30;) {
            struct record got = nth(n), r = nth(n);
            if (sagemem_read(reader, &got, sizeof got, NULL) == SAGEMEM_OK) n++;
            else met = sagemem_last_error()->status;
            check(got.id == r.id);
        }
        ok(sagemem_reader_close(reader));
    }
    check(H5Ldelete(file, "group", H5P_DEFAULT) >= 0);
    return met != SAGEMEM_OK ? met : status;
}
static void every_failure_changes_nothing(void **state) {
    (void)state;
    sagemem_heap *heap = sagemem_heap_create(NULL);
    uint64_t points = 0;
    assert_int_equal(sagemem_check_failures(a_life, heap, &points), SAGEMEM_OK);
    assert_true(points > 20);
    assert_int_equal(sagemem_heap_check(heap), 0);
    sagemem_tag_stats t;
    sagemem_tag_get_stats(heap, TAG, &t);
    assert_int_equal(t.used, 0);
    sagemem_heap_destroy(heap);
    assert_int_equal(faults, 0);
}

/* The file may not grow: HDF5 says so at the flush, nothing is lost, and after room was made the same calls work. */
static int meet_a_full_disk(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 50000;
    signal(SIGXFSZ, SIG_IGN); /* HDF5 writes as any program does */
    check(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    sagemem_hdf5_desc d = desc_of("full");
    d.chunk_records = 100;
    sagemem_writer *w = writer_of(&d, 4000, false);
    uint64_t n = 0;
    for (struct record r; r = nth(n), sagemem_write(w, &r, sizeof r) == SAGEMEM_OK; n++) check(n < 5000);
    check(sagemem_last_error()->status == SAGEMEM_E_IO && sagemem_last_error()->os_error == EFBIG);
    check(strstr(sagemem_last_error()->message, "full: writing records") != NULL);
    for (int i = 0; i < 3; i++) check(sagemem_writer_flush(w) == SAGEMEM_E_IO);
    check(sagemem_writer_accepted(w) == n * RECORD && sagemem_writer_written(w) < n * RECORD);
    hid_t set = H5Dopen2(file, "full", H5P_DEFAULT), space = H5Dget_space(set); /* as long as what was written */
    check((uint64_t)H5Sget_simple_extent_npoints(space) == sagemem_writer_written(w) / RECORD);
    H5Sclose(space);
    H5Dclose(set);
    limit.rlim_cur = before;
    check(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    write_records(w, n, 100);
    ok(sagemem_writer_close(w));
    dataset_has("full", n + 100);
    return 0;
}
static void after_room_was_made_the_dataset_is_complete(void **state) {
    (void)state;
    fflush(NULL);
    H5Fflush(file, H5F_SCOPE_LOCAL);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(CHILD_SECONDS);
        _exit(meet_a_full_disk());
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!on_valgrind()) assert_int_equal(status, 0);
}

/* -- Ends ----------------------------------------------------------------------------------------------------- */

static void scopes_and_heaps_end_it(void **state) {
    (void)state;
    sagemem_hdf5_desc d = desc_of("scoped");
    sagemem_sink sink;
    for (int with_writer = 0; with_writer < 2; with_writer++) {
        d.heap = sagemem_heap_create(NULL);
        ok(sagemem_scope_begin(d.heap, "forest", 1));
        if (with_writer == 1) {
            sagemem_writer *w = writer_of(&d, 300, false);
            write_records(w, 0, 10);
        } else {
            ok(sagemem_hdf5_sink(&d, &sink));
        }
        ok(sagemem_scope_end(d.heap));
        assert_int_equal(log_errors, with_writer); /* what was accepted and not written */
        assert_int_equal(H5Fget_obj_count(file, H5F_OBJ_ALL | H5F_OBJ_LOCAL), 1);
        dataset_has("scoped", with_writer == 1 ? 300 / RECORD : 0);
        sagemem_heap_destroy(d.heap);
        H5Ldelete(file, "scoped", H5P_DEFAULT);
    }
    sagemem_hdf5_info info;
    assert_int_equal(sagemem_hdf5_get_info(sink.ctx, &info), SAGEMEM_E_STALE);
    assert_int_equal(sagemem_hdf5_get_info(&info, &info), SAGEMEM_E_FOREIGN);
    assert_int_equal(sagemem_hdf5_get_info(NULL, &info), SAGEMEM_E_FOREIGN);
    assert_int_equal(sagemem_hdf5_get_info(sink.ctx, NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(faults, 3);
}

static void abandon_keeps_whole_records(void **state) {
    (void)state;
    sagemem_hdf5_desc d = desc_of("abandoned");
    sagemem_writer *w = writer_of(&d, 2 * RECORD + 5, false);
    write_records(w, 0, 4);
    ok(sagemem_write(w, "a part", 6));
    ok(sagemem_writer_flush(w));
    write_records(w, 9, 1);
    sagemem_writer_abandon(w);
    dataset_has("abandoned", 4);
}

/* -- Reading -------------------------------------------------------------------------------------------------- */

static sagemem_reader *reader_of(const sagemem_hdf5_desc *d, size_t buffer, bool ahead) {
    sagemem_input source;
    ok(sagemem_hdf5_source(d, &source));
    sagemem_hdf5_info info;
    ok(sagemem_hdf5_get_info(source.ctx, &info));
    assert_int_equal(info.records, 300);
    sagemem_reader_desc r = {0};
    r.source = &source;
    r.buffer_bytes = buffer;
    r.read_ahead = ahead;
    r.tag = TAG;
    sagemem_reader *reader = sagemem_reader_open(&r);
    check(reader != NULL);
    return reader;
}

static void records_are_read(void **state) {
    (void)state;
    sagemem_hdf5_desc d = desc_of("read");
    sagemem_writer *w = writer_of(&d, 0, false);
    write_records(w, 0, 300);
    ok(sagemem_writer_close(w));
    static const size_t buffers[] = {1, RECORD, 3 * RECORD + 7, 0};
    for (size_t b = 0; b < 4; b++)
        for (int ahead = 0; ahead < 2; ahead++) {
            sagemem_reader *reader = reader_of(&d, buffers[b], ahead != 0);
            struct record got, r;
            for (uint64_t n = 0; n < 300; n++) {
                r = nth(n);
                if (n % 3 == 0) {
                    const void *view = sagemem_read_view(reader, sizeof got);
                    check(view != NULL);
                    memcpy(&got, view, sizeof got);
                } else {
                    ok(sagemem_read(reader, &got, sizeof got, NULL));
                }
                check(got.id == r.id && got.kind == r.kind && got.snapshot == r.snapshot);
            }
            r = nth(177);
            ok(sagemem_read_at(reader, 177 * RECORD + offsetof(struct record, id), &got.id, sizeof got.id));
            assert_true(got.id == r.id);
            assert_int_equal(sagemem_read(reader, &got, 1, NULL), SAGEMEM_E_EMPTY);
            assert_int_equal(sagemem_reader_size(reader), 300 * RECORD);
            ok(sagemem_reader_close(reader));
        }
}

/* As in the file, or some members of it in another form. */
static void a_source_has_the_type_that_is_asked_for(void **state) {
    (void)state;
    sagemem_hdf5_desc d = desc_of("typed");
    sagemem_writer *w = writer_of(&d, 0, false);
    write_records(w, 0, 300);
    ok(sagemem_writer_close(w));
    d.type = 0;
    sagemem_input source;
    sagemem_hdf5_info info;
    ok(sagemem_hdf5_source(&d, &source));
    ok(sagemem_hdf5_get_info(source.ctx, &info));
    assert_int_equal(H5Tget_nmembers(info.type), 5);
    assert_true(info.record_bytes >= PACKED);
    ok(source.close_fn(source.ctx));
    struct some {
        float mass;
        int snapshot;
    };
    d.type = H5Tcreate(H5T_COMPOUND, sizeof(struct some));
    H5Tinsert(d.type, "snapshot", offsetof(struct some, snapshot), H5T_NATIVE_INT);
    H5Tinsert(d.type, "mass", offsetof(struct some, mass), H5T_NATIVE_FLOAT);
    sagemem_reader *reader = reader_of(&d, 0, false);
    for (uint64_t n = 0; n < 300; n++) {
        struct some got;
        struct record r = nth(n);
        ok(sagemem_read(reader, &got, sizeof got, NULL));
        assert_int_equal(got.snapshot, r.snapshot);
        assert_true((double)got.mass <= r.mass && (double)got.mass >= r.mass);
    }
    ok(sagemem_reader_close(reader));
    H5Tclose(d.type);
}

/* -- Attributes ----------------------------------------------------------------------------------------------- */

static void attributes_are_replaced(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        int64_t number = 41 + i, got = 0;
        ok(sagemem_hdf5_attribute(file, "number", H5T_NATIVE_INT64, &number));
        ok(sagemem_hdf5_attribute_text(file, "text", i == 0 ? "first" : "M\xE2\x98\x89/h"));
        hid_t attribute = H5Aopen(file, "number", H5P_DEFAULT);
        assert_true(H5Aread(attribute, H5T_NATIVE_INT64, &got) >= 0 && got == number);
        H5Aclose(attribute);
        attribute = H5Aopen(file, "text", H5P_DEFAULT);
        hid_t t = H5Aget_type(attribute);
        char *text = NULL;
        assert_true(H5Aread(attribute, t, &text) >= 0);
        assert_string_equal(text, i == 0 ? "first" : "M\xE2\x98\x89/h");
        H5free_memory(text);
        H5Tclose(t);
        H5Aclose(attribute);
    }
    int one = 1;
    assert_int_equal(sagemem_hdf5_attribute(0, "n", H5T_NATIVE_INT, &one), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_hdf5_attribute(file, NULL, H5T_NATIVE_INT, &one), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_hdf5_attribute(file, "", H5T_NATIVE_INT, &one), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_hdf5_attribute(file, "n", file, &one), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_hdf5_attribute(file, "n", H5T_NATIVE_INT, NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_hdf5_attribute(type, "n", H5T_NATIVE_INT, &one), SAGEMEM_E_IO); /* it is not in a file */
    assert_int_equal(sagemem_hdf5_attribute_text(file, "n", NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_hdf5_attribute_text(file, NULL, "x"), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_hdf5_attribute_text(-3, "n", "x"), SAGEMEM_E_ARGUMENT);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, with_file, without_file)
    const struct CMUnitTest tests[] = {
        TEST(a_bad_desc_makes_nothing),
        TEST(types_with_pointers_are_refused),
        TEST(what_is_there_is_refused_or_continued),
        TEST(records_arrive_with_their_units),
        TEST(plain_numbers_are_records_too),
        TEST(all_writers_are_as_the_oracle_says),
        TEST(every_failure_changes_nothing),
        TEST(after_room_was_made_the_dataset_is_complete),
        TEST(scopes_and_heaps_end_it),
        TEST(abandon_keeps_whole_records),
        TEST(records_are_read),
        TEST(a_source_has_the_type_that_is_asked_for),
        TEST(attributes_are_replaced),
    };
    H5open();
    return cmocka_run_group_tests(tests, begin, finish);
}
