/* late_write MODE KIND FOUND [BYTE]: a byte of a freed block is written. FOUND is what comes next: alloc (of that size), free
 * (of its neighbour), scope_end, destroy, release (the quarantine is given back), collect (the block was freed by another
 * thread); or check, which only logs. */
#include "caught.h"

int main(int argc, char **argv) {
    const char *found = caught_word(argc, argv, 3);
    int at = argc > 4 ? atoi(argv[4]) : 3;
    caught_heap(caught_word(argc, argv, 1));
    char *block = (char *)caught_hidden(caught_block(caught_word(argc, argv, 2)));
    if (caught_is(found, "collect")) {
        caught_elsewhere(caught_free, block);
    } else {
        sagemem_free(block);
        CAUGHT_CHECK(sagemem_heap_check(heap) == 0);
    }
    ((volatile char *)block)[at] ^= 'w';
    if (caught_is(found, "alloc") || caught_is(found, "collect")) {
        for (int i = 0; i < 100; i++) caught_alloc(caught_size);
    } else if (caught_is(found, "free")) {
        sagemem_free(caught_behind);
    } else if (caught_is(found, "scope_end")) {
        sagemem_scope_end(heap);
    } else if (caught_is(found, "destroy")) {
        sagemem_heap_destroy(heap);
    } else if (caught_is(found, "release")) {
        for (int i = 0; i < 1000; i++) sagemem_free(caught_alloc(4000));
    } else if (caught_is(found, "later")) { /* what a program would do */
        if (caught_behind != NULL) sagemem_free(caught_behind);
        for (int i = 0; i < 1000; i++) caught_alloc(caught_size / (size_t)(1 + i % 3));
        sagemem_heap_destroy(heap);
    } else if (caught_is(found, "check")) {
        size_t damaged = sagemem_heap_check(heap);
        if (damaged == 0) caught_not("sagemem_heap_check finds nothing");
        CAUGHT_CHECK(damaged == 1);
        return 0;
    } else {
        caught_not("found '%s'", found);
    }
    caught_not("late_write");
}
