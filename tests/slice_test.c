/* What slices do at the ends of their counters, which no program reaches in the time of a test: with the counters set there. */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static sagemem_status faulted;
static int releases;

static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    faulted = error->status;
}
static void on_release(void *ctx, const void *data) {
    (void)ctx, (void)data;
    releases++;
}

static void a_full_count_takes_no_more(void **state) {
    (void)state;
    releases = 0;
    sagemem_slice slice = sagemem_slice_wrap("x", 1, on_release, NULL), out;
    uint64_t word = slice.owner->word;
    slice.owner->word = word - 1 + UINT32_MAX;
    assert_int_equal(sagemem_slice_count(slice), UINT32_MAX);
    assert_null(sagemem_slice_retain(slice).owner);
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_FULL);
    assert_int_equal(sagemem_slice_sub(slice, 0, 1, &out), SAGEMEM_E_FULL);
    assert_null(out.owner);
    assert_int_equal(slice.owner->word, word - 1 + UINT32_MAX); /* not a bit over into the serial */
    sagemem_slice_release(slice);
    assert_non_null(sagemem_slice_retain(slice).owner);
    slice.owner->word = word;
    sagemem_slice_release(slice);
    assert_int_equal(releases, 1);
    assert_int_equal(faulted, SAGEMEM_OK);
}

static void an_owner_without_serials_is_used_no_more(void **state) {
    (void)state;
    releases = 0;
    sagemem_slice last = sagemem_slice_wrap("x", 1, on_release, NULL);
    last.owner->word = (uint64_t)UINT32_MAX << 32 | 1;
    last.serial = UINT32_MAX;
    assert_int_equal(sagemem_slice_count(sagemem_slice_retain(last)), 2);
    sagemem_slice_release(last);
    sagemem_slice_release(last);
    assert_int_equal(releases, 1);
    assert_int_equal(last.owner->word, 0);
    sagemem_slice next = sagemem_slice_wrap("x", 1, NULL, NULL), another = sagemem_slice_wrap("x", 1, NULL, NULL);
    assert_ptr_not_equal(next.owner, last.owner);
    assert_ptr_not_equal(another.owner, last.owner);
    sagemem_slice_release(next);
    sagemem_slice_release(another);
    assert_int_equal(faulted, SAGEMEM_OK);
    sagemem_slice_release(last);
    assert_int_equal(faulted, SAGEMEM_E_STALE);
}

int main(void) {
    sagemem_set_fault_handler(on_fault, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_count_takes_no_more),
        cmocka_unit_test(an_owner_without_serials_is_used_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
