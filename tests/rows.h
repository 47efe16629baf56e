/* What the tests of arrays and of columns share: what the library said, and its books. Before it: enum { TAG = ... }. */
#ifndef TESTS_ROWS_H
#define TESTS_ROWS_H

#include "public.h"

static struct {
    int count;
    sagemem_error error;
} fault;
static struct {
    int count;
    char last[400];
} logged;

static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    fault.count++;
    fault.error = *error;
}
static void on_log(void *ctx, sagemem_log_level level, const char *message) {
    (void)ctx, (void)level;
    logged.count++;
    snprintf(logged.last, sizeof logged.last, "%s", message);
}

static int setup(void **state) {
    (void)state;
    memset(&fault, 0, sizeof fault);
    memset(&logged, 0, sizeof logged);
    sagemem_set_fault_handler(on_fault, NULL);
    sagemem_set_logger(on_log, NULL);
    return 0;
}

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
