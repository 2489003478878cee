/* The C side of signals. See host.c. */
#include "fixture.h"
#include "firsts.h"
#include <pthread.h>

IMPORT void host_counts(void);
IMPORT void host_handles(void);

EXPORT void c_calls_host_handles(void)
{
    BUSY_RBP();
    host_handles();
    RBP_KEPT();
}

EXPORT void c_calls_host_counts(void)
{
    BUSY_RBP();
    host_counts();
    RBP_KEPT();
}

/* From `depth` frames further in: a stack for each depth. */
EXPORT void c_calls_from_depth(int depth)
{
    if (depth > 0)
        c_calls_from_depth(depth - 1);
    else
        host_counts();
    STAY();
}

FRAME void *thread_calls_back(void *argument)
{
    host_counts();
    STAY();
    return argument;
}

EXPORT void c_makes_thread(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, thread_calls_back, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

#define DECLARED(n) IMPORT void host_first_##n(void);
#define CALLED(n)                                                                                                      \
    case 0x##n:                                                                                                        \
        host_first_##n();                                                                                              \
        break;

FIRSTS(DECLARED)

EXPORT void c_calls_first(int n)
{
    switch (n) {
        FIRSTS(CALLED)
    }
    STAY();
}
