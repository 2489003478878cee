/* The C side of sandbox. See host.c. */
#include "fixture.h"
#include <pthread.h>

IMPORT void host_sandbox(void);

EXPORT void c_calls_host_sandbox(void)
{
    BUSY_RBP();
    host_sandbox();
    RBP_KEPT();
}

FRAME void *calls_back(void *argument)
{
    host_sandbox();
    STAY();
    return argument;
}

EXPORT void c_makes_thread(const pthread_attr_t *attributes)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, attributes, calls_back, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}
