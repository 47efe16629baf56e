/* The workloads on scopes, as one side does them: the same text for all. Before each inclusion the includer defines
 * SIDE(name), BEGIN(), TAKE(size, tag), and END(blocks, count), which ends the scope, or frees the blocks one by one where
 * there is none. No guard: it is included once for each side.
 */

static double SIDE(forest)(const bench_row *row) {
    const forest *what = (const forest *)row->arg;
    static void *blocks[FOREST_SMALL + FOREST_LARGE];
    uint64_t cycles = bench_count(what->cycles), random = 3;
    double start = bench_cpu_ns();
    for (uint64_t cycle = 0; cycle < cycles; cycle++) {
        size_t count = 0;
        BEGIN();
        for (int i = 0; i < FOREST_SMALL; i++) {
            blocks[count] = TAKE(16 + bench_below(&random, 497), 1);
            bench_use(blocks[count++]);
        }
        for (int i = 0; i < FOREST_LARGE; i++) {
            blocks[count] = TAKE(10000 + bench_below(&random, 90001), 2);
            bench_use(blocks[count++]);
        }
        END(blocks, count);
    }
    return (bench_cpu_ns() - start) / (double)cycles / (FOREST_SMALL + FOREST_LARGE);
}

/* Many blocks of 64 B, over some tags; what is timed is all of it, or the end alone. */
static double SIDE(many)(const bench_row *row) {
    const many *what = (const many *)row->arg;
    size_t count = bench_count(what->count);
    void **blocks = (void **)bench_scratch(count * sizeof *blocks);
    double start = bench_cpu_ns();
    BEGIN();
    for (size_t i = 0; i < count; i++) {
        blocks[i] = TAKE(64, 1 + i % what->tags);
        bench_use(blocks[i]);
    }
    if (what->end_alone) start = bench_cpu_ns();
    END(blocks, count);
    double took = bench_cpu_ns() - start;
    bench_scratch_free(blocks, count * sizeof *blocks);
    return took / (double)count;
}

static bench_work *const SIDE(works)[BENCH_WORKS] = {SIDE(forest), SIDE(many)};

#undef SIDE
#undef BEGIN
#undef TAKE
#undef END
