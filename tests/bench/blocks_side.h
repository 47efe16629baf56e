/* The workloads on single blocks, as one side does them: the same text for all. Before each inclusion the includer defines
 * SIDE(name), ALLOC(size), TAGGED(size, tag), RESIZE(block, size), FREE(block). No guard: it is included once for each side.
 */

static double SIDE(pair)(const bench_row *row) {
    uint64_t count = bench_count(2000000);
    size_t size = *(const size_t *)row->arg;
    double start = bench_cpu_ns();
    for (uint64_t i = 0; i < count; i++) {
        void *block = ALLOC(size);
        bench_use(block);
        FREE(block);
    }
    return (bench_cpu_ns() - start) / (double)count;
}

static double SIDE(batch)(const bench_row *row) {
    const batch *what = (const batch *)row->arg;
    static void *blocks[BATCH];
    uint64_t rounds = bench_count(800);
    const uint32_t *order = order_of(what->order);
    double start = bench_cpu_ns();
    for (uint64_t round = 0; round < rounds; round++) {
        for (size_t i = 0; i < BATCH; i++) {
            blocks[i] = ALLOC(what->size);
            bench_use(blocks[i]);
        }
        for (size_t i = 0; i < BATCH; i++) FREE(blocks[order[i]]);
    }
    return (bench_cpu_ns() - start) / (double)(rounds * BATCH);
}

/* A random block is freed and another of random size takes its place. */
static void SIDE(replace)(void **live, uint32_t count, uint64_t steps, const churn *what, uint64_t *random) {
    for (uint64_t i = 0; i < steps; i++) {
        uint32_t slot = bench_below(random, count);
        FREE(live[slot]);
        live[slot] = TAGGED(random_size(what, random), 1 + i % what->tags);
        bench_use(live[slot]);
    }
}

static double SIDE(churn)(const bench_row *row) {
    const churn *what = (const churn *)row->arg;
    uint32_t count = (uint32_t)bench_count(what->live);
    uint64_t steps = bench_count(what->steps), random = 1;
    void **live = (void **)bench_scratch(count * sizeof *live);
    for (uint32_t i = 0; i < count; i++) {
        live[i] = TAGGED(random_size(what, &random), 1 + i % what->tags);
        bench_use(live[i]);
    }
    SIDE(replace)(live, count, steps, what, &random);
    double start = bench_cpu_ns();
    SIDE(replace)(live, count, steps, what, &random);
    double took = bench_cpu_ns() - start;
    for (uint32_t i = 0; i < count; i++) FREE(live[i]);
    bench_scratch_free(live, count * sizeof *live);
    return took / (double)steps;
}

/* Resident bytes for each byte that was asked for and is live; every byte is written. (glibc is a little better off than it
 * shows: some 35 KB that the program itself has freed are there already.) */
static double SIDE(held)(const bench_row *row) {
    const churn *what = (const churn *)row->arg;
    uint32_t count = (uint32_t)bench_count(what->live);
    uint64_t steps = bench_count(what->steps), random = 1;
    void **live = (void **)bench_scratch(count * sizeof *live);
    size_t *sizes = (size_t *)bench_scratch(count * sizeof *sizes), used = 0;
    double before = bench_resident();
    for (uint64_t i = 0; i < count + steps; i++) {
        uint32_t slot = i < count ? (uint32_t)i : bench_below(&random, count);
        size_t size = random_size(what, &random);
        if (i >= count) FREE(live[slot]);
        live[slot] = TAGGED(size, 1 + i % what->tags);
        memset(live[slot], 1, size);
        used += size - sizes[slot];
        sizes[slot] = size;
    }
    return (bench_resident() - before) / (double)used;
}

/* What grows is written to the end, or not at all. The free is not timed. */
static double SIDE(grow)(const bench_row *row) {
    bool touch = *(const bool *)row->arg;
    size_t size = 16, last = (size_t)bench_count(256) << 20;
    double start = bench_cpu_ns();
    char *block = (char *)ALLOC(size);
    for (size_t written = 0; size < last; size += size / 2) {
        if (touch) memset(block + written, 1, size - written);
        else bench_use(block);
        written = size;
        block = (char *)RESIZE(block, size + size / 2);
    }
    bench_use(block);
    double took = bench_cpu_ns() - start;
    FREE(block);
    return took / 1000;
}

static bench_work *const SIDE(works)[BENCH_WORKS] = {SIDE(pair), SIDE(batch), SIDE(churn), SIDE(held), SIDE(grow), SIDE(churn)};

#undef SIDE
#undef ALLOC
#undef TAGGED
#undef RESIZE
#undef FREE
