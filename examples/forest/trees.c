/* Reads merger trees and believes nothing in them until it has been checked: see trees.h. */
#include "trees.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "forest.h"

/* -- The file: int32 trees, int32 halos, int32 halos of each tree, then the halos ----------------------- */

static const int64_t fixed_bytes = 2 * sizeof(int32_t);

/* The file is looked at through a window, so that no more of it is in memory than that, however large it is. */
enum { WINDOW_BYTES = 1 << 20 };

static sagemem_map *map_open(sagemem_heap *heap, const char *path, bool no_mapping) {
    sagemem_map *map = sagemem_map_open(&(sagemem_map_desc){.path = path,
                                                            .access = SAGEMEM_ACCESS_SEQUENTIAL,
                                                            .window = WINDOW_BYTES,
                                                            .no_mapping = no_mapping,
                                                            .heap = heap,
                                                            .tag = TAG_TREES});
    if (!map) fail("%s: cannot open it: %s", path, sagemem_last_error()->message);
    return map;
}

/* Any offset will do: what lies there is not aligned for what it is, so it is copied, a window at a time. */
static bool copy_out(sagemem_map *map, uint64_t offset, void *to, uint64_t size, const char *path, const char *what) {
    for (uint64_t done = 0; done < size;) {
        size_t piece = size - done < WINDOW_BYTES ? (size_t)(size - done) : WINDOW_BYTES;
        const void *view = sagemem_map_view(map, offset + done, piece);
        if (!view) return fail("%s: cannot read %s: %s", path, what, sagemem_last_error()->message);
        memcpy((char *)to + done, view, piece);
        done += piece;
    }
    return true;
}

/* Says in which halo a file ends that should have gone on for longer. */
static bool fail_short(const struct tree_file *file, int64_t bytes, int64_t promised) {
    int64_t left = (bytes - fixed_bytes - (int64_t)sizeof(int32_t) * file->tree_count) / (int64_t)sizeof(struct halo);
    int32_t tree = 0;
    for (; left >= file->halo_counts[tree]; tree++) left -= file->halo_counts[tree];
    return fail("%s: tree %" PRId32 ", halo %" PRId64 ": the file ends here, after %" PRId64 " of %" PRId64 " bytes", file->path,
                tree, left, bytes, promised);
}

/* Compares what the table promises with what there is, before anything is allocated for it. */
static bool check_lengths(const struct tree_file *file, int32_t total, int64_t bytes) {
    int64_t halos = 0;
    for (int32_t tree = 0; tree < file->tree_count; tree++) {
        if (file->halo_counts[tree] < 0)
            return fail("%s: tree %" PRId32 ": it cannot have %" PRId32 " halos", file->path, tree, file->halo_counts[tree]);
        halos += file->halo_counts[tree];
    }
    if (halos != total) return fail("%s: its trees have %" PRId64 " halos, but its header says %" PRId32, file->path, halos, total);

    int64_t promised = fixed_bytes + (int64_t)sizeof(int32_t) * file->tree_count + (int64_t)sizeof(struct halo) * halos;
    if (bytes < promised) return fail_short(file, bytes, promised);
    if (bytes > promised) return fail("%s: %" PRId64 " bytes follow the last halo", file->path, bytes - promised);
    return true;
}

static bool read_table(struct tree_file *file, sagemem_heap *heap, sagemem_map *map) {
    int32_t header[2];
    int64_t bytes = (int64_t)sagemem_map_size(map);
    if (bytes < fixed_bytes) return fail("%s: cannot read the header: the file is too short", file->path);
    if (!copy_out(map, 0, header, sizeof header, file->path, "the header")) return false;

    file->tree_count = header[0];
    if (file->tree_count < 0) return fail("%s: its header says %" PRId32 " trees", file->path, file->tree_count);
    if (file->tree_count > (bytes - fixed_bytes) / (int64_t)sizeof(int32_t))
        return fail("%s: its header says %" PRId32 " trees, too many for %" PRId64 " bytes", file->path, file->tree_count, bytes);

    size_t count = (size_t)file->tree_count;
    file->halo_counts = sagemem_alloc_array(heap, count, sizeof *file->halo_counts, TAG_TREES);
    if (!file->halo_counts) return fail("%s: %s", file->path, sagemem_last_error()->message);
    return copy_out(map, (uint64_t)fixed_bytes, file->halo_counts, count * sizeof *file->halo_counts, file->path,
                    "the table of trees") &&
           check_lengths(file, header[1], bytes);
}

bool tree_file_open(struct tree_file *file, sagemem_heap *heap, const char *path, bool no_mapping) {
    *file = (struct tree_file){.path = path};
    sagemem_map *map = map_open(heap, path, no_mapping);
    bool good = map && read_table(file, heap, map);
    sagemem_map_close(map); /* only read from: there is nothing to lose */
    if (!good) tree_file_close(file);
    return good;
}

void tree_file_close(struct tree_file *file) {
    sagemem_free(file->halo_counts);
    *file = (struct tree_file){0};
}

static struct tree_place place_at(const struct tree_file *file, int32_t index, uint64_t offset) {
    int32_t halo_count = index < file->tree_count ? file->halo_counts[index] : -1;
    return (struct tree_place){.path = file->path, .index = index, .halo_count = halo_count, .offset = offset};
}

struct tree_place tree_file_first(const struct tree_file *file) {
    return place_at(file, 0, (uint64_t)fixed_bytes + sizeof(int32_t) * (uint64_t)file->tree_count);
}

struct tree_place tree_file_next(const struct tree_file *file, struct tree_place place) {
    return place_at(file, place.index + 1, place.offset + sizeof(struct halo) * (uint64_t)place.halo_count);
}

bool tree_reader_open(struct tree_reader *reader, const char *path) {
    if (reader->path == path) return true;
    tree_reader_close(reader);
    reader->map = map_open(NULL, path, reader->no_mapping);
    if (!reader->map) return false;
    reader->path = path;
    return true;
}

void tree_reader_close(struct tree_reader *reader) {
    sagemem_map_close(reader->map);
    reader->map = NULL;
    reader->path = NULL;
}

/* -- One tree: is it what it should be? ------------------------------------------------------------------ */

struct check {
    const char *path;
    const struct tree *tree;
    int32_t snapshot_count;
    bool *seen; /* of each halo: has a list led to it? */
};

__attribute__((format(printf, 3, 4))) static bool damaged(const struct check *check, int32_t halo, const char *format, ...) {
    char what[128];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    return fail("%s: tree %" PRId32 ", halo %" PRId32 ": %s", check->path, check->tree->index, halo, what);
}

static bool check_link(const struct check *check, int32_t halo, const char *name, int32_t link, int32_t least) {
    if (link >= least && link < check->tree->halo_count) return true;
    return damaged(check, halo, "%s is %" PRId32 " in a tree of %" PRId32 " halos", name, link, check->tree->halo_count);
}

static bool check_amount(const struct check *check, int32_t halo, const char *name, float amount) {
    if (isfinite(amount) && amount >= 0) return true;
    return damaged(check, halo, "%s is %g", name, (double)amount);
}

static bool check_vector(const struct check *check, int32_t halo, const char *name, const float vector[3]) {
    if (isfinite(vector[0]) && isfinite(vector[1]) && isfinite(vector[2])) return true;
    return damaged(check, halo, "%s is (%g, %g, %g)", name, (double)vector[0], (double)vector[1], (double)vector[2]);
}

/* All that can be said of a halo without following its links. */
static bool check_halo(const struct check *check, int32_t index) {
    const struct halo *halo = &check->tree->halos[index];
    if (halo->snapshot < 0 || halo->snapshot >= check->snapshot_count)
        return damaged(check, index, "SnapNum is %" PRId32 ", but there are %" PRId32 " scale factors", halo->snapshot,
                       check->snapshot_count);
    if (halo->len < 1) return damaged(check, index, "Len is %" PRId32, halo->len);
    return check_link(check, index, "Descendant", halo->descendant, -1) &&
           check_link(check, index, "FirstProgenitor", halo->first_progenitor, -1) &&
           check_link(check, index, "NextProgenitor", halo->next_progenitor, -1) &&
           check_link(check, index, "FirstHaloInFOFgroup", halo->first_in_group, 0) &&
           check_link(check, index, "NextHaloInFOFgroup", halo->next_in_group, -1) &&
           check_amount(check, index, "M_Mean200", halo->m_mean200) && check_amount(check, index, "Mvir", halo->m_vir) &&
           check_amount(check, index, "M_TopHat", halo->m_top_hat) && check_amount(check, index, "Vmax", halo->v_max) &&
           check_vector(check, index, "Pos", halo->pos) && check_vector(check, index, "Vel", halo->vel) &&
           check_vector(check, index, "Spin", halo->spin);
}

static bool check_group(const struct check *check, int32_t first) {
    const struct halo *halos = check->tree->halos;
    for (int32_t from = first, at = first; at >= 0; from = at, at = halos[at].next_in_group) {
        if (halos[at].first_in_group != first)
            return damaged(check, from, "NextHaloInFOFgroup is %" PRId32 ", a halo of another group", at);
        if (check->seen[at]) return damaged(check, from, "NextHaloInFOFgroup is %" PRId32 ", which leads in a circle", at);
        if (halos[at].snapshot != halos[first].snapshot)
            return damaged(check, at, "SnapNum is %" PRId32 ", but its group's is %" PRId32, halos[at].snapshot,
                           halos[first].snapshot);
        check->seen[at] = true;
    }
    return true;
}

/* Every halo is in the list of its group, once. */
static bool check_groups(const struct check *check) {
    const struct halo *halos = check->tree->halos;
    for (int32_t i = 0; i < check->tree->halo_count; i++)
        if (halos[i].first_in_group == i && !check_group(check, i)) return false;
    for (int32_t i = 0; i < check->tree->halo_count; i++)
        if (!check->seen[i])
            return damaged(check, i, "FirstHaloInFOFgroup is %" PRId32 ", whose list does not lead here", halos[i].first_in_group);
    return true;
}

static bool check_progenitors_of(const struct check *check, int32_t descendant) {
    const struct halo *halos = check->tree->halos;
    for (int32_t at = halos[descendant].first_progenitor; at >= 0; at = halos[at].next_progenitor) {
        if (halos[at].descendant != descendant)
            return damaged(check, at, "Descendant is %" PRId32 ", but it is a progenitor of halo %" PRId32, halos[at].descendant,
                           descendant);
        if (check->seen[at])
            return damaged(check, at, "it is met twice among the progenitors of halo %" PRId32 ", a circle", descendant);
        if (halos[at].snapshot >= halos[descendant].snapshot)
            return damaged(check, at, "SnapNum is %" PRId32 ", not before its descendant's, %" PRId32, halos[at].snapshot,
                           halos[descendant].snapshot);
        check->seen[at] = true;
    }
    return true;
}

/* Every halo with a descendant is in the list of its progenitors, once. */
static bool check_progenitors(const struct check *check) {
    const struct halo *halos = check->tree->halos;
    for (int32_t i = 0; i < check->tree->halo_count; i++)
        if (!check_progenitors_of(check, i)) return false;
    for (int32_t i = 0; i < check->tree->halo_count; i++)
        if (halos[i].descendant >= 0 && !check->seen[i])
            return damaged(check, i, "Descendant is %" PRId32 ", which does not list it as a progenitor", halos[i].descendant);
    return true;
}

static bool check_tree(const struct tree_place *place, const struct tree *tree, int32_t snapshot_count, sagemem_heap *heap) {
    size_t count = (size_t)tree->halo_count;
    struct check check = {.path = place->path, .tree = tree, .snapshot_count = snapshot_count};
    check.seen = SAGEMEM_NEW_ARRAY(heap, bool, count, TAG_TREES);
    if (!check.seen) return fail("%s: tree %" PRId32 ": %s", place->path, tree->index, sagemem_last_error()->message);

    bool good = true;
    for (int32_t i = 0; good && i < tree->halo_count; i++) good = check_halo(&check, i);
    good = good && check_groups(&check);
    memset(check.seen, 0, count * sizeof *check.seen);
    good = good && check_progenitors(&check);
    sagemem_free(check.seen);
    return good;
}

bool tree_read(struct tree_reader *reader, const struct tree_place *place, int32_t snapshot_count, sagemem_heap *heap,
               struct tree *tree) {
    *tree = (struct tree){.index = place->index, .halo_count = place->halo_count};
    size_t count = (size_t)tree->halo_count;
    tree->halos = sagemem_alloc_array(heap, count, sizeof *tree->halos, TAG_TREES);
    if (!tree->halos) return fail("%s: tree %" PRId32 ": %s", place->path, tree->index, sagemem_last_error()->message);

    char what[32];
    snprintf(what, sizeof what, "tree %" PRId32, tree->index);
    return copy_out(reader->map, place->offset, tree->halos, count * sizeof *tree->halos, place->path, what) &&
           check_tree(place, tree, snapshot_count, heap);
}
