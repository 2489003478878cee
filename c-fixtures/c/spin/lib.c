/* The C side of spin. See host.c. */
#include "fixture.h"
#include <pthread.h>
#include <stdint.h>

IMPORT int host_spin(int thread, uint64_t number);

static volatile uint64_t *progress_of_all;

FRAME void *c_spin_thread(void *argument)
{
    int thread = (int)(intptr_t)argument;
    uint64_t number = 0;
    int go_on = 1;
    while (go_on) {
        go_on = host_spin(thread, number);
        number++;
        __atomic_store_n(&progress_of_all[thread], number, __ATOMIC_RELEASE);
    }
    return NULL;
}

EXPORT void c_spin(int threads, volatile uint64_t *progress)
{
    pthread_t *made = calloc((size_t)threads, sizeof *made);
    CHECK(made);
    progress_of_all = progress;
    for (int i = 0; i < threads; i++)
        CHECK(pthread_create(&made[i], NULL, c_spin_thread, (void *)(intptr_t)i) == 0);
    for (int i = 0; i < threads; i++)
        CHECK(pthread_join(made[i], NULL) == 0);
    free(made);
}
