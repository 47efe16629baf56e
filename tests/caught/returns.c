/* returns MODE: the fault handler returns. The call that broke the rule fails with the documented status, nothing is changed
 * or lost: the statistics are as before, the heap works, sagemem_heap_check finds nothing. Exit status 0: all of that. */
#include "caught.h"

static struct {
    int calls;
    sagemem_fault_kind kind;
    sagemem_error error;
} caught_fault;

static void caught_handler(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    CAUGHT_CHECK(ctx == &caught_fault);
    caught_fault.calls++;
    caught_fault.kind = kind;
    caught_fault.error = *error;
}

typedef struct caught_numbers {
    sagemem_heap_stats heap;
    sagemem_tag_stats tag;
} caught_numbers;

static caught_numbers caught_count(void) {
    caught_numbers now;
    memset(&now, 0, sizeof now);
    CAUGHT_CHECK(sagemem_heap_get_stats(heap, &now.heap) == SAGEMEM_OK);
    CAUGHT_CHECK(sagemem_tag_get_stats(heap, tag, &now.tag) == SAGEMEM_OK);
    return now;
}

static bool caught_same(const caught_numbers *a, const caught_numbers *b) {
    return a->heap.used == b->heap.used && a->heap.used_peak == b->heap.used_peak && a->heap.held == b->heap.held &&
           a->heap.blocks == b->heap.blocks && a->heap.total_blocks == b->heap.total_blocks && a->heap.scopes == b->heap.scopes &&
           a->heap.overhead == b->heap.overhead && a->tag.used == b->tag.used && a->tag.peak == b->tag.peak &&
           a->tag.blocks == b->tag.blocks && a->tag.total_blocks == b->tag.total_blocks && a->tag.total_bytes == b->tag.total_bytes;
}

static bool caught_works(void) {
    static const size_t sizes[] = {48, 328, 3000, 100000, 300000};
    char *blocks[5];
    for (int i = 0; i < 5; i++) {
        blocks[i] = (char *)caught_alloc(sizes[i]);
        blocks[i] = (char *)sagemem_realloc(heap, blocks[i], 2 * sizes[i], SAGEMEM_TAG_SAME);
        if (blocks[i] == NULL || blocks[i][0] != 'x' || blocks[i][sizes[i] - 1] != 'x') return false;
    }
    for (int i = 0; i < 5; i++) sagemem_free(blocks[i]);
    return caught_fault.calls == 0;
}

/* The call is made, must fail with this kind and status, and the heap must be as before. */
#define CAUGHT_FAILS(expected_kind, expected_status, call, failed)                                                                 \
    do {                                                                                                                           \
        caught_numbers before = caught_count();                                                                                    \
        memset(&caught_fault, 0, sizeof caught_fault);                                                                             \
        bool as_documented = (call)failed;                                                                                         \
        caught_numbers after = caught_count();                                                                                     \
        if (!as_documented) caught_not("%s:%d: %s does not give %s", __FILE__, __LINE__, #call, #failed);                          \
        if (caught_fault.calls != 1)                                                                                               \
            caught_not("%s:%d: %s: the handler was called %d times", __FILE__, __LINE__, #call, caught_fault.calls);               \
        if (caught_fault.kind != (expected_kind) || caught_fault.error.status != (expected_status))                                \
            caught_not("%s:%d: %s: %s: %s", __FILE__, __LINE__, #call, sagemem_status_name(caught_fault.error.status),             \
                       caught_fault.error.message);                                                                                \
        if (sagemem_last_error()->status != (expected_status))                                                                     \
            caught_not("%s:%d: %s: sagemem_last_error has %s", __FILE__, __LINE__, #call,                                          \
                       sagemem_status_name(sagemem_last_error()->status));                                                         \
        if (!caught_same(&before, &after)) caught_not("%s:%d: %s: the statistics have changed", __FILE__, __LINE__, #call);        \
        caught_fault.calls = 0;                                                                                                    \
    } while (0)
#define CAUGHT_MISUSE(status, call, failed) CAUGHT_FAILS(SAGEMEM_MISUSE, status, call, failed)

static int caught_done(void *block) { return sagemem_free(block), 0; }

/* All calls that take a block. */
static void caught_block_calls(void *bad, sagemem_status status) {
    bad = caught_hidden(bad);
    CAUGHT_MISUSE(status, caught_done(bad), == 0);
    CAUGHT_MISUSE(status, sagemem_realloc(heap, bad, 64, SAGEMEM_TAG_SAME), == NULL);
    CAUGHT_MISUSE(status, sagemem_size(bad), == 0);
    CAUGHT_MISUSE(status, sagemem_tag_of(bad), == SAGEMEM_UNTAGGED);
    CAUGHT_MISUSE(status, sagemem_heap_of(bad), == NULL);
    CAUGHT_MISUSE(status, sagemem_keep(bad), == NULL);
    CAUGHT_MISUSE(status, sagemem_move(heap, bad), == NULL);
    CAUGHT_CHECK(sagemem_check(bad) == status && sagemem_last_error()->status == status);
    CAUGHT_CHECK(!sagemem_owns(bad));
    CAUGHT_CHECK(caught_fault.calls == 0);
    CAUGHT_CHECK(sagemem_heap_check(heap) == 0);
    CAUGHT_CHECK(caught_works());
}

static void *caught_from_elsewhere(void *block) {
    CAUGHT_MISUSE(SAGEMEM_E_BUSY, sagemem_alloc(heap, 48, tag), == NULL);
    CAUGHT_MISUSE(SAGEMEM_E_BUSY, sagemem_alloc(heap, 300000, tag), == NULL);
    CAUGHT_MISUSE(SAGEMEM_E_BUSY, sagemem_calloc(heap, 2, 48, tag), == NULL);
    CAUGHT_MISUSE(SAGEMEM_E_BUSY, sagemem_realloc(heap, block, 3000, SAGEMEM_TAG_SAME), == NULL);
    CAUGHT_MISUSE(SAGEMEM_E_BUSY, sagemem_strdup(heap, "halo", tag), == NULL);
    CAUGHT_MISUSE(SAGEMEM_E_BUSY, sagemem_keep(block), == NULL);
    CAUGHT_MISUSE(SAGEMEM_E_BUSY, sagemem_move(NULL, block), == NULL);
    CAUGHT_MISUSE(SAGEMEM_E_BUSY, sagemem_scope_begin(heap, "forest", 12), == SAGEMEM_E_BUSY);
    CAUGHT_MISUSE(SAGEMEM_E_BUSY, sagemem_scope_end(heap), == SAGEMEM_E_BUSY);
    CAUGHT_MISUSE(SAGEMEM_E_BUSY, (sagemem_heap_destroy(heap), 0), == 0);
    CAUGHT_MISUSE(SAGEMEM_E_BUSY, (sagemem_heap_reset(heap), 0), == 0);
    return NULL;
}

static void caught_pairs(void) {
    CAUGHT_MISUSE(SAGEMEM_E_ARGUMENT, sagemem_scope_end(heap), == SAGEMEM_E_ARGUMENT);
    CAUGHT_CHECK(sagemem_scope_begin(heap, "forest", 12) == SAGEMEM_OK && sagemem_scope_end(heap) == SAGEMEM_OK);
    CAUGHT_MISUSE(SAGEMEM_E_ARGUMENT, sagemem_scope_end(heap), == SAGEMEM_E_ARGUMENT);
    CAUGHT_MISUSE(SAGEMEM_E_ARGUMENT, (sagemem_heap_destroy(NULL), 0), == 0);
    CAUGHT_MISUSE(SAGEMEM_E_ARGUMENT, (sagemem_heap_reset(NULL), 0), == 0);
    CAUGHT_MISUSE(SAGEMEM_E_ARGUMENT, sagemem_heap_adopt(NULL), == SAGEMEM_E_ARGUMENT);
    sagemem_heap_desc desc = {0};
    desc.name = "snapshot";
    desc.parent = heap;
    sagemem_heap *child = sagemem_heap_create(&desc);
    CAUGHT_MISUSE(SAGEMEM_E_BUSY, (sagemem_heap_destroy(heap), 0), == 0);
    sagemem_heap_destroy(child);
    CAUGHT_MISUSE(SAGEMEM_E_STALE, sagemem_alloc(child, 48, tag), == NULL);
    CAUGHT_MISUSE(SAGEMEM_E_STALE, sagemem_scope_begin(child, "forest", 12), == SAGEMEM_E_STALE);
    CAUGHT_MISUSE(SAGEMEM_E_STALE, (sagemem_heap_destroy(child), 0), == 0);
    CAUGHT_MISUSE(SAGEMEM_E_STALE, sagemem_heap_adopt(child), == SAGEMEM_E_STALE);
    static char buffer[1 << 18];
    sagemem_source *source = sagemem_source_buffer(buffer, sizeof buffer);
    desc.source = source;
    child = sagemem_heap_create(&desc);
    CAUGHT_CHECK(source != NULL && child != NULL);
    CAUGHT_MISUSE(SAGEMEM_E_BUSY, (sagemem_source_destroy(source), 0), == 0);
    CAUGHT_CHECK(sagemem_alloc(child, 48, tag) != NULL); /* it was not destroyed */
    sagemem_heap_destroy(child);
    sagemem_source_destroy(source);
}

/* A damaged block is not freed; once repaired it can be. */
static void caught_damage(const char *kind) {
    CAUGHT_CHECK(sagemem_scope_begin(heap, "snapshot", 1) == SAGEMEM_OK);
    char *block = (char *)caught_hidden(caught_block(kind));
    const int places[] = {-1, (int)sagemem_size(block)};
    for (int i = 0; i < 2; i++) {
        block[places[i]] ^= 'w';
        CAUGHT_FAILS(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, caught_done(block), == 0);
        CAUGHT_FAILS(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, sagemem_realloc(heap, block, 64, SAGEMEM_TAG_SAME), == NULL);
        CAUGHT_CHECK(sagemem_check(block) == SAGEMEM_E_CORRUPT && sagemem_heap_check(heap) == 1);
        block[places[i]] ^= 'w';
        CAUGHT_CHECK(sagemem_check(block) == SAGEMEM_OK && sagemem_heap_check(heap) == 0);
    }
    block[places[1]] ^= 'w';
    memset(&caught_fault, 0, sizeof caught_fault);
    CAUGHT_CHECK(sagemem_scope_end(heap) == SAGEMEM_E_CORRUPT); /* and has ended */
    CAUGHT_CHECK(caught_fault.calls == 1 && caught_fault.kind == SAGEMEM_CORRUPTION);
    caught_numbers now = caught_count();
    CAUGHT_CHECK(now.heap.scopes == 0 && sagemem_heap_check(heap) == 0);
    caught_fault.calls = 0;
}

/* The allocation that finds a damaged free block fails; the next one takes another. */
static void caught_late(const char *kind) {
    sagemem_heap *others = heap;
    caught_heap("ordinary");
    char *block = (char *)caught_hidden(caught_block(kind));
    sagemem_free(block);
    block[1] ^= 'w';
    CAUGHT_CHECK(sagemem_heap_check(heap) == 1);
    CAUGHT_FAILS(SAGEMEM_CORRUPTION, SAGEMEM_E_CORRUPT, sagemem_alloc(heap, caught_size, tag), == NULL);
    CAUGHT_CHECK(caught_works());
    sagemem_heap_destroy(heap);
    CAUGHT_CHECK(caught_fault.calls == 0);
    heap = others;
}

static void caught_no_log(void *ctx, sagemem_log_level level, const char *message) { (void)ctx, (void)level, (void)message; }

int main(int argc, char **argv) {
    const char *mode = caught_word(argc, argv, 1);
    bool checked = caught_is(mode, "checked");
    char on_stack[256] = {0};
    caught_heap(mode);
    sagemem_set_fault_handler(caught_handler, &caught_fault);
    sagemem_set_logger(caught_no_log, NULL);
    CAUGHT_CHECK(caught_works());
    static const char *const kinds[] = {"slab", "chunk", "behind", "before", "last", "large", "huge", "vast"};
    for (int i = 0; i < 8; i++) {
        char *block = (char *)caught_hidden(caught_block(kinds[i]));
        caught_block_calls(block + caught_size / 32 * 16, SAGEMEM_E_FOREIGN);
        caught_block_calls(block + 1, SAGEMEM_E_FOREIGN);
        caught_elsewhere(caught_from_elsewhere, block);
        CAUGHT_CHECK(sagemem_check(block) == SAGEMEM_OK);
        sagemem_free(block);
        CAUGHT_CHECK(caught_fault.calls == 0);
        caught_block_calls(block, SAGEMEM_E_STALE);
        char name[32];
        snprintf(name, sizeof name, "scope_%s", kinds[i]);
        block = (char *)caught_hidden(caught_block(name));
        caught_block_calls(block + 16, SAGEMEM_E_FOREIGN);
        sagemem_free(block);
        caught_block_calls(block, SAGEMEM_E_STALE);
        CAUGHT_CHECK(sagemem_scope_end(heap) == SAGEMEM_OK);
        caught_block_calls(block, SAGEMEM_E_STALE);
    }
    caught_block_calls(on_stack + 64, SAGEMEM_E_FOREIGN);
    caught_block_calls(heap, SAGEMEM_E_FOREIGN);
    caught_block_calls((void *)(uintptr_t)8, SAGEMEM_E_FOREIGN);
    for (size_t size = 0; size < 20; size++) caught_elsewhere(caught_free, sagemem_alloc(heap, size, tag));
    CAUGHT_CHECK(caught_works() && sagemem_heap_check(heap) == 0); /* coming back leaves no trace */
    caught_pairs();
    for (int i = 1; checked && i < 8; i++) caught_damage(kinds[i]);
    CAUGHT_CHECK(sagemem_heap_check(heap) == 0 && caught_works());
    if (caught_is(mode, "ordinary")) {
        caught_late("slab");
        caught_late("chunk");
    }
    memset(&caught_fault, 0, sizeof caught_fault);
    sagemem_heap_destroy(heap);
    CAUGHT_CHECK(caught_fault.calls == 0);
    return 0;
}
