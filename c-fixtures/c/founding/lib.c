/* The C side of the founding program, built without frame pointers. See host.c. */
#include "fixture.h"
#include <pthread.h>

IMPORT void host_called_from_c(void);
IMPORT void host_called_from_c_thread(void);

FRAME void c_step(void)
{
    BUSY_RBP();
    host_called_from_c();
    RBP_KEPT();
}

FRAME void c_thread_step(void)
{
    BUSY_RBP();
    host_called_from_c_thread();
    RBP_KEPT();
}

FRAME void *c_thread(void *argument)
{
    c_thread_step();
    STAY();
    return argument;
}

EXPORT void c_called_from_host(void)
{
    pthread_t thread;
    char token;
    void *result = NULL;
    c_step();
    CHECK(pthread_create(&thread, NULL, c_thread, &token) == 0);
    CHECK(pthread_join(thread, &result) == 0);
    CHECK(result == &token);
}
