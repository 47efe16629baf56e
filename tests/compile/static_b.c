/* The other file, with the other copy. */
#define SAGEMEM_STATIC
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include "other.h"

char *other_copy(const char *text) {
    return sagemem_strdup(NULL, text, 2);
}

void other_free(char *text) {
    sagemem_free(text);
}
