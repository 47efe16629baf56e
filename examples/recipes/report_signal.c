/* How do I look at a run that takes days, without stopping it?
 *
 * A handler may call nothing of the library: it sets a flag, and the run writes the report when it comes by. Send SIGUSR1, and
 * open memory.html in a browser; the Prometheus text is for node_exporter's textfile collector. Both files are replaced whole.
 *
 * Build: cc -I. examples/recipes/report_signal.c -pthread
 * Output:
 *     step 2: wrote the reports
 *     one page, with nothing loaded: yes
 *     a metric: sagemem_used_bytes{heap="heap",tag="Core/Trees"} 50008
 */
#define SAGEMEM_IMPLEMENTATION
#include "sagemem.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TAG_TREES = 1 };

static volatile sig_atomic_t report_wanted;
static void on_signal(int number) {
    (void)number;
    report_wanted = 1;
}

static char page[64], metrics[64]; /* any names */

static int write_reports(void) {
    report_wanted = 0;
    return sagemem_report_file(NULL, SAGEMEM_FORMAT_HTML, page) == SAGEMEM_OK &&
           sagemem_report_file(NULL, SAGEMEM_FORMAT_PROMETHEUS, metrics) == SAGEMEM_OK;
}

/* The first line of a file that has these words; "": none. */
static const char *line_with(const char *path, const char *words) {
    static char line[4096];
    FILE *file = fopen(path, "r");
    bool found = false;
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL) found = strstr(line, words) != NULL;
    if (file != NULL) fclose(file);
    return found ? line : "";
}

int main(void) {
    char directory[] = "/tmp/reports-XXXXXX";
    if (mkdtemp(directory) == NULL) return 1;
    snprintf(page, sizeof page, "%s/memory.html", directory);
    snprintf(metrics, sizeof metrics, "%s/forest.prom", directory);
    signal(SIGUSR1, on_signal);

    sagemem_tag_define(TAG_TREES, "Core/Trees");
    void *trees = sagemem_alloc(NULL, 50000, TAG_TREES);
    for (int step = 0; step < 5; step++) {
        if (step == 2) raise(SIGUSR1); /* somebody's kill -USR1 */
        if (!report_wanted) continue;
        if (!write_reports()) return 1;
        printf("step %d: wrote the reports\n", step);
    }
    printf("one page, with nothing loaded: %s\n", *line_with(page, "<!DOCTYPE html>") && !*line_with(page, "http") ? "yes" : "no");
    printf("a metric: %s", line_with(metrics, "sagemem_used_bytes{"));
    sagemem_free(trees);
    remove(page);
    remove(metrics);
    rmdir(directory);
    return 0;
}
