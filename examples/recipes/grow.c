/* My code grows an array by 10000 and calls realloc. How do I make that geometric with one line?
 *
 * Build: cc -I. examples/recipes/grow.c -pthread
 * Output:
 *     1000000 galaxies, 100 resizes by steps of 10000, less than 40 by a factor
 *     the block belongs to Core/Galaxies still
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>

enum { TAG_GALAXIES = 1 };

struct GALAXY {
    int type;
    float mass;
};

int main(void) {
    sagemem_tag_define(TAG_GALAXIES, "Core/Galaxies");
    size_t maxgals = 100, resizes = 0;
    struct GALAXY *galaxies = (struct GALAXY *)sagemem_alloc(NULL, maxgals * sizeof *galaxies, TAG_GALAXIES);
    if (galaxies == NULL) return 1;

    for (size_t n = 0; n < 1000000; n++) {
        if (n == maxgals) {
            /* was: maxgals += 10000; galaxies = realloc(galaxies, maxgals * sizeof *galaxies);
             * On failure neither galaxies nor maxgals has changed. */
            if (sagemem_array_grow((void **)&galaxies, sizeof *galaxies, &maxgals, n + 1, 0) != SAGEMEM_OK) {
                fprintf(stderr, "%s\n", sagemem_last_error()->message);
                return 1;
            }
            resizes++;
        }
        galaxies[n].type = 0;
        galaxies[n].mass = (float)n;
    }
    printf("1000000 galaxies, 100 resizes by steps of 10000, %s by a factor\n", resizes < 40 ? "less than 40" : "too many");
    printf("the block belongs to %s still\n", sagemem_tag_name(sagemem_tag_of(galaxies)));
    sagemem_free(galaxies);
    return 0;
}
