/* The recorded run, as one side does it: the same text for all. Before each inclusion the includer defines SIDE(name),
 * ALLOC(size), CALLOC(size), RESIZE(block, size), FREE(block). No guard: it is included once for each side.
 */

static void SIDE(play)(const trace *run, void **blocks) {
    for (size_t i = 0; i < run->count; i++) {
        const event *e = &run->events[i];
        void **block = &blocks[e->slot];
        if (e->kind == 'm') *block = ALLOC(e->size);
        else if (e->kind == 'c') *block = CALLOC(e->size);
        else if (e->kind == 'r') *block = RESIZE(*block, e->size);
        else FREE(*block);
        if (e->kind != 'f') bench_use(*block);
    }
}

static double SIDE(replay)(const bench_row *row) {
    const trace *run = trace_read((const char *)row->arg);
    uint64_t rounds = bench_count(20);
    double start = bench_cpu_ns();
    for (uint64_t round = 0; round < rounds; round++) SIDE(play)(run, run->blocks);
    return (bench_cpu_ns() - start) / (double)(rounds * run->count);
}

static bench_work *const SIDE(works)[BENCH_WORKS] = {SIDE(replay)};

#undef SIDE
#undef ALLOC
#undef CALLOC
#undef RESIZE
#undef FREE
