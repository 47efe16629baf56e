/* Included twice with the implementation asked for. */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"
/* once more */
#include "sagemem.h"

int main(void) {
    void *block = sagemem_alloc(NULL, 100, 1);
    sagemem_free(block);
    return block != NULL ? 0 : 1;
}
