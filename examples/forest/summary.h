/* What a run has come to, for people. */
#ifndef SUMMARY_H
#define SUMMARY_H

#include <stdbool.h>
#include <stdint.h>

#include "model.h"
#include "output.h"
#include "sagemem.h"

enum { WORST_FORESTS = 5, MASS_BINS = 28 };

/* The stellar mass function has bins of a quarter of a dex from 10^6 Msun/h on; the last goes on without end. */
static const double first_log_mass = 6, bin_log_mass = 0.25;

/* One forest, and the memory it took at once. */
struct forest_peak {
    uint64_t forest; /* number of the tree in the run */
    int32_t file, tree;
    int32_t halo_count;
    uint64_t galaxy_count; /* at all snapshots */
    uint64_t used_peak, held_peak;
    sagemem_tag tag; /* of which most of it was */
    uint64_t tag_peak;
};

struct summary {
    int32_t snapshot; /* of the mass function */
    uint64_t tree_count, halo_count, galaxy_count;
    uint64_t mergers, major_mergers, mergers_at[REDSHIFT_BINS];
    uint64_t with_mass[MASS_BINS];
    double let_in, found;                    /* baryons, see struct harvest */
    struct forest_peak worst[WORST_FORESTS]; /* the worst first */
    int worst_count;
};

void summary_add(struct summary *summary, const struct harvest *harvest);
void summary_add_galaxy(struct summary *summary, double stars); /* one of that snapshot */
void summary_add_peak(struct summary *summary, struct forest_peak forest);

/* Fills in what the library knows of a forest: of the scope that ended last in this thread, or (heap not NULL) of the heap.
 * False: the library could not tell, see sagemem_last_error(). */
bool forest_peak_measure(struct forest_peak *forest, sagemem_heap *heap);

void summary_print(const struct summary *summary, const struct model *model, int file_count, const struct galaxy_file *outputs,
                   int output_count);
void summary_print_worst(const struct summary *summary);
void summary_print_json(const struct summary *summary, int file_count); /* members of an object, with a comma at the end */

#endif
