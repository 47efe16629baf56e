/* What the fuzz targets begin with. Each has one function, which is given bytes and must survive them:
 *
 *     int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
 *
 * clang's -fsanitize=fuzzer drives it; with FUZZ_PLAIN this file's main does: files that are named, then random bytes for
 * FUZZ_SECONDS [10], the same ones for the same SAGEMEM_SEED. See `make fuzz`. */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

/* Unlike assert, also with NDEBUG; says what the library said last. */
#define MUST(condition)                                                                                                            \
    do {                                                                                                                           \
        if (!(condition)) {                                                                                                        \
            fprintf(stderr, "%s:%d: not so: %s; last error: %s\n", __FILE__, __LINE__, #condition, sagemem_last_error()->message); \
            abort();                                                                                                               \
        }                                                                                                                          \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Two files of this process, gone at exit. */
static char fuzz_path[2][64];
static void fuzz_remove(void) {
    for (int i = 0; i < 2; i++) unlink(fuzz_path[i]);
}
static void fuzz_begin(void) {
    if (fuzz_path[0][0] != '\0') return;
    for (int i = 0; i < 2; i++) snprintf(fuzz_path[i], sizeof fuzz_path[i], "/tmp/sagemem-fuzz-%d-%d", (int)getpid(), i);
    atexit(fuzz_remove);
}
/* Not emptied first: some file systems wait for the disk when such a file is closed. */
static void fuzz_write(int i, const void *bytes, size_t size) {
    int fd = open(fuzz_path[i], O_WRONLY | O_CREAT, 0600);
    MUST(fd >= 0 && pwrite(fd, bytes, size, 0) == (ssize_t)size && ftruncate(fd, (off_t)size) == 0 && close(fd) == 0);
}

#ifdef FUZZ_PLAIN
static uint64_t fuzz_state;
static uint64_t fuzz_next(void) { /* splitmix64 */
    uint64_t z = fuzz_state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

int main(int argc, char **argv) {
    static uint8_t bytes[4096];
    const char *seconds = getenv("FUZZ_SECONDS"), *seed = getenv("SAGEMEM_SEED");
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        MUST(file != NULL);
        size_t size = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        (void)LLVMFuzzerTestOneInput(bytes, size);
    }
    fuzz_state = seed != NULL ? strtoull(seed, NULL, 0) : 1;
    printf("SAGEMEM_SEED=%llu\n", (unsigned long long)fuzz_state);
    time_t end = time(NULL) + (seconds != NULL ? atoi(seconds) : 10);
    unsigned long runs = 0;
    do {
        /* Text of few letters finds more in half of the runs: it has delimiters, and equal lines. */
        size_t size = (size_t)(fuzz_next() % (fuzz_next() % 4 == 0 ? sizeof bytes : 100));
        uint64_t letters = fuzz_next() % 2 == 0 ? 256 : 1 + fuzz_next() % 6;
        for (size_t i = 0; i < size; i++) {
            uint64_t letter = fuzz_next() % letters;
            bytes[i] = letters == 256 || i < 6 ? (uint8_t)fuzz_next() : (uint8_t) "\n>A\2\0B"[letter];
        }
        (void)LLVMFuzzerTestOneInput(bytes, size);
        runs++;
    } while (time(NULL) < end);
    printf("%lu runs\n", runs);
    return 0;
}
#endif

#endif
