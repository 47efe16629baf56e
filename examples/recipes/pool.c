/* How do I keep galaxies that merge and form all the time, side by side in memory?
 *
 * Build: cc -I. examples/recipes/pool.c -pthread
 * Output:
 *     snapshot 0: 1000 galaxies, 100 % of the first
 *     snapshot 1: 1000 galaxies, 67 % of the first
 *     snapshot 2: 1000 galaxies, 33 % of the first
 *     1666 galaxies were made, at most 1000 at once
 *     freed twice: SAGEMEM_E_STALE
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>

enum { TAG_GALAXIES = 1, COUNT = 1000 };

struct GALAXY {
    double position[3], mass;
    int snapshot;
};
SAGEMEM_POOL_OF(galaxy_pool, struct GALAXY); /* typed calls: galaxy_pool_create, _alloc, _free, _each ... */

struct total {
    double all, first;
};
static bool add_mass(void *ctx, struct GALAXY *g) {
    struct total *t = (struct total *)ctx;
    t->all += g->mass;
    if (g->snapshot == 0) t->first += g->mass;
    return true; /* go on */
}

static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    printf("freed twice: %s\n", sagemem_status_name(error->status));
}

int main(void) {
    sagemem_tag_define(TAG_GALAXIES, "Core/Galaxies");
    sagemem_pool_desc desc = {0};
    desc.tag = TAG_GALAXIES;
    desc.name = "galaxies";
    sagemem_pool *pool = galaxy_pool_create(&desc);
    static struct GALAXY *galaxy[COUNT];
    if (pool == NULL) return 1;
    for (int snapshot = 0; snapshot < 3; snapshot++) {
        for (int i = snapshot; i < COUNT; i += 3) galaxy_pool_free(pool, galaxy[i]); /* merged; NULL at first */
        for (int i = 0; i < COUNT; i++) {
            if (snapshot > 0 && i % 3 != snapshot) continue;
            galaxy[i] = galaxy_pool_alloc(pool); /* in the gaps, lowest address first */
            if (galaxy[i] == NULL) return 1;
            galaxy[i]->mass = 1;
            galaxy[i]->snapshot = snapshot;
        }
        struct total total = {0, 0};
        galaxy_pool_each(pool, add_mass, &total);
        printf("snapshot %d: %d galaxies, %.0f %% of the first\n", snapshot, (int)total.all, 100 * total.first / total.all);
    }
    sagemem_pool_stats stats;
    if (galaxy_pool_get_stats(pool, &stats) != SAGEMEM_OK) return 1;
    printf("%d galaxies were made, at most %d at once\n", (int)stats.total_allocs, (int)stats.peak_objects);
    galaxy_pool_free(pool, galaxy[0]);
    sagemem_set_fault_handler(on_fault, NULL); /* without one: the message, and abort */
    galaxy_pool_free(pool, galaxy[0]);
    galaxy_pool_destroy(pool);
    return 0;
}
