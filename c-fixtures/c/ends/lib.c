/* The C side of ends. See host.c. */
#include "fixture.h"
#include <pthread.h>

IMPORT void host_ends(const char *when);
IMPORT void host_leaves(void);
IMPORT void host_busy(void);
IMPORT int host_is_late(void);

EXPORT void c_calls_host_ends(const char *when)
{
    BUSY_RBP();
    host_ends(when);
    RBP_KEPT();
}

EXPORT void c_calls_host_leaves(void)
{
    host_leaves();
    STAY();
}

FRAME void *is_busy(void *argument)
{
    for (;;)
        host_busy();
    return argument;
}

EXPORT void c_makes_busy_threads(int count)
{
    for (int i = 0; i < count; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, is_busy, NULL) == 0);
        CHECK(pthread_detach(thread) == 0);
    }
}

FRAME void *calls_back(void *when)
{
    host_ends(when);
    STAY();
    return NULL;
}

EXPORT void c_makes_thread(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, calls_back, "thread") == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* After all exit handlers. */
__attribute__((destructor)) static void calls_late(void)
{
    while (host_is_late())
        ;
}
