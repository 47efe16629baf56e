/* What the program is asked to do. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "forest.h"
#include "output.h"
#include "sagemem.h"

enum { MAX_THREADS = 256 };

struct options {
    const char *output;        /* directory */
    const char *plot;          /* file; NULL: none */
    const char *scale_factors; /* file; NULL: those of the Millennium run */
    int32_t snapshots[MAX_OUTPUTS];
    enum galaxy_format format;
    int snapshot_count;    /* 0: all, or the last MAX_OUTPUTS */
    uint64_t limit;        /* bytes; 0: none */
    uint64_t buffer_bytes; /* of all output files together */
    int threads;
    struct without without;
    sagemem_format report;
    const char *report_path; /* NULL: standard output, after the summary or, of the forms for programs, alone */
    bool report_wanted;      /* it was asked for */
    const char *trace;       /* file; NULL: none */
    bool checked, quiet;
    char **tree_files;
    int tree_file_count;
};

/* The report is for a program, and goes where the summary would: then there is nothing else. */
static inline bool options_report_alone(const struct options *options) {
    return options->report > SAGEMEM_FORMAT_BRIEF && !options->report_path;
}

enum { OPTIONS_GO_ON = -1 };

/* Reads the command line, moving the names of tree files to the front of argv. Returns OPTIONS_GO_ON, or the status
 * to end the program with: 0 when help was asked for and given, 2 when the command line is wrong, as then printed. */
int options_parse(struct options *options, int argc, char **argv);

#endif
