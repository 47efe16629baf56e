/* The declarations alone, and each public macro and constant used once: C99 and C++11, and all later ones. */
#include "sagemem.h"

#include <stdio.h>

struct halo {
    double mass;
    int progenitor;
};

static sagemem_status nothing(void *ctx) {
    (void)ctx;
    return SAGEMEM_OK;
}

int main(void) {
    sagemem_heap_desc desc;
    sagemem_heap_stats stats;
    struct halo *one;
    struct halo *many;

    desc.name = "declarations";
    desc.parent = NULL;
    desc.limit = 0;
    desc.source = NULL;
    desc.flags = SAGEMEM_HEAP_ZERO | SAGEMEM_HEAP_CHECKED;
    desc.purge_delay_ms = (uint32_t)SAGEMEM_PURGE_NEVER;

    one = SAGEMEM_NEW(NULL, struct halo, SAGEMEM_UNTAGGED);
    many = SAGEMEM_NEW_ARRAY(sagemem_heap_create(&desc), struct halo, 10, SAGEMEM_TAG_USER_MAX);
    if (one == NULL || many == NULL || sagemem_heap_get_stats(NULL, &stats) != SAGEMEM_OK)
        return 1;
    sagemem_free(one);
    sagemem_free(many);
    printf("%s %s\n", SAGEMEM_VERSION, sagemem_status_name(SAGEMEM_E_TOO_BIG));
    return sagemem_check_failures(nothing, NULL, NULL) == SAGEMEM_OK ? 0 : 1;
}
