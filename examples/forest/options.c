/* The command line: see options.h. */
#include "options.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "forest.h"

static bool set_output(struct options *options, const char *value) {
    options->output = value;
    return true;
}

static bool set_plot(struct options *options, const char *value) {
    options->plot = value;
    return true;
}

static bool set_scale_factors(struct options *options, const char *value) {
    options->scale_factors = value;
    return true;
}

/* "63,41,32" */
static bool set_snapshots(struct options *options, const char *value) {
    char *end = NULL;
    options->snapshot_count = 0;
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
    unsigned long long number = isdigit((unsigned char)*value) ? strtoull(value, &end, 10) : 0;
    const char *unit = number > 0 && *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    const char *rest = unit ? end + 1 : end;
    if (number == 0 || (strcmp(rest, "") != 0 && strcmp(rest, "B") != 0 && (!unit || strcmp(rest, "iB") != 0)))
        return fail("--limit takes a size such as 2G or 512MiB, not '%s'", value);
    if (number > UINT64_MAX >> shift) return fail("--limit: %s is more than can be counted", value);
    options->limit = (uint64_t)number << shift;
    return true;
}

static bool set_report(struct options *options, const char *value) {
    static const char *const names[] = {"text", "brief", "json"};
    static const sagemem_format formats[] = {SAGEMEM_FORMAT_TEXT, SAGEMEM_FORMAT_BRIEF, SAGEMEM_FORMAT_JSON};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(value, names[i]) == 0) {
            options->report = formats[i];
            options->report_wanted = true;
            return true;
        }
    return fail("--report takes text, brief or json, not '%s'", value);
}

static bool set_checked(struct options *options, const char *value) {
    (void)value;
    options->checked = true;
    return true;
}

static bool set_quiet(struct options *options, const char *value) {
    (void)value;
    options->quiet = true;
    return true;
}

static const struct option {
    const char *name;
    const char *value; /* what it is called in the help; NULL: it takes none */
    const char *help;
    bool (*set_fn)(struct options *options, const char *value);
} option_table[] = {
    {"--help", NULL, "print this and end", NULL},
    {"--output", "DIR", "where the galaxies go; made if it is missing", set_output},
    {"--snapshots", "LIST", "the snapshots to write, such as 63,41,32 [the last]", set_snapshots},
    {"--plot", "FILE.svg", "draw the stellar mass function of the last snapshot written", set_plot},
    {"--scale-factors", "FILE", "scale factor of each snapshot, one a line [those of the Millennium run]", set_scale_factors},
    {"--limit", "SIZE", "hold at most so much memory: 2G, 512MiB [all there is]", set_limit},
    {"--report", "FORMAT", "the report on memory: text, brief or json [text]", set_report},
    {"--checked", NULL, "check every block of memory for damage after each tree", set_checked},
    {"--quiet", NULL, "print no summary, and a report only if --report asks for it", set_quiet},
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
    fprintf(stderr, "Try 'forest --help'.\n");
    return 2;
}

int options_parse(struct options *options, int argc, char **argv) {
    *options = (struct options){.report = SAGEMEM_FORMAT_TEXT, .tree_files = argv};
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
        if (!option->set_fn) {
            print_help();
            return 0;
        }
        if (option->value && i + 1 == argc) {
            fail("%s needs a %s", option->name, option->value);
            return wrong();
        }
        if (!option->set_fn(options, option->value ? argv[++i] : NULL)) return wrong();
    }
    if (options->output && options->tree_file_count > 0) return OPTIONS_GO_ON;
    fail(options->output ? "no tree file is given" : "--output DIR is missing");
    return wrong();
}
