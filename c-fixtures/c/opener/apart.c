/* A library of opener for a namespace of its own, where the host is not. */
#include "fixture.h"

EXPORT int apart_run(int (*callback)(int))
{
    int result = callback(20);
    STAY();
    return result;
}
