/* The C side of stacks. See host.c. */
#include "fixture.h"

IMPORT void host_stacks(void);
IMPORT void host_flags(void);

EXPORT void c_calls_host_stacks(void)
{
    BUSY_RBP();
    host_stacks();
    RBP_KEPT();
}

EXPORT void c_calls_host_flags(void)
{
    BUSY_RBP();
    host_flags();
    RBP_KEPT();
}
