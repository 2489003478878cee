/* The C side of wide. See host.c. */
#include "wide.h"
#include <pthread.h>

IMPORT long host_wide(long a, struct many many, long b);
IMPORT long host_wide_aligned(long a, long b, long c, long d, long e, long f, long g, struct aligned_many many, long h);
IMPORT long host_wide_outer(struct many many, long seed);

static void fill(long *v, int n, long seed)
{
    for (int i = 0; i < n; i++)
        v[i] = seed * (i + 3) + i;
}

EXPORT long c_wide_inner(long seed)
{
    struct many many;
    fill(many.v, 250, seed);
    long got = host_wide(seed, many, 2 * seed);
    CHECK(got == seed + sum_of(many.v, 250) + 2 * seed);
    return got;
}

EXPORT void c_wide(const char *where)
{
    struct many many;
    struct aligned_many aligned;
    long inner = c_wide_inner(7);
    fill(aligned.v, 200, 11);
    long got = host_wide_aligned(1, 2, 3, 4, 5, 6, 7, aligned, 8);
    CHECK(got == 36 + sum_of(aligned.v, 200));
    fill(many.v, 250, 13);
    CHECK(host_wide_outer(many, 7) == sum_of(many.v, 250) + inner);
    printf("%s: %ld %ld\n", where, inner, got);
}

static void *c_on_small_stack(void *unused)
{
    c_wide("a small stack");
    return unused;
}

EXPORT void c_wide_on_small_stack(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    CHECK(pthread_attr_setstacksize(&attributes, 32 << 10) == 0);
    CHECK(pthread_create(&thread, &attributes, c_on_small_stack, NULL) == 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
}
