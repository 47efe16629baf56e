/* The reorder window: see window.h. */
#include "window.h"

/* For each thread one forest that it builds, and one that has been built and waits. */
enum { SLOTS_PER_THREAD = 2 };

bool window_init(struct window *window, sagemem_heap *heap, int threads) {
    *window = (struct window){.slot_count = (uint64_t)threads * SLOTS_PER_THREAD};
    window->slots = SAGEMEM_NEW_ARRAY(heap, struct slot, (size_t)window->slot_count, TAG_OUTPUT);
    if (!window->slots) return false;
    pthread_mutex_init(&window->lock, NULL);
    pthread_cond_init(&window->moved, NULL);
    window->made = true;
    return true;
}

void window_deinit(struct window *window) {
    if (window->made) {
        pthread_cond_destroy(&window->moved);
        pthread_mutex_destroy(&window->lock);
    }
    sagemem_free(window->slots);
    window->slots = NULL;
    window->made = false;
}

/* Release: whoever sees that it is his turn sees all that was written in the turns before. Pairs with window_has_turn. */
static void turn_set(struct window *window, uint64_t turn) {
    atomic_store_explicit(&window->turn, turn, memory_order_release);
    pthread_cond_broadcast(&window->moved);
}

static uint64_t turn_get(struct window *window) { return atomic_load_explicit(&window->turn, memory_order_acquire); }

/* Once it is a forest's turn it stays so until its result is handed over, by the thread that asks here. */
bool window_has_turn(struct window *window, uint64_t forest) { return turn_get(window) == forest; }

void window_wait_for_turn(struct window *window, uint64_t forest) {
    pthread_mutex_lock(&window->lock);
    while (turn_get(window) != forest) pthread_cond_wait(&window->moved, &window->lock);
    pthread_mutex_unlock(&window->lock);
}

bool window_wait(struct window *window) {
    pthread_mutex_lock(&window->lock);
    while (!window->closed && window->next - turn_get(window) >= window->slot_count)
        pthread_cond_wait(&window->moved, &window->lock);
    if (!window->closed) return true;
    pthread_mutex_unlock(&window->lock);
    return false;
}

void window_close(struct window *window) {
    pthread_mutex_lock(&window->lock);
    window->closed = true;
    pthread_cond_broadcast(&window->moved);
    pthread_mutex_unlock(&window->lock);
}

/* Between the look at the next slot and the turn moving on to it the lock is held: a result is either found in its slot
 * here, or its thread finds that it has the turn. */
void window_hand_over(struct window *window, uint64_t forest, struct result *result,
                      void (*deliver)(void *ctx, struct result *result), void *ctx) {
    pthread_mutex_lock(&window->lock);
    struct slot *slot = &window->slots[forest % window->slot_count];
    if (turn_get(window) != forest) {
        slot->result = *result;
        slot->full = true;
        pthread_mutex_unlock(&window->lock);
        return;
    }
    for (;;) {
        pthread_mutex_unlock(&window->lock);
        deliver(ctx, result);
        pthread_mutex_lock(&window->lock);
        slot->full = false;
        slot = &window->slots[(forest + 1) % window->slot_count];
        if (!slot->full) break;
        /* It is the turn of one that is done. Nobody else asks for it, and its slot is not taken before the turn moves on. */
        result = &slot->result;
        turn_set(window, ++forest);
    }
    turn_set(window, forest + 1);
    pthread_mutex_unlock(&window->lock);
}
