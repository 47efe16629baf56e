/* Where galaxies live: a pool, whose hooks see to what each galaxy has beside its record. */
#ifndef GALAXIES_H
#define GALAXIES_H

#include <stdbool.h>

#include "physics.h"
#include "sagemem.h"

/* galaxies_alloc(pool) is a galaxy of nothing, galaxies_copy(pool, from) another one with a history of its own, and
 * galaxies_free(pool, galaxy) ends both parts. The first two return NULL when there is no memory. */
SAGEMEM_POOL_OF(galaxies, struct galaxy);

/* In the open scope, with which all galaxies go. bypass: each galaxy is a block of the heap, same results. NULL: no memory. */
sagemem_pool *galaxies_make(sagemem_heap *heap, bool bypass);

#endif
