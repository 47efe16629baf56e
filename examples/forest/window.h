/* The reorder window: forests are built in any order by many threads, and handed on in their own.
 *
 * Forests are numbered as they are taken. One of them has the turn: its thread, and no other, may write. A forest that is
 * finished before its turn leaves its result here, and its thread goes on to the next one, but never further ahead than
 * the window is long: so one slow forest cannot make the finished ones behind it fill the memory. */
#ifndef WINDOW_H
#define WINDOW_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "forest.h"
#include "summary.h"

/* What is left of a forest when its scope has ended. */
struct result {
    bool failed;
    char reason[REASON_BYTES];
    struct harvest harvest;
    struct forest_peak peak;
    int32_t file_trees;        /* trees in its file */
    struct outgoing *outgoing; /* a block of its own; NULL: none */
    size_t outgoing_count;
};

struct window {
    pthread_mutex_t lock;
    pthread_cond_t moved; /* the turn, or `closed` */
    bool made;            /* lock and condition are there */
    bool closed;          /* no more forests are taken */
    uint64_t next;        /* forest to be taken */
    _Atomic uint64_t turn;
    struct slot {
        bool full;
        struct result result;
    } * slots; /* of the forests turn ... turn + slot_count - 1, each at its number modulo slot_count */
    uint64_t slot_count;
};

bool window_init(struct window *window, sagemem_heap *heap, int threads); /* false: see sagemem_last_error() */
void window_deinit(struct window *window);

/* Waits until one more forest may be taken, and returns true with the lock held; false without it: none is to be. */
bool window_wait(struct window *window);
void window_close(struct window *window);

bool window_has_turn(struct window *window, uint64_t forest);
void window_wait_for_turn(struct window *window, uint64_t forest);

/* Passes a result to deliver(ctx, result) if it is its turn, and those that have waited for it after it; else keeps it. */
void window_hand_over(struct window *window, uint64_t forest, struct result *result,
                      void (*deliver)(void *ctx, struct result *result), void *ctx);

#endif
