/* How do I keep pointers to elements of an array that grows, and fill most of memory with it?
 *
 * Build: cc -I. examples/recipes/stable_array.c -pthread
 * Output:
 *     addresses for 800000000 bytes, 1 MiB of memory at most
 *     5000000 particles; the first is where it was
 *     held is at most 1.02 of what is used, also at the peak
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>

enum { TAG_PARTICLES = 1 };

typedef struct particle {
    float x, y;
} particle;
SAGEMEM_ARRAY_OF(particle_array, particle);

static uint64_t held(uint64_t *peak) {
    sagemem_heap_stats stats;
    sagemem_heap_get_stats(sagemem_heap_default(), &stats);
    *peak = stats.held_peak;
    return stats.held;
}

int main(void) {
    sagemem_tag_define(TAG_PARTICLES, "Core/Particles");
    sagemem_array_desc desc = {0};
    desc.tag = TAG_PARTICLES;
    desc.stable_max = 100000000; /* the most there could ever be: only addresses are set aside for them */
    particle_array particles;
    if (particle_array_init(&particles, &desc) != SAGEMEM_OK) {
        fprintf(stderr, "%s\n", sagemem_last_error()->message);
        return 1;
    }
    uint64_t peak;
    printf("addresses for %zu bytes, %s\n", desc.stable_max * sizeof(particle),
           held(&peak) <= 1 << 20 ? "1 MiB of memory at most" : "more");

    const particle *first = particle_array_add(&particles, 1); /* good until the array ends */
    for (int i = 1; i < 5000000; i++) {
        particle one = {(float)i, 0};
        if (particle_array_push(&particles, &one) != SAGEMEM_OK) return 1;
    }
    printf("%zu particles; the first %s\n", particle_array_count(&particles),
           first == particle_array_at(&particles, 0) ? "is where it was" : "has moved");
    uint64_t used = particle_array_count(&particles) * sizeof(particle), now = held(&peak);
    printf("held is %s of what is used, also at the peak\n",
           now <= used + used / 50 && peak <= used + used / 50 ? "at most 1.02" : "more than 1.02");
    particle_array_deinit(&particles);
    return 0;
}
