/* Random numbers that are the same on every machine: xoshiro256** (Blackman & Vigna 2021, ACM Trans. Math. Softw. 47, 36;
 * public domain at prng.di.unimi.it), its state filled by SplitMix64 (Steele, Lea & Flood 2014, OOPSLA), as its authors
 * advise. */
#ifndef RANDOM_H
#define RANDOM_H

#include <stdint.h>

struct random {
    uint64_t state[4];
};

static inline uint64_t splitmix64(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Each stream of a seed has numbers of its own. */
static inline struct random random_start(uint64_t seed, uint64_t stream) {
    struct random random;
    uint64_t state = splitmix64(&seed) ^ stream;
    for (int i = 0; i < 4; i++) random.state[i] = splitmix64(&state);
    return random;
}

static inline uint64_t rotated_left(uint64_t x, int bits) { return (x << bits) | (x >> (64 - bits)); }

static inline uint64_t random_64(struct random *random) {
    uint64_t *s = random->state;
    uint64_t result = rotated_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotated_left(s[3], 45);
    return result;
}

static inline uint32_t random_32(struct random *random) { return (uint32_t)(random_64(random) >> 32); }

/* From 0 to bound - 1, evenly but for one part in 2^32 / bound. */
static inline int64_t random_below(struct random *random, uint32_t bound) {
    return (int64_t)((uint64_t)random_32(random) * bound >> 32);
}

#endif
