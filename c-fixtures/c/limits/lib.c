/* The C side of limits. See host.c. */
#include "fixture.h"
#include <pthread.h>

IMPORT void host_limits(void);

EXPORT void c_calls_host_limits(void)
{
    BUSY_RBP();
    host_limits();
    RBP_KEPT();
}

FRAME void *calls_back(void *argument)
{
    host_limits();
    STAY();
    return argument;
}

/* 0, or the error. */
EXPORT int c_makes_thread(void)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, calls_back, NULL);
    return error != 0 ? error : pthread_join(thread, NULL);
}
