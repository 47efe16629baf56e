/* Clocks, memory, the heap under test, JSON and SVG. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

/* -- Measuring ------------------------------------------------------------------------------------------- */

static double clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}
double bench_cpu_ns(void) { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }
double bench_process_ns(void) { return clock_ns(CLOCK_PROCESS_CPUTIME_ID); }
double bench_wall_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

/* The number behind a word in a small file of the system's. It must not allocate: stdio would be measured, too. */
static double number_in(const char *path, const char *word) {
    char text[4096];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    text[size > 0 ? size : 0] = '\0';
    const char *at = strstr(text, word);
    return at != NULL ? strtod(at + strlen(word), NULL) : 0;
}

/* smaps_rollup is exact; the counters of status lag behind by some pages for each processor. */
double bench_resident(void) {
    double kib = number_in("/proc/self/smaps_rollup", "\nRss:");
    return 1024 * (kib > 0 ? kib : number_in("/proc/self/status", "VmRSS:"));
}

double bench_peak_resident(void) { return 1024 * number_in("/proc/self/status", "VmHWM:"); }

bool bench_quick(void) {
    const char *set = getenv("BENCH_QUICK");
    return set != NULL && *set != '\0' && strcmp(set, "0") != 0;
}

uint64_t bench_count(uint64_t full) {
    if (!bench_quick()) return full;
    return full / 100 > 64 ? full / 100 : full < 64 ? full : 64;
}

bool bench_wanted(const char *row) {
    const char *only = getenv("BENCH_ONLY");
    if (only == NULL || *only == '\0') return true;
    while (*only != '\0') {
        size_t length = strcspn(only, ",");
        if (length > 0 && strncmp(row, only, length) == 0) return true;
        only += length + (only[length] == ',');
    }
    return false;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(const double *values, size_t count) {
    double sorted[BENCH_REPETITIONS];
    if (count == 0 || count > BENCH_REPETITIONS) return NAN;
    memcpy(sorted, values, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, by_value);
    return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
}

double bench_min(const double *values, size_t count) {
    double least = count > 0 ? values[0] : NAN;
    for (size_t i = 1; i < count; i++) least = fmin(least, values[i]);
    return least;
}

void bench_die(const char *why, const char *of) {
    fprintf(stderr, "bench: %s: %s\n", why, of);
    exit(1);
}

void *bench_scratch(size_t bytes) {
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) bench_die("no memory for the benchmark itself", strerror(errno));
    memset(pages, 0, bytes); /* its page faults are not to be measured */
    return pages;
}

void bench_scratch_free(void *scratch, size_t bytes) { munmap(scratch, bytes); }

uint64_t bench_file_size(uint64_t full, uint64_t part) {
    const char *set = getenv("BENCH_FULL");
    return bench_count(set != NULL && *set != '\0' && strcmp(set, "0") != 0 ? full : part);
}

int bench_file(bool in_memory) {
    const char *set = getenv("BENCH_FILES"), *disk = set != NULL && *set != '\0' ? set : ".";
    char path[4096];
    snprintf(path, sizeof path, "%s/bench-XXXXXX", in_memory && access("/dev/shm", W_OK) == 0 ? "/dev/shm" : disk);
    int file = mkstemp(path);
    if (file < 0) bench_die(path, strerror(errno));
    unlink(path);
    return file;
}

/* -- What workloads use ---------------------------------------------------------------------------------- */

bench_calls bench_peer;
sagemem_heap *bench_heap;
struct bench_sagemem_calls bench_sagemem = {sagemem_alloc, sagemem_calloc,      sagemem_realloc,
                                            sagemem_free,  sagemem_scope_begin, sagemem_scope_end};

sagemem_heap *bench_heap_make(void) {
    sagemem_heap_desc desc = {"bench", NULL, 0, NULL, 0, 0};
    if (strcmp(bench_policy(), "keep") == 0) desc.purge_delay_ms = (uint32_t)SAGEMEM_PURGE_NEVER;
    sagemem_heap *heap = sagemem_heap_create(&desc);
    if (heap == NULL) bench_die("no heap", sagemem_last_error()->message);
    return heap;
}

/* -- JSON ------------------------------------------------------------------------------------------------ */

void bench_json_open(bench_json *json, const char *path) {
    json->filled = false;
    json->file = fopen(path, "w");
    if (json->file == NULL) bench_die(path, strerror(errno));
}

static void json_string(FILE *file, const char *text) {
    putc('"', file);
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        if (*c < 0x20) fprintf(file, "\\u%04x", *c);
        else fprintf(file, *c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
    }
    putc('"', file);
}

static void json_key(bench_json *json, const char *key) {
    fputs(json->filled ? ",\n" : "\n", json->file);
    json->filled = true;
    if (key == NULL) return;
    json_string(json->file, key);
    fputs(": ", json->file);
}

void bench_json_begin(bench_json *json, const char *key, char bracket) {
    json_key(json, key);
    putc(bracket, json->file);
    json->filled = false;
}

void bench_json_end(bench_json *json, char bracket) {
    putc(bracket, json->file);
    json->filled = true;
}

void bench_json_number(bench_json *json, const char *key, double value) {
    json_key(json, key);
    if (isfinite(value)) fprintf(json->file, "%.6g", value);
    else fputs("null", json->file);
}

void bench_json_text(bench_json *json, const char *key, const char *value) {
    json_key(json, key);
    json_string(json->file, value);
}

void bench_json_bool(bench_json *json, const char *key, bool value) {
    json_key(json, key);
    fputs(value ? "true" : "false", json->file);
}

void bench_json_close(bench_json *json) {
    putc('\n', json->file);
    if (fclose(json->file) != 0) bench_die("writing JSON", strerror(errno));
}

/* -- The machine ----------------------------------------------------------------------------------------- */

typedef struct machine {
    char cpu[128], system[256], compiler[128], commit[64], huge_pages[64];
    double load[3];
    long cores, page, l1, l2, l3, memory_mib;
} machine;

static long system_number(int name) {
    long value = sysconf(name);
    return value > 0 ? value : 0;
}

/* The first line of `path` that begins with `word`, from behind its colon; or the first line at all. */
static void line_of(const char *path, const char *word, char *out, size_t size) {
    char line[512];
    FILE *file = fopen(path, "r");
    snprintf(out, size, "unknown");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, word, strlen(word)) != 0) continue;
        const char *colon = *word != '\0' ? strchr(line, ':') : NULL;
        const char *value = colon != NULL ? colon + 1 + (colon[1] == ' ') : line;
        snprintf(out, size, "%.*s", (int)strcspn(value, "\n"), value);
        break;
    }
    if (file != NULL) fclose(file);
}

static void look_at_machine(machine *m) {
    struct utsname name;
    memset(m, 0, sizeof *m);
    line_of("/proc/cpuinfo", "model name", m->cpu, sizeof m->cpu);
    line_of("/sys/kernel/mm/transparent_hugepage/enabled", "", m->huge_pages, sizeof m->huge_pages);
    if (uname(&name) == 0) snprintf(m->system, sizeof m->system, "%s %s %s", name.sysname, name.release, name.machine);
#ifdef __clang__
    snprintf(m->compiler, sizeof m->compiler, "%s", __VERSION__);
#else
    snprintf(m->compiler, sizeof m->compiler, "gcc %s", __VERSION__);
#endif
    const char *commit = getenv("BENCH_COMMIT");
    snprintf(m->commit, sizeof m->commit, "%s", commit != NULL && *commit != '\0' ? commit : "unknown");
    if (getloadavg(m->load, 3) < 1) m->load[0] = NAN;
    m->cores = system_number(_SC_NPROCESSORS_ONLN);
    m->page = system_number(_SC_PAGESIZE);
    m->memory_mib = (long)((double)system_number(_SC_PHYS_PAGES) * (double)m->page / 1048576);
#ifdef _SC_LEVEL1_DCACHE_SIZE
    m->l1 = system_number(_SC_LEVEL1_DCACHE_SIZE) / 1024;
    m->l2 = system_number(_SC_LEVEL2_CACHE_SIZE) / 1024;
    m->l3 = system_number(_SC_LEVEL3_CACHE_SIZE) / 1024;
#endif
}

void bench_json_machine(bench_json *json) {
    machine m;
    look_at_machine(&m);
    bench_json_begin(json, "machine", '{');
    bench_json_text(json, "cpu", m.cpu);
    bench_json_number(json, "cores", (double)m.cores);
    bench_json_number(json, "l1_kib", (double)m.l1);
    bench_json_number(json, "l2_kib", (double)m.l2);
    bench_json_number(json, "l3_kib", (double)m.l3);
    bench_json_number(json, "memory_mib", (double)m.memory_mib);
    bench_json_text(json, "system", m.system);
    bench_json_number(json, "page_bytes", (double)m.page);
    bench_json_text(json, "transparent_huge_pages", m.huge_pages);
    bench_json_text(json, "compiler", m.compiler);
    bench_json_text(json, "commit", m.commit);
    bench_json_number(json, "load", m.load[0]);
    bench_json_text(json, "policy", bench_policy());
    bench_json_text(json, "peers", bench_peers_text());
    bench_json_end(json, '}');
}

void bench_print_machine(FILE *out) {
    machine m;
    look_at_machine(&m);
    fprintf(out, "%s, %ld cores, caches %ld/%ld/%ld KiB, %ld MiB; %s, pages of %ld bytes, huge pages: %s\n", m.cpu, m.cores, m.l1,
            m.l2, m.l3, m.memory_mib, m.system, m.page, m.huge_pages);
    fprintf(out, "%s; sagemem %s, commit %s; load average %.2f; retention policy: %s\n", m.compiler, SAGEMEM_VERSION, m.commit,
            m.load[0], bench_policy());
    fprintf(out, "peers: %s\n", bench_peers_text());
}

/* -- SVG ------------------------------------------------------------------------------------------------- */

FILE *bench_svg_open(const char *path, double width, double height) {
    FILE *svg = fopen(path, "w");
    if (svg == NULL) bench_die(path, strerror(errno));
    fprintf(svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" "
            "font-family=\"sans-serif\" font-size=\"11\">\n",
            width, height, width, height);
    bench_svg_rect(svg, 0, 0, width, height, "white");
    return svg;
}

void bench_svg_rect(FILE *svg, double x, double y, double width, double height, const char *fill) {
    fprintf(svg, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n", x, y, width, height, fill);
}

void bench_svg_dot(FILE *svg, double x, double y, double radius, const char *fill) {
    fprintf(svg, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"%s\"/>\n", x, y, radius, fill);
}

void bench_svg_line(FILE *svg, double x1, double y1, double x2, double y2, const char *stroke, double width) {
    fprintf(svg, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"%.1f\"/>\n", x1, y1, x2, y2,
            stroke, width);
}

void bench_svg_text(FILE *svg, double x, double y, bench_anchor anchor, const char *fill, const char *text) {
    static const char *const anchors[] = {"start", "middle", "end"};
    fprintf(svg, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"%s\">", x, y, anchors[anchor], fill);
    for (; *text != '\0'; text++) {
        if (*text == '<') fputs("&lt;", svg);
        else if (*text == '&') fputs("&amp;", svg);
        else putc(*text, svg);
    }
    fputs("</text>\n", svg);
}

void bench_svg_close(FILE *svg, const char *path) {
    fputs("</svg>\n", svg);
    if (fclose(svg) != 0) bench_die(path, strerror(errno));
}
