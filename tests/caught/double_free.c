/* double_free MODE KIND WHEN: a block is given back twice, or resized after it was given back. */
#include "caught.h"

int main(int argc, char **argv) {
    caught_heap(caught_word(argc, argv, 1));
    const char *kind = caught_word(argc, argv, 2), *when = caught_word(argc, argv, 3);
    void *others[10];
    for (int i = 0; i < 10; i++) others[i] = caught_alloc(700);
    void *block = caught_block(kind);
    if (caught_is(when, "returned")) { /* by another thread, then by the owner */
        caught_elsewhere(caught_free, block);
        sagemem_free(block);
    } else if (caught_is(when, "elsewhere_twice") || caught_is(when, "elsewhere_scribbled")) {
        caught_elsewhere(caught_free, block);
        if (caught_is(when, "elsewhere_scribbled")) memset(block, 'z', 16); /* hides that it is free, until the owner looks */
        caught_elsewhere(caught_free, block);
        for (int i = 0; i < 10000; i++) caught_alloc(caught_size);
    } else {
        sagemem_free(block);
        for (int i = 0; caught_is(when, "later") && i < 10; i++) sagemem_free(others[i]);
        if (caught_is(when, "at_once") || caught_is(when, "later")) sagemem_free(block);
        else if (caught_is(when, "elsewhere")) caught_elsewhere(caught_free, block);
        else if (caught_is(when, "covered")) { /* by a larger block, in which the old words may still lie */
            void *large = sagemem_alloc(heap, 5032, tag);
            if ((char *)block <= (char *)large || (char *)block >= (char *)large + 5032) caught_not("not covered");
            sagemem_free(block);
        } else if (caught_is(when, "realloc")) block = sagemem_realloc(heap, block, 64, SAGEMEM_TAG_SAME);
        else if (caught_is(when, "size")) caught_size = sagemem_size(block);
        else caught_not("when '%s'", when);
    }
    caught_not("double_free");
}
