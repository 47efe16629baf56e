/* What LHaloTree files consist of, those of the Millennium runs (Springel et al. 2005, Nature 435, 629): int32 number of
 * trees, int32 of halos, int32 of halos for each tree, then the halos, tree by tree. */
#ifndef HALO_H
#define HALO_H

#include <stdint.h>

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

#endif
