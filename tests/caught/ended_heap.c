/* ended_heap CALL [WHAT]: a heap is used that has ended; WHAT block, stack: something that never was one. */
#include "caught.h"

static void visit(void *ctx, const sagemem_block_info *info) { (void)ctx, (void)info; }

int main(int argc, char **argv) {
    const char *call = caught_word(argc, argv, 1), *what = argc > 2 ? argv[2] : "ended";
    char on_stack[512] = {0};
    sagemem_heap_stats stats;
    sagemem_tag_stats tag_stats;
    sagemem_heap_desc desc;
    caught_heap("ordinary");
    void *block = caught_block("slab");
    if (caught_is(what, "block")) heap = (sagemem_heap *)caught_alloc(1000);
    else if (caught_is(what, "stack")) heap = (sagemem_heap *)caught_hidden(on_stack + 64);
    else sagemem_heap_destroy(heap);
    if (caught_is(call, "alloc")) block = sagemem_alloc(heap, 48, tag);
    else if (caught_is(call, "alloc_large")) block = sagemem_alloc(heap, 100000, tag);
    else if (caught_is(call, "realloc")) block = sagemem_realloc(heap, NULL, 48, tag);
    else if (caught_is(call, "strdup")) block = sagemem_strdup(heap, "halo", tag);
    else if (caught_is(call, "scope_begin")) sagemem_scope_begin(heap, "forest", 12);
    else if (caught_is(call, "scope_end")) sagemem_scope_end(heap);
    else if (caught_is(call, "heap_destroy")) sagemem_heap_destroy(heap);
    else if (caught_is(call, "heap_reset")) sagemem_heap_reset(heap);
    else if (caught_is(call, "heap_adopt")) sagemem_heap_adopt(heap);
    else if (caught_is(call, "heap_check")) sagemem_heap_check(heap);
    else if (caught_is(call, "heap_visit")) sagemem_heap_visit(heap, visit, NULL);
    else if (caught_is(call, "heap_get_stats")) sagemem_heap_get_stats(heap, &stats);
    else if (caught_is(call, "tag_get_stats")) sagemem_tag_get_stats(heap, tag, &tag_stats);
    else if (caught_is(call, "heap_get_desc")) sagemem_heap_get_desc(heap, &desc);
    else if (caught_is(call, "limit_set")) sagemem_limit_set(heap, 1 << 20);
    else if (caught_is(call, "reserve")) sagemem_reserve(heap, 1 << 20);
    else if (caught_is(call, "report")) sagemem_report_file(heap, SAGEMEM_FORMAT_TEXT, "-");
    else if (caught_is(call, "allocator_for")) (void)sagemem_allocator_for(heap, tag);
    else caught_not("call '%s'", call);
    caught_not("ended_heap: %p", block);
}
