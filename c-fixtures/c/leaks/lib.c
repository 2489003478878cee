/* The C side of leaks. See host.c. */
#include "fixture.h"
#include <pthread.h>

IMPORT void host_leaks(void);

static void *c_thread(void *unused)
{
    host_leaks();
    STAY();
    return unused;
}

EXPORT void c_thread_once(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, c_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}
