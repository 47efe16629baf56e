/* The command line: see options.h. */
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "forest.h"

static bool set_output(struct options *options, const char *value) {
    options->output = value;
    return true;
}

/* Whoever forgets the name must not get the picture in place of a tree file. */
static bool set_plot(struct options *options, const char *value) {
    const char *suffix = strrchr(value, '.');
    if (!suffix || strcmp(suffix, ".svg") != 0) return fail("--plot takes the name of an .svg file, not '%s'", value);
    options->plot = value;
    return true;
}

static bool set_scale_factors(struct options *options, const char *value) {
    options->scale_factors = value;
    return true;
}

/* "63,41,32", or "all" */
static bool set_snapshots(struct options *options, const char *value) {
    char *end = NULL;
    options->snapshot_count = 0;
    if (strcmp(value, "all") == 0) return true;
    for (const char *at = value;; at = end + 1) {
        long number = isdigit((unsigned char)*at) ? strtol(at, &end, 10) : -1;
        if (number < 0 || number > INT32_MAX || (*end != ',' && *end != '\0'))
            return fail("--snapshots takes numbers with commas between them, not '%s'", value);
        for (int i = 0; i < options->snapshot_count; i++)
            if (options->snapshots[i] == number) return fail("--snapshots has %ld twice", number);
        if (options->snapshot_count == MAX_OUTPUTS) return fail("--snapshots takes at most %d of them", MAX_OUTPUTS);
        options->snapshots[options->snapshot_count++] = (int32_t)number;
        if (*end == '\0') return true;
    }
}

/* "2G", "512MiB", "100000": units are binary. */
static bool set_limit(struct options *options, const char *value) {
    static const char units[] = "KMGT";
    char *end = NULL;
    errno = 0;
    unsigned long long number = isdigit((unsigned char)*value) ? strtoull(value, &end, 10) : 0;
    const char *unit = number > 0 && *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    const char *rest = unit ? end + 1 : end;
    if (number == 0 || (strcmp(rest, "") != 0 && strcmp(rest, "B") != 0 && (!unit || strcmp(rest, "iB") != 0)))
        return fail("--limit takes a size such as 2G or 512MiB, not '%s'", value);
    if (errno == ERANGE || number > UINT64_MAX >> shift) return fail("--limit: %s is more than can be counted", value);
    options->limit = (uint64_t)number << shift;
    return true;
}

/* "html:memory.html" */
static bool set_report(struct options *options, const char *value) {
    static const char *const names[] = {"text",       "brief",  "json", "csv",
                                        "prometheus", "folded", "html"}; /* in the library's order */
    size_t length = strcspn(value, ":");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strlen(names[i]) != length || strncmp(value, names[i], length) != 0) continue;
        if (value[length] == ':' && value[length + 1] == '\0') return fail("--report %s needs a path behind the colon", names[i]);
        options->report = (sagemem_format)i;
        options->report_path = value[length] == ':' ? value + length + 1 : NULL;
        options->report_wanted = true;
        return true;
    }
    return fail("--report takes text, brief, json, csv, prometheus, folded or html, with :PATH if you like, not '%s'", value);
}

static bool set_trace(struct options *options, const char *value) {
    options->trace = value;
    return true;
}

static bool set_format(struct options *options, const char *value) {
    options->format = strcmp(value, "hdf5") == 0 ? FORMAT_HDF5 : FORMAT_BINARY;
    return options->format == FORMAT_HDF5 || strcmp(value, "binary") == 0 || fail("--format takes binary or hdf5, not '%s'", value);
}

/* A whole number from 1 on, in decimal; 0: it is none, or above `most`. */
static unsigned long whole_number(const char *value, unsigned long most) {
    char *end = NULL;
    unsigned long number = isdigit((unsigned char)*value) && strlen(value) < 10 ? strtoul(value, &end, 10) : 0;
    return end && *end == '\0' && number <= most ? number : 0;
}

static bool set_threads(struct options *options, const char *value) {
    options->threads = (int)whole_number(value, MAX_THREADS);
    return options->threads > 0 || fail("--threads takes a number from 1 to %d, not '%s'", MAX_THREADS, value);
}

static bool set_buffer_mb(struct options *options, const char *value) {
    options->buffer_bytes = (uint64_t)whole_number(value, 1 << 20) << 20;
    return options->buffer_bytes > 0 || fail("--buffer-mb takes a number of MiB from 1 to %d, not '%s'", 1 << 20, value);
}

static const struct option {
    const char *name;
    const char *value; /* what it is called in the help; NULL: it takes none */
    const char *help;
    bool (*set_fn)(struct options *options, const char *value);
    size_t flag; /* instead of it: of a bool in the options that becomes true; 0: none */
} option_table[] = {
    {"--help", NULL, "print this and end", NULL, 0},
    {"--output", "DIR", "where the galaxies go; made if it is missing", set_output, 0},
    {"--snapshots", "LIST", "the snapshots to write, such as 63,41,32 [all, the last 64 at most]", set_snapshots, 0},
    {"--format", "FORMAT", "the form of galaxy files: binary, or hdf5 where it was built in [binary]", set_format, 0},
    {"--plot", "FILE.svg", "draw the stellar mass function of the last snapshot written", set_plot, 0},
    {"--scale-factors", "FILE", "scale factor of each snapshot, one a line [those of the Millennium run]", set_scale_factors, 0},
    {"--threads", "N", "work on so many forests at a time [1]", set_threads, 0},
    {"--limit", "SIZE", "hold at most so much memory, all threads together: 2G, 512MiB [all there is]", set_limit, 0},
    {"--buffer-mb", "N", "buffers of all output files together, MiB [8, a quarter of the limit at most]", set_buffer_mb, 0},
    {"--no-mapping", NULL, "read trees, do not map them: for files that may be cut short meanwhile", NULL,
     offsetof(struct options, without.mapping)},
    {"--no-pool", NULL, "allocate galaxies one by one, not from a pool", NULL, offsetof(struct options, without.pool)},
    {"--no-scope", NULL, "make and destroy a heap for each forest, instead of a scope", NULL,
     offsetof(struct options, without.scope)},
    {"--no-array", NULL, "let arrays grow by a fixed step, not by a factor", NULL, offsetof(struct options, without.array)},
    {"--no-column", NULL, "search the records of galaxies, not a column beside them", NULL,
     offsetof(struct options, without.column)},
    {"--no-buffers", NULL, "write each record by a system call of its own", NULL, offsetof(struct options, without.buffers)},
    {"--report", "FORMAT[:PATH]", "text, brief, json, csv, prometheus, folded, html; SIGUSR1: also during the run [text]",
     set_report, 0},
    {"--trace", "PATH", "every allocation, for sagemem-replay; PATH.json: for ui.perfetto.dev", set_trace, 0},
    {"--checked", NULL, "check every block of memory for damage after each tree", NULL, offsetof(struct options, checked)},
    {"--quiet", NULL, "print no summary and no progress, and a report only if --report asks for it", NULL,
     offsetof(struct options, quiet)},
};
enum { OPTION_COUNT = sizeof option_table / sizeof option_table[0] };

static void print_help(void) {
    printf("usage: forest [options] --output DIR [--scale-factors FILE] TREEFILE...\n"
           "Makes galaxies of the merger trees in LHaloTree files.\n\n");
    for (int i = 0; i < OPTION_COUNT; i++) {
        const struct option *option = &option_table[i];
        int width = printf("  %s %s", option->name, option->value ? option->value : "");
        printf("%*s%s\n", 26 - width, "", option->help);
    }
}

static const struct option *option_find(const char *name) {
    for (int i = 0; i < OPTION_COUNT; i++)
        if (strcmp(option_table[i].name, name) == 0) return &option_table[i];
    return NULL;
}

static int wrong(void) {
    char reason[REASON_BYTES];
    fail_take_reason(reason);
    fprintf(stderr, "forest: %s\n", reason);
    fprintf(stderr, "Try 'forest --help'.\n");
    return 2;
}

int options_parse(struct options *options, int argc, char **argv) {
    *options = (struct options){.report = SAGEMEM_FORMAT_TEXT, .threads = 1, .tree_files = argv};
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-') {
            argv[options->tree_file_count++] = argv[i];
            continue;
        }
        const struct option *option = option_find(argv[i]);
        if (!option) {
            fail("unknown option '%s'", argv[i]);
            return wrong();
        }
        if (option->flag) {
            memcpy((char *)options + option->flag, &(bool){true}, sizeof(bool));
            continue;
        }
        if (!option->set_fn) {
            print_help();
            return 0;
        }
        if (option->value && i + 1 == argc) {
            fail("%s needs a value: %s", option->name, option->value);
            return wrong();
        }
        if (!option->set_fn(options, option->value ? argv[++i] : NULL)) return wrong();
    }
    if (options->buffer_bytes == 0) {
        options->buffer_bytes = 8 << 20;
        if (options->limit > 0 && options->limit / 4 < options->buffer_bytes) options->buffer_bytes = options->limit / 4;
    }
    if (options->output && options->tree_file_count > 0) return OPTIONS_GO_ON;
    fail(options->output ? "no tree file is given" : "--output DIR is missing");
    return wrong();
}
