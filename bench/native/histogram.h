/* A log-linear histogram: 128 steps an octave, so that a percentile is exact to 0.8 %, whatever its size. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define STEPS 128
#define OCTAVES 40

struct histogram {
    uint64_t count;
    int64_t max;
    double sum;
    uint32_t bucket[STEPS * OCTAVES];
};

static inline void histogram_clear(struct histogram *h) { memset(h, 0, sizeof *h); }

static inline void histogram_add(struct histogram *h, int64_t ns) {
    if (ns < 0) ns = 0;
    int shift = ns < STEPS ? 0 : 63 - __builtin_clzll((uint64_t)ns) - 7;
    int index = ns < STEPS ? (int)ns : (shift + 1) * STEPS + (int)((ns >> shift) - STEPS);
    if (index >= STEPS * OCTAVES) index = STEPS * OCTAVES - 1;
    h->bucket[index]++;
    h->count++;
    h->sum += (double)ns;
    if (ns > h->max) h->max = ns;
}

/* The value, in ns, that the share `q` of all values does not exceed. */
static inline double histogram_at(const struct histogram *h, double q) {
    uint64_t rank = (uint64_t)(q * (double)h->count), seen = 0;
    for (int i = 0; i < STEPS * OCTAVES; i++) {
        seen += h->bucket[i];
        if (seen <= rank || !h->bucket[i]) continue;
        int shift = i < STEPS ? 0 : i / STEPS - 1;
        double value = i < STEPS ? i : ((double)(i % STEPS + STEPS) + 0.5) * (double)(INT64_C(1) << shift);
        return value < (double)h->max ? value : (double)h->max;
    }
    return (double)h->max;
}

static inline void histogram_print(const struct histogram *h, const char *name) {
    printf("\"%s\":{\"count\":%llu,\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}",
           name, (unsigned long long)h->count, h->count ? h->sum / (double)h->count / 1e3 : 0.0,
           histogram_at(h, .5) / 1e3, histogram_at(h, .9) / 1e3, histogram_at(h, .99) / 1e3,
           histogram_at(h, .999) / 1e3, (double)h->max / 1e3);
}

#endif
