/* What happens within galaxies: see physics.h. The framework is that of White & Frenk 1991 (ApJ 379, 52) with the
 * recipes of Croton et al. 2006 (MNRAS 365, 11; "C06" below). Metals and reionisation are left out. */
#include "physics.h"

#include <math.h>

#include "forest.h"

/* -- Constants ------------------------------------------------------------------------------------------- */

/* The cosmology and the particle of the Millennium run (Springel et al. 2005, Nature 435, 629). */
static const double omega_matter = 0.25;
static const double omega_lambda = 0.75;
const double hubble_parameter = 0.73;
static const double particle_mass = 0.0860657; /* 1e10 Msun/h */

static const double pi = 3.14159265358979324;
static const double gravity = 43.0071;                  /* (km/s)^2 Mpc / 1e10 Msun */
static const double speed_of_light = 299792.458;        /* km/s */
const double msun_per_year_by_rate = 1e10 / 9.77792e11; /* 1e10 Msun/h over (Mpc/h)/(km/s); h cancels */
const double gyr_by_time = 977.792 / 0.73;              /* from (Mpc/h)/(km/s), h as above */

/* C06, most of them in its table 1. */
static const double baryon_fraction = 0.17;     /* f_b */
static const double star_efficiency = 0.07;     /* alpha_SF */
static const double recycled_fraction = 0.3;    /* R: of new stars, back at once as gas */
static const double reheat_efficiency = 3.5;    /* epsilon_disk */
static const double ejection_efficiency = 0.35; /* epsilon_halo */
static const double supernova_velocity = 630;   /* V_SN, km/s */
static const double reincorporation = 0.5;      /* gamma_ej */
static const double quasar_efficiency = 0.03;   /* f_BH */
static const double radio_efficiency = 6e-6;    /* kappa_AGN, Msun/yr */
static const double radiated_fraction = 0.1;    /* eta */
const double major_merger = 0.3;                /* T_merger */

/* -- The universe and its halos --------------------------------------------------------------------------- */

/* A flat universe of matter and a cosmological constant has its age in closed form. */
struct epoch epoch_at(double scale_factor) {
    double ratio = omega_lambda / omega_matter * pow(scale_factor, 3);
    return (struct epoch){
        .scale_factor = scale_factor,
        .age = 2 / (3 * 100 * sqrt(omega_lambda)) * asinh(sqrt(ratio)),
        .hubble = 100 * sqrt(omega_lambda * (1 + 1 / ratio)),
    };
}

double particles_mass(int32_t len) { return len * particle_mass; }

/* The sphere within which the mean density is 200 times the critical one, as in C06. The disc has the spin of its
 * halo, by the definition of Bullock et al. 2001 (ApJ 555, 240): Mo, Mao & White 1998 (MNRAS 295, 319). */
void galaxy_size(struct galaxy *galaxy, double mass, const float spin[3], const struct epoch *epoch) {
    galaxy->m_vir = mass;
    galaxy->r_vir = cbrt(gravity * mass / (100 * epoch->hubble * epoch->hubble));
    galaxy->v_vir = sqrt(gravity * mass / galaxy->r_vir);
    double specific = hypot(hypot((double)spin[0], (double)spin[1]), (double)spin[2]);
    double lambda = specific / (sqrt(2) * galaxy->v_vir * galaxy->r_vir);
    galaxy->disk_radius = lambda / sqrt(2) * galaxy->r_vir;
}

/* -- Baryons ------------------------------------------------------------------------------------------------ */

double galaxy_baryons(const struct galaxy *galaxy) {
    return galaxy->cold + galaxy->stars + galaxy->hot + galaxy->ejected + galaxy->black_hole;
}

/* Moves baryons, but never more than there are; returns how much it was. But for infall, which model.c adds and
 * counts, nothing else changes a reservoir: that is why baryons are conserved. */
static double move(double *from, double *to, double amount) {
    amount = fmin(fmax(amount, 0), *from);
    *from -= amount;
    *to += amount;
    return amount;
}

/* Lets stars form, returns gas of those that die young, and heats gas by their supernovae (C06): it goes to the
 * group's hot gas, and what is blown out even of that comes back by galaxy_reincorporate(). Returns the stars that
 * stay. */
static double make_stars(struct galaxy *galaxy, struct galaxy *central, double formed, int bin) {
    double reheated = reheat_efficiency * formed;
    if (formed + reheated > galaxy->cold) { /* they compete for the gas: both get less */
        formed *= galaxy->cold / (formed + reheated);
        reheated = reheat_efficiency * formed;
    }
    double stars = move(&galaxy->cold, &galaxy->stars, (1 - recycled_fraction) * formed);
    galaxy->history->formed[bin] += stars;
    galaxy->star_formation += formed;
    move(&galaxy->cold, &central->hot, reheated);
    double energy = ejection_efficiency * pow(supernova_velocity / central->v_vir, 2);
    move(&central->hot, &central->ejected, (energy - reheat_efficiency) * formed);
    return stars;
}

double galaxy_mean_age(const struct galaxy *galaxy, double width, double time) {
    double stars = 0, sum = 0;
    for (int i = 0; i < HISTORY_BINS; i++) {
        stars += galaxy->history->formed[i];
        sum += galaxy->history->formed[i] * fmax(time - (i + 0.5) * width, 0);
    }
    return stars > 0 ? sum / stars : 0;
}

/* Above a critical surface density (Kauffmann 1996, MNRAS 281, 475; C06) discs form stars. */
void galaxy_form_stars(struct galaxy *galaxy, struct galaxy *central, double time, int bin) {
    double radius = 3 * galaxy->disk_radius;
    if (radius <= 0) return;
    double critical = 0.19 * galaxy->v_vir * radius; /* 3.8e9 Msun at 200 km/s and 10 kpc */
    double formed = star_efficiency * (galaxy->cold - critical) * galaxy->v_vir / radius * time;
    if (formed > 0) make_stars(galaxy, central, formed, bin);
}

/* Blown-out gas falls back within some dynamical times (C06). */
void galaxy_reincorporate(struct galaxy *central, double time) {
    move(&central->ejected, &central->hot, reincorporation * central->ejected * central->v_vir / central->r_vir * time);
}

/* A disc too heavy for its halo makes a bar, and that makes a bulge (Efstathiou, Lake & Negroponte 1982, MNRAS 199,
 * 1069): as in C06, with the criterion in the form of Mo, Mao & White 1998, of as many stars as are too many. */
void galaxy_steady(struct galaxy *galaxy) {
    double stable = galaxy->v_vir * galaxy->v_vir * galaxy->disk_radius / gravity;
    double disk = galaxy->stars - galaxy->bulge;
    if (disk > stable) galaxy->bulge += disk - stable;
}

double baryons_due(double mass) { return baryon_fraction * mass; }

/* A satellite loses its halo's gas to the group (C06). */
void galaxy_strip(struct galaxy *satellite, struct galaxy *central) {
    move(&satellite->hot, &central->hot, satellite->hot);
    move(&satellite->ejected, &central->ejected, satellite->ejected);
}

/* -- Cooling ---------------------------------------------------------------------------------------------- */

enum { COOLING_PER_DEX = 20, COOLING_ENTRIES = 91 };
static const double cooling_floor = 4; /* log10 K: below, hydrogen is neutral and does not cool */

/* Gas of a third of the solar metallicity in collisional equilibrium, erg cm^3/s: the fit of Tozzi & Norman 2001
 * (ApJ 546, 63) to the tables of Sutherland & Dopita 1993 (ApJS 88, 253), kept level below 0.03 keV, where it ends.
 * That is within about a factor of 2 of the tables above 5e4 K, and too high below, where gas cools in no time. */
static double cooling_fit(double kelvin) {
    double kev = fmax(kelvin * 8.617333e-8, 0.03);
    return 1e-22 * (8.6e-3 * pow(kev, -1.7) + 5.8e-2 * sqrt(kev) + 6.3e-2);
}

double *cooling_make(void) {
    double *cooling = sagemem_alloc_array(NULL, COOLING_ENTRIES, sizeof *cooling, TAG_COOLING);
    for (int i = 0; cooling && i < COOLING_ENTRIES; i++)
        cooling[i] = log10(cooling_fit(pow(10, cooling_floor + (double)i / COOLING_PER_DEX)));
    return cooling;
}

/* Between two entries a power law; 0 below the table, its end above. */
static double cooling_at(const double *cooling, double kelvin) {
    double at = (log10(kelvin) - cooling_floor) * COOLING_PER_DEX;
    if (at < 0) return 0;
    at = fmin(at, COOLING_ENTRIES - 1.001);
    int i = (int)at;
    return pow(10, cooling[i] + (at - i) * (cooling[i + 1] - cooling[i]));
}

/* The black hole takes from the hot gas, and what that sets free keeps other gas from cooling (C06, the radio
 * mode). Returns the part of `cooled` that is left. */
static double heat_by_black_hole(struct galaxy *galaxy, double cooled, double time) {
    double mass = galaxy->black_hole * 100 / hubble_parameter; /* in 1e8 Msun */
    double hot_fraction = galaxy->hot / galaxy->m_vir;
    double rate = radio_efficiency / msun_per_year_by_rate * mass * (hot_fraction / 0.1) * pow(galaxy->v_vir / 200, 3);
    double heated_by_accreted = 2 * radiated_fraction * pow(speed_of_light / galaxy->v_vir, 2);
    double accreted = fmin(rate * time, cooled / heated_by_accreted);
    return cooled - heated_by_accreted * move(&galaxy->hot, &galaxy->black_hole, accreted);
}

/* An isothermal sphere of hot gas cools from within (White & Frenk 1991; C06). */
void galaxy_cool(struct galaxy *central, const double *cooling, double time) {
    if (central->hot <= 0) return;
    double kelvin = 35.9 * central->v_vir * central->v_vir;
    double lambda = cooling_at(cooling, kelvin);
    if (lambda <= 0) return;
    double dynamical_time = central->r_vir / central->v_vir;
    /* Density times cooling time: 3/2 mu m_p k T / lambda with mu = 0.59. Our units are 6.77e-31 h^2 g/cm^3 and
     * 3.0857e19 s/h. */
    double density_time = 0.885 * 1.6726e-24 * 1.3807e-16 * kelvin / lambda; /* g s/cm^3 */
    density_time /= 6.7699e-31 * 3.0857e19 * hubble_parameter;
    double radius = sqrt(central->hot / (4 * pi * central->r_vir) * dynamical_time / density_time);
    double rate = radius < central->r_vir ? 0.5 * central->hot * radius / central->r_vir : central->hot;
    double cooled = fmin(rate / dynamical_time * time, central->hot);
    move(&central->hot, &central->cold, heat_by_black_hole(central, cooled, time));
}

/* -- Mergers ------------------------------------------------------------------------------------------------ */

/* Time until dynamical friction brings a satellite in: Binney & Tremaine 1987, eq. 7-26. Positions may lie on both
 * sides of a periodic box; a satellite is within the virial radius. */
double friction_time(const struct galaxy *satellite, const struct galaxy *host, double scale_factor) {
    double square = 0;
    for (int i = 0; i < 3; i++) square += pow((double)satellite->pos[i] - (double)host->pos[i], 2);
    double radius = fmin(sqrt(square) * scale_factor, host->r_vir);
    double mass = particles_mass(satellite->len);
    return 1.17 * host->v_vir * radius * radius / (gravity * mass * log(1 + host->m_vir / mass));
}

double merger_ratio(const struct galaxy *a, const struct galaxy *b) {
    double mass_a = a->stars + a->cold, mass_b = b->stars + b->cold;
    double larger = fmax(mass_a, mass_b);
    return larger > 0 ? fmin(mass_a, mass_b) / larger : 1;
}

/* Gas feeds the black hole (Kauffmann & Haehnelt 2000, MNRAS 311, 576; C06) and bursts into stars (Somerville,
 * Primack & Faber 2001, MNRAS 320, 504). The satellite's stars join the bulge; a major merger leaves nothing else.
 * Of hot gas the satellite has none: it was stripped. */
void galaxy_merge(struct galaxy *satellite, struct galaxy *host, struct galaxy *central, double ratio, int bin) {
    host->star_formation += satellite->star_formation;
    host->bulge += move(&satellite->stars, &host->stars, satellite->stars);
    for (int i = 0; i < HISTORY_BINS; i++)
        move(&satellite->history->formed[i], &host->history->formed[i], satellite->history->formed[i]);
    move(&satellite->black_hole, &host->black_hole, satellite->black_hole);
    move(&satellite->cold, &host->cold, satellite->cold);

    double fed = quasar_efficiency * ratio / (1 + pow(280 / host->v_vir, 2)) * host->cold;
    move(&host->cold, &host->black_hole, fed);
    host->bulge += make_stars(host, central, 0.56 * pow(ratio, 0.7) * host->cold, bin);
    if (ratio >= major_merger) host->bulge = host->stars;
}
