/* Draws cost against size, and says whether anything grows faster than its peers.
 *
 *     growth [OUTPUT]      OUTPUT.json and OUTPUT.svg are written where it is given
 *
 * Every run has a process of its own, and the sides take turns at each size; a point is the median. Sizes whose turn takes more
 * than two seconds have one; a side that takes more than four for a run is not asked for more. A curve's exponent is the slope
 * of its last decade, in logarithms: 0 is flat, 1 grows with the size. What no side can help (caches, the kernel's page
 * tables) raises all of them; where there is no peer, a linked list is walked beside. BENCH_QUICK, BENCH_ONLY: bench.h;
 * BENCH_REPEAT: turns [3]; BENCH_FULL=1: up to half of the machine's memory, else to half of it or 4 GiB, whichever is less.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "growth.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { POINTS = 40, CURVES = 32 };
static const double tolerance = 0.15; /* of an exponent: what two runs differ by */
static const char *const side_names[] = {"sagemem", "glibc", "mimalloc", "list"};
static const char *const colours[] = {"#c0392b", "#7f8c8d", "#2980b9", "#27ae60"};

typedef struct result {
    const growth_curve *curve;
    size_t points;
    uint64_t x[POINTS];
    double ns[GROWTH_SIDES][POINTS], exponent[GROWTH_SIDES]; /* NAN: the side cannot do it, or is not here */
    bool met, too_long[GROWTH_SIDES];
} result;

double growth_memory(void) {
    const char *full = getenv("BENCH_FULL");
    double half = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / 2;
    return full != NULL && strcmp(full, "1") == 0 ? half : fmin(half, 4294967296.0);
}

static size_t repetitions(void) {
    const char *set = getenv("BENCH_REPEAT");
    long wanted = set != NULL ? strtol(set, NULL, 10) : bench_quick() ? 1 : 3;
    return wanted < 1 ? 1 : wanted > BENCH_REPETITIONS ? BENCH_REPETITIONS : (size_t)wanted;
}

/* -- Running --------------------------------------------------------------------------------------------- */

static bool can(const growth_curve *curve, growth_side side) {
    if ((curve->sides >> side & 1) == 0) return false;
    if (side == GROWTH_SAGEMEM || side == GROWTH_LIST) return true;
    const bench_calls *calls = bench_peer_named(side_names[side]);
    return calls != NULL && (curve->sides == GROWTH_ALL || calls->heap_destroy != NULL);
}

/* Sizes from `from` to `to`, or to what memory allows, both included. */
static void choose_sizes(result *r) {
    const growth_curve *c = r->curve;
    double to = (double)c->to;
    if (c->bytes > 0) to = fmin(to, growth_memory() / c->bytes);
    if (bench_quick()) to = fmin(to, (double)c->from * 20);
    to = fmax(to, (double)c->from);
    for (double x = (double)c->from; x < to * 0.99 && r->points + 1 < POINTS; x *= c->step) {
        uint64_t rounded = (uint64_t)(x + 0.5);
        if (r->points == 0 || rounded > r->x[r->points - 1]) r->x[r->points++] = rounded;
    }
    r->x[r->points++] = (uint64_t)to;
}

static double run(const growth_curve *curve, growth_side side, uint64_t n, double *shared) {
    fflush(NULL);
    *shared = NAN;
    pid_t child = fork();
    if (child < 0) bench_die("fork", strerror(errno));
    if (child == 0) {
        if (side == GROWTH_GLIBC || side == GROWTH_MIMALLOC) bench_peer = *bench_peer_named(side_names[side]);
        *shared = curve->work(side, n);
        _exit(0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) bench_die("a workload did not end well", curve->name);
    return *shared;
}

static void measure_point(result *r, size_t point, double *shared) {
    double values[GROWTH_SIDES][BENCH_REPETITIONS], seconds = 0;
    bool asked[GROWTH_SIDES];
    size_t turn = 0;
    for (int s = 0; s < GROWTH_SIDES; s++)
        asked[s] = can(r->curve, (growth_side)s) && !r->too_long[s] && (point == 0 || !isnan(r->ns[s][point - 1]));
    for (; turn < repetitions() && seconds < 2; turn++) {
        for (int s = 0; s < GROWTH_SIDES; s++) {
            int side = (s + (int)turn) % GROWTH_SIDES;
            if (!asked[side]) continue;
            double start = bench_wall_ns();
            values[side][turn] = run(r->curve, (growth_side)side, r->x[point], shared);
            double took = (bench_wall_ns() - start) / 1e9;
            if (took > 4 && side != GROWTH_SAGEMEM) r->too_long[side] = true;
            seconds += took;
        }
    }
    for (int s = 0; s < GROWTH_SIDES; s++) r->ns[s][point] = asked[s] ? bench_median(values[s], turn) : NAN;
}

/* -- What came of it ------------------------------------------------------------------------------------- */

/* Least squares through the points of the last decade. */
static double slope(const result *r, int side) {
    double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
    size_t end = r->points;
    while (end > 0 && isnan(r->ns[side][end - 1])) end--;
    for (size_t i = 0; i < end; i++) {
        if (10.5 * (double)r->x[i] < (double)r->x[end - 1]) continue;
        double x = log10((double)r->x[i]), y = log10(fmax(r->ns[side][i], 1e-3));
        n++, sx += x, sy += y, sxx += x * x, sxy += x * y;
    }
    double wide = n * sxx - sx * sx;
    return n >= 2 && wide > 0 ? (n * sxy - sx * sy) / wide : NAN;
}

static void judge(result *r) {
    double may = r->curve->may;
    for (int s = 0; s < GROWTH_SIDES; s++) {
        r->exponent[s] = slope(r, s);
        if (s != GROWTH_SAGEMEM && r->exponent[s] > may) may = r->exponent[s];
    }
    r->met = !(r->exponent[GROWTH_SAGEMEM] > may + tolerance);
}

static void number_text(double value, const char *format, char *out, size_t size) {
    if (isnan(value)) snprintf(out, size, "-");
    else snprintf(out, size, format, value);
}

static void print_curve(const result *r) {
    printf("%s: ns, %s; by %s\n", r->curve->name, r->curve->text, r->curve->x);
    for (int s = 0; s < GROWTH_SIDES; s++) {
        if (isnan(r->ns[s][0])) continue;
        printf("    %-9s", side_names[s]);
        for (size_t i = 0; i < r->points && !isnan(r->ns[s][i]); i++) printf(" %.3g", r->ns[s][i]);
        puts(r->too_long[s] ? " (then too long)" : "");
    }
    fflush(stdout);
}

/* A table that is one in Markdown, too. */
static void print_table(const result *results, size_t count) {
    size_t met = 0;
    printf("\n| ns | of | from | to | exponent | glibc | mimalloc | list | |\n|---|---|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < count; i++) {
        const result *r = &results[i];
        char exponent[GROWTH_SIDES][16];
        for (int s = 0; s < GROWTH_SIDES; s++) number_text(r->exponent[s], "%.2f", exponent[s], sizeof exponent[s]);
        printf("| %s: %s | %s | %llu: %.3g | %llu: %.3g | %s | %s | %s | %s | %s |\n", r->curve->name, r->curve->text, r->curve->x,
               (unsigned long long)r->x[0], r->ns[0][0], (unsigned long long)r->x[r->points - 1], r->ns[0][r->points - 1],
               exponent[0], exponent[1], exponent[2], exponent[3], r->met ? "met" : "missed");
        met += r->met;
    }
    printf("\nnothing grows faster than its peers (or than 1 with what it goes through), scope end with pages only: "
           "%zu of %zu curves\n",
           met, count);
}

static void write_json(const result *results, size_t count, const char *path) {
    bench_json json;
    bench_json_open(&json, path);
    bench_json_begin(&json, NULL, '{');
    bench_json_machine(&json);
    bench_json_begin(&json, "curves", '[');
    for (size_t c = 0; c < count; c++) {
        const result *r = &results[c];
        bench_json_begin(&json, NULL, '{');
        bench_json_text(&json, "name", r->curve->name);
        bench_json_text(&json, "text", r->curve->text);
        bench_json_text(&json, "x", r->curve->x);
        bench_json_bool(&json, "met", r->met);
        bench_json_begin(&json, "sizes", '[');
        for (size_t i = 0; i < r->points; i++) bench_json_number(&json, NULL, (double)r->x[i]);
        bench_json_end(&json, ']');
        for (int s = 0; s < GROWTH_SIDES; s++) {
            if (isnan(r->ns[s][0])) continue;
            bench_json_begin(&json, side_names[s], '{');
            bench_json_number(&json, "exponent", r->exponent[s]);
            bench_json_begin(&json, "ns", '[');
            for (size_t i = 0; i < r->points; i++) bench_json_number(&json, NULL, r->ns[s][i]);
            bench_json_end(&json, ']');
            bench_json_end(&json, '}');
        }
        bench_json_end(&json, '}');
    }
    bench_json_end(&json, ']');
    bench_json_end(&json, '}');
    bench_json_close(&json);
}

/* -- The picture: small multiples, both axes logarithmic ------------------------------------------------- */

enum { COLUMNS = 4, WIDTH = 300, HEIGHT = 220, LEFT = 44, TOP = 40, RIGHT = 12, BOTTOM = 34 };

typedef struct frame {
    double x, y, x0, x1, y0, y1; /* its corner in pixels; ranges in decades */
} frame;

static double across(const frame *f, double decades) {
    return f->x + LEFT + (decades - f->x0) / (f->x1 - f->x0) * (WIDTH - LEFT - RIGHT);
}
static double up(const frame *f, double decades) {
    return f->y + HEIGHT - BOTTOM - (decades - f->y0) / (f->y1 - f->y0) * (HEIGHT - TOP - BOTTOM);
}

/* Whole decades, so that there is a line to read at. */
static frame frame_of(const result *r, size_t place) {
    frame f = {(double)(place % COLUMNS) * WIDTH, 20 + (double)(place / COLUMNS) * HEIGHT, 0, 0, INFINITY, -INFINITY};
    f.x0 = log10((double)r->x[0]);
    f.x1 = fmax(log10((double)r->x[r->points - 1]), f.x0 + 0.1);
    for (int s = 0; s < GROWTH_SIDES; s++)
        for (size_t i = 0; i < r->points; i++) {
            double y = log10(fmax(r->ns[s][i], 1e-3));
            if (isnan(r->ns[s][i])) continue;
            f.y0 = fmin(f.y0, floor(y));
            f.y1 = fmax(f.y1, floor(y) + 1);
        }
    return f;
}

static void power_text(double decade, char *out, size_t size) {
    static const char *const units[] = {"", "k", "M", "G"};
    int d = (int)decade;
    if (d < 0 || d > 11) snprintf(out, size, "1e%d", d);
    else snprintf(out, size, "%s%s", d % 3 == 0 ? "1" : d % 3 == 1 ? "10" : "100", units[d / 3]);
}

static void draw_axes(FILE *svg, const frame *f, const result *r) {
    char text[96];
    for (double d = ceil(f->x0 - 1e-9); d <= f->x1 + 1e-9; d++) {
        bench_svg_line(svg, across(f, d), up(f, f->y0), across(f, d), up(f, f->y1), "#dddddd", 1);
        power_text(d, text, sizeof text);
        bench_svg_text(svg, across(f, d), up(f, f->y0) + 13, BENCH_MIDDLE, "#555555", text);
    }
    for (double d = f->y0; d <= f->y1 + 1e-9; d++) {
        bench_svg_line(svg, across(f, f->x0), up(f, d), across(f, f->x1), up(f, d), "#dddddd", 1);
        power_text(d, text, sizeof text);
        bench_svg_text(svg, across(f, f->x0) - 4, up(f, d) + 4, BENCH_END, "#555555", text);
    }
    snprintf(text, sizeof text, "%s [ns]%s", r->curve->name, r->met ? "" : ": grows too fast");
    bench_svg_text(svg, f->x + LEFT, f->y + 14, BENCH_START, r->met ? "black" : colours[0], text);
    bench_svg_text(svg, f->x + LEFT, f->y + 28, BENCH_START, "#555555", r->curve->text);
    bench_svg_text(svg, across(f, f->x1), f->y + HEIGHT - 8, BENCH_END, "#555555", r->curve->x);
}

static void draw_curve(FILE *svg, const frame *f, const result *r) {
    draw_axes(svg, f, r);
    for (int s = GROWTH_SIDES - 1; s >= 0; s--) { /* the library on top */
        for (size_t i = 0; i < r->points; i++) {
            if (isnan(r->ns[s][i])) break;
            double x = across(f, log10((double)r->x[i])), y = up(f, log10(fmax(r->ns[s][i], 1e-3)));
            bench_svg_rect(svg, x - 2, y - 2, 4, 4, colours[s]);
            if (i == 0) continue;
            double from_x = across(f, log10((double)r->x[i - 1])), from_y = up(f, log10(fmax(r->ns[s][i - 1], 1e-3)));
            bench_svg_line(svg, from_x, from_y, x, y, colours[s], s == 0 ? 2 : 1);
        }
    }
}

static void draw(const result *results, size_t count, const char *path) {
    FILE *svg = bench_svg_open(path, COLUMNS * WIDTH, 24 + HEIGHT * (double)((count + COLUMNS - 1) / COLUMNS));
    for (int s = 0; s < GROWTH_SIDES; s++) bench_svg_text(svg, LEFT + 70 * s, 14, BENCH_START, colours[s], side_names[s]);
    for (size_t i = 0; i < count; i++) {
        frame f = frame_of(&results[i], i);
        draw_curve(svg, &f, &results[i]);
    }
    bench_svg_close(svg, path);
}

/* -- All of it ------------------------------------------------------------------------------------------- */

static size_t run_all(result *results, double *shared) {
    size_t count = 0;
    for (size_t c = 0; c < growth_curve_count; c++) {
        if (!bench_wanted(growth_curves[c].name)) continue;
        if (count == CURVES) bench_die("too many curves", growth_curves[c].name);
        result *r = &results[count++];
        r->curve = &growth_curves[c];
        choose_sizes(r);
        for (size_t i = 0; i < r->points; i++) measure_point(r, i, shared);
        judge(r);
        print_curve(r);
    }
    return count;
}

int main(int argc, char **argv) {
    static result results[CURVES];
    bench_policy_set("default", argv);
    bench_peers_load();
    bench_print_machine(stdout);
    double *shared = (double *)mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) bench_die("mmap", strerror(errno));
    size_t count = run_all(results, shared);
    if (count == 0) return 0;
    print_table(results, count);
    if (argc > 1) {
        char path[512];
        snprintf(path, sizeof path, "%s.json", argv[1]);
        write_json(results, count, path);
        snprintf(path, sizeof path, "%s.svg", argv[1]);
        draw(results, count, path);
    }
    return 0;
}
