/* A map's whole life with every system call failing once, and for good. Whatever a call says worked has the right bytes; what
 * failed has changed nothing and works when it is repeated; afterwards nothing of the file is mapped or open. */
#include "calls.h"

enum { SIZE = 3 * 4096, MORE = 1000 };

typedef struct scenario {
    const char *name;
    sagemem_map_desc desc;
    bool by_descriptor;
} scenario;

typedef struct life {
    const scenario *s;
    sagemem_heap *heap;
    sagemem_map *map;
    char want[SIZE + MORE], path[100];
    size_t size;
    int fd, fails;
} life;

static char byte_at(size_t i) { return (char)(i * 31 / 7); }

/* The cause goes away when it was met twice; what may be refused for good is up to the caller. */
static void failed(life *l) {
    const sagemem_error *e = sagemem_last_error();
    check(was_met() && !is_hidden());
    bool no_memory =
        e->status == SAGEMEM_E_NOMEM && (now.error == ENOMEM || now.call == MMAP || now.call == MREMAP || now.call == MPROTECT);
    bool no_map = e->status == SAGEMEM_E_UNSUPPORTED && l->s->desc.no_fallback && now.call == MMAP;
    check(no_memory || no_map || (e->status == SAGEMEM_E_IO && is_the_reason(e->os_error)));
    if (++l->fails == 2) disarm();
    check(l->fails <= 2);
}

/* By other means: the file is as the model says. */
static bool file_as_wanted(const life *l) {
    aside_begin();
    bool same = file_is(l->path, l->want, l->size);
    aside_end();
    return same;
}

static void views(life *l, size_t offset, size_t size) {
    const char *view;
    while ((view = (const char *)sagemem_map_view(l->map, offset, size)) == NULL) failed(l);
    check(memcmp(view, l->want + offset, size) == 0);
}
static void reads(life *l, size_t offset, size_t size) {
    static char got[SIZE + MORE];
    memset(got, 0, sizeof got);
    while (sagemem_map_read(l->map, offset, got, size) != SAGEMEM_OK) failed(l);
    check(memcmp(got, l->want + offset, size) == 0);
}
static void writes(life *l, size_t offset, const char *text) {
    if (l->s->desc.mode == SAGEMEM_MAP_READ) return;
    memcpy((char *)sagemem_map_data_writable(l->map) + offset, text, strlen(text));
    memcpy(l->want + offset, text, strlen(text));
}
static void flushes(life *l) {
    while (sagemem_map_flush(l->map) != SAGEMEM_OK) failed(l);
    if (l->s->desc.mode == SAGEMEM_MAP_WRITE) check(file_as_wanted(l));
}
/* Somebody makes the file longer. */
static void grows(life *l) {
    aside_begin();
    for (size_t i = l->size; i < SIZE + MORE; i++) l->want[i] = byte_at(i);
    FILE *file = fopen(l->path, "ab");
    check(file != NULL && fwrite(l->want + l->size, 1, MORE, file) == MORE && fclose(file) == 0);
    l->size += MORE;
    aside_end();
    uint64_t before = sagemem_map_size(l->map);
    while (sagemem_map_refresh(l->map) != SAGEMEM_OK) {
        check(sagemem_map_size(l->map) == before);
        failed(l);
    }
    check(sagemem_map_size(l->map) == l->size);
    if (l->s->desc.mode == SAGEMEM_MAP_PRIVATE) /* what was written was this process's, and is gone */
        for (size_t i = 0; i < SIZE; i++) l->want[i] = byte_at(i);
}

static bool is_mapped_still(const char *path) {
    char line[400];
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
        found = found || (strstr(line, path) != NULL && strstr(line, "(deleted)") == NULL);
    if (maps != NULL) fclose(maps);
    return found;
}

static void prepare(life *l) {
    snprintf(l->path, sizeof l->path, "%s", in_place("mapped"));
    for (size_t i = 0; i < SIZE; i++) l->want[i] = byte_at(i);
    l->size = SIZE;
    unlink(l->path); /* a mapping that could not be undone is of the file before */
    FILE *file = fopen(l->path, "wb");
    check(file != NULL && fwrite(l->want, 1, SIZE, file) == SIZE && fclose(file) == 0);
    l->fd = l->s->by_descriptor ? open(l->path, O_RDWR) : -1;
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
    sagemem_map_desc d = l.s->desc;
    if (l.s->by_descriptor) d.fd_plus_one = l.fd + 1;
    else d.path = l.path;
    d.heap = l.heap;
    d.tag = TAG;
    while ((l.map = sagemem_map_open(&d)) == NULL) failed(&l);
    views(&l, 10, 500);
    (void)sagemem_map_prefetch(l.map, 4096, UINT64_MAX);
    writes(&l, 100, "abcd");
    reads(&l, 90, 4500);
    flushes(&l);
    views(&l, 8000, 900);
    grows(&l);
    writes(&l, 4000, "efgh");
    reads(&l, SIZE - 100, MORE);
    views(&l, SIZE + MORE - 900, 900);
    while (sagemem_map_close(l.map) != SAGEMEM_OK) failed(&l);
    disarm();
    aside_begin();
    if (l.s->desc.mode == SAGEMEM_MAP_PRIVATE)
        for (size_t i = 0; i < SIZE; i++) l.want[i] = byte_at(i);
    check(file_as_wanted(&l));
    check(now.call == MUNMAP || !is_mapped_still(l.path));
    check(descriptors() == handles);
    sagemem_heap_stats stats;
    ok(sagemem_heap_get_stats(l.heap, &stats));
    check(stats.mapped == 0 && stats.used == 0 && sagemem_heap_check(l.heap) == 0 && faults == 0 && log_errors == 0);
    sagemem_heap_destroy(l.heap);
    if (l.fd >= 0) close(l.fd);
    aside_end();
}

/* The map ends with its scope, and the flush fails: somebody is told. */
static void ends_with_its_scope(void *ctx) {
    static life l;
    memset(&l, 0, sizeof l);
    l.s = (const scenario *)ctx;
    aside_begin();
    prepare(&l);
    int handles = descriptors();
    log_errors = 0;
    ok(sagemem_scope_begin(l.heap, "life", 1));
    aside_end();
    sagemem_map_desc d = l.s->desc;
    d.path = l.path;
    d.heap = l.heap;
    while ((l.map = sagemem_map_open(&d)) == NULL) failed(&l);
    writes(&l, 100, "abcd");
    ok(sagemem_scope_end(l.heap));
    disarm();
    aside_begin();
    check(log_errors > 0 || file_as_wanted(&l));
    check(log_errors == 0 || (was_met() && !is_hidden()));
    check(descriptors() == handles && (now.call == MUNMAP || !is_mapped_still(l.path)));
    log_errors = 0;
    sagemem_heap_destroy(l.heap);
    aside_end();
}

static void every_call_of_a_map_fails(void **state) {
    (void)state;
    static const sagemem_map_mode modes[] = {SAGEMEM_MAP_READ, SAGEMEM_MAP_PRIVATE, SAGEMEM_MAP_WRITE};
    static const char *const mode_names[] = {"read", "private", "write"};
    static const struct {
        const char *name;
        bool no_mapping, no_fallback, wishes, by_descriptor;
        uint64_t window;
    } ways[] = {
        {"mapped", false, false, false, false, 0},
        {"mapped or not at all", false, true, false, false, 0},
        {"mapped with all wishes", false, false, true, true, 0},
        {"read", true, false, false, false, 0},
        {"a window that is mapped", false, false, false, true, 1000},
        {"a window that is mapped or not at all", false, true, true, false, 4096},
        {"a window that is read", true, false, false, false, 1000},
    };
    for (size_t m = 0; m < 3; m++)
        for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
            char name[100];
            scenario s;
            memset(&s, 0, sizeof s);
            if (ways[w].window != 0 && modes[m] != SAGEMEM_MAP_READ) continue;
            snprintf(name, sizeof name, "%s, %s", mode_names[m], ways[w].name);
            s.name = name;
            s.by_descriptor = ways[w].by_descriptor;
            s.desc.mode = modes[m];
            s.desc.no_mapping = ways[w].no_mapping;
            s.desc.no_fallback = ways[w].no_fallback;
            s.desc.window = ways[w].window;
            s.desc.populate = s.desc.huge_pages = ways[w].wishes;
            s.desc.access = ways[w].wishes ? SAGEMEM_ACCESS_SEQUENTIAL : SAGEMEM_ACCESS_NORMAL;
            sweep(name, CALLS, one_life, &s);
            if (modes[m] != SAGEMEM_MAP_WRITE || s.by_descriptor) continue;
            snprintf(name, sizeof name, "%s, %s, the scope ends", mode_names[m], ways[w].name);
            sweep(name, CALLS, ends_with_its_scope, &s);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(every_call_of_a_map_fails, before_each, after_each)};
    return cmocka_run_group_tests(tests, begin, finish);
}
