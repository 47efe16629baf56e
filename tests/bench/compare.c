/* Runs rows of work on all sides, in turns, and says what came of the goals.
 *
 *     compare POLICY [OUTPUT]      OUTPUT.json and OUTPUT.svg are written where it is given
 *
 * Each row has a process of its own, so that no row finds what another left behind; in it the sides take turns, another one
 * first each time, after one turn that does not count. Figures are medians; a ratio is the median of the ratios of turns.
 * BENCH_QUICK, BENCH_ONLY, BENCH_FULL, BENCH_FILES: bench.h; BENCH_REPEAT: turns [7].
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bench.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern const bench_group bench_yardsticks, bench_blocks, bench_scopes, bench_pools, bench_arrays, bench_threads, bench_replay,
    bench_writers, bench_hdf5, bench_files, bench_traces;
static const bench_group *const groups[] = {&bench_yardsticks, &bench_blocks,  &bench_scopes, &bench_pools,
                                            &bench_arrays,     &bench_threads, &bench_replay, &bench_writers,
                                            &bench_hdf5,       &bench_files,   &bench_traces};
enum { GROUPS = sizeof groups / sizeof *groups, ROWS = 96 };

/* -- Running --------------------------------------------------------------------------------------------- */

bool bench_is_library(const bench_side *side) { return strncmp(side->name, "sagemem", 7) == 0; }
static bool is_isolated(const bench_row *row) { return (row->flags & ISOLATED) != 0; }
static bool is_of_policy(const bench_row *row) { return (row->flags & ANY_POLICY) == 0 || strcmp(bench_policy(), "default") == 0; }
static bool by_pointers(const bench_side *side) { return (side->flags & POINTERS) != 0; }

/* Directly and through pointers. */
static bool is_called_twice(const bench_side *side) { return bench_is_library(side) || strcmp(side->name, "glibc") == 0; }

static size_t repetitions(const bench_row *row) {
    const char *set = getenv("BENCH_REPEAT");
    long wanted = set != NULL ? strtol(set, NULL, 10) : bench_quick() ? 1 : 7;
    if ((row->flags & STEADY) != 0 && wanted > 3) wanted = 3;
    return wanted < 1 ? 1 : wanted > BENCH_REPETITIONS ? BENCH_REPETITIONS : (size_t)wanted;
}

/* The sides that are here and can do the row. */
static void choose_sides(const bench_group *group, bench_result *result) {
    result->side_count = 0;
    for (size_t i = 0; i < group->side_count; i++) {
        const bench_side *side = &group->sides[i];
        if (side->works[result->row->work] == NULL) continue;
        if ((result->row->flags & COARSE) != 0 && by_pointers(side) && is_called_twice(side)) continue;
        if (side->peer != NULL && bench_peer_named(side->peer) == NULL) continue;
        if (result->side_count == BENCH_SIDES) bench_die("too many sides", result->row->name);
        result->sides[result->side_count++].side = side;
    }
}

static double run(const bench_row *row, const bench_side *side) {
    if (bench_heap == NULL) bench_heap = bench_heap_make();
    if (side->peer != NULL) bench_peer = *bench_peer_named(side->peer);
    return side->works[row->work](row);
}

static void wait_for(pid_t child, const char *row) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) bench_die("a workload did not end well", row);
}

static pid_t start_process(void) {
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) bench_die("fork", strerror(errno));
    return child;
}

/* One run in a process of its own. */
static void run_isolated(const bench_row *row, const bench_side *side, double *value) {
    pid_t child = start_process();
    if (child == 0) {
        *value = run(row, side);
        _exit(0);
    }
    wait_for(child, row->name);
}

/* All runs of a row, into the result, which the processes share. The first turn warms up and is written over. */
static void take_turns(bench_result *result) {
    size_t sides = result->side_count;
    for (size_t turn = 0; turn <= result->repetitions; turn++) {
        if (turn == 0 && is_isolated(result->row)) continue;
        for (size_t i = 0; i < sides; i++) {
            bench_figures *figures = &result->sides[(i + turn) % sides];
            double *value = &figures->values[turn > 0 ? turn - 1 : 0];
            if (is_isolated(result->row)) run_isolated(result->row, figures->side, value);
            else *value = run(result->row, figures->side);
        }
    }
}

static void measure(bench_result *result) {
    if (is_isolated(result->row)) {
        take_turns(result);
    } else {
        pid_t child = start_process();
        if (child == 0) {
            take_turns(result);
            _exit(0);
        }
        wait_for(child, result->row->name);
    }
    for (size_t i = 0; i < result->side_count; i++) {
        bench_figures *figures = &result->sides[i];
        figures->median = bench_median(figures->values, result->repetitions);
        figures->min = bench_min(figures->values, result->repetitions);
    }
}

/* -- Goals ----------------------------------------------------------------------------------------------- */

static const bench_figures *side_named(const bench_result *result, const char *name, bool pointers) {
    for (size_t i = 0; i < result->side_count; i++) {
        const bench_side *side = result->sides[i].side;
        if (strcmp(side->name, name) == 0 && by_pointers(side) == pointers) return &result->sides[i];
    }
    return NULL;
}

/* The library called in the way that the peer is: a call through a pointer is no advantage to anybody. */
static const bench_figures *own(const bench_result *result, const bench_figures *peer) {
    const bench_figures *same = peer != NULL && by_pointers(peer->side) ? side_named(result, "sagemem", true) : NULL;
    return same != NULL ? same : side_named(result, "sagemem", false);
}

double bench_ratio(const bench_result *result, const bench_figures *peer) {
    double ratios[BENCH_REPETITIONS];
    const bench_figures *mine = own(result, peer);
    for (size_t i = 0; i < result->repetitions; i++) ratios[i] = mine->values[i] / peer->values[i];
    return bench_median(ratios, result->repetitions);
}

/* The peer against which the library does worst, of those that can do all that it does. */
static const bench_figures *best_peer(const bench_result *result) {
    const bench_figures *best = NULL;
    for (size_t i = 0; i < result->side_count; i++) {
        const bench_figures *peer = &result->sides[i];
        if (bench_is_library(peer->side) || (peer->side->flags & LIMITED) != 0) continue;
        if (best == NULL || bench_ratio(result, peer) > bench_ratio(result, best)) best = peer;
    }
    return best;
}

static void judge_goal(const bench_result *result, const bench_goal *goal, bench_verdict *verdict) {
    const bench_figures *peer = NULL;
    if (goal->of != NULL) {
        peer = strcmp(goal->of, "the best") == 0 ? best_peer(result) : side_named(result, goal->of, false);
        if (peer == NULL) peer = side_named(result, goal->of, true);
    }
    *verdict = (bench_verdict){goal, peer, NAN, goal->of == NULL || peer != NULL, false};
    if (!verdict->known) return;
    verdict->got = peer != NULL ? bench_ratio(result, peer) : own(result, NULL)->median;
    if (goal->kind == FASTER) verdict->got = 1 / verdict->got;
    verdict->met = goal->kind == AT_MOST ? verdict->got <= goal->bound : verdict->got >= goal->bound;
}

static void judge(bench_result *result) {
    result->verdict_count = 0;
    for (size_t i = 0; i < BENCH_GOALS && result->row->goals[i].bound > 0; i++) {
        judge_goal(result, &result->row->goals[i], &result->verdicts[result->verdict_count++]);
    }
}

/* -- On the screen --------------------------------------------------------------------------------------- */

static void say_goal(const bench_verdict *verdict, char *out, size_t size) {
    static const char *const words[] = {"at most", "at least", "at least"};
    const bench_goal *goal = verdict->goal;
    const char *peer = verdict->peer != NULL ? verdict->peer->side->name : goal->of;
    if (goal->of == NULL) snprintf(out, size, "%s %.2f", words[goal->kind], goal->bound);
    else if (goal->kind == FASTER && goal->bound >= 1 && goal->bound <= 1)
        snprintf(out, size, "as fast as %s (how many times)", peer);
    else if (goal->kind == FASTER) snprintf(out, size, "%.3g times as fast as %s", goal->bound, peer);
    else if (strcmp(goal->of, "the best") == 0)
        snprintf(out, size, "%s %.2f of the best (%s)", words[goal->kind], goal->bound, peer);
    else snprintf(out, size, "%s %.2f of %s", words[goal->kind], goal->bound, peer);
}

static void say_verdict(const bench_verdict *verdict, char *out, size_t size) {
    if (!verdict->known) snprintf(out, size, "not installed");
    else if (verdict->met) snprintf(out, size, "met");
    else snprintf(out, size, "missed by %.0f %%", ceil(100 * fabs(verdict->got / verdict->goal->bound - 1)));
}

/* Three digits that count; never as a power of ten. */
static void print_figure(double value) { printf("%.*f", value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3, value); }

static void print_sides(const bench_result *result, bool pointers) {
    bool any = false;
    for (size_t i = 0; i < result->side_count; i++) {
        const bench_figures *f = &result->sides[i];
        if (by_pointers(f->side) != pointers) continue;
        if (!any) printf("    %-9s", pointers ? "pointers:" : "direct:");
        any = true;
        printf("  %s ", f->side->name);
        print_figure(f->median);
        printf(" (");
        print_figure(f->min);
        putchar(')');
    }
    if (any) putchar('\n');
}

static void print_result(const bench_result *result) {
    printf("%s: %s [%s, median (least) of %zu]\n", result->row->name, result->row->text, result->row->unit, result->repetitions);
    print_sides(result, false);
    print_sides(result, true);
    for (size_t i = 0; i < result->verdict_count; i++) {
        char goal[96], verdict[32];
        say_goal(&result->verdicts[i], goal, sizeof goal);
        say_verdict(&result->verdicts[i], verdict, sizeof verdict);
        if (result->verdicts[i].known) printf("    goal %s: %.3f, %s\n", goal, result->verdicts[i].got, verdict);
        else printf("    goal %s: %s\n", goal, verdict);
    }
    fflush(stdout);
}

/* The goals as a table that is one in Markdown, too. */
static void print_goals(const bench_result *results, size_t count) {
    size_t met = 0, all = 0;
    printf("\n| work | goal | is | |\n|---|---|---|---|\n");
    for (size_t r = 0; r < count; r++) {
        for (size_t i = 0; i < results[r].verdict_count; i++) {
            const bench_verdict *v = &results[r].verdicts[i];
            char goal[96], verdict[32];
            say_goal(v, goal, sizeof goal);
            say_verdict(v, verdict, sizeof verdict);
            printf("| %s | %s | ", i == 0 ? results[r].row->text : "", goal);
            if (v->known) printf("%.2f", v->got);
            printf(" | %s |\n", verdict);
            met += v->met;
            all += v->known;
        }
    }
    printf("\nretention policy %s: %zu of %zu goals met%s\n", bench_policy(), met, all,
           bench_quick() ? " (BENCH_QUICK: the figures mean nothing)" : "");
}

/* -- In files -------------------------------------------------------------------------------------------- */

static void write_row(bench_json *json, const bench_result *result) {
    bench_json_begin(json, NULL, '{');
    bench_json_text(json, "name", result->row->name);
    bench_json_text(json, "text", result->row->text);
    bench_json_text(json, "unit", result->row->unit);
    bench_json_begin(json, "sides", '[');
    for (size_t i = 0; i < result->side_count; i++) {
        const bench_figures *f = &result->sides[i];
        bench_json_begin(json, NULL, '{');
        bench_json_text(json, "name", f->side->name);
        bench_json_bool(json, "pointers", by_pointers(f->side));
        bench_json_number(json, "median", f->median);
        bench_json_number(json, "min", f->min);
        bench_json_begin(json, "values", '[');
        for (size_t k = 0; k < result->repetitions; k++) bench_json_number(json, NULL, f->values[k]);
        bench_json_end(json, ']');
        bench_json_end(json, '}');
    }
    bench_json_end(json, ']');
    bench_json_begin(json, "goals", '[');
    for (size_t i = 0; i < result->verdict_count; i++) {
        const bench_verdict *v = &result->verdicts[i];
        char goal[96];
        say_goal(v, goal, sizeof goal);
        bench_json_begin(json, NULL, '{');
        bench_json_text(json, "goal", goal);
        bench_json_number(json, "bound", v->goal->bound);
        bench_json_number(json, "is", v->got);
        bench_json_bool(json, "known", v->known);
        bench_json_bool(json, "met", v->met);
        bench_json_end(json, '}');
    }
    bench_json_end(json, ']');
    bench_json_end(json, '}');
}

static void write_json(const bench_result *results, size_t count, const char *path) {
    bench_json json;
    bench_json_open(&json, path);
    bench_json_begin(&json, NULL, '{');
    bench_json_machine(&json);
    bench_json_begin(&json, "rows", '[');
    for (size_t r = 0; r < count; r++) write_row(&json, &results[r]);
    bench_json_end(&json, ']');
    bench_json_end(&json, '}');
    bench_json_close(&json);
}

/* -- All of it ------------------------------------------------------------------------------------------- */

static size_t run_groups(bench_result *results) {
    size_t count = 0;
    for (size_t g = 0; g < GROUPS; g++) {
        for (size_t r = 0; r < groups[g]->row_count; r++) {
            const bench_row *row = &groups[g]->rows[r];
            if (!bench_wanted(row->name) || !is_of_policy(row)) continue;
            if (count == ROWS) bench_die("too many rows", row->name);
            bench_result *result = &results[count++];
            result->row = row;
            result->repetitions = repetitions(row);
            choose_sides(groups[g], result);
            measure(result);
            judge(result);
            print_result(result);
        }
    }
    return count;
}

int main(int argc, char **argv) {
    if (argc < 2 || (strcmp(argv[1], "default") != 0 && strcmp(argv[1], "keep") != 0)) {
        fprintf(stderr, "usage: %s default|keep [OUTPUT]\n", argv[0]);
        return 2;
    }
    bench_policy_set(argv[1], argv);
    bench_peers_load();
    for (size_t g = 0; g < GROUPS; g++) {
        if (groups[g]->tell_peers != NULL) groups[g]->tell_peers();
    }
    bench_print_machine(stdout);
    bench_result *results =
        (bench_result *)mmap(NULL, ROWS * sizeof *results, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (results == MAP_FAILED) bench_die("mmap", strerror(errno));
    size_t count = run_groups(results);
    print_goals(results, count);
    if (argc > 2) {
        char path[512];
        snprintf(path, sizeof path, "%s.json", argv[2]);
        write_json(results, count, path);
        snprintf(path, sizeof path, "%s.svg", argv[2]);
        bench_plot(results, count, path);
    }
    return 0;
}
