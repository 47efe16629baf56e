/* How do I replace a checkpoint so that a crash leaves the old one or the new one, never half of each?
 *
 * Build: cc -I. examples/recipes/atomic_writer.c -pthread
 * Output:
 *     while the new one is written: step 1
 *     after an abandoned attempt: step 1
 *     after close: step 2
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/checkpoint-XXXXXX"; /* any name */

static void show(const char *when) {
    char text[32] = "";
    FILE *file = fopen(path, "r");
    if (file == NULL || fgets(text, sizeof text, file) == NULL) exit(1);
    fclose(file);
    printf("%s: %s\n", when, text);
}

static sagemem_writer *begin(const char *text) {
    sagemem_writer_desc desc = {0};
    desc.path = path;
    desc.atomic = true;                /* written beside, renamed at close */
    desc.sync = SAGEMEM_SYNC_AT_CLOSE; /* and on the disk then: against power cuts, too */
    sagemem_writer *writer = sagemem_writer_open(&desc);
    if (writer == NULL || sagemem_write(writer, text, strlen(text)) != SAGEMEM_OK) exit(1);
    return writer;
}

int main(void) {
    close(mkstemp(path));
    if (sagemem_writer_close(begin("step 1")) != SAGEMEM_OK) return 1;
    sagemem_writer *writer = begin("step 2");
    show("while the new one is written");
    sagemem_writer_abandon(writer); /* as if the run had been killed here */
    show("after an abandoned attempt");
    if (sagemem_writer_close(begin("step 2")) != SAGEMEM_OK) return 1;
    show("after close");
    remove(path);
    return 0;
}
