/* The C side of tables. See host.c. */
#include "fixture.h"

IMPORT int host_first(int x);
IMPORT int host_second(int x);
IMPORT int host_third(int x);
IMPORT int host_by_address(int x);
IMPORT int host_by_call(int x);
IMPORT int host_tail(int x);
IMPORT int host_compared(int x);
IMPORT int host_jumped_to(int x);

struct operation {
    const char *name;
    int (*function)(int);
};

static const struct operation operations[] = {
    {"first", host_first},
    {"second", host_second},
    {"third", host_third},
};

EXPORT int c_tables(void)
{
    int (*volatile by_address)(int) = host_by_address;
    const struct operation *volatile table = operations;
    int sum = 0;
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        int result = table[i].function(0);
        printf("%s %d\n", table[i].name, result);
        sum += result;
    }
    sum += by_address(0);
    sum += host_by_call(0);
    STAY();
    return sum;
}

static int (*const volatile tail[])(int) = {host_tail, host_jumped_to};

EXPORT int c_tail(int x)
{
    return tail[0](x);
}

EXPORT int c_jumps(int x)
{
    return host_jumped_to(x);
}

EXPORT int c_is_host_compared(int (*function)(int))
{
    int same = function == host_compared;
    CHECK(function(3) == 3);
    return same;
}
