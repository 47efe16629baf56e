/* Writes galaxy files: see output.h for what is in them. */
#define _POSIX_C_SOURCE 200809L /* for mkdir, whatever C standard the compiler is told to keep */
#include "output.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "forest.h"
#include "model.h"

static const uint64_t fnv_start = 0xcbf29ce484222325u;

static uint64_t fnv1a(uint64_t hash, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

/* -- The outbox ------------------------------------------------------------------------------------------------ */

static double mean_age(const struct model *model, const struct galaxy *galaxy) {
    return gyr_by_time * galaxy_mean_age(galaxy, model->history_bin, model->epochs[galaxy->snapshot].age);
}

static struct galaxy_record record_of(const struct model *model, const struct galaxy *galaxy) {
    const struct galaxy *infall = galaxy->at_infall;
    struct galaxy_record record = {
        .number = galaxy->number,
        .type = galaxy->type,
        .halo = galaxy->halo,
        .len = galaxy->len,
        .v_max = galaxy->v_max,
        .most_bound_id = galaxy->most_bound_id,
        .m_vir = galaxy->m_vir,
        .r_vir = galaxy->r_vir,
        .cold = galaxy->cold,
        .stars = galaxy->stars,
        .bulge = galaxy->bulge,
        .hot = galaxy->hot,
        .ejected = galaxy->ejected,
        .black_hole = galaxy->black_hole,
        .star_formation = galaxy->star_formation * msun_per_year_by_rate,
        .mean_age = mean_age(model, galaxy),
        .infall_stars = infall ? infall->stars : galaxy->stars,
    };
    record.infall_mean_age = infall ? mean_age(model, infall) : record.mean_age;
    memcpy(record.pos, galaxy->pos, sizeof record.pos);
    memcpy(record.vel, galaxy->vel, sizeof record.vel);
    return record;
}

bool outbox_add(struct outbox *outbox, const struct model *model, const struct galaxy *galaxy, int32_t central) {
    int32_t output = outbox->output_of[galaxy->snapshot];
    if (output < 0) return true;
    struct outgoing *outgoing = list_add(&outbox->outgoing);
    if (!outgoing) return false;
    outgoing->output = output;
    outgoing->record = record_of(model, galaxy);
    outgoing->record.file = outbox->file;
    outgoing->record.tree = outbox->tree;
    outgoing->record.central = central;
    return outbox->outgoing.array.count < OUTBOX_BATCH || outbox->batch_fn(outbox, outbox->ctx);
}

/* -- The files --------------------------------------------------------------------------------------------------- */

bool galaxy_directory_make(const char *path) {
    return mkdir(path, 0777) == 0 || errno == EEXIST || fail("%s: cannot make this directory: %s", path, strerror(errno));
}

/* "DIRECTORY/galaxies_063_z0.000.bin", or .h5; NULL: no memory. The snapshot is in the name because two of them can have the
 * same redshift to three decimals. */
static char *path_make(sagemem_heap *heap, const char *directory, int32_t snapshot, double scale_factor, const char *suffix) {
    const char *format = "%s/galaxies_%03" PRId32 "_z%.3f.%s";
    double redshift = 1 / scale_factor - 1;
    int length = snprintf(NULL, 0, format, directory, snapshot, redshift, suffix);
    size_t size = (size_t)length + 1;
    char *path = sagemem_alloc(heap, size, TAG_OUTPUT);
    if (path) snprintf(path, size, format, directory, snapshot, redshift, suffix);
    return path;
}

static bool fail_to(const char *what, const struct galaxy_file *file) {
    return fail("%s: cannot %s: %s", file->path, what, sagemem_last_error()->message);
}

bool galaxy_file_open(struct galaxy_file *file, sagemem_heap *shared, const char *directory, int32_t snapshot,
                      const struct epoch *epoch, enum galaxy_format format) {
    bool binary = format == FORMAT_BINARY;
    *file = (struct galaxy_file){
        .format = format,
        .path = path_make(shared, directory, snapshot, epoch->scale_factor, binary ? "bin" : "h5"),
        .header = {.byte_order = 0x01020304,
                   .version = 2,
                   .header_size = sizeof(struct galaxy_file_header),
                   .record_size = sizeof(struct galaxy_record),
                   .snapshot = snapshot,
                   .scale_factor = epoch->scale_factor,
                   .hubble_parameter = hubble_parameter,
                   .records_checksum = fnv_start},
    };
    memcpy(file->header.magic, "GALAXIES", sizeof file->header.magic);
    if (!file->path) return fail("%s: output of snapshot %" PRId32 ": %s", directory, snapshot, sagemem_last_error()->message);
    sagemem_sink sink;
    if (!binary && !hdf5_file_open(&file->hdf5, file->path, shared, &sink)) return false;
    file->writer = sagemem_writer_open(&(sagemem_writer_desc){.path = binary ? file->path : NULL,
                                                              .sink = binary ? NULL : &sink,
                                                              .atomic = binary,
                                                              .adaptive = true,
                                                              .initial_bytes = 1 << 16,
                                                              .max_bytes = 1 << 20,
                                                              .heap = shared,
                                                              .tag = TAG_OUTPUT});
    if (!file->writer && !binary) sink.close_fn(sink.ctx);
    if (!file->writer) return fail_to("create", file);
    /* The header keeps its place; what it says is known at the end. */
    return !binary || sagemem_write(file->writer, &file->header, sizeof file->header) == SAGEMEM_OK || fail_to("write", file);
}

bool galaxy_file_write(struct galaxy_file *file, const struct galaxy_record *record) {
    file->header.records_checksum = fnv1a(file->header.records_checksum, record, sizeof *record);
    file->header.galaxy_count++;
    file->stars += record->stars;
    return sagemem_write(file->writer, record, sizeof *record) == SAGEMEM_OK || fail_to("write", file);
}

static bool writer_close(struct galaxy_file *file) {
    if (sagemem_writer_close(file->writer) != SAGEMEM_OK) return fail_to("complete", file);
    file->writer = NULL;
    return true;
}

bool galaxy_file_finish(struct galaxy_file *file, int32_t file_count) {
    struct galaxy_file_header *header = &file->header;
    header->file_count = file_count;
    if (file->format == FORMAT_HDF5) return writer_close(file) && hdf5_file_finish(&file->hdf5, header);
    header->header_checksum = fnv1a(fnv_start, header, offsetof(struct galaxy_file_header, header_checksum));
    return (sagemem_writer_patch(file->writer, 0, header, sizeof *header) == SAGEMEM_OK &&
            sagemem_writer_flush(file->writer) == SAGEMEM_OK) ||
           fail_to("write", file);
}

bool galaxy_file_commit(struct galaxy_file *file) {
    return file->format == FORMAT_HDF5 ? hdf5_file_commit(&file->hdf5, file->path) : writer_close(file);
}

void galaxy_file_close(struct galaxy_file *file) {
    sagemem_writer_abandon(file->writer);
    hdf5_file_drop(&file->hdf5);
    sagemem_free(file->path);
    *file = (struct galaxy_file){0};
}
