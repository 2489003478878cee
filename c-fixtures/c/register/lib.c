/* The C side of register. See host.c. */
#include "fixture.h"

static int (*callbacks[4])(int);

EXPORT void c_register(int place, int (*callback)(int))
{
    callbacks[place] = callback;
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

EXPORT long c_number(int place)
{
    return (long)callbacks[place];
}
