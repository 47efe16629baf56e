/* Slices on many threads: counts and bytes agree whoever retains and releases, the last release is one, and a slice of bytes that
 * are gone is caught although others are using their place. Run under the thread sanitizer. */
#include "public.h"

#include "oracle.h"

#include <sched.h>
#include <stdatomic.h>

enum { WORKERS = 4, TEXTS = 8, BYTES = 256, TAG_TEXT = 3 };

typedef struct text {
    pthread_mutex_t lock; /* of the slice, which each worker may copy and retain under it */
    sagemem_slice slice;
    unsigned char bytes[BYTES];
} text;

static text texts[TEXTS];
static atomic_int gone, made, caught;
static sagemem_heap *shared;

static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    REQUIRE(error->status == SAGEMEM_E_STALE, "%s", error->message);
    atomic_fetch_add(&caught, 1);
}

/* The bytes were plain memory of another thread: the sanitizer sees whether all that was done with them came before. */
static void on_release(void *ctx, const void *data) {
    (void)ctx;
    atomic_fetch_add(&gone, 1);
    memset((void *)(uintptr_t)data, 0, BYTES);
    free((void *)(uintptr_t)data);
}

static sagemem_slice slice_new(chance *c, int i) {
    unsigned char *bytes = (unsigned char *)malloc(BYTES);
    memset(bytes, i + 1, BYTES);
    sagemem_slice slice;
    if (chance_below(c, 2) == 0) {
        slice = sagemem_slice_wrap(bytes, BYTES, on_release, NULL);
        atomic_fetch_add(&made, 1);
    } else {
        slice = sagemem_slice_copy(chance_below(c, 2) == 0 ? NULL : shared, bytes, BYTES, TAG_TEXT);
        free(bytes);
    }
    REQUIRE(slice.owner != NULL, "no slice");
    return slice;
}

static sagemem_slice text_get(text *t) {
    pthread_mutex_lock(&t->lock);
    sagemem_slice slice = sagemem_slice_retain(t->slice);
    pthread_mutex_unlock(&t->lock);
    return slice;
}

static void text_change(text *t, sagemem_slice slice) {
    pthread_mutex_lock(&t->lock);
    sagemem_slice before = t->slice;
    t->slice = slice;
    pthread_mutex_unlock(&t->lock);
    sagemem_slice_release(before);
}

/* Waits for all at a barrier: no worker's default heap may end while others have slices of it. */
static pthread_barrier_t all;

static void *work(void *seed) {
    chance c = {*(uint64_t *)seed};
    sagemem_slice part;
    for (unsigned step = 0; step < oracle_steps(20000, 2000); step++) {
        int i = (int)chance_below(&c, TEXTS);
        if (chance_below(&c, 4) == 0) {
            text_change(&texts[i], slice_new(&c, i));
            continue;
        }
        sagemem_slice slice = text_get(&texts[i]);
        size_t start = (size_t)chance_below(&c, BYTES), end = start + (size_t)chance_below(&c, BYTES + 1 - start);
        REQUIRE(sagemem_slice_sub(slice, start, end, &part) == SAGEMEM_OK, "no part");
        REQUIRE(sagemem_slice_count(slice) >= 2, "a count below what this thread has");
        sagemem_slice_release(slice);
        const unsigned char *at = (const unsigned char *)sagemem_slice_at(part, 0, part.size);
        for (size_t k = 0; k < part.size; k += 16) REQUIRE(at[k] == i + 1, "byte %d instead of %d", at[k], i + 1);
        sagemem_slice_release(part);
    }
    pthread_barrier_wait(&all);
    return NULL;
}

static void run(void *(*fn)(void *), uint64_t seed) {
    pthread_t thread[WORKERS];
    uint64_t seeds[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        seeds[i] = seed + (uint64_t)i;
        assert_int_equal(pthread_create(&thread[i], NULL, fn, &seeds[i]), 0);
    }
    for (int i = 0; i < WORKERS; i++) pthread_join(thread[i], NULL);
}

static void counts_agree_on_all_threads(void **state) {
    (void)state;
    uint64_t seed = oracle_seed();
    print_message("SAGEMEM_SEED=%llu\n", UINT(seed));
    chance c = {seed};
    pthread_barrier_init(&all, NULL, WORKERS);
    sagemem_heap_desc desc = {0};
    desc.flags = SAGEMEM_HEAP_SHARED;
    shared = sagemem_heap_create(&desc);
    assert_non_null(shared);
    for (int i = 0; i < TEXTS; i++) {
        pthread_mutex_init(&texts[i].lock, NULL);
        texts[i].slice = slice_new(&c, i);
    }
    run(work, seed + 100);
    for (int i = 0; i < TEXTS; i++) {
        assert_int_equal(sagemem_slice_count(texts[i].slice), 1);
        text_change(&texts[i], (sagemem_slice){NULL, 0, NULL, 0});
    }
    assert_int_equal(gone, made);
    assert_int_equal(caught, 0);
    sagemem_tag_stats stats;
    assert_int_equal(sagemem_tag_get_stats(NULL, TAG_TEXT, &stats), SAGEMEM_OK);
    assert_int_equal(stats.blocks, 0);
    assert_int_equal(stats.used, 0);
    sagemem_heap_destroy(shared);
}

/* All threads release the same slices, one time too often each: of WORKERS releases exactly one takes the bytes. */
enum { RACES = 20000 };
static sagemem_slice race[RACES];
static int races;
static atomic_int race_gone, arrived;
static void on_race(void *ctx, const void *data) {
    (void)ctx, (void)data;
    atomic_fetch_add(&race_gone, 1);
}

static void *release_all(void *seed) {
    chance c = {*(uint64_t *)seed};
    for (int i = 0; i < races; i++) {
        atomic_fetch_add(&arrived, 1); /* all at the same moment */
        while (atomic_load(&arrived) < (i + 1) * WORKERS) sched_yield();
        if (chance_below(&c, 2) == 0)
            sagemem_slice_release(sagemem_slice_retain(race[i])); /* may come too late, and adds nothing */
        sagemem_slice_release(race[i]);
        sagemem_slice own = sagemem_slice_wrap("x", 1, NULL, NULL); /* may have the owner that was race[i]'s */
        REQUIRE(sagemem_slice_count(own) == 1, "a slice of one thread is shared");
        sagemem_slice_release(own);
    }
    return NULL;
}

static void of_many_releases_one_is_the_last(void **state) {
    (void)state;
    atomic_store(&caught, 0);
    races = (int)oracle_steps(RACES, RACES / 20);
    for (int i = 0; i < races; i++) race[i] = sagemem_slice_wrap("y", 1, on_race, NULL);
    run(release_all, oracle_seed());
    assert_int_equal(race_gone, races);
    assert_true(caught >= races * (WORKERS - 1)); /* each release but one, and the retains that came too late */
    for (int i = 0; i < races; i++) assert_int_equal(sagemem_slice_count(race[i]), 0);
    pthread_barrier_destroy(&all);
}

int main(void) {
    sagemem_set_fault_handler(on_fault, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_agree_on_all_threads),
        cmocka_unit_test(of_many_releases_one_is_the_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
