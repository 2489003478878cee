/* The C side of register. See host.c. */
#include <stdarg.h>

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

EXPORT int c_register_far(long a, int (*near)(int), long c, long d, long e, long f, int (*far)(int),
                          int (*farther)(int), long i)
{
    CHECK(a == 1 && c == 3 && d == 4 && e == 5 && f == 6 && i == 9);
    int result = near(100);
    result += far(200);
    result += farther(300);
    return result;
}

/* As libcurl has it: the option says what the argument is. Called with it at once. */
EXPORT int c_set(int option, ...)
{
    va_list arguments;
    va_start(arguments, option);
    int (*callback)(int) = va_arg(arguments, int (*)(int));
    va_end(arguments);
    int result = callback(option);
    STAY();
    return result;
}

EXPORT int c_own(int argument)
{
    return argument + 6;
}

/* As libcurl knows its own default among what it was given. */
EXPORT int c_is_own(int place)
{
    return callbacks[place] == c_own;
}
