/* The C side of nested. See host.c. */
#include "fixture.h"

IMPORT int host_nested(int depth);

EXPORT int c_nested(int depth)
{
    BUSY_RBP();
    int sum = host_nested(depth);
    RBP_KEPT();
    return sum;
}
