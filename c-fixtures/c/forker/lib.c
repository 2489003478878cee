/* The C side of forker. See host.c. */
#include "fixture.h"
#include <pthread.h>

IMPORT void host_forker(const char *who);
IMPORT void host_forks(void);

EXPORT void c_calls_back(const char *who)
{
    BUSY_RBP();
    host_forker(who);
    RBP_KEPT();
}

EXPORT void c_calls_host_forks(void)
{
    BUSY_RBP();
    host_forks();
    RBP_KEPT();
}

FRAME void *calls_back_thread(void *who)
{
    c_calls_back(who);
    STAY();
    return NULL;
}

EXPORT void c_calls_back_on_thread(const char *who)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, calls_back_thread, (void *)who) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}
