/* forest: galaxies from merger trees, and an account of the memory they took.
 *
 * The question this example answers: how does a program that works through thousands of trees, small and huge, keep
 * its memory in hand? Each habit is a line or two here:
 *
 *   - every allocation says what it is for (the tags in forest.h), so that the report can tell physics from core;
 *   - one scope a tree (build in run.c): whatever the model leaves behind is gone when the tree is done, also after a
 *     failure, and nothing has to remember what to free;
 *   - galaxies from a pool (galaxies.c), whose hooks make, copy and free what each galaxy owns, and only for as long as
 *     they are needed: depth first, a galaxy ends when it has merged or nothing follows;
 *   - arrays that grow by a factor (list.c), and a column beside the records for the one field that is searched (model.c);
 *   - trees through a window that slides over the mapped file (trees.c), 64 writers with one budget for their buffers
 *     (output.c), files that are complete or not there, with a header that is patched at the end;
 *   - a forest for each thread (run.c), written in the order of the files whoever is done first (window.c);
 *   - a limit for all of it (--limit): a tree that would take too much is an ordinary error that names the tree;
 *   - the library's own figures for each scope (summary.c): which forest was it that needed so much?
 *   - a trace of every allocation (--trace), to be played again with less memory: sagemem-replay --limit 400K;
 *   - a report in any form, at the end or when SIGUSR1 asks for it (--report; report_if_asked in run.c): the handler sets a flag.
 *
 * Each tool can be switched off (--no-pool, ...): the galaxies stay the same to the byte, only memory and time do not.
 *
 * Build and run:
 *
 *     cc -O2 -pthread -I ../.. -o forest *.c -lm       (for --format hdf5 also -DFOREST_HDF5 -DSAGEMEM_WITH_HDF5=1 and
 *                                                       what pkg-config --cflags --libs hdf5 says)
 *     ./forest --snapshots 63 --output galaxies ../../tests/data/trees_063.0
 *
 * It prints, a part of it left out:
 *
 *     Trees           120
 *     Halos           7456
 *     Mergers         145, 8 of them major; from z = 0 by redshift: 106 27 11 1 0 0 and before
 *     Baryon balance  2.22e-16: 3.087762e+12 Msun/h were let in, 3.087762e+12 are there
 *     Written         galaxies/galaxies_063_z0.000.bin: 254 galaxies, 5.758583e+11 Msun/h of stars
 *
 *     The worst forests, by the most memory used at once:
 *       forest  file  tree   halos  galaxies  used KiB  held KiB  most of it
 *           37     0    37     406       583      65.5     128.0  Core/Trees, 41.6 KiB  <- the worst
 *           20     0    20     323       394      57.6      64.0  Core/Trees, 33.1 KiB
 *
 *     sagemem: process 'process'
 *       used 0 B (peak 135 KiB), held 528 KiB (peak 528 KiB), resident 2.63 MiB
 *
 *       tag                                  used       peak    at peak  share  blocks ever
 *     Core
 *       Output                                0 B   68.9 KiB   68.4 KiB  50.8%          186  ##########
 *       Trees                                 0 B   41.2 KiB   41.2 KiB  30.6%          241  ######
 *     Physics
 *       Star formation                        0 B   3.45 KiB   2.46 KiB   1.8%          678
 *
 *       scope                                used       peak       held       took
 *       forest 37                           ended   65.5 KiB    128 KiB     1.1 ms  <- worst
 *
 * Status: 0; 1 after a failure, which is told on stderr with file, tree and halo where there are any, and no file is
 * written (when it is standard output that fails, they are); 2 for a wrong command line; 130 after an interrupt (SIGINT;
 * 143 SIGTERM), which lets the forests in work come to their end and writes no file either: half a catalogue looks like a
 * whole one. A second interrupt ends it at once; the hidden files that it leaves are removed by the next run that writes
 * those snapshots there.
 */
#include "forest.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "run.h"
#include "summary.h"

static _Thread_local char kept_reason[REASON_BYTES];

bool fail(const char *format, ...) {
    if (kept_reason[0] != '\0') return false;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(kept_reason, sizeof kept_reason, format, arguments);
    va_end(arguments);
    return false;
}

void fail_take_reason(char reason[REASON_BYTES]) {
    memcpy(reason, kept_reason, REASON_BYTES);
    kept_reason[0] = '\0';
}

static bool memory_setup(const struct options *options) {
    static const char *const names[TAG_END] = {
        [TAG_TREES] = "Core/Trees",        [TAG_GALAXIES] = "Core/Galaxies",       [TAG_GROUPS] = "Core/Groups",
        [TAG_SEARCH] = "Core/Search",      [TAG_SNAPSHOTS] = "Core/Snapshots",     [TAG_OUTPUT] = "Core/Output",
        [TAG_COOLING] = "Physics/Cooling", [TAG_STARS] = "Physics/Star formation", [TAG_MERGERS] = "Physics/Mergers",
    };
    const sagemem_heap_desc checked = {.name = "checked", .flags = SAGEMEM_HEAP_CHECKED};
    sagemem_status status = SAGEMEM_OK;
    for (int tag = TAG_TREES; status == SAGEMEM_OK && tag < TAG_END; tag++)
        status = sagemem_tag_define((sagemem_tag)tag, names[tag]);
    if (status == SAGEMEM_OK && options->checked) status = sagemem_heap_default_configure(&checked);
    if (status == SAGEMEM_OK && options->limit > 0) status = sagemem_limit_set(NULL, options->limit);
    return status == SAGEMEM_OK || fail("%s", sagemem_last_error()->message);
}

/* Where memory goes over time: to be looked at in a browser, or played again under another limit. */
static bool trace_begin(const char *path) {
    const char *suffix = path ? strrchr(path, '.') : NULL;
    bool json = suffix && strcmp(suffix, ".json") == 0;
    const sagemem_trace_desc desc = {.path = path, .format = json ? SAGEMEM_TRACE_CHROME : SAGEMEM_TRACE_BINARY};
    return !path || sagemem_trace_begin(&desc) == SAGEMEM_OK || fail("%s", sagemem_last_error()->message);
}
static bool trace_end(const char *path) {
    return !path || sagemem_trace_end() == SAGEMEM_OK || fail("%s: %s", path, sagemem_last_error()->message);
}

static bool flush_output(void) { /* the library does not write through our stdout */
    return (fflush(stdout) == 0 && !ferror(stdout)) || fail("standard output: %s", strerror(errno));
}

static bool report_write(const struct options *options) {
    const char *path = options->report_path ? options->report_path : "-";
    return (flush_output() && sagemem_report_file(NULL, options->report, path) == SAGEMEM_OK) ||
           fail("%s", sagemem_last_error()->message);
}

/* By now all has been given back: what the report shows as in use would be a leak. */
static bool memory_report(const struct options *options, const struct summary *summary) {
    if (options_report_alone(options) && options->report == SAGEMEM_FORMAT_JSON) { /* one object, and nothing else */
        printf("{");
        summary_print_json(summary, options->tree_file_count);
        printf("\"memory\": ");
        if (!report_write(options)) return false;
        printf("}\n");
        return flush_output();
    }
    if (!options->quiet && !options_report_alone(options)) {
        summary_print_worst(summary);
        putchar('\n');
    }
    return options->quiet && !options->report_wanted ? flush_output() : report_write(options);
}

int main(int argc, char **argv) {
    struct options options;
    int status = options_parse(&options, argc, argv);
    if (status != OPTIONS_GO_ON) return status;

    static struct run run; /* large */
    bool ready = memory_setup(&options) && trace_begin(options.trace);
    status = ready ? run_all(&run, &options) : EXIT_FAILURE;
    run_close(&run);
    if (ready && !trace_end(options.trace) && status == EXIT_SUCCESS) status = EXIT_FAILURE;
    if (status == EXIT_SUCCESS && !memory_report(&options, &run.summary)) status = EXIT_FAILURE;
    if (status != EXIT_SUCCESS) {
        char reason[REASON_BYTES];
        fail_take_reason(reason);
        fprintf(stderr, "forest: %s\n", reason);
    }
    return status;
}
