/* Snapshots: all forms of one are read back and add up to the same, and to what was allocated. */
#include "reports.h"

#include <math.h>

enum { HEAPS = 6, SCOPES = 3, TAGS = 12, BLOCKS = 400, FORMATS = SAGEMEM_FORMAT_HTML + 1 };

static kept_report out;
static uint64_t seed;

static int setup(void **state) {
    (void)state;
    kept_free(&out);
    return 0;
}
static int clean(void **state) {
    (void)state;
    kept_free(&out);
    return 0;
}

static uint64_t next_random(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}
static void begin_random(void) {
    const char *text = getenv("SAGEMEM_SEED");
    seed = text ? strtoull(text, NULL, 0) : 0x9E3779B97F4A7C15u;
    print_message("SAGEMEM_SEED=0x%" PRIx64 "\n", seed);
}

static sagemem_snapshot *take(const sagemem_heap *heap) {
    sagemem_snapshot *s = sagemem_snapshot_take(heap);
    assert_non_null(s);
    return s;
}
static const char *report_of(const sagemem_snapshot *s, sagemem_format format) {
    sagemem_sink sink = kept_sink(&out);
    assert_int_equal(sagemem_snapshot_report(s, format, &sink), SAGEMEM_OK);
    assert_int_equal(out.closes, 1);
    return out.text ? out.text : "";
}
static const char *diff_of(const sagemem_snapshot *a, const sagemem_snapshot *b, sagemem_format format) {
    sagemem_sink sink = kept_sink(&out);
    assert_int_equal(sagemem_snapshot_diff(a, b, format, &sink), SAGEMEM_OK);
    return out.text ? out.text : "";
}
static sagemem_heap *heap_named(sagemem_heap *parent, const char *name, uint32_t flags) {
    sagemem_heap_desc desc = {0};
    desc.name = name;
    desc.parent = parent;
    desc.flags = flags;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    return heap;
}
static void *alloc(sagemem_heap *heap, size_t size, sagemem_tag tag) {
    void *block = sagemem_alloc(heap, size, tag);
    assert_non_null(block);
    return block;
}

/* "1.25 MiB", worked out with other means than the library's. */
static void words_of(char text[32], uint64_t bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 1024) {
        value /= 1024;
        unit++;
    }
    int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    double power = decimals == 2 ? 100 : decimals == 1 ? 10 : 1;
    snprintf(text, 32, "%.*f %s", decimals, floor(value * power + 0.5) / power, units[unit]);
}

/* All forms of a snapshot have this total. */
static void assert_total(const sagemem_snapshot *s, uint64_t used, uint64_t blocks, uint64_t total_blocks) {
    char words[32], line[128];
    const char *text = report_of(s, SAGEMEM_FORMAT_JSON);
    assert_int_equal(json_sum(text, "rows", "used"), used);
    assert_int_equal(json_sum(text, "rows", "blocks"), blocks);
    assert_int_equal(json_sum(text, "rows", "total_blocks"), total_blocks);
    assert_int_equal(json_sum(text, "tags", "used"), used);
    assert_int_equal(json_sum(text, "tags", "blocks"), blocks);
    assert_int_equal(json_sum(text, "tags", "total_blocks"), total_blocks);
    uint64_t peak = json_sum(text, "tags", "at_peak"), total_bytes = json_sum(text, "tags", "total_bytes");
    assert_int_equal(json_sum(text, "rows", "total_bytes"), total_bytes);
    text = report_of(s, SAGEMEM_FORMAT_CSV);
    assert_int_equal(csv_sum(text, "used", NULL, NULL), used);
    assert_int_equal(csv_sum(text, "blocks", NULL, NULL), blocks);
    assert_int_equal(csv_sum(text, "total_blocks", NULL, NULL), total_blocks);
    text = report_of(s, SAGEMEM_FORMAT_PROMETHEUS);
    assert_int_equal(metric_sum(text, "sagemem_used_bytes"), used);
    assert_int_equal(metric_sum(text, "sagemem_blocks"), blocks);
    assert_int_equal(metric_sum(text, "sagemem_allocated_blocks_total"), total_blocks);
    assert_int_equal(metric_sum(text, "sagemem_allocated_bytes_total"), total_bytes);
    assert_int_equal(metric_sum(text, "sagemem_heap_held_bytes"), metric_sum(text, "sagemem_held_bytes"));
    assert_int_equal(metric_sum(text, "sagemem_peak_bytes"), peak);
    assert_int_equal(folded_sum(report_of(s, SAGEMEM_FORMAT_FOLDED), "", 1, 0), used);
    text = report_of(s, SAGEMEM_FORMAT_HTML);
    assert_html(text);
    assert_int_equal(html_sum(text, "id=\"tags\"", "</table>", "data-used"), used);
    assert_int_equal(html_sum(text, "id=\"tags\"", "</table>", "data-blocks"), blocks);
    assert_int_equal(html_sum(text, "id=\"tags\"", "</table>", "data-at-peak"), peak);
    assert_int_equal(html_sum(text, "id=\"treemap\"", "</svg>", "data-bytes"), peak);
    assert_int_equal(html_sum(text, "id=\"where\"", "</table>", "data-used-total"), used);
    words_of(words, used);
    snprintf(line, sizeof line, "\n  %-30s %10s ", "total", words);
    text = report_of(s, SAGEMEM_FORMAT_TEXT);
    if (strstr(text, line) == NULL) fail_msg("'%s' is not in\n%s", line, text);
    snprintf(line, sizeof line, " used %s in %" PRIu64 " blocks", words, blocks);
    text = report_of(s, SAGEMEM_FORMAT_BRIEF);
    if (strstr(text, line) == NULL) fail_msg("'%s' is not in %s", line, text);
}

/* -- A program that allocates here and there, and somebody who keeps the books ---------------------------------- */

typedef struct booked {
    void *block;
    size_t size;
    int heap, depth, tag; /* depth 0: in no scope */
} booked;
static sagemem_heap *heaps[HEAPS];
static int depths[HEAPS];
static booked books[BLOCKS];
static uint64_t ever;
static sagemem_tag tags[TAGS];

static void step(void) {
    int heap = (int)(next_random() % HEAPS), what = (int)(next_random() % 100);
    booked *b = &books[next_random() % BLOCKS];
    if (what < 4 && depths[heap] < SCOPES) {
        assert_int_equal(sagemem_scope_begin(heaps[heap], "model", next_random() % 5), SAGEMEM_OK);
        depths[heap]++;
    } else if (what < 7 && depths[heap] > 0) {
        assert_int_equal(sagemem_scope_end(heaps[heap]), SAGEMEM_OK);
        for (int i = 0; i < BLOCKS; i++)
            if (books[i].block && books[i].heap == heap && books[i].depth == depths[heap]) books[i].block = NULL;
        depths[heap]--;
    } else if (b->block) {
        sagemem_free(b->block);
        b->block = NULL;
    } else {
        size_t most = next_random() % 20 == 0 ? 600000 : next_random() % 3 == 0 ? 20000 : 300;
        b->tag = (int)(next_random() % TAGS);
        b->heap = heap;
        b->depth = depths[heap];
        b->block = alloc(heaps[heap], next_random() % most, tags[b->tag]);
        b->size = sagemem_size(b->block);
        ever++;
    }
}

static void audit(void) {
    uint64_t used = 0, blocks = 0, of_heap[HEAPS] = {0}, in_scopes = 0, of_tag[TAGS] = {0};
    for (int i = 0; i < BLOCKS; i++) {
        if (!books[i].block) continue;
        used += books[i].size;
        blocks++;
        of_heap[books[i].heap] += books[i].size;
        of_tag[books[i].tag] += books[i].size;
        in_scopes += (uint64_t)books[i].depth * books[i].size; /* each scope around it has it */
    }
    sagemem_snapshot *s = take(heaps[0]);
    assert_total(s, used, blocks, ever);
    const char *text = report_of(s, SAGEMEM_FORMAT_CSV);
    for (int h = 0; h < HEAPS; h++) {
        char name[32];
        snprintf(name, sizeof name, "model %d", h);
        assert_int_equal(csv_sum(text, "used", name, NULL), of_heap[h]);
    }
    text = report_of(s, SAGEMEM_FORMAT_FOLDED);
    for (int t = 0; t < TAGS; t++) {
        char stack[32];
        snprintf(stack, sizeof stack, "Model%d;tag%d;", t % 3, t);
        assert_int_equal(folded_sum(text, stack, 1, 0), of_tag[t]);
    }
    text = report_of(s, SAGEMEM_FORMAT_JSON); /* outermost scopes have those inside of them */
    int open = 0;
    for (int h = 0; h < HEAPS; h++) open += depths[h];
    assert_int_equal(json_read(text, "scopes", "used").count, open);
    assert_int_equal(json_sum(text, "scopes", "used"), in_scopes);
    sagemem_snapshot_free(s);
}

static void all_forms_add_up_to_what_was_allocated(void **state) {
    (void)state;
    begin_random();
    static const uint32_t flags[HEAPS] = {0, 0, SAGEMEM_HEAP_CHECKED, SAGEMEM_HEAP_SYSTEM, SAGEMEM_HEAP_SHARED, SAGEMEM_HEAP_ZERO};
    static const int parents[HEAPS] = {-1, 0, 0, 1, 1, 3};
    for (int h = 0; h < HEAPS; h++) {
        char name[32];
        snprintf(name, sizeof name, "model %d", h);
        heaps[h] = heap_named(parents[h] < 0 ? NULL : heaps[parents[h]], name, flags[h]);
        depths[h] = 0;
    }
    for (int t = 0; t < TAGS; t++) {
        char name[32];
        snprintf(name, sizeof name, "Model%d/tag%d", t % 3, t);
        tags[t] = sagemem_tag_named(name);
    }
    memset(books, 0, sizeof books);
    ever = 0;
    int rounds = getenv("SAGEMEM_TEST_SLOW") || on_valgrind() || UNDER_ASAN ? 6 : 25;
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < 150; i++) step();
        audit();
    }
    for (int h = HEAPS; h-- > 0;) sagemem_heap_destroy(heaps[h]);
}

/* What an ended heap had allocated is its parent's, and of the process. */
static void rows_add_up_when_heaps_have_ended(void **state) {
    (void)state;
    sagemem_heap *top = heap_named(NULL, "outlives", 0), *low = heap_named(top, "ends", 0);
    for (int i = 0; i < 30; i++) alloc(low, 100, sagemem_tag_named("Ended/Blocks"));
    alloc(top, 100, 0);
    sagemem_heap_destroy(low);
    sagemem_snapshot *s = take(top);
    assert_total(s, sagemem_size(alloc(top, 100, 0)), 1, 31);
    sagemem_snapshot_free(s);
    sagemem_heap_destroy(top);
    sagemem_heap_stats stats;
    assert_int_equal(sagemem_heap_get_stats(NULL, &stats), SAGEMEM_OK);
    s = take(NULL);
    assert_total(s, stats.used, stats.blocks, stats.total_blocks);
    sagemem_snapshot_free(s);
}

/* What is written is what was, whatever has happened since. */
static void a_snapshot_stays_as_it_was(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named(NULL, "passing", 0);
    assert_int_equal(sagemem_scope_begin(heap, "passing scope", 3), SAGEMEM_OK);
    alloc(heap, 1000, sagemem_tag_named("Passing/Tag"));
    sagemem_snapshot *s = take(heap);
    kept_report first[FORMATS];
    memset(first, 0, sizeof first);
    for (int f = 0; f < FORMATS; f++) {
        sagemem_sink sink = kept_sink(&first[f]);
        assert_int_equal(sagemem_snapshot_report(s, (sagemem_format)f, &sink), SAGEMEM_OK);
    }
    sagemem_heap_destroy(heap);
    for (int f = 0; f < FORMATS; f++) {
        assert_string_equal(report_of(s, (sagemem_format)f), first[f].text);
        kept_free(&first[f]);
    }
    sagemem_snapshot_free(s);
}

/* What comes and goes between two looks is too little for one of its own: the peak is known because a snapshot looked. */
static void a_snapshot_is_a_look_at_the_peaks(void **state) {
    (void)state;
    enum { FEW = 10, SIZE = 1000 };
    sagemem_heap *heap = heap_named(NULL, "looked at", 0);
    for (int i = 0; i < 4096; i++) (void)alloc(heap, SIZE, 1);
    sagemem_heap_stats before, after;
    assert_int_equal(sagemem_heap_get_stats(heap, &before), SAGEMEM_OK);
    void *few[FEW];
    for (int i = 0; i < FEW; i++) few[i] = alloc(heap, SIZE, 2);
    sagemem_snapshot_free(take(heap));
    for (int i = 0; i < FEW; i++) sagemem_free(few[i]);
    assert_int_equal(sagemem_heap_get_stats(heap, &after), SAGEMEM_OK);
    assert_int_equal(after.used, before.used);
    assert_true(after.used_peak >= before.used + FEW * SIZE);
    sagemem_tag_stats tag;
    assert_int_equal(sagemem_tag_get_stats(heap, 2, &tag), SAGEMEM_OK);
    assert_int_equal(tag.peak_blocks, FEW);
    sagemem_heap_destroy(heap);
}

/* Pages of blocks of one size end in what is too small for another: it is overhead while the page is there, and no longer. */
static void ends_of_pages_are_overhead(void **state) {
    (void)state;
    enum { COUNT = 600, SIZE = 7000 };
    static void *blocks[COUNT];
    sagemem_heap *heap = heap_named(NULL, "ends", 0);
    sagemem_heap_stats s;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < COUNT; i++) blocks[i] = alloc(heap, SIZE, 3);
        assert_int_equal(sagemem_heap_get_stats(heap, &s), SAGEMEM_OK);
        assert_true(s.overhead > COUNT * 8); /* more than a word for each, were they not in such pages */
        assert_true(s.overhead + s.used <= s.held);
        if (round == 1) sagemem_heap_reset(heap);
        else
            for (int i = 0; i < COUNT; i++) sagemem_free(blocks[i]);
        sagemem_trim();
        assert_int_equal(sagemem_heap_get_stats(heap, &s), SAGEMEM_OK);
        assert_int_equal(s.overhead, 0);
    }
    sagemem_heap_destroy(heap);
}

static void thousands_of_tags_and_heaps(void **state) {
    (void)state;
    enum { MANY = 300, MORE = 70 };
    sagemem_heap *top = heap_named(NULL, "many", 0), *many[MORE];
    uint64_t used = 0;
    for (int h = 0; h < MORE; h++) {
        many[h] = heap_named(h % 4 == 0 ? top : many[h - 1], "one of many", 0);
        for (int t = h % 7; t < MANY; t += 7) {
            char name[32];
            snprintf(name, sizeof name, "Many%d/tag %d", t / 40, t);
            used += sagemem_size(alloc(many[h], 10 + (size_t)t, sagemem_tag_named(name)));
        }
    }
    for (int i = 0; i < 3; i++) { /* also when it is known how much room it takes */
        sagemem_snapshot *s = take(top);
        const char *text = report_of(s, SAGEMEM_FORMAT_CSV);
        assert_int_equal(csv_sum(text, "used", NULL, NULL), used);
        text = report_of(s, SAGEMEM_FORMAT_PROMETHEUS);
        if (i == 0) assert_int_equal(metric_sum(text, "sagemem_used_bytes"), used);
        assert_html(report_of(s, SAGEMEM_FORMAT_HTML));
        sagemem_snapshot_free(s);
    }
    sagemem_sink sink = kept_sink(&out);
    assert_int_equal(sagemem_report(top, SAGEMEM_FORMAT_CSV, &sink), SAGEMEM_OK); /* more than the desk has room for */
    assert_int_equal(csv_sum(out.text, "used", NULL, NULL), used);
    for (int h = MORE; h-- > 0;) sagemem_heap_destroy(many[h]);
    sagemem_heap_destroy(top);
}

static void any_name_is_quoted_in_every_form(void **state) {
    (void)state;
    static const char *const names[] = {
        "a;b c", "comma, \"quote\"",   "back\\slash\\", "line\nbreak\r\x01", "<b>&\"'</b>", "%s%n", "G;1/t;2 3", "\x7f{}",
        " ",     "</td></table></svg>"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        sagemem_heap *heap = heap_named(NULL, names[i], 0);
        assert_int_equal(sagemem_scope_begin(heap, names[i], 7), SAGEMEM_OK);
        uint64_t used = sagemem_size(alloc(heap, 5000, sagemem_tag_named(names[i])));
        sagemem_snapshot *s = take(heap);
        assert_total(s, used, 1, 1);
        assert_true(csv_sum(report_of(s, SAGEMEM_FORMAT_CSV), "used", strlen(names[i]) > 0 ? names[i] : NULL, NULL) ==
                    (long long)used);
        assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
        sagemem_snapshot *after = take(heap);
        assert_html(report_of(after, SAGEMEM_FORMAT_HTML)); /* with the scope on the line of time */
        csv_sum(diff_of(s, after, SAGEMEM_FORMAT_CSV), "used", NULL, NULL);
        folded_sum(diff_of(s, after, SAGEMEM_FORMAT_FOLDED), "", 2, 0);
        json_sum(diff_of(s, after, SAGEMEM_FORMAT_JSON), "rows", "used");
        sagemem_snapshot_free(after);
        sagemem_snapshot_free(s);
        sagemem_heap_destroy(heap);
    }
}

/* -- Scopes and files -------------------------------------------------------------------------------------------- */

static void the_worst_scope_is_marked(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named(NULL, "forests", 0);
    for (uint64_t i = 0; i < 1000; i++) {
        assert_int_equal(sagemem_scope_begin(heap, "forest", i), SAGEMEM_OK);
        alloc(heap, i == 637 ? 90000 : 1000 + (i * 7919) % 50000, 0);
        assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    }
    sagemem_snapshot *s = take(heap);
    const char *text = report_of(s, SAGEMEM_FORMAT_TEXT);
    const char *line = strstr(text, "<- worst");
    assert_non_null(line);
    assert_null(strstr(line + 1, "<- worst"));
    while (line[-1] != '\n') line--;
    assert_true(strncmp(line, "  forest 637 ", 13) == 0);
    assert_non_null(strstr(text, "(of 1000 that have ended)"));
    text = report_of(s, SAGEMEM_FORMAT_JSON);
    assert_int_equal(json_sum(text, "ended", "worst_of"), 1000); /* however few they have become */
    int slots = json_read(text, "ended", "id").count;
    assert_true(slots >= 32 && slots <= 64);
    text = report_of(s, SAGEMEM_FORMAT_HTML);
    const char *worst = strstr(text, "class=\"worst\"");
    assert_non_null(worst);
    assert_non_null(strstr(worst, "<title>forest 637:"));
    sagemem_snapshot_free(s);
    /* an open one may be worse */
    assert_int_equal(sagemem_scope_begin(heap, "open", 1), SAGEMEM_OK);
    alloc(heap, 200000, 0);
    s = take(heap);
    text = report_of(s, SAGEMEM_FORMAT_TEXT);
    line = strstr(text, "<- worst");
    assert_non_null(line);
    while (line[-1] != '\n') line--;
    assert_true(strncmp(line, "  open 1 ", 9) == 0);
    sagemem_snapshot_free(s);
    sagemem_heap_destroy(heap);
}

static void open_files_are_listed(void **state) {
    (void)state;
    char path[] = "/tmp/sagemem-file-XXXXXX", bytes[5000] = "x";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, bytes, sizeof bytes) == (ssize_t)sizeof bytes);
    sagemem_heap *heap = heap_named(NULL, "files", 0);
    sagemem_map_desc map_desc = {0};
    map_desc.path = path;
    map_desc.heap = heap;
    sagemem_map *map = sagemem_map_open(&map_desc);
    sagemem_reader_desc reader_desc = {0};
    reader_desc.fd_plus_one = fd + 1;
    reader_desc.heap = heap;
    reader_desc.no_mapping = true;
    reader_desc.buffer_bytes = 10000;
    sagemem_reader *reader = sagemem_reader_open(&reader_desc);
    sagemem_writer_desc writer_desc = {0};
    sagemem_sink nowhere = {kept_write, NULL, &out};
    writer_desc.sink = &nowhere;
    writer_desc.heap = heap;
    writer_desc.initial_bytes = 70000;
    assert_int_equal(sagemem_scope_begin(heap, "with a writer", 1), SAGEMEM_OK);
    sagemem_writer *writer = sagemem_writer_open(&writer_desc);
    assert_true(map && reader && writer);
    sagemem_snapshot *s = take(heap);
    const char *text = report_of(s, SAGEMEM_FORMAT_JSON);
    assert_int_equal(json_read(text, "files", "mapped").count, 3);
    assert_int_equal(json_sum(text, "files", "mapped"), 5000);
    assert_int_equal(json_sum(text, "files", "buffered"), 80000);
    assert_non_null(strstr(text, path));
    assert_non_null(
        strstr(text, "\"file\": \"the sink\", \"kind\": \"writer\", \"heap\": \"files\", \"scope\": \"with a writer\""));
    assert_non_null(strstr(text, "\"file\": \"the descriptor\", \"kind\": \"reader\""));
    assert_non_null(strstr(report_of(s, SAGEMEM_FORMAT_TEXT), path));
    text = report_of(s, SAGEMEM_FORMAT_HTML);
    assert_int_equal(html_sum(text, "id=\"files\"", "</table>", "data-mapped"), 5000);
    assert_int_equal(html_sum(text, "id=\"files\"", "</table>", "data-buffered"), 80000);
    sagemem_snapshot_free(s);
    assert_int_equal(sagemem_writer_close(writer), SAGEMEM_OK);
    assert_int_equal(sagemem_reader_close(reader), SAGEMEM_OK);
    assert_int_equal(sagemem_map_close(map), SAGEMEM_OK);
    s = take(heap);
    assert_int_equal(json_read(report_of(s, SAGEMEM_FORMAT_JSON), "files", "mapped").count, 0);
    sagemem_snapshot_free(s);
    sagemem_heap_destroy(heap);
    close(fd);
    unlink(path);
}

/* -- Differences --------------------------------------------------------------------------------------------------- */

static void what_a_forest_left_behind(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named(NULL, "forests", 0);
    sagemem_tag trees = sagemem_tag_named("Diff/Trees"), cooling = sagemem_tag_named("Diff/Cooling");
    void *freed = alloc(heap, 4000, trees);
    uint64_t freed_size = sagemem_size(freed);
    sagemem_snapshot *before = take(heap);
    assert_int_equal(sagemem_scope_begin(heap, "forest", 17), SAGEMEM_OK);
    alloc(heap, 3000, trees);
    sagemem_snapshot *during = take(heap);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    uint64_t left = sagemem_size(alloc(heap, 700, cooling));
    sagemem_free(freed);
    sagemem_snapshot *after = take(heap);

    const char *text = diff_of(before, after, SAGEMEM_FORMAT_JSON);
    json_reader r = json_read(text, "rows", "used");
    assert_int_equal(r.count, 2);
    assert_true(r.sum == (long long)left - (long long)freed_size);
    assert_true(json_read(text, "rows", "blocks").sum == 0);
    assert_non_null(strstr(text, "\"schema\": \"sagemem-diff-1\""));
    text = diff_of(before, after, SAGEMEM_FORMAT_CSV);
    int rows = 0;
    assert_true(csv_sum(text, "used", "forests", &rows) == (long long)left - (long long)freed_size);
    assert_int_equal(rows, 2);
    text = diff_of(before, after, SAGEMEM_FORMAT_FOLDED);
    assert_int_equal(folded_sum(text, "Diff;Trees;forests", 2, 0), freed_size);
    assert_int_equal(folded_sum(text, "Diff;Trees;forests", 2, 1), 0);
    assert_int_equal(folded_sum(text, "Diff;Cooling;forests", 2, 1), left);
    text = diff_of(before, after, SAGEMEM_FORMAT_TEXT);
    assert_non_null(strstr(text, "Diff/Cooling"));
    assert_non_null(strstr(text, " -3.9"));
    assert_null(strstr(text, "forest 17"));
    /* the scope comes and goes */
    text = diff_of(before, during, SAGEMEM_FORMAT_CSV);
    assert_non_null(strstr(text, "forests,forest 17,Diff/Trees,3"));
    assert_true(csv_sum(text, "blocks", NULL, &rows) == 1);
    assert_int_equal(rows, 1);
    text = diff_of(during, after, SAGEMEM_FORMAT_CSV);
    assert_non_null(strstr(text, "forests,forest 17,Diff/Trees,-3"));
    /* nothing: no row */
    text = diff_of(after, after, SAGEMEM_FORMAT_CSV);
    assert_string_equal(text, "heap,scope,tag,used,blocks\n");
    assert_non_null(strstr(diff_of(before, after, SAGEMEM_FORMAT_BRIEF), "blocks +0"));
    sagemem_snapshot_free(before);
    sagemem_snapshot_free(during);
    sagemem_snapshot_free(after);
    sagemem_heap_destroy(heap);
}

static void two_scopes_of_one_name_are_two(void **state) {
    (void)state;
    sagemem_heap *heap = heap_named(NULL, "twins", 0);
    sagemem_snapshot *s[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(sagemem_scope_begin(heap, "forest", 1), SAGEMEM_OK);
        alloc(heap, 3000, 1);
        s[i] = take(heap);
        assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    }
    int rows = 0;
    assert_true(csv_sum(diff_of(s[0], s[1], SAGEMEM_FORMAT_CSV), "used", NULL, &rows) == 0);
    assert_int_equal(rows, 2); /* one went, one came */
    sagemem_snapshot_free(s[0]);
    sagemem_snapshot_free(s[1]);
    sagemem_heap_destroy(heap);
}

/* -- Errors --------------------------------------------------------------------------------------------------------- */

static sagemem_error heard;
static int faults;
static void hear(void *ctx, sagemem_fault_kind kind, const sagemem_error *error) {
    (void)ctx;
    assert_int_equal(kind, SAGEMEM_MISUSE);
    heard = *error;
    faults++;
}

static void wrong_arguments_are_refused(void **state) {
    (void)state;
    sagemem_heap *one = heap_named(NULL, "one", 0), *two = heap_named(NULL, "two", 0);
    sagemem_snapshot *a = take(one), *b = take(two);
    sagemem_sink sink = kept_sink(&out), none = {NULL, NULL, NULL};
    assert_int_equal(sagemem_snapshot_report(a, (sagemem_format)7, &sink), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_snapshot_report(a, (sagemem_format)-1, &sink), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_snapshot_report(a, SAGEMEM_FORMAT_TEXT, NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_snapshot_report(a, SAGEMEM_FORMAT_TEXT, &none), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_snapshot_diff(a, b, SAGEMEM_FORMAT_TEXT, &sink), SAGEMEM_E_ARGUMENT);
    assert_non_null(strstr(sagemem_last_error()->message, "'one' and of 'two'"));
    assert_int_equal(sagemem_snapshot_diff(a, a, SAGEMEM_FORMAT_HTML, &sink), SAGEMEM_E_UNSUPPORTED);
    assert_int_equal(sagemem_snapshot_diff(a, a, SAGEMEM_FORMAT_PROMETHEUS, &sink), SAGEMEM_E_UNSUPPORTED);
    assert_int_equal(sagemem_snapshot_diff(a, a, (sagemem_format)99, &sink), SAGEMEM_E_ARGUMENT);
    assert_int_equal(sagemem_snapshot_diff(a, a, SAGEMEM_FORMAT_TEXT, NULL), SAGEMEM_E_ARGUMENT);
    assert_int_equal(out.writes, 0);
    assert_int_equal(sagemem_leaks(one, &none), 0);

    sagemem_set_fault_handler(hear, NULL);
    int local = 0;
    assert_int_equal(sagemem_snapshot_report((const sagemem_snapshot *)(const void *)&local, SAGEMEM_FORMAT_TEXT, &sink),
                     SAGEMEM_E_FOREIGN);
    assert_int_equal(sagemem_snapshot_report(NULL, SAGEMEM_FORMAT_TEXT, &sink), SAGEMEM_E_FOREIGN);
    assert_int_equal(sagemem_snapshot_diff(a, NULL, SAGEMEM_FORMAT_TEXT, &sink), SAGEMEM_E_FOREIGN);
    sagemem_snapshot_free((sagemem_snapshot *)(void *)one);
    assert_int_equal(faults, 4);
    sagemem_snapshot_free(a);
    sagemem_snapshot_free(a);
    assert_int_equal(faults, 5);
    assert_int_equal(heard.status, SAGEMEM_E_STALE);
    sagemem_snapshot_free(NULL);
    sagemem_heap_destroy(one);
    assert_null(sagemem_snapshot_take(one));
    assert_int_equal(heard.status, SAGEMEM_E_STALE);
    assert_int_equal(sagemem_leaks(one, NULL), 0);
    sagemem_set_fault_handler(NULL, NULL);
    sagemem_snapshot_free(b);
    sagemem_heap_destroy(two);
}

/* A sink may use the library: also report, and end what is being reported. */
static kept_report inner;
static sagemem_heap *victim;
static void use_the_library(kept_report *report) {
    (void)report;
    sagemem_sink sink = kept_sink(&inner);
    void *block = alloc(NULL, 100000, sagemem_tag_named("Sink/Inside"));
    assert_int_equal(sagemem_report(NULL, SAGEMEM_FORMAT_JSON, &sink), SAGEMEM_OK);
    assert_non_null(strstr(inner.text, "Sink/Inside"));
    sagemem_free(block);
    if (victim) sagemem_heap_destroy(victim);
    victim = NULL;
    sagemem_snapshot_free(take(NULL));
}
static void a_sink_may_use_the_library(void **state) {
    (void)state;
    for (int f = 0; f < FORMATS; f++) {
        victim = heap_named(NULL, "victim", 0);
        alloc(victim, 1000, 1);
        sagemem_sink sink = kept_sink(&out);
        out.during_fn = use_the_library;
        assert_int_equal(sagemem_report(victim, (sagemem_format)f, &sink), SAGEMEM_OK);
        assert_true(out.size > 0);
        assert_null(victim);
    }
    kept_free(&inner);
}

static sagemem_status discard(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)ctx, (void)data, (void)size, (void)offset;
    return SAGEMEM_OK;
}
static sagemem_status life_cycle(void *ctx) {
    sagemem_sink sink = {discard, NULL, NULL};
    sagemem_snapshot *a = sagemem_snapshot_take(ctx), *b = a ? sagemem_snapshot_take(ctx) : NULL;
    sagemem_status status = b ? SAGEMEM_OK : sagemem_last_error()->status;
    for (int f = 0; b && f < FORMATS && status == SAGEMEM_OK; f++) {
        status = sagemem_report(ctx, (sagemem_format)f, &sink);
        if (status == SAGEMEM_OK) status = sagemem_snapshot_report(b, (sagemem_format)f, &sink);
        if (status == SAGEMEM_OK && f != SAGEMEM_FORMAT_HTML && f != SAGEMEM_FORMAT_PROMETHEUS)
            status = sagemem_snapshot_diff(a, b, (sagemem_format)f, &sink);
    }
    sagemem_snapshot_free(a);
    sagemem_snapshot_free(b);
    return status;
}
static void every_failure_leaves_all_as_it_was(void **state) {
    (void)state;
    uint64_t points = 0;
    sagemem_heap *heap = heap_named(NULL, "failing", 0);
    alloc(heap, 100, 1);
    assert_int_equal(sagemem_check_failures(life_cycle, heap, &points), SAGEMEM_OK);
    assert_true(points >= 2);
    assert_int_equal(sagemem_check_failures(life_cycle, NULL, &points), SAGEMEM_OK);
    sagemem_heap_destroy(heap);
}

/* A report works when nothing more can be had; a snapshot says so, and works when it can. */
static void at_the_limit(void **state) {
    (void)state;
    sagemem_heap_stats stats;
    sagemem_snapshot *kept[4096] = {0};
    int taken = 0;
    void *block = alloc(NULL, 1000, sagemem_tag_named("Limit/Block"));
    assert_int_equal(sagemem_heap_get_stats(NULL, &stats), SAGEMEM_OK);
    assert_int_equal(sagemem_limit_set(NULL, stats.held), SAGEMEM_OK);
    while (taken < 4096 && (kept[taken] = sagemem_snapshot_take(NULL)) != NULL) taken++;
    assert_true(taken < 4096);
    assert_int_equal(sagemem_last_error()->status, SAGEMEM_E_LIMIT);
    sagemem_sink sink = kept_sink(&out);
    assert_int_equal(sagemem_report(NULL, SAGEMEM_FORMAT_TEXT, &sink), SAGEMEM_OK);
    assert_non_null(strstr(out.text, "limit "));
    assert_int_equal(sagemem_limit_set(NULL, 0), SAGEMEM_OK);
    sagemem_snapshot_free(take(NULL));
    while (taken > 0) sagemem_snapshot_free(kept[--taken]);
    sagemem_heap_stats after;
    assert_int_equal(sagemem_heap_get_stats(NULL, &after), SAGEMEM_OK);
    assert_int_equal(after.used, stats.used);
    sagemem_free(block);
}

/* With an argument: only the tests whose names match it (* and ?). */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
#define T(name) cmocka_unit_test_setup_teardown(name, setup, clean)
    static const struct CMUnitTest tests[] = {
        T(at_the_limit), /* while there is little to report */
        T(all_forms_add_up_to_what_was_allocated),
        T(rows_add_up_when_heaps_have_ended),
        T(a_snapshot_stays_as_it_was),
        T(a_snapshot_is_a_look_at_the_peaks),
        T(ends_of_pages_are_overhead),
        T(thousands_of_tags_and_heaps),
        T(any_name_is_quoted_in_every_form),
        T(the_worst_scope_is_marked),
        T(open_files_are_listed),
        T(what_a_forest_left_behind),
        T(two_scopes_of_one_name_are_two),
        T(wrong_arguments_are_refused),
        T(a_sink_may_use_the_library),
        T(every_failure_leaves_all_as_it_was),
    };
    return cmocka_run_group_tests_name("public_snapshot", tests, NULL, NULL);
}
