/* Drawing traces: a picture by tag, and the form of Valgrind's massif. */
#include "replay.h"

#include <errno.h>

enum { COLUMNS = 400, LAYERS = 10, WIDTH = 960, HEIGHT = 420, LEFT = 80, TOP = 40, BOTTOM = 40, LEGEND = 230 };

/* What the layers of the picture had when there was most, in each part of the run. */
typedef struct column {
    uint64_t total, by_layer[LAYERS + 1]; /* the last: all other tags */
    uint64_t number;                      /* of the event */
    double at;                            /* 0 ... 1: when */
} column;

typedef struct sweep {
    const trace *t;
    uint32_t tags[LAYERS]; /* those that ever had most, most first */
    uint8_t layer[TAGS];
    uint32_t layers;
    column now, columns[COLUMNS];
} sweep;

static void choose_layers(sweep *s) {
    memset(s->layer, LAYERS, sizeof s->layer);
    for (s->layers = 0; s->layers < LAYERS; s->layers++) {
        uint32_t best = 0;
        for (uint32_t tag = 0; tag < TAGS; tag++)
            if (s->layer[tag] == LAYERS && (s->layer[best] != LAYERS || s->t->tags[tag].peak > s->t->tags[best].peak)) best = tag;
        if (s->layer[best] != LAYERS || s->t->tags[best].peak == 0) return;
        s->layer[best] = (uint8_t)s->layers;
        s->tags[s->layers] = best;
    }
}

static void change(sweep *s, uint32_t b, bool come) {
    const trace_block *it = &s->t->blocks[b];
    uint64_t size = come ? it->size : 0 - it->size;
    s->now.total += size;
    s->now.by_layer[s->layer[it->tag]] += size;
}

static double when(const trace *t, uint64_t i) {
    if (t->ns > 0) return (double)t->events[i].ns / (double)t->ns;
    return t->count > 1 ? (double)i / (double)(t->count - 1) : 0;
}

static void run(sweep *s) {
    const trace *t = s->t;
    int last = 0;
    for (uint64_t i = 0; i < t->count; i++) {
        const event *e = &t->events[i];
        double at = when(t, i);
        int c = at >= 1 ? COLUMNS - 1 : (int)(at * COLUMNS);
        for (; last < c; last++) { /* what there is goes on where nothing happens */
            s->columns[last + 1] = s->now;
            s->columns[last + 1].at = (double)(last + 1) / COLUMNS;
        }
        if (e->kind == RESIZE && !e->moved) change(s, e->from, false);
        if (e->kind == FREE || e->kind == MOVED) change(s, e->block, false);
        if (e->kind == ALLOC || e->kind == RESIZE) change(s, e->block, true);
        for (uint32_t b = e->first; b != NO_BLOCK; b = t->blocks[b].next) change(s, b, false);
        s->now.at = at;
        s->now.number = i + 1;
        if (s->now.total >= s->columns[c].total) s->columns[c] = s->now;
    }
    for (; last < COLUMNS - 1; last++) s->columns[last + 1] = s->now;
}

static sweep *sweep_make(const trace *t) {
    sweep *s = (sweep *)calloc(1, sizeof *s);
    if (s == NULL) {
        fail("there is no memory to draw the trace");
        return NULL;
    }
    s->t = t;
    choose_layers(s);
    run(s);
    return s;
}

static bool done(FILE *file, const char *path) {
    bool ok = !ferror(file);
    ok = fclose(file) == 0 && ok;
    return ok || fail("%s: %s", path, strerror(errno));
}

/* Tags are the program's: nothing of them is to be markup. */
static void put_text(FILE *file, const char *text) {
    for (; *text != '\0'; text++) {
        char c = *text;
        if (c == '<') fputs("&lt;", file);
        else if (c == '>') fputs("&gt;", file);
        else if (c == '&') fputs("&amp;", file);
        else fputc(c, file);
    }
}

static double x_of(double at) { return LEFT + at * (WIDTH - LEFT - LEGEND); }
static double y_of(uint64_t bytes, uint64_t most) {
    return TOP + (1 - (most > 0 ? (double)bytes / (double)most : 0)) * (HEIGHT - TOP - BOTTOM);
}

static void draw_layer(FILE *file, const sweep *s, uint32_t layer, const char *colour) {
    fprintf(file, "<polygon fill=\"%s\" points=\"", colour);
    for (int way = 0; way < 2; way++)
        for (int i = 0; i < COLUMNS; i++) {
            const column *c = &s->columns[way == 0 ? i : COLUMNS - 1 - i];
            uint64_t below = 0;
            for (uint32_t l = 0; l < layer + (way == 0 ? 1u : 0u); l++) below += c->by_layer[l];
            fprintf(file, "%.1f,%.1f ", x_of(c->at), y_of(below, s->t->peak));
        }
    fputs("\"/>\n", file);
}

static void draw_frame(FILE *file, const sweep *s) {
    static const char units[] = " KMGT";
    double peak = (double)s->t->peak;
    int unit = 0;
    for (; peak >= 1024 && unit < 4; unit++) peak /= 1024;
    for (int i = 0; i <= 4; i++) {
        double y = y_of((uint64_t)i, 4);
        fprintf(file, "<line x1=\"%d\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#bbb\" stroke-width=\"0.5\"/>\n", LEFT, x_of(1),
                y, y);
        fprintf(file, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g %c%s</text>\n", LEFT - 6, y + 4, peak * i / 4,
                units[unit] == ' ' ? 'B' : units[unit], units[unit] == ' ' ? "" : "iB");
    }
    if (s->t->ns > 0)
        fprintf(file, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"end\">%.4g s</text>\n", x_of(1), HEIGHT - 20,
                (double)s->t->ns * 1e-9);
    else
        fprintf(file, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"end\">%llu %ss</text>\n", x_of(1), HEIGHT - 20,
                (unsigned long long)s->t->count, s->t->unit);
}

/* Allocations that failed, and pressure. */
static void draw_marks(FILE *file, const trace *t) {
    int marks = 0;
    for (uint64_t i = 0; i < t->count && marks < 200; i++) {
        const event *e = &t->events[i];
        if (e->kind != FAIL && e->kind != PRESSURE) continue;
        fprintf(file, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"%s\"><title>%s at %s %llu</title></line>\n",
                x_of(when(t, i)), x_of(when(t, i)), TOP, HEIGHT - BOTTOM, e->kind == FAIL ? "#c00" : "#c80",
                e->kind == FAIL ? "an allocation failed" : "memory pressure", t->unit, (unsigned long long)(i + 1));
        marks++;
    }
}

bool trace_plot(const trace *t, const char *path) {
    static const char *const colours[] = {"#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948",
                                          "#b07aa1", "#ff9da7", "#9c755f", "#86bcb6", "#bab0ac"};
    sweep *s = sweep_make(t);
    FILE *file = s != NULL ? fopen(path, "wb") : NULL;
    if (file == NULL) {
        free(s);
        return s == NULL ? false : fail("%s: %s", path, strerror(errno));
    }
    fprintf(
        file,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
        "font-size=\"12\">\n<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n<text x=\"%d\" y=\"24\" font-size=\"15\">Bytes in "
        "use, by tag</text>\n",
        WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT, LEFT);
    for (uint32_t layer = 0; layer <= LAYERS; layer++)
        if (layer < s->layers || layer == LAYERS) draw_layer(file, s, layer, colours[layer]);
    draw_frame(file, s);
    draw_marks(file, t);
    for (uint32_t layer = 0; layer < s->layers; layer++) {
        fprintf(file, "<rect x=\"%.1f\" y=\"%u\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%.1f\" y=\"%u\">", x_of(1) + 16,
                TOP + 18 * layer, colours[layer], x_of(1) + 34, TOP + 18 * layer + 11);
        put_text(file, trace_tag(t, s->tags[layer]));
        fputs("</text>\n", file);
    }
    fputs("</svg>\n", file);
    free(s);
    return done(file, path);
}

/* Some snapshots of the run, with tags where massif has functions. */
bool trace_massif(const trace *t, const char *path) {
    sweep *s = sweep_make(t);
    FILE *file = s != NULL ? fopen(path, "wb") : NULL;
    int snapshot = 0, most = 0;
    if (file == NULL) {
        free(s);
        return s == NULL ? false : fail("%s: %s", path, strerror(errno));
    }
    for (int i = 1; i < COLUMNS; i++)
        if (s->columns[i].total > s->columns[most].total) most = i;
    fprintf(file, "desc: sagemem trace\ncmd: (traced)\ntime_unit: %s\n", t->ns > 0 ? "ms" : "i");
    for (int i = 0; i < COLUMNS; i++) {
        const column *c = &s->columns[i];
        uint32_t trees = 0;
        if (i % 4 != 0 && i != most) continue;
        double time = t->ns > 0 ? c->at * (double)t->ns * 1e-6 : (double)c->number;
        fprintf(file, "#-----------\nsnapshot=%d\n#-----------\ntime=%.3f\nmem_heap_B=%llu\nmem_heap_extra_B=0\nmem_stacks_B=0\n",
                snapshot++, time, (unsigned long long)c->total);
        for (uint32_t l = 0; l <= LAYERS; l++) trees += c->by_layer[l] > 0;
        fprintf(file, "heap_tree=%s\n", i == most ? "peak" : "detailed");
        fprintf(file, "n%u: %llu (tags of all heaps)\n", trees, (unsigned long long)c->total);
        for (uint32_t l = 0; l <= LAYERS; l++)
            if (c->by_layer[l] > 0)
                fprintf(file, " n0: %llu %s\n", (unsigned long long)c->by_layer[l],
                        l < LAYERS ? trace_tag(t, s->tags[l]) : "all other tags");
    }
    free(s);
    return done(file, path);
}
