/* The workloads on single blocks, as one side does them: the same text for all. Before each inclusion the includer defines
 * SIDE(name), ALLOC(size), FREE(block), TAGGED(size, tag). No guard: it is included once for each side.
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

static bench_work *const SIDE(works)[BENCH_WORKS] = {SIDE(pair), SIDE(batch), SIDE(churn)};

#undef SIDE
#undef ALLOC
#undef TAGGED
#undef FREE
