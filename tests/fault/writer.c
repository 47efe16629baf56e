/* A writer's whole life with every system call failing once, and for good, in every way there is. After each failure and at the
 * end the file is looked at by other means: it holds what sagemem_writer_written says, and the old one if that was promised. */
#include "calls.h"

enum { OLD = 5000 };
static char old[OLD];

typedef enum target { BY_PATH, BY_DESCRIPTOR, BY_APPENDING, BY_PIPE, BY_SINK } target;
typedef enum ending { CLOSES, ABANDONS, ENDS_WITH_SCOPE } ending; /* the latter two at the first failure */
typedef struct scenario {
    const char *name;
    target target;
    bool atomic, background;
    sagemem_sync sync;
    size_t buffer;
    uint64_t offset;
    ending ending;
    call also;
} scenario;

/* want: what was accepted; a patch that failed may have been made in part: maybe. */
typedef struct life {
    const scenario *s;
    sagemem_heap *heap;
    sagemem_writer *writer;
    char want[1 << 14], maybe[1 << 14], path[100];
    size_t size, patch_at, patched;
    int fd, ends[2], fails, repaired;
    memory_sink sink;
} life;

static void accept(life *l, const char *data, size_t size) {
    check(l->size + size <= sizeof l->want);
    memcpy(l->want + l->size, data, size);
    memcpy(l->maybe + l->size, data, size);
    l->size += size;
}

/* Byte i of what was accepted may be in the file as c. */
static bool may_be(const life *l, size_t i, char c) { return l->want[i] == c || l->maybe[i] == c; }

/* The file's name, whatever happens, holds this now. */
static void look(const life *l, uint64_t written) {
    const scenario *s = l->s;
    if (s->target == BY_PIPE || s->target == BY_SINK) return;
    bytes b = slurp(l->path);
    if (s->atomic) {
        check(b.size == OLD && memcmp(b.at, old, OLD) == 0);
    } else {
        size_t from = s->target == BY_APPENDING ? OLD : (size_t)s->offset;
        check(b.size >= (written > 0 ? from + written : 0));
        for (size_t i = 0; i < written; i++) check(may_be(l, i, b.at[from + i]));
    }
    free(b.at);
}

/* A new file that could not be removed: the next writer does it. */
static bool may_leave(void) { return now.call == UNLINK || now.also == UNLINK; }

static bool may_fail_so(sagemem_status status) {
    const sagemem_error *e = sagemem_last_error();
    if (status == SAGEMEM_E_IO) return is_the_reason(e->os_error);
    return status == SAGEMEM_E_NOMEM && (now.error == ENOMEM || now.call == MMAP || now.call == MREMAP || now.call == MPROTECT);
}

/* After a failure: nothing has changed, and the cause is removed when it was met often enough. */
static void failed(life *l, sagemem_status status) {
    aside_begin();
    check(was_met() && !is_hidden());
    check(may_fail_so(status));
    if (l->writer != NULL) {
        uint64_t written = sagemem_writer_written(l->writer);
        check(sagemem_writer_accepted(l->writer) == l->size && written <= l->size);
        look(l, written);
    }
    /* What a sync has lost no other brings back. */
    if (l->writer != NULL && (now.call == FSYNC || now.call == CLOSE)) check(sagemem_writer_flush(l->writer) != SAGEMEM_OK);
    l->fails++;
    if (l->fails % 3 == 0) {
        disarm();
        l->repaired++;
    }
    check(l->repaired < 2 || now.call == FSYNC || now.call == CLOSE);
    aside_end();
}

static bool is_over(const life *l) { return (l->fails > 0 && l->s->ending != CLOSES) || l->repaired > 1; }

static void appends(life *l, size_t size, char first) {
    static char data[4000];
    for (size_t i = 0; i < size; i++) data[i] = (char)(first + (char)(i % 23));
    for (size_t done = 0; done < size && !is_over(l);) {
        size_t before = (size_t)sagemem_writer_accepted(l->writer);
        sagemem_status status = sagemem_write(l->writer, data + done, size - done);
        size_t took = (size_t)sagemem_writer_accepted(l->writer) - before;
        check(took == 0 || took == size - done || l->s->target == BY_PIPE || l->s->target == BY_APPENDING);
        check(took == size - done || status != SAGEMEM_OK);
        accept(l, data + done, took);
        done += took;
        if (status != SAGEMEM_OK) failed(l, status);
    }
}
static void builds(life *l, size_t size) {
    char *room;
    while ((room = (char *)sagemem_write_begin(l->writer, size)) == NULL) {
        failed(l, sagemem_last_error()->status);
        if (is_over(l)) return;
    }
    for (size_t i = 0; i < size; i++) room[i] = (char)('0' + i % 7);
    accept(l, room, size);
    sagemem_write_end(l->writer, size);
}
static void patches(life *l, size_t at, size_t size) {
    static const char data[200] = "patched, patched, patched";
    uint64_t from = l->s->target == BY_PIPE || l->s->target == BY_APPENDING ? sagemem_writer_written(l->writer) : 0;
    if (at < from || l->s->background) { /* it may be written at any moment */
        if (from > 0 || l->s->target == BY_PIPE || l->s->target == BY_APPENDING) return;
    }
    memcpy(l->maybe + at, data, size);
    for (;;) {
        sagemem_status status = sagemem_writer_patch(l->writer, l->s->offset + at, data, size);
        if (status == SAGEMEM_OK) break;
        failed(l, status);
        if (is_over(l)) return;
    }
    memcpy(l->want + at, data, size);
}
static void flushes(life *l) {
    sagemem_status status;
    while (!is_over(l) && (status = sagemem_writer_flush(l->writer)) != SAGEMEM_OK) failed(l, status);
    if (!is_over(l)) check(sagemem_writer_written(l->writer) == l->size);
}

static void writes(life *l) {
    if (!is_over(l)) appends(l, 8, 'A');
    if (!is_over(l)) appends(l, 900, 'a');
    if (!is_over(l)) appends(l, 900, 'b');
    if (!is_over(l)) appends(l, 3000, 'c'); /* larger than the buffer */
    if (!is_over(l)) builds(l, 700);
    if (!is_over(l)) patches(l, 0, 6);
    if (!is_over(l)) patches(l, 4700, 200); /* written already, and not yet */
    if (!is_over(l)) flushes(l);
    if (!is_over(l)) appends(l, 500, 'd');
}

/* -- The end */

static void drains(life *l, bytes *got) {
    got->at = (char *)malloc(sizeof l->want);
    fcntl(l->ends[0], F_SETFL, O_NONBLOCK);
    ssize_t n;
    for (got->size = 0; (n = read(l->ends[0], got->at + got->size, sizeof l->want - got->size)) > 0;) got->size += (size_t)n;
}

/* What is there after the writer's end, of which `written` bytes were safe; closed: all. */
static void look_at_the_end(life *l, uint64_t written, bool closed) {
    const scenario *s = l->s;
    bytes b = {NULL, 0};
    if (s->target == BY_SINK) b.at = l->sink.at, b.size = l->sink.size;
    else if (s->target == BY_PIPE) drains(l, &b);
    else b = slurp(l->path);
    size_t from = s->target == BY_APPENDING ? OLD : (size_t)s->offset, end = from + (size_t)written;
    bool kept = s->offset > 0 || s->target == BY_DESCRIPTOR; /* what was in the file, and what a failure left there */
    bool uncut = !closed && (now.call == FTRUNCATE || now.also == FTRUNCATE);
    if (s->atomic && !closed) {
        check(b.size == OLD && memcmp(b.at, old, OLD) == 0);
    } else {
        check(kept || uncut ? b.size >= end : b.size == end);
        check(kept || b.size == end || log_errors > 0); /* somebody is told */
        for (size_t i = 0; i < from; i++) check(b.at[i] == old[i]);
        for (size_t i = 0; i < written; i++) check(may_be(l, i, b.at[from + i]));
        if (closed) check(written == l->size && (written == 0 || memcmp(b.at + from, l->want, l->size) == 0));
        if (closed && kept) check(b.size == (end > OLD ? end : OLD));
    }
    if (s->target != BY_SINK) free(b.at);
    check(may_leave() || names_with(".sagemem-") == 0);
}

static void ends(life *l) {
    sagemem_status status = SAGEMEM_OK;
    bool closed = false;
    if (!is_over(l)) {
        while ((status = sagemem_writer_close(l->writer)) != SAGEMEM_OK) {
            if (l->s->atomic && strstr(sagemem_last_error()->message, "in its place") != NULL) {
                check(now.error != EINTR || now.call != FSYNC);
                disarm(); /* only the directory's sync is missing */
                continue;
            }
            failed(l, status);
            if (is_over(l)) break;
        }
        closed = status == SAGEMEM_OK;
    }
    uint64_t written = closed ? l->size : sagemem_writer_written(l->writer);
    if (!closed && l->s->ending == ENDS_WITH_SCOPE) {
        uint64_t lost = l->size - (l->s->atomic ? 0 : written);
        log_errors = 0;
        ok(sagemem_scope_end(l->heap));
        check(lost == 0 || log_errors >= 1);
    } else {
        if (!closed) sagemem_writer_abandon(l->writer);
        if (l->s->ending == ENDS_WITH_SCOPE) ok(sagemem_scope_end(l->heap));
    }
    aside_begin();
    check(l->sink.closed == (l->s->target == BY_SINK));
    look_at_the_end(l, written, closed);
    aside_end();
}

/* -- The beginning */

static void prepare(life *l) {
    const scenario *s = l->s;
    snprintf(l->path, sizeof l->path, "%s", in_place("life"));
    FILE *file = fopen(l->path, "wb");
    check(file != NULL && fwrite(old, 1, OLD, file) == OLD && fclose(file) == 0);
    l->fd = l->ends[0] = l->ends[1] = -1;
    if (s->target == BY_DESCRIPTOR) l->fd = open(l->path, O_RDWR);
    if (s->target == BY_APPENDING) l->fd = open(l->path, O_WRONLY | O_APPEND);
    if (s->target == BY_PIPE) {
        check(pipe(l->ends) == 0);
        l->fd = l->ends[1];
    }
    sagemem_heap_desc hd = {0};
    hd.purge_delay_ms = (uint32_t)SAGEMEM_PURGE_NOW;
    l->heap = sagemem_heap_create(&hd);
    check(l->heap != NULL);
    if (s->ending == ENDS_WITH_SCOPE) ok(sagemem_scope_begin(l->heap, "life", 1));
}

static bool opens(life *l) {
    const scenario *s = l->s;
    sagemem_sink sink = sink_of(&l->sink);
    sagemem_writer_desc d = {0};
    if (s->target == BY_PATH) d.path = l->path;
    else if (s->target == BY_SINK) d.sink = &sink;
    else d.fd_plus_one = l->fd + 1;
    d.atomic = s->atomic;
    d.background = s->background;
    d.sync = s->sync;
    d.initial_bytes = s->buffer;
    d.max_bytes = s->buffer > 4000 ? s->buffer : 4000;
    d.offset = s->offset;
    d.heap = l->heap;
    d.tag = TAG;
    l->writer = sagemem_writer_open(&d);
    if (l->writer != NULL) return true;
    failed(l, sagemem_last_error()->status);
    aside_begin();
    bytes b = slurp(l->path);
    check(b.size == OLD && memcmp(b.at, old, OLD) == 0); /* as it was */
    free(b.at);
    check(may_leave() || names_with(".sagemem-") == 0);
    aside_end();
    return false;
}

static void one_life(void *ctx) {
    static life l;
    memset(&l, 0, sizeof l);
    log_errors = 0;
    l.s = (const scenario *)ctx;
    aside_begin();
    prepare(&l);
    int handles = descriptors();
    aside_end();
    while (!opens(&l)) continue;
    if (l.s->ending != CLOSES) l.fails = l.repaired = 0; /* it is to end in the middle */
    writes(&l);
    ends(&l);
    disarm();
    aside_begin();
    sagemem_tag_stats t;
    ok(sagemem_tag_get_stats(NULL, TAG, &t));
    check(t.used == 0 && sagemem_heap_check(l.heap) == 0 && faults == 0);
    check(descriptors() == handles);
    sagemem_heap_destroy(l.heap);
    for (int i = 0; i < 2; i++)
        if (l.ends[i] >= 0) close(l.ends[i]);
    if (l.fd >= 0 && l.fd != l.ends[1]) close(l.fd);
    free(l.sink.at);
    if (names_with(".sagemem-") > 0) {
        sagemem_writer_desc d = {0};
        d.path = l.path;
        d.atomic = true;
        sagemem_writer_abandon(sagemem_writer_open(&d));
        check(names_with(".sagemem-") == 0);
    }
    aside_end();
}

static const scenario scenarios[] = {
    {"plain", BY_PATH, false, false, SAGEMEM_SYNC_NONE, 1000, 0, CLOSES, CALLS},
    {"plain, abandoned", BY_PATH, false, false, SAGEMEM_SYNC_NONE, 1000, 0, ABANDONS, CALLS},
    {"plain, its scope ends", BY_PATH, false, false, SAGEMEM_SYNC_NONE, 1000, 0, ENDS_WITH_SCOPE, CALLS},
    {"plain, abandoned, not cut", BY_PATH, false, false, SAGEMEM_SYNC_NONE, 1000, 0, ABANDONS, FTRUNCATE},
    {"plain, not cut", BY_PATH, false, false, SAGEMEM_SYNC_NONE, 1000, 0, CLOSES, FTRUNCATE},
    {"with an offset", BY_PATH, false, false, SAGEMEM_SYNC_NONE, 1000, 333, CLOSES, CALLS},
    {"with an offset, abandoned", BY_PATH, false, false, SAGEMEM_SYNC_NONE, 1000, 333, ABANDONS, CALLS},
    {"synced at close", BY_PATH, false, false, SAGEMEM_SYNC_AT_CLOSE, 1000, 0, CLOSES, CALLS},
    {"synced always", BY_PATH, false, false, SAGEMEM_SYNC_EVERY_FLUSH, 1000, 0, CLOSES, CALLS},
    {"background", BY_PATH, false, true, SAGEMEM_SYNC_NONE, 1000, 0, CLOSES, CALLS},
    {"background, abandoned", BY_PATH, false, true, SAGEMEM_SYNC_NONE, 1000, 0, ABANDONS, CALLS},
    {"background, synced always", BY_PATH, false, true, SAGEMEM_SYNC_EVERY_FLUSH, 1000, 0, CLOSES, CALLS},
    {"atomic", BY_PATH, true, false, SAGEMEM_SYNC_NONE, 1000, 0, CLOSES, CALLS},
    {"atomic, abandoned", BY_PATH, true, false, SAGEMEM_SYNC_NONE, 1000, 0, ABANDONS, CALLS},
    {"atomic, not removed", BY_PATH, true, false, SAGEMEM_SYNC_NONE, 1000, 0, ABANDONS, UNLINK},
    {"atomic, its scope ends", BY_PATH, true, false, SAGEMEM_SYNC_AT_CLOSE, 1000, 0, ENDS_WITH_SCOPE, CALLS},
    {"atomic, synced at close", BY_PATH, true, false, SAGEMEM_SYNC_AT_CLOSE, 1000, 0, CLOSES, CALLS},
    {"atomic, synced always, background", BY_PATH, true, true, SAGEMEM_SYNC_EVERY_FLUSH, 1000, 0, CLOSES, CALLS},
    {"descriptor", BY_DESCRIPTOR, false, false, SAGEMEM_SYNC_NONE, 1000, 0, CLOSES, CALLS},
    {"descriptor, offset, background", BY_DESCRIPTOR, false, true, SAGEMEM_SYNC_AT_CLOSE, 1000, 77, CLOSES, CALLS},
    {"appending descriptor", BY_APPENDING, false, false, SAGEMEM_SYNC_NONE, 1000, 0, CLOSES, CALLS},
    {"appending descriptor, abandoned", BY_APPENDING, false, false, SAGEMEM_SYNC_NONE, 1000, 0, ABANDONS, CALLS},
    {"pipe", BY_PIPE, false, false, SAGEMEM_SYNC_NONE, 1000, 0, CLOSES, CALLS},
    {"pipe, abandoned", BY_PIPE, false, false, SAGEMEM_SYNC_NONE, 1000, 0, ABANDONS, CALLS},
    {"pipe, background", BY_PIPE, false, true, SAGEMEM_SYNC_NONE, 1000, 0, CLOSES, CALLS},
    {"sink", BY_SINK, false, false, SAGEMEM_SYNC_NONE, 1000, 0, CLOSES, CALLS},
    {"pages of its own", BY_PATH, true, true, SAGEMEM_SYNC_NONE, 17 * MIB, 0, CLOSES, CALLS},
};

static void every_call_of_a_writer_fails(void **state) {
    (void)state;
    for (size_t i = 0; i < OLD; i++) old[i] = (char)(i * 7 % 251);
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++)
        sweep(scenarios[i].name, scenarios[i].also, one_life, (void *)(uintptr_t)&scenarios[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(every_call_of_a_writer_fails, before_each, after_each)};
    return cmocka_run_group_tests(tests, begin, finish);
}
