/* The C side of early. See host.c. */
#include "fixture.h"
#include <pthread.h>

IMPORT void host_early(const char *when);
IMPORT void host_never_leaves(void);

FRAME void *early_thread(void *argument)
{
    host_early("early thread");
    STAY();
    return argument;
}

FRAME void *late_thread(void *argument)
{
    host_never_leaves();
    STAY();
    return argument;
}

FRAME void at_exit(void)
{
    host_early("atexit");
    STAY();
}

__attribute__((constructor)) static void constructor(void)
{
    pthread_t thread;
    CHECK(atexit(at_exit) == 0);
    host_early("constructor");
    CHECK(pthread_create(&thread, NULL, early_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

__attribute__((destructor)) static void destructor(void)
{
    host_early("destructor");
    STAY();
}

EXPORT void c_makes_late_thread(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, late_thread, NULL) == 0);
    CHECK(pthread_detach(thread) == 0);
}
