/* How do I collect halos whose number I do not know, with types and without writing the growing myself?
 *
 * Build: cc -I. examples/recipes/array.c -pthread
 * Output:
 *     1000 halos, the heaviest has mass 999
 *     500 left after the light ones were removed
 *     the scope has ended: 0 bytes left
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>

enum { TAG_HALOS = 1 };

typedef struct halo {
    int id;
    double mass;
} halo;
SAGEMEM_ARRAY_OF(halo_array, halo); /* the type halo_array, and halo_array_push and so on */

int main(void) {
    sagemem_tag_define(TAG_HALOS, "Core/Halos");
    if (sagemem_scope_begin(NULL, "forest", 0) != SAGEMEM_OK) return 1;

    sagemem_array_desc desc = {0};
    desc.tag = TAG_HALOS;
    halo_array halos;
    if (halo_array_init(&halos, &desc) != SAGEMEM_OK) return 1;
    for (int i = 0; i < 1000; i++) {
        halo one = {i, (i * 7) % 1000};
        if (halo_array_push(&halos, &one) != SAGEMEM_OK) return 1;
    }

    const halo *heaviest = halo_array_at(&halos, 0);
    for (size_t i = 0; i < halo_array_count(&halos); i++)
        if (halo_array_at(&halos, i)->mass > heaviest->mass) heaviest = halo_array_at(&halos, i);
    printf("%zu halos, the heaviest has mass %.0f\n", halo_array_count(&halos), heaviest->mass);

    for (size_t i = 0; i < halo_array_count(&halos);) {
        if (halo_array_at(&halos, i)->mass < 500) halo_array_remove_swap(&halos, i); /* the last one is now at i */
        else i++;
    }
    printf("%zu left after the light ones were removed\n", halo_array_count(&halos));

    sagemem_scope_end(NULL); /* and the elements with it; halo_array_deinit would do it before */
    sagemem_tag_stats stats;
    sagemem_tag_get_stats(NULL, TAG_HALOS, &stats);
    printf("the scope has ended: %d bytes left\n", (int)stats.used);
    return 0;
}
