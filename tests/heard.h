/* What the library says is kept, for tests to look at: faults and messages. */
#ifndef TESTS_HEARD_H
#define TESTS_HEARD_H

#include "public.h"

static struct {
    int count;
    sagemem_fault_kind kind;
    sagemem_error error;
} fault;
static struct {
    int count;
    char last[400];
} logged;

static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx;
    fault.count++;
    fault.kind = kind;
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

#endif
