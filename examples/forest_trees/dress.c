/* Gives halos all that follows from their masses and their place in the tree: see grow.h. None of it is simulated: it is
 * such that halos look like those of a simulation, one by one. */
#include "grow.h"

struct vector {
    int64_t x[3];
};

enum { UNIT = 1 << 14 }; /* the length of a direction */

static struct vector with_length(struct vector v, int64_t length) {
    int64_t norm = square_root(v.x[0] * v.x[0] + v.x[1] * v.x[1] + v.x[2] * v.x[2]);
    for (int i = 0; i < 3; i++) v.x[i] = v.x[i] * length / (norm > 0 ? norm : 1);
    return v;
}

/* From within a sphere, all of it alike, and so into all directions alike. */
static struct vector random_direction(struct random *random) {
    for (;;) {
        struct vector v;
        int64_t square = 0;
        for (int i = 0; i < 3; i++) {
            v.x[i] = random_below(random, 2 * UNIT + 1) - UNIT;
            square += v.x[i] * v.x[i];
        }
        if (square > UNIT && square <= (int64_t)UNIT * UNIT) return with_length(v, UNIT);
    }
}

static struct vector random_turn(struct random *random, struct vector direction, int64_t strength) {
    struct vector turn = random_direction(random);
    for (int i = 0; i < 3; i++) direction.x[i] = 8 * direction.x[i] + strength * turn.x[i];
    return with_length(direction, UNIT);
}

static struct vector added(struct vector v, struct vector direction, int64_t length) {
    for (int i = 0; i < 3; i++) v.x[i] += direction.x[i] * length / UNIT;
    return v;
}

/* -- In and out of halos: whole numbers and the powers of two of universe.h make floats that are exact --------- */

static float from_mass(int64_t mass) { return (float)(mass * 1443943) / (1 << 24); } /* times 0.0860657 */
static float from_length(int64_t length) { return (float)length / (1 << 20); }
static float from_velocity(int64_t velocity) { return (float)velocity / (1 << 6); }

static struct vector place_of(const struct halo *halo) {
    struct vector place;
    for (int i = 0; i < 3; i++) place.x[i] = (int64_t)(halo->pos[i] * (1 << 20));
    return place;
}

static struct vector velocity_of(const struct halo *halo) {
    struct vector velocity;
    for (int i = 0; i < 3; i++) velocity.x[i] = (int64_t)(halo->vel[i] * (1 << 6));
    return velocity;
}

/* 2^-13 Mpc/h is what 24 bits can tell apart in a box of 2048 Mpc/h. */
static void set_motion(struct halo *halo, struct vector place, struct vector velocity, int64_t side) {
    for (int i = 0; i < 3; i++) {
        int64_t wrapped = place.x[i] % (side << 20);
        if (wrapped < 0) wrapped += side << 20;
        halo->pos[i] = from_length(wrapped >> 7 << 7);
        halo->vel[i] = from_velocity(velocity.x[i]);
    }
}

/* -- One branch ---------------------------------------------------------------------------------------------- */

struct dressing {
    struct grove *grove;
    const struct branch *branch;
    int64_t side;
    struct vector outward, axis;   /* from the centre of the group it falls into; of its spin */
    struct vector place, velocity; /* as a central */
    int64_t spin, concentration;   /* spin parameter times the square root of 2, 2^-16; Vmax over Vvir, 2^-10 */
    int64_t infall_velocity;       /* a satellite's at infall */
};

static int64_t velocity_max(const struct halo *halo) { return (int64_t)(halo->v_max * (1 << 6)); }

/* Of a central, from its Vmax, which is some 6/5 of its virial velocity v = 10 H r; comoving. */
static int64_t comoving_radius(const struct epoch *epoch, const struct halo *halo) {
    return (velocity_max(halo) << 24) / (12 * epoch->hubble) * MILLION / epoch->scale_factor;
}

static const struct epoch *epoch_of(const struct dressing *dressing, int32_t snapshot) {
    return &dressing->grove->universe->epochs[snapshot];
}

/* Orbits decay as friction has it: the square of the radius falls evenly. */
static void place_satellite(struct dressing *dressing, struct halo *halo) {
    const struct branch *branch = dressing->branch;
    const struct epoch *epoch = epoch_of(dressing, halo->snapshot);
    const struct halo *central = &dressing->grove->halos[halo->first_in_group];
    int64_t left = branch->orbit - (epoch->age - epoch_of(dressing, branch->infall - 1)->age);
    int64_t share = square_root(((left > 0 ? left : 0) << 20) / branch->orbit); /* 2^-10 */
    int64_t radius = comoving_radius(epoch, central) * share >> 10;

    struct vector place = added(place_of(central), dressing->outward, radius);
    struct vector velocity = added(velocity_of(central), random_direction(&dressing->grove->random), velocity_max(central));
    set_motion(halo, place, velocity, dressing->side);
    dressing->outward = random_turn(&dressing->grove->random, dressing->outward, 4);
}

/* Where a root is at the end, or where a branch is when it falls into its group. */
static void start_motion(struct dressing *dressing) {
    struct grove *grove = dressing->grove;
    const struct branch *branch = dressing->branch;
    if (branch->parent < 0) {
        for (int i = 0; i < 3; i++) dressing->place.x[i] = random_below(&grove->random, (uint32_t)dressing->side << 20);
        dressing->velocity = added((struct vector){{0}}, dressing->outward, random_below(&grove->random, 600 << 6));
        return;
    }
    const struct halo *host = &grove->halos[halo_at(&grove->branches[branch->parent], branch->infall)];
    const struct epoch *epoch = epoch_of(dressing, branch->infall);
    dressing->place = added(place_of(host), dressing->outward, comoving_radius(epoch, host));
    dressing->velocity = added(velocity_of(host), dressing->outward, -velocity_max(host));
}

/* Backwards in time, from the snapshot behind. */
static void place_central(struct dressing *dressing, struct halo *halo) {
    if (halo->snapshot == dressing->branch->infall - 1) start_motion(dressing);
    if (halo->snapshot < LAST_SNAPSHOT) {
        const struct epoch *later = epoch_of(dressing, halo->snapshot + 1);
        for (int i = 0; i < 3; i++)
            dressing->place.x[i] -= dressing->velocity.x[i] * later->step / 64 * MILLION / later->scale_factor;
    }
    set_motion(halo, dressing->place, dressing->velocity, dressing->side);
    struct random *random = &dressing->grove->random;
    dressing->velocity = added(dressing->velocity, random_direction(random), 5 << 6);
}

/* Those that go with the virial radius: 200 times the mean density, and top hat, hold more by as much as there is of a
 * cosmological constant; the factors are rough. */
static void set_masses(struct halo *halo, const struct epoch *epoch, int64_t mass) {
    halo->m_vir = from_mass(mass);
    halo->m_mean200 = from_mass(mass + mass * epoch->lambda / (3 << 10));
    halo->m_top_hat = from_mass(mass + mass * epoch->lambda / (6 << 10));
}

/* Spins are those of the definition of Bullock et al. 2001 (ApJ 555, 240): j = sqrt(2) lambda v r, with r = v / 10 H. */
static void set_spin(struct dressing *dressing, struct halo *halo, int64_t velocity) {
    const struct epoch *epoch = epoch_of(dressing, halo->snapshot);
    int64_t j = dressing->spin * (velocity * velocity / 16) / (10 * epoch->hubble) * 64; /* 2^-20 Mpc/h km/s */
    for (int i = 0; i < 3; i++) halo->spin[i] = from_length(dressing->axis.x[i] * j / UNIT);
    dressing->axis = random_turn(&dressing->grove->random, dressing->axis, 2);
}

static int64_t group_mass(const struct grove *grove, const struct halo *halo) {
    int64_t mass = 0;
    for (int32_t at = halo->first_in_group; at >= 0; at = grove->halos[at].next_in_group) mass += grove->halos[at].len;
    return mass;
}

/* A satellite keeps more of its virial velocity than of its mass. */
static int64_t velocity_now(const struct dressing *dressing, const struct halo *halo, bool central) {
    if (central) return virial_velocity(epoch_of(dressing, halo->snapshot), group_mass(dressing->grove, halo));
    int64_t bare = virial_velocity(epoch_of(dressing, dressing->branch->infall - 1), halo->len);
    return (dressing->infall_velocity + bare) / 2;
}

static void dress_halo(struct dressing *dressing, struct halo *halo, bool central) {
    const struct epoch *epoch = epoch_of(dressing, halo->snapshot);
    int64_t velocity = velocity_now(dressing, halo, central);
    int64_t v_max = velocity * dressing->concentration >> 10;
    halo->v_max = from_velocity(v_max);
    halo->vel_disp = from_velocity(5 * v_max / 8);
    halo->sub_half_mass = from_length((velocity << 24) / (100 * epoch->hubble)); /* a radius, a tenth of the virial one */
    set_spin(dressing, halo, velocity);
    if (central) {
        set_masses(halo, epoch, group_mass(dressing->grove, halo));
        place_central(dressing, halo);
    } else {
        place_satellite(dressing, halo);
    }
}

static void dress_branch(struct dressing *dressing) {
    struct grove *grove = dressing->grove;
    struct random *random = &grove->random;
    const struct branch *branch = dressing->branch;
    dressing->outward = random_direction(random);
    dressing->axis = random_direction(random);
    dressing->concentration = 1126 + random_below(random, 205); /* 1.1 to 1.3 */
    dressing->spin = 464;                                       /* spin parameters from 0.005 to 0.085, mostly about 0.045 */
    for (int i = 0; i < 3; i++) dressing->spin += random_below(random, 2471);
    const struct halo *infalling = &grove->halos[halo_at(branch, branch->infall - 1)];
    dressing->infall_velocity = virial_velocity(epoch_of(dressing, branch->infall - 1), group_mass(grove, infalling));

    int32_t index = branch->first;
    for (; index >= 0; index = grove->halos[index].first_progenitor)
        dress_halo(dressing, &grove->halos[index], grove->halos[index].first_in_group == index);
}

/* What a branch falls into was grown before it, and is dressed before it. */
void dress(struct grove *grove, int64_t side) {
    for (int32_t i = 0; i < grove->branch_count; i++) {
        struct dressing dressing = {.grove = grove, .branch = &grove->branches[i], .side = side};
        dress_branch(&dressing);
    }
}
