/* Prints the vital statistics of the manual, each measured or read from the structures of this build.
 *
 *     make vital
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <unistd.h>

static uint64_t held_by(const sagemem_heap *heap) {
    sagemem_heap_stats stats;
    return sagemem_heap_get_stats(heap, &stats) == SAGEMEM_OK ? stats.held : 0;
}

static void line(const char *what, const char *format, double value) {
    printf("%-58s ", what);
    printf(format, value);
    putchar('\n');
}

/* Held bytes of a heap with one block of 64 bytes in it, and of the same with one block for each of `tags` tags. */
static double small_heap(unsigned tags) {
    sagemem_heap *heap = sagemem_heap_create(NULL);
    for (unsigned t = 0; t < tags; t++) {
        if (sagemem_alloc(heap, 64, (sagemem_tag)(t + 1)) == NULL) abort();
    }
    double held = (double)held_by(heap);
    sagemem_heap_destroy(heap);
    return held;
}

/* The design's case: 5,000 blocks of 16 to 1024 bytes in 8 tags; held bytes for each byte in use. */
static double small_program(void) {
    sagemem_heap *heap = sagemem_heap_create(NULL);
    uint32_t random = 1;
    for (int i = 0; i < 5000; i++) {
        random = random * 1664525u + 1013904223u;
        if (sagemem_alloc(heap, 16 + (random >> 8) % 1009, (sagemem_tag)(1 + i % 8)) == NULL) abort();
    }
    sagemem_heap_stats stats;
    if (sagemem_heap_get_stats(heap, &stats) != SAGEMEM_OK) abort();
    sagemem_heap_destroy(heap);
    return (double)stats.held / (double)stats.used;
}

/* The largest share of a block that rounding to its size class can waste, from `from` bytes on. */
static double worst_rounding(size_t from) {
    double worst = 0;
    for (size_t size = from; size <= SMI_SMALL_MAX; size++) {
        double waste = 1 - (double)size / (double)smi_class_size(smi_class_of(size));
        if (waste > worst) worst = waste;
    }
    return 100 * worst;
}

static double usable(uint32_t flags, size_t size) {
    sagemem_heap_desc desc = {"vital", NULL, 0, NULL, flags, 0};
    sagemem_heap *heap = sagemem_heap_create(&desc);
    void *block = sagemem_alloc(heap, size, 1);
    double bytes = (double)sagemem_size(block);
    sagemem_heap_destroy(heap);
    return bytes;
}

enum { HEAPS = 64, TAGS = 256, TRIES = 50 };

/* Microseconds of a snapshot of so many heaps, each with a few blocks of so many tags; the best of several. */
static double snapshot_us(int tags) {
    sagemem_heap *heaps[HEAPS];
    uint64_t best = UINT64_MAX;
    for (int h = 0; h < HEAPS; h++) {
        heaps[h] = sagemem_heap_create(NULL);
        for (int t = 0; t < 3 * tags; t++)
            if (sagemem_alloc(heaps[h], 20 + (size_t)t, (sagemem_tag)(1 + t % tags)) == NULL) abort();
    }
    for (int i = 0; i < TRIES; i++) {
        uint64_t begin = smi_os_now_ns();
        sagemem_snapshot *snapshot = sagemem_snapshot_take(NULL);
        uint64_t took = smi_os_now_ns() - begin;
        if (took < best) best = took;
        sagemem_snapshot_free(snapshot);
    }
    for (int h = 0; h < HEAPS; h++) sagemem_heap_destroy(heaps[h]);
    return (double)best / 1000;
}

/* What a structure takes of the library's own memory, which is handed out in sizes of its own. */
static double taken(size_t size) {
    (void)smi_meta_class(&size);
    return (double)size;
}

static double system_call_us(void) {
    uint64_t begin = smi_os_now_ns();
    for (int i = 0; i < 1000; i++) (void)getppid();
    return (double)(smi_os_now_ns() - begin) / 1e6;
}

int main(void) {
    smi_start();
    printf("sagemem %s, %u-bit, system page %zu bytes\n\n", SAGEMEM_VERSION, (unsigned)sizeof(void *) * 8, smi_os_page);
    line("header of a slab block, bytes", "%.0f", 0);
    line("header of a block in a chunk (scopes, rare sizes, > 8 KiB)", "%.0f", 8);
    line("around a block of a checked heap", "%.0f or more", 8 + SMI_EXTRA + SMI_RED_ZONE);
    line("slab size classes", "%.0f", SMI_CLASSES - 1);
    line("  worst rounding from 128 bytes on, per cent", "%.2f", worst_rounding(128));
    line("  worst rounding from 512 bytes on, per cent", "%.2f", worst_rounding(512));
    line("largest slab block, bytes", "%.0f", SMI_SMALL_MAX);
    line("largest block in a chunk; above: pages of its own, bytes", "%.0f", SMI_CHUNK_BLOCK_MAX);
    line("largest block in a region; above: mremap, bytes", "%.0f", SMI_SPAN_MAX);
    line("usable bytes of sagemem_alloc(1): ordinary", "%.0f", usable(0, 1));
    line("usable bytes of sagemem_alloc(1): checked", "%.0f", usable(SAGEMEM_HEAP_CHECKED, 1));
    line("structure of a heap, bytes", "%.0f", taken(sizeof(smi_domain)) + taken(sizeof(smi_rare) << SMI_RARE_BITS));
    line("structure of a page, bytes", "%.0f", taken(sizeof(smi_page)));
    line("records of 16 tags in a heap or scope, bytes", "%.0f", taken(sizeof(smi_group)));
    line("slab bins of a tag with slab pages, bytes", "%.0f", taken(sizeof(smi_bins)));
    line("what a heap remembers of its scopes, bytes", "%.0f", taken(sizeof(smi_past)));
    line("cache of the page map, set aside in the program, bytes", "%.0f", (double)sizeof(smi_near));
    line("held by a heap with one block of 64 bytes", "%.0f", small_heap(1));
    line("held by a heap with one block in each of 100 tags", "%.0f", small_heap(100));
    line("5,000 blocks of 16-1024 bytes in 8 tags: held / used", "%.3f", small_program());
    line("snapshot of 64 heaps with 16 tags each, microseconds", "%.1f", snapshot_us(16));
    line("snapshot of 64 heaps with 256 tags each, microseconds", "%.1f", snapshot_us(TAGS));
    line("  beside an empty system call, microseconds", "%.3f", system_call_us());
    line("tags", "%.0f", SAGEMEM_TAG_MAX);
    line("longest name, bytes", "%.0f", SMI_NAME_MAX - 1);
    line("a heap keeps at most, of empty slab pages, bytes", "%.0f", SMI_KEEP_MAX);
    line("a heap keeps at most, of chunks for its next scope, bytes", "%.0f", SMI_KEEP_MAX);
    line("quarantine of a checked heap or scope, at most, bytes", "%.0f", SMI_QUARANTINE_MAX);
    return 0;
}
