/* What host.c and lib.c of wide agree on. */
#include "fixture.h"
#include <stdarg.h>
#include <stdint.h>

/* Each result tells all words of its arguments. */
static inline long sum_of(const long *v, int n)
{
    long sum = 0;
    for (int i = 0; i < n; i++)
        sum += v[i] * (i + 1);
    return sum;
}

static inline void fill(long *v, int n, long seed)
{
    for (int i = 0; i < n; i++)
        v[i] = seed * (i + 3) + i;
}

/* The number of words, and how a function of the host gets at them: it walks over the structure, it takes some words
 * of it, it copies it, it passes it on to another module's function, or it jumps there. */
#define SIZES(OF) OF(31) OF(32) OF(33) OF(250) OF(512) OF(8750)

#define DECLARE(words)                                                                                                 \
    struct many##words {                                                                                              \
        long v[words];                                                                                                 \
    };                                                                                                                 \
    IMPORT long host_walks_##words(long, struct many##words, long);                                                   \
    IMPORT long host_takes_##words(struct many##words);                                                               \
    IMPORT long host_copies_##words(struct many##words, long);                                                        \
    IMPORT long host_passes_on_##words(struct many##words);                                                           \
    IMPORT long host_jumps_##words(struct many##words);                                                                \
    IMPORT long host_is_jumped_to_##words(struct many##words);                                                         \
    IMPORT long c_takes_##words(struct many##words);
SIZES(DECLARE)

struct aligned_many {
    __attribute__((aligned(64))) long v[200];
};

IMPORT long host_aligned(long a, long b, long c, long d, long e, long f, long g, struct aligned_many many, long h);
IMPORT long host_outer(struct many250 many, long seed);
IMPORT long host_adds(int n, ...);
IMPORT long host_adds_list(int n, va_list);
IMPORT long host_picks(int n, long, long, long, long, long, struct many250 many);
