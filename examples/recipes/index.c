/* How do I get sequence number 4711 of a large FASTA file at once, today and the next time?
 *
 * The file is looked through once; where its records begin is kept beside it, with the file's size and time. A record is shown
 * where it lies in the mapped file, or shared as a slice: nothing is copied.
 *
 * Build: cc -I. examples/recipes/index.c -pthread
 * Output:
 *     first run: no index yet, built and saved
 *     second run: loaded
 *     third run: the file has changed, built and saved
 *     5001 records; record 4711: >gene4711 AACCGGTT; the last: >new ACGT
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <stdio.h>
#include <unistd.h>

enum { TAG_INDEX = 1 };

/* What is saved, if it fits the file; else a new one. */
static sagemem_index *open_index(sagemem_map *map, const char *path) {
    sagemem_index_desc desc = {0};
    desc.fasta = true;
    desc.tag = TAG_INDEX;
    sagemem_index *index = sagemem_index_load(map, path, &desc);
    if (index != NULL) {
        puts("loaded");
        return index;
    }
    printf("%s, ", sagemem_last_error()->status == SAGEMEM_E_STALE ? "the file has changed" : "no index yet");
    index = sagemem_index_build(map, &desc);
    if (index != NULL && sagemem_index_save(index, path) == SAGEMEM_OK) puts("built and saved");
    return index;
}

static sagemem_map *open_genes(const char *path) {
    sagemem_map_desc desc = {0};
    desc.path = path;
    desc.access = SAGEMEM_ACCESS_RANDOM;
    return sagemem_map_open(&desc);
}

/* On one line, without the last line end. */
static void show(sagemem_slice record) {
    const char *text = (const char *)record.data;
    for (size_t i = 0; i + 1 < record.size; i++) putchar(text[i] == '\n' ? ' ' : text[i]);
}

static int run(const char *genes, const char *saved, const char *which, bool shows) {
    printf("%s run: ", which);
    sagemem_map *map = open_genes(genes);
    sagemem_index *index = map != NULL ? open_index(map, saved) : NULL;
    if (index == NULL) {
        fprintf(stderr, "%s\n", sagemem_last_error()->message);
        return 1;
    }
    if (shows) {
        uint64_t count = sagemem_index_count(index);
        sagemem_slice some = sagemem_index_slice(index, 4711), last = sagemem_index_slice(index, count - 1);
        printf("%d records; record 4711: ", (int)count);
        show(some);
        printf("; the last: ");
        show(last);
        putchar('\n');
        sagemem_slice_release(some); /* before the map is closed; any thread */
        sagemem_slice_release(last);
    }
    sagemem_index_destroy(index);
    return sagemem_map_close(map) == SAGEMEM_OK ? 0 : 1;
}

int main(void) {
    char genes[64], saved[80];
    snprintf(genes, sizeof genes, "/tmp/sagemem-recipe-%d.fa", (int)getpid());
    snprintf(saved, sizeof saved, "%s.index", genes);
    FILE *file = fopen(genes, "w");
    if (file == NULL) return 1;
    for (int i = 0; i < 5000; i++) fprintf(file, ">gene%d\nAACCGGTT\n", i);
    fclose(file);
    int failed = run(genes, saved, "first", false) + run(genes, saved, "second", false);
    file = fopen(genes, "a");
    if (file == NULL || fputs(">new\nACGT\n", file) < 0 || fclose(file) != 0) return 1;
    failed += run(genes, saved, "third", true);
    remove(genes);
    remove(saved);
    return failed;
}
