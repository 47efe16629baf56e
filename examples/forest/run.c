/* Runs the forests: see run.h.
 *
 * Each thread takes a tree, opens a scope of its own heap, builds the galaxies, and ends the scope. Their records are
 * written by the thread whose turn it is (see window.h): while it builds, it writes batch by batch, and needs memory for
 * no more than one of them, however large the forest; one that is ahead of its turn carries them out of its scope. */
#define _POSIX_C_SOURCE 200809L /* for sigaction and clocks, whatever C standard the compiler is told to keep */
#include "run.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

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

/* -- The files -------------------------------------------------------------------------------------------- */

static bool output_open(struct run *run, int32_t snapshot) {
    if (snapshot >= run->model.epoch_count)
        return fail("there is no snapshot %" PRId32 ": there are %" PRId32 " scale factors", snapshot, run->model.epoch_count);
    int output = run->output_count++;
    run->output_of[snapshot] = output;
    if (snapshot > run->summary.snapshot) run->summary.snapshot = snapshot;
    return galaxy_file_open(&run->outputs[output], run->shared, run->options->output, snapshot, &run->model.epochs[snapshot],
                            run->options->format);
}

static bool outputs_open(struct run *run) {
    const struct options *options = run->options;
    int32_t count = run->model.epoch_count;
    if (!galaxy_directory_make(options->output)) return false;
    if (options->plot && !plot_open(&run->plot, run->shared, options->plot)) return false;

    run->output_of = sagemem_alloc_array(run->shared, (size_t)count, sizeof *run->output_of, TAG_OUTPUT);
    if (!run->output_of) return fail("%s: %s", options->output, sagemem_last_error()->message);
    for (int32_t i = 0; i < count; i++) run->output_of[i] = -1;
    if (options->snapshot_count == 0) {
        for (int32_t i = count > MAX_OUTPUTS ? count - MAX_OUTPUTS : 0; i < count; i++)
            if (!output_open(run, i)) return false;
    }
    for (int i = 0; i < options->snapshot_count; i++)
        if (!output_open(run, options->snapshots[i])) return false;
    return true;
}

/* First all of them are complete and with the system, then all take their names. */
static bool outputs_commit(struct run *run) {
    double redshift = 1 / run->model.epochs[run->summary.snapshot].scale_factor - 1;
    for (int i = 0; i < run->output_count; i++)
        if (!galaxy_file_finish(&run->outputs[i], run->options->tree_file_count)) return false;
    if (run->options->plot && !plot_finish(&run->plot, &run->summary, redshift)) return false;
    for (int i = 0; i < run->output_count; i++)
        if (!galaxy_file_commit(&run->outputs[i])) return false;
    return !run->options->plot || plot_commit(&run->plot);
}

/* -- Signals, and progress ------------------------------------------------------------------------------- */

static atomic_int interrupted; /* the signal; 0: none */

static atomic_bool report_asked; /* by SIGUSR1 */

/* Handlers set flags, nothing else: no function of the library may be called here. */
static void on_signal(int number) { atomic_store(&interrupted, number); }
static void on_report_signal(int number) {
    (void)number;
    atomic_store(&report_asked, true);
}

/* The first one lets the forests that are being built come to their end; a second one ends the program at once. */
static void signals_catch(void) {
    struct sigaction action = {.sa_handler = on_signal};
    action.sa_flags = (int)SA_RESETHAND | SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = on_report_signal;
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &action, NULL);
}

static sagemem_status write_to_stderr(void *ctx, const void *data, size_t size, uint64_t offset) {
    (void)ctx, (void)offset;
    return fwrite(data, 1, size, stderr) == size ? SAGEMEM_OK : SAGEMEM_E_IO;
}

/* Between two forests of one thread; the others go on. A report that cannot be written is no reason to end the run. */
static void report_if_asked(const struct options *options) {
    if (!atomic_exchange(&report_asked, false)) return;
    const sagemem_sink sink = {write_to_stderr, NULL, NULL};
    sagemem_status status = options->report_path ? sagemem_report_file(NULL, options->report, options->report_path)
                                                 : sagemem_report(NULL, SAGEMEM_FORMAT_TEXT, &sink);
    if (status != SAGEMEM_OK) fprintf(stderr, "forest: no report: %s\n", sagemem_last_error()->message);
}

/* A bar for those who watch; nothing where nobody does. */
static void progress_show(const struct run *run, const struct result *result, bool end) {
    static const char bar[] = "########################################";
    static struct timespec shown; /* by whoever has the turn */
    struct timespec now;
    if (run->options->quiet || !isatty(STDERR_FILENO)) return;
    if (end) {
        fputs("\r\033[K", stderr);
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (result->peak.tree + 1 < result->file_trees &&
        (double)(now.tv_sec - shown.tv_sec) + (double)(now.tv_nsec - shown.tv_nsec) / 1e9 < 0.1)
        return;
    shown = now;
    int width = (int)sizeof bar - 1, done = (int)((double)width * (result->peak.tree + 1) / result->file_trees);
    fprintf(stderr, "\r[%.*s%*s] tree %" PRId32 " of %" PRId32 ", file %" PRId32 " of %d", done, bar, width - done, "",
            result->peak.tree + 1, result->file_trees, result->peak.file + 1, run->options->tree_file_count);
}

/* -- With the turn: writing ------------------------------------------------------------------------------ */

static bool write_records(struct run *run, const struct outgoing *outgoing, size_t count) {
    for (size_t i = 0; i < count; i++) {
        struct galaxy_file *file = &run->outputs[outgoing[i].output];
        if (!galaxy_file_write(file, &outgoing[i].record)) return false;
        if (file->header.snapshot == run->summary.snapshot) summary_add_galaxy(&run->summary, outgoing[i].record.stars);
    }
    return true;
}

static void deliver(void *ctx, struct result *result) {
    struct run *run = ctx;
    if (!run->failed) {
        if (!result->failed && !write_records(run, result->outgoing, result->outgoing_count)) {
            result->failed = true;
            fail_take_reason(result->reason);
        }
        if (result->failed) {
            run->failed = true;
            memcpy(run->reason, result->reason, sizeof run->reason);
            window_close(&run->window);
        } else {
            for (int i = 0; i < run->output_count; i++) run->outputs[i].header.tree_count++;
            summary_add(&run->summary, &result->harvest);
            summary_add_peak(&run->summary, result->peak);
            progress_show(run, result, false);
        }
    }
    sagemem_free(result->outgoing);
}

/* -- One thread ------------------------------------------------------------------------------------------ */

struct worker {
    struct run *run;
    struct tree_reader reader;
    uint64_t forest;
    struct tree_place place;
    int32_t file, file_trees;
    bool bad;       /* the file that the tree should come from */
    bool has_begun; /* some of its galaxies are written */
};

/* The next tree; false: there is none. A file that cannot be opened takes the place of a tree that cannot be built, so
 * that forests before it are complained of first. */
static bool find_tree(struct run *run, struct worker *worker) {
    worker->bad = false;
    while (run->file < 0 || run->place.halo_count < 0) {
        tree_file_close(&run->trees);
        if (run->file + 1 == run->options->tree_file_count) {
            run->exhausted = true;
            return false;
        }
        worker->bad =
            !tree_file_open(&run->trees, run->shared, run->options->tree_files[++run->file], run->options->without.mapping);
        if (worker->bad) break;
        run->place = tree_file_first(&run->trees);
    }
    worker->place = run->place;
    worker->file = run->file;
    worker->file_trees = run->trees.tree_count;
    if (worker->bad) run->window.closed = true;
    else run->place = tree_file_next(&run->trees, run->place);
    return true;
}

static bool take_tree(struct worker *worker) {
    struct run *run = worker->run;
    if (!window_wait(&run->window)) return false;
    bool found = !atomic_load(&interrupted) && find_tree(run, worker);
    if (found) worker->forest = run->window.next++;
    pthread_mutex_unlock(&run->window.lock);
    return found;
}

/* Writes what is in the outbox, if it is this forest's turn. */
static bool write_batch(struct outbox *outbox, void *ctx) {
    struct worker *worker = ctx;
    if (!window_has_turn(&worker->run->window, worker->forest)) return true;
    worker->has_begun = true;
    if (worker->run->failed || !write_records(worker->run, outbox->outgoing.array.data, outbox->outgoing.array.count)) return false;
    list_clear(&outbox->outgoing);
    return true;
}

/* Lets what is not written yet survive the scope. If there is no memory for that, it waits for its turn. */
static bool carry_out(struct worker *worker, struct outbox *outbox, struct result *result) {
    if (!write_batch(outbox, worker)) return false;
    sagemem_array *array = &outbox->outgoing.array;
    if (array->count == 0) return true;
    void *tight = sagemem_realloc(NULL, array->data, array->count * array->element_size, SAGEMEM_TAG_SAME);
    if (tight) array->data = tight;
    void *kept = worker->run->options->without.scope ? sagemem_move(NULL, array->data) : sagemem_keep(array->data);
    if (!kept) {
        window_wait_for_turn(&worker->run->window, worker->forest);
        return write_batch(outbox, worker);
    }
    result->outgoing = kept;
    result->outgoing_count = array->count;
    array->data = NULL;
    return true;
}

/* One tree, in the open scope of the heap: what is allocated here is nobody's to free. */
static bool build_in(struct worker *worker, sagemem_heap *heap, struct result *result) {
    const struct run *run = worker->run;
    const struct without *without = &run->options->without;
    struct tree tree;
    struct outbox outbox = {
        .output_of = run->output_of, .file = worker->file, .tree = worker->place.index, .batch_fn = write_batch, .ctx = worker};
    if (!tree_read(&worker->reader, &worker->place, run->model.epoch_count, heap, &tree)) return false;
    if (!list_init(&outbox.outgoing, heap, TAG_OUTPUT, sizeof(struct outgoing), without->array) ||
        !model_run(&run->model, heap, without, &tree, &outbox, &result->harvest) || !carry_out(worker, &outbox, result))
        return fail("%s: tree %" PRId32 " of %" PRId32 " halos: %s", worker->place.path, tree.index, tree.halo_count,
                    sagemem_last_error()->message);
    if (run->options->checked && sagemem_heap_check(heap) != 0)
        return fail("%s: tree %" PRId32 ": memory is damaged", worker->place.path, tree.index);
    return true;
}

/* A scope for the tree, or a heap for it: both end with all that is in them. */
static bool build(struct worker *worker, struct result *result) {
    const struct options *options = worker->run->options;
    const char *path = worker->place.path;
    *result = (struct result){.file_trees = worker->file_trees};
    result->peak = (struct forest_peak){
        .forest = worker->forest, .file = worker->file, .tree = worker->place.index, .halo_count = worker->place.halo_count};
    if (worker->bad || !tree_reader_open(&worker->reader, path)) return false;

    sagemem_heap *heap = NULL;
    bool good;
    if (options->without.scope) {
        heap = sagemem_heap_create(&(sagemem_heap_desc){.name = "forest", .flags = options->checked ? SAGEMEM_HEAP_CHECKED : 0});
        if (!heap) return fail("%s: %s", path, sagemem_last_error()->message);
        good = build_in(worker, heap, result);
        good = (forest_peak_measure(&result->peak, heap) || fail("%s: %s", path, sagemem_last_error()->message)) && good;
        sagemem_heap_destroy(heap);
    } else {
        if (sagemem_scope_begin(NULL, "forest", worker->forest) != SAGEMEM_OK)
            return fail("%s: %s", path, sagemem_last_error()->message);
        good = build_in(worker, NULL, result);
        good = ((sagemem_scope_end(NULL) == SAGEMEM_OK && forest_peak_measure(&result->peak, NULL)) ||
                fail("%s: %s", path, sagemem_last_error()->message)) &&
               good;
    }
    result->peak.galaxy_count = result->harvest.galaxy_count;
    return good;
}

/* A limit is for all threads. Where one meets it ahead of its turn, it tries again when the forests before it are gone.
 * Those behind it stay: near its limit a run with threads may fail where one without them does not, and not every time. */
static void build_and_hand_over(struct worker *worker) {
    struct window *window = &worker->run->window;
    struct result result;
    worker->has_begun = false;
    bool good = build(worker, &result);
    if (!good && !worker->bad && !worker->has_begun && sagemem_last_error()->status == SAGEMEM_E_LIMIT &&
        !window_has_turn(window, worker->forest)) {
        fail_take_reason(result.reason);
        window_wait_for_turn(window, worker->forest);
        good = build(worker, &result);
    }
    result.failed = !good;
    if (!good) {
        sagemem_free(result.outgoing);
        result.outgoing = NULL;
        fail_take_reason(result.reason);
    }
    window_hand_over(window, worker->forest, &result, deliver, worker->run);
}

static void *work(void *argument) {
    struct worker worker = {.run = argument, .reader = {.no_mapping = ((struct run *)argument)->options->without.mapping}};
    while (take_tree(&worker)) {
        build_and_hand_over(&worker);
        report_if_asked(worker.run->options);
    }
    tree_reader_close(&worker.reader);
    return NULL;
}

/* This thread is one of them. When one cannot be started, those that were stop after the forests they have. */
static bool work_in_threads(struct run *run) {
    pthread_t threads[MAX_THREADS];
    int started = 1, error = 0;
    for (; started < run->options->threads; started++) {
        error = pthread_create(&threads[started], NULL, work, run);
        if (error != 0) break;
    }
    if (error != 0) window_close(&run->window);
    else work(run);
    for (int i = 1; i < started; i++) pthread_join(threads[i], NULL);
    return error == 0 || fail("thread %d of %d cannot be started: %s", started + 1, run->options->threads, strerror(error));
}

/* -- All of it ----------------------------------------------------------------------------------------------- */

static bool run_open(struct run *run) {
    run->shared = sagemem_heap_create(&(sagemem_heap_desc){
        .name = "shared",
        .flags = (run->options->threads > 1 ? (uint32_t)SAGEMEM_HEAP_SHARED : 0) | /* one thread need not lock */
                 (run->options->checked ? (uint32_t)SAGEMEM_HEAP_CHECKED : 0)});
    if (!run->shared || !window_init(&run->window, run->shared, run->options->threads))
        return fail("%s", sagemem_last_error()->message);
    return model_open(run) && outputs_open(run);
}

int run_all(struct run *run, const struct options *options) {
    *run = (struct run){.options = options, .file = -1};
    sagemem_writers_set_budget(options->without.buffers ? 1 : options->buffer_bytes);
    signals_catch(); /* before the first file is opened: what a signal ends leaves files half made */
    if (!run_open(run)) return EXIT_FAILURE;
    bool good = work_in_threads(run);
    if (run->failed) good = fail("%s", run->reason);
    progress_show(run, NULL, true);
    int signal_number = atomic_load(&interrupted);
    if (good && signal_number != 0 && !run->exhausted) {
        fail("interrupted after %" PRIu64 " forests; no file is written", run->summary.tree_count);
        return 128 + signal_number;
    }
    if (!good || !outputs_commit(run)) return EXIT_FAILURE;
    if (!options->quiet && !options_report_alone(options))
        summary_print(&run->summary, &run->model, options->tree_file_count, run->outputs, run->output_count);
    return EXIT_SUCCESS;
}

void run_close(struct run *run) {
    for (int i = 0; i < run->output_count; i++) galaxy_file_close(&run->outputs[i]);
    plot_close(&run->plot);
    tree_file_close(&run->trees);
    model_deinit(&run->model);
    sagemem_free(run->output_of);
    window_deinit(&run->window);
    if (run->shared) sagemem_heap_destroy(run->shared);
    run->shared = NULL;
}
