/* Exact accounting under threads, by the public interface only: threads with heaps of every kind allocate, resize,
 * free each other's blocks, open and end scopes, hand heaps over and die, beside a second set of books (oracle.h).
 * Whenever they all rest, the two must agree: per tag, per heap and in total, block by block. */
#include "oracle.h"

#include <sched.h>
#include <stdatomic.h>

enum { WORKERS = 5, ROUNDS = 6, MAIL = 256, PARCELS = 8, HEAP_BYTES = 4 << 20 };

/* -- Where the threads meet ---------------------------------------------------------------------------------- */

typedef struct meeting {
    pthread_mutex_t lock;
    pthread_cond_t all_there;
    int expected, there;
    unsigned number;
} meeting;

static void meet(meeting *m) {
    pthread_mutex_lock(&m->lock);
    unsigned number = m->number;
    if (++m->there == m->expected) {
        m->there = 0;
        m->number++;
        pthread_cond_broadcast(&m->all_there);
    }
    while (number == m->number) pthread_cond_wait(&m->all_there, &m->lock);
    pthread_mutex_unlock(&m->lock);
}

/* -- Blocks and heaps on their way from thread to thread ------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    oracle_block *block[MAIL];
    int blocks;
    oracle_heap *heap[PARCELS];
    int heaps;
} mail = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* False: the box is full. */
static bool mail_send(oracle_block *b) {
    pthread_mutex_lock(&mail.lock);
    bool room = mail.blocks < MAIL;
    if (room) mail.block[mail.blocks++] = b;
    pthread_mutex_unlock(&mail.lock);
    return room;
}

static void mail_free_one(chance *c) {
    oracle_block *b = NULL;
    pthread_mutex_lock(&mail.lock);
    if (mail.blocks > 0) {
        int i = (int)chance_below(c, (uint64_t)mail.blocks);
        b = mail.block[i];
        mail.block[i] = mail.block[--mail.blocks];
        b->heap->in_flight++;
    }
    pthread_mutex_unlock(&mail.lock);
    if (b == NULL) return;
    oracle_heap *h = b->heap;
    oracle_free(b);
    pthread_mutex_lock(&mail.lock);
    h->in_flight--;
    pthread_mutex_unlock(&mail.lock);
}

/* Takes the heap's blocks out of the mail and waits for those that are being freed: a scope or the heap is to end. */
static void mail_recall(oracle_heap *h) {
    for (bool waiting = true; waiting;) {
        pthread_mutex_lock(&mail.lock);
        for (int i = mail.blocks; i-- > 0;) {
            if (mail.block[i]->heap != h) continue;
            oracle_put(mail.block[i]);
            mail.block[i] = mail.block[--mail.blocks];
        }
        waiting = h->in_flight > 0;
        pthread_mutex_unlock(&mail.lock);
        if (waiting) sched_yield();
    }
}

/* -- A worker -------------------------------------------------------------------------------------------------- */

typedef struct worker {
    pthread_t thread;
    chance chance;
    oracle_heap *heap[64]; /* its own at present */
    int heaps;
} worker;

static worker workers[WORKERS];
static meeting round_ends;
static oracle_heap *shared[2]; /* an ordinary one and one of malloc blocks */
static unsigned steps;

static oracle_heap *heap_new(uint32_t flags, oracle_heap *parent) {
    sagemem_heap_desc desc = {0};
    desc.flags = flags;
    desc.parent = parent != NULL ? parent->heap : NULL;
    return oracle_heap_new(sagemem_heap_create(&desc), parent, flags);
}

static void worker_own(worker *w, oracle_heap *h) {
    REQUIRE(w->heaps < 64, "too many heaps for one worker");
    w->heap[w->heaps++] = h;
}
static void worker_disown(worker *w, oracle_heap *h) {
    int i = 0;
    while (w->heap[i] != h) i++;
    w->heap[i] = w->heap[--w->heaps];
}

static bool has_children(const oracle_heap *h) {
    bool has = false;
    pthread_mutex_lock(&oracle_books.lock);
    for (int i = 0; i < oracle_books.heaps; i++) has |= oracle_books.heap[i]->parent == h && oracle_books.heap[i]->heap != NULL;
    pthread_mutex_unlock(&oracle_books.lock);
    return has;
}

static bool is_default(const oracle_heap *h) { return h->heap == sagemem_heap_default(); }

static void worker_blocks(worker *w, oracle_heap *h, unsigned what) {
    chance *c = &w->chance;
    if (what < 40 && oracle_used(h) < HEAP_BYTES) {
        oracle_put(oracle_alloc(h, c, chance_size(c)));
        return;
    }
    oracle_block *b = oracle_pick(h, c);
    if (b == NULL) return;
    bool of_shared = (h->flags & SAGEMEM_HEAP_SHARED) != 0;
    if (what < 62) {
        oracle_free(b);
        return;
    }
    if (what < 78) {
        oracle_realloc(b, c);
    } else if (what < 90) {
        if (mail_send(b)) return;
    } else if (what < 95) {
        if (!of_shared) oracle_keep(b);
    } else {
        oracle_heap *to = w->heap[chance_below(c, (uint64_t)w->heaps)];
        if (oracle_used(to) < HEAP_BYTES) oracle_move(b, to);
    }
    oracle_put(b);
}

static void worker_scopes(oracle_heap *h, chance *c) {
    if ((h->flags & SAGEMEM_HEAP_SHARED) != 0) return; /* one thread's scope would be every thread's */
    if (h->depth < ORACLE_DEPTH && chance_below(c, 2) == 0) {
        oracle_scope_begin(h);
    } else if (h->depth > 0) {
        mail_recall(h);
        oracle_scope_end(h);
    }
}

static void worker_rarely(worker *w, oracle_heap *h) {
    chance *c = &w->chance;
    if ((h->flags & SAGEMEM_HEAP_SHARED) != 0) return;
    switch (chance_below(c, 6)) {
    case 0:
        mail_recall(h);
        oracle_heap_reset(h);
        break;
    case 1: /* a heap and its place in the tree go, another of the same kind comes */
        if (has_children(h) || is_default(h)) break;
        mail_recall(h);
        worker_disown(w, h);
        oracle_heap_destroy(h);
        worker_own(w, heap_new(h->flags, h->parent));
        break;
    case 2: (void)sagemem_trim(); break;
    default: /* heaps change hands, with their scopes and blocks */
        if (is_default(h) || w->heaps < 3) break;
        pthread_mutex_lock(&mail.lock);
        oracle_heap *got = mail.heaps > 0 ? mail.heap[--mail.heaps] : NULL;
        worker_disown(w, h);
        mail.heap[mail.heaps++] = h;
        pthread_mutex_unlock(&mail.lock);
        if (got == NULL) break;
        REQUIRE(sagemem_heap_adopt(got->heap) == SAGEMEM_OK, "the heap is not given away");
        worker_own(w, got);
    }
}

static void worker_step(worker *w) {
    chance *c = &w->chance;
    oracle_heap *h = chance_below(c, 8) == 0 ? shared[chance_below(c, 2)] : w->heap[chance_below(c, (uint64_t)w->heaps)];
    uint64_t what = chance_below(c, 1000);
    if (what < 850) worker_blocks(w, h, (unsigned)chance_below(c, 100));
    else if (what < 930) mail_free_one(c);
    else if (what < 990) worker_scopes(h, c);
    else worker_rarely(w, h);
}

/* The calling thread's default heap, which a dead thread may have left. */
static oracle_heap *default_heap(void) {
    sagemem_heap *mine = sagemem_heap_default();
    oracle_heap *h = oracle_heap_of(mine);
    if (h == NULL) h = oracle_heap_new(mine, NULL, 0);
    mail_recall(h);
    return h;
}

/* A thread that dies, with open scopes and live blocks. */
static void *mayfly(void *ctx) {
    chance *c = (chance *)ctx;
    oracle_heap *h = default_heap();
    oracle_compare_visit(h);
    for (unsigned i = 0; i < 60; i++) {
        if (chance_below(c, 10) == 0 && h->depth < ORACLE_DEPTH) oracle_scope_begin(h);
        oracle_block *b = chance_below(c, 3) == 0 || oracle_used(h) > HEAP_BYTES ? oracle_pick(h, c) : NULL;
        if (b != NULL && chance_below(c, 2) == 0) {
            oracle_realloc(b, c);
            oracle_put(b);
        } else if (b != NULL) {
            oracle_free(b);
        } else if (oracle_used(h) <= HEAP_BYTES) {
            b = oracle_alloc(h, c, chance_size(c));
            if (chance_below(c, 4) != 0 || !mail_send(b)) oracle_put(b);
        }
    }
    h->depth = 0; /* the scopes are nobody's now, the blocks stay */
    return NULL;
}

static void *worker_main(void *ctx) {
    worker *w = (worker *)ctx;
    oracle_heap *root = heap_new(0, NULL), *child = heap_new(0, root);
    const uint32_t flags[] = {SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_ZERO, SAGEMEM_HEAP_SITES,
                              SAGEMEM_HEAP_ZERO | SAGEMEM_HEAP_CHECKED};
    worker_own(w, root);
    worker_own(w, child);
    worker_own(w, heap_new(SAGEMEM_HEAP_CHECKED, child)); /* a grandchild of another kind */
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) worker_own(w, heap_new(flags[i], NULL));
    worker_own(w, default_heap());
    for (int round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < steps / ROUNDS; i++) worker_step(w);
        chance c = {chance_next(&w->chance)};
        pthread_t dies;
        REQUIRE(pthread_create(&dies, NULL, mayfly, &c) == 0, "no thread");
        for (unsigned i = 0; i < 50; i++) worker_step(w);
        pthread_join(dies, NULL);
        meet(&round_ends);
        /* Everybody rests; the first one compares. Then each looks at what is its own. */
        if (w == workers) {
            oracle_compare_blocks();
            oracle_compare_all();
        }
        meet(&round_ends);
        for (int i = 0; i < w->heaps; i++) oracle_compare_visit(w->heap[i]);
        if (w == workers)
            for (int i = 0; i < 2; i++) oracle_compare_visit(shared[i]);
        meet(&round_ends);
    }
    return NULL;
}

/* -- A thread that only reads: what it sees may be a moment old, but never absurd ---------------------------------- */

static atomic_bool observer_stops;

static void observe(const sagemem_heap *heap, sagemem_heap_stats *before) {
    const uint64_t absurd = (uint64_t)1 << 40;
    sagemem_heap_stats now;
    REQUIRE(sagemem_heap_get_stats(heap, &now) == SAGEMEM_OK, "no statistics");
    REQUIRE(now.used < absurd && now.held < absurd && now.overhead < absurd && now.used_peak < absurd && now.held_peak < absurd,
            "used %llu (peak %llu), held %llu (peak %llu), overhead %llu", UINT(now.used), UINT(now.used_peak), UINT(now.held),
            UINT(now.held_peak), UINT(now.overhead));
    REQUIRE(now.used <= now.used_peak && now.blocks <= now.total_blocks && now.blocks < absurd && now.scopes < 1000,
            "used %llu of %llu, blocks %llu of %llu, scopes %llu", UINT(now.used), UINT(now.used_peak), UINT(now.blocks),
            UINT(now.total_blocks), UINT(now.scopes));
    REQUIRE(now.total_blocks >= before->total_blocks && now.held_peak >= before->held_peak,
            "what only grows has shrunk: blocks %llu after %llu, held peak %llu after %llu", UINT(now.total_blocks),
            UINT(before->total_blocks), UINT(now.held_peak), UINT(before->held_peak));
    *before = now;
    for (int t = 0; t < ORACLE_TAGS; t++) {
        sagemem_tag_stats tag;
        uint64_t part;
        REQUIRE(sagemem_tag_get_stats(heap, oracle_tags[t], &tag) == SAGEMEM_OK, "no statistics of a tag");
        REQUIRE(tag.used <= tag.peak && tag.used <= tag.total_bytes && tag.blocks <= tag.total_blocks && tag.peak < absurd &&
                    tag.peak_blocks < absurd,
                "tag %u: used %llu, peak %llu, ever %llu; blocks %llu, peak %llu, ever %llu", oracle_tags[t], UINT(tag.used),
                UINT(tag.peak), UINT(tag.total_bytes), UINT(tag.blocks), UINT(tag.peak_blocks), UINT(tag.total_blocks));
        REQUIRE(sagemem_peak_get_stats(heap, oracle_tags[t], &part) == SAGEMEM_OK && part < absurd, "part %llu", UINT(part));
    }
}

static void *observer_main(void *ctx) {
    (void)ctx;
    sagemem_heap_stats process = {0}, of_shared[2] = {{0}, {0}};
    while (!atomic_load(&observer_stops)) {
        observe(NULL, &process);
        for (int i = 0; i < 2; i++) observe(shared[i]->heap, &of_shared[i]);
        sched_yield();
    }
    return NULL;
}

static void exact_at_every_rest(void **state) {
    (void)state;
    uint64_t seed = oracle_seed();
    printf("seed: %llu\n", UINT(seed));
    steps = oracle_steps(6000, 900);
    shared[0] = heap_new(SAGEMEM_HEAP_SHARED, NULL);
    shared[1] = heap_new(SAGEMEM_HEAP_SHARED | SAGEMEM_HEAP_SYSTEM, NULL);
    round_ends.expected = WORKERS;
    pthread_mutex_init(&round_ends.lock, NULL);
    pthread_cond_init(&round_ends.all_there, NULL);
    pthread_t observer;
    REQUIRE(pthread_create(&observer, NULL, observer_main, NULL) == 0, "no thread");
    for (int i = 0; i < WORKERS; i++) {
        workers[i].chance.state = seed * 1000 + (uint64_t)i;
        REQUIRE(pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) == 0, "no thread");
    }
    for (int i = 0; i < WORKERS; i++) pthread_join(workers[i].thread, NULL);
    atomic_store(&observer_stops, true);
    pthread_join(observer, NULL);

    /* The owners are dead: their scopes are closed, and any thread may end their heaps, children first. */
    for (int i = 0; i < oracle_books.heaps; i++) oracle_books.heap[i]->depth = 0;
    oracle_compare_all();
    for (bool left = true; left;) {
        left = false;
        for (int i = 0; i < oracle_books.heaps; i++) {
            oracle_heap *h = oracle_books.heap[i];
            if (h->heap == NULL) continue;
            mail_recall(h);
            if (has_children(h)) left = true;
            else oracle_heap_destroy(h);
        }
        oracle_compare_all();
    }
    sagemem_heap_stats stats;
    REQUIRE(sagemem_heap_get_stats(NULL, &stats) == SAGEMEM_OK && stats.used == 0 && stats.blocks == 0, "%llu blocks are left",
            UINT(stats.blocks));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(exact_at_every_rest)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
