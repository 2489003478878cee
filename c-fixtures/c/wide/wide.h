/* What host.c and lib.c of wide agree on. */
#include "fixture.h"
#include <stdint.h>

struct many {
    long v[250];
};

struct aligned_many {
    __attribute__((aligned(64))) long v[200];
};

/* Each result tells all words of its arguments. */
static inline long sum_of(const long *v, int n)
{
    long sum = 0;
    for (int i = 0; i < n; i++)
        sum += v[i] * (i + 1);
    return sum;
}
