/* The workloads of two threads, as one side does them: the same text for all. Before each inclusion the includer defines
 * SIDE(name), OPEN() and CLOSE(), which make and end a thread's `heap` where it needs one, ALLOC(size), FREE(block). No guard: it
 * is included once for each side.
 */

static void *SIDE(free_parcels)(void *ctx) {
    mailbox *box = (mailbox *)ctx;
    for (parcel *full; (full = mailbox_take(box, FULL)) != NULL;) {
        for (int i = 0; i < PARCEL; i++) FREE(full->blocks[i]);
        mailbox_put(box, EMPTY, full);
    }
    return NULL;
}

/* One thread allocates, another frees; the CPU time of both. */
static double SIDE(remote)(const bench_row *row) {
    mailbox box;
    pthread_t other;
    uint64_t parcels = bench_count(1000), random = 9;
    (void)row;
    heap = bench_heap;
    mailbox_init(&box);
    double start = bench_process_ns();
    start_thread(&other, SIDE(free_parcels), &box);
    for (uint64_t n = 0; n < parcels; n++) {
        parcel *empty = mailbox_take(&box, EMPTY);
        for (int i = 0; i < PARCEL; i++) {
            empty->blocks[i] = ALLOC(16 + bench_below(&random, 497));
            bench_use(empty->blocks[i]);
        }
        mailbox_put(&box, FULL, empty);
    }
    mailbox_close(&box);
    pthread_join(other, NULL);
    double took = bench_process_ns() - start;
    mailbox_end(&box);
    return took / (double)(parcels * PARCEL);
}

static void *SIDE(work_alone)(void *ctx) {
    void *blocks[PARCEL];
    uint64_t rounds = bench_count(2000), random = 9;
    (void)ctx;
    OPEN();
    for (uint64_t round = 0; round < rounds; round++) {
        for (int i = 0; i < PARCEL; i++) {
            blocks[i] = ALLOC(16 + bench_below(&random, 497));
            bench_use(blocks[i]);
        }
        for (int i = 0; i < PARCEL; i++) FREE(blocks[i]);
    }
    CLOSE();
    return NULL;
}

static double SIDE(gain)(const bench_row *row) {
    (void)row;
    return gain_of(SIDE(work_alone));
}

static bench_work *const SIDE(works)[BENCH_WORKS] = {SIDE(remote), SIDE(gain)};

#undef SIDE
#undef OPEN
#undef CLOSE
#undef ALLOC
#undef FREE
