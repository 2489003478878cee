/* The library that leaks opens. See host.c. */
#include "fixture.h"

IMPORT void host_leaks(void);

EXPORT void plugin_run(void)
{
    host_leaks();
    STAY();
}
