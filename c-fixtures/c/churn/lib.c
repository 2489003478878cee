/* The C library of churn, which is there from the start. See host.c. */
#include "fixture.h"

IMPORT void host_steady(void);

EXPORT void c_steady(void)
{
    host_steady();
    STAY();
}
