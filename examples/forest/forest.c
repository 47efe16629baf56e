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
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"
#include "options.h"
#include "output.h"
#include "plot.h"
#include "summary.h"
#include "trees.h"

bool fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("forest: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return false;
}

/* -- The scale factors of the snapshots ------------------------------------------------------------------ */

enum { MAX_SNAPSHOTS = 4096 };

struct scale_factors {
    double values[MAX_SNAPSHOTS];
    int32_t count;
};

/* Those of the Millennium run: four early ones, then log10(1 + z) = n (n + 35) / 4200 for n = 59 ... 0 (Springel et
 * al. 2005), to the six decimals that its list has. */
static void scale_factors_millennium(struct scale_factors *factors) {
    static const double early[] = {0.007813, 0.012346, 0.019608, 0.032258};
    for (size_t i = 0; i < sizeof early / sizeof early[0]; i++) factors->values[factors->count++] = early[i];
    for (int n = 59; n >= 0; n--) factors->values[factors->count++] = round(1e6 * pow(10, -n * (n + 35) / 4200.0)) / 1e6;
}

static bool scale_factors_parse(struct scale_factors *factors, FILE *stream, const char *path) {
    char line[128];
    double before = 0;
    while (fgets(line, sizeof line, stream)) {
        char *end;
        double value = strtod(line, &end);
        int32_t number = factors->count + 1;
        if (end == line || end[strspn(end, " \t\r\n")] != '\0')
            return fail("%s: line %" PRId32 " is not a scale factor", path, number);
        if (!(value > before && value >= 1e-6 && value <= 1e6))
            return fail("%s: line %" PRId32 ": scale factors increase, and are 1e-6 at least and 1e6 at most", path, number);
        if (factors->count == MAX_SNAPSHOTS) return fail("%s: more than %d scale factors", path, MAX_SNAPSHOTS);
        factors->values[factors->count++] = before = value;
    }
    if (ferror(stream)) return fail("%s: cannot read it: %s", path, strerror(errno));
    return factors->count > 0 || fail("%s: no scale factors", path);
}

static bool scale_factors_read(struct scale_factors *factors, const char *path) {
    FILE *stream = fopen(path, "r");
    if (!stream) return fail("%s: cannot open it: %s", path, strerror(errno));
    bool good = scale_factors_parse(factors, stream, path);
    fclose(stream);
    return good;
}

/* -- The run --------------------------------------------------------------------------------------------- */

struct run {
    const struct options *options;
    struct model model;
    struct galaxy_file outputs[MAX_OUTPUTS];
    int output_count;
    struct plot plot;
    struct summary summary;
};

static bool model_open(struct run *run) {
    struct scale_factors *factors = SAGEMEM_NEW(NULL, struct scale_factors, TAG_SNAPSHOTS);
    if (!factors) return fail("scale factors: %s", sagemem_last_error()->message);
    bool good = true;
    if (run->options->scale_factors) good = scale_factors_read(factors, run->options->scale_factors);
    else scale_factors_millennium(factors);
    if (good && !model_init(&run->model, factors->values, factors->count))
        good = fail("the model: %s", sagemem_last_error()->message);
    sagemem_free(factors);
    return good;
}

static bool output_open(struct run *run, int32_t snapshot) {
    if (snapshot >= run->model.epoch_count)
        return fail("there is no snapshot %" PRId32 ": there are %" PRId32 " scale factors", snapshot, run->model.epoch_count);
    if (!galaxy_file_open(&run->outputs[run->output_count], run->options->output, snapshot, &run->model.epochs[snapshot]))
        return false;
    run->output_count++;
    if (snapshot > run->summary.snapshot) run->summary.snapshot = snapshot;
    return true;
}

static bool outputs_open(struct run *run) {
    const struct options *options = run->options;
    if (!galaxy_directory_make(options->output)) return false;
    if (options->plot && !plot_open(&run->plot, options->plot)) return false;
    if (options->snapshot_count == 0) return output_open(run, run->model.epoch_count - 1);
    for (int i = 0; i < options->snapshot_count; i++)
        if (!output_open(run, options->snapshots[i])) return false;
    return true;
}

/* One tree, within its scope: what is allocated here is nobody's to free. */
static bool run_tree_in_scope(struct run *run, struct tree_file *file, struct forest_peak *forest) {
    struct tree tree;
    struct population population;
    if (!tree_file_read(file, run->model.epoch_count, &tree)) return false;
    if (!model_run(&run->model, &tree, &population))
        return fail("%s: tree %" PRId32 " of %" PRId32 " halos: %s", file->path, tree.index, tree.halo_count,
                    sagemem_last_error()->message);
    for (int i = 0; i < run->output_count; i++)
        if (!galaxy_file_write(&run->outputs[i], forest->file, &tree, &population)) return false;
    if (run->options->checked && sagemem_heap_check(NULL) != 0)
        return fail("%s: tree %" PRId32 ": memory is damaged", file->path, tree.index);

    summary_add(&run->summary, &run->model, &tree, &population);
    forest->tree = tree.index;
    forest->halo_count = tree.halo_count;
    forest->galaxy_count = population.galaxy_count;
    return true;
}

static bool run_tree(struct run *run, struct tree_file *file, int32_t file_number) {
    struct forest_peak forest = {.forest = run->summary.tree_count, .file = file_number};
    if (sagemem_scope_begin(NULL, "forest", forest.forest) != SAGEMEM_OK)
        return fail("%s: %s", file->path, sagemem_last_error()->message);
    bool good = run_tree_in_scope(run, file, &forest);
    if (sagemem_scope_end(NULL) != SAGEMEM_OK || (good && !summary_add_peak(&run->summary, forest)))
        return fail("%s: %s", file->path, sagemem_last_error()->message);
    return good;
}

static bool run_file(struct run *run, int32_t number) {
    struct tree_file file;
    if (!tree_file_open(&file, run->options->tree_files[number])) return false;
    bool good = true;
    while (good && file.trees_read < file.tree_count) good = run_tree(run, &file, number);
    tree_file_close(&file);
    return good;
}

/* First all files are complete on disk, then all get their names. */
static bool outputs_commit(struct run *run) {
    double redshift = 1 / run->model.epochs[run->summary.snapshot].scale_factor - 1;
    for (int i = 0; i < run->output_count; i++)
        if (!galaxy_file_finish(&run->outputs[i], run->options->tree_file_count)) return false;
    if (run->options->plot && !plot_finish(&run->plot, &run->summary, redshift)) return false;
    for (int i = 0; i < run->output_count; i++)
        if (!galaxy_file_commit(&run->outputs[i])) return false;
    return !run->options->plot || plot_commit(&run->plot);
}

static bool run_all(struct run *run) {
    if (!model_open(run) || !outputs_open(run)) return false;
    for (int32_t i = 0; i < run->options->tree_file_count; i++)
        if (!run_file(run, i)) return false;
    if (!outputs_commit(run)) return false;
    if (!run->options->quiet)
        summary_print(&run->summary, &run->model, run->options->tree_file_count, run->outputs, run->output_count);
    return true;
}

static void run_close(struct run *run) {
    for (int i = 0; i < run->output_count; i++) galaxy_file_close(&run->outputs[i]);
    plot_close(&run->plot);
    model_deinit(&run->model);
}

/* -- Memory: before and after ---------------------------------------------------------------------------- */

static bool memory_setup(const struct options *options) {
    static const struct {
        sagemem_tag tag;
        const char *name;
    } tags[] = {
        {TAG_TREES, "Core/Trees"},         {TAG_GALAXIES, "Core/Galaxies"}, {TAG_GROUPS, "Core/Groups"},
        {TAG_SNAPSHOTS, "Core/Snapshots"}, {TAG_OUTPUT, "Core/Output"},     {TAG_COOLING, "Physics/Cooling"},
        {TAG_MERGERS, "Physics/Mergers"},
    };
    const sagemem_heap_desc checked = {.name = "checked", .flags = SAGEMEM_HEAP_CHECKED};
    sagemem_status status = SAGEMEM_OK;
    for (size_t i = 0; status == SAGEMEM_OK && i < sizeof tags / sizeof tags[0]; i++)
        status = sagemem_tag_define(tags[i].tag, tags[i].name);
    if (status == SAGEMEM_OK && options->checked) status = sagemem_heap_default_configure(&checked);
    if (status == SAGEMEM_OK && options->limit > 0) status = sagemem_limit_set(NULL, options->limit);
    return status == SAGEMEM_OK || fail("%s", sagemem_last_error()->message);
}

/* By now all has been given back: what the report shows as in use would be a leak. */
static bool memory_report(const struct options *options, const struct summary *summary) {
    if (!options->quiet) {
        summary_print_worst(summary);
        putchar('\n');
    }
    if (fflush(stdout) != 0 || ferror(stdout)) /* the library does not write through our stdout */
        return fail("standard output: %s", strerror(errno));
    if (options->quiet && !options->report_wanted) return true;
    return sagemem_report_file(NULL, options->report, "-") == SAGEMEM_OK || fail("%s", sagemem_last_error()->message);
}

int main(int argc, char **argv) {
    struct options options;
    int status = options_parse(&options, argc, argv);
    if (status != OPTIONS_GO_ON) return status;

    struct run run = {.options = &options};
    bool good = memory_setup(&options) && run_all(&run);
    run_close(&run);
    return good && memory_report(&options, &run.summary) ? EXIT_SUCCESS : EXIT_FAILURE;
}
