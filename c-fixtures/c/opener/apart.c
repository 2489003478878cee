/* A library of opener for a namespace of its own, where the host is not. */
#include "fixture.h"
#include <dlfcn.h>

EXPORT int apart_run(int (*callback)(int))
{
    int result = callback(20);
    STAY();
    return result;
}

/* By this namespace's own dlclose, which nobody outside sees. */
EXPORT int apart_close(void *library)
{
    int result = dlclose(library);
    STAY();
    return result;
}
