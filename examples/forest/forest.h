/* What all files of the example share: what memory is for, and how to fail. */
#ifndef FOREST_H
#define FOREST_H

#include <stdbool.h>

#include "sagemem.h"

/* Trees and galaxies go between memory and disk as they are, so this program runs where the files were made for. */
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "forest: tree files are little-endian and are read as they are; this machine is not"
#endif

/* What a byte is for. The library names the tags in its reports; forest.c gives them their names. */
enum {
    TAG_TREES = 1, /* halos and their links */
    TAG_GALAXIES,  /* every galaxy of a tree at every snapshot */
    TAG_GROUPS,    /* the galaxies of the one group that is being evolved */
    TAG_SNAPSHOTS, /* scale factors, ages, expansion rates */
    TAG_OUTPUT,    /* output files and their buffers */
    TAG_COOLING,   /* the cooling function */
    TAG_MERGERS    /* who merged with whom */
};

/* Prints "forest: ..." on stderr; always false, so that a function can end with `return fail(...)`. */
bool fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
