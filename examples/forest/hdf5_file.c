/* Galaxy files in HDF5: see hdf5_file.h. */
#define _POSIX_C_SOURCE 200809L /* for unlink, whatever C standard the compiler is told to keep */
#include "hdf5_file.h"

#include "forest.h"
#include "output.h"

#ifndef FOREST_HDF5

bool hdf5_file_open(struct hdf5_file *file, const char *path, sagemem_heap *heap, sagemem_sink *sink) {
    (void)file, (void)heap, (void)sink;
    return fail("%s: this program was built without HDF5", path);
}
bool hdf5_file_finish(struct hdf5_file *file, const struct galaxy_file_header *header) { return !file && !header; }
bool hdf5_file_commit(struct hdf5_file *file, const char *path) { return !file && !path; }
void hdf5_file_drop(struct hdf5_file *file) { (void)file; }

#else

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum number { INT32, INT64, FLOAT, THREE_FLOATS, DOUBLE };
static const struct member {
    const char *name;
    size_t offset;
    enum number number;
    const char *unit;
} members[] = {
#define MEMBER(name, number, unit)                                                                                                 \
    { #name, offsetof(struct galaxy_record, name), number, unit }
    MEMBER(file, INT32, NULL),
    MEMBER(tree, INT32, NULL),
    MEMBER(number, INT32, NULL),
    MEMBER(central, INT32, NULL),
    MEMBER(type, INT32, NULL),
    MEMBER(halo, INT32, NULL),
    MEMBER(len, INT32, "particles"),
    MEMBER(v_max, FLOAT, "km/s"),
    MEMBER(pos, THREE_FLOATS, "Mpc/h, comoving"),
    MEMBER(vel, THREE_FLOATS, "km/s"),
    MEMBER(most_bound_id, INT64, NULL),
    MEMBER(m_vir, DOUBLE, "1e10 Msun/h"),
    MEMBER(r_vir, DOUBLE, "Mpc/h"),
    MEMBER(cold, DOUBLE, "1e10 Msun/h"),
    MEMBER(stars, DOUBLE, "1e10 Msun/h"),
    MEMBER(bulge, DOUBLE, "1e10 Msun/h"),
    MEMBER(hot, DOUBLE, "1e10 Msun/h"),
    MEMBER(ejected, DOUBLE, "1e10 Msun/h"),
    MEMBER(black_hole, DOUBLE, "1e10 Msun/h"),
    MEMBER(star_formation, DOUBLE, "Msun/yr"),
    MEMBER(mean_age, DOUBLE, "Gyr"),
    MEMBER(infall_stars, DOUBLE, "1e10 Msun/h"),
    MEMBER(infall_mean_age, DOUBLE, "Gyr"),
#undef MEMBER
};
enum { MEMBER_COUNT = sizeof members / sizeof members[0] };

static hid_t type_of(enum number number) {
    hsize_t three = 3;
    switch (number) {
    case INT32: return H5Tcopy(H5T_NATIVE_INT32);
    case INT64: return H5Tcopy(H5T_NATIVE_INT64);
    case FLOAT: return H5Tcopy(H5T_NATIVE_FLOAT);
    case THREE_FLOATS: return H5Tarray_create2(H5T_NATIVE_FLOAT, 1, &three);
    case DOUBLE: return H5Tcopy(H5T_NATIVE_DOUBLE);
    }
    return -1;
}

static hid_t record_type(void) {
    hid_t record = H5Tcreate(H5T_COMPOUND, sizeof(struct galaxy_record));
    for (int i = 0; i < MEMBER_COUNT; i++) {
        hid_t type = type_of(members[i].number);
        H5Tinsert(record, members[i].name, members[i].offset, type);
        H5Tclose(type);
    }
    return record;
}

/* The dataset's records are written through the sink. */
static bool sink_open(const struct hdf5_file *file, sagemem_heap *heap, sagemem_sink *sink) {
    const char *units[MEMBER_COUNT];
    for (int i = 0; i < MEMBER_COUNT; i++) units[i] = members[i].unit;
    hid_t type = record_type();
    bool good = sagemem_hdf5_sink(
                    &(sagemem_hdf5_desc){
                        .location = file->id, .name = "galaxies", .type = type, .units = units, .heap = heap, .tag = TAG_OUTPUT},
                    sink) == SAGEMEM_OK;
    H5Tclose(type);
    return good || fail("%s: %s", file->beside, sagemem_last_error()->message);
}

bool hdf5_file_open(struct hdf5_file *file, const char *path, sagemem_heap *heap, sagemem_sink *sink) {
    size_t size = strlen(path) + sizeof ".part";
    file->beside = sagemem_alloc(heap, size, TAG_OUTPUT);
    if (!file->beside) return fail("%s: %s", path, sagemem_last_error()->message);
    snprintf(file->beside, size, "%s.part", path);
    H5E_BEGIN_TRY { /* its own messages say too much, and go to stderr */
        file->id = H5Fcreate(file->beside, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    }
    H5E_END_TRY
    if (file->id > 0) return sink_open(file, heap, sink);
    file->id = 0;
    return fail("%s: cannot create: %s", path, strerror(errno));
}

bool hdf5_file_finish(struct hdf5_file *file, const struct galaxy_file_header *header) {
    const struct {
        const char *name;
        hid_t type;
        const void *value;
    } attributes[] = {
        {"snapshot", H5T_NATIVE_INT32, &header->snapshot},
        {"file_count", H5T_NATIVE_INT32, &header->file_count},
        {"tree_count", H5T_NATIVE_UINT64, &header->tree_count},
        {"galaxy_count", H5T_NATIVE_UINT64, &header->galaxy_count},
        {"scale_factor", H5T_NATIVE_DOUBLE, &header->scale_factor},
        {"hubble_parameter", H5T_NATIVE_DOUBLE, &header->hubble_parameter},
        {"records_checksum", H5T_NATIVE_UINT64, &header->records_checksum},
    };
    bool good = true;
    for (size_t i = 0; good && i < sizeof attributes / sizeof attributes[0]; i++)
        good = sagemem_hdf5_attribute(file->id, attributes[i].name, attributes[i].type, attributes[i].value) == SAGEMEM_OK;
    if (!good) return fail("%s: %s", file->beside, sagemem_last_error()->message);
    H5E_BEGIN_TRY { good = H5Fclose(file->id) >= 0; }
    H5E_END_TRY
    file->id = 0;
    return good || fail("%s: cannot complete: %s", file->beside, strerror(errno));
}

bool hdf5_file_commit(struct hdf5_file *file, const char *path) {
    if (rename(file->beside, path) != 0) return fail("%s: cannot complete: %s", path, strerror(errno));
    sagemem_free(file->beside);
    file->beside = NULL;
    return true;
}

void hdf5_file_drop(struct hdf5_file *file) {
    H5E_BEGIN_TRY {
        if (file->id > 0) H5Fclose(file->id);
    }
    H5E_END_TRY
    if (file->beside) unlink(file->beside);
    sagemem_free(file->beside);
    *file = (struct hdf5_file){0};
}

#endif
