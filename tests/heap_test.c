/* Counters that no program can look at. More blocks than 32 bits count: the counters of heaps and scopes are set to where that many blocks would bring them, and
 * real blocks are counted across 2^32 and 2^40. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <inttypes.h>

enum { TAG = 7, BLOCK = 64, REAL = 200 };
static const uint64_t crossings[] = {(uint64_t)1 << 31, (uint64_t)1 << 32, (uint64_t)1 << 40};
#define CROSSINGS (sizeof crossings / sizeof crossings[0])

static int faults;
static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind, (void)error;
    faults++;
}
static int setup(void **state) {
    (void)state;
    faults = 0;
    sagemem_set_fault_handler(on_fault, NULL);
    return 0;
}

static sagemem_heap *heap_with(uint32_t flags) {
    sagemem_heap_desc desc = {NULL, NULL, 0, NULL, 0, 0};
    desc.flags = flags;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    return heap;
}
static sagemem_tag_stats tag_of(const sagemem_heap *heap) {
    sagemem_tag_stats s;
    assert_int_equal(sagemem_tag_get_stats(heap, TAG, &s), SAGEMEM_OK);
    return s;
}
static sagemem_heap_stats stats_of(const sagemem_heap *heap) {
    sagemem_heap_stats s;
    assert_int_equal(sagemem_heap_get_stats(heap, &s), SAGEMEM_OK);
    return s;
}

/* Counts n blocks of BLOCK bytes as if they had been allocated from the domain (whose tag has a record), or freed. */
static void pretend_alloc(smi_domain *d, uint64_t n) {
    smi_lock_take(&d->base->lock);
    smi_count_alloc(d, TAG, n * BLOCK, n);
    smi_lock_give(&d->base->lock);
}
static void pretend_free(smi_domain *d, uint64_t n) {
    smi_lock_take(&d->base->lock);
    smi_count_free(d, TAG, n * BLOCK, n);
    smi_lock_give(&d->base->lock);
}

/* What the report says of the tag in JSON must be the same number, to the last digit. */
static char text[1 << 20];
static size_t text_size;
static sagemem_status append(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)ctx, (void)offset;
    if (size > sizeof text - 1 - text_size) return SAGEMEM_E_FULL;
    memcpy(text + text_size, data, size);
    text[text_size += size] = '\0';
    return SAGEMEM_OK;
}
static void assert_reported(const sagemem_heap *heap, uint64_t number) {
    char digits[32];
    snprintf(digits, sizeof digits, ": %" PRIu64, number);
    text_size = 0;
    sagemem_sink sink = {append, NULL, NULL};
    assert_int_equal(sagemem_report(heap, SAGEMEM_FORMAT_JSON, &sink), SAGEMEM_OK);
    if (strstr(text, digits) == NULL) fail_msg("the report does not say '%s'", digits);
    text_size = 0;
    assert_int_equal(sagemem_report(heap, SAGEMEM_FORMAT_TEXT, &sink), SAGEMEM_OK);
    assert_int_equal(sagemem_report(heap, SAGEMEM_FORMAT_BRIEF, &sink), SAGEMEM_OK);
}

/* -- Heaps ---------------------------------------------------------------------------------------------- */

/* `real` of the `live` blocks are there; the others are pretended. */
static uint64_t bytes_of(void *const *blocks, size_t real) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < real; i++) bytes += sagemem_size(blocks[i]);
    return bytes;
}
static void assert_counted(const sagemem_heap *heap, uint64_t live, uint64_t ever, void *const *blocks, size_t real) {
    sagemem_tag_stats tag = tag_of(heap);
    sagemem_heap_stats all = stats_of(heap);
    assert_true(tag.blocks == live && all.blocks == live);
    assert_true(tag.total_blocks == ever && all.total_blocks == ever);
    assert_true(tag.peak_blocks >= live && tag.peak >= tag.used && all.used_peak >= all.used);
    assert_true(tag.used == (live - real) * BLOCK + bytes_of(blocks, real) && all.used == tag.used);
    assert_reported(heap, live);
    assert_reported(heap, tag.used);
}

static void heaps_count_past_32_bits(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED};
    for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++)
        for (size_t c = 0; c < CROSSINGS; c++) {
            sagemem_heap *heap = heap_with(flags[f]);
            static void *blocks[REAL];
            blocks[0] = sagemem_alloc(heap, BLOCK, TAG);
            uint64_t before = stats_of(NULL).blocks - 1, many = crossings[c] - REAL / 2;
            pretend_alloc(heap, many);
            assert_counted(heap, many + 1, many + 1, blocks, 1);
            for (int i = 1; i < REAL; i++) {
                blocks[i] = sagemem_alloc(heap, BLOCK, TAG);
                assert_non_null(blocks[i]);
            }
            assert_counted(heap, many + REAL, many + REAL, blocks, REAL);
            assert_true(stats_of(NULL).blocks == before + many + REAL);
            assert_true(tag_of(heap).peak_blocks == many + REAL);
            for (int i = 1; i < REAL; i++) sagemem_free(blocks[i]);
            assert_counted(heap, many + 1, many + REAL, blocks, 1);
            assert_int_equal(sagemem_heap_check(heap), 0);
            pretend_free(heap, many);
            assert_counted(heap, 1, many + REAL, blocks, 1);
            uint64_t ever = stats_of(NULL).total_blocks;
            sagemem_heap_destroy(heap);
            assert_true(stats_of(NULL).total_blocks == ever && stats_of(NULL).blocks == before);
        }
    assert_int_equal(faults, 0);
}

/* A heap that ends with all of them in it: its parent takes the totals over and has no block of it. */
static void heaps_bequeath_past_32_bits(void **state) {
    (void)state;
    sagemem_heap *parent = heap_with(0);
    sagemem_heap_desc desc = {NULL, parent, 0, NULL, 0, 0};
    uint64_t ever = 0, bytes = 0;
    for (size_t c = 0; c < CROSSINGS; c++) {
        sagemem_heap *heap = sagemem_heap_create(&desc);
        void *block = sagemem_alloc(heap, BLOCK, TAG);
        pretend_alloc(heap, crossings[c]);
        ever += crossings[c] + 1;
        bytes += crossings[c] * BLOCK + sagemem_size(block);
        assert_true(tag_of(parent).blocks == crossings[c] + 1 && tag_of(parent).total_blocks == ever);
        if (c == 1) sagemem_heap_reset(heap);
        if (c == 1) assert_true(tag_of(parent).blocks == 0 && tag_of(parent).total_blocks == ever);
        sagemem_heap_destroy(heap);
        assert_true(tag_of(parent).blocks == 0 && tag_of(parent).used == 0);
        assert_true(tag_of(parent).total_blocks == ever && tag_of(parent).total_bytes == bytes);
        assert_true(tag_of(parent).peak_blocks == crossings[c] + 1);
    }
    sagemem_heap_destroy(parent);
    assert_int_equal(faults, 0);
}

/* The counters of a slab page have 32 bits and are folded in time, however long a page serves. */
static void slab_pages_count_past_32_bits(void **state) {
    (void)state;
    sagemem_heap *heap = heap_with(0);
    static void *blocks[5000];
    for (int i = 0; i < 5000; i++) blocks[i] = sagemem_alloc(heap, BLOCK, TAG); /* till it has slab pages */
    smi_page *page = smi_lookup(blocks[4999]);
    if (page->kind != SMI_SLAB) fail_msg("no slab page after 5000 blocks");
    uint64_t ever = 5000;
    for (size_t c = 0; c < CROSSINGS; c++) {
        uint32_t more = SMI_FOLD_AT - page->freed - 50; /* to just before it is folded */
        page->total += more;
        page->freed += more;
        page->folded += crossings[c];
        ever += more + crossings[c];
        for (int i = 0; i < 500; i++, ever++) {
            sagemem_free(blocks[4999]);
            blocks[4999] = sagemem_alloc(heap, BLOCK, TAG);
            assert_ptr_equal(smi_lookup(blocks[4999]), page);
        }
        assert_true(page->total < SMI_FOLD_AT);
        assert_true(tag_of(heap).total_blocks == ever && tag_of(heap).blocks == 5000);
        assert_int_equal(sagemem_heap_check(heap), 0);
    }
    for (int i = 0; i < 5000; i++) sagemem_free(blocks[i]);
    sagemem_trim();
    assert_true(tag_of(heap).total_blocks == ever && tag_of(heap).blocks == 0);
    sagemem_heap_destroy(heap);
    assert_int_equal(faults, 0);
}

/* -- Scopes --------------------------------------------------------------------------------------------- */

static void scopes_count_past_32_bits(void **state) {
    (void)state;
    for (int checked = 0; checked < 2; checked++)
        for (int depth = 1; depth <= 3; depth++)
            for (size_t c = 0; c < CROSSINGS; c++) {
                sagemem_heap *heap = heap_with(checked ? (uint32_t)SAGEMEM_HEAP_CHECKED : 0);
                void *outside = sagemem_alloc(heap, BLOCK, TAG);
                uint64_t many = crossings[c] - REAL / 2;
                for (int i = 0; i < depth; i++) {
                    assert_int_equal(sagemem_scope_begin(heap, "many", (uint64_t)i), SAGEMEM_OK);
                    assert_non_null(sagemem_alloc(heap, BLOCK, TAG));
                    pretend_alloc(heap->top, many);
                }
                for (int i = 0; i < REAL; i++) assert_non_null(sagemem_alloc(heap, BLOCK, TAG));
                uint64_t in_all = (uint64_t)depth * (many + 1) + REAL;
                assert_true(stats_of(heap).blocks == in_all + 1);
                for (int i = depth; i > 0; i--) {
                    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
                    sagemem_scope_stats last;
                    sagemem_tag_stats tag;
                    assert_int_equal(sagemem_scope_get_last(heap, &last), SAGEMEM_OK);
                    assert_int_equal(sagemem_scope_tag_get_last(heap, TAG, &tag), SAGEMEM_OK);
                    uint64_t inside = (uint64_t)(depth - i + 1) * (many + 1) + REAL; /* this one and those that were in it */
                    assert_true(last.total_blocks == inside && tag.total_blocks == inside && tag.peak_blocks == inside);
                    assert_true(last.used_peak >= inside * BLOCK);
                    assert_true(tag_of(heap).blocks == (uint64_t)(i - 1) * (many + 1) + 1);
                }
                assert_true(stats_of(heap).total_blocks == in_all + 1 && stats_of(heap).used_peak >= in_all * BLOCK);
                assert_int_equal(stats_of(heap).used, sagemem_size(outside));
                assert_int_equal(sagemem_heap_check(heap), 0);
                sagemem_heap_destroy(heap);
            }
    assert_int_equal(faults, 0);
}

/* Blocks that other threads have freed are counted apart until the owner collects them. */
static void remote_frees_count_past_32_bits(void **state) {
    (void)state;
    for (size_t c = 0; c < CROSSINGS; c++) {
        sagemem_heap *heap = heap_with(0);
        void *block = sagemem_alloc(heap, BLOCK, TAG);
        smi_record *r = smi_record_find(heap, TAG);
        pretend_alloc(heap, crossings[c] + 5);
        r->remote_blocks += crossings[c];
        r->remote_bytes += crossings[c] * BLOCK;
        assert_counted(heap, 6, crossings[c] + 6, &block, 1);
        r->remote_blocks -= crossings[c];
        r->remote_bytes -= crossings[c] * BLOCK;
        pretend_free(heap, crossings[c] + 5);
        assert_counted(heap, 1, crossings[c] + 6, &block, 1);
        sagemem_heap_destroy(heap);
    }
    assert_int_equal(faults, 0);
}

/* With an argument: only the tests whose names match it (* and ?). */
/* What decides who gets slab pages adds up to the small blocks that lie in chunks, also after the table has grown. */
static void assert_rare(const sagemem_heap *heap, uint64_t blocks, uint64_t bytes) {
    uint64_t sum = 0;
    for (size_t i = 0; i < (size_t)1 << heap->rare_bits; i++) sum += heap->rare[i].live;
    assert_int_equal(sum, blocks);
    assert_int_equal(heap->rare_blocks, blocks);
    assert_int_equal(heap->rare_bytes, bytes);
}
static void rare_blocks_are_counted(void **state) {
    (void)state;
    enum { BLOCKS = 3 * (SMI_RARE_LOAD << SMI_RARE_BITS) / 2 };
    static void *blocks[BLOCKS];
    sagemem_heap *heap = heap_with(0);
    uint64_t bytes = 0;
    for (unsigned i = 0; i < BLOCKS; i++) {
        size_t size = i * 37 % 1500, alignment = i % 50 == 0 ? 256 : 16;
        blocks[i] = sagemem_aligned_alloc(heap, alignment, size, (sagemem_tag)(i % 400));
        assert_non_null(blocks[i]);
        bytes += sagemem_size(blocks[i]);
    }
    assert_int_equal(heap->slab_bytes, 0);
    assert_int_equal(heap->rare_bits, SMI_RARE_BITS + 2);
    assert_rare(heap, BLOCKS, bytes);
    for (unsigned i = 0; i < BLOCKS; i += 2) {
        bytes -= sagemem_size(blocks[i]);
        sagemem_free(blocks[i]);
    }
    assert_rare(heap, BLOCKS / 2, bytes);
    for (unsigned i = 1; i < BLOCKS; i += 2) {
        bytes -= sagemem_size(blocks[i]);
        blocks[i] = sagemem_realloc(heap, blocks[i], 8192 - 16 * (i % 3) + 16 * (i % 5), (sagemem_tag)(i % 400));
        assert_non_null(blocks[i]);
        sagemem_free(blocks[i]);
    }
    assert_rare(heap, 0, 0);
    assert_int_equal(bytes, 0);
    for (size_t size = 8160; size <= 8240; size += 4) { /* around the largest small block */
        void *block = sagemem_realloc(heap, sagemem_alloc(heap, 16000, 1), size, 1);
        assert_non_null(block);
        block = sagemem_realloc(heap, block, size + 40, 1);
        assert_non_null(block);
        sagemem_free(block);
        assert_rare(heap, 0, 0);
    }
    assert_int_equal(heap->waiting_bytes, 0);
    sagemem_heap_destroy(heap);
}

int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
#define T(name) cmocka_unit_test_setup(name, setup)
    static const struct CMUnitTest tests[] = {
        T(rare_blocks_are_counted),       T(heaps_count_past_32_bits),  T(heaps_bequeath_past_32_bits),
        T(slab_pages_count_past_32_bits), T(scopes_count_past_32_bits), T(remote_frees_count_past_32_bits),
    };
    return cmocka_run_group_tests_name("heap", tests, NULL, NULL);
}
