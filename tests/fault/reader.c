/* A reader's whole life with every system call failing once, and for good. What it says it got is right and where it says it is; a
 * failure has consumed nothing more, and the call works when it is repeated; afterwards nothing is open, mapped or held. */
#include "calls.h"

enum { SIZE = 40000, HUGE_VIEW = 17 * MIB };

typedef enum input { BY_PATH, BY_DESCRIPTOR, BY_PIPE, BY_SOURCE } input;
typedef struct scenario {
    const char *name;
    input input;
    bool no_mapping, read_ahead, huge;
} scenario;

typedef struct life {
    const scenario *s;
    sagemem_heap *heap;
    sagemem_reader *reader;
    size_t at; /* consumed */
    int fd, ends[2], fails, closed;
} life;

static char data[SIZE], path[100];
static char byte_at(size_t i) { return (char)(i * 31 / 7); }

static bool seeks(const scenario *s) { return s->input != BY_PIPE; }

/* With read_ahead one cause is met twice at most by each call: by the thread, and when it is asked again. */
static void failed(life *l) {
    const sagemem_error *e = sagemem_last_error();
    check(was_met() && !is_hidden());
    bool no_memory =
        e->status == SAGEMEM_E_NOMEM && (now.error == ENOMEM || now.call == MMAP || now.call == MREMAP || now.call == MPROTECT);
    check(no_memory || (e->status == SAGEMEM_E_IO && is_the_reason(e->os_error)));
    if (++l->fails == 2) disarm();
    check(l->fails <= 4);
}
static void is_where_it_says(const life *l) { check(sagemem_reader_position(l->reader) == l->at); }

static void reads(life *l, size_t size) {
    static char to[SIZE];
    while (size > 0) {
        size_t got = SIZE;
        sagemem_status status = sagemem_read(l->reader, to, size, &got);
        check(got <= size && memcmp(to, data + l->at, got) == 0);
        check(got == size || status != SAGEMEM_OK);
        l->at += got;
        size -= got;
        is_where_it_says(l);
        if (status != SAGEMEM_OK) failed(l);
    }
}
static void views(life *l, size_t size) {
    const char *view;
    while ((view = (const char *)sagemem_read_view(l->reader, size)) == NULL) {
        is_where_it_says(l);
        failed(l);
    }
    for (size_t i = 0; i < size; i += l->s->huge ? size - 1 : 1) check(view[i] == byte_at(l->at + i));
    l->at += size;
    is_where_it_says(l);
}
static void skips(life *l, size_t size) {
    for (uint64_t end = l->at + size; l->at < end;) {
        sagemem_status status = sagemem_reader_skip(l->reader, end - l->at);
        l->at = (size_t)sagemem_reader_position(l->reader);
        check(l->at <= end && (l->at == end || status != SAGEMEM_OK));
        if (status != SAGEMEM_OK) failed(l);
    }
}
static void reads_at(life *l, size_t offset, size_t size) {
    static char to[SIZE];
    if (!seeks(l->s)) return;
    while (sagemem_read_at(l->reader, offset, to, size) != SAGEMEM_OK) {
        is_where_it_says(l);
        failed(l);
    }
    check(memcmp(to, data + offset, size) == 0);
}
static void meets_the_end(life *l) {
    char byte;
    size_t got = 1;
    while (sagemem_read(l->reader, &byte, 1, &got) != SAGEMEM_OK) failed(l);
    check(got == 0);
    for (;;) {
        check(sagemem_read_view(l->reader, 1) == NULL);
        if (sagemem_last_error()->status == SAGEMEM_E_EMPTY) break;
        failed(l);
    }
}

static sagemem_status source_read(void *ctx, void *to, size_t size, uint64_t offset, size_t *got) {
    const life *l = (const life *)ctx;
    uint64_t all = l->s->huge ? 3 * (uint64_t)HUGE_VIEW : SIZE;
    *got = offset < all ? (size_t)(all - offset) : 0;
    if (*got > size) *got = size;
    if (!l->s->huge && *got > 3000) *got = 3000;
    for (size_t i = 0; i < *got; i += l->s->huge ? 4093 : 1) ((char *)to)[i] = byte_at((size_t)offset + i);
    if (*got > 0) ((char *)to)[*got - 1] = byte_at((size_t)offset + *got - 1);
    return SAGEMEM_OK;
}
static sagemem_status source_close(void *ctx) {
    ((life *)ctx)->closed++;
    return SAGEMEM_OK;
}

static void prepare(life *l) {
    l->fd = l->ends[0] = l->ends[1] = -1;
    if (l->s->input == BY_DESCRIPTOR) l->fd = open(path, O_RDONLY);
    if (l->s->input == BY_PIPE) {
        check(pipe(l->ends) == 0 && write(l->ends[1], data, SIZE) == SIZE);
        close(l->ends[1]);
        l->fd = l->ends[0];
    }
    l->heap = sagemem_heap_create(NULL);
    check(l->heap != NULL);
}

static void one_life(void *ctx) {
    static life l;
    memset(&l, 0, sizeof l);
    l.s = (const scenario *)ctx;
    aside_begin();
    prepare(&l);
    int handles = descriptors();
    aside_end();
    sagemem_input source = {source_read, source_close, &l, true};
    sagemem_reader_desc d = {0};
    if (l.s->input == BY_PATH) d.path = path;
    else if (l.s->input == BY_SOURCE) d.source = &source;
    else d.fd_plus_one = l.fd + 1;
    d.no_mapping = l.s->no_mapping;
    d.read_ahead = l.s->read_ahead;
    d.buffer_bytes = 5000;
    d.heap = l.heap;
    d.tag = TAG;
    while ((l.reader = sagemem_reader_open(&d)) == NULL) {
        check(l.closed == 0);
        failed(&l);
    }
    if (l.s->huge) {
        views(&l, HUGE_VIEW);
        views(&l, 2 * HUGE_VIEW);
    } else {
        reads(&l, 100);
        reads(&l, 9000);
        views(&l, 300);
        views(&l, 7000); /* more than a buffer */
        reads_at(&l, 33333, 4000);
        skips(&l, 6100);
        views(&l, 1);
        reads(&l, SIZE - l.at);
    }
    meets_the_end(&l);
    check(sagemem_reader_size(l.reader) == l.at);
    ok(sagemem_reader_close(l.reader));
    disarm();
    aside_begin();
    check(l.closed == (l.s->input == BY_SOURCE));
    check(descriptors() == handles);
    sagemem_heap_stats stats;
    ok(sagemem_heap_get_stats(l.heap, &stats));
    check(stats.mapped == 0 && stats.used == 0 && sagemem_heap_check(l.heap) == 0 && faults == 0 && log_errors == 0);
    sagemem_heap_destroy(l.heap);
    if (l.fd >= 0) close(l.fd);
    aside_end();
}

static const scenario scenarios[] = {
    {"mapped", BY_PATH, false, false, false},
    {"mapped, ahead", BY_PATH, false, true, false},
    {"mapped descriptor", BY_DESCRIPTOR, false, false, false},
    {"file", BY_PATH, true, false, false},
    {"file, ahead", BY_PATH, true, true, false},
    {"descriptor", BY_DESCRIPTOR, true, false, false},
    {"descriptor, ahead", BY_DESCRIPTOR, true, true, false},
    {"pipe", BY_PIPE, false, false, false},
    {"pipe, ahead", BY_PIPE, false, true, false},
    {"source", BY_SOURCE, false, false, false},
    {"source, ahead", BY_SOURCE, false, true, false},
};
static const scenario of_huge_views = {"views with pages of their own", BY_SOURCE, false, false, true};

static void every_call_of_a_reader_fails(void **state) {
    (void)state;
    for (size_t i = 0; i < SIZE; i++) data[i] = byte_at(i);
    snprintf(path, sizeof path, "%s", in_place("read"));
    FILE *file = fopen(path, "wb");
    check(file != NULL && fwrite(data, 1, SIZE, file) == SIZE && fclose(file) == 0);
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++)
        sweep(scenarios[i].name, CALLS, one_life, (void *)(uintptr_t)&scenarios[i]);
    if (!slow()) sweep(of_huge_views.name, CALLS, one_life, (void *)(uintptr_t)&of_huge_views);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(every_call_of_a_reader_fails, before_each, after_each)};
    return cmocka_run_group_tests(tests, begin, finish);
}
