/* Records written one after the other: how near a writer is to the buffer that one would write by hand.
 *
 * Thread CPU time, the system's share included: what the disk does later is not in it. The file goes unwritten. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WRITE, USER };
enum { BUFFER = 1 << 20, LONGEST = 400, BANK = 16384 };

typedef struct target {
    size_t record;
    bool in_memory;
} target;

static void check(bool good, const char *what) {
    if (!good) bench_die(what, strerror(errno));
}

/* -- Sides: each opens, puts and closes. A record's size is known where it is put, as sizeof would be in a program. ------------- */

typedef struct by_hand {
    int file; /* -1: nothing is written */
    size_t used;
    off_t at;
    char buffer[BUFFER];
} by_hand;

static void by_hand_flush(by_hand *h) {
    for (size_t done = 0; h->file >= 0 && done < h->used;) {
        ssize_t n = pwrite(h->file, h->buffer + done, h->used - done, h->at + (off_t)done);
        check(n > 0, "pwrite");
        done += (size_t)n;
    }
    __asm__ volatile("" : : "r"(h->buffer) : "memory"); /* what is in the buffer is wanted, also where it is not written */
    h->at += (off_t)h->used;
    h->used = 0;
}
static void *by_hand_open(int file) {
    by_hand *h = (by_hand *)malloc(sizeof *h);
    check(h != NULL, "malloc");
    h->file = file;
    h->used = 0;
    h->at = 0;
    return h;
}
static inline void by_hand_put(void *to, const void *record, size_t size) {
    by_hand *h = (by_hand *)to;
    if (size > sizeof h->buffer - h->used) by_hand_flush(h);
    memcpy(h->buffer + h->used, record, size);
    h->used += size;
}
static void by_hand_close(void *to) {
    by_hand_flush((by_hand *)to);
    free(to);
}

static sagemem_status swallow(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)ctx, (void)data, (void)size, (void)offset;
    return SAGEMEM_OK;
}
static void *sagemem_side_open(int file) {
    sagemem_sink nothing = {swallow, NULL, NULL};
    sagemem_writer_desc desc = {0};
    desc.heap = bench_heap;
    if (file >= 0) desc.fd_plus_one = file + 1;
    else desc.sink = &nothing;
    sagemem_writer *writer = sagemem_writer_open(&desc);
    if (writer == NULL) bench_die("no writer", sagemem_last_error()->message);
    return writer;
}
static inline void sagemem_side_put(void *to, const void *record, size_t size) {
    if (sagemem_write((sagemem_writer *)to, record, size) != SAGEMEM_OK) bench_die("write", sagemem_last_error()->message);
}
static inline void begin_end_put(void *to, const void *record, size_t size) {
    void *room = sagemem_write_begin((sagemem_writer *)to, size);
    if (room == NULL) bench_die("write", sagemem_last_error()->message);
    memcpy(room, record, size);
    sagemem_write_end((sagemem_writer *)to, size);
}
static void sagemem_side_close(void *to) {
    if (sagemem_writer_close((sagemem_writer *)to) != SAGEMEM_OK) bench_die("close", sagemem_last_error()->message);
}

/* The stream takes the descriptor: a copy. */
static void *stdio_open(int file) {
    FILE *stream = fdopen(dup(file), "w");
    check(stream != NULL, "fdopen");
    return stream;
}
static void *stdio_large_open(int file) {
    FILE *stream = (FILE *)stdio_open(file);
    check(setvbuf(stream, NULL, _IOFBF, BUFFER) == 0, "setvbuf");
    return stream;
}
static inline void stdio_put(void *to, const void *record, size_t size) {
    check(fwrite(record, size, 1, (FILE *)to) == 1, "fwrite");
}
static inline void unlocked_put(void *to, const void *record, size_t size) {
    check(fwrite_unlocked(record, size, 1, (FILE *)to) == 1, "fwrite_unlocked");
}
static void stdio_close(void *to) { check(fclose((FILE *)to) == 0, "fclose"); }

static void *each_open(int file) {
    int *to = (int *)malloc(sizeof *to);
    check(to != NULL, "malloc");
    *to = file;
    return to;
}
static inline void each_put(void *to, const void *record, size_t size) {
    check(write(*(const int *)to, record, size) == (ssize_t)size, "write");
}

/* Records that the program has made already, in its first cache. */
static char bank[BANK + LONGEST];

/* -- The loop, once for each side and size ------------------------------------------------------------------------------ */

#define LOOP(name, open_side, put_side, close_side, slowness)                                                                      \
    static inline __attribute__((always_inline)) double name##_loop(const bench_row *row, int file, size_t size) {                 \
        uint64_t count = bench_file_size(1000000000, 128000000) / size / (slowness);                                               \
        const char *record = bank;                                                                                                 \
        (void)row;                                                                                                                 \
        double start = bench_cpu_ns();                                                                                             \
        void *to = open_side(file);                                                                                                \
        for (uint64_t i = 0; i < count; i++) {                                                                                     \
            put_side(to, record, size);                                                                                            \
            record = record + size < bank + BANK ? record + size : bank;                                                           \
        }                                                                                                                          \
        close_side(to);                                                                                                            \
        return (bench_cpu_ns() - start) / (double)count;                                                                           \
    }                                                                                                                              \
    static double name##_of(const bench_row *row, int file) {                                                                      \
        return ((const target *)row->arg)->record == 100 ? name##_loop(row, file, 100) : name##_loop(row, file, LONGEST);          \
    }                                                                                                                              \
    static double name##_write(const bench_row *row) {                                                                             \
        int file = bench_file(((const target *)row->arg)->in_memory);                                                              \
        double ns = name##_of(row, file);                                                                                          \
        close(file); /* what it has in memory goes back before the next side's turn */                                             \
        return ns;                                                                                                                 \
    }
#define LOOP_USER(name)                                                                                                            \
    static double name##_user(const bench_row *row) { return name##_of(row, -1); }

LOOP(by_hand, by_hand_open, by_hand_put, by_hand_close, 1)
LOOP_USER(by_hand)
LOOP(sagemem_side, sagemem_side_open, sagemem_side_put, sagemem_side_close, 1)
LOOP_USER(sagemem_side)
LOOP(begin_end, sagemem_side_open, begin_end_put, sagemem_side_close, 1)
LOOP_USER(begin_end)
LOOP(stdio, stdio_open, stdio_put, stdio_close, 1)
LOOP(unlocked, stdio_open, unlocked_put, stdio_close, 1)
LOOP(large, stdio_large_open, unlocked_put, stdio_close, 1)
LOOP(each, each_open, each_put, free, 16) /* a call each takes its time: fewer of them */

static bench_work *const works_sagemem[BENCH_WORKS] = {sagemem_side_write, sagemem_side_user};
static bench_work *const works_begin_end[BENCH_WORKS] = {begin_end_write, begin_end_user};
static bench_work *const works_by_hand[BENCH_WORKS] = {by_hand_write, by_hand_user};
static bench_work *const works_stdio[BENCH_WORKS] = {stdio_write, NULL};
static bench_work *const works_unlocked[BENCH_WORKS] = {unlocked_write, NULL};
static bench_work *const works_large[BENCH_WORKS] = {large_write, NULL};
static bench_work *const works_each[BENCH_WORKS] = {each_write, NULL};

static const bench_side sides[] = {
    {"sagemem", 0, NULL, works_sagemem},          {"sagemem, in place", 0, NULL, works_begin_end},
    {"1 MiB by hand", 0, NULL, works_by_hand},    {"fwrite", 0, NULL, works_stdio},
    {"fwrite_unlocked", 0, NULL, works_unlocked}, {"fwrite_unlocked, 1 MiB", 0, NULL, works_large},
    {"a write each", 0, NULL, works_each},
};

static const target small_file = {100, false}, large_file = {400, false}, small_memory = {100, true}, large_memory = {400, true};

#define BY_HAND                                                                                                                    \
    {                                                                                                                              \
        { AT_MOST, 1.05, "1 MiB by hand" }                                                                                         \
    }
static const bench_row rows[] = {
    {"write-100", "records of 100 B to a file", "ns of thread CPU", WRITE, &small_file, BY_HAND, ANY_POLICY},
    {"write-400", "records of 400 B to a file", "ns of thread CPU", WRITE, &large_file, BY_HAND, ANY_POLICY},
    {"write-tmpfs-100", "records of 100 B to a file in memory", "ns of thread CPU", WRITE, &small_memory, BY_HAND, ANY_POLICY},
    {"write-tmpfs-400", "records of 400 B to a file in memory", "ns of thread CPU", WRITE, &large_memory, BY_HAND, ANY_POLICY},
    {"write-user",
     "records of 100 B, what is not the system's",
     "ns of thread CPU",
     USER,
     &small_file,
     {{AT_MOST, 5.0, NULL}},
     ANY_POLICY},
};

const bench_group bench_writers = {rows, sizeof rows / sizeof *rows, sides, sizeof sides / sizeof *sides, NULL};
