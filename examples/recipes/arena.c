/* How do I keep millions of small strings without an allocation for each?
 *
 * The names of a catalogue go into one arena, one behind the other. Between two files it is taken back to a mark: the names of
 * the first file are gone, what came before is still there, and the same memory serves again.
 *
 * Build: cc -I. examples/recipes/arena.c -pthread
 * Output:
 *     north.cat: 3 names, the last is M31
 *     south.cat: 4 names, the last is Fornax
 *     both files: 1 block of the heap
 *     the title is still there: Local Group
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>
#include <string.h>

enum { TAG_NAMES = 1, MOST = 100 };

/* A real one reads lines from a file. */
static size_t parse(sagemem_arena *arena, const char *text, const char **names) {
    size_t count = 0;
    while (*text != '\0' && count < MOST) {
        size_t length = strcspn(text, " ");
        char *name = (char *)sagemem_arena_alloc_aligned(arena, length + 1, 1); /* 1: packed, strings need no alignment */
        if (name == NULL) return 0;
        memcpy(name, text, length);
        name[length] = '\0';
        names[count++] = name;
        text += length + (text[length] == ' ');
    }
    return count;
}

int main(void) {
    static const char *const files[][2] = {{"north.cat", "SagittariusDwarf DracoDwarf M31"},
                                           {"south.cat", "LMC SMC Carina Fornax"}};
    sagemem_arena_desc desc = {0};
    desc.tag = TAG_NAMES;
    desc.name = "names";
    sagemem_arena *arena = sagemem_arena_create(&desc);
    char *title = arena != NULL ? (char *)sagemem_arena_alloc(arena, 30) : NULL;
    if (title == NULL) {
        fprintf(stderr, "%s\n", sagemem_last_error()->message);
        return 1;
    }
    strcpy(title, "Local Group");
    sagemem_arena_mark mark = sagemem_arena_get_mark(arena);
    for (int i = 0; i < 2; i++) {
        const char *names[MOST];
        size_t count = parse(arena, files[i][1], names);
        if (count == 0) return 1;
        printf("%s: %d names, the last is %s\n", files[i][0], (int)count, names[count - 1]);
        sagemem_arena_rewind(arena, mark);
    }
    sagemem_arena_stats stats;
    sagemem_arena_get_stats(arena, &stats);
    printf("both files: %d block of the heap\n", (int)stats.chunks);
    printf("the title is still there: %s\n", title);
    sagemem_arena_destroy(arena);
    return 0;
}
