/* The C side of hand-over. See host.c. */
#define _GNU_SOURCE
#include "fixture.h"
#include <dlfcn.h>

typedef int (*callback)(int);

static callback callbacks[4];

EXPORT void c_register(int place, callback function)
{
    callbacks[place] = function;
}

EXPORT callback c_registered(int place)
{
    return callbacks[place];
}

EXPORT int c_fire(int place, int argument)
{
    int result = callbacks[place](argument);
    STAY();
    return result;
}

EXPORT int c_are_same(int a, int b)
{
    return callbacks[a] == callbacks[b];
}

EXPORT void c_sort_looked_up(int *values, size_t count, int (*compare)(const void *, const void *, void *))
{
    void (*sort)(void *, size_t, size_t, int (*)(const void *, const void *, void *), void *);
    *(void **)&sort = dlsym(RTLD_DEFAULT, "qsort_r");
    int calls = 0;
    sort(values, count, sizeof *values, compare, &calls);
    CHECK(calls > 0);
}
