/* How do I go through a binary file of records of different lengths, without copying them?
 *
 * A snapshot has blocks of particles: a count, then so many positions. A view shows the bytes where they lie: in the mapped
 * file, or in the reader's buffer.
 *
 * Build: cc -I. examples/recipes/reader.c -pthread
 * Output:
 *     block 0: 1 particles, mean x 0.0
 *     block 1: 10 particles, mean x 4.5
 *     block 2: 100 particles, mean x 49.5
 *     4464 bytes read
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>
#include <string.h>

/* The file of the example: counts 1, 10, 100; x is 0, 1, 2, ... */
static bool make_snapshot(FILE *file) {
    for (uint64_t count = 1; count <= 100; count *= 10) {
        if (fwrite(&count, sizeof count, 1, file) != 1) return false;
        for (uint64_t i = 0; i < count; i++) {
            double position[3] = {(double)i, 0, 0}, velocity[2] = {0, 0};
            if (fwrite(position, sizeof position, 1, file) != 1 || fwrite(velocity, sizeof velocity, 1, file) != 1) return false;
        }
    }
    return fflush(file) == 0;
}

int main(void) {
    enum { PARTICLE = 5 * sizeof(double) };
    FILE *file = tmpfile();
    if (file == NULL || !make_snapshot(file)) return 1;

    sagemem_reader_desc desc = {0};
    desc.fd_plus_one = fileno(file) + 1; /* or desc.path = "snapshot_063" */
    sagemem_reader *reader = sagemem_reader_open(&desc);
    uint64_t count;
    size_t got;
    for (int block = 0; sagemem_read(reader, &count, sizeof count, &got) == SAGEMEM_OK && got == sizeof count; block++) {
        const char *particles = sagemem_read_view(reader, (size_t)count * PARTICLE);
        if (particles == NULL) break; /* cut off: the message says where */
        double sum = 0, x;
        for (uint64_t i = 0; i < count; i++) {
            memcpy(&x, particles + i * PARTICLE, sizeof x); /* a view has no alignment */
            sum += x;
        }
        printf("block %d: %d particles, mean x %.1f\n", block, (int)count, sum / (double)count);
    }
    if (sagemem_last_error()->status != SAGEMEM_OK) printf("%s\n", sagemem_last_error()->message);
    printf("%d bytes read\n", (int)sagemem_reader_position(reader));
    fclose(file);
    return sagemem_reader_close(reader) != SAGEMEM_OK;
}
