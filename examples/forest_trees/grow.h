/* Grows merger trees: who fell into whom, and when. */
#ifndef GROW_H
#define GROW_H

#include <stdbool.h>
#include <stdint.h>

#include "halo.h"
#include "random.h"
#include "universe.h"

/* One halo through time. Until it falls into another group it is the central of its own; then it is a satellite for
 * some time; in the end it is one with the halo it fell into. Its halos lie one behind the other, the last one first. */
struct branch {
    int32_t parent; /* what it falls into, -1 for the root */
    int32_t first;  /* its last halo */
    int32_t infall; /* the snapshot at which it is a satellite, or gone, for the first time; SNAPSHOTS: never */
    int32_t end;    /* the one at which it is gone; SNAPSHOTS: never */
    int64_t orbit;  /* time from infall until friction brings it to the centre */
};

/* The index of the halo of a branch at a snapshot at which it is there. */
int32_t halo_at(const struct branch *branch, int32_t snapshot);

/* What is to become a branch: a group of this mass at the snapshot before its infall. */
struct fragment {
    int32_t parent, infall;
    int64_t mass;
};

/* One tree at a time; the room it takes is used again for the next. */
struct grove {
    const struct universe *universe;
    struct random random;
    int64_t number; /* of the tree */
    int32_t file_number;
    struct halo *halos;
    struct branch *branches;
    struct fragment *fragments; /* still to be grown */
    int32_t halo_count, branch_count, fragment_count;
    int32_t halo_capacity, branch_capacity, fragment_capacity;
};

/* Grows the tree of a group of `mass` particles; its structure and the number of particles in each halo. False: there
 * is no memory for it, or it has more halos than can be counted. */
bool grow(struct grove *grove, int64_t mass);

/* Gives the halos of the tree what follows from that: masses, places, velocities, spins. `side` is that of the periodic
 * box in whole Mpc/h, less than 2048. */
void dress(struct grove *grove, int64_t side);

void grove_free(struct grove *grove);

#endif
