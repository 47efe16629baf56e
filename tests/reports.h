/* Reports in memory, and readers of each form that know nothing of what wrote them. */
#ifndef TESTS_REPORTS_H
#define TESTS_REPORTS_H

#include "public.h"

typedef struct kept_report {
    char *text;
    size_t size, room;
    int writes, closes;
    int fail_at;                                   /* this write fails [none] */
    void (*during_fn)(struct kept_report *report); /* at each write */
} kept_report;

static inline sagemem_status kept_write(void *ctx, const void *data, size_t size, uint64_t offset) {
    kept_report *k = ctx;
    if (k->during_fn) k->during_fn(k);
    if (++k->writes == k->fail_at) return SAGEMEM_E_FULL;
    assert_true(offset == k->size);
    if (k->size + size + 1 > k->room) {
        k->room = 2 * (k->size + size + 1);
        k->text = realloc(k->text, k->room);
        assert_non_null(k->text);
    }
    memcpy(k->text + k->size, data, size);
    k->size += size;
    k->text[k->size] = '\0';
    return SAGEMEM_OK;
}
static inline sagemem_status kept_close(void *ctx) {
    ((kept_report *)ctx)->closes++;
    return SAGEMEM_OK;
}
static inline sagemem_sink kept_sink(kept_report *k) {
    sagemem_sink sink = {kept_write, kept_close, k};
    free(k->text);
    memset(k, 0, sizeof *k);
    return sink;
}
static inline void kept_free(kept_report *k) {
    free(k->text);
    memset(k, 0, sizeof *k);
}

/* -- JSON: the sum of one number in all objects of one list, {"list": [{"field": N}]}, and how many objects there are. */

typedef struct json_reader {
    const char *at;
    const char *list, *field;
    long long sum;
    int count;
} json_reader;

static inline void json_space(json_reader *r) { r->at += strspn(r->at, " \n\t\r"); }
static inline void json_string(json_reader *r, char *text, size_t room) {
    size_t n = 0;
    assert_int_equal(*r->at, '"');
    for (r->at++; *r->at != '"'; r->at++) {
        assert_true((unsigned char)*r->at >= 0x20);
        if (*r->at == '\\') {
            r->at++;
            assert_non_null(strchr("\"\\/bfnrtu", *r->at));
            if (*r->at == 'u') assert_int_equal(strspn(r->at + 1, "0123456789abcdefABCDEF") >= 4, 1);
        }
        if (n + 1 < room) text[n++] = *r->at;
    }
    r->at++;
    text[n] = '\0';
}
static inline void json_value(json_reader *r, int depth, bool in_list, const char *key) {
    char name[128];
    json_space(r);
    if (*r->at == '{' || *r->at == '[') {
        bool object = *r->at == '{';
        char end = object ? '}' : ']';
        bool list = !object && depth == 1 && strcmp(key, r->list) == 0;
        if (object && in_list && depth == 2) r->count++;
        r->at++;
        json_space(r);
        while (*r->at != end) {
            name[0] = '\0';
            if (object) {
                json_string(r, name, sizeof name);
                json_space(r);
                assert_int_equal(*r->at++, ':');
            }
            json_value(r, depth + 1, in_list || list, name);
            json_space(r);
            if (*r->at == ',') {
                r->at++;
                json_space(r);
                assert_int_not_equal(*r->at, end);
            } else {
                assert_int_equal(*r->at, end);
            }
        }
        r->at++;
    } else if (*r->at == '"') {
        json_string(r, name, sizeof name);
    } else {
        char *end;
        long long number = strtoll(r->at, &end, 10);
        assert_ptr_not_equal(end, r->at);
        r->at = end;
        if (in_list && depth == 3 && strcmp(key, r->field) == 0) r->sum += number;
        /* {"process": {"used": N}} is a list of one */
        if (!in_list && depth == 2 && strcmp(r->list, "process") == 0 && strcmp(key, r->field) == 0) r->sum += number;
    }
}
static inline json_reader json_read(const char *text, const char *list, const char *field) {
    json_reader r = {text, list, field, 0, 0};
    json_value(&r, 0, false, "");
    json_space(&r);
    assert_int_equal(*r.at, '\0');
    return r;
}
static inline uint64_t json_sum(const char *text, const char *list, const char *field) {
    return (uint64_t)json_read(text, list, field).sum;
}

/* -- CSV: the sum of a column, found by its name. */

static inline const char *csv_cell(const char *at, char *text, size_t room) {
    size_t n = 0;
    bool quoted = *at == '"';
    if (quoted) at++;
    for (; *at != '\0'; at++) {
        if (quoted && *at == '"' && *++at != '"') break;
        if (!quoted && (*at == ',' || *at == '\n')) break;
        if (!quoted) assert_int_not_equal(*at, '"');
        if (n + 1 < room) text[n++] = *at;
    }
    text[n] = '\0';
    assert_true(*at == ',' || *at == '\n');
    return at;
}
static inline long long csv_sum(const char *text, const char *column, const char *heap, int *rows) {
    char cell[256];
    int wanted = -1, columns = 0, row = 0;
    long long sum = 0;
    for (const char *at = text; *at != '\0'; row++) {
        int n = 0;
        bool counts = true;
        for (;; at++, n++) {
            at = csv_cell(at, cell, sizeof cell);
            if (row == 0 && strcmp(cell, column) == 0) wanted = n;
            if (row > 0 && n == 0 && heap) counts = strcmp(cell, heap) == 0;
            if (row > 0 && n == wanted && counts) sum += strtoll(cell, NULL, 10);
            if (*at == '\n') break;
        }
        at++;
        if (row == 0) columns = n;
        assert_int_equal(n, columns);
    }
    assert_true(wanted >= 0);
    if (rows) *rows = row - 1;
    return sum;
}

/* -- Prometheus: the sum of all series of one metric. Every line is looked at. */

static inline const char *metric_name(const char *at) {
    assert_true((*at >= 'a' && *at <= 'z') || *at == '_');
    return at + strspn(at, "abcdefghijklmnopqrstuvwxyz0123456789_");
}
static inline const char *metric_labels(const char *at) {
    while (*at != '}') {
        at = metric_name(at + 1); /* behind { or , */
        assert_int_equal(at[0], '=');
        assert_int_equal(at[1], '"');
        for (at += 2; *at != '"'; at++) {
            assert_true(*at != '\n' && *at != '\0');
            if (*at == '\\') {
                at++;
                assert_non_null(strchr("\\\"n", *at));
            }
        }
        at++;
        assert_true(*at == ',' || *at == '}');
    }
    return at + 1;
}
static inline uint64_t metric_sum(const char *text, const char *metric) {
    uint64_t sum = 0;
    char typed[128] = "";
    for (const char *at = text, *end; *at != '\0'; at = end + 1) {
        end = strchr(at, '\n');
        assert_non_null(end);
        if (strncmp(at, "# HELP ", 7) == 0) continue;
        if (strncmp(at, "# TYPE ", 7) == 0) {
            size_t n = (size_t)(metric_name(at + 7) - (at + 7));
            assert_true(n < sizeof typed);
            memcpy(typed, at + 7, n);
            typed[n] = '\0';
            assert_true(strncmp(at + 7 + n, " gauge\n", 7) == 0 || strncmp(at + 7 + n, " counter\n", 9) == 0);
            continue;
        }
        const char *name_end = metric_name(at), *value = *name_end == '{' ? metric_labels(name_end) : name_end;
        assert_int_equal(strlen(typed), name_end - at);
        assert_memory_equal(at, typed, strlen(typed)); /* all of a metric stand together, behind their type */
        assert_int_equal(*value, ' ');
        char *stop;
        uint64_t number = strtoull(value + 1, &stop, 10);
        assert_ptr_equal(stop, end);
        for (const char *other = strstr(end, "\n"); other != NULL && other[1] != '\0'; other = strchr(other + 1, '\n'))
            assert_false(strncmp(other + 1, at, (size_t)(value - at) + 1) == 0); /* a series comes once */
        if (strcmp(typed, metric) == 0) sum += number;
    }
    return sum;
}

/* -- Folded stacks: the sum of those that begin so. Behind a stack stand so many numbers; `which` of them counts, from 0. */
static inline uint64_t folded_sum(const char *text, const char *begin, int numbers, int which) {
    uint64_t sum = 0;
    for (const char *at = text, *end; *at != '\0'; at = end + 1) {
        end = strchr(at, '\n');
        assert_non_null(end);
        const char *number = end;
        int semicolons = 0;
        for (int n = numbers; n > 0; n--) {
            do number--;
            while (*number != ' ');
            if (n - 1 == which && strncmp(at, begin, strlen(begin)) == 0) sum += strtoull(number + 1, NULL, 10);
        }
        for (const char *c = at; c < number; c++) semicolons += *c == ';';
        assert_int_equal(semicolons, 2);
    }
    return sum;
}

/* -- HTML: the sum of an attribute's numbers between two places; and that elements close as they open. */

static inline uint64_t html_sum(const char *text, const char *from, const char *to, const char *attribute) {
    const char *at = strstr(text, from), *end = at ? strstr(at, to) : NULL;
    char begin[64];
    uint64_t sum = 0;
    if (!at) return 0;
    assert_non_null(end);
    snprintf(begin, sizeof begin, " %s=\"", attribute);
    while ((at = strstr(at, begin)) != NULL && at < end) {
        at += strlen(begin);
        sum += strtoull(at, NULL, 10);
    }
    return sum;
}
static inline void assert_html(const char *text) {
    char open[16][16];
    int depth = 0;
    assert_true(strncmp(text, "<!DOCTYPE html>", 15) == 0);
    for (const char *at = strchr(text, '<') + 1; (at = strchr(at, '<')) != NULL; at++) {
        const char *end = strchr(at, '>');
        assert_non_null(end);
        bool closes = at[1] == '/';
        const char *name = at + 1 + closes;
        size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789");
        assert_true(n > 0 && n < 16);
        if (strncmp(name, "meta", n) == 0 || end[-1] == '/') continue;
        if (!closes) {
            assert_true(depth < 16);
            memcpy(open[depth], name, n);
            open[depth++][n] = '\0';
        } else {
            assert_true(depth > 0);
            depth--;
            assert_int_equal(strlen(open[depth]), n);
            assert_memory_equal(open[depth], name, n);
        }
    }
    assert_int_equal(depth, 0);
    static const char *const loads[] = {"http", "src=", "href=", "url(", "@import", "<script", "<link", "<iframe"};
    for (size_t i = 0; i < sizeof loads / sizeof loads[0]; i++)
        if (strstr(text, loads[i]) != NULL) fail_msg("'%s' in a page that must need nothing else", loads[i]);
}

#endif
