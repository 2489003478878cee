/* Several threads call back at once: THREADS (default 4) made by C wait for each other, then call back COUNT (default
 * 1000) times each.
 *
 * Events:
 *   THREADS thread_birth, thread_start, thread_exit   origin c, start_routine c_parallel_thread
 *   THREADS * COUNT callback_enter/exit               host_parallel, depth 1, how return; COUNT on each thread;
 *                                                     stack host_parallel, c_parallel_thread, libc's thread start
 */
#include "fixture.h"
#include <stdatomic.h>

IMPORT void c_parallel(int threads, int count);

static atomic_long callbacks, sum;

EXPORT int host_parallel(int thread, int number)
{
    atomic_fetch_add_explicit(&callbacks, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&sum, number, memory_order_relaxed);
    return thread + number;
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 4;
    int count = argc > 2 ? atoi(argv[2]) : 1000;
    c_parallel(threads, count);
    CHECK(atomic_load(&sum) == (long)threads * count * (count - 1L) / 2);
    printf("%d threads, %ld callbacks\n", threads, atomic_load(&callbacks));
    return 0;
}
