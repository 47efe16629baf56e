/* The stellar mass function as a picture, in SVG. */
#ifndef PLOT_H
#define PLOT_H

#include <stdbool.h>

#include "sagemem.h"

struct summary;

/* A picture to be drawn; an old one stays as it is until this one is committed. */
struct plot {
    const char *path; /* the caller's */
    sagemem_writer *writer;
};

/* All of these give the reason when they fail. What was opened is to be committed or closed. Nothing but the galaxies makes
 * a difference to the bytes. */
bool plot_open(struct plot *plot, sagemem_heap *heap, const char *path);
bool plot_finish(struct plot *plot, const struct summary *summary, double redshift); /* draws it */
bool plot_commit(struct plot *plot);                                                 /* gives it its name */
void plot_close(struct plot *plot);                                                  /* abandons it unless it was committed */

#endif
