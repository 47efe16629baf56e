/* Counts what trees and galaxies there were, and prints it: see summary.h. */
#include "summary.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "forest.h"

void summary_add_galaxy(struct summary *summary, double stars) {
    double log_mass = stars > 0 ? log10(stars * 1e10) : -INFINITY;
    if (log_mass < first_log_mass) return;
    int bin = (int)fmin((log_mass - first_log_mass) / bin_log_mass, MASS_BINS - 1);
    summary->with_mass[bin]++;
}

void summary_add(struct summary *summary, const struct harvest *harvest) {
    summary->tree_count++;
    summary->halo_count += (uint64_t)harvest->halo_count;
    summary->galaxy_count += harvest->galaxy_count;
    summary->mergers += harvest->mergers;
    summary->major_mergers += harvest->major_mergers;
    for (int bin = 0; bin < REDSHIFT_BINS; bin++) summary->mergers_at[bin] += harvest->mergers_at[bin];
    summary->let_in += harvest->let_in;
    summary->found += harvest->found;
}

void summary_add_peak(struct summary *summary, struct forest_peak forest) {
    int at = summary->worst_count < WORST_FORESTS ? summary->worst_count++ : WORST_FORESTS;
    for (; at > 0 && summary->worst[at - 1].used_peak < forest.used_peak; at--)
        if (at < WORST_FORESTS) summary->worst[at] = summary->worst[at - 1];
    if (at < WORST_FORESTS) summary->worst[at] = forest;
}

bool forest_peak_measure(struct forest_peak *forest, sagemem_heap *heap) {
    sagemem_scope_stats scope;
    sagemem_heap_stats whole;
    if (heap) {
        if (sagemem_heap_get_stats(heap, &whole) != SAGEMEM_OK) return false;
        forest->used_peak = whole.used_peak;
        forest->held_peak = whole.held_peak;
    } else {
        if (sagemem_scope_get_last(NULL, &scope) != SAGEMEM_OK) return false;
        forest->used_peak = scope.used_peak;
        forest->held_peak = scope.held_peak;
    }
    for (int tag = TAG_TREES; tag < TAG_END; tag++) {
        sagemem_tag_stats stats;
        sagemem_status status = heap ? sagemem_tag_get_stats(heap, (sagemem_tag)tag, &stats)
                                     : sagemem_scope_tag_get_last(NULL, (sagemem_tag)tag, &stats);
        if (status != SAGEMEM_OK) return false;
        if (stats.peak <= forest->tag_peak) continue;
        forest->tag = (sagemem_tag)tag;
        forest->tag_peak = stats.peak;
    }
    return true;
}

/* The bins from the first to the last that has galaxies. */
static void print_mass_function(const struct summary *summary, double redshift) {
    static const char bar[] = "############################################################";
    uint64_t most = 1;
    int first = MASS_BINS, last = -1;
    for (int bin = 0; bin < MASS_BINS; bin++) {
        if (summary->with_mass[bin] == 0) continue;
        most = summary->with_mass[bin] > most ? summary->with_mass[bin] : most;
        first = first < bin ? first : bin;
        last = bin;
    }

    printf("\nStellar mass function at z = %.3f, log10 of Msun/h:\n", redshift);
    for (int bin = first; bin <= last; bin++) {
        uint64_t count = summary->with_mass[bin];
        int length = (int)((double)count / (double)most * (double)(sizeof bar - 1));
        printf("  %5.2f %7" PRIu64 "%s%.*s\n", first_log_mass + bin * bin_log_mass, count, length > 0 ? " " : "", length, bar);
    }
}

enum { SHOWN_OUTPUTS = 2 };

void summary_print(const struct summary *summary, const struct model *model, int file_count, const struct galaxy_file *outputs,
                   int output_count) {
    printf("Tree files      %d\n", file_count);
    printf("Trees           %" PRIu64 "\n", summary->tree_count);
    printf("Halos           %" PRIu64 "\n", summary->halo_count);
    printf("Galaxies        %" PRIu64 " at all snapshots\n", summary->galaxy_count);
    printf("Mergers         %" PRIu64 ", %" PRIu64 " of them major; from z = 0 by redshift:", summary->mergers,
           summary->major_mergers);
    for (int bin = 0; bin < REDSHIFT_BINS; bin++)
        printf(" %" PRIu64 "%s", summary->mergers_at[bin], bin == REDSHIFT_BINS - 1 ? " and before\n" : "");
    printf("Baryon balance  %.2e: %.6e Msun/h were let in, %.6e are there\n",
           summary->let_in > 0 ? fabs(summary->found / summary->let_in - 1) : 0, summary->let_in * 1e10, summary->found * 1e10);
    for (int i = 0; i < output_count; i++) /* one line each: of 64, the first and the last few */
        if (i < SHOWN_OUTPUTS || i >= output_count - SHOWN_OUTPUTS)
            printf("%-15s %s: %" PRIu64 " galaxies, %.6e Msun/h of stars\n", i == 0 ? "Written" : "", outputs[i].path,
                   outputs[i].header.galaxy_count, outputs[i].stars * 1e10);
        else if (i == SHOWN_OUTPUTS) printf("%-15s ... %d more ...\n", "", output_count - 2 * SHOWN_OUTPUTS);
    print_mass_function(summary, 1 / model->epochs[summary->snapshot].scale_factor - 1);
}

void summary_print_worst(const struct summary *summary) {
    printf("\nThe worst forests, by the most memory used at once:\n"
           "  forest  file  tree   halos  galaxies  used KiB  held KiB  most of it\n");
    for (int i = 0; i < summary->worst_count; i++) {
        const struct forest_peak *forest = &summary->worst[i];
        printf("%8" PRIu64 "%6" PRId32 "%6" PRId32 "%8" PRId32 "%10" PRIu64 "%10.1f%10.1f  %s, %.1f KiB%s\n", forest->forest,
               forest->file, forest->tree, forest->halo_count, forest->galaxy_count, (double)forest->used_peak / 1024,
               (double)forest->held_peak / 1024, sagemem_tag_name(forest->tag), (double)forest->tag_peak / 1024,
               i == 0 ? "  <- the worst" : "");
    }
}

void summary_print_json(const struct summary *summary, int file_count) {
    printf("\"tree_files\": %d, \"trees\": %" PRIu64 ", \"halos\": %" PRIu64 ", \"galaxies\": %" PRIu64 ", \"mergers\": %" PRIu64
           ", \"major_mergers\": %" PRIu64 ",\n\"baryons_let_in\": %.17g, \"baryons_found\": %.17g,\n"
           "\"worst_forests\": [",
           file_count, summary->tree_count, summary->halo_count, summary->galaxy_count, summary->mergers, summary->major_mergers,
           summary->let_in, summary->found);
    for (int i = 0; i < summary->worst_count; i++) {
        const struct forest_peak *forest = &summary->worst[i];
        printf("%s\n{\"forest\": %" PRIu64 ", \"file\": %" PRId32 ", \"tree\": %" PRId32 ", \"halos\": %" PRId32
               ", \"galaxies\": %" PRIu64 ", \"used_peak\": %" PRIu64 ", \"held_peak\": %" PRIu64
               ", \"tag\": \"%s\", \"tag_peak\": %" PRIu64 "}",
               i == 0 ? "" : ",", forest->forest, forest->file, forest->tree, forest->halo_count, forest->galaxy_count,
               forest->used_peak, forest->held_peak, sagemem_tag_name(forest->tag), forest->tag_peak);
    }
    printf("],\n");
}
