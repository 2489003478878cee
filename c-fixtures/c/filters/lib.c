/* The C side of filters. See host.c. */
#define _GNU_SOURCE
#include "fixture.h"
#include <errno.h>
#include <pthread.h>

IMPORT void host_filters(void);

EXPORT void c_calls_host_filters(void)
{
    BUSY_RBP();
    host_filters();
    RBP_KEPT();
}

FRAME void *calls_back(void *argument)
{
    host_filters();
    STAY();
    return argument;
}

EXPORT int c_makes_thread(void)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, calls_back, NULL);
    /* Without waiting in the kernel, or not: that must not hang on who is faster. */
    while (error == 0 && pthread_tryjoin_np(thread, NULL) == EBUSY)
        ;
    return error;
}
