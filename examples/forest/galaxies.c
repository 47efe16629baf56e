/* The hooks of the pool of galaxies: see galaxies.h. */
#include "galaxies.h"

#include <string.h>

#include "forest.h"

static sagemem_status galaxy_init(void *heap, void *object) {
    struct galaxy *galaxy = object;
    memset(galaxy, 0, sizeof *galaxy);
    galaxy->history = sagemem_calloc(heap, 1, sizeof *galaxy->history, TAG_STARS);
    return galaxy->history ? SAGEMEM_OK : sagemem_last_error()->status;
}

static void galaxy_cleanup(void *heap, void *object) {
    (void)heap;
    sagemem_free(((struct galaxy *)object)->history);
}

static sagemem_status galaxy_copy(void *heap, void *to, const void *from) {
    struct galaxy *galaxy = to;
    memcpy(galaxy, from, sizeof *galaxy);
    galaxy->at_infall = galaxy->next = NULL;
    galaxy->history = sagemem_memdup(heap, galaxy->history, sizeof *galaxy->history, TAG_STARS);
    return galaxy->history ? SAGEMEM_OK : sagemem_last_error()->status;
}

sagemem_pool *galaxies_make(sagemem_heap *heap, bool bypass) {
    return galaxies_create(&(sagemem_pool_desc){.heap = heap,
                                                .tag = TAG_GALAXIES,
                                                .name = "galaxies",
                                                .init_fn = galaxy_init,
                                                .cleanup_fn = galaxy_cleanup,
                                                .copy_fn = galaxy_copy,
                                                .ctx = heap,
                                                .bypass = bypass});
}
