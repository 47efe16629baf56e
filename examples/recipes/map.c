/* How do I read a binary halo catalogue without copying it?
 *
 * The file is a count and then that many records. It is mapped: the halos are read where they lie, only the pages that are
 * touched come into memory, and none of it counts as memory of the heap. Where mapping fails the same code reads the file.
 *
 * Build: cc -I. examples/recipes/map.c -pthread
 * Output:
 *     1000 halos in 24008 bytes, 24008 of them mapped
 *     the heaviest is number 642, of 9.99e+12 solar masses
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>

enum { TAG_CATALOGUE = 1 };

struct halo {
    uint64_t number;
    double mass, radius;
};

/* What some simulation left. */
static int write_catalogue(FILE *f, uint64_t count) {
    if (fwrite(&count, sizeof count, 1, f) != 1) return 1;
    for (uint64_t i = 0; i < count; i++) {
        struct halo halo = {i, 1e10 * (double)(1 + i * 7919 % 1000 % 999), 0.1};
        if (fwrite(&halo, sizeof halo, 1, f) != 1) return 1;
    }
    return fflush(f);
}

int main(void) {
    FILE *f = tmpfile();
    if (f == NULL || write_catalogue(f, 1000) != 0) return 1;

    sagemem_tag_define(TAG_CATALOGUE, "Input/Catalogue");
    sagemem_map_desc desc = {0};
    desc.fd_plus_one = fileno(f) + 1; /* or desc.path = "halos.bin" */
    desc.access = SAGEMEM_ACCESS_SEQUENTIAL;
    desc.tag = TAG_CATALOGUE;
    sagemem_map *map = sagemem_map_open(&desc);
    const uint64_t *count = map != NULL ? (const uint64_t *)sagemem_map_view(map, 0, sizeof *count) : NULL;
    const struct halo *halos = NULL; /* the count is the file's word: a view checks it against the size */
    if (count != NULL && *count <= sagemem_map_size(map) / sizeof *halos)
        halos = (const struct halo *)sagemem_map_view(map, sizeof *count, (size_t)*count * sizeof *halos);
    if (halos == NULL) {
        fprintf(stderr, "%s\n", sagemem_last_error()->message);
        return 1;
    }

    sagemem_heap_stats stats;
    sagemem_heap_get_stats(NULL, &stats);
    printf("%d halos in %d bytes, %d of them mapped\n", (int)*count, (int)sagemem_map_size(map), (int)stats.mapped);
    const struct halo *heaviest = halos;
    for (uint64_t i = 0; i < *count; i++)
        if (halos[i].mass > heaviest->mass) heaviest = &halos[i];
    printf("the heaviest is number %d, of %.2e solar masses\n", (int)heaviest->number, heaviest->mass);
    fclose(f); /* the map has a descriptor of its own */
    return sagemem_map_close(map) == SAGEMEM_OK ? 0 : 1;
}
