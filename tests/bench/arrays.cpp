// Arrays that grow by one element at a time. In C++ because std::vector is: each side is a class with push(), a workload a
// template.
#include "bench.h"

#include <cstdint>
#include <cstdlib>
#include <vector>

#ifdef BENCH_STB_DS
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wunknown-warning-option"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wcast-align"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#endif
#define STB_DS_IMPLEMENTATION
#include <stb/stb_ds.h>
#endif

namespace {

// Not called on paths that only an exception takes, as there are none in C: there each side could live in registers.
#define ALWAYS __attribute__((__always_inline__)) inline

enum { LARGE, PEAK, SMALL };
enum : std::size_t { STABLE_MAX = std::size_t(1) << 32 }; // elements: 32 GiB of addresses

SAGEMEM_ARRAY_OF(doubles, double);

template <std::size_t StableMax> struct sagemem_side {
    doubles array;
    sagemem_side() {
        sagemem_array_desc desc = sagemem_array_desc();
        desc.heap = bench_heap;
        desc.tag = 1;
        desc.stable_max = StableMax;
        if (doubles_init(&array, &desc) != SAGEMEM_OK) bench_die("no array", sagemem_last_error()->message);
    }
    ALWAYS ~sagemem_side() { doubles_deinit(&array); }
    void push(double value) {
        if (doubles_push(&array, &value) != SAGEMEM_OK) bench_die("push", sagemem_last_error()->message);
    }
};
typedef sagemem_side<STABLE_MAX> stable_side;
typedef sagemem_side<0> moving_side;

// The way of kvec and of most code written by hand: a pointer, two counts, realloc by a factor.
template <int Numerator, int Denominator> struct realloc_side {
    double *data;
    std::size_t count, capacity;
    realloc_side() : data(nullptr), count(0), capacity(0) {}
    ALWAYS ~realloc_side() { std::free(data); }
    void push(double value) {
        if (count == capacity) grow();
        data[count++] = value;
    }
    void grow() {
        capacity = capacity < 2 ? 2 : capacity * Numerator / Denominator;
        data = static_cast<double *>(std::realloc(data, capacity * sizeof *data));
        if (data == nullptr) bench_die("realloc", "no memory");
    }
};

#ifdef BENCH_STB_DS
struct stb_side {
    double *data;
    stb_side() : data(nullptr) {}
    ALWAYS ~stb_side() { arrfree(data); }
    void push(double value) { arrput(data, value); }
};
#endif

struct vector_side {
    std::vector<double> data;
    void push(double value) { data.push_back(value); }
};

struct what {
    std::uint64_t count, rounds;
};

template <class Side> double fill(const bench_row *row) {
    const what *work = static_cast<const what *>(row->arg);
    std::uint64_t rounds = work->rounds > 1 ? bench_count(work->rounds) : 1,
                  count = rounds > 1 ? work->count : bench_count(work->count);
    double start = bench_cpu_ns(), took = 0;
    for (std::uint64_t round = 0; round < rounds; round++) {
        Side side;
        for (std::int64_t i = 0; i < static_cast<std::int64_t>(count); i++) side.push(static_cast<double>(i));
        took = bench_cpu_ns() - start; // one array: its end is not its growth
    }
    return took / static_cast<double>(rounds * count);
}

template <class Side> double peak(const bench_row *row) {
    std::uint64_t count = bench_count(static_cast<const what *>(row->arg)->count);
    double before = bench_peak_resident();
    Side side;
    for (std::uint64_t i = 0; i < count; i++) side.push(static_cast<double>(i));
    return (bench_peak_resident() - before) / static_cast<double>(count * sizeof(double));
}

// The library's tool is the stable array where it is large, the ordinary one where it is small; each appears beside the other.
bench_work *const works_library[BENCH_WORKS] = {fill<stable_side>, peak<stable_side>, fill<moving_side>};
bench_work *const works_moving[BENCH_WORKS] = {fill<moving_side>, peak<moving_side>, nullptr};
bench_work *const works_stable[BENCH_WORKS] = {nullptr, nullptr, fill<stable_side>};
template <class Side> struct works { static bench_work *const all[BENCH_WORKS]; };
template <class Side> bench_work *const works<Side>::all[BENCH_WORKS] = {fill<Side>, peak<Side>, fill<Side>};

const bench_side sides[] = {
    {"sagemem", 0, nullptr, works_library},
    {"sagemem, moving", 0, nullptr, works_moving},
    {"sagemem, stable", 0, nullptr, works_stable},
    {"realloc x2", 0, nullptr, works<realloc_side<2, 1>>::all},
    {"realloc x1.5", 0, nullptr, works<realloc_side<3, 2>>::all},
#ifdef BENCH_STB_DS
    {"stb_ds", 0, nullptr, works<stb_side>::all},
#endif
    {"std::vector", 0, nullptr, works<vector_side>::all},
};

const what large = {32 << 20, 1}, medium = {100000, 200}, little = {1000, 20000};

const char ns_a_push[] = "ns a push";

const bench_row rows[] = {
    {"array-large",
     "stable array, 256 MB of pushed doubles",
     ns_a_push,
     LARGE,
     &large,
     {{FASTER, 3.0, "realloc x2"}, {FASTER, 3.0, "stb_ds"}, {FASTER, 8.0, "std::vector"}},
     ISOLATED},
    {"array-peak",
     "stable array of 256 MB",
     "most resident bytes for each of data",
     PEAK,
     &large,
     {{AT_MOST, 1.02, nullptr}},
     ISOLATED | STEADY},
    {"array-800k", "array, 800 KB of pushed doubles", ns_a_push, SMALL, &medium, {{AT_MOST, 1.1, "realloc x2"}}, 0},
    {"array-8k", "array, 8 KB of pushed doubles", ns_a_push, SMALL, &little, {{AT_MOST, 1.1, "realloc x2"}}, 0},
};

void tell_peers() {
#ifdef BENCH_STB_DS
    bench_peer_tell("stb_ds", "(without a number)");
#else
    bench_peer_tell("stb_ds", nullptr);
#endif
}

} // namespace

extern "C" {
extern const bench_group bench_arrays;
const bench_group bench_arrays = {rows, sizeof rows / sizeof *rows, sides, sizeof sides / sizeof *sides, tell_peers};
}
