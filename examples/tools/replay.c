/* sagemem-replay: plays a trace of sagemem_trace_begin once more, or the allocations of any program in text, under other
 * settings, and says how long that takes, what the peak is, and at which event a limit would have been met.
 *
 * Text has a line for each event: m ID BYTES (malloc), c ID BYTES (calloc), r ID OLD NEW (realloc), f ID (free).
 */
#include "replay.h"

#include <ctype.h>
#include <errno.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef struct settings {
    const char *trace, *plot, *massif;
    uint64_t limit;  /* bytes; 0: none */
    double growth;   /* a block that outgrows its room gets so many times as much; 1: just what it asks for */
    bool use_malloc; /* instead of heaps and scopes like those of the run */
} settings;

/* What stands for a heap or scope of the trace while it is played. */
typedef struct place {
    sagemem_heap *heap;  /* of a heap */
    sagemem_heap *aside; /* of a heap: for what a domain gets while a scope is open inside of it; made when first needed */
    uint32_t inner;      /* the scope that is open inside; 0: none */
    bool open;
} place;

typedef struct replay {
    const trace *t;
    const settings *set;
    sagemem_heap *root;
    place *places;       /* by owner */
    void **at;           /* by block */
    size_t *room;        /* by block */
    uint64_t used, peak; /* bytes asked for */
    uint64_t failures, first_failure;
} replay;

static sagemem_tag tag_here(const trace *t, uint32_t tag) {
    return tag <= SAGEMEM_TAG_USER_MAX ? (sagemem_tag)tag : t->tags[tag].name != NULL ? sagemem_tag_named(t->tags[tag].name) : 0;
}

static uint32_t heap_of(const trace *t, uint32_t owner) {
    while (t->owners[owner].is_scope) owner = t->owners[owner].outer;
    return owner;
}

/* The heap that a block of that owner comes from. A domain that is not the innermost one has its blocks aside. The root has no
 * scopes: it stands for all heaps that the limit leaves no room for. */
static sagemem_heap *heap_for(replay *r, uint32_t owner) {
    place *p = &r->places[heap_of(r->t, owner)];
    if (p->heap == r->root || (r->places[owner].open && r->places[owner].inner == 0)) return p->heap;
    sagemem_heap_desc desc = {"aside", p->heap, 0, NULL, 0, 0};
    if (p->aside == NULL) p->aside = sagemem_heap_create(&desc);
    return p->aside != NULL ? p->aside : r->root;
}

static void note_failure(replay *r, uint64_t number) {
    if (r->failures++ == 0) r->first_failure = number;
}

/* As much as fits, or NULL. */
static void *get_block(replay *r, const event *e, void *old, size_t held, size_t size) {
    if (!r->set->use_malloc) {
        sagemem_heap *heap = heap_for(r, e->owner);
        return old == NULL ? sagemem_alloc(heap, size, tag_here(r->t, e->tag)) : sagemem_realloc(heap, old, size, SAGEMEM_TAG_SAME);
    }
    if (r->set->limit != 0 && r->used - held + size > r->set->limit) return NULL;
    return old == NULL ? malloc(size > 0 ? size : 1) : realloc(old, size > 0 ? size : 1);
}

static void put_block(replay *r, void *block) {
    if (r->set->use_malloc) free(block);
    else sagemem_free(block);
}

static void count(replay *r, size_t gone, size_t come) {
    r->used += come - gone;
    if (r->used > r->peak) r->peak = r->used;
}

static void play_alloc(replay *r, const event *e, uint64_t number) {
    void *at = get_block(r, e, NULL, 0, e->size);
    r->at[e->block] = at;
    r->room[e->block] = at != NULL ? e->size : 0;
    if (at == NULL) note_failure(r, number);
    else count(r, 0, e->size);
}

static void play_free(replay *r, const event *e) {
    if (r->at[e->block] == NULL) return;
    put_block(r, r->at[e->block]);
    r->at[e->block] = NULL;
    count(r, r->room[e->block], 0);
}

/* The block `from` goes on as `block`, at another size. */
static void play_resize(replay *r, const event *e, uint64_t number) {
    void *old = r->at[e->from];
    size_t held = r->room[e->from], size = e->size;
    r->at[e->from] = NULL;
    r->at[e->block] = old;
    r->room[e->block] = held;
    if (r->set->growth > 1 && size <= held && old != NULL) return;
    if (r->set->growth > 1 && (double)held * r->set->growth > (double)size) size = (size_t)((double)held * r->set->growth);
    void *at = get_block(r, e, old, held, size);
    if (at == NULL) {
        note_failure(r, number);
        return;
    }
    r->at[e->block] = at;
    r->room[e->block] = size;
    count(r, held, size);
}

static void play_heap(replay *r, const event *e) {
    place *p = &r->places[e->owner], *outer = &r->places[r->t->owners[e->owner].outer];
    uint32_t kept = SAGEMEM_HEAP_ZERO | SAGEMEM_HEAP_CHECKED | SAGEMEM_HEAP_SITES | SAGEMEM_HEAP_SYSTEM;
    sagemem_heap_desc desc = {r->t->owners[e->owner].name,
                              outer->heap != NULL ? outer->heap : r->root,
                              0,
                              NULL,
                              (uint32_t)r->t->owners[e->owner].id & kept,
                              0};
    p->open = true;
    if (r->set->use_malloc) return;
    p->heap = sagemem_heap_create(&desc);
    if (p->heap == NULL) p->heap = r->root;
}

static void play_scope(replay *r, const event *e) {
    const trace_owner *o = &r->t->owners[e->owner];
    place *p = &r->places[e->owner], *outer = &r->places[o->outer];
    sagemem_heap *heap = r->places[heap_of(r->t, e->owner)].heap;
    bool innermost = outer->open && outer->inner == 0 && heap != r->root;
    if (innermost && !r->set->use_malloc) innermost = sagemem_scope_begin(heap, o->name, o->id) == SAGEMEM_OK;
    p->open = innermost;
    if (innermost) outer->inner = e->owner;
}

/* Blocks that an owner leaves behind: those in a scope of a heap go with it, others one by one. */
static void play_leftovers(replay *r, const event *e) {
    for (uint32_t b = e->first; b != NO_BLOCK; b = r->t->blocks[b].next) {
        if (r->at[b] == NULL) continue;
        bool goes = !r->set->use_malloc && r->t->owners[e->owner].is_scope && r->places[e->owner].open &&
                    sagemem_heap_of(r->at[b]) == r->places[heap_of(r->t, e->owner)].heap;
        if (!goes) put_block(r, r->at[b]);
        r->at[b] = NULL;
        count(r, r->room[b], 0);
    }
}

static void play_end(replay *r, const event *e) {
    place *p = &r->places[e->owner];
    play_leftovers(r, e);
    if (!p->open) return;
    p->open = false;
    if (r->t->owners[e->owner].is_scope) {
        r->places[r->t->owners[e->owner].outer].inner = 0;
        if (!r->set->use_malloc) (void)sagemem_scope_end(r->places[heap_of(r->t, e->owner)].heap);
    } else if (p->heap != NULL && p->heap != r->root) {
        if (p->aside != NULL) sagemem_heap_destroy(p->aside);
        sagemem_heap_destroy(p->heap);
        p->heap = p->aside = NULL;
    }
}

static void play_event(replay *r, const event *e, uint64_t number) {
    switch (e->kind) {
    case ALLOC: play_alloc(r, e, number); break;
    case FREE: play_free(r, e); break;
    case RESIZE: play_resize(r, e, number); break;
    case HEAP: play_heap(r, e); break;
    case SCOPE: play_scope(r, e); break;
    case CLEAR: play_leftovers(r, e); break;
    case END: play_end(r, e); break;
    default: break;
    }
}

/* -- What is said ------------------------------------------------------------------------------------------------ */

static const char *bytes_text(uint64_t bytes, char text[32]) {
    static const char units[] = "KMGT";
    double value = (double)bytes;
    int unit = -1;
    for (; value >= 1024 && unit < 3; unit++) value /= 1024;
    if (unit < 0) snprintf(text, 32, "%llu bytes", (unsigned long long)bytes);
    else snprintf(text, 32, "%.4g %ciB", value, units[unit]);
    return text;
}

static void say_event(const trace *t, uint64_t number) {
    const event *e = &t->events[number - 1];
    const trace_owner *o = &t->owners[e->owner];
    printf("%s %llu (%llu bytes", t->unit, (unsigned long long)number, (unsigned long long)e->size);
    if (e->owner != 0) printf(", tag '%s'", trace_tag(t, e->tag)); /* text has neither tags nor heaps */
    if (o->is_scope) printf(", scope %s %llu", o->name, (unsigned long long)o->id);
    if (e->owner != 0) printf(", heap '%s'", t->owners[heap_of(t, e->owner)].name);
    printf(")");
}

static void say_recorded(const trace *t, const settings *set) {
    char a[32];
    printf("%s: %llu events: %llu allocations, %llu frees, %llu resized", set->trace, (unsigned long long)t->count,
           (unsigned long long)t->kinds[ALLOC], (unsigned long long)t->kinds[FREE], (unsigned long long)t->kinds[RESIZE]);
    if (t->kinds[HEAP] > 0) /* no text */
        printf("; %llu heaps, %llu scopes, %llu failures; %.6f s", (unsigned long long)t->kinds[HEAP],
               (unsigned long long)t->kinds[SCOPE], (unsigned long long)t->kinds[FAIL], (double)t->ns * 1e-9);
    printf("\n");
    if (t->lost > 0) printf("  %llu events were lost when it was written\n", (unsigned long long)t->lost);
    printf("  recorded peak: %llu bytes (%s) in %llu blocks at %s %llu; at the end %llu bytes\n", (unsigned long long)t->peak,
           bytes_text(t->peak, a), (unsigned long long)t->peak_blocks, t->unit, (unsigned long long)t->peak_event,
           (unsigned long long)t->used);
    for (uint32_t tag = 0; tag < TAGS; tag++)
        if (t->tags[tag].at_peak > 0)
            printf("    %-32s %12llu at the peak, %12llu at most\n", trace_tag(t, tag), (unsigned long long)t->tags[tag].at_peak,
                   (unsigned long long)t->tags[tag].peak);
}

static void say_replay(const replay *r, double seconds) {
    const settings *set = r->set;
    uint64_t blocks = r->t->kinds[ALLOC] + r->t->kinds[FREE] + r->t->kinds[RESIZE];
    sagemem_heap_stats s;
    printf("replay (%s", set->use_malloc ? "malloc" : "heap");
    if (set->growth > 1) printf(", growth by %g", set->growth);
    printf("): %.6f s, %.1f ns an event; peak: %llu bytes asked for", seconds, blocks > 0 ? seconds * 1e9 / (double)blocks : 0,
           (unsigned long long)r->peak);
    if (!set->use_malloc && sagemem_heap_get_stats(r->root, &s) == SAGEMEM_OK)
        printf(", %llu held", (unsigned long long)s.held_peak);
    printf("\n");
    if (set->growth > 1 && r->t->kinds[RESIZE] == 0) printf("  nothing in the trace is resized: --growth has no effect\n");
    if (set->limit == 0 && r->failures == 0) return;
    if (set->limit != 0) printf("limit of %llu bytes: ", (unsigned long long)set->limit);
    else printf("without a limit: ");
    if (r->failures == 0) {
        printf("nothing fails\n");
        return;
    }
    printf("first fails at ");
    say_event(r->t, r->first_failure);
    printf("; %llu allocations fail\n", (unsigned long long)r->failures);
}

static double now_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bool play(const trace *t, const settings *set) {
    replay r = {t, set, NULL, NULL, NULL, NULL, 0, 0, 0, 0};
    sagemem_heap_desc desc = {"replay", NULL, set->limit, NULL, 0, 0};
    for (uint32_t tag = 1; tag <= SAGEMEM_TAG_USER_MAX; tag++)
        if (t->tags[tag].name != NULL) (void)sagemem_tag_define((sagemem_tag)tag, t->tags[tag].name);
    r.root = sagemem_heap_create(&desc);
    r.places = (place *)calloc(t->owner_count + 1, sizeof *r.places);
    r.at = (void **)calloc(t->block_count + 1, sizeof *r.at);
    r.room = (size_t *)calloc(t->block_count + 1, sizeof *r.room);
    if (r.root == NULL || r.places == NULL || r.at == NULL || r.room == NULL) return fail("there is no memory to play the trace");
    r.places[0].heap = r.root;
    r.places[0].open = true;
    double begin = now_seconds();
    for (uint64_t i = 0; i < t->count; i++) play_event(&r, &t->events[i], i + 1);
    say_replay(&r, now_seconds() - begin);
    for (uint32_t b = 0; b < t->block_count && set->use_malloc; b++) free(r.at[b]); /* what the run left; heaps end with us */
    free(r.places);
    free(r.at);
    free(r.room);
    return true;
}

/* -- The command line -------------------------------------------------------------------------------------------- */

/* "2G", "512MiB", "100000": units are binary. */
static bool set_limit(settings *set, const char *value) {
    static const char units[] = "KMGT";
    char *end = NULL;
    errno = 0;
    unsigned long long number = isdigit((unsigned char)*value) ? strtoull(value, &end, 10) : 0;
    const char *unit = number > 0 && *end != '\0' ? strchr(units, toupper((unsigned char)*end)) : NULL;
    unsigned shift = unit != NULL ? 10 * (unsigned)(unit - units + 1) : 0;
    const char *rest = unit != NULL ? end + 1 : end;
    if (number == 0 || (strcmp(rest, "") != 0 && strcmp(rest, "B") != 0 && (unit == NULL || strcmp(rest, "iB") != 0)))
        return fail("--limit takes a size such as 2G or 512MiB, not '%s'", value);
    if (errno == ERANGE || number > UINT64_MAX >> shift) return fail("--limit: %s is more than can be counted", value);
    set->limit = (uint64_t)number << shift;
    return true;
}

static bool set_allocator(settings *set, const char *value) {
    set->use_malloc = strcmp(value, "malloc") == 0;
    return set->use_malloc || strcmp(value, "heap") == 0 || fail("--allocator takes heap or malloc, not '%s'", value);
}

static bool set_growth(settings *set, const char *value) {
    char *end = NULL;
    set->growth = strtod(value, &end);
    return (end != value && *end == '\0' && set->growth >= 1 && set->growth <= 16) ||
           fail("--growth takes a factor from 1 to 16, not '%s'", value);
}

static bool set_plot(settings *set, const char *value) {
    const char *suffix = strrchr(value, '.');
    set->plot = value;
    return (suffix != NULL && strcmp(suffix, ".svg") == 0) || fail("--plot takes the name of an .svg file, not '%s'", value);
}

static bool set_massif(settings *set, const char *value) {
    set->massif = value;
    return true;
}

static const struct option {
    const char *name, *value, *help;
    bool (*set_fn)(settings *set, const char *value);
} options[] = {
    {"--limit", "SIZE", "hold at most so much: 2G, 512MiB; of malloc: what is asked for [no limit]", set_limit},
    {"--allocator", "NAME", "heap: heaps and scopes as in the run; malloc: the system's, block by block [heap]", set_allocator},
    {"--growth", "FACTOR", "what outgrows its room gets so many times as much [1: just what it asks for]", set_growth},
    {"--plot", "FILE.svg", "draw what each tag had over the run", set_plot},
    {"--massif", "FILE", "write the run in the form of Valgrind's massif, for ms_print", set_massif},
};
enum { OPTIONS = sizeof options / sizeof options[0] };

static void print_help(void) {
    printf("usage: sagemem-replay [options] TRACE\n"
           "Plays a trace (binary of sagemem_trace_begin, or text, plain or gzipped) under other settings; -: what comes in.\n\n"
           "  --help              print this and end\n");
    for (int i = 0; i < OPTIONS; i++) {
        int width = printf("  %s %s", options[i].name, options[i].value);
        printf("%*s%s\n", width < 22 ? 22 - width : 1, "", options[i].help);
    }
    printf("\nText has a line an event: m ID BYTES, c ID BYTES, r ID OLD NEW, f ID.\n"
           "Memory: some 150 bytes an event of the trace, which is read whole, and what the trace itself allocates.\n"
           "Status: 0 done (also when the limit is met); 1 the trace cannot be read, or a file not written; 2 wrong usage.\n");
}

static bool read_option(settings *set, const char *name, const char *value) {
    for (int i = 0; i < OPTIONS; i++) {
        if (strcmp(options[i].name, name) != 0) continue;
        if (value == NULL) return fail("%s needs a value (%s)", name, options[i].value);
        return options[i].set_fn(set, value);
    }
    return fail("unknown option '%s'; --help lists them", name);
}

/* The same file, by whatever names; a terminal or a pipe may be both. */
static bool is_same(const char *one, const char *two) {
    struct stat a, b;
    if (one == NULL || two == NULL) return false;
    if ((strcmp(one, "-") == 0 ? fstat(STDIN_FILENO, &a) : stat(one, &a)) != 0 || stat(two, &b) != 0) return strcmp(one, two) == 0;
    return S_ISREG(a.st_mode) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static bool are_apart(const settings *set) {
    if (is_same(set->trace, set->plot)) return fail("--plot %s would overwrite the trace", set->plot);
    if (is_same(set->trace, set->massif)) return fail("--massif %s would overwrite the trace", set->massif);
    return !is_same(set->plot, set->massif) || fail("--massif %s would overwrite the picture", set->massif);
}

static bool read_arguments(settings *set, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-' && argv[i][1] != '\0') {
            if (!read_option(set, argv[i], i + 1 < argc ? argv[i + 1] : NULL)) return false;
            i++;
        } else if (set->trace != NULL) {
            return fail("one trace at a time: '%s' is a second one", argv[i]);
        } else {
            set->trace = argv[i];
        }
    }
    return set->trace != NULL ? are_apart(set) : fail("no trace is named; --help says how");
}

/* Whether two names that were nobody's are one file is seen when the first is there. */
static bool draw(const trace *t, const settings *set) {
    if (set->plot != NULL && !trace_plot(t, set->plot)) return false;
    return set->massif == NULL || (are_apart(set) && trace_massif(t, set->massif));
}

static int finish(bool ok) {
    bool said = fflush(stdout) == 0 && !ferror(stdout);
    return (said || fail("standard output: %s", strerror(errno))) && ok ? 0 : 1;
}

int main(int argc, char **argv) {
    settings set = {NULL, NULL, NULL, 0, 1, false};
    trace t;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") != 0) continue;
        print_help();
        return finish(true);
    }
    if (!read_arguments(&set, argc, argv)) return 2;
    if (!trace_read(&t, set.trace)) return 1;
    say_recorded(&t, &set);
    bool ok = play(&t, &set) && draw(&t, &set);
    trace_release(&t);
    return finish(ok);
}
