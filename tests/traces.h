/* A reader of binary traces for the tests, by the description of the format alone. It counts what is in use after each event. */
#ifndef TESTS_TRACES_H
#define TESTS_TRACES_H

#include "public.h"

enum { T_ALLOC = 1, T_FREE, T_MOVED, T_LEAVE, T_BECOME, T_HEAP, T_SCOPE, T_END, T_CLEAR, T_LIMIT, T_FAIL, T_PRESSURE, T_KINDS };
enum { T_STAMP = 13, T_NAME = 14, T_FINISH = 15, T_TAGS = SAGEMEM_TAG_MAX + 1 };

typedef struct traced_event {
    uint64_t stamp, place, size, address;
    uint64_t more; /* HEAP, SCOPE: flags or id */
    uint32_t slot, tag, kind;
} traced_event;

typedef struct traced_block {
    uint64_t key, size; /* key 0: an empty place */
    size_t next;        /* place of another one of the slot, plus 1 */
    uint32_t slot, tag;
    bool live;
} traced_block;

typedef struct traced {
    traced_event *events;
    size_t count, kinds[T_KINDS];
    uint64_t used, blocks, peak, peak_event, tag_used[T_TAGS], tag_peak[T_TAGS];
    uint64_t unmatched; /* events of blocks that are not there, or are there already */
    uint64_t lost;
    bool finished;
    size_t bytes, largest_slot;
    char tag_names[T_TAGS][64];
    char names[4096]; /* of heaps and scopes, each with a newline */
} traced;

static inline int traced_order(const void *a, const void *b) {
    const traced_event *one = (const traced_event *)a, *two = (const traced_event *)b;
    if (one->stamp != two->stamp) return one->stamp < two->stamp ? -1 : 1;
    return one->place < two->place ? -1 : one->place > two->place;
}

static inline traced_block *traced_find(traced_block *table, size_t size, uint64_t key) {
    size_t i = (size_t)(key * 0x9E3779B97F4A7C15u >> 20) & (size - 1);
    while (table[i].key != 0 && table[i].key != key) i = (i + 1) & (size - 1);
    return &table[i];
}

static inline void traced_go(traced *t, traced_block *b) {
    b->live = false;
    t->used -= b->size;
    t->tag_used[b->tag] -= b->size;
    t->blocks--;
}

/* Plays the events in order. */
static inline void traced_count(traced *t) {
    size_t size = 1024;
    while (size < 2 * t->count) size *= 2;
    traced_block *table = (traced_block *)calloc(size, sizeof *table);
    size_t *first = (size_t *)calloc(65536, sizeof *first); /* by slot */
    assert_true(table != NULL && first != NULL);
    for (size_t i = 0; i < t->count; i++) {
        const traced_event *e = &t->events[i];
        traced_block *b = traced_find(table, size, (e->address | (uint64_t)e->slot << 44) + 1);
        if (e->kind == T_ALLOC || e->kind == T_BECOME) {
            t->unmatched += b->live;
            if (b->live) traced_go(t, b);
            traced_block fresh = {(e->address | (uint64_t)e->slot << 44) + 1, e->size, b->next, e->slot, e->tag, true};
            if (b->key == 0) {
                fresh.next = first[e->slot];
                first[e->slot] = (size_t)(b - table) + 1;
            }
            *b = fresh;
            t->used += e->size;
            t->tag_used[e->tag] += e->size;
            t->blocks++;
        } else if (e->kind <= T_LEAVE) {
            t->unmatched += !b->live || b->size != e->size || b->tag != e->tag;
            if (b->live) traced_go(t, b);
        } else if (e->kind == T_END || e->kind == T_CLEAR) {
            for (size_t k = first[e->slot]; k != 0; k = table[k - 1].next)
                if (table[k - 1].live) traced_go(t, &table[k - 1]);
        }
        if (t->used > t->peak) t->peak_event = i + 1;
        if (t->used > t->peak) t->peak = t->used;
        if (t->tag_used[e->tag] > t->tag_peak[e->tag]) t->tag_peak[e->tag] = t->tag_used[e->tag];
    }
    free(first);
    free(table);
}

static inline void traced_name(traced *t, uint64_t what, const char *text) {
    if (what >> 32 == 1) memcpy(t->tag_names[what >> 4 & 0xFFF], text, 64);
    else if (strlen(t->names) + 70 < sizeof t->names) strcat(strcat(t->names, text), "\n");
}

/* Every block of the file must be whole. */
static inline traced *traced_read(const char *path) {
    traced *t = (traced *)calloc(1, sizeof *t);
    struct stat info;
    uint64_t stamps[512] = {0}, header[5], words[2], extra[2];
    assert_int_equal(stat(path, &info), 0);
    t->bytes = (size_t)info.st_size;
    t->events = (traced_event *)malloc(t->bytes / 16 * sizeof *t->events + 1);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 32, SEEK_SET), 0);
    while (fread(header, sizeof header, 1, file) == 1) {
        size_t records = (size_t)(header[0] >> 32), trail = (size_t)header[4];
        assert_int_equal((uint32_t)header[0], 0x4B4C4254);
        assert_true(trail < 512);
        for (size_t i = 0; i < records; i++) {
            assert_int_equal(fread(words, sizeof words, 1, file), 1);
            traced_event e = {stamps[trail],
                              t->count,
                              words[0] >> 32 | (words[1] >> 44 & 0xFFFF) << 32,
                              words[1] & (((uint64_t)1 << 44) - 1),
                              0,
                              (uint32_t)(words[0] >> 16 & 0xFFFF),
                              (uint32_t)(words[0] >> 4 & 0xFFF),
                              (uint32_t)(words[0] & 15)};
            assert_true(e.kind != 0);
            if (e.kind == T_STAMP) stamps[trail] = words[1];
            if (e.kind == T_FINISH) t->lost = words[1];
            t->finished |= e.kind == T_FINISH;
            if (e.kind == T_NAME) {
                char text[64];
                assert_int_equal(fread(text, sizeof text, 1, file), 1);
                traced_name(t, words[0], text);
                i += 4;
            }
            if (e.kind == T_HEAP || e.kind == T_SCOPE) {
                assert_int_equal(fread(extra, sizeof extra, 1, file), 1);
                e.more = extra[0];
                i++;
            }
            if (e.kind >= T_KINDS) continue;
            if (e.slot > t->largest_slot) t->largest_slot = e.slot;
            t->kinds[e.kind]++;
            t->events[t->count++] = e;
        }
    }
    assert_true(feof(file) != 0);
    fclose(file);
    qsort(t->events, t->count, sizeof *t->events, traced_order);
    traced_count(t);
    return t;
}

static inline void traced_free(traced *t) {
    free(t->events);
    free(t);
}

#endif
