/* forest: galaxies from merger trees, and an account of the memory they took.
 *
 * The question this example answers: how does a program that works through thousands of trees, small and huge, keep
 * its memory in hand? Four habits do it, and each is a line or two here:
 *
 *   - every allocation says what it is for (the tags in forest.h), so that the report can tell physics from core;
 *   - one scope a tree (run_tree): whatever the model leaves behind is gone when the tree is done, also after a
 *     failure, and nothing has to remember what to free;
 *   - a limit (--limit): a tree that would take too much is an ordinary error that names the tree;
 *   - the library's own figures for each scope (summary_add_peak): which forest was it that needed so much?
 *
 * Build and run:
 *
 *     cc -O2 -pthread -I ../.. -o forest *.c -lm
 *     ./forest --output galaxies ../../tests/data/trees_063.0
 *
 * It prints, a part of it left out:
 *
 *     Trees           120
 *     Halos           7456
 *     Mergers         145, 8 of them major; from z = 0 by redshift: 106 27 11 1 0 0 and before
 *     Baryon balance  3.33e-16: 3.087762e+12 Msun/h were let in, 3.087762e+12 are there
 *     Written         galaxies/galaxies_063_z0.000.bin: 254 galaxies, 5.758583e+11 Msun/h of stars
 *
 *     The worst forests, by the most memory used at once:
 *       forest  file  tree   halos  galaxies  used KiB  held KiB  most of it
 *           37     0    37     406       583     183.1     256.0  Core/Galaxies, 138.6 KiB  <- the worst
 *           20     0    20     323       394     173.3     256.0  Core/Galaxies, 137.3 KiB
 *
 *     sagemem: process 'process'
 *       used 0 B (peak 250 KiB), held 832 KiB (peak 832 KiB), resident 2.77 MiB
 *
 *       tag                                  used       peak    at peak  share  blocks ever
 *     Core
 *       Galaxies                              0 B    139 KiB    139 KiB  55.5%          288
 *       Output                                0 B   64.1 KiB   64.1 KiB  25.7%            3
 *     Physics
 *       Mergers                               0 B      392 B      392 B   0.2%           47
 *
 * With --limit 500K it ends in one of the larger trees instead: it says which limit that tree would have passed and by
 * how much, and leaves no file behind.
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
        [TAG_TREES] = "Core/Trees",         [TAG_GALAXIES] = "Core/Galaxies",        [TAG_GROUPS] = "Core/Groups",
        [TAG_SEARCH] = "Core/Search",       [TAG_SNAPSHOTS] = "Core/Snapshots",      [TAG_OUTPUT] = "Core/Output",
        [TAG_COOLING] = "Physics/Cooling",  [TAG_STARS] = "Physics/Star formation",  [TAG_MERGERS] = "Physics/Mergers",
    };
    const sagemem_heap_desc checked = {.name = "checked", .flags = SAGEMEM_HEAP_CHECKED};
    sagemem_status status = SAGEMEM_OK;
    for (int tag = TAG_TREES; status == SAGEMEM_OK && tag < TAG_END; tag++)
        status = sagemem_tag_define((sagemem_tag)tag, names[tag]);
    if (status == SAGEMEM_OK && options->checked) status = sagemem_heap_default_configure(&checked);
    if (status == SAGEMEM_OK && options->limit > 0) status = sagemem_limit_set(NULL, options->limit);
    return status == SAGEMEM_OK || fail("%s", sagemem_last_error()->message);
}

static bool flush_output(void) { /* the library does not write through our stdout */
    return (fflush(stdout) == 0 && !ferror(stdout)) || fail("standard output: %s", strerror(errno));
}

static bool report_write(sagemem_format format) {
    return (flush_output() && sagemem_report_file(NULL, format, "-") == SAGEMEM_OK) || fail("%s", sagemem_last_error()->message);
}

/* By now all has been given back: what the report shows as in use would be a leak. */
static bool memory_report(const struct options *options, const struct summary *summary) {
    if (options->report == SAGEMEM_FORMAT_JSON) { /* one object, and nothing else */
        printf("{");
        summary_print_json(summary, options->tree_file_count);
        printf("\"memory\": ");
        if (!report_write(options->report)) return false;
        printf("}\n");
        return flush_output();
    }
    if (!options->quiet) {
        summary_print_worst(summary);
        putchar('\n');
    }
    return options->quiet && !options->report_wanted ? flush_output() : report_write(options->report);
}

int main(int argc, char **argv) {
    struct options options;
    int status = options_parse(&options, argc, argv);
    if (status != OPTIONS_GO_ON) return status;

    static struct run run; /* large */
    status = memory_setup(&options) ? run_all(&run, &options) : EXIT_FAILURE;
    run_close(&run);
    if (status == EXIT_SUCCESS && !memory_report(&options, &run.summary)) status = EXIT_FAILURE;
    if (status != EXIT_SUCCESS) {
        char reason[REASON_BYTES];
        fail_take_reason(reason);
        fprintf(stderr, "forest: %s\n", reason);
    }
    return status;
}
