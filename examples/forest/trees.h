/* Merger trees: the LHaloTree files of the Millennium runs (Springel et al. 2005, Nature 435, 629). */
#ifndef TREES_H
#define TREES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* One halo as it lies in the file. Links are indices within the tree, -1 for none. */
struct halo {
    int32_t descendant;
    int32_t first_progenitor; /* the main one; the others follow by next_progenitor */
    int32_t next_progenitor;
    int32_t first_in_group; /* the central halo of the friends-of-friends group, possibly itself */
    int32_t next_in_group;
    int32_t len;                       /* particles */
    float m_mean200, m_vir, m_top_hat; /* 1e10 Msun/h; 0 for what is not the first of its group */
    float pos[3];                      /* Mpc/h, comoving */
    float vel[3];                      /* km/s */
    float vel_disp, v_max;             /* km/s */
    float spin[3];                     /* specific angular momentum, Mpc/h km/s */
    int64_t most_bound_id;
    int32_t snapshot, file_number, subhalo_index;
    float sub_half_mass;
};
_Static_assert(sizeof(struct halo) == 104, "struct halo is the record of the file");

struct tree {
    int32_t index; /* within its file */
    int32_t halo_count;
    struct halo *halos;
};

struct tree_file {
    const char *path; /* the caller's */
    FILE *stream;
    int32_t tree_count;
    int32_t trees_read;
    int32_t *halo_counts; /* of each tree */
};

/* Opens a file and checks its table of trees against its length. On failure it is closed and the reason printed. */
bool tree_file_open(struct tree_file *file, const char *path);

/* Reads the next tree into the open scope and checks it: afterwards every link is in range and mutual, no list is
 * circular, and a descendant is always later than its progenitors, of snapshots 0 ... snapshot_count - 1. A damaged
 * tree is refused; file, tree, halo and what is wrong with it are printed. */
bool tree_file_read(struct tree_file *file, int32_t snapshot_count, struct tree *tree);

void tree_file_close(struct tree_file *file);

#endif
