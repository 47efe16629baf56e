/* Draws the stellar mass function: see plot.h. Galaxies per dex, with the error of counting, on logarithmic axes. */
#include "plot.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include "forest.h"
#include "summary.h"

/* -- The file ---------------------------------------------------------------------------------------------- */

static bool fail_to(const char *what, const char *path) { return fail("%s: cannot %s: %s", path, what, strerror(errno)); }

bool plot_open(struct plot *plot, const char *path) {
    static const char suffix[] = ".part";
    size_t length = strlen(path);
    *plot = (struct plot){.path = path, .temporary = sagemem_alloc(NULL, length + sizeof suffix, TAG_OUTPUT)};
    if (!plot->temporary) return fail("%s: %s", path, sagemem_last_error()->message);
    memcpy(plot->temporary, path, length);
    memcpy(plot->temporary + length, suffix, sizeof suffix);
    plot->stream = fopen(plot->temporary, "w");
    if (plot->stream) return true;
    fail_to("create", plot->temporary);
    sagemem_free(plot->temporary); /* whatever is there is not ours to remove */
    plot->temporary = NULL;
    return false;
}

bool plot_commit(struct plot *plot) {
    if (rename(plot->temporary, plot->path) != 0)
        return fail("%s: cannot be renamed to %s: %s", plot->temporary, plot->path, strerror(errno));
    sagemem_free(plot->temporary);
    plot->temporary = NULL;
    return true;
}

void plot_close(struct plot *plot) {
    if (plot->stream) fclose(plot->stream);
    if (plot->temporary) remove(plot->temporary);
    sagemem_free(plot->temporary);
    *plot = (struct plot){0};
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

static void draw_line(FILE *svg, double x1, double y1, double x2, double y2) {
    fprintf(svg, "<path d=\"M%.1f %.1fL%.1f %.1f\" stroke=\"black\"/>\n", x1, y1, x2, y2);
}

static void draw_power(FILE *svg, double x, double y, const char *anchor, int exponent) {
    fprintf(svg, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">10<tspan dy=\"-6\" font-size=\"10\">%d</tspan></text>\n", x, y,
            anchor, exponent);
}

static void draw_x_axis(FILE *svg, const struct axes *axes) {
    for (int dex = axes->x_from; dex <= axes->x_to; dex++) {
        double x = x_of(axes, dex);
        draw_line(svg, x, BOTTOM, x, BOTTOM - 8);
        draw_power(svg, x, BOTTOM + 22, "middle", dex);
        for (int i = 2; i < 10 && dex < axes->x_to; i++)
            draw_line(svg, x_of(axes, dex + log10(i)), BOTTOM, x_of(axes, dex + log10(i)), BOTTOM - 4);
    }
    fprintf(svg, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">stellar mass [Msun/h]</text>\n", (LEFT + RIGHT) / 2, BOTTOM + 46);
}

static void draw_y_axis(FILE *svg, const struct axes *axes) {
    for (int dex = axes->y_from; dex <= axes->y_to; dex++) {
        double y = y_of(axes, dex);
        draw_line(svg, LEFT, y, LEFT + 8, y);
        draw_power(svg, LEFT - 10, y + 5, "end", dex);
        for (int i = 2; i < 10 && dex < axes->y_to; i++)
            draw_line(svg, LEFT, y_of(axes, dex + log10(i)), LEFT + 4, y_of(axes, dex + log10(i)));
    }
    fprintf(svg, "<text transform=\"translate(24 %d) rotate(-90)\" text-anchor=\"middle\">galaxies per dex</text>\n",
            (TOP + BOTTOM) / 2);
}

/* -- The galaxies ----------------------------------------------------------------------------------------------- */

/* A point in the middle of its bin, with the square root of the count as its error. The numbers go with it. */
static void draw_bin(FILE *svg, const struct axes *axes, int bin, uint64_t count) {
    double log_mass = first_log_mass + (bin + 0.5) * bin_log_mass;
    double x = x_of(axes, log_mass), error = sqrt((double)count), scale = log10(bin_log_mass);
    double low = fmax(log10((double)count - error + 1e-9) - scale, axes->y_from);
    draw_line(svg, x, y_of(axes, low), x, y_of(axes, log10((double)count + error) - scale));
    fprintf(svg,
            "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" data-log-mass=\"%.3f\" data-count=\"%" PRIu64 "\">"
            "<title>from 10^%.2f Msun/h on: %" PRIu64 " galaxies</title></circle>\n",
            x, y_of(axes, per_dex(count)), log_mass, count, log_mass - bin_log_mass / 2, count);
}

static void draw(FILE *svg, const struct summary *summary, double redshift) {
    const struct axes axes = axes_for(summary);
    fprintf(svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
            "font-size=\"15\">\n"
            "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n"
            "<text x=\"%d\" y=\"30\" text-anchor=\"middle\">Stellar mass function at z = %.3f, %" PRIu64 " trees</text>\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT, (LEFT + RIGHT) / 2, redshift, summary->tree_count);
    fprintf(svg, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" stroke=\"black\"/>\n", LEFT, TOP, RIGHT - LEFT,
            BOTTOM - TOP);
    draw_x_axis(svg, &axes);
    draw_y_axis(svg, &axes);
    fputs("<g fill=\"#1f5fa8\">\n", svg);
    for (int bin = 0; bin < MASS_BINS; bin++)
        if (summary->with_mass[bin] > 0) draw_bin(svg, &axes, bin, summary->with_mass[bin]);
    fputs("</g>\n</svg>\n", svg);
}

bool plot_finish(struct plot *plot, const struct summary *summary, double redshift) {
    draw(plot->stream, summary, redshift);
    bool good = !ferror(plot->stream);
    FILE *stream = plot->stream;
    plot->stream = NULL; /* closed even if that fails */
    return (fclose(stream) == 0 && good) || fail_to("write", plot->temporary);
}
