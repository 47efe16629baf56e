/* Counts the bases of a FASTA file in several ways, and says how fast each is: a loop over the mapped file, getline, and streams.
 *
 *     make speed                        1 GB, made in the build directory
 *     speed DIRECTORY [MEGABYTES]
 *
 * Each way is taken five times, in turns, and the best time counts: the file is in the system's cache, and the machine may have
 * something else to do. */
#define _POSIX_C_SOURCE 200809L
#include "sagemem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 5 };

typedef struct way {
    const char *name;
    void (*run)(const struct way *way, const char *path);
    bool read, ahead; /* streams: not mapped; read ahead */
    int threads;
    double best; /* seconds */
} way;

static uint64_t bases; /* any thread adds */

static void count(const char *at, size_t size) {
    uint64_t found = 0;
    for (const char *end = at + size, *line; at < end; at = line + 1) {
        line = (const char *)memchr(at, '\n', (size_t)(end - at));
        if (line == NULL) line = end;
        if (*at != '>') found += (uint64_t)(line - at);
    }
    __atomic_fetch_add(&bases, found, __ATOMIC_RELAXED);
}

static void fail(const char *what) {
    fprintf(stderr, "speed: %s: %s\n", what, sagemem_last_error()->message);
    exit(1);
}

static void by_map(const way *w, const char *path) {
    sagemem_map_desc desc = {0};
    (void)w;
    desc.path = path;
    desc.access = SAGEMEM_ACCESS_SEQUENTIAL;
    sagemem_map *map = sagemem_map_open(&desc);
    if (map == NULL) fail(path);
    count((const char *)sagemem_map_data(map), (size_t)sagemem_map_size(map));
    sagemem_map_close(map);
}

static void by_getline(const way *w, const char *path) {
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t room = 0;
    (void)w;
    if (file == NULL) fail(path);
    for (ssize_t n; (n = getline(&line, &room, file)) > 0;) count(line, (size_t)n);
    free(line);
    fclose(file);
}

static sagemem_status process(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)ctx, (void)offset;
    count((const char *)data, size);
    return SAGEMEM_OK;
}
static void by_stream(const way *w, const char *path) {
    sagemem_reader_desc r = {0};
    r.path = path;
    r.no_mapping = w->read;
    r.read_ahead = w->ahead;
    sagemem_stream_desc s = {0};
    s.reader = sagemem_reader_open(&r);
    s.delimiter_plus_one = '\n' + 1;
    s.process_fn = process;
    s.threads = w->threads;
    s.unordered = true;
    if (s.reader == NULL || sagemem_stream_run(&s) != SAGEMEM_OK) fail(path);
    sagemem_reader_close(s.reader);
}

/* Sequences of 1 to 12 lines of 60. */
static uint64_t make_fasta(const char *path, uint64_t size) {
    FILE *file = fopen(path, "w");
    uint64_t x = 1, all = 0, made = 0;
    char line[62];
    if (file == NULL) fail(path);
    for (int number = 0; made < size; number++) {
        made += (uint64_t)fprintf(file, ">seq%d\n", number);
        x = x * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
        for (int lines = 1 + (int)(x >> 33) % 12, i = 0; i < lines; i++) {
            int width = i + 1 < lines ? 60 : 1 + (int)(x >> 40) % 60;
            for (int k = 0; k < width; k++) line[k] = "ACGT"[(x >> (k % 60)) & 3];
            line[width] = '\n';
            made += fwrite(line, 1, (size_t)width + 1, file);
            all += (uint64_t)width;
        }
    }
    if (fclose(file) != 0) fail(path);
    return all;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    static way ways[] = {
        {"a loop over the mapped file", by_map, false, false, 0, 1e9},
        {"getline", by_getline, false, false, 0, 1e9},
        {"stream, mapped", by_stream, false, false, 1, 1e9},
        {"stream, mapped, 2 threads", by_stream, false, false, 2, 1e9},
        {"stream, read", by_stream, true, false, 1, 1e9},
        {"stream, read ahead", by_stream, true, true, 1, 1e9},
        {"stream, read, 2 threads", by_stream, true, false, 2, 1e9},
    };
    char path[4096];
    uint64_t size = (argc > 2 ? strtoull(argv[2], NULL, 10) : 1000) * 1000000;
    snprintf(path, sizeof path, "%s/speed.fa", argc > 1 ? argv[1] : ".");
    uint64_t expected = make_fasta(path, size);
    enum { WAYS = sizeof ways / sizeof *ways };
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < WAYS; i++) {
            bases = 0;
            double start = now();
            ways[i].run(&ways[i], path);
            double took = now() - start;
            if (took < ways[i].best) ways[i].best = took;
            if (bases != expected) fail(ways[i].name);
        }
    printf("%-30s %8s %12s %10s\n", "bases of a FASTA file by", "GB/s", "of the loop", "of getline");
    for (int i = 0; i < WAYS; i++)
        printf("%-30s %8.2f %12.2f %10.2f\n", ways[i].name, (double)size * 1e-9 / ways[i].best, ways[0].best / ways[i].best,
               ways[1].best / ways[i].best);
    return unlink(path);
}
