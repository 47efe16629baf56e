/* How do I build records of varying length in the buffer, and fill in the header when their number is known?
 *
 * Build: cc -I. examples/recipes/writer_records.c -pthread
 * Output:
 *     3 forests, 40 bytes: 1 2 3 halos
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void) {
    char path[] = "/tmp/forests-XXXXXX"; /* any name */
    close(mkstemp(path));
    sagemem_writer_desc desc = {0};
    desc.path = path;
    sagemem_writer *writer = sagemem_writer_open(&desc);
    uint32_t header = 0;
    if (writer == NULL || sagemem_write(writer, &header, sizeof header) != SAGEMEM_OK) return 1;
    for (uint32_t forest = 0; forest < 3; forest++) {
        /* As much room as it may need; no record is built elsewhere and copied. */
        char *room = (char *)sagemem_write_begin(writer, 1000);
        if (room == NULL) return 1;
        uint32_t halos = forest + 1;
        double mass = 1e12;
        memcpy(room, &halos, sizeof halos); /* any alignment: memcpy, not a cast */
        memcpy(room + sizeof halos, &mass, sizeof mass);
        sagemem_write_end(writer, sizeof halos + sizeof mass); /* as much as it did need */
        header++;
    }
    if (sagemem_writer_patch(writer, 0, &header, sizeof header) != SAGEMEM_OK) return 1; /* written already or not */
    uint64_t bytes = sagemem_writer_accepted(writer);
    if (sagemem_writer_close(writer) != SAGEMEM_OK) return 1;

    FILE *file = fopen(desc.path, "rb");
    if (file == NULL || fread(&header, sizeof header, 1, file) != 1) return 1;
    printf("%d forests, %d bytes:", (int)header, (int)bytes);
    for (uint32_t i = 0; i < header; i++) {
        uint32_t halos;
        double mass;
        if (fread(&halos, sizeof halos, 1, file) != 1 || fread(&mass, sizeof mass, 1, file) != 1) return 1;
        printf(" %d", (int)halos);
    }
    printf(" halos\n");
    fclose(file);
    remove(desc.path);
    return 0;
}
