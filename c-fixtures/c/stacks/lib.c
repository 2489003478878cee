/* The C side of stacks. See host.c. */
#include "fixture.h"

IMPORT void host_stacks(void);
IMPORT void host_flags(void);
IMPORT void host_clones(void);

EXPORT void c_calls_host_stacks(void)
{
    BUSY_RBP();
    host_stacks();
    RBP_KEPT();
}

/* From a frame of its own that is larger than a copy of a stack of which nobody knows the bounds. */
EXPORT void c_calls_from_large_frame(void)
{
    volatile char large[48 << 10];
    large[0] = 0;
    host_stacks();
    large[1] = large[0];
}

EXPORT void c_calls_host_flags(void)
{
    BUSY_RBP();
    host_flags();
    RBP_KEPT();
}

/* Runs as a clone: nothing of libc's may be used. */
EXPORT int c_calls_host_clones(void *argument)
{
    for (int i = 0; i < 2500; i++)
        host_clones();
    return argument != NULL;
}
