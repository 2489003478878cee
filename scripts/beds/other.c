/* A library that stands before the same functions as the shim, for scripts/beds.sh. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (real == NULL)
        real = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(RTLD_NEXT, "pthread_create");
    return real(thread, attributes, start, argument);
}

void *malloc(size_t size)
{
    static void *(*real)(size_t);
    if (real == NULL)
        real = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
    return real(size);
}
