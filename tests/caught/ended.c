/* ended CALL MODE KIND WHAT: a block is used after its scope or heap has ended.
 *   scope         the scope has ended
 *   scope_reused  the next scope, forest 13, has the same chunk, with less in it
 *   scope_filled  the next scope's blocks lie where the block was
 *   heap          the heap has ended
 *   reset         the heap was emptied              reset_filled  and has new blocks where the block was */
#include "caught.h"

int main(int argc, char **argv) {
    const char *call = caught_word(argc, argv, 1), *what = caught_word(argc, argv, 4);
    caught_heap(caught_word(argc, argv, 2));
    void *block = caught_block(caught_word(argc, argv, 3));
    if (caught_is(what, "heap")) {
        sagemem_heap_destroy(heap);
    } else if (caught_is(what, "reset") || caught_is(what, "reset_filled")) {
        sagemem_heap_reset(heap);
        for (int n = 0; caught_is(what, "reset_filled") && n < 3; n++) CAUGHT_CHECK(sagemem_alloc(heap, 9000, tag) != NULL);
    } else {
        CAUGHT_CHECK(sagemem_scope_end(heap) == SAGEMEM_OK);
        if (!caught_is(what, "scope")) {
            CAUGHT_CHECK(sagemem_scope_begin(heap, "forest", 13) == SAGEMEM_OK);
            if (caught_is(what, "scope_filled"))
                for (size_t n = 0; n < 20; n++) caught_alloc(5000);
            else caught_alloc(16);
        }
    }
    if (caught_is(call, "free")) sagemem_free(block);
    else if (caught_is(call, "realloc")) block = sagemem_realloc(NULL, block, 64, SAGEMEM_TAG_SAME);
    else if (caught_is(call, "size")) caught_size = sagemem_size(block);
    else caught_not("call '%s'", call);
    caught_not("ended");
}
