/* What did forest 17 leave behind, and who allocated it?
 *
 * Build: cc -I. examples/recipes/leaks.c -pthread
 * Output:
 *     forest 17 left behind:
 *     heap,scope,tag,used,blocks
 *     main,,Physics/Cooling,2000,2
 *     in all:
 *     sagemem: 2 blocks with 1.95 KiB left in heap 'main'
 *         1.95 KiB in 2 blocks of Physics/Cooling, heap main
 *           1.95 KiB in 2 blocks from examples/recipes/leaks.c:23
 */
#define SAGEMEM_IMPLEMENTATION
#define SAGEMEM_SITES /* allocations tell file and line, for heaps with SAGEMEM_HEAP_SITES */
#include "sagemem.h"

#include <stdio.h>

enum { TAG_TREES = 1, TAG_COOLING };

/* Forgets to free, once in a while. */
static void cool(sagemem_heap *heap, int step) {
    void *table = sagemem_alloc(heap, 1000, TAG_COOLING);
    if (step % 10 != 3) sagemem_free(table);
}

static sagemem_status to_stdout(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)ctx, (void)offset;
    return fwrite(data, 1, size, stdout) == size ? SAGEMEM_OK : SAGEMEM_E_IO;
}

int main(void) {
    const sagemem_sink out = {to_stdout, NULL, NULL};
    sagemem_heap_desc desc = {0};
    desc.name = "main";
    desc.flags = SAGEMEM_HEAP_SITES;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    sagemem_tag_define(TAG_TREES, "Core/Trees");
    sagemem_tag_define(TAG_COOLING, "Physics/Cooling");

    sagemem_snapshot *before = sagemem_snapshot_take(heap);
    void *trees = sagemem_alloc(heap, 50000, TAG_TREES);
    for (int step = 0; step < 20; step++) cool(heap, step);
    sagemem_free(trees);
    sagemem_snapshot *after = sagemem_snapshot_take(heap);
    if (before == NULL || after == NULL) return 1;

    printf("forest 17 left behind:\n");
    if (sagemem_snapshot_diff(before, after, SAGEMEM_FORMAT_CSV, &out) != SAGEMEM_OK) return 1;
    sagemem_snapshot_free(before);
    sagemem_snapshot_free(after);
    printf("in all:\n");
    sagemem_leaks(heap, &out); /* or sagemem_report_at_exit(format, path, 3): the program ends with status 3 */
    sagemem_heap_destroy(heap);
    return 0;
}
