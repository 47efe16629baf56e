/* Galaxy files: one for each output snapshot, the galaxies of all trees in the order in which the trees come.
 *
 * A file is a struct galaxy_file_header and then `galaxy_count` records, struct galaxy_record, all little-endian, as
 * they stand here, without padding; those of a tree in the order in which it was built, depth first. Both checksums are
 * FNV-1a, 64 bits (Fowler, Noll & Vo): that of the records over all bytes behind the header, the header's over all bytes
 * of it that come before. Nothing in a file depends on when, where or how it was made: the same trees give the same
 * bytes. The same galaxies in HDF5: hdf5_file.h. */
#ifndef OUTPUT_H
#define OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "hdf5_file.h"
#include "list.h"
#include "sagemem.h"

struct epoch;
struct galaxy;
struct model;

struct galaxy_file_header {
    char magic[8];        /* "GALAXIES" */
    uint32_t byte_order;  /* 0x01020304 as the program saw it */
    uint32_t version;     /* 2 */
    uint32_t header_size; /* of this struct: where the records begin */
    uint32_t record_size;
    int32_t snapshot;
    int32_t file_count;  /* tree files */
    uint64_t tree_count; /* in all of them */
    uint64_t galaxy_count;
    double scale_factor;
    double hubble_parameter; /* h */
    uint64_t records_checksum;
    uint64_t header_checksum;
};
_Static_assert(sizeof(struct galaxy_file_header) == 80, "the header has no padding");

struct galaxy_record {
    int32_t file, tree;      /* which tree: number of the file on the command line, of the tree in the file */
    int32_t number, central; /* which galaxy of the tree, and which one is the central of its group */
    int32_t type;            /* 0 central, 1 satellite, 2 orphan */
    int32_t halo;            /* in the tree: its own or, an orphan's, the one that it orbits in */
    int32_t len;             /* particles of its own halo, now or last */
    float v_max;             /* km/s */
    float pos[3], vel[3];    /* Mpc/h, comoving, and km/s */
    int64_t most_bound_id;
    double m_vir, r_vir;       /* 1e10 Msun/h and Mpc/h, when it last was a central */
    double cold, stars, bulge; /* 1e10 Msun/h, as all masses; the bulge is a part of the stars */
    double hot, ejected, black_hole;
    double star_formation;                /* Msun/yr */
    double mean_age;                      /* of its stars, by mass, Gyr; 0: it has none */
    double infall_stars, infall_mean_age; /* both when it last was a central */
};
_Static_assert(sizeof(struct galaxy_record) == 160, "the record has no padding");

/* -- What a forest has to write, until it is its turn --------------------------------------------------------- */

enum { MAX_OUTPUTS = 64, OUTBOX_BATCH = 128 };

struct outgoing {
    int32_t output; /* number of the file */
    struct galaxy_record record;
};

struct outbox {
    struct list outgoing;     /* struct outgoing */
    const int32_t *output_of; /* each snapshot's; -1: none */
    int32_t file, tree;
    bool (*batch_fn)(struct outbox *outbox, void *ctx); /* called with OUTBOX_BATCH records and more: may write and clear them */
    void *ctx;
};

/* Takes a copy of the galaxy if its snapshot is to be written. False: no memory, or batch_fn failed. */
bool outbox_add(struct outbox *outbox, const struct model *model, const struct galaxy *galaxy, int32_t central);

/* -- A file being written --------------------------------------------------------------------------------------- */

enum galaxy_format { FORMAT_BINARY, FORMAT_HDF5 };

/* The old file, if there is one, stays as it is until close has put the new one in its place. */
struct galaxy_file {
    char *path;
    sagemem_writer *writer;
    double stars; /* of all records */
    struct galaxy_file_header header;
    enum galaxy_format format;
    struct hdf5_file hdf5;
};

/* Makes the directory for the files, unless it is there. Its parent must be. */
bool galaxy_directory_make(const char *path);

/* All of these give the reason when they fail. What was opened is to be committed or abandoned. The heap is shared: any
 * thread may write, one at a time. */
bool galaxy_file_open(struct galaxy_file *file, sagemem_heap *shared, const char *directory, int32_t snapshot,
                      const struct epoch *epoch, enum galaxy_format format);
bool galaxy_file_write(struct galaxy_file *file, const struct galaxy_record *record);
bool galaxy_file_finish(struct galaxy_file *file, int32_t file_count); /* completes the header; all is with the system */
bool galaxy_file_commit(struct galaxy_file *file);                     /* the file takes its name */
void galaxy_file_close(struct galaxy_file *file);                      /* abandons it unless it was committed */

#endif
