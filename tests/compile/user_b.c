/* The second of two files that use the library. */
#include "sagemem.h"

#include "other.h"

char *other_copy(const char *text) {
    return sagemem_strdup(NULL, text, 2);
}

void other_free(char *text) {
    sagemem_free(text);
}
