/* pairing WHAT: ends without a begin, ends in the wrong order. */
#include "caught.h"

static void caught_source(sagemem_source *source) {
    CAUGHT_CHECK(source != NULL);
    sagemem_heap_desc desc = {0};
    desc.name = "catalogue";
    desc.source = source;
    heap = sagemem_heap_create(&desc);
    caught_alloc(100);
    sagemem_source_destroy(source);
}

int main(int argc, char **argv) {
    const char *what = caught_word(argc, argv, 1);
    caught_heap("ordinary");
    if (caught_is(what, "scope_end_twice")) {
        sagemem_scope_begin(heap, "forest", 12);
        sagemem_scope_end(heap);
        sagemem_scope_end(heap);
    } else if (caught_is(what, "scope_end_none")) {
        sagemem_scope_end(heap);
    } else if (caught_is(what, "destroy_parent")) {
        sagemem_heap_desc desc = {0};
        desc.name = "snapshot";
        desc.parent = heap;
        CAUGHT_CHECK(sagemem_heap_create(&desc) != NULL);
        sagemem_heap_destroy(heap);
    } else if (caught_is(what, "source_buffer")) {
        static char buffer[1 << 20];
        caught_source(sagemem_source_buffer(buffer, sizeof buffer));
    } else if (caught_is(what, "source_file")) {
        caught_source(sagemem_source_file(caught_word(argc, argv, 2), 1 << 20));
    } else if (caught_is(what, "source_by_value")) {
        sagemem_source source = sagemem_source_system();
        sagemem_source_destroy(&source);
    } else if (caught_is(what, "destroy_null")) {
        sagemem_heap_destroy(NULL);
    } else if (caught_is(what, "reset_null")) {
        sagemem_heap_reset(NULL);
    } else if (caught_is(what, "adopt_null")) {
        sagemem_heap_adopt(NULL);
    } else {
        caught_not("what '%s'", what);
    }
    caught_not("pairing");
}
