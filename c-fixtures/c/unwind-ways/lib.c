/* The C side of unwind-ways. See host.c. */
#include "fixture.h"
#include <pthread.h>

IMPORT void host_plain(void);
IMPORT void host_jumps(void);
IMPORT void host_nests(void);
IMPORT void host_exits(void);
IMPORT void host_cancels_itself(void);
IMPORT void host_waits(void);

EXPORT void c_calls_host_plain(void)
{
    BUSY_RBP();
    host_plain();
    RBP_KEPT();
}

EXPORT void c_calls_host_jumps(void)
{
    BUSY_RBP();
    host_jumps();
    RBP_KEPT();
}

EXPORT void c_calls_host_nests(void)
{
    BUSY_RBP();
    host_nests();
    RBP_KEPT();
}

FRAME void *thread_exits(void *argument)
{
    host_exits();
    STAY();
    return argument;
}

FRAME void *thread_cancels_itself(void *argument)
{
    host_cancels_itself();
    STAY();
    return argument;
}

FRAME void *thread_waits(void *argument)
{
    host_waits();
    STAY();
    return argument;
}

FRAME void cleanup(void *argument)
{
    (void)argument;
    host_plain();
    STAY();
}

FRAME void *thread_with_cleanup(void *argument)
{
    pthread_cleanup_push(cleanup, NULL);
    host_exits();
    pthread_cleanup_pop(0);
    return argument;
}

FRAME void make_and_join(void *(*start)(void *), void **result)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, start, NULL) == 0);
    CHECK(pthread_join(thread, result) == 0);
}

EXPORT void c_makes_thread_that_exits(void **result)
{
    make_and_join(thread_exits, result);
    STAY();
}

EXPORT void c_makes_thread_that_cancels_itself(void **result)
{
    make_and_join(thread_cancels_itself, result);
    STAY();
}

EXPORT void c_makes_thread_with_cleanup(void **result)
{
    make_and_join(thread_with_cleanup, result);
    STAY();
}

EXPORT void c_makes_thread_that_waits(pthread_t *thread)
{
    CHECK(pthread_create(thread, NULL, thread_waits, NULL) == 0);
}
