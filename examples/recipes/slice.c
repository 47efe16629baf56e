/* How do several owners keep parts of one large text without copying any of it?
 *
 * Build: cc -I. examples/recipes/slice.c -pthread
 * Output:
 *     4 slices share 46 bytes
 *     the reader is done with the text, the sequences are not
 *     sequence 0: ACGTACGT
 *     sequence 1: GGTTAACC
 *     sequence 2: TTGACA
 *     the text is given back
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>
#include <string.h>

/* What is to be done with the text in the end: nothing for a string; for a mapped file, munmap. */
static void give_back(void *ctx, const void *data) {
    (void)ctx, (void)data;
    puts("the text is given back");
}

int main(void) {
    const char *file = ">star\nACGTACGT\n>comet\nGGTTAACC\n>planet\nTTGACA\n";
    sagemem_slice text = sagemem_slice_wrap(file, strlen(file), give_back, NULL), sequence[3];
    if (text.owner == NULL) return 1;
    size_t at = 0;
    for (int i = 0; i < 3; i++) { /* a line with a name, a line with what is to be kept */
        size_t start = at + strcspn(file + at, "\n") + 1, end = start + strcspn(file + start, "\n");
        if (sagemem_slice_sub(text, start, end, &sequence[i]) != SAGEMEM_OK) return 1;
        at = end + 1;
    }
    printf("%d slices share %d bytes\n", (int)sagemem_slice_count(text), (int)text.size);
    sagemem_slice_release(text);
    puts("the reader is done with the text, the sequences are not");
    for (int i = 0; i < 3; i++) { /* each by its owner, in any thread */
        printf("sequence %d: %.*s\n", i, (int)sequence[i].size, (const char *)sequence[i].data);
        sagemem_slice_release(sequence[i]);
    }
    return 0;
}
