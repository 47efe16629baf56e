/* The stellar mass function as a picture, in SVG. */
#ifndef PLOT_H
#define PLOT_H

#include <stdbool.h>
#include <stdio.h>

struct summary;

/* A picture to be drawn, under another name until it is committed. */
struct plot {
    const char *path; /* the caller's */
    char *temporary;  /* the name it has; NULL once committed */
    FILE *stream;     /* NULL once finished */
};

/* All of these print the reason when they fail. What was opened is to be closed; unless it has been finished and
 * committed before, closing it leaves no file. Nothing but the galaxies makes a difference to the bytes. */
bool plot_open(struct plot *plot, const char *path);
bool plot_finish(struct plot *plot, const struct summary *summary, double redshift); /* draws it */
bool plot_commit(struct plot *plot);                                                 /* gives it its name */
void plot_close(struct plot *plot);

#endif
