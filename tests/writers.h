/* What the tests of writers share: a directory of their own, files looked at by stdio, sinks that fail, chance. */
#ifndef TESTS_WRITERS_H
#define TESTS_WRITERS_H

#include "public.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

enum { TAG = 7 };
#define UINT(x) ((unsigned long long)(x))

__attribute__((unused)) static bool slow(void) { return getenv("SAGEMEM_TEST_SLOW") != NULL; }

/* In children and threads, too, where an assertion of cmocka must not jump. */
#define check(condition)                                                                                                           \
    do {                                                                                                                           \
        if (!(condition)) {                                                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold; last error: %s; last fault: %s\n", __FILE__, __LINE__, #condition,           \
                    sagemem_last_error()->message, last_fault.message);                                                            \
            _exit(2);                                                                                                              \
        }                                                                                                                          \
    } while (0)
#define ok(call) check((call) == SAGEMEM_OK)

static int faults, log_errors;
static sagemem_error last_fault;
static char last_log[400];
static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    faults++;
    last_fault = *error;
}
static void on_log(void *ctx, sagemem_log_level level, const char *message) {
    (void)ctx;
    if (level != SAGEMEM_LOG_ERROR) return;
    log_errors++;
    snprintf(last_log, sizeof last_log, "%s", message);
}

/* splitmix64 (Steele, Lea, Flood 2014). */
typedef struct chance {
    uint64_t state;
} chance;
static inline uint64_t chance_next(chance *c) {
    uint64_t z = c->state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
static inline size_t chance_below(chance *c, size_t n) { return (size_t)(chance_next(c) % n); }
static uint64_t seed;

static char place[64];

static int begin(void **state) {
    (void)state;
    const char *given = getenv("SAGEMEM_SEED");
    seed = given != NULL ? strtoull(given, NULL, 0) : 20261121u;
    printf("seed: %llu (SAGEMEM_SEED sets it)\n", UINT(seed));
    sagemem_set_fault_handler(on_fault, NULL);
    sagemem_set_logger(on_log, NULL);
    strcpy(place, "/dev/shm/sagemem-XXXXXX"); /* in memory: syncing and renaming take no time there */
    if (mkdtemp(place) != NULL) return 0;
    strcpy(place, "/tmp/sagemem-XXXXXX");
    return mkdtemp(place) == NULL;
}
static int finish(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", place);
    return system(command);
}
static int before_each(void **state) {
    (void)state;
    faults = log_errors = 0;
    last_log[0] = '\0';
    return 0;
}
/* Nothing is left: no writer, no buffer, no byte of the tag, no descriptor, no damage. */
static int descriptors(void) {
    int count = 0;
    for (int fd = 0; fd < 256; fd++) count += fcntl(fd, F_GETFD) >= 0;
    return count;
}
static int after_each(void **state) {
    (void)state;
    static int open_at_first;
    sagemem_writers_stats s;
    sagemem_tag_stats t;
    ok(sagemem_writers_get_stats(&s));
    ok(sagemem_tag_get_stats(NULL, TAG, &t));
    sagemem_writers_set_budget(0);
    if (open_at_first == 0) open_at_first = descriptors();
    if (s.writers == 0 && s.buffer_bytes == 0 && s.buffered == 0 && t.used == 0 && t.blocks == 0 && sagemem_heap_check(NULL) == 0 &&
        descriptors() == open_at_first)
        return 0;
    fprintf(stderr, "left: %llu writers, %llu bytes of buffers, %llu bytes of the tag, %d descriptors\n", UINT(s.writers),
            UINT(s.buffer_bytes), UINT(t.used), descriptors() - open_at_first);
    return 1;
}

/* A path in the place; valid for thirty calls more. */
__attribute__((unused)) static const char *in_place(const char *name) {
    static char paths[32][400];
    static int next;
    char *path = paths[next++ % 32];
    snprintf(path, sizeof paths[0], "%s/%s", place, name);
    return path;
}

typedef struct bytes {
    char *at;
    size_t size;
} bytes;
static bytes slurp(const char *path) {
    bytes b = {NULL, 0};
    FILE *file = fopen(path, "rb");
    check(file != NULL);
    fseek(file, 0, SEEK_END);
    b.size = (size_t)ftell(file);
    rewind(file);
    b.at = (char *)malloc(b.size + 1);
    check(b.at != NULL && fread(b.at, 1, b.size, file) == b.size);
    b.at[b.size] = '\0';
    fclose(file);
    return b;
}
__attribute__((unused)) static bool file_is(const char *path, const void *data, size_t size) {
    bytes b = slurp(path);
    bool same = b.size == size && memcmp(b.at, data, size) == 0;
    if (!same) fprintf(stderr, "%s: %zu bytes, not %zu, or others\n", path, b.size, size);
    free(b.at);
    return same;
}
__attribute__((unused)) static bool file_says(const char *path, const char *text) { return file_is(path, text, strlen(text)); }
__attribute__((unused)) static void put_file(const char *path, const char *text) {
    FILE *file = fopen(path, "wb");
    check(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}
/* Names in the place that contain the text. */
__attribute__((unused)) static int names_with(const char *text) {
    int count = 0;
    DIR *list = opendir(place);
    check(list != NULL);
    for (const struct dirent *e; (e = readdir(list)) != NULL;) count += strstr(e->d_name, text) != NULL;
    closedir(list);
    return count;
}

/* A file in memory. It refuses when told to, or by chance, and has then taken nothing. */
typedef struct memory_sink {
    char *at;
    size_t size, room;
    uint64_t origin; /* position of at[0] */
    int refuse;      /* so many calls */
    sagemem_status with, close_with;
    chance luck;
    size_t one_in; /* of so many calls, one is refused [0: none] */
    int calls, closed;
} memory_sink;
static sagemem_status memory_write(void *ctx, const void *data, size_t size, uint64_t offset) {
    memory_sink *m = (memory_sink *)ctx;
    m->calls++;
    if (m->refuse > 0 && m->refuse-- > 0) return m->with;
    if (m->one_in > 0 && chance_below(&m->luck, m->one_in) == 0) return SAGEMEM_E_IO;
    check(offset >= m->origin && offset - m->origin <= m->size); /* never a hole */
    size_t at = (size_t)(offset - m->origin);
    if (at + size > m->room) {
        m->room = 2 * (at + size);
        m->at = (char *)realloc(m->at, m->room);
        check(m->at != NULL);
    }
    memcpy(m->at + at, data, size);
    if (at + size > m->size) m->size = at + size;
    return SAGEMEM_OK;
}
static sagemem_status memory_close(void *ctx) {
    ((memory_sink *)ctx)->closed++;
    return ((memory_sink *)ctx)->close_with;
}
__attribute__((unused)) static sagemem_sink sink_of(memory_sink *m) {
    sagemem_sink sink = {memory_write, memory_close, m};
    return sink;
}

__attribute__((unused)) static sagemem_writer *open_path(const char *path) {
    sagemem_writer_desc desc = {0};
    desc.path = path;
    desc.tag = TAG;
    return sagemem_writer_open(&desc);
}

/* -- The oracle: what was accepted, in a plain array; the same operations on a writer and on it. */

typedef struct oracle {
    char *at;
    size_t size, room;
    uint64_t origin;
    chance luck;
    size_t buffer;       /* sizes are drawn around this */
    bool patches_all;    /* also what is written */
    unsigned long fails; /* met */
} oracle;

static void oracle_add(oracle *o, const void *data, size_t size) {
    if (o->size + size > o->room) {
        o->room = 2 * (o->size + size);
        o->at = (char *)realloc(o->at, o->room);
        check(o->at != NULL);
    }
    if (size > 0) memcpy(o->at + o->size, data, size);
    o->size += size;
}
static void draw_bytes(oracle *o, char *at, size_t size) {
    uint64_t word = chance_next(&o->luck);
    for (size_t i = 0; i < size; i++) at[i] = (char)(word >> (i % 8 * 8)) + (char)(i / 8);
}
static size_t draw_size(oracle *o) {
    size_t kind = chance_below(&o->luck, 20);
    if (kind < 12) return chance_below(&o->luck, o->buffer / 8 + 2);
    if (kind < 17) return chance_below(&o->luck, o->buffer + 2);
    if (kind < 18) return o->buffer - 1 + chance_below(&o->luck, 3);
    return chance_below(&o->luck, 3 * o->buffer);
}

/* A failed call has changed nothing, and works when it is made often enough. */
__attribute__((unused)) static void one_step(oracle *o, sagemem_writer *w) {
    static __thread char data[1 << 16];
    size_t size = draw_size(o), what = chance_below(&o->luck, 100);
    check(size <= sizeof data);
    if (what < 60) {
        draw_bytes(o, data, size);
        while (sagemem_write(w, data, size) != SAGEMEM_OK) {
            o->fails++;
            check(sagemem_writer_accepted(w) == o->size);
        }
        oracle_add(o, data, size);
    } else if (what < 75) {
        char *room;
        size = chance_below(&o->luck, o->buffer);
        while ((room = (char *)sagemem_write_begin(w, size)) == NULL) {
            o->fails++;
            check(sagemem_writer_accepted(w) == o->size);
        }
        size_t used = size - chance_below(&o->luck, size / 4 + 1);
        draw_bytes(o, room, used);
        oracle_add(o, room, used);
        sagemem_write_end(w, used);
    } else if (what < 93 && o->size > 0) {
        size_t back =
            chance_below(&o->luck,
                         o->size < 4 * o->buffer || (o->patches_all && chance_below(&o->luck, 4) == 0) ? o->size : 4 * o->buffer) +
            1;
        uint64_t from = o->size - back;
        if (!o->patches_all && from < sagemem_writer_written(w)) {
            if (sagemem_writer_accepted(w) > sagemem_writer_written(w)) from = sagemem_writer_written(w);
            else return;
        }
        size = chance_below(&o->luck, o->size - (size_t)from) % (2 * o->buffer) + 1;
        draw_bytes(o, data, size);
        sagemem_status status;
        while ((status = sagemem_writer_patch(w, o->origin + from, data, size)) != SAGEMEM_OK) {
            o->fails++;
            if (!o->patches_all && status == SAGEMEM_E_UNSUPPORTED) return; /* the thread has written it meanwhile */
        }
        memcpy(o->at + from, data, size);
    } else if (what < 95) {
        while (sagemem_writer_flush(w) != SAGEMEM_OK) o->fails++;
        check(sagemem_writer_written(w) == o->size);
    }
    check(sagemem_writer_accepted(w) == o->size);
    check(sagemem_writer_written(w) <= o->size);
}

#endif
