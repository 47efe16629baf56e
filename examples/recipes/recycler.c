/* How do I stop asking for a new buffer for each record, when the records have many sizes?
 *
 * Build: cc -I. examples/recipes/recycler.c -pthread
 * Output:
 *     1000 records, 994 in buffers that were there
 *     kept for later: 6 buffers, one for each size
 *     at the end: 0 bytes
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>
#include <string.h>

enum { TAG_RECORDS = 1 };

int main(void) {
    sagemem_tag_define(TAG_RECORDS, "IO/Records");
    sagemem_recycler_desc desc = {0};
    desc.tag = TAG_RECORDS;
    desc.max_idle_bytes = 1 << 20; /* what may lie idle */
    sagemem_recycler *buffers = sagemem_recycler_create(&desc);
    if (buffers == NULL) return 1;
    for (size_t record = 0; record < 1000; record++) {
        size_t size = (size_t)5000 << record % 6; /* 5 to 160 KB; a buffer may be twice as large as what is asked for */
        char *buffer = (char *)sagemem_recycler_acquire(buffers, size - record);
        if (buffer == NULL) return 1;
        memset(buffer, 0, size - record); /* ... read the record and work on it ... */
        sagemem_recycler_release(buffers, buffer);
    }
    sagemem_recycler_stats stats;
    sagemem_tag_stats tag;
    sagemem_recycler_get_stats(buffers, &stats);
    printf("1000 records, %d in buffers that were there\n", (int)stats.hits);
    printf("kept for later: %d buffers, one for each size\n", (int)stats.idle_buffers);
    sagemem_recycler_destroy(buffers);
    sagemem_tag_get_stats(NULL, TAG_RECORDS, &tag);
    printf("at the end: %d bytes\n", (int)tag.used);
    return 0;
}
