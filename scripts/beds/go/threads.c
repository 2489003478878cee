#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include "_cgo_export.h"

enum { THREADS = 5 };

static void *calls_back(void *number)
{
    goCallback((int)(intptr_t)number);
    return NULL;
}

void makes_threads(void)
{
    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, calls_back, (void *)i) != 0)
            abort();
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static int compare(const void *a, const void *b)
{
    return goCompare(*(const int *)a, *(const int *)b);
}

void sorts(int *numbers, int count)
{
    qsort(numbers, (size_t)count, sizeof *numbers, compare);
}
