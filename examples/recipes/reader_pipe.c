/* How do I read what another program writes (zcat, a simulation that still runs) while I work on what I have?
 *
 * A thread of the reader takes the next bytes from the pipe meanwhile; the views show them one character at a time, at the cost of a
 * comparison each.
 *
 * Build: cc -I. examples/recipes/reader_pipe.c -pthread
 * Output:
 *     100000 lines, sum 5000050000
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>

enum { TAG_CATALOGUE = 1 };

int main(void) {
    sagemem_tag_define(TAG_CATALOGUE, "IO/Catalogue");
    FILE *program = popen("i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); echo $i; done", "r"); /* e.g. "zcat halos.txt.gz" */
    if (program == NULL) return 1;

    sagemem_reader_desc desc = {0};
    desc.fd_plus_one = fileno(program) + 1;
    desc.read_ahead = true;
    desc.buffer_bytes = 65536; /* what a pipe holds; three of them */
    desc.tag = TAG_CATALOGUE;
    sagemem_reader *reader = sagemem_reader_open(&desc);
    long long sum = 0, number = 0;
    int lines = 0;
    const char *c;
    while (reader != NULL && (c = sagemem_read_view(reader, 1)) != NULL) {
        if (*c != '\n') {
            number = number * 10 + (*c - '0');
            continue;
        }
        sum += number;
        number = 0;
        lines++;
    }
    if (sagemem_last_error()->status != SAGEMEM_E_EMPTY) { /* E_EMPTY: the pipe has ended */
        fprintf(stderr, "%s\n", sagemem_last_error()->message);
        return 1;
    }
    printf("%d lines, sum %lld\n", lines, sum);
    sagemem_reader_close(reader);
    return pclose(program) != 0;
}
