/* First the declarations, later in the same file the implementation, then once more. */
#include "sagemem.h"

#include <stdio.h>

#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"
#undef SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

int main(void) {
    void *block = sagemem_alloc(NULL, 100, 1);
    sagemem_free(block);
    return block != NULL ? 0 : 1;
}
