/* The C side of live. See host.c. */
#include "live.h"

#define CALL(n) CHECK(host_live_##n(x) == 2 * x + n);

EXPORT void c_calls(long x)
{
    FUNCTIONS(CALL)
}
