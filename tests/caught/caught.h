/* What the programs of this directory share: a heap, blocks of every kind in it, another thread.
 *
 * A program takes words that choose the variant, prints the address of the block in question, breaks one rule and must
 * die of it. Coming to its end is a failure: exit status 1 with the reason. tests/caught_test.sh has the list. */
#ifndef CAUGHT_H
#define CAUGHT_H

#define SAGEMEM_SITES
#include "sagemem.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sagemem_heap *heap; /* 'catalogue' */
static sagemem_tag tag;    /* 'Core/Halos' */

__attribute__((format(printf, 1, 2), noreturn, unused)) static void caught_not(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("not caught: ", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}
#define CAUGHT_CHECK(what)                                                                                                         \
    do {                                                                                                                           \
        if (!(what)) caught_not("%s:%d: %s", __FILE__, __LINE__, #what);                                                           \
    } while (0)

__attribute__((unused)) static bool caught_is(const char *word, const char *other) { return strcmp(word, other) == 0; }
/* The part after the prefix, or NULL. */
__attribute__((unused)) static const char *caught_after(const char *word, const char *prefix) {
    return strncmp(word, prefix, strlen(prefix)) == 0 ? word + strlen(prefix) : NULL;
}
/* The n-th word of the command line. */
__attribute__((unused)) static const char *caught_word(int argc, char **argv, int n) {
    if (n >= argc) caught_not("%s: word %d is missing", argv[0], n);
    return argv[n];
}

/* The compiler is not to know what a pointer was made of: it would warn of what is done here on purpose. */
__attribute__((unused)) static void *caught_hidden(const void *pointer) {
    const void *volatile hidden = pointer;
    return (void *)(uintptr_t)hidden;
}

__attribute__((unused)) static void caught_say(const void *block) {
    printf("%p\n", block);
    fflush(stdout);
}

/* mode: ordinary, checked, sites, system. */
__attribute__((unused)) static void caught_heap(const char *mode) {
    sagemem_heap_desc desc = {0};
    desc.name = "catalogue";
    if (caught_is(mode, "checked")) desc.flags = SAGEMEM_HEAP_CHECKED;
    else if (caught_is(mode, "sites")) desc.flags = SAGEMEM_HEAP_SITES;
    else if (caught_is(mode, "system")) desc.flags = SAGEMEM_HEAP_SYSTEM;
    else if (!caught_is(mode, "ordinary")) caught_not("mode '%s'", mode);
    heap = sagemem_heap_create(&desc);
    tag = sagemem_tag_named("Core/Halos");
    CAUGHT_CHECK(heap != NULL && tag != SAGEMEM_UNTAGGED);
}

__attribute__((unused)) static void *caught_alloc(size_t size) {
    void *block = sagemem_alloc(heap, size, tag);
    CAUGHT_CHECK(block != NULL);
    memset(block, 'x', size);
    return block;
}

static void *caught_behind; /* the block behind the one that caught_block returned; NULL: none */
static size_t caught_size;  /* what was asked for */

/* A live block. kind, "scope_" in front of it for one in the scope forest 12 (begun here):
 *   slab     in a slab page, which the class has after two pages of such blocks; slab_before: the one behind it is free
 *   chunk    between two live blocks         behind  between a free and a live one
 *   before   between a live and a free one   last    the last one of its chunk
 *   large    100 KB in a chunk               huge    300 KB, pages of its own      vast  20 MB, a mapping of its own */
__attribute__((unused)) static void *caught_block(const char *kind) {
    const char *in_scope = caught_after(kind, "scope_");
    if (in_scope != NULL) {
        kind = in_scope;
        CAUGHT_CHECK(sagemem_scope_begin(heap, "forest", 12) == SAGEMEM_OK);
    }
    static const struct {
        const char *kind;
        size_t size, neighbours; /* bytes; 0: it has none */
    } kinds[] = {{"slab", 48, 48},   {"slab_before", 48, 48}, {"chunk", 328, 200}, {"behind", 2008, 3016}, {"before", 2008, 3016},
                 {"last", 328, 200}, {"large", 100000, 3016}, {"huge", 300000, 0}, {"vast", 20000000, 0}};
    size_t i = 0, count = sizeof kinds / sizeof kinds[0];
    while (i < count && !caught_is(kind, kinds[i].kind)) i++;
    if (i == count) caught_not("kind '%s'", kind);
    caught_size = kinds[i].size;
    size_t other = kinds[i].neighbours;
    for (int n = 0; other == 48 && n < 1000; n++) caught_alloc(other);
    void *front = other > 0 ? caught_alloc(other) : NULL, *block = caught_alloc(caught_size);
    caught_behind = other > 0 && !caught_is(kind, "last") ? caught_alloc(other) : NULL;
    bool before = caught_is(kind, "before") || caught_is(kind, "slab_before");
    if (before) caught_alloc(other);
    if (caught_is(kind, "behind")) sagemem_free(front);
    if (before) {
        sagemem_free(caught_behind);
        caught_behind = NULL;
    }
    caught_say(block);
    return block;
}

/* Runs a function in another thread, which ends before this returns. */
__attribute__((unused)) static void caught_elsewhere(void *(*run)(void *), void *argument) {
    pthread_t thread;
    CAUGHT_CHECK(pthread_create(&thread, NULL, run, argument) == 0);
    pthread_join(thread, NULL);
}
__attribute__((unused)) static void *caught_free(void *block) {
    sagemem_free(block);
    return NULL;
}

#endif
