/* How do I build a tree whose links stay good while it grows, and in a file?
 *
 * A pointer is good in one process only. A ref names a place in an arena: it stays what it is when the arena takes more memory,
 * and in an arena that another program loads from what this one saved.
 *
 * Build: cc -I. examples/recipes/arena_refs.c -pthread
 * Output:
 *     built: 1000 halos
 *     saved: 32080 bytes
 *     loaded: the main branch has 1000 halos, from snapshot 999 down to 0
 *     damaged: SAGEMEM_E_CORRUPT
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>
#include <string.h>

struct halo {
    uint64_t snapshot, particles;
    sagemem_arena_ref progenitor; /* zero: none */
};

/* Where the image goes: here memory; for a file, write the bytes at that offset. */
static unsigned char image[65536];
static size_t image_size;
static sagemem_status image_write(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)ctx;
    if (offset + size > sizeof image) return SAGEMEM_E_FULL;
    memcpy(image + offset, data, size);
    image_size = (size_t)offset + size;
    return SAGEMEM_OK;
}

int main(void) {
    sagemem_arena *arena = sagemem_arena_create(NULL);
    if (arena == NULL) return 1;
    sagemem_arena_ref last = {0, 0, 0};
    for (uint64_t i = 0; i < 1000; i++) {
        struct halo halo = {i, 100 + i, last};
        last = sagemem_arena_put(arena, &halo, sizeof halo);
        if (last.chunk == 0) return 1;
    }
    printf("built: 1000 halos\n");
    sagemem_sink sink = {image_write, NULL, NULL};
    if (sagemem_arena_save(arena, &sink) != SAGEMEM_OK) return 1;
    sagemem_arena_destroy(arena);
    printf("saved: %d bytes\n", (int)image_size);

    arena = sagemem_arena_load(NULL, image, image_size);
    if (arena == NULL) return 1;
    uint64_t count = 0, first = 0;
    for (sagemem_arena_ref ref = last; ref.chunk != 0; count++) {
        struct halo halo;
        const void *at = sagemem_arena_get(arena, ref, NULL);
        if (at == NULL) return 1;
        memcpy(&halo, at, sizeof halo); /* what was put lies at any address */
        first = halo.snapshot;
        ref = halo.progenitor;
    }
    printf("loaded: the main branch has %d halos, from snapshot 999 down to %d\n", (int)count, (int)first);
    sagemem_arena_destroy(arena);

    image[1234] ^= 1;
    if (sagemem_arena_load(NULL, image, image_size) == NULL)
        printf("damaged: %s\n", sagemem_status_name(sagemem_last_error()->status));
    return 0;
}
