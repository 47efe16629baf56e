/* What happens within galaxies and between two of them. Nothing here knows of trees.
 *
 * Masses are in 1e10 Msun/h, lengths in Mpc/h, physical unless they say comoving, velocities in km/s, and so times
 * in (Mpc/h)/(km/s), some 978 Gyr/h. `time` is always how long it goes on. */
#ifndef PHYSICS_H
#define PHYSICS_H

#include <stdint.h>

enum galaxy_type {
    GALAXY_CENTRAL,   /* of its group */
    GALAXY_SATELLITE, /* in a halo of its own within the group */
    GALAXY_ORPHAN     /* its halo has dissolved in another; it spirals in until it merges */
};

/* The stars of a galaxy by the time at which they formed: what it has beside its record. They add up to its stars. */
enum { HISTORY_BINS = 20 };
struct history {
    double formed[HISTORY_BINS]; /* equal shares of the time from the big bang to the last snapshot */
};

struct galaxy {
    int32_t number;   /* within the tree, in the order of birth */
    int32_t halo;     /* index within the tree: the halo it is in, an orphan's the one it orbits in */
    int32_t type;     /* enum galaxy_type */
    int32_t snapshot; /* of all that stands here */
    int32_t len;      /* particles its own halo has, or had last */
    int64_t most_bound_id;
    float pos[3], vel[3], v_max;                  /* of its own halo, now or last; comoving */
    double m_vir, r_vir, v_vir;                   /* of its own halo when it last was a central's */
    double disk_radius;                           /* exponential scale */
    double cold, stars, hot, ejected, black_hole; /* all its baryons */
    double bulge;                                 /* a part of the stars */
    double star_formation;                        /* rate since the snapshot before, 1e10 Msun/h per unit of time */
    double merge_time;                            /* an orphan's: until it merges */
    double due;                                   /* ... in steps from the snapshot before; INFINITY: not before the next */
    struct history *history;                      /* its own: see galaxies.h */
    struct galaxy *at_infall;                     /* a copy of what it was when it last was a central; NULL: it is one */
    struct galaxy *next;                          /* in the same halo */
};

struct epoch {
    double scale_factor;
    double age;    /* since the big bang */
    double hubble; /* expansion rate, km/s/(Mpc/h) */
};

extern const double hubble_parameter;      /* h */
extern const double major_merger;          /* mergers of at least this ratio make a bulge of everything */
extern const double msun_per_year_by_rate; /* from the unit of star_formation */
extern const double gyr_by_time;

struct epoch epoch_at(double scale_factor);
double particles_mass(int32_t len);
double baryons_due(double mass); /* of a group of that mass */

/* The cooling function, for galaxy_cool; NULL: no memory, see sagemem_last_error(). The caller frees it. */
double *cooling_make(void);

double galaxy_baryons(const struct galaxy *galaxy);

/* Gives a galaxy the size that goes with a halo of that mass and spin. */
void galaxy_size(struct galaxy *galaxy, double mass, const float spin[3], const struct epoch *epoch);

/* `central` is that of the group, possibly the galaxy itself: where gas goes that a galaxy cannot hold. `bin` is that of
 * the present in the history. */
void galaxy_cool(struct galaxy *central, const double *cooling, double time);
void galaxy_form_stars(struct galaxy *galaxy, struct galaxy *central, double time, int bin);
void galaxy_steady(struct galaxy *galaxy); /* turns stars of an unstable disc into bulge */
void galaxy_reincorporate(struct galaxy *central, double time);
void galaxy_strip(struct galaxy *satellite, struct galaxy *central);
void galaxy_merge(struct galaxy *satellite, struct galaxy *host, struct galaxy *central, double ratio, int bin);

/* The mean age of its stars at that time, by mass; `width` is that of a bin. 0: no stars. */
double galaxy_mean_age(const struct galaxy *galaxy, double width, double time);

/* Of the smaller to the larger of both, in stars and cold gas. */
double merger_ratio(const struct galaxy *a, const struct galaxy *b);

/* How long an orphan orbits in its host before it merges. */
double friction_time(const struct galaxy *satellite, const struct galaxy *host, double scale_factor);

#endif
