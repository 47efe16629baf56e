/* Two threads: one frees what the other allocates, and each for itself. */
#include "bench.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { REMOTE, GAIN };
enum { PARCEL = 500, PARCELS = 8 };
typedef enum way { EMPTY, FULL } way;

typedef struct parcel {
    struct parcel *next;
    void *blocks[PARCEL];
} parcel;

/* Parcels of blocks on their way to the other thread, and back. The threads sleep while they wait, and many parcels are on
 * the way: what is measured is allocation and free, not the handing over. */
typedef struct mailbox {
    pthread_mutex_t lock;
    pthread_cond_t changed[2];
    parcel *first[2], **last[2], all[PARCELS];
    bool closed;
} mailbox;

static void mailbox_put(mailbox *box, way where, parcel *one) {
    pthread_mutex_lock(&box->lock);
    one->next = NULL;
    *box->last[where] = one;
    box->last[where] = &one->next;
    pthread_cond_signal(&box->changed[where]);
    pthread_mutex_unlock(&box->lock);
}

/* Waits for one; NULL: there is none and none will come. */
static parcel *mailbox_take(mailbox *box, way where) {
    pthread_mutex_lock(&box->lock);
    while (box->first[where] == NULL && !box->closed) pthread_cond_wait(&box->changed[where], &box->lock);
    parcel *one = box->first[where];
    if (one != NULL) box->first[where] = one->next;
    if (box->first[where] == NULL) box->last[where] = &box->first[where];
    pthread_mutex_unlock(&box->lock);
    return one;
}

static void mailbox_init(mailbox *box) {
    memset(box, 0, sizeof *box);
    pthread_mutex_init(&box->lock, NULL);
    for (int where = EMPTY; where <= FULL; where++) {
        pthread_cond_init(&box->changed[where], NULL);
        box->last[where] = &box->first[where];
    }
    for (int i = 0; i < PARCELS; i++) mailbox_put(box, EMPTY, &box->all[i]);
}

static void mailbox_close(mailbox *box) {
    pthread_mutex_lock(&box->lock);
    box->closed = true;
    pthread_cond_broadcast(&box->changed[FULL]);
    pthread_mutex_unlock(&box->lock);
}

static void mailbox_end(mailbox *box) {
    pthread_cond_destroy(&box->changed[EMPTY]);
    pthread_cond_destroy(&box->changed[FULL]);
    pthread_mutex_destroy(&box->lock);
}

static void start_thread(pthread_t *thread, void *(*work)(void *ctx), void *ctx) {
    if (pthread_create(thread, NULL, work, ctx) != 0) bench_die("threads", "pthread_create failed");
}

/* Wall time of `count` threads that all do the work. */
static double time_of(void *(*work)(void *ctx), int count) {
    pthread_t threads[2];
    double start = bench_wall_ns();
    for (int i = 0; i < count; i++) start_thread(&threads[i], work, NULL);
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
    return bench_wall_ns() - start;
}

/* How much more two threads get done than one, in the same time: 2 at best. */
static double gain_of(void *(*work)(void *ctx)) {
    time_of(work, 1); /* pages come with the first */
    double one = time_of(work, 1), two = time_of(work, 2);
    return 2 * one / two;
}

static __thread sagemem_heap *heap; /* the library's, of this thread */

#define SIDE(name) name##_sagemem
#define OPEN() heap = bench_heap_make()
#define CLOSE() sagemem_heap_destroy(heap)
#define ALLOC(size) sagemem_alloc(heap, size, 1)
#define FREE(block) sagemem_free(block)
#include "threads_side.h"

#define SIDE(name) name##_sagemem_pointers
#define OPEN() heap = bench_heap_make()
#define CLOSE() sagemem_heap_destroy(heap)
#define ALLOC(size) bench_sagemem.alloc(heap, size, 1)
#define FREE(block) bench_sagemem.free(block)
#include "threads_side.h"

#define SIDE(name) name##_glibc
#define OPEN() (void)0
#define CLOSE() (void)0
#define ALLOC(size) malloc(size)
#define FREE(block) free(block)
#include "threads_side.h"

#define SIDE(name) name##_peer
#define OPEN() (void)0
#define CLOSE() (void)0
#define ALLOC(size) bench_peer.alloc(size)
#define FREE(block) bench_peer.free(block)
#include "threads_side.h"

/* What two processors can gain here at all: no memory is touched. */
static void *count_up(void *ctx) {
    uint64_t random = 1, rounds = bench_count(100000000);
    (void)ctx;
    for (uint64_t i = 0; i < rounds; i++) random = random * 6364136223846793005u + i;
    return random == 42 ? &heap : NULL; /* the result is used */
}
static double gain_of_registers(const bench_row *row) {
    (void)row;
    return gain_of(count_up);
}
static bench_work *const works_registers[BENCH_WORKS] = {[GAIN] = gain_of_registers};

static const bench_side sides[] = {
    {"sagemem", 0, NULL, works_sagemem},
    {"glibc", 0, NULL, works_glibc},
    {"register loop", LIMITED, NULL, works_registers},
    {"sagemem", POINTERS, NULL, works_sagemem_pointers},
    {"mimalloc", POINTERS, "mimalloc", works_peer},
    {"jemalloc", POINTERS, "jemalloc", works_peer},
    {"tcmalloc", POINTERS, "tcmalloc", works_peer},
};

static const bench_row rows[] = {
    {"remote", "one thread allocates, another frees", "ns a block, both threads", REMOTE, NULL, {{AT_MOST, 1.2, "mimalloc"}}, 0},
    {"threads", "2 threads on their own heaps", "times the work of one", GAIN, NULL, {{AT_LEAST, 0.95, "register loop"}}, 0},
};

const bench_group bench_threads = {rows, sizeof rows / sizeof *rows, sides, sizeof sides / sizeof *sides, NULL};
