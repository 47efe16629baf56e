/* What all files of the example share: what memory is for, which tools are in use, and how to fail. */
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
    TAG_GALAXIES,  /* galaxies, and which halo has them */
    TAG_GROUPS,    /* the one group that is being evolved */
    TAG_SEARCH,    /* the column beside its records */
    TAG_SNAPSHOTS, /* scale factors, ages, expansion rates */
    TAG_OUTPUT,    /* output files, their buffers, and what waits for its turn to be written */
    TAG_COOLING,   /* the cooling function */
    TAG_STARS,     /* each galaxy's history of star formation */
    TAG_MERGERS,   /* who merged with whom */
    TAG_END
};

/* Tools of the library that are to be done without. The galaxies stay the same, to the byte. */
struct without {
    bool mapping; /* trees are read, not mapped */
    bool pool;    /* each galaxy is a block of its own */
    bool scope;   /* a forest has a heap of its own, made and destroyed */
    bool array;   /* arrays grow by realloc, a fixed step at a time */
    bool column;  /* the search goes through the records themselves */
    bool buffers; /* each record is a system call */
};

/* Keeps the reason why something failed, for the thread; of several the first, until it is asked for. Always false, so that
 * a function can end with `return fail(...)`. */
bool fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
enum { REASON_BYTES = 1024 };
void fail_take_reason(char reason[REASON_BYTES]); /* and forgets it */

#endif
