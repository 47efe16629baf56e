/* Allocators that replace malloc are loaded each under its own handle, so that all of them live in one process beside the C
 * library's; they are called through pointers. (Preloading one would take the C library's away.) What they give back to the
 * system is decided by their own environment variables, which are set here, before they are loaded.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <gnu/libc-version.h>
#include <malloc.h>
#endif

static struct loaded {
    const char *name, *variable, *libraries[4];
    const char *prefixes[3]; /* of its functions, the first that is there */
    bench_calls calls;
    char version[48];
    bool here;
} peers[] = {
    {"glibc", NULL, {NULL}, {NULL}, {malloc, calloc, realloc, free, NULL, NULL, NULL}, "", true},
    {"mimalloc", "BENCH_MIMALLOC", {"libmimalloc.so.3", "libmimalloc.so.2", "libmimalloc.so"}, {"mi_"}, {0}, "", false},
    {"jemalloc", "BENCH_JEMALLOC", {"libjemalloc.so.2", "libjemalloc.so"}, {"je_", ""}, {0}, "", false},
    {"tcmalloc", "BENCH_TCMALLOC", {"libtcmalloc_minimal.so.4", "libtcmalloc.so.4"}, {"tc_"}, {0}, "", false},
};
enum { PEERS = sizeof peers / sizeof *peers };

static const char *policy = "default";
const char *bench_policy(void) { return policy; }

/* Room for thread-local variables of libraries that are loaded late is set when a program starts: jemalloc needs more than
 * there is. So the program starts itself again. */
static void start_with_room(char **argv) {
#ifdef __GLIBC__
    const char *room = "glibc.rtld.optional_static_tls=16384", *set = getenv("GLIBC_TUNABLES");
    if (set != NULL && strstr(set, room) != NULL) return;
    setenv("GLIBC_TUNABLES", room, 1);
    execv("/proc/self/exe", argv); /* where that fails, jemalloc is skipped */
#else
    (void)argv;
#endif
}

static void keep_everything(void) {
#ifdef __GLIBC__
    mallopt(M_TRIM_THRESHOLD, 2000 << 20);
    mallopt(M_MMAP_THRESHOLD, 32 << 20); /* glibc's own maximum */
    mallopt(M_TOP_PAD, 16 << 20);
#endif
    setenv("MIMALLOC_PURGE_DELAY", "-1", 1); /* from 2.1 on; before: */
    setenv("MIMALLOC_ALLOW_DECOMMIT", "0", 1);
    setenv("MIMALLOC_PAGE_RESET", "0", 1);
    setenv("MIMALLOC_ABANDONED_PAGE_DECOMMIT", "0", 1);
    setenv("MALLOC_CONF", "dirty_decay_ms:-1,muzzy_decay_ms:-1", 1);
    setenv("TCMALLOC_RELEASE_RATE", "0", 1);
}

void bench_policy_set(const char *wanted, char **argv) {
    start_with_room(argv);
    /* tcmalloc's use of the break would cut glibc's main arena into pieces. */
    setenv("TCMALLOC_SKIP_SBRK", "1", 1);
    policy = wanted;
    if (strcmp(wanted, "keep") == 0) keep_everything();
}

/* A function of a library, by the first prefix under which it is there. dlsym's result is data to ISO C: it is copied. */
static bool find(void *library, const struct loaded *peer, const char *name, void *function) {
    for (int i = 0; i < 3 && peer->prefixes[i] != NULL; i++) {
        char whole[64];
        snprintf(whole, sizeof whole, "%s%s", peer->prefixes[i], name);
        void *symbol = dlsym(library, whole);
        if (symbol == NULL) continue;
        memcpy(function, &symbol, sizeof symbol);
        return true;
    }
    return false;
}

static void tell_version(void *library, struct loaded *peer) {
    int (*number)(void) = NULL;
    const char *(*text)(int *major, int *minor, const char **patch) = NULL;
    int (*control)(const char *name, void *old, size_t *old_size, void *new_value, size_t new_size) = NULL;
    const char *told = NULL;
    size_t size = sizeof told;
    if (strcmp(peer->name, "mimalloc") == 0 && find(library, peer, "version", &number)) {
        int v = number(), scale = v < 1000 ? 100 : 1000; /* 209: 2.0.9, 2104: 2.1.4 */
        snprintf(peer->version, sizeof peer->version, "%d.%d.%d", v / scale, v / (scale / 10) % 10, v % (scale / 10));
    } else if (strcmp(peer->name, "jemalloc") == 0 && find(library, peer, "mallctl", &control) &&
               control("version", &told, &size, NULL, 0) == 0) {
        snprintf(peer->version, sizeof peer->version, "%.*s", (int)strcspn(told, "-"), told);
    } else if (strcmp(peer->name, "tcmalloc") == 0 && find(library, peer, "version", &text)) {
        snprintf(peer->version, sizeof peer->version, "%s", text(NULL, NULL, NULL));
    }
}

static void load(struct loaded *peer) {
    const char *named = peer->variable != NULL ? getenv(peer->variable) : NULL;
    void *library = named != NULL ? dlopen(named, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (named != NULL && library == NULL) bench_die(peer->variable, dlerror());
    for (int i = 0; library == NULL && peer->libraries[i] != NULL; i++) library = dlopen(peer->libraries[i], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return;
    bench_calls *calls = &peer->calls;
    peer->here = find(library, peer, "malloc", &calls->alloc) && find(library, peer, "calloc", &calls->calloc) &&
                 find(library, peer, "realloc", &calls->realloc) && find(library, peer, "free", &calls->free);
    if (find(library, peer, "heap_new", &calls->heap_new) && find(library, peer, "heap_malloc", &calls->heap_alloc)) {
        find(library, peer, "heap_destroy", &calls->heap_destroy);
    }
    tell_version(library, peer);
}

void bench_peers_load(void) {
    for (int i = 1; i < PEERS; i++) load(&peers[i]);
#ifdef __GLIBC__
    snprintf(peers[0].version, sizeof peers[0].version, "%s", gnu_get_libc_version());
#else
    snprintf(peers[0].version, sizeof peers[0].version, "%s", "(here: another C library)");
#endif
}

const bench_calls *bench_peer_named(const char *name) {
    for (int i = 0; i < PEERS; i++) {
        if (strcmp(peers[i].name, name) == 0) return peers[i].here ? &peers[i].calls : NULL;
    }
    return NULL;
}

static struct linked { const char *name, *version; } others[16];
static size_t other_count;

void bench_peer_tell(const char *name, const char *version) {
    if (other_count == sizeof others / sizeof *others) bench_die("too many peers", name);
    others[other_count++] = (struct linked){name, version != NULL ? version : "(not installed)"};
}

const char *bench_peers_text(void) {
    static char text[600];
    size_t used = 0;
    for (size_t i = 0; i < PEERS + other_count && used < sizeof text; i++) {
        struct linked peer =
            i < PEERS ? (struct linked){peers[i].name, peers[i].here ? peers[i].version : "(not installed)"} : others[i - PEERS];
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s %s", i > 0 ? ", " : "", peer.name, peer.version);
    }
    return text;
}
