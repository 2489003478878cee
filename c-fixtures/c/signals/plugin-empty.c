/* A library to open and close. See host.c. */
#include "fixture.h"

EXPORT int plugin_empty(void)
{
    return 0;
}
