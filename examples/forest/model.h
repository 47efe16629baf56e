/* The model: which galaxies a merger tree makes. */
#ifndef MODEL_H
#define MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "physics.h"

struct tree;

struct merger {
    int32_t snapshot;
    int32_t satellite, central; /* numbers of galaxies */
    double ratio;               /* see merger_ratio() */
};

/* Galaxies of one halo among those of its tree: its own comes first, its orphans after it. */
struct galaxy_range {
    size_t first, count;
};

/* What became of one tree. All of it lives in the scope that was open when it was made. */
struct population {
    struct galaxy *galaxies; /* at every snapshot anew */
    size_t galaxy_count, galaxy_capacity;
    struct galaxy_range *of_halo; /* of each halo of the tree */
    struct merger *mergers;
    size_t merger_count, merger_capacity;
    double infall; /* all baryons that were ever let in */
};

struct model {
    int32_t epoch_count;
    struct epoch *epochs; /* of each snapshot */
    double *cooling;      /* see cooling_make() */
};

/* Scale factors must be positive and increasing. False: no memory, see sagemem_last_error(). */
bool model_init(struct model *model, const double *scale_factors, int32_t count);
void model_deinit(struct model *model);

/* Makes the galaxies of a checked tree, in the open scope. False: no memory, see sagemem_last_error(). */
bool model_run(const struct model *model, const struct tree *tree, struct population *population);

#endif
