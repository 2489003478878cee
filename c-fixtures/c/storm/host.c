/* Many short-lived threads: N made by C, then N made by the host (argument, default 200), eight alive at a time. Each
 * thread of either kind calls back once from C.
 *
 * Events:
 *   2N thread_birth   N with origin c, start_routine c_storm_thread, stack c_storm, main, ...;
 *                     N with origin host, start_routine host_storm_thread, stack host_makes_threads, main, ...
 *   2N thread_start and thread_exit, with the same origins
 *   2N callback_enter/exit of host_storm, depth 1, how return
 */
#include "fixture.h"
#include <pthread.h>
#include <stdatomic.h>

#define AT_ONCE 8

IMPORT void c_storm(int threads);
IMPORT void c_storm_calls_back(void);

static atomic_int callbacks;

EXPORT void host_storm(void)
{
    atomic_fetch_add(&callbacks, 1);
}

FRAME void *host_storm_thread(void *argument)
{
    c_storm_calls_back();
    STAY();
    return argument;
}

FRAME void host_makes_threads(int threads)
{
    pthread_t alive[AT_ONCE];
    for (int made = 0; made < threads;) {
        int batch = 0;
        for (; batch < AT_ONCE && made < threads; batch++, made++)
            CHECK(pthread_create(&alive[batch], NULL, host_storm_thread, NULL) == 0);
        while (batch-- > 0)
            CHECK(pthread_join(alive[batch], NULL) == 0);
    }
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 200;
    c_storm(threads);
    printf("%d callbacks on threads that C made\n", atomic_exchange(&callbacks, 0));
    host_makes_threads(threads);
    printf("%d callbacks on threads that the host made\n", atomic_load(&callbacks));
    return 0;
}
