/* Two files of a program, each with a private copy of the library. */
#define SAGEMEM_STATIC
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include "other.h"

#include <string.h>

int main(void) {
    int good = 0;
    char *copy = other_copy("halo");
    char *block = sagemem_strdup(NULL, "halo", 1);
    if (copy != NULL && block != NULL)
        good = strcmp(copy, block) == 0;
    sagemem_free(block);
    other_free(copy);
    return good ? 0 : 1;
}
