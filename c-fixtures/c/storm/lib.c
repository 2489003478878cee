/* The C side of storm. See host.c. */
#include "fixture.h"
#include <pthread.h>

#define AT_ONCE 8

IMPORT void host_storm(void);

EXPORT void c_storm_calls_back(void)
{
    BUSY_RBP();
    host_storm();
    RBP_KEPT();
}

FRAME void *c_storm_thread(void *argument)
{
    c_storm_calls_back();
    STAY();
    return argument;
}

EXPORT void c_storm(int threads)
{
    pthread_t alive[AT_ONCE];
    for (int made = 0; made < threads;) {
        int batch = 0;
        for (; batch < AT_ONCE && made < threads; batch++, made++)
            CHECK(pthread_create(&alive[batch], NULL, c_storm_thread, NULL) == 0);
        while (batch-- > 0)
            CHECK(pthread_join(alive[batch], NULL) == 0);
    }
}
