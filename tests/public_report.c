/* Reports through the public interface; the JSON is read by python3 where there is one, else by a small checker. */
#include "public.h"

static char place[64];
static bool have_python;
static FILE *script; /* what python is to look at when the test ends: one start of it is slow enough */
static int reports;

static int make_place(void **state) {
    (void)state;
    strcpy(place, "/tmp/sagemem-XXXXXX");
    have_python = system("python3 -c 'import json' 2>/dev/null") == 0;
    if (!have_python) print_message("no python3 here: the JSON is only looked over\n");
    return mkdtemp(place) == NULL;
}
static int remove_place(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", place);
    return system(command);
}
static const char *in_place(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", place, name);
    return path;
}

/* -- A sink that keeps what it is given ------------------------------------------------------------------- */

typedef struct kept {
    char text[1 << 18];
    size_t size;
    int writes, closes;
    int fail_at;               /* this write fails [none] */
    sagemem_status close_with; /* [OK] */
    bool gap;                  /* the offsets did not follow each other */
} kept;
static kept out;

static sagemem_status keep_text(void *ctx, const void *data, size_t size, uint64_t offset) {
    kept *k = ctx;
    if (++k->writes == k->fail_at) return SAGEMEM_E_FULL;
    k->gap |= offset != k->size;
    if (size > sizeof k->text - 1 - k->size) return SAGEMEM_E_TOO_BIG;
    memcpy(k->text + k->size, data, size);
    k->size += size;
    return SAGEMEM_OK;
}
static sagemem_status close_text(void *ctx) {
    kept *k = ctx;
    k->closes++;
    return k->close_with;
}

static int setup(void **state) {
    (void)state;
    memset(&out, 0, sizeof out);
    if (script != NULL) fclose(script); /* of a test that failed */
    script = NULL;
    return 0;
}

static const char *report(const sagemem_heap *heap, sagemem_format format) {
    memset(&out, 0, sizeof out);
    sagemem_sink sink = {keep_text, close_text, &out};
    assert_int_equal(sagemem_report(heap, format, &sink), SAGEMEM_OK);
    assert_int_equal(out.closes, 1);
    assert_false(out.gap);
    assert_true(out.size > 0);
    return out.text;
}

static void assert_failed(sagemem_status got, sagemem_status status, const char *remedy) {
    const sagemem_error *error = sagemem_last_error();
    assert_int_equal(got, status);
    assert_int_equal(error->status, status);
    if (strstr(error->message, remedy) == NULL) fail_msg("'%s' does not say '%s'", error->message, remedy);
}

static sagemem_heap_stats stats_of(const sagemem_heap *heap) {
    sagemem_heap_stats s;
    assert_int_equal(sagemem_heap_get_stats(heap, &s), SAGEMEM_OK);
    return s;
}

static sagemem_heap *heap_below(sagemem_heap *parent, const char *name) {
    sagemem_heap_desc desc = {0};
    desc.name = name;
    desc.parent = parent;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    assert_non_null(heap);
    return heap;
}

/* -- JSON, read by somebody else -------------------------------------------------------------------------- */

/* An expression over the last report, as `r`, and what str() of it must be. */
static void assert_python(const char *expression, const char *expected) {
    if (!have_python) return;
    if (script == NULL) {
        script = fopen(in_place("ask.py"), "w");
        assert_non_null(script);
        fprintf(script, "import json, sys\nwrong = 0\n");
    }
    if (out.size > 0) { /* not asked about yet */
        char name[32];
        snprintf(name, sizeof name, "report%d", reports++);
        FILE *file = fopen(in_place(name), "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(out.text, 1, out.size, file), out.size);
        fclose(file);
        fprintf(script, "r = json.loads(open('%s', 'rb').read().decode('utf-8'))\n", in_place(name));
        out.size = 0;
    }
    fprintf(script, "a = str(%s)\nif a != \"%s\":\n    wrong = 1\n    print(\"\"\"%s: \"\"\" + a + \"\"\", not %s\"\"\")\n",
            expression, expected, expression, expected);
}
static void assert_python_number(const char *expression, uint64_t expected) {
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64, expected);
    assert_python(expression, text);
}
/* At the end of a test: python is asked, and must agree with all of it. */
static void assert_python_agrees(void) {
    if (script == NULL) return;
    fprintf(script, "sys.exit(wrong)\n");
    fclose(script);
    script = NULL;
    char command[256], answer[4096];
    snprintf(command, sizeof command, "python3 -I -S '%s' 2>&1", in_place("ask.py"));
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    answer[fread(answer, 1, sizeof answer - 1, pipe)] = '\0';
    if (pclose(pipe) != 0) fail_msg("python3 does not agree: %s", answer);
}

/* The checker for where there is no python: one value; NULL: it is none. */
static const char *skip_value(const char *at);
static const char *skip_space(const char *at) { return at + strspn(at, " \n\r\t"); }
static const char *skip_string(const char *at) {
    if (*at++ != '"') return NULL;
    for (; *at != '"'; at++) {
        if ((unsigned char)*at < 0x20) return NULL;
        if (*at != '\\') continue;
        at++;
        if (*at == 'u') {
            if (strspn(at + 1, "0123456789abcdefABCDEF") < 4) return NULL;
            at += 4;
        } else if (*at == '\0' || strchr("\"\\/bfnrt", *at) == NULL) {
            return NULL;
        }
    }
    return at + 1;
}
static const char *skip_members(const char *at, bool named, char end) {
    at = skip_space(at + 1);
    if (*at == end) return at + 1;
    for (;;) {
        if (named) {
            at = skip_string(at);
            if (at == NULL || *(at = skip_space(at)) != ':') return NULL;
            at = skip_space(at + 1);
        }
        at = skip_value(at);
        if (at == NULL) return NULL;
        at = skip_space(at);
        if (*at == end) return at + 1;
        if (*at != ',') return NULL;
        at = skip_space(at + 1);
    }
}
static const char *skip_value(const char *at) {
    if (*at == '{') return skip_members(at, true, '}');
    if (*at == '[') return skip_members(at, false, ']');
    if (*at == '"') return skip_string(at);
    size_t digits = strspn(at, "0123456789");
    return digits > 0 ? at + digits : NULL;
}
static void assert_json(const char *text) {
    const char *end = skip_value(text);
    assert_non_null(end);
    assert_string_equal(end, "\n");
}

static void json_adds_up_to_the_statistics(void **state) {
    (void)state;
    sagemem_heap *top = heap_below(NULL, "json top"), *low = heap_below(top, "json low");
    sagemem_tag trees = sagemem_tag_named("Json/Trees"), halos = sagemem_tag_named("Json/Halos");
    for (int i = 0; i < 1000; i++) {
        assert_non_null(sagemem_alloc(top, (size_t)i * 3, trees));
        void *gone = sagemem_alloc(low, (size_t)i * 7, halos);
        if (i % 3 == 0) sagemem_free(gone);
    }
    assert_non_null(sagemem_alloc(low, MIB, 0));
    assert_int_equal(sagemem_scope_begin(top, "json scope", 99), SAGEMEM_OK);
    assert_non_null(sagemem_alloc(top, 12345, trees));
    assert_int_equal(sagemem_limit_set(top, 512 * MIB), SAGEMEM_OK);
    assert_json(report(top, SAGEMEM_FORMAT_JSON));
    sagemem_heap_stats s = stats_of(top), l = stats_of(low);
    sagemem_tag_stats t;
    assert_int_equal(sagemem_tag_get_stats(top, trees, &t), SAGEMEM_OK);
    uint64_t at_peak = 0;
    sagemem_peak_get_stats(top, trees, &at_peak);
    assert_python("r['schema']", "sagemem-report-1");
    assert_python("r['heap']['name']", "json top");
    assert_python_number("r['heap']['used']", s.used);
    assert_python_number("r['heap']['peak']", s.used_peak);
    assert_python_number("r['heap']['held']", s.held);
    assert_python_number("r['heap']['held_peak']", s.held_peak);
    assert_python_number("r['heap']['blocks']", s.blocks);
    assert_python_number("r['heap']['total_blocks']", s.total_blocks);
    assert_python_number("r['heap']['overhead']", s.overhead);
    assert_python_number("r['heap']['reserved']", s.reserved);
    assert_python_number("r['heap']['limit']", 512 * MIB);
    assert_python_number("sum(t['used'] for t in r['tags'])", s.used);
    assert_python_number("sum(t['blocks'] for t in r['tags'])", s.blocks);
    assert_python_number("sum(t['total_blocks'] for t in r['tags'])", s.total_blocks);
    assert_python_number("sum(t['at_peak'] for t in r['tags'])", s.used_peak);
    assert_python_number("[t for t in r['tags'] if t['tag'] == 'Json/Trees'][0]['used']", t.used);
    assert_python_number("[t for t in r['tags'] if t['tag'] == 'Json/Trees'][0]['total_bytes']", t.total_bytes);
    assert_python_number("[t for t in r['tags'] if t['tag'] == 'Json/Trees'][0]['at_peak']", at_peak);
    assert_python("','.join(t['tag'] for t in r['tags'])", "untagged,Json/Trees,Json/Halos");
    assert_python("','.join(h['heap'] + '<' + h['parent'] for h in r['heaps'])", "json low<json top");
    assert_python_number("r['heaps'][0]['used']", l.used);
    assert_python_number("r['heaps'][0]['held']", l.held);
    assert_python("[(x['scope'], x['id'], x['heap'], x['used'] > 12344) for x in r['scopes']]",
                  "[('json scope', 99, 'json top', True)]");

    /* the process: heaps side by side add up, heaps below are in those above */
    assert_json(report(NULL, SAGEMEM_FORMAT_JSON));
    s = stats_of(NULL);
    assert_python_number("r['process']['used']", s.used);
    assert_python_number("sum(t['used'] for t in r['tags'])", s.used);
    assert_python_number("sum(h['used'] for h in r['heaps'] if h['parent'] == 'process')", s.used);
    assert_python("r['process']['resident'] > 0", "True");
    assert_python_agrees();
    sagemem_heap_destroy(low);
    sagemem_heap_destroy(top);
}

static void json_carries_any_name(void **state) {
    (void)state;
    static const char *const names[] = {"quote \" and \\ backslash",
                                        "line\nbreak\r\ttab",
                                        "\x01\x02\x1f control",
                                        "slash/in/it",
                                        "{\"json\": [1, 2]}",
                                        "\xC3\xA4\xE2\x82\xAC",
                                        "%s%n%d",
                                        "\x7f",
                                        "/",
                                        "a/",
                                        "</script>"};
    sagemem_heap *heap = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        heap = heap_below(NULL, names[i]);
        assert_non_null(sagemem_alloc(heap, 100, sagemem_tag_named(names[i])));
        assert_int_equal(sagemem_scope_begin(heap, names[i], UINT64_MAX), SAGEMEM_OK);
        assert_json(report(heap, SAGEMEM_FORMAT_JSON));
        char file_name[32], expression[256];
        snprintf(file_name, sizeof file_name, "name%zu", i);
        FILE *file = fopen(in_place(file_name), "wb");
        fputs(names[i], file);
        fclose(file);
        snprintf(expression, sizeof expression,
                 "[n == open('%s', 'rb').read().decode('utf-8') for n in (r['heap']['name'], r['tags'][0]['tag'], "
                 "r['scopes'][0]['scope'])]",
                 in_place(file_name));
        assert_python(expression, "[True, True, True]");
        assert_python_number("r['scopes'][0]['id']", UINT64_MAX);
        /* the others must not trip over it either */
        report(heap, SAGEMEM_FORMAT_TEXT);
        report(heap, SAGEMEM_FORMAT_BRIEF);
        sagemem_heap_destroy(heap);
    }
    assert_python_agrees();
}

/* Names are cut at 63 bytes: never inside a character, or the report is no UTF-8 any more. */
static void json_is_utf8_when_a_name_is_cut(void **state) {
    (void)state;
    for (size_t lead = 59; lead < 63; lead++) {
        char name[80];
        memset(name, 'n', lead);
        strcpy(name + lead, "\xE2\x82\xAC\xE2\x82\xAC\xC3\xA4");
        sagemem_heap *heap = heap_below(NULL, name);
        assert_non_null(sagemem_alloc(heap, 100, sagemem_tag_named(name)));
        report(heap, SAGEMEM_FORMAT_JSON);
        assert_python("r['heap']['name'][:59]", "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn");
        sagemem_heap_destroy(heap);
    }
    assert_python_agrees();
}

static void json_of_nothing(void **state) {
    (void)state;
    sagemem_heap *heap = heap_below(NULL, "nothing");
    assert_json(report(heap, SAGEMEM_FORMAT_JSON));
    assert_python("(r['tags'], r['heaps'], r['scopes'], r['heap']['used'])", "([], [], [], 0)");
    assert_python_agrees();
    sagemem_heap_destroy(heap);
}

/* python3 tests/schema.py, where it is; it must also find what is wrong. */
static int against_schema(const char *schema, const char *text) {
    char command[512];
    FILE *file = fopen(in_place("against.json"), "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    snprintf(command, sizeof command, "python3 -I -S tests/schema.py tests/data/%s '%s' >'%s/wrong' 2>&1", schema,
             in_place("against.json"), place);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void json_is_as_the_schema_says(void **state) {
    (void)state;
    if (!have_python || access("tests/schema.py", R_OK) != 0) skip();
    sagemem_heap_desc desc = {0};
    desc.name = "with all";
    desc.flags = SAGEMEM_HEAP_SITES;
    sagemem_heap *heap = sagemem_heap_create(&desc), *low = heap_below(heap, "below");
    assert_int_equal(sagemem_scope_begin(heap, "ended", 1), SAGEMEM_OK);
    assert_int_equal(sagemem_scope_end(heap), SAGEMEM_OK);
    sagemem_snapshot *before = sagemem_snapshot_take(heap);
    assert_int_equal(sagemem_scope_begin(heap, "open", 2), SAGEMEM_OK);
    assert_non_null(sagemem_alloc_at(heap, 100, 1, "there.c", 7));
    sagemem_writer_desc writer = {0};
    char path[128];
    snprintf(path, sizeof path, "%s/written", place);
    writer.path = path;
    writer.heap = heap;
    assert_non_null(sagemem_writer_open(&writer));
    const char *text = report(heap, SAGEMEM_FORMAT_JSON);
    static const char *const lists[] = {"tags", "heaps", "scopes", "ended", "rows", "files", "sites"};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) { /* the schema is asked about each of them */
        char begin[32];
        snprintf(begin, sizeof begin, "\"%s\": [\n", lists[i]);
        assert_non_null(strstr(text, begin));
    }
    assert_int_equal(against_schema("report-1.schema.json", text), 0);
    char *wrong = strstr(out.text, "\"at_peak\"");
    assert_non_null(wrong);
    wrong[1] = 'A';
    assert_int_equal(against_schema("report-1.schema.json", text), 1);
    assert_int_equal(against_schema("report-1.schema.json", report(NULL, SAGEMEM_FORMAT_JSON)), 0);
    snprintf(path, sizeof path, "%s/traced", place);
    sagemem_trace_desc trace = {path, SAGEMEM_TRACE_BINARY, 0};
    assert_int_equal(sagemem_trace_begin(&trace), SAGEMEM_OK);
    text = report(NULL, SAGEMEM_FORMAT_JSON);
    assert_non_null(strstr(text, "\"trace\": {"));
    assert_int_equal(against_schema("report-1.schema.json", text), 0);
    assert_int_equal(sagemem_trace_end(), SAGEMEM_OK);
    assert_int_equal(unlink(path), 0);
    sagemem_snapshot *after = sagemem_snapshot_take(heap);
    memset(&out, 0, sizeof out);
    sagemem_sink sink = {keep_text, NULL, &out};
    assert_int_equal(sagemem_snapshot_diff(before, after, SAGEMEM_FORMAT_JSON, &sink), SAGEMEM_OK);
    assert_non_null(strstr(out.text, "there.c"));
    assert_int_equal(against_schema("diff-1.schema.json", out.text), 0);
    assert_int_equal(against_schema("report-1.schema.json", out.text), 1);
    sagemem_snapshot_free(before);
    sagemem_snapshot_free(after);
    sagemem_heap_destroy(low);
    sagemem_heap_destroy(heap);
}

static void json_with_many_heaps_and_scopes(void **state) {
    (void)state;
    enum { HEAPS = 60, SCOPES = 40 };
    sagemem_heap *top = heap_below(NULL, "many"), *heaps[HEAPS];
    for (int i = 0; i < HEAPS; i++) {
        heaps[i] = heap_below(i % 3 == 0 ? top : heaps[i - 1], "one of many heaps with a rather long name");
        assert_non_null(sagemem_alloc(heaps[i], 1000, (sagemem_tag)(i + 1)));
    }
    for (uint64_t i = 0; i < SCOPES; i++) assert_int_equal(sagemem_scope_begin(top, "one of many scopes", i), SAGEMEM_OK);
    assert_json(report(top, SAGEMEM_FORMAT_JSON));
    assert_true(out.writes > 1); /* in pieces */
    assert_python("(len(r['heaps']), len(r['scopes']), len(r['tags']))", "(60, 40, 60)");
    assert_python("[s['id'] for s in r['scopes']] == list(range(40))", "True");
    assert_python_agrees();
    for (int i = HEAPS; i-- > 0;) sagemem_heap_destroy(heaps[i]);
    sagemem_heap_destroy(top);
}

/* -- Text ----------------------------------------------------------------------------------------------- */

static void text_names_tags_groups_and_heaps(void **state) {
    (void)state;
    sagemem_heap *top = heap_below(NULL, "text top"), *low = heap_below(top, "text low");
    assert_non_null(sagemem_alloc(top, 1000, sagemem_tag_named("Physics/Cooling")));
    assert_non_null(sagemem_alloc(top, 2000, sagemem_tag_named("Physics/Feedback")));
    assert_non_null(sagemem_alloc(low, 2 * MIB, sagemem_tag_named("Alone")));
    assert_non_null(sagemem_alloc(low, 50, 0));
    static const char *const parts[] = {"heap 'text top'",
                                        "\nPhysics\n",
                                        "  Cooling ",
                                        "  Feedback ",
                                        "subtotal",
                                        "  Alone ",
                                        "untagged",
                                        "2.00 MiB",
                                        "text low",
                                        "total",
                                        "give their allocations a tag"};
    const char *text = report(top, SAGEMEM_FORMAT_TEXT);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (strstr(text, parts[i]) == NULL) fail_msg("'%s' is not in\n%s", parts[i], text);
    /* a group is told once, even if its tags lie apart */
    const char *first = strstr(text, "\nPhysics\n");
    assert_null(strstr(first + 1, "\nPhysics\n"));
    assert_int_equal(text[out.size - 1], '\n');
    sagemem_heap_destroy(low);
    sagemem_heap_destroy(top);
}

static void brief_is_one_line(void **state) {
    (void)state;
    sagemem_heap *heap = heap_below(NULL, "short");
    report(heap, SAGEMEM_FORMAT_BRIEF);
    assert_ptr_equal(strchr(out.text, '\n'), out.text + out.size - 1);
    assert_non_null(sagemem_alloc(heap, 100, sagemem_tag_named("Brief/Less")));
    assert_non_null(sagemem_alloc(heap, 3 * MIB, sagemem_tag_named("Brief/Most")));
    const char *text = report(heap, SAGEMEM_FORMAT_BRIEF);
    assert_ptr_equal(strchr(text, '\n'), text + out.size - 1);
    assert_non_null(strstr(text, "short"));
    assert_non_null(strstr(text, "most at peak: Brief/Most 3.00 MiB"));
    sagemem_heap_destroy(heap);
}

/* -- Failures ------------------------------------------------------------------------------------------- */

static void sink_that_fails_is_reported(void **state) {
    (void)state;
    sagemem_heap *heap = heap_below(NULL, "failing"), *heaps[40];
    for (int i = 0; i < 40; i++) {
        heaps[i] = heap_below(heap, "makes it long");
        assert_non_null(sagemem_alloc(heaps[i], 100, (sagemem_tag)(i + 1)));
    }
    static const sagemem_format formats[] = {SAGEMEM_FORMAT_TEXT, SAGEMEM_FORMAT_JSON, SAGEMEM_FORMAT_HTML};
    sagemem_sink sink = {keep_text, close_text, &out};
    for (int f = 0; f < 3; f++) {
        report(heap, formats[f]);
        int writes = out.writes;
        assert_true(writes >= 2);
        for (int at = 1; at <= writes; at++) {
            memset(&out, 0, sizeof out);
            out.fail_at = at;
            assert_int_equal(sagemem_report(heap, formats[f], &sink), SAGEMEM_E_FULL);
            assert_int_equal(out.writes, at); /* nothing is written after it */
            assert_int_equal(out.closes, 1);  /* but it is closed */
        }
    }
    memset(&out, 0, sizeof out);
    out.close_with = SAGEMEM_E_IO;
    assert_int_equal(sagemem_report(heap, SAGEMEM_FORMAT_BRIEF, &sink), SAGEMEM_E_IO);
    sink.close_fn = NULL;
    memset(&out, 0, sizeof out);
    assert_int_equal(sagemem_report(heap, SAGEMEM_FORMAT_BRIEF, &sink), SAGEMEM_OK);
    for (int i = 0; i < 40; i++) sagemem_heap_destroy(heaps[i]);
    sagemem_heap_destroy(heap);
}

static void report_refuses_bad_arguments(void **state) {
    (void)state;
    sagemem_sink sink = {keep_text, NULL, &out};
    assert_failed(sagemem_report(NULL, SAGEMEM_FORMAT_TEXT, NULL), SAGEMEM_E_ARGUMENT, "needs a sink");
    sink.write_fn = NULL;
    assert_failed(sagemem_report(NULL, SAGEMEM_FORMAT_TEXT, &sink), SAGEMEM_E_ARGUMENT, "write_fn");
    sink.write_fn = keep_text;
    assert_failed(sagemem_report(NULL, (sagemem_format)17, &sink), SAGEMEM_E_ARGUMENT, "use SAGEMEM_FORMAT_TEXT");
    assert_failed(sagemem_report(NULL, (sagemem_format)-1, &sink), SAGEMEM_E_ARGUMENT, "use SAGEMEM_FORMAT_TEXT");
    assert_int_equal(out.writes, 0);
    assert_failed(sagemem_report_file(NULL, SAGEMEM_FORMAT_TEXT, NULL), SAGEMEM_E_ARGUMENT, "pass a file name");
    assert_failed(sagemem_report_at_exit((sagemem_format)17, "x", 0), SAGEMEM_E_ARGUMENT, "format");
    static char long_path[2000];
    memset(long_path, 'x', sizeof long_path - 1);
    assert_failed(sagemem_report_at_exit(SAGEMEM_FORMAT_TEXT, long_path, 0), SAGEMEM_E_ARGUMENT, "1023 bytes");
}

static void report_with_a_bad_format_leaves_the_file(void **state) {
    (void)state;
    FILE *file = fopen(in_place("precious"), "w");
    fputs("do not lose this", file);
    fclose(file);
    assert_int_equal(sagemem_report_file(NULL, (sagemem_format)17, in_place("precious")), SAGEMEM_E_ARGUMENT);
    struct stat info;
    assert_int_equal(stat(in_place("precious"), &info), 0);
    assert_int_equal(info.st_size, 16);
}

static void report_file_is_written(void **state) {
    (void)state;
    assert_int_equal(sagemem_report_file(NULL, SAGEMEM_FORMAT_JSON, in_place("written.json")), SAGEMEM_OK);
    FILE *file = fopen(in_place("written.json"), "r");
    assert_non_null(file);
    memset(&out, 0, sizeof out);
    out.size = fread(out.text, 1, sizeof out.text - 1, file);
    fclose(file);
    assert_json(out.text);
}

/* The old report or the new one, never a part: the name leads to another file each time, with the old one's permissions. */
static void report_file_is_replaced(void **state) {
    (void)state;
    char path[128], link_path[140], command[256];
    struct stat before, after;
    snprintf(path, sizeof path, "%s/node.prom", place);
    snprintf(link_path, sizeof link_path, "%s/link.prom", place);
    assert_int_equal(sagemem_report_file(NULL, SAGEMEM_FORMAT_PROMETHEUS, path), SAGEMEM_OK);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(symlink(path, link_path), 0);
    FILE *reader = fopen(path, "r"); /* who reads has the old one to its end */
    assert_non_null(reader);
    assert_int_equal(fstat(fileno(reader), &before), 0);
    assert_int_equal(sagemem_report_file(NULL, SAGEMEM_FORMAT_PROMETHEUS, link_path), SAGEMEM_OK);
    assert_int_equal(lstat(path, &after), 0);
    assert_true(S_ISREG(after.st_mode));
    assert_int_equal(after.st_mode & 0777, 0640);
    assert_true(before.st_ino != after.st_ino);
    assert_int_equal(lstat(link_path, &after), 0);
    assert_true(S_ISLNK(after.st_mode));
    assert_int_equal(fread(out.text, 1, 7, reader), 7);
    assert_memory_equal(out.text, "# HELP ", 7);
    fclose(reader);
    snprintf(command, sizeof command, "ls -A '%s' | grep -q sagemem-report", place); /* nothing is left beside it */
    assert_int_not_equal(system(command), 0);
}

static sagemem_status report_to_a_file(void *path) { return sagemem_report_file(NULL, SAGEMEM_FORMAT_PROMETHEUS, path); }
static void report_file_survives_failing_calls(void **state) {
    (void)state;
    char path[128], command[256];
    struct stat info;
    uint64_t points = 0;
    snprintf(path, sizeof path, "%s/survives", place);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    assert_int_equal(sagemem_check_failures(report_to_a_file, path, &points), SAGEMEM_OK);
    assert_true(points >= 4); /* look, open, write, rename */
    assert_int_equal(stat(path, &info), 0);
    assert_true(info.st_size > 0);
    snprintf(command, sizeof command, "ls -A '%s' | grep -q sagemem-report", place);
    assert_int_not_equal(system(command), 0);
}

static void report_file_says_why_not(void **state) {
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/no/such/directory", place);
    assert_failed(sagemem_report_file(NULL, SAGEMEM_FORMAT_TEXT, path), SAGEMEM_E_IO, path);
    assert_int_not_equal(sagemem_last_error()->os_error, 0);
    assert_failed(sagemem_report_file(NULL, SAGEMEM_FORMAT_TEXT, place), SAGEMEM_E_IO, place); /* a directory */
    if (access("/dev/full", W_OK) == 0) assert_int_equal(sagemem_report_file(NULL, SAGEMEM_FORMAT_TEXT, "/dev/full"), SAGEMEM_E_IO);
}

/* -- In processes of their own --------------------------------------------------------------------------- */

/* A child with its standard output and error in files; its wait status. */
static int in_child(void (*fn)(void)) {
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGSYS};
        for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) signal(signals[i], SIG_DFL);
        alarm(CHILD_SECONDS);
        if (freopen(in_place("stdout"), "w", stdout) == NULL || freopen(in_place("stderr"), "w", stderr) == NULL) _exit(99);
        fn();
        _exit(98); /* fn ends the process itself */
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status)) fail_msg("the child was killed by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status);
}
static const char *text_of(const char *name) {
    static char text[1 << 16];
    FILE *file = fopen(in_place(name), "r");
    if (file == NULL) return "";
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

static void write_to_stdout(void) {
    printf("before\n");
    sagemem_status status = sagemem_report_file(NULL, SAGEMEM_FORMAT_BRIEF, "-");
    printf("after\n");
    fflush(stdout);
    _exit(status == SAGEMEM_OK ? 0 : 1);
}
static void report_file_to_standard_output(void **state) {
    (void)state;
    assert_int_equal(in_child(write_to_stdout), 0);
    const char *text = text_of("stdout");
    assert_true(strncmp(text, "before\nsagemem: process", 23) == 0);
    assert_non_null(strstr(text, "\nafter\n"));
}

/* What the parent's tests left behind does not count. */
static void forget_all(void) { sagemem_heap_reset(sagemem_heap_default()); }

static void exit_with_a_leak(void) {
    forget_all();
    if (sagemem_report_at_exit(SAGEMEM_FORMAT_JSON, in_place("exit.json"), 42) != SAGEMEM_OK) _exit(97);
    printf("text that is still in the buffer\n");
    if (sagemem_alloc(NULL, 12345, sagemem_tag_named("Leaked")) == NULL) _exit(96);
    exit(0);
}
static void at_exit_tells_of_leaks(void **state) {
    (void)state;
    if (on_valgrind()) skip(); /* it has an exit status of its own for leaks */
    assert_int_equal(in_child(exit_with_a_leak), 42);
    const char *text = text_of("exit.json");
    assert_json(text);
    assert_non_null(strstr(text, "\"Leaked\""));
    assert_non_null(strstr(text_of("stderr"), "never freed"));
    assert_string_equal(text_of("stdout"), "text that is still in the buffer\n");
}

static void exit_without_a_leak(void) {
    forget_all();
    if (sagemem_report_at_exit(SAGEMEM_FORMAT_TEXT, in_place("first"), 1) != SAGEMEM_OK) _exit(97);
    if (sagemem_report_at_exit(SAGEMEM_FORMAT_BRIEF, in_place("second"), 43) != SAGEMEM_OK) _exit(97); /* changes the settings */
    sagemem_free(sagemem_alloc(NULL, 12345, 0));
    exit(7);
}
static void at_exit_keeps_the_status_without_leaks(void **state) {
    (void)state;
    assert_int_equal(in_child(exit_without_a_leak), 7);
    assert_true(strncmp(text_of("second"), "sagemem: process", 16) == 0);
    assert_string_equal(text_of("first"), "");
}

static void exit_with_a_leak_that_does_not_matter(void) {
    if (sagemem_report_at_exit(SAGEMEM_FORMAT_BRIEF, in_place("third"), 0) != SAGEMEM_OK) _exit(97);
    if (sagemem_alloc(NULL, 12345, 0) == NULL) _exit(96);
    exit(3);
}
static void at_exit_without_a_leak_status(void **state) {
    (void)state;
    if (on_valgrind()) skip(); /* it has an exit status of its own for leaks */
    assert_int_equal(in_child(exit_with_a_leak_that_does_not_matter), 3);
    assert_true(strncmp(text_of("third"), "sagemem: process", 16) == 0);
}

static void exit_with_status_only(void) {
    forget_all();
    if (sagemem_report_at_exit(SAGEMEM_FORMAT_BRIEF, NULL, 44) != SAGEMEM_OK) _exit(97);
    if (sagemem_alloc(NULL, 12345, 0) == NULL) _exit(96);
    exit(0);
}
static void at_exit_without_a_path(void **state) {
    (void)state;
    if (on_valgrind()) skip(); /* it has an exit status of its own for leaks */
    assert_int_equal(in_child(exit_with_status_only), 44);
}

static void exit_where_nothing_can_be_written(void) {
    forget_all();
    if (sagemem_report_at_exit(SAGEMEM_FORMAT_TEXT, "/does/not/exist", 45) != SAGEMEM_OK) _exit(97);
    exit(5);
}
static void at_exit_says_why_not(void **state) {
    (void)state;
    assert_int_equal(in_child(exit_where_nothing_can_be_written), 5);
    assert_non_null(strstr(text_of("stderr"), "/does/not/exist"));
}

/* With an argument: only the tests whose names match it (* and ?). */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
#define T(name) cmocka_unit_test_setup(name, setup)
    static const struct CMUnitTest tests[] = {
        T(json_adds_up_to_the_statistics),
        T(json_carries_any_name),
        T(json_is_utf8_when_a_name_is_cut),
        T(json_of_nothing),
        T(json_is_as_the_schema_says),
        T(json_with_many_heaps_and_scopes),
        T(text_names_tags_groups_and_heaps),
        T(brief_is_one_line),
        T(sink_that_fails_is_reported),
        T(report_refuses_bad_arguments),
        T(report_with_a_bad_format_leaves_the_file),
        T(report_file_is_written),
        T(report_file_is_replaced),
        T(report_file_survives_failing_calls),
        T(report_file_says_why_not),
        T(report_file_to_standard_output),
        T(at_exit_tells_of_leaks),
        T(at_exit_keeps_the_status_without_leaks),
        T(at_exit_without_a_leak_status),
        T(at_exit_without_a_path),
        T(at_exit_says_why_not),
    };
    return cmocka_run_group_tests_name("public_report", tests, make_place, remove_place);
}
