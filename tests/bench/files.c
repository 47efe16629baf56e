/* Files read: forests here and there, lines one after the other, more than fits into memory.
 *
 * What lies in the system's cache costs thread CPU time; where the disk is waited for, or threads work together, it is wall time.
 * Forests have 10 KB to 1 MB, each factor of ten as often as any other; all of their bytes are added up.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FIRST, AGAIN, COLD, BASES, BASES_WALL, WINDOW };

static void check(bool good, const char *what) {
    if (!good) bench_die(what, strerror(errno));
}
static void check_ours(bool good, const char *what) {
    if (!good) bench_die(what, sagemem_last_error()->message);
}

/* -- Files, made once in a row's process ----------------------------------------------------------------------------------- */

typedef struct bench_input {
    int file;
    size_t size;
} bench_input;

static void fill(int file, const char *piece, size_t size) {
    for (ssize_t n; size > 0; piece += n, size -= (size_t)n) {
        n = write(file, piece, size);
        check(n > 0, "writing a file");
    }
}

/* Clean pages: they can be evicted, and nothing is written while others are measured. */
static bench_input file_of(size_t size, size_t (*make_piece)(char *piece, size_t room)) {
    enum { PIECE = 1 << 20 };
    bench_input made = {bench_file(false), 0};
    char *piece = (char *)bench_scratch(PIECE);
    while (made.size < size) {
        size_t n = make_piece(piece, size - made.size < PIECE ? size - made.size : PIECE);
        fill(made.file, piece, n);
        made.size += n;
    }
    bench_scratch_free(piece, PIECE);
    check(fdatasync(made.file) == 0, "fdatasync");
    return made;
}

static uint64_t seed = 1;

static size_t make_words(char *piece, size_t room) {
    for (size_t at = 0; at < room; at += 4) {
        uint32_t word = bench_random(&seed);
        memcpy(piece + at, &word, room - at < 4 ? room - at : 4);
    }
    return room;
}

static uint64_t bases_made;

/* Sequences of 1 to 12 lines of 60, the last one shorter. */
static size_t make_fasta(char *piece, size_t room) {
    static unsigned number;
    size_t used = 0;
    while (room - used > 1000) {
        used += (size_t)snprintf(piece + used, 32, ">seq%u\n", number++);
        for (uint32_t line = 0, last = bench_below(&seed, 12); line <= last; line++) {
            size_t width = line < last ? 60 : 1 + bench_below(&seed, 60);
            for (size_t i = 0; i < width; i++) piece[used++] = "ACGT"[bench_random(&seed) >> 30];
            piece[used++] = '\n';
            bases_made += width;
        }
    }
    for (; used < room; used++) piece[used] = '\n';
    return used;
}

/* -- Forests ---------------------------------------------------------------------------------------------------------------------- */

typedef struct forest {
    uint64_t offset;
    size_t size;
} forest;

static struct forests {
    bench_input in;
    forest *all;
    size_t count, cold; /* of all; of those that are asked for when the disk is waited for */
    char *buffer;
} forests;

enum { SMALLEST = 10000, LARGEST = 1000000, AHEAD = 16, OF_COLD = 8 };

/* Whole words: the sum needs no more than a load and an addition for each. */
static size_t forest_size(void) {
    double size = SMALLEST * pow((double)LARGEST / SMALLEST, (double)bench_random(&seed) / 4294967296.0);
    return (size_t)size & ~(size_t)7;
}

static void make_forests(void) {
    if (forests.all != NULL) return;
    seed = 1;
    forests.in = file_of((size_t)bench_file_size(2000000000, 300000000), make_words);
    forests.all = (forest *)bench_scratch((forests.in.size / SMALLEST + 1) * sizeof(forest));
    forests.buffer = (char *)bench_scratch(LARGEST);
    uint64_t at = 0;
    for (size_t size; (size = forest_size()) <= forests.in.size - at; at += size) forests.all[forests.count++] = (forest){at, size};
    for (size_t i = forests.count; i > 1; i--) {
        size_t other = bench_below(&seed, (uint32_t)i);
        forest moved = forests.all[i - 1];
        forests.all[i - 1] = forests.all[other];
        forests.all[other] = moved;
    }
    forests.cold = forests.count / OF_COLD + 1;
}

static volatile uint64_t sum;

static void use_forest(const void *data, size_t size) {
    const uint64_t *words = (const uint64_t *)data;
    size_t count = size / sizeof *words, i = 0;
    uint64_t a = 0, b = 0, c = 0, d = 0; /* four sums: it is the memory that is to be waited for */
    for (; i + 4 <= count; i += 4) a += words[i], b += words[i + 1], c += words[i + 2], d += words[i + 3];
    for (; i < count; i++) a += words[i];
    sum = a + b + c + d;
}

static sagemem_map *map_open(bench_input in, sagemem_map_access access, uint64_t window, bool no_mapping) {
    sagemem_map_desc desc = {0};
    desc.fd_plus_one = in.file + 1;
    desc.access = access;
    desc.window = window;
    desc.no_mapping = no_mapping;
    desc.heap = bench_heap;
    sagemem_map *map = sagemem_map_open(&desc);
    check_ours(map != NULL, "no map");
    return map;
}

static void ours_ahead(sagemem_map *map, size_t i, size_t end) {
    if (i < end) (void)sagemem_map_prefetch(map, forests.all[i].offset, forests.all[i].size);
}

/* ahead 0: nothing is asked for before it is looked at. */
static void walk_ours(sagemem_map *map, size_t end, size_t ahead) {
    for (size_t i = 0; i < ahead; i++) ours_ahead(map, i, end);
    for (size_t i = 0; i < end; i++) {
        const forest *f = &forests.all[i];
        if (ahead > 0) ours_ahead(map, i + ahead, end);
        const void *data = sagemem_map_view(map, f->offset, f->size);
        check_ours(data != NULL, "no view");
        use_forest(data, f->size);
    }
}
static void walk_plain(const char *map, size_t end) {
    for (size_t i = 0; i < end; i++) use_forest(map + forests.all[i].offset, forests.all[i].size);
}
static void walk_pread(size_t end) {
    for (size_t i = 0; i < end; i++) {
        const forest *f = &forests.all[i];
        for (size_t done = 0; done < f->size;) {
            ssize_t n = pread(forests.in.file, forests.buffer + done, f->size - done, (off_t)(f->offset + done));
            check(n > 0, "pread");
            done += (size_t)n;
        }
        use_forest(forests.buffer, f->size);
    }
}
static const char *map_plain(bench_input in) {
    void *map = mmap(NULL, in.size, PROT_READ, MAP_SHARED, in.file, 0);
    check(map != MAP_FAILED, "mmap");
    return (const char *)map;
}

static double per_forest(double ns, size_t count) { return ns / 1e3 / (double)count; }

/* Opened, walked once, closed. */
static double first_ours(const bench_row *row) {
    (void)row;
    make_forests();
    double start = bench_cpu_ns();
    sagemem_map *map = map_open(forests.in, SAGEMEM_ACCESS_NORMAL, 0, false);
    walk_ours(map, forests.count, 0);
    check_ours(sagemem_map_close(map) == SAGEMEM_OK, "close");
    return per_forest(bench_cpu_ns() - start, forests.count);
}
static double first_plain(const bench_row *row) {
    (void)row;
    make_forests();
    double start = bench_cpu_ns();
    const char *map = map_plain(forests.in);
    walk_plain(map, forests.count);
    munmap((void *)(uintptr_t)map, forests.in.size);
    return per_forest(bench_cpu_ns() - start, forests.count);
}
static double first_pread(const bench_row *row) {
    (void)row;
    make_forests();
    double start = bench_cpu_ns();
    walk_pread(forests.count);
    return per_forest(bench_cpu_ns() - start, forests.count);
}

/* Walked before; what is taken back in between is the system's choice. */
static double again_ours(const bench_row *row) {
    (void)row;
    make_forests();
    sagemem_map *map = map_open(forests.in, SAGEMEM_ACCESS_NORMAL, 0, false);
    walk_ours(map, forests.count, 0);
    double start = bench_cpu_ns();
    walk_ours(map, forests.count, 0);
    double ns = bench_cpu_ns() - start;
    check_ours(sagemem_map_close(map) == SAGEMEM_OK, "close");
    return per_forest(ns, forests.count);
}
static double again_plain(const bench_row *row) {
    (void)row;
    make_forests();
    const char *map = map_plain(forests.in);
    walk_plain(map, forests.count);
    double start = bench_cpu_ns();
    walk_plain(map, forests.count);
    double ns = bench_cpu_ns() - start;
    munmap((void *)(uintptr_t)map, forests.in.size);
    return per_forest(ns, forests.count);
}

/* The share of a file's pages that are in memory. */
static double cached_share(bench_input in) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (in.size + page - 1) / page, found = 0;
    unsigned char *there = (unsigned char *)bench_scratch(pages);
    const char *map = map_plain(in);
    check(mincore((void *)(uintptr_t)map, in.size, there) == 0, "mincore");
    for (size_t i = 0; i < pages; i++) found += there[i] & 1;
    munmap((void *)(uintptr_t)map, in.size);
    bench_scratch_free(there, pages);
    return (double)found / (double)pages;
}
static void evict(bench_input in) {
    static bool told;
    check(posix_fadvise(in.file, 0, 0, POSIX_FADV_DONTNEED) == 0, "posix_fadvise");
    if (told || cached_share(in) < 0.01) return;
    fprintf(stderr, "bench: the file could not be evicted: cold forests mean nothing here (BENCH_FILES names another directory)\n");
    told = true;
}

static double cold_ours(const bench_row *row) {
    (void)row;
    make_forests();
    evict(forests.in);
    double start = bench_wall_ns();
    sagemem_map *map = map_open(forests.in, SAGEMEM_ACCESS_RANDOM, 0, false);
    walk_ours(map, forests.cold, AHEAD);
    double ns = bench_wall_ns() - start;
    check_ours(sagemem_map_close(map) == SAGEMEM_OK, "close");
    return per_forest(ns, forests.cold);
}
static double cold_plain(const bench_row *row) {
    (void)row;
    make_forests();
    evict(forests.in);
    double start = bench_wall_ns();
    const char *map = map_plain(forests.in);
    walk_plain(map, forests.cold);
    double ns = bench_wall_ns() - start;
    munmap((void *)(uintptr_t)map, forests.in.size);
    return per_forest(ns, forests.cold);
}
static double cold_pread(const bench_row *row) {
    (void)row;
    make_forests();
    evict(forests.in);
    double start = bench_wall_ns();
    walk_pread(forests.cold);
    return per_forest(bench_wall_ns() - start, forests.cold);
}

/* -- Lines ------------------------------------------------------------------------------------------------------------------------ */

static uint64_t bases; /* any thread adds */

static void count_bases(const char *at, size_t size) {
    uint64_t found = 0;
    for (const char *end = at + size, *line; at < end; at = line + 1) {
        line = (const char *)memchr(at, '\n', (size_t)(end - at));
        if (line == NULL) line = end;
        if (*at != '>') found += (uint64_t)(line - at);
    }
    __atomic_fetch_add(&bases, found, __ATOMIC_RELAXED);
}

static sagemem_status count_chunk(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)ctx, (void)offset;
    count_bases((const char *)data, size);
    return SAGEMEM_OK;
}

static void stream(bench_input in, bool read, bool ahead, int threads) {
    sagemem_reader_desc r = {0};
    r.fd_plus_one = in.file + 1;
    r.no_mapping = read;
    r.read_ahead = ahead;
    r.heap = bench_heap;
    sagemem_stream_desc s = {0};
    s.reader = sagemem_reader_open(&r);
    s.delimiter_plus_one = '\n' + 1;
    s.process_fn = count_chunk;
    s.threads = threads;
    s.unordered = true;
    check_ours(s.reader != NULL && sagemem_stream_run(&s) == SAGEMEM_OK, "stream");
    (void)sagemem_reader_close(s.reader);
}
static void by_stream(bench_input in) { stream(in, false, false, 1); }
static void by_stream_read(bench_input in) { stream(in, true, false, 1); }
static void by_stream_ahead(bench_input in) { stream(in, true, true, 1); }
static void by_stream_threads(bench_input in) { stream(in, false, false, 2); }
static void by_stream_read_threads(bench_input in) { stream(in, true, false, 2); }

static void by_loop(bench_input in) {
    const char *map = map_plain(in);
    (void)madvise((void *)(uintptr_t)map, in.size, MADV_SEQUENTIAL);
    count_bases(map, in.size);
    munmap((void *)(uintptr_t)map, in.size);
}
static void by_getline(bench_input in) {
    FILE *file = fdopen(dup(in.file), "r");
    char *line = NULL;
    size_t room = 0;
    check(file != NULL && fseeko(file, 0, SEEK_SET) == 0, "fdopen");
    for (ssize_t n; (n = getline(&line, &room, file)) > 0;) count_bases(line, (size_t)n);
    free(line);
    fclose(file);
}

/* ns for 1,000 bytes: the reciprocal of MB/ms, so that less is better, as in all rows. */
static double count_by(void (*way)(bench_input in), double (*now)(void)) {
    static bench_input in;
    if (in.size == 0) in = file_of((size_t)bench_file_size(1000000000, 100000000), make_fasta);
    bases = 0;
    double start = now();
    way(in);
    double ns = now() - start;
    if (bases != bases_made) bench_die("bases", "they were counted wrongly");
    return ns / (double)in.size * 1000;
}
#define COUNT(name)                                                                                                                \
    static double name##_cpu(const bench_row *row) { return (void)row, count_by(by_##name, bench_cpu_ns); }                        \
    static double name##_wall(const bench_row *row) { return (void)row, count_by(by_##name, bench_wall_ns); }
COUNT(loop)
COUNT(getline)
COUNT(stream)
COUNT(stream_read)
#define COUNT_WALL(name)                                                                                                           \
    static double name##_wall(const bench_row *row) { return (void)row, count_by(by_##name, bench_wall_ns); }
COUNT_WALL(stream_ahead)
COUNT_WALL(stream_threads)
COUNT_WALL(stream_read_threads)

/* -- A window --------------------------------------------------------------------------------------------------------------------- */

/* A look at each page of a file that is nothing but a hole. */
static bench_input sparse(void) {
    bench_input in = {bench_file(false), (size_t)bench_file_size((uint64_t)16 << 30, (uint64_t)2 << 30)};
    check(ftruncate(in.file, (off_t)in.size) == 0, "ftruncate");
    return in;
}
static void look_at(const char *data, size_t size) {
    uint64_t found = 0;
    for (size_t i = 0; i < size; i += 64) found += (uint64_t)data[i];
    sum = found;
}

static double window(bool no_mapping) {
    enum { VIEW = 1 << 20 };
    bench_input in = sparse();
    sagemem_map *map = map_open(in, SAGEMEM_ACCESS_NORMAL, (uint64_t)256 << 20, no_mapping);
    for (uint64_t at = 0; at < in.size; at += VIEW) {
        size_t size = in.size - at < VIEW ? (size_t)(in.size - at) : VIEW;
        const char *data = (const char *)sagemem_map_view(map, at, size);
        check_ours(data != NULL, "no view");
        look_at(data, size);
    }
    check_ours(sagemem_map_close(map) == SAGEMEM_OK, "close");
    close(in.file);
    return bench_peak_resident() / 1048576;
}
static double window_mapped(const bench_row *row) { return (void)row, window(false); }
static double window_read(const bench_row *row) { return (void)row, window(true); }
static double window_plain(const bench_row *row) {
    (void)row;
    bench_input in = sparse();
    const char *map = map_plain(in);
    look_at(map, in.size);
    munmap((void *)(uintptr_t)map, in.size);
    close(in.file);
    return bench_peak_resident() / 1048576;
}

/* -- Rows and sides --------------------------------------------------------------------------------------------------------------- */

static bench_work *const works_sagemem[BENCH_WORKS] = {first_ours, again_ours, cold_ours, stream_cpu, stream_wall, window_mapped};
static bench_work *const works_read[BENCH_WORKS] = {NULL, NULL, NULL, stream_read_cpu, stream_read_wall, window_read};
static bench_work *const works_ahead[BENCH_WORKS] = {NULL, NULL, NULL, NULL, stream_ahead_wall, NULL};
static bench_work *const works_threads[BENCH_WORKS] = {NULL, NULL, NULL, NULL, stream_threads_wall, NULL};
static bench_work *const works_read_threads[BENCH_WORKS] = {NULL, NULL, NULL, NULL, stream_read_threads_wall, NULL};
static bench_work *const works_mmap[BENCH_WORKS] = {first_plain, again_plain, cold_plain, loop_cpu, loop_wall, window_plain};
static bench_work *const works_pread[BENCH_WORKS] = {first_pread, first_pread, cold_pread, NULL, NULL, NULL};
static bench_work *const works_getline[BENCH_WORKS] = {NULL, NULL, NULL, getline_cpu, getline_wall, NULL};

static const bench_side sides[] = {
    {"sagemem", 0, NULL, works_sagemem},
    {"sagemem, read", 0, NULL, works_read},
    {"sagemem, read ahead", 0, NULL, works_ahead},
    {"sagemem, 2 threads", 0, NULL, works_threads},
    {"sagemem, read, 2 threads", 0, NULL, works_read_threads},
    {"mmap", 0, NULL, works_mmap},
    {"pread", 0, NULL, works_pread},
    {"getline", 0, NULL, works_getline},
};

#define NO_GOAL                                                                                                                    \
    {                                                                                                                              \
        { AT_MOST, 0, NULL }                                                                                                       \
    }
static const bench_row rows[] = {
    {"map-first",
     "forests of a cached file, first pass",
     "us of thread CPU each",
     FIRST,
     NULL,
     {{FASTER, 1.1, "pread"}},
     ANY_POLICY},
    {"map-again", "forests of a cached file, later", "us of thread CPU each", AGAIN, NULL, {{FASTER, 2.0, "pread"}}, ANY_POLICY},
    {"map-cold",
     "forests at random, not cached, asked for 16 ahead",
     "us of wall time each",
     COLD,
     NULL,
     {{FASTER, 1.7, "mmap"}, {FASTER, 1.7, "pread"}},
     ANY_POLICY},
    {"stream",
     "bases of a FASTA file, cached",
     "ns of thread CPU for 1,000 B",
     BASES,
     NULL,
     {{FASTER, 0.9, "mmap"}, {FASTER, 1.6, "getline"}},
     ANY_POLICY},
    {"stream-wall", "bases of a FASTA file, threads", "ns of wall time for 1,000 B", BASES_WALL, NULL, NO_GOAL, ANY_POLICY},
    {"window",
     "a sparse file through a window of 256 MiB",
     "most resident MiB",
     WINDOW,
     NULL,
     {{AT_MOST, 300, NULL}},
     ISOLATED | STEADY | ANY_POLICY},
};

const bench_group bench_files = {rows, sizeof rows / sizeof *rows, sides, sizeof sides / sizeof *sides, NULL};
