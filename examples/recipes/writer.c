/* How do I write a file, and know that all of it arrived?
 *
 * Build: cc -I. examples/recipes/writer.c -pthread
 * Output:
 *     1000 halos accepted, 0 bytes written so far
 *     closed: 12000 bytes in the file
 *     a full disk: SAGEMEM_E_IO, 5 bytes accepted, 0 written, still open
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { TAG_OUTPUT = 1 };

/* Stands for a disk without room. */
static sagemem_status no_room(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)ctx, (void)data, (void)size, (void)offset;
    return SAGEMEM_E_IO;
}

int main(void) {
    char path[] = "/tmp/halos-XXXXXX"; /* any name */
    close(mkstemp(path));
    sagemem_writer_desc desc = {0};
    desc.path = path;
    desc.tag = TAG_OUTPUT;
    sagemem_tag_define(TAG_OUTPUT, "Output/Buffers");
    sagemem_writer *writer = sagemem_writer_open(&desc);
    if (writer == NULL) {
        fprintf(stderr, "%s\n", sagemem_last_error()->message);
        return 1;
    }
    for (uint32_t halo = 0; halo < 1000; halo++) {
        uint32_t record[3] = {halo, 10 * halo, 0};
        if (sagemem_write(writer, record, sizeof record) != SAGEMEM_OK) return 1;
    }
    printf("1000 halos accepted, %d bytes written so far\n", (int)sagemem_writer_written(writer));
    uint64_t bytes = sagemem_writer_accepted(writer);
    if (sagemem_writer_close(writer) != SAGEMEM_OK) return 1; /* this is where a full disk shows */
    printf("closed: %d bytes in the file\n", (int)bytes);
    remove(path);

    sagemem_sink full = {no_room, NULL, NULL}; /* not a path, but an own function */
    desc.path = NULL;
    desc.sink = &full;
    writer = sagemem_writer_open(&desc);
    if (writer == NULL || sagemem_write(writer, "halos", 5) != SAGEMEM_OK) return 1;
    sagemem_status status = sagemem_writer_close(writer);
    printf("a full disk: %s, %d bytes accepted, %d written, still open\n", sagemem_status_name(status),
           (int)sagemem_writer_accepted(writer), (int)sagemem_writer_written(writer));
    sagemem_writer_abandon(writer); /* or make room, and close again */
    return 0;
}
