/* What lies under the heap: cgroups, size classes, budgets, regions, the page map, the guard of a header. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <sys/stat.h>

static uint64_t seed;

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t chance(void) {
    uint64_t z = (seed += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
static size_t below(size_t n) { return (size_t)(chance() % n); }

static int faults;
static sagemem_status fault_status;
static void on_fault(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx, (void)kind;
    faults++;
    fault_status = error->status;
}
static void on_log(void *ctx, sagemem_log_level level, const char *message) { (void)ctx, (void)level, (void)message; }

static int setup(void **state) {
    (void)state;
    const char *given = getenv("SAGEMEM_SEED");
    seed = given != NULL ? strtoull(given, NULL, 0) : 20261121u;
    print_message("seed: %llu (SAGEMEM_SEED sets it)\n", (unsigned long long)seed);
    faults = 0;
    sagemem_set_fault_handler(on_fault, NULL);
    sagemem_set_logger(on_log, NULL);
    smi_start();
    return 0;
}

/* -- cgroups -------------------------------------------------------------------------------------------- */

static char place[64];

static int make_place(void **state) {
    strcpy(place, "/tmp/sagemem-XXXXXX");
    return setup(state) != 0 || mkdtemp(place) == NULL;
}
static int remove_place(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", place);
    return system(command);
}

/* A file below the place, its directories too. */
static void put(const char *path, const char *text) {
    char full[512];
    snprintf(full, sizeof full, "%s/%s", place, path);
    for (char *slash = full + strlen(place) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}
static uint64_t limit_in_place(const char *membership) {
    char file[128], root[128];
    put("membership", membership);
    snprintf(file, sizeof file, "%s/membership", place);
    snprintf(root, sizeof root, "%s/sys", place);
    return smi_cgroups_limit(file, root);
}

static void cgroup_v2_takes_the_least_on_the_way_up(void **state) {
    (void)state;
    put("sys/a/b/c/memory.max", "max\n");
    put("sys/a/b/memory.max", "5000000\n");
    put("sys/a/memory.max", "7000000\n");
    assert_int_equal(limit_in_place("0::/a/b/c\n"), 5000000);
    assert_int_equal(limit_in_place("0::/a/b\n"), 5000000);
    assert_int_equal(limit_in_place("0::/a\n"), 7000000);
    assert_int_equal(limit_in_place("0::/a"), 7000000); /* no newline at the end */
    assert_true(limit_in_place("0::/\n") == UINT64_MAX);
    put("sys/memory.max", "3000000\n"); /* a container sees its own group as the root */
    assert_int_equal(limit_in_place("0::/\n"), 3000000);
    assert_int_equal(limit_in_place("0::/a/b/c\n"), 3000000);
    assert_int_equal(limit_in_place("0::/gone/since/long\n"), 3000000);
    assert_int_equal(limit_in_place("0::/../outside\n"), 3000000);
}

static void cgroup_v1_is_found_among_the_others(void **state) {
    (void)state;
    put("sys/memory/docker/x/memory.limit_in_bytes", "6000000\n");
    put("sys/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/cpu/docker/x/memory.limit_in_bytes", "1\n");
    static const char all[] = "12:cpu,cpuacct:/docker/x\n11:cpuset:/\n5:memory:/docker/x\n1:name=systemd:/docker/x\n0::/docker/x\n";
    assert_int_equal(limit_in_place(all), 6000000);
    assert_int_equal(limit_in_place("7:hugetlb,memory:/docker/x\n"), 6000000);
    assert_true(limit_in_place("5:memory:/\n") == 9223372036854771712u);
    /* both versions: the least */
    put("sys/docker/memory.max", "4000000\n");
    assert_int_equal(limit_in_place(all), 4000000);
}

static void cgroup_files_that_say_nothing(void **state) {
    (void)state;
    put("sys/a/memory.max", "");
    assert_true(limit_in_place("0::/a\n") == UINT64_MAX);
    put("sys/a/memory.max", "garbage\n");
    assert_true(limit_in_place("0::/a\n") == UINT64_MAX);
    put("sys/a/memory.max", "-5\n");
    assert_true(limit_in_place("0::/a\n") == UINT64_MAX);
    assert_true(limit_in_place("") == UINT64_MAX);
    assert_true(limit_in_place("\n\nnonsense\n:\n0:\n0::\n") == UINT64_MAX);
    assert_true(smi_cgroups_limit("/does/not/exist", place) == UINT64_MAX);
    char deep[4000] = "0::";
    while (strlen(deep) < 3900) strcat(deep, "/deeper");
    assert_true(limit_in_place(deep) == UINT64_MAX);
}

/* -- Sizes ---------------------------------------------------------------------------------------------- */

static void classes_agree_with_sizes(void **state) {
    (void)state;
    unsigned before = 0;
    for (size_t size = 0; size <= SMI_SMALL_MAX; size++) {
        unsigned c = smi_class_of(size);
        assert_true(c < SMI_CLASSES);
        assert_true(c == before || c == before + 1);
        before = c;
        size_t room = smi_class_size(c);
        assert_true(room >= size && room % 16 == 0);
        if (c > 1) assert_true(smi_class_size(c - 1) < size); /* the least that fits */
        if (size > SMI_EXACT_MAX) assert_true((double)(room - size) <= 0.0625 * (double)size);
        else assert_true(room - size < 16 || size == 0);
    }
    assert_int_equal(before, SMI_CLASSES - 1);
    assert_int_equal(smi_class_size(SMI_CLASSES - 1), SMI_SMALL_MAX);
    for (unsigned c = 1; c < SMI_CLASSES; c++) {
        assert_int_equal(smi_class_of(smi_class_size(c)), c);
        /* the test for "offset is a multiple", for every offset in the largest page */
        size_t size = smi_class_size(c);
        uint64_t inverse = UINT64_MAX / size + 1;
        for (uint64_t offset = 0; offset < SMI_SLAB_MAX; offset++)
            assert_true((offset * inverse < inverse) == (offset % size == 0));
    }
}

static void lists_rise_with_units(void **state) {
    (void)state;
    unsigned before = 0;
    uint64_t first = 1;
    for (uint64_t units = 1; units < (uint64_t)1 << 20; units++) {
        unsigned list = smi_list_of(units);
        assert_true(list < SMI_LISTS);
        assert_true(list == before || list == before + 1);
        if (units <= SMI_UNITS_APART) assert_int_equal(list, units);
        if (list != before) first = units;
        assert_true(units * 4 <= first * 5); /* what is in one list differs by a quarter at most */
        before = list;
    }
}

static void meta_classes_fit(void **state) {
    (void)state;
    int before = 0;
    for (size_t size = 1; size <= (size_t)64 << 20; size += size < 5000 ? 1 : size / 50) {
        size_t room = size;
        int c = smi_meta_class(&room);
        assert_true(c >= before && c < SMI_META_CLASSES);
        assert_true(room >= size && (room <= 1024 ? room - size < 64 : room < 2 * size));
        before = c;
    }
}

/* -- Budgets -------------------------------------------------------------------------------------------- */

/* One level of a tree of three, as it should be. */
typedef struct level {
    uint64_t held, reserved, limit;
} level;

static void assert_levels(const smi_budget *b, const level *m, const char *after) {
    for (int i = 0; i < 3; i++) {
        if (b[i].held != m[i].held || b[i].reserved != m[i].reserved)
            fail_msg("after %s: level %d holds %llu (%llu reserved), not %llu (%llu)", after, i, (unsigned long long)b[i].held,
                     (unsigned long long)b[i].reserved, (unsigned long long)m[i].held, (unsigned long long)m[i].reserved);
        assert_true(b[i].reserved <= b[i].held);
        assert_true(b[i].limit == 0 || b[i].held <= b[i].limit);
    }
}

/* What charging n should do: each level takes from its claim first, and asks above for the rest only. */
static bool model_charge(level *m, uint64_t n, uint64_t cached) {
    level before[3];
    memcpy(before, m, sizeof before);
    for (int i = 0; i < 2; i++) {
        uint64_t drawn = m[i].reserved < n ? m[i].reserved : n;
        m[i].reserved -= drawn;
        n -= drawn;
        m[i].held += n;
        if (m[i].limit != 0 && m[i].held > m[i].limit && n > 0) {
            memcpy(m, before, sizeof before);
            return false;
        }
    }
    /* the process: what was cached is counted already */
    if (cached >= n) {
        m[2].held -= cached - n;
        return true;
    }
    n -= cached;
    uint64_t drawn = m[2].reserved < n ? m[2].reserved : n;
    m[2].reserved -= drawn;
    n -= drawn;
    m[2].held += n;
    if (m[2].limit != 0 && m[2].held > m[2].limit && n > 0) {
        memcpy(m, before, sizeof before);
        return false;
    }
    return true;
}

static void budget_follows_its_model(void **state) {
    (void)state;
    for (int round = 0; round < 300; round++) {
        smi_budget b[3];
        level m[3];
        memset(b, 0, sizeof b);
        memset(m, 0, sizeof m);
        for (int i = 0; i < 3; i++) {
            b[i].up = i < 2 ? &b[i + 1] : NULL;
            m[i].limit = b[i].limit = below(3) == 0 ? 0 : below(2000) + 500;
        }
        uint64_t taken[64], cache = 0;
        int count = 0;
        for (int step = 0; step < 200; step++) {
            switch (below(4)) {
            case 0:
            case 1: { /* charge, some of it from the cache */
                uint64_t n = below(300) + 1, cached = below(2) && cache > 0 ? below((size_t)(cache < n ? cache : n) + 1) : 0;
                smi_claim claim;
                if (below(4) == 0 && smi_charge(&b[0], n, cached, &claim)) { /* as if it had not been */
                    smi_claim_undo(&claim, NULL);
                    assert_levels(b, m, "undo");
                }
                bool expected = model_charge(m, n, cached);
                bool got = smi_charge(&b[0], n, cached, &claim);
                assert_int_equal(got, expected);
                assert_true(got == (claim.met == NULL));
                if (got) cache -= cached;
                if (got && count < 64) taken[count++] = n;
                else if (got) smi_uncharge(&b[0], n, NULL), m[0].held -= n, m[1].held -= n, m[2].held -= n;
                assert_levels(b, m, "charge");
                break;
            }
            case 2: /* give back, to the system or to the cache */
                if (count == 0) break;
                if (below(2)) {
                    smi_uncharge(&b[0], taken[--count], NULL);
                    m[2].held -= taken[count];
                } else {
                    smi_uncharge(&b[0], taken[--count], &b[2]);
                    cache += taken[count];
                }
                m[0].held -= taken[count];
                m[1].held -= taken[count];
                assert_levels(b, m, "uncharge");
                break;
            default: { /* a claim of the level in the middle or below */
                int i = (int)below(2);
                uint64_t n = below(200) + 1;
                bool fits = true;
                uint64_t rest = n;
                level before[3];
                memcpy(before, m, sizeof before);
                m[i].held += n;
                if (m[i].limit != 0 && m[i].held > m[i].limit) fits = false;
                for (int up = i + 1; fits && up < 3 && rest > 0; up++) {
                    uint64_t drawn = m[up].reserved < rest ? m[up].reserved : rest;
                    m[up].reserved -= drawn;
                    rest -= drawn;
                    m[up].held += rest;
                    if (rest > 0 && m[up].limit != 0 && m[up].held > m[up].limit) fits = false;
                }
                if (!fits) memcpy(m, before, sizeof before);
                else m[i].reserved += n;
                smi_claim claim;
                uint64_t old = smi_budget_draw(&b[i], UINT64_MAX);
                bool claimed = smi_charge(&b[i], n, 0, &claim);
                b[i].reserved += claimed ? old + n : old;
                assert_int_equal(claimed, fits);
                assert_levels(b, m, "reserve");
            }
            }
        }
    }
}

static void budget_does_not_overflow(void **state) {
    (void)state;
    smi_budget b;
    memset(&b, 0, sizeof b);
    assert_true(smi_budget_add(&b, UINT64_MAX - 10));
    assert_false(smi_budget_add(&b, 11));
    assert_true(b.held == UINT64_MAX - 10);
    assert_true(smi_budget_add(&b, 10));
}

/* -- Regions against a byte for each granule -------------------------------------------------------------- */

enum { REGION = 300 }; /* no multiple of 64 */

static void assert_region(const smi_region *r, const unsigned char *used, const unsigned char *dirty) {
    size_t free_count = 0, dirty_free = 0;
    for (size_t i = 0; i < REGION; i++) {
        assert_int_equal(smi_bit(r->used, i), used[i]);
        assert_int_equal(smi_bit(r->dirty, i), dirty[i]);
        if (i < r->hint) assert_true(used[i]);
        free_count += !used[i];
        dirty_free += !used[i] && dirty[i];
    }
    assert_int_equal(r->free, free_count);
    assert_int_equal(r->dirty_free, dirty_free);
}

static void region_follows_its_model(void **state) {
    (void)state;
    char *base = smi_os_reserve((size_t)REGION * SMI_GRANULE);
    assert_non_null(base);
    for (int round = 0; round < 20; round++) {
        unsigned char used[REGION] = {0}, dirty[REGION] = {0}, written[REGION] = {0};
        smi_region r;
        memset(&r, 0, sizeof r);
        assert_true(smi_region_init(&r, base, REGION));
        struct {
            size_t at, n;
        } runs[REGION];
        size_t count = 0;
        for (int step = 0; step < 400; step++) {
            size_t what = below(10), n = below(4) == 0 ? below(90) + 1 : below(5) + 1;
            if (what < 5) {
                size_t expected = 0, run = 0;
                for (; expected < REGION && run < n; expected++) run = used[expected] ? 0 : run + 1;
                expected = run == n ? expected - n : REGION;
                size_t at = smi_region_find(&r, n);
                assert_int_equal(at, expected);
                if (at == REGION) continue;
                size_t were_dirty = 0;
                for (size_t i = at; i < at + n; i++) were_dirty += dirty[i];
                assert_int_equal(smi_region_dirty(&r, at, n), were_dirty);
                smi_region_take(&r, at, n);
                memset(used + at, 1, n);
                memset(dirty + at, 1, n);
                for (size_t i = at; i < at + n; i++) {
                    char *granule = base + i * SMI_GRANULE;
                    if (!written[i]) assert_int_equal(*granule, 0); /* clean granules read as zero */
                    *granule = 1;
                    written[i] = 1;
                }
                runs[count].at = at;
                runs[count++].n = n;
            } else if (what < 9 && count > 0) {
                size_t i = below(count);
                smi_region_give(&r, runs[i].at, runs[i].n);
                memset(used + runs[i].at, 0, runs[i].n);
                runs[i] = runs[--count];
            } else {
                size_t at = below(REGION), span = below(REGION - at) + 1, purged = 0;
                for (size_t i = at; i < at + span; i++) {
                    if (used[i] || !dirty[i]) continue;
                    dirty[i] = written[i] = 0;
                    purged++;
                }
                assert_int_equal(smi_region_purge(&r, at, span), purged);
            }
            assert_region(&r, used, dirty);
        }
        smi_region_purge(&r, 0, REGION);
        smi_meta_free(r.used, 2 * ((REGION + 63) / 64) * sizeof(uint64_t));
        for (size_t i = 0; i < REGION; i++)
            if (used[i]) smi_os_purge(base + i * SMI_GRANULE, SMI_GRANULE);
    }
    smi_os_release(base, (size_t)REGION * SMI_GRANULE);
}

/* -- The page map --------------------------------------------------------------------------------------- */

static void page_map_knows_absurd_addresses(void **state) {
    (void)state;
    for (int shift = 0; shift < (int)sizeof(void *) * 8; shift++) {
        uintptr_t bit = (uintptr_t)1 << shift;
        for (int near = -17; near <= 17; near++) {
            smi_page *page = smi_lookup((void *)(bit + (uintptr_t)near));
            assert_true(page == NULL || page->kind == SMI_META || page->domain != NULL || page->kind == SMI_DEAD);
            page = smi_lookup((void *)(0 - bit + (uintptr_t)near));
            assert_true(page == NULL || page->kind == SMI_META || page->domain != NULL || page->kind == SMI_DEAD);
        }
    }
    for (int i = 0; i < 100000; i++) {
        void *any = (void *)(uintptr_t)chance();
        (void)smi_lookup(any);
        (void)sagemem_owns(any);
    }
#if UINTPTR_MAX > 0xFFFFFFFFu
    /* Above 48 bits nothing can be entered, and nothing is read past the root. */
    assert_false(smi_map_prepare((char *)((uintptr_t)1 << 48), 1));
    assert_false(smi_map_prepare((char *)(UINTPTR_MAX - 100), 50));
    assert_null(smi_lookup((void *)((uintptr_t)1 << 48)));
#endif
    assert_int_equal(faults, 0);
}

static void page_map_is_entered_and_cleared(void **state) {
    (void)state;
    sagemem_heap *heap = sagemem_heap_create(NULL);
    for (size_t size = 10; size < ((size_t)24 << 20); size *= 7) {
        char *block = sagemem_alloc(heap, size, 0);
        smi_page *page = smi_lookup(block);
        assert_non_null(page);
        assert_ptr_equal(page->domain, heap);
        assert_true(block >= page->base && block < page->base + page->bytes);
        char *base = page->base;
        sagemem_heap_reset(heap);
        page = smi_lookup(base);
        assert_true(page == NULL || page->kind == SMI_DEAD);
    }
    sagemem_heap_destroy(heap);
}

/* -- The word in front of a block ------------------------------------------------------------------------- */

static void guard_catches_every_flipped_bit(void **state) {
    (void)state;
    sagemem_heap *heap = sagemem_heap_create(NULL);
    static const size_t sizes[] = {10, 100, 1000, 9000, 100000};
    for (int scoped = 0; scoped < 2; scoped++) {
        if (scoped) sagemem_scope_begin(heap, "flipped", 0);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            sagemem_tag tag = (sagemem_tag)(below(SAGEMEM_TAG_MAX) + 1);
            char *block = sagemem_alloc(heap, sizes[i], tag), *fence = sagemem_alloc(heap, 40, 0);
            assert_int_equal(smi_lookup(block)->kind, SMI_CHUNK);
            char *header = block - 8;
            uint64_t word = smi_get_quiet(header);
            for (int bit = 0; bit < 64; bit++) {
                uint64_t flipped = word ^ (uint64_t)1 << bit;
                if (bit == 39) continue; /* "previous is free": a hint of the neighbour's, not guarded */
                smi_set_quiet(header, flipped);
                bool state_only = bit >= 36 && bit < 39; /* another state: live only if it says so */
                if (state_only) assert_true(smi_word_state(flipped) != SMI_LIVE);
                sagemem_status status = sagemem_check(block);
                if (status == SAGEMEM_OK) fail_msg("bit %d of the header was flipped and nobody saw it", bit);
                assert_true(status == SAGEMEM_E_CORRUPT || state_only);
                int before = faults;
                sagemem_free(block);
                assert_int_equal(faults, before + 1);
                if (!state_only) assert_int_equal(sagemem_heap_check(heap) > 0, 1);
                smi_set_quiet(header, word);
                assert_int_equal(sagemem_check(block), SAGEMEM_OK);
            }
            assert_int_equal(sagemem_heap_check(heap), 0);
            sagemem_free(block);
            sagemem_free(fence);
        }
        if (scoped) sagemem_scope_end(heap);
    }
    sagemem_heap_destroy(heap);
}

/* A block that runs nine bytes over changes its neighbour's word, whatever it writes: eight bytes of one value are
 * no word that the neighbour could have. */
static void guard_catches_nine_bytes_too_many(void **state) {
    (void)state;
    sagemem_heap *heap = sagemem_heap_create(NULL);
    sagemem_scope_begin(heap, "overflow", 0);
    char *block = sagemem_alloc(heap, 100, 1), *next = sagemem_alloc(heap, 100, 2);
    char *end = block + sagemem_size(block);
    assert_ptr_equal(end + 8, next);
    uint64_t word = smi_get_quiet(next - 8), first = smi_get_quiet(next);
    for (int byte = 0; byte < 256; byte++) {
        smi_fill_quiet(end, byte, 9);
        assert_int_equal(sagemem_check(next), SAGEMEM_E_CORRUPT);
        assert_int_equal(sagemem_heap_check(heap), 1);
        sagemem_free(next);
        assert_int_equal(faults, byte + 1);
        assert_int_equal(fault_status, SAGEMEM_E_CORRUPT);
        smi_set_quiet(next - 8, word);
        smi_set_quiet(next, first);
        assert_int_equal(sagemem_check(next), SAGEMEM_OK);
    }
    sagemem_heap_destroy(heap);
}

static void ended_scope_leaves_no_words(void **state) {
    (void)state;
    sagemem_heap *heap = sagemem_heap_create(NULL);
    void *old[200];
    sagemem_scope_begin(heap, "first", 1);
    for (int i = 0; i < 200; i++) old[i] = sagemem_alloc(heap, 100, 3);
    sagemem_scope_end(heap);
    sagemem_scope_begin(heap, "second", 2);
    (void)!sagemem_alloc(heap, 10, 3); /* the same chunk, most of it as it was */
    for (int i = 1; i < 200; i++) {
        assert_false(sagemem_owns(old[i]));
        assert_int_not_equal(sagemem_check(old[i]), SAGEMEM_OK);
    }
    sagemem_heap_destroy(heap);
}

/* -- Chunks under random use, against the checker -------------------------------------------------------- */

static void chunks_survive_random_use(void **state) {
    (void)state;
    static const uint32_t flags[] = {0, SAGEMEM_HEAP_SITES, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_ZERO};
    int steps = getenv("SAGEMEM_TEST_SLOW") != NULL ? 2000 : 20000;
    for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++) {
        sagemem_heap_desc desc = {0};
        desc.flags = flags[f];
        sagemem_heap *heap = sagemem_heap_create(&desc);
        enum { SLOTS = 200 };
        struct {
            unsigned char *block;
            size_t size;
            unsigned char byte;
        } slot[SLOTS];
        memset(slot, 0, sizeof slot);
        for (int step = 0; step < steps; step++) {
            size_t i = below(SLOTS), size = below(10) == 0 ? below(60000) : below(10) == 0 ? below(9000) : below(600);
            sagemem_tag tag = (sagemem_tag)below(3);
            for (size_t k = 0; k < slot[i].size; k++)
                if (slot[i].block[k] != slot[i].byte) fail_msg("step %d: byte %zu of %zu was changed", step, k, slot[i].size);
            switch (below(5)) {
            case 0:
            case 1:
                sagemem_free(slot[i].block);
                slot[i].block = sagemem_alloc(heap, size, tag);
                break;
            case 2: slot[i].block = sagemem_realloc(heap, slot[i].block, size, SAGEMEM_TAG_SAME); break;
            case 3: slot[i].block = sagemem_realloc(heap, slot[i].block, size, tag); break;
            default: sagemem_free(slot[i].block); slot[i].block = sagemem_aligned_alloc(heap, (size_t)16 << below(9), size, tag);
            }
            assert_non_null(slot[i].block);
            slot[i].size = size;
            slot[i].byte = (unsigned char)chance();
            memset(slot[i].block, slot[i].byte, size);
            if (step % 500 == 0) assert_int_equal(sagemem_heap_check(heap), 0);
        }
        for (int i = 0; i < SLOTS; i++) sagemem_free(slot[i].block);
        assert_int_equal(sagemem_heap_check(heap), 0);
        sagemem_heap_stats s;
        sagemem_heap_get_stats(heap, &s);
        assert_int_equal(s.used, 0);
        assert_int_equal(s.blocks, 0);
        sagemem_heap_destroy(heap);
    }
    assert_int_equal(faults, 0);
}

/* With an argument: only the tests whose names match it (* and ?). */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
#define T(name) cmocka_unit_test_setup(name, setup)
#define P(name) cmocka_unit_test_setup_teardown(name, make_place, remove_place)
    static const struct CMUnitTest tests[] = {
        P(cgroup_v2_takes_the_least_on_the_way_up),
        P(cgroup_v1_is_found_among_the_others),
        P(cgroup_files_that_say_nothing),
        T(classes_agree_with_sizes),
        T(lists_rise_with_units),
        T(meta_classes_fit),
        T(budget_follows_its_model),
        T(budget_does_not_overflow),
        T(region_follows_its_model),
        T(page_map_knows_absurd_addresses),
        T(page_map_is_entered_and_cleared),
        T(guard_catches_every_flipped_bit),
        T(guard_catches_nine_bytes_too_many),
        T(ended_scope_leaves_no_words),
        T(chunks_survive_random_use),
    };
    return cmocka_run_group_tests_name("os", tests, NULL, NULL);
}
