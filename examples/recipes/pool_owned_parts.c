/* My galaxies have histories of their own: how are these made, copied and freed with them?
 *
 * Build: cc -I. examples/recipes/pool_owned_parts.c -pthread
 * Output:
 *     the copy has its own 4 bins: 0.5, and the original 1.0
 *     in the forest: 2 histories
 *     after it: 0 histories, 0 bytes of galaxies
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TAG_GALAXIES = 1, TAG_HISTORIES, BINS = 4 };

struct GALAXY {
    double mass;
    double *history; /* its own: BINS values */
};
SAGEMEM_POOL_OF(galaxy_pool, struct GALAXY);

/* A hook that fails makes the allocation fail, with its status. */
static sagemem_status galaxy_init(void *ctx, void *object) {
    struct GALAXY *g = (struct GALAXY *)object;
    (void)ctx;
    g->mass = 0;
    g->history = SAGEMEM_NEW_ARRAY(NULL, double, BINS, TAG_HISTORIES);
    return g->history != NULL ? SAGEMEM_OK : sagemem_last_error()->status;
}
static sagemem_status galaxy_copy(void *ctx, void *to, const void *from) {
    const struct GALAXY *old = (const struct GALAXY *)from;
    sagemem_status status = galaxy_init(ctx, to);
    if (status != SAGEMEM_OK) return status;
    ((struct GALAXY *)to)->mass = old->mass;
    memcpy(((struct GALAXY *)to)->history, old->history, BINS * sizeof(double));
    return SAGEMEM_OK;
}
static void galaxy_cleanup(void *ctx, void *object) {
    (void)ctx;
    sagemem_free(((struct GALAXY *)object)->history);
}

static sagemem_tag_stats stats_of(sagemem_tag tag) {
    sagemem_tag_stats stats;
    if (sagemem_tag_get_stats(NULL, tag, &stats) != SAGEMEM_OK) exit(1);
    return stats;
}

int main(void) {
    if (sagemem_scope_begin(NULL, "forest", 0) != SAGEMEM_OK) return 1;
    sagemem_pool_desc desc = {0};
    desc.tag = TAG_GALAXIES;
    desc.init_fn = galaxy_init;
    desc.copy_fn = galaxy_copy;
    desc.cleanup_fn = galaxy_cleanup;
    sagemem_pool *pool = galaxy_pool_create(&desc);
    struct GALAXY *central = pool != NULL ? galaxy_pool_alloc(pool) : NULL;
    if (central == NULL) return 1;
    for (int i = 0; i < BINS; i++) central->history[i] = 1;
    struct GALAXY *descendant = galaxy_pool_copy(pool, central);
    if (descendant == NULL || galaxy_pool_alloc(pool) == NULL) return 1;
    descendant->history[0] = 0.5;
    printf("the copy has its own %d bins: %.1f, and the original %.1f\n", BINS, descendant->history[0], central->history[0]);
    galaxy_pool_free(pool, central); /* its history goes with it */
    printf("in the forest: %d histories\n", (int)stats_of(TAG_HISTORIES).blocks);
    sagemem_scope_end(NULL); /* the clean-up runs for each galaxy that is left */
    printf("after it: %d histories, %d bytes of galaxies\n", (int)stats_of(TAG_HISTORIES).blocks, (int)stats_of(TAG_GALAXIES).used);
    return 0;
}
