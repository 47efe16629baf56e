/* How do I free everything of one forest at once?
 *
 * Build: cc -I. examples/recipes/scope.c -pthread
 * Output:
 *     forest 0: 3 blocks, gone at the end: 0 bytes left
 *     forest 1: 3 blocks, gone at the end: 0 bytes left
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>

enum { TAG_HALOS = 1 };

int main(void) {
    sagemem_tag_define(TAG_HALOS, "Core/Halos");
    for (uint64_t forest = 0; forest < 2; forest++) {
        if (sagemem_scope_begin(NULL, "forest", forest) != SAGEMEM_OK) return 1;
        for (int i = 0; i < 3; i++)
            if (SAGEMEM_NEW_ARRAY(NULL, double, 1000, TAG_HALOS) == NULL) return 1;
        sagemem_tag_stats stats;
        sagemem_tag_get_stats(NULL, TAG_HALOS, &stats);
        printf("forest %d: %d blocks, ", (int)forest, (int)stats.blocks);
        sagemem_scope_end(NULL);
        sagemem_tag_get_stats(NULL, TAG_HALOS, &stats);
        printf("gone at the end: %d bytes left\n", (int)stats.used);
    }
    return 0;
}
