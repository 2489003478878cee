/* A library of versions that calls its host. See host.c. */
#define _GNU_SOURCE
#include "fixture.h"
#include <dlfcn.h>

IMPORT int version(void);
#ifdef OWN
EXPORT int which(void) { return 2; }
#else
IMPORT int which(void);
#endif

static int call(void *found)
{
    int (*function)(void) = NULL;
    CHECK(found);
    *(void **)&function = found;
    return function();
}

EXPORT int client_run(void)
{
    int by_slot = 10 * version() + which();
    STAY();
    return by_slot;
}

/* Both versions, looked up: 12 twice. */
EXPORT int client_look_up(void *handle)
{
    int by_default = 10 * call(dlvsym(RTLD_DEFAULT, "version", "V1")) + call(dlsym(RTLD_DEFAULT, "version"));
    int by_handle = 10 * call(dlvsym(handle, "version", "V1")) + call(dlsym(handle, "version"));
    CHECK(!dlvsym(handle, "version", "V3"));
    CHECK(dlerror());
    return 100 * by_default + by_handle;
}
