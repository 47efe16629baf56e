// Objects of one size. In C++ because boost::pool is: each side is a class with take() and give(), a workload a template.
#include "bench.h"

#include <cstdint>
#include <cstdlib>
#include <new>

#ifdef BENCH_BOOST
#include <boost/pool/pool.hpp>
#include <boost/version.hpp>
#endif
#ifdef BENCH_GLIB
#include <glib.h>
#endif
#ifdef BENCH_TALLOC
extern "C" {
#include <talloc.h>
}
#endif

namespace {

enum { BATCHES, CHURN, WALK };
enum : std::size_t { BATCH = 1000, MANY = 500000 };

struct sagemem_side {
    sagemem_pool *pool;
    explicit sagemem_side(std::size_t size) {
        sagemem_pool_desc desc = sagemem_pool_desc();
        desc.heap = bench_heap;
        desc.tag = 1;
        desc.object_size = size;
        pool = sagemem_pool_create(&desc);
        if (pool == nullptr) bench_die("no pool", sagemem_last_error()->message);
    }
    ~sagemem_side() { sagemem_pool_destroy(pool); }
    void *take() { return sagemem_pool_alloc(pool); }
    void give(void *object) { sagemem_pool_free(pool, object); }
};

struct glibc_side {
    std::size_t size;
    explicit glibc_side(std::size_t wanted) : size(wanted) {}
    void *take() { return std::malloc(size); }
    void give(void *object) { std::free(object); }
};

#ifdef BENCH_BOOST
struct boost_side {
    boost::pool<> pool;
    explicit boost_side(std::size_t size) : pool(size) {}
    void *take() { return pool.malloc(); }
    void give(void *object) { pool.free(object); }
};
#endif

#ifdef BENCH_GLIB
struct glib_side {
    std::size_t size;
    explicit glib_side(std::size_t wanted) : size(wanted) {}
    void *take() { return g_slice_alloc(size); }
    void give(void *object) { g_slice_free1(size, object); }
};
#endif

#ifdef BENCH_TALLOC
// A talloc pool is made for a known number of bytes and is malloc beyond it: here for a batch.
struct talloc_side {
    void *pool;
    std::size_t size;
    explicit talloc_side(std::size_t wanted) : pool(talloc_pool(nullptr, BATCH * (wanted + 128))), size(wanted) {}
    ~talloc_side() { talloc_free(pool); }
    void *take() { return talloc_size(pool, size); }
    void give(void *object) { talloc_free(object); }
};
#endif

std::size_t size_of(const bench_row *row) { return *static_cast<const std::size_t *>(row->arg); }

// Makes the order of `count` objects random, always the same one.
void shuffle(void **objects, std::size_t count) {
    std::uint64_t random = 11;
    for (std::size_t i = count - 1; i > 0; i--) {
        std::size_t other = bench_below(&random, static_cast<std::uint32_t>(i + 1));
        void *object = objects[i];
        objects[i] = objects[other];
        objects[other] = object;
    }
}

template <class Side> double batches(const bench_row *row) {
    static void *objects[BATCH];
    Side side(size_of(row));
    std::uint64_t rounds = bench_count(800);
    double start = bench_cpu_ns();
    for (std::uint64_t round = 0; round < rounds; round++) {
        for (std::size_t i = 0; i < BATCH; i++) {
            objects[i] = side.take();
            bench_use(objects[i]);
        }
        for (std::size_t i = 0; i < BATCH; i++) side.give(objects[i]);
    }
    return (bench_cpu_ns() - start) / static_cast<double>(rounds * BATCH);
}

template <class Side> void replace(Side &side, void **live, std::size_t count, std::uint64_t steps, std::uint64_t *random) {
    for (std::uint64_t i = 0; i < steps; i++) {
        std::size_t slot = bench_below(random, static_cast<std::uint32_t>(count));
        side.give(live[slot]);
        live[slot] = side.take();
        bench_use(live[slot]);
    }
}

// What is freed at random lies between what lives: every other object is given back first, so that free places are everywhere.
template <class Side> double churn(const bench_row *row) {
    std::size_t count = bench_count(MANY), bytes = 2 * count * sizeof(void *);
    void **live = static_cast<void **>(bench_scratch(bytes));
    std::uint64_t random = 5, steps = count;
    Side side(size_of(row));
    for (std::size_t i = 0; i < 2 * count; i++) {
        live[i] = side.take();
        bench_use(live[i]);
    }
    shuffle(live, 2 * count);
    for (std::size_t i = count; i < 2 * count; i++) side.give(live[i]);
    replace(side, live, count, steps, &random);
    double start = bench_cpu_ns();
    replace(side, live, count, steps, &random);
    double took = bench_cpu_ns() - start;
    for (std::size_t i = 0; i < count; i++) side.give(live[i]);
    bench_scratch_free(live, bytes);
    return took / static_cast<double>(steps);
}

// A list of objects in the order in which they were allocated.
template <class Side> void fill(Side &side, void **objects, std::size_t count) {
    for (std::size_t i = 0; i < count; i++) objects[i] = side.take();
    for (std::size_t i = 0; i < count; i++) *static_cast<void **>(objects[i]) = i + 1 < count ? objects[i + 1] : nullptr;
}

// The walk along a list that was allocated in a row; with `used`, after as many objects were freed in random order.
template <class Side> double walk(const bench_row *row, bool used) {
    std::size_t count = bench_count(MANY), bytes = count * sizeof(void *), seen = 0;
    void **objects = static_cast<void **>(bench_scratch(bytes));
    Side side(size_of(row));
    fill(side, objects, count);
    if (used) {
        shuffle(objects, count);
        for (std::size_t i = 0; i < count; i++) side.give(objects[i]);
        fill(side, objects, count);
    }
    double start = bench_cpu_ns();
    for (void *object = objects[0]; object != nullptr; object = *static_cast<void *volatile *>(object)) seen++;
    double took = bench_cpu_ns() - start;
    if (seen != count) bench_die("a list is broken", row->name);
    for (std::size_t i = 0; i < count; i++) side.give(objects[i]);
    bench_scratch_free(objects, bytes);
    return took / static_cast<double>(count);
}
template <class Side> double walk_used(const bench_row *row) { return walk<Side>(row, true); }
template <class Side> double walk_fresh(const bench_row *row) { return walk<Side>(row, false); }

template <class Side> struct works { static bench_work *const all[BENCH_WORKS]; };
template <class Side> bench_work *const works<Side>::all[BENCH_WORKS] = {batches<Side>, churn<Side>, walk_used<Side>};
bench_work *const fresh_works[BENCH_WORKS] = {nullptr, nullptr, walk_fresh<sagemem_side>};

const bench_side sides[] = {
    {"sagemem", 0, nullptr, works<sagemem_side>::all},    {"sagemem, fresh", 0, nullptr, fresh_works},
    {"glibc", 0, nullptr, works<glibc_side>::all},
#ifdef BENCH_BOOST
    {"boost::pool", 0, nullptr, works<boost_side>::all},
#endif
#ifdef BENCH_GLIB
    {"GLib slices", 0, nullptr, works<glib_side>::all},
#endif
#ifdef BENCH_TALLOC
    {"talloc pool", 0, nullptr, works<talloc_side>::all},
#endif
};

const std::size_t sizes[] = {64, 304, 704};

const char ns_an_object[] = "ns an object";

const bench_row rows[] = {
    {"pool64", "pool: 1,000 objects of 64 B, in order", ns_an_object, BATCHES, &sizes[0], {{AT_MOST, 0.9, "boost::pool"}}, 0},
    {"pool304", "pool: 1,000 objects of 304 B, in order", ns_an_object, BATCHES, &sizes[1], {{AT_MOST, 0.9, "boost::pool"}}, 0},
    {"pool704", "pool: 1,000 objects of 704 B, in order", ns_an_object, BATCHES, &sizes[2], {{AT_MOST, 0.9, "boost::pool"}}, 0},
    {"pool-churn64",
     "pool: random churn, 500 k objects of 64 B",
     ns_an_object,
     CHURN,
     &sizes[0],
     {{AT_MOST, 1.3, "boost::pool"}},
     0},
    {"pool-churn304",
     "pool: random churn, 500 k objects of 304 B",
     ns_an_object,
     CHURN,
     &sizes[1],
     {{AT_MOST, 1.3, "boost::pool"}},
     0},
    {"pool-walk",
     "pool: walk over 500 k objects of 304 B after random frees",
     ns_an_object,
     WALK,
     &sizes[1],
     {{AT_MOST, 1.1, "sagemem, fresh"}, {FASTER, 1.0, "boost::pool"}, {FASTER, 1.0, "GLib slices"}},
     0},
};

void tell_peers() {
#ifdef BENCH_BOOST
    static char boost[24];
    std::snprintf(boost, sizeof boost, "%d.%d.%d", BOOST_VERSION / 100000, BOOST_VERSION / 100 % 1000, BOOST_VERSION % 100);
    bench_peer_tell("boost", boost);
#else
    bench_peer_tell("boost", nullptr);
#endif
#ifdef BENCH_GLIB
    static char glib[48];
    // From 2.76 on slices are malloc.
    std::snprintf(glib, sizeof glib, "%u.%u.%u%s", glib_major_version, glib_minor_version, glib_micro_version,
                  glib_major_version > 2 || glib_minor_version >= 76 ? " (slices are malloc)" : "");
    bench_peer_tell("GLib", glib);
#else
    bench_peer_tell("GLib", nullptr);
#endif
}

} // namespace

extern "C" {
extern const bench_group bench_pools;
const bench_group bench_pools = {rows, sizeof rows / sizeof *rows, sides, sizeof sides / sizeof *sides, tell_peers};
}
