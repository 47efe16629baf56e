/* The short calls with file and line, the functions' addresses still to be had; with -DSAGEMEM_IMPLEMENTATION in the
 * file of the implementation too. */
#define SAGEMEM_SITES
#include "sagemem.h"

struct halo {
    double mass;
};

int main(void) {
    void *(*function)(sagemem_heap *, size_t, sagemem_tag) = sagemem_alloc;
    void *block = sagemem_alloc(NULL, 100, 1);
    void *zeroed = sagemem_calloc(NULL, 10, 10, 1);
    struct halo *halo = SAGEMEM_NEW(NULL, struct halo, 1);
    char *text = sagemem_strdup(NULL, "halo", 1);
    void *more = block ? sagemem_realloc(NULL, block, 200, SAGEMEM_TAG_SAME) : NULL;
    void *other = function(NULL, 10, 1);
    int good = more && zeroed && halo && text && other;
    sagemem_free(more);
    sagemem_free(zeroed);
    sagemem_free(halo);
    sagemem_free(text);
    (sagemem_free)(other);
    return good ? 0 : 1;
}
