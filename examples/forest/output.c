/* Writes galaxy files: see output.h for what is in them. */
#define _POSIX_C_SOURCE 200809L /* for mkdir, whatever C standard the compiler is told to keep */
#include "output.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#ifdef _WIN32
#include <direct.h>
#define mkdir(path, mode) _mkdir(path)
#else
#include <sys/stat.h>
#endif

#include "forest.h"
#include "model.h"
#include "trees.h"

enum { BUFFER_BYTES = 1 << 16 };

static const uint64_t fnv_start = 0xcbf29ce484222325u;

static uint64_t fnv1a(uint64_t hash, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

/* "DIRECTORY/galaxies_063_z0.000" and what follows it; NULL: no memory. The snapshot is in the name because two of
 * them can have the same redshift to three decimals. */
static char *path_make(const char *directory, int32_t snapshot, double scale_factor, const char *suffix) {
    const char *format = "%s/galaxies_%03" PRId32 "_z%.3f%s";
    double redshift = 1 / scale_factor - 1;
    int length = snprintf(NULL, 0, format, directory, snapshot, redshift, suffix);
    size_t size = (size_t)length + 1;
    char *path = sagemem_alloc(NULL, size, TAG_OUTPUT);
    if (path) snprintf(path, size, format, directory, snapshot, redshift, suffix);
    return path;
}

static bool fail_to(const char *what, const char *path) { return fail("%s: cannot %s: %s", path, what, strerror(errno)); }

bool galaxy_directory_make(const char *path) {
    return mkdir(path, 0777) == 0 || errno == EEXIST || fail_to("make this directory", path);
}

static bool write_header(struct galaxy_file *file) {
    struct galaxy_file_header *header = &file->header;
    header->header_checksum = fnv1a(fnv_start, header, offsetof(struct galaxy_file_header, header_checksum));
    return fwrite(header, sizeof *header, 1, file->stream) == 1 || fail_to("write", file->temporary);
}

static bool open_stream(struct galaxy_file *file) {
    file->stream = fopen(file->temporary, "wb");
    if (!file->stream) {
        fail_to("create", file->temporary);
        sagemem_free(file->temporary); /* whatever is there is not ours to remove */
        file->temporary = NULL;
        return false;
    }
    setvbuf(file->stream, file->buffer, _IOFBF, BUFFER_BYTES); /* should it refuse, the stream's own does as well */
    return write_header(file);                                 /* of an empty file, to keep its place */
}

bool galaxy_file_open(struct galaxy_file *file, const char *directory, int32_t snapshot, const struct epoch *epoch) {
    *file = (struct galaxy_file){
        .path = path_make(directory, snapshot, epoch->scale_factor, ".bin"),
        .temporary = path_make(directory, snapshot, epoch->scale_factor, ".bin.part"),
        .buffer = sagemem_alloc(NULL, BUFFER_BYTES, TAG_OUTPUT),
        .header = {.byte_order = 0x01020304,
                   .version = 1,
                   .header_size = sizeof(struct galaxy_file_header),
                   .record_size = sizeof(struct galaxy_record),
                   .snapshot = snapshot,
                   .scale_factor = epoch->scale_factor,
                   .hubble_parameter = hubble_parameter,
                   .records_checksum = fnv_start},
    };
    memcpy(file->header.magic, "GALAXIES", sizeof file->header.magic);
    if (!file->path || !file->temporary || !file->buffer)
        fail("%s: output of snapshot %" PRId32 ": %s", directory, snapshot, sagemem_last_error()->message);
    else if (open_stream(file)) return true;
    galaxy_file_close(file);
    return false;
}

static bool write_galaxy(struct galaxy_file *file, const struct galaxy_record *record) {
    file->header.records_checksum = fnv1a(file->header.records_checksum, record, sizeof *record);
    file->header.galaxy_count++;
    file->stars += record->stars;
    return fwrite(record, sizeof *record, 1, file->stream) == 1 || fail_to("write", file->temporary);
}

static struct galaxy_record record_of(const struct galaxy *galaxy) {
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
    };
    memcpy(record.pos, galaxy->pos, sizeof record.pos);
    memcpy(record.vel, galaxy->vel, sizeof record.vel);
    return record;
}

bool galaxy_file_write(struct galaxy_file *file, int32_t tree_file, const struct tree *tree, const struct population *population) {
    file->header.tree_count++;
    for (int32_t halo = 0; halo < tree->halo_count; halo++) {
        if (tree->halos[halo].snapshot != file->header.snapshot) continue;
        const struct galaxy_range *range = &population->of_halo[halo];
        const struct galaxy_range *group = &population->of_halo[tree->halos[halo].first_in_group];
        for (size_t i = range->first; i < range->first + range->count; i++) {
            struct galaxy_record record = record_of(&population->galaxies[i]);
            record.file = tree_file;
            record.tree = tree->index;
            record.central = population->galaxies[group->first].number;
            if (!write_galaxy(file, &record)) return false;
        }
    }
    return true;
}

bool galaxy_file_finish(struct galaxy_file *file, int32_t file_count) {
    file->header.file_count = file_count;
    if (fseek(file->stream, 0, SEEK_SET) != 0) return fail_to("go back to the header of", file->temporary);
    if (!write_header(file)) return false;
    FILE *stream = file->stream;
    file->stream = NULL; /* closed even if that fails */
    return fclose(stream) == 0 || fail_to("write", file->temporary);
}

bool galaxy_file_commit(struct galaxy_file *file) {
    if (rename(file->temporary, file->path) != 0)
        return fail("%s: cannot be renamed to %s: %s", file->temporary, file->path, strerror(errno));
    sagemem_free(file->temporary);
    file->temporary = NULL;
    return true;
}

void galaxy_file_close(struct galaxy_file *file) {
    if (file->stream) fclose(file->stream);
    if (file->temporary) remove(file->temporary);
    sagemem_free(file->buffer);
    sagemem_free(file->temporary);
    sagemem_free(file->path);
    *file = (struct galaxy_file){0};
}
