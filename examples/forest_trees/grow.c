/* Grows merger trees: see grow.h.
 *
 * A tree is grown from its root backwards in time. Step by step a group loses mass, smoothly and in fragments that are
 * halos themselves, as extended Press-Schechter theory has it (see universe.c; the binary steps are those of Cole et
 * al. 2000, MNRAS 319, 168). It is simpler than Parkinson, Cole & Helly 2008: a fragment splits no further until the
 * snapshot before. That theory knows groups only; that they live on as satellites for some time, orbit and lose mass, is
 * added here, with rules that are simple rather than exact. */
#include "grow.h"

#include <stdlib.h>

/* -- Room ---------------------------------------------------------------------------------------------------- */

/* Room for one more, half as much again each time; NULL: there is none. */
static void *grown(void *items, int32_t count, int32_t *capacity, size_t size) {
    if (count < *capacity) return items;
    int64_t wanted = (int64_t)count + count / 2 + 1024;
    if (wanted > INT32_MAX) return NULL;
    void *moved = realloc(items, (size_t)wanted * size);
    if (moved) *capacity = (int32_t)wanted;
    return moved;
}

static bool push_fragment(struct grove *grove, struct fragment fragment) {
    struct fragment *fragments = grown(grove->fragments, grove->fragment_count, &grove->fragment_capacity, sizeof *fragments);
    if (!fragments) return false;
    grove->fragments = fragments;
    fragments[grove->fragment_count++] = fragment;
    return true;
}

static struct branch *push_branch(struct grove *grove, struct branch branch) {
    struct branch *branches = grown(grove->branches, grove->branch_count, &grove->branch_capacity, sizeof *branches);
    if (!branches) return NULL;
    grove->branches = branches;
    branches[grove->branch_count] = branch;
    return &branches[grove->branch_count++];
}

void grove_free(struct grove *grove) {
    free(grove->halos);
    free(grove->branches);
    free(grove->fragments);
}

/* -- Links --------------------------------------------------------------------------------------------------- */

int32_t halo_at(const struct branch *branch, int32_t snapshot) { return branch->first + branch->end - 1 - snapshot; }

/* The halo that a branch has become part of at a snapshot at which it is gone. */
static int32_t heir_of(const struct grove *grove, const struct branch *branch, int32_t snapshot) {
    while (snapshot >= branch->end) branch = &grove->branches[branch->parent];
    return halo_at(branch, snapshot);
}

/* The central of the group that a branch belongs to. */
static int32_t central_of(const struct grove *grove, const struct branch *branch, int32_t snapshot) {
    while (snapshot >= branch->infall) branch = &grove->branches[branch->parent];
    return halo_at(branch, snapshot);
}

/* Behind the first progenitor, which is the branch's own: that was there before. */
static void link_descendant(struct grove *grove, int32_t index, int32_t descendant) {
    struct halo *halos = grove->halos;
    halos[index].descendant = descendant;
    if (halos[descendant].first_progenitor < 0) {
        halos[descendant].first_progenitor = index;
        return;
    }
    struct halo *main = &halos[halos[descendant].first_progenitor];
    halos[index].next_progenitor = main->next_progenitor;
    main->next_progenitor = index;
}

static void link_group(struct grove *grove, int32_t index, int32_t central) {
    struct halo *halos = grove->halos;
    halos[index].first_in_group = central;
    if (central == index) return;
    halos[index].next_in_group = halos[central].next_in_group;
    halos[central].next_in_group = index;
}

/* -- Branches ------------------------------------------------------------------------------------------------ */

/* The next halo of the branch that is being grown. */
static bool push_halo(struct grove *grove, int32_t snapshot, int64_t mass) {
    struct halo *halos = grown(grove->halos, grove->halo_count, &grove->halo_capacity, sizeof *halos);
    if (!halos) return false;
    grove->halos = halos;
    const struct branch *branch = &grove->branches[grove->branch_count - 1];
    int32_t index = grove->halo_count++;
    halos[index] = (struct halo){
        .descendant = -1,
        .first_progenitor = -1,
        .next_progenitor = -1,
        .next_in_group = -1,
        .len = (int32_t)mass,
        .most_bound_id = grove->number << 32 | grove->branch_count,
        .snapshot = snapshot,
        .file_number = grove->file_number,
        .subhalo_index = index,
    };
    if (snapshot < LAST_SNAPSHOT) link_descendant(grove, index, heir_of(grove, branch, snapshot + 1));
    link_group(grove, index, central_of(grove, branch, snapshot));
    return true;
}

/* What tides leave of a satellite from one snapshot to the next: it loses its mass in a time of the order of that in which
 * it crosses the group (van den Bosch, Tormen & Giocoli 2005, MNRAS 359, 1029). */
static int64_t stripped(const struct epoch *epoch, int64_t mass) {
    int64_t time = 2 * epoch->crossing;
    return mass * time / (time + epoch->step);
}

/* Time until dynamical friction brings a satellite to the centre from the virial radius (Binney & Tremaine 1987), on
 * some orbit; less on those that go through the centre. 27 / 2 is 1.17 over ln 2 / 8, cells being eighths of octaves. */
static int64_t orbit_time(struct grove *grove, int64_t group, int64_t mass, int32_t snapshot) {
    int logarithm = cell_of(8 * (group + mass) / mass) - cell_of(8);
    int64_t orbit = 64 + random_below(&grove->random, 192);
    return grove->universe->epochs[snapshot].crossing * 27 * group / (2 * mass * logarithm) * orbit / 256;
}

/* The snapshot at which a satellite is gone: it has arrived, or too little is left of it. */
static int32_t end_of(const struct universe *universe, int64_t mass, int32_t infall, int64_t orbit) {
    int32_t snapshot = infall;
    for (; snapshot < SNAPSHOTS; snapshot++) {
        mass = stripped(&universe->epochs[snapshot], mass);
        if (mass < LEAST_MASS || universe->epochs[snapshot].age - universe->epochs[infall - 1].age >= orbit) break;
    }
    return snapshot;
}

static struct branch *start_branch(struct grove *grove, const struct fragment *fragment) {
    struct branch branch = {.parent = fragment->parent, .first = grove->halo_count, .infall = fragment->infall, .end = SNAPSHOTS};
    if (branch.parent >= 0) {
        int64_t group = grove->halos[halo_at(&grove->branches[branch.parent], branch.infall)].len;
        branch.orbit = orbit_time(grove, group, fragment->mass, branch.infall);
        branch.end = end_of(grove->universe, fragment->mass, branch.infall, branch.orbit);
    }
    return push_branch(grove, branch);
}

/* Takes a group back to the snapshot before: the mass of its largest part, or 0 if that is too small for a halo. The
 * others become fragments. Steps are so short that more than one split in a step would be rare. */
static bool split(struct grove *grove, int32_t snapshot, int64_t *mass) {
    const struct splitting *splitting = &grove->universe->splitting[cell_of(*mass)];
    uint64_t barrier = grove->universe->epochs[snapshot].barrier;
    uint64_t expected = splitting->rate * barrier >> 8, smooth = splitting->smooth * barrier >> 16;
    uint64_t steps = 1 + ((expected > smooth ? expected : smooth) >> 29);
    int64_t left = *mass;
    int32_t first = grove->fragment_count, branch = grove->branch_count - 1;

    for (uint64_t step = 0; step < steps && left >= LEAST_MASS; step++) {
        uint64_t draw = random_64(&grove->random);
        left -= (int64_t)(((uint64_t)left * (smooth / steps) + (draw & UINT32_MAX)) >> 32);
        if (draw >> 32 >= expected / steps || splitting->fragments.count == 0) continue;
        int64_t part = distribution_draw(&splitting->fragments, &grove->random);
        if (part > left / 2) continue;
        left -= part;
        if (!push_fragment(grove, (struct fragment){.parent = branch, .infall = snapshot, .mass = part})) return false;
    }
    for (int32_t i = first; i < grove->fragment_count; i++) {
        int64_t part = grove->fragments[i].mass;
        if (part <= left) continue;
        grove->fragments[i].mass = left;
        left = part;
    }
    *mass = left >= LEAST_MASS ? left : 0;
    return true;
}

static bool grow_branch(struct grove *grove, const struct fragment *fragment) {
    const struct branch *branch = start_branch(grove, fragment);
    if (!branch) return false;
    for (int32_t snapshot = branch->end - 1; snapshot >= branch->infall; snapshot--)
        if (!push_halo(grove, snapshot, 0)) return false;
    int64_t mass = fragment->mass;
    for (int32_t snapshot = branch->infall - 1; mass > 0; snapshot--) {
        if (!push_halo(grove, snapshot, mass)) return false;
        if (snapshot == 0) break;
        if (!split(grove, snapshot, &mass)) return false;
    }
    return true;
}

/* -- Particles ----------------------------------------------------------------------------------------------- */

/* Until now each central has all particles of its group. Satellites take theirs with them, and lose them to the central
 * by and by: so those of a group are always as many as its mass. What falls into a branch was grown after it, and has
 * to be done before it. */
static void share_particles(struct grove *grove) {
    struct halo *halos = grove->halos;
    for (int32_t i = grove->branch_count - 1; i > 0; i--) {
        const struct branch *branch = &grove->branches[i];
        for (int32_t snapshot = branch->infall; snapshot < branch->end; snapshot++) {
            int32_t index = halo_at(branch, snapshot);
            int64_t left = stripped(&grove->universe->epochs[snapshot], halos[index + 1].len);
            halos[index].len = (int32_t)(left > LEAST_MASS ? left : LEAST_MASS);
            halos[halos[index].first_in_group].len -= halos[index].len;
        }
    }
}

bool grow(struct grove *grove, int64_t mass) {
    grove->halo_count = grove->branch_count = grove->fragment_count = 0;
    if (!push_fragment(grove, (struct fragment){.parent = -1, .infall = SNAPSHOTS, .mass = mass})) return false;
    while (grove->fragment_count > 0) {
        struct fragment fragment = grove->fragments[--grove->fragment_count];
        if (!grow_branch(grove, &fragment)) return false;
    }
    share_particles(grove);
    return true;
}
