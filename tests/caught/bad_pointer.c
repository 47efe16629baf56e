/* bad_pointer CALL WHAT: something that is not the start of a block is given back, resized or asked about. */
#include "caught.h"

#include <sys/mman.h>

static char caught_static[256];

static void *caught_pointer(const char *what) {
    static char stack_like;
    (void)stack_like;
    const char *kind = caught_after(what, "inside_"), *mis = caught_after(what, "misaligned_");
    if (kind != NULL) {
        char *block = caught_block(kind);
        return block + (caught_is(kind, "vast") ? 9000000 : caught_size / 2 / 16 * 16);
    }
    if (mis != NULL) return (char *)caught_block(mis) + 1;
    if (caught_is(what, "static")) return caught_static + 64;
    if (caught_is(what, "malloc")) return malloc(100);
    if (caught_is(what, "null8")) return (void *)(uintptr_t)8;
    if (caught_is(what, "code")) return (void *)(uintptr_t)&caught_pointer;
    if (caught_is(what, "heap")) return heap;
    if (caught_is(what, "tag_name")) return (void *)(uintptr_t)sagemem_tag_name(tag);
    if (caught_is(what, "unmapped")) {
        void *at = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        munmap(at, 1 << 20);
        return (char *)at + 4096;
    }
    if (caught_is(what, "outside")) return (void *)(UINTPTR_MAX - 4095); /* beyond all addresses of a program */
    caught_not("what '%s'", what);
}

int main(int argc, char **argv) {
    char on_stack[256] = {0};
    const char *call = caught_word(argc, argv, 1), *what = caught_word(argc, argv, 2);
    caught_heap(argc > 3 ? argv[3] : "ordinary");
    caught_alloc(100);
    void *bad = caught_hidden(caught_is(what, "stack") ? on_stack + 64 : caught_pointer(what));
    caught_say(bad);
    if (caught_is(call, "free")) sagemem_free(bad);
    else if (caught_is(call, "realloc")) bad = sagemem_realloc(heap, bad, 64, SAGEMEM_TAG_SAME);
    else if (caught_is(call, "size")) caught_size = sagemem_size(bad);
    else if (caught_is(call, "keep")) bad = sagemem_keep(bad);
    else if (caught_is(call, "move")) bad = sagemem_move(heap, bad);
    else caught_not("call '%s'", call);
    caught_not("bad_pointer");
}
