/* A library of opener that only calls back, from its constructor and from its destructor. */
#include "opener.h"

__attribute__((constructor)) static void constructor(void)
{
    host_called(NAME " constructor");
    STAY();
}

__attribute__((destructor)) static void destructor(void)
{
    host_called(NAME " destructor");
    STAY();
}

EXPORT void leaf_run(void)
{
    host_called(NAME " run");
    STAY();
}
