/* What the tests of arrays and of columns share: what the library said, and its books. Before it: enum { TAG = ... }. */
#ifndef TESTS_ROWS_H
#define TESTS_ROWS_H

#include "heard.h"

static void assert_error(sagemem_status status, const char *call, const char *part) {
    const sagemem_error *e = sagemem_last_error();
    if (e->status != status || strcmp(e->call, call) != 0 || strstr(e->message, part) == NULL)
        fail_msg("%s of %s: '%s'; expected %s of %s: '%s'", sagemem_status_name(e->status), e->call, e->message,
                 sagemem_status_name(status), call, part);
}
static void assert_fault(sagemem_status status, const char *call, const char *part) {
    assert_int_equal(fault.count, 1);
    fault.count = 0;
    assert_int_equal(fault.error.status, status);
    assert_string_equal(fault.error.call, call);
    if (strstr(fault.error.message, part) == NULL) fail_msg("'%s' does not say '%s'", fault.error.message, part);
}

static sagemem_heap *heap_with(uint32_t flags, uint64_t limit) {
    sagemem_heap_desc desc = {0};
    desc.name = "catalogue";
    desc.flags = flags;
    desc.limit = limit;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    return heap;
}
static sagemem_heap_stats stats_of(const sagemem_heap *heap) {
    sagemem_heap_stats s;
    assert_int_equal(sagemem_heap_get_stats(heap, &s), SAGEMEM_OK);
    return s;
}
static sagemem_tag_stats tag_of(const sagemem_heap *heap) {
    sagemem_tag_stats s;
    assert_int_equal(sagemem_tag_get_stats(heap, TAG, &s), SAGEMEM_OK);
    return s;
}

#endif
