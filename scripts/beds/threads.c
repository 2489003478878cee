/* Threads, and with an argument one write behind a block of memory. For scripts/beds.sh, which builds it with sanitizers. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static void *writes(void *at)
{
    char *volatile block = malloc(10);
    block[(size_t)at] = 1;
    free(block);
    return at;
}

int main(int argc, char **argv)
{
    (void)argv;
    for (size_t i = 0; i < 20; i++) {
        pthread_t thread;
        void *result = NULL;
        if (pthread_create(&thread, NULL, writes, (void *)(argc > 1 ? i : i % 10)) != 0 || pthread_join(thread, &result) != 0)
            return 2;
        printf("%zu\n", (size_t)result);
    }
    return 0;
}
