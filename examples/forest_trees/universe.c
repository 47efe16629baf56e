/* Computes the tables: see universe.h. */
#include "universe.h"

#include <math.h>

/* The cosmology of the Millennium run (Springel et al. 2005, Nature 435, 629). */
static const double omega_matter = 0.25, omega_lambda = 0.75, hubble_0 = 0.73, sigma_8 = 0.9;
static const double particle_mass = 8.60657e8;     /* Msun/h */
static const double critical_density = 2.77536e11; /* Msun/h / (Mpc/h)^3 */
static const double pi = 3.14159265358979324;

/* -- Time ---------------------------------------------------------------------------------------------------- */

/* Four early ones, then log10(1 + z) = n (n + 35) / 4200 for n = 59 ... 0 (Springel et al. 2005). */
static int64_t scale_factor_of(int snapshot) {
    static const int64_t early[] = {7813, 12346, 19608, 32258};
    if (snapshot < 4) return early[snapshot];
    int n = LAST_SNAPSHOT - snapshot;
    return llround(MILLION * pow(10, -n * (n + 35) / 4200.0));
}

/* Against today's. */
static double expansion_rate(double a) { return sqrt(omega_matter / (a * a * a) + omega_lambda); }

/* Of small perturbations, but for a factor (Heath 1977, MNRAS 179, 351), by the midpoint rule. */
static double growth(double a) {
    enum { POINTS = 1000 };
    double sum = 0;
    for (int i = 0; i < POINTS; i++) {
        double at = a * (i + 0.5) / POINTS;
        sum += pow(at * expansion_rate(at), -3) * a / POINTS;
    }
    return expansion_rate(a) * sum;
}

static double barrier_at(double a) { return 1.686 * growth(1) / growth(a); }

static void make_epochs(struct universe *universe) {
    for (int i = 0; i < SNAPSHOTS; i++) {
        struct epoch *epoch = &universe->epochs[i];
        epoch->scale_factor = scale_factor_of(i);
        double a = (double)epoch->scale_factor / MILLION;
        double hubble = 100 * expansion_rate(a);
        double age = 2 / (300 * sqrt(omega_lambda)) * asinh(sqrt(omega_lambda / omega_matter * a * a * a));
        epoch->age = llround(ldexp(age, 20));
        epoch->hubble = llround(ldexp(hubble, 10));
        epoch->crossing = llround(ldexp(1 / (10 * hubble), 20));
        epoch->lambda = llround(ldexp(omega_lambda / pow(expansion_rate(a), 2), 10));
        if (i == 0) continue;
        double before = (double)universe->epochs[i - 1].scale_factor / MILLION;
        epoch->step = epoch->age - universe->epochs[i - 1].age;
        epoch->barrier = (uint64_t)llround(ldexp(barrier_at(before) - barrier_at(a), 24));
    }
}

/* -- Mass ---------------------------------------------------------------------------------------------------- */

int cell_of(int64_t mass) {
    int octave = 3;
    while (mass >> (octave + 1) > 0) octave++;
    return 8 * octave + (int)(mass >> (octave - 3) & 7);
}

int64_t cell_edge(int cell) { return (int64_t)(8 + cell % 8) << (cell / 8 - 3); }

static double cell_middle(int cell) { return sqrt((double)cell_edge(cell) * (double)cell_edge(cell + 1)); }

static double shape(double u) {
    return 64.087 * pow(1 + 1.074 * pow(u, 0.3) - 1.581 * pow(u, 0.4) + 0.954 * sqrt(u) - 0.185 * pow(u, 0.6), -10);
}

/* How much the density varies between spheres that hold this mass, today: the fit of van den Bosch 2002 (MNRAS 331,
 * 98) to a cold dark matter universe. */
static double sigma(double particles) {
    double gamma = omega_matter * hubble_0;
    return sigma_8 * shape(3.804e-4 * gamma * cbrt(particles * particle_mass / omega_matter)) / shape(32 * gamma);
}

static double variance(double particles) { return pow(sigma(particles), 2); }

/* -- Fragments ----------------------------------------------------------------------------------------------- */

/* Parkinson, Cole & Helly 2008 (MNRAS 383, 557) multiply what extended Press-Schechter theory gives (Lacey & Cole 1993,
 * MNRAS 262, 627) by a factor that makes its trees like those of the Millennium run. Their weak dependence on the
 * barrier (their gamma_2 is -0.01) is left out. */
static double correction(double variance_1, double variance_2) { return 0.57 * pow(variance_1 / variance_2, 0.38 / 2); }

/* Of the mass, that in halos below the least mass; the integral over 1 / sqrt(variance_1 - variance_2), which is even. */
static double smooth_fraction(double variance_2) {
    enum { POINTS = 1000 };
    double end = 1 / sqrt(variance(LEAST_MASS) - variance_2), sum = 0;
    for (int i = 0; i < POINTS; i++) {
        double w = end * (i + 0.5) / POINTS;
        sum += correction(variance_2 + 1 / (w * w), variance_2) * end / POINTS;
    }
    return 2 / sqrt(2 * pi) * sum;
}

/* How many fragments in a cell come from a halo. */
static double fragments_in(int cell, double mass_2, double variance_2) {
    double middle = cell_middle(cell), variance_1 = variance(middle);
    double width = variance((double)cell_edge(cell)) - variance((double)cell_edge(cell + 1));
    return correction(variance_1, variance_2) / sqrt(2 * pi) * pow(variance_1 - variance_2, -1.5) * width * mass_2 / middle;
}

static void make_distribution(struct distribution *distribution, int first, int end, const double *numbers) {
    double sum = 0, total = 0;
    distribution->first = first;
    distribution->count = end > first ? end - first : 0;
    for (int cell = first; cell < end; cell++) total += numbers[cell];
    for (int cell = first; cell < end; cell++) {
        sum += numbers[cell];
        distribution->cumulative[cell - first] = (uint32_t)fmin(round(ldexp(sum / total, 32)), UINT32_MAX);
    }
}

/* Fragments are half of the halo at most: what is left is the larger part. */
static void make_splitting(struct splitting *splitting, int cell) {
    double mass = cell_middle(cell), number[CELLS], rate = 0;
    int first = cell_of(LEAST_MASS), end = cell - 8;
    for (int i = first; i < end; i++) rate += number[i] = fragments_in(i, mass, variance(mass));
    splitting->rate = (uint64_t)llround(ldexp(rate, 16));
    splitting->smooth = (uint64_t)llround(ldexp(smooth_fraction(variance(mass)), 24));
    make_distribution(&splitting->fragments, first, end, number);
}

/* -- Groups -------------------------------------------------------------------------------------------------- */

/* The mass function of Sheth & Tormen 1999 (MNRAS 308, 119), with its usual parameters. */
static double groups_in(int cell) {
    double middle = cell_middle(cell), nu = 0.707 * pow(1.686, 2) / variance(middle);
    double share = 0.3222 * sqrt(2 * nu / pi) * (1 + pow(nu, -0.3)) * exp(-nu / 2);
    double width = log(sigma((double)cell_edge(cell)) / sigma((double)cell_edge(cell + 1)));
    return critical_density * omega_matter / (middle * particle_mass) * share * width;
}

void universe_make(struct universe *universe) {
    make_epochs(universe);
    for (int cell = cell_of(LEAST_MASS); cell < CELLS - 1; cell++) {
        make_splitting(&universe->splitting[cell], cell);
        universe->abundance[cell] = groups_in(cell);
    }
}

/* How many halos the tree of a group has on average: fitted to trees that were grown, good to a tenth. */
static double halos_for(double mass) { return 0.068 * mass + 5.8 * pow(mass, 0.36); }

void universe_roots(const struct universe *universe, int64_t halos, struct distribution *roots) {
    int first = CELLS - 1;
    double number = 0, sum = 0;
    do {
        first--;
        number += universe->abundance[first];
        sum += universe->abundance[first] * halos_for(cell_middle(first));
    } while (first > cell_of(LEAST_MASS) && sum > number * (double)halos);
    make_distribution(roots, first, CELLS - 1, universe->abundance);
}

int64_t universe_side(const struct universe *universe, const struct distribution *roots, int64_t trees) {
    double number = 0;
    for (int i = 0; i < roots->count; i++) number += universe->abundance[roots->first + i];
    return (int64_t)ceil(fmax(cbrt((double)trees / number), LEAST_SIDE));
}

int64_t universe_mass_for(int64_t halos) {
    int64_t mass = LEAST_MASS;
    for (int64_t step = (int64_t)1 << (MASS_BITS - 2); step > 0; step /= 2)
        if (halos_for((double)(mass + step)) <= (double)halos) mass += step;
    return mass;
}

/* -- Integers ------------------------------------------------------------------------------------------------ */

/* Within a cell the number is as the mass to the power -2, nearly that of fragments and of groups. */
int64_t distribution_draw(const struct distribution *distribution, struct random *random) {
    uint64_t draw = random_64(random);
    uint32_t fraction = (uint32_t)(draw >> 32);
    int least = 0, most = distribution->count - 1;
    while (least < most) {
        int middle = (least + most) / 2;
        if (fraction < distribution->cumulative[middle]) most = middle;
        else least = middle + 1;
    }
    int64_t from = cell_edge(distribution->first + least), to = cell_edge(distribution->first + least + 1);
    return from * to / (from + ((to - from) * (int64_t)(draw & UINT32_MAX) >> 32));
}

/* The largest number below 2^bits whose power is not above x. */
static int64_t root(int64_t x, int bits, int power) {
    int64_t result = 0;
    for (int64_t bit = (int64_t)1 << bits; bit > 0; bit >>= 1) {
        int64_t trial = result | bit;
        int64_t raised = power == 2 ? trial * trial : trial * trial * trial;
        if (raised <= x) result = trial;
    }
    return result;
}

int64_t square_root(int64_t x) { return root(x, 30, 2); }

/* v^3 = 10 G m H of a sphere with 200 times the critical density. With G = 43.0071 (km/s)^2 Mpc / 1e10 Msun, 10 G times
 * the mass of a particle is 9703093 / 2^18; the 2^18 is that of (2^-6 km/s)^3. */
int64_t virial_velocity(const struct epoch *epoch, int64_t mass) {
    const int64_t ten_g = 9703093;
    return root(ten_g * mass / 1024 * epoch->hubble, 20, 3);
}
