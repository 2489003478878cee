/* A library of churn that is opened and closed again and again. See host.c. */
#include "fixture.h"

IMPORT void host_from_leaf(void);
IMPORT void host_opens(const char *file);

__attribute__((constructor)) static void constructor(void)
{
    host_from_leaf();
    STAY();
}

__attribute__((destructor)) static void destructor(void)
{
    host_from_leaf();
    STAY();
}

EXPORT void leaf_run(const char *another)
{
    char room[SIZE];
    room[SIZE - 1] = 0;
    __asm__ __volatile__("" : : "r"(room) : "memory");
    if (another)
        host_opens(another);
    else
        host_from_leaf();
    STAY();
}
