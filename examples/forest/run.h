/* A run: forests to threads, galaxies to files. */
#ifndef RUN_H
#define RUN_H

#include "forest.h"
#include "model.h"
#include "options.h"
#include "output.h"
#include "plot.h"
#include "summary.h"
#include "trees.h"
#include "window.h"

struct run {
    const struct options *options;
    struct model model;   /* does not change while threads run */
    sagemem_heap *shared; /* whatever more than one thread uses lives here */
    int32_t *output_of;   /* of each snapshot, -1: it is not written */
    struct window window; /* who may take the next tree, and whose turn it is to write */

    /* With the window's lock held: */
    struct tree_file trees; /* the file that trees are being taken from */
    struct tree_place place;
    int32_t file; /* its number; -1: none yet */
    bool exhausted;

    /* For the thread whose forest's turn it is: */
    struct galaxy_file outputs[MAX_OUTPUTS];
    int output_count;
    struct plot plot;
    struct summary summary;
    bool failed; /* from now on nothing is written */
    char reason[REASON_BYTES];
};

/* Runs all forests and writes all files, or none of them: then the reason is kept, see fail(). Returns the status for the
 * program to end with: 0, 1 after a failure, 128 + the signal when it was interrupted. What was opened is to be closed. */
int run_all(struct run *run, const struct options *options);
void run_close(struct run *run);

#endif
