/* The C side of maps. See host.c. */
#include "fixture.h"

IMPORT int host_by_slot(int x);
IMPORT int host_by_table(int x);

static int (*const volatile table[])(int) = {host_by_table};

EXPORT int c_calls(int (*handed_over)(int))
{
    return host_by_slot(0) + table[0](0) + handed_over(0);
}
