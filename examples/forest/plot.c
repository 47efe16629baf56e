/* Draws the stellar mass function: see plot.h. Galaxies per dex, with the error of counting, on logarithmic axes. */
#include "plot.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "forest.h"
#include "summary.h"

/* -- The file ---------------------------------------------------------------------------------------------- */

static bool fail_to(const char *what, const struct plot *plot) {
    return fail("%s: cannot %s: %s", plot->path, what, sagemem_last_error()->message);
}

bool plot_open(struct plot *plot, sagemem_heap *heap, const char *path) {
    *plot = (struct plot){.path = path};
    plot->writer = sagemem_writer_open(
        &(sagemem_writer_desc){.path = path, .atomic = true, .initial_bytes = 1 << 14, .heap = heap, .tag = TAG_OUTPUT});
    return plot->writer || fail_to("create", plot);
}

bool plot_commit(struct plot *plot) {
    if (sagemem_writer_close(plot->writer) != SAGEMEM_OK) return fail_to("complete", plot);
    plot->writer = NULL;
    return true;
}

void plot_close(struct plot *plot) {
    sagemem_writer_abandon(plot->writer);
    *plot = (struct plot){0};
}

/* A drawing in progress. After a failure nothing more is drawn. */
struct svg {
    sagemem_writer *writer;
    bool failed;
};

__attribute__((format(printf, 2, 3))) static void put(struct svg *svg, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (!svg->failed) svg->failed = sagemem_write(svg->writer, text, (size_t)length) != SAGEMEM_OK;
}

/* -- The axes: dex from left to right, and upwards ------------------------------------------------------------ */

enum { WIDTH = 640, HEIGHT = 480, LEFT = 80, RIGHT = 620, TOP = 50, BOTTOM = 420 };

struct axes {
    int x_from, x_to, y_from, y_to;
};

static double per_dex(uint64_t count) { return log10((double)count / bin_log_mass); }

/* Whole dex around all that is drawn. */
static struct axes axes_for(const struct summary *summary) {
    struct axes axes = {.x_from = INT_MAX, .x_to = INT_MIN, .y_from = 0, .y_to = 1};
    for (int bin = 0; bin < MASS_BINS; bin++) {
        if (summary->with_mass[bin] == 0) continue;
        axes.x_from = (int)fmin(axes.x_from, floor(first_log_mass + bin * bin_log_mass));
        axes.x_to = (int)fmax(axes.x_to, ceil(first_log_mass + (bin + 1) * bin_log_mass));
        axes.y_to = (int)fmax(axes.y_to, ceil(per_dex(summary->with_mass[bin]) + 0.2));
    }
    if (axes.x_from > axes.x_to) axes.x_from = (int)first_log_mass, axes.x_to = axes.x_from + 1; /* no galaxy at all */
    return axes;
}

static double x_of(const struct axes *axes, double dex) {
    return LEFT + (dex - axes->x_from) / (axes->x_to - axes->x_from) * (RIGHT - LEFT);
}

static double y_of(const struct axes *axes, double dex) {
    return BOTTOM - (dex - axes->y_from) / (axes->y_to - axes->y_from) * (BOTTOM - TOP);
}

static void draw_line(struct svg *svg, double x1, double y1, double x2, double y2) {
    put(svg, "<path d=\"M%.1f %.1fL%.1f %.1f\" stroke=\"black\"/>\n", x1, y1, x2, y2);
}

static void draw_power(struct svg *svg, double x, double y, const char *anchor, int exponent) {
    put(svg, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">10<tspan dy=\"-6\" font-size=\"10\">%d</tspan></text>\n", x, y, anchor,
        exponent);
}

static void draw_x_axis(struct svg *svg, const struct axes *axes) {
    for (int dex = axes->x_from; dex <= axes->x_to; dex++) {
        double x = x_of(axes, dex);
        draw_line(svg, x, BOTTOM, x, BOTTOM - 8);
        draw_power(svg, x, BOTTOM + 22, "middle", dex);
        for (int i = 2; i < 10 && dex < axes->x_to; i++)
            draw_line(svg, x_of(axes, dex + log10(i)), BOTTOM, x_of(axes, dex + log10(i)), BOTTOM - 4);
    }
    put(svg, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">stellar mass [Msun/h]</text>\n", (LEFT + RIGHT) / 2, BOTTOM + 46);
}

static void draw_y_axis(struct svg *svg, const struct axes *axes) {
    for (int dex = axes->y_from; dex <= axes->y_to; dex++) {
        double y = y_of(axes, dex);
        draw_line(svg, LEFT, y, LEFT + 8, y);
        draw_power(svg, LEFT - 10, y + 5, "end", dex);
        for (int i = 2; i < 10 && dex < axes->y_to; i++)
            draw_line(svg, LEFT, y_of(axes, dex + log10(i)), LEFT + 4, y_of(axes, dex + log10(i)));
    }
    put(svg, "<text transform=\"translate(24 %d) rotate(-90)\" text-anchor=\"middle\">galaxies per dex</text>\n",
        (TOP + BOTTOM) / 2);
}

/* -- The galaxies ----------------------------------------------------------------------------------------------- */

/* A point in the middle of its bin, with the square root of the count as its error. The numbers go with it. */
static void draw_bin(struct svg *svg, const struct axes *axes, int bin, uint64_t count) {
    double log_mass = first_log_mass + (bin + 0.5) * bin_log_mass;
    double x = x_of(axes, log_mass), error = sqrt((double)count), scale = log10(bin_log_mass);
    double low = fmax(log10((double)count - error + 1e-9) - scale, axes->y_from);
    draw_line(svg, x, y_of(axes, low), x, y_of(axes, log10((double)count + error) - scale));
    put(svg,
        "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" data-log-mass=\"%.3f\" data-count=\"%" PRIu64 "\">"
        "<title>from 10^%.2f Msun/h on: %" PRIu64 " galaxies</title></circle>\n",
        x, y_of(axes, per_dex(count)), log_mass, count, log_mass - bin_log_mass / 2, count);
}

static void draw(struct svg *svg, const struct summary *summary, double redshift) {
    const struct axes axes = axes_for(summary);
    put(svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
        "font-size=\"15\">\n"
        "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n"
        "<text x=\"%d\" y=\"30\" text-anchor=\"middle\">Stellar mass function at z = %.3f, %" PRIu64 " trees</text>\n",
        WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT, (LEFT + RIGHT) / 2, redshift, summary->tree_count);
    put(svg, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" stroke=\"black\"/>\n", LEFT, TOP, RIGHT - LEFT,
        BOTTOM - TOP);
    draw_x_axis(svg, &axes);
    draw_y_axis(svg, &axes);
    put(svg, "<g fill=\"#1f5fa8\">\n");
    for (int bin = 0; bin < MASS_BINS; bin++)
        if (summary->with_mass[bin] > 0) draw_bin(svg, &axes, bin, summary->with_mass[bin]);
    put(svg, "</g>\n</svg>\n");
}

bool plot_finish(struct plot *plot, const struct summary *summary, double redshift) {
    struct svg svg = {.writer = plot->writer};
    draw(&svg, summary, redshift);
    return (!svg.failed && sagemem_writer_flush(plot->writer) == SAGEMEM_OK) || fail_to("write", plot);
}
