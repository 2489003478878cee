/* A library of opener that is opened with RTLD_DEEPBIND: its own dependencies come first for it, and so libc's
 * functions before what anybody puts in front of them. */
#define _GNU_SOURCE
#include "opener.h"
#include <pthread.h>
#include <string.h>

static void *deep_thread(void *unused)
{
    host_called("deep thread");
    return unused;
}

__attribute__((constructor)) static void constructor(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, deep_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

EXPORT void deep_run(void)
{
    void (*found)(const char *) = NULL;
    *(void **)&found = dlsym(RTLD_DEFAULT, "host_called");
    CHECK(found);
    found("deep by name");
    Dl_info info = {0};
    CHECK(dladdr((void *)found, &info));
    printf("what was found is %s in %s\n", info.dli_sname, strrchr(info.dli_fname, '/') + 1);
    void *leaf = open_library("$ORIGIN/opener-one/opener-leaf.so", RTLD_LAZY);
    CHECK(leaf && dlclose(leaf) == 0);
}
