/* A plugin of loader. See host.c. */
#define _GNU_SOURCE
#include "fixture.h"
#include <dlfcn.h>

IMPORT void host_loader(const char *what);

__attribute__((constructor)) static void constructor(void)
{
    host_loader("a constructor");
    STAY();
}

__attribute__((destructor)) static void destructor(void)
{
    host_loader("a destructor");
    STAY();
}

FRAME void plugin_step(void)
{
    BUSY_RBP();
    host_loader("a run");
    RBP_KEPT();
}

EXPORT void plugin_run(void)
{
    void (*by_name)(const char *) = NULL;
    plugin_step();
    *(void **)&by_name = dlsym(RTLD_DEFAULT, "host_loader_by_name");
    CHECK(by_name);
    by_name("a by name");
    STAY();
}
