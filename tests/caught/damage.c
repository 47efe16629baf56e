/* damage MODE KIND WHERE FOUND: bytes in front of a block (WHERE -1, -8) or behind it (+1, +8) are written, or one byte (@-56: the
 * 56th in front). FOUND is the call that comes next: free, realloc, neighbour (the one behind is freed), scope_end, destroy,
 * reset, later (frees and allocations); or check, which only logs. */
#include "caught.h"

int main(int argc, char **argv) {
    const char *found = caught_word(argc, argv, 4);
    const char *one = caught_after(caught_word(argc, argv, 3), "@");
    int where = atoi(one != NULL ? one : argv[3]);
    caught_heap(caught_word(argc, argv, 1));
    char *block = caught_block(caught_word(argc, argv, 2));
    CAUGHT_CHECK(sagemem_heap_check(heap) == 0);
    char *from = (char *)caught_hidden(where < 0 ? block + where : block + sagemem_size(block));
    for (int i = 0; i < (one != NULL ? 1 : abs(where)); i++) from[i] = (char)(from[i] ^ ('A' + i)); /* never what was there */
    if (caught_is(found, "free")) {
        sagemem_free(block);
    } else if (caught_is(found, "realloc")) {
        block = (char *)sagemem_realloc(heap, block, 64, SAGEMEM_TAG_SAME);
    } else if (caught_is(found, "neighbour")) {
        sagemem_free(caught_behind);
    } else if (caught_is(found, "scope_end")) {
        sagemem_scope_end(heap);
    } else if (caught_is(found, "destroy")) {
        sagemem_heap_destroy(heap);
    } else if (caught_is(found, "reset")) {
        sagemem_heap_reset(heap);
    } else if (caught_is(found, "later")) { /* what a program would do */
        sagemem_free(block);
        if (caught_behind != NULL) sagemem_free(caught_behind);
        for (int i = 0; i < 1000; i++) caught_alloc(caught_size / (size_t)(1 + i % 3));
        sagemem_heap_destroy(heap);
    } else if (caught_is(found, "check")) {
        size_t damaged = sagemem_heap_check(heap);
        if (damaged == 0) caught_not("sagemem_heap_check finds nothing");
        CAUGHT_CHECK(damaged == 1);
        if (caught_is(argv[1], "checked")) {
            CAUGHT_CHECK(sagemem_check(block) == SAGEMEM_E_CORRUPT);
            CAUGHT_CHECK(sagemem_last_error()->status == SAGEMEM_E_CORRUPT);
        }
        return 0;
    } else {
        caught_not("found '%s'", found);
    }
    caught_not("damage");
}
