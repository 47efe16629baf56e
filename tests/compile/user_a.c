/* The first of two files that use the library; a third one has the implementation. Also compiled as C++. */
#include "other.h"
#include "sagemem.h"

#include <string.h>

int main(void) {
    int good = 0;
    char *copy = other_copy("halo");
    char *block = (char *)sagemem_alloc(NULL, 1000, 1);
    if (copy != NULL && block != NULL) {
        memset(block, 1, 1000);
        good = strcmp(copy, "halo") == 0 && sagemem_size(block) >= 1000 && sagemem_tag_of(copy) == 2;
    }
    sagemem_free(block);
    other_free(copy);
    return good ? 0 : 1;
}
