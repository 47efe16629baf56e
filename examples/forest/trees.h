/* Merger trees, read from LHaloTree files. */
#ifndef TREES_H
#define TREES_H

#include <stdbool.h>
#include <stdint.h>

#include "halo.h"
#include "sagemem.h"

struct tree {
    int32_t index; /* within its file */
    int32_t halo_count;
    struct halo *halos;
};

/* A file's table of trees. Any thread may look at it while nobody changes it. */
struct tree_file {
    const char *path; /* the caller's */
    int32_t tree_count;
    int32_t *halo_counts; /* of each tree */
};

/* Where a tree is to be found. */
struct tree_place {
    const char *path;
    int32_t index, halo_count;
    uint64_t offset; /* of the first halo, bytes */
};

/* Reads the table into the heap and checks it against the file's length, before anything else is believed. On failure the
 * file is closed and the reason given. */
bool tree_file_open(struct tree_file *file, sagemem_heap *heap, const char *path, bool no_mapping);
void tree_file_close(struct tree_file *file);
struct tree_place tree_file_first(const struct tree_file *file);
struct tree_place tree_file_next(const struct tree_file *file, struct tree_place place); /* halo_count -1: there is none */

/* Reads trees, one thread's own. Zeroed, it has no file open. */
struct tree_reader {
    const char *path;
    sagemem_map *map; /* of a window that slides over the file */
    bool no_mapping;
};

/* Makes that file the one that is read, unless it is already: to be called where no scope is open. */
bool tree_reader_open(struct tree_reader *reader, const char *path);
void tree_reader_close(struct tree_reader *reader);

/* Copies a tree into the open scope of the heap and checks it: afterwards every link is in range and mutual, no list is
 * circular, and a descendant is always later than its progenitors, of snapshots 0 ... snapshot_count - 1. A damaged
 * tree is refused; file, tree, halo and what is wrong with it are the reason given. */
bool tree_read(struct tree_reader *reader, const struct tree_place *place, int32_t snapshot_count, sagemem_heap *heap,
               struct tree *tree);

#endif
