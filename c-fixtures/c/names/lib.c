/* The C side of names. See host.c. */
#include "fixture.h"
#include <pthread.h>

EXPORT void c_runs(void *(*start)(void *))
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, start, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}
