/* forest_trees: merger trees from a seed, for programs that read those of the Millennium runs.
 *
 *     cc -O2 -I ../forest -o forest_trees *.c -lm
 *     ./forest_trees --trees 5000 --halos 300 --output trees
 *
 * writes trees/trees_063.0 and trees/trees.a_list, and prints
 *
 *     Trees           5000
 *     Halos           1356403, 28649 of them in the largest tree
 *     Files           1
 *     Box             79 Mpc/h
 *
 * No simulation is behind them: they are random, but have what a model of galaxies lives on (see grow.c). A tree depends
 * on the seed and its number alone, not on how many there are or in how many files; and the same options give the
 * same bytes everywhere (see universe.h). One tree is in memory at a time.
 */
#define _POSIX_C_SOURCE 200809L /* for mkdir, whatever C standard the compiler is told to keep */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#include <direct.h>
#define mkdir(path, mode) _mkdir(path)
#else
#include <sys/stat.h>
#endif

#include "grow.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "forest_trees: tree files are little-endian and are written as they are in memory; this machine is not"
#endif

__attribute__((format(printf, 1, 2))) static bool fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("forest_trees: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return false;
}

/* -- The command line ---------------------------------------------------------------------------------------- */

struct options {
    const char *output;
    int64_t trees, halos, huge, files, seed;
};

static const struct option {
    const char *name, *value, *help;
    size_t place; /* of a number in the options */
    int64_t least, most;
} option_table[] = {
    {"--help", NULL, "print this and end", 0, 0, 0},
    {"--output", "DIR", "where trees_063.0 and so on, and trees.a_list, go; made if it is missing", 0, 0, 0},
    {"--trees", "N", "how many trees [1000]", offsetof(struct options, trees), 0, 100000000},
    {"--halos", "N", "how many halos they have on average, about [300]", offsetof(struct options, halos), 50, 100000},
    {"--huge", "N", "one tree more, the last one, of about N halos [none]", offsetof(struct options, huge), 1, 10000000},
    {"--files", "N", "how many files they are shared out to [1]", offsetof(struct options, files), 1, 10000},
    {"--seed", "N", "other trees for another seed [1]", offsetof(struct options, seed), 0, INT64_MAX},
};
enum { OPTION_COUNT = sizeof option_table / sizeof option_table[0], GO_ON = -1 };

static void print_help(void) {
    printf("usage: forest_trees [options] --output DIR\n"
           "Makes merger trees, as LHaloTree files with 64 snapshots.\n\n");
    for (int i = 0; i < OPTION_COUNT; i++) {
        const struct option *option = &option_table[i];
        int width = printf("  %s %s", option->name, option->value ? option->value : "");
        printf("%*s%s\n", 20 - width, "", option->help);
    }
}

static bool set_number(struct options *options, const struct option *option, const char *text) {
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || number < option->least || number > option->most)
        return fail("%s takes a number from %" PRId64 " to %" PRId64 ", not '%s'", option->name, option->least, option->most, text);
    int64_t value = number;
    memcpy((char *)options + option->place, &value, sizeof value);
    return true;
}

static const struct option *option_find(const char *name) {
    for (int i = 0; i < OPTION_COUNT; i++)
        if (strcmp(option_table[i].name, name) == 0) return &option_table[i];
    return NULL;
}

static int wrong(void) {
    fprintf(stderr, "Try 'forest_trees --help'.\n");
    return 2;
}

static int options_parse(struct options *options, int argc, char **argv) {
    *options = (struct options){.trees = 1000, .halos = 300, .files = 1, .seed = 1};
    for (int i = 1; i < argc; i++) {
        const struct option *option = option_find(argv[i]);
        if (!option) {
            fail("unknown option '%s'", argv[i]);
            return wrong();
        }
        if (!option->value) {
            print_help();
            return 0;
        }
        if (++i == argc) {
            fail("%s needs a value: %s", option->name, option->value);
            return wrong();
        }
        if (option->place == 0) options->output = argv[i];
        else if (!set_number(options, option, argv[i])) return wrong();
    }
    if (options->output) return GO_ON;
    fail("--output DIR is missing");
    return wrong();
}

/* -- Files --------------------------------------------------------------------------------------------------- */

/* int32 trees, int32 halos, int32 halos of each tree, then the halos: the table is known last and has its place kept. */
struct tree_writer {
    char path[4096];
    FILE *stream;
    int32_t tree_count, halo_count, trees_written;
    int32_t *halo_counts;
};

static bool fail_to(const char *what, const char *path) { return fail("%s: cannot %s: %s", path, what, strerror(errno)); }

static bool write_table(struct tree_writer *file) {
    int32_t header[2] = {file->tree_count, file->halo_count};
    size_t count = (size_t)file->tree_count;
    return (fseek(file->stream, 0, SEEK_SET) == 0 && fwrite(header, sizeof header, 1, file->stream) == 1 &&
            fwrite(file->halo_counts, sizeof *file->halo_counts, count, file->stream) == count) ||
           fail_to("write", file->path);
}

static bool file_open(struct tree_writer *file, const char *directory, int64_t number, int64_t trees) {
    *file = (struct tree_writer){.tree_count = (int32_t)trees};
    int length = snprintf(file->path, sizeof file->path, "%s/trees_%03d.%" PRId64, directory, LAST_SNAPSHOT, number);
    if (length < 0 || (size_t)length >= sizeof file->path) return fail("%s: the name is too long", directory);
    file->halo_counts = calloc((size_t)trees + 1, sizeof *file->halo_counts); /* + 1: of nothing there may be NULL */
    if (!file->halo_counts) return fail_to("keep count", file->path);
    file->stream = fopen(file->path, "wb");
    if (!file->stream) return fail_to("create", file->path);
    return write_table(file);
}

static bool file_write(struct tree_writer *file, const struct grove *grove) {
    if (grove->halo_count > INT32_MAX - file->halo_count)
        return fail("%s: more halos than the format can count; more files would help", file->path);
    size_t count = (size_t)grove->halo_count;
    if (fwrite(grove->halos, sizeof *grove->halos, count, file->stream) != count) return fail_to("write", file->path);
    file->halo_counts[file->trees_written++] = grove->halo_count;
    file->halo_count += grove->halo_count;
    return true;
}

/* Completes a file, or removes it unless all of it is there. */
static bool file_close(struct tree_writer *file, bool good) {
    if (file->stream) {
        good = good && write_table(file);
        if (fclose(file->stream) != 0 && good) good = fail_to("write", file->path);
        if (!good) remove(file->path);
    }
    free(file->halo_counts);
    return good;
}

static bool write_scale_factors(const struct universe *universe, const char *directory) {
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/trees.a_list", directory);
    if (length < 0 || (size_t)length >= sizeof path) return fail("%s: the name is too long", directory);
    FILE *stream = fopen(path, "w");
    if (!stream) return fail_to("create", path);
    for (int i = 0; i < SNAPSHOTS; i++) {
        int64_t a = universe->epochs[i].scale_factor;
        fprintf(stream, "%" PRId64 ".%06" PRId64 "\n", a / MILLION, a % MILLION);
    }
    bool good = !ferror(stream);
    return (fclose(stream) == 0 && good) || fail_to("write", path);
}

/* -- The forest ---------------------------------------------------------------------------------------------- */

struct forest {
    const struct options *options;
    struct universe universe;
    struct distribution roots;
    struct grove grove;
    int64_t side, tree_count, halo_count, largest;
};

/* A tree has random numbers of its own, from its number. */
static bool make_tree(struct forest *forest, struct tree_writer *file) {
    struct grove *grove = &forest->grove;
    grove->number = forest->tree_count++;
    grove->random = random_start((uint64_t)forest->options->seed, (uint64_t)grove->number);
    int64_t mass = grove->number < forest->options->trees ? distribution_draw(&forest->roots, &grove->random)
                                                          : universe_mass_for(forest->options->huge);
    if (!grow(grove, mass))
        return fail("tree %" PRId64 ": no memory for more than %" PRId32 " halos", grove->number, grove->halo_count);
    dress(grove, forest->side);
    forest->halo_count += grove->halo_count;
    if (grove->halo_count > forest->largest) forest->largest = grove->halo_count;
    return file_write(file, grove);
}

/* The trees are shared out evenly, in their order. */
static bool make_file(struct forest *forest, int64_t number) {
    int64_t trees = forest->options->trees + (forest->options->huge > 0), files = forest->options->files;
    int64_t end = trees * (number + 1) / files;
    struct tree_writer file;
    forest->grove.file_number = (int32_t)number;
    bool good = file_open(&file, forest->options->output, number, end - trees * number / files);
    while (good && forest->tree_count < end) good = make_tree(forest, &file);
    return file_close(&file, good);
}

static bool make_forest(struct forest *forest) {
    const struct options *options = forest->options;
    if (mkdir(options->output, 0777) != 0 && errno != EEXIST) return fail_to("make this directory", options->output);
    universe_make(&forest->universe);
    universe_roots(&forest->universe, options->halos, &forest->roots);
    forest->side = universe_side(&forest->universe, &forest->roots, options->trees);
    forest->grove.universe = &forest->universe;
    for (int64_t i = 0; i < options->files; i++)
        if (!make_file(forest, i)) return false;
    return write_scale_factors(&forest->universe, options->output);
}

static bool print_summary(const struct forest *forest) {
    printf("Trees           %" PRId64 "\n"
           "Halos           %" PRId64 ", %" PRId64 " of them in the largest tree\n"
           "Files           %" PRId64 "\n"
           "Box             %" PRId64 " Mpc/h\n",
           forest->tree_count, forest->halo_count, forest->largest, forest->options->files, forest->side);
    return (fflush(stdout) == 0 && !ferror(stdout)) || fail_to("write", "standard output");
}

int main(int argc, char **argv) {
    struct options options;
    int status = options_parse(&options, argc, argv);
    if (status != GO_ON) return status;

    static struct forest forest; /* its tables are large for a stack */
    forest.options = &options;
    bool good = make_forest(&forest) && print_summary(&forest);
    grove_free(&forest.grove);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
