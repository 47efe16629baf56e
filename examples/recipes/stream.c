/* How do I go through a file that is larger than memory, on all cores, record by record?
 *
 * Each thread gets chunks of whole lines, adds them up for itself and the sum to the total. In order (without `unordered`) no
 * lock would be needed.
 *
 * Build: cc -I. examples/recipes/stream.c -pthread
 * Output:
 *     100000 halos of 5000050000 particles
 *     the stream was stopped: line 3 of a catalogue says "halo 3 ??"
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct sums {
    pthread_mutex_t lock;
    long long halos, particles;
};

/* Lines like "halo 17 1234": called by several threads at once. */
static sagemem_status add_up(void *ctx, const void *data, size_t size, uint64_t offset) {
    struct sums *sums = (struct sums *)ctx;
    const char *line = (const char *)data, *end = line + size;
    long long halos = 0, particles = 0;
    (void)offset; /* of the chunk in the file */
    while (line < end) {
        char text[64];
        int number, taken = 0;
        size_t length = 0;
        while (line + length < end && length < sizeof text - 1 && line[length] != '\n') length++;
        memcpy(text, line, length);
        text[length] = '\0';
        long long count;
        if (sscanf(text, "halo %d %lld%n", &number, &count, &taken) != 2 || taken == 0) {
            printf("the stream was stopped: line %lld of a catalogue says \"%s\"\n", halos + 1, text);
            return SAGEMEM_E_CORRUPT; /* no chunk is begun any more; sagemem_stream_run returns this */
        }
        halos++;
        particles += count;
        line += length + 1;
    }
    pthread_mutex_lock(&sums->lock);
    sums->halos += halos;
    sums->particles += particles;
    pthread_mutex_unlock(&sums->lock);
    return SAGEMEM_OK;
}

static sagemem_status run(FILE *file, struct sums *sums) {
    fflush(file);
    sagemem_reader_desc r = {0};
    r.fd_plus_one = fileno(file) + 1; /* or r.path; a pipe works as well */
    sagemem_stream_desc s = {0};
    s.reader = sagemem_reader_open(&r);
    if (s.reader == NULL) return sagemem_last_error()->status;
    s.delimiter_plus_one = '\n' + 1;
    s.process_fn = add_up;
    s.ctx = sums;
    s.threads = 4;
    s.unordered = true;
    s.chunk_bytes = 65536;
    sagemem_status status = sagemem_stream_run(&s);
    sagemem_reader_close(s.reader);
    return status;
}

int main(void) {
    struct sums sums = {PTHREAD_MUTEX_INITIALIZER, 0, 0};
    FILE *good = tmpfile(), *bad = tmpfile();
    if (good == NULL || bad == NULL) return 1;
    for (int i = 1; i <= 100000; i++) fprintf(good, "halo %d %d\n", i, i);
    fputs("halo 1 10\nhalo 2 20\nhalo 3 ??\nhalo 4 40\n", bad);

    if (run(good, &sums) != SAGEMEM_OK) {
        fprintf(stderr, "%s\n", sagemem_last_error()->message);
        return 1;
    }
    printf("%lld halos of %lld particles\n", sums.halos, sums.particles);
    bool stopped = run(bad, &sums) == SAGEMEM_E_CORRUPT;
    fclose(good);
    fclose(bad);
    return stopped ? 0 : 1;
}
