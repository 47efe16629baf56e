/* One line for each row of the comparison, one dot for each peer in it: how much of the peer's time (or memory) the library
 * needs, on a logarithmic scale. Left of 1 the library needs less.
 */
#include "bench.h"

#include <math.h>
#include <string.h>

enum { LABELS = 370, SCALE = 560, LINE = 17, TOP = 74, PEERS = 24 };
static const double least = 1.0 / 64, most = 16;

/* Colours that stay apart on white (Okabe and Ito's), then greys. */
static const char *const colours[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8AE00", "#000000",
                                      "#999999", "#7A4FBF", "#A05A2C", "#2E8B8B", "#E377C2", "#6B8E23", "#8B0000", "#4B5DCE"};

typedef struct legend {
    const char *names[PEERS];
    size_t count;
} legend;

static const char *colour_of(legend *all, const char *name) {
    size_t at = 0;
    while (at < all->count && strcmp(all->names[at], name) != 0) at++;
    if (at == all->count && at < PEERS) all->names[all->count++] = name;
    return colours[at % (sizeof colours / sizeof *colours)];
}

static double place(double ratio) {
    double inside = fmin(fmax(ratio, least), most);
    return LABELS + SCALE * log(inside / least) / log(most / least);
}

/* Not the yardsticks, nor where more is better. */
static bool is_drawn(const bench_result *result) { return result->verdict_count > 0 && result->row->goals[0].kind != AT_LEAST; }

static size_t lines_of(const bench_result *results, size_t count) {
    size_t lines = 0;
    for (size_t r = 0; r < count; r++) lines += is_drawn(&results[r]);
    return lines;
}

static void draw_scale(FILE *svg, double bottom) {
    for (double ratio = least; ratio <= most * 1.01; ratio *= 2) {
        char text[16];
        snprintf(text, sizeof text, ratio < 1 ? "1/%.0f" : "%.0f", ratio < 1 ? 1 / ratio : ratio);
        bool even = fabs(ratio - 1) < 0.01;
        bench_svg_line(svg, place(ratio), TOP - 8, place(ratio), bottom, even ? "#444444" : "#dddddd", even ? 1.5 : 1);
        bench_svg_text(svg, place(ratio), TOP - 14, BENCH_MIDDLE, "#444444", text);
    }
}

static void draw_row(FILE *svg, const bench_result *result, double y, legend *peers) {
    bench_svg_text(svg, LABELS - 10, y + 4, BENCH_END, "#000000", result->row->text);
    bench_svg_line(svg, LABELS, y, LABELS + SCALE, y, "#eeeeee", 1);
    for (size_t i = 0; i < result->side_count; i++) {
        const bench_figures *peer = &result->sides[i];
        /* The C library's, called through pointers, is there for the comparison with others only. */
        bool twice = (peer->side->flags & POINTERS) != 0 && strcmp(peer->side->name, "glibc") == 0;
        if (bench_is_library(peer->side) || twice) continue;
        bench_svg_dot(svg, place(bench_ratio(result, peer)), y, 4, colour_of(peers, peer->side->name));
    }
}

static void draw_legend(FILE *svg, const legend *peers) {
    for (size_t i = 0; i < peers->count; i++) {
        double x = 16 + 112 * (double)(i % 8), y = 32 + 14 * (double)(i / 8);
        bench_svg_dot(svg, x, y - 4, 4, colours[i % (sizeof colours / sizeof *colours)]);
        bench_svg_text(svg, x + 8, y, BENCH_START, "#000000", peers->names[i]);
    }
}

void bench_plot(const bench_result *results, size_t count, const char *path) {
    legend peers = {{NULL}, 0};
    double height = TOP + LINE * (double)lines_of(results, count) + 16, y = TOP + LINE / 2.0;
    char title[128];
    FILE *svg = bench_svg_open(path, LABELS + SCALE + 30, height);
    snprintf(title, sizeof title, "sagemem over each peer: less than 1 is less time or memory (retention policy: %s)",
             bench_policy());
    bench_svg_text(svg, 16, 16, BENCH_START, "#000000", title);
    draw_scale(svg, height - 14);
    for (size_t r = 0; r < count; r++) {
        if (!is_drawn(&results[r])) continue;
        draw_row(svg, &results[r], y, &peers);
        y += LINE;
    }
    draw_legend(svg, &peers);
    bench_svg_close(svg, path);
}
