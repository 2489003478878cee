/* The C side of parallel. See host.c. */
#include "fixture.h"
#include <pthread.h>

IMPORT int host_parallel(int thread, int number);

static pthread_barrier_t all_are_here;
static int count_each;

FRAME void *c_parallel_thread(void *argument)
{
    int thread = *(int *)argument;
    pthread_barrier_wait(&all_are_here);
    for (int number = 0; number < count_each; number++)
        CHECK(host_parallel(thread, number) == thread + number);
    return NULL;
}

EXPORT void c_parallel(int threads, int count)
{
    pthread_t *made = calloc((size_t)threads, sizeof *made);
    int *numbers = calloc((size_t)threads, sizeof *numbers);
    CHECK(made && numbers);
    count_each = count;
    CHECK(pthread_barrier_init(&all_are_here, NULL, (unsigned)threads) == 0);
    for (int i = 0; i < threads; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&made[i], NULL, c_parallel_thread, &numbers[i]) == 0);
    }
    for (int i = 0; i < threads; i++)
        CHECK(pthread_join(made[i], NULL) == 0);
    pthread_barrier_destroy(&all_are_here);
    free(numbers);
    free(made);
}
