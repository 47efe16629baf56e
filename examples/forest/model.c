/* Walks a tree and tells its galaxies when to do what physics.c can do: see model.h. */
#include "model.h"

#include "forest.h"
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
    return true;
}

void model_deinit(struct model *model) {
    sagemem_free(model->cooling);
    sagemem_free(model->epochs);
    *model = (struct model){0};
}

/* A galaxy on the bench: what it takes to carry it from one snapshot to the next. */
struct member {
    struct galaxy galaxy;
    size_t host; /* an orphan's: the member it spirals into */
    double step; /* time, a STEPS-th of what lies between the snapshots */
    bool merged; /* and so gone */
};

struct bench {
    const struct model *model;
    const struct tree *tree;
    struct population *population;
    struct member *members; /* of one group, its central galaxy first */
    size_t count, capacity;
    int32_t births; /* in this tree so far */
};

/* Room for one more item: `items`, or where it moved to; NULL: no memory, and all is as it was. Half as much again
 * each time keeps the copying linear. A size that overflows becomes SIZE_MAX, which the library refuses. */
static void *grown(void *items, size_t count, size_t *capacity, size_t item_size, sagemem_tag tag) {
    if (count < *capacity) return items;
    size_t wanted = count + count / 2 + 16;
    size_t bytes = wanted <= SIZE_MAX / item_size ? wanted * item_size : SIZE_MAX;
    void *moved = sagemem_realloc(NULL, items, bytes, tag);
    if (moved) *capacity = wanted;
    return moved;
}

static struct member *member_add(struct bench *bench) {
    struct member *members = grown(bench->members, bench->count, &bench->capacity, sizeof *members, TAG_GROUPS);
    if (!members) return NULL;
    bench->members = members;
    members[bench->count] = (struct member){0};
    return &members[bench->count++];
}

static bool galaxy_keep(struct population *population, const struct galaxy *galaxy) {
    struct galaxy *galaxies =
        grown(population->galaxies, population->galaxy_count, &population->galaxy_capacity, sizeof *galaxies, TAG_GALAXIES);
    if (!galaxies) return false;
    population->galaxies = galaxies;
    galaxies[population->galaxy_count++] = *galaxy;
    return true;
}

static bool merger_keep(struct population *population, struct merger merger) {
    struct merger *mergers =
        grown(population->mergers, population->merger_count, &population->merger_capacity, sizeof *mergers, TAG_MERGERS);
    if (!mergers) return false;
    population->mergers = mergers;
    mergers[population->merger_count++] = merger;
    return true;
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
    member->step = (epochs[snapshot].age - epochs[from].age) / STEPS;
    member->galaxy.halo = halo;
    member->galaxy.snapshot = snapshot;
    member->galaxy.star_formation = 0;
}

/* A halo that nothing came before gets a galaxy of nothing; infall begins after the snapshot before. */
static bool gather_newborn(struct bench *bench, int32_t halo) {
    struct member *member = member_add(bench);
    if (!member) return false;
    int32_t snapshot = bench->tree->halos[halo].snapshot;
    member_advance(bench, member, halo, snapshot > 0 ? snapshot - 1 : 0);
    member->galaxy.number = bench->births++;
    settle(bench, &member->galaxy, halo, true);
    return true;
}

/* Puts the galaxies of a halo's progenitors on the bench. The main progenitor's own galaxy comes first and becomes
 * the halo's; those of the others lose their halos and become orphans. */
static bool gather_halo(struct bench *bench, int32_t halo) {
    const struct halo *halos = bench->tree->halos;
    double scale_factor = bench->model->epochs[halos[halo].snapshot].scale_factor;
    size_t host = bench->count;
    if (halos[halo].first_progenitor < 0) return gather_newborn(bench, halo);

    for (int32_t from = halos[halo].first_progenitor; from >= 0; from = halos[from].next_progenitor) {
        struct galaxy_range range = bench->population->of_halo[from];
        for (size_t i = range.first; i < range.first + range.count; i++) {
            struct member *member = member_add(bench);
            if (!member) return false;
            member->galaxy = bench->population->galaxies[i];
            member->host = host;
            member_advance(bench, member, halo, halos[from].snapshot);
            if (bench->count - 1 == host) {
                settle(bench, &member->galaxy, halo, false);
            } else if (member->galaxy.type != GALAXY_ORPHAN) {
                member->galaxy.type = GALAXY_ORPHAN;
                member->galaxy.merge_time = friction_time(&member->galaxy, &bench->members[host].galaxy, scale_factor);
            }
        }
    }
    return true;
}

/* A group that lacks baryons for its mass lets some in (White & Frenk 1991). */
static double infall_of(const struct bench *bench) {
    double baryons = 0;
    for (size_t i = 0; i < bench->count; i++) baryons += galaxy_baryons(&bench->members[i].galaxy);
    double due = baryons_due(bench->members[0].galaxy.m_vir);
    return due > baryons ? due - baryons : 0;
}

/* Ends the orbits whose time is over. */
static bool merge_orphans(struct bench *bench) {
    struct galaxy *central = &bench->members[0].galaxy;
    for (size_t i = 0; i < bench->count; i++) {
        struct member *member = &bench->members[i];
        if (member->merged || member->galaxy.type != GALAXY_ORPHAN) continue;
        member->galaxy.merge_time -= member->step;
        if (member->galaxy.merge_time > 0) continue;
        struct galaxy *host = &bench->members[member->host].galaxy;
        double ratio = merger_ratio(&member->galaxy, host);
        galaxy_merge(&member->galaxy, host, central, ratio);
        member->merged = true;
        if (!merger_keep(bench->population, (struct merger){.snapshot = host->snapshot,
                                                            .satellite = member->galaxy.number,
                                                            .central = host->number,
                                                            .ratio = ratio}))
            return false;
    }
    return true;
}

static bool evolve(struct bench *bench) {
    struct galaxy *central = &bench->members[0].galaxy;
    double infall = infall_of(bench);
    bench->population->infall += infall;
    for (size_t i = 1; i < bench->count; i++) galaxy_strip(&bench->members[i].galaxy, central);

    for (int step = 0; step < STEPS; step++) {
        central->hot += infall / STEPS;
        galaxy_reincorporate(central, bench->members[0].step);
        galaxy_cool(central, bench->model->cooling, bench->members[0].step);
        for (size_t i = 0; i < bench->count; i++) {
            if (bench->members[i].merged) continue;
            galaxy_form_stars(&bench->members[i].galaxy, central, bench->members[i].step);
            galaxy_steady(&bench->members[i].galaxy);
        }
        if (!merge_orphans(bench)) return false;
    }
    return true;
}

/* Takes those that are left from the bench into the population. */
static bool keep_group(struct bench *bench) {
    struct population *population = bench->population;
    for (size_t i = 0; i < bench->count; i++) {
        struct member *member = &bench->members[i];
        if (member->merged) continue;
        if (member->step > 0) member->galaxy.star_formation /= member->step * STEPS;
        struct galaxy_range *range = &population->of_halo[member->galaxy.halo];
        if (range->count++ == 0) range->first = population->galaxy_count;
        if (!galaxy_keep(population, &member->galaxy)) return false;
    }
    return true;
}

/* Depth first: a group when all that its halos came from is done. Each call is for an earlier snapshot than the one
 * that made it, so there are never more of them than snapshots. */
static bool build_group(struct bench *bench, int32_t first) {
    const struct halo *halos = bench->tree->halos;
    const struct galaxy_range *of_halo = bench->population->of_halo;
    for (int32_t at = first; at >= 0; at = halos[at].next_in_group)
        for (int32_t from = halos[at].first_progenitor; from >= 0; from = halos[from].next_progenitor)
            if (of_halo[from].count == 0 && !build_group(bench, halos[from].first_in_group)) return false;

    bench->count = 0;
    int32_t halo = first;
    do {
        if (!gather_halo(bench, halo)) return false;
        halo = halos[halo].next_in_group;
    } while (halo >= 0);
    return evolve(bench) && keep_group(bench);
}

bool model_run(const struct model *model, const struct tree *tree, struct population *population) {
    *population = (struct population){0};
    population->of_halo = SAGEMEM_NEW_ARRAY(NULL, struct galaxy_range, (size_t)tree->halo_count, TAG_GALAXIES);
    if (!population->of_halo) return false;
    struct bench bench = {.model = model, .tree = tree, .population = population};
    for (int32_t i = 0; i < tree->halo_count; i++)
        if (population->of_halo[i].count == 0 && !build_group(&bench, tree->halos[i].first_in_group)) return false;
    return true;
}
