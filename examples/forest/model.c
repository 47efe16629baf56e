/* Walks a tree and tells its galaxies when to do what physics.c can do: see model.h. */
#include "model.h"

#include <math.h>

#include "forest.h"
#include "galaxies.h"
#include "list.h"
#include "output.h"
#include "trees.h"

enum { STEPS = 10 }; /* between two snapshots */

bool model_init(struct model *model, const double *scale_factors, int32_t count) {
    *model = (struct model){.epoch_count = count};
    model->epochs = sagemem_alloc_array(NULL, (size_t)count, sizeof *model->epochs, TAG_SNAPSHOTS);
    model->cooling = cooling_make();
    if (!model->epochs || !model->cooling) {
        model_deinit(model);
        return false;
    }
    for (int32_t i = 0; i < count; i++) model->epochs[i] = epoch_at(scale_factors[i]);
    model->history_bin = model->epochs[count - 1].age / HISTORY_BINS;
    return true;
}

void model_deinit(struct model *model) {
    sagemem_free(model->cooling);
    sagemem_free(model->epochs);
    *model = (struct model){0};
}

static int history_bin_at(const struct model *model, double time) {
    return (int)fmin(fmax(time / model->history_bin, 0), HISTORY_BINS - 1);
}

/* A galaxy on the bench: what it takes to carry it from one snapshot to the next. */
struct member {
    struct galaxy *galaxy;
    size_t host;        /* an orphan's: the member it spirals into */
    double begin, step; /* time: of the snapshot before; a STEPS-th of what lies between the two */
    bool merged;        /* and so gone */
};

struct merger {
    int32_t snapshot;
    int32_t satellite, central; /* numbers of galaxies */
    double ratio;               /* see merger_ratio() */
};

/* One tree at work. A galaxy goes from halo to halo with the main branch, until it merges or nothing follows. */
struct bench {
    const struct model *model;
    const struct tree *tree;
    struct outbox *outbox;
    struct harvest *harvest;
    sagemem_pool *pool;
    struct galaxy **of_halo; /* the first galaxy, the halo's own, and by `next` its orphans; NULL: not yet, or no more */
    bool *built;             /* halo by halo */
    struct list members;     /* of one group, its central galaxy first */
    sagemem_columns *search; /* beside them, at least as many rows: galaxy->due of each. NULL: do without */
    double *due;             /* its column */
    size_t rows;             /* how long that is */
    struct list mergers;
    int32_t births; /* in this tree so far */
};

static struct member *members_of(const struct bench *bench) { return bench->members.array.data; }

static struct member *member_add(struct bench *bench, struct galaxy *galaxy) {
    struct member *member = list_add(&bench->members);
    if (member) *member = (struct member){.galaxy = galaxy};
    return member;
}

static void galaxy_end(struct bench *bench, struct galaxy *galaxy) {
    galaxies_free(bench->pool, galaxy->at_infall);
    galaxies_free(bench->pool, galaxy);
}

/* -- One group, from its progenitors' snapshot to its own ------------------------------------------------ */

/* A group's first halo has its virial mass; of others only the particles are known. */
static double halo_mass(const struct tree *tree, int32_t index) {
    const struct halo *halo = &tree->halos[index];
    bool first = halo->first_in_group == index;
    return first && halo->m_vir > 0 ? (double)halo->m_vir : particles_mass(halo->len);
}

/* Gives a galaxy the halo it is in. A satellite keeps the size that it had before it fell in. */
static void settle(const struct bench *bench, struct galaxy *galaxy, int32_t index, bool newborn) {
    const struct halo *halo = &bench->tree->halos[index];
    galaxy->type = halo->first_in_group == index ? GALAXY_CENTRAL : GALAXY_SATELLITE;
    galaxy->len = halo->len;
    galaxy->most_bound_id = halo->most_bound_id;
    galaxy->v_max = halo->v_max;
    for (int i = 0; i < 3; i++) {
        galaxy->pos[i] = halo->pos[i];
        galaxy->vel[i] = halo->vel[i];
    }
    if (galaxy->type != GALAXY_CENTRAL && !newborn) return;
    galaxy_size(galaxy, halo_mass(bench->tree, index), halo->spin, &bench->model->epochs[halo->snapshot]);
}

/* Moves a member on to the snapshot of its halo; what it was before was at snapshot `from`. */
static void member_advance(const struct bench *bench, struct member *member, int32_t halo, int32_t from) {
    const struct epoch *epochs = bench->model->epochs;
    int32_t snapshot = bench->tree->halos[halo].snapshot;
    member->begin = epochs[from].age;
    member->step = (epochs[snapshot].age - epochs[from].age) / STEPS;
    member->galaxy->halo = halo;
    member->galaxy->snapshot = snapshot;
    member->galaxy->star_formation = 0;
}

/* A halo that nothing came before gets a galaxy of nothing; infall begins after the snapshot before. */
static bool gather_newborn(struct bench *bench, int32_t halo) {
    struct galaxy *galaxy = galaxies_alloc(bench->pool);
    struct member *member = galaxy ? member_add(bench, galaxy) : NULL;
    if (!member) return false;
    int32_t snapshot = bench->tree->halos[halo].snapshot;
    member_advance(bench, member, halo, snapshot > 0 ? snapshot - 1 : 0);
    member->galaxy->number = bench->births++;
    settle(bench, member->galaxy, halo, true);
    return true;
}

/* What a galaxy was when it last was a central, history and all, stays beside it while it is none. */
static bool remember_infall(struct bench *bench, struct galaxy *galaxy, bool remains_central) {
    if (remains_central) {
        galaxies_free(bench->pool, galaxy->at_infall);
        galaxy->at_infall = NULL;
        return true;
    }
    if (galaxy->at_infall || galaxy->type != GALAXY_CENTRAL) return true;
    galaxy->at_infall = galaxies_copy(bench->pool, galaxy);
    return galaxy->at_infall != NULL;
}

/* Puts the galaxies of a halo's progenitors on the bench. The main progenitor's own galaxy comes first and becomes the
 * halo's; those of the others lose their halos and become orphans. */
static bool gather_halo(struct bench *bench, int32_t halo) {
    const struct halo *halos = bench->tree->halos;
    double scale_factor = bench->model->epochs[halos[halo].snapshot].scale_factor;
    size_t host = bench->members.array.count;
    if (halos[halo].first_progenitor < 0) return gather_newborn(bench, halo);

    for (int32_t from = halos[halo].first_progenitor; from >= 0; from = halos[from].next_progenitor) {
        for (struct galaxy *galaxy = bench->of_halo[from]; galaxy; galaxy = galaxy->next) {
            bool own = bench->members.array.count == host;
            struct member *member = member_add(bench, galaxy);
            if (!member || !remember_infall(bench, galaxy, own && halos[halo].first_in_group == halo)) return false;
            member->host = host;
            member_advance(bench, member, halo, halos[from].snapshot);
            if (own) {
                settle(bench, galaxy, halo, false);
            } else if (galaxy->type != GALAXY_ORPHAN) {
                galaxy->type = GALAXY_ORPHAN;
                galaxy->merge_time = friction_time(galaxy, members_of(bench)[host].galaxy, scale_factor);
            }
        }
        bench->of_halo[from] = NULL;
    }
    return true;
}

/* Works out in which step each orphan merges, and notes it where the search will look. */
static bool prepare_search(struct bench *bench) {
    const struct member *members = members_of(bench);
    size_t count = bench->members.array.count;
    if (bench->search && bench->rows < count) {
        if (sagemem_columns_resize(bench->search, count) != SAGEMEM_OK) return false;
        bench->rows = count;
        bench->due = sagemem_columns_data(bench->search, 0);
    }
    for (size_t i = 0; i < count; i++) {
        struct galaxy *galaxy = members[i].galaxy;
        galaxy->due = galaxy->type == GALAXY_ORPHAN ? galaxy->merge_time / members[i].step : INFINITY;
        if (bench->search) bench->due[i] = galaxy->due;
    }
    return true;
}

/* The next member, from that one on, that is due by the end of that step; the number of members: none. In a large group
 * much of the work is here: the column has 8 bytes a member where the records have hundreds, behind an address. */
static size_t find_due(const struct bench *bench, size_t at, int step) {
    const struct member *members = members_of(bench);
    size_t count = bench->members.array.count;
    if (bench->search)
        while (at < count && bench->due[at] > step) at++;
    else
        while (at < count && members[at].galaxy->due > step) at++;
    return at;
}

static void is_no_more_due(struct bench *bench, size_t member) {
    members_of(bench)[member].galaxy->due = INFINITY;
    if (bench->search) bench->due[member] = INFINITY;
}

/* Ends the orbits whose time is over. */
static bool merge_orphans(struct bench *bench, int step) {
    struct member *members = members_of(bench);
    size_t count = bench->members.array.count;
    for (size_t i = find_due(bench, 0, step); i < count; i = find_due(bench, i + 1, step)) {
        struct galaxy *galaxy = members[i].galaxy, *host = members[members[i].host].galaxy;
        double ratio = merger_ratio(galaxy, host);
        galaxy_merge(galaxy, host, members[0].galaxy, ratio,
                     history_bin_at(bench->model, members[i].begin + (step - 0.5) * members[i].step));
        members[i].merged = true;
        is_no_more_due(bench, i);
        struct merger *merger = list_add(&bench->mergers);
        if (!merger) return false;
        *merger = (struct merger){.snapshot = host->snapshot, .satellite = galaxy->number, .central = host->number, .ratio = ratio};
    }
    return true;
}

/* A group that lacks baryons for its mass lets some in (White & Frenk 1991). */
static double infall_of(const struct bench *bench) {
    const struct member *members = members_of(bench);
    double baryons = 0;
    for (size_t i = 0; i < bench->members.array.count; i++) baryons += galaxy_baryons(members[i].galaxy);
    double due = baryons_due(members[0].galaxy->m_vir);
    return due > baryons ? due - baryons : 0;
}

static bool evolve(struct bench *bench) {
    struct member *members = members_of(bench);
    size_t count = bench->members.array.count;
    struct galaxy *central = members[0].galaxy;
    double infall = infall_of(bench);
    bench->harvest->let_in += infall;
    for (size_t i = 1; i < count; i++) galaxy_strip(members[i].galaxy, central);

    for (int step = 1; step <= STEPS; step++) {
        central->hot += infall / STEPS;
        galaxy_reincorporate(central, members[0].step);
        galaxy_cool(central, bench->model->cooling, members[0].step);
        for (size_t i = 0; i < count; i++) {
            if (members[i].merged) continue;
            int bin = history_bin_at(bench->model, members[i].begin + (step - 0.5) * members[i].step);
            galaxy_form_stars(members[i].galaxy, central, members[i].step, bin);
            galaxy_steady(members[i].galaxy);
        }
        if (!merge_orphans(bench, step)) return false;
    }
    return true;
}

/* -- What becomes of the group, and of what it came from --------------------------------------------------- */

/* Gives what is left on the bench to its halos, and a copy of what is asked for to the outbox. */
static bool keep_group(struct bench *bench) {
    struct member *members = members_of(bench);
    struct galaxy **end = NULL;
    for (size_t i = 0; i < bench->members.array.count; i++) {
        struct member *member = &members[i];
        struct galaxy *galaxy = member->galaxy;
        if (member->merged) {
            galaxy_end(bench, galaxy);
            continue;
        }
        if (member->step > 0) galaxy->star_formation /= member->step * STEPS;
        if (galaxy->type == GALAXY_ORPHAN) galaxy->merge_time -= member->step * STEPS;
        if (!end || !bench->built[galaxy->halo]) end = &bench->of_halo[galaxy->halo];
        bench->built[galaxy->halo] = true;
        galaxy->next = NULL;
        *end = galaxy;
        end = &galaxy->next;
        bench->harvest->galaxy_count++;
        if (!outbox_add(bench->outbox, bench->model, galaxy, members[0].galaxy->number)) return false;
    }
    return true;
}

/* What has no descendant is counted, and ends. */
static void end_group(struct bench *bench, int32_t first) {
    const struct halo *halos = bench->tree->halos;
    for (int32_t at = first; at >= 0; at = halos[at].next_in_group) {
        if (halos[at].descendant >= 0) continue;
        for (struct galaxy *galaxy = bench->of_halo[at], *next; galaxy; galaxy = next) {
            next = galaxy->next;
            bench->harvest->found += galaxy_baryons(galaxy);
            galaxy_end(bench, galaxy);
        }
        bench->of_halo[at] = NULL;
    }
}

/* Depth first: a group when all that its halos came from is done. Each call is for an earlier snapshot than the one
 * that made it, so there are never more of them than snapshots. */
static bool build_group(struct bench *bench, int32_t first) {
    const struct halo *halos = bench->tree->halos;
    for (int32_t at = first; at >= 0; at = halos[at].next_in_group)
        for (int32_t from = halos[at].first_progenitor; from >= 0; from = halos[from].next_progenitor)
            if (!bench->built[from] && !build_group(bench, halos[from].first_in_group)) return false;

    list_clear(&bench->members);
    for (int32_t halo = first; halo >= 0; halo = halos[halo].next_in_group)
        if (!gather_halo(bench, halo)) return false;
    if (!prepare_search(bench) || !evolve(bench) || !keep_group(bench)) return false;
    end_group(bench, first);
    return true;
}

/* -- One tree ------------------------------------------------------------------------------------------------ */

static bool bench_init(struct bench *bench, sagemem_heap *heap, const struct without *without) {
    static const sagemem_column column = {"due", sizeof(double)};
    const sagemem_columns_desc search = {.heap = heap, .tag = TAG_SEARCH, .name = "search", .columns = &column, .column_count = 1};
    size_t count = (size_t)bench->tree->halo_count;
    bench->of_halo = SAGEMEM_NEW_ARRAY(heap, struct galaxy *, count, TAG_GALAXIES);
    bench->built = SAGEMEM_NEW_ARRAY(heap, bool, count, TAG_GALAXIES);
    bench->pool = galaxies_make(heap, without->pool);
    if (!bench->of_halo || !bench->built || !bench->pool) return false;
    if (!without->column && !(bench->search = sagemem_columns_create(&search))) return false;
    return list_init(&bench->members, heap, TAG_GROUPS, sizeof(struct member), without->array) &&
           list_init(&bench->mergers, heap, TAG_MERGERS, sizeof(struct merger), without->array);
}

static void count_mergers(const struct bench *bench) {
    const struct merger *mergers = bench->mergers.array.data;
    for (size_t i = 0; i < bench->mergers.array.count; i++) {
        double redshift = 1 / bench->model->epochs[mergers[i].snapshot].scale_factor - 1;
        bench->harvest->mergers++;
        bench->harvest->major_mergers += mergers[i].ratio >= major_merger;
        bench->harvest->mergers_at[(int)fmin(fmax(redshift, 0), REDSHIFT_BINS - 1)]++;
    }
}

bool model_run(const struct model *model, sagemem_heap *heap, const struct without *without, const struct tree *tree,
               struct outbox *outbox, struct harvest *harvest) {
    *harvest = (struct harvest){.halo_count = tree->halo_count};
    struct bench bench = {.model = model, .tree = tree, .outbox = outbox, .harvest = harvest};
    if (!bench_init(&bench, heap, without)) return false;
    for (int32_t i = 0; i < tree->halo_count; i++)
        if (!bench.built[i] && !build_group(&bench, tree->halos[i].first_in_group)) return false;
    count_mergers(&bench);
    return true;
}
