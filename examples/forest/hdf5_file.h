/* Galaxy files in HDF5, for those who read them with h5py, h5dump or IDL: the records are the dataset "galaxies", one compound
 * each with the members of struct galaxy_record and their units; what the header of a binary file says are attributes of the
 * file. The numbers are the same.
 *
 * Only where the program is compiled with -DFOREST_HDF5 (and -DSAGEMEM_WITH_HDF5=1); elsewhere opening fails and says so. */
#ifndef HDF5_FILE_H
#define HDF5_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "sagemem.h"

struct galaxy_file_header;

/* The file is made beside the one that it is to replace, as HDF5 has no atomic files. */
struct hdf5_file {
    int64_t id;   /* of HDF5; 0: it is not open */
    char *beside; /* name of the new file, until it is in its place */
};

/* All of these give the reason when they fail; what was opened is to be dropped, after its writer. */
bool hdf5_file_open(struct hdf5_file *file, const char *path, sagemem_heap *heap, sagemem_sink *sink);
bool hdf5_file_finish(struct hdf5_file *file, const struct galaxy_file_header *header); /* all is with the system */
bool hdf5_file_commit(struct hdf5_file *file, const char *path);
void hdf5_file_drop(struct hdf5_file *file); /* and what is not in its place yet */

#endif
