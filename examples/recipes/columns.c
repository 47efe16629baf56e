/* My loops read one field of many records. How do I keep each field in an array of its own?
 *
 * Build: cc -I. examples/recipes/columns.c -pthread
 * Output:
 *     1000 galaxies in 3 columns, each at a multiple of 64
 *     total stellar mass 499500
 *     column 'sfr' is number 1
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>

enum { TAG_GALAXIES = 1, MASS = 0, SFR, ID };

int main(void) {
    sagemem_tag_define(TAG_GALAXIES, "Core/Galaxies");
    const sagemem_column fields[] = {{"mass", sizeof(double)}, {"sfr", sizeof(float)}, {"id", sizeof(int64_t)}};
    sagemem_columns_desc desc = {0};
    desc.tag = TAG_GALAXIES;
    desc.name = "galaxies";
    desc.columns = fields;
    desc.column_count = sizeof fields / sizeof fields[0];
    sagemem_columns *galaxies = sagemem_columns_create(&desc);
    if (galaxies == NULL) return 1;

    for (int i = 0; i < 1000; i++) {
        if (sagemem_columns_add(galaxies, 1) != SAGEMEM_OK) return 1;
        ((double *)sagemem_columns_data(galaxies, MASS))[i] = i; /* asked for again: adding may have moved it */
        ((float *)sagemem_columns_data(galaxies, SFR))[i] = 0;
        ((int64_t *)sagemem_columns_data(galaxies, ID))[i] = i;
    }

    size_t aligned = 0, count = sagemem_columns_count(galaxies);
    for (size_t c = 0; c < desc.column_count; c++) aligned += (uintptr_t)sagemem_columns_data(galaxies, c) % 64 == 0;
    printf("%zu galaxies in %zu columns, each at a multiple of 64\n", count, aligned);

    const double *mass = (const double *)sagemem_columns_data(galaxies, MASS); /* the loop reads masses and nothing else */
    double total = 0;
    for (size_t i = 0; i < count; i++) total += mass[i];
    printf("total stellar mass %.0f\n", total);
    printf("column 'sfr' is number %zu\n", sagemem_columns_find(galaxies, "sfr"));
    sagemem_columns_destroy(galaxies);
    return 0;
}
