/* What trees grow in: tables of times and masses, and the laws that random draws follow.
 *
 * The tables are computed once, in floating point, and rounded to integers with many guard digits to spare; everything
 * after that is integer arithmetic. So one seed gives one forest, bit for bit, whatever the machine, the compiler or
 * the mathematics library. Units:
 *
 *     mass      particles of the Millennium run, 8.6e8 Msun/h
 *     length    2^-20 Mpc/h, about 1 pc/h
 *     velocity  2^-6 km/s
 *     time      2^-20 (Mpc/h)/(km/s), about 0.9 Myr/h
 *     fraction  2^-32, unless another one is named */
#ifndef UNIVERSE_H
#define UNIVERSE_H

#include <stdint.h>

#include "random.h"

enum {
    SNAPSHOTS = 64,
    LAST_SNAPSHOT = SNAPSHOTS - 1,
    LEAST_MASS = 20,       /* of a halo, as in the Millennium run; an edge of a cell */
    MASS_BITS = 28,        /* masses are below 2^28 particles */
    CELLS = 8 * MASS_BITS, /* of mass: each octave is divided into 8 of equal width */
    LEAST_SIDE = 16,       /* of a box: there must be room for a cluster */
    MILLION = 1000000
};

/* Masses from the lower edge of cell `first` to the upper edge of cell `first + count - 1`. */
struct distribution {
    int first, count;
    uint32_t cumulative[CELLS]; /* the fraction up to the end of each cell */
};

struct epoch {
    int64_t scale_factor; /* millionths */
    int64_t age, step;    /* since the big bang; since the snapshot before */
    int64_t hubble;       /* expansion rate, 2^-10 km/s/(Mpc/h) */
    int64_t crossing;     /* time to cross a virial radius at the virial velocity */
    int64_t lambda;       /* share of the cosmological constant in the density, 2^-10 */
    uint64_t barrier;     /* by how much the barrier for collapse is lower than at the snapshot before, 2^-24 */
};

/* How halos lose mass when time runs backwards, for each unit by which the barrier rises. */
struct splitting {
    uint64_t rate;   /* number of fragments that are halos, 2^-16 */
    uint64_t smooth; /* the fraction that goes in smaller ones, 2^-24 */
    struct distribution fragments;
};

struct universe {
    struct epoch epochs[SNAPSHOTS];
    struct splitting splitting[CELLS]; /* of halos in each cell of mass */
    double abundance[CELLS];           /* halos of each cell at the end, in (Mpc/h)^-3 */
};

void universe_make(struct universe *universe);

/* 8 times the binary logarithm of a mass, rounded down and linear within an octave. Needs a mass of 8 at least. */
int cell_of(int64_t mass);
int64_t cell_edge(int cell); /* its least mass */

/* The masses of groups at the end: the least such that trees have about `halos` halos on average. */
void universe_roots(const struct universe *universe, int64_t halos, struct distribution *roots);

/* The side, in whole Mpc/h, of a box that has so many groups of these masses. */
int64_t universe_side(const struct universe *universe, const struct distribution *roots, int64_t trees);

/* The mass of a group whose tree has about so many halos. */
int64_t universe_mass_for(int64_t halos);

int64_t distribution_draw(const struct distribution *distribution, struct random *random);

/* Rounded down. */
int64_t square_root(int64_t x);

int64_t virial_velocity(const struct epoch *epoch, int64_t mass);

#endif
