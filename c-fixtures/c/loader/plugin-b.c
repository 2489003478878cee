/* The other plugin of loader: its frames differ in size and number from those of plugin-a.c. See host.c. */
#define _GNU_SOURCE
#include "fixture.h"
#include <dlfcn.h>

IMPORT void host_loader(const char *what);

__attribute__((constructor)) static void constructor(void)
{
    char room[200];
    snprintf(room, sizeof room, "%c constructor", 'b');
    host_loader(room);
    STAY();
}

__attribute__((destructor)) static void destructor(void)
{
    char room[120];
    snprintf(room, sizeof room, "%c destructor", 'b');
    host_loader(room);
    STAY();
}

FRAME void plugin_step(void)
{
    char room[72];
    snprintf(room, sizeof room, "%c run", 'b');
    host_loader(room);
    STAY();
}

FRAME void plugin_detour(void)
{
    BUSY_RBP();
    plugin_step();
    RBP_KEPT();
}

EXPORT void plugin_run(void)
{
    void (*by_name)(const char *) = NULL;
    plugin_detour();
    *(void **)&by_name = dlsym(RTLD_DEFAULT, "host_loader_by_name");
    CHECK(by_name);
    by_name("b by name");
    STAY();
}
