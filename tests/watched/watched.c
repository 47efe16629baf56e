/* One thing done to one piece of memory: WHERE SIZE WHAT..., where WHAT is good (nothing wrong), overflow (the first byte past
 * the end is read), freed or ended (a byte that was given back, or whose scope or heap ended, is read). */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

static int watch_block(const char *where, size_t size, const char *what) {
    sagemem_heap *heap = sagemem_heap_create(NULL);
    if (strcmp(where, "scope") == 0 && sagemem_scope_begin(heap, "forest", 12) != SAGEMEM_OK) return 2;
    for (int i = 0; i < 1000 && size < 100; i++) /* so that the class has a slab page */
        if (sagemem_alloc(heap, size, 1) == NULL) return 2;
    char *volatile block = (char *)sagemem_alloc(heap, size, 1);
    if (block == NULL) return 2;
    memset(block, 'x', sagemem_size(block));
    size_t at = strcmp(what, "overflow") == 0 ? sagemem_size(block) : 0;
    if (strcmp(what, "freed") == 0) sagemem_free(block);
    if (strcmp(what, "ended") == 0) sagemem_scope_end(heap);
    if (((volatile char *)block)[at] == 'y') return 3;
    sagemem_heap_destroy(heap);
    return 0;
}

/* Of two objects of a pool the first: its end, its place after it was freed (pool) or the pool reset (reset), or after the
 * scope. */
static int watch_pool(const char *where, size_t size, const char *what) {
    sagemem_pool_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.object_size = size;
    desc.tag = 1;
    sagemem_pool *pool = sagemem_scope_begin(NULL, "forest", 12) == SAGEMEM_OK ? sagemem_pool_create(&desc) : NULL;
    sagemem_pool_free(pool, pool != NULL ? sagemem_pool_alloc(pool) : NULL);
    char *volatile object = pool != NULL ? (char *)sagemem_pool_alloc(pool) : NULL;
    char *volatile next = object != NULL ? (char *)sagemem_pool_alloc(pool) : NULL;
    if (next == NULL) return 2;
    memset(object, 'x', size);
    memset(next, 'x', size);
    if (strcmp(what, "freed") == 0 && strcmp(where, "reset") == 0) sagemem_pool_reset(pool);
    else if (strcmp(what, "freed") == 0) sagemem_pool_free(pool, object);
    if (strcmp(what, "ended") == 0) sagemem_scope_end(NULL);
    if (((volatile char *)object)[strcmp(what, "overflow") == 0 ? size : 0] == 'y') return 3;
    if (strcmp(what, "ended") != 0) sagemem_scope_end(NULL);
    return 0;
}

/* A buffer that was released lies idle in the recycler; after the scope it has gone with it. */
static int watch_recycler(const char *where, size_t size, const char *what) {
    (void)where;
    sagemem_recycler *recycler = sagemem_scope_begin(NULL, "forest", 12) == SAGEMEM_OK ? sagemem_recycler_create(NULL) : NULL;
    if (recycler == NULL) return 2;
    sagemem_recycler_release(recycler, sagemem_recycler_acquire(recycler, size));
    char *volatile buffer = (char *)sagemem_recycler_acquire(recycler, size);
    if (buffer == NULL) return 2;
    memset(buffer, 'x', sagemem_size(buffer));
    size_t at = strcmp(what, "overflow") == 0 ? sagemem_size(buffer) : 0;
    if (strcmp(what, "freed") == 0) sagemem_recycler_release(recycler, buffer);
    if (strcmp(what, "ended") == 0) sagemem_scope_end(NULL);
    if (((volatile char *)buffer)[at] == 'y') return 3;
    if (strcmp(what, "ended") != 0) sagemem_scope_end(NULL);
    return 0;
}

/* Of two things in an arena the first: its end, and what is left of it after a rewind or the end of the scope. */
static int watch_arena(const char *where, size_t size, const char *what) {
    (void)where;
    if (sagemem_scope_begin(NULL, "forest", 12) != SAGEMEM_OK) return 2;
    sagemem_arena *arena = sagemem_arena_create(NULL);
    if (sagemem_arena_put(arena, "before", 6).chunk == 0) return 2;
    sagemem_arena_mark mark = sagemem_arena_get_mark(arena);
    char *volatile thing = (char *)sagemem_arena_alloc(arena, size), *volatile next = (char *)sagemem_arena_alloc(arena, size);
    if (thing == NULL || next == NULL) return 2;
    memset(thing, 'x', size);
    memset(next, 'x', size);
    if (strcmp(what, "freed") == 0) sagemem_arena_rewind(arena, mark);
    if (strcmp(what, "ended") == 0) sagemem_scope_end(NULL);
    if (((volatile char *)thing)[strcmp(what, "overflow") == 0 ? size : 0] == 'y') return 3;
    if (strcmp(what, "ended") != 0) sagemem_scope_end(NULL);
    return 0;
}

/* An array (SIZE 0) or one that never moves (SIZE: stable_max), or columns: rows that are there, were dropped, have gone. */
static int watch_rows(const char *where, size_t size, const char *what) {
    sagemem_heap *heap = sagemem_heap_create(NULL);
    sagemem_array array;
    sagemem_array_desc desc = {heap, 1, 8, 0, 0, size};
    static const sagemem_column both[] = {{"a", 1}, {"b", 8}};
    sagemem_columns_desc table = {heap, 1, NULL, both, 2, 0, 0};
    sagemem_columns *columns = sagemem_columns_create(&table);
    if (columns == NULL || sagemem_scope_begin(heap, "forest", 12) != SAGEMEM_OK) return 2;
    if (sagemem_array_init(&array, &desc) != SAGEMEM_OK) return 2;
    for (int i = 0; i < 1000; i++) {
        double one = i;
        if (sagemem_array_push(&array, &one) != SAGEMEM_OK || sagemem_columns_add(columns, 1) != SAGEMEM_OK) return 2;
        ((char *)sagemem_columns_data(columns, 0))[i] = 'x';
    }
    if (sagemem_array_resize(&array, 701) != SAGEMEM_OK || sagemem_columns_resize(columns, 701) != SAGEMEM_OK) return 2;
    bool rows = strcmp(where, "columns") == 0;
    char *volatile data = (char *)(rows ? sagemem_columns_data(columns, 0) : sagemem_array_data(&array));
    size_t at = (strcmp(what, "overflow") == 0 ? 701 : 700) * (rows ? 1 : 8);
    if (strcmp(what, "freed") == 0) {
        sagemem_array_deinit(&array);
        sagemem_columns_destroy(columns);
    }
    if (strcmp(what, "ended") == 0) sagemem_heap_reset(heap);
    if (((volatile char *)data)[at] == 'y') return 3;
    sagemem_heap_destroy(heap);
    return 0;
}

/* The bytes of a slice that was the last of them. */
static int watch_slice(const char *where, size_t size, const char *what) {
    (void)where;
    char *text = (char *)calloc(1, size);
    if (sagemem_scope_begin(NULL, "forest", 12) != SAGEMEM_OK || text == NULL) return 2;
    sagemem_slice slice = sagemem_slice_copy(NULL, text, size, 1);
    const char *volatile data = (const char *)slice.data;
    free(text);
    if (data == NULL) return 2;
    size_t at = strcmp(what, "overflow") == 0 ? sagemem_size(slice.data) : 0;
    if (strcmp(what, "freed") == 0) sagemem_slice_release(slice);
    if (strcmp(what, "ended") == 0) sagemem_scope_end(NULL);
    if (((const volatile char *)data)[at] == 'y') return 3;
    if (strcmp(what, "ended") != 0) sagemem_scope_end(NULL);
    return 0;
}

static sagemem_status forget(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)ctx, (void)data, (void)size, (void)offset;
    return SAGEMEM_OK;
}

/* Room for a record: past it, when the record came to nothing, when the writer ended with its scope. */
static int watch_writer(const char *where, size_t size, const char *what) {
    (void)where;
    sagemem_sink sink = {forget, NULL, NULL};
    sagemem_writer_desc desc = {0};
    desc.sink = &sink;
    sagemem_writer *writer = sagemem_scope_begin(NULL, "forest", 12) == SAGEMEM_OK ? sagemem_writer_open(&desc) : NULL;
    if (writer == NULL || sagemem_write(writer, "before", 6) != SAGEMEM_OK) return 2;
    char *volatile room = (char *)sagemem_write_begin(writer, size);
    if (room == NULL) return 2;
    memset(room, 'x', size);
    if (strcmp(what, "freed") == 0) sagemem_write_end(writer, 0);
    if (strcmp(what, "ended") == 0) sagemem_scope_end(NULL);
    if (((volatile char *)room)[strcmp(what, "overflow") == 0 ? size : 0] == 'y') return 3;
    if (strcmp(what, "good") == 0) sagemem_write_end(writer, size);
    if (strcmp(what, "good") == 0 && sagemem_writer_close(writer) != SAGEMEM_OK) return 2;
    if (strcmp(what, "ended") != 0) sagemem_scope_end(NULL);
    return 0;
}

/* A view of a reader lasts until the next call ("freed"). */
static int watch_reader(const char *where, size_t size, const char *what) {
    if (sagemem_scope_begin(NULL, "forest", 12) != SAGEMEM_OK) return 2;
    sagemem_reader_desc desc = {0};
    desc.path = "/dev/zero";
    desc.buffer_bytes = 150000;
    desc.read_ahead = strcmp(where, "ahead") == 0;
    sagemem_reader *reader = sagemem_reader_open(&desc);
    const char *volatile view = (const char *)sagemem_read_view(reader, size);
    char byte;
    if (view == NULL || view[size - 1] != 0) return 2;
    size_t at = strcmp(what, "overflow") == 0 ? size : 0;
    if (strcmp(what, "freed") == 0 && sagemem_read(reader, &byte, 1, NULL) != SAGEMEM_OK) return 2;
    if (strcmp(what, "ended") == 0) sagemem_scope_end(NULL);
    if (((const volatile char *)view)[at] == 'y') return 3;
    if (strcmp(what, "ended") != 0) sagemem_scope_end(NULL);
    return 0;
}

static const struct {
    const char *where;
    int (*watch_fn)(const char *where, size_t size, const char *what);
} watchers[] = {
    {"heap", watch_block},        {"scope", watch_block},   {"pool", watch_pool},    {"reset", watch_pool},
    {"recycler", watch_recycler}, {"arena", watch_arena},   {"array", watch_rows},   {"columns", watch_rows},
    {"slice", watch_slice},       {"reader", watch_reader}, {"ahead", watch_reader}, {"writer", watch_writer},
};

static int watch(const char *where, size_t size, const char *what) {
    for (size_t i = 0; i < sizeof watchers / sizeof watchers[0]; i++)
        if (strcmp(watchers[i].where, where) == 0) return watchers[i].watch_fn(where, size, what);
    return 1;
}

int main(int argc, char **argv) {
    for (int i = 1; i + 2 < argc; i += 3) {
        int status = watch(argv[i], (size_t)atoi(argv[i + 1]), argv[i + 2]);
        if (status != 0) return status;
    }
    puts("ran to the end");
    return 0;
}
