/* wrong_thread CALL KIND: another thread uses a heap that it does not own. */
#include "caught.h"

static const char *caught_call;

static void nothing(void *ctx) { (void)ctx; }
static void visit(void *ctx, const sagemem_block_info *info) { (void)ctx, (void)info; }

static void *caught_use(void *block) {
    const char *call = caught_call;
    if (caught_is(call, "alloc")) block = sagemem_alloc(heap, caught_size, tag);
    else if (caught_is(call, "calloc")) block = sagemem_calloc(heap, 1, caught_size, tag);
    else if (caught_is(call, "aligned_alloc")) block = sagemem_aligned_alloc(heap, 64, caught_size, tag);
    else if (caught_is(call, "realloc")) block = sagemem_realloc(heap, block, 2 * caught_size, SAGEMEM_TAG_SAME);
    else if (caught_is(call, "scope_begin")) sagemem_scope_begin(heap, "forest", 12);
    else if (caught_is(call, "scope_end")) sagemem_scope_end(heap);
    else if (caught_is(call, "scope_defer")) sagemem_scope_defer(heap, nothing, NULL);
    else if (caught_is(call, "scope_limit")) sagemem_scope_limit(heap, 1 << 20);
    else if (caught_is(call, "keep")) block = sagemem_keep(block);
    else if (caught_is(call, "move")) block = sagemem_move(NULL, block);
    else if (caught_is(call, "heap_check")) sagemem_heap_check(heap);
    else if (caught_is(call, "heap_visit")) sagemem_heap_visit(heap, visit, NULL);
    else if (caught_is(call, "heap_reset")) sagemem_heap_reset(heap);
    else if (caught_is(call, "heap_destroy")) sagemem_heap_destroy(heap);
    else caught_not("call '%s'", call);
    caught_not("wrong_thread");
}

int main(int argc, char **argv) {
    caught_call = caught_word(argc, argv, 1);
    caught_heap("ordinary");
    caught_elsewhere(caught_use, caught_block(caught_word(argc, argv, 2)));
    return 0;
}
