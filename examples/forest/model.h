/* The model: which galaxies a merger tree makes. */
#ifndef MODEL_H
#define MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "physics.h"
#include "sagemem.h"

struct outbox;
struct tree;
struct without;

struct model {
    int32_t epoch_count;
    struct epoch *epochs; /* of each snapshot */
    double *cooling;      /* see cooling_make() */
    double history_bin;   /* the width of one */
};

/* Scale factors must be positive and increasing. False: no memory, see sagemem_last_error(). */
bool model_init(struct model *model, const double *scale_factors, int32_t count);
void model_deinit(struct model *model);

/* What became of one tree, in numbers. */
enum { REDSHIFT_BINS = 6 };
struct harvest {
    int32_t halo_count;
    uint64_t galaxy_count; /* at all snapshots */
    uint64_t mergers, major_mergers, mergers_at[REDSHIFT_BINS];
    double let_in, found; /* baryons: that ever fell in; of galaxies without a descendant */
};

/* Makes the galaxies of a checked tree in the heap, in its open scope, and puts those of the snapshots that are written
 * into the outbox. Whatever it takes goes with the scope. False: no memory, see sagemem_last_error(), or the outbox failed. */
bool model_run(const struct model *model, sagemem_heap *heap, const struct without *without, const struct tree *tree,
               struct outbox *outbox, struct harvest *harvest);

#endif
