/* Records appended to a dataset of HDF5: by a writer, and by HDF5's own packet tables. Only where HDF5 links, with its library of
 * tables (H5PT).
 *
 * Thread CPU time from the dataset's making to H5Fflush. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench.h"

#ifdef SAGEMEM_WITH_HDF5
#include <H5PTpublic.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { APPEND, MEMBERS = 29, BLOCK = 1000, SLOWLY = 20 };

typedef struct galaxy {
    double values[MEMBERS];
} galaxy; /* 232 bytes, as the records of examples/forest */

static void check(bool good, const char *what) {
    if (!good) bench_die(what, "HDF5 failed");
}

static hid_t galaxy_type(void) {
    hid_t type = H5Tcreate(H5T_COMPOUND, sizeof(galaxy));
    for (size_t i = 0; i < MEMBERS; i++) {
        char name[16];
        snprintf(name, sizeof name, "value%zu", i);
        check(H5Tinsert(type, name, i * sizeof(double), H5T_NATIVE_DOUBLE) >= 0, "H5Tinsert");
    }
    return type;
}

/* HDF5 wants a name, which goes as soon as the file is open. */
static hid_t make_file(void) {
    const char *set = getenv("BENCH_FILES");
    char path[4096];
    snprintf(path, sizeof path, "%s/bench-%ld.h5", set != NULL && *set != '\0' ? set : ".", (long)getpid());
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    check(file >= 0, path);
    unlink(path);
    return file;
}

static void by_writer(hid_t file, hid_t type, const galaxy *all, uint64_t count) {
    sagemem_hdf5_desc dataset = {0};
    dataset.location = file;
    dataset.name = "galaxies";
    dataset.type = type;
    dataset.chunk_records = BLOCK; /* as the table has them: the system's share is the same */
    dataset.heap = bench_heap;
    sagemem_sink sink;
    sagemem_writer_desc desc = {0};
    desc.sink = &sink;
    desc.heap = bench_heap;
    sagemem_writer *writer = sagemem_hdf5_sink(&dataset, &sink) == SAGEMEM_OK ? sagemem_writer_open(&desc) : NULL;
    if (writer == NULL) bench_die("no writer", sagemem_last_error()->message);
    for (uint64_t i = 0; i < count; i++) {
        if (sagemem_write(writer, &all[i % BLOCK], sizeof *all) != SAGEMEM_OK) bench_die("write", sagemem_last_error()->message);
    }
    if (sagemem_writer_close(writer) != SAGEMEM_OK) bench_die("close", sagemem_last_error()->message);
}

/* Records come one by one: what appends them in blocks has to collect them. */
static void by_table(hid_t file, hid_t type, const galaxy *all, uint64_t count, uint64_t block) {
    static galaxy collected[BLOCK];
    hid_t table = H5PTcreate(file, "galaxies", type, BLOCK, H5P_DEFAULT);
    check(table >= 0, "H5PTcreate");
    uint64_t used = 0;
    for (uint64_t i = 0; i < count; i++) {
        collected[used++] = all[i % BLOCK];
        if (used < block && i + 1 < count) continue;
        check(H5PTappend(table, used, collected) >= 0, "H5PTappend");
        used = 0;
    }
    check(H5PTclose(table) >= 0, "H5PTclose");
}
static void by_blocks(hid_t file, hid_t type, const galaxy *all, uint64_t count) { by_table(file, type, all, count, BLOCK); }
static void one_by_one(hid_t file, hid_t type, const galaxy *all, uint64_t count) { by_table(file, type, all, count, 1); }

static double append(uint64_t count, void (*way)(hid_t file, hid_t type, const galaxy *all, uint64_t count)) {
    galaxy *all = (galaxy *)bench_scratch(BLOCK * sizeof *all);
    for (size_t i = 0; i < BLOCK; i++) all[i].values[0] = (double)i;
    hid_t file = make_file(), type = galaxy_type();
    double start = bench_cpu_ns();
    way(file, type, all, count);
    check(H5Fflush(file, H5F_SCOPE_LOCAL) >= 0, "H5Fflush");
    double ns = bench_cpu_ns() - start;
    H5Tclose(type);
    H5Fclose(file);
    bench_scratch_free(all, BLOCK * sizeof *all);
    return ns / (double)count;
}

static uint64_t records(void) { return bench_file_size(1000000000, 100000000) / sizeof(galaxy); }
static double append_sagemem(const bench_row *row) { return (void)row, append(records(), by_writer); }
static double append_blocks(const bench_row *row) { return (void)row, append(records(), by_blocks); }
static double append_one(const bench_row *row) { return (void)row, append(records() / SLOWLY, one_by_one); }

static bench_work *const works_sagemem[BENCH_WORKS] = {append_sagemem};
static bench_work *const works_blocks[BENCH_WORKS] = {append_blocks};
static bench_work *const works_one[BENCH_WORKS] = {append_one};
static const bench_side sides[] = {
    {"sagemem", 0, NULL, works_sagemem},
    {"H5PTappend of 1,000", 0, NULL, works_blocks},
    {"H5PTappend of 1", 0, NULL, works_one},
};
static const bench_row rows[] = {
    {"hdf5",
     "records of 232 B to a dataset of HDF5",
     "ns of thread CPU",
     APPEND,
     NULL,
     {{FASTER, 1.5, "H5PTappend of 1,000"}, {FASTER, 20, "H5PTappend of 1"}},
     ANY_POLICY},
};

static void tell_version(void) {
    static char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE);
    bench_peer_tell("HDF5", version);
}

const bench_group bench_hdf5 = {rows, sizeof rows / sizeof *rows, sides, sizeof sides / sizeof *sides, tell_version};

#else

static void tell_missing(void) { bench_peer_tell("HDF5", NULL); }

const bench_group bench_hdf5 = {NULL, 0, NULL, 0, tell_missing};

#endif
